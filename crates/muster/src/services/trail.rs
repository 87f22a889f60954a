//! What is known of a service while it is followed: the last reading, what has changed, and the last
//! readings of each of its servers. Pure, and bounded however long it goes on.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use ::services::http::{ServerView, ServiceWithServers};
use jiff::Timestamp;

/// Readings of a server that are kept: more than fit beside a table.
pub const KEPT: usize = 120;

/// A service that is followed.
#[derive(Debug, Clone)]
pub struct Trail {
    now: ServiceWithServers,
    cpu: Average,
    memory: Average,
    servers: HashMap<IpAddr, Steps>,
    failed: Option<Failed>,
}

/// Readings that failed since the last good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Why the last of them did.
    pub why: String,
    /// When the first of them did.
    pub since: Timestamp,
}

/// An average and where it came from. None where no server reported.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Average {
    first: Option<f64>,
    /// Whether there is a first one, and it is not the last.
    moved: bool,
    before: Option<f64>,
    now: Option<f64>,
}

impl Average {
    fn learn(&mut self, value: Option<f64>) {
        *self = Self { first: self.first.or(value), moved: self.first.is_some(), before: self.now, now: value };
    }

    /// In the last reading, in per cent.
    pub fn now(&self) -> Option<f64> {
        self.now
    }

    /// Since the reading before, in percentage points.
    pub fn since_last(&self) -> Option<f64> {
        Some(self.now? - self.before?)
    }

    /// Since the first reading that had one, in percentage points; none in that one.
    pub fn since_start(&self) -> Option<f64> {
        self.first.filter(|_| self.moved).and_then(|first| Some(self.now? - first))
    }
}

/// The last readings of a server.
#[derive(Debug, Clone, Default)]
struct Steps {
    before: Option<Load>,
    now: Option<Load>,
    cpu: VecDeque<Option<f64>>,
}

#[derive(Debug, Clone, Copy)]
struct Load {
    cpu: f64,
    memory: f64,
}

impl Trail {
    /// Begins with a first reading.
    pub fn new(first: ServiceWithServers) -> Self {
        let mut trail = Self {
            cpu: Average::default(),
            memory: Average::default(),
            servers: HashMap::new(),
            failed: None,
            now: first,
        };
        trail.take();
        trail
    }

    /// Learns another reading, and answers whether it is one: the same again changes nothing.
    pub fn learn(&mut self, reading: ServiceWithServers) -> bool {
        self.failed = None;
        let is_new = reading.reading.observed_at != self.now.reading.observed_at;
        if is_new {
            self.now = reading;
            self.take();
        }
        is_new
    }

    /// Learns that a reading failed at `now`. The last one stays.
    pub fn fail(&mut self, why: String, now: Timestamp) {
        let since = self.failed.as_ref().map_or(now, |failed| failed.since);
        self.failed = Some(Failed { why, since });
    }

    fn take(&mut self) {
        self.cpu.learn(self.now.service.cpu_pct);
        self.memory.learn(self.now.service.memory_pct);
        let mut known = std::mem::take(&mut self.servers);
        // Those that are gone are forgotten.
        self.servers =
            self.now.items.iter().map(|server| (server.ip, next(known.remove(&server.ip), server))).collect();
    }

    /// The last reading.
    pub fn now(&self) -> &ServiceWithServers {
        &self.now
    }

    /// The average CPU.
    pub fn cpu(&self) -> Average {
        self.cpu
    }

    /// The average memory.
    pub fn memory(&self) -> Average {
        self.memory
    }

    /// What has failed since the last reading.
    pub fn failed(&self) -> Option<&Failed> {
        self.failed.as_ref()
    }

    /// By how many percentage points a server's CPU and memory rose since the reading before; none
    /// where one of the two is unknown.
    pub fn change(&self, ip: IpAddr) -> (Option<f64>, Option<f64>) {
        let steps = self.servers.get(&ip);
        let both = steps.and_then(|steps| Some((steps.now?, steps.before?)));
        (both.map(|(now, before)| now.cpu - before.cpu), both.map(|(now, before)| now.memory - before.memory))
    }

    /// The last readings of a server's CPU, at most `most`, the oldest first; none for unknown.
    pub fn recent(&self, ip: IpAddr, most: usize) -> impl Iterator<Item = Option<f64>> + '_ {
        let cpu = self.servers.get(&ip).map(|steps| &steps.cpu);
        cpu.into_iter().flat_map(move |cpu| cpu.iter().skip(cpu.len().saturating_sub(most)).copied())
    }
}

fn next(known: Option<Steps>, server: &ServerView) -> Steps {
    let mut steps = known.unwrap_or_default();
    let now = server.cpu_pct.zip(server.memory_pct).map(|(cpu, memory)| Load { cpu, memory });
    steps.before = std::mem::replace(&mut steps.now, now);
    steps.cpu.push_back(server.cpu_pct);
    if steps.cpu.len() > KEPT {
        steps.cpu.pop_front();
    }
    steps
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, clippy::missing_panics_doc, missing_docs)]
    use super::*;

    /// A reading of `AuthService` at a second, of servers 10.58.1.1 and up: CPU, or none if unknown.
    pub fn reading(second: i64, cpus: &[Option<f64>]) -> ServiceWithServers {
        let at = Timestamp::from_second(1_800_000_000 + second).unwrap();
        let known: Vec<f64> = cpus.iter().copied().flatten().collect();
        let count = u32::try_from(known.len()).unwrap();
        let average = (count > 0).then(|| known.iter().sum::<f64>() / f64::from(count));
        let unhealthy = u32::try_from(known.iter().filter(|cpu| **cpu > 90.0).count()).unwrap();
        let server = |(number, cpu): (usize, &Option<f64>)| {
            serde_json::json!({
                "ip": format!("10.58.1.{}", number + 1), "service": "AuthService", "observed_at": at,
                "status": match cpu { None => "unknown", Some(cpu) if *cpu > 90.0 => "unhealthy", Some(_) => "healthy" },
                "cpu_pct": cpu, "memory_pct": cpu.map(|_| 4.0), "reason": cpu.is_none().then_some("no answer in time"),
            })
        };
        serde_json::from_value(serde_json::json!({
            "service": "AuthService", "servers": cpus.len(), "healthy": count - unhealthy, "unhealthy": unhealthy,
            "unknown": cpus.len() - known.len(), "reporting": count, "cpu_pct": average,
            "memory_pct": average.map(|_| 4.0), "trend": null,
            "status": match average { None => "unknown", Some(cpu) if cpu > 90.0 => "unhealthy", Some(_) => "healthy" },
            "items": cpus.iter().enumerate().map(server).collect::<Vec<_>>(),
            "thresholds": {"cpu_pct": 90.0, "memory_pct": 90.0}, "observed_at": at, "complete": true, "ignored": 0,
            "without_service": 0,
        }))
        .unwrap()
    }

    fn ip(number: u8) -> IpAddr {
        [10, 58, 1, number].into()
    }

    fn recent(trail: &Trail, number: u8) -> Vec<Option<f64>> {
        trail.recent(ip(number), KEPT).collect()
    }

    #[test]
    fn changes_are_against_the_reading_before_and_against_the_first() {
        let mut trail = Trail::new(reading(0, &[Some(10.0), Some(30.0)]));
        assert_eq!((trail.cpu().since_last(), trail.cpu().since_start()), (None, None));
        assert_eq!(trail.change(ip(1)), (None, None));
        assert!(trail.learn(reading(2, &[Some(20.0), Some(30.0)])));
        assert!(trail.learn(reading(4, &[Some(15.0), Some(30.0)])));
        let cpu = trail.cpu();
        assert_eq!((cpu.now(), cpu.since_last(), cpu.since_start()), (Some(22.5), Some(-2.5), Some(2.5)));
        assert_eq!(trail.change(ip(1)), (Some(-5.0), Some(0.0)));
    }

    #[test]
    fn the_same_reading_again_is_none() {
        let mut trail = Trail::new(reading(0, &[Some(10.0)]));
        assert!(!trail.learn(reading(0, &[Some(10.0)])));
        assert_eq!(recent(&trail, 1), [Some(10.0)]);
    }

    #[test]
    fn unknown_is_a_gap_and_no_change_and_not_the_start() {
        let mut trail = Trail::new(reading(0, &[None]));
        trail.learn(reading(2, &[Some(50.0)]));
        assert_eq!((trail.cpu().since_last(), trail.cpu().since_start()), (None, None));
        trail.learn(reading(4, &[None]));
        trail.learn(reading(6, &[Some(60.0)]));
        assert_eq!((trail.cpu().since_last(), trail.cpu().since_start()), (None, Some(10.0)));
        assert_eq!(trail.change(ip(1)), (None, None));
        assert_eq!(recent(&trail, 1), [None, Some(50.0), None, Some(60.0)]);
    }

    #[test]
    fn a_failure_keeps_the_last_reading_until_the_next() {
        let mut trail = Trail::new(reading(0, &[Some(10.0)]));
        let at = |second| Timestamp::from_second(second).unwrap();
        trail.fail("refused".to_owned(), at(7));
        trail.fail("still refused".to_owned(), at(9));
        assert_eq!(trail.failed(), Some(&Failed { why: "still refused".to_owned(), since: at(7) }));
        assert_eq!(trail.now().service.cpu_pct, Some(10.0));
        trail.learn(reading(2, &[Some(10.0)]));
        assert_eq!(trail.failed(), None);
    }

    #[test]
    fn it_is_bounded_and_forgets_servers_that_are_gone() {
        let mut trail = Trail::new(reading(0, &[Some(1.0), Some(2.0)]));
        for second in 1..500 {
            trail.learn(reading(second, &[Some(1.0)]));
        }
        assert_eq!(recent(&trail, 1).len(), KEPT);
        assert_eq!(trail.servers.len(), 1);
        trail.learn(reading(500, &[Some(1.0), Some(2.0)]));
        assert_eq!(recent(&trail, 2), [Some(2.0)]);
        assert_eq!(trail.recent(ip(1), 3).count(), 3);
    }
}
