//! What goes wrong with requests about devices, and with any request.

use reqwest::Method;
use serde_json::{Value, json};
use simulators::{
    faults::Down,
    packet::{Config, Fault, Request, Rule, Simulator},
};

use crate::{
    active, ask, create, created, delete, devices_path, error, get, id, known, post, rule_of, seconds, small,
    small_with, started, state, status, still, told, with_faults,
};

#[tokio::test]
async fn a_deletion_is_refused_as_often_as_the_rule_says() {
    let sim = with_faults(&["delete_refused,times=2,status=422"]).await;
    let (first, second) = (active(&sim).await, active(&sim).await);
    for _ in 0..2 {
        let (status, text) = error(delete(&sim, &first).await).await;
        assert_eq!(status, 422);
        assert!(text.contains("locked"), "{text}");
        assert_eq!(state(&sim, &first).await, "active");
    }
    assert_eq!(delete(&sim, &first).await.status(), 204);
    assert_eq!(delete(&sim, &second).await.status(), 422, "each device has its own count");
    assert_eq!(sim.stats().faults[&Fault::DeleteRefused], 3);
}

#[tokio::test]
async fn a_refused_deletion_is_422_or_500() {
    let sim = with_faults(&["delete_refused"]).await;
    let id = created(&sim).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30 {
        seen.insert(delete(&sim, &id).await.status().as_u16());
    }
    assert_eq!(Vec::from_iter(seen), [422, 500]);
}

#[tokio::test]
async fn a_slow_deletion_takes_as_long_as_the_rule_says() {
    let sim = with_faults(&["delete_slow@ewr1,lasts=1h", "delete_slow@ams1"]).await;
    let hour = active(&sim).await;
    let default = id(&create(&sim, &small_with(json!({ "facility": "ams1" }))).await);
    for id in [&hour, &default] {
        assert_eq!(delete(&sim, id).await.status(), 204);
    }
    sim.advance(seconds(599));
    assert_eq!(state(&sim, &default).await, "deprovisioning");
    sim.advance(seconds(1));
    assert_eq!(status(&sim, &default).await, 404);
    sim.advance(seconds(2999));
    assert_eq!(state(&sim, &hour).await, "deprovisioning");
    sim.advance(seconds(1));
    assert_eq!(status(&sim, &hour).await, 404);
}

#[tokio::test]
async fn an_ignored_deletion_is_204_and_nothing_happens() {
    let sim = with_faults(&["delete_ignored,times=2"]).await;
    let id = active(&sim).await;
    for _ in 0..2 {
        assert_eq!(delete(&sim, &id).await.status(), 204);
        sim.advance(seconds(600));
        assert_eq!(state(&sim, &id).await, "active");
    }
    assert_eq!(delete(&sim, &id).await.status(), 204);
    sim.advance(seconds(5));
    assert!(!known(&sim, &id).alive);
    assert_eq!(sim.stats().deletes, 1);
}

#[tokio::test]
async fn a_failed_deletion_leaves_a_failed_device_that_costs() {
    let sim = with_faults(&["delete_failed,times=1"]).await;
    let id = active(&sim).await;
    delete(&sim, &id).await;
    assert_eq!(state(&sim, &id).await, "deprovisioning");
    sim.advance(seconds(5));
    assert_eq!(state(&sim, &id).await, "failed");
    assert!(known(&sim, &id).alive);
    delete(&sim, &id).await;
    sim.advance(seconds(5));
    assert!(!known(&sim, &id).alive);
}

#[tokio::test]
async fn a_forbidden_device_lives_on() {
    let sim = with_faults(&["get_forbidden@ewr1,times=2"]).await;
    let id = created(&sim).await;
    for _ in 0..2 {
        assert_eq!(error(get(&sim, &format!("/devices/{id}")).await).await.0, 403);
        assert_eq!(error(get(&sim, &format!("/devices/{id}/events")).await).await.0, 403);
        assert_eq!(error(get(&sim, &health_of(&id)).await).await.0, 403);
    }
    assert_eq!(told(&sim, &devices_path()).await["meta"]["total"], 1);
    assert!(known(&sim, &id).alive);
    assert_eq!(state(&sim, &id).await, "queued");
}

fn health_of(id: &str) -> String {
    format!("/devices/{id}/diagnostics/health/rollup")
}

#[tokio::test]
async fn a_devices_health_is_ok_unless_a_rule_says_otherwise() {
    let sim = with_faults(&["health_critical@ewr1,times=1", "health_warning@ewr1,times=2"]).await;
    let id = created(&sim).await;
    for word in ["critical", "warning", "ok", "ok"] {
        assert_eq!(told(&sim, &health_of(&id)).await, json!({ "health_rollup": word }));
    }
    let stats = sim.stats();
    assert_eq!(stats.requests(Request::Health), 4);
    assert_eq!((stats.faults[&Fault::HealthCritical], stats.faults[&Fault::HealthWarning]), (1, 1));
    let elsewhere = create(&sim, &small_with(json!({ "facility": "ams1" }))).await;
    assert_eq!(told(&sim, &health_of(elsewhere["id"].as_str().unwrap())).await["health_rollup"], "ok");

    assert_eq!(get(&sim, &health_of("nobody")).await.status(), 404);
    delete(&sim, &id).await;
    sim.advance(seconds(5));
    assert_eq!(get(&sim, &health_of(&id)).await.status(), 404);
}

#[tokio::test]
async fn a_vendor_may_have_no_health_to_tell() {
    let sim = started(Config { no_health: true, ..still() }).await;
    let id = created(&sim).await;
    assert_eq!(error(get(&sim, &health_of(&id)).await).await.0, 404);
    assert_eq!(state(&sim, &id).await, "queued", "it is there all the same");
}

#[tokio::test]
async fn a_revoked_token_is_good_for_nothing_until_it_is_restored() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    sim.revoke_token();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        for path in ["/operating-systems", &devices_path(), &format!("/devices/{id}")] {
            seen.insert(get(&sim, path).await.status().as_u16());
        }
        seen.insert(post(&sim, &small()).await.unwrap().status().as_u16());
        seen.insert(delete(&sim, &id).await.status().as_u16());
    }
    assert_eq!(Vec::from_iter(seen), [401, 403]);
    sim.heal(Fault::TokenRevoked);
    assert_eq!(state(&sim, &id).await, "queued");
    assert_eq!(sim.devices().len(), 1);
    assert_eq!(sim.stats().unauthorized, 100);
}

#[tokio::test]
async fn too_many_requests_say_when_to_come_back() {
    let sim = with_faults(&["rate_limited,on=create,times=3"]).await;
    for _ in 0..3 {
        let answer = post(&sim, &small()).await.unwrap();
        assert!((1..=3).contains(&answer.headers()["Retry-After"].to_str().unwrap().parse::<u64>().unwrap()));
        assert_eq!(error(answer).await.0, 429);
    }
    assert_eq!(get(&sim, "/operating-systems").await.status(), 200);
    created(&sim).await;
    assert_eq!(sim.devices().len(), 1);
}

#[tokio::test]
async fn a_server_error_has_any_form_and_does_nothing() {
    let sim = with_faults(&["server_error"]).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..80 {
        let answer = post(&sim, &small()).await.unwrap();
        let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
        let form = match serde_json::from_str::<Value>(&body) {
            Ok(body) if body.get("errors").is_some() => "errors",
            Ok(body) if body.get("error").is_some() => "error",
            Ok(_) => panic!("{body}"),
            Err(_) if body.starts_with("<!DOCTYPE") => "html",
            Err(_) => "text",
        };
        seen.insert((status, form));
    }
    let statuses: std::collections::BTreeSet<_> = seen.iter().map(|(status, _)| *status).collect();
    let forms: std::collections::BTreeSet<_> = seen.iter().map(|(_, form)| *form).collect();
    assert_eq!(
        (Vec::from_iter(statuses), Vec::from_iter(forms)),
        (vec![500, 503], vec!["error", "errors", "html", "text"])
    );
    assert!(sim.devices().is_empty());
}

#[tokio::test]
async fn html_comes_in_place_of_json_under_200_or_502() {
    for expected in [200, 502] {
        let sim = with_faults(&[&format!("html,status={expected}")]).await;
        let answer = get(&sim, "/operating-systems").await;
        assert_eq!(answer.status(), expected);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
        assert!(answer.text().await.unwrap().contains("<html>"));
        assert_eq!(post(&sim, &small()).await.unwrap().status(), expected);
        assert!(sim.devices().is_empty());
    }
}

#[tokio::test]
async fn a_dropped_request_was_done_or_was_not() {
    let sim = with_faults(&["dropped,on=delete"]).await;
    let mut done = 0;
    for _ in 0..40 {
        let id = created(&sim).await;
        assert!(ask(&sim, Method::DELETE, &format!("/devices/{id}")).send().await.is_err());
        done += usize::from(state(&sim, &id).await == "deprovisioning");
    }
    assert!((8..32).contains(&done), "{done}");
    sim.heal_all();
    sim.fault(rule_of("dropped,on=create"));
    for _ in 0..40 {
        assert!(post(&sim, &small()).await.is_err());
    }
    assert!((48..72).contains(&sim.devices().len()), "{}", sim.devices().len());
}

#[tokio::test]
async fn what_hangs_is_not_answered_until_the_client_gives_up() {
    let sim = started(Config { hang_for: seconds(1), faults: vec![rule_of("hang,on=list")], ..still() }).await;
    let began = std::time::Instant::now();
    assert!(ask(&sim, Method::GET, &devices_path()).send().await.is_err());
    assert!(began.elapsed() >= seconds(1));
    assert_eq!(get(&sim, "/operating-systems").await.status(), 200);
}

#[tokio::test]
async fn a_fault_of_any_request_can_be_that_of_one_facility() {
    let sim = with_faults(&["server_error@ams1"]).await;
    let here = created(&sim).await;
    sim.change(|config| config.faults.clear());
    let there = id(&create(&sim, &small_with(json!({ "facility": "ams1" }))).await);
    sim.fault(rule_of("server_error@ams1"));
    assert_eq!(status(&sim, &here).await, 200);
    assert!([500, 503].contains(&status(&sim, &there).await));
    assert_eq!(get(&sim, &devices_path()).await.status(), 200, "the list is of no facility");
    let created = post(&sim, &small_with(json!({ "facility": "ams1" }))).await.unwrap();
    assert!([500, 503].contains(&created.status().as_u16()));
}

#[tokio::test]
async fn a_fault_lasts_from_when_to_when_it_should() {
    let sim = with_faults(&["server_error,from=10s,until=20s", "create_refused,from=30s"]).await;
    for (at, reads, creates) in
        [(0, 200, 201), (9, 200, 201), (10, 500, 500), (19, 500, 500), (20, 200, 201), (30, 200, 422)]
    {
        sim.advance(seconds(at).saturating_sub(sim.elapsed()));
        let near = |status: u16| if status == 503 { 500 } else { status };
        assert_eq!(near(get(&sim, "/operating-systems").await.status().as_u16()), reads, "{at}");
        assert_eq!(near(post(&sim, &small()).await.unwrap().status().as_u16()), creates, "{at}");
    }
}

async fn run(sim: &Simulator) -> Vec<u16> {
    let mut seen = Vec::new();
    for _ in 0..5 {
        let made = post(sim, &small()).await.map(|answer| answer.status().as_u16()).unwrap_or_default();
        seen.push(made);
        for device in sim.alive() {
            seen.push(status(sim, &device.id).await);
            seen.push(delete(sim, &device.id).await.status().as_u16());
        }
        sim.advance(seconds(4));
    }
    seen
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answers() {
    let faults = ["create_dropped=0.3", "create_twice=0.3", "reclaimed=0.3", "get_forbidden=0.3", "delete_refused=0.3"];
    let faults: Vec<Rule> = faults.iter().map(|rule| rule_of(rule)).collect();
    let with = |seed| Config { seed, spread: 0.3, faults: faults.clone(), ..still() };
    let (first, again) = (started(with(3)).await, started(with(3)).await);
    assert_eq!(run(&first).await, run(&again).await);
    assert_eq!(first.devices(), again.devices());
    let others = started(with(4)).await;
    assert_ne!(run(&others).await, run(&started(with(3)).await).await);
}

#[tokio::test]
async fn the_api_can_be_away() {
    let sim = started(Config { down: Down::Status503, ..still() }).await;
    assert_eq!(get(&sim, "/operating-systems").await.status(), 503);
    sim.change(|config| config.down = Down::Reset);
    assert!(ask(&sim, Method::GET, "/operating-systems").send().await.is_err());
    sim.change(|config| config.down = Down::No);
    assert_eq!(get(&sim, "/operating-systems").await.status(), 200);
    assert_eq!(sim.stats().requests(Request::OperatingSystems), 1, "only what came through");
}
