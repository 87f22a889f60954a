//! A part that is not there: settings, the vendor, its project, its token, the store.

use devices::config::{PROJECT, TOKEN, URL};
use kit::testing::{Client, Reply};
use serde_json::{Value, json};
use simulators::{cpx, faults::Down, packet};

use crate::common::{DEVICES, World, is_503, launch, path, show, text};

const CATALOG: [&str; 3] = ["/api/v1/catalog/operating-systems", "/api/v1/catalog/plans", "/api/v1/catalog/facilities"];

/// Everything for which the vendor is needed, but for launches; `id` is up.
async fn asks(client: &Client, id: &str) -> Vec<Reply> {
    let mut replies = vec![client.post(&path("plan", ""), "{}").await];
    for path in CATALOG {
        replies.push(client.get(path).await);
    }
    replies.push(client.post(&path(id, "/actions"), json!({ "type": "reboot" })).await);
    replies
}

#[tokio::test]
async fn without_a_setting_nothing_begins_and_everything_can_be_read_and_deleted() {
    for (setting, words) in [(URL, "base URL"), (PROJECT, "id of the project"), (TOKEN, "token")] {
        let world = World::new().await;
        let configured = world.client("acme").await;
        let id = world.active(&configured, "{}").await;
        let device = show(&configured, &id).await;
        let items = world.items().await.len();
        let client = configured.clone().on(world.app_with(&[(setting, "")]));
        let mut replies = asks(&client, &id).await;
        replies.push(client.post(DEVICES, json!({ "userdata": "echo one" })).await);
        for reply in replies {
            let detail = text(&is_503(reply, "not-configured")["detail"]);
            assert!(detail.contains(setting) && detail.contains(words), "{detail}");
        }
        assert_eq!(world.items().await.len(), items);

        // What is wrong with the request is said first: a setting would not mend it.
        client.post(DEVICES, json!({ "max_attempts": 0 })).await.problem(422, "invalid-input");
        client.post(DEVICES, json!({ "tags": ["muster:x"] })).await.problem(422, "invalid-input");
        assert_eq!(show(&client, &id).await, device);
        assert_eq!(client.all(DEVICES).await.len(), 1);
        client.get(&path(&id, "/events")).await.expect(200);
        client.delete(&path(&id, "")).await.expect(202);
        world.until(&configured, &id, "Deleted").await;
    }
}

#[tokio::test]
async fn a_project_that_the_vendor_does_not_know_is_named() {
    let world = World::new().await;
    let client = world.client("acme").await.on(world.app_with(&[(PROJECT, "nobodys")]));
    let mut replies = vec![client.post(DEVICES, "{}").await, client.post(&path("plan", ""), "{}").await];
    for path in CATALOG {
        replies.push(client.get(path).await);
    }
    for reply in replies {
        let detail = text(&is_503(reply, "unknown-project")["detail"]);
        assert!(detail.contains(PROJECT), "{detail}");
    }
    assert_eq!(world.items().await.len(), 0);
}

#[tokio::test]
async fn a_base_url_of_something_else_is_named() {
    let world = World::new().await;
    let other = cpx::start(cpx::Config::default()).await.unwrap();
    let client = world.client("acme").await.on(world.app_with(&[(URL, other.url())]));
    for reply in
        [client.post(DEVICES, "{}").await, client.post(&path("plan", ""), "{}").await, client.get(CATALOG[0]).await]
    {
        let detail = text(&is_503(reply, "vendor-unusable")["detail"]);
        assert!(detail.contains(URL), "{detail}");
    }
    assert_eq!(world.items().await.len(), 0);
}

#[tokio::test]
async fn a_token_that_the_vendor_does_not_accept_is_named_and_not_shown() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let items = world.items().await.len();
    world.sim.revoke_token();
    // The catalogue that was read before is too old by now.
    world.pass(301);
    let wrong = client.clone().on(world.app_with(&[(TOKEN, "another-token")]));
    for client in [client, wrong] {
        let mut replies = asks(&client, &id).await;
        replies.push(client.post(DEVICES, json!({ "userdata": "echo one" })).await);
        for reply in replies {
            let whole = reply.text();
            assert!(!whole.contains(packet::TOKEN) && !whole.contains("another-token"), "{whole}");
            let detail = text(&is_503(reply, "vendor-denied")["detail"]);
            assert!(detail.contains(TOKEN), "{detail}");
        }
    }
    assert_eq!(world.items().await.len(), items);
}

#[tokio::test]
async fn a_device_can_be_asked_for_while_the_vendor_is_away() {
    for down in [Down::Status503, Down::Reset] {
        let world = World::with(packet::Config { down, ..packet::Config::default() }).await;
        let client = world.client("acme").await;
        let id = launch(&client, json!({ "plan": { "slug": "c3.small.x86" } })).await;
        world.round().await;
        let device = show(&client, &id).await;
        assert_eq!((&device["state"], &device["reason"]["code"]), (&json!("Requested"), &json!("VendorAway")));
        for reply in [client.post(&path("plan", ""), "{}").await, client.get(CATALOG[0]).await] {
            assert!(text(&is_503(reply, "unavailable")["detail"]).contains("vendor"));
        }
        world.sim.change(|config| config.down = Down::No);
        assert_eq!(world.until(&client, &id, "Active").await["reason"], Value::Null);
    }
}

#[tokio::test]
async fn what_nothing_can_meet_fails_with_the_reason_where_it_was_asked_for_while_the_vendor_was_away() {
    let world = World::with(packet::Config { down: Down::Status503, ..packet::Config::default() }).await;
    let client = world.client("acme").await;
    let id = launch(&client, json!({ "plan": { "slug": "c3.smal.x86" } })).await;
    world.sim.change(|config| config.down = Down::No);
    let device = world.until(&client, &id, "Failed").await;
    assert_eq!(device["reason"]["code"], "NothingLeft");
    assert!(text(&device["reason"]["detail"]).contains("did you mean `c3.small.x86`"), "{device}");
}

#[tokio::test]
async fn nonsense_instead_of_a_catalogue_is_an_absent_vendor() {
    let world = World::faulty(&["html,status=200"]).await;
    let client = world.client("acme").await;
    is_503(client.get(CATALOG[1]).await, "unavailable");
    launch(&client, "{}").await;
}

#[tokio::test]
async fn a_vendor_that_asks_for_fewer_requests_is_not_asked_before_it_wants_to_be() {
    let config = packet::Config { rate_limit: Some(1), ..packet::Config::default() };
    let world = World::with(config).await;
    let client = world.client("acme").await;
    let reply = client.get(CATALOG[0]).await;
    let seconds: u64 = reply.header("retry-after").parse().unwrap();
    assert!((30..=60).contains(&seconds), "until the next minute: {seconds}");
    let problem = reply.problem(503, "unavailable");
    assert!(text(&problem["detail"]).contains("fewer requests"), "{problem}");
    launch(&client, "{}").await;
}

#[tokio::test]
async fn a_token_that_is_in_no_file_any_more_still_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, packet::TOKEN).unwrap();
    let world = World::new().await;
    let app = world.app_with(&[(TOKEN, ""), ("MUSTER_PACKET_TOKEN_FILE", file.to_str().unwrap())]);
    std::fs::remove_file(&file).unwrap();
    let client = world.client("acme").await.on(app);
    let id = launch(&client, json!({ "userdata": "echo one" })).await;
    world.until(&client, &id, "Active").await;
    assert_eq!(world.sim.alive()[0].userdata.as_deref(), Some("echo one"));
}

#[track_caller]
fn is_away(reply: Reply) {
    let whole = reply.text().to_lowercase();
    is_503(reply, "unavailable");
    for inside in ["embedded", "dynamo", "dispatch", "connection", "table", "sdk", "test-"] {
        assert!(!whole.contains(inside), "{inside:?} is nobody's business: {whole}");
    }
}

#[tokio::test]
async fn without_the_store_every_route_says_come_back_and_then_works_again() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = world.active(&client, "{}").await;
    let items = world.items().await.len();
    world.embedded.set_away(true);
    is_away(client.post(DEVICES, json!({ "userdata": "echo one" })).await);
    is_away(client.get(DEVICES).await);
    is_away(client.get(&path(&id, "")).await);
    is_away(client.get_with(&path(&id, ""), "prefer", "wait=20").await);
    is_away(client.get(&path(&id, "/events")).await);
    is_away(client.delete(&path(&id, "")).await);
    is_away(client.post(&path(&id, "/actions"), json!({ "type": "reboot" })).await);
    // The failures that are remembered are in it.
    is_away(client.post(&path("plan", ""), "{}").await);
    client.get(CATALOG[0]).await.expect(200);
    world.embedded.set_away(false);
    assert_eq!(world.items().await.len(), items, "nothing half done");
    assert_eq!(world.sim.alive()[0].state, "active", "what could not be noted was not done");
    assert_eq!(show(&client, &id).await["state"], "Active");
    client.delete(&path(&id, "")).await.expect(202);
    launch(&client, "{}").await;
}
