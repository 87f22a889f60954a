//! One measurement each: a reading of all servers through `GET /api/v1/servers`, the same requests
//! by a bare client, answers from a reading that is there.
//!
//! **The one thing to know:** the worker of a server reads all servers too, at its start and with
//! every minute. What is measured is begun when that is over, and only if it ends before the next
//! minute; and the simulator tells whether its list was read exactly once.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    numbers::per_second,
    processes::{Server, Simulator, own_processor_time},
};

/// A new reading. The page is the largest there is.
const READ: &str = "/api/v1/servers?max_age_seconds=0&limit=500";
/// The most that is in a page.
const PAGE: usize = 500;
/// An age within which every reading here is.
const ANY_AGE: &str = "max_age_seconds=300";
/// How often it is looked whether the worker is still at work.
const LOOK: Duration = Duration::from_millis(250);
/// What a process without work may take of the processor from one look to the next.
const IDLE: Duration = Duration::from_millis(10);
/// How long a minute's work may take until something is wrong.
const WORKS_FOR: Duration = Duration::from_secs(45);
/// How long to wait for a quiet time in a minute.
const GIVE_UP: Duration = Duration::from_mins(3);
/// Connections over which the same is asked for again and again.
const LANES: usize = 2;

/// What CPX has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    lists: u64,
    servers: u64,
}

impl Asked {
    async fn of(simulator: &Simulator) -> anyhow::Result<Self> {
        let stats = simulator.stats().await?;
        Ok(Self { lists: stats.count("lists")?, servers: stats.count("asked")? })
    }

    fn since(self, before: Self) -> Self {
        Self { lists: self.lists - before.lists, servers: self.servers - before.servers }
    }
}

/// Waits until the server's worker is at rest, and will be for `needed`.
pub async fn quiet(server: &Server, simulator: &Simulator, needed: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        at_rest(server, simulator).await?;
        let left = left_of_the_minute()?;
        if left > needed {
            return Ok(());
        }
        ensure!(began.elapsed() < GIVE_UP, "the worker never leaves {needed:?} for anything else");
        // Until the next minute's work goes on.
        tokio::time::sleep(left + LOOK).await;
    }
}

fn left_of_the_minute() -> anyhow::Result<Duration> {
    const MINUTE: i128 = 60_000_000_000;
    Ok(Duration::from_nanos((MINUTE - Timestamp::now().as_nanosecond() % MINUTE).try_into()?))
}

/// Waits until nobody asks CPX for anything and the server takes next to nothing of the processor.
async fn at_rest(server: &Server, simulator: &Simulator) -> anyhow::Result<()> {
    let look = async || anyhow::Ok((Asked::of(simulator).await?, server.processor_time().unwrap_or_default()));
    let began = Instant::now();
    let (mut before, mut looks) = (look().await?, 0);
    while looks < 2 {
        ensure!(began.elapsed() < WORKS_FOR, "the worker does not come to rest");
        tokio::time::sleep(LOOK.max(simulator.latency() * 4)).await;
        let now = look().await?;
        // It has begun, and nothing has happened since.
        let rests = now.0.lists > 0 && now.0 == before.0 && now.1 <= before.1 + IDLE;
        looks = if rests { looks + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// How a reading went.
#[derive(Debug, Clone, Copy)]
pub struct Polled {
    /// From the GET to the last byte of its answer.
    pub wall: Duration,
    /// What the server's processor time grew by.
    pub processor: Option<Duration>,
    /// Servers of which it does not know the load, though nothing is wrong with any of them.
    pub unknown: u64,
}

/// Has all servers read, in less than `longest`.
pub async fn poll(server: &Server, simulator: &Simulator, servers: u32, longest: Duration) -> anyhow::Result<Polled> {
    for _ in 0..3 {
        quiet(server, simulator, longest).await?;
        let (before, processor_before) = (Asked::of(simulator).await?, server.processor_time());
        let started = Instant::now();
        let body = answer(server.request(READ)).await?;
        let wall = started.elapsed();
        let processor = grown(processor_before, server.processor_time());
        let asked = Asked::of(simulator).await?.since(before);
        if asked.lists == 1 {
            let unknown = check(server, &body, servers).await?;
            return Ok(Polled { wall, processor, unknown });
        }
        eprintln!("somebody else has asked CPX as well ({asked:?}); once more");
    }
    bail!("somebody else asks CPX all the time")
}

/// Whether every server is in the reading. Answers of how many it does not know the load.
async fn check(server: &Server, body: &[u8], servers: u32) -> anyhow::Result<u64> {
    let page: Value = serde_json::from_slice(body)?;
    let listed = page["items"].as_array().map_or(0, Vec::len);
    ensure!(listed == PAGE.min(servers as usize), "a page has {listed} of {servers} servers");
    let services = server.get(&format!("/api/v1/services?limit=500&{ANY_AGE}"), None).await?;
    let services = services["items"].as_array().context("services are listed")?;
    let reporting: u64 = services.iter().filter_map(|service| service["reporting"].as_u64()).sum();
    u64::from(servers).checked_sub(reporting).with_context(|| format!("{reporting} of {servers} servers report"))
}

fn grown(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    Some(after?.saturating_sub(before?))
}

/// What a client can do that judges nothing.
#[derive(Debug, Clone, Copy)]
pub struct Bare {
    /// From the first request to the last answer.
    pub wall: Duration,
    /// Its processor time.
    pub processor: Option<Duration>,
}

/// Reads the list and then every server with `at_once` requests in flight.
pub async fn bare(simulator: &Simulator, http: &reqwest::Client, at_once: usize) -> anyhow::Result<Bare> {
    let (processor_before, started) = (own_processor_time(), Instant::now());
    let list = answer(http.get(format!("{}/servers", simulator.url()))).await?;
    let ips: Arc<[IpAddr]> = serde_json::from_slice::<Vec<_>>(&list)?.into();
    let next = Arc::new(AtomicUsize::new(0));
    let lanes: Vec<_> = (0..at_once)
        .map(|_| {
            let (http, url) = (http.clone(), simulator.url().to_owned());
            let (ips, next) = (Arc::clone(&ips), Arc::clone(&next));
            tokio::spawn(async move {
                while let Some(ip) = ips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    answer(http.get(format!("{url}/{ip}"))).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for lane in lanes {
        lane.await??;
    }
    Ok(Bare { wall: started.elapsed(), processor: grown(processor_before, own_processor_time()) })
}

/// What came of asking again and again.
#[derive(Debug, Clone, Copy)]
pub struct Repeated {
    /// Answers in a second.
    pub rate: f64,
    /// Answers in a second of the server's processor time.
    pub per_processor: Option<f64>,
    /// The size of an answer.
    pub bytes: usize,
}

/// Asks for `path` for a while, over some connections, without a pause and without a new reading.
pub async fn repeated(
    server: &Server,
    simulator: &Simulator,
    path: &str,
    asked_for: Duration,
) -> anyhow::Result<Repeated> {
    let path = match path {
        "/healthz" => path.to_owned(),
        _ if path.contains('?') => format!("{path}&{ANY_AGE}"),
        _ => format!("{path}?{ANY_AGE}"),
    };
    // The first makes a reading where there is none; each connection is there before it counts.
    let bytes = answer(server.request(&path)).await?.len();
    let before = Asked::of(simulator).await?;
    let (processor_before, started) = (server.processor_time(), Instant::now());
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let request = server.request(&path);
            tokio::spawn(async move {
                let mut answers = 0;
                while started.elapsed() < asked_for {
                    answer(request.try_clone().context("a GET can be sent again")?).await?;
                    answers += 1;
                }
                anyhow::Ok(answers)
            })
        })
        .collect();
    let mut answers = 0;
    for lane in lanes {
        answers += lane.await??;
    }
    let wall = started.elapsed();
    let processor = grown(processor_before, server.processor_time());
    ensure!(Asked::of(simulator).await? == before, "GET {path} has asked CPX, or the worker has, meanwhile");
    let per_processor = processor.map(|processor| per_second(answers, processor));
    Ok(Repeated { rate: per_second(answers, wall), per_processor, bytes })
}

/// The whole body of an answer, which must be good.
async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Vec<u8>> {
    let response = request.send().await?.error_for_status()?;
    Ok(response.bytes().await?.into())
}
