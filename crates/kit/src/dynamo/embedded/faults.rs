//! Misfortune on demand, the same every time for the same seed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// What goes wrong between the SDK and the embedded store, per attempt. Rates from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// The sequence of misfortunes follows from it (and from the order of the requests).
    pub seed: u64,
    /// How often an attempt is answered with 500 and not carried out.
    pub error_rate: f64,
    /// How often an attempt is carried out and its answer lost: a 500 or a broken connection, half
    /// and half.
    pub lost_answer_rate: f64,
    /// Added to every attempt.
    pub latency: Duration,
    /// How often the SDK asks, at most, before it gives up; on AWS three times. 1 lets the code
    /// see every misfortune.
    pub attempts: u32,
}

impl Default for Faults {
    /// Nothing goes wrong; three attempts.
    fn default() -> Self {
        Self { seed: 0, error_rate: 0.0, lost_answer_rate: 0.0, latency: Duration::ZERO, attempts: 3 }
    }
}

/// What happens to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// A 500 without doing anything.
    Refused,
    /// Done, and then a 500.
    DoneAndRefused,
    /// Done, and then nothing.
    DoneAndCut,
}

/// Faults and where in their sequence they are.
#[derive(Debug)]
pub(super) struct Misfortune {
    pub(super) faults: Faults,
    rng: Mutex<StdRng>,
}

impl Misfortune {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, rng: Mutex::new(StdRng::seed_from_u64(faults.seed)) }
    }

    pub(super) fn next(&self) -> Fate {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let drawn: f64 = rng.random();
        let lost = self.faults.error_rate + self.faults.lost_answer_rate;
        if drawn < self.faults.error_rate {
            Fate::Refused
        } else if drawn >= lost {
            Fate::Answered
        } else if rng.random() {
            Fate::DoneAndRefused
        } else {
            Fate::DoneAndCut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_brings_the_same_misfortunes_at_the_rates_asked_for() {
        let faults = Faults { seed: 7, error_rate: 0.2, lost_answer_rate: 0.3, ..Faults::default() };
        let draw = || {
            let misfortune = Misfortune::new(faults);
            std::iter::repeat_with(|| misfortune.next()).take(10_000).collect::<Vec<_>>()
        };
        let fates = draw();
        assert_eq!(fates, draw());
        let count = |fate| fates.iter().filter(|f| **f == fate).count();
        assert!((1_800..2_200).contains(&count(Fate::Refused)));
        assert!((1_300..1_700).contains(&count(Fate::DoneAndRefused)));
        assert!((1_300..1_700).contains(&count(Fate::DoneAndCut)));
    }
}
