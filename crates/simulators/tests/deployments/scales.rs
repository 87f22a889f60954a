//! Requests to scale: what they do, and what is told about them.

use simulators::deployments::{Config, Done, Fault, Simulator};

use crate::{
    always,
    common::{client, eventually, leave_once, look},
    counts, scale, script, seconds, started, two,
};
use serde_json::json;

#[tokio::test]
async fn a_request_that_comes_twice_scales_twice() {
    let sim = started(two()).await;
    for hosts in [11, 12] {
        assert_eq!(scale(&sim, "eu-1", 1).await.unwrap().status(), 200);
        assert_eq!(counts(&sim).await[0], hosts);
    }
    scale(&sim, "eu-1", 0).await.unwrap();
    assert_eq!(counts(&sim).await[0], 12);
    assert_eq!(sim.deployment("eu-1").unwrap().changes, 3);
}

#[tokio::test]
async fn there_are_never_fewer_than_no_hosts_and_never_too_many_to_count() {
    let sim = started(two()).await;
    for (delta, hosts) in [(-11, 0), (-1, 0), (3, 3), (i64::MIN, 0), (i64::MAX, i64::MAX.cast_unsigned())] {
        assert_eq!(scale(&sim, "eu-1", delta).await.unwrap().status(), 200);
        assert_eq!(sim.deployment("eu-1").unwrap().status.current_hosts, hosts, "{delta}");
    }
    for _ in 0..4 {
        sim.advance(seconds(90));
        scale(&sim, "eu-1", i64::MAX).await.unwrap();
    }
    assert_eq!(sim.deployment("eu-1").unwrap().status.total_servers, u64::MAX);
    for _ in 0..3 {
        scale(&sim, "eu-1", i64::MIN).await.unwrap();
    }
    sim.advance(seconds(90));
    assert_eq!(counts(&sim).await, [0, 0, 0]);
}

#[tokio::test]
async fn hosts_that_boot_are_given_back_first_the_latest_first() {
    let sim = started(two()).await;
    scale(&sim, "eu-1", 2).await.unwrap();
    sim.set_time(seconds(30));
    scale(&sim, "eu-1", 4).await.unwrap();
    scale(&sim, "eu-1", -5).await.unwrap();
    let model = sim.model("eu-1").unwrap();
    assert_eq!(model.booting().iter().collect::<Vec<_>>(), [(&seconds(90), &1)]);
    assert_eq!((model.running(), model.draining().len()), (10, 0));
    scale(&sim, "eu-1", -2).await.unwrap();
    let model = sim.model("eu-1").unwrap();
    assert_eq!((model.running(), model.booting().len()), (9, 0));
    assert_eq!(model.draining().iter().collect::<Vec<_>>(), [(&seconds(60), &1)]);
}

/// What the one request did: what is told, whether hosts changed, and the status.
async fn one(fault: &str, delta: i64) -> (Simulator, Done, Option<u16>) {
    let sim = started(Config { script: always(fault), hang_for: std::time::Duration::from_millis(50), ..two() }).await;
    sim.set_time(seconds(100));
    let status = scale(&sim, "eu-1", delta).await.ok().map(|answer| answer.status().as_u16());
    let scales = sim.scales();
    assert_eq!(scales.len(), 1);
    let told = &scales[0];
    assert_eq!((told.number, told.at, told.id.as_str(), told.delta), (1, seconds(100), "eu-1", delta));
    assert_eq!((told.answer, json!(told.fault)), (status, json!(fault)), "{fault}");
    assert_eq!(sim.stats().faults.get(&told.fault).copied(), (told.fault != Fault::Well).then_some(1));
    let (before, after) = (told.hosts_before, told.hosts_after);
    let now = sim.deployment("eu-1").unwrap();
    assert_eq!((before, after), (10, now.status.current_hosts), "{fault}");
    let applied = told.done == Done::Applied;
    assert_eq!(after == before, !applied, "{fault}");
    assert_eq!((told.applied_at, now.changes), (applied.then_some(seconds(100)), u64::from(applied)), "{fault}");
    let done = told.done;
    (sim, done, status)
}

#[tokio::test]
async fn a_scale_does_what_its_fault_leaves_of_it_and_all_of_it_is_told() {
    for (fault, done) in [
        ("well", Done::Applied),
        ("scale_drop_after", Done::Applied),
        ("scale_refuse", Done::Refused),
        ("scale_error", Done::Failed),
        ("scale_error_after", Done::Applied),
        ("scale_ignore", Done::Ignored),
        ("scale_late", Done::Pending),
        ("scale_late_drop", Done::Pending),
        ("scale_cut", Done::Cut),
        ("scale_hang", Done::Hung),
        ("scale_hang_after", Done::Applied),
    ] {
        for delta in [4, -4] {
            let (_, told, status) = one(fault, delta).await;
            assert_eq!(told, done, "{fault}");
            match fault {
                "well" | "scale_ignore" | "scale_late" => assert_eq!(status, Some(200), "{fault}"),
                "scale_refuse" => assert!(status.is_some_and(|status| (400..500).contains(&status)), "{status:?}"),
                "scale_error" | "scale_error_after" => assert!(status >= Some(500), "{fault}: {status:?}"),
                _ => assert_eq!(status, None, "{fault}"),
            }
        }
    }
}

#[tokio::test]
async fn a_late_scale_comes_into_effect_later_and_is_told_so() {
    for fault in ["scale_late", "scale_late_drop"] {
        let (sim, ..) = one(fault, 4).await;
        sim.change(|config| config.script = None);
        scale(&sim, "eu-1", -3).await.unwrap();
        sim.set_time(seconds(144));
        assert_eq!(counts(&sim).await[0], 7);
        assert_eq!((sim.scales()[0].done, sim.stats().scales_applied), (Done::Pending, 2));
        sim.set_time(seconds(200));
        let told = &sim.scales()[0];
        assert_eq!((told.done, told.applied_at), (Done::AppliedLate, Some(seconds(145))));
        assert_eq!((told.at, told.hosts_before, told.hosts_after), (seconds(100), 7, 11));
        assert_eq!(sim.model("eu-1").unwrap().booting().iter().collect::<Vec<_>>(), [(&seconds(235), &4)]);
        sim.set_time(seconds(235));
        assert_eq!(counts(&sim).await, [11, 110, 20]);
    }
}

#[tokio::test]
async fn how_late_is_set_and_late_ones_keep_their_order() {
    let sim = started(Config { script: always("scale_late"), late_by: seconds(10), ..two() }).await;
    scale(&sim, "eu-1", -20).await.unwrap();
    scale(&sim, "eu-1", 3).await.unwrap();
    sim.set_time(seconds(9));
    assert_eq!(counts(&sim).await[0], 10);
    sim.set_time(seconds(10));
    assert_eq!(counts(&sim).await[0], 3);
    let told: Vec<_> = sim.scales().iter().map(|scale| (scale.hosts_before, scale.hosts_after)).collect();
    assert_eq!(told, [(10, 0), (0, 3)]);
}

#[tokio::test]
async fn every_scale_is_listed_in_the_order_of_arrival() {
    let script = script(json!([{ "at": "1m", "for": "1m", "ids": ["us 2/ü"], "what": "scale_cut" }]));
    let sim = started(Config { script, ..two() }).await;
    scale(&sim, "us 2/ü", 1).await.unwrap();
    sim.set_time(seconds(60));
    scale(&sim, "us 2/ü", 2).await.unwrap_err();
    scale(&sim, "eu-1", 3).await.unwrap();
    scale(&sim, "nobody", 4).await.unwrap();
    let told = |number, at, id, delta, done, applied, answer, hosts: [u64; 2], fault| {
        json!({
            "number": number, "at_seconds": at, "id": id, "delta": delta, "done": done, "applied_at_seconds": applied,
            "answer": answer, "hosts_before": hosts[0], "hosts_after": hosts[1], "fault": fault,
        })
    };
    let expected = json!([
        told(1, 0.0, "us 2/ü", 1, "applied", Some(0.0), Some(200), [4, 5], "well"),
        told(2, 60.0, "us 2/ü", 2, "cut", None, None, [5, 5], "scale_cut"),
        told(3, 60.0, "eu-1", 3, "applied", Some(60.0), Some(200), [10, 13], "well"),
        told(4, 60.0, "nobody", 4, "refused", None, Some(404), [0, 0], "well"),
    ]);
    assert_eq!(look(sim.url(), "scales").await, expected);
    assert_eq!(json!(sim.scales()), expected);
    let stats = sim.stats();
    assert_eq!((stats.scales, stats.scales_applied), (4, 2));
}

#[tokio::test]
async fn a_client_that_leaves_gets_no_answer_and_scales_all_the_same() {
    let sim = started(Config { latency: std::time::Duration::from_millis(200), ..two() }).await;
    let body = json!({ "deployment_id": "eu-1", "delta": 1 });
    leave_once(|| sim.stats().scales == 1, [client().post(format!("{}/scale", sim.url())).json(&body)]).await;
    eventually(|| sim.scales().len() == 1).await;
    eventually(|| sim.stats().traffic.in_flight == 0).await;
    assert_eq!((sim.scales()[0].done, sim.scales()[0].answer), (Done::Applied, None));
    assert_eq!(sim.stats().traffic.abandoned, 1);
}
