//! What the API shows: deployments, decisions, policies.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    decision::{Decision, Inputs, Limit, Outcome, Reason},
    deployments::DeploymentId,
    machine::{Pending, State},
    need::{Counts, MOST},
    policy::{Given, Mode, Policy},
    samples::{BadCode, Recorded, Slot, slot, time},
    store::{Fleet, Stored},
};

/// How a deployment is, in a word. Of several that are true the first in this order is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    /// It is not listed any more, and not scaled.
    Gone,
    /// Its policy forbids scaling, in one direction at least.
    Paused,
    /// What it says of itself, or of how it is made, cannot be used.
    Unreadable,
    /// It could not be read several times in a row; two good readings in a row end this.
    BreakerOpen,
    /// It would lose hosts, but too many deployments cannot be read.
    Frozen,
    /// It gets fewer hosts than it needs: a limit stands against it, or the request to scale.
    Limited,
    /// It keeps hosts that it may not need, or waits for those that it does.
    Stabilizing,
    /// All else; also where nothing has been decided yet.
    Ok,
}

impl DeploymentState {
    /// Its name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Paused => "paused",
            Self::Unreadable => "unreadable",
            Self::BreakerOpen => "breaker_open",
            Self::Frozen => "frozen",
            Self::Limited => "limited",
            Self::Stabilizing => "stabilizing",
            Self::Ok => "ok",
        }
    }

    /// Of a deployment whose mode is `mode` now.
    pub fn of(state: &State, mode: Mode) -> Self {
        if state.gone.is_some() {
            Self::Gone
        } else if matches!(mode, Mode::Paused | Mode::PausedIn | Mode::PausedOut) {
            Self::Paused
        } else if state.rejected.is_some() {
            Self::Unreadable
        } else {
            state.decision.as_ref().map_or(Self::Ok, Self::decided)
        }
    }

    fn decided(decision: &Decision) -> Self {
        match decision.reason {
            Reason::BadMetrics => Self::Unreadable,
            Reason::BreakerOpen => Self::BreakerOpen,
            Reason::Frozen => Self::Frozen,
            Reason::AtMax | Reason::StepLimited | Reason::ScaleUnknown | Reason::ScaleFailed => Self::Limited,
            Reason::ScaledUp if decision.limits.contains(&Limit::UpStep) => Self::Limited,
            Reason::Stabilizing | Reason::Cooldown | Reason::InFlight | Reason::AnticipatedFlap => Self::Stabilizing,
            Reason::ScaledUp
            | Reason::ScaledDown
            | Reason::WithinTarget
            | Reason::AtMin
            | Reason::Paused
            | Reason::DryRun
            | Reason::DuplicateTick => Self::Ok,
        }
    }
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ScalingDecision)]
pub struct DecisionView {
    /// The beginning of the half minute that it was first made in. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The beginning of the half minute that it was last made in: holds that say the same are one.
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// In how many half minutes it was made.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// The decision in a sentence.
    pub words: String,
    /// From what; null where that could not be read. Of the last half minute.
    pub inputs: Option<Inputs>,
    /// The servers that are needed: at most 2^53, also where it is more.
    pub need_servers: Option<u64>,
    /// The hosts that are needed, within `min_hosts` and `max_hosts`.
    pub desired_hosts: Option<u64>,
    /// The most hosts that were needed in the window; null where that did not matter.
    pub window_hosts: Option<u64>,
    /// By how many hosts it is scaled, or in a dry run would be.
    pub delta: i64,
    /// Hosts that are on their way: asked for, and without servers yet.
    pub in_flight: i64,
    /// What has changed a number.
    pub limits: Vec<Limit>,
    /// What became of the request to scale; null where none was made.
    pub outcome: Option<Outcome>,
    /// The mode it was made in.
    pub mode: Mode,
    /// Whether it changes direction too often.
    pub flapping: bool,
    /// What else there is to say.
    pub note: Option<String>,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentView {
    /// Its id.
    pub id: String,
    /// Servers on each host; null while what it says of that cannot be used.
    pub servers_per_host: Option<u64>,
    /// The share of free servers that it wants, in per cent; null while that cannot be used.
    pub target_free_pct: Option<f64>,
    /// Hosts at the last good reading; null where there was none in the last ten minutes.
    pub hosts: Option<u64>,
    /// Servers then.
    pub total: Option<u64>,
    /// Free servers then.
    pub free: Option<u64>,
    /// The share of free servers then, in per cent; null where there are no servers.
    pub free_pct: Option<f64>,
    /// The hosts that it needs by the last decision.
    pub desired_hosts: Option<u64>,
    /// Hosts that are on their way by the last decision.
    pub in_flight: i64,
    /// What may be done now.
    pub mode: Mode,
    /// How it is.
    pub state: DeploymentState,
    /// Whether it changes direction too often.
    pub flapping: bool,
    /// Why what it says of how it is made cannot be used; null where it can.
    pub rejected: Option<String>,
    /// The beginning of the half minute of the last good reading. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
    /// The decision that holds; null where none was made yet.
    pub last_decision: Option<DecisionView>,
}

/// What is known of all deployments together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetView {
    /// The half minute that was worked on last; null where none was. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ticked_at: Option<Timestamp>,
    /// The half minute of the last list of deployments that was believed. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub discovered_at: Option<Timestamp>,
    /// Why the last list was not believed; null where it was.
    pub doubt: Option<String>,
    /// Until when no host is taken away, because too many deployments could not be read; null where
    /// that has passed. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub frozen_until: Option<Timestamp>,
    /// Listed entries that have no usable id, or were too many.
    pub ignored: u64,
}

/// A page of deployments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentList {
    /// The deployments, by id.
    pub items: Vec<DeploymentView>,
    /// Give it as `?cursor=` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// What is known of all of them together.
    pub fleet: FleetView,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentDetail {
    /// The deployment.
    #[serde(flatten)]
    pub deployment: DeploymentView,
    /// What holds for it now.
    pub policy: Policy,
    /// The request to scale that has not been settled yet; null where there is none.
    pub pending: Option<PendingView>,
    /// The weighted share of changes of direction among its last 21 scalings, in per cent: flapping
    /// from 20 up.
    pub flap_pct: f64,
    /// Its last readings, at most 20, oldest first.
    pub samples: Vec<SampleView>,
}

/// A request to scale that has not been settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PendingScaling)]
pub struct PendingView {
    /// The half minute of its decision. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The hosts that there were, or at the last reading, while they move.
    pub from: u64,
    /// By how many hosts.
    pub delta: i64,
    /// The hosts that there are to be.
    pub expected_hosts: u64,
    /// Readings since without a change.
    pub readings: u32,
    /// What is known of it.
    pub outcome: Outcome,
}

/// What a deployment said of itself in a half minute: three counts, or `bad`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeploymentSample)]
pub struct SampleView {
    /// The beginning of that half minute. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it said.
    #[serde(flatten)]
    pub counts: Option<CountsView>,
    /// Why there are no counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<BadSample>,
}

/// What a deployment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeploymentCounts)]
pub struct CountsView {
    /// Hosts, also those that boot or drain.
    pub hosts: u64,
    /// Servers.
    pub total: u64,
    /// How many of them are free.
    pub free: u64,
}

impl From<Counts> for CountsView {
    fn from(Counts { hosts, total, free }: Counts) -> Self {
        Self { hosts, total, free }
    }
}

/// Why there are no counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadSample {
    /// The deployments API answered with an error.
    Error,
    /// It did not answer.
    Silent,
    /// Its answer cannot be read, or holds what is no count.
    Nonsense,
    /// More free servers than servers.
    Impossible,
    /// What it says of how it is made cannot be used. It was not asked.
    Rejected,
    /// Nobody looked.
    Missing,
}

/// What is set, for a deployment or for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ScalingPolicyView)]
pub struct PolicyView {
    /// How often it was set; 0 where it never was. Also the `ETag`, in quotes.
    pub version: u64,
    /// What is set here, and nothing else.
    pub set: Given,
    /// What holds now, every number filled in.
    pub effective: Policy,
    /// By which key it was set.
    pub set_by: Option<String>,
    /// When. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub set_at: Option<Timestamp>,
}

/// A decision as the API shows it.
pub fn decision(decision: &Decision) -> DecisionView {
    DecisionView {
        at: time(decision.slot),
        until: time(decision.last),
        count: decision.count,
        reason: decision.reason,
        words: decision.words(),
        inputs: decision.inputs,
        need_servers: decision.need.map(|need| need.min(MOST)),
        desired_hosts: decision.desired,
        window_hosts: decision.window,
        delta: decision.delta,
        in_flight: decision.in_flight,
        limits: decision.limits.clone(),
        outcome: decision.outcome,
        mode: decision.mode,
        flapping: decision.flapping,
        note: decision.note.clone(),
    }
}

/// A deployment as the API shows it; `mode` is what it is in now.
pub fn deployment(id: &DeploymentId, state: &State, mode: Mode) -> DeploymentView {
    let good = state.samples.recorded().filter_map(|(slot, recorded)| Some((slot, recorded.counts()?))).last();
    let counts = good.map(|(_, counts)| counts);
    let last = state.decision.as_ref();
    DeploymentView {
        id: id.to_string(),
        servers_per_host: state.shape.as_ref().map(|shape| shape.servers_per_host),
        target_free_pct: state.shape.as_ref().map(|shape| shape.target.pct()),
        hosts: counts.map(|counts| counts.hosts),
        total: counts.map(|counts| counts.total),
        free: counts.map(|counts| counts.free),
        free_pct: counts.and_then(|counts| free_pct(&counts)),
        desired_hosts: last.and_then(|last| last.desired),
        in_flight: last.map_or(0, |last| last.in_flight),
        mode,
        state: DeploymentState::of(state, mode),
        flapping: last.is_some_and(|last| last.flapping),
        rejected: state.rejected.clone(),
        observed_at: good.map(|(slot, _)| time(slot)),
        last_decision: last.map(decision),
    }
}

/// The share of free servers, in per cent.
#[expect(clippy::cast_precision_loss, reason = "counts are at most 2^53, which a float holds exactly")]
pub fn free_pct(counts: &Counts) -> Option<f64> {
    (counts.total > 0).then(|| counts.free as f64 * 100.0 / counts.total as f64)
}

/// One deployment as the API shows it.
pub fn detail(id: &DeploymentId, state: &State, policy: Policy) -> DeploymentDetail {
    DeploymentDetail {
        deployment: deployment(id, state, policy.mode),
        policy,
        pending: state.pending.as_ref().map(pending),
        flap_pct: state.flap_pct(),
        samples: state.samples.recorded().map(|(slot, recorded)| sample(slot, recorded)).collect(),
    }
}

fn pending(pending: &Pending) -> PendingView {
    PendingView {
        at: time(pending.slot),
        from: pending.from,
        delta: pending.delta,
        expected_hosts: pending.expected,
        readings: pending.readings,
        outcome: pending.outcome,
    }
}

fn sample(slot: Slot, recorded: &Recorded) -> SampleView {
    let bad = match recorded {
        Recorded::Good(..) => None,
        Recorded::Bad(BadCode::Error) => Some(BadSample::Error),
        Recorded::Bad(BadCode::Silent) => Some(BadSample::Silent),
        Recorded::Bad(BadCode::Nonsense) => Some(BadSample::Nonsense),
        Recorded::Bad(BadCode::Impossible) => Some(BadSample::Impossible),
        Recorded::Bad(BadCode::Rejected) => Some(BadSample::Rejected),
        Recorded::None(_) => Some(BadSample::Missing),
    };
    SampleView { at: time(slot), counts: recorded.counts().map(CountsView::from), bad }
}

/// What is known of all deployments, as the API shows it at `now`.
pub fn fleet(fleet: &Fleet, now: Timestamp) -> FleetView {
    let some = |at: Slot| (at > 0).then(|| time(at));
    FleetView {
        ticked_at: some(fleet.slot),
        discovered_at: some(fleet.discovered),
        doubt: fleet.doubt.clone(),
        frozen_until: (fleet.frozen_until >= slot(now)).then(|| time(fleet.frozen_until + 1)),
        ignored: fleet.ignored,
    }
}

/// What is set, as the API shows it.
pub fn policy(stored: Stored, effective: Policy) -> PolicyView {
    let Stored { version, given, set_by, set_at } = stored;
    PolicyView { version, set: given, effective, set_by, set_at }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state(reason: Option<Reason>) -> State {
        let mut state = State::new(None, 100, 0);
        state.decision = reason.map(|reason| Decision::new(100, reason));
        state
    }

    #[test]
    fn every_reason_has_its_state() {
        for (reason, word) in [
            (Reason::ScaledUp, "ok"),
            (Reason::ScaledDown, "ok"),
            (Reason::WithinTarget, "ok"),
            (Reason::AtMin, "ok"),
            (Reason::DryRun, "ok"),
            (Reason::DuplicateTick, "ok"),
            // The pause has ended since.
            (Reason::Paused, "ok"),
            (Reason::Stabilizing, "stabilizing"),
            (Reason::Cooldown, "stabilizing"),
            (Reason::InFlight, "stabilizing"),
            (Reason::AnticipatedFlap, "stabilizing"),
            (Reason::AtMax, "limited"),
            (Reason::StepLimited, "limited"),
            (Reason::ScaleUnknown, "limited"),
            (Reason::ScaleFailed, "limited"),
            (Reason::BadMetrics, "unreadable"),
            (Reason::BreakerOpen, "breaker_open"),
            (Reason::Frozen, "frozen"),
        ] {
            let found = DeploymentState::of(&state(Some(reason)), Mode::On);
            assert_eq!(found.as_str(), word, "{reason}");
            assert_eq!(serde_json::to_value(found).unwrap(), word, "{reason}");
        }
        assert_eq!(DeploymentState::of(&state(None), Mode::On), DeploymentState::Ok);
        let mut bounded = state(Some(Reason::ScaledUp));
        bounded.decision.as_mut().unwrap().limits = vec![Limit::MinHosts, Limit::UpStep];
        assert_eq!(DeploymentState::of(&bounded, Mode::DryRun), DeploymentState::Limited);
    }

    #[test]
    fn of_several_states_the_first_is_told() {
        for reason in [None, Some(Reason::Frozen), Some(Reason::AtMax)] {
            let mut it = state(reason);
            it.rejected = Some("no shape".to_owned());
            assert_eq!(DeploymentState::of(&it, Mode::DryRun), DeploymentState::Unreadable);
            for mode in [Mode::Paused, Mode::PausedIn, Mode::PausedOut] {
                assert_eq!(DeploymentState::of(&it, mode), DeploymentState::Paused);
            }
            it.gone = Some(90);
            assert_eq!(DeploymentState::of(&it, Mode::Paused), DeploymentState::Gone);
        }
    }

    #[test]
    fn a_number_beyond_json_is_cut_and_a_share_of_nothing_is_none() {
        let mut it = Decision::new(1, Reason::AtMax);
        it.need = Some(u64::MAX);
        assert_eq!(decision(&it).need_servers, Some(1 << 53));
        assert_eq!(free_pct(&Counts { hosts: 1, total: 0, free: 0 }), None);
        let most = Counts { hosts: 1, total: MOST, free: MOST };
        assert_eq!(free_pct(&most), Some(100.0));
    }

    #[test]
    fn a_freeze_ends_with_its_last_slot() {
        let frozen = Fleet { frozen_until: 101, ..Fleet::default() };
        assert_eq!(fleet(&frozen, time(101)).frozen_until, Some(time(102)));
        assert_eq!(fleet(&frozen, time(102)).frozen_until, None);
        assert_eq!((fleet(&frozen, time(102)).ticked_at, fleet(&frozen, time(102)).discovered_at), (None, None));
    }
}
