//! AWS Secrets Manager: a function reads its own secret; the operator sets and lists them.
//!
//! Terraform makes the secrets, without a value. A value is put by `muster secrets set` and is in
//! no plan and no state.

use std::{fmt, time::Duration};

use aws_sdk_secretsmanager::{
    Client, Error,
    config::{BehaviorVersion, http::HttpResponse, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
};
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::OnceCell;

use super::{SecretError, Token};

/// The version of a secret that counts.
const CURRENT: &str = "AWSCURRENT";

/// One secret in Secrets Manager, to be read.
pub(super) struct Manager {
    id: String,
    client: OnceCell<Client>,
}

impl Manager {
    /// The secret with the ARN or name `id`. Its client is made with the first reading.
    pub(super) fn new(id: String) -> Self {
        Self { id, client: OnceCell::new() }
    }

    #[cfg(test)]
    pub(super) fn with(id: &str, client: Client) -> Self {
        Self { id: id.to_owned(), client: OnceCell::new_with(Some(client)) }
    }

    /// The value, or `None` where there is none yet.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Token>, SecretError> {
        let client = self.client.get_or_init(client).await;
        let unreadable = |reason| SecretError::Manager { name: name.to_owned(), reason };
        let answer = match client.get_secret_value().secret_id(&self.id).send().await.map_err(VaultError::from) {
            Ok(answer) => answer,
            // Also what is answered for a secret without a current version.
            Err(VaultError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        match (answer.secret_string, answer.secret_binary) {
            (Some(text), _) => Token::parse(name, &text).map(Some),
            (None, Some(_)) => Err(unreadable("it is binary; put it as text".to_owned())),
            (None, None) => Ok(None),
        }
    }
}

/// The secrets of one deployment, for its operator.
#[derive(Clone)]
pub struct Vault {
    client: Client,
    prefix: String,
}

/// What can be told of a secret: never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whether it has a value.
    pub is_set: bool,
    /// When it was changed last, as far as is known.
    pub changed_at: Option<Timestamp>,
}

/// Why Secrets Manager did not do what it was asked for. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VaultError {
    /// There is no such secret, or it has no value.
    #[error("there is no such secret: {detail}")]
    NotFound {
        /// What AWS says.
        detail: String,
    },
    /// The SDK finds no credentials.
    #[error("no AWS credentials are found: {detail}")]
    NoCredentials {
        /// What the SDK says.
        detail: String,
    },
    /// The credentials are wrong, have expired, or may not do this.
    #[error("AWS refuses: {detail}")]
    NoAccess {
        /// What AWS says.
        detail: String,
    },
    /// The request could not even be made: no region, for example.
    #[error("{detail}")]
    Setting {
        /// What the SDK says.
        detail: String,
    },
    /// No answer, or one that says that Secrets Manager is ill or asked too much.
    #[error("Secrets Manager cannot be reached: {detail}")]
    Away {
        /// What happened.
        detail: String,
    },
    /// Anything else.
    #[error("Secrets Manager refuses the request: {detail}")]
    Refused {
        /// What AWS says.
        detail: String,
    },
}

impl Vault {
    /// The secrets whose names begin with `prefix/`, with the credentials and the region that the
    /// AWS SDK finds.
    pub async fn new(prefix: &str) -> Self {
        Self { client: client().await, prefix: prefix.to_owned() }
    }

    /// What `name` is called in Secrets Manager.
    pub fn id(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Gives the secret `name` a new value. The secret itself must be there.
    pub async fn set(&self, name: &str, token: &Token) -> Result<(), VaultError> {
        self.client.put_secret_value().secret_id(self.id(name)).secret_string(token.expose()).send().await?;
        Ok(())
    }

    /// What can be told of the secret `name`.
    pub async fn entry(&self, name: &str) -> Result<Entry, VaultError> {
        let found = self.client.describe_secret().secret_id(self.id(name)).send().await?;
        if found.deleted_date.is_some() {
            return Err(VaultError::NotFound { detail: "it is marked for deletion".to_owned() });
        }
        let versions = found.version_ids_to_stages.unwrap_or_default();
        Ok(Entry {
            is_set: versions.values().flatten().any(|stage| stage == CURRENT),
            changed_at: found.last_changed_date.and_then(|at| Timestamp::from_second(at.secs()).ok()),
        })
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A client as the environment describes it, `AWS_ENDPOINT_URL_SECRETS_MANAGER` included.
async fn client() -> Client {
    // Two attempts fit into the time that a reading may take.
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(2))
        .operation_timeout(Duration::from_millis(4500))
        .build();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(2).with_max_backoff(Duration::from_millis(300)))
        .load()
        .await;
    Client::new(&config)
}

impl<E> From<SdkError<E, HttpResponse>> for VaultError
where
    E: std::error::Error + ProvideErrorMetadata + Into<Error> + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        match error {
            SdkError::ServiceError(context) => {
                let status = context.raw().status().as_u16();
                answered(context.into_err(), status)
            }
            _ => unsent(causes(&error)),
        }
    }
}

fn answered<E: ProvideErrorMetadata + Into<Error>>(error: E, status: u16) -> VaultError {
    let code = error.code().unwrap_or("no code").to_owned();
    let message = error.message().unwrap_or_default();
    let detail = if message.is_empty() { code.clone() } else { message.to_owned() };
    match error.into() {
        Error::ResourceNotFoundException(_) => VaultError::NotFound { detail },
        Error::InternalServiceError(_) => VaultError::Away { detail },
        _ => match code.as_str() {
            "AccessDeniedException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "ExpiredTokenException"
            | "MissingAuthenticationTokenException" => VaultError::NoAccess { detail },
            "ThrottlingException" | "Throttling" => VaultError::Away { detail },
            _ if status >= 500 => VaultError::Away { detail: format!("{status} {detail}") },
            _ => VaultError::Refused { detail },
        },
    }
}

/// An error of the SDK itself, which tells these apart by words alone.
fn unsent(detail: String) -> VaultError {
    let words = detail.to_ascii_lowercase();
    if words.contains("credentials") {
        // The other lines list where it looked.
        let first = detail.lines().next().unwrap_or_default();
        VaultError::NoCredentials { detail: first.trim_end_matches(". Attempted:").to_owned() }
    } else if words.contains("region") {
        VaultError::Setting { detail }
    } else {
        VaultError::Away { detail }
    }
}

/// The error and what is behind it. (The SDK's own formatter adds the raw answer, values included.)
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    // These only say that there is more to come.
    chain.filter(|it| !matches!(it.as_str(), "dispatch failure" | "other")).collect::<Vec<_>>().join(": ")
}

/// A client of a Secrets Manager at `url`, with made-up credentials.
#[cfg(test)]
pub(super) fn test_client(url: &str) -> Client {
    use aws_sdk_secretsmanager::config::{Config, Credentials, Region};
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(url)
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}
