//! One device over time, without a clock and without I/O.
//!
//! Everything that happens to it by itself is the next of its steps or its termination time; who
//! owns it [settles](Device::settle) it before looking.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    catalog::{Facility, Plan, System},
    fault::Ordinals,
    order::Order,
    report::Request,
};

/// Provisioning begins with this step.
pub(super) const FIRST_STEP: u8 = 101;
/// And is done with this one.
pub(super) const LAST_STEP: u8 = 110;

/// How many steps there are.
const STEPS: u32 = (LAST_STEP - FIRST_STEP + 1) as u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Queued,
    Provisioning,
    Active,
    Deprovisioning,
    Reinstalling,
    Inactive,
    Failed,
    PoweringOn,
    PoweringOff,
    Deleted,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Deprovisioning => "deprovisioning",
            Self::Reinstalling => "reinstalling",
            Self::Inactive => "inactive",
            Self::Failed => "failed",
            Self::PoweringOn => "powering_on",
            Self::PoweringOff => "powering_off",
            Self::Deleted => "deleted",
        }
    }
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub provision: Duration,
    pub deprovision: Duration,
    pub power: Duration,
    pub reclaim_after: Duration,
}

/// What goes wrong with its provisioning, decided where it is created.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fate {
    pub stuck_at: Option<u8>,
    pub failed_at: Option<u8>,
    /// The status under which everything about it is answered once it has been taken back.
    pub reclaimed: Option<u16>,
    /// This step is told twice.
    pub repeated: Option<u8>,
    /// For how long it is in a state that nobody knows.
    pub unknown: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(super) struct Event {
    pub kind: Kind,
    pub at: Duration,
    pub state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Step(u8),
    Named(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Step(u8),
    Again(u8),
    /// A power change is done.
    Power(State),
    /// It was off, and now goes on again.
    On,
    Reclaim,
    Gone,
    DeleteFailed,
}

/// What is to be done with the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    PowerOn,
    PowerOff,
    Reboot,
    Reinstall,
    Rescue,
}

#[derive(Debug)]
pub(super) struct Device {
    pub id: String,
    /// The number of devices made before it.
    pub number: usize,
    pub ordinals: Ordinals,
    pub plan: Arc<Plan>,
    pub facility: Arc<Facility>,
    pub system: Arc<System>,
    /// As ordered, and as updated since.
    pub order: Order,
    pub fate: Fate,
    pub times: Times,
    pub state: State,
    /// The last step that was done, or 0.
    pub reached: u8,
    pub events: Vec<Event>,
    pub created: Duration,
    pub updated: Duration,
    pub active: Option<Duration>,
    pub ended: Option<Duration>,
    pub terminated: bool,
    pub forced: bool,
    /// When it terminates, if it does.
    pub terminates: Option<Duration>,
    /// How often it was asked about, by kind.
    pub asked: HashMap<Request, u32>,
    /// When the provisioning that is under way began.
    began: Duration,
    next: Option<(Duration, Next)>,
}

/// What a new device is made of.
#[derive(Debug)]
pub(super) struct Made {
    pub id: String,
    pub number: usize,
    pub ordinals: Ordinals,
    pub plan: Arc<Plan>,
    pub facility: Arc<Facility>,
    pub system: Arc<System>,
    pub order: Order,
    pub fate: Fate,
    pub times: Times,
    pub terminates: Option<Duration>,
}

impl Device {
    pub fn new(made: Made, now: Duration) -> Self {
        let mut device = Self {
            id: made.id,
            number: made.number,
            ordinals: made.ordinals,
            plan: made.plan,
            facility: made.facility,
            system: made.system,
            order: made.order,
            fate: made.fate,
            times: made.times,
            state: State::Queued,
            reached: 0,
            events: Vec::new(),
            created: now,
            updated: now,
            active: None,
            ended: None,
            terminated: false,
            forced: false,
            terminates: made.terminates,
            asked: HashMap::new(),
            began: now,
            next: None,
        };
        device.plan_step(FIRST_STEP);
        device
    }

    /// Whether it costs.
    pub fn alive(&self) -> bool {
        self.ended.is_none()
    }

    /// When something happens to it next by itself.
    pub fn due(&self) -> Option<Duration> {
        let next = self.next.map(|(at, _)| at);
        next.into_iter().chain(self.terminates.filter(|_| self.alive())).min()
    }

    /// Brings it to the present.
    pub fn settle(&mut self, now: Duration) {
        while let Some(at) = self.due().filter(|at| *at <= now) {
            self.updated = self.updated.max(at);
            match self.next {
                Some((next, what)) if next == at => {
                    self.next = None;
                    self.happen(what, at);
                }
                _ => {
                    self.terminated = true;
                    self.terminates = None;
                    self.deprovision(at, self.times.deprovision, false);
                }
            }
        }
    }

    /// It is being taken down, and gone after so long; or, where that fails, in a failed state.
    pub fn deprovision(&mut self, now: Duration, takes: Duration, fails: bool) {
        self.terminates = None;
        if self.state != State::Deprovisioning {
            self.enter(State::Deprovisioning, Kind::Named("deprovisioning.started"), now);
            self.next = Some((now.saturating_add(takes), if fails { Next::DeleteFailed } else { Next::Gone }));
        }
    }

    /// Does it, or tells why not.
    pub fn act(&mut self, action: Action, now: Duration) -> Result<(), String> {
        let (on, off) = (self.state == State::Active, self.state == State::Inactive);
        let allowed = match action {
            Action::PowerOn => off,
            Action::PowerOff | Action::Reboot => on,
            Action::Reinstall | Action::Rescue => on || off,
        };
        if !allowed {
            return Err(format!("Device cannot do this while it is {}", self.state.name()));
        }
        let soon = now.saturating_add(self.times.power);
        match action {
            Action::PowerOff => self.power(State::PoweringOff, Next::Power(State::Inactive), now),
            Action::Reboot | Action::Rescue if on => self.power(State::PoweringOff, Next::On, now),
            Action::PowerOn | Action::Reboot | Action::Rescue => {
                self.power(State::PoweringOn, Next::Power(State::Active), now);
            }
            Action::Reinstall => {
                self.enter(State::Reinstalling, Kind::Named("reinstall.started"), now);
                // What went wrong, went wrong the first time.
                self.fate = Fate { repeated: self.fate.repeated, ..Fate::default() };
                (self.reached, self.began) = (0, soon);
                self.plan_step(FIRST_STEP);
            }
        }
        Ok(())
    }

    /// The state as it is told.
    pub fn told(&self, now: Duration) -> &'static str {
        let from = self.created.saturating_add(self.times.provision / 3);
        let unknown = |lasts| now >= from && now < from.saturating_add(lasts);
        let early = matches!(self.state, State::Queued | State::Provisioning | State::Active);
        if early && self.fate.unknown.is_some_and(unknown) { "burning_in" } else { self.state.name() }
    }

    /// 0 to 100.
    pub fn percentage(&self) -> u8 {
        self.reached.saturating_sub(FIRST_STEP - 1).saturating_mul(100 / (LAST_STEP - FIRST_STEP + 1))
    }

    /// The steps of provisioning that are still to come.
    pub fn pending(&self) -> impl Iterator<Item = u8> + use<> {
        let none = matches!(self.state, State::Deprovisioning | State::Deleted);
        let reached = if none { LAST_STEP } else { self.reached };
        (FIRST_STEP..=LAST_STEP).filter(move |step| *step > reached)
    }

    /// How long it has cost.
    pub fn lived(&self, now: Duration) -> Duration {
        self.ended.unwrap_or(now).saturating_sub(self.created)
    }

    /// In millionths of a dollar.
    pub fn cost(&self, now: Duration) -> u64 {
        let cost = u128::from(self.plan.price_per_hour) * self.lived(now).as_millis() / 3_600_000;
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    fn happen(&mut self, what: Next, at: Duration) {
        match what {
            Next::Step(step) => self.step(step, at),
            Next::Again(step) => {
                self.tell(Kind::Step(step), at);
                self.plan_step(step + 1);
            }
            Next::Power(state) => self.enter(state, Kind::Named("power.changed"), at),
            Next::On => self.power(State::PoweringOn, Next::Power(State::Active), at),
            Next::Reclaim => self.end(at),
            Next::Gone => {
                // It is its owner who had it removed: 404 from now on.
                self.fate.reclaimed = None;
                self.end(at);
            }
            Next::DeleteFailed => self.enter(State::Failed, Kind::Named("deprovisioning.failed"), at),
        }
    }

    fn step(&mut self, step: u8, at: Duration) {
        if self.fate.failed_at == Some(step) {
            self.enter(State::Failed, Kind::Named("provisioning.failed"), at);
            self.next = self.fate.reclaimed.map(|_| (at.saturating_add(self.times.reclaim_after), Next::Reclaim));
            return;
        }
        self.reached = step;
        if step == LAST_STEP {
            self.active = self.active.or(Some(at));
            self.enter(State::Active, Kind::Step(step), at);
            return;
        }
        if self.state == State::Queued {
            self.state = State::Provisioning;
        }
        self.tell(Kind::Step(step), at);
        if self.fate.stuck_at == Some(step) {
            return;
        }
        if self.fate.repeated == Some(step) {
            self.next = Some((at.saturating_add(self.times.provision / (2 * STEPS)), Next::Again(step)));
        } else {
            self.plan_step(step + 1);
        }
    }

    fn plan_step(&mut self, step: u8) {
        let share = u32::from(step - (FIRST_STEP - 1));
        let at = self.times.provision.saturating_mul(share) / STEPS;
        self.next = Some((self.began.saturating_add(at), Next::Step(step)));
    }

    fn power(&mut self, state: State, next: Next, at: Duration) {
        self.enter(state, Kind::Named("power.changing"), at);
        self.next = Some((at.saturating_add(self.times.power), next));
    }

    fn end(&mut self, at: Duration) {
        self.state = State::Deleted;
        self.ended = Some(at);
        self.terminates = None;
        self.next = None;
    }

    fn enter(&mut self, state: State, kind: Kind, at: Duration) {
        self.state = state;
        self.tell(kind, at);
    }

    fn tell(&mut self, kind: Kind, at: Duration) {
        self.updated = self.updated.max(at);
        self.events.push(Event { kind, at, state: self.state });
    }
}
