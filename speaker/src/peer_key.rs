//! What names a peer.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The port of BGP (RFC 4271 section 8).
pub const BGP_PORT: u16 = 179;

/// A peer: its address, and the port to dial if it is not 179; or the interface that it is behind.
///
/// A link-local address needs the interface. Without an address the peer is whichever router
/// announces itself there (RFC 4861).
///
/// Connections that the peer opens are matched by address alone, so two peers behind one address
/// only work if one of them is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerKey {
    /// Address of the peer.
    pub addr: IpAddr,
    /// Port to dial; `None` for 179.
    pub port: Option<u16>,
    /// Interface of a link-local address, or of a peer without one, whose `addr` is `::`.
    pub interface: Option<Interface>,
}

/// The name of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface {
    len: u8,
    octets: [u8; INTERFACE_MAX],
}

/// linux/if.h, IFNAMSIZ less the end of the string.
const INTERFACE_MAX: usize = 15;

impl Interface {
    /// `None` for a name that the kernel gives no interface.
    pub fn new(name: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_graphic() && !matches!(c, b'/' | b':' | b'%' | b'[' | b']');
        let mut octets = [0; INTERFACE_MAX];
        octets
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        let len = u8::try_from(name.len()).ok()?;
        (len > 0 && name.bytes().all(plain)).then_some(Self { len, octets })
    }

    /// The name.
    pub fn name(&self) -> &str {
        let used = self.octets.get(..usize::from(self.len));
        used.and_then(|octets| std::str::from_utf8(octets).ok())
            .unwrap_or_default()
    }

    /// Its index now, if it is there.
    pub(crate) fn index(&self) -> Option<u32> {
        nix::net::if_::if_nametoindex(self.name()).ok()
    }
}

impl PeerKey {
    /// The peer on an interface.
    pub const fn on(interface: Interface) -> Self {
        Self {
            addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            port: None,
            interface: Some(interface),
        }
    }

    /// The interface of a peer without an address.
    pub fn unnumbered(self) -> Option<Interface> {
        self.interface.filter(|_| self.addr.is_unspecified())
    }

    /// Where to dial, if the key says so and its interface is there.
    pub(crate) fn target(self) -> Option<SocketAddr> {
        let port = self.port.unwrap_or(BGP_PORT);
        match (self.addr, self.interface) {
            (addr, _) if addr.is_unspecified() => None,
            (addr, None) => Some(SocketAddr::new(addr, port)),
            (IpAddr::V6(addr), Some(interface)) => {
                let scope = interface.index()?;
                Some(SocketAddrV6::new(addr, port, 0, scope).into())
            }
            (IpAddr::V4(_), Some(_)) => None,
        }
    }
}

impl From<IpAddr> for PeerKey {
    fn from(addr: IpAddr) -> Self {
        Self {
            addr,
            port: None,
            interface: None,
        }
    }
}

impl From<SocketAddr> for PeerKey {
    fn from(addr: SocketAddr) -> Self {
        Self {
            addr: addr.ip(),
            port: Some(addr.port()).filter(|p| *p != BGP_PORT),
            interface: None,
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, &self.interface) {
            (_, Some(interface)) if self.addr.is_unspecified() => {
                write!(f, "%{}", interface.name())
            }
            (None, Some(interface)) => write!(f, "{}%{}", self.addr, interface.name()),
            (Some(port), Some(interface)) => {
                write!(f, "[{}%{}]:{port}", self.addr, interface.name())
            }
            (Some(port), None) => SocketAddr::new(self.addr, port).fmt(f),
            (None, None) => self.addr.fmt(f),
        }
    }
}

impl FromStr for PeerKey {
    type Err = ParsePeerKeyError;

    /// `192.0.2.1`, `2001:db8::1`, `192.0.2.1:1790`, `[2001:db8::1]:1790`, `fe80::1%eth0`,
    /// `[fe80::1%eth0]:1790`, `%eth0`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParsePeerKeyError {
            found: text.to_owned(),
        })
    }
}

/// Text that names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not the address of a peer, nor %INTERFACE")]
pub struct ParsePeerKeyError {
    found: String,
}

fn parse(text: &str) -> Option<PeerKey> {
    let Some((front, zone)) = text.split_once('%') else {
        let addr = text.parse::<IpAddr>().map(PeerKey::from);
        return addr
            .or_else(|_| text.parse::<SocketAddr>().map(PeerKey::from))
            .ok();
    };
    if front.is_empty() {
        return Some(PeerKey::on(Interface::new(zone)?));
    }
    let (addr, name, port) = match front.strip_prefix('[') {
        None => (front, zone, None),
        Some(addr) => {
            let (name, port) = zone.split_once("]:")?;
            (addr, name, Some(port.parse().ok()?))
        }
    };
    let addr: Ipv6Addr = addr.parse().ok()?;
    addr.is_unicast_link_local().then_some(PeerKey {
        addr: addr.into(),
        port: port.filter(|port| *port != BGP_PORT),
        interface: Some(Interface::new(name)?),
    })
}

impl TryFrom<String> for PeerKey {
    type Error = ParsePeerKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PeerKey> for String {
    fn from(key: PeerKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip_and_port_179_is_the_default() {
        for text in [
            "192.0.2.1",
            "2001:db8::1",
            "192.0.2.1:1790",
            "[2001:db8::1]:1790",
            "fe80::1%eth0",
            "[fe80::1%eth0.100]:1790",
            "%eth0",
        ] {
            assert_eq!(text.parse::<PeerKey>().unwrap().to_string(), text);
        }
        assert_eq!(
            "192.0.2.1:179".parse::<PeerKey>().unwrap().to_string(),
            "192.0.2.1"
        );
        for text in [
            "tor1",
            "%",
            "%an/interface",
            "%a-name-too-long-for-linux",
            "192.0.2.1%eth0",
            "2001:db8::1%eth0",
            "[fe80::1%eth0]",
        ] {
            assert!(text.parse::<PeerKey>().is_err(), "{text}");
        }
        assert_eq!("%lo".parse::<PeerKey>().unwrap().target(), None);
        let near: PeerKey = "fe80::1%lo".parse().unwrap();
        assert_eq!(near.target().unwrap().to_string(), "[fe80::1%1]:179");
    }
}
