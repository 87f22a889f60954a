//! What the environment says about this capability.

use std::{env, time::Duration};

use kit::{
    secrets::{Secret, SecretError},
    upstream::{self, BaseUrlError, Upstream},
};
use thiserror::Error;

use crate::provider::Provider;

/// The provider's base URL.
pub const URL: &str = "MUSTER_LORAWAN_URL";
/// The provider's token, where it wants one: itself, or by [`Secret`]'s other settings.
pub const TOKEN: &str = "MUSTER_LORAWAN_TOKEN";
/// After how many seconds a request to the provider is given up; 10 unless set.
pub const TIMEOUT: &str = "MUSTER_LORAWAN_TIMEOUT_SECONDS";
/// After how many seconds a batch that is not complete fails; a day unless set.
pub const MAX_AGE: &str = "MUSTER_BATCHES_MAX_AGE_SECONDS";

/// A setting that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The provider's URL.
    #[error(transparent)]
    Url(#[from] BaseUrlError),
    /// The provider's token.
    #[error(transparent)]
    Token(#[from] SecretError),
    /// A number of seconds.
    #[error("{0} is {1:?}; it must be a number of seconds from 0.05 to 31536000")]
    Seconds(&'static str, String),
}

/// The provider that the environment names, if it names one.
pub fn provider() -> Result<Option<Provider>, ConfigError> {
    provider_from(variable)
}

/// The name of the provider that the environment names, for whoever does not call it and needs no
/// token.
pub fn provider_name() -> Result<Option<String>, ConfigError> {
    Ok(variable(URL).filter(|url| !url.is_empty()).map(|url| upstream::base(URL, &url)).transpose()?)
}

/// The provider that the settings of this module name, each looked up by its name.
pub fn provider_from(setting: impl Fn(&str) -> Option<String>) -> Result<Option<Provider>, ConfigError> {
    let Some(url) = setting(URL).filter(|url| !url.is_empty()) else { return Ok(None) };
    let timeout = seconds(TIMEOUT, setting(TIMEOUT), Duration::from_secs(10))?;
    let token = Secret::from_settings(TOKEN, setting)?;
    Ok(Some(Provider::new(Upstream::builder(URL, &url).bearer(token).build()?, timeout)))
}

/// After how long a batch that is not complete fails.
pub fn max_age() -> Result<Duration, ConfigError> {
    max_age_from(variable)
}

/// The same, with the setting looked up by its name.
pub fn max_age_from(setting: impl FnOnce(&str) -> Option<String>) -> Result<Duration, ConfigError> {
    seconds(MAX_AGE, setting(MAX_AGE), Duration::from_hours(24))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn seconds(variable: &'static str, text: Option<String>, default: Duration) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    let seconds: Option<f64> = text.trim().parse().ok().filter(|seconds| (0.05..=31_536_000.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or(ConfigError::Seconds(variable, text))
}
