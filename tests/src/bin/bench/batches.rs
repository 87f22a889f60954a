//! `scripts/bench batches`: how close batches come to what the provider's limit allows.
//!
//! `muster serve` starts on a fresh state folder for each batch. [`measure`] measures one thing
//! each, [`report`] holds the numbers and the targets.

mod measure;
mod report;

use std::time::Duration;

use anyhow::Context as _;

use self::{
    measure::{Bare, bare},
    report::{Memory, Paced, Peak, Rate, Report, Writes},
};
use crate::{
    machine::Machine,
    numbers::median,
    processes::{Bench, Server, Simulator},
    step,
};

/// The share of DevEUIs that are a stranger's, in every measurement.
const CONFLICT_RATE: f64 = 0.01;
/// The provider's limit.
const IN_FLIGHT: usize = 10;
/// The provider's usual latency.
const LATENCY: Duration = Duration::from_millis(100);
/// A latency at which the machine is the limit, not the provider.
const FAST: Duration = Duration::from_millis(2);
/// What a server is asked first.
const FIRST: &str = "/api/v1/batches?limit=1";

/// What is measured of batches.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Leave out the batch of 10,000 at 100 ms
    #[arg(long)]
    quick: bool,
}

/// Measures all of it.
pub async fn run(options: &Options, bench: &Bench) -> anyhow::Result<Report> {
    let machine = Machine::look(bench)?;

    let slow = provider(bench, LATENCY).await?;
    let mut paced = Vec::new();
    for (size, repetitions) in [(100, 3), (1_000, 3), (10_000, 1)] {
        if size < 10_000 || !options.quick {
            paced.push(at_pace(bench, &slow, size, repetitions).await?);
        }
    }
    let mut writes = vec![counted(bench, &slow, 1_000).await?];
    drop(slow);

    let fast = provider(bench, FAST).await?;
    let mut rates = vec![at_full_speed(bench, &fast, 10_000).await?];
    writes.push(counted(bench, &fast, 10_000).await?);
    drop(fast);

    let at_once = provider(bench, Duration::ZERO).await?;
    rates.push(at_full_speed(bench, &at_once, 100_000).await?);
    let memory = Memory { small: peak(bench, &at_once, 10_000).await?, large: peak(bench, &at_once, 100_000).await? };
    drop(at_once);

    Ok(Report { machine: machine.done(), paced, rates, memory, writes })
}

/// A provider that answers after `latency`.
async fn provider(bench: &Bench, latency: Duration) -> anyhow::Result<Simulator> {
    bench.simulator("lorawan", latency, &["--conflict-rate", &CONFLICT_RATE.to_string()]).await
}

/// A server on a state folder of its own.
async fn server(bench: &Bench, simulator: &Simulator) -> anyhow::Result<Server> {
    bench.server(&[(::batches::config::URL, simulator.url())], FIRST).await
}

/// The wall time of batches where the provider is the limit, against the least it could be.
async fn at_pace(bench: &Bench, simulator: &Simulator, size: u64, repetitions: usize) -> anyhow::Result<Paced> {
    // Some rounds by a bare client tell what a request takes here, timers and all.
    let Bare { mean_latency, .. } = bare(simulator, 20 * IN_FLIGHT as u64).await?;
    let mut paced = Paced::new(size, simulator.latency(), mean_latency);
    for number in 1..=repetitions {
        step(&format!("{size} at {} ms, {number} of {repetitions}", simulator.latency().as_millis()));
        let server = server(bench, simulator).await?;
        let run = measure::batch(&server, simulator, size, Some(paced.ideal())).await?;
        paced.add(&run);
    }
    Ok(paced)
}

/// The rate where the machine is the limit, against a client without store, order or care. They
/// take turns, so that neither has the quieter machine.
async fn at_full_speed(bench: &Bench, simulator: &Simulator, size: u64) -> anyhow::Result<Rate> {
    let (mut limits, mut rates, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=3 {
        step(&format!("{size} at {} ms, {number} of 3", simulator.latency().as_millis()));
        limits.push(bare(simulator, size).await?.rate());
        let server = server(bench, simulator).await?;
        let run = measure::batch(&server, simulator, size, None).await?;
        rates.push(run.rate());
        costs.extend(run.processor_per_deveui());
    }
    Ok(Rate::new(size, simulator.latency(), median(&rates), median(&limits), &costs))
}

/// The most memory that a server ever held for one batch.
async fn peak(bench: &Bench, simulator: &Simulator, size: u64) -> anyhow::Result<Peak> {
    step(&format!("memory for {size}"));
    let server = server(bench, simulator).await?;
    let idle_mib = server.peak_mib();
    let run = measure::batch(&server, simulator, size, None).await?;
    Ok(Peak {
        size,
        idle_mib,
        registering_mib: run.peak_mib,
        read_mib: server.peak_mib(),
        deveuis_per_second: run.rate(),
    })
}

/// What a batch costs at the store. Only a server in this process tells.
async fn counted(bench: &Bench, simulator: &Simulator, size: u64) -> anyhow::Result<Writes> {
    step(&format!("writes for {size} at {} ms", simulator.latency().as_millis()));
    let server = Server::in_this_process(bench, &[(::batches::config::URL, simulator.url())], FIRST).await?;
    let before = server.counts();
    let run = measure::batch(&server, simulator, size, None).await?;
    let counts = run.counts.as_ref().zip(before.as_ref()).map(|(after, before)| after.since(before));
    let counts = counts.context("a server in this process counts")?;
    server.stop().await?;
    Ok(Writes::new(size, simulator.latency(), &counts))
}
