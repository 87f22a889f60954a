//! What goes wrong with creates, and with provisioning.

use serde_json::{Value, json};
use simulators::packet::{Fault, Rule, Simulator};

use crate::{
    created, delete, devices_path, error, get, id, known, post, rule_of, seconds, small, small_with, started, state,
    status, still, told, with_faults,
};

async fn refused(sim: &Simulator) -> (u16, String) {
    error(post(sim, &small()).await.unwrap()).await
}

async fn listed(sim: &Simulator) -> u64 {
    told(sim, &devices_path()).await["meta"]["total"].as_u64().unwrap()
}

#[tokio::test]
async fn out_of_capacity_strikes_a_facility_and_a_list_goes_on_to_the_next() {
    let sim = with_faults(&["out_of_capacity@ewr1,status=503"]).await;
    let text = "The facility ewr1 has no provisionable c3.small.x86 servers matching your criteria";
    assert_eq!(refused(&sim).await, (503, text.into()));
    let made = post(&sim, &small_with(json!({ "facility": ["ewr1", "ams1"] }))).await.unwrap();
    assert_eq!(made.status(), 201);
    assert_eq!(sim.devices()[0].facility, "ams1");
    assert_eq!(sim.stats().faults[&Fault::OutOfCapacity], 2);
}

#[tokio::test]
async fn a_create_that_is_dropped_has_made_a_device() {
    let sim = with_faults(&["create_dropped=1,times=20"]).await;
    for made in 1..=20 {
        assert!(post(&sim, &small()).await.is_err());
        assert_eq!(listed(&sim).await, made);
    }
    assert_eq!(post(&sim, &small()).await.unwrap().status(), 201);
    assert_eq!(sim.stats().traffic.closed, 20);
}

#[tokio::test]
async fn a_create_that_ends_in_a_gateways_error_has_made_a_device() {
    let sim = with_faults(&["create_error_after"]).await;
    let answer = post(&sim, &small()).await.unwrap();
    assert!([500, 502, 504].contains(&answer.status().as_u16()));
    assert!(answer.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(listed(&sim).await, 1);
}

#[tokio::test]
async fn a_create_answered_twice_makes_two_devices_and_tells_the_first_or_the_second() {
    let sim = with_faults(&["create_twice"]).await;
    let mut firsts = 0;
    for round in 0..40 {
        let tags = json!({ "tags": [format!("muster:{round}")] });
        let answered: Value = post(&sim, &small_with(tags)).await.unwrap().json().await.unwrap();
        let twins: Vec<_> = told(&sim, &format!("{}?tag=muster:{round}", devices_path())).await["devices"]
            .as_array()
            .unwrap()
            .iter()
            .map(id)
            .collect();
        assert_eq!(twins.len(), 2);
        let made = sim.devices();
        firsts += usize::from(made[2 * round].id == id(&answered));
        assert!(twins.contains(&id(&answered)));
    }
    assert!((8..32).contains(&firsts), "{firsts}");
    sim.advance(seconds(10));
    assert_eq!(sim.alive().iter().filter(|device| device.state == "active").count(), 80);
}

#[tokio::test]
async fn creates_are_refused_for_other_reasons() {
    let sim = with_faults(&["create_refused"]).await;
    let (status, text) = refused(&sim).await;
    assert_eq!(status, 422);
    assert!(!text.contains("servers matching your criteria") && !text.contains("quota"), "{text}");
    sim.heal(Fault::CreateRefused);
    sim.fault(Fault::Quota);
    let (status, text) = refused(&sim).await;
    assert_eq!(status, 422);
    assert!(text.contains("quota") && text.contains("limit"), "{text}");
    assert!(sim.devices().is_empty());
    sim.heal_all();
    created(&sim).await;
}

#[tokio::test]
async fn a_stuck_device_reaches_its_step_and_goes_no_further() {
    let sim = with_faults(&["stuck_at,step=104"]).await;
    let id = created(&sim).await;
    for _ in 0..3 {
        sim.advance(seconds(3600));
        let told = told(&sim, &format!("/devices/{id}")).await;
        assert_eq!((&told["state"], &told["provisioning_percentage"]), (&json!("provisioning"), &json!(40.0)));
    }
    delete(&sim, &id).await;
    sim.advance(seconds(5));
    assert!(!known(&sim, &id).alive);
}

#[tokio::test]
async fn without_a_step_each_device_has_its_own() {
    let sim = with_faults(&["stuck_at"]).await;
    for _ in 0..100 {
        created(&sim).await;
    }
    sim.advance(seconds(60));
    let told = told(&sim, &format!("{}?per_page=1000", devices_path())).await;
    let mut seen = std::collections::BTreeSet::new();
    for device in told["devices"].as_array().unwrap() {
        seen.insert(device["provisioning_percentage"].as_f64().unwrap().to_string());
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
}

#[tokio::test]
async fn a_failed_device_stays_and_costs() {
    let sim = with_faults(&["failed_at,step=107"]).await;
    let id = created(&sim).await;
    sim.advance(seconds(6));
    assert_eq!(state(&sim, &id).await, "provisioning");
    sim.advance(seconds(1));
    let told = told(&sim, &format!("/devices/{id}")).await;
    assert_eq!((&told["state"], &told["provisioning_percentage"]), (&json!("failed"), &json!(60.0)));
    sim.advance(seconds(3600));
    assert!(known(&sim, &id).alive);
    let events: Value = get(&sim, &format!("/devices/{id}/events?per_page=99")).await.json().await.unwrap();
    let kinds: Vec<_> = events["events"].as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"provisioning.failed"), "{kinds:?}");
    assert_eq!(delete(&sim, &id).await.status(), 204);
    sim.advance(seconds(5));
    assert_eq!(status(&sim, &id).await, 404);
}

#[tokio::test]
async fn a_reclaimed_device_fails_and_is_then_refused_or_gone() {
    for expected in [403, 404] {
        let sim = with_faults(&[&format!("reclaimed,step=102,status={expected}")]).await;
        let id = created(&sim).await;
        sim.advance(seconds(2));
        assert_eq!(state(&sim, &id).await, "failed");
        sim.advance(seconds(5));
        assert_eq!(status(&sim, &id).await, expected);
        assert_eq!(delete(&sim, &id).await.status(), expected);
        assert_eq!(get(&sim, &format!("/devices/{id}/events")).await.status(), expected);
        assert_eq!(listed(&sim).await, 0);
        let known = known(&sim, &id);
        assert_eq!((known.alive, known.reclaimed, known.cost_micro_usd), (false, true, 500_000 * 7 / 3600));
        sim.heal_all();
        sim.advance(seconds(3600 * 24));
        assert_eq!(status(&sim, &id).await, expected, "for ever");
    }
}

#[tokio::test]
async fn a_failed_device_that_its_owner_deletes_is_404_and_not_reclaimed() {
    let sim = with_faults(&["reclaimed,step=101,status=403"]).await;
    let id = created(&sim).await;
    sim.advance(seconds(1));
    assert_eq!(delete(&sim, &id).await.status(), 204);
    sim.advance(seconds(60));
    assert_eq!(status(&sim, &id).await, 404);
    assert!(!known(&sim, &id).reclaimed);
}

#[tokio::test]
async fn for_a_while_a_device_is_in_a_state_that_nobody_knows() {
    let sim = with_faults(&["unknown_state,lasts=4s"]).await;
    let id = created(&sim).await;
    for (after, expected) in
        [(3, "provisioning"), (1, "burning_in"), (3, "burning_in"), (1, "provisioning"), (2, "active")]
    {
        sim.advance(seconds(after));
        assert_eq!(state(&sim, &id).await, expected);
    }
}

#[tokio::test]
async fn what_was_decided_at_its_creation_stays_with_a_device() {
    let sim = started(still()).await;
    let well = created(&sim).await;
    sim.fault(Rule { step: Some(105), ..Rule::new(Fault::StuckAt) });
    let stuck = created(&sim).await;
    sim.heal(Fault::StuckAt);
    sim.advance(seconds(60));
    assert_eq!([state(&sim, &well).await, state(&sim, &stuck).await], ["active", "provisioning"]);
}

#[tokio::test]
async fn faults_of_one_place_leave_the_others_alone() {
    let rules = ["create_refused@ewr1/c3.small.x86", "quota@ams1", "create_dropped@*/c3.medium.x86"];
    let sim = with_faults(&rules).await;
    let answers = async |plan: &str, facility: &str| {
        let body = small_with(json!({ "plan": plan, "facility": facility }));
        post(&sim, &body).await.map(|answer| answer.status().as_u16()).unwrap_or_default()
    };
    assert_eq!(answers("c3.small.x86", "ewr1").await, 422);
    assert_eq!(answers("n2.xlarge.x86", "ewr1").await, 201);
    assert_eq!(answers("n2.xlarge.x86", "ams1").await, 422);
    assert_eq!(answers("c3.small.x86", "ny5").await, 201);
    assert_eq!(answers("c3.medium.x86", "ewr1").await, 0);
    assert_eq!(answers("c3.medium.x86", "ny5").await, 0);
    assert_eq!(sim.devices().len(), 4);
}

#[tokio::test]
async fn the_nth_create_is_counted_where_the_rule_is() {
    let sim = with_faults(&["create_refused,nth=2", "quota@ams1,nth=2"]).await;
    let mut seen = Vec::new();
    for facility in ["ewr1", "ewr1", "ams1", "ewr1", "ams1", "ams1", "ewr1"] {
        seen.push(post(&sim, &small_with(json!({ "facility": facility }))).await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [201, 422, 201, 201, 422, 201, 201]);
}

#[tokio::test]
async fn a_share_of_creates_is_decided_by_the_seed_wherever_else_something_is_created() {
    let run = async |seed: u64, noise: bool| {
        let faults = vec![rule_of("create_refused@ewr1=0.4")];
        let sim = started(simulators::packet::Config { seed, faults, ..still() }).await;
        let mut seen = Vec::new();
        for _ in 0..60 {
            seen.push(post(&sim, &small()).await.unwrap().status().as_u16());
            if noise {
                post(&sim, &small_with(json!({ "facility": "ams1" }))).await.unwrap();
            }
        }
        seen
    };
    let first = run(7, false).await;
    assert_eq!(run(7, true).await, first);
    assert_ne!(run(8, false).await, first);
    let refused = first.iter().filter(|status| **status == 422).count();
    assert!((12..36).contains(&refused), "{refused}");
}
