//! A thousand lives, each with its own misfortunes, the same every time for the same seed.
//!
//! `MUSTER_DEVICES_SEEDS=0..1000` takes others; one that failed is taken again alone with `7..8`.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use devices::{
    device::{Attempt, Code, Device, State},
    request::Request,
    store::Whole,
    worker::Rounds,
};
use jiff::{SignedDuration, Timestamp};
use kit::dynamo::{Store, embedded::Faults};
use rand::{Rng, SeedableRng as _, rngs::StdRng};
use simulators::packet::{self, Capacity, Config, Fault, Rule};
use uuid::Uuid;

use crate::{
    common::{NOON, World, owner},
    way::{Counts, Doom, Mishaps, Way, Ways},
};

/// Time between two rounds: longer than the worker's own, which makes everything a little later.
const STEP: Duration = Duration::from_secs(10);
/// The same after a while: what still goes on then is an outage that has to pass, or a wait.
const LONG_STEP: Duration = Duration::from_secs(25);
const WHILE: Duration = Duration::from_secs(200);
/// The same while something is on its way, and what is done meanwhile matters.
const SHORT_STEP: Duration = Duration::from_secs(4);
/// Nothing new goes wrong after this time.
const MISFORTUNE: Duration = Duration::from_secs(20 * 60);
/// One record has two machines for no longer than this: a tick of the schedule.
const TICK: SignedDuration = SignedDuration::from_secs(60);
/// The same where requests fail now and then for ever, to the store or for their number.
const TICKS: SignedDuration = SignedDuration::from_secs(5 * 60);
/// The same where a device that waited long enough for its twin to go is up without that: two sweeps,
/// of which a dying worker may have begun the first.
const SWEEPS: SignedDuration = SignedDuration::from_secs(35 * 60);

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
    /// What goes wrong on the way to the vendor.
    mishaps: Mishaps,
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
    let (two, dies) = (rng.random_bool(0.3), rng.random_range(0.0..0.2));
    let mut rate = |share| if rng.random_bool(share) { rng.random_range(0.2..0.9) } else { 0.0 };
    let mishaps = Mishaps { late: rate(0.3), again: rate(0.2) };
    Plan { config, requests, deletes, store, two, dies, mishaps }
}

impl Plan {
    /// Until when twins may stay that should go: the vendor does not delete, or is not reached.
    fn twins_stay_until(&self) -> Timestamp {
        let keeps = |fault| {
            use Fault::{
                DeleteFailed, DeleteIgnored, DeleteRefused, Dropped, Html, RateLimited, ServerError, TokenRevoked,
            };
            matches!(
                fault,
                DeleteRefused
                    | DeleteIgnored
                    | DeleteFailed
                    | TokenRevoked
                    | ServerError
                    | Html
                    | Dropped
                    | RateLimited
            )
        };
        let ends = self.config.faults.iter().filter(|rule| keeps(rule.fault)).filter_map(|rule| rule.until);
        NOON + ends.max().unwrap_or_default()
    }

    /// For how long after that.
    fn twins_stay_for(&self, device: &Device) -> SignedDuration {
        if device.state() == State::Active && self.twins_stay_until() > NOON {
            SWEEPS
        } else if self.store.is_some() || self.config.rate_limit.is_some() {
            TICKS
        } else {
            TICK
        }
    }
}

/// When a device must be settled at the latest: all its attempts at their longest, each with an
/// overdue teardown, after the last misfortune.
fn deadline(device: &Device) -> Timestamp {
    let attempt = SignedDuration::from_secs(i64::from(device.request.provision_timeout_seconds) + 600 + 120);
    let misfortune = SignedDuration::try_from(MISFORTUNE).unwrap();
    device.created_at + misfortune + attempt * i32::try_from(device.request.max_attempts).unwrap()
}

/// A worker, and its way to the vendor.
struct Working {
    rounds: Rounds,
    way: Way,
}

impl Working {
    /// Does what is due. Answers itself, unless it has died of it, and whether it may know of something
    /// left to do.
    async fn round(mut self) -> Option<(Self, bool)> {
        let lived = tokio::select! {
            biased;
            () = self.way.death() => None,
            due = self.rounds.round() => Some(!matches!(due, Ok(None))),
        };
        if let Some(busy) = lived {
            return Some((self, busy));
        }
        drop(self.rounds);
        self.way.end().await;
        None
    }
}

/// One life of some devices.
struct Life {
    seed: u64,
    plan: Plan,
    rng: StdRng,
    world: World,
    ways: Arc<Ways>,
    /// What the workers work on, which may fail.
    store: Store,
    ids: Vec<Uuid>,
    /// Since when a device has had more than one machine.
    doubled: HashMap<Uuid, Timestamp>,
}

impl Life {
    async fn new(seed: u64) -> Self {
        let (plan, mut rng) = (plan(seed), StdRng::seed_from_u64(!seed));
        let world = World::new(plan.config.clone()).await;
        let store = plan.store.map(|faults| world.embedded.store_with_faults("test-", faults));
        let store = store.unwrap_or_else(|| world.store.clone());
        let chance = StdRng::from_rng(&mut rng);
        let ways = Ways::new(world.sim.addr(), world.devices(), world.clock.clone(), plan.mishaps, chance);
        let mut ids = Vec::new();
        for request in &plan.requests {
            ids.push(world.launch(request.clone()).await);
        }
        Self { seed, plan, rng, world, ways, store, ids, doubled: HashMap::new() }
    }

    async fn worker(&self) -> Working {
        let way = Way::new(&self.ways).await;
        Working { rounds: self.world.rounds_at(way.url(), self.store.clone()), way }
    }

    /// Whether a worker dies in the next round, and when: between the claim and the request to create,
    /// before it hears what came of that, or at any other request.
    fn doom(&mut self) -> Option<Doom> {
        let rng = &mut self.rng;
        let dies = rng.random_bool(self.plan.dies);
        let doom = Doom { at_create: rng.random(), nth: rng.random_range(1..=6), before: rng.random() };
        dies.then_some(if doom.at_create { Doom { nth: 1, ..doom } } else { doom })
    }

    /// Both workers do what is due. What the store's failures interrupt is taken up by the next round;
    /// one that dies does so in the middle of whatever it is at, and another one comes. Answers whether
    /// a worker may know of something left to do.
    async fn round(&mut self, workers: &mut Vec<Working>) -> bool {
        for worker in &*workers {
            worker.way.set_doom(self.doom());
        }
        let rounds = std::mem::take(workers).into_iter().map(Working::round);
        let mut busy = false;
        for worker in futures::future::join_all(rounds).await {
            busy |= worker.as_ref().is_none_or(|(_, busy)| *busy);
            workers.push(match worker {
                Some((worker, _)) => worker,
                None => self.worker().await,
            });
        }
        busy
    }

    /// So much time passes, and what is on its way arrives in it.
    async fn pass(&self, by: Duration) {
        let until = self.world.clock.now() + by;
        while let Some(at) = self.ways.next_arrival().filter(|at| *at <= until) {
            self.world.advance(Duration::try_from(at.duration_since(self.world.clock.now())).unwrap_or_default());
            self.ways.arrive().await;
        }
        self.world.advance(Duration::try_from(until.duration_since(self.world.clock.now())).unwrap_or_default());
    }

    /// What must be true at any time.
    async fn look(&mut self) {
        let (seed, now) = (self.seed, self.world.clock.now());
        let wrong = self.ways.wrong();
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
        let mut alive: HashMap<Uuid, usize> = HashMap::new();
        for machine in self.world.sim.alive().iter().filter(|machine| machine.state != "deprovisioning") {
            *alive.entry(owner(machine).unwrap()).or_default() += 1;
        }
        self.doubled.retain(|id, _| alive.get(id).is_some_and(|count| *count > 1));
        for (id, _) in alive.into_iter().filter(|(_, count)| *count > 1) {
            let since = *self.doubled.entry(id).or_insert(now);
            let device = self.world.devices().device(id).await.unwrap().unwrap();
            let may_stay = self.plan.twins_stay_for(&device);
            assert!(
                now.duration_since(since.max(self.plan.twins_stay_until())) <= may_stay,
                "seed {seed}: {id} has had two machines since {since}, now {now}: {device:#?}"
            );
        }
    }

    async fn live(&mut self) {
        let mut workers = Vec::new();
        for _ in 0..if self.plan.two { 2 } else { 1 } {
            workers.push(self.worker().await);
        }
        let mut deletes = self.plan.deletes.clone();
        let devices = self.world.devices();
        let last = devices.devices(&self.ids).await.unwrap().iter().map(deadline).max().unwrap();
        loop {
            let elapsed = Duration::try_from(self.world.clock.now().duration_since(NOON)).unwrap();
            for (_, at) in deletes.extract_if(.., |(at, _)| *at <= elapsed) {
                self.world.delete(self.ids[at]).await;
            }
            for id in self.ways.unsure() {
                // Nobody knows yet whether there will be a machine.
                if self.rng.random_bool(0.2) {
                    self.world.delete(id).await;
                }
            }
            let busy = self.round(&mut workers).await;
            self.look().await;
            if !busy && deletes.is_empty() && devices.work().await.unwrap().is_empty() {
                break;
            }
            assert!(
                self.world.clock.now() <= last,
                "seed {}: not settled in time: {:#?}",
                self.seed,
                devices.devices(&self.ids).await
            );
            self.pass(match self.ways.next_arrival() {
                Some(_) => SHORT_STEP,
                None if elapsed < WHILE => STEP,
                None => LONG_STEP,
            })
            .await;
        }
        self.pass(STEP).await;
        // A twin whose deletion takes the vendor longer than it should is left to the sweep.
        if self.plan.twins_stay_until() > NOON || self.plan.store.is_some() || self.plan.config.rate_limit.is_some() {
            workers[0].way.set_doom(None);
            for _ in 0..3 {
                self.pass(Duration::from_secs(16 * 60)).await;
                _ = workers[0].rounds.round().await;
            }
            self.pass(Duration::from_secs(600)).await;
        }
    }
}

async fn run(seed: u64) -> (HashMap<Code, u32>, Counts) {
    let mut life = Life::new(seed).await;
    life.live().await;
    let codes = life.verify().await;
    (codes, life.ways.counts())
}

impl Life {
    /// What must be true at the end. Answers how what ended as what.
    async fn verify(&self) -> HashMap<Code, u32> {
        let (seed, world) = (self.seed, &self.world);
        let mut codes = HashMap::new();
        let mut wanted = Vec::new();
        for id in &self.ids {
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
            self.verify_attempts(&whole);
            for attempt in &whole.attempts {
                *codes.entry(attempt.reason.as_ref().unwrap().code).or_default() += 1;
            }
            self.verify_machines(&whole);
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

    /// Each attempt has a record and a reason, and came after the end of the one before.
    fn verify_attempts(&self, Whole { device, attempts }: &Whole) {
        let seed = self.seed;
        let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.number).collect();
        assert!(
            numbers.iter().copied().eq(1..=device.attempts()),
            "seed {seed}: an attempt without a record: {numbers:?}"
        );
        assert!(device.attempts() <= device.request.max_attempts, "seed {seed}");
        for attempt in attempts {
            let reason = attempt.reason.as_ref().unwrap_or_else(|| panic!("seed {seed}: {attempt:#?}"));
            assert!(!reason.detail.is_empty() && !attempt.events.is_empty(), "seed {seed}: {attempt:#?}");
            assert!(attempt.ended_at.is_some(), "seed {seed}: {attempt:#?}");
        }
        let in_turn = attempts.is_sorted_by(|one, next| one.ended_at.is_some_and(|ended| ended <= next.started_at));
        assert!(in_turn, "seed {seed}: begun before the one before had ended: {attempts:#?}");
    }

    /// Each machine was made for an attempt, went with it, and was not beside one of another request.
    fn verify_machines(&self, whole: &Whole) {
        let (seed, id) = (self.seed, whole.device.id);
        let all = self.world.sim.devices();
        let mut machines = Vec::new();
        for machine in all.iter().filter(|machine| owner(machine) == Some(id)) {
            let origin = self.ways.origin(machine);
            let origin = origin.unwrap_or_else(|| panic!("seed {seed}: nobody asked for {machine:#?}"));
            let attempt = whole.attempts.iter().find(|attempt| attempt.number == origin.attempt);
            let attempt = attempt.unwrap_or_else(|| panic!("seed {seed}: {machine:#?} is of no attempt: {whole:#?}"));
            if !origin.again && !came_up(attempt) {
                let gone = machine.ended_at.zip(attempt.ended_at).is_some_and(|(gone, ended)| gone <= ended);
                assert!(gone, "seed {seed}: {machine:#?} has outlived its attempt: {attempt:#?}");
            }
            machines.push((machine, origin));
        }
        for (at, (one, of_one)) in machines.iter().enumerate() {
            for (other, of_other) in &machines[at + 1..] {
                let together = is_beside(one, other) || is_beside(other, one);
                let one_request = of_one.request == of_other.request || of_one.again || of_other.again;
                assert!(one_request || !together, "seed {seed}: launched twice: {one:#?} {other:#?} {whole:#?}");
            }
        }
    }
}

fn came_up(attempt: &Attempt) -> bool {
    attempt.reason.as_ref().is_some_and(|reason| reason.code == Code::CameUp)
}

/// Whether a machine was there when the other one was made.
fn is_beside(one: &packet::Device, other: &packet::Device) -> bool {
    one.created_at <= other.created_at && one.ended_at.is_none_or(|ended| ended > other.created_at)
}

/// What came of some seeds.
#[derive(Default)]
struct Found {
    codes: HashMap<Code, u32>,
    counts: Counts,
    failed: Vec<u64>,
}

/// Lives the lives of the seeds that are left, one after the other.
fn live_all(next: &AtomicU64, end: u64) -> Found {
    let mut found = Found::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return found;
        }
        // One for each: nothing of a life is left when the next one begins.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        match catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(seed)))) {
            Ok((codes, counts)) => {
                found.counts += counts;
                for (code, count) in codes {
                    *found.codes.entry(code).or_default() += count;
                }
            }
            Err(_) => found.failed.push(seed),
        }
    }
}

#[test]
fn a_thousand_lives_leave_exactly_the_active_machines_and_a_reason_for_every_other() {
    let seeds = std::env::var("MUSTER_DEVICES_SEEDS").unwrap_or_else(|_| "0..1000".to_owned());
    let (first, end) = seeds.split_once("..").expect("seeds are FIRST..LAST");
    let (first, end) = (first.parse::<u64>().unwrap(), end.parse().unwrap());
    let next = AtomicU64::new(first);
    // They compute more than they wait.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Found::default();
    std::thread::scope(|scope| {
        let lives: Vec<_> = (0..threads).map(|_| scope.spawn(|| live_all(&next, end))).collect();
        for Found { codes, counts, failed } in lives.into_iter().map(|lives| lives.join().unwrap()) {
            all.counts += counts;
            all.failed.extend(failed);
            for (code, count) in codes {
                *all.codes.entry(code).or_default() += count;
            }
        }
    });
    let Found { codes, counts, mut failed } = all;
    failed.sort_unstable();
    assert!(failed.is_empty(), "{} lives went wrong; seeds: {failed:?}", failed.len());
    println!("{codes:?} {counts:?}");
    if end - first < 1000 {
        return;
    }
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
        assert!(codes.get(&code).is_some_and(|count| *count > 0), "{code:?} never happened: {codes:?}");
    }
    let Counts { late, again, unsent, unheard } = counts;
    assert!([late, again, unsent, unheard].iter().all(|count| *count > 20), "{counts:?}");
}
