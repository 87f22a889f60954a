//! What is measured, running: `muster serve` and `muster-sim` of the same release build, each a
//! process of its own that ends with its handle.
//!
//! State folders lie in the target folder, not in `/tmp`, which is memory on many machines: a store
//! that need not wait for a disk is faster than any user's.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use kit::dynamo::embedded::{Counts, Embedded};
use muster::{backend::Backend, serve, settings::Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// How long a process may take to say where it listens.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// How long a request may take, the longest wait that the API grants included.
const ANSWERS_WITHIN: Duration = Duration::from_mins(1);
/// The unit of times in `/proc/PID/stat`, which is the same on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Where the programs are and where files may lie.
#[derive(Debug)]
pub struct Bench {
    programs: PathBuf,
    folder: PathBuf,
}

impl Bench {
    /// The programs in the folder of `program`; files go to `bench` in the folder above.
    pub fn beside(program: &Path) -> anyhow::Result<Self> {
        let programs = program.parent().context("a program lies in a folder")?.to_owned();
        let folder = programs.parent().context("a build lies in a target folder")?.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { programs, folder })
    }

    /// For everything that is written.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The upstream `name` that answers after `latency`, with `options` of its own.
    pub async fn simulator(&self, name: &str, latency: Duration, options: &[&str]) -> anyhow::Result<Simulator> {
        let latency_text = format!("{}ms", latency.as_millis());
        let arguments = [&[name, "--latency", &latency_text], options].concat();
        let process = Process::start(self.program("muster-sim").args(arguments)).await?;
        Ok(Simulator { process, http: http_client()?, latency })
    }

    /// A server on a state folder of its own with these settings, and a client that has asked it for
    /// `first`: a connection, and proof that the key counts.
    pub async fn server(&self, settings: &[(&str, &str)], first: &str) -> anyhow::Result<Server> {
        let state = self.state_folder()?;
        let mut command = self.program("muster");
        command.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(state.path());
        command.envs(settings.iter().copied());
        let process = Process::start(&mut command).await?;
        let (url, key) = (process.url.clone(), read_key(state.path())?);
        Server::new(url, key, state, Runs::Outside(process), first).await
    }

    /// A part of the bench in a process of its own, which answers each line with a line.
    pub async fn part(&self, arguments: &[&OsStr]) -> anyhow::Result<Part> {
        Part::start(self.program("bench").args(arguments)).await
    }

    /// A state folder of its own on the disk.
    pub fn state_folder(&self) -> anyhow::Result<TempDir> {
        tempfile::Builder::new()
            .prefix("state-")
            .tempdir_in(&self.folder)
            .with_context(|| format!("cannot make a folder in {}", self.folder.display()))
    }

    /// A program of this build that knows nothing of this user's settings.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(variable);
            }
        }
        command.env_remove("RUST_LOG").env("MUSTER_LOG", "warn").env("XDG_CONFIG_HOME", &self.folder);
        command
    }
}

/// A process that listens, until it is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    url: String,
}

impl Process {
    /// Starts it and reads its address, which ends the first line on its standard output.
    async fn start(command: &mut Command) -> anyhow::Result<Self> {
        let program = Path::new(command.as_std().get_program()).display().to_string();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let out = child.stdout.take().context("standard output is piped")?;
        let mut line = String::new();
        let read = tokio::time::timeout(STARTS_WITHIN, BufReader::new(out).read_line(&mut line)).await;
        read.with_context(|| format!("{program} does not say where it listens"))??;
        let url = line.split_whitespace().last().filter(|word| word.starts_with("http://"));
        let url = url.with_context(|| format!("{program} says {line:?} and no address"))?.to_owned();
        Ok(Self { child, url })
    }
}

/// A file about a process in `/proc`, where the system has that.
fn proc(child: &Child, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{}/{file}", child.id()?)).ok()
}

/// The most memory that a process ever held, in MiB.
fn peak_mib(child: &Child) -> Option<f64> {
    let status = proc(child, "status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u32 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

/// A part of the bench in a process of its own: what it takes of memory and of the processor is not
/// mixed with what the bench does meanwhile.
#[derive(Debug)]
pub struct Part {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Part {
    /// Starts it and waits for its first line, which says that it is ready.
    async fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let questions = child.stdin.take().context("standard input is piped")?;
        let out = child.stdout.take().context("standard output is piped")?;
        let mut part = Self { child, questions, answers: BufReader::new(out).lines() };
        tokio::time::timeout(STARTS_WITHIN, part.answer()).await.context("a part of the bench does not start")??;
        Ok(part)
    }

    async fn answer(&mut self) -> anyhow::Result<String> {
        self.answers.next_line().await?.context("a part of the bench has ended early; see above")
    }

    /// Writes a line and reads the answer.
    pub async fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        self.questions.write_all(format!("{line}\n").as_bytes()).await?;
        tokio::time::timeout(ANSWERS_WITHIN, self.answer()).await.context("a part of the bench does not answer")?
    }

    /// The most memory it ever held, in MiB, on Linux.
    pub fn peak_mib(&self) -> Option<f64> {
        peak_mib(&self.child)
    }

    /// The processor time it has taken, on Linux.
    pub fn processor_time(&self) -> Option<Duration> {
        processor_time(&proc(&self.child, "stat")?)
    }

    /// Ends it in good order.
    pub async fn end(self) -> anyhow::Result<()> {
        let Self { mut child, questions, .. } = self;
        drop(questions);
        let status =
            tokio::time::timeout(ANSWERS_WITHIN, child.wait()).await.context("a part of the bench stays")??;
        if !status.success() {
            bail!("a part of the bench has failed ({status}); see above");
        }
        Ok(())
    }
}

/// An upstream.
#[derive(Debug)]
pub struct Simulator {
    process: Process,
    http: reqwest::Client,
    latency: Duration,
}

/// What an upstream has seen so far.
#[derive(Debug)]
pub struct Stats(Value);

impl Stats {
    /// One of its numbers.
    pub fn count(&self, name: &str) -> anyhow::Result<u64> {
        self.0[name].as_u64().with_context(|| format!("the simulator tells no {name}"))
    }

    /// Its requests, by their kinds.
    pub fn kinds(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        serde_json::from_value(self.0["kinds"].clone()).context("the simulator tells no kinds")
    }
}

impl Simulator {
    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.process.url
    }

    /// After how long it means to answer.
    pub fn latency(&self) -> Duration {
        self.latency
    }

    /// Has it do or change something of its own: `POST /_sim/{name}`.
    pub async fn control(&self, name: &str, body: &Value) -> anyhow::Result<Value> {
        read(self.http.post(format!("{}/_sim/{name}", self.url())).timeout(ANSWERS_WITHIN).json(body)).await
    }

    /// What it has seen.
    pub async fn stats(&self) -> anyhow::Result<Stats> {
        Ok(Stats(self.list("stats").await?))
    }

    /// What it tells under this name: `GET /_sim/{name}`.
    pub async fn list(&self, name: &str) -> anyhow::Result<Value> {
        read(self.http.get(format!("{}/_sim/{name}", self.url())).timeout(ANSWERS_WITHIN)).await
    }
}

/// A server and a client of it.
#[derive(Debug)]
pub struct Server {
    runs: Runs,
    url: String,
    key: String,
    http: reqwest::Client,
    // After the process in the order of ends: it writes until it is gone.
    state: TempDir,
}

#[derive(Debug)]
enum Runs {
    Outside(Process),
    Here { engine: Embedded, stop: CancellationToken, task: JoinHandle<Result<(), muster::exit::Failure>> },
}

impl Server {
    async fn new(url: String, key: String, state: TempDir, runs: Runs, first: &str) -> anyhow::Result<Self> {
        let server = Self { runs, url, key, http: http_client()?, state };
        server.get(first, None).await?;
        Ok(server)
    }

    /// The same server in this process, where what it asks of its store can be counted.
    pub async fn in_this_process(
        bench: &Bench,
        settings: &[(&'static str, &str)],
        first: &str,
    ) -> anyhow::Result<Self> {
        let state = bench.state_folder()?;
        let engine = Embedded::open(state.path())?;
        let settings = Settings::of(settings);
        let stop = CancellationToken::new();
        let backend = Backend::embedded(engine.clone(), state.path()).await?;
        let server = serve::Server::start(backend, &settings, ([127, 0, 0, 1], 0).into(), stop.clone()).await?;
        let (url, key) = (server.url.clone(), read_key(state.path())?);
        let task = tokio::spawn(server.run());
        Self::new(url, key, state, Runs::Here { engine, stop, task }, first).await
    }

    /// A request for `path`, ready to be sent.
    pub fn request(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.key).timeout(ANSWERS_WITHIN)
    }

    /// Asks for `path`; with `wait`, the answer may take that many seconds.
    pub async fn get(&self, path: &str, wait: Option<u64>) -> anyhow::Result<Value> {
        let mut request = self.request(path);
        if let Some(seconds) = wait {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        read(request).await
    }

    /// Sends `body` to `path`.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key);
        read(request.timeout(ANSWERS_WITHIN).json(body)).await
    }

    /// The most memory it ever held, in MiB, if it is a process of its own on Linux.
    pub fn peak_mib(&self) -> Option<f64> {
        let Runs::Outside(process) = &self.runs else { return None };
        peak_mib(&process.child)
    }

    /// The processor time it has taken, if it is a process of its own on Linux.
    pub fn processor_time(&self) -> Option<Duration> {
        let Runs::Outside(process) = &self.runs else { return None };
        processor_time(&proc(&process.child, "stat")?)
    }

    /// What its store has been asked, if it runs in this process.
    pub fn counts(&self) -> Option<Counts> {
        match &self.runs {
            Runs::Here { engine, .. } => Some(engine.counts()),
            Runs::Outside(_) => None,
        }
    }

    /// Ends it in good order. One in another process ends with its handle as well.
    pub async fn stop(self) -> anyhow::Result<()> {
        if let Runs::Here { stop, task, .. } = self.runs {
            stop.cancel();
            task.await??;
        }
        self.state.close()?;
        Ok(())
    }
}

/// The processor time that this process has taken, on Linux.
pub fn own_processor_time() -> Option<Duration> {
    processor_time(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// The processor time that `/proc/PID/stat` tells.
fn processor_time(stat: &str) -> Option<Duration> {
    // The name, which may contain anything, is in parentheses; state is the first field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = |field| fields.split_whitespace().nth(field)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

async fn read(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().await?;
    if !status.is_success() {
        bail!("{url} answers {status}: {body}");
    }
    serde_json::from_str(&body).with_context(|| format!("{url} answers no JSON"))
}

fn read_key(state: &Path) -> anyhow::Result<String> {
    let path = state.join("key");
    let key = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(key.trim().to_owned())
}

/// A client for this machine alone.
pub fn http_client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().tls_certs_only([]).tcp_nodelay(true).build()?)
}

/// The first line that a program prints, if it ends well.
pub fn line_of(program: &str, arguments: &[impl AsRef<OsStr>]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}
