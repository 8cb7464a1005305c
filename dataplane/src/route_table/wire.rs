//! Routes as netlink messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{Action, Change, KernelHop, KernelRoute, RouteMtu};
use crate::netlink::{Attributes, Batch, RTA_VIA, Request, family_of, ip_bytes, ip_from, u32_from};

const RTMSG_LEN: usize = 12;
const RTNEXTHOP_LEN: usize = 8;
const RTM_F_CLONED: u32 = 0x200;
/// Members of `RTA_METRICS`.
const RTAX_LOCK: u16 = 1;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u8 = 4;

/// The kernel's `struct rtmsg`.
pub(super) fn rtmsg(
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

/// Adds a change to a batch.
pub(super) fn encode(batch: &mut Batch, table: u32, change: &Change) {
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
pub(super) fn decode(message: &[u8], table: u32) -> Option<KernelRoute> {
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
