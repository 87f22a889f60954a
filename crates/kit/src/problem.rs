//! Errors as a client sees them: RFC 9457 problem details.
//!
//! A capability has its own error enum and turns it into a [`Problem`] in one exhaustive `match`.
//! What the client reads says what to do instead; what went wrong inside goes to the log with the
//! request id and never into a problem.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{dynamo::StoreError, request};

/// The prefix of every problem's `type`; what follows is the stable slug that programs match on.
pub const TYPE_PREFIX: &str = "urn:muster:problem:";

/// Longest text in a problem, in characters: what a client sent may be repeated, but not at length.
const LONGEST: usize = 500;

/// An error answer, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:muster:problem:<slug>`; the slug is stable, the words are not.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same words for every occurrence of this type.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What happened here, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The request id, as in the log and in the header `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What is wrong with which part of the input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Headers that go with the problem, such as `Retry-After` and `Allow`.
    #[serde(skip)]
    #[schema(ignore)]
    headers: Vec<(String, String)>,
}

/// One thing that is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer (RFC 6901) into the body, or `?name` for a query parameter.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl Problem {
    /// A problem of type `slug` with its fixed `title`.
    pub fn new(status: StatusCode, slug: &str, title: &str) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{slug}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: None,
            instance: None,
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// What happened here and what to do.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(shortened(detail.into()));
        self
    }

    /// Adds one thing that is wrong at `pointer`.
    #[must_use]
    pub fn error(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError { pointer: shortened(pointer.into()), detail: shortened(detail.into()) });
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.headers.push((name.as_ref().to_owned(), value.into()));
        self
    }

    /// Tells the client to come back after `seconds`.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER.as_str(), seconds.to_string())
    }

    /// The stable slug at the end of `type`.
    pub fn slug(&self) -> &str {
        self.kind.strip_prefix(TYPE_PREFIX).unwrap_or(&self.kind)
    }

    /// 400: the request could not be read at all.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request could not be read").detail(detail)
    }

    /// 400: a parameter of the query that cannot be used; `words` say why, and what would be right.
    pub fn bad_parameter(name: &str, words: impl Into<String>) -> Self {
        let words = words.into();
        Self::new(StatusCode::BAD_REQUEST, "bad-parameter", "A query parameter is not allowed")
            .detail(words.clone())
            .error(format!("?{name}"), words)
    }

    /// 422: the request was read, and a value in it is not allowed.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", "A value is not allowed").detail(detail)
    }

    /// 404: not there, or not this tenant's.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found").detail(detail)
    }

    /// 413: the body, or a text in it, is too large.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large").detail(detail)
    }

    /// 500: our fault; the detail is in the log only.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on our side")
            .detail("It has been logged under the request id in `instance`. Trying again may help.")
    }

    /// 503: a part that we need is away for the moment.
    pub fn unavailable(detail: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "A part that this needs is away")
            .detail(detail)
            .retry_after(retry_after_seconds)
    }

    /// 503: a capability whose upstream has no address yet. Names the `variable` to set.
    pub fn not_configured(variable: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-configured", "This capability is not configured")
            .detail(format!("Set {variable} to the base URL of the upstream and start again."))
            .retry_after(60)
    }
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl From<StoreError> for Problem {
    /// The store's errors as every capability answers them; what was tried is in the log.
    fn from(error: StoreError) -> Self {
        if error.retryable() {
            tracing::warn!(%error, "the store is away");
            Self::unavailable("The store did not answer. Nothing was changed half-way; try again.", 2)
        } else {
            tracing::error!(?error, "the store refused");
            Self::internal()
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        self.instance = self.instance.or_else(request::current_id);
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = std::mem::take(&mut self.headers);
        let body: Cow<'static, [u8]> = serde_json::to_vec(&self).map_or(Cow::Borrowed(b"{}"), Cow::Owned);
        let mut response = (status, body.into_owned()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
