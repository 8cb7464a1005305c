//! Next hops as MP_REACH_NLRI carries them (RFC 4760, RFC 2545, RFC 8950).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use crate::prefix::Family;

/// Where to send packets for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, for IPv6 routes or for IPv4 ones with RFC 8950.
    V6 {
        /// The global address; some peers put their link-local one here.
        global: Ipv6Addr,
        /// The link-local address, on shared links.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address to install: the link-local one only where nothing else is given.
    pub fn addr(self) -> IpAddr {
        match self {
            Self::V4(a) => a.into(),
            Self::V6 {
                global,
                link_local: Some(local),
            } if global.is_unspecified() => local.into(),
            Self::V6 { global, .. } => global.into(),
        }
    }

    /// Decodes the next hop field for routes of `family`; `None` for a length that no RFC gives a
    /// meaning for it.
    pub fn decode(family: Family, bytes: &[u8]) -> Option<Self> {
        if let (Family::Ipv4Unicast, Ok(v4)) = (family, <[u8; 4]>::try_from(bytes)) {
            return Some(Self::V4(v4.into()));
        }
        let (global, rest) = bytes.split_first_chunk::<16>()?;
        let link_local = match rest.len() {
            0 => None,
            16 => rest.first_chunk::<16>().map(|b| Ipv6Addr::from(*b)),
            _ => return None,
        };
        Some(Self::V6 {
            global: (*global).into(),
            link_local,
        })
    }

    /// Appends the length octet and the field.
    pub fn encode(self, out: &mut BytesMut) {
        match self {
            Self::V4(a) => {
                out.put_u8(4);
                out.put_slice(&a.octets());
            }
            Self::V6 {
                global,
                link_local: None,
            } => {
                out.put_u8(16);
                out.put_slice(&global.octets());
            }
            Self::V6 {
                global,
                link_local: Some(local),
            } => {
                out.put_u8(32);
                out.put_slice(&global.octets());
                out.put_slice(&local.octets());
            }
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => Self::V4(a),
            IpAddr::V6(global) => Self::V6 {
                global,
                link_local: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_4_16_and_32_have_a_meaning_and_no_other() {
        let bytes = [1u8; 48];
        for len in 0..=48 {
            let v4 = NextHop::decode(Family::Ipv4Unicast, &bytes[..len]);
            let v6 = NextHop::decode(Family::Ipv6Unicast, &bytes[..len]);
            assert_eq!(v4.is_some(), [4, 16, 32].contains(&len));
            assert_eq!(v6.is_some(), [16, 32].contains(&len));
            if let Some(nh) = v4 {
                let mut out = BytesMut::new();
                nh.encode(&mut out);
                assert_eq!(&out[1..], &bytes[..len]);
                assert_eq!(usize::from(out[0]), len);
            }
        }
    }
}
