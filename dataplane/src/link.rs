//! Interfaces and addresses of a namespace, and which interface a destination leaves by.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::netlink::{
    Attributes, NetlinkError, RTA_VIA, Socket, family_of, ifaddrmsg, ifinfomsg, ip_from,
    string_from, u32_from,
};
use crate::route_table::route_mtu;

const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
const RTMSG_LEN: usize = 12;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, when it has one of 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has a carrier too.
    pub running: bool,
    /// The index of the interface at the other end of a veth pair.
    pub peer_index: Option<u32>,
    /// The kernel's id, in this namespace, of the namespace the other end is in; none if it is in this one.
    pub peer_netns_id: Option<i32>,
    /// The kind the kernel was asked for, such as `veth` or `bridge`; empty for physical interfaces.
    pub kind: String,
    /// What somebody wrote on it; mostly empty.
    pub alias: String,
}

impl Link {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK`.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let flags = u32_from(message.get(8..)?)?;
        let mut link = Self {
            index: u32_from(message.get(4..)?)?,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: flags & libc::IFF_UP as u32 != 0,
            running: flags & libc::IFF_LOWER_UP as u32 != 0,
            peer_index: None,
            peer_netns_id: None,
            kind: String::new(),
            alias: String::new(),
        };
        for (kind, value) in Attributes::after(message, IFINFOMSG_LEN) {
            match kind {
                libc::IFLA_IFNAME => link.name = string_from(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                libc::IFLA_MTU => link.mtu = u32_from(value)?,
                libc::IFLA_IFALIAS => link.alias = string_from(value),
                libc::IFLA_LINK => link.peer_index = u32_from(value),
                libc::IFLA_LINK_NETNSID => link.peer_netns_id = u32_from(value).map(|v| v as i32),
                libc::IFLA_LINKINFO => {
                    let kind = Attributes::nested(value).find(libc::IFLA_INFO_KIND);
                    link.kind = kind.map(string_from).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// All interfaces whose name starts with `prefix`; an empty prefix means all.
pub fn list(socket: &mut Socket, prefix: &str) -> Result<Vec<Link>, NetlinkError> {
    let wanted = |link: &Link| link.name.starts_with(prefix);
    let read = |_, message: &[u8]| Link::parse(message).filter(wanted);
    socket.dump(libc::RTM_GETLINK, &ifinfomsg(0, 0, 0), |_| {}, read)
}

/// The interface of this name.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    one(
        socket.request(libc::RTM_GETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
            m.string(libc::IFLA_IFNAME, name);
        }),
    )
}

/// The interface of this index.
pub fn by_index(socket: &mut Socket, index: u32) -> Result<Option<Link>, NetlinkError> {
    one(socket.request(libc::RTM_GETLINK, 0, &ifinfomsg(index, 0, 0), |_| {}))
}

fn one(answer: Result<Option<Vec<u8>>, NetlinkError>) -> Result<Option<Link>, NetlinkError> {
    match answer {
        Ok(message) => Ok(message.as_deref().and_then(Link::parse)),
        Err(NetlinkError::Refused(error)) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub index: u32,
    /// The address, with the length of its prefix.
    pub address: IpNetwork,
    /// Whether it is usable beyond its link or host.
    pub global: bool,
}

impl Address {
    /// Reads an `RTM_NEWADDR` or `RTM_DELADDR`.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let prefix_len = *message.get(1)?;
        let attributes = Attributes::after(message, IFADDRMSG_LEN);
        // On a point-to-point link IFA_ADDRESS is the other side and IFA_LOCAL our own.
        let local = attributes
            .find(libc::IFA_LOCAL)
            .or_else(|| attributes.find(libc::IFA_ADDRESS));
        Some(Self {
            index: u32_from(message.get(4..)?)?,
            address: IpNetwork::new(ip_from(local?)?, prefix_len).ok()?,
            global: *message.get(3)? == libc::RT_SCOPE_UNIVERSE,
        })
    }
}

/// Gives an interface an address, as it is or again; IPv6 without looking for duplicates. IPv4 ones may have a label.
pub(crate) fn put_address(
    socket: &mut Socket,
    index: u32,
    address: IpNetwork,
    scope: u8,
    label: Option<&str>,
) -> Result<(), NetlinkError> {
    let ip = address.ip();
    let flags = match ip {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => libc::IFA_F_NODAD as u8,
    };
    let header = ifaddrmsg(family_of(ip), address.prefix(), flags, scope, index);
    let put = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let added = socket.request(libc::RTM_NEWADDR, put, &header, |m| {
        m.ip(libc::IFA_LOCAL, ip);
        m.ip(libc::IFA_ADDRESS, ip);
        if let (Some(label), IpAddr::V4(_)) = (label, ip) {
            m.string(libc::IFA_LABEL, label);
        }
    });
    added.map(drop)
}

/// All addresses of the namespace, both families.
pub fn addresses(socket: &mut Socket) -> Result<Vec<Address>, NetlinkError> {
    let header = ifaddrmsg(libc::AF_UNSPEC as u8, 0, 0, 0, 0);
    socket.dump(
        libc::RTM_GETADDR,
        &header,
        |_| {},
        |_, message| Address::parse(message),
    )
}

/// How the host reaches a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The interface that packets leave by.
    pub ifname: String,
    /// The router they go to; none when the destination is on the interface's link.
    pub gateway: Option<IpAddr>,
    /// The source address the kernel would choose.
    pub src: Option<IpAddr>,
    /// The largest packet in bytes: the route's own limit, else the interface's.
    pub mtu: u32,
    /// The route's own limit to the size of packets, if it has one.
    pub route_mtu: Option<u32>,
    /// Protocol number of the route that matched: who made it.
    pub protocol: u8,
}

/// Asks the kernel for its way to `dst`; none if there is none.
pub fn route_get(socket: &mut Socket, dst: IpAddr) -> Result<Option<Path>, NetlinkError> {
    let Some(chosen) = look_up(socket, dst, 0)? else {
        return Ok(None);
    };
    let attributes = Attributes::after(&chosen, RTMSG_LEN);
    let Some(index) = attributes.find(libc::RTA_OIF).and_then(u32_from) else {
        return Ok(None);
    };
    let gateway = attributes
        .find(libc::RTA_GATEWAY)
        .and_then(ip_from)
        .or_else(|| {
            // An IPv4 route through an IPv6 router: the family in two octets, then the address.
            attributes
                .find(RTA_VIA)
                .and_then(|via| ip_from(via.get(2..)?))
        });
    let src = attributes.find(libc::RTA_PREFSRC).and_then(ip_from);
    // The answer to a look-up has a protocol of its own; only the matched route tells who made it.
    let Some(matched) = look_up(socket, dst, RTM_F_FIB_MATCH)? else {
        return Ok(None);
    };
    let protocol = matched.get(5).copied().unwrap_or(libc::RTPROT_UNSPEC);
    let route_mtu = route_mtu(attributes).map(|mtu| mtu.bytes);
    let link = by_index(socket, index)?;
    Ok(link.map(|link| Path {
        ifname: link.name,
        gateway,
        src,
        mtu: route_mtu.map_or(link.mtu, |bytes| bytes.min(link.mtu)),
        route_mtu,
        protocol,
    }))
}

/// The index of the interface through which packets to `dst` leave; none if there is no way. Less to ask than
/// [`route_get`].
pub fn leaves_by(socket: &mut Socket, dst: IpAddr) -> Result<Option<u32>, NetlinkError> {
    let chosen = look_up(socket, dst, 0)?;
    let index = |chosen: &[u8]| {
        Attributes::after(chosen, RTMSG_LEN)
            .find(libc::RTA_OIF)
            .and_then(u32_from)
    };
    Ok(chosen.as_deref().and_then(index))
}

/// `RTM_F_FIB_MATCH` of linux/rtnetlink.h: answer with the route that matches, not with the way taken.
const RTM_F_FIB_MATCH: u32 = 0x2000;

/// What a route that leads nowhere answers: none or `unreachable`, `blackhole`, `prohibit`, `throw`.
const NO_WAY: [i32; 5] = [
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EINVAL,
    libc::EACCES,
    libc::EAGAIN,
];

fn look_up(socket: &mut Socket, dst: IpAddr, flags: u32) -> Result<Option<Vec<u8>>, NetlinkError> {
    let mut header = [0; RTMSG_LEN];
    header[0] = family_of(dst);
    header[1] = if dst.is_ipv4() { 32 } else { 128 };
    header[8..].copy_from_slice(&flags.to_ne_bytes());
    match socket.request(libc::RTM_GETROUTE, 0, &header, |m| m.ip(libc::RTA_DST, dst)) {
        Err(NetlinkError::Refused(e)) if e.is_missing() || NO_WAY.contains(&e.errno) => Ok(None),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::NetNs;

    #[test]
    fn links_addresses_and_paths_are_read_back() {
        let ns = NetNs::new();
        let far = NetNs::new();
        ns.ip(&format!(
            "link add mgy1 mtu 1400 type veth peer name up0 netns {}",
            far.name()
        ));
        ns.ip("link set mgy1 address 02:00:00:00:00:07 up");
        far.ip("link set up0 up");
        ns.ip("addr add 192.0.2.1/30 dev mgy1");
        ns.ip("addr add 2001:db8::1/64 dev mgy1 nodad");
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            let links = list(&mut socket, "mgy").unwrap();
            assert_eq!(links.len(), 1, "{links:?}");
            let link = find(&mut socket, "mgy1").unwrap().unwrap();
            assert_eq!(links[0].index, link.index);
            assert_eq!(
                (link.mtu, link.up, link.kind.as_str()),
                (1400, true, "veth")
            );
            assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 7]));
            assert!(
                link.peer_index.is_some() && link.peer_netns_id.is_some(),
                "{link:?}"
            );
            assert_eq!(find(&mut socket, "nope").unwrap(), None);
            assert_eq!(by_index(&mut socket, 4_000_000).unwrap(), None);

            let addresses = addresses(&mut socket).unwrap();
            let of = |a: &str| {
                addresses
                    .iter()
                    .any(|x| x.address == a.parse().unwrap() && x.global)
            };
            assert!(of("192.0.2.1/30") && of("2001:db8::1/64"), "{addresses:?}");

            let path = route_get(&mut socket, "192.0.2.2".parse().unwrap())
                .unwrap()
                .unwrap();
            let on_link = Path {
                ifname: "mgy1".into(),
                gateway: None,
                src: Some("192.0.2.1".parse().unwrap()),
                mtu: 1400,
                route_mtu: None,
                protocol: libc::RTPROT_KERNEL,
            };
            assert_eq!(path, on_link);
            let path = route_get(&mut socket, "2001:db8::9".parse().unwrap())
                .unwrap()
                .unwrap();
            assert_eq!((path.ifname.as_str(), path.mtu), ("mgy1", 1400));
            assert_eq!(
                route_get(&mut socket, "198.51.100.1".parse().unwrap()).unwrap(),
                None
            );
            ns.ip("route add 198.51.100.0/24 via 192.0.2.2 mtu lock 1300 proto 99");
            let path = route_get(&mut socket, "198.51.100.1".parse().unwrap())
                .unwrap()
                .unwrap();
            assert_eq!(path.gateway, Some("192.0.2.2".parse().unwrap()));
            assert_eq!(path.protocol, 99);
            assert_eq!((path.mtu, path.route_mtu), (1300, Some(1300)));
            assert_eq!(
                route_get(&mut socket, "2001:db9::1".parse().unwrap()).unwrap(),
                None
            );
        });
    }

    #[test]
    fn routes_that_lead_nowhere_are_no_way() {
        let ns = NetNs::new();
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            for kind in ["blackhole", "prohibit", "unreachable", "throw"] {
                for dst in ["198.51.100.1", "2001:db9::1"] {
                    ns.ip(&format!("route add {kind} {dst}"));
                    let dst = dst.parse().unwrap();
                    assert_eq!(leaves_by(&mut socket, dst).unwrap(), None, "{kind} {dst}");
                    assert_eq!(route_get(&mut socket, dst).unwrap(), None, "{kind} {dst}");
                    ns.ip(&format!("route del {dst}"));
                }
            }
        });
    }

    #[test]
    fn the_kernels_own_text_is_in_the_error() {
        let ns = NetNs::new();
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            let header = ifinfomsg(0, 0, 0);
            let refused = socket.request(libc::RTM_NEWLINK, libc::NLM_F_CREATE, &header, |m| {
                m.string(libc::IFLA_IFNAME, "x");
                m.nest(libc::IFLA_LINKINFO, &[], |m| {
                    m.string(libc::IFLA_INFO_KIND, "nonsense")
                });
            });
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("Unknown device type"), "{text}");
        });
    }
}
