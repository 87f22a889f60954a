//! The request id: one word that ties an answer, its problem and the log together.
//!
//! Behind the ALB it is the root of `x-amzn-trace-id`, so that AWS's own traces show it too;
//! elsewhere the client's `x-request-id` where that is sane, else a new UUIDv7.

use axum::{extract::Request, middleware::Next, response::Response};
use http::{HeaderMap, HeaderValue};
use tracing::Instrument;
use uuid::Uuid;

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that this task answers, if it answers one.
pub fn current_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Gives the request an id, puts it into the log's span and into the answer's `x-request-id`.
pub async fn with_id(request: Request, next: Next) -> Response {
    let id = choose(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id, %method, path);
    let mut response = REQUEST_ID
        .scope(id.clone(), async move {
            let started = std::time::Instant::now();
            let response = next.run(request).await;
            let status = response.status().as_u16();
            let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            // The client's mistakes are its own; ours must be seen.
            if status >= 500 {
                tracing::warn!(status, milliseconds, "answered");
            } else {
                tracing::debug!(status, milliseconds, "answered");
            }
            response
        })
        .instrument(span)
        .await;
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// The id that the request brings along, if it is one we want in our log.
fn choose(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let trace =
        text("x-amzn-trace-id").and_then(|value| value.split(';').find_map(|part| part.trim().strip_prefix("Root=")));
    trace.or_else(|| text("x-request-id")).filter(|id| is_sane(id)).map(str::to_owned)
}

/// Short and of plain characters: an id goes into logs and headers as it is.
fn is_sane(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_trace_root_wins_and_nonsense_is_replaced() {
        let both = headers(&[("x-amzn-trace-id", "Self=1-2;Root=1-67891233-abcdef"), ("x-request-id", "mine")]);
        assert_eq!(choose(&both).as_deref(), Some("1-67891233-abcdef"));
        assert_eq!(choose(&headers(&[("x-request-id", "mine-7")])).as_deref(), Some("mine-7"));
        assert_eq!(choose(&headers(&[("x-request-id", "a b\"c")])), None);
        assert_eq!(choose(&headers(&[])), None);
    }
}
