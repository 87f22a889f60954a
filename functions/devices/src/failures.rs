//! What is remembered of plans that failed in a facility, for all devices.
//!
//! A failure holds the pair back for 30 minutes, each further one for twice as long, up to 6 hours. A
//! pair that is held back is not forbidden, only tried last. A day after the hold has ended all is
//! forgotten.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::catalog::ByPair;

/// The first hold.
const FIRST_HOLD: SignedDuration = SignedDuration::from_mins(30);
/// The longest hold.
const LONGEST_HOLD: SignedDuration = SignedDuration::from_hours(6);
/// For so long after the end of the hold the failures still count.
const MEMORY: SignedDuration = SignedDuration::from_hours(24);
/// Longest reason that is kept, in characters.
const LONGEST_REASON: usize = 200;

/// What is remembered of one plan in one facility.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Failures in a row, at least 1.
    pub count: u32,
    /// When the last one was.
    pub last_at: Timestamp,
    /// Why the last one was, in words.
    pub reason: String,
    /// Until then others are tried first.
    pub held_until: Timestamp,
}

impl Remembered {
    /// Whether others are tried first at `now`.
    pub fn held(&self, now: Timestamp) -> bool {
        now < self.held_until
    }

    /// Whether it does not count any more at `now`, so that it may be deleted.
    pub fn forgotten(&self, now: Timestamp) -> bool {
        now > self.forgotten_after()
    }

    /// The last moment at which it counts: a day after the end of the hold.
    pub fn forgotten_after(&self) -> Timestamp {
        later(self.held_until, MEMORY)
    }
}

/// What is to be remembered after a failure at `now`.
pub fn after_failure(previous: Option<&Remembered>, now: Timestamp, reason: &str) -> Remembered {
    let before = previous.filter(|it| !it.forgotten(now)).map_or(0, |it| it.count);
    // Past a few doublings the longest hold is reached; the shift stays far from an overflow.
    let hold = (FIRST_HOLD * (1 << before.min(10))).min(LONGEST_HOLD);
    Remembered {
        count: before.saturating_add(1),
        last_at: now,
        reason: reason.chars().take(LONGEST_REASON).collect(),
        held_until: later(now, hold),
    }
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// All that is remembered, by plan and facility.
pub type Failures = ByPair<Remembered>;
