//! The LoRaWAN provider as a client sees it, over real sockets: its contract and its counts.

use std::{collections::BTreeMap, time::Duration};

use crate::common::{change, client, eventually, leave_once, look, send, within};
use futures::{StreamExt, future::join_all, stream};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;
use simulators::{
    faults::Down,
    lorawan::{self, Config, PATH, Simulator},
    server::StartError,
};

async fn ask(url: &str, deveui: String) -> reqwest::Result<Response> {
    client().post(format!("{url}{PATH}")).json(&json!({ "deveui": deveui })).send().await
}

async fn status(sim: &Simulator, deveui: String) -> u16 {
    ask(sim.url(), deveui).await.unwrap().status().as_u16()
}

fn deveui(number: u64) -> String {
    format!("{:016X}", 0x7811_1FFF_E000_0000 + number)
}

/// The status each DevEUI gets, 0 for no answer.
async fn outcomes(config: &Config, order: impl Iterator<Item = u64>, at_once: usize) -> BTreeMap<u64, Vec<u16>> {
    let sim = lorawan::start(config.clone()).await.unwrap();
    let ask_twice = |number: u64| {
        let sim = &sim;
        async move {
            let mut seen = Vec::new();
            for _ in 0..2 {
                seen.push(ask(sim.url(), deveui(number)).await.map_or(0, |answer| answer.status().as_u16()));
            }
            (number, seen)
        }
    };
    stream::iter(order).map(ask_twice).buffer_unordered(at_once).collect().await
}

#[tokio::test]
async fn a_deveui_is_registered_once_and_refused_from_then_on() {
    let sim = lorawan::start(Config::default()).await.unwrap();
    assert_eq!(status(&sim, "78111FFFE452555B".to_owned()).await, 200);
    assert_eq!(status(&sim, "78111FFFE452555B".to_owned()).await, 422);
    assert_eq!(sim.registered().into_iter().collect::<Vec<_>>(), ["78111FFFE452555B"]);

    let stats = sim.stats();
    assert_eq!((stats.registered, stats.duplicates, stats.conflicts), (1, 1, 0));
    assert_eq!((stats.distinct_deveuis, stats.asked_again), (1, 1));
}

#[tokio::test]
async fn a_success_is_told_by_true_or_by_nothing() {
    let sim = lorawan::start(Config::default()).await.unwrap();
    let mut bodies = BTreeMap::new();
    for number in 0..40 {
        let body = ask(sim.url(), deveui(number)).await.unwrap().text().await.unwrap();
        *bodies.entry(body).or_insert(0) += 1;
    }
    assert_eq!(bodies.keys().map(String::as_str).collect::<Vec<_>>(), ["", "true"]);
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_registers_nothing() {
    let sim = lorawan::start(Config::default()).await.unwrap();
    let url = format!("{}{PATH}", sim.url());
    let bodies = [
        "",
        "null",
        "{}",
        r#"{"deveui":17}"#,
        r#"{"deveui":""}"#,
        r#"{"deveui":"78111fffe452555b"}"#,
        r#"{"deveui":"78111FFFE452555"}"#,
        r#"{"deveui":"78111FFFE452555B0"}"#,
        r#"{"deveui":"+8111FFFE452555B"}"#,
        r#"{"deveui":"78111FFFE452555B""#,
    ];
    for body in bodies {
        let answer = send(Method::POST, url.clone(), "application/json", body).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let answer = send(Method::POST, url, "text/plain", r#"{"deveui":"78111FFFE452555B"}"#).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);

    let stats = sim.stats();
    assert_eq!((stats.malformed, stats.registered, stats.distinct_deveuis), (11, 0, 0));
}

#[tokio::test]
async fn other_paths_methods_and_sizes_are_refused() {
    let sim = lorawan::start(Config::default()).await.unwrap();
    let elsewhere = send(Method::POST, format!("{}/", sim.url()), "application/json", "{}").await;
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    let read = send(Method::GET, format!("{}{PATH}", sim.url()), "application/json", "").await;
    assert_eq!(read.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(read.headers()["allow"], "POST");
    let huge = send(Method::POST, format!("{}{PATH}", sim.url()), "application/json", &"x".repeat((1 << 20) + 1)).await;
    assert_eq!(huge.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(sim.stats().traffic.by_status, BTreeMap::from([(404, 1), (405, 1), (413, 1)]));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults_in_any_order() {
    let config = Config {
        seed: 11,
        conflict_rate: 0.2,
        error_rate: 0.2,
        error_after_rate: 0.2,
        drop_before_rate: 0.2,
        drop_after_rate: 0.2,
        garbage_rate: 0.1,
        throttle_rate: 0.2,
        ..Config::default()
    };
    let one_by_one = outcomes(&config, 0..150, 1).await;
    let all_at_once =
        outcomes(&Config { jitter: Duration::from_millis(20), ..config.clone() }, (0..150).rev(), 50).await;
    assert_eq!(one_by_one, all_at_once);
    assert_ne!(one_by_one, outcomes(&Config { seed: 12, ..config }, 0..150, 50).await);
}

#[tokio::test]
async fn a_strangers_deveui_stays_the_strangers() {
    let config = Config { conflict_rate: 0.3, ..Config::default() };
    let sim = lorawan::start(config.clone()).await.unwrap();
    let mut strangers = Vec::new();
    for number in 0..50 {
        let first = status(&sim, deveui(number)).await;
        assert_eq!(status(&sim, deveui(number)).await, 422);
        if first == 422 {
            strangers.push(number);
        }
    }
    assert!((5..30).contains(&strangers.len()), "{strangers:?}");

    sim.change(|config| config.conflict_rate = 0.0);
    let again = lorawan::start(config).await.unwrap();
    for number in &strangers {
        assert_eq!(status(&sim, deveui(*number)).await, 422, "although conflicts have been switched off");
        assert_eq!(status(&again, deveui(*number)).await, 422, "in another run of the same seed");
        assert!(!sim.registered().contains(&deveui(*number)));
    }
    let stats = sim.stats();
    assert_eq!(stats.strangers, strangers.len() as u64);
    assert_eq!(stats.conflicts, 3 * stats.strangers);
    assert_eq!(stats.registered + stats.strangers, 50);
}

#[tokio::test]
async fn max_in_flight_is_the_most_there_were_at_once() {
    let sim = lorawan::start(Config { latency: Duration::from_millis(300), ..Config::default() }).await.unwrap();
    let provider = &sim;
    let answers = join_all((0..8).map(|number| async move { status(provider, deveui(number)).await }));
    let (statuses, ()) = tokio::join!(answers, eventually(|| sim.stats().traffic.in_flight == 8));
    assert_eq!(statuses, [200; 8]);
    assert_eq!((sim.stats().traffic.in_flight, sim.stats().traffic.max_in_flight), (0, 8));
    sim.change(|config| config.latency = Duration::ZERO);
    for number in 8..20 {
        assert_eq!(status(&sim, deveui(number)).await, 200);
    }
    assert_eq!(sim.stats().traffic.max_in_flight, 8);
}

#[tokio::test]
async fn a_request_is_out_of_flight_before_its_client_can_send_the_next() {
    let sim = lorawan::start(Config::default()).await.unwrap();
    let keeping_connections = reqwest::Client::new();
    let clients = (0..4_u64).map(|client| {
        let (http, url) = (&keeping_connections, format!("{}{PATH}", sim.url()));
        async move {
            for number in 0..200 {
                let body = json!({ "deveui": deveui(client * 1000 + number) });
                assert_eq!(http.post(&url).json(&body).send().await.unwrap().status(), 200);
            }
        }
    });
    join_all(clients).await;
    assert!(sim.stats().traffic.max_in_flight <= 4);
}

#[tokio::test]
async fn latency_runs_from_the_arrival_of_the_request() {
    let latency = Duration::from_millis(60);
    let sim = lorawan::start(Config { latency, jitter: latency, ..Config::default() }).await.unwrap();
    for number in 0..5 {
        let began = std::time::Instant::now();
        assert_eq!(status(&sim, deveui(number)).await, 200);
        assert!(began.elapsed() >= latency, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_undo_what_it_asked_for() {
    let sim = lorawan::start(Config { latency: Duration::from_millis(300), ..Config::default() }).await.unwrap();
    let request = client().post(format!("{}{PATH}", sim.url())).json(&json!({ "deveui": deveui(1) }));
    leave_once(|| sim.stats().traffic.in_flight == 1, [request]).await;
    assert_eq!(sim.stats().traffic.in_flight, 1, "the provider is still at work");
    eventually(|| sim.registered().contains(&deveui(1))).await;
    eventually(|| sim.stats().traffic.in_flight == 0).await;
    let stats = sim.stats();
    assert_eq!((stats.answers_lost, stats.traffic.abandoned), (1, 1));
}

#[tokio::test]
async fn the_simulator_can_be_watched_and_changed_over_http_uncounted() {
    let sim = lorawan::start(Config::default()).await.unwrap();
    assert_eq!(status(&sim, deveui(1)).await, 200);
    assert_eq!(look(sim.url(), "registered").await, json!([deveui(1)]));
    assert_eq!(look(sim.url(), "faults").await["latency"], "0s");

    let changed = change(sim.url(), &json!({ "down": "503", "latency": "1ms", "throttle_above": 3 })).await;
    assert_eq!(changed.status(), StatusCode::OK);
    let expected = Config {
        down: Down::Status503,
        latency: Duration::from_millis(1),
        throttle_above: Some(3),
        ..Config::default()
    };
    assert_eq!(sim.config(), expected);
    assert_eq!(status(&sim, deveui(2)).await, 503);
    change(sim.url(), &json!({ "down": "reset" })).await;
    assert!(ask(sim.url(), deveui(2)).await.is_err());
    change(sim.url(), &json!({ "down": "no", "throttle_above": null })).await;
    assert_eq!(status(&sim, deveui(2)).await, 200);

    for refused in [json!({ "eror_rate": 0.5 }), json!({ "error_rate": 1.5 }), json!({ "latency": 100 }), json!([])] {
        assert_eq!(change(sim.url(), &refused).await.status(), StatusCode::BAD_REQUEST, "{refused}");
    }
    assert!(sim.config().error_rate.abs() < f64::EPSILON);

    let stats = look(sim.url(), "stats").await;
    assert_eq!(stats, serde_json::to_value(sim.stats()).unwrap());
    assert_eq!(stats["requests"], 4);
    assert_eq!(stats["by_status"], json!({ "200": 2, "503": 1 }));
    assert_eq!(stats["closed"], 1);
    let unknown = client().get(format!("{}/_sim/unknown", sim.url())).send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_request_is_accounted_for() {
    let config = Config {
        latency: Duration::from_millis(1),
        conflict_rate: 0.1,
        error_rate: 0.1,
        drop_after_rate: 0.1,
        garbage_rate: 0.1,
        hang_rate: 0.1,
        hang_for: Duration::from_millis(20),
        throttle_above: Some(20),
        ..Config::default()
    };
    let sim = lorawan::start(config).await.unwrap();
    let asked = stream::iter(0..200).map(|number| ask(sim.url(), deveui(number % 150)));
    asked.buffer_unordered(30).for_each(|_| std::future::ready(())).await;
    let stats = sim.stop().await;
    let traffic = &stats.traffic;
    let answers: u64 = traffic.by_status.values().sum();
    assert_eq!((traffic.requests, traffic.in_flight), (200, 0));
    assert_eq!(answers + traffic.closed + traffic.garbage + traffic.abandoned, 200, "{traffic:?}");
    assert_eq!(stats.registered, traffic.answers(200) + stats.answers_lost);
    assert_eq!(stats.distinct_deveuis, 150);
}

#[tokio::test]
async fn stopping_lets_the_last_answer_out_and_takes_no_more() {
    let sim = lorawan::start(Config { latency: Duration::from_millis(150), ..Config::default() }).await.unwrap();
    let url = sim.url().to_owned();
    let asking = tokio::spawn({
        let url = url.clone();
        async move { ask(&url, deveui(1)).await.unwrap().status() }
    });
    eventually(|| sim.stats().traffic.in_flight == 1).await;
    let stats = within(sim.stop()).await;
    assert_eq!(asking.await.unwrap(), StatusCode::OK);
    assert_eq!((stats.registered, stats.traffic.answers(200)), (1, 1));
    assert!(ask(&url, deveui(2)).await.unwrap_err().is_connect());
}

#[tokio::test]
async fn stopping_does_not_wait_for_what_hangs_and_dropping_for_nothing() {
    for stop in [true, false] {
        let slow = Config {
            hang_rate: f64::from(u8::from(stop)),
            latency: Duration::from_millis(if stop { 0 } else { 60_000 }),
            ..Config::default()
        };
        let sim = lorawan::start(slow).await.unwrap();
        let url = sim.url().to_owned();
        let asking = tokio::spawn(async move { ask(&url, deveui(1)).await });
        eventually(|| sim.stats().traffic.in_flight == 1).await;
        if stop {
            let began = std::time::Instant::now();
            within(sim.stop()).await;
            // What is killed after the time of grace took 2 seconds.
            assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
        } else {
            drop(sim);
        }
        assert!(!within(asking).await.unwrap().unwrap_err().is_timeout());
    }
}

#[tokio::test]
async fn only_loopback_addresses_are_listened_on() {
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = lorawan::start_on(open.parse().unwrap(), Config::default()).await.unwrap_err();
        assert!(matches!(refused, StartError::NotLoopback(_)), "{refused}");
    }
    let sim = lorawan::start(Config::default()).await.unwrap();
    let taken = lorawan::start_on(sim.addr(), Config::default()).await.unwrap_err();
    assert!(taken.to_string().starts_with(&format!("cannot listen on {}", sim.addr())), "{taken}");
}
