//! Any sequence of readings, policies and answers: what never happens, and what always does.

use std::{cell::Cell, collections::BTreeSet};

use autoscaler::{
    decision::{Decision, Outcome, Reason},
    machine::{Bad, SLOT_SECONDS, Slot, State, Step, Tick},
    need::{Counts, MOST, Shape, Target, desired, servers},
    policy::{Mode, Policy},
    samples::BadCode,
};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

use crate::FIRST;

/// What happens in a slot.
#[derive(Debug, Clone)]
struct Event {
    /// Slots since the one before; 0 is the same slot again.
    after: u64,
    /// Seconds after the slot's beginning.
    late: i64,
    reading: Reading,
    frozen: bool,
    /// Another policy from here on.
    policy: Option<Policy>,
    /// What is known of the request, should there be one.
    answer: Option<Outcome>,
    /// What it does.
    deed: Deed,
}

#[derive(Debug, Clone)]
enum Reading {
    /// So many servers of a hundred are wanted, and so many of a hundred hosts have booted.
    Demand(u64, u64),
    /// The same again.
    Same,
    /// Anything.
    Odd(Counts),
    Bad(BadCode),
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Done,
    Twice,
    Half,
    /// So many slots later.
    Late(u64),
    Never,
}

fn policies() -> impl Strategy<Value = Policy> {
    let mode = prop_oneof![
        12 => Just(Mode::On),
        1 => select(vec![Mode::DryRun, Mode::Paused, Mode::PausedIn, Mode::PausedOut]),
    ];
    let hosts = (0..6_u64, proptest::option::weighted(0.3, 3..40_u64), select(vec![0, 0, 0, 15, 100_u64]));
    let steps = (0..6_u64, select(vec![0, 10, 100, 1000_u32]), 0..6_u64, select(vec![0, 10, 50, 100_u32]));
    let times = [vec![0, 30, 30, 60, 90, 300, 600_u32], vec![0, 0, 60, 300], vec![0, 60, 180], vec![0, 60, 600]];
    (mode, hosts, steps, times.map(select)).prop_map(|(mode, hosts, steps, times)| Policy {
        min_hosts: hosts.0,
        max_hosts: hosts.1,
        min_free_servers: hosts.2,
        up_step_hosts: steps.0,
        up_step_pct: steps.1,
        down_step_hosts: steps.2,
        down_step_pct: steps.3,
        window_seconds: times[0],
        cooldown_after_up_seconds: times[1],
        cooldown_after_failure_seconds: times[2],
        boot_grace_seconds: times[3],
        mode,
        until: None,
        reason: None,
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let odd = (0..50_u64, 0..400_u64, 0..=100_u64)
        .prop_map(|(hosts, total, pct)| Reading::Odd(Counts { hosts, total, free: total * pct / 100 }));
    let huge = (0..=MOST, 0..=MOST).prop_map(|(hosts, total)| Reading::Odd(Counts { hosts, total, free: total / 3 }));
    let codes = vec![BadCode::Error, BadCode::Silent, BadCode::Nonsense, BadCode::Impossible, BadCode::Rejected];
    let reading = prop_oneof![
        12 => Just(Reading::Same),
        6 => (0..=130_u64, select(vec![100, 100, 100, 80, 0_u64])).prop_map(|(demand, up)| Reading::Demand(demand, up)),
        2 => select(codes).prop_map(Reading::Bad),
        1 => odd,
        1 => huge,
    ];
    let answer = select(vec![
        Some(Outcome::Accepted),
        Some(Outcome::Accepted),
        Some(Outcome::Unknown),
        Some(Outcome::Refused),
        Some(Outcome::NotSent),
        None,
    ]);
    let deed = prop_oneof![
        5 => Just(Deed::Done),
        1 => Just(Deed::Twice),
        1 => Just(Deed::Half),
        1 => (1..6_u64).prop_map(Deed::Late),
        1 => Just(Deed::Never),
    ];
    let after = prop_oneof![20 => Just(1_u64), 1 => Just(0), 1 => Just(2), 1 => 3..50_u64];
    let policy = proptest::option::weighted(0.05, policies());
    let event = (after, 0..30_i64, reading, proptest::bool::weighted(0.1), policy, answer, deed).prop_map(
        |(after, late, reading, frozen, policy, answer, deed)| Event {
            after,
            late,
            reading,
            frozen,
            policy,
            answer,
            deed,
        },
    );
    proptest::collection::vec(event, 1..150)
}

/// A deployment that does as it is told, or not, and all that was seen of it.
struct World {
    shape: Shape,
    state: State,
    policy: Policy,
    slot: Slot,
    hosts: u64,
    demand: (u64, u64),
    late: Vec<(Slot, i64)>,
    /// Good readings: slot and busy servers.
    good: Vec<(Slot, u64)>,
    /// Slots with a reading of any kind.
    read: Vec<Slot>,
    /// Requests: slot, hosts, and the cooldown they begin unless they come to nothing.
    sent: Vec<(Slot, i64)>,
    closed: Vec<Decision>,
    steps: u64,
    /// Whether the breaker is open, and how many bad readings, or then good ones, came in a row.
    breaker: (bool, u32),
    /// Bytes of the largest state.
    largest: usize,
}

impl World {
    fn new(per_host: u64, target: u32, hosts: u64, policy: Policy) -> Self {
        let shape = Shape { servers_per_host: per_host, target: Target::parse(&target.to_string()).unwrap() };
        Self {
            state: State::new(Some(shape.clone()), FIRST + 1, 3),
            shape,
            policy,
            slot: FIRST,
            hosts,
            demand: (50, 100),
            late: Vec::new(),
            good: Vec::new(),
            read: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            steps: 0,
            breaker: (false, 0),
            largest: 0,
        }
    }

    fn reading(&mut self, reading: &Reading) -> Result<Counts, Bad> {
        match reading {
            Reading::Bad(code) => return Err(Bad::new(*code, "why")),
            Reading::Odd(counts) => return Ok(*counts),
            Reading::Demand(demand, up) => self.demand = (*demand, *up),
            Reading::Same => {}
        }
        let total = self.hosts.saturating_mul(self.shape.servers_per_host).min(MOST) / 100 * self.demand.1;
        Ok(Counts { hosts: self.hosts, total, free: total.saturating_sub(self.demand.0) })
    }

    fn live(&mut self, event: &Event) -> Result<(), TestCaseError> {
        self.policy = event.policy.clone().unwrap_or_else(|| self.policy.clone());
        self.slot += event.after;
        let due: Vec<_> = self.late.extract_if(.., |(slot, _)| *slot <= self.slot).collect();
        for (_, delta) in due {
            self.hosts = self.hosts.saturating_add_signed(delta).min(MOST);
        }
        let reading = self.reading(&event.reading);
        let at = i64::try_from(self.slot * SLOT_SECONDS).unwrap() + event.late;
        let policy = self.policy.clone();
        let tick = Tick { slot: self.slot, at, policy: &policy, frozen: event.frozen };
        let before = self.state.clone();
        let explained = self.state.explain(reading.clone(), &tick);
        prop_assert_eq!(&before, &self.state);
        let step = self.state.step(reading.clone(), &tick);

        if self.slot <= before.samples.last() {
            prop_assert_eq!((&self.state, &step), (&before, &Step::default()));
            prop_assert_eq!(explained.reason, Reason::DuplicateTick);
            return Ok(());
        }
        self.steps += 1;
        self.waits_for_a_verdict(before.clone(), reading.clone(), &tick, &step)?;
        self.told(&step, &explained)?;
        self.read.push(self.slot);
        self.breaker = match (self.breaker, &reading) {
            (breaker, Err(bad)) if bad.code == BadCode::Rejected => breaker,
            ((false, 2) | (true, _), Err(_)) => (true, 0),
            ((false, bad), Err(_)) => (false, bad + 1),
            ((false, _) | (true, 1), Ok(_)) => (false, 0),
            ((true, good), Ok(_)) => (true, good + 1),
        };
        prop_assert_eq!(self.breaker.0, self.state.breaker_open);
        if let Ok(counts) = reading
            && (counts.total > 0 || counts.hosts == 0)
        {
            self.good.push((self.slot, counts.busy()));
        }
        let text = serde_json::to_string(&self.state).unwrap();
        prop_assert_eq!(&serde_json::from_str::<State>(&text).unwrap(), &self.state, "{}", text);
        self.largest = self.largest.max(text.len());

        let Some(delta) = step.send else { return Ok(()) };
        let Ok(counts) = reading else { return Err(TestCaseError::fail("sent after a bad reading")) };
        settled(&before, counts.hosts, at)?;
        if delta > 0 {
            self.up(counts, delta)?;
        } else {
            self.down(counts, delta, event.frozen)?;
        }
        self.sent.push((self.slot, delta));
        self.done(event, delta);
        Ok(())
    }

    /// Every decision is told once, when it is over, with its outcome; and it was explained before.
    fn told(&mut self, step: &Step, explained: &Decision) -> Result<(), TestCaseError> {
        let holds = self.state.decision.clone().unwrap();
        prop_assert_eq!(&Decision { slot: holds.last, count: 1, ..holds.clone() }, explained);
        prop_assert_eq!(step.send.is_some(), explained.outcome == Some(Outcome::Intended));
        prop_assert_eq!(explained.delta != 0, step.send.is_some() || explained.reason == Reason::DryRun);
        for decision in &step.closed {
            let open = [Some(Outcome::Intended), Some(Outcome::Accepted), Some(Outcome::Unknown)];
            prop_assert!(!open.contains(&decision.outcome), "{:?}", decision);
            prop_assert_eq!(decision.outcome.is_some(), decision.delta != 0 && decision.reason != Reason::DryRun);
            if matches!(decision.outcome, Some(Outcome::Failed | Outcome::Refused | Outcome::NotSent)) {
                self.sent.retain(|(slot, _)| *slot != decision.slot);
            }
        }
        self.closed.extend(step.closed.clone());
        Ok(())
    }

    /// Every slot is in exactly one decision.
    fn all_told(&self) -> Result<(), TestCaseError> {
        let waiting = self.state.pending.as_ref().and_then(|pending| pending.decision.as_deref());
        let all: Vec<_> = self.closed.iter().chain(waiting).chain(&self.state.decision).collect();
        prop_assert_eq!(all.iter().map(|decision| decision.count).sum::<u64>(), self.steps);
        prop_assert_eq!(all.iter().map(|decision| decision.slot).collect::<BTreeSet<_>>().len(), all.len());
        Ok(())
    }

    /// A freeze makes a difference to those alone that say so: they take hosts away without it.
    fn waits_for_a_verdict(
        &self,
        before: State,
        reading: Result<Counts, Bad>,
        tick: &Tick<'_>,
        step: &Step,
    ) -> Result<(), TestCaseError> {
        let mut otherwise = before;
        let other = otherwise.step(reading, &Tick { frozen: !tick.frozen, ..*tick });
        prop_assert_eq!(step.wants_down, other.wants_down);
        let (frozen, free) = if tick.frozen { (&self.state, &otherwise) } else { (&otherwise, &self.state) };
        if step.wants_down {
            prop_assert_eq!(frozen.decision.as_ref().unwrap().reason, Reason::Frozen);
            prop_assert!(free.decision.as_ref().unwrap().delta < 0);
        } else {
            prop_assert_eq!((frozen, &other), (free, step));
        }
        Ok(())
    }

    fn up(&self, counts: Counts, delta: i64) -> Result<(), TestCaseError> {
        let (policy, up) = (&self.policy, delta.unsigned_abs());
        prop_assert!(!matches!(policy.mode, Mode::DryRun | Mode::Paused | Mode::PausedOut));
        prop_assert!(!self.state.breaker_open);
        prop_assert!(counts.hosts + up <= policy.max_hosts.unwrap_or(MOST));
        prop_assert!(up <= policy.up_step_hosts.max(counts.hosts * u64::from(policy.up_step_pct) / 100));
        // One fewer would not do.
        let per_host = u128::from(self.shape.servers_per_host);
        let supply = u128::from(counts.total).max(u128::from(counts.hosts) * per_host);
        let need = servers(counts.busy(), &self.shape.target, policy.min_free_servers);
        prop_assert!(supply + u128::from(up - 1) * per_host < need || counts.hosts + up <= policy.min_hosts);
        Ok(())
    }

    fn down(&self, counts: Counts, delta: i64, frozen: bool) -> Result<(), TestCaseError> {
        let (policy, down) = (&self.policy, delta.unsigned_abs());
        prop_assert!(!frozen && !self.state.breaker_open);
        prop_assert!(!matches!(policy.mode, Mode::DryRun | Mode::Paused | Mode::PausedIn));
        let window = u64::from(policy.window_seconds).div_ceil(SLOT_SECONDS).max(1);
        let begins = self.slot + 1 - window;
        let good: Vec<_> = self.good.iter().filter(|(slot, _)| *slot >= begins).collect();
        prop_assert!(good.len() as u64 * 10 >= window * 8, "{} of {}", good.len(), window);
        prop_assert!(self.read[0] <= self.slot - window, "not seen for long enough");
        // All that the window needed is still there: at the most, in hosts and in servers.
        let left = counts.hosts - down;
        let running = (counts.total / self.shape.servers_per_host).checked_sub(down);
        for (_, busy) in good {
            let wanted = desired(*busy, &self.shape, &policy.bounds());
            prop_assert!(left >= wanted && running.is_some_and(|running| running >= wanted));
        }
        prop_assert!(left >= policy.min_hosts.min(policy.max_hosts.unwrap_or(MOST)));
        let most = policy.down_step_hosts.max(counts.hosts * u64::from(policy.down_step_pct) / 100);
        let recent = self.sent.iter().filter(|(slot, delta)| *delta < 0 && self.slot - slot < 2);
        prop_assert!(down + recent.map(|(_, delta)| delta.unsigned_abs()).sum::<u64>() <= most);
        if let Some((up, _)) = self.sent.iter().rev().find(|(_, delta)| *delta > 0) {
            prop_assert!((self.slot - up) * SLOT_SECONDS >= u64::from(policy.cooldown_after_up_seconds));
        }
        if let Some(failed) = self.state.failed {
            prop_assert!((self.slot - failed) * SLOT_SECONDS >= u64::from(policy.cooldown_after_failure_seconds));
        }
        Ok(())
    }

    fn done(&mut self, event: &Event, delta: i64) {
        match event.answer {
            Some(answer @ (Outcome::NotSent | Outcome::Refused)) => return self.state.sent(self.slot, answer),
            Some(answer) => self.state.sent(self.slot, answer),
            None => {}
        }
        let moved = match event.deed {
            Deed::Done => delta,
            Deed::Twice => delta.saturating_mul(2),
            Deed::Half => delta / 2,
            Deed::Late(slots) => return self.late.push((self.slot + slots, delta)),
            Deed::Never => 0,
        };
        self.hosts = self.hosts.saturating_add_signed(moved).min(MOST);
    }
}

/// A request is made only where the one before has been settled, by this reading or before it.
fn settled(before: &State, hosts: u64, at: i64) -> Result<(), TestCaseError> {
    let Some(pending) = &before.pending else { return Ok(()) };
    let moved = hosts == pending.expected
        || hosts < pending.from.min(pending.expected)
        || hosts > pending.from.max(pending.expected);
    let known = matches!(pending.outcome, Outcome::Refused | Outcome::NotSent);
    let unchanged = hosts == pending.from && (known || pending.readings >= 1 && at - pending.at >= 45);
    prop_assert!(moved || unchanged, "{:?} with {} hosts", pending, hosts);
    Ok(())
}

#[test]
fn whatever_happens_the_rules_hold() {
    let (ups, downs, largest) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let begin = (1..30_u64, select(vec![0, 1, 15, 30, 50, 90_u32]), 0..40_u64, policies());
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&(begin, events()), |((per_host, target, hosts, policy), events)| {
        let mut world = World::new(per_host, target, hosts, policy);
        for event in &events {
            world.live(event)?;
        }
        world.all_told()?;
        largest.set(largest.get().max(world.largest));
        ups.set(ups.get() + world.sent.iter().filter(|(_, delta)| *delta > 0).count());
        downs.set(downs.get() + world.sent.iter().filter(|(_, delta)| *delta < 0).count());
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!("{} up, {} down; the largest state has {} bytes", ups.get(), downs.get(), largest.get());
    // Otherwise nothing has been tested.
    assert!(ups.get() > 100 && downs.get() > 100);
}

#[test]
fn the_state_of_a_steady_deployment_is_at_most_a_kilobyte() {
    for (per_host, hosts) in [(10, 10), (10, 1_000), (250, 40_000), (64, 1_000_000)] {
        let shape = Shape { servers_per_host: per_host, target: Target::parse("15.0").unwrap() };
        let mut state = State::new(Some(shape), FIRST, 7);
        let policy = Policy::default();
        for slot in FIRST..FIRST + 2880 {
            let total = hosts * per_host;
            let counts = Counts { hosts, total, free: total * 15 / 100 + slot % 7 };
            let tick = Tick { slot, at: 0, policy: &policy, frozen: false };
            assert_eq!(state.step(Ok(counts), &tick).send, None, "{:?}", state.decision);
        }
        let text = serde_json::to_string(&state).unwrap();
        println!("{hosts} hosts of {per_host} servers: {} bytes", text.len());
        assert!(text.len() <= 1024, "{} {text}", text.len());
    }
}
