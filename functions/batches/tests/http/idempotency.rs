//! `Idempotency-Key`: one key, one batch.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use http::{HeaderValue, Method};
use jiff::Timestamp;
use kit::clock::Clock;
use simulators::lorawan;

use crate::common::{BATCHES, Client, OfBatches as _, Reply, World};

/// A POST with a key and a body.
async fn post(client: &Client, path: &str, key: impl TryInto<HeaderValue>, body: &str) -> Reply {
    let key = key.try_into().ok().expect("a header's value");
    let request = client.request(Method::POST, path).header("idempotency-key", key);
    let request = request.header("content-type", "application/json").body(body.to_owned().into()).unwrap();
    client.send(request).await
}

fn is_replay(reply: &Reply) -> bool {
    match reply.header("idempotency-replayed") {
        "true" => true,
        other => {
            assert_eq!(other, "");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn fifty_posts_at_once_with_one_key_make_one_batch() {
    let world = World::new().await;
    let client = world.client("acme").await;
    for round in 0..5 {
        let key = format!("round-{round}");
        let before = world.items().await;
        let posts = (0..50).map(|_| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move { post(&client, BATCHES, key, r#"{"batch_size":7}"#).await })
        });
        let replies: Vec<Reply> = join_all(posts).await.into_iter().map(|reply| reply.unwrap().expect(201)).collect();
        let distinct = |what: fn(&Reply) -> String| replies.iter().map(what).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(Reply::text), 1, "one body");
        assert_eq!(distinct(|reply| reply.header("location").to_owned()), 1);
        assert_eq!(replies.iter().filter(|reply| is_replay(reply)).count(), 49);
        assert_eq!(client.listed(BATCHES).await.len(), round + 1);
        assert_eq!(world.items().await, before + 3, "the batch, its place in the worker's list, the key");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_racing_requests_with_different_payloads_one_wins() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let posts = (0..20).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { post(&client, BATCHES, "k", &format!(r#"{{"batch_size":{}}}"#, n % 2 + 1)).await })
    });
    let replies: Vec<Reply> = join_all(posts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 10);
    assert_eq!(replies.iter().filter(|reply| reply.status == 422).count(), 10);
    assert_eq!(client.listed(BATCHES).await.len(), 1);
}

#[tokio::test]
async fn the_payload_is_what_is_meant_and_not_how_it_is_written() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let first = post(&client, BATCHES, "k", r#"{"batch_size":5,"prefix":"70B3D5"}"#).await.expect(201);
    assert!(!is_replay(&first));
    let same = [
        "{ \"prefix\" : \"70B3D5\" ,\n\t\"batch_size\" : 5 }",
        r#"{"batch_size":5,"prefix":"70b3d5","label":null,"on_uncertain":"keep"}"#,
        r#"{"batch\u005fsize":5,"prefix":"70B3D5"}"#,
    ];
    for body in same {
        let again = post(&client, BATCHES, "k", body).await.expect(201);
        assert!(is_replay(&again), "{body}");
        assert_eq!((again.text(), again.header("location")), (first.text(), first.header("location")));
    }
    // The old spelling is the same collection; the quotes are those of the header's own syntax.
    assert!(is_replay(&post(&client, "/api/v1/batch", "\"k\"", same[0]).await.expect(201)));
    let others = ["", r#"{"batch_size":6,"prefix":"70B3D5"}"#, r#"{"batch_size":5,"prefix":"70B3D5","label":"x"}"#];
    for body in others {
        post(&client, BATCHES, "k", body).await.problem(422, "idempotency-key-reused");
    }
    assert_eq!(client.listed(BATCHES).await.len(), 1);
}

#[tokio::test]
async fn a_bad_request_does_not_use_the_key_up() {
    let world = World::new().await;
    let client = world.client("acme").await;
    post(&client, BATCHES, "k", r#"{"batch_size":0}"#).await.problem(422, "invalid-input");
    assert!(!is_replay(&post(&client, BATCHES, "k", r#"{"batch_size":1}"#).await.expect(201)));
}

#[tokio::test]
async fn the_answer_stays_the_first_one_while_the_batch_goes_on() {
    let world = World::new().await;
    world.work();
    let client = world.client("acme").await;
    let first = post(&client, BATCHES, "k", r#"{"batch_size":5}"#).await.expect(201);
    client.finished(&first.id()).await;
    client.delete(first.header("location")).await.expect(204);
    let again = post(&client, BATCHES, "k", r#"{"batch_size":5}"#).await.expect(201);
    assert!(is_replay(&again));
    assert_eq!(again.text(), first.text());
}

#[tokio::test]
async fn a_key_is_remembered_for_a_day() {
    let clock = Clock::manual(Timestamp::now());
    let world = World::with(lorawan::Config::default(), clock.clone()).await;
    let client = world.client("acme").await;
    let first = post(&client, BATCHES, "k", "{}").await.expect(201).id();
    clock.advance(Duration::from_secs(24 * 3600 - 2));
    assert_eq!(post(&client, BATCHES, "k", "{}").await.expect(201).id(), first);
    clock.advance(Duration::from_hours(1));
    // Not swept away yet, as in DynamoDB, where this takes days.
    let second = post(&client, BATCHES, "k", r#"{"batch_size":3}"#).await.expect(201);
    assert!(!is_replay(&second) && second.id() != first);
    assert!(is_replay(&post(&client, BATCHES, "k", r#"{"batch_size":3}"#).await.expect(201)));
    assert_eq!(client.listed(BATCHES).await.len(), 2);
}

#[tokio::test]
async fn a_key_of_one_tenant_says_nothing_about_another() {
    let world = World::new().await;
    let (acme, globex) = (world.client("acme").await, world.client("globex").await);
    let ours = post(&acme, BATCHES, "k", "{}").await.expect(201);
    let theirs = post(&globex, BATCHES, "k", r#"{"batch_size":9}"#).await.expect(201);
    assert!(!is_replay(&theirs) && theirs.id() != ours.id());
    // Another key of the same tenant is the same tenant.
    assert!(is_replay(&post(&world.client("acme").await, BATCHES, "k", "{}").await.expect(201)));
}

#[tokio::test]
async fn a_key_has_1_to_255_visible_ascii_characters() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let bad: [&[u8]; 8] =
        [b"", b"\"\"", &[b'k'; 300], &[b'k'; 256], "schlüssel".as_bytes(), b"\xff", b"two words", b"tab\there"];
    for key in bad {
        let key = HeaderValue::from_bytes(key).unwrap();
        let problem = post(&client, BATCHES, key.clone(), "{}").await.problem(400, "bad-idempotency-key");
        assert!(problem["detail"].as_str().unwrap().contains("1 to 255"), "{key:?}: {problem}");
    }
    let twice = client.request(Method::POST, BATCHES).header("idempotency-key", "a").header("idempotency-key", "a");
    client.send(twice.body("".into()).unwrap()).await.problem(400, "bad-idempotency-key");
    assert_eq!(client.listed(BATCHES).await.len(), 0);
    assert_eq!(world.items().await, 0);
    for good in ["k", &"k".repeat(255), "!~#\\"] {
        post(&client, BATCHES, good, "{}").await.expect(201);
    }
}
