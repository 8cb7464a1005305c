//! Routes as the kernel knows them, and the seam to it.

use std::cell::Cell;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::wire::{decode, encode, rtmsg};
use crate::netlink::{Batch, NetlinkError, Request, RequestError, Socket, family_of};

/// A lookup is to be answered with the route that matches.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// Lookups in one `send`.
const LOOKUPS: usize = 256;

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
