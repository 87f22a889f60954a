//! The record of an attempt, and what machines cost.

use std::time::Duration;

use kit::testing::Client;
use serde_json::{Value, json};
use simulators::packet;

use crate::common::{DEVICES, World, at, field, launch, path, show, text, time_line};

async fn record(client: &Client, id: &str, number: u32) -> Value {
    client.get(&path(id, &format!("/attempts/{number}"))).await.expect(200).json()
}

#[tokio::test]
async fn each_attempt_of_a_device_links_to_all_that_is_kept_of_it() {
    // What happens while the vendor cannot be asked is heard of after our word about that.
    let faults = ["stuck_at@ams1,step=104", "health_warning", "server_error,on=list,from=9s,until=11s"];
    let faults = faults.map(|rule| rule.parse().unwrap()).into();
    let deprovision = Duration::from_secs(12);
    let world = World::with(packet::Config { faults, deprovision, ..packet::Config::default() }).await;
    let client = world.client("acme").await;
    let id = world.active(&client, json!({ "stall_timeout_seconds": 60 })).await;
    let device = show(&client, &id).await;
    let attempts = device["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    for attempt in attempts {
        let kept = client.get(&text(&attempt["record"])).await.expect(200).json();
        for same in ["number", "started_at", "outcome", "reason", "percent", "machine_seconds", "cost_usd"] {
            assert_eq!(kept[same], attempt[same], "{same}");
        }
        assert_eq!((&kept["ended_at"], &kept["billed_hours"]), (&attempt["ended_at"], &json!(1)));
        assert_eq!((&kept["device_id"], &kept["machine"]["id"]), (&json!(id), &attempt["machine_id"]));
        for part in ["os", "plan", "facility", "price"] {
            assert_eq!(kept["combination"][part], attempt[part], "{part}");
        }
        let events = kept["events"].as_array().unwrap();
        assert_eq!(attempt["events_total"], events.len());
        let mut times = field(events, "at");
        times.sort_by_key(|at| at.parse::<jiff::Timestamp>().unwrap());
        assert_eq!(times, field(events, "at"), "newest last");
    }
    let failed = record(&client, &id, 1).await;
    assert_eq!((&failed["outcome"], &failed["reason"]["code"]), (&json!("failed"), &json!("Stalled")));
    assert_eq!(failed["health"]["rollup"], "warning");
    assert!(failed["health"]["at"].is_string() && failed.get("up_at").is_none(), "{failed}");
    let states = field(failed["states"].as_array().unwrap(), "state");
    assert_eq!(states, ["queued", "provisioning", "deprovisioning"]);
    assert_eq!(failed["states"][0]["at"], at(0));
    let answers = failed["last_answers"].as_array().unwrap();
    assert_eq!(
        (&answers[0]["request"], &answers[0]["status"], &answers[0]["at"]),
        (&json!("POST /projects/…/devices"), &json!(201), &json!(at(0)))
    );
    assert!(text(&answers[0]["text"]).ends_with(" is queued"), "{failed}");
    let asked = field(answers, "request");
    assert!(asked.iter().any(|it| it.starts_with("DELETE /devices/")), "{asked:?}");
    assert!(asked.iter().any(|it| it.ends_with("/events")), "{asked:?}");

    let up = record(&client, &id, 2).await;
    assert_eq!((&up["outcome"], up.get("health"), up["up_at"].is_string()), (&json!("came_up"), None, true));
    assert_eq!(up["machine"], device["device"]);
    // The whole of it, and nothing of the device's own.
    let of_attempt: Vec<_> = time_line(&client, &id).await.into_iter().filter(|it| it["attempt"] == 1).collect();
    let mut kinds = (field(&of_attempt, "kind"), field(failed["events"].as_array().unwrap(), "kind"));
    kinds.0.sort();
    kinds.1.sort();
    assert_eq!(kinds.0, kinds.1);
}

#[tokio::test]
async fn an_attempt_that_is_under_way_has_a_record_too() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    world.until(&client, &id, "Provisioning").await;
    world.pass(30);
    let kept = record(&client, &id, 1).await;
    assert_eq!((&kept["outcome"], kept.get("ended_at")), (&json!("in_progress"), None));
    // 0.07 $/h × 30 s = 0.0005833 $
    assert_eq!((&kept["machine_seconds"], &kept["cost_usd"]), (&json!(30), &json!(0.000_583)));
    assert_eq!(show(&client, &id).await["cost_usd"], 0.000_583);
}

#[tokio::test]
async fn what_is_no_attempt_is_told_what_to_do() {
    let world = World::faulty(&["out_of_capacity@ams1"]).await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let detail = |problem: Value| text(&problem["detail"]);
    for number in ["0", "3", "4294967295"] {
        let detail = detail(client.get(&path(&id, &format!("/attempts/{number}"))).await.problem(404, "not-found"));
        assert!(detail.contains(&format!("no attempt {number}: it has made 2, from 1 to 2")), "{detail}");
        assert!(detail.contains(&format!("GET {DEVICES}/{id} lists them")), "{detail}");
    }
    for number in ["x", "-1", "+1", "1.0", "1e0", "%201", "4294967296", "%F0%9F%A6%80"] {
        let detail = detail(client.get(&path(&id, &format!("/attempts/{number}"))).await.problem(400, "bad-request"));
        assert!(detail.contains("is no number of an attempt") && detail.contains("GET"), "{detail}");
    }
    client.get(&path("not-an-id", "/attempts/1")).await.problem(400, "bad-request");
    let nobody = "01890000-0000-7000-8000-000000000000";
    client.get(&path(nobody, "/attempts/1")).await.problem(404, "not-found");
    let waiting = launch(&client, "{}").await;
    let detail = detail(client.get(&path(&waiting, "/attempts/1")).await.problem(404, "not-found"));
    assert!(detail.contains("it has made none yet"), "{detail}");
}

#[tokio::test]
async fn a_device_costs_what_its_machines_do_until_they_are_gone() {
    let world = World::faulty(&["failed_at@ams1,step=105"]).await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let theirs = || world.sim.devices().iter().map(|machine| machine.cost_micro_usd).sum::<u64>();
    // In millionths of a dollar.
    let micros = |device: &Value| (device["cost_usd"].as_f64().unwrap() * 1e6).round();
    let device = show(&client, &id).await;
    let of_each: f64 = device["attempts"].as_array().unwrap().iter().map(micros).sum();
    assert!((micros(&device) - of_each).abs() < 0.5, "{device}");
    world.pass(36_000);
    let later = show(&client, &id).await;
    let rate = later["combination"]["price"].as_f64().unwrap();
    assert!((micros(&later) - micros(&device) - rate * 1e7).abs() <= 1.0, "ten hours more: {later}");
    assert_eq!(later["attempts"][0]["cost_usd"], device["attempts"][0]["cost_usd"], "what is gone costs no more");
    assert_eq!(later["attempts"][1]["billed_hours"], 11);

    client.delete(&path(&id, "")).await.expect(202);
    let gone = world.until(&client, &id, "Deleted").await;
    world.pass(36_000);
    assert_eq!(show(&client, &id).await, gone, "nor does the device");
    // A confirmation is late by a look or two, twice.
    #[allow(clippy::cast_precision_loss)]
    let theirs = theirs() as f64;
    assert!(micros(&gone) + 1.0 >= theirs && micros(&gone) <= theirs + 40.0 / 3600.0 * rate * 1e6, "{gone} {theirs}");
}
