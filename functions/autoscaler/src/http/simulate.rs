//! Simulating: two policies side by side, on samples that are given or on those that were kept.

use std::collections::BTreeMap;

use axum::extract::State;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use kit::{json::Json, problem::Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Scaling;
use crate::{
    deployments::DeploymentId,
    machine::State as Machine,
    need::{MOST, Shape, Target},
    policy::{Given, Mode, Policy},
    samples::{KEPT, Recorded, Slot, slot, time},
    simulate::{self, BOOT_SECONDS, DRAIN_SECONDS, Fleet, MOST_SLOTS, Point, Series},
    store::ScalerStore,
};

/// Longest time that a host may take to boot or to drain, in seconds.
const LONGEST: u32 = 86_400;
/// Where nothing is said: a day.
const WINDOW: &str = "1d";
const SHORTEST_WINDOW: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_WINDOW: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What to simulate: either `samples`, with `servers_per_host` and `target_free_pct`, or a
/// `deployment_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SimulateScaling)]
pub struct Simulate {
    /// How many servers were busy when, in the order of time, over a week at most. Each holds until
    /// the next, for ten minutes at most; of several in one half minute the highest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Vec<DemandSample>>,
    /// A deployment, whose kept samples are taken instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    /// How far back these go: `1h`, `1d`, `7d` at most; `1d` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// Servers on each host; the deployment's own unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_992_u64)]
    pub servers_per_host: Option<u64>,
    /// The share of free servers that is wanted, in per cent; the deployment's own unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = 0, exclusive_maximum = 100)]
    pub target_free_pct: Option<serde_json::Number>,
    /// Hosts at the beginning. Unless set those that the deployment had then; with `samples`, those
    /// that the first one needs under each policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    pub initial_hosts: Option<u64>,
    /// Seconds until a host that was asked for has servers; 90 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub boot_seconds: Option<u32>,
    /// Seconds until the servers of a host that was taken away are gone; 30 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub drain_seconds: Option<u32>,
    /// A policy as it would be set for one deployment. It is simulated as if its mode were `on`.
    pub policy: Given,
    /// Another one to compare it with. Unless set that of the deployment; with `samples`, what is set
    /// for all. Its mode does not matter either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare_with: Option<Given>,
}

/// How many servers were busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DemandSample {
    /// When. RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How many.
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    pub busy_servers: u64,
}

/// What would have happened.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = SimulatedScaling)]
pub struct Simulated {
    /// The first half minute. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// The end of the last. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Servers on each host.
    pub servers_per_host: u64,
    /// The share of free servers that was wanted, in per cent.
    pub target_free_pct: f64,
    /// Seconds until a host that was asked for has servers.
    pub boot_seconds: u32,
    /// Seconds until the servers of a host that was taken away are gone.
    pub drain_seconds: u32,
    /// Under `policy`, and under `compare_with`.
    pub runs: Vec<SimulatedRun>,
}

/// What would have happened under one policy.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SimulatedRun {
    /// The policy, every number filled in.
    pub policy: Policy,
    /// Hosts at the beginning.
    pub initial_hosts: u64,
    /// Seconds whose demand is known.
    pub seconds: u64,
    /// For so many of them fewer servers were free than wanted, or there were too few.
    pub short_seconds: u64,
    /// The same in minutes.
    pub minutes_short: f64,
    /// Hosts that booted, ran or drained, times the hours they did.
    pub host_hours: f64,
    /// Requests to scale.
    pub changes: u64,
    /// The lowest share of free servers, in per cent; null where there never was a server.
    pub worst_free_pct: Option<f64>,
    /// The hosts over time, oldest first: every half minute, or at most 500 of them, with those that
    /// stand out.
    pub points: Vec<Point>,
}

/// What would have happened under two policies, side by side. Nothing is read from the deployments
/// API, and nothing is changed.
#[utoipa::path(
    post, path = "/api/v1/deployments/simulate", operation_id = "simulate_scaling", tag = "autoscaler", request_body = Simulate,
    responses((status = 200, body = Simulated), (status = 422, body = Problem)),
    security(("key" = ["autoscaler:read"]))
)]
pub(super) async fn simulate(
    State(scaling): State<Scaling>,
    Json(mut input): Json<Simulate>,
) -> Result<axum::Json<Simulated>, Problem> {
    let store = scaling.store()?;
    let now = scaling.clock.now();
    let shape = input.shape()?;
    let within = |pointer, value: Option<u32>, default| match value.unwrap_or(default) {
        seconds @ 0..=LONGEST => Ok(seconds),
        other => Err(wrong(pointer, format!("{other} is not allowed; it may be 0 to {LONGEST}"))),
    };
    let boot_seconds = within("/boot_seconds", input.boot_seconds, BOOT_SECONDS)?;
    let drain_seconds = within("/drain_seconds", input.drain_seconds, DRAIN_SECONDS)?;
    if let Some(hosts) = input.initial_hosts.filter(|hosts| *hosts > MOST) {
        return Err(wrong("/initial_hosts", format!("{hosts} is not allowed; it may be 0 to {MOST}")));
    }
    let all = store.policy(None).await?.given;
    check("/policy", &mut input.policy, &all, now)?;
    if let Some(other) = &mut input.compare_with {
        check("/compare_with", other, &all, now)?;
    }
    let basis = match (&input.samples, &input.deployment_id) {
        (Some(samples), None) => given(&input, samples, shape)?,
        (None, Some(id)) => kept(&input, store, id, shape, now).await?,
        (Some(_), Some(_)) => {
            return Err(wrong("/deployment_id", "give either `samples` or `deployment_id`, not both"));
        }
        (None, None) => return Err(wrong("", "give `samples`, or a `deployment_id` whose samples are taken")),
    };
    let initial_hosts = input.initial_hosts.or(basis.hosts);
    let other = input.compare_with.unwrap_or(basis.own);
    let policies = [&input.policy, &other].map(|given| Policy {
        mode: Mode::On,
        until: None,
        reason: None,
        ..Policy::of(&all, given, now)
    });
    let Basis { series, shape, .. } = basis;
    let simulated = Simulated {
        from: time(series.slot),
        until: time(series.slot + series.busy.len() as u64),
        servers_per_host: shape.servers_per_host,
        target_free_pct: shape.target.pct(),
        boot_seconds,
        drain_seconds,
        runs: Vec::new(),
    };
    // A week under two policies takes a moment, which others need not wait for.
    let runs = tokio::task::spawn_blocking(move || {
        policies.map(|policy| {
            let hosts = initial_hosts.unwrap_or_else(|| series.first_hosts(&shape, &policy));
            let fleet = Fleet { shape: shape.clone(), hosts, boot_seconds, drain_seconds };
            run(&series, &fleet, policy)
        })
    });
    let runs = runs.await.map_err(|error| {
        tracing::error!(%error, "a simulation broke off");
        Problem::internal()
    })?;
    Ok(axum::Json(Simulated { runs: runs.into(), ..simulated }))
}

fn wrong(pointer: impl Into<String>, words: impl Into<String>) -> Problem {
    Problem::invalid("See `errors` for what to change.").error(pointer, words)
}

fn check(place: &str, given: &mut Given, all: &Given, now: Timestamp) -> Result<(), Problem> {
    // These do not matter here, so they cannot be wrong.
    (given.mode, given.until, given.reason) = (None, None, None);
    given.check(all, now).map_err(|errors| {
        let problem = Problem::invalid("See `errors` for what to change.");
        errors.into_iter().fold(problem, |problem, (pointer, words)| problem.error(format!("{place}{pointer}"), words))
    })
}

impl Simulate {
    /// What is given of the shape.
    fn shape(&self) -> Result<(Option<u64>, Option<Target>), Problem> {
        if let Some(number) = self.servers_per_host.filter(|number| !(1..=MOST).contains(number)) {
            return Err(wrong("/servers_per_host", format!("{number} is not allowed; it may be 1 to {MOST}")));
        }
        let target = self.target_free_pct.as_ref().map(|number| Target::parse(&number.to_string())).transpose();
        Ok((self.servers_per_host, target.map_err(|error| wrong("/target_free_pct", error.to_string()))?))
    }
}

/// What is simulated.
struct Basis {
    series: Series,
    shape: Shape,
    /// Hosts at the beginning, where they are known.
    hosts: Option<u64>,
    /// What is set for the deployment.
    own: Given,
}

fn given(input: &Simulate, samples: &[DemandSample], shape: (Option<u64>, Option<Target>)) -> Result<Basis, Problem> {
    if input.window.is_some() {
        return Err(wrong("/window", "it goes with `deployment_id`; leave it out where there are `samples`"));
    }
    let missing = |pointer| wrong(pointer, "it is needed where there are `samples`");
    let servers_per_host = shape.0.ok_or_else(|| missing("/servers_per_host"))?;
    let target = shape.1.ok_or_else(|| missing("/target_free_pct"))?;
    let shape = Shape { servers_per_host, target };
    Ok(Basis { series: series(samples)?, shape, hosts: None, own: Given::default() })
}

fn series(samples: &[DemandSample]) -> Result<Series, Problem> {
    let Some(first) = samples.first() else {
        return Err(wrong("/samples", "there must be at least one"));
    };
    let begin = slot(first.at);
    let mut busy: Vec<Option<u64>> = Vec::new();
    let mut before = first.at;
    for (index, sample) in samples.iter().enumerate() {
        let at = |name: &str| format!("/samples/{index}/{name}");
        if sample.at < before {
            return Err(wrong(at("at"), "it is before the one in front of it; put them into the order of time"));
        }
        if sample.busy_servers > MOST {
            return Err(wrong(at("busy_servers"), format!("it may be 0 to {MOST}")));
        }
        before = sample.at;
        let place = usize::try_from(slot(sample.at) - begin).unwrap_or(usize::MAX);
        if place >= MOST_SLOTS {
            return Err(wrong(at("at"), "it is more than a week after the first; leave out what is older"));
        }
        let last = busy.last().copied().flatten();
        let held = busy.len().saturating_add(KEPT - 1);
        while busy.len() < place {
            busy.push(last.filter(|_| busy.len() < held));
        }
        match busy.get_mut(place) {
            Some(there) => *there = (*there).max(Some(sample.busy_servers)),
            None => busy.push(Some(sample.busy_servers)),
        }
    }
    Ok(Series { slot: begin, busy })
}

async fn kept(
    input: &Simulate,
    store: &ScalerStore,
    id: &str,
    shape: (Option<u64>, Option<Target>),
    now: Timestamp,
) -> Result<Basis, Problem> {
    let window = parse_window(input.window.as_deref().unwrap_or(WINDOW))?;
    let missing =
        || wrong("/deployment_id", format!("there is no deployment {id:?}; GET /api/v1/deployments lists them"));
    let id = DeploymentId::try_from(id.to_owned()).map_err(|_| missing())?;
    let state = store.shard(crate::store::ShardId::of(&id)).await?.states.remove(&id).ok_or_else(missing)?;
    let known = state.shape.as_ref();
    let servers_per_host = shape.0.or(known.map(|it| it.servers_per_host));
    let target = shape.1.or_else(|| known.map(|it| it.target.clone()));
    let Some((servers_per_host, target)) = servers_per_host.zip(target) else {
        let words =
            "what the deployment says of that cannot be used now; give `servers_per_host` and `target_free_pct`";
        let pointer = if servers_per_host.is_none() { "/servers_per_host" } else { "/target_free_pct" };
        return Err(wrong(pointer, words));
    };
    let (from, to) = (slot(now.saturating_sub(window).unwrap_or(now)), slot(now));
    let own = store.policy(Some(&id)).await?.given;
    let samples = samples(store, &id, &state, (from, to)).await?;
    let good = samples.values().find_map(Recorded::counts);
    let Some(first) = good else {
        return Err(wrong("/window", "no good sample of that time is kept; give a longer one"));
    };
    let series = Series::of(samples);
    let hosts = Some(first.hosts);
    Ok(Basis { series, shape: Shape { servers_per_host, target }, hosts, own })
}

/// Those in the history and those that are not there yet, each once.
async fn samples(
    store: &ScalerStore,
    id: &DeploymentId,
    state: &Machine,
    (from, to): (Slot, Slot),
) -> Result<BTreeMap<Slot, Recorded>, Problem> {
    let mut samples = BTreeMap::new();
    for chunk in store.samples(id, from, to).await? {
        samples.extend((chunk.slot..).zip(chunk.samples));
    }
    samples.extend(state.samples.recorded().map(|(slot, recorded)| (slot, *recorded)));
    samples.retain(|slot, _| (from..=to).contains(slot));
    Ok(samples)
}

fn parse_window(text: &str) -> Result<SignedDuration, Problem> {
    let span = text.parse::<Span>().ok();
    let window = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let window = window.filter(|window| (SHORTEST_WINDOW..=LONGEST_WINDOW).contains(window));
    window
        .ok_or_else(|| wrong("/window", format!("{text:?} is not allowed; it may be 1m to 7d, such as 90m, 1h or 1d")))
}

#[expect(clippy::cast_precision_loss, reason = "sums for people, which a float holds well enough")]
fn run(series: &Series, fleet: &Fleet, policy: Policy) -> SimulatedRun {
    let outcome = simulate::run(series, fleet, &policy);
    SimulatedRun {
        policy,
        initial_hosts: fleet.hosts,
        seconds: outcome.seconds,
        short_seconds: outcome.short_seconds,
        minutes_short: outcome.short_seconds as f64 / 60.0,
        host_hours: outcome.host_seconds as f64 / 3600.0,
        changes: outcome.changes,
        worst_free_pct: outcome.worst_free_pct,
        points: outcome.points,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64, busy_servers: u64) -> DemandSample {
        DemandSample { at: Timestamp::from_second(second).unwrap(), busy_servers }
    }

    #[test]
    fn a_sample_holds_until_the_next_one_for_ten_minutes_at_most() {
        let found = series(&[at(59, 3), at(60, 7), at(89, 5), at(150, 1)]).unwrap();
        assert_eq!(found, Series { slot: 1, busy: vec![Some(3), Some(7), Some(7), Some(7), Some(1)] });
        let found = series(&[at(0, 3), at(30 * 30, 1)]).unwrap();
        assert_eq!(found.busy.iter().filter(|it| **it == Some(3)).count(), KEPT);
        assert_eq!((found.busy.len(), found.busy[KEPT - 1], found.busy[KEPT]), (31, Some(3), None));
    }

    #[test]
    fn a_week_is_the_most() {
        let week = i64::try_from(MOST_SLOTS as u64 * crate::samples::SLOT_SECONDS).unwrap();
        assert_eq!(series(&[at(0, 3), at(week - 1, 1)]).unwrap().busy.len(), MOST_SLOTS);
        assert_eq!(series(&[at(0, 3), at(week, 1)]).unwrap_err().errors[0].pointer, "/samples/1/at");
        assert_eq!(parse_window("1w").unwrap(), LONGEST_WINDOW);
        for text in ["8d", "59s", "0", "-1h", "1 month", "P1Y", "soon", ""] {
            assert_eq!(parse_window(text).unwrap_err().errors[0].pointer, "/window", "{text}");
        }
    }
}
