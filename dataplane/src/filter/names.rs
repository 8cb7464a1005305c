//! Kernel names, derived from identities by hash: the same identity has the same name in every
//! process, so that a fresh agent recognises what an earlier one made.
//!
//! Chains start with `mgy-` (at most 28 bytes), sets with `mgy4` or `mgy6` (at most 31 bytes).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::types::{Family, HostInterface, PolicyId, ProfileId, SetId, SetKind};

/// Every chain of ours starts with this.
pub(crate) const CHAIN_PREFIX: &str = "mgy-";

/// Base64 digits of a hash in a name: 96 bits.
const HASH_LEN: usize = 16;

/// The first 96 bits of the SHA-256 of `text`, in URL-safe base64.
pub(crate) fn short_hash(text: &str) -> String {
    let mut hash = URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()));
    hash.truncate(HASH_LEN);
    hash
}

/// Which way a packet goes as seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Way {
    /// To the workload.
    Ingress,
    /// From the workload.
    Egress,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

pub(crate) fn policy_chain(way: Way, id: &PolicyId) -> String {
    let prefix = match way {
        Way::Ingress => "mgy-pi-",
        Way::Egress => "mgy-po-",
    };
    format!("{prefix}{}", short_hash(id.as_str()))
}

pub(crate) fn profile_chain(way: Way, id: &ProfileId) -> String {
    let prefix = match way {
        Way::Ingress => "mgy-pri-",
        Way::Egress => "mgy-pro-",
    };
    format!("{prefix}{}", short_hash(id.as_str()))
}

pub(crate) fn group_chain(way: Way, group: &str) -> String {
    let prefix = match way {
        Way::Ingress => "mgy-to-",
        Way::Egress => "mgy-fw-",
    };
    format!("{prefix}{group}")
}

/// One of the chains that the dispatch of a way is divided into; `place` has two hexadecimal digits.
pub(crate) fn dispatch_part(way: Way, place: usize) -> String {
    group_chain(way, &format!("{place:02x}"))
}

/// Whether [`dispatch_part`] named a chain of the `filter` table.
pub(crate) fn is_dispatch_part(way: Way, chain: &str) -> bool {
    let place = chain.strip_prefix(&group_chain(way, ""));
    place.is_some_and(|place| place.len() == 2 && place.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// A way through an interface of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostWay {
    /// To or from the host itself, in any table.
    Own(Way),
    /// Through the host.
    Forwarded(Way),
}

pub(crate) fn host_chain(way: HostWay, interface: &HostInterface) -> String {
    let prefix = match way {
        HostWay::Own(Way::Ingress) => "mgy-hi-",
        HostWay::Own(Way::Egress) => "mgy-ho-",
        HostWay::Forwarded(Way::Ingress) => "mgy-hfi-",
        HostWay::Forwarded(Way::Egress) => "mgy-hfo-",
    };
    let name = match interface {
        HostInterface::Named(name) => name,
        // No interface can be called so.
        HostInterface::All => "all interfaces",
    };
    format!("{prefix}{}", short_hash(name))
}

pub(crate) fn limit_chain(way: Way, ifname: &str) -> String {
    match way {
        Way::Ingress => format!("mgy-li-{ifname}"),
        Way::Egress => format!("mgy-lo-{ifname}"),
    }
}

/// The group of a chain that [`group_chain`] named.
pub(crate) fn group_of_chain(chain: &str) -> Option<&str> {
    let group = chain
        .strip_prefix("mgy-to-")
        .or_else(|| chain.strip_prefix("mgy-fw-"))?;
    (group.len() == HASH_LEN).then_some(group)
}

fn set_prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "mgy4",
        Family::V6 => "mgy6",
    }
}

/// Whether a set is ours, and of which family.
pub(crate) fn family_of_set(name: &str) -> Option<Family> {
    let of = |family: &Family| {
        let rest = name.strip_prefix(set_prefix(*family));
        rest.is_some_and(|rest| rest.starts_with(['-', 's', 'n', 'g', 'h', 't']))
    };
    Family::ALL.into_iter().find(of)
}

/// All (address, interface) pairs of local workloads.
pub(crate) fn workload_set(family: Family) -> String {
    format!("{}-wl", set_prefix(family))
}

/// Pools whose outgoing traffic is masqueraded.
pub(crate) fn masquerade_set(family: Family) -> String {
    format!("{}-masq", set_prefix(family))
}

/// All pools.
pub(crate) fn pools_set(family: Family) -> String {
    format!("{}-pools", set_prefix(family))
}

/// The addresses of all hosts.
pub(crate) fn hosts_set(family: Family) -> String {
    format!("{}-hosts", set_prefix(family))
}

/// Ranges of service addresses.
pub(crate) fn services_set(family: Family) -> String {
    format!("{}-svc", set_prefix(family))
}

pub(crate) fn user_set(family: Family, id: &SetId, kind: SetKind) -> String {
    let letter = match kind {
        SetKind::Nets => 's',
        SetKind::NetPorts => 'n',
    };
    format!("{}{letter}:{}", set_prefix(family), short_hash(id.as_str()))
}

/// The members of a group of endpoints.
pub(crate) fn group_set(family: Family, group: &str) -> String {
    format!("{}g:{group}", set_prefix(family))
}

/// Whether [`group_set`] named it.
pub(crate) fn is_group_set(name: &str) -> bool {
    group_of_set(name).is_some()
}

/// The group of a set that [`group_set`] named.
pub(crate) fn group_of_set(name: &str) -> Option<&str> {
    name.get(4..)?.strip_prefix("g:")
}

/// A list of networks of a rule, named by its content.
pub(crate) fn helper_set(family: Family, content: &str) -> String {
    format!("{}h:{}", set_prefix(family), short_hash(content))
}

/// Where the new content of a set is put together before it is swapped in.
pub(crate) fn temporary_set(name: &str, family: Family) -> String {
    format!("{}t:{}", set_prefix(family), short_hash(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_do_not_depend_on_the_length_of_the_identity() {
        let long = "x".repeat(500);
        let id = PolicyId::from(long.as_str());
        for way in Way::BOTH {
            assert!(policy_chain(way, &id).len() <= 28);
            assert!(profile_chain(way, &ProfileId::from(long.as_str())).len() <= 28);
            assert!(group_chain(way, &short_hash(&long)).len() <= 28);
        }
        let set = user_set(Family::V6, &SetId::from(long.as_str()), SetKind::NetPorts);
        assert!(set.len() <= 31 && family_of_set(&set) == Some(Family::V6));
    }

    #[test]
    fn names_are_stable_across_releases() {
        // Changing these orphans what a running agent programmed.
        let policy = policy_chain(Way::Ingress, &PolicyId::from("default/allow"));
        assert_eq!(policy, "mgy-pi-hcJalE5TMqPRnohD");
        let set = user_set(Family::V4, &SetId::from("s:abc"), SetKind::Nets);
        assert_eq!(set, "mgy4s:7_8DhdpxTIVzqvVR");
    }

    #[test]
    fn sets_of_others_are_not_ours() {
        for name in ["mgy", "mgy4", "mgy5-wl", "cali40s:abc", "mgy4zebra"] {
            assert_eq!(family_of_set(name), None, "{name}");
        }
        assert_eq!(family_of_set("mgy4-wl"), Some(Family::V4));
        assert_eq!(
            family_of_set(&temporary_set("mgy6-wl", Family::V6)),
            Some(Family::V6)
        );
    }

    #[test]
    fn group_names_are_read_back_from_chains() {
        let group = short_hash("g");
        assert_eq!(
            group_of_chain(&group_chain(Way::Egress, &group)),
            Some(group.as_str())
        );
        assert_eq!(group_of_chain("mgy-FORWARD"), None);
        assert_eq!(group_of_chain("mgy-to-wl"), None);
    }
}
