//! What the capabilities' tests share: a client of a router, which holds every error to the
//! conventions.
//!
//! Only the socket between client and router is left out. Everything here panics where something is
//! not as it must be: it is for tests alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, clippy::return_self_not_must_use)]

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
};
use http::{HeaderMap, Method, Request, StatusCode, request::Builder};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::access::{Access, NewKey};

/// Longer than anything here takes, so that what is stuck is found.
const PATIENCE: Duration = Duration::from_mins(1);

/// Calls a router with a key.
#[derive(Clone, Debug)]
pub struct Client {
    app: Router,
    token: String,
}

impl Client {
    /// With a new key of `tenant` that has these scopes.
    pub async fn new(app: &Router, access: &Access, tenant: &str, scopes: &[&str]) -> Self {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        let new = NewKey { tenant: tenant.to_owned(), scopes, label: None, expires_in_seconds: None };
        let (_, token) = access.keys().create(new, access.clock().now()).await.unwrap();
        Self { app: app.clone(), token }
    }

    /// The same key for another router.
    #[must_use]
    pub fn on(self, app: Router) -> Self {
        Self { app, ..self }
    }

    /// A request with the key.
    pub fn request(&self, method: Method, path: &str) -> Builder {
        Request::builder().method(method).uri(path).header("authorization", self.authorization())
    }

    /// How its requests are authorized.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Sends it. An error that is not as RFC 9457 and our conventions have it fails the test.
    pub async fn send(&self, request: Request<Body>) -> Reply {
        let what = format!("{} {}", request.method(), request.uri());
        let bodiless = request.method() == Method::HEAD;
        let answer =
            tokio::time::timeout(PATIENCE, self.app.clone().oneshot(request)).await.expect("an answer in time");
        let (parts, body) = answer.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let reply = Reply { what, status: parts.status, headers: parts.headers, body };
        if !bodiless && (reply.status.is_client_error() || reply.status.is_server_error()) {
            reply.is_a_problem();
        }
        reply
    }

    /// GETs `path`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    /// A GET with one more header.
    pub async fn get_with(&self, path: &str, name: &str, value: &str) -> Reply {
        self.send(self.request(Method::GET, path).header(name, value).body(Body::empty()).unwrap()).await
    }

    /// DELETEs `path`.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path).body(Body::empty()).unwrap()).await
    }

    /// POSTs a text as JSON.
    pub async fn post(&self, path: &str, body: impl ToString) -> Reply {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    /// The items of a whole list, page by page as its links say.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let (mut items, mut path) = (Vec::new(), path.to_owned());
        loop {
            let page = self.get(&path).await.expect(200);
            items.extend(page.json()["items"].as_array().unwrap().iter().cloned());
            match page.next_link() {
                Some(next) => path = next,
                None => return items,
            }
        }
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    what: String,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// Fails where the status is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.what, self.text());
        self
    }

    /// Fails where this is not the problem with this status and slug; answers its body.
    #[track_caller]
    pub fn problem(self, status: u16, slug: &str) -> Value {
        let body = self.expect(status).json();
        assert_eq!(body["type"], format!("urn:muster:problem:{slug}"), "{body}");
        body
    }

    /// The body.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{}: {error}: {}", self.what, self.text()))
    }

    /// The id of what it is about.
    #[track_caller]
    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("{}: no id: {}", self.what, self.text())).to_owned()
    }

    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The address of the next page.
    pub fn next_link(&self) -> Option<String> {
        let link = self.headers.get("link")?.to_str().unwrap();
        Some(link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").expect(link).to_owned())
    }

    fn is_a_problem(&self) {
        let here = format!("{}: {} {}", self.what, self.status, self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{here}");
        let body = self.json();
        assert!(body["type"].as_str().is_some_and(|it| it.starts_with("urn:muster:problem:")), "{here}");
        assert_eq!(body["status"], self.status.as_u16(), "{here}");
        for field in ["title", "detail", "instance"] {
            assert!(body[field].as_str().is_some_and(|it| !it.is_empty()), "{field} of {here}");
        }
        assert_eq!(body["instance"], self.header("x-request-id"), "{here}");
        assert!(self.body.len() < 5_000, "nobody reads a problem of {} bytes: {here:.2000}", self.body.len());
    }
}
