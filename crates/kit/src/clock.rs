//! What time it is, as an argument.
//!
//! Domain code takes a `Timestamp`; whoever calls it takes a [`Clock`] and reads it once per
//! request or tick. A test holds the clock in its hand: [`Clock::manual`] stands still until it is
//! moved, [`Clock::runtime`] goes with tokio's clock, which `start_paused` tests let jump.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A source of the current time. Clones read the same time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<Mutex<Timestamp>>),
    Runtime { start: Timestamp, since: Instant },
}

impl Clock {
    /// The operating system's wall clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until [`advance`](Self::advance) moves it.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(start))))
    }

    /// A clock that reads `start` now and goes on with tokio's clock. In a test with paused time
    /// it moves exactly when a sleep or a timeout does.
    pub fn runtime(start: Timestamp) -> Self {
        Self(Source::Runtime { start, since: Instant::now() })
    }

    /// The current time, UTC.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Manual(now) => *now.lock().unwrap_or_else(PoisonError::into_inner),
            Source::Runtime { start, since } => later(*start, since.elapsed()),
        }
    }

    /// Moves a manual clock, and all its clones, forward by `by`.
    ///
    /// # Panics
    /// On any other clock: nobody but the world moves those, and a test that tries is wrong.
    pub fn advance(&self, by: std::time::Duration) {
        let Source::Manual(now) = &self.0 else {
            panic!("only a manual clock can be advanced");
        };
        let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = later(*now, by);
    }
}

/// `start + by`, or the last representable instant (the year 9999).
fn later(start: Timestamp, by: std::time::Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| start.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Source::System => "system",
            Source::Manual(_) => "manual",
            Source::Runtime { .. } => "runtime",
        };
        write!(f, "Clock({kind}, {})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp::constant(1_700_000_000, 0);

    #[test]
    fn a_manual_clock_moves_only_when_advanced_and_takes_its_clones_along() {
        let clock = Clock::manual(START);
        let clone = clock.clone();
        assert_eq!(clone.now(), START);
        clock.advance(Duration::from_secs(90));
        assert_eq!(clone.now().as_second(), START.as_second() + 90);
    }

    #[test]
    fn the_system_clock_reads_the_wall_clock() {
        let before = Timestamp::now();
        let read = Clock::default().now();
        assert!(before <= read && read <= Timestamp::now());
    }

    #[test]
    fn a_clock_that_would_overflow_stops_at_the_last_instant() {
        let clock = Clock::manual(START);
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), Timestamp::MAX);
    }

    #[test]
    #[should_panic(expected = "only a manual clock")]
    fn the_system_clock_cannot_be_advanced() {
        Clock::system().advance(Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_clock_moves_with_a_paused_sleep() {
        let clock = Clock::runtime(START);
        tokio::time::sleep(Duration::from_hours(1)).await;
        let moved = clock.now().duration_since(START);
        assert!((3600..3601).contains(&moved.as_secs()), "{moved:?}");
    }
}
