//! The configuration file of the stand-alone daemon.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, str::FromStr};

use margay_bgp::prefix::Prefix;
use serde::Deserialize;
use serde_norway::Value;

use crate::{
    bmp::BmpConfig,
    config::SpeakerConfig,
    filter_config::{ext_community_text, prefix_text},
    handle::{LocalAction, LocalAttrs, LocalRouteChange},
    peer_groups::{self, FileError},
};

/// `margay-speaker --config FILE`: a [`SpeakerConfig`] under `speaker`, and what to originate.
///
/// Settings that peers share stand in `peer_groups`; a peer that names one by `group` has them
/// where it says nothing else itself. Read it with [`str::parse`].
///
/// ```yaml
/// speaker:
///   local_as: 65001
///   router_id: 192.0.2.1
///   listen: ['0.0.0.0:179', '[::]:179']
///   peers:
///     192.0.2.2:
///       remote_as: 65002
///       import: {default: accept}
///       export: {default: accept}
/// peer_groups:
///   leaf: {remote_as: external, import: {default: accept}}
/// networks:
///   - {prefix: 198.51.100.0/24, communities: [4259840100]}
///   - {prefix: '2001:db8:100::/48'}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonConfig {
    /// The speaker.
    pub speaker: SpeakerConfig,
    /// Routes to originate.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Write best routes to the kernel's routing table. Taken at start.
    #[serde(default)]
    pub kernel: Option<KernelConfig>,
    /// Collectors to inform (RFC 7854). Taken at start.
    #[serde(default)]
    pub bmp: Vec<BmpConfig>,
    /// Archives (RFC 6396). Taken at start.
    #[serde(default)]
    pub mrt: MrtConfig,
}

/// Where best routes go in the kernel, and how they are known again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelConfig {
    /// Routing table.
    pub table: NonZeroU32,
    /// Protocol number of routes that are ours alone, 5 to 255: what carries it and is not wanted is
    /// removed.
    pub protocol: u8,
    /// Metric: routes of others for the same prefix come first with a lower one.
    pub metric: NonZeroU32,
}

impl Default for KernelConfig {
    /// The main table; a protocol beside the agent's (77), and its metric.
    fn default() -> Self {
        Self {
            table: NonZeroU32::new(254).unwrap_or(NonZeroU32::MIN),
            protocol: 78,
            metric: NonZeroU32::new(77).unwrap_or(NonZeroU32::MIN),
        }
    }
}

/// Archives to write.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MrtConfig {
    /// File that every UPDATE is appended to.
    #[serde(default)]
    pub updates: Option<PathBuf>,
    /// File that the whole table is written to on SIGUSR1.
    #[serde(default)]
    pub table: Option<PathBuf>,
    /// Seconds between writing the table without being asked; 0 for never.
    #[serde(default)]
    pub table_interval_secs: u64,
}

/// A route to originate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Destination.
    #[serde(with = "prefix_text")]
    pub prefix: Prefix,
    /// COMMUNITIES, 32 bits each.
    #[serde(default)]
    pub communities: Vec<u32>,
    /// LARGE COMMUNITIES.
    #[serde(default)]
    pub large_communities: Vec<[u32; 3]>,
    /// EXTENDED COMMUNITIES, each as text: `rt:65000:1`.
    #[serde(default, deserialize_with = "ext_community_text::list")]
    pub ext_communities: Vec<[u8; 8]>,
    /// MULTI_EXIT_DISC.
    #[serde(default)]
    pub med: Option<u32>,
}

impl FromStr for DaemonConfig {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        let mut file: Value = serde_norway::from_str(text)?;
        let config: Self = if file.get("peer_groups").is_none() {
            // Errors tell the line.
            serde_norway::from_str(text)?
        } else {
            peer_groups::apply(&mut file)?;
            serde_norway::from_value(file)?
        };
        match &config.kernel {
            // linux/rtnetlink.h: RTPROT_UNSPEC to RTPROT_STATIC are not ours to remove.
            Some(kernel) if kernel.protocol <= 4 => Err(FileError::Protocol {
                found: kernel.protocol,
            }),
            _ => Ok(config),
        }
    }
}

impl DaemonConfig {
    /// The routes to originate, as changes from nothing.
    pub fn local_routes(&self) -> Vec<LocalRouteChange> {
        self.networks.iter().map(Network::announce).collect()
    }

    /// The routes to originate and to withdraw, as changes from `old`.
    pub fn changes_from(&self, old: &Self) -> Vec<LocalRouteChange> {
        let by_prefix = |config: &'_ Self| -> BTreeMap<Prefix, Network> {
            config
                .networks
                .iter()
                .map(|n| (n.prefix, n.clone()))
                .collect()
        };
        let (old, new) = (by_prefix(old), by_prefix(self));
        let gone = old
            .keys()
            .filter(|prefix| !new.contains_key(prefix))
            .map(|&prefix| LocalRouteChange {
                prefix,
                action: LocalAction::Withdraw,
            });
        let changed = new
            .values()
            .filter(|network| old.get(&network.prefix) != Some(network))
            .map(Network::announce);
        gone.chain(changed).collect()
    }
}

impl Network {
    fn announce(&self) -> LocalRouteChange {
        LocalRouteChange {
            prefix: self.prefix,
            action: LocalAction::Announce(LocalAttrs {
                communities: self.communities.clone(),
                large_communities: self.large_communities.clone(),
                ext_communities: self.ext_communities.clone(),
                med: self.med,
                ..LocalAttrs::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddPathConfig, PeerConfig, RemoteAs, Ttl};

    #[test]
    fn networks_become_local_routes() {
        let config: DaemonConfig = serde_norway::from_str(
            "
speaker: {local_as: 65001, router_id: 192.0.2.1}
networks:
  - {prefix: 198.51.100.0/24, communities: [7], med: 5, ext_communities: ['rt:1:2']}
",
        )
        .unwrap();
        let [route] = &config.local_routes()[..] else {
            panic!("one network")
        };
        assert_eq!(route.prefix.to_string(), "198.51.100.0/24");
        let LocalAction::Announce(attrs) = &route.action else {
            panic!("announced")
        };
        assert_eq!(
            (attrs.communities.as_slice(), attrs.med),
            (&[7][..], Some(5))
        );
        assert_eq!(attrs.ext_communities, [[0, 2, 0, 1, 0, 0, 0, 2]]);
    }

    #[test]
    fn kernel_routes_are_off_unless_asked_for_and_never_have_the_kernels_own_protocol() {
        let read = |kernel: &str| {
            let text = format!("{{speaker: {{local_as: 1, router_id: 1.1.1.1}}, {kernel}}}");
            text.parse::<DaemonConfig>()
        };
        assert_eq!(read("networks: []").unwrap().kernel, None);
        let usual = read("kernel: {}").unwrap().kernel.unwrap();
        assert_eq!(
            (usual.table.get(), usual.protocol, usual.metric.get()),
            (254, 78, 77)
        );
        let own = read("kernel: {table: 100, protocol: 200, metric: 20}");
        let own = own.unwrap().kernel.unwrap();
        assert_eq!(
            (own.table.get(), own.protocol, own.metric.get()),
            (100, 200, 20)
        );
        let wrong = read("kernel: {protocol: 4}").unwrap_err().to_string();
        assert_eq!(wrong, "kernel.protocol is 4, allowed is 5 to 255");
        let table = read("kernel: {table: 0}").unwrap_err().to_string();
        assert!(table.contains("kernel.table"), "{table}");
    }

    #[test]
    fn peers_have_the_settings_of_their_group_but_for_their_own() {
        let text = "
speaker:
  local_as: 65001
  router_id: 192.0.2.1
  peers:
    192.0.2.2: {group: leaf}
    192.0.2.3: {group: leaf, remote_as: 65003, ttl: multihop}
    192.0.2.4: {remote_as: internal}
  dynamic:
    - {prefix: 198.51.100.0/24, limit: 5, peer: {group: leaf, name: pods}}
peer_groups:
  leaf: {remote_as: external, ttl: !security 1, hold_time_secs: 9, add_path: {receive: true}}
";
        let config = text.parse::<DaemonConfig>().unwrap().speaker;
        config.validate().unwrap();
        let leaf = PeerConfig {
            ttl: Ttl::Security(1),
            hold_time_secs: 9,
            add_path: AddPathConfig {
                receive: true,
                send: None,
            },
            ..PeerConfig::new(RemoteAs::External)
        };
        let peers: Vec<_> = config.peers.values().cloned().collect();
        assert_eq!(peers[0], leaf);
        let third = PeerConfig {
            remote_as: 65003.into(),
            ttl: Ttl::Multihop,
            ..leaf.clone()
        };
        assert_eq!(peers[1], third);
        assert_eq!(peers[2], PeerConfig::new(RemoteAs::Internal));
        let [range] = &config.dynamic[..] else {
            panic!("one range")
        };
        assert_eq!((range.limit, range.peer.name.as_str()), (5, "pods"));
        assert_eq!(range.peer.hold_time_secs, 9);
    }

    #[test]
    fn a_group_that_is_wrong_is_told_with_the_peer() {
        let read = |peer: &str, groups: &str| {
            let text = format!(
                "{{speaker: {{local_as: 1, router_id: 1.1.1.1, peers: {{1.1.1.2: {peer}}}}}, \
                 peer_groups: {groups}}}"
            );
            text.parse::<DaemonConfig>().unwrap_err().to_string()
        };
        let missing = read("{group: spine}", "{leaf: {}, rack: {}}");
        assert_eq!(
            missing,
            "peer 1.1.1.2: group is \"spine\", allowed is one of: leaf, rack"
        );
        let unknown = read("{group: leaf}", "{leaf: {remote_as: 2, hold: 9}}");
        assert!(
            unknown.starts_with("peer 1.1.1.2: ") && unknown.contains("`hold`"),
            "{unknown}"
        );
        let form = read("{group: leaf}", "{leaf: 9}");
        assert_eq!(form, "peer group leaf is no mapping of settings");
    }

    #[test]
    fn a_changed_file_withdraws_what_is_gone_and_announces_what_is_new() {
        let read = |networks: &str| -> DaemonConfig {
            let text =
                format!("{{speaker: {{local_as: 1, router_id: 1.1.1.1}}, networks: {networks}}}");
            serde_norway::from_str(&text).unwrap()
        };
        let old = read("[{prefix: 10.0.0.0/24}, {prefix: 10.0.1.0/24}, {prefix: 10.0.2.0/24}]");
        let new =
            read("[{prefix: 10.0.1.0/24}, {prefix: 10.0.2.0/24, med: 1}, {prefix: 10.0.3.0/24}]");
        let changes: Vec<_> = new
            .changes_from(&old)
            .into_iter()
            .map(|c| (c.prefix.to_string(), c.action == LocalAction::Withdraw))
            .collect();
        let want = [
            ("10.0.0.0/24", true),
            ("10.0.2.0/24", false),
            ("10.0.3.0/24", false),
        ];
        assert_eq!(changes, want.map(|(p, w)| (p.to_owned(), w)));
    }
}
