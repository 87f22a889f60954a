//! `kit::http::app`: what every request and every answer passes through.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::{
    Router,
    body::{Body, to_bytes},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, Request, StatusCode};
use kit::{
    access::Access,
    clock::Clock,
    dynamo::embedded::Embedded,
    http::{ANSWER_LIMIT, Routes, app},
    problem::Problem,
};
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

const WHY: &str = "what is tested here is not access";

async fn panics() -> Response {
    panic!("secret words about our insides");
}

/// Panics where no handler is left to notice: while it makes the answer.
struct Late;

impl IntoResponse for Late {
    fn into_response(self) -> Response {
        panic!("too late: {}", 7)
    }
}

async fn refuses() -> Problem {
    Problem::invalid("See `errors`.").error("/a", "no a").retry_after(7)
}

fn of_size(bytes: u64) -> String {
    "x".repeat(usize::try_from(bytes).unwrap())
}

fn routes() -> Routes {
    Routes::new()
        .public(Method::GET, "/fine", WHY, async || "fine")
        .public(Method::POST, "/fine", WHY, async |body: String| body.len().to_string())
        .public(Method::GET, "/panics", WHY, panics)
        .public(Method::GET, "/late", WHY, async || Late)
        .public(Method::GET, "/refuses", WHY, refuses)
        .public(Method::GET, "/largest", WHY, async || of_size(ANSWER_LIMIT))
        .public(Method::GET, "/larger", WHY, async || of_size(ANSWER_LIMIT + 1))
}

fn router() -> Router {
    // Without tables: nothing here may ask the store.
    app(vec![routes()], Access::new(Embedded::memory().unwrap().store("test-"), Clock::system()))
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!((self.status.as_u16(), &body["status"]), (status, &json!(status)));
        assert_eq!(body["type"], format!("urn:muster:problem:{slug}"));
        assert_eq!(body["instance"], self.header("x-request-id"));
        assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty());
        body
    }
}

async fn send(router: &Router, request: Request<Body>) -> Reply {
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    Reply { status: parts.status, headers: parts.headers, body: to_bytes(body, usize::MAX).await.unwrap().into() }
}

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_panic_costs_one_request_and_says_nothing() {
    let router = router();
    for path in ["/panics", "/late"] {
        let reply = send(&router, request("GET", path)).await;
        let problem = reply.problem(500, "internal").to_string();
        assert!(!problem.contains("secret") && !problem.contains("too late"), "{problem}");
        let next = send(&router, request("GET", "/fine")).await;
        assert_eq!((next.status, next.body.as_slice()), (StatusCode::OK, b"fine".as_slice()));
    }
}

#[tokio::test]
async fn an_answer_that_the_load_balancer_would_refuse_is_a_problem_instead() {
    let router = router();
    let largest = send(&router, request("GET", "/largest")).await;
    assert_eq!((largest.status.as_u16(), largest.body.len() as u64), (200, ANSWER_LIMIT));
    let problem = send(&router, request("GET", "/larger")).await.problem(500, "internal");
    assert!(problem["detail"].as_str().unwrap().contains("too large"));
}

#[tokio::test]
async fn health_needs_no_host_no_key_and_no_store() {
    let embedded = Embedded::memory().unwrap();
    embedded.set_away(true);
    let router = app(vec![routes()], Access::new(embedded.store("test-"), Clock::system()));
    let check = Request::get("/healthz").header("user-agent", "ELB-HealthChecker/2.0");
    let reply = send(&router, check.body(Body::empty()).unwrap()).await;
    assert_eq!((reply.status.as_u16(), reply.body.as_slice()), (200, br#"{"status":"ok"}"#.as_slice()));
    assert_eq!(send(&router, request("GET", "/healthz/shout")).await.status, 200);
    let head = send(&router, request("HEAD", "/healthz")).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    let post = send(&router, request("POST", "/healthz")).await;
    post.problem(405, "method-not-allowed");
    assert_eq!(post.header("allow"), "GET, HEAD");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_that_points_to_the_description() {
    let router = router();
    for path in ["/", "/nothing", "/fine/", "/fine/more", "/FINE", "/%66ine%2f", "/%FF", "/%00"] {
        let problem = send(&router, request("GET", path)).await.problem(404, "not-found");
        assert!(problem["detail"].as_str().unwrap().contains("/api/v1/openapi.json"));
    }
    let long = format!("/{}", "x".repeat(60_000));
    let reply = send(&router, request("GET", &long)).await;
    reply.problem(404, "not-found");
    assert!(reply.body.len() < 5_000, "a path is not repeated at any length");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones_and_head_is_get() {
    let router = router();
    for (method, path, allow) in
        [("DELETE", "/fine", "GET, POST"), ("OPTIONS", "/fine", "GET, POST"), ("POST", "/panics", "GET")]
    {
        let reply = send(&router, request(method, path)).await;
        reply.problem(405, "method-not-allowed");
        assert_eq!(reply.header("allow"), allow);
    }
    let head = send(&router, request("HEAD", "/fine")).await;
    assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.len()), (200, "4", 0));
}

#[tokio::test]
async fn the_headers_and_places_of_a_problem_arrive() {
    let reply = send(&router(), request("GET", "/refuses")).await;
    let problem = reply.problem(422, "invalid-input");
    assert_eq!(problem["errors"], json!([{"pointer": "/a", "detail": "no a"}]));
    assert_eq!(reply.header("retry-after"), "7");
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_the_callers_own_is_kept_where_it_is_sane() {
    let router = router();
    let ask = async |headers: &[(&str, &str)], path: &str| {
        let mut asked = Request::get(path);
        for (name, value) in headers {
            asked = asked.header(*name, *value);
        }
        send(&router, asked.body(Body::empty()).unwrap()).await.header("x-request-id").to_owned()
    };
    let trace = "Self=1-67891234-12456789abcdef012345678;Root=1-67891233-abcdef012345678912345678;Sampled=1";
    for path in ["/fine", "/nothing", "/panics", "/healthz", "/larger"] {
        assert_eq!(ask(&[("x-request-id", "mine-7_a.b")], path).await, "mine-7_a.b");
        let root = ask(&[("x-amzn-trace-id", trace), ("x-request-id", "mine")], path).await;
        assert_eq!(root, "1-67891233-abcdef012345678912345678");
        let long = "x".repeat(129);
        for nonsense in ["", "a b", "<script>", "a\"b", long.as_str()] {
            let id = ask(&[("x-request-id", nonsense)], path).await;
            assert!(id.parse::<Uuid>().is_ok_and(|id| id.get_version_num() == 7), "{nonsense:?} became {id:?}");
        }
        assert_ne!(ask(&[], path).await, ask(&[], path).await);
    }
}

#[tokio::test]
async fn a_body_may_have_a_mebibyte_and_no_more() {
    let router = router();
    let post =
        async |size: usize| send(&router, Request::post("/fine").body(Body::from("x".repeat(size))).unwrap()).await;
    let largest = post(1 << 20).await;
    assert_eq!((largest.status.as_u16(), largest.body.as_slice()), (200, b"1048576".as_slice()));
    assert_eq!(post((1 << 20) + 1).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}
