//! What a create wants, and what it makes.

use serde_json::{Value, json};
use simulators::packet::{Config, ROOT_PASSWORD};

use crate::{
    ask, create, device, devices_path, error, id, known, post, seconds, small, small_with, started, still, time, told,
};

#[tokio::test]
async fn a_device_is_made_as_asked() {
    let sim = started(still()).await;
    sim.advance(seconds(90));
    let made = create(
        &sim,
        &small_with(json!({
            "hostname": "web-1", "tags": ["muster:1", "b"], "description": "first", "userdata": "#cloud-config",
            "customdata": { "a": 1 }, "locked": true, "billing_cycle": "hourly", "project_ssh_keys": ["k1"],
            "termination_time": "2026-01-02T00:00:00Z",
        })),
    )
    .await;
    for (field, value) in [
        ("hostname", json!("web-1")),
        ("state", json!("queued")),
        ("tags", json!(["muster:1", "b"])),
        ("description", json!("first")),
        ("userdata", json!("#cloud-config")),
        ("customdata", json!({ "a": 1 })),
        ("locked", json!(true)),
        ("created_at", json!("2026-01-01T00:01:30Z")),
        ("updated_at", json!("2026-01-01T00:01:30Z")),
        ("termination_time", json!("2026-01-02T00:00:00Z")),
        ("ip_addresses", json!([])),
        ("provisioning_percentage", json!(0.0)),
        ("ssh_keys", json!([{ "href": "/ssh-keys/k1" }])),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    assert!(made["root_password"].as_str().unwrap().starts_with(ROOT_PASSWORD));
    assert_eq!(made["short_id"].as_str().unwrap(), &id(&made)[..8]);
    assert_eq!(device(&sim, &id(&made)).await, made);
    let known = known(&sim, &id(&made));
    assert_eq!((known.plan.as_str(), known.facility.as_str()), ("c3.small.x86", "ewr1"));
    assert_eq!((known.hostname.as_str(), known.operating_system.as_str()), ("web-1", "debian_12"));
    assert_eq!((known.userdata.as_deref(), known.tags.len()), (Some("#cloud-config"), 2));
    assert_eq!((known.created_at, known.alive), (time("2026-01-01T00:01:30Z"), true));
}

#[tokio::test]
async fn each_field_that_is_missing_or_wrong_is_named() {
    let sim = started(still()).await;
    let without = |field: &str| {
        let mut body = small();
        body.as_object_mut().unwrap().remove(field);
        body
    };
    let cases = [
        (without("plan"), "plan can't be blank"),
        (without("operating_system"), "operating_system can't be blank"),
        (without("facility"), "facility can't be blank"),
        (small_with(json!({ "plan": null })), "plan can't be blank"),
        (small_with(json!({ "plan": 7 })), "plan must be a string"),
        (small_with(json!({ "facility": 7 })), "facility must be a string or an array of strings"),
        (small_with(json!({ "facility": ["ewr1", 7] })), "facility must be"),
        (small_with(json!({ "facility": [] })), "facility can't be blank"),
        (small_with(json!({ "facility": null, "metro": 7 })), "metro must be a string"),
        (small_with(json!({ "hostname": 7 })), "hostname must be a string"),
        (small_with(json!({ "tags": "a" })), "tags must be an array of strings"),
        (small_with(json!({ "tags": ["a", 1] })), "tags must be an array of strings"),
        (small_with(json!({ "locked": "yes" })), "locked must be a boolean"),
        (small_with(json!({ "userdata": {} })), "userdata must be a string"),
        (small_with(json!({ "user_ssh_keys": "k" })), "user_ssh_keys must be"),
        (small_with(json!({ "spot_price_max": "1" })), "spot_price_max must be a number"),
        (small_with(json!({ "billing_cycle": "never" })), "billing_cycle is not included"),
        (small_with(json!({ "termination_time": "soon" })), "termination_time must be an RFC 3339 time"),
        (small_with(json!({ "termination_time": "2026-01-01T00:00:00Z" })), "termination_time must be in the future"),
        (small_with(json!({ "operating_system": "os2" })), "operating_system os2 is not valid"),
        (small_with(json!({ "facility": "ewr9" })), "facility ewr9 is not valid"),
        (small_with(json!({ "facility": null, "metro": "zz" })), "metro zz is not valid"),
        (small_with(json!({ "plan": "c1.small.x86" })), "debian_12 is not provisionable on the plan c1.small.x86"),
        (small_with(json!({ "facility": "sjc1" })), "c3.small.x86 is not available in the facility"),
        (small_with(json!({ "plan": "m3.large.x86", "facility": "hkg1" })), "m3.large.x86 is not available"),
        (small_with(json!({ "plan": "g2.large.x86", "operating_system": "debian_10" })), "spot market only"),
        (json!([]), "Invalid request body"),
    ];
    for (body, expected) in cases {
        let (status, text) = error(post(&sim, &body).await.unwrap()).await;
        assert_eq!(status, 422, "{body}");
        assert!(text.contains(expected), "{body}: {text}");
    }
    let (_, text) = error(post(&sim, &json!({})).await.unwrap()).await;
    for field in ["plan", "operating_system", "facility"] {
        assert!(text.contains(field), "{text}");
    }
    assert!(sim.devices().is_empty());
}

#[tokio::test]
async fn an_order_of_the_spot_market_says_so() {
    let sim = started(still()).await;
    let order = small_with(json!({
        "plan": "g2.large.x86", "operating_system": "debian_10", "spot_instance": true, "spot_price_max": 5.5,
    }));
    let made = create(&sim, &order).await;
    assert_eq!((&made["spot_instance"], &made["spot_price_max"]), (&json!(true), &json!(5.5)));
}

#[tokio::test]
async fn a_place_is_a_code_any_a_list_or_a_metro() {
    let sim = started(still()).await;
    sim.set_stock("ewr1", "c3.small.x86", 0);
    let placed = async |place: Value| {
        let made = create(&sim, &small_with(place)).await;
        known(&sim, &id(&made)).facility
    };
    assert_eq!(placed(json!({ "facility": "ams1" })).await, "ams1");
    assert_ne!(placed(json!({ "facility": "any" })).await, "ewr1");
    assert_eq!(placed(json!({ "facility": ["ewr1", "sjc1", "fr2", "ams1"] })).await, "fr2", "in order of preference");
    assert_eq!(placed(json!({ "facility": null, "metro": "am" })).await, "ams1");
    assert_eq!(placed(json!({ "facility": null, "metro": "New York" })).await, "ny5");
    let (_, text) = error(post(&sim, &small_with(json!({ "facility": ["ewr1", "ewr1"] }))).await.unwrap()).await;
    assert!(text.contains("have no provisionable c3.small.x86 servers matching your criteria"), "{text}");
}

#[tokio::test]
async fn sold_out_is_422_or_503() {
    let sim = started(Config { stock: 0, ..still() }).await;
    let mut seen = [0, 0];
    for _ in 0..60 {
        let (status, text) = error(post(&sim, &small()).await.unwrap()).await;
        assert_eq!(text, "The facility ewr1 has no provisionable c3.small.x86 servers matching your criteria");
        seen[usize::from(status == 503)] += 1;
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
    for (sold_out, status) in [("422", 422), ("503", 503)] {
        sim.change(|config| config.sold_out = serde_json::from_value(json!(sold_out)).unwrap());
        for _ in 0..10 {
            assert_eq!(post(&sim, &small()).await.unwrap().status(), status);
        }
    }
    assert!(sim.devices().is_empty());
}

#[tokio::test]
async fn a_list_tells_less_than_a_device_does() {
    let sim = started(still()).await;
    create(&sim, &small_with(json!({ "userdata": "secret", "customdata": 1, "tags": ["t"] }))).await;
    let plain = told(&sim, &devices_path()).await;
    for field in ["userdata", "customdata", "provisioning_events"] {
        assert!(plain["devices"][0].get(field).is_none(), "{field}");
    }
    let asked = told(&sim, &format!("{}?include=userdata,provisioning_events", devices_path())).await;
    assert_eq!(asked["devices"][0]["userdata"], "secret");
    assert_eq!(asked["devices"][0]["provisioning_events"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn the_list_is_filtered_by_tag_unless_the_vendor_cannot() {
    let sim = started(still()).await;
    let mine = create(&sim, &small_with(json!({ "tags": ["muster:a/ü", "x"] }))).await;
    create(&sim, &small_with(json!({ "tags": ["muster:b"] }))).await;
    create(&sim, &small()).await;
    let ids = async |query: &str| -> Vec<String> {
        told(&sim, &format!("{}{query}", devices_path())).await["devices"].as_array().unwrap().iter().map(id).collect()
    };
    assert_eq!(ids("?tag=muster%3Aa%2F%C3%BC").await, [id(&mine)]);
    assert!(ids("?tag=muster").await.is_empty(), "whole tags alone");
    assert_eq!(ids("").await.len(), 3);
    sim.change(|config| config.ignore_tag = true);
    assert_eq!(ids("?tag=muster%3Aa%2F%C3%BC").await.len(), 3);
}

#[tokio::test]
async fn ids_and_timings_follow_the_seed() {
    let run = async |seed| {
        let sim = started(Config { seed, spread: 0.5, ..still() }).await;
        for _ in 0..20 {
            create(&sim, &small()).await;
        }
        sim.advance(seconds(60));
        sim.devices().into_iter().map(|it| (it.id, it.active_at.unwrap())).collect::<Vec<_>>()
    };
    let (first, again, other) = (run(1).await, run(1).await, run(2).await);
    assert_eq!(first, again);
    assert!(first.iter().zip(&other).all(|(a, b)| a.0 != b.0));
    let taken: Vec<_> = first.iter().map(|(_, at)| at.duration_since(time(crate::EPOCH)).as_secs_f64()).collect();
    assert!(taken.iter().all(|seconds| (5.0..15.0).contains(seconds)), "{taken:?}");
    assert!(taken.iter().any(|s| *s < 8.0) && taken.iter().any(|s| *s > 12.0), "{taken:?}");
}

#[tokio::test]
async fn what_is_asked_for_happens_halfway_through_the_latency() {
    let sim = started(Config { latency: std::time::Duration::from_millis(400), ..still() }).await;
    let left = ask(&sim, reqwest::Method::POST, &devices_path())
        .json(&small())
        .timeout(std::time::Duration::from_millis(300))
        .send()
        .await;
    assert!(left.unwrap_err().is_timeout());
    assert_eq!(sim.alive().len(), 1);
}
