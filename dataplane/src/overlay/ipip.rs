//! IP in IP (RFC 2003) through the kernel's own device, `tunl0`.
//!
//! The device has no other end: the gateway of each route, the other host, is where a packet is sent to.

use std::net::{IpAddr, Ipv4Addr};

use super::device::{self, Device, Labelled};
use super::{Driver, OverlayError};
use crate::netlink::{NetlinkError, RequestError, Socket, ifinfomsg};

/// The device that the kernel makes when it can do IP in IP.
pub const IPIP: &str = "tunl0";
/// Marks an address as ours: the device is not.
const LABEL: &str = "tunl0:margay";

/// The device as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpipSpec {
    /// Largest inner packet, in bytes.
    pub mtu: u32,
    /// The device's own address, which the host's own packets are from.
    pub address: Option<Ipv4Addr>,
}

/// The driver of the device.
#[derive(Debug, Default)]
pub(super) struct Ipip {
    index: Option<u32>,
}

impl Driver for Ipip {
    type Spec = IpipSpec;

    fn prepare(&mut self, spec: &IpipSpec, socket: &mut Socket) -> Result<usize, OverlayError> {
        let (device, mut changed) = match find(socket)? {
            Some(device) => (device, 0),
            None => (create(socket)?, 1),
        };
        self.index = Some(device.index);
        changed += device::switches(IPIP)?;
        changed += device::adjust(socket, &device, None, spec.mtu)
            .map_err(OverlayError::kernel("set up", IPIP))?;
        if let Some(address) = spec.address.map(IpAddr::V4) {
            let present = device::addresses(socket, device.index)
                .map_err(OverlayError::kernel("read", IPIP))?;
            if !present.iter().any(|a| a.address.address == address.into()) {
                device::add_address(socket, device.index, address, LABEL)
                    .map_err(OverlayError::kernel("add an address to", IPIP))?;
                changed += 1;
            }
        }
        Ok(changed)
    }

    fn prune(
        &mut self,
        spec: Option<&IpipSpec>,
        socket: &mut Socket,
    ) -> Result<usize, OverlayError> {
        let device = match find(socket) {
            Ok(Some(device)) => device,
            // Nothing of ours can be on somebody else's device.
            Ok(None) | Err(OverlayError::Foreign { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        let keep = spec.and_then(|spec| spec.address);
        let removed = remove_addresses(socket, &device, keep, spec.is_none(), false)?;
        if spec.is_none() {
            self.index = None;
        }
        Ok(removed.len())
    }

    fn index(&self) -> Option<u32> {
        self.index
    }
}

/// Removes addresses of ours; with `dry_run` only tells. Each in words.
pub(super) fn clean(socket: &mut Socket, dry_run: bool) -> Result<Vec<String>, OverlayError> {
    let device = match find(socket) {
        Ok(Some(device)) => device,
        Ok(None) | Err(OverlayError::Foreign { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let removed = remove_addresses(socket, &device, None, !dry_run, dry_run)?;
    let told = |address: &IpAddr| format!("address {address} of {IPIP}");
    Ok(removed.iter().map(told).collect())
}

/// Removes the addresses with our label but `keep`, and takes the device down if that was all it was up for and `down`
/// says so. Down first: as long as there is an address of ours it is known to be up for us.
fn remove_addresses(
    socket: &mut Socket,
    device: &Device,
    keep: Option<Ipv4Addr>,
    down: bool,
    dry_run: bool,
) -> Result<Vec<IpAddr>, OverlayError> {
    let present =
        device::addresses(socket, device.index).map_err(OverlayError::kernel("read", IPIP))?;
    let is_ours = |found: &Labelled| {
        found.label == LABEL && Some(found.address.address.ip()) != keep.map(IpAddr::V4)
    };
    let (ours, others): (Vec<_>, Vec<_>) = present.into_iter().partition(is_ours);
    let in_use = others.iter().any(|other| other.address.address.is_ipv4());
    if down && !ours.is_empty() && !in_use {
        device::down(socket, device.index).map_err(OverlayError::kernel("take down", IPIP))?;
    }
    if !dry_run {
        for found in &ours {
            device::remove_address(socket, &found.address)
                .map_err(OverlayError::kernel("remove an address from", IPIP))?;
        }
    }
    Ok(ours
        .iter()
        .map(|found| found.address.address.ip())
        .collect())
}

fn find(socket: &mut Socket) -> Result<Option<Device>, OverlayError> {
    let found = device::find(socket, IPIP).map_err(OverlayError::kernel("read", IPIP))?;
    match found {
        Some(device) if device.link.kind != "ipip" => {
            Err(OverlayError::foreign(IPIP, device.link.kind))
        }
        found => Ok(found),
    }
}

/// Asking for a device makes the kernel load the driver, which makes `tunl0` by itself where namespaces get one.
fn create(socket: &mut Socket) -> Result<Device, OverlayError> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let made = socket.request(libc::RTM_NEWLINK, flags, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, IPIP);
        m.nest(libc::IFLA_LINKINFO, &[], |m| {
            m.string(libc::IFLA_INFO_KIND, "ipip");
        });
    });
    match made {
        Err(NetlinkError::Refused(error)) if error.exists() => {}
        other => drop(other.map_err(OverlayError::kernel("create", IPIP))?),
    }
    let vanished = RequestError {
        errno: libc::ENODEV,
        text: None,
    };
    find(socket)?.ok_or_else(|| OverlayError::kernel("create", IPIP)(vanished.into()))
}
