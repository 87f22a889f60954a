//! How much of a plan is free in a facility, as far as the vendor says.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::ByPair;

/// How much is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CapacityLevel)]
pub enum Level {
    /// Nothing.
    Unavailable,
    /// Hardly any.
    Critical,
    /// Some.
    Limited,
    /// Enough.
    Normal,
    /// The vendor does not say.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Level {
    fn parse(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "unavailable" => Self::Unavailable,
            "critical" => Self::Critical,
            "limited" => Self::Limited,
            "normal" => Self::Normal,
            _ => Self::Unknown,
        }
    }

    /// In which order they are tried: the last machine of its kind is worth less than an open question.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Limited => 1,
            Self::Unknown => 2,
            Self::Critical => 3,
            Self::Unavailable => 4,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Critical => "critical",
            Self::Limited => "limited",
            Self::Normal => "normal",
            Self::Unknown => "unknown",
        }
    }
}

/// The levels that are known, by plan and facility.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capacity(ByPair<Level>);

impl Capacity {
    /// Reads the answer to `GET /capacity`. What is not as expected is not known.
    pub fn parse(answer: &Value) -> Self {
        let mut capacity = Self::default();
        let facilities = answer["capacity"].as_object().into_iter().flatten();
        for (facility, plans) in facilities {
            for (plan, entry) in plans.as_object().into_iter().flatten() {
                let word = entry["level"].as_str().or_else(|| entry.as_str());
                capacity.set(plan, facility, word.map_or(Level::Unknown, Level::parse));
            }
        }
        capacity
    }

    /// Adds the answer to `POST /capacity`, which says only yes or no: no is the level unavailable, and
    /// yes is normal unless a level is known that is not against it.
    pub fn learn(&mut self, answer: &Value) {
        for server in answer["servers"].as_array().into_iter().flatten() {
            let (Some(plan), Some(facility)) = (server["plan"].as_str(), server["facility"].as_str()) else {
                continue;
            };
            let available = match &server["available"] {
                Value::Bool(available) => *available,
                Value::String(word) if word.eq_ignore_ascii_case("true") => true,
                Value::String(word) if word.eq_ignore_ascii_case("false") => false,
                _ => continue,
            };
            let level = match (available, self.level(plan, facility)) {
                (false, _) => Level::Unavailable,
                (true, Level::Unavailable | Level::Unknown) => Level::Normal,
                (true, known) => known,
            };
            self.set(plan, facility, level);
        }
    }

    /// How much of `plan` is free in `facility`.
    pub fn level(&self, plan: &str, facility: &str) -> Level {
        self.0.get(plan, facility).copied().unwrap_or_default()
    }

    /// Sets a level.
    pub fn set(&mut self, plan: &str, facility: &str, level: Level) {
        self.0.insert(plan, facility, level);
    }
}

/// The body of `POST /capacity`: whether there is one server of each (facility, plan).
pub fn capacity_question<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    // The specification has the quantity as a string.
    let servers: Vec<Value> = pairs
        .into_iter()
        .map(|(facility, plan)| json!({ "facility": facility, "plan": plan, "quantity": "1" }))
        .collect();
    json!({ "servers": servers })
}
