//! Address families and prefixes, always masked to their length.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The address families that sessions carry (RFC 4760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl Family {
    /// Every family, in the order in which capabilities list them.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// Address Family Identifier.
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4Unicast => 1,
            Self::Ipv6Unicast => 2,
        }
    }

    /// Subsequent Address Family Identifier.
    pub const fn safi(self) -> u8 {
        1
    }

    /// The family of these identifiers, if it is one we carry.
    pub const fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4Unicast),
            (2, 1) => Some(Self::Ipv6Unicast),
            _ => None,
        }
    }

    /// Dense index, `0..Family::ALL.len()`, for per-family arrays.
    pub const fn index(self) -> usize {
        match self {
            Self::Ipv4Unicast => 0,
            Self::Ipv6Unicast => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Ipv6Unicast => "ipv6-unicast",
        })
    }
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a prefix: {why}")]
pub struct ParsePrefixError {
    text: String,
    why: &'static str,
}

macro_rules! prefix_type {
    ($name:ident, $addr:ty, $bits:ty, $max:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// Ordered by address, then by length; bits beyond the length are always zero.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            bits: $bits,
            len: u8,
        }

        impl $name {
            /// Longest possible prefix length.
            pub const MAX_LEN: u8 = $max;

            /// A prefix from the address as an integer; host bits are cleared.
            /// `None` when `len` is longer than the address.
            pub const fn new(bits: $bits, len: u8) -> Option<Self> {
                if len > $max {
                    return None;
                }
                Some(Self {
                    bits: bits & Self::mask(len),
                    len,
                })
            }

            /// The single-address prefix of `addr`.
            pub fn host(addr: $addr) -> Self {
                Self {
                    bits: addr.into(),
                    len: $max,
                }
            }

            /// The address as an integer, host bits zero.
            pub const fn bits(self) -> $bits {
                self.bits
            }

            /// Prefix length in bits.
            #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a size")]
            pub const fn len(self) -> u8 {
                self.len
            }

            /// The network address.
            pub fn addr(self) -> $addr {
                self.bits.into()
            }

            /// Whether `addr` lies in this prefix.
            pub fn contains_addr(self, addr: $addr) -> bool {
                <$bits>::from(addr) & Self::mask(self.len) == self.bits
            }

            /// Whether `other` is this prefix or a more specific one.
            pub const fn contains(self, other: Self) -> bool {
                other.len >= self.len && other.bits & Self::mask(self.len) == self.bits
            }

            const fn mask(len: u8) -> $bits {
                if len == 0 {
                    0
                } else {
                    <$bits>::MAX << ($max - len)
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.addr(), self.len)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParsePrefixError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let fail = |why| ParsePrefixError {
                    text: text.to_owned(),
                    why,
                };
                let (addr, len) = match text.split_once('/') {
                    Some((addr, len)) => (
                        addr,
                        len.parse()
                            .map_err(|_e| fail("the length is not a number"))?,
                    ),
                    None => (text, $max),
                };
                let addr: $addr = addr
                    .parse()
                    .map_err(|_e| fail("the address is malformed"))?;
                let prefix = Self::new(addr.into(), len)
                    .ok_or_else(|| fail("the length is longer than the address"))?;
                if prefix.addr() != addr {
                    return Err(fail("there are bits set beyond the length"));
                }
                Ok(prefix)
            }
        }
    };
}

prefix_type!(Ipv4Prefix, Ipv4Addr, u32, 32, "An IPv4 prefix.");
prefix_type!(Ipv6Prefix, Ipv6Addr, u128, 128, "An IPv6 prefix.");

/// A prefix of either family. IPv4 sorts before IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// An IPv4 prefix.
    V4(Ipv4Prefix),
    /// An IPv6 prefix.
    V6(Ipv6Prefix),
}

impl Prefix {
    /// The prefix of `len` bits around `addr`; `None` when `len` is too long for the family.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        match addr {
            IpAddr::V4(a) => Ipv4Prefix::new(a.into(), len).map(Self::V4),
            IpAddr::V6(a) => Ipv6Prefix::new(a.into(), len).map(Self::V6),
        }
    }

    /// The single-address prefix of `addr`.
    pub fn host(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => Self::V4(Ipv4Prefix::host(a)),
            IpAddr::V6(a) => Self::V6(Ipv6Prefix::host(a)),
        }
    }

    /// The unicast family that carries this prefix.
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::Ipv4Unicast,
            Self::V6(_) => Family::Ipv6Unicast,
        }
    }

    /// The network address.
    pub fn addr(self) -> IpAddr {
        match self {
            Self::V4(p) => p.addr().into(),
            Self::V6(p) => p.addr().into(),
        }
    }

    /// Prefix length in bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a size")]
    pub const fn len(self) -> u8 {
        match self {
            Self::V4(p) => p.len(),
            Self::V6(p) => p.len(),
        }
    }

    /// Whether `other` is this prefix or a more specific one of the same family.
    pub const fn contains(self, other: Self) -> bool {
        match (self, other) {
            (Self::V4(a), Self::V4(b)) => a.contains(b),
            (Self::V6(a), Self::V6(b)) => a.contains(b),
            _ => false,
        }
    }

    /// Whether `addr` is of this family and lies in this prefix.
    pub fn contains_addr(self, addr: IpAddr) -> bool {
        self.contains(Self::host(addr))
    }
}

impl From<Ipv4Prefix> for Prefix {
    fn from(p: Ipv4Prefix) -> Self {
        Self::V4(p)
    }
}

impl From<Ipv6Prefix> for Prefix {
    fn from(p: Ipv6Prefix) -> Self {
        Self::V6(p)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(p) => fmt::Display::fmt(p, f),
            Self::V6(p) => fmt::Display::fmt(p, f),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// `10.0.0.0/8`, `2001:db8::/32`; a bare address is its host prefix.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(':') {
            text.parse().map(Self::V6)
        } else {
            text.parse().map(Self::V4)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_bits_are_cleared_and_lengths_checked() {
        let p = Ipv4Prefix::new(0x0a01_02ff, 24).unwrap();
        assert_eq!(p.to_string(), "10.1.2.0/24");
        assert_eq!(Ipv4Prefix::new(1, 33), None);
        assert_eq!(
            Ipv4Prefix::new(u32::MAX, 0).unwrap().to_string(),
            "0.0.0.0/0"
        );
        assert_eq!(
            Ipv6Prefix::new(u128::MAX, 1).unwrap().to_string(),
            "8000::/1"
        );
    }

    #[test]
    fn contains_needs_the_same_family_and_a_longer_or_equal_length() {
        let net: Prefix = "10.0.0.0/8".parse().unwrap();
        assert!(net.contains("10.1.0.0/16".parse().unwrap()));
        assert!(net.contains(net));
        assert!(!net.contains("0.0.0.0/0".parse().unwrap()));
        assert!(!net.contains("2001:db8::/32".parse().unwrap()));
        assert!(
            "::/0"
                .parse::<Prefix>()
                .unwrap()
                .contains_addr("::1".parse().unwrap())
        );
    }

    #[test]
    fn malformed_texts_say_what_is_wrong() {
        for (text, why) in [
            ("10.0.0.1/8", "bits set"),
            ("10.0.0.0/33", "longer"),
            ("10.0.0/8", "address"),
            ("10.0.0.0/x", "number"),
            ("2001:db8::/129", "longer"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(text), "{error}");
        }
        assert_eq!("10.0.0.1".parse::<Prefix>().unwrap().len(), 32);
    }

    proptest! {
        #[test]
        fn text_round_trips(bits: u128, len in 0u8..=128) {
            let p = Prefix::V6(Ipv6Prefix::new(bits, len).unwrap());
            prop_assert_eq!(p.to_string().parse::<Prefix>().unwrap(), p);
        }
    }
}
