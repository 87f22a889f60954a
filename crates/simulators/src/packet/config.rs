//! What there is, how time passes, and what goes wrong.

use std::{fs, str::FromStr, time::Duration};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    catalog::{self, Catalog},
    device::Times,
    fault::{self, Rule, Script},
};
use crate::faults::{self, Down, parse_duration, parse_rate};

/// The project there is unless told otherwise.
pub const PROJECT: &str = "2f1e9a7c-6d35-4c1b-9a55-0c8f3f1d7e42";

/// The token that is good unless told otherwise. It opens nothing but a simulator.
pub const TOKEN: &str = "muster-sim-packet-token";

/// Where `muster-sim packet` finds another token.
pub const TOKEN_VARIABLE: &str = "MUSTER_SIM_PACKET_TOKEN";

/// A list that can come in another form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum List {
    /// `GET /operating-systems`
    OperatingSystems,
    /// `GET /projects/{project}/plans`
    Plans,
    /// `GET /projects/{project}/facilities`
    Facilities,
    /// `GET /projects/{project}/devices`
    Devices,
    /// `GET /devices/{id}/events`
    Events,
}

/// Under which status a create finds no server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SoldOut {
    /// One or the other, as the seed decides.
    #[default]
    Either,
    /// Always 422.
    #[serde(rename = "422")]
    #[value(name = "422")]
    Unprocessable,
    /// Always 503.
    #[serde(rename = "503")]
    #[value(name = "503")]
    Unavailable,
}

/// In which of its two forms the vendor tells an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ErrorShape {
    /// One or the other, as the seed decides.
    #[default]
    Either,
    /// `{"errors":["…"]}`
    Errors,
    /// `{"error":"…"}`
    Error,
}

/// How many servers there are of a plan in a facility. As text, and in JSON:
/// `ewr1/c3.small.x86=3`, where `*` is any facility or plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Capacity {
    /// Code; none is any.
    pub facility: Option<String>,
    /// Slug; none is any.
    pub plan: Option<String>,
    /// All of them, those that are in use included.
    pub servers: u32,
}

impl Capacity {
    pub(super) fn fits(&self, facility: &str, plan: &str) -> bool {
        let is = |own: &Option<String>, name| own.as_deref().is_none_or(|own| own == name);
        is(&self.facility, facility) && is(&self.plan, plan)
    }
}

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || format!("`{text}` is not such as ewr1/c3.small.x86=3");
        let (pair, servers) = text.split_once('=').ok_or_else(refusal)?;
        let (facility, plan) = pair.split_once('/').ok_or_else(refusal)?;
        let named = |name: &str| (name != "*").then(|| name.to_owned());
        Ok(Self { facility: named(facility), plan: named(plan), servers: servers.parse().map_err(|_| refusal())? })
    }
}

impl TryFrom<String> for Capacity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Capacity> for String {
    fn from(capacity: Capacity) -> Self {
        let name = |name: Option<String>| name.unwrap_or_else(|| "*".to_owned());
        format!("{}/{}={}", name(capacity.facility), name(capacity.plan), capacity.servers)
    }
}

/// What the vendor has, how long it takes, and what goes wrong. By default the built-in catalogue,
/// 10,000 servers of each kind everywhere, devices that are up after 20 seconds, and no faults.
/// Durations are text in JSON and on the command line (`100ms`), and those of devices are in the
/// simulator's time.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The same seed makes the same ids, timings and decisions
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The one project there is
    #[arg(long, default_value = PROJECT)]
    pub project: String,
    /// A file with the token that is good, on one line
    #[arg(long = "token-file", value_name = "FILE", value_parser = read_token)]
    pub token: Option<String>,
    /// Another catalogue: a JSON file with operating_systems, plans and facilities
    #[arg(long, value_name = "FILE", value_parser = catalog::read)]
    pub catalog: Option<Catalog>,
    /// What its clock says at the start, such as 2026-01-01T00:00:00Z; without it, what this machine's does
    #[arg(long, value_name = "TIME")]
    pub epoch: Option<Timestamp>,
    /// Seconds of the simulator in one real second
    #[arg(long, default_value_t = 1.0, value_name = "TIMES")]
    pub speed: f64,
    /// Time stands still but for POST /_sim/advance {"seconds": 30}
    #[arg(long)]
    pub manual: bool,
    /// From the arrival of a request to its answer, in real time; what it asks for is done halfway
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub latency: Duration,
    /// Added to the latency, between nothing and this
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub jitter: Duration,
    /// The API is away
    #[arg(long, value_enum, default_value = "no")]
    pub down: Down,
    /// From a create until the device is active
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub provision: Duration,
    /// By which share of that it is longer or shorter, device by device
    #[arg(long, default_value_t = 0.2, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub spread: f64,
    /// From an accepted deletion until the device is gone
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub deprovision: Duration,
    /// How long switching on or off takes; a reboot is both
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub power: Duration,
    /// From a failed provisioning until the vendor takes the machine back, where it does
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub reclaim_after: Duration,
    /// How long a device that is gone is still shown as `deleted`; then it is 404
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub show_deleted: Duration,
    /// How many servers there are of each plan in each facility where it is offered
    #[arg(long, default_value_t = 10_000)]
    pub stock: u32,
    /// For this share of those pairs there are only 0 to 9, as the seed decides
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scarce: f64,
    /// How many there are of some, such as ewr1/c3.small.x86=3; `*` is any; the last that fits counts
    #[arg(long, value_name = "FACILITY/PLAN=NUMBER")]
    pub capacity: Vec<Capacity>,
    /// Under which status a create finds no server
    #[arg(long, value_enum, default_value = "either")]
    pub sold_out: SoldOut,
    /// There is no GET /capacity
    #[arg(long)]
    pub no_capacity: bool,
    /// There is no POST /capacity
    #[arg(long)]
    pub no_capacity_check: bool,
    /// There is no GET /devices/{id}/diagnostics/health/rollup
    #[arg(long)]
    pub no_health: bool,
    /// Lists that come in pages, but without `meta`
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub no_meta: Vec<List>,
    /// Lists that come whole and without `meta`, whatever page is asked for
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub unpaged: Vec<List>,
    /// Nested objects are whole where nothing was said about them
    #[arg(long)]
    pub nested: bool,
    /// `?tag=` is passed over in the list of devices
    #[arg(long)]
    pub ignore_tag: bool,
    /// In which of its two forms an error is told
    #[arg(long, value_enum, default_value = "either")]
    pub error_shape: ErrorShape,
    /// How many requests are answered in each --rate-window; more are 429
    #[arg(long, value_name = "REQUESTS")]
    pub rate_limit: Option<u32>,
    /// In the simulator's time
    #[arg(long, default_value = "1m", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub rate_window: Duration,
    /// Where the client does not give up, the connection is closed after this long, in real time
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub hang_for: Duration,
    /// What goes wrong (see below); may be given several times
    #[arg(long = "fault", value_name = "KIND[@FACILITY[/PLAN]][=SHARE][,NAME=VALUE]")]
    pub faults: Vec<Rule>,
    /// The same in a file: a JSON array
    #[arg(long, value_name = "FILE", value_parser = fault::read)]
    pub script: Option<Script>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            project: PROJECT.to_owned(),
            token: None,
            catalog: None,
            epoch: None,
            speed: 1.0,
            manual: false,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            down: Down::No,
            provision: Duration::from_secs(20),
            spread: 0.2,
            deprovision: Duration::from_secs(5),
            power: Duration::from_secs(2),
            reclaim_after: Duration::from_secs(5),
            show_deleted: Duration::ZERO,
            stock: 10_000,
            scarce: 0.0,
            capacity: Vec::new(),
            sold_out: SoldOut::Either,
            no_capacity: false,
            no_capacity_check: false,
            no_health: false,
            no_meta: Vec::new(),
            unpaged: Vec::new(),
            nested: false,
            ignore_tag: false,
            error_shape: ErrorShape::Either,
            rate_limit: None,
            rate_window: Duration::from_secs(60),
            hang_for: Duration::from_secs(60),
            faults: Vec::new(),
            script: None,
        }
    }
}

impl Config {
    /// The token that is good.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or(TOKEN)
    }

    pub(super) fn times(&self) -> Times {
        Times {
            provision: self.provision,
            deprovision: self.deprovision,
            power: self.power,
            reclaim_after: self.reclaim_after,
        }
    }

    /// How fast time goes by itself.
    pub(super) fn pace(&self) -> f64 {
        if self.manual { 0.0 } else { self.speed }
    }

    /// What goes wrong, that of the script last.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.faults.iter().chain(self.script.iter().flat_map(|script| &script.0))
    }

    /// Why this makes no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        if !(self.speed > 0.0 && self.speed <= 1e6) {
            return Err(format!("a speed of {} makes no sense; it is such as 60 for an hour a minute", self.speed));
        }
        if self.project.is_empty() || self.project.contains('/') {
            return Err("a project is such as a UUID: neither empty nor with a slash".to_owned());
        }
        if self.token().is_empty() {
            return Err("an empty token opens nothing; leave it out for the default".to_owned());
        }
        if self.rate_limit == Some(0) || self.rate_window.is_zero() {
            return Err("a rate limit is one request or more in a time that is not nothing".to_owned());
        }
        self.rules().try_for_each(Rule::check)
    }
}

fn read_token(path: &str) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the token: {error}"))?;
    Ok(text.trim().to_owned())
}
