//! Each fault of the LoRaWAN provider does what it says, and registers what it says.

use std::time::Duration;

use crate::common::{client, eventually, leave_once};
use futures::future::join_all;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::json;
use simulators::{
    faults::Down,
    lorawan::{self, Config, PATH, Simulator},
};

fn request(sim: &Simulator, number: u64) -> RequestBuilder {
    client().post(format!("{}{PATH}", sim.url())).json(&json!({ "deveui": deveui(number) }))
}

async fn ask(sim: &Simulator, number: u64) -> reqwest::Result<Response> {
    request(sim, number).send().await
}

fn deveui(number: u64) -> String {
    format!("{:016X}", 0x7811_1FFF_E000_0000 + number)
}

fn is_html(answer: &Response) -> bool {
    answer.headers()["content-type"].to_str().unwrap().starts_with("text/html")
}

#[tokio::test]
async fn drop_after_registers_and_gives_no_answer() {
    let sim = lorawan::start(Config { drop_after_rate: 1.0, ..Config::default() }).await.unwrap();
    for number in 0..10 {
        let error = ask(&sim, number).await.unwrap_err();
        assert!(!error.is_connect() && !error.is_timeout(), "{error:?}");
        assert!(sim.registered().contains(&deveui(number)));
    }
    let stats = sim.stats();
    assert_eq!((stats.registered, stats.answers_lost, stats.traffic.closed), (10, 10, 10));

    sim.set(Config::default());
    assert_eq!(ask(&sim, 0).await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn drop_before_gives_no_answer_and_registers_nothing() {
    let sim = lorawan::start(Config { drop_before_rate: 1.0, ..Config::default() }).await.unwrap();
    for number in 0..10 {
        assert!(ask(&sim, number).await.is_err());
    }
    let stats = sim.stats();
    assert_eq!((stats.registered, stats.answers_lost, stats.traffic.closed), (0, 0, 10));
}

#[tokio::test]
async fn a_dropped_connection_ends_in_good_order_or_by_a_reset() {
    let sim = lorawan::start(Config { drop_before_rate: 1.0, ..Config::default() }).await.unwrap();
    let mut resets = 0;
    for number in 0..20 {
        let error = format!("{:?}", ask(&sim, number).await.unwrap_err());
        resets += u32::from(error.contains("ConnectionReset"));
    }
    assert!((1..20).contains(&resets), "{resets}");
}

#[tokio::test]
async fn garbage_is_no_http_and_registers_nothing() {
    let sim = lorawan::start(Config { garbage_rate: 1.0, ..Config::default() }).await.unwrap();
    for number in 0..20 {
        let error = format!("{:?}", ask(&sim, number).await.unwrap_err());
        assert!(error.contains("Parse("), "{error}");
    }
    let stats = sim.stats();
    assert_eq!((stats.registered, stats.traffic.garbage), (0, 20));
}

#[tokio::test]
async fn an_error_registers_nothing_and_is_a_page_at_times() {
    let sim = lorawan::start(Config { error_rate: 1.0, ..Config::default() }).await.unwrap();
    let mut pages = 0;
    for number in 0..30 {
        pages += u32::from(is_html(&ask(&sim, number).await.unwrap()));
    }
    assert!((1..30).contains(&pages), "{pages}");
    let stats = sim.stats();
    assert_eq!((stats.registered, stats.answers_lost), (0, 0));
    assert_eq!(stats.traffic.by_status.keys().copied().collect::<Vec<_>>(), [500, 502, 503]);
}

#[tokio::test]
async fn an_error_after_hides_a_registration() {
    let sim = lorawan::start(Config { error_after_rate: 1.0, ..Config::default() }).await.unwrap();
    for number in 0..10 {
        assert!(ask(&sim, number).await.unwrap().status().is_server_error());
    }
    let stats = sim.stats();
    assert_eq!((stats.registered, stats.answers_lost), (10, 10));
}

#[tokio::test]
async fn a_hanging_request_counts_until_its_client_gives_up_and_half_are_registered() {
    let sim = lorawan::start(Config { hang_rate: 1.0, ..Config::default() }).await.unwrap();
    let requests = (0..30).map(|number| request(&sim, number));
    leave_once(|| sim.stats().traffic.in_flight == 30, requests).await;
    eventually(|| sim.stats().traffic.in_flight == 0).await;
    let stats = sim.stats();
    assert_eq!(stats.traffic.abandoned, 30);
    assert!((5..25).contains(&stats.registered), "{}", stats.registered);
    assert_eq!(stats.answers_lost, stats.registered);
}

#[tokio::test]
async fn a_patient_client_of_a_hanging_request_is_left_without_an_answer_in_the_end() {
    let hang_for = Duration::from_millis(100);
    let sim = lorawan::start(Config { hang_rate: 1.0, hang_for, ..Config::default() }).await.unwrap();
    let began = std::time::Instant::now();
    assert!(!ask(&sim, 1).await.unwrap_err().is_timeout());
    assert!(began.elapsed() >= hang_for);
    assert_eq!(sim.stats().traffic.closed, 1);
}

#[tokio::test]
async fn throttling_registers_nothing_and_says_at_times_when_to_come_back() {
    let sim = lorawan::start(Config { throttle_rate: 1.0, retry_after_seconds: 0, ..Config::default() }).await.unwrap();
    let mut hints = Vec::new();
    for number in 0..30 {
        let answer = ask(&sim, number).await.unwrap();
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        hints.extend(answer.headers().get("retry-after").cloned());
    }
    assert!((1..30).contains(&hints.len()), "{}", hints.len());
    assert!(hints.iter().all(|seconds| seconds == "0"));
    assert_eq!(sim.stats().registered, 0);
}

#[tokio::test]
async fn requests_above_the_limit_in_flight_are_throttled_at_once() {
    let config = Config { throttle_above: Some(5), latency: Duration::from_millis(400), ..Config::default() };
    let sim = lorawan::start(config).await.unwrap();
    let answers = join_all((0..8).map(|number| ask(&sim, number))).await;
    let throttled = answers.iter().filter(|answer| answer.as_ref().unwrap().status() == 429).count();
    assert_eq!(throttled, 3);
    let stats = sim.stats();
    assert_eq!((stats.registered, stats.traffic.answers(200), stats.traffic.answers(429)), (5, 5, 3));
    assert!((6..=8).contains(&stats.traffic.max_in_flight), "{}", stats.traffic.max_in_flight);
}

#[tokio::test]
async fn a_provider_goes_down_and_comes_back_with_its_book() {
    let sim = lorawan::start(Config::default()).await.unwrap();
    assert_eq!(ask(&sim, 1).await.unwrap().status(), StatusCode::OK);
    sim.change(|config| config.down = Down::Status503);
    assert_eq!(ask(&sim, 2).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    sim.change(|config| config.down = Down::Reset);
    let error = format!("{:?}", ask(&sim, 2).await.unwrap_err());
    assert!(error.contains("ConnectionReset"), "{error}");
    sim.change(|config| config.down = Down::No);
    assert_eq!(ask(&sim, 1).await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(ask(&sim, 2).await.unwrap().status(), StatusCode::OK);
    assert_eq!(sim.stats().asked_again, 2);
}

#[tokio::test]
async fn without_authorization_and_behind_a_portal_nothing_is_registered() {
    let sim = lorawan::start(Config { unauthorized: true, ..Config::default() }).await.unwrap();
    assert_eq!(ask(&sim, 1).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    sim.set(Config { html: true, ..Config::default() });
    let portal = ask(&sim, 1).await.unwrap();
    assert_eq!(portal.status(), StatusCode::OK);
    assert!(is_html(&portal));
    let stats = sim.stats();
    assert_eq!((stats.registered, stats.answers_lost), (0, 0));
}

#[tokio::test]
async fn where_a_token_is_wanted_no_other_will_do() {
    let sim = lorawan::start(Config { require_token: Some("t0ken".to_owned()), ..Config::default() }).await.unwrap();
    let url = format!("{}{}", sim.url(), lorawan::PATH);
    let request = || client().post(&url).json(&json!({ "deveui": "78111FFFE452555B" }));
    for refused in [request(), request().bearer_auth("other"), request().basic_auth("t0ken", None::<&str>)] {
        assert_eq!(refused.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(sim.stats().registered, 0);
    assert_eq!(request().bearer_auth("t0ken").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn attempts_above_the_faulty_ones_succeed() {
    let config = Config { drop_before_rate: 1.0, faulty_attempts: Some(2), ..Config::default() };
    let sim = lorawan::start(config).await.unwrap();
    assert!(ask(&sim, 1).await.is_err());
    assert!(ask(&sim, 1).await.is_err());
    assert_eq!(ask(&sim, 1).await.unwrap().status(), StatusCode::OK);
}
