//! The servers of CPX and their numbers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Config, Fate, Garbage, nonsense};
use crate::{
    call::Answer,
    faults::{self, Draw},
    script::Spell,
};

/// What the servers of the stock CPX run.
pub const SERVICES: [&str; 10] = [
    "PermissionsService",
    "AuthService",
    "MLService",
    "StorageService",
    "TimeService",
    "GeoService",
    "TicketService",
    "RoleService",
    "IdService",
    "UserService",
];

/// 10.58.1.1 to 10.58.254.254, without those that end in 0 or 255.
pub const MOST_SERVERS: u32 = PER_NET * 254;

const PER_NET: u32 = 254;

/// How far a number strays from its server's level, in per cents.
const SWING: u32 = 8;

/// In how many calls a number goes from one turning point to the next.
const STRIDE: u32 = 4;

/// A server with numbers that do not move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// Its address.
    pub ip: IpAddr,
    /// What it runs.
    pub service: String,
    /// In per cents; above 100 for a server that talks nonsense.
    pub cpu: u8,
    /// In per cents; above 100 for a server that talks nonsense.
    pub memory: u8,
}

/// All servers by address, gone ones included.
#[derive(Debug)]
pub(super) struct Fleet {
    pub hosts: BTreeMap<IpAddr, Host>,
}

/// One server.
#[derive(Debug)]
pub(super) struct Host {
    /// What decisions about it depend on, besides the seed.
    pub key: u64,
    pub service: String,
    load: Load,
    /// What is the matter with it where no script says otherwise.
    fate: Fate,
    /// What the script says, in its order.
    spells: Vec<Spell<Fate>>,
}

#[derive(Debug, Clone, Copy)]
enum Load {
    /// Numbers move around these per cents, never below 0 or above 100.
    Around {
        cpu: u32,
        memory: u32,
    },
    Fixed {
        cpu: u32,
        memory: u32,
    },
}

/// What a server tells, in per cents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading<'host> {
    pub cpu: u32,
    pub memory: u32,
    pub service: &'host str,
}

impl Fleet {
    pub fn new(config: &Config) -> Self {
        let mut hosts: BTreeMap<_, _> = match &config.fleet {
            Some(fleet) => fleet.iter().map(|server| (server.ip, Host::fixed(config, server))).collect(),
            None => {
                (0..config.servers.min(MOST_SERVERS)).map(address).map(|ip| (ip, Host::stock(config, ip))).collect()
            }
        };
        for entry in config.script.iter().flat_map(|script| &script.0) {
            let spell = entry.spell();
            for ip in entry.who.choose(config.seed, &hosts) {
                if let Some(host) = hosts.get_mut(&ip) {
                    host.spells.push(spell);
                }
            }
        }
        Self { hosts }
    }
}

fn address(number: u32) -> IpAddr {
    let base = u32::from(Ipv4Addr::new(10, 58, 1, 1));
    IpAddr::V4(Ipv4Addr::from(base + (number / PER_NET) * 256 + number % PER_NET))
}

impl Host {
    fn stock(config: &Config, ip: IpAddr) -> Self {
        let key = faults::key_of(&ip.to_string());
        let draw = Draw::lasting(config.seed, key);
        let level = |name| SWING + draw.below(name, 101 - 2 * SWING);
        let [service, ..] = SERVICES;
        let drawn = SERVICES.iter().zip(0..).find(|(_, number)| *number == draw.below("service", 10));
        Self {
            key,
            service: drawn.map_or(service, |(name, _)| name).to_owned(),
            load: Load::Around { cpu: level("cpu level"), memory: level("memory level") },
            fate: drawn_fate(config, &draw),
            spells: Vec::new(),
        }
    }

    fn fixed(config: &Config, server: &Fixed) -> Self {
        let key = faults::key_of(&server.ip.to_string());
        Self {
            key,
            service: server.service.clone(),
            load: Load::Fixed { cpu: server.cpu.into(), memory: server.memory.into() },
            fate: drawn_fate(config, &Draw::lasting(config.seed, key)),
            spells: Vec::new(),
        }
    }

    /// What is the matter with it so long after the script began.
    pub fn fate_at(&self, elapsed: Duration) -> Fate {
        self.spells.iter().rev().find(|spell| spell.holds_at(elapsed)).map_or(self.fate, |spell| spell.what)
    }

    /// What it tells the `call`th time it is asked.
    pub fn reading(&self, seed: u64, call: u32, fate: Fate) -> Reading<'_> {
        let walk = |name, level| walk(seed, self.key, name, call) + level - SWING;
        let (cpu, memory) = match self.load {
            Load::Around { cpu, memory } => (walk("cpu", cpu), walk("memory", memory)),
            Load::Fixed { cpu, memory } => (cpu, memory),
        };
        let high = 91 + Draw::attempt(seed, self.key, call, None).below("high", 10);
        Reading {
            cpu: if fate == Fate::Sick { high } else { cpu },
            memory: if fate == Fate::Memory { high } else { memory },
            service: &self.service,
        }
    }

    /// What it answers while it talks nonsense: always the same kind.
    pub fn garbage(&self, config: &Config) -> Answer {
        let draw = Draw::lasting(config.seed, self.key);
        let kind = config.garbage.unwrap_or_else(|| Garbage::drawn(&draw));
        nonsense::answer(kind, &draw, &self.reading(config.seed, 0, Fate::Well))
    }
}

/// The order of the rates: the first that strikes decides, so a server has one fate.
fn drawn_fate(config: &Config, draw: &Draw) -> Fate {
    let rates = [
        ("hang", config.hang_rate, Fate::Hang),
        ("refuse", config.refuse_rate, Fate::Refuse),
        ("error", config.error_rate, Fate::Error),
        ("garbage", config.garbage_rate, Fate::Garbage),
    ];
    rates.into_iter().find(|(name, rate, _)| draw.happens(name, *rate)).map_or(Fate::Well, |(_, _, fate)| fate)
}

/// A number of 0 to twice the swing that goes in straight lines from one drawn turning point to the
/// next: a pure function of how often the server was asked.
fn walk(seed: u64, key: u64, name: &str, call: u32) -> u32 {
    let turn = |number| Draw::attempt(seed, key, number, None).below(name, 2 * SWING + 1);
    let (number, way) = (call / STRIDE, call % STRIDE);
    (turn(number) * (STRIDE - way) + turn(number.saturating_add(1)) * way + STRIDE / 2) / STRIDE
}

impl Reading<'_> {
    pub fn answer(&self) -> Answer {
        let body = serde_json::json!({
            "cpu": format!("{}%", self.cpu),
            "memory": format!("{}%", self.memory),
            "service": self.service,
        });
        Answer::json(StatusCode::OK, &body)
    }
}
