//! Ticks in a process of their own, as `muster serve` does them, each when it is told to.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ::autoscaler::{
    TABLE,
    config::{Config, URL},
    samples::{Slot, time},
    tick::Scaler,
};
use anyhow::Context as _;
use jiff::Timestamp;
use kit::{
    clock::Clock,
    dynamo::{DEFAULT_PREFIX, Store, embedded::Embedded},
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::processes::{Bench, Part};

/// The slot that is slot 0 of the plan: an even one, at which the list is read.
const BEGINS: Slot = 60_000_000;

/// What ticks, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The state folder
    #[arg(long)]
    state: PathBuf,
    /// The base URL of the deployments API
    #[arg(long)]
    url: String,
}

/// Does the tick of each slot that standard input names, until it ends.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let store = Embedded::open(&options.state)?.store(DEFAULT_PREFIX);
    store.create_tables(&[&TABLE]).await?;
    let scaler = Here::new(&options.url, store)?;
    println!("ready");
    let mut slots = BufReader::new(tokio::io::stdin()).lines();
    while let Some(slot) = slots.next_line().await? {
        println!("{}", scaler.tick(slot.parse()?).await?);
    }
    Ok(())
}

/// What ticks in this process.
#[derive(Debug)]
pub struct Here(Scaler);

impl Here {
    /// With the settings that hold unless set otherwise, and a clock of its own.
    pub fn new(url: &str, store: Store) -> anyhow::Result<Self> {
        let config = Config::from_settings(|name| (name == URL).then(|| url.to_owned()))?;
        let api = config.deployments.context("a URL is set")?;
        Ok(Self(Scaler::new(api, store, config.at_once, Clock::manual(Timestamp::UNIX_EPOCH))))
    }

    /// Does the tick of a slot of the plan, at its time. Answers with how long it took, in seconds,
    /// and its report.
    pub async fn tick(&self, slot: Slot) -> anyhow::Result<Value> {
        let clock = self.0.clock();
        clock.advance(time(BEGINS + slot).duration_since(clock.now()).try_into()?);
        let started = Instant::now();
        let report = self.0.tick(BEGINS + slot, &CancellationToken::new()).await?;
        Ok(json!({ "wall": started.elapsed().as_secs_f64(), "report": report }))
    }
}

/// What ticks in another process.
#[derive(Debug)]
pub struct Ticker(Part);

/// How a tick went.
#[derive(Debug)]
pub struct Ticked {
    /// How long it took.
    pub wall: Duration,
    /// What the process's processor time grew by.
    pub processor: Option<Duration>,
    /// The tick's own report.
    pub report: Value,
}

impl Ticker {
    /// On the store in the folder `state`.
    pub async fn start(bench: &Bench, state: &Path, url: &str) -> anyhow::Result<Self> {
        let arguments = ["ticks", "--url", url, "--state"].map(OsStr::new);
        Ok(Self(bench.part(&[&arguments[..], &[state.as_os_str()]].concat()).await?))
    }

    /// Has it do the tick of a slot of the plan.
    pub async fn tick(&mut self, slot: Slot) -> anyhow::Result<Ticked> {
        let before = self.0.processor_time();
        let mut answer: Value = serde_json::from_str(&self.0.ask(&slot.to_string()).await?)?;
        let processor = before.zip(self.0.processor_time()).map(|(before, after)| after.saturating_sub(before));
        let wall = answer["wall"].as_f64().context("a tick takes a while")?;
        Ok(Ticked { wall: Duration::try_from_secs_f64(wall)?, processor, report: answer["report"].take() })
    }

    /// The most memory it ever held, in MiB, on Linux.
    pub fn peak_mib(&self) -> Option<f64> {
        self.0.peak_mib()
    }

    /// Ends it in good order, so that another one can have the folder.
    pub async fn end(self) -> anyhow::Result<()> {
        self.0.end().await
    }
}
