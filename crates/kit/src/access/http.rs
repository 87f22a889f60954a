//! Keys over HTTP, for whoever runs `muster serve`. On AWS the functions may only read keys, and
//! the operator's own credentials make them: these routes are not mounted there.

use axum::{
    Json as Answer,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::{ADMIN, Access, ApiKey, NewKey, keys::is_id};
use crate::{
    http::{Routes, Scope},
    json::{Json, Params, PathParams},
    paging::{Binding, Here, Page, limit},
    problem::Problem,
};

/// A key as it is shown: never its secret, nor the hash of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Public part of the key.
    pub id: String,
    /// Whose data it opens.
    pub tenant: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// For people.
    pub label: Option<String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// From when on it is refused.
    pub expires_at: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// The whole token, with the secret: in the answer to its creation and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            tenant: key.tenant,
            scopes: key.scopes,
            label: key.label,
            created_at: key.created_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            revoked_at: key.revoked_at.map(|at| at.to_string()),
            token: None,
        }
    }
}

/// The routes that manage the keys of `access`.
pub fn routes(access: Access) -> Routes {
    let admin = Scope(ADMIN);
    Routes::new()
        .route(Method::POST, "/api/v1/keys", admin, create)
        .route(Method::GET, "/api/v1/keys", admin, list)
        .route(Method::DELETE, "/api/v1/keys/{id}", admin, revoke)
        .with_state(access)
}

/// The OpenAPI description of these routes.
#[derive(OpenApi)]
#[openapi(
    paths(create, list, revoke),
    components(schemas(NewKey, KeyView, Problem)),
    tags((name = "keys", description = "API keys; served by `muster serve`. On AWS `muster keys` works on the table itself"))
)]
pub struct Docs;

/// Makes a key; the only answer that has its token.
#[utoipa::path(
    post, path = "/api/v1/keys", operation_id = "create_key", tag = "keys", request_body = NewKey,
    responses((status = 201, body = KeyView), (status = 422, body = Problem)),
    security(("key" = ["admin"]))
)]
async fn create(State(access): State<Access>, Json(new): Json<NewKey>) -> Result<Response, Problem> {
    let (key, token) = access.keys().create(new, access.clock().now()).await?;
    let view = KeyView { token: Some(token), ..key.into() };
    Ok((StatusCode::CREATED, Answer(view)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Lists keys, revoked ones for 30 days.
#[utoipa::path(
    get, path = "/api/v1/keys", operation_id = "list_keys", tag = "keys",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Page<KeyView>), (status = 400, body = Problem)),
    security(("key" = ["admin"]))
)]
async fn list(State(access): State<Access>, Params(params): Params<ListParams>) -> Result<Response, Problem> {
    let size = limit(params.limit)?;
    let binding = Binding::new("", &["keys"]);
    let after = params.cursor.map(|cursor| binding.open(&cursor, is_id)).transpose()?;
    // One more than asked for tells whether there are more.
    let (mut keys, mut next) = access.keys().list(size + 1, after.as_deref()).await?;
    if keys.len() > size as usize {
        keys.truncate(size as usize);
        next = keys.last().map(|key| key.id.clone());
    }
    let page =
        Page { items: keys.into_iter().map(KeyView::from).collect(), next_cursor: next.map(|id| binding.cursor(&id)) };
    Ok(page.answer(Here::new("/api/v1/keys", size)))
}

/// Revokes a key; again is the same as once. Elsewhere it may be accepted for another minute.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", operation_id = "revoke_key", tag = "keys", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)),
    security(("key" = ["admin"]))
)]
async fn revoke(State(access): State<Access>, PathParams(id): PathParams<String>) -> Result<StatusCode, Problem> {
    access.keys().revoke(&id, access.clock().now()).await?;
    access.forget(&id);
    Ok(StatusCode::NO_CONTENT)
}
