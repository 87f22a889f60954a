//! A part that is not there: no provider configured, the store away, the provider away.

use std::time::Duration;

use batches::Batches;
use kit::clock::Clock;
use serde_json::{Value, json};
use simulators::{faults::Down, lorawan};

use crate::common::{BATCHES, OfBatches as _, Reply, World, holds_everything, text};

#[tokio::test]
async fn without_a_provider_nothing_begins_and_everything_can_be_read() {
    let world = World::new().await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(5).await;
    let batch = client.finished(&id).await;
    let items = world.items().await;

    let unconfigured = Batches { provider: None, ..world.batches.clone() };
    let app = kit::http::app(vec![batches::routes(unconfigured)], world.access.clone());
    let client = client.on(app);
    let reply = client.post(BATCHES, &json!({})).await;
    assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    let problem = reply.problem(503, "not-configured");
    assert!(text(&problem["detail"]).contains("MUSTER_LORAWAN_URL"), "{problem}");
    assert_eq!(world.items().await, items);

    // What is wrong with the request is said first: setting a variable would not mend it.
    client.post(BATCHES, &json!({"batch_size": 0})).await.problem(422, "invalid-input");
    let path = format!("{BATCHES}/{id}");
    assert_eq!(client.get(&path).await.expect(200).json(), batch);
    assert_eq!(client.listed(BATCHES).await, [id]);
    client.get(&format!("{path}/partitions/0")).await.expect(200);
    client.get(&format!("{path}/codes/{}", &text(&batch["deveuis"][0])[11..])).await.expect(200);
    client.delete(&path).await.expect(204);
}

#[track_caller]
fn is_away(reply: Reply) {
    assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{}", reply.text());
    let text = reply.text().to_lowercase();
    reply.problem(503, "unavailable");
    for inside in ["embedded", "dynamo", "dispatch", "connection", "table", "sdk", "test-"] {
        assert!(!text.contains(inside), "{inside:?} is nobody's business: {text}");
    }
}

#[tokio::test]
async fn without_the_store_every_route_says_come_back_and_then_works_again() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = client.create(5).await;
    let path = format!("{BATCHES}/{id}");
    let stranger = world.client("acme").await;
    let items = world.items().await;

    world.embedded.set_away(true);
    // One key is remembered and the other is not: the handler says it, or the guard before it.
    for client in [&client, &stranger] {
        is_away(client.post(BATCHES, &json!({})).await);
        is_away(client.get(BATCHES).await);
        is_away(client.get(&path).await);
        is_away(client.get_with(&path, "prefer", "wait=20").await);
        is_away(client.get(&format!("{path}/partitions/0")).await);
        is_away(client.get(&format!("{path}/codes/2555B")).await);
        is_away(client.delete(&path).await);
    }
    world.embedded.set_away(false);
    assert_eq!(world.items().await, items, "nothing half done");
    assert_eq!(client.get(&path).await.expect(200).json()["status"], "Processing");
    assert_eq!(stranger.listed(BATCHES).await, [id.as_str()]);
    client.post(BATCHES, &json!({})).await.expect(201);
    world.work();
    assert_eq!(client.finished(&id).await["status"], "Completed");
}

#[tokio::test]
async fn a_store_that_goes_away_in_the_middle_loses_nothing() {
    let faults = lorawan::Config { latency: Duration::from_millis(2), ..Default::default() };
    let world = World::with(faults, Clock::system()).await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(400).await;
    for mark in [60, 180, 300] {
        while world.sim.stats().registered < mark {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        world.embedded.set_away(true);
        tokio::time::sleep(Duration::from_millis(150)).await;
        world.embedded.set_away(false);
    }
    let batch = client.finished(&id).await;
    assert_eq!((&batch["status"], &batch["registered"]), (&json!("Completed"), &json!(400)));
    holds_everything(&batch, &world.sim);
}

#[tokio::test]
async fn a_batch_says_that_its_provider_is_away_and_goes_on_when_it_is_back() {
    for (down, words) in [(Down::Status503, "503"), (Down::Reset, "provider")] {
        let world = World::with(lorawan::Config { down, ..Default::default() }, Clock::system()).await;
        world.work();
        let client = world.client("acme").await;
        let id = client.create(20).await;
        let batch = client.once(&id, |batch| !batch["last_error"].is_null()).await;
        assert!(text(&batch["last_error"]).contains(words), "{batch}");
        assert_eq!(batch["status"], "Processing");
        world.sim.change(|faults| faults.down = Down::No);
        let batch = client.finished(&id).await;
        assert_eq!((&batch["status"], &batch["last_error"]), (&json!("Completed"), &Value::Null));
        holds_everything(&batch, &world.sim);
    }
}

/// A base URL that is somebody's web site: a person should read just that.
#[tokio::test]
async fn a_provider_that_answers_with_a_web_page_registers_nothing_and_is_named() {
    let world = World::with(lorawan::Config { html: true, ..Default::default() }, Clock::system()).await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(5).await;
    let path = format!("{BATCHES}/{id}");
    let batch = client.once(&id, |batch| !batch["last_error"].is_null()).await;
    assert!(text(&batch["last_error"]).contains("MUSTER_LORAWAN_URL"), "{batch}");
    assert_eq!((&batch["registered"], &batch["deveuis"]), (&json!(0), &json!([])));
    // What was asked for may have been registered behind that page: it is settled first.
    assert_eq!(client.delete(&path).await.expect(202).json()["status"], "Cancelling");
    world.sim.change(|faults| faults.html = false);
    let batch = client.finished(&id).await;
    assert_eq!(batch["status"], "Cancelled");
    holds_everything(&batch, &world.sim);
}
