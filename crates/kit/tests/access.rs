//! Keys from the outside: who gets in, and how `muster serve` manages them.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use jiff::Timestamp;
use kit::{
    access::{self, Access, Caller, NewKey, TABLE},
    clock::Clock,
    dynamo::embedded::Embedded,
    http::{Routes, Scope, app},
    paging::Binding,
};
use serde_json::{Value, json};
use tower::ServiceExt;

const KEYS: &str = "/api/v1/keys";

/// A server with the routes for keys, and one that tells who calls.
struct World {
    embedded: Embedded,
    clock: Clock,
    access: Access,
    app: Router,
    admin: String,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

fn new_key(tenant: &str, scopes: &[&str]) -> NewKey {
    let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
    NewKey { tenant: tenant.to_owned(), scopes, label: None, expires_in_seconds: None }
}

impl World {
    async fn new() -> Self {
        let (embedded, clock) = (Embedded::memory().unwrap(), Clock::manual(Timestamp::now()));
        embedded.store("test-").create_tables(&[&TABLE]).await.unwrap();
        let (access, app) = Self::process(&embedded, &clock);
        let (_, admin) = access.keys().create(new_key("ops", &["admin"]), clock.now()).await.unwrap();
        Self { embedded, clock, access, app, admin }
    }

    /// What one process of several has.
    fn process(embedded: &Embedded, clock: &Clock) -> (Access, Router) {
        let access = Access::new(embedded.store("test-"), clock.clone());
        let whoami = Routes::new().route(Method::GET, "/whoami", Scope("things:read"), async |caller: Caller| {
            format!("\"{}\"", caller.tenant)
        });
        (access.clone(), app(vec![whoami, access::routes(access.clone())], access))
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: &str) -> Reply {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        let request = request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap();
        send(&self.app, request).await
    }

    async fn create(&self, body: &Value) -> Reply {
        self.send("POST", KEYS, &self.admin, &body.to_string()).await
    }

    async fn whoami(&self, token: &str) -> Reply {
        self.send("GET", "/whoami", token, "").await
    }
}

async fn send(app: &Router, request: Request<Body>) -> Reply {
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    if !parts.status.is_success() {
        assert_eq!(parts.headers["content-type"], "application/problem+json");
        assert_eq!(body["instance"], parts.headers["x-request-id"].to_str().unwrap());
    }
    Reply { status: parts.status, headers: parts.headers, body }
}

impl Reply {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self
    }

    /// A 401 as RFC 9110 wants it.
    #[track_caller]
    fn unauthorized(self) -> Value {
        let this = self.expect(401);
        assert_eq!(this.headers["www-authenticate"], "Bearer realm=\"muster\"");
        this.body
    }
}

#[tokio::test]
async fn a_key_is_made_used_listed_and_revoked() {
    let world = World::new().await;
    let wanted = json!({"tenant": "acme", "scopes": ["things:read"], "label": "line 3", "expires_in_seconds": 60});
    let made = world.create(&wanted).await.expect(201).body;
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(token.starts_with(&format!("mk_{id}_")) && token.len() == 3 + 12 + 1 + 43, "256 bits: {token}");
    assert_eq!(world.whoami(token).await.expect(200).body, "acme");

    let list = world.send("GET", KEYS, &world.admin, "").await.expect(200).body;
    let secret = token.rsplit_once(&format!("{id}_")).unwrap().1;
    assert!(!list.to_string().contains(secret) && !list.to_string().contains("sha256"), "{list}");
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("token");
    assert!(list["items"].as_array().unwrap().contains(&shown), "{list}");
    assert_eq!(
        (&shown["tenant"], &shown["label"], &shown["revoked_at"]),
        (&json!("acme"), &json!("line 3"), &Value::Null)
    );

    for _ in 0..2 {
        world.send("DELETE", &format!("{KEYS}/{id}"), &world.admin, "").await.expect(204);
        world.whoami(token).await.unauthorized();
    }
    let list = world.send("GET", KEYS, &world.admin, "").await.expect(200).body;
    let revoked = list["items"].as_array().unwrap().iter().find(|key| key["id"] == id).unwrap();
    assert_eq!(revoked["revoked_at"], world.clock.now().to_string());
}

#[tokio::test]
async fn two_live_keys_make_a_rotation_without_a_gap() {
    let world = World::new().await;
    let wanted = json!({"tenant": "acme", "scopes": ["things:read"]});
    let (old, new) = (world.create(&wanted).await.body, world.create(&wanted).await.body);
    let token = |key: &Value| key["token"].as_str().unwrap().to_owned();
    for key in [&old, &new] {
        assert_eq!(world.whoami(&token(key)).await.expect(200).body, "acme");
    }
    world.send("DELETE", &format!("{KEYS}/{}", old["id"].as_str().unwrap()), &world.admin, "").await.expect(204);
    world.whoami(&token(&old)).await.unauthorized();
    assert_eq!(world.whoami(&token(&new)).await.expect(200).body, "acme");
}

#[tokio::test]
async fn a_key_expires_to_the_second() {
    let world = World::new().await;
    let wanted = json!({"tenant": "acme", "scopes": ["things:read"], "expires_in_seconds": 60});
    let token = world.create(&wanted).await.expect(201).body["token"].as_str().unwrap().to_owned();
    world.clock.advance(Duration::from_millis(59_900));
    world.whoami(&token).await.expect(200);
    world.clock.advance(Duration::from_millis(100));
    world.whoami(&token).await.unauthorized();
}

/// One that does remember it may trust it for up to a minute.
#[tokio::test]
async fn another_process_reads_a_revocation_from_the_store() {
    let world = World::new().await;
    let (key, token) = world.access.keys().create(new_key("acme", &["things:read"]), world.clock.now()).await.unwrap();
    let (_, other) = World::process(&world.embedded, &world.clock);
    world.send("DELETE", &format!("{KEYS}/{}", key.id), &world.admin, "").await.expect(204);
    let request = Request::get("/whoami").header("authorization", format!("Bearer {token}"));
    send(&other, request.body(Body::empty()).unwrap()).await.unauthorized();
}

#[tokio::test]
async fn a_revoked_key_that_another_process_remembers_opens_for_a_minute_and_no_longer() {
    let world = World::new().await;
    let (key, token) = world.access.keys().create(new_key("acme", &["things:read"]), world.clock.now()).await.unwrap();
    let (_, other) = World::process(&world.embedded, &world.clock);
    let whoami = async || {
        let request = Request::get("/whoami").header("authorization", format!("Bearer {token}"));
        send(&other, request.body(Body::empty()).unwrap()).await
    };
    whoami().await.expect(200);
    world.send("DELETE", &format!("{KEYS}/{}", key.id), &world.admin, "").await.expect(204);
    world.clock.advance(Duration::from_millis(59_900));
    whoami().await.expect(200);
    world.clock.advance(Duration::from_millis(100));
    whoami().await.unauthorized();
}

#[tokio::test]
async fn whatever_is_no_valid_key_gets_the_same_401() {
    let world = World::new().await;
    let (key, token) = world.access.keys().create(new_key("acme", &["things:read"]), world.clock.now()).await.unwrap();
    let (other, _) = world.access.keys().create(new_key("acme", &["admin"]), world.clock.now()).await.unwrap();
    let secret = token.splitn(3, '_').nth(2).unwrap();
    let unknown = world.whoami("mk_0123456789ab_AAAA").await.unauthorized();
    let known = [
        format!("mk_{}_AAAA", key.id),
        format!("mk_{}_{secret}", other.id),
        format!("{token}x"),
        token[..token.len() - 1].to_owned(),
        format!("mk_{}_{}", key.id, secret.to_uppercase()),
    ];
    for wrong in &known {
        // Whether an id exists is not to be found out.
        let body = world.whoami(wrong).await.unauthorized();
        assert_eq!((&body["detail"], &body["type"]), (&unknown["detail"], &unknown["type"]), "{wrong}");
    }
    let long = format!("Bearer mk_{}_{}", key.id, "x".repeat(60_000));
    let headers: Vec<Vec<u8>> = [
        "",
        "Bearer",
        "Bearer ",
        "Bearer mk_",
        "Basic bWs6eA==",
        "Bearer null",
        "mk_0123456789ab_AAAA",
        &long,
        "Bearer mk_0123456789ab_AAAA, Bearer mk_0123456789ab_AAAA",
        "Bearer mk_00000000000#_x",
        "Bearer KEY",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([token.clone().into_bytes(), b"Bearer \xff\xfe".to_vec(), format!("Basic {token}").into_bytes()])
    .collect();
    for header in headers {
        let request = Request::get("/whoami").header("authorization", HeaderValue::from_bytes(&header).unwrap());
        send(&world.app, request.body(Body::empty()).unwrap()).await.unauthorized();
    }
    send(&world.app, Request::get("/whoami").body(Body::empty()).unwrap()).await.unauthorized();
    let bearer = format!("Bearer {token}");
    let twice = Request::get("/whoami").header("authorization", &bearer).header("authorization", &bearer);
    send(&world.app, twice.body(Body::empty()).unwrap()).await.unauthorized();
    // In the query it would end up in logs.
    let request = Request::get(format!("/whoami?access_token={token}")).body(Body::empty()).unwrap();
    send(&world.app, request).await.unauthorized();
    let lower = Request::get("/whoami").header("authorization", format!("bearer {token}"));
    assert_eq!(send(&world.app, lower.body(Body::empty()).unwrap()).await.expect(200).body, "acme");
}

#[tokio::test]
async fn a_scope_is_needed_and_admin_has_them_all() {
    let world = World::new().await;
    let token =
        async |scopes: &[&str]| world.access.keys().create(new_key("acme", scopes), world.clock.now()).await.unwrap().1;
    for scopes in [&["things:write"][..], &["thing:read"], &["things-x:read", "batches:read"]] {
        let problem = world.whoami(&token(scopes).await).await.expect(403).body;
        assert_eq!(problem["type"], "urn:muster:problem:missing-scope");
        assert!(problem["detail"].as_str().unwrap().contains("things:read"), "{problem}");
    }
    world.whoami(&token(&["other:read", "things:read"]).await).await.expect(200);
    world.whoami(&world.admin).await.expect(200);
    let reader = token(&["things:read"]).await;
    for (method, path) in [("POST", KEYS), ("GET", KEYS), ("DELETE", &format!("{KEYS}/0123456789ab"))] {
        world.send(method, path, &reader, "").await.expect(403);
    }
}

#[tokio::test]
async fn a_new_key_is_checked_and_a_bad_one_is_not_made() {
    let world = World::new().await;
    let fine = json!({"tenant": "acme", "scopes": ["things:read"]});
    let with = |field: &str, value: Value| {
        let mut body = fine.clone();
        body[field] = value;
        body
    };
    let bad = [
        (json!({"scopes": ["things:read"]}), "", "tenant"),
        (json!({"tenant": "acme"}), "", "scopes"),
        (with("tenant", json!("")), "/tenant", "a-z"),
        (with("tenant", json!("Acme")), "/tenant", "a-z"),
        (with("tenant", json!("a#b")), "/tenant", "a-z"),
        (with("tenant", json!("ä")), "/tenant", "a-z"),
        (with("tenant", json!("x".repeat(65))), "/tenant", "a-z"),
        (with("scopes", json!([])), "/scopes", "1 to 50"),
        (with("scopes", json!(vec!["things:read"; 51])), "/scopes", "1 to 50"),
        (with("scopes", json!(["things:delete"])), "/scopes", "things:delete"),
        (with("scopes", json!(["*"])), "/scopes", "CAPABILITY:read"),
        (with("scopes", json!(["Admin"])), "/scopes", "CAPABILITY:read"),
        (with("scopes", json!(["x".repeat(950_000)])), "/scopes", "xxx"),
        (with("scopes", json!([7])), "/scopes/0", "string"),
        (with("label", json!("x".repeat(201))), "/label", "200"),
        (with("expires_in_seconds", json!(0)), "/expires_in_seconds", "1 second"),
        (with("expires_in_seconds", json!(-1)), "/expires_in_seconds", "1 second"),
        (with("expires_in_seconds", json!(i64::MAX)), "/expires_in_seconds", "ten years"),
        (with("expires_in_seconds", json!(1.5)), "/expires_in_seconds", "i64"),
        (with("secret", json!("mine")), "/secret", "unknown field"),
    ];
    for (body, pointer, words) in bad {
        let reply = world.create(&body).await;
        let start: String = body.to_string().chars().take(80).collect();
        assert_eq!(reply.status.as_u16(), 422, "{start}");
        assert_eq!(reply.body["errors"][0]["pointer"], pointer, "{start}");
        assert!(reply.body["errors"][0]["detail"].as_str().unwrap().contains(words), "{start}: {}", reply.body);
        assert!(reply.body.to_string().len() < 5_000, "{start}");
    }
    let keys = world.send("GET", KEYS, &world.admin, "").await.expect(200).body;
    assert_eq!(keys["items"].as_array().unwrap().len(), 1, "the admin's own");
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let world = World::new().await;
    for _ in 0..6 {
        world.create(&json!({"tenant": "acme", "scopes": ["things:read"]})).await.expect(201);
    }
    for limit in 1..=8 {
        let (mut ids, mut path) = (Vec::new(), format!("{KEYS}?limit={limit}"));
        loop {
            let page = world.send("GET", &path, &world.admin, "").await.expect(200);
            let items = page.body["items"].as_array().unwrap();
            assert!((1..=limit).contains(&items.len()), "limit {limit}: {} items", items.len());
            ids.extend(items.iter().map(|key| key["id"].as_str().unwrap().to_owned()));
            let Some(cursor) = page.body["next_cursor"].as_str() else {
                assert!(!page.headers.contains_key("link"));
                break;
            };
            path = format!("{KEYS}?limit={limit}&cursor={cursor}");
            assert_eq!(page.headers["link"], format!("<{path}>; rel=\"next\""));
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((count, ids.len()), (7, 7), "limit {limit}");
    }
    for query in ["limit=0", "limit=501", "limit=x", "tenant=acme", "cursor=x", "cursor="] {
        world.send("GET", &format!("{KEYS}?{query}"), &world.admin, "").await.expect(400);
    }
    for forged in ["", &"9".repeat(2_000)] {
        let cursor = Binding::new("", &["keys"]).cursor(forged);
        world.send("GET", &format!("{KEYS}?cursor={cursor}"), &world.admin, "").await.expect(400);
    }
}

#[tokio::test]
async fn what_is_no_key_cannot_be_revoked() {
    let world = World::new().await;
    for id in ["0123456789ab", "x", "%20", "%00", "..", "mk_0123456789ab_x", &"9".repeat(2_000)] {
        let problem = world.send("DELETE", &format!("{KEYS}/{id}"), &world.admin, "").await.expect(404).body;
        assert_eq!(problem["type"], "urn:muster:problem:not-found", "{id}");
    }
    world.send("DELETE", &format!("{KEYS}/%FF"), &world.admin, "").await.expect(400);
}

#[tokio::test]
async fn without_the_store_a_key_that_is_remembered_still_opens() {
    let world = World::new().await;
    let token = async || {
        let new = new_key("acme", &["things:read"]);
        world.access.keys().create(new, world.clock.now()).await.unwrap().1
    };
    let (remembered, fresh) = (token().await, token().await);
    world.whoami(&remembered).await.expect(200);
    world.embedded.set_away(true);
    world.whoami(&remembered).await.expect(200);
    let reply = world.whoami(&fresh).await.expect(503);
    assert!(reply.headers.contains_key("retry-after"));
    world.embedded.set_away(false);
    world.whoami(&fresh).await.expect(200);
}
