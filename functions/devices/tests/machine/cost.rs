//! What machines cost, by hand.

use devices::{
    catalog::{Dollars, Price},
    cost::Cost,
    device::{Attempt, Code, Device, Machine, Reason, Stage},
    record::StateSeen,
    request::Request,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use crate::{NOON, candidate, device};

fn at(seconds: i64) -> Timestamp {
    NOON + SignedDuration::from_secs(seconds)
}

fn price(dollars: f64) -> Price {
    Price::from_dollars(dollars).unwrap()
}

/// An attempt that began at 10, whose machine the vendor has created at 12.
fn attempt() -> Attempt {
    let mut attempt = Attempt::new(1, candidate("ewr1"), None, at(10));
    attempt.machine = Some(Machine {
        id: "a".to_owned(),
        state: "active".to_owned(),
        hostname: None,
        created_at: Some(at(12)),
        termination_time: None,
        addresses: Vec::new(),
    });
    attempt.states = vec![StateSeen { state: "queued".to_owned(), at: at(15) }];
    attempt
}

fn of(device: &Device, attempt: &Attempt, now: i64) -> (u64, f64, u64) {
    let cost = Cost::of(device, attempt, at(now));
    (cost.seconds, cost.dollars.dollars(), cost.billed_hours)
}

#[test]
fn the_price_of_some_seconds_is_exact_to_the_millionth() {
    for (dollars, seconds, micros) in [
        (0.5, 0, 0),
        (0.5, 3600, 500_000),
        // 0.07 / 3600 = 0.0000194…
        (0.07, 1, 19),
        // 500000 × 59 / 3600 = 8194.4…, × 60 = 8333.3…
        (0.5, 59, 8194),
        (0.5, 60, 8333),
        // Half a millionth is rounded up: 1 × 1800 / 3600.
        (0.000_001, 1799, 0),
        (0.000_001, 1800, 1),
        // Ten years of a machine for 10 $/h.
        (10.0, 315_360_000, 876_000_000_000),
        // A month of the dearest there can be: 10^12 × 24 × 30.
        (1_000_000.0, 2_592_000, 720_000_000_000_000),
    ] {
        assert_eq!(price(dollars).for_seconds(seconds).micros(), micros, "{dollars} $/h for {seconds} s");
    }
    assert_eq!(price(1_000_000.0).for_seconds(u64::MAX), Dollars::from_micros(u64::MAX), "no overflow");
}

#[test]
fn dollars_are_a_number_in_json_and_come_back_as_they_were() {
    for (micros, text) in [(0, "0.0"), (1, "1e-6"), (8194, "0.008194"), (1_500_000, "1.5")] {
        let dollars = Dollars::from_micros(micros);
        let json = serde_json::to_value(dollars).unwrap();
        assert_eq!(json, serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(serde_json::from_value::<Dollars>(json).unwrap(), dollars);
    }
    for bad in ["-0.1", "null", "\"1\"", "1e10"] {
        assert!(serde_json::from_str::<Dollars>(bad).is_err(), "{bad}");
    }
    let sum: Dollars = [1, 2, 3].map(Dollars::from_micros).into_iter().sum();
    assert_eq!(sum.micros(), 6);
    let most = Dollars::from_micros(u64::MAX);
    assert_eq!([most, most].into_iter().sum::<Dollars>(), most);
}

proptest! {
    #[test]
    fn dollars_survive_json(micros in 0..=1_000_000_000_000_000_u64) {
        let dollars = Dollars::from_micros(micros);
        let text = serde_json::to_string(&dollars).unwrap();
        prop_assert_eq!(serde_json::from_str::<Dollars>(&text).unwrap(), dollars);
    }

    #[test]
    fn a_longer_life_costs_no_less_and_a_price_is_off_by_half_a_millionth_at_most(
        micros in 0..1_000_000_000_u32, seconds in 0..1_000_000_000_u64,
    ) {
        let price = price(f64::from(micros) / 1e6);
        let cost = price.for_seconds(seconds).micros();
        prop_assert!(price.for_seconds(seconds + 1).micros() >= cost);
        let exact = u128::from(price.micros()) * u128::from(seconds);
        prop_assert!((u128::from(cost) * 3600).abs_diff(exact) <= 1800);
    }
}

#[test]
fn a_machine_costs_from_its_creation_until_it_is_confirmed_gone() {
    let device = device(Request::default());
    let mut attempt = attempt();
    // 48 s of 0.5 $/h: 500000 × 48 / 3600 = 6666.7
    assert_eq!(of(&device, &attempt, 60), (48, 0.006_667, 1), "it goes on");
    attempt.reason = Some(Reason::new(Code::Stalled, "nothing new"));
    assert_eq!(of(&device, &attempt, 3612), (3600, 0.5, 1), "it is still there while it is taken down");
    assert_eq!(of(&device, &attempt, 3613), (3601, 0.500_139, 2), "another hour has begun");
    attempt.ended_at = Some(at(72));
    assert_eq!(of(&device, &attempt, 9999), (60, 0.008_333, 1));
}

#[test]
fn one_that_came_up_costs_until_its_device_is_gone() {
    let mut device = device(Request::default());
    let mut attempt = attempt();
    attempt.ended_at = Some(at(30));
    attempt.reason = Some(Reason::new(Code::CameUp, "up after 20 s"));
    device.stage = Stage::Active;
    device.ended_at = Some(at(30));
    assert_eq!(of(&device, &attempt, 7212), (7200, 1.0, 2), "nothing is left to do, and it is there");
    (device.stage, device.ended_at) = (Stage::Deleted, Some(at(3612)));
    assert_eq!(of(&device, &attempt, 99_999), (3600, 0.5, 1));
    device.stage = Stage::Failed;
    assert_eq!(of(&device, &attempt, 99_999), (3600, 0.5, 1));
}

#[test]
fn where_the_vendor_tells_no_time_it_counts_from_when_we_were_told() {
    let device = device(Request::default());
    let mut attempt = attempt();
    attempt.machine.as_mut().unwrap().created_at = None;
    assert_eq!(of(&device, &attempt, 60).0, 45);
    attempt.states.clear();
    assert_eq!(of(&device, &attempt, 60).0, 50, "or from the attempt's beginning");
    // A clock that is wrong.
    attempt.machine.as_mut().unwrap().created_at = Some(at(-5000));
    assert_eq!(of(&device, &attempt, 60).0, 50, "nothing was there before it was asked for");
    attempt.machine.as_mut().unwrap().created_at = Some(at(5000));
    assert_eq!(of(&device, &attempt, 60), (0, 0.0, 1), "nor is anything paid back");
    attempt.machine = None;
    assert_eq!(of(&device, &attempt, 60), (0, 0.0, 0), "no machine, no cost");
}
