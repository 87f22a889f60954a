//! A batch from its creation to its deletion.

use std::{collections::BTreeSet, time::Duration};

use axum::body::Body;
use http::Method;
use jiff::Timestamp;
use kit::clock::Clock;
use serde_json::{Value, json};
use simulators::{faults::Down, lorawan};

use crate::common::{BATCHES, OfBatches as _, World, holds_everything, short_code, text, texts};

/// What the contract promises of every batch, and what we say besides.
const FIELDS: &[&str] = &[
    "batch_size",
    "completed_at",
    "conflicts",
    "created_at",
    "deveuis",
    "id",
    "label",
    "last_error",
    "on_uncertain",
    "prefix",
    "provider",
    "recovered",
    "recovered_count",
    "registered",
    "status",
    "uncertain_probability",
    "updated_at",
];

fn fields(batch: &Value) -> Vec<&str> {
    let mut names: Vec<_> = batch.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_batch_begins_with_defaults_where_the_body_does_not_say() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let bodies = [None, Some(""), Some(" \r\n"), Some("{}"), Some(r#"{"label":null}"#)];
    for body in bodies {
        let mut request = client.request(Method::POST, BATCHES);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(body.map_or_else(Body::empty, Body::from)).unwrap();
        let reply = client.send(request).await.expect(201);
        let batch = reply.json();
        assert_eq!(fields(&batch), FIELDS);
        assert_eq!(reply.header("location"), format!("{BATCHES}/{}", text(&batch["id"])));
        assert_eq!(reply.header("content-type"), "application/json");
        let begun = json!({
            "id": batch["id"], "status": "Processing", "batch_size": 100, "registered": 0, "conflicts": 0,
            "recovered_count": 0, "prefix": "", "label": null, "on_uncertain": "keep", "provider": world.sim.url(),
            "created_at": batch["created_at"], "updated_at": batch["created_at"], "completed_at": null,
            "last_error": null, "uncertain_probability": null, "recovered": [], "deveuis": [],
        });
        assert_eq!(batch, begun);
        let created_at: Timestamp = text(&batch["created_at"]).parse().unwrap();
        assert!(Timestamp::now().duration_since(created_at).as_secs() < 60);
        assert!(text(&batch["created_at"]).ends_with('Z'));
        assert_eq!(client.get(reply.header("location")).await.expect(200).json(), batch);
    }
    assert_eq!(client.listed(BATCHES).await.len(), bodies.len());
}

#[tokio::test]
async fn a_batch_comes_to_completed_and_holds_what_the_provider_registered() {
    let world = World::with(lorawan::Config { conflict_rate: 0.2, ..Default::default() }, Clock::system()).await;
    world.work();
    let client = world.client("acme").await;
    let wanted = json!({"batch_size": 300, "prefix": "70b3d5", "label": "Linie 3 – früh", "on_uncertain": "replace"});
    let begun = client.post(BATCHES, &wanted).await.expect(201).json();
    assert_eq!(begun["status"], "Processing");
    let batch = client.finished(&text(&begun["id"])).await;
    assert_eq!(fields(&batch), FIELDS);
    holds_everything(&batch, &world.sim);
    let same = ["id", "batch_size", "prefix", "label", "on_uncertain", "provider", "created_at"];
    assert!(same.iter().all(|field| batch[field] == begun[field]), "{batch:#}");
    assert_eq!((&batch["status"], &batch["registered"]), (&json!("Completed"), &json!(300)));
    assert_eq!((&batch["prefix"], &batch["label"]), (&json!("70B3D5"), &json!("Linie 3 – früh")));
    assert!(texts(&batch["deveuis"]).iter().all(|it| it.starts_with("70B3D5") && it.len() == 16), "{batch:#}");
    assert_eq!(batch["conflicts"], world.sim.stats().conflicts);
    assert!(batch["conflicts"].as_u64().unwrap() > 20);
    assert_eq!((&batch["recovered"], &batch["last_error"]), (&json!([]), &Value::Null));
    let completed_at: Timestamp = text(&batch["completed_at"]).parse().unwrap();
    assert!(completed_at >= text(&batch["created_at"]).parse().unwrap());
    assert!(world.sim.stats().traffic.max_in_flight <= 10);
}

#[tokio::test]
async fn lost_answers_are_settled_and_listed_as_recovered() {
    let faults = lorawan::Config { drop_after_rate: 0.3, faulty_attempts: Some(1), ..Default::default() };
    let world = World::with(faults, Clock::system()).await;
    world.work();
    let client = world.client("acme").await;
    let batch = client.finished(&client.create(100).await).await;
    holds_everything(&batch, &world.sim);
    let (all, recovered) = (texts(&batch["deveuis"]), texts(&batch["recovered"]));
    assert_eq!(recovered.len() as u64, world.sim.stats().answers_lost);
    assert!(recovered.len() > 10 && recovered.iter().all(|deveui| all.contains(deveui)));
    assert_eq!(batch["recovered_count"], recovered.len());
    let doubt = batch["uncertain_probability"].as_f64().unwrap();
    assert!((0.0..0.1).contains(&doubt) && doubt > 0.0, "{doubt}");
}

#[tokio::test]
async fn every_short_code_leads_to_its_deveui_and_no_other_to_any() {
    let world = World::with(lorawan::Config { conflict_rate: 0.5, ..Default::default() }, Clock::system()).await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(150).await;
    let batch = client.finished(&id).await;
    let deveuis = texts(&batch["deveuis"]);
    for deveui in &deveuis {
        let code = short_code(deveui);
        let found = client.get(&format!("{BATCHES}/{id}/codes/{code}")).await.expect(200).json();
        assert_eq!(found, json!({"short_code": code, "deveui": deveui, "recovered": false}));
        let typed = client.get(&format!("{BATCHES}/{id}/codes/{}", code.to_lowercase())).await.expect(200).json();
        assert_eq!(typed, found);
    }
    let ours: BTreeSet<_> = deveuis.iter().map(|deveui| short_code(deveui)).collect();
    let others = (0..u32::MAX).map(|n| format!("{n:05X}")).filter(|code| !ours.contains(code.as_str()));
    for code in others.take(100) {
        let problem = client.get(&format!("{BATCHES}/{id}/codes/{code}")).await.problem(404, "not-found");
        assert!(text(&problem["detail"]).contains(&code));
    }
}

#[tokio::test]
async fn a_batch_past_its_time_fails_with_what_was_registered() {
    let clock = Clock::manual(Timestamp::now());
    let faults = lorawan::Config { latency: Duration::from_millis(20), ..Default::default() };
    let world = World::with(faults, clock.clone()).await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(2_000).await;
    while world.sim.stats().registered < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.sim.change(|faults| faults.down = Down::Status503);
    clock.advance(Duration::from_hours(25));
    let batch = client.finished(&id).await;
    assert_eq!(batch["status"], "Failed");
    assert!(text(&batch["last_error"]).contains("before its time was up"), "{batch:#}");
    assert_eq!(batch["completed_at"], clock.now().to_string());
    // A 503 does not tell what was done, so what was asked for is listed, though it counts for nothing.
    let listed: BTreeSet<_> = texts(&batch["deveuis"]).into_iter().chain(texts(&batch["recovered"])).collect();
    assert!(listed.is_superset(&world.sim.registered()));
    assert_eq!(texts(&batch["deveuis"]).into_iter().collect::<BTreeSet<_>>(), world.sim.registered());
}

#[tokio::test]
async fn csv_has_a_line_for_each_deveui() {
    let world = World::new().await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(40).await;
    let batch = client.finished(&id).await;
    for accept in ["text/csv", "TEXT/CSV; q=0.9", "application/json;q=0.1, text/csv"] {
        let reply = client.get_with(&format!("{BATCHES}/{id}"), "accept", accept).await.expect(200);
        assert!(reply.header("content-type").starts_with("text/csv"), "{accept}");
        let text = reply.text();
        let mut lines = text.split_terminator("\r\n");
        assert_eq!(lines.next(), Some("short_code,deveui"));
        let expected: Vec<_> =
            texts(&batch["deveuis"]).iter().map(|deveui| format!("{},{deveui}", short_code(deveui))).collect();
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }
    for accept in ["application/json", "*/*", "text/html"] {
        let reply = client.get_with(&format!("{BATCHES}/{id}"), "accept", accept).await.expect(200);
        assert_eq!(reply.json(), batch, "{accept}");
    }
    let part = client.get_with(&format!("{BATCHES}/{id}/partitions/0"), "accept", "text/csv").await.expect(200);
    assert_eq!(part.text().lines().count(), 41);
}

#[tokio::test]
async fn a_cancelled_batch_keeps_everything_that_was_registered() {
    let faults = lorawan::Config {
        latency: Duration::from_millis(20),
        drop_after_rate: 0.1,
        faulty_attempts: Some(1),
        ..Default::default()
    };
    let world = World::with(faults, Clock::system()).await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(5_000).await;
    let path = format!("{BATCHES}/{id}");
    while world.sim.stats().registered < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cancelling = client.delete(&path).await.expect(202).json();
    assert_eq!((&cancelling["status"], &cancelling["id"]), (&json!("Cancelling"), &json!(id)));
    assert_eq!(fields(&cancelling), FIELDS);
    // Asking again changes nothing, whether it is final by now or not.
    let batch = client.finished(&id).await;
    assert_eq!(batch["status"], "Cancelled");
    assert!((50..5_000).contains(&batch["registered"].as_u64().unwrap()), "{}", batch["registered"]);
    holds_everything(&batch, &world.sim);
    let requests = world.sim.stats().traffic.requests;
    client.delete(&path).await.expect(204);
    assert_eq!(world.sim.stats().traffic.requests, requests);
}

#[tokio::test]
async fn a_batch_that_nobody_works_on_stays_cancelling_however_often_it_is_asked() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = client.create(5).await;
    for _ in 0..3 {
        let batch = client.delete(&format!("{BATCHES}/{id}")).await.expect(202).json();
        assert_eq!(batch["status"], "Cancelling");
    }
    world.work();
    assert_eq!(client.finished(&id).await["status"], "Cancelled");
    assert_eq!(world.sim.stats().traffic.requests, 0);
}

#[tokio::test]
async fn a_deleted_batch_is_gone_but_can_be_read_on_request() {
    let world = World::new().await;
    world.work();
    let client = world.client("acme").await;
    let (id, other) = (client.create(20).await, client.create(1).await);
    let before = client.finished(&id).await;
    client.finished(&other).await;
    let path = format!("{BATCHES}/{id}");
    let code = text(&before["deveuis"][0])[11..].to_owned();
    let mut deleted_at = Value::Null;
    for _ in 0..3 {
        assert!(client.delete(&path).await.expect(204).body.is_empty());
        client.get(&path).await.problem(404, "not-found");
        client.get(&format!("{path}?deleted=false")).await.problem(404, "not-found");
        client.get(&format!("{path}/partitions/0")).await.problem(404, "not-found");
        client.get(&format!("{path}/codes/{code}")).await.problem(404, "not-found");
        assert_eq!(client.listed(BATCHES).await, [other.as_str()]);
        assert_eq!(client.listed(&format!("{BATCHES}?deleted=true")).await, [other.as_str(), id.as_str()]);

        let mut still = client.get(&format!("{path}?deleted=true")).await.expect(200).json();
        let at = still.as_object_mut().unwrap().remove("deleted_at").unwrap();
        assert_eq!(still, before);
        assert!(deleted_at.is_null() || deleted_at == at, "deleted once");
        deleted_at = at;
        let part = client.get(&format!("{path}/partitions/0?deleted=true")).await.expect(200).json();
        assert_eq!(part, json!({"deveuis": before["deveuis"], "recovered": []}));
    }
}

#[tokio::test]
async fn the_old_spelling_works_for_the_collection_and_its_members() {
    let world = World::new().await;
    world.work();
    let client = world.client("acme").await;
    let alias = "/api/v1/batch";
    let created = client.post(alias, &json!({"batch_size": 10})).await.expect(201);
    let id = created.id();
    let location = created.header("location");
    assert_eq!(location, format!("{BATCHES}/{id}"));
    let batch = client.finished(&id).await;
    let code = text(&batch["deveuis"][0])[11..].to_owned();
    for path in ["", &format!("/{id}"), &format!("/{id}/partitions/0"), &format!("/{id}/codes/{code}")] {
        let (old, new) = (client.get(&format!("{alias}{path}")).await, client.get(&format!("{BATCHES}{path}")).await);
        assert_eq!(old.expect(200).json(), new.expect(200).json(), "{path}");
    }
    client.delete(&format!("{alias}/{id}")).await.expect(204);
    client.get(location).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_wait_ends_with_the_first_change() {
    let world =
        World::with(lorawan::Config { latency: Duration::from_millis(300), ..Default::default() }, Clock::system())
            .await;
    let client = world.client("acme").await;
    let path = format!("{BATCHES}/{}", client.create(10).await);
    let begun = std::time::Instant::now();
    let waiting = tokio::spawn({
        let (client, path) = (client.clone(), path.clone());
        async move { client.get_with(&path, "prefer", "respond-async, wait=20").await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "nothing has changed yet");
    world.work();
    let reply = waiting.await.unwrap().expect(200);
    assert_eq!(reply.header("preference-applied"), "wait=20");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(reply.json()["registered"], 10);

    client.finished(&text(&reply.json()["id"])).await;
    let begun = std::time::Instant::now();
    let reply = client.get_with(&path, "prefer", "wait=20").await.expect(200);
    assert!(begun.elapsed() < Duration::from_secs(5), "a final batch is not waited for");
    assert_eq!(reply.json()["status"], "Completed");
    assert_eq!(client.get(&path).await.header("preference-applied"), "", "nobody asked");
}

#[tokio::test]
async fn a_wait_without_a_change_ends_with_its_time() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let path = format!("{BATCHES}/{}", client.create(10).await);
    let begun = std::time::Instant::now();
    let reply = client.get_with(&path, "prefer", "wait=1").await.expect(200);
    assert!((0.9..10.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    assert_eq!((&reply.json()["status"], reply.header("preference-applied")), (&json!("Processing"), "wait=1"));
    // Nonsense is ignored, as RFC 7240 demands.
    let reply = client.get_with(&path, "prefer", "wait=soon").await.expect(200);
    assert_eq!(reply.header("preference-applied"), "");
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let path = format!("{BATCHES}/{}", client.create(10).await);
    let head = client.send(client.request(Method::HEAD, &path).body(Body::empty()).unwrap()).await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length"), client.get(&path).await.expect(200).body.len().to_string());
    let nothing = format!("{BATCHES}/{}", uuid::Uuid::now_v7());
    client.send(client.request(Method::HEAD, &nothing).body(Body::empty()).unwrap()).await.expect(404);
}
