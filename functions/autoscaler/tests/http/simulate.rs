//! Two policies side by side.

use autoscaler::{
    decision::Reason,
    policy::Given,
    samples::{Chunk, Recorded},
    store::Record,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::common::{NOON, SLOT, World, decided, id, path, put, shape, state};

const PATH: &str = "/api/v1/deployments/simulate";

/// A demand every half minute: low, then high.
fn samples(count: i64) -> Value {
    let at = |number: i64| (NOON + SignedDuration::from_secs(30 * number)).to_string();
    (0..count)
        .map(|number| json!({"at": at(number), "busy_servers": if number < count / 2 { 80 } else { 160 }}))
        .collect()
}

#[tokio::test]
async fn on_samples_that_are_given() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    let body = json!({
        "samples": samples(40), "servers_per_host": 10, "target_free_pct": 15,
        "policy": {"up_step_hosts": 1, "up_step_pct": 0}, "compare_with": {"min_free_servers": 200}
    });
    let found = client.post(PATH, &body).await.expect(200).json();
    assert_eq!((&found["from"], &found["until"]), (&"2027-01-15T08:00:00Z".into(), &"2027-01-15T08:20:00Z".into()));
    assert_eq!(
        (&found["boot_seconds"], &found["drain_seconds"], &found["target_free_pct"]),
        (&90.into(), &30.into(), &15.0.into())
    );
    let runs = found["runs"].as_array().unwrap();
    let [slow, ample] = runs.as_slice() else { panic!("{found}") };
    assert_eq!((&slow["policy"]["up_step_hosts"], &ample["policy"]["min_free_servers"]), (&1.into(), &200.into()));
    assert_eq!((&slow["initial_hosts"], &ample["initial_hosts"]), (&10.into(), &28.into()));
    assert_eq!((&slow["seconds"], slow["points"].as_array().unwrap().len()), (&1200.into(), 40));
    assert!(slow["minutes_short"].as_f64().unwrap() > 2.0, "{slow}");
    assert_eq!(ample["minutes_short"], 0.0);
    let seconds = slow["minutes_short"].as_f64().unwrap() * 60.0;
    assert!((seconds - slow["short_seconds"].as_f64().unwrap()).abs() < 1e-6, "{slow}");
    assert!(slow["host_hours"].as_f64() < ample["host_hours"].as_f64());
    assert_eq!(
        slow["points"][0],
        json!({"at": "2027-01-15T08:00:00Z", "hosts": 10, "total": 100, "busy": 80, "free": 20})
    );
    // Slower hosts, and more of them at the beginning.
    let mut other = body.clone();
    (other["boot_seconds"], other["initial_hosts"]) = (600.into(), 12.into());
    let found = client.post(PATH, &other).await.expect(200).json();
    assert_eq!((&found["runs"][0]["initial_hosts"], &found["runs"][1]["initial_hosts"]), (&12.into(), &12.into()));
    assert!(found["runs"][0]["short_seconds"].as_u64() > slow["short_seconds"].as_u64());
}

#[tokio::test]
async fn without_another_policy_it_is_that_of_all_and_modes_do_not_matter() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    let all = json!({"min_hosts": 30, "mode": "paused"});
    put(&client, "/api/v1/deployments-policy", &[("if-match", "*")], &all).await.expect(200);
    let body = json!({
        "samples": samples(10), "servers_per_host": 10, "target_free_pct": 15,
        "policy": {"min_hosts": 5, "mode": "paused", "until": "2020-01-01T00:00:00Z", "reason": ""}
    });
    let found = client.post(PATH, &body).await.expect(200).json();
    let policies = [0, 1].map(|run| &found["runs"][run]["policy"]);
    assert_eq!(policies.map(|it| it["min_hosts"].as_u64()), [Some(5), Some(30)]);
    assert!(policies.iter().all(|it| it["mode"] == "on" && it["until"].is_null() && it["reason"].is_null()), "{found}");
    assert!(found["runs"][0]["changes"].as_u64() > Some(0), "{found}");
}

#[tokio::test]
async fn on_what_was_kept_of_a_deployment() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    put(&client, "/api/v1/deployments-policy", &[("if-match", "*")], &json!({})).await.expect(200);
    // Twenty in the state; those before them, and some of them too, in the history.
    world.put("eu/1", state(SLOT - 19..=SLOT, 60)).await;
    put(&client, &path("eu/1", "/policy"), &[("if-match", "*")], &json!({"min_hosts": 2})).await.expect(200);
    let chunk = |slot, busy: &[u64]| {
        let samples = busy.iter().map(|busy| Recorded::Good(12, 120, 120 - busy)).collect();
        Record::Samples(id("eu/1"), Some(shape(10, "15")), Chunk { slot, samples })
    };
    world.records().put_history(&[chunk(SLOT - 59, &[99; 20]), chunk(SLOT - 29, &[70; 20])]).await.unwrap();
    let ask = async |body: Value| client.post(PATH, &body).await.expect(200).json();
    let found = ask(json!({"deployment_id": "eu/1", "window": "1h", "policy": {"min_hosts": 1}})).await;
    assert_eq!((&found["from"], &found["until"]), (&"2027-01-15T07:30:30Z".into(), &"2027-01-15T08:00:30Z".into()));
    assert_eq!((&found["servers_per_host"], &found["target_free_pct"]), (&10.into(), &15.0.into()));
    let run = &found["runs"][0];
    // 59 to 40 and 29 to 0 slots ago, each once.
    assert_eq!((&run["seconds"], &run["initial_hosts"]), (&(50 * 30).into(), &12.into()));
    let busy: Vec<_> = run["points"].as_array().unwrap().iter().map(|it| it["busy"].as_u64()).collect();
    assert_eq!(busy[..20], [Some(99); 20]);
    assert_eq!(busy[20..30], [None; 10]);
    assert_eq!((busy[30..40].to_vec(), busy[40..].to_vec()), (vec![Some(70); 10], vec![Some(60); 20]));
    let minima = [0, 1].map(|run| found["runs"][run]["policy"]["min_hosts"].as_u64());
    assert_eq!(minima, [Some(1), Some(2)], "it is compared with what holds");

    let found = ask(json!({
        "deployment_id": "eu/1", "window": "5m", "servers_per_host": 5, "target_free_pct": 50.5, "policy": {},
        "initial_hosts": 3
    }))
    .await;
    assert_eq!((&found["from"], &found["target_free_pct"]), (&"2027-01-15T07:55:00Z".into(), &50.5.into()));
    assert_eq!((&found["servers_per_host"], &found["runs"][1]["initial_hosts"]), (&5.into(), &3.into()));
    // A day, where nothing is said.
    let found = ask(json!({"deployment_id": "eu/1", "policy": {}})).await;
    assert_eq!(found["from"], "2027-01-15T07:30:30Z");
}

#[tokio::test]
async fn a_week_fits_and_no_more() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    let at = |seconds: i64| (NOON + SignedDuration::from_secs(seconds)).to_string();
    let body = |last: i64| {
        // Every ten minutes.
        let samples: Vec<_> = (0..1008)
            .map(|n| n * 600)
            .chain([last])
            .map(|s| json!({"at": at(s), "busy_servers": s / 600 % 144}))
            .collect();
        json!({"samples": samples, "servers_per_host": 3, "target_free_pct": 20, "policy": {}})
    };
    let found = client.post(PATH, body(7 * 86400 - 1)).await.expect(200).json();
    assert_eq!(found["runs"][0]["seconds"], 7 * 86400);
    assert_eq!(found["runs"][0], found["runs"][1]);
    let points = found["runs"][0]["points"].as_array().unwrap();
    assert!((100..=500).contains(&points.len()), "{}", points.len());
    let times: Vec<Timestamp> = points.iter().map(|it| it["at"].as_str().unwrap().parse().unwrap()).collect();
    assert!(times.is_sorted());
    let problem = client.post(PATH, body(7 * 86400)).await.expect(422).json();
    assert_eq!(problem["errors"][0]["pointer"], "/samples/1008/at", "{problem}");
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    world.put("eu-1", decided(Reason::WithinTarget)).await;
    let mut rejected = state(SLOT - 5..=SLOT, 60);
    rejected.shape = None;
    world.put("odd", rejected).await;
    let mut old = state(SLOT - 50..=SLOT - 45, 60);
    old.decision = None;
    world.put("old", old).await;
    let base = json!({"samples": samples(4), "servers_per_host": 10, "target_free_pct": 15, "policy": {}});
    let with = |pointer: &str, value: Value| {
        let mut body = base.clone();
        match body.pointer_mut(pointer) {
            Some(there) => *there = value,
            None => body[&pointer[1..]] = value,
        }
        body
    };
    let without = |name: &str| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().remove(name);
        body
    };
    let own = |more: Value| {
        let mut body = json!({"deployment_id": "eu-1", "policy": {}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (body, pointer, right) in [
        (without("policy"), "", "missing field `policy`"),
        (without("samples"), "", "deployment_id"),
        (without("servers_per_host"), "/servers_per_host", "needed"),
        (without("target_free_pct"), "/target_free_pct", "needed"),
        (with("/samples", json!([])), "/samples", "at least one"),
        (with("/samples/2/at", json!("2027-01-15T08:00:01Z")), "/samples/2/at", "order of time"),
        (with("/samples/2/at", json!("soon")), "/samples/2/at", "year"),
        (with("/samples/2/busy_servers", json!(-1)), "/samples/2/busy_servers", "u64"),
        (
            with("/samples/2/busy_servers", json!(9_007_199_254_740_993_u64)),
            "/samples/2/busy_servers",
            "9007199254740992",
        ),
        (with("/samples/2", json!({"at": "2027-01-15T08:01:00Z", "busy": 3})), "/samples/2/busy", "busy_servers"),
        (with("/servers_per_host", json!(0)), "/servers_per_host", "1 to"),
        (with("/target_free_pct", json!(100)), "/target_free_pct", "less than 100"),
        (with("/target_free_pct", json!(-0.5)), "/target_free_pct", "negative"),
        (with("/target_free_pct", json!("15")), "/target_free_pct", "number"),
        (with("/initial_hosts", json!(9_007_199_254_740_993_u64)), "/initial_hosts", "0 to"),
        (with("/boot_seconds", json!(86401)), "/boot_seconds", "86400"),
        (with("/drain_seconds", json!(86401)), "/drain_seconds", "86400"),
        (with("/window", json!("1h")), "/window", "deployment_id"),
        (with("/deployment_id", json!("eu-1")), "/deployment_id", "not both"),
        (with("/policy", json!({"window_seconds": 601})), "/policy/window_seconds", "600"),
        (with("/policy", json!({"windows": 1})), "/policy/windows", "windows"),
        (with("/compare_with", json!({"min_hosts": 2, "max_hosts": 1})), "/compare_with/min_hosts", "min_hosts"),
        (with("/more", json!(1)), "/more", "unknown field"),
        (own(json!({"window": "8d"})), "/window", "7d"),
        (own(json!({"window": "30s"})), "/window", "1m"),
        (own(json!({"window": "soon"})), "/window", "1h"),
        (own(json!({"deployment_id": "nobody"})), "/deployment_id", "GET /api/v1/deployments"),
        (own(json!({"deployment_id": ""})), "/deployment_id", "GET /api/v1/deployments"),
        (own(json!({"deployment_id": "old", "window": "10m"})), "/window", "longer"),
        (own(json!({"deployment_id": "odd"})), "/servers_per_host", "servers_per_host"),
        (own(json!({"deployment_id": "odd", "servers_per_host": 10})), "/target_free_pct", "target_free_pct"),
    ] {
        let problem = client.post(PATH, &body).await.expect(422).json();
        let error = &problem["errors"][0];
        assert_eq!(error["pointer"], pointer, "{body}: {problem}");
        assert!(error["detail"].as_str().unwrap().contains(right), "{body}: {problem}");
    }
    let odd = json!({"deployment_id": "odd", "servers_per_host": 10, "target_free_pct": 15, "policy": {}});
    client.post(PATH, &odd).await.expect(200);
    client.post(PATH, own(json!({"deployment_id": "old", "window": "1h"}))).await.expect(200);
    client.post(PATH, "{").await.problem(400, "not-json");
    assert_eq!(world.records().policies().await.unwrap().all.given, Given::default());
    assert_eq!(world.sim.stats().traffic.requests, 0, "nothing was asked for");
}
