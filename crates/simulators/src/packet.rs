//! The device API (Packet, Equinix Metal): a catalogue, capacity, and devices that come and go.
//!
//! The one thing to know: there is a *time* of the simulator's own, which begins at
//! [`Config::epoch`], and everything follows it: provisioning, deletions, termination times, faults
//! and the rate limit. It is tokio's, times `speed`; or, with `manual`, it stands still until
//! [`Simulator::advance`] moves it. Only latency and hanging are real time. Where `speed` is not 1,
//! the times that the vendor tells, and those of `termination_time`, are not those of your clock.
//!
//! What goes wrong is a list of [`Rule`]s. Whether one strikes is a pure function of the seed, of
//! facility and plan, and of the number of the create there, or of the device and the number of the
//! request about it; so whatever happens elsewhere in between changes nothing.
//! [`Simulator::devices`] tells every device there ever was, and [`Simulator::alive`] those that cost.
//!
//! ```
//! use std::time::Duration;
//!
//! use simulators::packet::{self, Config, Fault, PROJECT, Rule, TOKEN};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let faults = vec!["create_dropped@ewr1=1,times=1".parse::<Rule>()?];
//! let sim = packet::start(Config { manual: true, faults, ..Config::default() }).await?;
//! let create = || {
//!     reqwest::Client::new()
//!         .post(format!("{}/projects/{PROJECT}/devices", sim.url()))
//!         .header("X-Auth-Token", TOKEN)
//!         .json(&serde_json::json!({
//!             "plan": "c3.small.x86", "operating_system": "debian_12", "facility": "ewr1"
//!         }))
//!         .send()
//! };
//! assert!(create().await.is_err(), "made, but not answered");
//! assert_eq!(create().await?.status(), 201);
//! assert_eq!(sim.alive().len(), 2);
//! sim.advance(Duration::from_secs(30));
//! assert!(sim.devices().iter().all(|device| device.state == "active"));
//!
//! sim.fault(Rule::new(Fault::TokenRevoked));
//! assert!([401, 403].contains(&create().await?.status().as_u16()));
//! # Ok(())
//! # }
//! ```
//!
//! - `catalog`: what can be had; `order`: what is asked for;
//! - `device`: one device over time, without a clock and without I/O;
//! - `fault`: what goes wrong, where, when and how often;
//! - `world`: all devices, the stock, the counts;
//! - `api`, `devices`: what is answered; `view`: as the vendor writes it;
//! - `config`, `report`: what can be set and what is told.

mod api;
mod catalog;
mod config;
mod device;
mod devices;
mod fault;
mod order;
mod report;
mod view;
mod world;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::{
    api::{Ask, Route, Served},
    view::{Query, exact},
    world::{Settings, World},
};
pub use self::{
    catalog::Catalog,
    config::{Capacity, Config, ErrorShape, List, PROJECT, SoldOut, TOKEN, TOKEN_VARIABLE},
    fault::{Fault, Rule, Script},
    report::{Device, Request, Stats},
    view::ROOT_PASSWORD,
};
use crate::{
    call::{Answer, Call, Cut},
    clock::{self, Clock},
    faults::{self, Down, Draw, key_of},
    server::{self, ANY_PORT, StartError, Traffic, Upstream, locked},
};

/// A running device API.
pub type Simulator = server::Simulator<Packet>;

/// What `muster-sim packet --help` says after the options.
pub const HELP: &str = r#"The project is 2f1e9a7c-6d35-4c1b-9a55-0c8f3f1d7e42 and the token (X-Auth-Token) muster-sim-packet-token, unless --project, and --token-file or MUSTER_SIM_PACKET_TOKEN, say otherwise.

The simulator's time is real time times --speed, or with --manual moved by hand:
  POST /_sim/advance {"seconds": 30} or {"to_seconds": 86400}
  GET /_sim/time, /_sim/stats and /_sim/devices (every device ever made, what is alive, what it has cost)

Faults. KIND is one of
  out_of_capacity, create_refused, quota, create_dropped, create_error_after, create_twice
  stuck_at, failed_at, reclaimed (step=101 to 110), unknown_state (lasts=10s)
  get_forbidden, health_warning, health_critical
  delete_refused, delete_slow (lasts=10m), delete_ignored, delete_failed
  rate_limited, server_error, html, token_revoked, dropped, hang (on=create, on=get and so on)
FACILITY and PLAN may be *. SHARE is how many it strikes. NAME is nth (the n-th create), times (only the first so many), from and until (the simulator's time), step, status, lasts or on.

  muster-sim packet --fault stuck_at@ewr1=0.2,step=104 --fault 'delete_ignored@*/c3.small.x86,times=2' --fault server_error=0.05,from=1m,until=2m

A script is the same as a JSON array:
  [{"fault": "out_of_capacity", "facility": "ewr1", "plan": "c3.small.x86", "status": 503, "until": "5m"},
   {"fault": "create_twice", "nth": 3}, {"fault": "reclaimed", "share": 0.1, "step": 107}]"#;

/// Starts the API on a loopback port of the system's choice.
pub async fn start(config: Config) -> Result<Simulator, StartError> {
    start_on(ANY_PORT, config).await
}

/// Starts the API at an address of this machine's loopback interface.
pub async fn start_on(at: SocketAddr, config: Config) -> Result<Simulator, StartError> {
    // Before anything is made of it.
    config.check().map_err(StartError::Config)?;
    let clock = Mutex::new(Clock::new(config.pace()));
    let settings = Mutex::new(Arc::new(Settings::new(config, None)));
    Simulator::start(at, Packet { settings, clock, world: Mutex::default() }).await
}

impl Simulator {
    /// The simulator's time: what the vendor's clock says.
    pub fn now(&self) -> Timestamp {
        exact(self.upstream().settings().epoch, self.elapsed())
    }

    /// The same, since the start.
    pub fn elapsed(&self) -> Duration {
        self.upstream().now()
    }

    /// Moves the time ahead, whether or not it moves by itself, and tells how long after the start it
    /// now is.
    pub fn advance(&self, by: Duration) -> Duration {
        let upstream = self.upstream();
        upstream.jump(upstream.now().saturating_add(by))
    }

    /// Every device there ever was, in the order in which they were made.
    pub fn devices(&self) -> Vec<Device> {
        self.upstream().devices()
    }

    /// Those of them that cost: neither deprovisioned nor reclaimed.
    pub fn alive(&self) -> Vec<Device> {
        self.devices().into_iter().filter(|device| device.alive).collect()
    }

    /// From now on this goes wrong too, before what is in the settings already.
    pub fn fault(&self, rule: impl Into<Rule>) {
        let rule = rule.into();
        self.change(|config| config.faults.insert(0, rule));
    }

    /// From now on nothing of this kind goes wrong any more, but for what the script says.
    pub fn heal(&self, fault: Fault) {
        self.change(|config| config.faults.retain(|rule| rule.fault != fault));
    }

    /// From now on nothing goes wrong any more, but for what the script says.
    pub fn heal_all(&self) {
        self.change(|config| config.faults.clear());
    }

    /// From now on the token is no good, until [`heal`](Self::heal) of [`Fault::TokenRevoked`].
    pub fn revoke_token(&self) {
        self.fault(Fault::TokenRevoked);
    }

    /// From now on so many servers of a plan can still be had in a facility.
    pub fn set_stock(&self, facility: &str, plan: &str, servers: u32) {
        self.upstream().settled(|world, _| world.set_free(facility, plan, servers));
    }
}

/// The API itself: what it sells, what it has sold, and what goes wrong.
#[derive(Debug)]
pub struct Packet {
    settings: Mutex<Arc<Settings>>,
    clock: Mutex<Clock>,
    world: Mutex<World>,
}

impl Packet {
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&locked(&self.settings))
    }

    fn now(&self) -> Duration {
        locked(&self.clock).now()
    }

    fn jump(&self, to: Duration) -> Duration {
        let mut clock = locked(&self.clock);
        clock.jump(to);
        clock.now()
    }

    /// Brings the world to the present and looks at it.
    fn settled<T>(&self, look: impl FnOnce(&mut World, Duration) -> T) -> T {
        let mut world = locked(&self.world);
        let now = self.now();
        world.settle(now);
        look(&mut world, now)
    }

    fn devices(&self) -> Vec<Device> {
        let settings = self.settings();
        self.settled(|world, now| world.report(&settings, now))
    }
}

impl Upstream for Packet {
    type Config = Config;
    type Stats = Stats;

    fn config(&self) -> Config {
        self.settings().config.clone()
    }

    fn set(&self, config: Config) {
        // What was until now was under the old settings.
        self.settled(|_, _| ());
        let mut settings = locked(&self.settings);
        locked(&self.clock).go_on(config.pace());
        *settings = Arc::new(Settings::new(config, Some(&settings)));
    }

    fn stats(&self, traffic: Traffic) -> Stats {
        self.settled(|world, now| world.stats(traffic, now))
    }

    fn list(&self, name: &str) -> Option<Value> {
        match name {
            "devices" => Some(json!(self.devices())),
            "time" => {
                let (now, epoch) = (self.now(), self.settings().epoch);
                Some(json!({ "now_seconds": now.as_secs_f64(), "now": exact(epoch, now) }))
            }
            _ => None,
        }
    }

    fn act(&self, name: &str, body: &[u8]) -> Option<Result<Value, String>> {
        (name == "advance").then(|| {
            let to = clock::advance(body, self.now())?;
            Ok(json!({ "now_seconds": self.jump(to).as_secs_f64() }))
        })
    }

    fn check(config: &Config) -> Result<(), String> {
        config.check()
    }

    async fn answer(&self, call: &mut Call) -> Answer {
        let settings = self.settings();
        let config = &settings.config;
        match config.down {
            Down::No => {}
            Down::Reset => return Answer::Cut(Cut::Reset),
            Down::Status503 => {
                call.until(config.latency).await;
                return faults::html(StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        let request = Route::of(&call.head).request;
        let attempt = locked(&self.world).count(request);
        let draw = Draw::attempt(config.seed, key_of(&format!("{request:?}")), attempt, None);
        let delay = draw.delay(config.latency, config.jitter);
        call.until(delay / 2).await;
        let served = self.settled(|world, now| {
            let (route, query) = (Route::of(&call.head), Query::of(&call.head.uri));
            world.serve(&Ask { settings: &settings, now, call, route, query, attempt, draw })
        });
        match served {
            Served::Hang => call.hang(config.hang_for).await,
            Served::Cut => {
                call.until(delay).await;
                faults::no_answer(&draw)
            }
            Served::Answer(answer) => {
                call.until(delay).await;
                answer
            }
        }
    }
}
