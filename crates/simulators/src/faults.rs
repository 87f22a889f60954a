//! Which request goes wrong, and how: decided, never drawn.
//!
//! Every decision is a pure function of (seed, what was asked, which attempt it is, name of the
//! fault). The order and the timing of requests do not enter, so a failing test is repeated by its
//! seed, and raising the rate of one fault leaves the decisions about the others as they were.

use std::{hash::Hasher, time::Duration};

use bytes::Bytes;
use clap::ValueEnum;
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::call::{Answer, Cut};

/// Whether, and in which way, the whole upstream is away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Down {
    /// It is there.
    #[default]
    No,
    /// Every request is answered 503, after the usual latency.
    #[serde(rename = "503")]
    #[value(name = "503")]
    Status503,
    /// Every connection is reset on its first request, at once and without an answer.
    Reset,
}

/// The source of all decisions about one attempt at one thing.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    seed: u64,
    key: u64,
    attempt: u32,
    spared: bool,
}

impl Draw {
    /// Decisions about `key` that are the same for every attempt.
    pub fn lasting(seed: u64, key: u64) -> Self {
        Self { seed, key, attempt: 0, spared: false }
    }

    /// Decisions about one attempt, counted from 1. Attempts above `faulty_attempts` are spared:
    /// nothing [`happens`](Self::happens) to them.
    pub fn attempt(seed: u64, key: u64, attempt: u32, faulty_attempts: Option<u32>) -> Self {
        let spared = faulty_attempts.is_some_and(|faulty| attempt > faulty);
        Self { seed, key, attempt, spared }
    }

    /// Whether the fault strikes. Rates are shares (0 never, 1 always); one outside 0..=1 acts as
    /// the nearer end.
    pub fn happens(&self, fault: &str, rate: f64) -> bool {
        rate > 0.0 && !self.spared && self.fraction(fault) < rate
    }

    /// A number of 0..1, evenly spread.
    pub fn fraction(&self, name: &str) -> f64 {
        let high = u32::try_from(self.number(name) >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    /// One of four, each as likely as the others.
    pub fn pick<T>(&self, name: &str, choices: [T; 4]) -> T {
        let [first, second, third, fourth] = choices;
        match self.number(name) & 3 {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        }
    }

    /// A number of 0 to `limit` - 1, each as likely as the others; 0 where there is none.
    pub fn below(&self, name: &str, limit: u32) -> u32 {
        let rest = self.number(name) % u64::from(limit.max(1));
        u32::try_from(rest).unwrap_or_default()
    }

    /// `latency` and a share of `jitter`, evenly spread.
    pub fn delay(&self, latency: Duration, jitter: Duration) -> Duration {
        if jitter.is_zero() { latency } else { latency.saturating_add(jitter.mul_f64(self.fraction("jitter"))) }
    }

    /// A number evenly spread.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, self.key);
        hasher.write(&self.attempt.to_le_bytes());
        hasher.write(name.as_bytes());
        hasher.finish()
    }
}

/// The key of a thing that is asked for by text.
pub fn key_of(text: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The connection ends without an answer: half of the time in good order (FIN), half by a reset.
pub fn no_answer(draw: &Draw) -> Answer {
    Answer::Cut(if draw.happens("reset", 0.5) { Cut::Reset } else { Cut::Close })
}

/// Bytes that are no HTTP, after which the connection is closed.
pub fn garbage(draw: &Draw) -> Answer {
    Answer::Cut(Cut::Garbage(draw.pick(
        "garbage",
        [
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n".as_slice(),
            b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
            b"\x00\xff\xfe\x00 not a protocol \x00\r\n\r\n",
            b"HTTP/9.9 99999 ??\r\n\r\n",
        ],
    )))
}

/// 500, 502 or 503, and every so often with a page of a proxy for a body where JSON was hoped for.
pub fn server_error(draw: &Draw) -> Answer {
    use StatusCode as S;
    let kinds = [S::INTERNAL_SERVER_ERROR, S::BAD_GATEWAY, S::SERVICE_UNAVAILABLE, S::INTERNAL_SERVER_ERROR];
    let status = draw.pick("error status", kinds);
    if draw.happens("error page", 0.5) {
        html(status)
    } else {
        Answer::json(status, &serde_json::json!({ "message": "simulated error" }))
    }
}

/// A page of HTML under any status.
pub fn html(status: StatusCode) -> Answer {
    let page =
        format!("<!DOCTYPE html>\n<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n");
    Answer::new(status, "text/html; charset=utf-8", page)
}

/// 429, half of the time with `Retry-After`.
pub fn throttled(draw: &Draw, retry_after_seconds: u64) -> Answer {
    let message = serde_json::json!({ "message": "too many requests" });
    let answer = Answer::json(StatusCode::TOO_MANY_REQUESTS, &message);
    if draw.fraction("retry-after") < 0.5 {
        answer.with(header::RETRY_AFTER, Bytes::from(retry_after_seconds.to_string()))
    } else {
        answer
    }
}

/// Reads a rate of the command line.
///
/// # Errors
/// In words, for anything but a number of 0 to 1.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let rate =
        text.parse().map_err(|_| format!("`{text}` is no number; a rate is a share between 0 and 1, such as 0.05"))?;
    check_rate(rate)
}

fn check_rate(rate: f64) -> Result<f64, String> {
    if (0.0..=1.0).contains(&rate) {
        Ok(rate)
    } else {
        Err(format!("{rate} is outside 0..=1; a rate is a share, such as 0.05 for one in twenty"))
    }
}

/// Reads a duration of the command line: `100ms`, `2s`, `1m 30s`.
///
/// # Errors
/// In words, for anything else and for what is below zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "a duration has a unit, such as 100ms, 2s or 1m";
    let signed: jiff::SignedDuration = text.parse().map_err(|_| format!("`{text}` is no duration; {hint}"))?;
    Duration::try_from(signed).map_err(|_| format!("`{text}` is below zero; {hint}"))
}

/// Rates in JSON are held to the same range as those of the command line.
pub(crate) fn rate<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    check_rate(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_decisions_and_another_seed_others() {
        let decisions = |seed| -> Vec<bool> {
            (0..1000).map(|key| Draw::attempt(seed, key, 1, None).happens("error", 0.5)).collect()
        };
        assert_eq!(decisions(7), decisions(7));
        assert_ne!(decisions(7), decisions(8));
    }

    #[test]
    fn decisions_are_the_same_in_every_release() {
        // A seed in a bug report must stay good: this number may not change.
        assert_eq!(Draw::attempt(1, 2, 3, None).number("error"), 10_656_667_889_925_272_262);
    }

    #[test]
    fn a_fault_strikes_at_about_its_rate() {
        let struck = (0..100_000).filter(|key| Draw::attempt(1, *key, 1, None).happens("error", 0.05)).count();
        assert!((4_700..5_300).contains(&struck), "{struck}");
    }

    #[test]
    fn raising_a_rate_keeps_what_already_went_wrong() {
        for key in 0..1000 {
            let draw = Draw::attempt(1, key, 1, None);
            assert!(!draw.happens("error", 0.1) || draw.happens("error", 0.2));
        }
    }

    #[test]
    fn faults_strike_independently_of_each_other() {
        let both = (0..100_000)
            .map(|key| Draw::attempt(1, key, 1, None))
            .filter(|draw| draw.happens("error", 0.5) && draw.happens("hang", 0.5))
            .count();
        assert!((24_000..26_000).contains(&both), "{both}");
    }

    #[test]
    fn attempts_above_the_faulty_ones_are_spared() {
        assert!(Draw::attempt(1, 2, 1, Some(1)).happens("error", 1.0));
        assert!(!Draw::attempt(1, 2, 2, Some(1)).happens("error", 1.0));
    }

    #[test]
    fn a_delay_lies_between_latency_and_latency_with_jitter() {
        let (latency, jitter) = (Duration::from_millis(100), Duration::from_millis(50));
        let delays: Vec<_> = (0..1000).map(|key| Draw::lasting(1, key).delay(latency, jitter)).collect();
        assert!(delays.iter().all(|delay| (latency..latency + jitter).contains(delay)));
        assert!(delays.iter().any(|delay| *delay > latency + jitter / 2));
    }

    #[test]
    fn rates_outside_the_range_and_durations_without_a_unit_are_refused() {
        assert_eq!(parse_rate("0.25"), Ok(0.25));
        for refused in ["1.1", "-0.1", "NaN", "5%", ""] {
            assert!(parse_rate(refused).is_err(), "{refused}");
        }
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        for refused in ["100", "-1s", "soon", ""] {
            assert!(parse_duration(refused).is_err(), "{refused}");
        }
    }
}
