//! What these tests share.

use std::net::IpAddr;

use axum::Router;
use jiff::Timestamp;
use kit::{
    access::Access,
    clock::Clock,
    dynamo::{Store, embedded::Embedded},
    testing::Client,
};
use services::{
    Watch,
    config::{Config, URL},
    notify::Notifier,
    store::ServiceStore,
    worker::{Ended, Watcher},
};
use simulators::cpx::{self, Fixed};

/// A whole minute.
pub const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// A deployment of this capability.
pub struct World {
    pub embedded: Embedded,
    pub store: Store,
    pub config: Config,
    pub app: Router,
    pub access: Access,
    pub clock: Clock,
    pub sim: cpx::Simulator,
}

impl World {
    /// On a CPX with `faults`.
    pub async fn new(faults: cpx::Config) -> Self {
        Self::with(faults, &[]).await
    }

    /// The same with settings.
    pub async fn with(faults: cpx::Config, settings: &[(&str, &str)]) -> Self {
        let sim = cpx::start(faults).await.unwrap();
        let setting = |name: &str| {
            let set = settings.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
            set.or_else(|| (name == URL).then(|| sim.url().to_owned()))
        };
        let config = Config::from_settings(setting).unwrap();
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store("test-");
        store.create_tables(&[&kit::access::TABLE, &services::TABLE]).await.unwrap();
        let clock = Clock::manual(NOON);
        let access = Access::new(store.clone(), clock.clone());
        let watch = Watch::new(&config, store.clone(), clock.clone());
        let app = kit::http::app(vec![services::routes(watch)], access.clone());
        Self { embedded, store, config, app, access, clock, sim }
    }

    /// A client that may do everything with services.
    pub async fn client(&self) -> Client {
        Client::new(&self.app, &self.access, "acme", &["services:read", "services:write"]).await
    }

    /// A worker that tells `notifier`. A new one each time: what it remembers is in the store.
    pub fn watcher(&self, notifier: &Notifier) -> Watcher {
        Watcher::new(self.config.clone(), self.store.clone(), notifier.clone(), self.clock.clone()).unwrap()
    }

    /// The tick of the present minute, by a worker of its own; then the next minute begins.
    pub async fn minute(&self, notifier: &Notifier) -> Ended {
        let ended = self.watcher(notifier).tick(self.clock.now()).await.unwrap();
        self.clock.advance(std::time::Duration::from_mins(1));
        ended
    }

    pub fn records(&self) -> ServiceStore {
        ServiceStore::new(self.store.clone(), self.config.cpx.as_ref().unwrap().name())
    }
}

/// Servers whose numbers stand still.
pub fn fleet(servers: &[(&str, &str, u8, u8)]) -> Vec<Fixed> {
    let fixed = |&(ip, service, cpu, memory): &(&str, &str, u8, u8)| Fixed {
        ip: ip.parse::<IpAddr>().unwrap(),
        service: service.to_owned(),
        cpu,
        memory,
    };
    servers.iter().map(fixed).collect()
}

/// Eight servers of three services: on the border, above it, and short.
pub fn small() -> cpx::Config {
    let servers = fleet(&[
        ("10.58.1.9", "AuthService", 90, 90),
        ("10.58.1.10", "AuthService", 91, 10),
        ("10.58.1.11", "AuthService", 20, 30),
        ("10.58.1.12", "GeoService", 5, 95),
        ("10.58.1.13", "GeoService", 50, 50),
        ("10.58.2.1", "IdService", 100, 100),
        ("10.58.10.1", "IdService", 0, 91),
        ("10.58.1.100", "IdService", 99, 0),
    ]);
    cpx::Config { fleet: Some(servers), ..cpx::Config::default() }
}
