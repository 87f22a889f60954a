//! `muster-sim deployments` as a person or a script runs it.

use std::process::Stdio;

use clap::Parser;
use serde_json::json;
use simulators::deployments::Config;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

use crate::common::{client, look, within};

fn muster_sim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster-sim"));
    command.arg("deployments").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn its_flags_are_the_settings_and_it_ends_in_good_order_on_a_signal() {
    let script = json!([{ "at": "0s", "count": 2, "what": "entry_missing" }]);
    let file = std::env::temp_dir().join(format!("muster-sim-deployments-{}.json", std::process::id()));
    std::fs::write(&file, script.to_string()).unwrap();
    let arguments = [
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
    let mut child = muster_sim(&arguments).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    within(out.read_line(&mut line)).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    let url = line.trim_end().strip_prefix("deployments simulator on ").unwrap();

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

    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    assert!(within(child.wait()).await.unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "");
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
        (&["--status-error-rate", "5"], "5 is outside 0..=1"),
        (&["--boot", "90"], "such as 100ms"),
        (&["--speed", "0"], "a speed of 0 makes no sense"),
        (&["--status-bad", "entry_nan"], "`status_bad` is a fault that begins with `status_`"),
        (&["--count", "100001"], "100000 is the most"),
        (&["--script", "/nowhere.json"], "cannot read the script: No such file"),
    ];
    for (arguments, reason) in cases {
        let output = within(muster_sim(arguments).output()).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn the_help_shows_a_script() {
    let output = within(muster_sim(&["--help"]).output()).await.unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains(r#"{"at": "2h", "count": 3, "what": "scale_drop_after"}"#), "{help}");
}
