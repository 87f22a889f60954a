//! What goes wrong from when to when.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::fault::{Fault, Part};
pub use crate::script::Script;
use crate::{
    faults::{Draw, key_of},
    script::{Example, Spell, parse_times},
};

/// Something goes wrong with some deployments for a while. As JSON:
/// `{"at": "10m", "for": "5m", "count": 3, "what": "scale_drop_after"}`.
///
/// Where one holds, the rates do not. Its times count from the simulator's start, also where its script
/// takes the place of another one.
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

impl Example for Entry {
    const EXAMPLE: &'static str = r#"{"at": "10m", "for": "5m", "ids": ["eu-1"], "what": "status_error"}"#;
}

impl Script<Entry> {
    /// Whether every entry names deployments that there are.
    pub(super) fn check_ids(&self, ids: &[&str]) -> Result<(), String> {
        self.check(|entry| entry.check(ids))
    }

    /// What it says about the list as a whole.
    pub(super) fn about_the_list(&self) -> Vec<Spell<Fault>> {
        let whole = |entry: &&Entry| matches!(entry.who, Who::All { .. });
        self.0.iter().filter(whole).map(Entry::spell).collect()
    }

    /// What it says about each deployment, in its order.
    pub(super) fn by_id<'ids>(&self, seed: u64, ids: &[&'ids str]) -> HashMap<&'ids str, Vec<Spell<Fault>>> {
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
                    spells.push(entry.spell());
                }
            }
        }
        spells
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
        let (at, lasts) = parse_times(&raw.at, raw.lasts.as_deref())?;
        Ok(Self { at, lasts, who, what: raw.what })
    }
}

impl Entry {
    /// The entry as one of its deployments has it.
    fn spell(&self) -> Spell<Fault> {
        Spell::new(self.at, self.lasts, self.what)
    }

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

/// What the script says about a part at a time.
pub(super) fn says(spells: &[Spell<Fault>], part: Part, now: Duration) -> Option<Fault> {
    let about = |spell: &&Spell<Fault>| spell.holds_at(now) && spell.what.part().is_none_or(|about| about == part);
    spells.iter().rev().find(about).map(|spell| spell.what)
}
