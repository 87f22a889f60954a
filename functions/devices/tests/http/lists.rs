//! Lists, and whose devices are in them.

use http::Method;
use kit::testing::Client;
use serde_json::json;

use crate::common::{DEVICES, World, field, launch, path, show};

async fn ids(client: &Client, query: &str) -> Vec<String> {
    field(&client.all(&format!("{DEVICES}{query}")).await, "id")
}

#[tokio::test]
async fn devices_are_listed_newest_first_page_by_page() {
    let world = World::new().await;
    let client = world.client("acme").await;
    assert_eq!(ids(&client, "").await, [""; 0]);
    let mut launched = Vec::new();
    for _ in 0..7 {
        launched.insert(0, launch(&client, "{}").await);
    }
    for query in ["", "?limit=1", "?limit=2", "?limit=3", "?limit=6", "?limit=7", "?limit=500"] {
        assert_eq!(ids(&client, query).await, launched, "{query}");
    }
    let page = client.get(&format!("{DEVICES}?limit=7")).await.expect(200);
    assert_eq!((page.next_link(), page.json()["next_cursor"].is_null()), (None, true), "there is no empty last page");
    let page = client.get(&format!("{DEVICES}?limit=3")).await.expect(200);
    assert_eq!(page.json()["items"].as_array().unwrap().len(), 3);
    let cursor = page.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(page.next_link().unwrap(), format!("{DEVICES}?limit=3&cursor={cursor}"));
}

#[tokio::test]
async fn a_list_can_be_of_one_state_and_shows_what_matters() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let mut up = Vec::new();
    for _ in 0..3 {
        up.insert(0, launch(&client, "{}").await);
    }
    for id in &up {
        world.until(&client, id, "Active").await;
    }
    let mut asked = Vec::new();
    for _ in 0..25 {
        asked.insert(0, launch(&client, json!({ "hostname": "later" })).await);
    }
    // The pages before the first of these are empty.
    for limit in [1, 2, 50] {
        assert_eq!(ids(&client, &format!("?state=Active&limit={limit}")).await, up, "{limit}");
        assert_eq!(ids(&client, &format!("?limit={limit}&state=Requested")).await, asked, "{limit}");
        assert_eq!(ids(&client, &format!("?limit={limit}&state=Failed")).await, [""; 0], "{limit}");
    }
    let link = client.get(&format!("{DEVICES}?state=Active&limit=1")).await.expect(200).next_link().unwrap();
    assert!(link.starts_with(&format!("{DEVICES}?limit=1&state=Active&cursor=")), "{link}");

    let items = client.all(&format!("{DEVICES}?state=Active")).await;
    let device = show(&client, &up[0]).await;
    let addresses = device["device"]["addresses"].as_array().unwrap();
    let address = addresses.iter().find(|it| it["public"] == true && it["family"] == 4).unwrap();
    let expected = json!({
        "id": up[0], "state": "Active", "hostname": device["hostname"], "os": "centos_7", "plan": "baremetal_0",
        "facility": "ams1", "price": 0.07, "percent": 100, "attempts": 1, "address": address["address"],
        "created_at": device["created_at"], "updated_at": device["updated_at"],
    });
    assert_eq!(items[0], expected);
    client.delete(&path(&asked[0], "")).await.expect(204);
    let gone = &client.all(&format!("{DEVICES}?state=Deleted")).await[0];
    assert_eq!((&gone["reason"]["code"], gone.get("address"), &gone["percent"]), (&json!("Deleted"), None, &json!(0)));
}

#[tokio::test]
async fn anothers_devices_are_not_there() {
    let world = World::new().await;
    let (acme, globex) = (world.client("acme").await, world.client("globex").await);
    let id = world.active(&acme, "{}").await;
    let waiting = launch(&acme, "{}").await;
    let (before, seen) = (show(&acme, &id).await, world.sim.stats());
    for id in [&id, &waiting] {
        globex.get(&path(id, "")).await.problem(404, "not-found");
        globex.get_with(&path(id, ""), "prefer", "wait=20").await.problem(404, "not-found");
        globex.get(&path(id, "/events")).await.problem(404, "not-found");
        globex.get(&path(id, "/attempts/1")).await.problem(404, "not-found");
        globex.post(&path(id, "/actions"), json!({ "type": "reboot" })).await.problem(404, "not-found");
        globex.delete(&path(id, "")).await.problem(404, "not-found");
    }
    // Word for word as if there were none.
    let other = "01890000-0000-7000-8000-000000000000";
    let detail = |it: serde_json::Value| it["detail"].as_str().unwrap().to_owned();
    let none = detail(globex.get(&path(other, "")).await.problem(404, "not-found"));
    assert_eq!(detail(globex.get(&path(&id, "")).await.problem(404, "not-found")), none);
    assert_eq!(detail(globex.get(&path(&id, "/attempts/1")).await.problem(404, "not-found")), none);
    assert_eq!(ids(&globex, "").await, [""; 0]);
    let cursor = acme.get(&format!("{DEVICES}?limit=1")).await.json()["next_cursor"].as_str().unwrap().to_owned();
    globex.get(&format!("{DEVICES}?limit=1&cursor={cursor}")).await.problem(400, "bad-cursor");

    assert_eq!(show(&acme, &id).await, before);
    assert_eq!(world.sim.stats().kinds, seen.kinds, "the vendor heard nothing of it");
    let mine = launch(&globex, "{}").await;
    assert_eq!(ids(&globex, "").await, [mine]);
    assert_eq!(ids(&acme, "").await, [waiting, id]);
}

#[tokio::test]
async fn who_may_only_read_launches_and_deletes_nothing() {
    let world = World::new().await;
    let (owner, reader) =
        (world.client("acme").await, Client::new(&world.app, &world.access, "acme", &["devices:read"]).await);
    let writer = Client::new(&world.app, &world.access, "acme", &["devices:write"]).await;
    let up = world.active(&owner, "{}").await;
    let id = launch(&owner, "{}").await;
    let before = world.items().await.len();
    for (method, path) in
        [(Method::POST, DEVICES.to_owned()), (Method::DELETE, path(&id, "")), (Method::POST, path(&id, "/actions"))]
    {
        let request = reader.request(method, &path).body(axum::body::Body::empty()).unwrap();
        reader.send(request).await.problem(403, "missing-scope");
    }
    for path in [
        DEVICES.to_owned(),
        path(&id, ""),
        path(&id, "/events"),
        path(&up, "/attempts/1"),
        "/api/v1/catalog/operating-systems".to_owned(),
        "/api/v1/catalog/plans".to_owned(),
        "/api/v1/catalog/facilities".to_owned(),
    ] {
        reader.get(&path).await.expect(200);
        writer.get(&path).await.problem(403, "missing-scope");
    }
    reader.post(&path("plan", ""), "{}").await.expect(200);
    assert_eq!(world.items().await.len(), before);
}
