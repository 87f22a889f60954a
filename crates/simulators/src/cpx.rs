//! CPX, the cloud provider whose servers tell which service they run and how loaded they are.
//!
//! `GET /servers` answers a JSON array of addresses in an order that changes from call to call,
//! `GET /{ip}` answers `{"cpu":"61%","memory":"4%","service":"UserService"}`, and everything else
//! 400 `{"error":"Invalid IP"}`. Numbers move from call to call around a level of each server.
//!
//! The one thing to know: faults belong to *servers*, and last. What is wrong with a server (its
//! [`Fate`]) is a pure function of the seed and its address, or follows from a [`Script`] and the
//! clock (tokio's, so a test can advance it). [`Simulator::fate`] and [`Simulator::servers`] tell
//! it, as does `GET /_sim/servers`, so a test knows which answers must be missing.
//!
//! - `fleet`: the servers and their numbers;
//! - `script`: who is sick from when to when;
//! - `nonsense`: answers and list entries that keep no promise.

mod fleet;
mod nonsense;
mod script;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use clap::ValueEnum;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

pub use self::{
    fleet::{Fixed, MOST_SERVERS, SERVICES},
    nonsense::{Garbage, HUGE_BODY, HUGE_SERVICE},
    script::{Entry, Script, Who},
};
use self::{
    fleet::{Fleet, Host},
    nonsense::strange,
};
use crate::{
    call::{Answer, Call, Cut},
    faults::{self, Down, Draw, parse_duration, parse_rate},
    server::{self, ANY_PORT, StartError, Traffic, Upstream, locked},
};

/// Where the list of servers is.
pub const PATH: &str = "/servers";

/// What `muster-sim cpx --help` says after the options.
pub const HELP: &str = r#"Faults belong to servers and last: the same seed gives the same servers the same fate, which GET /_sim/servers tells. Rates are looked at in the order hang, refuse, error, garbage; a server has one fate.

A script is a JSON array. Who: "ips", or "service", "count" or both. State: sick (CPU 91-100 %), memory (91-100 %), hang, refuse, error, garbage, gone (no longer in the list) or well. Where entries overlap the later one counts; without "for" it lasts to the end.

  [{"at": "10s", "for": "30s", "ips": ["10.58.1.1", "10.58.1.2"], "state": "sick"},
   {"at": "1m", "for": "2m", "service": "AuthService", "state": "hang"},
   {"at": "90s", "count": 3, "state": "gone"}]"#;

/// What CPX consists of and what it does wrong. By default the 150 servers of the stock CPX, at
/// once and without faults. Durations are text in JSON and on the command line (`100ms`); rates are
/// shares of 0 to 1, decided for each server, for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The same seed makes the same servers and the same decisions
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many servers, at 10.58.1.1 to 10.58.1.254, then 10.58.2.1 and so on
    #[arg(long, default_value_t = 150)]
    pub servers: u32,
    /// These servers instead, with numbers that do not move.
    #[arg(skip)]
    pub fleet: Option<Vec<Fixed>>,
    /// One request at a time, HTTP/1.0, each connection closed, five in the queue, as the stock CPX
    #[arg(long)]
    pub one_at_a_time: bool,
    /// From the arrival of a request to its answer
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub latency: Duration,
    /// Added to the latency, between nothing and this
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub jitter: Duration,
    /// So many entries among the servers of the list are no addresses, or repeat one
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub strange: u32,
    /// What `GET /servers` answers instead, whatever it is.
    #[arg(skip)]
    pub list: Option<Value>,
    /// CPX is away
    #[arg(long, value_enum, default_value = "no")]
    pub down: Down,
    /// What becomes of GET /servers itself: well, hang, refuse, error or garbage
    #[arg(long, value_enum, default_value = "well", hide_possible_values = true, value_name = "FATE")]
    pub list_fate: Fate,
    /// Who is sick from when to when: a file (see below)
    #[arg(long, value_name = "FILE", value_parser = Script::<Entry>::read)]
    pub script: Option<Script<Entry>>,
    /// Share of servers that do not answer until the client gives up
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub hang_rate: f64,
    /// Where the client does not give up, the connection is closed after this long
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub hang_for: Duration,
    /// Share of the other servers whose connection is reset, at once and without an answer
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub refuse_rate: f64,
    /// Share of the other servers that answer 500
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub error_rate: f64,
    /// Share of the other servers that answer 200 with something else than the contract's JSON
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub garbage_rate: f64,
    /// What that is; without it each server has its own kind
    #[arg(long, value_enum)]
    pub garbage: Option<Garbage>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            servers: 150,
            fleet: None,
            one_at_a_time: false,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            strange: 0,
            list: None,
            down: Down::No,
            list_fate: Fate::Well,
            script: None,
            hang_rate: 0.0,
            hang_for: Duration::from_mins(1),
            refuse_rate: 0.0,
            error_rate: 0.0,
            garbage_rate: 0.0,
            garbage: None,
        }
    }
}

/// What is the matter with a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Nothing: it answers as promised.
    #[default]
    Well,
    /// It answers, with a CPU of 91 to 100 %.
    Sick,
    /// It answers, with a memory of 91 to 100 %.
    Memory,
    /// It does not answer until the client gives up.
    Hang,
    /// The connection is reset, at once and without an answer.
    Refuse,
    /// It answers 500.
    Error,
    /// It answers 200 with something else than promised: see [`Garbage`].
    Garbage,
    /// It is not in the list and answers 400.
    Gone,
}

impl Fate {
    /// Whether a client gets a reading, good or bad, from such a server.
    pub fn reports(self) -> bool {
        matches!(self, Self::Well | Self::Sick | Self::Memory)
    }
}

/// One server as it is now: also the JSON of `GET /_sim/servers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Its address.
    pub ip: IpAddr,
    /// What it runs.
    pub service: String,
    /// What is the matter with it.
    pub fate: Fate,
    /// How often it was asked.
    pub asked: u32,
}

/// What CPX has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests and answers.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Requests for the list.
    pub lists: u64,
    /// Requests for a server, gone ones included.
    pub asked: u64,
    /// Requests for anything else. There are none from a client that asks only for addresses in
    /// the list, each as it stands there.
    pub strange_requests: u64,
}

/// A running CPX.
pub type Simulator = server::Simulator<Cpx>;

/// Starts CPX on a loopback port of the system's choice.
pub async fn start(config: Config) -> Result<Simulator, StartError> {
    start_on(ANY_PORT, config).await
}

/// Starts CPX at an address of this machine's loopback interface.
pub async fn start_on(at: SocketAddr, config: Config) -> Result<Simulator, StartError> {
    let plan = Plan::new(config, Instant::now());
    let cpx = Cpx { plan: Mutex::new(Arc::new(plan)), seen: Mutex::default() };
    Simulator::start(at, cpx).await
}

impl Simulator {
    /// All servers as they are now, by address; also those that are gone.
    pub fn servers(&self) -> Vec<Server> {
        self.upstream().servers()
    }

    /// What is the matter with a server now. An address that was never in the fleet is gone.
    pub fn fate(&self, ip: IpAddr) -> Fate {
        self.upstream().plan().fate(ip)
    }
}

/// CPX itself: its servers, what is wrong with them, and what it has seen.
#[derive(Debug)]
pub struct Cpx {
    plan: Mutex<Arc<Plan>>,
    seen: Mutex<Seen>,
}

/// A [`Config`] and what follows from it, so that a request is answered without working it out
/// again.
#[derive(Debug)]
struct Plan {
    config: Config,
    fleet: Fleet,
    /// When the script began.
    began: Instant,
    /// `config.list` as it is sent.
    list: Option<Bytes>,
}

impl Plan {
    fn new(config: Config, began: Instant) -> Self {
        let fleet = Fleet::new(&config);
        let list = config.list.as_ref().map(|list| Bytes::from(list.to_string()));
        Self { config, fleet, began, list }
    }

    fn fate_of(&self, host: &Host) -> Fate {
        host.fate_at(self.began.elapsed())
    }

    fn fate(&self, ip: IpAddr) -> Fate {
        self.fleet.hosts.get(&ip).map_or(Fate::Gone, |host| self.fate_of(host))
    }

    /// The answer to the `call`th request for the list.
    fn list(&self, call: u32) -> Bytes {
        if let Some(list) = &self.list {
            return list.clone();
        }
        let place = |key| Draw::attempt(self.config.seed, key, call, None).below("place", u32::MAX);
        let servers = self.fleet.hosts.iter().filter(|(_, host)| self.fate_of(host) != Fate::Gone);
        let servers = servers.map(|(ip, host)| (place(host.key), json!(ip)));
        let strange = (0..self.config.strange).map(|number| (place(number.into()), strange(number, &self.fleet)));
        let mut list: Vec<_> = servers.chain(strange).collect();
        list.sort_by_key(|(place, _)| *place);
        let list: Value = list.into_iter().map(|(_, entry)| entry).collect();
        Bytes::from(list.to_string())
    }
}

#[derive(Debug, Default)]
struct Seen {
    lists: u32,
    asked: HashMap<IpAddr, u32>,
    strange_requests: u64,
}

/// What a request asks for, and the number of the request for the same, from 1.
enum Asked<'plan> {
    List(u32),
    Server(&'plan Host, u32),
    Strange,
}

impl Cpx {
    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&locked(&self.plan))
    }

    fn servers(&self) -> Vec<Server> {
        let plan = self.plan();
        let seen = locked(&self.seen);
        let server = |(ip, host): (&IpAddr, &Host)| Server {
            ip: *ip,
            service: host.service.clone(),
            fate: plan.fate_of(host),
            asked: seen.asked.get(ip).copied().unwrap_or_default(),
        };
        plan.fleet.hosts.iter().map(server).collect()
    }

    /// Notes what is asked for. A query makes any address a strange one.
    fn note<'plan>(&self, plan: &'plan Plan, call: &Call) -> Result<Asked<'plan>, Answer> {
        let wanted = call.head.uri.path_and_query().map_or("", |wanted| wanted.as_str());
        let ip = wanted.strip_prefix('/').and_then(|ip| ip.parse().ok());
        let host = ip.and_then(|ip| plan.fleet.hosts.get_key_value(&ip));
        let mut seen = locked(&self.seen);
        if wanted != PATH && host.is_none() {
            seen.strange_requests += 1;
            return Ok(Asked::Strange);
        }
        if call.head.method != Method::GET {
            return Err(Answer::not_allowed(&Method::GET));
        }
        let count = match host {
            Some((ip, _)) => seen.asked.entry(*ip).or_default(),
            None => &mut seen.lists,
        };
        *count = count.saturating_add(1);
        Ok(host.map_or(Asked::List(*count), |(_, host)| Asked::Server(host, *count)))
    }
}

impl Upstream for Cpx {
    type Config = Config;
    type Stats = Stats;

    fn config(&self) -> Config {
        self.plan().config.clone()
    }

    fn set(&self, config: Config) {
        let mut plan = locked(&self.plan);
        // A script that stays goes on; another one begins now.
        let began = if config.script == plan.config.script { plan.began } else { Instant::now() };
        *plan = Arc::new(Plan::new(config, began));
    }

    fn stats(&self, traffic: Traffic) -> Stats {
        let seen = locked(&self.seen);
        Stats {
            traffic,
            lists: seen.lists.into(),
            asked: seen.asked.values().map(|asked| u64::from(*asked)).sum(),
            strange_requests: seen.strange_requests,
        }
    }

    fn list(&self, name: &str) -> Option<Value> {
        (name == "servers").then(|| json!(self.servers()))
    }

    fn check(config: &Config) -> Result<(), String> {
        if config.servers > MOST_SERVERS {
            let servers = config.servers;
            return Err(format!("{servers} servers are too many: there are addresses for {MOST_SERVERS}"));
        }
        if matches!(config.list_fate, Fate::Sick | Fate::Memory | Fate::Gone) {
            return Err("the list itself can be well, hang, refuse, error or garbage".to_owned());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = config.fleet.iter().flatten().find(|server| !seen.insert(server.ip)) {
            return Err(format!("the fleet has {} twice; a server has one entry", twice.ip));
        }
        config.script.as_ref().map_or(Ok(()), |script| script::check(script, &Fleet::new(config)))
    }

    fn one_at_a_time(&self) -> bool {
        locked(&self.plan).config.one_at_a_time
    }

    async fn answer(&self, call: &mut Call) -> Answer {
        let plan = self.plan();
        let config = &plan.config;
        let noted = self.note(&plan, call);
        match config.down {
            Down::No => {}
            Down::Reset => return Answer::Cut(Cut::Reset),
            Down::Status503 => {
                call.until(config.latency).await;
                return faults::html(StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        match noted {
            Err(refused) => refused,
            Ok(Asked::Strange) => {
                call.until(config.latency).await;
                invalid_ip()
            }
            Ok(Asked::List(number)) => {
                let draw = Draw::attempt(config.seed, faults::key_of(PATH), number, None);
                match misbehave(config, config.list_fate, &draw, call).await {
                    Some(answer) => answer,
                    None if config.list_fate == Fate::Garbage => faults::html(StatusCode::OK),
                    None => Answer::new(StatusCode::OK, "application/json", plan.list(number)),
                }
            }
            Ok(Asked::Server(host, number)) => {
                let fate = plan.fate_of(host);
                let draw = Draw::attempt(config.seed, host.key, number, None);
                match misbehave(config, fate, &draw, call).await {
                    Some(answer) => answer,
                    None if fate == Fate::Garbage => host.garbage(config),
                    None => host.reading(config.seed, number, fate).answer(),
                }
            }
        }
    }
}

/// Lets the latency pass and does what goes wrong whatever is asked for.
async fn misbehave(config: &Config, fate: Fate, draw: &Draw, call: &mut Call) -> Option<Answer> {
    if fate == Fate::Refuse {
        return Some(Answer::Cut(Cut::Reset));
    }
    call.until(draw.delay(config.latency, config.jitter)).await;
    match fate {
        Fate::Hang => Some(call.hang(config.hang_for).await),
        Fate::Error => Some(faults::html(StatusCode::INTERNAL_SERVER_ERROR)),
        Fate::Gone => Some(invalid_ip()),
        Fate::Well | Fate::Sick | Fate::Memory | Fate::Garbage | Fate::Refuse => None,
    }
}

fn invalid_ip() -> Answer {
    Answer::json(StatusCode::BAD_REQUEST, &json!({ "error": "Invalid IP" }))
}
