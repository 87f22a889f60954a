//! The numbers, the targets they are held against, and how both are shown: text for people, JSON
//! with the same fields for programs. Times are seconds unless a name says otherwise.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::measure::{Bare, Polled, Repeated};
use crate::{
    machine::Machine,
    numbers::{as_f64, median, milliseconds, worst},
    print::{self, Target, maybe, section, table},
};

/// How much longer than the sum of all answers a reading may take where CPX handles one at a time.
const MOST_QUEUED: f64 = 1.15;
/// How much longer than the ideal it may take where CPX handles hundreds.
const MOST_WIDE: f64 = 1.25;

/// Everything that one run has measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Where CPX handles one request after the other.
    pub queued: Vec<Queued>,
    /// Where it handles hundreds at once.
    pub wide: [Wide; 2],
    /// Peaks.
    pub memory: [Peak; 2],
    /// Answers for which there is a reading.
    pub costs: Vec<Cost>,
}

/// Readings of a CPX that handles one request after the other.
#[derive(Debug, Serialize)]
pub struct Queued {
    servers: u32,
    latency_ms: f64,
    /// Each repetition.
    wall: Vec<f64>,
    /// A bare client beside each, with one request after the other and no pause: the sum of all
    /// answers, connections included.
    alone: Vec<f64>,
    /// The same with two in flight, so that CPX never waits for the client: its own time alone.
    busy: Vec<f64>,
    /// The median of `wall` to `alone`: what the target is about.
    ratio: f64,
    /// The highest of them.
    worst_ratio: f64,
    target: f64,
    /// As the target says, and no server unknown.
    met: bool,
    /// Servers that a reading did not know the load of, of each repetition. All of them are well.
    unknown: Vec<u64>,
    /// The median of `wall` to `busy`.
    ratio_to_busy: f64,
    /// The median of `wall` to so many times the latency; none without one. The simulator's timers
    /// are in it: up to a millisecond for each answer.
    ratio_to_latency: Option<f64>,
}

impl Queued {
    /// Before the first repetition.
    pub fn new(servers: u32, latency: Duration) -> Self {
        Self {
            servers,
            latency_ms: milliseconds(latency),
            wall: Vec::new(),
            alone: Vec::new(),
            busy: Vec::new(),
            ratio: 0.0,
            worst_ratio: 0.0,
            target: MOST_QUEUED,
            met: false,
            unknown: Vec::new(),
            ratio_to_busy: 0.0,
            ratio_to_latency: None,
        }
    }

    /// Takes a repetition in.
    pub fn add(&mut self, alone: &Bare, busy: &Bare, polled: &Polled) {
        self.wall.push(polled.wall.as_secs_f64());
        self.alone.push(alone.wall.as_secs_f64());
        self.busy.push(busy.wall.as_secs_f64());
        let to_alone = ratios(&self.wall, &self.alone);
        self.ratio = median(&to_alone);
        self.worst_ratio = worst(&to_alone);
        self.unknown.push(polled.unknown);
        self.met = self.ratio <= self.target && self.unknown.iter().all(|unknown| *unknown == 0);
        self.ratio_to_busy = median(&ratios(&self.wall, &self.busy));
        // The list is an answer, too.
        let latencies = f64::from(self.servers + 1) * self.latency_ms / 1000.0;
        self.ratio_to_latency = (latencies > 0.0).then(|| median(&self.wall) / latencies);
    }
}

/// Readings of a CPX that handles hundreds at once.
#[derive(Debug, Serialize)]
pub struct Wide {
    /// The first of a process, or later ones.
    which: &'static str,
    servers: u32,
    latency_ms: f64,
    at_once: usize,
    /// servers / at_once × latency.
    ideal: f64,
    /// Each repetition.
    wall: Vec<f64>,
    /// The median of `wall` to `ideal`: what the target is about.
    ratio: f64,
    /// The slowest to `ideal`.
    worst_ratio: f64,
    target: f64,
    /// As the target says, and no server unknown.
    met: bool,
    /// Servers that a reading did not know the load of, of each repetition. All of them are well.
    unknown: Vec<u64>,
    /// A bare client beside each repetition, with as many in flight from the first moment on.
    bare: Vec<f64>,
    /// The median of `bare` to `ideal`: what machine and simulator can do.
    bare_ratio: f64,
    /// The median of `wall` to `bare`.
    ratio_to_bare: f64,
    /// The median of the server's processor time for each of the servers that it read, in
    /// microseconds.
    processor_us: Option<f64>,
    /// The same of the bare client.
    bare_processor_us: Option<f64>,
    #[serde(skip)]
    processor: Vec<f64>,
    #[serde(skip)]
    bare_processor: Vec<f64>,
}

impl Wide {
    /// Before the first repetition.
    pub fn new(which: &'static str, servers: u32, latency: Duration, at_once: usize) -> Self {
        Self {
            which,
            servers,
            latency_ms: milliseconds(latency),
            at_once,
            ideal: f64::from(servers) / as_f64(at_once as u64) * latency.as_secs_f64(),
            wall: Vec::new(),
            ratio: 0.0,
            worst_ratio: 0.0,
            target: MOST_WIDE,
            met: false,
            unknown: Vec::new(),
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
    pub fn add(&mut self, bare: &Bare, polled: &Polled) {
        self.wall.push(polled.wall.as_secs_f64());
        self.bare.push(bare.wall.as_secs_f64());
        self.ratio = median(&self.wall) / self.ideal;
        self.worst_ratio = worst(&self.wall) / self.ideal;
        self.unknown.push(polled.unknown);
        self.met = self.ratio <= self.target && self.unknown.iter().all(|unknown| *unknown == 0);
        self.bare_ratio = median(&self.bare) / self.ideal;
        self.ratio_to_bare = median(&ratios(&self.wall, &self.bare));
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(self.servers);
        self.processor.extend(polled.processor.map(each));
        self.bare_processor.extend(bare.processor.map(each));
        self.processor_us = median_of_some(&self.processor);
        self.bare_processor_us = median_of_some(&self.bare_processor);
    }
}

fn median_of_some(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| median(values))
}

fn ratios(times: &[f64], to: &[f64]) -> Vec<f64> {
    times.iter().zip(to).map(|(time, to)| time / to).collect()
}

/// The most memory that a server ever held, the worker's own readings included; nothing where the
/// system does not tell.
#[derive(Debug, Serialize)]
pub struct Peak {
    servers: u32,
    peak_mib: Option<f64>,
}

impl Peak {
    /// Of readings of `servers` servers.
    pub fn new(servers: u32) -> Self {
        Self { servers, peak_mib: None }
    }

    /// Takes another process in.
    pub fn add(&mut self, peak_mib: Option<f64>) {
        self.peak_mib = peak_mib.into_iter().chain(self.peak_mib).reduce(f64::max);
    }
}

/// An answer for which there is a reading, and `/healthz`, which needs none: what HTTP alone costs.
#[derive(Debug, Serialize)]
pub struct Cost {
    servers: u32,
    path: &'static str,
    bytes: usize,
    /// For each second of processor time that the server took: what one core can do. The median of
    /// some repetitions.
    per_core_second: Option<f64>,
    /// Its share of a core for one answer, in microseconds.
    processor_us: Option<f64>,
    /// For each second that passed, with the client on the same machine. The median, too.
    per_second: f64,
    #[serde(skip)]
    rates: Vec<f64>,
    #[serde(skip)]
    per_processor: Vec<f64>,
}

impl Cost {
    /// Before the first repetition.
    pub fn new(servers: u32, path: &'static str) -> Self {
        Self {
            servers,
            path,
            bytes: 0,
            per_core_second: None,
            processor_us: None,
            per_second: 0.0,
            rates: Vec::new(),
            per_processor: Vec::new(),
        }
    }

    /// Takes a repetition in.
    pub fn add(&mut self, repeated: &Repeated) {
        self.bytes = repeated.bytes;
        self.rates.push(repeated.rate);
        self.per_second = median(&self.rates);
        self.per_processor.extend(repeated.per_processor);
        self.per_core_second = median_of_some(&self.per_processor);
        self.processor_us = self.per_core_second.map(|rate| 1e6 / rate);
    }
}

impl Report {
    fn targets(&self) -> Vec<Target> {
        let queued = self.queued.iter().map(|row| Target {
            what: format!(
                "{} servers one at a time at {} ms: at most {} × the sum of the answers",
                row.servers, row.latency_ms, row.target
            ),
            measured: measured(row.ratio, &row.unknown),
            met: row.met,
        });
        let wide = self.wide.iter().map(|row| Target {
            what: format!(
                "{} servers, {} at once at {} ms, {} reading: at most {} × ideal",
                row.servers, row.at_once, row.latency_ms, row.which, row.target
            ),
            measured: measured(row.ratio, &row.unknown),
            met: row.met,
        });
        queued.chain(wide).collect()
    }
}

fn measured(ratio: f64, unknown: &[u64]) -> String {
    match unknown.iter().sum() {
        0_u64 => format!("{ratio:.3}"),
        sum => format!("{ratio:.3}, and {sum} servers unknown in {} readings", unknown.len()),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.fmt(out)?;

        let mut queued =
            table(&["servers", "latency", "sum", "reading", "ratio", "worst", "CPX's own", "to that", "to latency"]);
        for row in &self.queued {
            queued.add_row([
                row.servers.to_string(),
                format!("{} ms", row.latency_ms),
                format!("{:.4} s", median(&row.alone)),
                format!("{:.4} s", median(&row.wall)),
                format!("{:.3}", row.ratio),
                format!("{:.3}", row.worst_ratio),
                format!("{:.4} s", median(&row.busy)),
                format!("{:.3}", row.ratio_to_busy),
                maybe(row.ratio_to_latency, 3),
            ]);
        }
        section(out, "A reading where CPX handles one at a time", &queued)?;

        let mut wide = table(&[
            "servers",
            "at once",
            "latency",
            "reading",
            "ideal",
            "took",
            "ratio",
            "worst",
            "bare client",
            "ratio",
            "to bare",
            "processor",
            "bare client's",
        ]);
        for row in &self.wide {
            wide.add_row([
                row.servers.to_string(),
                row.at_once.to_string(),
                format!("{} ms", row.latency_ms),
                row.which.to_owned(),
                format!("{:.3} s", row.ideal),
                format!("{:.3} s", median(&row.wall)),
                format!("{:.3}", row.ratio),
                format!("{:.3}", row.worst_ratio),
                format!("{:.3} s", median(&row.bare)),
                format!("{:.3}", row.bare_ratio),
                format!("{:.3}", row.ratio_to_bare),
                format!("{} µs each", maybe(row.processor_us, 0)),
                format!("{} µs each", maybe(row.bare_processor_us, 0)),
            ]);
        }
        section(out, "A reading where CPX handles hundreds", &wide)?;

        let mut peaks = table(&["servers", "peak"]);
        for peak in &self.memory {
            peaks.add_row([peak.servers.to_string(), format!("{} MiB", maybe(peak.peak_mib, 1))]);
        }
        section(out, "Peak memory of the server", &peaks)?;

        let mut costs = table(&["servers", "GET", "bytes", "for each core's second", "processor", "for each second"]);
        for row in &self.costs {
            costs.add_row([
                row.servers.to_string(),
                row.path.to_owned(),
                row.bytes.to_string(),
                maybe(row.per_core_second, 0),
                format!("{} µs each", maybe(row.processor_us, 1)),
                format!("{:.0}", row.per_second),
            ]);
        }
        section(out, "Answers from a reading that is there", &costs)?;

        print::targets(out, &self.targets())
    }
}
