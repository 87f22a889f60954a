//! What would be tried on the fixed catalogue. The expected orders were worked out by hand from
//! `catalogue.json`.

use devices::{
    catalog::{Capacity, Level, Reason},
    failures::{Failures, after_failure},
    select::{Candidate, MOST_CANDIDATES, NotAgain, Selection, Tried, select},
};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::common::{catalogue, lines, nothing, now, request, selected, texts};

/// With what the vendor says of its capacity, what has failed, and what was tried.
fn select_with(body: &Value, capacity: &Value, failures: &Failures, tried: &Tried) -> Selection {
    select(&request(body), &catalogue(), &Capacity::parse(&json!({ "capacity": capacity })), failures, tried, now())
}

#[test]
fn an_empty_request_is_offered_everything_the_cheapest_first() {
    let expected = [
        "centos_7 baremetal_0 ams1 0.07 unknown",
        "centos_7 baremetal_0 ewr1 0.07 unknown",
        "centos_7 c1.small.x86 ewr1 0.4 unknown",
        "debian_12 a0.small.arm ams1 0.5 unknown",
        "debian_12 c3.small.x86 ams1 0.5 unknown",
        "ubuntu_24_04 c3.small.x86 ams1 0.5 unknown",
        "debian_12 c3.small.x86 ewr1 0.5 unknown",
        "ubuntu_24_04 c3.small.x86 ewr1 0.5 unknown",
        "debian_12 c3.small.x86 sv15 0.5 unknown",
        "ubuntu_24_04 c3.small.x86 sv15 0.5 unknown",
        "debian_12 c3.medium.x86 dc13 1.1 unknown",
        "ubuntu_24_04 c3.medium.x86 dc13 1.1 unknown",
        "debian_12 c3.medium.x86 ewr1 1.1 unknown",
        "ubuntu_24_04 c3.medium.x86 ewr1 1.1 unknown",
        "ubuntu_24_04 m3.large.x86 dc13 3.1 unknown",
    ];
    assert_eq!(lines(&selected(&nothing())), expected);
}

#[test]
fn everything_left_out_has_its_reason() {
    let selection = selected(&nothing());
    let mut expected = vec![
        "FreeBSD: no slug",
        "bandwidth: not a server",
        "c3.small.x86: listed twice, the first one counts",
        "flatcar_stable: no list of plans that it can be installed on",
        "g2.large.x86: no hourly price",
        "mystery: no slug",
        "Nowhere: no code",
        "operating system 8: not an object",
        "plan 14: not an object",
        "s3.xlarge.x86: not offered on demand",
        "storage_1: not a server",
        "lab1: has no bare metal",
        "custom_ipxe: it boots a script of yours: ask for it by its slug, with userdata that begins with #!ipxe",
        "windows_2022: it can be installed on none of the plans that fit",
        "x3.xlarge.x86: centos_7, ubuntu_24_04, windows_2022 cannot be installed on it",
        "x3.xlarge.x86: none of the facilities that fit has it",
        "a0.small.arm: centos_7, ubuntu_24_04, windows_2022 cannot be installed on it",
        "a0.small.arm: not in dc13, ewr1, sv15, ty11",
        "baremetal_0: debian_12, ubuntu_24_04, windows_2022 cannot be installed on it",
        "baremetal_0: not in dc13, sv15, ty11",
        "c1.small.x86: debian_12, ubuntu_24_04, windows_2022 cannot be installed on it",
        "c1.small.x86: not in ams1, dc13, sv15, ty11",
        "c3.medium.x86: centos_7, windows_2022 cannot be installed on it",
        "c3.medium.x86: not in ams1, sv15, ty11",
        "c3.small.x86: centos_7, windows_2022 cannot be installed on it",
        "c3.small.x86: not in dc13, ty11",
        "m3.large.x86: centos_7, debian_12, windows_2022 cannot be installed on it",
        "m3.large.x86: not in ams1, ewr1, sv15, ty11",
        "ty11: it has none of the plans that fit",
    ];
    let mut found = texts(&selection.left_out);
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_machine_that_boots_a_script_is_offered_to_those_who_ask_for_it() {
    for os in [json!({ "slug": "custom_ipxe" }), json!({ "distro": "Custom_iPXE" })] {
        let expected = ["custom_ipxe baremetal_0 ams1 0.07 unknown", "custom_ipxe baremetal_0 ewr1 0.07 unknown"];
        assert_eq!(lines(&selected(&json!({ "os": os }))), expected);
    }
    assert!(lines(&selected(&json!({ "os": { "version": "1" } }))).is_empty());
}

#[test]
fn capacity_orders_equal_prices_and_leaves_out_what_there_is_none_of() {
    let capacity = json!({
        "ams1": { "a0.small.arm": { "level": "critical" }, "c3.small.x86": { "level": "unavailable" } },
        "ewr1": { "c3.small.x86": { "level": "limited" }, "c3.medium.x86": { "level": "normal" } },
        "sv15": { "c3.small.x86": { "level": "normal" } },
        "dc13": { "c3.medium.x86": { "level": "plenty" } },
    });
    let body = json!({ "os": { "distro": "debian" } });
    let selection = select_with(&body, &capacity, &Failures::default(), &Tried::default());
    let expected = [
        "debian_12 c3.small.x86 sv15 0.5 normal",
        "debian_12 c3.small.x86 ewr1 0.5 limited",
        "debian_12 a0.small.arm ams1 0.5 critical",
        "debian_12 c3.medium.x86 ewr1 1.1 normal",
        "debian_12 c3.medium.x86 dc13 1.1 unknown",
    ];
    assert_eq!(lines(&selection), expected);
    let none = selection.left_out.iter().find(|it| it.reason == Reason::CapacityUnavailable).unwrap();
    assert_eq!(
        (none.os.as_deref(), none.plan.as_deref(), none.facility.as_deref()),
        (None, Some("c3.small.x86"), Some("ams1"))
    );
    assert_eq!(none.text, "c3.small.x86 in ams1: capacity unavailable");
}

#[test]
fn unknown_capacity_comes_before_critical_and_after_limited() {
    let capacity = json!({
        "ams1": { "c3.small.x86": { "level": "critical" } },
        "sv15": { "c3.small.x86": { "level": "limited" } },
    });
    let body = json!({ "os": { "distro": "debian" }, "plan": { "slug": "c3.small.x86" } });
    let selection = select_with(&body, &capacity, &Failures::default(), &Tried::default());
    let facilities: Vec<_> = selection.candidates.iter().map(|it| (it.facility.as_str(), it.level)).collect();
    assert_eq!(facilities, [("sv15", Level::Limited), ("ewr1", Level::Unknown), ("ams1", Level::Critical)]);
}

#[test]
fn what_is_held_back_comes_last_and_what_failed_lately_after_its_equals() {
    let mut failures = Failures::default();
    // Held: half an hour from ten minutes ago.
    failures.insert("c3.small.x86", "ams1", after_failure(None, now() - SignedDuration::from_mins(10), "stalled"));
    // No longer held, and remembered.
    failures.insert("c3.small.x86", "ewr1", after_failure(None, now() - SignedDuration::from_hours(2), "stalled"));
    // Forgotten: the hold was over more than a day ago.
    failures.insert("c3.small.x86", "sv15", after_failure(None, now() - SignedDuration::from_hours(25), "stalled"));
    let body = json!({ "os": { "distro": "ubuntu" } });
    let selection = select_with(&body, &json!({}), &failures, &Tried::default());
    let expected = [
        "ubuntu_24_04 c3.small.x86 sv15 0.5 unknown",
        "ubuntu_24_04 c3.small.x86 ewr1 0.5 unknown",
        "ubuntu_24_04 c3.medium.x86 dc13 1.1 unknown",
        "ubuntu_24_04 c3.medium.x86 ewr1 1.1 unknown",
        "ubuntu_24_04 m3.large.x86 dc13 3.1 unknown",
        "ubuntu_24_04 c3.small.x86 ams1 0.5 unknown",
    ];
    assert_eq!(lines(&selection), expected);
    let counts: Vec<_> = selection.candidates.iter().map(|it| it.recent_failures).collect();
    assert_eq!(counts, [0, 1, 0, 0, 0, 1]);
    let held: Vec<_> = selection.candidates.iter().map(|it| it.held_until).collect();
    let until = now() + SignedDuration::from_mins(20);
    assert_eq!(held, [None, None, None, None, None, Some(until)]);
}

#[test]
fn what_was_tried_for_the_device_is_not_tried_again() {
    let mut tried = Tried::default();
    tried.failed("debian_12", "c3.small.x86", "ams1");
    tried.pair("c3.small.x86", "ewr1", NotAgain::OutOfCapacity);
    tried.pair("c3.small.x86", "sv15", NotAgain::Refused);
    let body = json!({ "plan": { "class": "c3.small.x86" } });
    let selection = select_with(&body, &json!({}), &Failures::default(), &tried);
    assert_eq!(lines(&selection), ["ubuntu_24_04 c3.small.x86 ams1 0.5 unknown"]);
    let again: Vec<_> = texts(&selection.left_out).into_iter().filter(|it| it.contains("tried")).collect();
    let expected = [
        "c3.small.x86 in ewr1: tried for this device, and it was out of capacity",
        "c3.small.x86 in sv15: tried for this device, and the vendor refused it",
        "debian_12 on c3.small.x86 in ams1: tried for this device, and it did not come up",
    ];
    assert_eq!(again, expected);
}

#[test]
fn each_requirement_admits_what_it_says() {
    let plans = |body: Value| {
        let mut plans: Vec<_> = selected(&body).candidates.into_iter().map(|it| it.plan).collect();
        plans.dedup();
        plans
    };
    let facilities = |body: Value| {
        let mut codes: Vec<_> = selected(&body).candidates.into_iter().map(|it| it.facility).collect();
        codes.sort();
        codes.dedup();
        codes
    };
    let systems = |body: Value| {
        let mut systems: Vec<_> = selected(&body).candidates.into_iter().map(|it| it.os).collect();
        systems.sort();
        systems.dedup();
        systems
    };
    assert_eq!(systems(json!({ "os": { "slug": "Debian_12" } })), ["debian_12"]);
    assert_eq!(systems(json!({ "os": { "distro": "CentOS" } })), ["centos_7"]);
    assert_eq!(systems(json!({ "os": { "version": "12" } })), ["debian_12"]);
    assert_eq!(plans(json!({ "plan": { "slug": "c1.small.x86" } })), ["c1.small.x86"]);
    // Older entries have no class.
    assert_eq!(plans(json!({ "plan": { "class": "baremetal_0" } })), ["baremetal_0"]);
    assert_eq!(plans(json!({ "plan": { "max_price_per_hour": 0.4 } })), ["baremetal_0", "c1.small.x86"]);
    assert_eq!(plans(json!({ "plan": { "max_price_per_hour": 0.399_999 } })), ["baremetal_0"]);
    assert_eq!(plans(json!({ "plan": { "min_memory_gb": 64 } })), ["c3.medium.x86", "m3.large.x86"]);
    assert_eq!(plans(json!({ "plan": { "min_memory_gb": 1024 } })), ["m3.large.x86"]);
    assert_eq!(plans(json!({ "plan": { "min_memory_gb": 0.5, "max_price_per_hour": 0.5 } })).len(), 4);
    // Of baremetal_0 nobody knows how many cores it has.
    let four = ["c1.small.x86", "a0.small.arm", "c3.small.x86", "c3.medium.x86", "m3.large.x86"];
    assert_eq!(plans(json!({ "plan": { "min_cores": 4 } })), four);
    assert_eq!(plans(json!({ "plan": { "min_cores": 64 } })), ["m3.large.x86"]);
    assert_eq!(facilities(json!({ "facility": { "codes": ["EWR1"] } })), ["ewr1"]);
    assert_eq!(facilities(json!({ "facility": { "codes": ["sv15"], "metros": ["am"] } })), ["ams1", "sv15"]);
    assert_eq!(facilities(json!({ "facility": { "features": ["layer_2"] } })), ["dc13", "ewr1"]);
    assert_eq!(facilities(json!({ "facility": { "features": ["layer_2", "storage"] } })), ["ewr1"]);
    assert_eq!(facilities(json!({ "facility": { "features": ["baremetal"] } })), ["ams1", "dc13", "ewr1", "sv15"]);
}

#[test]
fn what_a_request_does_not_want_is_told_in_words() {
    let body = json!({
        "os": { "distro": "debian", "version": "12" },
        "plan": { "max_price_per_hour": 2, "min_memory_gb": 32, "min_cores": 16 },
        "facility": { "codes": ["ewr1", "ewr9", "ams1"], "metros": ["xx"], "features": ["layer_2"] },
    });
    let selection = selected(&body);
    assert_eq!(lines(&selection), ["debian_12 c3.medium.x86 ewr1 1.1 unknown"]);
    let found: Vec<_> = selection.left_out.iter().map(|it| (it.reason, it.text.as_str())).collect();
    for expected in [
        (Reason::NotAskedFor, "centos_7: its distro is centos, and debian was asked for"),
        (Reason::TooExpensive, "m3.large.x86: costs 3.1 USD an hour, and 2 was asked for at most"),
        (Reason::TooSmall, "a0.small.arm: has 0.5 GB of memory, and 32 were asked for"),
        (Reason::TooSmall, "c3.small.x86: has 8 cores, and 16 were asked for"),
        (Reason::NotAskedFor, "dc13: another facility was asked for"),
        (Reason::FeatureMissing, "ams1: does not have the feature layer_2"),
        (Reason::Unknown, "ewr9: there is no such facility"),
        (Reason::Unknown, "metro xx: there is no facility in it"),
    ] {
        assert!(found.contains(&expected), "{expected:?} is not in {found:#?}");
    }
    let unknown = selected(&json!({ "plan": { "min_cores": 1 } }));
    assert!(texts(&unknown.left_out).contains(&"baremetal_0: the vendor does not say how many cores it has"));
    let by_slug = selected(&json!({ "plan": { "slug": "c1.small.x86" } }));
    assert!(texts(&by_slug.left_out).contains(&"baremetal_0: c1.small.x86 was asked for"));
}

#[test]
fn a_candidate_is_read_from_what_is_stored() {
    let selection = selected(&nothing());
    let stored = serde_json::to_value(&selection.candidates).unwrap();
    let first = json!({
        "os": "centos_7", "plan": "baremetal_0", "facility": "ams1", "metro": "am", "price": 0.07, "level": "unknown",
        "recent_failures": 0,
    });
    assert_eq!(stored[0], first);
    assert_eq!(serde_json::from_value::<Vec<Candidate>>(stored).unwrap(), selection.candidates);
}

#[test]
fn a_huge_catalogue_makes_a_short_answer() {
    let names = |letter: char, count: usize| (0..count).map(move |it| format!("{letter}{it:03}"));
    let systems: Vec<_> = names('o', 100)
        .map(|it| json!({ "slug": it, "provisionable_on": names('p', 100).collect::<Vec<_>>() }))
        .collect();
    let plans: Vec<_> = names('p', 100)
        .map(|it| {
            let places: Vec<_> = names('f', 50).collect();
            json!({ "slug": it, "line": "baremetal", "pricing": { "hour": 1 }, "available_in": places })
        })
        .collect();
    let facilities: Vec<_> = names('f', 50).map(|it| json!({ "code": it, "features": ["baremetal"] })).collect();
    let huge = devices::catalog::Catalog::new(&systems, &plans, &facilities);
    let mut capacity = Capacity::default();
    let pick = |tried: &Tried, capacity: &Capacity| {
        let began = std::time::Instant::now();
        let selection = select(&request(&nothing()), &huge, capacity, &Failures::default(), tried, now());
        println!("{:?} for {} candidates", began.elapsed(), selection.total);
        selection
    };
    let mut tried = Tried::default();
    tried.failed("o000", "p000", "f000");
    let selection = pick(&tried, &capacity);
    assert_eq!((selection.candidates.len(), selection.total), (MOST_CANDIDATES, 499_999));
    assert_eq!((selection.candidates[0].os.as_str(), selection.left_out.len()), ("o001", 1));
    for plan in names('p', 100) {
        for facility in names('f', 50) {
            capacity.set(&plan, &facility, Level::Unavailable);
        }
    }
    let selection = pick(&tried, &capacity);
    assert_eq!((selection.total, selection.left_out.len()), (0, 5000));
}
