//! The DynamoDB API inside this process: SQLite behind the real SDK, and no port.
//!
//! [`Embedded`] owns the database (crate `dynoxide`). Its stores are ordinary [`Store`]s whose SDK
//! client hands every HTTP request to [`connector`] instead of a socket; [`operations`] runs it.
//! [`Embedded::open`] takes a state folder for this process alone ([`folder`]); [`faults`] makes a
//! store misbehave for tests, and [`used`] notes what a store would need permission for.
//!
//! **Durability:** an answer means that SQLite has committed, in WAL mode and with `synchronous =
//! FULL`, its default, which dynoxide leaves alone. A kill or a power cut after the answer loses
//! nothing. `tests/embedded.rs` proves both.

mod connector;
mod faults;
mod folder;
mod operations;
mod used;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dynoxide::Database;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use faults::Faults;
pub use used::Used;

use super::Store;
use operations::{Answer, Usage};

/// Requests that may wait for the database on a thread of their own. One works, the others are
/// ready to go on the moment it is done.
const WAITING_THREADS: usize = 3;

/// A database in this process. Clones share it; the folder's lock is held until the last clone,
/// the last store and the last running request are gone.
#[derive(Clone)]
pub struct Embedded(Arc<Engine>);

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process owns the folder, for as long as it lives.
    #[error("{} is in use by {}", .dir.display(), owner(*.pid))]
    Locked {
        /// The owner, if it has left its number.
        pid: Option<u32>,
        /// The folder.
        dir: PathBuf,
    },
    /// The folder or a file in it cannot be made, read or written.
    #[error("cannot use {}: {source}", .path.display())]
    Io {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not a database of ours, or one of a newer version.
    #[error("cannot open the database {}: {reason}", .path.display())]
    Database {
        /// The file, or `:memory:`.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("the process {pid}"))
}

/// What has been asked of the database since it was opened, by stores of this process.
/// (Requests through [`Embedded::serve`] are not counted.)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items asked for: one per GetItem, Query and Scan, one per key of the batch operations.
    pub reads: u64,
    /// Items written or checked, whether or not the condition held, as DynamoDB bills them: one
    /// per single write, one per item of TransactWriteItems and BatchWriteItem.
    pub writes: u64,
    /// Requests by operation, for example `"PutItem"`.
    pub calls: BTreeMap<String, u64>,
}

impl Counts {
    /// What was added after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |operation: &String| earlier.calls.get(operation).copied().unwrap_or_default();
        Self {
            reads: self.reads - earlier.reads,
            writes: self.writes - earlier.writes,
            calls: (self.calls.iter())
                .map(|(operation, count)| (operation.clone(), count - before(operation)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

impl Embedded {
    /// A database that lives as long as its handles. Requests run on the caller's thread, so that
    /// tests with paused time see no time pass.
    pub fn memory() -> Result<Self, OpenError> {
        let path = PathBuf::from(":memory:");
        let database = Database::memory().map_err(|error| unusable(path, &error))?;
        Ok(Self::new(database, None))
    }

    /// The database `dir/muster.db`. Makes the folder (0700) and the file (0600) where they are
    /// missing, and takes `dir/lock` for this process.
    ///
    /// Blocks while the file is opened, a few milliseconds.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let lock = folder::lock(dir)?;
        let path = folder::database_file(dir)?;
        let database = Database::new(&path.to_string_lossy()).map_err(|error| unusable(path, &error))?;
        folder::sync(dir)?;
        Ok(Self::new(database, Some(lock)))
    }

    fn new(database: Database, lock: Option<File>) -> Self {
        Self(Arc::new(Engine {
            database,
            turns: lock.is_some().then(|| Semaphore::new(WAITING_THREADS)),
            counts: Mutex::default(),
            away: AtomicBool::new(false),
            _lock: lock,
        }))
    }

    /// A store on this database. Nothing is asked twice and nothing times out, because nothing can
    /// get lost on the way.
    pub fn store(&self, prefix: &str) -> Store {
        Store::new(connector::client(self.clone(), None, None), prefix)
    }

    /// A store on this database whose requests fail, or lose their answers, as `faults` says.
    pub fn store_with_faults(&self, prefix: &str, faults: Faults) -> Store {
        Store::new(connector::client(self.clone(), Some(faults), None), prefix)
    }

    /// A store on this database, and the record of what it is used for.
    pub fn store_with_record(&self, prefix: &str) -> (Store, Used) {
        let used = Used::new(prefix);
        (Store::new(connector::client(self.clone(), None, Some(used.clone())), prefix), used)
    }

    /// Cuts every store of this database off (`true`) or lets them back (`false`): requests fail
    /// with a connection error and do nothing.
    pub fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    /// What has been asked so far.
    pub fn counts(&self) -> Counts {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deletes the items whose expiry has passed, as DynamoDB does by itself. Returns how many.
    pub async fn sweep_expired(&self) -> Result<usize, OpenError> {
        let engine = Arc::clone(&self.0);
        let swept = tokio::task::spawn_blocking(move || engine.database.sweep_ttl()).await;
        let failed = |reason: String| OpenError::Database { path: PathBuf::from("muster.db"), reason };
        swept.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }

    /// Serves the DynamoDB API on a loopback `listener` until `shutdown`, for tests with several
    /// processes. Whoever reaches the port can read and write everything.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            let message = format!("refusing to serve the store on {address}, which others can reach");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        dynoxide::server::serve_with_shutdown(listener, self.0.database.clone(), shutdown)
            .await
            .map_err(io::Error::other)
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("in_memory", &self.0.turns.is_none()).finish_non_exhaustive()
    }
}

/// Fields are dropped in this order: the lock goes after the database is closed.
struct Engine {
    database: Database,
    /// Turns at a database in a file. A database in memory answers faster than a thread wakes up.
    turns: Option<Semaphore>,
    counts: Mutex<Counts>,
    away: AtomicBool,
    _lock: Option<File>,
}

impl Engine {
    fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }

    /// Runs one request to its end, even if nobody waits for it any more.
    async fn run(self: Arc<Self>, operation: String, body: Vec<u8>) -> Answer {
        let Some(turns) = &self.turns else {
            return self.run_here(&operation, &body);
        };
        // Never closed, so there always is a permit; without one it would only be less fair.
        let turn = turns.acquire().await.ok();
        let engine = Arc::clone(&self);
        // On a thread, because a commit waits for the disk. The engine travels along, so that the
        // folder stays locked until the write is over.
        let ran = tokio::task::spawn_blocking(move || engine.run_here(&operation, &body)).await;
        drop(turn);
        ran.unwrap_or_else(|error| Answer::failed(&error))
    }

    fn run_here(&self, operation: &str, body: &[u8]) -> Answer {
        let (answer, usage) = operations::run(&self.database, operation, body);
        self.count(operation, usage);
        answer
    }

    fn count(&self, operation: &str, usage: Usage) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.reads += usage.reads;
        counts.writes += usage.writes;
        *counts.calls.entry(operation.to_owned()).or_default() += 1;
    }
}

fn unusable(path: PathBuf, error: &dynoxide::DynoxideError) -> OpenError {
    OpenError::Database { path, reason: error.to_string() }
}
