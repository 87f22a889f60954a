//! A device's life, as those see it who asked for it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simulators::packet;

use crate::common::{DEVICES, NOON, World, at, launch, path, post_nothing, show, text, time_line};

#[tokio::test]
async fn an_empty_body_launches_the_cheapest_machine_there_is() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let reply = post_nothing(&client, DEVICES).await.expect(202);
    let id = reply.id();
    assert_eq!(reply.header("location"), path(&id, ""));
    let request = json!({
        "os": {}, "plan": {}, "facility": {}, "ephemeral": false,
        "max_attempts": 10, "provision_timeout_seconds": 1800, "stall_timeout_seconds": 600,
    });
    let asked = json!({
        "id": id, "state": "Requested", "hostname": format!("muster-{id}"), "created_at": NOON, "updated_at": NOON,
        "request": request, "has_userdata": false, "percent": 0, "cost_usd": 0.0, "attempts": [],
        "deadlines": { "give_up_at": at(10 * 1800) },
    });
    assert_eq!(reply.json(), asked);
    assert_eq!(show(&client, &id).await, asked);
    assert_eq!(world.sim.stats().created, 0, "the handler asks for nothing itself");

    let device = world.until(&client, &id, "Active").await;
    let machine = &world.sim.alive()[0];
    assert_eq!((machine.hostname.as_str(), &machine.tags), (&*format!("muster-{id}"), &vec![format!("muster:{id}")]));
    let chosen = json!({
        "os": "centos_7", "plan": "baremetal_0", "facility": "ams1", "metro": "am", "price": 0.07,
        "level": "normal", "recent_failures": 0,
    });
    assert_eq!(device["combination"], chosen);
    assert_eq!(device["device"]["id"], machine.id);
    let public = device["device"]["addresses"].as_array().unwrap();
    assert!(public.iter().any(|it| it["public"] == true && it["family"] == 4), "{device}");
    assert_eq!((&device["percent"], &device["device"]["state"]), (&json!(100), &json!("active")));
    assert!(device["active_at"].is_string() && device["ended_at"].is_null() && device["reason"].is_null(), "{device}");
    assert_eq!(device["deadlines"], json!({ "give_up_at": at(10 * 1800) }));
    let attempts = device["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["number"], &attempts[0]["outcome"]), (1, &json!(1), &json!("came_up")));
    assert_eq!(attempts[0]["machine_id"], machine.id);
    assert_eq!(attempts[0]["ended_at"], device["active_at"]);
}

#[tokio::test]
async fn a_device_tells_how_far_it_is_and_by_when_it_must_be_further() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, json!({ "provision_timeout_seconds": 1200, "stall_timeout_seconds": 300 })).await;
    world.pass(3);
    world.round().await;
    let device = show(&client, &id).await;
    assert_eq!((&device["state"], &device["attempts"][0]["outcome"]), (&json!("Provisioning"), &json!("in_progress")));
    assert_eq!(device["attempts"][0]["ended_at"], Value::Null);
    let deadlines = json!({ "give_up_at": at(12_000), "provisioned_by": at(1203), "progress_by": at(303) });
    assert_eq!(device["deadlines"], deadlines);

    world.pass(10);
    world.round().await;
    let device = show(&client, &id).await;
    let percent = device["percent"].as_u64().unwrap();
    assert!((1..100).contains(&percent), "{device}");
    assert_eq!(device["attempts"][0]["percent"], percent);
    assert_eq!(device["deadlines"]["provisioned_by"], at(1203));
    assert_eq!(device["deadlines"]["progress_by"], at(313));
    let events = device["attempts"][0]["events"].as_array().unwrap();
    assert_eq!(device["attempts"][0]["events_total"], events.len());
    assert!(events.iter().any(|it| it["source"] == "vendor" && it["kind"] == "provisioning.101"), "{device}");
}

#[tokio::test]
async fn a_failed_attempt_is_told_with_its_reason_and_the_next_one_follows() {
    let world = World::faulty(&["out_of_capacity@ams1"]).await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    let device = world.until(&client, &id, "Active").await;
    let attempts = device["attempts"].as_array().unwrap();
    let outcomes: Vec<_> = attempts.iter().map(|it| (text(&it["facility"]), text(&it["outcome"]))).collect();
    let expected = [("ams1", "failed"), ("ewr1", "came_up")].map(|(at, how)| (at.to_owned(), how.to_owned()));
    assert_eq!(outcomes, expected);
    assert_eq!(attempts[0]["reason"]["code"], "OutOfCapacity");
    assert!(text(&attempts[0]["reason"]["detail"]).contains("no provisionable"), "{device}");
    assert!(attempts[0]["ended_at"].is_string());
    assert_eq!(device["combination"]["facility"], "ewr1");
}

#[tokio::test]
async fn between_two_attempts_nothing_of_the_last_machine_is_shown_as_the_devices() {
    // It fails when the catalogue is too old, and there is no newer one.
    let faults = ["failed_at=1,step=109", "server_error,on=plans,from=10s"];
    let faults = faults.iter().map(|rule| rule.parse().unwrap()).collect();
    let provision = Duration::from_secs(600);
    let world = World::with(packet::Config { provision, faults, ..packet::Config::default() }).await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    world.until(&client, &id, "Provisioning").await;
    let device = world.until(&client, &id, "Requested").await;
    assert_eq!((&device["percent"], device.get("device"), device.get("trouble")), (&json!(0), None, None), "{device}");
    assert_eq!(device["deadlines"], json!({ "give_up_at": at(18_000) }));
    let attempts = device["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["outcome"]), (1, &json!("failed")));
    assert_eq!(
        (&attempts[0]["reason"]["code"], attempts[0]["machine_id"].is_string()),
        (&json!("ProvisioningFailed"), true)
    );
    assert_eq!(device["combination"]["plan"], attempts[0]["plan"]);
    let item = &client.all(DEVICES).await[0];
    assert_eq!((&item["percent"], item.get("address"), &item["attempts"]), (&json!(0), None, &json!(1)));
}

#[tokio::test]
async fn a_device_for_which_nothing_is_left_has_failed_and_says_why() {
    let world = World::faulty(&["out_of_capacity"]).await;
    let client = world.client("acme").await;
    let body =
        json!({ "plan": { "slug": "c3.small.x86" }, "facility": { "codes": ["ewr1"] }, "os": { "slug": "debian_12" } });
    let id = launch(&client, body).await;
    let device = world.until(&client, &id, "Failed").await;
    assert_eq!(device["reason"]["code"], "NothingLeft");
    assert!(text(&device["reason"]["detail"]).contains("no provisionable"), "{device}");
    assert_eq!((&device["attempts"][0]["outcome"], device["ended_at"].is_string()), (&json!("failed"), true));
    assert_eq!(device["device"], Value::Null);
}

#[tokio::test]
async fn an_ephemeral_device_comes_up_and_goes() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, json!({ "ephemeral": true })).await;
    let device = world.until(&client, &id, "Deleted").await;
    assert_eq!(device["reason"]["code"], "Ephemeral");
    assert_eq!(device["attempts"][0]["outcome"], "came_up");
    assert!(device["active_at"].as_str() < device["ended_at"].as_str(), "{device}");
    assert_eq!((world.alive().len(), world.sim.stats().created), (0, 1));
}

#[tokio::test]
async fn what_was_asked_for_is_shown_as_it_was_understood_and_reaches_the_vendor() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let request = json!({
        "hostname": "web-1.example.com",
        "os": { "distro": "Debian", "version": "12", "slug": "debian_12" },
        "plan": {
            "class": "c3.medium.x86", "slug": "c3.medium.x86", "max_price_per_hour": 1.25, "min_memory_gb": 16.0,
            "min_cores": 4,
        },
        "facility": { "codes": ["ewr1", "fr2"], "features": ["baremetal", "layer_2"], "metros": ["am"] },
        "tags": ["web", "blue"], "ssh_keys": ["key-1"], "ttl_seconds": 7200, "ephemeral": false,
        "max_attempts": 3, "provision_timeout_seconds": 900, "stall_timeout_seconds": 200,
    });
    let mut body = request.clone();
    body["userdata"] = json!("#!/bin/sh\ntrue");
    let id = launch(&client, body).await;
    let device = show(&client, &id).await;
    assert_eq!((&device["request"], &device["has_userdata"]), (&request, &json!(true)));
    assert_eq!(
        (&device["hostname"], &device["deadlines"]["terminates_at"]),
        (&json!("web-1.example.com"), &json!(at(7200)))
    );
    assert_eq!(device["deadlines"]["give_up_at"], at(2700));

    world.until(&client, &id, "Active").await;
    let machine = &world.sim.alive()[0];
    assert_eq!(
        (&*machine.hostname, &*machine.plan, &*machine.operating_system),
        ("web-1.example.com", "c3.medium.x86", "debian_12")
    );
    assert_eq!(machine.userdata.as_deref(), Some("#!/bin/sh\ntrue"));
    assert!(["web", "blue"].iter().all(|tag| machine.tags.iter().any(|it| it == tag)), "{machine:?}");
    assert_eq!(machine.termination_time.map(|it| it.to_string()), Some(at(7200)));
}

#[tokio::test]
async fn a_get_that_waits_is_answered_when_something_changes_and_not_before() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    let device = path(&id, "");
    let waiting = |seconds: &str| {
        let (client, device, prefer) = (client.clone(), device.clone(), format!("wait={seconds}"));
        tokio::spawn(async move {
            let began = Instant::now();
            (client.get_with(&device, "prefer", &prefer).await.expect(200), began.elapsed())
        })
    };
    let (reply, took) = waiting("1").await.unwrap();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert_eq!((reply.header("preference-applied"), &reply.json()["state"]), ("wait=1", &json!("Requested")));

    // The state, then the percentage alone.
    let changed = async |expected: &[&str], what: &str| {
        let before = show(&client, &id).await;
        let wait = waiting("20");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!wait.is_finished(), "{before}");
        world.round().await;
        let (reply, took) = wait.await.unwrap();
        assert!(took < Duration::from_secs(10), "{took:?}");
        let after = reply.json();
        assert!(expected.contains(&after["state"].as_str().unwrap()), "{after}");
        assert_ne!(before[what], after[what], "{after}");
    };
    // Each step of a round can be seen.
    changed(&["Creating", "Provisioning"], "state").await;
    world.pass(8);
    changed(&["Provisioning"], "percent").await;
    world.pass(40);
    changed(&["Active"], "state").await;

    let (reply, took) = waiting("20").await.unwrap();
    assert!(took < Duration::from_secs(5), "nothing is left to wait for: {took:?}");
    assert_eq!(reply.json()["state"], "Active");
}

#[tokio::test]
async fn a_wait_ends_when_it_is_known_why_a_device_is_not_further() {
    let world = World::faulty(&["server_error,on=plans,from=1s"]).await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    world.pass(2);
    let wait = {
        let (client, device) = (client.clone(), path(&id, ""));
        tokio::spawn(async move { client.get_with(&device, "prefer", "wait=20").await.expect(200).json() })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.round().await;
    let device = tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap();
    assert_eq!((&device["state"], &device["reason"]["code"]), (&json!("Requested"), &json!("VendorAway")));
}

#[tokio::test]
async fn a_device_that_the_vendor_took_back_says_so() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    world.somebody_deletes(&world.alive()[0]).await;
    world.pass(1000);
    let device = world.until(&client, &id, "Deleted").await;
    assert_eq!(device["reason"]["code"], "Reclaimed");
    assert_eq!(device["delete_asked_at"], Value::Null);
    assert_eq!(text(&time_line(&client, &id).await.last().unwrap()["kind"]), "Deleted");
}
