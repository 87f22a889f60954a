//! How routes are declared, and what every request and answer passes through.
//!
//! A capability hands over [`Routes`]: each with its method, path and the scope that a key must
//! have. There is no way to add a route without a scope but [`Routes::public`], which asks for the
//! reason. [`app`] turns them into one router.
//!
//! From the outside in: request id → panics become a 500 → size of the answer → access → handler.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use axum::body::HttpBody as _;
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    handler::Handler,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, get, on},
};
use http::{Method, StatusCode, header};
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{access::Access, problem::Problem, request};

/// Largest request body, in bytes: the ALB's own limit for a Lambda target.
pub const BODY_LIMIT: usize = 1 << 20;

/// Largest answer body, in bytes. The ALB refuses an answer past 1 MB as JSON, escapes included.
pub const ANSWER_LIMIT: u64 = 900_000;

/// What a key must be allowed to do, such as `batches:read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Scope(pub &'static str);

/// One declared route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RouteSpec {
    /// The HTTP method.
    pub method: String,
    /// The path with its `{parameters}`.
    pub path: &'static str,
    /// The scope that a key must have; none for a public route.
    pub scope: Option<Scope>,
}

/// The routes of one capability, each with its scope.
#[derive(Debug)]
#[must_use]
pub struct Routes<S = ()> {
    router: Router<S>,
    specs: Vec<RouteSpec>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes yet.
    #[allow(clippy::new_without_default)] // an empty capability is nobody's default
    pub fn new() -> Self {
        Self { router: Router::new(), specs: Vec::new() }
    }

    /// Adds a route that only a key with `scope` may call.
    pub fn route<H, T>(self, method: Method, path: &'static str, scope: Scope, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(method, path, Some(scope), handler)
    }

    /// Adds a route that anybody may call. `why` is for the reader.
    pub fn public<H, T>(self, method: Method, path: &'static str, why: &'static str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        debug_assert!(!why.is_empty(), "a public route needs a reason");
        self.add(method, path, None, handler)
    }

    fn add<H, T>(mut self, method: Method, path: &'static str, scope: Option<Scope>, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let spec = RouteSpec { method: method.to_string(), path, scope };
        let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::GET);
        self.router = self.router.route(path, on(filter, handler));
        self.specs.push(spec);
        self
    }

    /// Gives the handlers their state.
    pub fn with_state(self, state: S) -> Routes<()> {
        Routes { router: self.router.with_state(state), specs: self.specs }
    }
}

impl<S> Routes<S> {
    /// What has been declared.
    pub fn specs(&self) -> &[RouteSpec] {
        &self.specs
    }
}

/// The OpenAPI document of all capabilities, as kept in the repository and compared in a test.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// The route that serves [`OPENAPI`].
pub fn openapi() -> Routes {
    Routes::new().public(Method::GET, "/api/v1/openapi.json", "a description holds no data", async || {
        ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
    })
}

/// One router of all `routes`, with everything that the conventions promise around it.
pub fn app(routes: Vec<Routes>, access: Access) -> Router {
    let mut guard = Guard { access, scopes: BTreeMap::new() };
    let mut merged = Router::new();
    for Routes { router, specs } in routes {
        merged = merged.merge(router);
        for spec in specs {
            guard.scopes.entry(spec.path).or_default().insert(spec.method, spec.scope);
        }
    }
    merged
        .route_layer(middleware::from_fn_with_state(Arc::new(guard), guard_route))
        .route("/healthz", health())
        // Where one host stands before several functions, the load balancer sends each its own name.
        .route("/healthz/{function}", health())
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(bound_answer))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(request::with_id))
}

/// No key and no dependencies: it says that the process answers, nothing more.
fn health() -> MethodRouter {
    get(async || axum::Json(serde_json::json!({"status": "ok"}))).fallback(async || method_not_allowed("GET, HEAD"))
}

async fn nothing_here(request: Request) -> Problem {
    Problem::not_found(format!(
        "There is nothing at {}. The paths are listed at /api/v1/openapi.json.",
        request.uri().path()
    ))
}

fn method_not_allowed(allow: &str) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here")
        .detail(format!("Use {allow}."))
        .header(header::ALLOW.as_str(), allow)
}

/// Which scope each path and method needs. A pair that is not in here is not let through.
struct Guard {
    access: Access,
    scopes: BTreeMap<&'static str, BTreeMap<String, Option<Scope>>>,
}

async fn guard_route(
    State(guard): State<Arc<Guard>>,
    path: MatchedPath,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let methods = guard.scopes.get(path.as_str()).ok_or_else(|| Problem::not_found("There is nothing here."))?;
    let method = match *request.method() {
        Method::HEAD => "GET",
        ref method => method.as_str(),
    };
    let Some(scope) = methods.get(method) else {
        let allow: Vec<_> = methods.keys().map(String::as_str).collect();
        return Err(method_not_allowed(&allow.join(", ")));
    };
    if let Some(scope) = scope {
        let caller = guard.access.authorize(request.headers(), *scope).await?;
        request.extensions_mut().insert(caller);
    }
    Ok(next.run(request).await)
}

/// The last guard before the wire; lists are paged and partitioned long before they reach it.
async fn bound_answer(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let size = response.body().size_hint().upper();
    if size.is_some_and(|size| size > ANSWER_LIMIT) {
        tracing::error!(size, limit = ANSWER_LIMIT, "an answer was too large to send");
        return Problem::internal()
            .detail("The answer was too large. Ask for less: a smaller `limit`, or partitions.")
            .into_response();
    }
    response
}

#[allow(clippy::needless_pass_by_value)] // the layer hands the payload over
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let message = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(message, "a handler panicked");
    Problem::internal().into_response()
}
