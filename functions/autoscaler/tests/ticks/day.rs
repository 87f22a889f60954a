//! A day of many deployments under all faults, against what must hold whatever happens.
//!
//! What is true of the deployments is noted before each tick from the simulator itself, so nothing
//! here relies on what the worker believes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use autoscaler::{
    decision::{Decision, Outcome, Reason},
    machine::{State, Step, Tick},
    need::{Bounds, Counts, Shape, Target, desired},
    policy::Policy,
    samples::{Bad, BadCode, Slot},
};
use rand::{Rng, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use simulators::deployments::{Config, Deployment, Entry, Model, Script, Status, Times};

use crate::common::{World, few_shards};

const BOUNDS: Bounds = Bounds { min_hosts: 1, max_hosts: u64::MAX, min_free_servers: 0 };

/// Hours and deployments over sockets: two of 200, or a whole day with MUSTER_DAY_HOURS=24, and less
/// where only a quick look is wanted.
fn size() -> (u64, u32) {
    if std::env::var("MUSTER_SCHEDULES").is_ok() {
        return (2, 40);
    }
    let hours = std::env::var("MUSTER_DAY_HOURS").ok().and_then(|hours| hours.parse().ok());
    (hours.unwrap_or(2), 200)
}

/// A seed of its own for every run, unless one is to be repeated.
fn seed() -> u64 {
    let given = std::env::var("MUSTER_DAY_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(rand::random)
}

/// Everything that can go wrong, now and then, for one deployment or for all.
fn faults(seed: u64) -> Config {
    Config {
        seed,
        status_error_rate: 0.01,
        status_cut_rate: 0.002,
        status_bad_rate: 0.02,
        discover_error_rate: 0.02,
        discover_garbage_rate: 0.01,
        discover_empty_rate: 0.01,
        discover_half_rate: 0.01,
        entry_missing_rate: 0.001,
        entry_bad_rate: 0.001,
        scale_drop_after_rate: 0.05,
        scale_refuse_rate: 0.03,
        scale_error_rate: 0.03,
        scale_error_after_rate: 0.03,
        scale_ignore_rate: 0.03,
        scale_late_rate: 0.03,
        scale_late_drop_rate: 0.03,
        scale_cut_rate: 0.03,
        ..Config::default()
    }
}

/// Waves, silence and requests that hang, at times of their own: each costs a timeout.
fn waves(hours: u64) -> Script<Entry> {
    let mut entries = Vec::new();
    for hour in (0..hours).step_by(3) {
        let at = |minute: u64| format!("{}m", hour * 60 + minute);
        entries.extend([
            json!({"at": at(20), "for": "3m", "all": true, "what": "status_error"}),
            json!({"at": at(35), "for": "1m", "count": 25, "what": "status_hang"}),
            json!({"at": at(50), "for": "2m", "all": true, "what": "scale_hang_after"}),
            json!({"at": at(70), "for": "2m", "all": true, "what": "scale_hang"}),
            json!({"at": at(80), "for": "4m", "all": true, "what": "discover_half"}),
            json!({"at": at(100), "for": "4m", "all": true, "what": "status_zero_total"}),
        ]);
    }
    serde_json::from_value(json!(entries)).unwrap()
}

/// What was true of a deployment before a tick.
#[derive(Clone)]
struct Truth {
    slot: Slot,
    hosts: u64,
    total: u64,
    busy: u64,
}

struct Watched {
    shape: Shape,
    past: VecDeque<Truth>,
}

impl Watched {
    fn new(deployment: &Deployment) -> Self {
        let target = Target::parse(&deployment.target_free_pct).unwrap();
        let shape = Shape { servers_per_host: deployment.servers_per_host, target };
        Self { shape, past: VecDeque::new() }
    }

    fn note(&mut self, slot: Slot, status: Status) {
        self.past.push_back(Truth {
            slot,
            hosts: status.current_hosts,
            total: status.total_servers,
            busy: status.total_servers - status.free_servers,
        });
        if self.past.len() > 10 {
            self.past.pop_front();
        }
    }
}

/// The worst that a decision to scale may do, given what was true.
fn check(id: &str, decision: &Decision, watched: &Watched, downs: &mut VecDeque<(Slot, u64)>) {
    let now = watched.past.back().unwrap();
    let words = decision.words();
    assert_eq!(now.slot, decision.slot);
    let inputs = decision.inputs.expect("a decision to scale has inputs");
    assert_eq!((inputs.hosts, inputs.total), (now.hosts, now.total), "{id} decided from what is not true: {words}");
    assert_eq!(inputs.total - inputs.free, now.busy, "{id} decided from what is not true: {words}");
    if decision.delta > 0 {
        let up = decision.delta.unsigned_abs();
        assert!(up <= now.hosts.max(4), "{id}: too large a step: {words}");
        // Never more than what is lacking.
        assert!(now.hosts + up <= desired(now.busy, &watched.shape, &BOUNDS).max(now.hosts + 1), "{id}: {words}");
        return;
    }
    let down = decision.delta.unsigned_abs();
    while downs.front().is_some_and(|(slot, _)| now.slot - slot >= 2) {
        downs.pop_front();
    }
    let in_the_minute = downs.iter().map(|(_, hosts)| hosts).sum::<u64>() + down;
    downs.push_back((now.slot, down));
    assert!(in_the_minute <= (now.hosts / 10).max(1), "{id}: {in_the_minute} of {} in a minute: {words}", now.hosts);
    // Two of ten samples may have been bad: what was true then need not have been seen.
    let mut needed: Vec<_> = watched.past.iter().map(|it| desired(it.busy, &watched.shape, &BOUNDS)).collect();
    assert_eq!(needed.len(), 10, "{id}: taken away without a full window: {words}");
    needed.sort_unstable();
    let left = now.hosts - down;
    assert!(left >= needed[7], "{id}: {left} hosts left where {needed:?} were needed: {words}");
    let servers = now.total.min(now.hosts * watched.shape.servers_per_host) - down * watched.shape.servers_per_host;
    assert!(watched.shape.target.is_met(servers, servers - now.busy.min(servers)), "{id}: short at once: {words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_under_all_faults_does_no_harm() {
    let (hours, count) = size();
    let seed = seed();
    println!("MUSTER_DAY_SEED={seed}, {count} deployments, {hours} h");
    {
        // A request that hangs costs the whole of it; on a busy machine others must not run into it.
        let config = few_shards(Config { count, script: Some(waves(hours)), ..faults(seed) }, 8);
        let world = World::with(config, "2").await;
        let scaler = world.scaler();
        let mut watched: HashMap<String, Watched> = HashMap::new();
        let mut downs: HashMap<String, VecDeque<(Slot, u64)>> = HashMap::new();
        let mut intents: BTreeMap<(String, u64), i64> = BTreeMap::new();
        let mut frozen = 0;
        for tick in 0..hours * 120 {
            let slot = world.slot();
            for deployment in world.sim.deployments() {
                let one = watched.entry(deployment.id.clone()).or_insert_with(|| Watched::new(&deployment));
                one.note(slot, deployment.status);
            }
            // A worker that has just been started, now and then.
            let fresh = tick % 97 == 0;
            let report = if fresh { world.tick(&world.scaler()).await } else { world.tick(&scaler).await };
            if report.not_kept == 0 {
                assert!(!report.duplicate && report.not_reached == 0, "{report:?}");
            }
            frozen += u64::from(report.frozen);
            for (id, decision) in report.changed.iter().filter(|(_, decision)| decision.outcome.is_some()) {
                let id = id.to_string();
                check(&id, decision, &watched[&id], downs.entry(id.clone()).or_default());
                assert!(!report.frozen || decision.delta > 0, "{id} was scaled down in a freeze");
                assert_ne!(decision.outcome, Some(Outcome::Intended));
                intents.insert((id, tick * 30), decision.delta);
            }
            world.pass();
        }
        // Every request belongs to one intent, and no intent has two.
        let mut sent = BTreeMap::new();
        for scale in world.scales() {
            let before = sent.insert((scale.id.clone(), scale.at.as_secs()), scale.delta);
            assert_eq!(before, None, "sent twice: {scale:?}");
        }
        assert_eq!(sent, intents);
        println!("{} requests to scale, {frozen} slots frozen, {:?}", sent.len(), world.sim.stats().faults);
        assert!(sent.len() > count as usize && sent.values().any(|delta| *delta < 0) && frozen > 0);
    }
}

/// What comes of a request to scale: what the worker hears, and what is done, perhaps later.
fn draw(rng: &mut impl Rng) -> (Option<Outcome>, bool, bool) {
    match rng.random_range(0..100) {
        0..70 => (Some(Outcome::Accepted), true, false),
        70..75 => (Some(Outcome::Unknown), true, false),
        75..80 => (Some(Outcome::Unknown), false, false),
        80..84 => (Some(Outcome::Accepted), false, false),
        84..88 => (Some(Outcome::Refused), false, false),
        88..90 => (Some(Outcome::NotSent), false, false),
        90..94 => (Some(Outcome::Accepted), false, true),
        94..96 => (Some(Outcome::Unknown), false, true),
        // Killed after the intent was written: before it was sent, or before the answer was.
        96..98 => (None, false, false),
        _ => (None, true, false),
    }
}

/// The machine alone, without sockets and store, through a whole day of 200 deployments.
#[test]
fn a_whole_day_of_two_hundred_deployments_does_no_harm() {
    let seed = seed();
    println!("MUSTER_DAY_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let times = Times { boot: Duration::from_secs(90), drain: Duration::from_secs(30) };
    let specs = Config { count: 200, seed, ..Config::default() }.specs();
    let policy = Policy::default();
    let start = 60_000_000;
    let mut fleet: Vec<_> = specs
        .into_iter()
        .map(|spec| {
            let shape = Shape {
                servers_per_host: spec.servers_per_host,
                target: Target::parse(spec.target_free_pct.as_str()).unwrap(),
            };
            let state = State::new(Some(shape.clone()), start, 0);
            (Model::new(spec, times, Duration::ZERO), state, Watched { shape, past: VecDeque::new() }, VecDeque::new())
        })
        .collect();
    let (mut sent, mut down, mut frozen_slots, mut number) = (0, 0, 0, 0);
    let mut sick_until = vec![0; fleet.len()];
    for tick in 0..2880u64 {
        let now = Duration::from_secs(tick * 30);
        let slot = start + tick;
        // Samples are bad one by one, for a while, and in waves.
        let wave = tick % 400 > 394;
        for until in &mut sick_until {
            if rng.random_bool(0.001) {
                *until = tick + rng.random_range(1..20);
            }
        }
        let bad: Vec<_> =
            sick_until.iter().map(|until| *until > tick || rng.random_bool(if wave { 0.6 } else { 0.01 })).collect();
        let frozen = bad.iter().filter(|bad| **bad).count() * 100 > bad.len() * 45;
        frozen_slots += u64::from(frozen);
        let lost = rng.random_bool(0.01);
        for ((model, state, watched, downs), bad) in fleet.iter_mut().zip(bad) {
            model.advance(now);
            let status = model.status();
            watched.note(slot, status);
            if lost {
                continue;
            }
            let counts = Counts { hosts: status.current_hosts, total: status.total_servers, free: status.free_servers };
            let reading = if bad { Err(Bad::new(BadCode::Silent, "silence")) } else { Ok(counts) };
            let before = state.clone();
            let at = i64::try_from(slot * 30).unwrap();
            let step = state.step(reading.clone(), &Tick { slot, at, policy: &policy, frozen });
            if rng.random_bool(0.002) {
                // Killed before the state was written: nothing may have been sent.
                *state = before;
                continue;
            }
            // The same slot again, and an older one, change nothing.
            let written = state.clone();
            for again in [slot, slot - 1] {
                let tick = Tick { slot: again, at, policy: &policy, frozen };
                assert_eq!(state.step(reading.clone(), &tick), Step::default());
            }
            assert_eq!(*state, written);
            let Some(delta) = step.send else { continue };
            assert!(before.pending.is_none() || written.pending.as_ref().unwrap().slot == slot);
            assert!(!bad && (delta > 0 || !frozen));
            check(&model.spec().id.clone(), written.decision.as_ref().unwrap(), watched, downs);
            sent += 1;
            down += u64::from(delta < 0);
            let (outcome, done, late) = draw(&mut rng);
            if done {
                model.scale(delta);
            } else if late {
                number += 1;
                model.scale_late(number, delta, now + Duration::from_secs(45));
            }
            if let Some(outcome) = outcome {
                state.sent(slot, outcome);
            }
            if delta < 0 && outcome == Some(Outcome::NotSent) {
                // It has not happened, so the minute's step is not used up.
                downs.pop_back();
            }
        }
    }
    println!("{sent} requests to scale, {down} of them down, {frozen_slots} slots frozen");
    assert!(down > 200 && sent > 1000 && frozen_slots > 10);
}

/// Without faults, whoever is short has asked for all it may at the tick before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_short_waits_for_hosts_that_could_not_have_come_sooner() {
    let (hours, count) = size();
    let world = World::with(few_shards(Config { count: count.min(60), seed: 5, ..Config::default() }, 4), "5").await;
    let scaler = world.scaler();
    // What each deployment will have had time to bring up, by when.
    let mut asked: HashMap<String, VecDeque<(u64, u64)>> = HashMap::new();
    let mut short = 0;
    for tick in 0..hours.min(3) * 120 {
        let before: HashMap<_, _> = world.sim.deployments().into_iter().map(|it| (it.id.clone(), it)).collect();
        world.tick(&scaler).await;
        for after in world.sim.deployments() {
            let then = &before[&after.id];
            let watched = Watched::new(&after);
            let (busy, hosts) = (then.status.total_servers - then.status.free_servers, then.status.current_hosts);
            let need = desired(busy, &watched.shape, &BOUNDS);
            let now = after.status.current_hosts;
            // Servers that drain count while they are there.
            let draining =
                then.draining * after.servers_per_host >= need.saturating_sub(hosts) * after.servers_per_host;
            assert!(
                now >= need.min(hosts + hosts.max(4)) || (draining && then.draining > 0),
                "{} has {now} hosts where {need} are needed, tick {tick}",
                after.id
            );
            let queue = asked.entry(after.id.clone()).or_default();
            queue.push_back((tick * 30 + 90, now));
            while queue.len() > 1 && queue[1].0 <= tick * 30 {
                queue.pop_front();
            }
            // What was asked for a boot ago and has not been taken away since.
            let (by, _) = queue[0];
            let promised = queue.iter().map(|(_, hosts)| *hosts).min().unwrap();
            if by <= tick * 30 && then.free_share * 100.0 < watched.shape.target.pct() {
                short += 1;
                assert!(then.running + then.draining >= promised.min(hosts), "{} at tick {tick}", after.id);
            }
        }
        world.pass();
    }
    println!("{short} times short");
    assert!(short > 0);
}

/// The same events once, or twice and late: the same requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_and_late_ticks_change_nothing_and_lost_ones_nothing_for_good() {
    let stop = tokio_util::sync::CancellationToken::new();
    let config = || {
        let faults = Config { status_error_rate: 0.01, scale_drop_after_rate: 0.1, ..Config::default() };
        few_shards(Config { count: 30, seed: 11, ..faults }, 4)
    };
    let (plain, noisy, lossy) =
        (World::with(config(), "5").await, World::with(config(), "5").await, World::with(config(), "5").await);
    let scalers = [plain.scaler(), noisy.scaler(), lossy.scaler()];
    let other = noisy.scaler();
    let mut seen = BTreeSet::new();
    for tick in 0..180u64 {
        plain.tick(&scalers[0]).await;
        let slot = noisy.slot();
        for at in [slot, slot, slot - 1, slot - 5] {
            let first = at == slot && seen.insert(slot);
            assert_eq!(scalers[1].tick(at, &stop).await.unwrap().duplicate, !first);
        }
        assert!(other.tick(slot, &stop).await.unwrap().duplicate);
        // Every seventh tick is lost, and once five minutes of them.
        if tick % 7 != 3 && !(120..130).contains(&tick) {
            lossy.tick(&scalers[2]).await;
        }
        for world in [&plain, &noisy, &lossy] {
            world.pass();
        }
    }
    let log = |world: &World| -> Vec<_> {
        let mut log: Vec<_> = world.scales().into_iter().map(|scale| (scale.at, scale.id, scale.delta)).collect();
        log.sort();
        log
    };
    assert!(log(&plain).len() > 30);
    assert_eq!(log(&plain), log(&noisy));
    // With the load as it is, all come to rest at the same number of hosts.
    let still = |world: &World| {
        let specs = world.sim.config().specs();
        let loads: HashMap<_, _> = world.sim.deployments().into_iter().map(|it| (it.id, it.busy)).collect();
        let steady = specs.into_iter().map(|mut spec| {
            spec.load = simulators::deployments::Load::Steady { busy: loads[&spec.id] };
            spec
        });
        world.sim.set(Config { fleet: Some(steady.collect()), manual: true, ..Config::default() });
    };
    for (world, scaler) in [(&plain, &scalers[0]), (&lossy, &scalers[2])] {
        still(world);
        world.slots(scaler, 150).await;
    }
    let hosts = |world: &World| -> BTreeMap<_, _> {
        world.sim.deployments().into_iter().map(|it| (it.id, it.status.current_hosts)).collect()
    };
    assert_eq!(hosts(&plain), hosts(&lossy));
    let reasons: Vec<_> = plain.states().await.into_values().map(|state| state.decision.unwrap().reason).collect();
    let rest = [Reason::WithinTarget, Reason::AtMin];
    assert!(reasons.iter().all(|reason| rest.contains(reason)), "{reasons:?}");
}
