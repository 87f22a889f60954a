//! What all simulators share: listening, connections, counting, cutting answers off, stopping.
//!
//! The one thing to know: a request is worked on in a task of its own. As with a real upstream, a
//! client that goes away stops waiting, but not the work: what it asked for still happens.
//!
//! An upstream is a value that implements [`Upstream`]; [`Simulator`] is the handle on a running
//! one. Everything below `/_sim/` belongs to the handle and is not counted as a request.

use std::{
    collections::BTreeMap,
    error::Error as _,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, BodyStream, Either, Full, LengthLimitError, Limited, StreamBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::call::{Answer, Call, Cut};

/// Loopback and a port of the system's choice: where simulators listen unless told otherwise.
pub const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How long [`Simulator::stop`] lets requests that are being worked on come to their answer.
const GRACE: Duration = Duration::from_secs(2);

/// Above this a request body is answered 413.
const MAX_BODY: usize = 1 << 20;

/// The same for `/_sim/`, where 100,000 deployments may be described at once.
const MAX_CONTROL_BODY: usize = 32 << 20;

/// How many connections may wait to be accepted where there is one at a time: as with Python's
/// `http.server` (its `request_queue_size`).
const SHORT_QUEUE: u32 = 5;

/// One simulated upstream: what it answers and what it remembers.
pub trait Upstream: Send + Sync + 'static {
    /// Its faults; also the JSON of `/_sim/faults`, so unknown fields must be refused.
    type Config: Clone + Serialize + DeserializeOwned + Send;
    /// What it has seen; also the JSON of `/_sim/stats`.
    type Stats: Serialize;

    /// The faults as they are now.
    fn config(&self) -> Self::Config;
    /// Other faults from now on. Requests that are being worked on keep the ones they began with.
    fn set(&self, config: Self::Config);
    /// What it has seen, completed by what the server has counted.
    fn stats(&self, traffic: Traffic) -> Self::Stats;
    /// Answers one request. Always runs to its end, whether or not the client still waits.
    fn answer(&self, call: &mut Call) -> impl Future<Output = Answer> + Send;
    /// A list of its own under `GET /_sim/{name}`.
    fn list(&self, name: &str) -> Option<Value>;

    /// Something of its own that is done by `POST /_sim/{name}`: the answer, or why it was refused.
    fn act(&self, _name: &str, _body: &[u8]) -> Option<Result<Value, String>> {
        None
    }

    /// Why these faults make no sense, in words for whoever set them. Asked before a start and on
    /// `POST /_sim/faults`, for what the types of the fields cannot tell.
    fn check(_config: &Self::Config) -> Result<(), String> {
        Ok(())
    }

    /// Whether it serves as Python's `http.server` does: one connection at a time with one request
    /// on it, answered as HTTP/1.0 without a length and closed; all others wait in a short queue of
    /// the system's, requests for `/_sim/` too. Asked anew for each connection; the length of the
    /// queue follows what it says at the start.
    ///
    /// A client that opens more connections at once than the queue holds is slow: the system drops
    /// what is too much, and the client's tries again after one second, then two, then four.
    fn one_at_a_time(&self) -> bool {
        false
    }
}

/// What the server has counted. `requests` is the sum of the answers, `closed`, `garbage`,
/// `abandoned` and `in_flight`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Requests whose head arrived.
    pub requests: u64,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests that got no answer: the connection was closed or reset.
    pub closed: u64,
    /// Requests that were answered with bytes that are no HTTP.
    pub garbage: u64,
    /// Requests whose client left before there was an answer.
    pub abandoned: u64,
    /// Requests now being worked on, from their arrival to their answer. One whose client has left
    /// counts until its work is done; one that hangs counts until its client leaves.
    pub in_flight: usize,
    /// The most there ever were of those.
    pub max_in_flight: usize,
}

impl Traffic {
    /// How many requests were answered with `status`.
    pub fn answers(&self, status: u16) -> u64 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It would be an open door on the network.
    #[error("simulators listen on loopback addresses only (127.0.0.1 or ::1), not on {0}")]
    NotLoopback(IpAddr),
    /// The port is taken, or the address is none of this machine.
    #[error("cannot listen on {at}: {source}")]
    Bind {
        /// Where.
        at: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The faults make no sense.
    #[error("{0}")]
    Config(String),
}

/// A running simulator. Dropping it ends it at once, [`stop`](Self::stop) in good order.
#[derive(Debug)]
pub struct Simulator<U: Upstream> {
    shared: Arc<Shared<U>>,
    at: SocketAddr,
    url: String,
}

#[derive(Debug)]
struct Shared<U> {
    upstream: U,
    traffic: Arc<Mutex<Traffic>>,
    tasks: TaskTracker,
    /// No more connections; requests that have arrived are still answered. Child of `killed`.
    stopping: CancellationToken,
    /// Everything ends where it is.
    killed: CancellationToken,
    /// Held by the request that is worked on where there is one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl<U: Upstream> Simulator<U> {
    pub(crate) async fn start(at: SocketAddr, upstream: U) -> Result<Self, StartError> {
        if !at.ip().is_loopback() {
            return Err(StartError::NotLoopback(at.ip()));
        }
        U::check(&upstream.config()).map_err(StartError::Config)?;
        let refused = |source| StartError::Bind { at, source };
        let listener = if upstream.one_at_a_time() { listen_shortly(at) } else { TcpListener::bind(at).await };
        let listener = listener.map_err(refused)?;
        let at = listener.local_addr().map_err(refused)?;
        let killed = CancellationToken::new();
        let shared = Arc::new(Shared {
            upstream,
            traffic: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: killed.child_token(),
            killed,
            turn: Arc::default(),
        });
        shared.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, at, url: format!("http://{at}") })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.at
    }

    /// What it has seen so far: the same as `GET /_sim/stats`.
    pub fn stats(&self) -> U::Stats {
        self.shared.stats()
    }

    /// The faults as they are now.
    pub fn config(&self) -> U::Config {
        self.shared.upstream.config()
    }

    /// Other faults from now on. Requests that are being worked on keep the ones they began with.
    pub fn set(&self, config: U::Config) {
        self.shared.upstream.set(config);
    }

    /// Changes some faults and leaves the others: `sim.change(|config| config.error_rate = 0.5)`.
    pub fn change(&self, change: impl FnOnce(&mut U::Config)) {
        let mut config = self.config();
        change(&mut config);
        self.set(config);
    }

    /// Takes no more connections, lets what is being worked on come to its answer (for 2 seconds at
    /// most; what hangs is cut off), and tells what was seen.
    pub async fn stop(self) -> U::Stats {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(GRACE, self.shared.tasks.wait()).await.is_err() {
            self.shared.killed.cancel();
            self.shared.tasks.wait().await;
        }
        self.stats()
    }

    pub(crate) fn upstream(&self) -> &U {
        &self.shared.upstream
    }
}

impl<U: Upstream> Drop for Simulator<U> {
    fn drop(&mut self) {
        self.shared.killed.cancel();
    }
}

impl<U: Upstream> Shared<U> {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let killed = self.killed.clone();
        self.tasks.spawn(async move {
            killed.run_until_cancelled_owned(task).await;
        });
    }

    fn stats(&self) -> U::Stats {
        let traffic = locked(&self.traffic).clone();
        self.upstream.stats(traffic)
    }
}

/// What `TcpListener::bind` does, but with a short queue.
fn listen_shortly(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // On Windows this would let others listen on the same port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(SHORT_QUEUE)
}

async fn accept<U: Upstream>(listener: TcpListener, shared: Arc<Shared<U>>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if shared.upstream.one_at_a_time() => {
                serve(stream, Arc::clone(&shared), true).await;
                // A client that has left does not end the work it asked for.
                drop(shared.turn.lock().await);
            }
            Ok((stream, _)) => shared.spawn(serve(stream, Arc::clone(&shared), false)),
            Err(error) => {
                // Out of file descriptors, most likely: others must close some first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// One connection. The handler's `Err(Cut)` makes hyper stop without a word and hand the socket
/// back, which is then closed, reset or written to.
async fn serve<U: Upstream>(stream: TcpStream, shared: Arc<Shared<U>>, alone: bool) {
    // Without this an answer in two segments waits for the client's delayed ACK.
    _ = stream.set_nodelay(true);
    let service = service_fn(|request| Box::pin(handle(Arc::clone(&shared), request, alone)));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = shared.stopping.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    let mut stream = connection.into_parts().io.into_inner();
    let Err(error) = ended else { return };
    match error.source().and_then(|source| source.downcast_ref::<Cut>()) {
        Some(Cut::Reset) => _ = stream.set_zero_linger(),
        Some(Cut::Garbage(bytes)) => _ = stream.write_all(bytes).await,
        Some(Cut::Close) => {}
        None => tracing::debug!(%error, "a connection ended early"),
    }
}

async fn handle<U: Upstream>(
    shared: Arc<Shared<U>>,
    request: Request<Incoming>,
    alone: bool,
) -> Result<Response<Body>, Cut> {
    let arrived = Instant::now();
    let turn = if alone { Some(Arc::clone(&shared.turn).lock_owned().await) } else { None };
    let respond = |answer| respond(answer, alone);
    let (head, body) = request.into_parts();
    if let Some(name) = head.uri.path().strip_prefix("/_sim/") {
        let body = read(body, MAX_CONTROL_BODY).await;
        return respond(body.map_or_else(|refused| refused, |body| control(&shared, &head.method, name, &body)));
    }

    let flight = Flight::begin(&shared.traffic);
    let body = match read(body, MAX_BODY).await {
        Ok(body) => body,
        Err(refused) => {
            flight.end(&refused);
            return respond(refused);
        }
    };
    let (reply, answer) = oneshot::channel();
    let mut call = Call { head, body, in_flight: flight.number, arrived, reply, stopping: shared.stopping.clone() };
    let work = Arc::clone(&shared);
    shared.spawn(async move {
        let _turn = turn;
        let answer = work.upstream.answer(&mut call).await;
        tracing::debug!(method = %call.head.method, uri = %call.head.uri, ?answer, "answered");
        // Ended before the client can know: its next request must not find this one in flight.
        if call.client_is_gone() {
            drop(flight);
        } else {
            flight.end(&answer);
        }
        _ = call.reply.send(answer);
    });
    // No answer: the work panicked or the simulator was dropped.
    respond(answer.await.unwrap_or(Answer::Cut(Cut::Close)))
}

/// A body with its length, or, as HTTP/1.0 began, one without, which ends with its connection.
type Body = Either<Full<Bytes>, StreamBody<BodyStream<Full<Bytes>>>>;

fn respond(answer: Answer, alone: bool) -> Result<Response<Body>, Cut> {
    match answer {
        Answer::Http(mut response) if alone => {
            *response.version_mut() = Version::HTTP_10;
            Ok(response.map(|body| Either::Right(StreamBody::new(BodyStream::new(body)))))
        }
        Answer::Http(response) => Ok(response.map(Either::Left)),
        Answer::Cut(cut) => Err(cut),
    }
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, Answer> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Answer::empty(StatusCode::PAYLOAD_TOO_LARGE)),
        Err(_) => Err(Answer::Cut(Cut::Close)),
    }
}

/// `/_sim/…`: looking at and changing the simulator itself.
fn control<U: Upstream>(shared: &Shared<U>, method: &Method, name: &str, body: &[u8]) -> Answer {
    if *method == Method::POST
        && let Some(answer) = shared.upstream.act(name, body)
    {
        return done(answer);
    }
    match (name, method) {
        ("stats", &Method::GET) => Answer::json(StatusCode::OK, &shared.stats()),
        ("faults", &Method::GET) => Answer::json(StatusCode::OK, &shared.upstream.config()),
        ("faults", &Method::POST) => done(change_faults(&shared.upstream, body)),
        ("faults", _) => Answer::not_allowed(&Method::POST),
        (name, method) => match shared.upstream.list(name) {
            Some(list) if method == Method::GET => Answer::json(StatusCode::OK, &list),
            None if name != "stats" => Answer::empty(StatusCode::NOT_FOUND),
            _ => Answer::not_allowed(&Method::GET),
        },
    }
}

fn done(answer: Result<impl Serialize, String>) -> Answer {
    match answer {
        Ok(answer) => Answer::json(StatusCode::OK, &answer),
        Err(message) => Answer::json(StatusCode::BAD_REQUEST, &serde_json::json!({ "message": message })),
    }
}

fn change_faults<U: Upstream>(upstream: &U, body: &[u8]) -> Result<U::Config, String> {
    let read = || -> serde_json::Result<U::Config> {
        let changes: serde_json::Map<String, Value> = serde_json::from_slice(body)?;
        let mut config = serde_json::to_value(upstream.config())?;
        if let Value::Object(fields) = &mut config {
            fields.extend(changes);
        }
        serde_json::from_value(config)
    };
    let config = read().map_err(|error| error.to_string())?;
    U::check(&config)?;
    upstream.set(config.clone());
    Ok(config)
}

/// One request in flight; counted as abandoned unless it is [ended](Self::end).
struct Flight {
    traffic: Arc<Mutex<Traffic>>,
    number: usize,
    ended: bool,
}

impl Flight {
    fn begin(traffic: &Arc<Mutex<Traffic>>) -> Self {
        let mut counts = locked(traffic);
        counts.requests += 1;
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        Self { traffic: Arc::clone(traffic), number: counts.in_flight, ended: false }
    }

    fn end(mut self, answer: &Answer) {
        self.ended = true;
        let mut counts = locked(&self.traffic);
        match answer {
            Answer::Http(response) => {
                *counts.by_status.entry(response.status().as_u16()).or_default() += 1;
            }
            Answer::Cut(Cut::Garbage(_)) => counts.garbage += 1,
            Answer::Cut(Cut::Close | Cut::Reset) => counts.closed += 1,
        }
        counts.in_flight -= 1;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.ended {
            let mut counts = locked(&self.traffic);
            counts.abandoned += 1;
            counts.in_flight -= 1;
        }
    }
}

/// Locks what a panic elsewhere cannot have left half done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
