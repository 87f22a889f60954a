//! Any fleet: its averages, its statuses, its order.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use proptest::prelude::*;
use services::{
    cpx::{MOST, parse_list},
    server::{Load, Nonsense, Server, ServiceName, Silence, Sort, Status, Thresholds, compare, parse_answer, rollups},
};

const SORTS: [Sort; 5] = [Sort::Ip, Sort::Service, Sort::Cpu, Sort::Memory, Sort::Status];

fn load() -> impl Strategy<Value = Result<Load, Silence>> {
    let pct = || prop_oneof![Just(0.0), Just(90.0), Just(100.0), (0_u32..=1000).prop_map(|n| f64::from(n) / 10.0)];
    prop_oneof![
        4 => (pct(), pct()).prop_map(|(cpu_pct, memory_pct)| Ok(Load { cpu_pct, memory_pct })),
        1 => Just(Err(Silence::Time)),
        1 => Just(Err(Silence::Cut)),
        1 => Just(Err(Silence::Said("nonsense".to_owned()))),
    ]
}

fn server() -> impl Strategy<Value = Server> {
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    (ip, proptest::option::weighted(0.9, "[A-C]"), load()).prop_map(|(ip, service, load)| {
        let service = service.map(|name| ServiceName::try_from(name).unwrap());
        // Who answered has said where it belongs.
        let service = service.or_else(|| load.is_ok().then(|| ServiceName::try_from("D".to_owned()).unwrap()));
        Server { ip, service, load, observed_at: Timestamp::UNIX_EPOCH }
    })
}

fn fleet() -> impl Strategy<Value = Vec<Server>> {
    proptest::collection::vec(server(), 0..60)
}

proptest! {
    #[test]
    fn a_service_is_the_sum_of_its_servers(fleet in fleet(), cpu_pct in 0.0..=100.0_f64, memory_pct in 0.0..=100.0_f64) {
        let thresholds = Thresholds { cpu_pct, memory_pct };
        let mut own: BTreeMap<ServiceName, Vec<&Server>> = BTreeMap::new();
        for server in &fleet {
            if let Some(service) = &server.service {
                own.entry(service.clone()).or_default().push(server);
            }
        }
        let rollups = rollups(&fleet, &thresholds);
        prop_assert_eq!(rollups.keys().collect::<Vec<_>>(), own.keys().collect::<Vec<_>>());
        for (name, own) in own {
            let sum = &rollups[&name];
            let count = |status| u32::try_from(own.iter().filter(|it| it.status(&thresholds) == status).count()).unwrap();
            prop_assert_eq!(sum.healthy, count(Status::Healthy));
            prop_assert_eq!(sum.unhealthy, count(Status::Unhealthy));
            prop_assert_eq!(sum.unknown, count(Status::Unknown));
            prop_assert_eq!(sum.servers, sum.healthy + sum.unhealthy + sum.unknown);
            let loads: Vec<&Load> = own.iter().filter_map(|it| it.load.as_ref().ok()).collect();
            prop_assert_eq!(sum.reporting() as usize, loads.len());
            let number = f64::from(sum.reporting());
            let mean = |part: fn(&Load) -> f64| loads.iter().map(|load| part(load)).sum::<f64>() / number;
            match sum.average {
                None => {
                    prop_assert!(loads.is_empty());
                    prop_assert_eq!(sum.status(&thresholds), Status::Unknown);
                }
                Some(average) => {
                    prop_assert!((average.cpu_pct - mean(|it| it.cpu_pct)).abs() < 1e-9);
                    prop_assert!((average.memory_pct - mean(|it| it.memory_pct)).abs() < 1e-9);
                    let above = average.cpu_pct > cpu_pct || average.memory_pct > memory_pct;
                    prop_assert_eq!(sum.status(&thresholds), if above { Status::Unhealthy } else { Status::Healthy });
                }
            }
        }
    }

    #[test]
    fn a_server_is_unhealthy_above_a_threshold_and_not_at_it(cpu in 0_u8..=100, memory in 0_u8..=100) {
        let load = Load { cpu_pct: cpu.into(), memory_pct: memory.into() };
        let expected = if cpu > 90 || memory > 90 { Status::Unhealthy } else { Status::Healthy };
        prop_assert_eq!(Thresholds::default().status(load), expected);
    }

    /// Pages rely on it: what comes after a place is well defined.
    #[test]
    fn every_order_is_total_and_ends_with_the_unknown(mut fleet in fleet(), descending: bool) {
        let thresholds = Thresholds::default();
        fleet.sort_by_key(|server| server.ip);
        fleet.dedup_by_key(|server| server.ip);
        for sort in SORTS {
            fleet.sort_by(|a, b| compare(a, b, sort, descending, &thresholds));
            for (i, a) in fleet.iter().enumerate() {
                for (j, b) in fleet.iter().enumerate() {
                    prop_assert_eq!(compare(a, b, sort, descending, &thresholds), i.cmp(&j), "{:?} {} {}", sort, i, j);
                }
            }
            if matches!(sort, Sort::Cpu | Sort::Memory) {
                let first = fleet.iter().position(|it| it.load.is_err()).unwrap_or(fleet.len());
                prop_assert!(fleet[first..].iter().all(|it| it.load.is_err()));
            }
        }
    }

    #[test]
    fn a_whole_per_cent_is_read_back(cpu in 0_u8..=100, memory in 0_u8..=100) {
        let body = format!(r#"{{"cpu":"{cpu}%","memory":"{memory}%","service":"A"}}"#);
        let (name, load) = parse_answer(body.as_bytes()).unwrap();
        prop_assert_eq!(name.as_str(), "A");
        prop_assert_eq!(load, Load { cpu_pct: cpu.into(), memory_pct: memory.into() });
    }

    #[test]
    fn no_answer_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_answer(&body);
        let _ = parse_list(&body);
    }

    #[test]
    fn whatever_is_listed_only_addresses_come_out(entries in proptest::collection::vec("[0-9./:a-f]{0,16}", 0..50)) {
        let listed = parse_list(serde_json::to_string(&entries).unwrap().as_bytes()).unwrap();
        let good: std::collections::BTreeSet<IpAddr> = entries.iter().filter_map(|it| it.parse().ok()).collect();
        prop_assert_eq!(&listed.ips, &good.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(listed.ignored, entries.iter().filter(|it| it.parse::<IpAddr>().is_err()).count());
    }
}

#[test]
fn nonsense_is_told_apart() {
    let answer = |cpu: &str, memory: &str, service: &str| {
        parse_answer(format!(r#"{{"cpu":{cpu},"memory":{memory},"service":{service}}}"#).as_bytes())
    };
    for cpu in [
        "\"161%\"", "\"-3%\"", "\"NaN%\"", "\"61\"", "\"%\"", "\"\"", "\"1e1%\"", "\"+6%\"", "\".5%\"", "\"5.%\"",
        "\"6 1%\"", "\"inf%\"",
    ] {
        assert_eq!(answer(cpu, "\"4%\"", "\"A\""), Err(Nonsense::Cpu), "{cpu}");
        assert_eq!(answer("\"4%\"", cpu, "\"A\""), Err(Nonsense::Memory), "{cpu}");
    }
    for shape in ["61", "null", "[]", "{}"] {
        assert_eq!(answer(shape, "\"4%\"", "\"A\""), Err(Nonsense::Shape), "{shape}");
    }
    assert_eq!(answer("\"4%\"", "\"4%\"", "\" \""), Err(Nonsense::NoService));
    let long = format!("\"{}\"", "A".repeat(129));
    for name in [long.as_str(), "\"A\\u001b[31m\"", "\"A\\n\""] {
        assert_eq!(answer("\"4%\"", "\"4%\"", name), Err(Nonsense::BadService), "{name}");
    }
    assert!(answer("\"4%\"", "\"4%\"", &format!("\"{}\"", "ä".repeat(128))).is_ok());
    for good in ["\"61.5%\"", "\" 61% \"", "\"61 %\"", "\"100%\"", "\"0%\"", "\"061%\""] {
        assert!(answer(good, "\"4%\"", "\"Größe\"").is_ok(), "{good}");
    }
}

#[test]
fn of_too_many_servers_the_first_are_watched() {
    let entries: Vec<String> = (0..MOST + 5).map(|n| format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)).collect();
    let listed = parse_list(serde_json::to_string(&entries).unwrap().as_bytes()).unwrap();
    assert_eq!((listed.ips.len(), listed.ignored, listed.too_many), (MOST, 5, true));
}
