//! What grows with a batch, and what may not: the size of an answer, and the number of writes.

use std::{collections::BTreeSet, time::Duration};

use batches::{
    batch::{Progress, Status},
    deveui::CODES,
    ledger::{CHUNK, CHUNKS_PER_ROUND, Chunk, State, Tally},
    run::Write,
    store::Pending,
    worker::Timing,
};
use http::Method;
use kit::clock::Clock;
use serde_json::{Value, json};
use simulators::lorawan;
use uuid::Uuid;

use crate::common::{BATCHES, Client, OfBatches as _, World, short_code, text, texts};

/// What the ALB takes, with room for its own envelope.
const MOST: usize = 900_000;

/// A completed batch whose candidates were written as the worker writes them: now and then a
/// stranger's, now and then one after a lost answer.
async fn completed(world: &World, client: &Client, tenant: &str, size: u64) -> (String, Tally) {
    let id = client.create(size).await;
    let uuid: Uuid = id.parse().unwrap();
    let (store, mut tally, mut left) = (&world.batches.store, Tally::default(), size);
    for number in 0.. {
        let mut chunk = Chunk::new(number, None);
        for index in chunk.first()..chunk.first() + CHUNK {
            if left == 0 {
                break;
            }
            let state = match index % 1000 {
                7 | 30..50 => State::Conflict,
                500 => State::Kept,
                _ => State::Registered,
            };
            chunk.set(index, state);
            left -= u64::from(state.counts());
        }
        tally += chunk.tally();
        store.put_chunk(uuid, &Write { chunk, version: 0 }, Uuid::now_v7()).await.unwrap();
        if left == 0 {
            break;
        }
    }
    let pending = Pending { tenant: tenant.to_owned(), id: uuid, cancelling: false };
    let step = (Status::Processing, Status::Completed);
    let progress = Progress::new(tally, tally.recovered);
    let now = world.batches.clock.now();
    assert!(store.finish(&pending, &world.provider.name(), step, progress, None, now).await.unwrap());
    (id, tally)
}

#[tokio::test]
async fn a_batch_of_200_000_is_answered_by_partitions_that_fit_the_wire() {
    const SIZE: u64 = 200_000;
    let world = World::new().await;
    let client = world.client("acme").await;
    let (id, tally) = completed(&world, &client, "acme", SIZE).await;
    let path = format!("{BATCHES}/{id}");
    let reply = client.get(&path).await.expect(200);
    assert!(reply.body.len() < MOST, "{} bytes", reply.body.len());
    let batch = reply.json();
    assert!(batch.get("deveuis").is_none() && batch.get("recovered").is_none(), "not inline");
    assert_eq!((&batch["registered"], &batch["status"]), (&json!(SIZE), &json!("Completed")));
    assert_eq!((&batch["conflicts"], &batch["recovered_count"]), (&json!(tally.conflicts), &json!(tally.recovered)));

    let (mut deveuis, mut recovered, mut csv) = (Vec::new(), Vec::new(), String::new());
    for part in batch["partitions"].as_array().unwrap() {
        assert_eq!(part["first"], deveuis.len());
        let href = text(&part["href"]);
        let reply = client.get(&href).await.expect(200);
        assert!(reply.body.len() < MOST, "{href} has {} bytes", reply.body.len());
        let body = reply.json();
        assert_eq!(part["count"], body["deveuis"].as_array().unwrap().len());
        deveuis.extend(texts(&body["deveuis"]));
        recovered.extend(texts(&body["recovered"]));

        let lines = client.get_with(&href, "accept", "text/csv").await.expect(200);
        assert!(lines.body.len() < MOST);
        csv.push_str(lines.text().strip_prefix("short_code,deveui\r\n").unwrap());
    }
    assert_eq!(deveuis.len() as u64, SIZE);
    assert_eq!(recovered.len() as u64, tally.recovered);
    assert_eq!(deveuis.iter().collect::<BTreeSet<_>>().len() as u64, SIZE);
    assert_eq!(deveuis.iter().map(|deveui| short_code(deveui)).collect::<BTreeSet<_>>().len() as u64, SIZE);
    let lines: Vec<_> = deveuis.iter().map(|deveui| format!("{},{deveui}", short_code(deveui))).collect();
    assert!(csv.split_terminator("\r\n").eq(lines.iter().map(String::as_str)));

    let whole = client.get_with(&path, "accept", "text/csv").await.problem(406, "too-long");
    assert!(text(&whole["detail"]).contains("partitions"));
    let found = client.get(&format!("{path}/codes/{}", short_code(&deveuis[123_456]))).await.expect(200).json();
    assert_eq!(found["deveui"], deveuis[123_456]);
    let last = batch["partitions"].as_array().unwrap().len();
    for nothing in [last.to_string(), "999999999".into(), u64::MAX.to_string(), "-1".into(), "x".into()] {
        client.get(&format!("{path}/partitions/{nothing}")).await.problem(404, "not-found");
    }
    assert_eq!(client.get(BATCHES).await.expect(200).json()["items"][0]["registered"], SIZE);
    client.delete(&path).await.expect(204);
    client.get(&path).await.problem(404, "not-found");
}

#[tokio::test]
async fn ten_thousand_are_inline_and_one_more_is_not() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let (id, _) = completed(&world, &client, "acme", 10_000).await;
    let reply = client.get(&format!("{BATCHES}/{id}")).await.expect(200);
    assert!(reply.body.len() < MOST, "{} bytes", reply.body.len());
    assert_eq!(texts(&reply.json()["deveuis"]).len(), 10_000);
    assert!(reply.json().get("partitions").is_none());
    let csv = client.get_with(&format!("{BATCHES}/{id}"), "accept", "text/csv").await.expect(200);
    assert_eq!(csv.text().lines().count(), 10_001);
    assert!(csv.body.len() < MOST);
    let (id, _) = completed(&world, &client, "acme", 10_001).await;
    let batch = client.get(&format!("{BATCHES}/{id}")).await.expect(200).json();
    assert!(batch.get("deveuis").is_none());
    let counts = batch["partitions"].as_array().unwrap().iter().map(|part| part["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 10_001);
}

/// When all short codes have been tried, those that were a stranger's are candidates again below
/// other upper digits.
#[tokio::test]
async fn a_short_code_of_a_later_round_leads_to_its_deveui_too() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = client.create(1).await;
    let uuid: Uuid = id.parse().unwrap();
    let mut first = Chunk::new(0, None);
    for index in [5, 6] {
        first.set(index, State::Conflict);
    }
    let mut later = Chunk::new(CHUNKS_PER_ROUND, Some(&first));
    later.set(CODES + 5, State::Registered);
    later.set(CODES + 6, State::Conflict);
    for chunk in [first, later] {
        world.batches.store.put_chunk(uuid, &Write { chunk, version: 0 }, uuid).await.unwrap();
    }
    let candidates = world.batches.store.get("acme", uuid).await.unwrap().unwrap().candidates();
    let deveui = candidates.deveui(CODES + 5);
    let code = |index| format!("{BATCHES}/{id}/codes/{}", candidates.deveui(index).short_code());
    assert_eq!(client.get(&code(5)).await.expect(200).json()["deveui"], deveui.to_string());
    client.get(&code(6)).await.problem(404, "not-found");
    assert_eq!(texts(&client.get(&format!("{BATCHES}/{id}")).await.json()["deveuis"]), [deveui.to_string()]);
}

/// A page of a list holds no DevEUIs, so even the longest page of the longest labels fits.
#[tokio::test]
async fn the_longest_page_of_a_list_fits_the_wire() {
    let world = World::new().await;
    let client = world.client("acme").await;
    // Each of them six bytes in an ALB's JSON at worst, and four in ours.
    let label = "\u{1F9E8}".repeat(200);
    for _ in 0..500 {
        client.post(BATCHES, &json!({"label": label, "prefix": "ABCDEF01234"})).await.expect(201);
    }
    let page = client.get(&format!("{BATCHES}?limit=500")).await.expect(200);
    assert_eq!(page.json()["items"].as_array().unwrap().len(), 500);
    assert!(page.body.len() < MOST, "{} bytes", page.body.len());
}

#[tokio::test]
async fn a_batch_of_1000_costs_at_most_150_writes() {
    let faults = lorawan::Config { latency: Duration::from_millis(5), ..Default::default() };
    let world = World::with(faults, Clock::system()).await;
    let client = world.client("acme").await;
    // As deployed, and not as `work` has it.
    world.work_with(Timing::new(&world.provider));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = world.embedded.counts();
    let request = client.request(Method::POST, BATCHES).header("idempotency-key", "k");
    let request = request.header("content-type", "application/json").body(r#"{"batch_size":1000}"#.into()).unwrap();
    let id = client.send(request).await.expect(201).id();
    let batch: Value = client.finished(&id).await;
    assert_eq!(batch["registered"], 1000);
    assert_eq!(world.sim.stats().traffic.requests, 1000);
    // The lease is given back, and with it the last write is done, a moment after the end.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let cost = world.embedded.counts().since(&before);
    println!("1,000 DevEUIs: {} items written, {} read, {:?}", cost.writes, cost.reads, cost.calls);
    assert!(cost.writes <= 150, "{} items written: {:?}", cost.writes, cost.calls);
}
