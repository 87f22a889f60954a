//! The alerts: listing and silencing them.

use axum::{extract::State, response::Response};
use jiff::{SignedDuration, Timestamp};
use kit::{
    access::Caller,
    json::{Json, Params, PathParams},
    paging::{Binding, Here, Page, limit},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Watch;
use crate::{
    alert::{Silence, State as AlertState},
    store::{Record, ServiceStore},
    views::{self, AlertView},
};

/// Longest silence.
const LONGEST_SILENCE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Longest reason, in characters.
const LONGEST_REASON: usize = 200;

/// Which alerts are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertFilter {
    /// Those that are not `ok`, and those that flap.
    #[default]
    Active,
    /// All of them.
    All,
    /// Those of which nothing is wrong.
    Ok,
    /// Too few healthy servers, for less than three minutes.
    Pending,
    /// Too few healthy servers.
    Firing,
    /// Enough healthy servers again, for less than three minutes.
    Clearing,
    /// Those that change too often.
    Flapping,
}

impl AlertFilter {
    fn takes(self, record: &Record) -> bool {
        let (state, flapping) = (record.kept.machine.state(), record.kept.machine.flapping);
        match self {
            Self::Active => state != AlertState::Ok || flapping,
            Self::All => true,
            Self::Ok => state == AlertState::Ok,
            Self::Pending => state == AlertState::Pending,
            Self::Firing => state == AlertState::Firing,
            Self::Clearing => state == AlertState::Clearing,
            Self::Flapping => flapping,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertsParams {
    #[serde(default)]
    state: AlertFilter,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The alerts: one for each service, and one for CPX itself, which comes first.
#[utoipa::path(
    get, path = "/api/v1/alerts", operation_id = "list_alerts", tag = "services",
    params(
        ("state" = Option<AlertFilter>, Query, description = "Only these; those that are not `ok` unless said"),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Page<AlertView>), (status = 400, body = Problem)),
    security(("key" = ["services:read"]))
)]
pub(super) async fn alerts(
    State(watch): State<Watch>,
    caller: Caller,
    Params(params): Params<AlertsParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)? as usize;
    let state = format!("{:?}", params.state).to_lowercase();
    let binding = Binding::new(&caller.tenant, &["alerts", &state]);
    let after = params.cursor.map(|cursor| binding.open(&cursor, |_| true)).transpose()?;
    // CPX itself has no name, and an empty one is before all others.
    let name = |record: &Record| record.subject.service().map_or_else(String::new, ToString::to_string);
    let records = watch.store()?.records().await?;
    let mut found: Vec<_> = records
        .into_iter()
        .filter(|record| !record.kept.retired && params.state.takes(record))
        .filter(|record| after.as_ref().is_none_or(|after| name(record) > *after))
        .collect();
    let more = found.len() > size;
    found.truncate(size);
    let next_cursor = found.last().filter(|_| more).map(|last| binding.cursor(&name(last)));
    let page: Page<AlertView> = Page { items: found.iter().map(views::alert).collect(), next_cursor };
    Ok(page.answer(Here::new("/api/v1/alerts", size).with("state", Some(state))))
}

/// What to be silent about, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SilenceAlert {
    /// Until when, at most 90 days ahead. RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Why, for the others. 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
}

async fn find_alert(store: &ServiceStore, id: &str) -> Result<Record, Problem> {
    let missing = || Problem::not_found("There is no such alert. GET /api/v1/alerts?state=all lists them.");
    let id: Uuid = id.parse().map_err(|_| missing())?;
    let found = store.records().await?.into_iter().find(|record| record.kept.id == id && !record.kept.retired);
    found.ok_or_else(missing)
}

/// Silences an alert: it goes on, but nothing is told of it until the silence ends. Takes the place
/// of the silence before.
#[utoipa::path(
    post, path = "/api/v1/alerts/{id}/silence", operation_id = "silence_alert", tag = "services",
    params(("id" = Uuid, Path)), request_body = SilenceAlert,
    responses(
        (status = 200, body = AlertView),
        (status = 404, body = Problem),
        (status = 422, description = "`until` has passed or is too far, or `reason` is empty", body = Problem),
    ),
    security(("key" = ["services:write"]))
)]
pub(super) async fn silence(
    State(watch): State<Watch>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    Json(input): Json<SilenceAlert>,
) -> Result<axum::Json<AlertView>, Problem> {
    let now = watch.clock.now();
    let wrong =
        |pointer, words: String| Err(Problem::invalid("See `errors` for what to change.").error(pointer, words));
    if input.until <= now {
        return wrong("/until", format!("{} has passed; it is {now}", input.until));
    }
    if input.until > now + LONGEST_SILENCE {
        return wrong("/until", format!("{} is more than 90 days ahead", input.until));
    }
    let reason = input.reason.trim().to_owned();
    if reason.is_empty() || reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control) {
        return wrong("/reason", format!("1 to {LONGEST_REASON} characters, none of them a control character"));
    }
    let by = format!("key {} of {}", caller.key_id, caller.tenant);
    set_silence(&watch, &id, Some(Silence { until: input.until, reason, by, at: now })).await
}

/// Ends the silence of an alert, if it has one. What is still true is told with the next minute.
#[utoipa::path(
    delete, path = "/api/v1/alerts/{id}/silence", operation_id = "end_alert_silence", tag = "services", params(("id" = Uuid, Path)),
    responses((status = 200, body = AlertView), (status = 404, body = Problem)),
    security(("key" = ["services:write"]))
)]
pub(super) async fn end_silence(
    State(watch): State<Watch>,
    PathParams(id): PathParams<String>,
) -> Result<axum::Json<AlertView>, Problem> {
    set_silence(&watch, &id, None).await
}

async fn set_silence(watch: &Watch, id: &str, silence: Option<Silence>) -> Result<axum::Json<AlertView>, Problem> {
    let store = watch.store()?;
    let mut record = find_alert(store, id).await?;
    if !store.silence(&record.subject, silence.as_ref()).await? {
        return Err(Problem::not_found("This alert is gone: its service is no more."));
    }
    record.silence = silence;
    Ok(axum::Json(views::alert(&record)))
}
