//! `scripts/bench services`: how close a reading of all servers comes to what CPX allows, what it
//! takes of memory, and what an answer costs for which there is a reading already.
//!
//! [`measure`] measures one thing each, [`report`] holds the numbers and the targets.

mod measure;
mod report;

use std::time::Duration;

use self::{
    measure::{bare, poll, quiet, repeated},
    report::{Cost, Peak, Queued, Report, Wide},
};
use crate::{
    machine::Machine,
    processes::{Bench, Server, Simulator, http_client},
    step,
};

/// The servers of a stock CPX.
const STOCK: u32 = 150;
/// The servers of a large one.
const MANY: u32 = 10_000;
/// Its latency.
const LATENCY: Duration = Duration::from_millis(50);
/// The most requests in flight that may be configured.
const AT_ONCE: usize = 512;
/// For how long each kind of answer is asked for again and again.
const ASKED_FOR: Duration = Duration::from_secs(3);
/// What a server is asked first. It needs no reading.
const FIRST: &str = "/api/v1/alerts";

/// Measures all of it.
pub async fn run(bench: &Bench) -> anyhow::Result<Report> {
    let machine = Machine::look(bench)?;
    let mut queued = Vec::new();
    for (milliseconds, repetitions) in [(0, 9), (10, 5), (50, 3)] {
        queued.push(one_at_a_time(bench, Duration::from_millis(milliseconds), repetitions).await?);
    }
    let (wide, large) = all_at_once(bench).await?;
    let (mut costs, small) = of_what_is_there(bench, STOCK).await?;
    costs.extend(of_what_is_there(bench, MANY).await?.0);
    Ok(Report { machine: machine.done(), queued, wide, memory: [small, large], costs })
}

/// The time of a reading where CPX handles one request after the other, against the least it could
/// be. All take turns, so that none has the quieter machine.
async fn one_at_a_time(bench: &Bench, latency: Duration, repetitions: usize) -> anyhow::Result<Queued> {
    let simulator = cpx(bench, STOCK, latency, &["--one-at-a-time"]).await?;
    let server = server(bench, &simulator, 64).await?;
    let mut queued = Queued::new(STOCK, latency);
    // A second for all else, and half as much again for a slow machine.
    let longest = Duration::from_secs(1) + latency * STOCK * 3 / 2;
    for number in 1..=repetitions {
        step(&format!("{STOCK} servers, one at a time, {} ms, {number} of {repetitions}", latency.as_millis()));
        quiet(&server, &simulator, longest).await?;
        let alone = bare(&simulator, &http_client()?, 1).await?;
        quiet(&server, &simulator, longest).await?;
        let busy = bare(&simulator, &http_client()?, 2).await?;
        queued.add(&alone, &busy, &poll(&server, &simulator, STOCK, longest).await?);
    }
    Ok(queued)
}

/// The time of a reading where CPX handles hundreds at once: the first of a process, which has no
/// connections yet, and later ones. With the memory that they took.
async fn all_at_once(bench: &Bench) -> anyhow::Result<([Wide; 2], Peak)> {
    const STARTS: usize = 3;
    const LATER: usize = 4;
    let simulator = cpx(bench, MANY, LATENCY, &[]).await?;
    let [mut first, mut later] = ["first", "later"].map(|which| Wide::new(which, MANY, LATENCY, AT_ONCE));
    let mut peak = Peak::new(MANY);
    let longest = Duration::from_secs(5);
    for start in 1..=STARTS {
        let server = server(bench, &simulator, AT_ONCE).await?;
        let http = http_client()?;
        for number in 0..=LATER {
            step(&format!("{MANY} servers, {AT_ONCE} at once, {number} after start {start} of {STARTS}"));
            quiet(&server, &simulator, longest).await?;
            let possible = bare(&simulator, &http, AT_ONCE).await?;
            let polled = poll(&server, &simulator, MANY, longest).await?;
            if number == 0 { &mut first } else { &mut later }.add(&possible, &polled);
        }
        peak.add(server.peak_mib());
    }
    Ok(([first, later], peak))
}

/// What answers cost for which there is a reading of `servers` servers, beside one that needs none;
/// and the memory that it took.
async fn of_what_is_there(bench: &Bench, servers: u32) -> anyhow::Result<(Vec<Cost>, Peak)> {
    let simulator = cpx(bench, servers, Duration::ZERO, &[]).await?;
    let server = server(bench, &simulator, AT_ONCE).await?;
    let mut costs = Vec::new();
    let mut peak = Peak::new(servers);
    for path in ["/healthz", "/api/v1/services", "/api/v1/servers?limit=50"] {
        let mut cost = Cost::new(servers, path);
        for number in 1..=3 {
            step(&format!("GET {path} of {servers} servers, {number} of 3"));
            quiet(&server, &simulator, Duration::from_secs(10)).await?;
            cost.add(&repeated(&server, &simulator, path, ASKED_FOR).await?);
        }
        costs.push(cost);
    }
    peak.add(server.peak_mib());
    Ok((costs, peak))
}

/// A CPX of `servers` servers that answers after `latency`.
async fn cpx(bench: &Bench, servers: u32, latency: Duration, options: &[&str]) -> anyhow::Result<Simulator> {
    let servers = servers.to_string();
    bench.simulator("cpx", latency, &[&["--servers", &servers], options].concat()).await
}

/// A server on a state folder of its own that asks for up to `at_once` servers at once.
async fn server(bench: &Bench, simulator: &Simulator, at_once: usize) -> anyhow::Result<Server> {
    use ::services::config::{CONCURRENCY, URL};
    // A provider of DevEUIs is not needed and would be missed aloud.
    let log = ("MUSTER_LOG", "error");
    bench.server(&[log, (URL, simulator.url()), (CONCURRENCY, &at_once.to_string())], FIRST).await
}
