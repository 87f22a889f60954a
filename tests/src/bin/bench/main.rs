//! `scripts/bench`: how close muster comes to what its upstreams and the machine allow.
//!
//! Everything is measured in one run and on processes as they ship: `muster serve` on a fresh state
//! folder, and `muster-sim`. What the simulator and this machine can do at best is measured in the
//! same run with a bare HTTP client, because a ratio to it says more than a rate.
//!
//! In reading order: [`processes`] starts what is measured, [`machine`] is what the numbers depend
//! on, [`meter`] what DynamoDB would bill, [`print`](mod@print) shows them. [`batches`], [`services`],
//! [`autoscaler`] and [`devices`] each measure one capability.
//! Missed targets are reported; only what could not be measured is a failure.

mod autoscaler;
mod batches;
mod devices;
mod machine;
mod meter;
mod numbers;
mod print;
mod processes;
mod services;

use std::{env, fmt::Display, fs};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::processes::Bench;

/// Measures muster; see scripts/bench.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
    /// Also a debug build, to try the measuring itself
    #[arg(long, global = true, hide = true)]
    any_build: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How close batches come to what the provider's limit allows
    Batches(batches::Options),
    /// How close a reading of all servers comes to what CPX allows, and what one costs that is there
    Services,
    /// How close a tick over all deployments comes to what the upstream allows, and what one costs
    Autoscaler(autoscaler::Options),
    /// The part of that which ticks, in a process of its own
    #[command(hide = true)]
    Ticks(autoscaler::ticks::Options),
    /// How soon machines that are up are known to be, and what it costs until then
    Devices(devices::Options),
    /// The part of that which works, in a process of its own
    #[command(hide = true)]
    Work(devices::work::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // A part of the bench has been let through as the whole.
    let is_part = matches!(options.what, What::Ticks(_) | What::Work(_));
    if cfg!(debug_assertions) && !options.any_build && !is_part {
        bail!("this is a debug build, whose numbers mean nothing; run scripts/bench");
    }
    let bench = Bench::beside(&env::current_exe()?)?;
    match options.what {
        What::Batches(options) => show("batches", &bench, &batches::run(&options, &bench).await?),
        What::Services => show("services", &bench, &services::run(&bench).await?),
        What::Autoscaler(options) => show("autoscaler", &bench, &autoscaler::run(&options, &bench).await?),
        What::Ticks(options) => autoscaler::ticks::run(&options).await,
        What::Devices(options) => show("devices", &bench, &devices::run(&options, &bench).await?),
        What::Work(options) => devices::work::run(&options).await,
    }
}

/// Says on standard error what goes on: the whole takes minutes.
fn step(what: &str) {
    eprintln!("measuring {what}");
}

/// Prints a report and keeps it as JSON.
fn show(name: &str, bench: &Bench, report: &(impl Display + Serialize)) -> anyhow::Result<()> {
    println!("{report}");
    let path = bench.folder().join(name).with_extension("json");
    let json = serde_json::to_string_pretty(report)? + "\n";
    fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}
