//! Our own addresses on the interface that a session uses: what to tell peers as next hop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::{if_indextoname, if_nametoindex},
};

use crate::peer_key::Interface;

/// Addresses that packets to us may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LocalAddrs {
    /// Index of the interface, 0 if unknown.
    pub(crate) ifindex: u32,
    /// An IPv4 address.
    pub(crate) v4: Option<Ipv4Addr>,
    /// A global IPv6 address.
    pub(crate) v6: Option<Ipv6Addr>,
    /// The link-local address of the interface.
    pub(crate) link_local: Option<Ipv6Addr>,
}

impl LocalAddrs {
    /// Name of the interface, empty if unknown.
    pub(crate) fn name(&self) -> String {
        let name = if_indextoname(self.ifindex).ok();
        let name = name.and_then(|name| name.into_string().ok());
        name.unwrap_or_default()
    }

    /// Of the interface, of which `local` is an address.
    pub(crate) fn on(local: IpAddr, interface: Interface) -> Self {
        let mut found = Self::choose(&interface_addrs(), local, Some(interface.name()));
        found.ifindex = interface.index().unwrap_or(0);
        found
    }

    /// Of the interface that has `local`; global addresses that it lacks come from others.
    pub(crate) fn beside(local: IpAddr) -> Self {
        let all = interface_addrs();
        let name = all
            .iter()
            .find(|(_, a)| *a == local)
            .map(|(n, _)| n.as_str());
        let mut found = Self::choose(&all, local, name);
        found.ifindex = name.and_then(|n| if_nametoindex(n).ok()).unwrap_or(0);
        found
    }

    fn choose(all: &[(String, IpAddr)], local: IpAddr, name: Option<&str>) -> Self {
        let mut found = Self::default();
        match local {
            IpAddr::V4(a) => found.v4 = Some(a),
            IpAddr::V6(a) if a.is_unicast_link_local() => found.link_local = Some(a),
            IpAddr::V6(a) => found.v6 = Some(a),
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            all.iter().partition(|(n, _)| Some(n.as_str()) == name);
        for (same, (_, addr)) in here
            .into_iter()
            .map(|a| (true, a))
            .chain(elsewhere.into_iter().map(|a| (false, a)))
        {
            match addr {
                IpAddr::V4(a) if !a.is_loopback() && !a.is_link_local() => {
                    found.v4.get_or_insert(*a);
                }
                IpAddr::V6(a) if same && a.is_unicast_link_local() => {
                    found.link_local.get_or_insert(*a);
                }
                IpAddr::V6(a) if !a.is_loopback() && !a.is_unicast_link_local() => {
                    found.v6.get_or_insert(*a);
                }
                _ => {}
            }
        }
        found
    }
}

/// All interface addresses with the names of their interfaces; none if the kernel does not tell.
fn interface_addrs() -> Vec<(String, IpAddr)> {
    let Ok(addrs) = getifaddrs() else {
        return Vec::new();
    };
    addrs
        .filter_map(|entry| {
            let addr = entry.address?;
            let ip = match (addr.as_sockaddr_in(), addr.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            Some((entry.interface_name, ip))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_interface_comes_first_and_loopback_and_foreign_link_locals_never() {
        let all: Vec<(String, IpAddr)> = [
            ("lo", "127.0.0.1"),
            ("eth1", "2001:db8:1::1"),
            ("eth1", "fe80::1"),
            ("eth0", "192.0.2.1"),
            ("eth0", "fe80::2"),
            ("eth0", "2001:db8::1"),
        ]
        .map(|(n, a)| (n.to_owned(), a.parse().unwrap()))
        .to_vec();
        let found = LocalAddrs::choose(&all, "192.0.2.1".parse().unwrap(), Some("eth0"));
        assert_eq!(found.v4, Some([192, 0, 2, 1].into()));
        assert_eq!(found.v6, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(found.link_local, Some("fe80::2".parse().unwrap()));
        let elsewhere = LocalAddrs::choose(&all[..4], "192.0.2.1".parse().unwrap(), Some("eth0"));
        assert_eq!(elsewhere.v6, Some("2001:db8:1::1".parse().unwrap()));
        assert_eq!(elsewhere.link_local, None);
    }
}
