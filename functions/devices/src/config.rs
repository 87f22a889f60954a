//! What the environment says about this capability.

use std::{env, time::Duration};

use http::HeaderName;
use kit::{
    secrets::{Secret, SecretError},
    upstream::{BaseUrlError, Upstream},
};
use thiserror::Error;

use crate::vendor::Vendor;

/// The base URL of the device API.
pub const URL: &str = "MUSTER_PACKET_URL";
/// The id of the project whose devices are ours.
pub const PROJECT: &str = "MUSTER_PACKET_PROJECT";
/// The token: itself, or by [`Secret`]'s other settings.
pub const TOKEN: &str = "MUSTER_PACKET_TOKEN";
/// After how many seconds a request counts as unanswered, 0.05 to 20; 10 unless set.
pub const TIMEOUT: &str = "MUSTER_PACKET_TIMEOUT_SECONDS";
/// What the tags of our devices begin with; [`DEFAULT_TAG`] unless set. Two installations in one
/// project must have different ones.
pub const TAG: &str = "MUSTER_PACKET_TAG";
/// What becomes of machines with our tag that no record knows: `report` (unless set) or `delete`.
pub const SWEEP: &str = "MUSTER_PACKET_SWEEP";
/// Whether a machine that is not up yet has a termination time at the vendor: `on` (unless set) or
/// `off`.
pub const DEAD_MANS_SWITCH: &str = "MUSTER_PACKET_DEAD_MANS_SWITCH";

/// What the tags of our devices begin with where nothing else is set.
pub const DEFAULT_TAG: &str = "muster";

/// Every setting of this capability but the secret's.
pub const NAMES: [&str; 6] = [URL, PROJECT, TIMEOUT, TAG, SWEEP, DEAD_MANS_SWITCH];

const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-auth-token");

/// A setting that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The base URL.
    #[error(transparent)]
    Url(#[from] BaseUrlError),
    /// The token.
    #[error(transparent)]
    Token(#[from] SecretError),
    /// A value.
    #[error("{name} is {value:?}; it must be {right}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        right: &'static str,
    },
}

/// Where devices come from, and what is done about those that nobody knows.
#[derive(Debug, Clone)]
pub struct Config {
    /// The project, or the setting that is missing for it.
    pub vendor: Result<Vendor, &'static str>,
    /// The token, from which the key for userdata is derived.
    pub token: Secret,
    /// Whether machines with our tag that no record knows are deleted.
    pub deletes_orphans: bool,
    /// Whether a machine that is not up yet has a termination time at the vendor.
    pub dead_mans_switch: bool,
}

impl Config {
    /// As the environment says.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_settings(|name| env::var(name).ok())
    }

    /// As the settings of this module say, each looked up by its name.
    pub fn from_settings(setting: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let token = Secret::from_settings(TOKEN, &setting)?;
        let setting = |name: &str| setting(name).filter(|value| !value.is_empty());
        let either = |name, yes: &str, no: &str, default, right| match setting(name) {
            None => Ok(default),
            Some(value) if value == yes => Ok(true),
            Some(value) if value == no => Ok(false),
            Some(value) => Err(ConfigError::Value { name, value, right }),
        };
        let deletes_orphans = either(SWEEP, "delete", "report", false, "report or delete")?;
        let dead_mans_switch = either(DEAD_MANS_SWITCH, "on", "off", true, "on or off")?;
        let timeout = setting(TIMEOUT).map_or(Ok(10.0), |value| {
            let number = value.trim().parse().ok().filter(|number| (0.05..=20.0).contains(number));
            let right = "a number of seconds from 0.05 to 20";
            number.ok_or(ConfigError::Value { name: TIMEOUT, value, right })
        })?;
        let tag = setting(TAG).unwrap_or_else(|| DEFAULT_TAG.to_owned());
        if tag.len() > 40 || !tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            let right = "1 to 40 letters, digits, hyphens, underscores and dots";
            return Err(ConfigError::Value { name: TAG, value: tag, right });
        }
        let vendor = match (setting(URL), setting(PROJECT)) {
            (None, _) => Err(URL),
            (_, None) => Err(PROJECT),
            (Some(url), Some(project)) => {
                let upstream = Upstream::builder(URL, &url).token_header(TOKEN_HEADER, token.clone()).build()?;
                Ok(Vendor::new(upstream, project, tag, Duration::from_secs_f64(timeout)))
            }
        };
        Ok(Self { vendor, token, deletes_orphans, dead_mans_switch })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let find = |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Config::from_settings(find)
    }

    const COMPLETE: [(&str, &str); 3] = [(URL, "https://api.example.com"), (PROJECT, "p"), (TOKEN, "t")];

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(config(&[]).unwrap().vendor.unwrap_err(), URL);
        assert_eq!(config(&[(PROJECT, "p"), (URL, "")]).unwrap().vendor.unwrap_err(), URL);
        assert_eq!(config(&[(URL, "https://api.example.com")]).unwrap().vendor.unwrap_err(), PROJECT);
        assert_eq!(config(&[(URL, "https://api.example.com"), (PROJECT, "")]).unwrap().vendor.unwrap_err(), PROJECT);
        config(&COMPLETE[..2]).unwrap().vendor.unwrap();
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        let config = config(&COMPLETE).unwrap();
        assert_eq!((config.deletes_orphans, config.dead_mans_switch), (false, true));
        let vendor = config.vendor.unwrap();
        assert_eq!((vendor.tag_prefix(), vendor.timeout()), (DEFAULT_TAG, Duration::from_secs(10)));
    }

    #[test]
    fn what_is_set_counts() {
        let with = |name, value| config(&[&COMPLETE[..], &[(name, value)]].concat()).unwrap();
        assert!(with(SWEEP, "delete").deletes_orphans);
        assert!(!with(SWEEP, "report").deletes_orphans);
        assert!(with(DEAD_MANS_SWITCH, "on").dead_mans_switch);
        assert!(!with(DEAD_MANS_SWITCH, "off").dead_mans_switch);
        assert_eq!(with(TIMEOUT, " 0.05 ").vendor.unwrap().timeout(), Duration::from_millis(50));
        assert_eq!(with(TIMEOUT, "20").vendor.unwrap().timeout(), Duration::from_secs(20));
        assert_eq!(with(TAG, "Fleet_2.b-c").vendor.unwrap().tag_prefix(), "Fleet_2.b-c");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_would_be_right() {
        let long = "x".repeat(41);
        for (name, value, right) in [
            (SWEEP, "Delete", "report or delete"),
            (DEAD_MANS_SWITCH, "true", "on or off"),
            (TIMEOUT, "0", "0.05 to 20"),
            (TIMEOUT, "21", "0.05 to 20"),
            (TIMEOUT, "NaN", "0.05 to 20"),
            (TIMEOUT, "soon", "0.05 to 20"),
            (TAG, "a:b", "1 to 40 letters"),
            (TAG, "ä", "1 to 40 letters"),
            (TAG, &long, "1 to 40 letters"),
            (URL, "api.example.com", URL),
            (TOKEN, "two words", TOKEN),
        ] {
            let mut settings = COMPLETE.to_vec();
            settings.retain(|(known, _)| *known != name);
            settings.push((name, value));
            let error = config(&settings).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(right), "{name}={value}: {error}");
        }
    }
}
