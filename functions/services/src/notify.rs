//! Where events about alerts are sent: an SNS topic, a webhook.
//!
//! An event is sent at least once. It carries its id, the same in every attempt, so that a receiver
//! can tell that it has it already. One that could not be sent gives way to the next one of the same
//! alert: a receiver that was away hears how things stand, not all that they went through. Posts are signed by the rules of Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>):
//! `webhook-id`, `webhook-timestamp` and `webhook-signature: v1,<base64>`, the HMAC-SHA256 of
//! `id.timestamp.body` under the bytes behind `whsec_`.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use aws_sdk_sns::{
    Client,
    config::{retry::RetryConfig, timeout::TimeoutConfig},
    error::DisplayErrorContext,
    types::MessageAttributeValue,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use kit::{
    secrets::Secret,
    upstream::{RetryPolicy, Upstream},
};
use rand::SeedableRng as _;
use serde::Serialize;
use sha2::Sha256;
use thiserror::Error;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    alert::Phase,
    config::{ConfigError, TOPIC, WEBHOOK_KEY, webhook},
    store::{Channel, Sick},
};

/// How long a receiver may take, all attempts together.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take for one.
const ATTEMPT: Duration = Duration::from_secs(3);
/// SNS refuses a longer subject.
const LONGEST_SUBJECT: usize = 99;

/// What has happened to an alert, as receivers get it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// `services.alert.firing`, `services.alert.resolved` or `services.alert.flapping`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The minute in which it happened.
    pub timestamp: Timestamp,
    /// What is known.
    pub data: Data,
    /// Names the event; sent beside it.
    #[serde(skip)]
    pub id: Uuid,
}

/// What is known of the alert when it is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Data {
    /// The alert.
    pub alert_id: Uuid,
    /// The service; none where CPX itself cannot be read.
    pub service: Option<String>,
    /// How many servers it has.
    pub servers: u32,
    /// How many of them are healthy.
    pub healthy: u32,
    /// How many are above a threshold.
    pub unhealthy: u32,
    /// How many did not say.
    pub unknown: u32,
    /// Fewer healthy ones than this are too few.
    pub min_healthy: u32,
    /// The servers that are not healthy, the first of them.
    pub sick: Vec<Sick>,
    /// In words.
    pub summary: String,
}

/// The type of the event that tells of `phase`.
pub const fn kind(phase: Phase) -> &'static str {
    match phase {
        Phase::Ok => "services.alert.resolved",
        Phase::Firing => "services.alert.firing",
        Phase::Flapping => "services.alert.flapping",
    }
}

/// Why an event was not taken. The words are for the log.
#[derive(Debug, Error)]
enum SendError {
    #[error("{WEBHOOK_KEY} has no value; make one with: echo whsec_$(openssl rand -base64 32)")]
    NoKey,
    #[error("{WEBHOOK_KEY} is no key; it must be whsec_ and the base64 of 24 to 64 bytes")]
    BadKey,
    #[error("{WEBHOOK_KEY} cannot be read now: {0}")]
    Secret(#[from] kit::secrets::SecretError),
    #[error("the webhook answered {0}")]
    Status(http::StatusCode),
    #[error("the webhook: {0}")]
    Upstream(#[from] kit::upstream::UpstreamError),
    #[error("the topic: {0}")]
    Topic(String),
    #[error("the event cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// Sends events. Clones share connections.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    topic: Option<Topic>,
    webhook: Option<Webhook>,
}

#[derive(Debug, Clone)]
struct Topic {
    client: Client,
    arn: String,
}

#[derive(Debug, Clone)]
struct Webhook {
    upstream: Upstream,
    key: Secret,
}

impl Notifier {
    /// As the settings say, each looked up by its name. The AWS SDK's own settings are taken from
    /// the environment.
    pub async fn from_settings(setting: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let webhook = webhook(&setting)?.map(|(upstream, key)| Webhook { upstream, key });
        let topic = match setting(TOPIC).filter(|arn| !arn.is_empty()) {
            Some(arn) => Some(Topic { client: sns().await, arn }),
            None => None,
        };
        Ok(Self { topic, webhook })
    }

    /// Publishes to the topic `arn`, and to nobody else.
    pub fn topic(client: Client, arn: &str) -> Self {
        Self { topic: Some(Topic { client, arn: arn.to_owned() }), webhook: None }
    }

    /// Reads the webhook's key where it takes a while to read.
    pub async fn warm(&self) {
        if let Some(webhook) = &self.webhook {
            webhook.key.warm().await;
        }
    }

    /// Whether posts can be signed: what is wrong with the webhook's key, in words for people.
    pub async fn check_key(&self) -> Result<(), String> {
        match &self.webhook {
            Some(webhook) => webhook.signed("", "", b"").await.map(|_| ()).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// Where events go.
    pub fn channels(&self) -> BTreeSet<Channel> {
        let topic = self.topic.as_ref().map(|_| Channel::Topic);
        topic.into_iter().chain(self.webhook.as_ref().map(|_| Channel::Webhook)).collect()
    }

    /// Sends `event` to those of `channels` that there are. Answers where it has to be sent again.
    pub async fn send(&self, event: &Event, channels: &BTreeSet<Channel>, now: Timestamp) -> BTreeSet<Channel> {
        let mut left = BTreeSet::new();
        for channel in channels {
            let sent = match (channel, &self.topic, &self.webhook) {
                (Channel::Topic, Some(topic), _) => topic.publish(event).await,
                (Channel::Webhook, _, Some(webhook)) => webhook.post(event, now).await,
                // Its setting is gone: nobody wants it any more.
                _ => Ok(()),
            };
            if let Err(error) = sent {
                tracing::error!(%error, event = %event.id, kind = event.kind, "an alert was not taken; it is sent again with the next tick");
                left.insert(*channel);
            }
        }
        left
    }
}

async fn sns() -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(ATTEMPT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(PATIENCE)
        .build();
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .load()
        .await;
    Client::new(&config)
}

impl Topic {
    async fn publish(&self, event: &Event) -> Result<(), SendError> {
        // Mail is for people, everything else for programs.
        let message = serde_json::json!({ "default": serde_json::to_string(event)?, "email": mail(event) });
        let attribute = |value: &str| {
            MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
                .map_err(|error| SendError::Topic(error.to_string()))
        };
        let published = self
            .client
            .publish()
            .topic_arn(&self.arn)
            .subject(subject(&event.data.summary))
            .message_structure("json")
            .message(message.to_string())
            .message_attributes("type", attribute(event.kind)?)
            .message_attributes("id", attribute(&event.id.to_string())?)
            .send()
            .await;
        published.map(|_| ()).map_err(|error| SendError::Topic(DisplayErrorContext(&error).to_string()))
    }
}

/// SNS wants ASCII without line ends, and less than 100 characters.
fn subject(summary: &str) -> String {
    let ascii = |it: char| if it.is_ascii_graphic() || it == ' ' { it } else { '?' };
    let text: String = summary.chars().take(LONGEST_SUBJECT).map(ascii).collect();
    text.trim_start().to_owned()
}

fn mail(event: &Event) -> String {
    let mut text = format!("{}\n", event.data.summary);
    for sick in &event.data.sick {
        let why = match (&sick.reason, sick.cpu_pct, sick.memory_pct) {
            (Some(reason), ..) => reason.clone(),
            (None, Some(cpu), Some(memory)) => format!("CPU {cpu} %, memory {memory} %"),
            _ => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{} is {}: {why}", sick.ip, sick.status.as_str());
    }
    let _ = write!(text, "\n\nEvent {} of {}, alert {}.", event.id, event.timestamp, event.data.alert_id);
    text
}

impl Webhook {
    async fn signed(&self, id: &str, timestamp: &str, body: &[u8]) -> Result<String, SendError> {
        let token = self.key.token(ATTEMPT).await?.ok_or(SendError::NoKey)?;
        sign(token.expose(), id, timestamp, body)
    }

    async fn post(&self, event: &Event, now: Timestamp) -> Result<(), SendError> {
        let body = serde_json::to_vec(event)?;
        let id = event.id.to_string();
        let timestamp = now.as_second().to_string();
        let signature = self.signed(&id, &timestamp, &body).await?;
        let mut headers = HeaderMap::new();
        for (name, value) in [("webhook-id", &id), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)]
        {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let mut rng = rand::rngs::StdRng::from_os_rng();
        // The receiver knows an event by its id, so it may be sent twice.
        let answer = RetryPolicy::IDEMPOTENT
            .run(Instant::now() + PATIENCE, &mut rng, |left| {
                self.upstream.send_with(Method::POST, "", headers.clone(), Some(body.clone()), left.min(ATTEMPT))
            })
            .await?;
        if answer.status.is_success() { Ok(()) } else { Err(SendError::Status(answer.status)) }
    }
}

fn sign(key: &str, id: &str, timestamp: &str, body: &[u8]) -> Result<String, SendError> {
    let key = key.strip_prefix("whsec_").and_then(|key| BASE64_STANDARD.decode(key).ok());
    let key = key.filter(|key| (24..=64).contains(&key.len())).ok_or(SendError::BadKey)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| SendError::BadKey)?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_standard() {
        // The example of the specification's reference libraries.
        let signature = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_key_signs_nothing() {
        for key in ["", "secret", "whsec_", "whsec_%%%", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(matches!(sign(key, "a", "1", b""), Err(SendError::BadKey)), "{key}");
        }
    }

    #[test]
    fn a_subject_is_what_sns_takes() {
        let subject = subject(&format!("Müll\n\u{1b}[31m{}", "x".repeat(200)));
        assert!(subject.starts_with("M?ll??[31mxxx") && subject.len() < 100, "{subject}");
    }
}
