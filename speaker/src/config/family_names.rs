//! Families by name in configuration.

use margay_bgp::prefix::Family;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    Ipv4Unicast,
    Ipv6Unicast,
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Family>, D::Error> {
    let names = Vec::<Name>::deserialize(deserializer)?;
    let mut families: Vec<_> = names
        .into_iter()
        .map(|name| match name {
            Name::Ipv4Unicast => Family::Ipv4Unicast,
            Name::Ipv6Unicast => Family::Ipv6Unicast,
        })
        .collect();
    families.sort();
    families.dedup();
    Ok(families)
}
