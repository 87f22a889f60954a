//! What there is, how time passes, and what goes wrong how often.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    fault::{Fault, Part},
    model::{Spec, Times},
    script::{Entry, Script},
    stock,
};
use crate::faults::{self, Down, parse_duration, parse_rate};

/// More deployments than this are refused.
pub const MOST_DEPLOYMENTS: u32 = 100_000;

/// Which deployments there are and what goes wrong with them. By default 20 mixed ones, in real
/// time and without faults. Durations are text in JSON and on the command line (`100ms`); rates are
/// shares of 0 to 1, decided anew for each request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The same seed makes the same deployments and the same decisions
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many deployments: eu-1, us-2, ap-3, sa-4, eu-5 and so on
    #[arg(long, default_value_t = 20)]
    pub count: u32,
    /// Most of them have ids with spaces, slashes, umlauts and the like
    #[arg(long)]
    pub strange_ids: bool,
    /// These deployments instead.
    #[arg(skip)]
    pub fleet: Option<Vec<Spec>>,
    /// Seconds of the simulator in one real second
    #[arg(long, default_value_t = 1.0, value_name = "TIMES")]
    pub speed: f64,
    /// Time stands still but for POST /_sim/advance {"seconds": 30}
    #[arg(long)]
    pub manual: bool,
    /// From an accepted scale-up until its hosts run
    #[arg(long, default_value = "90s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub boot: Duration,
    /// From an accepted scale-down until its hosts are gone
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub drain: Duration,
    /// From the arrival of a request to its answer, in real time
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
    /// What goes wrong from when to when: a file (see below)
    #[arg(long, value_name = "FILE", value_parser = Script::<Entry>::read)]
    pub script: Option<Script<Entry>>,
    /// Where the client does not give up, the connection is closed after this long, in real time
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub hang_for: Duration,
    /// How much later what is applied late is applied
    #[arg(long, default_value = "45s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub late_by: Duration,
    /// Share of statuses that are 500, 502 or 503
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub status_error_rate: f64,
    /// Share of the other statuses whose connection is closed or reset without an answer
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub status_cut_rate: f64,
    /// Share of the other statuses that do not come until the client gives up
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub status_hang_rate: f64,
    /// Share of the other statuses that are 200 and nonsense
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub status_bad_rate: f64,
    /// Which nonsense (status_nan, status_zero_total and so on); without it each is drawn
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FAULT")]
    pub status_bad: Option<Fault>,
    /// Share of discoveries that are 500, 502 or 503
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub discover_error_rate: f64,
    /// Share of the other discoveries whose connection is closed or reset without an answer
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub discover_cut_rate: f64,
    /// Share of the other discoveries that do not come until the client gives up
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub discover_hang_rate: f64,
    /// Share of the other discoveries that are not JSON
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub discover_garbage_rate: f64,
    /// Share of the other discoveries with an empty list
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub discover_empty_rate: f64,
    /// Share of the other discoveries that lack more than half of the deployments
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub discover_half_rate: f64,
    /// Share of deployments that are not in a list, for each list
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub entry_missing_rate: f64,
    /// Share of the other deployments that are in it with nonsense, or twice
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub entry_bad_rate: f64,
    /// Which nonsense (entry_twice, entry_target_text and so on); without it each is drawn
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FAULT")]
    pub entry_bad: Option<Fault>,
    /// Share of scales that are applied, but the connection is closed or reset without an answer
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_drop_after_rate: f64,
    /// Share of the other scales that are refused with 400, 403, 409 or 422
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_refuse_rate: f64,
    /// Share of the other scales that are answered 500, 502 or 503 and not applied
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_error_rate: f64,
    /// Share of the other scales that are answered 500, 502 or 503, but applied
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_error_after_rate: f64,
    /// Share of the other scales that are answered 200, but not applied
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_ignore_rate: f64,
    /// Share of the other scales that are answered 200, but applied late
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_late_rate: f64,
    /// Share of the other scales that are applied late and not answered
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_late_drop_rate: f64,
    /// Share of the other scales whose connection is closed or reset, and that are not applied
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_cut_rate: f64,
    /// Share of the other scales that are not answered until the client gives up, and not applied
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_hang_rate: f64,
    /// Share of the other scales that are not answered until the client gives up, but applied
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub scale_hang_after_rate: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            count: 20,
            strange_ids: false,
            fleet: None,
            speed: 1.0,
            manual: false,
            boot: Duration::from_secs(90),
            drain: Duration::from_secs(30),
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            down: Down::No,
            script: None,
            hang_for: Duration::from_mins(1),
            late_by: Duration::from_secs(45),
            status_error_rate: 0.0,
            status_cut_rate: 0.0,
            status_hang_rate: 0.0,
            status_bad_rate: 0.0,
            status_bad: None,
            discover_error_rate: 0.0,
            discover_cut_rate: 0.0,
            discover_hang_rate: 0.0,
            discover_garbage_rate: 0.0,
            discover_empty_rate: 0.0,
            discover_half_rate: 0.0,
            entry_missing_rate: 0.0,
            entry_bad_rate: 0.0,
            entry_bad: None,
            scale_drop_after_rate: 0.0,
            scale_refuse_rate: 0.0,
            scale_error_rate: 0.0,
            scale_error_after_rate: 0.0,
            scale_ignore_rate: 0.0,
            scale_late_rate: 0.0,
            scale_late_drop_rate: 0.0,
            scale_cut_rate: 0.0,
            scale_hang_rate: 0.0,
            scale_hang_after_rate: 0.0,
        }
    }
}

impl Config {
    /// The deployments at their start, in the order of the list: what is given, or `count` that
    /// follow from the seed.
    pub fn specs(&self) -> Vec<Spec> {
        let stock = || (0..self.count).map(|number| stock::spec(self.seed, number, self.strange_ids)).collect();
        self.fleet.clone().unwrap_or_else(stock)
    }

    pub(super) fn times(&self) -> Times {
        Times { boot: self.boot, drain: self.drain }
    }

    /// How fast time goes by itself.
    pub(super) fn pace(&self) -> f64 {
        if self.manual { 0.0 } else { self.speed }
    }

    /// Whether the list is as it should be wherever no script says otherwise.
    pub(super) fn spares_entries(&self) -> bool {
        self.entry_missing_rate <= 0.0 && self.entry_bad_rate <= 0.0
    }

    /// Why there can be no such deployments.
    pub(super) fn check(&self) -> Result<(), String> {
        let count = self.count;
        if count > MOST_DEPLOYMENTS {
            return Err(format!("{count} deployments are too many; {MOST_DEPLOYMENTS} is the most"));
        }
        if !(self.speed > 0.0 && self.speed <= 1e6) {
            return Err(format!("a speed of {} makes no sense; it is such as 60 for an hour a minute", self.speed));
        }
        let of = |fault: Option<Fault>, part| fault.is_none_or(|fault| fault.part() == Some(part));
        if !of(self.status_bad, Part::Status) {
            return Err("`status_bad` is a fault that begins with `status_`".to_owned());
        }
        if !of(self.entry_bad, Part::Entry) {
            return Err("`entry_bad` is a fault that begins with `entry_`".to_owned());
        }
        let mut ids = BTreeSet::new();
        for Spec { id, servers_per_host, load, .. } in self.fleet.iter().flatten() {
            if id.is_empty() || *servers_per_host == 0 {
                return Err(format!("the deployment `{id}` needs an id and one server per host or more"));
            }
            if !ids.insert(id) {
                return Err(format!("the fleet has `{id}` twice; a deployment has one entry"));
            }
            load.check().map_err(|reason| format!("the load of `{id}`: {reason}"))?;
        }
        let Some(script) = &self.script else { return Ok(()) };
        let specs = self.specs();
        script.check_ids(&specs.iter().map(|spec| spec.id.as_str()).collect::<Vec<_>>())
    }
}
