//! How many hosts a deployment needs: exact whole-number arithmetic.
//!
//! With `U` busy servers and a target of `q` thousandths of a per cent free, the smallest number of
//! servers that keeps the target is `ceil(100000·U / (100000 − q))`: at least `q` of every 100,000
//! are free, that is `(total − U)·100000 ≥ total·q`. In floating point the same formula asks for a
//! host too many now and then, and dividing only what is missing by the servers of a host asks for
//! too few, because new hosts enlarge the total too.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The largest count there is: beyond it, JSON's numbers are not whole any more in most languages.
pub const MOST: u64 = 1 << 53;

/// Thousandths of a per cent in the whole.
const WHOLE: u32 = 100_000;
/// Longest text of a number that is read.
const LONGEST_NUMBER: usize = 64;

/// A number as it was written in JSON, to the last digit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i32,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > LONGEST_NUMBER {
            return None;
        }
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            // One beyond i32 is as good as the largest.
            Some((mantissa, exponent)) => (mantissa, bounded(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(whole) && digits(fraction)).then_some(Self { negative, whole, fraction, exponent })
    }

    /// This number × 10^`shift` without what comes after the point, and whether anything comes there.
    /// None when it is larger than any count.
    fn shifted(&self, shift: i32) -> Option<(u64, bool)> {
        let point = i64::try_from(self.whole.len()).ok()? + i64::from(self.exponent) + i64::from(shift);
        let (mut before, mut after) = (0u64, false);
        let digits = self.whole.bytes().chain(self.fraction.bytes()).map(|byte| u64::from(byte - b'0'));
        let mut read = 0;
        for digit in digits {
            if read < point {
                before = before.checked_mul(10)?.checked_add(digit)?;
            } else {
                after |= digit != 0;
            }
            read += 1;
        }
        while before > 0 && read < point {
            before = before.checked_mul(10)?;
            read += 1;
        }
        Some((before, after))
    }
}

fn bounded(exponent: &str) -> Option<i32> {
    let (sign, digits) = match exponent.split_at_checked(1)? {
        ("-", digits) => (-1, digits),
        ("+", digits) => (1, digits),
        _ => (1, exponent),
    };
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| sign * digits.parse::<i32>().unwrap_or(i32::MAX / 2).min(i32::MAX / 2))
}

/// A count as JSON has it: a whole number from 0 to [`MOST`]. `100.0` is one too.
pub fn count(text: &str) -> Option<u64> {
    let decimal = Decimal::parse(text)?;
    let (whole, after) = decimal.shifted(0)?;
    let counts = !after && whole <= MOST && !(decimal.negative && whole > 0);
    counts.then_some(whole)
}

/// Which share of its servers a deployment wants to have free.
///
/// Kept as thousandths of a per cent, rounded up, together with the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    thousandths: u32,
    text: String,
}

/// Why a target cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetError {
    /// No JSON number.
    #[error("target_free_pct is not a number; it must be a number from 0 to less than 100")]
    NoNumber,
    /// Below 0.
    #[error("target_free_pct is negative; it must be a number from 0 to less than 100")]
    Negative,
    /// 100 or more, or so close below that it is rounded up to it.
    #[error(
        "target_free_pct is 100 or more, which no number of hosts can reach; it must be a number from 0 to less than 100"
    )]
    TooHigh,
}

impl Target {
    /// Reads a target from the decimal text of a JSON number, in per cent.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let decimal = Decimal::parse(text).ok_or(TargetError::NoNumber)?;
        let Some((whole, after)) = decimal.shifted(3) else {
            return Err(if decimal.negative { TargetError::Negative } else { TargetError::TooHigh });
        };
        if decimal.negative && (whole > 0 || after) {
            return Err(TargetError::Negative);
        }
        match u32::try_from(whole + u64::from(after)) {
            Ok(thousandths) if thousandths < WHOLE => Ok(Self { thousandths, text: text.to_owned() }),
            _ => Err(TargetError::TooHigh),
        }
    }

    /// Thousandths of a per cent, 0 to 99,999.
    pub const fn thousandths(&self) -> u32 {
        self.thousandths
    }

    /// Per cent, for people.
    pub fn pct(&self) -> f64 {
        f64::from(self.thousandths) / 1000.0
    }

    /// Whether `free` of `total` servers are enough.
    pub fn is_met(&self, total: u64, free: u64) -> bool {
        u128::from(free) * u128::from(WHOLE) >= u128::from(total) * u128::from(self.thousandths)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// How a deployment is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Servers on each host, at least 1.
    #[serde(rename = "s")]
    pub servers_per_host: u64,
    /// The share of free servers it wants.
    #[serde(rename = "t")]
    pub target: Target,
}

/// What a deployment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Hosts, also those that boot or drain.
    pub hosts: u64,
    /// Servers.
    pub total: u64,
    /// How many of them are free.
    pub free: u64,
}

impl Counts {
    /// Servers that are not free.
    pub const fn busy(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

/// The bounds of a number of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At least so many hosts.
    pub min_hosts: u64,
    /// At most so many; it counts more than the minimum.
    pub max_hosts: u64,
    /// At least so many free servers, whatever the share.
    pub min_free_servers: u64,
}

/// The servers that `busy` ones need beside them.
pub fn servers(busy: u64, target: &Target, min_free_servers: u64) -> u128 {
    let share = (u128::from(busy) * u128::from(WHOLE)).div_ceil(u128::from(WHOLE - target.thousandths));
    share.max(u128::from(busy) + u128::from(min_free_servers))
}

/// The hosts that so many servers need, before any bounds; at most [`MOST`].
pub fn hosts(servers: u128, shape: &Shape) -> u64 {
    let hosts = servers.div_ceil(u128::from(shape.servers_per_host.max(1)));
    u64::try_from(hosts).unwrap_or(MOST).min(MOST)
}

/// The hosts that `busy` servers need, within the bounds.
pub fn desired(busy: u64, shape: &Shape, bounds: &Bounds) -> u64 {
    within(hosts(servers(busy, &shape.target, bounds.min_free_servers), shape), bounds)
}

/// `hosts`, as far as the bounds allow. Not `clamp`, which panics where they contradict each other.
pub fn within(hosts: u64, bounds: &Bounds) -> u64 {
    hosts.max(bounds.min_hosts).min(bounds.max_hosts).min(MOST)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_target_is_read_from_its_digits_and_rounded_up() {
        let read = |text| Target::parse(text).map(|target| target.thousandths());
        for (text, thousandths) in [
            ("15", 15_000),
            ("15.0", 15_000),
            ("1.5e1", 15_000),
            ("150E-1", 15_000),
            ("0.15e+2", 15_000),
            ("0", 0),
            ("-0", 0),
            ("-0.0e9", 0),
            ("0e999999999999", 0),
            ("0.0001", 1),
            ("1e-99999999999", 1),
            ("14.9991", 15_000),
            ("14.999", 14_999),
            // As a float this is 29.999999999999996 or so; its digits say 30.
            ("30.000", 30_000),
            ("99.999", 99_999),
        ] {
            assert_eq!(read(text), Ok(thousandths), "{text}");
        }
        for text in ["-1", "-0.0001", "-1e-9", "-1e99999"] {
            assert_eq!(read(text), Err(TargetError::Negative), "{text}");
        }
        for text in ["100", "100.0", "99.9991", "1e2", "1e400", "99999999999999999999999999"] {
            assert_eq!(read(text), Err(TargetError::TooHigh), "{text}");
        }
        for text in ["", "-", "NaN", "null", "\"15\"", "1e", "1e+", ".5", "5.", "0x10", "1_0", "--1", "1.5.5", " 1"] {
            assert_eq!(read(text), Err(TargetError::NoNumber), "{text}");
        }
        assert_eq!(read(&"1".repeat(65)), Err(TargetError::NoNumber));
    }

    #[test]
    fn a_count_is_whole_and_not_negative() {
        for (text, value) in
            [("0", 0), ("-0", 0), ("10", 10), ("10.0", 10), ("1e3", 1000), ("1.5e1", 15), ("9007199254740992", MOST)]
        {
            assert_eq!(count(text), Some(value), "{text}");
        }
        for text in ["-1", "0.5", "1.5", "1e-1", "9007199254740993", "1e16", "1e999", "NaN", "null", "\"1\"", ""] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn contradicting_bounds_do_not_panic() {
        let bounds = Bounds { min_hosts: 10, max_hosts: 3, min_free_servers: 0 };
        assert_eq!(within(5, &bounds), 3);
    }
}
