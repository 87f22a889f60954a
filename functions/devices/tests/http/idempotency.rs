//! `Idempotency-Key`: one key, one device.

use std::collections::BTreeSet;

use futures::future::join_all;
use kit::testing::Reply;
use serde_json::json;
use simulators::packet::Request;

use crate::common::{DEVICES, World, at, is_503, launch, post_once, show};

fn is_replay(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == "true"
}

#[tokio::test]
async fn the_same_key_answers_as_the_first_time_whatever_has_become_of_it() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let body = json!({ "hostname": "web-1", "userdata": "echo one" });
    let first = post_once(&client, "k", &body).await.expect(202);
    assert!(!is_replay(&first));
    world.until(&client, &first.id(), "Active").await;

    let written_otherwise = "{ \"userdata\" : \"echo one\",\n\"max_attempts\":10, \"hostname\":\"web-1\" }";
    for body in [body.to_string(), written_otherwise.to_owned()] {
        let again = post_once(&client, "k", body).await.expect(202);
        assert!(is_replay(&again));
        assert_eq!((again.text(), again.header("location")), (first.text(), first.header("location")));
    }
    // Also where nothing new could be launched.
    world.sim.revoke_token();
    world.pass(400);
    let client = client.on(world.app_with(&[(devices::config::URL, "")]));
    assert!(is_replay(&post_once(&client, "k", &body).await.expect(202)));
    is_503(post_once(&client, "other", &body).await, "not-configured");
    assert_eq!((client.all(DEVICES).await.len(), world.sim.stats().created), (1, 1));
}

#[tokio::test]
async fn a_request_whose_time_has_passed_since_is_still_the_same_request() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let body = json!({ "termination_time": at(900) });
    let first = post_once(&client, "k", &body).await.expect(202);
    world.pass(1000);
    let again = post_once(&client, "k", &body).await.expect(202);
    assert!(is_replay(&again));
    assert_eq!(again.text(), first.text());
    let other = post_once(&client, "other", &body).await.problem(422, "invalid-input");
    assert!(other["errors"][0]["detail"].as_str().unwrap().contains("has passed"), "{other}");
}

#[tokio::test]
async fn another_payload_with_the_same_key_is_refused_also_where_only_the_userdata_differs() {
    let world = World::new().await;
    let client = world.client("acme").await;
    post_once(&client, "k", json!({ "userdata": "echo one" })).await.expect(202);
    for other in [json!({ "userdata": "echo two" }), json!({}), json!({ "userdata": "echo one", "tags": ["a"] })] {
        post_once(&client, "k", other).await.problem(422, "idempotency-key-reused");
    }
    assert_eq!(client.all(DEVICES).await.len(), 1);
}

#[tokio::test]
async fn a_key_is_its_tenants_own_and_counts_for_a_day() {
    let world = World::new().await;
    let (acme, globex) = (world.client("acme").await, world.client("globex").await);
    let first = post_once(&acme, "k", "{}").await.expect(202).id();
    let others = post_once(&globex, "k", "{}").await.expect(202);
    assert!(!is_replay(&others));
    assert_ne!(others.id(), first);
    world.pass(24 * 3600 - 1);
    assert_eq!(post_once(&acme, "k", "{}").await.expect(202).id(), first);
    world.pass(1);
    let second = post_once(&acme, "k", "{}").await.expect(202);
    assert!(!is_replay(&second));
    assert_ne!(second.id(), first);
    for bad in ["", "a b", &"k".repeat(256)] {
        post_once(&acme, bad, "{}").await.problem(400, "bad-idempotency-key");
    }
}

#[tokio::test]
async fn without_a_key_each_request_is_a_device_of_its_own() {
    let world = World::new().await;
    let client = world.client("acme").await;
    assert_ne!(launch(&client, "{}").await, launch(&client, "{}").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn thirty_posts_at_once_with_one_key_launch_one_device() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let posts = (0..30).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { post_once(&client, "k", json!({ "userdata": "echo one" })).await })
    });
    let replies: Vec<Reply> = join_all(posts).await.into_iter().map(|it| it.unwrap().expect(202)).collect();
    let bodies: BTreeSet<_> = replies.iter().map(Reply::text).collect();
    assert_eq!((bodies.len(), replies.iter().filter(|it| is_replay(it)).count()), (1, 29));
    let items = world.items().await.len();
    assert_eq!(items, 5, "the device, its place in two lists, its userdata, the key");
    world.until(&client, &replies[0].id(), "Active").await;
    assert_eq!((world.sim.stats().created, world.sim.stats().requests(Request::Create)), (1, 1));
    assert_eq!(show(&client, &replies[0].id()).await["has_userdata"], true);
    assert_eq!(world.sim.alive()[0].userdata.as_deref(), Some("echo one"), "what is kept is what the answer is about");
}
