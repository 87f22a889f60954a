//! What the tests of this crate share: the whole capability in one process.
//!
//! The real router, the real SDK on the embedded store, the real worker, and a real provider behind
//! a socket (a simulator). Only the socket between client and router is left out. Every error that
//! a [`Client`] sees is held to RFC 9457 and to our own conventions, whatever a test is about.

// Each test target needs another part.
#![allow(dead_code, unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::Router;
use batches::{
    Batches,
    provider::Provider,
    store::BatchStore,
    worker::{Timing, Worker},
};
pub use kit::testing::{Client, Reply};
use kit::{
    access::Access,
    clock::Clock,
    dynamo::{Store, embedded::Embedded},
    upstream::Upstream,
};
use serde_json::{Value, json};
use simulators::lorawan;
use tokio_util::sync::{CancellationToken, DropGuard};

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
        Client::new(&self.app, &self.access, tenant, &["batches:read", "batches:write"]).await
    }

    /// How many items the table of batches holds.
    pub async fn items(&self) -> usize {
        let scan = self.store.client().scan().table_name(self.batches.store.table());
        scan.send().await.unwrap().items().len()
    }
}

/// What the tests of batches ask for, over and over.
pub trait OfBatches {
    /// A new batch of so many; its id.
    async fn create(&self, size: u64) -> String;
    /// The batch, once the claim holds.
    async fn once(&self, id: &str, claim: impl Fn(&Value) -> bool) -> Value;
    /// The batch, once it is final.
    async fn finished(&self, id: &str) -> Value;
    /// The ids of a whole list, page by page as its links say.
    async fn listed(&self, path: &str) -> Vec<String>;
}

impl OfBatches for Client {
    async fn create(&self, size: u64) -> String {
        self.post(BATCHES, json!({ "batch_size": size })).await.expect(201).id()
    }

    async fn once(&self, id: &str, claim: impl Fn(&Value) -> bool) -> Value {
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

    async fn finished(&self, id: &str) -> Value {
        self.once(id, |batch| !matches!(batch["status"].as_str(), Some("Processing" | "Cancelling"))).await
    }

    async fn listed(&self, path: &str) -> Vec<String> {
        self.all(path).await.iter().map(|item| text(&item["id"])).collect()
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
