//! The policies: reading them, and setting them if nobody else has meanwhile.

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use kit::{
    access::Caller,
    dynamo::StoreError,
    json::{Json, PathParams},
    problem::Problem,
};

use super::{Scaling, no_deployment, parse_id};
use crate::{
    deployments::DeploymentId,
    policy::{Given, Policy},
    store::{Stored, Written},
    views::{self, PolicyView},
};

/// Times that a policy is written again while others are written at the same moment.
const AGAIN: u32 = 3;

/// What is set for a deployment, and what holds for it now. The `ETag` is for setting it.
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}/policy", operation_id = "show_policy", tag = "autoscaler", params(("id" = String, Path)),
    responses((status = 200, body = PolicyView), (status = 404, body = Problem)),
    security(("key" = ["autoscaler:read"]))
)]
pub(super) async fn show(
    State(scaling): State<Scaling>,
    PathParams(id): PathParams<String>,
) -> Result<Response, Problem> {
    let id = known(&scaling, &id).await?;
    let (all, own) = read(&scaling, Some(&id)).await?;
    Ok(answer(&scaling, &all, Some(own)))
}

/// Sets what is to hold for a deployment, in the place of all that was set for it before.
///
/// A number that is left out is that of all deployments. Of two modes, this and that of all, the
/// stricter one holds. `If-Match` says which version it takes the place of: its number in quotes,
/// `"0"` where nothing was ever set, or `*` for whatever is there.
#[utoipa::path(
    put, path = "/api/v1/deployments/{id}/policy", operation_id = "set_policy", tag = "autoscaler",
    params(("id" = String, Path), ("If-Match" = String, Header, description = "The version that is there, such as `\"3\"`, or `*`")),
    request_body = Given,
    responses(
        (status = 200, body = PolicyView),
        (status = 400, description = "`If-Match` cannot be read", body = Problem),
        (status = 404, body = Problem),
        (status = 412, description = "Another version is there", body = Problem),
        (status = 422, body = Problem),
        (status = 428, description = "`If-Match` is missing", body = Problem),
    ),
    security(("key" = ["autoscaler:write"]))
)]
pub(super) async fn set(
    State(scaling): State<Scaling>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    headers: HeaderMap,
    Json(given): Json<Given>,
) -> Result<Response, Problem> {
    let id = known(&scaling, &id).await?;
    put(&scaling, Some(&id), &caller, &headers, given).await
}

/// What is set for all deployments. The `ETag` is for setting it.
#[utoipa::path(
    get, path = "/api/v1/deployments-policy", operation_id = "show_common_policy", tag = "autoscaler",
    responses((status = 200, body = PolicyView), (status = 503, body = Problem)),
    security(("key" = ["autoscaler:read"]))
)]
pub(super) async fn show_all(State(scaling): State<Scaling>) -> Result<Response, Problem> {
    let (all, _) = read(&scaling, None).await?;
    Ok(answer(&scaling, &all, None))
}

/// Sets what is to hold for all deployments that have nothing else set, in the place of all that was
/// set for them before. A mode is a brake for every one of them.
///
/// `If-Match` as with one deployment. A `min_hosts` above a deployment's own `max_hosts` is no
/// mistake: `max_hosts` counts more.
#[utoipa::path(
    put, path = "/api/v1/deployments-policy", operation_id = "set_common_policy", tag = "autoscaler",
    params(("If-Match" = String, Header, description = "The version that is there, such as `\"3\"`, or `*`")),
    request_body = Given,
    responses(
        (status = 200, body = PolicyView),
        (status = 400, description = "`If-Match` cannot be read", body = Problem),
        (status = 412, description = "Another version is there", body = Problem),
        (status = 422, body = Problem),
        (status = 428, description = "`If-Match` is missing", body = Problem),
    ),
    security(("key" = ["autoscaler:write"]))
)]
pub(super) async fn set_all(
    State(scaling): State<Scaling>,
    caller: Caller,
    headers: HeaderMap,
    Json(given): Json<Given>,
) -> Result<Response, Problem> {
    put(&scaling, None, &caller, &headers, given).await
}

async fn known(scaling: &Scaling, id: &str) -> Result<DeploymentId, Problem> {
    scaling.store()?;
    let id = parse_id(id)?;
    match scaling.state(&id).await? {
        Some(_) => Ok(id),
        None => Err(no_deployment(id.as_str())),
    }
}

/// What is set for all, and for one.
async fn read(scaling: &Scaling, id: Option<&DeploymentId>) -> Result<(Stored, Stored), Problem> {
    let store = scaling.store()?;
    let own = async {
        match id {
            Some(id) => store.policy(Some(id)).await,
            None => Ok(Stored::default()),
        }
    };
    Ok(futures::future::try_join(store.policy(None), own).await?)
}

/// `own` is none where the question is about all.
fn answer(scaling: &Scaling, all: &Stored, own: Option<Stored>) -> Response {
    let none = Given::default();
    let effective = Policy::of(&all.given, own.as_ref().map_or(&none, |own| &own.given), scaling.clock.now());
    let view = views::policy(own.unwrap_or_else(|| all.clone()), effective);
    ([(header::ETAG, etag(view.version))], axum::Json(view)).into_response()
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// Which version a policy may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfMatch {
    Any,
    Version(u64),
}

impl IfMatch {
    fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        let right = "Send the ETag that GET answers, with its quotes: `If-Match: \"3\"`; `\"0\"` where nothing was ever \
                     set, or `*` for whatever is there.";
        let mut values = headers.get_all(header::IF_MATCH).iter();
        let Some(value) = values.next() else {
            let slug = "precondition-required";
            let problem = Problem::new(StatusCode::PRECONDITION_REQUIRED, slug, "The header If-Match is needed");
            return Err(problem.detail(format!("Two people may set a policy at the same time. {right}")));
        };
        let text = value.to_str().unwrap_or_default().trim();
        let version = || {
            let digits = text.strip_prefix('"')?.strip_suffix('"')?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        match (text, values.next()) {
            ("*", None) => Some(Self::Any),
            (_, None) => version().map(Self::Version),
            _ => None,
        }
        .ok_or_else(|| Problem::bad_request(format!("If-Match is not one version. {right}")))
    }

    fn check(self, current: u64) -> Result<(), Problem> {
        match self {
            Self::Version(version) if version != current => {
                let words = format!(
                    "The policy has version {current}, not {version}: somebody has set it meanwhile. GET it, see what is \
                     set, and send yours again with `If-Match: \"{current}\"`."
                );
                let slug = "precondition-failed";
                let problem = Problem::new(StatusCode::PRECONDITION_FAILED, slug, "The policy has another version");
                Err(problem.detail(words).header(header::ETAG, etag(current)))
            }
            _ => Ok(()),
        }
    }
}

async fn put(
    scaling: &Scaling,
    id: Option<&DeploymentId>,
    caller: &Caller,
    headers: &HeaderMap,
    mut given: Given,
) -> Result<Response, Problem> {
    let store = scaling.store()?;
    let wanted = IfMatch::parse(headers)?;
    given.reason = given.reason.map(|reason| reason.trim().to_owned());
    let by = format!("key {} of {}", caller.key_id, caller.tenant);
    for attempt in 0..=AGAIN {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
        }
        let now = scaling.clock.now();
        let (all, own) = read(scaling, id).await?;
        let none = Given::default();
        let (current, others) = if id.is_some() { (&own, &all.given) } else { (&all, &none) };
        wanted.check(current.version)?;
        given.check(others, now).map_err(|wrong| {
            let problem = Problem::invalid("See `errors` for what to change.");
            wrong.into_iter().fold(problem, |problem, (pointer, words)| problem.error(pointer, words))
        })?;
        let stored =
            Stored { version: current.version + 1, given: given.clone(), set_by: Some(by.clone()), set_at: Some(now) };
        match store.put_policy(id, &stored).await {
            Ok(Written::Ours) if id.is_some() => return Ok(answer(scaling, &all, Some(stored))),
            Ok(Written::Ours) => return Ok(answer(scaling, &stored, None)),
            // With the version that is there now, it is told that it is another one.
            Ok(Written::Lost) | Err(StoreError::TransactionConflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::unavailable("Others set policies at the same moment. Nothing was changed; try again.", 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn if_match_is_one_version_in_quotes_or_a_star() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, value.parse().unwrap());
            }
            IfMatch::parse(&headers).map_err(|problem| problem.status)
        };
        assert_eq!(read(&["\"0\""]), Ok(IfMatch::Version(0)));
        assert_eq!(read(&[" \"17\" "]), Ok(IfMatch::Version(17)));
        assert_eq!(read(&["*"]), Ok(IfMatch::Any));
        assert_eq!(read(&[]), Err(428));
        for wrong in
            ["", "3", "\"3", "\"\"", "\"", "\"+3\"", "\"x\"", "W/\"3\"", "\"1\", \"2\"", "\"18446744073709551616\""]
        {
            assert_eq!(read(&[wrong]), Err(400), "{wrong}");
        }
        assert_eq!(read(&["\"1\"", "\"1\""]), Err(400));
    }
}
