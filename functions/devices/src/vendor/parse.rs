//! What the vendor's answers mean. Fields that are missing or odd are as good as absent.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use crate::device::{Address, Event, LONGEST_ID_BYTES, Machine, Source, cut, cut_name};

/// The vendor's word for a device's state, where it is one we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VendorState {
    /// It waits, or is being installed.
    Coming,
    /// It is up.
    Active,
    /// Its installation, or its deprovisioning, has failed.
    Failed,
    /// It is on its way out.
    Going,
    /// It is gone, and costs nothing.
    Gone,
    /// Any other: waited out.
    Other,
}

/// A device, as the vendor shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What is kept and shown of it.
    pub machine: Machine,
    /// Its state.
    pub state: VendorState,
    /// Its tags.
    pub tags: Vec<String>,
    /// Per cent of its installation, if told.
    pub percent: Option<u8>,
    /// Steps that have been, if told.
    pub events: Vec<Event>,
    /// Whether somebody has locked it against deletion.
    pub locked: bool,
    /// The status of the answer that it was in.
    pub status: StatusCode,
}

impl Seen {
    /// Reads a device from an answer with this status; one without an id is none.
    pub fn parse(value: &Value, status: StatusCode) -> Option<Self> {
        let id = value["id"].as_str().filter(|id| (1..=LONGEST_ID_BYTES).contains(&id.len()))?.to_owned();
        let state = value["state"].as_str().unwrap_or("unknown").to_ascii_lowercase();
        let list = |key: &str| value[key].as_array().map_or(&[][..], Vec::as_slice);
        Some(Self {
            state: match state.as_str() {
                "queued" | "provisioning" => VendorState::Coming,
                "active" => VendorState::Active,
                "failed" => VendorState::Failed,
                "deprovisioning" => VendorState::Going,
                "deleted" => VendorState::Gone,
                _ => VendorState::Other,
            },
            tags: list("tags").iter().filter_map(|tag| Some(tag.as_str()?.to_owned())).collect(),
            percent: value["provisioning_percentage"].as_f64().map(percent),
            events: list("provisioning_events").iter().filter_map(event).collect(),
            locked: value["locked"].as_bool().unwrap_or(false),
            status,
            machine: Machine {
                id,
                state: cut_name(&state),
                hostname: value["hostname"].as_str().map(cut),
                created_at: time(&value["created_at"]),
                termination_time: time(&value["termination_time"]),
                addresses: list("ip_addresses").iter().filter_map(address).take(64).collect(),
            },
        })
    }

    /// A machine that we know of and have not asked for just now.
    pub fn known(machine: Machine) -> Self {
        Self {
            machine,
            state: VendorState::Other,
            tags: Vec::new(),
            percent: None,
            events: Vec::new(),
            locked: false,
            status: StatusCode::OK,
        }
    }

    /// Whether it still costs money.
    pub fn is_alive(&self) -> bool {
        self.state != VendorState::Gone
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
fn percent(number: f64) -> u8 {
    number.clamp(0.0, 100.0) as u8
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn address(value: &Value) -> Option<Address> {
    let address: std::net::IpAddr = value["address"].as_str()?.parse().ok()?;
    Some(Address {
        address: address.to_string(),
        family: if address.is_ipv4() { 4 } else { 6 },
        public: value["public"].as_bool().unwrap_or(false),
        management: value["management"].as_bool().unwrap_or(false),
        cidr: value["cidr"].as_u64().and_then(|cidr| u8::try_from(cidr).ok()),
    })
}

/// Something that has happened; a step that is still to come, without a time, has not.
pub(super) fn event(value: &Value) -> Option<Event> {
    let at = time(&value["created_at"])?;
    let text = ["body", "interpolated", "state"].into_iter().find_map(|key| value[key].as_str()).unwrap_or_default();
    Some(Event {
        at,
        source: Source::Vendor,
        kind: cut_name(value["type"].as_str().unwrap_or("event")),
        text: cut(text),
        id: value["id"].as_str().map(cut_name),
    })
}

/// The word for a machine's health.
pub(super) fn health(value: &Value) -> Option<String> {
    let word = cut_name(value["health_rollup"].as_str()?);
    (!word.is_empty()).then_some(word)
}

/// The words of an error: `errors`, `error`, or whatever there is, cut to a sane length.
pub(super) fn words(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        let is_page = text.starts_with('<');
        return if text.is_empty() {
            "no words".to_owned()
        } else if is_page {
            "a web page instead of JSON".to_owned()
        } else {
            cut(text)
        };
    };
    let mut words = Vec::new();
    for key in ["errors", "error", "message"] {
        match &value[key] {
            Value::String(text) => words.push(text.clone()),
            Value::Array(list) => {
                words.extend(list.iter().map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned)));
            }
            Value::Null => {}
            other => words.push(other.to_string()),
        }
    }
    if words.is_empty() { "no words".to_owned() } else { cut(&words.join("; ")) }
}

/// Whether there was no server to be had: by its text or code, whatever the status of a refusal.
pub(super) fn says_out_of_capacity(status: StatusCode, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let refused = matches!(status, StatusCode::UNPROCESSABLE_ENTITY | StatusCode::SERVICE_UNAVAILABLE)
        || status == StatusCode::CONFLICT;
    refused
        && [
            "no provisionable",
            "out of capacity",
            "out_of_capacity",
            "insufficient capacity",
            "no capacity",
            "not enough capacity",
        ]
        .iter()
        .any(|words| text.contains(words))
}

/// Whether the project may have no more.
pub(super) fn says_quota(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "quota",
        "maximum number of",
        "limit reached",
        "device limit",
        "exceeds the limit",
        "exceeded the limit",
        "reached the limit",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// Whether a refusal is about the combination: it names one of its parts, or a kind of part as
/// something that cannot be had. Then another combination may do; else none will.
pub(super) fn names_place(text: &str, parts: [&str; 3]) -> bool {
    let lower = text.to_ascii_lowercase();
    parts.iter().any(|part| lower.contains(&part.to_ascii_lowercase()))
        || ["facility", "plan", "metro", "operating system", "operating_system"].iter().any(|kind| lower.contains(kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn an_errors_words_are_found_in_any_of_its_shapes() {
        for (body, expected) in [
            (r#"{"errors":["a","b"]}"#, "a; b"),
            (r#"{"error":"a"}"#, "a"),
            (r#"{"errors":"a","error":null}"#, "a"),
            (r#"{"errors":[{"code":7}]}"#, r#"{"code":7}"#),
            (r#"{"message":"a"}"#, "a"),
            ("{}", "no words"),
            ("", "no words"),
            ("<html><body>Bad Gateway</body></html>", "a web page instead of JSON"),
            (" upstream \n timed out ", "upstream   timed out"),
        ] {
            assert_eq!(words(body.as_bytes()), expected, "{body}");
        }
        let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(5000));
        assert_eq!(words(long.as_bytes()).chars().count(), crate::device::LONGEST_TEXT);
    }

    #[test]
    fn out_of_capacity_is_told_by_its_text_under_a_refusal_only() {
        let text = "The facility ams1 has no provisionable c3.small.x86 servers matching your criteria";
        for status in [422, 503, 409] {
            assert!(says_out_of_capacity(StatusCode::from_u16(status).unwrap(), text), "{status}");
        }
        assert!(says_out_of_capacity(StatusCode::UNPROCESSABLE_ENTITY, r#"{"code":"out_of_capacity"}"#));
        assert!(!says_out_of_capacity(StatusCode::NOT_FOUND, text));
        assert!(!says_out_of_capacity(StatusCode::SERVICE_UNAVAILABLE, "maintenance"));
    }

    #[test]
    fn a_refusal_is_about_the_project_the_combination_or_the_request() {
        let parts = ["debian_12", "c3.small.x86", "ams1"];
        for (text, quota, place) in [
            ("You have reached the device limit (quota) of this project", true, false),
            ("AMS1 is not open to this project", false, true),
            ("operating_system is not supported", false, true),
            ("The plan is retired", false, true),
            ("hostname is too long", false, false),
        ] {
            assert_eq!((says_quota(text), names_place(text, parts)), (quota, place), "{text}");
        }
    }

    #[test]
    fn a_device_is_read_whatever_is_missing_or_odd_in_it_and_its_root_password_never() {
        let parse = |value: &Value| Seen::parse(value, StatusCode::OK);
        assert_eq!(parse(&json!({ "state": "active" })), None);
        assert_eq!(parse(&json!({ "id": "" })), None);
        assert_eq!(parse(&json!({ "id": "i".repeat(LONGEST_ID_BYTES + 1) })), None);
        let bare = parse(&json!({ "id": "a", "percent": 7, "tags": [1, "x"], "ip_addresses": {} })).unwrap();
        assert_eq!((bare.state, bare.percent, bare.tags), (VendorState::Other, None, vec!["x".to_owned()]));
        let whole = json!({
            "id": "a", "state": "Provisioning", "provisioning_percentage": 41.7, "locked": true,
            "root_password": "hunter2", "termination_time": "2027-01-15T08:00:00Z", "created_at": "odd",
            "ip_addresses": [
                { "address": "10.0.0.1", "address_family": 4, "public": false, "management": true, "cidr": 31 },
                { "address": "2604:1380::1", "public": true }, { "href": "/ips/1" }, { "address": "none" },
            ],
            "provisioning_events": [
                { "id": "1", "type": "provisioning.101", "body": "started", "created_at": "2027-01-15T08:00:00Z" },
                { "id": "2", "type": "provisioning.110", "created_at": null },
                { "href": "/events/3" },
            ],
        });
        let seen = parse(&whole).unwrap();
        assert_eq!((seen.state, seen.percent, seen.locked), (VendorState::Coming, Some(41), true));
        assert_eq!(seen.machine.created_at, None);
        assert!(seen.machine.termination_time.is_some());
        let families: Vec<_> = seen.machine.addresses.iter().map(|it| (it.family, it.public, it.cidr)).collect();
        assert_eq!(families, [(4, false, Some(31)), (6, true, None)]);
        assert_eq!(seen.events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["provisioning.101"]);
        assert!(!format!("{seen:?}").contains("hunter2"));
    }

    #[test]
    fn a_health_is_any_word_and_nothing_else() {
        for (value, word) in [
            (json!({ "health_rollup": "ok" }), Some("ok")),
            (json!({ "health_rollup": " burning\n", "more": 1 }), Some("burning")),
            (json!({ "health_rollup": "" }), None),
            (json!({ "health_rollup": 1 }), None),
            (json!({ "health_rollup": null }), None),
            (json!({}), None),
            (json!([]), None),
            (Value::Null, None),
        ] {
            assert_eq!(health(&value).as_deref(), word, "{value}");
        }
        assert!(health(&json!({ "health_rollup": "🦀".repeat(500) })).unwrap().len() <= 64);
    }
}
