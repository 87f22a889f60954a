//! SHOUTCLOUD's client: `POST {base}/V1/SHOUT`.

use std::time::Duration;

use kit::upstream::{Upstream, UpstreamError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text;

const PATH: &str = "/V1/SHOUT";
/// Past this the service counts as gone.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// The text comes back twice, once of them longer, both perhaps as `\u0000` escapes.
const BODY_LIMIT: usize = 2 << 20;

/// SHOUTCLOUD, behind its base URL.
#[derive(Debug, Clone)]
pub struct Shoutcloud(Upstream);

/// Why there is no shouted text.
#[derive(Debug, Error)]
pub enum ShoutError {
    /// No whole answer.
    #[error("SHOUTCLOUD did not answer: {0}")]
    Upstream(#[from] UpstreamError),
    /// An answer with another status than 200.
    #[error("SHOUTCLOUD answered {0}")]
    Status(http::StatusCode),
    /// An answer that does not shout our text.
    #[error("SHOUTCLOUD talked nonsense: {0}")]
    Nonsense(&'static str),
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "INPUT")]
    input: &'a str,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "OUTPUT")]
    output: String,
}

impl Shoutcloud {
    /// The service behind `upstream`.
    pub fn new(upstream: &Upstream) -> Self {
        Self(upstream.with_body_limit(BODY_LIMIT))
    }

    /// The text, shouted.
    pub async fn shout(&self, text: &str) -> Result<String, ShoutError> {
        let answer = self.0.post_json(PATH, &Request { input: text }, TIMEOUT).await?;
        if answer.status != http::StatusCode::OK {
            return Err(ShoutError::Status(answer.status));
        }
        // By what it is and not by its label, which is sometimes `APPLICATION/JSON`.
        let reply: Reply = answer.json().map_err(|_| ShoutError::Nonsense("no JSON with an OUTPUT"))?;
        // A service that shouts by other rules (ASCII only, say) is right too; another text is not.
        if text::shout(&reply.output) != text::shout(text) {
            return Err(ShoutError::Nonsense("another text"));
        }
        Ok(reply.output)
    }
}
