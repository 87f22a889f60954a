//! The capability `batches`: both functions on one set of tables, each with its own record.

use std::{collections::HashMap, sync::Arc, time::Duration};

use batches::{
    Batches,
    provider::Provider,
    store::BatchStore,
    worker::{Ended, Timing, Worker},
};
use http::Method;
use jiff::Timestamp;
use kit::{
    clock::Clock,
    dynamo::{AttributeValue, Store, embedded::Used},
    upstream::Upstream,
};
use serde_json::json;
use simulators::lorawan;
use tokio_util::sync::CancellationToken;

use super::{Function, PATIENCE, PREFIX, assert_exactly_what_is_allowed, tables};

const COLLECTION: &str = "/api/v1/batches";
const ALIAS: &str = "/api/v1/batch";

/// Both functions on one set of tables.
struct Stack {
    sim: lorawan::Simulator,
    provider: Provider,
    operator: Store,
    clock: Clock,
    http: Function,
    http_used: Used,
    /// Batches of this one fail at once.
    impatient: Function,
    worker: Worker,
    worker_used: Used,
}

impl Stack {
    async fn new() -> Self {
        let sim = lorawan::start(lorawan::Config { conflict_rate: 0.05, ..Default::default() }).await.unwrap();
        let upstream = Upstream::new(batches::config::URL, sim.url()).unwrap();
        let provider = Provider::new(upstream, Duration::from_millis(400));
        let (embedded, operator) = tables().await;
        let clock = Clock::manual(Timestamp::now());

        // As the functions' mains do.
        let (store, http_used) = embedded.store_with_record(PREFIX);
        store.warm(&batches::TABLE).await;
        let routes = |max_age: Duration| {
            vec![batches::routes(Batches {
                store: BatchStore::new(store.clone()),
                provider: Some(provider.name()),
                clock: clock.clone(),
                wake: Arc::default(),
                max_age,
            })]
        };
        let http = Function::new(routes(Duration::from_hours(24)), &store, &operator).await;
        let impatient = Function::new(routes(Duration::ZERO), &store, &operator).await;

        let (store, worker_used) = embedded.store_with_record(PREFIX);
        store.warm(&batches::TABLE).await;
        let timing = Timing {
            retry_base: Duration::from_millis(5),
            retry_most: Duration::from_millis(50),
            refresh: Duration::from_millis(50),
            report: Duration::from_millis(20),
            ..Timing::new(&provider)
        };
        let worker = Worker::new(BatchStore::new(store), provider.clone(), Clock::system(), timing, Arc::default());
        Self { sim, provider, operator, clock, http, http_used, impatient, worker, worker_used }
    }

    async fn create(&self, size: u64) -> String {
        self.http.post(COLLECTION, json!({ "batch_size": size }), None).await.expect(201).id()
    }

    async fn status(&self, id: &str) -> String {
        self.http.get(&format!("{COLLECTION}/{{id}}"), &[id], "").await.expect(200).json()["status"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Lets the worker go on until nothing is pending.
    async fn work(&self) {
        self.sim.change(|faults| faults.latency = Duration::ZERO);
        let work = async {
            loop {
                match self.worker.work(&CancellationToken::new()).await.unwrap() {
                    Ended::Idle => return,
                    Ended::Held(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Ended::Stopped => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, work).await.expect("the worker comes to an end");
    }

    /// Starts the worker and waits until the provider has registered `mark` more.
    async fn work_until(&self, mark: u64, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let (worker, stop) = (self.worker.clone(), stop.clone());
        let before = self.sim.stats().registered;
        // So slow that it is not over when this has been seen.
        self.sim.change(|faults| faults.latency = Duration::from_millis(20));
        let task = tokio::spawn(async move { _ = worker.work(&stop).await.unwrap() });
        let registered = async {
            while self.sim.stats().registered < before + mark {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, registered).await.expect("the worker works");
        task
    }
}

#[tokio::test]
async fn the_functions_of_batches_need_exactly_what_they_are_allowed() {
    let stack = Stack::new().await;
    worker_does_everything(&stack).await;
    http_does_everything(&stack).await;
    stack.http.assert_all_routes_were_called("batches");
    assert_exactly_what_is_allowed("batches", &stack.http_used);
    assert_exactly_what_is_allowed("batches-worker", &stack.worker_used);
}

async fn worker_does_everything(stack: &Stack) {
    // A tick without work.
    stack.work().await;

    // A batch with conflicts and lost answers, longer than one chunk of candidates.
    stack.sim.change(|faults| (faults.drop_after_rate, faults.faulty_attempts) = (0.01, Some(1)));
    let long = stack.create(4_200).await;
    stack.work().await;
    assert_eq!(stack.status(&long).await, "Completed");
    assert!(stack.sim.stats().conflicts > 0 && stack.sim.stats().answers_lost > 0);

    // A crash: the next worker waits for the lease, and settles what was open.
    stack.sim.change(|faults| faults.drop_after_rate = 0.0);
    let crashed = stack.create(1_000).await;
    stack.work_until(20, &CancellationToken::new()).await.abort();
    stack.work().await;
    assert_eq!(stack.status(&crashed).await, "Completed");

    // The end of an invocation: the lease is given back, and the next goes on at once.
    let stopped = stack.create(1_000).await;
    let stop = CancellationToken::new();
    let task = stack.work_until(20, &stop).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(stack.status(&stopped).await, "Processing");
    stack.work().await;
    assert_eq!(stack.status(&stopped).await, "Completed");

    // A cancellation before the work, and one in its middle.
    let early = stack.create(5).await;
    stack.http.delete(&format!("{COLLECTION}/{{id}}"), &early).await.expect(202);
    stack.work().await;
    assert_eq!(stack.status(&early).await, "Cancelled");
    let cancelled = stack.create(1_000).await;
    let task = stack.work_until(20, &CancellationToken::new()).await;
    stack.http.delete(&format!("{COLLECTION}/{{id}}"), &cancelled).await.expect(202);
    task.await.unwrap();
    assert_eq!(stack.status(&cancelled).await, "Cancelled");

    // A batch that is too old.
    stack.sim.change(|faults| faults.down = simulators::faults::Down::Status503);
    let failed = stack.impatient.post(COLLECTION, json!({}), None).await.expect(201).id();
    stack.work().await;
    assert_eq!(stack.status(&failed).await, "Failed");
    stack.sim.change(|faults| faults.down = simulators::faults::Down::No);

    // A place in the worker's list whose batch is gone.
    let text = |text: String| AttributeValue::S(text);
    let place = HashMap::from([
        ("pk".to_owned(), text(format!("PENDING#{}", stack.provider.name()))),
        ("sk".to_owned(), text("acme#0198c6d2-6f7e-7a7e-8000-000000000000".to_owned())),
    ]);
    let put = stack.operator.client().put_item().table_name(stack.operator.table(&batches::TABLE));
    put.set_item(Some(place)).send().await.unwrap();
    stack.work().await;
}

async fn http_does_everything(stack: &Stack) {
    let Stack { http, clock, .. } = stack;
    http.is_called_by_strangers(COLLECTION).await;
    for collection in [COLLECTION, ALIAS] {
        let one = format!("{collection}/{{id}}");

        // Creation: refused, done, done again, for another payload, by many at once, after a day.
        http.post(collection, json!({"batch_size": 0}), None).await.expect(422);
        let id = http.post(collection, json!({"batch_size": 30}), None).await.expect(201).id();
        let key = format!("key of {collection}").replace([' ', '/'], "-");
        let first = http.post(collection, json!({"batch_size": 3}), Some(&key)).await.expect(201).id();
        assert_eq!(http.post(collection, json!({"batch_size": 3}), Some(&key)).await.expect(201).id(), first);
        http.post(collection, json!({"batch_size": 4}), Some(&key)).await.expect(422);
        let race = format!("{key}-race");
        let racing = (0..5).map(|_| async { http.post(collection, json!({"batch_size": 3}), Some(&race)).await });
        let all = futures::future::join_all(racing).await;
        assert!(all.iter().all(|reply| matches!(reply.status, 201 | 409)));
        clock.advance(Duration::from_hours(25));
        assert_ne!(http.post(collection, json!({"batch_size": 3}), Some(&key)).await.expect(201).id(), first);

        // Of a batch in work, with and without waiting for news.
        http.get(&one, &[&id], "").await.expect(200);
        http.call(Method::GET, &one, &[&id], "", &[("prefer", "wait=1")], None).await.expect(200);
        stack.work().await;

        // Of a batch that is complete.
        let batch = http.get(&one, &[&id], "").await.expect(200).json();
        assert_eq!(batch["registered"], 30);
        http.call(Method::GET, &one, &[&id], "", &[("accept", "text/csv")], None).await.expect(200);
        http.get(&one, &["0198c6d2-6f7e-7a7e-8000-000000000000"], "").await.expect(404);
        let partition = format!("{one}/partitions/{{n}}");
        http.get(&partition, &[&id, "0"], "").await.expect(200);
        http.get(&partition, &[&id, "9"], "").await.expect(404);
        let code = format!("{one}/codes/{{short_code}}");
        let deveui = batch["deveuis"][0].as_str().unwrap();
        assert_eq!(http.get(&code, &[&id, &deveui[11..]], "").await.expect(200).json()["deveui"], deveui);
        http.get(&code, &[&first, "00000"], "").await;

        // Lists.
        http.get(collection, &[], "").await.expect(200);
        http.get(collection, &[], "?status=Completed&deleted=true").await.expect(200);
        let page = http.get(collection, &[], "?limit=1").await.expect(200);
        let next = page.link.as_deref().and_then(|link| link.split(['?', '>']).nth(1)).unwrap();
        http.get(collection, &[], &format!("?{next}")).await.expect(200);

        // Deletion, also again, and cancellation, also again.
        http.delete(&one, &id).await.expect(204);
        http.delete(&one, &id).await.expect(204);
        http.get(&one, &[&id], "").await.expect(404);
        http.get(&one, &[&id], "?deleted=true").await.expect(200);
        let id = http.post(collection, json!({}), None).await.expect(201).id();
        http.delete(&one, &id).await.expect(202);
        http.delete(&one, &id).await.expect(202);
        stack.work().await;
        http.delete(&one, &id).await.expect(204);
    }
}
