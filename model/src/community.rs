//! BGP communities as text.

use std::fmt;
use std::str::FromStr;

/// A community: standard (RFC 1997) or large (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// `AA:NN`, 16 bits each.
    Standard(u16, u16),
    /// `AA:NN:MM`, 32 bits each.
    Large(u32, u32, u32),
}

/// Text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", allowed: AA:NN (0 to 65535 each) or AA:NN:MM (0 to 4294967295 each)")]
pub struct ParseCommunityError {
    /// What was read.
    pub found: String,
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseCommunityError {
            found: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Community> {
    fn number<T: FromStr>(part: &str) -> Option<T> {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    }
    let mut parts = text.split(':');
    let community = match (parts.next(), parts.next(), parts.next()) {
        (Some(a), Some(b), None) => Community::Standard(number(a)?, number(b)?),
        (Some(a), Some(b), Some(c)) => Community::Large(number(a)?, number(b)?, number(c)?),
        _ => return None,
    };
    parts.next().is_none().then_some(community)
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "{a}:{b}"),
            Self::Large(a, b, c) => write!(f, "{a}:{b}:{c}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_written() {
        assert_eq!("64512:100".parse(), Ok(Community::Standard(64512, 100)));
        assert_eq!(
            "4200000000:1:2".parse(),
            Ok(Community::Large(4_200_000_000, 1, 2))
        );
        for text in ["0:0", "65535:65535", "1:2:4294967295"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in [
            "",
            "1",
            "1:",
            ":1",
            "65536:1",
            "1:-1",
            "1:2:3:4",
            "1:2:4294967296",
            "a:b",
        ] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
    }
}
