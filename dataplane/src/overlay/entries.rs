//! The forwarding table and the neighbours of a VXLAN device: which host a packet goes to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::vxlan::Peer;
use crate::netlink::{
    Attributes, Batch, NetlinkError, Request, Socket, family_of, ip_from, ndmsg, u32_from,
};

type Mac = [u8; 6];

const NDMSG_LEN: usize = 12;
const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;
const PERMANENT: u16 = libc::NUD_PERMANENT;
/// Entries in one `send`.
const BATCH: usize = 256;

/// What a device has.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Hardware address and host, and whether it is there for good.
    fdb: BTreeMap<(Mac, Option<IpAddr>), bool>,
    /// Hardware address, and whether it is there for good.
    neighbours: BTreeMap<IpAddr, (Mac, bool)>,
}

impl Entries {
    /// Reads those of one device.
    pub(super) fn read(socket: &mut Socket, index: u32, v4: bool) -> Result<Self, NetlinkError> {
        let mut entries = Self::default();
        let mut header = dump_header(AF_BRIDGE);
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let read = |_, message: &[u8]| of_device(message, index);
        for (mac, dst, state) in socket.dump(libc::RTM_GETNEIGH, &header, |_| {}, read)? {
            entries.fdb.insert((mac, dst), state & PERMANENT != 0);
        }
        let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
        let header = dump_header(family as u8);
        let one_device = |m: &mut Request<'_>| m.u32(libc::NDA_IFINDEX, index);
        for (mac, dst, state) in socket.dump(libc::RTM_GETNEIGH, &header, one_device, read)? {
            // Multicast, which the kernel enters by itself and which goes nowhere.
            if let Some(ip) = dst.filter(|_| state & libc::NUD_NOARP == 0) {
                entries.neighbours.insert(ip, (mac, state & PERMANENT != 0));
            }
        }
        Ok(entries)
    }

    /// Enters what is missing or different. How much it was.
    pub(super) fn add(
        &self,
        socket: &mut Socket,
        index: u32,
        peers: &BTreeMap<IpAddr, Peer>,
    ) -> Result<usize, NetlinkError> {
        let mut sender = Sender::new(socket);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        for (vtep, peer) in peers {
            if self.fdb.get(&(peer.mac, Some(peer.host))) != Some(&true) {
                let mut header = fdb_header(index);
                header[8..10].copy_from_slice(&(PERMANENT | libc::NUD_NOARP).to_ne_bytes());
                sender.push(libc::RTM_NEWNEIGH, flags, &header, |m| {
                    m.bytes(libc::NDA_LLADDR, &peer.mac);
                    m.ip(libc::NDA_DST, peer.host);
                })?;
            }
            if self.neighbours.get(vtep) != Some(&(peer.mac, true)) {
                let header = ndmsg(family_of(*vtep), index, PERMANENT);
                sender.push(libc::RTM_NEWNEIGH, flags, &header, |m| {
                    m.ip(libc::NDA_DST, *vtep);
                    m.bytes(libc::NDA_LLADDR, &peer.mac);
                })?;
            }
        }
        sender.finish()
    }

    /// Removes what nobody wants. How much it was.
    pub(super) fn remove(
        &self,
        socket: &mut Socket,
        index: u32,
        peers: &BTreeMap<IpAddr, Peer>,
    ) -> Result<usize, NetlinkError> {
        let wanted: BTreeMap<Mac, IpAddr> = peers.values().map(|p| (p.mac, p.host)).collect();
        let mut sender = Sender::new(socket);
        for (mac, dst) in self.fdb.keys() {
            if wanted.get(mac).copied() != *dst || dst.is_none() {
                sender.push(libc::RTM_DELNEIGH, 0, &fdb_header(index), |m| {
                    m.bytes(libc::NDA_LLADDR, mac);
                    if let Some(dst) = dst {
                        m.ip(libc::NDA_DST, *dst);
                    }
                })?;
            }
        }
        for ip in self.neighbours.keys().filter(|ip| !peers.contains_key(ip)) {
            let header = ndmsg(family_of(*ip), index, 0);
            sender.push(libc::RTM_DELNEIGH, 0, &header, |m| m.ip(libc::NDA_DST, *ip))?;
        }
        sender.finish()
    }
}

/// Hardware address, destination and state of an entry of this device that has a hardware address.
fn of_device(message: &[u8], index: u32) -> Option<(Mac, Option<IpAddr>, u16)> {
    if u32_from(message.get(4..)?)? != index {
        return None;
    }
    let state = u16::from_ne_bytes(message.get(8..10)?.try_into().ok()?);
    let attributes = Attributes::after(message, NDMSG_LEN);
    let mac = attributes.find(libc::NDA_LLADDR)?.try_into().ok()?;
    Some((mac, attributes.find(libc::NDA_DST).and_then(ip_from), state))
}

fn dump_header(family: u8) -> [u8; NDMSG_LEN] {
    let mut header = [0; NDMSG_LEN];
    header[0] = family;
    header
}

fn fdb_header(index: u32) -> [u8; NDMSG_LEN] {
    let mut header = dump_header(AF_BRIDGE);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    // The device's own table, not that of a bridge that it may be a port of.
    header[10] = libc::NTF_SELF;
    header
}

/// Sends many requests in pieces that fit into a `send`; what is gone already counts as removed.
struct Sender<'a> {
    socket: &'a mut Socket,
    batch: Batch,
    sent: usize,
}

impl<'a> Sender<'a> {
    const fn new(socket: &'a mut Socket) -> Self {
        Self {
            socket,
            batch: Batch::new(),
            sent: 0,
        }
    }

    fn push(
        &mut self,
        kind: u16,
        flags: i32,
        header: &[u8],
        fill: impl FnOnce(&mut Request<'_>),
    ) -> Result<(), NetlinkError> {
        self.batch.push(kind, flags, header, fill);
        if self.batch.len() >= BATCH {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), NetlinkError> {
        let outcome = self.socket.transact(&mut self.batch)?;
        let refused = outcome.errors.into_iter().find(|(_, e)| !e.is_missing());
        if let Some((_, error)) = refused {
            return Err(error.into());
        }
        self.sent += self.batch.len();
        self.batch.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<usize, NetlinkError> {
        self.send()?;
        Ok(self.sent)
    }
}
