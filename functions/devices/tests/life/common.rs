//! What these tests share.

use std::{sync::Arc, time::Duration};

use devices::{
    config::{Config, PROJECT, SWEEP, TIMEOUT, TOKEN, URL},
    device::{Device, State},
    machine::ask_delete,
    request::Request,
    seal::Sealer,
    store::{DeviceStore, TABLE, Whole},
    supply::Supply,
    worker::{Rounds, Worker},
};
use http::{HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use kit::{
    clock::Clock,
    dynamo::{Store, embedded::Embedded},
    upstream::Upstream,
};
use simulators::packet::{self, Simulator};
use uuid::Uuid;

/// At which the simulator's time is 0.
pub const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);
/// Time between two rounds.
pub const STEP: Duration = Duration::from_secs(5);

/// A project of the device API, and a table.
pub struct World {
    pub embedded: Embedded,
    pub store: Store,
    pub config: Config,
    pub clock: Clock,
    pub sim: Simulator,
}

impl World {
    pub async fn new(config: packet::Config) -> Self {
        Self::with(config, "report").await
    }

    /// The same with another setting for orphans.
    pub async fn with(config: packet::Config, sweep: &str) -> Self {
        let sim = packet::start(packet::Config { manual: true, epoch: Some(NOON), ..config }).await.unwrap();
        let config = settings(sim.url(), sweep);
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store("test-");
        store.create_tables(&[&TABLE]).await.unwrap();
        Self { embedded, store, config, clock: Clock::manual(NOON), sim }
    }

    /// A worker of its own: it knows nothing of another.
    pub fn rounds(&self) -> Rounds {
        self.rounds_on(self.store.clone())
    }

    pub fn rounds_on(&self, store: Store) -> Rounds {
        self.rounds_of(&self.config, store)
    }

    /// A worker that reaches the vendor at `url`, with connections of its own.
    pub fn rounds_at(&self, url: &str, store: Store) -> Rounds {
        self.rounds_of(&settings(url, "report"), store)
    }

    fn rounds_of(&self, config: &Config, store: Store) -> Rounds {
        let vendor = config.vendor.clone().unwrap();
        let supply = Supply::new(vendor, DeviceStore::new(store.clone()), self.clock.clone());
        let sealer = Sealer::new(config.token.clone());
        let worker = Worker::new(supply, store, sealer, self.clock.clone(), Arc::default());
        Rounds::new(worker.deletes_orphans(config.deletes_orphans))
    }

    pub fn devices(&self) -> DeviceStore {
        DeviceStore::new(self.store.clone())
    }

    /// Asks for a device.
    pub async fn launch(&self, request: Request) -> Uuid {
        let device = Device::new(Uuid::now_v7(), "t".to_owned(), request, false, self.clock.now());
        self.devices().create(&device, None, None).await.unwrap();
        device.id
    }

    /// Asks for its deletion, as often as another writer comes in between.
    pub async fn delete(&self, id: Uuid) {
        loop {
            let before = self.devices().device(id).await.unwrap().unwrap();
            let (mut after, now) = (before.clone(), self.clock.now());
            if !ask_delete(&mut after, now) {
                return;
            }
            if self.devices().write(&before, after, &devices::machine::Effects::default(), now).await.unwrap().is_some()
            {
                return;
            }
        }
    }

    /// All items of the table.
    pub async fn everything(&self) -> Vec<kit::dynamo::Item> {
        let client = self.store.client();
        client.scan().table_name(self.store.table(&TABLE)).send().await.unwrap().items.unwrap()
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.sim.advance(by);
    }

    pub async fn whole(&self, id: Uuid) -> Whole {
        self.devices().whole(id).await.unwrap().unwrap()
    }

    pub async fn state(&self, id: Uuid) -> State {
        self.devices().device(id).await.unwrap().unwrap().state()
    }

    /// Works until the device is in one of these states; at most so long.
    pub async fn until(&self, rounds: &mut Rounds, id: Uuid, states: &[State], longest: Duration) -> Whole {
        let steps = longest.as_secs() / STEP.as_secs();
        for _ in 0..=steps {
            rounds.round().await.unwrap();
            if states.contains(&self.state(id).await) {
                return self.whole(id).await;
            }
            self.advance(STEP);
        }
        panic!("not {states:?} within {longest:?}: {:#?}", self.whole(id).await);
    }

    /// A machine that is made without us.
    pub async fn somebody_creates(&self, tag: &str) {
        let body = serde_json::json!({
            "plan": "c3.small.x86", "operating_system": "debian_12", "facility": "ewr1", "tags": [tag],
        });
        let path = format!("/projects/{}/devices", packet::PROJECT);
        assert_eq!(self.somebody(Method::POST, &path, Some(body.to_string().into_bytes())).await, 201);
    }

    /// A machine that is deleted without us.
    pub async fn somebody_deletes(&self, id: &str) {
        assert_eq!(self.somebody(Method::DELETE, &format!("/devices/{id}"), None).await, 204);
    }

    /// A machine that somebody takes all tags off.
    pub async fn somebody_untags(&self, id: &str) {
        let body = br#"{"tags":[]}"#.to_vec();
        assert_eq!(self.somebody(Method::PUT, &format!("/devices/{id}"), Some(body)).await, 200);
    }

    async fn somebody(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> u16 {
        let vendor = Upstream::builder(URL, self.sim.url())
            .secret_header(HeaderName::from_static("x-auth-token"), HeaderValue::from_static(packet::TOKEN))
            .build()
            .unwrap();
        vendor.send(method, path, body, Duration::from_secs(5)).await.unwrap().status.as_u16()
    }

    /// The ids of the machines that cost at present.
    pub fn alive(&self) -> Vec<String> {
        self.sim.alive().into_iter().map(|machine| machine.id).collect()
    }
}

/// The settings for the vendor at `url`.
fn settings(url: &str, sweep: &str) -> Config {
    let config = Config::from_settings(|name| match name {
        URL => Some(url.to_owned()),
        PROJECT => Some(packet::PROJECT.to_owned()),
        TOKEN => Some(packet::TOKEN.to_owned()),
        TIMEOUT => Some("2".to_owned()),
        SWEEP => Some(sweep.to_owned()),
        _ => None,
    });
    config.unwrap()
}

/// The device whose tag a machine carries.
pub fn owner(machine: &packet::Device) -> Option<Uuid> {
    machine.tags.iter().find_map(|tag| tag.strip_prefix("muster:")?.parse().ok())
}
