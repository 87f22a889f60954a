//! Who is sick from when to when.

use std::{collections::BTreeMap, fs, net::IpAddr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::{
    Fate,
    fleet::{Fleet, Host},
};
use crate::faults::{Draw, parse_duration};

const EXAMPLE: &str = r#"{"at": "10s", "for": "30s", "service": "AuthService", "state": "sick"}"#;

/// Entries in any order; where they overlap for a server, the later in the list counts.
///
/// Its clock starts with the simulator, or when it takes the place of another script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Script(pub Vec<Entry>);

/// Some servers in one state for a while. As JSON:
/// `{"at": "10s", "for": "30s", "service": "AuthService", "count": 3, "state": "sick"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Entry {
    /// Since the script began.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub at: Duration,
    /// For how long (`for` in JSON); without it, to the end.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub lasts: Option<Duration>,
    /// Which servers.
    #[serde(flatten)]
    pub who: Who,
    /// How they are.
    pub state: Fate,
}

/// Which servers an [`Entry`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Who {
    /// These.
    Ips {
        /// Their addresses.
        ips: Vec<IpAddr>,
    },
    /// Those of a service, or of all, or so many of them: the first in an order that the seed
    /// decides, the same for every entry, so that three of them are among five of them.
    Some {
        /// Without it, any.
        #[serde(skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Without it, all.
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<usize>,
    },
}

/// An [`Entry`] as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    at: String,
    #[serde(rename = "for")]
    lasts: Option<String>,
    ips: Option<Vec<String>>,
    service: Option<String>,
    count: Option<usize>,
    state: Fate,
}

/// Reads the file of `--script`.
///
/// # Errors
/// In words: the file cannot be read, is no JSON, or an entry (named by its number, from 1) is not
/// what an entry must be.
pub(super) fn read(path: &str) -> Result<Script, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the script: {error}"))?;
    let json = serde_json::from_str(&text).map_err(|error| format!("the script is no JSON: {error}"))?;
    Script::from_json(json)
}

impl Script {
    fn from_json(json: Value) -> Result<Self, String> {
        let Value::Array(entries) = json else {
            return Err(format!("a script is a JSON array of entries: [{EXAMPLE}]"));
        };
        let read = |(entry, number): (Value, u32)| {
            serde_json::from_value(entry)
                .map_err(|error| format!("entry {number} of the script: {error}; an entry is such as {EXAMPLE}"))
        };
        entries.into_iter().zip(1..).map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether every entry names servers that there are.
    pub(super) fn check(&self, fleet: &Fleet) -> Result<(), String> {
        let check = |(entry, number): (&Entry, u32)| {
            entry.who.check(&fleet.hosts).map_err(|reason| format!("entry {number} of the script: {reason}"))
        };
        self.0.iter().zip(1..).try_for_each(check)
    }
}

impl<'de> Deserialize<'de> for Script {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl TryFrom<Raw> for Entry {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let ip = |ip: String| ip.parse().map_err(|_| format!("`{ip}` in `ips` is no IP address"));
        let who = match (raw.ips, raw.service, raw.count) {
            (Some(ips), None, None) => Who::Ips { ips: ips.into_iter().map(ip).collect::<Result<_, _>>()? },
            (None, None, None) => return Err("it must say who: `ips`, `service` or `count`".to_owned()),
            (None, service, count) => Who::Some { service, count },
            (Some(_), _, _) => return Err("`ips` stands alone, without `service` and `count`".to_owned()),
        };
        Ok(Self {
            at: parse_duration(&raw.at).map_err(|reason| format!("`at`: {reason}"))?,
            lasts: raw
                .lasts
                .map(|lasts| parse_duration(&lasts).map_err(|reason| format!("`for`: {reason}")))
                .transpose()?,
            who,
            state: raw.state,
        })
    }
}

impl Who {
    /// The servers it names, of those there are.
    pub(super) fn choose(&self, seed: u64, hosts: &BTreeMap<IpAddr, Host>) -> Vec<IpAddr> {
        match self {
            Self::Ips { ips } => ips.clone(),
            Self::Some { service, count } => {
                let mut chosen: Vec<_> = of(service.as_deref(), hosts).collect();
                chosen.sort_by_key(|(_, host)| Draw::lasting(seed, host.key).below("turn to be sick", u32::MAX));
                chosen.into_iter().take(count.unwrap_or(usize::MAX)).map(|(ip, _)| *ip).collect()
            }
        }
    }

    fn check(&self, hosts: &BTreeMap<IpAddr, Host>) -> Result<(), String> {
        match self {
            Self::Ips { ips } => ips.iter().find(|ip| !hosts.contains_key(ip)).map_or(Ok(()), |ip| {
                let ends = hosts.keys().next().zip(hosts.keys().next_back());
                let ends = ends.map_or("no servers at all".to_owned(), |(first, last)| format!("{first} to {last}"));
                Err(format!("there is no server {ip}; there are {ends}"))
            }),
            Self::Some { service, count } => {
                let name = service.as_deref();
                let there_are = of(name, hosts).count();
                match (name, count) {
                    (Some(name), _) if there_are == 0 => {
                        let mut names: Vec<_> = hosts.values().map(|host| host.service.as_str()).collect();
                        names.sort_unstable();
                        names.dedup();
                        Err(format!("no server runs `{name}`; there are {}", names.join(", ")))
                    }
                    (_, Some(count)) if *count > there_are => {
                        let kind = name.map_or(String::new(), |name| format!(" of {name}"));
                        Err(format!("`count` is {count}, but there are {there_are} servers{kind}"))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

fn of<'hosts>(
    service: Option<&str>,
    hosts: &'hosts BTreeMap<IpAddr, Host>,
) -> impl Iterator<Item = (&'hosts IpAddr, &'hosts Host)> {
    hosts.iter().filter(move |(_, host)| service.is_none_or(|service| service == host.service))
}

/// An [`Entry`] as one of its servers has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spell {
    from: Duration,
    /// Without it, to the end.
    until: Option<Duration>,
    pub fate: Fate,
}

impl Spell {
    pub fn of(entry: &Entry) -> Self {
        let until = entry.lasts.map(|lasts| entry.at.saturating_add(lasts));
        Self { from: entry.at, until, fate: entry.state }
    }

    /// From `at` on, up to and without the end.
    pub fn holds_at(self, elapsed: Duration) -> bool {
        elapsed >= self.from && self.until.is_none_or(|until| elapsed < until)
    }
}
