//! Strict input: a JSON body is read once, unknown fields are refused by name, and what is wrong is
//! said with a JSON pointer; the same for the parameters of the query and of the path.
//!
//! A body that is no JSON is a 400; one that is JSON with a wrong value in it is a 422; another
//! content type is a 415; one past the limit is a 413.

mod strict;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::{StatusCode, header, request::Parts};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use self::strict::Strict;
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
///
/// # Errors
/// A 400 problem where it is no JSON, and a 422 problem with the pointer to what is wrong in it
/// otherwise.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if !body.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<IgnoredAny>(body).map_err(|error| not_json(&error))?;
        return Err(wrong("", "the body must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(Strict(&mut reader)).map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        if error.is_data() {
            return wrong(pointer, without_position(&error.to_string()));
        }
        // What cannot be an enum is an error of syntax to serde_json, as if it were no JSON: "expected
        // value". Once the body has been read as a `Value`, it says which type there is instead.
        match serde_json::from_slice::<Value>(body).map(serde_json::from_value::<T>) {
            Ok(typed) => wrong(pointer, without_position(&typed.err().unwrap_or(error).to_string())),
            Err(error) => not_json(&error),
        }
    })?;
    reader.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn wrong(pointer: impl Into<String>, words: impl Into<String>) -> Problem {
    Problem::invalid("See `errors` for what to change.").error(pointer, words)
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
            Problem::bad_parameter(name, words)
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
    use std::collections::BTreeMap;

    use axum::body::Body;
    use serde::Deserialize;

    use super::*;

    /// A field of every kind.
    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Input {
        size: Option<u32>,
        word: Word,
        inner: Inner,
        list: Vec<Inner>,
        map: BTreeMap<String, Word>,
        either: Either,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        #[default]
        Keep,
        Replace,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Text(String),
    }

    impl Default for Either {
        fn default() -> Self {
            Self::Number(0)
        }
    }

    fn error(body: impl AsRef<[u8]>) -> Problem {
        parse::<Input>(body.as_ref()).unwrap_err()
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_a_422_with_its_pointer() {
        let kinds = ["7", "-1.5", "true", "null", "{}", "[]", r#""x""#, r#"{"x":1}"#, r#"{"keep":1}"#, "[[]]"];
        let right = [
            ("size", &["7", "null"][..]),
            ("word", &[]),
            ("inner", &[]),
            ("list", &["[]"]),
            ("map", &["{}"]),
            ("either", &["7", r#""x""#]),
        ];
        for (name, right) in right {
            for kind in kinds {
                let body = format!(r#"{{"{name}":{kind}}}"#);
                if right.contains(&kind) {
                    assert!(parse::<Input>(body.as_bytes()).is_ok(), "{body}");
                    continue;
                }
                let problem = error(&body);
                assert_eq!(problem.status, 422, "{body}: {problem:?}");
                let pointer = &problem.errors[0].pointer;
                assert!(
                    pointer.strip_prefix(&format!("/{name}")).is_some_and(|rest| !rest.contains(name)),
                    "{body}: {pointer}"
                );
                assert!(!problem.errors[0].detail.contains(" line "), "{body}: {problem:?}");
            }
        }
    }

    #[test]
    fn what_a_value_is_and_ought_to_be_is_said_in_words() {
        let cases = [
            (r#"{"word":7}"#, "/word", "invalid type: integer `7`, expected string or map"),
            (r#"{"map":{"a/b":[]}}"#, "/map/a~1b", "invalid type: sequence, expected string or map"),
            (r#"{"word":"kept"}"#, "/word", "unknown variant `kept`, expected `keep` or `replace`"),
            (r#"{"list":[{"name":"a"},{"name":7}]}"#, "/list/1/name", "invalid type: integer `7`, expected a string"),
            (r#"{"inner":7}"#, "/inner", "invalid type: integer `7`, expected struct Inner"),
            (r#"{"inner":["a"]}"#, "/inner", "invalid type: sequence, expected struct Inner"),
            (r#"{"list":[["a"]]}"#, "/list/0", "invalid type: sequence, expected struct Inner"),
            (r#"{"inner":{}}"#, "/inner", "missing field `name`"),
            (r#"{"size":"7"}"#, "/size", "invalid type: string \"7\", expected u32"),
            (r#"{"either":true}"#, "/either", "data did not match any variant of untagged enum Either"),
            (r#"{"size":1,"size":1}"#, "", "duplicate field `size`"),
        ];
        for (body, pointer, words) in cases {
            let problem = error(body);
            let said = (problem.errors[0].pointer.as_str(), problem.errors[0].detail.as_str());
            assert_eq!((problem.status, said), (422, (pointer, words)), "{body}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        for (body, pointer) in [(r#"{"sise":3}"#, "/sise"), (r#"{"inner":{"name":"a","sise":3}}"#, "/inner/sise")] {
            let problem = error(body);
            assert_eq!((problem.status, problem.errors[0].pointer.as_str()), (422, pointer));
            assert!(problem.errors[0].detail.contains("`sise`"), "{problem:?}");
        }
    }

    #[test]
    fn a_deep_body_is_refused_without_a_stack_overflow() {
        for name in ["list", "word", "x"] {
            let deep = format!("{{\"{name}\":{}", "[".repeat(200_000));
            assert!((400..500).contains(&error(&deep).status));
            let closed = format!("{deep}{}}}", "]".repeat(200_000));
            assert!((400..500).contains(&error(&closed).status));
        }
    }

    #[test]
    fn json_that_is_no_object_is_a_422() {
        for body in ["[]", " [3]", "3", "null", "\"text\""] {
            assert_eq!(error(body).status, 422, "{body}");
        }
    }

    #[test]
    fn what_is_no_json_is_a_400_also_behind_what_cannot_be_an_enum() {
        let broken = ["{", "nope", "{} {}", "{}x", "\u{0}", "<html>", "[1", "[] []", "{'size':1}", r#"{"size":1,}"#];
        // What cannot be an enum comes first here.
        let wrong_too = [r#"{"word":7"#, r#"{"word":7,}"#, r#"{"word":7} x"#, r#"{"word":01}"#, r#"{"word":}"#];
        let unusable = [r#"{"word":1e999}"#, r#"{"inner":{"name":"\ud800"}}"#];
        for body in broken.into_iter().chain(wrong_too).chain(unusable) {
            let problem = error(body);
            assert_eq!((problem.status, problem.slug()), (400, "not-json"), "{body:.20}");
        }
        assert_eq!(error(b"{\"inner\":{\"name\":\"fr\xfch\"}}").status, 400);
    }

    #[tokio::test]
    async fn an_empty_body_is_an_empty_object_and_another_one_says_what_it_is() {
        let read = async |content_type: &str, body: &str| {
            let request = Request::builder().header("content-type", content_type).body(Body::from(body.to_owned()));
            Json::<Input>::from_request(request.unwrap(), &()).await.map(|Json(input)| input).map_err(|it| it.status)
        };
        for empty in ["", " ", "\r\n\t "] {
            assert_eq!(read("text/plain", empty).await, Ok(Input::default()), "{empty:?}");
        }
        assert_eq!(read("text/plain", "{}").await, Err(415));
        for json in ["application/json", "application/json; charset=utf-8", "application/merge-patch+json"] {
            assert_eq!(read(json, "{}").await, Ok(Input::default()), "{json}");
        }
    }
}
