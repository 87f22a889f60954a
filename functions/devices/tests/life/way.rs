//! The way of a worker's requests to the vendor. Things go wrong on it that are no fault of either: a
//! request to create is carried out long after its client has given up, or once more; and a worker dies
//! between what it has written and what it asks for, or before it hears the answer.
//!
//! It is also where every request to create is held against the record, at the moment when it is sent.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use devices::{
    device::{Claim, Stage},
    store::DeviceStore,
};
use jiff::{SignedDuration, Timestamp};
use kit::clock::Clock;
use rand::{Rng as _, rngs::StdRng};
use serde_json::Value;
use simulators::packet;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::common::owner;

/// A request to create, and what became of it.
#[derive(Debug)]
struct Sent {
    /// For which device.
    device: Uuid,
    /// Of which plan, and in which facility.
    place: (String, String),
    /// Its attempt, and the claim that was written before it.
    under: (u32, Claim),
    /// When the vendor got it: never, once or twice.
    arrived: Vec<Timestamp>,
}

/// Where a machine comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The number of its request.
    pub request: usize,
    /// The attempt that the request was sent for.
    pub attempt: u32,
    /// Whether the vendor had got the request before.
    pub again: bool,
}

/// How often a request to create is lost for a while, or comes once more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mishaps {
    /// It is not answered, and carried out later: before the end of its claim.
    pub late: f64,
    /// It is carried out, answered or not, and carried out once more later, unless all is settled by then.
    pub again: f64,
}

/// A late request comes so many seconds after it was sent, at most: before the end of its claim.
const LATEST: i64 = 11;

/// When a worker dies.
#[derive(Debug, Clone, Copy)]
pub struct Doom {
    /// Only a request to create counts.
    pub at_create: bool,
    /// At this one, counted down from the first.
    pub nth: u32,
    /// Whether it dies before the vendor has got the request, or after that.
    pub before: bool,
}

/// What all ways of one world have in common.
#[derive(Debug)]
pub struct Ways {
    vendor: SocketAddr,
    store: DeviceStore,
    clock: Clock,
    mishaps: Mishaps,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    sent: Vec<Sent>,
    /// What is still on its way: when it arrives, and which of `sent` it is.
    late: Vec<(Timestamp, usize, Vec<u8>)>,
    /// Devices of requests that are late, until somebody asks.
    unsure: Vec<Uuid>,
    counts: Counts,
    wrong: Vec<String>,
}

/// What went wrong how often.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub late: u32,
    pub again: u32,
    /// Workers that died before a request to create was sent, and before they heard the answer.
    pub unsent: u32,
    pub unheard: u32,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.late += other.late;
        self.again += other.again;
        self.unsent += other.unsent;
        self.unheard += other.unheard;
    }
}

impl Ways {
    /// Ways to the vendor at `vendor`, whose requests to create are compared with `store`.
    pub fn new(vendor: SocketAddr, store: DeviceStore, clock: Clock, mishaps: Mishaps, rng: StdRng) -> Arc<Self> {
        let state = State {
            rng,
            sent: Vec::new(),
            late: Vec::new(),
            unsure: Vec::new(),
            counts: Counts::default(),
            wrong: Vec::new(),
        };
        Arc::new(Self { vendor, store, clock, mishaps, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What was asked for though it should not have been.
    pub fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    /// When the next late request arrives.
    pub fn next_arrival(&self) -> Option<Timestamp> {
        self.state().late.iter().map(|(at, ..)| *at).min()
    }

    /// The devices for which a request has become late since the last call.
    pub fn unsure(&self) -> Vec<Uuid> {
        std::mem::take(&mut self.state().unsure)
    }

    /// Lets arrive what is due.
    pub async fn arrive(&self) {
        let now = self.clock.now();
        let due: Vec<_> = self.state().late.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, number, request) in due {
            let (device, again) = {
                let state = self.state();
                (state.sent[number].device, !state.sent[number].arrived.is_empty())
            };
            if again {
                // What comes after all has been settled, only a sweep can see.
                let record = self.store.device(device).await.unwrap().unwrap();
                if record.state().is_settled() {
                    continue;
                }
                self.state().counts.again += 1;
            }
            let mut vendor = Wire::to(self.vendor).await.unwrap();
            self.state().sent[number].arrived.push(now);
            vendor.stream.write_all(&request).await.unwrap();
            // Nobody hears the answer, if there is one.
            _ = vendor.message().await;
        }
    }

    /// Where a machine comes from.
    pub fn origin(&self, machine: &packet::Device) -> Option<Origin> {
        let state = self.state();
        state.sent.iter().enumerate().find_map(|(request, sent)| {
            let (plan, facility) = &sent.place;
            if (Some(sent.device), plan, facility) != (owner(machine), &machine.plan, &machine.facility) {
                return None;
            }
            let nth = sent.arrived.iter().position(|at| *at == machine.created_at)?;
            Some(Origin { request, attempt: sent.under.0, again: nth > 0 })
        })
    }

    /// What went wrong how often.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Notes a request to create. Answers its number, unless it should not have been sent.
    async fn check(&self, request: &[u8]) -> Option<usize> {
        match self.known(request).await {
            Ok(sent) => {
                let mut state = self.state();
                state.sent.push(sent);
                Some(state.sent.len() - 1)
            }
            Err(wrong) => {
                self.state().wrong.push(wrong);
                None
            }
        }
    }

    /// Whether a request is late. Otherwise it arrives now.
    fn is_late(&self, number: usize, request: &[u8]) -> bool {
        let (mut state, now) = (self.state(), self.clock.now());
        let late = state.rng.random_bool(self.mishaps.late);
        if late {
            state.counts.late += 1;
            let device = state.sent[number].device;
            state.unsure.push(device);
            state.postpone(now, number, request);
        } else {
            state.sent[number].arrived.push(now);
        }
        late
    }

    /// It has been answered, and may come again.
    fn repeat(&self, number: usize, request: &[u8]) {
        let mut state = self.state();
        if state.rng.random_bool(self.mishaps.again) {
            let now = self.clock.now();
            state.postpone(now, number, request);
        }
    }

    /// Holds a request to create against the record: its intent is written, the right to send it is
    /// claimed, and nobody has used that right before.
    async fn known(&self, request: &[u8]) -> Result<Sent, String> {
        let body = request.windows(4).position(|it| it == b"\r\n\r\n").map_or(&[][..], |at| &request[at + 4..]);
        let body: Value = serde_json::from_slice(body).map_err(|error| format!("{error}: {body:?}"))?;
        let mut tags = body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let id: Option<Uuid> = tags.find_map(|tag| tag.strip_prefix("muster:")?.parse().ok());
        let id = id.ok_or_else(|| format!("no tag of ours: {body}"))?;
        let device = self.store.device(id).await.map_err(|error| error.to_string())?;
        let device = device.ok_or_else(|| format!("{id} has no record"))?;
        let (Stage::Creating { claim, .. }, Some(attempt)) = (&device.stage, &device.attempt) else {
            return Err(format!("a machine is asked for, and that is not in the record: {device:#?}"));
        };
        let wanted = &attempt.candidate;
        let same = [("plan", &wanted.plan), ("operating_system", &wanted.os), ("facility", &wanted.facility)]
            .iter()
            .all(|(name, value)| body[*name] == **value);
        if !same || attempt.ended_at.is_some() {
            return Err(format!("another one is asked for than is in the record: {body} {device:#?}"));
        }
        if claim.by.is_nil() || self.clock.now() >= claim.until {
            return Err(format!("nobody may ask for it now: {device:#?}"));
        }
        let under = (attempt.number, *claim);
        if self.state().sent.iter().any(|sent| sent.device == id && sent.under == under) {
            return Err(format!("a right to ask once was used twice: {device:#?}"));
        }
        let place = (attempt.candidate.plan.clone(), attempt.candidate.facility.clone());
        Ok(Sent { device: id, place, under, arrived: Vec::new() })
    }
}

impl State {
    fn postpone(&mut self, now: Timestamp, number: usize, request: &[u8]) {
        let at = now + SignedDuration::from_secs(self.rng.random_range(1..=LATEST));
        self.late.push((at, number, request.to_vec()));
    }
}

/// The way of one worker.
#[derive(Debug)]
pub struct Way {
    url: String,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    ways: Arc<Ways>,
    doom: Mutex<Option<Doom>>,
    dead: Notify,
}

impl Way {
    /// Another way.
    pub async fn new(ways: &Arc<Ways>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { ways: Arc::clone(ways), doom: Mutex::default(), dead: Notify::new() });
        let (tasks, closed) = (TaskTracker::new(), CancellationToken::new());
        let (served, carried, closing) = (Arc::clone(&shared), tasks.clone(), closed.clone());
        tasks.spawn(async move {
            while let Some(Ok((client, _))) = closing.run_until_cancelled(listener.accept()).await {
                let shared = Arc::clone(&served);
                // A connection that ends in the middle is one of the misfortunes.
                carried.spawn(async move { _ = shared.carry(client).await });
            }
        });
        Self { url, shared, tasks, closed }
    }

    /// Where it begins.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the worker will die of, if anything.
    pub fn set_doom(&self, doom: Option<Doom>) {
        *self.shared.doom.lock().unwrap() = doom;
    }

    /// Waits for its death.
    pub async fn death(&self) {
        self.shared.dead.notified().await;
    }

    /// Waits until all that a worker has sent, which is no more, has arrived.
    pub async fn end(self) {
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Shared {
    /// Whether the worker dies of this request: before, or after the vendor gets it.
    fn kills(&self, creates: bool) -> Option<bool> {
        let mut doom = self.doom.lock().unwrap();
        let it = doom.as_mut().filter(|it| creates || !it.at_create)?;
        it.nth = it.nth.saturating_sub(1);
        let before = (it.nth == 0).then_some(it.before)?;
        *doom = None;
        Some(before)
    }

    /// Carries the requests of one connection, and their answers.
    async fn carry(&self, client: TcpStream) -> io::Result<()> {
        let (mut client, mut vendor) = (Wire::new(client), None);
        while let Some(request) = client.message().await? {
            let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let creates = line.starts_with(b"POST ") && line.ends_with(b"/devices HTTP/1.1");
            let kills = self.kills(creates);
            if let (Some(before), true) = (kills, creates) {
                let counts = &mut self.ways.state().counts;
                *(if before { &mut counts.unsent } else { &mut counts.unheard }) += 1;
            }
            if kills == Some(true) {
                self.dead.notify_one();
                return Ok(());
            }
            let number = if creates { self.ways.check(&request).await } else { None };
            if let Some(number) = number
                && self.ways.is_late(number, &request)
            {
                if kills.is_some() {
                    self.dead.notify_one();
                }
                return Ok(());
            }
            let vendor = match &mut vendor {
                Some(vendor) => vendor,
                none => none.insert(Wire::to(self.ways.vendor).await?),
            };
            vendor.stream.write_all(&request).await?;
            // What it cuts off is cut off here, too.
            let answer = vendor.message().await?;
            if let Some(number) = number
                && answer.as_ref().is_none_or(|answer| is_made_or_unknown(answer))
            {
                self.ways.repeat(number, &request);
            }
            if kills.is_some() {
                self.dead.notify_one();
                return Ok(());
            }
            let Some(answer) = answer else { return Ok(()) };
            client.stream.write_all(&answer).await?;
        }
        Ok(())
    }
}

/// One end of a connection, on which whole messages come.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    async fn to(vendor: SocketAddr) -> io::Result<Self> {
        Ok(Self::new(TcpStream::connect(vendor).await?))
    }

    /// The next request or answer; none where the connection has been closed.
    async fn message(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = length(&self.read).filter(|length| *length <= self.read.len()) {
                let rest = self.read.split_off(length);
                return Ok(Some(std::mem::replace(&mut self.read, rest)));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Whether an answer says that a machine was made, or does not say that none was.
fn is_made_or_unknown(answer: &[u8]) -> bool {
    [b"201", b"502", b"504"].iter().any(|status| answer[b"HTTP/1.1 ".len()..].starts_with(*status))
}

/// How long a message is, as soon as its head is there.
fn length(message: &[u8]) -> Option<usize> {
    let head = message.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let lines = std::str::from_utf8(&message[..head]).unwrap().lines();
    let value =
        lines.filter_map(|line| line.split_once(": ")).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Some(head + value.map_or(0, |(_, value)| value.parse::<usize>().unwrap()))
}
