//! The model of one deployment, against slow ones that keep every host and look at every second.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use serde_json::json;
use simulators::deployments::{Load, Model, Point, Spec, Spell, Target, Times};

use crate::seconds;

const DAY: u64 = 86_400;

fn loads() -> impl Strategy<Value = Load> {
    let times = || (0_u64..2000).prop_map(seconds);
    prop_oneof![
        (0_u64..300).prop_map(|busy| Load::Steady { busy }),
        (0_u64..200, 0_u64..200, (0_u64..2 * DAY).prop_map(seconds)).prop_map(|(low, more, peak_at)| Load::Daily {
            low,
            high: low + more,
            peak_at
        }),
        (0_u64..200, 0_u64..300, times(), 0_u64..300, prop::option::of(1_u64..900)).prop_map(
            |(busy, high, at, lasts, every)| Load::Spike {
                busy,
                high,
                at,
                lasts: seconds(lasts),
                every: every.map(|every| seconds(lasts + every))
            }
        ),
        (0_u64..200, 0_u64..200, any::<u64>()).prop_map(|(level, swing, seed)| Load::Noise { level, swing, seed }),
        (0_u64..200, 0_u64..300, times(), times()).prop_map(|(from, to, at, lasts)| Load::Ramp { from, to, at, lasts }),
        prop::collection::btree_map(0_u64..3000, 0_u64..300, 1..8).prop_map(|points| Load::Points {
            points: points.into_iter().map(|(at, busy)| Point { at: seconds(at), busy }).collect()
        }),
    ]
}

fn specs() -> impl Strategy<Value = Spec> {
    (1_u64..30, "([1-9])?[0-9](\\.[0-9]{1,4})?", 0_u64..20, loads()).prop_map(
        |(servers_per_host, target, hosts, load)| Spec {
            id: "x".to_owned(),
            servers_per_host,
            target_free_pct: target.parse().unwrap(),
            hosts,
            load,
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Scale(i64),
    Late(i64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let delta = || prop_oneof![4 => -6_i64..12, 1 => -100_i64..0];
    let step = prop_oneof![
        3 => (0_u64..200).prop_map(Step::Wait),
        3 => delta().prop_map(Step::Scale),
        1 => (delta(), 1_u64..120).prop_map(|(delta, by)| Step::Late(delta, by)),
    ];
    prop::collection::vec(step, 0..30)
}

/// Every host by itself: when it runs, and when it is gone. It lives from second to second.
struct Slow {
    spec: Spec,
    times: Times,
    now: u64,
    hosts: Vec<Host>,
    late: Vec<(u64, i64)>,
    short: u64,
    host_seconds: u64,
    worst: Option<f64>,
}

#[derive(Clone, Copy)]
struct Host {
    runs_from: u64,
    gone_from: Option<u64>,
}

impl Slow {
    fn new(spec: Spec, times: Times) -> Self {
        let hosts = vec![Host { runs_from: 0, gone_from: None }; usize::try_from(spec.hosts).unwrap()];
        Self { spec, times, now: 0, hosts, late: Vec::new(), short: 0, host_seconds: 0, worst: None }
    }

    /// How many are to stay, and how many boot, run and drain.
    fn count(&self, claim: impl Fn(&Host) -> bool) -> u64 {
        self.hosts.iter().filter(|host| claim(host)).count().try_into().unwrap()
    }

    fn stay(&self) -> u64 {
        self.count(|host| host.gone_from.is_none())
    }

    fn total(&self) -> u64 {
        self.spec.servers_per_host * self.count(|host| host.runs_from <= self.now)
    }

    fn free(&self) -> u64 {
        self.total().saturating_sub(self.spec.load.busy(seconds(self.now)))
    }

    fn scale(&mut self, delta: i64) {
        for _ in 0..delta {
            self.hosts.push(Host { runs_from: self.now + self.times.boot.as_secs(), gone_from: None });
        }
        for _ in delta..0 {
            let staying = self.hosts.iter().enumerate().filter(|(_, host)| host.gone_from.is_none());
            let Some((latest, host)) = staying.max_by_key(|(_, host)| host.runs_from) else { break };
            if host.runs_from > self.now {
                self.hosts.remove(latest);
            } else {
                self.hosts[latest].gone_from = Some(self.now + self.times.drain.as_secs());
            }
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.hosts.retain(|host| host.gone_from.is_none_or(|gone| gone > self.now));
    }

    fn second(&mut self) {
        let (free, total) = (self.free(), self.total());
        let target: f64 = self.spec.target_free_pct.as_str().parse().unwrap();
        #[allow(clippy::cast_precision_loss)]
        let share = if total == 0 { 0.0 } else { free as f64 / total as f64 };
        // In floats, with room for their errors: the shares here are far coarser.
        self.short += u64::from(share * 100.0 < target - 1e-9);
        self.worst = Some(self.worst.map_or(share, |worst| worst.min(share)));
        self.host_seconds += u64::try_from(self.hosts.len()).unwrap();
        self.now += 1;
        self.clear();
        let (due, rest) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= self.now);
        self.late = rest;
        for (_, delta) in Vec::from_iter::<Vec<(u64, i64)>>(due) {
            self.scale(delta);
        }
    }
}

fn times() -> impl Strategy<Value = Times> {
    (0_u64..150, 0_u64..80).prop_map(|(boot, drain)| Times { boot: seconds(boot), drain: seconds(drain) })
}

/// Takes a step of this number.
fn take(model: &mut Model, number: u64, step: &Step) {
    match step {
        Step::Wait(time) => _ = model.advance(model.now() + seconds(*time)),
        Step::Scale(delta) => {
            let before = model.status().current_hosts;
            let scaled = model.scale(*delta);
            assert_eq!((scaled.at, scaled.before), (model.now(), before));
            assert_eq!(scaled.after, before.saturating_add_signed(*delta));
            assert_eq!(model.status().current_hosts, scaled.after);
        }
        Step::Late(delta, by) => model.scale_late(number, *delta, seconds(*by)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_a_model_with_every_host_and_every_second_says(spec in specs(), times in times(), steps in steps()) {
        let mut model = Model::new(spec.clone(), times, Duration::ZERO);
        let mut slow = Slow::new(spec.clone(), times);
        for (number, step) in (1..).zip(&steps) {
            take(&mut model, number, step);
            match step {
                Step::Wait(time) => (0..*time).for_each(|_| slow.second()),
                Step::Scale(delta) => slow.scale(*delta),
                Step::Late(delta, by) => {
                    slow.late.push((slow.now + by, *delta));
                    slow.late.sort_by_key(|(at, _)| *at);
                }
            }
            let status = model.status();
            let draining: u64 = model.draining().values().sum();
            let booting: u64 = model.booting().values().sum();
            assert_eq!(status.current_hosts, slow.stay());
            assert_eq!((status.total_servers, status.free_servers), (slow.total(), slow.free()));
            assert_eq!(status.current_hosts, model.running() + booting);
            assert_eq!(status.total_servers, spec.servers_per_host * (model.running() + draining));
            assert_eq!(status.free_servers, status.total_servers - model.busy().min(status.total_servers));
            assert_eq!(draining, slow.count(|host| host.gone_from.is_some()));
            assert_eq!(model.busy(), spec.load.busy(model.now()));
            let record = model.record();
            assert_eq!(record.short, seconds(slow.short), "short of the target");
            assert_eq!(record.host_nanos, u128::from(slow.host_seconds) * 1_000_000_000);
            assert_eq!(record.worst_share, slow.worst);
            let spells = record.spells.iter().map(|Spell { from, until }| until.saturating_sub(*from));
            assert_eq!(spells.sum::<Duration>(), record.short);
            assert!(record.spells.windows(2).all(|two| two[0].until < two[1].from), "{:?}", record.spells);
        }
    }

    #[test]
    fn it_does_not_matter_how_often_it_is_asked(spec in specs(), times in times(), steps in steps()) {
        let mut one = Model::new(spec.clone(), times, Duration::ZERO);
        let mut often = Model::new(spec, times, Duration::ZERO);
        for (number, step) in (1..).zip(&steps) {
            take(&mut one, number, step);
            if !matches!(step, Step::Wait(_)) {
                take(&mut often, number, step);
            }
            while often.now() < one.now() {
                often.advance((often.now() + Duration::from_millis(7700)).min(one.now()));
            }
            assert_eq!(often.status(), one.status());
            assert_eq!(often.record(), one.record());
        }
    }

    #[test]
    fn a_load_stays_as_it_is_for_as_long_as_it_says(load in loads(), at in 0_u64..5000) {
        let until = load.holds_until(seconds(at)).unwrap_or(seconds(at + 2000));
        prop_assert!(until > seconds(at));
        for later in at..until.as_secs().min(at + 2000) {
            prop_assert_eq!(load.busy(seconds(later)), load.busy(seconds(at)), "at {}", later);
        }
    }

    #[test]
    fn a_daily_load_repeats_day_by_day(low in 0_u64..500, more in 0_u64..500, peak in 0_u64..DAY, at in 0_u64..DAY) {
        let load = Load::Daily { low, high: low + more, peak_at: seconds(peak) };
        for day in 1..4 {
            prop_assert_eq!(load.busy(seconds(at + day * DAY)), load.busy(seconds(at)));
        }
        prop_assert!((low..=low + more).contains(&load.busy(seconds(at))));
    }

    #[test]
    fn the_servers_for_a_target_are_the_fewest_that_keep_it(busy in 0_u64..100_000, digits in 0_u32..100_000) {
        let target: Target = format!("{}.{:03}", digits / 1000, digits % 1000).parse().unwrap();
        let servers = target.servers_for(busy);
        prop_assert!(servers == 0 || !target.is_above(servers - busy, servers));
        if servers > busy {
            prop_assert!(target.is_above(servers - 1 - busy, servers - 1));
        }
    }
}

#[test]
fn each_curve_goes_where_it_is_said_to_go() {
    let busy = |load: &Load, times: &[u64]| times.iter().map(|at| load.busy(seconds(*at))).collect::<Vec<_>>();
    let daily = Load::Daily { low: 100, high: 300, peak_at: seconds(6 * 3600) };
    assert_eq!(busy(&daily, &[0, 6 * 3600, 12 * 3600, 18 * 3600]), [200, 300, 200, 100]);
    let hours: Vec<_> = (0..24).map(|hour| daily.busy(seconds(hour * 3600))).collect();
    assert!(hours[..7].is_sorted() && hours[6..19].is_sorted_by(|one, next| one >= next), "{hours:?}");

    let spike = |every: Option<u64>| Load::Spike {
        busy: 5,
        high: 50,
        at: seconds(100),
        lasts: seconds(20),
        every: every.map(seconds),
    };
    assert_eq!(busy(&spike(None), &[0, 99, 100, 119, 120, 200, 219]), [5, 5, 50, 50, 5, 5, 5]);
    assert_eq!(busy(&spike(Some(100)), &[0, 99, 100, 119, 120, 200, 219, 220]), [5, 5, 50, 50, 5, 50, 50, 5]);

    let ramp = Load::Ramp { from: 10, to: 110, at: seconds(100), lasts: seconds(1000) };
    assert_eq!(busy(&ramp, &[0, 100, 109, 110, 600, 1100, 5000]), [10, 10, 10, 11, 60, 110, 110]);
    let down = Load::Ramp { from: 110, to: 10, at: seconds(100), lasts: seconds(1000) };
    assert_eq!(busy(&down, &[0, 600, 1100]), [110, 60, 10]);
    let step = Load::Ramp { from: 1, to: 2, at: seconds(100), lasts: seconds(0) };
    assert_eq!(busy(&step, &[99, 100]), [1, 2]);

    let points = [(10, 3), (20, 7)].map(|(at, busy)| Point { at: seconds(at), busy });
    let points = Load::Points { points: points.into() };
    assert_eq!(busy(&points, &[0, 10, 19, 20, 1000]), [3, 3, 3, 7, 7]);
}

#[test]
fn noise_moves_around_its_level_in_small_steps_and_the_seed_decides_how() {
    let numbers = |seed| {
        let load = Load::Noise { level: 1000, swing: 100, seed };
        (0..2000).map(|step| load.busy(seconds(step * 10))).collect::<Vec<_>>()
    };
    let one = numbers(1);
    assert_eq!(one, numbers(1));
    assert_ne!(one, numbers(2));
    let (low, high) = (*one.iter().min().unwrap(), *one.iter().max().unwrap());
    assert!((900..920).contains(&low) && (1080..=1100).contains(&high), "{low} to {high}");
    assert!(one.windows(2).all(|two| two[0].abs_diff(two[1]) <= 34), "a sixth of the way from turn to turn");
    let below = one.iter().filter(|busy| **busy < 1000).count();
    assert!((800..1200).contains(&below), "{below}");
    let shallow = Load::Noise { level: 5, swing: 50, seed: 1 };
    assert!((0..1000).all(|step| shallow.busy(seconds(step * 10)) <= 55));
}

#[test]
fn a_load_is_written_as_it_is_read_and_what_makes_no_sense_is_refused() {
    let written = [
        json!({ "curve": "steady", "busy": 4 }),
        json!({ "curve": "daily", "low": 1, "high": 9, "peak_at": "14h" }),
        json!({ "curve": "spike", "busy": 1, "high": 9, "at": "1h", "lasts": "5m", "every": "2h" }),
        json!({ "curve": "spike", "busy": 1, "high": 9, "at": "1h", "lasts": "5m" }),
        json!({ "curve": "noise", "level": 50, "swing": 5, "seed": 3 }),
        json!({ "curve": "ramp", "from": 1, "to": 9, "at": "1h", "lasts": "5m" }),
        json!({ "curve": "points", "points": [{ "at": "0s", "busy": 4 }, { "at": "1m 30s", "busy": 7 }] }),
    ];
    for written in written {
        let load: Load = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(json!(load), written);
    }
    for refused in [
        json!({ "curve": "flat", "busy": 4 }),
        json!({ "curve": "steady", "busy": -4 }),
        json!({ "curve": "steady", "busy": 4, "high": 5 }),
        json!({ "curve": "spike", "busy": 1, "high": 9, "at": "1h" }),
    ] {
        assert!(serde_json::from_value::<Load>(refused.clone()).is_err(), "{refused}");
    }
}

#[test]
fn a_target_keeps_its_letters_and_is_compared_exactly() {
    for (text, others) in [("15", "15.0"), ("0", "0.000"), ("0.001", "0.0010"), ("99.999999999999", "99.9999999999990")]
    {
        let target: Target = text.parse().unwrap();
        assert_eq!((target.as_str(), target.to_string().as_str()), (text, text));
        assert_eq!(json!(target), json!(text));
        if let Ok(other) = others.parse::<Target>() {
            assert_eq!(other.servers_for(12_345), target.servers_for(12_345));
        }
    }
    for refused in
        ["", "100", "015", "-1", "+1", "1e1", "1.", ".5", "1.2.3", "NaN", "abc", "٣", " 1", "1.0000000000001", "1,5"]
    {
        assert!(refused.parse::<Target>().is_err(), "{refused}");
    }
    let cases = BTreeMap::from([
        (("15", 15, 100), false),
        (("15.000000000001", 15, 100), true),
        (("15", 14, 100), true),
        (("0", 0, 100), false),
        (("0.001", 0, 100), true),
        (("33.3", 333, 1000), false),
        (("33.3", 332, 1000), true),
        (("0", 0, 0), false),
        (("5", 0, 0), true),
        (("50", u64::MAX / 2, u64::MAX), true),
        (("50", u64::MAX / 2 + 1, u64::MAX), false),
    ]);
    for ((target, free, total), above) in cases {
        let target: Target = target.parse().unwrap();
        assert_eq!(target.is_above(free, total), above, "{target} % of {total}, {free} free");
    }
    let thirty: Target = "30".parse().unwrap();
    assert_eq!(thirty.servers_for(21), 30);
    assert_eq!("0".parse::<Target>().unwrap().servers_for(7), 7);
}
