//! A launch and its end: what the vendor says of each machine, held against what the record says.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ::devices::config::DEFAULT_TAG;
use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use simulators::packet::{PROJECT, TOKEN};
use uuid::Uuid;

use super::{
    LAUNCHING,
    work::{Told, UsedBy, Worker},
};
use crate::processes::{Simulator, http_client};

/// Far longer than either takes.
const PATIENCE: Duration = Duration::from_mins(5);

/// One stretch of the worker's work.
#[derive(Debug)]
pub struct Worked {
    /// From the moment when all had been asked for until the last record said that it was done.
    pub wall: f64,
    /// From that moment until the vendor had done it for the last one.
    pub vendor_wall: f64,
    /// From that moment until the vendor had made the last machine.
    pub asked_wall: f64,
    /// Of each device, how much later the record says it than the vendor.
    pub lags: Vec<f64>,
    /// Of each device, from the record's beginning until it is up.
    pub from_request: Vec<f64>,
    /// Of each device, what the vendor took for it.
    pub vendor_took: Vec<f64>,
    /// Requests to the vendor, by kind.
    pub calls: BTreeMap<String, u64>,
    /// What was used of DynamoDB.
    pub used: UsedBy,
    /// What the worker's processor time grew by.
    pub processor: Option<Duration>,
    /// The most memory it had held before and until now, in MiB.
    pub peaks_mib: [Option<f64>; 2],
    /// Devices that fared otherwise than expected.
    pub amiss: u64,
}

/// A machine, as the vendor tells of it.
#[derive(Debug, Deserialize)]
struct Made {
    tags: Vec<String>,
    alive: bool,
    created_at: Timestamp,
    active_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
}

/// Launches so many devices at once.
pub async fn launch(worker: &mut Worker, simulator: &Simulator, devices: usize) -> anyhow::Result<Worked> {
    let before = simulator.stats().await?.kinds()?;
    let (processor, peak) = (worker.processor_time(), worker.peak_mib());
    let asked_at = worker.launch(devices).await?;
    worker.settled(PATIENCE).await?;
    let is_right = |told: &Told, made: &[Made]| {
        told.state == "Active" && told.attempts == 1 && made.len() == 1 && made.iter().all(|made| made.alive)
    };
    let done = |told: &Told, made: &Made| Some((told.active_at?, made.active_at?));
    let seen = Seen { asked_at, devices, before, processor, peak };
    held_against(worker, simulator, seen, is_right, done).await
}

/// Takes the devices of the last launch down, all at once.
pub async fn delete(worker: &mut Worker, simulator: &Simulator, devices: usize) -> anyhow::Result<Worked> {
    let before = simulator.stats().await?.kinds()?;
    let (processor, peak) = (worker.processor_time(), worker.peak_mib());
    let asked_at = worker.delete().await?;
    worker.settled(PATIENCE).await?;
    let is_right = |told: &Told, made: &[Made]| told.state == "Deleted" && made.iter().all(|made| !made.alive);
    let done = |told: &Told, made: &Made| Some((told.ended_at?, made.ended_at?));
    let seen = Seen { asked_at, devices, before, processor, peak };
    held_against(worker, simulator, seen, is_right, done).await
}

/// What was known before a stretch of work.
struct Seen {
    asked_at: Timestamp,
    devices: usize,
    before: BTreeMap<String, u64>,
    processor: Option<Duration>,
    peak: Option<f64>,
}

async fn held_against(
    worker: &mut Worker,
    simulator: &Simulator,
    seen: Seen,
    is_right: impl Fn(&Told, &[Made]) -> bool,
    done: impl Fn(&Told, &Made) -> Option<(Timestamp, Timestamp)>,
) -> anyhow::Result<Worked> {
    // Before anything more is asked.
    let peaks_mib = [seen.peak, worker.peak_mib()];
    let processor = seen.processor.zip(worker.processor_time());
    let (used, mut calls) = (worker.used().await?, simulator.stats().await?.kinds()?);
    for (kind, count) in &mut calls {
        *count -= seen.before.get(kind).copied().unwrap_or_default();
    }
    calls.retain(|_, count| *count > 0);

    let told = worker.told().await?;
    ensure!(told.len() == seen.devices, "{} devices have {} records", seen.devices, told.len());
    let mut made: HashMap<Uuid, Vec<Made>> = HashMap::new();
    let all: Vec<Made> = serde_json::from_value(simulator.list("devices").await?)?;
    for machine in all {
        let own = machine.tags.iter().find_map(|tag| tag.strip_prefix(DEFAULT_TAG)?.strip_prefix(':')?.parse().ok());
        made.entry(own.context("a machine has our tag")?).or_default().push(machine);
    }

    let since = |at: Timestamp, from: Timestamp| SignedDuration::as_secs_f64(&at.duration_since(from));
    let mut stretch = Worked {
        wall: 0.0,
        vendor_wall: 0.0,
        asked_wall: 0.0,
        lags: Vec::new(),
        from_request: Vec::new(),
        vendor_took: Vec::new(),
        calls,
        used,
        processor: processor.map(|(before, after)| after.saturating_sub(before)),
        peaks_mib,
        amiss: 0,
    };
    for told in &told {
        let made = made.get(&told.id).map_or(&[][..], Vec::as_slice);
        stretch.amiss += u64::from(!is_right(told, made));
        let Some(machine) = made.first() else { continue };
        stretch.asked_wall = stretch.asked_wall.max(since(machine.created_at, seen.asked_at));
        if let Some((ours, vendors)) = done(told, machine) {
            stretch.lags.push(since(ours, vendors));
            stretch.wall = stretch.wall.max(since(ours, seen.asked_at));
            stretch.vendor_wall = stretch.vendor_wall.max(since(vendors, seen.asked_at));
        }
        if let (Some(ours), Some(vendors)) = (told.active_at, machine.active_at) {
            stretch.from_request.push(since(ours, told.created_at));
            stretch.vendor_took.push(since(vendors, machine.created_at));
        }
    }
    Ok(stretch)
}

/// What a client can do that decides nothing and keeps nothing: so many machines, with as many requests
/// in flight as the worker launches with.
pub async fn bare(simulator: &Simulator, devices: usize) -> anyhow::Result<Duration> {
    let http = http_client()?;
    let url = format!("{}/projects/{PROJECT}/devices", simulator.url());
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let lanes: Vec<_> = (0..LAUNCHING)
        .map(|_| {
            let (http, url, next) = (http.clone(), url.clone(), Arc::clone(&next));
            let body = json!({ "plan": "c3.small.x86", "operating_system": "debian_12", "facility": "any" });
            tokio::spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < devices {
                    let request = http.post(&url).header("X-Auth-Token", TOKEN).json(&body);
                    request.send().await?.error_for_status()?.bytes().await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for lane in lanes {
        lane.await??;
    }
    Ok(started.elapsed())
}
