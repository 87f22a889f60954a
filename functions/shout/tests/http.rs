//! `shout` from the outside: the real router and access, and a SHOUTCLOUD behind a socket.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{HeaderMap, Request, StatusCode};
use kit::{
    access::{Access, NewKey},
    clock::Clock,
    dynamo::embedded::Embedded,
    upstream::Upstream,
};
use serde_json::{Value, json};
use shout::Shout;
use simulators::{
    faults::Down,
    shoutcloud::{self, Config, Garbage},
};
use tower::ServiceExt;

const PATH: &str = "/api/v1/shout";
/// The contract's limit, in bytes of UTF-8.
const MOST: usize = 65_536;

/// A deployment of this capability, and a key to it.
struct World {
    app: Router,
    token: String,
    sim: shoutcloud::Simulator,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl World {
    async fn new(faults: Config) -> Self {
        Self::with(faults, true).await
    }

    async fn with(faults: Config, fallback: bool) -> Self {
        let sim = shoutcloud::start(faults).await.unwrap();
        let upstream = Upstream::new(shout::http::URL, sim.url()).unwrap();
        let (app, token) = app(Shout::new(Some(&upstream), fallback)).await;
        Self { app, token, sim }
    }

    async fn shout(&self, text: &str) -> Reply {
        post(&self.app, &self.token, &json!({ "data": text })).await
    }

    fn requests(&self) -> u64 {
        self.sim.stats().traffic.requests
    }
}

async fn app(shout: Shout) -> (Router, String) {
    let store = Embedded::memory().unwrap().store("test-");
    store.create_tables(&[&kit::access::TABLE]).await.unwrap();
    let access = Access::new(store, Clock::system());
    let new = NewKey {
        tenant: "acme".to_owned(),
        scopes: vec!["shout:write".to_owned()],
        label: None,
        expires_in_seconds: None,
    };
    let (_, token) = access.keys().create(new, access.clock().now()).await.unwrap();
    (kit::http::app(vec![shout::routes(shout)], access), token)
}

async fn post(app: &Router, token: &str, body: &Value) -> Reply {
    let request = Request::post(PATH).header("authorization", format!("Bearer {token}"));
    let request = request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    if !status.is_success() {
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(body["instance"], headers["x-request-id"].to_str().unwrap());
        assert_eq!(body["status"], status.as_u16());
    }
    Reply { status, headers, body }
}

impl Reply {
    #[track_caller]
    fn says(self, data: &str, via: &str) {
        assert_eq!((self.status, self.body), (StatusCode::OK, json!({ "data": data, "via": via })));
    }
}

/// Texts and what becomes of them, by SHOUTCLOUD and here alike.
fn texts() -> Vec<(String, String)> {
    let some = [
        ("hello", "OLLEH"),
        ("", ""),
        (" ", " "),
        ("straße", "ESSARTS"),
        ("ß", "SS"),
        ("👍🏽a", "A👍🏽"),
        ("x👨‍👩‍👧‍👦!", "!👨‍👩‍👧‍👦X"),
        ("🇩🇪🇫🇷", "🇫🇷🇩🇪"),
        ("e\u{301}a", "AE\u{301}"),
        ("n\u{303}\u{320}o", "ON\u{303}\u{320}"),
        ("שלום", "םולש"),
        ("مرحبا", "ابحرم"),
        ("a\0b", "B\0A"),
        ("\0", "\0"),
        ("a\r\nb", "B\r\nA"),
        ("\"\\\u{7f}\u{2028}", "\u{2028}\u{7f}\\\""),
        ("<script>", ">TPIRCS<"),
        ("ŉ", "ʼN"),
        ("i\u{307}", "I\u{307}"),
    ];
    let mut texts: Vec<_> = some.map(|(text, shouted)| (text.to_owned(), shouted.to_owned())).into();
    texts.push(("ab".repeat(MOST / 2), "BA".repeat(MOST / 2)));
    // The most bytes that a text can become: each two as six, or each one as six in JSON.
    texts.push(("ΐ".repeat(MOST / 2), "ΐ".to_uppercase().repeat(MOST / 2)));
    texts.push(("\0".repeat(MOST), "\0".repeat(MOST)));
    texts
}

#[tokio::test]
async fn text_is_reversed_as_a_person_sees_it_and_shouted_by_shoutcloud() {
    let world = World::new(Config::default()).await;
    for (text, shouted) in texts() {
        world.shout(&text).await.says(&shouted, "shoutcloud");
    }
    assert_eq!(world.requests(), texts().len() as u64);
    assert_eq!(world.sim.stats().malformed, 0);
}

#[tokio::test]
async fn the_same_is_made_here_where_shoutcloud_is_gone() {
    let world = World::new(Config::default()).await;
    let url = world.sim.url().to_owned();
    world.sim.stop().await;
    let upstream = Upstream::new(shout::http::URL, &url).unwrap();
    let (app, token) = app(Shout::new(Some(&upstream), true)).await;
    for (text, shouted) in texts() {
        post(&app, &token, &json!({ "data": text })).await.says(&shouted, "local");
    }
}

#[tokio::test]
async fn whatever_shoutcloud_does_wrong_the_answer_is_right() {
    let sure = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config
    };
    let mut faults = vec![
        sure(|it| it.down = Down::Status503),
        sure(|it| it.down = Down::Reset),
        sure(|it| it.drop_rate = 1.0),
        sure(|it| it.error_rate = 1.0),
    ];
    for garbage in [Garbage::NotJson, Garbage::NoOutput, Garbage::WrongType, Garbage::Huge] {
        faults.push(Config { garbage_rate: 1.0, garbage: Some(garbage), ..Config::default() });
    }
    for fault in faults {
        let world = World::new(fault.clone()).await;
        world.shout("straße").await.says("ESSARTS", "local");
        assert_eq!(world.requests(), 1, "{fault:?}: asked once");
        // A failure or two are no reason to stop asking.
        world.sim.set(Config::default());
        world.shout("straße").await.says("ESSARTS", "shoutcloud");
    }
}

/// A service that answers as promised, only not about our text.
#[tokio::test]
async fn what_is_not_our_text_is_not_believed() {
    let answers = [("GOODBYE", "OLLEH", "local"), ("olleh", "olleh", "shoutcloud"), ("", "OLLEH", "local")];
    for (answer, data, via) in answers {
        let imposter = Router::new().route(
            shoutcloud::PATH,
            axum::routing::post(async move || axum::Json(json!({"INPUT": "olleh", "OUTPUT": answer}))),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, imposter).await });
        let upstream = Upstream::new(shout::http::URL, &url).unwrap();
        let (app, token) = app(Shout::new(Some(&upstream), true)).await;
        // One that shouts by other rules than Unicode's, even softly, is right too.
        post(&app, &token, &json!({"data": "hello"})).await.says(data, via);
        serving.abort();
    }
}

#[tokio::test]
async fn slowness_below_two_seconds_is_waited_for() {
    let world = World::new(Config { latency: Duration::from_millis(1200), ..Config::default() }).await;
    world.shout("hello").await.says("OLLEH", "shoutcloud");
}

/// The breaker, by what SHOUTCLOUD sees: three failures cost two seconds each, here all at once,
/// and whoever comes later is not kept waiting.
#[tokio::test]
async fn a_dead_shoutcloud_is_not_asked_by_every_caller() {
    let world = World::new(Config { hang_rate: 1.0, ..Config::default() }).await;
    let begun = Instant::now();
    let (first, second, third) = tokio::join!(world.shout("a"), world.shout("b"), world.shout("c"));
    first.says("A", "local");
    second.says("B", "local");
    third.says("C", "local");
    assert!((1.8..6.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    assert_eq!(world.requests(), 3);
    for _ in 0..50 {
        world.shout("hello").await.says("OLLEH", "local");
    }
    // Nor when it is well again, for half a minute.
    world.sim.set(Config::default());
    world.shout("hello").await.says("OLLEH", "local");
    assert_eq!(world.requests(), 3);
}

#[tokio::test]
async fn failures_that_are_not_in_a_row_do_not_open_the_breaker() {
    let world = World::new(Config::default()).await;
    for round in 0..5 {
        world.sim.change(|it| it.down = Down::Reset);
        world.shout("hello").await.says("OLLEH", "local");
        world.shout("hello").await.says("OLLEH", "local");
        world.sim.change(|it| it.down = Down::No);
        world.shout("hello").await.says("OLLEH", "shoutcloud");
        assert_eq!(world.requests(), 3 * (round + 1));
    }
}

#[tokio::test]
async fn without_the_fallback_a_failure_is_a_502() {
    let world = World::with(Config { down: Down::Status503, ..Config::default() }, false).await;
    for _ in 0..5 {
        let reply = world.shout("hello").await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
        assert_eq!(reply.body["type"], "urn:muster:problem:upstream-failed");
        assert!(reply.headers["retry-after"].to_str().unwrap().parse::<u32>().is_ok());
        // Nothing of what the upstream said, nor where it is.
        let text = reply.body.to_string();
        assert!(!text.contains("127.0.0.1") && !text.contains("503"), "{text}");
    }
    assert_eq!(world.requests(), 3, "the breaker is there all the same");
    let world = World::with(Config::default(), false).await;
    world.shout("hello").await.says("OLLEH", "shoutcloud");
}

#[tokio::test]
async fn without_an_address_it_says_which_setting_is_missing() {
    let (app, token) = app(Shout::new(None, true)).await;
    let reply = post(&app, &token, &json!({"data": "hello"})).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.body["detail"].as_str().unwrap().contains("MUSTER_SHOUTCLOUD_URL"));
    assert!(reply.headers.contains_key("retry-after"));
    let bad = post(&app, &token, &json!({"text": "hello"})).await;
    assert_eq!(bad.status, StatusCode::UNPROCESSABLE_ENTITY, "what is wrong with the request is said first");
}

#[tokio::test]
async fn more_than_64_kib_are_refused_and_not_sent() {
    let world = World::new(Config::default()).await;
    for text in ["a".repeat(MOST + 1), "ß".repeat(MOST / 2 + 1), "\0".repeat(MOST + 1)] {
        let reply = world.shout(&text).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(reply.body["errors"][0]["pointer"], "/data");
    }
    let reply = world.shout(&"a".repeat(2 << 20)).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.requests(), 0);
}

#[tokio::test]
async fn what_is_no_text_is_refused_by_its_place() {
    let world = World::new(Config::default()).await;
    let bad = [
        (json!({}), "", "missing field `data`"),
        (json!({"data": null}), "/data", "expected a string"),
        (json!({"data": 7}), "/data", "expected a string"),
        (json!({"data": ["hello"]}), "/data", "expected a string"),
        (json!({"data": "hello", "loud": true}), "/loud", "unknown field `loud`"),
        (json!(["hello"]), "", "object"),
    ];
    for (body, pointer, words) in bad {
        let reply = post(&world.app, &world.token, &body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        let error = &reply.body["errors"][0];
        assert_eq!(error["pointer"], pointer, "{body}");
        assert!(error["detail"].as_str().unwrap().contains(words), "{body}: {error}");
    }
    assert_eq!(world.requests(), 0);
}
