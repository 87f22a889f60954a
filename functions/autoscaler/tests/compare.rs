//! prototype
#![allow(clippy::unwrap_used, missing_docs, clippy::pedantic)]
use autoscaler::{
    need::{Counts, Shape, Target},
    policy::Policy,
    samples::Slot,
    simulate::{Fleet, Outcome, Rule, Series, drive, run},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const SLOTS: usize = 2880;

fn curve(name: &str, seed: u64) -> Series {
    let mut rng = StdRng::seed_from_u64(seed);
    let jitter = |rng: &mut StdRng, v: f64, share: f64| (v * (1.0 + share * rng.random_range(-1.0..1.0))).round() as u64;
    let mut busy = Vec::new();
    match name {
        "steady" => busy = vec![400 + 37 * seed; SLOTS],
        "daily" => {
            for i in 0..SLOTS {
                let a = (i as f64 / SLOTS as f64) * std::f64::consts::TAU;
                busy.push(jitter(&mut rng, 600.0 - 300.0 * a.cos(), 0.02));
            }
        }
        "spike" => {
            busy = vec![300; SLOTS];
            let mut at = rng.random_range(40..200);
            while at < SLOTS {
                let lasts = rng.random_range(6..40);
                let high = rng.random_range(450..900);
                for i in at..(at + lasts).min(SLOTS) { busy[i] = high; }
                at += lasts + rng.random_range(10..240);
            }
        }
        "noise" => {
            let mut from = 600.0; let mut to = 600.0;
            for i in 0..SLOTS {
                if i % 2 == 0 { from = to; to = rng.random_range(480.0..720.0); }
                busy.push((if i % 2 == 0 { from } else { (from + to) / 2.0 } as f64).round() as u64);
            }
        }
        _ => {
            for i in 0..SLOTS {
                let v = match i { 0..480 => 200.0, 480..720 => 200.0 + 700.0 * (i - 480) as f64 / 240.0, 720..1800 => 900.0,
                  1800..2040 => 900.0 - 700.0 * (i - 1800) as f64 / 240.0, _ => 200.0 };
                busy.push(jitter(&mut rng, v, 0.01));
            }
        }
    }
    Series { slot: 1_000_000, busy: busy.into_iter().map(Some).collect() }
}

struct Agones { s: u64, b: f64 }
impl Rule for Agones {
    fn delta(&mut self, _: Slot, c: Counts) -> i64 {
        let servers = (c.busy() as f64 * 100.0 / (100.0 - self.b)).ceil() as u64;
        servers.div_ceil(self.s).max(1) as i64 - c.hosts as i64
    }
}
struct Hpa { s: u64, b: f64, recs: Vec<(Slot, u64)>, tol: f64 }
impl Rule for Hpa {
    fn delta(&mut self, slot: Slot, c: Counts) -> i64 {
        let metric = c.busy() as f64 / (c.hosts * self.s) as f64;
        let ratio = metric / (1.0 - self.b / 100.0);
        let rec = if (ratio - 1.0).abs() <= self.tol { c.hosts } else { (c.hosts as f64 * ratio).ceil() as u64 };
        self.recs.retain(|(at, _)| slot - at < 10);
        self.recs.push((slot, rec));
        let stab = self.recs.iter().map(|r| r.1).max().unwrap();
        let want = if rec > c.hosts { rec.min((c.hosts * 2).max(c.hosts + 4)) } else { stab.min(c.hosts) };
        want.max(1) as i64 - c.hosts as i64
    }
}

#[test]
fn proto() {
    let shape = Shape { servers_per_host: 10, target: Target::parse("15").unwrap() };
    let policy = Policy::default();
    for name in ["steady", "daily", "spike", "noise", "ramp"] {
        let mut rows: Vec<(String, [f64; 3])> = Vec::new();
        let mut add = |n: String, o: Outcome| {
            let v = [o.short_seconds as f64 / 60.0, o.host_seconds as f64 / 3600.0, o.changes as f64];
            match rows.iter_mut().find(|r| r.0 == n) { Some(r) => for i in 0..3 { r.1[i] += v[i] }, None => rows.push((n, v)) }
        };
        for seed in 0..4 {
            let series = curve(name, seed);
            let fleet = Fleet::new(shape.clone(), series.first_hosts(&shape, &policy));
            add("ours".into(), run(&series, &fleet, &policy));
            for (w, d) in [(300, 20), (300, 50), (300, 100), (600, 10), (180,100), (120, 100)] {
                let p = Policy { window_seconds: w, down_step_pct: d, cooldown_after_up_seconds: w, ..policy.clone() };
                add(format!("ours w{w} d{d}"), run(&series, &fleet, &p));
            }
            for b in [15.0, 17.0, 20.0, 25.0, 30.0, 35.0, 40.0, 50.0, 60.0] {
                add(format!("agones {b}"), drive(&series, &fleet, &mut Agones { s: 10, b }));
            }
            for b in [15.0, 20.0, 25.0, 30.0, 40.0, 50.0] {
                add(format!("hpa {b}"), drive(&series, &fleet, &mut Hpa { s: 10, b, recs: vec![], tol: 0.1 }));
            }
        }
        println!("{name}");
        for (n, v) in rows { println!("  {n:<20} {:>8.1} min {:>9.1} hh {:>6} ch", v[0], v[1], v[2]); }
    }
}
