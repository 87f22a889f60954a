//! DevEUIs, short codes and prefixes: parsed once at the edge, never checked again.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bits of a short code: five hexadecimal characters.
pub const CODE_BITS: u32 = 20;
/// Number of short codes, 16^5.
pub const CODES: u64 = 1 << CODE_BITS;
/// Most hexadecimal characters a prefix can have: the short code takes the other five.
pub const MAX_PREFIX: usize = 11;

/// Why a text is none of these.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ParseError(&'static str);

/// An EUI-64, written as 16 upper-case hexadecimal characters, such as `78111FFFE452555B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevEui(pub u64);

impl DevEui {
    /// The last five characters, which a customer types in.
    pub fn short_code(self) -> ShortCode {
        ShortCode((self.0 % CODES) as u32)
    }
}

impl fmt::Display for DevEui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl Serialize for DevEui {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The last five characters of a DevEUI, such as `2555B`; unique within a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortCode(pub(crate) u32);

impl FromStr for ShortCode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = ParseError("a short code is 5 hexadecimal characters, such as 2555B");
        if text.len() != 5 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad);
        }
        u32::from_str_radix(text, 16).map(Self).map_err(|_| bad)
    }
}

impl fmt::Display for ShortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:05X}", self.0)
    }
}

/// What all DevEUIs of a batch begin with: 0 to 11 hexadecimal characters, often a maker's block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Prefix(String);

impl Prefix {
    /// Bits that are left to choose between the prefix and the short code: 0 to 44.
    pub fn free_bits(&self) -> u32 {
        4 * (MAX_PREFIX - self.0.len()) as u32
    }

    /// The prefix as the top bits of a DevEUI.
    pub(crate) fn top(&self) -> u64 {
        // An empty prefix has no digits to parse, and nothing to shift; 11 of them fit 44 bits.
        let digits = u64::from_str_radix(&self.0, 16).unwrap_or(0);
        digits.checked_shl(CODE_BITS + self.free_bits()).unwrap_or(0)
    }

    /// The characters, upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Prefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_PREFIX || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseError("a prefix is 0 to 11 hexadecimal characters, such as 70B3D5"));
        }
        Ok(Self(text.to_ascii_uppercase()))
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_short_code_is_the_last_five_characters() {
        let deveui = DevEui(0x7811_1FFF_E452_555B);
        assert_eq!(deveui.to_string(), "78111FFFE452555B");
        assert_eq!(deveui.short_code().to_string(), "2555B");
        assert_eq!("2555b".parse::<ShortCode>().unwrap(), deveui.short_code());
        for bad in ["", "2555", "2555BB", "2555G", "+2555", "２555"] {
            assert!(bad.parse::<ShortCode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_leaves_room_for_the_short_code() {
        assert_eq!("70b3d5".parse::<Prefix>().unwrap().as_str(), "70B3D5");
        assert_eq!("".parse::<Prefix>().unwrap().free_bits(), 44);
        let longest: Prefix = "ABCDEF01234".parse().unwrap();
        assert_eq!(longest.free_bits(), 0);
        assert_eq!(DevEui(longest.top()).to_string(), "ABCDEF0123400000");
        for bad in ["123456789ABC", "70G", "0x7", "-1", "7 "] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
