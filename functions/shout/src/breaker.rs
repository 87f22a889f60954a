//! Remembers that an upstream is dead, so that not everybody has to find out.
//!
//! Closed until some failures in a row; then open for a while; then one caller may try.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long it stays open.
const OPEN_FOR: Duration = Duration::from_secs(30);

/// The breaker of one upstream.
#[derive(Debug, Default, Clone)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether a call may be tried at `now`. While it is open nobody may; when that time is over
    /// one may, and the others go on waiting for what comes of it.
    pub fn may_try(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.open_until = Some(now + OPEN_FOR);
                true
            }
        }
    }

    /// The upstream answered.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The upstream failed. Answers whether that has opened the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = self.failures >= FAILURES;
        if opens {
            self.open_until = Some(now + OPEN_FOR);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_open_it_and_one_caller_probes() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert!(!breaker.failed(now));
        assert!(!breaker.failed(now));
        assert!(breaker.may_try(now));
        assert!(breaker.failed(now));
        assert!(!breaker.may_try(now));
        let later = now + OPEN_FOR;
        assert!(breaker.may_try(later));
        assert!(!breaker.may_try(later), "one probe at a time");
        assert!(breaker.failed(later));
        assert!(!breaker.may_try(later + OPEN_FOR / 2));
        assert!(breaker.may_try(later + OPEN_FOR));
        breaker.succeeded();
        assert!(breaker.may_try(later) && breaker.may_try(later));
    }
}
