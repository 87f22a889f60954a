//! The capability `devices`: both functions on one set of tables, each with its own record.

use std::{sync::Arc, time::Duration};

use devices::{
    Devices,
    config::{Config, PROJECT, TIMEOUT, TOKEN, URL},
    seal::Sealer,
    store::DeviceStore,
    supply::Supply,
    worker::{Ended, Rounds, Worker},
};
use http::Method;
use jiff::Timestamp;
use kit::{
    clock::Clock,
    dynamo::{AttributeValue, Store},
};
use serde_json::{Value, json};
use simulators::packet::{self, Fault, Rule, Simulator};
use tokio_util::sync::CancellationToken;

use super::{Function, PREFIX, Reply, assert_exactly_what_is_allowed, tables};

const COLLECTION: &str = "/api/v1/devices";
const ONE: &str = "/api/v1/devices/{id}";
const NOBODYS: &str = "0198c6d2-6f7e-7a7e-8000-000000000000";
/// At which the simulator's time is 0.
const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);
const STEP: Duration = Duration::from_secs(5);

/// A project of the device API, whose time is in our hands, and both functions.
struct World {
    sim: Simulator,
    clock: Clock,
    config: Config,
    operator: Store,
    http: Function,
    store_of_worker: Store,
}

impl World {
    fn worker(&self) -> Worker {
        let (store, clock) = (self.store_of_worker.clone(), self.clock.clone());
        let supply = Supply::new(self.config.vendor.clone().unwrap(), DeviceStore::new(store.clone()), clock.clone());
        Worker::new(supply, store, Sealer::new(self.config.token.clone()), clock, Arc::default()).deletes_orphans(true)
    }

    fn pass(&self, by: Duration) {
        self.clock.advance(by);
        self.sim.advance(by);
    }

    async fn launch(&self, body: Value, key: Option<&str>) -> String {
        self.http.post(COLLECTION, body, key).await.expect(202).id()
    }

    async fn show(&self, id: &str) -> Value {
        self.http.get(ONE, &[id], "").await.expect(200).json()
    }

    /// The worker goes on until the device is in this state.
    async fn until(&self, rounds: &mut Rounds, id: &str, state: &str) -> Value {
        for _ in 0..1_000 {
            rounds.round().await.unwrap();
            let device = self.show(id).await;
            if device["state"] == state {
                return device;
            }
            self.pass(STEP);
        }
        panic!("not {state}: {}", self.show(id).await);
    }

    /// An item that the code would not have written.
    async fn put(&self, pk: &str, sk: &str) {
        let put = self.operator.client().put_item().table_name(self.operator.table(&devices::TABLE));
        let put = put.item("pk", AttributeValue::S(pk.to_owned())).item("sk", AttributeValue::S(sk.to_owned()));
        put.send().await.unwrap();
    }

    /// Somebody else with our token asks the vendor for a machine with one of our tags.
    async fn somebody_creates(&self, tag: &str) {
        let body = json!({"plan": "c3.small.x86", "operating_system": "debian_12", "facility": "ewr1", "tags": [tag]});
        let request = reqwest::Client::new().post(format!("{}/projects/{}/devices", self.sim.url(), packet::PROJECT));
        let answer = request.header("X-Auth-Token", packet::TOKEN).json(&body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 201);
    }
}

#[tokio::test]
async fn the_functions_of_devices_need_exactly_what_they_are_allowed() {
    let config = packet::Config { manual: true, epoch: Some(NOON), ..packet::Config::default() };
    let sim = packet::start(config).await.unwrap();
    let settings = |name: &str| match name {
        URL => Some(sim.url().to_owned()),
        PROJECT => Some(packet::PROJECT.to_owned()),
        TOKEN => Some(packet::TOKEN.to_owned()),
        TIMEOUT => Some("0.5".to_owned()),
        _ => None,
    };
    let config = Config::from_settings(settings).unwrap();
    let (embedded, operator) = tables().await;
    let clock = Clock::manual(NOON);

    // As main does.
    let (store_of_worker, worker_used) = embedded.store_with_record(PREFIX);
    store_of_worker.warm(&devices::TABLE).await;
    let (store, http_used) = embedded.store_with_record(PREFIX);
    store.warm(&devices::TABLE).await;
    let devices = Devices::new(&config, store.clone(), clock.clone(), Arc::default());
    let http = Function::new(vec![devices::routes(devices)], &store, &operator).await;
    let world = World { sim, clock, config, operator, http, store_of_worker };

    let up = worker_does_everything(&world).await;
    http_does_everything(&world, &up).await;
    world.http.assert_all_routes_were_called("devices");
    assert_exactly_what_is_allowed("devices", &http_used);
    assert_exactly_what_is_allowed("devices-worker", &worker_used);
}

/// Answers a device that is up.
async fn worker_does_everything(world: &World) -> String {
    let stop = CancellationToken::new();
    let (worker, mut rounds) = (world.worker(), Rounds::new(world.worker()));
    // A tick without work, and a sweep with nothing in it.
    assert_eq!(worker.work(&stop).await.unwrap(), Ended::Idle);

    // One that comes up at once; the worker has the lease meanwhile, and gives it back.
    let up = world.launch(json!({"userdata": "#!/bin/sh"}), None).await;
    let (stop_soon, second) = (CancellationToken::new(), world.worker());
    let work = worker.work(&stop_soon);
    let other = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(matches!(second.work(&stop).await.unwrap(), Ended::Held(_)));
        stop_soon.cancel();
    };
    let (ended, ()) = tokio::join!(work, other);
    assert_eq!(ended.unwrap(), Ended::Stopped);
    world.until(&mut rounds, &up, "Active").await;

    // One that fails where it is tried first, comes up elsewhere, and is deleted; what is remembered of
    // the failure is forgotten when it works there again.
    world.sim.fault("failed_at@ams1=1,step=104".parse::<Rule>().unwrap());
    let second = world.launch(json!({"userdata": "#!/bin/sh"}), None).await;
    let device = world.until(&mut rounds, &second, "Active").await;
    assert!(device["attempts"].as_array().unwrap().len() > 1, "{device}");
    world.sim.heal_all();
    let failed = (&device["attempts"][0]["plan"], &device["attempts"][0]["facility"]);
    let again = json!({"plan": {"slug": failed.0}, "facility": {"codes": [failed.1]}});
    let third = world.launch(again, None).await;
    world.until(&mut rounds, &third, "Active").await;
    for id in [&second, &third] {
        world.http.delete(ONE, id).await.expect(202);
        world.until(&mut rounds, id, "Deleted").await;
    }

    // One that fails for good.
    world.sim.fault(Rule::new(Fault::OutOfCapacity));
    let failed = world.launch(json!({"max_attempts": 2, "userdata": "#!/bin/sh"}), None).await;
    world.until(&mut rounds, &failed, "Failed").await;
    world.sim.heal_all();

    // A sweep that finds a stranger, and one that finds a device lost.
    world.somebody_creates(&format!("muster:{NOBODYS}")).await;
    let lost = world.launch(json!({}), None).await;
    let machine = world.until(&mut rounds, &lost, "Active").await["device"]["id"].as_str().unwrap().to_owned();
    let request = reqwest::Client::new().delete(format!("{}/devices/{machine}", world.sim.url()));
    request.header("X-Auth-Token", packet::TOKEN).send().await.unwrap();
    world.pass(Duration::from_mins(20));
    world.until(&mut rounds, &lost, "Deleted").await;

    // A place in the worker's list whose device is gone.
    world.put("WORK", NOBODYS).await;
    rounds.round().await.unwrap();
    up
}

async fn http_does_everything(world: &World, up: &str) {
    let http = &world.http;
    let mut rounds = Rounds::new(world.worker());
    http.is_called_by_strangers(COLLECTION).await;

    // Asked for: refused, done, done again, for another payload, by many at once, after a day.
    http.post(COLLECTION, json!({"max_attempts": 0}), None).await.expect(422);
    http.post(COLLECTION, json!({"plan": {"min_memory_gb": 900_000}}), None).await.expect(422);
    let (body, other) = (json!({"hostname": "a", "userdata": "#!/bin/sh"}), json!({"hostname": "b"}));
    let first = world.launch(body.clone(), Some("k")).await;
    assert_eq!(world.launch(body.clone(), Some("k")).await, first);
    http.post(COLLECTION, other, Some("k")).await.expect(422);
    let all = futures::future::join_all((0..5).map(|_| http.post(COLLECTION, body.clone(), Some("race")))).await;
    assert!(all.iter().all(|reply: &Reply| matches!(reply.status, 202 | 409)));
    world.clock.advance(Duration::from_hours(25));
    assert_ne!(world.launch(body, Some("k")).await, first);

    // Read, and waited for.
    http.call(Method::GET, ONE, &[&first], "", &[("prefer", "wait=1")], None).await.expect(200);
    http.get(ONE, &[NOBODYS], "").await.expect(404);
    http.get(&format!("{ONE}/events"), &[up], "?limit=1").await.expect(200);
    http.get(&format!("{ONE}/attempts/{{number}}"), &[up, "1"], "").await.expect(200);
    http.get(COLLECTION, &[], "?state=Active").await.expect(200);
    let page = http.get(COLLECTION, &[], "?limit=1").await.expect(200);
    let next = page.link.as_deref().and_then(|link| link.split(['?', '>']).nth(1)).unwrap();
    http.get(COLLECTION, &[], &format!("?{next}")).await.expect(200);
    http.post(&format!("{COLLECTION}/plan"), json!({}), None).await.expect(200);
    for kind in ["operating-systems", "plans", "facilities"] {
        http.get(&format!("/api/v1/catalog/{kind}"), &[], "?max_age=0").await.expect(200);
    }

    // Actions: done, refused by the vendor, and on one that is not up.
    let actions = format!("{ONE}/actions");
    let act = async |id: &str| http.call(Method::POST, &actions, &[id], "", &[], Some(json!({"type": "reboot"}))).await;
    act(up).await.expect(202);
    act(&first).await.expect(409);
    world.sim.fault("get_forbidden=1".parse::<Rule>().unwrap());
    world.sim.fault("server_error=1".parse::<Rule>().unwrap());
    act(up).await.expect(503);
    world.sim.heal_all();

    // Deleted before the worker has begun, between two attempts, and when it is up; each again.
    http.delete(ONE, &first).await.expect(204);
    http.delete(ONE, &first).await.expect(204);
    world.sim.fault(Rule::new(Fault::OutOfCapacity));
    let unlucky = world.launch(json!({}), None).await;
    for _ in 0..20 {
        rounds.round().await.unwrap();
        if world.show(&unlucky).await["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty()) {
            break;
        }
        world.pass(STEP);
    }
    let reply = http.delete(ONE, &unlucky).await;
    assert!(matches!(reply.status, 202 | 204), "{}", reply.body);
    world.sim.heal_all();
    http.delete(ONE, up).await.expect(202);
    http.delete(ONE, up).await.expect(202);
    world.until(&mut rounds, up, "Deleted").await;
    http.delete(ONE, up).await.expect(204);
}
