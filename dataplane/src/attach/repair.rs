//! What somebody changed of host ends is put right.

use std::collections::{BTreeMap, BTreeSet};

use super::{GATEWAY_V6, HOST_MAC, host};
use crate::link::{self, Link};
use crate::netlink::{NetlinkError, Socket, ifinfomsg};

const UP: u32 = libc::IFF_UP as u32;

/// Brings host ends up that are down, and gives them back the hardware address and the gateway's address that containers
/// have as their neighbour and their way out; the latter where `wanted` says that the container has IPv6. Returns how
/// much was wrong. An interface that is gone is left to whoever looks for its container.
///
/// # Errors
/// When the kernel cannot be asked. What it refuses to change is told in the log.
pub fn repair(wanted: &BTreeMap<&str, bool>) -> Result<usize, NetlinkError> {
    if wanted.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::route()?;
    let links = link::list(&mut socket, "")?;
    let addresses = link::addresses(&mut socket)?.into_iter();
    let gateways = addresses.filter(|address| address.address.ip() == GATEWAY_V6);
    let gateways: BTreeSet<u32> = gateways.map(|address| address.index).collect();
    let mut repaired = 0;
    for link in links.iter().filter(|link| link.kind == "veth") {
        let Some(ipv6) = wanted.get(link.name.as_str()) else {
            continue;
        };
        let has_gateway = !ipv6 || gateways.contains(&link.index);
        match repair_one(&mut socket, link, has_gateway) {
            Ok(some) => repaired += some,
            // It may go at this moment.
            Err(NetlinkError::Refused(error)) if error.is_missing() => {}
            Err(error) => {
                tracing::warn!(ifname = link.name, %error, "a host end is not as it should be");
            }
        }
    }
    Ok(repaired)
}

fn repair_one(socket: &mut Socket, link: &Link, has_gateway: bool) -> Result<usize, NetlinkError> {
    let mut repaired = 0;
    if link.mac != Some(HOST_MAC) {
        let header = ifinfomsg(link.index, 0, 0);
        socket.request(libc::RTM_SETLINK, 0, &header, |m| {
            m.bytes(libc::IFLA_ADDRESS, &HOST_MAC);
        })?;
        repaired += 1;
    }
    if !link.up {
        socket.request(libc::RTM_SETLINK, 0, &ifinfomsg(link.index, UP, UP), |_| {})?;
        repaired += 1;
    }
    if !has_gateway {
        host::add_gateway(socket, link.index, GATEWAY_V6)?;
        // With the interface, its address went as well.
        repaired += usize::from(link.up);
    }
    Ok(repaired)
}
