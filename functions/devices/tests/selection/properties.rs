//! Any catalogue, request, capacity and past, against a checker that knows nothing but the rule.

use std::collections::{BTreeMap, BTreeSet};

use devices::{
    catalog::{Capacity, Catalog, LeftOut, Level, Memory, Price},
    failures::{Failures, Remembered},
    request::Request,
    select::{Candidate, NotAgain, Selection, Tried, impossible, select},
};
use jiff::SignedDuration;
use proptest::{collection::vec, option, prelude::*, sample::select as one_of};
use serde_json::{Value, json};

use crate::common::now;

const SYSTEMS: [&str; 4] = ["os-a", "os-b", "os-c", "custom_ipxe"];
const PLANS: [&str; 5] = ["plan-a", "plan-b", "plan-c", "plan-d", "plan-e"];
const FACILITIES: [&str; 4] = ["fac-a", "fac-b", "fac-c", "fac-d"];
const METROS: [&str; 2] = ["met-a", "met-b"];
const FEATURES: [&str; 3] = ["baremetal", "layer_2", "storage"];
const WORDS: [&str; 3] = ["x", "y", "z"];

/// One operating system, as the checker knows it.
#[derive(Debug, Clone)]
struct System {
    distro: Option<&'static str>,
    version: Option<&'static str>,
    plans: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
struct Server {
    class: Option<&'static str>,
    cents: u32,
    memory_gb: Option<u32>,
    cores: Option<u32>,
    facilities: BTreeSet<&'static str>,
    /// In which form the facilities are named.
    form: u8,
}

#[derive(Debug, Clone)]
struct Place {
    features: BTreeSet<&'static str>,
    metro: Option<&'static str>,
}

/// A catalogue, and all that is asked of it.
#[derive(Debug, Clone)]
struct World {
    systems: BTreeMap<&'static str, System>,
    plans: BTreeMap<&'static str, Server>,
    facilities: BTreeMap<&'static str, Place>,
    capacity: BTreeMap<(&'static str, &'static str), Level>,
    /// Failures in a row, and minutes from the end of the hold until now.
    failures: BTreeMap<(&'static str, &'static str), (u32, i64)>,
    pairs: BTreeSet<(&'static str, &'static str)>,
    failed: BTreeSet<Named>,
    request: Request,
}

/// Operating system, plan, facility.
type Named = (&'static str, &'static str, &'static str);

fn subset(of: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<&'static str>> {
    // Mostly full, or hardly anything would be possible.
    vec(prop::bool::weighted(0.7), of.len())
        .prop_map(|keep| of.iter().zip(keep).filter(|(_, keep)| *keep).map(|(name, _)| *name).collect())
}

fn some<T>(
    of: &'static [&'static str],
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = BTreeMap<&'static str, T>>
where
    T: Clone + std::fmt::Debug,
{
    (subset(of), vec(value, of.len())).prop_map(|(names, values)| names.into_iter().zip(values).collect())
}

fn pairs<T>(value: impl Strategy<Value = T>) -> impl Strategy<Value = BTreeMap<(&'static str, &'static str), T>>
where
    T: Clone + std::fmt::Debug,
{
    prop::collection::btree_map((one_of(&PLANS[..]), one_of(&FACILITIES[..])), value, 0..12)
}

fn request() -> impl Strategy<Value = Request> {
    // "none" is in no catalogue.
    let word = || option::weighted(0.2, one_of(&["x", "y", "Z", "none"][..]));
    let os = (word(), word(), option::weighted(0.2, one_of(&["os-a", "OS-B", "none"][..])));
    let plan = (
        word(),
        option::weighted(0.2, one_of(&["plan-a", "PLAN-B", "none"][..])),
        option::weighted(0.3, 0_u32..5),
        option::weighted(0.3, 1_u32..5),
        option::weighted(0.3, 1_u32..5),
    );
    let facility = (
        vec(one_of(&["fac-a", "FAC-B", "none"][..]), 0..2),
        vec(one_of(&["layer_2", "Storage", "baremetal", "none"][..]), 0..3),
        vec(one_of(&["met-a", "MET-B", "none"][..]), 0..2),
    );
    (os, plan, facility).prop_map(
        |((distro, version, os), (class, plan, cents, memory, cores), (codes, features, metros))| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let set = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
            let mut request = Request::default();
            request.os.distro = owned(distro);
            request.os.version = owned(version);
            request.os.slug = owned(os);
            request.plan.class = owned(class);
            request.plan.slug = owned(plan);
            request.plan.max_price_per_hour = cents.and_then(|it| Price::from_dollars(f64::from(it) / 100.0));
            request.plan.min_memory_gb = memory.and_then(|it| Memory::from_gb(it.into()));
            request.plan.min_cores = cores;
            request.facility.codes = set(codes);
            request.facility.features = set(features);
            request.facility.metros = set(metros);
            request
        },
    )
}

fn world() -> impl Strategy<Value = World> {
    let word = || option::of(one_of(&WORDS[..]));
    let system =
        (word(), word(), subset(&PLANS)).prop_map(|(distro, version, plans)| System { distro, version, plans });
    let number = || option::weighted(0.8, 1_u32..5);
    let server = (word(), 0_u32..4, number(), number(), subset(&FACILITIES), 0_u8..4);
    let server = server.prop_map(|(class, cents, memory_gb, cores, facilities, form)| Server {
        class,
        cents,
        memory_gb,
        cores,
        facilities,
        form,
    });
    let place = (subset(&FEATURES), option::of(one_of(&METROS[..])));
    let place = place.prop_map(|(features, metro)| Place { features, metro });
    let level = one_of(&[Level::Unavailable, Level::Critical, Level::Limited, Level::Normal, Level::Unknown][..]);
    // Still held, about to be forgotten, or anything.
    let failure = (1_u32..4, prop_oneof![-30_i64..3, 1438_i64..1443, -360_i64..2880]);
    let named = (one_of(&SYSTEMS[..]), one_of(&PLANS[..]), one_of(&FACILITIES[..]));
    let lists = (some(&SYSTEMS, system), some(&PLANS, server), some(&FACILITIES, place));
    let past = (pairs(failure), pairs(Just(())), prop::collection::btree_set(named, 0..8));
    (lists, pairs(level), past, request()).prop_map(
        |((systems, plans, facilities), capacity, (failures, pairs, failed), request)| World {
            systems,
            plans,
            facilities,
            capacity,
            failures,
            pairs: pairs.into_keys().collect(),
            failed,
            request,
        },
    )
}

impl World {
    /// The vendor's three lists.
    fn lists(&self) -> [Vec<Value>; 3] {
        let id = |code: &str| format!("id-of-{code}");
        let systems = self.systems.iter().map(|(slug, it)| {
            json!({ "slug": slug, "distro": it.distro, "version": it.version, "provisionable_on": it.plans })
        });
        let plans = self.plans.iter().map(|(slug, it)| {
            let form = |code: &&str| match it.form {
                0 => json!({ "href": format!("/facilities/{}", id(code)) }),
                1 => json!({ "code": code }),
                2 => json!({ "id": id(code), "code": code, "name": "a name" }),
                _ => json!({ "id": id(code) }),
            };
            let price = f64::from(it.cents) / 100.0;
            json!({
                "slug": slug, "class": it.class, "line": "baremetal",
                "pricing": if it.form == 0 { json!({ "hourly": price }) } else { json!({ "hour": price }) },
                "specs": {
                    "memory": { "total": it.memory_gb.map(|gb| format!("{gb}GB")) },
                    "cpus": it.cores.map(|cores| json!([{ "count": 1, "type": format!("{cores}-Core") }])),
                },
                "available_in": it.facilities.iter().map(form).collect::<Vec<_>>(),
            })
        });
        let facilities = self.facilities.iter().map(|(code, it)| {
            json!({
                "id": id(code), "code": code, "features": it.features,
                "metro": it.metro.map(|code| json!({ "code": code })),
            })
        });
        [systems.collect(), plans.collect(), facilities.collect()]
    }

    fn catalog(&self) -> Catalog {
        let [systems, plans, facilities] = self.lists();
        Catalog::new(&systems, &plans, &facilities)
    }

    fn select(&self, catalog: &Catalog, request: &Request) -> Selection {
        let mut capacity = Capacity::default();
        for ((plan, facility), level) in &self.capacity {
            capacity.set(plan, facility, *level);
        }
        let mut failures = Failures::default();
        for ((plan, facility), (count, minutes)) in &self.failures {
            let held_until = now() - SignedDuration::from_mins(*minutes);
            let it = Remembered { count: *count, last_at: now(), reason: "stalled".to_owned(), held_until };
            failures.insert(*plan, *facility, it);
        }
        let mut tried = Tried::default();
        for (plan, facility) in &self.pairs {
            tried.pair(plan, facility, NotAgain::OutOfCapacity);
        }
        for (os, plan, facility) in &self.failed {
            tried.failed(os, plan, facility);
        }
        select(request, catalog, &capacity, &failures, &tried, now())
    }

    /// Whether it is possible under the rule, and `request` wants it.
    fn possible(&self, (os, plan, facility): Named, request: &Request) -> bool {
        let (Some(system), Some(server), Some(place)) =
            (self.systems.get(os), self.plans.get(plan), self.facilities.get(facility))
        else {
            return false;
        };
        let rule =
            system.plans.contains(plan) && server.facilities.contains(facility) && place.features.contains("baremetal");
        let is = |wanted: &Option<String>, it: Option<&str>| match wanted {
            None => true,
            Some(wanted) => it.is_some_and(|it| it.to_lowercase() == wanted.to_lowercase()),
        };
        let listed = |wanted: &BTreeSet<String>, it: &str| wanted.iter().any(|wanted| wanted.to_lowercase() == it);
        let features = request.facility.features.iter().all(|it| place.features.contains(it.to_lowercase().as_str()));
        let (codes, metros) = (&request.facility.codes, &request.facility.metros);
        let is_meant = os != "custom_ipxe" || request.os.slug.is_some() || request.os.distro.is_some();
        rule && is_meant
            && is(&request.os.slug, Some(os))
            && is(&request.os.distro, system.distro)
            && is(&request.os.version, system.version)
            && is(&request.plan.slug, Some(plan))
            && is(&request.plan.class, Some(server.class.unwrap_or(plan)))
            && request.plan.max_price_per_hour.is_none_or(|it| u64::from(server.cents) * 10_000 <= it.micros())
            && request
                .plan
                .min_memory_gb
                .is_none_or(|it| server.memory_gb.is_some_and(|gb| u64::from(gb) * 1024 >= it.mb()))
            && request.plan.min_cores.is_none_or(|it| server.cores.is_some_and(|cores| cores >= it))
            && (codes.is_empty() && metros.is_empty()
                || listed(codes, facility)
                || place.metro.is_some_and(|metro| listed(metros, metro)))
            && features
    }

    fn all_possible(&self, request: &Request) -> BTreeSet<Named> {
        all().filter(|named| self.possible(*named, request)).collect()
    }

    /// Whether something other than the rule and the request is against it.
    fn hindered(&self, (os, plan, facility): Named) -> bool {
        self.capacity.get(&(plan, facility)) == Some(&Level::Unavailable)
            || self.pairs.contains(&(plan, facility))
            || self.failed.contains(&(os, plan, facility))
    }

    /// What the order is by.
    fn key(&self, (os, plan, facility): Named) -> (bool, u32, u8, u32, &str, &str, &str) {
        let (count, minutes) = self.failures.get(&(plan, facility)).copied().unwrap_or((0, 0));
        let remembered = if minutes <= 24 * 60 { count } else { 0 };
        let held = count > 0 && minutes < 0;
        let level = match self.capacity.get(&(plan, facility)) {
            Some(Level::Normal) => 1,
            Some(Level::Limited) => 2,
            Some(Level::Unknown) | None => 3,
            Some(Level::Critical) => 4,
            Some(Level::Unavailable) => unreachable!("it is not offered"),
        };
        (held, self.plans[plan].cents, level, remembered, plan, facility, os)
    }
}

fn all() -> impl Iterator<Item = Named> {
    SYSTEMS.iter().flat_map(|os| PLANS.iter().flat_map(move |plan| FACILITIES.iter().map(move |it| (*os, *plan, *it))))
}

fn named(candidate: &Candidate) -> Named {
    let (os, plan, facility) = (&candidate.os, &candidate.plan, &candidate.facility);
    all().find(|it| it.0 == os && it.1 == plan && it.2 == facility).unwrap()
}

/// Whether the reason is about this combination, or about a part of it.
fn covers(left_out: &LeftOut, (os, plan, facility): Named) -> bool {
    let about = |subject: &Option<String>, name: &str| subject.as_ref().is_none_or(|it| it == name);
    let something = left_out.os.is_some() || left_out.plan.is_some() || left_out.facility.is_some();
    something && about(&left_out.os, os) && about(&left_out.plan, plan) && about(&left_out.facility, facility)
}

/// The request without the requirement at `pointer`; of several features, without `value`.
fn without(request: &Request, pointer: &str, value: &str) -> Request {
    let mut less = request.clone();
    match pointer {
        "/os/slug" => less.os.slug = None,
        "/os/distro" => less.os.distro = None,
        "/os/version" => less.os.version = None,
        "/plan/slug" => less.plan.slug = None,
        "/plan/class" => less.plan.class = None,
        "/plan/max_price_per_hour" => less.plan.max_price_per_hour = None,
        "/plan/min_memory_gb" => less.plan.min_memory_gb = None,
        "/plan/min_cores" => less.plan.min_cores = None,
        "/facility" | "/facility/codes" | "/facility/metros" => {
            less.facility.codes.clear();
            less.facility.metros.clear();
        }
        "/facility/features" => assert!(less.facility.features.remove(value), "{value}"),
        other => panic!("no requirement is at {other:?}"),
    }
    less
}

/// Every requirement that is there, by its pointer and its value.
fn requirements(request: &Request) -> Vec<(&'static str, String)> {
    let given = [
        ("/os/slug", request.os.slug.is_some()),
        ("/os/distro", request.os.distro.is_some()),
        ("/os/version", request.os.version.is_some()),
        ("/plan/slug", request.plan.slug.is_some()),
        ("/plan/class", request.plan.class.is_some()),
        ("/plan/max_price_per_hour", request.plan.max_price_per_hour.is_some()),
        ("/plan/min_memory_gb", request.plan.min_memory_gb.is_some()),
        ("/plan/min_cores", request.plan.min_cores.is_some()),
        ("/facility", !request.facility.codes.is_empty() || !request.facility.metros.is_empty()),
    ];
    let given = given.into_iter().filter(|(_, given)| *given).map(|(pointer, _)| (pointer, String::new()));
    given.chain(request.facility.features.iter().map(|it| ("/facility/features", it.clone()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn offered_is_what_is_possible_and_not_hindered(world in world()) {
        let selection = world.select(&world.catalog(), &world.request);
        let offered: BTreeSet<_> = selection.candidates.iter().map(named).collect();
        prop_assert_eq!((offered.len(), selection.total), (selection.candidates.len(), selection.candidates.len()));
        let mut expected = world.all_possible(&world.request);
        expected.retain(|it| !world.hindered(*it));
        prop_assert_eq!(offered, expected);
    }

    #[test]
    fn nothing_is_left_out_without_a_reason(world in world()) {
        let selection = world.select(&world.catalog(), &world.request);
        let listed = |(os, plan, facility): &Named| {
            world.systems.contains_key(os) && world.plans.contains_key(plan) && world.facilities.contains_key(facility)
        };
        let possible = world.all_possible(&world.request);
        let offered: BTreeSet<_> = selection.candidates.iter().map(named).collect();
        for it in all().filter(listed).filter(|it| !offered.contains(it)) {
            let reasons: Vec<_> = selection.left_out.iter().filter(|left_out| covers(left_out, it)).collect();
            prop_assert!(!reasons.is_empty(), "{it:?} is missing from {:#?}", selection.left_out);
            if possible.contains(&it) {
                // What is told of a plan as a whole does not explain this.
                let exact = reasons.iter().any(|it| it.plan.is_some() && it.facility.is_some());
                prop_assert!(exact, "{it:?} is possible: {reasons:#?}");
            }
        }
        let most = SYSTEMS.len() + 3 * PLANS.len() + 2 * FACILITIES.len() + PLANS.len() * FACILITIES.len() + 8 + 4;
        prop_assert!(selection.left_out.len() <= most);
    }

    #[test]
    fn the_order_is_total(world in world()) {
        let selection = world.select(&world.catalog(), &world.request);
        let keys: Vec<_> = selection.candidates.iter().map(|it| world.key(named(it))).collect();
        prop_assert!(keys.windows(2).all(|two| two[0] < two[1]), "{keys:#?}");
        for (candidate, key) in selection.candidates.iter().zip(&keys) {
            prop_assert_eq!((candidate.held_until.is_some(), candidate.recent_failures), (key.0, key.3));
            prop_assert_eq!(candidate.metro.as_deref(), world.facilities[named(candidate).2].metro);
        }
    }

    #[test]
    fn the_order_of_the_vendors_lists_does_not_matter(
        (world, lists) in world().prop_flat_map(|world| {
            let shuffled = world.lists().map(|list| Just(list).prop_shuffle());
            (Just(world), shuffled)
        })
    ) {
        let [systems, plans, facilities] = lists;
        let shuffled = world.select(&Catalog::new(&systems, &plans, &facilities), &world.request);
        prop_assert_eq!(shuffled, world.select(&world.catalog(), &world.request));
    }

    #[test]
    fn impossible_names_what_to_leave_out(world in world()) {
        let catalog = world.catalog();
        let found = impossible(&world.request, &catalog);
        prop_assert_eq!(found.is_some(), world.all_possible(&world.request).is_empty());
        let Some(found) = found else { return Ok(()) };
        if world.all_possible(&Request::default()).is_empty() {
            prop_assert_eq!(found.obstacles.iter().map(|it| it.pointer).collect::<Vec<_>>(), [""]);
            return Ok(());
        }
        let mut helpful = requirements(&world.request);
        helpful.retain(|(pointer, value)| !world.all_possible(&without(&world.request, pointer, value)).is_empty());
        if helpful.is_empty() {
            prop_assert!(!found.obstacles.is_empty());
            return Ok(());
        }
        // As `requirements` has them: codes and metros are one, and only features need a value.
        let told: Vec<_> = found.obstacles.iter().map(|it| match it.pointer {
            "/facility/codes" | "/facility/metros" => ("/facility", String::new()),
            "/facility/features" => (it.pointer, it.value.clone()),
            pointer => (pointer, String::new()),
        }).collect();
        prop_assert_eq!(told, helpful);
        for obstacle in &found.obstacles {
            prop_assert!(obstacle.instead.len() <= 5 && !obstacle.detail.is_empty());
        }
    }

    #[test]
    fn what_there_is_instead_can_be_had(world in world()) {
        let Some(found) = impossible(&world.request, &world.catalog()) else { return Ok(()) };
        for obstacle in &found.obstacles {
            // Only where it alone is to blame does the alternative alone help.
            if obstacle.pointer.is_empty() || obstacle.pointer.starts_with("/facility") {
                continue;
            }
            let mut request = without(&world.request, obstacle.pointer, &obstacle.value);
            if world.all_possible(&request).is_empty() {
                continue;
            }
            for name in &obstacle.instead {
                let number: f64 = name.parse().unwrap_or_default();
                match obstacle.pointer {
                    "/os/slug" => request.os.slug = Some(name.clone()),
                    "/os/distro" => request.os.distro = Some(name.clone()),
                    "/os/version" => request.os.version = Some(name.clone()),
                    "/plan/slug" => request.plan.slug = Some(name.clone()),
                    "/plan/class" => request.plan.class = Some(name.clone()),
                    "/plan/max_price_per_hour" => request.plan.max_price_per_hour = Price::from_dollars(number),
                    "/plan/min_memory_gb" => request.plan.min_memory_gb = Memory::from_gb(number),
                    "/plan/min_cores" => request.plan.min_cores = Some(name.parse().unwrap()),
                    other => panic!("no requirement is at {other:?}"),
                }
                prop_assert!(!world.all_possible(&request).is_empty(), "{} instead of {}", name, obstacle.value);
            }
        }
    }
}
