//! What the vendor has, and what would be tried.

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use kit::{
    access::Caller,
    json::{Json, Params},
    paging::{Binding, linked},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Devices, error::DeviceError};
use crate::{
    catalog::{Catalog, Facility, LeftOut, OperatingSystem, Plan},
    request::CreateDevice,
    select::{Candidate, Selection, Tried},
    supply::CATALOG_AGE,
    views::{ROOM, fitting, size},
};

/// Oldest catalogue that can be asked for, in seconds.
const OLDEST: u64 = 3600;
/// What is left of an answer for entries that cannot be used, at least.
const ROOM_FOR_UNUSABLE: u64 = ROOM / 4;

/// What would be tried, in order, and what not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DevicePlanned)]
pub struct PlanView {
    /// The first ones, up to 1000.
    pub candidates: Vec<Candidate>,
    /// How many there are altogether.
    pub total: usize,
    /// What would not be tried, each with the reason; as many as fit into one answer.
    pub left_out: Vec<LeftOut>,
    /// How many of these there are altogether.
    pub left_out_total: usize,
    /// When the vendor's catalogue was read.
    #[schema(value_type = String, format = DateTime)]
    pub catalog_at: Timestamp,
}

/// What would be tried for a device, in order, and for everything else why not. Nothing is launched.
#[utoipa::path(
    post, path = "/api/v1/devices/plan", operation_id = "plan_device", tag = "devices", request_body = Option<CreateDevice>,
    responses(
        (status = 200, body = PlanView),
        (status = 422, description = "A value is not allowed, or nothing fits the requirements", body = Problem),
        (status = 503, description = "No vendor is configured, it is away, or does not accept the token", body = Problem),
    ),
    security(("key" = ["devices:read"]))
)]
pub(super) async fn plan(
    State(devices): State<Devices>,
    Json(input): Json<CreateDevice>,
) -> Result<axum::Json<PlanView>, Problem> {
    let (request, _) = devices.check(input)?;
    request.check_time(devices.clock.now()).map_err(|wrong| DeviceError::Invalid(vec![wrong]))?;
    let supply = devices.ready().await?;
    let (catalog_at, _) = supply.catalog(CATALOG_AGE).await.map_err(DeviceError::from)?;
    if let Some(impossible) = supply.impossible(&request).await.map_err(DeviceError::from)? {
        return Err(DeviceError::Impossible(impossible).into());
    }
    let selection = supply.select(&request, &Tried::default()).await.map_err(DeviceError::from)?;
    Ok(axum::Json(planned(selection, catalog_at)))
}

fn planned(selection: Selection, catalog_at: Timestamp) -> PlanView {
    let Selection { candidates, total, left_out } = selection;
    let left_out_total = left_out.len();
    let candidates = fitting(candidates.into_iter(), ROOM - ROOM_FOR_UNUSABLE);
    let left_out = fitting(left_out.into_iter(), ROOM.saturating_sub(size(&candidates)));
    PlanView { candidates, total, left_out, left_out_total, catalog_at }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CatalogParams {
    max_age: Option<u64>,
    cursor: Option<String>,
}

/// One of the vendor's lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogList<T> {
    /// Its entries, by slug or code.
    pub items: Vec<T>,
    /// Where they do not fit into one answer: give it as `?cursor=` for the next ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// When the vendor's catalogue was read.
    #[schema(value_type = String, format = DateTime)]
    pub read_at: Timestamp,
    /// Entries that cannot be used, each with the reason.
    pub unusable: Vec<LeftOut>,
}

/// One of the vendor's lists: how an entry is named, and which of those that cannot be used are its.
struct Kind<T> {
    path: &'static str,
    name: fn(&T) -> &str,
    is_of: fn(&LeftOut) -> bool,
}

impl<T: Clone + Serialize> Kind<T> {
    async fn answer(
        &self,
        devices: &Devices,
        caller: &Caller,
        params: CatalogParams,
        of: impl FnOnce(&Catalog) -> &[T],
    ) -> Result<Response, Problem> {
        let max_age = max_age(params.max_age)?;
        let binding = Binding::new(&caller.tenant, &["catalog", self.path]);
        let after = params.cursor.map(|cursor| binding.open(&cursor, |name| !name.is_empty())).transpose()?;
        let supply = devices.ready().await?;
        let (read_at, catalog) = supply.catalog(max_age).await.map_err(DeviceError::from)?;
        let unusable = catalog.unusable.iter().filter(|it| (self.is_of)(it)).cloned();
        let unusable = fitting(unusable, ROOM_FOR_UNUSABLE);
        let left = of(&catalog).iter().filter(|it| after.as_deref().is_none_or(|after| (self.name)(it) > after));
        let items = fitting(left.clone().cloned(), ROOM - ROOM_FOR_UNUSABLE);
        let next_cursor = (items.len() < left.count()).then(|| items.last()).flatten();
        let next_cursor = next_cursor.map(|last| binding.cursor((self.name)(last)));
        let here = format!("{}?max_age={}", self.path, max_age.as_secs());
        let next = next_cursor.clone();
        let list = CatalogList { items, next_cursor, read_at, unusable };
        Ok(linked(axum::Json(list).into_response(), &here, next.as_deref()))
    }
}

/// The operating systems that can be installed, by slug.
#[utoipa::path(
    get, path = "/api/v1/catalog/operating-systems", operation_id = "list_operating_systems", tag = "devices",
    params(
        ("max_age" = Option<u64>, Query, description = "How old the catalogue may be in seconds, 0 to 3600; 300"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, body = CatalogList<OperatingSystem>), (status = 400, body = Problem), (status = 503, body = Problem)),
    security(("key" = ["devices:read"]))
)]
pub(super) async fn operating_systems(
    State(devices): State<Devices>,
    caller: Caller,
    Params(params): Params<CatalogParams>,
) -> Result<Response, Problem> {
    let kind = Kind {
        path: "/api/v1/catalog/operating-systems",
        name: |os: &OperatingSystem| &os.slug,
        is_of: |it| it.os.is_some(),
    };
    kind.answer(&devices, &caller, params, |catalog| &catalog.operating_systems).await
}

/// The kinds of servers, by slug.
#[utoipa::path(
    get, path = "/api/v1/catalog/plans", operation_id = "list_plans", tag = "devices",
    params(
        ("max_age" = Option<u64>, Query, description = "How old the catalogue may be in seconds, 0 to 3600; 300"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, body = CatalogList<Plan>), (status = 400, body = Problem), (status = 503, body = Problem)),
    security(("key" = ["devices:read"]))
)]
pub(super) async fn plans(
    State(devices): State<Devices>,
    caller: Caller,
    Params(params): Params<CatalogParams>,
) -> Result<Response, Problem> {
    let kind = Kind { path: "/api/v1/catalog/plans", name: |plan: &Plan| &plan.slug, is_of: |it| it.plan.is_some() };
    kind.answer(&devices, &caller, params, |catalog| &catalog.plans).await
}

/// The places with servers, by code.
#[utoipa::path(
    get, path = "/api/v1/catalog/facilities", operation_id = "list_facilities", tag = "devices",
    params(
        ("max_age" = Option<u64>, Query, description = "How old the catalogue may be in seconds, 0 to 3600; 300"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, body = CatalogList<Facility>), (status = 400, body = Problem), (status = 503, body = Problem)),
    security(("key" = ["devices:read"]))
)]
pub(super) async fn facilities(
    State(devices): State<Devices>,
    caller: Caller,
    Params(params): Params<CatalogParams>,
) -> Result<Response, Problem> {
    let kind = Kind {
        path: "/api/v1/catalog/facilities",
        name: |facility: &Facility| &facility.code,
        is_of: |it| it.facility.is_some(),
    };
    kind.answer(&devices, &caller, params, |catalog| &catalog.facilities).await
}

fn max_age(seconds: Option<u64>) -> Result<Duration, Problem> {
    match seconds {
        None => Ok(CATALOG_AGE),
        Some(seconds @ 0..=OLDEST) => Ok(Duration::from_secs(seconds)),
        Some(seconds) => {
            let words = format!("max_age is {seconds}; it may be 0 to {OLDEST} seconds");
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad-parameter", "A query parameter is not allowed")
                .detail(words.clone())
                .error("?max_age", words))
        }
    }
}
