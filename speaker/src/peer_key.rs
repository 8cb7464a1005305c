//! What names a peer.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The port of BGP (RFC 4271 section 8).
pub const BGP_PORT: u16 = 179;

/// A peer: its address, and the port to dial if it is not 179.
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
}

impl PeerKey {
    /// Where to dial.
    pub fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port.unwrap_or(BGP_PORT))
    }
}

impl From<IpAddr> for PeerKey {
    fn from(addr: IpAddr) -> Self {
        Self { addr, port: None }
    }
}

impl From<SocketAddr> for PeerKey {
    fn from(addr: SocketAddr) -> Self {
        Self {
            addr: addr.ip(),
            port: Some(addr.port()).filter(|p| *p != BGP_PORT),
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addr, port).fmt(f),
            None => self.addr.fmt(f),
        }
    }
}

impl FromStr for PeerKey {
    type Err = AddrParseError;

    /// `192.0.2.1`, `2001:db8::1`, `192.0.2.1:1790`, `[2001:db8::1]:1790`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>()
            .map(Self::from)
            .or_else(|_| text.parse::<SocketAddr>().map(Self::from))
    }
}

impl TryFrom<String> for PeerKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
            .map_err(|_e| format!("`{text}` is not the address of a peer"))
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
        ] {
            assert_eq!(text.parse::<PeerKey>().unwrap().to_string(), text);
        }
        assert_eq!(
            "192.0.2.1:179".parse::<PeerKey>().unwrap().to_string(),
            "192.0.2.1"
        );
        assert!("tor1".parse::<PeerKey>().is_err());
    }
}
