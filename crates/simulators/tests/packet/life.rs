//! A device over time: provisioning, power, deletion, termination, cost.

use serde_json::{Value, json};
use simulators::packet::{Config, ROOT_PASSWORD, Simulator};

use crate::{
    act, active, common::look, create, created, delete, device, devices_path, error, id, known, seconds, small,
    small_with, started, state, status, still, time, told, update,
};

async fn events(sim: &Simulator, id: &str) -> Vec<Value> {
    let told = told(sim, &format!("/devices/{id}/events?per_page=100")).await;
    told["events"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_device_is_queued_then_provisioned_in_ten_steps_then_active() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    let look = async || {
        let device = device(&sim, &id).await;
        (device["state"].as_str().unwrap().to_owned(), device["provisioning_percentage"].as_f64().unwrap())
    };
    assert_eq!(look().await, ("queued".into(), 0.0));
    sim.advance(seconds(1));
    assert_eq!(look().await, ("provisioning".into(), 10.0));
    sim.advance(seconds(5));
    assert_eq!(look().await, ("provisioning".into(), 60.0));
    sim.advance(std::time::Duration::from_millis(3999));
    assert_eq!(look().await, ("provisioning".into(), 90.0));
    assert_eq!(device(&sim, &id).await["ip_addresses"], json!([]));
    sim.advance(std::time::Duration::from_millis(1));
    assert_eq!(look().await, ("active".into(), 100.0));
    assert_eq!(known(&sim, &id).active_at, Some(time("2026-01-01T00:00:10Z")));

    let device = device(&sim, &id).await;
    let addresses = device["ip_addresses"].as_array().unwrap();
    let of = |family: u64, public: bool| {
        addresses.iter().find(|it| it["address_family"] == family && it["public"] == public).unwrap()
    };
    assert!(of(4, true)["address"].as_str().unwrap().parse::<std::net::Ipv4Addr>().is_ok());
    assert!(of(6, true)["address"].as_str().unwrap().parse::<std::net::Ipv6Addr>().is_ok());
    assert!(of(4, false)["address"].as_str().unwrap().starts_with("10."));
    assert_eq!((&of(4, true)["cidr"], &of(4, true)["management"]), (&json!(31), &json!(true)));
    assert!(device["root_password"].as_str().unwrap().starts_with(ROOT_PASSWORD));
}

#[tokio::test]
async fn no_two_devices_share_an_address_or_a_password() {
    let sim = started(still()).await;
    for _ in 0..300 {
        created(&sim).await;
    }
    sim.advance(seconds(10));
    let told = told(&sim, &format!("{}?per_page=1000", devices_path())).await;
    let mut seen = std::collections::HashSet::new();
    for device in told["devices"].as_array().unwrap() {
        assert!(seen.insert(device["root_password"].to_string()));
        for address in device["ip_addresses"].as_array().unwrap() {
            assert!(address["address"].as_str().unwrap().parse::<std::net::IpAddr>().is_ok(), "{address}");
            assert!(seen.insert(address["address"].to_string()), "{address}");
        }
    }
    assert_eq!(seen.len(), 300 * 4);
}

#[tokio::test]
async fn steps_to_come_have_no_time_and_those_that_are_done_have_theirs() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    sim.advance(seconds(4));
    let told = events(&sim, &id).await;
    let done: Vec<_> = told.iter().filter(|event| !event["created_at"].is_null()).collect();
    assert_eq!(done[0]["type"], "provisioning.101");
    assert_eq!((&done[0]["state"], &done[0]["created_at"]), (&json!("provisioning"), &json!("2026-01-01T00:00:01Z")));
    let pending: Vec<_> = told.iter().filter(|event| event["created_at"].is_null()).collect();
    let kinds: Vec<_> = pending.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected: Vec<_> = (105..=110).map(|step| format!("provisioning.{step}")).collect();
    assert_eq!(kinds, expected);
    assert_eq!(pending[5]["body"], "Device phoned home and is ready to go");
    let ids: std::collections::HashSet<_> = told.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), told.len());
    assert_eq!(json!(told), device(&sim, &id).await["provisioning_events"]);
}

#[tokio::test]
async fn some_devices_tell_a_step_twice() {
    let sim = started(still()).await;
    let mut twice = 0;
    for _ in 0..100 {
        created(&sim).await;
    }
    sim.advance(seconds(10));
    for device in sim.devices() {
        assert_eq!(device.state, "active");
        let told = events(&sim, &device.id).await;
        let steps: std::collections::BTreeSet<_> = told.iter().map(|event| event["type"].to_string()).collect();
        assert_eq!(steps.len(), 10);
        twice += usize::from(told.len() == 11);
        assert!(told.is_sorted_by_key(|event| event["created_at"].as_str().unwrap().to_owned()));
    }
    assert!((10..45).contains(&twice), "{twice}");
}

#[tokio::test]
async fn a_deleted_device_is_deprovisioned_for_a_while_and_then_gone() {
    let sim = started(still()).await;
    let id = active(&sim).await;
    let answer = delete(&sim, &id).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.text().await.unwrap(), "");
    assert_eq!(state(&sim, &id).await, "deprovisioning");
    assert_eq!(delete(&sim, &id).await.status(), 204, "once more does no harm");
    sim.advance(std::time::Duration::from_millis(4999));
    assert!(known(&sim, &id).alive);
    assert_eq!(told(&sim, &devices_path()).await["meta"]["total"], 1);
    sim.advance(std::time::Duration::from_millis(1));
    let gone = known(&sim, &id);
    assert_eq!(
        (gone.alive, gone.state.as_str(), gone.ended_at),
        (false, "deleted", Some(time("2026-01-01T00:00:15Z")))
    );
    assert_eq!(told(&sim, &devices_path()).await["meta"]["total"], 0);
    assert_eq!(status(&sim, &id).await, 404);
    assert_eq!(delete(&sim, &id).await.status(), 404);
    assert_eq!(act(&sim, &id, "reboot").await.status(), 404);
    assert_eq!(update(&sim, &id, &json!({})).await.status(), 404);
    assert_eq!(sim.stats().deletes, 1);
}

#[tokio::test]
async fn a_gone_device_can_be_shown_as_deleted_for_a_while() {
    let sim = started(Config { show_deleted: seconds(60), ..still() }).await;
    let id = created(&sim).await;
    delete(&sim, &id).await;
    sim.advance(seconds(5));
    assert_eq!(state(&sim, &id).await, "deleted");
    assert_eq!(delete(&sim, &id).await.status(), 404);
    assert!(device(&sim, &id).await.get("root_password").is_none());
    assert!(!known(&sim, &id).alive);
    sim.advance(seconds(60));
    assert_eq!(status(&sim, &id).await, 404);
}

#[tokio::test]
async fn a_device_can_be_deleted_while_it_is_provisioned() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    sim.advance(seconds(3));
    delete(&sim, &id).await;
    assert!(events(&sim, &id).await.iter().all(|event| !event["created_at"].is_null()), "nothing is to come any more");
    sim.advance(seconds(60));
    let gone = known(&sim, &id);
    assert_eq!((gone.alive, gone.active_at), (false, None));
}

#[tokio::test]
async fn a_termination_time_deprovisions_whatever_the_state() {
    let sim = started(Config { faults: vec![crate::rule_of("stuck_at@ams1,step=103")], ..still() }).await;
    let at = "2026-01-01T00:01:00Z";
    let up = id(&create(&sim, &small_with(json!({ "termination_time": at }))).await);
    let locked = id(&create(&sim, &small_with(json!({ "termination_time": at, "locked": true }))).await);
    let stuck = id(&create(&sim, &small_with(json!({ "termination_time": at, "facility": "ams1" }))).await);
    sim.advance(std::time::Duration::from_millis(59_999));
    assert_eq!([state(&sim, &up).await, state(&sim, &stuck).await], ["active", "provisioning"]);
    sim.advance(std::time::Duration::from_millis(1));
    for id in [&up, &locked, &stuck] {
        assert_eq!(state(&sim, id).await, "deprovisioning");
    }
    sim.advance(seconds(5));
    for id in [&up, &locked, &stuck] {
        let gone = known(&sim, id);
        assert_eq!((gone.terminated, gone.ended_at), (true, Some(time("2026-01-01T00:01:05Z"))));
    }
}

#[tokio::test]
async fn a_termination_time_is_set_moved_and_taken_off_by_an_update() {
    let sim = started(still()).await;
    let id = active(&sim).await;
    let set = async |at: Value| update(&sim, &id, &json!({ "termination_time": at })).await;
    let told: Value = set(json!("2026-01-01T01:00:00Z")).await.json().await.unwrap();
    assert_eq!(told["termination_time"], "2026-01-01T01:00:00Z");
    assert_eq!(known(&sim, &id).termination_time, Some(time("2026-01-01T01:00:00Z")));
    set(json!("2026-01-01T02:00:00Z")).await;
    sim.advance(seconds(3600));
    assert_eq!(state(&sim, &id).await, "active");
    let answer = set(Value::Null).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap()["termination_time"], Value::Null);
    sim.advance(seconds(3600 * 24));
    assert_eq!(state(&sim, &id).await, "active");
    for past in ["2026-01-01T00:00:00Z", "soon"] {
        let (status, text) = error(set(json!(past)).await).await;
        assert_eq!(status, 422);
        assert!(text.contains("termination_time"), "{text}");
    }
    set(json!("2026-01-03T00:00:00Z")).await;
    sim.advance(seconds(3600 * 48));
    assert!(known(&sim, &id).terminated);
}

#[tokio::test]
async fn an_update_does_not_revive_what_is_being_deprovisioned() {
    let sim = started(still()).await;
    let id = id(&create(&sim, &small_with(json!({ "termination_time": "2026-01-01T00:01:00Z" }))).await);
    sim.advance(seconds(61));
    assert_eq!(update(&sim, &id, &json!({ "termination_time": null })).await.status(), 200);
    sim.advance(seconds(5));
    assert!(!known(&sim, &id).alive);
}

#[tokio::test]
async fn power_goes_off_and_on_and_takes_its_time() {
    let sim = started(still()).await;
    let id = active(&sim).await;
    for (kind, during, after) in [
        ("power_off", "powering_off", "inactive"),
        ("power_on", "powering_on", "active"),
        ("power_off", "powering_off", "inactive"),
        ("rescue", "powering_on", "active"),
    ] {
        assert_eq!(act(&sim, &id, kind).await.status(), 202, "{kind}");
        assert_eq!(state(&sim, &id).await, during);
        sim.advance(seconds(2));
        assert_eq!(state(&sim, &id).await, after);
    }
    act(&sim, &id, "reboot").await;
    for expected in ["powering_off", "powering_on", "active"] {
        assert_eq!(state(&sim, &id).await, expected);
        sim.advance(seconds(2));
    }
    assert_eq!(known(&sim, &id).active_at, Some(time("2026-01-01T00:00:10Z")), "the first time");
}

#[tokio::test]
async fn a_reinstallation_goes_through_the_steps_again() {
    let sim = started(still()).await;
    let id = active(&sim).await;
    assert_eq!(act(&sim, &id, "reinstall").await.status(), 202);
    assert_eq!(state(&sim, &id).await, "reinstalling");
    sim.advance(seconds(7));
    let device = device(&sim, &id).await;
    assert_eq!((&device["state"], &device["provisioning_percentage"]), (&json!("reinstalling"), &json!(50.0)));
    sim.advance(seconds(5));
    assert_eq!(state(&sim, &id).await, "active");
}

#[tokio::test]
async fn actions_that_make_no_sense_are_422() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    for kind in ["power_on", "power_off", "reboot", "reinstall", "rescue"] {
        let (status, text) = error(act(&sim, &id, kind).await).await;
        assert_eq!((status, text.as_str()), (422, "Device cannot do this while it is queued"), "{kind}");
    }
    sim.advance(seconds(10));
    assert_eq!(act(&sim, &id, "power_on").await.status(), 422, "it is on");
    for kind in ["explode", ""] {
        let (status, text) = error(act(&sim, &id, kind).await).await;
        assert_eq!(status, 422);
        assert!(text.contains("type is not one of"), "{text}");
    }
    assert_eq!(state(&sim, &id).await, "active");
}

#[tokio::test]
async fn a_device_costs_from_its_creation_until_it_is_gone() {
    let sim = started(Config { deprovision: seconds(600), ..still() }).await;
    // Half a dollar an hour, and one dollar and ten cents.
    let first = created(&sim).await;
    sim.advance(seconds(1800));
    create(&sim, &small_with(json!({ "plan": "c3.medium.x86" }))).await;
    sim.advance(seconds(1200));
    assert_eq!(sim.stats().cost_micro_usd, 416_666 + 366_666);
    delete(&sim, &first).await;
    sim.advance(seconds(600));
    assert_eq!(known(&sim, &first).cost_micro_usd, 500_000);
    sim.advance(seconds(3600));
    assert_eq!(known(&sim, &first).cost_micro_usd, 500_000, "gone");
    assert_eq!(sim.stats().cost_micro_usd, 500_000 + 1_650_000);
    let stats = sim.stats();
    assert_eq!((stats.alive, stats.max_alive, stats.created), (1, 2, 2));
    assert_eq!(json!(stats.states), json!({ "active": 1, "deleted": 1 }));
}

#[tokio::test]
async fn the_simulator_tells_its_devices_and_its_time_over_http() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    sim.advance(seconds(30));
    device(&sim, &id).await;
    let all = look(sim.url(), "devices").await;
    assert_eq!(all, json!(sim.devices()));
    assert_eq!((&all[0]["id"], &all[0]["alive"], &all[0]["requests"]), (&json!(id), &json!(true), &json!(1)));
    assert_eq!(look(sim.url(), "time").await, json!({ "now_seconds": 30.0, "now": "2026-01-01T00:00:30Z" }));
    let answer = crate::client().post(format!("{}/_sim/advance", sim.url())).json(&json!({ "seconds": 5 })).send();
    assert_eq!(answer.await.unwrap().json::<Value>().await.unwrap(), json!({ "now_seconds": 35.0 }));
    assert_eq!((sim.now(), sim.elapsed()), (time("2026-01-01T00:00:35Z"), seconds(35)));
    let stats = look(sim.url(), "stats").await;
    assert_eq!((&stats["alive"], &stats["requests"], &stats["kinds"]["create"]), (&json!(1), &json!(2), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn time_goes_by_itself_as_fast_as_it_should() {
    let sim = started(Config { manual: false, speed: 10.0, ..still() }).await;
    tokio::time::advance(seconds(6)).await;
    assert_eq!(sim.now(), time("2026-01-01T00:01:00Z"));
    sim.change(|config| config.epoch = None);
    tokio::time::advance(seconds(6)).await;
    assert_eq!(sim.now(), time("2026-01-01T00:02:00Z"), "the start stays what it was");
}

#[tokio::test]
async fn without_an_epoch_the_clock_is_that_of_this_machine() {
    let sim = started(Config { manual: true, ..Config::default() }).await;
    assert!(jiff::Timestamp::now().duration_since(sim.now()).as_secs().abs() < 60);
    let made = create(&sim, &small()).await;
    let told: jiff::Timestamp = made["created_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(told.as_second(), sim.now().as_second());
}
