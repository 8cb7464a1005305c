//! Networks and addresses with a prefix length.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "found \"{found}\", allowed: an address or ADDRESS/LENGTH, such as 10.65.0.0/16 or fd00::/64"
)]
pub struct ParseNetError {
    /// What was read.
    pub found: String,
}

/// Prefix length of a single address of the family.
const fn host_len(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn parse_network(text: &str) -> Result<IpNetwork, ParseNetError> {
    let error = || ParseNetError {
        found: text.to_owned(),
    };
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) if len.bytes().all(|b| b.is_ascii_digit()) => (addr, Some(len)),
        Some(_) => return Err(error()),
        None => (text, None),
    };
    let addr: IpAddr = addr.parse().map_err(|_source| error())?;
    let len = match len {
        Some(len) => len.parse().map_err(|_source| error())?,
        None => host_len(addr),
    };
    IpNetwork::new(addr, len).map_err(|_source| error())
}

/// A network: its host bits are always zero. A bare address reads as a /32 or /128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNetwork);

impl Cidr {
    /// The network of `addr` with this prefix length; `None` if the family has no such length.
    pub fn new(addr: IpAddr, prefix_len: u8) -> Option<Self> {
        IpNetwork::new(addr, prefix_len).ok().map(Self::from)
    }

    /// The network that holds just this address.
    pub fn host(addr: IpAddr) -> Self {
        Self(IpNetwork::from(addr))
    }

    /// The first address.
    pub fn addr(self) -> IpAddr {
        self.0.ip()
    }

    /// Number of leading bits that are fixed.
    pub fn prefix_len(self) -> u8 {
        self.0.prefix()
    }

    /// Whether this is an IPv4 network.
    pub const fn is_ipv4(self) -> bool {
        matches!(self.0, IpNetwork::V4(_))
    }

    /// Whether this is a single address.
    pub fn is_host(self) -> bool {
        self.prefix_len() == host_len(self.addr())
    }

    /// Whether the address lies in this network.
    pub fn contains(self, addr: IpAddr) -> bool {
        self.0.contains(addr)
    }

    /// Whether `other` lies in this network, or is equal to it.
    pub fn covers(self, other: Self) -> bool {
        self.prefix_len() <= other.prefix_len() && self.contains(other.addr())
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// As the type of the `ipnetwork` crate.
    pub const fn network(self) -> IpNetwork {
        self.0
    }
}

impl From<IpNetwork> for Cidr {
    fn from(network: IpNetwork) -> Self {
        Self(match network {
            IpNetwork::V4(v4) => {
                let addr = u32::from(v4.ip()) & u32::from(v4.mask());
                IpNetwork::V4(Ipv4Network::new(Ipv4Addr::from(addr), v4.prefix()).unwrap_or(v4))
            }
            IpNetwork::V6(v6) => {
                let addr = u128::from(v6.ip()) & u128::from(v6.mask());
                IpNetwork::V6(Ipv6Network::new(Ipv6Addr::from(addr), v6.prefix()).unwrap_or(v6))
            }
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cidr {
    type Err = ParseNetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_network(text).map(Self::from)
    }
}

/// An address with the length of its subnet, for example the address of a host's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrCidr(IpNetwork);

impl AddrCidr {
    /// An address in a subnet of this prefix length; `None` if the family has no such length.
    pub fn new(addr: IpAddr, prefix_len: u8) -> Option<Self> {
        IpNetwork::new(addr, prefix_len).ok().map(Self)
    }

    /// The address itself.
    pub fn addr(self) -> IpAddr {
        self.0.ip()
    }

    /// The subnet that the address is in.
    pub fn subnet(self) -> Cidr {
        Cidr::from(self.0)
    }
}

impl fmt::Display for AddrCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AddrCidr {
    type Err = ParseNetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_network(text).map(Self)
    }
}

macro_rules! serde_as_text {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

serde_as_text!(Cidr, AddrCidr);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_lose_their_host_bits_and_addresses_keep_them() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap().to_string();
        assert_eq!(cidr("10.1.2.3/8"), "10.0.0.0/8");
        assert_eq!(cidr("10.1.2.3"), "10.1.2.3/32");
        assert_eq!(cidr("fd00::1/64"), "fd00::/64");
        assert_eq!(cidr("::1"), "::1/128");
        let addr: AddrCidr = "127.0.0.1/8".parse().unwrap();
        assert_eq!(addr.to_string(), "127.0.0.1/8");
        assert_eq!(addr.subnet().to_string(), "127.0.0.0/8");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/255.0.0.0",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
            assert!(text.parse::<AddrCidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn families_never_overlap() {
        let all = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(!all("0.0.0.0/0").overlaps(all("::/0")));
        assert!(all("0.0.0.0/0").covers(all("10.0.0.0/8")));
        assert!(!all("10.0.0.0/8").covers(all("0.0.0.0/0")));
    }

    proptest! {
        #[test]
        fn a_network_covers_what_it_contains(addr: u32, len in 0_u8..=32, other: u32) {
            let net = Cidr::new(Ipv4Addr::from(addr).into(), len).unwrap();
            let other = IpAddr::from(Ipv4Addr::from(other));
            prop_assert!(net.contains(Ipv4Addr::from(addr).into()));
            prop_assert_eq!(net.contains(other), net.covers(Cidr::host(other)));
            prop_assert_eq!(net.to_string().parse::<Cidr>(), Ok(net));
        }
    }
}
