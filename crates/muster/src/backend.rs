//! What answers behind the API in this process: a store, the routers on it, and the worker.
//!
//! A state folder holds:
//!
//! | file | what |
//! | --- | --- |
//! | `muster.db` (and `-wal`, `-shm`) | everything |
//! | `key` | the admin key of this folder's owner, one line, 0600 |
//! | `server` | the URL of the `muster serve` that works on the folder, while it does |
//! | `lock` | held by the one process that works on the folder |

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use autoscaler::{Scaling, tick::Scaler};
use axum::Router;
use batches::{
    Batches,
    config::{max_age_from, provider_from},
    provider::Provider,
    store::BatchStore,
    worker::{Timing, Worker},
};
use devices::Devices;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use kit::{
    access::{ADMIN, Access, NewKey},
    clock::Clock,
    dynamo::{DEFAULT_PREFIX, Store, TableDef, embedded::Embedded},
    http::{Routes, Scope},
    upstream::Upstream,
};
use services::{
    Watch,
    config::{Config, ConfigError, WEBHOOK_KEY, WEBHOOK_URL},
    notify::Notifier,
    worker::Watcher,
};
use shout::Shout;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::Client,
    exit::Failure,
    settings::{Settings, TABLE_PREFIX},
};

/// The tenant of a state folder's owner.
const TENANT: &str = "default";
/// Every table there is: that of the keys, and one for each capability that keeps something.
pub const TABLES: [&TableDef; 5] =
    [&kit::access::TABLE, &batches::TABLE, &devices::TABLE, &services::TABLE, &autoscaler::TABLE];
/// How often what has expired is deleted, as DynamoDB does by itself.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// A store, and what works on it.
#[derive(Debug, Clone)]
pub struct Backend {
    store: Store,
    access: Access,
    wake: Arc<Notify>,
    wake_devices: Arc<Notify>,
    /// What time it is for devices: the demonstration's goes faster.
    device_clock: Clock,
    /// None with DynamoDB.
    engine: Option<Embedded>,
    /// None in memory and with DynamoDB.
    dir: Option<PathBuf>,
}

impl Backend {
    /// On the store of the folder `dir`, which this process owns by `engine`.
    pub async fn embedded(engine: Embedded, dir: &Path) -> Result<Self, Failure> {
        // Whoever wrote it is gone: the lock is ours.
        remove(&dir.join("server"))?;
        Self::on_engine(engine, Some(dir.to_owned())).await
    }

    /// On a store that ends with this process, for what keeps nothing.
    pub async fn memory() -> Result<Self, Failure> {
        Self::on_engine(Embedded::memory()?, None).await
    }

    async fn on_engine(engine: Embedded, dir: Option<PathBuf>) -> Result<Self, Failure> {
        let store = engine.store(DEFAULT_PREFIX);
        store.create_tables(&TABLES).await?;
        Ok(Self { engine: Some(engine), dir, ..Self::on(store) })
    }

    /// On the DynamoDB that the AWS SDK's settings describe. Creates nothing there.
    pub async fn dynamodb(settings: &Settings) -> Self {
        let store = Store::from_env().await;
        Self::on(match settings.get(TABLE_PREFIX) {
            Some(prefix) => Store::new(store.client().clone(), prefix),
            None => store,
        })
    }

    fn on(store: Store) -> Self {
        let access = Access::new(store.clone(), Clock::system());
        Self {
            store,
            access,
            wake: Arc::default(),
            wake_devices: Arc::default(),
            device_clock: Clock::system(),
            engine: None,
            dir: None,
        }
    }

    /// The same, with another clock for devices.
    #[must_use]
    pub fn with_device_clock(mut self, clock: Clock) -> Self {
        self.device_clock = clock;
        self
    }

    /// Makes the worker on devices look at once.
    pub fn wake_devices(&self) {
        self.wake_devices.notify_one();
    }

    /// Keys, and who may call what.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The routes of each capability by name, as `settings` configure them. `provider` is the one
    /// that new batches are registered with.
    pub fn routes(
        &self,
        settings: &Settings,
        provider: Option<&Provider>,
    ) -> Result<Vec<(&'static str, Routes)>, Failure> {
        let batches = Batches {
            store: BatchStore::new(self.store.clone()),
            provider: provider.map(Provider::name),
            clock: Clock::system(),
            wake: Arc::clone(&self.wake),
            max_age: max_age_from(|name| settings.get(name))?,
        };
        let config = configured_devices(settings)?;
        let devices =
            Devices::new(&config, self.store.clone(), self.device_clock.clone(), Arc::clone(&self.wake_devices));
        let watch = Watch::new(&configured_services(settings)?, self.store.clone(), Clock::system());
        let scaling = Scaling::new(&configured_deployments(settings)?, self.store.clone(), Clock::system());
        Ok(vec![
            ("shout", shout::routes(configured_shout(settings)?)),
            ("batches", batches::routes(batches)),
            ("devices", devices::routes(devices)),
            ("services", services::routes(watch)),
            ("autoscaler", autoscaler::routes(scaling)),
            ("openapi", kit::http::openapi()),
            ("keys", kit::access::routes(self.access.clone())),
        ])
    }

    /// All routes as one router.
    pub fn app(&self, settings: &Settings, provider: Option<&Provider>) -> Result<Router, Failure> {
        let routes = self.routes(settings, provider)?.into_iter().map(|(_, routes)| routes).collect();
        Ok(kit::http::app(routes, self.access.clone()))
    }

    /// A client of the routers in this process, with this folder's admin key.
    pub async fn client(&self, settings: &Settings, provider: Option<&Provider>) -> Result<Client, Failure> {
        let key = self.own_key().await?;
        Client::in_process(self.app(settings, provider)?, Some(&key))
    }

    /// The admin key of this folder, made where there is none or where it counts no more.
    pub async fn own_key(&self) -> Result<String, Failure> {
        let Some(dir) = &self.dir else { return self.make_key().await };
        let path = dir.join("key");
        if let Some(key) = read_line(&path)?
            && self.counts(&key).await?
        {
            return Ok(key);
        }
        let key = self.make_key().await?;
        write_private(&path, &key).map_err(|error| cannot("write", &path, &error))?;
        tracing::info!(path = %path.display(), "made an admin key");
        Ok(key)
    }

    /// Whether a key is known and live. One that merely may not do everything is left as it is:
    /// somebody put it there.
    async fn counts(&self, key: &str) -> Result<bool, Failure> {
        let Ok(value) = HeaderValue::try_from(format!("Bearer {key}")) else { return Ok(false) };
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        match self.access.authorize(&headers, Scope(ADMIN)).await {
            Ok(_) => Ok(true),
            Err(problem) if problem.status == 401 => Ok(false),
            Err(problem) if problem.status == 403 => Ok(true),
            Err(problem) => Err(problem.into()),
        }
    }

    async fn make_key(&self) -> Result<String, Failure> {
        let new = NewKey {
            tenant: TENANT.to_owned(),
            scopes: vec![ADMIN.to_owned()],
            label: Some("made by muster for the owner of its state folder".to_owned()),
            expires_in_seconds: None,
        };
        let (_, token) = self.access.keys().create(new, self.access.clock().now()).await?;
        Ok(token)
    }

    /// A worker for one provider.
    pub fn worker(&self, provider: Provider) -> Worker {
        let timing = Timing::new(&provider);
        let store = BatchStore::new(self.store.clone());
        Worker::new(store, provider, Clock::system(), timing, Arc::clone(&self.wake))
    }

    /// Who watches the services of the CPX that `settings` name, if they do.
    pub async fn watcher(&self, settings: &Settings) -> Result<Option<Watcher>, Failure> {
        let config = configured_services(settings)?;
        let notifier = configured_notifier(settings).await?;
        Ok(Watcher::new(config, self.store.clone(), notifier, Clock::system()))
    }

    /// Who scales the deployments of the API that `settings` name, if they do.
    pub fn scaler(&self, settings: &Settings) -> Result<Option<Scaler>, Failure> {
        let config = configured_deployments(settings)?;
        let scaler = |api| Scaler::new(api, self.store.clone(), config.at_once, Clock::system());
        Ok(config.deployments.map(scaler))
    }

    /// Who launches devices at the vendor that `settings` name, and takes them down, if they do.
    pub fn device_worker(&self, settings: &Settings) -> Result<Option<devices::worker::Worker>, Failure> {
        use devices::{seal::Sealer, store::DeviceStore, supply::Supply, worker::Worker};
        let config = configured_devices(settings)?;
        let Ok(vendor) = config.vendor else { return Ok(None) };
        let clock = || self.device_clock.clone();
        let supply = Supply::new(vendor, DeviceStore::new(self.store.clone()), clock());
        let worker =
            Worker::new(supply, self.store.clone(), Sealer::new(config.token), clock(), Arc::clone(&self.wake_devices));
        let worker = worker.deletes_orphans(config.deletes_orphans).dead_mans_switch(config.dead_mans_switch);
        // A state folder has one owner, this process.
        Ok(Some(worker.alone(self.engine.is_some())))
    }

    /// Works for one provider until `stop`, and tells when it has to wait for another worker.
    pub fn start_worker(&self, provider: Provider, stop: &CancellationToken) -> Working {
        let worker = self.worker(provider);
        let (tell, held_until) = watch::channel(None);
        let child = stop.child_token();
        let stopped = child.clone();
        let task = tokio::spawn(async move {
            let tell = |until| {
                tell.send_replace(until);
            };
            worker.work_and_tell(&child, tell).await;
        });
        Working { stop: stopped, task, held_until }
    }

    /// Deletes what has expired, now and every hour, as long as it is polled.
    pub async fn keep_house(&self) {
        let Some(engine) = &self.engine else { return std::future::pending().await };
        loop {
            match engine.sweep_expired().await {
                Ok(0) => {}
                Ok(items) => tracing::info!(items, "deleted what had expired"),
                Err(error) => tracing::warn!(%error, "what has expired could not be deleted"),
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }

    /// Tells commands of this user where the server of this folder is.
    pub fn announce(&self, url: &str) -> Result<(), Failure> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let path = dir.join("server");
        write_private(&path, url).map_err(|error| cannot("write", &path, &error))
    }

    /// Takes [`announce`](Self::announce) back.
    pub fn withdraw(&self) -> Result<(), Failure> {
        self.dir.as_ref().map_or(Ok(()), |dir| remove(&dir.join("server")))
    }
}

/// A worker that works beside a command.
#[derive(Debug)]
pub struct Working {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Until when another worker has the right to send, where it has.
    pub held_until: watch::Receiver<Option<Timestamp>>,
}

impl Working {
    /// Sends nothing new, and waits until what is in flight has been finished and written.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the worker did not end well");
        }
    }
}

/// The provider that the settings name, if they do; `url` takes the place of theirs.
pub fn configured_provider(settings: &Settings, url: Option<&str>) -> Result<Option<Provider>, Failure> {
    let setting = |name: &str| match url {
        Some(url) if name == batches::config::URL => Some(url.to_owned()),
        _ => settings.get(name),
    };
    provider_from(setting).map_err(|error| match error {
        batches::config::ConfigError::Url(error) => {
            Failure::usage(format!("{} {}", settings.origin(batches::config::URL), error.problem))
                .hint("write the provider's base URL, such as https://provider.example/api")
        }
        error => Failure::usage(error.to_string()),
    })
}

fn configured_services(settings: &Settings) -> Result<Config, Failure> {
    Config::from_settings(|name| settings.get(name)).map_err(|error| refused(settings, error))
}

async fn configured_notifier(settings: &Settings) -> Result<Notifier, Failure> {
    let is_set = |name: &str| settings.get(name).is_some();
    let keys = [WEBHOOK_KEY.to_owned(), format!("{WEBHOOK_KEY}_FILE"), format!("{WEBHOOK_KEY}_SECRET")];
    if is_set(WEBHOOK_URL) && !keys.iter().any(|name| is_set(name)) {
        let url = settings.origin(WEBHOOK_URL);
        return Err(Failure::usage(format!("{url} is set, and {WEBHOOK_KEY} is not: alerts would go unsigned")).hint(
            format!(
                "make a key with `echo whsec_$(openssl rand -base64 32)`, and give it to the receiver too; \
                 {WEBHOOK_KEY}_FILE names a file that holds it"
            ),
        ));
    }
    let notifier =
        Notifier::from_settings(|name| settings.get(name)).await.map_err(|error| refused(settings, error))?;
    notifier.check_key().await.map_err(Failure::usage)?;
    Ok(notifier)
}

/// Says which setting of `services` cannot be used, as it was given.
fn refused(settings: &Settings, error: ConfigError) -> Failure {
    match error {
        ConfigError::Url(error) => {
            let failure = Failure::usage(format!("{} {}", settings.origin(&error.variable), error.problem));
            if error.variable == services::config::URL {
                failure.hint("write CPX's base URL, such as http://cpx.example:8080")
            } else {
                failure.hint("write the receiver's URL, such as https://hooks.example/alerts")
            }
        }
        ConfigError::Number { name, value, right } => {
            Failure::usage(format!("{} is {value:?}; it must be {right}", settings.origin(name)))
        }
        ConfigError::Secret(error) => Failure::usage(error.to_string()),
    }
}

/// Which deployments API is meant, and how it is asked.
pub fn configured_deployments(settings: &Settings) -> Result<autoscaler::config::Config, Failure> {
    use autoscaler::config::{Config, ConfigError, URL};
    Config::from_settings(|name| settings.get(name)).map_err(|error| match error {
        ConfigError::Url(error) => Failure::usage(format!("{} {}", settings.origin(URL), error.problem))
            .hint("write the deployments API's base URL, such as https://deployments.example/api"),
        ConfigError::Number { name, value, right } => {
            Failure::usage(format!("{} is {value:?}; it must be {right}", settings.origin(name)))
        }
    })
}

/// Which device API is meant, and how it is asked.
pub fn configured_devices(settings: &Settings) -> Result<devices::config::Config, Failure> {
    use devices::config::{Config, ConfigError, URL};
    Config::from_settings(|name| settings.get(name)).map_err(|error| match error {
        ConfigError::Url(error) => Failure::usage(format!("{} {}", settings.origin(URL), error.problem))
            .hint("write the device API's base URL, such as https://devices.example/metal/v1"),
        ConfigError::Token(error) => Failure::usage(error.to_string()),
        ConfigError::Value { name, value, right } => {
            Failure::usage(format!("{} is {value:?}; it must be {right}", settings.origin(name)))
        }
    })
}

fn configured_shout(settings: &Settings) -> Result<Shout, Failure> {
    use ::shout::http::{FALLBACK, URL};
    let upstream = settings.get(URL).map(|url| Upstream::new(URL, &url)).transpose();
    let upstream = upstream.map_err(|error| Failure::usage(format!("{} {}", settings.origin(URL), error.problem)))?;
    let fallback = match settings.get(FALLBACK).as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(other) => {
            return Err(Failure::usage(format!("{} is {other:?}; it must be on or off", settings.origin(FALLBACK))));
        }
    };
    Ok(Shout::new(upstream.as_ref(), fallback))
}

/// The line in a small file, if there is one.
pub fn read_line(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|line| !line.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", path, &error)),
        _ => Ok(()),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {error}", path.display()))
}

/// Writes one line for this user alone, so that nobody ever reads half of it.
fn write_private(path: &Path, line: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?; // 0600 from the beginning
    writeln!(file, "{line}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn backend(dir: &Path) -> Backend {
        Backend::embedded(Embedded::open(dir).unwrap(), dir).await.unwrap()
    }

    #[tokio::test]
    async fn a_folder_keeps_its_key_and_gets_another_where_it_is_lost_or_counts_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let backend = backend(dir.path()).await;
        let first = backend.own_key().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{first}\n"));
        assert_eq!(backend.own_key().await.unwrap(), first);
        fs::remove_file(&path).unwrap();
        let second = backend.own_key().await.unwrap();
        assert_ne!(second, first);
        let id = second.split('_').nth(1).unwrap();
        backend.access.keys().revoke(id, Timestamp::now()).await.unwrap();
        backend.access.forget(id);
        assert_ne!(backend.own_key().await.unwrap(), second);
        assert_eq!(fs::read_dir(dir.path()).unwrap().filter(|it| it.as_ref().unwrap().file_name() == "key").count(), 1);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_key_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        backend(dir.path()).await.own_key().await.unwrap();
        let mode = fs::metadata(dir.path().join("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_stale_announcement_is_gone_once_the_folder_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("server"), "http://127.0.0.1:1").unwrap();
        let backend = backend(dir.path()).await;
        assert!(!dir.path().join("server").exists());
        backend.announce("http://127.0.0.1:2").unwrap();
        assert_eq!(read_line(&dir.path().join("server")).unwrap().unwrap(), "http://127.0.0.1:2");
        backend.withdraw().unwrap();
        assert_eq!(read_line(&dir.path().join("server")).unwrap(), None);
    }

    #[test]
    fn a_setting_that_cannot_be_used_is_named_as_it_was_given() {
        let failure = configured_provider(&Settings::of(&[(batches::config::URL, "provider")]), None).unwrap_err();
        assert!(failure.message.starts_with("MUSTER_LORAWAN_URL must start with http"), "{failure}");
        let failure = configured_shout(&Settings::of(&[(shout::http::FALLBACK, "maybe")])).unwrap_err();
        assert!(failure.message.contains("on or off"), "{failure}");
        assert!(configured_provider(&Settings::of(&[]), None).unwrap().is_none());
        for (name, value, said) in [
            (services::config::URL, "cpx", "MUSTER_CPX_URL must start with http"),
            (services::config::CONCURRENCY, "513", "MUSTER_CPX_CONCURRENCY is \"513\"; it must be a whole number"),
            (services::config::CPU, "ninety", "MUSTER_CPU_THRESHOLD is \"ninety\""),
        ] {
            let failure = configured_services(&Settings::of(&[(name, value)])).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
            assert!(failure.message.starts_with(said), "{failure}");
        }
        for (name, value, said) in [
            (autoscaler::config::URL, "api", "MUSTER_DEPLOYMENTS_URL must start with http"),
            (autoscaler::config::TIMEOUT, "11", "MUSTER_DEPLOYMENTS_TIMEOUT_SECONDS is \"11\"; it must be a number"),
        ] {
            let failure = configured_deployments(&Settings::of(&[(name, value)])).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
            assert!(failure.message.starts_with(said), "{failure}");
        }
        for (name, value, said) in [
            (devices::config::URL, "api", "MUSTER_PACKET_URL must start with http"),
            (devices::config::TIMEOUT, "30", "MUSTER_PACKET_TIMEOUT_SECONDS is \"30\"; it must be a number"),
            (devices::config::SWEEP, "maybe", "MUSTER_PACKET_SWEEP is \"maybe\"; it must be report or delete"),
            (devices::config::TOKEN, "two words", "MUSTER_PACKET_TOKEN"),
        ] {
            let url = (devices::config::URL, if name == devices::config::URL { value } else { "http://127.0.0.1:9" });
            let settings = Settings::of(&[(name, value), url, (devices::config::PROJECT, "p")]);
            let failure = configured_devices(&settings).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
            assert!(failure.message.starts_with(said), "{failure}");
            assert!(name != devices::config::TOKEN || !failure.message.contains("words"), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_webhook_without_a_key_is_refused_with_how_to_make_one() {
        let url = (WEBHOOK_URL, "https://hooks.example/alerts");
        let failure = configured_notifier(&Settings::of(&[url])).await.unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Usage);
        assert!(failure.message.contains(WEBHOOK_URL) && failure.message.contains(WEBHOOK_KEY), "{failure}");
        assert!(failure.hint.unwrap().contains("openssl rand"));
        let key = (WEBHOOK_KEY, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let notifier = configured_notifier(&Settings::of(&[url, key])).await.unwrap();
        assert_eq!(notifier.channels().len(), 1);
        let failure = configured_notifier(&Settings::of(&[url, (WEBHOOK_KEY, "secret")])).await.unwrap_err();
        assert!(failure.message.contains("must be whsec_"), "{failure}");
        let failure = configured_notifier(&Settings::of(&[(WEBHOOK_URL, "hooks.example"), key])).await.unwrap_err();
        assert!(failure.message.starts_with("MUSTER_ALERTS_WEBHOOK_URL must start with http"), "{failure}");
        assert!(configured_notifier(&Settings::of(&[])).await.unwrap().channels().is_empty());
    }
}
