//! What somebody changed of host ends is put right, and where the path to other hosts takes smaller packets than before,
//! or larger ones, containers follow it.

use std::collections::{BTreeMap, BTreeSet};

use super::{AttachError, GATEWAY_V6, HOST_MAC, Record, host, mtu};
use crate::bandwidth;
use crate::link::{self, Link};
use crate::netlink::{Batch, NetlinkError, Socket, ifinfomsg};
use crate::sysctl;

const UP: u32 = libc::IFF_UP as u32;

/// What host ends are to be like, beside what they were made as.
#[derive(Debug, Clone, Default)]
pub struct Wanted<'a> {
    /// Their names, and whether their containers have IPv6.
    pub ends: BTreeMap<&'a str, bool>,
    /// The largest packet in bytes that reaches all other hosts, if that is known.
    pub path_mtu: Option<u32>,
    /// Whether it may be more than containers have now.
    pub may_grow: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Parts of host ends that somebody had changed.
    pub parts: usize,
    /// Switches that somebody had.
    pub switches: usize,
    /// Containers that were given the path's MTU.
    pub followed: usize,
    /// What is still not as it should be.
    pub refused: Vec<AttachError>,
}

/// The name that the kernel knew a host end by when it was made, if one sees of this link that it is one and differs
/// from what it was made as.
#[must_use]
pub fn is_amiss(link: &Link) -> Option<String> {
    if link.kind != "veth" {
        return None;
    }
    let record = Record::of(link);
    let as_recorded = |record: &Record| record.ifname == link.name && record.mtu == link.mtu;
    let is_whole = link.up && link.mac == Some(HOST_MAC) && record.as_ref().is_none_or(as_recorded);
    let name = record.map_or_else(|| link.name.clone(), |record| record.ifname);
    (!is_whole).then_some(name)
}

/// Gives host ends back their name, their state, hardware address and MTU, the gateway's address that containers have as
/// their way out, their check of sources and their queues. An interface that is gone is left to whoever looks for its
/// container.
///
/// # Errors
/// When the kernel cannot be asked. What it refuses to change is in the answer.
pub fn repair(wanted: &Wanted<'_>) -> Result<Repaired, NetlinkError> {
    let mut repaired = Repaired::default();
    if wanted.ends.is_empty() {
        return Ok(repaired);
    }
    let mut socket = Socket::route()?;
    let links = link::list(&mut socket, "")?;
    let addresses = link::addresses(&mut socket)?.into_iter();
    let gateways = addresses.filter(|address| address.address.ip() == GATEWAY_V6);
    let gateways: BTreeSet<u32> = gateways.map(|address| address.index).collect();
    for mut link in links.into_iter().filter(|link| link.kind == "veth") {
        let record = Record::of(&link);
        let made_as = record.as_ref().map_or(&link.name, |record| &record.ifname);
        let Some(ipv6) = wanted.ends.get(made_as.as_str()).copied() else {
            continue;
        };
        let has_gateway = !ipv6 || gateways.contains(&link.index);
        let mut end = End {
            socket: &mut socket,
            link: &mut link,
            repaired: &mut repaired,
        };
        let mended = match &record {
            Some(record) => end
                .name(record)
                .and_then(|()| end.state(has_gateway))
                .and_then(|()| end.mtu(record, wanted))
                .and_then(|()| end.queues(record)),
            None => end.state(has_gateway),
        };
        match mended {
            // It may go at this moment.
            Err(error) if error.is_missing() => {}
            Err(error) => repaired.refused.push(error),
            Ok(()) => {}
        }
    }
    Ok(repaired)
}

/// One host end.
struct End<'a> {
    socket: &'a mut Socket,
    link: &'a mut Link,
    repaired: &'a mut Repaired,
}

impl End<'_> {
    fn name(&mut self, record: &Record) -> Result<(), AttachError> {
        if record.ifname == self.link.name {
            return Ok(());
        }
        let fail = || AttachError::kernel("give back the name", &record.ifname);
        let rename = |batch: &mut Batch, index| {
            batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(index, 0, 0), |m| {
                m.string(libc::IFLA_IFNAME, &record.ifname);
            });
        };
        let index = self.link.index;
        let mut batch = Batch::new();
        rename(&mut batch, index);
        let mut outcome = self.socket.transact(&mut batch).map_err(fail())?;
        if outcome.error(0).is_some_and(|e| e.errno == libc::EBUSY) {
            // Before 6.2 the kernel renamed no interface that is up.
            batch.clear();
            batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(index, 0, UP), |_| {});
            rename(&mut batch, index);
            batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(index, UP, UP), |_| {});
            outcome = self.socket.transact(&mut batch).map_err(fail())?;
        }
        if let Some((_, error)) = outcome.errors.into_iter().next() {
            return Err(fail()(error.into()));
        }
        self.link.name.clone_from(&record.ifname);
        self.repaired.parts += 1;
        Ok(())
    }

    fn state(&mut self, has_gateway: bool) -> Result<(), AttachError> {
        let fail = || AttachError::kernel("put right", &self.link.name);
        let index = self.link.index;
        if self.link.mac != Some(HOST_MAC) {
            let header = ifinfomsg(index, 0, 0);
            let given = self.socket.request(libc::RTM_SETLINK, 0, &header, |m| {
                m.bytes(libc::IFLA_ADDRESS, &HOST_MAC);
            });
            given.map_err(fail())?;
            self.repaired.parts += 1;
        }
        if !self.link.up {
            let header = ifinfomsg(index, UP, UP);
            let up = self.socket.request(libc::RTM_SETLINK, 0, &header, |_| {});
            up.map_err(fail())?;
            self.repaired.parts += 1;
        }
        if !has_gateway {
            host::add_gateway(self.socket, index, GATEWAY_V6).map_err(fail())?;
            // With the interface, its address went as well.
            self.repaired.parts += usize::from(self.link.up);
        }
        Ok(())
    }

    fn mtu(&mut self, record: &Record, wanted: &Wanted<'_>) -> Result<(), AttachError> {
        let mtu = mtu::wanted(record, wanted.path_mtu, wanted.may_grow);
        if self.link.mtu == mtu && record.mtu == mtu {
            return Ok(());
        }
        mtu::set(self.socket, self.link, record, mtu)?;
        match record.mtu == mtu {
            true => self.repaired.parts += 1,
            false => self.repaired.followed += 1,
        }
        Ok(())
    }

    fn queues(&mut self, record: &Record) -> Result<(), AttachError> {
        let name = &self.link.name;
        let strict = if record.any_source { "0" } else { "1" };
        let key = format!("net/ipv4/conf/{name}/rp_filter");
        self.repaired.switches += sysctl::repair([(key, strict)].into_iter())?;
        if record.bandwidth.is_limited() {
            self.repaired.parts += bandwidth::repair(self.link, &record.bandwidth)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
