//! A thousand lives, each with its own misfortunes, the same every time for the same seed.
//!
//! `MUSTER_DEVICES_SEEDS=0..1000` takes others; one that failed is taken again alone with `7..8`.

use std::{collections::HashMap, time::Duration};

use devices::{
    device::{Code, Device, State},
    request::Request,
    worker::Rounds,
};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use kit::dynamo::embedded::Faults;
use rand::{Rng, SeedableRng as _, rngs::StdRng};
use simulators::packet::{Capacity, Config, Fault, Rule};
use uuid::Uuid;

use crate::common::{NOON, World, owner};

/// Runs at the same time: each mostly waits for its sockets.
const AT_ONCE: usize = 4;
/// Time between two rounds: longer than the worker's own, which makes everything a little later.
const STEP: Duration = Duration::from_secs(10);
/// Nothing new goes wrong after this time.
const MISFORTUNE: Duration = Duration::from_secs(20 * 60);
/// One record has two machines for no longer than this: a tick of the schedule.
const TICK: SignedDuration = SignedDuration::from_secs(60);

/// What a run is made of.
struct Plan {
    config: Config,
    requests: Vec<Request>,
    /// When somebody asks for the deletion of which.
    deletes: Vec<(Duration, usize)>,
    /// How often the store fails.
    store: Option<Faults>,
    /// Whether two workers work.
    two: bool,
    /// How likely a worker dies in a round.
    dies: f64,
}

fn plan(seed: u64) -> Plan {
    let mut rng = StdRng::seed_from_u64(seed);
    let kinds = [
        Fault::OutOfCapacity,
        Fault::CreateDropped,
        Fault::CreateErrorAfter,
        Fault::CreateTwice,
        Fault::StuckAt,
        Fault::FailedAt,
        Fault::Reclaimed,
        Fault::UnknownState,
        Fault::GetForbidden,
        Fault::DeleteRefused,
        Fault::DeleteSlow,
        Fault::DeleteIgnored,
        Fault::DeleteFailed,
        Fault::RateLimited,
        Fault::ServerError,
        Fault::Html,
        Fault::Dropped,
        Fault::TokenRevoked,
        Fault::CreateRefused,
        Fault::Quota,
    ];
    let faults = (0..rng.random_range(0..7))
        .map(|_| {
            let fault = kinds[rng.random_range(0..kinds.len())];
            // Most lives are short, so most misfortunes come early; what they are about may come late.
            let from = Duration::from_secs(if rng.random() { 0 } else { rng.random_range(0..120) });
            let until = from + Duration::from_secs(rng.random_range(10..900));
            // What cuts everything off does so for a while, the rest by chance.
            let share = match fault {
                Fault::TokenRevoked => 1.0,
                Fault::RateLimited | Fault::ServerError | Fault::Html | Fault::Dropped => rng.random_range(0.1..0.9),
                _ => rng.random_range(0.2..1.0),
            };
            let mut rule = Rule::new(fault);
            (rule.share, rule.from, rule.until) = (share, Some(from), Some(until.min(MISFORTUNE)));
            rule
        })
        .collect();
    let config = Config {
        seed,
        faults,
        provision: Duration::from_secs(rng.random_range(10..90)),
        deprovision: Duration::from_secs(rng.random_range(0..40)),
        show_deleted: Duration::from_secs(if rng.random_bool(0.2) { 30 } else { 0 }),
        capacity: if rng.random_bool(0.2) { vec!["*/*=1".parse::<Capacity>().unwrap()] } else { Vec::new() },
        no_capacity: rng.random_bool(0.3),
        no_capacity_check: rng.random_bool(0.5),
        ignore_tag: rng.random_bool(0.2),
        rate_limit: rng.random_bool(0.1).then_some(40),
        ..Config::default()
    };
    let requests: Vec<_> = (0..rng.random_range(1..4))
        .map(|_| {
            let provision_timeout_seconds = rng.random_range(100..400);
            Request {
                max_attempts: rng.random_range(1..6),
                provision_timeout_seconds,
                stall_timeout_seconds: rng.random_range(40..=provision_timeout_seconds.min(200)),
                ephemeral: rng.random_bool(0.2),
                ..Request::default()
            }
        })
        .collect();
    let deletes = (0..requests.len())
        .map(|at| (Duration::from_secs(rng.random_range(0..400)), at, rng.random_bool(0.3)))
        .filter(|(_, _, deleted)| *deleted)
        .map(|(when, at, _)| (when, at))
        .collect();
    let store = rng.random_bool(0.3).then(|| Faults {
        seed,
        error_rate: rng.random_range(0.0..0.15),
        lost_answer_rate: rng.random_range(0.0..0.15),
        attempts: 1,
        ..Faults::default()
    });
    Plan { config, requests, deletes, store, two: rng.random_bool(0.3), dies: rng.random_range(0.0..0.2) }
}

/// When a device must be settled at the latest: all its attempts at their longest, each with an
/// overdue teardown, after the last misfortune.
fn deadline(device: &Device) -> Timestamp {
    let attempt = SignedDuration::from_secs(i64::from(device.request.provision_timeout_seconds) + 600 + 120);
    let misfortune = SignedDuration::try_from(MISFORTUNE).unwrap();
    device.created_at + misfortune + attempt * i32::try_from(device.request.max_attempts).unwrap()
}

/// What is watched from round to round.
#[derive(Default)]
struct Watch {
    /// Since when a device has had more than one machine.
    doubled: HashMap<Uuid, Timestamp>,
    /// Machines that have been looked at.
    seen: usize,
}

impl Watch {
    async fn look(&mut self, world: &World, seed: u64) {
        let now = world.clock.now();
        let made = world.sim.devices();
        let mut alive: HashMap<Uuid, usize> = HashMap::new();
        for machine in made.iter().filter(|machine| machine.alive && machine.state != "deprovisioning") {
            *alive.entry(owner(machine).unwrap()).or_default() += 1;
        }
        self.doubled.retain(|id, _| alive.get(id).is_some_and(|count| *count > 1));
        for (id, _) in alive.into_iter().filter(|(_, count)| *count > 1) {
            let since = *self.doubled.entry(id).or_insert(now);
            assert!(
                now.duration_since(since) <= TICK,
                "seed {seed}: {id} has had two machines since {since}, now {now}"
            );
        }
        for machine in &made[self.seen..] {
            let whole = world.whole(owner(machine).unwrap()).await;
            let intent = whole.attempts.iter().chain(&whole.device.attempt).find(|attempt| {
                (&attempt.candidate.plan, &attempt.candidate.facility) == (&machine.plan, &machine.facility)
                    && attempt.started_at <= machine.created_at
            });
            assert!(intent.is_some(), "seed {seed}: {machine:#?} was made without an intent: {whole:#?}");
        }
        self.seen = made.len();
    }
}

async fn run(seed: u64) -> HashMap<Code, u32> {
    let plan = plan(seed);
    let mut rng = StdRng::seed_from_u64(!seed);
    // A fault that deletes nothing must not strike twins for longer than a tick.
    let twins_can_stay = plan.config.faults.iter().any(|rule| {
        matches!(
            rule.fault,
            Fault::DeleteRefused
                | Fault::DeleteIgnored
                | Fault::DeleteFailed
                | Fault::TokenRevoked
                | Fault::ServerError
                | Fault::Html
                | Fault::Dropped
                | Fault::RateLimited
        )
    }) || plan.config.rate_limit.is_some()
        || plan.store.is_some();
    let world = World::new(plan.config.clone()).await;
    let store = plan.store.map(|faults| world.embedded.store_with_faults("test-", faults));
    let worker = || match &store {
        Some(store) => world.rounds_on(store.clone()),
        None => world.rounds(),
    };
    let mut ids = Vec::new();
    for request in &plan.requests {
        ids.push(world.launch(request.clone()).await);
    }
    let mut workers: Vec<Rounds> = (0..if plan.two { 2 } else { 1 }).map(|_| worker()).collect();
    let mut deletes = plan.deletes.clone();
    let mut watch = Watch::default();
    let last = {
        let devices = world.devices().devices(&ids).await.unwrap();
        devices.iter().map(deadline).max().unwrap()
    };
    loop {
        let elapsed = Duration::try_from(world.clock.now().duration_since(NOON)).unwrap();
        for (_, at) in deletes.extract_if(.., |(at, _)| *at <= elapsed) {
            world.delete(ids[at]).await;
        }
        // What the store's failures interrupt is taken up by the next round. A worker that dies does so
        // in the middle of whatever it is at; what it has sent may still arrive.
        let kills: Vec<_> = workers
            .iter()
            .map(|_| rng.random_bool(plan.dies).then(|| Duration::from_micros(rng.random_range(0..8000))))
            .collect();
        let rounds = workers.iter_mut().zip(&kills).map(async |(worker, kill)| match kill {
            Some(after) => _ = tokio::time::timeout(*after, worker.round()).await,
            None => _ = worker.round().await,
        });
        futures::future::join_all(rounds).await;
        if kills.iter().any(Option::is_some) {
            // What was on its way arrives in the time that it may take, which the clock in our hand
            // would jump over.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (at, _) in kills.iter().enumerate().filter(|(_, kill)| kill.is_some()) {
            workers[at] = worker();
        }
        let mut watched = Watch { seen: watch.seen, ..Watch::default() };
        std::mem::swap(&mut watched.doubled, &mut watch.doubled);
        if twins_can_stay {
            watched.doubled.clear();
        }
        watched.look(&world, seed).await;
        watch = watched;
        if world.devices().work().await.unwrap().is_empty() && deletes.is_empty() {
            break;
        }
        assert!(
            world.clock.now() <= last,
            "seed {seed}: not settled in time: {:#?}",
            world.devices().devices(&ids).await
        );
        world.advance(STEP);
    }
    // A twin whose deletion takes the vendor longer than it should is left to the sweep.
    if twins_can_stay {
        for _ in 0..3 {
            world.advance(Duration::from_secs(16 * 60));
            _ = workers[0].round().await;
        }
        world.advance(Duration::from_secs(600));
    }
    let doubles = plan.config.faults.iter().any(|rule| rule.fault == Fault::CreateTwice);
    verify(&world, &ids, doubles, seed).await
}

/// What must be true at the end.
async fn verify(world: &World, ids: &[Uuid], doubles: bool, seed: u64) -> HashMap<Code, u32> {
    let mut codes = HashMap::new();
    let mut wanted = Vec::new();
    for id in ids {
        let whole = world.whole(*id).await;
        let device = &whole.device;
        let state = device.state();
        assert!(state.is_settled(), "seed {seed}: {device:#?}");
        if state == State::Active {
            wanted.push(device.machine_id().unwrap().to_owned());
        } else {
            let reason = device.reason.as_ref().unwrap_or_else(|| panic!("seed {seed}: no reason: {device:#?}"));
            assert!(!reason.detail.is_empty());
            *codes.entry(reason.code).or_default() += 1;
        }
        assert_eq!(whole.attempts.len(), device.attempts() as usize, "seed {seed}: an attempt without a record");
        for attempt in &whole.attempts {
            let reason = attempt.reason.as_ref().unwrap_or_else(|| panic!("seed {seed}: {attempt:#?}"));
            assert!(attempt.ended_at.is_some() && !attempt.events.is_empty(), "seed {seed}");
            *codes.entry(reason.code).or_default() += 1;
        }
        assert!(device.attempts() <= device.request.max_attempts, "seed {seed}");
        // One machine at a time, unless the vendor makes two of one request.
        let mut machines = world.sim.devices();
        machines.retain(|machine| owner(machine) == Some(*id));
        let in_turn = machines.is_sorted_by(|one, next| one.ended_at.is_some_and(|ended| ended <= next.created_at));
        assert!(doubles || in_turn, "seed {seed}: launched twice: {machines:#?} {whole:#?}");
    }
    let mut alive = world.alive();
    alive.sort();
    wanted.sort();
    assert_eq!(alive, wanted, "seed {seed}: {:#?}", world.sim.devices());
    for machine in world.sim.alive() {
        assert_eq!(machine.termination_time, None, "seed {seed}: the dead man's switch is still on");
    }
    codes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_lives_leave_exactly_the_active_machines_and_a_reason_for_every_other() {
    let seeds = std::env::var("MUSTER_DEVICES_SEEDS").unwrap_or_else(|_| "0..1000".to_owned());
    let (first, last) = seeds.split_once("..").expect("seeds are FIRST..LAST");
    let seeds = first.parse::<u64>().unwrap()..last.parse().unwrap();
    let whole = seeds.end - seeds.start >= 1000;
    let mut all: HashMap<Code, u32> = HashMap::new();
    let mut runs = futures::stream::iter(seeds).map(|seed| tokio::spawn(run(seed))).buffer_unordered(AT_ONCE);
    while let Some(codes) = runs.next().await {
        for (code, count) in codes.unwrap() {
            *all.entry(code).or_default() += count;
        }
    }
    println!("{all:?}");
    if whole {
        // What never happens is not shown by this test. (A request that the vendor will not have in any
        // combination is a case of the machine's tests.)
        for code in [
            Code::CameUp,
            Code::OutOfCapacity,
            Code::ProvisioningFailed,
            Code::Stalled,
            Code::Reclaimed,
            Code::Deleted,
            Code::Ephemeral,
            Code::Credentials,
            Code::CombinationRefused,
            Code::TimedOut,
            Code::VendorAway,
            Code::Quota,
            Code::TooManyAttempts,
        ] {
            assert!(all.get(&code).is_some_and(|count| *count > 0), "{code:?} never happened: {all:?}");
        }
    }
}
