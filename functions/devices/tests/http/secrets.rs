//! No token, no root password and no userdata in any answer or item.

use std::collections::BTreeMap;

use kit::{dynamo::AttributeValue, testing::Client};
use serde_json::json;
use simulators::packet::{self, ROOT_PASSWORD};

use crate::common::{DEVICES, World, path, post_once, show};

const USERDATA: &str = "#cloud-config\npassword: hunter2-of-the-userdata\n";
/// A part of each that is long enough to tell something.
const SECRETS: [&str; 4] = [packet::TOKEN, ROOT_PASSWORD, "hunter2", "of-the-userdata"];

#[track_caller]
fn has_none(what: &str, bytes: &[u8]) {
    for secret in SECRETS {
        let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!found, "{secret} in {what}: {}", String::from_utf8_lossy(bytes));
    }
}

fn look(what: &str, value: &AttributeValue) {
    match value {
        AttributeValue::S(text) => has_none(what, text.as_bytes()),
        AttributeValue::B(bytes) => has_none(what, bytes.as_ref()),
        AttributeValue::L(values) => values.iter().for_each(|value| look(what, value)),
        AttributeValue::M(values) => values.iter().for_each(|(name, value)| look(&format!("{what}.{name}"), value)),
        other => has_none(what, format!("{other:?}").as_bytes()),
    }
}

/// Every answer there is about a device, and every item.
async fn look_everywhere(world: &World, client: &Client, id: &str) {
    for path in [
        DEVICES.to_owned(),
        path(id, ""),
        path(id, "/events?limit=500"),
        path(id, "/attempts/1"),
        path(id, "/attempts/2"),
        "/api/v1/catalog/plans".to_owned(),
        "/api/v1/catalog/operating-systems".to_owned(),
        "/api/v1/catalog/facilities".to_owned(),
    ] {
        has_none(&path, &client.get(&path).await.body);
    }
    let plan = client.post(&path("plan", ""), json!({ "userdata": USERDATA })).await;
    has_none("the plan", &plan.body);
    for item in world.items().await {
        for (name, value) in &item {
            look(name, value);
        }
    }
}

#[tokio::test]
async fn nothing_secret_is_answered_or_kept_whatever_goes_wrong() {
    let world = World::faulty(&[
        "failed_at@ams1,step=105",
        "create_dropped=1,nth=2",
        "server_error=0.1,until=20s",
        "html=0.1,until=20s",
        "get_forbidden=0.2,until=20s",
        "delete_refused=0.5",
    ])
    .await;
    let client = world.client("acme").await;
    let body = json!({ "userdata": USERDATA, "tags": ["web"] });
    let first = post_once(&client, "k", &body).await.expect(202);
    has_none("the answer", &first.body);
    has_none("the replay", &post_once(&client, "k", &body).await.expect(202).body);
    let other = json!({ "userdata": "another hunter2" });
    has_none(
        "the refusal",
        &post_once(&client, "k", other).await.problem(422, "idempotency-key-reused").to_string().into_bytes(),
    );
    let too_long = json!({ "userdata": USERDATA.repeat(2000) });
    has_none("the refusal", &client.post(DEVICES, too_long).await.expect(422).body);
    let misplaced = json!({ "userdata": [USERDATA] });
    has_none("the refusal", &client.post(DEVICES, misplaced).await.expect(422).body);
    let impossible = json!({ "userdata": USERDATA, "plan": { "slug": "none" } });
    has_none("the refusal", &client.post(DEVICES, impossible).await.expect(422).body);

    let id = first.id();
    let mut states = BTreeMap::new();
    for _ in 0..200 {
        world.round().await;
        look_everywhere(&world, &client, &id).await;
        let state = show(&client, &id).await["state"].as_str().unwrap().to_owned();
        if state == "Active" {
            has_none("the action", &client.post(&path(&id, "/actions"), json!({ "type": "power_on" })).await.body);
            has_none("the deletion", &client.delete(&path(&id, "")).await.expect(202).body);
        }
        let is_over = state == "Deleted";
        *states.entry(state).or_insert(0) += 1;
        if is_over {
            break;
        }
        world.pass(5);
    }
    for state in ["Provisioning", "Active", "Deleting", "Deleted"] {
        assert!(states.contains_key(state), "{states:?}");
    }
    look_everywhere(&world, &client, &id).await;
    // What was looked at had something in it.
    let kept = client.get(&path(&id, "/attempts/1")).await.expect(200).json();
    assert!(kept["last_answers"].as_array().is_some_and(|answers| answers.len() > 2), "{kept}");
    let made = world.sim.devices();
    assert!(made.len() > 1 && made.iter().all(|it| it.userdata.as_deref() == Some(USERDATA)), "the vendor has it");
}

#[tokio::test]
async fn a_token_that_the_vendor_refuses_is_nowhere_either() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let first = post_once(&client, "k", json!({ "userdata": USERDATA })).await.expect(202).id();
    world.sim.revoke_token();
    for _ in 0..3 {
        world.round().await;
        look_everywhere(&world, &client, &first).await;
        world.pass(301);
    }
    assert_eq!(show(&client, &first).await["reason"]["code"], "Credentials");
}

#[tokio::test]
async fn what_the_vendor_says_of_the_token_while_a_machine_fails_is_not_kept_with_its_record() {
    let world = World::faulty(&["stuck_at=1,step=104"]).await;
    let client = world.client("acme").await;
    let body = json!({ "userdata": USERDATA, "stall_timeout_seconds": 60, "provision_timeout_seconds": 120 });
    let id = post_once(&client, "k", body).await.expect(202).id();
    world.until(&client, &id, "Provisioning").await;
    world.sim.revoke_token();
    for _ in 0..30 {
        world.pass(5);
        world.round().await;
    }
    look_everywhere(&world, &client, &id).await;
    let kept = client.get(&path(&id, "/attempts/1")).await.expect(200).json();
    let refused = |it: &serde_json::Value| it["status"] == 401 || it["status"] == 403;
    let refusals: Vec<_> = kept["last_answers"].as_array().unwrap().iter().filter(|it| refused(it)).collect();
    assert!(!refusals.is_empty(), "{kept}");
    for refusal in refusals {
        assert!(refusal["text"].as_str().unwrap().contains("MUSTER_PACKET_TOKEN"), "{refusal}");
    }
}
