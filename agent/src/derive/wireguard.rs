//! WireGuard between hosts: what FelixConfiguration says of it, and the keys that the Nodes tell.

use std::collections::BTreeMap;

use margay_dataplane::wireguard::PublicKey;
use margay_model::node::Node;
use tracing::warn;

use super::globals::Felix;

/// Outer headers of WireGuard over IPv4: 20 IPv4, 8 UDP, 16 WireGuard, 16 for the authenticator.
pub(crate) const WIREGUARD_OVERHEAD: u32 = 60;
/// The same over IPv6, whose header has 40.
pub(crate) const WIREGUARD_V6_OVERHEAD: u32 = 80;

/// By family, as the established system has them.
const DEVICES: [&str; 2] = ["wireguard.cali", "wg-v6.cali"];
const PORTS: [u16; 2] = [51820, 51821];
const PRIORITY: u32 = 99;

/// What marks encrypted packets where the mask of ours has no sixth bit: the established system's.
const MARK: u32 = 0x20_0000;
/// The mask unless configured.
const MARK_MASK: u32 = 0xffff_0000;
/// Bits of the mask that rules use.
const RULE_BITS: usize = 5;

/// What holds for the device of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wireguard {
    pub(crate) enabled: bool,
    /// The device's name.
    pub(crate) device: String,
    pub(crate) port: u16,
    /// As configured; else it is found out.
    pub(crate) mtu: Option<u32>,
    /// Seconds between two signs of life; 0 for none.
    pub(crate) keep_alive: u16,
    /// Whether what hosts send each other is encrypted too.
    pub(crate) host_traffic: bool,
    /// Priority of the rule that this takes.
    pub(crate) priority: u32,
    /// Encrypted packets have it.
    pub(crate) mark: u32,
    /// Whether threads decrypt what it receives.
    pub(crate) threaded: bool,
    /// Whether metrics tell of the device.
    pub(crate) has_metrics: bool,
}

impl Wireguard {
    pub(super) fn of(felix: &Felix<'_>, v6: bool) -> Self {
        let (enabled, device, port, mtu) = match v6 {
            false => (
                felix.first(|f| f.wireguard_enabled),
                felix.first(|f| f.wireguard_interface_name.clone()),
                felix.first(|f| f.wireguard_listening_port),
                felix.first(|f| f.wireguard_mtu),
            ),
            true => (
                felix.first(|f| f.wireguard_enabled_v6),
                felix.first(|f| f.wireguard_interface_name_v6.clone()),
                felix.first(|f| f.wireguard_listening_port_v6),
                felix.first(|f| f.wireguard_mtu_v6),
            ),
        };
        let family = usize::from(v6);
        let keep_alive = felix.first(|f| f.wireguard_keep_alive);
        let keep_alive = keep_alive.map_or(0, |interval| interval.0.as_secs());
        let hosts = felix.first(|f| f.wireguard_host_encryption_enabled);
        let priority = felix.first(|f| f.wireguard_routing_rule_priority);
        Self {
            enabled: enabled.unwrap_or(false),
            device: device.unwrap_or_else(|| DEVICES[family].to_owned()),
            port: port.unwrap_or(PORTS[family]),
            mtu: mtu.filter(|mtu| *mtu > 0),
            keep_alive: u16::try_from(keep_alive).unwrap_or(u16::MAX),
            host_traffic: hosts.unwrap_or(false),
            priority: priority.unwrap_or(PRIORITY),
            mark: mark(felix.first(|f| f.iptables_mark_mask).unwrap_or(MARK_MASK)),
            threaded: felix
                .first(|f| f.wireguard_threading_enabled)
                .unwrap_or(false),
            has_metrics: felix
                .first(|f| f.prometheus_wire_guard_metrics_enabled)
                .unwrap_or(true),
        }
    }

    /// Whether a host has the device: other hosts may still send to one that its Node tells of, by key or address.
    pub(super) const fn is_needed(&self, is_told: bool) -> bool {
        self.enabled || is_told
    }
}

/// The bit of the mask behind those that rules use.
fn mark(mask: u32) -> u32 {
    let mut bits = (0..u32::BITS)
        .map(|bit| 1 << bit)
        .filter(|bit| mask & bit != 0);
    // A small mask is all used: then one outside of it.
    bits.nth(RULE_BITS).unwrap_or(match mask & MARK {
        0 => MARK,
        _ => 1 << (!mask).trailing_zeros().min(u32::BITS - 1),
    })
}

/// The keys that Nodes tell, both families. Two hosts with one key are none: packets for one would go to the other.
pub(super) fn keys<'a>(
    nodes: impl Iterator<Item = &'a Node>,
) -> BTreeMap<String, [Option<PublicKey>; 2]> {
    let mut keys: BTreeMap<String, [Option<PublicKey>; 2]> = BTreeMap::new();
    let mut holders: BTreeMap<(bool, PublicKey), Vec<String>> = BTreeMap::new();
    for node in nodes {
        let name = &node.metadata.name;
        let of = |v6| {
            let text = node.wireguard_key(v6)?;
            let key = text.parse::<PublicKey>();
            if let Err(error) = &key {
                warn!(node = name, %error, "public key of WireGuard ignored");
            }
            key.ok()
        };
        let own = [of(false), of(true)];
        for (v6, key) in [false, true].into_iter().zip(own) {
            if let Some(key) = key {
                holders.entry((v6, key)).or_default().push(name.clone());
            }
        }
        keys.insert(name.clone(), own);
    }
    for ((v6, key), names) in holders.into_iter().filter(|(_, names)| names.len() > 1) {
        warn!(%key, ?names, "these nodes tell the same key of WireGuard, nothing is encrypted for them");
        for name in names {
            if let Some(own) = keys.get_mut(&name) {
                own[usize::from(v6)] = None;
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_none_that_rules_use() {
        assert_eq!(mark(MARK_MASK), MARK);
        assert_eq!(mark(0xff), 0x20);
        // No sixth bit.
        assert_eq!(mark(0x3), MARK);
        assert_eq!(mark(0x30_0000), 1);
        assert_eq!(mark(u32::MAX), 0x20);
    }
}
