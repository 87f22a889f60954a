//! Reboots, and switching on and off.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use simulators::packet::{Fault, Request};

use crate::common::{World, is_503, launch, path, post_nothing, text, time_line};

fn reboot() -> Value {
    json!({ "type": "reboot" })
}

async fn notes(client: &kit::testing::Client, id: &str, kind: &str) -> Vec<String> {
    let events = time_line(client, id).await;
    events.iter().filter(|it| it["kind"] == kind).map(|it| text(&it["text"])).collect()
}

#[tokio::test]
async fn a_machine_that_is_up_is_rebooted_and_switched() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let state = || world.sim.alive()[0].state.clone();
    for (kind, passing, after) in [
        ("reboot", "powering_off", "active"),
        ("power_off", "powering_off", "inactive"),
        ("power_on", "powering_on", "active"),
    ] {
        let reply = client.post(&path(&id, "/actions"), json!({ "type": kind })).await.expect(202);
        assert_eq!(reply.json(), json!({ "accepted": kind }));
        assert_eq!(state(), passing);
        world.pass(10);
        assert_eq!(state(), after);
        assert_eq!(notes(&client, &id, kind).await, ["was asked for"]);
    }
    let events = time_line(&client, &id).await;
    let ours: BTreeSet<_> = events.iter().filter(|it| it["kind"] == "reboot").map(|it| text(&it["source"])).collect();
    assert_eq!(ours.into_iter().collect::<Vec<_>>(), ["muster"]);
}

#[tokio::test]
async fn only_a_device_that_is_active_takes_actions_and_others_say_what_to_do() {
    let world = World::faulty(&["delete_slow,lasts=1m"]).await;
    let client = world.client("acme").await;
    let act = async |id: &str, state: &str, words: &str| {
        let problem = client.post(&path(id, "/actions"), reboot()).await.problem(409, "not-active");
        let detail = text(&problem["detail"]);
        assert!(detail.contains(&format!("Its state is {state}.")) && detail.contains(words), "{problem}");
    };
    let id = launch(&client, "{}").await;
    act(&id, "Requested", "wait=20").await;
    world.round().await;
    act(&id, "Provisioning", "wait=20").await;
    world.until(&client, &id, "Active").await;
    client.delete(&path(&id, "")).await.expect(202);
    act(&id, "Deleting", "another").await;
    world.until(&client, &id, "Deleted").await;
    act(&id, "Deleted", "another").await;
    assert_eq!(world.sim.stats().requests(Request::Action), 0);
    assert_eq!(notes(&client, &id, "reboot").await, [""; 0]);
}

#[tokio::test]
async fn what_the_vendor_says_against_it_is_answered_and_noted() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let actions = path(&id, "/actions");
    let problem = client.post(&actions, json!({ "type": "power_on" })).await.problem(409, "vendor-refused");
    assert!(text(&problem["detail"]).contains("Device cannot do this while it is active"), "{problem}");
    let said = notes(&client, &id, "power_on").await;
    assert_eq!((said.len(), &*said[0]), (2, "was asked for"));
    assert!(said[1].contains("was not done"), "{said:?}");

    world.sim.fault("server_error,on=action,status=503".parse::<simulators::packet::Rule>().unwrap());
    is_503(client.post(&actions, reboot()).await, "unavailable");
    world.sim.heal(Fault::ServerError);
    world.sim.fault("rate_limited,on=action".parse::<simulators::packet::Rule>().unwrap());
    is_503(client.post(&actions, reboot()).await, "unavailable");
    world.sim.heal(Fault::RateLimited);
    world.sim.revoke_token();
    for _ in 0..6 {
        // 401 or 403, as the vendor pleases.
        let problem = is_503(client.post(&actions, reboot()).await, "vendor-denied");
        assert!(text(&problem["detail"]).contains("MUSTER_PACKET_TOKEN"), "{problem}");
    }
    world.sim.heal_all();
    client.post(&actions, reboot()).await.expect(202);
}

#[tokio::test]
async fn a_machine_that_the_vendor_no_longer_has_is_no_fault_of_the_token() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    world.somebody_deletes(&world.alive()[0]).await;
    world.pass(30);
    let problem = client.post(&path(&id, "/actions"), reboot()).await.problem(409, "machine-gone");
    assert!(text(&problem["detail"]).contains("DELETE it"), "{problem}");
}

#[tokio::test]
async fn an_action_is_one_of_three() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let actions = path(&id, "/actions");
    for (body, pointer, words) in [
        (json!({ "type": "reinstall" }), "/type", "`reboot`, `power_on`, `power_off`"),
        (json!({ "type": "Reboot" }), "/type", "unknown variant"),
        (json!({ "type": 7 }), "/type", "expected a string"),
        (json!({}), "", "missing field `type`"),
        (json!({ "type": "reboot", "force": true }), "/force", "unknown field `force`"),
        (json!(["reboot"]), "", "object"),
    ] {
        let problem = client.post(&actions, &body).await.problem(422, "invalid-input");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
        assert!(text(&problem["errors"][0]["detail"]).contains(words), "{body}: {problem}");
    }
    post_nothing(&client, &actions).await.problem(422, "invalid-input");
    let get = client.request(Method::GET, &actions).body(axum::body::Body::empty()).unwrap();
    client.send(get).await.problem(405, "method-not-allowed");
    assert_eq!(world.sim.stats().requests(Request::Action), 0);
}
