//! What can be had, and how much of it there is.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};
use simulators::packet::{Catalog, Config, PROJECT};

use crate::{active, ask, create, delete, error, get, post, seconds, small, small_with, started, still, told};

fn entry<'a>(list: &'a [Value], field: &str, name: &str) -> &'a Value {
    list.iter().find(|entry| entry[field] == name).unwrap()
}

#[tokio::test]
async fn the_built_in_catalogue_is_like_the_real_one() {
    let Catalog { operating_systems, plans, facilities } = Catalog::builtin();
    assert_eq!((operating_systems.len(), plans.len(), facilities.len()), (21, 25, 13));
    let distros: HashSet<_> = operating_systems.iter().map(|system| system["distro"].as_str()).collect();
    assert!(distros.len() >= 8, "{distros:?}");
    let incomplete: Vec<_> = operating_systems.iter().filter(|it| it["provisionable_on"].is_null()).collect();
    assert_eq!(incomplete.len(), 1);
    let slugs = [
        "baremetal_0",
        "c1.small.x86",
        "t1.small.x86",
        "m1.xlarge.x86",
        "c2.medium.x86",
        "c3.small.x86",
        "c3.medium.x86",
        "m3.large.x86",
        "s3.xlarge.x86",
        "c2.large.arm",
        "c3.large.arm64",
        "n2.xlarge.x86",
    ];
    for slug in slugs {
        assert!(entry(plans, "slug", slug)["specs"]["cpus"][0]["type"].is_string(), "{slug}");
    }
    assert!(entry(plans, "slug", "baremetal_0").get("class").is_none());
    assert_eq!(entry(plans, "slug", "c1.small.x86")["legacy"], true);
    assert_eq!(entry(plans, "slug", "baremetal_1")["pricing"], json!({ "hourly": 0.4 }));
    assert_eq!(entry(plans, "slug", "bandwidth")["specs"], json!({}));
    assert_eq!(entry(plans, "slug", "a3.large.x86")["specs"]["memory"]["total"], "1TB");
    assert_eq!(entry(plans, "slug", "g2.large.x86")["deployment_types"], json!(["spot_market"]));
    assert_eq!(entry(plans, "slug", "c1.xlarge.x86")["available_in"], json!([{ "code": "ewr1" }, { "code": "nrt1" }]));
    assert!(entry(plans, "slug", "c4.small.x86").get("pricing").is_none());
    let bare = |facility: &&Value| facility["features"].as_array().unwrap().contains(&json!("baremetal"));
    assert_eq!(facilities.iter().filter(bare).count(), 12);
    assert!(entry(facilities, "code", "lax1").get("metro").is_none());
}

#[tokio::test]
async fn what_the_catalogue_refers_to_is_in_it() {
    let Catalog { operating_systems, plans, facilities } = Catalog::builtin();
    let slugs: HashSet<_> = plans.iter().map(|plan| plan["slug"].as_str().unwrap()).collect();
    let places: HashSet<_> = facilities
        .iter()
        .flat_map(|it| [format!("/facilities/{}", it["id"].as_str().unwrap()), it["code"].as_str().unwrap().into()])
        .collect();
    assert_eq!(slugs.len(), plans.len());
    for system in operating_systems {
        for plan in system["provisionable_on"].as_array().into_iter().flatten() {
            assert!(slugs.contains(plan.as_str().unwrap()), "{plan}");
        }
    }
    for place in plans.iter().flat_map(|plan| plan["available_in"].as_array().into_iter().flatten()) {
        let name = place.get("href").or_else(|| place.get("code")).unwrap().as_str().unwrap();
        assert!(places.contains(name), "{place}");
    }
}

#[tokio::test]
async fn plans_tell_their_facilities_whole_where_asked() {
    let sim = started(still()).await;
    let path = format!("/projects/{PROJECT}/plans?per_page=100");
    let plain = told(&sim, &path).await;
    let small = entry(plain["plans"].as_array().unwrap(), "slug", "c3.small.x86");
    assert!(small["available_in"][0]["href"].as_str().unwrap().starts_with("/facilities/"));
    let whole = told(&sim, &format!("{path}&include=available_in")).await;
    let small = entry(whole["plans"].as_array().unwrap(), "slug", "c3.small.x86");
    assert_eq!(small["available_in"][0]["code"], "ewr1");
    assert!(small["available_in_metros"][0]["code"].is_null());
    let whole = told(&sim, &format!("{path}&include=available_in,available_in_metros")).await;
    let small = entry(whole["plans"].as_array().unwrap(), "slug", "c3.small.x86");
    assert_eq!(small["available_in_metros"][0]["code"], "ny");
}

#[tokio::test]
async fn another_catalogue_can_be_given() {
    let catalog = json!({
        "operating_systems": [{ "slug": "x_1", "distro": "x", "version": "1", "provisionable_on": ["p.by.code"] }, 7],
        "plans": [
            { "slug": "p.by.code", "specs": { "cpus": [] }, "available_in": ["aaa1"], "pricing": { "hour": "0.25" } },
            { "no": "slug" }
        ],
        "facilities": [{ "code": "aaa1", "features": ["baremetal"] }, null],
    });
    let sim = started(Config { catalog: serde_json::from_value(catalog.clone()).unwrap(), ..still() }).await;
    assert_eq!(told(&sim, "/operating-systems").await["operating_systems"], catalog["operating_systems"]);
    assert_eq!(told(&sim, &format!("/projects/{PROJECT}/facilities")).await["facilities"], catalog["facilities"]);
    let device = create(&sim, &json!({ "plan": "p.by.code", "operating_system": "x_1", "facility": "any" })).await;
    assert_eq!((&device["metro"], &device["facility"]["href"]), (&Value::Null, &json!("/facilities/aaa1")));
    sim.advance(seconds(3600));
    assert_eq!(sim.stats().cost_micro_usd, 250_000);
}

#[tokio::test]
async fn the_level_follows_the_stock() {
    let sim = started(Config { stock: 12, ..still() }).await;
    let level = async || told(&sim, "/capacity").await["capacity"]["ewr1"]["c3.small.x86"].clone();
    for (stock, name) in
        [(0, "unavailable"), (1, "critical"), (2, "critical"), (3, "limited"), (9, "limited"), (10, "normal")]
    {
        sim.set_stock("ewr1", "c3.small.x86", stock);
        assert_eq!(level().await, json!({ "level": name }), "{stock}");
    }
    let capacity = &told(&sim, "/capacity").await["capacity"];
    assert_eq!(capacity["ams1"]["c3.small.x86"]["level"], "normal");
    assert!(capacity["ewr1"]["m3.large.x86"].is_null(), "not offered there");
    assert!(capacity["ewr1"]["bandwidth"].is_null());
}

#[tokio::test]
async fn servers_in_use_are_not_in_stock_until_they_are_gone() {
    let sim = started(Config { capacity: vec!["ewr1/c3.small.x86=1".parse().unwrap()], ..still() }).await;
    let id = active(&sim).await;
    let (status, text) = error(post(&sim, &small()).await.unwrap()).await;
    assert!([422, 503].contains(&status));
    assert_eq!(text, "The facility ewr1 has no provisionable c3.small.x86 servers matching your criteria");
    delete(&sim, &id).await;
    sim.advance(seconds(4));
    assert!([422, 503].contains(&post(&sim, &small()).await.unwrap().status().as_u16()), "it is still there");
    sim.advance(seconds(1));
    assert_eq!(post(&sim, &small()).await.unwrap().status(), 201);
}

#[tokio::test]
async fn the_last_capacity_that_fits_counts() {
    let capacity = ["*/*=5", "ewr1/*=0", "*/c3.small.x86=1", "ams1/c3.small.x86=30"];
    let sim = started(Config { capacity: capacity.iter().map(|it| it.parse().unwrap()).collect(), ..still() }).await;
    let told = told(&sim, "/capacity").await;
    let level = |facility: &str, plan: &str| told["capacity"][facility][plan]["level"].as_str().unwrap().to_owned();
    assert_eq!(level("sjc1", "c2.medium.x86"), "limited");
    assert_eq!(level("ewr1", "c2.medium.x86"), "unavailable");
    assert_eq!(level("ewr1", "c3.small.x86"), "critical");
    assert_eq!(level("ams1", "c3.small.x86"), "normal");
}

#[tokio::test]
async fn some_are_scarce_where_it_is_so_set() {
    let levels = async |scarce| {
        let sim = started(Config { scarce, ..still() }).await;
        let told = told(&sim, "/capacity").await;
        let all = told["capacity"].as_object().unwrap().values().flat_map(|it| it.as_object().unwrap().values());
        let levels: Vec<_> = all.map(|it| it["level"].as_str().unwrap().to_owned()).collect();
        levels
    };
    assert!(levels(0.0).await.iter().all(|level| level == "normal"));
    assert!(levels(1.0).await.iter().all(|level| level != "normal"));
    let some: HashSet<_> = levels(0.5).await.into_iter().collect();
    assert_eq!(some.len(), 4, "{some:?}");
}

async fn check(sim: &simulators::packet::Simulator, servers: Value) -> reqwest::Response {
    ask(sim, Method::POST, "/capacity").json(&json!({ "servers": servers })).send().await.unwrap()
}

#[tokio::test]
async fn capacity_is_checked_for_a_quantity_as_text_or_as_a_number() {
    let sim = started(Config { stock: 4, ..still() }).await;
    let ask = |quantity: Value| json!({ "facility": "ewr1", "plan": "c3.small.x86", "quantity": quantity });
    let answer = check(&sim, json!([ask(json!("4")), ask(json!(5)), ask(json!(4)), ask(json!("5"))])).await;
    assert_eq!(answer.status(), 200);
    let told: Value = answer.json().await.unwrap();
    let available: Vec<_> =
        told["servers"].as_array().unwrap().iter().map(|it| it["available"].as_bool().unwrap()).collect();
    assert_eq!(available, [true, false, true, false]);
    assert_eq!(told["servers"][0]["quantity"], "4");
    let elsewhere = json!([{ "facility": "hkg1", "plan": "c3.small.x86", "quantity": "1" }]);
    assert_eq!(check(&sim, elsewhere).await.json::<Value>().await.unwrap()["servers"][0]["available"], false);
    for wrong in [json!(null), json!([{ "facility": "ewr1", "plan": "c3.small.x86" }]), json!([ask(json!("many"))])] {
        assert_eq!(error(check(&sim, wrong).await).await.0, 422);
    }
}

#[tokio::test]
async fn each_way_to_ask_for_capacity_can_be_missing() {
    let one = json!([{ "facility": "ewr1", "plan": "c3.small.x86", "quantity": "1" }]);
    for (no_capacity, no_capacity_check) in [(true, false), (false, true)] {
        let sim = started(Config { no_capacity, no_capacity_check, ..still() }).await;
        let status = |missing| if missing { 404 } else { 200 };
        assert_eq!(get(&sim, "/capacity").await.status(), status(no_capacity));
        assert_eq!(check(&sim, one.clone()).await.status(), status(no_capacity_check));
    }
}

#[tokio::test]
async fn only_what_is_a_server_can_be_ordered() {
    let sim = started(still()).await;
    for plan in ["bandwidth", "storage_1", "c4.small.x86", "nonsense"] {
        let (status, text) = error(post(&sim, &small_with(json!({ "plan": plan }))).await.unwrap()).await;
        assert_eq!((status, text), (422, format!("plan {plan} is not valid")));
    }
}
