//! SHOUTCLOUD as a client sees it, over real sockets.

use std::collections::BTreeSet;

use crate::common::{change, client, eventually, leave_once, look, send};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use simulators::{
    faults::Down,
    shoutcloud::{self, Config, Garbage, HUGE, PATH, Simulator},
};

fn request(sim: &Simulator, input: &str) -> RequestBuilder {
    client().post(format!("{}{PATH}", sim.url())).json(&json!({ "INPUT": input }))
}

async fn shout(sim: &Simulator, input: &str) -> reqwest::Result<Response> {
    request(sim, input).send().await
}

#[tokio::test]
async fn text_comes_back_in_capitals() {
    let sim = shoutcloud::start(Config::default()).await.unwrap();
    for (input, output) in [("hello", "HELLO"), ("eßarts", "ESSARTS"), ("", ""), ("ŉ ǆ é 🦀", "ʼN Ǆ É 🦀")] {
        let answer = shout(&sim, input).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "INPUT": input, "OUTPUT": output }));
    }
    shout(&sim, "hello").await.unwrap();
    let stats = sim.stats();
    assert_eq!((stats.shouted, stats.distinct_inputs, stats.asked_again), (5, 4, 1));
}

#[tokio::test]
async fn its_content_type_shouts_at_times() {
    let sim = shoutcloud::start(Config::default()).await.unwrap();
    let mut kinds = BTreeSet::new();
    for number in 0..30 {
        kinds.insert(
            shout(&sim, &number.to_string()).await.unwrap().headers()["content-type"]
                .clone()
                .to_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["APPLICATION/JSON", "application/json"]);
}

#[tokio::test]
async fn what_is_malformed_or_elsewhere_is_refused() {
    let sim = shoutcloud::start(Config::default()).await.unwrap();
    let url = format!("{}{PATH}", sim.url());
    for body in ["", "{}", r#"{"input":"hello"}"#, r#"{"INPUT":7}"#] {
        let answer = send(Method::POST, url.clone(), "application/json", body).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(sim.stats().malformed, 4);
    let lower = send(Method::POST, url.to_lowercase(), "application/json", "{}").await;
    assert_eq!(lower.status(), StatusCode::NOT_FOUND);
    assert_eq!(send(Method::GET, url, "application/json", "").await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_200_can_be_anything() {
    let sim = shoutcloud::start(Config { garbage_rate: 1.0, ..Config::default() }).await.unwrap();
    let body = async |garbage| {
        sim.change(|config| config.garbage = Some(garbage));
        let answer = shout(&sim, "hello").await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.unwrap()
    };
    assert!(serde_json::from_str::<Value>(&body(Garbage::NotJson).await).is_err());
    assert_eq!(body(Garbage::NoOutput).await, r#"{"INPUT":"hello"}"#);
    let wrong: Value = serde_json::from_str(&body(Garbage::WrongType).await).unwrap();
    assert!(!wrong["OUTPUT"].is_string(), "{wrong}");
    let huge = body(Garbage::Huge).await;
    assert!(huge.starts_with(r#"{"INPUT":"hello","OUTPUT":"AAAA"#) && huge.ends_with(r#"A"}"#));
    assert!(huge.len() > HUGE);

    sim.change(|config| config.garbage = None);
    let mut lengths = BTreeSet::new();
    for number in 10..40 {
        let answer = shout(&sim, &number.to_string()).await.unwrap();
        lengths.insert(answer.content_length().unwrap());
    }
    assert!(lengths.len() >= 4, "all kinds turn up: {lengths:?}");
    assert_eq!((sim.stats().garbled, sim.stats().shouted), (34, 0));
}

#[tokio::test]
async fn it_drops_fails_hangs_and_goes_away() {
    let sim = shoutcloud::start(Config { drop_rate: 1.0, ..Config::default() }).await.unwrap();
    assert!(shout(&sim, "hello").await.is_err());
    sim.set(Config { error_rate: 1.0, ..Config::default() });
    assert!(shout(&sim, "hello").await.unwrap().status().is_server_error());
    sim.set(Config { hang_rate: 1.0, ..Config::default() });
    leave_once(|| sim.stats().traffic.in_flight == 1, [request(&sim, "hello")]).await;
    eventually(|| sim.stats().traffic.in_flight == 0).await;
    sim.set(Config { down: Down::Reset, ..Config::default() });
    assert!(shout(&sim, "hello").await.is_err());
    assert_eq!(change(sim.url(), &json!({ "down": "503" })).await.status(), StatusCode::OK);
    assert_eq!(shout(&sim, "hello").await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    change(sim.url(), &json!({ "down": "no" })).await;
    assert_eq!(shout(&sim, "hello").await.unwrap().status(), StatusCode::OK);

    let stats = look(sim.url(), "stats").await;
    assert_eq!((&stats["closed"], &stats["abandoned"], &stats["shouted"]), (&json!(2), &json!(1), &json!(1)));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let config = Config { error_rate: 0.5, ..Config::default() };
    let mut runs = Vec::new();
    for seed in [3, 3, 4] {
        let sim = shoutcloud::start(Config { seed, ..config.clone() }).await.unwrap();
        let mut statuses = Vec::new();
        for number in 0..40 {
            statuses.push(shout(&sim, &number.to_string()).await.unwrap().status());
        }
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
