//! What the API shows: servers, services, alerts.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    alert::{Phase, Silence, State},
    history::{Point, Sample, Trend, trend},
    server::{Reading, Rollup, Server, ServiceName, Status, Thresholds},
    store::{Record, Sick, SickMinute, Subject},
    worker::sample,
};

/// A server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    /// Its address.
    #[schema(value_type = String)]
    pub ip: IpAddr,
    /// Which service it runs; of a silent one, which it ran when it said so last. Null where it never did.
    pub service: Option<String>,
    /// How it is.
    pub status: Status,
    /// Per cent of CPU, 0 to 100; null where unknown.
    pub cpu_pct: Option<f64>,
    /// Per cent of memory, 0 to 100; null where unknown.
    pub memory_pct: Option<f64>,
    /// When that was learnt. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub observed_at: Timestamp,
    /// Why it is unknown; null where it is not.
    pub reason: Option<String>,
}

/// A page of servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Servers {
    /// The servers.
    pub items: Vec<ServerView>,
    /// What they are all from.
    #[serde(flatten)]
    pub reading: ReadingView,
}

/// What a list was read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingView {
    /// Above which load a server is unhealthy.
    pub thresholds: Thresholds,
    /// When the last server was read. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub observed_at: Timestamp,
    /// Whether every server was asked and had its time to answer.
    pub complete: bool,
    /// Entries of CPX's list that are no addresses, or too many, and were not asked for.
    pub ignored: usize,
    /// Servers of which nobody knows the service. They are in the list of servers, and in no service.
    pub without_service: usize,
    /// Give it as `?cursor=` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// Its name.
    pub service: String,
    /// How many servers run it.
    pub servers: u32,
    /// How many of them are healthy.
    pub healthy: u32,
    /// How many are above a threshold.
    pub unhealthy: u32,
    /// How many did not answer, or answered nonsense.
    pub unknown: u32,
    /// Over how many servers the averages are: those that reported.
    pub reporting: u32,
    /// The average per cent of CPU; null where no server reported.
    pub cpu_pct: Option<f64>,
    /// The average per cent of memory; null where no server reported.
    pub memory_pct: Option<f64>,
    /// How the averages are.
    pub status: Status,
    /// What has changed in five minutes; null where the worker has no snapshot of then.
    pub trend: Option<Trend>,
}

/// A page of services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// The services, by name.
    pub items: Vec<ServiceView>,
    /// What they are all from.
    #[serde(flatten)]
    pub reading: ReadingView,
}

/// One service and its servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceWithServers {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceView,
    /// Its servers by address, the first 500 of them.
    pub items: Vec<ServerView>,
    /// What they are all from.
    #[serde(flatten)]
    pub reading: ReadingView,
}

/// A service that is short of healthy servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShortService {
    /// Its name.
    pub service: String,
    /// How many healthy servers it has.
    pub healthy: u32,
    /// How many are above a threshold.
    pub unhealthy: u32,
    /// How many did not answer, or answered nonsense. They count as not healthy.
    pub unknown: u32,
    /// How many servers it has.
    pub servers: u32,
}

/// The services that are short of healthy servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShortServices {
    /// The services: those with the fewest healthy servers first.
    pub items: Vec<ShortService>,
    /// Fewer healthy servers than this are too few.
    pub min_healthy: u32,
    /// What they are all from.
    #[serde(flatten)]
    pub reading: ReadingView,
}

/// The history of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Its name.
    pub service: String,
    /// From when on. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// Until when. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// How much time a point stands for.
    pub resolution_seconds: i64,
    /// At most 500, oldest first. Minutes without a snapshot are left out.
    pub items: Vec<Point>,
}

/// A minute in which a server was not healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SickMinuteView {
    /// Which minute. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Its service, where known.
    pub service: Option<String>,
    /// How it was.
    pub status: Status,
    /// Per cent of CPU; null where unknown.
    pub cpu_pct: Option<f64>,
    /// Per cent of memory; null where unknown.
    pub memory_pct: Option<f64>,
    /// Why it was unknown; null where it was not.
    pub reason: Option<String>,
}

/// An alert: a service that is, or was, short of healthy servers; or CPX, which does not list them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlertView {
    /// Its id.
    pub id: Uuid,
    /// `service`, or `source` for CPX itself.
    pub kind: AlertKind,
    /// The service; null for CPX itself.
    pub service: Option<String>,
    /// `pending` and `clearing` are on their way: three minutes in a row decide.
    pub state: State,
    /// What has been told: to whom it concerns, this is how it stands.
    pub told: Phase,
    /// When that was told. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub told_at: Option<Timestamp>,
    /// Whether it changes too often to be told of each change.
    pub flapping: bool,
    /// How often it has changed, by Nagios' weighted score, in per cent: flapping from 20 up, no
    /// more below 5.
    pub flap_score: f64,
    /// Since when it has been firing, or not. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// The minute that was looked at last. RFC 3339, UTC.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
    /// How many servers there were then.
    pub servers: u32,
    /// How many of them were healthy.
    pub healthy: u32,
    /// Fewer than this are too few.
    pub min_healthy: u32,
    /// The servers that were not healthy, the first 20 of them. They have no alerts of their own.
    pub sick: Vec<Sick>,
    /// Who wants to hear nothing of it, and until when.
    pub silence: Option<Silence>,
    /// Whether there is something that could not be told yet, and is tried again every minute.
    pub telling: bool,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A service that has too few healthy servers.
    Service,
    /// CPX itself, which does not list its servers.
    Source,
}

/// A server as the API shows it.
pub fn server(server: &Server, thresholds: &Thresholds) -> ServerView {
    let load = server.load.as_ref().ok();
    ServerView {
        ip: server.ip,
        service: server.service.as_ref().map(ToString::to_string),
        status: server.status(thresholds),
        cpu_pct: load.map(|load| load.cpu_pct),
        memory_pct: load.map(|load| load.memory_pct),
        observed_at: server.observed_at,
        reason: server.load.as_ref().err().map(ToString::to_string),
    }
}

/// A reading as the API shows it.
pub fn reading(reading: &Reading, thresholds: Thresholds) -> ReadingView {
    ReadingView {
        thresholds,
        observed_at: reading.observed_at,
        complete: reading.complete,
        ignored: reading.ignored,
        without_service: reading.servers.iter().filter(|server| server.service.is_none()).count(),
        next_cursor: None,
    }
}

/// A service as the API shows it; `record` is what is kept of it.
pub fn service(
    name: &ServiceName,
    sum: &Rollup,
    record: Option<&Record>,
    observed_at: Timestamp,
    thresholds: &Thresholds,
) -> ServiceView {
    let now = sample(observed_at, sum);
    let then = record.and_then(|record| five_minutes_ago(&record.kept.recent, observed_at));
    ServiceView {
        service: name.to_string(),
        servers: sum.servers,
        healthy: sum.healthy,
        unhealthy: sum.unhealthy,
        unknown: sum.unknown,
        reporting: sum.reporting(),
        cpu_pct: now.cpu_pct,
        memory_pct: now.memory_pct,
        status: sum.status(thresholds),
        trend: then.map(|then| trend(&now, then)),
    }
}

/// The snapshot that is nearest to five minutes before `now`, if one is near.
fn five_minutes_ago(recent: &[Sample], now: Timestamp) -> Option<&Sample> {
    let off = |sample: &Sample| (now.duration_since(sample.at).as_secs() - 300).abs();
    recent.iter().filter(|sample| off(sample) <= 90).min_by_key(|sample| off(sample))
}

/// An alert as the API shows it.
pub fn alert(record: &Record) -> AlertView {
    let Record { subject, kept, silence, notice } = record;
    let last = kept.recent.last();
    let (kind, service) = match subject {
        Subject::Source => (AlertKind::Source, None),
        Subject::Service(name) => (AlertKind::Service, Some(name.to_string())),
    };
    AlertView {
        id: kept.id,
        kind,
        service,
        state: kept.machine.state(),
        told: kept.machine.told,
        told_at: kept.machine.told_at,
        flapping: kept.machine.flapping,
        flap_score: kept.machine.score(),
        since: kept.machine.since,
        observed_at: kept.machine.last_slot,
        servers: last.map_or(0, |last| last.servers),
        healthy: last.map_or(0, |last| last.healthy),
        min_healthy: kept.min_healthy,
        sick: kept.sick.clone(),
        silence: silence.clone(),
        telling: notice.is_some(),
    }
}

/// A minute as the API shows it.
pub fn sick_minute(minute: SickMinute) -> SickMinuteView {
    let SickMinute { at, service, sick } = minute;
    SickMinuteView {
        at,
        service: service.map(String::from),
        status: sick.status,
        cpu_pct: sick.cpu_pct,
        memory_pct: sick.memory_pct,
        reason: sick.reason,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_trend_is_against_the_snapshot_nearest_to_five_minutes_ago_if_one_is_near() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let against = |ages: &[i64]| {
            let at = |age: &i64| sample(Timestamp::from_second(now.as_second() - age).unwrap(), &Rollup::NONE);
            let recent: Vec<Sample> = ages.iter().map(at).collect();
            five_minutes_ago(&recent, now).map(|sample| now.as_second() - sample.at.as_second())
        };
        assert_eq!(against(&[359, 299, 239, 179, 119, 59]), Some(299));
        assert_eq!(against(&[330, 270, 210]), Some(330));
        assert_eq!(against(&[331, 271, 211]), Some(271));
        for (ages, expected) in
            [(&[390][..], Some(390)), (&[391], None), (&[210], Some(210)), (&[209, 0], None), (&[], None)]
        {
            assert_eq!(against(ages), expected, "{ages:?}");
        }
    }
}
