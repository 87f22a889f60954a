//! Answers and list entries that keep no promise.

use clap::ValueEnum;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fleet::{Fleet, Reading};
use crate::{
    call::Answer,
    faults::{self, Draw},
};

/// The length of the body in [`Garbage::HugeBody`], at least, in bytes.
pub const HUGE_BODY: usize = 5_000_000;

/// The length of the name in [`Garbage::HugeService`], in bytes.
pub const HUGE_SERVICE: usize = 100_000;

/// Bodies of a server's 200 that keep no promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Garbage {
    /// A page of HTML.
    Html,
    /// JSON that breaks off.
    CutOff,
    /// JSON without CPU, memory or service, or without all of them.
    MissingField,
    /// JSON `null`.
    Null,
    /// What was promised, in an array.
    Array,
    /// Numbers instead of text: `"cpu": 61`.
    Numbers,
    /// CPU or memory is `161%`.
    TooMuch,
    /// CPU or memory is `-3%`.
    BelowZero,
    /// CPU or memory is `NaN%`.
    NotANumber,
    /// CPU or memory is empty text.
    Blank,
    /// The service has no name.
    NoName,
    /// The service's name has 100,000 letters.
    HugeService,
    /// As promised, and 5 MB more.
    HugeBody,
}

impl Garbage {
    /// Any of them.
    pub(super) fn drawn(draw: &Draw) -> Self {
        let kinds = Self::value_variants();
        let number = draw.below("kind of garbage", u32::try_from(kinds.len()).unwrap_or(1));
        kinds.iter().zip(0..).find(|(_, at)| *at == number).map_or(Self::Html, |(kind, _)| *kind)
    }
}

/// What `reading` becomes.
pub(super) fn answer(kind: Garbage, draw: &Draw, reading: &Reading<'_>) -> Answer {
    let Reading { cpu, memory, service } = *reading;
    let good = json!({ "cpu": format!("{cpu}%"), "memory": format!("{memory}%"), "service": service });
    let with = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad[field] = value;
        bad
    };
    let number = |text: &str| with(if draw.happens("which number", 0.5) { "cpu" } else { "memory" }, json!(text));
    let body = match kind {
        Garbage::Html => return faults::html(StatusCode::OK),
        Garbage::CutOff => return text(format!(r#"{{"cpu":"{cpu}%","mem"#)),
        // Not by `json!`, which would look at each of the millions of letters.
        Garbage::HugeBody => {
            let (good, padding) = (good.to_string(), "A".repeat(HUGE_BODY));
            return text(format!(r#"{},"padding":"{padding}"}}"#, good.trim_end_matches('}')));
        }
        Garbage::MissingField => {
            let [cpu, memory, service] = ["cpu", "memory", "service"].map(|field| {
                let mut bad = good.clone();
                bad.as_object_mut().map(|fields| fields.shift_remove(field));
                bad
            });
            draw.pick("missing field", [cpu, memory, service, json!({})])
        }
        Garbage::Null => Value::Null,
        Garbage::Array => json!([good]),
        Garbage::Numbers => json!({ "cpu": cpu, "memory": memory, "service": service }),
        Garbage::TooMuch => number("161%"),
        Garbage::BelowZero => number("-3%"),
        Garbage::NotANumber => number("NaN%"),
        Garbage::Blank => number(""),
        Garbage::NoName => with("service", json!("")),
        Garbage::HugeService => with("service", json!("A".repeat(HUGE_SERVICE))),
    };
    Answer::json(StatusCode::OK, &body)
}

fn text(body: String) -> Answer {
    Answer::new(StatusCode::OK, "application/json", body)
}

/// An entry that has no place in a list of addresses: the `number`th of a row that repeats.
///
/// None of them is the address of a server that there is not, so that whoever asks for addresses
/// only makes no strange request; but some repeat the first server's.
pub(super) fn strange(number: u32, fleet: &Fleet) -> Value {
    let known = fleet.hosts.keys().next().map_or_else(|| "10.58.1.1".to_owned(), ToString::to_string);
    match number % 24 {
        0 => json!("../admin"),
        1 => json!(format!("{known}/x")),
        2 => json!(known),
        3 => json!(10_581_001),
        4 => json!(null),
        5 => json!([known, ["10.58.1.2"]]),
        6 => json!({ "ip": known }),
        7 => json!(""),
        8 => json!(format!("{known}:22")),
        9 => json!(format!("{known}?admin=1")),
        10 => json!("10.58.1.256"),
        11 => json!("10.58.1"),
        12 => json!("010.58.001.001"),
        13 => json!("0x0a.0x3a.1.1"),
        14 => json!(format!("{known}\r\nHost: elsewhere.example")),
        15 => json!("http://elsewhere.example/"),
        16 => json!("//elsewhere.example/10.58.1.1"),
        17 => json!("%2e%2e/admin"),
        18 => json!("..\\admin"),
        19 => json!("１０.58.1.1"),
        20 => json!("localhost"),
        21 => json!(true),
        22 => json!("servers"),
        _ => json!("1".repeat(10_000)),
    }
}
