//! Two hosts on a cable whose devices encrypt, and what goes over the cable.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use ipnetwork::IpNetwork;
use nix::sys::socket::{self, AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType};
use tempfile::TempDir;

use super::tests::clean_round;
use super::{HostTrafficSpec, Overlay, Report, Wanted, WireguardPeer, WireguardSpec};
use crate::lab::NetNs;
use crate::route_table::{Config, Route, RouteTable};
use crate::wireguard::{DeviceState, PublicKey, Wireguard};

pub(super) const V4: &str = "wireguard.cali";
pub(super) const V6: &str = "wg-v6.cali";
pub(super) const MARK: u32 = 0x20_0000;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub(super) fn key(octet: u8) -> PublicKey {
    PublicKey::from([octet; 32])
}

pub(super) fn peer(endpoint: &str, allowed: &[&str]) -> WireguardPeer {
    WireguardPeer {
        endpoint: endpoint.parse().unwrap(),
        keep_alive: 0,
        allowed: allowed.iter().map(|text| net(text)).collect(),
    }
}

pub(super) fn spec(dir: &Path, v6: bool, n: u8) -> WireguardSpec {
    let (name, port, mtu, address) = match v6 {
        false => (V4, 51820, 1440, format!("10.65.{n}.0")),
        true => (V6, 51821, 1420, format!("fd00:65:{n}::")),
    };
    WireguardSpec {
        name: name.to_owned(),
        key_file: dir.join(format!("{name}-{n}.key")),
        port,
        mark: MARK,
        mtu,
        address: Some(ip(&address)),
        peers: BTreeMap::new(),
        threaded: false,
        host_traffic: None,
    }
}

/// Whether the kernel has the driver; says so loudly where it has not.
pub(super) fn has_driver(ns: &NetNs) -> bool {
    let opened = ns.run(Wireguard::open);
    if let Err(error) = &opened {
        eprintln!(
            "NOT RUN: this kernel has no WireGuard ({error}); `make test-vm` runs it on one that has"
        );
    }
    opened.is_ok()
}

/// A host of the lab with its device, or devices.
pub(super) struct Host {
    pub(super) ns: NetNs,
    pub(super) n: u8,
    pub(super) wanted: Wanted,
    pub(super) keys: [PublicKey; 2],
}

impl Host {
    pub(super) fn new(ns: NetNs, n: u8, dir: &Path) -> Self {
        ns.ip("link set up0 up");
        ns.ip(&format!("addr add 192.0.2.{n}/24 dev up0"));
        ns.ip(&format!("addr add 2001:db8::{n}/64 dev up0 nodad"));
        ns.ip(&format!("addr add 10.65.{n}.9/32 dev lo"));
        ns.ip(&format!("addr add fd00:65:{n}::9/128 dev lo"));
        let wanted = Wanted {
            wireguard_v4: Some(spec(dir, false, n)),
            wireguard_v6: Some(spec(dir, true, n)),
            ..Wanted::default()
        };
        let mut host = Self {
            ns,
            n,
            wanted,
            keys: [key(0), key(0)],
        };
        assert!(host.bring().changed > 0);
        host.keys = [V4, V6].map(|name| host.state(name).public_key.unwrap());
        host
    }

    /// What an agent without memory does.
    pub(super) fn bring(&self) -> Report {
        self.ns.run(|| {
            let mut overlay = Overlay::open().unwrap();
            overlay.allow_deletes();
            overlay.set(self.wanted.clone());
            clean_round(&mut overlay)
        })
    }

    pub(super) fn state(&self, name: &str) -> DeviceState {
        self.ns
            .run(|| Wireguard::open().unwrap().read(name).unwrap())
    }

    pub(super) fn meet(&mut self, other: &Self) {
        let n = other.n;
        let specs = [&mut self.wanted.wireguard_v4, &mut self.wanted.wireguard_v6];
        let far = [
            (format!("192.0.2.{n}:51820"), format!("10.65.{n}.0/26")),
            (
                format!("[2001:db8::{n}]:51821"),
                format!("fd00:65:{n}::/122"),
            ),
        ];
        for ((spec, key), (endpoint, block)) in specs.into_iter().zip(other.keys).zip(far) {
            let spec = spec.as_mut().unwrap();
            let host = IpNetwork::from(endpoint.parse::<SocketAddr>().unwrap().ip());
            let mut peer = peer(&endpoint, &[&block]);
            peer.allowed.insert(host);
            spec.peers.insert(key, peer);
        }
        self.bring();
        self.ns.run(|| {
            let mut table = RouteTable::open(Config::default()).unwrap();
            table.set(net(&format!("10.65.{n}.0/26")), Route::device(V4));
            table.set(net(&format!("fd00:65:{n}::/122")), Route::device(V6));
            let report = table.apply();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
        });
    }

    /// What the host sends the one with this number is wanted encrypted too.
    pub(super) fn encrypt_own_traffic(&mut self, far: u8) {
        let n = self.n;
        for (spec, net) in [
            (&mut self.wanted.wireguard_v4, "192.0.2."),
            (&mut self.wanted.wireguard_v6, "2001:db8::"),
        ] {
            spec.as_mut().unwrap().host_traffic = Some(HostTrafficSpec {
                own: ip(&format!("{net}{n}")),
                hosts: [ip(&format!("{net}{far}"))].into(),
                priority: 99,
            });
        }
    }

    pub(super) fn ping(&self, target: &str) {
        let (pong, said) = self
            .ns
            .command(&format!("ping -n -c 2 -i 0.2 -W 20 {target}"));
        assert!(pong, "{said}");
    }
}

/// Two hosts on a cable that know each other.
pub(super) fn two(dir: &Path) -> Option<(Host, Host)> {
    let (a, b) = (NetNs::new(), NetNs::new());
    if !has_driver(&a) {
        return None;
    }
    a.ip(&format!(
        "link add up0 type veth peer name up0 netns {}",
        b.name()
    ));
    let mut a = Host::new(a, 1, dir);
    let mut b = Host::new(b, 2, dir);
    a.meet(&b);
    b.meet(&a);
    Some((a, b))
}

/// Everything that goes over an interface of a namespace.
pub(super) struct Wire(OwnedFd, usize);

impl Wire {
    pub(super) fn tap(ns: &NetNs) -> Self {
        ns.run(|| {
            let fd = socket::socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            );
            Self(
                fd.unwrap(),
                nix::net::if_::if_nametoindex("up0").unwrap() as usize,
            )
        })
    }

    /// How many packets were of WireGuard, and how many were not and no matter of neighbours either.
    pub(super) fn seen(&self) -> (usize, Vec<Vec<u8>>) {
        let (mut encrypted, mut plain) = (0, Vec::new());
        let mut buffer = [0; 4096];
        let fd = self.0.as_raw_fd();
        while let Ok((length, from)) = socket::recvfrom::<LinkAddr>(fd, &mut buffer) {
            if from.is_none_or(|from| from.ifindex() != self.1) {
                continue;
            }
            let frame = &buffer[..length];
            let udp = match frame[12..14] {
                [0x08, 0x00] if frame[23] == 17 => &frame[34..],
                [0x86, 0xdd] if frame[20] == 17 => &frame[54..],
                [0x86, 0xdd] if frame[20] == 58 && frame[54] >= 130 => continue,
                [0x08, 0x06] => continue,
                // Hop-by-hop options, of reports of group membership.
                [0x86, 0xdd] if frame[20] == 0 => continue,
                _ => {
                    plain.push(frame.to_vec());
                    continue;
                }
            };
            match u16::from_be_bytes([udp[2], udp[3]]) {
                51820 | 51821 => encrypted += 1,
                _ => plain.push(frame.to_vec()),
            }
        }
        (encrypted, plain)
    }
}

pub(super) fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}
