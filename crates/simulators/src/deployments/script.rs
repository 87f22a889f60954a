//! What goes wrong from when to when.

use std::{collections::HashMap, fs, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::fault::{Fault, Part};
use crate::faults::{Draw, key_of, parse_duration};

const EXAMPLE: &str = r#"{"at": "10m", "for": "5m", "ids": ["eu-1"], "what": "status_error"}"#;

/// Entries in any order; where they overlap, the later in the list counts. Where one holds, the
/// rates do not. Its times count from the simulator's start, also where it takes the place of
/// another script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Script(pub Vec<Entry>);

/// Something goes wrong with some deployments for a while. As JSON:
/// `{"at": "10m", "for": "5m", "count": 3, "what": "scale_drop_after"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Entry {
    /// Since the start.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub at: Duration,
    /// For how long (`for` in JSON); without it, to the end.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub lasts: Option<Duration>,
    /// Which deployments.
    #[serde(flatten)]
    pub who: Who,
    /// What goes wrong.
    pub what: Fault,
}

/// Which deployments an [`Entry`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Who {
    /// These.
    Ids {
        /// Their ids.
        ids: Vec<String>,
    },
    /// So many: the first in an order that the seed decides, the same for every entry, so that
    /// three of them are among five of them.
    Count {
        /// How many.
        count: usize,
    },
    /// All of them (`"all": true`).
    All {
        /// Always true.
        all: True,
    },
}

/// `true`, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct True;

impl Serialize for True {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(true)
    }
}

/// An [`Entry`] as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    at: String,
    #[serde(rename = "for")]
    lasts: Option<String>,
    ids: Option<Vec<String>>,
    count: Option<usize>,
    all: Option<bool>,
    what: Fault,
}

/// Reads the file of `--script`.
///
/// # Errors
/// In words: the file cannot be read, is no JSON, or an entry (named by its number, from 1) is not
/// what an entry must be.
pub(super) fn read(path: &str) -> Result<Script, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the script: {error}"))?;
    let json = serde_json::from_str(&text).map_err(|error| format!("the script is no JSON: {error}"))?;
    Script::from_json(json)
}

impl Script {
    fn from_json(json: Value) -> Result<Self, String> {
        let Value::Array(entries) = json else {
            return Err(format!("a script is a JSON array of entries: [{EXAMPLE}]"));
        };
        let read = |(entry, number): (Value, u32)| {
            serde_json::from_value(entry)
                .map_err(|error| format!("entry {number} of the script: {error}; an entry is such as {EXAMPLE}"))
        };
        entries.into_iter().zip(1..).map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether every entry names deployments that there are.
    pub(super) fn check(&self, ids: &[&str]) -> Result<(), String> {
        let check = |(entry, number): (&Entry, u32)| {
            entry.check(ids).map_err(|reason| format!("entry {number} of the script: {reason}"))
        };
        self.0.iter().zip(1..).try_for_each(check)
    }

    /// What it says about the list as a whole.
    pub(super) fn about_the_list(&self) -> Vec<Spell> {
        let whole = |entry: &&Entry| matches!(entry.who, Who::All { .. });
        self.0.iter().filter(whole).map(Spell::of).collect()
    }

    /// What it says about each deployment, in its order.
    pub(super) fn by_id<'ids>(&self, seed: u64, ids: &[&'ids str]) -> HashMap<&'ids str, Vec<Spell>> {
        let mut in_turn = ids.to_vec();
        in_turn.sort_by_key(|id| Draw::lasting(seed, key_of(id)).below("turn in a script", u32::MAX));
        let mut spells: HashMap<_, Vec<_>> = ids.iter().map(|id| (*id, Vec::new())).collect();
        for entry in &self.0 {
            let chosen: Vec<&str> = match &entry.who {
                Who::Ids { ids } => ids.iter().map(String::as_str).collect(),
                Who::Count { count } => in_turn.iter().copied().take(*count).collect(),
                Who::All { .. } => in_turn.clone(),
            };
            for id in chosen {
                if let Some(spells) = spells.get_mut(id) {
                    spells.push(Spell::of(entry));
                }
            }
        }
        spells
    }
}

impl<'de> Deserialize<'de> for Script {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl TryFrom<Raw> for Entry {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let who = match (raw.ids, raw.count, raw.all) {
            (Some(ids), None, None) => Who::Ids { ids },
            (None, Some(count), None) => Who::Count { count },
            (None, None, Some(true)) => Who::All { all: True },
            _ => return Err("it must say who, in one way: `ids`, `count` or `\"all\": true`".to_owned()),
        };
        let duration = |name, text: &str| parse_duration(text).map_err(|reason| format!("`{name}`: {reason}"));
        Ok(Self {
            at: duration("at", &raw.at)?,
            lasts: raw.lasts.map(|lasts| duration("for", &lasts)).transpose()?,
            who,
            what: raw.what,
        })
    }
}

impl Entry {
    fn check(&self, there_are: &[&str]) -> Result<(), String> {
        if self.what.part() == Some(Part::List) && !matches!(self.who, Who::All { .. }) {
            return Err("what begins with `discover_` is about the whole list: say `\"all\": true`".to_owned());
        }
        match &self.who {
            Who::Ids { ids } => ids.iter().find(|id| !there_are.contains(&id.as_str())).map_or(Ok(()), |id| {
                let some: Vec<_> = there_are.iter().copied().take(5).collect();
                Err(format!("there is no deployment `{id}`; there are {} such as {}", there_are.len(), some.join(", ")))
            }),
            Who::Count { count } if *count > there_are.len() => {
                Err(format!("`count` is {count}, but there are {} deployments", there_are.len()))
            }
            Who::Count { .. } | Who::All { .. } => Ok(()),
        }
    }
}

/// An [`Entry`] as one of its deployments has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spell {
    from: Duration,
    /// Without it, to the end.
    until: Option<Duration>,
    what: Fault,
}

impl Spell {
    fn of(entry: &Entry) -> Self {
        let until = entry.lasts.map(|lasts| entry.at.saturating_add(lasts));
        Self { from: entry.at, until, what: entry.what }
    }

    /// From `at` on, up to and without the end.
    fn holds_at(self, now: Duration) -> bool {
        now >= self.from && self.until.is_none_or(|until| now < until)
    }
}

/// What the script says about a part at a time.
pub(super) fn says(spells: &[Spell], part: Part, now: Duration) -> Option<Fault> {
    let about = |spell: &&Spell| spell.holds_at(now) && spell.what.part().is_none_or(|about| about == part);
    spells.iter().rev().find(about).map(|spell| spell.what)
}
