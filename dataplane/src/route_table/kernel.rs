//! Routes as the kernel knows them, and the seam to it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::netlink::{
    Attributes, Batch, NetlinkError, RTA_VIA, Request, RequestError, Socket, family_of, ip_bytes,
    ip_from, u32_from,
};

const RTMSG_LEN: usize = 12;
const RTNEXTHOP_LEN: usize = 8;
const RTM_F_CLONED: u32 = 0x200;
/// A lookup is to be answered with the route that matches.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// Lookups in one `send`.
const LOOKUPS: usize = 256;
/// Members of `RTA_METRICS`.
const RTAX_LOCK: u16 = 1;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u8 = 4;

/// A route in a kernel table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRoute {
    /// Destination.
    pub prefix: IpNetwork,
    /// Who put it there: an `RTPROT_` number.
    pub protocol: u8,
    /// Preference among routes for the same prefix, lowest first.
    pub metric: u32,
    /// An `RTN_` number, such as unicast or blackhole.
    pub kind: u8,
    /// Source address for packets of the host's own.
    pub src: Option<IpAddr>,
    /// What the route says of the size of packets.
    pub mtu: Option<RouteMtu>,
    /// Where to; empty for a blackhole, more than one for multipath.
    pub hops: Vec<KernelHop>,
}

/// The size of packets that a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteMtu {
    /// In bytes.
    pub bytes: u32,
    /// Whether it holds whatever routers on the way report.
    pub locked: bool,
}

/// One way of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHop {
    /// The next router; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface; none lets the kernel look it up by the gateway.
    pub index: Option<u32>,
    /// Take the gateway for reachable on the interface without looking it up.
    pub onlink: bool,
    /// Share of the traffic, 1 to 256.
    pub weight: u16,
}

/// What to do with a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Add it; fails with `EEXIST` if the prefix has a route of the same metric, whoever's it is.
    Add,
    /// Put it in the place of the route with the same prefix and metric.
    Replace,
    /// Delete it, matching prefix, metric and protocol.
    Delete,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What to do.
    pub action: Action,
    /// The route; for a deletion only prefix, metric and protocol count.
    pub route: KernelRoute,
}

/// The kernel as the route table sees it.
pub trait RouteKernel {
    /// Makes changes in order, each by itself. Returns those that failed, by their place.
    fn send(
        &mut self,
        table: u32,
        changes: &[Change],
    ) -> Result<Vec<(usize, RequestError)>, NetlinkError>;

    /// All routes of a table, of one protocol or of all.
    fn dump(&mut self, table: u32, protocol: Option<u8>) -> Result<Vec<KernelRoute>, NetlinkError>;

    /// Whether a table has more routes of a protocol than this.
    fn has_more_than(
        &mut self,
        table: u32,
        protocol: u8,
        most: usize,
    ) -> Result<bool, NetlinkError>;

    /// The routes of a table to these single addresses, where they have any.
    fn to_hosts(
        &mut self,
        table: u32,
        prefixes: &[IpNetwork],
    ) -> Result<Vec<Option<KernelRoute>>, NetlinkError>;

    /// The index of an interface.
    fn link_index(&mut self, ifname: &str) -> Result<Option<u32>, NetlinkError>;
}

impl RouteKernel for Socket {
    fn send(
        &mut self,
        table: u32,
        changes: &[Change],
    ) -> Result<Vec<(usize, RequestError)>, NetlinkError> {
        let mut batch = Batch::new();
        for change in changes {
            encode(&mut batch, table, change);
        }
        Ok(self.transact(&mut batch)?.errors)
    }

    fn dump(&mut self, table: u32, protocol: Option<u8>) -> Result<Vec<KernelRoute>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let header = rtmsg(family, 0, table, protocol.unwrap_or(0), 0, 0, 0);
            let fill = |m: &mut Request<'_>| m.u32(libc::RTA_TABLE, table);
            let read = |_, message: &[u8]| decode(message, table);
            match Self::dump(self, libc::RTM_GETROUTE, &header, fill, read) {
                Ok(found) => routes.extend(found),
                // No route was ever added to this table.
                Err(NetlinkError::Refused(error)) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        routes.retain(|route| protocol.is_none_or(|p| route.protocol == p));
        Ok(routes)
    }

    fn has_more_than(
        &mut self,
        table: u32,
        protocol: u8,
        most: usize,
    ) -> Result<bool, NetlinkError> {
        let seen = Cell::new(0);
        has(table, protocol, || {
            seen.set(seen.get() + 1);
            seen.get() > most
        })
    }

    fn to_hosts(
        &mut self,
        table: u32,
        prefixes: &[IpNetwork],
    ) -> Result<Vec<Option<KernelRoute>>, NetlinkError> {
        let mut found = Vec::with_capacity(prefixes.len());
        for some in prefixes.chunks(LOOKUPS) {
            let mut batch = Batch::new();
            for prefix in some {
                let mut header = rtmsg(family_of(prefix.ip()), prefix.prefix(), 0, 0, 0, 0, 0);
                header[8..12].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
                batch.push(libc::RTM_GETROUTE, 0, &header, |m| {
                    m.ip(libc::RTA_DST, prefix.network());
                });
            }
            let outcome = self.transact(&mut batch)?;
            found.extend(some.iter().enumerate().map(|(place, prefix)| {
                let route = decode(&outcome.answer(place)?.payload, table)?;
                (route.prefix == *prefix).then_some(route)
            }));
        }
        Ok(found)
    }

    fn link_index(&mut self, ifname: &str) -> Result<Option<u32>, NetlinkError> {
        // Not by RTM_GETLINK, which takes the lock of all configuration: a container's ADD would wait here while others
        // are being removed.
        match if_nametoindex(ifname) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::ENODEV) => Ok(None),
            Err(errno) => Err(NetlinkError::Socket {
                action: "interface lookup",
                source: errno.into(),
            }),
        }
    }
}

/// Whether a table of the calling thread's network namespace holds a route of this protocol; costs the same however
/// many there are.
pub fn has_route_of(table: u32, protocol: u8) -> Result<bool, NetlinkError> {
    has(table, protocol, || true)
}

/// Reads routes of a protocol, in sockets of its own, until `enough` at one of them.
fn has(table: u32, protocol: u8, enough: impl Fn() -> bool) -> Result<bool, NetlinkError> {
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let header = rtmsg(family, 0, table, protocol, 0, 0, 0);
        let fill = |m: &mut Request<'_>| m.u32(libc::RTA_TABLE, table);
        let is = |message: &[u8]| {
            decode(message, table).is_some_and(|route| route.protocol == protocol) && enough()
        };
        match Socket::route()?.dump_has(libc::RTM_GETROUTE, &header, fill, is) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // No route was ever added to this table.
            Err(NetlinkError::Refused(error)) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The kernel's `struct rtmsg`.
fn rtmsg(
    family: u8,
    prefix_len: u8,
    table: u32,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u8,
) -> [u8; RTMSG_LEN] {
    // Numbers above 255 travel in RTA_TABLE only.
    let table = u8::try_from(table).unwrap_or(libc::RT_TABLE_UNSPEC);
    let mut header = [
        family, prefix_len, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0,
    ];
    header[8..12].copy_from_slice(&u32::from(flags).to_ne_bytes());
    header
}

fn encode(batch: &mut Batch, table: u32, change: &Change) {
    let route = &change.route;
    let family = family_of(route.prefix.ip());
    let bits = route.prefix.prefix();
    let common = |m: &mut Request<'_>| {
        if bits > 0 {
            m.ip(libc::RTA_DST, route.prefix.network());
        }
        m.u32(libc::RTA_TABLE, table);
        m.u32(libc::RTA_PRIORITY, route.metric);
    };
    let flags = match change.action {
        Action::Add => libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        Action::Replace => libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        Action::Delete => {
            // Any scope and any kind, but only our own protocol.
            let any = libc::RT_SCOPE_NOWHERE;
            let header = rtmsg(
                family,
                bits,
                table,
                route.protocol,
                any,
                libc::RTN_UNSPEC,
                0,
            );
            batch.push(libc::RTM_DELROUTE, 0, &header, common);
            return;
        }
    };
    let on_link = !route.hops.is_empty() && route.hops.iter().all(|h| h.gateway.is_none());
    let scope = if on_link {
        libc::RT_SCOPE_LINK
    } else {
        libc::RT_SCOPE_UNIVERSE
    };
    let hop_flags = match &route.hops[..] {
        [hop] if hop.onlink => RTNH_F_ONLINK,
        _ => 0,
    };
    let header = rtmsg(
        family,
        bits,
        table,
        route.protocol,
        scope,
        route.kind,
        hop_flags,
    );
    batch.push(libc::RTM_NEWROUTE, flags, &header, |m| {
        common(m);
        if let Some(src) = route.src {
            m.ip(libc::RTA_PREFSRC, src);
        }
        if let Some(mtu) = route.mtu {
            m.nest(libc::RTA_METRICS, &[], |m| {
                m.u32(RTAX_MTU, mtu.bytes);
                m.u32(RTAX_LOCK, u32::from(mtu.locked) << RTAX_MTU);
            });
        }
        match &route.hops[..] {
            [] => {}
            [hop] => {
                put_gateway(m, route.prefix, hop);
                if let Some(index) = hop.index {
                    m.u32(libc::RTA_OIF, index);
                }
            }
            hops => m.nest(libc::RTA_MULTIPATH, &[], |m| {
                for hop in hops {
                    let flags = if hop.onlink { RTNH_F_ONLINK } else { 0 };
                    let more = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
                    m.next_hop(flags, more, hop.index.unwrap_or(0), |m| {
                        put_gateway(m, route.prefix, hop);
                    });
                }
            }),
        }
    });
}

/// An IPv4 route via an IPv6 router (RFC 5549) names the family with the gateway.
fn put_gateway(m: &mut Request<'_>, prefix: IpNetwork, hop: &KernelHop) {
    match hop.gateway {
        None => {}
        Some(gateway) if gateway.is_ipv4() == prefix.is_ipv4() => m.ip(libc::RTA_GATEWAY, gateway),
        Some(gateway) => {
            let (bytes, len) = ip_bytes(gateway);
            let mut via = u16::from(family_of(gateway)).to_ne_bytes().to_vec();
            via.extend_from_slice(&bytes[..len]);
            m.bytes(RTA_VIA, &via);
        }
    }
}

/// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE`; nothing if it is of another table, or a cache entry.
pub(crate) fn decode(message: &[u8], table: u32) -> Option<KernelRoute> {
    let header = message.get(..RTMSG_LEN)?;
    let attributes = Attributes::after(message, RTMSG_LEN);
    let its_table = attributes.find(libc::RTA_TABLE).and_then(u32_from);
    if its_table.unwrap_or_else(|| u32::from(header[4])) != table {
        return None;
    }
    decode_any(message)
}

/// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE` of any table.
pub(crate) fn decode_any(message: &[u8]) -> Option<KernelRoute> {
    let header = message.get(..RTMSG_LEN)?;
    let attributes = Attributes::after(message, RTMSG_LEN);
    let flags = u32_from(&header[8..])?;
    if flags & RTM_F_CLONED != 0 {
        return None;
    }
    let unspecified = match i32::from(header[0]) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let destination = attributes
        .find(libc::RTA_DST)
        .and_then(ip_from)
        .unwrap_or(unspecified);
    let kind = header[7];
    let mut hops = Vec::new();
    if kind == libc::RTN_UNICAST {
        if let Some(multipath) = attributes.find(libc::RTA_MULTIPATH) {
            hops = decode_hops(multipath);
        } else {
            let index = attributes.find(libc::RTA_OIF).and_then(u32_from);
            let onlink = flags & u32::from(RTNH_F_ONLINK) != 0;
            hops.push(KernelHop {
                gateway: gateway_of(attributes),
                index,
                onlink,
                weight: 1,
            });
        }
    }
    Some(KernelRoute {
        prefix: IpNetwork::new(destination, header[1]).ok()?,
        protocol: header[5],
        metric: attributes
            .find(libc::RTA_PRIORITY)
            .and_then(u32_from)
            .unwrap_or(0),
        kind,
        src: attributes.find(libc::RTA_PREFSRC).and_then(ip_from),
        mtu: route_mtu(attributes),
        hops,
    })
}

/// What `RTA_METRICS` says of the MTU.
pub(crate) fn route_mtu(attributes: Attributes<'_>) -> Option<RouteMtu> {
    let metrics = Attributes::nested(attributes.find(libc::RTA_METRICS)?);
    let locks = metrics.find(RTAX_LOCK).and_then(u32_from).unwrap_or(0);
    Some(RouteMtu {
        bytes: metrics.find(RTAX_MTU).and_then(u32_from)?,
        locked: locks & (1 << RTAX_MTU) != 0,
    })
}

fn decode_hops(mut bytes: &[u8]) -> Vec<KernelHop> {
    let mut hops = Vec::new();
    while let Some(header) = bytes.get(..RTNEXTHOP_LEN) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(hop) = bytes.get(RTNEXTHOP_LEN..length) else {
            break;
        };
        hops.push(KernelHop {
            gateway: gateway_of(Attributes::nested(hop)),
            index: u32_from(&header[4..]),
            onlink: header[2] & RTNH_F_ONLINK != 0,
            weight: u16::from(header[3]) + 1,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

fn gateway_of(attributes: Attributes<'_>) -> Option<IpAddr> {
    let via = || {
        attributes
            .find(RTA_VIA)
            .and_then(|v| v.get(2..))
            .and_then(ip_from)
    };
    attributes
        .find(libc::RTA_GATEWAY)
        .and_then(ip_from)
        .or_else(via)
}
