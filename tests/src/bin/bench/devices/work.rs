//! The worker on devices in a process of its own, as `muster serve` has it, and somebody who asks for
//! devices and for their end by the way of the store, as the API does.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::devices::{
    TABLE,
    config::{Config, PROJECT, TOKEN, URL},
    device::Device,
    machine::{Effects, ask_delete},
    request::Request,
    seal::Sealer,
    store::DeviceStore,
    supply::Supply,
    worker::Worker as Works,
};
use anyhow::{Context as _, anyhow, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kit::{
    clock::Clock,
    dynamo::{DEFAULT_PREFIX, embedded::Embedded},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use simulators::packet;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    meter::Meter,
    processes::{Bench, Part},
};

/// Requests to the store at once of whoever asks for devices.
const ASKING: usize = 16;

/// What works, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The state folder
    #[arg(long)]
    state: PathBuf,
    /// The base URL of the vendor
    #[arg(long)]
    url: String,
}

/// What is said of a device in the end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// Its id.
    pub id: Uuid,
    /// Where it is in its life.
    pub state: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was up.
    pub active_at: Option<Timestamp>,
    /// When nothing was left to do.
    pub ended_at: Option<Timestamp>,
    /// How many attempts were made.
    pub attempts: u32,
}

/// What requests have used of DynamoDB.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Used {
    /// Read units.
    pub reads: f64,
    /// Write units.
    pub writes: f64,
    /// Requests, by operation.
    pub requests: BTreeMap<String, u64>,
    /// Units, by operation.
    pub units: BTreeMap<String, f64>,
    /// The largest item that was put, in bytes.
    pub largest_item: u64,
}

/// The same of both.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsedBy {
    /// Those who asked.
    pub people: Used,
    /// The worker.
    pub worker: Used,
}

/// Works, and does what each line of standard input says, until it ends.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let store = Embedded::open(&options.state)?.store(DEFAULT_PREFIX);
    store.create_tables(&[&TABLE]).await?;
    let config = Config::from_settings(|name| match name {
        URL => Some(options.url.clone()),
        PROJECT => Some(packet::PROJECT.to_owned()),
        TOKEN => Some(packet::TOKEN.to_owned()),
        _ => None,
    })?;
    let vendor = config.vendor.map_err(|setting| anyhow!("{setting} is not set"))?;
    let (people, works) = (Meter::default(), Meter::default());
    let (wake, clock, metered) = (Arc::new(Notify::new()), Clock::system(), works.store(&store));
    let supply = Supply::new(vendor, DeviceStore::new(metered.clone()), clock.clone());
    let worker = Works::new(supply, metered, Sealer::new(config.token), clock, Arc::clone(&wake)).alone(true);
    let stop = CancellationToken::new();
    let told = stop.clone();
    let working = tokio::spawn(async move { worker.work_forever(&told).await });

    let here = Here { asking: DeviceStore::new(people.store(&store)), looking: DeviceStore::new(store), wake };
    let mut ids = Vec::new();
    println!("ready");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("launch", number) => {
                let (asked_at, launched) = here.launch(number.parse()?).await?;
                ids = launched;
                serde_json::to_string(&asked_at)?
            }
            ("delete", _) => serde_json::to_string(&here.delete(&ids).await?)?,
            ("left", _) => serde_json::to_string(&here.looking.work().await?.len())?,
            ("told", _) => serde_json::to_string(&here.told(&ids).await?)?,
            ("used", _) => format!(
                r#"{{"people":{},"worker":{}}}"#,
                serde_json::to_string(&people.take())?,
                serde_json::to_string(&works.take())?
            ),
            _ => bail!("nobody knows what {line:?} means"),
        };
        println!("{answer}");
    }
    stop.cancel();
    Ok(working.await?)
}

/// Those who ask in this process, what they do counted, and those who look.
struct Here {
    asking: DeviceStore,
    looking: DeviceStore,
    wake: Arc<Notify>,
}

impl Here {
    /// So many devices, and when all of them had been asked for.
    async fn launch(&self, devices: usize) -> anyhow::Result<(Timestamp, Vec<Uuid>)> {
        let ids = (0..devices).map(|_| Uuid::now_v7()).collect::<Vec<_>>();
        each(&ids, async |id| {
            let device = Device::new(id, "default".to_owned(), Request::default(), false, Timestamp::now());
            Ok(self.asking.create(&device, None, None).await?)
        })
        .await?;
        self.wake.notify_one();
        Ok((Timestamp::now(), ids))
    }

    /// Asks for the end of all of them. Answers when that was done.
    async fn delete(&self, ids: &[Uuid]) -> anyhow::Result<Timestamp> {
        each(ids, async |id| {
            let before = self.asking.device(id).await?.context("a device is in the store")?;
            let (mut after, now) = (before.clone(), Timestamp::now());
            ask_delete(&mut after, now);
            let written = self.asking.write(&before, after, &Effects::default(), now).await?;
            ensure!(written.is_some(), "somebody else has written a device that was up");
            Ok(())
        })
        .await?;
        self.wake.notify_one();
        Ok(Timestamp::now())
    }

    async fn told(&self, ids: &[Uuid]) -> anyhow::Result<Vec<Told>> {
        let devices = self.looking.devices(ids).await?;
        let told = devices.into_iter().map(|device| Told {
            id: device.id,
            state: device.state().as_str().to_owned(),
            created_at: device.created_at,
            active_at: device.active_at,
            ended_at: device.ended_at,
            attempts: device.attempts(),
        });
        Ok(told.collect())
    }
}

/// Does something for each of `ids`, for a few at once.
async fn each<F: Future<Output = anyhow::Result<()>>>(ids: &[Uuid], ask: impl Fn(Uuid) -> F) -> anyhow::Result<()> {
    stream::iter(ids).map(|id| ask(*id)).buffer_unordered(ASKING).try_collect().await
}

/// What works in another process.
#[derive(Debug)]
pub struct Worker(Part);

impl Worker {
    /// On the store in the folder `state`, at the vendor at `url`. It has nothing to do, and has said
    /// so: what it does at its start is over.
    pub async fn start(bench: &Bench, state: &Path, url: &str) -> anyhow::Result<Self> {
        let arguments = ["work", "--url", url, "--state"].map(OsStr::new);
        let mut worker = Self(bench.part(&[&arguments[..], &[state.as_os_str()]].concat()).await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        worker.used().await?;
        Ok(worker)
    }

    async fn ask<T: DeserializeOwned>(&mut self, line: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_str(&self.0.ask(line).await?)?)
    }

    /// Asks for so many devices. Answers when all of them had been asked for.
    pub async fn launch(&mut self, devices: usize) -> anyhow::Result<Timestamp> {
        self.ask(&format!("launch {devices}")).await
    }

    /// Asks for the end of the devices of the last launch. Answers when that was done.
    pub async fn delete(&mut self) -> anyhow::Result<Timestamp> {
        self.ask("delete").await
    }

    /// Waits until there is nothing left to do, for `patience` at most.
    pub async fn settled(&mut self, patience: Duration) -> anyhow::Result<()> {
        let all = async {
            while self.ask::<usize>("left").await? > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        };
        tokio::time::timeout(patience, all).await.context("the worker does not come to an end")?
    }

    /// How the devices of the last launch are.
    pub async fn told(&mut self) -> anyhow::Result<Vec<Told>> {
        self.ask("told").await
    }

    /// What was used of DynamoDB since the last time.
    pub async fn used(&mut self) -> anyhow::Result<UsedBy> {
        self.ask("used").await
    }

    /// The most memory it ever held, in MiB, on Linux.
    pub fn peak_mib(&self) -> Option<f64> {
        self.0.peak_mib()
    }

    /// The processor time it has taken, on Linux.
    pub fn processor_time(&self) -> Option<Duration> {
        self.0.processor_time()
    }

    /// Ends it in good order.
    pub async fn end(self) -> anyhow::Result<()> {
        self.0.end().await
    }
}
