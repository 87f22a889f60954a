//! `muster-sim` as a person or a script runs it.

use clap::Parser;
use serde_json::json;
use simulators::{cpx, lorawan, shoutcloud};

use crate::{
    common::{client, look, within},
    program::{Program, help, refused},
};

#[tokio::test]
async fn it_tells_its_address_in_one_line_and_ends_in_good_order_on_a_signal() {
    for (name, number) in [("lorawan", "-INT"), ("shoutcloud", "-TERM"), ("cpx", "-INT")] {
        let program = Program::start(&[name, "--latency", "1ms", "--error-rate", "0.0"]).await;
        assert_eq!(look(&program.url, "stats").await["requests"], 0);
        program.ends_well(number).await;
    }
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_last_answer() {
    let mut program = Program::start(&["lorawan", "--latency", "1h"]).await;
    let asking = tokio::spawn({
        let url = program.url.clone();
        async move {
            client().post(format!("{url}{}", lorawan::PATH)).json(&json!({ "deveui": "78111FFFE452555B" })).send().await
        }
    });
    within(async { while look(&program.url, "stats").await["in_flight"] != 1 {} }).await;
    program.signal("-INT").await;
    // The first signal has been taken once nobody listens any more.
    within(async { while client().get(&program.url).send().await.is_ok() {} }).await;
    let began = std::time::Instant::now();
    program.signal("-INT").await;
    assert!(within(program.child.wait()).await.unwrap().success());
    assert!(began.elapsed().as_millis() < 1500, "{:?}", began.elapsed());
    assert!(asking.await.unwrap().is_err());
}

#[tokio::test]
async fn its_flags_are_the_faults() {
    let arguments = [
        "lorawan",
        "--seed",
        "7",
        "--latency",
        "100ms",
        "--drop-after-rate",
        "0.25",
        "--throttle-above",
        "10",
        "--down",
        "503",
        "--require-token",
        "t0ken",
    ];
    let program = Program::start(&arguments).await;
    let faults = look(&program.url, "faults").await;
    let expected = [
        ("seed", json!(7)),
        ("latency", json!("100ms")),
        ("drop_after_rate", json!(0.25)),
        ("throttle_above", json!(10)),
        ("down", json!("503")),
        ("require_token", json!("t0ken")),
    ];
    for (name, value) in expected {
        assert_eq!(faults[name], value, "{name}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 9] = [
        (&["lorawan", "--error-rate", "5"], "5 is outside 0..=1"),
        (&["lorawan", "--conflict-rate", "5%"], "`5%` is no number"),
        (&["lorawan", "--latency", "100"], "such as 100ms"),
        (&["shoutcloud", "--listen", "0.0.0.0"], "loopback addresses only"),
        (&["shoutcloud", "--drop-after-rate", "1"], "unexpected argument"),
        (&["cpx", "--servers", "70000"], "addresses for 64516"),
        (&["cpx", "--list-fate", "sick"], "the list itself can be well, hang"),
        (&["cpx", "--script", "/nowhere.json"], "cannot read the script: No such file"),
        (&["cpx", "--script", env!("CARGO_MANIFEST_PATH")], "the script is no JSON: "),
    ];
    for (arguments, reason) in cases {
        refused(arguments, reason).await;
    }
}

#[test]
fn without_flags_there_are_no_faults() {
    #[derive(Parser)]
    struct Lorawan {
        #[command(flatten)]
        config: lorawan::Config,
    }
    #[derive(Parser)]
    struct Shoutcloud {
        #[command(flatten)]
        config: shoutcloud::Config,
    }
    #[derive(Parser)]
    struct Cpx {
        #[command(flatten)]
        config: cpx::Config,
    }
    assert_eq!(Lorawan::parse_from(["muster-sim"]).config, lorawan::Config::default());
    assert_eq!(Shoutcloud::parse_from(["muster-sim"]).config, shoutcloud::Config::default());
    assert_eq!(Cpx::parse_from(["muster-sim"]).config, cpx::Config::default());
}

#[tokio::test]
async fn cpx_has_a_fleet_faults_and_a_script_from_a_file() {
    let script = json!([{ "at": "0s", "service": "AuthService", "state": "gone" }]);
    let file = std::env::temp_dir().join(format!("muster-sim-script-{}.json", std::process::id()));
    std::fs::write(&file, script.to_string()).unwrap();
    let arguments = ["cpx", "--servers", "300", "--strange", "7", "--one-at-a-time", "--refuse-rate", "0.5"];
    let arguments: Vec<_> = arguments.into_iter().chain(["--script", file.to_str().unwrap()]).collect();
    let program = Program::start(&arguments).await;
    let url = &program.url;
    std::fs::remove_file(&file).unwrap();
    let faults = look(url, "faults").await;
    assert_eq!((&faults["script"], &faults["one_at_a_time"]), (&script, &json!(true)));
    let servers = look(url, "servers").await;
    let servers = servers.as_array().unwrap();
    let with = |fate: &str| servers.iter().filter(|server| server["fate"] == fate).count();
    let gone = servers.iter().filter(|server| server["service"] == "AuthService").count();
    assert_eq!((servers.len(), with("gone")), (300, gone));
    assert!((100..180).contains(&with("refuse")), "{}", with("refuse"));
    let list = client().get(format!("{url}/servers")).send().await.unwrap();
    assert_eq!(list.version(), reqwest::Version::HTTP_10);
    let list: serde_json::Value = list.json().await.unwrap();
    assert_eq!(list.as_array().unwrap().len(), 300 - gone + 7);
}

#[tokio::test]
async fn the_help_of_cpx_shows_a_script() {
    let help = help("cpx").await;
    assert!(help.contains(r#"{"at": "1m", "for": "2m", "service": "AuthService", "state": "hang"}"#), "{help}");
}
