//! The client of the deployments API: `GET {base}/discover`, `GET {base}/status/{id}`,
//! `POST {base}/scale`.
//!
//! **The one thing to know:** `/scale` takes a difference and no id of the request, so it is sent
//! once and never again. [`Outcome`] says what is known of it.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::StatusCode;
use kit::upstream::{Answer, Upstream, UpstreamError, path};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{
    config::URL,
    decision::Outcome,
    need::{Counts, Shape, Target, count},
    samples::{Bad, BadCode},
};

/// Most deployments that are scaled.
pub const MOST: usize = 20_000;
/// Longest id, in bytes.
pub const LONGEST_ID: usize = 128;
/// A list of that many deployments, with room for fields of no interest.
const LIST_LIMIT: usize = 8 << 20;
/// Counts are a hundred bytes.
const ANSWER_LIMIT: usize = 16 << 10;

/// The name of a deployment: 1 to 128 bytes without control characters, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId(String);

/// A text that is no name of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the id of a deployment has 1 to 128 bytes, no control characters, and is neither . nor ..")]
pub struct NoId;

impl TryFrom<String> for DeploymentId {
    type Error = NoId;

    fn try_from(text: String) -> Result<Self, NoId> {
        // A dot segment would be another path.
        let ok = (1..=LONGEST_ID).contains(&text.len())
            && !text.chars().any(char::is_control)
            && !matches!(text.as_str(), "." | "..");
        if ok { Ok(Self(text)) } else { Err(NoId) }
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> Self {
        id.0
    }
}

impl DeploymentId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The deployments API, behind its base URL.
#[derive(Debug, Clone)]
pub struct Deployments {
    upstream: Upstream,
    timeout: Duration,
}

/// Why there is no list of deployments. The words are for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// No whole answer.
    #[error("the deployments API did not list the deployments: {0}; is {URL} right?")]
    Upstream(#[from] UpstreamError),
    /// An answer with another status than 200.
    #[error("the deployments API answered {0} where the list of deployments was asked for; is {URL} right?")]
    Status(StatusCode),
    /// An answer that is no list.
    #[error("the deployments API's list of deployments is not readable; is {URL} right?")]
    NoList,
}

/// The deployments there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovered {
    /// Each with its shape, or why that cannot be used.
    pub found: BTreeMap<DeploymentId, Result<Shape, String>>,
    /// Entries without a usable id, or above the most.
    pub ignored: usize,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    deployments: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    id: String,
    #[serde(borrow)]
    servers_per_host: Option<&'a RawValue>,
    #[serde(borrow)]
    target_free_pct: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    current_hosts: Option<&'a RawValue>,
    #[serde(borrow)]
    total_servers: Option<&'a RawValue>,
    #[serde(borrow)]
    free_servers: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Scale<'a> {
    deployment_id: &'a DeploymentId,
    delta: i64,
}

impl Deployments {
    /// The API behind `upstream`, each request to which may take `timeout`.
    pub fn new(upstream: Upstream, timeout: Duration) -> Self {
        Self { upstream, timeout }
    }

    /// Its base URL, which also names it in the store.
    pub fn name(&self) -> &str {
        self.upstream.base()
    }

    /// How long a request may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The deployments there are.
    pub async fn discover(&self) -> Result<Discovered, ApiError> {
        let answer = self.upstream.with_body_limit(LIST_LIMIT).get("/discover", self.timeout).await?;
        if answer.status != StatusCode::OK {
            return Err(ApiError::Status(answer.status));
        }
        parse_list(&answer.body)
    }

    /// What a deployment says of itself, within `timeout` at most.
    pub async fn status(&self, id: &DeploymentId, timeout: Duration) -> Result<Counts, Bad> {
        let answer = self.upstream.with_body_limit(ANSWER_LIMIT);
        match answer.get(&path(&["status", id.as_str()]), timeout.min(self.timeout)).await {
            Err(error @ (UpstreamError::NotSent { .. } | UpstreamError::Unanswered { .. })) => {
                Err(Bad::new(BadCode::Silent, error))
            }
            Err(error) => Err(Bad::new(BadCode::Nonsense, error)),
            Ok(answer) if answer.status != StatusCode::OK => {
                Err(Bad::new(BadCode::Error, format!("the deployments API answered {}", answer.status)))
            }
            Ok(answer) => parse_status(&answer.body),
        }
    }

    /// Asks for `delta` more hosts, once.
    pub async fn scale(&self, id: &DeploymentId, delta: i64) -> (Outcome, String) {
        let body = Scale { deployment_id: id, delta };
        outcome(self.upstream.with_body_limit(ANSWER_LIMIT).post_json("/scale", &body, self.timeout).await)
    }
}

fn outcome(answer: Result<Answer, UpstreamError>) -> (Outcome, String) {
    match answer {
        Ok(answer) if answer.status.is_success() => (Outcome::Accepted, answer.status.to_string()),
        // Too early or too often: it has not been looked at. All other errors of ours are final too.
        Ok(answer) if answer.status.is_client_error() && answer.status != StatusCode::REQUEST_TIMEOUT => {
            (Outcome::Refused, answer.status.to_string())
        }
        // An error of theirs may have come after the deed.
        Ok(answer) => (Outcome::Unknown, answer.status.to_string()),
        Err(error) if error.maybe_processed() => (Outcome::Unknown, error.to_string()),
        Err(error) => (Outcome::NotSent, error.to_string()),
    }
}

/// Reads a list of deployments. What is wrong with one does not touch the others.
pub fn parse_list(body: &[u8]) -> Result<Discovered, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::NoList)?;
    let mended;
    let list: List<'_> = if let Ok(list) = serde_json::from_str(text) {
        list
    } else {
        // Python's json writes NaN and Infinity, which are no JSON: one of them must not hide all.
        mended = without_nan(text);
        serde_json::from_str(&mended).map_err(|_| ApiError::NoList)?
    };
    let mut discovered = Discovered::default();
    for entry in list.deployments {
        let entry: Option<Entry<'_>> = serde_json::from_str(entry.get()).ok();
        let Some((id, entry)) = entry.and_then(|it| Some((DeploymentId::try_from(it.id.clone()).ok()?, it))) else {
            discovered.ignored += 1;
            continue;
        };
        if let Some(before) = discovered.found.get_mut(&id) {
            // Which of them is meant? Neither is scaled.
            *before = Err("it is listed more than once".to_owned());
        } else if discovered.found.len() < MOST {
            discovered.found.insert(id, shape(&entry));
        } else {
            discovered.ignored += 1;
        }
    }
    Ok(discovered)
}

fn shape(entry: &Entry<'_>) -> Result<Shape, String> {
    let servers_per_host = entry.servers_per_host.and_then(|it| count(it.get())).filter(|it| *it > 0);
    let servers_per_host = servers_per_host.ok_or("servers_per_host must be a whole number of at least 1")?;
    let target = entry.target_free_pct.map_or("", |it| it.get());
    Ok(Shape { servers_per_host, target: Target::parse(target).map_err(|error| error.to_string())? })
}

/// Reads the counts of a deployment. A count that is none makes the whole sample useless: with fewer
/// free servers than there are it would only scale up, with more it would scale the fleet away.
pub fn parse_status(body: &[u8]) -> Result<Counts, Bad> {
    let status: Status<'_> = serde_json::from_slice(body)
        .map_err(|_| Bad::new(BadCode::Nonsense, "the deployments API's answer is no JSON object of counts"))?;
    let read = |name: &str, value: Option<&RawValue>| {
        let wrong = |what: &str| Bad::new(BadCode::Nonsense, format!("{name} {what}"));
        let text = value.ok_or_else(|| wrong("is missing"))?.get();
        count(text).ok_or_else(|| wrong("is no whole number from 0 to 2^53"))
    };
    let counts = Counts {
        hosts: read("current_hosts", status.current_hosts)?,
        total: read("total_servers", status.total_servers)?,
        free: read("free_servers", status.free_servers)?,
    };
    if counts.free > counts.total {
        let words = format!("{} of {} servers would be free", counts.free, counts.total);
        return Err(Bad::new(BadCode::Impossible, words));
    }
    Ok(counts)
}

/// The text with `null` for every `NaN`, `Infinity` and `-Infinity` outside of strings.
fn without_nan(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    let mut quoted = false;
    while let Some(next) = rest.chars().next() {
        let token = ["NaN", "Infinity", "-Infinity"].into_iter().find(|token| !quoted && rest.starts_with(token));
        if let Some(token) = token {
            mended.push_str("null");
            rest = &rest[token.len()..];
            continue;
        }
        // An escaped character cannot end a string.
        let length = if quoted && next == '\\' {
            1 + rest[1..].chars().next().map_or(0, char::len_utf8)
        } else {
            next.len_utf8()
        };
        quoted ^= next == '"';
        mended.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    mended
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(text: &str) -> DeploymentId {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn what_is_wrong_with_one_deployment_does_not_touch_the_others() {
        let list = parse_list(
            br#"{"deployments": [
                {"id": "eu-1", "servers_per_host": 10, "target_free_pct": 15.0, "more": [1]},
                {"id": "twice", "servers_per_host": 10, "target_free_pct": 15},
                {"id": "none", "servers_per_host": 0, "target_free_pct": 15},
                {"id": "nan \"NaN\"", "servers_per_host": 10, "target_free_pct": NaN},
                {"id": "minus", "servers_per_host": 10, "target_free_pct": -1},
                {"id": "all", "servers_per_host": 10, "target_free_pct": 100},
                {"id": "text", "servers_per_host": 10, "target_free_pct": "15"},
                {"id": "half", "servers_per_host": 1.5, "target_free_pct": -Infinity},
                {"id": "bare"},
                {"id": 7, "servers_per_host": 10, "target_free_pct": 15},
                {"id": "..", "servers_per_host": 10, "target_free_pct": 15},
                {"id": "", "servers_per_host": 10, "target_free_pct": 15},
                {"id": "a\u0000b", "servers_per_host": 10, "target_free_pct": 15},
                null, 5,
                {"id": "a/b \u00e4", "servers_per_host": 1, "target_free_pct": 0.0001},
                {"id": "twice", "servers_per_host": 10, "target_free_pct": 15}
            ]}"#,
        )
        .unwrap();
        assert_eq!(list.ignored, 6);
        let fine: Vec<_> = list.found.iter().filter(|(_, shape)| shape.is_ok()).map(|(id, _)| id.as_str()).collect();
        assert_eq!(fine, ["a/b ä", "eu-1"]);
        let words = |name: &str| list.found[&id(name)].clone().unwrap_err();
        assert!(words("twice").contains("more than once"));
        for name in ["none", "half", "bare"] {
            assert!(words(name).contains("servers_per_host"), "{name}");
        }
        for (name, part) in
            [("nan \"NaN\"", "not a number"), ("minus", "negative"), ("all", "100 or more"), ("text", "not a")]
        {
            assert!(words(name).contains(part), "{name}: {}", words(name));
        }
    }

    #[test]
    fn what_is_no_list_is_none() {
        for body in ["", "[]", "{}", "{\"deployments\":{}}", "<html>", "{\"deployments\":[1,]}", "\u{1}"] {
            assert_eq!(parse_list(body.as_bytes()), Err(ApiError::NoList), "{body}");
        }
        assert_eq!(parse_list(b"\xff"), Err(ApiError::NoList));
        assert_eq!(parse_list(b"{\"deployments\":[]}"), Ok(Discovered::default()));
    }

    #[test]
    fn counts_are_whole_and_free_servers_are_among_all() {
        let read = |text: &str| parse_status(text.as_bytes());
        let counts = Counts { hosts: 10, total: 100, free: 10 };
        assert_eq!(read(r#"{"current_hosts":10,"total_servers":100.0,"free_servers":1e1,"x":[]}"#), Ok(counts));
        for (text, code, part) in [
            (r#"{"current_hosts":10,"total_servers":100}"#, BadCode::Nonsense, "free_servers is missing"),
            (r#"{"current_hosts":-1,"total_servers":1,"free_servers":1}"#, BadCode::Nonsense, "current_hosts is no"),
            (r#"{"current_hosts":1,"total_servers":1.5,"free_servers":1}"#, BadCode::Nonsense, "total_servers is no"),
            (r#"{"current_hosts":1,"total_servers":null,"free_servers":1}"#, BadCode::Nonsense, "total_servers is"),
            (r#"{"current_hosts":1,"total_servers":10,"free_servers":11}"#, BadCode::Impossible, "11 of 10"),
            (r#"{"current_hosts":1,"total_servers":NaN,"free_servers":1}"#, BadCode::Nonsense, "no JSON"),
            ("<html>", BadCode::Nonsense, "no JSON"),
            ("[]", BadCode::Nonsense, "no JSON"),
        ] {
            let bad = read(text).unwrap_err();
            assert!(bad.code == code && bad.words.contains(part), "{text}: {bad:?}");
        }
    }

    #[test]
    fn text_in_quotes_stays_as_it_is() {
        let text = r#"{"a\\":"NaN \" NaN","b":NaN,"c":[-Infinity,Infinity,-1]}"#;
        assert_eq!(without_nan(text), r#"{"a\\":"NaN \" NaN","b":null,"c":[null,null,-1]}"#);
        assert_eq!(without_nan("\"\\"), "\"\\");
    }
}
