//! Updates and deletions of devices, and what they may say.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{active, ask, created, delete, device, error, get, known, started, still, update};

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    let before = device(&sim, &id).await;
    sim.advance(crate::seconds(0));
    let change = json!({ "tags": ["x"], "hostname": "h", "description": "d", "userdata": "u", "unknown": 1 });
    let answer = update(&sim, &id, &change).await;
    assert_eq!(answer.status(), 200);
    let after: Value = answer.json().await.unwrap();
    for (field, value) in before.as_object().unwrap() {
        assert_eq!(&after[field], change.get(field).unwrap_or(value), "{field}");
    }
    assert_eq!(after["userdata"], "u");
    assert_eq!(device(&sim, &id).await, after);
    assert_eq!(known(&sim, &id).tags, ["x"]);
    update(&sim, &id, &json!({ "tags": null, "description": null })).await;
    let after = device(&sim, &id).await;
    assert_eq!((&after["tags"], &after["description"], &after["hostname"]), (&json!([]), &Value::Null, &json!("h")));
}

#[tokio::test]
async fn a_wrong_update_changes_nothing() {
    let sim = started(still()).await;
    let id = created(&sim).await;
    let before = device(&sim, &id).await;
    for (body, field) in [
        (json!({ "tags": ["x"], "locked": "yes" }), "locked"),
        (json!({ "hostname": "h", "tags": "x" }), "tags"),
        (json!({ "hostname": 7 }), "hostname"),
        (json!([]), "Invalid request body"),
    ] {
        let (status, text) = error(update(&sim, &id, &body).await).await;
        assert_eq!(status, 422);
        assert!(text.contains(field), "{text}");
    }
    assert_eq!(device(&sim, &id).await, before);
}

#[tokio::test]
async fn a_locked_device_is_not_deleted_until_it_is_unlocked() {
    let sim = started(still()).await;
    let id = active(&sim).await;
    update(&sim, &id, &json!({ "locked": true })).await;
    let force = ask(&sim, Method::DELETE, &format!("/devices/{id}?force_delete=true")).send().await.unwrap();
    for answer in [delete(&sim, &id).await, force] {
        assert_eq!(error(answer).await, (422, "Device is locked and cannot be deleted".into()));
    }
    assert_eq!(device(&sim, &id).await["state"], "active");
    update(&sim, &id, &json!({ "locked": false })).await;
    assert_eq!(delete(&sim, &id).await.status(), 204);
}

#[tokio::test]
async fn a_deletion_is_forced_in_the_query_or_in_the_body() {
    let sim = started(still()).await;
    for (query, body, forced) in [
        ("", None, false),
        ("", Some(json!({})), false),
        ("?force_delete=false", Some(json!({ "force_delete": false })), false),
        ("?force_delete=true", None, true),
        ("", Some(json!({ "force_delete": true })), true),
        ("?force_delete=true", Some(json!({ "force_delete": true })), true),
    ] {
        let id = created(&sim).await;
        let request = ask(&sim, Method::DELETE, &format!("/devices/{id}{query}"));
        let request = if let Some(body) = &body { request.json(body) } else { request };
        assert_eq!(request.send().await.unwrap().status(), 204);
        assert_eq!(known(&sim, &id).forced, forced, "{query} {body:?}");
    }
    let id = created(&sim).await;
    for (query, body) in [("?force_delete=yes", "{}"), ("", r#"{"force_delete":"true"}"#), ("", "force")] {
        let request = ask(&sim, Method::DELETE, &format!("/devices/{id}{query}")).body(body);
        let (status, text) = error(request.send().await.unwrap()).await;
        assert_eq!((status, text.as_str()), (422, "force_delete must be a boolean"), "{query} {body}");
    }
    assert_eq!(device(&sim, &id).await["state"], "queued");
}

#[tokio::test]
async fn events_come_in_pages_too() {
    let sim = started(still()).await;
    let id = active(&sim).await;
    let first: Value = get(&sim, &format!("/devices/{id}/events?per_page=4")).await.json().await.unwrap();
    assert_eq!(first["events"].as_array().unwrap().len(), 4);
    assert_eq!(first["meta"]["next"]["href"], format!("/devices/{id}/events?page=2&per_page=4"));
}
