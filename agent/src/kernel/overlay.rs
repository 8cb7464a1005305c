//! Tunnels to other hosts, and how large a packet may be on its way to each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_dataplane::overlay::{
    self, HostTrafficSpec, IpipSpec, Report, VxlanSpec, Wanted, WireguardPeer, WireguardSpec,
};
use margay_dataplane::wireguard::{DeviceState, PublicKey};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::derive::{
    IPIP_OVERHEAD, Through, Tunnels, VXLAN_OVERHEAD, VXLAN_V6_OVERHEAD, VxlanTunnel,
    WIREGUARD_OVERHEAD, WIREGUARD_V6_OVERHEAD, WireguardHost, WireguardTunnel,
};

/// Packets of this size every IPv6 link takes (RFC 8200, section 5), so nothing smaller is chosen.
const LEAST_MTU: u32 = 1280;
/// Ethernet's, where nothing is known.
const DEFAULT_MTU: u32 = 1500;
/// The most that an IPv4 packet can have.
const MOST_MTU: u32 = 65535;

/// Private keys of WireGuard, by family, in the folder that is configured.
const KEY_FILES: [&str; 2] = ["wireguard-v4.key", "wireguard-v6.key"];

/// The devices, and the paths to other hosts.
pub(super) struct Overlay {
    driver: overlay::Overlay,
    socket: Socket,
    tunnels: Tunnels,
    /// The largest packet to each other host, before anything is wrapped around it.
    paths: BTreeMap<IpAddr, u32>,
    /// The same of this host's own links.
    links: BTreeMap<IpAddr, u32>,
    wanted: Wanted,
    /// Which device that encrypts has a prefix.
    holders: BTreeMap<IpNetwork, PublicKey>,
    /// The private keys, by family.
    key_files: [PathBuf; 2],
    mtu: watch::Sender<Option<u32>>,
    /// Parts of devices that differed from what was made.
    drift: u64,
}

impl Overlay {
    pub(super) fn open(mtu: watch::Sender<Option<u32>>, keys: &Path) -> Result<Self, NetlinkError> {
        Ok(Self {
            driver: overlay::Overlay::open()?,
            socket: Socket::route()?,
            tunnels: Tunnels::default(),
            paths: BTreeMap::new(),
            links: BTreeMap::new(),
            wanted: Wanted::default(),
            holders: BTreeMap::new(),
            key_files: KEY_FILES.map(|name| keys.join(name)),
            mtu,
            drift: 0,
        })
    }

    /// The port of the devices' socket, whose own changes the monitor should not report.
    pub(super) fn port(&self) -> u32 {
        self.driver.port()
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.driver.is_wanted()
    }

    pub(super) fn is_ours(&self, index: u32) -> bool {
        self.driver.is_ours(index)
    }

    pub(super) fn set(&mut self, tunnels: Tunnels) {
        if self.tunnels != tunnels {
            self.tunnels = tunnels;
            let hosts = &self.tunnels.hosts;
            self.paths.retain(|host, _| hosts.contains_key(host));
            let known = std::mem::take(&mut self.paths);
            self.look(known);
        }
    }

    /// Prefixes came to devices that encrypt, or left them.
    pub(super) fn set_holders(&mut self, changes: Vec<(IpNetwork, Option<PublicKey>)>) {
        if changes.is_empty() {
            return;
        }
        for (net, holder) in changes {
            match holder {
                Some(key) => self.holders.insert(net, key),
                None => self.holders.remove(&net),
            };
        }
        self.wanted = self.specs();
        self.driver.set(self.wanted.clone());
    }

    /// Links or routes changed: the paths may take larger or smaller packets. Whether that changes any limit.
    pub(super) fn refresh(&mut self) -> bool {
        let before = self.paths.clone();
        self.look(BTreeMap::new());
        before != self.paths
    }

    /// Asks for the paths that are not known, and works out what follows from all of them.
    fn look(&mut self, mut paths: BTreeMap<IpAddr, u32>) {
        let own = self.tunnels.own.keys();
        match own_links(&mut self.socket, own) {
            Ok(links) => self.links = links,
            Err(error) => warn!(%error, "interfaces of the host cannot be read"),
        }
        for host in self.tunnels.hosts.keys() {
            if paths.contains_key(host) {
                continue;
            }
            match link::route_get(&mut self.socket, *host) {
                Ok(path) => paths.extend(path.map(|path| (*host, path.mtu.min(MOST_MTU)))),
                Err(error) => warn!(%host, %error, "the path to a host cannot be read"),
            }
        }
        self.paths = paths;
        self.wanted = self.specs();
        self.driver.set(self.wanted.clone());
        let mtu = self.smallest();
        let told = self.mtu.send_if_modified(|told| {
            let differs = *told != mtu;
            *told = mtu;
            differs
        });
        if told {
            debug!(?mtu, "largest packet that reaches every host");
        }
    }

    /// The largest packet in bytes that reaches every other host whole; none while that is not known.
    pub(super) fn path_mtu(&self) -> Option<u32> {
        *self.mtu.borrow()
    }

    /// The devices that encrypt and that metrics are to tell of.
    pub(super) fn encrypted_devices(&mut self) -> Vec<(String, DeviceState)> {
        let told = self.tunnels.wireguard.iter().flatten();
        let told: Vec<&str> = told
            .filter(|tunnel| tunnel.settings.has_metrics)
            .map(|tunnel| tunnel.settings.device.as_str())
            .collect();
        if told.is_empty() {
            return Vec::new();
        }
        let mut devices = self.driver.encrypted();
        devices.retain(|(name, _)| told.contains(&name.as_str()));
        devices
    }

    /// Looks at the kernel again.
    pub(super) fn invalidate(&mut self) {
        self.driver.invalidate();
    }

    pub(super) fn allow_deletes(&mut self) {
        self.driver.allow_deletes();
    }

    /// Before routes that need the devices.
    pub(super) fn prepare(&mut self) -> Vec<String> {
        let report = self.driver.prepare();
        self.told(&report)
    }

    /// After routes that needed them.
    pub(super) fn prune(&mut self) -> Vec<String> {
        let report = self.driver.prune();
        self.told(&report)
    }

    /// What went wrong, in words.
    fn told(&mut self, report: &Report) -> Vec<String> {
        if report.drift > 0 {
            info!(
                objects = report.drift,
                "tunnel devices differed and were repaired"
            );
            self.drift += report.drift as u64;
        }
        report.failures.iter().map(ToString::to_string).collect()
    }

    /// How much somebody else had changed, since it was asked last.
    pub(super) fn take_drift(&mut self) -> u64 {
        std::mem::take(&mut self.drift)
    }

    /// The limit of a route, where it is smaller than that of the device it leads through.
    pub(super) fn limit(&self, through: Through) -> Option<u32> {
        let (host, device, overhead) = match through {
            Through::Plain(_) | Through::Vtep | Through::Learned => return None,
            Through::Vxlan { host, .. } => {
                let spec = match host {
                    IpAddr::V4(_) => &self.wanted.vxlan_v4,
                    IpAddr::V6(_) => &self.wanted.vxlan_v6,
                };
                (host, spec.as_ref()?.mtu, overhead_of(host))
            }
            Through::Ipip(host) => (host, self.wanted.ipip.as_ref()?.mtu, IPIP_OVERHEAD),
            Through::Wireguard(host) => {
                let (spec, overhead) = match host {
                    IpAddr::V4(_) => (&self.wanted.wireguard_v4, WIREGUARD_OVERHEAD),
                    IpAddr::V6(_) => (&self.wanted.wireguard_v6, WIREGUARD_V6_OVERHEAD),
                };
                (host, spec.as_ref()?.mtu, overhead)
            }
        };
        let path = self.paths.get(&host)?.saturating_sub(overhead);
        (path < device).then_some(path.max(LEAST_MTU))
    }

    fn specs(&self) -> Wanted {
        let vxlan = |tunnel: &Option<VxlanTunnel>| {
            let tunnel = tunnel.as_ref()?;
            let found_out = || self.device_mtu(tunnel.local, overhead_of(tunnel.local));
            Some(VxlanSpec {
                vni: tunnel.vni,
                port: tunnel.port,
                local: tunnel.local,
                mac: tunnel.mac,
                mtu: tunnel.mtu.unwrap_or_else(found_out),
                address: tunnel.address,
                peers: tunnel.peers.clone(),
            })
        };
        let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let ipip = self.tunnels.ipip.as_ref().map(|tunnel| IpipSpec {
            mtu: tunnel
                .mtu
                .unwrap_or_else(|| self.device_mtu(any_v4, IPIP_OVERHEAD)),
            address: tunnel.address,
        });
        let [wireguard_v4, wireguard_v6] = self.encrypted();
        Wanted {
            vxlan_v4: vxlan(&self.tunnels.vxlan_v4),
            vxlan_v6: vxlan(&self.tunnels.vxlan_v6),
            ipip,
            wireguard_v4,
            wireguard_v6,
        }
    }

    /// The devices that encrypt, by family.
    fn encrypted(&self) -> [Option<WireguardSpec>; 2] {
        let mut held: BTreeMap<PublicKey, BTreeSet<IpNetwork>> = BTreeMap::new();
        for (net, key) in &self.holders {
            held.entry(*key).or_default().insert(*net);
        }
        let spec = |tunnel: &Option<WireguardTunnel>, key_file: &PathBuf, overhead| {
            let tunnel = tunnel.as_ref()?;
            let settings = &tunnel.settings;
            let peer = |(key, far): (&PublicKey, &WireguardHost)| {
                let mut allowed = far.own.clone();
                let nets = held.get(key).into_iter().flatten();
                allowed.extend(nets.filter(|net| net.is_ipv4() == tunnel.local.is_ipv4()));
                let peer = WireguardPeer {
                    endpoint: SocketAddr::new(far.host, settings.port),
                    keep_alive: settings.keep_alive,
                    allowed,
                };
                (*key, peer)
            };
            let host_traffic = tunnel.host_traffic.then(|| HostTrafficSpec {
                own: tunnel.local,
                hosts: tunnel.peers.values().map(|far| far.host).collect(),
                priority: settings.priority,
            });
            let found_out = || self.device_mtu(tunnel.local, overhead);
            Some(WireguardSpec {
                name: settings.device.clone(),
                key_file: key_file.clone(),
                port: settings.port,
                threaded: settings.threaded,
                mark: settings.mark,
                mtu: settings.mtu.unwrap_or_else(found_out),
                address: tunnel.address,
                peers: tunnel.peers.iter().map(peer).collect(),
                host_traffic,
            })
        };
        let [v4, v6] = &self.tunnels.wireguard;
        let [v4_key, v6_key] = &self.key_files;
        [
            spec(v4, v4_key, WIREGUARD_OVERHEAD),
            spec(v6, v6_key, WIREGUARD_V6_OVERHEAD),
        ]
    }

    /// What the best path of a family takes; routes over others have limits of their own.
    fn device_mtu(&self, family: IpAddr, overhead: u32) -> u32 {
        let same = |(ip, _): &(&IpAddr, &u32)| ip.is_ipv4() == family.is_ipv4();
        let paths = self.paths.iter().filter(same).map(|(_, mtu)| *mtu).max();
        let links = || self.links.iter().filter(same).map(|(_, mtu)| *mtu).max();
        let outer = paths.or_else(links).unwrap_or(DEFAULT_MTU);
        outer.saturating_sub(overhead).clamp(LEAST_MTU, MOST_MTU)
    }

    /// What the worst path takes.
    fn smallest(&self) -> Option<u32> {
        let inner = |outer: &BTreeMap<IpAddr, u32>, overheads: &BTreeMap<IpAddr, u32>| {
            let inner = outer.iter().map(|(ip, mtu)| {
                let overhead = overheads.get(ip).copied().unwrap_or(0);
                mtu.saturating_sub(overhead)
            });
            inner.min()
        };
        let paths = inner(&self.paths, &self.tunnels.hosts);
        let least = paths.or_else(|| inner(&self.links, &self.tunnels.own))?;
        let set = [&self.tunnels.vxlan_v4, &self.tunnels.vxlan_v6];
        let set = set.into_iter().flatten().filter_map(|tunnel| tunnel.mtu);
        let ipip = self.tunnels.ipip.as_ref().and_then(|tunnel| tunnel.mtu);
        let encrypted = self.tunnels.wireguard.iter().flatten();
        let encrypted = encrypted.filter_map(|tunnel| tunnel.settings.mtu);
        let least = set.chain(ipip).chain(encrypted).fold(least, u32::min);
        Some(least.clamp(LEAST_MTU, MOST_MTU))
    }
}

/// The MTU of the interfaces that have these addresses.
fn own_links<'a>(
    socket: &mut Socket,
    own: impl Iterator<Item = &'a IpAddr>,
) -> Result<BTreeMap<IpAddr, u32>, NetlinkError> {
    let own: Vec<IpAddr> = own.copied().collect();
    let mut found = BTreeMap::new();
    for address in link::addresses(socket)? {
        let ip = address.address.ip();
        if own.contains(&ip)
            && let Some(link) = link::by_index(socket, address.index)?
            && link.name != "lo"
        {
            found.insert(ip, link.mtu.min(MOST_MTU));
        }
    }
    Ok(found)
}

fn overhead_of(host: IpAddr) -> u32 {
    match host {
        IpAddr::V4(_) => VXLAN_OVERHEAD,
        IpAddr::V6(_) => VXLAN_V6_OVERHEAD,
    }
}
