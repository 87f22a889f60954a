//! The worker: every minute a snapshot of each service, and its alert one step further.
//!
//! A minute's work is done once, however often its tick comes: a claim keeps a second worker from
//! asking CPX too, and every record takes a minute only once. What is to be told is written with
//! the step that it follows from, and struck off when it has been sent; a crash in between sends it
//! again, under the same id.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use kit::{
    clock::Clock,
    dynamo::StoreError,
    metrics::{self, Metric, Unit},
};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    alert::{Machine, Notice, Phase, Policy, Step},
    config::Config,
    cpx::Cpx,
    history::Sample,
    notify::{Data, Event, Notifier, kind},
    poll::{Members, poll},
    server::{Load, Reading, Rollup, Server, Silence, Status, Thresholds, rollups},
    store::{Claim, KEPT, Kept, Outgoing, Record, ServiceStore, Sick, SickMinute, Subject},
};

/// Most services of one CPX that are kept.
pub const MOST_SERVICES: usize = 2000;
/// Most servers that are not healthy and are kept each for itself, in one minute.
pub const MOST_SICK: usize = 1000;
/// Servers that are not healthy and are named in an alert.
const NAMED: usize = 20;
/// Snapshots in a record: enough for a trend against five minutes ago.
const RECENT: usize = 6;
/// Writes to the store at once.
const WRITES: usize = 16;
/// Sendings at once.
const SENDINGS: usize = 8;
/// Nothing more is sent in a tick after so long: the rest is sent with the next.
const TELLING: Duration = Duration::from_secs(15);
/// A service of which no server has been listed for so long is gone.
const GONE_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// What could not be told for so long is not told any more.
const TELL_FOR: SignedDuration = SignedDuration::from_hours(24);

const SERVERS_SEEN: Metric = Metric::highest("ServersSeen", Unit::Count);
const SERVERS_UNKNOWN: Metric = Metric::highest("ServersUnknown", Unit::Count);
const ALERTS_FIRING: Metric = Metric::highest("AlertsFiring", Unit::Count);

/// Watches the services of one CPX.
#[derive(Debug, Clone)]
pub struct Watcher {
    store: ServiceStore,
    cpx: Cpx,
    config: Config,
    clock: Clock,
    notifier: Notifier,
    policy: Policy,
}

/// What came of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum Ended {
    /// Somebody does, or did, this minute's work, or that of a later one.
    Duplicate,
    /// The servers could not be listed: the services' alerts wait.
    NoList,
    /// The minute is written.
    Done {
        /// Services.
        services: usize,
        /// Servers.
        servers: usize,
        /// How many of them are unknown.
        unknown: usize,
        /// Alerts that fire.
        firing: usize,
        /// What was told, to everybody who is to hear it.
        told: usize,
    },
}

/// The minute that a time is in.
pub fn slot(time: Timestamp) -> Timestamp {
    let second = time.as_second();
    Timestamp::from_second(second - second.rem_euclid(60)).unwrap_or(time)
}

/// A step that has been written.
struct Written {
    record: Record,
    firing: bool,
}

impl Watcher {
    /// Of the CPX that `config` names; none where it names none.
    pub fn new(config: Config, store: kit::dynamo::Store, notifier: Notifier, clock: Clock) -> Option<Self> {
        let cpx = config.cpx.clone()?;
        let store = ServiceStore::new(store, cpx.name());
        Some(Self { store, cpx, config, clock, notifier, policy: Policy::default() })
    }

    /// Does the work of the minute `slot`.
    pub async fn tick(&self, slot: Timestamp) -> Result<Ended, StoreError> {
        let ended = self.work(slot).await;
        if ended.as_ref().is_ok_and(|ended| *ended != Ended::Duplicate) {
            self.store.done(slot).await?;
        }
        ended
    }

    /// Works every minute until `stop` is cancelled. A tick in the middle is left as it is: what is
    /// written is whole, and the next minute goes on from there.
    pub async fn work_forever(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let slot = slot(self.clock.now());
            match stop.run_until_cancelled(self.tick(slot)).await {
                None => return,
                Some(Ok(ended)) => tracing::debug!(%slot, ?ended, "ticked"),
                Some(Err(error)) => tracing::warn!(%slot, %error, "this minute could not be kept"),
            }
            let next = slot + SignedDuration::from_mins(1);
            let left = Duration::try_from(next.duration_since(self.clock.now())).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn work(&self, slot: Timestamp) -> Result<Ended, StoreError> {
        if self.store.claim(slot, self.clock.now()).await? == Claim::Taken {
            return Ok(Ended::Duplicate);
        }
        let (records, members) = tokio::try_join!(self.store.records(), self.store.members())?;
        let read = poll(&self.cpx, self.config.bounds, &self.clock, std::future::ready(members.clone())).await;
        let mut steps = vec![self.source(slot, &records, read.is_err())];
        let reading = match read {
            Ok(reading) => {
                steps.extend(self.services(slot, &records, &reading));
                Some(reading)
            }
            Err(error) => {
                tracing::warn!(%error, "the servers could not be listed");
                None
            }
        };
        let written: Vec<Option<Written>> =
            stream::iter(steps).map(|step| self.write(slot, step)).buffer_unordered(WRITES).try_collect().await?;
        let written: Vec<_> = written.into_iter().flatten().collect();
        let firing = written.iter().filter(|written| written.firing).count();
        if let Some(reading) = &reading {
            self.keep_servers(slot, reading, &members).await?;
        }
        // Those of services that had no step are not forgotten.
        let now: BTreeMap<_, _> = written.iter().map(|written| (&written.record.subject, &written.record)).collect();
        let older = records.iter().filter(|record| !now.contains_key(&record.subject));
        let told = self.tell(now.values().copied().chain(older)).await?;

        metrics::process().record(ALERTS_FIRING, firing as u64);
        let Some(reading) = reading else { return Ok(Ended::NoList) };
        let unknown = reading.servers.iter().filter(|server| server.load.is_err()).count();
        metrics::process().record(SERVERS_SEEN, reading.servers.len() as u64);
        metrics::process().record(SERVERS_UNKNOWN, unknown as u64);
        let services = written.len().saturating_sub(1);
        Ok(Ended::Done { services, servers: reading.servers.len(), unknown, firing, told })
    }

    /// CPX's own step.
    fn source(&self, slot: Timestamp, records: &[Record], silent: bool) -> Record {
        let mut record = known(records, &Subject::Source).unwrap_or_else(|| fresh(Subject::Source));
        let step = record.kept.machine.observe(slot, silent, record.silence.as_ref(), &self.policy);
        record.kept.ttl = (slot + KEPT).as_second();
        record.notice = self.outgoing(step, false).or(record.notice);
        record
    }

    /// The step of each service that there is, or was.
    fn services(&self, slot: Timestamp, records: &[Record], reading: &Reading) -> Vec<Record> {
        let thresholds = &self.config.thresholds;
        let mut services: BTreeMap<_, _> = rollups(&reading.servers, thresholds)
            .into_iter()
            .map(|(name, sum)| (Subject::Service(name), sum))
            .collect();
        for record in records.iter().filter(|record| !record.kept.retired && record.subject != Subject::Source) {
            services.entry(record.subject.clone()).or_insert(Rollup::NONE);
        }
        if services.len() > MOST_SERVICES {
            tracing::error!(services = services.len(), most = MOST_SERVICES, "not all services are kept");
        }
        let sick = sick_by_service(&reading.servers, thresholds);
        let step = |(subject, sum): (Subject, Rollup)| {
            let sick = sick.get(&subject).cloned().unwrap_or_default();
            self.service(slot, known(records, &subject).unwrap_or_else(|| fresh(subject)), &sum, sick)
        };
        services.into_iter().take(MOST_SERVICES).map(step).collect()
    }

    fn service(&self, slot: Timestamp, mut record: Record, sum: &Rollup, sick: Vec<Sick>) -> Record {
        let kept = &mut record.kept;
        if kept.retired {
            // It is back.
            kept.retired = false;
        }
        kept.min_healthy = self.config.min_healthy;
        kept.sick = sick;
        kept.recent.retain(|sample| sample.at < slot);
        kept.recent.push(rounded(sample(slot, sum)));
        let surplus = kept.recent.len().saturating_sub(RECENT);
        kept.recent.drain(..surplus);
        kept.gone_since = (sum.servers == 0).then(|| kept.gone_since.unwrap_or(slot));
        let gone = kept.gone_since.is_some_and(|since| slot.duration_since(since) >= GONE_AFTER);
        kept.ttl = (slot + if gone { TELL_FOR } else { KEPT }).as_second();

        let below = sum.healthy < kept.min_healthy;
        let step = if gone {
            kept.retired = true;
            // Whoever was told that it fires is told that it is over.
            kept.machine.retire(slot, record.silence.as_ref())
        } else if below && sum.healthy + sum.cut >= kept.min_healthy {
            // Those that CPX had no time to tell of may well be healthy.
            kept.machine.hold(slot);
            Step::Quiet
        } else {
            kept.machine.observe(slot, below, record.silence.as_ref(), &self.policy)
        };
        record.notice = self.outgoing(step, gone).or(record.notice);
        record
    }

    /// What a step gives to tell, where there is anybody to tell it to.
    fn outgoing(&self, step: Step, gone: bool) -> Option<Outgoing> {
        let Step::Tell(notice) = step else { return None };
        let channels = self.notifier.channels();
        tracing::info!(?notice, "an alert has changed");
        (!channels.is_empty()).then(|| Outgoing { id: Uuid::now_v7(), notice, gone, channels })
    }

    /// Writes a step, unless the minute is in the record already.
    async fn write(&self, slot: Timestamp, record: Record) -> Result<Option<Written>, StoreError> {
        if let (Subject::Service(name), Some(sample)) = (&record.subject, record.kept.recent.last())
            && !record.kept.retired
        {
            self.store.put_snapshot(name, sample).await?;
        }
        let notice = record.notice.as_ref().filter(|notice| notice.notice.at == slot);
        let written = self.store.put_record(&record.subject, &record.kept, slot, notice).await?;
        let firing = record.kept.machine.firing;
        Ok(written.then_some(Written { record, firing }))
    }

    /// Keeps the servers that are not healthy, and where all of them belong.
    async fn keep_servers(&self, slot: Timestamp, reading: &Reading, before: &Members) -> Result<(), StoreError> {
        stream::iter(sick_minutes(slot, &reading.servers, &self.config.thresholds))
            .map(Ok)
            .try_for_each_concurrent(WRITES, async |minute| self.store.put_sick(&minute).await)
            .await?;
        let after = reading.servers.iter().filter_map(|server| Some((server.ip, server.service.clone()?)));
        self.store.put_members(before, &after.collect()).await
    }

    /// Sends what is still to be told. Answers how much of it everybody has taken.
    async fn tell<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Result<usize, StoreError> {
        let deadline = Instant::now() + TELLING;
        let outgoing = records.filter_map(|record| Some((record, record.notice.as_ref()?)));
        // Made before they are run: from a stream's closure the future would not be `Send`.
        let sendings: Vec<_> = outgoing.map(|(record, outgoing)| self.tell_one(record, outgoing, deadline)).collect();
        stream::iter(sendings).buffer_unordered(SENDINGS).try_fold(0, async |sum, one| Ok(sum + one)).await
    }

    async fn tell_one(&self, record: &Record, outgoing: &Outgoing, deadline: Instant) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let late = now.duration_since(outgoing.notice.at) > TELL_FOR;
        let left = if late {
            tracing::error!(event = %outgoing.id, "an alert could not be told for a day; it is given up");
            BTreeSet::new()
        } else if Instant::now() >= deadline {
            outgoing.channels.clone()
        } else {
            self.notifier.send(&event(record, outgoing), &outgoing.channels, now).await
        };
        if left != outgoing.channels {
            self.store.told(&record.subject, outgoing.id, &left).await?;
        }
        Ok(usize::from(left.is_empty() && !late))
    }
}

fn known(records: &[Record], subject: &Subject) -> Option<Record> {
    let place = records.binary_search_by(|record| record.subject.cmp(subject)).ok()?;
    Some(records[place].clone())
}

fn fresh(subject: Subject) -> Record {
    let kept = Kept {
        id: Uuid::now_v7(),
        machine: Machine::default(),
        recent: Vec::new(),
        sick: Vec::new(),
        min_healthy: 0,
        gone_since: None,
        retired: false,
        ttl: 0,
    };
    Record { subject, kept, silence: None, notice: None }
}

/// As it is kept: with averages of three decimals. A record of a service then stays below the
/// kilobyte that DynamoDB counts a write by.
fn rounded(mut sample: Sample) -> Sample {
    for pct in sample.cpu_pct.iter_mut().chain(&mut sample.memory_pct) {
        *pct = (*pct * 1000.0).round() / 1000.0;
    }
    sample
}

/// A service in a minute.
pub fn sample(at: Timestamp, sum: &Rollup) -> Sample {
    Sample {
        at,
        servers: sum.servers,
        healthy: sum.healthy,
        unhealthy: sum.unhealthy,
        unknown: sum.unknown,
        cpu_pct: sum.average.map(|average| average.cpu_pct),
        memory_pct: sum.average.map(|average| average.memory_pct),
    }
}

fn sick<'a>(server: &'a Server, thresholds: &Thresholds) -> Option<(&'a Server, Sick)> {
    let status = server.status(thresholds);
    let load = |part: fn(&Load) -> f64| server.load.as_ref().ok().map(part);
    let sick = || Sick {
        ip: server.ip,
        status,
        cpu_pct: load(|load| load.cpu_pct),
        memory_pct: load(|load| load.memory_pct),
        reason: server.load.as_ref().err().map(Silence::to_string),
    };
    (status != Status::Healthy).then(|| (server, sick()))
}

/// What is kept of the servers that are not healthy, each for itself.
fn sick_minutes(slot: Timestamp, servers: &[Server], thresholds: &Thresholds) -> Vec<SickMinute> {
    let sick: Vec<_> = servers.iter().filter_map(|server| sick(server, thresholds)).collect();
    if sick.len() > MOST_SICK {
        tracing::warn!(sick = sick.len(), most = MOST_SICK, "not all of them are kept each for itself");
    }
    let minute = |(server, sick): (&Server, Sick)| SickMinute { at: slot, service: server.service.clone(), sick };
    sick.into_iter().take(MOST_SICK).map(minute).collect()
}

fn sick_by_service(servers: &[Server], thresholds: &Thresholds) -> BTreeMap<Subject, Vec<Sick>> {
    let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (server, sick) in servers.iter().filter_map(|server| sick(server, thresholds)) {
        let Some(name) = &server.service else { continue };
        let named = services.entry(Subject::Service(name.clone())).or_default();
        if named.len() < NAMED {
            named.push(sick);
        }
    }
    services
}

fn event(record: &Record, outgoing: &Outgoing) -> Event {
    let Record { subject, kept, .. } = record;
    let Notice { to, at, .. } = outgoing.notice;
    let last = kept.recent.last();
    let count = |part: fn(&Sample) -> u32| last.map_or(0, part);
    let healthy = count(|sample| sample.healthy);
    let (service, summary) = match subject {
        Subject::Source => (
            None,
            match to {
                Phase::Ok => "CPX lists its servers again".to_owned(),
                Phase::Firing => "CPX does not list its servers: nobody watches the services".to_owned(),
                Phase::Flapping => "CPX lists its servers now and then".to_owned(),
            },
        ),
        Subject::Service(name) => {
            let few = format!(
                "{healthy} of {} servers healthy, at least {} wanted",
                count(|it| it.servers),
                kept.min_healthy
            );
            let summary = match to {
                Phase::Ok if outgoing.gone => format!("{name} is gone: none of its servers is listed any more"),
                Phase::Ok => format!("{name} has enough healthy servers again: {few}"),
                Phase::Firing => format!("{name} is short of healthy servers: {few}"),
                Phase::Flapping => format!("{name} is flapping between enough and too few healthy servers: {few}"),
            };
            (Some(name.to_string()), summary)
        }
    };
    Event {
        kind: kind(to),
        timestamp: at,
        id: outgoing.id,
        data: Data {
            alert_id: kept.id,
            service,
            servers: count(|sample| sample.servers),
            healthy,
            unhealthy: count(|sample| sample.unhealthy),
            unknown: count(|sample| sample.unknown),
            min_healthy: kept.min_healthy,
            sick: kept.sick.clone(),
            summary,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kit::dynamo::embedded::Embedded;

    use super::*;
    use crate::{config::URL, server::ServiceName, store::Channel};

    const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

    async fn watcher() -> Watcher {
        let config = Config::from_settings(|name| (name == URL).then(|| "http://127.0.0.1:9".to_owned())).unwrap();
        let store = Embedded::memory().unwrap().store("test-");
        store.create_tables(&[&crate::TABLE]).await.unwrap();
        Watcher::new(config, store, Notifier::default(), Clock::manual(NOON)).unwrap()
    }

    #[test]
    fn a_slot_is_the_minute_that_a_time_is_in() {
        for (time, minute) in [(0, 0), (59, 0), (60, 60), (1_800_000_059, 1_800_000_000)] {
            assert_eq!(slot(Timestamp::constant(time, 999)), Timestamp::constant(minute, 0), "{time}");
        }
    }

    /// Silent servers, each of the service that `name` says.
    fn servers(number: u32, name: impl Fn(u32) -> String) -> Vec<Server> {
        let server = |n: u32| Server {
            ip: std::net::Ipv4Addr::from(n).into(),
            service: ServiceName::try_from(name(n)).ok(),
            load: Err(Silence::Time),
            observed_at: NOON,
        };
        (0..number).map(server).collect()
    }

    #[test]
    fn of_too_many_sick_servers_the_first_are_kept_and_fewer_are_named() {
        let servers = servers(1005, |_| "AuthService".to_owned());
        let minutes = sick_minutes(NOON, &servers, &Thresholds::default());
        assert_eq!((minutes.len(), minutes[999].sick.ip), (1000, servers[999].ip));
        let named: Vec<_> = sick_by_service(&servers, &Thresholds::default()).into_values().flatten().collect();
        assert_eq!((named.len(), named[19].ip), (20, servers[19].ip));
    }

    #[tokio::test]
    async fn of_too_many_services_the_first_are_kept() {
        let servers = servers(2005, |n| format!("Service{n:04}"));
        let reading = Reading { servers, observed_at: NOON, complete: true, ignored: 0 };
        let steps = watcher().await.services(NOON, &[], &reading);
        assert_eq!(steps.len(), 2000);
        assert_eq!(steps[1999].subject.service().unwrap().as_str(), "Service1999");
    }

    #[tokio::test]
    async fn a_step_counts_where_it_was_written_and_brings_only_its_own_notice() {
        let watcher = watcher().await;
        let old = Notice { from: Phase::Ok, to: Phase::Firing, at: NOON - SignedDuration::from_mins(1) };
        let notice = Outgoing { id: Uuid::now_v7(), notice: old, gone: false, channels: BTreeSet::new() };
        let record = || Record { notice: Some(notice.clone()), ..fresh(Subject::Source) };
        assert!(watcher.write(NOON, record()).await.unwrap().is_some());
        // A slow worker may have struck it off meanwhile.
        assert_eq!(watcher.store.records().await.unwrap()[0].notice, None);
        assert!(watcher.write(NOON, record()).await.unwrap().is_none(), "it was another's");
    }

    /// With nobody to send to, whatever is tried counts as sent.
    #[tokio::test]
    async fn after_its_time_a_tick_sends_nothing_more() {
        let notice = Notice { from: Phase::Ok, to: Phase::Firing, at: NOON };
        let outgoing = Outgoing { id: Uuid::now_v7(), notice, gone: false, channels: BTreeSet::from([Channel::Topic]) };
        let watcher = watcher().await;
        let record = fresh(Subject::Source);
        let now = Instant::now();
        assert_eq!(watcher.tell_one(&record, &outgoing, now).await.unwrap(), 0);
        assert_eq!(watcher.tell_one(&record, &outgoing, now + TELLING).await.unwrap(), 1);
    }
}
