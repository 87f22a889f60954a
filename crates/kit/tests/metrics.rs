//! What `kit::upstream` measures, against real sockets. One test, as the metrics are the process's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Path, http::StatusCode, routing::get};
use kit::{
    metrics::{self, Metrics},
    upstream::Upstream,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The base URL of a server that answers `/status/<code>` with the code, and `/hang` never.
async fn server() -> String {
    let status = async |Path(code): Path<u16>| (StatusCode::from_u16(code).unwrap(), "hunter2");
    let router = Router::new().route("/status/{code}", get(status)).route("/hang", get(std::future::pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn every_request_is_measured_under_the_name_of_its_setting_and_nothing_else_of_it_is_told() {
    let lines = Lines::default();
    metrics::install(Metrics::new("muster-test", "muster-test-f", lines.clone())).unwrap();
    let url = server().await;
    let upstream = Upstream::builder("MUSTER_PACKET_URL", &url)
        .secret_header(http::HeaderName::from_static("x-auth-token"), http::HeaderValue::from_static("hunter2"))
        .build()
        .unwrap();

    for status in [200, 422, 404, 429, 502] {
        let answer = upstream.get(&format!("/status/{status}"), TIMEOUT).await.unwrap();
        assert_eq!(answer.status, status);
    }
    // Too large to be read, out of time, dropped by a caller that is out of time, and not sent.
    upstream.with_body_limit(3).get("/status/200", TIMEOUT).await.unwrap_err();
    upstream.get("/hang", Duration::from_millis(200)).await.unwrap_err();
    tokio::time::timeout(Duration::from_millis(200), upstream.get("/hang", TIMEOUT)).await.unwrap_err();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = Upstream::new("MUSTER_CPX_URL", &format!("http://{free}")).unwrap();
    nobody.get("/hunter2", TIMEOUT).await.unwrap_err();
    metrics::process().flush();

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for secret in ["hunter2", "127.0.0.1", "x-auth-token", "/hang"] {
        assert!(!text.contains(secret), "{text}");
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [cpx, packet] = &lines[..] else { panic!("{text}") };
    assert_eq!(
        (&cpx["Upstream"], &cpx["UpstreamRequests"], &cpx["UpstreamErrors"]),
        (&json!("cpx"), &json!(1), &json!([1]))
    );
    assert_eq!((&packet["Upstream"], &packet["UpstreamRequests"]), (&json!("packet"), &json!(8)));
    assert_eq!(packet["UpstreamErrors"], json!([0, 0, 0, 1, 1, 1, 1, 1]));
    let latencies: Vec<_> =
        packet["UpstreamLatency"].as_array().unwrap().iter().map(|ms| ms.as_u64().unwrap()).collect();
    let given_up = latencies.iter().filter(|latency| **latency >= 200).count();
    assert!(latencies.len() == 8 && given_up >= 2, "{latencies:?}");
}
