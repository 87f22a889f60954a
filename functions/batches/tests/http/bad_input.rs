//! Requests that cannot be done: each has its status and a problem that helps, and leaves nothing
//! behind. None of them is our fault, so none is a 5xx.

use axum::body::Body;
use http::{Method, Request, header};
use kit::paging::Binding;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{BATCHES, Client, OfBatches as _, World, text};

/// A body that must be refused: with which status and problem, and what it is that is wrong.
struct Bad {
    body: String,
    status: u16,
    slug: &'static str,
    pointer: Option<&'static str>,
    words: &'static str,
}

#[expect(clippy::needless_pass_by_value, reason = "reads better in the table below")]
fn wrong(body: impl ToString, pointer: &'static str, words: &'static str) -> Bad {
    Bad { body: body.to_string(), status: 422, slug: "invalid-input", pointer: Some(pointer), words }
}

fn no_json(body: impl Into<String>) -> Bad {
    Bad { body: body.into(), status: 400, slug: "not-json", pointer: None, words: "" }
}

fn bad_bodies() -> Vec<Bad> {
    let sizes = [json!(0), json!(-1), json!(1.5), json!("ten"), json!(1e9), json!(1_000_001), json!(null), json!([5])];
    let sizes = sizes.map(|size| wrong(json!({ "batch_size": size }), "/batch_size", "1 to 1000000"));
    let prefixes = [json!("70B3D5123456"), json!("70G"), json!("7 "), json!("０"), json!("0x70")];
    let prefixes = prefixes.map(|prefix| wrong(json!({ "prefix": prefix }), "/prefix", "0 to 11 hexadecimal"));
    let labels = [json!("x".repeat(201)), json!("a\u{0}b"), json!("a\r\nb"), json!("\u{1b}[2J")];
    let labels = labels.map(|label| wrong(json!({ "label": label }), "/label", "200 characters"));
    let others = [
        wrong(json!({"prefix": 70}), "/prefix", "expected a string"),
        wrong(json!({"prefix": null}), "/prefix", "expected a string"),
        wrong(json!({"label": 7}), "/label", "expected a string"),
        wrong(json!({"on_uncertain": "drop"}), "/on_uncertain", "`keep` or `replace`"),
        wrong(json!({"size": 5}), "/size", "unknown field `size`"),
        wrong(json!({"tenant": "globex"}), "/tenant", "unknown field `tenant`"),
        wrong(json!({"batch_size": 5, "Batch_Size": 5}), "/Batch_Size", "unknown field `Batch_Size`"),
        wrong(json!({"a/b~c": 5}), "/a~1b~0c", "unknown field"),
        wrong(r#"{"batch_size":5,"batch_size":6}"#, "", "duplicate field `batch_size`"),
        wrong("5", "", "object"),
        wrong("null", "", "object"),
        wrong("\"ten\"", "", "object"),
        wrong("[]", "", "object"),
        wrong("[7]", "", "object"),
        wrong("[{\"batch_size\":5}]", "", "object"),
        // Long enough that to repeat them would not fit into an answer.
        wrong(json!({"batch_size": "9".repeat(950_000)}), "/batch_size", ""),
        wrong(json!({"on_uncertain": "k".repeat(950_000)}), "/on_uncertain", ""),
        Bad { pointer: None, ..wrong(json!({"k".repeat(950_000): 1}), "", "unknown field") },
        no_json("nope"),
        no_json("{"),
        no_json("{} {}"),
        no_json("{\"batch_size\":5,}"),
        no_json("{'batch_size':5}"),
        no_json("[1"),
        no_json("<html></html>"),
        no_json("batch_size=5"),
        no_json("\u{feff}{}"),
        no_json("{\"label\":\"\\ud800\"}"),
        no_json("{\"batch_size\":1e999}"),
        // Deep: refused, and nobody's stack is used up.
        no_json("[".repeat(500_000)),
        no_json(format!("{{\"batch_size\":{}", "[".repeat(500_000))),
        wrong(format!("{{\"x\":{}", "{\"x\":".repeat(150_000)), "/x", "unknown field `x`"),
        no_json(format!("{{\"batch_size\":{}", "{\"x\":".repeat(150_000))),
        no_json(format!("{{\"batch_size\":{}{}}}", "[".repeat(200), "]".repeat(200))),
        Bad {
            body: format!("{{\"label\":\"{}\"}}", "x".repeat(2 << 20)),
            status: 413,
            slug: "too-large",
            pointer: None,
            words: "1048576",
        },
        Bad { body: " ".repeat((1 << 20) + 1), status: 413, slug: "too-large", pointer: None, words: "" },
    ];
    sizes.into_iter().chain(prefixes).chain(labels).chain(others).collect()
}

/// The start of a text, for messages.
fn start(text: &str) -> String {
    text.chars().take(60).collect()
}

#[tokio::test]
async fn a_bad_body_is_refused_with_its_place_and_leaves_nothing_behind() {
    let world = World::new().await;
    world.work();
    let client = world.client("acme").await;
    for Bad { body, status, slug, pointer, words } in bad_bodies() {
        let reply = client.post(BATCHES, &body).await;
        assert_eq!(reply.status, status, "{}: {:.600}", start(&body), reply.text());
        let problem = reply.problem(status, slug);
        if let Some(pointer) = pointer {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{}: {problem}", start(&body));
        }
        assert!(problem.to_string().contains(words), "{}: {problem}", start(&body));
    }
    let latin1 = client.request(Method::POST, BATCHES).header("content-type", "application/json");
    client.send(latin1.body(b"{\"label\":\"fr\xfch\"}".to_vec().into()).unwrap()).await.problem(400, "not-json");
    nothing_is_left(&world, &client).await;
}

async fn nothing_is_left(world: &World, client: &Client) {
    assert_eq!(client.listed(BATCHES).await, [""; 0]);
    assert_eq!(world.items().await, 0);
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    assert_eq!(world.sim.stats().traffic.requests, 0);
}

#[tokio::test]
async fn a_body_of_another_type_is_refused_with_the_type_that_would_do() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let types =
        ["application/x-www-form-urlencoded", "text/plain", "text/json", "application/jsonx", "multipart/*", "*"];
    for content_type in types {
        let request = client.request(Method::POST, BATCHES).header("content-type", content_type);
        let problem = client.send(request.body("{}".into()).unwrap()).await.problem(415, "unsupported-media-type");
        let detail = text(&problem["detail"]);
        assert!(detail.contains(content_type) && detail.contains("application/json"), "{detail}");
    }
    let none = client.request(Method::POST, BATCHES).body("{}".into()).unwrap();
    client.send(none).await.problem(415, "unsupported-media-type");
    nothing_is_left(&world, &client).await;
    for content_type in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
        let request = client.request(Method::POST, BATCHES).header("content-type", content_type);
        client.send(request.body("{}".into()).unwrap()).await.expect(201);
    }
}

#[tokio::test]
async fn a_wrong_method_is_refused_with_those_that_would_do() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = Uuid::now_v7();
    let paths = [
        (BATCHES.to_owned(), "GET, POST"),
        ("/api/v1/batch".to_owned(), "GET, POST"),
        (format!("{BATCHES}/{id}"), "DELETE, GET"),
        (format!("{BATCHES}/{id}/partitions/0"), "GET"),
        (format!("{BATCHES}/{id}/codes/2555B"), "GET"),
        ("/healthz".to_owned(), "GET, HEAD"),
    ];
    for (path, allow) in paths {
        for method in ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW", "POST", "DELETE"] {
            if allow.contains(method) {
                continue;
            }
            let request = client.request(method.parse().unwrap(), &path).body(Body::empty()).unwrap();
            let reply = client.send(request).await;
            assert_eq!(reply.header("allow"), allow, "{method} {path}");
            reply.problem(405, "method-not-allowed");
        }
    }
    nothing_is_left(&world, &client).await;
}

#[tokio::test]
async fn what_is_not_there_is_a_404_and_what_is_no_id_a_400() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let nobody = Uuid::now_v7();
    for path in [
        format!("{BATCHES}/{nobody}"),
        format!("{BATCHES}/{nobody}?deleted=true"),
        format!("{BATCHES}/{nobody}/partitions/0"),
        format!("{BATCHES}/{nobody}/codes/2555B"),
        format!("{BATCHES}/"),
        format!("{BATCHES}/{nobody}/"),
        format!("{BATCHES}/{nobody}/deveuis"),
        "/".to_owned(),
        "/api/v1".to_owned(),
        "/api/v2/batches".to_owned(),
        "/API/V1/BATCHES".to_owned(),
        "//api/v1/batches".to_owned(),
    ] {
        client.get(&path).await.problem(404, "not-found");
    }
    client.delete(&format!("{BATCHES}/{nobody}")).await.problem(404, "not-found");

    let hyphenless = nobody.simple().to_string();
    let (braced, urn) = (format!("%7B{nobody}%7D"), format!("urn:uuid:{nobody}"));
    let long = "x".repeat(8_000);
    let bad =
        ["7", "..", "%2e%2e", "%00", "%FF", "%F0%9F%92%A5", "a%2Fb", "TENANT%23globex", &hyphenless, &braced, &urn];
    for id in bad.into_iter().chain([long.as_str()]) {
        for rest in ["", "?deleted=true", "/partitions/0", "/codes/2555B"] {
            client.get(&format!("{BATCHES}/{id}{rest}")).await.problem(400, "bad-request");
        }
        client.delete(&format!("{BATCHES}/{id}")).await.problem(400, "bad-request");
    }
    let id = client.create(1).await;
    for code in ["2555", "2555BB", "2555G", "%00%00%00%00%00", "+2555", "%FF", &long] {
        client.get(&format!("{BATCHES}/{id}/codes/{code}")).await.problem(400, "bad-request");
    }
    client.get(&format!("{BATCHES}/{id}/partitions/%FF")).await.expect(400);
}

#[tokio::test]
async fn a_bad_query_is_refused_by_the_parameters_name() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = client.create(1).await;
    let queries = [
        (BATCHES, "limit=0", "limit"),
        (BATCHES, "limit=501", "limit"),
        (BATCHES, "limit=abc", "limit"),
        (BATCHES, "limit=-1", "limit"),
        (BATCHES, "limit=1.5", "limit"),
        (BATCHES, "limit=", "limit"),
        (BATCHES, "limit=99999999999999999999", "limit"),
        (BATCHES, "limit=1&limit=2", "limit"),
        (BATCHES, "status=processing", "status"),
        (BATCHES, "status=", "status"),
        (BATCHES, "status=%FF", "status"),
        (BATCHES, "deleted=maybe", "deleted"),
        (BATCHES, "page=2", "page"),
        (BATCHES, "tenant=globex", "tenant"),
        (&format!("{BATCHES}/{id}"), "deleted=1", "deleted"),
        (&format!("{BATCHES}/{id}"), "fields=id", "fields"),
        (&format!("{BATCHES}/{id}/partitions/0"), "limit=1", "limit"),
    ];
    for (path, query, name) in queries {
        let problem = client.get(&format!("{path}?{query}")).await.problem(400, "bad-parameter");
        assert_eq!(problem["errors"][0]["pointer"], format!("?{name}"), "{query}: {problem}");
    }
    for (path, fine) in [(BATCHES, "limit=1"), (BATCHES, "limit=500"), (BATCHES, "status=Failed&deleted=true")] {
        client.get(&format!("{path}?{fine}")).await.expect(200);
    }
}

#[tokio::test]
async fn a_cursor_is_good_for_the_list_it_came_from_only() {
    let world = World::new().await;
    let (acme, globex) = (world.client("acme").await, world.client("globex").await);
    for client in [&acme, &acme, &globex, &globex] {
        client.create(1).await;
    }
    let cursor = |page: Value| text(&page["next_cursor"]);
    let ours = cursor(acme.get(&format!("{BATCHES}?limit=1")).await.expect(200).json());
    let theirs = cursor(globex.get(&format!("{BATCHES}?limit=1")).await.expect(200).json());
    acme.get(&format!("{BATCHES}?cursor={ours}")).await.expect(200);
    let bound = Binding::new("acme", &["batches", "", "false"]);
    // Made by somebody who has read how cursors are made; the last ones lie outside of the list.
    let forged = ["", "x", "BATCH#", "BATCH#x", "KEY#1", "BATCH#\u{0}", &format!("BATCH#{}", "9".repeat(2_000))]
        .map(|sort_key| bound.cursor(sort_key));
    let garbage = ["", "x", "%25%25%25", "AAAA", "%F0%9F%92%A5", "null"].map(str::to_owned);
    for bad in [theirs, format!("{ours}="), ours[1..].to_owned()].into_iter().chain(garbage).chain(forged) {
        let problem = acme.get(&format!("{BATCHES}?cursor={bad}")).await.problem(400, "bad-cursor");
        assert_eq!(problem["errors"][0]["pointer"], "?cursor");
    }
    for other in ["status=Processing", "deleted=true"] {
        acme.get(&format!("{BATCHES}?{other}&cursor={ours}")).await.problem(400, "bad-cursor");
    }
}

#[tokio::test]
async fn a_batch_of_another_tenant_is_not_there() {
    let world = World::new().await;
    let (acme, globex) = (world.client("acme").await, world.client("globex").await);
    let id = acme.create(5).await;
    let path = format!("{BATCHES}/{id}");
    for rest in ["", "?deleted=true", "/partitions/0", "/codes/2555B"] {
        globex.get(&format!("{path}{rest}")).await.problem(404, "not-found");
    }
    globex.delete(&path).await.problem(404, "not-found");
    assert_eq!(globex.listed(&format!("{BATCHES}?deleted=true")).await, [""; 0]);
    assert_eq!(acme.get(&path).await.expect(200).json()["status"], "Processing");
    // Nor does it help to say whose it is.
    let request = Request::builder().method("GET").uri(&path).header("x-tenant", "acme");
    let request = request.header(header::AUTHORIZATION, globex.authorization());
    globex.send(request.body(Body::empty()).unwrap()).await.problem(404, "not-found");
}
