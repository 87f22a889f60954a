//! What is wrong is refused, says what would be right, and asks the deployments API for nothing.

use kit::testing::Client;
use serde_json::json;
use simulators::deployments;

use crate::common::{SLOT, World, path, put, spec, state};

#[tokio::test]
async fn every_bad_parameter_is_a_clear_400() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 90)]).await;
    let client = world.client().await;
    world.put("eu-1", state(SLOT - 5..=SLOT, 85)).await;
    for (more, name, right) in [
        ("?limit=0", "?limit", "1 to 500"),
        ("?limit=501", "?limit", "1 to 500"),
        ("?limit=many", "?limit", "limit"),
        ("?state=sick", "?state", "breaker_open"),
        ("?sort=id", "?sort", "unknown field"),
        ("?cursor=AAAA", "?cursor", "start again without it"),
        ("?limit=1&limit=2", "?limit", "duplicate"),
        ("/eu-1/decisions?limit=0", "?limit", "1 to 500"),
        ("/eu-1/decisions?since=yesterday", "?since", "2027-01-15T08:00:00Z"),
        ("/eu-1/decisions?until=2027-01-15", "?until", "2027-01-15T08:00:00Z"),
        ("/eu-1/decisions?since=2027-01-15T08:00:00+01:00", "?since", "in UTC"),
        ("/eu-1/decisions?since=2027-01-15T08:00:00Z&until=2027-01-15T07:00:00Z", "?since", "is after the end"),
        ("/eu-1/decisions?since=2028-01-15T08:00:00Z", "?since", "is after the end"),
        ("/eu-1/decisions?reason=Bored", "?reason", "ScaledUp"),
        ("/eu-1/decisions?cursor=AAAA", "?cursor", "start again without it"),
        ("/eu-1/decisions?from=1", "?from", "unknown field"),
        ("/eu-1/explain?target_free_pct=100", "?target_free_pct", "less than 100"),
        ("/eu-1/explain?target_free_pct=-1", "?target_free_pct", "negative"),
        ("/eu-1/explain?target_free_pct=NaN", "?target_free_pct", "not a number"),
        ("/eu-1/explain?target_free_pct=", "?target_free_pct", "not a number"),
        ("/eu-1/explain?min_hosts=many", "?min_hosts", "whole number"),
        ("/eu-1/explain?min_hosts=-1", "?min_hosts", "whole number"),
        ("/eu-1/explain?min_hosts=9007199254740993", "?min_hosts", "9007199254740992"),
        ("/eu-1/explain?min_hosts=3&max_hosts=2", "?min_hosts", "max_hosts"),
        ("/eu-1/explain?up_step_pct=1001", "?up_step_pct", "1000"),
        ("/eu-1/explain?down_step_pct=101", "?down_step_pct", "100"),
        ("/eu-1/explain?window_seconds=1.5", "?window_seconds", "whole number"),
        ("/eu-1/explain?window_seconds=601", "?window_seconds", "600"),
        ("/eu-1/explain?cooldown_after_up_seconds=86401", "?cooldown_after_up_seconds", "86400"),
        ("/eu-1/explain?mode=off", "?mode", "paused_in"),
        ("/eu-1/explain?until=2027-01-15T08:00:00Z", "?until", "unknown field"),
    ] {
        let problem = client.get(&format!("/api/v1/deployments{more}")).await.expect(400).json();
        assert_eq!(problem["errors"][0]["pointer"], name, "{more}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(right), "{more}: {problem}");
    }
    assert_eq!(world.sim.stats().traffic.requests, 0, "nothing was asked for");
}

#[tokio::test]
async fn without_an_address_every_question_names_the_setting() {
    let sim = deployments::start(deployments::Config { manual: true, ..deployments::Config::default() }).await.unwrap();
    let world = World::on(sim, None).await;
    let client = world.client().await;
    let not_configured = |reply: kit::testing::Reply| {
        let problem = reply.problem(503, "not-configured");
        assert!(problem["detail"].as_str().unwrap().contains("MUSTER_DEPLOYMENTS_URL"), "{problem}");
    };
    for more in ["", "/eu-1", "/eu-1/decisions", "/eu-1/explain", "/eu-1/policy", "-policy"] {
        not_configured(client.get(&format!("/api/v1/deployments{more}")).await);
    }
    for more in ["/eu-1/policy", "-policy"] {
        let at = format!("/api/v1/deployments{more}");
        not_configured(put(&client, &at, &[("if-match", "*")], &json!({})).await);
    }
    not_configured(client.post("/api/v1/deployments/simulate", json!({"policy": {}})).await);
}

#[tokio::test]
async fn who_may_read_may_not_set_and_who_may_set_may_not_read() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 90)]).await;
    world.put("eu-1", state(SLOT - 5..=SLOT, 85)).await;
    let client = async |scope| Client::new(&world.app, &world.access, "acme", &[scope]).await;
    let (reader, writer) = (client("autoscaler:read").await, client("autoscaler:write").await);
    let other = client("services:read").await;
    let simulated = json!({"deployment_id": "eu-1", "policy": {}});
    for more in ["", "/eu-1", "/eu-1/decisions", "/eu-1/explain", "/eu-1/policy", "-policy"] {
        let at = format!("/api/v1/deployments{more}");
        reader.get(&at).await.expect(200);
        for without in [&writer, &other] {
            without.get(&at).await.problem(403, "missing-scope");
        }
    }
    reader.post("/api/v1/deployments/simulate", &simulated).await.expect(200);
    writer.post("/api/v1/deployments/simulate", &simulated).await.problem(403, "missing-scope");
    for at in [path("eu-1", "/policy"), "/api/v1/deployments-policy".to_owned()] {
        put(&reader, &at, &[("if-match", "*")], &json!({})).await.problem(403, "missing-scope");
        put(&writer, &at, &[("if-match", "*")], &json!({})).await.expect(200);
    }
}

#[tokio::test]
async fn where_the_store_is_away_every_question_says_so() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 90)]).await;
    world.put("eu-1", state(SLOT - 5..=SLOT, 85)).await;
    let client = world.client().await;
    // The key is known by then.
    client.get("/api/v1/deployments").await.expect(200);
    world.embedded.set_away(true);
    for more in ["", "/eu-1", "/eu-1/decisions", "/eu-1/explain", "/eu-1/policy", "-policy"] {
        let reply = client.get(&format!("/api/v1/deployments{more}")).await;
        assert!(!reply.header("retry-after").is_empty(), "{more}");
        reply.problem(503, "unavailable");
    }
    for more in ["/eu-1/policy", "-policy"] {
        let reply = put(&client, &format!("/api/v1/deployments{more}"), &[("if-match", "*")], &json!({})).await;
        reply.problem(503, "unavailable");
    }
    let body = json!({"deployment_id": "eu-1", "policy": {}});
    client.post("/api/v1/deployments/simulate", body).await.problem(503, "unavailable");
    assert_eq!(world.sim.stats().traffic.requests, 0, "nothing was asked for");
}
