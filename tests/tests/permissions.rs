//! Least privilege: what each function does with the tables is what `infra/functions.json` allows
//! it, neither more nor less.
//!
//! A function's code runs here on a store that notes the actions, as IAM counts them; everything
//! that it can do is done. A path that is not taken here is not proved: whoever adds one to the code
//! adds it here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "permissions/batches.rs"]
mod of_batches;
#[path = "permissions/devices.rs"]
mod of_devices;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use autoscaler::{Scaling, tick::Scaler};
use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use kit::{
    access::{Access, NewKey},
    clock::Clock,
    dynamo::{
        Store,
        embedded::{Embedded, Used},
    },
    http::Routes,
    upstream::Upstream,
};
use serde_json::{Value, json};
use services::{
    Watch,
    config::Config,
    notify::Notifier,
    worker::{Ended as Ticked, Watcher},
};
use simulators::{
    cpx::{self, Fate},
    deployments, shoutcloud,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const PREFIX: &str = "test-";
const PATIENCE: Duration = Duration::from_secs(60);

type Actions = BTreeMap<String, BTreeSet<String>>;

/// A function's entry in the table of the stack.
fn entry(name: &str) -> Value {
    let table: Value = serde_json::from_str(include_str!("../../infra/functions.json")).unwrap();
    let functions = table["functions"].as_array().unwrap();
    functions.iter().find(|function| function["name"] == name).unwrap_or_else(|| panic!("no function {name}")).clone()
}

#[track_caller]
fn assert_exactly_what_is_allowed(name: &str, used: &Used) {
    let allowed: Actions = serde_json::from_value(entry(name)["tables"].clone()).unwrap();
    assert_eq!(used.actions(), allowed, "left: what {name} does; right: what infra/functions.json allows");
}

/// Tables with nothing in them, and the right to do anything.
async fn tables() -> (Embedded, Store) {
    let embedded = Embedded::memory().unwrap();
    let operator = embedded.store(PREFIX);
    operator.create_tables(&muster::backend::TABLES).await.unwrap();
    (embedded, operator)
}

/// An HTTP function, called with a key, and the routes that were called.
struct Function {
    app: Router,
    key: String,
    called: Mutex<BTreeSet<String>>,
}

struct Reply {
    status: u16,
    link: Option<String>,
    body: String,
}

impl Reply {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }
}

impl Function {
    async fn new(routes: Vec<Routes>, store: &Store, operator: &Store) -> Self {
        let new = NewKey {
            tenant: "acme".to_owned(),
            scopes: vec!["admin".to_owned()],
            label: None,
            expires_in_seconds: None,
        };
        let keys = Access::new(operator.clone(), Clock::system());
        let (_, key) = keys.keys().create(new, Timestamp::now()).await.unwrap();
        let app = kit::http::app(routes, Access::new(store.clone(), Clock::system()));
        Self { app, key, called: Mutex::default() }
    }

    /// Calls `route`, whose first `{…}` are replaced by `values`; `headers` and a body as wanted.
    async fn call(
        &self,
        method: Method,
        route: &str,
        values: &[&str],
        query: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Reply {
        self.called.lock().unwrap().insert(format!("{method} {route}"));
        let mut path = route.to_owned();
        for value in values {
            let (from, to) = (path.find('{').unwrap(), path.find('}').unwrap());
            path.replace_range(from..=to, value);
        }
        let mut request = Request::builder().method(method).uri(format!("{path}{query}"));
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", format!("Bearer {}", self.key));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(json) => {
                request = request.header("content-type", "application/json");
                Body::from(json.to_string())
            }
            None => Body::empty(),
        };
        let answer = self.app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
        let link = parts.headers.get("link").map(|link| link.to_str().unwrap().to_owned());
        Reply { status: parts.status.as_u16(), link, body }
    }

    async fn get(&self, route: &str, values: &[&str], query: &str) -> Reply {
        self.call(Method::GET, route, values, query, &[], None).await
    }

    async fn post(&self, route: &str, body: Value, key: Option<&str>) -> Reply {
        let headers: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        self.call(Method::POST, route, &[], "", &headers, Some(body)).await
    }

    async fn delete(&self, route: &str, id: &str) -> Reply {
        self.call(Method::DELETE, route, &[id], "", &[], None).await
    }

    /// Every route of the function was called.
    #[track_caller]
    fn assert_all_routes_were_called(&self, name: &str) {
        let entry = entry(name);
        let text = |route: &Value, field: &str| route[field].as_str().unwrap().to_owned();
        let routes = entry["routes"].as_array().unwrap().iter();
        let routes: BTreeSet<_> = routes.map(|it| format!("{} {}", text(it, "method"), text(it, "path"))).collect();
        assert_eq!(*self.called.lock().unwrap(), routes);
    }

    /// What any function answers without looking at its own table, or not even at the keys.
    async fn is_called_by_strangers(&self, route: &str) {
        let stranger = async |key: &str| {
            let headers = [("authorization", key)];
            let reply = self.call(Method::POST, route, &[], "", &headers, Some(json!({}))).await;
            reply.expect(StatusCode::UNAUTHORIZED.as_u16());
        };
        stranger("Bearer mk_0123456789ab_0000").await;
        stranger("Basic x").await;
    }
}

#[tokio::test]
async fn shout_reads_keys_and_nothing_else() {
    let (embedded, operator) = tables().await;
    let (store, used) = embedded.store_with_record(PREFIX);
    let upstream = shoutcloud::start(shoutcloud::Config::default()).await.unwrap();
    // As its main does.
    store.warm(&kit::access::TABLE).await;
    let shout = shout::Shout::new(Some(&Upstream::new("X", upstream.url()).unwrap()), true);
    let function = Function::new(vec![shout::routes(shout), kit::http::openapi()], &store, &operator).await;

    function.is_called_by_strangers("/api/v1/shout").await;
    function.post("/api/v1/shout", json!({"data": "hello"}), None).await.expect(200);
    function.post("/api/v1/shout", json!({"data": 7}), None).await.expect(422);
    function.get("/api/v1/openapi.json", &[], "").await.expect(200);
    function.assert_all_routes_were_called("shout");
    assert_exactly_what_is_allowed("shout", &used);
}

/// The capability `services`: both functions on one set of tables, each with its own record.
#[tokio::test]
async fn the_functions_of_services_need_exactly_what_they_are_allowed() {
    let sim = cpx::start(cpx::Config { servers: 20, ..Default::default() }).await.unwrap();
    let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("http://{}", receiver.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(receiver, Router::new().fallback(async || "")).await });
    let settings = |webhook: String| {
        let cpx = sim.url().to_owned();
        move |name: &str| match name {
            "MUSTER_CPX_URL" => Some(cpx.clone()),
            "MUSTER_CPX_TIMEOUT_SECONDS" => Some("0.2".to_owned()),
            "MUSTER_ALERTS_WEBHOOK_URL" => Some(webhook.clone()),
            "MUSTER_ALERTS_WEBHOOK_KEY" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
            _ => None,
        }
    };
    let config = Config::from_settings(settings(String::new())).unwrap();
    let (embedded, operator) = tables().await;
    let clock = Clock::manual(Timestamp::constant(1_800_000_000, 0));

    let (store, worker_used) = embedded.store_with_record(PREFIX);
    store.warm(&services::TABLE).await;
    let watcher = async |webhook: String| {
        let notifier = Notifier::from_settings(settings(webhook)).await.unwrap();
        Watcher::new(config.clone(), store.clone(), notifier, clock.clone()).unwrap()
    };
    // One who takes what he is told, and one who is not there.
    let told = watcher(hook).await;
    let untold = watcher("http://127.0.0.1:9".to_owned()).await;
    let minute = async |watcher: &Watcher| {
        let ended = watcher.tick(clock.now()).await.unwrap();
        assert_eq!(watcher.tick(clock.now()).await.unwrap(), Ticked::Duplicate);
        clock.advance(Duration::from_mins(1));
        ended
    };
    minute(&told).await;
    // Everything falls silent, nobody hears of it for a while, and all is well again.
    sim.change(|config| config.hang_rate = 1.0);
    for _ in 0..4 {
        minute(&untold).await;
    }
    minute(&told).await;
    sim.change(|config| (config.hang_rate, config.list_fate) = (0.0, Fate::Error));
    assert_eq!(minute(&told).await, Ticked::NoList);
    sim.change(|config| config.list_fate = Fate::Well);
    for _ in 0..4 {
        minute(&told).await;
    }
    // A service that goes, for good.
    let gone = sim.servers()[0].service.clone();
    let rest: Vec<_> = sim.servers().into_iter().filter(|it| it.service != gone).map(|it| json!(it.ip)).collect();
    sim.change(|config| config.list = Some(Value::Array(rest)));
    for _ in 0..62 {
        minute(&told).await;
    }
    assert_exactly_what_is_allowed("services-worker", &worker_used);

    let (store, http_used) = embedded.store_with_record(PREFIX);
    store.warm(&kit::access::TABLE).await;
    let watch = Watch::new(&config, store.clone(), clock.clone());
    let http = Function::new(vec![services::routes(watch)], &store, &operator).await;
    let alerts = http.get("/api/v1/alerts", &[], "?state=all").await.expect(200).json();
    let alert = &alerts["items"][1];
    let (id, name) = (alert["id"].as_str().unwrap(), alert["service"].as_str().unwrap());
    for route in ["/api/v1/servers", "/api/v1/services", "/api/v1/unhealthy-services"] {
        http.get(route, &[], "").await.expect(200);
    }
    http.get("/api/v1/servers/{ip}/history", &["10.58.1.1"], "?window=2h").await.expect(200);
    http.get("/api/v1/services/{name}", &[name], "").await.expect(200);
    http.get("/api/v1/services/{name}/history", &[name], "?window=2h").await.expect(200);
    http.get("/api/v1/services/{name}/history", &["none"], "").await.expect(404);
    let silence = "/api/v1/alerts/{id}/silence";
    let body = json!({"until": clock.now() + jiff::SignedDuration::from_hours(1), "reason": "a test"});
    http.call(Method::POST, silence, &[id], "", &[], Some(body)).await.expect(200);
    http.delete(silence, id).await.expect(200);
    http.delete(silence, "0198c6d2-6f7e-7a7e-8000-000000000000").await.expect(404);
    http.assert_all_routes_were_called("services");
    assert_exactly_what_is_allowed("services", &http_used);
}

/// The capability `autoscaler`: both functions on one set of tables, each with its own record.
#[tokio::test]
async fn the_functions_of_autoscaler_need_exactly_what_they_are_allowed() {
    let config = deployments::Config { manual: true, count: 8, ..Default::default() };
    let sim = deployments::start(config).await.unwrap();
    let settings = |name: &str| match name {
        autoscaler::config::URL => Some(sim.url().to_owned()),
        autoscaler::config::TIMEOUT => Some("0.2".to_owned()),
        _ => None,
    };
    let config = autoscaler::config::Config::from_settings(settings).unwrap();
    let (embedded, operator) = tables().await;
    let clock = Clock::manual(Timestamp::constant(1_800_000_000, 0));

    let (store, worker_used) = embedded.store_with_record(PREFIX);
    store.warm(&autoscaler::TABLE).await;
    let worker = || Scaler::new(config.deployments.clone().unwrap(), store.clone(), config.at_once, clock.clone());
    let slots = async |worker: &Scaler, count: u32| {
        let stop = CancellationToken::new();
        for _ in 0..count {
            let slot = autoscaler::samples::slot(clock.now());
            assert!(!worker.tick(slot, &stop).await.unwrap().duplicate);
            assert!(worker.tick(slot, &stop).await.unwrap().duplicate);
            clock.advance(Duration::from_secs(30));
            sim.advance(Duration::from_secs(30));
        }
    };
    let (store_of_http, http_used) = embedded.store_with_record(PREFIX);
    store_of_http.warm(&kit::access::TABLE).await;
    let scaling = Scaling::new(&config, store_of_http.clone(), clock.clone());
    let http = Function::new(vec![autoscaler::routes(scaling)], &store_of_http, &operator).await;

    // So long that samples are in the history too.
    let first = worker();
    slots(&first, 45).await;
    scaling_over_http(&http, &clock).await;
    // The policies are read again. Then requests without an answer, and ones that are refused.
    slots(&first, 2).await;
    sim.change(|config| config.scale_drop_after_rate = 1.0);
    slots(&first, 6).await;
    sim.change(|config| (config.scale_drop_after_rate, config.scale_refuse_rate) = (0.0, 1.0));
    slots(&first, 6).await;
    // Nothing can be read; then most are gone; then one is, for good. Somebody else takes over.
    sim.change(|config| (config.scale_refuse_rate, config.status_error_rate) = (0.0, 1.0));
    slots(&first, 6).await;
    sim.change(|config| (config.status_error_rate, config.discover_half_rate) = (0.0, 1.0));
    let second = worker();
    slots(&second, 6).await;
    sim.change(|config| (config.discover_half_rate, config.count) = (0.0, 7));
    slots(&second, 6).await;
    // What the first remembers is old.
    slots(&first, 2).await;
    assert!(sim.scales().len() > 3, "{:?}", sim.scales());
    assert_exactly_what_is_allowed("autoscaler-worker", &worker_used);

    scaling_over_http(&http, &clock).await;
    http.assert_all_routes_were_called("autoscaler");
    assert_exactly_what_is_allowed("autoscaler", &http_used);
}

async fn scaling_over_http(http: &Function, clock: &Clock) {
    const LIST: &str = "/api/v1/deployments";
    const ONE: &str = "/api/v1/deployments/{id}";
    const ALL: &str = "/api/v1/deployments-policy";
    http.is_called_by_strangers("/api/v1/deployments/simulate").await;
    let page = http.get(LIST, &[], "?limit=3").await.expect(200);
    let next = page.link.as_deref().and_then(|link| link.split(['?', '>']).nth(1)).unwrap();
    http.get(LIST, &[], &format!("?{next}")).await.expect(200);
    http.get(LIST, &[], "?state=gone").await.expect(200);
    let listed = page.json();
    let id = listed["items"][0]["id"].as_str().unwrap();
    http.get(ONE, &[id], "").await.expect(200);
    http.get(ONE, &["nobody"], "").await.expect(404);
    let decisions = format!("{ONE}/decisions");
    for query in ["", "?reason=ScaledUp", "?limit=1", "?since=2027-01-15T08:00:00Z"] {
        http.get(&decisions, &[id], query).await.expect(200);
    }
    http.get(&decisions, &["nobody"], "").await.expect(404);
    for query in ["", "?target_free_pct=60", "?min_hosts=1000"] {
        http.get(&format!("{ONE}/explain"), &[id], query).await.expect(200);
    }

    // A version that is there, one that is not, and whatever is there.
    let own = format!("{ONE}/policy");
    let until = clock.now() + jiff::SignedDuration::from_hours(1);
    for (route, values) in [(own.as_str(), vec![id]), (ALL, vec![])] {
        let version = http.get(route, &values, "").await.expect(200).json()["version"].as_u64().unwrap();
        let set = async |if_match: &str, body: Value| {
            http.call(Method::PUT, route, &values, "", &[("if-match", if_match)], Some(body)).await
        };
        set(&format!("\"{version}\""), json!({"min_hosts": 2})).await.expect(200);
        set(&format!("\"{version}\""), json!({"min_hosts": 3})).await.expect(412);
        set("*", json!({"mode": "paused_in", "until": until, "reason": "a test"})).await.expect(200);
        set("*", json!({})).await.expect(200);
        set("*", json!({"min_hosts": -1})).await.expect(422);
    }
    http.get(&own, &["nobody"], "").await.expect(404);

    let simulate = "/api/v1/deployments/simulate";
    let kept = json!({"deployment_id": id, "window": "1h", "policy": {"min_hosts": 2}});
    http.post(simulate, kept, None).await.expect(200);
    let demand = json!([{"at": clock.now(), "busy_servers": 85}]);
    let given = json!({"samples": demand, "servers_per_host": 10, "target_free_pct": 15, "policy": {}});
    http.post(simulate, given, None).await.expect(200);
    http.post(simulate, json!({"policy": {}}), None).await.expect(422);
}
