//! Who is sick from when to when.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Fate,
    fleet::{Fleet, Host},
};
pub use crate::script::Script;
use crate::{
    faults::Draw,
    script::{Example, Spell, parse_times},
};

/// Some servers in one state for a while. As JSON:
/// `{"at": "10s", "for": "30s", "service": "AuthService", "count": 3, "state": "sick"}`.
///
/// The script's clock starts with the simulator, or when it takes the place of another script.
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

impl Example for Entry {
    const EXAMPLE: &'static str = r#"{"at": "10s", "for": "30s", "service": "AuthService", "state": "sick"}"#;
}

/// Whether every entry names servers that there are.
pub(super) fn check(script: &Script<Entry>, fleet: &Fleet) -> Result<(), String> {
    script.check(|entry| entry.who.check(&fleet.hosts))
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
        let (at, lasts) = parse_times(&raw.at, raw.lasts.as_deref())?;
        Ok(Self { at, lasts, who, state: raw.state })
    }
}

impl Entry {
    /// The entry as one of its servers has it.
    pub(super) fn spell(&self) -> Spell<Fate> {
        Spell::new(self.at, self.lasts, self.state)
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
