//! All devices, the stock they are taken from, and which faults strike.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Config,
    catalog::{Catalog, Facility, Plan, Shelf, System},
    device::{Device, Fate, Made},
    fault::{Fault, Moment, Ordinals, Rule},
    order::Order,
    report::{self, Request, Stats},
    view::exact,
};
use crate::{
    faults::{Draw, key_of},
    server::Traffic,
};

/// The settings, and what follows from them once.
#[derive(Debug)]
pub(super) struct Settings {
    pub config: Config,
    pub shelf: Arc<Shelf>,
    /// When the simulator's time began.
    pub epoch: Timestamp,
    pub rules: Vec<Rule>,
}

impl Settings {
    /// The settings at the start, or the next ones, which keep the epoch.
    pub fn new(config: Config, before: Option<&Self>) -> Self {
        let kept = before.filter(|before| before.config.catalog == config.catalog);
        let lists = || config.catalog.clone().unwrap_or_else(|| Catalog::builtin().clone());
        Self {
            shelf: kept.map_or_else(|| Arc::new(Shelf::new(lists())), |before| Arc::clone(&before.shelf)),
            epoch: before.map_or_else(|| config.epoch.unwrap_or_else(Timestamp::now), |before| before.epoch),
            rules: config.rules().cloned().collect(),
            config,
        }
    }

    /// The first rule of this fault that strikes.
    pub fn rule(&self, fault: Fault, moment: &Moment<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fault == fault && rule.strikes(moment))
    }
}

/// How many of a plan are in use in a facility, and how often one was asked for.
#[derive(Debug, Default)]
struct Pair {
    used: u32,
    creates: u32,
    /// Set by hand.
    servers: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    devices: Vec<Device>,
    by_id: HashMap<String, usize>,
    alive: BTreeSet<usize>,
    max_alive: usize,
    /// When something happens next to which device.
    queue: BTreeSet<(Duration, usize)>,
    pairs: HashMap<(String, String), Pair>,
    creates: u32,
    facility_creates: HashMap<String, u32>,
    plan_creates: HashMap<String, u32>,
    kinds: BTreeMap<Request, u64>,
    pub deletes: u64,
    pub unauthorized: u64,
    faults: BTreeMap<Fault, u64>,
    /// The window that requests are now counted in, and how many there were.
    window: (u128, u32),
}

impl World {
    /// Brings everything to the present, in the order in which it happens.
    pub fn settle(&mut self, now: Duration) {
        while let Some((due, number)) = self.queue.first().copied().filter(|(due, _)| *due <= now) {
            // Only as far as this: what happens to others in between comes first.
            self.change(number, |device| device.settle(due));
        }
    }

    /// Does something to a device and sees to what follows from it.
    pub fn change<T>(&mut self, number: usize, change: impl FnOnce(&mut Device) -> T) -> Option<T> {
        let device = self.devices.get_mut(number)?;
        let before = (device.due(), device.alive());
        let done = change(device);
        let after = (device.due(), device.alive());
        if before.0 != after.0 {
            before.0.map(|due| self.queue.remove(&(due, number)));
            self.queue.extend(after.0.map(|due| (due, number)));
        }
        if before.1 && !after.1 {
            self.alive.remove(&number);
            let key = (device.facility.code.clone(), device.plan.slug.clone());
            let pair = self.pairs.entry(key).or_default();
            pair.used = pair.used.saturating_sub(1);
        }
        Some(done)
    }

    /// One more request of this kind: how many there are now.
    pub fn count(&mut self, kind: Request) -> u32 {
        let count = self.kinds.entry(kind).or_default();
        *count += 1;
        u32::try_from(*count).unwrap_or(u32::MAX)
    }

    /// One more request about a device: how many of this kind there are now.
    pub fn count_about(&mut self, number: usize, kind: Request) -> u32 {
        let count = |device: &mut Device| {
            let count = device.asked.entry(kind).or_default();
            *count += 1;
            *count
        };
        self.change(number, count).unwrap_or(1)
    }

    /// One more request in the window of the rate limit: how many there are now.
    pub fn count_in_window(&mut self, window: u128) -> u32 {
        if self.window.0 != window {
            self.window = (window, 0);
        }
        self.window.1 = self.window.1.saturating_add(1);
        self.window.1
    }

    pub fn strike(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub fn device(&self, number: usize) -> Option<&Device> {
        self.devices.get(number)
    }

    pub fn find(&self, id: &str) -> Option<&Device> {
        self.device(*self.by_id.get(id)?)
    }

    /// Those that are there, the newest first.
    pub fn there(&self) -> impl Iterator<Item = &Device> {
        self.alive.iter().rev().filter_map(|number| self.devices.get(*number))
    }

    /// How many servers can still be had.
    pub fn free(&self, config: &Config, facility: &str, plan: &str) -> u32 {
        let pair = self.pairs.get(&(facility.to_owned(), plan.to_owned()));
        let servers = pair.and_then(|pair| pair.servers).unwrap_or_else(|| stock(config, facility, plan));
        servers.saturating_sub(pair.map_or(0, |pair| pair.used))
    }

    /// From now on so many servers can still be had.
    pub fn set_free(&mut self, facility: &str, plan: &str, servers: u32) {
        let pair = self.pairs.entry((facility.to_owned(), plan.to_owned())).or_default();
        pair.servers = Some(pair.used.saturating_add(servers));
    }

    /// One more create of this plan, wherever: its numbers among all and among those of the plan.
    pub fn count_create(&mut self, plan: &str) -> Ordinals {
        self.creates += 1;
        let of_plan = self.plan_creates.entry(plan.to_owned()).or_default();
        *of_plan += 1;
        Ordinals { all: self.creates, plan: *of_plan, ..Ordinals::default() }
    }

    /// And it tries this facility.
    pub fn count_try(&mut self, facility: &str, plan: &str, ordinals: Ordinals) -> Ordinals {
        let of_facility = self.facility_creates.entry(facility.to_owned()).or_default();
        *of_facility += 1;
        let pair = self.pairs.entry((facility.to_owned(), plan.to_owned())).or_default();
        pair.creates += 1;
        Ordinals { facility: *of_facility, pair: pair.creates, ..ordinals }
    }

    /// Makes a device; tells its number.
    pub fn make(&mut self, settings: &Settings, lot: Lot<'_>, now: Duration) -> usize {
        let number = self.devices.len();
        let Lot { order, plan, facility, system, moment } = lot;
        let seed = settings.config.seed;
        let own = Draw::lasting(seed, key_of("device") ^ number as u64);
        let mut order = order.clone();
        order.hostname.get_or_insert_with(|| format!("{}-{number:05}", facility.code));
        let mut times = settings.config.times();
        times.provision = times.provision.mul_f64(1.0 + settings.config.spread * (2.0 * own.fraction("spread") - 1.0));
        let terminates = order.termination_time.map(|at| since(settings.epoch, at));
        let device = Device::new(
            Made {
                id: id(own.number("id"), own.number("rest of id")),
                number,
                ordinals: moment.place.map(|(_, _, ordinals)| ordinals).unwrap_or_default(),
                plan: Arc::clone(plan),
                facility: Arc::clone(facility),
                system: Arc::clone(system),
                order,
                fate: self.fate(settings, moment, &own),
                times,
                terminates,
            },
            now,
        );
        self.by_id.insert(device.id.clone(), number);
        self.queue.extend(device.due().map(|due| (due, number)));
        self.alive.insert(number);
        self.max_alive = self.max_alive.max(self.alive.len());
        self.pairs.entry((facility.code.clone(), plan.slug.clone())).or_default().used += 1;
        self.devices.push(device);
        number
    }

    /// What will go wrong with a device that is made now.
    fn fate(&mut self, settings: &Settings, moment: &Moment<'_>, own: &Draw) -> Fate {
        let mut struck = |fault| {
            let rule = settings.rule(fault, moment)?;
            *self.faults.entry(fault).or_default() += 1;
            Some(rule)
        };
        let reclaimed = struck(Fault::Reclaimed);
        let failed = reclaimed.or_else(|| struck(Fault::FailedAt));
        Fate {
            reclaimed: reclaimed.map(|rule| rule.status(&moment.draw)),
            failed_at: failed.map(|rule| rule.step(&moment.draw)),
            stuck_at: struck(Fault::StuckAt).map(|rule| rule.step(&moment.draw)),
            unknown: struck(Fault::UnknownState).map(|rule| rule.lasts.unwrap_or(Duration::from_secs(10))),
            // No fault: the contract has it that a step may come twice.
            repeated: own.happens("repeat", 0.25).then(|| 104 + u8::try_from(own.below("which", 5)).unwrap_or(0)),
        }
    }

    pub fn report(&self, settings: &Settings, now: Duration) -> Vec<report::Device> {
        let at = |since| exact(settings.epoch, since);
        let report = |device: &Device| report::Device {
            id: device.id.clone(),
            tags: device.order.tags.clone(),
            hostname: device.order.hostname.clone().unwrap_or_default(),
            plan: device.plan.slug.clone(),
            facility: device.facility.code.clone(),
            operating_system: device.system.slug.clone(),
            userdata: device.order.userdata.clone(),
            state: device.state.name().to_owned(),
            alive: device.alive(),
            created_at: at(device.created),
            active_at: device.active.map(at),
            ended_at: device.ended.map(at),
            termination_time: device.order.termination_time,
            reclaimed: device.taken_back(),
            terminated: device.terminated,
            forced: device.forced,
            cost_micro_usd: device.cost(now),
            requests: device.asked.values().copied().map(u64::from).sum(),
        };
        self.devices.iter().map(report).collect()
    }

    pub fn stats(&self, traffic: Traffic, now: Duration) -> Stats {
        let long = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let mut states = BTreeMap::new();
        for device in &self.devices {
            *states.entry(device.state.name().to_owned()).or_default() += 1;
        }
        Stats {
            traffic,
            kinds: self.kinds.clone(),
            created: long(self.devices.len()),
            deletes: self.deletes,
            alive: long(self.alive.len()),
            max_alive: long(self.max_alive),
            states,
            cost_micro_usd: self.devices.iter().map(|device| device.cost(now)).sum(),
            unauthorized: self.unauthorized,
            faults: self.faults.clone(),
        }
    }
}

/// What a device is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lot<'a> {
    pub order: &'a Order,
    pub plan: &'a Arc<Plan>,
    pub facility: &'a Arc<Facility>,
    pub system: &'a Arc<System>,
    pub moment: &'a Moment<'a>,
}

/// How long after the start; nothing, where it was before.
pub(super) fn since(epoch: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(epoch)).unwrap_or_default()
}

/// How many servers there are at the start.
fn stock(config: &Config, facility: &str, plan: &str) -> u32 {
    if let Some(given) = config.capacity.iter().rev().find(|given| given.fits(facility, plan)) {
        return given.servers;
    }
    let draw = Draw::lasting(config.seed, key_of(&format!("{facility}/{plan}")));
    if draw.happens("scarce", config.scarce) { draw.below("servers", 10) } else { config.stock }
}

/// A UUID of version 4.
fn id(high: u64, low: u64) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

impl Device {
    /// Whether the vendor took it back after a failure.
    pub fn taken_back(&self) -> bool {
        self.ended.is_some() && self.fate.reclaimed.is_some()
    }
}
