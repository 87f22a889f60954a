//! What the next tick would do: the same as it does, without doing it.

use autoscaler::{
    decision::{Limit, Outcome, Reason},
    machine::{Pending, Tick},
    need::Counts,
    policy::{Given, Policy},
    samples::slot,
    store::Fleet,
};
use kit::testing::Client;
use serde_json::{Value, json};
use simulators::{
    deployments::{Config, Fault, Load, Point, Spec},
    faults::Down,
};
use std::time::Duration;

use crate::common::{NOON, SLOT, World, decided, id, path, put, shape, spec, state};

async fn explain(client: &Client, name: &str, query: &str) -> Value {
    client.get(&path(name, &format!("/explain{query}"))).await.expect(200).json()
}

fn words(explained: &Value) -> String {
    explained["words"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// What of a decision is known before it is made.
fn essence(decision: &Value) -> Value {
    let names = [
        "reason",
        "inputs",
        "need_servers",
        "desired_hosts",
        "window_hosts",
        "delta",
        "in_flight",
        "limits",
        "mode",
        "flapping",
        "note",
    ];
    // An upstream that is ill says it in other words each time.
    let bad = decision["inputs"].is_null();
    names
        .iter()
        .filter(|name| !(bad && **name == "note"))
        .map(|name| ((*name).to_owned(), decision[*name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn changing(name: &str, points: &[(u64, u64)]) -> Spec {
    let point = |&(minute, busy): &(u64, u64)| Point { at: Duration::from_mins(minute), busy };
    Spec { load: Load::Points { points: points.iter().map(point).collect() }, ..spec(name, 10, "15", 10, 0) }
}

#[tokio::test]
async fn it_says_what_the_next_tick_then_does() {
    let fleet = vec![
        changing("up", &[(0, 80), (2, 130), (9, 90)]),
        changing("down", &[(0, 80), (3, 20), (12, 95)]),
        changing("wild", &[(0, 80), (1, 120), (4, 40), (6, 160), (11, 20), (13, 120)]),
        changing("dry", &[(0, 95), (8, 30)]),
        changing("kept", &[(0, 80), (4, 10)]),
        changing("bounded", &[(0, 200)]),
        changing("faulty", &[(0, 95), (5, 60)]),
    ];
    let script = json!([
        {"at": "2m", "for": "2m", "ids": ["faulty"], "what": "status_nan"},
        {"at": "6m", "for": "30s", "ids": ["up"], "what": "scale_ignore"},
        {"at": "8m", "for": "1m", "ids": ["wild"], "what": "entry_zero_servers"},
        {"at": "5m", "for": "1m", "all": true, "what": "status_error"},
        {"at": "10m", "for": "1m", "all": true, "what": "discover_error"},
        {"at": "12m", "for": "2m", "all": true, "what": "discover_half"},
        {"at": "0s", "for": "20m", "ids": ["down"], "what": "scale_drop_after"},
    ]);
    let script = serde_json::from_value(script).unwrap();
    let config = Config { fleet: Some(fleet.clone()), script: Some(script), ..Config::default() };
    let world = World::new(config).await;
    let client = world.client().await;
    let quick = json!({"window_seconds": 120, "cooldown_after_up_seconds": 60, "cooldown_after_failure_seconds": 60});
    put(&client, "/api/v1/deployments-policy", &[("if-match", "*")], &quick).await.expect(200);
    // Tells of each deployment how it was explained.
    let mut reasons = std::collections::BTreeSet::new();
    for turn in 0..36 {
        if turn == 1 {
            for (name, given) in [
                ("dry", json!({"mode": "dry_run"})),
                ("kept", json!({"mode": "paused_in"})),
                ("bounded", json!({"max_hosts": 12})),
            ] {
                put(&client, &path(name, "/policy"), &[("if-match", "*")], &given).await.expect(200);
            }
        }
        let mut explained = Vec::new();
        for spec in &fleet {
            explained.push(explain(&client, &spec.id, "").await);
        }
        let before = world.sim.scales();
        let report = world.tick().await;
        let sent = world.sim.scales().split_off(before.len());
        let wave = report.frozen && explained.iter().any(|it| it["frozen"] == false);
        for (spec, explained) in fleet.iter().zip(explained) {
            let done = client.get(&path(&spec.id, "")).await.expect(200).json();
            let here = format!("turn {turn}: {explained}\n{done}");
            assert_eq!(explained["at"], done["last_decision"]["until"], "{here}");
            if wave && done["last_decision"]["reason"] == "Frozen" {
                // Of the others nobody knew.
                continue;
            }
            assert_eq!(essence(&explained["decision"]), essence(&done["last_decision"]), "{here}");
            let sent: Vec<_> = sent.iter().filter(|it| it.id == spec.id).map(|it| Value::from(it.delta)).collect();
            let asked: Vec<_> = explained["would_send"].as_i64().map(Value::from).into_iter().collect();
            assert_eq!(asked, sent, "{here}");
            assert_eq!(explained["bad"].is_null(), explained["sample"].is_object(), "{here}");
            assert!(words(&explained).contains(explained["decision"]["reason"].as_str().unwrap()), "{here}");
            reasons.insert(explained["decision"]["reason"].as_str().unwrap().to_owned());
        }
        world.pass();
    }
    for reason in [
        "ScaledUp",
        "ScaledDown",
        "WithinTarget",
        "Stabilizing",
        "InFlight",
        "AtMax",
        "BadMetrics",
        "BreakerOpen",
        "Paused",
        "DryRun",
    ] {
        assert!(reasons.contains(reason), "{reason} was never explained: {reasons:?}");
    }
}

#[tokio::test]
async fn it_is_the_machines_own_step() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 30)]).await;
    let client = world.client().await;
    let kept = state(SLOT - 19..=SLOT, 60);
    world.put("eu-1", kept.clone()).await;
    let explained = explain(&client, "eu-1", "").await;
    let counts = Counts { hosts: 10, total: 100, free: 70 };
    let policy = Policy::default();
    let tick = Tick { slot: SLOT + 1, at: NOON.as_second() + 30, policy: &policy, frozen: false };
    let mut state = kept;
    let step = state.step(Ok(counts), &tick);
    let decision = autoscaler::views::decision(state.decision.as_ref().unwrap());
    assert_eq!(explained["decision"], serde_json::to_value(&decision).unwrap());
    assert_eq!(explained["would_send"], json!(step.send));
    assert_eq!((step.send, decision.window_hosts), (Some(-1), Some(8)));
    assert_eq!(
        words(&explained),
        "It is listed with 10 servers on each host and a target of 15 % free.\n\
         It says: 10 hosts, 100 servers, 70 of them free.\n\
         30 of 100 servers are busy: 70.00 % are free; the target is 15 %.\n\
         It needs ceil(100000 * 30 / (100000 - 15000)) = 36 servers.\n\
         With 10 on each host: ceil(36 / 10) = 4 hosts.\n\
         In the window of 300 s it has needed up to 8 hosts; it keeps those.\n\
         In a minute at most max(1, 10 % of 10) = 1 host may be taken away.\n\
         The decision would be ScaledDown: takes away 1 host.\n\
         It would ask once for a delta of -1."
    );
}

#[tokio::test]
async fn it_changes_nothing_anywhere() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 99)]).await;
    let client = world.client().await;
    world.put("eu-1", state(SLOT - 5..=SLOT, 60)).await;
    let before = (world.records().shards().await.unwrap(), world.records().fleet().await.unwrap());
    let first = explain(&client, "eu-1", "").await;
    assert_eq!(first["would_send"], 2);
    assert_eq!(explain(&client, "eu-1", "").await, first);
    assert_eq!((world.records().shards().await.unwrap(), world.records().fleet().await.unwrap()), before);
    let stats = world.sim.stats();
    assert_eq!((stats.scales, stats.discoveries, stats.statuses), (0, 2, 2));
}

#[tokio::test]
async fn every_field_of_a_policy_can_be_tried() {
    let world = World::of(vec![spec("up", 10, "15", 10, 99), spec("down", 10, "15", 10, 30)]).await;
    let client = world.client().await;
    for name in ["up", "down"] {
        let mut kept = state(SLOT - 19..=SLOT, 60);
        kept.scalings = [(SLOT - 7, 2)].into();
        kept.failed = Some(SLOT - 3);
        world.put(name, kept).await;
    }
    let tried = async |name: &str, query: &str| {
        let explained = explain(&client, name, &format!("?{query}")).await;
        let names: Vec<_> = explained["overridden"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let mut asked: Vec<_> = query.split('&').map(|it| it.split('=').next().unwrap()).collect();
        asked.sort_unstable();
        assert_eq!(names, asked);
        for pair in query.split('&').filter(|it| !it.starts_with("target")) {
            let (name, value) = pair.split_once('=').unwrap();
            assert_eq!(explained["policy"][name].to_string().trim_matches('"'), value, "{query}");
        }
        let decision = &explained["decision"];
        (decision["reason"].as_str().unwrap().to_owned(), decision["delta"].as_i64().unwrap(), words(&explained))
    };
    for (query, reason, delta) in [
        ("target_free_pct=50", "ScaledUp", 10),
        ("target_free_pct=49.9999", "ScaledUp", 10),
        ("target_free_pct=1e0", "WithinTarget", 0),
        ("min_hosts=15", "ScaledUp", 5),
        ("max_hosts=11", "ScaledUp", 1),
        ("max_hosts=10", "AtMax", 0),
        ("min_free_servers=100", "ScaledUp", 10),
        ("up_step_hosts=1&up_step_pct=10", "ScaledUp", 1),
        ("up_step_hosts=0&up_step_pct=0", "StepLimited", 0),
        ("mode=dry_run", "DryRun", 2),
        ("mode=paused_out", "Paused", 0),
        ("mode=paused_in", "ScaledUp", 2),
    ] {
        let (found, by, _) = tried("up", query).await;
        assert_eq!((found.as_str(), by), (reason, delta), "{query}");
    }
    let calm = "cooldown_after_up_seconds=0&cooldown_after_failure_seconds=0";
    for (query, reason, delta) in [
        ("min_hosts=1".to_owned(), "Cooldown", 0),
        ("cooldown_after_failure_seconds=300".to_owned(), "Cooldown", 0),
        (calm.to_owned(), "ScaledDown", -1),
        (format!("{calm}&down_step_hosts=2"), "ScaledDown", -2),
        (format!("{calm}&window_seconds=30&down_step_pct=100"), "ScaledDown", -6),
        (format!("{calm}&down_step_hosts=0&down_step_pct=0"), "StepLimited", 0),
        (format!("{calm}&window_seconds=600"), "ScaledDown", -1),
        (format!("{calm}&mode=paused_in"), "Paused", 0),
        (format!("{calm}&boot_grace_seconds=30"), "ScaledDown", -1),
    ] {
        let (found, by, words) = tried("down", &query).await;
        assert_eq!((found.as_str(), by), (reason, delta), "{query}: {words}");
    }
    // A question about a mode is answered even where a stricter one is set.
    put(&client, "/api/v1/deployments-policy", &[("if-match", "*")], &json!({"mode": "paused"})).await.expect(200);
    assert_eq!(explain(&client, "up", "").await["decision"]["reason"], "Paused");
    assert_eq!(tried("up", "mode=on").await.0, "ScaledUp");
    // None of the questions was kept.
    assert_eq!(explain(&client, "up", "").await["overridden"], json!([]));
    assert_eq!(world.sim.stats().scales, 0);
}

#[tokio::test]
async fn limits_that_contradict_each_other_are_refused_only_where_the_question_brings_them() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 90)]).await;
    let client = world.client().await;
    world.put("eu-1", decided(Reason::WithinTarget)).await;
    put(&client, &path("eu-1", "/policy"), &[("if-match", "*")], &json!({"max_hosts": 4})).await.expect(200);
    client.get(&path("eu-1", "/explain?max_hosts=5")).await.expect(200);
    let problem = client.get(&path("eu-1", "/explain?min_hosts=5")).await.problem(400, "bad-parameter");
    assert_eq!(problem["errors"][0]["pointer"], "?min_hosts", "{problem}");
    put(&client, "/api/v1/deployments-policy", &[("if-match", "*")], &json!({"min_hosts": 9})).await.expect(200);
    client.get(&path("eu-1", "/explain?window_seconds=60")).await.expect(200);
    client.get(&path("eu-1", "/explain?max_hosts=9")).await.expect(200);
    let problem = client.get(&path("eu-1", "/explain?max_hosts=8")).await.problem(400, "bad-parameter");
    assert_eq!(problem["errors"][0]["pointer"], "?max_hosts", "{problem}");
}

#[tokio::test]
async fn where_the_list_cannot_be_read_the_shape_that_is_known_counts() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 95)]).await;
    let client = world.client().await;
    world.put("eu-1", state(SLOT - 5..=SLOT - 1, 60)).await;
    world.sim.change(|config| config.discover_error_rate = 1.0);
    let explained = explain(&client, "eu-1", "").await;
    assert_eq!((&explained["would_send"], &explained["sample"]["free"]), (&2.into(), &5.into()));
    assert!(words(&explained).contains("The list could not be read"), "{}", words(&explained));
    assert!(words(&explained).contains("it is known with 10 servers on each host and a target of 15 % free"));
    // A shape that is listed anew counts in the tick that reads the list.
    world.sim.change(|config| {
        config.discover_error_rate = 0.0;
        config.fleet.as_mut().unwrap()[0].target_free_pct = "50".parse().unwrap();
    });
    assert_eq!(explain(&client, "eu-1", "").await["would_send"], 9);
}

#[tokio::test]
async fn a_tick_that_does_not_read_the_list_goes_by_the_one_before() {
    let world = World::of(vec![spec("eu-1", 10, "50", 10, 95)]).await;
    let client = world.client().await;
    // It was known with another target; the tick of the odd slot keeps to that.
    world.put("eu-1", state(SLOT - 5..=SLOT, 60)).await;
    let records = world.records();
    records.claim(SLOT, "a test").await.unwrap();
    records.put_fleet(&Fleet { slot: SLOT, discovered: SLOT, ..Fleet::default() }).await.unwrap();
    let explained = explain(&client, "eu-1", "").await;
    assert_eq!((&explained["at"], &explained["would_send"]), (&"2027-01-15T08:00:30Z".into(), &2.into()));
    assert!(words(&explained).contains("a target of 50 % free. The next tick does not read the list"), "{explained}");
    world.pass();
    world.tick().await;
    assert_eq!(world.sim.scales()[0].delta, 2);
}

#[tokio::test]
async fn where_the_api_is_away_that_is_the_explanation() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 95)]).await;
    let client = world.client().await;
    world.put("eu-1", state(SLOT - 5..=SLOT, 60)).await;
    world.sim.change(|config| config.down = Down::Reset);
    let explained = explain(&client, "eu-1", "").await;
    assert_eq!((&explained["decision"]["reason"], &explained["would_send"]), (&"BadMetrics".into(), &Value::Null));
    assert_eq!(explained["sample"], Value::Null);
    assert!(!explained["bad"].as_str().unwrap().is_empty());
    assert!(
        words(&explained).contains("The list could not be read") && words(&explained).contains("Nothing would be sent")
    );
}

#[tokio::test]
async fn a_shape_that_cannot_be_used_is_the_explanation() {
    let fleet = Some(vec![spec("eu-1", 10, "15", 10, 95)]);
    let world = World::new(Config {
        fleet,
        entry_bad_rate: 1.0,
        entry_bad: Some(Fault::EntryZeroServers),
        ..Config::default()
    });
    let world = world.await;
    let client = world.client().await;
    world.put("eu-1", state(SLOT - 5..=SLOT - 1, 60)).await;
    let explained = explain(&client, "eu-1", "?target_free_pct=20").await;
    assert_eq!((&explained["decision"]["reason"], &explained["would_send"]), (&"BadMetrics".into(), &Value::Null));
    assert!(words(&explained).contains("servers_per_host must be") && words(&explained).contains("changes nothing"));
}

#[tokio::test]
async fn one_that_is_not_listed_any_more_gets_nothing() {
    let fleet = ["a", "b", "c"].map(|name| spec(name, 10, "15", 10, 95)).to_vec();
    let world = World::of(fleet.clone()).await;
    let client = world.client().await;
    world.tick().await;
    world.pass();
    // The list is not read in an odd slot.
    world.sim.change(|config| config.entry_missing_rate = 1.0);
    let explained = explain(&client, "a", "").await;
    assert!(words(&explained).contains("not listed now") && explained["frozen"] == false, "{explained}");
    world.tick().await;
    world.pass();
    // All are missing: nobody believes that yet.
    let explained = explain(&client, "a", "").await;
    assert_eq!(explained["frozen"], true, "{explained}");
    assert!(words(&explained).contains("3 of 3 deployments are missing"), "{explained}");
    world.tick().await;
    world.pass();
    world.sim.change(|config| config.entry_missing_rate = 0.0);
    world.ticks(2).await;
    // Of three one is missing.
    world.sim.change(|config| config.fleet = Some(fleet[1..].to_vec()));
    world.ticks(1).await;
    world.clock.advance(Duration::from_secs(30));
    let explained = explain(&client, "a", "").await;
    assert_eq!((&explained["would_send"], &explained["sample"]), (&Value::Null, &Value::Null), "{explained}");
    assert!(words(&explained).contains("It is not listed any more, and not scaled."), "{explained}");
    world.tick().await;
    assert_eq!(world.sim.scales().iter().filter(|it| it.id == "a" && it.at > Duration::from_mins(3)).count(), 0);
    assert_eq!(client.get(&path("a", "")).await.expect(200).json()["state"], "gone");
    client.get(&path("d", "/explain")).await.problem(404, "not-found");
}

#[tokio::test]
async fn one_that_is_gone_gets_nothing_even_if_it_answers() {
    let world = World::of(["a", "b", "c"].map(|name| spec(name, 10, "15", 10, 95)).to_vec()).await;
    let client = world.client().await;
    for name in ["a", "b", "c"] {
        world.put(name, state(SLOT - 5..=SLOT - 1, 85)).await;
    }
    let script = json!([{"at": "0s", "ids": ["a"], "what": "entry_missing"}]);
    world.sim.change(|config| config.script = serde_json::from_value(script).unwrap());
    assert_eq!(explain(&client, "b", "").await["would_send"], 2);
    let explained = explain(&client, "a", "").await;
    assert_eq!((&explained["would_send"], &explained["decision"]["delta"]), (&Value::Null, &2.into()));
    assert!(words(&explained).contains("Nothing would be sent: it is not listed any more."), "{explained}");
    world.tick().await;
    let mut asked: Vec<_> = world.sim.scales().into_iter().map(|scale| scale.id).collect();
    asked.sort();
    assert_eq!(asked, ["b", "c"]);
}

#[tokio::test]
async fn one_that_no_tick_has_seen_yet_is_explained_if_it_is_listed() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 95)]).await;
    let client = world.client().await;
    let explained = explain(&client, "eu-1", "").await;
    assert_eq!((&explained["would_send"], &explained["at"]), (&2.into(), &"2027-01-15T08:00:00Z".into()));
    assert_eq!(world.records().shards().await.unwrap().len(), 0);
    // The next tick does not read the list.
    world.sim.change(|config| config.entry_missing_rate = 1.0);
    world.tick().await;
    world.sim.change(|config| config.entry_missing_rate = 0.0);
    let explained = explain(&client, "eu-1", "").await;
    assert_eq!((&explained["would_send"], &explained["at"]), (&2.into(), &"2027-01-15T08:01:00Z".into()));
    world.pass();
    world.ticks(2).await;
    let scales = world.sim.scales();
    assert_eq!((scales.len(), scales[0].at, scales[0].delta), (1, Duration::from_mins(1), 2));
}

#[tokio::test]
async fn a_slot_that_was_claimed_is_not_the_next_one() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 95)]).await;
    let client = world.client().await;
    // The tick had no time for it.
    world.put("eu-1", state(SLOT - 5..=SLOT - 1, 60)).await;
    assert_eq!(explain(&client, "eu-1", "").await["at"], "2027-01-15T08:00:00Z");
    world.records().claim(SLOT, "a test").await.unwrap();
    assert_eq!(explain(&client, "eu-1", "").await["at"], "2027-01-15T08:00:30Z");
}

#[tokio::test]
async fn what_is_frozen_pending_and_flapping_is_said() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 30), spec("us-1", 10, "15", 10, 30)]).await;
    let client = world.client().await;
    let records = world.records();
    records.claim(SLOT, "a test").await.unwrap();
    let fleet = Fleet { slot: SLOT, discovered: SLOT, frozen_until: SLOT + 2, ..Fleet::default() };
    records.put_fleet(&fleet).await.unwrap();
    world.put("eu-1", state(SLOT - 19..=SLOT, 60)).await;
    let explained = explain(&client, "eu-1", "").await;
    assert_eq!((&explained["decision"]["reason"], &explained["frozen"]), (&"Frozen".into(), &true.into()));
    assert!(words(&explained).contains("until 2027-01-15T08:01:30Z no host is taken away"), "{}", words(&explained));
    let mut kept = state(SLOT - 19..=SLOT, 60);
    let expected = 12;
    kept.pending = Some(Pending {
        slot: SLOT,
        at: NOON.as_second(),
        from: 10,
        delta: 2,
        expected,
        readings: 0,
        outcome: Outcome::Accepted,
        decision: None,
    });
    kept.scalings = (0..21).map(|n| (SLOT - 21 + n, if n % 2 == 0 { 1 } else { -1 })).collect();
    world.put("us-1", kept).await;
    let explained = explain(&client, "us-1", "?mode=dry_run").await;
    let words = words(&explained);
    assert!(words.contains("A request of 2027-01-15T08:00:00Z for +2 hosts, to be 12, was not settled"), "{words}");
    assert!(words.contains("changes direction too often (100 %"), "{words}");
    assert!(words.contains("Its mode is dry_run.") && explained["decision"]["flapping"] == true, "{words}");
}

/// The pure part, without a store and without a deployments API.
#[test]
fn the_words_name_every_limit() {
    use autoscaler::explain::{Listing, Overrides, Seen, explain};
    let mut kept = state(SLOT - 19..=SLOT, 60);
    kept.shape = Some(shape(4, "50"));
    let given = Given { min_free_servers: Some(500), up_step_hosts: Some(3), up_step_pct: Some(0), ..Given::default() };
    let overrides = Overrides { target: None, given };
    let seen = Seen {
        slot: SLOT + 1,
        listing: Listing::Listed(Ok(shape(4, "50"))),
        reading: Ok(Counts { hosts: 2, total: 6, free: 0 }),
        state: kept,
        fleet: Fleet::default(),
        reads_list: true,
    };
    let found = explain(&id("eu-1"), &seen, Policy { max_hosts: Some(100), ..Policy::default() }, NOON, &overrides);
    assert_eq!(slot(found.at), SLOT + 1);
    assert_eq!(found.decision.limits, [Limit::MinFreeServers, Limit::MaxHosts, Limit::UpStep]);
    assert_eq!(found.overridden, ["min_free_servers", "up_step_hosts", "up_step_pct"]);
    let words = found.words.join("\n");
    for part in [
        "ceil(100000 * 6 / (100000 - 50000)) = 12 servers",
        "With min_free_servers 500: max(12, 6 + 500) = 506 servers.",
        "ceil(506 / 4) = 127 hosts",
        "max_hosts makes that 100.",
        "2 hosts with 4 servers each are not 6: some boot or drain.",
        "On their way, and counted as if they were there: 1 host.",
        "In a tick at most max(3, 0 % of 2) = 3 hosts may be added.",
        "It would ask once for a delta of +3.",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
}
