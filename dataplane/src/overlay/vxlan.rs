//! A VXLAN device (RFC 7348) with all other hosts entered in it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::device::{self, Device};
use super::entries::Entries;
use super::{Driver, OverlayError};
use crate::netlink::{
    Attributes, Batch, NetlinkError, RequestError, Socket, ifinfomsg, ip_from, u32_from,
};

/// The device over IPv4. Not the established system's `vxlan.calico`, so that both can be on one host.
pub const VXLAN_V4: &str = "vxlan.margay";
/// The device over IPv6.
pub const VXLAN_V6: &str = "vxlan-v6.margay";

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// A device as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Network identifier, 24 bits; the same on all hosts.
    pub vni: u32,
    /// UDP port; the same on all hosts.
    pub port: u16,
    /// The host's address, which outer packets are from.
    pub local: IpAddr,
    /// The device's hardware address, which the other hosts have entered.
    pub mac: [u8; 6],
    /// Largest inner packet, in bytes.
    pub mtu: u32,
    /// The device's own address, which the host's own packets are from.
    pub address: Option<IpAddr>,
    /// The other hosts' devices, by their addresses.
    pub peers: BTreeMap<IpAddr, Peer>,
}

/// Another host's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The host's address, which outer packets are sent to.
    pub host: IpAddr,
}

/// What cannot be changed while a device exists.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    vni: Option<u32>,
    port: Option<u16>,
    local: Option<IpAddr>,
    learning: Option<bool>,
}

impl Identity {
    fn of(device: &Device) -> Self {
        let data = Attributes::nested(&device.data);
        let local = data
            .find(IFLA_VXLAN_LOCAL)
            .or_else(|| data.find(IFLA_VXLAN_LOCAL6));
        let port = data.find(IFLA_VXLAN_PORT).and_then(|v| v.try_into().ok());
        Self {
            vni: data.find(IFLA_VXLAN_ID).and_then(u32_from),
            port: port.map(u16::from_be_bytes),
            local: local.and_then(ip_from),
            learning: data.find(IFLA_VXLAN_LEARNING).map(|v| v != [0]),
        }
    }

    const fn wanted(spec: &VxlanSpec) -> Self {
        Self {
            vni: Some(spec.vni),
            port: Some(spec.port),
            local: Some(spec.local),
            learning: Some(false),
        }
    }
}

/// The driver of one device.
#[derive(Debug)]
pub(super) struct Vxlan {
    name: &'static str,
    index: Option<u32>,
}

impl Vxlan {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, index: None }
    }

    /// The device as wanted, but for its addresses and entries, and how much of it was not.
    fn device(
        &self,
        spec: &VxlanSpec,
        socket: &mut Socket,
    ) -> Result<(Device, usize), OverlayError> {
        let name = self.name;
        let found = device::find(socket, name).map_err(OverlayError::kernel("read", name))?;
        if let Some(device) = found {
            if !device.is_vxlan() {
                return Err(OverlayError::foreign(name, device.link.kind));
            }
            if Identity::of(&device) == Identity::wanted(spec) {
                return Ok((device, 0));
            }
            device::remove(socket, device.index).map_err(OverlayError::kernel("remove", name))?;
        }
        let device = create(socket, name, spec).map_err(OverlayError::kernel("create", name))?;
        Ok((device, 1))
    }
}

impl Driver for Vxlan {
    type Spec = VxlanSpec;

    fn prepare(&mut self, spec: &VxlanSpec, socket: &mut Socket) -> Result<usize, OverlayError> {
        let name = self.name;
        let read = || OverlayError::kernel("read", name);
        let (device, mut changed) = self.device(spec, socket)?;
        self.index = Some(device.index);
        changed += device::switches(name)?;
        changed += device::adjust(socket, &device, Some(spec.mac), spec.mtu)
            .map_err(OverlayError::kernel("set up", name))?;
        if let Some(address) = spec.address {
            let present = device::addresses(socket, device.index).map_err(read())?;
            if !present.iter().any(|a| a.address.address == address.into()) {
                device::add_address(socket, device.index, address, name)
                    .map_err(OverlayError::kernel("add an address to", name))?;
                changed += 1;
            }
        }
        let entries = Entries::read(socket, device.index, spec.local.is_ipv4()).map_err(read())?;
        changed += entries
            .add(socket, device.index, &spec.peers)
            .map_err(OverlayError::kernel("enter hosts in", name))?;
        Ok(changed)
    }

    fn prune(
        &mut self,
        spec: Option<&VxlanSpec>,
        socket: &mut Socket,
    ) -> Result<usize, OverlayError> {
        let name = self.name;
        let read = || OverlayError::kernel("read", name);
        let found = device::find(socket, name).map_err(read())?;
        let Some(device) = found.filter(Device::is_vxlan) else {
            return Ok(0);
        };
        let Some(spec) = spec else {
            device::remove(socket, device.index).map_err(OverlayError::kernel("remove", name))?;
            self.index = None;
            return Ok(1);
        };
        let mut changed = 0;
        let wanted = spec.address.map(IpNetwork::from);
        for found in device::addresses(socket, device.index).map_err(read())? {
            if Some(found.address.address) != wanted {
                device::remove_address(socket, &found.address)
                    .map_err(OverlayError::kernel("remove an address from", name))?;
                changed += 1;
            }
        }
        let entries = Entries::read(socket, device.index, spec.local.is_ipv4()).map_err(read())?;
        changed += entries
            .remove(socket, device.index, &spec.peers)
            .map_err(OverlayError::kernel("remove hosts from", name))?;
        Ok(changed)
    }

    fn index(&self) -> Option<u32> {
        self.index
    }
}

/// Makes the device, down, so that its switches are set before it is used.
fn create(
    socket: &mut Socket,
    name: &'static str,
    spec: &VxlanSpec,
) -> Result<Device, NetlinkError> {
    let local = match spec.local {
        IpAddr::V4(_) => IFLA_VXLAN_LOCAL,
        IpAddr::V6(_) => IFLA_VXLAN_LOCAL6,
    };
    let mut batch = Batch::new();
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.push(libc::RTM_NEWLINK, flags, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, name);
        m.bytes(libc::IFLA_ADDRESS, &spec.mac);
        m.nest(libc::IFLA_LINKINFO, &[], |m| {
            m.string(libc::IFLA_INFO_KIND, "vxlan");
            m.nest(libc::IFLA_INFO_DATA, &[], |m| {
                m.u32(IFLA_VXLAN_ID, spec.vni);
                m.ip(local, spec.local);
                m.bytes(IFLA_VXLAN_LEARNING, &[0]);
                m.bytes(IFLA_VXLAN_PORT, &spec.port.to_be_bytes());
            });
        });
    });
    device::first_error(socket, &mut batch)?;
    let vanished = RequestError {
        errno: libc::ENODEV,
        text: None,
    };
    device::find(socket, name)?.ok_or_else(|| vanished.into())
}
