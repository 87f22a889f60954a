//! A simulator's own time: tokio's, faster or slower, or moved by hand.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

/// Time ends here, so that adding to it is safe everywhere.
const END: Duration = Duration::from_hours(24 * 365 * 100);

/// Seconds since the start, as many as it pleases in each real one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// The time at `since`.
    base: Duration,
    since: Instant,
    /// 0 where it is moved by hand alone.
    speed: f64,
}

impl Clock {
    pub fn new(speed: f64) -> Self {
        Self { base: Duration::ZERO, since: Instant::now(), speed }
    }

    pub fn now(&self) -> Duration {
        if self.speed == 0.0 {
            return self.base;
        }
        let since = Duration::try_from_secs_f64(self.since.elapsed().as_secs_f64() * self.speed).unwrap_or(END);
        self.base.saturating_add(since).min(END)
    }

    /// Goes on from here at another speed.
    pub fn go_on(&mut self, speed: f64) {
        *self = Self { base: self.now(), since: Instant::now(), speed };
    }

    /// Jumps ahead, never back.
    pub fn jump(&mut self, to: Duration) {
        let base = self.now().max(to).min(END);
        *self = Self { base, since: Instant::now(), speed: self.speed };
    }
}

/// The body of `POST /_sim/advance`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Advance {
    By { seconds: f64 },
    To { to_seconds: f64 },
}

/// To when `POST /_sim/advance` moves the time, or why it does not.
pub(crate) fn advance(body: &[u8], now: Duration) -> Result<Duration, String> {
    let refusal = || r#"say by how much or to when, such as {"seconds": 30} or {"to_seconds": 3600}"#.to_owned();
    let time = |seconds| Duration::try_from_secs_f64(seconds).map_err(|_| refusal());
    match serde_json::from_slice(body).map_err(|_| refusal())? {
        Advance::By { seconds } => Ok(now.saturating_add(time(seconds)?)),
        Advance::To { to_seconds } => time(to_seconds),
    }
}
