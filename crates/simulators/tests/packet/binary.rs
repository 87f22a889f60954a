//! `muster-sim packet` as a person or a script runs it.

use std::process::Stdio;

use clap::Parser;
use serde_json::json;
use simulators::packet::{Config, Fault, PROJECT, TOKEN, TOKEN_VARIABLE};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::common::{client, look, within};

fn muster_sim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster-sim"));
    command.arg("packet").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_remove(TOKEN_VARIABLE);
    command
}

async fn running(mut command: Command) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    within(out.read_line(&mut line)).await.unwrap();
    let url = line.trim_end().strip_prefix("packet simulator on ").unwrap().to_owned();
    (child, out, url)
}

async fn status(url: &str, project: &str, token: &str) -> u16 {
    let request = client().get(format!("{url}/projects/{project}/plans")).header("X-Auth-Token", token);
    request.send().await.unwrap().status().as_u16()
}

fn file(name: &str, text: &str) -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("muster-sim-packet-{name}-{}", std::process::id()));
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn its_flags_are_the_settings_and_it_ends_in_good_order_on_a_signal() {
    let script = file("script", &json!([{ "fault": "quota", "from": "1m" }]).to_string());
    let catalog = json!({ "operating_systems": [], "plans": [{ "slug": "p" }], "facilities": [] });
    let lists = file("catalog", &catalog.to_string());
    let token = file("token", "from-a-file\n");
    let arguments = [
        "--seed=7",
        "--project=p-1",
        "--manual",
        "--epoch=2026-01-01T00:00:00Z",
        "--speed=60",
        "--latency=1ms",
        "--provision=1m",
        "--spread=0.5",
        "--deprovision=1s",
        "--stock=5",
        "--scarce=0.5",
        "--capacity=ewr1/*=3",
        "--capacity=ams1/c3.small.x86=0",
        "--sold-out=503",
        "--no-capacity",
        "--no-health",
        "--no-meta=plans,devices",
        "--ignore-tag",
        "--error-shape=error",
        "--rate-limit=9",
        "--fault=stuck_at@ewr1=0.1,step=104",
        "--fault=create_dropped",
    ];
    let files = [("--script", &script), ("--catalog", &lists), ("--token-file", &token)];
    let mut command = muster_sim(&arguments);
    for (flag, path) in files {
        command.arg(flag).arg(path);
    }
    let (mut child, mut out, url) = running(command).await;
    for (_, path) in files {
        std::fs::remove_file(path).unwrap();
    }

    let faults = look(&url, "faults").await;
    let expected = [
        ("seed", json!(7)),
        ("project", json!("p-1")),
        ("token", json!("from-a-file")),
        ("catalog", catalog),
        ("epoch", json!("2026-01-01T00:00:00Z")),
        ("manual", json!(true)),
        ("speed", json!(60.0)),
        ("provision", json!("1m")),
        ("deprovision", json!("1s")),
        ("spread", json!(0.5)),
        ("stock", json!(5)),
        ("scarce", json!(0.5)),
        ("capacity", json!(["ewr1/*=3", "ams1/c3.small.x86=0"])),
        ("sold_out", json!("503")),
        ("no_capacity", json!(true)),
        ("no_capacity_check", json!(false)),
        ("no_health", json!(true)),
        ("no_meta", json!(["plans", "devices"])),
        ("ignore_tag", json!(true)),
        ("error_shape", json!("error")),
        ("rate_limit", json!(9)),
        ("script", json!([{ "fault": "quota", "share": 1.0, "from": "1m" }])),
    ];
    for (name, value) in expected {
        assert_eq!(faults[name], value, "{name}");
    }
    assert_eq!(faults["faults"][1], json!({ "fault": "create_dropped", "share": 1.0 }));
    assert_eq!(status(&url, "p-1", "from-a-file").await, 200);
    assert_eq!(status(&url, "p-1", TOKEN).await, 401);

    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    assert!(within(child.wait()).await.unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "");
}

#[tokio::test]
async fn the_token_comes_from_the_environment_too() {
    let mut command = muster_sim(&[]);
    command.env(TOKEN_VARIABLE, "from-the-environment");
    let (_child, _out, url) = running(command).await;
    assert_eq!(status(&url, PROJECT, "from-the-environment").await, 200);
    assert_eq!(status(&url, PROJECT, TOKEN).await, 401);
    let (_child, _out, url) = running(muster_sim(&[])).await;
    assert_eq!(status(&url, PROJECT, TOKEN).await, 200);
}

#[test]
fn without_flags_the_settings_are_those_of_the_library() {
    #[derive(Parser)]
    struct Packet {
        #[command(flatten)]
        config: Config,
    }
    assert_eq!(Packet::parse_from(["muster-sim"]).config, Config::default());
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 8] = [
        (&["--fault", "explode"], "there is no fault `explode`"),
        (&["--fault", "stuck_at,step=7"], "101 to 110"),
        (&["--capacity", "ewr1=3"], "such as ewr1/c3.small.x86=3"),
        (&["--speed", "0"], "a speed of 0 makes no sense"),
        (&["--epoch", "today"], "--epoch"),
        (&["--script", "/nowhere.json"], "cannot read the script"),
        (&["--catalog", "/nowhere.json"], "cannot read the catalogue"),
        (&["--token-file", "/nowhere"], "cannot read the token"),
    ];
    for (arguments, reason) in cases {
        let output = within(muster_sim(arguments).output()).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn the_help_tells_project_token_and_every_fault() {
    use clap::ValueEnum;
    let output = within(muster_sim(&["--help"]).output()).await.unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let unwrapped = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [PROJECT, TOKEN, TOKEN_VARIABLE] {
        assert!(unwrapped.contains(text), "{text}");
    }
    for fault in Fault::value_variants() {
        assert!(unwrapped.contains(&fault.name()), "{fault:?}");
    }
}
