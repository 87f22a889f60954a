//! The deployments there are where none are given: pure functions of the seed and their number.

use std::time::Duration;

use super::{
    load::Load,
    model::{Spec, Target},
};
use crate::faults::{Draw, key_of};

const REGIONS: [&str; 4] = ["eu", "us", "ap", "sa"];

/// The deployment of a number, from 0: enough hosts for its target at the start.
pub(super) fn spec(seed: u64, number: u32, strange_ids: bool) -> Spec {
    let plain = id(number);
    let draw = Draw::lasting(seed, key_of(&plain));
    let servers_per_host = u64::from(1 + draw.below("servers per host", 250));
    let target_free_pct = target(&draw);
    let load = load(&draw, servers_per_host);
    let hosts = target_free_pct.servers_for(load.busy(Duration::ZERO)).div_ceil(servers_per_host).max(1);
    let id = if strange_ids { strange(number) } else { plain };
    Spec { id, servers_per_host, target_free_pct, hosts, load }
}

fn id(number: u32) -> String {
    let region = REGIONS.iter().cycle().nth(number as usize % REGIONS.len()).unwrap_or(&"eu");
    format!("{region}-{}", u64::from(number) + 1)
}

/// Ids that are awkward in an address, a log or a key, and all the same ids.
fn strange(number: u32) -> String {
    let plain = id(number);
    match number % 12 {
        0 => format!("{plain} blue"),
        1 => format!("team/{plain}"),
        2 => format!("münchen-{plain}"),
        3 => format!("{plain}?x=1&y=2"),
        4 => format!("{plain}%2Fa"),
        5 => format!("a+b {plain}"),
        6 => format!("../{plain}"),
        7 => format!("{plain}#東京"),
        8 => format!("\"{plain}\"\\"),
        9 => format!("{plain};👍"),
        10 => format!("{plain}{}", "x".repeat(200)),
        _ => plain,
    }
}

/// 5 to 60 per cent, most of them with digits after the point.
fn target(draw: &Draw) -> Target {
    let places = draw.pick("places", [0, 0, 1, 3]);
    let scale = 10_u32.pow(places);
    Target::of(5 * scale + draw.below("target", 55 * scale + 1), places)
}

fn load(draw: &Draw, servers_per_host: u64) -> Load {
    // Few are large.
    let hosts = 1 + u64::from(draw.below("hosts", 20)) * u64::from(1 + draw.below("ten times as many", 10));
    let level = servers_per_host * hosts;
    let per_cents = |name, from: u32, to: u32| level * u64::from(from + draw.below(name, to - from + 1)) / 100;
    let minutes = |name, from: u32, to: u32| Duration::from_mins((from + draw.below(name, to - from + 1)).into());
    match draw.below("curve", 6) {
        0 => Load::Steady { busy: level },
        1 | 2 => {
            let low = per_cents("night", 20, 60);
            Load::Daily { low, high: level, peak_at: minutes("peak", 0, 24 * 60 - 1) }
        }
        3 => Load::Spike {
            busy: level,
            high: per_cents("spike", 130, 250),
            at: minutes("first spike", 5, 120),
            lasts: minutes("length of a spike", 2, 20),
            every: Some(minutes("from spike to spike", 60, 360)),
        },
        4 => {
            let seed = draw.below("noise", u32::MAX).into();
            Load::Noise { level, swing: per_cents("swing", 5, 30), seed }
        }
        _ => Load::Ramp {
            from: level,
            to: per_cents("end of the ramp", 40, 220),
            at: minutes("ramp", 5, 120),
            lasts: minutes("length of the ramp", 10, 600),
        },
    }
}
