//! The functions as Lambda runs them: the binaries that are deployed, real events, the real Runtime API.
//!
//! The events are in `tests/events`, written for `shout`; for another function its path takes the
//! place of `/api/v1/shout`. What holds for all of them: an answer in the event's own mode, never a
//! failed invocation, and the same process to the end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    time::Duration,
};

use kit::{
    access::{self, KeyStore, NewKey},
    dynamo::embedded::Embedded,
};
use serde_json::{Value, json};
use simulators::{cpx, deployments, lorawan, packet, shoutcloud};
use system_tests::runtime_api::{Function, Outcome, Packaged, packaged};
use tokio::{net::TcpListener, sync::OnceCell};

/// Longer than any of these requests takes, so that a stuck one is found.
const TIME: Duration = Duration::from_secs(20);

/// Each event and the status that anybody gets for it without a key.
const EVENTS: &[(&str, u16)] = &[
    ("get-multi-value", 200),
    ("get-single-value", 200),
    ("health-check-without-host", 200),
    ("health-check-without-host-multi-value", 200),
    ("null-fields", 200),
    ("percent-signs-in-query", 200),
    ("percent-signs-in-query-single-value", 200),
    ("repeated-query-keys", 200),
    ("repeated-query-keys-single-value", 200),
    ("unencoded-query", 200),
    ("absolute-path", 400),
    ("dot-segments", 400),
    ("encoded-dot-segments", 400),
    ("encoded-slash", 400),
    ("invalid-base64", 400),
    ("invalid-base64-single-value", 400),
    ("invalid-header", 400),
    ("malformed-host", 400),
    ("malformed-host-single-value", 400),
    ("not-an-event", 400),
    ("options-star", 400),
    ("repeated-host", 400),
    ("unparsable-method", 400),
    ("form-body", 401),
    ("no-json-body", 401),
    ("post-base64", 401),
    ("post-base64-single-value", 401),
    ("post-multi-value", 401),
    ("post-single-value", 401),
    ("unknown-path", 404),
    ("unknown-method", 405),
    ("wrong-method", 405),
];

/// The store, reachable for other processes, and a key that opens everything.
struct Backend {
    url: String,
    key: String,
}

impl Backend {
    async fn start() -> Self {
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store(kit::dynamo::DEFAULT_PREFIX);
        store.create_tables(&muster::backend::TABLES).await.unwrap();
        let new =
            NewKey { tenant: "acme".into(), scopes: vec![access::ADMIN.into()], label: None, expires_in_seconds: None };
        let (_, key) = KeyStore::new(store).create(new, jiff::Timestamp::now()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { embedded.serve(listener, std::future::pending()).await.unwrap() });
        Self { url, key }
    }

    /// The process of `name`, which knows this store and nothing else in the world but `more`.
    async fn function(&self, name: &str, more: &[(&str, &str)]) -> Function {
        let mut environment = vec![("AWS_ENDPOINT_URL_DYNAMODB", self.url.as_str())];
        environment.extend_from_slice(more);
        functions().await[name].start(&environment).await.unwrap()
    }

    /// `event` with the key in its headers, in the event's own mode.
    fn authorized(&self, mut event: Value) -> Value {
        let bearer = format!("Bearer {}", self.key);
        if is_multi_value(&event) {
            event["multiValueHeaders"]["authorization"] = json!([bearer]);
        } else {
            event["headers"]["authorization"] = json!(bearer);
        }
        event
    }
}

/// The functions of the stack. Once for all tests of this file: a release build with link-time
/// optimisation is minutes.
async fn functions() -> &'static HashMap<String, Packaged> {
    static FUNCTIONS: OnceCell<HashMap<String, Packaged>> = OnceCell::const_new();
    FUNCTIONS.get_or_try_init(packaged).await.unwrap()
}

fn event(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("events").join(name).with_extension("json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn is_multi_value(event: &Value) -> bool {
    event["multiValueHeaders"].is_object()
}

/// What the load balancer demands of an answer to `event`, and we of a problem. Returns the status.
#[track_caller]
fn assert_well_formed(event: &Value, answer: &Value) -> u16 {
    let fields = answer.as_object().expect("an object");
    let status = u16::try_from(answer["statusCode"].as_u64().expect("a status")).unwrap();
    let reason = http::StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
    assert_eq!(answer["statusDescription"], format!("{status} {reason}"), "{answer}");
    assert!(answer["isBase64Encoded"].is_boolean(), "{answer}");
    assert!(answer["body"].is_string(), "{answer}");
    assert!(answer.to_string().len() <= kit::lambda::MAX_ANSWER);
    let (mode, other) =
        if is_multi_value(event) { ("multiValueHeaders", "headers") } else { ("headers", "multiValueHeaders") };
    assert!(!fields.contains_key(other), "an answer in the wrong mode is a 502: {answer}");
    let headers = fields[mode].as_object().expect("headers");
    let is_value = |value: &Value| match value {
        Value::String(_) => !is_multi_value(event),
        Value::Array(values) => is_multi_value(event) && values.iter().all(Value::is_string),
        _ => false,
    };
    assert!(headers.values().all(is_value), "{answer}");
    if status >= 400 {
        let kind = headers["content-type"].to_string();
        assert!(kind.contains("application/problem+json"), "{answer}");
        let problem: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(problem["status"], status, "{answer}");
        assert!(problem["instance"].is_string() && problem["title"].is_string(), "{answer}");
    }
    status
}

/// Every event, and one of a megabyte, through one process.
async fn survives_every_event(function: &Function, path: &str) {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events")).unwrap();
    assert_eq!(files.count(), EVENTS.len(), "an event without an expectation");
    let pid = function.pid();
    let for_function = |name: &str| -> Value {
        serde_json::from_str(&event(name).to_string().replace("/api/v1/shout", path)).unwrap()
    };
    let mut large = for_function("post-multi-value");
    large["body"] = json!(format!(r#"{{"data":"{}"}}"#, "a".repeat(1_000_000)));
    let mut cases: Vec<_> = EVENTS.iter().map(|(name, status)| (*name, for_function(name), *status)).collect();
    cases.push(("a body of 1 MB", large, 401));

    for (name, event, expected) in cases {
        let outcome = function.invoke(&event, TIME).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let Outcome::Response(answer) = outcome else {
            panic!("{name}: the client sees a 502: {outcome:?}");
        };
        assert_eq!(assert_well_formed(&event, &answer), expected, "{name}: {answer}");
    }
    assert!(function.is_alive());
    assert_eq!(function.pid(), pid);
    assert!(!function.log().contains("panic"), "{}", function.log());
}

/// A panic costs one request and not the process, if the binary unwinds. cargo-lambda would build one
/// that aborts, were the profile silent, and no request that is known makes these panic.
#[tokio::test]
async fn a_panic_unwinds() {
    // Only the unwinding half of the standard library has this message.
    let message = b"Rust panics must be rethrown";
    let binaries: BTreeSet<_> = functions().await.values().map(|function| &function.bootstrap).collect();
    for path in binaries {
        let binary = std::fs::read(path).unwrap();
        let unwinds = binary.windows(message.len()).any(|window| window == message);
        assert!(unwinds, "{} aborts, or Rust has changed", path.display());
    }
}

/// One binary is both functions of a capability, so one that is told nothing, or nonsense, must not
/// guess.
#[tokio::test]
async fn a_process_without_a_handler_that_it_knows_does_not_start_and_says_what_to_set() {
    let mut known = BTreeMap::<_, BTreeSet<&str>>::new();
    for function in functions().await.values() {
        known.entry(&function.bootstrap).or_default().insert(&function.handler);
    }
    for (bootstrap, handlers) in known {
        let choice = handlers.iter().copied().collect::<Vec<_>>().join(" or ");
        let other = if handlers.contains("worker") { "bootstrap" } else { "worker" };
        for (environment, said) in [
            (vec![], "_HANDLER is not set".to_owned()),
            (vec![("_HANDLER", other)], format!("_HANDLER is \"{other}\"")),
        ] {
            let process = Function::start(bootstrap, &environment).await.unwrap();
            let ended = tokio::time::timeout(TIME, process.ended()).await.expect("it ends").unwrap();
            assert_eq!(ended.code(), Some(1), "{}", process.log());
            let error = process.init_error().expect("Lambda is told");
            let message = error["errorMessage"].as_str().unwrap();
            let expected = format!("{said}; this program can be {choice}. ");
            assert!(message.starts_with(&expected) && message.contains("set its handler"), "{message}");
            assert!(process.log().contains("the cold start failed"), "{}", process.log());
        }
    }
}

#[tokio::test]
async fn shout_answers_every_event_and_lives_on() {
    let backend = Backend::start().await;
    survives_every_event(&backend.function("shout", &[]).await, "/api/v1/shout").await;
}

#[tokio::test]
async fn batches_answers_every_event_and_lives_on() {
    let backend = Backend::start().await;
    survives_every_event(&backend.function("batches", &[]).await, "/api/v1/batches").await;
}

#[tokio::test]
async fn services_answers_every_event_and_lives_on() {
    let backend = Backend::start().await;
    let function = backend.function("services", &[]).await;
    survives_every_event(&function, "/api/v1/alerts/0198c6d2-6f7e-7a7e-8000-000000000000/silence").await;
}

#[tokio::test]
async fn autoscaler_answers_every_event_and_lives_on() {
    let backend = Backend::start().await;
    survives_every_event(&backend.function("autoscaler", &[]).await, "/api/v1/deployments/simulate").await;
}

#[tokio::test]
async fn devices_answers_every_event_and_lives_on() {
    let backend = Backend::start().await;
    survives_every_event(&backend.function("devices", &[]).await, "/api/v1/devices").await;
}

#[tokio::test]
async fn shout_shouts_in_every_mode() {
    let backend = Backend::start().await;
    let upstream = shoutcloud::start(shoutcloud::Config::default()).await.unwrap();
    let function = backend.function("shout", &[("MUSTER_SHOUTCLOUD_URL", upstream.url())]).await;
    for name in ["post-multi-value", "post-single-value", "post-base64", "post-base64-single-value"] {
        let event = backend.authorized(event(name));
        let answer = function.invoke(&event, TIME).await.unwrap().response();
        assert_eq!(assert_well_formed(&event, &answer), 200, "{name}: {answer} {}", function.log());
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(body, json!({ "data": "OLLEH", "via": "shoutcloud" }), "{name}");
    }
}

/// The lines of metrics that the function has written, once there are so many.
async fn metrics(function: &Function, count: usize) -> Vec<Value> {
    let written = || -> Vec<Value> {
        let log = function.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|line: &Value| line["_aws"]["CloudWatchMetrics"].is_array()).collect()
    };
    // What was written before an answer may be read here a moment after it.
    let read = async {
        while written().len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(TIME, read).await.unwrap_or_else(|_| panic!("{}", function.log()));
    written()
}

#[tokio::test]
async fn each_invocation_that_measured_something_writes_a_line_of_metrics() {
    let backend = Backend::start().await;
    let upstream = shoutcloud::start(shoutcloud::Config::default()).await.unwrap();
    let environment = [("MUSTER_SHOUTCLOUD_URL", upstream.url()), ("MUSTER_ENVIRONMENT", "muster-test")];
    let function = backend.function("shout", &environment).await;
    let health = event("health-check-without-host");
    let shout = backend.authorized(event("post-multi-value"));
    for event in [&health, &health, &shout, &shout] {
        let answer = function.invoke(event, TIME).await.unwrap().response();
        assert_eq!(assert_well_formed(event, &answer), 200, "{answer} {}", function.log());
    }
    let metrics = metrics(&function, 3).await;
    let what: Vec<_> =
        metrics.iter().map(|line| (line["ColdStarts"].clone(), line["UpstreamErrors"].clone())).collect();
    // The second health check had nothing to tell.
    assert_eq!(what, [(json!(1), json!(null)), (json!(null), json!([0])), (json!(null), json!([0]))]);
    let last = &metrics[2];
    assert_eq!((&last["Environment"], &last["Upstream"]), (&json!("muster-test"), &json!("shoutcloud")));
    assert!(last["Function"].is_string(), "{last}");
}

#[tokio::test]
async fn a_tick_of_the_worker_registers_a_batch_and_says_so_in_its_metrics() {
    let backend = Backend::start().await;
    let provider = lorawan::start(lorawan::Config::default()).await.unwrap();
    let environment = [("MUSTER_LORAWAN_URL", provider.url())];
    let batches = backend.function("batches", &environment).await;
    let worker = backend.function("batches-worker", &environment).await;
    let mut create = backend.authorized(event("post-multi-value"));
    create["path"] = json!("/api/v1/batches");
    create["body"] = json!(r#"{"batch_size":25}"#);
    let answer = batches.invoke(&create, TIME).await.unwrap().response();
    assert_eq!(assert_well_formed(&create, &answer), 201, "{answer} {}", batches.log());

    let tick = json!({ "scheduled_time": (jiff::Timestamp::now() - Duration::from_secs(2)).to_string() });
    // Longer than the part of an invocation in which nothing new is begun.
    let time = Duration::from_secs(60);
    assert_eq!(worker.invoke(&tick, time).await.unwrap().response(), json!({ "ended": "Idle" }));
    assert_eq!(provider.registered().len(), 25);
    let line = &metrics(&worker, 1).await[0];
    let lag = line["TickLag"].as_u64().unwrap();
    assert!((2_000..22_000).contains(&lag), "{line}");
    let values = ["ColdStarts", "DevEuisRegistered", "DevEuiConflicts", "DevEuisRecovered", "UpstreamRequests"];
    assert_eq!(values.map(|name| line[name].as_u64()), [1, 25, 0, 0, 25].map(Some), "{line}");

    worker.invoke(&json!({ "unheard": "of" }), time).await.unwrap();
    worker.invoke(&tick, time).await.unwrap().response();
    let lines = metrics(&worker, 2).await;
    let idle = lines[1].as_object().unwrap();
    assert!(lines.len() == 2 && idle.contains_key("TickLag") && !idle.contains_key("Upstream"), "{lines:?}");
}

#[tokio::test]
async fn batches_lists_over_the_store() {
    let backend = Backend::start().await;
    let function = backend.function("batches", &[]).await;
    let mut event = backend.authorized(event("get-multi-value"));
    event["path"] = json!("/api/v1/batches");
    let answer = function.invoke(&event, TIME).await.unwrap().response();
    assert_eq!(assert_well_formed(&event, &answer), 200, "{answer} {}", function.log());
    let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["items"], json!([]));
}

#[tokio::test]
async fn a_tick_of_the_watcher_keeps_the_services_and_publishes_an_alert() {
    let backend = Backend::start().await;
    let fleet = [("10.58.1.1", 95), ("10.58.1.2", 5)].map(|(ip, cpu)| cpx::Fixed {
        ip: ip.parse().unwrap(),
        service: "AuthService".to_owned(),
        cpu,
        memory: 5,
    });
    let cpx = cpx::start(cpx::Config { fleet: Some(fleet.to_vec()), ..cpx::Config::default() }).await.unwrap();
    // SNS, as far as anybody needs it who only publishes.
    let (publish, mut published) = tokio::sync::mpsc::unbounded_channel::<String>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sns = format!("http://{}", listener.local_addr().unwrap());
    let answer = async move |body: String| {
        publish.send(body).unwrap();
        "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>"
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    let environment = [
        ("MUSTER_CPX_URL", cpx.url()),
        ("MUSTER_ALERTS_TOPIC_ARN", "arn:aws:sns:us-east-1:123456789012:muster-test-alarms"),
        ("AWS_ENDPOINT_URL_SNS", &sns),
    ];
    let worker = backend.function("services-worker", &environment).await;
    let minute = jiff::SignedDuration::from_mins(1);
    let first = services::worker::slot(jiff::Timestamp::now() - minute * 3);
    let tick = |number: i32| json!({ "scheduled_time": (first + minute * number).to_string() });
    for number in 0..3 {
        let ended = worker.invoke(&tick(number), TIME).await.unwrap().response();
        let (firing, told) = if number == 2 { (1, 1) } else { (0, 0) };
        let done = json!({"ended": "done", "services": 1, "servers": 2, "unknown": 0, "firing": firing, "told": told});
        assert_eq!(ended, done, "{}", worker.log());
        let again = worker.invoke(&tick(number), TIME).await.unwrap().response();
        assert_eq!(again, json!({ "ended": "duplicate" }));
    }
    let message = published.try_recv().expect("an alert");
    assert!(message.contains("Action=Publish") && message.contains("AuthService%20is%20short"), "{message}");
    assert!(published.try_recv().is_err(), "one alert");
    let line = &metrics(&worker, 6).await[0];
    let values = ["ServersSeen", "ServersUnknown", "AlertsFiring"].map(|name| line[name].as_u64());
    assert_eq!(values, [2, 0, 0].map(Some), "{line}");

    let function = backend.function("services", &[("MUSTER_CPX_URL", cpx.url())]).await;
    let mut event = backend.authorized(event("get-multi-value"));
    for (path, field, expected) in [
        ("/api/v1/alerts", "state", json!("firing")),
        ("/api/v1/unhealthy-services", "healthy", json!(1)),
        ("/api/v1/services", "servers", json!(2)),
    ] {
        event["path"] = json!(path);
        event["multiValueQueryStringParameters"] = json!({});
        let answer = function.invoke(&event, TIME).await.unwrap().response();
        assert_eq!(assert_well_formed(&event, &answer), 200, "{answer} {}", function.log());
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["items"][0][field], expected, "{path}: {body}");
    }
}

#[tokio::test]
async fn of_two_runs_for_one_minute_each_half_minute_is_worked_on_by_one() {
    let backend = Backend::start().await;
    // From the contract's table: one host more.
    let one = deployments::Spec {
        id: "eu-1".to_owned(),
        servers_per_host: 10,
        target_free_pct: "15".parse().unwrap(),
        hosts: 10,
        load: deployments::Load::Steady { busy: 90 },
    };
    let config = deployments::Config { fleet: Some(vec![one]), ..deployments::Config::default() };
    let upstream = deployments::start(config).await.unwrap();
    let environment = [("MUSTER_DEPLOYMENTS_URL", upstream.url())];
    let first = backend.function("autoscaler-worker", &environment).await;
    let second = backend.function("autoscaler-worker", &environment).await;
    let tick = json!({ "scheduled_time": jiff::Timestamp::now().to_string() });
    // The present half minute, and the next one when it begins.
    let run = async |worker: &Function| worker.invoke(&tick, Duration::from_secs(58)).await.unwrap().response();
    let (one, other, ()) = tokio::join!(run(&first), run(&second), autoscaler_answers(&backend, &upstream));

    let mut worked_on = BTreeMap::<u64, Vec<Value>>::new();
    for tick in [&one, &other].into_iter().flat_map(|ended| ended["ticks"].as_array().unwrap()) {
        worked_on.entry(tick["slot"].as_u64().unwrap()).or_default().push(tick.clone());
    }
    for ticks in worked_on.values() {
        let done: Vec<_> = ticks.iter().filter(|tick| tick["duplicate"] == false).collect();
        assert_eq!((done.len(), &done[0]["read"], &done[0]["bad"]), (1, &json!(1), &json!(0)), "{one} {other}");
    }
    assert!((2..=3).contains(&worked_on.len()), "{one} {other}");
    let sent: Vec<_> = upstream.scales().into_iter().map(|scale| (scale.id, scale.delta)).collect();
    assert_eq!(sent, [("eu-1".to_owned(), 1)], "{} {}", first.log(), second.log());

    let lines = [metrics(&first, 1).await, metrics(&second, 1).await].concat();
    let sum = |name: &str| lines.iter().filter_map(|line| line[name].as_u64()).sum::<u64>();
    assert_eq!(["HostsAdded", "HostsRemoved", "ScalingsUnknown"].map(sum), [1, 0, 0], "{lines:?}");
    let measured: Vec<_> = lines.iter().filter(|line| line["DeploymentsSeen"].is_u64()).collect();
    for line in &measured {
        let names = ["DeploymentsSeen", "DeploymentsUnreadable", "DeploymentsNotReached", "ScalingFrozen"];
        assert_eq!(names.map(|name| line[name].as_u64()), [1, 0, 0, 0].map(Some), "{line}");
        assert!(line["DeploymentsShort"].is_u64() && line["DeploymentsListAge"].as_u64() < Some(60_000), "{line}");
    }
    assert!(!measured.is_empty(), "{lines:?}");
}

/// The function for HTTP, while the workers are at it.
async fn autoscaler_answers(backend: &Backend, upstream: &deployments::Simulator) {
    let scaled = async {
        while upstream.scales().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIME, scaled).await.expect("a tick scales");
    let function = backend.function("autoscaler", &[("MUSTER_DEPLOYMENTS_URL", upstream.url())]).await;
    let call = async |method: &str, path: &str, body: &str| {
        let mut event = backend.authorized(event("post-multi-value"));
        (event["httpMethod"], event["path"], event["body"]) = (json!(method), json!(path), json!(body));
        event["multiValueQueryStringParameters"] = json!({});
        event["multiValueHeaders"]["if-match"] = json!(["\"0\""]);
        let answer = function.invoke(&event, TIME).await.unwrap().response();
        assert_eq!(assert_well_formed(&event, &answer), 200, "{method} {path}: {answer} {}", function.log());
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        (body, answer)
    };
    let (body, _) = call("GET", "/api/v1/deployments", "").await;
    assert_eq!(body["items"][0]["last_decision"]["reason"], "ScaledUp", "{body}");
    let (body, answer) = call("PUT", "/api/v1/deployments/eu-1/policy", r#"{"min_free_servers":2}"#).await;
    assert_eq!(body["effective"]["min_free_servers"], 2, "{body}");
    assert_eq!(answer["multiValueHeaders"]["etag"], json!(["\"1\""]), "{answer}");
    call("GET", "/api/v1/deployments/eu-1/explain", "").await;
}

#[tokio::test]
async fn runs_of_the_worker_bring_a_device_up_and_take_it_down_and_say_so_in_their_metrics() {
    let backend = Backend::start().await;
    let vendor = packet::start(packet::Config { speed: 20.0, ..packet::Config::default() }).await.unwrap();
    let environment = [
        ("MUSTER_PACKET_URL", vendor.url()),
        ("MUSTER_PACKET_PROJECT", packet::PROJECT),
        ("MUSTER_PACKET_TOKEN", packet::TOKEN),
        ("MUSTER_PACKET_TAG", "muster-test"),
    ];
    let devices = backend.function("devices", &environment).await;
    let worker = backend.function("devices-worker", &environment).await;
    let call = async |method: &str, path: &str, body: &str, status: u16| -> Value {
        let mut event = backend.authorized(event("post-multi-value"));
        (event["httpMethod"], event["path"], event["body"]) = (json!(method), json!(path), json!(body));
        event["multiValueQueryStringParameters"] = json!({});
        let answer = devices.invoke(&event, TIME).await.unwrap().response();
        assert_eq!(assert_well_formed(&event, &answer), status, "{method} {path}: {answer} {}", devices.log());
        serde_json::from_str(answer["body"].as_str().unwrap()).unwrap()
    };
    let tick = json!({ "scheduled_time": jiff::Timestamp::now().to_string() });
    // Nothing new is begun in the last 45 seconds.
    let run = async || worker.invoke(&tick, Duration::from_secs(90)).await.unwrap().response();

    assert_eq!(run().await, json!({ "ended": "Idle" }), "{}", worker.log());
    let one = call("POST", "/api/v1/devices", r##"{"userdata":"#!/bin/sh"}"##, 202).await;
    let path = format!("/api/v1/devices/{}", one["id"].as_str().unwrap());
    assert_eq!(run().await, json!({ "ended": "Idle" }), "{}", worker.log());
    assert_eq!(call("GET", &path, "", 200).await["state"], "Active", "{}", worker.log());
    let alive = vendor.alive();
    assert_eq!(alive.len(), 1);
    assert_eq!(alive[0].tags, [format!("muster-test:{}", one["id"].as_str().unwrap())]);
    assert_eq!(call("DELETE", &path, "", 202).await["state"], "Deleting");
    assert_eq!(run().await, json!({ "ended": "Idle" }), "{}", worker.log());
    assert_eq!(call("GET", &path, "", 200).await["state"], "Deleted", "{}", worker.log());
    assert_eq!(vendor.alive().len(), 0);

    let lines = metrics(&worker, 3).await;
    let sum = |name: &str| lines.iter().filter_map(|line| line[name].as_u64()).sum::<u64>();
    let names = ["DevicesUp", "DevicesFailed", "DeviceAttemptsFailed", "DeviceTeardownsOverdue", "DeviceOrphans"];
    assert_eq!(names.map(sum), [1, 0, 0, 0, 0], "{lines:?}");
    let tells = |name: &str| lines.iter().any(|line| line[name].is_u64());
    assert!(tells("DeviceTeardownsOverdue") && tells("DeviceOrphans"), "{lines:?}");
    assert!(lines.iter().any(|line| line["Upstream"] == "packet"), "{lines:?}");
}

#[tokio::test]
async fn a_stack_without_a_vendor_of_machines_has_a_worker_that_says_so() {
    let backend = Backend::start().await;
    let worker = backend.function("devices-worker", &[]).await;
    let tick = json!({ "scheduled_time": jiff::Timestamp::now().to_string() });
    let ended = worker.invoke(&tick, TIME).await.unwrap().response();
    assert_eq!(ended, json!({ "ended": "MUSTER_PACKET_URL is not set" }));
}

#[tokio::test]
async fn an_upstream_that_hangs_is_answered_before_lambda_gives_up() {
    let backend = Backend::start().await;
    let config = shoutcloud::Config { hang_rate: 1.0, ..shoutcloud::Config::default() };
    let upstream = shoutcloud::start(config).await.unwrap();
    let function = backend.function("shout", &[("MUSTER_SHOUTCLOUD_URL", upstream.url())]).await;
    let event = backend.authorized(event("post-multi-value"));
    let time = Duration::from_secs(2);
    let started = std::time::Instant::now();
    let answer = function.invoke(&event, time).await.unwrap().response();
    assert!(started.elapsed() < time, "Lambda would have killed it");
    assert_eq!(assert_well_formed(&event, &answer), 503, "{answer}");
    // The environment is as good as new.
    let health = serde_json::from_str(&event.to_string().replace("/api/v1/shout", "/healthz").replace("POST", "GET"));
    let health: Value = health.unwrap();
    let answer = function.invoke(&health, TIME).await.unwrap().response();
    assert_eq!(assert_well_formed(&health, &answer), 200, "{answer}");
}

#[tokio::test]
async fn a_store_that_is_away_is_a_503() {
    let backend = Backend::start().await;
    // Nobody listens on a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let function = backend.function("shout", &[("AWS_ENDPOINT_URL_DYNAMODB", &format!("http://{free}"))]).await;
    let event = backend.authorized(event("post-multi-value"));
    let answer = function.invoke(&event, TIME).await.unwrap().response();
    assert_eq!(assert_well_formed(&event, &answer), 503, "{answer}");
}
