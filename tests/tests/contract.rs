//! What all capabilities promise together: the routing table of the stack is what the routers
//! declare, and no route lets anybody in who has no business there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "contract/openapi.rs"]
mod openapi;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use autoscaler::{Scaling, tick::Scaler};
use axum::{
    Router,
    body::{Body, to_bytes},
};
use batches::{Batches, store::BatchStore};
use devices::{Devices, seal::Sealer, store::DeviceStore, supply::Supply, worker::Rounds};
use http::{HeaderMap, Request, StatusCode};
use kit::{
    access::{self, Access, ApiKey, NewKey},
    clock::Clock,
    dynamo::{Store, embedded::Embedded},
    http::{RouteSpec, Routes},
    upstream::Upstream,
};
use serde_json::{Value, json};
use services::{Watch, config::Config, notify::Notifier, worker::Watcher};
use shout::Shout;
use simulators::{
    cpx::{self, Fixed},
    deployments::{self, Load, Spec},
    lorawan, packet, shoutcloud,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Routes that need no key. Another one has to be added here by a person who has thought about it.
const PUBLIC: &[(&str, &str)] = &[("GET", "/api/v1/openapi.json")];

/// Routes that take a body and change nothing: who may read may call them.
const COMPUTES: &[(&str, &str)] = &[("POST", "/api/v1/deployments/simulate"), ("POST", "/api/v1/devices/plan")];

/// The one service of the simulated CPX, and its one server.
const SERVICE: &str = "AuthService";
const SERVER: &str = "10.58.1.1";

/// The one deployment of the simulated API.
const DEPLOYMENT: &str = "eu-1";

/// When the one device is launched, by its worker's clock and by its vendor's.
const NOON: jiff::Timestamp = jiff::Timestamp::constant(1_800_000_000, 0);

/// Everything that `muster serve` runs, with its upstreams, and a batch and a device of the tenant
/// `acme`.
struct World {
    app: Router,
    access: Access,
    specs: Vec<RouteSpec>,
    batch: String,
    alert: String,
    device: String,
    key: ApiKey,
    cpx: cpx::Simulator,
    deployments: deployments::Simulator,
    packet: packet::Simulator,
    /// What CPX, the deployments API and the vendor of machines were asked before the test began.
    asked: [u64; 3],
    lorawan: lorawan::Simulator,
    shoutcloud: shoutcloud::Simulator,
    _embedded: Embedded,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// The routes of each function, by its name, and those that only `muster serve` has.
fn routes(
    access: &Access,
    batches: Batches,
    watch: Watch,
    scaling: Scaling,
    devices: Devices,
    shout: Shout,
) -> Vec<(&'static str, Vec<Routes>)> {
    vec![
        ("shout", vec![shout::routes(shout), kit::http::openapi()]),
        ("batches", vec![batches::routes(batches)]),
        ("services", vec![services::routes(watch)]),
        ("autoscaler", vec![autoscaler::routes(scaling)]),
        ("devices", vec![devices::routes(devices)]),
        ("serve_only", vec![access::routes(access.clone())]),
    ]
}

/// The routes, without anything behind them.
fn declared() -> BTreeMap<&'static str, Vec<RouteSpec>> {
    let store = Embedded::memory().unwrap().store("test-");
    let access = Access::new(store.clone(), Clock::system());
    let specs = |routes: Vec<Routes>| routes.iter().flat_map(|it| it.specs().to_vec()).collect();
    let watch = Watch::new(&cpx_config(None), store.clone(), Clock::system());
    let scaling = Scaling::new(&scaling_config(None), store.clone(), Clock::system());
    let devices = Devices::new(&packet_config(None), store.clone(), Clock::system(), Arc::default());
    let all = routes(&access, batches(BatchStore::new(store), None), watch, scaling, devices, Shout::new(None, true));
    all.into_iter().map(|(name, routes)| (name, specs(routes))).collect()
}

fn batches(store: BatchStore, provider: Option<String>) -> Batches {
    let max_age = Duration::from_hours(24);
    Batches { store, provider, clock: Clock::system(), wake: Arc::default(), max_age }
}

fn cpx_config(url: Option<&str>) -> Config {
    let setting = |name: &str| url.filter(|_| name == services::config::URL).map(str::to_owned);
    Config::from_settings(setting).unwrap()
}

fn scaling_config(url: Option<&str>) -> autoscaler::config::Config {
    let setting = |name: &str| url.filter(|_| name == autoscaler::config::URL).map(str::to_owned);
    autoscaler::config::Config::from_settings(setting).unwrap()
}

/// An API whose one deployment has what it wants, and that has been looked at once.
async fn start_deployments(store: &Store) -> deployments::Simulator {
    let target_free_pct = "15".parse().unwrap();
    let load = Load::Steady { busy: 85 };
    let one = Spec { id: DEPLOYMENT.to_owned(), servers_per_host: 10, target_free_pct, hosts: 10, load };
    let config = deployments::Config { fleet: Some(vec![one]), ..deployments::Config::default() };
    let sim = deployments::start(config).await.unwrap();
    let config = scaling_config(Some(sim.url()));
    let clock = Clock::system();
    let scaler = Scaler::new(config.deployments.unwrap(), store.clone(), config.at_once, clock.clone());
    let report = scaler.tick(autoscaler::samples::slot(clock.now()), &CancellationToken::new()).await.unwrap();
    assert_eq!((report.read, report.bad), (1, 0), "{report:?}");
    sim
}

fn packet_config(url: Option<&str>) -> devices::config::Config {
    let setting = |name: &str| match name {
        devices::config::URL => url.map(str::to_owned),
        devices::config::PROJECT => Some(packet::PROJECT.to_owned()),
        devices::config::TOKEN => Some(packet::TOKEN.to_owned()),
        _ => None,
    };
    devices::config::Config::from_settings(setting).unwrap()
}

async fn start_cpx() -> cpx::Simulator {
    let one = Fixed { ip: SERVER.parse().unwrap(), service: SERVICE.to_owned(), cpu: 10, memory: 10 };
    cpx::start(cpx::Config { fleet: Some(vec![one]), ..cpx::Config::default() }).await.unwrap()
}

impl World {
    async fn new() -> Self {
        let lorawan = lorawan::start(lorawan::Config::default()).await.unwrap();
        let shoutcloud = shoutcloud::start(shoutcloud::Config::default()).await.unwrap();
        let embedded = Embedded::memory().unwrap();
        let store = embedded.store("test-");
        store.create_tables(&muster::backend::TABLES).await.unwrap();
        let cpx = start_cpx().await;
        let config = cpx_config(Some(cpx.url()));
        let watch = Watch::new(&config, store.clone(), Clock::system());
        // A minute that has been watched.
        let watcher = Watcher::new(config, store.clone(), Notifier::default(), Clock::system()).unwrap();
        watcher.tick(services::worker::slot(jiff::Timestamp::now())).await.unwrap();
        let access = Access::new(store.clone(), Clock::system());
        let upstream = Upstream::new(shout::http::URL, shoutcloud.url()).unwrap();
        let deployments = start_deployments(&store).await;
        let scaling = Scaling::new(&scaling_config(Some(deployments.url())), store.clone(), Clock::system());
        let clock = Clock::manual(NOON);
        let packet = packet::Config { manual: true, epoch: Some(NOON), ..packet::Config::default() };
        let packet = packet::start(packet).await.unwrap();
        let config = packet_config(Some(packet.url()));
        let devices = Devices::new(&config, store.clone(), clock.clone(), Arc::default());
        let batches = batches(BatchStore::new(store.clone()), Some(lorawan.url().to_owned()));
        let all = routes(&access, batches, watch, scaling, devices, Shout::new(Some(&upstream), true));
        let all: Vec<Routes> = all.into_iter().flat_map(|(_, routes)| routes).collect();
        let specs = all.iter().flat_map(|routes| routes.specs().to_vec()).collect();
        let app = kit::http::app(all, access.clone());
        let (key, admin) = key(&access, "acme", &["admin".to_owned()], None).await;
        let mut world = Self {
            app,
            access,
            specs,
            batch: String::new(),
            alert: String::new(),
            device: String::new(),
            key,
            cpx,
            deployments,
            packet,
            asked: [0; 3],
            lorawan,
            shoutcloud,
            _embedded: embedded,
        };
        let made = world.send("POST", "/api/v1/batches", Some(&format!("Bearer {admin}"))).await;
        assert_eq!(made.status, StatusCode::CREATED);
        made.json()["id"].as_str().unwrap().clone_into(&mut world.batch);
        world.device = world.bring_up(&config, store, &clock, &format!("Bearer {admin}")).await;
        let alerts = world.send("GET", "/api/v1/alerts?state=all", Some(&format!("Bearer {admin}"))).await;
        alerts.json()["items"][1]["id"].as_str().unwrap().clone_into(&mut world.alert);
        world.asked = world.questions();
        world
    }

    fn questions(&self) -> [u64; 3] {
        [
            self.cpx.stats().traffic.requests,
            self.deployments.stats().traffic.requests,
            self.packet.stats().traffic.requests,
        ]
    }

    /// A device that is up; `clock` and the vendor's time are in our hands.
    async fn bring_up(&self, config: &devices::config::Config, store: Store, clock: &Clock, bearer: &str) -> String {
        let asked_for = self.send("POST", "/api/v1/devices", Some(bearer)).await;
        assert_eq!(asked_for.status, StatusCode::ACCEPTED);
        let id = asked_for.json()["id"].as_str().unwrap().to_owned();
        let supply = Supply::new(config.vendor.clone().unwrap(), DeviceStore::new(store.clone()), clock.clone());
        let sealer = Sealer::new(config.token.clone());
        let worker = devices::worker::Worker::new(supply, store, sealer, clock.clone(), Arc::default());
        let mut rounds = Rounds::new(worker);
        let one = format!("/api/v1/devices/{id}");
        for _ in 0..60 {
            rounds.round().await.unwrap();
            if self.send("GET", &one, Some(bearer)).await.json()["state"] == "Active" {
                return id;
            }
            clock.advance(Duration::from_secs(5));
            self.packet.advance(Duration::from_secs(5));
        }
        panic!("it does not come up: {}", self.send("GET", &one, Some(bearer)).await.json());
    }

    /// The path of a route, about the batch, the device and the key of `acme`, and the service and the
    /// deployment that there are.
    fn path(&self, spec: &RouteSpec) -> String {
        let id = match spec.path.split('/').nth(3) {
            Some("keys") => &self.key.id,
            Some("alerts") => &self.alert,
            Some("deployments") => DEPLOYMENT,
            Some("devices") => &self.device,
            _ => &self.batch,
        };
        let path = spec.path.replace("{id}", id).replace("{n}", "0").replace("{short_code}", "2555B");
        let path = path.replace("{ip}", SERVER).replace("{name}", SERVICE).replace("{number}", "1");
        assert!(!path.contains('{'), "{path}: what stands for this parameter?");
        path
    }

    async fn send(&self, method: &str, path: &str, authorization: Option<&str>) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        if method == "PUT" {
            request = request.header("if-match", "*");
        }
        let body = match (method, path) {
            ("POST", "/api/v1/shout") => json!({"data": "hello"}),
            ("POST", path) if path.ends_with("/silence") => {
                let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
                json!({"until": until, "reason": "a test"})
            }
            ("POST", "/api/v1/deployments/simulate") => {
                let demand = json!([{"at": jiff::Timestamp::now(), "busy_servers": 85}]);
                json!({"samples": demand, "servers_per_host": 10, "target_free_pct": 15, "policy": {"min_hosts": 2}})
            }
            ("POST", path) if path.ends_with("/actions") => json!({"type": "reboot"}),
            ("PUT", _) => json!({"min_hosts": 2}),
            ("POST", "/api/v1/keys") => json!({"tenant": "acme", "scopes": ["admin"]}),
            _ => json!({}),
        };
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
        Reply::read(self.app.clone().oneshot(request).await.unwrap()).await
    }

    /// Every scope that some route asks for.
    fn scopes(&self) -> BTreeSet<String> {
        self.specs.iter().filter_map(|spec| spec.scope.map(|scope| scope.0.to_owned())).collect()
    }

    fn guarded(&self) -> Vec<RouteSpec> {
        self.specs.iter().filter(|spec| spec.scope.is_some()).cloned().collect()
    }

    /// Nothing of `acme` has changed, and no upstream was asked.
    async fn is_untouched(&self) {
        let (_, token) =
            key(&self.access, "acme", &["batches:read", "autoscaler:read", "devices:read"].map(str::to_owned), None)
                .await;
        let list = self.send("GET", "/api/v1/batches?deleted=true", Some(&format!("Bearer {token}"))).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        assert_eq!((&list["items"][0]["id"], &list["items"][0]["status"]), (&json!(self.batch), &json!("Processing")));
        assert!(self.access.keys().get(&self.key.id).await.unwrap().unwrap().revoked_at.is_none());
        let list = self.send("GET", "/api/v1/devices", Some(&format!("Bearer {token}"))).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        assert_eq!((&list["items"][0]["id"], &list["items"][0]["state"]), (&json!(self.device), &json!("Active")));
        assert_eq!(self.lorawan.stats().traffic.requests, 0);
        for path in ["/api/v1/deployments-policy", "/api/v1/deployments/eu-1/policy"] {
            let policy = self.send("GET", path, Some(&format!("Bearer {token}"))).await.json();
            assert_eq!((&policy["version"], &policy["set"]), (&json!(0), &json!({})), "{path}");
        }
        assert_eq!(self.questions(), self.asked);
        assert_eq!(self.shoutcloud.stats().traffic.requests, 0);
    }
}

impl Reply {
    async fn read(answer: axum::response::Response) -> Self {
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().into();
        Self { status: parts.status, headers: parts.headers, body }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn problem(&self, status: u16, slug: &str, what: &str) {
        assert_eq!(self.status.as_u16(), status, "{what}: {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.headers["content-type"], "application/problem+json", "{what}");
        let body = self.json();
        assert_eq!(body["type"], format!("urn:muster:problem:{slug}"), "{what}");
        assert_eq!(body["instance"], self.headers["x-request-id"].to_str().unwrap(), "{what}");
        let authenticate = self.headers.get("www-authenticate").map(|it| it.to_str().unwrap());
        assert_eq!(authenticate, (status == 401).then_some("Bearer realm=\"muster\""), "{what}");
    }
}

async fn key(access: &Access, tenant: &str, scopes: &[String], lives: Option<i64>) -> (ApiKey, String) {
    let new = NewKey { tenant: tenant.to_owned(), scopes: scopes.to_vec(), label: None, expires_in_seconds: lives };
    // An hour ago, so that one that lives for a minute has expired.
    let made_at = access.clock().now() - jiff::SignedDuration::from_hours(1);
    access.keys().create(new, made_at).await.unwrap()
}

#[test]
fn the_routing_table_of_the_stack_is_what_the_routers_declare() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/functions.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut stated: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for function in file["functions"].as_array().unwrap() {
        let routes = function["routes"].as_array().unwrap();
        match function["kind"].as_str().unwrap() {
            "http" => _ = stated.insert(function["name"].as_str().unwrap(), routes.clone()),
            "worker" => assert!(routes.is_empty(), "{}", function["name"]),
            other => panic!("{other:?} is no kind of function"),
        }
    }
    stated.insert("serve_only", file["serve_only"].as_array().unwrap().clone());
    let declared = declared();
    assert_eq!(stated.keys().collect::<Vec<_>>(), declared.keys().collect::<Vec<_>>());
    for (name, specs) in declared {
        let mut declared: Vec<String> = specs.iter().map(|spec| line(&json!(spec))).collect();
        let mut stated: Vec<String> = stated[name].iter().map(line).collect();
        declared.sort_unstable();
        stated.sort_unstable();
        assert_eq!(stated, declared, "infra/functions.json (left) and the router of {name} (right) disagree");
    }
}

fn line(route: &Value) -> String {
    let fields: Vec<&str> = route.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["method", "path", "scope"], "{route}");
    format!("{} {} {}", route["method"], route["path"], route["scope"])
}

#[test]
fn each_function_gets_the_tables_that_there_are() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/functions.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let known = muster::backend::TABLES.map(|table| table.name);
    for function in file["functions"].as_array().unwrap() {
        let tables: Vec<&str> = function["tables"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(tables.iter().all(|table| known.contains(table)), "{function}");
        assert_eq!(tables.contains(&"access"), function["kind"] == "http", "keys are for those who answer: {function}");
        if let Some(stream) = function["stream"].as_str() {
            assert!(muster::backend::TABLES.iter().any(|it| it.name == stream && it.stream), "{function}");
        }
    }
}

#[test]
fn only_the_routes_named_here_need_no_key() {
    let public: Vec<_> = declared().into_values().flatten().filter(|spec| spec.scope.is_none()).collect();
    let public: Vec<_> = public.iter().map(|spec| (spec.method.as_str(), spec.path)).collect();
    assert_eq!(public, PUBLIC);
    for spec in declared().into_values().flatten() {
        let Some(scope) = spec.scope else { continue };
        let may = match spec.method.as_str() {
            "GET" => ":read",
            method if COMPUTES.contains(&(method, spec.path)) => ":read",
            _ => ":write",
        };
        assert!(scope.0.ends_with(may) || scope.0 == "admin", "{spec:?}");
    }
}

#[tokio::test]
async fn the_public_routes_and_health_work_without_a_key() {
    let world = World::new().await;
    for (method, path) in PUBLIC.iter().chain(&[("GET", "/healthz"), ("GET", "/healthz/batches")]) {
        assert_eq!(world.send(method, path, None).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn every_route_needs_a_valid_key() {
    let world = World::new().await;
    let all: Vec<String> = world.scopes().into_iter().collect();
    let (live, live_token) = key(&world.access, "acme", &all, None).await;
    let (_, expired) = key(&world.access, "acme", &all, Some(60)).await;
    let (revoked_key, revoked) = key(&world.access, "acme", &all, None).await;
    world.access.keys().revoke(&revoked_key.id, world.access.clock().now()).await.unwrap();
    let (_, stranger) = live_token.rsplit_once(&format!("{}_", live.id)).unwrap();
    let bad = [
        format!("Bearer {expired}"),
        format!("Bearer {revoked}"),
        format!("Bearer {live_token}A"),
        format!("Bearer mk_{}_{stranger}", revoked_key.id),
        format!("Bearer mk_000000000000_{stranger}"),
        format!("Basic {live_token}"),
        live_token.clone(),
        "Bearer".to_owned(),
        "Bearer mk_".to_owned(),
        "Bearer undefined".to_owned(),
        String::new(),
    ];
    for spec in world.guarded() {
        let (method, path) = (&spec.method, world.path(&spec));
        world.send(method, &path, None).await.problem(401, "unauthorized", &format!("{method} {path}"));
        for header in &bad {
            let reply = world.send(method, &path, Some(header)).await;
            reply.problem(401, "unauthorized", &format!("{method} {path} with {header}"));
        }
        if method == "GET" {
            let head = world.send("HEAD", &path, None).await;
            assert_eq!((head.status, head.body.len()), (StatusCode::UNAUTHORIZED, 0), "HEAD {path}");
        }
    }
    world.is_untouched().await;
}

#[tokio::test]
async fn every_route_needs_its_scope_and_no_other_will_do() {
    let world = World::new().await;
    for spec in world.guarded() {
        let scope = spec.scope.unwrap().0;
        // Everything but admin and the one that is needed.
        let mut others = world.scopes();
        others.remove("admin");
        others.remove(scope);
        let others: Vec<String> = others.into_iter().collect();
        let (_, token) = key(&world.access, "acme", &others, None).await;
        let (method, path) = (&spec.method, world.path(&spec));
        let reply = world.send(method, &path, Some(&format!("Bearer {token}"))).await;
        reply.problem(403, "missing-scope", &format!("{method} {path} with {others:?}"));
        assert!(reply.json()["detail"].as_str().unwrap().contains(scope), "it is told which");
    }
    world.is_untouched().await;
}

#[tokio::test]
async fn what_belongs_to_another_tenant_is_not_there() {
    let world = World::new().await;
    let mut all = world.scopes();
    // Its holder manages the keys of every tenant, so that a new tenant can be given one.
    all.remove("admin");
    let all: Vec<String> = all.into_iter().collect();
    let (_, token) = key(&world.access, "globex", &all, None).await;
    let bearer = format!("Bearer {token}");
    let mut about_one = 0;
    // The servers that CPX lists are the installation's, and so are the deployments that are scaled and
    // the vendor's catalogue: whoever may read them reads all of them.
    let is_a_tenants = |spec: &RouteSpec| {
        let of_all = ["admin", "services:read", "services:write", "autoscaler:read", "autoscaler:write"];
        !of_all.contains(&spec.scope.unwrap().0) && !spec.path.starts_with("/api/v1/catalog/")
    };
    for spec in world.guarded().into_iter().filter(is_a_tenants) {
        let (method, path) = (&spec.method, world.path(&spec));
        if spec.path.contains("{id}") {
            world.send(method, &path, Some(&bearer)).await.problem(404, "not-found", &format!("{method} {path}"));
            if path.contains(&world.batch) {
                let deleted = format!("{path}?deleted=true");
                let reply = world.send(method, &deleted, Some(&bearer)).await;
                reply.problem(404, "not-found", &format!("{method} {deleted}"));
            }
            about_one += 1;
        } else if method == "GET" {
            let reply = world.send(method, &path, Some(&bearer)).await;
            assert_eq!((reply.status, reply.json()), (StatusCode::OK, json!({"items": []})), "{path}");
        }
    }
    let what = "a batch, its deletion, its partitions and codes, in two spellings; \
                a device, its deletion, events, attempts and actions";
    assert_eq!(about_one, 8 + 5, "{what}");
    world.is_untouched().await;
}

#[tokio::test]
async fn every_route_lets_a_key_with_its_scope_in() {
    let world = World::new().await;
    for spec in world.guarded().into_iter().filter(|spec| spec.method != "DELETE") {
        let (_, token) = key(&world.access, "acme", &[spec.scope.unwrap().0.to_owned()], None).await;
        let (method, path) = (&spec.method, world.path(&spec));
        let reply = world.send(method, &path, Some(&format!("Bearer {token}"))).await;
        // The batch has no partitions yet, and no codes.
        let fine = reply.status.is_success() || (reply.status == 404 && path.contains(&format!("{}/", world.batch)));
        assert!(fine, "{method} {path}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
    }
}
