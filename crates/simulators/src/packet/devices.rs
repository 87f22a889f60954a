//! The requests about devices: create, list, get, update, delete, events, actions.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    api::{Ask, Served, Trouble, code, visible},
    catalog::{Facility, Plan, System},
    config::{List, SoldOut},
    device::{Action, State},
    fault::{Fault, Moment, Ordinals},
    order::{self, Order, Place},
    report::Request,
    view::{self, Extent},
    world::{Lot, World, since},
};
use crate::{
    call::Answer,
    faults::{self, Draw, key_of},
};
use std::{sync::Arc, time::Duration};

/// How long a slow deletion takes unless the rule says.
const SLOW: Duration = Duration::from_secs(600);

/// What an order comes to: the plan, the system, and where to try, in order.
struct Offer {
    plan: Arc<Plan>,
    system: Arc<System>,
    facilities: Vec<Arc<Facility>>,
}

impl World {
    /// `POST /projects/{project}/devices`
    pub fn create(&mut self, ask: &Ask<'_>) -> Served {
        let order = Order::read(&ask.call.body);
        let offered = order.and_then(|order| Ok((offer(ask, &order)?, order)));
        let (offer, order) = match offered {
            Ok(offered) => offered,
            Err(texts) => return Served::Answer(ask.refuse(422, &texts)),
        };
        let slug = &offer.plan.slug;
        let of_plan = self.count_create(slug);
        let mut afterwards = None;
        let mut sold_out = None;
        for (facility, first) in offer.facilities.iter().zip([true].into_iter().chain(std::iter::repeat(false))) {
            let ordinals = self.count_try(&facility.code, slug, of_plan);
            let draw = drawn(ask, &facility.code, slug, ordinals);
            let moment = ask.moment(Some((&facility.code, slug, ordinals)), ask.attempt, draw);
            if first {
                match self.trouble(ask, &moment) {
                    None => {}
                    Some(Trouble::Instead(served)) => return served,
                    Some(Trouble::Afterwards(served)) => afterwards = Some(served),
                }
            }
            if let Some(rule) = ask.settings.rule(Fault::OutOfCapacity, &moment) {
                self.strike(Fault::OutOfCapacity);
                sold_out = sold_out.or(Some(rule.status(&draw)));
                continue;
            }
            if self.free(&ask.settings.config, &facility.code, slug) == 0 {
                sold_out = sold_out.or(Some(status_of_sold_out(ask, &draw)));
                continue;
            }
            let lot = Lot { order: &order, plan: &offer.plan, facility, system: &offer.system, moment: &moment };
            let served = self.sell(ask, lot);
            return afterwards.unwrap_or(served);
        }
        let none = ask.refuse_with(sold_out.unwrap_or(422), &text_of_sold_out(&offer));
        afterwards.unwrap_or(Served::Answer(none))
    }

    /// There is a server: makes a device of it, or two, and answers or not.
    fn sell(&mut self, ask: &Ask<'_>, lot: Lot<'_>) -> Served {
        let (moment, draw) = (lot.moment, lot.moment.draw);
        let struck = |fault| ask.settings.rule(fault, moment);
        for (fault, text) in [
            (Fault::Quota, "You have reached the device limit (quota) of this project. Contact support to raise it."),
            (Fault::CreateRefused, "The plan cannot be provisioned with this operating system at the moment"),
        ] {
            if struck(fault).is_some() {
                self.strike(fault);
                return Served::Answer(ask.refuse_with(422, text));
            }
        }
        let mut number = self.make(ask.settings, lot, ask.now);
        if struck(Fault::CreateTwice).is_some() {
            self.strike(Fault::CreateTwice);
            let second = self.make(ask.settings, lot, ask.now);
            if draw.happens("second is answered", 0.5) {
                number = second;
            }
        }
        if struck(Fault::CreateDropped).is_some() {
            self.strike(Fault::CreateDropped);
            return Served::Cut;
        }
        if let Some(rule) = struck(Fault::CreateErrorAfter) {
            self.strike(Fault::CreateErrorAfter);
            return Served::Answer(faults::html(code(rule.status(&draw))));
        }
        Served::Answer(self.told(ask, number, StatusCode::CREATED))
    }

    /// `GET /projects/{project}/devices`
    pub fn list(&self, ask: &Ask<'_>) -> Answer {
        let include = ask.query.include();
        let tag = ask.query.get("tag").filter(|_| !ask.settings.config.ignore_tag);
        let tagged =
            |device: &&super::device::Device| tag.is_none_or(|tag| device.order.tags.iter().any(|own| own == tag));
        let extent = Extent { in_list: true, include: &include };
        let all = self.there().filter(tagged).map(|device| view::Device::of(device, ask.settings, ask.now, extent));
        // An iterator is lazy: only a page of them is written.
        let total = self.there().filter(tagged).count();
        ask.page(List::Devices, "devices", all, total)
    }

    /// `/devices/{id}…`
    pub fn about_device(&mut self, ask: &Ask<'_>, number: usize, moment: &Moment<'_>) -> Answer {
        let Some(device) = self.device(number) else { return ask.not_found() };
        let gone = !device.alive();
        if let Err(answer) = visible(ask, device) {
            return answer;
        }
        let looks = matches!(ask.route.request, Request::Get | Request::Events | Request::Health);
        if looks && ask.settings.rule(Fault::GetForbidden, moment).is_some() {
            self.strike(Fault::GetForbidden);
            return ask.forbidden();
        }
        match ask.route.request {
            Request::Get => self.told(ask, number, StatusCode::OK),
            Request::Events => {
                let events = view::events(device, ask.settings);
                let total = events.len();
                ask.page(List::Events, "events", events.into_iter(), total)
            }
            _ if gone => ask.not_found(),
            Request::Health => self.health(ask, moment),
            Request::Update => self.update(ask, number),
            Request::Delete => self.delete(ask, number, moment),
            _ => self.act(ask, number),
        }
    }

    fn health(&mut self, ask: &Ask<'_>, moment: &Moment<'_>) -> Answer {
        let bad = [(Fault::HealthCritical, "critical"), (Fault::HealthWarning, "warning")];
        let struck = bad.into_iter().find(|(fault, _)| ask.settings.rule(*fault, moment).is_some());
        let word = struck.map_or("ok", |(fault, word)| {
            self.strike(fault);
            word
        });
        Answer::json(StatusCode::OK, &json!({ "health_rollup": word }))
    }

    fn told(&self, ask: &Ask<'_>, number: usize, status: StatusCode) -> Answer {
        let Some(device) = self.device(number) else { return ask.not_found() };
        let include = ask.query.include();
        let extent = Extent { in_list: false, include: &include };
        Answer::json(status, &view::Device::of(device, ask.settings, ask.now, extent))
    }

    fn update(&mut self, ask: &Ask<'_>, number: usize) -> Answer {
        let Some(device) = self.device(number) else { return ask.not_found() };
        let mut order = device.order.clone();
        let before = order.termination_time;
        if let Err(texts) = order.update(&ask.call.body) {
            return ask.refuse(422, &texts);
        }
        if order.termination_time != before
            && let Err(text) = check_termination(ask, &order)
        {
            return ask.refuse(422, &[text]);
        }
        self.change(number, |device| {
            device.updated = ask.now;
            if device.state != State::Deprovisioning {
                device.terminates = order.termination_time.map(|at| since(ask.settings.epoch, at));
            }
            device.order = order;
        });
        self.told(ask, number, StatusCode::OK)
    }

    fn delete(&mut self, ask: &Ask<'_>, number: usize, moment: &Moment<'_>) -> Answer {
        let Ok(forced) = force_delete(ask) else {
            return ask.refuse_with(422, "force_delete must be a boolean");
        };
        let Some(device) = self.device(number) else { return ask.not_found() };
        if device.order.locked {
            return ask.refuse_with(422, "Device is locked and cannot be deleted");
        }
        let done = Answer::empty(StatusCode::NO_CONTENT);
        if device.state == State::Deprovisioning {
            return done;
        }
        let settings = ask.settings;
        if let Some(rule) = settings.rule(Fault::DeleteRefused, moment) {
            self.strike(Fault::DeleteRefused);
            let text = "Device is locked by another process and cannot be deleted";
            return ask.refuse_with(rule.status(&moment.draw), text);
        }
        if settings.rule(Fault::DeleteIgnored, moment).is_some() {
            self.strike(Fault::DeleteIgnored);
            return done;
        }
        let slow = settings.rule(Fault::DeleteSlow, moment);
        let fails = settings.rule(Fault::DeleteFailed, moment).is_some();
        for (fault, struck) in [(Fault::DeleteSlow, slow.is_some()), (Fault::DeleteFailed, fails)] {
            if struck {
                self.strike(fault);
            }
        }
        let takes = slow.map_or(settings.config.deprovision, |rule| rule.lasts.unwrap_or(SLOW));
        self.deletes += 1;
        self.change(number, |device| {
            device.forced |= forced;
            device.deprovision(ask.now, takes, fails);
        });
        done
    }

    fn act(&mut self, ask: &Ask<'_>, number: usize) -> Answer {
        let body = match order::object(&ask.call.body) {
            Ok(body) => body,
            Err(texts) => return ask.refuse(422, &texts),
        };
        let action = match body.get("type").and_then(Value::as_str) {
            Some("power_on") => Action::PowerOn,
            Some("power_off") => Action::PowerOff,
            Some("reboot") => Action::Reboot,
            Some("reinstall") => Action::Reinstall,
            Some("rescue") => Action::Rescue,
            _ => return ask.refuse_with(422, "type is not one of power_on, power_off, reboot, reinstall, rescue"),
        };
        match self.change(number, |device| device.act(action, ask.now)) {
            Some(Ok(())) => Answer::json(StatusCode::ACCEPTED, &json!({})),
            Some(Err(text)) => ask.refuse(422, &[text]),
            None => ask.not_found(),
        }
    }
}

/// The source of decisions about one create in one facility: the same whatever is created elsewhere.
fn drawn(ask: &Ask<'_>, facility: &str, plan: &str, ordinals: Ordinals) -> Draw {
    let key = key_of(&format!("create {facility}/{plan}"));
    Draw::attempt(ask.settings.config.seed, key, ordinals.pair, None)
}

/// What the catalogue has for an order, or all that stands against it.
fn offer(ask: &Ask<'_>, order: &Order) -> Result<Offer, Vec<String>> {
    let shelf = &ask.settings.shelf;
    let system = shelf.systems.get(&order.operating_system);
    let system = system.ok_or_else(|| vec![format!("operating_system {} is not valid", order.operating_system)])?;
    let plan = shelf.plans.get(&order.plan).ok_or_else(|| vec![format!("plan {} is not valid", order.plan)])?;
    let mut wrong = Vec::new();
    if !system.runs_on(&plan.slug) {
        wrong.push(format!("operating_system {} is not provisionable on the plan {}", system.slug, plan.slug));
    }
    if plan.spot_only && !order.spot_instance {
        wrong.push(format!("plan {} is available on the spot market only", plan.slug));
    }
    if let Err(text) = check_termination(ask, order) {
        wrong.push(text);
    }
    let mut facilities: Vec<_> = match &order.place {
        Place::Any => shelf.facilities.clone(),
        Place::Metro(metro) => shelf.facilities.iter().filter(|facility| facility.is_in(metro)).cloned().collect(),
        Place::Codes(codes) => {
            let known = codes.iter().filter_map(|code| shelf.facility(code).cloned()).collect();
            wrong.extend(
                codes
                    .iter()
                    .filter(|code| shelf.facility(code).is_none())
                    .map(|code| format!("facility {code} is not valid")),
            );
            known
        }
    };
    if let (Place::Metro(metro), true) = (&order.place, facilities.is_empty()) {
        wrong.push(format!("metro {metro} is not valid"));
    }
    facilities.retain(|facility| facility.baremetal && plan.offered_in(&facility.code));
    if wrong.is_empty() && facilities.is_empty() {
        wrong.push(format!("plan {} is not available in the facility that was asked for", plan.slug));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(Offer { plan: Arc::clone(plan), system: Arc::clone(system), facilities })
}

fn check_termination(ask: &Ask<'_>, order: &Order) -> Result<(), String> {
    let now = view::exact(ask.settings.epoch, ask.now);
    if order.termination_time.is_some_and(|at| at <= now) {
        return Err("termination_time must be in the future".to_owned());
    }
    Ok(())
}

fn status_of_sold_out(ask: &Ask<'_>, draw: &Draw) -> u16 {
    match ask.settings.config.sold_out {
        SoldOut::Unavailable => 503,
        SoldOut::Either if draw.happens("sold out", 0.5) => 503,
        SoldOut::Either | SoldOut::Unprocessable => 422,
    }
}

fn text_of_sold_out(offer: &Offer) -> String {
    let codes: Vec<_> = offer.facilities.iter().map(|facility| facility.code.as_str()).collect();
    let slug = &offer.plan.slug;
    match codes.as_slice() {
        [code] => format!("The facility {code} has no provisionable {slug} servers matching your criteria"),
        codes => {
            format!("The facilities {} have no provisionable {slug} servers matching your criteria", codes.join(", "))
        }
    }
}

/// In the query, as the specification has it, or in the body, as clients do.
fn force_delete(ask: &Ask<'_>) -> Result<bool, ()> {
    let in_query = match ask.query.get("force_delete") {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(_) => return Err(()),
    };
    if ask.call.body.is_empty() {
        return Ok(in_query);
    }
    let body = order::object(&ask.call.body).map_err(|_| ())?;
    match body.get("force_delete") {
        None | Some(Value::Null) => Ok(in_query),
        Some(Value::Bool(in_body)) => Ok(in_query || *in_body),
        Some(_) => Err(()),
    }
}
