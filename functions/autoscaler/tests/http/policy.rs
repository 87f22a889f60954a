//! Setting policies: nobody overwrites what he has not seen.

use std::time::Duration;

use autoscaler::{
    decision::Reason,
    policy::{Mode, Policy},
};
use kit::{dynamo::embedded::Faults, testing::Client};
use serde_json::{Value, json};

use crate::common::{SLOT, World, decided, id, path, put, spec, state};

const ALL: &str = "/api/v1/deployments-policy";

/// So slow that all have read before one writes.
const SLOW: Faults =
    Faults { seed: 0, error_rate: 0.0, lost_answer_rate: 0.0, latency: Duration::from_millis(20), attempts: 1 };

async fn world() -> (World, Client) {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 90)]).await;
    world.put("eu-1", decided(Reason::WithinTarget)).await;
    let client = world.client().await;
    (world, client)
}

#[tokio::test]
async fn what_is_set_is_answered_with_who_set_it_and_what_holds() {
    let (world, client) = world().await;
    for at in [path("eu-1", "/policy"), ALL.to_owned()] {
        let none = client.get(&at).await.expect(200);
        assert_eq!(none.header("etag"), "\"0\"");
        assert_eq!(
            none.json(),
            json!({"version": 0, "set": {}, "effective": Policy::default(), "set_by": null, "set_at": null})
        );
    }
    put(&client, ALL, &[("if-match", "\"0\"")], &json!({"window_seconds": 60, "max_hosts": 50})).await.expect(200);
    let own = json!({
        "min_hosts": 3, "max_hosts": 40, "mode": "paused_in", "until": "2027-01-15T09:00:00Z", "reason": " a launch "
    });
    let reply = put(&client, &path("eu-1", "/policy"), &[("if-match", "\"0\"")], &own).await.expect(200);
    assert_eq!(reply.header("etag"), "\"1\"");
    let view = reply.json();
    let set = json!({
        "min_hosts": 3, "max_hosts": 40, "mode": "paused_in", "until": "2027-01-15T09:00:00Z", "reason": "a launch"
    });
    assert_eq!((&view["version"], &view["set"], &view["set_at"]), (&1.into(), &set, &"2027-01-15T08:00:00Z".into()));
    let by = view["set_by"].as_str().unwrap();
    assert!(by.starts_with("key ") && by.ends_with(" of acme") && by.len() > "key  of acme".len(), "{by}");
    let effective = &view["effective"];
    assert_eq!((&effective["min_hosts"], &effective["max_hosts"]), (&3.into(), &40.into()));
    assert_eq!((&effective["window_seconds"], &effective["mode"]), (&60.into(), &"paused_in".into()));
    assert_eq!((&effective["until"], &effective["reason"]), (&set["until"], &set["reason"]));
    assert_eq!(client.get(&path("eu-1", "/policy")).await.expect(200).json(), view);
    // What is left out the next time is not set any more.
    let reply = put(&client, &path("eu-1", "/policy"), &[("if-match", "\"1\"")], &json!({})).await.expect(200);
    assert_eq!((reply.header("etag"), &reply.json()["set"]), ("\"2\"", &json!({})));
    assert_eq!(reply.json()["effective"]["max_hosts"], 50);
    // All is told of all.
    let all = client.get(ALL).await.expect(200);
    assert_eq!((all.header("etag"), &all.json()["effective"]["max_hosts"]), ("\"1\"", &50.into()));
    assert_eq!(world.records().fleet().await.unwrap().revision, 3, "the next tick reads them again");
}

#[tokio::test]
async fn a_version_must_be_given_and_be_the_one_that_is_there() {
    let (world, client) = world().await;
    for at in [path("eu-1", "/policy"), ALL.to_owned()] {
        let set = async |headers: &[(&str, &str)]| put(&client, &at, headers, &json!({"up_step_hosts": 5})).await;
        let missing = set(&[]).await.problem(428, "precondition-required");
        assert!(missing["detail"].as_str().unwrap().contains("ETag that GET answers"), "{missing}");
        for wrong in ["1", "W/\"0\"", "\"x\"", "\"0\", \"1\"", "\"-1\"", "", "\"99999999999999999999\""] {
            let problem = set(&[("if-match", wrong)]).await.problem(400, "bad-request");
            assert!(problem["detail"].as_str().unwrap().contains("If-Match"), "{wrong}: {problem}");
        }
        set(&[("if-match", "\"0\""), ("if-match", "\"0\"")]).await.problem(400, "bad-request");
        set(&[("if-match", "\"1\"")]).await.problem(412, "precondition-failed");
        assert_eq!(client.get(&at).await.json()["version"], 0, "nothing was left behind");
        set(&[("if-match", "\"0\"")]).await.expect(200);
        let stale = set(&[("if-match", "\"0\"")]).await;
        assert_eq!(stale.header("etag"), "\"1\"");
        let stale = stale.problem(412, "precondition-failed");
        assert!(stale["detail"].as_str().unwrap().contains("has version 1, not 0"), "{stale}");
        set(&[("if-match", "\"2\"")]).await.problem(412, "precondition-failed");
        set(&[("if-match", "\"1\"")]).await.expect(200);
        assert_eq!(set(&[("if-match", "*")]).await.expect(200).header("etag"), "\"3\"");
    }
    assert_eq!(world.records().fleet().await.unwrap().revision, 6);
}

#[tokio::test]
async fn of_two_who_set_the_same_version_one_is_told_so() {
    let (world, client) = world().await;
    let client = client.on(world.app_on(SLOW));
    for version in 0..8 {
        let at = path("eu-1", "/policy");
        let tag = format!("\"{version}\"");
        let set = async |min_hosts: u32| {
            put(&client, &at, &[("if-match", &tag)], &json!({"min_hosts": min_hosts})).await.status.as_u16()
        };
        let (one, two) = tokio::join!(set(2), set(3));
        assert_eq!(one.min(two), 200);
        assert_eq!(one.max(two), 412);
        let kept = client.get(&at).await.expect(200).json();
        assert_eq!(
            (&kept["version"], &kept["set"]["min_hosts"]),
            (&(version + 1).into(), &(if one == 200 { 2 } else { 3 }).into())
        );
    }
}

#[tokio::test]
async fn whoever_does_not_care_what_is_there_gets_through() {
    let (world, client) = world().await;
    let client = client.on(world.app_on(SLOW));
    let set = async |min_hosts: u32| {
        let body = json!({"min_hosts": min_hosts});
        put(&client, &path("eu-1", "/policy"), &[("if-match", "*")], &body).await.status.as_u16()
    };
    let (one, two, three) = tokio::join!(set(1), set(2), set(3));
    assert_eq!([one, two, three], [200; 3]);
    assert_eq!(client.get(&path("eu-1", "/policy")).await.json()["version"], 3);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_set() {
    let (world, client) = world().await;
    put(&client, ALL, &[("if-match", "*")], &json!({"max_hosts": 50})).await.expect(200);
    let own = path("eu-1", "/policy");
    for (at, body, pointer) in [
        (own.as_str(), json!({"min_hosts": 51}), "/min_hosts"),
        (&own, json!({"max_hosts": 0}), "/max_hosts"),
        (&own, json!({"min_hosts": -1}), "/min_hosts"),
        (&own, json!({"min_hosts": 1.5}), "/min_hosts"),
        (&own, json!({"min_hosts": 9_007_199_254_740_993_u64}), "/min_hosts"),
        (&own, json!({"down_step_pct": 101}), "/down_step_pct"),
        (&own, json!({"window_seconds": 601}), "/window_seconds"),
        (&own, json!({"mode": "off"}), "/mode"),
        (&own, json!({"mode": "paused", "until": "soon"}), "/until"),
        (&own, json!({"mode": "paused", "until": "2027-01-15T08:00:00Z"}), "/until"),
        (&own, json!({"until": "2027-01-15T09:00:00Z"}), "/until"),
        (&own, json!({"mode": "paused", "reason": "  "}), "/reason"),
        (&own, json!({"mode": "paused", "reason": "a\u{1b}[31m"}), "/reason"),
        (&own, json!({"max": 3}), "/max"),
        (&own, json!([]), ""),
        (ALL, json!({"up_step_pct": 1001}), "/up_step_pct"),
        (ALL, json!({"min_hosts": 3, "max_hosts": 2}), "/min_hosts"),
        (ALL, json!({"max": 3}), "/max"),
    ] {
        let problem = put(&client, at, &[("if-match", "*")], &body).await.expect(422).json();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let many = put(&client, &own, &[("if-match", "*")], &json!({"window_seconds": 601, "reason": ""})).await;
    assert_eq!(many.expect(422).json()["errors"].as_array().unwrap().len(), 2);
    assert_eq!(client.get(&own).await.json()["version"], 0);
    assert_eq!(client.get(ALL).await.json()["version"], 1);
    // For all it may be more than a deployment's own limit, which counts more.
    put(&client, &own, &[("if-match", "*")], &json!({"max_hosts": 4})).await.expect(200);
    put(&client, ALL, &[("if-match", "*")], &json!({"min_hosts": 9})).await.expect(200);
    let explained = client.get(&path("eu-1", "/explain")).await.expect(200).json();
    assert_eq!(explained["decision"]["desired_hosts"], 4, "{explained}");
    drop(world);
}

#[tokio::test]
async fn whose_answer_of_the_store_was_lost_is_not_told_that_somebody_else_was_there() {
    let (world, client) = world().await;
    let faults = Faults { seed: 7, error_rate: 0.05, lost_answer_rate: 0.3, attempts: 2, ..Faults::default() };
    let client = client.on(world.app_on(faults));
    let (mut set, mut away) = (0, 0);
    for round in 0..60 {
        let version = world.records().policy(Some(&id("eu-1"))).await.unwrap().version;
        let tag = format!("\"{version}\"");
        let reply = put(&client, &path("eu-1", "/policy"), &[("if-match", &tag)], &json!({"min_hosts": round})).await;
        let kept = world.records().policy(Some(&id("eu-1"))).await.unwrap();
        if reply.status == 200 {
            assert_eq!((kept.version, kept.given.min_hosts), (version + 1, Some(round)));
            set += 1;
        } else {
            reply.problem(503, "unavailable");
            assert!((version..=version + 1).contains(&kept.version));
            away += 1;
        }
    }
    assert!(set > 10 && away > 5, "{set} and {away}");
    let revision = world.records().fleet().await.unwrap().revision;
    assert_eq!(revision, world.records().policy(Some(&id("eu-1"))).await.unwrap().version);
}

#[tokio::test]
async fn the_next_tick_goes_by_it() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 90)]).await;
    let client = world.client().await;
    let paused = json!({"mode": "paused", "reason": "a test"});
    put(&client, ALL, &[("if-match", "\"0\"")], &paused).await.expect(200);
    world.ticks(2).await;
    let shown = client.get("/api/v1/deployments/eu-1").await.expect(200).json();
    assert_eq!((&shown["state"], &shown["last_decision"]["reason"]), (&"paused".into(), &"Paused".into()));
    put(&client, ALL, &[("if-match", "\"1\"")], &json!({"mode": "dry_run"})).await.expect(200);
    world.ticks(1).await;
    let shown = client.get("/api/v1/deployments/eu-1").await.expect(200).json();
    let last = &shown["last_decision"];
    assert_eq!((&shown["state"], &last["reason"], &last["delta"]), (&"ok".into(), &"DryRun".into(), &1.into()));
    assert_eq!(world.sim.stats().scales, 0);
    put(&client, ALL, &[("if-match", "\"2\"")], &json!({})).await.expect(200);
    world.ticks(1).await;
    assert_eq!(world.sim.stats().scales, 1);
}

#[tokio::test]
async fn a_pause_ends_by_itself() {
    let (world, client) = world().await;
    let paused = json!({"mode": "paused", "until": "2027-01-15T08:01:00Z"});
    put(&client, &path("eu-1", "/policy"), &[("if-match", "*")], &paused).await.expect(200);
    let mode = async || -> Value {
        let list = client.get("/api/v1/deployments").await.expect(200).json();
        let detail = client.get("/api/v1/deployments/eu-1").await.expect(200).json();
        assert_eq!((&list["items"][0]["mode"], &list["items"][0]["state"]), (&detail["mode"], &detail["state"]));
        assert_eq!(detail["mode"], detail["policy"]["mode"]);
        detail["mode"].clone()
    };
    assert_eq!(mode().await, Mode::Paused.as_str());
    world.pass();
    assert_eq!(mode().await, Mode::Paused.as_str());
    let explained = client.get(&path("eu-1", "/explain")).await.expect(200).json();
    assert_eq!((&explained["at"], &explained["policy"]["mode"]), (&"2027-01-15T08:00:30Z".into(), &"paused".into()));
    // The tick of this slot has been; the next one comes with the end of the pause.
    world.put("eu-1", state(SLOT - 5..=SLOT + 1, 85)).await;
    let explained = client.get(&path("eu-1", "/explain")).await.expect(200).json();
    assert_eq!((&explained["at"], &explained["policy"]["mode"]), (&"2027-01-15T08:01:00Z".into(), &"on".into()));
    world.pass();
    assert_eq!(mode().await, "on");
    assert_eq!(world.records().policy(Some(&id("eu-1"))).await.unwrap().given.mode, Some(Mode::Paused));
}
