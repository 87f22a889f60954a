//! What the environment says about this capability.

use std::{env, time::Duration};

use kit::{
    secrets::{Secret, SecretError},
    upstream::{BaseUrlError, Upstream},
};
use thiserror::Error;

use crate::{cpx::Cpx, poll::Bounds, server::Thresholds};

/// CPX's base URL.
pub const URL: &str = "MUSTER_CPX_URL";
/// Most requests to CPX at once, 1 to 512; 64 unless set.
pub const CONCURRENCY: &str = "MUSTER_CPX_CONCURRENCY";
/// After how many seconds a server counts as silent; 2 unless set.
pub const TIMEOUT: &str = "MUSTER_CPX_TIMEOUT_SECONDS";
/// After how many seconds a poll of all servers ends; 20 unless set.
pub const DEADLINE: &str = "MUSTER_CPX_DEADLINE_SECONDS";
/// Above how many per cent of CPU a server is unhealthy; 90 unless set.
pub const CPU: &str = "MUSTER_CPU_THRESHOLD";
/// Above how many per cent of memory a server is unhealthy; 90 unless set.
pub const MEMORY: &str = "MUSTER_MEMORY_THRESHOLD";
/// Fewer healthy servers than this are too few; 2 unless set.
pub const MIN_HEALTHY: &str = "MUSTER_MIN_HEALTHY";
/// Where alerts are posted to.
pub const WEBHOOK_URL: &str = "MUSTER_ALERTS_WEBHOOK_URL";
/// What posts are signed with (Standard Webhooks): itself, or by [`Secret`]'s other settings.
pub const WEBHOOK_KEY: &str = "MUSTER_ALERTS_WEBHOOK_KEY";
/// The SNS topic that alerts are published to.
pub const TOPIC: &str = "MUSTER_ALERTS_TOPIC_ARN";

/// Every setting of this capability.
pub const NAMES: [&str; 12] = [
    URL,
    CONCURRENCY,
    TIMEOUT,
    DEADLINE,
    CPU,
    MEMORY,
    MIN_HEALTHY,
    WEBHOOK_URL,
    WEBHOOK_KEY,
    "MUSTER_ALERTS_WEBHOOK_KEY_FILE",
    "MUSTER_ALERTS_WEBHOOK_KEY_SECRET",
    TOPIC,
];

/// A setting that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A base URL.
    #[error(transparent)]
    Url(#[from] BaseUrlError),
    /// The key of the webhook.
    #[error(transparent)]
    Secret(#[from] SecretError),
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

/// How servers are read and judged.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where they are listed; none where no URL is set.
    pub cpx: Option<Cpx>,
    /// The bounds of a poll.
    pub bounds: Bounds,
    /// Above which load a server is unhealthy, unless a request says otherwise.
    pub thresholds: Thresholds,
    /// Fewer healthy servers than this are too few, unless a request says otherwise.
    pub min_healthy: u32,
}

impl Config {
    /// As the environment says.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_settings(variable)
    }

    /// As the settings of this module say, each looked up by its name.
    pub fn from_settings(setting: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let setting = |name: &str| setting(name).filter(|value| !value.is_empty());
        let cpx = match setting(URL) {
            // Nothing is kept of a connection between polls that are minutes apart, and a server
            // that cannot be connected to has no more time than a silent one.
            Some(url) => Some(Cpx::new(Upstream::new(URL, &url)?)),
            None => None,
        };
        let bounds = Bounds::default();
        let thresholds = Thresholds::default();
        let per_cent = "a number of per cent from 0 to 100";
        let seconds = "a number of seconds from 0.05 to 20";
        let read = |name, default, range: std::ops::RangeInclusive<f64>, right| {
            let Some(value) = setting(name) else { return Ok(default) };
            let number: Option<f64> = value.trim().parse().ok().filter(|number| range.contains(number));
            number.ok_or(ConfigError::Number { name, value, right })
        };
        Ok(Self {
            cpx,
            bounds: Bounds {
                at_once: whole(CONCURRENCY, &setting, 1..=512, "a whole number from 1 to 512")?
                    .map_or(bounds.at_once, |number| number as usize),
                per_server: Duration::from_secs_f64(read(TIMEOUT, 2.0, 0.05..=20.0, seconds)?),
                in_all: Duration::from_secs_f64(read(DEADLINE, 20.0, 0.05..=20.0, seconds)?),
            },
            thresholds: Thresholds {
                cpu_pct: read(CPU, thresholds.cpu_pct, 0.0..=100.0, per_cent)?,
                memory_pct: read(MEMORY, thresholds.memory_pct, 0.0..=100.0, per_cent)?,
            },
            min_healthy: whole(MIN_HEALTHY, &setting, 0..=MOST_HEALTHY, "a whole number from 0 to 10000")?.unwrap_or(2),
        })
    }
}

/// Nobody asks for more healthy servers of one service.
pub const MOST_HEALTHY: u32 = 10_000;

fn whole(
    name: &'static str,
    setting: &impl Fn(&str) -> Option<String>,
    range: std::ops::RangeInclusive<u32>,
    right: &'static str,
) -> Result<Option<u32>, ConfigError> {
    let Some(value) = setting(name) else { return Ok(None) };
    let number = value.trim().parse().ok().filter(|number| range.contains(number));
    number.map(Some).ok_or(ConfigError::Number { name, value, right })
}

/// Where alerts are posted to, with the key that the posts are signed with.
pub fn webhook(setting: impl Fn(&str) -> Option<String>) -> Result<Option<(Upstream, Secret)>, ConfigError> {
    let Some(url) = setting(WEBHOOK_URL).filter(|url| !url.is_empty()) else { return Ok(None) };
    let upstream = Upstream::new(WEBHOOK_URL, &url)?;
    Ok(Some((upstream, Secret::from_settings(WEBHOOK_KEY, setting)?)))
}

/// A variable of the environment.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Config, ConfigError> {
        Config::from_settings(move |it| (it == name).then(|| value.to_owned()))
    }

    #[test]
    fn what_is_not_set_is_as_documented() {
        for config in [with("OTHER", "1"), with(URL, ""), with(CONCURRENCY, ""), with(CPU, "")] {
            let config = config.unwrap();
            assert!(config.cpx.is_none());
            assert_eq!(config.bounds, Bounds::default());
            assert_eq!((config.thresholds, config.min_healthy), (Thresholds { cpu_pct: 90.0, memory_pct: 90.0 }, 2));
        }
        let bounds = Bounds { at_once: 64, per_server: Duration::from_secs(2), in_all: Duration::from_secs(20) };
        assert_eq!(Bounds::default(), bounds);
    }

    #[test]
    fn a_setting_counts_within_its_range_and_no_other_does() {
        type Read = fn(&Config) -> f64;
        let settings: [(&'static str, Read, [&'static str; 2], [&'static str; 2]); 6] = [
            (CONCURRENCY, |it| f64::from(u32::try_from(it.bounds.at_once).unwrap()), ["1", "512"], ["0", "513"]),
            (TIMEOUT, |it| it.bounds.per_server.as_secs_f64(), ["0.05", "20"], ["0.04", "20.1"]),
            (DEADLINE, |it| it.bounds.in_all.as_secs_f64(), ["0.05", "20"], ["0.04", "20.1"]),
            (CPU, |it| it.thresholds.cpu_pct, ["0", "100"], ["-0.1", "100.1"]),
            (MEMORY, |it| it.thresholds.memory_pct, ["0", " 100 "], ["-0.1", "100.1"]),
            (MIN_HEALTHY, |it| f64::from(it.min_healthy), ["0", "10000"], ["-1", "10001"]),
        ];
        for (name, read, good, bad) in settings {
            for text in good {
                let expected: f64 = text.trim().parse().unwrap();
                assert!((read(&with(name, text).unwrap()) - expected).abs() < 1e-9, "{name} {text}");
            }
            for text in bad.into_iter().chain(["many", "NaN", "1e999"]) {
                let error = with(name, text).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(text) && error.contains("it must be"), "{error}");
            }
        }
    }

    #[test]
    fn a_webhook_that_is_set_to_nothing_is_none() {
        assert!(webhook(|_| None).unwrap().is_none());
        assert!(webhook(|_| Some(String::new())).unwrap().is_none());
        assert!(webhook(|name| (name == WEBHOOK_URL).then(|| "ftp://x".to_owned())).is_err());
    }
}
