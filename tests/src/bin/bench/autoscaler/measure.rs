//! One tick, and the same requests by a bare client that decides nothing and keeps nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ::autoscaler::samples::Slot;
use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    fleet,
    ticks::{Ticked, Ticker},
};
use crate::processes::{Simulator, own_processor_time};

/// What the deployments API has been asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    lists: u64,
    statuses: u64,
    scalings: u64,
}

impl Asked {
    /// So far.
    pub async fn of(simulator: &Simulator) -> anyhow::Result<Self> {
        let stats = simulator.stats().await?;
        let [lists, statuses, scalings] = ["discoveries", "statuses", "scales"].map(|name| stats.count(name));
        Ok(Self { lists: lists?, statuses: statuses?, scalings: scalings? })
    }

    /// How many requests more than `before`.
    fn since(self, before: Self) -> u64 {
        self.lists + self.statuses + self.scalings - before.lists - before.statuses - before.scalings
    }
}

/// What a tick should do.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// So many deployments to read.
    pub deployments: u32,
    /// So many of them to scale up.
    pub scaled: u32,
}

/// Moves the upstream's time to a slot of the plan.
pub async fn when(simulator: &Simulator, slot: Slot) -> anyhow::Result<()> {
    simulator.control("advance", &json!({ "to_seconds": fleet::time(slot).as_secs_f64() })).await?;
    Ok(())
}

/// A tick that was looked at.
#[derive(Debug)]
pub struct Measured {
    /// How long it took.
    pub wall: Duration,
    /// What the processor time of its process grew by.
    pub processor: Option<Duration>,
    /// Requests that the upstream has seen meanwhile.
    pub calls: u64,
    /// Deployments that were not read well, not scaled as they should, or not kept.
    pub amiss: u64,
}

/// Does the tick of a slot of the plan.
pub async fn tick(
    ticker: &mut Ticker,
    simulator: &Simulator,
    slot: Slot,
    expected: Expected,
) -> anyhow::Result<Measured> {
    let before = Asked::of(simulator).await?;
    let Ticked { wall, processor, report } = ticker.tick(slot).await?;
    let calls = Asked::of(simulator).await?.since(before);
    Ok(Measured { wall, processor, calls, amiss: amiss(&report, expected)? })
}

/// How many deployments fared otherwise than expected in the tick that this is the report of.
pub fn amiss(report: &Value, expected: Expected) -> anyhow::Result<u64> {
    let count = |name: &str| report[name].as_u64().with_context(|| format!("the report of a tick has no {name}"));
    let unread = u64::from(expected.deployments).abs_diff(count("read")?);
    let unscaled = u64::from(expected.scaled).abs_diff(count("scaled_up")?);
    let wrong = ["bad", "scaled_down", "unknown", "failed", "not_kept"].map(count);
    wrong.into_iter().try_fold(unread + unscaled, |sum, count| Ok(sum + count?))
}

/// What a client can do that decides nothing.
#[derive(Debug)]
pub struct Bare {
    /// From the first request to the last answer.
    pub wall: Duration,
    /// Its processor time.
    pub processor: Option<Duration>,
}

/// Asks for the same as a tick, with `at_once` requests in flight: the list in every other slot, all
/// statuses, and as many scalings as a tick would, but by nothing.
pub async fn bare(
    simulator: &Simulator,
    http: &reqwest::Client,
    slot: Slot,
    expected: Expected,
    at_once: usize,
) -> anyhow::Result<Bare> {
    // What a tick knows from the one before.
    let list = format!("{}/discover", simulator.url());
    let known: Value = http.get(&list).send().await?.error_for_status()?.json().await?;
    let ids = known["deployments"].as_array().context("deployments are listed")?.iter();
    let ids: Arc<[String]> = ids.filter_map(|it| it["id"].as_str().map(str::to_owned)).collect();
    let (processor_before, started) = (own_processor_time(), Instant::now());
    if slot.is_multiple_of(2) {
        done(http.get(&list)).await?;
    }
    let requests = ids.len() + expected.scaled as usize;
    let next = Arc::new(AtomicUsize::new(0));
    let lanes: Vec<_> = (0..at_once)
        .map(|_| {
            let (http, url) = (http.clone(), simulator.url().to_owned());
            let (ids, next) = (Arc::clone(&ids), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return anyhow::Ok(());
                    }
                    let request = if let Some(id) = ids.get(number) {
                        http.get(format!("{url}/status/{id}"))
                    } else {
                        let wanted = json!({ "deployment_id": ids[number - ids.len()], "delta": 0 });
                        http.post(format!("{url}/scale")).json(&wanted)
                    };
                    done(request).await?;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await??;
    }
    let wall = started.elapsed();
    let processor = processor_before.zip(own_processor_time()).map(|(before, after)| after.saturating_sub(before));
    Ok(Bare { wall, processor })
}

/// The whole answer, which must be good.
async fn done(request: reqwest::RequestBuilder) -> anyhow::Result<()> {
    request.send().await?.error_for_status()?.bytes().await?;
    Ok(())
}
