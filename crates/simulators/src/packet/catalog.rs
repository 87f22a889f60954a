//! What can be had: operating systems, plans and facilities, in the vendor's own words.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The catalogue as the vendor's lists have it, entry by entry. Entries may be anything: what lacks
/// a field is listed as it is, and cannot be ordered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// `GET /operating-systems`.
    pub operating_systems: Vec<Value>,
    /// `GET /projects/{project}/plans`.
    pub plans: Vec<Value>,
    /// `GET /projects/{project}/facilities`.
    pub facilities: Vec<Value>,
}

impl Catalog {
    /// The catalogue there is where none is given: 21 operating systems, 25 plans (some of them no
    /// servers, or incomplete) and 13 facilities (one of them without servers).
    pub fn builtin() -> &'static Self {
        static CATALOG: OnceLock<Catalog> = OnceLock::new();
        CATALOG.get_or_init(|| {
            let empty = |_| Self { operating_systems: Vec::new(), plans: Vec::new(), facilities: Vec::new() };
            serde_json::from_str(include_str!("catalog.json")).unwrap_or_else(empty)
        })
    }
}

/// Reads the file of `--catalog`.
///
/// # Errors
/// In words: the file cannot be read, or does not hold the three lists.
pub(super) fn read(path: &str) -> Result<Catalog, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the catalogue: {error}"))?;
    serde_json::from_str(&text).map_err(|error| {
        format!(
            r#"the catalogue: {error}; it is such as {{"operating_systems": […], "plans": […], "facilities": […]}}"#
        )
    })
}

/// An operating system that can be ordered.
#[derive(Debug)]
pub(super) struct System {
    pub slug: String,
    pub href: String,
    pub raw: Value,
    plans: HashSet<String>,
}

/// A plan that can be ordered.
#[derive(Debug)]
pub(super) struct Plan {
    pub slug: String,
    pub href: String,
    pub raw: Value,
    /// Millionths of a dollar.
    pub price_per_hour: u64,
    pub spot_only: bool,
    /// Codes, in the order of the list of facilities.
    pub facilities: Vec<String>,
}

/// A place.
#[derive(Debug)]
pub(super) struct Facility {
    pub code: String,
    pub href: String,
    pub raw: Value,
    pub baremetal: bool,
    metro: Option<Value>,
}

impl System {
    pub fn runs_on(&self, plan: &str) -> bool {
        self.plans.contains(plan)
    }
}

impl Plan {
    pub fn offered_in(&self, facility: &str) -> bool {
        self.facilities.iter().any(|code| code == facility)
    }
}

impl Facility {
    /// The metro as it is written, and the address it has.
    pub fn metro(&self) -> Option<(&Value, String)> {
        let metro = self.metro.as_ref()?;
        Some((metro, format!("/locations/metros/{}", text(metro, "id").unwrap_or_default())))
    }

    /// Whether it is in the metro with this code, id or name.
    pub fn is_in(&self, metro: &str) -> bool {
        let own = self.metro.as_ref();
        own.is_some_and(|own| ["code", "id", "name"].iter().any(|field| text(own, field) == Some(metro)))
    }
}

/// The catalogue, read once.
#[derive(Debug)]
pub(super) struct Shelf {
    pub lists: Catalog,
    pub systems: HashMap<String, Arc<System>>,
    pub plans: HashMap<String, Arc<Plan>>,
    /// In the order of the list.
    pub facilities: Vec<Arc<Facility>>,
    by_href: HashMap<String, Value>,
}

impl Shelf {
    pub fn new(lists: Catalog) -> Self {
        let facilities: Vec<_> = lists.facilities.iter().filter_map(facility).map(Arc::new).collect();
        let mut by_href: HashMap<_, _> = facilities.iter().map(|it| (it.href.clone(), it.raw.clone())).collect();
        by_href.extend(facilities.iter().filter_map(|it| it.metro().map(|(metro, href)| (href, metro.clone()))));
        let plans = lists.plans.iter().filter_map(|raw| plan(raw, &facilities));
        Self {
            systems: lists.operating_systems.iter().filter_map(system).map(|it| (it.slug.clone(), it.into())).collect(),
            plans: plans.map(|it| (it.slug.clone(), it.into())).collect(),
            facilities,
            by_href,
            lists,
        }
    }

    pub fn facility(&self, code: &str) -> Option<&Arc<Facility>> {
        self.facilities.iter().find(|facility| facility.code == code)
    }

    /// The list of plans with the objects that were asked for in place of their addresses.
    pub fn expanded(&self, plan: &Value, include: &[String]) -> Value {
        let mut plan = plan.clone();
        for field in ["available_in", "available_in_metros"] {
            if include.iter().any(|name| name == field)
                && let Some(Value::Array(entries)) = plan.get_mut(field)
            {
                for entry in entries {
                    if let Some(whole) = text(entry, "href").and_then(|href| self.by_href.get(href)) {
                        *entry = whole.clone();
                    }
                }
            }
        }
        plan
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    let list = value.get(field).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn system(raw: &Value) -> Option<System> {
    let slug = text(raw, "slug")?;
    Some(System {
        slug: slug.to_owned(),
        href: format!("/operating-systems/{}", text(raw, "id").unwrap_or(slug)),
        plans: texts(raw, "provisionable_on").into_iter().collect(),
        raw: raw.clone(),
    })
}

fn facility(raw: &Value) -> Option<Facility> {
    let code = text(raw, "code")?;
    Some(Facility {
        code: code.to_owned(),
        href: format!("/facilities/{}", text(raw, "id").unwrap_or(code)),
        baremetal: texts(raw, "features").iter().any(|feature| feature == "baremetal"),
        metro: raw.get("metro").filter(|metro| metro.is_object()).cloned(),
        raw: raw.clone(),
    })
}

/// Only what is a server: it has a price by the hour and says what it is made of.
fn plan(raw: &Value, facilities: &[Arc<Facility>]) -> Option<Plan> {
    let slug = text(raw, "slug")?;
    raw.get("specs")?.get("cpus")?;
    let pricing = raw.get("pricing")?;
    let price = pricing.get("hour").or_else(|| pricing.get("hourly"))?;
    let places = raw.get("available_in").and_then(Value::as_array)?;
    let named = |facility: &Facility| {
        let is = |place: &Value| {
            text(place, "href") == Some(&facility.href)
                || text(place, "id").is_some_and(|id| text(&facility.raw, "id") == Some(id))
                || text(place, "code") == Some(&facility.code)
                || place.as_str() == Some(&facility.code)
        };
        places.iter().any(is)
    };
    let types = texts(raw, "deployment_types");
    Some(Plan {
        slug: slug.to_owned(),
        href: format!("/plans/{}", text(raw, "id").unwrap_or(slug)),
        price_per_hour: micros(price)?,
        spot_only: !types.is_empty() && !types.iter().any(|name| name == "on_demand"),
        facilities: facilities.iter().filter(|it| named(it)).map(|it| it.code.clone()).collect(),
        raw: raw.clone(),
    })
}

/// A price as a number or a text, in millionths, exactly: `0.4` is 400,000.
fn micros(price: &Value) -> Option<u64> {
    let text = match price {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let millionths: String = rest.chars().chain(std::iter::repeat('0')).take(6).collect();
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(millionths.parse().ok()?)
}
