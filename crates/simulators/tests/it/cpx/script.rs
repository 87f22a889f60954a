//! Scripts: who is sick from when to when.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use simulators::cpx::{self, Config, Entry, Fate, Script, Who};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{fixed, get, ip, list, per_cent, raw, started, three};
use crate::common::change;

fn script(entries: Value) -> Script<Entry> {
    serde_json::from_value(entries).unwrap()
}

async fn seconds(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_script_makes_servers_sick_at_given_times_and_well_again() {
    let script = script(json!([
        { "at": "10s", "for": "30s", "ips": ["10.58.1.121"], "state": "sick" },
        { "at": "20s", "for": "10s", "service": "AuthService", "state": "memory" },
        { "at": "35s", "ips": ["10.58.1.2"], "state": "gone" },
        { "at": "36s", "for": "1s", "count": 3, "state": "error" },
    ]));
    let sim = started(Config { script: Some(script), ..three() }).await;
    let ips = ["10.58.1.2", "10.58.1.10", "10.58.1.121"].map(ip);
    let fates = || ips.map(|ip| sim.fate(ip));
    let read = async |ip: &str, field: &str| per_cent(&get(&sim, &format!("/{ip}")).await.1, field);
    let well = [Fate::Well; 3];

    assert_eq!(fates(), well);
    seconds(9).await;
    assert_eq!((fates(), read("10.58.1.121", "cpu").await), (well, 61));
    seconds(1).await;
    assert_eq!(fates(), [Fate::Well, Fate::Well, Fate::Sick]);
    let mut high = BTreeSet::new();
    for _ in 0..50 {
        assert_eq!(read("10.58.1.121", "memory").await, 4);
        high.insert(read("10.58.1.121", "cpu").await);
    }
    assert!(high.len() > 5 && high.iter().all(|cpu| (91..=100).contains(cpu)), "{high:?}");
    seconds(10).await;
    assert_eq!(fates(), [Fate::Memory, Fate::Memory, Fate::Sick]);
    assert_eq!(read("10.58.1.2", "cpu").await, 7);
    assert!(read("10.58.1.2", "memory").await >= 91);
    seconds(10).await;
    assert_eq!(fates(), [Fate::Well, Fate::Well, Fate::Sick]);
    assert_eq!(list(&sim).await.len(), 3);
    seconds(5).await;
    assert_eq!(fates(), [Fate::Gone, Fate::Well, Fate::Sick]);
    assert_eq!(get(&sim, "/10.58.1.2").await, (400, json!({ "error": "Invalid IP" })));
    assert_eq!(list(&sim).await.len(), 2);
    seconds(1).await;
    assert_eq!(fates(), [Fate::Error; 3], "the later entry counts");
    assert_eq!(get(&sim, "/10.58.1.10").await.0, 500);
    seconds(4).await;
    assert_eq!(fates(), [Fate::Gone, Fate::Well, Fate::Well]);
    seconds(1_000_000).await;
    assert_eq!(fates(), [Fate::Gone, Fate::Well, Fate::Well], "without an end it lasts");
    assert_eq!(sim.stats().strange_requests, 0, "asking for a server that is gone is not strange");
}

#[tokio::test(start_paused = true)]
async fn every_state_of_a_script_is_what_a_client_finds() {
    let sim = started(Config { hang_for: Duration::from_millis(1), ..three() }).await;
    for state in [Fate::Well, Fate::Sick, Fate::Memory, Fate::Error, Fate::Garbage, Fate::Gone] {
        // As a person would: over HTTP, from now on.
        let script = json!([{ "at": "0s", "service": "UserService", "state": state }]);
        let body = json!({ "script": script }).to_string();
        let post = "POST /_sim/faults HTTP/1.1\r\nHost: cpx\r\nConnection: close\r\n";
        let (head, echo) = raw(sim.addr(), &format!("{post}Content-Length: {}\r\n\r\n{body}", body.len())).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head} {echo}");
        assert_eq!(serde_json::from_str::<Value>(&echo).unwrap()["script"], script);
        let (status, answer) = get(&sim, "/10.58.1.121").await;
        match state {
            Fate::Error => assert_eq!(status, 500),
            Fate::Gone => assert_eq!(status, 400),
            Fate::Garbage => {
                assert_ne!((status, &answer["cpu"], &answer["memory"]), (200, &json!("61%"), &json!("4%")));
            }
            Fate::Sick => assert!(per_cent(&answer, "cpu") > 90),
            Fate::Memory => assert!(per_cent(&answer, "memory") > 90),
            _ => assert_eq!((status, &answer["cpu"], &answer["memory"]), (200, &json!("61%"), &json!("4%"))),
        }
        assert_eq!(get(&sim, "/10.58.1.2").await.1["memory"], "90%", "the other services are as they were");
    }
    for state in [Fate::Hang, Fate::Refuse] {
        sim.change(|config| {
            config.script = Some(script(json!([{ "at": "0s", "service": "UserService", "state": state }])));
        });
        let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
        stream.write_all(b"GET /10.58.1.121 HTTP/1.1\r\nHost: cpx\r\n\r\n").await.unwrap();
        let ended = stream.read(&mut [0; 1]).await;
        match state {
            Fate::Hang => assert_eq!(ended.unwrap(), 0, "closed once `hang_for` is over"),
            _ => assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_that_stays_goes_on_and_another_one_begins_anew() {
    let sick = |at: &str| Some(script(json!([{ "at": at, "ips": ["10.58.1.2"], "state": "sick" }])));
    let sim = started(Config { script: sick("10s"), ..three() }).await;
    seconds(6).await;
    sim.change(|config| config.latency = Duration::from_millis(1));
    seconds(4).await;
    assert_eq!(sim.fate(ip("10.58.1.2")), Fate::Sick);
    sim.change(|config| config.script = sick("5s"));
    assert_eq!(sim.fate(ip("10.58.1.2")), Fate::Well);
    seconds(5).await;
    assert_eq!(sim.fate(ip("10.58.1.2")), Fate::Sick);
    sim.change(|config| config.script = None);
    assert_eq!(sim.fate(ip("10.58.1.2")), Fate::Well);
}

#[tokio::test]
async fn a_count_chooses_the_same_servers_every_time_of_a_service_or_of_all() {
    let sim = started(Config::default()).await;
    let chosen = |service: Option<&str>, count| {
        let who = Who::Some { service: service.map(str::to_owned), count };
        let entry = Entry { at: Duration::ZERO, lasts: None, who, state: Fate::Error };
        sim.change(|config| config.script = Some(Script(vec![entry])));
        sim.servers().into_iter().filter(|server| server.fate == Fate::Error).collect::<Vec<_>>()
    };
    let ips = |servers: &[cpx::Server]| servers.iter().map(|server| server.ip).collect::<BTreeSet<_>>();
    let (three, five) = (chosen(None, Some(3)), chosen(None, Some(5)));
    assert_eq!((three.len(), five.len()), (3, 5));
    assert!(ips(&three).is_subset(&ips(&five)));
    let all = chosen(Some("AuthService"), None);
    assert!(all.iter().all(|server| server.service == "AuthService"));
    assert_eq!(all.len(), sim.servers().iter().filter(|server| server.service == "AuthService").count());
    let most = chosen(Some("AuthService"), Some(all.len() - 1));
    assert_eq!(most.len(), all.len() - 1);
    assert!(ips(&most).is_subset(&ips(&all)));
    sim.change(|config| config.seed = 5);
    assert_ne!(ips(&chosen(None, Some(5))), ips(&five));
}

#[test]
fn a_script_is_written_as_it_is_read() {
    let written = json!([
        { "at": "10s", "for": "1m 30s", "ips": ["10.58.1.1", "10.58.1.2"], "state": "sick" },
        { "at": "1h", "service": "AuthService", "count": 2, "state": "hang" },
        { "at": "0s", "count": 3, "state": "gone" },
    ]);
    let script: Script<Entry> = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(script.0[0].lasts, Some(Duration::from_secs(90)));
    assert_eq!(serde_json::from_value::<Script<Entry>>(json!(script)).unwrap(), script);
    assert_eq!(json!(script)[1], written[1]);
}

#[tokio::test]
async fn the_script_in_the_help_is_one() {
    let example = &cpx::HELP[cpx::HELP.find("  [{").unwrap()..];
    let script: Script<Entry> = serde_json::from_str(example).unwrap();
    assert_eq!(script.0.len(), 3);
    started(Config { script: Some(script), ..Config::default() }).await;
}

#[tokio::test]
async fn a_bad_script_or_fleet_is_refused_with_the_entry_and_what_would_be_right() {
    let sim = started(Config::default()).await;
    let good = json!({ "at": "10s", "count": 3, "state": "sick" });
    let cases = [
        (json!({ "at": "10", "count": 3, "state": "sick" }), "`at`: `10` is no duration; a duration has a unit"),
        (json!({ "at": "1s", "for": "-2s", "count": 3, "state": "sick" }), "`for`: `-2s` is below zero"),
        (json!({ "at": 10, "count": 3, "state": "sick" }), "invalid type: integer `10`, expected a string"),
        (json!({ "at": "1s", "state": "sick" }), "it must say who: `ips`, `service` or `count`"),
        (json!({ "at": "1s", "ips": ["10.58.1"], "state": "sick" }), "`10.58.1` in `ips` is no IP address"),
        (json!({ "at": "1s", "ips": ["10.58.1.1"], "count": 1, "state": "sick" }), "`ips` stands alone"),
        (json!({ "at": "1s", "count": 1, "state": "ill" }), "unknown variant `ill`, expected one of `well`, `sick`"),
        (json!({ "at": "1s", "count": 1 }), "missing field `state`"),
        (json!({ "at": "1s", "until": "2s", "count": 1, "state": "sick" }), "unknown field `until`"),
        (json!(7), "expected struct Raw"),
        (json!({ "at": "1s", "ips": ["10.58.9.9"], "state": "sick" }), "no server 10.58.9.9; there are 10.58.1.1 to"),
        (json!({ "at": "1s", "count": 151, "state": "sick" }), "`count` is 151, but there are 150 servers"),
        (json!({ "at": "1s", "service": "AuthServise", "state": "sick" }), "`AuthServise`; there are AuthService, Geo"),
    ];
    for (bad, reason) in cases {
        let answer = change(sim.url(), &json!({ "script": [good, bad] })).await;
        assert_eq!(answer.status(), 400);
        let message = answer.json::<Value>().await.unwrap()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("entry 2 of the script: ") && message.contains(reason), "{message}");
    }
    let answer = change(sim.url(), &json!({ "script": good })).await.text().await.unwrap();
    assert!(answer.contains("a script is a JSON array of entries: [{"), "{answer}");
    assert_eq!(sim.config(), Config::default(), "nothing has changed");

    let fleet = Some(vec![fixed("10.58.1.1", "A", 1, 1), fixed("10.58.1.1", "B", 1, 1)]);
    let Err(error) = cpx::start(Config { fleet, ..Config::default() }).await else { panic!("it started") };
    assert_eq!(error.to_string(), "the fleet has 10.58.1.1 twice; a server has one entry");
}
