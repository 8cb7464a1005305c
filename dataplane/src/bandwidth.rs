//! Bandwidth of a container: queues on the host end of its veth pair.
//!
//! ```text
//! to it:    host end, root                token bucket
//! from it:  host end, ingress  --mirred-> an IFB device, root: token bucket, and back where the packet was
//! ```
//! What comes out of a veth has no queue of its own, so the second way goes over a device that has. It is called after
//! the host end ([`ifb_name`]) and goes with it ([`crate::attach::remove_many`]).

mod tc;

use crate::attach::Record;
use crate::link::{self, Link};
use crate::netlink::{Batch, NetlinkError, RequestError, Socket, ifinfomsg};
use tc::{is_redirected, push_bucket, push_redirection, rates_of, redirect_anew, send};

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes a second; at least 1.
    pub rate: u64,
    /// Bytes that may pass at once after a silence. Less than the largest packet counts as that.
    pub burst: u32,
    /// How fast a burst may pass; as fast as the interface is if none.
    pub peak: Option<Peak>,
}

impl Limit {
    /// Its rate, and that of its bursts or 0.
    fn rates(&self) -> (u64, u64) {
        (self.rate, self.peak.map_or(0, |peak| peak.rate))
    }
}

/// A second, smaller bucket that a burst passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// Bytes a second; more than the rate of the first.
    pub rate: u64,
    /// Bytes that may pass at once. Less than the largest packet counts as that.
    pub burst: u32,
}

/// Both ways; no limit where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What the container receives.
    pub to_container: Option<Limit>,
    /// What it sends.
    pub from_container: Option<Limit>,
}

impl Bandwidth {
    /// Whether there is any.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.to_container.is_some() || self.from_container.is_some()
    }
}

/// The kernel refused a step.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} for interface {ifname}: {source}")]
pub struct BandwidthError {
    action: &'static str,
    ifname: String,
    #[source]
    source: NetlinkError,
}

impl BandwidthError {
    pub(crate) fn is_missing(&self) -> bool {
        let refused = self.source.refused();
        refused.is_some_and(RequestError::is_missing)
    }
}

const ETHERNET_HEADER: u32 = 14;

/// What the devices are called, before the digits that end the name of their host end.
const IFB: &str = "ifb";
const DIGITS: usize = 11;

/// The device that packets from behind this host end are queued on.
#[must_use]
pub fn ifb_name(host_ifname: &str) -> String {
    // The last characters tell host ends apart; the first ones say what it is, and are no workload's prefix.
    let start = host_ifname.len().saturating_sub(DIGITS);
    format!("{IFB}{}", host_ifname.get(start..).unwrap_or(host_ifname))
}

/// The devices that are left of host ends which went without [`crate::attach::remove_many`], with their containers: name
/// of the host end, behind `prefix`, and index of the device.
///
/// # Errors
/// When it cannot be looked.
pub fn orphans(prefix: &str) -> Result<Vec<(String, u32)>, NetlinkError> {
    let links = link::list(&mut Socket::route()?, "")?;
    let host_end = |ifb: &Link| {
        let digits = ifb.name.strip_prefix(IFB).filter(|_| ifb.kind == "ifb")?;
        let is_ours = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_ours.then(|| (format!("{prefix}{digits}"), ifb.index))
    };
    let mut found: Vec<_> = links.iter().filter_map(host_end).collect();
    found.retain(|(name, _)| !links.iter().any(|link| link.name == *name));
    Ok(found)
}

/// Removes one of [`orphans`]. One that is gone is success.
///
/// # Errors
/// What the kernel refused.
pub fn remove_orphan(index: u32) -> Result<(), NetlinkError> {
    let header = ifinfomsg(index, 0, 0);
    match Socket::route()?.request(libc::RTM_DELLINK, 0, &header, |_| {}) {
        Err(NetlinkError::Refused(error)) if error.is_missing() => Ok(()),
        other => other.map(drop),
    }
}

fn failed(action: &'static str, ifname: &str) -> impl FnOnce(NetlinkError) -> BandwidthError {
    move |source| BandwidthError {
        action,
        ifname: ifname.to_owned(),
        source,
    }
}

/// Limits a host end that has no queues yet, and notes on it by what. What a failure leaves goes with the host end.
///
/// # Errors
/// What the kernel refused.
pub fn limit(host_ifname: &str, bandwidth: &Bandwidth) -> Result<(), BandwidthError> {
    let fail = |action| failed(action, host_ifname);
    let action = "open a netlink socket";
    let mut socket = Socket::route().map_err(fail(action))?;
    let host = link_of(&mut socket, host_ifname).map_err(fail("find the host end"))?;
    let largest = host.mtu + ETHERNET_HEADER;
    if let Some(limit) = bandwidth.to_container {
        let mut batch = Batch::new();
        push_bucket(&mut batch, host.index, limit, largest);
        send(&mut socket, &mut batch).map_err(fail("limit what is received"))?;
    }
    if let Some(limit) = bandwidth.from_container {
        let ifb = make_ifb(&mut socket, &ifb_name(host_ifname));
        let ifb = ifb.map_err(fail("make the IFB device"))?;
        let mut batch = Batch::new();
        push_bucket(&mut batch, ifb, limit, largest);
        push_redirection(&mut batch, host.index, ifb);
        send(&mut socket, &mut batch).map_err(fail("limit what is sent"))?;
    }
    // Last: from here on the queues are put back when somebody takes them away.
    if let Some(record) = Record::of(&host) {
        let record = Record {
            bandwidth: *bandwidth,
            ..record
        };
        let written = record.write(&mut socket, host.index);
        written.map_err(fail("note the limits"))?;
    }
    Ok(())
}

/// Puts back what somebody took away or changed of the queues of a host end. For how many ways that was.
pub(crate) fn repair(host: &Link, bandwidth: &Bandwidth) -> Result<usize, BandwidthError> {
    let fail = |action| failed(action, &host.name);
    let largest = host.mtu + ETHERNET_HEADER;
    let look = "look at the queues";
    let mut socket = Socket::route().map_err(fail(look))?;
    let mut repaired = 0;
    if let Some(limit) = bandwidth.to_container
        && rates_of(&mut socket, host.index).map_err(fail(look))? != Some(limit.rates())
    {
        let mut batch = Batch::new();
        push_bucket(&mut batch, host.index, limit, largest);
        send(&mut socket, &mut batch).map_err(fail("limit what is received"))?;
        repaired += 1;
    }
    if let Some(limit) = bandwidth.from_container {
        let name = ifb_name(&host.name);
        let ifb = link::find(&mut socket, &name).map_err(fail(look))?;
        let ifb = ifb.filter(|ifb| ifb.up && ifb.kind == "ifb");
        let is_whole = match &ifb {
            Some(ifb) => {
                rates_of(&mut socket, ifb.index).map_err(fail(look))? == Some(limit.rates())
                    && is_redirected(&mut socket, host.index).map_err(fail(look))?
            }
            None => false,
        };
        if !is_whole {
            let ifb = match ifb {
                Some(ifb) => ifb.index,
                None => make_ifb(&mut socket, &name).map_err(fail("make the IFB device"))?,
            };
            let mut batch = Batch::new();
            push_bucket(&mut batch, ifb, limit, largest);
            send(&mut socket, &mut batch).map_err(fail("limit what is sent"))?;
            redirect_anew(&mut socket, host.index, ifb).map_err(fail("limit what is sent"))?;
            repaired += 1;
        }
    }
    Ok(repaired)
}

/// What differs from these limits, in words.
///
/// # Errors
/// When it cannot be looked.
pub fn check(host_ifname: &str, bandwidth: &Bandwidth) -> Result<Vec<String>, BandwidthError> {
    let look = |source| failed("look at the queues", host_ifname)(source);
    let mut socket = Socket::route().map_err(look)?;
    let mut index_of = |ifname: &str| {
        let found = link::find(&mut socket, ifname);
        Ok(found.map_err(look)?.map(|link| link.index))
    };
    let ifb = ifb_name(host_ifname);
    let (host_index, ifb_index) = (index_of(host_ifname)?, index_of(&ifb)?);
    let mut found = Vec::new();
    for (ifname, index, wanted, what) in [
        (host_ifname, host_index, bandwidth.to_container, "received"),
        (ifb.as_str(), ifb_index, bandwidth.from_container, "sent"),
    ] {
        let Some(wanted) = wanted else { continue };
        let rates = match index {
            Some(index) => rates_of(&mut socket, index).map_err(look)?,
            None => None,
        };
        let Some((rate, peak)) = rates else {
            found.push(format!("what is {what} is not limited on {ifname}"));
            continue;
        };
        if rate != wanted.rate {
            found.push(format!(
                "what is {what} is limited to {rate} bytes a second on {ifname}, not to {}",
                wanted.rate
            ));
        }
        let (_, wanted) = wanted.rates();
        if peak != wanted {
            found.push(format!(
                "bursts of what is {what} pass at {peak} bytes a second on {ifname}, not at {wanted} (0 is no limit)"
            ));
        }
    }
    let is_redirected = match host_index {
        Some(index) => is_redirected(&mut socket, index).map_err(look)?,
        None => false,
    };
    if bandwidth.from_container.is_some() && !is_redirected {
        found.push(format!("what is sent does not go over {ifb}"));
    }
    Ok(found)
}

fn link_of(socket: &mut Socket, ifname: &str) -> Result<Link, NetlinkError> {
    let found = link::find(socket, ifname)?;
    let vanished = || RequestError {
        errno: libc::ENODEV,
        text: None,
    };
    Ok(found.ok_or_else(vanished)?)
}

/// One that is there is of the same name's earlier owner, whose host end is gone.
fn make_ifb(socket: &mut Socket, name: &str) -> Result<u32, NetlinkError> {
    if let Some(left) = link::find(socket, name)? {
        socket.request(libc::RTM_DELLINK, 0, &ifinfomsg(left.index, 0, 0), |_| {})?;
    }
    let up = libc::IFF_UP as u32;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    socket.request(libc::RTM_NEWLINK, flags, &ifinfomsg(0, up, up), |m| {
        m.string(libc::IFLA_IFNAME, name);
        m.u32(libc::IFLA_NUM_TX_QUEUES, 1);
        m.u32(libc::IFLA_NUM_RX_QUEUES, 1);
        m.nest(libc::IFLA_LINKINFO, &[], |m| {
            m.string(libc::IFLA_INFO_KIND, "ifb");
        });
    })?;
    Ok(link_of(socket, name)?.index)
}

#[cfg(test)]
mod tests;
