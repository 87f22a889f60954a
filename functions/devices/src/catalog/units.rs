//! Quantities of the catalogue that are compared, so they are whole numbers inside.

use std::{fmt, iter::Sum};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// US dollars an hour, to the millionth. In JSON a number of dollars, such as `0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Price(u64);

/// US dollars, to the millionth. In JSON a number of dollars, such as `0.004`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dollars(u64);

/// Main memory, to the megabyte. In JSON a number of gigabytes, such as `32` or `0.5`; 1 TB are 1024
/// GB and 1 GB 1024 MB, as memory is sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Memory(u64);

const MILLION: f64 = 1_000_000.0;
const MB_IN_GB: f64 = 1024.0;
/// Most [`Dollars`], in millionths: many more would not be exact as a number in JSON.
const MOST_MICROS: u64 = 1_000_000_000_000_000;

impl Price {
    /// `dollars` an hour, rounded to the millionth; none below zero or above a million.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        fixed(dollars, MILLION, MILLION).map(Self)
    }

    /// US dollars an hour.
    pub fn dollars(self) -> f64 {
        float(self.0, MILLION)
    }

    /// Millionths of a US dollar an hour.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// What so many seconds cost: price × seconds / 3600, rounded half up to the millionth.
    pub fn for_seconds(self, seconds: u64) -> Dollars {
        let micros = (u128::from(self.0) * u128::from(seconds) + 1800) / 3600;
        Dollars::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl Dollars {
    /// So many millionths of a dollar, up to a thousand million dollars.
    pub fn from_micros(micros: u64) -> Self {
        Self(micros.min(MOST_MICROS))
    }

    /// US dollars.
    pub fn dollars(self) -> f64 {
        float(self.0, MILLION)
    }

    /// Millionths of a US dollar.
    pub const fn micros(self) -> u64 {
        self.0
    }
}

impl Sum for Dollars {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        Self::from_micros(all.fold(0, |sum: u64, it| sum.saturating_add(it.0)))
    }
}

impl Memory {
    /// `gb` gigabytes, rounded to the megabyte; none below zero or above a million.
    pub fn from_gb(gb: f64) -> Option<Self> {
        fixed(gb, MB_IN_GB, MILLION).map(Self)
    }

    /// Gigabytes.
    pub fn gb(self) -> f64 {
        float(self.0, MB_IN_GB)
    }

    /// Megabytes.
    pub const fn mb(self) -> u64 {
        self.0
    }

    /// Reads `32GB`, `1TB`, `512 MB`; a number alone is one of gigabytes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let number: f64 = number.parse().ok()?;
        let unit: String = rest.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
        let gb = match unit.to_ascii_uppercase().as_str() {
            "" | "G" | "GB" | "GIB" => number,
            "T" | "TB" | "TIB" => number * 1024.0,
            "M" | "MB" | "MIB" => number / 1024.0,
            _ => return None,
        };
        Self::from_gb(gb)
    }
}

/// `value`, at most `most`, as a whole number of parts. A decimal number with no more digits than the
/// parts have comes out exactly: the error of an f64 is below half a part.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10^15 after the check")]
fn fixed(value: f64, parts: f64, most: f64) -> Option<u64> {
    (0.0..=most).contains(&value).then(|| (value * parts).round() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn float(value: u64, parts: f64) -> f64 {
    value as f64 / parts
}

impl fmt::Display for Price {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.dollars())
    }
}

impl fmt::Display for Dollars {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.dollars())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.gb())
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_dollars(f64::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no price"))
    }
}

impl Serialize for Dollars {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        fixed(dollars, MILLION, float(MOST_MICROS, MILLION))
            .map(Self)
            .ok_or_else(|| D::Error::custom("no amount of money"))
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.gb())
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_gb(f64::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no size of memory"))
    }
}
