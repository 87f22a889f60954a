//! What goes wrong, and which rates decide it.

use clap::ValueEnum;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{config::Config, model::Status};
use crate::{
    call::Answer,
    faults::{self, Draw},
};

/// One thing that goes wrong with one request, or with a deployment's place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing, whatever the rates say.
    Well,

    /// 500, 502 or 503.
    StatusError,
    /// The connection is closed or reset without an answer.
    StatusCut,
    /// No answer until the client gives up.
    StatusHang,
    /// 200 with HTML, with JSON that breaks off, or empty; or no HTTP at all.
    StatusGarbage,
    /// One of the counts is a bare `NaN`.
    StatusNan,
    /// More servers free than there are.
    StatusFreeAboveTotal,
    /// A count is missing, or all are.
    StatusMissingField,
    /// A count is below 0.
    StatusNegative,
    /// A count is no whole number.
    StatusFractional,
    /// A count is text.
    StatusText,
    /// No servers at all, though there are hosts.
    StatusZeroTotal,
    /// 404, as for an id that there is not.
    StatusUnknown,

    /// 500, 502 or 503.
    DiscoverError,
    /// The connection is closed or reset without an answer.
    DiscoverCut,
    /// No answer until the client gives up.
    DiscoverHang,
    /// 200 with HTML, with JSON that breaks off, or empty; or no HTTP at all.
    DiscoverGarbage,
    /// A list without deployments.
    DiscoverEmpty,
    /// More than half of the deployments are missing, or all.
    DiscoverHalf,

    /// The deployment is not in the list.
    EntryMissing,
    /// Its target is a bare `NaN`, so the whole list is no JSON.
    EntryNan,
    /// It is there twice, the second time with other fields.
    EntryTwice,
    /// Its servers_per_host is 0.
    EntryZeroServers,
    /// Its target is -1.
    EntryTargetNegative,
    /// Its target is 100.
    EntryTargetHundred,
    /// Its target is `"abc"`.
    EntryTargetText,
    /// It has no target.
    EntryMissingField,

    /// It is applied, and the connection closed or reset without an answer.
    ScaleDropAfter,
    /// 400, 403, 409 or 422, and not applied.
    ScaleRefuse,
    /// 500, 502 or 503, and not applied.
    ScaleError,
    /// 500, 502 or 503, but applied.
    ScaleErrorAfter,
    /// 200, but not applied.
    ScaleIgnore,
    /// 200, but applied later.
    ScaleLate,
    /// Applied later, and the connection closed or reset without an answer.
    ScaleLateDrop,
    /// The connection is closed or reset, and it is not applied.
    ScaleCut,
    /// No answer until the client gives up, and not applied.
    ScaleHang,
    /// No answer until the client gives up, but applied.
    ScaleHangAfter,
}

/// What a fault is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Status,
    /// The list as a whole.
    List,
    /// A deployment's place in the list.
    Entry,
    Scale,
}

/// Those of a status that can be told from its body alone, or from the host count.
const BAD_STATUS: [Fault; 8] = [
    Fault::StatusGarbage,
    Fault::StatusNan,
    Fault::StatusFreeAboveTotal,
    Fault::StatusMissingField,
    Fault::StatusNegative,
    Fault::StatusFractional,
    Fault::StatusText,
    Fault::StatusZeroTotal,
];

/// Those that spoil no other deployment's place in the list.
const BAD_ENTRY: [Fault; 6] = [
    Fault::EntryTwice,
    Fault::EntryZeroServers,
    Fault::EntryTargetNegative,
    Fault::EntryTargetHundred,
    Fault::EntryTargetText,
    Fault::EntryMissingField,
];

impl Fault {
    /// What it is about; `None` for [`Fault::Well`], which is about everything.
    pub(super) fn part(self) -> Option<Part> {
        use Fault as F;
        match self {
            F::Well => None,
            F::StatusError
            | F::StatusCut
            | F::StatusHang
            | F::StatusGarbage
            | F::StatusNan
            | F::StatusFreeAboveTotal
            | F::StatusMissingField
            | F::StatusNegative
            | F::StatusFractional
            | F::StatusText
            | F::StatusZeroTotal
            | F::StatusUnknown => Some(Part::Status),
            F::DiscoverError
            | F::DiscoverCut
            | F::DiscoverHang
            | F::DiscoverGarbage
            | F::DiscoverEmpty
            | F::DiscoverHalf => Some(Part::List),
            F::EntryMissing
            | F::EntryNan
            | F::EntryTwice
            | F::EntryZeroServers
            | F::EntryTargetNegative
            | F::EntryTargetHundred
            | F::EntryTargetText
            | F::EntryMissingField => Some(Part::Entry),
            F::ScaleDropAfter
            | F::ScaleRefuse
            | F::ScaleError
            | F::ScaleErrorAfter
            | F::ScaleIgnore
            | F::ScaleLate
            | F::ScaleLateDrop
            | F::ScaleCut
            | F::ScaleHang
            | F::ScaleHangAfter => Some(Part::Scale),
        }
    }

    /// What the rates say about one request, or one place in one list. They are looked at in order,
    /// each with a decision of its own.
    pub(super) fn drawn(config: &Config, part: Part, draw: &Draw) -> Self {
        let strikes = |name, rate| draw.happens(name, rate);
        match part {
            Part::Status => {
                let rates = [
                    ("status error", config.status_error_rate, Self::StatusError),
                    ("status cut", config.status_cut_rate, Self::StatusCut),
                    ("status hang", config.status_hang_rate, Self::StatusHang),
                ];
                first(draw, &rates).unwrap_or_else(|| match config.status_bad {
                    _ if !strikes("status bad", config.status_bad_rate) => Self::Well,
                    Some(kind) => kind,
                    None => any(draw, "kind of status", &BAD_STATUS),
                })
            }
            Part::List => {
                let rates = [
                    ("discover error", config.discover_error_rate, Self::DiscoverError),
                    ("discover cut", config.discover_cut_rate, Self::DiscoverCut),
                    ("discover hang", config.discover_hang_rate, Self::DiscoverHang),
                    ("discover garbage", config.discover_garbage_rate, Self::DiscoverGarbage),
                    ("discover empty", config.discover_empty_rate, Self::DiscoverEmpty),
                    ("discover half", config.discover_half_rate, Self::DiscoverHalf),
                ];
                first(draw, &rates).unwrap_or(Self::Well)
            }
            Part::Entry => {
                let missing = [("entry missing", config.entry_missing_rate, Self::EntryMissing)];
                first(draw, &missing).unwrap_or_else(|| match config.entry_bad {
                    _ if !strikes("entry bad", config.entry_bad_rate) => Self::Well,
                    Some(kind) => kind,
                    None => any(draw, "kind of entry", &BAD_ENTRY),
                })
            }
            Part::Scale => {
                let rates = [
                    ("scale drop after", config.scale_drop_after_rate, Self::ScaleDropAfter),
                    ("scale refuse", config.scale_refuse_rate, Self::ScaleRefuse),
                    ("scale error", config.scale_error_rate, Self::ScaleError),
                    ("scale error after", config.scale_error_after_rate, Self::ScaleErrorAfter),
                    ("scale ignore", config.scale_ignore_rate, Self::ScaleIgnore),
                    ("scale late", config.scale_late_rate, Self::ScaleLate),
                    ("scale late drop", config.scale_late_drop_rate, Self::ScaleLateDrop),
                    ("scale cut", config.scale_cut_rate, Self::ScaleCut),
                    ("scale hang", config.scale_hang_rate, Self::ScaleHang),
                    ("scale hang after", config.scale_hang_after_rate, Self::ScaleHangAfter),
                ];
                first(draw, &rates).unwrap_or(Self::Well)
            }
        }
    }
}

fn first(draw: &Draw, rates: &[(&str, f64, Fault)]) -> Option<Fault> {
    rates.iter().find(|(name, rate, _)| draw.happens(name, *rate)).map(|(_, _, fault)| *fault)
}

fn any(draw: &Draw, name: &str, kinds: &[Fault]) -> Fault {
    let number = draw.below(name, u32::try_from(kinds.len()).unwrap_or(1));
    kinds.iter().zip(0..).find(|(_, at)| *at == number).map_or(Fault::Well, |(kind, _)| *kind)
}

/// The answer of 200 to `GET /status/{id}`, as it should be or not.
pub(super) fn status(fault: Fault, draw: &Draw, status: Status) -> Answer {
    let Status { current_hosts: hosts, total_servers: total, free_servers: free } = status;
    let text = |hosts: &str, total: &str, free: &str| {
        let body = format!(r#"{{"current_hosts":{hosts},"total_servers":{total},"free_servers":{free}}}"#);
        Answer::new(StatusCode::OK, "application/json", body)
    };
    let [hosts, total, free, many, none] =
        [hosts, total, free, total.saturating_add(1 + u64::from(draw.below("too many", 9))), 0].map(|n| n.to_string());
    // One of the three counts in another form.
    let one = |form: &dyn Fn(&str) -> String| {
        let [first, second, third] = [&hosts, &total, &free].map(|count| form(count));
        match draw.below("which count", 3) {
            0 => text(&first, &total, &free),
            1 => text(&hosts, &second, &free),
            _ => text(&hosts, &total, &third),
        }
    };
    match fault {
        Fault::StatusGarbage => garbage(draw, r#"{"current_hosts":10,"total_se"#),
        Fault::StatusNan => one(&|_| "NaN".to_owned()),
        Fault::StatusFreeAboveTotal => text(&hosts, &total, &many),
        Fault::StatusMissingField => {
            let bodies = [
                format!(r#"{{"total_servers":{total},"free_servers":{free}}}"#),
                format!(r#"{{"current_hosts":{hosts},"free_servers":{free}}}"#),
                format!(r#"{{"current_hosts":{hosts},"total_servers":{total}}}"#),
                "{}".to_owned(),
            ];
            Answer::new(StatusCode::OK, "application/json", draw.pick("missing field", bodies))
        }
        Fault::StatusNegative => one(&|count| if count == "0" { "-1".to_owned() } else { format!("-{count}") }),
        Fault::StatusFractional => one(&|count| format!("{count}.5")),
        Fault::StatusText => one(&|count| format!("\"{count}\"")),
        Fault::StatusZeroTotal => text(&hosts, &none, &none),
        _ => text(&hosts, &total, &free),
    }
}

/// Something else than the contract's JSON under 200, or no HTTP at all.
pub(super) fn garbage(draw: &Draw, broken: &'static str) -> Answer {
    match draw.below("kind of garbage", 4) {
        0 => faults::html(StatusCode::OK),
        1 => Answer::new(StatusCode::OK, "application/json", broken),
        2 => Answer::empty(StatusCode::OK),
        _ => faults::garbage(draw),
    }
}

/// A refusal that has nothing to do with what was asked.
pub(super) fn refusal(draw: &Draw) -> Answer {
    use StatusCode as S;
    let status = draw.pick("refusal", [S::BAD_REQUEST, S::FORBIDDEN, S::CONFLICT, S::UNPROCESSABLE_ENTITY]);
    Answer::json(status, &json!({ "message": "simulated refusal" }))
}
