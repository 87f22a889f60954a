//! Deployments of all sizes that need no other number of hosts than they have, except in the slots
//! where it is said so.

use std::time::Duration;

use ::autoscaler::samples::{SLOT_SECONDS, Slot};
use simulators::deployments::{Config, Load, Point, Spec};

/// The time of the simulator in `slot`, of a plan that begins with slot 0.
pub fn time(slot: Slot) -> Duration {
    Duration::from_secs(slot * SLOT_SECONDS)
}

/// So many deployments, each of which lacks one host at the start. In each slot of `scaled` another
/// tenth of them needs one more.
pub fn of(deployments: u32, scaled: &[Slot]) -> Vec<Spec> {
    let specs = Config { count: deployments, ..Config::default() }.specs();
    let groups = (0..10).cycle();
    specs.into_iter().zip(groups).map(|(spec, group)| with(spec, scaled.get(group).copied())).collect()
}

/// The deployment with another load.
fn with(mut spec: Spec, scaled: Option<Slot>) -> Spec {
    let hosts = |busy| spec.target_free_pct.servers_for(busy).div_ceil(spec.servers_per_host);
    // More than one host, so that one can be lacking.
    let busy = spec.load.busy(Duration::ZERO) + spec.servers_per_host;
    // So many more busy servers need another host in any case.
    let more = (busy..=busy + spec.servers_per_host).find(|more| hosts(*more) > hosts(busy)).unwrap_or(busy);
    let mut points = vec![Point { at: Duration::ZERO, busy }];
    // A moment before the slot, when the one before is over.
    points.extend(scaled.map(|slot| Point { at: time(slot).saturating_sub(Duration::from_secs(1)), busy: more }));
    spec.hosts = hosts(busy) - 1;
    spec.load = Load::Points { points };
    spec
}
