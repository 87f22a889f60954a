//! Two servers on one store: together they are as careful with the provider as one alone, and one
//! goes on where the other was killed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use batches::TABLE as BATCHES;
use jiff::Timestamp;
use kit::{
    access::{KeyStore, NewKey, TABLE as ACCESS},
    dynamo::embedded::Embedded,
};
use serde_json::Value;
use simulators::lorawan::{self, Config, Simulator};
use system_tests::processes::{Machine, Server, assert_nothing_wasted, texts, until};
use tokio::{net::TcpListener, task::JoinSet};

const PREFIX: &str = "fleet-";
/// A request's timeout. While it is believed to occupy the provider, nobody else may send.
const TIMEOUT: Duration = Duration::from_secs(1);
const OCCUPIES: Duration = Duration::from_millis(1500);

/// A store that servers reach by HTTP, as they reach DynamoDB.
struct Store {
    url: String,
    key: String,
    _embedded: Embedded,
    _serving: JoinSet<()>,
}

impl Store {
    async fn start() -> Self {
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store(PREFIX);
        store.create_tables(&[&ACCESS, &BATCHES]).await.unwrap();
        let new = NewKey {
            tenant: "acme".to_owned(),
            scopes: vec!["batches:read".to_owned(), "batches:write".to_owned()],
            label: None,
            expires_in_seconds: None,
        };
        let (_, key) = KeyStore::new(store).create(new, Timestamp::now()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        let served = embedded.clone();
        serving.spawn(async move { served.serve(listener, std::future::pending()).await.unwrap() });
        Self { url, key, _embedded: embedded, _serving: serving }
    }

    fn machine(&self, sim: &Simulator) -> Machine {
        Machine::with_provider(sim, TIMEOUT)
            .with("AWS_ENDPOINT_URL_DYNAMODB", &self.url)
            .with("AWS_REGION", "eu-central-1")
            .with("AWS_ACCESS_KEY_ID", "test")
            .with("AWS_SECRET_ACCESS_KEY", "test")
            .with("AWS_EC2_METADATA_DISABLED", "true")
            .with("MUSTER_TABLE_PREFIX", PREFIX)
    }

    async fn serve(&self, machine: &Machine) -> Server {
        let mut running = machine.start(&["serve", "--listen", "127.0.0.1:0", "--store", "dynamodb"]);
        let url = running.first_line().await;
        Server::new(running, url, self.key.clone())
    }
}

/// Two servers and what they work with. The first has the lease; the second has seen that.
struct World {
    sim: Simulator,
    first: Server,
    second: Server,
    /// A batch that is being worked on.
    id: String,
    _machines: [Machine; 2],
    _store: Store,
}

impl World {
    async fn new(size: u64) -> Self {
        let sim = provider().await;
        let store = Store::start().await;
        let machines = [store.machine(&sim), store.machine(&sim)];
        let first = store.serve(&machines[0]).await;
        let id = first.create(size).await;
        until("the first request", Duration::from_secs(20), || requests_of(&sim)).await;
        let second = store.serve(&machines[1]).await;
        until("the second to wait", Duration::from_secs(20), || {
            second.running.stderr().contains("waiting for another worker's lease").then_some(())
        })
        .await;
        Self { sim, first, second, id, _machines: machines, _store: store }
    }

    fn requests(&self) -> u64 {
        self.sim.stats().traffic.requests
    }
}

async fn provider() -> Simulator {
    let latency = Duration::from_millis(50);
    lorawan::start(Config { latency, conflict_rate: 0.01, ..Config::default() }).await.unwrap()
}

fn requests_of(sim: &Simulator) -> Option<u64> {
    Some(sim.stats().traffic.requests).filter(|requests| *requests > 0)
}

fn is_free_of_losses(batches: &[Value], sim: &Simulator) {
    assert!(batches.iter().all(|batch| texts(&batch["recovered"]).is_empty()), "{batches:?}");
    assert_eq!(sim.stats().asked_again, 0, "nothing had to be asked for twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_both_servers_are_completed_with_ten_in_flight_together() {
    let World { sim, first, second, id, _machines, _store } = World::new(100).await;
    let mut ids = vec![id];
    for size in [40, 60, 80] {
        ids.push(first.create(size).await);
        ids.push(second.create(size).await);
    }
    let mut ends = Vec::new();
    for (turn, id) in ids.iter().enumerate() {
        // Whoever worked on it, both know.
        let (here, there) = if turn % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let batch = here.finished(id).await;
        assert_eq!(there.batch(id).await, batch);
        ends.push(batch);
    }
    assert_nothing_wasted(&ends, &sim);
    is_free_of_losses(&ends, &sim);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_server_finishes_what_a_killed_one_had_begun_once_the_lease_has_run_out() {
    let mut world = World::new(300).await;
    let other = world.second.create(50).await;
    until("some DevEUIs", Duration::from_secs(20), || (world.sim.registered().len() > 60).then_some(())).await;
    world.first.running.kill().await;
    let killed = Instant::now();
    // What was on the wire arrives.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = world.requests();
    until("the other to go on", Duration::from_secs(20), || (world.requests() > before).then_some(())).await;
    let pause = killed.elapsed();
    println!("the other went on after {pause:?}");
    assert!(pause >= OCCUPIES, "a request of the killed one could still have been in flight");
    assert!(pause < Duration::from_secs(10), "the lease is over by then");
    let ends = [world.second.finished(&world.id).await, world.second.finished(&other).await];
    assert_nothing_wasted(&ends, &world.sim);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_was_only_waiting_is_not_missed() {
    let mut world = World::new(200).await;
    let other = world.second.create(50).await;
    world.second.running.kill().await;
    let ends = [world.first.finished(&world.id).await, world.first.finished(&other).await];
    assert_nothing_wasted(&ends, &world.sim);
    is_free_of_losses(&ends, &world.sim);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_in_good_order_leaves_its_lease_to_the_other_at_once() {
    let world = World::new(200).await;
    until("some DevEUIs", Duration::from_secs(20), || (world.sim.registered().len() > 40).then_some(())).await;
    world.first.running.signal("TERM").await;
    let _ended = world.first.running.ended().await.exits(0);
    let ends = [world.second.finished(&world.id).await];
    assert_nothing_wasted(&ends, &world.sim);
    is_free_of_losses(&ends, &world.sim);
}
