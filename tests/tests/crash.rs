//! Real processes, killed and interrupted in the middle of their work: nothing that the provider
//! registered is ever lost, wasted or hidden, and nothing is scaled twice.
//!
//! The moments are random. Their seed is printed, and `MUSTER_SEED` repeats it as far as a machine's
//! timing can be repeated; `MUSTER_KILLS` says how often the server is killed (50 unless set).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use batches::store::BatchStore;
use kit::dynamo::{DEFAULT_PREFIX, embedded::Embedded};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use simulators::{
    deployments::{self, Load, Spec},
    lorawan::{self, Config, Simulator},
};
use system_tests::processes::{Machine, Running, SERVE, assert_nothing_wasted, texts, until};

/// What one request takes at the provider.
const LATENCY: Duration = Duration::from_millis(30);
/// The provider's places.
const PLACES: u32 = 10;
/// Much longer than [`LATENCY`], and short because a killed worker's lease outlasts it.
const TIMEOUT: Duration = Duration::from_millis(300);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Random moments of a batch of `size`, spread over all of its work.
struct Moments<'a> {
    rng: StdRng,
    sim: &'a Simulator,
    size: u32,
    /// Kills that came while something was in flight.
    in_the_middle: u32,
}

impl<'a> Moments<'a> {
    fn new(sim: &'a Simulator, size: u32) -> Self {
        let seed = number("MUSTER_SEED", rand::random::<u32>().into());
        println!("MUSTER_SEED={seed}");
        Self { rng: StdRng::seed_from_u64(seed), sim, size, in_the_middle: 0 }
    }

    /// Kills the process at a moment such that `left` more kills still fall within the batch: mostly
    /// after it has begun to send, sometimes while it starts.
    async fn kill(&mut self, mut running: Running, left: u32) {
        if self.rng.random_ratio(1, 10) {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..100))).await;
        } else {
            let before = self.requests();
            until("the first request", Duration::from_secs(20), || (self.requests() > before).then_some(())).await;
            let missing = self.size.saturating_sub(u32::try_from(self.sim.registered().len()).unwrap());
            // At most two thirds of what is missing, even before the last kill.
            let share = LATENCY * missing / PLACES / (left + 3);
            tokio::time::sleep((LATENCY + share * 2).mul_f64(self.rng.random())).await;
        }
        self.in_the_middle += u32::from(self.sim.stats().traffic.in_flight > 0);
        running.kill().await;
    }

    fn requests(&self) -> u64 {
        self.sim.stats().traffic.requests
    }
}

async fn provider(conflict_rate: f64, latency: Duration) -> Simulator {
    lorawan::start(Config { latency, conflict_rate, ..Config::default() }).await.unwrap()
}

/// Everything that an answer holds, in whichever list.
fn everything(batch: &Value) -> BTreeSet<String> {
    [&batch["deveuis"], &batch["recovered"]].into_iter().flat_map(texts).collect()
}

fn tell(batch: &Value, sim: &Simulator, began: Instant) {
    println!(
        "{} of {}, {} recovered, {:?}; {:?}",
        batch["registered"],
        batch["batch_size"],
        batch["recovered_count"],
        began.elapsed(),
        sim.stats()
    );
}

/// How many candidates of a batch may or may not have been asked for, as the state folder of a killed
/// server has it. Each costs doubt about what is found taken, so kills must not pile them up.
async fn open_candidates(machine: &Machine, id: &str) -> u64 {
    let engine = Embedded::open(&machine.state()).unwrap();
    let chunks = BatchStore::new(engine.store(DEFAULT_PREFIX)).chunks(id.parse().unwrap()).await.unwrap();
    chunks.iter().map(|stored| stored.chunk.tally().open).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_random_moments_of_a_batch_wastes_and_forgets_nothing() {
    const SIZE: u32 = 500;
    let began = Instant::now();
    let sim = provider(0.01, LATENCY).await;
    let machine = Machine::with_provider(&sim, TIMEOUT);
    let kills = u32::try_from(number("MUSTER_KILLS", 50)).unwrap();
    let mut moments = Moments::new(&sim, SIZE);

    let server = machine.serve().await;
    let id = server.create(SIZE.into()).await;
    let mut running = server.running;
    for kill in 1..=kills {
        moments.kill(running, kills - kill).await;
        let open = open_candidates(&machine, &id).await;
        assert!(open <= 160, "{open} candidates are in doubt after {kill} kills");
        running = machine.start(&SERVE);
    }
    let server = machine.served(running).await;
    assert_eq!(server.batch(&id).await["status"], "Processing", "not every kill fell within the batch");
    let batch = server.finished(&id).await;
    tell(&batch, &sim, began);
    println!("{} of {kills} kills with requests in flight", moments.in_the_middle);
    assert!(moments.in_the_middle * 2 >= kills, "only {} kills with requests in flight", moments.in_the_middle);
    assert_nothing_wasted(&[batch], &sim);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_killed_and_run_again_with_its_key_ends_with_one_whole_batch() {
    const SIZE: u32 = 200;
    let began = Instant::now();
    let sim = provider(0.01, LATENCY).await;
    let machine = Machine::with_provider(&sim, TIMEOUT);
    let create = ["batch", "create", "--size", "200", "--key", "order-4711", "-o", "json"];
    let mut moments = Moments::new(&sim, SIZE);
    for left in (0..12).rev() {
        moments.kill(machine.start(&create), left).await;
    }
    let batch = machine.run(&create).await.exits(0).json();
    tell(&batch, &sim, began);
    assert!(moments.in_the_middle >= 6, "only {} kills with requests in flight", moments.in_the_middle);
    assert_nothing_wasted(std::slice::from_ref(&batch), &sim);

    let list = machine.run(&["batch", "list", "-o", "json"]).await.exits(0).json();
    let ids: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, [&batch["id"]], "one key, one batch");
    let requests = moments.requests();
    let again = machine.run(&create).await.exits(0).json();
    assert_eq!((&again["id"], &again["deveuis"]), (&batch["id"], &batch["deveuis"]), "and the same ever after");
    assert_eq!(moments.requests(), requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_finishes_what_is_in_flight_prints_everything_and_show_goes_on() {
    let sim = provider(0.01, Duration::from_millis(100)).await;
    let machine = Machine::with_provider(&sim, Duration::from_secs(2));
    let running = machine.start(&["batch", "create", "--size", "150", "-o", "json"]);
    until("some DevEUIs", Duration::from_secs(20), || (sim.registered().len() > 30).then_some(())).await;
    until("requests in flight", Duration::from_secs(5), || (sim.stats().traffic.in_flight > 5).then_some(())).await;
    running.signal("INT").await;
    let ran = running.ended().await.exits(130);

    let printed = ran.json();
    assert_eq!(printed["status"], "Processing");
    assert_eq!(everything(&printed), sim.registered(), "what is printed is what is registered");
    assert!(printed["registered"].as_u64().unwrap() < 150);
    let stats = sim.stats();
    assert_eq!((stats.traffic.in_flight, stats.traffic.abandoned), (0, 0), "nobody hung up on the provider");
    let id = printed["id"].as_str().unwrap();
    assert!(ran.stderr.contains(&format!("muster batch show {id}")), "it says how to go on: {}", ran.stderr);

    let began = Instant::now();
    let batch = machine.run(&["batch", "show", id, "-o", "json"]).await.exits(0).json();
    assert!(began.elapsed() < Duration::from_secs(4), "the lease was given back");
    assert_eq!(batch["recovered_count"], 0);
    assert_eq!(sim.stats().asked_again, 0, "nothing had to be asked for twice");
    assert_nothing_wasted(&[batch], &sim);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_ctrl_c_ends_at_once_and_nothing_is_lost_either() {
    let sim = provider(0.0, Duration::from_millis(600)).await;
    let machine = Machine::with_provider(&sim, Duration::from_secs(1));
    let create = ["batch", "create", "--size", "40", "--key", "order-4712", "-o", "json"];
    let running = machine.start(&create);
    until("the second wave", Duration::from_secs(20), || {
        (sim.registered().len() >= 10 && sim.stats().traffic.in_flight > 5).then_some(())
    })
    .await;
    running.signal("INT").await;
    until("its answer", Duration::from_secs(5), || running.stderr().contains("Ctrl-C again").then_some(())).await;
    running.signal("INT").await;
    let ran = running.ended().await.exits(130);
    assert!(sim.stats().traffic.in_flight > 0, "it did not wait for the provider");
    assert_eq!(ran.stdout, "", "nor print anything");

    let batch = machine.run(&create).await.exits(0).json();
    assert_nothing_wasted(&[batch], &sim);
    assert_eq!(sim.registered().len(), 40, "without strangers, nothing is ever registered beyond the size");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_server_in_good_order_and_its_next_start_has_nothing_to_recover() {
    let sim = provider(0.01, LATENCY).await;
    let machine = Machine::with_provider(&sim, Duration::from_secs(2));
    let mut server = machine.serve().await;
    let id = server.create(300).await;
    for stop in 1..=3 {
        until("some more DevEUIs", Duration::from_secs(20), || (sim.registered().len() > stop * 60).then_some(()))
            .await;
        server.running.signal("TERM").await;
        let began = Instant::now();
        let ran = server.running.ended().await.exits(0);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(!ran.stderr.contains("cut off"), "{}", ran.stderr);
        assert_eq!(sim.stats().traffic.in_flight, 0);
        assert!(!machine.state().join("server").exists(), "it is not announced any more");
        server = machine.serve().await;
        let batch = server.batch(&id).await;
        assert_eq!(batch["status"], "Processing", "the signal came within the batch");
    }
    let batch = server.finished(&id).await;
    assert_eq!(texts(&batch["recovered"]), [""; 0]);
    assert_eq!(sim.stats().asked_again, 0, "nothing had to be asked for twice");
    assert_eq!(everything(&batch), sim.registered());
    assert_nothing_wasted(&[batch], &sim);
}

#[tokio::test]
#[should_panic(expected = "registered and in no answer")]
async fn the_equation_notices_a_device_that_no_batch_answers_for() {
    let sim = provider(0.0, LATENCY).await;
    let machine = Machine::with_provider(&sim, Duration::from_secs(2));
    let batch = machine.run(&["batch", "create", "--size", "20", "-o", "json"]).await.exits(0).json();
    let other = Machine::with_provider(&sim, Duration::from_secs(2));
    let _unknown = other.run(&["batch", "create", "--size", "1"]).await.exits(0);
    assert_nothing_wasted(&[batch], &sim);
}

/// Half a minute, as the autoscaler counts them.
const SLOT: Duration = Duration::from_secs(30);

/// Waits until the next slot begins.
async fn next_slot() {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    let slot = u64::try_from(SLOT.as_millis()).unwrap();
    tokio::time::sleep(Duration::from_millis(slot - now % slot + 50)).await;
}

#[tokio::test]
async fn a_killed_autoscaler_is_followed_by_one_that_sends_nothing_again() {
    // Ten hosts where eleven are needed, and an API slow enough to be killed in between.
    let fleet = vec![Spec {
        id: "eu-1".to_owned(),
        servers_per_host: 10,
        target_free_pct: "15".parse().unwrap(),
        hosts: 10,
        load: Load::Steady { busy: 90 },
    }];
    let latency = Duration::from_millis(400);
    let api = deployments::Config { fleet: Some(fleet), latency, ..deployments::Config::default() };
    let sim = deployments::start(api).await.unwrap();
    let machine = Machine::new().with("MUSTER_DEPLOYMENTS_URL", sim.url());
    let patience = Duration::from_secs(20);
    let once = ["autoscaler", "run", "--once"];

    // Killed while the deployment is being read: nothing has been decided.
    next_slot().await;
    let mut running = machine.start(&once);
    until("a reading", patience, || (sim.stats().statuses > 0).then_some(())).await;
    running.kill().await;
    assert!(sim.scales().is_empty());

    // Killed when the request is there and its answer is not.
    next_slot().await;
    let mut running = machine.start(&once);
    until("a request to scale", patience, || (!sim.scales().is_empty()).then_some(())).await;
    running.kill().await;

    // The next one finds what was intended, and that it was done.
    next_slot().await;
    assert!(machine.run(&once).await.exits(0).stdout.contains("eu-1"));
    let scales = sim.scales();
    assert_eq!(scales.iter().map(|it| it.delta).collect::<Vec<_>>(), [1], "{scales:?}");
    assert_eq!(sim.deployment("eu-1").unwrap().status.current_hosts, 11);
    let decisions = machine.run(&["deployments", "decisions", "eu-1", "-o", "json"]).await.exits(0).json();
    let sent: Vec<_> = texts_of(&decisions, "outcome");
    assert_eq!(sent, ["applied"], "{decisions}");
}

/// What the items of a list say under a name, where they say anything.
fn texts_of(list: &Value, name: &str) -> Vec<String> {
    let items = list.get("items").unwrap_or(list).as_array().unwrap();
    items.iter().filter_map(|item| item[name].as_str()).map(str::to_owned).collect()
}
