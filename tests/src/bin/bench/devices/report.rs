//! The numbers, the targets they are held against, and how both are shown: text for people, JSON
//! with the same fields for programs. Times are seconds unless a name says otherwise.

use std::{collections::BTreeMap, fmt, time::Duration};

use ::devices::worker::POLL;
use serde::Serialize;

use super::{DEPROVISION, LAUNCHING, MEAN_LATENCY, measure::Worked, work::Used};
use crate::{
    machine::Machine,
    numbers::{as_f64, median, worst},
    print::{self, Target, maybe, section, table},
};

/// Devices of one page of the vendor's list.
const PAGE: usize = 1000;
/// What the worker asks first: three lists of what can be had, at once, and the capacity.
const FIRST_CALLS: usize = 4;

/// Everything that one run has measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Many at once, until they are up.
    pub launches: Vec<Stretch>,
    /// The same until they are gone.
    pub teardowns: Vec<Stretch>,
    /// One after the other.
    pub alone: Alone,
}

/// What is done to so many devices at once.
#[derive(Debug, Serialize)]
pub struct Stretch {
    /// What they are in the end: `up` or `gone`.
    until: &'static str,
    devices: usize,
    /// How much later the records say it than the vendor, of each repetition.
    lags: Vec<Lag>,
    /// From asking until the vendor had accepted the last request, of each repetition.
    accepted: Vec<f64>,
    /// The least that could be: what the worker may have in flight, at the vendor's mean latency.
    accepted_ideal: f64,
    /// The median of `accepted` to `accepted_ideal`.
    accepted_ratio: f64,
    /// A bare client that sends as many requests with as many in flight, of each repetition.
    bare: Vec<f64>,
    /// From asking until the vendor had done it for the last one, of each repetition.
    done: Vec<f64>,
    /// From asking until the last record said so, of each repetition.
    known: Vec<f64>,
    /// The median of `known` to `done`.
    known_ratio: f64,
    /// Requests to the vendor for each device, of each repetition.
    calls: Vec<f64>,
    /// The least that the protocol needs, of each repetition: a request that does it, for a launch
    /// another that takes the dead man's switch off, and a listing of all in each polling interval
    /// until the last one is done.
    calls_least: Vec<f64>,
    /// The median of `calls` to `calls_least`.
    calls_ratio: f64,
    /// The mean of `calls`, by kind.
    calls_by_kind: BTreeMap<String, f64>,
    /// What those who asked have used of DynamoDB for each device, the mean of all repetitions.
    people: Bill,
    /// The same of the worker.
    worker: Bill,
    /// The largest item that was put, in bytes.
    largest_item: u64,
    /// The most memory that the process which works had held before, in MiB, the highest.
    peak_before_mib: Option<f64>,
    /// The same until all of it was done.
    peak_mib: Option<f64>,
    /// That process's time for each device in microseconds, the mean of all repetitions.
    processor_us: Option<f64>,
    /// Devices that fared otherwise than expected, of each repetition.
    amiss: Vec<u64>,
}

/// How much later something is known.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Lag {
    median: f64,
    pct_99: f64,
    largest: f64,
}

impl Lag {
    fn of(lags: &[f64]) -> Self {
        let mut sorted = lags.to_vec();
        sorted.sort_by(f64::total_cmp);
        let pct_99 = sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied();
        Self { median: median(lags), pct_99: pct_99.unwrap_or_default(), largest: worst(lags) }
    }
}

/// What was used of DynamoDB.
#[derive(Debug, Default, Serialize)]
pub struct Bill {
    reads: f64,
    writes: f64,
    /// Requests, by operation.
    requests: BTreeMap<String, f64>,
    /// Bill, by operation: each either reads or writes.
    units: BTreeMap<String, f64>,
}

impl Bill {
    /// Takes so many devices' share of a repetition in, of `repetitions` altogether.
    fn add(&mut self, used: &Used, devices: f64, repetitions: f64) {
        // The mean so far, and what is new.
        let mix = |mean: &mut f64, new: f64| *mean += (new / devices - *mean) / repetitions;
        mix(&mut self.reads, used.reads);
        mix(&mut self.writes, used.writes);
        for (name, count) in &used.requests {
            mix(self.requests.entry(name.clone()).or_default(), as_f64(*count));
        }
        for (name, units) in &used.units {
            mix(self.units.entry(name.clone()).or_default(), *units);
        }
    }
}

impl Stretch {
    /// Launches of so many.
    pub fn launches(devices: usize) -> Self {
        // The lists at once, the capacity, and then the machines.
        Self::new("up", devices, 2 + devices.div_ceil(LAUNCHING))
    }

    /// Teardowns of so many.
    pub fn teardowns(devices: usize) -> Self {
        Self::new("gone", devices, devices.div_ceil(LAUNCHING))
    }

    fn new(until: &'static str, devices: usize, rounds: usize) -> Self {
        Self {
            until,
            devices,
            lags: Vec::new(),
            accepted: Vec::new(),
            accepted_ideal: as_f64(rounds as u64) * MEAN_LATENCY.as_secs_f64(),
            accepted_ratio: 0.0,
            bare: Vec::new(),
            done: Vec::new(),
            known: Vec::new(),
            known_ratio: 0.0,
            calls: Vec::new(),
            calls_least: Vec::new(),
            calls_ratio: 0.0,
            calls_by_kind: BTreeMap::new(),
            people: Bill::default(),
            worker: Bill::default(),
            largest_item: 0,
            peak_before_mib: None,
            peak_mib: None,
            processor_us: None,
            amiss: Vec::new(),
        }
    }

    /// Takes a launch in, beside which a bare client took so long.
    pub fn add_launch(&mut self, bare: Duration, worked: &Worked) {
        self.bare.push(bare.as_secs_f64());
        self.accepted.push(worked.asked_wall);
        self.add(worked, 2 * self.devices + FIRST_CALLS);
    }

    /// Takes a teardown in.
    pub fn add_teardown(&mut self, worked: &Worked) {
        self.accepted.push(worked.vendor_wall - DEPROVISION.as_secs_f64());
        self.add(worked, self.devices);
    }

    fn add(&mut self, worked: &Worked, own_calls: usize) {
        let devices = as_f64(self.devices as u64);
        self.lags.push(Lag::of(&worked.lags));
        self.done.push(worked.vendor_wall);
        self.known.push(worked.wall);
        let looks = (worked.vendor_wall / POLL.as_secs_f64()).ceil() * as_f64(self.devices.div_ceil(PAGE) as u64);
        self.calls_least.push((as_f64(own_calls as u64) + looks) / devices);
        self.calls.push(as_f64(worked.calls.values().sum()) / devices);
        self.amiss.push(worked.amiss);
        let ratios = |of: &[f64], to: &[f64]| median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>());
        self.accepted_ratio = median(&self.accepted) / self.accepted_ideal;
        self.known_ratio = ratios(&self.known, &self.done);
        self.calls_ratio = ratios(&self.calls, &self.calls_least);

        let repetitions = as_f64(self.calls.len() as u64);
        let mix = |mean: &mut f64, new: f64| *mean += (new / devices - *mean) / repetitions;
        for (kind, count) in &worked.calls {
            mix(self.calls_by_kind.entry(kind.clone()).or_default(), as_f64(*count));
        }
        self.people.add(&worked.used.people, devices, repetitions);
        self.worker.add(&worked.used.worker, devices, repetitions);
        self.largest_item = self.largest_item.max(worked.used.people.largest_item).max(worked.used.worker.largest_item);
        let highest = |known: Option<f64>, new: Option<f64>| known.into_iter().chain(new).reduce(f64::max);
        self.peak_before_mib = highest(self.peak_before_mib, worked.peaks_mib[0]);
        self.peak_mib = highest(self.peak_mib, worked.peaks_mib[1]);
        if let Some(processor) = worked.processor {
            mix(self.processor_us.get_or_insert_default(), processor.as_secs_f64() * 1e6);
        }
    }
}

/// One device that has everything to itself.
#[derive(Debug, Default, Serialize)]
pub struct Alone {
    /// From the request until it is up, of each repetition.
    up: Vec<f64>,
    /// What the vendor took for it: the least it could be.
    up_least: Vec<f64>,
    /// The lowest ratio of the two.
    up_ratio: f64,
    /// The shortest time beyond the least.
    up_over: f64,
    /// From asking for its end until that is known.
    gone: Vec<f64>,
    /// What the vendor took for that, from the asking on.
    gone_least: Vec<f64>,
    /// Requests to the vendor, of each repetition, launch and teardown together.
    calls: Vec<u64>,
    /// Repetitions that did not go as expected.
    amiss: u64,
}

impl Alone {
    /// Takes a launch and its end in.
    pub fn add(&mut self, launched: &Worked, gone: &Worked) {
        self.up.extend(&launched.from_request);
        self.up_least.extend(&launched.vendor_took);
        let lowest = |values: &mut dyn Iterator<Item = f64>| values.reduce(f64::min).unwrap_or_default();
        self.up_ratio = lowest(&mut self.up.iter().zip(&self.up_least).map(|(up, least)| up / least));
        self.up_over = lowest(&mut self.up.iter().zip(&self.up_least).map(|(up, least)| up - least));
        self.gone.push(gone.wall);
        self.gone_least.push(gone.vendor_wall);
        self.calls.push(launched.calls.values().chain(gone.calls.values()).sum());
        self.amiss += launched.amiss + gone.amiss;
    }
}

impl Report {
    fn stretches(&self) -> impl Iterator<Item = &Stretch> {
        self.launches.iter().chain(&self.teardowns)
    }

    fn targets(&self) -> Vec<Target> {
        let interval = POLL.as_secs_f64();
        let lags = self.stretches().map(|row| {
            let pct_99 = worst(&row.lags.iter().map(|lag| lag.pct_99).collect::<Vec<_>>());
            Target {
                what: format!(
                    "{} devices {}: known within {interval} s of the vendor, at the 99th percentile of every start",
                    row.devices, row.until
                ),
                measured: format!("{pct_99:.2} s"),
                met: pct_99 <= interval,
            }
        });
        let amiss = self.stretches().map(|row| {
            let amiss: u64 = row.amiss.iter().sum();
            let what = match row.until {
                "up" => "each up at its first attempt, one machine made for each",
                _ => "each deleted, no machine left",
            };
            Target {
                what: format!("{} devices {}: {what}", row.devices, row.until),
                measured: format!("{amiss} amiss in {} starts", row.amiss.len()),
                met: amiss == 0,
            }
        });
        let alone = Target {
            what: "one device alone: up and gone as expected, each time".to_owned(),
            measured: format!("{} amiss in {}", self.alone.amiss, self.alone.up.len()),
            met: self.alone.amiss == 0,
        };
        lags.chain(amiss).chain([alone]).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.fmt(out)?;
        let seconds = |value: f64| format!("{value:.2} s");

        let mut lags = table(&["devices", "until", "start", "median", "99 %", "largest", "vendor done", "all known"]);
        for row in self.stretches() {
            for (number, lag) in row.lags.iter().enumerate() {
                lags.add_row([
                    row.devices.to_string(),
                    row.until.to_owned(),
                    (number + 1).to_string(),
                    seconds(lag.median),
                    seconds(lag.pct_99),
                    seconds(lag.largest),
                    seconds(row.done[number]),
                    seconds(row.known[number]),
                ]);
            }
        }
        section(out, "How much later it is known than the vendor has done it", &lags)?;

        let mut accepted = table(&[
            "devices",
            "until",
            "ideal",
            "took",
            "ratio",
            "bare client",
            "known to done",
            "processor",
            "amiss",
        ]);
        for row in self.stretches() {
            accepted.add_row([
                row.devices.to_string(),
                row.until.to_owned(),
                seconds(row.accepted_ideal),
                seconds(median(&row.accepted)),
                format!("{:.2}", row.accepted_ratio),
                if row.bare.is_empty() { String::new() } else { seconds(median(&row.bare)) },
                format!("{:.3}", row.known_ratio),
                format!("{} µs each", maybe(row.processor_us, 0)),
                row.amiss.iter().sum::<u64>().to_string(),
            ]);
        }
        let title = format!("Until the vendor had accepted the last request, {LAUNCHING} at once");
        section(out, &title, &accepted)?;

        let mut calls = table(&["devices", "until", "calls", "least", "ratio", "by kind"]);
        for row in self.stretches() {
            let kinds = row.calls_by_kind.iter().map(|(kind, count)| format!("{count:.3} {kind}"));
            calls.add_row([
                row.devices.to_string(),
                row.until.to_owned(),
                format!("{:.3}", median(&row.calls)),
                format!("{:.3}", median(&row.calls_least)),
                format!("{:.2}", row.calls_ratio),
                kinds.collect::<Vec<_>>().join(", "),
            ]);
        }
        section(out, "Requests to the vendor, for each device", &calls)?;

        let mut units = table(&["devices", "until", "who", "read units", "write units", "requests (units)"]);
        for row in self.stretches() {
            for (who, used) in [("who asks", &row.people), ("worker", &row.worker)] {
                let requests = used.requests.iter().map(|(name, count)| {
                    let units = used.units.get(name).copied().unwrap_or_default();
                    format!("{count:.2} {name} ({units:.2})")
                });
                units.add_row([
                    row.devices.to_string(),
                    row.until.to_owned(),
                    who.to_owned(),
                    format!("{:.2}", used.reads),
                    format!("{:.2}", used.writes),
                    requests.collect::<Vec<_>>().join(", "),
                ]);
            }
        }
        section(out, "DynamoDB, for each device", &units)?;

        let mut peaks = table(&["devices", "until", "before", "peak", "largest item"]);
        for row in self.stretches() {
            let mib = |value| format!("{} MiB", maybe(value, 1));
            let item = format!("{} bytes", row.largest_item);
            peaks.add_row([
                row.devices.to_string(),
                row.until.to_owned(),
                mib(row.peak_before_mib),
                mib(row.peak_mib),
                item,
            ]);
        }
        section(out, "Peak memory of the process that works", &peaks)?;

        self.alone.fmt(out)?;

        print::targets(out, &self.targets())
    }
}

impl fmt::Display for Alone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |value: f64| format!("{value:.2} s");
        let mut alone = table(&["request to up", "vendor", "delete to gone", "vendor", "calls"]);
        let Self { up, up_least, gone, gone_least, calls, .. } = self;
        for (number, up) in up.iter().enumerate() {
            let at = |values: &[f64]| values.get(number).copied().map_or_else(String::new, seconds);
            let calls = calls.get(number).map(u64::to_string).unwrap_or_default();
            alone.add_row([seconds(*up), at(up_least), at(gone), at(gone_least), calls]);
        }
        section(out, "One device alone", &alone)?;
        writeln!(out, "at best {:.3} × what the vendor took, and {:.2} s more", self.up_ratio, self.up_over)
    }
}
