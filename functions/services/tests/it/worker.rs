//! Minute after minute: what is kept, and when an alert fires.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use jiff::SignedDuration;
use kit::{dynamo::AttributeValue, testing::Client};
use serde_json::{Value, json};
use services::{notify::Notifier, worker::Ended};
use simulators::cpx::{self, Fate};

use crate::common::{NOON, World, fleet};

/// Two services of three servers, all well.
pub fn well() -> cpx::Config {
    let servers = fleet(&[
        ("10.58.1.1", "AuthService", 10, 10),
        ("10.58.1.2", "AuthService", 20, 20),
        ("10.58.1.3", "AuthService", 30, 30),
        ("10.58.1.4", "GeoService", 40, 40),
        ("10.58.1.5", "GeoService", 50, 50),
        ("10.58.1.6", "GeoService", 60, 60),
    ]);
    cpx::Config { fleet: Some(servers), ..cpx::Config::default() }
}

/// Makes servers of the fleet so busy that they are unhealthy, or well again.
pub fn busy(world: &World, ips: &[&str], cpu: u8) {
    let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    world.sim.change(|config| {
        config.fleet.as_mut().unwrap().iter_mut().filter(|it| ips.contains(&it.ip)).for_each(|it| it.cpu = cpu);
    });
}

pub async fn alerts(client: &Client, state: &str) -> Vec<Value> {
    client.all(&format!("/api/v1/alerts?state={state}")).await
}

/// The state of the alert of each service.
async fn states(client: &Client) -> BTreeMap<String, String> {
    let text = |it: &Value| it.as_str().unwrap_or("CPX").to_owned();
    alerts(client, "all").await.iter().map(|it| (text(&it["service"]), text(&it["state"]))).collect()
}

#[tokio::test]
async fn an_alert_fires_after_three_minutes_and_clears_after_three() {
    let world = World::new(well()).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    let minute = async |state: &str| {
        world.minute(&notifier).await;
        let states = states(&client).await;
        assert_eq!(states["AuthService"], state);
        assert_eq!((&*states["GeoService"], &*states["CPX"]), ("ok", "ok"), "the others are not touched");
    };
    minute("ok").await;
    busy(&world, &["10.58.1.1", "10.58.1.2"], 95);
    minute("pending").await;
    minute("pending").await;
    minute("firing").await;
    let active = alerts(&client, "active").await;
    assert_eq!(active.len(), 1, "one alert for the service, none for its servers");
    assert_eq!((&active[0]["kind"], &active[0]["service"]), (&json!("service"), &json!("AuthService")));
    assert_eq!(
        (&active[0]["healthy"], &active[0]["servers"], &active[0]["min_healthy"]),
        (&1.into(), &3.into(), &2.into())
    );
    let sick: Vec<_> = active[0]["sick"].as_array().unwrap().iter().map(|it| it["ip"].as_str().unwrap()).collect();
    assert_eq!(sick, ["10.58.1.1", "10.58.1.2"]);
    assert_eq!(
        (&active[0]["since"], &active[0]["observed_at"]),
        (&json!("2027-01-15T08:03:00Z"), &json!("2027-01-15T08:03:00Z"))
    );
    assert_eq!((&active[0]["told_at"], &active[0]["telling"]), (&json!("2027-01-15T08:03:00Z"), &json!(false)));
    // One change, three observations ago.
    let score = 100.0 * 91.0 / 76.0 / 20.0;
    assert!((active[0]["flap_score"].as_f64().unwrap() - score).abs() < 1e-9, "{active:?}");
    busy(&world, &["10.58.1.1"], 90);
    minute("clearing").await;
    minute("clearing").await;
    minute("ok").await;
    assert!(alerts(&client, "active").await.is_empty());
    assert_eq!(alerts(&client, "ok").await.len(), 3);
}

#[tokio::test]
async fn a_minute_that_comes_again_or_late_does_nothing() {
    let world = World::new(well()).await;
    let client = world.client().await;
    let watcher = world.watcher(&Notifier::default());
    busy(&world, &["10.58.1.1", "10.58.1.2"], 95);
    let slot = |minutes: i64| NOON + SignedDuration::from_mins(minutes);
    assert!(matches!(watcher.tick(slot(1)).await.unwrap(), Ended::Done { services: 2, servers: 6, unknown: 0, .. }));
    let before = alerts(&client, "all").await;
    for again in [1, 1, 0, -5] {
        assert_eq!(watcher.tick(slot(again)).await.unwrap(), Ended::Duplicate, "{again}");
    }
    assert_eq!(alerts(&client, "all").await, before);
    assert_eq!(world.sim.stats().lists, 1, "CPX was not asked again");
    world.clock.advance(Duration::from_mins(60));
    assert_eq!(watcher.tick(slot(1)).await.unwrap(), Ended::Duplicate, "what is done is done");
    let history = client.get("/api/v1/services/AuthService/history?window=2h").await.expect(200).json();
    assert_eq!(history["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn of_many_workers_at_once_one_does_the_minute() {
    let world = World::new(well()).await;
    let notifier = Notifier::default();
    let watchers: Vec<_> = (0..20).map(|_| world.watcher(&notifier)).collect();
    let ticks = watchers.iter().map(|watcher| watcher.tick(NOON));
    let ended: Vec<_> = futures::future::join_all(ticks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(ended.iter().filter(|it| matches!(it, Ended::Done { .. })).count(), 1, "{ended:?}");
    assert_eq!(world.sim.stats().lists, 1);
}

#[tokio::test]
async fn a_worker_that_died_leaves_its_minute_to_another_after_a_while() {
    let world = World::with(well(), &[("MUSTER_CPX_TIMEOUT_SECONDS", "20")]).await;
    let watcher = world.watcher(&Notifier::default());
    world.sim.change(|config| config.list_fate = Fate::Hang);
    // It dies in the middle of its poll.
    assert!(tokio::time::timeout(Duration::from_millis(200), watcher.tick(NOON)).await.is_err());
    world.sim.change(|config| config.list_fate = Fate::Well);
    assert_eq!(watcher.tick(NOON).await.unwrap(), Ended::Duplicate, "it may be alive");
    world.clock.advance(Duration::from_secs(51));
    assert!(matches!(watcher.tick(NOON).await.unwrap(), Ended::Done { .. }));
}

#[tokio::test]
async fn when_cpx_lists_nothing_the_services_wait_and_an_alert_of_its_own_fires() {
    let world = World::new(well()).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    busy(&world, &["10.58.1.1", "10.58.1.2"], 95);
    world.minute(&notifier).await;
    world.minute(&notifier).await;
    world.sim.change(|config| config.list_fate = Fate::Error);
    for _ in 0..3 {
        assert_eq!(world.minute(&notifier).await, Ended::NoList);
    }
    let states = states(&client).await;
    assert_eq!((&*states["CPX"], &*states["AuthService"]), ("firing", "pending"), "a blind eye sees no change");
    let source = &alerts(&client, "firing").await[0];
    assert_eq!((&source["kind"], &source["service"]), (&json!("source"), &Value::Null));
    world.sim.change(|config| config.list_fate = Fate::Well);
    world.minute(&notifier).await;
    assert_eq!(self::states(&client).await["AuthService"], "firing");
}

#[tokio::test]
async fn servers_that_cpx_had_no_time_to_tell_of_fire_nothing() {
    let world = World::with(well(), &[("MUSTER_CPX_DEADLINE_SECONDS", "0.4")]).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    world.minute(&notifier).await;
    // They would have had two seconds.
    world.sim.change(|config| config.hang_rate = 1.0);
    for _ in 0..4 {
        let Ended::Done { unknown, .. } = world.minute(&notifier).await else { panic!("no list") };
        assert_eq!(unknown, 6);
    }
    assert!(alerts(&client, "firing").await.is_empty());
}

#[tokio::test]
async fn a_service_that_is_gone_is_short_for_an_hour_and_then_forgotten() {
    let world = World::new(well()).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    world.minute(&notifier).await;
    world.sim.change(|config| config.fleet.as_mut().unwrap().retain(|it| it.service != "GeoService"));
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    assert_eq!(alerts(&client, "firing").await[0]["service"], "GeoService");
    let short = client.get("/api/v1/unhealthy-services").await.expect(200).json();
    assert_eq!(
        short["items"][0],
        json!({"service": "GeoService", "healthy": 0, "unhealthy": 0, "unknown": 0, "servers": 0})
    );
    for _ in 0..58 {
        world.minute(&notifier).await;
    }
    assert_eq!(states(&client).await.len(), 2, "it is forgotten");
    let services = client.get("/api/v1/services?max_age_seconds=0").await.expect(200).json();
    assert_eq!(services["items"].as_array().unwrap().len(), 1);
    // And begins anew when it comes back.
    world.sim.set(well());
    world.minute(&notifier).await;
    assert_eq!(states(&client).await["GeoService"], "ok");
}

#[tokio::test]
async fn a_server_is_kept_minute_by_minute_while_it_is_not_healthy() {
    let world = World::new(well()).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    world.minute(&notifier).await;
    busy(&world, &["10.58.1.2"], 97);
    world.minute(&notifier).await;
    world.minute(&notifier).await;
    busy(&world, &["10.58.1.2"], 10);
    world.minute(&notifier).await;
    let minutes = client.all("/api/v1/servers/10.58.1.2/history?limit=1").await;
    let at: Vec<_> = minutes.iter().map(|it| it["at"].as_str().unwrap()).collect();
    assert_eq!(at, ["2027-01-15T08:02:00Z", "2027-01-15T08:01:00Z"]);
    assert_eq!((&minutes[0]["cpu_pct"], &minutes[0]["service"]), (&97.0.into(), &json!("AuthService")));
    assert!(client.all("/api/v1/servers/10.58.1.1/history").await.is_empty());
}

#[tokio::test]
async fn snapshots_expire_after_fourteen_days() {
    let world = World::new(well()).await;
    let notifier = Notifier::default();
    world.minute(&notifier).await;
    let scan = world.store.client().scan().table_name(world.store.table(&services::TABLE)).send().await.unwrap();
    let expiries: Vec<i64> = scan
        .items()
        .iter()
        .filter(|item| item["pk"].as_s().unwrap().starts_with("HISTORY#"))
        .map(|item| item["ttl"].as_n().unwrap().parse().unwrap())
        .collect();
    assert_eq!(expiries, [NOON.as_second() + 14 * 86_400; 2]);
    let records = world.records().records().await.unwrap();
    assert_eq!(records.iter().map(|it| it.kept.ttl).collect::<Vec<_>>(), [NOON.as_second() + 14 * 86_400; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_works_every_minute_by_the_clock() {
    // Nothing listens there, so that paused time need not wait for sockets.
    let world = World::with(well(), &[("MUSTER_CPX_URL", "http://127.0.0.1:9")]).await;
    let clock = kit::clock::Clock::runtime(NOON + SignedDuration::from_secs(42));
    let watcher =
        services::worker::Watcher::new(world.config.clone(), world.store.clone(), Notifier::default(), clock.clone())
            .unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let working = {
        let stop = stop.clone();
        tokio::spawn(async move { watcher.work_forever(&stop).await })
    };
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    stop.cancel();
    working.await.unwrap();
    let record = &world.records().records().await.unwrap()[0];
    let last = record.kept.machine.last_slot.unwrap();
    assert_eq!(last, NOON + SignedDuration::from_mins(5), "from the minute that it began in");
}

/// DynamoDB counts a write by begun kilobytes.
#[tokio::test]
async fn a_record_of_a_service_is_one_write_unit() {
    let world = World::new(cpx::Config { seed: 5, ..cpx::Config::default() }).await;
    for _ in 0..8 {
        world.minute(&Notifier::default()).await;
    }
    let scan = world.store.client().scan().table_name(world.store.table(&services::TABLE)).send().await.unwrap();
    let records = scan.items().iter().filter(|item| item["sk"].as_s().unwrap().starts_with("SERVICE#"));
    let sizes: Vec<usize> =
        records.map(|item| item.iter().map(|(name, value)| name.len() + size(value)).sum()).collect();
    assert_eq!(sizes.len(), 10);
    assert!(sizes.iter().all(|&size| size < 1024), "{sizes:?}");
}

/// By the rules of DynamoDB's guide, "Item sizes and formats", and never less.
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::L(list) => 3 + list.iter().map(|it| 1 + size(it)).sum::<usize>(),
        AttributeValue::M(map) => 3 + map.iter().map(|(name, it)| 1 + name.len() + size(it)).sum::<usize>(),
        AttributeValue::Bool(_) | AttributeValue::Null(_) => 1,
        other => panic!("{other:?} has no size here"),
    }
}

#[tokio::test]
async fn a_service_whose_servers_are_silent_fires() {
    let world = World::with(well(), &[("MUSTER_CPX_TIMEOUT_SECONDS", "0.1")]).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    world.minute(&notifier).await;
    world.sim.change(|config| config.hang_rate = 1.0);
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    let firing = alerts(&client, "firing").await;
    assert_eq!(firing.len(), 2);
    for alert in firing {
        assert_eq!((&alert["servers"], &alert["healthy"]), (&3.into(), &0.into()), "they still belong to it");
        assert_eq!(alert["sick"][0]["reason"], "no answer in time");
    }
}

#[tokio::test]
async fn a_minute_with_too_little_time_neither_counts_nor_breaks_a_row() {
    let world = World::with(well(), &[("MUSTER_CPX_DEADLINE_SECONDS", "0.4")]).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    busy(&world, &["10.58.1.1", "10.58.1.2"], 95);
    world.minute(&notifier).await;
    world.minute(&notifier).await;
    world.sim.change(|config| config.hang_rate = 1.0);
    world.minute(&notifier).await;
    assert_eq!(states(&client).await["AuthService"], "pending");
    world.sim.change(|config| config.hang_rate = 0.0);
    world.minute(&notifier).await;
    assert_eq!(states(&client).await["AuthService"], "firing");
}

#[tokio::test]
async fn what_there_was_no_time_for_excuses_no_more_than_it_may_be() {
    let world = World::with(well(), &[("MUSTER_CPX_DEADLINE_SECONDS", "0.4")]).await;
    let notifier = Notifier::default();
    world.minute(&notifier).await;
    busy(&world, &["10.58.1.1", "10.58.1.2"], 95);
    // Were it healthy, it would be the only one.
    let script = json!([{"at": "0s", "ips": ["10.58.1.3"], "state": "hang"}]);
    world.sim.change(|config| config.script = Some(serde_json::from_value(script).unwrap()));
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    assert_eq!(states(&world.client().await).await["AuthService"], "firing");
}

#[tokio::test]
async fn the_hour_after_which_a_service_is_gone_begins_anew_when_it_comes_back() {
    let world = World::new(well()).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    let without = cpx::Config {
        fleet: well().fleet.map(|fleet| fleet.into_iter().filter(|it| it.service != "GeoService").collect()),
        ..cpx::Config::default()
    };
    // Ticks are missed between those.
    let at = async |minute: i64, config: &cpx::Config| {
        let ahead = (NOON + SignedDuration::from_mins(minute)).duration_since(world.clock.now());
        world.clock.advance(ahead.unsigned_abs());
        world.sim.set(config.clone());
        world.minute(&notifier).await;
        states(&client).await.contains_key("GeoService")
    };
    assert!(at(0, &well()).await);
    assert!(at(1, &without).await);
    assert!(at(31, &well()).await);
    assert!(at(32, &without).await);
    assert!(at(91, &without).await, "59 minutes");
    let geo = alerts(&client, "all").await.into_iter().find(|it| it["service"] == "GeoService").unwrap();
    assert!(!at(92, &without).await, "an hour");
    let ttl = async || world.records().records().await.unwrap().iter().map(|it| it.kept.ttl).collect::<Vec<_>>();
    let (day, fortnight) = (24 * 3600, 14 * 24 * 3600);
    let slot = |minute: i64| NOON.as_second() + minute * 60;
    assert_eq!(ttl().await, [slot(92) + fortnight, slot(92) + fortnight, slot(92) + day]);
    assert!(!at(93, &without).await);
    assert_eq!(ttl().await[2], slot(92) + day, "what is gone is not gone on with");
    let history = client.get("/api/v1/services/GeoService/history?window=3h").await.expect(200).json();
    assert_eq!(history["items"].as_array().unwrap().len(), 5, "no snapshot of what is gone");
    let path = format!("/api/v1/alerts/{}/silence", geo["id"].as_str().unwrap());
    client.post(&path, json!({"until": "2027-01-16T00:00:00Z", "reason": "x"})).await.problem(404, "not-found");
    let services = client.get("/api/v1/unhealthy-services").await.expect(200).json();
    assert_eq!(services["items"], json!([]));
}

#[tokio::test]
async fn a_worker_that_is_stopped_leaves_its_tick_at_once() {
    let world = World::new(cpx::Config { list_fate: Fate::Hang, ..well() }).await;
    let watcher = world.watcher(&Notifier::default());
    let stop = tokio_util::sync::CancellationToken::new();
    let working = {
        let stop = stop.clone();
        tokio::spawn(async move { watcher.work_forever(&stop).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.sim.stats().lists, 1);
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), working).await.unwrap().unwrap();
}

#[tokio::test]
async fn alerts_are_listed_by_where_they_are() {
    let world = World::new(well()).await;
    let client = world.client().await;
    let notifier = Notifier::default();
    let minutes = async |ips: &[&str], cpu: u8, number: usize| {
        busy(&world, ips, cpu);
        for _ in 0..number {
            world.minute(&notifier).await;
        }
    };
    let of = async |state: &str| {
        let all = alerts(&client, state).await;
        all.iter().map(|it| it["service"].as_str().unwrap_or("CPX").to_owned()).collect::<Vec<_>>()
    };
    let (auth, geo) = (&["10.58.1.1", "10.58.1.2"][..], &["10.58.1.4", "10.58.1.5"][..]);
    minutes(auth, 95, 3).await;
    minutes(geo, 95, 0).await;
    minutes(auth, 10, 1).await;
    assert_eq!(
        (of("clearing").await, of("pending").await, of("ok").await),
        (vec!["AuthService".to_owned()], vec!["GeoService".to_owned()], vec!["CPX".to_owned()])
    );
    assert_eq!(of("active").await, ["AuthService", "GeoService"]);
    minutes(geo, 10, 0).await;
    for _ in 0..8 {
        minutes(auth, 95, 1).await;
        minutes(auth, 10, 1).await;
    }
    minutes(auth, 10, 3).await;
    assert_eq!(
        (of("flapping").await, of("active").await),
        (vec!["AuthService".to_owned()], vec!["AuthService".to_owned()])
    );
    assert_eq!(of("ok").await, ["CPX", "AuthService", "GeoService"], "it flaps, and nothing is wrong with it now");
}
