//! What goes wrong from when to when, as a file says it: what the scripts of the simulators have in
//! common. What an entry is about, each simulator says.

use std::{fs, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de, de::DeserializeOwned};
use serde_json::Value;

use crate::faults::parse_duration;

/// Entries in any order; where they overlap, the later in the list counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Script<Entry>(pub Vec<Entry>);

impl<Entry> Default for Script<Entry> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// An entry of a script.
pub trait Example: DeserializeOwned {
    /// One in JSON, to show whoever has written another thing.
    const EXAMPLE: &'static str;
}

impl<Entry: Example> Script<Entry> {
    /// Reads the file of `--script`.
    ///
    /// # Errors
    /// In words: the file cannot be read, is no JSON, or an entry (named by its number, from 1) is not
    /// what an entry must be.
    pub(crate) fn read(path: &str) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("cannot read the script: {error}"))?;
        let json = serde_json::from_str(&text).map_err(|error| format!("the script is no JSON: {error}"))?;
        Self::from_json(json)
    }

    fn from_json(json: Value) -> Result<Self, String> {
        let example = Entry::EXAMPLE;
        let Value::Array(entries) = json else {
            return Err(format!("a script is a JSON array of entries: [{example}]"));
        };
        let read = |(entry, number): (Value, u32)| {
            serde_json::from_value(entry)
                .map_err(|error| format!("entry {number} of the script: {error}; an entry is such as {example}"))
        };
        entries.into_iter().zip(1..).map(read).collect::<Result<_, _>>().map(Self)
    }
}

impl<Entry> Script<Entry> {
    /// Whether `check` has nothing against any entry; one is named by its number, from 1.
    pub(crate) fn check(&self, check: impl Fn(&Entry) -> Result<(), String>) -> Result<(), String> {
        let check = |(entry, number): (&Entry, u32)| {
            check(entry).map_err(|reason| format!("entry {number} of the script: {reason}"))
        };
        self.0.iter().zip(1..).try_for_each(check)
    }
}

impl<'de, Entry: Example> Deserialize<'de> for Script<Entry> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The times `at` and `for` of an entry, as they are written.
pub(crate) fn parse_times(at: &str, lasts: Option<&str>) -> Result<(Duration, Option<Duration>), String> {
    let duration = |name, text: &str| parse_duration(text).map_err(|reason| format!("`{name}`: {reason}"));
    Ok((duration("at", at)?, lasts.map(|lasts| duration("for", lasts)).transpose()?))
}

/// What an entry says, as one of those that it is about has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spell<What> {
    from: Duration,
    /// Without it, to the end.
    until: Option<Duration>,
    /// What is the matter meanwhile.
    pub what: What,
}

impl<What> Spell<What> {
    pub fn new(at: Duration, lasts: Option<Duration>, what: What) -> Self {
        Self { from: at, until: lasts.map(|lasts| at.saturating_add(lasts)), what }
    }

    /// From `at` on, up to and without the end.
    pub fn holds_at(&self, now: Duration) -> bool {
        now >= self.from && self.until.is_none_or(|until| now < until)
    }
}
