//! The list of deployments, and one of them.

use autoscaler::{
    decision::{Decision, Reason},
    machine::Pending,
    policy::{Given, Mode},
    samples::{BadCode, time},
    store::{ShardId, Shards, Stored},
};
use kit::http::ANSWER_LIMIT;
use serde_json::{Value, json};

use crate::common::{NOON, SLOT, World, decided, field, id, path, put, spec, state};

#[tokio::test]
async fn every_deployment_with_its_hosts_and_its_last_decision() {
    let world = World::of(vec![spec("us-2", 10, "15", 10, 80), spec("eu-1", 10, "15.0", 10, 90)]).await;
    let client = world.client().await;
    let before = client.get("/api/v1/deployments").await.expect(200).json();
    assert_eq!((&before["items"], &before["fleet"]["ticked_at"]), (&json!([]), &Value::Null));
    world.tick().await;
    let list = client.get("/api/v1/deployments").await.expect(200).json();
    assert_eq!(
        list["fleet"],
        json!({
            "ticked_at": "2027-01-15T08:00:00Z", "discovered_at": "2027-01-15T08:00:00Z", "doubt": null,
            "frozen_until": null, "ignored": 0
        })
    );
    assert_eq!(field(list["items"].as_array().unwrap(), "id"), ["eu-1", "us-2"]);
    let mut eu = list["items"][0].clone();
    let decision = eu["last_decision"].take();
    assert_eq!(
        eu,
        json!({
            "id": "eu-1", "servers_per_host": 10, "target_free_pct": 15.0, "hosts": 10, "total": 100, "free": 10,
            "free_pct": 10.0, "desired_hosts": 11, "in_flight": 0, "mode": "on", "state": "ok", "flapping": false,
            "rejected": null, "observed_at": "2027-01-15T08:00:00Z", "last_decision": null
        })
    );
    assert_eq!(
        decision,
        json!({
            "at": "2027-01-15T08:00:00Z", "until": "2027-01-15T08:00:00Z", "count": 1, "reason": "ScaledUp",
            "words": "adds 1 host: 90 of 100 servers busy; 15 % free needs 106 servers, 11 hosts; it has 10 hosts",
            "inputs": {"servers_per_host": 10, "target_free_pct": 15.0, "hosts": 10, "total": 100, "free": 10},
            "need_servers": 106, "desired_hosts": 11, "window_hosts": null, "delta": 1, "in_flight": 0, "limits": [],
            "outcome": "accepted", "mode": "on", "flapping": false, "note": null
        })
    );
    assert_eq!(list["items"][1]["last_decision"]["reason"], "WithinTarget");
}

#[tokio::test]
async fn each_state_has_its_deployments_and_pages_follow_each_other() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    let mut gone = decided(Reason::WithinTarget);
    gone.gone = Some(SLOT);
    let mut rejected = decided(Reason::WithinTarget);
    (rejected.shape, rejected.rejected) = (None, Some("it is listed more than once".to_owned()));
    let mut fresh = state(SLOT..=SLOT, 85);
    fresh.decision = None;
    for (name, state) in [
        ("gone", gone),
        ("rejected", rejected),
        ("fresh", fresh),
        ("bad", decided(Reason::BadMetrics)),
        ("breaker", decided(Reason::BreakerOpen)),
        ("frozen", decided(Reason::Frozen)),
        ("max", decided(Reason::AtMax)),
        ("failed", decided(Reason::ScaleFailed)),
        ("cool", decided(Reason::Cooldown)),
        ("paused", decided(Reason::AtMax)),
        ("fine", decided(Reason::WithinTarget)),
    ] {
        world.put(name, state).await;
    }
    let paused = Given { mode: Some(Mode::PausedIn), ..Given::default() };
    let stored = Stored { version: 1, given: paused, ..Stored::default() };
    world.records().put_policy(Some(&id("paused")), &stored).await.unwrap();
    let mut seen = Vec::new();
    for (word, names) in [
        ("gone", &["gone"][..]),
        ("paused", &["paused"]),
        ("unreadable", &["bad", "rejected"]),
        ("breaker_open", &["breaker"]),
        ("frozen", &["frozen"]),
        ("limited", &["failed", "max"]),
        ("stabilizing", &["cool"]),
        ("ok", &["fine", "fresh"]),
    ] {
        let items = client.all(&format!("/api/v1/deployments?state={word}&limit=1")).await;
        assert_eq!(field(&items, "id"), names, "{word}");
        assert!(items.iter().all(|it| it["state"] == word), "{word}");
        seen.extend(field(&items, "id"));
    }
    seen.sort();
    let whole = client.get("/api/v1/deployments").await.expect(200);
    assert_eq!((whole.next_link(), &whole.json()["next_cursor"]), (None, &Value::Null));
    let whole = whole.json()["items"].as_array().unwrap().clone();
    assert_eq!(field(&whole, "id"), seen);
    for limit in [1, 2, 5, 10, 11] {
        assert_eq!(client.all(&format!("/api/v1/deployments?limit={limit}")).await, whole, "{limit}");
    }
    // A full page that is the last has no next one, and a next one is of the same question.
    assert!(client.get("/api/v1/deployments?limit=11").await.next_link().is_none());
    assert!(client.get("/api/v1/deployments?limit=10").await.next_link().is_some());
    let link = client.get("/api/v1/deployments?state=limited&limit=1").await.next_link().unwrap();
    assert!(link.starts_with("/api/v1/deployments?") && link.contains("state=limited") && link.contains("limit=1"));
    let rejected = whole.iter().find(|it| it["id"] == "rejected").unwrap();
    assert_eq!(
        (&rejected["servers_per_host"], &rejected["rejected"]),
        (&Value::Null, &"it is listed more than once".into())
    );
    let paused = whole.iter().find(|it| it["id"] == "paused").unwrap();
    assert_eq!(paused["mode"], "paused_in");
}

#[tokio::test]
async fn a_page_is_shorter_where_it_would_be_too_large() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    let long = |number: u64| format!("{}-{number:04}", "\"\\".repeat(60));
    let mut shards = Shards::new();
    for number in 0..600 {
        let mut state = decided(Reason::BadMetrics);
        state.decision.as_mut().unwrap().note = Some("\\\u{1F980}".repeat(100));
        let id = id(&long(number));
        shards.entry(ShardId::of(&id)).or_default().states.insert(id, state);
    }
    for (place, shard) in &mut shards {
        world.records().put_shard(*place, shard, "a test").await.unwrap();
    }
    let page = client.get("/api/v1/deployments?limit=500").await.expect(200);
    let items = page.json()["items"].as_array().unwrap().len();
    assert!((100..500).contains(&items), "{items}");
    let escaped = serde_json::to_string(std::str::from_utf8(&page.body).unwrap()).unwrap();
    assert!((800_000..ANSWER_LIMIT).contains(&(escaped.len() as u64)), "{}", escaped.len());
    let all = client.all("/api/v1/deployments?limit=500").await;
    assert_eq!(field(&all, "id"), (0..600).map(long).collect::<Vec<_>>());

    let decisions: Vec<_> = (0..500)
        .map(|age| Decision { note: Some("\\\u{1F980}".repeat(100)), ..Decision::new(SLOT - age, Reason::BadMetrics) })
        .collect();
    world.put_history(&long(0), &decisions[1..]).await;
    let all = client.all(&path(&long(0), "/decisions?limit=500")).await;
    let expected: Vec<_> = decisions.iter().map(|it| time(it.slot).to_string()).collect();
    assert_eq!(field(&all, "at"), expected);
}

#[tokio::test]
async fn an_id_may_hold_anything_that_is_one_segment_of_a_path() {
    let names = ["eu/1 ä", "100 %", "x?y#z", "...", "a\"b\\c", "simulate", "%2F", "+", "日本"];
    let world = World::of(names.iter().map(|name| spec(name, 10, "15", 10, 90)).collect()).await;
    let client = world.client().await;
    world.tick().await;
    let listed = field(&client.all("/api/v1/deployments?limit=2").await, "id");
    let mut sorted = names.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(listed, sorted);
    for name in names {
        // `simulate` has a route of its own.
        let at = |more: &str| path(name, more).replace("/simulate", "/%73imulate");
        assert_eq!(client.get(&at("")).await.expect(200).json()["id"], name);
        assert_eq!(client.get(&at("/explain")).await.expect(200).json()["deployment_id"], name);
        assert_eq!(client.get(&at("/policy")).await.expect(200).json()["version"], 0);
        put(&client, &at("/policy"), &[("if-match", "\"0\"")], &json!({"min_hosts": 2})).await.expect(200);
        assert_eq!(world.records().policy(Some(&id(name))).await.unwrap().given.min_hosts, Some(2));
        let page = client.get(&at("/decisions?limit=1")).await.expect(200);
        assert_eq!(page.json()["items"][0]["reason"], "ScaledUp", "{name}");
    }
    client.get("/api/v1/deployments/simulate").await.problem(405, "method-not-allowed");
}

#[tokio::test]
async fn the_link_to_a_next_page_works_for_a_strange_id() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    world.put("eu/1 ä?", decided(Reason::WithinTarget)).await;
    world.put_history("eu/1 ä?", &[1, 2, 3].map(|age| Decision::new(SLOT - age, Reason::WithinTarget))).await;
    assert_eq!(client.all(&path("eu/1 ä?", "/decisions?limit=1")).await.len(), 4);
}

#[tokio::test]
async fn one_deployment_with_its_policy_its_readings_and_what_is_pending() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    let mut state = state(SLOT - 3..=SLOT - 3, 90);
    state.samples.push(SLOT - 2, Err(BadCode::Impossible));
    // One was missed.
    state.samples.push(SLOT, Err(BadCode::Silent));
    let mut decision = Decision::new(SLOT - 3, Reason::ScaledUp);
    decision.flapping = true;
    state.decision = Some(decision);
    state.scalings = [(SLOT - 9, 1), (SLOT - 5, -1), (SLOT - 3, 2)].into();
    state.pending = Some(Pending {
        slot: SLOT - 3,
        at: NOON.as_second(),
        from: 10,
        delta: 2,
        expected: 12,
        readings: 1,
        outcome: autoscaler::decision::Outcome::Unknown,
        decision: None,
    });
    world.put("eu-1", state.clone()).await;
    put(&client, "/api/v1/deployments-policy", &[("if-match", "*")], &json!({"window_seconds": 60})).await.expect(200);
    put(&client, &path("eu-1", "/policy"), &[("if-match", "*")], &json!({"max_hosts": 12})).await.expect(200);
    let shown = client.get("/api/v1/deployments/eu-1").await.expect(200).json();
    assert_eq!(
        shown["samples"],
        json!([
            {"at": "2027-01-15T07:58:30Z", "hosts": 10, "total": 100, "free": 10},
            {"at": "2027-01-15T07:59:00Z", "bad": "impossible"},
            {"at": "2027-01-15T07:59:30Z", "bad": "missing"},
            {"at": "2027-01-15T08:00:00Z", "bad": "silent"}
        ])
    );
    assert_eq!(
        shown["pending"],
        json!({
            "at": "2027-01-15T07:58:30Z", "from": 10, "delta": 2, "expected_hosts": 12, "readings": 1,
            "outcome": "unknown"
        })
    );
    let policy = &shown["policy"];
    assert_eq!(
        (&policy["window_seconds"], &policy["max_hosts"], &policy["min_hosts"]),
        (&60.into(), &12.into(), &1.into())
    );
    assert!((shown["flap_pct"].as_f64().unwrap() - state.flap_pct()).abs() < 1e-9 && state.flap_pct() > 0.0);
    assert_eq!((&shown["observed_at"], &shown["flapping"]), (&"2027-01-15T07:58:30Z".into(), &true.into()));
    assert_eq!((&shown["hosts"], &shown["free_pct"]), (&10.into(), &10.0.into()));
}

#[tokio::test]
async fn what_is_not_there_says_where_it_is_listed() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    for more in ["", "/decisions", "/explain", "/policy"] {
        for name in ["nobody", "%00", "%2E%2E", &"x".repeat(129)] {
            let problem = client.get(&format!("/api/v1/deployments/{name}{more}")).await.problem(404, "not-found");
            assert!(problem["detail"].as_str().unwrap().contains("GET /api/v1/deployments lists"), "{problem}");
        }
    }
    let put = put(&client, "/api/v1/deployments/nobody/policy", &[("if-match", "*")], &json!({})).await;
    put.problem(404, "not-found");
    assert_eq!(world.records().policies().await.unwrap().own.len(), 0);
}

#[tokio::test]
async fn what_is_doubted_and_frozen_is_told() {
    let world = World::of(["a", "b", "c"].map(|name| spec(name, 10, "15", 10, 80)).to_vec()).await;
    let client = world.client().await;
    world.ticks(2).await;
    world.sim.change(|config| config.discover_empty_rate = 1.0);
    world.tick().await;
    let fleet = client.get("/api/v1/deployments").await.expect(200).json()["fleet"].clone();
    assert!(fleet["doubt"].as_str().unwrap().contains("3 of 3 deployments are missing"), "{fleet}");
    assert_eq!(fleet["discovered_at"], "2027-01-15T08:00:00Z");
    world.sim.change(|config| {
        config.discover_empty_rate = 0.0;
        config.status_error_rate = 1.0;
    });
    world.pass();
    world.tick().await;
    let list = client.get("/api/v1/deployments").await.expect(200).json();
    // This slot, and two after it.
    assert_eq!(list["fleet"]["frozen_until"], "2027-01-15T08:03:00Z", "{}", list["fleet"]);
    assert!(list["items"].as_array().unwrap().iter().all(|it| it["state"] == "unreadable" && it["hosts"] == 10));
}
