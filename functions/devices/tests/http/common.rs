//! What these tests share: the whole capability in one process, on the embedded store and a simulated
//! vendor behind a socket, with time moved by hand.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use devices::{
    Devices,
    config::{Config, PROJECT, TIMEOUT, TOKEN, URL},
    seal::Sealer,
    store::{DeviceStore, TABLE},
    supply::Supply,
    worker::{Rounds, Worker},
};
use http::{HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use kit::{
    access::Access,
    clock::Clock,
    dynamo::{
        AttributeValue, Store,
        embedded::{Embedded, Faults},
    },
    testing::{Client, Reply},
    upstream::Upstream,
};
use serde_json::Value;
use simulators::packet::{self, Simulator};
use tokio::sync::Mutex;

/// Where devices are.
pub const DEVICES: &str = "/api/v1/devices";
/// A whole second, at which the simulator's time is 0.
pub const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);
/// Time between two rounds of the worker.
const STEP: Duration = Duration::from_secs(5);

/// A deployment of this capability, its worker, and its vendor.
pub struct World {
    pub embedded: Embedded,
    pub store: Store,
    pub app: Router,
    pub access: Access,
    pub clock: Clock,
    pub sim: Simulator,
    rounds: Mutex<Rounds>,
}

impl World {
    /// A vendor where nothing goes wrong.
    pub async fn new() -> Self {
        Self::with(packet::Config::default()).await
    }

    /// A vendor where these go wrong.
    pub async fn faulty(rules: &[&str]) -> Self {
        let faults = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        Self::with(packet::Config { faults, ..packet::Config::default() }).await
    }

    pub async fn with(config: packet::Config) -> Self {
        let sim = packet::start(packet::Config { manual: true, epoch: Some(NOON), ..config }).await.unwrap();
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store("test-");
        store.create_tables(&[&kit::access::TABLE, &TABLE]).await.unwrap();
        let clock = Clock::manual(NOON);
        let access = Access::new(store.clone(), clock.clone());
        let config = config_of(&settings(&sim));
        let devices = Devices::new(&config, store.clone(), clock.clone(), Arc::default());
        let app = kit::http::app(vec![devices::routes(devices)], access.clone());
        // A worker of its own knows nothing of what the handlers have read, as on AWS.
        let supply = Supply::new(config.vendor.unwrap(), DeviceStore::new(store.clone()), clock.clone());
        let worker = Worker::new(supply, store.clone(), Sealer::new(config.token), clock.clone(), Arc::default());
        Self { embedded, store, app, access, clock, sim, rounds: Mutex::new(Rounds::new(worker)) }
    }

    /// The same router with other settings; without one where its value is empty.
    pub fn app_with(&self, changed: &[(&'static str, &str)]) -> Router {
        let mut settings = settings(&self.sim);
        settings.extend(changed.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let devices = Devices::new(&config_of(&settings), self.store.clone(), self.clock.clone(), Arc::default());
        kit::http::app(vec![devices::routes(devices)], self.access.clone())
    }

    /// The same router on a store that takes a while, so that requests at once come into each other's
    /// way.
    pub fn slow_app(&self) -> Router {
        let faults = Faults { latency: Duration::from_millis(20), ..Faults::default() };
        let store = self.embedded.store_with_faults("test-", faults);
        let devices = Devices::new(&config_of(&settings(&self.sim)), store, self.clock.clone(), Arc::default());
        kit::http::app(vec![devices::routes(devices)], self.access.clone())
    }

    /// A client that may do everything with devices.
    pub async fn client(&self, tenant: &str) -> Client {
        Client::new(&self.app, &self.access, tenant, &["devices:read", "devices:write"]).await
    }

    pub fn devices(&self) -> DeviceStore {
        DeviceStore::new(self.store.clone())
    }

    /// The worker takes everything as far as it goes at present.
    pub async fn round(&self) {
        self.rounds.lock().await.round().await.unwrap();
    }

    /// Time passes, here and at the vendor.
    pub fn pass(&self, seconds: u64) {
        let by = Duration::from_secs(seconds);
        self.clock.advance(by);
        self.sim.advance(by);
    }

    /// The worker works until the device is in this state.
    pub async fn until(&self, client: &Client, id: &str, state: &str) -> Value {
        for _ in 0..400 {
            self.round().await;
            let device = show(client, id).await;
            if device["state"] == state {
                return device;
            }
            self.pass(STEP.as_secs());
        }
        panic!("not {state} in time: {}", show(client, id).await);
    }

    /// A device that is up; its id.
    pub async fn active(&self, client: &Client, body: impl ToString) -> String {
        let id = launch(client, body).await;
        self.until(client, &id, "Active").await;
        id
    }

    /// Every item of the table.
    pub async fn items(&self) -> Vec<HashMap<String, AttributeValue>> {
        let (mut items, mut start) = (Vec::new(), None);
        loop {
            let scan = self.store.client().scan().table_name(self.store.table(&TABLE));
            let page = scan.set_exclusive_start_key(start).send().await.unwrap();
            items.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key;
            if start.is_none() {
                return items;
            }
        }
    }

    /// The ids of the machines that cost at present.
    pub fn alive(&self) -> Vec<String> {
        self.sim.alive().into_iter().map(|machine| machine.id).collect()
    }

    /// Somebody else with our token deletes a machine.
    pub async fn somebody_deletes(&self, machine: &str) {
        let vendor = Upstream::builder(URL, self.sim.url())
            .secret_header(HeaderName::from_static("x-auth-token"), HeaderValue::from_static(packet::TOKEN))
            .build()
            .unwrap();
        let path = format!("/devices/{machine}");
        let answer = vendor.send(Method::DELETE, &path, None, Duration::from_secs(5)).await.unwrap();
        assert_eq!(answer.status, 204);
    }
}

fn settings(sim: &Simulator) -> HashMap<&'static str, String> {
    HashMap::from([
        (URL, sim.url().to_owned()),
        (PROJECT, packet::PROJECT.to_owned()),
        (TOKEN, packet::TOKEN.to_owned()),
        (TIMEOUT, "2".to_owned()),
    ])
}

fn config_of(settings: &HashMap<&'static str, String>) -> Config {
    Config::from_settings(|name| settings.get(name).cloned()).unwrap()
}

/// Asks for a device; its id.
pub async fn launch(client: &Client, body: impl ToString) -> String {
    client.post(DEVICES, body).await.expect(202).id()
}

/// The device.
pub async fn show(client: &Client, id: &str) -> Value {
    client.get(&path(id, "")).await.expect(200).json()
}

/// Its whole time line.
pub async fn time_line(client: &Client, id: &str) -> Vec<Value> {
    client.all(&path(id, "/events?limit=500")).await
}

/// The path of a device, and what comes after it.
pub fn path(id: &str, more: &str) -> String {
    format!("{DEVICES}/{id}{more}")
}

/// POSTs without a body and without a content type.
pub async fn post_nothing(client: &Client, path: &str) -> Reply {
    client.send(client.request(Method::POST, path).body(Body::empty()).unwrap()).await
}

/// A POST with an idempotency key.
pub async fn post_once(client: &Client, key: &str, body: impl ToString) -> Reply {
    let request = client.request(Method::POST, DEVICES).header("idempotency-key", key);
    let request = request.header("content-type", "application/json");
    client.send(request.body(body.to_string().into()).unwrap()).await
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// The text of each item's field.
pub fn field(items: &[Value], name: &str) -> Vec<String> {
    items.iter().map(|it| text(&it[name])).collect()
}

/// NOON and so many seconds.
pub fn at(seconds: i64) -> String {
    (NOON + jiff::SignedDuration::from_secs(seconds)).to_string()
}

/// A 503 that says when to come back.
#[track_caller]
pub fn is_503(reply: Reply, slug: &str) -> Value {
    assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{}", reply.text());
    reply.problem(503, slug)
}
