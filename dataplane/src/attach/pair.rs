//! Pairs whose other end the runtime moves into the container, names, gives its addresses and sets up itself.
//!
//! Nobody can give such a container neighbour entries beforehand, so its gateways answer for themselves: the IPv6 one is
//! an address of the host end, the IPv4 one an address of `lo` with host scope, which the kernel answers ARP for on every
//! interface and never chooses as a source. Such a runtime may attach a container several times, and routes to one
//! gateway on two interfaces exclude each other: each attachment has gateways of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{AttachError, AttachSpec, Attached, GATEWAY_V4, GATEWAY_V6, Record, host};
use crate::link;
use crate::netlink::{NetlinkError, Socket};

const LOOPBACK_INDEX: u32 = 1;

/// How many attachments of a container have gateways of their own.
pub const GATEWAYS: u8 = 64;

/// The gateways of a container's attachment, numbered from 0: those that every container has, and the addresses behind
/// them.
pub const fn gateways(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v4 = Ipv4Addr::from_bits(GATEWAY_V4.to_bits() + number as u32);
    let v6 = Ipv6Addr::from_bits(GATEWAY_V6.to_bits() + number as u128);
    (v4, v6)
}

/// Makes the pair with both ends in the calling thread's namespace and the container's end down. `spec.netns` and
/// `spec.container_forwarding` do not matter.
pub fn create_pair(spec: &AttachSpec) -> Result<Attached, AttachError> {
    let open = AttachError::kernel("open a netlink socket", &spec.host_ifname);
    let mut socket = Socket::route().map_err(open)?;
    let link = host::create_link(&mut socket, spec, None)?;
    match host::prepare(&mut socket, spec, &link) {
        Ok(()) => Ok(link),
        Err(error) => {
            host::discard(&spec.host_ifname);
            Err(error)
        }
    }
}

/// Whether both ends of the pair are in the calling thread's namespace under their names.
pub fn is_here(spec: &AttachSpec) -> Result<bool, AttachError> {
    let fail = || AttachError::kernel("look for the pair", &spec.host_ifname);
    let mut socket = Socket::route().map_err(|e| fail()(e))?;
    let host = link::find(&mut socket, &spec.host_ifname).map_err(fail())?;
    let other = link::find(&mut socket, &spec.container_ifname).map_err(fail())?;
    Ok(matches!((host, other), (Some(host), Some(other))
        if host.peer_netns_id.is_none() && host.peer_index == Some(other.index)))
}

/// Sees to it that the gateways of attachment `number` answer. `host_ifname` must exist; the IPv6 one is left out where
/// it has no IPv6.
pub fn serve_gateways(host_ifname: &str, number: u8, ipv6: bool) -> Result<(), AttachError> {
    let fail = || AttachError::kernel("add the gateway's address", host_ifname);
    let mut socket = Socket::route().map_err(|e| fail()(e))?;
    let (v4, v6) = gateways(number);
    add_to_loopback(&mut socket, v4.into()).map_err(fail())?;
    if !ipv6 || number == 0 {
        // The first is there since the pair was made.
        return Ok(());
    }
    let found = link::find(&mut socket, host_ifname).map_err(fail())?;
    match found {
        Some(link) => host::add_gateway(&mut socket, link.index, v6).map_err(fail()),
        None => Ok(()),
    }
}

/// Whoever has the pair is about to move the container's end into this namespace. A host end that is gone, or has nothing
/// written on it, is nobody's.
pub fn moves_to(host_ifname: &str, netns: &Path) -> Result<(), AttachError> {
    let fail = || AttachError::kernel("note the namespace of the other end", host_ifname);
    let mut socket = Socket::route().map_err(|e| fail()(e))?;
    let found = link::find(&mut socket, host_ifname).map_err(fail())?;
    let Some((link, record)) = found.and_then(|link| Record::of(&link).map(|r| (link, r))) else {
        return Ok(());
    };
    let record = Record {
        netns: Some(netns.into()),
        ..record
    };
    record.write(&mut socket, link.index).map_err(fail())
}

/// Gives the host an address that only it and its containers can reach. One that is there already is success.
pub fn add_host_address(address: IpAddr) -> Result<(), AttachError> {
    let fail = || AttachError::kernel("add an address", "lo");
    let mut socket = Socket::route().map_err(|e| fail()(e))?;
    add_to_loopback(&mut socket, address).map_err(fail())
}

fn add_to_loopback(socket: &mut Socket, address: IpAddr) -> Result<(), NetlinkError> {
    link::put_address(
        socket,
        LOOPBACK_INDEX,
        address.into(),
        libc::RT_SCOPE_HOST,
        None,
    )
}
