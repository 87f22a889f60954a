//! `muster deployments` and `muster autoscaler run`, as their users meet them: a fleet whose numbers
//! are known, ticked, listed, explained, paused and simulated, with a server and without one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, process::Stdio, time::Duration};

use serde_json::{Value, json};
use simulators::deployments::{self, Config, Load, Simulator, Spec};
use system_tests::processes::{Machine, Ran, Running, SERVE, until};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpListener,
};

const URL: &str = autoscaler::config::URL;
const PATIENCE: Duration = Duration::from_secs(30);

/// Id, servers on each host, hosts, target, busy. The first is short, the second has just what it
/// wants, the third says nonsense.
const FLEET: [(&str, u64, u64, &str, u64); 3] =
    [("eu-1", 10, 10, "15", 90), ("us-2", 250, 3, "10.0", 637), ("zz-9", 10, 5, "20", 10)];

/// Its time stands still.
async fn fleet(config: Config) -> Simulator {
    fleet_where(config, json!([])).await
}

/// The same, with more that goes wrong.
async fn fleet_where(config: Config, more: Value) -> Simulator {
    let spec = |(id, servers_per_host, hosts, target, busy): (&str, u64, u64, &str, u64)| Spec {
        id: id.to_owned(),
        servers_per_host,
        target_free_pct: target.parse().unwrap(),
        hosts,
        load: Load::Steady { busy },
    };
    let mut script = vec![json!({"at": "0s", "ids": ["zz-9"], "what": "status_nan"})];
    script.extend(more.as_array().unwrap().clone());
    let script = Value::from(script);
    let config = Config {
        fleet: Some(FLEET.map(spec).to_vec()),
        script: Some(serde_json::from_value(script).unwrap()),
        manual: true,
        ..config
    };
    deployments::start(config).await.unwrap()
}

/// A fleet, and a machine that knows where it is.
async fn world() -> (Simulator, Machine) {
    let sim = fleet(Config::default()).await;
    let machine = Machine::new().with(URL, sim.url());
    (sim, machine)
}

async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Without the times of day, and how long ago they were.
fn timeless(text: &str) -> String {
    let line = |line: &str| line.split_once(' ').map_or(line, |(_, rest)| rest).to_owned();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The fields of a CSV by their names, a row each.
fn csv(ran: &Ran) -> Vec<Value> {
    let mut lines = ran.stdout.lines();
    let header: Vec<_> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            header.iter().zip(line.split(',')).map(|(name, value)| ((*name).to_owned(), Value::from(value))).collect()
        })
        .collect()
}

const LIVE: &str = "Read from here just now, as a dry run: nothing is kept or sent.\n";

#[tokio::test]
async fn without_anybody_who_ticks_the_deployments_are_read_from_here_and_nothing_is_sent() {
    let (sim, machine) = world().await;
    let table = machine.run(&["deployments", "--sort", "free"]).await.exits(0);
    // How long the half minute has lasted is in the column of reasons.
    let first: Vec<_> = table.stdout.lines().map(|line| words(line)[..6.min(words(line).len())].join(" ")).collect();
    insta::assert_snapshot!(first.join("\n"), @r"
    Deployment Free Target Hosts Wanted State
    eu-1 10.0% 15% ##.|................. 10 11
    us-2 15.0% 10% ##|#................. 3 3
    zz-9 - 20% - - unreadable
    ");
    assert!(table.stdout.contains("DryRun +1") && table.stdout.contains("WithinTarget"), "{table:?}");
    assert_eq!(table.stderr, LIVE);
    let rows = csv(&machine.run(&words("deployments -o csv")).await.exits(0));
    let of = |name: &str| rows.iter().map(|row| row[name].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("id"), ["eu-1", "us-2", "zz-9"]);
    assert_eq!(of("free_pct"), ["10", "15.07", ""]);
    assert_eq!(of("desired_hosts"), ["11", "3", ""]);
    assert_eq!(of("state"), ["ok", "ok", "unreadable"]);
    let json = machine.run(&words("deployments --only unreadable -o json")).await.exits(0).json();
    assert_eq!((json["items"].as_array().unwrap().len(), &json["items"][0]["id"]), (1, &"zz-9".into()));
    let show = machine.run(&words("deployments show eu-1")).await.exits(0);
    for said in ["10.0% (10 of 100 servers), target 15%  ##.|", "10 with 10 servers each, wanted 11", "Mode         on"]
    {
        assert!(show.stdout.contains(said), "it does not say {said:?}: {show:?}");
    }
    let explain = machine.run(&words("deployments explain eu-1")).await.exits(0);
    for said in ["ceil(100000 * 90 / (100000 - 15000)) = 106 servers", "Decision    ScaledUp", "Would send  +1"] {
        assert!(explain.stdout.contains(said), "it does not say {said:?}: {explain:?}");
    }
    assert_eq!(sim.scales().len(), 0, "something was sent");
    assert!(!machine.state().exists(), "a state folder was made for nothing");
    // A folder in which nothing was ever ticked says nothing.
    _ = machine.run(&words("batch list")).await.exits(0);
    assert_eq!(machine.run(&words("deployments")).await.exits(0).stderr, LIVE);
    // Who owns the folder, and serves nobody, need not be waited for.
    let run = machine.start(&words("autoscaler run --dry-run"));
    until("its tick", PATIENCE, || run.stdout().contains("deployments,").then_some(())).await;
    assert_eq!(machine.run(&words("deployments")).await.exits(0).stderr, LIVE);
    run.signal("INT").await;
    let ran = run.ended().await.exits(0);
    assert!(ran.stderr.contains("as a dry run: nothing is sent") && !ran.stderr.contains("Stopping"), "{ran:?}");
    assert_eq!(machine.run(&words("deployments")).await.exits(0).stderr, "", "it is what the tick has left");
    assert_eq!(sim.scales().len(), 0, "something was sent");
}

#[tokio::test]
async fn explaining_under_another_policy_says_what_would_be_different() {
    let (_sim, machine) = world().await;
    let sent = async |flags: &str| {
        let line = format!("deployments explain eu-1 -o json {flags}");
        let told = machine.run(&words(&line)).await.exits(0).json();
        (told["would_send"].clone(), told["overridden"].as_array().unwrap().len())
    };
    assert_eq!(sent("").await, (1.into(), 0));
    assert_eq!(sent("--target-free-pct 50").await, (8.into(), 1));
    assert_eq!(sent("--target-free-pct 50% --up-step-pct 10").await, (4.into(), 2), "the step of a tick");
    assert_eq!(sent("--max-hosts 10").await, (Value::Null, 1));
    assert_eq!(sent("--mode paused").await, (Value::Null, 1));
    assert_eq!(sent("--min-free-servers 10 --target-free-pct 0").await, (Value::Null, 2));
    machine.run(&words("deployments explain nobody")).await.refuses(3, &["nobody", "`muster deployments` lists them"]);
    machine.run(&words("deployments explain eu-1 --min-hosts 5 --max-hosts 3")).await.refuses(2, &["min_hosts"]);
}

#[tokio::test]
async fn a_single_tick_scales_once_and_what_it_decided_is_kept() {
    let (sim, machine) = world().await;
    let once = machine.run(&words("autoscaler run --once")).await.exits(1);
    insta::assert_snapshot!(timeless(&once.stdout), @r"
    eu-1 ScaledUp +1 → 11 hosts (free 10.0 % of 15 %)
    us-2 WithinTarget, 3 hosts (free 15.0 % of 10 %)
    zz-9 BadMetrics: the deployments API's answer is no JSON object of counts
    3 deployments, 1 short; 1 up, 0 down, 1 not readable
    ");
    let scales: Vec<_> = sim.scales().iter().map(|scale| (scale.id.clone(), scale.delta)).collect();
    assert_eq!(scales, [("eu-1".to_owned(), 1)]);
    // In the same half minute there is nothing to do, in the next one the host is on its way.
    let again = machine.run(&words("autoscaler run --once")).await;
    assert!(again.stdout.contains("nothing to do") || again.stdout.contains("eu-1 InFlight"), "{again:?}");
    assert_eq!(sim.scales().len(), 1);

    let rows = csv(&machine.run(&words("deployments decisions eu-1 --reason ScaledUp -o csv")).await.exits(0));
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (&rows[0]["delta"], &rows[0]["need_servers"], &rows[0]["hosts"]),
        (&"1".into(), &"106".into(), &"10".into())
    );
    let table = machine.run(&words("deployments decisions eu-1 --since 1h")).await.exits(0);
    assert!(table.stdout.contains("adds 1 host: 90 of 100 servers busy; 15 % free needs 106 servers"), "{table:?}");
    let none = machine.run(&words("deployments decisions eu-1 --until 1h")).await.exits(0);
    assert_eq!((none.stdout.as_str(), none.stderr.as_str()), ("", "No such decisions.\n"));
    let future = "deployments decisions eu-1 --since 2099-01-01T00:00:00Z";
    machine.run(&words(future)).await.refuses(2, &["since", "2099-01-01T00:00:00Z is after the end"]);
    machine.run(&words("deployments decisions nobody")).await.refuses(3, &["nobody", "muster deployments"]);
    let list = machine.run(&words("deployments")).await.exits(0);
    assert_eq!(list.stderr, "", "it is what the tick has left");
    assert!(list.stdout.contains("ScaledUp +1") || list.stdout.contains("InFlight"), "{list:?}");
    assert_eq!(machine.run(&words("deployments --exit-status")).await.code, Some(1));
    assert_eq!(machine.run(&words("deployments --exit-status --only ok")).await.code, Some(1), "eu-1 is short");

    // The same by the flag; what is kept of one API is not another's.
    let elsewhere = fleet(Config::default()).await;
    let line = ["deployments", "decisions", "eu-1", "--api-url"];
    machine.run(&[line.as_slice(), &[elsewhere.url()]].concat()).await.refuses(3, &["eu-1"]);
    let machine = machine.with(URL, "");
    let flag = machine.run(&[line.as_slice(), &[sim.url()]].concat()).await.exits(0);
    assert!(flag.stdout.contains("ScaledUp"), "{flag:?}");
    machine.run(&words("deployments")).await.refuses(2, &["no deployments API is set", "--api-url", URL]);
}

#[tokio::test]
async fn a_dry_run_decides_the_same_and_sends_nothing() {
    let (sim, machine) = world().await;
    let lines = machine.run(&words("autoscaler run --once --dry-run -o json")).await.exits(1);
    let events: Vec<Value> = lines.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 4);
    let up = events.iter().find(|event| event["deployment_id"] == "eu-1").unwrap();
    assert_eq!((&up["event"], &up["reason"], &up["delta"]), (&"decision".into(), &"DryRun".into(), &1.into()));
    let tick = &events[3];
    assert_eq!((&tick["event"], &tick["short"], &tick["bad"]), (&"tick".into(), &1.into(), &1.into()));
    assert_eq!(sim.scales().len(), 0);
}

#[tokio::test]
async fn a_pause_holds_and_ends_and_that_of_all_is_a_brake() {
    let (sim, machine) = world().await;
    let run = async |line: &str| machine.run(&words(line)).await.exits(0);
    let field = |ran: &Ran, name: &str| {
        let row =
            ran.stdout.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{ran:?}")).to_owned();
        words(&row)[1..].join(" ")
    };
    // Before the first tick there is nobody to pause but all.
    machine.run(&words("deployments pause eu-1 --reason x")).await.refuses(3, &["eu-1", "muster deployments"]);
    let paused = run("deployments pause --all --reason moving --for 2h").await;
    assert!(paused.stderr.contains("All deployments are not scaled until 20"), "{paused:?}");
    assert!(paused.stderr.contains("`muster deployments resume --all`"), "{paused:?}");
    let ticked = machine.run(&words("autoscaler run --once")).await.exits(1);
    assert!(ticked.stdout.contains("eu-1 Paused, 10 hosts"), "{ticked:?}");
    assert_eq!(sim.scales().len(), 0, "it is paused");
    let list = run("deployments").await;
    assert!(list.stdout.contains("paused"), "{list:?}");

    let own = run("deployments pause eu-1 --in --reason night --until 2099-01-01T00:00:00Z").await;
    assert_eq!((field(&own, "mode"), field(&own, "reason")), ("paused_in paused".into(), "night moving".into()));
    assert!(own.stderr.contains("its hosts do not become fewer until 2099-01-01T00:00:00Z"), "{own:?}");
    let still = run("deployments resume eu-1").await;
    assert_eq!(field(&still, "mode"), "paused");
    assert!(still.stderr.contains("still paused, as all deployments are"), "{still:?}");
    let on = run("deployments resume --all").await;
    assert_eq!(field(&on, "mode"), "on");
    let again = run("deployments resume eu-1 -o json").await.json();
    assert_eq!((&again["effective"]["mode"], &again["set"]), (&"on".into(), &json!({})));
    let past = "deployments pause eu-1 --reason x --until 2020-01-01T00:00:00Z";
    machine.run(&words(past)).await.refuses(2, &["/until", "has passed"]);
}

#[tokio::test]
async fn a_policy_is_changed_where_it_is_said_and_never_over_somebody_elses() {
    let (_sim, machine) = world().await;
    _ = machine.run(&words("autoscaler run --once")).await.exits(1);
    let run = async |line: &str| machine.run(&words(line)).await.exits(0).json();
    let none = run("deployments policy show eu-1 -o json").await;
    assert_eq!((&none["version"], &none["set"]), (&0.into(), &json!({})));
    let set =
        run("deployments policy set eu-1 --min-hosts 3 --window-seconds 5m --dry-run --reason trying -o json").await;
    assert_eq!(set["set"], json!({"min_hosts": 3, "window_seconds": 300, "mode": "dry_run", "reason": "trying"}));
    let more = run("deployments policy set eu-1 --max-hosts 50 --unset min-hosts -o json").await;
    assert_eq!(more["set"], json!({"max_hosts": 50, "window_seconds": 300, "mode": "dry_run", "reason": "trying"}));
    assert_eq!(more["version"], 2);
    let on = run("deployments policy set eu-1 --unset mode -o json").await;
    assert_eq!(on["set"], json!({"max_hosts": 50, "window_seconds": 300}));

    let stale = "deployments policy set eu-1 --min-hosts 4 --if-version 2";
    machine.run(&words(stale)).await.refuses(1, &["somebody else has set", "nothing was changed", "policy show eu-1"]);
    let fresh = run("deployments policy set eu-1 --min-hosts 4 --if-version 3 -o json").await;
    assert_eq!((&fresh["version"], &fresh["set"]["min_hosts"]), (&4.into(), &4.into()));
    let table = machine.run(&words("deployments policy show eu-1")).await.exits(0);
    assert!(table.stdout.contains("max_hosts                       50   50"), "{table:?}");
    assert!(table.stderr.starts_with("Version 4, set by key "), "{table:?}");

    machine.run(&words("deployments policy set eu-1")).await.refuses(2, &["nothing to set", "--min-hosts"]);
    machine.run(&words("deployments policy set eu-1 --min-hosts 1 --unset min_hosts")).await.refuses(2, &["--unset"]);
    machine.run(&words("deployments policy set eu-1 --min-hosts 51")).await.refuses(2, &["/min_hosts", "max_hosts 50"]);
    machine.run(&words("deployments policy set eu-1 --for 2h")).await.refuses(2, &["/until", "mode"]);
}

#[tokio::test]
async fn two_who_set_different_things_at_once_both_have_their_way() {
    let (_sim, machine) = world().await;
    let _server = machine.serve().await;
    let known = async || machine.run(&words("deployments show eu-1")).await.code == Some(0);
    for _ in 0..500 {
        if known().await {
            break;
        }
    }
    for round in 1..=5 {
        let (low, high) = (
            format!("deployments policy set eu-1 --min-hosts {round}"),
            format!("deployments policy set eu-1 --max-hosts {}", 100 + round),
        );
        let (low, high) = (words(&low), words(&high));
        let (one, other) = tokio::join!(machine.run(&low), machine.run(&high));
        _ = (one.exits(0), other.exits(0));
        let view = machine.run(&words("deployments policy show eu-1 -o json")).await.exits(0).json();
        assert_eq!(view["set"], json!({"min_hosts": round, "max_hosts": 100 + round}));
        assert_eq!(view["version"], 2 * round);
    }
}

/// A demand that rises at once and falls again.
const SAMPLES: &str = "at,busy
2027-01-15T08:00:00Z,80
2027-01-15T08:10:00Z,160
2027-01-15T08:20:00Z,80
2027-01-15T08:30:00Z,80
";

#[tokio::test]
async fn two_policies_are_simulated_side_by_side() {
    let (sim, machine) = world().await;
    fs::write(machine.home().join("samples.csv"), SAMPLES).unwrap();
    let line = "deployments simulate --samples samples.csv --servers-per-host 10 --target-free-pct 15 --min-hosts 19";
    let table = machine.run(&words(line)).await.exits(0);
    insta::assert_snapshot!(table.stdout, @r"
                      Policy                                    Against
    Minutes short     0                                         6
    Host-hours        9.66                                      7.56
    Changes           0                                         10
    Worst free share  15.79%                                    0%
    Hosts             19                                        10 to 19
                      ████████████████████████████████████████  ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▆▆▇▇██████████████████▇▇▇▆
    min_hosts         19                                        1
    ");
    assert_eq!(
        table.stderr,
        "From 2027-01-15T08:00:00Z to 2027-01-15T08:30:30Z, with 10 servers on each host and a target of 15%.\n"
    );
    let against = format!("{line} --against min_hosts=19,window_seconds=0 -o csv");
    let rows = csv(&machine.run(&words(&against)).await.exits(0));
    assert_eq!(rows[0], json!({"number": "minutes_short", "policy": "0", "against": "0"}));
    let json = machine.run(&words(&format!("{line} --against defaults -o json"))).await.exits(0).json();
    assert_eq!(
        (&json["runs"][0]["policy"]["min_hosts"], &json["runs"][1]["policy"]["min_hosts"]),
        (&19.into(), &1.into())
    );
    let piped = words(&line.replace("samples.csv", "-")).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let piped: Vec<_> = piped.iter().map(String::as_str).collect();
    let text = r#"[{"at": "2027-01-15T08:00:00Z", "busy": 80}]"#;
    _ = machine.run_with_input(&piped, text.as_bytes()).await.exits(0);
    assert!(!machine.state().exists(), "a state folder was made for nothing");

    let bare = "deployments simulate --samples samples.csv";
    machine.run(&words(bare)).await.refuses(2, &["--servers-per-host", "--target-free-pct"]);
    machine.run(&words("deployments simulate --samples none.csv")).await.refuses(2, &["none.csv", "at,busy"]);
    _ = machine.run(&words("autoscaler run --once")).await.exits(1);
    let kept =
        machine.run(&words("deployments simulate eu-1 --window 1h --up-step-hosts 9 -o json")).await.exits(0).json();
    assert_eq!(kept["runs"][0]["policy"]["up_step_hosts"], 9);
    assert_eq!(kept["runs"][1]["policy"]["up_step_hosts"], 4);
    machine.run(&words("deployments simulate nobody")).await.refuses(3, &["nobody"]);
    assert_eq!(sim.scales().len(), 1);
}

#[tokio::test]
async fn told_to_stop_in_the_middle_of_a_tick_it_ends_after_it() {
    let hangs = json!([{"at": "0s", "ids": ["eu-1"], "what": "scale_hang_after"}]);
    let sim = fleet_where(Config::default(), hangs).await;
    let machine = Machine::new().with(URL, sim.url()).with(autoscaler::config::TIMEOUT, "2");
    let run = machine.start(&words("autoscaler run"));
    until("the request to scale", PATIENCE, || (sim.scales().len() == 1).then_some(())).await;
    assert!(!run.stdout().contains("deployments,"), "the tick is over: {run:?}");
    run.signal("TERM").await;
    let ran = run.ended().await.exits(0);
    let summary = "3 deployments, 1 short; 1 up, 0 down, 1 not readable, 1 without an answer\n";
    assert!(ran.stdout.ends_with(summary), "{ran:?}");
    assert!(ran.stdout.contains("eu-1 ScaledUp +1 → 11 hosts (free 10.0 % of 15 %), no answer\n"), "{ran:?}");
    assert!(ran.stderr.starts_with(&format!("Scaling what {} lists", sim.url())), "{ran:?}");
    assert!(ran.stderr.contains("Stopping after the tick in hand."), "{ran:?}");
    let rows = csv(&machine.run(&words("deployments decisions eu-1 -o csv")).await.exits(0));
    assert_eq!((&rows[0]["reason"], &rows[0]["outcome"]), (&"ScaledUp".into(), &"no_answer".into()));
    assert_eq!(sim.scales().len(), 1);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_the_request_is_never_sent_again() {
    let hangs = json!([{"at": "0s", "ids": ["eu-1"], "what": "scale_hang_after"}]);
    let sim = fleet_where(Config::default(), hangs).await;
    let machine = Machine::new().with(URL, sim.url());
    let mut run = machine.start(&words("autoscaler run"));
    until("the request to scale", PATIENCE, || (sim.scales().len() == 1).then_some(())).await;
    run.signal("INT").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(run.status().is_none(), "it did not wait for the answer");
    run.signal("INT").await;
    assert_eq!(run.ended().await.code, Some(130));
    // Of the same half minute nothing is done again, in the next one the hosts are read.
    let again = machine.run(&words("autoscaler run --once")).await;
    assert!(again.stdout.contains("deployments,") || again.stdout.contains("nothing to do"), "{again:?}");
    assert_eq!(sim.scales().len(), 1);
}

#[tokio::test]
async fn a_state_folder_has_one_owner_and_a_server_scales_by_itself() {
    let (sim, machine) = world().await;
    let mut server = machine.serve().await;
    until("the tick of the server", PATIENCE, || (sim.scales().len() == 1).then_some(())).await;
    let run = machine.run(&words("autoscaler run --once")).await;
    run.refuses(1, &[&server.url, "a state folder has one owner", "it scales by itself", "--store dynamodb"]);
    let list = machine.run(&words("deployments -o csv")).await.exits(0);
    // In the next half minute the host is on its way.
    assert!(["ScaledUp", "InFlight"].contains(&csv(&list)[0]["reason"].as_str().unwrap()), "{list:?}");
    let pause = machine.run(&words("deployments pause eu-1 --reason x --api-url http://127.0.0.1:1")).await;
    pause.refuses(2, &[&server.url, "leave --api-url out"]);
    // Asked from here, whatever the server says.
    let other = fleet(Config::default()).await;
    let live = machine.run(&["deployments", "--api-url", other.url(), "-o", "csv"]).await.exits(0);
    assert_eq!((&csv(&live)[0]["reason"], live.stderr.as_str()), (&"DryRun".into(), LIVE));
    server.running.signal("TERM").await;
    until("its end", PATIENCE, || server.running.status()).await;
    assert_eq!(sim.scales().len(), 1);
    _ = machine.run(&words("deployments")).await.exits(0);
    let table = machine.run(&words("deployments decisions eu-1")).await.exits(0);
    assert!(table.stdout.contains("ScaledUp"), "what it kept is still there: {table:?}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_would_be_right() {
    let (_sim, machine) = world().await;
    let both = "deployments --api-url http://127.0.0.1:9 --server http://127.0.0.1:9";
    machine.run(&words(both)).await.refuses(2, &["--api-url", "--server"]);
    machine.run(&words("deployments --api-url api.example")).await.refuses(2, &["--api-url must start with http"]);
    machine.run(&words("deployments --watch show eu-1")).await.refuses(2, &["--watch", "for the list"]);
    machine.run(&words("autoscaler run --server http://127.0.0.1:9")).await.refuses(2, &["--server"]);
    machine.run(&words("autoscaler run -o csv")).await.refuses(2, &["-o json"]);
    machine.run(&words("deployments show nobody")).await.refuses(3, &["nobody", "`muster deployments` lists them"]);
    let nobody = nobody().await;
    let said = format!("the deployments API at {nobody} did not list the deployments: connection refused");
    for line in ["deployments", "deployments --watch", "deployments show eu-1"] {
        let flag = machine.run(&[words(line), vec!["--api-url", &nobody]].concat()).await;
        flag.refuses(5, &[&said, &format!("is --api-url (or {URL}) right?")]);
    }
    assert!(!machine.state().exists(), "a state folder was made for nothing");
    let machine = machine.with(URL, "");
    for line in ["deployments", "deployments explain eu-1", "autoscaler run", "autoscaler run --once"] {
        machine.run(&words(line)).await.refuses(2, &["no deployments API is set", "--api-url", URL]);
    }
    assert!(!machine.state().exists(), "a state folder was made for nothing");
    let machine = machine.with(autoscaler::config::CONCURRENCY, "0");
    machine.run(&SERVE).await.refuses(2, &[autoscaler::config::CONCURRENCY, "whole number"]);
    let machine = machine.with(autoscaler::config::CONCURRENCY, "");
    let once = machine.run(&["autoscaler", "run", "--once", "--api-url", &nobody]).await.exits(1);
    assert!(once.stdout.contains("0 deployments") && once.stdout.contains("did not list"), "{once:?}");
    let _server = machine.serve().await;
    let unset = format!("no deployments API is set where the server runs: {URL}");
    machine.run(&words("deployments")).await.refuses(5, &[&unset, "--api-url URL works from here"]);
}

async fn lines_of(watch: &Running, number: usize) -> Vec<String> {
    until("lines", PATIENCE, || {
        let said = watch.stdout();
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        (whole.lines().count() >= number).then(|| whole.lines().map(str::to_owned).collect())
    })
    .await
}

#[tokio::test]
async fn watched_into_a_pipe_each_look_is_a_line_or_rows_or_a_block() {
    let (sim, machine) = world().await;
    let server = machine.serve().await;
    until("the tick of the server", PATIENCE, || (sim.scales().len() == 1).then_some(())).await;
    let watch = machine.start(&words("deployments --watch --interval 0.5s -o json"));
    let lines = lines_of(&watch, 2).await;
    let looks: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks[1]["items"].as_array().unwrap().len(), 3);
    // A server that is away for a while is told, and ends nothing.
    drop(server);
    until("the failure", PATIENCE, || watch.stderr().contains("cannot be reached").then_some(())).await;
    watch.signal("INT").await;
    assert_eq!(watch.ended().await.code, Some(130));

    let watch = machine.start(&words("deployments --watch --interval 0.5s -o csv --only unreadable"));
    let lines = lines_of(&watch, 3).await;
    assert!(lines[0].starts_with("time,id,servers_per_host,"), "{lines:?}");
    assert!(lines[1].contains("Z,zz-9,10,20,") && lines[2].contains("Z,zz-9,10,20,"), "{lines:?}");
    watch.signal("TERM").await;
    assert_eq!(watch.ended().await.code, Some(130));

    let watch = machine.start(&words("deployments --watch --interval 0.5s --only unreadable"));
    let lines = lines_of(&watch, 8).await;
    assert!(lines[0].ends_with("Z  1 deployment, 1 not readable"), "{lines:?}");
    assert!(lines[1].starts_with("Deployment") && lines[2].starts_with("zz-9"), "{lines:?}");
    assert!(lines[3].is_empty() && lines[4].ends_with("1 not readable"), "{lines:?}");
    watch.signal("INT").await;
    assert_eq!(watch.ended().await.code, Some(130));
}

#[tokio::test]
async fn a_reader_that_has_gone_away_ends_it_well() {
    let (_sim, machine) = world().await;
    for line in ["deployments --watch --interval 0.5s -o json", "autoscaler run -o json"] {
        let mut command = machine.command(&words(line));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next_line().await.unwrap().unwrap().starts_with('{'));
        drop(lines);
        let status = tokio::time::timeout(Duration::from_secs(50), child.wait()).await.unwrap().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{line}");
    }
}
