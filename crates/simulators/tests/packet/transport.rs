//! Who may ask, how lists come, how errors look, how many requests there may be.

use reqwest::Method;
use serde_json::{Value, json};
use simulators::packet::{Config, ErrorShape, List, PROJECT, Request};

use crate::{
    active, ask, client, create, created, delete, device, devices_path, error, get, seconds, small, small_with,
    started, still, told,
};

#[tokio::test]
async fn nothing_is_told_without_the_token() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    let paths = ["/operating-systems", "/capacity", &devices_path(), &format!("/devices/{id}"), "/nowhere"];
    for path in paths {
        let url = format!("{}{path}", sim.url());
        for token in [None, Some(""), Some("muster-sim-packet-toke"), Some("Bearer muster-sim-packet-token")] {
            let request = client().get(&url);
            let request = if let Some(token) = token { request.header("X-Auth-Token", token) } else { request };
            let (status, text) = error(request.send().await.unwrap()).await;
            assert_eq!((status, text.as_str()), (401, "Invalid authentication token"), "{path} {token:?}");
        }
    }
    assert_eq!(sim.stats().unauthorized, 20);
}

#[tokio::test]
async fn another_token_and_another_project_can_be_set() {
    let sim = started(Config { token: Some("other".into()), project: "p-1".into(), ..still() }).await;
    let url = format!("{}/projects/p-1/facilities", sim.url());
    assert_eq!(client().get(&url).header("x-auth-token", "other").send().await.unwrap().status(), 200);
    assert_eq!(ask(&sim, Method::GET, "/projects/p-1/facilities").send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn what_there_is_not_is_404() {
    let sim = started(still()).await;
    let paths = [
        "/",
        "/devices",
        "/nowhere",
        "/projects/other/plans",
        "/projects/other/devices",
        "/devices/none",
        "/devices/none/events",
    ];
    for path in paths {
        assert_eq!(error(get(&sim, path).await).await, (404, "Not found".into()), "{path}");
    }
    let other = ask(&sim, Method::POST, "/projects/other/devices").json(&small()).send().await.unwrap();
    assert_eq!(error(other).await.0, 404);
    assert_eq!(ask(&sim, Method::PATCH, "/operating-systems").send().await.unwrap().status(), 404);
    assert!(sim.devices().is_empty());
}

#[tokio::test]
async fn errors_come_in_two_forms() {
    let sim = started(still()).await;
    let mut plural = 0;
    for _ in 0..100 {
        let body: Value = get(&sim, "/nowhere").await.json().await.unwrap();
        match (&body["errors"], &body["error"]) {
            (Value::Array(texts), Value::Null) => plural += usize::from(texts == &[json!("Not found")]),
            (Value::Null, text) => assert_eq!(text, "Not found"),
            other => panic!("{other:?}"),
        }
    }
    assert!((20..80).contains(&plural), "{plural}");
    for (shape, expected) in
        [(ErrorShape::Errors, json!({ "errors": ["Not found"] })), (ErrorShape::Error, json!({ "error": "Not found" }))]
    {
        sim.change(|config| config.error_shape = shape);
        for _ in 0..10 {
            assert_eq!(get(&sim, "/nowhere").await.json::<Value>().await.unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn lists_come_in_pages_of_ten_that_name_the_next() {
    let sim = started(still()).await;
    let path = format!("/projects/{PROJECT}/plans");
    let first = told(&sim, &path).await;
    assert_eq!(first["plans"].as_array().unwrap().len(), 10);
    let next = format!("{path}?page=2&per_page=10");
    assert_eq!(first["meta"], json!({ "current_page": 1, "last_page": 3, "total": 25, "next": { "href": next } }));
    let mut slugs = Vec::new();
    let mut at = path.clone();
    loop {
        let page = told(&sim, &at).await;
        slugs.extend(page["plans"].as_array().unwrap().iter().map(|plan| plan["slug"].as_str().unwrap().to_owned()));
        let Some(next) = page["meta"]["next"]["href"].as_str() else { break };
        at = next.to_owned();
    }
    let whole = told(&sim, &format!("{path}?per_page=1000")).await;
    let all: Vec<_> = whole["plans"].as_array().unwrap().iter().map(|plan| plan["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, all);
    assert_eq!(whole["meta"], json!({ "current_page": 1, "last_page": 1, "total": 25, "next": null }));
    let beyond = told(&sim, &format!("{path}?page=9")).await;
    assert_eq!(beyond["plans"], json!([]));
}

#[tokio::test]
async fn the_next_page_keeps_the_rest_of_the_query() {
    let sim = started(still()).await;
    for _ in 0..3 {
        create(&sim, &small_with(json!({ "tags": ["a b", "c"] }))).await;
    }
    let page = told(&sim, &format!("{}?tag=a%20b&per_page=2&include=plan", devices_path())).await;
    let next = page["meta"]["next"]["href"].as_str().unwrap();
    assert_eq!(next, format!("{}?page=2&per_page=2&tag=a%20b&include=plan", devices_path()));
    let page = told(&sim, next).await;
    assert_eq!(page["devices"].as_array().unwrap().len(), 1);
    assert_eq!(page["devices"][0]["plan"]["slug"], "c3.small.x86");
}

#[tokio::test]
async fn a_page_holds_a_thousand_at_most() {
    let sim = started(still()).await;
    for _ in 0..1001 {
        created(&sim).await;
    }
    let page = told(&sim, &format!("{}?per_page=5000", devices_path())).await;
    assert_eq!(page["devices"].as_array().unwrap().len(), 1000);
    assert_eq!((&page["meta"]["last_page"], &page["meta"]["total"]), (&json!(2), &json!(1001)));
}

#[tokio::test]
async fn a_page_that_is_no_number_is_refused() {
    let sim = started(still()).await;
    for query in ["page=0", "page=x", "per_page=-1"] {
        let (status, text) = error(get(&sim, &format!("/operating-systems?{query}")).await).await;
        assert_eq!(status, 422);
        assert!(text.contains(query.split('=').next().unwrap()), "{text}");
    }
}

#[tokio::test]
async fn lists_can_come_without_meta_in_pages_or_whole() {
    let config = Config { no_meta: vec![List::Plans, List::Devices], unpaged: vec![List::OperatingSystems], ..still() };
    let sim = started(config).await;
    let plans = told(&sim, &format!("/projects/{PROJECT}/plans?page=3")).await;
    assert_eq!(plans.as_object().unwrap().keys().collect::<Vec<_>>(), ["plans"]);
    assert_eq!(plans["plans"].as_array().unwrap().len(), 5);
    let systems = told(&sim, "/operating-systems?page=3").await;
    assert_eq!(systems.as_object().unwrap().keys().collect::<Vec<_>>(), ["operating_systems"]);
    assert_eq!(systems["operating_systems"].as_array().unwrap().len(), 21);
    assert_eq!(told(&sim, &devices_path()).await, json!({ "devices": [] }));
    let facilities = told(&sim, &format!("/projects/{PROJECT}/facilities")).await;
    assert_eq!(facilities["meta"]["total"], 13);
}

#[tokio::test]
async fn nested_objects_are_addresses_unless_asked_for() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    let plain = device(&sim, &id).await;
    for (field, begins) in [
        ("plan", "/plans/"),
        ("facility", "/facilities/"),
        ("operating_system", "/operating-systems/"),
        ("metro", "/locations/metros/"),
    ] {
        assert_eq!(plain[field].as_object().unwrap().len(), 1, "{field}");
        assert!(plain[field]["href"].as_str().unwrap().starts_with(begins), "{field}");
    }
    assert_eq!(plain["project"], json!({ "href": format!("/projects/{PROJECT}") }));
    let whole = told(&sim, &format!("/devices/{id}?include=plan,facility")).await;
    assert_eq!((&whole["plan"]["slug"], &whole["facility"]["code"]), (&json!("c3.small.x86"), &json!("ewr1")));
    assert!(whole["operating_system"]["slug"].is_null());
    sim.change(|config| config.nested = true);
    let nested = device(&sim, &id).await;
    assert_eq!((&nested["operating_system"]["slug"], &nested["metro"]["code"]), (&json!("debian_12"), &json!("ny")));
}

#[tokio::test]
async fn a_rate_limit_is_told_and_held() {
    let sim = started(Config { rate_limit: Some(3), rate_window: seconds(60), ..still() }).await;
    sim.advance(seconds(70));
    let header = |answer: &reqwest::Response, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    for left in ["2", "1", "0"] {
        let answer = get(&sim, "/operating-systems").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "X-RateLimit-Limit"), "3");
        assert_eq!(header(&answer, "X-RateLimit-Remaining"), left);
        // 2026-01-01T00:02:00Z
        assert_eq!(header(&answer, "X-RateLimit-Reset"), "1767225720");
    }
    let refused = get(&sim, "/operating-systems").await;
    assert_eq!((header(&refused, "Retry-After"), header(&refused, "X-RateLimit-Remaining")), ("50".into(), "0".into()));
    assert_eq!(error(refused).await.0, 429);
    sim.advance(seconds(50));
    assert_eq!(get(&sim, "/operating-systems").await.status(), 200);
}

#[tokio::test]
async fn retry_after_is_real_time_where_the_simulators_goes_faster() {
    let config = Config { rate_limit: Some(1), rate_window: seconds(3600), speed: 60.0, ..Config::default() };
    let sim = started(config).await;
    get(&sim, "/operating-systems").await;
    let refused = get(&sim, "/operating-systems").await;
    let seconds: u64 = refused.headers()["Retry-After"].to_str().unwrap().parse().unwrap();
    assert!((50..=60).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn without_a_limit_the_headers_are_there_too() {
    let sim = started(still()).await;
    let answer = get(&sim, "/operating-systems").await;
    assert_eq!(answer.headers()["x-ratelimit-limit"], "1000000");
    assert_eq!(answer.headers()["x-ratelimit-remaining"], "999999");
}

#[tokio::test]
async fn requests_are_counted_by_kind() {
    let sim = started(still()).await;
    let id = active(&sim).await;
    delete(&sim, &id).await;
    told(&sim, "/operating-systems").await;
    get(&sim, "/nowhere").await;
    let stats = sim.stats();
    let kinds =
        [Request::Create, Request::Get, Request::Delete, Request::OperatingSystems, Request::Other, Request::List];
    assert_eq!(kinds.map(|kind| stats.requests(kind)), [1, 1, 1, 1, 1, 0]);
    assert_eq!((stats.traffic.requests, stats.deletes, stats.created, stats.alive), (5, 1, 1, 1));
}
