//! One deployment over time: hosts that boot, run and drain, servers that are busy or free.
//!
//! No clock and no I/O: the time comes in with [`Model::advance`]. What happens between two times
//! is worked out piece by piece, exactly, so it does not matter how often it is asked.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::load::Load;

/// What a deployment is at the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its id, any text that is not empty.
    pub id: String,
    /// How many servers run on a host, from 1.
    pub servers_per_host: u64,
    /// Which share of its servers should be free, in per cents.
    pub target_free_pct: Target,
    /// How many hosts run at the start.
    pub hosts: u64,
    /// How many servers are wanted, over time.
    pub load: Load,
}

/// A share in per cents, 0 or more and less than 100, that keeps the letters it was written in:
/// `15`, `15.0` and `15.000` are the same share and different text. Text in JSON, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Target {
    text: String,
    /// The share is `digits / (100 * scale)`.
    digits: u128,
    scale: u128,
}

impl Target {
    /// So many units of the last place.
    pub(super) fn of(digits: u32, places: u32) -> Self {
        let scale = 10_u32.saturating_pow(places);
        let (whole, rest) = (digits / scale, digits % scale);
        let text =
            if places == 0 { whole.to_string() } else { format!("{whole}.{rest:0width$}", width = places as usize) };
        Self { text, digits: digits.into(), scale: scale.into() }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether fewer than this share of `total` servers are `free`. Where there are no servers, no
    /// share of them is free.
    pub fn is_above(&self, free: u64, total: u64) -> bool {
        if total == 0 {
            return self.digits > 0;
        }
        u128::from(free) * 100 * self.scale < self.digits * u128::from(total)
    }

    /// The fewest servers of which this share is free while `busy` are busy.
    pub fn servers_for(&self, busy: u64) -> u64 {
        let whole = 100 * self.scale;
        u64::try_from((whole * u128::from(busy)).div_ceil(whole - self.digits)).unwrap_or(u64::MAX)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (whole, rest) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
        let rest = rest.unwrap_or_default();
        let digits_only = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let written = (1..=2).contains(&whole.len())
            && (whole.len() == 1 || !whole.starts_with('0'))
            && (text.len() == whole.len() || (1..=12).contains(&rest.len()))
            && digits_only(whole)
            && digits_only(rest);
        let scale = u32::try_from(rest.len()).map_or(1, |places| 10_u128.pow(places.min(12)));
        match format!("{whole}{rest}").parse() {
            Ok(digits) if written => Ok(Self { text: text.to_owned(), digits, scale }),
            _ => Err(format!("`{text}` is no share in per cents; it is such as 15, 15.0 or 0.001, below 100")),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.text
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How long hosts take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From an accepted scale-up until its hosts run.
    pub boot: Duration,
    /// From an accepted scale-down until its hosts are gone.
    pub drain: Duration,
}

/// What `GET /status/{id}` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Hosts that run or boot: it changes at once when a scale is accepted.
    pub current_hosts: u64,
    /// Servers on hosts that run or drain.
    pub total_servers: u64,
    /// Those of them that are not busy.
    pub free_servers: u64,
}

/// How well it went until now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// For how long the free share was below the target.
    pub short: Duration,
    /// When that was, from the first; the last one may go on.
    pub spells: Vec<Spell>,
    /// The lowest free share there was for any time, of 0 to 1; `None` before any time has passed.
    pub worst_share: Option<f64>,
    /// Hosts that boot, run or drain, times the nanoseconds they did.
    pub host_nanos: u128,
    /// Accepted scale requests.
    pub changes: u64,
}

impl Record {
    /// Hosts that boot, run or drain, times the seconds they did.
    #[expect(clippy::cast_precision_loss, reason = "for people and reports")]
    pub fn host_seconds(&self) -> f64 {
        self.host_nanos as f64 / 1e9
    }
}

/// From when to when the free share was below the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spell {
    /// Since the start.
    pub from: Duration,
    /// Since the start; not in it.
    pub until: Duration,
}

/// What a scale request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaled {
    /// When.
    pub at: Duration,
    /// `current_hosts` before it.
    pub before: u64,
    /// `current_hosts` after it.
    pub after: u64,
}

/// A deployment at a time.
#[derive(Debug, Clone)]
pub struct Model {
    spec: Spec,
    times: Times,
    now: Duration,
    busy: u64,
    /// When `busy` may change.
    busy_until: Option<Duration>,
    running: u64,
    /// How many become ready when.
    booting: BTreeMap<Duration, u64>,
    /// How many are gone when.
    draining: BTreeMap<Duration, u64>,
    /// Scale requests that come into effect later: by time and in the order of their arrival.
    late: BTreeMap<(Duration, u64), i64>,
    record: Record,
}

impl Model {
    /// A deployment whose hosts all run, at `now`.
    pub fn new(spec: Spec, times: Times, now: Duration) -> Self {
        let mut model = Self {
            times,
            now,
            busy: 0,
            busy_until: None,
            running: spec.hosts,
            booting: BTreeMap::new(),
            draining: BTreeMap::new(),
            late: BTreeMap::new(),
            record: Record::default(),
            spec,
        };
        model.look_at_load();
        model
    }

    /// Lets time pass, up to and with `now`; an earlier one changes nothing. Tells which late scale
    /// requests came into effect, by their numbers.
    pub fn advance(&mut self, now: Duration) -> Vec<(u64, Scaled)> {
        let mut came = Vec::new();
        while self.now < now {
            let next = self.next_change().map_or(now, |next| next.min(now));
            self.account(next);
            self.now = next;
            self.happen(&mut came);
        }
        came
    }

    /// Adds hosts, or takes them away where `delta` is below 0 (down to none): those that boot
    /// first, the latest of them first, at once; then those that run, which drain.
    pub fn scale(&mut self, delta: i64) -> Scaled {
        let before = self.hosts();
        let after = before.saturating_add_signed(delta);
        if let Some(more) = after.checked_sub(before).filter(|more| *more > 0) {
            add(&mut self.booting, self.now.saturating_add(self.times.boot), more);
        }
        let mut fewer = before.saturating_sub(after);
        while fewer > 0
            && let Some(mut latest) = self.booting.last_entry()
        {
            let taken = fewer.min(*latest.get());
            fewer -= taken;
            *latest.get_mut() -= taken;
            if *latest.get() == 0 {
                latest.remove();
            }
        }
        if fewer > 0 {
            self.running = self.running.saturating_sub(fewer);
            add(&mut self.draining, self.now.saturating_add(self.times.drain), fewer);
        }
        self.record.changes += 1;
        self.move_hosts();
        Scaled { at: self.now, before, after }
    }

    /// The same, but so much later. `number` names the request and must be used once.
    pub fn scale_late(&mut self, number: u64, delta: i64, by: Duration) {
        self.late.insert((self.now.saturating_add(by).max(self.now + Duration::from_nanos(1)), number), delta);
    }

    /// Another servers_per_host, target or load from now on, and other times for hosts that boot or
    /// drain from now on. Hosts and the record stay.
    pub fn change(&mut self, spec: Spec, times: Times) {
        (self.spec, self.times) = (spec, times);
        self.look_at_load();
    }

    /// What it is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The time up to which everything is worked out.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Servers wanted now, whether or not there are so many.
    pub fn busy(&self) -> u64 {
        self.busy
    }

    /// Hosts that run.
    pub fn running(&self) -> u64 {
        self.running
    }

    /// Hosts that boot, by the time they are ready.
    pub fn booting(&self) -> &BTreeMap<Duration, u64> {
        &self.booting
    }

    /// Hosts that drain, by the time they are gone.
    pub fn draining(&self) -> &BTreeMap<Duration, u64> {
        &self.draining
    }

    /// How well it went until now.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What it tells now.
    pub fn status(&self) -> Status {
        let there = self.running.saturating_add(sum(&self.draining));
        let total = self.spec.servers_per_host.saturating_mul(there);
        Status { current_hosts: self.hosts(), total_servers: total, free_servers: total.saturating_sub(self.busy) }
    }

    fn hosts(&self) -> u64 {
        self.running.saturating_add(sum(&self.booting))
    }

    fn look_at_load(&mut self) {
        self.busy = self.spec.load.busy(self.now);
        self.busy_until = self.spec.load.holds_until(self.now);
    }

    fn next_change(&self) -> Option<Duration> {
        let keys = [self.booting.keys().next().copied(), self.draining.keys().next().copied(), self.busy_until];
        let late = self.late.keys().next().map(|(at, _)| *at);
        keys.into_iter().flatten().chain(late).min()
    }

    /// What is due now.
    fn happen(&mut self, came: &mut Vec<(u64, Scaled)>) {
        if self.busy_until.is_some_and(|until| until <= self.now) {
            self.look_at_load();
        }
        self.move_hosts();
        while let Some(entry) = self.late.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let ((_, number), delta) = entry.remove_entry();
            came.push((number, self.scale(delta)));
        }
    }

    fn move_hosts(&mut self) {
        while let Some(entry) = self.booting.first_entry().filter(|entry| *entry.key() <= self.now) {
            self.running = self.running.saturating_add(entry.remove());
        }
        while let Some(entry) = self.draining.first_entry().filter(|entry| *entry.key() <= self.now) {
            entry.remove();
        }
    }

    /// Books the time from now until `until`, in which nothing changes.
    fn account(&mut self, until: Duration) {
        let Status { current_hosts, total_servers, free_servers } = self.status();
        let share = share(free_servers, total_servers);
        let time = until.saturating_sub(self.now);
        let record = &mut self.record;
        let hosts = u128::from(current_hosts) + u128::from(sum(&self.draining));
        record.host_nanos = record.host_nanos.saturating_add(hosts.saturating_mul(time.as_nanos()));
        record.worst_share = Some(record.worst_share.map_or(share, |worst| worst.min(share)));
        if !self.spec.target_free_pct.is_above(free_servers, total_servers) {
            return;
        }
        record.short += time;
        match record.spells.last_mut() {
            Some(last) if last.until == self.now => last.until = until,
            _ => record.spells.push(Spell { from: self.now, until }),
        }
    }
}

pub(super) fn sum(hosts: &BTreeMap<Duration, u64>) -> u64 {
    hosts.values().fold(0, |sum, hosts| sum.saturating_add(*hosts))
}

fn add(hosts: &mut BTreeMap<Duration, u64>, at: Duration, more: u64) {
    let there = hosts.entry(at).or_default();
    *there = there.saturating_add(more);
}

/// Which share of the servers is free, of 0 to 1; 0 where there are none.
#[expect(clippy::cast_precision_loss, reason = "for people and reports; decisions compare integers")]
pub(super) fn share(free: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { free as f64 / total as f64 }
}
