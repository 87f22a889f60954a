//! What is told about the deployments and about the requests to scale them.

use std::{collections::BTreeMap, time::Duration};

use serde::{Serialize, Serializer};

use super::{
    fault::Fault,
    model::{Model, Scaled, Status, share, sum},
};
use crate::server::Traffic;

/// One request to scale, as it came and what became of it: also the JSON of `GET /_sim/scales`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scale {
    /// In the order of arrival, from 1.
    pub number: u64,
    /// When it was decided on, in the simulator's time (`at_seconds` in JSON).
    #[serde(rename = "at_seconds", serialize_with = "seconds")]
    pub at: Duration,
    /// The deployment's id as it was asked for, whether or not there is one.
    pub id: String,
    /// In hosts.
    pub delta: i64,
    /// What became of it.
    pub done: Done,
    /// When it came into effect, if it did (`applied_at_seconds` in JSON).
    #[serde(rename = "applied_at_seconds", serialize_with = "maybe_seconds")]
    pub applied_at: Option<Duration>,
    /// The status that was sent; `None` where none was, or while the request hangs.
    pub answer: Option<u16>,
    /// `current_hosts` before it, at `applied_at` or else at `at`; 0 for an id that there is not.
    pub hosts_before: u64,
    /// `current_hosts` after it.
    pub hosts_after: u64,
    /// What went wrong.
    pub fault: Fault,
}

/// What became of a request to scale, whatever its client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// It came into effect at once.
    Applied,
    /// It will come into effect later.
    Pending,
    /// It came into effect later.
    AppliedLate,
    /// It was answered 200 and did nothing.
    Ignored,
    /// It was answered 4xx and did nothing.
    Refused,
    /// It was answered 5xx and did nothing.
    Failed,
    /// The connection was cut, and it did nothing.
    Cut,
    /// It hung, and did nothing.
    Hung,
}

impl Done {
    /// Whether hosts were added or taken away, or will be.
    pub fn takes_effect(self) -> bool {
        matches!(self, Self::Applied | Self::Pending | Self::AppliedLate)
    }
}

/// One deployment as it is now and has fared: also the JSON of `GET /_sim/deployments`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// How many servers run on a host.
    pub servers_per_host: u64,
    /// Which share of its servers should be free, in per cents, as it stands in the list.
    pub target_free_pct: String,
    /// Hosts that run.
    pub running: u64,
    /// Hosts that boot.
    pub booting: u64,
    /// Hosts that drain.
    pub draining: u64,
    /// What its status tells: `current_hosts`, `total_servers`, `free_servers`.
    #[serde(flatten)]
    pub status: Status,
    /// Servers that are wanted, whether or not there are so many.
    pub busy: u64,
    /// Free servers among all, of 0 to 1; 0 where there are none.
    pub free_share: f64,
    /// How long the free share was below the target.
    pub seconds_short: f64,
    /// The lowest free share so far.
    pub worst_share: Option<f64>,
    /// Hosts that boot, run or drain, times seconds.
    pub host_seconds: f64,
    /// Accepted scale requests.
    pub changes: u64,
}

/// What the API has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests and answers.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Requests for the list.
    pub discoveries: u64,
    /// Requests for a status, of ids that there are.
    pub statuses: u64,
    /// Requests to scale that could be read, unknown ids included.
    pub scales: u64,
    /// Those of them that came into effect, or will.
    pub scales_applied: u64,
    /// Requests about an id that there is not.
    pub unknown_ids: u64,
    /// Requests for anything else, and requests to scale that could not be read.
    pub strange_requests: u64,
    /// What went wrong, and how often; an entry of the list counts for each list.
    pub faults: BTreeMap<Fault, u64>,
}

impl Scale {
    /// As it came.
    pub(super) fn of(number: u64, at: Duration, id: String, delta: i64) -> Self {
        Self {
            number,
            at,
            id,
            delta,
            done: Done::Applied,
            applied_at: None,
            answer: None,
            hosts_before: 0,
            hosts_after: 0,
            fault: Fault::Well,
        }
    }

    pub(super) fn took_effect(&mut self, scaled: Scaled) {
        self.applied_at = Some(scaled.at);
        (self.hosts_before, self.hosts_after) = (scaled.before, scaled.after);
    }

    /// Does what the fault leaves of it.
    pub(super) fn happen(&mut self, fault: Fault, model: &mut Model, late_by: Duration) {
        let hosts = model.status().current_hosts;
        (self.hosts_before, self.hosts_after) = (hosts, hosts);
        self.fault = fault;
        self.done = match fault {
            Fault::ScaleLate | Fault::ScaleLateDrop => Done::Pending,
            Fault::ScaleIgnore => Done::Ignored,
            Fault::ScaleRefuse => Done::Refused,
            Fault::ScaleError => Done::Failed,
            Fault::ScaleCut => Done::Cut,
            Fault::ScaleHang => Done::Hung,
            _ => Done::Applied,
        };
        match self.done {
            Done::Applied => self.took_effect(model.scale(self.delta)),
            Done::Pending => model.scale_late(self.number, self.delta, late_by),
            _ => {}
        }
    }
}

impl Deployment {
    pub(super) fn of(model: &Model) -> Self {
        let (spec, record, status) = (model.spec(), model.record(), model.status());
        Self {
            id: spec.id.clone(),
            servers_per_host: spec.servers_per_host,
            target_free_pct: spec.target_free_pct.to_string(),
            running: model.running(),
            booting: sum(model.booting()),
            draining: sum(model.draining()),
            status,
            busy: model.busy(),
            free_share: share(status.free_servers, status.total_servers),
            seconds_short: record.short.as_secs_f64(),
            worst_share: record.worst_share,
            host_seconds: record.host_seconds(),
            changes: record.changes,
        }
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[expect(clippy::ref_option, reason = "serde asks for it")]
fn maybe_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}
