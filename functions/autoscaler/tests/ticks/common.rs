//! What these tests share.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use autoscaler::{
    config::{Config, TIMEOUT, URL},
    decision::Decision,
    deployments::DeploymentId,
    machine::State,
    policy::Given,
    samples::{Slot, slot},
    store::{ScalerStore, ShardId, Stored, Written},
    tick::{Report, Scaler},
};
use jiff::Timestamp;
use kit::{
    clock::Clock,
    dynamo::{Store, embedded::Embedded},
};
use simulators::deployments::{self, Load, Scale, Simulator, Spec};
use tokio_util::sync::CancellationToken;

/// A whole minute, at which the simulator's time is 0.
pub const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// A deployment of this capability, and its upstream.
pub struct World {
    pub embedded: Embedded,
    pub store: Store,
    pub config: Config,
    pub clock: Clock,
    pub sim: Simulator,
}

impl World {
    /// On a deployments API like this, with time moved by hand.
    pub async fn new(config: deployments::Config) -> Self {
        Self::with(config, "0.3").await
    }

    /// The same with another timeout, in seconds.
    pub async fn with(config: deployments::Config, timeout: &str) -> Self {
        let sim = deployments::start(deployments::Config { manual: true, ..config }).await.unwrap();
        let config = Config::from_settings(|name| match name {
            URL => Some(sim.url().to_owned()),
            TIMEOUT => Some(timeout.to_owned()),
            _ => None,
        });
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store("test-");
        store.create_tables(&[&autoscaler::store::TABLE]).await.unwrap();
        Self { embedded, store, config: config.unwrap(), clock: Clock::manual(NOON), sim }
    }

    /// A worker. What it remembers from tick to tick is its own.
    pub fn scaler(&self) -> Scaler {
        self.scaler_on(self.store.clone())
    }

    /// A worker on a store that may have faults.
    pub fn scaler_on(&self, store: Store) -> Scaler {
        let api = self.config.deployments.clone().unwrap();
        Scaler::new(api, store, self.config.at_once, self.clock.clone())
    }

    pub fn slot(&self) -> Slot {
        slot(self.clock.now())
    }

    /// The tick of the present slot, if it is not done.
    pub async fn tick(&self, scaler: &Scaler) -> Report {
        scaler.tick(self.slot(), &CancellationToken::new()).await.unwrap()
    }

    /// Half a minute passes, here and there.
    pub fn pass(&self) {
        self.clock.advance(Duration::from_secs(30));
        self.sim.advance(Duration::from_secs(30));
    }

    /// So many slots, one after the other: each ticks and passes.
    pub async fn slots(&self, scaler: &Scaler, count: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        for _ in 0..count {
            reports.push(self.tick(scaler).await);
            self.pass();
        }
        reports
    }

    pub fn records(&self) -> ScalerStore {
        ScalerStore::new(self.store.clone(), self.sim.url())
    }

    /// All states, as the store has them.
    pub async fn states(&self) -> BTreeMap<DeploymentId, State> {
        self.records().shards().await.unwrap().into_values().flat_map(|shard| shard.states).collect()
    }

    pub async fn state(&self, name: &str) -> State {
        let id = id(name);
        self.records().shard(ShardId::of(&id)).await.unwrap().states.remove(&id).unwrap()
    }

    /// The decision that holds.
    pub async fn decision(&self, name: &str) -> Decision {
        self.state(name).await.decision.unwrap()
    }

    /// Sets a policy, for one or for all.
    pub async fn set(&self, name: Option<&str>, given: Given) {
        let store = self.records();
        let id = name.map(id);
        let version = store.policy(id.as_ref()).await.unwrap().version + 1;
        let stored = Stored { version, given, set_by: Some("a test".to_owned()), set_at: Some(NOON) };
        assert_eq!(store.put_policy(id.as_ref(), &stored).await.unwrap(), Written::Ours);
    }

    /// Requests to scale this deployment, as `delta`s, in the order of their arrival.
    pub fn sent(&self, name: &str) -> Vec<i64> {
        self.sim.scales().into_iter().filter(|scale| scale.id == name).map(|scale| scale.delta).collect()
    }

    pub fn scales(&self) -> Vec<Scale> {
        self.sim.scales()
    }
}

pub fn id(name: &str) -> DeploymentId {
    name.to_owned().try_into().unwrap()
}

/// A deployment with 10 servers on a host and 15 % to be free.
pub fn spec(id: &str, hosts: u64, load: Load) -> Spec {
    Spec { id: id.to_owned(), servers_per_host: 10, target_free_pct: "15".parse().unwrap(), hosts, load }
}

/// So many busy servers from so many seconds on.
pub fn points(points: &[(u64, u64)]) -> Load {
    let point = |&(at, busy): &(u64, u64)| simulators::deployments::Point { at: Duration::from_secs(at), busy };
    Load::Points { points: points.iter().map(point).collect() }
}

/// Only these deployments.
pub fn fleet(specs: Vec<Spec>) -> deployments::Config {
    deployments::Config { fleet: Some(specs), ..deployments::Config::default() }
}

/// The same deployments under names that lie in a few shards: a write costs a test more than all the
/// readings of its shard.
pub fn few_shards(config: deployments::Config, shards: usize) -> deployments::Config {
    let mut allowed = BTreeSet::new();
    let names = (0..).map(|number| format!("d{number}")).filter(move |name| {
        let shard = ShardId::of(&id(name));
        allowed.contains(&shard) || (allowed.len() < shards && allowed.insert(shard))
    });
    let renamed = config.specs().into_iter().zip(names).map(|(spec, id)| Spec { id, ..spec });
    deployments::Config { fleet: Some(renamed.collect()), ..config }
}
