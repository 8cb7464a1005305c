//! The host's side: making and removing the pair, and the switches of its host end.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use sha2::{Digest, Sha256};

use super::{AttachError, AttachSpec, Attached, GATEWAY_V6, HOST_MAC, Record};
use crate::bandwidth::ifb_name;
use crate::link::{self, Link};
use crate::netlink::{
    Batch, NetlinkError, Outcome, Request, RequestError, Socket, family_of, ifinfomsg, ndmsg,
};
use crate::sysctl;

const UP: u32 = libc::IFF_UP as u32;
const VETH_INFO_PEER: u16 = 1;
/// `IFLA_INET_CONF` in the IPv4 part of `IFLA_AF_SPEC`: switches by their number, without a trip through /proc.
const IFLA_INET_CONF: u16 = 1;
const DEVCONF_FORWARDING: u16 = 1;
const DEVCONF_PROXY_ARP: u16 = 3;
const DEVCONF_RP_FILTER: u16 = 8;
const DEVCONF_ROUTE_LOCALNET: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
/// The link group that interfaces are put in to be deleted together. Nothing stays in it.
const DOOMED_GROUP: u32 = 0x6d67_7900;
/// A `send` is limited by the socket's buffer (about 200 kB); a request here is about 60 bytes.
const REMOVE_BATCH: usize = 256;
/// Ethernet's, which a veth has by itself.
const DEFAULT_MTU: u32 = 1500;
const CARRIER_WAIT: Duration = Duration::from_secs(1);

pub(super) fn create_link(
    socket: &mut Socket,
    spec: &AttachSpec,
    netns: Option<&File>,
) -> Result<Attached, AttachError> {
    let name = &spec.host_ifname;
    let container_mac = spec.container_mac.unwrap_or_else(|| mac_of(name));
    let mut batch = Batch::new();
    push_veth(&mut batch, spec, netns, container_mac);
    let v6 = push_switches(&mut batch, spec, netns.is_some());
    // Asked before the interface is up: reading the state of one that is up without a carrier makes the kernel
    // deactivate it, which waits for a grace period of its readers.
    let query = batch.push(libc::RTM_GETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, name);
    });
    batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(0, UP, UP), |m| {
        m.string(libc::IFLA_IFNAME, name)
    });
    let send = AttachError::kernel("create the veth pair", name);
    let outcome = match socket.transact(&mut batch) {
        Ok(outcome) => outcome,
        Err(error) => {
            // Nobody knows whether it was made. That of an ADD before this one has a carrier.
            let found = link::find(socket, name);
            if found.is_ok_and(|link| link.is_some_and(|link| !link.running)) {
                discard(name);
            }
            return Err(send(error));
        }
    };
    if let Some(error) = outcome.error(0) {
        return Err(not_created(socket, spec, error));
    }
    let made = attached(spec, &outcome, v6, query, container_mac);
    if made.is_err() {
        discard(name);
    }
    made
}

/// Removes the host end, and with it the pair. A missing interface is success.
pub fn remove(host_ifname: &str) -> Result<(), AttachError> {
    remove_many(&[host_ifname])
}

/// Removes many host ends, with the devices that [`crate::bandwidth`] made for them, for the price of one: put in one
/// link group, the kernel deletes them in one go and waits once for its readers. Missing interfaces are success. If one cannot be deleted, none of its 256 is.
pub fn remove_many<S: AsRef<str>>(host_ifnames: &[S]) -> Result<(), AttachError> {
    let fail = |name: &S| AttachError::kernel("remove the veth pair", name.as_ref());
    let Some(first) = host_ifnames.first() else {
        return Ok(());
    };
    let mut socket = Socket::route().map_err(fail(first))?;
    for names in host_ifnames.chunks(REMOVE_BATCH) {
        let mut batch = Batch::new();
        push_group(&mut batch, names, DOOMED_GROUP);
        let ifbs: Vec<String> = names.iter().map(|n| ifb_name(n.as_ref())).collect();
        push_group(&mut batch, &ifbs, DOOMED_GROUP);
        batch.push(libc::RTM_DELLINK, 0, &ifinfomsg(0, 0, 0), |m| {
            m.u32(libc::IFLA_GROUP, DOOMED_GROUP);
        });
        let outcome = socket.transact(&mut batch).map_err(fail(&names[0]))?;
        // Two removals at once may each delete what the other marked: then there is nothing left to delete.
        if let Some((place, error)) = outcome.errors.into_iter().find(|(_, e)| !e.is_missing()) {
            // Left in the group, what cannot be deleted would spoil every later removal.
            batch.clear();
            push_group(&mut batch, names, 0);
            push_group(&mut batch, &ifbs, 0);
            socket.transact(&mut batch).map_err(fail(&names[0]))?;
            return Err(fail(names.get(place).unwrap_or(&names[0]))(error.into()));
        }
    }
    Ok(())
}

/// Removes what an attachment that failed has made; its own error matters more than this one.
pub(super) fn discard(host_ifname: &str) {
    if let Err(error) = remove(host_ifname) {
        tracing::warn!(host_ifname, %error, "a failed attachment left its interface behind");
    }
}

/// The switches of the host end that netlink does not have, and the gateway's address.
pub(super) fn prepare(
    socket: &mut Socket,
    spec: &AttachSpec,
    link: &Attached,
) -> Result<(), AttachError> {
    let name = &spec.host_ifname;
    // The kernel's default of 80 answers each ARP request after a random wait of up to 0.8 s.
    sysctl::write(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")?;
    let conf = |key: &str, value| sysctl::write(&format!("net/ipv6/conf/{name}/{key}"), value);
    match conf("accept_ra", "0") {
        // No IPv6 in this kernel, and none asked for.
        Err(e) if e.is_missing() && !spec.ipv6 => return Ok(()),
        other => other?,
    }
    if !spec.ipv6 {
        return Ok(());
    }
    for (key, value) in [
        ("disable_ipv6", "0"),
        ("accept_dad", "0"),
        ("forwarding", "1"),
        ("proxy_ndp", "1"),
        // An interface that somebody takes down loses the gateway's address: with this the kernel makes
        // the same one from HOST_MAC when it comes up again.
        ("addr_gen_mode", "0"),
    ] {
        conf(key, value)?;
    }
    add_gateway(socket, link.host_ifindex, GATEWAY_V6).map_err(AttachError::kernel(
        "add the gateway's link-local address",
        name,
    ))
}

/// The container's end came up last. Packets for it can leave when this returns.
///
/// The host end hears of that by a work queue, and drops what it is to send until then. Asking for its state makes new
/// kernels (6.8 and up) run that work; older ones are polled.
///
/// The container hears who asks for its IPv6 address by another work queue, which on a busy host comes to it after the
/// first question, and the second one is a second later. So the host is told where the addresses are. As known of old,
/// not for good: in use, it asks the container itself after some seconds, which may have another hardware address then.
pub(super) fn meet(
    socket: &mut Socket,
    spec: &AttachSpec,
    link: &Attached,
    addresses: &[IpAddr],
) -> Result<(), AttachError> {
    let name = &spec.host_ifname;
    let fail = || AttachError::kernel("read the state", name);
    let mut batch = Batch::new();
    for address in addresses {
        let header = ndmsg(family_of(*address), link.host_ifindex, libc::NUD_STALE);
        let put = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        batch.push(libc::RTM_NEWNEIGH, put, &header, |m| {
            m.ip(libc::NDA_DST, *address);
            m.bytes(libc::NDA_LLADDR, &link.container_mac);
        });
    }
    let query = batch.push(
        libc::RTM_GETLINK,
        0,
        &ifinfomsg(link.host_ifindex, 0, 0),
        |_| {},
    );
    // A table of neighbours that is full takes none; then the host asks.
    let outcome = socket.transact(&mut batch).map_err(fail())?;
    let found = outcome.answer(query).and_then(|a| Link::parse(&a.payload));
    if found.is_some_and(|link| link.running) {
        return Ok(());
    }
    let start = Instant::now();
    let mut pause = Duration::from_micros(50);
    while start.elapsed() < CARRIER_WAIT {
        if link::by_index(socket, link.host_ifindex)
            .map_err(fail())?
            .is_some_and(|l| l.running)
        {
            return Ok(());
        }
        thread::sleep(pause);
        pause *= 2;
    }
    let waited_ms = CARRIER_WAIT.as_millis() as u64;
    Err(AttachError::NoCarrier {
        ifname: name.clone(),
        waited_ms,
    })
}

fn push_group<S: AsRef<str>>(batch: &mut Batch, names: &[S], group: u32) {
    for name in names {
        batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
            m.string(libc::IFLA_IFNAME, name.as_ref());
            m.u32(libc::IFLA_GROUP, group);
        });
    }
}

fn push_veth(batch: &mut Batch, spec: &AttachSpec, netns: Option<&File>, container_mac: [u8; 6]) {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let end = |m: &mut Request<'_>, name: &str, mac: &[u8; 6]| {
        m.string(libc::IFLA_IFNAME, name);
        m.bytes(libc::IFLA_ADDRESS, mac);
        // The kernel's default is a queue for each possible CPU, which costs memory and brings nothing without XDP.
        let queues = spec.queues.unwrap_or(1);
        m.u32(libc::IFLA_NUM_TX_QUEUES, queues);
        m.u32(libc::IFLA_NUM_RX_QUEUES, queues);
        m.u32(libc::IFLA_MTU, spec.mtu.unwrap_or(DEFAULT_MTU));
    };
    batch.push(libc::RTM_NEWLINK, flags, &ifinfomsg(0, 0, 0), |m| {
        end(m, &spec.host_ifname, &HOST_MAC);
        m.nest(libc::IFLA_LINKINFO, &[], |m| {
            m.string(libc::IFLA_INFO_KIND, "veth");
            m.nest(libc::IFLA_INFO_DATA, &[], |m| {
                m.nest(VETH_INFO_PEER, &ifinfomsg(0, 0, 0), |m| {
                    end(m, &spec.container_ifname, &container_mac);
                    if let Some(netns) = netns {
                        m.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
                    }
                });
            });
        });
    });
}

/// Returns the place of the IPv6 request, which a kernel without IPv6 refuses.
fn push_switches(batch: &mut Batch, spec: &AttachSpec, has_netns: bool) -> usize {
    let record = Record {
        ifname: spec.host_ifname.clone(),
        mtu: spec.mtu.unwrap_or(DEFAULT_MTU),
        follows: spec.mtu_follows,
        any_source: spec.allow_spoofing,
        netns: has_netns.then(|| spec.netns.clone()),
        ..Record::default()
    };
    batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, &spec.host_ifname);
        // While the interface is down nobody is told of it.
        m.bytes(libc::IFLA_IFALIAS, record.text().as_bytes());
        m.nest(libc::IFLA_AF_SPEC, &[], |m| {
            m.nest(libc::AF_INET as u16, &[], |m| {
                m.nest(IFLA_INET_CONF, &[], |m| {
                    m.u32(DEVCONF_FORWARDING, 1);
                    m.u32(DEVCONF_PROXY_ARP, 1);
                    m.u32(DEVCONF_ROUTE_LOCALNET, 1);
                    m.u32(DEVCONF_RP_FILTER, u32::from(!spec.allow_spoofing));
                });
            });
        });
    });
    // The kernel would run duplicate detection for a second on the address it makes; `prepare` adds the same one.
    batch.push(libc::RTM_SETLINK, 0, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, &spec.host_ifname);
        m.nest(libc::IFLA_AF_SPEC, &[], |m| {
            m.nest(libc::AF_INET6 as u16, &[], |m| {
                m.bytes(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
            });
        });
    })
}

fn attached(
    spec: &AttachSpec,
    outcome: &Outcome,
    v6: usize,
    query: usize,
    container_mac: [u8; 6],
) -> Result<Attached, AttachError> {
    let kernel = |action, error: &RequestError| {
        AttachError::kernel(action, &spec.host_ifname)(error.clone().into())
    };
    let no_ipv6 = |e: &RequestError| matches!(e.errno, libc::EAFNOSUPPORT | libc::EOPNOTSUPP);
    for (place, error) in &outcome.errors {
        if *place != v6 || !no_ipv6(error) {
            return Err(kernel("set up the host end", error));
        }
    }
    let link = outcome.answer(query).and_then(|a| Link::parse(&a.payload));
    let Some((link, container_ifindex)) = link.and_then(|l| l.peer_index.map(|p| (l, p))) else {
        let vanished = RequestError {
            errno: libc::ENODEV,
            text: None,
        };
        return Err(kernel("read back the host end", &vanished));
    };
    Ok(Attached {
        host_ifindex: link.index,
        host_mac: link.mac.unwrap_or(HOST_MAC),
        container_ifindex,
        container_mac,
        mtu: link.mtu,
    })
}

/// Which of the two names is taken, if that is why.
fn not_created(socket: &mut Socket, spec: &AttachSpec, error: &RequestError) -> AttachError {
    if !error.exists() {
        return AttachError::kernel("create the veth pair", &spec.host_ifname)(
            error.clone().into(),
        );
    }
    match link::find(socket, &spec.host_ifname) {
        Ok(Some(_)) => AttachError::HostInterfaceExists {
            ifname: spec.host_ifname.clone(),
        },
        _ => AttachError::ContainerInterfaceExists {
            ifname: spec.container_ifname.clone(),
            netns: spec.netns.clone(),
        },
    }
}

/// Gives the host end a link-local address that containers have as their gateway.
pub(super) fn add_gateway(
    socket: &mut Socket,
    host_ifindex: u32,
    gateway: Ipv6Addr,
) -> Result<(), NetlinkError> {
    let gateway = Ipv6Network::new(gateway, 64).expect("64 is a length of IPv6");
    link::put_address(
        socket,
        host_ifindex,
        gateway.into(),
        libc::RT_SCOPE_LINK,
        None,
    )
}

/// A locally administered unicast address (IEEE 802) that stays the same for the same interface name.
fn mac_of(host_ifname: &str) -> [u8; 6] {
    let hash = Sha256::digest(host_ifname.as_bytes());
    [
        (hash[0] & 0xfc) | 0x02,
        hash[1],
        hash[2],
        hash[3],
        hash[4],
        hash[5],
    ]
}
