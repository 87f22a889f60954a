//! What the vendor has: operating systems, plans and facilities, and how much of them is free.
//!
//! The vendor's lists come from several years and from look-alikes, so each entry is read for itself:
//! what cannot be used is kept with the reason, and spoils nothing else.

mod capacity;
mod left_out;
mod page;
mod parse;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub(crate) use self::left_out::some_of;
pub use self::{
    capacity::{Capacity, Level, capacity_question},
    left_out::{LeftOut, Reason},
    page::{Page, page},
    units::{Dollars, Memory, Price},
};

/// An operating system that can be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OperatingSystem {
    /// Its name in the vendor's API, such as `debian_12`.
    pub slug: String,
    /// Its name for people.
    pub name: String,
    /// The distribution, such as `debian`; none where the vendor does not say.
    pub distro: Option<String>,
    /// The version, such as `12`; none where the vendor does not say.
    pub version: Option<String>,
    /// Slugs of the plans that it can be installed on.
    pub provisionable_on: BTreeSet<String>,
}

/// A kind of server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ServerPlan)]
pub struct Plan {
    /// Its name in the vendor's API, such as `c3.small.x86`.
    pub slug: String,
    /// Its name for people.
    pub name: String,
    /// Its class. Older entries have none; their slug stands for it.
    pub class: Option<String>,
    /// Whether the vendor calls it an old one.
    pub legacy: bool,
    /// US dollars an hour.
    #[schema(value_type = f64)]
    pub price: Price,
    /// Main memory in GB (1 TB are 1024 GB); none where the vendor does not say.
    #[schema(value_type = Option<f64>)]
    pub memory_gb: Option<Memory>,
    /// Cores of all its processors together; none where the vendor does not say.
    pub cores: Option<u32>,
    /// Codes of the facilities that have it.
    pub available_in: BTreeSet<String>,
    /// Codes of the metros that have it.
    pub available_in_metros: BTreeSet<String>,
}

impl Plan {
    /// Its class, or its slug where it has none.
    pub fn class(&self) -> &str {
        self.class.as_deref().unwrap_or(&self.slug)
    }
}

/// A place with servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Facility {
    /// The vendor's id.
    pub id: Option<String>,
    /// Its name in the vendor's API, such as `ewr1`.
    pub code: String,
    /// Its name for people.
    pub name: String,
    /// What it has, such as `baremetal` and `layer_2`.
    pub features: BTreeSet<String>,
    /// Where it is; none where the vendor does not say.
    pub metro: Option<Metro>,
}

/// Where facilities are close to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Metro {
    /// Its name in the vendor's API, such as `ny`.
    pub code: String,
    /// Its name for people.
    pub name: String,
}

/// The vendor's three lists, each by slug or code, and what cannot be used of them. A clone shares them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// By slug.
    pub operating_systems: Arc<[OperatingSystem]>,
    /// By slug.
    pub plans: Arc<[Plan]>,
    /// By code.
    pub facilities: Arc<[Facility]>,
    /// Entries that cannot be used.
    pub unusable: Arc<[LeftOut]>,
}

impl Catalog {
    /// Reads the entries of the three lists, all pages of each. Of entries with the same slug or code
    /// the first one counts.
    pub fn new(operating_systems: &[Value], plans: &[Value], facilities: &[Value]) -> Self {
        let mut unusable = Vec::new();
        let operating_systems = parse::operating_systems(operating_systems, &mut unusable);
        let facilities = parse::facilities(facilities, &mut unusable);
        let plans = parse::plans(plans, &facilities, &mut unusable);
        unusable.sort_by(|one, other| one.text.cmp(&other.text));
        Self {
            operating_systems: operating_systems.into(),
            plans: plans.into(),
            facilities: facilities.into_iter().map(|parsed| parsed.facility).collect(),
            unusable: unusable.into(),
        }
    }

    /// The operating system with this slug.
    pub fn operating_system(&self, slug: &str) -> Option<&OperatingSystem> {
        self.operating_systems.iter().find(|it| it.slug == slug)
    }

    /// The plan with this slug.
    pub fn plan(&self, slug: &str) -> Option<&Plan> {
        self.plans.iter().find(|it| it.slug == slug)
    }

    /// The facility with this code.
    pub fn facility(&self, code: &str) -> Option<&Facility> {
        self.facilities.iter().find(|it| it.code == code)
    }
}

/// Something about each of some plans in each of some facilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByPair<T>(BTreeMap<String, BTreeMap<String, T>>);

impl<T> Default for ByPair<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> ByPair<T> {
    /// What there is about `plan` (slug) in `facility` (code).
    pub fn get(&self, plan: &str, facility: &str) -> Option<&T> {
        self.0.get(plan)?.get(facility)
    }

    /// Sets it, in the place of what was there.
    pub fn insert(&mut self, plan: impl Into<String>, facility: impl Into<String>, value: T) {
        self.0.entry(plan.into()).or_default().insert(facility.into(), value);
    }

    /// What there is about `plan` in `facility`, made first where there is nothing.
    pub fn entry(&mut self, plan: impl Into<String>, facility: impl Into<String>) -> &mut T
    where
        T: Default,
    {
        self.0.entry(plan.into()).or_default().entry(facility.into()).or_default()
    }

    /// All of it: plan, facility, value; by plan and facility.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &T)> {
        self.0.iter().flat_map(|(plan, of_plan)| {
            of_plan.iter().map(move |(facility, value)| (plan.as_str(), facility.as_str(), value))
        })
    }
}

impl<T> FromIterator<(String, String, T)> for ByPair<T> {
    fn from_iter<I: IntoIterator<Item = (String, String, T)>>(entries: I) -> Self {
        let mut all = Self::default();
        for (plan, facility, value) in entries {
            all.insert(plan, facility, value);
        }
        all
    }
}
