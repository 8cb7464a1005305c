//! A block's CIDR, its addresses and their ordinals.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The largest block: /20 for IPv4, /116 for IPv6.
pub const MAX_BLOCK_ADDRESSES: u32 = 4096;

/// The address family of a pool, a block or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which they are worked on.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Address length in bits: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// 4 or 6.
    pub fn version(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// The address as a number.
    pub fn number(ip: IpAddr) -> u128 {
        match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        }
    }

    /// The address of a number; for IPv4 its low 32 bits count.
    pub fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from((number & 0xffff_ffff) as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv{}", self.version())
    }
}

/// Why a CIDR is no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockCidrError {
    /// Not `address/length`.
    #[error("{0:?} is not an address/length")]
    Syntax(String),
    /// Larger than any block, or longer than the address.
    #[error("prefix length {len} of an {family} block must be {min} to {max}")]
    Length {
        /// The family.
        family: Family,
        /// The length found.
        len: u8,
        /// The shortest allowed.
        min: u8,
        /// The longest allowed.
        max: u8,
    },
    /// Bits are set behind the prefix.
    #[error("{found} has bits set behind its prefix; the block is {block}")]
    HostBits {
        /// What was found.
        found: String,
        /// The block it lies in.
        block: BlockCidr,
    },
}

/// The CIDR of a block: network address and prefix length, at most [`MAX_BLOCK_ADDRESSES`] large.
///
/// Orders by family, then address, then length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockCidr {
    network: IpAddr,
    len: u8,
}

impl BlockCidr {
    /// The block of prefix length `len` that holds `ip`.
    pub fn containing(ip: IpAddr, len: u8) -> Result<Self, BlockCidrError> {
        let family = Family::of(ip);
        let max = family.bits();
        let min = max - MAX_BLOCK_ADDRESSES.ilog2() as u8;
        if !(min..=max).contains(&len) {
            return Err(BlockCidrError::Length {
                family,
                len,
                min,
                max,
            });
        }
        let host_bits = u128::from((1u32 << (max - len)) - 1);
        Ok(Self {
            network: family.address(Family::number(ip) & !host_bits),
            len,
        })
    }

    /// The first address.
    pub fn network(self) -> IpAddr {
        self.network
    }

    /// The prefix length.
    pub fn prefix_len(self) -> u8 {
        self.len
    }

    /// The family.
    pub fn family(self) -> Family {
        Family::of(self.network)
    }

    /// How many addresses: 1 to [`MAX_BLOCK_ADDRESSES`]. All of them are usable.
    pub fn size(self) -> u32 {
        1 << (self.family().bits() - self.len)
    }

    /// The address at `ordinal`; `None` outside of the block.
    pub fn address(self, ordinal: u32) -> Option<IpAddr> {
        (ordinal < self.size()).then(|| {
            let number = Family::number(self.network) + u128::from(ordinal);
            self.family().address(number)
        })
    }

    /// How far into the block `ip` lies; `None` outside of it.
    pub fn ordinal(self, ip: IpAddr) -> Option<u32> {
        if Family::of(ip) != self.family() {
            return None;
        }
        let offset = Family::number(ip).checked_sub(Family::number(self.network))?;
        u32::try_from(offset).ok().filter(|o| *o < self.size())
    }

    /// Whether `ip` lies in the block.
    pub fn contains(self, ip: IpAddr) -> bool {
        self.ordinal(ip).is_some()
    }

    /// As it stands in a key: `10.65.40.128-26`.
    pub fn key_form(self) -> String {
        format!("{}-{}", self.network, self.len)
    }

    /// Parses [`Self::key_form`].
    pub fn from_key_form(text: &str) -> Result<Self, BlockCidrError> {
        Self::split(text, '-')
    }

    fn split(text: &str, separator: char) -> Result<Self, BlockCidrError> {
        let syntax = || BlockCidrError::Syntax(text.chars().take(64).collect());
        let (address, len) = text.rsplit_once(separator).ok_or_else(syntax)?;
        let (Ok(ip), Ok(len)) = (address.parse::<IpAddr>(), len.parse::<u8>()) else {
            return Err(syntax());
        };
        let block = Self::containing(ip, len)?;
        if block.network != ip {
            return Err(BlockCidrError::HostBits {
                found: text.to_owned(),
                block,
            });
        }
        Ok(block)
    }
}

impl fmt::Display for BlockCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

impl fmt::Debug for BlockCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlockCidr {
    type Err = BlockCidrError;

    fn from_str(text: &str) -> Result<Self, BlockCidrError> {
        Self::split(text, '/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ordinals_are_inverse_in_both_families() {
        for text in [
            "10.65.40.128/26",
            "fd00:65::80/122",
            "10.0.0.7/32",
            "10.0.16.0/20",
        ] {
            let block: BlockCidr = text.parse().unwrap();
            assert_eq!(block.to_string(), text);
            assert_eq!(BlockCidr::from_key_form(&block.key_form()).unwrap(), block);
            for ordinal in [0, block.size() - 1] {
                let ip = block.address(ordinal).unwrap();
                assert_eq!(block.ordinal(ip), Some(ordinal));
                assert_eq!(
                    BlockCidr::containing(ip, block.prefix_len()).unwrap(),
                    block
                );
            }
            assert_eq!(block.address(block.size()), None);
        }
    }

    #[test]
    fn what_is_no_block_is_refused_with_the_reason() {
        for (text, reason) in [
            (
                "10.0.0.0/19",
                "prefix length 19 of an IPv4 block must be 20 to 32",
            ),
            (
                "::/0",
                "prefix length 0 of an IPv6 block must be 116 to 128",
            ),
            (
                "10.0.0.1/26",
                "10.0.0.1/26 has bits set behind its prefix; the block is 10.0.0.0/26",
            ),
            ("10.0.0.0", "\"10.0.0.0\" is not an address/length"),
            ("10.0.0.0/333", "\"10.0.0.0/333\" is not an address/length"),
        ] {
            assert_eq!(text.parse::<BlockCidr>().unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn the_last_block_of_the_address_space_does_not_overflow() {
        let v6: BlockCidr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff80/121"
            .parse()
            .unwrap();
        assert_eq!(
            v6.address(127),
            Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap())
        );
        assert_eq!(v6.address(128), None);
        let v4: BlockCidr = "255.255.255.192/26".parse().unwrap();
        assert_eq!(v4.address(63), Some("255.255.255.255".parse().unwrap()));
    }
}
