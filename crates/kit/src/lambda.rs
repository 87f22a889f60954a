//! How a function runs on Lambda: [`start`] chooses which of its binary's functions it is, then
//! [`run_http`] behind a load balancer, [`run_worker`] on a schedule or a stream.
//!
//! The one thing to know: **whatever the load balancer sends is answered**. An error of an
//! invocation, a timeout or a malformed answer is a bare 502 for the client, so a request that
//! cannot be read becomes a 400, a panic a 500 and a handler that outlives its time a 503, each a
//! problem (RFC 9457), and the process lives on.
//!
//! # Why lambda_http's own conversion of requests is not used
//! `lambda_http::run` reads the event before a handler could answer, and as of 1.3
//! - an unparsable method or header is an error of the invocation; invalid base64 and, in
//!   single-value mode, a malformed `Host` are panics;
//! - the path is normalised (`/a/../b` is routed as `/b`);
//! - query parameters pass through a hash map, a decoder and an encoder: order and spelling of what
//!   the client sent are lost, and a `%26` within a value may become a separator;
//! - an answer carries its headers twice, in both modes, which counts against the size limit.
//!
//! So events become requests in `event` and answers go out in `answer`; lambda_http brings the runtime underneath, the
//! invocation's context in the request ([`lambda_http::RequestExt`]) and the tower plumbing.

mod answer;
mod event;
mod start;
mod worker;

use std::{convert::Infallible, fmt, panic::AssertUnwindSafe, time::Duration};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use lambda_http::{
    Context, LambdaEvent, RequestExt,
    lambda_runtime::{self, service_fn},
};
use serde_json::{json, value::RawValue};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::{
    metrics::{self, Metrics},
    problem::Problem,
    telemetry,
};
use answer::Answer;
pub use answer::MAX_ANSWER;
pub use event::{Refusal, check_path};
pub use start::{Entry, UnknownHandler, start};
pub use worker::{Invocation, Trigger, UnknownTrigger, run_worker};

/// What a function may fail with.
pub type Error = lambda_http::Error;

/// When the answer to a request has to be there, found in the request's extensions on Lambda.
///
/// It is half a second before Lambda would end the invocation; the handler is dropped then and the
/// client gets a 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

/// What is kept back of an invocation's time to answer 503 in.
const HTTP_MARGIN: Duration = Duration::from_millis(500);

/// The time of an invocation where the runtime states none that lies ahead: some emulators send a
/// constant. No request behind a load balancer is worth more, its own idle timeout is 60 s.
const UNKNOWN_TIME: Duration = Duration::from_secs(30);

/// Serves the router that `init` builds to the events of a load balancer, until the process ends.
///
/// `init` runs during the cold start, when Lambda gives full processor speed: the place to build
/// clients and to warm their connections. Its failure is reported to Lambda and ends the process.
pub async fn run_http(init: impl Future<Output = Result<Router, Error>>) -> Result<(), Error> {
    telemetry::init();
    let router = initialise(metrics::process(), init).await?;
    lambda_runtime::run(service_fn(move |event| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(measured(metrics::process(), answer(router, event)).await) }
    }))
    .await
}

/// Does the work of one invocation, and writes down what was measured in it before Lambda learns
/// that it is over: from then on the process may be frozen at any time.
async fn measured<T>(metrics: &Metrics, work: impl Future<Output = T>) -> T {
    let result = work.await;
    metrics.flush();
    result
}

/// Answers one event of a load balancer, in every case.
///
/// The event comes unparsed: what the runtime cannot parse, it would fail without asking.
async fn answer(router: Router, event: LambdaEvent<Box<RawValue>>) -> Answer {
    let LambdaEvent { payload, context } = event;
    let (mode, request) = event::parse(payload.get());
    let end = end_of(&context, UNKNOWN_TIME);
    let deadline = end.checked_sub(HTTP_MARGIN).unwrap_or(end);
    let request_id = context.request_id.clone();

    let work = async {
        match request {
            Ok(request) => {
                let response = route(router, request, context, deadline).await;
                Answer::from_response(mode, response).await
            }
            Err(refusal) => {
                tracing::info!(%refusal, "refused an event");
                Err(Problem::bad_request(refusal.to_string()))
            }
        }
    };
    let problem = match tokio::time::timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(Ok(answer))) => return answer,
        Ok(Ok(Err(problem))) => problem,
        Ok(Err(panic)) => {
            tracing::error!(panic = panic_message(&*panic), "a handler panicked outside of its layer");
            Problem::internal()
        }
        Err(_elapsed) => {
            tracing::error!("a handler was dropped at the end of the invocation's time");
            out_of_time()
        }
    };
    Answer::from_problem(mode, problem, &request_id).await
}

/// Hands the request to the router with what Lambda knows about the invocation.
async fn route(router: Router, request: Request, context: Context, deadline: Instant) -> Response {
    let mut request = request;
    if let Some(Ok(trace)) = context.xray_trace_id.as_deref().map(HeaderValue::from_str) {
        request.headers_mut().entry("x-amzn-trace-id").or_insert(trace);
    }
    request.extensions_mut().insert(Deadline(deadline));
    router.oneshot(request.with_lambda_context(context)).await.into_response()
}

/// The answer in place of a handler that did not come to an end.
fn out_of_time() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "out-of-time", "The request took too long")
        .detail(
            "It was given up. What it had begun may have happened: read before you repeat it, or \
             repeat it with the same Idempotency-Key.",
        )
        .retry_after(1)
}

/// When Lambda ends the invocation; `otherwise` from now where that is not known.
fn end_of(context: &Context, otherwise: Duration) -> Instant {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let left = context.deadline.saturating_sub(now);
    Instant::now() + if left == 0 { otherwise } else { Duration::from_millis(left) }
}

/// Runs the cold start. What goes wrong in it is in the log and told to Lambda, which shows it
/// to whoever invokes the function, rather than only that the process ended.
async fn initialise<T>(metrics: &Metrics, init: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let error = match AssertUnwindSafe(init).catch_unwind().await {
        Ok(Ok(ready)) => {
            metrics.record(metrics::COLD_STARTS, 1);
            return Ok(ready);
        }
        Ok(Err(error)) => error,
        Err(panic) => Panicked(panic_message(&*panic).to_owned()).into(),
    };
    tracing::error!(%error, "the cold start failed");
    if let Ok(api) = std::env::var("AWS_LAMBDA_RUNTIME_API")
        && let Err(unreported) = report_init_error(&api, &error).await
    {
        tracing::error!(error = %unreported, "the failed cold start could not be reported to Lambda");
    }
    Err(error)
}

async fn report_init_error(api: &str, error: &Error) -> reqwest::Result<()> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(2))
        .build()?
        .post(format!("http://{api}/2018-06-01/runtime/init/error"))
        .header("lambda-runtime-function-error-type", "Runtime.InitError")
        .json(&json!({ "errorType": "Runtime.InitError", "errorMessage": error.to_string(), "stackTrace": [] }))
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}

/// A panic as an error, where an error is what the caller gets.
#[derive(Debug)]
struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// The words a panic was raised with.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use axum::{
        Extension,
        extract::RawQuery,
        routing::{get, post},
    };
    use http::{HeaderMap, header};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn router() -> Router {
        Router::new()
            .route("/healthz", get(|| async { axum::Json(json!({ "status": "ok" })) }))
            .route("/query", get(|RawQuery(query): RawQuery| async { query.unwrap_or_default() }))
            .route("/echo", post(|body: bytes::Bytes| async move { body }))
            .route("/csv", get(|| async { ([(header::CONTENT_TYPE, "text/csv")], "a,b\n1,2\n") }))
            .route("/problem", get(|| async { Problem::not_found("gone") }))
            .route("/panic", get(|| async { panic!("by design") as () }))
            .route("/stuck", get(std::future::pending::<()>))
            .route("/quotes/{count}", get(|path: axum::extract::Path<usize>| async move { "\"".repeat(path.0) }))
            .route(
                "/trace",
                get(
                    |headers: HeaderMap| async move { headers["x-amzn-trace-id"].clone().to_str().unwrap().to_owned() },
                ),
            )
            .route(
                "/deadline",
                get(|Extension(deadline): Extension<Deadline>, Extension(context): Extension<Context>| async move {
                    format!("{} {}", deadline.0.duration_since(Instant::now()).as_secs(), context.request_id)
                }),
            )
    }

    fn context(left: Duration) -> Context {
        let mut context = Context::default();
        context.request_id = "request-1".into();
        context.xray_trace_id = Some("Root=1-lambda".into());
        context.deadline = (Timestamp::now() + left).as_millisecond().try_into().unwrap();
        context
    }

    async fn invoke(event: Value) -> Value {
        invoke_within(event, Duration::from_secs(20)).await
    }

    async fn invoke_within(event: Value, left: Duration) -> Value {
        invoke_text(&event.to_string(), context(left)).await
    }

    async fn invoke_text(event: &str, context: Context) -> Value {
        let event = serde_json::from_str(event).unwrap();
        serde_json::to_value(answer(router(), LambdaEvent::new(event, context)).await).unwrap()
    }

    fn get_event(path: &str) -> Value {
        json!({
            "requestContext": { "elb": { "targetGroupArn": "arn" } },
            "httpMethod": "GET", "path": path, "multiValueQueryStringParameters": {},
            "multiValueHeaders": { "host": ["muster.example"], "x-amzn-trace-id": ["Root=1-alb"] },
            "body": "", "isBase64Encoded": false,
        })
    }

    fn with(mut event: Value, field: &str, value: Value) -> Value {
        event[field] = value;
        event
    }

    fn assert_problem(answer: &Value, status: u16, slug: &str) {
        assert_eq!(answer["statusCode"], status, "{answer}");
        assert_eq!(answer["multiValueHeaders"]["content-type"], json!(["application/problem+json"]));
        let problem: Problem = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(problem.slug(), slug, "{answer}");
    }

    #[tokio::test]
    async fn an_answer_comes_in_the_mode_of_its_event() {
        let multi = invoke(get_event("/healthz")).await;
        assert_eq!(multi["statusCode"], 200);
        assert_eq!(multi["statusDescription"], "200 OK");
        assert_eq!(multi["isBase64Encoded"], false);
        assert_eq!(multi["body"], r#"{"status":"ok"}"#);
        assert_eq!(multi["multiValueHeaders"], json!({ "content-type": ["application/json"] }));
        assert!(multi.get("headers").is_none());

        // The health check of a target group: hardly a header, no Host.
        let single = invoke(json!({
            "requestContext": { "elb": { "targetGroupArn": "arn" } }, "httpMethod": "GET", "path": "/healthz",
            "queryStringParameters": {}, "headers": { "user-agent": "ELB-HealthChecker/2.0" }, "body": "",
            "isBase64Encoded": false,
        }))
        .await;
        assert_eq!(single["statusCode"], 200);
        assert_eq!(single["headers"], json!({ "content-type": "application/json" }));
        assert!(single.get("multiValueHeaders").is_none());
    }

    #[tokio::test]
    async fn text_stays_text_and_bytes_become_base64() {
        assert_eq!(invoke(get_event("/csv")).await["body"], "a,b\n1,2\n");
        assert_problem(&invoke(get_event("/problem")).await, 404, "not-found");
        let post = with(with(get_event("/echo"), "httpMethod", json!("POST")), "isBase64Encoded", json!(true));
        let echoed = invoke(with(post, "body", json!("/wCA"))).await;
        assert_eq!((&echoed["body"], &echoed["isBase64Encoded"]), (&json!("/wCA"), &json!(true)));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_a_400_and_not_a_failed_invocation() {
        let bad = [
            json!({}),
            json!(null),
            json!([1]),
            with(get_event("/healthz"), "httpMethod", json!("G ET")),
            with(get_event("/healthz"), "httpMethod", json!(7)),
            with(get_event("/healthz"), "multiValueHeaders", json!({ "host": ["exa mple.com"] })),
            with(get_event("/healthz"), "multiValueHeaders", json!({ "bad name": ["x"] })),
            with(get_event("/healthz"), "multiValueHeaders", json!({ "x": ["a\nb"] })),
            with(with(get_event("/echo"), "isBase64Encoded", json!(true)), "body", json!("%%%")),
            get_event("/a/../healthz"),
            get_event("/%2e%2E/healthz"),
            get_event("/a%2Fb"),
            get_event("healthz"),
        ];
        for event in bad {
            let answer = invoke(event.clone()).await;
            assert_eq!(answer["statusCode"], 400, "{event} {answer}");
            assert_eq!(answer["statusDescription"], "400 Bad Request");
            let problem: Problem = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
            assert_eq!(problem.instance.as_deref(), Some("request-1"));
        }
    }

    #[tokio::test]
    async fn what_is_json_to_lambda_alone_is_a_400_in_its_own_mode() {
        let event = get_event("/healthz").to_string();
        let lone_surrogate = event.replace(r#""body":"""#, r#""body":"\ud800""#);
        assert_ne!(lone_surrogate, event);
        assert_problem(&invoke_text(&lone_surrogate, context(Duration::from_secs(9))).await, 400, "bad-request");
    }

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        assert_problem(&invoke(get_event("/panic")).await, 500, "internal");
        assert_eq!(invoke(get_event("/healthz")).await["statusCode"], 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_handler_is_a_503_half_a_second_before_the_end() {
        let started = Instant::now();
        let answer = invoke_within(get_event("/stuck"), Duration::from_secs(5)).await;
        assert_problem(&answer, 503, "out-of-time");
        assert_eq!(answer["multiValueHeaders"]["retry-after"], json!(["1"]));
        let waited = started.elapsed();
        assert!(waited > Duration::from_millis(4_400) && waited <= Duration::from_millis(4_510), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn handlers_find_their_deadline_and_the_invocation() {
        assert_eq!(invoke_within(get_event("/deadline"), Duration::from_millis(10_600)).await["body"], "10 request-1");
        // An emulator's constant from long ago is no deadline.
        let mut old = context(Duration::ZERO);
        old.deadline = 600_000;
        assert_eq!(invoke_text(&get_event("/deadline").to_string(), old).await["body"], "29 request-1");
    }

    #[tokio::test]
    async fn the_load_balancers_trace_wins_over_the_invocations() {
        assert_eq!(invoke(get_event("/trace")).await["body"], "Root=1-alb");
        let untraced = with(get_event("/trace"), "multiValueHeaders", json!({}));
        assert_eq!(invoke(untraced).await["body"], "Root=1-lambda");
    }

    #[tokio::test]
    async fn an_answer_too_large_with_its_escapes_is_a_problem() {
        // Half a megabyte of quotes is a megabyte of JSON.
        assert_problem(&invoke(get_event("/quotes/500000")).await, 500, "response-too-large");
        assert_problem(&invoke(get_event("/quotes/3000000")).await, 500, "response-too-large");
        let largest = invoke(get_event("/quotes/499900")).await;
        assert_eq!(largest["statusCode"], 200);
        assert!(serde_json::to_vec(&largest).unwrap().len() <= MAX_ANSWER);
    }

    #[tokio::test]
    async fn a_query_reaches_the_router_as_it_was_sent() {
        let sent = json!({ "q": ["100%25", "a%26b", "a+b"], "cursor": ["YQ=="], "b": [""], "half": ["%"] });
        let answer = invoke(with(get_event("/query"), "multiValueQueryStringParameters", sent)).await;
        assert_eq!(answer["body"], "q=100%25&q=a%26b&q=a+b&cursor=YQ==&b=&half=%");
    }

    #[tokio::test]
    async fn a_panicking_cold_start_is_an_error() {
        let init = async { panic!("no table") as Result<(), Error> };
        let error = initialise(&Metrics::off(), init).await.unwrap_err();
        assert_eq!(error.to_string(), "panicked: no table");
    }

    #[tokio::test]
    async fn what_an_invocation_measured_is_written_before_it_ends_and_its_cold_start_once() {
        let (metrics, lines) = metrics::tests::collected();
        let failed: Result<(), Error> = initialise(&metrics, async { Err("no table".into()) }).await;
        failed.unwrap_err();
        initialise(&metrics, async { Ok(()) }).await.unwrap();
        assert!(lines.take().is_empty(), "a line of its own would be wasted on it");

        assert_eq!(measured(&metrics, async { 7 }).await, 7);
        assert_eq!(lines.take().iter().map(|line| &line["ColdStarts"]).collect::<Vec<_>>(), [&json!(1)]);

        measured(&metrics, async {
            for _ in 0..3 {
                metrics.call("lorawan").answered(StatusCode::OK);
            }
        })
        .await;
        let written = lines.take();
        assert_eq!(written.len(), 1, "{written:?}");
        assert_eq!((&written[0]["UpstreamRequests"], written[0].get("ColdStarts")), (&json!(3), None));

        measured(&metrics, async {}).await;
        assert!(lines.take().is_empty(), "there was nothing to measure");
    }

    /// Any JSON up to a few levels deep.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(".{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_event_is_answered(field in 0..7usize, value in any_json()) {
            let names = ["httpMethod", "path", "multiValueQueryStringParameters", "multiValueHeaders", "headers", "body", "isBase64Encoded"];
            let event = with(get_event("/query"), names[field], value);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let answer = runtime.block_on(invoke(event));
            let status = answer["statusCode"].as_u64().unwrap();
            prop_assert!((200..500).contains(&status), "{answer}");
        }
    }
}
