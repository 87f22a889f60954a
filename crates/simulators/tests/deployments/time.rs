//! The simulator's time, and what hosts do in it.

use simulators::deployments::Config;

use crate::{
    common::{client, look},
    counts, scale, seconds, started, told, two,
};
use serde_json::{Value, json};

#[tokio::test]
async fn manual_time_stands_still_until_it_is_moved_and_never_goes_back() {
    let sim = started(two()).await;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    assert_eq!(sim.now(), seconds(0));
    assert_eq!(sim.advance(seconds(30)), seconds(30));
    assert_eq!(sim.set_time(seconds(3600)), seconds(3600));
    assert_eq!(sim.set_time(seconds(60)), seconds(3600));
    assert_eq!(look(sim.url(), "time").await, json!({ "now_seconds": 3600.0 }));
}

#[tokio::test]
async fn time_is_moved_over_http_too() {
    let sim = started(two()).await;
    let advance = async |body: &Value| {
        let answer = client().post(format!("{}/_sim/advance", sim.url())).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(advance(&json!({ "seconds": 30 })).await, (200, json!({ "now_seconds": 30.0 })));
    assert_eq!(advance(&json!({ "seconds": 0.5 })).await, (200, json!({ "now_seconds": 30.5 })));
    assert_eq!(advance(&json!({ "to_seconds": 86400 })).await, (200, json!({ "now_seconds": 86400.0 })));
    for no_sense in [json!({}), json!({ "seconds": -1 }), json!({ "seconds": "30" }), json!({ "minutes": 1 }), json!(7)]
    {
        let (status, told) = advance(&no_sense).await;
        assert_eq!(status, 400, "{no_sense}");
        assert!(told["message"].as_str().unwrap().contains(r#"{"seconds": 30}"#), "{told}");
    }
    assert_eq!(sim.now(), seconds(86400));
    assert_eq!(sim.stats().traffic.requests, 0, "none of it counts");
}

#[tokio::test(start_paused = true)]
async fn time_goes_as_fast_as_it_should_and_goes_on_where_the_speed_changes() {
    let sim = started(Config { speed: 60.0, ..Config::default() }).await;
    tokio::time::advance(seconds(60)).await;
    assert_eq!(sim.now(), seconds(3600));
    sim.change(|config| config.speed = 1.0);
    tokio::time::advance(seconds(10)).await;
    assert_eq!(sim.now(), seconds(3610));
    sim.change(|config| config.manual = true);
    tokio::time::advance(seconds(10)).await;
    assert_eq!(sim.now(), seconds(3610));
    sim.advance(seconds(90));
    sim.change(|config| config.manual = false);
    tokio::time::advance(seconds(10)).await;
    assert_eq!(sim.now(), seconds(3710));
    sim.advance(seconds(290));
    tokio::time::advance(seconds(1)).await;
    assert_eq!(sim.now(), seconds(4001), "it can be moved where it goes by itself, too");
}

#[tokio::test]
async fn hosts_count_at_once_and_their_servers_once_they_have_booted() {
    let sim = started(two()).await;
    scale(&sim, "eu-1", 2).await.unwrap();
    assert_eq!(counts(&sim).await, [12, 100, 10]);
    sim.set_time(seconds(89));
    assert_eq!(counts(&sim).await, [12, 100, 10]);
    sim.set_time(seconds(90));
    assert_eq!(counts(&sim).await, [12, 120, 30]);
}

#[tokio::test]
async fn hosts_that_drain_count_no_more_and_their_servers_until_they_are_gone() {
    let sim = started(two()).await;
    sim.set_time(seconds(1000));
    scale(&sim, "eu-1", -3).await.unwrap();
    assert_eq!(counts(&sim).await, [7, 100, 10]);
    sim.set_time(seconds(1029));
    assert_eq!(counts(&sim).await, [7, 100, 10]);
    sim.set_time(seconds(1030));
    assert_eq!(counts(&sim).await, [7, 70, 0]);
    assert_eq!(sim.deployment("eu-1").unwrap().busy, 90);
}

#[tokio::test]
async fn boot_and_drain_take_what_they_are_set_to() {
    let sim = started(Config { boot: seconds(7), drain: seconds(0), ..two() }).await;
    scale(&sim, "eu-1", 1).await.unwrap();
    sim.set_time(seconds(6));
    assert_eq!(counts(&sim).await, [11, 100, 10]);
    sim.set_time(seconds(7));
    assert_eq!(counts(&sim).await, [11, 110, 20]);
    scale(&sim, "eu-1", -2).await.unwrap();
    assert_eq!(counts(&sim).await, [9, 90, 0]);
}

#[tokio::test]
async fn what_is_told_about_a_deployment_is_what_happened() {
    let sim = started(two()).await;
    // Ten servers of a hundred are free, and fifteen should be: short until two more hosts run.
    sim.set_time(seconds(60));
    scale(&sim, "eu-1", 2).await.unwrap();
    sim.set_time(seconds(200));
    scale(&sim, "eu-1", -1).await.unwrap();
    sim.set_time(seconds(220));
    let expected = json!({
        "id": "eu-1", "servers_per_host": 10, "target_free_pct": "15.0",
        "running": 11, "booting": 0, "draining": 1,
        "current_hosts": 11, "total_servers": 120, "free_servers": 30,
        "busy": 90, "free_share": 0.25,
        // From the start to 60 + 90 seconds.
        "seconds_short": 150.0, "worst_share": 0.1,
        // 10 from the start, 12 from 60 on; the one that drains is still there.
        "host_seconds": f64::from(10 * 60 + 12 * 160), "changes": 2,
    });
    assert_eq!(json!(sim.deployment("eu-1")), expected);
    let all = look(sim.url(), "deployments").await;
    assert_eq!((&all[0], all[1]["id"].as_str().unwrap()), (&expected, "us 2/ü"));
    assert_eq!(json!(sim.deployments()), all);
    assert_eq!(sim.deployment("eu-2"), None);
    let model = sim.model("eu-1").unwrap();
    assert_eq!(model.draining().iter().collect::<Vec<_>>(), [(&seconds(230), &1)]);
    let short: Vec<_> = model.record().spells.iter().map(|spell| (spell.from, spell.until)).collect();
    assert_eq!(short, [(seconds(0), seconds(150))]);
}

#[tokio::test]
async fn the_load_moves_with_the_time() {
    let mut config = two();
    config.fleet.as_mut().unwrap()[0].load = serde_json::from_value(
        json!({ "curve": "spike", "busy": 10, "high": 95, "at": "10m", "lasts": "2m", "every": "1h" }),
    )
    .unwrap();
    let sim = started(config).await;
    for (at, free) in [(0, 90), (599, 90), (600, 5), (719, 5), (720, 90), (4199, 90), (4200, 5), (4320, 90)] {
        sim.set_time(seconds(at));
        assert_eq!(counts(&sim).await, [10, 100, free], "at {at} s");
    }
    let deployment = told(&sim, "/_sim/deployments").await[0].clone();
    assert_eq!((&deployment["seconds_short"], &deployment["worst_share"]), (&json!(240.0), &json!(0.05)));
}
