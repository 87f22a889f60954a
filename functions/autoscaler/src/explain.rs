//! What the next tick would decide for a deployment, and why, in words.
//!
//! [`Known::load`] reads what is kept and [`look`] what the deployments API says now; [`explain`]
//! takes the machine's own step over a copy of the state. Nothing is written, and nothing is sent.
//!
//! One thing nobody can foresee: whether so many *other* deployments cannot be read in that tick, or
//! have vanished from its list, that no host is taken away from any.

use jiff::Timestamp;
use kit::dynamo::StoreError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    decision::{Decision, Limit, Outcome},
    deployments::{DeploymentId, Deployments, Discovered},
    discovery::{discover, listed},
    machine::{State, Tick},
    need::{Counts, Shape, Target, hosts, servers, within},
    policy::{Given, Mode, Policy, Wrong},
    samples::{Bad, BadCode, Slot, slot, time},
    store::{Fleet, ScalerStore, ShardId, stagger},
    views::{self, CountsView, DecisionView},
};

/// What the next tick would decide for a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ScalingExplanation)]
pub struct Explanation {
    /// Its id.
    pub deployment_id: String,
    /// The half minute of that tick. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it would decide.
    pub decision: DecisionView,
    /// By how many hosts it would ask to scale; null where it would send nothing.
    pub would_send: Option<i64>,
    /// Why, step by step, for people.
    pub words: Vec<String>,
    /// What holds for it, the fields of the query included.
    pub policy: Policy,
    /// Which of them the query has set.
    pub overridden: Vec<String>,
    /// What the deployment says of itself now; null where that cannot be used.
    pub sample: Option<CountsView>,
    /// Why it cannot be used; null where it can.
    pub bad: Option<String>,
    /// Whether no host is taken away from any deployment.
    pub frozen: bool,
}

/// What would be different.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Another target.
    pub target: Option<Target>,
    /// Another policy, as far as it is set; `until` and `reason` do not matter.
    pub given: Given,
}

impl Overrides {
    /// Their names, in order.
    pub fn names(&self) -> Vec<String> {
        let given = serde_json::to_value(&self.given).ok();
        let given = given.as_ref().and_then(|given| given.as_object()).into_iter().flatten();
        let target = self.target.iter().map(|_| "target_free_pct".to_owned());
        let mut names: Vec<_> = given.map(|(name, _)| name.clone()).chain(target).collect();
        names.sort_unstable();
        names
    }

    /// Checks what is set against what else holds.
    pub fn check(&self, policy: &Policy, now: Timestamp) -> Result<(), Vec<Wrong>> {
        let others = Given { min_hosts: Some(policy.min_hosts), max_hosts: policy.max_hosts, ..Given::default() };
        let Err(mut wrong) = self.given.check(&others, now) else { return Ok(()) };
        // What is wrong without them is not theirs to mend.
        let names = self.names();
        wrong.retain(|(pointer, _)| names.iter().any(|name| pointer.strip_prefix('/') == Some(name)));
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// The policy with them. A mode holds even against a stricter one.
    pub fn over(&self, policy: Policy) -> Policy {
        let Given { min_hosts, max_hosts, min_free_servers, up_step_hosts, up_step_pct, down_step_hosts, .. } =
            self.given;
        let Given { down_step_pct, window_seconds, cooldown_after_up_seconds, .. } = self.given;
        let Given { cooldown_after_failure_seconds, boot_grace_seconds, mode, .. } = self.given;
        let (until, reason) = if mode.is_some() { (None, None) } else { (policy.until, policy.reason) };
        Policy {
            min_hosts: min_hosts.unwrap_or(policy.min_hosts),
            max_hosts: max_hosts.or(policy.max_hosts),
            min_free_servers: min_free_servers.unwrap_or(policy.min_free_servers),
            up_step_hosts: up_step_hosts.unwrap_or(policy.up_step_hosts),
            up_step_pct: up_step_pct.unwrap_or(policy.up_step_pct),
            down_step_hosts: down_step_hosts.unwrap_or(policy.down_step_hosts),
            down_step_pct: down_step_pct.unwrap_or(policy.down_step_pct),
            window_seconds: window_seconds.unwrap_or(policy.window_seconds),
            cooldown_after_up_seconds: cooldown_after_up_seconds.unwrap_or(policy.cooldown_after_up_seconds),
            cooldown_after_failure_seconds: cooldown_after_failure_seconds
                .unwrap_or(policy.cooldown_after_failure_seconds),
            boot_grace_seconds: boot_grace_seconds.unwrap_or(policy.boot_grace_seconds),
            mode: mode.unwrap_or(policy.mode),
            until,
            reason,
        }
    }
}

/// What is kept of a deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// None where no tick has seen it yet.
    pub state: Option<State>,
    /// What is known of all.
    pub fleet: Fleet,
    /// What is set for all.
    pub all: Given,
    /// What is set for this one.
    pub own: Given,
}

impl Known {
    /// Reads it.
    pub async fn load(store: &ScalerStore, id: &DeploymentId) -> Result<Self, StoreError> {
        let shard = store.shard(ShardId::of(id));
        let (mut shard, fleet, all, own) =
            futures::future::try_join4(shard, store.fleet(), store.policy(None), store.policy(Some(id))).await?;
        Ok(Self { state: shard.states.remove(id), fleet, all: all.given, own: own.given })
    }

    /// The slot of the next tick that looks at it: one that is not known needs to be listed first.
    pub fn slot(&self, now: Timestamp) -> Slot {
        let last = self.state.as_ref().map_or(0, |state| state.samples.last());
        let next = slot(now).max(last + 1).max(self.fleet.slot + 1);
        let is_known = self.state.as_ref().is_some_and(|state| state.gone.is_none());
        if is_known || self.reads_list(next) { next } else { next + 1 }
    }

    /// What holds in the tick of `slot`, and when that is.
    pub fn policy(&self, slot: Slot, now: Timestamp) -> (Policy, Timestamp) {
        let at = now.max(time(slot));
        (Policy::of(&self.all, &self.own, at), at)
    }

    /// Whether the tick of `slot` reads the list of deployments.
    fn reads_list(&self, slot: Slot) -> bool {
        slot.is_multiple_of(2) || (self.fleet.vanished == 0 && slot.saturating_sub(self.fleet.discovered) > 2)
    }
}

/// How a deployment is listed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// With this shape, or with one that cannot be used.
    Listed(Result<Shape, String>),
    /// Not at all.
    Missing,
    /// Nobody knows: there is no list.
    Unread(String),
}

/// What the deployments API says now, and what that makes of what is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The slot of the next tick.
    pub slot: Slot,
    /// How the deployment is listed.
    pub listing: Listing,
    /// What it says of itself.
    pub reading: Result<Counts, Bad>,
    /// Its state when that tick begins to decide.
    pub state: State,
    /// What is known of all then.
    pub fleet: Fleet,
    /// Whether the listing counts in that tick already.
    pub reads_list: bool,
}

/// Asks the deployments API. None where neither it nor we know the deployment.
pub async fn look(
    api: &Deployments,
    store: &ScalerStore,
    id: &DeploymentId,
    known: &Known,
    now: Timestamp,
) -> Result<Option<Seen>, StoreError> {
    let (found, reading) = futures::future::join(api.discover(), api.status(id, api.timeout())).await;
    let slot = known.slot(now);
    let listing = match &found {
        Ok(found) => found.found.get(id).cloned().map_or(Listing::Missing, Listing::Listed),
        Err(error) => Listing::Unread(error.to_string()),
    };
    let mut fleet = known.fleet.clone();
    let reads_list = known.reads_list(slot);
    let mut state = match (&known.state, &listing) {
        (Some(state), _) => state.clone(),
        (None, Listing::Listed(_)) => State::new(None, slot, stagger(id)),
        (None, _) => return Ok(None),
    };
    match (&listing, found) {
        _ if !reads_list => {}
        // Whether it is believed that this one is gone, or that all are back, follows from all.
        (_, Ok(found)) if listing == Listing::Missing || fleet.vanished > 0 => {
            state = believed(store, id, found, &mut fleet, slot).await?.unwrap_or(state);
        }
        (Listing::Listed(shape), _) => listed(&mut state, shape.clone()),
        _ => {}
    }
    let reading = match &state.rejected {
        Some(words) => Err(Bad::new(BadCode::Rejected, words)),
        None => reading,
    };
    Ok(Some(Seen { slot, listing, reading, state, fleet, reads_list }))
}

async fn believed(
    store: &ScalerStore,
    id: &DeploymentId,
    found: Discovered,
    fleet: &mut Fleet,
    slot: Slot,
) -> Result<Option<State>, StoreError> {
    let mut shards = store.shards().await?;
    discover(&mut shards, fleet, Ok(found), slot);
    Ok(shards.remove(&ShardId::of(id)).and_then(|mut shard| shard.states.remove(id)))
}

/// What the tick would decide under `policy`, at the time `at`.
pub fn explain(id: &DeploymentId, seen: &Seen, policy: Policy, at: Timestamp, overrides: &Overrides) -> Explanation {
    let policy = overrides.over(policy);
    let mut state = seen.state.clone();
    if let (Some(target), Some(shape)) = (&overrides.target, state.shape.as_mut()) {
        shape.target = target.clone();
    }
    let frozen = seen.slot <= seen.fleet.frozen_until || seen.fleet.vanished > 0;
    let tick = Tick { slot: seen.slot, at: at.as_second(), policy: &policy, frozen };
    let decision = state.explain(seen.reading.clone(), &tick);
    let sends = decision.outcome == Some(Outcome::Intended) && state.gone.is_none();
    let would_send = sends.then_some(decision.delta);
    let mut words = vec![listing_words(seen, &state), reading_words(seen)];
    if overrides.target.is_some() && state.shape.is_none() {
        words.push("Another target changes nothing while its shape cannot be used.".to_owned());
    }
    words.extend(mode_words(&policy));
    if let (Ok(counts), Some(shape), Some(_)) = (&seen.reading, &state.shape, decision.inputs) {
        words.extend(arithmetic(counts, shape, &policy, &decision));
    }
    words.extend(history_words(&state, &policy, &decision));
    if frozen {
        words.push(freeze_words(seen));
    }
    words.push(format!("The decision would be {}: {}.", decision.reason, reason_words(&decision)));
    words.push(sending_words(would_send, &state, &policy, &decision));
    Explanation {
        deployment_id: id.to_string(),
        at: time(seen.slot),
        decision: views::decision(&decision),
        would_send,
        words,
        overridden: overrides.names(),
        sample: seen.reading.as_ref().ok().copied().map(CountsView::from),
        bad: seen.reading.as_ref().err().map(|bad| bad.words.clone()),
        frozen,
        policy,
    }
}

fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

fn shape_words(shape: &Shape) -> String {
    format!("{} on each host and a target of {} % free", count(shape.servers_per_host, "server"), shape.target)
}

fn listing_words(seen: &Seen, state: &State) -> String {
    let known = match (&state.shape, &state.rejected) {
        (Some(shape), _) => format!("it is known with {}", shape_words(shape)),
        (None, Some(words)) => format!("it is known with a shape that cannot be used: {words}"),
        (None, None) => "its shape is not known".to_owned(),
    };
    let later = if seen.reads_list { "" } else { " The next tick does not read the list; the one after it does." };
    match &seen.listing {
        Listing::Listed(Ok(shape)) => format!("It is listed with {}.{later}", shape_words(shape)),
        Listing::Listed(Err(words)) => format!("It is listed, but that cannot be used: {words}.{later}"),
        Listing::Missing if state.gone.is_some() => "It is not listed any more, and not scaled.".to_owned(),
        Listing::Missing => format!("It is not listed now, and not scaled once that is believed; {known}.{later}"),
        Listing::Unread(words) => format!("The list could not be read ({words}); {known}."),
    }
}

fn reading_words(seen: &Seen) -> String {
    match &seen.reading {
        Ok(counts) => {
            let (hosts, total) = (count(counts.hosts, "host"), count(counts.total, "server"));
            format!("It says: {hosts}, {total}, {} of them free.", counts.free)
        }
        Err(bad) => format!("What it says of itself cannot be used: {}.", bad.words),
    }
}

fn mode_words(policy: &Policy) -> Option<String> {
    if policy.mode == Mode::On {
        return None;
    }
    let until = policy.until.map(|until| format!(" until {until}")).unwrap_or_default();
    let reason = policy.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(format!("Its mode is {}{until}{reason}.", policy.mode.as_str()))
}

/// From the counts to the hosts, with the numbers.
fn arithmetic(counts: &Counts, shape: &Shape, policy: &Policy, decision: &Decision) -> Vec<String> {
    let (busy, total, per_host) = (counts.busy(), counts.total, shape.servers_per_host);
    let mut words = Vec::new();
    let free = views::free_pct(counts).map(|pct| format!(": {pct:.2} % are free")).unwrap_or_default();
    words.push(format!("{busy} of {} are busy{free}; the target is {} %.", count(total, "server"), shape.target));
    let of_target = servers(busy, &shape.target, 0);
    let rest = format!("100000 - {}", shape.target.thousandths());
    words.push(format!("It needs ceil(100000 * {busy} / ({rest})) = {of_target} servers."));
    let need = servers(busy, &shape.target, policy.min_free_servers);
    if policy.min_free_servers > 0 {
        let least = policy.min_free_servers;
        words.push(format!("With min_free_servers {least}: max({of_target}, {busy} + {least}) = {need} servers."));
    }
    let raw = hosts(need, shape);
    words.push(format!("With {per_host} on each host: ceil({need} / {per_host}) = {}.", count(raw, "host")));
    let bounded = within(raw, &policy.bounds());
    if bounded > raw {
        words.push(format!("min_hosts makes that {bounded}."));
    } else if bounded < raw {
        words.push(format!("max_hosts makes that {bounded}."));
    }
    if u128::from(total) != u128::from(counts.hosts) * u128::from(per_host) {
        words.push(format!(
            "{} with {per_host} servers each are not {total}: some boot or drain.",
            count(counts.hosts, "host")
        ));
    }
    if let Ok(on_their_way @ 1..) = u64::try_from(decision.in_flight) {
        words.push(format!("On their way, and counted as if they were there: {}.", count(on_their_way, "host")));
    }
    words
}

/// What was before: the window, the last request, changes of direction, and what limits a step.
fn history_words(state: &State, policy: &Policy, decision: &Decision) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(pending) = &state.pending {
        words.push(format!(
            "A request of {} for {:+} hosts, to be {}, was not settled before this reading.",
            time(pending.slot),
            pending.delta,
            pending.expected,
        ));
    }
    if let Some(peak) = decision.window {
        let most = count(peak, "host");
        words.push(format!("In the window of {} s it has needed up to {most}; it keeps those.", policy.window_seconds));
    }
    if decision.flapping {
        let pct = state.flap_pct();
        words.push(format!(
            "It changes direction too often ({pct:.0} % of its scalings, weighted): its window is doubled."
        ));
    }
    let hosts = decision.inputs.map_or(0, |inputs| inputs.hosts);
    if decision.limits.contains(&Limit::UpStep) {
        let (step, pct, most) = (policy.up_step_hosts, policy.up_step_pct, count(policy.up_step(hosts), "host"));
        words.push(format!("In a tick at most max({step}, {pct} % of {hosts}) = {most} may be added."));
    }
    if decision.limits.contains(&Limit::DownStep) {
        let (step, pct, most) = (policy.down_step_hosts, policy.down_step_pct, count(policy.down_step(hosts), "host"));
        words.push(format!("In a minute at most max({step}, {pct} % of {hosts}) = {most} may be taken away."));
    }
    words
}

fn freeze_words(seen: &Seen) -> String {
    if seen.slot <= seen.fleet.frozen_until {
        let until = time(seen.fleet.frozen_until + 1);
        return format!("Too many deployments could not be read: until {until} no host is taken away from any.");
    }
    let doubt = seen.fleet.doubt.as_deref().unwrap_or("more than half of the deployments have vanished");
    format!("No host is taken away from any deployment: {doubt}.")
}

/// The decision's own words without its numbers, which have been told.
fn reason_words(decision: &Decision) -> String {
    Decision { inputs: None, ..decision.clone() }.words()
}

fn sending_words(would_send: Option<i64>, state: &State, policy: &Policy, decision: &Decision) -> String {
    match would_send {
        Some(delta) => format!("It would ask once for a delta of {delta:+}."),
        None if state.gone.is_some() => "Nothing would be sent: it is not listed any more.".to_owned(),
        None if policy.mode == Mode::DryRun && decision.delta != 0 => {
            format!(
                "Nothing would be sent: its mode is dry_run. Else it would ask for a delta of {:+}.",
                decision.delta
            )
        }
        None => "Nothing would be sent.".to_owned(),
    }
}
