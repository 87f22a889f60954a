//! Lists page by page, with cursors that are opaque and bound to who asked for what.
//!
//! A cursor holds only a sort key; the partition comes from the caller's key and the path. A
//! cursor that somebody else got, or got for another query, is refused.

use std::fmt::{self, Write as _};

use axum::response::{IntoResponse, Response};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::problem::Problem;

/// Items of a page where the client does not say.
pub const DEFAULT_LIMIT: u32 = 50;
/// Most items of a page.
pub const MAX_LIMIT: u32 = 500;

/// The number of items wanted, checked.
pub fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    match wanted.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        other => Err(Problem::bad_parameter("limit", format!("limit is {other}; it may be 1 to {MAX_LIMIT}"))),
    }
}

/// What a cursor is bound to: the tenant, the list and its filters.
#[derive(Debug, Clone, Copy)]
pub struct Binding([u8; 12]);

impl Binding {
    /// Binds to `tenant` and the `parts` of the query that decide what is in the list.
    pub fn new(tenant: &str, parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(&tenant).chain(parts) {
            // The length keeps ("ab","c") and ("a","bc") apart.
            hash.update(part.len().to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut binding = [0; 12];
        binding.copy_from_slice(&hash.finalize()[..12]);
        Self(binding)
    }

    /// A cursor that goes on after `sort_key`.
    pub fn cursor(&self, sort_key: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode([&self.0[..], sort_key.as_bytes()].concat())
    }

    /// The sort key in a cursor that was made for the same binding, if it `is_sort_key` of the list:
    /// whoever reads this can make a cursor, and the store refuses keys outside of what it queries.
    pub fn open(&self, cursor: &str, is_sort_key: impl Fn(&str) -> bool) -> Result<String, Problem> {
        BASE64_URL_SAFE_NO_PAD
            .decode(cursor)
            .ok()
            .and_then(|bytes| bytes.strip_prefix(&self.0[..]).map(<[u8]>::to_vec))
            .and_then(|sort_key| String::from_utf8(sort_key).ok())
            .filter(|sort_key| is_sort_key(sort_key))
            .ok_or_else(|| {
                let words = "the cursor does not belong to this list; start again without it";
                Problem::new(StatusCode::BAD_REQUEST, "bad-cursor", "The cursor is not valid here")
                    .detail(words)
                    .error("?cursor", words)
            })
    }
}

/// The path and the query of a list without its cursor, for the link to the next page.
///
/// ```
/// use kit::paging::Here;
///
/// let here = Here::new("/api/v1/servers", 50).with("service", Some("A&B")).with("status", None::<&str>);
/// assert_eq!(here.as_ref(), "/api/v1/servers?limit=50&service=A%26B");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here(String);

impl Here {
    /// `limit` items of the list at `path`, whose percent signs are there already.
    pub fn new(path: impl fmt::Display, limit: impl fmt::Display) -> Self {
        Self(format!("{path}?limit={limit}"))
    }

    /// The same with a parameter, where it was given.
    #[must_use]
    pub fn with(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "&{name}={}", &crate::upstream::path(&[&value.to_string()])[1..]);
        }
        self
    }
}

impl AsRef<str> for Here {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Give it as `?cursor=` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// The page as an answer; `here` is the path and query without a cursor, as of [`Here`].
    pub fn answer(self, here: impl AsRef<str>) -> Response {
        let next = self.next_cursor.clone();
        linked(axum::Json(self).into_response(), here, next.as_deref())
    }
}

/// An answer of a list with the `Link` to its next page, where there is one. `here` is the path and
/// query without a cursor, as of [`Here`].
pub fn linked(mut response: Response, here: impl AsRef<str>, next_cursor: Option<&str>) -> Response {
    let here = here.as_ref();
    let link = next_cursor.and_then(|cursor| {
        let join = if here.contains('?') { '&' } else { '?' };
        HeaderValue::try_from(format!("<{here}{join}cursor={cursor}>; rel=\"next\"")).ok()
    });
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cursor_works_only_for_the_tenant_and_the_query_it_was_made_for() {
        let mine = Binding::new("a", &["batches", "Processing"]);
        let cursor = mine.cursor("BATCH#1");
        let any = |_: &str| true;
        assert_eq!(mine.open(&cursor, any).unwrap(), "BATCH#1");
        assert_eq!(mine.open(&cursor, |key| key.starts_with("KEY#")).unwrap_err().status, 400);
        for other in [Binding::new("b", &["batches", "Processing"]), Binding::new("a", &["batches", "Completed"])] {
            assert_eq!(other.open(&cursor, any).unwrap_err().status, 400);
        }
        for broken in ["", "x", "%%%", "AAAA", &format!("{cursor}=")] {
            assert_eq!(mine.open(broken, any).unwrap_err().status, 400, "{broken}");
        }
    }

    #[test]
    fn limits_are_1_to_500() {
        assert_eq!(limit(None).unwrap(), 50);
        assert_eq!(limit(Some(500)).unwrap(), 500);
        for bad in [0, 501, u32::MAX] {
            assert_eq!(limit(Some(bad)).unwrap_err().errors[0].pointer, "?limit");
        }
    }
}
