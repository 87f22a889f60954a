//! What is to be done for one deployment in one slot: a pure function of its state, its policy and
//! what it says of itself.
//!
//! The order of things: is the sample good, and the breaker closed; has the last request to scale
//! been carried out; then up at once, as far as the step allows, and down only to what the whole
//! window needed, slowly. A decision to scale is an intent: whoever has written the state may send
//! its request, once. Nothing here sends, reads a clock or draws a random number.

mod scale;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

pub use crate::samples::{Bad, Recorded, SLOT_SECONDS, Slot};
use crate::{
    decision::{Decision, Inputs, Outcome, Reason},
    need::{Counts, Shape, desired, servers},
    policy::{Mode, Policy},
    samples::Samples,
};

/// So many bad samples in a row open the breaker.
const OPENS_AFTER: u32 = 3;
/// So many good ones in a row close it.
const CLOSES_AFTER: u32 = 2;
/// A request that has changed nothing in so many readings has failed, unless it was sent a moment ago.
const READINGS: u32 = 2;
/// A request may take so many seconds to be sent and to be answered.
pub const SETTLE_SECONDS: i64 = 45;
/// Scalings that are remembered, as in Nagios' flap detection, which looks at 21 states.
const REMEMBERED: usize = 21;
/// For so many slots: two hours.
const REMEMBERED_FOR: Slot = 240;
/// At or above this weighted share of changes of direction, in per cent, it flaps.
const FLAPS_AT: f64 = 20.0;

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
