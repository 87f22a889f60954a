//! Explaining: what the next tick would do, also under another policy.

use std::{fmt, str::FromStr};

use axum::extract::State;
use kit::{
    json::{Params, PathParams},
    problem::Problem,
};
use serde::{Deserialize, Deserializer, de};

use super::{Scaling, bad, no_deployment, parse_id};
use crate::{
    explain::{self, Explanation, Known, Overrides},
    need::Target,
    policy::{Given, Mode},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainParams {
    target_free_pct: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    min_hosts: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    max_hosts: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    min_free_servers: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    up_step_hosts: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    up_step_pct: Option<u32>,
    #[serde(default, deserialize_with = "whole")]
    down_step_hosts: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    down_step_pct: Option<u32>,
    #[serde(default, deserialize_with = "whole")]
    window_seconds: Option<u32>,
    #[serde(default, deserialize_with = "whole")]
    cooldown_after_up_seconds: Option<u32>,
    #[serde(default, deserialize_with = "whole")]
    cooldown_after_failure_seconds: Option<u32>,
    #[serde(default, deserialize_with = "whole")]
    boot_grace_seconds: Option<u32>,
    mode: Option<Mode>,
}

/// A number in words that say what it must be.
fn whole<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T::Err: fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    let number = text
        .parse()
        .map_err(|_| de::Error::custom(format!("{text:?} is not allowed; it may be a whole number from 0")))?;
    Ok(Some(number))
}

impl ExplainParams {
    fn overrides(self) -> Result<Overrides, Problem> {
        let target = self.target_free_pct.as_deref().map(Target::parse).transpose();
        let target = target.map_err(|error| bad("target_free_pct", error.to_string()))?;
        let given = Given {
            min_hosts: self.min_hosts,
            max_hosts: self.max_hosts,
            min_free_servers: self.min_free_servers,
            up_step_hosts: self.up_step_hosts,
            up_step_pct: self.up_step_pct,
            down_step_hosts: self.down_step_hosts,
            down_step_pct: self.down_step_pct,
            window_seconds: self.window_seconds,
            cooldown_after_up_seconds: self.cooldown_after_up_seconds,
            cooldown_after_failure_seconds: self.cooldown_after_failure_seconds,
            boot_grace_seconds: self.boot_grace_seconds,
            mode: self.mode,
            until: None,
            reason: None,
        };
        Ok(Overrides { target, given })
    }
}

/// What the next tick would do with a deployment, and why: it is read now, and nothing is done.
///
/// With a target, or fields of a policy, in the query: what it would do under those. A mode in the
/// query holds even against a stricter one. Whether so many other deployments cannot be read in that
/// tick that no host is taken away, nobody can foresee.
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}/explain", operation_id = "explain_deployment", tag = "autoscaler",
    params(
        ("id" = String, Path),
        ("target_free_pct" = Option<String>, Query, description = "Another target, from 0 to less than 100"),
        ("min_hosts" = Option<u64>, Query, description = "This and the following as in the policy"),
        ("max_hosts" = Option<u64>, Query),
        ("min_free_servers" = Option<u64>, Query),
        ("up_step_hosts" = Option<u64>, Query),
        ("up_step_pct" = Option<u32>, Query),
        ("down_step_hosts" = Option<u64>, Query),
        ("down_step_pct" = Option<u32>, Query),
        ("window_seconds" = Option<u32>, Query),
        ("cooldown_after_up_seconds" = Option<u32>, Query),
        ("cooldown_after_failure_seconds" = Option<u32>, Query),
        ("boot_grace_seconds" = Option<u32>, Query),
        ("mode" = Option<Mode>, Query),
    ),
    responses(
        (status = 200, body = Explanation, description = "Also where the deployments API does not answer: that is the explanation then"),
        (status = 400, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("key" = ["autoscaler:read"]))
)]
pub(super) async fn explain(
    State(scaling): State<Scaling>,
    PathParams(id): PathParams<String>,
    Params(params): Params<ExplainParams>,
) -> Result<axum::Json<Explanation>, Problem> {
    let (api, store) = scaling.api()?;
    let id = parse_id(&id)?;
    let overrides = params.overrides()?;
    let now = scaling.clock.now();
    let known = Known::load(store, &id).await?;
    let (policy, at) = known.policy(known.slot(now), now);
    overrides.check(&policy, now).map_err(|wrong| {
        let (pointer, words) = wrong.into_iter().next().unwrap_or_default();
        bad(pointer.trim_start_matches('/'), words)
    })?;
    let seen = explain::look(api, store, &id, &known, now).await?;
    let seen = seen.ok_or_else(|| no_deployment(id.as_str()))?;
    Ok(axum::Json(explain::explain(&id, &seen, policy, at, &overrides)))
}
