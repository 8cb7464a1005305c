//! `all` or a number in configuration.

use std::{fmt, num::NonZeroU16};

use margay_bgp::rib::PathLimit;
use serde::{Deserializer, de};

struct Limit;

impl de::Visitor<'_> for Limit {
    type Value = Option<PathLimit>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all` or 1 to 65535")
    }

    fn visit_u64<E: de::Error>(self, most: u64) -> Result<Self::Value, E> {
        let most = u16::try_from(most).ok().and_then(NonZeroU16::new);
        most.map(|most| Some(PathLimit::Best(most)))
            .ok_or_else(|| E::custom("a number of paths is 1 to 65535"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match text {
            "all" => Ok(Some(PathLimit::All)),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathLimit>, D::Error> {
    deserializer.deserialize_any(Limit)
}
