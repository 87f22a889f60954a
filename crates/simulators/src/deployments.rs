//! The deployments API: what there is, how many servers are free, and more or fewer hosts.
//!
//! `GET /discover` answers the list, `GET /status/{id}` (the id percent-encoded) three counts, and
//! `POST /scale` with `{"deployment_id":"eu-1","delta":1}` adds hosts or takes them away: 200 `{}`.
//! `delta` is relative, so a request that comes twice scales twice.
//!
//! The one thing to know: there is a *time* of the simulator's own, and everything follows it: the
//! load of each deployment, hosts that boot and drain, scripts, faults. It is tokio's, times
//! `speed`; or, with `manual`, it stands still until [`Simulator::advance`] moves it, so a test
//! drives a day without sleeping. Only latency and hanging are real time.
//!
//! What goes wrong with a request is a pure function of the seed, of what is asked, of the 30-second
//! [`SLOT`] of that time, and of how often the same was asked in it; or it follows from a
//! [`Script`]. [`Simulator::scales`] tells every scale request there was and what became of it,
//! [`Simulator::deployments`] how each deployment has fared.
//!
//! ```
//! use std::time::Duration;
//!
//! use simulators::deployments::{self, Config};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = deployments::start(Config { manual: true, ..Config::default() }).await?;
//! let before = sim.deployment("eu-1").ok_or("there is eu-1")?;
//! let more = serde_json::json!({ "deployment_id": "eu-1", "delta": 2 });
//! reqwest::Client::new().post(format!("{}/scale", sim.url())).json(&more).send().await?;
//! sim.advance(Duration::from_secs(90));
//! let after = sim.deployment("eu-1").ok_or("there is eu-1")?;
//! assert_eq!(after.running, before.running + 2);
//! # Ok(())
//! # }
//! ```
//!
//! - `load`: how many servers are wanted, over time;
//! - `model`: one deployment over time, without a clock and without I/O;
//! - `stock`: the deployments that there are where none are given;
//! - `fault`: what goes wrong; `script`: from when to when;
//! - `report`: what is told about all of it;
//! - `config`, `plan`: what follows from the settings, so that a request costs little.

mod config;
mod fault;
mod load;
mod model;
mod plan;
mod report;
mod script;
mod stock;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::{
    config::{Config, MOST_DEPLOYMENTS},
    fault::Fault,
    load::{GRID, Load, Point},
    model::{Model, Record, Scaled, Spec, Spell, Status, Target, Times},
    report::{Deployment, Done, Scale, Stats},
    script::{Entry, Script, True, Who},
};
use self::{
    fault::Part,
    plan::{Asked, Life, Member, Plan},
};
use crate::{
    call::{Answer, Call, Cut},
    clock::{self, Clock},
    faults::{self, Down, Draw, key_of},
    server::{self, ANY_PORT, StartError, Traffic, Upstream, locked},
};

/// Decisions about faults change from one slot of time to the next.
pub const SLOT: Duration = Duration::from_secs(30);

/// What `muster-sim deployments --help` says after the options.
pub const HELP: &str = r#"Each deployment has hosts that run, boot or drain, a load over time (steady, daily, spike, noise or ramp) and a target, all decided by the seed. A scale-up boots hosts, a scale-down drains them; current_hosts changes at once, servers come and go with the hosts. Rates are looked at in the order of the list above; a request has one fault.

The simulator's time is real time times --speed, or with --manual moved by hand:
  POST /_sim/advance {"seconds": 30} or {"to_seconds": 86400}
  GET /_sim/time, /_sim/deployments (hosts, free share, seconds below the target, host-seconds) and
  /_sim/scales (every scale request and what became of it)

A script is a JSON array. When: "at" and "for", in the simulator's time; without "for" it lasts to the end. Who: "ids", "count" or "all": true. Where entries overlap the later one counts. What:
  well
  status_error, _cut, _hang, _garbage, _nan, _free_above_total, _missing_field, _negative, _fractional, _text, _zero_total, _unknown
  discover_error, _cut, _hang, _garbage, _empty, _half (these with "all": true)
  entry_missing, _nan, _twice, _zero_servers, _target_negative, _target_hundred, _target_text, _missing_field (a deployment's place in the list)
  scale_drop_after, _refuse, _error, _error_after, _ignore, _late, _late_drop, _cut, _hang, _hang_after

  [{"at": "10m", "for": "5m", "ids": ["eu-1", "us-2"], "what": "status_nan"},
   {"at": "1h", "for": "30s", "all": true, "what": "discover_half"},
   {"at": "2h", "count": 3, "what": "scale_drop_after"}]"#;

/// A running deployments API.
pub type Simulator = server::Simulator<Deployments>;

/// Starts the API on a loopback port of the system's choice.
pub async fn start(config: Config) -> Result<Simulator, StartError> {
    start_on(ANY_PORT, config).await
}

/// Starts the API at an address of this machine's loopback interface.
pub async fn start_on(at: SocketAddr, config: Config) -> Result<Simulator, StartError> {
    // Before anything is made of it.
    config.check().map_err(StartError::Config)?;
    let clock = Mutex::new(Clock::new(config.pace()));
    let plan = Mutex::new(Arc::new(Plan::new(config, None, Duration::ZERO)));
    Simulator::start(at, Deployments { plan, clock, seen: Seen::default(), log: Mutex::default() }).await
}

impl Simulator {
    /// The simulator's time, since the start.
    pub fn now(&self) -> Duration {
        self.upstream().now()
    }

    /// Moves the time ahead, whether or not it moves by itself, and tells the new one.
    pub fn advance(&self, by: Duration) -> Duration {
        self.set_time(self.now().saturating_add(by))
    }

    /// Moves the time to this, or leaves it where it is later already, and tells it.
    pub fn set_time(&self, to: Duration) -> Duration {
        self.upstream().jump(to)
    }

    /// Every request to scale there ever was, in the order of arrival.
    pub fn scales(&self) -> Vec<Scale> {
        self.upstream().scales()
    }

    /// All deployments as they are now, in the order of the list.
    pub fn deployments(&self) -> Vec<Deployment> {
        self.upstream().deployments()
    }

    /// One deployment as it is now.
    pub fn deployment(&self, id: &str) -> Option<Deployment> {
        let upstream = self.upstream();
        upstream.plan().member(id).map(|member| upstream.look(member))
    }

    /// A copy of one deployment's model as it is now: its hosts by the time they will be ready or
    /// gone, and when its free share was below the target.
    pub fn model(&self, id: &str) -> Option<Model> {
        let upstream = self.upstream();
        upstream.plan().member(id).map(|member| upstream.settled(member, |life| life.model.clone()))
    }
}

/// The API itself: its deployments, what is wrong with them, and what it has seen.
#[derive(Debug)]
pub struct Deployments {
    plan: Mutex<Arc<Plan>>,
    clock: Mutex<Clock>,
    seen: Seen,
    /// By number. Locked after a deployment's life, never before it.
    log: Mutex<BTreeMap<u64, Scale>>,
}

#[derive(Debug, Default)]
struct Seen {
    discoveries: Mutex<Asked>,
    lists: AtomicU64,
    statuses: AtomicU64,
    scales: AtomicU64,
    unknown_ids: AtomicU64,
    strange_requests: AtomicU64,
    faults: Mutex<BTreeMap<Fault, u64>>,
}

/// The body of `POST /scale`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    deployment_id: String,
    delta: i64,
}

impl Deployments {
    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&locked(&self.plan))
    }

    fn now(&self) -> Duration {
        locked(&self.clock).now()
    }

    fn jump(&self, to: Duration) -> Duration {
        let mut clock = locked(&self.clock);
        clock.jump(to);
        clock.now()
    }

    /// Brings a deployment to the present and looks at it.
    fn settled<T>(&self, member: &Member, look: impl FnOnce(&mut Life) -> T) -> T {
        let mut life = locked(&member.life);
        for (number, scaled) in life.model.advance(self.now()) {
            if let Some(scale) = locked(&self.log).get_mut(&number) {
                scale.done = Done::AppliedLate;
                scale.took_effect(scaled);
            }
        }
        look(&mut life)
    }

    fn scales(&self) -> Vec<Scale> {
        for member in &self.plan().members {
            self.settled(member, |_| ());
        }
        locked(&self.log).values().cloned().collect()
    }

    fn deployments(&self) -> Vec<Deployment> {
        self.plan().members.iter().map(|member| self.look(member)).collect()
    }

    fn look(&self, member: &Member) -> Deployment {
        self.settled(member, |life| Deployment::of(&life.model))
    }

    fn strike(&self, fault: Fault) {
        if fault != Fault::Well {
            *locked(&self.seen.faults).entry(fault).or_default() += 1;
        }
    }

    async fn discover(&self, plan: &Plan, call: &mut Call) -> Answer {
        count(&self.seen.lists);
        let (config, now) = (&plan.config, self.now());
        let (draw, asked) = {
            let mut asked = locked(&self.seen.discoveries);
            (asked.draw(config.seed, key_of("/discover"), now), *asked)
        };
        let fault = plan.list_fault(&draw, now);
        self.strike(fault);
        call.until(draw.delay(config.latency, config.jitter)).await;
        match fault {
            Fault::DiscoverError => faults::server_error(&draw),
            Fault::DiscoverCut => faults::no_answer(&draw),
            Fault::DiscoverHang => call.hang(config.hang_for).await,
            Fault::DiscoverGarbage => fault::garbage(&draw, r#"{"deployments":[{"id":"eu-1","serv"#),
            fault => {
                let (body, faults) = plan.list(fault, asked, &draw, now);
                for fault in faults {
                    self.strike(fault);
                }
                Answer::new(StatusCode::OK, "application/json", body)
            }
        }
    }

    async fn status(&self, plan: &Plan, id: &str, call: &mut Call) -> Answer {
        let (config, now) = (&plan.config, self.now());
        let Some(member) = plan.member(id) else {
            count(&self.seen.unknown_ids);
            call.until(config.latency).await;
            return unknown(id);
        };
        count(&self.seen.statuses);
        let draw = member.draw(config, Part::Status, now);
        let fault = member.fault(config, Part::Status, &draw, now);
        self.strike(fault);
        call.until(draw.delay(config.latency, config.jitter)).await;
        match fault {
            Fault::StatusError => faults::server_error(&draw),
            Fault::StatusCut => faults::no_answer(&draw),
            Fault::StatusHang => call.hang(config.hang_for).await,
            Fault::StatusUnknown => unknown(id),
            fault => fault::status(fault, &draw, self.settled(member, |life| life.model.status())),
        }
    }

    async fn scale(&self, plan: &Plan, call: &mut Call) -> Answer {
        if !call.says_json() {
            count(&self.seen.strange_requests);
            return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json");
        }
        let wanted: Wanted = match serde_json::from_slice(&call.body) {
            Ok(wanted) => wanted,
            Err(error) => {
                count(&self.seen.strange_requests);
                return refused(StatusCode::BAD_REQUEST, &error.to_string());
            }
        };
        let number = count(&self.seen.scales);
        let (config, now) = (&plan.config, self.now());
        let Some(member) = plan.member(&wanted.deployment_id) else {
            count(&self.seen.unknown_ids);
            call.until(config.latency).await;
            let mut scale = Scale::of(number, self.now(), wanted.deployment_id.clone(), wanted.delta);
            (scale.done, scale.answer) = (Done::Refused, Some(404));
            locked(&self.log).insert(number, scale);
            return unknown(&wanted.deployment_id);
        };
        let draw = member.draw(config, Part::Scale, now);
        let fault = member.fault(config, Part::Scale, &draw, now);
        self.strike(fault);
        call.until(draw.delay(config.latency, config.jitter)).await;
        self.settled(member, |life| {
            let mut scale = Scale::of(number, life.model.now(), wanted.deployment_id, wanted.delta);
            scale.happen(fault, &mut life.model, config.late_by);
            locked(&self.log).insert(number, scale);
        });
        let answer = scale_answer(fault, &draw, config, call).await;
        if let (Answer::Http(response), false) = (&answer, call.client_is_gone())
            && let Some(scale) = locked(&self.log).get_mut(&number)
        {
            scale.answer = Some(response.status().as_u16());
        }
        answer
    }
}

async fn scale_answer(fault: Fault, draw: &Draw, config: &Config, call: &mut Call) -> Answer {
    match fault {
        Fault::ScaleDropAfter | Fault::ScaleLateDrop | Fault::ScaleCut => faults::no_answer(draw),
        Fault::ScaleRefuse => fault::refusal(draw),
        Fault::ScaleError | Fault::ScaleErrorAfter => faults::server_error(draw),
        Fault::ScaleHang | Fault::ScaleHangAfter => call.hang(config.hang_for).await,
        _ => Answer::json(StatusCode::OK, &json!({})),
    }
}

impl Upstream for Deployments {
    type Config = Config;
    type Stats = Stats;

    fn config(&self) -> Config {
        self.plan().config.clone()
    }

    fn set(&self, config: Config) {
        let mut plan = locked(&self.plan);
        // What was until now was under the old settings.
        for member in &plan.members {
            self.settled(member, |_| ());
        }
        let now = {
            let mut clock = locked(&self.clock);
            clock.go_on(config.pace());
            clock.now()
        };
        *plan = Arc::new(Plan::new(config, Some(&plan), now));
    }

    fn stats(&self, traffic: Traffic) -> Stats {
        let seen = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let applied = locked(&self.log).values().filter(|scale| scale.done.takes_effect()).count();
        Stats {
            traffic,
            discoveries: seen(&self.seen.lists),
            statuses: seen(&self.seen.statuses),
            scales: seen(&self.seen.scales),
            scales_applied: u64::try_from(applied).unwrap_or(u64::MAX),
            unknown_ids: seen(&self.seen.unknown_ids),
            strange_requests: seen(&self.seen.strange_requests),
            faults: locked(&self.seen.faults).clone(),
        }
    }

    fn list(&self, name: &str) -> Option<Value> {
        match name {
            "deployments" => Some(json!(self.deployments())),
            "scales" => Some(json!(self.scales())),
            "time" => Some(json!({ "now_seconds": self.now().as_secs_f64() })),
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
        let plan = self.plan();
        match plan.config.down {
            Down::No => {}
            Down::Reset => return Answer::Cut(Cut::Reset),
            Down::Status503 => {
                call.until(plan.config.latency).await;
                return faults::html(StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        let path = call.head.uri.path().to_owned();
        match (asked_for(&path), &call.head.method) {
            (Some(Route::Discover), &Method::GET) => self.discover(&plan, call).await,
            (Some(Route::Status(id)), &Method::GET) => self.status(&plan, &id, call).await,
            (Some(Route::Scale), &Method::POST) => self.scale(&plan, call).await,
            (route, _) => {
                count(&self.seen.strange_requests);
                match route {
                    Some(Route::Scale) => Answer::not_allowed(&Method::POST),
                    Some(_) => Answer::not_allowed(&Method::GET),
                    None => refused(StatusCode::NOT_FOUND, "there are /discover, /status/{id} and /scale"),
                }
            }
        }
    }
}

/// What a path asks for.
enum Route<'path> {
    Discover,
    Status(Cow<'path, str>),
    Scale,
}

fn asked_for(path: &str) -> Option<Route<'_>> {
    match path {
        "/discover" => Some(Route::Discover),
        "/scale" => Some(Route::Scale),
        path => {
            let id = path.strip_prefix("/status/").filter(|id| !id.contains('/'))?;
            percent_decode_str(id).decode_utf8().ok().map(Route::Status)
        }
    }
}

/// One more; tells how many there are now.
fn count(seen: &AtomicU64) -> u64 {
    seen.fetch_add(1, Ordering::Relaxed) + 1
}

fn unknown(id: &str) -> Answer {
    refused(StatusCode::NOT_FOUND, &format!("there is no deployment `{id}`"))
}

fn refused(status: StatusCode, message: &str) -> Answer {
    Answer::json(status, &json!({ "message": message }))
}
