//! What can go wrong with a call, told apart by what the caller must know: may it have worked?

use std::error::Error as _;
use std::io;

use http::StatusCode;

/// There is no usable answer.
///
/// Reasons are short texts for people. They hold no URL, no header and no body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The upstream has not seen the request: no connection, no such name, TLS refused, or the
    /// request could not be built.
    #[error("the request was not sent: {reason}")]
    NotSent {
        /// Why.
        reason: String,
    },
    /// The request went out and no complete answer came back: time ran out, the connection broke,
    /// or what came was not HTTP.
    #[error("no answer: {reason}")]
    Unanswered {
        /// Why.
        reason: String,
    },
    /// The answer's body is above the limit and was not read.
    #[error("the answer ({status}) is larger than {limit} bytes")]
    BodyTooLarge {
        /// The answer's status.
        status: StatusCode,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The answer's body is not what was expected.
    #[error("the answer ({status}) cannot be read: {reason}")]
    Unreadable {
        /// The answer's status.
        status: StatusCode,
        /// What is wrong with it.
        reason: String,
    },
}

impl UpstreamError {
    /// Whether the upstream may have carried the request out. Only `false` is a promise.
    pub const fn maybe_processed(&self) -> bool {
        match self {
            Self::NotSent { .. } => false,
            Self::Unanswered { .. } | Self::BodyTooLarge { .. } | Self::Unreadable { .. } => true,
        }
    }

    pub(super) fn not_sent(reason: impl Into<String>) -> Self {
        Self::NotSent { reason: reason.into() }
    }

    /// The client's error while sending or waiting for the head of the answer.
    pub(super) fn from_client(error: &reqwest::Error) -> Self {
        if error.is_builder() || error.is_connect() {
            Self::NotSent { reason: reason(error) }
        } else {
            Self::unanswered(error)
        }
    }

    /// The client's error after the request went out.
    pub(super) fn unanswered(error: &reqwest::Error) -> Self {
        Self::Unanswered { reason: reason(error) }
    }
}

fn reason(error: &reqwest::Error) -> String {
    if error.is_builder() {
        return "the request is not valid HTTP".to_owned();
    }
    if error.is_timeout() {
        return if error.is_connect() { "no connection in time" } else { "no answer in time" }.to_owned();
    }
    // The outer layers repeat the URL; the innermost says what happened.
    let Some(mut cause) = error.source() else {
        return "the client gave up".to_owned();
    };
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
        Some(io::ErrorKind::UnexpectedEof) => "the connection was closed half-way".to_owned(),
        _ => cause.to_string(),
    }
}
