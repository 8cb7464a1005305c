//! Which AS a peer must be in.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// The AS of a peer: a number, or how it relates to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteAs {
    /// This one.
    Is(u32),
    /// Ours.
    Internal,
    /// Any but ours.
    External,
}

impl RemoteAs {
    /// The number if it is known before the peer says it.
    pub(crate) const fn number(self, local_as: u32) -> Option<u32> {
        match self {
            Self::Is(asn) => Some(asn),
            Self::Internal => Some(local_as),
            Self::External => None,
        }
    }
}

impl From<u32> for RemoteAs {
    fn from(asn: u32) -> Self {
        Self::Is(asn)
    }
}

impl fmt::Display for RemoteAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(asn) => asn.fmt(f),
            Self::Internal => f.write_str("internal"),
            Self::External => f.write_str("external"),
        }
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = RemoteAs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AS number, `internal` or `external`")
    }

    fn visit_u64<E: de::Error>(self, asn: u64) -> Result<RemoteAs, E> {
        let number = u32::try_from(asn).map(RemoteAs::Is);
        number.map_err(|_e| E::invalid_value(de::Unexpected::Unsigned(asn), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<RemoteAs, E> {
        match text {
            "internal" => Ok(RemoteAs::Internal),
            "external" => Ok(RemoteAs::External),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for RemoteAs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_two_words_are_read_and_nothing_else() {
        for (text, want) in [
            ("65001", RemoteAs::Is(65001)),
            ("internal", RemoteAs::Internal),
            ("external", RemoteAs::External),
        ] {
            assert_eq!(serde_norway::from_str::<RemoteAs>(text).unwrap(), want);
            assert_eq!(want.to_string(), text);
        }
        for text in ["-1", "4294967296", "outside", "[]"] {
            let error = serde_norway::from_str::<RemoteAs>(text).unwrap_err();
            assert!(error.to_string().contains("`internal`"), "{error}");
        }
    }
}
