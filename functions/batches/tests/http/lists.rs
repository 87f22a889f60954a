//! Lists of batches: order, filters, pages.

use serde_json::json;

use crate::common::{BATCHES, OfBatches as _, World, text};

#[tokio::test]
async fn the_newest_comes_first_and_nothing_is_lost_between_pages() {
    let world = World::new().await;
    let client = world.client("acme").await;
    assert_eq!(client.get(BATCHES).await.expect(200).json(), json!({"items": []}));
    let mut ids = Vec::new();
    for size in 1..=7 {
        ids.insert(0, client.create(size).await);
    }
    assert_eq!(client.listed(BATCHES).await, ids);
    for limit in 1..=8 {
        let (mut seen, mut path) = (Vec::new(), format!("{BATCHES}?limit={limit}"));
        loop {
            let page = client.get(&path).await.expect(200);
            let body = page.json();
            let items = body["items"].as_array().unwrap();
            assert!((1..=limit).contains(&items.len()), "limit {limit}: {} items in {path}", items.len());
            seen.extend(items.iter().map(|item| text(&item["id"])));
            let Some(next) = page.next_link() else {
                assert!(body.get("next_cursor").is_none());
                break;
            };
            assert_eq!(next, format!("{BATCHES}?limit={limit}&cursor={}", text(&body["next_cursor"])));
            path = next;
        }
        assert_eq!(seen, ids, "limit {limit}");
    }
}

#[tokio::test]
async fn an_item_has_everything_but_the_deveuis() {
    let world = World::new().await;
    world.work();
    let client = world.client("acme").await;
    let id = client.create(30).await;
    let mut batch = client.finished(&id).await;
    let fields = batch.as_object_mut().unwrap();
    assert!(fields.remove("deveuis").is_some() && fields.remove("recovered").is_some());
    assert_eq!(client.get(BATCHES).await.expect(200).json(), json!({"items": [batch]}));
}

#[tokio::test]
async fn a_status_filters_over_all_pages() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.insert(0, client.create(1).await);
    }
    // The two at the ends, with many others between them.
    let (newest, oldest) = (ids.first().unwrap(), ids.last().unwrap());
    for id in [newest, oldest] {
        client.delete(&format!("{BATCHES}/{id}")).await.expect(202);
    }
    let cancelling = format!("{BATCHES}?status=Cancelling");
    for path in [cancelling.clone(), format!("{cancelling}&limit=1"), format!("{cancelling}&limit=2&deleted=true")] {
        assert_eq!(client.listed(&path).await, [newest.as_str(), oldest.as_str()], "{path}");
    }
    let rest = &ids[1..ids.len() - 1];
    assert_eq!(client.listed(&format!("{BATCHES}?status=Processing&limit=4")).await, rest);
    for none in ["Completed", "Failed", "Cancelled"] {
        assert_eq!(client.listed(&format!("{BATCHES}?status={none}&limit=3")).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_cursor_goes_on_where_it_was_even_if_the_list_has_grown() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let old = [client.create(1).await, client.create(1).await, client.create(1).await];
    let page = client.get(&format!("{BATCHES}?limit=1")).await.expect(200);
    assert_eq!(text(&page.json()["items"][0]["id"]), old[2]);
    client.create(1).await;
    assert_eq!(client.listed(&page.next_link().unwrap()).await, [old[1].as_str(), old[0].as_str()]);
}
