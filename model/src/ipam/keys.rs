//! Where records are in the store.

use super::{BlockCidr, Family, Owner};

/// Builds and parses address management's keys below one root, `/calico` by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamKeys {
    base: String,
}

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpamKey {
    /// A [`super::Block`].
    Block(BlockCidr),
    /// A [`super::BlockAffinity`].
    Affinity(Owner, BlockCidr),
    /// A [`super::Handle`], by id.
    Handle(String),
    /// The [`super::IpamConfig`].
    Config,
}

impl Default for IpamKeys {
    fn default() -> Self {
        Self::new("/calico")
    }
}

impl IpamKeys {
    /// Keys below `root`, for example `/calico`; a slash at its end is ignored.
    pub fn new(root: &str) -> Self {
        Self {
            base: format!("{}/ipam/v2/", root.trim_end_matches('/')),
        }
    }

    /// The prefix of everything here.
    pub fn all(&self) -> &str {
        &self.base
    }

    /// The key of a block.
    pub fn block(&self, cidr: BlockCidr) -> String {
        self.blocks(cidr.family()) + &cidr.key_form()
    }

    /// The prefix of all blocks of a family.
    pub fn blocks(&self, family: Family) -> String {
        format!("{}assignment/ipv{}/block/", self.base, family.version())
    }

    /// The key of a block's affinity to `owner`.
    pub fn affinity(&self, owner: &Owner, cidr: BlockCidr) -> String {
        let version = cidr.family().version();
        format!(
            "{}ipv{version}/block/{}",
            self.affinities(owner),
            cidr.key_form()
        )
    }

    /// The prefix of all affinities of an owner.
    pub fn affinities(&self, owner: &Owner) -> String {
        format!("{}{}/{}/", self.base, owner.kind(), owner.name())
    }

    /// The prefixes of all affinities: of hosts, and of owners that are none.
    pub fn owners(&self) -> [String; 2] {
        ["host", "virtual"].map(|kind| format!("{}{kind}/", self.base))
    }

    /// The key of a handle. `%` and `/` in the id are escaped: it is one path segment.
    pub fn handle(&self, id: &str) -> String {
        format!(
            "{}{}",
            self.handles(),
            id.replace('%', "%25").replace('/', "%2f")
        )
    }

    /// The prefix of all handles.
    pub fn handles(&self) -> String {
        format!("{}handle/", self.base)
    }

    /// The key of the configuration.
    pub fn config(&self) -> String {
        format!("{}config", self.base)
    }

    /// What `key` names; `None` when it is none of address management's.
    pub fn parse(&self, key: &str) -> Option<IpamKey> {
        let mut parts = key.strip_prefix(&self.base)?.split('/');
        let parsed = match parts.next()? {
            "assignment" => IpamKey::Block(Self::parse_block(&mut parts)?),
            kind @ ("host" | "virtual") => {
                let name = parts.next().filter(|n| !n.is_empty())?.to_owned();
                let owner = match kind {
                    "host" => Owner::Host(name),
                    _ => Owner::Virtual(name),
                };
                IpamKey::Affinity(owner, Self::parse_block(&mut parts)?)
            }
            "handle" => {
                let id = parts.next().filter(|id| !id.is_empty())?;
                IpamKey::Handle(id.replace("%2f", "/").replace("%25", "%"))
            }
            "config" => IpamKey::Config,
            _ => return None,
        };
        parts.next().is_none().then_some(parsed)
    }

    fn parse_block<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Option<BlockCidr> {
        let family = match parts.next()? {
            "ipv4" => Family::V4,
            "ipv6" => Family::V6,
            _ => return None,
        };
        if parts.next()? != "block" {
            return None;
        }
        let cidr = BlockCidr::from_key_form(parts.next()?).ok()?;
        (cidr.family() == family).then_some(cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_established_ones_and_parse_back() {
        let keys = IpamKeys::default();
        let v4: BlockCidr = "10.65.79.0/26".parse().unwrap();
        let v6: BlockCidr = "fd00:10:65::40/122".parse().unwrap();
        let host = Owner::Host("n1".to_owned());
        let lb = Owner::Virtual("load-balancer".to_owned());
        for (key, expected, parsed) in [
            (
                keys.block(v4),
                "/calico/ipam/v2/assignment/ipv4/block/10.65.79.0-26",
                IpamKey::Block(v4),
            ),
            (
                keys.block(v6),
                "/calico/ipam/v2/assignment/ipv6/block/fd00:10:65::40-122",
                IpamKey::Block(v6),
            ),
            (
                keys.affinity(&host, v4),
                "/calico/ipam/v2/host/n1/ipv4/block/10.65.79.0-26",
                IpamKey::Affinity(host.clone(), v4),
            ),
            (
                keys.affinity(&lb, v6),
                "/calico/ipam/v2/virtual/load-balancer/ipv6/block/fd00:10:65::40-122",
                IpamKey::Affinity(lb.clone(), v6),
            ),
            (
                keys.handle("net1.cid1"),
                "/calico/ipam/v2/handle/net1.cid1",
                IpamKey::Handle("net1.cid1".to_owned()),
            ),
            (
                keys.handle("a/b%2f"),
                "/calico/ipam/v2/handle/a%2fb%252f",
                IpamKey::Handle("a/b%2f".to_owned()),
            ),
            (keys.config(), "/calico/ipam/v2/config", IpamKey::Config),
        ] {
            assert_eq!(key, expected);
            assert_eq!(keys.parse(&key), Some(parsed));
        }
    }

    #[test]
    fn the_root_is_configurable_and_strangers_are_none() {
        let keys = IpamKeys::new("/other/root/");
        assert_eq!(keys.config(), "/other/root/ipam/v2/config");
        for key in [
            "/calico/ipam/v2/config",
            "/other/root/ipam/v2/config/x",
            "/other/root/ipam/v2/assignment/ipv6/block/10.0.0.0-26",
            "/other/root/ipam/v2/assignment/ipv4/block/10.0.0.1-26",
            "/other/root/ipam/v2/host//ipv4/block/10.0.0.0-26",
            "/other/root/ipam/v2/handle/",
            "/other/root/ipam/v2/",
        ] {
            assert_eq!(keys.parse(key), None, "{key}");
        }
    }
}
