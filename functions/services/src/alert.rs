//! The life of one alert: what is observed of a service, and when somebody is told.
//!
//! One alert per service stands for its servers' alerts. Each snapshot is one observation: enough
//! healthy servers, or too few. Three in a row make the alert fire or clear (debounce). A service
//! that changes too often is flapping: that is told once, and its firing and clearing are not.
//! A slot is learnt from once, so a tick that comes twice does nothing twice.
//!
//! What is true ([`Machine::phase`]) and what was told ([`Machine::told`]) are kept apart. A silence
//! only stops the telling; when it ends, what is still true is told, and what came and went is not.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What has been told about a service, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AlertPhase)]
pub enum Phase {
    /// Enough healthy servers.
    #[default]
    Ok,
    /// Too few healthy servers.
    Firing,
    /// Changes so often that it is neither.
    Flapping,
}

/// Where the debounce is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AlertState)]
pub enum State {
    /// Enough healthy servers.
    Ok,
    /// Too few healthy servers, but not often enough in a row to fire.
    Pending,
    /// Too few healthy servers.
    Firing,
    /// Firing, and enough healthy servers again, but not often enough in a row to clear.
    Clearing,
}

/// When an alert fires, clears and flaps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Observations in a row below the minimum that make it fire.
    pub fire_after: u32,
    /// Observations in a row not below the minimum that clear it.
    pub clear_after: u32,
    /// Flapping begins at this score or above, per cent.
    pub flap_high: f64,
    /// Flapping ends below this score, per cent.
    pub flap_low: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { fire_after: 3, clear_after: 3, flap_high: 20.0, flap_low: 5.0 }
    }
}

/// Somebody's wish not to be told about a service for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silence {
    /// From then on it is told again. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Why, for the others.
    pub reason: String,
    /// Who asked for it.
    pub by: String,
    /// When it was asked for. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

impl Silence {
    /// Whether nothing is told at `now`. It holds from the moment it is stored: a slot may have begun
    /// before that and still be under way, so `at` does not matter.
    pub fn is_active(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What was told last.
    pub from: Phase,
    /// What is true now; never the same as `from`.
    pub to: Phase,
    /// The slot of the observation.
    pub at: Timestamp,
}

/// What an observation led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the machine counts a `Tell` as told"]
pub enum Step {
    /// The slot is not later than the last one: nothing has changed.
    Duplicate,
    /// Nothing to tell.
    Quiet,
    /// There is something to tell, but a silence is active.
    Silenced,
    /// This is to be told; the machine counts it as told.
    Tell(Notice),
}

/// All that is remembered of one service's alert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The last slot that was observed or held: no slot up to it is learnt from again.
    pub last_slot: Option<Timestamp>,
    /// The slot in which `firing` took its present value; none before the first observation.
    pub since: Option<Timestamp>,
    /// Whether the alert fires, after the debounce.
    pub firing: bool,
    /// Observations in a row, up to the last one, that disagree with `firing`.
    pub run: u32,
    /// The last observations before the debounce, for the score.
    pub recent: Recent,
    /// Whether the score rose to the upper limit and has not fallen below the lower one since.
    pub flapping: bool,
    /// What was told last; a service nobody was told about is taken to be well.
    pub told: Phase,
    /// The slot of the last telling.
    pub told_at: Option<Timestamp>,
}

impl Machine {
    /// Learns that the service had too few healthy servers in `slot` (`below`) or enough of them.
    pub fn observe(&mut self, slot: Timestamp, below: bool, silence: Option<&Silence>, policy: &Policy) -> Step {
        if !self.advance(slot) {
            return Step::Duplicate;
        }
        self.debounce(slot, below, policy);
        self.recent.push(below);
        let limit = if self.flapping { policy.flap_low } else { policy.flap_high };
        self.flapping = self.score() >= limit;
        self.tell(slot, silence)
    }

    /// The source could not be read in `slot`: nothing is learnt or told, and the slot is done.
    pub fn hold(&mut self, slot: Timestamp) {
        self.advance(slot);
    }

    /// The service is no more in `slot`: nothing is wrong with it any longer, and it begins anew if
    /// it comes back.
    pub fn retire(&mut self, slot: Timestamp, silence: Option<&Silence>) -> Step {
        if !self.advance(slot) {
            return Step::Duplicate;
        }
        let Self { last_slot, told, told_at, .. } = *self;
        *self = Self { last_slot, since: Some(slot), told, told_at, ..Self::default() };
        self.tell(slot, silence)
    }

    /// Where the debounce is.
    pub fn state(&self) -> State {
        match (self.firing, self.run) {
            (false, 0) => State::Ok,
            (false, _) => State::Pending,
            (true, 0) => State::Firing,
            (true, _) => State::Clearing,
        }
    }

    /// What is true now, told or not.
    pub fn phase(&self) -> Phase {
        match (self.flapping, self.firing) {
            (true, _) => Phase::Flapping,
            (false, true) => Phase::Firing,
            (false, false) => Phase::Ok,
        }
    }

    /// How much the service has changed lately, per cent; see [`Recent::score`].
    pub fn score(&self) -> f64 {
        self.recent.score()
    }

    /// Moves on to `slot`, unless it is not later than the last one.
    fn advance(&mut self, slot: Timestamp) -> bool {
        let is_later = self.last_slot.is_none_or(|last| last < slot);
        if is_later {
            self.last_slot = Some(slot);
        }
        is_later
    }

    fn debounce(&mut self, slot: Timestamp, below: bool, policy: &Policy) {
        self.since.get_or_insert(slot);
        if below == self.firing {
            self.run = 0;
            return;
        }
        self.run = self.run.saturating_add(1);
        let enough = if below { policy.fire_after } else { policy.clear_after };
        if self.run >= enough {
            self.firing = below;
            self.since = Some(slot);
            self.run = 0;
        }
    }

    fn tell(&mut self, slot: Timestamp, silence: Option<&Silence>) -> Step {
        let (from, to) = (self.told, self.phase());
        if from == to {
            return Step::Quiet;
        }
        if silence.is_some_and(|silence| silence.is_active(slot)) {
            return Step::Silenced;
        }
        self.told = to;
        self.told_at = Some(slot);
        Step::Tell(Notice { from, to, at: slot })
    }
}

/// Observations that the score looks at.
const REMEMBERED: u32 = 21;
/// Changes that there can be among them.
const CHANGES: u32 = REMEMBERED - 1;

/// The last 21 observations of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// One bit each, the newest lowest; set where the service had too few healthy servers.
    bits: u32,
    /// How many there are, up to 21.
    count: u32,
}

impl Recent {
    fn push(&mut self, below: bool) {
        self.bits = ((self.bits << 1) | u32::from(below)) & ((1 << REMEMBERED) - 1);
        self.count = (self.count + 1).min(REMEMBERED);
    }

    /// The weighted share of changes among the last 21 observations, 0 to 100 per cent.
    ///
    /// As Nagios Core computes it (base/flapping.c; manual, "Detection and Handling of State
    /// Flapping"): a change counts 0.75 if it is the oldest, 1.25 if it is the newest, linearly
    /// between; the sum is divided by the 20 changes that there could be. Where there are fewer
    /// observations, the missing older ones count as equal to the first. Unlike there, what is
    /// looked at is each observation before the debounce, so that a service which is too restless
    /// ever to fire is seen too.
    pub fn score(self) -> f64 {
        // In 76ths the weights are whole, so that a score on a limit is exactly there.
        let sum: u32 = (0..CHANGES).filter(|&back| self.changed(back)).map(|back| 95 - 2 * back).sum();
        f64::from(100 * sum) / f64::from(76 * CHANGES)
    }

    /// Whether the observation `back` places before the newest differs from the one before it.
    fn changed(self, back: u32) -> bool {
        back + 1 < self.count && (self.bits ^ (self.bits >> 1)) >> back & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn slot(number: usize) -> Timestamp {
        Timestamp::from_second(1_700_000_040 + 60 * i64::try_from(number).unwrap()).unwrap()
    }

    fn is_below(letter: char) -> bool {
        letter == 'b'
    }

    /// After each observation (`b` below, `.` not, `-` held) the state's first letter.
    fn states(observations: &str, policy: &Policy) -> String {
        let mut machine = Machine::default();
        let mut states = String::new();
        for (number, letter) in observations.chars().enumerate() {
            match letter {
                '-' => machine.hold(slot(number)),
                _ => drop(machine.observe(slot(number), is_below(letter), None, policy)),
            }
            states.push(match machine.state() {
                State::Ok => 'O',
                State::Pending => 'P',
                State::Firing => 'F',
                State::Clearing => 'C',
            });
        }
        states
    }

    #[test]
    fn three_in_a_row_fire_and_three_in_a_row_clear() {
        for (observations, expected) in [
            ("...", "OOO"),
            ("b", "P"),
            ("bb.bb.", "PPOPPO"),
            ("bbb", "PPF"),
            ("bbbbb", "PPFFF"),
            ("bbb..b", "PPFCCF"),
            ("bbb..b..b...", "PPFCCFCCFCCO"),
            ("bbb...bb.", "PPFCCOPPO"),
            ("bbb...bbb", "PPFCCOPPF"),
        ] {
            assert_eq!(states(observations, &Policy::default()), expected, "{observations}");
        }
    }

    #[test]
    fn a_slot_that_could_not_be_read_neither_counts_nor_breaks_a_row() {
        for (observations, expected) in
            [("---b", "OOOP"), ("b-b--b", "PPPPPF"), ("bbb.-.-.-", "PPFCCCCOO"), ("bb---.", "PPPPPO")]
        {
            assert_eq!(states(observations, &Policy::default()), expected, "{observations}");
        }
    }

    #[test]
    fn the_policy_says_how_many() {
        let policy = Policy { fire_after: 1, clear_after: 5, ..Policy::default() };
        assert_eq!(states("b....b.....b", &policy), "FCCCCFCCCCOF");
    }

    /// Feeds `observations` and answers what was told, as (number of the observation, from, to).
    fn told(
        machine: &mut Machine,
        first: usize,
        observations: &str,
        silence: Option<&Silence>,
    ) -> Vec<(usize, Notice)> {
        let mut told = Vec::new();
        for (number, letter) in observations.chars().enumerate() {
            let number = first + number;
            match machine.observe(slot(number), is_below(letter), silence, &Policy::default()) {
                Step::Tell(notice) => told.push((number, notice)),
                Step::Duplicate => panic!("slot {number} is new"),
                Step::Quiet | Step::Silenced => {}
            }
        }
        told
    }

    fn notice(number: usize, from: Phase, to: Phase) -> (usize, Notice) {
        (number, Notice { from, to, at: slot(number) })
    }

    fn silence(until: Timestamp) -> Silence {
        Silence { until, reason: "maintenance".to_owned(), by: "sre".to_owned(), at: slot(0) }
    }

    #[test]
    fn a_change_is_told_once_with_its_slot() {
        let mut machine = Machine::default();
        assert_eq!(told(&mut machine, 0, "....bbbbbb", None), [notice(6, Phase::Ok, Phase::Firing)]);
        assert_eq!((machine.since, machine.told_at), (Some(slot(6)), Some(slot(6))));
        assert_eq!(told(&mut machine, 10, ".....", None), [notice(12, Phase::Firing, Phase::Ok)]);
        assert_eq!((machine.since, machine.told_at), (Some(slot(12)), Some(slot(12))));
    }

    #[test]
    fn since_is_the_first_observation_until_the_alert_fires() {
        let mut machine = Machine::default();
        machine.hold(slot(0));
        assert_eq!(machine.since, None);
        assert_eq!(told(&mut machine, 1, "b..", None), []);
        assert_eq!(machine.since, Some(slot(1)));
    }

    #[test]
    fn what_is_still_true_when_a_silence_ends_is_told_then() {
        let mut machine = Machine::default();
        let silence = silence(slot(8));
        assert_eq!(told(&mut machine, 0, "bbbbbbbbbb", Some(&silence)), [notice(8, Phase::Ok, Phase::Firing)]);
        assert_eq!(machine.since, Some(slot(2)), "it began within the silence");
    }

    #[test]
    fn what_came_and_went_within_a_silence_is_never_told() {
        let mut machine = Machine::default();
        let silence = silence(slot(8));
        assert_eq!(told(&mut machine, 0, "bbbb..........", Some(&silence)), []);
    }

    #[test]
    fn a_silence_says_when_it_holds_something_back() {
        let mut machine = Machine::default();
        let silence = silence(slot(2));
        let policy = Policy { fire_after: 1, ..Policy::default() };
        assert_eq!(machine.observe(slot(0), false, Some(&silence), &policy), Step::Quiet);
        assert_eq!(machine.observe(slot(1), true, Some(&silence), &policy), Step::Silenced);
        assert!(matches!(machine.observe(slot(2), true, Some(&silence), &policy), Step::Tell(_)));
    }

    #[test]
    fn a_silence_asked_for_during_a_slot_holds_for_that_slot() {
        let silence = Silence { at: slot(1), ..silence(slot(2)) };
        assert!(silence.is_active(slot(0)) && silence.is_active(slot(1)));
        assert!(!silence.is_active(slot(2)));
    }

    #[test]
    fn flapping_is_told_once_and_its_end_once() {
        let mut machine = Machine::default();
        // Fires and clears again and again; from the fourth change on it is flapping.
        let restless = "bbb...bbb...bbb...bbb...";
        assert_eq!(
            told(&mut machine, 0, restless, None),
            [
                notice(2, Phase::Ok, Phase::Firing),
                notice(5, Phase::Firing, Phase::Ok),
                notice(8, Phase::Ok, Phase::Firing),
                notice(11, Phase::Firing, Phase::Ok),
                notice(12, Phase::Ok, Phase::Flapping),
            ]
        );
        // It ends when all but the last change, of observation 21, have left the 21.
        assert_eq!(told(&mut machine, 24, &".".repeat(100), None), [notice(38, Phase::Flapping, Phase::Ok)]);
    }

    #[test]
    fn a_service_too_restless_to_fire_is_flapping() {
        let mut machine = Machine::default();
        assert_eq!(told(&mut machine, 0, &"b.".repeat(30), None), [notice(4, Phase::Ok, Phase::Flapping)]);
        assert_eq!(machine.phase(), Phase::Flapping);
        assert!(!machine.firing);
        assert_eq!(told(&mut machine, 60, &"b".repeat(40), None), [notice(79, Phase::Flapping, Phase::Firing)]);
    }

    #[test]
    fn the_stored_form_stays_the_same() {
        let mut machine = Machine::default();
        assert_eq!(told(&mut machine, 0, ".bbbb.", None).len(), 1);
        assert_eq!(
            serde_json::to_string(&machine).unwrap(),
            concat!(
                r#"{"last_slot":"2023-11-14T22:19:00Z","since":"2023-11-14T22:17:00Z","firing":true,"run":1,"#,
                r#""recent":{"bits":30,"count":6},"flapping":false,"told":"firing","told_at":"2023-11-14T22:17:00Z"}"#
            )
        );
    }

    /// base/flapping.c of Nagios Core step by step: a ring that starts full of the first state.
    fn nagios(observations: &[bool]) -> f64 {
        let mut ring = [observations[0]; 21];
        let mut index = 0;
        for &state in observations {
            ring[index] = state;
            index = (index + 1) % 21;
        }
        let mut curved_changes = 0.0;
        let mut last = ring[index];
        for x in 1..21_u32 {
            index = (index + 1) % 21;
            if ring[index] != last {
                curved_changes += f64::from(x - 1) * (1.25 - 0.75) / 19.0 + 0.75;
            }
            last = ring[index];
        }
        curved_changes * 100.0 / 20.0
    }

    fn score(observations: &[bool]) -> f64 {
        let mut recent = Recent::default();
        for &below in observations {
            recent.push(below);
        }
        recent.score()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_score_is_nagios_score(observations in prop::collection::vec(any::<bool>(), 1..64)) {
            prop_assert!((score(&observations) - nagios(&observations)).abs() < 1e-9);
        }
    }

    #[test]
    fn the_score_goes_from_0_to_100() {
        let restless: Vec<_> = (0..21).map(|x| x % 2 == 0).collect();
        for (observations, expected) in [
            (vec![], 0.0),
            (vec![true], 0.0),
            (vec![true; 30], 0.0),
            (vec![false, true], 6.25),
            ([vec![true], vec![false; 20]].concat(), 3.75),
            (restless, 100.0),
        ] {
            assert!((score(&observations) - expected).abs() < 1e-12, "{observations:?}");
        }
    }

    /// Summed in floating point, these four would miss 20 by a hair, and flapping would begin later.
    #[test]
    fn four_changes_of_mean_weight_one_are_exactly_20_per_cent() {
        let mut seen = 0;
        for bits in 0..1_u32 << 20 {
            let places = (0..20_u32).filter(|place| bits >> place & 1 == 1);
            if bits.count_ones() != 4 || places.sum::<u32>() != 38 {
                continue;
            }
            seen += 1;
            let mut state = false;
            let mut observations = vec![state];
            for place in 0..20 {
                state ^= bits >> place & 1 == 1;
                observations.push(state);
            }
            assert!(score(&observations) >= 20.0, "{observations:?}");
        }
        assert!(seen > 100);
    }
}
