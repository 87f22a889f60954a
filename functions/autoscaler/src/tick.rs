//! One tick: what is to be done for every deployment in one slot, and doing it.
//!
//! A slot is claimed first, so of two workers one does its work. Then, at most so many at once:
//! each deployment is read, and as soon as all of a shard are, it is decided for them, the shard is
//! written, and only then their requests to scale are sent, each once. Whoever would take hosts
//! away waits until all have been read, because many bad samples at once freeze that everywhere.
//!
//! A crash between any two of these leaves either nothing or an intent, and the next readings of
//! the hosts tell what has become of it. What is kept in memory from tick to tick saves reading; a
//! shard that somebody else has written meanwhile cannot be written from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kit::{
    clock::Clock,
    dynamo::StoreError,
    metrics::{self, Metric, Unit},
};
use serde::Serialize;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    decision::{Decision, Outcome},
    deployments::{DeploymentId, Deployments},
    discovery::discover,
    machine::{State, Tick},
    need::Counts,
    policy::{Given, Mode, Policy},
    samples::{Bad, BadCode, SLOT_SECONDS, Slot},
    store::{Fleet, Policies, Record, ScalerStore, Shard, ShardId, Shards, Written},
};

/// For so long deployments are read; those that were not reached are first in the next tick.
const READING: Duration = Duration::from_secs(15);
/// After so long nothing is sent any more.
const SENDING: Duration = Duration::from_secs(25);
/// More bad samples than this, in per cent of those that were read, are a wave,
const WAVE_PCT: usize = 45;
/// if there are at least so many.
const WAVE: usize = 3;
/// A wave freezes its own slot and so many after it.
const FROZEN_FOR: Slot = 2;
/// Records that wait in a shard for their place in the history; beyond that the oldest are given up.
const MOST_UNKEPT: usize = 400;
/// Times that a claim is tried while a policy is being written.
const CLAIM_ATTEMPTS: u32 = 3;

const SEEN: Metric = Metric::highest("DeploymentsSeen", Unit::Count);
const UNREADABLE: Metric = Metric::highest("DeploymentsUnreadable", Unit::Count);
const NOT_REACHED: Metric = Metric::highest("DeploymentsNotReached", Unit::Count);
const SHORT: Metric = Metric::highest("DeploymentsShort", Unit::Count);
const ADDED: Metric = Metric::total("HostsAdded", Unit::Count);
const REMOVED: Metric = Metric::total("HostsRemoved", Unit::Count);
const UNSETTLED: Metric = Metric::total("ScalingsUnknown", Unit::Count);
const LIST_AGE: Metric = Metric::highest("DeploymentsListAge", Unit::Milliseconds);
const FROZEN: Metric = Metric::highest("ScalingFrozen", Unit::Count);

/// Scales the deployments of one API.
#[derive(Debug)]
pub struct Scaler {
    api: Deployments,
    store: ScalerStore,
    clock: Clock,
    at_once: usize,
    dry_run: bool,
    /// Names this worker.
    me: String,
    known: Mutex<Known>,
}

/// What is kept in memory between ticks.
#[derive(Debug, Default)]
struct Known {
    shards: Option<Shards>,
    policies: Option<(u64, Arc<Policies>)>,
}

/// What a tick has done.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Report {
    /// The slot.
    pub slot: Slot,
    /// Whether another worker, or another event, did this slot's work, or that of a later one.
    pub duplicate: bool,
    /// Deployments that are listed.
    pub deployments: usize,
    /// How many of them were read, well or badly.
    pub read: usize,
    /// How many could not be used, or said nonsense.
    pub bad: usize,
    /// How many there was no time for.
    pub not_reached: usize,
    /// How many have fewer free servers than they want.
    pub short: usize,
    /// Requests to add hosts that were accepted, or may have been.
    pub scaled_up: usize,
    /// Requests to take hosts away that were.
    pub scaled_down: usize,
    /// Requests without an answer, which readings will settle.
    pub unknown: usize,
    /// Requests that were refused, or could not be sent.
    pub failed: usize,
    /// Deployments whose states could not be written, or were by somebody else: nothing was done.
    pub not_kept: usize,
    /// Whether no host was taken away anywhere.
    pub frozen: bool,
    /// Why the list of deployments was not believed.
    pub doubt: Option<String>,
    /// Decisions that say something else than those before.
    #[serde(skip)]
    pub changed: Vec<(DeploymentId, Decision)>,
    #[serde(skip)]
    added: u64,
    #[serde(skip)]
    removed: u64,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.read += other.read;
        self.bad += other.bad;
        self.not_reached += other.not_reached;
        self.short += other.short;
        self.scaled_up += other.scaled_up;
        self.scaled_down += other.scaled_down;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.not_kept += other.not_kept;
        self.changed.extend(other.changed);
        self.added += other.added;
        self.removed += other.removed;
    }
}

/// What the tasks of a tick share.
struct Shared {
    api: Deployments,
    store: ScalerStore,
    clock: Clock,
    policies: Arc<Policies>,
    dry_run: bool,
    /// Marks what this tick writes.
    by: String,
    slot: Slot,
    at: Timestamp,
    /// Whether it is known already that nothing is to be taken away.
    frozen: bool,
    permits: Semaphore,
    read_until: Instant,
    send_until: Instant,
    tally: watch::Sender<Tally>,
    stop: CancellationToken,
}

/// How the samples of a tick are.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// Shards that are still being read.
    left: usize,
    read: usize,
    bad: usize,
}

impl Tally {
    const fn is_wave(self) -> bool {
        self.bad >= WAVE && self.bad * 100 > self.read * WAVE_PCT
    }
}

/// A shard after its tick, where it may be kept in memory, and what was done.
type Ticked = (ShardId, Option<Shard>, Report, Option<StoreError>);

impl Scaler {
    /// Scales what `api` lists, at most so many requests at once.
    pub fn new(api: Deployments, store: kit::dynamo::Store, at_once: usize, clock: Clock) -> Self {
        let store = ScalerStore::new(store, api.name());
        Self { api, store, clock, at_once, dry_run: false, me: Uuid::now_v7().to_string(), known: Mutex::default() }
    }

    /// The same, but nothing is ever sent.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Does the work of `slot`, unless it is done. Once `stop` is cancelled nothing more is read,
    /// and the tick comes to its end.
    pub async fn tick(&self, slot: Slot, stop: &CancellationToken) -> Result<Report, StoreError> {
        let began = Instant::now();
        let Some(mut fleet) = self.claim(slot).await? else {
            return Ok(Report { slot, duplicate: true, ..Report::default() });
        };
        let ours = fleet.by.as_ref() == Some(&self.me);
        let (mut shards, policies) = tokio::try_join!(self.shards(ours), self.policies(fleet.revision))?;
        let mut lost = BTreeSet::new();
        // Every minute, and again where the one before has brought nothing.
        if slot.is_multiple_of(2) || (fleet.vanished == 0 && slot.saturating_sub(fleet.discovered) > 2) {
            let found = self.api.discover().await.map_err(|error| error.to_string());
            lost = discover(&mut shards, &mut fleet, found, slot);
            if let Some(doubt) = &fleet.doubt {
                tracing::warn!(%doubt, "the list of deployments is not believed");
            }
        }
        let frozen = fleet.frozen_until >= slot || fleet.vanished > 0;
        let mut report = Report { slot, doubt: fleet.doubt.clone(), ..Report::default() };

        let order = in_turn(shards);
        let common = Arc::new(Shared {
            api: self.api.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            policies,
            dry_run: self.dry_run,
            by: Uuid::now_v7().to_string(),
            slot,
            at: self.clock.now(),
            frozen,
            permits: Semaphore::new(self.at_once),
            read_until: began + READING,
            send_until: began + SENDING,
            tally: watch::Sender::new(Tally { left: order.len(), ..Tally::default() }),
            stop: stop.clone(),
        });
        let mut tasks = JoinSet::new();
        for (id, shard) in order {
            report.deployments += shard.states.values().filter(|state| state.gone.is_none()).count();
            let common = Arc::clone(&common);
            let changed = lost.contains(&id);
            tasks.spawn(async move { common.work(id, shard, changed).await });
        }
        let mut kept = Shards::new();
        let (mut whole, mut problem) = (true, None);
        while let Some(done) = tasks.join_next().await {
            let Ok((id, shard, part, error)) = done else {
                whole = false;
                continue;
            };
            report.add(part);
            problem = problem.or(error);
            match shard {
                Some(shard) => _ = kept.insert(id, shard),
                None => whole = false,
            }
        }
        self.known().shards = whole.then_some(kept);

        if common.tally.borrow().is_wave() {
            fleet.frozen_until = slot + FROZEN_FOR;
            tracing::warn!(slot, bad = report.bad, read = report.read, "too many bad samples: no host is taken away");
        }
        report.frozen = frozen || fleet.frozen_until >= slot;
        fleet.slot = slot;
        self.store.put_fleet(&fleet).await?;
        measure(&report, slot.saturating_sub(fleet.discovered));
        match problem {
            Some(error) if report.not_kept >= report.deployments => Err(error),
            Some(error) => {
                tracing::warn!(%error, deployments = report.not_kept, "not all states could be kept");
                Ok(report)
            }
            None => Ok(report),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(&self, slot: Slot) -> Result<Option<Fleet>, StoreError> {
        let mut attempt = 1;
        loop {
            match self.store.claim(slot, &self.me).await {
                // Somebody sets a policy just now.
                Err(StoreError::TransactionConflict) if attempt < CLAIM_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    /// All states: from memory if nobody else has ticked since.
    async fn shards(&self, ours: bool) -> Result<Shards, StoreError> {
        // Taken out: should this tick break off, the next one reads them again.
        let known = self.known().shards.take();
        match known.filter(|_| ours) {
            Some(shards) => Ok(shards),
            None => self.store.shards().await,
        }
    }

    async fn policies(&self, revision: u64) -> Result<Arc<Policies>, StoreError> {
        let known = self.known().policies.clone().filter(|(known, _)| *known == revision);
        if let Some((_, policies)) = known {
            return Ok(policies);
        }
        // Read after the revision: they are of this one, or newer and then read again.
        let policies = Arc::new(self.store.policies().await?);
        self.known().policies = Some((revision, Arc::clone(&policies)));
        Ok(policies)
    }
}

/// Records what the tick has brought; the list of deployments is so many slots old.
fn measure(report: &Report, age: Slot) {
    let metrics = metrics::process();
    metrics.record(SEEN, report.deployments as u64);
    metrics.record(UNREADABLE, report.bad as u64);
    metrics.record(NOT_REACHED, report.not_reached as u64);
    metrics.record(SHORT, report.short as u64);
    metrics.record(ADDED, report.added);
    metrics.record(REMOVED, report.removed);
    metrics.record(UNSETTLED, report.unknown as u64);
    metrics.record(FROZEN, u64::from(report.frozen));
    metrics.record(LIST_AGE, age * SLOT_SECONDS * 1000);
}

/// The shards, those first that have waited longest: there may not be time for all.
fn in_turn(shards: Shards) -> Vec<(ShardId, Shard)> {
    let mut order: Vec<_> = shards.into_iter().collect();
    order.sort_by_cached_key(|(id, shard)| {
        let live = shard.states.values().filter(|state| state.gone.is_none());
        (live.map(|state| state.samples.last()).min(), *id)
    });
    order
}

impl Shared {
    /// Does all there is to do for a shard. One of which nothing could be read is written only if
    /// the list has changed it.
    async fn work(&self, id: ShardId, mut shard: Shard, changed: bool) -> Ticked {
        let mut report = Report::default();
        let readings = self.read(&shard, &mut report).await;
        if readings.is_empty() && !changed {
            return (id, Some(shard), report, None);
        }
        let (sending, records) = self.decide(&mut shard, readings, &mut report).await;
        shard.unkept.extend(records);
        let surplus = shard.unkept.len().saturating_sub(MOST_UNKEPT);
        shard.unkept.drain(..surplus);
        let count = shard.states.len();
        let lost = |mut report: Report, error| {
            report.not_kept = count;
            report.changed.clear();
            (id, None, report, error)
        };
        match self.store.put_shard(id, &mut shard, &self.by).await {
            Ok(Written::Ours) => {}
            Ok(Written::Lost) => return lost(report, None),
            Err(error) => return lost(report, Some(error)),
        }
        let mut kept = true;
        if !sending.is_empty() {
            self.send(&mut shard, sending, &mut report).await;
            // Should this fail, readings will tell what is not written.
            kept = match self.store.put_shard(id, &mut shard, &self.by).await {
                Ok(written) => written == Written::Ours,
                Err(error) => {
                    tracing::warn!(%error, "what came of requests to scale is not kept; readings will tell");
                    false
                }
            };
        }
        self.keep_history(&mut shard).await;
        (id, kept.then_some(shard), report, None)
    }

    /// Moves into the history what is not there yet. Nobody waits for it: what does not get there is
    /// in the shard, and tried again with the next tick.
    async fn keep_history(&self, shard: &mut Shard) {
        match timeout_at(self.send_until, self.store.put_history(&shard.unkept)).await {
            Ok(Ok(())) => shard.unkept.clear(),
            Ok(Err(error)) => tracing::warn!(%error, "the history is written with the next tick"),
            Err(_) => tracing::warn!("there was no time for the history; it is written with the next tick"),
        }
    }

    /// Reads the deployments of a shard, as far as there is time.
    async fn read(&self, shard: &Shard, report: &mut Report) -> BTreeMap<DeploymentId, Result<Counts, Bad>> {
        let live = shard.states.iter().filter(|(_, state)| state.gone.is_none());
        let readings = live.map(async |(id, state)| {
            let reading = match &state.rejected {
                Some(words) => Some(Err(Bad::new(BadCode::Rejected, words))),
                None => self.read_one(id).await,
            };
            (id.clone(), reading)
        });
        let readings = futures::future::join_all(readings).await;
        let mut good_or_bad = BTreeMap::new();
        let mut waves = 0;
        for (id, reading) in readings {
            let Some(reading) = reading else {
                report.not_reached += 1;
                continue;
            };
            report.read += 1;
            if let Err(bad) = &reading {
                report.bad += 1;
                waves += usize::from(bad.code.counts());
            }
            good_or_bad.insert(id, reading);
        }
        self.tally.send_modify(|tally| {
            tally.left -= 1;
            tally.read += report.read;
            tally.bad += waves;
        });
        good_or_bad
    }

    async fn read_one(&self, id: &DeploymentId) -> Option<Result<Counts, Bad>> {
        let permit = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            permit = timeout_at(self.read_until, self.permits.acquire()) => permit.ok()?.ok()?,
        };
        let left = self.read_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        // Thousands wait for a permit: what the request needs is only made when it has one.
        let reading = Box::pin(self.api.status(id, left)).await;
        drop(permit);
        Some(reading)
    }

    /// Whether hosts may be taken away, once everything has been read.
    async fn verdict(&self) -> bool {
        let mut tally = self.tally.subscribe();
        // A task that has died never says that it is done.
        let all = timeout_at(self.read_until + self.api.timeout(), tally.wait_for(|tally| tally.left == 0)).await;
        match all {
            Ok(Ok(tally)) => tally.is_wave() || self.stop.is_cancelled(),
            _ => true,
        }
    }

    /// Decides for all of a shard: by how many hosts to scale which, and what belongs to the history.
    async fn decide(
        &self,
        shard: &mut Shard,
        readings: BTreeMap<DeploymentId, Result<Counts, Bad>>,
        report: &mut Report,
    ) -> (Vec<(DeploymentId, i64)>, Vec<Record>) {
        let mut waiting = Vec::new();
        let mut sending = Vec::new();
        let mut records = Vec::new();
        let at = self.at.as_second();
        let none = Given::default();
        for (id, reading) in readings {
            let Some(state) = shard.states.get_mut(&id) else { continue };
            let own = self.policies.own.get(&id).map_or(&none, |stored| &stored.given);
            let mut policy = Policy::of(&self.policies.all.given, own, self.at);
            if self.dry_run && policy.mode != Mode::Paused {
                policy.mode = Mode::DryRun;
            }
            if let Some(chunk) = state.samples.chunk(self.slot) {
                records.push(Record::Samples(id.clone(), state.shape.clone(), chunk));
            }
            let before = (!self.frozen).then(|| state.clone());
            let tick = Tick { slot: self.slot, at, policy: &policy, frozen: true };
            let step = state.step(reading.clone(), &tick);
            match before {
                // Only the freeze stands against it, and whether there is one is not known yet.
                Some(before) if step.wants_down => waiting.push((id, before, reading, policy)),
                _ => note(&id, state, step, report, &mut sending, &mut records),
            }
        }
        if !waiting.is_empty() {
            let frozen = self.verdict().await;
            for (id, before, reading, policy) in waiting {
                let Some(state) = shard.states.get_mut(&id) else { continue };
                *state = before;
                let step = state.step(reading, &Tick { slot: self.slot, at, policy: &policy, frozen });
                note(&id, state, step, report, &mut sending, &mut records);
            }
        }
        (sending, records)
    }

    /// Sends the requests whose intents have been written, each once.
    async fn send(&self, shard: &mut Shard, sending: Vec<(DeploymentId, i64)>, report: &mut Report) {
        let requests = sending.into_iter().map(async |(id, delta)| {
            let outcome = self.send_one(&id, delta).await;
            (id, delta, outcome)
        });
        for (id, delta, outcome) in futures::future::join_all(requests).await {
            match outcome {
                Outcome::Accepted | Outcome::Unknown => {
                    let (count, hosts) = if delta > 0 {
                        (&mut report.scaled_up, &mut report.added)
                    } else {
                        (&mut report.scaled_down, &mut report.removed)
                    };
                    *count += 1;
                    *hosts += delta.unsigned_abs();
                    report.unknown += usize::from(outcome == Outcome::Unknown);
                }
                _ => report.failed += 1,
            }
            if let Some(state) = shard.states.get_mut(&id) {
                state.sent(self.slot, outcome);
            }
            if let Some((_, changed)) = report.changed.iter_mut().find(|(changed, _)| *changed == id) {
                changed.outcome = Some(outcome);
            }
        }
    }

    async fn send_one(&self, id: &DeploymentId, delta: i64) -> Outcome {
        let last = self.send_until.checked_sub(self.api.timeout()).unwrap_or(self.send_until);
        let Ok(Ok(_permit)) = timeout_at(last, self.permits.acquire()).await else { return Outcome::NotSent };
        // A machine that slept meanwhile must not act on what it knew before.
        let age = self.clock.now().duration_since(self.at);
        let fresh = age < SignedDuration::try_from(SENDING).unwrap_or_default();
        if !fresh || Instant::now() >= last {
            tracing::warn!(deployment = %id, delta, "there was no time to ask for hosts");
            return Outcome::NotSent;
        }
        let (outcome, words) = Box::pin(self.api.scale(id, delta)).await;
        if outcome == Outcome::Accepted {
            tracing::info!(deployment = %id, delta, "hosts asked for");
        } else {
            tracing::warn!(deployment = %id, delta, ?outcome, %words, "asking for hosts went wrong");
        }
        outcome
    }
}

/// Takes in what a step has brought.
fn note(
    id: &DeploymentId,
    state: &State,
    step: crate::machine::Step,
    report: &mut Report,
    sending: &mut Vec<(DeploymentId, i64)>,
    records: &mut Vec<Record>,
) {
    records.extend(step.closed.into_iter().map(|decision| Record::Decision(id.clone(), decision)));
    if let Some((counts, shape)) = state.samples.latest().zip(state.shape.as_ref()) {
        report.short += usize::from(!shape.target.is_met(counts.total, counts.free));
    }
    if let Some(decision) = state.decision.as_ref().filter(|decision| decision.count == 1) {
        report.changed.push((id.clone(), decision.clone()));
    }
    if let Some(delta) = step.send {
        sending.push((id.clone(), delta));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_was_not_reached_has_its_turn_first() {
        let mut shards = Shards::new();
        for (name, last) in [("a", 9), ("b", 7), ("c", 8), ("d", 7), ("gone", 3)] {
            let id: DeploymentId = name.to_owned().try_into().unwrap();
            let mut state = State::new(None, last + 1, 0);
            state.gone = (name == "gone").then_some(4);
            let states = BTreeMap::from([(id.clone(), state)]);
            let shard = Shard { version: 1, states, unkept: Vec::new() };
            assert!(shards.insert(ShardId::of(&id), shard).is_none(), "names in shards of their own");
        }
        let order = in_turn(shards);
        let names: Vec<_> = order.iter().flat_map(|(_, shard)| shard.states.keys()).map(DeploymentId::as_str).collect();
        let waited: Vec<_> = names.iter().filter(|name| **name != "gone").copied().collect();
        let mut first = waited[..2].to_vec();
        first.sort_unstable();
        assert_eq!((first, &waited[2..]), (vec!["b", "d"], &["c", "a"][..]));
    }

    #[test]
    fn a_wave_is_three_at_least_and_more_than_forty_five_per_cent() {
        let wave = |bad, read| Tally { left: 0, read, bad }.is_wave();
        assert_eq!(
            [wave(2, 2), wave(3, 3), wave(3, 6), wave(3, 7), wave(45, 100), wave(46, 100)],
            [false, true, true, false, false, true]
        );
    }
}
