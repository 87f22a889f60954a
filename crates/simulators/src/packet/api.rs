//! One request after its way: who asks, what goes wrong on the way, and who answers.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header, request::Parts};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    config::{ErrorShape, List},
    device::Device,
    fault::{Fault, Moment, Ordinals},
    report::Request,
    view::{Page, Query, stamp},
    world::{Settings, World},
};
use crate::{
    call::{Answer, Call},
    faults::{self, Draw},
};

/// Told as the limit where there is none.
const NO_LIMIT: u32 = 1_000_000;

/// What a path asks for, with the project or the device that it names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route<'a> {
    pub request: Request,
    pub project: Option<&'a str>,
    pub device: Option<&'a str>,
}

impl<'a> Route<'a> {
    pub fn of(head: &'a Parts) -> Self {
        let parts: Vec<_> = head.uri.path().trim_matches('/').split('/').collect();
        let (get, post) = (head.method == Method::GET, head.method == Method::POST);
        let (put, delete) = (head.method == Method::PUT, head.method == Method::DELETE);
        let (request, project, device) = match parts.as_slice() {
            ["operating-systems"] if get => (Request::OperatingSystems, None, None),
            ["capacity"] if get => (Request::Capacity, None, None),
            ["capacity"] if post => (Request::CapacityCheck, None, None),
            ["projects", project, "plans"] if get => (Request::Plans, Some(*project), None),
            ["projects", project, "facilities"] if get => (Request::Facilities, Some(*project), None),
            ["projects", project, "devices"] if get => (Request::List, Some(*project), None),
            ["projects", project, "devices"] if post => (Request::Create, Some(*project), None),
            ["devices", id] if get => (Request::Get, None, Some(*id)),
            ["devices", id] if put => (Request::Update, None, Some(*id)),
            ["devices", id] if delete => (Request::Delete, None, Some(*id)),
            ["devices", id, "events"] if get => (Request::Events, None, Some(*id)),
            ["devices", id, "diagnostics", "health", "rollup"] if get => (Request::Health, None, Some(*id)),
            ["devices", id, "actions"] if post => (Request::Action, None, Some(*id)),
            _ => (Request::Other, None, None),
        };
        Self { request, project, device }
    }
}

/// Where and when a request is answered.
pub(super) struct Ask<'a> {
    pub settings: &'a Settings,
    pub now: Duration,
    pub call: &'a Call,
    pub route: Route<'a>,
    pub query: Query,
    /// The number of this request among those of its kind.
    pub attempt: u32,
    pub draw: Draw,
}

/// What the client gets in the end.
pub(super) enum Served {
    Answer(Answer),
    /// The connection is cut.
    Cut,
    /// Nothing comes.
    Hang,
}

/// What goes wrong with any request.
pub(super) enum Trouble {
    /// This comes instead.
    Instead(Served),
    /// It is done, and then this comes instead of the answer.
    Afterwards(Served),
}

impl Ask<'_> {
    /// An error in one of the vendor's two forms.
    pub fn refuse(&self, status: u16, texts: &[String]) -> Answer {
        let plural = match self.settings.config.error_shape {
            ErrorShape::Errors => true,
            ErrorShape::Error => false,
            ErrorShape::Either => self.draw.happens("error shape", 0.5),
        };
        let body = if plural { json!({ "errors": texts }) } else { json!({ "error": texts.join(", ") }) };
        Answer::json(code(status), &body)
    }

    pub fn refuse_with(&self, status: u16, text: &str) -> Answer {
        self.refuse(status, &[text.to_owned()])
    }

    pub fn not_found(&self) -> Answer {
        self.refuse_with(404, "Not found")
    }

    pub fn forbidden(&self) -> Answer {
        self.refuse_with(403, "You are not authorized to view this device")
    }

    /// How faults look at it, where it is about this device or place.
    pub fn moment<'m>(&self, place: Option<(&'m str, &'m str, Ordinals)>, attempt: u32, draw: Draw) -> Moment<'m> {
        Moment { now: self.now, request: self.route.request, place, attempt, draw }
    }

    /// The part of a list that is asked for, with or without `meta`.
    pub fn page<T: Serialize>(
        &self,
        list: List,
        name: &'static str,
        all: impl Iterator<Item = T>,
        total: usize,
    ) -> Answer {
        let config = &self.settings.config;
        let page = match Page::of(&self.query) {
            Ok(page) => page,
            Err(text) => return self.refuse(422, &[text]),
        };
        if config.unpaged.contains(&list) {
            return Answer::json(StatusCode::OK, &BTreeMap::from([(name, all.collect::<Vec<_>>())]));
        }
        let items = page.of_all(all);
        if config.no_meta.contains(&list) {
            return Answer::json(StatusCode::OK, &BTreeMap::from([(name, items)]));
        }
        Answer::json(StatusCode::OK, &Listed { name, items, meta: page.meta(total, &self.call.head.uri) })
    }

    fn token(&self) -> Option<&str> {
        self.call.head.headers.get("x-auth-token")?.to_str().ok()
    }
}

/// `{"devices":[…],"meta":{…}}`, whatever the first is called.
struct Listed<T> {
    name: &'static str,
    items: Vec<T>,
    meta: super::view::Meta,
}

impl<T: Serialize> Serialize for Listed<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.name, &self.items)?;
        map.serialize_entry("meta", &self.meta)?;
        map.end()
    }
}

pub(super) fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl World {
    /// Answers a request, with the headers about how many there may be.
    pub fn serve(&mut self, ask: &Ask<'_>) -> Served {
        self.settle(ask.now);
        let config = &ask.settings.config;
        let window = ask.now.as_nanos() / config.rate_window.as_nanos().max(1);
        let count = self.count_in_window(window);
        let limit = config.rate_limit.unwrap_or(NO_LIMIT);
        let ends = u32::try_from(window + 1).map_or(Duration::MAX, |number| config.rate_window.saturating_mul(number));
        let served = if config.rate_limit.is_some_and(|limit| count > limit) {
            let rest = ends.saturating_sub(ask.now).as_secs_f64() / if config.manual { 1.0 } else { config.speed };
            Served::Answer(too_many(ask, rest.ceil().max(1.0)))
        } else {
            self.let_in(ask)
        };
        let Served::Answer(answer) = served else { return served };
        let headers = [
            ("x-ratelimit-limit", limit.to_string()),
            ("x-ratelimit-remaining", limit.saturating_sub(count).to_string()),
            ("x-ratelimit-reset", stamp(ask.settings.epoch, ends).as_second().to_string()),
        ];
        let with = |answer: Answer, (name, value): (&'static str, String)| {
            answer.with(HeaderName::from_static(name), Bytes::from(value))
        };
        Served::Answer(headers.into_iter().fold(answer, with))
    }

    /// Whoever has no good token stays outside.
    fn let_in(&mut self, ask: &Ask<'_>) -> Served {
        if let Some(rule) = ask.settings.rule(Fault::TokenRevoked, &ask.moment(None, ask.attempt, ask.draw)) {
            self.strike(Fault::TokenRevoked);
            self.unauthorized += 1;
            return Served::Answer(ask.refuse_with(rule.status(&ask.draw), "Invalid authentication token"));
        }
        if ask.token() != Some(ask.settings.config.token()) {
            self.unauthorized += 1;
            return Served::Answer(ask.refuse_with(401, "Invalid authentication token"));
        }
        // A create looks at what goes wrong once it is known where.
        if ask.route.request == Request::Create && ask.route.project == Some(&ask.settings.config.project) {
            return self.create(ask);
        }
        let number = ask.route.device.and_then(|id| self.find(id)).map(|device| device.number);
        let (attempt, draw) = match number {
            Some(number) => {
                let attempt = self.count_about(number, ask.route.request);
                (attempt, about(ask, number, attempt))
            }
            None => (ask.attempt, ask.draw),
        };
        let place = number
            .and_then(|number| self.device(number))
            .map(|device| (device.facility.code.clone(), device.plan.slug.clone(), device.ordinals));
        let place = place.as_ref().map(|(facility, plan, ordinals)| (facility.as_str(), plan.as_str(), *ordinals));
        let moment = ask.moment(place, attempt, draw);
        match self.trouble(ask, &moment) {
            None => Served::Answer(self.answer(ask, number, &moment)),
            Some(Trouble::Instead(served)) => served,
            Some(Trouble::Afterwards(served)) => {
                self.answer(ask, number, &moment);
                served
            }
        }
    }

    fn answer(&mut self, ask: &Ask<'_>, number: Option<usize>, moment: &Moment<'_>) -> Answer {
        if ask.route.project.is_some_and(|project| project != ask.settings.config.project) {
            return ask.not_found();
        }
        let config = &ask.settings.config;
        match ask.route.request {
            Request::OperatingSystems | Request::Plans | Request::Facilities => catalogue(ask),
            Request::Capacity if !config.no_capacity => Answer::json(StatusCode::OK, &self.capacity(ask)),
            Request::CapacityCheck if !config.no_capacity_check => self.capacity_check(ask),
            Request::List => self.list(ask),
            Request::Health if config.no_health => ask.not_found(),
            Request::Get | Request::Update | Request::Delete | Request::Events | Request::Health | Request::Action => {
                number.map_or_else(|| ask.not_found(), |number| self.about_device(ask, number, moment))
            }
            Request::Capacity | Request::CapacityCheck | Request::Create | Request::Other => ask.not_found(),
        }
    }

    /// What goes wrong with any request, here and now.
    pub fn trouble(&mut self, ask: &Ask<'_>, moment: &Moment<'_>) -> Option<Trouble> {
        let any = [Fault::RateLimited, Fault::ServerError, Fault::Html, Fault::Dropped, Fault::Hang];
        let (fault, rule) = any.into_iter().find_map(|fault| Some((fault, ask.settings.rule(fault, moment)?)))?;
        self.strike(fault);
        let draw = &moment.draw;
        let status = rule.status(draw);
        let afterwards = draw.happens("afterwards", 0.5);
        let served = match fault {
            Fault::Dropped => Served::Cut,
            Fault::Hang => Served::Hang,
            Fault::RateLimited => Served::Answer(too_many(ask, f64::from(1 + draw.below("retry after", 3)))),
            Fault::ServerError => Served::Answer(server_error(ask, draw, status)),
            _ => Served::Answer(faults::html(code(status))),
        };
        let lost = matches!(fault, Fault::Dropped | Fault::Hang);
        Some(if lost && afterwards { Trouble::Afterwards(served) } else { Trouble::Instead(served) })
    }

    /// For each plan and facility where it is offered: how much there is.
    fn capacity(&self, ask: &Ask<'_>) -> Value {
        let mut capacity = BTreeMap::<&str, BTreeMap<&str, Value>>::new();
        for plan in ask.settings.shelf.plans.values() {
            for facility in &plan.facilities {
                let level = level(self.free(&ask.settings.config, facility, &plan.slug));
                capacity.entry(facility).or_default().insert(&plan.slug, json!({ "level": level }));
            }
        }
        json!({ "capacity": capacity })
    }

    fn capacity_check(&self, ask: &Ask<'_>) -> Answer {
        let body: Value = serde_json::from_slice(&ask.call.body).unwrap_or_default();
        let Some(servers) = body.get("servers").and_then(Value::as_array) else {
            return ask.refuse_with(422, "servers can't be blank");
        };
        let mut checked = Vec::new();
        for server in servers {
            let text = |name: &str| server.get(name).and_then(Value::as_str).unwrap_or_default();
            let quantity = match server.get("quantity") {
                Some(Value::String(text)) => text.parse().ok(),
                Some(Value::Number(number)) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
                _ => None,
            };
            let (facility, plan) = (text("facility"), text("plan"));
            let (Some(quantity), false, false) = (quantity, facility.is_empty(), plan.is_empty()) else {
                return ask.refuse_with(422, "each of servers needs a facility, a plan and a quantity");
            };
            let offered = ask.settings.shelf.plans.get(plan).is_some_and(|plan| plan.offered_in(facility));
            let available = offered && self.free(&ask.settings.config, facility, plan) >= quantity;
            let mut server = server.clone();
            if let Value::Object(fields) = &mut server {
                fields.insert("available".to_owned(), json!(available));
            }
            checked.push(server);
        }
        Answer::json(StatusCode::OK, &json!({ "servers": checked }))
    }
}

/// The source of decisions about one request about one device: the same at any speed, and whatever
/// is asked about others.
fn about(ask: &Ask<'_>, number: usize, attempt: u32) -> Draw {
    let key = faults::key_of(&format!("{number} {:?}", ask.route.request));
    Draw::attempt(ask.settings.config.seed, key, attempt, None)
}

fn level(free: u32) -> &'static str {
    match free {
        0 => "unavailable",
        1..=2 => "critical",
        3..=9 => "limited",
        _ => "normal",
    }
}

fn catalogue(ask: &Ask<'_>) -> Answer {
    let shelf = &ask.settings.shelf;
    let lists = &shelf.lists;
    let include = ask.query.include();
    match ask.route.request {
        Request::OperatingSystems => {
            let all = &lists.operating_systems;
            ask.page(List::OperatingSystems, "operating_systems", all.iter(), all.len())
        }
        Request::Plans => {
            let all = lists.plans.iter().map(|plan| shelf.expanded(plan, &include));
            ask.page(List::Plans, "plans", all, lists.plans.len())
        }
        _ => ask.page(List::Facilities, "facilities", lists.facilities.iter(), lists.facilities.len()),
    }
}

fn too_many(ask: &Ask<'_>, seconds: f64) -> Answer {
    let answer = ask.refuse_with(429, "API rate limit exceeded");
    answer.with(header::RETRY_AFTER, Bytes::from(format!("{seconds:.0}")))
}

/// In JSON, in HTML or as plain text.
fn server_error(ask: &Ask<'_>, draw: &Draw, status: u16) -> Answer {
    match draw.below("form of error", 4) {
        0 => faults::html(code(status)),
        1 => Answer::new(code(status), "text/plain", "upstream connect error or disconnect/reset before headers"),
        _ => ask.refuse_with(status, "Oh snap, something went wrong! We've logged the error."),
    }
}

/// A device that is there, or the answer that stands for one that is not.
pub(super) fn visible<'w>(ask: &Ask<'_>, device: &'w Device) -> Result<&'w Device, Answer> {
    let Some(ended) = device.ended else { return Ok(device) };
    match device.fate.reclaimed {
        Some(403) => Err(ask.forbidden()),
        None if ask.now < ended.saturating_add(ask.settings.config.show_deleted) => Ok(device),
        Some(_) | None => Err(ask.not_found()),
    }
}
