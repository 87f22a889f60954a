//! `Prefer: wait=N` (RFC 7240): hold a GET of something unfinished until it changes.

use std::{convert::Infallible, time::Duration};

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderValue, request::Parts};

/// Longest wait that is granted, in seconds: below the ALB's idle timeout and the functions' own.
pub const MAX_SECONDS: u64 = 20;

/// How long the client would like to wait; zero without the header. Past the maximum it is
/// shortened, as the RFC lets a server do; what cannot be read is ignored, as it demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreferWait(pub Duration);

impl PreferWait {
    fn from_headers(headers: &HeaderMap) -> Self {
        let seconds = headers
            .get_all("prefer")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split([',', ';']))
            .find_map(|part| {
                let (name, value) = part.split_once('=')?;
                if !name.trim().eq_ignore_ascii_case("wait") {
                    return None;
                }
                value.trim().trim_matches('"').parse::<u64>().ok()
            });
        Self(Duration::from_secs(seconds.unwrap_or(0).min(MAX_SECONDS)))
    }

    /// Whether the client asked for a wait at all.
    pub fn is_wanted(self) -> bool {
        !self.0.is_zero()
    }

    /// Says in the answer that the wait was granted.
    pub fn applied(self, headers: &mut HeaderMap) {
        if self.is_wanted()
            && let Ok(value) = HeaderValue::try_from(format!("wait={}", self.0.as_secs()))
        {
            headers.insert("preference-applied", value);
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PreferWait {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::from_headers(&parts.headers))
    }
}

/// Reads with `read` until `done` says so or the wait is over; answers the last reading.
///
/// The first reading is answered at once where nothing is to be waited for. The pauses between
/// readings grow from 50 ms to 500 ms: a change is seen soon, and a long wait costs the store
/// about two reads a second.
pub async fn until<T, E, R: Future<Output = Result<T, E>>>(
    wait: PreferWait,
    mut read: impl FnMut() -> R,
    mut done: impl FnMut(&T) -> bool,
) -> Result<T, E> {
    let deadline = tokio::time::Instant::now() + wait.0;
    let mut pause = Duration::from_millis(50);
    loop {
        let value = read().await?;
        let now = tokio::time::Instant::now();
        if now >= deadline || done(&value) {
            return Ok(value);
        }
        tokio::time::sleep(pause.min(deadline - now)).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &'static str) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", HeaderValue::from_static(value));
        PreferWait::from_headers(&headers).0.as_secs()
    }

    #[test]
    fn wait_is_read_among_other_preferences_and_bounded() {
        assert_eq!(parsed("wait=5"), 5);
        assert_eq!(parsed("respond-async, Wait = \"7\""), 7);
        assert_eq!(parsed("wait=3600"), MAX_SECONDS);
        assert_eq!(parsed("wait=soon"), 0);
        assert_eq!(parsed("return=minimal"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_change_or_with_the_time() {
        let mut reads = 0;
        let mut count = || {
            reads += 1;
            std::future::ready(Ok::<_, Infallible>(reads))
        };
        let started = tokio::time::Instant::now();
        assert_eq!(until(PreferWait(Duration::from_secs(9)), &mut count, |n| *n == 3).await, Ok(3));
        assert!(started.elapsed() < Duration::from_secs(1));
        let started = tokio::time::Instant::now();
        let _ = until(PreferWait(Duration::from_secs(9)), &mut count, |_| false).await;
        assert_eq!(started.elapsed().as_secs(), 9);
    }
}
