//! The numbers, the targets they are held against, and how both are shown: text for people, JSON
//! with the same fields for programs. Times are seconds unless a name says otherwise.

use std::{fmt, time::Duration};

use kit::dynamo::embedded::Counts;
use serde::Serialize;

use super::{CONFLICT_RATE, IN_FLIGHT, measure::Run};
use crate::{
    machine::Machine,
    numbers::{as_f64, median},
    print::{self, Target, maybe, section, table},
};

/// How much more memory a batch of ten times the size may take.
const MOST_GROWTH_MIB: f64 = 16.0;
/// Writes that a DevEUI may cost at the store.
const MOST_WRITES: f64 = 0.15;

/// Everything that one run has measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Where the provider is the limit.
    pub paced: Vec<Paced>,
    /// Where the machine is.
    pub rates: Vec<Rate>,
    /// Peaks.
    pub memory: Memory,
    /// What it costs at the store.
    pub writes: Vec<Writes>,
}

/// Batches of one size at the provider's usual latency.
#[derive(Debug, Serialize)]
pub struct Paced {
    size: u64,
    latency_ms: f64,
    /// ceil(size / (1 − conflict rate) / 10) × latency.
    ideal: f64,
    /// Each repetition.
    wall: Vec<f64>,
    /// The median of `wall` to `ideal`: what the target is about.
    ratio: f64,
    /// The slowest repetition to `ideal`.
    worst_ratio: f64,
    target: f64,
    met: bool,
    /// What a bare client sees: the simulator's latency with its timer and the way there.
    mean_latency_ms: f64,
    /// Requests of each repetition, conflicts included.
    requests: Vec<u64>,
    /// The median of `wall` to ceil(`requests` / 10) × `mean_latency_ms`: what is our own doing.
    ratio_to_possible: f64,
    #[serde(skip)]
    ratios_to_possible: Vec<f64>,
}

impl Paced {
    /// Before the first repetition.
    pub fn new(size: u64, latency: Duration, mean_latency: Duration) -> Self {
        let rounds = (as_f64(size) / (1.0 - CONFLICT_RATE) / as_f64(IN_FLIGHT as u64)).ceil();
        Self {
            size,
            latency_ms: latency.as_secs_f64() * 1000.0,
            ideal: rounds * latency.as_secs_f64(),
            wall: Vec::new(),
            ratio: 0.0,
            worst_ratio: 0.0,
            target: if size < 1_000 { 1.08 } else { 1.03 },
            met: false,
            mean_latency_ms: mean_latency.as_secs_f64() * 1000.0,
            requests: Vec::new(),
            ratio_to_possible: 0.0,
            ratios_to_possible: Vec::new(),
        }
    }

    /// The least it could take by the formula.
    pub fn ideal(&self) -> Duration {
        Duration::from_secs_f64(self.ideal)
    }

    /// Takes a repetition in.
    pub fn add(&mut self, run: &Run) {
        let wall = run.wall.as_secs_f64();
        let possible = as_f64(run.requests.div_ceil(IN_FLIGHT as u64)) * self.mean_latency_ms / 1000.0;
        self.wall.push(wall);
        self.requests.push(run.requests);
        self.ratios_to_possible.push(wall / possible);
        self.ratio = median(&self.wall) / self.ideal;
        self.worst_ratio = self.worst_ratio.max(wall / self.ideal);
        self.met = self.ratio <= self.target;
        self.ratio_to_possible = median(&self.ratios_to_possible);
    }
}

/// Batches at a latency that leaves the machine as the limit.
#[derive(Debug, Serialize)]
pub struct Rate {
    size: u64,
    latency_ms: f64,
    /// DevEUIs per second.
    deveuis_per_second: f64,
    /// The same by a bare client with as many in flight: what machine and simulator can do.
    possible: f64,
    share_of_possible: f64,
    /// The server's processor time for each DevEUI, in microseconds.
    processor_us: Option<f64>,
}

impl Rate {
    /// From the medians of some repetitions.
    pub fn new(size: u64, latency: Duration, rate: f64, possible: f64, costs: &[f64]) -> Self {
        let processor_us = (!costs.is_empty()).then(|| median(costs));
        let latency_ms = latency.as_secs_f64() * 1000.0;
        Self { size, latency_ms, deveuis_per_second: rate, possible, share_of_possible: rate / possible, processor_us }
    }
}

/// Peaks for two sizes.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// The smaller.
    pub small: Peak,
    /// The larger.
    pub large: Peak,
}

impl Memory {
    fn growth_mib(&self) -> Option<f64> {
        Some(self.large.read_mib? - self.small.read_mib?)
    }
}

/// The peak memory of a server with one batch; nothing where the system does not tell.
#[derive(Debug, Serialize)]
pub struct Peak {
    /// Of the batch.
    pub size: u64,
    /// Before it.
    pub idle_mib: Option<f64>,
    /// When it was complete.
    pub registering_mib: Option<f64>,
    /// When all of it had been read as well.
    pub read_mib: Option<f64>,
    /// DevEUIs per second, at no latency.
    pub deveuis_per_second: f64,
}

/// What a batch costs at the store.
#[derive(Debug, Serialize)]
pub struct Writes {
    size: u64,
    latency_ms: f64,
    /// Items written, as DynamoDB bills them.
    items_written: u64,
    /// Of those for each DevEUI.
    per_deveui: f64,
    items_read: u64,
}

impl Writes {
    /// From what the store has counted.
    pub fn new(size: u64, latency: Duration, counts: &Counts) -> Self {
        Self {
            size,
            latency_ms: latency.as_secs_f64() * 1000.0,
            items_written: counts.writes,
            per_deveui: as_f64(counts.writes) / as_f64(size),
            items_read: counts.reads,
        }
    }
}

impl Report {
    fn targets(&self) -> Vec<Target> {
        let paced = self.paced.iter().map(|paced| Target {
            what: format!("{} at {} ms: at most {} × ideal", paced.size, paced.latency_ms, paced.target),
            measured: format!("{:.3}", paced.ratio),
            met: paced.met,
        });
        let memory = self.memory.growth_mib().map(|growth| Target {
            what: format!(
                "memory from {} to {}: at most {MOST_GROWTH_MIB} MiB more",
                self.memory.small.size, self.memory.large.size
            ),
            measured: format!("{growth:.1} MiB"),
            met: growth <= MOST_GROWTH_MIB,
        });
        let writes = self.writes.iter().map(|writes| Target {
            what: format!("writes for each of {} at {} ms: at most {MOST_WRITES}", writes.size, writes.latency_ms),
            measured: format!("{:.3}", writes.per_deveui),
            met: writes.per_deveui <= MOST_WRITES,
        });
        paced.chain(memory).chain(writes).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.fmt(out)?;

        let mut paced =
            table(&["size", "latency", "ideal", "wall", "ratio", "worst", "requests", "round trip", "to possible"]);
        for row in &self.paced {
            paced.add_row([
                row.size.to_string(),
                format!("{} ms", row.latency_ms),
                format!("{:.2} s", row.ideal),
                format!("{:.3} s", median(&row.wall)),
                format!("{:.3}", row.ratio),
                format!("{:.3}", row.worst_ratio),
                row.requests.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
                format!("{:.2} ms", row.mean_latency_ms),
                format!("{:.3}", row.ratio_to_possible),
            ]);
        }
        section(out, "From POST to Completed", &paced)?;

        let mut rates = table(&["size", "latency", "DevEUIs/s", "bare client", "share", "server's processor"]);
        for row in &self.rates {
            rates.add_row([
                row.size.to_string(),
                format!("{} ms", row.latency_ms),
                format!("{:.0}", row.deveuis_per_second),
                format!("{:.0}", row.possible),
                format!("{:.2}", row.share_of_possible),
                format!("{} µs each", maybe(row.processor_us, 0)),
            ]);
        }
        section(out, "As fast as it goes", &rates)?;

        let mut peaks = table(&["size", "idle", "registering", "all read", "DevEUIs/s"]);
        for peak in [&self.memory.small, &self.memory.large] {
            let mib = |value| format!("{} MiB", maybe(value, 1));
            let (idle, registering, read) = (mib(peak.idle_mib), mib(peak.registering_mib), mib(peak.read_mib));
            peaks.add_row([peak.size.to_string(), idle, registering, read, format!("{:.0}", peak.deveuis_per_second)]);
        }
        section(out, "Peak memory of the server, no latency", &peaks)?;

        let mut writes = table(&["size", "latency", "writes", "per DevEUI", "reads"]);
        for row in &self.writes {
            writes.add_row([
                row.size.to_string(),
                format!("{} ms", row.latency_ms),
                row.items_written.to_string(),
                format!("{:.3}", row.per_deveui),
                row.items_read.to_string(),
            ]);
        }
        section(out, "Items written and read at the store, followed by list", &writes)?;

        print::targets(out, &self.targets())
    }
}
