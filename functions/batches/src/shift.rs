//! One stretch of work under one lease.
//!
//! One loop owns all state; requests and store calls are futures beside it that end in an event. So
//! there are no locks, and what may happen at the same time is easy to see: at most ten requests,
//! at most one chunk write for each batch, at most one call each for the lease and the list.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use kit::{
    dynamo::StoreError,
    metrics::{self, Metric, Unit},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    batch::{Batch, BatchError, Progress, Status},
    provider::{Pace, Reply},
    run::{Ask, Run, StoredChunk, Verdict},
    store::{ChunkError, Lease, Pending},
    throttle::Throttle,
    worker::{Ended, Worker, instant_now, signed},
};

/// The provider throttles more than this many requests in flight.
const MOST_IN_FLIGHT: usize = 10;
/// Batches worked on at once, and of one tenant. The others wait their turn in the store.
const MOST_JOBS: usize = 64;
const MOST_JOBS_PER_TENANT: usize = 8;

/// What all batches' counts grew by, as it was stored.
const REGISTERED: Metric = Metric::total("DevEuisRegistered", Unit::Count);
const CONFLICTS: Metric = Metric::total("DevEuiConflicts", Unit::Count);
const RECOVERED: Metric = Metric::total("DevEuisRecovered", Unit::Count);
/// The most requests that occupied the provider at once.
const IN_FLIGHT: Metric = Metric::highest("RequestsInFlight", Unit::Count);

/// A batch in work, and what is going on for it.
struct Job {
    run: Run,
    pending: Pending,
    fails_at: Timestamp,
    last_error: Option<String>,
    reported: (Progress, Option<String>),
    report_at: Instant,
    reporting: bool,
    finishing: bool,
    finish_after: Option<Instant>,
    fetching: bool,
}

/// Tells a batch taken up again from its earlier self, whose events may still come.
type Serial = u64;

enum Event {
    Answered { job: Serial, ask: Ask, reply: Reply },
    Written { job: Serial, number: u64, result: Result<u64, ChunkError> },
    Reported { job: Serial, what: (Progress, Option<String>), result: Result<(), StoreError> },
    Finished { job: Serial, result: Result<bool, StoreError> },
    Checked { job: Serial, result: Result<Option<Batch>, BatchError> },
    Fetched { job: Serial, number: u64, result: Result<Option<StoredChunk>, BatchError> },
    Listed(Result<Vec<Pending>, StoreError>),
    Loaded { pending: Pending, result: Result<Option<(Batch, Vec<StoredChunk>)>, BatchError> },
    Leased { asked_at: Instant, until: Timestamp, result: Result<Lease, StoreError> },
    Dropped,
}

/// One stretch of work under one lease.
#[allow(clippy::struct_excessive_bools, reason = "each says whether one call is under way")]
pub(crate) struct Shift<'a> {
    worker: &'a Worker,
    name: String,
    owner: Uuid,
    stop: &'a CancellationToken,
    events: FuturesUnordered<BoxFuture<'a, Event>>,
    jobs: BTreeMap<Serial, Job>,
    next_serial: Serial,
    /// Whose turn it is: tenants, and within each its batches.
    turns: VecDeque<(String, VecDeque<Serial>)>,
    in_flight: usize,
    throttle: Throttle,
    rng: SmallRng,
    /// By two clocks: one that cannot be set, and one that goes on while the machine is suspended.
    lease_until: (Instant, Timestamp),
    renew_at: Instant,
    renewing: bool,
    lost: bool,
    refresh_at: Instant,
    listing: bool,
    loading: HashSet<Uuid>,
    /// Cannot be worked on, and need not be read again and again.
    damaged: HashSet<Uuid>,
    nothing_pending: bool,
    stopping_since: Option<Instant>,
}

impl<'a> Shift<'a> {
    /// A shift of `worker`, as `owner` of the lease of `name` until then by both clocks.
    pub(crate) fn new(
        worker: &'a Worker,
        name: String,
        owner: Uuid,
        lease_until: (Instant, Timestamp),
        stop: &'a CancellationToken,
    ) -> Self {
        let now = instant_now();
        let timing = &worker.timing;
        Self {
            worker,
            name,
            owner,
            stop,
            events: FuturesUnordered::new(),
            jobs: BTreeMap::new(),
            next_serial: 0,
            turns: VecDeque::new(),
            in_flight: 0,
            throttle: Throttle::new(MOST_IN_FLIGHT, timing.retry_base, timing.retry_most),
            rng: SmallRng::from_os_rng(),
            lease_until,
            renew_at: now + timing.slack / 3,
            renewing: false,
            lost: false,
            refresh_at: now,
            listing: false,
            loading: HashSet::new(),
            damaged: HashSet::new(),
            nothing_pending: false,
            stopping_since: None,
        }
    }

    /// Works until nothing is pending, the lease is lost, or it is told to stop.
    pub(crate) async fn run(&mut self) -> Ended {
        loop {
            let now = instant_now();
            if self.stopping_since.is_none() && (self.stop.is_cancelled() || self.lost) {
                self.stopping_since = Some(now);
                self.jobs.values_mut().for_each(|job| job.run.pause(now));
            }
            self.renew(now);
            self.refresh(now);
            self.tend_jobs(now);
            self.send(now);
            if let Some(ended) = self.ended(now) {
                return ended;
            }
            let until = self.next_timer(now);
            tokio::select! {
                Some(event) = self.events.next() => self.handle(event),
                () = tokio::time::sleep_until(until.into()) => {}
                () = self.worker.wake.notified(), if self.stopping_since.is_none() => self.refresh_at = instant_now(),
                () = self.stop.cancelled(), if self.stopping_since.is_none() => {}
            }
        }
    }

    fn begin(&mut self, future: impl Future<Output = Event> + Send + 'a) {
        self.events.push(Box::pin(future));
    }

    fn renew(&mut self, now: Instant) {
        if self.renewing || self.lost || now < self.renew_at {
            return;
        }
        self.renewing = true;
        let (worker, name, owner) = (self.worker, self.name.clone(), self.owner);
        self.begin(async move {
            let wall = worker.clock.now();
            let until = wall + signed(worker.timing.lease);
            Event::Leased { asked_at: now, until, result: worker.store.lease(&name, owner, wall, until).await }
        });
    }

    /// Whether a request that leaves now is over before anybody else may send.
    fn may_send(&self, now: Instant) -> bool {
        let needed = self.worker.provider.occupies() + self.worker.timing.slack / 4;
        let (until, until_wall) = self.lease_until;
        !self.lost && now + needed < until && self.worker.clock.now() + signed(needed) < until_wall
    }

    fn refresh(&mut self, now: Instant) {
        if self.listing || self.stopping_since.is_some() || now < self.refresh_at {
            return;
        }
        self.listing = true;
        self.refresh_at = now + self.worker.timing.refresh;
        let (worker, name) = (self.worker, self.name.clone());
        self.begin(async move { Event::Listed(worker.store.pending(&name, MOST_JOBS_PER_TENANT, MOST_JOBS).await) });
    }

    /// Begins for every batch what is due: a write, a report, its end.
    fn tend_jobs(&mut self, now: Instant) {
        let (worker, owner) = (self.worker, self.owner);
        let wall = worker.clock.now();
        let stopping = self.stopping_since.is_some();
        let mut begun: Vec<BoxFuture<'a, Event>> = Vec::new();
        for (&serial, job) in &mut self.jobs {
            let id = job.run.id;
            if job.finishing {
                continue;
            }
            if wall >= job.fails_at {
                job.run.time_up(now);
            }
            if let Some(write) = job.run.write(now) {
                begun.push(Box::pin(async move {
                    let number = write.chunk.number();
                    Event::Written { job: serial, number, result: worker.store.put_chunk(id, &write, owner).await }
                }));
            }
            if !job.fetching
                && let Some(number) = job.run.wants_chunk()
            {
                job.fetching = true;
                begun.push(Box::pin(async move {
                    Event::Fetched { job: serial, number, result: worker.store.chunk(id, number).await }
                }));
            }
            let verdict = job.run.verdict(now);
            if verdict == Verdict::GoOn {
                let what = (job.run.progress(), job.last_error.clone());
                let due = now >= job.report_at || (stopping && job.run.in_flight() == 0);
                if due && !job.reporting && what != job.reported {
                    job.reporting = true;
                    job.report_at = now + worker.timing.report;
                    let tenant = job.run.tenant.clone();
                    begun.push(Box::pin(async move {
                        let result = worker.store.progress(&tenant, id, what.0, what.1.as_deref(), wall).await;
                        Event::Reported { job: serial, what, result }
                    }));
                }
            } else if job.finish_after.is_none_or(|after| now >= after) {
                job.finishing = true;
                let (step, reason) = conclusion(verdict, &job.run, job.last_error.as_deref());
                let (progress, pending, name) = (job.run.progress(), job.pending.clone(), self.name.clone());
                begun.push(Box::pin(async move {
                    let result = worker.store.finish(&pending, &name, step, progress, reason.as_deref(), wall).await;
                    Event::Finished { job: serial, result }
                }));
            }
        }
        self.events.extend(begun);
    }

    fn send(&mut self, now: Instant) {
        while self.throttle.room(self.in_flight, now) > 0 && self.may_send(now) {
            let Some((job, ask)) = self.next_ask(now) else { return };
            self.in_flight += 1;
            metrics::process().record(IN_FLIGHT, self.in_flight as u64);
            let worker = self.worker;
            self.begin(async move { Event::Answered { job, ask, reply: worker.provider.register(ask.deveui).await } });
        }
    }

    /// The next request, tenant by tenant and within each batch by batch.
    fn next_ask(&mut self, now: Instant) -> Option<(Serial, Ask)> {
        for _ in 0..self.turns.len() {
            self.turns.rotate_left(1);
            let Some((_, batches)) = self.turns.back_mut() else { continue };
            for _ in 0..batches.len() {
                batches.rotate_left(1);
                let Some(serial) = batches.back().copied() else { continue };
                if let Some(ask) = self.jobs.get_mut(&serial).and_then(|job| job.run.ask(now)) {
                    return Some((serial, ask));
                }
            }
        }
        None
    }

    /// Whether the shift is over.
    fn ended(&self, now: Instant) -> Option<Ended> {
        if let Some(since) = self.stopping_since {
            let late = now >= since + self.worker.provider.occupies() + self.worker.timing.stop_grace;
            let busy = |job: &Job| {
                job.finishing
                    || job.reporting
                    || job.run.is_unwritten()
                    || (job.run.progress(), job.last_error.clone()) != job.reported
            };
            // Answers are waited for in any case: each ends by its own timeout.
            let done = self.in_flight == 0 && (late || !self.jobs.values().any(busy));
            let ended = if self.lost { Ended::Held(self.lease_until.1) } else { Ended::Stopped };
            return done.then_some(ended);
        }
        let idle = self.nothing_pending && self.jobs.is_empty() && self.loading.is_empty() && !self.listing;
        // Not yet read again after a wake-up: there may be a new batch.
        (idle && now < self.refresh_at).then_some(Ended::Idle)
    }

    /// When to look again if nothing happens before.
    fn next_timer(&self, now: Instant) -> Instant {
        let jobs = self.jobs.values().filter(|job| !job.finishing).flat_map(|job| {
            let report = (!job.reporting).then_some(job.report_at);
            [job.run.next_retry(), job.run.next_write(), report, job.finish_after]
        });
        jobs.flatten()
            .chain(self.throttle.paused_until(now))
            .chain((!self.renewing).then_some(self.renew_at))
            .chain((!self.listing).then_some(self.refresh_at))
            .filter(|at| *at > now)
            .min()
            .unwrap_or(now + Duration::from_secs(1))
            .min(now + Duration::from_secs(1))
    }

    fn handle(&mut self, event: Event) {
        let now = instant_now();
        match event {
            Event::Answered { job, ask, reply } => self.answered(job, ask, &reply, now),
            Event::Written { job, number, result } => self.written(job, number, result, now),
            Event::Reported { job, what, result } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.reporting = false;
                    match result {
                        Ok(()) => {
                            measure(job.reported.0, what.0);
                            job.reported = what;
                        }
                        Err(error) => {
                            tracing::warn!(%error, batch = %job.run.id, "progress could not be written");
                            job.report_at = now + self.worker.timing.store_retry;
                        }
                    }
                }
            }
            Event::Finished { job, result } => self.finished(job, result, now),
            Event::Checked { job, result } => self.checked(job, result, now),
            Event::Fetched { job, number, result } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.fetching = false;
                    match result {
                        Ok(stored) => job.run.supply(number, stored.map(|stored| stored.chunk).as_ref()),
                        Err(error) => tracing::warn!(%error, batch = %job.run.id, "a chunk could not be read"),
                    }
                }
            }
            Event::Listed(result) => self.listed(result, now),
            Event::Loaded { pending, result } => self.loaded(pending, result, now),
            Event::Leased { asked_at, until, result } => self.leased((asked_at, until), result, now),
            Event::Dropped => {}
        }
    }

    fn answered(&mut self, job: Serial, ask: Ask, reply: &Reply, now: Instant) {
        self.in_flight -= 1;
        match reply.pace {
            Pace::Well => self.throttle.answered(),
            Pace::Throttled(after) => self.throttle.throttled(after, now),
            Pace::Failing(after) => self.throttle.failed(after, now),
        }
        let retry_at = now + self.backoff(ask.attempt);
        if let Some(job) = self.jobs.get_mut(&job) {
            job.run.settle(ask.index, reply.outcome, retry_at, now);
            job.last_error.clone_from(&reply.trouble);
        }
        if self.throttle.is_down() && reply.trouble.is_some() {
            // Batches whose turn does not come because of it should say so as well.
            for job in self.jobs.values_mut() {
                job.last_error.clone_from(&reply.trouble);
            }
        }
    }

    /// Exponential, with jitter over its upper half: retries of one outage do not come back as one.
    fn backoff(&mut self, attempt: u32) -> Duration {
        let timing = &self.worker.timing;
        let full = timing.retry_base.saturating_mul(1 << attempt.min(16)).min(timing.retry_most);
        full.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    fn written(&mut self, serial: Serial, number: u64, result: Result<u64, ChunkError>, now: Instant) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        match result {
            Ok(version) => job.run.written(number, version, now),
            Err(ChunkError::Fenced) => {
                tracing::warn!(batch = %job.run.id, "another worker has written this batch; it is read again");
                // What is in flight is settled by asking again, like after a crash.
                self.forget(serial);
            }
            Err(ChunkError::Store(error)) => {
                tracing::warn!(%error, batch = %job.run.id, "candidates could not be written; nothing new is sent before");
                job.run.not_written(number, now + self.worker.timing.store_retry, now);
            }
        }
    }

    fn finished(&mut self, serial: Serial, result: Result<bool, StoreError>, now: Instant) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        let id = job.run.id;
        match result {
            Ok(true) => {
                tracing::info!(batch = %id, "a batch is final");
                measure(job.reported.0, job.run.progress());
                self.forget(serial);
                self.refresh_at = now;
            }
            Ok(false) => {
                let (worker, tenant) = (self.worker, job.run.tenant.clone());
                self.begin(async move { Event::Checked { job: serial, result: worker.store.get(&tenant, id).await } });
            }
            Err(error) => {
                tracing::warn!(%error, batch = %id, "the end of a batch could not be written");
                job.finishing = false;
                job.finish_after = Some(now + self.worker.timing.store_retry);
            }
        }
    }

    /// The status was not what was expected: it has been cancelled meanwhile, or is final already.
    fn checked(&mut self, serial: Serial, result: Result<Option<Batch>, BatchError>, now: Instant) {
        let Some(job) = self.jobs.get_mut(&serial) else { return };
        match result {
            Ok(Some(batch)) if !batch.status.is_final() => {
                job.finishing = false;
                // Not at once: were the status ever one that this end does not follow from, trying
                // again without a pause would keep the store busy for nothing.
                job.finish_after = Some(now + self.worker.timing.store_retry);
                if batch.status == Status::Cancelling {
                    job.run.cancel(now);
                    job.finish_after = None;
                }
            }
            Ok(_) => {
                let pending = job.pending.clone();
                self.drop_pending(pending);
                self.forget(serial);
                self.refresh_at = now;
            }
            Err(error) => {
                tracing::warn!(%error, batch = %job.run.id, "a batch could not be read");
                job.finishing = false;
                job.finish_after = Some(now + self.worker.timing.store_retry);
            }
        }
    }

    fn drop_pending(&mut self, pending: Pending) {
        let (worker, name) = (self.worker, self.name.clone());
        self.begin(async move {
            if let Err(error) = worker.store.drop_pending(&name, &pending).await {
                tracing::warn!(%error, batch = %pending.id, "a final batch could not be taken off the list");
            }
            Event::Dropped
        });
    }

    fn listed(&mut self, result: Result<Vec<Pending>, StoreError>, now: Instant) {
        self.listing = false;
        let list = match result {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(%error, "the list of batches could not be read");
                self.refresh_at = now + self.worker.timing.store_retry;
                return;
            }
        };
        self.nothing_pending = list.iter().all(|pending| self.damaged.contains(&pending.id));
        for pending in list {
            let id = pending.id;
            if let Some(job) = self.jobs.values_mut().find(|job| job.run.id == id) {
                if pending.cancelling {
                    job.run.cancel(now);
                }
            } else if self.jobs.len() + self.loading.len() < MOST_JOBS
                && !self.damaged.contains(&id)
                && self.loading.insert(id)
            {
                let worker = self.worker;
                self.begin(async move {
                    let result = load(worker, &pending).await;
                    Event::Loaded { pending, result }
                });
            }
        }
    }

    fn loaded(
        &mut self,
        pending: Pending,
        result: Result<Option<(Batch, Vec<StoredChunk>)>, BatchError>,
        now: Instant,
    ) {
        let id = pending.id;
        self.loading.remove(&id);
        match result {
            Ok(Some((batch, chunks))) if !batch.status.is_final() => {
                let mut run = Run::resume(&batch, chunks, now);
                if batch.status == Status::Cancelling {
                    run.cancel(now);
                }
                if self.stopping_since.is_some() {
                    return;
                }
                let serial = self.next_serial;
                self.next_serial += 1;
                match self.turns.iter_mut().find(|(tenant, _)| *tenant == batch.tenant) {
                    Some((_, batches)) => batches.push_back(serial),
                    None => self.turns.push_back((batch.tenant.clone(), VecDeque::from([serial]))),
                }
                let job = Job {
                    reported: (batch.progress, batch.last_error.clone()),
                    last_error: batch.last_error,
                    report_at: now + self.worker.timing.report,
                    fails_at: batch.fails_at,
                    run,
                    pending,
                    reporting: false,
                    finishing: false,
                    finish_after: None,
                    fetching: false,
                };
                self.jobs.insert(serial, job);
            }
            Ok(_) => {
                self.drop_pending(pending);
                self.refresh_at = now;
            }
            Err(BatchError::Store(error)) => {
                tracing::warn!(%error, batch = %id, "a batch could not be read; it is tried again");
            }
            Err(error) => {
                tracing::error!(%error, batch = %id, "a batch cannot be worked on");
                self.damaged.insert(id);
            }
        }
    }

    fn leased(&mut self, (asked_at, until): (Instant, Timestamp), result: Result<Lease, StoreError>, now: Instant) {
        self.renewing = false;
        match result {
            Ok(Lease::Ours) => {
                self.lease_until = (asked_at + self.worker.timing.lease, until);
                self.renew_at = asked_at + self.worker.timing.slack / 3;
            }
            Ok(Lease::Held(until)) => {
                tracing::warn!("another worker has taken the lease");
                self.lost = true;
                self.lease_until.1 = until;
            }
            Err(error) => {
                tracing::warn!(%error, "the lease could not be renewed; nothing is sent once it runs out");
                self.renew_at = now + self.worker.timing.store_retry;
            }
        }
    }

    fn forget(&mut self, serial: Serial) {
        self.jobs.remove(&serial);
        for (_, batches) in &mut self.turns {
            batches.retain(|batch| *batch != serial);
        }
        self.turns.retain(|(_, batches)| !batches.is_empty());
    }
}

/// Measures by how much a batch's stored counts grew. They may also shrink: after a crash what was
/// counted but not written in a chunk is asked for again.
fn measure(before: Progress, now: Progress) {
    let metrics = metrics::process();
    metrics.record(REGISTERED, now.registered.saturating_sub(before.registered));
    metrics.record(CONFLICTS, now.conflicts.saturating_sub(before.conflicts));
    metrics.record(RECOVERED, now.recovered.saturating_sub(before.recovered));
}

async fn load(worker: &Worker, pending: &Pending) -> Result<Option<(Batch, Vec<StoredChunk>)>, BatchError> {
    let Some(batch) = worker.store.get(&pending.tenant, pending.id).await? else { return Ok(None) };
    let chunks = worker.store.chunks(pending.id).await?;
    Ok(Some((batch, chunks)))
}

/// The step in a batch's life that follows from a verdict, and the reason to show.
fn conclusion(verdict: Verdict, run: &Run, last_error: Option<&str>) -> ((Status, Status), Option<String>) {
    match verdict {
        Verdict::Complete | Verdict::GoOn => ((Status::Processing, Status::Completed), None),
        Verdict::Cancelled => ((Status::Cancelling, Status::Cancelled), None),
        Verdict::TimeUp => {
            let mut reason = "it was not complete before its time was up".to_owned();
            if let Some(error) = last_error {
                reason = format!("{reason}: {error}");
            }
            ((Status::Processing, Status::Failed), Some(reason))
        }
        Verdict::Exhausted => {
            let registered = run.progress().registered;
            let reason = format!(
                "all DevEUIs below the prefix have been tried; {registered} could be registered. Use a shorter prefix."
            );
            ((Status::Processing, Status::Failed), Some(reason))
        }
    }
}
