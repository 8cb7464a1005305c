//! What all tunnel devices have: a link, addresses, switches.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::link::{self, Address, Link};
use crate::netlink::{
    Attributes, Batch, NetlinkError, Request, Socket, family_of, ifaddrmsg, ifinfomsg, string_from,
};
use crate::sysctl::{self, SysctlError};

const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
const UP: u32 = libc::IFF_UP as u32;
/// Loose reverse path filtering: while pools change their mode, the two directions of a connection may take different
/// ways for a moment, and strict filtering would drop one of them.
const LOOSE: &str = "2";

/// A link as it is.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) link: Link,
    /// What is particular to its kind, as attributes.
    pub(super) data: Vec<u8>,
    /// What somebody wrote on it.
    pub(super) alias: String,
}

impl Device {
    pub(super) fn is_vxlan(&self) -> bool {
        self.link.kind == "vxlan"
    }
}

/// The link of this name.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Device>, NetlinkError> {
    let answer = socket.request(libc::RTM_GETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, name);
    });
    match answer {
        Ok(message) => Ok(message.as_deref().and_then(parse)),
        Err(NetlinkError::Refused(error)) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All links of a kind.
pub(super) fn of_kind(socket: &mut Socket, kind: &str) -> Result<Vec<Device>, NetlinkError> {
    // Where the kernel knows the kind it leaves out the others: a host has hundreds.
    let ask = |m: &mut Request<'_>| {
        m.nest(libc::IFLA_LINKINFO, &[], |m| {
            m.string(libc::IFLA_INFO_KIND, kind)
        });
    };
    let read = |_, message: &[u8]| parse(message).filter(|device| device.link.kind == kind);
    socket.dump(libc::RTM_GETLINK, &ifinfomsg(0, 0, 0), ask, read)
}

fn parse(message: &[u8]) -> Option<Device> {
    let link = Link::parse(message)?;
    let attributes = Attributes::after(message, IFINFOMSG_LEN);
    let info = attributes.find(libc::IFLA_LINKINFO);
    let data = info.and_then(|info| Attributes::nested(info).find(libc::IFLA_INFO_DATA));
    Some(Device {
        index: link.index,
        data: data.unwrap_or_default().to_vec(),
        alias: attributes
            .find(libc::IFLA_IFALIAS)
            .map(string_from)
            .unwrap_or_default(),
        link,
    })
}

/// Removes a link; one that is not there is success.
pub(super) fn remove(socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
    match socket.request(libc::RTM_DELLINK, 0, &ifinfomsg(index, 0, 0), |_| {}) {
        Err(NetlinkError::Refused(error)) if error.is_missing() => Ok(()),
        other => other.map(drop),
    }
}

/// Brings hardware address, MTU and state to what is wanted. How much differed.
pub(super) fn adjust(
    socket: &mut Socket,
    device: &Device,
    mac: Option<[u8; 6]>,
    mtu: u32,
) -> Result<usize, NetlinkError> {
    let mut batch = Batch::new();
    let set = |batch: &mut Batch, kind: u16, value: &[u8]| {
        batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(device.index, 0, 0), |m| {
            m.bytes(kind, value);
        });
    };
    if let Some(mac) = mac.filter(|mac| device.link.mac != Some(*mac)) {
        set(&mut batch, libc::IFLA_ADDRESS, &mac);
    }
    if device.link.mtu != mtu {
        set(&mut batch, libc::IFLA_MTU, &mtu.to_ne_bytes());
    }
    if !device.link.up {
        let up = ifinfomsg(device.index, UP, UP);
        batch.push(libc::RTM_SETLINK, 0, &up, |_| {});
    }
    first_error(socket, &mut batch)
}

/// Takes a link down.
pub(super) fn down(socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
    let down = ifinfomsg(index, 0, UP);
    socket
        .request(libc::RTM_SETLINK, 0, &down, |_| {})
        .map(drop)
}

/// The switches of a device, set before it comes up. How many differed.
pub(super) fn switches(name: &str) -> Result<usize, SysctlError> {
    let mut changed = 0;
    for (key, value) in [
        (format!("net/ipv4/conf/{name}/rp_filter"), LOOSE),
        // No link-local address: nobody is to be found by multicast here.
        (format!("net/ipv6/conf/{name}/addr_gen_mode"), "1"),
    ] {
        match sysctl::read(&key) {
            Ok(found) if found == value => {}
            Err(error) if error.is_missing() && key.starts_with("net/ipv6") => {}
            _ => {
                sysctl::write(&key, value)?;
                changed += 1;
            }
        }
    }
    Ok(changed)
}

/// An address on a device, with its label.
#[derive(Debug)]
pub(super) struct Labelled {
    pub(super) address: Address,
    pub(super) label: String,
}

/// All addresses of a device.
pub(super) fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<Labelled>, NetlinkError> {
    let header = ifaddrmsg(libc::AF_UNSPEC as u8, 0, 0, 0, 0);
    let read = |_, message: &[u8]| {
        let address = Address::parse(message).filter(|address| address.index == index)?;
        let label = Attributes::after(message, IFADDRMSG_LEN).find(libc::IFA_LABEL);
        Some(Labelled {
            address,
            label: label.map(string_from).unwrap_or_default(),
        })
    };
    socket.dump(libc::RTM_GETADDR, &header, |_| {}, read)
}

/// Adds a full-length address; IPv4 ones with a label.
pub(super) fn add_address(
    socket: &mut Socket,
    index: u32,
    address: IpAddr,
    label: &str,
) -> Result<(), NetlinkError> {
    let address = IpNetwork::from(address);
    link::put_address(socket, index, address, libc::RT_SCOPE_UNIVERSE, Some(label))
}

/// Removes an address; one that is not there is success.
pub(super) fn remove_address(socket: &mut Socket, address: &Address) -> Result<(), NetlinkError> {
    let ip = address.address.ip();
    let header = ifaddrmsg(family_of(ip), address.address.prefix(), 0, 0, address.index);
    let removed = socket.request(libc::RTM_DELADDR, 0, &header, |m| {
        m.ip(libc::IFA_LOCAL, ip);
    });
    match removed {
        Err(NetlinkError::Refused(error)) if error.is_missing() => Ok(()),
        other => other.map(drop),
    }
}

/// Sends requests; how many there were, unless one was refused.
pub(super) fn first_error(socket: &mut Socket, batch: &mut Batch) -> Result<usize, NetlinkError> {
    let outcome = socket.transact(batch)?;
    match outcome.errors.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(batch.len()),
    }
}
