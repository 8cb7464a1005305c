//! A WireGuard device with all other hosts that have a key entered in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use super::device::{self, Device};
use super::host_traffic::{HostTraffic, HostTrafficSpec};
use super::{Driver, OverlayError, threads};
use crate::netlink::{Batch, NetlinkError, RequestError, Socket, ifinfomsg};
use crate::wireguard::{
    DeviceChange, DeviceState, PeerChange, PeerState, PrivateKey, PublicKey, Wireguard,
};

const KIND: &str = "wireguard";
/// Marks a device as ours: its name is also what the established system calls its own.
const ALIASES: [&str; 2] = ["margay wireguard IPv4", "margay wireguard IPv6"];
/// Longest name of an interface, as the kernel has it.
const NAME_LEN: usize = 15;
/// Asked of a peer that is new, for a moment: it makes the kernel exchange keys at once. A host that wrote to us before
/// it was entered here would otherwise wait five seconds for its next attempt.
const WAKE_SECS: u16 = 25;
/// Until a kernel that had no driver is asked for it again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A device as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardSpec {
    /// Its name.
    pub name: String,
    /// Where the private key is; one that is missing is made.
    pub key_file: PathBuf,
    /// UDP port.
    pub port: u16,
    /// The mark of encrypted packets, by which they are told from what is to be encrypted.
    pub mark: u32,
    /// Largest inner packet, in bytes.
    pub mtu: u32,
    /// The device's own address, which the host's own packets are from.
    pub address: Option<IpAddr>,
    /// The other hosts, by their keys.
    pub peers: BTreeMap<PublicKey, WireguardPeer>,
    /// Threads decrypt what is received, which the scheduler spreads over processors; else it is done where packets arrive.
    pub threaded: bool,
    /// What the hosts send each other is encrypted too.
    pub host_traffic: Option<HostTrafficSpec>,
}

/// Another host's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Where encrypted packets go to.
    pub endpoint: SocketAddr,
    /// Seconds between two signs of life; 0 is none.
    pub keep_alive: u16,
    /// What is sent to it and taken from it.
    pub allowed: BTreeSet<IpNetwork>,
}

/// The driver of the device of one family.
#[derive(Debug)]
pub(super) struct Encrypted {
    v6: bool,
    index: Option<u32>,
    /// There is nothing of ours: nobody but us makes such a device.
    is_gone: bool,
    /// When the kernel had no driver: it looks for the module each time it is asked.
    without_driver: Option<Instant>,
    /// Once it was needed.
    kernel: Option<Wireguard>,
    hosts: HostTraffic,
}

impl Encrypted {
    pub(super) const fn new(v6: bool) -> Self {
        Self {
            v6,
            index: None,
            is_gone: false,
            without_driver: None,
            kernel: None,
            hosts: HostTraffic::new(v6),
        }
    }

    /// Without the private key.
    pub(super) fn state(&mut self, spec: &WireguardSpec) -> Option<(String, DeviceState)> {
        self.index?;
        let state = self.kernel(&spec.name).ok()?.read(&spec.name).ok()?;
        let state = DeviceState {
            private_key: None,
            ..state
        };
        Some((spec.name.clone(), state))
    }

    const fn alias(&self) -> &'static str {
        ALIASES[self.v6 as usize]
    }

    fn kernel(&mut self, name: &str) -> Result<&mut Wireguard, OverlayError> {
        if self.kernel.is_none() {
            self.kernel = Some(Wireguard::open().map_err(|error| without_driver(name, error))?);
        }
        Ok(self.kernel.as_mut().expect("it was opened"))
    }

    /// The device of this name, and whether it had to be made.
    fn device(&self, name: &str, socket: &mut Socket) -> Result<(Device, usize), OverlayError> {
        if name.is_empty() || name.len() > NAME_LEN {
            return Err(OverlayError::Name(name.to_owned()));
        }
        let found = device::find(socket, name).map_err(OverlayError::kernel("read", name))?;
        if let Some(device) = found {
            return match device.link.kind == KIND && device.alias == self.alias() {
                true => Ok((device, 0)),
                false => Err(OverlayError::foreign(name, device.link.kind)),
            };
        }
        // One of another name would hold the port.
        for (name, index) in ours(socket, &[self.alias()])? {
            device::remove(socket, index).map_err(OverlayError::kernel("remove", &name))?;
        }
        create(socket, name, self.alias()).map(|device| (device, 1))
    }

    /// Key, port and mark.
    fn configure(&mut self, spec: &WireguardSpec) -> Result<(DeviceState, usize), OverlayError> {
        let name = &spec.name;
        let found = self.kernel(name)?.read(name);
        let found = found.map_err(OverlayError::kernel("read", name))?;
        let key = match (PrivateKey::load(&spec.key_file)?, &found.private_key) {
            (Some(key), _) => key,
            // The file was lost, and the device is still known by its key.
            (None, Some(key)) => {
                key.save(&spec.key_file)?;
                key.clone()
            }
            (None, None) => {
                let key = PrivateKey::generate()?;
                key.save(&spec.key_file)?;
                key
            }
        };
        let change = DeviceChange {
            private_key: (found.private_key.as_ref() != Some(&key)).then_some(key),
            port: (found.port != spec.port).then_some(spec.port),
            mark: (found.mark != spec.mark).then_some(spec.mark),
        };
        if change.is_empty() {
            return Ok((found, 0));
        }
        let changed = self.kernel(name)?.set_device(name, &change);
        changed.map_err(OverlayError::kernel("set up", name))?;
        Ok((found, 1))
    }
}

impl Driver for Encrypted {
    type Spec = WireguardSpec;

    fn prepare(
        &mut self,
        spec: &WireguardSpec,
        socket: &mut Socket,
    ) -> Result<usize, OverlayError> {
        let name = spec.name.as_str();
        self.is_gone = false;
        if self
            .without_driver
            .is_some_and(|at| at.elapsed() < LOOK_AGAIN)
        {
            return Err(no_driver(name));
        }
        let device = self.device(name, socket);
        let is_missing = matches!(device, Err(OverlayError::NoDriver { .. }));
        self.without_driver = is_missing.then(Instant::now);
        let (device, mut changed) = device?;
        self.index = Some(device.index);
        changed += device::switches(name)?;
        let (found, configured) = self.configure(spec)?;
        changed += configured;
        changed += device::adjust(socket, &device, None, spec.mtu)
            .map_err(OverlayError::kernel("set up", name))?;
        if let Some(address) = spec.address {
            let present = device::addresses(socket, device.index)
                .map_err(OverlayError::kernel("read", name))?;
            if !present.iter().any(|a| a.address.address == address.into()) {
                device::add_address(socket, device.index, address, name)
                    .map_err(OverlayError::kernel("add an address to", name))?;
                changed += 1;
            }
        }
        let additions = additions(&found.peers, &spec.peers);
        changed += additions.len();
        self.kernel(name)?
            .set_peers(name, &additions)
            .map_err(OverlayError::kernel("enter hosts in", name))?;
        if let Some(hosts) = &spec.host_traffic {
            changed += self.hosts.prepare(hosts, name, spec.mark, socket)?;
        }
        // Last: all else does without.
        Ok(changed + threads::set(&device, spec.threaded)?)
    }

    fn prune(
        &mut self,
        spec: Option<&WireguardSpec>,
        socket: &mut Socket,
    ) -> Result<usize, OverlayError> {
        if spec.is_none() && self.is_gone {
            return Ok(0);
        }
        let hosts = spec.and_then(|spec| spec.host_traffic.as_ref());
        let mut changed = self.hosts.prune(hosts.is_some(), socket)?;
        let Some(spec) = spec else {
            for (name, index) in ours(socket, &[self.alias()])? {
                device::remove(socket, index).map_err(OverlayError::kernel("remove", &name))?;
                changed += 1;
            }
            self.index = None;
            self.is_gone = true;
            return Ok(changed);
        };
        let name = spec.name.as_str();
        let found = device::find(socket, name).map_err(OverlayError::kernel("read", name))?;
        let is_ours = |device: &Device| device.link.kind == KIND && device.alias == self.alias();
        let Some(device) = found.filter(is_ours) else {
            return Ok(changed);
        };
        let wanted = spec.address.map(IpNetwork::from);
        let present =
            device::addresses(socket, device.index).map_err(OverlayError::kernel("read", name))?;
        // With its last address the kernel takes all routes into the device away, and packets would go in the clear.
        let is_wanted = |found: &device::Labelled| Some(found.address.address) == wanted;
        let may_lose = wanted.is_none() || present.iter().any(is_wanted);
        for found in present.into_iter().filter(|_| may_lose) {
            if !is_wanted(&found) {
                device::remove_address(socket, &found.address)
                    .map_err(OverlayError::kernel("remove an address from", name))?;
                changed += 1;
            }
        }
        let kernel = self.kernel(name)?;
        let found = kernel
            .read(name)
            .map_err(OverlayError::kernel("read", name))?;
        let removals = removals(&found.peers, &spec.peers);
        kernel
            .set_peers(name, &removals)
            .map_err(OverlayError::kernel("remove hosts from", name))?;
        Ok(changed + removals.len())
    }

    fn index(&self) -> Option<u32> {
        self.index
    }
}

/// What peers lack; nothing is taken from any, but what is added here and another one has.
fn additions(
    found: &BTreeMap<PublicKey, PeerState>,
    wanted: &BTreeMap<PublicKey, WireguardPeer>,
) -> Vec<(PublicKey, PeerChange)> {
    let mut changes = Vec::new();
    for (key, peer) in wanted {
        let Some(found) = found.get(key) else {
            let set = |keep_alive, add| PeerChange::Set {
                endpoint: Some(peer.endpoint),
                keep_alive: Some(keep_alive),
                add,
                replace: false,
            };
            let awake = peer.keep_alive.max(WAKE_SECS);
            changes.push((*key, set(awake, peer.allowed.iter().copied().collect())));
            if awake != peer.keep_alive {
                changes.push((*key, set(peer.keep_alive, Vec::new())));
            }
            continue;
        };
        let add: Vec<IpNetwork> = peer.allowed.difference(&found.allowed).copied().collect();
        let endpoint = (found.endpoint != Some(peer.endpoint)).then_some(peer.endpoint);
        let keep_alive = (found.keep_alive != peer.keep_alive).then_some(peer.keep_alive);
        if !add.is_empty() || endpoint.is_some() || keep_alive.is_some() {
            let change = PeerChange::Set {
                endpoint,
                keep_alive,
                add,
                replace: false,
            };
            changes.push((*key, change));
        }
    }
    changes
}

/// Peers that nobody wants, and peers that have more than they should.
fn removals(
    found: &BTreeMap<PublicKey, PeerState>,
    wanted: &BTreeMap<PublicKey, WireguardPeer>,
) -> Vec<(PublicKey, PeerChange)> {
    let change = |(key, found): (&PublicKey, &PeerState)| {
        let Some(peer) = wanted.get(key) else {
            return Some((*key, PeerChange::Remove));
        };
        let has_more = !found.allowed.is_subset(&peer.allowed);
        has_more.then(|| {
            let change = PeerChange::Set {
                endpoint: None,
                keep_alive: None,
                add: peer.allowed.iter().copied().collect(),
                replace: true,
            };
            (*key, change)
        })
    };
    found.iter().filter_map(change).collect()
}

/// Devices of ours, by name and index.
fn ours(socket: &mut Socket, aliases: &[&str]) -> Result<Vec<(String, u32)>, OverlayError> {
    let all = device::of_kind(socket, KIND).map_err(OverlayError::kernel("read", "interfaces"))?;
    let ours = all
        .into_iter()
        .filter(|device| aliases.contains(&device.alias.as_str()));
    Ok(ours
        .map(|device| (device.link.name, device.index))
        .collect())
}

/// Makes the device, down, and marks it in the same breath.
fn create(socket: &mut Socket, name: &str, alias: &str) -> Result<Device, OverlayError> {
    let mut batch = Batch::new();
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.push(libc::RTM_NEWLINK, flags, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, name);
        m.nest(libc::IFLA_LINKINFO, &[], |m| {
            m.string(libc::IFLA_INFO_KIND, KIND);
        });
    });
    batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, name);
        m.bytes(libc::IFLA_IFALIAS, alias.as_bytes());
    });
    let outcome = socket.transact(&mut batch);
    let refused = outcome.map_err(|error| without_driver(name, error))?.errors;
    if let Some((place, error)) = refused.into_iter().next() {
        // Made and not marked, it would be taken for somebody else's.
        if place > 0
            && let Ok(Some(made)) = device::find(socket, name)
        {
            device::remove(socket, made.index).map_err(OverlayError::kernel("remove", name))?;
        }
        return Err(without_driver(name, error.into()));
    }
    let found = device::find(socket, name).map_err(OverlayError::kernel("read", name))?;
    let vanished = RequestError {
        errno: libc::ENODEV,
        text: None,
    };
    found.ok_or_else(|| OverlayError::kernel("create", name)(vanished.into()))
}

/// A kernel that does not know what WireGuard is says so with either of these.
fn without_driver(name: &str, error: NetlinkError) -> OverlayError {
    let unknown = error
        .refused()
        .is_some_and(|e| e.is_missing() || e.errno == libc::EOPNOTSUPP);
    match unknown {
        true => no_driver(name),
        false => OverlayError::kernel("create", name)(error),
    }
}

fn no_driver(name: &str) -> OverlayError {
    OverlayError::NoDriver {
        name: name.to_owned(),
        kind: KIND,
    }
}

/// Removes devices, rules and routes; with `dry_run` only tells. Each in words.
pub(super) fn clean(socket: &mut Socket, dry_run: bool) -> Result<Vec<String>, OverlayError> {
    let mut found = Vec::new();
    for (name, index) in ours(socket, &ALIASES)? {
        found.push(format!("interface {name}"));
        if !dry_run {
            device::remove(socket, index).map_err(OverlayError::kernel("remove", &name))?;
        }
    }
    for v6 in [false, true] {
        found.extend(super::host_traffic::clean(socket, v6, dry_run)?);
    }
    Ok(found)
}

#[cfg(test)]
#[path = "wireguard_tests.rs"]
mod tests;
