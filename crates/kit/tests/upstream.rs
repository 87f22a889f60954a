//! `kit::upstream` against real sockets that answer well, badly, or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::secrets::Secret;
use kit::upstream::{Upstream, UpstreamError};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const TIMEOUT: Duration = Duration::from_secs(10);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";

/// What the server does with a request once it has read it.
#[derive(Clone)]
enum Reply {
    Keep(String),
    Close(String),
    Hang,
}

#[derive(Clone)]
struct Server {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, connections: Arc::default(), requests: Arc::default() };
        let this = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                this.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(this.clone().connection(stream, reply.clone()));
            }
        });
        server
    }

    async fn connection(self, mut stream: TcpStream, reply: Reply) {
        while let Some(request) = read_request(&mut stream).await {
            self.requests.lock().unwrap().push(request);
            match &reply {
                Reply::Keep(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                Reply::Close(answer) => return stream.write_all(answer.as_bytes()).await.unwrap(),
                Reply::Hang => std::future::pending().await,
            }
        }
    }

    fn upstream(&self) -> Upstream {
        Upstream::new("MUSTER_TEST_URL", &self.url).unwrap()
    }
}

/// One request, head and body, or `None` when the client has gone.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |l| l.parse().unwrap()) {
                return Some(text);
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

async fn outcome(reply: Reply) -> UpstreamError {
    let server = Server::start(reply).await;
    let timeout = Duration::from_millis(300);
    let error = server.upstream().post_json("/devices", &json!({"secret": "hunter2"}), timeout).await.unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(!told.contains("hunter2") && !told.contains("/devices") && !told.contains("127.0.0.1"), "{told}");
    assert_eq!(server.requests.lock().unwrap().len(), 1);
    error
}

#[tokio::test]
async fn an_answer_has_status_type_body_and_the_wish_for_silence() {
    let server = Server::start(Reply::Keep(
        "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nbusy".into(),
    ))
    .await;
    let answer = server.upstream().get("/x", TIMEOUT).await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(answer.content_type.as_deref(), Some("text/plain"));
    assert_eq!(&answer.body[..], b"busy");
}

#[tokio::test]
async fn a_request_carries_its_body_its_headers_and_the_path_below_the_base() {
    let server = Server::start(Reply::Keep(OK.into())).await;
    let upstream = Upstream::builder("X", &format!("{}/api/v1/", server.url))
        .secret_header(http::HeaderName::from_static("x-auth-token"), http::HeaderValue::from_static("t0ken"))
        .build()
        .unwrap();
    let answer = upstream.post_json("/devices?x=1", &json!({"deveui": "0001"}), TIMEOUT).await.unwrap();
    assert_eq!(answer.json::<serde_json::Value>().unwrap(), json!({"ok": true}));
    let request = server.requests.lock().unwrap().remove(0);
    assert!(request.starts_with("POST /api/v1/devices?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("user-agent: muster/{}\r\n", env!("CARGO_PKG_VERSION"))), "{request}");
    assert!(request.contains("x-auth-token: t0ken\r\n"), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"deveui\":\"0001\"}"), "{request}");
}

#[tokio::test]
async fn a_token_goes_along_where_there_is_one() {
    for (token, sent) in [(Secret::here("X_TOKEN", "t0ken").unwrap(), true), (Secret::none("X_TOKEN"), false)] {
        let server = Server::start(Reply::Keep(OK.into())).await;
        let upstream = Upstream::builder("X", &server.url).bearer(token).build().unwrap();
        upstream.get("/", TIMEOUT).await.unwrap();
        let request = server.requests.lock().unwrap().remove(0);
        assert_eq!(request.contains("authorization: Bearer t0ken\r\n"), sent, "{request}");
        assert_eq!(request.contains("authorization"), sent, "{request}");
        assert!(!format!("{upstream:?}").contains("t0ken"));
    }
}

#[tokio::test]
async fn requests_one_after_another_share_one_connection_whatever_the_status() {
    for answer in [OK, "HTTP/1.1 422 Taken\r\ncontent-length: 2\r\n\r\n{}", "HTTP/1.1 204 No Content\r\n\r\n"] {
        let server = Server::start(Reply::Keep(answer.into())).await;
        let upstream = server.upstream();
        for _ in 0..20 {
            upstream.post_json("/", &json!({}), TIMEOUT).await.unwrap();
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), 1, "{answer}");
    }
}

#[tokio::test]
async fn ten_at_a_time_need_no_more_than_ten_connections() {
    let server = Server::start(Reply::Keep(OK.into())).await;
    let upstream = server.upstream();
    for _ in 0..10 {
        let ten = (0..10).map(|_| upstream.get("/", TIMEOUT));
        futures::future::join_all(ten).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    assert!(server.connections.load(Ordering::SeqCst) <= 10);
}

#[tokio::test]
async fn nobody_listening_means_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Upstream::new("X", &url).unwrap().get("/", TIMEOUT).await.unwrap_err();
    assert_eq!(error, UpstreamError::NotSent { reason: "connection refused".into() });
    assert!(!error.maybe_processed());
}

#[tokio::test]
async fn a_failed_handshake_means_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = Upstream::new("X", &url).unwrap().get("/", TIMEOUT).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NotSent { .. }), "{error:?}");
}

#[tokio::test]
async fn a_path_that_leaves_the_base_is_not_sent() {
    let server = Server::start(Reply::Keep(OK.into())).await;
    for path in ["devices", "/../admin"] {
        let error = server.upstream().get(path, TIMEOUT).await.unwrap_err();
        assert!(!error.maybe_processed(), "{error}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_connection_closed_after_the_request_means_maybe_processed() {
    let error = outcome(Reply::Close(String::new())).await;
    assert!(matches!(error, UpstreamError::Unanswered { .. }) && error.maybe_processed(), "{error:?}");
}

#[tokio::test]
async fn silence_means_maybe_processed() {
    let error = outcome(Reply::Hang).await;
    assert_eq!(error, UpstreamError::Unanswered { reason: "no answer in time".into() });
    assert!(error.maybe_processed());
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_by_the_timeout() {
    let error = outcome(Reply::Keep("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".into())).await;
    assert_eq!(error, UpstreamError::Unanswered { reason: "no answer in time".into() });
}

#[tokio::test]
async fn a_body_cut_half_way_means_maybe_processed() {
    let error = outcome(Reply::Close("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".into())).await;
    assert!(matches!(error, UpstreamError::Unanswered { .. }), "{error:?}");
}

#[tokio::test]
async fn garbage_means_maybe_processed() {
    let error = outcome(Reply::Close("220 mail.example ESMTP\r\n\r\n".into())).await;
    assert!(matches!(error, UpstreamError::Unanswered { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_above_the_limit_is_not_read_with_or_without_a_length() {
    let body = "x".repeat(100);
    for answer in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\n{body}\r\n0\r\n\r\n"),
    ] {
        let server = Server::start(Reply::Keep(answer)).await;
        let error = server.upstream().with_body_limit(99).get("/", TIMEOUT).await.unwrap_err();
        assert!(matches!(error, UpstreamError::BodyTooLarge { limit: 99, .. }), "{error:?}");
        assert!(error.maybe_processed());
        let fits = server.upstream().with_body_limit(100).get("/", TIMEOUT).await.unwrap();
        assert_eq!(fits.body.len(), 100);
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let server =
        Server::start(Reply::Keep("HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n".into())).await;
    let answer = server.upstream().get("/", TIMEOUT).await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}
