//! What goes wrong with statuses and lists, as a client sees it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use simulators::{
    deployments::{Config, Fault, Simulator},
    faults::Down,
};

use crate::{
    always,
    common::{client, eventually, within},
    get, scale, script, seconds, spec, started, told, two,
};

/// One deployment whose fault is `what`, and the answers of twenty seeds.
async fn answers(what: &str, path: &str) -> Vec<Result<(u16, String), reqwest::Error>> {
    let mut answers = Vec::new();
    for seed in 0..20 {
        let hang_for = Duration::from_millis(20);
        let sim = started(Config { seed, script: always(what), hang_for, ..two() }).await;
        answers.push(match get(&sim, path).await {
            Ok(answer) => Ok((answer.status().as_u16(), answer.text().await.unwrap())),
            Err(error) => Err(error),
        });
        let name: Fault = serde_json::from_value(json!(what)).unwrap();
        let times = if what.starts_with("entry") { 2 } else { 1 };
        assert_eq!(sim.stats().faults.into_iter().collect::<Vec<_>>(), [(name, times)]);
    }
    answers
}

/// The same, where each is 200: distinct bodies.
async fn bodies(what: &str, path: &str) -> BTreeSet<String> {
    let body = |answer: Result<(u16, String), reqwest::Error>| {
        let (status, body) = answer.unwrap();
        assert_eq!(status, 200, "{what}");
        body
    };
    answers(what, path).await.into_iter().map(body).collect()
}

#[tokio::test]
async fn errors_cuts_hangs_and_garbage_of_statuses_and_lists() {
    for (part, path) in [("status", "/status/eu-1"), ("discover", "/discover")] {
        let errors = answers(&format!("{part}_error"), path).await;
        let statuses: BTreeSet<_> = errors.into_iter().map(|answer| answer.unwrap().0).collect();
        assert_eq!(statuses, BTreeSet::from([500, 502, 503]));

        let cuts = answers(&format!("{part}_cut"), path).await;
        let cuts: Vec<_> = cuts.into_iter().map(|answer| format!("{:?}", answer.unwrap_err())).collect();
        let resets = cuts.iter().filter(|error| error.contains("ConnectionReset")).count();
        assert!((1..20).contains(&resets), "some are closed, some reset: {cuts:?}");

        let began = Instant::now();
        assert!(answers(&format!("{part}_hang"), path).await.iter().all(Result::is_err));
        assert!(began.elapsed() >= Duration::from_millis(20 * 20));

        let garbage = answers(&format!("{part}_garbage"), path).await;
        let (answered, not_http): (Vec<_>, Vec<_>) = garbage.into_iter().partition(Result::is_ok);
        assert!(!not_http.is_empty());
        let bodies: BTreeSet<_> = answered.into_iter().map(Result::unwrap).collect();
        assert_eq!(bodies.len(), 3, "{bodies:?}");
        for (status, body) in bodies {
            assert_eq!(status, 200);
            assert!(serde_json::from_str::<Value>(&body).is_err(), "{body}");
        }
    }
}

#[tokio::test]
async fn a_hang_lasts_until_the_client_gives_up_and_does_not_keep_the_simulator() {
    let sim = started(Config { script: always("status_hang"), ..two() }).await;
    let ask = || tokio::spawn(client().get(format!("{}/status/eu-1", sim.url())).send());
    let asking = ask();
    eventually(|| sim.stats().statuses == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!asking.is_finished(), "no answer while the client waits");
    asking.abort();
    eventually(|| sim.stats().traffic.closed + sim.stats().traffic.abandoned == 1).await;
    let waiting = ask();
    eventually(|| sim.stats().statuses == 2).await;
    let stats = within(sim.stop()).await;
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(stats.faults[&Fault::StatusHang], 2);
}

#[tokio::test]
async fn bad_statuses_are_bad_in_the_way_they_are_named() {
    let path = "/status/eu-1";
    let nan = bodies("status_nan", path).await;
    assert_eq!(nan.len(), 3, "each of the counts: {nan:?}");
    assert!(nan.contains(r#"{"current_hosts":10,"total_servers":100,"free_servers":NaN}"#), "{nan:?}");
    assert!(nan.iter().all(|body| serde_json::from_str::<Value>(body).is_err()));

    let json = async |what| -> Vec<Value> {
        bodies(what, path).await.iter().map(|body| serde_json::from_str(body).unwrap()).collect()
    };
    let above = json("status_free_above_total").await;
    assert!(above.len() > 3);
    for status in above {
        assert!(status["free_servers"].as_u64() > Some(100), "{status}");
        assert_eq!((&status["current_hosts"], &status["total_servers"]), (&json!(10), &json!(100)));
    }

    let missing = json("status_missing_field").await;
    assert_eq!(missing.len(), 4);
    let fields: BTreeSet<_> = missing.iter().map(|status| status.as_object().unwrap().len()).collect();
    assert_eq!(fields, BTreeSet::from([0, 2]));

    let counts = ["current_hosts", "total_servers", "free_servers"];
    let bad = [
        ("status_negative", (|count| count.as_i64() < Some(0)) as fn(&Value) -> bool),
        ("status_fractional", |count| count.as_f64().is_some_and(|count| count.fract() > 0.0)),
        ("status_text", Value::is_string),
    ];
    for (what, is_bad) in bad {
        let statuses = json(what).await;
        assert_eq!(statuses.len(), 3, "{what}: {statuses:?}");
        for status in statuses {
            assert_eq!(counts.iter().filter(|count| is_bad(&status[**count])).count(), 1, "{what}: {status}");
        }
    }
    let zero = bodies("status_zero_total", path).await;
    assert_eq!(zero, BTreeSet::from([r#"{"current_hosts":10,"total_servers":0,"free_servers":0}"#.to_owned()]));
    assert!(answers("status_unknown", path).await.iter().all(|answer| answer.as_ref().unwrap().0 == 404));
}

#[tokio::test]
async fn a_count_of_zero_can_be_negative_too() {
    let fleet = Some(vec![spec("eu-1", 1, "5", 0, 0)]);
    for seed in 0..9 {
        let config = Config { seed, fleet: fleet.clone(), script: always("status_negative"), ..two() };
        let status = told(&started(config).await, "/status/eu-1").await;
        assert!(status.to_string().contains("-1"), "{status}");
    }
}

#[tokio::test]
async fn an_entry_of_the_list_is_bad_in_the_way_it_is_named_and_the_others_are_not() {
    let good = json!({ "id": "eu-1", "servers_per_host": 10, "target_free_pct": 15.0 });
    let other = json!({ "id": "us 2/ü", "servers_per_host": 3, "target_free_pct": 0.001 });
    let with = |field: &str, value: Value| {
        let mut entry = good.clone();
        entry[field] = value;
        entry
    };
    let twice = json!({ "id": "eu-1", "servers_per_host": 11, "target_free_pct": 1.0 });
    let cases = [
        ("well", json!([good, other])),
        ("entry_missing", json!([other])),
        ("entry_twice", json!([good, twice, other])),
        ("entry_zero_servers", json!([with("servers_per_host", json!(0)), other])),
        ("entry_target_negative", json!([with("target_free_pct", json!(-1)), other])),
        ("entry_target_hundred", json!([with("target_free_pct", json!(100)), other])),
        ("entry_target_text", json!([with("target_free_pct", json!("abc")), other])),
        ("entry_missing_field", json!([{ "id": "eu-1", "servers_per_host": 10 }, other])),
    ];
    let sim = started(two()).await;
    let set = |what: &str| {
        let script = script(json!([{ "at": "0s", "ids": ["eu-1"], "what": what }]));
        sim.change(|config| config.script = script);
    };
    for (what, expected) in cases {
        set(what);
        assert_eq!(told(&sim, "/discover").await, json!({ "deployments": expected }), "{what}");
        assert_eq!(get(&sim, "/status/eu-1").await.unwrap().status(), 200, "{what}");
    }
    set("entry_nan");
    let list = get(&sim, "/discover").await.unwrap().text().await.unwrap();
    assert!(list.contains(r#"{"id":"eu-1","servers_per_host":10,"target_free_pct":NaN},{"id":"us 2/ü""#), "{list}");
    assert_eq!(sim.stats().faults.values().sum::<u64>(), 8, "{:?}", sim.stats().faults);
}

fn ids(list: &Value) -> Vec<&str> {
    list["deployments"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_are_empty_or_lack_more_than_half() {
    let empty = bodies("discover_empty", "/discover").await;
    assert_eq!(empty, BTreeSet::from([r#"{"deployments":[]}"#.to_owned()]));

    for count in [1, 2, 7, 20] {
        let sim = started(Config { count, script: always("discover_half"), manual: true, ..Config::default() }).await;
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let list = told(&sim, "/discover").await;
            let ids = ids(&list);
            assert!(ids.len() * 2 < count as usize, "{ids:?} of {count}");
            seen.extend(ids.into_iter().map(str::to_owned));
            sim.advance(seconds(30));
        }
        assert!(count < 3 || seen.len() == count as usize, "not always the same ones: {seen:?}");
    }
}

#[tokio::test]
async fn a_fault_of_one_part_leaves_the_others_as_they_are() {
    let all = async |sim: &Simulator| {
        let mut statuses = Vec::new();
        for path in ["/discover", "/status/eu-1"] {
            statuses.push(get(sim, path).await.is_ok_and(|answer| answer.status() == 200));
        }
        statuses.push(scale(sim, "eu-1", 1).await.is_ok_and(|answer| answer.status() == 200));
        statuses
    };
    for (what, expected) in [
        ("discover_error", [false, true, true]),
        ("status_error", [true, false, true]),
        ("scale_error", [true, true, false]),
    ] {
        let sim = started(Config { script: always(what), ..two() }).await;
        assert_eq!(all(&sim).await, expected, "{what}");
    }
    for down in [Down::Status503, Down::Reset] {
        let sim = started(Config { down, ..two() }).await;
        assert_eq!(all(&sim).await, [false, false, false]);
        assert_eq!(sim.scales(), []);
        sim.change(|config| config.down = Down::No);
        assert_eq!(all(&sim).await, [true, true, true]);
    }
}

#[tokio::test]
async fn an_answer_takes_its_latency_and_its_jitter() {
    let (latency, jitter) = (Duration::from_millis(100), Duration::from_millis(100));
    let sim = started(Config { latency, jitter, ..two() }).await;
    let mut took = Vec::new();
    for _ in 0..3 {
        for path in ["/discover", "/status/eu-1"] {
            let began = Instant::now();
            told(&sim, path).await;
            took.push(began.elapsed());
        }
        let began = Instant::now();
        scale(&sim, "eu-1", 1).await.unwrap();
        took.push(began.elapsed());
    }
    assert!(took.iter().all(|took| *took >= latency), "{took:?}");
    assert!(took.iter().max().unwrap().saturating_sub(*took.iter().min().unwrap()) > Duration::from_millis(10));
}
