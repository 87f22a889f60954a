//! The pure machine on one core: `State::step` over many deployments, slot by slot.
//!
//! What the deployments say of themselves is worked out before anything is measured. For the mixed
//! load that is a simulated time in which hosts come and go as the machine wants them; it decides
//! the same again when it is shown the same.

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use ::autoscaler::{
    decision::Outcome,
    deployments::{DeploymentId, MOST},
    machine::{State, Tick},
    need::{Counts, Shape, Target},
    policy::Policy,
    samples::{Bad, BadCode, KEPT, SLOT_SECONDS, Slot},
    store::{ShardId, stagger},
};
use anyhow::anyhow;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use simulators::deployments::{Config, Model, Times};

use super::units::Sizes;
use crate::numbers::{median, per_second};

/// How many deployments take turns: more than a processor's nearest memory holds.
const DEPLOYMENTS: u32 = 1_000;
/// For so many slots: three hours, more than any state remembers.
const SLOTS: Slot = 360;
/// The slot that it begins with.
const BEGINS: Slot = 60_000_000;
/// Of the mixed readings such a share is bad.
const BAD: f64 = 0.02;
/// How often each is measured.
const REPETITIONS: usize = 5;

type Reading = Result<Counts, Bad>;

/// How fast the machine is under one kind of load.
#[derive(Debug, Serialize)]
pub struct Speed {
    /// Which.
    pub load: &'static str,
    /// Deployments that take turns.
    pub deployments: u32,
    /// Steps of each repetition.
    pub steps: u64,
    /// Steps in a second, the median.
    pub per_second: f64,
    /// The slowest repetition.
    pub slowest: f64,
    /// Of a thousand steps so many send something.
    pub sent_per_mille: f64,
}

/// How large states are after the mixed load, and what that means for the items.
#[derive(Debug, Serialize)]
pub struct Mixed {
    pub state_bytes: Sizes,
    /// As many deployments as there may be.
    pub most: usize,
    /// The states of the fullest shard of so many, if theirs were these, in bytes.
    pub fullest_shard_bytes: u64,
}

/// Measures both.
pub fn measure() -> anyhow::Result<(Vec<Speed>, Mixed)> {
    let states = states()?;
    let models: Vec<Model> = models();
    let steady = steady(&states, &models);
    let (mixed, ends) = mixed(&states, models);
    let steps = vec![timed("nothing changes", &states, &steady), timed("mixed", &states, &mixed)];
    let bytes = ends.iter().map(|state| Ok(serde_json::to_string(state)?.len() as u64));
    let bytes = bytes.collect::<anyhow::Result<Vec<_>>>()?;
    let mut shards: BTreeMap<ShardId, u64> = BTreeMap::new();
    for (number, bytes) in (1..=MOST).zip(bytes.iter().cycle()) {
        let id = id(format!("eu-{number}"))?;
        // With its name, two quotation marks, a colon and a comma.
        *shards.entry(ShardId::of(&id)).or_default() += bytes + id.as_str().len() as u64 + 4;
    }
    let fullest_shard_bytes = shards.into_values().max().unwrap_or_default();
    Ok((steps, Mixed { state_bytes: Sizes::of(bytes), most: MOST, fullest_shard_bytes }))
}

fn config() -> Config {
    Config { count: DEPLOYMENTS, ..Config::default() }
}

fn id(text: String) -> anyhow::Result<DeploymentId> {
    Ok(DeploymentId::try_from(text)?)
}

/// Of deployments that have just been found.
fn states() -> anyhow::Result<Vec<State>> {
    let states = config().specs().into_iter().map(|spec| {
        let target = Target::parse(spec.target_free_pct.as_str()).map_err(|error| anyhow!(error))?;
        let shape = Shape { servers_per_host: spec.servers_per_host, target };
        Ok(State::new(Some(shape), BEGINS, stagger(&id(spec.id)?)))
    });
    states.collect()
}

fn models() -> Vec<Model> {
    let config = config();
    let times = Times { boot: config.boot, drain: config.drain };
    config.specs().into_iter().map(|spec| Model::new(spec, times, Duration::ZERO)).collect()
}

fn counts(model: &Model) -> Counts {
    let status = model.status();
    Counts { hosts: status.current_hosts, total: status.total_servers, free: status.free_servers }
}

/// For each slot what each deployment says of itself: the same as at the beginning.
fn steady(states: &[State], models: &[Model]) -> Vec<Vec<Reading>> {
    let slots = usize::try_from(SLOTS).unwrap_or(KEPT);
    let readings: Vec<Reading> = models.iter().map(|model| Ok(counts(model))).collect();
    debug_assert_eq!(states.len(), readings.len());
    vec![readings; slots]
}

/// The same with loads that move, hosts that follow, and some readings that are bad; and the states
/// at the end.
fn mixed(states: &[State], mut models: Vec<Model>) -> (Vec<Vec<Reading>>, Vec<State>) {
    let mut states = states.to_vec();
    let mut rng = StdRng::seed_from_u64(0);
    let policy = Policy::default();
    let all = (0..SLOTS).map(|slot| {
        let now = Duration::from_secs(slot * SLOT_SECONDS);
        let tick = tick(slot, &policy);
        let readings = models.iter_mut().zip(&mut states).map(|(model, state)| {
            model.advance(now);
            let bad = rng.random_bool(BAD);
            let reading = if bad { Err(Bad::new(BadCode::Silent, "no answer")) } else { Ok(counts(model)) };
            if let Some(delta) = step(state, reading.clone(), &tick) {
                model.scale(delta);
            }
            reading
        });
        readings.collect()
    });
    (all.collect(), states)
}

fn tick(slot: Slot, policy: &Policy) -> Tick<'_> {
    let at = i64::try_from((BEGINS + slot) * SLOT_SECONDS).unwrap_or_default();
    Tick { slot: BEGINS + slot, at, policy, frozen: false }
}

/// A step, and the upstream's word that it was accepted.
fn step(state: &mut State, reading: Reading, tick: &Tick<'_>) -> Option<i64> {
    let step = black_box(state.step(black_box(reading), tick));
    if step.send.is_some() {
        state.sent(tick.slot, Outcome::Accepted);
    }
    step.send
}

fn timed(load: &'static str, states: &[State], readings: &[Vec<Reading>]) -> Speed {
    let policy = Policy::default();
    let steps = readings.iter().map(|readings| readings.len() as u64).sum();
    let (mut rates, mut sent) = (Vec::new(), 0_u32);
    for _ in 0..REPETITIONS {
        let (mut states, readings) = (states.to_vec(), readings.to_vec());
        sent = 0;
        let started = Instant::now();
        for (readings, slot) in readings.into_iter().zip(0..) {
            let tick = tick(slot, &policy);
            for (state, reading) in states.iter_mut().zip(readings) {
                sent += u32::from(step(state, reading, &tick).is_some());
            }
        }
        rates.push(per_second(steps, started.elapsed()));
    }
    Speed {
        load,
        deployments: DEPLOYMENTS,
        steps,
        per_second: median(&rates),
        slowest: rates.iter().copied().fold(f64::INFINITY, f64::min),
        sent_per_mille: f64::from(sent) * 1000.0 / crate::numbers::as_f64(steps),
    }
}
