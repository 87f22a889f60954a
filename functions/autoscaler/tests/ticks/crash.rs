//! Workers that die in the middle of a tick, and others that go on from what is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use autoscaler::{decision::Outcome, need::desired, policy::Policy, samples::slot};
use kit::dynamo::embedded::Faults;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use simulators::deployments::Config;
use tokio_util::sync::CancellationToken;

use crate::common::{NOON, World, few_shards, id};

/// A store that takes a while for everything, so that there is a moment between any two steps.
fn slow(milliseconds: u64) -> Faults {
    Faults { latency: Duration::from_millis(milliseconds), ..Faults::default() }
}

/// Runs the tick of the present slot and lets it die after so long.
async fn die(world: &World, after: Duration) {
    let scaler = Arc::new(world.scaler_on(world.embedded.store_with_faults("test-", slow(20))));
    let slot = world.slot();
    let tick = tokio::spawn(async move { scaler.tick(slot, &CancellationToken::new()).await });
    let abort = tick.abort_handle();
    if tokio::time::timeout(after, tick).await.is_err() {
        abort.abort();
    }
    // What has reached the store or the deployments API comes to its end there.
    tokio::time::sleep(Duration::from_millis(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_nothing_is_sent_twice_and_all_is_settled() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let kills = if std::env::var("MUSTER_SCHEDULES").is_ok() { 10 } else { 50 };
    let config = Config { latency: Duration::from_millis(15), seed: 3, count: 12, ..Config::default() };
    let world = World::with(few_shards(config, 3), "5").await;
    let policy = Policy { cooldown_after_up_seconds: 0, ..Policy::default() };
    // As long as one tick takes here, and a little more.
    let began = Instant::now();
    die(&world, Duration::MAX).await;
    let longest = began.elapsed();
    world.pass();
    let mut steps = BTreeSet::new();
    for _ in 0..kills {
        die(&world, longest.mul_f64(rng.random_range(0.0..1.1))).await;
        for state in world.states().await.values() {
            let pending = state.pending.as_ref().filter(|it| it.slot == world.slot());
            steps.insert(match pending.map(|it| it.outcome) {
                None if state.samples.last() < world.slot() => "nothing",
                None => "decided",
                Some(Outcome::Intended) => "intended",
                Some(_) => "answered",
            });
        }
        world.pass();
        // Now and then one that lives.
        if rng.random_bool(0.3) {
            world.slots(&world.scaler(), 1).await;
        }
    }
    println!("killed when there was {steps:?}");
    assert!(steps.contains("nothing") && steps.len() > 1, "{steps:?}");
    let mut sent = BTreeMap::new();
    for scale in world.scales() {
        assert_eq!(sent.insert((scale.id.clone(), scale.at), scale.delta), None, "sent twice: {scale:?}");
    }
    // Left alone it comes to what is needed, and nothing is pending for ever.
    let scaler = world.scaler();
    world.slots(&scaler, 5).await;
    world.tick(&scaler).await;
    let states = world.states().await;
    for deployment in world.sim.deployments() {
        let state = &states[&id(&deployment.id)];
        let shape = state.shape.as_ref().unwrap();
        let need = desired(deployment.busy, shape, &policy.bounds());
        assert!(deployment.status.current_hosts >= need, "{} has too few hosts: {state:?}", deployment.id);
        let old = state.pending.as_ref().is_some_and(|it| it.slot + 4 < world.slot());
        assert!(!old, "{} waits for ever: {state:?}", deployment.id);
    }
}

#[tokio::test]
async fn a_store_that_fails_now_and_then_never_makes_it_send_twice() {
    for seed in 0..6 {
        let world = World::with(few_shards(Config { seed, count: 12, ..Config::default() }, 3), "5").await;
        let faults = Faults { seed, error_rate: 0.05, lost_answer_rate: 0.1, attempts: 1, ..Faults::default() };
        let scaler = world.scaler_on(world.embedded.store_with_faults("test-", faults));
        let mut failed = 0;
        for _ in 0..60 {
            let ticked = scaler.tick(world.slot(), &CancellationToken::new()).await;
            failed += usize::from(ticked.map_or(true, |report| report.not_kept > 0));
            // What was sent had been written down before.
            let states = world.states().await;
            for scale in world.scales().into_iter().filter(|scale| scale.at == world.sim.now()) {
                let pending = states.get(&id(&scale.id)).and_then(|state| state.pending.as_ref());
                let written = pending.map(|pending| (pending.slot, pending.delta));
                assert_eq!(written, Some((world.slot(), scale.delta)), "sent without an intent: {scale:?}");
            }
            world.pass();
        }
        assert!(failed > 5, "{failed}");
        // What could not be written into the history then gets there later.
        world.slots(&world.scaler(), 2).await;
        let records = world.records();
        for scale in world.scales().into_iter().filter(|scale| scale.at.as_secs() < 60 * 30) {
            let slot = slot(NOON) + scale.at.as_secs() / 30;
            let kept = records.decisions(&id(&scale.id), (slot, slot), None, 1, None).await.unwrap().0;
            let holds = world.state(&scale.id).await;
            let waits =
                holds.decision.is_some_and(|it| it.slot == slot) || holds.pending.is_some_and(|it| it.slot == slot);
            assert!(waits || kept.iter().any(|it| it.delta == scale.delta), "not in the history: {scale:?}");
        }
        let mut sent = BTreeMap::new();
        for scale in world.scales() {
            assert_eq!(sent.insert((scale.id.clone(), scale.at), scale.delta), None, "sent twice: {scale:?}");
        }
        assert!(!sent.is_empty());
    }
}
