//! What would be tried.

use serde_json::{Value, json};
use simulators::packet;

use crate::common::{NOON, World, field, launch, path, post_nothing, text};

async fn plan(client: &kit::testing::Client, body: Value) -> Value {
    client.post(&path("plan", ""), body).await.expect(200).json()
}

#[tokio::test]
async fn a_plan_says_what_would_be_tried_in_order_and_a_launch_does_that() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let planned = post_nothing(&client, &path("plan", "")).await.expect(200).json();
    let candidates = planned["candidates"].as_array().unwrap();
    let first = json!({
        "os": "centos_7", "plan": "baremetal_0", "facility": "ams1", "metro": "am", "price": 0.07,
        "level": "normal", "recent_failures": 0,
    });
    assert_eq!(candidates[0], first);
    assert!(candidates.len() == 1000 && planned["total"].as_u64() > Some(1000), "{}", planned["total"]);
    let prices: Vec<_> = candidates.iter().map(|it| it["price"].as_f64().unwrap()).collect();
    assert!(prices.is_sorted(), "{prices:?}");
    assert_eq!(planned["catalog_at"], json!(NOON));
    let left_out = planned["left_out"].as_array().unwrap();
    assert_eq!(planned["left_out_total"], left_out.len());
    assert!(field(left_out, "text").iter().any(|it| it.starts_with("bandwidth: ")), "{left_out:?}");
    assert_eq!((world.items().await.len(), world.sim.stats().created), (0, 0), "nothing is launched");

    let body =
        json!({ "os": { "distro": "ubuntu" }, "plan": { "min_memory_gb": 64 }, "facility": { "metros": ["fr"] } });
    let best = plan(&client, body.clone()).await["candidates"][0].clone();
    let id = launch(&client, body).await;
    assert_eq!(world.until(&client, &id, "Active").await["combination"], best);
}

#[tokio::test]
async fn what_is_sold_out_is_left_out_with_the_reason_and_is_no_mistake() {
    let capacity = vec!["ams1/c3.small.x86=0".parse().unwrap(), "ewr1/c3.small.x86=2".parse().unwrap()];
    let world = World::with(packet::Config { capacity, ..packet::Config::default() }).await;
    let client = world.client("acme").await;
    let body = |codes: &[&str]| json!({ "plan": { "slug": "c3.small.x86" }, "os": { "slug": "debian_12" }, "facility": { "codes": codes } });
    let planned = plan(&client, body(&["ams1", "ewr1"])).await;
    assert_eq!((&planned["total"], &planned["candidates"][0]["facility"]), (&json!(1), &json!("ewr1")));
    assert_eq!(planned["candidates"][0]["level"], "critical");
    let left_out = planned["left_out"].as_array().unwrap();
    assert!(field(left_out, "text").contains(&"c3.small.x86 in ams1: capacity unavailable".to_owned()), "{left_out:?}");

    let planned = plan(&client, body(&["ams1"])).await;
    assert_eq!((&planned["total"], &planned["candidates"]), (&json!(0), &json!([])));
    let entry = planned["left_out"].as_array().unwrap().iter().find(|it| it["reason"] == "capacity_unavailable");
    assert_eq!(entry.unwrap()["text"], "c3.small.x86 in ams1: capacity unavailable");
}

#[tokio::test]
async fn a_plan_knows_what_has_failed() {
    let world = World::faulty(&["failed_at@ams1,step=102"]).await;
    let client = world.client("acme").await;
    world.active(&client, "{}").await;
    world.pass(61);
    let planned = plan(&client, json!({ "facility": { "codes": ["ams1"] }, "plan": { "slug": "baremetal_0" } })).await;
    let best = &planned["candidates"][0];
    assert_eq!(best["recent_failures"], 1, "{planned}");
    assert!(text(&best["held_until"]) > text(&planned["catalog_at"]), "{planned}");
    assert_ne!(plan(&client, json!({})).await["candidates"][0]["facility"], "ams1");
}
