//! The HTTP API of shout.

use std::{
    env,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{Json as Answer, extract::State};
use http::{Method, StatusCode};
use kit::{
    http::{Routes, Scope},
    json::Json,
    problem::Problem,
    upstream::{BaseUrlError, Upstream},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::{OpenApi, ToSchema};

use crate::{
    breaker::Breaker,
    shoutcloud::{ShoutError, Shoutcloud},
    text,
};

/// SHOUTCLOUD's base URL.
pub const URL: &str = "MUSTER_SHOUTCLOUD_URL";
/// `off` answers 502 where the shouting would be done here.
pub const FALLBACK: &str = "MUSTER_SHOUT_FALLBACK";
/// Longest text, in bytes of UTF-8.
pub const MOST: usize = 64 * 1024;

/// What the handler needs.
#[derive(Debug, Clone)]
pub struct Shout {
    shoutcloud: Option<Shoutcloud>,
    fallback: bool,
    breaker: Arc<Mutex<Breaker>>,
}

/// A setting that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// SHOUTCLOUD's URL.
    #[error(transparent)]
    Url(#[from] BaseUrlError),
    /// The fallback's switch.
    #[error("{FALLBACK} is {0:?}; it must be on or off")]
    Fallback(String),
}

impl Shout {
    /// Shouts through `upstream`; where that fails here, if `fallback`, or not at all.
    pub fn new(upstream: Option<&Upstream>, fallback: bool) -> Self {
        Self { shoutcloud: upstream.map(Shoutcloud::new), fallback, breaker: Arc::default() }
    }

    /// As the environment says.
    pub fn from_env() -> Result<Self, ConfigError> {
        let url = env::var(URL).ok().filter(|url| !url.is_empty());
        let upstream = url.map(|url| Upstream::new(URL, &url)).transpose()?;
        let fallback = match env::var(FALLBACK).as_deref() {
            Err(_) | Ok("" | "on") => true,
            Ok("off") => false,
            Ok(other) => return Err(ConfigError::Fallback(other.to_owned())),
        };
        Ok(Self::new(upstream.as_ref(), fallback))
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks SHOUTCLOUD unless it is known to be dead; `None` where it was not asked.
    async fn ask(&self, shoutcloud: &Shoutcloud, reversed: &str) -> Option<Result<String, ShoutError>> {
        if !self.breaker().may_try(Instant::now()) {
            return None;
        }
        let result = shoutcloud.shout(reversed).await;
        match &result {
            Ok(_) => self.breaker().succeeded(),
            Err(error) => {
                let opened = self.breaker().failed(Instant::now());
                tracing::warn!(%error, opened, "SHOUTCLOUD failed");
            }
        }
        Some(result)
    }
}

/// The routes of this capability.
pub fn routes(shout: Shout) -> Routes {
    Routes::new().route(Method::POST, "/api/v1/shout", Scope("shout:write"), shout_it).with_state(shout)
}

/// The OpenAPI description of these routes.
#[derive(OpenApi)]
#[openapi(
    paths(shout_it),
    components(schemas(ShoutRequest, ShoutAnswer, Via, Problem)),
    tags((name = "shout", description = "Text reversed and shouted through SHOUTCLOUD"))
)]
pub struct Docs;

/// What to shout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShoutRequest {
    /// Up to 64 KiB of UTF-8.
    pub data: String,
}

/// The text, reversed and shouted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShoutAnswer {
    /// The text.
    pub data: String,
    /// Who shouted.
    pub via: Via,
}

/// Who shouted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// SHOUTCLOUD did.
    Shoutcloud,
    /// We did, since it could not.
    Local,
}

/// Reverses and shouts a text.
#[utoipa::path(
    post, path = "/api/v1/shout", operation_id = "shout", tag = "shout", request_body = ShoutRequest,
    responses(
        (status = 200, body = ShoutAnswer),
        (status = 413, description = "More than 64 KiB", body = Problem),
        (status = 502, description = "SHOUTCLOUD failed, and the fallback is off", body = Problem),
    ),
    security(("key" = ["shout:write"]))
)]
async fn shout_it(
    State(shout): State<Shout>,
    Json(request): Json<ShoutRequest>,
) -> Result<Answer<ShoutAnswer>, Problem> {
    if request.data.len() > MOST {
        return Err(Problem::too_large(format!("`data` has {} bytes; up to {MOST} are shouted.", request.data.len()))
            .error("/data", format!("up to {MOST} bytes of UTF-8")));
    }
    let shoutcloud = shout.shoutcloud.as_ref().ok_or_else(|| Problem::not_configured(URL))?;
    let reversed = text::reverse(&request.data);
    match shout.ask(shoutcloud, &reversed).await {
        Some(Ok(data)) => Ok(Answer(ShoutAnswer { data, via: Via::Shoutcloud })),
        _ if shout.fallback => Ok(Answer(ShoutAnswer { data: text::shout(&reversed), via: Via::Local })),
        _ => Err(Problem::new(StatusCode::BAD_GATEWAY, "upstream-failed", "An upstream failed")
            .detail(format!("SHOUTCLOUD cannot be had now. Try again later, or set {FALLBACK}=on."))
            .retry_after(30)),
    }
}
