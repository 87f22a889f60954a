//! One measurement each: a batch from its POST to the first GET that shows it `Completed`, the same
//! number of requests by a bare client.
//!
//! **The one thing to know:** whoever looks too often slows down what it looks at. A client waits
//! with `Prefer: wait` as people's clients do, and only where the end is near looks every few
//! milliseconds, at a list of one batch, which costs the server next to nothing.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use kit::dynamo::embedded::Counts;
use serde_json::{Value, json};

use super::IN_FLIGHT;
use crate::{
    numbers::{as_f64, per_second},
    processes::{Server, Simulator, http_client},
};

/// How long before its expected end a batch is looked at closely.
const NEAR: Duration = Duration::from_millis(250);
/// How often it is, then.
const LOOK_CLOSELY: Duration = Duration::from_millis(5);
/// How often a batch is looked at whose end cannot be told.
const LOOK: Duration = Duration::from_millis(20);
/// The longest wait that the API grants, in seconds.
const WAIT: u64 = 20;
/// What takes longer hangs.
const LONGEST: Duration = Duration::from_mins(15);

/// How a batch went.
#[derive(Debug)]
pub struct Run {
    /// From the POST to the GET that shows it complete.
    pub wall: Duration,
    /// How many were registered.
    pub size: u64,
    /// Requests that the provider saw.
    pub requests: u64,
    /// What the server's processor time grew by.
    pub processor: Option<Duration>,
    /// The server's peak memory at the end, before anything of the batch was read.
    pub peak_mib: Option<f64>,
    /// What its store had been asked by then.
    pub counts: Option<Counts>,
}

impl Run {
    /// DevEUIs per second.
    pub fn rate(&self) -> f64 {
        per_second(self.size, self.wall)
    }

    /// The server's processor time for each DevEUI, in microseconds.
    pub fn processor_per_deveui(&self) -> Option<f64> {
        Some(self.processor?.as_secs_f64() * 1e6 / as_f64(self.size))
    }
}

/// What a provider has seen so far.
#[derive(Debug, Clone, Copy)]
struct Seen {
    requests: u64,
    registered: u64,
    max_in_flight: u64,
}

impl Seen {
    async fn of(simulator: &Simulator) -> anyhow::Result<Self> {
        let stats = simulator.stats().await?;
        Ok(Self {
            requests: stats.count("requests")?,
            registered: stats.count("registered")?,
            max_in_flight: stats.count("max_in_flight")?,
        })
    }
}

/// Has a batch of `size` registered, and checks that everything about it is right.
///
/// With `expected` the client waits for it until shortly before that time.
pub async fn batch(
    server: &Server,
    simulator: &Simulator,
    size: u64,
    expected: Option<Duration>,
) -> anyhow::Result<Run> {
    let before = Seen::of(simulator).await?;
    let processor_before = server.processor_time();
    let started = Instant::now();
    let created = server.post("/api/v1/batches", &json!({ "batch_size": size })).await?;
    let id = created["id"].as_str().context("a batch has an id")?;
    let look = match expected {
        Some(expected) => {
            wait_until(server, id, started + expected.saturating_sub(NEAR)).await?;
            LOOK_CLOSELY
        }
        None => LOOK,
    };
    loop {
        let newest = server.get("/api/v1/batches?limit=1", None).await?["items"][0].take();
        if newest["id"] == id && is_complete(&newest)? {
            break;
        }
        ensure!(started.elapsed() < LONGEST, "the batch does not come to its end: {newest}");
        tokio::time::sleep(look).await;
    }
    let wall = started.elapsed();
    let processor = server.processor_time().zip(processor_before).map(|(after, before)| after.saturating_sub(before));
    let (peak_mib, counts) = (server.peak_mib(), server.counts());
    let after = Seen::of(simulator).await?;

    let registered = after.registered - before.registered;
    ensure!(registered == size, "the provider registered {registered} for a batch of {size}");
    let listed = read_deveuis(server, id).await?;
    ensure!(listed as u64 == size, "a batch of {size} lists {listed} different DevEUIs");
    let most = after.max_in_flight;
    ensure!(most <= IN_FLIGHT as u64, "{most} requests were in flight at once");
    Ok(Run { wall, size, requests: after.requests - before.requests, processor, peak_mib, counts })
}

/// Follows a batch as a client does, until `until` or its end.
async fn wait_until(server: &Server, id: &str, until: Instant) -> anyhow::Result<()> {
    let path = format!("/api/v1/batches/{id}");
    let follow = async {
        while !is_complete(&server.get(&path, Some(WAIT)).await?)? {}
        anyhow::Ok(())
    };
    // In time or not: who looks closely will see.
    tokio::time::timeout_at(until.into(), follow).await.unwrap_or(Ok(()))
}

fn is_complete(batch: &Value) -> anyhow::Result<bool> {
    match batch["status"].as_str() {
        Some("Completed") => Ok(true),
        Some("Processing") => Ok(false),
        _ => bail!("the batch ended badly: {batch}"),
    }
}

/// Reads all of a batch, part by part where it is long, and answers how many DevEUIs it has.
async fn read_deveuis(server: &Server, id: &str) -> anyhow::Result<usize> {
    let batch = server.get(&format!("/api/v1/batches/{id}"), None).await?;
    let mut deveuis = HashSet::new();
    let mut add = |part: &Value| {
        let list = part["deveuis"].as_array().into_iter().flatten();
        deveuis.extend(list.filter_map(Value::as_str).map(str::to_owned));
    };
    add(&batch);
    for link in batch["partitions"].as_array().into_iter().flatten() {
        let href = link["href"].as_str().context("a partition has a link")?;
        add(&server.get(href, None).await?);
    }
    Ok(deveuis.len())
}

/// What a client can do that keeps nothing and decides nothing.
#[derive(Debug)]
pub struct Bare {
    wall: Duration,
    registered: u64,
    /// From a request to the end of its answer, over connections that are there already.
    pub mean_latency: Duration,
}

impl Bare {
    /// DevEUIs per second.
    pub fn rate(&self) -> f64 {
        per_second(self.registered, self.wall)
    }
}

/// Sends `requests` with as many in flight as the provider allows.
pub async fn bare(simulator: &Simulator, requests: u64) -> anyhow::Result<Bare> {
    let http = http_client()?;
    let url = format!("{}/sensor-onboarding-sample", simulator.url());
    // Different ones each time, and none that a batch may hit upon.
    let first = rand::random::<u64>() & !0xFFFF_FFFF;
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let lanes: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (http, url, next) = (http.clone(), url.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let (mut registered, mut asked, mut waited) = (0, 0, Duration::ZERO);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return anyhow::Ok((registered, asked, waited));
                    }
                    let body = json!({ "deveui": format!("{:016X}", first + number) });
                    let sent = Instant::now();
                    let response = http.post(&url).json(&body).send().await?;
                    let status = response.status().as_u16();
                    response.bytes().await?;
                    // The first of a lane waits for a connection, too.
                    if number >= IN_FLIGHT as u64 {
                        asked += 1;
                        waited += sent.elapsed();
                    }
                    match status {
                        200 => registered += 1,
                        422 => {}
                        status => bail!("the simulator answers {status}"),
                    }
                }
            })
        })
        .collect();
    let (mut registered, mut asked, mut waited) = (0, 0, Duration::ZERO);
    for lane in lanes {
        let (got, sent, longer) = lane.await??;
        registered += got;
        asked += sent;
        waited += longer;
    }
    ensure!(asked > 0, "{requests} requests tell nothing of their latency");
    let mean_latency = waited.div_f64(as_f64(asked));
    Ok(Bare { wall: started.elapsed(), registered, mean_latency })
}
