//! The Lambda Runtime API over loopback, and a function's real `bootstrap` behind it.
//!
//! A [`Function`] is what Lambda calls an execution environment: one process that asks for one event
//! at a time. Lambda's side of the protocol is served here as documented; the process cannot tell
//! the difference. It is killed when its `Function` is dropped.
//!
//! Protocol: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpListener,
    process::Command,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

/// Lambda's limit of a function's answer, in bytes.
const MAX_RESPONSE: usize = 6 * 1024 * 1024;

/// How long after its deadline an invocation is waited for. Lambda kills at once; a slow machine
/// deserves a clearer failure.
const GRACE: Duration = Duration::from_secs(5);

/// What came of an invocation.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The function's answer.
    Response(Value),
    /// The invocation failed: `{errorType, errorMessage}`. Behind a load balancer, a 502.
    Error(Value),
}

impl Outcome {
    /// The answer; panics with the error where there is none.
    ///
    /// # Panics
    /// On [`Outcome::Error`]: in a test that is the finding.
    #[track_caller]
    pub fn response(self) -> Value {
        match self {
            Self::Response(value) => value,
            Self::Error(error) => panic!("the invocation failed: {error}"),
        }
    }
}

/// A running function.
pub struct Function {
    pid: u32,
    api: Arc<Api>,
    events: mpsc::Sender<Event>,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// The server, the process and the readers of its output; they end with the `Function`.
    _tasks: JoinSet<()>,
}

/// An event on its way to the process.
struct Event {
    request_id: String,
    trace_id: String,
    deadline: Timestamp,
    payload: Value,
}

/// What the Runtime API's handlers share.
struct Api {
    queue: tokio::sync::Mutex<mpsc::Receiver<Event>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    init_error: Mutex<Option<Value>>,
    log: Mutex<String>,
}

impl Function {
    /// Starts `bootstrap` as Lambda would, with the variables of `environment` besides Lambda's own
    /// (but for `_HANDLER`, see [`Packaged::start`]), and with nothing of this process's environment
    /// but the search path.
    pub async fn start(bootstrap: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (events, queue) = mpsc::channel(64);
        let api = Arc::new(Api {
            queue: tokio::sync::Mutex::new(queue),
            waiting: Mutex::default(),
            init_error: Mutex::default(),
            log: Mutex::default(),
        });
        let name = bootstrap.file_name().unwrap_or_default();
        let mut process = Command::new(bootstrap)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/test")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/21/[$LATEST]0")
            .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
            .env("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("TZ", ":UTC")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", bootstrap.display()))?;
        let pid = process.id().context("the process ended at once")?;

        let mut tasks = JoinSet::new();
        if let Some(output) = process.stdout.take() {
            tasks.spawn(keep(output, Arc::clone(&api)));
        }
        if let Some(output) = process.stderr.take() {
            tasks.spawn(keep(output, Arc::clone(&api)));
        }
        let (ended, exit) = watch::channel(None);
        tasks.spawn(async move {
            if let Ok(status) = process.wait().await {
                ended.send_replace(Some(status));
            }
        });
        let router = router(Arc::clone(&api));
        tasks.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { pid, api, events, exit, _tasks: tasks })
    }

    /// Hands the process one event and waits for what comes of it. The event's deadline is
    /// `time` from now.
    ///
    /// Fails where the process ends, or stays silent past its deadline.
    pub async fn invoke(&self, event: &Value, time: Duration) -> anyhow::Result<Outcome> {
        let request_id = uuid::Uuid::now_v7().to_string();
        let (sender, outcome) = oneshot::channel();
        lock(&self.api.waiting).insert(request_id.clone(), sender);
        let event = Event {
            trace_id: format!("Root=1-{:08x}-{}", Timestamp::now().as_second(), &request_id.replace('-', "")[8..]),
            request_id,
            deadline: Timestamp::now() + time,
            payload: event.clone(),
        };
        self.events.send(event).await.context("the Runtime API is gone")?;
        let mut exit = self.exit.clone();
        tokio::select! {
            outcome = outcome => outcome.context("the Runtime API is gone"),
            Ok(status) = exit.wait_for(Option::is_some) => bail!("the process ended: {:?}\n{}", *status, self.log()),
            () = tokio::time::sleep(time + GRACE) => bail!("no outcome in time\n{}", self.log()),
        }
    }

    /// The process's id, which stays the same for as long as it lives.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process that was started still runs.
    pub fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Waits for the process to end by itself, as one does whose cold start fails.
    pub async fn ended(&self) -> anyhow::Result<ExitStatus> {
        let mut exit = self.exit.clone();
        let status = *exit.wait_for(Option::is_some).await?;
        status.context("the process has not ended")
    }

    /// What the process reported as the failure of its cold start.
    pub fn init_error(&self) -> Option<Value> {
        lock(&self.api.init_error).clone()
    }

    /// What the process has written to standard output and standard error, in lines.
    pub fn log(&self) -> String {
        lock(&self.api.log).clone()
    }
}

/// A test that panicked while it held one of these locks has left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(output: impl AsyncRead + Unpin, api: Arc<Api>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = lock(&api.log);
        log.push_str(&line);
        log.push('\n');
    }
}

fn router(api: Arc<Api>) -> Router {
    let routes = Router::new()
        .route("/invocation/next", get(next))
        .route("/invocation/{request_id}/response", post(response))
        .route("/invocation/{request_id}/error", post(error))
        .route("/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(MAX_RESPONSE))
        .with_state(api);
    Router::new().nest("/2018-06-01/runtime", routes)
}

/// Holds the question until there is an event: a sandbox without work is frozen here.
async fn next(State(api): State<Arc<Api>>) -> Response {
    let Some(event) = api.queue.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let headers = [
        ("Lambda-Runtime-Aws-Request-Id", event.request_id),
        ("Lambda-Runtime-Deadline-Ms", event.deadline.as_millisecond().to_string()),
        ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:test:live".to_owned()),
        ("Lambda-Runtime-Trace-Id", event.trace_id),
    ];
    (headers, Json(event.payload)).into_response()
}

async fn response(State(api): State<Arc<Api>>, UrlPath(request_id): UrlPath<String>, body: Bytes) -> StatusCode {
    match serde_json::from_slice(&body) {
        Ok(answer) => api.settle(&request_id, Outcome::Response(answer)),
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

async fn error(State(api): State<Arc<Api>>, UrlPath(request_id): UrlPath<String>, body: Bytes) -> StatusCode {
    api.settle(&request_id, Outcome::Error(any_json(&body)))
}

async fn init_error(State(api): State<Arc<Api>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut error = any_json(&body);
    if let (Value::Object(error), Some(kind)) = (&mut error, headers.get("lambda-runtime-function-error-type")) {
        error.insert("functionErrorType".to_owned(), json!(kind.to_str().unwrap_or_default()));
    }
    *lock(&api.init_error) = Some(error);
    StatusCode::ACCEPTED
}

/// The body as JSON, or as a string where it is none.
fn any_json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| json!(String::from_utf8_lossy(body)))
}

impl Api {
    fn settle(&self, request_id: &str, outcome: Outcome) -> StatusCode {
        match lock(&self.waiting).remove(request_id) {
            Some(waiting) => {
                // Nobody waits any more where the test has given up; that is its own failure.
                let _ = waiting.send(outcome);
                StatusCode::ACCEPTED
            }
            None => StatusCode::BAD_REQUEST,
        }
    }
}

/// A function of the stack, as `scripts/package` packs it for this machine.
#[derive(Debug, Clone)]
pub struct Packaged {
    /// Its package's binary.
    pub bootstrap: PathBuf,
    /// The handler in its configuration, by which the binary knows which function it is.
    pub handler: String,
}

impl Packaged {
    /// Starts it, see [`Function::start`].
    pub async fn start(&self, environment: &[(&str, &str)]) -> anyhow::Result<Function> {
        let handler = ("_HANDLER", self.handler.as_str());
        Function::start(&self.bootstrap, &[&[handler], environment].concat()).await
    }
}

/// The functions of `infra/functions.json`, by name.
///
/// `MUSTER_BOOTSTRAP_DIR` is a folder that holds `<package>/bootstrap`. Where it is not set they are
/// packaged first, which takes minutes after a change.
pub async fn packaged() -> anyhow::Result<HashMap<String, Packaged>> {
    let folder = match std::env::var_os("MUSTER_BOOTSTRAP_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => package().await?,
    };
    let stack: Value = serde_json::from_str(include_str!("../../infra/functions.json"))?;
    let functions = stack["functions"].as_array().context("infra/functions.json has no functions")?;
    functions.iter().map(|function| find(&folder, function)).collect()
}

/// Packages them and gives back the folder that they are in.
async fn package() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Not where scripts/package leaves what is to be deployed, which may be for another architecture.
    let folder = root.join("target/native");
    let mut script = Command::new(root.join("scripts/package"));
    script.args(["--arch", "native", "--out"]).arg(&folder).stdin(Stdio::null()).stdout(Stdio::null());
    if !script.status().await.context("could not run scripts/package")?.success() {
        bail!("scripts/package failed");
    }
    Ok(folder)
}

fn find(folder: &Path, function: &Value) -> anyhow::Result<(String, Packaged)> {
    let text = |field: &str| function[field].as_str().with_context(|| format!("no {field}: {function}"));
    let path = folder.join(text("package")?).join("bootstrap");
    let bootstrap =
        path.canonicalize().with_context(|| format!("{} is not there: run scripts/package", path.display()))?;
    // As infra/functions.tf has it.
    Ok((text("name")?.to_owned(), Packaged { bootstrap, handler: text("kind")?.to_owned() }))
}
