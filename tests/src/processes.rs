//! The real `muster` as processes on a machine of their own: a home, a state folder and an
//! environment in which nothing is set but what a test sets.
//!
//! A process writes its output into files, so nothing that it says can make it wait, and it is
//! killed when its [`Running`] is dropped. Every wait here ends in time, in success or in a panic
//! that shows what the process had said.
//!
//! The binary is the one beside the test executable: `cargo build -p muster` (or a build of the
//! whole workspace) makes it, and where there is none it is built once. It is **not** built again
//! because a source has changed.

// A failure in here is a test's finding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use simulators::lorawan;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long a command may take: far longer than any does.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(2);

/// What starts a server on a free port of loopback.
pub const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// The `muster` binary.
pub fn muster() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let folder = test.parent().and_then(Path::parent).unwrap();
        let path = folder.join(format!("muster{}", std::env::consts::EXE_SUFFIX));
        if !path.exists() {
            let mut build = std::process::Command::new(env!("CARGO"));
            build.args(["build", "-p", "muster"]);
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "cargo build -p muster");
        }
        assert!(path.exists(), "no {}; cargo build -p muster makes it", path.display());
        path
    })
}

/// Waits until `look` finds something, for `patience` at most.
pub async fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < patience, "waited {patience:?} in vain for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Where commands run: a home with a state folder, and an environment.
#[derive(Debug)]
pub struct Machine {
    home: TempDir,
    environment: Vec<(String, String)>,
    started: AtomicUsize,
}

impl Machine {
    /// A machine on which nothing is set and nothing was ever run.
    pub fn new() -> Self {
        let home = tempfile::Builder::new().prefix("muster-test-").tempdir().unwrap();
        Self { home, environment: Vec::new(), started: AtomicUsize::new(0) }
    }

    /// The same, with `sim` for a provider whose requests are given up after `timeout`.
    pub fn with_provider(sim: &lorawan::Simulator, timeout: Duration) -> Self {
        Self::new()
            .with(batches::config::URL, sim.url())
            .with(batches::config::TIMEOUT, &timeout.as_secs_f64().to_string())
    }

    /// The same machine with one more variable in its environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A folder that is this machine's alone.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The state folder. It is there once a command has needed it.
    pub fn state(&self) -> PathBuf {
        self.home().join("state/muster")
    }

    /// A command that is ready to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(muster());
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home())
            .env("XDG_STATE_HOME", self.home().join("state"))
            .env("XDG_CONFIG_HOME", self.home().join("config"))
            .env("TMPDIR", self.home())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts a command.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(self.command(args))
    }

    /// Starts a [`command`](Self::command) of this machine that has been changed.
    pub fn start_with(&self, mut command: Command) -> Running {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.home().join(format!("{number}.{name}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let what = format!("{:?}", command.as_std().get_args().collect::<Vec<_>>());
        Running { child: command.spawn().unwrap(), what, stdout, stderr }
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.start(args).ended().await
    }

    /// Runs a command to its end with `input` as its standard input.
    pub async fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        let path = self.home().join("input");
        fs::write(&path, input).unwrap();
        let mut command = self.command(args);
        command.stdin(File::open(&path).unwrap());
        self.start_with(command).ended().await
    }

    /// Starts a server on the state folder, and waits until it listens.
    pub async fn serve(&self) -> Server {
        self.served(self.start(&SERVE)).await
    }

    /// Waits until a server that has been started listens.
    pub async fn served(&self, mut running: Running) -> Server {
        let url = running.first_line().await;
        let key = fs::read_to_string(self.state().join("key")).unwrap().trim().to_owned();
        Server::new(running, url, key)
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// A process.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// The exit status, if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the first line of its standard output.
    pub async fn first_line(&mut self) -> String {
        let began = Instant::now();
        loop {
            if let Some((line, _)) = self.stdout().split_once('\n') {
                return line.to_owned();
            }
            let ended = self.status();
            assert!(ended.is_none(), "{} ended with {ended:?} without a line", self.what);
            assert!(began.elapsed() < PATIENCE, "{} says nothing", self.what);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it where it is, as `kill -9` does.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends a signal, such as `INT`.
    pub async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap_or_else(|| panic!("{} has ended", self.what)).to_string();
        // The shell's own `kill`, which every system has.
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status().await.unwrap();
        assert!(sent.success(), "kill -s {name} {pid}");
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ran {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{} does not end", self.what)).unwrap();
        let ran = Ran { what: self.what.clone(), code: status.code(), stdout: self.stdout(), stderr: self.stderr() };
        assert!(!ran.stderr.contains("panicked at"), "{ran:?}");
        ran
    }
}

impl Drop for Running {
    /// The child is killed by its own drop.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(&self.stderr).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(30).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            eprintln!("--- the last that {} said:\n{}\n---", self.what, last.join("\n"));
        }
    }
}

/// A process that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its arguments.
    pub what: String,
    /// The exit code; none after a signal that was not handled.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// Fails where the exit code is another.
    #[must_use]
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Fails where the exit code is none of these.
    #[must_use]
    #[track_caller]
    pub fn exits_with_one_of(self, codes: &[i32]) -> Self {
        assert!(self.code.is_some_and(|code| codes.contains(&code)), "{self:#?}");
        self
    }

    /// Fails unless it failed with this code, printed no data, and said each of `words`.
    #[track_caller]
    pub fn refuses(self, code: i32, words: &[&str]) {
        let this = self.exits(code);
        assert_eq!(this.stdout, "", "{this:#?}");
        for word in words {
            assert!(this.stderr.contains(word), "it does not say {word:?}: {this:#?}");
        }
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The lines of its standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// A `muster serve` that listens, and a client of it.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub running: Running,
    /// Its base URL.
    pub url: String,
    key: String,
    client: reqwest::Client,
}

impl Server {
    /// The server at `url`, called with `key`.
    pub fn new(running: Running, url: String, key: String) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { running, url, key, client }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>, prefer: &str) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let mut request = request.bearer_auth(&self.key).header("prefer", prefer);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Creates a batch; its id.
    pub async fn create(&self, size: u64) -> String {
        let body = json!({ "batch_size": size });
        let (status, batch) = self.send(Method::POST, "/api/v1/batches", Some(&body), "").await;
        assert_eq!(status, 201, "{batch}");
        batch["id"].as_str().unwrap().to_owned()
    }

    /// A batch as it is now.
    pub async fn batch(&self, id: &str) -> Value {
        self.look(id, "").await
    }

    async fn look(&self, id: &str, prefer: &str) -> Value {
        let (status, batch) = self.send(Method::GET, &format!("/api/v1/batches/{id}"), None, prefer).await;
        assert_eq!(status, 200, "{batch}");
        batch
    }

    /// A batch once it is final.
    pub async fn finished(&self, id: &str) -> Value {
        let began = Instant::now();
        loop {
            let batch = self.look(id, "wait=5").await;
            if !matches!(batch["status"].as_str(), Some("Processing" | "Cancelling")) {
                return batch;
            }
            assert!(began.elapsed() < PATIENCE, "not finished in time: {batch}");
        }
    }
}

/// The texts of a list.
pub fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    list.iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// The equation, for completed batches that had the provider to themselves.
///
/// Everything that the provider registered is in exactly one answer; what an answer holds beyond is
/// listed as `recovered`; each batch has exactly its size, and no short code twice; and never were
/// more than ten requests in flight.
#[track_caller]
pub fn assert_nothing_wasted(batches: &[Value], sim: &lorawan::Simulator) {
    let registered = sim.registered();
    let mut answered = BTreeSet::new();
    for batch in batches {
        assert_eq!(batch["status"], "Completed", "{batch}");
        let (deveuis, recovered) = (texts(&batch["deveuis"]), texts(&batch["recovered"]));
        assert_eq!(deveuis.len() as u64, batch["batch_size"].as_u64().unwrap(), "exactly its size");
        assert_eq!(batch["registered"].as_u64().unwrap(), deveuis.len() as u64, "the count is that of the list");
        let codes: BTreeSet<&str> = deveuis.iter().map(|deveui| &deveui[11..]).collect();
        assert_eq!(codes.len(), deveuis.len(), "short codes are unique");
        let recovered: BTreeSet<String> = recovered.into_iter().collect();
        let all: BTreeSet<String> = deveuis.into_iter().chain(recovered.iter().cloned()).collect();
        for deveui in all {
            assert!(
                registered.contains(&deveui) || recovered.contains(&deveui),
                "{deveui} is not registered, and not listed as recovered"
            );
            assert!(answered.insert(deveui.clone()), "{deveui} is in two answers");
        }
    }
    let forgotten: Vec<_> = registered.difference(&answered).collect();
    assert!(forgotten.is_empty(), "registered and in no answer: {forgotten:?}");
    let most = sim.stats().traffic.max_in_flight;
    assert!(most <= 10, "{most} requests were in flight at once");
    assert!(most > 1, "the limit was never put to the test");
}
