//! One request and what becomes of it: an HTTP response, or a connection cut off.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use serde::Serialize;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

/// One request, read whole.
#[derive(Debug)]
pub struct Call {
    /// Method, address and headers.
    pub head: Parts,
    /// The body, at most 1 MiB.
    pub body: Bytes,
    /// How many requests were in flight when this one arrived, itself included.
    pub in_flight: usize,
    pub(crate) arrived: Instant,
    pub(crate) reply: oneshot::Sender<Answer>,
    pub(crate) stopping: CancellationToken,
}

impl Call {
    /// Waits until `delay` after the request's arrival (not after now), to the millisecond.
    pub async fn until(&self, delay: Duration) {
        let rest = delay.saturating_sub(self.arrived.elapsed());
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }

    /// Answers nothing until the client gives up, `at_most` is over or the simulator stops.
    pub async fn hang(&mut self, at_most: Duration) -> Answer {
        tokio::select! {
            () = self.reply.closed() => {}
            () = self.stopping.cancelled() => {}
            () = tokio::time::sleep(at_most) => {}
        }
        Answer::Cut(Cut::Close)
    }

    /// Whether the client was seen to leave. One that leaves while its answer is on the way is not.
    pub fn client_is_gone(&self) -> bool {
        self.reply.is_closed()
    }

    /// Whether the request says that its body is JSON.
    pub fn says_json(&self) -> bool {
        let kind = self.head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        kind.and_then(|kind| kind.split(';').next())
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    }

    /// Whether the request carries `token`, where one is wanted.
    pub fn has_token(&self, token: Option<&str>) -> bool {
        let sent = self.head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        token.is_none_or(|token| sent.and_then(|sent| sent.strip_prefix("Bearer ")) == Some(token))
    }

    /// The refusal of any request but `method path`: 404 or 405.
    pub fn refuse_unless(&self, method: &Method, path: &str) -> Result<(), Answer> {
        if self.head.uri.path() != path {
            let message = format!("there is only {method} {path}");
            return Err(Answer::json(StatusCode::NOT_FOUND, &serde_json::json!({ "message": message })));
        }
        if self.head.method != *method {
            return Err(Answer::not_allowed(method));
        }
        Ok(())
    }
}

/// What the client gets.
#[derive(Debug)]
pub enum Answer {
    /// An HTTP response.
    Http(Box<Response<Full<Bytes>>>),
    /// Anything but that.
    Cut(Cut),
}

/// Ways to end a connection without an HTTP response.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum Cut {
    /// In good order (FIN).
    #[error("closed without an answer")]
    Close,
    /// By a reset (RST).
    #[error("reset without an answer")]
    Reset,
    /// With bytes that are no HTTP.
    #[error("answered with garbage")]
    Garbage(&'static [u8]),
}

impl Answer {
    /// A response with a body.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::empty(status)
            .map(|response| response.map(|_| Full::new(body.into())))
            .with(header::CONTENT_TYPE, Bytes::from_static(content_type.as_bytes()))
    }

    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        Self::Http(Box::new(response))
    }

    /// A response with a JSON body.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self::new(status, "application/json", body),
            Err(error) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
        }
    }

    /// The same with one more header; a value that no header can hold is left out.
    #[must_use]
    pub fn with(self, name: HeaderName, value: Bytes) -> Self {
        self.map(|mut response| {
            if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                response.headers_mut().insert(name, value);
            }
            response
        })
    }

    pub(crate) fn not_allowed(allowed: &Method) -> Self {
        let message = serde_json::json!({ "message": format!("only {allowed} is allowed here") });
        Self::json(StatusCode::METHOD_NOT_ALLOWED, &message).with(header::ALLOW, Bytes::from(allowed.to_string()))
    }

    fn map(self, change: impl FnOnce(Response<Full<Bytes>>) -> Response<Full<Bytes>>) -> Self {
        match self {
            Self::Http(response) => Self::Http(Box::new(change(*response))),
            Self::Cut(cut) => Self::Cut(cut),
        }
    }
}
