//! The vendor's lists, entry by entry.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Facility, LeftOut, Memory, Metro, OperatingSystem, Plan, Price, Reason};
use crate::device::cut;

/// Longest slug or code that is used, in bytes: every attempt keeps those of its combination.
const LONGEST_KEY: usize = 100;

/// A facility, and the ids and codes that plans name it and its metro by.
pub(super) struct Parsed {
    pub(super) facility: Facility,
    metro_keys: BTreeSet<String>,
}

/// How an entry is left out: the reason, and its words.
type Refused = (Reason, &'static str);

type Make = fn(&str, Reason, &str) -> LeftOut;

pub(super) fn operating_systems(entries: &[Value], unusable: &mut Vec<LeftOut>) -> Vec<OperatingSystem> {
    let make: Make = |name, reason, words| LeftOut::os(name, reason, words);
    read("slug", "operating system", entries, make, unusable, |slug, entry| {
        let Value::Array(plans) = &entry["provisionable_on"] else {
            return Err((Reason::UnusableEntry, "no list of plans that it can be installed on"));
        };
        Ok(OperatingSystem {
            name: text(entry, "name").unwrap_or_else(|| slug.clone()),
            distro: text(entry, "distro"),
            version: text(entry, "version"),
            provisionable_on: plans.iter().filter_map(|it| word(it).or_else(|| text(it, "slug"))).collect(),
            slug,
        })
    })
}

pub(super) fn facilities(entries: &[Value], unusable: &mut Vec<LeftOut>) -> Vec<Parsed> {
    let make: Make = |name, reason, words| LeftOut::facility(name, reason, words);
    read("code", "facility", entries, make, unusable, |code, entry| {
        let metro = &entry["metro"];
        let metro_code = text(metro, "code").filter(|code| code.len() <= LONGEST_KEY);
        let facility = Facility {
            id: text(entry, "id"),
            name: text(entry, "name").unwrap_or_else(|| code.clone()),
            features: entry["features"].as_array().into_iter().flatten().filter_map(word).collect(),
            metro: metro_code.map(|code| Metro { name: text(metro, "name").unwrap_or_else(|| code.clone()), code }),
            code,
        };
        Ok(Parsed { facility, metro_keys: keys(metro) })
    })
}

pub(super) fn plans(entries: &[Value], facilities: &[Parsed], unusable: &mut Vec<LeftOut>) -> Vec<Plan> {
    let make: Make = |name, reason, words| LeftOut::plan(name, reason, words);
    read("slug", "plan", entries, make, unusable, |slug, entry| {
        if !is_server(entry) {
            return Err((Reason::NotAServer, "not a server"));
        }
        let types = entry["deployment_types"].as_array().map_or(&[][..], Vec::as_slice);
        if !types.is_empty() && !types.iter().any(|it| it == "on_demand") {
            return Err((Reason::NotOnDemand, "not offered on demand"));
        }
        let price = price(&entry["pricing"]).ok_or((Reason::NoPrice, "no hourly price"))?;
        let (places, metros) = (all_keys(&entry["available_in"]), all_keys(&entry["available_in_metros"]));
        let named =
            |place: &Facility| places.contains(&place.code) || place.id.as_ref().is_some_and(|id| places.contains(id));
        Ok(Plan {
            name: text(entry, "name").unwrap_or_else(|| slug.clone()),
            class: text(entry, "class"),
            legacy: entry["legacy"].as_bool().unwrap_or_default(),
            price,
            memory_gb: memory(&entry["specs"]["memory"]),
            cores: cores(&entry["specs"]["cpus"]),
            available_in: facilities
                .iter()
                .filter(|it| named(&it.facility))
                .map(|it| it.facility.code.clone())
                .collect(),
            available_in_metros: facilities
                .iter()
                .filter(|it| !it.metro_keys.is_disjoint(&metros))
                .filter_map(|it| it.facility.metro.as_ref().map(|metro| metro.code.clone()))
                .collect(),
            slug,
        })
    })
}

/// Reads each entry by its name under `key`, sorted by name.
fn read<T>(
    key: &str,
    what: &str,
    entries: &[Value],
    left_out: Make,
    unusable: &mut Vec<LeftOut>,
    parse: impl Fn(String, &Value) -> Result<T, Refused>,
) -> Vec<T> {
    let mut found = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let Some(name) = text(entry, key) else {
            let shown = text(entry, "name").or_else(|| text(entry, "id"));
            let shown = shown.unwrap_or_else(|| format!("{what} {}", index + 1));
            let words = if entry.is_object() { format!("no {key}") } else { "not an object".to_owned() };
            unusable.push(left_out(&shown, Reason::UnusableEntry, &words));
            continue;
        };
        if name.len() > LONGEST_KEY {
            let words = format!("its {key} has more than {LONGEST_KEY} bytes");
            unusable.push(left_out(&cut(&name), Reason::UnusableEntry, &words));
            continue;
        }
        match parse(name.clone(), entry) {
            Err((reason, words)) => unusable.push(left_out(&name, reason, words)),
            Ok(_) if found.contains_key(&name) => {
                unusable.push(left_out(&name, Reason::UnusableEntry, "listed twice, the first one counts"));
            }
            Ok(parsed) => {
                found.insert(name, parsed);
            }
        }
    }
    found.into_values().collect()
}

/// A text that is not empty; a number counts as its digits.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim()).filter(|it| !it.is_empty()).map(str::to_owned),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn text(entry: &Value, key: &str) -> Option<String> {
    word(&entry[key])
}

/// Traffic and storage are among the plans, and storage even has a price for an hour.
fn is_server(entry: &Value) -> bool {
    let specs = &entry["specs"];
    let cpus = specs["cpus"].as_array().is_some_and(|it| !it.is_empty());
    cpus || !specs["memory"].is_null() || entry["line"] == "baremetal"
}

fn price(pricing: &Value) -> Option<Price> {
    ["hour", "hourly"].into_iter().find_map(|key| {
        let price = &pricing[key];
        Price::from_dollars(price.as_f64().or_else(|| price.as_str()?.trim().parse().ok())?)
    })
}

fn memory(memory: &Value) -> Option<Memory> {
    let total = if memory.is_object() { &memory["total"] } else { memory };
    let memory = match total {
        Value::String(text) => Memory::parse(text),
        total => Memory::from_gb(total.as_f64()?),
    };
    memory.filter(|it| it.mb() > 0)
}

/// Cores of all processors; none if it is not known of one of them.
fn cores(cpus: &Value) -> Option<u32> {
    let cpus = cpus.as_array().filter(|it| !it.is_empty())?;
    let total = cpus.iter().try_fold(0_u64, |total, cpu| {
        let each = number(&cpu["cores"]).or_else(|| cores_in(cpu["type"].as_str()?))?;
        let count = if cpu["count"].is_null() { 1 } else { number(&cpu["count"])? };
        total.checked_add(each.checked_mul(count)?)
    })?;
    u32::try_from(total).ok().filter(|it| *it > 0)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// The number in `AMD EPYC 7402P 24-Core Processor @ 2.8GHz`.
fn cores_in(kind: &str) -> Option<u64> {
    let kind = kind.to_ascii_lowercase();
    kind.match_indices("core").find_map(|(end, _)| {
        let before = kind[..end].trim_end_matches(['-', ' ']);
        let start = before.rfind(|it: char| !it.is_ascii_digit()).map_or(0, |at| at + 1);
        before[start..].parse().ok()
    })
}

/// What a reference names: the end of its `href`, its `id` and its `code`, or the text that it is.
fn keys(reference: &Value) -> BTreeSet<String> {
    let href = reference["href"].as_str().or_else(|| reference.as_str()).and_then(last_segment);
    [href, text(reference, "id"), text(reference, "code")].into_iter().flatten().collect()
}

/// `x` of `/facilities/x`, and of `x`.
fn last_segment(href: &str) -> Option<String> {
    let path = href.split(['?', '#']).next()?.trim().trim_end_matches('/');
    path.rsplit('/').next().filter(|it| !it.is_empty()).map(str::to_owned)
}

fn all_keys(references: &Value) -> BTreeSet<String> {
    references.as_array().into_iter().flatten().flat_map(keys).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slug_that_is_longer_than_any_is_left_out_with_the_reason() {
        let entry = |length| json!({ "slug": "s".repeat(length), "provisionable_on": [] });
        let mut unusable = Vec::new();
        let read = operating_systems(&[entry(LONGEST_KEY), entry(LONGEST_KEY + 1)], &mut unusable);
        assert_eq!((read.len(), unusable.len()), (1, 1));
        assert!(unusable[0].text.ends_with("its slug has more than 100 bytes"), "{}", unusable[0].text);
    }
}
