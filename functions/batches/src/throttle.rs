//! How many requests may be in flight now, and when the next may leave.
//!
//! Additive increase, multiplicative decrease (Chiu and Jain, 1989) below the provider's limit: an
//! answer 429 halves what is in flight, successes bring it back. A provider that fails many times
//! in a row is taken to be down and probed with one request at a time, less and less often.

use std::time::{Duration, Instant};

/// Failures in a row after which the provider counts as down.
const DOWN_AFTER: u32 = 10;
/// Longest time that a `Retry-After` is followed.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The rate control of one provider.
#[derive(Debug, Clone)]
pub struct Throttle {
    most: usize,
    /// How many may be in flight; a fraction is progress towards the next whole one.
    window: f64,
    paused_until: Option<Instant>,
    failures: u32,
    probe_base: Duration,
    probe_most: Duration,
}

impl Throttle {
    /// At most `most` in flight; a provider that is down is probed after `probe_base`, doubling up
    /// to `probe_most`.
    #[expect(clippy::cast_precision_loss, reason = "ten, or so")]
    pub fn new(most: usize, probe_base: Duration, probe_most: Duration) -> Self {
        Self { most, window: most as f64, paused_until: None, failures: 0, probe_base, probe_most }
    }

    /// How many more requests may leave at `now` with `in_flight` under way.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to `most`, rounded down")]
    pub fn room(&self, in_flight: usize, now: Instant) -> usize {
        if self.paused_until.is_some_and(|until| now < until) {
            return 0;
        }
        let window = if self.is_down() { 1 } else { self.window as usize };
        window.min(self.most).saturating_sub(in_flight)
    }

    /// When sending may go on, if it is paused at `now`.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| now < *until)
    }

    /// Whether the provider has failed so often that it is only probed.
    pub fn is_down(&self) -> bool {
        self.failures >= DOWN_AFTER
    }

    /// The provider answered a question: 200 or 422.
    #[expect(clippy::cast_precision_loss, reason = "ten, or so")]
    pub fn answered(&mut self) {
        if self.is_down() {
            // It has just come back: feel the way up, as after a 429.
            self.window = 1.0;
        }
        self.failures = 0;
        // One more per window's worth of answers; twice that below half, where it was safe before.
        let step = if self.window < self.most as f64 / 2.0 { 2.0 } else { 1.0 };
        self.window = (self.window + step / self.window).min(self.most as f64);
    }

    /// The provider answered 429.
    pub fn throttled(&mut self, retry_after: Option<Duration>, now: Instant) {
        // Several 429 of one burst arrive together; only the first of them halves.
        if self.paused_until(now).is_none() {
            self.window = (self.window / 2.0).max(1.0);
        }
        let pause = retry_after.unwrap_or(self.probe_base).min(LONGEST_PAUSE);
        self.pause(now + pause);
    }

    /// The provider failed: 5xx, no answer, no connection.
    pub fn failed(&mut self, retry_after: Option<Duration>, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.is_down() {
            let doublings = (self.failures - DOWN_AFTER).min(16);
            let probe = self.probe_base.saturating_mul(1 << doublings).min(self.probe_most);
            self.pause(now + probe);
        }
        if let Some(retry_after) = retry_after {
            self.pause(now + retry_after.min(LONGEST_PAUSE));
        }
    }

    fn pause(&mut self, until: Instant) {
        self.paused_until = Some(self.paused_until.map_or(until, |old| old.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle() -> (Throttle, Instant) {
        (Throttle::new(10, Duration::from_millis(200), Duration::from_secs(30)), Instant::now())
    }

    #[test]
    fn never_more_than_ten_and_all_ten_at_the_start() {
        let (mut throttle, now) = throttle();
        assert_eq!(throttle.room(0, now), 10);
        (0..1000).for_each(|_| throttle.answered());
        assert_eq!(throttle.room(0, now), 10);
        assert_eq!(throttle.room(10, now), 0);
        assert_eq!(throttle.room(12, now), 0);
    }

    #[test]
    fn a_429_halves_and_pauses_and_successes_bring_it_back() {
        let (mut throttle, now) = throttle();
        for _ in 0..5 {
            throttle.throttled(Some(Duration::from_secs(2)), now);
        }
        assert_eq!(throttle.room(0, now), 0);
        let later = now + Duration::from_secs(2);
        assert_eq!(throttle.room(0, later), 5);
        (0..60).for_each(|_| throttle.answered());
        assert_eq!(throttle.room(0, later), 10);
    }

    #[test]
    fn a_retry_after_of_a_year_is_cut() {
        let (mut throttle, now) = throttle();
        throttle.throttled(Some(Duration::from_secs(31_536_000)), now);
        assert_eq!(throttle.room(0, now + LONGEST_PAUSE), 5);
    }

    #[test]
    fn a_provider_that_is_down_is_probed_one_at_a_time_and_ever_less() {
        let (mut throttle, mut now) = throttle();
        (0..DOWN_AFTER).for_each(|_| throttle.failed(None, now));
        assert!(throttle.is_down());
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            let until = throttle.paused_until(now).unwrap_or(now);
            let pause = until - now;
            assert!(pause >= last && pause <= Duration::from_secs(30));
            last = pause;
            now = until;
            assert_eq!(throttle.room(0, now), 1);
            throttle.failed(None, now);
        }
        assert_eq!(last, Duration::from_secs(30));
        throttle.answered();
        assert!(!throttle.is_down());
    }
}
