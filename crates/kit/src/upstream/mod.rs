//! Calls to other people's services: one HTTP client per upstream, kept for the whole process.
//!
//! **The one thing to know:** an error says whether the request may have been carried out
//! ([`UpstreamError::maybe_processed`]). Whoever changes something upstream must ask.
//!
//! Connections are kept and reused, which is why an answer's body is always read to its end (up to
//! a limit). Redirects are not followed: a base URL that redirects is a wrong base URL. Neither
//! bodies nor credentials appear in `Debug`, `Display` or the log.

mod base_url;
mod error;
mod retry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use base_url::{BaseUrlError, base, parse_base_url, path};
pub use error::UpstreamError;
pub use retry::RetryPolicy;

use crate::metrics;
use crate::secrets::{Secret, Token};
use base_url::BaseUrl;

/// The largest body that is read unless the upstream is given another limit, in bytes.
pub const DEFAULT_BODY_LIMIT: usize = 64 * 1024;

/// How long a connection may take to be established, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Below the 350 seconds after which AWS's NAT forgets a silent connection without a word.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// No upstream's wish for silence is honoured for longer.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Where a 429 without `Retry-After` says when the next request is welcome.
const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

const USER_AGENT: &str = concat!("muster/", env!("CARGO_PKG_VERSION"));

/// An upstream service: its base URL and the client for it. Clones share the connections.
#[derive(Clone)]
pub struct Upstream {
    client: reqwest::Client,
    /// What its metrics are called by.
    name: Arc<str>,
    base: Arc<BaseUrl>,
    token: Option<Credential>,
    body_limit: usize,
}

/// A token, and how the upstream wants to be shown it.
#[derive(Clone)]
struct Credential {
    secret: Secret,
    header: HeaderName,
    scheme: &'static str,
}

/// How an [`Upstream`] is made; see [`Upstream::builder`].
pub struct UpstreamBuilder<'a> {
    variable: &'a str,
    base: &'a str,
    headers: HeaderMap,
    token: Option<Credential>,
    connect_timeout: Duration,
    body_limit: usize,
}

/// What an upstream answered, whatever the status.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Which HTTP the upstream speaks.
    pub version: Version,
    /// How long the upstream wants to be left alone: `Retry-After` in seconds or as a date, or, of a
    /// 429 without it, `X-RateLimit-Reset`; at most one hour.
    pub retry_after: Option<Duration>,
    /// `Content-Type` as sent.
    pub content_type: Option<String>,
    /// The whole body, within the limit.
    pub body: Bytes,
}

impl Upstream {
    /// The service at `base`, an `http` or `https` URL, perhaps with a path. `variable` is the
    /// setting it comes from and is named in the error.
    pub fn new(variable: &str, base: &str) -> Result<Self, BaseUrlError> {
        Self::builder(variable, base).build()
    }

    /// Like [`new`](Self::new), with settings.
    pub fn builder<'a>(variable: &'a str, base: &'a str) -> UpstreamBuilder<'a> {
        UpstreamBuilder {
            variable,
            base,
            headers: HeaderMap::new(),
            token: None,
            connect_timeout: CONNECT_TIMEOUT,
            body_limit: DEFAULT_BODY_LIMIT,
        }
    }

    /// The same service and connections with another limit for bodies, in bytes.
    #[must_use]
    pub fn with_body_limit(&self, body_limit: usize) -> Self {
        Self { body_limit, ..self.clone() }
    }

    /// The whole base URL, without a slash at the end. It holds no secret: none is accepted in it.
    pub fn base(&self) -> &str {
        self.base.prefix()
    }

    /// The base URL without path: scheme, host and port.
    pub fn origin(&self) -> &str {
        self.base.origin()
    }

    /// `GET path`. `path` starts with `/` and may have a query; see [`path`] for values in it. An
    /// empty one is the base URL itself, to the letter.
    /// `timeout` covers everything, from the connection to the last byte of the body.
    pub async fn get(&self, path: &str, timeout: Duration) -> Result<Answer, UpstreamError> {
        self.send(Method::GET, path, None, timeout).await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str, timeout: Duration) -> Result<Answer, UpstreamError> {
        self.send(Method::DELETE, path, None, timeout).await
    }

    /// `POST path` with a JSON body.
    pub async fn post_json(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<Answer, UpstreamError> {
        let body = serde_json::to_vec(body).map_err(|e| UpstreamError::not_sent(e.to_string()))?;
        self.send(Method::POST, path, Some(body), timeout).await
    }

    /// Any method, with or without a JSON body.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Answer, UpstreamError> {
        self.send_with(method, path, HeaderMap::new(), json, timeout).await
    }

    /// The same with headers of this one request, such as a signature.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        json: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Answer, UpstreamError> {
        // Sent more than once it is still one text in memory.
        let json = json.map(Bytes::from);
        let url = self.base.join(path).map_err(UpstreamError::not_sent)?;
        let began = Instant::now();
        // Reading a token counts: the caller relies on its timeout.
        let left = || timeout.saturating_sub(began.elapsed());
        // Also one that has no token to be sent with: the upstream is as good as down.
        let mut call = metrics::process().call(&self.name);
        let mut token = self.token(timeout).await?;
        let mut again = false;
        loop {
            let mut request = self.client.request(method.clone(), url.clone()).headers(headers.clone()).timeout(left());
            if let (Some(credential), Some(token)) = (&self.token, &token) {
                request = request.header(credential.header.clone(), credential.value(token)?);
            }
            if let Some(json) = &json {
                request = request.header(header::CONTENT_TYPE, "application/json").body(json.clone());
            }
            let response = request.send().await.map_err(|e| UpstreamError::from_client(&e))?;
            let answer = read(response, self.body_limit).await?;
            if let (Some(Credential { secret, .. }), Some(refused)) = (&self.token, &token) {
                match answer.status {
                    // Nothing has been done, so the same may be sent again if the token has just been
                    // replaced: once, as the next answer is to the token that counts now.
                    StatusCode::UNAUTHORIZED if !again => {
                        again = true;
                        if let Some(new) = secret.replaced(refused, left()).await {
                            token = Some(new);
                            continue;
                        }
                    }
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => secret.doubt(),
                    _ => {}
                }
            }
            call.answered(answer.status);
            return Ok(answer);
        }
    }

    /// Reads the token where it takes a while to read, so that the first request need not wait.
    pub async fn warm(&self) {
        if let Some(token) = &self.token {
            token.secret.warm().await;
        }
    }

    async fn token(&self, timeout: Duration) -> Result<Option<Token>, UpstreamError> {
        let Some(Credential { secret, .. }) = &self.token else { return Ok(None) };
        // Why not is in the log; callers of ours may see this reason.
        let unreadable = |_| UpstreamError::not_sent(format!("{} cannot be read now", secret.name()));
        secret.token(timeout / 2).await.map_err(unreadable)
    }
}

impl Credential {
    /// What the header says.
    fn value(&self, token: &Token) -> Result<HeaderValue, UpstreamError> {
        let mut value = HeaderValue::try_from(format!("{}{}", self.scheme, token.expose()))
            .map_err(|_| UpstreamError::not_sent(format!("{} cannot be sent", self.secret.name())))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// An upstream's name in the metrics: `lorawan` for the setting `MUSTER_LORAWAN_URL`.
fn name(variable: &str) -> String {
    let name = variable.strip_prefix("MUSTER_").unwrap_or(variable);
    name.strip_suffix("_URL").unwrap_or(name).to_ascii_lowercase()
}

async fn read(mut response: reqwest::Response, limit: usize) -> Result<Answer, UpstreamError> {
    let (status, version) = (response.status(), response.version());
    let too_large = UpstreamError::BodyTooLarge { status, limit };
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large);
    }
    let text = |name: HeaderName| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let wait = text(header::RETRY_AFTER).and_then(|value| retry_after(value, Timestamp::now()));
    let reset = || text(RATE_LIMIT_RESET).and_then(|value| until_reset(value, Timestamp::now()));
    let retry_after = wait.or_else(|| (status == StatusCode::TOO_MANY_REQUESTS).then(reset)?);
    let content_type = text(header::CONTENT_TYPE).map(str::to_owned);
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| UpstreamError::unanswered(&e))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, version, retry_after, content_type, body: body.freeze() })
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date after `now`. Nonsense is as good as none.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let date = jiff::fmt::rfc2822::parse(value).ok()?;
        let wait = date.timestamp().duration_since(now).max(SignedDuration::ZERO);
        Duration::try_from(wait).ok()?
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// `X-RateLimit-Reset`: a Unix time in seconds, or how many seconds are left; both are in use, and no
/// limit lasts from 1970 until now.
fn until_reset(value: &str, now: Timestamp) -> Option<Duration> {
    const OLDEST_TIME: u64 = 1_000_000_000;
    let seconds: u64 = value.trim().parse().ok()?;
    let left = if seconds < OLDEST_TIME { seconds } else { seconds.saturating_sub(now.as_second().try_into().ok()?) };
    Some(Duration::from_secs(left).min(MAX_RETRY_AFTER))
}

impl UpstreamBuilder<'_> {
    /// A header for every request, for example a token. Its value is kept out of logs.
    #[must_use]
    pub fn secret_header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.headers.insert(name, value);
        self
    }

    /// The token for `Authorization: Bearer …` of every request. Where none is set, the header is
    /// left out; where it cannot be read, nothing is sent.
    #[must_use]
    pub fn bearer(mut self, secret: Secret) -> Self {
        self.token = Some(Credential { secret, header: header::AUTHORIZATION, scheme: "Bearer " });
        self
    }

    /// The token for a header of the upstream's own, such as `X-Auth-Token`; else like
    /// [`bearer`](Self::bearer).
    #[must_use]
    pub fn token_header(mut self, header: HeaderName, secret: Secret) -> Self {
        self.token = Some(Credential { secret, header, scheme: "" });
        self
    }

    /// How long a connection may take to be established (3 seconds).
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The largest body that is read, in bytes ([`DEFAULT_BODY_LIMIT`]).
    #[must_use]
    pub const fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Checks the base URL and makes the client.
    pub fn build(self) -> Result<Upstream, BaseUrlError> {
        let base = BaseUrl::parse(self.variable, self.base)?;
        let mut client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(self.headers)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .tcp_nodelay(true);
        if base.is_loopback() {
            // A company's proxy settings do not know this machine's simulators.
            client = client.no_proxy();
            if !base.is_https() {
                // Nor is there any use for the system's certificates, which take a while to load.
                client = client.tls_certs_only([]);
            }
        }
        let client = client
            .build()
            .map_err(|error| BaseUrlError::new(self.variable, format!("has no working HTTP client: {error}")))?;
        Ok(Upstream {
            client,
            name: name(self.variable).into(),
            base: Arc::new(base),
            token: self.token,
            body_limit: self.body_limit,
        })
    }
}

impl Answer {
    /// The body as JSON of a given shape. Where it does not fit, the error names the place, not the
    /// content.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, UpstreamError> {
        let mut json = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let place = error.path().to_string();
            let kind = match error.inner().classify() {
                serde_json::error::Category::Data => "does not have the expected shape",
                _ => "is not valid JSON",
            };
            UpstreamError::Unreadable { status: self.status, reason: format!("the body {kind} at {place}") }
        })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status.as_u16())
            .field("version", &self.version)
            .field("retry_after", &self.retry_after)
            .field("content_type", &self.content_type)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("origin", &self.origin()).finish_non_exhaustive()
    }
}

impl fmt::Debug for UpstreamBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBuilder").field("variable", &self.variable).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_upstream_is_called_after_its_setting() {
        assert_eq!(name("MUSTER_LORAWAN_URL"), "lorawan");
        assert_eq!(name("MUSTER_DEPLOYMENTS_URL"), "deployments");
        assert_eq!(name("OTHER"), "other");
    }

    const NOW: Timestamp = Timestamp::constant(784_111_777, 0); // Sun, 06 Nov 1994 08:49:37 GMT

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date_and_bounded_to_an_hour() {
        assert_eq!(retry_after("120", NOW), Some(Duration::from_mins(2)));
        assert_eq!(retry_after(" 0 ", NOW), Some(Duration::ZERO));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", NOW), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:27 GMT", NOW), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999999999999", NOW), Some(Duration::from_hours(1)));
        assert_eq!(retry_after("Sat, 06 Nov 2094 08:49:37 GMT", NOW), Some(Duration::from_hours(1)));
        assert_eq!(retry_after("soon", NOW), None);
        assert_eq!(retry_after("", NOW), None);
        assert_eq!(retry_after("-5", NOW), None);
    }

    #[test]
    fn a_rate_limit_ends_at_a_time_or_after_a_time_within_an_hour() {
        assert_eq!(until_reset("30", NOW), Some(Duration::from_secs(30)));
        let later = Timestamp::constant(1_800_000_000, 0);
        assert_eq!(until_reset("1800000012", later), Some(Duration::from_secs(12)));
        assert_eq!(until_reset("1799999999", later), Some(Duration::ZERO));
        assert_eq!(until_reset("1900000000", later), Some(MAX_RETRY_AFTER));
        assert_eq!(until_reset("soon", later), None);
    }

    #[test]
    fn an_answer_that_does_not_fit_names_the_place_and_not_the_content() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only its shape matters")]
        struct Device {
            id: u32,
        }
        let answer = Answer {
            status: StatusCode::OK,
            version: Version::HTTP_11,
            retry_after: None,
            content_type: None,
            body: Bytes::from_static(br#"[{"id": 1}, {"id": "hunter2"}]"#),
        };
        let error = answer.json::<Vec<Device>>().unwrap_err();
        assert!(error.to_string().contains("[1].id"), "{error}");
        assert!(!format!("{error} {error:?} {answer:?}").contains("hunter2"));
        assert!(error.maybe_processed());
    }

    #[test]
    fn debug_shows_no_credentials_and_no_path() {
        let upstream = Upstream::builder("MUSTER_PACKET_URL", "http://127.0.0.1:1/hunter2")
            .secret_header(HeaderName::from_static("x-auth-token"), HeaderValue::from_static("hunter2"))
            .build()
            .unwrap();
        assert!(!format!("{upstream:?}").contains("hunter2"));
        assert_eq!(upstream.origin(), "http://127.0.0.1:1");
    }
}
