//! CPX as a client sees it, over real sockets; what the contract promises, byte by byte.

mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use simulators::{
    cpx::{self, Config, Fate, Fixed, Garbage, HUGE_BODY, HUGE_SERVICE, MOST_SERVERS, SERVICES, Simulator},
    faults::Down,
    server::StartError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::common::{change, client, eventually, look, send, within};

async fn started(config: Config) -> Simulator {
    cpx::start(config).await.unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn fixed(ip: &str, service: &str, cpu: u8, memory: u8) -> Fixed {
    Fixed { ip: ip.parse().unwrap(), service: service.to_owned(), cpu, memory }
}

/// A fleet of three servers.
fn three() -> Config {
    let fleet = vec![
        fixed("10.58.1.121", "UserService", 61, 4),
        fixed("10.58.1.2", "AuthService", 7, 90),
        fixed("10.58.1.10", "AuthService", 100, 0),
    ];
    Config { fleet: Some(fleet), ..Config::default() }
}

/// What comes back on a socket of its own until the other end closes it: head and body.
async fn raw(at: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The same for `GET path`, without timers, so that a paused clock stands still.
async fn get(sim: &Simulator, path: &str) -> (u16, Value) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: cpx\r\nConnection: close\r\n\r\n");
    let (head, body) = raw(sim.addr(), &request).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

async fn list(sim: &Simulator) -> Vec<Value> {
    let (status, list) = get(sim, "/servers").await;
    assert_eq!(status, 200);
    list.as_array().unwrap().clone()
}

fn per_cent(reading: &Value, field: &str) -> i32 {
    reading[field].as_str().unwrap().strip_suffix('%').unwrap().parse().unwrap()
}

// The contract.

#[tokio::test]
async fn a_reading_and_a_refusal_are_the_contracts_to_the_byte() {
    let sim = started(three()).await;
    let ask = async |path: &str| {
        raw(sim.addr(), &format!("GET {path} HTTP/1.1\r\nHost: cpx\r\nConnection: close\r\n\r\n")).await
    };
    let (head, body) = ask("/10.58.1.121").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, r#"{"cpu":"61%","memory":"4%","service":"UserService"}"#);
    for path in ["/10.58.1.3", "/", "/server", "/servers/", "/10.58.1.121/", "/10.58.1.121?x=1", "/010.58.1.121"] {
        let (head, body) = ask(path).await;
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{path}: {head}");
        assert_eq!(body, r#"{"error":"Invalid IP"}"#, "{path}");
    }
    let post = send(Method::POST, format!("{}/servers", sim.url()), "application/json", "").await;
    assert_eq!((post.status(), &post.headers()["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap()));
    let stats = sim.stats();
    assert_eq!((stats.asked, stats.strange_requests, stats.lists), (1, 7, 0));
}

#[tokio::test]
async fn the_list_has_150_addresses_whose_order_changes_from_call_to_call() {
    let sim = started(Config::default()).await;
    let (first, second) = (list(&sim).await, list(&sim).await);
    assert_ne!(first, second);
    let expected: BTreeSet<_> = (1..=150).map(|number| format!("10.58.1.{number}")).collect();
    for list in [first, second] {
        assert_eq!(list.len(), 150);
        assert!(!list.is_sorted_by_key(|ip| self::ip(ip.as_str().unwrap())));
        assert_eq!(list.iter().map(|ip| ip.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), expected);
    }
    assert_eq!(sim.stats().lists, 2);
}

#[tokio::test]
async fn each_server_runs_one_of_the_ten_services_for_good_and_the_seed_decides_which() {
    let services = async |seed| {
        let sim = started(Config { seed, ..Config::default() }).await;
        let mut services = BTreeMap::new();
        for server in sim.servers() {
            let (status, reading) = get(&sim, &format!("/{}", server.ip)).await;
            assert_eq!((status, reading["service"].as_str().unwrap()), (200, server.service.as_str()));
            assert_eq!(get(&sim, &format!("/{}", server.ip)).await.1["service"], reading["service"]);
            services.insert(server.ip, server.service);
        }
        services
    };
    let (one, same, other) = (services(1).await, services(1).await, services(2).await);
    assert_eq!(one, same);
    assert_ne!(one, other);
    let names: BTreeSet<_> = one.values().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(SERVICES));
}

#[tokio::test]
async fn numbers_move_from_call_to_call_around_a_level_and_the_same_seed_gives_the_same() {
    let readings = async |seed, ip: &str| {
        let sim = started(Config { seed, ..Config::default() }).await;
        let mut readings = Vec::new();
        for _ in 0..100 {
            let reading = get(&sim, &format!("/{ip}")).await.1;
            readings.push((per_cent(&reading, "cpu"), per_cent(&reading, "memory")));
        }
        readings
    };
    let mut levels = BTreeSet::new();
    for ip in ["10.58.1.1", "10.58.1.2", "10.58.1.3"] {
        let readings = readings(1, ip).await;
        for numbers in [
            readings.iter().map(|(cpu, _)| *cpu).collect::<Vec<_>>(),
            readings.iter().map(|(_, memory)| *memory).collect(),
        ] {
            let (low, high) = (*numbers.iter().min().unwrap(), *numbers.iter().max().unwrap());
            assert!(low >= 0 && high <= 100 && high - low <= 16, "{numbers:?}");
            assert!(high - low >= 5, "they move: {numbers:?}");
            assert!(numbers.windows(2).all(|pair| (pair[0] - pair[1]).abs() <= 5), "in small steps: {numbers:?}");
            levels.insert(low);
        }
    }
    assert!(levels.len() >= 4, "each around a level of its own: {levels:?}");
    assert_eq!(readings(1, "10.58.1.1").await, readings(1, "10.58.1.1").await);
    assert_ne!(readings(1, "10.58.1.1").await, readings(2, "10.58.1.1").await);
}

#[tokio::test]
async fn addresses_beyond_254_go_on_in_the_next_net() {
    let sim = started(Config { servers: 10_000, ..Config::default() }).await;
    let list: BTreeSet<_> = list(&sim).await.iter().map(|ip| self::ip(ip.as_str().unwrap())).collect();
    assert_eq!(list.len(), 10_000);
    assert!(list.contains(&ip("10.58.1.254")) && list.contains(&ip("10.58.2.1")));
    assert!(!list.contains(&ip("10.58.1.255")) && !list.contains(&ip("10.58.2.0")));
    assert_eq!(list.last(), Some(&ip("10.58.40.94")));
    assert_eq!(get(&sim, "/10.58.40.94").await.0, 200);
    assert_eq!(get(&sim, "/10.58.40.95").await.0, 400);

    sim.change(|config| config.servers = MOST_SERVERS);
    assert_eq!(sim.servers().last().unwrap().ip, ip("10.58.254.254"));
    let more = Config { servers: MOST_SERVERS + 1, ..Config::default() };
    let Err(StartError::Config(reason)) = cpx::start(more).await else { panic!("it started") };
    assert_eq!(reason, "64517 servers are too many: there are addresses for 64516");
}

// One at a time, as Python's http.server.

#[tokio::test]
async fn one_at_a_time_speaks_http_1_0_and_closes_each_connection() {
    let sim = started(Config { one_at_a_time: true, ..three() }).await;
    // The second request on the connection is not answered.
    let twice = "GET /10.58.1.121 HTTP/1.1\r\nHost: cpx\r\nConnection: keep-alive\r\n\r\n".repeat(2);
    let (head, body) = within(raw(sim.addr(), &twice)).await;
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(body, r#"{"cpu":"61%","memory":"4%","service":"UserService"}"#);
    let (head, body) = within(raw(sim.addr(), "GET /x HTTP/1.0\r\n\r\n")).await;
    assert!(head.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{head}");
    assert_eq!(body, r#"{"error":"Invalid IP"}"#);
    assert_eq!(sim.stats().traffic.requests, 2);
    assert_eq!(client().get(format!("{}/servers", sim.url())).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn one_at_a_time_takes_the_sum_of_the_latencies_and_concurrent_ones_the_longest() {
    let latency = Duration::from_millis(100);
    let took = async |one_at_a_time| {
        let sim = started(Config { one_at_a_time, latency, ..three() }).await;
        let began = Instant::now();
        let paths = ["/servers", "/10.58.1.2", "/10.58.1.10", "/10.58.1.121", "/nothing"];
        join_all(paths.map(|path| get(&sim, path))).await;
        (began.elapsed(), sim.stats().traffic.max_in_flight)
    };
    let (serial, at_once) = took(true).await;
    assert!(serial >= latency * 5 && at_once == 1, "{serial:?}, {at_once} at once");
    let (concurrent, at_once) = took(false).await;
    assert!(concurrent < latency * 4 && at_once == 5, "{concurrent:?}, {at_once} at once");
}

#[tokio::test]
async fn one_at_a_time_a_client_that_leaves_costs_its_time_all_the_same() {
    let latency = Duration::from_millis(300);
    let sim = started(Config { one_at_a_time: true, latency, ..three() }).await;
    let mut leaver = TcpStream::connect(sim.addr()).await.unwrap();
    leaver.write_all(b"GET /10.58.1.2 HTTP/1.1\r\nHost: cpx\r\n\r\n").await.unwrap();
    eventually(|| sim.stats().asked == 1).await;
    let began = Instant::now();
    drop(leaver);
    get(&sim, "/10.58.1.10").await;
    assert!(began.elapsed() > latency + latency / 2, "{:?}", began.elapsed());
    assert_eq!(sim.stats().traffic.abandoned, 1);
}

/// Linux lets one more than the length wait.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_at_a_time_five_connections_wait_and_more_do_not_get_in() {
    for (one_at_a_time, get_in) in [(true, 1 + 6), (false, 20)] {
        let sim = started(Config { one_at_a_time, ..three() }).await;
        let mut inside = vec![TcpStream::connect(sim.addr()).await.unwrap()];
        // The first is being served, though it asks for nothing, before the others queue up.
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in 1..20 {
            let connect = TcpStream::connect(sim.addr());
            let Ok(connected) = tokio::time::timeout(Duration::from_millis(100), connect).await else { break };
            inside.push(connected.unwrap());
        }
        assert_eq!(inside.len(), get_in);
    }
}

// Fates.

/// What a client finds out about a server.
async fn found(sim: &Simulator, ip: IpAddr) -> Fate {
    let began = Instant::now();
    match client().get(format!("{}/{ip}", sim.url())).send().await {
        Err(error) if format!("{error:?}").contains("ConnectionReset") => Fate::Refuse,
        Err(error) => {
            assert!(began.elapsed() >= sim.config().hang_for, "{error:?}");
            Fate::Hang
        }
        Ok(answer) if answer.status() == StatusCode::INTERNAL_SERVER_ERROR => Fate::Error,
        Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => Fate::Gone,
        Ok(answer) => {
            assert_eq!(answer.status(), StatusCode::OK);
            let reading: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
            let good = |field: &str| {
                let number = reading[field].as_str()?.strip_suffix('%')?.parse::<u8>().ok()?;
                (number <= 100).then_some(number)
            };
            let service = reading["service"].as_str().unwrap_or_default();
            let promised = reading.as_object().is_some_and(|fields| fields.len() == 3);
            match (good("cpu"), good("memory")) {
                (Some(cpu), Some(memory)) if promised && (1..100).contains(&service.len()) => match (cpu, memory) {
                    (91.., _) => Fate::Sick,
                    (_, 91..) => Fate::Memory,
                    _ => Fate::Well,
                },
                _ => Fate::Garbage,
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_server_lasts_and_is_told() {
    let config = Config {
        seed: 11,
        servers: 60,
        hang_rate: 0.2,
        hang_for: Duration::from_millis(300),
        refuse_rate: 0.2,
        error_rate: 0.2,
        garbage_rate: 0.2,
        ..Config::default()
    };
    let sim = started(config).await;
    let told = sim.servers();
    for _ in 0..2 {
        let check = async |ip, fate| {
            let found = found(&sim, ip).await;
            // By its own level a well server can be busy.
            assert!(found == fate || (fate.reports() && found.reports()), "{ip} is {fate:?}, found {found:?}");
            assert_eq!(sim.fate(ip), fate);
        };
        join_all(told.iter().map(|server| check(server.ip, server.fate))).await;
    }
    let fates: BTreeSet<_> = told.iter().map(|server| server.fate).collect();
    assert_eq!(fates, BTreeSet::from([Fate::Well, Fate::Hang, Fate::Refuse, Fate::Error, Fate::Garbage]));
    let listed = look(sim.url(), "servers").await;
    assert_eq!(listed, json!(sim.servers()));
    assert_eq!(listed[0], json!({ "ip": "10.58.1.1", "service": told[0].service, "fate": told[0].fate, "asked": 2 }));
    assert_eq!((sim.stats().asked, sim.stats().strange_requests), (120, 0));
}

#[tokio::test]
async fn a_server_has_one_fate_by_the_order_of_the_rates_and_each_rate_leaves_the_earlier_ones() {
    let sim = started(Config { servers: 20_000, ..Config::default() }).await;
    let with = |fate: Fate| sim.servers().into_iter().filter(move |server| server.fate == fate).map(|server| server.ip);
    assert_eq!(with(Fate::Well).count(), 20_000);
    sim.change(|config| config.hang_rate = 0.1);
    let hanging: Vec<_> = with(Fate::Hang).collect();
    assert!((1_850..2_150).contains(&hanging.len()), "{}", hanging.len());
    sim.change(|config| (config.refuse_rate, config.error_rate, config.garbage_rate) = (1.0, 1.0, 1.0));
    assert_eq!(with(Fate::Hang).collect::<Vec<_>>(), hanging);
    assert_eq!(with(Fate::Refuse).count(), 20_000 - hanging.len());
    sim.change(|config| config.refuse_rate = 0.0);
    assert_eq!(with(Fate::Error).count(), 20_000 - hanging.len());
    sim.change(|config| config.error_rate = 0.0);
    assert_eq!(with(Fate::Garbage).count(), 20_000 - hanging.len());
    sim.change(|config| config.seed = 1);
    assert_ne!(with(Fate::Hang).collect::<Vec<_>>(), hanging);
    assert_eq!(sim.fate(ip("192.0.2.1")), Fate::Gone);
}

#[tokio::test]
async fn garbage_is_of_many_kinds() {
    let fleet = Some(vec![fixed("10.58.1.1", "UserService", 61, 4)]);
    let sim = started(Config { fleet, garbage_rate: 1.0, ..Config::default() }).await;
    let url = format!("{}/10.58.1.1", sim.url());
    for kind in Garbage::value_variants() {
        sim.change(|config| config.garbage = Some(*kind));
        let answer = client().get(&url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let text = answer.text().await.unwrap();
        let json = serde_json::from_str::<Value>(&text);
        let good = json!({ "cpu": "61%", "memory": "4%", "service": "UserService" });
        let number = |text: &str| {
            let json = json.as_ref().unwrap();
            ["cpu", "memory"].iter().filter(|field| json[**field] == text).count() == 1
        };
        let as_meant = match kind {
            Garbage::Html => text.starts_with("<!DOCTYPE html>"),
            Garbage::CutOff => text == r#"{"cpu":"61%","mem"#,
            Garbage::MissingField => json.as_ref().unwrap().as_object().unwrap().len() < 3,
            Garbage::Null => text == "null",
            Garbage::Array => json.as_ref().unwrap() == &json!([good]),
            Garbage::Numbers => text == r#"{"cpu":61,"memory":4,"service":"UserService"}"#,
            Garbage::TooMuch => number("161%"),
            Garbage::BelowZero => number("-3%"),
            Garbage::NotANumber => number("NaN%"),
            Garbage::Blank => number(""),
            Garbage::NoName => text == r#"{"cpu":"61%","memory":"4%","service":""}"#,
            Garbage::HugeService => json.as_ref().unwrap()["service"].as_str().unwrap().len() == HUGE_SERVICE,
            Garbage::HugeBody => {
                text.len() > HUGE_BODY && good.as_object().unwrap().iter().all(|(k, v)| json.as_ref().unwrap()[k] == *v)
            }
        };
        assert!(as_meant, "{kind:?}: {}", &text[..text.len().min(200)]);
        assert_eq!(found(&sim, ip("10.58.1.1")).await, Fate::Garbage, "{kind:?}");
    }
    assert_eq!(Garbage::value_variants().len(), 13);

    // Left to the seed, servers have kinds of their own, each always the same.
    sim.set(Config { servers: 40, garbage_rate: 1.0, ..Config::default() });
    let mut answers = BTreeSet::new();
    for server in sim.servers() {
        let ask = async || client().get(format!("{}/{}", sim.url(), server.ip)).send().await.unwrap().text().await;
        let (first, second) = (ask().await.unwrap(), ask().await.unwrap());
        assert!(first == second, "{}", server.ip);
        answers.insert(serde_json::from_str::<Value>(&first).map_or(0, |json| 1 + json.to_string().len()));
    }
    assert!(answers.len() > 8, "{answers:?}");
}

// The list.

#[tokio::test]
async fn the_list_can_be_anything() {
    let sim = started(Config::default()).await;
    for list in [
        json!(["../admin", "10.58.1.1/x", "10.58.1.1", "10.58.1.1", 7, null, ["10.58.1.1", []]]),
        json!({ "servers": ["10.58.1.1"] }),
        json!([]),
        json!("10.58.1.1"),
        Value::Null,
        (0..100_000).map(|number| format!("10.{}.{}.1", number / 250, number % 250)).collect(),
    ] {
        sim.change(|config| config.list = Some(list.clone()));
        assert_eq!(get(&sim, "/servers").await, (200, list));
    }
    sim.change(|config| config.list = None);
    assert_eq!(list(&sim).await.len(), 150);
}

#[tokio::test]
async fn strange_entries_are_mixed_in_and_asking_for_them_is_counted() {
    let sim = started(Config { strange: 30, ..Config::default() }).await;
    let list = list(&sim).await;
    assert_eq!(list.len(), 180);
    let addresses: Vec<IpAddr> = list.iter().filter_map(|entry| entry.as_str()?.parse().ok()).collect();
    assert_eq!(addresses.len(), 152, "the only strange ones that are addresses repeat the first server's");
    assert_eq!(addresses.iter().filter(|known| **known == ip("10.58.1.1")).count(), 3);
    assert!(list[..60].iter().any(|entry| entry.as_str().is_none_or(|entry| !entry.starts_with("10.58.1."))));
    for expected in [json!("../admin"), json!("10.58.1.1/x"), json!(null), json!(10_581_001)] {
        assert!(list.contains(&expected), "{expected}");
    }

    // Whoever asks for addresses only makes no strange request, whoever asks for all makes some.
    for ip in addresses {
        get(&sim, &format!("/{ip}")).await;
    }
    assert_eq!((sim.stats().strange_requests, sim.stats().asked), (0, 152));
    assert_eq!(sim.servers()[0].asked, 3);
    for entry in list.iter().filter_map(Value::as_str) {
        _ = client().get(format!("{}/{entry}", sim.url())).send().await;
    }
    assert!(sim.stats().strange_requests > 10, "{}", sim.stats().strange_requests);
}

#[tokio::test]
async fn the_list_itself_can_go_wrong() {
    let sim = started(Config { hang_for: Duration::from_millis(50), ..Config::default() }).await;
    let url = format!("{}/servers", sim.url());
    let ask = async |fate| {
        sim.change(|config| config.list_fate = fate);
        let answer = client().get(&url).send().await;
        assert_eq!(get(&sim, "/10.58.1.1").await.0, 200, "{fate:?}: the servers answer");
        answer
    };
    assert!(ask(Fate::Hang).await.is_err());
    assert!(ask(Fate::Refuse).await.is_err());
    assert_eq!(ask(Fate::Error).await.unwrap().status(), 500);
    let garbage = ask(Fate::Garbage).await.unwrap();
    assert_eq!(garbage.status(), 200);
    assert!(garbage.json::<Value>().await.is_err());
    assert!(ask(Fate::Well).await.unwrap().json::<Vec<IpAddr>>().await.is_ok());
    let refused = change(sim.url(), &json!({ "list_fate": "gone" })).await;
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("can be well, hang, refuse, error or garbage"));
}

#[tokio::test]
async fn it_goes_away_as_a_whole_and_comes_back() {
    let sim = started(Config::default()).await;
    for path in ["servers", "10.58.1.1"] {
        let ask = async || client().get(format!("{}/{path}", sim.url())).send().await;
        sim.change(|config| config.down = Down::Reset);
        assert!(ask().await.is_err());
        assert_eq!(change(sim.url(), &json!({ "down": "503" })).await.status(), 200);
        assert_eq!(ask().await.unwrap().status(), 503);
        change(sim.url(), &json!({ "down": "no" })).await;
        assert_eq!(ask().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_fleet_can_be_given_over_http_too() {
    let sim = started(Config::default()).await;
    let fleet = json!([{ "ip": "10.58.1.9", "service": "OnlyService", "cpu": 90, "memory": 161 }]);
    assert_eq!(change(sim.url(), &json!({ "fleet": fleet, "latency": "1ms" })).await.status(), 200);
    assert_eq!(list(&sim).await, [json!("10.58.1.9")]);
    for _ in 0..20 {
        let reading = get(&sim, "/10.58.1.9").await.1;
        assert_eq!(reading, json!({ "cpu": "90%", "memory": "161%", "service": "OnlyService" }));
    }
    assert_eq!(change(sim.url(), &json!({ "fleat": [] })).await.status(), 400);
}

#[tokio::test]
async fn stopping_does_not_wait_for_what_hangs() {
    let sim = started(Config { hang_rate: 1.0, one_at_a_time: true, ..Config::default() }).await;
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    stream.write_all(b"GET /10.58.1.121 HTTP/1.1\r\nHost: cpx\r\n\r\n").await.unwrap();
    eventually(|| sim.stats().asked == 1).await;
    assert_eq!(within(sim.stop()).await.traffic.closed, 1);
}
