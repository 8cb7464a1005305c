//! Autonomous system numbers.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A 4-octet AS number (RFC 6793). Read from a number, its decimal text, or `high.low` (RFC 5396);
/// written as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Asn(pub u32);

impl Asn {
    /// The AS of a cluster that names none: the first private one.
    pub const DEFAULT: Self = Self(64512);
}

/// Text that is not an AS number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", allowed: an AS number 0 to 4294967295, or HIGH.LOW")]
pub struct ParseAsnError {
    /// What was read.
    pub found: String,
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Asn {
    type Err = ParseAsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseAsnError {
            found: text.to_owned(),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match text.split_once('.') {
            Some((high, low)) if digits(high) && digits(low) => {
                let high: u16 = high.parse().map_err(|_source| error())?;
                let low: u16 = low.parse().map_err(|_source| error())?;
                Ok(Self(u32::from(high) << 16 | u32::from(low)))
            }
            None if digits(text) => text.parse().map(Self).map_err(|_source| error()),
            _ => Err(error()),
        }
    }
}

impl<'de> Deserialize<'de> for Asn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsnVisitor)
    }
}

struct AsnVisitor;

impl Visitor<'_> for AsnVisitor {
    type Value = Asn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AS number 0 to 4294967295, or HIGH.LOW")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Asn, E> {
        let out_of_range = |_source| E::invalid_value(Unexpected::Unsigned(value), &self);
        u32::try_from(value).map(Asn).map_err(out_of_range)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Asn, E> {
        let out_of_range = |_source| E::invalid_value(Unexpected::Signed(value), &self);
        u32::try_from(value).map(Asn).map_err(out_of_range)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Asn, E> {
        value.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_and_dotted_texts_are_read_and_numbers_written() {
        for (json, asn) in [
            ("64512", 64_512),
            ("\"64512\"", 64_512),
            ("4294967295", u32::MAX),
            ("\"1.10\"", 65_546),
            ("\"65535.65535\"", u32::MAX),
        ] {
            let read: Asn = serde_json::from_str(json).unwrap();
            assert_eq!(read, Asn(asn));
            assert_eq!(serde_json::to_string(&read).unwrap(), asn.to_string());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for json in [
            "4294967296",
            "-1",
            "1.5",
            "\"\"",
            "\"1.\"",
            "\"1.65536\"",
            "\"+1\"",
            "null",
        ] {
            assert!(serde_json::from_str::<Asn>(json).is_err(), "{json}");
        }
    }
}
