//! What goes wrong at CPX, and what is then known.

use std::{collections::BTreeMap, time::Duration};

use axum::{Router, routing::get};
use http::StatusCode;
use kit::dynamo::embedded::Faults;
use serde_json::{Value, json};
use services::{Watch, notify::Notifier};
use simulators::{
    cpx::{self, Fate},
    faults::Down,
};

use crate::common::{World, small};

/// The status of each server by address.
fn statuses(items: &[Value]) -> BTreeMap<String, String> {
    let text = |it: &Value| it.as_str().unwrap().to_owned();
    items.iter().map(|it| (text(&it["ip"]), text(&it["status"]))).collect()
}

#[tokio::test]
async fn servers_that_hang_refuse_err_or_talk_nonsense_are_unknown_and_no_others() {
    let faults = cpx::Config {
        servers: 300,
        hang_rate: 0.1,
        refuse_rate: 0.1,
        error_rate: 0.05,
        garbage_rate: 0.1,
        latency: Duration::from_millis(10),
        seed: 7,
        ..cpx::Config::default()
    };
    let world = World::with(faults, &[("MUSTER_CPX_TIMEOUT_SECONDS", "1")]).await;
    let client = world.client().await;
    let began = std::time::Instant::now();
    let reply = client.get("/api/v1/servers?limit=500").await.expect(200).json();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(reply["complete"], true, "each had its time");
    assert_eq!(world.sim.stats().asked, 300, "each was asked once");
    let items = reply["items"].as_array().unwrap();
    let statuses = statuses(items);
    let mut fates = BTreeMap::new();
    for server in world.sim.servers() {
        *fates.entry(server.fate).or_insert(0) += 1;
        let unknown = statuses[&server.ip.to_string()] == "unknown";
        assert_eq!(unknown, !server.fate.reports(), "{server:?}");
    }
    for fate in [Fate::Hang, Fate::Refuse, Fate::Error, Fate::Garbage] {
        assert!(fates.get(&fate).is_some_and(|&number| number > 5), "{fate:?}: {fates:?}");
    }
    for item in items {
        let hangs = world.sim.fate(item["ip"].as_str().unwrap().parse().unwrap()) == Fate::Hang;
        assert_eq!(hangs, item["reason"] == "no answer in time", "{item}");
        assert_eq!(item["status"] == "unknown", item["reason"].is_string(), "{item}");
        assert_eq!(item["status"] == "unknown", item["cpu_pct"].is_null() && item["memory_pct"].is_null(), "{item}");
    }
    let services = client.get("/api/v1/services?max_age_seconds=300").await.expect(200).json();
    // They have never said where they belong.
    assert_eq!(services["without_service"], items.iter().filter(|it| it["status"] == "unknown").count());
    let reporting: u64 = services["items"].as_array().unwrap().iter().map(|it| it["reporting"].as_u64().unwrap()).sum();
    assert_eq!(reporting, items.iter().filter(|it| it["status"] != "unknown").count() as u64);
}

#[tokio::test]
async fn a_poll_ends_at_its_deadline_and_says_that_it_is_not_complete() {
    let faults = cpx::Config { latency: Duration::from_millis(100), one_at_a_time: true, ..cpx::Config::default() };
    let world = World::with(faults, &[("MUSTER_CPX_DEADLINE_SECONDS", "2")]).await;
    let client = world.client().await;
    let began = std::time::Instant::now();
    let reply = client.get("/api/v1/servers?limit=500").await.expect(200).json();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(reply["complete"], false);
    let items = reply["items"].as_array().unwrap();
    assert_eq!(items.len(), 150, "all of them are listed");
    let known = items.iter().filter(|it| it["status"] != "unknown").count();
    assert!((10..=20).contains(&known), "{known}");
    assert!(items.iter().any(|it| it["reason"].as_str().is_some_and(|why| why.contains("deadline"))));
}

#[tokio::test]
async fn all_of_them_hanging_costs_no_more_than_the_deadline() {
    let faults = cpx::Config { hang_rate: 1.0, ..cpx::Config::default() };
    let settings = [("MUSTER_CPX_DEADLINE_SECONDS", "3"), ("MUSTER_CPX_TIMEOUT_SECONDS", "0.5")];
    let world = World::with(faults, &settings).await;
    let began = std::time::Instant::now();
    let reply = world.client().await.get("/api/v1/servers?limit=500").await.expect(200).json();
    // Without the deadline it would be minutes.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(reply["items"].as_array().unwrap().iter().all(|it| it["status"] == "unknown"));
}

#[tokio::test]
async fn a_stock_cpx_is_never_asked_for_more_than_it_can_queue() {
    let faults = cpx::Config { latency: Duration::from_millis(10), one_at_a_time: true, ..cpx::Config::default() };
    let world = World::new(faults).await;
    let reply = world.client().await.get("/api/v1/servers?limit=500").await.expect(200).json();
    assert_eq!(reply["complete"], true);
    assert!(reply["items"].as_array().unwrap().iter().all(|it| it["status"] != "unknown"), "{reply}");
    assert_eq!(world.sim.stats().asked, 150);
}

#[tokio::test]
async fn behind_a_server_that_hangs_at_a_stock_cpx_no_other_counts_as_silent() {
    let faults = cpx::Config {
        latency: Duration::from_millis(5),
        one_at_a_time: true,
        servers: 60,
        hang_rate: 0.05,
        seed: 11,
        ..cpx::Config::default()
    };
    let world = World::with(faults, &[("MUSTER_CPX_TIMEOUT_SECONDS", "1")]).await;
    let hanging = world.sim.servers().iter().filter(|it| it.fate == Fate::Hang).count();
    assert!((1..=5).contains(&hanging), "{hanging}");
    let reply = world.client().await.get("/api/v1/servers?limit=500").await.expect(200).json();
    assert_eq!(reply["complete"], true);
    let statuses = statuses(reply["items"].as_array().unwrap());
    for server in world.sim.servers() {
        assert_eq!(statuses[&server.ip.to_string()] == "unknown", server.fate == Fate::Hang, "{server:?}");
    }
}

#[tokio::test]
async fn where_all_hang_at_a_stock_cpx_none_is_asked_more_than_three_times() {
    let faults = cpx::Config { one_at_a_time: true, servers: 16, hang_rate: 1.0, ..cpx::Config::default() };
    let world = World::with(faults, &[("MUSTER_CPX_TIMEOUT_SECONDS", "0.1")]).await;
    let reply = world.client().await.get("/api/v1/servers").await.expect(200).json();
    assert_eq!(reply["complete"], true);
    assert!(reply["items"].as_array().unwrap().iter().all(|it| it["reason"] == "no answer in time"), "{reply}");
    let asked: Vec<_> = world.sim.servers().iter().map(|it| it.asked).collect();
    assert_eq!(asked.iter().max(), Some(&3), "{asked:?}");
}

#[tokio::test]
async fn only_addresses_are_asked_for() {
    let mut list: Vec<Value> = [
        "10.58.1.9",
        "10.58.1.9",
        "../admin",
        "10.58.1.1/x",
        "10.58.1.1?x",
        "10.58.1.1#x",
        "010.58.1.1",
        "10.58.1",
        "10.58.1.256",
        "0x0a.0x3a.1.1",
        "",
        " 10.58.1.1",
        "http://10.58.1.1",
        "10.58.1.1\r\nHost: evil",
        "localhost",
        "10.58.1.10",
        "::1%eth0",
        "[::1]",
    ]
    .map(Value::from)
    .to_vec();
    list.extend([json!(null), json!(7), json!(["10.58.1.11"]), json!({"ip": "10.58.1.11"})]);
    list.extend((0..10_000).map(|n| json!(format!("../admin/{n}"))));
    let strange = list.len() - 3;
    let world = World::new(cpx::Config { list: Some(Value::Array(list)), ..small() }).await;
    let reply = world.client().await.get("/api/v1/servers").await.expect(200).json();
    assert_eq!(
        statuses(reply["items"].as_array().unwrap()).into_keys().collect::<Vec<_>>(),
        ["10.58.1.10", "10.58.1.9"]
    );
    assert_eq!(reply["ignored"], strange);
    let stats = world.sim.stats();
    assert_eq!((stats.lists, stats.asked, stats.strange_requests), (1, 2, 0));
}

#[tokio::test]
async fn a_list_that_is_none_is_a_503_that_says_which_setting() {
    let world = World::new(small()).await;
    let client = world.client().await;
    for list in [json!({"servers": []}), json!("10.58.1.1"), json!(null), json!(42)] {
        world.sim.change(|config| config.list = Some(list));
        let problem = client.get("/api/v1/services?max_age_seconds=0").await.problem(503, "unavailable");
        assert!(problem["detail"].as_str().unwrap().contains("MUSTER_CPX_URL"), "{problem}");
    }
    world.sim.change(|config| config.list = None);
    for fate in [Fate::Refuse, Fate::Error, Fate::Garbage] {
        world.sim.change(|config| config.list_fate = fate);
        let reply = client.get("/api/v1/services?max_age_seconds=0").await;
        assert!(!reply.header("retry-after").is_empty());
        reply.problem(503, "unavailable");
    }
    world.sim.change(|config| (config.list_fate, config.down) = (Fate::Well, Down::Status503));
    client.get("/api/v1/services?max_age_seconds=0").await.problem(503, "unavailable");
    world.sim.change(|config| config.down = Down::No);
    client.get("/api/v1/services?max_age_seconds=0").await.expect(200);
    world.sim.change(|config| config.list = Some(json!([])));
    let empty = client.get("/api/v1/services?max_age_seconds=0").await.expect(200).json();
    assert_eq!((&empty["items"], &empty["complete"]), (&json!([]), &json!(true)));
}

#[tokio::test]
async fn a_silent_server_is_counted_with_the_service_that_it_belonged_to() {
    let world = World::with(small(), &[("MUSTER_CPX_TIMEOUT_SECONDS", "0.2")]).await;
    world.minute(&Notifier::default()).await;
    world.sim.change(|config| config.hang_rate = 1.0);
    // Another process than the worker's, which knows it from the store.
    let reply = world.client().await.get("/api/v1/services").await.expect(200).json();
    assert_eq!(reply["without_service"], 0);
    for (item, servers) in reply["items"].as_array().unwrap().iter().zip([3, 2, 3]) {
        assert_eq!(
            (&item["servers"], &item["unknown"], &item["healthy"]),
            (&json!(servers), &json!(servers), &json!(0))
        );
        assert_eq!((&item["cpu_pct"], &item["reporting"]), (&Value::Null, &json!(0)), "nothing is averaged");
        assert_eq!(item["status"], "unknown");
    }
    let short = world.client().await.get("/api/v1/unhealthy-services?max_age_seconds=300").await.expect(200).json();
    let short: Vec<_> = short["items"].as_array().unwrap().iter().map(|it| (&it["service"], &it["healthy"])).collect();
    let zero = json!(0);
    let names = ["AuthService", "GeoService", "IdService"].map(Value::from);
    assert_eq!(short, names.iter().map(|name| (name, &zero)).collect::<Vec<_>>(), "unknown is not healthy");
}

#[tokio::test]
async fn the_table_is_there_without_the_store() {
    let mut world = World::new(small()).await;
    let away = Faults { error_rate: 1.0, attempts: 1, ..Faults::default() };
    let watch = Watch::new(&world.config, world.embedded.store_with_faults("test-", away), world.clock.clone());
    world.app = kit::http::app(vec![services::routes(watch)], world.access.clone());
    let client = world.client().await;
    let reply = client.get("/api/v1/services?max_age_seconds=0").await.expect(200).json();
    assert_eq!(reply["items"].as_array().unwrap().len(), 3);
    client.get("/api/v1/alerts").await.problem(503, "unavailable");
}

/// A CPX that answers with the right words and the wrong status.
#[tokio::test]
async fn only_a_200_counts() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let list = async || (StatusCode::BAD_GATEWAY, "[]");
    let server = async || (StatusCode::SERVICE_UNAVAILABLE, r#"{"cpu":"1%","memory":"1%","service":"A"}"#);
    let cpx = Router::new()
        .route("/good/servers", get(async || r#"["10.58.1.1"]"#))
        .route("/good/10.58.1.1", get(server))
        .route("/bad/servers", get(list));
    tokio::spawn(async move { axum::serve(listener, cpx).await });
    let client = async |base: &str| {
        World::with(small(), &[("MUSTER_CPX_URL", &format!("http://{at}/{base}"))]).await.client().await
    };
    let reply = client("good").await.get("/api/v1/servers").await.expect(200).json();
    let item = &reply["items"][0];
    assert_eq!((&item["status"], &item["reason"]), (&json!("unknown"), &json!("CPX answered 503 Service Unavailable")));
    let problem = client("bad").await.get("/api/v1/servers").await.problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("502"), "{problem}");
}

#[tokio::test]
async fn no_more_are_asked_at_once_than_the_setting_says() {
    for (most, hang_rate) in [(1, 0.0), (20, 0.0), (8, 0.4)] {
        let latency = Duration::from_millis(5);
        let faults = cpx::Config { servers: 80, latency, hang_rate, ..cpx::Config::default() };
        let settings = [("MUSTER_CPX_CONCURRENCY", &*most.to_string()), ("MUSTER_CPX_TIMEOUT_SECONDS", "0.3")];
        let world = World::with(faults, &settings).await;
        world.client().await.get("/api/v1/servers").await.expect(200);
        let highest = world.sim.stats().traffic.max_in_flight;
        // Of those that hang CPX notices a little late that nobody waits for them any more.
        assert!(highest <= if hang_rate > 0.0 { most + 4 } else { most }, "{highest} of {most}");
    }
}

#[tokio::test]
async fn a_list_that_does_not_come_costs_no_more_than_the_deadline() {
    let world =
        World::with(cpx::Config { list_fate: Fate::Hang, ..small() }, &[("MUSTER_CPX_DEADLINE_SECONDS", "0.3")]).await;
    let began = std::time::Instant::now();
    world.client().await.get("/api/v1/servers").await.problem(503, "unavailable");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn where_a_server_belonged_is_remembered_between_polls() {
    let world = World::new(small()).await;
    let client = world.client().await;
    let unknown = async || {
        let reply = client.get("/api/v1/services?max_age_seconds=0").await.expect(200).json();
        reply["without_service"].as_u64().unwrap()
    };
    assert_eq!(unknown().await, 0);
    world.sim.change(|config| config.refuse_rate = 1.0);
    assert_eq!(unknown().await, 0, "the worker has kept nothing, this process has");
    // What CPX lists no more is forgotten.
    let fleet = world.sim.config().fleet;
    world.sim.change(|config| drop(config.fleet.as_mut().unwrap().remove(0)));
    assert_eq!(unknown().await, 0);
    world.sim.change(|config| config.fleet = fleet);
    assert_eq!(unknown().await, 1);
}

#[tokio::test]
async fn where_servers_belong_is_read_as_soon_as_the_store_can_tell() {
    let mut world = World::new(small()).await;
    world.minute(&Notifier::default()).await;
    world.sim.change(|config| config.refuse_rate = 1.0);
    let shaky = Faults { error_rate: 0.7, attempts: 1, seed: 3, ..Faults::default() };
    let watch = Watch::new(&world.config, world.embedded.store_with_faults("test-", shaky), world.clock.clone());
    world.app = kit::http::app(vec![services::routes(watch)], world.access.clone());
    let client = world.client().await;
    let mut without_service = Vec::new();
    for _ in 0..50 {
        let reply = client.get("/api/v1/services?max_age_seconds=0").await.expect(200).json();
        without_service.push(reply["without_service"].as_u64().unwrap());
    }
    assert_eq!((without_service[0], without_service[49]), (8, 0), "{without_service:?}");
    assert!(without_service.is_sorted_by(|a, b| a >= b), "once known it stays known: {without_service:?}");
}
