//! The messages of `linux/wireguard.h`, written and read attribute by attribute.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{PrivateKey, PublicKey};
use crate::netlink::{Attributes, Batch, Request, family_of, ip_from, string_from, u32_from};

/// The kernel's `struct genlmsghdr`.
pub(super) const GENL_HEADER_LEN: usize = 4;
/// Allowed addresses in one message: an attribute holds at most 65,535 octets, and one of these up to 40.
const ALLOWED_IN_MESSAGE: usize = 1000;

const VERSION: u8 = 1;
const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;

const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_FWMARK: u16 = 7;
const WGDEVICE_A_PEERS: u16 = 8;

const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: u16 = 5;
const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
const WGPEER_A_RX_BYTES: u16 = 7;
const WGPEER_A_TX_BYTES: u16 = 8;
const WGPEER_A_ALLOWEDIPS: u16 = 9;

const WGPEER_F_REMOVE_ME: u32 = 1;
const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;

const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// The type of the controller's messages: it knows the numbers of all others.
pub(super) const GENL_ID_CTRL: u16 = libc::NLMSG_MIN_TYPE as u16;
const FAMILY_NAME: &str = "wireguard";

/// A device as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// None where it has no private key.
    pub public_key: Option<PublicKey>,
    pub(crate) private_key: Option<PrivateKey>,
    /// UDP port.
    pub port: u16,
    /// The mark of encrypted packets; 0 is none.
    pub mark: u32,
    /// Whom it talks to.
    pub peers: BTreeMap<PublicKey, PeerState>,
}

/// Another device as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Where encrypted packets go to.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between two signs of life; 0 is none.
    pub keep_alive: u16,
    /// What is sent to it and taken from it.
    pub allowed: BTreeSet<IpNetwork>,
    /// Seconds since 1970 of the last exchange of keys; 0 if there was none.
    pub last_handshake: u64,
    /// Octets that came from it.
    pub received: u64,
    /// Octets that were sent to it.
    pub sent: u64,
}

/// What to change of a device; what is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceChange {
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) port: Option<u16>,
    pub(crate) mark: Option<u32>,
}

impl DeviceChange {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What to change of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerChange {
    /// Makes the peer if there is none; what is none stays.
    Set {
        endpoint: Option<SocketAddr>,
        keep_alive: Option<u16>,
        /// Taken from other peers that have them.
        add: Vec<IpNetwork>,
        /// What is not in `add` goes.
        replace: bool,
    },
    Remove,
}

const fn genl_header(command: u8) -> [u8; GENL_HEADER_LEN] {
    [command, VERSION, 0, 0]
}

/// Asks for the number of the messages of this kind.
pub(super) fn ask_family(batch: &mut Batch) {
    let header = genl_header(CTRL_CMD_GETFAMILY);
    batch.push(GENL_ID_CTRL, 0, &header, |m| {
        m.string(CTRL_ATTR_FAMILY_NAME, FAMILY_NAME);
    });
}

pub(super) fn family_from(message: &[u8]) -> Option<u16> {
    let attributes = Attributes::after(message, GENL_HEADER_LEN);
    if attributes.find(CTRL_ATTR_FAMILY_NAME).map(string_from)? != FAMILY_NAME {
        return None;
    }
    attributes.find(CTRL_ATTR_FAMILY_ID).and_then(u16_from)
}

/// What a dump of a device is asked with.
pub(super) const fn get_device_header() -> [u8; GENL_HEADER_LEN] {
    genl_header(WG_CMD_GET_DEVICE)
}

pub(super) fn device_name(m: &mut Request<'_>, name: &str) {
    m.string(WGDEVICE_A_IFNAME, name);
}

pub(super) fn set_device(batch: &mut Batch, family: u16, name: &str, change: &DeviceChange) {
    let header = genl_header(WG_CMD_SET_DEVICE);
    batch.push(family, 0, &header, |m| {
        device_name(m, name);
        if let Some(key) = &change.private_key {
            m.bytes(WGDEVICE_A_PRIVATE_KEY, key.octets());
        }
        if let Some(port) = change.port {
            m.bytes(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
        }
        if let Some(mark) = change.mark {
            m.u32(WGDEVICE_A_FWMARK, mark);
        }
    });
}

/// One message, or more where there are many addresses.
pub(super) fn set_peer(
    batch: &mut Batch,
    family: u16,
    name: &str,
    key: &PublicKey,
    change: &PeerChange,
) {
    let mut push = |fill: &dyn Fn(&mut Request<'_>)| {
        let header = genl_header(WG_CMD_SET_DEVICE);
        batch.push(family, 0, &header, |m| {
            device_name(m, name);
            m.nest(WGDEVICE_A_PEERS, &[], |m| {
                m.nest(0, &[], |m| {
                    m.bytes(WGPEER_A_PUBLIC_KEY, key.octets());
                    fill(m);
                });
            });
        });
    };
    let (endpoint, keep_alive, add, replace) = match change {
        PeerChange::Remove => {
            push(&|m| m.u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME));
            return;
        }
        PeerChange::Set {
            endpoint,
            keep_alive,
            add,
            replace,
        } => (endpoint, keep_alive, add, *replace),
    };
    let (first, rest) = add.split_at(add.len().min(ALLOWED_IN_MESSAGE));
    push(&|m| {
        if replace {
            m.u32(WGPEER_A_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS);
        }
        if let Some(endpoint) = endpoint {
            m.bytes(WGPEER_A_ENDPOINT, &sockaddr(*endpoint));
        }
        if let Some(seconds) = keep_alive {
            let seconds = seconds.to_ne_bytes();
            m.bytes(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, &seconds);
        }
        allowed(m, first);
    });
    for part in rest.chunks(ALLOWED_IN_MESSAGE) {
        push(&|m| allowed(m, part));
    }
}

fn allowed(m: &mut Request<'_>, nets: &[IpNetwork]) {
    if nets.is_empty() {
        return;
    }
    m.nest(WGPEER_A_ALLOWEDIPS, &[], |m| {
        for net in nets {
            m.nest(0, &[], |m| {
                let family = u16::from(family_of(net.ip()));
                m.bytes(WGALLOWEDIP_A_FAMILY, &family.to_ne_bytes());
                m.ip(WGALLOWEDIP_A_IPADDR, net.network());
                m.bytes(WGALLOWEDIP_A_CIDR_MASK, &[net.prefix()]);
            });
        }
    });
}

/// Takes in one message of a dump: a device may come in several, and so may a peer.
pub(super) fn merge(device: &mut DeviceState, message: &[u8]) {
    for (kind, value) in Attributes::after(message, GENL_HEADER_LEN) {
        match kind {
            WGDEVICE_A_PRIVATE_KEY => {
                device.private_key = value.try_into().ok().map(PrivateKey::of);
            }
            WGDEVICE_A_PUBLIC_KEY => {
                device.public_key = key_from(value).filter(|key| !key.is_zero());
            }
            WGDEVICE_A_LISTEN_PORT => device.port = u16_from(value).unwrap_or_default(),
            WGDEVICE_A_FWMARK => device.mark = u32_from(value).unwrap_or_default(),
            WGDEVICE_A_PEERS => {
                for (_, peer) in Attributes::nested(value) {
                    merge_peer(device, Attributes::nested(peer));
                }
            }
            _ => {}
        }
    }
}

fn merge_peer(device: &mut DeviceState, attributes: Attributes<'_>) {
    let Some(key) = attributes.find(WGPEER_A_PUBLIC_KEY).and_then(key_from) else {
        return;
    };
    let peer = device.peers.entry(key).or_default();
    for (kind, value) in attributes {
        match kind {
            WGPEER_A_ENDPOINT => peer.endpoint = sockaddr_from(value),
            WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL => {
                peer.keep_alive = u16_from(value).unwrap_or_default();
            }
            // A `struct __kernel_timespec`, whose first half are the seconds.
            WGPEER_A_LAST_HANDSHAKE_TIME => {
                peer.last_handshake = u64_from(value).unwrap_or_default();
            }
            WGPEER_A_RX_BYTES => peer.received = u64_from(value).unwrap_or_default(),
            WGPEER_A_TX_BYTES => peer.sent = u64_from(value).unwrap_or_default(),
            WGPEER_A_ALLOWEDIPS => {
                let nets = Attributes::nested(value);
                peer.allowed
                    .extend(nets.filter_map(|(_, net)| allowed_from(Attributes::nested(net))));
            }
            _ => {}
        }
    }
}

fn allowed_from(attributes: Attributes<'_>) -> Option<IpNetwork> {
    let ip = attributes.find(WGALLOWEDIP_A_IPADDR).and_then(ip_from)?;
    let prefix = *attributes.find(WGALLOWEDIP_A_CIDR_MASK)?.first()?;
    IpNetwork::new(ip, prefix).ok()
}

/// A `struct sockaddr_in` or `struct sockaddr_in6`.
fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(family_of(address.ip())).to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => {
            bytes.extend(v4.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(v6) => {
            bytes.extend([0; 4]);
            bytes.extend(v6.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

fn sockaddr_from(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    let ip = match i32::from(u16_from(value)?) {
        libc::AF_INET => {
            let octets: [u8; 4] = value.get(4..8)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = value.get(8..24)?.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn key_from(value: &[u8]) -> Option<PublicKey> {
    <[u8; 32]>::try_from(value).ok().map(PublicKey::from)
}

fn u16_from(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?))
}

fn u64_from(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?))
}
