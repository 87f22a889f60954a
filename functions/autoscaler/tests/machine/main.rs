//! The machine, step by step: each reason, each limit, and what becomes of a request to scale.
#![allow(clippy::unwrap_used)]

mod any;
mod limits;
mod requests;

use autoscaler::{
    decision::{Decision, Outcome, Reason},
    machine::{Bad, Pending, SLOT_SECONDS, Slot, State, Step, Tick},
    need::{Counts, MOST, Shape, Target},
    policy::Policy,
    samples::BadCode,
};

const FIRST: Slot = 59_000_000;

/// A deployment, slot by slot. With every step it is checked that explaining it says the same before,
/// that the state reads back from its text, and that the same slot again changes nothing.
struct Case {
    state: State,
    policy: Policy,
    frozen: bool,
    slot: Slot,
    /// Seconds after the slot's beginning at which its step is taken.
    late: i64,
    closed: Vec<Decision>,
}

impl Case {
    fn new(servers_per_host: u64, target: &str) -> Self {
        let shape = Shape { servers_per_host, target: Target::parse(target).unwrap() };
        let state = State::new(Some(shape), FIRST, 7);
        Self { state, policy: Policy::default(), frozen: false, slot: FIRST, late: 2, closed: Vec::new() }
    }

    /// Ten servers on a host, 15 % free: 85 busy servers need ten hosts, 60 need eight.
    fn usual() -> Self {
        Self::new(10, "15")
    }

    fn with(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    fn step(&mut self, reading: Result<Counts, Bad>) -> Step {
        let at = i64::try_from(self.slot * SLOT_SECONDS).unwrap() + self.late;
        let tick = Tick { slot: self.slot, at, policy: &self.policy, frozen: self.frozen };
        let explained = self.state.explain(reading.clone(), &tick);
        let step = self.state.step(reading.clone(), &tick);
        let decision = self.state.decision.clone().unwrap();
        assert_eq!(Decision { slot: decision.last, count: 1, ..decision }, explained);
        self.closed.extend(step.closed.clone());

        let text = serde_json::to_string(&self.state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), self.state, "{text}");
        let before = self.state.clone();
        assert_eq!(self.state.step(reading.clone(), &tick), Step::default());
        assert_eq!(self.state, before);
        assert_eq!(self.state.explain(reading, &tick).reason, Reason::DuplicateTick);
        self.slot += 1;
        step
    }

    fn read(&mut self, hosts: u64, total: u64, busy: u64) -> Option<i64> {
        self.step(Ok(Counts { hosts, total, free: total - busy })).send
    }

    /// As many servers as the hosts have, `slots` times. Nothing may be sent but in the last slot.
    fn stay(&mut self, slots: u64, hosts: u64, busy: u64) -> Option<i64> {
        let total = hosts * self.state.shape.as_ref().unwrap().servers_per_host;
        for _ in 1..slots {
            assert_eq!(self.read(hosts, total, busy), None, "{}", self.words());
        }
        self.read(hosts, total, busy)
    }

    fn bad(&mut self, code: BadCode) -> Reason {
        assert_eq!(self.step(Err(Bad::new(code, "why"))).send, None);
        self.reason()
    }

    /// What has come of the last request.
    fn sent(&mut self, outcome: Outcome) {
        self.state.sent(self.slot - 1, outcome);
    }

    fn decision(&self) -> &Decision {
        self.state.decision.as_ref().unwrap()
    }

    fn reason(&self) -> Reason {
        self.decision().reason
    }

    fn note(&self) -> &str {
        self.decision().note.as_deref().unwrap_or_default()
    }

    fn words(&self) -> String {
        self.decision().words()
    }

    fn pending(&self) -> &Pending {
        self.state.pending.as_ref().unwrap()
    }
}

/// No limit but the arithmetic.
fn open() -> Policy {
    Policy {
        min_hosts: 0,
        up_step_hosts: MOST,
        down_step_hosts: MOST,
        window_seconds: 0,
        cooldown_after_up_seconds: 0,
        cooldown_after_failure_seconds: 0,
        ..Policy::default()
    }
}
