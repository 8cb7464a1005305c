//! Comparing an attachment with what it should be, for CNI CHECK.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::netns::Netns;
use super::{AttachError, AttachSpec, GATEWAY_V4, GATEWAY_V6};
use crate::link::{self, Link};
use crate::netlink::{NetlinkError, Socket};
use crate::route_table::{self, KernelRoute};

/// Everything that differs from the specification, in words; empty if all is well. Fails only if it cannot look.
pub fn check(spec: &AttachSpec, addresses: &[IpAddr]) -> Result<Vec<String>, AttachError> {
    let netns = match Netns::open(&spec.netns) {
        Ok(netns) => netns,
        Err(error) => return Ok(vec![error.to_string()]),
    };
    let look = AttachError::kernel("look at the host end", &spec.host_ifname);
    let mut found = host(spec, addresses).map_err(look)?;
    let look = AttachError::kernel("look at the container's end", &spec.container_ifname);
    found.extend(netns.run(|| container(spec, addresses).map_err(look))?);
    Ok(found)
}

fn host(spec: &AttachSpec, addresses: &[IpAddr]) -> Result<Vec<String>, NetlinkError> {
    let mut socket = Socket::route()?;
    let Some(link) = link::find(&mut socket, &spec.host_ifname)? else {
        return Ok(vec![format!(
            "interface {} is missing on the host",
            spec.host_ifname
        )]);
    };
    let mut found = differences(spec, &link, "on the host");
    for address in addresses {
        let path = link::route_get(&mut socket, *address)?;
        match path.as_ref().map(|p| p.ifname.as_str()) {
            Some(ifname) if ifname == spec.host_ifname => {}
            Some(ifname) => found.push(format!(
                "the host's route for {address} leaves by {ifname}, not by {}",
                spec.host_ifname
            )),
            None => found.push(format!("the host has no route for {address}")),
        }
    }
    Ok(found)
}

fn container(spec: &AttachSpec, addresses: &[IpAddr]) -> Result<Vec<String>, NetlinkError> {
    let mut socket = Socket::route()?;
    let place = format!("in {}", spec.netns.display());
    let Some(link) = link::find(&mut socket, &spec.container_ifname)? else {
        return Ok(vec![format!(
            "interface {} is missing {place}",
            spec.container_ifname
        )]);
    };
    let mut found = differences(spec, &link, &place);
    if let Some(mac) = spec.container_mac.filter(|mac| link.mac != Some(*mac)) {
        let is = link.mac.map_or_else(|| "none".to_owned(), text_of);
        let wanted = text_of(mac);
        found.push(format!(
            "interface {} has the hardware address {is} {place}, not {wanted}",
            link.name
        ));
    }
    let present = link::addresses(&mut socket)?;
    for address in addresses {
        let wanted = IpNetwork::from(*address);
        if !present
            .iter()
            .any(|a| a.index == link.index && a.address == wanted)
        {
            found.push(format!(
                "address {wanted} is missing on {} {place}",
                link.name
            ));
        }
    }
    // In whatever table: those of a further interface have their own, and plugins behind us move routes.
    let routes = route_table::dump_all(&mut socket)?;
    for (has_family, network, gateway) in [
        (
            IpAddr::is_ipv4 as fn(&IpAddr) -> bool,
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            GATEWAY_V4.into(),
        ),
        (
            IpAddr::is_ipv6,
            Ipv6Addr::UNSPECIFIED.into(),
            GATEWAY_V6.into(),
        ),
    ] {
        if addresses.iter().any(has_family) && !has_default(&routes, network, gateway, link.index) {
            found.push(format!(
                "the default route via {gateway} is missing {place}"
            ));
        }
    }
    if addresses.iter().any(IpAddr::is_ipv4) && !reaches_gateway(&routes, link.index) {
        found.push(format!("the route to {GATEWAY_V4} is missing {place}"));
    }
    Ok(found)
}

fn differences(spec: &AttachSpec, link: &Link, place: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !link.up {
        found.push(format!("interface {} is down {place}", link.name));
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu != link.mtu) {
        found.push(format!(
            "interface {} has MTU {} {place}, not {mtu}",
            link.name, link.mtu
        ));
    }
    found
}

fn text_of(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn has_default(routes: &[KernelRoute], network: IpAddr, gateway: IpAddr, index: u32) -> bool {
    routes.iter().any(|route| {
        route.prefix.prefix() == 0
            && route.prefix.ip() == network
            && route
                .hops
                .iter()
                .any(|h| h.gateway == Some(gateway) && h.index == Some(index))
    })
}

fn reaches_gateway(routes: &[KernelRoute], index: u32) -> bool {
    let wanted = IpNetwork::from(IpAddr::V4(GATEWAY_V4));
    routes
        .iter()
        .any(|r| r.prefix == wanted && r.hops.iter().any(|h| h.index == Some(index)))
}
