//! The HTTP API of devices: parse, call the domain, answer.
//!
//! Nothing is asked of the vendor here that the worker has to know of, but for actions on a machine
//! that is up: everything else is written down, and the worker does it.

mod actions;
mod attempt;
mod catalog;
mod error;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode};
use jiff::Timestamp;
use kit::{
    access::Caller,
    clock::Clock,
    dynamo::{Store, StoreError},
    http::{Routes, Scope},
    idempotency::{self, IdempotencyKey, KeptAnswer, Once},
    json::{Json, Params, PathParams},
    paging::{Binding, Page, limit},
    problem::Problem,
    secrets::Secret,
    wait::{PreferWait, until},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use utoipa::OpenApi;
use uuid::Uuid;

use self::error::DeviceError;
pub use self::{
    actions::{ActionAccepted, ActionType, DeviceAction},
    catalog::{CatalogList, PlanView},
};
pub use crate::views::{AttemptOutcome, AttemptRecord, AttemptView, Deadlines, DeviceSummary, DeviceView, EventView};
use crate::{
    config::{Config, DEFAULT_TAG, TOKEN},
    device::{Device, State as DeviceState},
    machine::{Effects, ask_delete},
    request::{CreateDevice, Request, Userdata},
    seal::Sealer,
    store::{DeviceStore, TABLE, Whole},
    supply::Supply,
    views::{COLLECTION, ROOM, fitting, parse_place, place_text, summary, time_line, view},
};

const READ: Scope = Scope("devices:read");
const WRITE: Scope = Scope("devices:write");
/// Pages that one listing reads at most where a filter leaves them empty.
const FILTERED_PAGES: u32 = 10;
/// Times that a write is tried while others write the same.
const WRITES: u32 = 6;
/// How long the token may take to be read.
const TOKEN_READ: Duration = Duration::from_secs(5);
/// How long a new device may wait for the catalogue; the worker has more time.
const CATALOG_WAIT: Duration = Duration::from_secs(8);

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Devices {
    store: DeviceStore,
    /// What can be had, or the setting that is missing for it.
    supply: Result<Supply, &'static str>,
    token: Secret,
    sealer: Sealer,
    clock: Clock,
    wake: Arc<Notify>,
}

impl Devices {
    /// The devices in `store`, at the vendor that `config` names. `wake` wakes the worker in this
    /// process.
    pub fn new(config: &Config, store: Store, clock: Clock, wake: Arc<Notify>) -> Self {
        let store = DeviceStore::new(store);
        let supply = config.vendor.clone().map(|vendor| Supply::new(vendor, store.clone(), clock.clone()));
        let sealer = Sealer::new(config.token.clone());
        Self { store, supply, token: config.token.clone(), sealer, clock, wake }
    }

    /// What can be had, where a vendor is configured: a worker in the same process can share it.
    pub fn supply(&self) -> Option<&Supply> {
        self.supply.as_ref().ok()
    }

    /// What can be had, if there is all that is needed to ask.
    async fn ready(&self) -> Result<&Supply, DeviceError> {
        let supply = self.supply.as_ref().map_err(|setting| DeviceError::NotConfigured(setting))?;
        match self.token.token(TOKEN_READ).await {
            Ok(Some(_)) => Ok(supply),
            Ok(None) => Err(DeviceError::NotConfigured(TOKEN)),
            Err(error) => {
                tracing::warn!(%error, "the vendor's token cannot be read");
                Err(DeviceError::TokenUnreadable)
            }
        }
    }

    fn check(&self, input: CreateDevice) -> Result<(Request, Option<Userdata>), DeviceError> {
        let prefix = self.supply().map_or(DEFAULT_TAG, |supply| supply.vendor().tag_prefix());
        input.check(prefix, self.clock.now()).map_err(DeviceError::Invalid)
    }

    async fn device(&self, caller: &Caller, id: Uuid) -> Result<Device, DeviceError> {
        let device = self.store.device(id).await?;
        device.filter(|device| is_of(device, caller)).ok_or(DeviceError::NotFound)
    }

    async fn whole(&self, caller: &Caller, id: Uuid) -> Result<Whole, DeviceError> {
        let whole = self.store.whole(id).await?;
        whole.filter(|whole| is_of(&whole.device, caller)).ok_or(DeviceError::NotFound)
    }

    /// Changes a device, again from the start where somebody else has written it meanwhile. `change`
    /// answers whether it has changed anything.
    async fn change(
        &self,
        caller: &Caller,
        id: Uuid,
        change: impl Fn(&mut Device, Timestamp) -> Result<bool, DeviceError>,
    ) -> Result<Device, DeviceError> {
        for attempt in 0..WRITES {
            let before = self.device(caller, id).await?;
            let (mut after, now) = (before.clone(), self.clock.now());
            if !change(&mut after, now)? {
                return Ok(before);
            }
            match self.store.write(&before, after, &Effects::default(), now).await {
                Ok(Some(written)) => return Ok(written),
                Ok(None) | Err(StoreError::TransactionConflict) => {
                    tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(DeviceError::Busy)
    }
}

/// The store knows devices by their ids alone: whose they are is asked here, and nowhere else.
fn is_of(device: &Device, caller: &Caller) -> bool {
    device.tenant == caller.tenant
}

/// The routes of this capability.
pub fn routes(devices: Devices) -> Routes {
    Routes::new()
        .route(Method::POST, COLLECTION, WRITE, create)
        .route(Method::GET, COLLECTION, READ, list)
        .route(Method::POST, "/api/v1/devices/plan", READ, catalog::plan)
        .route(Method::GET, "/api/v1/devices/{id}", READ, show)
        .route(Method::DELETE, "/api/v1/devices/{id}", WRITE, delete)
        .route(Method::GET, "/api/v1/devices/{id}/events", READ, events)
        .route(Method::GET, "/api/v1/devices/{id}/attempts/{number}", READ, attempt::attempt)
        .route(Method::POST, "/api/v1/devices/{id}/actions", WRITE, actions::act)
        .route(Method::GET, "/api/v1/catalog/operating-systems", READ, catalog::operating_systems)
        .route(Method::GET, "/api/v1/catalog/plans", READ, catalog::plans)
        .route(Method::GET, "/api/v1/catalog/facilities", READ, catalog::facilities)
        .with_state(devices)
}

/// The OpenAPI description of these routes.
#[derive(OpenApi)]
#[openapi(
    paths(
        create, list, show, delete, events, attempt::attempt, actions::act, catalog::plan, catalog::operating_systems,
        catalog::plans, catalog::facilities
    ),
    components(schemas(
        CreateDevice, DeviceView, DeviceSummary, AttemptView, AttemptRecord, EventView, PlanView, DeviceAction,
        ActionAccepted, Problem
    )),
    tags((name = "devices", description = "A machine, launched wherever it can be had, watched until it is up, torn down without leftovers"))
)]
pub struct Docs;

/// What makes two requests with one idempotency key the same. Only its hash is kept.
#[derive(Serialize)]
struct Payload<'a> {
    request: &'a Request,
    userdata: Option<&'a str>,
}

/// Asks for a device.
///
/// The body may be left out: then the cheapest machine that can be had is launched. The answer says
/// what was asked for; what comes of it is told by its address, which can be waited on.
#[utoipa::path(
    post, path = "/api/v1/devices", operation_id = "create_device", tag = "devices", request_body = Option<CreateDevice>,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; the same key launches once")),
    responses(
        (status = 202, description = "Asked for; `Location` has its address", body = DeviceView),
        (status = 409, description = "A request with this key is being worked on", body = Problem),
        (status = 422, description = "A value is not allowed, nothing fits the requirements, or the key was used for another request", body = Problem),
        (status = 503, description = "No vendor is configured, it does not accept the token or know the project, or the store is away", body = Problem),
    ),
    security(("key" = ["devices:write"]))
)]
async fn create(
    State(devices): State<Devices>,
    caller: Caller,
    key: IdempotencyKey,
    Json(input): Json<CreateDevice>,
) -> Result<Response, Problem> {
    let now = devices.clock.now();
    let (request, userdata) = devices.check(input)?;
    let payload = Payload { request: &request, userdata: userdata.as_ref().map(Userdata::expose) };
    let once = Once::new(&caller.tenant, COLLECTION, &key, &payload);
    let store = devices.store.inner();
    if let Some(once) = &once
        && let Some(replay) = once.replay(store, &TABLE, now).await?
    {
        return Ok(replay);
    }
    request.check_time(now).map_err(|wrong| DeviceError::Invalid(vec![wrong]))?;
    may_be_possible(devices.ready().await?, &request).await?;

    let id = Uuid::now_v7();
    let sealed = match &userdata {
        Some(userdata) => Some(devices.sealer.seal(id, userdata).await.map_err(DeviceError::from)?),
        None => None,
    };
    let device = Device::new(id, caller.tenant, request, sealed.is_some(), now);
    let whole = Whole { device, attempts: Vec::new() };
    let answer = KeptAnswer {
        status: StatusCode::ACCEPTED.as_u16(),
        location: format!("{COLLECTION}/{id}"),
        body: serde_json::to_string(&view(&whole, now)).map_err(|_| Problem::internal())?,
    };
    let (records, whole, wake) = (&devices.store, &whole, &devices.wake);
    let create = |record| {
        let sealed = sealed.clone();
        async move {
            records.create(&whole.device, sealed, record).await?;
            wake.notify_one();
            Ok(())
        }
    };
    idempotency::create(once.as_ref(), (store, &TABLE), now, answer, create).await
}

/// Refuses what no vendor's answer could make possible. Where the catalogue cannot be had at present,
/// the request is taken: the worker has more time, and the device tells what it finds.
async fn may_be_possible(supply: &Supply, request: &Request) -> Result<(), DeviceError> {
    match tokio::time::timeout(CATALOG_WAIT, supply.impossible(request)).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(impossible))) => Err(DeviceError::Impossible(impossible)),
        Ok(Err(error)) if !error.is_passing() => Err(error.into()),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("a device was taken without the vendor's catalogue");
            Ok(())
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    limit: Option<u32>,
    cursor: Option<String>,
    state: Option<DeviceState>,
}

/// Lists devices, newest first. What is gone, or never was, is listed for 90 days.
#[utoipa::path(
    get, path = "/api/v1/devices", operation_id = "list_devices", tag = "devices",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50; where they would be too large, there are fewer on a page"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("state" = Option<DeviceState>, Query, description = "Only devices in this state; a page may then be short although there is a next one"),
    ),
    responses((status = 200, body = Page<DeviceSummary>), (status = 400, body = Problem)),
    security(("key" = ["devices:read"]))
)]
async fn list(
    State(devices): State<Devices>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)?;
    let state = params.state.map_or("", DeviceState::as_str);
    let binding = Binding::new(&caller.tenant, &["devices", state]);
    let mut after = params.cursor.map(|cursor| binding.open(&cursor, is_id)).transpose()?;
    let mut found: Vec<DeviceSummary> = Vec::new();
    for _ in 0..FILTERED_PAGES {
        // One more than asked for tells whether there are more.
        let (page, next) = devices.store.list(&caller.tenant, size + 1, after.as_deref()).await?;
        let wanted = page.iter().filter(|device| params.state.is_none_or(|state| device.state() == state));
        found.extend(wanted.map(summary));
        after = next;
        if found.len() > size as usize || after.is_none() {
            break;
        }
    }
    let total = found.len();
    let items = fitting(found.into_iter().take(size as usize), ROOM);
    if items.len() < total {
        after = items.last().map(|last| last.id.to_string());
    }
    let page = Page { items, next_cursor: after.map(|id| binding.cursor(&id)) };
    let filter = if state.is_empty() { String::new() } else { format!("&state={state}") };
    Ok(page.answer(format!("{COLLECTION}?limit={size}{filter}")))
}

/// One device: where it is, what has been tried, what happens when.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}", operation_id = "show_device", tag = "devices",
    params(
        ("id" = Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: up to N (20) seconds until its state, attempt, reason or percent changes; at once where nothing is left to do"),
    ),
    responses((status = 200, body = DeviceView), (status = 404, body = Problem)),
    security(("key" = ["devices:read"]))
)]
async fn show(
    State(devices): State<Devices>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    wait: PreferWait,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    if wait.is_wanted() {
        let mut first = None;
        until(
            wait,
            || devices.device(&caller, id),
            |device| {
                let percent = device.attempt.as_ref().map(|attempt| attempt.percent);
                let now = (device.state(), percent, device.attempts(), device.reason.clone());
                device.state().is_settled() || first.get_or_insert_with(|| now.clone()) != &now
            },
        )
        .await?;
    }
    let whole = devices.whole(&caller, id).await?;
    let mut response = axum::Json(view(&whole, devices.clock.now())).into_response();
    wait.applied(response.headers_mut());
    Ok(response)
}

/// Takes a device down, whatever its state; it is `Deleted` when the vendor has confirmed that nothing
/// is left.
#[utoipa::path(
    delete, path = "/api/v1/devices/{id}", operation_id = "delete_device", tag = "devices", params(("id" = Uuid, Path)),
    responses(
        (status = 202, description = "It is being taken down", body = DeviceView),
        (status = 204, description = "Nothing is left of it"),
        (status = 404, body = Problem),
        (status = 409, description = "Others keep changing it; try again", body = Problem),
    ),
    security(("key" = ["devices:write"]))
)]
async fn delete(
    State(devices): State<Devices>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let device = devices.change(&caller, id, |device, now| Ok(ask_delete(device, now))).await?;
    if matches!(device.state(), DeviceState::Deleted | DeviceState::Failed) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    devices.wake.notify_one();
    let whole = devices.whole(&caller, id).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(view(&whole, devices.clock.now()))).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventParams {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// What has happened to a device: our steps and the vendor's events in one time line, newest last.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/events", operation_id = "list_device_events", tag = "devices",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50; where they would be too large, there are fewer on a page"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Page<EventView>), (status = 400, body = Problem), (status = 404, body = Problem)),
    security(("key" = ["devices:read"]))
)]
async fn events(
    State(devices): State<Devices>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    Params(params): Params<EventParams>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let size = limit(params.limit)?;
    let binding = Binding::new(&caller.tenant, &["events", &id.to_string()]);
    let is_place = |text: &str| parse_place(text).is_some();
    let after = params.cursor.map(|cursor| binding.open(&cursor, is_place)).transpose()?;
    let after = after.as_deref().and_then(parse_place);
    let mut found = time_line(&devices.whole(&caller, id).await?);
    found.retain(|(place, _)| after.is_none_or(|after| *place > after));
    let items = fitting(found.iter().take(size as usize).map(|(_, event)| event), ROOM);
    let last = items.len().checked_sub(1).filter(|_| items.len() < found.len());
    let next_cursor = last.map(|last| binding.cursor(&place_text(&found[last].0)));
    Ok(Page { items, next_cursor }.answer(format!("{COLLECTION}/{id}/events?limit={size}")))
}

fn is_id(text: &str) -> bool {
    parse_id(text).is_ok()
}

fn parse_id(text: &str) -> Result<Uuid, DeviceError> {
    // One spelling only: an id is opaque, and `{…}` or `urn:uuid:…` is nobody's copy of ours.
    (text.len() == 36)
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| DeviceError::NotAnId(text.chars().take(64).collect()))
}
