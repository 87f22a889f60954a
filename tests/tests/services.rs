//! `muster servers` and `muster services`, as their users meet them: the four questions about a
//! fleet whose numbers are known, asked from here and through a server, and how they end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use simulators::cpx::{self, Config, Entry, Fate, Fixed, Script, Simulator, Who};
use system_tests::processes::{Machine, Running, until};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpListener,
};

const URL: &str = services::config::URL;
const PATIENCE: Duration = Duration::from_secs(30);

/// Address, service, CPU, memory. 10.58.1.9 is before 10.58.1.10, 90 % is healthy, 91 % is not.
const FLEET: [([u8; 4], &str, u8, u8); 9] = [
    ([10, 58, 1, 9], "AuthService", 61, 4),
    ([10, 58, 1, 10], "AuthService", 90, 90),
    ([10, 58, 1, 11], "AuthService", 91, 10),
    ([10, 58, 1, 2], "GeoService", 10, 95),
    ([10, 58, 1, 100], "GeoService", 50, 50),
    ([10, 58, 2, 1], "MLService", 99, 99),
    ([10, 58, 3, 1], "IdService", 20, 30),
    ([10, 58, 3, 2], "IdService", 30, 41),
    ([10, 58, 3, 3], "IdService", 1, 1),
];
/// It answers 500.
const BROKEN: [u8; 4] = [10, 58, 3, 3];

async fn fleet() -> Simulator {
    let fixed = |(ip, service, cpu, memory): ([u8; 4], &str, u8, u8)| Fixed {
        ip: ip.into(),
        service: service.to_owned(),
        cpu,
        memory,
    };
    let broken =
        Entry { at: Duration::ZERO, lasts: None, who: Who::Ips { ips: vec![BROKEN.into()] }, state: Fate::Error };
    let config =
        Config { fleet: Some(FLEET.map(fixed).to_vec()), script: Some(Script(vec![broken])), ..Config::default() };
    cpx::start(config).await.unwrap()
}

/// A fleet, and a machine that knows where it is.
async fn world() -> (Simulator, Machine) {
    let sim = fleet().await;
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

const STRANGER: &str = "1 server has never told its service, and counts in none.\n";

#[tokio::test]
async fn the_four_questions_are_answered_right_for_a_fixed_fleet() {
    let (sim, machine) = world().await;
    let servers = machine.run(&["servers"]).await.exits(0);
    insta::assert_snapshot!(servers.stdout, @r"
    IP           Service      Status     CPU  Memory  Reason
    10.58.1.2    GeoService   Unhealthy  10%  95%
    10.58.1.9    AuthService  Healthy    61%  4%
    10.58.1.10   AuthService  Healthy    90%  90%
    10.58.1.11   AuthService  Unhealthy  91%  10%
    10.58.1.100  GeoService   Healthy    50%  50%
    10.58.2.1    MLService    Unhealthy  99%  99%
    10.58.3.1    IdService    Healthy    20%  30%
    10.58.3.2    IdService    Healthy    30%  41%
    10.58.3.3    -            Unknown    -    -       CPX answered 500 Internal Server Error
    ");
    assert_eq!(servers.stderr, STRANGER);
    let services = machine.run(&["services"]).await.exits(0);
    insta::assert_snapshot!(services.stdout, @r"
    Service      Status     CPU     Memory  Servers
    AuthService  Healthy    80.67%  34.67%  2/3
    GeoService   Healthy    30.00%  72.50%  1/2
    IdService    Healthy    25.00%  35.50%  2/2
    MLService    Unhealthy  99.00%  99.00%  0/1
    ");
    assert_eq!(machine.run(&["services", "status"]).await.exits(0).stdout, services.stdout);
    let unhealthy = machine.run(&["services", "unhealthy"]).await.exits(0);
    insta::assert_snapshot!(unhealthy.stdout, @r"
    Service     Healthy servers
    MLService   0
    GeoService  1
    ");
    let track = machine.start(&["services", "track", "AuthService", "--interval", "0.5s"]);
    let twice = until("two blocks", PATIENCE, || {
        let said = track.stdout();
        (said.matches("10.58.1.11").count() >= 2).then_some(said)
    })
    .await;
    track.signal("INT").await;
    assert_eq!(track.ended().await.code, Some(130));
    let blocks: Vec<_> =
        twice.split("\n\n").map(|block| block.lines().skip(1).collect::<Vec<_>>().join("\n")).collect();
    insta::assert_snapshot!(blocks[0], @r"
    CPU 80.67%; memory 34.67%
    2 of 3 servers healthy, 1 unhealthy
    1 server has never told its service, and counts in none.
    IP          Status     CPU  Change  Memory  Change
    10.58.1.9   Healthy    61%  -       4%      -
    10.58.1.10  Healthy    90%  -       90%     -
    10.58.1.11  Unhealthy  91%  -       10%     -
    ");
    insta::assert_snapshot!(blocks[1], @r"
    CPU 80.67%, +0.00 since the last reading, +0.00 since the start; memory 34.67%, +0.00 since the last reading, +0.00 since the start
    2 of 3 servers healthy, 1 unhealthy
    1 server has never told its service, and counts in none.
    IP          Status     CPU  Change  Memory  Change
    10.58.1.9   Healthy    61%  0       4%      0
    10.58.1.10  Healthy    90%  0       90%     0
    10.58.1.11  Unhealthy  91%  0       10%     0
    ");
    assert_eq!(sim.stats().strange_requests, 0);
    assert!(!machine.state().exists(), "a state folder was made for nothing");
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_judged_by_other_thresholds() {
    let (_sim, machine) = world().await;
    let ips = async |line: &str| {
        let ran = machine.run(&words(line)).await.exits(0);
        ran.lines().iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ips("servers --service GeoService -o plain").await, ["10.58.1.2", "10.58.1.100"]);
    assert_eq!(ips("servers --status unhealthy -o plain").await, ["10.58.1.2", "10.58.1.11", "10.58.2.1"]);
    assert_eq!(ips("servers --status UNKNOWN -o plain").await, ["10.58.3.3"]);
    let by_cpu = ips("servers --sort -cpu -o plain").await;
    assert_eq!((by_cpu[0].as_str(), by_cpu[8].as_str()), ("10.58.2.1", "10.58.3.3"));
    assert_eq!(ips("servers --status unhealthy --cpu-threshold 98.5 --mem-threshold 99 -o plain").await, ["10.58.2.1"]);
    assert_eq!(ips("services unhealthy --min-healthy 1 -o plain").await, ["MLService"]);
    assert_eq!(ips("services unhealthy --mem-threshold 95 --cpu-threshold 91 -o plain").await, ["MLService"]);
    assert_eq!(ips("services status --service IdService -o plain").await, ["IdService"]);
    assert_eq!(ips("services --service IdService -o plain").await, ["IdService"]);
    let none = machine.run(&words("servers --service IdService --status unhealthy")).await.exits(0);
    assert_eq!((none.stdout.as_str(), none.stderr.starts_with("No servers.")), ("", true));
    let none = machine.run(&words("services unhealthy --min-healthy 0")).await.exits(0);
    assert!(none.stdout.is_empty() && none.stderr.contains("fewer than 0 healthy servers"), "{none:?}");
}

#[tokio::test]
async fn programs_get_what_the_api_answers_or_plain_numbers() {
    let (_sim, machine) = world().await;
    let csv = machine.run(&words("servers -o csv")).await.exits(0);
    insta::assert_snapshot!(csv.stdout, @r"
    ip,service,status,cpu_pct,memory_pct,reason
    10.58.1.2,GeoService,unhealthy,10,95,
    10.58.1.9,AuthService,healthy,61,4,
    10.58.1.10,AuthService,healthy,90,90,
    10.58.1.11,AuthService,unhealthy,91,10,
    10.58.1.100,GeoService,healthy,50,50,
    10.58.2.1,MLService,unhealthy,99,99,
    10.58.3.1,IdService,healthy,20,30,
    10.58.3.2,IdService,healthy,30,41,
    10.58.3.3,,unknown,,,CPX answered 500 Internal Server Error
    ");
    let csv = machine.run(&words("services -o csv")).await.exits(0);
    insta::assert_snapshot!(csv.stdout, @r"
    service,status,cpu_pct,memory_pct,servers,healthy,unhealthy,unknown,reporting,cpu_change,memory_change,healthy_change
    AuthService,healthy,80.67,34.67,3,2,1,0,3,,,
    GeoService,healthy,30,72.5,2,1,1,0,2,,,
    IdService,healthy,25,35.5,2,2,0,0,2,,,
    MLService,unhealthy,99,99,1,0,1,0,1,,,
    ");
    let csv = machine.run(&words("services unhealthy -o csv")).await.exits(0);
    insta::assert_snapshot!(csv.stdout, @r"
    service,healthy,unhealthy,unknown,servers
    MLService,0,1,0,1
    GeoService,1,1,0,2
    ");
    let json = machine.run(&words("servers -o json")).await.exits(0);
    assert_eq!(json.stderr, "");
    let json = json.json();
    assert_eq!((json["items"].as_array().unwrap().len(), &json["complete"]), (9, &Value::Bool(true)));
    assert_eq!((&json["items"][3]["cpu_pct"], &json["items"][3]["status"]), (&91.0.into(), &"unhealthy".into()));
    assert!(json.get("next_cursor").is_none());
    let json = machine.run(&words("services status --service AuthService -o json")).await.exits(0).json();
    assert_eq!((&json["service"], json["items"].as_array().unwrap().len()), (&"AuthService".into(), 3));
    let colored = machine.run(&words("servers --color always")).await.exits(0);
    assert!(colored.stdout.contains("\u{1b}[38;5;1mUnhealthy"), "{colored:?}");
}

#[tokio::test]
async fn a_long_list_is_fetched_whole_from_one_reading() {
    let sim = cpx::start(Config { servers: 1203, ..Config::default() }).await.unwrap();
    let machine = Machine::new();
    let run = async |line: &str| {
        let ran = machine.run(&[words(line), vec!["--cp-url", sim.url()]].concat()).await.exits(0);
        assert_eq!(ran.stderr, "", "{line}");
        ran
    };
    assert_eq!(run("servers -o plain").await.lines().len(), 1203);
    let stats = sim.stats();
    assert_eq!((stats.lists, stats.asked), (1, 1203), "one poll for all pages");
    let sorted = run("servers --sort -cpu -o csv").await;
    let cpus: Vec<f64> =
        sorted.lines()[1..].iter().map(|line| line.split(',').nth(3).unwrap().parse().unwrap()).collect();
    assert_eq!(cpus.len(), 1203);
    assert!(cpus.is_sorted_by(|a, b| a >= b));
    assert_eq!(run("servers -o json").await.json()["items"].as_array().unwrap().len(), 1203);
}

#[tokio::test]
async fn how_it_stands_is_the_exit_status_where_that_is_asked_for() {
    let (_sim, machine) = world().await;
    for (line, code) in [
        ("servers --exit-status", 1),
        ("servers --exit-status --status healthy", 0),
        ("servers --exit-status --status unknown", 1),
        ("servers --exit-status --service GeoService", 1),
        ("servers --exit-status --service GeoService --mem-threshold 95", 0),
        ("services --exit-status", 1),
        ("services status --exit-status --service AuthService", 0),
        ("services status --exit-status --service MLService", 1),
        ("services unhealthy --exit-status", 1),
        ("services unhealthy --exit-status --min-healthy 0", 0),
        ("servers --exit-status -o json", 1),
    ] {
        let ran = machine.run(&words(line)).await.exits(code);
        assert!(!ran.stderr.contains("error"), "{ran:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_would_be_right() {
    let (_sim, machine) = world().await;
    machine.run(&words("servers --service Nobody")).await.refuses(3, &["Nobody", "`muster services` lists them"]);
    machine.run(&words("services status --service Nobody")).await.refuses(3, &["Nobody"]);
    machine.run(&words("services track Nobody")).await.refuses(3, &["Nobody"]);
    let both = "servers --cp-url http://127.0.0.1:9 --server http://127.0.0.1:9";
    machine.run(&words(both)).await.refuses(2, &["--cp-url", "--server"]);
    machine.run(&words("services --exit-status unhealthy")).await.refuses(2, &["behind the subcommand"]);
    machine.run(&words("servers --cp-url cpx.example")).await.refuses(2, &["--cp-url must start with http"]);
    for line in ["services history AuthService", "services alerts"] {
        machine.run(&words(line)).await.refuses(2, &["kept by `muster serve`", "MUSTER_SERVER"]);
    }
    assert!(!machine.state().exists(), "a state folder was made for nothing");

    let machine = Machine::new();
    machine.run(&["servers"]).await.refuses(2, &["no CPX is set", "--cp-url", "MUSTER_CPX_URL", "MUSTER_SERVER"]);
    let nobody = nobody().await;
    let said = format!("CPX at {nobody} did not list its servers: connection refused");
    for line in ["servers", "services", "services unhealthy", "services track AuthService"] {
        let flag = machine.run(&[words(line), vec!["--cp-url", &nobody]].concat()).await;
        flag.refuses(5, &[&said, "is --cp-url (or MUSTER_CPX_URL) right?"]);
    }
    let machine = machine.with(URL, &nobody);
    machine.run(&["servers"]).await.refuses(5, &[&said, "is MUSTER_CPX_URL right?"]);
    assert!(!machine.state().exists(), "a state folder was made for nothing");
}

#[tokio::test]
async fn a_server_that_could_not_sign_its_alerts_does_not_start() {
    let (_sim, machine) = world().await;
    let machine = machine.with(services::config::WEBHOOK_URL, "https://hooks.example/alerts");
    let said = ["MUSTER_ALERTS_WEBHOOK_KEY is not", "openssl rand"];
    machine.run(&system_tests::processes::SERVE).await.refuses(2, &said);
    let machine = machine.with(services::config::CONCURRENCY, "none");
    machine.run(&system_tests::processes::SERVE).await.refuses(2, &["MUSTER_CPX_CONCURRENCY", "1 to 512"]);
}

/// The fleet, watched by a server on `machine`.
async fn watched(sim: &Simulator) -> (Machine, system_tests::processes::Server) {
    let machine = Machine::new().with(URL, sim.url());
    let server = machine.serve().await;
    (machine, server)
}

#[tokio::test]
async fn a_server_is_asked_unless_the_flag_says_otherwise() {
    let sim = fleet().await;
    let (machine, server) = watched(&sim).await;
    let other = cpx::start(Config { servers: 3, ..Config::default() }).await.unwrap();
    let machine = machine.with(URL, other.url());
    // Found by the state folder, and set.
    assert_eq!(machine.run(&words("servers -o plain")).await.exits(0).lines().len(), 9);
    let machine = machine.with("MUSTER_SERVER", &server.url);
    assert_eq!(machine.run(&words("servers -o plain")).await.exits(0).lines().len(), 9);
    assert_eq!(machine.run(&["servers", "-o", "plain", "--cp-url", other.url()]).await.exits(0).lines().len(), 3);
    drop(server);
    let ran = machine.run(&words("servers -o plain")).await.exits(5);
    assert!(ran.stderr.contains("cannot be reached"), "{ran:?}");
}

#[tokio::test]
async fn what_a_server_keeps_is_listed_silenced_and_still_there_when_it_has_ended() {
    let sim = fleet().await;
    let (machine, mut server) = watched(&sim).await;
    let mut seen = String::new();
    for _ in 0..200 {
        seen = machine.run(&words("services history GeoService -o csv")).await.stdout;
        if seen.lines().count() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let point = seen.lines().nth(1).unwrap_or_else(|| panic!("no snapshot: {seen}"));
    assert!(point.contains(",1,2,2,2,1,1,1,30,30,30,72.5,72.5,72.5"), "{point}");
    machine.run(&words("services history Nobody")).await.refuses(3, &["Nobody", "muster services"]);

    let pending = machine.run(&words("services alerts --status pending -o plain")).await.exits(0);
    let alerts: Vec<Vec<&str>> = pending.lines().iter().map(|line| line.split('\t').collect()).collect();
    let services: Vec<_> = alerts.iter().map(|alert| alert[1]).collect();
    assert_eq!(services, ["GeoService", "MLService"]);
    let id = alerts[0][0];
    let table = machine.run(&words("services alerts")).await.exits(0);
    assert!(table.stdout.contains("GeoService") && table.stdout.contains("pending"), "{table:?}");
    assert_eq!(
        machine.run(&words("services alerts --status all -o json")).await.json()["items"].as_array().unwrap().len(),
        5
    );

    let silence = machine.run(&["services", "silence", id, "--for", "2h", "--reason", "moving house"]).await.exits(0);
    assert!(silence.stdout.contains("moving house"), "{silence:?}");
    assert!(silence.stderr.contains(&format!("muster services unsilence {id}")), "{silence:?}");

    // What it kept is still there without it.
    server.running.signal("TERM").await;
    until("its end", PATIENCE, || server.running.status()).await;
    let table = machine.run(&words("services alerts")).await.exits(0);
    assert!(table.stdout.contains("moving house"), "{table:?}");
    let json = machine.run(&["services", "unsilence", id, "-o", "json"]).await.exits(0).json();
    assert_eq!(json["silence"], Value::Null);
    let unknown = "services silence 0198c6d2-6f7e-7a7e-8000-000000000000 --for 2h --reason x";
    machine.run(&words(unknown)).await.refuses(3, &["no such alert", "--status all"]);
    machine.with(URL, "").run(&words("services alerts")).await.refuses(2, &["no CPX is set"]);
}

async fn lines_of(track: &Running, number: usize) -> Vec<String> {
    until("lines", PATIENCE, || {
        let said = track.stdout();
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        (whole.lines().count() >= number).then(|| whole.lines().map(str::to_owned).collect())
    })
    .await
}

#[tokio::test]
async fn followed_into_a_pipe_each_reading_is_a_line_or_rows() {
    let (sim, machine) = world().await;
    let track = machine.start(&words("services track GeoService --interval 0.5s -o json"));
    let lines = lines_of(&track, 3).await;
    let readings: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&readings[0]["service"], readings[0]["items"].as_array().unwrap().len()), (&"GeoService".into(), 2));
    assert_ne!(readings[0]["observed_at"], readings[1]["observed_at"]);
    // A CPX that is away for a while is told, and ends nothing.
    let lists = sim.stats().lists;
    assert!(lists >= 3);
    sim.set(Config { down: simulators::faults::Down::Status503, ..sim.config() });
    until("the failure", PATIENCE, || track.stderr().contains("503").then_some(())).await;
    let before = track.stdout().lines().count();
    sim.set(Config { down: simulators::faults::Down::No, ..sim.config() });
    lines_of(&track, before + 1).await;
    track.signal("INT").await;
    let ran = track.ended().await;
    assert_eq!(ran.code, Some(130), "{ran:?}");

    let track = machine.start(&words("services track GeoService --interval 0.5s -o csv"));
    let lines = lines_of(&track, 5).await;
    assert_eq!(lines[0], "time,ip,service,status,cpu_pct,memory_pct,reason");
    assert!(lines[1].ends_with("Z,10.58.1.2,GeoService,unhealthy,10,95,"), "{lines:?}");
    assert!(lines[4].ends_with("Z,10.58.1.100,GeoService,healthy,50,50,"), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("time")).count(), 1);
    track.signal("TERM").await;
    assert_eq!(track.ended().await.code, Some(130));
}

#[tokio::test]
async fn a_reader_that_has_gone_away_ends_it_well() {
    let (_sim, machine) = world().await;
    let mut command = machine.command(&words("services track GeoService --interval 0.5s -o json"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with('{'));
    drop(lines);
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}
