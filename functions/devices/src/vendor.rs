//! The client of a Packet-style device API: catalogue, capacity, devices.
//!
//! **The one thing to know:** a create has no idempotency token. [`VendorError::maybe_processed`] says
//! whether one may have worked without our being told; then only the tag tells.
//!
//! Everything is read leniently: payloads differ by years and by vendors. A root password is never
//! read, and no text of an answer is kept that repeats the userdata that was sent.

mod parse;

use std::{fmt, time::Duration};

use http::{Method, StatusCode};
use jiff::Timestamp;
use kit::upstream::{Answer, Upstream, UpstreamError, path};
use serde_json::{Value, json};
use thiserror::Error;
use uuid::Uuid;

pub use self::parse::{Seen, VendorState};
use crate::{
    catalog::{self, Capacity, Catalog, capacity_question},
    config,
    device::{Event, cut},
    request::Userdata,
    select::Candidate,
};

/// Entries of a page: the most that the vendor gives.
const PER_PAGE: usize = 1000;
/// Pages of one list that are followed; a vendor that has more repeats itself.
const MOST_PAGES: usize = 200;
/// A page of devices, each a few kilobytes.
const LIST_LIMIT: usize = 32 << 20;
/// A single answer.
const ANSWER_LIMIT: usize = 1 << 20;
/// Servers asked about in one request for their capacity.
const CAPACITY_CHUNK: usize = 100;

/// A project of a device API.
#[derive(Debug, Clone)]
pub struct Vendor {
    upstream: Upstream,
    project: String,
    tag: String,
    timeout: Duration,
}

/// What is to be created.
#[derive(Debug)]
pub struct Create<'a> {
    /// The combination.
    pub candidate: &'a Candidate,
    /// Its name.
    pub hostname: &'a str,
    /// Its tags, ours among them.
    pub tags: Vec<String>,
    /// The keys of the project that may log in.
    pub ssh_keys: &'a [String],
    /// What it runs at its first start.
    pub userdata: Option<&'a Userdata>,
    /// When the vendor takes it down by itself.
    pub termination_time: Option<Timestamp>,
}

/// A refusal: the vendor's words, and their status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// 4xx, or 503 where there is no capacity.
    pub status: StatusCode,
    /// Its words.
    pub text: String,
}

impl fmt::Display for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Why the vendor did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VendorError {
    /// No whole answer, or one that is none: HTML, nonsense.
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    /// An error of the vendor's.
    #[error("the vendor answered {status}: {text}")]
    Broken {
        /// 5xx.
        status: StatusCode,
        /// Its words.
        text: String,
    },
    /// Too many requests.
    #[error("the vendor asks for fewer requests")]
    Limited {
        /// For how long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The token, or what it may do.
    #[error("the vendor does not accept the token ({status}); is MUSTER_PACKET_TOKEN right?")]
    Denied {
        /// 401 or 403.
        status: StatusCode,
        /// Its words. They may repeat the token, so nobody is shown them.
        text: String,
    },
    /// There is no such thing.
    #[error("the vendor has no such thing: {0}")]
    NotFound(Said),
    /// No server of the plan in the facility.
    #[error("{0}")]
    OutOfCapacity(Said),
    /// The project may have no more.
    #[error("{0}")]
    Quota(Said),
    /// The plan, the facility or the operating system is not given.
    #[error("{0}")]
    Place(Said),
    /// Anything else it does not accept.
    #[error("the vendor refused it ({status}): {text}")]
    Refused {
        /// 4xx.
        status: StatusCode,
        /// Its words.
        text: String,
    },
}

impl VendorError {
    /// Whether a request that changes something may have been carried out.
    pub const fn maybe_processed(&self) -> bool {
        match self {
            Self::Upstream(error) => error.maybe_processed(),
            Self::Broken { .. } => true,
            _ => false,
        }
    }

    /// Whether the same request may well succeed later.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Upstream(_) | Self::Broken { .. } | Self::Limited { .. })
    }

    /// The status of the answer, where there was one.
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Upstream(UpstreamError::Unreadable { status, .. } | UpstreamError::BodyTooLarge { status, .. })
            | Self::Broken { status, .. }
            | Self::Denied { status, .. }
            | Self::Refused { status, .. }
            | Self::NotFound(Said { status, .. })
            | Self::OutOfCapacity(Said { status, .. })
            | Self::Quota(Said { status, .. })
            | Self::Place(Said { status, .. }) => Some(*status),
            Self::Upstream(UpstreamError::NotSent { .. } | UpstreamError::Unanswered { .. }) => None,
            Self::Limited { .. } => Some(StatusCode::TOO_MANY_REQUESTS),
        }
    }

    /// What can be kept of it: the vendor's words, where they may be shown, else ours.
    pub fn words(&self) -> String {
        match self {
            Self::Broken { text, .. } | Self::Refused { text, .. } => text.clone(),
            Self::NotFound(said) | Self::OutOfCapacity(said) | Self::Quota(said) | Self::Place(said) => {
                said.text.clone()
            }
            Self::Upstream(_) | Self::Limited { .. } | Self::Denied { .. } => self.to_string(),
        }
    }

    /// For how long the vendor wants to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after } => *retry_after,
            _ => None,
        }
    }
}

/// What a look at a device has shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// This.
    Seen(Box<Seen>),
    /// 404 or 403: it is gone, or it is kept from us.
    Missing(StatusCode),
}

impl Vendor {
    /// The project of the device API behind `upstream`; a request may take `timeout`. Devices are
    /// tagged `<tag>:<id>`.
    pub fn new(upstream: Upstream, project: String, tag: String, timeout: Duration) -> Self {
        Self { upstream, project, tag, timeout }
    }

    /// How long a request may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What our tags begin with, before the colon.
    pub fn tag_prefix(&self) -> &str {
        &self.tag
    }

    /// The tag of a device of ours.
    pub fn tag(&self, id: Uuid) -> String {
        format!("{}:{id}", self.tag)
    }

    /// The device of ours that a machine is tagged as, if it is.
    pub fn owner(&self, seen: &Seen) -> Option<Uuid> {
        seen.tags.iter().find_map(|tag| tag.strip_prefix(&self.tag)?.strip_prefix(':')?.parse().ok())
    }

    /// Reads the token where it takes a while to read, so that the first request need not wait.
    pub async fn warm(&self) {
        self.upstream.warm().await;
    }

    /// All that can be had.
    pub async fn catalog(&self) -> Result<Catalog, VendorError> {
        let plans = path(&["projects", &self.project, "plans"]);
        let facilities = path(&["projects", &self.project, "facilities"]);
        let ((_, systems), (_, plans), (_, facilities)) = tokio::try_join!(
            self.list("/operating-systems", "operating_systems", &[]),
            self.list(&plans, "plans", &[]),
            self.list(&facilities, "facilities", &[]),
        )?;
        Ok(Catalog::new(&systems, &plans, &facilities))
    }

    /// How much of each plan each facility has: in bulk where the vendor tells; else it is asked for
    /// these pairs of plan and facility; and nothing is known where it does not answer either.
    pub async fn capacity(&self, pairs: &[(String, String)]) -> Result<Capacity, VendorError> {
        match self.json(Method::GET, "/capacity", None).await {
            Ok((_, value)) => return Ok(Capacity::parse(&value)),
            Err(error) if !is_absent(&error) => return Err(error),
            Err(_) => {}
        }
        let mut capacity = Capacity::default();
        for chunk in pairs.chunks(CAPACITY_CHUNK) {
            let question = capacity_question(chunk.iter().map(|(plan, facility)| (facility.as_str(), plan.as_str())));
            match self.json(Method::POST, "/capacity", Some(question)).await {
                Ok((_, value)) => capacity.learn(&value),
                Err(error) if is_absent(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(capacity)
    }

    /// Asks for a machine.
    pub async fn create(&self, create: &Create<'_>) -> Result<Seen, VendorError> {
        let candidate = create.candidate;
        let mut body = json!({
            "plan": candidate.plan, "operating_system": candidate.os, "facility": candidate.facility,
            "hostname": create.hostname, "billing_cycle": "hourly", "tags": create.tags,
        });
        if !create.ssh_keys.is_empty() {
            body["project_ssh_keys"] = json!(create.ssh_keys);
        }
        if let Some(userdata) = create.userdata {
            body["userdata"] = json!(userdata.expose());
        }
        if let Some(at) = create.termination_time {
            body["termination_time"] = json!(at.to_string());
        }
        let answer = self.json(Method::POST, &path(&["projects", &self.project, "devices"]), Some(body)).await;
        let (status, value) = answer.map_err(|error| of_create(error, create))?;
        Seen::parse(&value, status).ok_or_else(|| unreadable("a device without an id"))
    }

    /// One machine.
    pub async fn look(&self, id: &str) -> Result<Look, VendorError> {
        let path = format!("{}?include=provisioning_events", path(&["devices", id]));
        match self.json(Method::GET, &path, None).await {
            Ok((status, value)) => match Seen::parse(&value, status) {
                Some(seen) => Ok(Look::Seen(Box::new(seen))),
                None => Err(unreadable("a device without an id")),
            },
            Err(
                VendorError::NotFound(Said { status, .. })
                | VendorError::Denied { status: status @ StatusCode::FORBIDDEN, .. },
            ) => Ok(Look::Missing(status)),
            Err(error) => Err(error),
        }
    }

    /// The machines with a device's tag, whatever their state.
    pub async fn tagged(&self, id: Uuid) -> Result<Vec<Seen>, VendorError> {
        let tag = self.tag(id);
        // A vendor that does not know the filter lists everything.
        let mut found = self.devices(&[("tag", &tag)]).await?;
        found.retain(|seen| seen.tags.contains(&tag));
        Ok(found)
    }

    /// All machines of the project that carry a tag of ours.
    pub async fn ours(&self) -> Result<Vec<Seen>, VendorError> {
        let mut found = self.devices(&[]).await?;
        found.retain(|seen| self.owner(seen).is_some());
        Ok(found)
    }

    async fn devices(&self, query: &[(&str, &str)]) -> Result<Vec<Seen>, VendorError> {
        // Without their events, a device that is being installed would seem to stand still.
        let query = [query, &[("include", "provisioning_events")]].concat();
        let (status, entries) = self.list(&path(&["projects", &self.project, "devices"]), "devices", &query).await?;
        Ok(entries.iter().filter_map(|entry| Seen::parse(entry, status)).collect())
    }

    /// Takes a machine down, by force. Answers with which status: that of a success, or 404 (410) where
    /// the vendor does not have it.
    pub async fn delete(&self, id: &str) -> Result<StatusCode, VendorError> {
        let path = format!("{}?force_delete=true", path(&["devices", id]));
        match self.json(Method::DELETE, &path, Some(json!({ "force_delete": true }))).await {
            Ok((status, _)) | Err(VendorError::NotFound(Said { status, .. })) => Ok(status),
            Err(error) => Err(error),
        }
    }

    /// When the vendor takes the machine down by itself, from now on. Answers what it then says.
    pub async fn set_termination(&self, id: &str, at: Option<Timestamp>) -> Result<Option<Seen>, VendorError> {
        let body = json!({ "termination_time": at.map(|at| at.to_string()) });
        let (status, value) = self.json(Method::PUT, &path(&["devices", id]), Some(body)).await?;
        Ok(Seen::parse(&value, status))
    }

    /// What has happened to a machine, by the vendor's word; and the status of the answer.
    pub async fn events(&self, id: &str) -> Result<(StatusCode, Vec<Event>), VendorError> {
        let (status, entries) = self.list(&path(&["devices", id, "events"]), "events", &[]).await?;
        Ok((status, entries.iter().filter_map(parse::event).collect()))
    }

    /// How a machine is, in the vendor's word, such as `ok`, `warning` or `critical`; nothing where the
    /// vendor does not tell.
    pub async fn health(&self, id: &str) -> Result<Option<String>, VendorError> {
        match self.json(Method::GET, &path(&["devices", id, "diagnostics", "health", "rollup"]), None).await {
            Ok((_, value)) => Ok(parse::health(&value)),
            // To a token that may not see it, it is not offered either.
            Err(VendorError::Denied { status: StatusCode::FORBIDDEN, .. }) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reboots a machine, or switches it on or off.
    pub async fn act(&self, id: &str, action: &str) -> Result<(), VendorError> {
        let body = json!({ "type": action });
        self.json(Method::POST, &path(&["devices", id, "actions"]), Some(body)).await.map(drop)
    }

    /// All entries of a list, over all its pages; and the status of the last one.
    async fn list(
        &self,
        path: &str,
        key: &str,
        query: &[(&str, &str)],
    ) -> Result<(StatusCode, Vec<Value>), VendorError> {
        let filters: Vec<_> = query.iter().map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
        let filter = filters.concat();
        let mut entries = Vec::new();
        for page in 1..=MOST_PAGES {
            let path = format!("{path}?per_page={PER_PAGE}&page={page}{filter}");
            let (status, value) = self.json(Method::GET, &path, None).await?;
            let Some(page) = catalog::page(value, key, PER_PAGE) else {
                return Err(unreadable(&format!("a list without `{key}`")));
            };
            let last = !page.more || page.entries.is_empty();
            entries.extend(page.entries);
            if last {
                return Ok((status, entries));
            }
        }
        Err(unreadable(&format!("a list of more than {MOST_PAGES} pages")))
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value), VendorError> {
        let limit = if method == Method::GET { LIST_LIMIT } else { ANSWER_LIMIT };
        let body = body.map(|body| body.to_string().into_bytes());
        let answer = self.upstream.with_body_limit(limit).send(method, path, body, self.timeout).await?;
        read(&answer)
    }
}

/// A value in a query.
fn encoded(text: &str) -> String {
    // The path of one segment, without its slash.
    path(&[text]).trim_start_matches('/').to_owned()
}

/// The JSON of a good answer, with its status; else what is wrong. An empty body is as good as null.
fn read(answer: &Answer) -> Result<(StatusCode, Value), VendorError> {
    let status = answer.status;
    if status.is_success() {
        if answer.body.iter().all(u8::is_ascii_whitespace) {
            return Ok((status, Value::Null));
        }
        return Ok((status, answer.json()?));
    }
    let text = parse::words(&answer.body);
    if parse::says_out_of_capacity(status, &text) {
        return Err(VendorError::OutOfCapacity(Said { status, text }));
    }
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => VendorError::Denied { status, text },
        StatusCode::NOT_FOUND | StatusCode::GONE => VendorError::NotFound(Said { status, text }),
        StatusCode::TOO_MANY_REQUESTS => VendorError::Limited { retry_after: answer.retry_after },
        StatusCode::REQUEST_TIMEOUT => VendorError::Broken { status, text },
        status if status.is_client_error() => VendorError::Refused { status, text },
        status => VendorError::Broken { status, text },
    })
}

/// What a refusal to create means for the combination.
fn of_create(error: VendorError, create: &Create<'_>) -> VendorError {
    // A vendor may repeat what it does not like.
    let scrub = |text: String| match create.userdata {
        Some(userdata) if repeats(&text, userdata.expose()) => "its words repeat the userdata".to_owned(),
        _ => text,
    };
    match error {
        VendorError::Refused { status, text } => {
            let candidate = create.candidate;
            if parse::says_quota(&text) {
                VendorError::Quota(Said { status, text: scrub(text) })
            } else if parse::names_place(&text, [&candidate.os, &candidate.plan, &candidate.facility]) {
                VendorError::Place(Said { status, text: scrub(text) })
            } else {
                VendorError::Refused { status, text: scrub(text) }
            }
        }
        VendorError::Broken { status, text } => VendorError::Broken { status, text: scrub(text) },
        VendorError::OutOfCapacity(Said { status, text }) => {
            VendorError::OutOfCapacity(Said { status, text: scrub(text) })
        }
        VendorError::NotFound(Said { status, text }) => {
            let text = format!("{}; is {} the id of a project of this token?", scrub(text), config::PROJECT);
            VendorError::NotFound(Said { status, text })
        }
        other => other,
    }
}

/// Whether a text holds a part of another that is long enough to tell something.
fn repeats(text: &str, secret: &str) -> bool {
    const TELLING: usize = 8;
    let secret: Vec<char> = secret.chars().collect();
    if secret.len() <= TELLING {
        return !secret.is_empty() && text.contains(&secret.iter().collect::<String>());
    }
    let parts: std::collections::HashSet<&[char]> = secret.windows(TELLING).collect();
    let text: Vec<char> = text.chars().collect();
    text.windows(TELLING).any(|part| parts.contains(part))
}

/// Whether the vendor does not offer what was asked for at all.
fn is_absent(error: &VendorError) -> bool {
    match error {
        VendorError::NotFound(_) => true,
        VendorError::Refused { status, .. } | VendorError::Broken { status, .. } => {
            matches!(*status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
        }
        _ => false,
    }
}

fn unreadable(what: &str) -> VendorError {
    VendorError::Upstream(UpstreamError::Unreadable { status: StatusCode::OK, reason: cut(what) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_repeats_a_telling_part_of_a_secret_is_known() {
        let secret = "#cloud-config\npassword: hunter2";
        assert!(repeats("line 2 of `password: hunter2` is odd", secret));
        assert!(repeats("`nfig\npas`", secret));
        assert!(!repeats("the userdata is odd", secret));
        assert!(!repeats("pass", secret), "a few letters tell nothing");
        assert!(repeats("short: abc", "abc"));
        assert!(!repeats("anything", ""));
    }

    #[test]
    fn what_the_vendor_says_of_a_refused_token_is_not_repeated() {
        let text = "Invalid token `tok-1234`".to_owned();
        let denied = VendorError::Denied { status: StatusCode::UNAUTHORIZED, text };
        for shown in [denied.to_string(), denied.words()] {
            assert!(shown.contains("MUSTER_PACKET_TOKEN") && !shown.contains("tok-1234"), "{shown}");
        }
    }

    #[test]
    fn an_answer_is_kept_with_its_status_and_the_vendors_own_words() {
        let (status, text) = (StatusCode::SERVICE_UNAVAILABLE, "none left".to_owned());
        let said = Said { status, text: text.clone() };
        for error in [
            VendorError::Broken { status, text: text.clone() },
            VendorError::Refused { status, text },
            VendorError::NotFound(said.clone()),
            VendorError::OutOfCapacity(said.clone()),
            VendorError::Quota(said.clone()),
            VendorError::Place(said),
        ] {
            assert_eq!((error.status(), error.words().as_str()), (Some(status), "none left"), "{error:?}");
        }
        assert_eq!(VendorError::Limited { retry_after: None }.status(), Some(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(unreadable("x").status(), Some(StatusCode::OK));
        let lost = UpstreamError::Unanswered { reason: "no answer in time".to_owned() };
        assert_eq!(VendorError::from(lost).status(), None);
    }
}
