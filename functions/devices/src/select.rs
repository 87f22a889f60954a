//! What would be tried, in which order, and why everything else would not.
//!
//! A combination of operating system, plan and facility is possible if the system can be installed on
//! the plan, the facility has the plan, and the facility has bare metal at all.
//! Possible ones are ordered: what is not held back by failures first, then by price, by how much is
//! free, by the number of recent failures, and by their names, so the order is always the same.

mod impossible;
mod rule;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::impossible::{Impossible, Obstacle, ObstacleKind, impossible};
use crate::{
    catalog::{ByPair, Capacity, Catalog, Facility, LeftOut, Level, OperatingSystem, Plan, Price, Reason, some_of},
    failures::{Failures, Remembered},
    request::Request,
};

/// Most candidates that a selection lists. There can be hundreds of thousands, and a device tries far
/// fewer.
pub const MOST_CANDIDATES: usize = 1000;

/// Something that can be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceCandidate)]
pub struct Candidate {
    /// The operating system, by its slug.
    pub os: String,
    /// The plan, by its slug.
    pub plan: String,
    /// The facility, by its code.
    pub facility: String,
    /// The facility's metro, by its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metro: Option<String>,
    /// US dollars an hour.
    #[schema(value_type = f64)]
    pub price: Price,
    /// How much is free.
    pub level: Level,
    /// Failures of the plan in the facility that are remembered.
    pub recent_failures: u32,
    /// Until then it is tried only after all others, because of these failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub held_until: Option<Timestamp>,
}

/// What would be tried, and what would not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The first ones, up to [`MOST_CANDIDATES`], in order.
    pub candidates: Vec<Candidate>,
    /// How many there are altogether.
    pub total: usize,
    /// What would not be tried, each with the reason.
    pub left_out: Vec<LeftOut>,
}

/// Why a plan in a facility is not tried again for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotAgain {
    /// The vendor had none left.
    OutOfCapacity,
    /// The vendor refused the plan or the facility.
    Refused,
}

/// What was tried for a device already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tried {
    failed: ByPair<BTreeSet<String>>,
    pairs: ByPair<NotAgain>,
}

impl Tried {
    /// This very combination failed to come up. Another operating system may still do.
    pub fn failed(&mut self, os: &str, plan: &str, facility: &str) {
        self.failed.entry(plan, facility).insert(os.to_owned());
    }

    /// The plan cannot be had in this facility, with whatever operating system.
    pub fn pair(&mut self, plan: &str, facility: &str, why: NotAgain) {
        self.pairs.insert(plan, facility, why);
    }
}

/// A plan in a facility, and the operating systems that can be installed on it.
struct Pair<'a> {
    plan: &'a Plan,
    facility: &'a Facility,
    systems: &'a [&'a OperatingSystem],
    level: Level,
    remembered: Option<&'a Remembered>,
    held: bool,
}

impl<'a> Pair<'a> {
    /// What the order is by. The operating systems of a pair follow, by name.
    fn key(&self) -> (bool, Price, u8, u32, &'a str, &'a str) {
        let failures = self.remembered.map_or(0, |it| it.count);
        (self.held, self.plan.price, self.level.rank(), failures, &self.plan.slug, &self.facility.code)
    }

    fn candidate(&self, os: &OperatingSystem) -> Candidate {
        Candidate {
            os: os.slug.clone(),
            plan: self.plan.slug.clone(),
            facility: self.facility.code.clone(),
            metro: self.facility.metro.as_ref().map(|it| it.code.clone()),
            price: self.plan.price,
            level: self.level,
            recent_failures: self.remembered.map_or(0, |it| it.count),
            held_until: self.remembered.filter(|_| self.held).map(|it| it.held_until),
        }
    }
}

/// What would be tried at `now` for `request`, of which `tried` was tried already.
pub fn select(
    request: &Request,
    catalog: &Catalog,
    capacity: &Capacity,
    failures: &Failures,
    tried: &Tried,
    now: Timestamp,
) -> Selection {
    let mut left_out = catalog.unusable.to_vec();
    let systems = kept(&catalog.operating_systems, &mut left_out, |os| {
        rule::os(&request.os, os).map(|(reason, words)| LeftOut::os(&os.slug, reason, words))
    });
    let plans = kept(&catalog.plans, &mut left_out, |plan| {
        rule::plan(&request.plan, plan).map(|(reason, words)| LeftOut::plan(&plan.slug, reason, words))
    });
    let facilities = kept(&catalog.facilities, &mut left_out, |facility| {
        rule::facility(&request.facility, facility)
            .map(|(reason, words)| LeftOut::facility(&facility.code, reason, words))
    });
    left_out.extend(rule::unknown_places(&request.facility, catalog));

    let runs = installable(&systems, &plans, &mut left_out);
    let (mut pairs, mut used) = (Vec::new(), BTreeSet::new());
    for plan in &plans {
        let systems = &runs[plan.slug.as_str()];
        if systems.is_empty() {
            continue;
        }
        for facility in having(plan, &facilities, &mut left_out) {
            used.insert(facility.code.as_str());
            let level = capacity.level(&plan.slug, &facility.code);
            if let Some((reason, words)) = pair_misfit(plan, facility, level, tried) {
                left_out.push(LeftOut::pair(&plan.slug, &facility.code, reason, words));
                continue;
            }
            let remembered = failures.get(&plan.slug, &facility.code).filter(|it| !it.forgotten(now));
            let held = remembered.is_some_and(|it| it.held(now));
            pairs.push(Pair { plan, facility, systems, level, remembered, held });
        }
    }
    for facility in facilities.iter().filter(|it| !used.contains(it.code.as_str())) {
        left_out.push(LeftOut::facility(&facility.code, Reason::NotAvailable, "it has none of the plans that fit"));
    }
    pairs.sort_by(|one, other| one.key().cmp(&other.key()));
    let (candidates, total) = combinations(&pairs, tried, &mut left_out);
    Selection { candidates, total, left_out }
}

/// The first candidates of `pairs`, and how many there are.
fn combinations(pairs: &[Pair<'_>], tried: &Tried, left_out: &mut Vec<LeftOut>) -> (Vec<Candidate>, usize) {
    let (mut candidates, mut total) = (Vec::new(), 0);
    for pair in pairs {
        let failed = tried.failed.get(&pair.plan.slug, &pair.facility.code);
        for os in pair.systems {
            if failed.is_some_and(|failed| failed.contains(&os.slug)) {
                let (plan, facility) = (&pair.plan.slug, &pair.facility.code);
                let words = "tried for this device, and it did not come up";
                left_out.push(LeftOut::combination(&os.slug, plan, facility, Reason::Failed, words));
                continue;
            }
            total += 1;
            if candidates.len() < MOST_CANDIDATES {
                candidates.push(pair.candidate(os));
            }
        }
    }
    (candidates, total)
}

/// Those that `misfit` has nothing against.
fn kept<'a, T>(all: &'a [T], left_out: &mut Vec<LeftOut>, misfit: impl Fn(&T) -> Option<LeftOut>) -> Vec<&'a T> {
    let mut keep = Vec::with_capacity(all.len());
    for one in all {
        match misfit(one) {
            Some(reason) => left_out.push(reason),
            None => keep.push(one),
        }
    }
    keep
}

/// The operating systems of each plan, by the plan's slug.
///
/// Which ones cannot be installed is said once for a plan: there can be ten thousand such pairs.
fn installable<'a>(
    systems: &[&'a OperatingSystem],
    plans: &[&'a Plan],
    left_out: &mut Vec<LeftOut>,
) -> BTreeMap<&'a str, Vec<&'a OperatingSystem>> {
    let mut used = BTreeSet::new();
    let mut runs = BTreeMap::new();
    for plan in plans {
        let (on_it, not): (Vec<_>, Vec<_>) = systems.iter().copied().partition(|os| rule::installs(os, plan));
        if on_it.is_empty() {
            let words = "none of the operating systems that fit can be installed on it";
            left_out.push(LeftOut::plan(&plan.slug, Reason::NotInstallable, words));
        } else if !not.is_empty() {
            let words = format!("{} cannot be installed on it", some_of(not.iter().map(|os| os.slug.as_str())));
            left_out.push(LeftOut::plan(&plan.slug, Reason::NotInstallable, words));
        }
        used.extend(on_it.iter().map(|os| os.slug.as_str()));
        runs.insert(plan.slug.as_str(), on_it);
    }
    for os in systems.iter().filter(|os| !used.contains(os.slug.as_str())) {
        let words = "it can be installed on none of the plans that fit";
        left_out.push(LeftOut::os(&os.slug, Reason::NotInstallable, words));
    }
    runs
}

/// Those of the facilities that have the plan. Which ones do not is said once.
fn having<'a>(plan: &Plan, facilities: &[&'a Facility], left_out: &mut Vec<LeftOut>) -> Vec<&'a Facility> {
    let (have, not): (Vec<_>, Vec<_>) = facilities.iter().copied().partition(|it| rule::available(plan, it));
    if have.is_empty() {
        let words = "none of the facilities that fit has it";
        left_out.push(LeftOut::plan(&plan.slug, Reason::NotAvailable, words));
    } else if !not.is_empty() {
        let words = format!("not in {}", some_of(not.iter().map(|it| it.code.as_str())));
        left_out.push(LeftOut::plan(&plan.slug, Reason::NotAvailable, words));
    }
    have
}

fn pair_misfit(plan: &Plan, facility: &Facility, level: Level, tried: &Tried) -> Option<(Reason, &'static str)> {
    match tried.pairs.get(&plan.slug, &facility.code) {
        Some(NotAgain::OutOfCapacity) => {
            Some((Reason::OutOfCapacity, "tried for this device, and it was out of capacity"))
        }
        Some(NotAgain::Refused) => Some((Reason::Refused, "tried for this device, and the vendor refused it")),
        None if level == Level::Unavailable => Some((Reason::CapacityUnavailable, "capacity unavailable")),
        None => None,
    }
}
