//! By how many hosts to scale: up at once, as far as the step allows, and down only to what the whole
//! window needed, slowly; and what forbids either.

use super::{State, Step, Tick};
use crate::{
    decision::{Decision, Limit, Outcome, Reason},
    need::{Counts, MOST, Shape, desired, hosts, servers, within},
    policy::{Mode, slots},
    samples::{SLOT_SECONDS, Slot},
};

/// Of the samples of a window so many tenths must be good for hosts to be taken away.
const VALID_TENTHS: u64 = 8;
/// Slots to wait after a first, a second and every further failure in a row.
const BACKOFF: [Slot; 3] = [2, 4, 8];
/// In so many slots, a minute, no more hosts are taken away than a down step.
const MINUTE: Slot = 2;

impl State {
    /// By how many hosts to scale, with the reason in `decision`.
    pub(super) fn scale(
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

    /// Hosts that have no servers yet, and whether that has been so for too long, in words.
    pub(super) fn missing(&mut self, counts: &Counts, shape: &Shape, tick: &Tick<'_>) -> Option<(bool, String)> {
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
}
