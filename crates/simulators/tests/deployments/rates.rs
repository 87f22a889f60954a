//! Faults by their rates: pure functions of the seed, of what is asked, of the slot and of how often
//! the same was asked in it.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use serde_json::{Value, json};
use simulators::deployments::{Config, Fault, SLOT, Simulator};

use crate::{get, scale, seconds, started};

fn config(rates: &Value) -> Config {
    let mut config = json!(Config { count: 100, manual: true, hang_for: seconds(0), ..Config::default() });
    for (name, rate) in rates.as_object().unwrap() {
        config[name] = rate.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn all_ids(sim: &Simulator) -> Vec<String> {
    sim.deployments().into_iter().map(|deployment| deployment.id).collect()
}

/// How each of them answers: the status and the body, or nothing.
async fn statuses(sim: &Simulator, ids: &[String]) -> BTreeMap<String, Option<(u16, String)>> {
    let mut answers = BTreeMap::new();
    for id in ids {
        let answer = match get(sim, &format!("/status/{id}")).await {
            Ok(answer) => Some((answer.status().as_u16(), answer.text().await.unwrap())),
            Err(_) => None,
        };
        answers.insert(id.clone(), answer);
    }
    answers
}

#[tokio::test]
async fn each_rate_makes_its_own_fault_and_each_fault_has_a_way_to_happen() {
    let mut seen = BTreeSet::from([Fault::Well]);
    let whole = [
        ("status_error_rate", Fault::StatusError),
        ("status_cut_rate", Fault::StatusCut),
        ("status_hang_rate", Fault::StatusHang),
        ("discover_error_rate", Fault::DiscoverError),
        ("discover_cut_rate", Fault::DiscoverCut),
        ("discover_hang_rate", Fault::DiscoverHang),
        ("discover_garbage_rate", Fault::DiscoverGarbage),
        ("discover_empty_rate", Fault::DiscoverEmpty),
        ("discover_half_rate", Fault::DiscoverHalf),
        ("entry_missing_rate", Fault::EntryMissing),
        ("scale_drop_after_rate", Fault::ScaleDropAfter),
        ("scale_refuse_rate", Fault::ScaleRefuse),
        ("scale_error_rate", Fault::ScaleError),
        ("scale_error_after_rate", Fault::ScaleErrorAfter),
        ("scale_ignore_rate", Fault::ScaleIgnore),
        ("scale_late_rate", Fault::ScaleLate),
        ("scale_late_drop_rate", Fault::ScaleLateDrop),
        ("scale_cut_rate", Fault::ScaleCut),
        ("scale_hang_rate", Fault::ScaleHang),
        ("scale_hang_after_rate", Fault::ScaleHangAfter),
    ];
    for (rate, fault) in whole {
        let sim = started(config(&json!({ rate: 1.0, "count": 1 }))).await;
        _ = get(&sim, "/discover").await;
        _ = get(&sim, "/status/eu-1").await;
        _ = scale(&sim, "eu-1", 1).await;
        assert_eq!(sim.stats().faults, BTreeMap::from([(fault, 1)]), "{rate}");
        seen.insert(fault);
    }
    let rates = whole.map(|(rate, _)| rate);
    let known = json!(Config::default());
    let others = known.as_object().unwrap().keys().filter(|name| name.ends_with("_rate"));
    let others: Vec<_> = others.filter(|name| !rates.contains(&name.as_str())).collect();
    assert_eq!(others, ["status_bad_rate", "entry_bad_rate"]);

    let sim = started(config(&json!({ "status_bad_rate": 1.0, "entry_bad_rate": 1.0 }))).await;
    statuses(&sim, &all_ids(&sim)).await;
    get(&sim, "/discover").await.unwrap();
    let drawn = sim.stats().faults;
    assert_eq!(drawn.values().sum::<u64>(), 200);
    assert_eq!(drawn.len(), 8 + 6, "{drawn:?}");
    assert!(drawn.values().all(|times| (3..40).contains(times)), "{drawn:?}");
    seen.extend(drawn.into_keys());
    // These two only where they are named, in a script or as the kind of nonsense.
    let named = BTreeSet::from([Fault::StatusUnknown, Fault::EntryNan]);
    let all: BTreeSet<_> = Fault::value_variants().iter().copied().collect();
    assert_eq!(&all - &seen, named);
    for (kind, name, path) in [
        ("status_bad", "status_unknown", "/status/eu-1"),
        ("entry_bad", "entry_nan", "/discover"),
        ("status_bad", "status_text", "/status/eu-1"),
        ("entry_bad", "entry_twice", "/discover"),
    ] {
        let sim = started(config(&json!({ format!("{kind}_rate"): 1.0, kind: name, "count": 1 }))).await;
        _ = get(&sim, path).await;
        assert_eq!(json!(sim.stats().faults), json!({ name: 1 }));
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults_in_any_order_and_another_seed_others() {
    let rates = json!({ "status_error_rate": 0.3, "status_bad_rate": 0.3, "status_cut_rate": 0.1 });
    let (one, same) = (started(config(&rates)).await, started(config(&rates)).await);
    let ids = all_ids(&one);
    let answers = statuses(&one, &ids).await;
    let backwards: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(statuses(&same, &backwards).await, answers);
    assert_ne!(statuses(&same, &ids).await, answers, "asked again, it is decided again");
    one.advance(SLOT);
    same.advance(SLOT);
    let later = statuses(&one, &ids).await;
    assert_ne!(later, answers, "the next slot is another one");
    assert_eq!(statuses(&same, &ids).await, later, "how often it was asked in the last slot has no say");

    let mut other = config(&rates);
    other.seed = 5;
    let other = started(other).await;
    let faults = |sim: &Simulator| sim.stats().faults;
    statuses(&other, &ids).await;
    statuses(&other, &ids).await;
    assert_ne!(faults(&other), faults(&one));
}

#[tokio::test]
async fn lists_and_scales_are_decided_anew_for_each_slot_and_each_time_too() {
    let rates = json!({ "scale_ignore_rate": 0.5, "entry_missing_rate": 0.5, "discover_error_rate": 0.3 });
    let (one, same) = (started(config(&rates)).await, started(config(&rates)).await);
    let look = async |sim: &Simulator| {
        let list = get(sim, "/discover").await.unwrap();
        let list = (list.status().as_u16(), list.text().await.unwrap());
        let before = sim.scales().len();
        for id in ["eu-1", "us-2", "ap-3", "sa-4", "eu-5", "us-6", "ap-7", "sa-8"] {
            scale(sim, id, 0).await.unwrap();
        }
        let done: Vec<_> = sim.scales()[before..].iter().map(|scale| scale.done).collect();
        (list, done)
    };
    let mut lists = BTreeSet::new();
    let mut scales = BTreeSet::new();
    for slot in 0..4_u32 {
        for sim in [&one, &same] {
            sim.set_time(SLOT * slot);
        }
        for _ in 0..2 {
            let (list, done) = look(&one).await;
            assert_eq!(look(&same).await, (list.clone(), done.clone()));
            lists.insert(list);
            scales.insert(done);
        }
    }
    assert!(lists.len() > 4 && scales.len() > 6, "{} lists, {} scales", lists.len(), scales.len());
    assert!(lists.iter().any(|(status, _)| *status >= 500) && lists.iter().any(|(status, _)| *status == 200));
}

#[tokio::test]
async fn a_fault_strikes_at_about_its_rate() {
    let rates = json!({ "status_error_rate": 0.2, "entry_missing_rate": 0.2, "scale_ignore_rate": 0.2 });
    let sim = started(config(&rates)).await;
    let ids = all_ids(&sim);
    for _ in 0..4 {
        statuses(&sim, &ids).await;
        get(&sim, "/discover").await.unwrap();
        for id in &ids {
            scale(&sim, id, 0).await.unwrap();
        }
        sim.advance(SLOT);
    }
    let faults = sim.stats().faults;
    for fault in [Fault::StatusError, Fault::EntryMissing, Fault::ScaleIgnore] {
        assert!((50..115).contains(&faults[&fault]), "of 400: {faults:?}");
    }
}
