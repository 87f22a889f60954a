//! What goes wrong from when to when.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use simulators::{
    deployments::{self, Config, Entry, Fault, Script, Simulator, True, Who},
    server::StartError,
};

use crate::{common::change, get, script, seconds, started, two};

/// Which of them answer 500 and above.
async fn failing(sim: &Simulator) -> BTreeSet<String> {
    let mut failing = BTreeSet::new();
    for deployment in sim.deployments() {
        if get(sim, &format!("/status/{}", deployment.id)).await.unwrap().status().is_server_error() {
            failing.insert(deployment.id);
        }
    }
    failing
}

fn many(entries: Value) -> Config {
    Config { count: 12, manual: true, script: script(entries), ..Config::default() }
}

#[tokio::test]
async fn an_entry_holds_from_its_time_on_up_to_and_without_its_end() {
    let sim = started(many(json!([
        { "at": "1m", "for": "30s", "ids": ["eu-1"], "what": "status_error" },
        { "at": "5m", "ids": ["us-2"], "what": "status_error" },
    ])))
    .await;
    for (at, expected) in
        [(0, None), (59, None), (60, Some("eu-1")), (89, Some("eu-1")), (90, None), (299, None), (300, Some("us-2"))]
    {
        sim.set_time(seconds(at));
        assert_eq!(failing(&sim).await, expected.map(str::to_owned).into_iter().collect(), "at {at} s");
    }
    sim.set_time(seconds(1_000_000));
    assert_eq!(failing(&sim).await.len(), 1);
}

#[tokio::test]
async fn where_entries_overlap_the_later_one_counts_and_rates_do_not() {
    let mut config = many(json!([
        { "at": "0s", "all": true, "what": "status_error" },
        { "at": "0s", "ids": ["eu-1"], "what": "scale_ignore" },
        { "at": "1m", "for": "1m", "ids": ["eu-1"], "what": "status_zero_total" },
        { "at": "2m", "for": "1m", "ids": ["eu-1"], "what": "well" },
    ]));
    config.status_error_rate = 1.0;
    let sim = started(config).await;
    let eu_1 = async |at| {
        sim.set_time(seconds(at));
        let answer = get(&sim, "/status/eu-1").await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap().contains(r#""total_servers":0"#))
    };
    assert!(eu_1(0).await.0 >= 500, "an entry about scales hides none about statuses");
    assert_eq!(eu_1(60).await, (200, true));
    assert_eq!(eu_1(120).await, (200, false));
    assert!(eu_1(180).await.0 >= 500);
    assert_eq!(failing(&sim).await.len(), 12);
}

#[tokio::test]
async fn a_count_chooses_the_same_ones_every_time_and_the_seed_decides_which() {
    let chosen = async |seed, count| {
        let mut config = many(json!([{ "at": "0s", "count": count, "what": "status_error" }]));
        config.seed = seed;
        failing(&started(config).await).await
    };
    let (three, five) = (chosen(0, 3).await, chosen(0, 5).await);
    assert_eq!((three.len(), five.len()), (3, 5));
    assert!(three.is_subset(&five));
    assert_ne!(chosen(1, 5).await, five);
    assert_eq!(chosen(0, 12).await.len(), 12);
}

#[tokio::test]
async fn the_times_of_a_script_count_from_the_start_wherever_it_comes_from() {
    let sim = started(two()).await;
    sim.set_time(seconds(600));
    sim.change(|config| {
        config.script = script(json!([{ "at": "10m 10s", "for": "10s", "ids": ["eu-1"], "what": "status_error" }]));
    });
    let fails = async || get(&sim, "/status/eu-1").await.unwrap().status().is_server_error();
    assert!(!fails().await);
    sim.advance(seconds(10));
    assert!(fails().await);
    sim.change(|config| config.script = None);
    assert!(!fails().await);
}

#[test]
fn a_script_is_written_as_it_is_read() {
    let written = json!([
        { "at": "10m", "for": "1m 30s", "ids": ["eu-1", "us 2/ü"], "what": "scale_drop_after" },
        { "at": "1h", "count": 2, "what": "entry_missing" },
        { "at": "0s", "all": true, "what": "well" },
    ]);
    let script: Script<Entry> = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(script.0[0].lasts, Some(seconds(90)));
    let all = Entry { at: seconds(0), lasts: None, who: Who::All { all: True }, what: Fault::Well };
    assert_eq!(script.0[2], all);
    assert_eq!(serde_json::from_value::<Script<Entry>>(json!(script)).unwrap(), script);
    assert_eq!(json!(script)[1], written[1]);
    assert_eq!(json!(script)[2], written[2]);
}

#[tokio::test]
async fn the_script_in_the_help_is_one_and_the_help_names_every_fault() {
    let example = &deployments::HELP[deployments::HELP.find("  [{").unwrap()..];
    let script: Script<Entry> = serde_json::from_str(example).unwrap();
    assert_eq!(script.0.len(), 3);
    started(Config { script: Some(script), ..Config::default() }).await;
    let mut named = BTreeSet::from(["well".to_owned()]);
    for line in deployments::HELP.lines() {
        let line = line.split(" (").next().unwrap();
        let words: Vec<_> = line.trim().split(", ").collect();
        let Some((part, _)) = words[0].split_once('_') else { continue };
        if ["status", "discover", "entry", "scale"].contains(&part) {
            named.extend(words[1..].iter().map(|word| format!("{part}{word}")));
            named.insert(words[0].to_owned());
        }
    }
    let there_are = <Fault as clap::ValueEnum>::value_variants().iter();
    let there_are: BTreeSet<_> = there_are.map(|fault| json!(fault).as_str().unwrap().to_owned()).collect();
    assert_eq!(named, there_are);
}

#[tokio::test]
async fn a_bad_script_is_refused_with_the_entry_and_what_would_be_right() {
    let sim = started(two()).await;
    let good = json!({ "at": "10s", "count": 2, "what": "status_error" });
    let cases = [
        (json!({ "at": "10", "count": 1, "what": "well" }), "`at`: `10` is no duration; a duration has a unit"),
        (json!({ "at": "1s", "for": "-2s", "count": 1, "what": "well" }), "`for`: `-2s` is below zero"),
        (json!({ "at": "1s", "what": "well" }), "it must say who, in one way: `ids`, `count` or `\"all\": true`"),
        (json!({ "at": "1s", "count": 1, "all": true, "what": "well" }), "it must say who, in one way"),
        (json!({ "at": "1s", "all": false, "what": "well" }), "it must say who, in one way"),
        (json!({ "at": "1s", "count": 1, "what": "sick" }), "unknown variant `sick`, expected one of `well`"),
        (json!({ "at": "1s", "count": 1 }), "missing field `what`"),
        (json!({ "at": "1s", "until": "2s", "count": 1, "what": "well" }), "unknown field `until`"),
        (json!({ "at": "1s", "ids": ["eu-2"], "what": "well" }), "no deployment `eu-2`; there are 2 such as eu-1, us"),
        (json!({ "at": "1s", "count": 3, "what": "well" }), "`count` is 3, but there are 2 deployments"),
        (json!({ "at": "1s", "count": 1, "what": "discover_half" }), "about the whole list: say `\"all\": true`"),
    ];
    for (bad, reason) in cases {
        let answer = change(sim.url(), &json!({ "script": [good, bad] })).await;
        assert_eq!(answer.status(), 400);
        let message = answer.json::<Value>().await.unwrap()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("entry 2 of the script: ") && message.contains(reason), "{message}");
        let alone = serde_json::from_value(json!([bad]));
        if let Ok(script) = alone {
            let Err(StartError::Config(told)) = deployments::start(Config { script: Some(script), ..two() }).await
            else {
                panic!("it started: {bad}")
            };
            assert!(told.contains(reason), "{told}");
        }
    }
    let answer = change(sim.url(), &json!({ "script": good })).await.text().await.unwrap();
    assert!(answer.contains("a script is a JSON array of entries: [{"), "{answer}");
    assert_eq!(sim.config(), two(), "nothing has changed");
}
