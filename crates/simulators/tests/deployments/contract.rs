//! What the contract promises, byte by byte, and what is refused.

use std::collections::BTreeSet;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use simulators::{
    deployments::{self, Config, Load, MOST_DEPLOYMENTS, Spec},
    server::StartError,
};

use crate::{
    common::{change, client, look, send},
    counts, get, scale, seconds, spec, started, told, two,
};
use serde_json::json;

#[tokio::test]
async fn the_answers_are_the_contracts_to_the_byte() {
    let sim = started(two()).await;
    let list = get(&sim, "/discover").await.unwrap();
    assert_eq!((list.status().as_u16(), &list.headers()["content-type"]), (200, &"application/json".parse().unwrap()));
    assert_eq!(
        list.text().await.unwrap(),
        r#"{"deployments":[{"id":"eu-1","servers_per_host":10,"target_free_pct":15.0},{"id":"us 2/ü","servers_per_host":3,"target_free_pct":0.001}]}"#
    );
    let answer = get(&sim, "/status/eu-1").await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert_eq!(answer.text().await.unwrap(), r#"{"current_hosts":10,"total_servers":100,"free_servers":10}"#);
    assert_eq!(scale(&sim, "eu-1", 1).await.unwrap().status(), 200);
    let stats = sim.stats();
    assert_eq!((stats.discoveries, stats.statuses, stats.scales, stats.scales_applied), (1, 1, 1, 1));
    assert_eq!((stats.unknown_ids, stats.strange_requests, stats.faults.len()), (0, 0, 0));
    assert_eq!(look(sim.url(), "stats").await, json!(stats));
}

#[tokio::test]
async fn where_more_is_busy_than_there_is_nothing_is_free() {
    let sim = started(two()).await;
    let status = get(&sim, "/status/us%202%2F%C3%BC").await.unwrap().text().await.unwrap();
    assert_eq!(status, r#"{"current_hosts":4,"total_servers":12,"free_servers":0}"#);
}

#[tokio::test]
async fn an_id_is_percent_encoded_in_the_path_and_only_so() {
    let sim = started(Config { strange_ids: true, manual: true, ..Config::default() }).await;
    let deployments = sim.deployments();
    for deployment in &deployments {
        let encoded = utf8_percent_encode(&deployment.id, NON_ALPHANUMERIC);
        let status = told(&sim, &format!("/status/{encoded}")).await;
        assert_eq!(status, json!(deployment.status), "{}", deployment.id);
        assert_eq!(scale(&sim, &deployment.id, 1).await.unwrap().status(), 200);
    }
    let strange = |id: &str| !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    assert!(deployments.iter().filter(|deployment| strange(&deployment.id)).count() > 10);
    assert_eq!(deployments.iter().map(|deployment| &deployment.id).collect::<BTreeSet<_>>().len(), 20);
    let list = told(&sim, "/discover").await;
    let ids: Vec<_> = list["deployments"].as_array().unwrap().iter().map(|entry| entry["id"].clone()).collect();
    assert_eq!(json!(ids), json!(deployments.iter().map(|deployment| &deployment.id).collect::<Vec<_>>()));

    let sim = started(two()).await;
    for path in ["/status/us%202/%C3%BC", "/status/us+2%2F%C3%BC", "/status/us%25202", "/status/%FF", "/status/"] {
        assert_eq!(get(&sim, path).await.unwrap().status(), 404, "{path}");
    }
    assert_eq!(sim.stats().statuses, 0);
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_and_changes_nothing() {
    let sim = started(two()).await;
    let url = |path: &str| format!("{}{path}", sim.url());
    for (method, path, allowed) in
        [(Method::POST, "/discover", "GET"), (Method::POST, "/status/eu-1", "GET"), (Method::GET, "/scale", "POST")]
    {
        let answer = client().request(method, url(path)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, allowed), "{path}");
    }
    for path in ["/", "/status", "/discover/", "/scale/eu-1"] {
        assert_eq!(get(&sim, path).await.unwrap().status(), 404, "{path}");
    }
    let bodies = [
        "",
        "7",
        r#"{"deployment_id":"eu-1"}"#,
        r#"{"deployment_id":"eu-1","delta":1.5}"#,
        r#"{"deployment_id":"eu-1","delta":"1"}"#,
        r#"{"deployment_id":"eu-1","delta":9223372036854775808}"#,
        r#"{"deployment_id":"eu-1","delta":1,"force":true}"#,
        r#"{"deployment_id":"eu-1","delta":NaN}"#,
    ];
    for body in bodies {
        let answer = send(Method::POST, url("/scale"), "application/json", body).await;
        assert_eq!(answer.status(), 400, "{body}");
    }
    let good = r#"{"deployment_id":"eu-1","delta":1}"#;
    assert_eq!(send(Method::POST, url("/scale"), "text/plain", good).await.status(), 415);
    let stats = sim.stats();
    assert_eq!((stats.strange_requests, stats.scales, stats.unknown_ids), (3 + 4 + 8 + 1, 0, 0));

    assert_eq!(get(&sim, "/status/eu-2").await.unwrap().status(), 404);
    assert_eq!(scale(&sim, "eu-2", 1).await.unwrap().status(), 404);
    let stats = sim.stats();
    assert_eq!((stats.statuses, stats.scales, stats.scales_applied, stats.unknown_ids), (0, 1, 0, 2));
    assert_eq!(counts(&sim).await, [10, 100, 10]);
}

// The deployments that there are.

#[test]
fn the_seed_and_the_number_decide_about_a_deployment() {
    let specs = |seed, count| Config { seed, count, ..Config::default() }.specs();
    let (one, same, few, other) = (specs(1, 200), specs(1, 200), specs(1, 5), specs(2, 200));
    assert_eq!(one, same);
    assert_eq!(one[..5], few);
    assert!(one.iter().zip(&other).filter(|(one, other)| one == other).count() < 3);
    let ids: Vec<_> = few.iter().map(|spec| spec.id.as_str()).collect();
    assert_eq!(ids, ["eu-1", "us-2", "ap-3", "sa-4", "eu-5"]);
    assert_eq!(other[199].id, "sa-200");
}

#[test]
fn the_deployments_are_mixed_and_each_begins_with_the_fewest_hosts_for_its_target() {
    let specs = Config { count: 400, ..Config::default() }.specs();
    let mut curves = BTreeSet::new();
    for Spec { id, servers_per_host, target_free_pct, hosts, load } in &specs {
        let target: f64 = target_free_pct.as_str().parse().unwrap();
        assert!((1..=250).contains(servers_per_host) && (5.0..=60.0).contains(&target), "{id}");
        let (busy, total) = (load.busy(seconds(0)), servers_per_host * hosts);
        assert!(busy > 0 && !target_free_pct.is_above(total.saturating_sub(busy), total), "{id}");
        let less = total - servers_per_host;
        assert!(target_free_pct.is_above(less.saturating_sub(busy), less), "{id} needs {hosts} hosts");
        curves.insert(json!(load)["curve"].to_string());
    }
    assert_eq!(curves.len(), 5, "{curves:?}");
    let with = |claim: fn(&Spec) -> bool| specs.iter().filter(|spec| claim(spec)).count();
    assert!(with(|spec| spec.servers_per_host > 200) > 40 && with(|spec| spec.servers_per_host < 50) > 40);
    assert!(with(|spec| spec.target_free_pct.as_str().contains('.')) > 100);
    assert!(with(|spec| !spec.target_free_pct.as_str().contains('.')) > 100);
    assert!(with(|spec| spec.hosts > 100) > 40 && with(|spec| spec.hosts < 20) > 40);
    assert!(with(|spec| matches!(spec.load, Load::Daily { .. })) > 40);
}

#[tokio::test]
async fn a_fleet_that_makes_no_sense_is_refused_with_the_reason() {
    let with = |change: fn(&mut Spec)| {
        let mut config = two();
        config.fleet.as_mut().unwrap().iter_mut().take(1).for_each(change);
        config
    };
    let cases = [
        (with(|spec| spec.servers_per_host = 0), "`eu-1` needs an id and one server per host"),
        (with(|spec| spec.id.clear()), "`` needs an id"),
        (with(|spec| spec.id = "us 2/ü".to_owned()), "the fleet has `us 2/ü` twice"),
        (with(|spec| spec.load = Load::Points { points: vec![] }), "the load of `eu-1`: `points` must have one"),
        (Config { count: MOST_DEPLOYMENTS + 1, ..Config::default() }, "100001 deployments are too many"),
        (Config { speed: 0.0, ..Config::default() }, "a speed of 0 makes no sense"),
        (Config { speed: f64::NAN, ..Config::default() }, "a speed of NaN makes no sense"),
        (
            Config { status_bad: Some(deployments::Fault::EntryNan), ..Config::default() },
            "`status_bad` is a fault that begins with `status_`",
        ),
        (
            Config { entry_bad: Some(deployments::Fault::StatusNan), ..Config::default() },
            "`entry_bad` is a fault that begins with `entry_`",
        ),
    ];
    for (config, reason) in cases {
        let Err(StartError::Config(told)) = deployments::start(config).await else { panic!("it started: {reason}") };
        assert!(told.contains(reason), "{told}");
    }
}

#[tokio::test]
async fn a_fleet_can_be_given_over_http_and_what_makes_no_sense_is_refused_there_too() {
    let sim = started(two()).await;
    let fleet = json!([{
        "id": "x", "servers_per_host": 2, "target_free_pct": "12.50", "hosts": 3,
        "load": { "curve": "points", "points": [{ "at": "0s", "busy": 1 }, { "at": "1m", "busy": 5 }] },
    }]);
    assert_eq!(change(sim.url(), &json!({ "fleet": fleet, "boot": "2m" })).await.status(), 200);
    assert_eq!(look(sim.url(), "faults").await["fleet"], fleet);
    assert!(get(&sim, "/discover").await.unwrap().text().await.unwrap().contains(r#""target_free_pct":12.50}"#));
    let no_sense = [
        (json!({ "fleat": [] }), "unknown field `fleat`"),
        (json!({ "status_error_rate": 2 }), "outside 0..=1"),
        (json!({ "speed": -1 }), "a speed of -1"),
    ];
    for (no_sense, reason) in no_sense {
        let answer = change(sim.url(), &no_sense).await;
        assert_eq!(answer.status(), 400);
        assert!(answer.text().await.unwrap().contains(reason), "{reason}");
    }
    let mut fleet = fleet;
    for (target, reason) in [("100", "`100` is no share"), ("1e1", "`1e1` is no share"), ("-1", "`-1` is no share")] {
        fleet[0]["target_free_pct"] = json!(target);
        let answer = change(sim.url(), &json!({ "fleet": fleet })).await;
        assert!(answer.text().await.unwrap().contains(reason), "{target}");
    }
}

#[tokio::test]
async fn a_deployment_that_stays_in_the_fleet_goes_on_and_the_others_come_and_go() {
    let sim = started(two()).await;
    scale(&sim, "eu-1", 5).await.unwrap();
    sim.advance(seconds(100));
    sim.change(|config| {
        config.fleet = Some(vec![spec("ap-3", 7, "20", 2, 1), spec("eu-1", 20, "25", 1, 0)]);
        config.boot = seconds(10);
    });
    let told = told(&sim, "/discover").await;
    assert_eq!(
        told["deployments"],
        json!([
            { "id": "ap-3", "servers_per_host": 7, "target_free_pct": 20 },
            { "id": "eu-1", "servers_per_host": 20, "target_free_pct": 25 },
        ])
    );
    assert_eq!(counts(&sim).await, [15, 300, 300], "its hosts stay, its load and their size are new");
    assert_eq!(get(&sim, "/status/us%202%2F%C3%BC").await.unwrap().status(), 404);
    let old = sim.deployment("eu-1").unwrap();
    assert!((old.seconds_short - 90.0).abs() < 1e-9 && old.changes == 1, "{old:?}");
    let new = sim.deployment("ap-3").unwrap();
    assert!(new.host_seconds == 0.0 && new.status.current_hosts == 2, "{new:?}");
    scale(&sim, "ap-3", 1).await.unwrap();
    sim.advance(seconds(10));
    assert_eq!(sim.deployment("ap-3").unwrap().running, 3);
    assert_eq!(sim.scales().len(), 2, "those of deployments that are gone stay too");
}
