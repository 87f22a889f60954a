//! `scripts/bench autoscaler`: how close a tick over all deployments comes to what the upstream
//! allows, what it takes of memory and of DynamoDB, and how fast the machine is that decides.
//!
//! Ticks are those of `muster serve`, on a store on the disk, in a process of their own ([`ticks`])
//! that is told each slot, so that they need not wait for the clock. The upstream's time is moved by
//! hand, too, and its loads change only where the plan says so ([`fleet`]).
//! [`measure`] measures one tick beside a bare client, [`units`] what DynamoDB would bill, [`steps`]
//! the pure machine; [`report`] holds the numbers and the targets.

mod fleet;
mod measure;
mod report;
mod steps;
pub mod ticks;
mod units;

use std::time::Duration;

use ::autoscaler::samples::Slot;

use self::{
    measure::{Asked, Expected, bare, tick, when},
    report::{Peak, Report, Ticks},
    ticks::Ticker,
    units::Units,
};
use crate::{
    machine::Machine,
    processes::{Bench, Simulator, http_client},
    step,
};

/// The upstream's latency.
const LATENCY: Duration = Duration::from_millis(20);
/// Requests at once, unless set otherwise.
const AT_ONCE: usize = 256;
/// How often everything begins anew.
const STARTS: usize = 3;

/// The slots of a start, from 0. In the first one every deployment is scaled.
const FIRST: Slot = 0;
/// From here on nothing changes, and every state holds as many samples as it ever will.
const WARM: [Slot; 6] = [22, 23, 24, 25, 26, 27];
/// In each of these another tenth is scaled.
const SCALED: [Slot; 2] = [28, 29];
/// The first one of another process. Nothing changes, again.
const RESTARTED: Slot = 36;

/// What is measured of the autoscaler.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Other numbers of deployments, to try the measuring itself
    #[arg(long, hide = true, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    deployments: Vec<u32>,
}

/// Measures all of it.
pub async fn run(options: &Options, bench: &Bench) -> anyhow::Result<Report> {
    let machine = Machine::look(bench)?;
    units::check_rounding().await?;
    step("the pure machine");
    let (steps, mixed) = steps::measure()?;
    let mut report = Report { machine, ticks: Vec::new(), memory: Vec::new(), units: Vec::new(), steps, mixed };
    for deployments in &options.deployments {
        of(bench, *deployments, &mut report).await?;
    }
    Ok(Report { machine: report.machine.done(), ..report })
}

/// Ticks over so many deployments: the first of a process, those where nothing changes, those where
/// a tenth is scaled, and the first of a process that finds everything in the store.
async fn of(bench: &Bench, deployments: u32, report: &mut Report) -> anyhow::Result<()> {
    let [mut first, mut warm, mut scaled, mut restarted] =
        ["first, all scaled", "nothing changes", "a tenth scaled", "restarted, nothing changes"]
            .map(|which| Ticks::new(which, deployments, LATENCY, AT_ONCE));
    let mut peak = Peak::new(deployments);
    for start in 1..=STARTS {
        let simulator = upstream(bench, deployments).await?;
        let state = bench.state_folder()?;
        let mut ticker = Ticker::start(bench, state.path(), simulator.url()).await?;
        let (mut http, none) = (http_client()?, Expected { deployments, scaled: 0 });
        for slot in FIRST..RESTARTED {
            let (ticks, expected) = match slot {
                FIRST => (&mut first, Expected { scaled: deployments, ..none }),
                slot if WARM.contains(&slot) => (&mut warm, none),
                slot if SCALED.contains(&slot) => (&mut scaled, Expected { scaled: deployments / 10, ..none }),
                slot => {
                    when(&simulator, slot).await?;
                    ticker.tick(slot).await?;
                    continue;
                }
            };
            step(&format!("{deployments} deployments, slot {slot} of start {start} of {STARTS}"));
            when(&simulator, slot).await?;
            if slot == WARM[0] {
                // Connections, as the ticks have them by now.
                bare(&simulator, &http, slot, none, AT_ONCE).await?;
            }
            let possible = bare(&simulator, &http, slot, expected, AT_ONCE).await?;
            ticks.add(&possible, &tick(&mut ticker, &simulator, slot, expected).await?);
        }
        peak.add(ticker.peak_mib());
        ticker.end().await?;

        step(&format!("{deployments} deployments, another process of start {start} of {STARTS}"));
        http = http_client()?;
        when(&simulator, RESTARTED).await?;
        let mut ticker = Ticker::start(bench, state.path(), simulator.url()).await?;
        let possible = bare(&simulator, &http, RESTARTED, none, AT_ONCE).await?;
        restarted.add(&possible, &tick(&mut ticker, &simulator, RESTARTED, none).await?);
        ticker.end().await?;

        if start == STARTS {
            step(&format!("what DynamoDB would bill for {deployments} deployments"));
            report.units.push(Units::of(state.path(), &simulator, deployments, RESTARTED + 1).await?);
        }
    }
    report.ticks.extend([first, warm, scaled, restarted]);
    report.memory.push(peak);
    Ok(())
}

/// The deployments API, at the beginning of the plan.
async fn upstream(bench: &Bench, deployments: u32) -> anyhow::Result<Simulator> {
    // None before: deployments that are known already would keep their hosts.
    let simulator = bench.simulator("deployments", LATENCY, &["--manual", "--count", "0"]).await?;
    let fleet = fleet::of(deployments, &SCALED);
    simulator.control("faults", &serde_json::json!({ "fleet": fleet })).await?;
    let asked = Asked::of(&simulator).await?;
    anyhow::ensure!(asked == Asked::default(), "somebody has asked the simulator already");
    Ok(simulator)
}
