//! The HTTP API of services: parse, read, answer.

mod alerts;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::Method;
use jiff::Timestamp;
use kit::{
    access::Caller,
    clock::Clock,
    http::{Routes, Scope},
    json::{Params, PathParams},
    paging::{Binding, Here, Page, limit, linked},
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::OpenApi;

pub use alerts::{AlertFilter, SilenceAlert};

pub use crate::views::{
    AlertKind, AlertView, History, ReadingView, ServerView, Servers, ServiceView, ServiceWithServers, Services,
    ShortService, ShortServices, SickMinuteView,
};
use crate::{
    alert::{Phase, Silence, State as AlertState},
    config::{Config, MOST_HEALTHY, URL},
    cpx::CpxError,
    history::{Band, Point, Trend, down_sample, parse_window, resolution},
    live::{Live, Seen},
    server::{Load, Rollup, Server, ServiceName, Silence as Unanswered, Sort, Status, Thresholds, compare, rollups},
    store::{Record, ServiceStore, Sick, Subject, is_slot_sk},
    views,
};

const READ: Scope = Scope("services:read");
const WRITE: Scope = Scope("services:write");
/// How old a reading may be where the client does not say, in seconds.
pub const MAX_AGE: u32 = 5;
/// How old it may be at most.
const OLDEST: u32 = 300;
/// Most servers in the answer about one service.
const MOST_SERVERS: usize = 500;
const RETRY_AFTER: u64 = 5;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Watch {
    live: Option<Live>,
    store: Option<ServiceStore>,
    thresholds: Thresholds,
    min_healthy: u32,
    clock: Clock,
}

impl Watch {
    /// The CPX that `config` names, and what is kept of it in `store`.
    pub fn new(config: &Config, store: kit::dynamo::Store, clock: Clock) -> Self {
        let store = config.cpx.as_ref().map(|cpx| ServiceStore::new(store, cpx.name()));
        let live = config.cpx.clone().zip(store.clone());
        Self {
            live: live.map(|(cpx, store)| Live::new(cpx, config.bounds, clock.clone(), store)),
            store,
            thresholds: config.thresholds,
            min_healthy: config.min_healthy,
            clock,
        }
    }

    async fn seen(&self, max_age: Option<u32>) -> Result<Arc<Seen>, Problem> {
        let seconds = match max_age.unwrap_or(MAX_AGE) {
            seconds @ 0..=OLDEST => seconds,
            other => return Err(bad("max_age_seconds", format!("{other} is not allowed; it may be 0 to {OLDEST}"))),
        };
        let live = self.live.as_ref().ok_or_else(|| Problem::not_configured(URL))?;
        Ok(live.seen(Duration::from_secs(seconds.into())).await?)
    }

    fn store(&self) -> Result<&ServiceStore, Problem> {
        self.store.as_ref().ok_or_else(|| Problem::not_configured(URL))
    }

    fn thresholds(&self, cpu: Option<f64>, memory: Option<f64>) -> Result<Thresholds, Problem> {
        let checked = |name, value: Option<f64>, default| match value {
            None => Ok(default),
            Some(value) if (0.0..=100.0).contains(&value) => Ok(value),
            Some(value) => Err(bad(name, format!("{value} is no per cent; it may be 0 to 100"))),
        };
        Ok(Thresholds {
            cpu_pct: checked("cpu_threshold", cpu, self.thresholds.cpu_pct)?,
            memory_pct: checked("memory_threshold", memory, self.thresholds.memory_pct)?,
        })
    }
}

/// The routes of this capability.
pub fn routes(watch: Watch) -> Routes {
    Routes::new()
        .route(Method::GET, "/api/v1/servers", READ, servers)
        .route(Method::GET, "/api/v1/servers/{ip}/history", READ, server_history)
        .route(Method::GET, "/api/v1/services", READ, services)
        .route(Method::GET, "/api/v1/services/{name}", READ, service)
        .route(Method::GET, "/api/v1/services/{name}/history", READ, history)
        .route(Method::GET, "/api/v1/unhealthy-services", READ, unhealthy)
        .route(Method::GET, "/api/v1/alerts", READ, alerts::alerts)
        .route(Method::POST, "/api/v1/alerts/{id}/silence", WRITE, alerts::silence)
        .route(Method::DELETE, "/api/v1/alerts/{id}/silence", WRITE, alerts::end_silence)
        .with_state(watch)
}

/// The OpenAPI description of these routes.
#[derive(OpenApi)]
#[openapi(
    paths(
        servers, server_history, services, service, history, unhealthy, alerts::alerts, alerts::silence,
        alerts::end_silence
    ),
    components(schemas(
        Servers, ServerView, ReadingView, Thresholds, Status, Services, ServiceView, ServiceWithServers, Trend, History,
        Point, Band, ShortServices, ShortService, SickMinuteView, AlertView, AlertKind, AlertState, Phase, Sick, Silence,
        SilenceAlert, AlertFilter, Problem
    )),
    tags((name = "services", description = "What runs where, how loaded, and what is short of healthy servers"))
)]
pub struct Docs;

impl From<CpxError> for Problem {
    fn from(error: CpxError) -> Self {
        match error {
            CpxError::Upstream(_) | CpxError::Status(_) | CpxError::NoList => {
                tracing::warn!(%error, "CPX cannot be read");
                Self::unavailable(format!("{error} Try again later."), RETRY_AFTER)
            }
            CpxError::Broken => Self::internal(),
        }
    }
}

fn bad(name: &str, words: impl fmt::Display) -> Problem {
    Problem::bad_parameter(name, format!("{name}: {words}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServersParams {
    limit: Option<u32>,
    cursor: Option<String>,
    service: Option<String>,
    status: Option<Status>,
    sort: Option<String>,
    cpu_threshold: Option<f64>,
    memory_threshold: Option<f64>,
    max_age_seconds: Option<u32>,
}

/// The place of a server in a sorted list: all that [`compare`] looks at.
#[derive(Serialize, Deserialize)]
struct Place {
    ip: IpAddr,
    service: Option<ServiceName>,
    load: Option<(f64, f64)>,
}

impl Place {
    fn of(server: &Server) -> Self {
        let load = server.load.as_ref().ok().map(|load| (load.cpu_pct, load.memory_pct));
        Self { ip: server.ip, service: server.service.clone(), load }
    }

    fn server(self) -> Server {
        let load = self.load.map(|(cpu_pct, memory_pct)| Load { cpu_pct, memory_pct });
        let load = load.ok_or(Unanswered::Time);
        Server { ip: self.ip, service: self.service, load, observed_at: Timestamp::UNIX_EPOCH }
    }
}

/// Every server: its service, its load, how it is.
///
/// The list is a live reading. A next page is of the reading of its own time: with `sort=ip` none is
/// skipped or listed twice, by a load that moves one may be.
#[utoipa::path(
    get, path = "/api/v1/servers", operation_id = "list_servers", tag = "services",
    params(
        ("service" = Option<String>, Query, description = "Only servers of this service"),
        ("status" = Option<Status>, Query, description = "Only servers with this status"),
        ("sort" = Option<String>, Query, description = "`ip` (default), `service`, `cpu`, `memory` or `status`; descending with a `-` in front; by a load, what is unknown comes last in either case"),
        ("cpu_threshold" = Option<f64>, Query, description = "Above how many per cent of CPU a server is unhealthy; 90"),
        ("memory_threshold" = Option<f64>, Query, description = "The same of memory; 90"),
        ("max_age_seconds" = Option<u32>, Query, description = "How old the reading may be, 0 to 300; 5"),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Servers),
        (status = 400, body = Problem),
        (status = 503, description = "No CPX is configured, or it does not list its servers", body = Problem),
    ),
    security(("key" = ["services:read"]))
)]
async fn servers(
    State(watch): State<Watch>,
    caller: Caller,
    Params(params): Params<ServersParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)? as usize;
    let thresholds = watch.thresholds(params.cpu_threshold, params.memory_threshold)?;
    let sort_text = params.sort.as_deref().unwrap_or("ip");
    let (sort, descending) = parse_sort(sort_text)?;
    let service = params.service.as_deref();
    let status = params.status.map_or("", Status::as_str);
    let limits = format!("{},{}", thresholds.cpu_pct, thresholds.memory_pct);
    let binding = Binding::new(&caller.tenant, &["servers", service.unwrap_or_default(), status, sort_text, &limits]);
    let read = |cursor: &str| -> Option<Place> { serde_json::from_str(cursor).ok() };
    let after = params.cursor.map(|cursor| binding.open(&cursor, |place| read(place).is_some())).transpose()?;
    let after = after.as_deref().and_then(read).map(Place::server);

    let seen = watch.seen(params.max_age_seconds).await?;
    let mut found: Vec<&Server> = seen
        .reading
        .servers
        .iter()
        .filter(|server| service.is_none_or(|name| server.service.as_ref().is_some_and(|it| it.as_str() == name)))
        .filter(|server| params.status.is_none_or(|status| server.status(&thresholds) == status))
        .filter(|server| {
            after.as_ref().is_none_or(|after| compare(server, after, sort, descending, &thresholds).is_gt())
        })
        .collect();
    // The reading is by address already.
    if (sort, descending) != (Sort::Ip, false) {
        found.sort_unstable_by(|a, b| compare(a, b, sort, descending, &thresholds));
    }
    let last = found.get(size - 1).filter(|_| found.len() > size);
    let next = last.and_then(|last| serde_json::to_string(&Place::of(last)).ok()).map(|place| binding.cursor(&place));
    let mut reading = views::reading(&seen.reading, thresholds);
    reading.next_cursor.clone_from(&next);
    let items = found.into_iter().take(size).map(|server| views::server(server, &thresholds)).collect();
    let here = Here::new("/api/v1/servers", size)
        .with("service", service)
        .with("status", params.status.map(Status::as_str))
        .with("sort", params.sort.as_deref())
        .with("cpu_threshold", params.cpu_threshold)
        .with("memory_threshold", params.memory_threshold)
        .with("max_age_seconds", params.max_age_seconds);
    Ok(linked(axum::Json(Servers { items, reading }).into_response(), here, next.as_deref()))
}

fn parse_sort(text: &str) -> Result<(Sort, bool), Problem> {
    let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
    let sort = match name {
        "ip" => Sort::Ip,
        "service" => Sort::Service,
        "cpu" => Sort::Cpu,
        "memory" => Sort::Memory,
        "status" => Sort::Status,
        other => {
            let words = format!("{other:?} cannot be sorted by; use ip, service, cpu, memory or status");
            return Err(bad("sort", words));
        }
    };
    Ok((sort, descending))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerHistoryParams {
    window: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The minutes in which a server was not healthy, newest first. Kept for 14 days.
#[utoipa::path(
    get, path = "/api/v1/servers/{ip}/history", operation_id = "show_server_history", tag = "services",
    params(
        ("ip" = String, Path),
        ("window" = Option<String>, Query, description = "How far back, 1m to 14d; 1h"),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Page<SickMinuteView>), (status = 400, body = Problem)),
    security(("key" = ["services:read"]))
)]
async fn server_history(
    State(watch): State<Watch>,
    caller: Caller,
    PathParams(ip): PathParams<String>,
    Params(params): Params<ServerHistoryParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)?;
    let ip: IpAddr = ip.parse().map_err(|_| {
        Problem::bad_request(
            "A server is named by its IP address, such as 10.58.1.121. GET /api/v1/servers lists them.",
        )
    })?;
    let (from, to) = window(params.window.as_deref(), watch.clock.now())?;
    let window = params.window.as_deref();
    let binding = Binding::new(&caller.tenant, &["server-history", &ip.to_string(), window.unwrap_or_default()]);
    let after = params.cursor.map(|cursor| binding.open(&cursor, is_slot_sk)).transpose()?;
    // The window has moved on since the page before; the store refuses to begin outside of it.
    let from = after.as_ref().and_then(|slot| slot.parse().ok()).map_or(from, |slot: Timestamp| from.min(slot));
    let (minutes, next) = watch.store()?.sick_minutes(ip, (from, to), size, after.as_deref()).await?;
    let items = minutes.into_iter().map(views::sick_minute).collect();
    let page: Page<SickMinuteView> = Page { items, next_cursor: next.map(|sk| binding.cursor(&sk)) };
    let here = Here::new(format!("/api/v1/servers/{ip}/history"), size).with("window", window);
    Ok(page.answer(here))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicesParams {
    limit: Option<u32>,
    cursor: Option<String>,
    cpu_threshold: Option<f64>,
    memory_threshold: Option<f64>,
    max_age_seconds: Option<u32>,
}

/// The services of a reading, those included that the worker knows and that have no server now.
fn summed(seen: &Seen, thresholds: &Thresholds) -> BTreeMap<ServiceName, Rollup> {
    let mut services = rollups(&seen.reading.servers, thresholds);
    for record in seen.records.iter().filter(|record| !record.kept.retired) {
        if let Some(name) = record.subject.service() {
            services.entry(name.clone()).or_insert(Rollup::NONE);
        }
    }
    services
}

fn records(seen: &Seen) -> HashMap<&ServiceName, &Record> {
    seen.records.iter().filter_map(|record| Some((record.subject.service()?, record))).collect()
}

/// Every service: its servers, its averages over those that reported, what has changed.
#[utoipa::path(
    get, path = "/api/v1/services", operation_id = "list_services", tag = "services",
    params(
        ("cpu_threshold" = Option<f64>, Query, description = "Above how many per cent of CPU a server, or an average, is unhealthy; 90"),
        ("memory_threshold" = Option<f64>, Query, description = "The same of memory; 90"),
        ("max_age_seconds" = Option<u32>, Query, description = "How old the reading may be, 0 to 300; 5"),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Services),
        (status = 400, body = Problem),
        (status = 503, description = "No CPX is configured, or it does not list its servers", body = Problem),
    ),
    security(("key" = ["services:read"]))
)]
async fn services(
    State(watch): State<Watch>,
    caller: Caller,
    Params(params): Params<ServicesParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)? as usize;
    let thresholds = watch.thresholds(params.cpu_threshold, params.memory_threshold)?;
    let binding = Binding::new(&caller.tenant, &["services"]);
    let after = params.cursor.map(|cursor| binding.open(&cursor, |_| true)).transpose()?;
    let seen = watch.seen(params.max_age_seconds).await?;
    let (summed, records) = (summed(&seen, &thresholds), records(&seen));
    let mut rest = summed.iter().filter(|(name, _)| after.as_deref().is_none_or(|after| name.as_str() > after));
    let items: Vec<_> = rest
        .by_ref()
        .take(size)
        .map(|(name, sum)| views::service(name, sum, records.get(name).copied(), seen.reading.observed_at, &thresholds))
        .collect();
    let next = rest.next().and(items.last()).map(|last| binding.cursor(&last.service));
    let mut reading = views::reading(&seen.reading, thresholds);
    reading.next_cursor.clone_from(&next);
    let here = Here::new("/api/v1/services", size)
        .with("cpu_threshold", params.cpu_threshold)
        .with("memory_threshold", params.memory_threshold)
        .with("max_age_seconds", params.max_age_seconds);
    Ok(linked(axum::Json(Services { items, reading }).into_response(), here, next.as_deref()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceParams {
    cpu_threshold: Option<f64>,
    memory_threshold: Option<f64>,
    max_age_seconds: Option<u32>,
}

fn no_service(name: &str) -> Problem {
    Problem::not_found(format!("There is no service {name:?}. GET /api/v1/services lists them."))
}

/// One service and its servers.
#[utoipa::path(
    get, path = "/api/v1/services/{name}", operation_id = "show_service", tag = "services",
    params(
        ("name" = String, Path),
        ("cpu_threshold" = Option<f64>, Query, description = "Above how many per cent of CPU a server, or an average, is unhealthy; 90"),
        ("memory_threshold" = Option<f64>, Query, description = "The same of memory; 90"),
        ("max_age_seconds" = Option<u32>, Query, description = "How old the reading may be, 0 to 300; 5"),
    ),
    responses(
        (status = 200, body = ServiceWithServers),
        (status = 404, body = Problem),
        (status = 503, description = "No CPX is configured, or it does not list its servers", body = Problem),
    ),
    security(("key" = ["services:read"]))
)]
async fn service(
    State(watch): State<Watch>,
    PathParams(name): PathParams<String>,
    Params(params): Params<ServiceParams>,
) -> Result<axum::Json<ServiceWithServers>, Problem> {
    let thresholds = watch.thresholds(params.cpu_threshold, params.memory_threshold)?;
    let seen = watch.seen(params.max_age_seconds).await?;
    let (summed, records) = (summed(&seen, &thresholds), records(&seen));
    let known = ServiceName::try_from(name.clone()).map_err(|_| no_service(&name))?;
    let sum = summed.get(&known).ok_or_else(|| no_service(&name))?;
    let own = seen.reading.servers.iter().filter(|server| server.service.as_ref() == Some(&known));
    Ok(axum::Json(ServiceWithServers {
        service: views::service(&known, sum, records.get(&known).copied(), seen.reading.observed_at, &thresholds),
        items: own.take(MOST_SERVERS).map(|server| views::server(server, &thresholds)).collect(),
        reading: views::reading(&seen.reading, thresholds),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryParams {
    window: Option<String>,
}

fn window(text: Option<&str>, now: Timestamp) -> Result<(Timestamp, Timestamp), Problem> {
    let window = parse_window(text.unwrap_or("1h")).map_err(|error| bad("window", error.to_string()))?;
    Ok((now - window, now))
}

/// How a service was, minute by minute, at most 500 points. Kept for 14 days.
#[utoipa::path(
    get, path = "/api/v1/services/{name}/history", operation_id = "show_service_history", tag = "services",
    params(
        ("name" = String, Path),
        ("window" = Option<String>, Query, description = "How far back, 1m to 14d; 1h"),
    ),
    responses((status = 200, body = History), (status = 400, body = Problem), (status = 404, body = Problem)),
    security(("key" = ["services:read"]))
)]
async fn history(
    State(watch): State<Watch>,
    PathParams(name): PathParams<String>,
    Params(params): Params<HistoryParams>,
) -> Result<axum::Json<History>, Problem> {
    let (from, to) = window(params.window.as_deref(), watch.clock.now())?;
    let store = watch.store()?;
    let known = ServiceName::try_from(name.clone()).map_err(|_| no_service(&name))?;
    let samples = store.history(&known, from, to).await?;
    if samples.is_empty() {
        let subject = Subject::Service(known.clone());
        if !store.records().await?.iter().any(|record| record.subject == subject) {
            return Err(no_service(&name));
        }
    }
    let resolution = resolution(to.duration_since(from));
    Ok(axum::Json(History {
        service: name,
        from,
        to,
        resolution_seconds: resolution.as_secs(),
        items: down_sample(samples, from, to, resolution),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnhealthyParams {
    min_healthy: Option<u32>,
    cpu_threshold: Option<f64>,
    memory_threshold: Option<f64>,
    max_age_seconds: Option<u32>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The services with fewer healthy servers than wanted, those with the fewest first. A server that
/// is unknown is not healthy.
#[utoipa::path(
    get, path = "/api/v1/unhealthy-services", operation_id = "list_unhealthy_services", tag = "services",
    params(
        ("min_healthy" = Option<u32>, Query, description = "Fewer healthy servers than this are too few, 0 to 10000; 2"),
        ("cpu_threshold" = Option<f64>, Query, description = "Above how many per cent of CPU a server is unhealthy; 90"),
        ("memory_threshold" = Option<f64>, Query, description = "The same of memory; 90"),
        ("max_age_seconds" = Option<u32>, Query, description = "How old the reading may be, 0 to 300; 5"),
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = ShortServices),
        (status = 400, body = Problem),
        (status = 503, description = "No CPX is configured, or it does not list its servers", body = Problem),
    ),
    security(("key" = ["services:read"]))
)]
async fn unhealthy(
    State(watch): State<Watch>,
    caller: Caller,
    Params(params): Params<UnhealthyParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)? as usize;
    let thresholds = watch.thresholds(params.cpu_threshold, params.memory_threshold)?;
    let min_healthy = match params.min_healthy.unwrap_or(watch.min_healthy) {
        number @ 0..=MOST_HEALTHY => number,
        other => return Err(bad("min_healthy", format!("{other} is not allowed; it may be 0 to {MOST_HEALTHY}"))),
    };
    let binding = Binding::new(&caller.tenant, &["unhealthy", &min_healthy.to_string()]);
    let read = |place: &str| -> Option<(u32, String)> { serde_json::from_str(place).ok() };
    let after = params.cursor.map(|cursor| binding.open(&cursor, |place| read(place).is_some())).transpose()?;
    let after = after.as_deref().and_then(read);
    let seen = watch.seen(params.max_age_seconds).await?;
    let mut short: Vec<_> = summed(&seen, &thresholds)
        .into_iter()
        .filter(|(_, sum)| sum.healthy < min_healthy)
        .map(|(name, sum)| (sum.healthy, name.to_string(), sum))
        .filter(|(healthy, name, _)| after.as_ref().is_none_or(|after| (healthy, name) > (&after.0, &after.1)))
        .collect();
    short.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let last = short.get(size - 1).filter(|_| short.len() > size);
    let next = last.and_then(|(healthy, name, _)| serde_json::to_string(&(healthy, name)).ok());
    let next = next.map(|place| binding.cursor(&place));
    let mut reading = views::reading(&seen.reading, thresholds);
    reading.next_cursor.clone_from(&next);
    let item = |(healthy, service, sum): (u32, String, Rollup)| ShortService {
        service,
        healthy,
        unhealthy: sum.unhealthy,
        unknown: sum.unknown,
        servers: sum.servers,
    };
    let items = short.into_iter().take(size).map(item).collect();
    let here = Here::new("/api/v1/unhealthy-services", size)
        .with("min_healthy", params.min_healthy)
        .with("cpu_threshold", params.cpu_threshold)
        .with("memory_threshold", params.memory_threshold)
        .with("max_age_seconds", params.max_age_seconds);
    Ok(linked(axum::Json(ShortServices { items, min_healthy, reading }).into_response(), here, next.as_deref()))
}
