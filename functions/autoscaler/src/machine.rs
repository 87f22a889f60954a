//! What is to be done for one deployment in one slot: a pure function of its state, its policy and
//! what it says of itself.
//!
//! The order of things: is the sample good, and the breaker closed; has the last request to scale
//! been carried out; then up at once, as far as the step allows, and down only to what the whole
//! window needed, slowly. A decision to scale is an intent: whoever has written the state may send
//! its request, once. Nothing here sends, reads a clock or draws a random number.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

pub use crate::samples::{Bad, Recorded, SLOT_SECONDS, Slot};
use crate::{
    decision::{Decision, Inputs, Limit, Outcome, Reason},
    need::{Counts, MOST, Shape, desired, hosts, servers, within},
    policy::{Mode, Policy, slots},
    samples::Samples,
};

/// So many bad samples in a row open the breaker.
const OPENS_AFTER: u32 = 3;
/// So many good ones in a row close it.
const CLOSES_AFTER: u32 = 2;
/// Of the samples of a window so many tenths must be good for hosts to be taken away.
const VALID_TENTHS: u64 = 8;
/// A request that has changed nothing in so many readings has failed, unless it was sent a moment ago.
const READINGS: u32 = 2;
/// A request may take so many seconds to be sent and to be answered.
pub const SETTLE_SECONDS: i64 = 45;
/// Slots to wait after a first, a second and every further failure in a row.
const BACKOFF: [Slot; 3] = [2, 4, 8];
/// Scalings that are remembered, as in Nagios' flap detection, which looks at 21 states.
const REMEMBERED: usize = 21;
/// For so many slots: two hours.
const REMEMBERED_FOR: Slot = 240;
/// At or above this weighted share of changes of direction, in per cent, it flaps.
const FLAPS_AT: f64 = 20.0;
/// In so many slots, a minute, no more hosts are taken away than a down step.
const MINUTE: Slot = 2;

/// What is known of a deployment between two slots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// How it is made; none while what it says of that cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Why that cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// Its last samples.
    pub samples: Samples,
    /// Bad samples in a row, or good ones while the breaker is open.
    #[serde(default, skip_serializing_if = "is_none")]
    pub in_a_row: u32,
    /// Whether the breaker is open: nothing is decided from a single good sample.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub breaker_open: bool,
    /// The request to scale that has not been settled yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// Failed requests in a row.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failures: u32,
    /// The slot of the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Slot>,
    /// Its last scalings, oldest first: slot and hosts.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub scalings: VecDeque<(Slot, i64)>,
    /// Since which slot some hosts have no servers, without any coming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Slot>,
    /// The decision that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Since which slot it is not listed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Slot>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none(number: &u32) -> bool {
    *number == 0
}

/// A request to scale, from before it is sent until it is settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The slot of the decision.
    pub slot: Slot,
    /// When it was written, in epoch seconds.
    pub at: i64,
    /// The hosts that there were then, or at the last reading, while they move.
    pub from: u64,
    /// By how many hosts.
    pub delta: i64,
    /// The hosts there are to be.
    pub expected: u64,
    /// Readings since, without a change.
    #[serde(default, skip_serializing_if = "is_none")]
    pub readings: u32,
    /// What is known of it.
    pub outcome: Outcome,
    /// Its decision, once another one holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Box<Decision>>,
}

/// What a step needs to know beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Tick<'a> {
    /// The slot.
    pub slot: Slot,
    /// The time, in epoch seconds.
    pub at: i64,
    /// What may be done.
    pub policy: &'a Policy,
    /// Whether no host is to be taken away from any deployment.
    pub frozen: bool,
}

/// What a step has brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// By how many hosts the deployment is to be scaled, once the state has been written.
    pub send: Option<i64>,
    /// Decisions that are over: those to be kept in the history.
    pub closed: Vec<Decision>,
    /// Whether only the freeze has kept hosts, or would have if there had been one.
    pub wants_down: bool,
}

impl State {
    /// A deployment that is first seen in `slot`. `stagger` spreads the writing of histories.
    pub fn new(shape: Option<Shape>, slot: Slot, stagger: u64) -> Self {
        Self {
            shape,
            rejected: None,
            samples: Samples::new(slot, stagger),
            in_a_row: 0,
            breaker_open: false,
            pending: None,
            failures: 0,
            failed: None,
            scalings: VecDeque::new(),
            missing_since: None,
            decision: None,
            gone: None,
        }
    }

    /// One slot further, with what the deployment says of itself. A slot that is not after the last
    /// one changes nothing.
    pub fn step(&mut self, reading: Result<Counts, Bad>, tick: &Tick<'_>) -> Step {
        let mut step = Step::default();
        if tick.slot <= self.samples.last() {
            return step;
        }
        self.samples.push(tick.slot, reading.as_ref().copied().map_err(|bad| bad.code));
        let next = self.decide(reading, tick, &mut step);
        self.keep(next, &mut step);
        step
    }

    /// What a step would decide, without taking it.
    pub fn explain(&self, reading: Result<Counts, Bad>, tick: &Tick<'_>) -> Decision {
        let mut state = self.clone();
        state.decision = None;
        if tick.slot <= self.samples.last() {
            return Decision::new(tick.slot, Reason::DuplicateTick);
        }
        state.step(reading, tick);
        state.decision.unwrap_or_else(|| Decision::new(tick.slot, Reason::DuplicateTick))
    }

    /// Notes what became of the request that was sent for `slot`.
    pub fn sent(&mut self, slot: Slot, outcome: Outcome) {
        let Some(pending) = self.pending.as_mut().filter(|pending| pending.slot == slot) else { return };
        pending.outcome = outcome;
        let holds = self.decision.as_mut().filter(|decision| decision.slot == slot);
        if let Some(decision) = pending.decision.as_deref_mut().or(holds) {
            decision.outcome = Some(outcome);
        }
    }

    /// The hosts that there are to be when what was asked for has come.
    pub fn asked(&self, hosts: u64) -> u64 {
        self.pending.as_ref().map_or(hosts, |pending| pending.expected)
    }

    /// The weighted share of changes of direction among the last scalings of the last two hours, in
    /// per cent.
    pub fn flap_pct(&self) -> f64 {
        let recent = |slot: Slot| self.samples.last().saturating_sub(slot) <= REMEMBERED_FOR;
        let scalings = self.scalings.iter().filter(|(slot, _)| recent(*slot));
        let directions: Vec<_> = scalings.map(|(_, delta)| delta.signum()).collect();
        let changes = u32::try_from(REMEMBERED - 1).unwrap_or(1);
        // The last change weighs 1.25, the one 20 before it 0.75, and they sum up to 20.
        let weights = directions.windows(2).rev().zip(0u32..).map(|(pair, age)| {
            let weight = 1.25 - 0.5 * f64::from(age) / f64::from(changes - 1);
            if pair[0] == pair[1] { 0.0 } else { weight }
        });
        // Not `sum`, which makes -0 of nothing.
        weights.fold(0.0, |sum, weight| sum + weight) / f64::from(changes) * 100.0
    }

    fn decide(&mut self, reading: Result<Counts, Bad>, tick: &Tick<'_>, step: &mut Step) -> Decision {
        let hold = |reason, note: Option<String>| {
            let mut decision = Decision::new(tick.slot, reason);
            decision.mode = tick.policy.mode;
            decision.note = note;
            decision
        };
        let counts = match reading {
            Ok(counts) => counts,
            Err(bad) => {
                if bad.code.counts() {
                    self.bad();
                }
                let reason = if self.breaker_open { Reason::BreakerOpen } else { Reason::BadMetrics };
                return hold(reason, Some(bad.words));
            }
        };
        let closed = self.good();
        let Some(shape) = self.shape.clone() else {
            return hold(Reason::BadMetrics, self.rejected.clone());
        };
        let settled = self.settle(counts.hosts, tick);
        if let Some(decision) = settled {
            step.closed.push(decision);
        }
        let mut decision = hold(Reason::WithinTarget, None);
        let need = servers(counts.busy(), &shape.target, tick.policy.min_free_servers);
        decision.inputs = Some(Inputs {
            servers_per_host: shape.servers_per_host,
            target_free_pct: shape.target.pct(),
            hosts: counts.hosts,
            total: counts.total,
            free: counts.free,
        });
        decision.need = Some(u64::try_from(need).unwrap_or(u64::MAX));
        decision.desired = Some(desired(counts.busy(), &shape, &tick.policy.bounds()));
        decision.flapping = self.flap_pct() >= FLAPS_AT;
        if !closed {
            decision.reason = Reason::BreakerOpen;
            decision.note = Some("one good reading so far".to_owned());
            return decision;
        }
        let missing = self.missing(&counts, &shape, tick);
        let scale = if counts.total == 0 && counts.hosts > 0 {
            // They boot, or the report is broken: either way it holds.
            decision.reason = Reason::InFlight;
            0
        } else {
            self.scale(&counts, &shape, need, tick, &mut decision, step)
        };
        if let (Reason::InFlight, Some((overdue, words))) = (decision.reason, missing) {
            if overdue {
                // What is on its way for so long does not come.
                decision.reason = Reason::BadMetrics;
            }
            decision.note = Some(words);
        }
        if scale == 0 {
            return decision;
        }
        decision.delta = scale;
        if tick.policy.mode == Mode::DryRun {
            decision.reason = Reason::DryRun;
            return decision;
        }
        decision.outcome = Some(Outcome::Intended);
        self.pending = Some(Pending {
            slot: tick.slot,
            at: tick.at,
            from: counts.hosts,
            delta: scale,
            expected: counts.hosts.saturating_add_signed(scale),
            readings: 0,
            outcome: Outcome::Intended,
            decision: None,
        });
        self.scalings.push_back((tick.slot, scale));
        self.forget(tick.slot);
        step.send = Some(scale);
        decision
    }

    fn bad(&mut self) {
        if self.breaker_open {
            // Good ones in a row are counted while it is open.
            self.in_a_row = 0;
            return;
        }
        self.in_a_row += 1;
        if self.in_a_row >= OPENS_AFTER {
            self.breaker_open = true;
            self.in_a_row = 0;
        }
    }

    /// Counts a good sample. Answers whether the breaker is closed.
    fn good(&mut self) -> bool {
        if !self.breaker_open {
            self.in_a_row = 0;
            return true;
        }
        self.in_a_row += 1;
        if self.in_a_row >= CLOSES_AFTER {
            self.breaker_open = false;
            self.in_a_row = 0;
        }
        !self.breaker_open
    }

    /// Hosts that have no servers yet, and whether that has been so for too long, in words.
    fn missing(&mut self, counts: &Counts, shape: &Shape, tick: &Tick<'_>) -> Option<(bool, String)> {
        let hosts = counts.hosts.saturating_sub(counts.total / shape.servers_per_host.max(1));
        if hosts == 0 {
            self.missing_since = None;
            return None;
        }
        let before = self.samples.recorded().filter(|(slot, _)| *slot < tick.slot);
        let before = before.filter_map(|(_, recorded)| recorded.counts()).last();
        if before.is_some_and(|before| counts.total > before.total) {
            // They are coming.
            self.missing_since = None;
        }
        let passed = tick.slot - *self.missing_since.get_or_insert(tick.slot);
        if passed < slots(tick.policy.boot_grace_seconds) {
            let words = if hosts == 1 { "1 host has".to_owned() } else { format!("{hosts} hosts have") };
            return Some((false, format!("{words} no servers yet")));
        }
        let words = if hosts == 1 { "1 host has had".to_owned() } else { format!("{hosts} hosts have had") };
        let minutes = passed * SLOT_SECONDS / 60;
        Some((true, format!("{words} no servers for {minutes} minutes")))
    }

    /// Looks whether the pending request has been carried out. Answers its decision when it is
    /// settled and another decision holds meanwhile.
    fn settle(&mut self, hosts: u64, tick: &Tick<'_>) -> Option<Decision> {
        let pending = self.pending.as_mut()?;
        let toward = (pending.from.min(pending.expected)..=pending.from.max(pending.expected)).contains(&hosts);
        let outcome = if hosts == pending.expected {
            Outcome::Applied
        } else if !toward {
            Outcome::Adopted
        } else if hosts != pending.from {
            // On its way: from here on it has to go on.
            pending.from = hosts;
            pending.readings = 0;
            return None;
        } else {
            pending.readings += 1;
            let over = match pending.outcome {
                Outcome::NotSent | Outcome::Refused => true,
                _ => pending.readings >= READINGS && tick.at - pending.at >= SETTLE_SECONDS,
            };
            if !over {
                return None;
            }
            let moved = pending.from != pending.expected.saturating_add_signed(-pending.delta);
            match pending.outcome {
                Outcome::NotSent | Outcome::Refused => pending.outcome,
                _ if moved => Outcome::Adopted,
                _ => Outcome::Failed,
            }
        };
        let pending = self.pending.take()?;
        match outcome {
            Outcome::Failed | Outcome::Refused => {
                self.failures += 1;
                self.failed = Some(tick.slot);
                self.scalings.retain(|(slot, _)| *slot != pending.slot);
            }
            // Nothing has happened, and nothing stands against trying again.
            Outcome::NotSent => self.scalings.retain(|(slot, _)| *slot != pending.slot),
            _ => self.failures = 0,
        }
        if let Some(mut decision) = pending.decision {
            decision.outcome = Some(outcome);
            return Some(*decision);
        }
        if let Some(decision) = self.decision.as_mut().filter(|decision| decision.slot == pending.slot) {
            decision.outcome = Some(outcome);
        }
        None
    }

    /// By how many hosts to scale, with the reason in `decision`.
    fn scale(
        &self,
        counts: &Counts,
        shape: &Shape,
        need: u128,
        tick: &Tick<'_>,
        decision: &mut Decision,
        step: &mut Step,
    ) -> i64 {
        let policy = tick.policy;
        let per_host = u128::from(shape.servers_per_host.max(1));
        let coming = self.asked(counts.hosts).max(counts.hosts);
        // The servers that there will be when all hosts that were asked for have come.
        let supply = u128::from(counts.total).max(u128::from(coming) * per_host);
        decision.in_flight = i64::try_from((supply - u128::from(counts.total)).div_ceil(per_host)).unwrap_or(i64::MAX);
        if servers(counts.busy(), &shape.target, 0) < need {
            decision.limits.push(Limit::MinFreeServers);
        }
        let raw = hosts(need, shape);
        let bounds = policy.bounds();
        match within(raw, &bounds) {
            bounded if bounded > raw => decision.limits.push(Limit::MinHosts),
            bounded if bounded < raw => decision.limits.push(Limit::MaxHosts),
            _ => {}
        }

        let lacking = need.saturating_sub(supply).div_ceil(per_host);
        let lacking = u64::try_from(lacking).unwrap_or(MOST).min(MOST);
        let wanted = lacking.max(bounds.min_hosts.min(bounds.max_hosts).min(MOST).saturating_sub(coming));
        let room = bounds.max_hosts.min(MOST).saturating_sub(coming);
        if wanted > 0 && room == 0 {
            // A lower max_hosts takes hosts away below, slowly.
            decision.reason = Reason::AtMax;
            if counts.hosts <= bounds.max_hosts {
                return 0;
            }
        } else if wanted > 0 {
            if let Some(held) = self.held(tick) {
                (decision.reason, decision.note) = held;
                return 0;
            }
            if matches!(policy.mode, Mode::Paused | Mode::PausedOut) {
                decision.reason = Reason::Paused;
                return 0;
            }
            let most = policy.up_step(counts.hosts);
            let up = wanted.min(room).min(most);
            if wanted.min(room) > most {
                decision.limits.push(Limit::UpStep);
            }
            decision.reason = if up == 0 { Reason::StepLimited } else { Reason::ScaledUp };
            return i64::try_from(up).unwrap_or(i64::MAX);
        }
        self.down(counts, shape, need, tick, decision, step)
    }

    /// How many hosts to take away, as a delta.
    fn down(
        &self,
        counts: &Counts,
        shape: &Shape,
        need: u128,
        tick: &Tick<'_>,
        decision: &mut Decision,
        step: &mut Step,
    ) -> i64 {
        let policy = tick.policy;
        let bounds = policy.bounds();
        // What surely is there: neither hosts without servers nor servers that are being drained.
        let there = (counts.total / shape.servers_per_host.max(1)).min(counts.hosts).min(self.asked(counts.hosts));
        let now = within(hosts(need, shape), &bounds);
        if now >= there {
            if decision.reason == Reason::AtMax {
            } else if let Some((reason, note)) = self.unsettled() {
                (decision.reason, decision.note) = (reason, note);
            } else if decision.in_flight > 0 && (u128::from(counts.total) < need || there < now) {
                decision.reason = Reason::InFlight;
            } else if there < now {
                decision.note = Some("with the servers of hosts that drain".to_owned());
            } else if decision.limits.contains(&Limit::MinHosts) {
                decision.reason = Reason::AtMin;
            } else if shape.target.thousandths() == 0 && counts.free == 0 && counts.total > 0 {
                decision.note = Some("its target is 0 % free, and no server is free".to_owned());
            }
            return 0;
        }
        if matches!(policy.mode, Mode::Paused | Mode::PausedIn) {
            decision.reason = Reason::Paused;
            return 0;
        }
        if let Some(held) = self.held(tick) {
            (decision.reason, decision.note) = held;
            return 0;
        }
        let (window, peak) = match self.peak(shape, tick, decision.flapping) {
            Ok(found) => found,
            Err(note) => {
                decision.reason = Reason::Stabilizing;
                decision.note = Some(note);
                return 0;
            }
        };
        decision.window = Some(peak);
        if peak > now {
            decision.limits.push(Limit::Window);
        }
        if peak >= there {
            let base = self.samples.peak_busy(tick.slot, policy.window()).map(|busy| desired(busy, shape, &bounds));
            let doubled = window > policy.window() && base.is_some_and(|base| base < there);
            decision.reason = if doubled { Reason::AnticipatedFlap } else { Reason::Stabilizing };
            return 0;
        }
        if let Some(note) = self.cooldown(tick) {
            decision.reason = Reason::Cooldown;
            decision.note = Some(note);
            return 0;
        }
        let recent = self.scalings.iter().filter(|(slot, delta)| *delta < 0 && tick.slot - slot < MINUTE);
        let recent: u64 = recent.map(|(_, delta)| delta.unsigned_abs()).sum();
        let left = policy.down_step(counts.hosts).saturating_sub(recent);
        let down = (there - peak).min(left);
        if there - peak > left {
            decision.limits.push(Limit::DownStep);
        }
        if down == 0 {
            decision.reason = Reason::StepLimited;
            return 0;
        }
        step.wants_down = true;
        if tick.frozen {
            decision.reason = Reason::Frozen;
            return 0;
        }
        decision.reason = Reason::ScaledDown;
        -i64::try_from(down).unwrap_or(i64::MAX)
    }

    /// The slots of the window, and the most hosts that were needed in it. Or why it does not count.
    fn peak(&self, shape: &Shape, tick: &Tick<'_>, flapping: bool) -> Result<(Slot, u64), String> {
        let base = tick.policy.window();
        let window = if flapping { (base * 2).min(slots(crate::policy::LONGEST_WINDOW)) } else { base };
        let seen = tick.slot - self.samples.first();
        if seen < window {
            let (seen, window) = (seen * SLOT_SECONDS, window * SLOT_SECONDS);
            return Err(format!("it has been read for {seen} s of {window} s"));
        }
        // The longer window asks for more, and must not make up for bad readings in the usual one.
        for window in [base, window] {
            let valid = self.samples.valid(tick.slot, window);
            if valid * 10 < window * VALID_TENTHS {
                return Err(format!("only {valid} of the last {window} readings were good"));
            }
        }
        let busy = self.samples.peak_busy(tick.slot, window).unwrap_or_default();
        Ok((window, desired(busy, shape, &tick.policy.bounds())))
    }

    fn cooldown(&self, tick: &Tick<'_>) -> Option<String> {
        let policy = tick.policy;
        let up = self.scalings.iter().rev().find(|(_, delta)| *delta > 0).map(|(slot, _)| *slot);
        let left = |since: Option<Slot>, seconds: u32| {
            let passed = (tick.slot - since?) * SLOT_SECONDS;
            u64::from(seconds).checked_sub(passed).filter(|left| *left > 0)
        };
        if let Some(left) = left(up, policy.cooldown_after_up_seconds) {
            return Some(format!("{left} s more after hosts were added"));
        }
        let left = left(self.failed, policy.cooldown_after_failure_seconds)?;
        Some(format!("{left} s more after a scaling failed"))
    }

    /// Why nothing may be sent now: a request that has not been settled, or one that has failed.
    fn held(&self, tick: &Tick<'_>) -> Option<(Reason, Option<String>)> {
        if let Some(unsettled) = self.unsettled() {
            return Some(unsettled);
        }
        let failures = usize::try_from(self.failures).unwrap_or(usize::MAX);
        let wait = BACKOFF.get(failures.checked_sub(1)?.min(BACKOFF.len() - 1))?;
        let left = (self.failed? + wait).checked_sub(tick.slot).filter(|left| *left > 0)?;
        let note = format!("failed {} times in a row; {} s more", self.failures, left * SLOT_SECONDS);
        Some((Reason::ScaleFailed, Some(note)))
    }

    fn unsettled(&self) -> Option<(Reason, Option<String>)> {
        let pending = self.pending.as_ref()?;
        let reason = match pending.outcome {
            Outcome::Accepted => Reason::InFlight,
            _ => Reason::ScaleUnknown,
        };
        Some((reason, Some(format!("{:+} hosts were asked for, to be {}", pending.delta, pending.expected))))
    }

    /// Lets `next` hold, and closes the decision before it unless it says the same.
    fn keep(&mut self, mut next: Decision, step: &mut Step) {
        if let Some(before) = self.decision.take() {
            let pending = self.pending.as_mut().filter(|pending| pending.slot == before.slot);
            if let Some(pending) = pending {
                // Its outcome is not known yet; until then it is kept here.
                pending.decision = Some(Box::new(before));
            } else if before.continues(&next) {
                next.slot = before.slot;
                next.count = before.count + 1;
            } else {
                step.closed.push(before);
            }
        }
        self.decision = Some(next);
    }

    fn forget(&mut self, slot: Slot) {
        while self.scalings.len() > REMEMBERED
            || self.scalings.front().is_some_and(|(old, _)| slot - old > REMEMBERED_FOR)
        {
            self.scalings.pop_front();
        }
    }
}
