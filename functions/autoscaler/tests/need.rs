//! The arithmetic: the contract's known answers, and any numbers against slow, exact rationals.
#![allow(clippy::unwrap_used)]

use autoscaler::need::{Bounds, Counts, MOST, Shape, Target, TargetError, count, desired, hosts, servers, within};
use num_bigint::BigInt;
use num_rational::BigRational;
use proptest::prelude::*;

const NO_BOUNDS: Bounds = Bounds { min_hosts: 0, max_hosts: MOST, min_free_servers: 0 };

fn shape(servers_per_host: u64, target: &str) -> Shape {
    Shape { servers_per_host, target: Target::parse(target).unwrap() }
}

fn whole(number: impl Into<BigInt>) -> BigRational {
    BigRational::from_integer(number.into())
}

/// The sum of `digits` × 10^`exponent`, whatever their sizes.
fn decimal(digits: &str, exponent: i32) -> BigRational {
    let ten = whole(10);
    let power = (0..exponent.abs()).fold(whole(1), |power, _| power * &ten);
    let digits = whole(digits.parse::<BigInt>().unwrap());
    if exponent < 0 { digits / power } else { digits * power }
}

/// Whether so many hosts are enough, straight from what a target means: of all servers that share is
/// free, and as many as there must be in any case.
fn enough(hosts: u64, busy: u64, shape: &Shape, min_free: u64) -> bool {
    let total = whole(hosts) * whole(shape.servers_per_host);
    let free = &total - whole(busy);
    let wanted = BigRational::new(shape.target.thousandths().into(), 100_000.into());
    free >= wanted * total && free >= whole(min_free)
}

/// The fewest hosts that are enough, found by trying: more hosts are never worse.
fn fewest(busy: u64, shape: &Shape, min_free: u64) -> u64 {
    let (mut too_few, mut most) = (0, MOST);
    if enough(0, busy, shape, min_free) {
        return 0;
    }
    while too_few + 1 < most {
        let middle = u64::midpoint(too_few, most);
        if enough(middle, busy, shape, min_free) {
            most = middle;
        } else {
            too_few = middle;
        }
    }
    most
}

#[test]
fn the_known_answers() {
    for (per_host, target, hosts, total, free, delta) in [
        (10, "15", 10, 100, 10, 1),
        (10, "15", 100, 1000, 100, 6),
        (3, "30", 200, 600, 400, -104),
        (250, "10", 3, 750, 113, 0),
        (1, "90", 600, 600, 541, -10),
        (1, "90", 600, 600, 540, 0),
        (13, "17", 372, 4836, 942, -11),
        // In floating point 31 hosts, with the deficit divided by the servers of a host only 1 more.
        (1, "30", 21, 21, 0, 9),
        (4, "50", 2, 8, 0, 2),
        // At 0 % the busy ones are enough, and nothing needs nothing.
        (10, "0", 10, 100, 0, 0),
        (10, "0", 10, 100, 10, -1),
        (10, "0", 0, 0, 0, 0),
        (10, "99.999", 1, 10, 9, 9_999),
    ] {
        let counts = Counts { hosts, total, free };
        let wanted = desired(counts.busy(), &shape(per_host, target), &NO_BOUNDS);
        assert_eq!(wanted.cast_signed() - hosts.cast_signed(), delta, "{per_host} {target} {counts:?}");
        assert_eq!(wanted, fewest(counts.busy(), &shape(per_host, target), 0));
    }
}

#[test]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is the mistake that is shown")]
fn floating_point_asks_for_a_host_too_many() {
    let naive = (21.0_f64 / (1.0 - 30.0 / 100.0)).ceil() as u64;
    assert_eq!((naive, desired(21, &shape(1, "30"), &NO_BOUNDS)), (31, 30));
}

#[test]
fn a_deployment_without_anything_gets_its_minimum() {
    let shape = shape(4, "20");
    for (min_hosts, min_free_servers, wanted) in [(0, 0, 0), (1, 0, 1), (1, 4, 1), (1, 5, 2), (0, 9, 3), (5, 9, 5)] {
        let bounds = Bounds { min_hosts, max_hosts: MOST, min_free_servers };
        assert_eq!(desired(0, &shape, &bounds), wanted, "{bounds:?}");
    }
}

#[test]
fn the_free_minimum_and_the_share_are_not_added_up() {
    let target = Target::parse("50").unwrap();
    assert_eq!([0, 9, 10, 11].map(|min_free| servers(10, &target, min_free)), [20, 20, 20, 21]);
}

#[test]
fn a_target_is_met_up_to_the_last_server() {
    for (target, total, free, met) in [
        ("15", 100, 15, true),
        ("15", 100, 14, false),
        ("0", 7, 0, true),
        ("99.999", 100_000, 99_999, true),
        ("99.999", MOST, MOST - 1, true),
        ("0.001", 100_000, 0, false),
        ("90", 0, 0, true),
    ] {
        assert_eq!(Target::parse(target).unwrap().is_met(total, free), met, "{free} of {total}, {target} %");
    }
}

#[test]
fn everything_at_its_most_stays_a_number() {
    let fullest = shape(1, "99.999");
    assert_eq!(servers(MOST, &fullest.target, MOST), u128::from(MOST) * 100_000);
    assert_eq!(desired(MOST, &fullest, &Bounds { min_free_servers: MOST, ..NO_BOUNDS }), MOST);
    assert_eq!(desired(MOST, &shape(MOST, "99.999"), &NO_BOUNDS), 100_000);
    assert_eq!(desired(MOST, &shape(MOST, "0"), &Bounds { min_free_servers: MOST, ..NO_BOUNDS }), 2);
    assert_eq!(
        desired(u64::MAX, &fullest, &Bounds { min_hosts: 0, max_hosts: u64::MAX, min_free_servers: u64::MAX }),
        MOST
    );
}

/// Counts, small ones and the largest ones above all.
fn counts() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..300_u64,
        2 => 0..10_000_000_u64,
        2 => 0..=MOST,
        1 => MOST - 300..=MOST,
        1 => (0..=53_u32).prop_map(|bits| 1 << bits),
    ]
}

fn targets() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..100_u32).prop_map(|whole| whole.to_string()),
        2 => (0..100_u32, 0..1000_u32).prop_map(|(whole, thousandths)| format!("{whole}.{thousandths:03}")),
        1 => prop_oneof![Just("0"), Just("0.001"), Just("99.999"), Just("50")].prop_map(str::to_owned),
    ]
}

fn shapes() -> impl Strategy<Value = Shape> {
    (counts(), targets()).prop_map(|(per_host, target)| shape(per_host.max(1), &target))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_hosts_are_the_fewest_that_keep_the_target(busy in counts(), shape in shapes(), min_free in counts()) {
        let bounds = Bounds { min_free_servers: min_free, ..NO_BOUNDS };
        let wanted = desired(busy, &shape, &bounds);
        prop_assert_eq!(wanted, fewest(busy, &shape, min_free));
        // What no number of hosts up to the largest can do gets the largest.
        prop_assert!(wanted == MOST || enough(wanted, busy, &shape, min_free));
        prop_assert!(wanted == 0 || !enough(wanted - 1, busy, &shape, min_free));
    }

    #[test]
    fn the_servers_are_the_fewest_and_exact(busy in counts(), target in targets(), min_free in counts()) {
        let target = Target::parse(&target).unwrap();
        let rest = BigRational::new((100_000 - target.thousandths()).into(), 100_000.into());
        let exact = (whole(busy) / rest).ceil().max(whole(busy) + whole(min_free));
        prop_assert_eq!(whole(servers(busy, &target, min_free)), exact);
    }

    #[test]
    fn hosts_are_servers_rounded_up(servers in any::<u128>(), shape in shapes()) {
        let exact = (whole(servers) / whole(shape.servers_per_host)).ceil().min(whole(MOST));
        prop_assert_eq!(whole(hosts(servers, &shape)), exact);
    }

    #[test]
    fn bounds_hold_and_the_upper_one_wins(
        busy in counts(), shape in shapes(), min_hosts in counts(), max_hosts in counts(), min_free_servers in counts(),
    ) {
        let bounds = Bounds { min_hosts, max_hosts, min_free_servers };
        let free = desired(busy, &shape, &Bounds { min_free_servers, ..NO_BOUNDS });
        let wanted = desired(busy, &shape, &bounds);
        prop_assert!(wanted <= max_hosts);
        prop_assert!(wanted >= min_hosts.min(max_hosts));
        let inside = (min_hosts..=max_hosts).contains(&free);
        prop_assert!(!inside || wanted == free);
        prop_assert_eq!(within(wanted, &bounds), wanted);
    }

    #[test]
    fn more_demand_never_needs_fewer_hosts(busy in counts(), more in counts(), shape in shapes(), min_free in counts()) {
        let bounds = Bounds { min_free_servers: min_free, ..NO_BOUNDS };
        prop_assert!(desired(busy.max(more), &shape, &bounds) >= desired(busy.min(more), &shape, &bounds));
    }

    #[test]
    fn a_target_is_met_where_its_share_is_free(total in counts(), free in counts(), target in targets()) {
        let (total, free) = (total.max(free), total.min(free));
        let target = Target::parse(&target).unwrap();
        let share = BigRational::new(target.thousandths().into(), 100_000.into());
        prop_assert_eq!(target.is_met(total, free), whole(free) >= share * whole(total));
        prop_assert!((0.0..100.0).contains(&target.pct()));
    }

    /// Its digits count, however they are written; what is beyond thousandths is rounded up.
    #[test]
    fn a_target_is_the_number_that_is_written(
        minus in any::<bool>(), before in "0|[1-9][0-9]{0,4}", after in "|[0-9]{1,20}", exponent in -30..30_i32,
    ) {
        let text = written(minus, &before, &after, exponent);
        let value = decimal(&format!("{before}{after}"), exponent - i32::try_from(after.len()).unwrap());
        let thousandths = (&value * whole(1000)).ceil();
        let expected = if minus && value > whole(0) {
            Err(TargetError::Negative)
        } else if thousandths >= whole(100_000) {
            Err(TargetError::TooHigh)
        } else {
            Ok(thousandths)
        };
        prop_assert_eq!(Target::parse(&text).map(|target| whole(target.thousandths())), expected, "{}", text);
    }

    #[test]
    fn a_count_is_the_whole_number_that_is_written(
        minus in any::<bool>(), before in "0|[1-9][0-9]{0,16}", after in "|0{1,3}|[0-9]{1,5}", exponent in -20..20_i32,
    ) {
        let text = written(minus, &before, &after, exponent);
        let value = decimal(&format!("{before}{after}"), exponent - i32::try_from(after.len()).unwrap());
        let counts = value.is_integer() && value <= whole(MOST) && (!minus || value == whole(0));
        prop_assert_eq!(count(&text).map(whole), counts.then_some(value), "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-+0-9.eENa]{0,70}") {
        let target = Target::parse(&text);
        let counted = count(&text);
        // What is a count below 100 is a target too.
        if counted.is_some_and(|counted| counted < 100) {
            prop_assert!(target.is_ok());
        }
        if let Ok(target) = target {
            let json = serde_json::to_string(&target).unwrap();
            prop_assert_eq!(serde_json::from_str::<Target>(&json).unwrap(), target);
        }
    }
}

fn written(minus: bool, before: &str, after: &str, exponent: i32) -> String {
    let sign = if minus { "-" } else { "" };
    let point = if after.is_empty() { "" } else { "." };
    let exponent = if exponent == 0 { String::new() } else { format!("e{exponent:+}") };
    format!("{sign}{before}{point}{after}{exponent}")
}
