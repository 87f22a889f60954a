//! What would have happened: a fleet of hosts under a demand that is known, scaled by a rule.
//!
//! The fleet is the one that the deployments API describes. A host that was asked for counts as a
//! host at once and has servers when it has booted; one that is taken away is no host any more, and
//! its servers are gone when it has drained. Hosts that boot are the first to be taken away. Nothing
//! fails here: every request is accepted and carried out.
//!
//! **The one thing to know:** the demand is what was busy. Where nothing was free, more may have been
//! wanted, and nobody knows how much; so a simulation from recorded samples never shows too much
//! demand, but sometimes too little.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    decision::Outcome as Sent,
    machine::{State, Tick},
    need::{Counts, MOST, Shape, Target, desired},
    policy::{Mode, Policy},
    samples::{Recorded, SLOT_SECONDS, Slot, time},
};

/// Most slots of a series: a week.
pub const MOST_SLOTS: usize = 7 * 24 * 120;
/// Most points of an outcome.
pub const MOST_POINTS: usize = 500;
/// Seconds until a host that was asked for has servers, unless set.
pub const BOOT_SECONDS: u32 = 90;
/// Seconds until the servers of a host that was taken away are gone, unless set.
pub const DRAIN_SECONDS: u32 = 30;

/// The busy servers of slots in a row. In a slot without a number nothing is decided and nothing is
/// counted as short; the hosts stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Series {
    /// The slot of the first.
    pub slot: Slot,
    /// Oldest first, each at most [`MOST`].
    pub busy: Vec<Option<u64>>,
}

impl Series {
    /// The series of recorded samples, whose slots must rise; those that do not are left out. Of more
    /// than [`MOST_SLOTS`] slots the last ones. Hosts without any server say nothing of the demand.
    pub fn of(samples: impl IntoIterator<Item = (Slot, Recorded)>) -> Self {
        let mut busy = VecDeque::new();
        let mut next: Option<Slot> = None;
        for (slot, sample) in samples {
            let Some(missing) = slot.checked_sub(next.unwrap_or(slot)) else { continue };
            let missing = usize::try_from(missing).unwrap_or(MOST_SLOTS).min(MOST_SLOTS);
            busy.extend(std::iter::repeat_n(None, missing));
            let says = sample.counts().filter(|counts| counts.total > 0 || counts.hosts == 0);
            busy.push_back(says.map(|counts| counts.busy()));
            busy.drain(..busy.len().saturating_sub(MOST_SLOTS));
            next = Some(slot + 1);
        }
        Self { slot: next.unwrap_or_default() - busy.len() as u64, busy: busy.into() }
    }

    /// The hosts that the first known demand needs under `policy`: something to begin with where
    /// nobody says how many there were.
    pub fn first_hosts(&self, shape: &Shape, policy: &Policy) -> u64 {
        let busy = self.busy.iter().flatten().next().copied().unwrap_or_default();
        desired(busy, shape, &policy.bounds())
    }
}

/// The fleet that is simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// How it is made.
    pub shape: Shape,
    /// Hosts at the beginning; they have booted.
    pub hosts: u64,
    /// Seconds until a host that was asked for has servers.
    pub boot_seconds: u32,
    /// Seconds until the servers of a host that was taken away are gone.
    pub drain_seconds: u32,
}

impl Fleet {
    /// A fleet that boots and drains as fast as usual.
    pub const fn new(shape: Shape, hosts: u64) -> Self {
        Self { shape, hosts, boot_seconds: BOOT_SECONDS, drain_seconds: DRAIN_SECONDS }
    }
}

/// What scales a fleet.
pub trait Rule {
    /// By how many hosts to scale in `slot`, where the fleet says `counts` of itself. It is asked once
    /// for each slot whose demand is known.
    fn delta(&mut self, slot: Slot, counts: Counts) -> i64;
}

/// A fleet at the beginning of a slot, before anything is decided in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = SimulatedPoint)]
pub struct Point {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Hosts, also those that boot.
    pub hosts: u64,
    /// Servers, also those that are drained.
    pub total: u64,
    /// Busy servers: the demand, as far as there are servers. None where it is not known.
    pub busy: Option<u64>,
    /// Free servers. None where the demand is not known.
    pub free: Option<u64>,
}

impl Point {
    fn free_share(&self) -> Option<f64> {
        share(self.free?, self.total)
    }
}

/// What has come of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = SimulatedOutcome)]
pub struct Outcome {
    /// Seconds whose demand is known.
    pub seconds: u64,
    /// For so many of them fewer servers were free than the target wants, or more were wanted than
    /// there were.
    pub short_seconds: u64,
    /// Hosts that booted, ran or drained, times the seconds they did.
    pub host_seconds: u64,
    /// Requests to scale.
    pub changes: u64,
    /// The lowest free share there was, in per cent. None where nothing ever ran or was wanted.
    pub worst_free_pct: Option<f64>,
    /// The fleet over time: every slot, or at most 500 of them, among them those with the most and
    /// the fewest hosts and those with the highest and the lowest free share.
    pub points: Vec<Point>,
}

/// What would have happened under `policy`. Its mode does not matter: it is simulated as if it were on.
pub fn run(series: &Series, fleet: &Fleet, policy: &Policy) -> Outcome {
    drive(series, fleet, &mut Machine::new(&fleet.shape, policy, series.slot))
}

/// What would have happened under any rule.
pub fn drive(series: &Series, fleet: &Fleet, rule: &mut dyn Rule) -> Outcome {
    let outcome = drive_every_slot(series, fleet, rule);
    Outcome { points: thin(outcome.points), ..outcome }
}

fn drive_every_slot(series: &Series, fleet: &Fleet, rule: &mut dyn Rule) -> Outcome {
    let mut simulated = Simulated::new(fleet);
    let mut points = Vec::with_capacity(series.busy.len());
    for (slot, demand) in (series.slot..).zip(&series.busy) {
        let total = simulated.total();
        let busy = demand.map(|demand| demand.min(total));
        let free = busy.map(|busy| total - busy);
        points.push(Point { at: time(slot), hosts: simulated.hosts(), total, busy, free });
        if let Some(free) = free {
            simulated.scale(rule.delta(slot, Counts { hosts: simulated.hosts(), total, free }));
        }
        simulated.pass(SLOT_SECONDS, *demand);
    }
    Outcome { points, ..simulated.outcome }
}

/// Our own rule.
#[derive(Debug)]
struct Machine {
    state: State,
    policy: Policy,
}

impl Machine {
    fn new(shape: &Shape, policy: &Policy, slot: Slot) -> Self {
        let policy = Policy { mode: Mode::On, until: None, reason: None, ..policy.clone() };
        Self { state: State::new(Some(shape.clone()), slot, 0), policy }
    }
}

impl Rule for Machine {
    fn delta(&mut self, slot: Slot, counts: Counts) -> i64 {
        let tick = Tick { slot, at: time(slot).as_second(), policy: &self.policy, frozen: false };
        let delta = self.state.step(Ok(counts), &tick).send;
        self.state.sent(slot, Sent::Accepted);
        delta.unwrap_or_default()
    }
}

/// So many hosts each, and the second at which they have booted or drained. As all of them take
/// equally long, the first is the next.
#[derive(Debug, Default)]
struct Moving {
    batches: VecDeque<(u64, u64)>,
    hosts: u64,
}

impl Moving {
    fn add(&mut self, until: u64, hosts: u64) {
        self.batches.push_back((until, hosts));
        self.hosts += hosts;
    }

    /// Takes away up to so many of the latest. Answers how many these were.
    fn take(&mut self, hosts: u64) -> u64 {
        let mut left = hosts.min(self.hosts);
        self.hosts -= left;
        let taken = left;
        while let Some((_, batch)) = self.batches.back_mut().filter(|_| left > 0) {
            let part = left.min(*batch);
            *batch -= part;
            left -= part;
            if *batch == 0 {
                self.batches.pop_back();
            }
        }
        taken
    }

    /// Those that have arrived at `now`.
    fn arrived(&mut self, now: u64) -> u64 {
        let mut arrived = 0;
        while let Some((_, hosts)) = self.batches.pop_front_if(|(until, _)| *until <= now) {
            arrived += hosts;
        }
        self.hosts -= arrived;
        arrived
    }

    fn next(&self) -> Option<u64> {
        self.batches.front().map(|(until, _)| *until)
    }
}

#[derive(Debug)]
struct Simulated<'a> {
    fleet: &'a Fleet,
    /// Seconds since the beginning.
    now: u64,
    running: u64,
    booting: Moving,
    draining: Moving,
    outcome: Outcome,
}

impl<'a> Simulated<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        let outcome = Outcome {
            seconds: 0,
            short_seconds: 0,
            host_seconds: 0,
            changes: 0,
            worst_free_pct: None,
            points: Vec::new(),
        };
        let running = fleet.hosts.min(MOST);
        Self { fleet, now: 0, running, booting: Moving::default(), draining: Moving::default(), outcome }
    }

    /// Hosts as the deployments API tells them.
    fn hosts(&self) -> u64 {
        self.running + self.booting.hosts
    }

    /// Servers as the deployments API tells them.
    fn total(&self) -> u64 {
        (self.running + self.draining.hosts).saturating_mul(self.fleet.shape.servers_per_host).min(MOST)
    }

    fn scale(&mut self, delta: i64) {
        if delta == 0 {
            return;
        }
        self.outcome.changes += 1;
        let hosts = delta.unsigned_abs();
        if delta > 0 {
            let hosts = hosts.min(MOST.saturating_sub(self.hosts()));
            self.booting.add(self.now + u64::from(self.fleet.boot_seconds), hosts);
        } else {
            let hosts = hosts.min(self.hosts());
            let hosts = hosts - self.booting.take(hosts);
            self.running -= hosts;
            self.draining.add(self.now + u64::from(self.fleet.drain_seconds), hosts);
        }
    }

    fn arrive(&mut self) {
        self.running += self.booting.arrived(self.now);
        self.draining.arrived(self.now);
    }

    /// Lets time pass. What happens in between is counted to the second.
    fn pass(&mut self, seconds: u64, demand: Option<u64>) {
        let end = self.now + seconds;
        while self.now < end {
            let next = [self.booting.next(), self.draining.next()].into_iter().flatten().fold(end, u64::min);
            self.count(next - self.now, demand);
            self.now = next;
            self.arrive();
        }
    }

    fn count(&mut self, seconds: u64, demand: Option<u64>) {
        let hosts = self.hosts() + self.draining.hosts;
        self.outcome.host_seconds = self.outcome.host_seconds.saturating_add(hosts.saturating_mul(seconds));
        let Some(demand) = demand else { return };
        self.outcome.seconds += seconds;
        let total = self.total();
        let free = total.saturating_sub(demand);
        if is_short(&self.fleet.shape.target, demand, total) {
            self.outcome.short_seconds += seconds;
        }
        if let Some(share) = share(free, total).or((demand > 0).then_some(0.0)) {
            self.outcome.worst_free_pct = Some(self.outcome.worst_free_pct.map_or(share, |worst| worst.min(share)));
        }
    }
}

/// Whether there are too few servers for a demand. At a target of 0 it may use them all up.
fn is_short(target: &Target, demand: u64, total: u64) -> bool {
    demand > total || !target.is_met(total, total - demand)
}

/// Per cent of `total`.
#[expect(clippy::cast_precision_loss, reason = "a share for people, and counts are at most 2^53")]
fn share(free: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| free as f64 / total as f64 * 100.0)
}

/// At most [`MOST_POINTS`] of the points: the first, the last, and of each stretch between them those
/// with the fewest and the most hosts and the lowest and the highest free share.
fn thin(points: Vec<Point>) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points;
    }
    let stretch = points.len().div_ceil((MOST_POINTS - 2) / 4);
    let mut kept = vec![0, points.len() - 1];
    for (number, stretch_points) in points.chunks(stretch).enumerate() {
        let mut keep = |index: Option<usize>| kept.extend(index.map(|index| number * stretch + index));
        keep(first_least(stretch_points, |point| Some(point.hosts)));
        keep(first_least(stretch_points, |point| Some(std::cmp::Reverse(point.hosts))));
        keep(first_least(stretch_points, Point::free_share));
        keep(first_least(stretch_points, |point| point.free_share().map(|share| -share)));
    }
    kept.sort_unstable();
    kept.dedup();
    kept.into_iter().map(|index| points[index]).collect()
}

/// Which point has the least, the first of them where there are several.
fn first_least<K: PartialOrd>(points: &[Point], key: impl Fn(&Point) -> Option<K>) -> Option<usize> {
    let mut least: Option<(usize, K)> = None;
    for (index, point) in points.iter().enumerate() {
        let Some(key) = key(point) else { continue };
        if least.as_ref().is_none_or(|(_, least)| key < *least) {
            least = Some((index, key));
        }
    }
    least.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIRST: Slot = 59_000_000;

    fn fleet(hosts: u64) -> Fleet {
        Fleet::new(Shape { servers_per_host: 10, target: Target::parse("15").unwrap() }, hosts)
    }

    fn series(busy: impl IntoIterator<Item = u64>) -> Series {
        Series { slot: FIRST, busy: busy.into_iter().map(Some).collect() }
    }

    /// Does what is written down, and remembers what it has seen.
    #[derive(Default)]
    struct Script {
        deltas: VecDeque<i64>,
        seen: Vec<(Slot, Counts)>,
    }

    impl Script {
        fn new(deltas: impl IntoIterator<Item = i64>) -> Self {
            Self { deltas: deltas.into_iter().collect(), seen: Vec::new() }
        }
    }

    impl Rule for Script {
        fn delta(&mut self, slot: Slot, counts: Counts) -> i64 {
            self.seen.push((slot - FIRST, counts));
            self.deltas.pop_front().unwrap_or_default()
        }
    }

    fn seen(script: &Script) -> Vec<(u64, u64, u64)> {
        script.seen.iter().map(|(_, counts)| (counts.hosts, counts.total, counts.free)).collect()
    }

    #[test]
    fn a_jump_is_short_until_the_hosts_for_it_have_booted() {
        let outcome = run(&series([80, 80, 100, 100, 100, 100, 100, 100]), &fleet(10), &Policy::default());
        let points: Vec<_> = outcome.points.iter().map(|it| (it.hosts, it.total, it.free.unwrap())).collect();
        let booting = (12, 100, 0);
        assert_eq!(points[..2], [(10, 100, 20); 2]);
        assert_eq!(points[2..], [(10, 100, 0), booting, booting, (12, 120, 20), (12, 120, 20), (12, 120, 20)]);
        assert_eq!((outcome.seconds, outcome.short_seconds, outcome.changes), (240, 90, 1));
        assert_eq!(outcome.host_seconds, 60 * 10 + 180 * 12);
        assert_eq!(outcome.worst_free_pct, Some(0.0));
        assert_eq!(outcome.points[1].at.as_second() - outcome.points[0].at.as_second(), 30);
    }

    #[test]
    fn what_happens_within_a_slot_counts_to_the_second() {
        let fleet = Fleet { boot_seconds: 40, drain_seconds: 5, ..fleet(10) };
        let mut script = Script::new([2, 0, -1]);
        let outcome = drive(&series([100, 100, 100]), &fleet, &mut script);
        assert_eq!(seen(&script), [(10, 100, 0), (12, 100, 0), (12, 120, 20)]);
        assert_eq!((outcome.short_seconds, outcome.host_seconds), (40 + 25, 60 * 12 + 5 * 12 + 25 * 11));
        let at_once = Fleet { boot_seconds: 0, drain_seconds: 0, ..fleet };
        assert_eq!(drive(&series([100]), &at_once, &mut Script::new([2])).short_seconds, 0);
        assert_eq!(drive(&series([80]), &at_once, &mut Script::new([-1])).host_seconds, 9 * 30);
    }

    #[test]
    fn hosts_that_boot_go_first_and_others_keep_their_servers_while_they_drain() {
        let mut script = Script::new([3, 2, -6, 0, -99, 1]);
        let fleet = Fleet { drain_seconds: 60, ..fleet(10) };
        let outcome = drive(&series([0; 7]), &fleet, &mut script);
        // The five that booted, and one that ran: its servers are there for a minute more.
        let then = [(9, 100, 100), (9, 90, 90), (0, 90, 90), (1, 0, 0)];
        assert_eq!(seen(&script)[..3], [(10, 100, 100), (13, 100, 100), (15, 100, 100)]);
        assert_eq!(seen(&script)[3..], then);
        assert_eq!(outcome.host_seconds, 30 * (13 + 15 + 10 + 10 + 9 + 10 + 1));
        assert_eq!(outcome.changes, 5);
    }

    #[test]
    fn where_the_demand_is_not_known_nothing_is_decided() {
        let mut script = Script::new([0, 1]);
        let series = Series { slot: FIRST, busy: vec![Some(100), None, None, Some(50)] };
        let outcome = drive(&series, &fleet(10), &mut script);
        assert_eq!(script.seen.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 3]);
        assert_eq!((outcome.seconds, outcome.short_seconds, outcome.host_seconds), (60, 30, 30 * (10 + 10 + 10 + 11)));
        assert_eq!(outcome.points.iter().map(|it| it.free).collect::<Vec<_>>(), [Some(0), None, None, Some(50)]);
        assert_eq!(outcome.points[1].hosts, 10);
    }

    #[test]
    fn more_demand_than_servers_is_short_whatever_the_target() {
        let shape = Shape { servers_per_host: 10, target: Target::parse("0").unwrap() };
        let outcome = drive(&series([100, 101]), &Fleet::new(shape.clone(), 10), &mut Script::default());
        assert_eq!((outcome.short_seconds, outcome.points[1].busy), (30, Some(100)));
        let outcome = drive(&series([0, 0, 1]), &Fleet::new(shape, 0), &mut Script::default());
        assert_eq!((outcome.short_seconds, outcome.worst_free_pct), (30, Some(0.0)));
        assert_eq!(drive(&series([]), &fleet(1), &mut Script::default()).worst_free_pct, None);
    }

    #[test]
    fn a_mode_does_not_matter() {
        let series = series((0..200).map(|slot| if slot < 40 { 90 } else { 30 }));
        let on = run(&series, &fleet(10), &Policy::default());
        assert!(on.changes > 5);
        for mode in [Mode::DryRun, Mode::Paused, Mode::PausedIn, Mode::PausedOut] {
            assert_eq!(run(&series, &fleet(10), &Policy { mode, ..Policy::default() }), on);
        }
    }

    #[test]
    fn a_week_is_thinned_and_keeps_its_extremes() {
        let busy = (0..MOST_SLOTS as u64).map(|slot| match slot {
            7_777 => 400,
            _ => 50 + slot % 61,
        });
        let mut series = series(busy);
        series.busy[12_345] = None;
        let begun = std::time::Instant::now();
        let outcome = run(&series, &fleet(10), &Policy::default());
        println!("{MOST_SLOTS} slots: {:?}", begun.elapsed());
        let fleet = fleet(10);
        let mut machine = Machine::new(&fleet.shape, &Policy::default(), FIRST);
        let whole = drive_every_slot(&series, &fleet, &mut machine).points;
        assert_eq!(whole.len(), MOST_SLOTS);
        assert!((400..=MOST_POINTS).contains(&outcome.points.len()), "{}", outcome.points.len());
        assert!(outcome.points.is_sorted_by(|one, next| one.at < next.at));
        assert!(outcome.points.iter().all(|point| whole.contains(point)));
        assert_eq!((outcome.points.first(), outcome.points.last()), (whole.first(), whole.last()));
        let extremes = |points: &[Point]| {
            let hosts = points.iter().map(|it| it.hosts);
            let shares: Vec<_> = points.iter().filter_map(Point::free_share).collect();
            let ends = (shares.iter().copied().fold(100.0, f64::min), shares.iter().copied().fold(0.0, f64::max));
            (hosts.clone().min(), hosts.max(), ends)
        };
        assert_eq!(extremes(&outcome.points), extremes(&whole));
        assert_eq!(thin(whole[..MOST_POINTS].to_vec()), whole[..MOST_POINTS]);
        assert!(thin(whole[..=MOST_POINTS].to_vec()).len() <= MOST_POINTS);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let shape = Shape { servers_per_host: MOST, target: Target::parse("99.999").unwrap() };
        let fleet = Fleet { boot_seconds: u32::MAX, drain_seconds: u32::MAX, ..Fleet::new(shape, MOST) };
        let mut script = Script::new([i64::MAX, i64::MIN, i64::MAX, 1, -1]);
        let outcome = drive(&series([MOST; 8]), &fleet, &mut script);
        assert_eq!((outcome.changes, outcome.points[1].hosts, outcome.points[2].hosts), (5, MOST, 0));
        assert!(outcome.points.iter().all(|point| point.total <= MOST));
        run(&series([MOST; 50]), &fleet, &Policy { max_hosts: Some(MOST), ..Policy::default() });
    }

    #[test]
    fn a_series_is_made_of_samples_with_its_holes() {
        let good = |busy: u64| Recorded::Good(10, 100, 100 - busy);
        let bad = Recorded::Bad(crate::samples::BadCode::Error);
        let samples = [
            (5, good(1)),
            (6, bad),
            (7, Recorded::Good(3, 0, 0)),
            (10, good(2)),
            (9, good(9)),
            (11, Recorded::Good(0, 0, 0)),
        ];
        let made = Series::of(samples);
        assert_eq!((made.slot, made.busy), (5, vec![Some(1), None, None, None, None, Some(2), Some(0)]));
        let long = Series::of([(0, good(7)), (1_000_000_000, good(1))]);
        assert_eq!((long.slot, long.busy.len()), (1_000_000_001 - MOST_SLOTS as u64, MOST_SLOTS));
        assert_eq!(Series::of([]), Series::default());
        let (shape, policy) = (fleet(0).shape, Policy::default());
        assert_eq!(series([85, 1000]).first_hosts(&shape, &policy), 10);
        assert_eq!(Series::default().first_hosts(&shape, &policy), 1);
    }
}
