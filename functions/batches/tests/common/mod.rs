//! What the tests of this crate share: the whole capability in one process.
//!
//! The real router, the real SDK on the embedded store, the real worker, and a real provider behind
//! a socket (a simulator). Only the socket between client and router is left out. Every error that
//! a [`Client`] sees is held to RFC 9457 and to our own conventions, whatever a test is about.

// Each test target needs another part.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
};
use batches::{
    Batches,
    provider::Provider,
    store::BatchStore,
    worker::{Timing, Worker},
};
use http::{HeaderMap, Method, Request, StatusCode, request::Builder};
use kit::{
    access::{Access, NewKey},
    clock::Clock,
    dynamo::{Store, embedded::Embedded},
    upstream::Upstream,
};
use serde_json::{Value, json};
use simulators::lorawan;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

/// Where batches are.
pub const BATCHES: &str = "/api/v1/batches";
/// Longer than anything here takes, so that what is stuck is found.
const PATIENCE: Duration = Duration::from_mins(1);

/// A deployment of this capability.
pub struct World {
    pub embedded: Embedded,
    pub store: Store,
    pub batches: Batches,
    pub access: Access,
    pub app: Router,
    pub sim: lorawan::Simulator,
    pub provider: Provider,
    stop: CancellationToken,
    _stopped_at_the_end: DropGuard,
}

impl World {
    /// A provider without faults, and no worker yet.
    pub async fn new() -> Self {
        Self::with(lorawan::Config::default(), Clock::system()).await
    }

    pub async fn with(faults: lorawan::Config, clock: Clock) -> Self {
        let sim = lorawan::start(faults).await.unwrap();
        let upstream = Upstream::new(batches::config::URL, sim.url()).unwrap();
        let provider = Provider::new(upstream, Duration::from_secs(2));
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store("test-");
        store.create_tables(&[&kit::access::TABLE, &batches::TABLE]).await.unwrap();
        let batches = Batches {
            store: BatchStore::new(store.clone()),
            provider: Some(provider.name()),
            clock: clock.clone(),
            wake: Arc::default(),
            max_age: Duration::from_hours(24),
        };
        let access = Access::new(store.clone(), clock);
        let app = kit::http::app(vec![batches::routes(batches.clone())], access.clone());
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        Self { embedded, store, batches, access, app, sim, provider, stop, _stopped_at_the_end: guard }
    }

    /// A worker that looks often and waits little.
    pub fn work(&self) {
        let timing = Timing {
            retry_base: Duration::from_millis(5),
            retry_most: Duration::from_millis(50),
            refresh: Duration::from_millis(100),
            report: Duration::from_millis(20),
            store_retry: Duration::from_millis(20),
            ..Timing::new(&self.provider)
        };
        self.work_with(timing);
    }

    /// A worker until the end of the test.
    pub fn work_with(&self, timing: Timing) {
        let Batches { store, clock, wake, .. } = self.batches.clone();
        let worker = Worker::new(store, self.provider.clone(), clock, timing, wake);
        let stop = self.stop.clone();
        tokio::spawn(async move { worker.work_forever(&stop).await });
    }

    /// A client with a new key of `tenant` that may do everything with batches.
    pub async fn client(&self, tenant: &str) -> Client {
        let scopes = ["batches:read", "batches:write"].map(str::to_owned).to_vec();
        let new = NewKey { tenant: tenant.to_owned(), scopes, label: None, expires_in_seconds: None };
        let (_, token) = self.access.keys().create(new, self.access.clock().now()).await.unwrap();
        Client { app: self.app.clone(), token }
    }

    /// How many items the table of batches holds.
    pub async fn items(&self) -> usize {
        let scan = self.store.client().scan().table_name(self.batches.store.table());
        scan.send().await.unwrap().items().len()
    }
}

/// Calls the router with a key.
#[derive(Clone)]
pub struct Client {
    pub app: Router,
    pub token: String,
}

impl Client {
    pub fn request(&self, method: Method, path: &str) -> Builder {
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", self.token))
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let what = format!("{} {}", request.method(), request.uri());
        let bodiless = request.method() == Method::HEAD;
        let answer =
            tokio::time::timeout(PATIENCE, self.app.clone().oneshot(request)).await.expect("an answer in time");
        let (parts, body) = answer.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let reply = Reply { what, status: parts.status, headers: parts.headers, body };
        if !bodiless && (reply.status.is_client_error() || reply.status.is_server_error()) {
            reply.is_a_problem();
        }
        reply
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    /// A GET with one more header.
    pub async fn get_with(&self, path: &str, name: &str, value: &str) -> Reply {
        self.send(self.request(Method::GET, path).header(name, value).body(Body::empty()).unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, &body.to_string()).await
    }

    pub async fn post_text(&self, path: &str, body: &str) -> Reply {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        self.send(request.body(body.to_owned().into()).unwrap()).await
    }

    /// A new batch of so many; its id.
    pub async fn create(&self, size: u64) -> String {
        self.post(BATCHES, &json!({ "batch_size": size })).await.expect(201).id()
    }

    /// The batch, once it is final.
    pub async fn finished(&self, id: &str) -> Value {
        self.once(id, |batch| !matches!(batch["status"].as_str(), Some("Processing" | "Cancelling"))).await
    }

    /// The batch, once the claim holds.
    pub async fn once(&self, id: &str, claim: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let reply = self.get_with(&format!("{BATCHES}/{id}?deleted=true"), "prefer", "wait=20").await;
            let batch = reply.expect(200).json();
            if claim(&batch) {
                return batch;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {batch}");
        }
    }

    /// The ids of a whole list, page by page as its links say.
    pub async fn listed(&self, path: &str) -> Vec<String> {
        let (mut ids, mut path) = (Vec::new(), path.to_owned());
        loop {
            let page = self.get(&path).await.expect(200);
            ids.extend(page.json()["items"].as_array().unwrap().iter().map(|item| text(&item["id"])));
            match page.next_link() {
                Some(next) => path = next,
                None => return ids,
            }
        }
    }
}

/// An answer, read whole.
pub struct Reply {
    what: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// Fails where the status is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.what, self.text());
        self
    }

    /// Fails where this is not the problem with this status and slug; answers its body.
    #[track_caller]
    pub fn problem(self, status: u16, slug: &str) -> Value {
        let body = self.expect(status).json();
        assert_eq!(body["type"], format!("urn:muster:problem:{slug}"), "{body}");
        body
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{}: {error}: {}", self.what, self.text()))
    }

    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn id(&self) -> String {
        text(&self.json()["id"])
    }

    /// The address of the next page.
    pub fn next_link(&self) -> Option<String> {
        let link = self.headers.get("link")?.to_str().unwrap();
        Some(link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").expect(link).to_owned())
    }

    fn is_a_problem(&self) {
        let here = format!("{}: {} {}", self.what, self.status, self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{here}");
        let body = self.json();
        assert!(body["type"].as_str().is_some_and(|it| it.starts_with("urn:muster:problem:")), "{here}");
        assert_eq!(body["status"], self.status.as_u16(), "{here}");
        for field in ["title", "detail", "instance"] {
            assert!(body[field].as_str().is_some_and(|it| !it.is_empty()), "{field} of {here}");
        }
        assert_eq!(body["instance"], self.header("x-request-id"), "{here}");
        assert!(self.body.len() < 5_000, "nobody reads a problem of {} bytes: {here:.2000}", self.body.len());
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// The texts of a list.
pub fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(text).collect()
}

/// The last five characters.
pub fn short_code(deveui: &str) -> &str {
    &deveui[11..]
}

/// What must hold for one batch that is alone at its provider: everything paid for is in the
/// answer, nothing twice, no short code twice.
#[track_caller]
pub fn holds_everything(batch: &Value, sim: &lorawan::Simulator) {
    let deveuis = texts(&batch["deveuis"]);
    let distinct: BTreeSet<_> = deveuis.iter().cloned().collect();
    assert_eq!(distinct.len(), deveuis.len(), "a DevEUI twice");
    let codes: BTreeSet<_> = deveuis.iter().map(|deveui| short_code(deveui)).collect();
    assert_eq!(codes.len(), deveuis.len(), "a short code twice");
    assert_eq!(distinct, sim.registered(), "the answer and the provider differ");
    assert_eq!(batch["registered"], deveuis.len());
}
