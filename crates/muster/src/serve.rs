//! `muster serve`: all routers and all workers in one process.
//!
//! It ends in good order: nothing new is accepted or sent, what is in flight is finished and
//! written. What does not end in time is cut off, which costs nothing but time: the next start goes
//! on from the store.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::{Backend, configured_provider},
    cli::{Serve, StoreKind},
    connect::{Taken, take},
    exit::{Exit, Failure},
    listen,
    output::Output,
    settings::{SERVER, Settings},
    signals,
};

/// How long requests may take to end once the server stops; the longest ones only wait for news.
const REQUESTS_END: Duration = Duration::from_secs(5);
/// How long a worker may take to finish what is in flight.
const WORKER_ENDS: Duration = Duration::from_millis(9500);

/// Runs the command.
pub async fn run(options: &Serve, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if settings.is_flag(SERVER) {
        return Err(Failure::usage("--server is for commands that talk to a server, and this one is a server"));
    }
    let stop = signals::listen()?;
    let backend = match settings.store()? {
        StoreKind::Dynamodb => Backend::dynamodb(settings).await,
        StoreKind::Embedded => {
            let dir = settings.state_dir()?;
            match take(&dir, output).await? {
                Taken::Folder(engine) => Backend::embedded(engine, &dir).await?,
                Taken::Server(other) => {
                    let url = other.server().unwrap_or_default();
                    return Err(Failure::new(format!("{url} serves {} already", dir.display()))
                        .hint("use that one, stop it, or use another folder with --state DIR"));
                }
            }
        }
    };
    // One that this start makes does not count: nobody could have it yet.
    let needs_keys = !options.listen.ip().is_loopback() || settings.store()? == StoreKind::Dynamodb;
    if needs_keys && backend.access().keys().is_empty().await? {
        return Err(Failure::usage(format!("refusing to listen on {} without keys", options.listen)).hint(
            "make one first: muster keys create --tenant TENANT --scope admin (with the same --state or --store)",
        ));
    }
    if !options.listen.ip().is_loopback() {
        output.note("Keys travel unencrypted to this address: put it behind something that speaks TLS.");
    }
    let server = Server::start(backend, settings, options.listen, stop.clone()).await?;
    output.lines([&server.url])?;
    server.run().await?;
    Ok(Exit::Fine)
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it is, without a slash at the end.
    pub url: String,
    backend: Backend,
    stop: CancellationToken,
    requests: JoinHandle<()>,
    worker: Option<JoinHandle<()>>,
    watcher: Option<JoinHandle<()>>,
    scaler: Option<JoinHandle<()>>,
    launcher: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` and works, until `stop`.
    pub async fn start(
        backend: Backend,
        settings: &Settings,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> Result<Self, Failure> {
        let provider = configured_provider(settings, None)?;
        let watcher = backend.watcher(settings).await?;
        let scaler = backend.scaler(settings)?;
        let launcher = backend.device_worker(settings)?;
        let app = backend.app(settings, provider.as_ref())?;
        if settings.store()? == StoreKind::Embedded {
            backend.own_key().await?;
        }
        let cannot = |error| {
            Failure::new(format!("cannot listen on {address}: {error}"))
                .hint("choose another address with --listen; port 0 takes a free one")
        };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let url = format!("http://{address}");
        let requests = tokio::spawn(listen::serve(listener, app, stop.clone()));
        if provider.is_none() {
            tracing::warn!("{} is not set: batches answer 503", batches::config::URL);
        }
        let worker = provider.map(|provider| {
            let (worker, stop) = (backend.worker(provider), stop.clone());
            tokio::spawn(async move { worker.work_forever(&stop).await })
        });
        if watcher.is_none() {
            tracing::warn!("{} is not set: servers and services answer 503", services::config::URL);
        }
        let watcher = watcher.map(|watcher| {
            let stop = stop.clone();
            tokio::spawn(async move { watcher.work_forever(&stop).await })
        });
        if scaler.is_none() {
            tracing::warn!("{} is not set: deployments answer 503", autoscaler::config::URL);
        }
        let scaler = scaler.map(|scaler| {
            let stop = stop.clone();
            tokio::spawn(async move { scaler.work_forever(&stop, |_| {}).await })
        });
        if launcher.is_none() {
            use devices::config::{PROJECT, URL};
            tracing::warn!("{URL} and {PROJECT} are not both set: new devices answer 503");
        }
        let launcher = launcher.map(|launcher| {
            let stop = stop.clone();
            tokio::spawn(async move { launcher.work_forever(&stop).await })
        });
        backend.announce(&url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:"))?;
        tracing::info!(url, "listening");
        Ok(Self { url, backend, stop, requests, worker, watcher, scaler, launcher })
    }

    /// Serves until it is told to stop, then ends in good order, or in ten seconds.
    pub async fn run(mut self) -> Result<(), Failure> {
        let stop = self.stop.clone();
        tokio::select! {
            // Before the others: requests end because of it.
            biased;
            () = stop.cancelled() => {}
            () = self.backend.keep_house() => {}
            ended = &mut self.requests => {
                stop.cancel();
                self.backend.withdraw()?;
                return Err(Failure::new(format!("the server ended by itself: {ended:?}")));
            }
        }
        tracing::info!("stopping: nothing new is accepted or sent, what is in flight is finished");
        let Self { backend, mut requests, worker, watcher, scaler, launcher, .. } = self;
        let requests_end = async {
            if tokio::time::timeout(REQUESTS_END, &mut requests).await.is_err() {
                tracing::warn!("some requests were cut off");
                requests.abort();
            }
        };
        let worker_ends = async {
            let Some(worker) = worker else { return };
            if tokio::time::timeout(WORKER_ENDS, worker).await.is_err() {
                tracing::warn!("the worker was cut off; the next one asks again about what was in flight");
            }
        };
        let watcher_ends = async {
            let Some(watcher) = watcher else { return };
            if tokio::time::timeout(WORKER_ENDS, watcher).await.is_err() {
                tracing::warn!("the watcher was cut off; what it had to tell is told by the next one");
            }
        };
        let scaler_ends = async {
            let Some(scaler) = scaler else { return };
            if tokio::time::timeout(WORKER_ENDS, scaler).await.is_err() {
                tracing::warn!("the scaler was cut off; the next one reads what came of what it had asked for");
            }
        };
        let launcher_ends = async {
            let Some(launcher) = launcher else { return };
            if tokio::time::timeout(WORKER_ENDS, launcher).await.is_err() {
                tracing::warn!("the worker on devices was cut off; the next one looks for what was asked for");
            }
        };
        tokio::join!(requests_end, worker_ends, watcher_ends, scaler_ends, launcher_ends);
        backend.withdraw()
    }
}
