//! Deleting a device, from every state.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::common::{World, launch, path, show, time_line};

/// Asks for the deletion and follows it to its end; what is left is nothing.
async fn goes(world: &World, client: &kit::testing::Client, id: &str) -> Value {
    let reply = client.delete(&path(id, "")).await.expect(202).json();
    assert_eq!(
        (&reply["id"], &reply["state"], &reply["after_deletion"]),
        (&json!(id), &json!("Deleting"), &json!("deleted"))
    );
    assert_eq!(reply["reason"]["code"], "Deleted");
    assert!(reply["delete_asked_at"].is_string() && reply["ended_at"].is_null(), "{reply}");
    let again = client.delete(&path(id, "")).await.expect(202).json();
    assert_eq!(again, reply, "asked for twice is asked for once");
    let device = world.until(client, id, "Deleted").await;
    assert_eq!((&device["reason"]["code"], device["after_deletion"].is_null()), (&json!("Deleted"), true));
    assert!(device["ended_at"].is_string(), "{device}");
    assert_eq!(world.alive(), [""; 0]);
    assert_eq!(client.delete(&path(id, "")).await.expect(204).text(), "");
    assert_eq!(show(client, id).await, device, "it stays as it was");
    device
}

#[tokio::test]
async fn one_that_was_only_asked_for_is_gone_at_once() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, json!({ "userdata": "echo one" })).await;
    client.delete(&path(&id, "")).await.expect(204);
    let device = show(&client, &id).await;
    assert_eq!((&device["state"], &device["reason"]["code"]), (&json!("Deleted"), &json!("Deleted")));
    client.delete(&path(&id, "")).await.expect(204);
    assert_eq!(show(&client, &id).await, device);
    world.round().await;
    assert_eq!(world.sim.stats().created, 0);
}

#[tokio::test]
async fn one_that_is_being_created_goes_also_where_the_answer_was_lost() {
    for fault in ["server_error,on=create,times=1", "create_dropped=1,nth=1"] {
        let world = World::faulty(&[fault]).await;
        let client = world.client("acme").await;
        let id = launch(&client, "{}").await;
        world.round().await;
        assert_eq!(show(&client, &id).await["state"], "Creating");
        let device = goes(&world, &client, &id).await;
        assert_eq!(
            (&device["attempts"][0]["outcome"], device["attempts"].as_array().unwrap().len()),
            (&json!("cancelled"), 1)
        );
    }
}

#[tokio::test]
async fn one_that_is_being_installed_goes() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    world.round().await;
    assert_eq!(show(&client, &id).await["state"], "Provisioning");
    let device = goes(&world, &client, &id).await;
    let attempt = &device["attempts"][0];
    assert_eq!((&attempt["outcome"], &attempt["reason"]["code"]), (&json!("cancelled"), &json!("Deleted")));
    assert!(world.sim.devices()[0].forced);
}

#[tokio::test]
async fn one_that_is_up_goes_and_its_attempt_stays_a_success() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let device = goes(&world, &client, &id).await;
    assert_eq!(device["attempts"][0]["outcome"], "came_up");
    assert!(device["active_at"].is_string());
}

#[tokio::test]
async fn one_that_is_taken_back_for_the_next_attempt_goes_without_one() {
    let world = World::faulty(&["failed_at,step=103", "delete_slow,lasts=2m"]).await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    let device = world.until(&client, &id, "Deleting").await;
    assert_eq!(
        (&device["after_deletion"], &device["attempts"][0]["outcome"]),
        (&json!("try_next"), &json!("in_progress"))
    );
    let device = goes(&world, &client, &id).await;
    assert_eq!(device["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(device["attempts"][0]["outcome"], "failed", "that it was failing is not forgotten");
    assert_eq!(world.sim.stats().created, 1);
}

#[tokio::test]
async fn of_one_that_failed_nothing_is_left_to_delete() {
    let world = World::faulty(&["quota"]).await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    let device = world.until(&client, &id, "Failed").await;
    assert_eq!(device["reason"]["code"], "Quota");
    client.delete(&path(&id, "")).await.expect(204);
    assert_eq!(show(&client, &id).await, device);
}

#[tokio::test]
async fn a_deletion_that_the_vendor_does_not_confirm_says_so() {
    let world = World::faulty(&["delete_refused,status=422"]).await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    client.delete(&path(&id, "")).await.expect(202);
    world.round().await;
    let device = show(&client, &id).await;
    assert!(device["trouble"].as_str().unwrap().contains("locked"), "{device}");
    assert_eq!(device["overdue"], Value::Null);
    for _ in 0..125 {
        world.pass(5);
        world.round().await;
    }
    let device = show(&client, &id).await;
    assert_eq!((&device["state"], &device["overdue"]), (&json!("Deleting"), &json!(true)));
    assert_eq!(world.alive().len(), 1);
    world.sim.heal_all();
    world.pass(60);
    let device = world.until(&client, &id, "Deleted").await;
    assert_eq!((device.get("trouble"), device.get("overdue")), (None, None));
    assert_eq!(world.alive(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_deletions_at_once_all_are_answered_and_one_counts() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let client = client.on(world.slow_app());
    let deletions = (0..16).map(|_| {
        let (client, path) = (client.clone(), path(&id, ""));
        tokio::spawn(async move { client.delete(&path).await.expect(202) })
    });
    let versions = world.devices().device(id.parse().unwrap()).await.unwrap().unwrap().version;
    for reply in join_all(deletions).await {
        assert_eq!(reply.unwrap().json()["state"], "Deleting");
    }
    assert_eq!(world.devices().device(id.parse().unwrap()).await.unwrap().unwrap().version, versions + 1);
    let events = time_line(&client, &id).await;
    assert_eq!(events.iter().filter(|it| it["kind"] == "Deleting").count(), 1);
}
