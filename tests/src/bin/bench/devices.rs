//! `scripts/bench devices`: how soon a machine that is up is known to be, how soon one that is gone,
//! what that takes of the vendor, of DynamoDB and of memory, and how all of it compares with the least
//! it could be.
//!
//! The worker is that of `muster serve`, in real time, on a store on the disk, in a process of its own
//! ([`work`]); the vendor takes most of a minute for a machine. [`measure`] holds what both say of each
//! device against each other, [`units`] checks that the embedded store counts as DynamoDB does;
//! [`report`] holds the numbers and the targets.

mod measure;
mod report;
mod units;
pub mod work;

use std::time::Duration;

use ::devices::worker::AT_ONCE;

use self::{
    measure::{bare, delete, launch},
    report::{Alone, Report, Stretch},
    work::Worker,
};
use crate::{
    machine::Machine,
    processes::{Bench, Simulator},
    step,
};

/// The shortest time that the vendor takes to answer; the longest is twice that.
const LATENCY: Duration = Duration::from_millis(50);
/// What it takes on average.
const MEAN_LATENCY: Duration = Duration::from_millis(75);
/// Requests at once that launch; as many may watch and take down.
const LAUNCHING: usize = AT_ONCE / 2;
/// What the vendor takes to take a machine down.
const DEPROVISION: Duration = Duration::from_secs(5);
/// How often everything begins anew.
const STARTS: usize = 3;
/// How often one device is launched alone.
const ALONE: usize = 5;

/// What is measured of devices.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Other numbers of devices, to try the measuring itself
    #[arg(long, hide = true, value_delimiter = ',', default_values_t = [1_000])]
    devices: Vec<usize>,
    /// Another time in seconds that the vendor takes for one on average, to try the measuring itself
    #[arg(long, hide = true, default_value_t = 50)]
    provision: u64,
    /// Another number of repetitions, to try the measuring itself
    #[arg(long, hide = true)]
    starts: Option<usize>,
}

/// Measures all of it.
pub async fn run(options: &Options, bench: &Bench) -> anyhow::Result<Report> {
    let machine = Machine::look(bench)?;
    units::check_rounding().await?;
    let (mut launches, mut teardowns) = (Vec::new(), Vec::new());
    let starts = options.starts.unwrap_or(STARTS);
    for devices in &options.devices {
        let mut up = Stretch::launches(*devices);
        let mut gone = Stretch::teardowns(*devices);
        for start in 1..=starts {
            step(&format!("{devices} devices, start {start} of {starts}"));
            let possible = bare(&vendor(bench, options.provision).await?, *devices).await?;
            let simulator = vendor(bench, options.provision).await?;
            let state = bench.state_folder()?;
            let mut worker = Worker::start(bench, state.path(), simulator.url()).await?;
            up.add_launch(possible, &launch(&mut worker, &simulator, *devices).await?);
            step(&format!("the end of {devices} devices, start {start} of {starts}"));
            gone.add_teardown(&delete(&mut worker, &simulator, *devices).await?);
            worker.end().await?;
        }
        launches.push(up);
        teardowns.push(gone);
    }
    let alone = alone(bench, options.provision.min(10), options.starts.unwrap_or(ALONE)).await?;
    Ok(Report { machine: machine.done(), launches, teardowns, alone })
}

/// One device after the other, each with all to itself, at a vendor that takes `provision` seconds.
async fn alone(bench: &Bench, provision: u64, repetitions: usize) -> anyhow::Result<Alone> {
    let simulator = vendor(bench, provision).await?;
    let state = bench.state_folder()?;
    let mut worker = Worker::start(bench, state.path(), simulator.url()).await?;
    let mut alone = Alone::default();
    for number in 1..=repetitions {
        step(&format!("one device alone, {number} of {repetitions}"));
        let launched = launch(&mut worker, &simulator, 1).await?;
        alone.add(&launched, &delete(&mut worker, &simulator, 1).await?);
    }
    worker.end().await?;
    Ok(alone)
}

/// A vendor that takes so many seconds for a device, a fifth more or less.
async fn vendor(bench: &Bench, provision: u64) -> anyhow::Result<Simulator> {
    let seconds = |seconds: u64| format!("{seconds}s");
    let (provision, deprovision) = (seconds(provision), seconds(DEPROVISION.as_secs()));
    let jitter = format!("{}ms", LATENCY.as_millis());
    let options = ["--jitter", &jitter, "--provision", &provision, "--spread", "0.2", "--deprovision", &deprovision];
    bench.simulator("packet", LATENCY, &options).await
}
