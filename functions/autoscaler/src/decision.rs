//! What was decided for a deployment, from what, and what came of it.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{machine::Slot, policy::Mode};

/// Why it was decided so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(as = ScalingReason)]
pub enum Reason {
    /// Hosts are added.
    ScaledUp,
    /// Hosts are taken away.
    ScaledDown,
    /// It has as many hosts as it needs.
    WithinTarget,
    /// It has more hosts than it needs now, but the window does not agree yet.
    Stabilizing,
    /// It has more hosts than it needs, but hosts were added, or a scaling failed, a short while ago.
    Cooldown,
    /// What it needs is on its way.
    InFlight,
    /// It needs fewer hosts than `min_hosts`.
    AtMin,
    /// It needs more hosts than `max_hosts`.
    AtMax,
    /// This minute's step is used up.
    StepLimited,
    /// It has changed direction too often: hosts are kept for the peak of a window twice as long.
    AnticipatedFlap,
    /// What it says of itself cannot be used.
    BadMetrics,
    /// It could not be used several times in a row; two good readings in a row end this.
    BreakerOpen,
    /// Too many deployments at once could not be read, or have vanished: no host is taken away.
    Frozen,
    /// The policy forbids it now.
    Paused,
    /// This would have been sent.
    DryRun,
    /// The slot's decision was made already.
    DuplicateTick,
    /// A request to scale has had no answer; reading the hosts will tell.
    ScaleUnknown,
    /// A request to scale was refused, or changed nothing; the next one waits.
    ScaleFailed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Reason {
    /// The reason with this name.
    pub fn parse(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }
}

/// A limit that has changed a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ScalingLimit)]
pub enum Limit {
    /// `min_hosts`: more hosts than needed.
    MinHosts,
    /// `max_hosts`: fewer hosts than needed.
    MaxHosts,
    /// `min_free_servers`: more servers than the share asks for.
    MinFreeServers,
    /// `up_step_hosts` and `up_step_pct`: fewer hosts at once.
    UpStep,
    /// `down_step_hosts` and `down_step_pct`: fewer hosts at once.
    DownStep,
    /// `window_seconds`: hosts are kept for the window's peak.
    Window,
}

/// What it was decided from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ScalingInputs)]
pub struct Inputs {
    /// Servers on each host.
    #[serde(rename = "servers_per_host")]
    pub servers_per_host: u64,
    /// The share of free servers that is wanted, in per cent, rounded up to thousandths.
    pub target_free_pct: f64,
    /// Hosts.
    pub hosts: u64,
    /// Servers.
    pub total: u64,
    /// Free servers.
    pub free: u64,
}

/// What became of a request to scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ScalingOutcome)]
pub enum Outcome {
    /// Written down; whether it was sent is not known yet.
    Intended,
    /// The deployments API has accepted it.
    Accepted,
    /// There was no answer, or one that does not say.
    Unknown,
    /// It was refused.
    Refused,
    /// It was never sent.
    NotSent,
    /// The number of hosts is what was asked for.
    Applied,
    /// The number of hosts has changed to another one, which is taken as it is.
    Adopted,
    /// The number of hosts has not changed.
    Failed,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The slot it was first made in.
    pub slot: Slot,
    /// The slot it was last made in: holds that are equal are one.
    pub last: Slot,
    /// In how many slots it was made.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// From what, where that could be read. Of the last slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// The servers that are needed now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<u64>,
    /// The hosts that are needed now, within the bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u64>,
    /// The most hosts that were needed in the window, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// By how many hosts it is scaled, or in a dry run would be.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delta: i64,
    /// Hosts that are on their way: asked for, and without servers yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_flight: i64,
    /// What has changed a number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// What became of the request, where one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The mode it was made in.
    #[serde(default, skip_serializing_if = "is_on")]
    pub mode: Mode,
    /// Whether it changes direction too often.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flapping: bool,
    /// What else there is to say, in words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_on(mode: &Mode) -> bool {
    *mode == Mode::On
}

impl Decision {
    /// A decision of `slot`, and nothing more of it.
    pub fn new(slot: Slot, reason: Reason) -> Self {
        Self {
            slot,
            last: slot,
            count: 1,
            reason,
            inputs: None,
            need: None,
            desired: None,
            window: None,
            delta: 0,
            in_flight: 0,
            limits: Vec::new(),
            outcome: None,
            mode: Mode::On,
            flapping: false,
            note: None,
        }
    }

    /// Whether `next` says the same again, in the same mode: both hold for the same reason, or would
    /// do the same if it were no dry run.
    pub fn continues(&self, next: &Self) -> bool {
        let same = |one: &Self| (one.reason, one.delta, one.mode, one.flapping);
        next.outcome.is_none() && same(self) == same(next)
    }

    /// The decision in a sentence.
    pub fn words(&self) -> String {
        let hosts = |count: u64| if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") };
        let mut words = match (self.reason, self.delta) {
            (Reason::ScaledUp, delta) => format!("adds {}", hosts(delta.unsigned_abs())),
            (Reason::ScaledDown, delta) => format!("takes away {}", hosts(delta.unsigned_abs())),
            (Reason::DryRun, 0) => "a dry run: would hold".to_owned(),
            (Reason::DryRun, delta @ 1..) => format!("a dry run: would add {}", hosts(delta.unsigned_abs())),
            (Reason::DryRun, delta) => format!("a dry run: would take away {}", hosts(delta.unsigned_abs())),
            (Reason::WithinTarget, _) => "has what it needs".to_owned(),
            (Reason::Stabilizing, _) => "could do with less now; the window does not agree yet".to_owned(),
            (Reason::Cooldown, _) => {
                "could do with less; too soon after hosts were added or a scaling failed".to_owned()
            }
            (Reason::InFlight, _) => "what it needs is on its way".to_owned(),
            (Reason::AtMin, _) => "would need less, but is at min_hosts".to_owned(),
            (Reason::AtMax, _) => "needs more, but is at max_hosts".to_owned(),
            (Reason::StepLimited, _) => "this minute's step is used up".to_owned(),
            (Reason::AnticipatedFlap, _) => {
                "has changed direction too often: keeps its hosts for the peak of a longer window".to_owned()
            }
            (Reason::BadMetrics, _) => "what it says of itself cannot be used".to_owned(),
            (Reason::BreakerOpen, _) => {
                "what it said of itself could not be used several times in a row; waits for two good readings"
                    .to_owned()
            }
            (Reason::Frozen, _) => {
                "could do with less, but too many deployments cannot be read: no host is taken away".to_owned()
            }
            (Reason::Paused, _) => format!("is {}", self.mode.as_str().replace('_', " ")),
            (Reason::DuplicateTick, _) => "this slot's decision was made already".to_owned(),
            (Reason::ScaleUnknown, _) => "a request to scale has had no answer; reading the hosts will tell".to_owned(),
            (Reason::ScaleFailed, _) => "a request to scale has failed; the next one waits".to_owned(),
        };
        if let (Some(inputs), Some(need)) = (self.inputs, self.need) {
            let busy = inputs.total.saturating_sub(inputs.free);
            let _ = write!(
                words,
                ": {busy} of {} servers busy; {} % free needs {need} servers, {}; it has {}",
                inputs.total,
                inputs.target_free_pct,
                hosts(self.desired.unwrap_or_default()),
                hosts(inputs.hosts),
            );
        }
        if let Some(note) = &self.note {
            let _ = write!(words, " ({note})");
        }
        words
    }
}
