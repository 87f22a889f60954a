//! The equation that everything here is for, over random schedules of faults.
//!
//! At every end, every DevEUI that the provider registered is in exactly one batch's answer; what
//! an answer holds beyond them is listed under its `recovered`; a completed batch has exactly its
//! size; short codes are unique; never more than ten requests are in flight.
//!
//! Real sockets, the real SDK on the embedded store, real (short) times. Each schedule follows from
//! its seed, which is printed when it fails: `MUSTER_SCHEDULE=<seed> cargo test -p batches --test
//! schedules` runs that one alone. `MUSTER_SCHEDULES` sets how many are run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use batches::{
    batch::{Batch, OnUncertain, Progress, Status},
    deveui::DevEui,
    ledger::State,
    provider::Provider,
    store::BatchStore,
    worker::{Timing, Worker},
};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kit::{
    clock::Clock,
    dynamo::embedded::{Embedded, Faults},
    upstream::Upstream,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use simulators::lorawan;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Long enough that a busy machine is not taken for a slow provider.
const TIMEOUT: Duration = Duration::from_millis(250);

fn timing() -> Timing {
    Timing {
        lease: Duration::from_millis(775),
        slack: Duration::from_millis(400),
        retry_base: Duration::from_millis(2),
        retry_most: Duration::from_millis(30),
        refresh: Duration::from_millis(40),
        report: Duration::from_millis(50),
        store_retry: Duration::from_millis(5),
        stop_grace: Duration::from_millis(500),
    }
}

/// What goes wrong in one schedule.
#[derive(Debug)]
struct Plan {
    provider: lorawan::Config,
    store: Faults,
    batches: Vec<Batch>,
    /// After how long the worker is killed, and again.
    crashes: Vec<Duration>,
    /// After how long the worker is stopped gracefully, and another begins.
    stops: Vec<Duration>,
    /// After how long which batch is cancelled.
    cancel: Option<(Duration, usize)>,
}

impl Plan {
    fn new(seed: u64, url: &str) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        // Each fault is in some schedules only, so that many are seen alone.
        let mut rate = |share: f64, most: f64| if rng.random_bool(share) { rng.random_range(0.0..most) } else { 0.0 };
        let provider = lorawan::Config {
            seed,
            conflict_rate: rate(0.6, 0.3),
            throttle_rate: rate(0.3, 0.2),
            drop_before_rate: rate(0.3, 0.2),
            drop_after_rate: rate(0.5, 0.3),
            error_rate: rate(0.3, 0.2),
            error_after_rate: rate(0.3, 0.2),
            garbage_rate: rate(0.3, 0.1),
            hang_rate: rate(0.2, 0.05),
            retry_after_seconds: 0,
            latency: Duration::from_millis(1),
            ..lorawan::Config::default()
        };
        // A store that takes its time leaves room for a crash between the request and the record.
        let latency = Duration::from_secs_f64(rate(0.3, 0.02));
        let store =
            Faults { seed, error_rate: rate(0.3, 0.1), lost_answer_rate: rate(0.3, 0.1), latency, ..Faults::default() };
        // Sometimes slower than the worker has patience for.
        let slow = rng.random_bool(0.1);
        let jitter = if slow { 280 } else { rng.random_range(0..8) };
        let provider = lorawan::Config { jitter: Duration::from_millis(jitter), ..provider };
        let moments = |rng: &mut StdRng, share: f64| -> Vec<Duration> {
            let count = if rng.random_bool(share) { rng.random_range(1..=2) } else { 0 };
            (0..count).map(|_| Duration::from_millis(rng.random_range(1..60))).collect()
        };
        let crashes = moments(rng, 0.3);
        let stops = moments(rng, 0.2);
        let batches: Vec<_> =
            (0..rng.random_range(1..=3)).map(|n| batch(rng, n, url, if slow { 12 } else { 60 })).collect();
        let cancel = rng
            .random_bool(0.2)
            .then(|| (Duration::from_millis(rng.random_range(0..50)), rng.random_range(0..batches.len())));
        Self { provider, store, batches, crashes, stops, cancel }
    }

    /// Whether an answer may be lost, so that a stranger's DevEUI may be taken for ours.
    fn may_lose_answers(&self) -> bool {
        let faults = &self.provider;
        faults.drop_before_rate + faults.drop_after_rate + faults.error_rate + faults.error_after_rate > 0.0
            || faults.garbage_rate + faults.hang_rate > 0.0
            || faults.jitter > Duration::from_millis(10)
            || !self.crashes.is_empty()
            // A write whose answer is lost may fence the worker off from its own batch.
            || self.store.lost_answer_rate + self.store.error_rate > 0.0
    }
}

fn batch(rng: &mut StdRng, n: u32, url: &str, most: u64) -> Batch {
    let prefixes = ["", "70B3D5", "ABCDEF0123", "ABCDEF01234"];
    let now = Timestamp::now();
    Batch {
        id: Uuid::now_v7(),
        tenant: format!("tenant-{}", n % 2),
        status: Status::Processing,
        size: rng.random_range(1..=most),
        prefix: prefixes[rng.random_range(0..prefixes.len())].parse().unwrap(),
        seed: rng.random(),
        on_uncertain: if rng.random_bool(0.3) { OnUncertain::Replace } else { OnUncertain::Keep },
        label: None,
        provider: url.to_owned(),
        created_at: now,
        updated_at: now,
        completed_at: None,
        fails_at: now + SignedDuration::from_secs(if rng.random_bool(0.05) { 0 } else { 3600 }),
        last_error: None,
        progress: Progress::default(),
        deleted_at: None,
    }
}

/// A worker at work: ended at once, like in a crash, or gracefully.
struct Running {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

fn begin(worker: &Worker) -> Running {
    let (worker, stop) = (worker.clone(), CancellationToken::new());
    let token = stop.clone();
    Running { task: tokio::spawn(async move { worker.work_forever(&token).await }), stop }
}

async fn run(seed: u64) {
    let simulator = lorawan::start(lorawan::Config::default()).await.unwrap();
    let plan = Plan::new(seed, simulator.url());
    simulator.set(plan.provider.clone());
    let engine = Embedded::memory().unwrap();
    let sound = engine.store("t-");
    sound.create_tables(&[&batches::TABLE]).await.unwrap();
    let calm = BatchStore::new(sound);
    for batch in &plan.batches {
        calm.create(batch, None).await.unwrap();
    }
    let provider = Provider::new(Upstream::new("U", simulator.url()).unwrap(), TIMEOUT);
    let shaky = BatchStore::new(engine.store_with_faults("t-", plan.store));
    let worker = Worker::new(shaky, provider, Clock::system(), timing(), Arc::new(Notify::new()));

    let cancel = plan.cancel.map(|(after, which)| {
        let (store, batch) = (calm.clone(), plan.batches[which].clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            store.cancel(&batch, Timestamp::now()).await.unwrap();
        })
    });
    let mut running = begin(&worker);
    for after in &plan.crashes {
        tokio::time::sleep(*after).await;
        running.task.abort();
        let _ = running.task.await;
        running = begin(&worker);
    }
    for after in &plan.stops {
        tokio::time::sleep(*after).await;
        running.stop.cancel();
        running.task.await.unwrap();
        running = begin(&worker);
    }
    if let Some(cancel) = cancel {
        cancel.await.unwrap();
    }
    let ends = tokio::time::timeout(Duration::from_secs(60), all_final(&calm, &plan.batches)).await;
    let ends = ends.unwrap_or_else(|_| panic!("not final after a minute: {:?}", simulator.stats()));
    running.stop.cancel();
    running.task.await.unwrap();
    // What a client gave up on is still being worked on over there.
    while simulator.stats().traffic.in_flight > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    check(&plan, &simulator, &calm, &ends).await;
    assert!(calm.pending(simulator.url(), 9, 9).await.unwrap().is_empty(), "a final batch is off the list");
}

async fn all_final(store: &BatchStore, batches: &[Batch]) -> Vec<Batch> {
    let mut ends = Vec::new();
    for batch in batches {
        loop {
            let now = store.get(&batch.tenant, batch.id).await.unwrap().unwrap();
            if now.status.is_final() {
                ends.push(now);
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    ends
}

async fn check(plan: &Plan, simulator: &lorawan::Simulator, store: &BatchStore, ends: &[Batch]) {
    let registered: BTreeSet<String> = simulator.registered();
    let mut answered = BTreeSet::new();
    for batch in ends {
        let candidates = batch.candidates();
        let chunks = store.chunks(batch.id).await.unwrap();
        let listed = |is: fn(State) -> bool| -> Vec<DevEui> {
            let indexes = chunks.iter().flat_map(|stored| stored.chunk.indexes(is));
            indexes.map(|index| candidates.deveui(index)).collect()
        };
        let (deveuis, recovered) = (listed(State::counts), listed(State::is_recovered));
        assert!(listed(|state| state == State::Open).is_empty(), "nothing is open in a final batch");
        let codes: HashSet<_> = deveuis.iter().map(|deveui| deveui.short_code()).collect();
        assert_eq!(codes.len(), deveuis.len(), "short codes are unique");
        match batch.status {
            Status::Completed => assert_eq!(deveuis.len() as u64, batch.size, "a completed batch has its size"),
            _ => assert!(deveuis.len() as u64 <= batch.size),
        }
        assert_eq!(batch.progress.registered, deveuis.len() as u64, "the counts are those of the answer");
        assert_eq!(batch.progress.recovered, recovered.len() as u64);
        let recovered: HashSet<_> = recovered.into_iter().collect();
        let all: BTreeSet<_> = deveuis.iter().chain(&recovered).copied().collect();
        for deveui in all {
            assert!(answered.insert(deveui.to_string()), "{deveui} is in one answer only");
            if !registered.contains(&deveui.to_string()) {
                assert!(recovered.contains(&deveui), "{deveui} is not registered and not listed as recovered");
                // On a machine that is busy enough any request may be given up.
                let lost = plan.may_lose_answers() || simulator.stats().traffic.abandoned > 0;
                let excused = lost && (plan.provider.conflict_rate > 0.0 || batch.status != Status::Completed);
                assert!(excused, "{deveui} is not registered, and nothing excuses it: {batch:?} {plan:?}");
            }
        }
    }
    let forgotten: Vec<_> = registered.difference(&answered).collect();
    assert!(forgotten.is_empty(), "registered and in no answer: {forgotten:?}");
    let most = simulator.stats().traffic.max_in_flight;
    assert!(most <= 10, "{most} requests were in flight at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_equation_holds_at_the_end_of_every_schedule() {
    if let Ok(seed) = std::env::var("MUSTER_SCHEDULE") {
        kit::telemetry::init_for_people("info");
        return run(seed.parse().unwrap()).await;
    }
    let count: u64 = std::env::var("MUSTER_SCHEDULES").map_or(1000, |count| count.parse().unwrap());
    let first = 20_261_121_u64;
    let failed: Vec<u64> = stream::iter(first..first + count)
        .map(|seed| async move { tokio::spawn(run(seed)).await.err().map(|_| seed) })
        .buffer_unordered(6)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(failed.is_empty(), "{} of {count} schedules failed; seeds: {failed:?}", failed.len());
}
