//! What is told about all of it.

use std::collections::BTreeMap;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::server::Traffic;

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Request {
    /// `GET /operating-systems`
    OperatingSystems,
    /// `GET /projects/{project}/plans`
    Plans,
    /// `GET /projects/{project}/facilities`
    Facilities,
    /// `GET /capacity`
    Capacity,
    /// `POST /capacity`
    CapacityCheck,
    /// `POST /projects/{project}/devices`
    Create,
    /// `GET /projects/{project}/devices`
    List,
    /// `GET /devices/{id}`
    Get,
    /// `PUT /devices/{id}`
    Update,
    /// `DELETE /devices/{id}`
    Delete,
    /// `GET /devices/{id}/events`
    Events,
    /// `GET /devices/{id}/diagnostics/health/rollup`
    Health,
    /// `POST /devices/{id}/actions`
    Action,
    /// Anything else.
    Other,
}

/// One device that was made, whether or not it is still there.
#[expect(clippy::struct_excessive_bools, reason = "they are facts, each on its own")]
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// A UUID.
    pub id: String,
    /// As asked for, or as the last update says.
    pub tags: Vec<String>,
    /// As asked for, or made up.
    pub hostname: String,
    /// Slug.
    pub plan: String,
    /// Code.
    pub facility: String,
    /// Slug.
    pub operating_system: String,
    /// As asked for.
    pub userdata: Option<String>,
    /// As the vendor calls it: `queued`, `provisioning`, `active` and so on; `deleted` where it is
    /// gone, also where it was reclaimed.
    pub state: String,
    /// Whether it costs: from its creation until it is deprovisioned or reclaimed.
    pub alive: bool,
    /// To the nanosecond.
    pub created_at: Timestamp,
    /// When it became active for the first time.
    pub active_at: Option<Timestamp>,
    /// When it was deprovisioned or reclaimed.
    pub ended_at: Option<Timestamp>,
    /// When the vendor will deprovision it by itself.
    pub termination_time: Option<Timestamp>,
    /// Whether it was the vendor that took it back after a failure.
    pub reclaimed: bool,
    /// Whether its termination time was what deprovisioned it.
    pub terminated: bool,
    /// Whether a deletion was asked for with `force_delete`, in the query or in the body.
    pub forced: bool,
    /// In millionths of a dollar: its price per hour, by the time it was alive.
    pub cost_micro_usd: u64,
    /// How often it was asked about.
    pub requests: u64,
}

/// What the simulator has seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// What the server has counted.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Requests by kind.
    pub kinds: BTreeMap<Request, u64>,
    /// Devices that were ever made.
    pub created: u64,
    /// Deletions that were accepted and begun.
    pub deletes: u64,
    /// Devices that are alive, that is, cost.
    pub alive: u64,
    /// The most that ever were.
    pub max_alive: u64,
    /// Devices by state, `deleted` included.
    pub states: BTreeMap<String, u64>,
    /// In millionths of a dollar, all devices together, so far.
    pub cost_micro_usd: u64,
    /// Requests without a good token.
    pub unauthorized: u64,
    /// What went wrong, and how often.
    pub faults: BTreeMap<Fault, u64>,
}

impl Stats {
    /// How many requests there were of a kind.
    pub fn requests(&self, kind: Request) -> u64 {
        self.kinds.get(&kind).copied().unwrap_or(0)
    }
}
