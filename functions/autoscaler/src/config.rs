//! What the environment says about this capability.

use std::{env, ops::RangeInclusive, time::Duration};

use kit::upstream::{BaseUrlError, Upstream};
use thiserror::Error;

use crate::deployments::Deployments;

/// The base URL of the deployments API.
pub const URL: &str = "MUSTER_DEPLOYMENTS_URL";
/// Most requests to it at once, 1 to 512; 256 unless set.
pub const CONCURRENCY: &str = "MUSTER_DEPLOYMENTS_CONCURRENCY";
/// After how many seconds one of them counts as unanswered, 0.05 to 10; 5 unless set.
pub const TIMEOUT: &str = "MUSTER_DEPLOYMENTS_TIMEOUT_SECONDS";

/// Every setting of this capability.
pub const NAMES: [&str; 3] = [URL, CONCURRENCY, TIMEOUT];

/// A setting that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The base URL.
    #[error(transparent)]
    Url(#[from] BaseUrlError),
    /// A number.
    #[error("{name} is {value:?}; it must be {right}")]
    Number {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        right: &'static str,
    },
}

/// Which deployments are scaled, and how they are asked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where they are listed; none where no URL is set.
    pub deployments: Option<Deployments>,
    /// Most requests at once.
    pub at_once: usize,
}

impl Config {
    /// As the environment says.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_settings(|name| env::var(name).ok())
    }

    /// As the settings of this module say, each looked up by its name.
    pub fn from_settings(setting: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let setting = |name: &str| setting(name).filter(|value| !value.is_empty());
        let number = |name, default, range: RangeInclusive<f64>, right| {
            let Some(value) = setting(name) else { return Ok(default) };
            let number: Option<f64> = value.trim().parse().ok().filter(|number| range.contains(number));
            number.ok_or(ConfigError::Number { name, value, right })
        };
        let timeout = number(TIMEOUT, 5.0, 0.05..=10.0, "a number of seconds from 0.05 to 10")?;
        let at_once = setting(CONCURRENCY).map_or(Ok(256), |value| {
            let right = "a whole number from 1 to 512";
            let number = value.trim().parse().ok().filter(|number| (1..=512).contains(number));
            number.ok_or(ConfigError::Number { name: CONCURRENCY, value, right })
        })?;
        let deployments = match setting(URL) {
            Some(url) => Some(Deployments::new(Upstream::new(URL, &url)?, Duration::from_secs_f64(timeout))),
            None => None,
        };
        Ok(Self { deployments, at_once })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Config, ConfigError> {
        Config::from_settings(move |it| match it {
            it if it == name => Some(value.to_owned()),
            URL => Some("http://127.0.0.1:1".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn what_is_not_set_is_as_documented() {
        let config = with("OTHER", "1").unwrap();
        assert_eq!((config.at_once, config.deployments.unwrap().timeout()), (256, Duration::from_secs(5)));
        assert!(with(URL, "").unwrap().deployments.is_none());
        assert!(matches!(with(URL, "ftp://x"), Err(ConfigError::Url(_))));
    }

    #[test]
    fn a_setting_counts_within_its_range_and_no_other_does() {
        let timeout = |text| with(TIMEOUT, text).map(|it| it.deployments.unwrap().timeout().as_secs_f64());
        let at_once = |text| with(CONCURRENCY, text).map(|it| it.at_once);
        for text in ["0.05", "10"] {
            assert!((timeout(text).unwrap() - text.parse::<f64>().unwrap()).abs() < 1e-9);
        }
        assert_eq!([at_once("1").unwrap(), at_once("512").unwrap()], [1, 512]);
        let wrong = ["0.04", "10.1", "NaN", "x"].map(|text| (TIMEOUT, text, timeout(text).err()));
        let others = ["0", "513", "1.5", "x"].map(|text| (CONCURRENCY, text, at_once(text).err()));
        for (name, text, error) in wrong.into_iter().chain(others) {
            let error = error.unwrap().to_string();
            assert!(error.contains(name) && error.contains(text) && error.contains("it must be"), "{error}");
        }
    }
}
