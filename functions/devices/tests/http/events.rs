//! The time line.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::common::{World, field, launch, path, show, text, time_line};

fn times(events: &[Value]) -> Vec<Timestamp> {
    events.iter().map(|it| text(&it["at"]).parse().unwrap()).collect()
}

#[tokio::test]
async fn our_steps_and_the_vendors_are_one_time_line_in_order() {
    let world = World::faulty(&["failed_at@ams1=1,step=104"]).await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    client.delete(&path(&id, "")).await.expect(202);
    world.until(&client, &id, "Deleted").await;
    let events = time_line(&client, &id).await;
    assert!(times(&events).is_sorted());
    let kinds = field(&events, "kind");
    assert_eq!((kinds[0].as_str(), kinds.last().unwrap().as_str()), ("Requested", "Deleted"));
    let place = |kind: &str, attempt: Value| {
        let found = events.iter().position(|it| it["kind"] == kind && it["attempt"] == attempt);
        found.unwrap_or_else(|| panic!("{kind} of {attempt}: {events:#?}"))
    };
    let order = [
        place("Requested", Value::Null),
        place("Creating", json!(1)),
        place("provisioning.101", json!(1)),
        place("failed", json!(1)),
        place("ended", json!(1)),
        place("Creating", json!(2)),
        place("provisioning.110", json!(2)),
        place("Active", Value::Null),
        place("Deleting", Value::Null),
        place("Deleted", Value::Null),
    ];
    assert!(order.is_sorted(), "{order:?}: {events:#?}");
    for event in &events {
        let vendors = text(&event["kind"]).starts_with("provisioning.");
        assert_eq!(event["source"] == "vendor", vendors, "{event}");
    }
    // What the device shows of it is the end of it.
    let device = show(&client, &id).await;
    for attempt in device["attempts"].as_array().unwrap() {
        let all: Vec<_> = events.iter().filter(|it| it["attempt"] == attempt["number"]).collect();
        let shown = attempt["events"].as_array().unwrap();
        assert_eq!(attempt["events_total"], all.len());
        assert!((1..=20).contains(&shown.len()));
    }
}

#[tokio::test]
async fn it_comes_in_pages_that_are_the_whole() {
    let world = World::faulty(&["out_of_capacity@ams1"]).await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let all = time_line(&client, &id).await;
    assert!(all.len() > 10);
    for limit in 1..all.len() + 2 {
        assert_eq!(client.all(&path(&id, &format!("/events?limit={limit}"))).await, all, "{limit}");
    }
    let last = client.get(&path(&id, &format!("/events?limit={}", all.len()))).await.expect(200);
    assert_eq!(last.json().get("next_cursor"), None);
}

#[tokio::test]
async fn what_is_noted_at_one_moment_stays_in_its_order() {
    let world = World::faulty(&["out_of_capacity"]).await;
    let client = world.client("acme").await;
    let body =
        json!({ "plan": { "slug": "c3.small.x86" }, "facility": { "codes": ["ewr1"] }, "os": { "slug": "debian_12" } });
    let id = launch(&client, body).await;
    // Everything in one round, while the clock stands still.
    world.round().await;
    assert_eq!(show(&client, &id).await["state"], "Failed");
    let events = time_line(&client, &id).await;
    assert_eq!(field(&events, "kind"), ["Requested", "Creating", "failed", "ended", "Failed"]);
    let attempts: Vec<_> = events.iter().map(|it| it["attempt"].as_u64()).collect();
    assert_eq!(attempts, [None, Some(1), Some(1), Some(1), None]);
}
