//! What these tests share.

use std::time::Duration;

use autoscaler::{
    Scaling,
    config::{Config, TIMEOUT, URL},
    decision::{Decision, Reason},
    deployments::DeploymentId,
    machine::State,
    need::{Counts, Shape, Target},
    samples::{Slot, slot},
    store::{Record, ScalerStore, ShardId},
    tick::{Report, Scaler},
};
use axum::{Router, body::Body};
use http::Method;
use jiff::Timestamp;
use kit::{
    access::Access,
    clock::Clock,
    dynamo::{
        Store,
        embedded::{Embedded, Faults},
    },
    testing::{Client, Reply},
};
use serde_json::Value;
use simulators::deployments::{self, Load, Simulator, Spec};
use tokio_util::sync::CancellationToken;

/// A whole minute, at which the simulator's time is 0.
pub const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);
/// Its slot.
pub const SLOT: Slot = 60_000_000;

/// A deployment of this capability, and its upstream.
pub struct World {
    pub embedded: Embedded,
    pub store: Store,
    pub config: Config,
    pub app: Router,
    pub access: Access,
    pub clock: Clock,
    pub sim: Simulator,
}

impl World {
    /// On a deployments API like this, with time moved by hand.
    pub async fn new(config: deployments::Config) -> Self {
        let sim = deployments::start(deployments::Config { manual: true, ..config }).await.unwrap();
        let url = sim.url().to_owned();
        Self::on(sim, Some(url)).await
    }

    /// On a deployments API that has only these.
    pub async fn of(fleet: Vec<Spec>) -> Self {
        Self::new(deployments::Config { fleet: Some(fleet), ..deployments::Config::default() }).await
    }

    pub async fn on(sim: Simulator, url: Option<String>) -> Self {
        let config = Config::from_settings(|name| match name {
            URL => url.clone(),
            TIMEOUT => Some("0.5".to_owned()),
            _ => None,
        });
        let config = config.unwrap();
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store("test-");
        store.create_tables(&[&kit::access::TABLE, &autoscaler::TABLE]).await.unwrap();
        let clock = Clock::manual(NOON);
        let access = Access::new(store.clone(), clock.clone());
        let scaling = Scaling::new(&config, store.clone(), clock.clone());
        let app = kit::http::app(vec![autoscaler::routes(scaling)], access.clone());
        Self { embedded, store, config, app, access, clock, sim }
    }

    /// A client that may do everything with deployments.
    pub async fn client(&self) -> Client {
        Client::new(&self.app, &self.access, "acme", &["autoscaler:read", "autoscaler:write"]).await
    }

    /// The same router on a store with these faults.
    pub fn app_on(&self, faults: Faults) -> Router {
        let store = self.embedded.store_with_faults("test-", faults);
        let scaling = Scaling::new(&self.config, store, self.clock.clone());
        kit::http::app(vec![autoscaler::routes(scaling)], self.access.clone())
    }

    pub fn records(&self) -> ScalerStore {
        ScalerStore::new(self.store.clone(), self.sim.url())
    }

    /// The tick of the present slot, by a worker that remembers nothing.
    pub async fn tick(&self) -> Report {
        let api = self.config.deployments.clone().unwrap();
        let scaler = Scaler::new(api, self.store.clone(), self.config.at_once, self.clock.clone());
        scaler.tick(slot(self.clock.now()), &CancellationToken::new()).await.unwrap()
    }

    /// Half a minute passes, here and there.
    pub fn pass(&self) {
        self.clock.advance(Duration::from_secs(30));
        self.sim.advance(Duration::from_secs(30));
    }

    /// So many ticks, half a minute apart; time has passed after the last one too.
    pub async fn ticks(&self, count: u32) {
        for _ in 0..count {
            self.tick().await;
            self.pass();
        }
    }

    /// Keeps a state as a tick would.
    pub async fn put(&self, name: &str, state: State) {
        let (records, id) = (self.records(), id(name));
        let mut shard = records.shard(ShardId::of(&id)).await.unwrap();
        shard.states.insert(id.clone(), state);
        records.put_shard(ShardId::of(&id), &mut shard, "a test").await.unwrap();
    }

    /// Keeps decisions that are over.
    pub async fn put_history(&self, name: &str, decisions: &[Decision]) {
        let records: Vec<_> = decisions.iter().map(|it| Record::Decision(id(name), it.clone())).collect();
        self.records().put_history(&records).await.unwrap();
    }
}

pub fn id(name: &str) -> DeploymentId {
    name.to_owned().try_into().unwrap()
}

/// A deployment whose demand stands still.
pub fn spec(id: &str, servers_per_host: u64, target: &str, hosts: u64, busy: u64) -> Spec {
    let target_free_pct = target.parse().unwrap();
    Spec { id: id.to_owned(), servers_per_host, target_free_pct, hosts, load: Load::Steady { busy } }
}

pub fn shape(servers_per_host: u64, target: &str) -> Shape {
    Shape { servers_per_host, target: Target::parse(target).unwrap() }
}

/// A state with a good sample in each of the slots, in which `busy` of 100 servers are busy.
pub fn state(slots: std::ops::RangeInclusive<Slot>, busy: u64) -> State {
    let mut state = State::new(Some(shape(10, "15")), *slots.start(), 0);
    for slot in slots {
        state.samples.push(slot, Ok(Counts { hosts: 10, total: 100, free: 100 - busy }));
    }
    state
}

/// The same with a decision of the last slot.
pub fn decided(reason: Reason) -> State {
    let mut state = state(SLOT - 19..=SLOT, 85);
    state.decision = Some(Decision::new(SLOT, reason));
    state
}

/// The path of a deployment, and what comes after it.
pub fn path(id: &str, more: &str) -> String {
    format!("/api/v1{}{more}", kit::upstream::path(&["deployments", id]))
}

/// PUTs JSON with these headers.
pub async fn put(client: &Client, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    let mut request = client.request(Method::PUT, path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send(request.body(Body::from(body.to_string())).unwrap()).await
}

/// The text of each item's field.
pub fn field(items: &[Value], name: &str) -> Vec<String> {
    items.iter().map(|it| it[name].as_str().unwrap_or_default().to_owned()).collect()
}
