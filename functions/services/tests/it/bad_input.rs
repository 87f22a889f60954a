//! What is wrong is refused, says what would be right, and asks CPX for nothing.

use kit::testing::Client;
use serde_json::json;
use services::notify::Notifier;
use simulators::cpx;

use crate::common::{World, small};

#[tokio::test]
async fn every_bad_parameter_is_a_clear_400() {
    let world = World::new(small()).await;
    let client = world.client().await;
    for (path, name, right) in [
        ("servers?limit=0", "?limit", "1 to 500"),
        ("servers?limit=501", "?limit", "1 to 500"),
        ("servers?limit=many", "?limit", "limit"),
        ("servers?sort=size", "?sort", "ip, service, cpu, memory or status"),
        ("servers?sort=--cpu", "?sort", "ip, service, cpu, memory or status"),
        ("servers?status=sick", "?status", "unknown"),
        ("servers?cpu_threshold=101", "?cpu_threshold", "0 to 100"),
        ("servers?cpu_threshold=-1", "?cpu_threshold", "0 to 100"),
        ("servers?cpu_threshold=NaN", "?cpu_threshold", "0 to 100"),
        ("servers?memory_threshold=inf", "?memory_threshold", "0 to 100"),
        ("servers?memory_threshold=hot", "?memory_threshold", "memory_threshold"),
        ("servers?max_age_seconds=301", "?max_age_seconds", "0 to 300"),
        ("servers?max_age_seconds=-1", "?max_age_seconds", "max_age_seconds"),
        ("servers?cursor=AAAA", "?cursor", "start again without it"),
        ("servers?cpu=3", "?cpu", "unknown field"),
        ("servers?limit=1&limit=2", "?limit", "duplicate"),
        ("services?sort=ip", "?sort", "unknown field"),
        ("services?cpu_threshold=200", "?cpu_threshold", "0 to 100"),
        ("services/AuthService?limit=3", "?limit", "unknown field"),
        ("services/AuthService/history?window=1", "?window", "14d"),
        ("services/AuthService/history?window=15d", "?window", "14d"),
        ("services/AuthService/history?window=0s", "?window", "14d"),
        ("servers/10.58.1.9/history?window=-1h", "?window", "14d"),
        ("unhealthy-services?min_healthy=-1", "?min_healthy", "min_healthy"),
        ("unhealthy-services?min_healthy=10001", "?min_healthy", "0 to 10000"),
        ("alerts?state=bad", "?state", "firing"),
    ] {
        let problem = client.get(&format!("/api/v1/{path}")).await.expect(400).json();
        assert_eq!(problem["errors"][0]["pointer"], name, "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(right), "{path}: {problem}");
    }
    client.get("/api/v1/servers/10.58.1/history").await.problem(400, "bad-request");
    client.get("/api/v1/servers/..%2Fadmin/history").await.problem(400, "bad-request");
    assert_eq!(world.sim.stats().traffic.requests, 0, "nothing was asked for");
}

#[tokio::test]
async fn a_cursor_belongs_to_its_tenant_and_its_query() {
    let world = World::new(small()).await;
    let client = world.client().await;
    let page = client.get("/api/v1/servers?limit=2&sort=cpu").await.expect(200).json();
    let cursor = page["next_cursor"].as_str().unwrap();
    client.get(&format!("/api/v1/servers?limit=2&sort=cpu&cursor={cursor}")).await.expect(200);
    client.get(&format!("/api/v1/servers?limit=2&sort=-cpu&cursor={cursor}")).await.problem(400, "bad-cursor");
    client.get(&format!("/api/v1/services?cursor={cursor}")).await.problem(400, "bad-cursor");
    let other = Client::new(&world.app, &world.access, "other", &["services:read"]).await;
    other.get(&format!("/api/v1/servers?limit=2&sort=cpu&cursor={cursor}")).await.problem(400, "bad-cursor");
}

#[tokio::test]
async fn a_silence_has_an_end_that_is_ahead_and_a_reason() {
    let world = World::new(small()).await;
    let client = world.client().await;
    world.minute(&Notifier::default()).await;
    let alerts = client.get("/api/v1/alerts?state=all").await.expect(200).json();
    let path = format!("/api/v1/alerts/{}/silence", alerts["items"][1]["id"].as_str().unwrap());
    let good = "2027-01-15T09:00:00Z";
    for (body, pointer) in [
        (json!({"until": "2027-01-15T08:01:00Z", "reason": "x"}), "/until"),
        (json!({"until": "2027-04-15T08:01:01Z", "reason": "x"}), "/until"),
        (json!({"until": "2027-06-01T00:00:00Z", "reason": "x"}), "/until"),
        (json!({"until": "soon", "reason": "x"}), "/until"),
        (json!({"until": good, "reason": " "}), "/reason"),
        (json!({"until": good, "reason": "a\u{1b}[31m"}), "/reason"),
        (json!({"until": good, "reason": "x".repeat(201)}), "/reason"),
        (json!({"until": good, "reason": "x", "forever": true}), "/forever"),
        (json!({"until": good}), ""),
    ] {
        let problem = client.post(&path, &body).await.expect(422).json();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    for id in ["0198c6d2-6f7e-7a7e-8000-000000000000", "7"] {
        let body = json!({"until": good, "reason": "x"});
        client.post(&format!("/api/v1/alerts/{id}/silence"), &body).await.problem(404, "not-found");
        client.delete(&format!("/api/v1/alerts/{id}/silence")).await.problem(404, "not-found");
    }
    let reader = Client::new(&world.app, &world.access, "acme", &["services:read"]).await;
    reader.post(&path, json!({"until": good, "reason": "x"})).await.problem(403, "missing-scope");
    reader.delete(&path).await.problem(403, "missing-scope");
    let after = client.get("/api/v1/alerts?state=all").await.expect(200).json();
    assert_eq!(after, alerts, "nothing was left behind");
    // The longest of both.
    let view = client.post(&path, json!({"until": "2027-04-15T08:01:00Z", "reason": format!(" {} ", "ä".repeat(200))}));
    let view = view.await.expect(200).json();
    assert_eq!(view["silence"]["reason"], "ä".repeat(200));
}

#[tokio::test]
async fn without_an_address_of_cpx_every_question_names_the_setting() {
    let world = World::with(cpx::Config::default(), &[("MUSTER_CPX_URL", "")]).await;
    let client = world.client().await;
    for path in ["servers", "services", "services/A", "services/A/history", "unhealthy-services", "alerts"] {
        let problem = client.get(&format!("/api/v1/{path}")).await.problem(503, "not-configured");
        assert!(problem["detail"].as_str().unwrap().contains("MUSTER_CPX_URL"), "{path}");
    }
}

#[tokio::test]
async fn a_cursor_of_any_list_is_refused_where_the_question_is_another() {
    let world = World::new(small()).await;
    let client = world.client().await;
    world.minute(&Notifier::default()).await;
    world.minute(&Notifier::default()).await;
    let other = Client::new(&world.app, &world.access, "other", &["services:read"]).await;
    for (question, others) in [
        (
            "servers?service=IdService&status=unhealthy",
            &[
                "servers?service=AuthService&status=unhealthy",
                "servers?service=IdService",
                "servers?service=IdService&status=unhealthy&sort=cpu",
                "servers?service=IdService&status=unhealthy&cpu_threshold=80",
                "servers?service=IdService&status=unhealthy&memory_threshold=80",
            ][..],
        ),
        ("services?max_age_seconds=300", &["unhealthy-services?min_healthy=3", "alerts?state=all"]),
        ("unhealthy-services?min_healthy=3", &["unhealthy-services?min_healthy=4"]),
        ("alerts?state=all", &["alerts?state=ok", "services?max_age_seconds=300"]),
        (
            "servers/10.58.2.1/history?window=2h",
            &["servers/10.58.1.12/history?window=2h", "servers/10.58.2.1/history?window=3h"],
        ),
    ] {
        let page = client.get(&format!("/api/v1/{question}&limit=1")).await.expect(200).json();
        let cursor = page["next_cursor"].as_str().unwrap();
        client.get(&format!("/api/v1/{question}&limit=2&cursor={cursor}")).await.expect(200);
        for another in others {
            client.get(&format!("/api/v1/{another}&limit=1&cursor={cursor}")).await.problem(400, "bad-cursor");
        }
        other.get(&format!("/api/v1/{question}&limit=1&cursor={cursor}")).await.problem(400, "bad-cursor");
    }
}
