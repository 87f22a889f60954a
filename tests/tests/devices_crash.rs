//! Real processes, killed in the middle of launching machines and of taking them down: nothing is left
//! at the vendor that no record knows, and nothing is launched twice. And two servers that work on one
//! store at the same time, one of them killed every so often: the same. And commands that work without
//! a server (`commands`).
//!
//! A worker's lease only spares requests, so all of this must hold without it: it is taken away from the
//! two, which lets them work together. One that owns its state folder has none.
//!
//! The moments are random. Their seed is printed, and `MUSTER_SEED` repeats it as far as a machine's
//! timing can be repeated; `MUSTER_KILLS` says how often a server is killed (50 unless set, and half as
//! often where there are two servers).

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "devices_crash/commands.rs"]
mod commands;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::types::AttributeValue;
use devices::config;
use jiff::Timestamp;
use kit::{
    access::{KeyStore, NewKey, TABLE as ACCESS},
    dynamo::{Store, embedded::Embedded},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};
use reqwest::Method;
use serde_json::{Value, json};
use simulators::packet::{self, Config, Device, PROJECT, Request, Simulator, TOKEN};
use system_tests::processes::{Machine, Running, SERVE, Server};
use tokio::{net::TcpListener, task::JoinSet};

/// What one request takes at the vendor.
const LATENCY: Duration = Duration::from_millis(60);
/// A request's timeout, in seconds. For ten more nobody asks again for what a killed one asked for.
const TIMEOUT: &str = "1";
/// What is asked for anew while a server lives.
const ORDERS: usize = 3;
/// A device that the vendor has made twice is seen when the claim of a killed server has ended (11 s)
/// and the next look is due (5 s), and is gone a second later. What is then asked can go wrong, too, and
/// is asked again at the looks after that.
const LONGEST_TWINS: Duration = Duration::from_mins(1);
/// So many machines may be in no record by their ids, all of them gone: the answer to their creation was
/// lost, and that to their deletion, too.
const MOST_UNNAMED: u32 = 8;
/// Fewer kills may all miss what they are meant to hit.
const FEW: u64 = 20;
/// For so long everything may take to settle after the last kill: as long as a device may stand still
/// (30 s), twice, and what is left of its life.
const PATIENCE: Duration = Duration::from_secs(150);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What goes wrong at the vendor, and is noticed at the next look.
const FAULTS: [&str; 10] = [
    "create_dropped=0.08",
    "create_error_after=0.05",
    "create_twice=0.08",
    "out_of_capacity=0.05",
    "failed_at=0.08",
    "reclaimed=0.03",
    "dropped=0.02",
    "hang=0.01,until=25s",
    "server_error=0.02",
    "rate_limited=0.01",
];
/// What takes half a minute to notice goes wrong at the beginning alone.
const SLOW_FAULTS: [&str; 3] =
    ["stuck_at=0.03,until=8s", "delete_ignored=0.05,times=1,until=12s", "delete_failed=0.05,times=1,until=12s"];

/// A vendor that is quick, and wrong every so often.
async fn vendor(seed: u64, faults: &[&str]) -> Simulator {
    let faults = faults.iter().map(|rule| rule.parse().unwrap()).collect();
    let config = Config {
        seed,
        latency: LATENCY,
        provision: Duration::from_millis(1500),
        deprovision: Duration::from_secs(1),
        reclaim_after: Duration::from_secs(1),
        faults,
        ..Config::default()
    };
    packet::start(config).await.unwrap()
}

/// With `sim` for the vendor.
fn machine(sim: &Simulator) -> Machine {
    Machine::new()
        .with(config::URL, sim.url())
        .with(config::PROJECT, PROJECT)
        .with(config::TOKEN, TOKEN)
        .with(config::TIMEOUT, TIMEOUT)
}

/// Takes the worker's lease away from whoever has it.
async fn take_lease_away(store: &Store) {
    let key =
        [("pk", "WORKER"), ("sk", "LEASE")].map(|(name, value)| (name.to_owned(), AttributeValue::S(value.into())));
    let delete = store.client().delete_item().table_name(store.table(&devices::TABLE));
    delete.set_key(Some(key.into())).send().await.unwrap();
}

/// Where a server is reached, and with which key.
#[derive(Debug, Clone)]
struct At {
    url: String,
    key: String,
}

/// What came of one request.
enum Answer {
    /// The device that this order is for.
    Ordered(usize, String),
    /// It will be taken down.
    Unwanted(usize),
    /// There was none, or one that says to try again.
    None,
}

/// Somebody who wants machines, does not want all of them for long, and asks again with the same key
/// where there was no answer.
struct Customer {
    http: reqwest::Client,
    rng: StdRng,
    /// What has been ordered, and which device that is where it was answered.
    orders: Vec<Option<String>>,
    /// Orders whose deletion was asked for.
    unwanted: BTreeSet<usize>,
    /// Kills that came while the vendor was being asked.
    in_the_middle: u64,
}

impl Customer {
    fn new(seed: u64) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        let (rng, orders, unwanted) = (StdRng::seed_from_u64(seed), Vec::new(), BTreeSet::new());
        Self { http, rng, orders, unwanted, in_the_middle: 0 }
    }

    /// Asks one of the servers, every so often all of them at once, for what was not answered, for
    /// `more` besides, and for the end of something.
    fn ask(&mut self, servers: &[At], more: usize) -> JoinSet<Answer> {
        self.orders.extend(std::iter::repeat_n(None, more));
        let mut asked = JoinSet::new();
        let open: Vec<usize> = (0..self.orders.len()).filter(|order| self.orders[*order].is_none()).collect();
        for order in open {
            let all = self.rng.random_ratio(1, 5);
            let one = self.rng.random_range(0..servers.len());
            for (_, at) in servers.iter().enumerate().filter(|(number, _)| all || *number == one) {
                asked.spawn(order_at(self.http.clone(), at.clone(), order));
            }
        }
        let known = (0..self.orders.len()).filter(|order| !self.unwanted.contains(order));
        let known = known.filter_map(|order| Some((order, self.orders[order].clone()?)));
        if more > 0
            && self.rng.random_ratio(1, 3)
            && let Some((order, id)) = known.choose(&mut self.rng)
        {
            let at = servers.iter().choose(&mut self.rng).unwrap();
            let request = self.http.delete(format!("{}/api/v1/devices/{id}", at.url)).bearer_auth(&at.key);
            asked.spawn(async move {
                match request.send().await.map(|answer| answer.status().as_u16()) {
                    Ok(202 | 204) => Answer::Unwanted(order),
                    Ok(409 | 503) | Err(_) => Answer::None,
                    Ok(status) => panic!("the deletion of {id} is answered {status}"),
                }
            });
        }
        asked
    }

    /// Takes in what was answered.
    async fn hear(&mut self, asked: JoinSet<Answer>) {
        for answer in asked.join_all().await {
            match answer {
                Answer::Ordered(order, id) => {
                    let known = self.orders[order].get_or_insert_with(|| id.clone());
                    assert_eq!(*known, id, "one key, one device");
                }
                Answer::Unwanted(order) => _ = self.unwanted.insert(order),
                Answer::None => {}
            }
        }
    }

    /// A random moment: mostly while the vendor is being asked for a machine, sometimes any.
    async fn moment(&mut self, sim: &Simulator) {
        if self.rng.random_ratio(3, 4) {
            let (before, began) = (sim.stats().requests(Request::Create), Instant::now());
            while sim.stats().requests(Request::Create) == before && began.elapsed() < Duration::from_millis(800) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        tokio::time::sleep((LATENCY * 3).mul_f64(self.rng.random())).await;
        self.in_the_middle += u64::from(sim.stats().traffic.in_flight > 0);
    }

    /// Every device, once there is nothing left to do for any of them.
    async fn settled(&mut self, servers: &[At]) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let asked = self.ask(servers, 0);
            self.hear(asked).await;
            let list = self.get(&servers[0], "/api/v1/devices?limit=500").await;
            assert!(list["next_cursor"].is_null(), "they fit on one page");
            let items = list["items"].as_array().unwrap();
            let is_settled = |item: &&Value| ["Active", "Deleted", "Failed"].contains(&item["state"].as_str().unwrap());
            let left: Vec<_> = items.iter().filter(|item| !is_settled(item)).collect();
            if left.is_empty() && self.orders.iter().all(Option::is_some) {
                let mut devices = Vec::new();
                for item in items {
                    let path = format!("/api/v1/devices/{}", item["id"].as_str().unwrap());
                    let mut device = self.get(&servers[0], &path).await;
                    device["time_line"] = self.get(&servers[0], &format!("{path}/events?limit=500")).await;
                    devices.push(device);
                }
                println!("settled {:.1?} after the last kill", began.elapsed());
                return devices;
            }
            assert!(began.elapsed() < PATIENCE, "not settled in time: {left:#?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn get(&self, at: &At, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", at.url)).bearer_auth(&at.key).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }
}

/// Orders a device. What it is like depends on the order alone.
async fn order_at(http: reqwest::Client, at: At, order: usize) -> Answer {
    let mut body = json!({
        "provision_timeout_seconds": 60, "stall_timeout_seconds": 30, "ephemeral": order % 10 == 3,
    });
    if order % 4 == 1 {
        body["userdata"] = json!("#!/bin/sh\ntrue\n");
    }
    let request = http.request(Method::POST, format!("{}/api/v1/devices", at.url)).bearer_auth(&at.key);
    let Ok(answer) = request.header("idempotency-key", format!("order-{order}")).json(&body).send().await else {
        return Answer::None;
    };
    let status = answer.status().as_u16();
    match (status, answer.json::<Value>().await) {
        (202, Ok(device)) => Answer::Ordered(order, device["id"].as_str().unwrap().to_owned()),
        // Killed in between, another one with this key is under way, or the vendor does not tell what
        // it has.
        (_, Err(_)) | (409 | 503, _) => Answer::None,
        (status, Ok(problem)) => panic!("order {order} is answered {status}: {problem}"),
    }
}

/// What must be so once everything has settled, whoever was killed when.
#[track_caller]
fn assert_nothing_is_left_and_nothing_was_launched_twice(
    devices: &[Value],
    sim: &Simulator,
    orders: &[Option<String>],
    unwanted: &BTreeSet<usize>,
) {
    let ids: BTreeSet<&str> = devices.iter().map(|device| device["id"].as_str().unwrap()).collect();
    let ordered: BTreeSet<&str> = orders.iter().map(|id| id.as_deref().unwrap()).collect();
    assert_eq!(ids, ordered, "one record for each key");
    let mut states: BTreeMap<&str, u32> = BTreeMap::new();
    for device in devices {
        *states.entry(device["state"].as_str().unwrap()).or_default() += 1;
    }
    println!("{states:?}; {:?}", sim.stats());
    for order in unwanted {
        let device = devices.iter().find(|device| device["id"] == *orders[*order].as_ref().unwrap()).unwrap();
        assert!(device["state"] == "Deleted" || device["state"] == "Failed", "its deletion was answered: {device:#}");
    }
    for device in devices.iter().filter(|device| device["state"] != "Active") {
        assert!(device["reason"]["code"].is_string(), "whatever there is none of has a reason: {device:#}");
    }

    let active = devices.iter().filter(|device| device["state"] == "Active");
    let active: BTreeMap<_, _> =
        active.map(|it| (it["device"]["id"].as_str().unwrap(), it["id"].as_str().unwrap())).collect();
    let alive = sim.alive();
    let alive: BTreeMap<_, _> = alive.iter().map(|machine| (machine.id.as_str(), owner(machine))).collect();
    assert_eq!(alive, active, "the vendor has (left) exactly what is up (right)");

    let all = sim.devices();
    let mut machines: BTreeMap<&str, Vec<&Device>> = BTreeMap::new();
    for machine in &all {
        machines.entry(owner(machine)).or_default().push(machine);
    }
    let (mut longest, mut unnamed) = (Duration::ZERO, 0);
    for (id, machines) in &machines {
        let device = devices.iter().find(|device| device["id"] == *id);
        let record = device.unwrap_or_else(|| panic!("no record knows of {machines:#?}")).to_string();
        for (at, machine) in machines.iter().enumerate() {
            if !record.contains(&machine.id) {
                // One that nobody was told of can be taken back by the vendor before anybody looks, or
                // be found by its tag and deleted by a request whose answer is lost.
                assert!(machine.reclaimed || machine.forced, "{machine:#?} is not in {record}");
                unnamed += u32::from(!machine.reclaimed);
            }
            for later in &machines[at + 1..] {
                let end = machine.ended_at.unwrap_or_else(Timestamp::now).min(later.ended_at.unwrap_or(Timestamp::MAX));
                let together = Duration::try_from(end.duration_since(later.created_at)).unwrap_or_default();
                if machine.created_at == later.created_at {
                    // The vendor made two of one request.
                    longest = longest.max(together);
                } else {
                    assert_eq!(together, Duration::ZERO, "launched twice: {machine:#?} {later:#?} {record}");
                }
            }
        }
    }
    println!("two of one request were there for {longest:.1?} at most; {unnamed} machines are in no record");
    assert!(unnamed <= MOST_UNNAMED, "{unnamed}");
    assert!(longest < LONGEST_TWINS, "{longest:?}");
}

/// The device that a machine is tagged as.
fn owner(machine: &Device) -> &str {
    machine.tags.iter().find_map(|tag| tag.strip_prefix("muster:")).unwrap()
}

/// How many of these time lines hold these words.
fn having(lines: &[String], words: &str) -> usize {
    lines.iter().filter(|line| line.contains(words)).count()
}

/// That the kills were worth something.
#[track_caller]
fn assert_it_was_put_to_the_test(devices: &[Value], customer: &Customer, kills: u64) {
    let lines: Vec<String> = devices.iter().map(|device| device["time_line"].to_string()).collect();
    let (adopted, twins) = (having(&lines, "found by its tag"), having(&lines, "carry our tag too"));
    println!(
        "{} of {kills} kills with requests in flight; {adopted} of {} devices found by their tag, {twins} made twice",
        customer.in_the_middle,
        devices.len()
    );
    if kills < FEW {
        return;
    }
    // Far below what is usual: how often depends on what else the machine does.
    assert!(customer.in_the_middle * 10 >= kills, "only {} kills with requests in flight", customer.in_the_middle);
    assert!(adopted > 1, "only {adopted} were found by their tag");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_random_moments_leaves_nothing_behind_and_launches_nothing_twice() {
    let (seed, began) = (number("MUSTER_SEED", rand::random::<u32>().into()), Instant::now());
    println!("MUSTER_SEED={seed}");
    let sim = vendor(seed, &[&FAULTS[..], &SLOW_FAULTS].concat()).await;
    let machine = machine(&sim);
    let kills = number("MUSTER_KILLS", 50);
    let mut customer = Customer::new(seed);
    for _ in 0..kills {
        let mut running = machine.start(&SERVE);
        if customer.rng.random_ratio(1, 10) {
            // While it starts.
            tokio::time::sleep(Duration::from_millis(customer.rng.random_range(0..200))).await;
            running.kill().await;
        } else {
            let (mut running, at) = served(&machine, running).await;
            let asked = customer.ask(&[at], ORDERS);
            customer.moment(&sim).await;
            running.kill().await;
            customer.hear(asked).await;
        }
    }
    let (_running, at) = served(&machine, machine.start(&SERVE)).await;
    let devices = customer.settled(&[at]).await;
    println!("{:.1?} in all", began.elapsed());
    assert_nothing_is_left_and_nothing_was_launched_twice(&devices, &sim, &customer.orders, &customer.unwanted);
    assert_it_was_put_to_the_test(&devices, &customer, kills);
}

/// Waits until a server listens.
async fn served(machine: &Machine, running: Running) -> (Running, At) {
    let Server { running, url, .. } = machine.served(running).await;
    let key = std::fs::read_to_string(machine.state().join("key")).unwrap().trim().to_owned();
    (running, At { url, key })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_work_on_one_store_together_launch_nothing_twice_either() {
    const PREFIX: &str = "fleet-";
    let (seed, began) = (number("MUSTER_SEED", rand::random::<u32>().into()), Instant::now());
    println!("MUSTER_SEED={seed}");
    let sim = vendor(seed, &[&FAULTS[..], &SLOW_FAULTS].concat()).await;
    let embedded = Embedded::memory().unwrap();
    let store = embedded.store(PREFIX);
    store.create_tables(&[&ACCESS, &devices::TABLE]).await.unwrap();
    let scopes = ["devices:read", "devices:write"].map(str::to_owned).to_vec();
    let new = NewKey { tenant: "acme".to_owned(), scopes, label: None, expires_in_seconds: None };
    let (_, key) = KeyStore::new(store.clone()).create(new, Timestamp::now()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dynamodb = format!("http://{}", listener.local_addr().unwrap());
    // Both end with the test.
    let mut beside = JoinSet::new();
    let served = embedded.clone();
    beside.spawn(async move { served.serve(listener, std::future::pending()).await.unwrap() });
    beside.spawn(async move {
        loop {
            take_lease_away(&store).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let machine = machine(&sim)
        .with("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb)
        .with("AWS_REGION", "eu-central-1")
        .with("AWS_ACCESS_KEY_ID", "test")
        .with("AWS_SECRET_ACCESS_KEY", "test")
        .with("AWS_EC2_METADATA_DISABLED", "true")
        .with("MUSTER_TABLE_PREFIX", PREFIX)
        .with("MUSTER_LOG", "info");
    let start = async || {
        let mut running = machine.start(&["serve", "--listen", "127.0.0.1:0", "--store", "dynamodb"]);
        let url = running.first_line().await;
        (running, At { url, key: key.clone() })
    };

    let kills = number("MUSTER_KILLS", 50).div_ceil(2);
    let mut customer = Customer::new(seed);
    let mut servers = vec![start().await, start().await];
    for _ in 0..kills {
        let at: Vec<At> = servers.iter().map(|(_, at)| at.clone()).collect();
        let asked = customer.ask(&at, ORDERS);
        customer.moment(&sim).await;
        let (mut killed, _) = servers.swap_remove(customer.rng.random_range(0..2));
        killed.kill().await;
        servers.push(start().await);
        customer.hear(asked).await;
    }
    let at: Vec<At> = servers.iter().map(|(_, at)| at.clone()).collect();
    let devices = customer.settled(&at).await;
    println!("{:.1?} in all", began.elapsed());
    for (running, _) in &servers {
        let said = running.stderr();
        assert!(said.contains("to=\"Active\""), "both have worked: {said}");
    }
    assert_nothing_is_left_and_nothing_was_launched_twice(&devices, &sim, &customer.orders, &customer.unwanted);
    assert_it_was_put_to_the_test(&devices, &customer, kills);
}
