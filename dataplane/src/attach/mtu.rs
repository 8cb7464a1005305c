//! The MTU of a pair that is there.
//!
//! The kernel silently drops what is larger than the receiving end takes, so both ends have to change at once, as nearly
//! as it goes: the container's first where it gets smaller, the host's first where it grows, and the record last. Whoever
//! is killed in between finds a record that differs, and does the rest.

use crate::link::{self, Link};
use crate::netlink::{Attributes, NetlinkError, RequestError, Socket, ifinfomsg, u32_from};

use super::netns::Netns;
use super::{AttachError, Record};

/// Of linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct rtgenmsg`, with what it is filled up by.
const RTGENMSG_LEN: usize = 4;

/// What both ends are to have: what they were made with, but for those that follow the path to other hosts.
pub(super) fn wanted(record: &Record, path: Option<u32>, may_grow: bool) -> u32 {
    let path = path.filter(|path| record.follows && (may_grow || *path < record.mtu));
    path.unwrap_or(record.mtu)
}

/// Gives both ends an MTU. The container's keeps one that somebody else gave it, unless that is too large.
///
/// Where the container cannot be reached, the host's end gets back what it was made with, and nothing else is changed.
pub(super) fn set(
    socket: &mut Socket,
    link: &Link,
    record: &Record,
    mtu: u32,
) -> Result<(), AttachError> {
    let fail = || AttachError::kernel("change the MTU", &link.name);
    let other = match other_end(socket, link, record) {
        Ok(other) => Some(other),
        Err(_) if mtu == record.mtu => None,
        Err(error) => return Err(error),
    };
    let other = other.and_then(|(socket, end)| {
        let is_as_made = end.mtu == record.mtu;
        (end.mtu > mtu || (is_as_made && end.mtu != mtu)).then_some((socket, end.index))
    });
    let mut ends = vec![(None, link.index)];
    ends.extend(other.map(|(socket, index)| (Some(socket), index)));
    if mtu < link.mtu {
        ends.reverse();
    }
    for (inside, index) in &mut ends {
        let socket = inside.as_mut().unwrap_or(socket);
        change(socket, *index, mtu).map_err(fail())?;
    }
    if record.mtu == mtu {
        return Ok(());
    }
    let record = Record {
        mtu,
        ..record.clone()
    };
    record.write(socket, link.index).map_err(fail())
}

fn change(socket: &mut Socket, index: u32, mtu: u32) -> Result<(), NetlinkError> {
    let changed = socket.request(libc::RTM_SETLINK, 0, &ifinfomsg(index, 0, 0), |m| {
        m.u32(libc::IFLA_MTU, mtu);
    });
    changed.map(drop)
}

/// The container's end, and a socket in its namespace.
fn other_end(
    socket: &mut Socket,
    link: &Link,
    record: &Record,
) -> Result<(Socket, Link), AttachError> {
    let name = &link.name;
    let look = || AttachError::kernel("look at the other end", name);
    let mut inside = match (link.peer_netns_id, &record.netns) {
        (None, _) => Socket::route().map_err(look())?,
        (Some(id), Some(path)) => {
            let netns = Netns::open(path)?;
            // The file may be of another container by now.
            if netns_id(socket, &netns).map_err(look())? != Some(id) {
                return Err(AttachError::OtherNetns {
                    netns: path.clone(),
                    ifname: name.clone(),
                });
            }
            netns.run(|| Socket::route().map_err(look()))?
        }
        (Some(_), None) => {
            return Err(AttachError::UnknownNetns {
                ifname: name.clone(),
            });
        }
    };
    let index = link.peer_index.unwrap_or_default();
    let found = link::by_index(&mut inside, index).map_err(look())?;
    let vanished = || RequestError {
        errno: libc::ENODEV,
        text: None,
    };
    let end = found.ok_or_else(|| look()(vanished().into()))?;
    Ok((inside, end))
}

/// By which number the host knows a namespace.
fn netns_id(socket: &mut Socket, netns: &Netns) -> Result<Option<i32>, NetlinkError> {
    use std::os::fd::AsRawFd;
    let header = [libc::AF_UNSPEC as u8];
    let answer = socket.request(libc::RTM_GETNSID, 0, &header, |m| {
        m.u32(NETNSA_FD, netns.file().as_raw_fd() as u32);
    })?;
    let id = answer.and_then(|answer| {
        let attributes = Attributes::after(&answer, RTGENMSG_LEN);
        attributes.find(NETNSA_NSID).and_then(u32_from)
    });
    Ok(id.map(|id| id as i32))
}
