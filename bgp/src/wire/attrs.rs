//! Path attributes (RFC 4271 section 5, RFC 1997, 4360, 4456, 6793, 8092) with the error handling
//! of RFC 7606.

mod codes;
mod decode;
mod encode;
mod tlv;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

pub use codes::{code, community, flags};
pub(super) use tlv::{OVERRUN, read_tlv};

use crate::wire::{as_path::AsPath, error::Verdict};

/// ORIGIN; smaller is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp,
    /// Learned by the EGP protocol.
    Egp,
    /// By other means.
    #[default]
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "IGP",
            Self::Egp => "EGP",
            Self::Incomplete => "incomplete",
        })
    }
}

/// AGGREGATOR: who aggregated the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// Its AS.
    pub asn: u32,
    /// Its BGP identifier.
    pub id: Ipv4Addr,
}

/// An attribute that we pass on without looking inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawAttr {
    /// Flags as they are sent on, without the extended length bit.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// Value.
    pub value: Vec<u8>,
}

/// Who a message came from, as far as attributes are judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// A peer in another AS.
    Ebgp,
    /// A peer in our AS.
    Ibgp,
}

/// What the meaning of attribute octets depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttrContext {
    /// Both sides have the four-octet AS capability (RFC 6793).
    pub four_octet_as: bool,
    /// The peer.
    pub peer: PeerKind,
}

/// The attributes of a route, MP_REACH_NLRI and MP_UNREACH_NLRI aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PathAttrs {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH merged in.
    pub as_path: AsPath,
    /// NEXT_HOP of the IPv4 prefixes outside MP_REACH_NLRI.
    pub next_hop: Option<Ipv4Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; never from an external peer.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR, with AS4_AGGREGATOR merged in.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES, as received.
    pub communities: Vec<u32>,
    /// ORIGINATOR_ID; never from an external peer.
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST, nearest first; never from an external peer.
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED COMMUNITIES.
    pub ext_communities: Vec<[u8; 8]>,
    /// LARGE COMMUNITIES.
    pub large_communities: Vec<[u32; 3]>,
    /// Transitive attributes that we only pass on, by ascending code.
    pub unknown: Vec<RawAttr>,
}

/// Attributes and what was wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// What could be used. Incomplete if the verdict is not usable.
    pub attrs: PathAttrs,
    /// What to do with the routes.
    pub verdict: Verdict,
}

impl PathAttrs {
    /// Whether `community` is among its COMMUNITIES (RFC 1997).
    pub fn has_community(&self, community: u32) -> bool {
        self.communities.contains(&community)
    }
}

/// Whether `addr` can be the next hop of a usable route (RFC 4271 section 6.3, RFC 2545): not
/// unspecified, loopback, multicast, 0/8 or 240/4.
pub fn is_usable_next_hop(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_loopback() && !a.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
