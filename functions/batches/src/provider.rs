//! The LoRaWAN provider: `POST {base}/sensor-onboarding-sample`, and what its answers mean.
//!
//! 200 is registered and 422 is in use; both are the end of a question. Everything else is trouble,
//! of two kinds: what certainly registered nothing, and what may have. The second kind costs money
//! when it is forgotten.

use std::time::Duration;

use http::StatusCode;
use kit::upstream::{Answer, Upstream, UpstreamError};
use serde::Serialize;

use crate::{config::TOKEN, deveui::DevEui, run::Outcome};

const PATH: &str = "/sensor-onboarding-sample";

/// How long the place of a request that broke is kept, for the provider to see that we hung up.
const LINGER: Duration = Duration::from_millis(20);

/// The provider behind one base URL.
#[derive(Debug, Clone)]
pub struct Provider {
    upstream: Upstream,
    timeout: Duration,
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it means for the DevEUI.
    pub outcome: Outcome,
    /// What it means for the pace.
    pub pace: Pace,
    /// What is wrong, in words for people, where something is.
    pub trouble: Option<String>,
}

/// What a reply says about the provider's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It answers.
    Well,
    /// It asks for fewer requests, perhaps after a while.
    Throttled(Option<Duration>),
    /// It fails.
    Failing(Option<Duration>),
}

#[derive(Serialize)]
struct Body {
    deveui: DevEui,
}

impl Provider {
    /// The provider behind `upstream`; a request is given up after `timeout`.
    pub fn new(upstream: Upstream, timeout: Duration) -> Self {
        Self { upstream, timeout }
    }

    /// After how long a request is given up.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Its base URL, which also names it in the store.
    pub fn name(&self) -> String {
        self.upstream.base().to_owned()
    }

    /// Reads the provider's token where it takes a while to read.
    pub async fn warm(&self) {
        self.upstream.warm().await;
    }

    /// How long a request may occupy one of the provider's places, the time included for which a
    /// provider that did not answer is believed to be still at it.
    pub fn occupies(&self) -> Duration {
        self.timeout * 3 / 2
    }

    /// Asks once for `deveui`. Ends when the provider's place is free again, as far as can be known
    /// here: a request given up may well be worked on for a while.
    pub async fn register(&self, deveui: DevEui) -> Reply {
        let sent_at = tokio::time::Instant::now();
        match self.upstream.post_json(PATH, &Body { deveui }, self.timeout).await {
            Ok(answer) => read(&answer),
            Err(error) => {
                if error.maybe_processed() {
                    let timed_out = sent_at.elapsed() >= self.timeout;
                    let free_at =
                        if timed_out { sent_at + self.occupies() } else { tokio::time::Instant::now() + LINGER };
                    tokio::time::sleep_until(free_at).await;
                }
                failed(&error)
            }
        }
    }
}

fn read(answer: &Answer) -> Reply {
    let well = |outcome| Reply { outcome, pace: Pace::Well, trouble: None };
    let wrong = |outcome, pace, trouble: String| Reply { outcome, pace, trouble: Some(trouble) };
    let failing = Pace::Failing(answer.retry_after);
    match answer.status {
        // The contract leaves the body open ("true", or nothing), so it is not read but for one
        // thing: a web page is no provider's answer, whatever its status.
        StatusCode::OK if is_web_page(answer) => wrong(
            Outcome::Unknown,
            failing,
            "the provider answers with a web page; is its base URL (MUSTER_LORAWAN_URL) right?".to_owned(),
        ),
        StatusCode::OK => well(Outcome::Registered),
        StatusCode::UNPROCESSABLE_ENTITY => well(Outcome::Taken),
        StatusCode::TOO_MANY_REQUESTS => wrong(
            Outcome::NotDone,
            Pace::Throttled(answer.retry_after),
            "the provider asks for fewer requests (429)".to_owned(),
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => wrong(
            Outcome::NotDone,
            failing,
            format!("the provider refuses our requests ({}); is its token ({TOKEN}) set, and right?", answer.status),
        ),
        // 408 says that the provider waited, not what it did.
        status if (status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT) || status.is_redirection() => {
            wrong(
                Outcome::NotDone,
                failing,
                format!("the provider refuses our requests ({status}); is its base URL (MUSTER_LORAWAN_URL) right?"),
            )
        }
        // 201 or 204 would be news; like a 5xx, they do not tell what was done.
        status => wrong(Outcome::Unknown, failing, format!("the provider answers {status}")),
    }
}

fn is_web_page(answer: &Answer) -> bool {
    // Frameworks label a bare `true` as text/html too, so the label alone says nothing.
    let labelled = answer.content_type.as_deref().is_some_and(|it| it.to_ascii_lowercase().starts_with("text/html"));
    labelled && answer.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

fn failed(error: &UpstreamError) -> Reply {
    let outcome = if error.maybe_processed() { Outcome::Unknown } else { Outcome::NotDone };
    Reply { outcome, pace: Pace::Failing(None), trouble: Some(format!("the provider: {error}")) }
}
