//! Scripted weeks of one service's alert, against a slow model that remembers every observation and
//! works out everything from them, anew at each step.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{cell::RefCell, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, test_runner::TestRunner};
use services::alert::{Machine, Notice, Phase, Policy, Silence, State, Step};

/// Two weeks of minutes.
const SLOTS: i64 = 14 * 24 * 60;
const WEEKS: u32 = 24;

/// A piece of a script.
#[derive(Debug, Clone)]
enum Part {
    /// The same for some slots.
    Steady { below: bool, slots: u8 },
    /// Changes every `each` slots.
    Alternating { each: u8, times: u8 },
    /// A slot for each of the lower 40 bits.
    Noise(u64),
    /// The source cannot be read.
    Unread { slots: u8 },
    /// Ticks that never come.
    Missed { slots: u8 },
    /// Somebody silences the alert.
    Silence { seconds: u16 },
    /// Somebody takes the silence back.
    Lift,
    /// A tick comes again, the last or an older one.
    Again { back: u8, below: Option<bool> },
    /// The process ends; another one reads what was stored.
    Restart,
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        6 => (any::<bool>(), 1_u8..60).prop_map(|(below, slots)| Part::Steady { below, slots }),
        3 => (1_u8..7, 2_u8..12).prop_map(|(each, times)| Part::Alternating { each, times }),
        1 => any::<u64>().prop_map(Part::Noise),
        2 => (1_u8..6).prop_map(|slots| Part::Unread { slots }),
        1 => (1_u8..20).prop_map(|slots| Part::Missed { slots }),
        3 => (0_u16..7200).prop_map(|seconds| Part::Silence { seconds }),
        1 => Just(Part::Lift),
        3 => (0_u8..40, any::<Option<bool>>()).prop_map(|(back, below)| Part::Again { back, below }),
        3 => Just(Part::Restart),
    ]
}

/// Every observation, and what follows from all of them.
#[derive(Default)]
struct Model {
    slots: Vec<Timestamp>,
    below: Vec<bool>,
    /// Whether the alert fired after each observation.
    fired: Vec<bool>,
    notices: Vec<Notice>,
    last_slot: Option<Timestamp>,
}

impl Model {
    fn observe(&mut self, slot: Timestamp, below: bool, silenced: bool) -> Step {
        if self.last_slot.is_some_and(|last| slot <= last) {
            return Step::Duplicate;
        }
        self.last_slot = Some(slot);
        self.slots.push(slot);
        self.below.push(below);
        self.fired.push(self.fires());
        let (from, to) = (self.told(), self.phase());
        if from == to {
            Step::Quiet
        } else if silenced {
            Step::Silenced
        } else {
            let notice = Notice { from, to, at: slot };
            self.notices.push(notice);
            Step::Tell(notice)
        }
    }

    fn hold(&mut self, slot: Timestamp) {
        self.last_slot = self.last_slot.max(Some(slot));
    }

    /// The last three equal observations in a row decide.
    fn fires(&self) -> bool {
        self.below.windows(3).rev().find(|row| row[0] == row[1] && row[1] == row[2]).is_some_and(|row| row[0])
    }

    /// The last score that was at a limit or beyond it decides.
    fn flaps(&self) -> bool {
        (1..=self.below.len())
            .rev()
            .map(|end| score(&self.below[..end]))
            .find(|score| !(5.0..20.0).contains(score))
            .is_some_and(|score| score >= 20.0)
    }

    fn phase(&self) -> Phase {
        if self.flaps() {
            Phase::Flapping
        } else if self.fires() {
            Phase::Firing
        } else {
            Phase::Ok
        }
    }

    fn told(&self) -> Phase {
        self.notices.last().map_or(Phase::Ok, |notice| notice.to)
    }

    fn state(&self) -> State {
        match (self.fires(), self.below.last().is_some_and(|&below| below)) {
            (false, false) => State::Ok,
            (false, true) => State::Pending,
            (true, true) => State::Firing,
            (true, false) => State::Clearing,
        }
    }

    fn since(&self) -> Option<Timestamp> {
        let now = self.fires();
        let same = self.fired.iter().rev().take_while(|&&fired| fired == now).count();
        self.slots.get(self.slots.len() - same).copied()
    }
}

/// Nagios' score as its formula is written, rounded: its sums miss the limits by a hair.
fn score(observations: &[bool]) -> f64 {
    let state = |x: u32| observations[(observations.len() + x as usize).saturating_sub(21)];
    let weight = |x: u32| f64::from(x - 1) * 0.5 / 19.0 + 0.75;
    let sum: f64 = (1..=20).filter(|&x| state(x) != state(x - 1)).map(weight).sum();
    (sum * 100.0 / 20.0 * 1e9).round() / 1e9
}

fn slot(number: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_040 + 60 * number).unwrap()
}

/// What happened how often, so that a script which tests nothing is seen.
type Seen = BTreeMap<String, u32>;

/// The machine and the model side by side.
struct Weeks<'a> {
    machine: Machine,
    model: Model,
    /// What the machine told.
    told: Vec<Notice>,
    silence: Option<Silence>,
    next: i64,
    seen: &'a RefCell<Seen>,
}

impl Weeks<'_> {
    fn see(&self, what: impl Into<String>) {
        *self.seen.borrow_mut().entry(what.into()).or_default() += 1;
    }

    fn play(&mut self, part: &Part) -> Result<(), TestCaseError> {
        match *part {
            Part::Steady { below, slots } => (0..slots).try_for_each(|_| self.tick(below)),
            Part::Alternating { each, times } => {
                (0..times).flat_map(|time| (0..each).map(move |_| time % 2 == 0)).try_for_each(|below| self.tick(below))
            }
            Part::Noise(bits) => (0..40).try_for_each(|bit| self.tick(bits >> bit & 1 == 1)),
            Part::Unread { slots } => (0..slots).try_for_each(|_| self.unread()),
            Part::Missed { slots } => {
                self.next += i64::from(slots);
                Ok(())
            }
            Part::Silence { seconds } => {
                let at = slot(self.next);
                let until = at + SignedDuration::from_secs(seconds.into());
                self.silence = Some(Silence { until, reason: "maintenance".into(), by: "sre".into(), at });
                Ok(())
            }
            Part::Lift => {
                self.silence = None;
                Ok(())
            }
            Part::Again { back, below } => self.again(i64::from(back), below),
            Part::Restart => self.restart(),
        }
    }

    fn tick(&mut self, below: bool) -> Result<(), TestCaseError> {
        let slot = slot(self.next);
        self.next += 1;
        let silenced = self.silence.as_ref().is_some_and(|silence| slot < silence.until);
        let before = self.machine.phase();
        let step = self.machine.observe(slot, below, self.silence.as_ref(), &Policy::default());
        prop_assert_eq!(step, self.model.observe(slot, below, silenced), "{}", slot);
        self.compare(slot)?;
        if let Step::Tell(notice) = step {
            prop_assert!(!silenced, "told in a silence");
            prop_assert_ne!(notice.from, notice.to);
            prop_assert_eq!(notice.at, slot);
            let last = self.told.last().map_or(Phase::Ok, |last| last.to);
            prop_assert_eq!(notice.from, last, "as was told last");
            prop_assert!(self.told.last().is_none_or(|last| last.at < notice.at), "two tellings in one slot");
            self.told.push(notice);
            self.see(format!("told {:?} to {:?}", notice.from, notice.to));
            if before == notice.to {
                self.see("told after a silence");
            }
        }
        if step == Step::Quiet && silenced && before != self.machine.phase() {
            self.see("went within a silence");
        }
        self.see(format!("{:?}", self.machine.state()));
        Ok(())
    }

    fn unread(&mut self) -> Result<(), TestCaseError> {
        let slot = slot(self.next);
        self.next += 1;
        self.machine.hold(slot);
        self.model.hold(slot);
        self.see("unread");
        self.compare(slot)
    }

    fn again(&mut self, back: i64, below: Option<bool>) -> Result<(), TestCaseError> {
        let Some(last) = self.machine.last_slot else { return Ok(()) };
        let slot = last - SignedDuration::from_mins(back);
        let before = serde_json::to_string(&self.machine).unwrap();
        match below {
            None => self.machine.hold(slot),
            Some(below) => {
                let step = self.machine.observe(slot, below, self.silence.as_ref(), &Policy::default());
                prop_assert_eq!(step, Step::Duplicate);
            }
        }
        prop_assert_eq!(before, serde_json::to_string(&self.machine).unwrap());
        self.see(if back == 0 { "the last slot again" } else { "an older slot" });
        Ok(())
    }

    fn restart(&mut self) -> Result<(), TestCaseError> {
        let stored = serde_json::to_string(&self.machine).unwrap();
        let read: Machine = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(&read, &self.machine);
        self.machine = read;
        self.see(format!("restart while {:?}", self.machine.state()));
        Ok(())
    }

    fn compare(&self, slot: Timestamp) -> Result<(), TestCaseError> {
        let (machine, model) = (&self.machine, &self.model);
        prop_assert_eq!(machine.last_slot, model.last_slot, "{}", slot);
        prop_assert_eq!(machine.state(), model.state(), "{}", slot);
        prop_assert_eq!(machine.phase(), model.phase(), "{}", slot);
        prop_assert_eq!(machine.since, model.since(), "{}", slot);
        prop_assert_eq!(machine.told, model.told(), "{}", slot);
        prop_assert_eq!(machine.told_at, model.notices.last().map(|notice| notice.at), "{}", slot);
        let expected = if model.below.is_empty() { 0.0 } else { score(&model.below) };
        prop_assert!((machine.score() - expected).abs() < 1e-8, "{} and {}", machine.score(), expected);
        Ok(())
    }
}

#[test]
fn over_scripted_weeks_an_alert_does_what_the_model_does() {
    let seen = RefCell::new(Seen::new());
    let mut runner =
        TestRunner::new(ProptestConfig { cases: WEEKS, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&prop::collection::vec(part(), 1..400), |script| {
        let mut weeks = Weeks {
            machine: Machine::default(),
            model: Model::default(),
            told: Vec::new(),
            silence: None,
            next: 0,
            seen: &seen,
        };
        while weeks.next < SLOTS {
            for part in &script {
                weeks.play(part)?;
            }
            // So that a script of nothing but restarts ends too.
            weeks.tick(false)?;
        }
        prop_assert_eq!(weeks.told, weeks.model.notices);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }

    let seen = seen.into_inner();
    let phases = [Phase::Ok, Phase::Firing, Phase::Flapping];
    let mut expected: Vec<_> =
        ["told after a silence", "went within a silence", "unread", "the last slot again"].into();
    let changes: Vec<_> = phases
        .iter()
        .flat_map(|from| phases.iter().filter(move |to| *to != from).map(move |to| format!("told {from:?} to {to:?}")))
        .chain(
            [State::Ok, State::Pending, State::Firing, State::Clearing].map(|state| format!("restart while {state:?}")),
        )
        .collect();
    expected.extend(changes.iter().map(String::as_str));
    expected.push("an older slot");
    for what in expected {
        assert!(seen.contains_key(what), "{what} never happened: {seen:?}");
    }
}
