//! Strict input: a JSON body is read once, unknown fields are refused by name, and what is wrong is
//! said with a JSON pointer; the same for the parameters of the query and of the path.
//!
//! A body that is no JSON is a 400; one that is JSON with a wrong value in it is a 422; another
//! content type is a 415; one past the limit is a 413.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::{StatusCode, header, request::Parts};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::problem::Problem;

/// A JSON body of type `T`, which must say `#[serde(deny_unknown_fields)]`.
///
/// An empty body is read as `{}`, so a request whose fields are all optional needs none, and one
/// that lacks a required field is told which.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type =
            request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_owned());
        let raw = bytes::Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::too_large(format!("A body may have up to {} bytes.", crate::http::BODY_LIMIT))
            } else {
                Problem::bad_request("The body could not be read to its end.")
            }
        })?;
        if raw.iter().all(u8::is_ascii_whitespace) {
            return parse(b"{}").map(Self);
        }
        // curl's default for -d is a form; a person who forgot the header should hear just that.
        if !content_type.as_deref().is_some_and(is_json) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The content type is not supported",
            )
            .detail(format!(
                "The body's Content-Type is {}; send `Content-Type: application/json`.",
                content_type.as_deref().map_or("missing".to_owned(), |it| format!("{it:?}"))
            )));
        }
        parse(&raw).map(Self)
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads `body`, which must be a JSON object, strictly.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would take an array for a struct, its fields by their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<IgnoredAny>(body).map_err(|error| not_json(&error))?;
        return Err(Problem::invalid("See `errors` for what to change.").error("", "the body must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        if inner.is_data() {
            let words = without_position(&inner.to_string());
            Problem::invalid("See `errors` for what to change.").error(pointer, words)
        } else {
            not_json(&inner)
        }
    })?;
    reader.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "not-json", "The body is not JSON")
        .detail(format!("{error}. Send one JSON object."))
}

/// A serde path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |mut pointer, segment| {
        let part = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => return pointer,
        };
        pointer.push('/');
        pointer.push_str(&part);
        pointer
    })
}

/// serde_json appends ` at line 1 column 2`, which the pointer says better.
fn without_position(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(words, _)| words).to_owned()
}

/// Query parameters of type `T`, which must say `#[serde(deny_unknown_fields)]`.
#[derive(Debug, Clone, Copy)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(|rejection| {
            let words = rejection.body_text();
            let words = words.strip_prefix("Failed to deserialize query string: ").unwrap_or(&words);
            // axum's words start with the parameter's name, `limit: invalid digit…`, or quote it:
            // "duplicate field `limit`".
            let name = words.split_once(": ").map(|(name, _)| name).or_else(|| words.split('`').nth(1)).unwrap_or("");
            Problem::new(StatusCode::BAD_REQUEST, "bad-parameter", "A query parameter is not allowed")
                .detail(words.to_owned())
                .error(format!("?{name}"), words.to_owned())
        })
    }
}

/// Path parameters of type `T`.
#[derive(Debug, Clone, Copy)]
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // Ours are texts, which only bytes that are no UTF-8 can fail to be.
        Path::<T>::from_request_parts(parts, state)
            .await
            .map(|Path(value)| Self(value))
            .map_err(|_| Problem::bad_request("The path is not UTF-8 once its percent signs are decoded."))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Input {
        size: Option<u32>,
        inner: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        name: String,
    }

    fn error(body: &str) -> Problem {
        parse::<Input>(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_wrong_value_is_named_by_its_pointer() {
        let problem = error(r#"{"inner":[{"name":"a"},{"name":7}]}"#);
        assert_eq!((problem.status, problem.errors[0].pointer.as_str()), (422, "/inner/1/name"));
        assert!(!problem.errors[0].detail.contains("line"), "{problem:?}");
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let problem = error(r#"{"sise":3}"#);
        assert_eq!(problem.status, 422);
        assert!(problem.errors[0].detail.contains("`sise`"), "{problem:?}");
    }

    #[test]
    fn a_deep_body_is_refused_without_a_stack_overflow() {
        let deep = format!("{{\"inner\":{}", "[".repeat(200_000));
        assert!((400..500).contains(&error(&deep).status));
        let deep = format!("{{\"x\":{}", "[".repeat(200_000));
        assert!((400..500).contains(&error(&deep).status));
    }

    #[test]
    fn json_that_is_no_object_is_a_422() {
        for body in ["[]", " [3]", "3", "null", "\"text\""] {
            assert_eq!(error(body).status, 422, "{body}");
        }
    }

    #[test]
    fn what_is_no_json_is_a_400() {
        for body in ["{", "nope", "{} {}", "\u{0}", "<html>", "[1", "[] []"] {
            assert_eq!(error(body).status, 400, "{body:.20}");
        }
    }
}
