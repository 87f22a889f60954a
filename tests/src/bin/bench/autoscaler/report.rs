//! The numbers, the targets they are held against, and how both are shown: text for people, JSON
//! with the same fields for programs. Times are seconds unless a name says otherwise.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    measure::{Bare, Measured},
    steps::{Mixed, Speed},
    units::Units,
};
use crate::{
    machine::Machine,
    numbers::{as_f64, median, milliseconds, worst},
    print::{self, Target, maybe, section, table},
};

/// How much longer than the ideal a tick over so many deployments may take.
const MOST: f64 = 1.25;
/// The number of deployments that this is promised for.
const MANY: u32 = 10_000;
/// The most read and the most write units of a deployment in a tick where nothing changes.
const MOST_UNITS: f64 = 1.0;
/// The largest item that DynamoDB takes, in bytes.
const LARGEST_ITEM: u64 = 400 * 1024;

/// Everything that one run has measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Ticks of each kind.
    pub ticks: Vec<Ticks>,
    /// Peaks.
    pub memory: Vec<Peak>,
    /// What DynamoDB would bill.
    pub units: Vec<Units>,
    /// The pure machine.
    pub steps: Vec<Speed>,
    /// Its states at the end.
    pub mixed: Mixed,
}

/// Ticks of one kind over so many deployments.
#[derive(Debug, Serialize)]
pub struct Ticks {
    which: &'static str,
    deployments: u32,
    latency_ms: f64,
    at_once: usize,
    /// Requests to the upstream, of each repetition.
    calls: Vec<u64>,
    /// calls / at_once × latency, of each repetition.
    ideal: Vec<f64>,
    /// Each repetition.
    wall: Vec<f64>,
    /// The median of `wall` to `ideal`: what the target is about.
    ratio: f64,
    /// The highest of them.
    worst_ratio: f64,
    /// None where nothing is promised.
    target: Option<f64>,
    /// As the target says, and nothing amiss.
    met: Option<bool>,
    /// Deployments that were not read, scaled or kept as they should have been, of each repetition.
    amiss: Vec<u64>,
    /// A bare client beside each repetition: the same requests, as many in flight from the first
    /// moment on.
    bare: Vec<f64>,
    /// The median of `bare` to `ideal`: what machine and simulator can do.
    bare_ratio: f64,
    /// The median of `wall` to `bare`.
    ratio_to_bare: f64,
    /// The process's processor time for each deployment in microseconds, the mean of all
    /// repetitions. The system tells it in hundredths of a second.
    processor_us: Option<f64>,
    /// The same of the bare client.
    bare_processor_us: Option<f64>,
    #[serde(skip)]
    processor: Vec<Option<Duration>>,
    #[serde(skip)]
    bare_processor: Vec<Option<Duration>>,
}

impl Ticks {
    /// Before the first repetition.
    pub fn new(which: &'static str, deployments: u32, latency: Duration, at_once: usize) -> Self {
        Self {
            which,
            deployments,
            latency_ms: milliseconds(latency),
            at_once,
            calls: Vec::new(),
            ideal: Vec::new(),
            wall: Vec::new(),
            ratio: 0.0,
            worst_ratio: 0.0,
            target: (deployments >= MANY).then_some(MOST),
            met: None,
            amiss: Vec::new(),
            bare: Vec::new(),
            bare_ratio: 0.0,
            ratio_to_bare: 0.0,
            processor_us: None,
            bare_processor_us: None,
            processor: Vec::new(),
            bare_processor: Vec::new(),
        }
    }

    /// Takes a repetition in.
    pub fn add(&mut self, bare: &Bare, tick: &Measured) {
        self.calls.push(tick.calls);
        self.ideal.push(as_f64(tick.calls) / as_f64(self.at_once as u64) * self.latency_ms / 1000.0);
        self.wall.push(tick.wall.as_secs_f64());
        self.bare.push(bare.wall.as_secs_f64());
        self.amiss.push(tick.amiss);
        let to_ideal = ratios(&self.wall, &self.ideal);
        self.ratio = median(&to_ideal);
        self.worst_ratio = worst(&to_ideal);
        let well = self.amiss.iter().all(|amiss| *amiss == 0);
        self.met = self.target.map(|target| self.ratio <= target && well);
        self.bare_ratio = median(&ratios(&self.bare, &self.ideal));
        self.ratio_to_bare = median(&ratios(&self.wall, &self.bare));
        self.processor.push(tick.processor);
        self.bare_processor.push(bare.processor);
        self.processor_us = each(&self.processor, self.deployments);
        self.bare_processor_us = each(&self.bare_processor, self.deployments);
    }
}

/// The mean for each deployment, in microseconds; none where one time is not known.
fn each(times: &[Option<Duration>], deployments: u32) -> Option<f64> {
    let sum: Duration = times.iter().copied().sum::<Option<_>>()?;
    Some(sum.as_secs_f64() * 1e6 / as_f64(times.len() as u64) / f64::from(deployments))
}

fn ratios(times: &[f64], to: &[f64]) -> Vec<f64> {
    times.iter().zip(to).map(|(time, to)| time / to).collect()
}

/// The most memory that a process which ticks ever held; nothing where the system does not tell.
#[derive(Debug, Serialize)]
pub struct Peak {
    deployments: u32,
    peak_mib: Option<f64>,
}

impl Peak {
    /// Of ticks over so many deployments.
    pub fn new(deployments: u32) -> Self {
        Self { deployments, peak_mib: None }
    }

    /// Takes another process in.
    pub fn add(&mut self, peak_mib: Option<f64>) {
        self.peak_mib = peak_mib.into_iter().chain(self.peak_mib).reduce(f64::max);
    }
}

impl Report {
    fn targets(&self) -> Vec<Target> {
        let ticks = self.ticks.iter().filter_map(|row| {
            Some(Target {
                what: format!(
                    "{} deployments, {} at once at {} ms, {}: at most {} × ideal",
                    row.deployments, row.at_once, row.latency_ms, row.which, row.target?
                ),
                measured: match row.amiss.iter().sum() {
                    0_u64 => format!("{:.3}", row.ratio),
                    sum => format!("{:.3}, and {sum} deployments amiss in {} ticks", row.ratio, row.amiss.len()),
                },
                met: row.met?,
            })
        });
        let units = self.units.iter().flat_map(|row| {
            [("the first tick of a process", &row.cold), ("later ones", &row.warm)].map(|(which, units)| Target {
                what: format!(
                    "{} deployments, nothing changes, {which}: at most {MOST_UNITS} read and {MOST_UNITS} write unit each",
                    row.deployments
                ),
                measured: format!("{:.3} and {:.3}", units.reads, units.writes),
                met: units.reads <= MOST_UNITS && units.writes <= MOST_UNITS,
            })
        });
        let items = self.units.iter().map(|row| Target {
            what: format!("{} deployments: no item above DynamoDB's {LARGEST_ITEM} bytes", row.deployments),
            measured: format!("{} bytes", row.largest_item_bytes),
            met: row.largest_item_bytes <= LARGEST_ITEM,
        });
        let mixed = Target {
            what: format!("{} deployments after mixed steps: no item above {LARGEST_ITEM} bytes", self.mixed.most),
            measured: format!("{} bytes", self.mixed.fullest_shard_bytes),
            met: self.mixed.fullest_shard_bytes <= LARGEST_ITEM,
        };
        ticks.chain(units).chain(items).chain([mixed]).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.fmt(out)?;

        let mut ticks = table(&[
            "deployments",
            "at once",
            "latency",
            "tick",
            "calls",
            "ideal",
            "took",
            "ratio",
            "worst",
            "bare client",
            "ratio",
            "to bare",
            "processor",
            "bare client's",
            "amiss",
        ]);
        for row in &self.ticks {
            ticks.add_row([
                row.deployments.to_string(),
                row.at_once.to_string(),
                format!("{} ms", row.latency_ms),
                row.which.to_owned(),
                row.calls.iter().max().copied().unwrap_or_default().to_string(),
                format!("{:.3} s", median(&row.ideal)),
                format!("{:.3} s", median(&row.wall)),
                format!("{:.3}", row.ratio),
                format!("{:.3}", row.worst_ratio),
                format!("{:.3} s", median(&row.bare)),
                format!("{:.3}", row.bare_ratio),
                format!("{:.3}", row.ratio_to_bare),
                format!("{} µs each", maybe(row.processor_us, 0)),
                format!("{} µs each", maybe(row.bare_processor_us, 0)),
                row.amiss.iter().sum::<u64>().to_string(),
            ]);
        }
        section(out, "A tick", &ticks)?;

        let mut peaks = table(&["deployments", "peak"]);
        for peak in &self.memory {
            peaks.add_row([peak.deployments.to_string(), format!("{} MiB", maybe(peak.peak_mib, 1))]);
        }
        section(out, "Peak memory of the process that ticks", &peaks)?;

        let mut units = table(&["deployments", "tick", "read units", "write units", "requests of a tick"]);
        for row in &self.units {
            for (which, tick) in [("first of a process", &row.cold), ("later", &row.warm)] {
                let (reads, writes) = (format!("{:.4}", tick.reads), format!("{:.4}", tick.writes));
                let requests = tick.requests.iter().map(|(name, count)| format!("{count:.0} {name}"));
                let requests = requests.collect::<Vec<_>>().join(", ");
                units.add_row([row.deployments.to_string(), which.to_owned(), reads, writes, requests]);
            }
        }
        section(out, "DynamoDB, for each deployment in a tick where nothing changes", &units)?;

        let mut sizes = table(&["deployments", "after", "median", "99 %", "largest", "fullest item"]);
        for row in &self.units {
            let bytes = [row.state_bytes.median, row.state_bytes.pct_99, row.state_bytes.largest];
            let [median, pct_99, largest] = bytes.map(|bytes| bytes.to_string());
            let item = row.largest_item_bytes.to_string();
            sizes.add_row([row.deployments.to_string(), "ticks".to_owned(), median, pct_99, largest, item]);
        }
        let bytes = [self.mixed.state_bytes.median, self.mixed.state_bytes.pct_99, self.mixed.state_bytes.largest];
        let [median, pct_99, largest] = bytes.map(|bytes| bytes.to_string());
        let item = self.mixed.fullest_shard_bytes.to_string();
        sizes.add_row([self.mixed.most.to_string(), "mixed steps".to_owned(), median, pct_99, largest, item]);
        section(out, "Bytes of a deployment's state", &sizes)?;

        let mut steps = table(&["load", "deployments", "steps", "for each core's second", "slowest", "sent"]);
        for row in &self.steps {
            steps.add_row([
                row.load.to_owned(),
                row.deployments.to_string(),
                row.steps.to_string(),
                format!("{:.0}", row.per_second),
                format!("{:.0}", row.slowest),
                format!("{:.1} ‰", row.sent_per_mille),
            ]);
        }
        section(out, "The pure machine", &steps)?;

        print::targets(out, &self.targets())
    }
}
