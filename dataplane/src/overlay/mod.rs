//! Tunnels between hosts: the devices, and what they know of the other hosts.
//!
//! [`Overlay::set`] notes what is wanted, [`Overlay::prepare`] and [`Overlay::prune`] bring the kernel to it: the first
//! adds what routes will need, the second takes away what they no longer do, so that the routes are changed in between.
//! Both compare with what the kernel has, so that an agent without memory adopts what it finds, and whatever somebody
//! broke is repaired; they do nothing unless something was set or [`Overlay::invalidate`]d.
//!
//! A device is ours by its name: [`VXLAN_V4`], [`VXLAN_V6`]. One of that name and of another kind is somebody's, and left
//! alone. `tunl0` is the kernel's own and shared: there, the address with our label is ours, and nothing else. A device of
//! WireGuard, whose name is configured and is by default the one that the established system uses, is ours by its alias.
//!
//! The devices learn nothing and flood nothing: to which host a packet goes is in the forwarding table and in permanent
//! neighbour entries, and what is in neither is dropped.

mod device;
mod entries;
#[cfg(test)]
mod fault_tests;
mod host_traffic;
mod ipip;
#[cfg(test)]
mod tests;
mod threads;
mod vxlan;
mod wireguard;
#[cfg(test)]
mod wireguard_fault_tests;
#[cfg(test)]
mod wireguard_lab;

use crate::netlink::{NetlinkError, Socket};
use crate::route_table;
use crate::sysctl::SysctlError;
use crate::wireguard::{DeviceState, KeyFileError};

pub use host_traffic::{HOST_TABLES, HostTrafficSpec};
pub use ipip::{IPIP, IpipSpec};
pub use vxlan::{Peer, VXLAN_V4, VXLAN_V6, VxlanSpec};
pub use wireguard::{WireguardPeer, WireguardSpec};

use device::Device;
use ipip::Ipip;
use vxlan::Vxlan;
use wireguard::Encrypted;

/// All tunnels that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// VXLAN over IPv4.
    pub vxlan_v4: Option<VxlanSpec>,
    /// VXLAN over IPv6.
    pub vxlan_v6: Option<VxlanSpec>,
    /// IP in IP, both IPv4.
    pub ipip: Option<IpipSpec>,
    /// WireGuard over and of IPv4.
    pub wireguard_v4: Option<WireguardSpec>,
    /// WireGuard over and of IPv6.
    pub wireguard_v6: Option<WireguardSpec>,
}

/// Why a device is not as wanted. It stays wanted, and is tried again by the next [`Overlay::prepare`].
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The name is taken.
    #[error("interface {name} is of kind {kind:?}, somebody else's; it is left alone")]
    Foreign {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// The kernel does not know such devices.
    #[error(
        "this kernel has no driver for {kind}, so {name} cannot be made: nothing is sent that way (is the module installed?)"
    )]
    NoDriver {
        /// The device.
        name: String,
        /// What it should be.
        kind: &'static str,
    },
    /// No name for an interface.
    #[error("{0:?} is no name for an interface: 1 to 15 characters")]
    Name(String),
    /// There is no private key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// A host cannot be reached through its tunnel.
    #[error(transparent)]
    HostRoute(route_table::Failure),
    /// Routes to other hosts that failed before.
    #[error("routes of hosts through {0} are not as wanted yet")]
    HostRoutes(String),
    /// The kernel refused a step.
    #[error("cannot {action} {name}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The device.
        name: String,
        /// Why not.
        source: NetlinkError,
    },
    /// Threads do not decrypt what the device receives, or still do.
    #[error("cannot set {}: {source}", threads::file(name).display())]
    Threads {
        /// The device.
        name: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A switch of the device could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

impl OverlayError {
    fn kernel(action: &'static str, name: &str) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Kernel {
            action,
            name: name.to_owned(),
            source,
        }
    }

    fn foreign(name: &str, kind: String) -> Self {
        let name = name.to_owned();
        Self::Foreign { name, kind }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Devices, addresses and entries that were made, changed or removed.
    pub changed: usize,
    /// Those of them that somebody else had changed.
    pub drift: usize,
    /// What is not as wanted.
    pub failures: Vec<OverlayError>,
}

/// One device: what the kernel is told of it.
trait Driver {
    type Spec: PartialEq;

    /// Adds and mends what is wanted. How much it was.
    fn prepare(&mut self, spec: &Self::Spec, socket: &mut Socket) -> Result<usize, OverlayError>;
    /// Takes away what is not wanted. How much it was.
    fn prune(
        &mut self,
        spec: Option<&Self::Spec>,
        socket: &mut Socket,
    ) -> Result<usize, OverlayError>;
    /// The device's, once it is there.
    fn index(&self) -> Option<u32>;
}

/// Whether a device has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Settled,
    /// Somebody may have changed it.
    Stale,
    /// Something else is wanted than before, or it was not to be had.
    Changed,
}

/// A device and what is wanted of it.
#[derive(Debug)]
struct Slot<D: Driver> {
    driver: D,
    wanted: Option<D::Spec>,
    state: State,
    /// In this round.
    failed: bool,
}

impl<D: Driver> Slot<D> {
    const fn new(driver: D) -> Self {
        Self {
            driver,
            wanted: None,
            state: State::Settled,
            failed: false,
        }
    }

    fn set(&mut self, wanted: Option<D::Spec>) {
        if self.wanted != wanted {
            self.wanted = wanted;
            self.state = State::Changed;
        }
    }

    fn invalidate(&mut self) {
        if self.state == State::Settled {
            self.state = State::Stale;
        }
    }

    fn prepare(&mut self, socket: &mut Socket, report: &mut Report) {
        self.failed = false;
        if self.state == State::Settled {
            return;
        }
        if let Some(spec) = &self.wanted {
            let made = self.driver.prepare(spec, socket);
            self.take(made, report);
        }
    }

    fn prune(&mut self, socket: &mut Socket, report: &mut Report) {
        if self.state == State::Settled {
            return;
        }
        let pruned = self.driver.prune(self.wanted.as_ref(), socket);
        self.take(pruned, report);
        self.state = match self.failed {
            true => State::Changed,
            false => State::Settled,
        };
    }

    fn take(&mut self, result: Result<usize, OverlayError>, report: &mut Report) {
        match result {
            Ok(changed) => {
                report.changed += changed;
                if self.state == State::Stale {
                    report.drift += changed;
                }
            }
            Err(error) => {
                report.failures.push(error);
                self.failed = true;
            }
        }
    }
}

/// The tunnels of one network namespace, that of the thread that opened it.
#[derive(Debug)]
pub struct Overlay {
    socket: Socket,
    v4: Slot<Vxlan>,
    v6: Slot<Vxlan>,
    ipip: Slot<Ipip>,
    wireguard: [Slot<Encrypted>; 2],
    may_delete: bool,
}

impl Overlay {
    /// Wants no tunnel yet. What an earlier agent left stays until [`Overlay::allow_deletes`].
    ///
    /// # Errors
    /// When no netlink socket can be made.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::route()?,
            v4: Slot::new(Vxlan::new(VXLAN_V4)),
            v6: Slot::new(Vxlan::new(VXLAN_V6)),
            ipip: Slot::new(Ipip::default()),
            wireguard: [false, true].map(|v6| Slot::new(Encrypted::new(v6))),
            may_delete: false,
        })
    }

    /// The port that the kernel notes in the events that this causes.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Wants exactly these.
    pub fn set(&mut self, wanted: Wanted) {
        self.v4.set(wanted.vxlan_v4);
        self.v6.set(wanted.vxlan_v6);
        self.ipip.set(wanted.ipip);
        let [v4, v6] = &mut self.wireguard;
        v4.set(wanted.wireguard_v4);
        v6.set(wanted.wireguard_v6);
    }

    /// Looks at the kernel again, next time.
    pub fn invalidate(&mut self) {
        self.v4.invalidate();
        self.v6.invalidate();
        self.ipip.invalidate();
        self.wireguard.iter_mut().for_each(Slot::invalidate);
    }

    /// Everything wanted is known: what nobody wants may go.
    pub fn allow_deletes(&mut self) {
        self.may_delete = true;
        self.v4.state = State::Changed;
        self.v6.state = State::Changed;
        self.ipip.state = State::Changed;
        for slot in &mut self.wireguard {
            slot.state = State::Changed;
        }
    }

    /// Whether this is the index of a device of ours.
    #[must_use]
    pub fn is_ours(&self, index: u32) -> bool {
        let own = [
            self.v4.driver.index(),
            self.v6.driver.index(),
            self.ipip.driver.index(),
        ];
        let wireguard = self.wireguard.iter().map(|slot| slot.driver.index());
        own.into_iter()
            .chain(wireguard)
            .any(|own| own == Some(index))
    }

    /// Whether any tunnel is wanted.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.v4.wanted.is_some()
            || self.v6.wanted.is_some()
            || self.ipip.wanted.is_some()
            || self.wireguard.iter().any(|slot| slot.wanted.is_some())
    }

    /// What the devices that encrypt say of themselves and of the other hosts, with their names; not their private keys.
    /// One that cannot be read is told of by the next look at it.
    pub fn encrypted(&mut self) -> Vec<(String, DeviceState)> {
        let slots = self.wireguard.iter_mut();
        let read = slots.filter_map(|slot| slot.driver.state(slot.wanted.as_ref()?));
        read.collect()
    }

    /// Makes and mends devices, addresses and entries. Before routes that need them.
    pub fn prepare(&mut self) -> Report {
        let mut report = Report::default();
        self.v4.prepare(&mut self.socket, &mut report);
        self.v6.prepare(&mut self.socket, &mut report);
        self.ipip.prepare(&mut self.socket, &mut report);
        for slot in &mut self.wireguard {
            slot.prepare(&mut self.socket, &mut report);
        }
        report
    }

    /// Takes away what is not wanted. After the routes that needed it.
    pub fn prune(&mut self) -> Report {
        let mut report = Report::default();
        if self.may_delete {
            self.v4.prune(&mut self.socket, &mut report);
            self.v6.prune(&mut self.socket, &mut report);
            self.ipip.prune(&mut self.socket, &mut report);
            for slot in &mut self.wireguard {
                slot.prune(&mut self.socket, &mut report);
            }
        }
        report
    }
}

/// Removes the devices and addresses that are ours; with `dry_run` only tells. Each in words.
///
/// # Errors
/// The first that the kernel refuses.
pub fn clean(socket: &mut Socket, dry_run: bool) -> Result<Vec<String>, OverlayError> {
    let mut found = Vec::new();
    for name in [VXLAN_V4, VXLAN_V6] {
        let read = device::find(socket, name).map_err(OverlayError::kernel("read", name))?;
        if let Some(device) = read.filter(Device::is_vxlan) {
            found.push(format!("interface {name}"));
            if !dry_run {
                device::remove(socket, device.index)
                    .map_err(OverlayError::kernel("remove", name))?;
            }
        }
    }
    found.extend(ipip::clean(socket, dry_run)?);
    found.extend(wireguard::clean(socket, dry_run)?);
    Ok(found)
}
