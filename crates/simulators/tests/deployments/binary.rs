//! `muster-sim deployments` as a person or a script runs it.

use clap::Parser;
use serde_json::json;
use simulators::deployments::Config;

use crate::{
    common::{client, look},
    program::{Program, help, refused},
};

#[tokio::test]
async fn its_flags_are_the_settings_and_it_ends_in_good_order_on_a_signal() {
    let script = json!([{ "at": "0s", "count": 2, "what": "entry_missing" }]);
    let file = std::env::temp_dir().join(format!("muster-sim-deployments-{}.json", std::process::id()));
    std::fs::write(&file, script.to_string()).unwrap();
    let arguments = [
        "deployments",
        "--seed=7",
        "--count=30",
        "--manual",
        "--strange-ids",
        "--boot=2m",
        "--drain=1s",
        "--late-by=5s",
        "--speed=60",
        "--latency=1ms",
        "--scale-drop-after-rate=0.25",
        "--status-bad-rate=0.5",
        "--status-bad=status_nan",
        "--entry-bad=entry_twice",
        "--script",
    ];
    let arguments: Vec<_> = arguments.into_iter().chain([file.to_str().unwrap()]).collect();
    let program = Program::start(&arguments).await;
    let url = &program.url;
    std::fs::remove_file(&file).unwrap();

    let faults = look(url, "faults").await;
    let expected = [
        ("seed", json!(7)),
        ("count", json!(30)),
        ("manual", json!(true)),
        ("strange_ids", json!(true)),
        ("boot", json!("2m")),
        ("drain", json!("1s")),
        ("late_by", json!("5s")),
        ("speed", json!(60.0)),
        ("latency", json!("1ms")),
        ("scale_drop_after_rate", json!(0.25)),
        ("status_bad_rate", json!(0.5)),
        ("status_bad", json!("status_nan")),
        ("entry_bad", json!("entry_twice")),
        ("script", script),
    ];
    for (name, value) in expected {
        assert_eq!(faults[name], value, "{name}");
    }
    let list: serde_json::Value = client().get(format!("{url}/discover")).send().await.unwrap().json().await.unwrap();
    assert_eq!(list["deployments"].as_array().unwrap().len(), 28);
    assert_eq!(look(url, "deployments").await.as_array().unwrap().len(), 30);

    program.ends_well("-TERM").await;
}

#[test]
fn without_flags_there_are_twenty_deployments_in_real_time_and_no_faults() {
    #[derive(Parser)]
    struct Deployments {
        #[command(flatten)]
        config: Config,
    }
    assert_eq!(Deployments::parse_from(["muster-sim"]).config, Config::default());
    let text = json!(Config::default());
    assert_eq!(serde_json::from_value::<Config>(json!({})).unwrap(), Config::default());
    assert!(text.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_rate")).all(|(_, rate)| rate == 0.0));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 6] = [
        (&["deployments", "--status-error-rate", "5"], "5 is outside 0..=1"),
        (&["deployments", "--boot", "90"], "such as 100ms"),
        (&["deployments", "--speed", "0"], "a speed of 0 makes no sense"),
        (&["deployments", "--status-bad", "entry_nan"], "`status_bad` is a fault that begins with `status_`"),
        (&["deployments", "--count", "100001"], "100000 is the most"),
        (&["deployments", "--script", "/nowhere.json"], "cannot read the script: No such file"),
    ];
    for (arguments, reason) in cases {
        refused(arguments, reason).await;
    }
}

#[tokio::test]
async fn the_help_shows_a_script() {
    let help = help("deployments").await;
    assert!(help.contains(r#"{"at": "2h", "count": 3, "what": "scale_drop_after"}"#), "{help}");
}
