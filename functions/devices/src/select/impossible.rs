//! Which requirement leaves nothing, where a request admits nothing at all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rule::{self, among, same};
use crate::{
    catalog::{Catalog, Facility, OperatingSystem, Plan, some_of},
    request::{FacilityWanted, Request},
};

/// Most alternatives that are named.
const MOST_ALTERNATIVES: usize = 5;

/// Why nothing can be had, whatever is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible {
    /// At least one. Where leaving out one requirement helps, all of those of which this is true;
    /// otherwise the first one after which nothing is left, and all that nothing has.
    pub obstacles: Vec<Obstacle>,
}

/// A requirement that leaves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The JSON pointer of the requirement; empty where the catalogue itself offers nothing.
    pub pointer: &'static str,
    /// What was required.
    pub value: String,
    /// In what way it leaves nothing.
    pub kind: ObstacleKind,
    /// What there is instead, the nearest first.
    pub instead: Vec<String>,
    /// All of this in words.
    pub detail: String,
}

/// In what way a requirement leaves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObstacleKind {
    /// Nothing in the catalogue has it: a mistyped name, or a number that no plan reaches.
    Nowhere,
    /// There is such a thing, and nothing can be had with it at all.
    Never,
    /// It can be had, but not with the other requirements.
    NotTogether,
}

/// Why nothing is possible for `request`, whatever is free, has failed or was tried; none where
/// something is possible.
pub fn impossible(request: &Request, catalog: &Catalog) -> Option<Impossible> {
    if !Possible::of(request, catalog).is_empty() {
        return None;
    }
    let requirements = requirements(request);
    let only = |some: &mut dyn Iterator<Item = &Requirement>| {
        let mut of_them = Request::default();
        some.for_each(|requirement| requirement.add(request, &mut of_them));
        Possible::of(&of_them, catalog)
    };
    let everything = only(&mut std::iter::empty());
    if everything.is_empty() {
        return Some(Impossible { obstacles: vec![nothing_at_all()] });
    }
    let judged = |requirement: &Requirement, instead: &Possible<'_>| {
        let kind = if requirement.nowhere(request, catalog) {
            ObstacleKind::Nowhere
        } else if only(&mut std::iter::once(requirement)).is_empty() {
            ObstacleKind::Never
        } else {
            ObstacleKind::NotTogether
        };
        requirement.obstacle(kind, request, catalog, instead)
    };

    let mut obstacles = Vec::new();
    for requirement in &requirements {
        let without = only(&mut requirements.iter().filter(|it| *it != requirement));
        if !without.is_empty() {
            obstacles.push(judged(requirement, &without));
        }
    }
    if !obstacles.is_empty() {
        return Some(Impossible { obstacles });
    }

    let mut before = everything.clone();
    let mut empty = false;
    for (index, requirement) in requirements.iter().enumerate() {
        let with = only(&mut requirements[..=index].iter());
        if !empty && with.is_empty() {
            empty = true;
            obstacles.push(judged(requirement, &before));
        } else if requirement.nowhere(request, catalog) {
            obstacles.push(judged(requirement, &everything));
        }
        before = with;
    }
    Some(Impossible { obstacles })
}

fn nothing_at_all() -> Obstacle {
    Obstacle {
        pointer: "",
        value: String::new(),
        kind: ObstacleKind::Nowhere,
        instead: Vec::new(),
        detail: "the vendor's catalogue offers no combination at all; see the catalogue, or ask the vendor".to_owned(),
    }
}

/// What takes part in at least one possible combination.
#[derive(Debug, Clone)]
struct Possible<'a> {
    systems: Vec<&'a OperatingSystem>,
    plans: Vec<&'a Plan>,
    facilities: Vec<&'a Facility>,
}

impl<'a> Possible<'a> {
    fn of(request: &Request, catalog: &'a Catalog) -> Self {
        let mut systems: Vec<_> =
            catalog.operating_systems.iter().filter(|os| rule::os(&request.os, os).is_none()).collect();
        let mut facilities: Vec<_> =
            catalog.facilities.iter().filter(|it| rule::facility(&request.facility, it).is_none()).collect();
        let mut plans: Vec<_> = catalog.plans.iter().filter(|plan| rule::plan(&request.plan, plan).is_none()).collect();
        plans.retain(|plan| {
            systems.iter().any(|os| rule::installs(os, plan)) && facilities.iter().any(|it| rule::available(plan, it))
        });
        systems.retain(|os| plans.iter().any(|plan| rule::installs(os, plan)));
        facilities.retain(|it| plans.iter().any(|plan| rule::available(plan, it)));
        Self { systems, plans, facilities }
    }

    fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }
}

/// One requirement of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    OsSlug,
    OsDistro,
    OsVersion,
    PlanSlug,
    PlanClass,
    MaxPrice,
    MinMemory,
    MinCores,
    /// Codes and metros are one: each of them admits more.
    Place,
    Feature(String),
}

/// All that a request requires, in the order in which it is told.
fn requirements(request: &Request) -> Vec<Requirement> {
    let Request { os, plan, facility, .. } = request;
    let single = [
        (os.slug.is_some(), Requirement::OsSlug),
        (os.distro.is_some(), Requirement::OsDistro),
        (os.version.is_some(), Requirement::OsVersion),
        (plan.slug.is_some(), Requirement::PlanSlug),
        (plan.class.is_some(), Requirement::PlanClass),
        (plan.max_price_per_hour.is_some(), Requirement::MaxPrice),
        (plan.min_memory_gb.is_some(), Requirement::MinMemory),
        (plan.min_cores.is_some(), Requirement::MinCores),
        (!facility.codes.is_empty() || !facility.metros.is_empty(), Requirement::Place),
    ];
    let single = single.into_iter().filter(|(given, _)| *given).map(|(_, requirement)| requirement);
    single.chain(facility.features.iter().cloned().map(Requirement::Feature)).collect()
}

impl Requirement {
    /// Adds it to `to` as it is in `from`.
    fn add(&self, from: &Request, to: &mut Request) {
        match self {
            Self::OsSlug => to.os.slug.clone_from(&from.os.slug),
            Self::OsDistro => to.os.distro.clone_from(&from.os.distro),
            Self::OsVersion => to.os.version.clone_from(&from.os.version),
            Self::PlanSlug => to.plan.slug.clone_from(&from.plan.slug),
            Self::PlanClass => to.plan.class.clone_from(&from.plan.class),
            Self::MaxPrice => to.plan.max_price_per_hour = from.plan.max_price_per_hour,
            Self::MinMemory => to.plan.min_memory_gb = from.plan.min_memory_gb,
            Self::MinCores => to.plan.min_cores = from.plan.min_cores,
            Self::Place => {
                to.facility.codes.clone_from(&from.facility.codes);
                to.facility.metros.clone_from(&from.facility.metros);
            }
            Self::Feature(name) => {
                to.facility.features.insert(name.clone());
            }
        }
    }

    fn pointer(&self, facility: &FacilityWanted) -> &'static str {
        match self {
            Self::OsSlug => "/os/slug",
            Self::OsDistro => "/os/distro",
            Self::OsVersion => "/os/version",
            Self::PlanSlug => "/plan/slug",
            Self::PlanClass => "/plan/class",
            Self::MaxPrice => "/plan/max_price_per_hour",
            Self::MinMemory => "/plan/min_memory_gb",
            Self::MinCores => "/plan/min_cores",
            Self::Place if facility.metros.is_empty() => "/facility/codes",
            Self::Place if facility.codes.is_empty() => "/facility/metros",
            Self::Place => "/facility",
            Self::Feature(_) => "/facility/features",
        }
    }

    fn value(&self, request: &Request) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        match self {
            Self::OsSlug => text(&request.os.slug),
            Self::OsDistro => text(&request.os.distro),
            Self::OsVersion => text(&request.os.version),
            Self::PlanSlug => text(&request.plan.slug),
            Self::PlanClass => text(&request.plan.class),
            Self::MaxPrice => request.plan.max_price_per_hour.map(|it| it.to_string()).unwrap_or_default(),
            Self::MinMemory => request.plan.min_memory_gb.map(|it| it.to_string()).unwrap_or_default(),
            Self::MinCores => request.plan.min_cores.map(|it| it.to_string()).unwrap_or_default(),
            Self::Place => {
                let places: Vec<_> = request.facility.codes.iter().chain(&request.facility.metros).collect();
                some_of(places.iter().map(|it| it.as_str()))
            }
            Self::Feature(name) => name.clone(),
        }
    }

    /// What has it, in words.
    fn thing(&self) -> &'static str {
        match self {
            Self::OsSlug => "operating system with the slug",
            Self::OsDistro => "operating system of the distribution",
            Self::OsVersion => "operating system of the version",
            Self::PlanSlug => "plan with the slug",
            Self::PlanClass => "plan of the class",
            Self::MaxPrice => "plan for a price in USD an hour of at most",
            Self::MinMemory => "plan with memory in GB of at least",
            Self::MinCores => "plan with cores of at least",
            Self::Place => "facility in",
            Self::Feature(_) => "facility with the feature",
        }
    }

    /// Whether nothing in the catalogue has it.
    fn nowhere(&self, request: &Request, catalog: &Catalog) -> bool {
        let mut alone = Request::default();
        self.add(request, &mut alone);
        match self {
            Self::OsSlug | Self::OsDistro | Self::OsVersion => {
                catalog.operating_systems.iter().all(|os| rule::os(&alone.os, os).is_some())
            }
            Self::PlanSlug | Self::PlanClass | Self::MaxPrice | Self::MinMemory | Self::MinCores => {
                catalog.plans.iter().all(|plan| rule::plan(&alone.plan, plan).is_some())
            }
            // Not by the rule, for which a facility without bare metal is none.
            Self::Place => !catalog.facilities.iter().any(|it| {
                let metro = it.metro.as_ref().is_some_and(|metro| among(&request.facility.metros, &metro.code));
                metro || among(&request.facility.codes, &it.code)
            }),
            Self::Feature(name) => !catalog.facilities.iter().any(|it| among(&it.features, name)),
        }
    }

    /// What `possible` has in its place, the nearest first.
    fn instead(&self, request: &Request, possible: &Possible<'_>) -> Vec<String> {
        let Possible { systems, plans, facilities } = possible;
        let names: BTreeSet<String> = match self {
            Self::OsSlug => systems.iter().map(|os| os.slug.clone()).collect(),
            Self::OsDistro => systems.iter().filter_map(|os| os.distro.clone()).collect(),
            Self::OsVersion => systems.iter().filter_map(|os| os.version.clone()).collect(),
            Self::PlanSlug => plans.iter().map(|plan| plan.slug.clone()).collect(),
            Self::PlanClass => plans.iter().map(|plan| plan.class().to_owned()).collect(),
            Self::MaxPrice => plans.iter().map(|plan| plan.price).min().map(|it| it.to_string()).into_iter().collect(),
            Self::MinMemory => {
                plans.iter().filter_map(|plan| plan.memory_gb).max().map(|it| it.to_string()).into_iter().collect()
            }
            Self::MinCores => {
                plans.iter().filter_map(|plan| plan.cores).max().map(|it| it.to_string()).into_iter().collect()
            }
            Self::Place if request.facility.codes.is_empty() => {
                facilities.iter().filter_map(|it| it.metro.as_ref()).map(|metro| metro.code.clone()).collect()
            }
            Self::Place => facilities.iter().map(|it| it.code.clone()).collect(),
            Self::Feature(_) => {
                facilities.iter().flat_map(|it| &it.features).filter(|it| *it != rule::BAREMETAL).cloned().collect()
            }
        };
        let wanted = match self {
            Self::Place => {
                request.facility.codes.first().or_else(|| request.facility.metros.first()).cloned().unwrap_or_default()
            }
            _ => self.value(request),
        };
        // A set, so names that are equally near stay in the order of the alphabet.
        let mut names: Vec<_> = names.into_iter().filter(|name| !same(name, &wanted)).collect();
        names.sort_by_cached_key(|name| distance(name, &wanted));
        names.truncate(MOST_ALTERNATIVES);
        names
    }

    fn obstacle(&self, kind: ObstacleKind, request: &Request, catalog: &Catalog, possible: &Possible<'_>) -> Obstacle {
        let (value, instead, thing) = (self.value(request), self.instead(request, possible), self.thing());
        let mut detail = match kind {
            ObstacleKind::Nowhere => format!("there is no {thing} `{value}`"),
            ObstacleKind::Never => format!("nothing can be had with any {thing} `{value}`"),
            ObstacleKind::NotTogether => format!("the rest of the request leaves no {thing} `{value}`"),
        };
        if let Some(text) = self.unusable(&value, catalog) {
            detail = format!("{detail} ({text})");
        }
        match self {
            _ if instead.is_empty() => detail.push_str("; leave it out"),
            Self::MaxPrice => detail = format!("{detail}; the lowest price that is left is {}", instead.join(", ")),
            Self::MinMemory | Self::MinCores => {
                detail = format!("{detail}; the most that is left is {}", instead.join(", "));
            }
            _ if kind == ObstacleKind::Nowhere && distance(&instead[0], &value) <= value.chars().count() / 3 => {
                detail = format!("{detail}; did you mean `{}`? There are {}", instead[0], instead.join(", "));
            }
            _ => detail = format!("{detail}; leave it out or take one of {}", instead.join(", ")),
        }
        Obstacle { pointer: self.pointer(&request.facility), value, kind, instead, detail }
    }

    /// Why the vendor's entry of this name cannot be used, where there is one.
    fn unusable<'a>(&self, name: &str, catalog: &'a Catalog) -> Option<&'a str> {
        let entry = catalog.unusable.iter().find(|it| {
            let subject = match self {
                Self::OsSlug => &it.os,
                Self::PlanSlug => &it.plan,
                Self::Place => &it.facility,
                _ => &None,
            };
            subject.as_deref().is_some_and(|it| same(it, name))
        })?;
        Some(&entry.text)
    }
}

/// How many characters are to be added, taken away or changed (Levenshtein), without regard to case.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().map(|it| it.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, from) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, to) in other.iter().enumerate() {
            let change = diagonal + usize::from(from.to_ascii_lowercase() != *to);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
