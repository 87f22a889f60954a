//! When to ask again, and after how long: exponential backoff with full jitter, as a pure function.
//!
//! Full jitter (a pause drawn evenly from zero to the bound) spreads clients best after a common
//! failure; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::{Answer, UpstreamError};

/// Which outcomes are asked again, how often, and how the pauses grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The bound of the first pause; each further one has twice the bound of the one before.
    pub base: Duration,
    /// The largest bound of a pause. `Retry-After` may exceed it.
    pub max: Duration,
    /// Attempts in all, the first included. `u32::MAX` leaves the end to the deadline.
    pub attempts: u32,
    /// Whether to ask again when the request may have been carried out.
    pub after_lost_answers: bool,
    /// The statuses after which to ask again.
    pub statuses: &'static [u16],
}

impl RetryPolicy {
    /// For requests that may be repeated without harm: up to four attempts, pauses up to 0.2, 0.4
    /// and 0.8 seconds, after lost answers, overload and server errors.
    pub const IDEMPOTENT: Self = Self {
        base: Duration::from_millis(200),
        max: Duration::from_secs(5),
        attempts: 4,
        after_lost_answers: true,
        statuses: &[408, 425, 429, 500, 502, 503, 504],
    };

    /// For requests that must not be carried out twice: only where the upstream has not seen the
    /// request, or says that it refused it unseen (429).
    pub const ONCE: Self = Self { after_lost_answers: false, statuses: &[429], ..Self::IDEMPOTENT };

    /// Whether this outcome may be asked again.
    pub fn retries(&self, outcome: &Result<Answer, UpstreamError>) -> bool {
        match outcome {
            Ok(answer) => self.statuses.contains(&answer.status.as_u16()),
            Err(UpstreamError::NotSent { .. }) => true,
            Err(UpstreamError::Unanswered { .. }) => self.after_lost_answers,
            // It would be as large, or as unreadable, the next time.
            Err(UpstreamError::BodyTooLarge { .. } | UpstreamError::Unreadable { .. }) => false,
        }
    }

    /// The pause after `attempt` attempts (from 1), or `None` if that was the last. With
    /// `retry_after` it is never shorter than the upstream asked for.
    pub fn delay(
        &self,
        attempt: u32,
        retry_after: Option<Duration>,
        rng: &mut (impl Rng + ?Sized),
    ) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(31);
        let bound = self.base.saturating_mul(1 << doublings).min(self.max);
        let jitter = bound.mul_f64(rng.random::<f64>());
        Some(retry_after.unwrap_or_default().saturating_add(jitter))
    }

    /// Like [`delay`](Self::delay), and `None` too where the pause would use up the time
    /// `remaining`.
    pub fn delay_within(
        &self,
        attempt: u32,
        retry_after: Option<Duration>,
        remaining: Duration,
        rng: &mut (impl Rng + ?Sized),
    ) -> Option<Duration> {
        self.delay(attempt, retry_after, rng).filter(|delay| *delay < remaining)
    }

    /// Calls `request` (with the time that remains until `deadline`) until its outcome is one that
    /// this policy does not ask again, or attempts or time run out. Returns the last outcome.
    pub async fn run<F>(
        &self,
        deadline: Instant,
        rng: &mut (impl Rng + Send + ?Sized),
        mut request: impl FnMut(Duration) -> F,
    ) -> Result<Answer, UpstreamError>
    where
        F: Future<Output = Result<Answer, UpstreamError>>,
    {
        let remaining = || deadline.saturating_duration_since(Instant::now());
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome = request(remaining()).await;
            if !self.retries(&outcome) {
                return outcome;
            }
            let retry_after = outcome.as_ref().ok().and_then(|answer| answer.retry_after);
            let Some(delay) = self.delay_within(attempt, retry_after, remaining(), rng) else {
                return outcome;
            };
            tokio::time::sleep(delay).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use bytes::Bytes;
    use http::StatusCode;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "an outcome, as the policy takes it")]
    fn answer(status: u16, retry_after: Option<u64>) -> Result<Answer, UpstreamError> {
        Ok(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            version: http::Version::HTTP_11,
            retry_after: retry_after.map(Duration::from_secs),
            content_type: None,
            body: Bytes::new(),
        })
    }

    fn unanswered() -> Result<Answer, UpstreamError> {
        Err(UpstreamError::Unanswered { reason: "x".into() })
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    #[test]
    fn what_may_have_been_carried_out_is_repeated_only_if_that_is_harmless() {
        let not_sent = Err(UpstreamError::not_sent("x"));
        assert!(RetryPolicy::ONCE.retries(&not_sent) && RetryPolicy::IDEMPOTENT.retries(&not_sent));
        assert!(!RetryPolicy::ONCE.retries(&unanswered()) && RetryPolicy::IDEMPOTENT.retries(&unanswered()));
        assert!(RetryPolicy::ONCE.retries(&answer(429, None)) && !RetryPolicy::ONCE.retries(&answer(503, None)));
        assert!(RetryPolicy::IDEMPOTENT.retries(&answer(503, None)));
        for status in [200, 201, 400, 404, 422] {
            assert!(!RetryPolicy::IDEMPOTENT.retries(&answer(status, None)), "{status}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_end_with_the_attempts() {
        let policy = RetryPolicy { attempts: 100, max: Duration::from_secs(3), ..RetryPolicy::IDEMPOTENT };
        for (attempt, bound) in [(1, 200), (2, 400), (3, 800), (4, 1600), (5, 3000), (99, 3000)] {
            let longest = (0..2_000).filter_map(|seed| policy.delay(attempt, None, &mut StdRng::seed_from_u64(seed)));
            let longest = longest.max().unwrap().as_millis();
            assert!((bound * 99 / 100..=bound).contains(&longest), "{attempt}: {longest}");
        }
        assert_eq!(policy.delay(100, None, &mut rng()), None);
        assert_eq!(policy.delay(u32::MAX, None, &mut rng()), None);
    }

    #[test]
    fn a_pause_is_never_shorter_than_the_upstream_asked_for() {
        let asked = Duration::from_secs(30);
        for attempt in 1..4 {
            let delay = RetryPolicy::IDEMPOTENT.delay(attempt, Some(asked), &mut rng()).unwrap();
            assert!(delay >= asked && delay <= asked + Duration::from_secs(1), "{delay:?}");
        }
        let remaining = Duration::from_secs(29);
        assert_eq!(RetryPolicy::IDEMPOTENT.delay_within(1, Some(asked), remaining, &mut rng()), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let pauses = || {
            let mut rng = rng();
            (1..4).map(|attempt| RetryPolicy::IDEMPOTENT.delay(attempt, None, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(pauses(), pauses());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_with_the_first_good_outcome() {
        let mut outcomes = [answer(200, None), answer(503, Some(2)), unanswered()].to_vec();
        let start = Instant::now();
        let deadline = start + Duration::from_mins(1);
        let mut rng = rng();
        let run = RetryPolicy::IDEMPOTENT.run(deadline, &mut rng, |_| std::future::ready(outcomes.pop().unwrap()));
        assert_eq!(run.await.unwrap().status, 200);
        assert!(start.elapsed() >= Duration::from_secs(2));
        assert!(outcomes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_gives_up_before_its_deadline_with_the_last_outcome() {
        let policy = RetryPolicy { attempts: u32::MAX, ..RetryPolicy::IDEMPOTENT };
        let start = Instant::now();
        let limit = Duration::from_secs(20);
        let mut calls = 0;
        let outcome = policy
            .run(start + limit, &mut rng(), |remaining| {
                calls += 1;
                assert!(remaining > Duration::ZERO && remaining <= limit);
                std::future::ready(unanswered())
            })
            .await;
        assert_eq!(outcome.unwrap_err(), unanswered().unwrap_err());
        assert!(start.elapsed() < limit && calls > 5, "{calls} calls in {:?}", start.elapsed());
    }
}
