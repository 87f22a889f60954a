//! Servers as CPX tells of them, and what that means for their services. Pure.
//!
//! A server that did not answer, or answered nonsense, is Unknown: it is not healthy, it counts in
//! no average, and it is shown with the reason.

use std::{cmp::Ordering, collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// Longest name of a service, in characters.
pub const LONGEST_NAME: usize = 128;

/// How a server, or the average of a service, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ServerStatus)]
pub enum Status {
    /// CPU and memory are at or below their thresholds.
    Healthy,
    /// CPU or memory is above its threshold.
    Unhealthy,
    /// It did not answer, or answered nonsense. Counts as not healthy.
    Unknown,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Unhealthy, Self::Unknown];

    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// Above which load a server is unhealthy, in per cent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Thresholds {
    /// Of CPU.
    pub cpu_pct: f64,
    /// Of memory.
    pub memory_pct: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { cpu_pct: 90.0, memory_pct: 90.0 }
    }
}

impl Thresholds {
    /// How a load is: unhealthy *above* a threshold, not at it.
    pub fn status(&self, load: Load) -> Status {
        if load.cpu_pct > self.cpu_pct || load.memory_pct > self.memory_pct {
            Status::Unhealthy
        } else {
            Status::Healthy
        }
    }
}

/// What a server uses of what it has, in per cent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// CPU.
    pub cpu_pct: f64,
    /// Memory.
    pub memory_pct: f64,
}

/// The name of a service: 1 to 128 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = Nonsense;

    fn try_from(name: String) -> Result<Self, Nonsense> {
        if name.trim().is_empty() {
            Err(Nonsense::NoService)
        } else if name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            Err(Nonsense::BadService)
        } else {
            Ok(Self(name.into()))
        }
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// Why an answer about a server says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Nonsense {
    /// Not JSON, or not of the shape.
    #[error("its answer is no JSON object with cpu, memory and service")]
    Shape,
    /// `cpu` is no per cent.
    #[error("its cpu is no number of 0 % to 100 %")]
    Cpu,
    /// `memory` is no per cent.
    #[error("its memory is no number of 0 % to 100 %")]
    Memory,
    /// `service` is empty.
    #[error("its service has no name")]
    NoService,
    /// `service` is no name.
    #[error("its service's name is longer than 128 characters or has control characters")]
    BadService,
}

#[derive(Deserialize)]
struct Told {
    cpu: String,
    memory: String,
    service: String,
}

/// What CPX answers about a server: `{"cpu":"61%","memory":"4%","service":"UserService"}`.
pub fn parse_answer(body: &[u8]) -> Result<(ServiceName, Load), Nonsense> {
    let told: Told = serde_json::from_slice(body).map_err(|_| Nonsense::Shape)?;
    let cpu_pct = parse_percent(&told.cpu).ok_or(Nonsense::Cpu)?;
    let memory_pct = parse_percent(&told.memory).ok_or(Nonsense::Memory)?;
    Ok((told.service.try_into()?, Load { cpu_pct, memory_pct }))
}

/// `61%` or `61.5%`, 0 to 100. Digits and one point only: what else Rust takes for a number
/// (`1e1`, `+1`, `inf`) is no per cent that anybody meant.
fn parse_percent(text: &str) -> Option<f64> {
    let digits = text.trim().strip_suffix('%')?.trim_end();
    let plain = digits.starts_with(|it: char| it.is_ascii_digit())
        && digits.ends_with(|it: char| it.is_ascii_digit())
        && digits.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    let number: f64 = plain.then(|| digits.parse().ok()).flatten()?;
    (0.0..=100.0).contains(&number).then_some(number)
}

/// Why a server's load is not known. The words are for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Silence {
    /// It had its time.
    #[error("no answer in time")]
    Time,
    /// The poll ended before it had its time. Says nothing about the server.
    #[error("the poll's deadline came before its answer")]
    Cut,
    /// The connection broke, or what came was nonsense.
    #[error("{0}")]
    Said(String),
}

/// A server in a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its address, which also names it.
    pub ip: IpAddr,
    /// Which service it runs: as it says, or as it said last. None where it never said.
    pub service: Option<ServiceName>,
    /// Its load, or why that is not known.
    pub load: Result<Load, Silence>,
    /// When that was learnt.
    pub observed_at: Timestamp,
}

impl Server {
    /// How it is.
    pub fn status(&self, thresholds: &Thresholds) -> Status {
        self.load.as_ref().map_or(Status::Unknown, |load| thresholds.status(*load))
    }
}

/// All servers at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// By address; each once.
    pub servers: Vec<Server>,
    /// When the last answer was in.
    pub observed_at: Timestamp,
    /// Whether every server was asked, and given its time to answer.
    pub complete: bool,
    /// Entries of CPX's list that are no addresses, or too many.
    pub ignored: usize,
}

/// What a list can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// As addresses: 10.0.0.9 is before 10.0.0.10, and IPv4 before IPv6.
    #[default]
    Ip,
    /// By name; without one last.
    Service,
    /// By CPU; unknown last.
    Cpu,
    /// By memory; unknown last.
    Memory,
    /// Healthy, unhealthy, unknown.
    Status,
}

/// Compares two servers; where `sort` finds them equal, their addresses decide. Descending turns
/// `sort` round, not the addresses, and what is unknown stays last.
pub fn compare(a: &Server, b: &Server, sort: Sort, descending: bool, thresholds: &Thresholds) -> Ordering {
    let turned = |order: Ordering| if descending { order.reverse() } else { order };
    let by = |load: fn(&Load) -> f64| match (&a.load, &b.load) {
        (Ok(a), Ok(b)) => turned(load(a).total_cmp(&load(b))),
        (a, b) => a.is_err().cmp(&b.is_err()),
    };
    let order = match sort {
        Sort::Ip => return turned(a.ip.cmp(&b.ip)),
        Sort::Service => match (&a.service, &b.service) {
            (Some(a), Some(b)) => turned(a.cmp(b)),
            (a, b) => a.is_none().cmp(&b.is_none()),
        },
        Sort::Cpu => by(|load| load.cpu_pct),
        Sort::Memory => by(|load| load.memory_pct),
        Sort::Status => turned(a.status(thresholds).cmp(&b.status(thresholds))),
    };
    order.then_with(|| a.ip.cmp(&b.ip))
}

/// A service, summed up over its servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    /// How many there are.
    pub servers: u32,
    /// How many of them are healthy.
    pub healthy: u32,
    /// How many are above a threshold.
    pub unhealthy: u32,
    /// How many did not say.
    pub unknown: u32,
    /// How many of those had no time to.
    pub cut: u32,
    /// The average load of those that did; none where nobody did.
    pub average: Option<Load>,
    sum: Load,
}

impl Rollup {
    /// A service without servers.
    pub const NONE: Self = Self {
        servers: 0,
        healthy: 0,
        unhealthy: 0,
        unknown: 0,
        cut: 0,
        average: None,
        sum: Load { cpu_pct: 0.0, memory_pct: 0.0 },
    };

    /// Over how many servers the average is.
    pub const fn reporting(&self) -> u32 {
        self.healthy + self.unhealthy
    }

    /// How the average is.
    pub fn status(&self, thresholds: &Thresholds) -> Status {
        self.average.map_or(Status::Unknown, |average| thresholds.status(average))
    }

    fn add(&mut self, server: &Server, thresholds: &Thresholds) {
        self.servers += 1;
        match server.status(thresholds) {
            Status::Healthy => self.healthy += 1,
            Status::Unhealthy => self.unhealthy += 1,
            Status::Unknown => self.unknown += 1,
        }
        self.cut += u32::from(server.load == Err(Silence::Cut));
        if let Ok(load) = &server.load {
            self.sum.cpu_pct += load.cpu_pct;
            self.sum.memory_pct += load.memory_pct;
            let number = f64::from(self.reporting());
            self.average = Some(Load { cpu_pct: self.sum.cpu_pct / number, memory_pct: self.sum.memory_pct / number });
        }
    }
}

/// The services of a reading by name. Servers whose service nobody knows are in none.
pub fn rollups(servers: &[Server], thresholds: &Thresholds) -> BTreeMap<ServiceName, Rollup> {
    let mut services = BTreeMap::new();
    for server in servers {
        if let Some(service) = &server.service {
            services.entry(service.clone()).or_insert(Rollup::NONE).add(server, thresholds);
        }
    }
    services
}
