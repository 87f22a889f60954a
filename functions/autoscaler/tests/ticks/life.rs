//! One or a few deployments through what can happen to them.

use std::{collections::BTreeSet, time::Duration};

use autoscaler::{
    decision::{Outcome, Reason},
    policy::{Given, Mode},
    store::{ShardId, Written},
};
use serde_json::json;
use simulators::deployments::{Config, Entry, Load, Script};
use tokio_util::sync::CancellationToken;

use crate::common::{World, fleet, id, points, spec};

fn script(entries: serde_json::Value) -> Script<Entry> {
    serde_json::from_value(entries).unwrap()
}

#[tokio::test]
async fn hosts_are_added_at_once_and_taken_away_when_the_window_agrees() {
    // Full at first; from minute 5 on little to do.
    let world = World::new(fleet(vec![spec("a", 10, points(&[(0, 90), (300, 40)]))])).await;
    let scaler = world.scaler();
    world.slots(&scaler, 1).await;
    assert_eq!(world.sent("a"), [1]);
    world.slots(&scaler, 1).await;
    let decision = world.decision("a").await;
    assert_eq!(decision.reason, Reason::InFlight, "{}", decision.words());
    assert_eq!(decision.in_flight, 1);
    world.slots(&scaler, 8).await;
    assert_eq!(world.decision("a").await.reason, Reason::WithinTarget);
    assert_eq!(world.sent("a"), [1]);
    // Minute 5: the load falls; the window keeps the hosts for five minutes more.
    world.slots(&scaler, 9).await;
    assert_eq!((world.sent("a"), world.decision("a").await.reason), (vec![1], Reason::Stabilizing));
    world.slots(&scaler, 21).await;
    // 40 busy need 48 servers, 5 hosts: one a minute.
    let sent = world.sent("a");
    assert_eq!((sent.len(), sent.iter().sum::<i64>()), (7, 1 - 6));
    assert!(sent[1..].iter().all(|delta| *delta == -1), "{sent:?}");
    let times: Vec<_> = world.scales().iter().skip(1).map(|scale| scale.at.as_secs()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 60), "{times:?}");
    assert_eq!(world.sim.deployment("a").unwrap().status.current_hosts, 5);
}

#[tokio::test]
async fn a_slot_is_worked_on_once_by_one_worker() {
    let world = World::new(fleet(vec![spec("a", 10, points(&[(0, 90)]))])).await;
    let (one, other) = (world.scaler(), world.scaler());
    let (first, second) = tokio::join!(world.tick(&one), world.tick(&other));
    assert_eq!([first.duplicate, second.duplicate].iter().filter(|it| **it).count(), 1);
    assert!(world.tick(&one).await.duplicate && world.tick(&other).await.duplicate);
    let late = world.slot() - 1;
    assert!(one.tick(late, &CancellationToken::new()).await.unwrap().duplicate);
    assert_eq!(world.sent("a"), [1]);
    // They take turns, each with what it remembers, and nothing is done twice or left out.
    for turn in 0..30 {
        world.pass();
        let report = world.tick(if turn % 3 == 0 { &other } else { &one }).await;
        assert_eq!((report.duplicate, report.read, report.not_kept), (false, 1, 0));
    }
    assert_eq!(world.sent("a"), [1]);
}

#[tokio::test]
async fn who_finds_its_shard_written_by_somebody_else_sends_nothing() {
    let world = World::new(fleet(vec![spec("a", 10, points(&[(0, 50), (30, 90)]))])).await;
    let scaler = world.scaler();
    world.slots(&scaler, 1).await;
    // Somebody writes the shard without a tick of its own: a worker that has slept, say.
    let store = world.records();
    let shard_id = ShardId::of(&id("a"));
    let mut shard = store.shard(shard_id).await.unwrap();
    assert_eq!(store.put_shard(shard_id, &mut shard, "a sleeper").await.unwrap(), Written::Ours);
    let report = world.slots(&scaler, 1).await.remove(0);
    assert_eq!((report.not_kept, report.scaled_up, world.sent("a").len()), (1, 0, 0));
    assert!(report.changed.is_empty());
    // The next tick reads it again.
    let report = world.tick(&scaler).await;
    assert_eq!((report.not_kept, report.scaled_up, world.sent("a")), (0, 1, vec![1]));
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_reading_and_never_sent_again() {
    for (fault, hosts) in [("scale_drop_after", 11), ("scale_error_after", 11), ("scale_late_drop", 11)] {
        let mut config = fleet(vec![spec("a", 10, points(&[(0, 90)]))]);
        config.script = Some(script(json!([{"at": "0s", "for": "20s", "all": true, "what": fault}])));
        let world = World::new(config).await;
        let scaler = world.scaler();
        let report = world.slots(&scaler, 1).await.remove(0);
        assert_eq!((report.unknown, report.scaled_up), (1, 1), "{fault}");
        assert_eq!(world.state("a").await.pending.unwrap().outcome, Outcome::Unknown);
        world.slots(&scaler, 20).await;
        assert_eq!(world.sent("a"), [1], "{fault}");
        assert_eq!(world.sim.deployment("a").unwrap().status.current_hosts, hosts);
        let decisions = world.records().decisions(&id("a"), (0, u64::MAX / 30), None, 50, None).await.unwrap().0;
        let sent: Vec<_> = decisions.iter().filter(|it| it.delta != 0).collect();
        assert_eq!((sent.len(), sent[0].outcome), (1, Some(Outcome::Applied)), "{fault}");
    }
}

#[tokio::test]
async fn what_was_not_done_is_tried_again_later_and_later() {
    for (fault, outcome) in [
        ("scale_ignore", Outcome::Failed),
        ("scale_error", Outcome::Failed),
        ("scale_cut", Outcome::Failed),
        ("scale_hang", Outcome::Failed),
        ("scale_refuse", Outcome::Refused),
    ] {
        let mut config = fleet(vec![spec("a", 10, points(&[(0, 90)]))]);
        config.script = Some(script(json!([{"at": "0s", "for": "10m", "all": true, "what": fault}])));
        let world = World::new(config).await;
        let scaler = world.scaler();
        world.slots(&scaler, 45).await;
        let times: Vec<_> = world.scales().iter().map(|scale| scale.at.as_secs() / 30).collect();
        // Refused is known at the next reading, unchanged after two; then 2, 4 and 8 slots.
        let expected: &[u64] = if outcome == Outcome::Refused { &[0, 3, 8, 17, 26] } else { &[0, 4, 10, 20] };
        assert_eq!(times, expected, "{fault}");
        let decisions = world.records().decisions(&id("a"), (0, u64::MAX / 30), None, 500, None).await.unwrap().0;
        let outcomes: Vec<_> = decisions.iter().rev().filter_map(|it| it.outcome).collect();
        let (last, failed) = outcomes.split_last().unwrap();
        assert!(failed.iter().all(|it| *it == outcome), "{fault}: {outcomes:?}");
        assert_eq!((*last, world.sim.deployment("a").unwrap().status.current_hosts), (Outcome::Applied, 11));
    }
}

#[tokio::test]
async fn a_wave_of_bad_samples_freezes_all_scale_downs() {
    let specs = (0..8).map(|it| spec(&format!("d{it}"), 10, points(&[(0, 80), (60, 20)]))).collect();
    let mut config = fleet(specs);
    // Half of them say nonsense in slot 13, when the window would agree for the first time.
    let ids: BTreeSet<_> = (0..4).map(|it| format!("d{it}")).collect();
    config.script = Some(script(json!([{"at": "6m30s", "for": "20s", "ids": ids, "what": "status_garbage"}])));
    let world = World::new(config).await;
    let scaler = world.scaler();
    let reports = world.slots(&scaler, 13).await;
    let down: Vec<_> = reports.iter().map(|report| report.scaled_down).collect();
    assert_eq!(down, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
    let report = world.tick(&scaler).await;
    assert_eq!((report.frozen, report.bad, report.scaled_down), (true, 4, 0));
    assert_eq!(world.decision("d5").await.reason, Reason::Frozen);
    assert_eq!(world.decision("d1").await.reason, Reason::BadMetrics);
    world.pass();
    // And for a minute more.
    let reports = world.slots(&scaler, 3).await;
    assert_eq!(
        reports.iter().map(|it| (it.frozen, it.scaled_down)).collect::<Vec<_>>(),
        [(true, 0), (true, 0), (false, 8)]
    );
}

#[tokio::test]
async fn fewer_bad_samples_freeze_nothing() {
    let specs = (0..8).map(|it| spec(&format!("d{it}"), 10, points(&[(0, 80), (60, 20)]))).collect();
    let mut config = fleet(specs);
    config.script =
        Some(script(json!([{"at": "6m", "for": "10m", "ids": ["d0", "d1", "d2"], "what": "status_error"}])));
    let world = World::new(config).await;
    let scaler = world.scaler();
    let reports = world.slots(&scaler, 20).await;
    assert!(reports.iter().all(|report| !report.frozen));
    // One slot before its samples went bad it was scaled down; then no more.
    assert_eq!((world.sent("d0"), world.sent("d5").len()), (vec![-1], 5));
    assert_eq!(world.decision("d0").await.reason, Reason::BreakerOpen);
}

#[tokio::test]
async fn a_list_that_is_half_empty_freezes_and_one_that_is_missing_is_the_last_one() {
    let specs = (0..8).map(|it| spec(&format!("d{it}"), 10, points(&[(0, 80), (60, 20)]))).collect();
    let mut config = fleet(specs);
    config.script = Some(script(json!([
        {"at": "4m", "for": "4m", "all": true, "what": "discover_error"},
        {"at": "8m", "for": "4m", "all": true, "what": "discover_half"},
    ])));
    let world = World::new(config).await;
    let scaler = world.scaler();
    let reports = world.slots(&scaler, 26).await;
    assert!(reports.iter().all(|it| it.deployments == 8));
    // A list that does not come says nothing against the deployments.
    assert!(reports[8..16].iter().all(|it| !it.frozen && it.doubt.is_some()));
    assert_eq!((reports[11].scaled_down, reports[13].scaled_down), (8, 8));
    assert!(reports[16..24].iter().all(|it| it.frozen && it.doubt.is_some() && it.scaled_down == 0));
    assert_eq!((reports[24].frozen, reports[24].doubt.is_some(), reports[24].scaled_down), (false, false, 8));
}

#[tokio::test]
async fn what_is_listed_twice_or_nonsense_is_left_alone_and_the_others_are_not() {
    for what in ["entry_twice", "entry_zero_servers", "entry_target_hundred", "entry_target_text", "entry_nan"] {
        let mut config = fleet(vec![spec("a", 10, points(&[(0, 90)])), spec("b", 10, points(&[(0, 90)]))]);
        config.script = Some(script(json!([{"at": "0s", "ids": ["a"], "what": what}])));
        let world = World::new(config).await;
        let report = world.slots(&world.scaler(), 1).await.remove(0);
        assert_eq!((report.bad, report.read, world.sent("a").len(), world.sent("b").len()), (1, 2, 0, 1), "{what}");
        let state = world.state("a").await;
        assert!(state.rejected.is_some() && state.shape.is_none());
        assert_eq!(state.decision.unwrap().reason, Reason::BadMetrics);
    }
}

#[tokio::test]
async fn a_pause_holds_from_the_next_tick_on_and_ends_at_its_time() {
    let world =
        World::new(fleet(vec![spec("a", 10, points(&[(0, 90)])), spec("b", 10, points(&[(0, 50), (60, 90)]))])).await;
    let scaler = world.scaler();
    let until = world.clock.now() + Duration::from_secs(90);
    let pause = Given { mode: Some(Mode::Paused), until: Some(until), ..Given::default() };
    world.set(Some("a"), pause).await;
    world.slots(&scaler, 2).await;
    assert_eq!((world.sent("a").len(), world.decision("a").await.reason), (0, Reason::Paused));
    // All are paused, though a's own pause ends now.
    world.set(None, Given { mode: Some(Mode::PausedOut), ..Given::default() }).await;
    world.slots(&scaler, 3).await;
    assert_eq!((world.sent("a").len(), world.sent("b").len()), (0, 0));
    world.set(None, Given::default()).await;
    world.slots(&scaler, 1).await;
    assert_eq!((world.sent("a"), world.sent("b")), (vec![1], vec![1]));
}

#[tokio::test]
async fn a_dry_run_never_sends() {
    let config = Config { count: 30, seed: 7, ..Config::default() };
    let world = World::new(config).await;
    let by_policy = world.scaler();
    world.set(None, Given { mode: Some(Mode::DryRun), ..Given::default() }).await;
    let reports = world.slots(&by_policy, 30).await;
    let dry = reports.iter().flat_map(|it| &it.changed).filter(|(_, it)| it.reason == Reason::DryRun).count();
    assert!(dry > 10, "{dry}");
    world.set(None, Given::default()).await;
    let by_flag = world.scaler().dry_run(true);
    world.slots(&by_flag, 30).await;
    // Neither a deployment's own mode ends it.
    world.set(Some("eu-1"), Given { mode: Some(Mode::On), ..Given::default() }).await;
    world.slots(&by_flag, 2).await;
    assert!(world.scales().is_empty());
    assert!(world.states().await.values().all(|state| state.pending.is_none() && state.scalings.is_empty()));
    // Without it they are sent: what held them was the dry run.
    world.slots(&world.scaler(), 1).await;
    assert!(!world.scales().is_empty());
}

#[tokio::test]
async fn a_deployment_that_hangs_delays_nobody_else() {
    let specs = (0..40).map(|it| spec(&format!("d{it}"), 10, points(&[(0, 90)]))).collect();
    let mut config = fleet(specs);
    let ids: Vec<_> = (0..20).map(|it| format!("d{it}")).collect();
    config.script = Some(script(json!([{"at": "0s", "ids": ids, "what": "status_hang"}])));
    let world = World::new(config).await;
    let began = std::time::Instant::now();
    let report = world.slots(&world.scaler(), 1).await.remove(0);
    assert_eq!((report.read, report.bad, report.scaled_up, report.not_reached), (40, 20, 20, 0));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_tick_that_is_stopped_reads_no_more_and_takes_nothing_away() {
    let specs = (0..8).map(|it| spec(&format!("d{it}"), 10, points(&[(0, 80), (60, 20)]))).collect();
    let world = World::new(fleet(specs)).await;
    let scaler = world.scaler();
    world.slots(&scaler, 11).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let report = scaler.tick(world.slot(), &stop).await.unwrap();
    assert_eq!((report.read, report.not_reached, report.scaled_down), (0, 8, 0));
    world.pass();
    // One slot without a sample: the window still agrees.
    let report = world.tick(&scaler).await;
    assert_eq!((report.read, report.scaled_down), (8, 8));
}

#[tokio::test]
async fn a_minute_is_two_ticks_whenever_its_event_comes() {
    let world = World::new(fleet(vec![spec("a", 10, Load::Steady { busy: 50 })])).await;
    let scaler = world.scaler();
    let stop = CancellationToken::new();
    let slots = |reports: Vec<autoscaler::tick::Report>| {
        reports.into_iter().map(|it| (it.slot, it.duplicate)).collect::<Vec<_>>()
    };
    let first = world.slot();
    // Half a second before the next slot begins, so that a test need not wait long.
    world.clock.advance(Duration::from_millis(29_500));
    let began = std::time::Instant::now();
    assert_eq!(slots(scaler.minute(&stop).await.unwrap()), [(first, false), (first + 1, false)]);
    assert!(began.elapsed() >= Duration::from_millis(490), "the second tick was too early");
    // The same event again, or a late one.
    assert_eq!(slots(scaler.minute(&stop).await.unwrap()), [(first, true), (first + 1, true)]);
    // Some are lost; the next one works on what is now.
    world.clock.advance(Duration::from_secs(300));
    assert_eq!(slots(scaler.minute(&stop).await.unwrap()), [(first + 10, false), (first + 11, false)]);
    stop.cancel();
    world.clock.advance(Duration::from_secs(60));
    assert!(scaler.minute(&stop).await.unwrap().is_empty(), "stopped before it began");
}

#[tokio::test]
async fn a_list_that_was_missed_is_read_with_the_next_tick() {
    let mut config = fleet(vec![spec("a", 10, Load::Steady { busy: 50 })]);
    config.script = Some(script(json!([{"at": "0s", "for": "20s", "all": true, "what": "discover_error"}])));
    let world = World::new(config).await;
    let reports = world.slots(&world.scaler(), 3).await;
    assert_eq!(reports.iter().map(|it| it.deployments).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(world.sim.stats().discoveries, 3);
}
