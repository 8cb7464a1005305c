//! Durations in the notation of Go: `90s`, `1m30s`, `500ms`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, zero or more; written the way Go prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// So many whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

/// Text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", allowed: a duration such as 90s, 1m30s or 500ms")]
pub struct ParseDurationError {
    /// What was read.
    pub found: String,
}

const UNITS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads one `NUMBER UNIT` from the front: its nanoseconds and what follows it.
fn parse_term(text: &str) -> Option<(u128, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut nanos = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()? as u128 * scale
    };
    let mut digit_scale = *scale;
    for digit in fraction.chars() {
        digit_scale /= 10;
        nanos += u128::from(digit.to_digit(10)?) * digit_scale;
    }
    Some((nanos, rest))
}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDurationError {
            found: text.to_owned(),
        };
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let (mut nanos, mut rest) = parse_term(text).ok_or_else(error)?;
        while !rest.is_empty() {
            let (more, after) = parse_term(rest).ok_or_else(error)?;
            nanos = nanos.saturating_add(more);
            rest = after;
        }
        // Go keeps nanoseconds in a signed 64-bit number.
        let nanos = u64::try_from(nanos)
            .ok()
            .filter(|n| *n <= i64::MAX as u64)
            .ok_or_else(error)?;
        Ok(Self(Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)] {
            if nanos < scale * 1000 {
                return write_decimal(f, nanos, scale, unit);
            }
        }
        let secs = self.0.as_secs();
        if secs >= 3600 {
            write!(f, "{}h", secs / 3600)?;
        }
        if secs >= 60 {
            write!(f, "{}m", secs / 60 % 60)?;
        }
        write_decimal(f, nanos % 60_000_000_000, 1_000_000_000, "s")
    }
}

/// Writes `value / scale` without trailing zeros, then the unit.
fn write_decimal(f: &mut fmt::Formatter<'_>, value: u128, scale: u128, unit: &str) -> fmt::Result {
    write!(f, "{}", value / scale)?;
    let fraction = value % scale;
    if fraction > 0 {
        let width = scale.ilog10() as usize;
        let digits = format!("{fraction:0width$}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str(unit)
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (text, printed) in [
            ("0", "0s"),
            ("90s", "1m30s"),
            ("1m30s", "1m30s"),
            ("3600s", "1h0m0s"),
            ("1.5h", "1h30m0s"),
            ("500ms", "500ms"),
            ("1500us", "1.5ms"),
            ("1.000000001s", "1.000000001s"),
            (".5s", "500ms"),
            ("7ns", "7ns"),
        ] {
            assert_eq!(
                text.parse::<GoDuration>().unwrap().to_string(),
                printed,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "1d",
            ".s",
            "1.2.3s",
            "99999999999999999999s",
            "2562048h",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_is_read_back(nanos in 0..=i64::MAX as u64) {
            let duration = GoDuration(Duration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "[0-9.hmsnuµ]{0,40}") {
            drop(text.parse::<GoDuration>());
        }
    }
}
