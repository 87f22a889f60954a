//! The worker: takes every device that there is something to do for as far as it goes at present, and
//! leaves all of it such that the next worker can go on.
//!
//! What is to be done is the [`machine`](crate::machine)'s business. Here is when: a device is taken
//! further as soon as it is due, up to [`AT_ONCE`] requests at once, of which launches have half, so
//! that a storm of them does not blind those who watch. Many devices are watched with one listing
//! instead of a request each.

mod perform;
mod sweep;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kit::{
    clock::Clock,
    dynamo::{Store, StoreError},
    metrics::{self, Metric, Unit},
};
use rand::Rng as _;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    device::{Device, Stage, State},
    machine::{Action, Ctx, Effects, Next, apply, next},
    seal::Sealer,
    store::{DeviceStore, Lease},
    supply::Supply,
    vendor::{Seen, Vendor, VendorError},
};

/// Most requests to the vendor at once.
pub const AT_ONCE: usize = 64;
/// The longest time between two looks at a device.
pub const POLL: Duration = Duration::from_secs(5);
/// A look is so much earlier: what follows from it takes a while with a thousand devices; and by chance,
/// so that many processes do not look at the same moment.
const JITTER_MS: std::ops::Range<i64> = 1000..2000;
/// From so many on that are due together, one listing is asked for instead of each.
const CENSUS: usize = 8;
/// Those that are due so soon are looked at with the others.
const CENSUS_WITH: SignedDuration = SignedDuration::from_secs(2);
/// Most devices that are worked on; the others wait in the list, the oldest first.
const MOST: usize = 10_000;
/// How long a worker that says nothing keeps others out.
const LEASE: SignedDuration = SignedDuration::from_secs(15);
/// A claim outlives its request by so much: clocks differ, and writing takes a while.
const CLAIM_SLACK: SignedDuration = SignedDuration::from_secs(10);
/// Between the end of a look and the next one there is at least so much time.
const SHORTEST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
/// Pause after the store has failed.
const STORE_PAUSE: SignedDuration = SignedDuration::from_secs(1);

const CAME_UP: Metric = Metric::total("DevicesUp", Unit::Count);
const FAILED: Metric = Metric::total("DevicesFailed", Unit::Count);
const ATTEMPTS_FAILED: Metric = Metric::total("DeviceAttemptsFailed", Unit::Count);
const OVERDUE: Metric = Metric::highest("DeviceTeardownsOverdue", Unit::Count);

/// Works on the devices of one project.
#[derive(Debug, Clone)]
pub struct Worker {
    store: DeviceStore,
    supply: Supply,
    sealer: Sealer,
    clock: Clock,
    wake: Arc<Notify>,
    deletes_orphans: bool,
    dead_mans_switch: bool,
    alone: bool,
    me: Uuid,
    permits: Arc<Permits>,
    swept: Arc<Mutex<Option<Timestamp>>>,
}

#[derive(Debug)]
struct Permits {
    launching: Semaphore,
    watching: Semaphore,
    writing: Semaphore,
}

/// What an action needs one of a limited number of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Launching,
    Watching,
}

impl Lane {
    /// That of an action; none where a listing that is there already says it all.
    const fn of(action: Action, counted: bool) -> Option<Self> {
        match action {
            Action::Select | Action::Claim | Action::Create | Action::LookUp => Some(Self::Launching),
            Action::Observe if counted => None,
            _ => Some(Self::Watching),
        }
    }
}

/// How a stretch of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There is nothing to do.
    Idle,
    /// It was told to stop; the next worker goes on.
    Stopped,
    /// Somebody else works, at least until then.
    Held(Timestamp),
}

/// A device that is worked on.
#[derive(Debug)]
struct Slot {
    /// As last written; none if it must be read.
    device: Option<Device>,
    revision: u64,
    due: Timestamp,
    busy: bool,
}

/// All machines of ours, by device.
type Census = Result<HashMap<Uuid, Vec<Seen>>, VendorError>;

/// What a task has done.
#[derive(Debug)]
enum Done {
    Driven { id: Uuid, device: Option<Box<Device>>, due: Option<Timestamp> },
    Counted { ids: Vec<Uuid>, at: Timestamp, census: Arc<Census> },
    Swept,
}

/// The devices that are worked on.
#[derive(Debug, Default)]
struct Shift {
    slots: HashMap<Uuid, Slot>,
    tasks: JoinSet<Done>,
    stop: CancellationToken,
}

impl Worker {
    /// A worker on `store` for what `supply` offers. `wake` tells it in this process of new work.
    pub fn new(supply: Supply, store: Store, sealer: Sealer, clock: Clock, wake: Arc<Notify>) -> Self {
        Self {
            store: DeviceStore::new(store),
            supply,
            sealer,
            clock,
            wake,
            deletes_orphans: false,
            dead_mans_switch: true,
            alone: false,
            me: Uuid::now_v7(),
            permits: Arc::new(Permits {
                launching: Semaphore::new(AT_ONCE / 2),
                watching: Semaphore::new(AT_ONCE / 2),
                writing: Semaphore::new(AT_ONCE),
            }),
            swept: Arc::default(),
        }
    }

    /// Whether machines with our tag that no record knows are deleted, and not only reported.
    #[must_use]
    pub fn deletes_orphans(mut self, deletes: bool) -> Self {
        self.deletes_orphans = deletes;
        self
    }

    /// Whether machines that are not up yet have a termination time at the vendor.
    #[must_use]
    pub fn dead_mans_switch(mut self, on: bool) -> Self {
        self.dead_mans_switch = on;
        self
    }

    /// Nobody else works on this store: there is no lease to wait for that a process which was killed
    /// has left.
    #[must_use]
    pub fn alone(mut self, alone: bool) -> Self {
        self.alone = alone;
        self
    }

    fn vendor(&self) -> &Vendor {
        self.supply.vendor()
    }

    /// Works until there is nothing to do or `stop` is cancelled. On `stop` nothing new is begun.
    pub async fn work(&self, stop: &CancellationToken) -> Result<Ended, StoreError> {
        self.sweep_if_due().await;
        // Without work no lease is taken: an idle worker writes nothing.
        if self.store.work().await?.is_empty() {
            return Ok(Ended::Idle);
        }
        if let Lease::Held(until) = self.renew().await? {
            return Ok(Ended::Held(until));
        }
        let ended = self.watch(stop).await;
        if !self.alone
            && let Err(error) = self.store.release(self.me).await
        {
            tracing::warn!(%error, "the worker's lease could not be given back; it will expire");
        }
        ended
    }

    async fn renew(&self) -> Result<Lease, StoreError> {
        if self.alone {
            return Ok(Lease::Ours);
        }
        let now = self.clock.now();
        self.store.lease(self.me, now, now + LEASE).await
    }

    async fn watch(&self, stop: &CancellationToken) -> Result<Ended, StoreError> {
        let mut shift = Shift { stop: stop.clone(), ..Shift::default() };
        let poll = SignedDuration::try_from(POLL).unwrap_or_default();
        let (mut list_at, mut renew_at) = (self.clock.now(), self.clock.now() + LEASE / 3);
        loop {
            let now = self.clock.now();
            if now >= renew_at {
                if let Lease::Held(until) = self.renew().await? {
                    shift.finish(self).await;
                    return Ok(Ended::Held(until));
                }
                renew_at = now + LEASE / 3;
                let worker = self.clone();
                shift.tasks.spawn(async move {
                    worker.sweep_if_due().await;
                    Done::Swept
                });
            }
            if now >= list_at {
                self.refresh(&mut shift).await?;
                list_at = now + poll;
                if shift.slots.is_empty() {
                    return Ok(Ended::Idle);
                }
            }
            self.start_due(&mut shift);
            let first = shift.slots.values().filter(|slot| !slot.busy).map(|slot| slot.due).min();
            let until = first.unwrap_or(list_at).min(list_at).min(renew_at);
            let pause = Duration::try_from(until.duration_since(self.clock.now())).unwrap_or_default();
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    shift.finish(self).await;
                    return Ok(Ended::Stopped);
                }
                Some(done) = shift.tasks.join_next() => {
                    let mut done = Some(done);
                    while let Some(one) = done {
                        if let Ok(one) = one {
                            shift.settle(self, one);
                        }
                        done = shift.tasks.try_join_next();
                    }
                    shift.forget_busy(self.clock.now());
                }
                () = self.wake.notified() => list_at = now,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Works whenever there is something to do, until `stop` is cancelled.
    pub async fn work_forever(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let pause = match self.work(stop).await {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Idle) => Duration::from_mins(1),
                Ok(Ended::Held(until)) => {
                    let left = Duration::try_from(until.duration_since(self.clock.now())).unwrap_or_default();
                    (left + Duration::from_millis(20)).min(Duration::from_secs(1))
                }
                Err(error) => {
                    tracing::warn!(%error, "the devices' worker could not go on");
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the list again: new ones come in, those that somebody has changed are read anew.
    async fn refresh(&self, shift: &mut Shift) -> Result<(), StoreError> {
        let now = self.clock.now();
        let work = self.store.work().await?;
        let stages = shift.slots.values().filter_map(|slot| slot.device.as_ref()).map(|device| &device.stage);
        let overdue = stages.filter(|stage| matches!(stage, Stage::Deleting { overdue: true, .. })).count();
        metrics::process().record(OVERDUE, overdue as u64);
        let listed: std::collections::HashSet<Uuid> = work.iter().map(|work| work.id).collect();
        shift.slots.retain(|id, slot| slot.busy || listed.contains(id));
        for work in work {
            if shift.slots.len() >= MOST && !shift.slots.contains_key(&work.id) {
                continue;
            }
            let slot = shift.slots.entry(work.id).or_insert_with(|| Slot {
                device: None,
                revision: work.revision,
                due: now,
                busy: false,
            });
            if work.revision > slot.revision {
                slot.revision = work.revision;
                if !slot.busy {
                    (slot.device, slot.due) = (None, now);
                }
            }
        }
        Ok(())
    }

    /// Starts whatever is due.
    fn start_due(&self, shift: &mut Shift) {
        let now = self.clock.now();
        let due = |slot: &Slot, by: Timestamp| !slot.busy && slot.due <= by;
        let watched = |slot: &Slot| {
            let stage = slot.device.as_ref().map(|device| &device.stage);
            matches!(stage, Some(Stage::Provisioning | Stage::Deleting { .. }))
        };
        let watch = shift.slots.values().filter(|slot| watched(slot));
        let (some, soon) = watch.fold((false, 0), |(some, soon), slot| {
            (some || due(slot, now), soon + usize::from(due(slot, now + CENSUS_WITH)))
        });
        let together = some && soon >= CENSUS;
        let mut counted = Vec::new();
        let mut alone = Vec::new();
        for (id, slot) in &mut shift.slots {
            if together && watched(slot) && due(slot, now + CENSUS_WITH) {
                counted.push(*id);
            } else if due(slot, now) {
                alone.push((*id, slot.device.take()));
            } else {
                continue;
            }
            slot.busy = true;
        }
        if !counted.is_empty() {
            let worker = self.clone();
            shift.tasks.spawn(async move {
                let census = worker.census().await;
                Done::Counted { ids: counted, at: now, census: Arc::new(census) }
            });
        }
        for (id, device) in alone {
            shift.drive(self, id, device, (now, None));
        }
    }

    /// All machines of ours, in one listing.
    async fn census(&self) -> Census {
        let _permit = self.permits.watching.acquire().await;
        let mut census: HashMap<Uuid, Vec<Seen>> = HashMap::new();
        for seen in self.vendor().ours().await? {
            if let Some(id) = self.vendor().owner(&seen) {
                census.entry(id).or_default().push(seen);
            }
        }
        Ok(census)
    }

    /// Takes a device as far as it goes at present.
    async fn drive(
        &self,
        id: Uuid,
        known: Option<Device>,
        (began, mut census): (Timestamp, Option<Arc<Census>>),
        stop: CancellationToken,
    ) -> Done {
        let me = Uuid::now_v7();
        let again = |due| Done::Driven { id, device: None, due: Some(due) };
        let later = || again(self.clock.now() + STORE_PAUSE);
        let mut device = match known {
            Some(device) => device,
            None => match self.store.device(id).await {
                Ok(Some(device)) => device,
                Ok(None) => {
                    tracing::error!(device = %id, "a device on the worker's list has no record");
                    if let Err(error) = self.store.drop_work(id).await {
                        tracing::warn!(%error, "it could not be taken off the list");
                    }
                    return Done::Driven { id, device: None, due: None };
                }
                Err(error) => {
                    tracing::warn!(device = %id, %error, "a device could not be read");
                    return later();
                }
            },
        };
        let mut held = None;
        loop {
            let action = match next(&device, &self.ctx(me)) {
                Next::Settled => return Done::Driven { id, device: None, due: None },
                Next::Wait(due) => return Done::Driven { id, device: Some(Box::new(device)), due: Some(due) },
                Next::Do(_) if stop.is_cancelled() => return again(self.clock.now()),
                Next::Do(action) => action,
            };
            let lane = Lane::of(action, census.is_some());
            if held.as_ref().map(|(lane, _)| *lane) != lane {
                held = None;
                if let Some(lane) = lane {
                    let Some(permit) = self.permit(lane, &stop).await else { return again(self.clock.now()) };
                    held = Some((lane, permit));
                    // Waiting has taken its time: what was to be done may be too late by now, such as a
                    // request whose claim is about to end. Whoever holds a permit keeps it until the
                    // request that its claim is for has been sent.
                    continue;
                }
            }
            let outcome = match self.perform(action, &device, census.take()).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::warn!(device = %id, ?action, %error, "the store is away");
                    return later();
                }
            };
            let ctx = self.ctx(me);
            let mut after = device.clone();
            let effects = apply(&mut after, outcome, &ctx);
            if after != device {
                let _writing = self.permits.writing.acquire().await;
                match self.store.write(&device, after, &effects, ctx.now).await {
                    Ok(Some(written)) => {
                        self.follow(&device, &written, &effects).await;
                        device = written;
                    }
                    // Somebody else has gone on with it, or asked for something: what they wrote counts.
                    Ok(None) => return again(ctx.now),
                    Err(error) => {
                        tracing::warn!(device = %id, %error, "a device could not be written");
                        return later();
                    }
                }
            }
            if !effects.at_once {
                return Done::Driven { id, device: Some(Box::new(device)), due: Some(self.next_look(began)) };
            }
        }
    }

    /// Waits for its turn; nothing where it is told to stop.
    async fn permit(&self, lane: Lane, stop: &CancellationToken) -> Option<SemaphorePermit<'_>> {
        let lane = match lane {
            Lane::Launching => &self.permits.launching,
            Lane::Watching => &self.permits.watching,
        };
        stop.run_until_cancelled(lane.acquire()).await?.ok()
    }

    fn ctx(&self, me: Uuid) -> Ctx {
        let timeout = SignedDuration::try_from(self.vendor().timeout()).unwrap_or_default();
        Ctx {
            now: self.clock.now(),
            me,
            timeout,
            claim: timeout + CLAIM_SLACK,
            dead_mans_switch: self.dead_mans_switch,
        }
    }

    /// When to look again, counted from the beginning of this look: what it took is not added.
    fn next_look(&self, began: Timestamp) -> Timestamp {
        let poll = SignedDuration::try_from(POLL).unwrap_or_default();
        let next = began + poll - SignedDuration::from_millis(rand::rng().random_range(JITTER_MS));
        next.max(self.clock.now() + SHORTEST_PAUSE)
    }

    /// What follows from a step beyond the record.
    async fn follow(&self, before: &Device, after: &Device, effects: &Effects) {
        let id = after.id;
        if before.state() != after.state() {
            tracing::info!(device = %id, from = before.state().as_str(), to = after.state().as_str(), "device");
        }
        let metrics = metrics::process();
        if effects.worked {
            metrics.record(CAME_UP, 1);
        }
        if after.state() == State::Failed && before.state() != State::Failed {
            metrics.record(FAILED, 1);
        }
        let Some(attempt) = before.attempt.as_ref() else { return };
        let kept = match &effects.failed {
            Some(reason) => {
                metrics.record(ATTEMPTS_FAILED, 1);
                tracing::info!(device = %id, attempt = attempt.number, reason = %reason.detail, "an attempt failed");
                self.supply.remember(attempt, reason).await
            }
            None if effects.worked => self.supply.forget(&attempt.candidate).await,
            None => Ok(()),
        };
        if let Err(error) = kept {
            // It only makes the next choice a little worse.
            tracing::warn!(%error, "what was learnt of a combination could not be kept");
        }
    }

    fn last_sweep(&self) -> std::sync::MutexGuard<'_, Option<Timestamp>> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker whose clock is held in the hand: it works when it is told to.
#[derive(Debug)]
pub struct Rounds {
    worker: Worker,
    shift: Shift,
}

impl Rounds {
    /// Of this worker.
    pub fn new(worker: Worker) -> Self {
        Self { worker, shift: Shift::default() }
    }

    /// Takes every device that is due as far as it goes, once, and does the sweep if that is due.
    /// Answers when the next device is due; nothing where there is no work.
    pub async fn round(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.worker.sweep_if_due().await;
        self.worker.refresh(&mut self.shift).await?;
        self.worker.start_due(&mut self.shift);
        self.shift.finish(&self.worker).await;
        Ok(self.shift.slots.values().map(|slot| slot.due).min())
    }
}

impl Shift {
    fn drive(&mut self, worker: &Worker, id: Uuid, device: Option<Device>, seen: (Timestamp, Option<Arc<Census>>)) {
        let (worker, stop) = (worker.clone(), self.stop.clone());
        self.tasks.spawn(async move { worker.drive(id, device, seen, stop).await });
    }

    fn settle(&mut self, worker: &Worker, done: Done) {
        match done {
            Done::Swept => {}
            Done::Driven { id, device, due } => {
                let Some(slot) = self.slots.get_mut(&id) else { return };
                let Some(due) = due else {
                    self.slots.remove(&id);
                    return;
                };
                (slot.busy, slot.due) = (false, due);
                // What was asked for meanwhile is not in it.
                slot.device = device.map(|device| *device).filter(|device| device.revision >= slot.revision);
                if slot.device.is_none() {
                    slot.due = slot.due.min(worker.clock.now() + STORE_PAUSE);
                }
            }
            Done::Counted { ids, at, census } => {
                for id in ids {
                    let device = self.slots.get_mut(&id).and_then(|slot| slot.device.take());
                    self.drive(worker, id, device, (at, Some(Arc::clone(&census))));
                }
            }
        }
    }

    /// Waits for what has been started.
    async fn finish(&mut self, worker: &Worker) {
        while let Some(done) = self.tasks.join_next().await {
            if let Ok(done) = done {
                self.settle(worker, done);
            }
        }
        self.forget_busy(worker.clock.now());
    }

    /// Where no task is left, those that still seem to be worked on had one that panicked.
    fn forget_busy(&mut self, now: Timestamp) {
        if self.tasks.is_empty() {
            for slot in self.slots.values_mut().filter(|slot| slot.busy) {
                (slot.device, slot.due, slot.busy) = (None, now + STORE_PAUSE, false);
            }
        }
    }
}
