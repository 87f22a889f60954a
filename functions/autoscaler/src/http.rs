//! The HTTP API of the autoscaler: parse, read, answer.

mod explain;
mod policy;
mod simulate;

use std::fmt;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::Method;
use jiff::Timestamp;
use kit::{
    access::Caller,
    clock::Clock,
    http::{ANSWER_LIMIT, Routes, Scope},
    json::{Params, PathParams},
    paging::{Binding, Here, Page, limit, linked},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::OpenApi;

pub use self::simulate::{DemandSample, Simulate, Simulated, SimulatedRun};
use crate::{
    config::{Config, URL},
    decision::{Decision, Inputs, Limit, Outcome, Reason},
    deployments::{DeploymentId, Deployments},
    machine::State as Machine,
    policy::{Given, Mode, Policy},
    samples::{Slot, slot},
    store::{KEPT, Policies, Record, ScalerStore, ShardId, is_slot_sk, slot_sk},
    views,
};
pub use crate::{
    explain::Explanation,
    views::{
        BadSample, CountsView, DecisionView, DeploymentDetail, DeploymentList, DeploymentState, DeploymentView,
        FleetView, PendingView, PolicyView, SampleView,
    },
};

const READ: Scope = Scope("autoscaler:read");
const WRITE: Scope = Scope("autoscaler:write");
/// How large the items of an answer may be as the load balancer counts them, in bytes; the rest is
/// for what is around them.
const ROOM: u64 = ANSWER_LIMIT - 20_000;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Scaling {
    api: Option<(Deployments, ScalerStore)>,
    clock: Clock,
}

impl Scaling {
    /// The deployments API that `config` names, and what is kept of it in `store`.
    pub fn new(config: &Config, store: kit::dynamo::Store, clock: Clock) -> Self {
        let api = config.deployments.clone().map(|api| {
            let store = ScalerStore::new(store, api.name());
            (api, store)
        });
        Self { api, clock }
    }

    fn api(&self) -> Result<&(Deployments, ScalerStore), Problem> {
        self.api.as_ref().ok_or_else(|| Problem::not_configured(URL))
    }

    fn store(&self) -> Result<&ScalerStore, Problem> {
        self.api().map(|(_, store)| store)
    }

    /// What is known of a deployment.
    async fn state(&self, id: &DeploymentId) -> Result<Option<Machine>, Problem> {
        Ok(self.store()?.shard(ShardId::of(id)).await?.states.remove(id))
    }
}

/// The routes of this capability.
pub fn routes(scaling: Scaling) -> Routes {
    Routes::new()
        .route(Method::GET, "/api/v1/deployments", READ, list)
        .route(Method::GET, "/api/v1/deployments/{id}", READ, show)
        .route(Method::GET, "/api/v1/deployments/{id}/decisions", READ, decisions)
        .route(Method::GET, "/api/v1/deployments/{id}/explain", READ, explain::explain)
        .route(Method::GET, "/api/v1/deployments/{id}/policy", READ, policy::show)
        .route(Method::PUT, "/api/v1/deployments/{id}/policy", WRITE, policy::set)
        .route(Method::GET, "/api/v1/deployments-policy", READ, policy::show_all)
        .route(Method::PUT, "/api/v1/deployments-policy", WRITE, policy::set_all)
        .route(Method::POST, "/api/v1/deployments/simulate", READ, simulate::simulate)
        .with_state(scaling)
}

/// The OpenAPI description of these routes.
#[derive(OpenApi)]
#[openapi(
    paths(
        list, show, decisions, explain::explain, policy::show, policy::set, policy::show_all, policy::set_all,
        simulate::simulate
    ),
    components(schemas(
        DeploymentList, DeploymentView, DeploymentDetail, DeploymentState, FleetView, PendingView, SampleView, CountsView,
        BadSample, DecisionView, Reason, Limit, Inputs, Outcome, Mode, Given, Policy, PolicyView, Explanation, Simulate,
        DemandSample, Simulated, SimulatedRun, crate::simulate::Point, Problem
    )),
    tags((name = "autoscaler", description = "Every deployment keeps its share of free servers"))
)]
pub struct Docs;

fn bad(name: &str, words: impl fmt::Display) -> Problem {
    Problem::bad_parameter(name, format!("{name}: {words}"))
}

fn no_deployment(id: &str) -> Problem {
    Problem::not_found(format!("There is no deployment {id:?}. GET /api/v1/deployments lists them."))
}

fn parse_id(text: &str) -> Result<DeploymentId, Problem> {
    DeploymentId::try_from(text.to_owned()).map_err(|_| no_deployment(text))
}

fn effective(policies: &Policies, id: &DeploymentId, now: Timestamp) -> Policy {
    let own = policies.own.get(id).map(|stored| &stored.given);
    Policy::of(&policies.all.given, own.unwrap_or(&Given::default()), now)
}

/// The first of the items that fit into one answer, at least one. The load balancer gets the answer
/// as a text in JSON, in which every quote and backslash is two bytes.
fn fitting<T: Serialize>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut taken = Vec::new();
    let mut size = 0;
    for item in items {
        let json = serde_json::to_vec(&item).unwrap_or_default();
        let escaped = json.iter().filter(|byte| matches!(byte, b'"' | b'\\'));
        size += (json.len() + 1 + escaped.count()) as u64;
        if size > ROOM && !taken.is_empty() {
            break;
        }
        taken.push(item);
    }
    taken
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    state: Option<DeploymentState>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Every deployment: its hosts, its share of free servers, what was decided for it last.
#[utoipa::path(
    get, path = "/api/v1/deployments", operation_id = "list_deployments", tag = "autoscaler",
    params(
        ("state" = Option<DeploymentState>, Query, description = "Only deployments with this state"),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50; where they would be too large, there are fewer on a page"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = DeploymentList),
        (status = 400, body = Problem),
        (status = 503, description = "No deployments API is configured, or the store is away", body = Problem),
    ),
    security(("key" = ["autoscaler:read"]))
)]
async fn list(
    State(scaling): State<Scaling>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)? as usize;
    let wanted = params.state.map(DeploymentState::as_str);
    let binding = Binding::new(&caller.tenant, &["deployments", wanted.unwrap_or_default()]);
    let is_id = |text: &str| DeploymentId::try_from(text.to_owned()).is_ok();
    let after = params.cursor.map(|cursor| binding.open(&cursor, is_id)).transpose()?;
    let store = scaling.store()?;
    let (shards, policies, fleet) = futures::future::try_join3(store.shards(), store.policies(), store.fleet()).await?;
    let now = scaling.clock.now();
    let mut found: Vec<_> = shards
        .values()
        .flat_map(|shard| &shard.states)
        .filter(|(id, _)| after.as_deref().is_none_or(|after| id.as_str() > after))
        .map(|(id, state)| (id, state, effective(&policies, id, now).mode))
        .filter(|(_, state, mode)| params.state.is_none_or(|wanted| DeploymentState::of(state, *mode) == wanted))
        .collect();
    found.sort_unstable_by_key(|(id, ..)| *id);
    let items = fitting(found.iter().take(size).map(|(id, state, mode)| views::deployment(id, state, *mode)));
    let next_cursor = items.last().filter(|_| items.len() < found.len()).map(|last| binding.cursor(&last.id));
    let here = Here::new("/api/v1/deployments", size).with("state", wanted);
    let list = DeploymentList { items, next_cursor: next_cursor.clone(), fleet: views::fleet(&fleet, now) };
    Ok(linked(axum::Json(list).into_response(), here, next_cursor.as_deref()))
}

/// One deployment: what holds for it, its last readings, and the request to scale that waits.
///
/// Its id is one segment of the path: a slash in it is written `%2F`. The id `simulate` has a route
/// of its own, so a deployment with that name is `%73imulate` here.
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}", operation_id = "show_deployment", tag = "autoscaler", params(("id" = String, Path)),
    responses((status = 200, body = DeploymentDetail), (status = 404, body = Problem)),
    security(("key" = ["autoscaler:read"]))
)]
async fn show(
    State(scaling): State<Scaling>,
    PathParams(id): PathParams<String>,
) -> Result<axum::Json<DeploymentDetail>, Problem> {
    let store = scaling.store()?;
    let id = parse_id(&id)?;
    let state = scaling.state(&id).await?.ok_or_else(|| no_deployment(id.as_str()))?;
    let (all, own) = futures::future::try_join(store.policy(None), store.policy(Some(&id))).await?;
    let policy = Policy::of(&all.given, &own.given, scaling.clock.now());
    Ok(axum::Json(views::detail(&id, &state, policy)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionsParams {
    since: Option<String>,
    until: Option<String>,
    reason: Option<Reason>,
    limit: Option<u32>,
    cursor: Option<String>,
}

fn parse_time(name: &str, text: &str) -> Result<Timestamp, Problem> {
    let right = "write it like 2027-01-15T08:00:00Z (RFC 3339, in UTC)";
    text.parse().map_err(|_| bad(name, format!("{text:?} is no time; {right}")))
}

/// What was decided for a deployment, newest first. Kept for six weeks.
///
/// Holds that say the same one after the other are one, with a `count`. `since` and `until` are about
/// when a decision was first made.
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}/decisions", operation_id = "list_decisions", tag = "autoscaler",
    params(
        ("id" = String, Path),
        ("since" = Option<String>, Query, description = "From when on, RFC 3339; six weeks ago"),
        ("until" = Option<String>, Query, description = "Until when, RFC 3339; now"),
        ("reason" = Option<Reason>, Query, description = "Only decisions with this reason; a page may then be short although there is a next one"),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50; where they would be too large, there are fewer on a page"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Page<DecisionView>),
        (status = 400, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("key" = ["autoscaler:read"]))
)]
async fn decisions(
    State(scaling): State<Scaling>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    Params(params): Params<DecisionsParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)? as usize;
    let DecisionsParams { since, until, reason, cursor, .. } = params;
    let given = |name, text: Option<&String>| text.map(|text| parse_time(name, text)).transpose();
    let (from, to) = (given("since", since.as_ref())?, given("until", until.as_ref())?);
    let now = scaling.clock.now();
    let (from, to) = (from.unwrap_or_else(|| now.saturating_sub(KEPT).unwrap_or(now)), to.unwrap_or(now));
    if from > to {
        return Err(bad("since", format!("{from} is after the end, {to}; give an earlier `since` or a later `until`")));
    }
    let store = scaling.store()?;
    let id = parse_id(&id)?;
    let text = |it: Option<&String>| it.cloned().unwrap_or_default();
    let reason_text = reason.map(|it| it.to_string());
    let binding = Binding::new(
        &caller.tenant,
        &["decisions", id.as_str(), &text(since.as_ref()), &text(until.as_ref()), &text(reason_text.as_ref())],
    );
    let after = cursor.map(|cursor| binding.open(&cursor, is_slot_sk)).transpose()?;
    let after: Option<Slot> = after.and_then(|sk| sk.parse().ok());
    // The times have moved on since the page before; the store refuses to begin outside of them.
    let range = (slot(from).min(after.unwrap_or(Slot::MAX)), slot(to).max(after.unwrap_or(0)));

    // First the state: what is over meanwhile is in the history then.
    let mut shard = store.shard(ShardId::of(&id)).await?;
    let state = shard.states.remove(&id);
    let known = state.is_some();
    let (stored, more) = store.decisions(&id, range, reason, size + 1, after.map(slot_sk).as_deref()).await?;
    if !known && stored.is_empty() && after.is_none() {
        return Err(no_deployment(id.as_str()));
    }
    let end = more.as_ref().and_then(|sk| sk.parse().ok()).unwrap_or(0);
    let fits = |it: &Decision| {
        (range.0.max(end)..=range.1).contains(&it.slot)
            && after.is_none_or(|after| it.slot < after)
            && reason.is_none_or(|reason| it.reason == reason)
    };
    let unkept = shard.unkept.into_iter().filter_map(|record| match record {
        Record::Decision(of, decision) if of == id => Some(decision),
        _ => None,
    });
    let found = merged(live(state).into_iter().chain(unkept).filter(fits), stored);
    let items = fitting(found.iter().take(size).map(views::decision));
    let next = match found.get(items.len().wrapping_sub(1)) {
        Some(last) if items.len() < found.len() => Some(slot_sk(last.slot)),
        _ => more,
    };
    let next_cursor = next.map(|sk| binding.cursor(&sk));
    let here = Here::new(kit::upstream::path(&["api", "v1", "deployments", id.as_str(), "decisions"]), size)
        .with("since", since)
        .with("until", until)
        .with("reason", reason_text);
    Ok(Page { items, next_cursor }.answer(here))
}

/// The decisions that are not over yet: the one that holds, and the one whose request has not been
/// settled.
fn live(state: Option<Machine>) -> Vec<Decision> {
    let Some(state) = state else { return Vec::new() };
    let waiting = state.pending.and_then(|pending| pending.decision).map(|waiting| *waiting);
    state.decision.into_iter().chain(waiting).collect()
}

/// All of them, newest first. What is `live` hides what is stored of the same slot.
fn merged(live: impl Iterator<Item = Decision>, stored: Vec<Decision>) -> Vec<Decision> {
    let mut all: Vec<_> = live.collect();
    let stored = stored.into_iter().filter(|it| all.iter().all(|live| live.slot != it.slot));
    let stored: Vec<_> = stored.collect();
    all.extend(stored);
    all.sort_unstable_by_key(|it| std::cmp::Reverse(it.slot));
    all
}
