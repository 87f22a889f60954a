//! Answers on their way back to the load balancer: in the mode of the event, and never too large.
//!
//! A body that is text goes out as text, all else as base64. The limit counts the JSON as it is
//! sent, so a text of many quotes or line breaks reaches it sooner than its length says.

use std::{collections::BTreeMap, io};

use axum::response::{IntoResponse, Response};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;

use super::event::HeaderMode;
use crate::problem::Problem;

/// The largest answer in bytes, counted over the whole JSON: the load balancer's 1 MB with escapes,
/// base64 and headers.
pub const MAX_ANSWER: usize = 1_000_000;

/// What goes back to the load balancer, never larger than [`MAX_ANSWER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    status_code: u16,
    /// The code and its words: `200 OK`.
    status_description: String,
    #[serde(flatten)]
    headers: AnswerHeaders,
    is_base64_encoded: bool,
    body: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
enum AnswerHeaders {
    #[serde(rename = "headers")]
    Single(BTreeMap<String, String>),
    #[serde(rename = "multiValueHeaders")]
    Multi(BTreeMap<String, Vec<String>>),
}

impl Answer {
    /// The answer that carries `response`, or the problem to answer with where that is impossible:
    /// it is too large, or its body broke off.
    pub async fn from_response(mode: HeaderMode, response: Response) -> Result<Self, Problem> {
        let (parts, body) = response.into_parts();
        let body = match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(too_large(None)),
            Err(error) => {
                tracing::error!(%error, "the body of an answer broke off");
                return Err(Problem::internal());
            }
        };
        let answer = Self::new(mode, parts.status, &parts.headers, body);
        let size = answer.size();
        if size > MAX_ANSWER { Err(too_large(Some(size))) } else { Ok(answer) }
    }

    /// The answer that carries `problem`, which names `request_id` as the log does.
    pub async fn from_problem(mode: HeaderMode, mut problem: Problem, request_id: &str) -> Self {
        if !request_id.is_empty() {
            problem.instance = Some(request_id.to_owned());
            problem = problem.header("x-request-id", request_id);
        }
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match Self::from_response(mode, problem.into_response()).await {
            Ok(answer) => answer,
            Err(_) => Self::new(mode, status, &HeaderMap::new(), Bytes::new()),
        }
    }

    fn new(mode: HeaderMode, status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let (is_base64_encoded, body) = match String::from_utf8(body.into()) {
            Ok(text) if is_text(headers) => (false, text),
            Ok(text) if text.is_empty() => (false, text),
            Ok(text) => (true, BASE64_STANDARD.encode(text)),
            Err(bytes) => (true, BASE64_STANDARD.encode(bytes.as_bytes())),
        };
        Self {
            status_code: status.as_u16(),
            status_description: format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Unknown")),
            headers: AnswerHeaders::new(mode, headers),
            is_base64_encoded,
            body,
        }
    }

    /// The length of the JSON in bytes.
    fn size(&self) -> usize {
        let mut counter = Counter(0);
        match serde_json::to_writer(&mut counter, self) {
            Ok(()) => counter.0,
            // Strings, numbers and maps of them: there is nothing in it that could fail.
            Err(_) => usize::MAX,
        }
    }
}

impl AnswerHeaders {
    fn new(mode: HeaderMode, headers: &HeaderMap) -> Self {
        // The load balancer frames the answer itself.
        let carried = |name: &HeaderName| {
            !matches!(*name, header::CONTENT_LENGTH | header::CONNECTION | header::TRANSFER_ENCODING)
        };
        let lists = headers.keys().filter(|name| carried(name)).map(|name| {
            let values =
                headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            (name.to_string(), values.collect::<Vec<_>>())
        });
        match mode {
            HeaderMode::Multi => Self::Multi(lists.collect()),
            // A list in one line (RFC 9110, 5.3). Set-Cookie may not be joined so, and nothing sets one.
            HeaderMode::Single => Self::Single(lists.map(|(name, values)| (name, values.join(", "))).collect()),
        }
    }
}

/// Whether a body with these headers is text: it then goes out readable and without base64's third.
fn is_text(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return false;
    }
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let content_type = content_type.to_str().unwrap_or_default().to_ascii_lowercase();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.starts_with("text/")
        || matches!(essence, "application/json" | "application/xml" | "application/javascript" | "application/yaml")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || essence.ends_with("+yaml")
}

fn too_large(size: Option<usize>) -> Problem {
    tracing::error!(
        size,
        limit = MAX_ANSWER,
        "AN ANSWER WAS TOO LARGE FOR THE LOAD BALANCER and was withheld; page this route"
    );
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "response-too-large", "The answer is too large to be sent")
        .detail("The load balancer carries 1 MB at most. Ask for less at a time, with `limit` and `cursor` where the route has them.")
}

/// Counts what is written.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_single_value_answer_joins_lists() {
        let response = ([("vary", "a"), ("vary", "b")], "x");
        let mut response = response.into_response();
        response.headers_mut().append("vary", HeaderValue::from_static("c"));
        let answer = Answer::from_response(HeaderMode::Single, response).await.unwrap();
        let answer = serde_json::to_value(answer).unwrap();
        assert_eq!(answer["headers"], json!({ "content-type": "text/plain; charset=utf-8", "vary": "b, c" }));
    }

    #[tokio::test]
    async fn encoded_and_binary_bodies_are_base64_even_where_they_look_like_text() {
        for (name, value) in [("content-type", "application/octet-stream"), ("content-encoding", "gzip")] {
            let answer =
                Answer::from_response(HeaderMode::Multi, ([(name, value)], "hi").into_response()).await.unwrap();
            assert!(answer.is_base64_encoded);
            assert_eq!(answer.body, "aGk=");
        }
        for kind in
            ["application/json", "application/problem+json", "text/csv; charset=utf-8", "TEXT/HTML", "image/svg+xml"]
        {
            let answer = Answer::from_response(HeaderMode::Multi, ([("content-type", kind)], "hi").into_response())
                .await
                .unwrap();
            assert!(!answer.is_base64_encoded, "{kind}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_body_says_so_plainly() {
        let answer = Answer::from_response(HeaderMode::Multi, StatusCode::NO_CONTENT.into_response()).await.unwrap();
        assert_eq!(
            serde_json::to_value(answer).unwrap(),
            json!({ "statusCode": 204, "statusDescription": "204 No Content", "multiValueHeaders": {}, "isBase64Encoded": false, "body": "" })
        );
    }
}
