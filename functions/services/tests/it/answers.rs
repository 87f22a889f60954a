//! The questions that people ask, answered right.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use insta::assert_snapshot;
use jiff::SignedDuration;
use kit::testing::{Client, Reply};
use serde_json::Value;
use services::{
    history::Sample,
    notify::Notifier,
    server::{Rollup, ServiceName},
    worker::sample,
};
use simulators::cpx;

use crate::common::{NOON, World, fleet, small};

fn pct(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |it| format!("{it:.2}%"))
}

/// A line for each item.
fn lines(reply: &Reply, line: impl Fn(&Value) -> String) -> String {
    reply.json()["items"].as_array().unwrap().iter().map(line).collect::<Vec<_>>().join("\n")
}

fn server(it: &Value) -> String {
    let text = |name: &str| it[name].as_str().unwrap_or("-").to_owned();
    format!("{} {} {} {} {}", text("ip"), text("service"), text("status"), pct(&it["cpu_pct"]), pct(&it["memory_pct"]))
}

async fn ips(client: &Client, query: &str) -> Vec<String> {
    let reply = client.get(&format!("/api/v1/servers?{query}")).await.expect(200);
    reply.json()["items"].as_array().unwrap().iter().map(|it| it["ip"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_server_with_its_service_status_cpu_and_memory() {
    let world = World::new(small()).await;
    let reply = world.client().await.get("/api/v1/servers").await.expect(200);
    assert_snapshot!(lines(&reply, server), @r"
    10.58.1.9 AuthService healthy 90.00% 90.00%
    10.58.1.10 AuthService unhealthy 91.00% 10.00%
    10.58.1.11 AuthService healthy 20.00% 30.00%
    10.58.1.12 GeoService unhealthy 5.00% 95.00%
    10.58.1.13 GeoService healthy 50.00% 50.00%
    10.58.1.100 IdService unhealthy 99.00% 0.00%
    10.58.2.1 IdService unhealthy 100.00% 100.00%
    10.58.10.1 IdService unhealthy 0.00% 91.00%
    ");
    let body = reply.json();
    assert_eq!(body["thresholds"], serde_json::json!({"cpu_pct": 90.0, "memory_pct": 90.0}));
    assert_eq!((&body["complete"], &body["ignored"]), (&Value::from(true), &Value::from(0)));
    assert_eq!(body["observed_at"], "2027-01-15T08:00:00Z");
}

#[tokio::test]
async fn the_average_of_each_service_and_its_status() {
    let world = World::new(small()).await;
    let client = world.client().await;
    let line = |it: &Value| {
        format!(
            "{} {} {} {} {}/{}",
            it["service"].as_str().unwrap(),
            it["status"].as_str().unwrap(),
            pct(&it["cpu_pct"]),
            pct(&it["memory_pct"]),
            it["healthy"],
            it["servers"]
        )
    };
    assert_snapshot!(lines(&client.get("/api/v1/services").await.expect(200), line), @r"
    AuthService healthy 67.00% 43.33% 2/3
    GeoService healthy 27.50% 72.50% 1/2
    IdService healthy 66.33% 63.67% 0/3
    ");
    let reply = client.get("/api/v1/services?cpu_threshold=66.5&memory_threshold=72.5").await.expect(200);
    assert_snapshot!(lines(&reply, line), @r"
    AuthService unhealthy 67.00% 43.33% 1/3
    GeoService healthy 27.50% 72.50% 1/2
    IdService healthy 66.33% 63.67% 0/3
    ");
}

#[tokio::test]
async fn the_services_that_are_short_of_healthy_servers() {
    let world = World::new(small()).await;
    let client = world.client().await;
    let line = |it: &Value| format!("{} {}", it["service"].as_str().unwrap(), it["healthy"]);
    let reply = client.get("/api/v1/unhealthy-services").await.expect(200);
    assert_snapshot!(lines(&reply, line), @r"
    IdService 0
    GeoService 1
    ");
    assert_eq!(reply.json()["min_healthy"], 2);
    let reply = client.get("/api/v1/unhealthy-services?min_healthy=3&limit=1").await.expect(200);
    assert_snapshot!(lines(&reply, line), @"IdService 0");
    let all = client.all("/api/v1/unhealthy-services?min_healthy=3&limit=1").await;
    let all: Vec<_> = all.iter().map(line).collect();
    assert_eq!(all, ["IdService 0", "GeoService 1", "AuthService 2"]);
    assert_snapshot!(lines(&client.get("/api/v1/unhealthy-services?min_healthy=0").await.expect(200), line), @"");
}

#[tokio::test]
async fn one_service_and_its_servers() {
    let world = World::new(small()).await;
    let client = world.client().await;
    let reply = client.get("/api/v1/services/IdService").await.expect(200);
    assert_snapshot!(lines(&reply, server), @r"
    10.58.1.100 IdService unhealthy 99.00% 0.00%
    10.58.2.1 IdService unhealthy 100.00% 100.00%
    10.58.10.1 IdService unhealthy 0.00% 91.00%
    ");
    assert_eq!((&reply.json()["servers"], &reply.json()["reporting"]), (&Value::from(3), &Value::from(3)));
    let missing = client.get("/api/v1/services/NoService").await.problem(404, "not-found");
    assert!(missing["detail"].as_str().unwrap().contains("GET /api/v1/services"));
}

#[tokio::test]
async fn servers_are_filtered_and_sorted_and_their_pages_are_one_list() {
    let world = World::new(small()).await;
    let client = world.client().await;
    assert_eq!(ips(&client, "service=GeoService").await, ["10.58.1.12", "10.58.1.13"]);
    assert_eq!(ips(&client, "status=healthy&sort=-ip").await, ["10.58.1.13", "10.58.1.11", "10.58.1.9"]);
    assert_eq!(ips(&client, "sort=-cpu&limit=3").await, ["10.58.2.1", "10.58.1.100", "10.58.1.10"]);
    assert_eq!(ips(&client, "sort=memory&limit=2").await, ["10.58.1.100", "10.58.1.10"]);
    assert_eq!(ips(&client, "service=NoService").await, [""; 0]);
    assert_eq!(ips(&client, "status=healthy&cpu_threshold=100&memory_threshold=100").await.len(), 8);
    for sort in ["ip", "-ip", "service", "-service", "cpu", "-cpu", "memory", "-memory", "status", "-status"] {
        let whole = ips(&client, &format!("sort={sort}&limit=500")).await;
        let paged = client.all(&format!("/api/v1/servers?sort={sort}&limit=3&cpu_threshold=80")).await;
        let paged: Vec<_> = paged.iter().map(|it| it["ip"].as_str().unwrap()).collect();
        if sort.contains("status") {
            assert_eq!(paged.len(), whole.len(), "{sort}");
        } else {
            assert_eq!(paged, whole, "{sort}");
        }
    }
}

#[tokio::test]
async fn what_is_unknown_stays_last_however_sorted() {
    let world = World::new(cpx::Config { refuse_rate: 0.2, seed: 4, ..cpx::Config::default() }).await;
    let client = world.client().await;
    for sort in ["cpu", "-cpu", "memory", "-memory", "service", "-service"] {
        let items = client.all(&format!("/api/v1/servers?sort={sort}&limit=50")).await;
        assert_eq!(items.len(), 150, "{sort}");
        let first_unknown = items.iter().position(|it| it["status"] == "unknown").unwrap();
        assert!(items[first_unknown..].iter().all(|it| it["status"] == "unknown"), "{sort}");
    }
}

/// Sums it up a second time, by itself, from the list of servers.
#[tokio::test]
async fn services_are_the_sums_of_their_servers() {
    let world = World::new(cpx::Config { garbage_rate: 0.1, error_rate: 0.1, seed: 9, ..cpx::Config::default() }).await;
    let notifier = Notifier::default();
    let client = world.client().await;
    world.minute(&notifier).await;
    let servers = client.all("/api/v1/servers?max_age_seconds=300&limit=40").await;
    let services = client.all("/api/v1/services?max_age_seconds=300&limit=3").await;
    let mut own: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for it in &servers {
        if let Some(service) = it["service"].as_str() {
            own.entry(service).or_default().push(it);
        }
    }
    assert_eq!(services.len(), own.len());
    for (service, (name, own)) in services.iter().zip(own) {
        assert_eq!(service["service"], name);
        let count = |status: &str| own.iter().filter(|it| it["status"] == status).count();
        for status in ["healthy", "unhealthy", "unknown"] {
            assert_eq!(service[status], count(status), "{status} of {name}");
        }
        let cpu: Vec<f64> = own.iter().filter_map(|it| it["cpu_pct"].as_f64()).collect();
        assert_eq!(service["reporting"], cpu.len());
        let number = f64::from(u32::try_from(cpu.len()).unwrap());
        assert!((service["cpu_pct"].as_f64().unwrap() - cpu.iter().sum::<f64>() / number).abs() < 1e-9, "{name}");
    }
}

#[tokio::test]
async fn one_poll_serves_all_who_ask_at_once() {
    let latency = Duration::from_millis(30);
    let world = World::new(cpx::Config { latency, ..cpx::Config::default() }).await;
    let client = world.client().await;
    let asking: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            let path = ["/api/v1/servers", "/api/v1/services", "/api/v1/unhealthy-services"][n % 3];
            tokio::spawn(async move { client.get(path).await.status.as_u16() })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let stats = world.sim.stats();
    assert_eq!((stats.lists, stats.asked), (1, 150));
}

#[tokio::test]
async fn a_poll_goes_on_when_its_beginner_leaves() {
    let latency = Duration::from_millis(50);
    let world = World::new(cpx::Config { latency, ..cpx::Config::default() }).await;
    let client = world.client().await;
    let left = tokio::time::timeout(Duration::from_millis(80), client.get("/api/v1/servers"));
    assert!(left.await.is_err());
    client.get("/api/v1/servers").await.expect(200);
    assert_eq!(world.sim.stats().lists, 1);
}

#[tokio::test]
async fn a_reading_is_as_young_as_the_caller_wants() {
    let world = World::new(small()).await;
    let client = world.client().await;
    for (query, lists) in [("", 1), ("", 1), ("?max_age_seconds=0", 2), ("?max_age_seconds=300", 2)] {
        client.get(&format!("/api/v1/services{query}")).await.expect(200);
        assert_eq!(world.sim.stats().lists, lists, "{query}");
    }
    world.clock.advance(Duration::from_millis(1100));
    client.get("/api/v1/services?max_age_seconds=2").await.expect(200);
    assert_eq!(world.sim.stats().lists, 2);
    client.get("/api/v1/services?max_age_seconds=1").await.expect(200);
    assert_eq!(world.sim.stats().lists, 3);
}

#[tokio::test]
async fn a_trend_is_against_five_minutes_ago() {
    let world = World::new(small()).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    let trend = async || {
        let reply = client.get("/api/v1/services/GeoService?max_age_seconds=0").await.expect(200);
        reply.json()["trend"].clone()
    };
    assert_eq!(trend().await, Value::Null);
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    assert_eq!(trend().await, Value::Null, "three minutes are no five");
    let ip: IpAddr = "10.58.1.13".parse().unwrap();
    world.sim.change(|config| {
        let servers = config.fleet.as_mut().unwrap();
        servers.iter_mut().find(|it| it.ip == ip).unwrap().cpu = 96;
    });
    world.minute(&notifier).await;
    world.minute(&notifier).await;
    let trend = trend().await;
    assert_eq!(trend["against"], "2027-01-15T08:00:00Z");
    assert_eq!((&trend["cpu_pct"], &trend["memory_pct"], &trend["healthy"]), (&23.0.into(), &0.0.into(), &(-1).into()));
}

#[tokio::test]
async fn a_history_is_down_sampled_and_keeps_its_minima_and_maxima() {
    let world = World::new(small()).await;
    let client = world.client().await;
    // The service is there; most of its minutes are written here, for the time that it saves.
    world.minute(&Notifier::default()).await;
    let geo = ServiceName::try_from("GeoService".to_owned()).unwrap();
    let mut seen = vec![27.5];
    for minute in 1..600_u32 {
        let cpu = f64::from(minute * 7919 % 1009) / 10.1;
        let at = NOON + SignedDuration::from_mins(minute.into());
        let sample = Sample { cpu_pct: Some(cpu), ..sample(at, &Rollup::NONE) };
        world.records().put_snapshot(&geo, &sample).await.unwrap();
        seen.push(cpu);
    }
    world.clock.advance(Duration::from_mins(598));
    let history = client.get("/api/v1/services/GeoService/history?window=10h").await.expect(200).json();
    let points = history["items"].as_array().unwrap();
    assert!(points.len() <= 500 && points.len() >= 290, "{}", points.len());
    assert_eq!(history["resolution_seconds"], 120);
    let of = |name: &str, pick: fn(f64, f64) -> f64| {
        points.iter().map(|it| it["cpu_pct"][name].as_f64().unwrap()).reduce(pick).unwrap()
    };
    // A number may lose its last bit on its way through JSON.
    let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(near(of("min", f64::min), seen.iter().copied().reduce(f64::min).unwrap()));
    assert!(near(of("max", f64::max), seen.iter().copied().reduce(f64::max).unwrap()));
    let samples: u64 = points.iter().map(|it| it["samples"].as_u64().unwrap()).sum();
    assert_eq!(samples, 600);

    let hour = client.get("/api/v1/services/GeoService/history").await.expect(200).json();
    // Both ends are whole minutes, and both belong to it.
    assert_eq!((hour["items"].as_array().unwrap().len(), &hour["resolution_seconds"]), (61, &60.into()));
    client.get("/api/v1/services/NoService/history").await.problem(404, "not-found");
}

/// Nobody waits for the end of that poll. Who asks much later gets a new one.
#[tokio::test]
async fn a_poll_whose_callers_have_all_left_ends_by_itself_and_grows_old() {
    let latency = Duration::from_millis(20);
    let world = World::new(cpx::Config { latency, ..cpx::Config::default() }).await;
    let client = world.client().await;
    let left = tokio::time::timeout(Duration::from_millis(30), client.get("/api/v1/servers"));
    assert!(left.await.is_err());
    let is_over = async {
        while world.sim.stats().traffic.answers(200) < 151 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio::time::timeout(Duration::from_secs(10), is_over).await.unwrap();
    world.clock.advance(Duration::from_mins(10));
    let reply = client.get("/api/v1/servers").await.expect(200).json();
    assert_eq!((&reply["observed_at"], world.sim.stats().lists), (&"2027-01-15T08:10:00Z".into(), 2));
}

#[tokio::test]
async fn a_reading_is_as_old_as_its_end() {
    let latency = Duration::from_millis(100);
    let world = World::new(cpx::Config { latency, ..small() }).await;
    let client = world.client().await;
    let asking = {
        let client = client.clone();
        tokio::spawn(async move { client.get("/api/v1/servers").await.expect(200).json() })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.clock.advance(Duration::from_secs(60));
    let reply = asking.await.unwrap();
    assert_eq!(reply["observed_at"], "2027-01-15T08:01:00Z");
    assert!(reply["items"].as_array().unwrap().iter().all(|it| it["observed_at"] == reply["observed_at"]), "{reply}");
    // Five seconds are young, more are not.
    for (milliseconds, lists) in [(5000, 1), (1, 2)] {
        world.clock.advance(Duration::from_millis(milliseconds));
        client.get("/api/v1/servers").await.expect(200);
        assert_eq!(world.sim.stats().lists, lists);
    }
}

#[tokio::test]
async fn thresholds_and_the_minimum_are_as_the_settings_say() {
    let settings = [("MUSTER_CPU_THRESHOLD", "95"), ("MUSTER_MEMORY_THRESHOLD", "90.5"), ("MUSTER_MIN_HEALTHY", "3")];
    let world = World::with(small(), &settings).await;
    let client = world.client().await;
    let reply = client.get("/api/v1/servers?status=healthy").await.expect(200).json();
    assert_eq!(reply["thresholds"], serde_json::json!({"cpu_pct": 95.0, "memory_pct": 90.5}));
    assert_eq!(reply["items"].as_array().unwrap().len(), 4);
    let reply = client.get("/api/v1/unhealthy-services").await.expect(200);
    assert_eq!(reply.json()["min_healthy"], 3);
    assert_snapshot!(lines(&reply, |it| format!("{} {}", it["service"].as_str().unwrap(), it["healthy"])), @r"
    IdService 0
    GeoService 1
    ");
    world.minute(&Notifier::default()).await;
    let alerts = client.all("/api/v1/alerts").await;
    let alerts: Vec<_> =
        alerts.iter().map(|it| (it["service"].as_str().unwrap(), &it["min_healthy"], &it["healthy"])).collect();
    assert_eq!(alerts, [("GeoService", &3.into(), &1.into()), ("IdService", &3.into(), &0.into())]);
}

#[tokio::test]
async fn a_full_page_that_is_the_last_has_no_next_one() {
    let world = World::new(small()).await;
    let client = world.client().await;
    world.minute(&Notifier::default()).await;
    for (list, items) in
        [("servers", 8), ("services", 3), ("unhealthy-services?min_healthy=3", 3), ("alerts?state=all", 4)]
    {
        let join = if list.contains('?') { '&' } else { '?' };
        for (limit, next) in [(items, false), (items - 1, true)] {
            let page = client.get(&format!("/api/v1/{list}{join}limit={limit}")).await.expect(200);
            assert_eq!(page.json()["items"].as_array().unwrap().len(), limit, "{list}");
            assert_eq!(page.json()["next_cursor"].is_string(), next, "{list} by {limit}");
            assert_eq!(page.next_link().is_some(), next, "{list} by {limit}");
        }
        let whole = client.get(&format!("/api/v1/{list}")).await.expect(200).json();
        assert_eq!(Value::from(client.all(&format!("/api/v1/{list}{join}limit=2")).await), whole["items"], "{list}");
    }
}

#[tokio::test]
async fn the_next_page_is_of_the_same_question() {
    let world = World::new(small()).await;
    let client = world.client().await;
    world.minute(&Notifier::default()).await;
    let limits = "cpu_threshold=95&memory_threshold=90.5&max_age_seconds=300&limit=1";
    for question in [
        format!("servers?service=IdService&status=unhealthy&sort=-cpu&{limits}"),
        format!("services?{limits}"),
        format!("unhealthy-services?min_healthy=3&{limits}"),
        "alerts?state=all&limit=1".to_owned(),
    ] {
        let page = client.get(&format!("/api/v1/{question}")).await.expect(200);
        let link = page.next_link().unwrap();
        for part in question.split(['?', '&']) {
            assert!(link.contains(part), "{part}: {link}");
        }
    }
}

#[tokio::test]
async fn where_servers_are_equal_their_addresses_decide_and_are_not_turned() {
    let world = World::new(small()).await;
    let client = world.client().await;
    let unhealthy = ["10.58.1.10", "10.58.1.12", "10.58.1.100", "10.58.2.1", "10.58.10.1"];
    let healthy = ["10.58.1.9", "10.58.1.11", "10.58.1.13"];
    assert_eq!(ips(&client, "sort=-status").await, [&unhealthy[..], &healthy].concat());
    assert_eq!(ips(&client, "sort=status").await, [&healthy[..], &unhealthy].concat());
}

#[tokio::test]
async fn a_service_without_snapshots_in_the_window_has_an_empty_history() {
    let world = World::new(small()).await;
    let client = world.client().await;
    world.minute(&Notifier::default()).await;
    world.clock.advance(Duration::from_hours(2));
    let history = client.get("/api/v1/services/GeoService/history").await.expect(200).json();
    assert!(history["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn of_a_service_with_very_many_servers_the_first_are_shown() {
    let servers: Vec<_> = (0..510_u32).map(|n| format!("10.58.{}.{}", n / 250, n % 250)).collect();
    let servers: Vec<_> = servers.iter().map(|ip| (ip.as_str(), "AuthService", 10, 10)).collect();
    let world = World::new(cpx::Config { fleet: Some(fleet(&servers)), ..cpx::Config::default() }).await;
    let service = world.client().await.get("/api/v1/services/AuthService").await.expect(200).json();
    assert_eq!((&service["servers"], service["items"].as_array().unwrap().len()), (&510.into(), 500));
    assert_eq!(service["items"][499]["ip"], "10.58.1.249");
}
