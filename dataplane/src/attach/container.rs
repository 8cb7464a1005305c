//! The container's side: what runs inside its network namespace, and what goes through a socket opened there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{AttachError, AttachSpec, Attached, GATEWAY_V4, GATEWAY_V6, HOST_MAC};
use crate::netlink::{Batch, NetlinkError, Socket, family_of, ifaddrmsg, ifinfomsg, ndmsg};
use crate::sysctl;

const LOOPBACK_INDEX: u32 = 1;
const FR_ACT_TO_TBL: u8 = 1;
const FRA_SRC: u16 = 2;
const FRA_TABLE: u16 = 15;
const UP: u32 = libc::IFF_UP as u32;
const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const PUT: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// Runs inside: sets the switches, and opens the socket that [`configure`] works through from outside.
pub(super) fn prepare(spec: &AttachSpec) -> Result<Socket, AttachError> {
    set_sysctls(spec)?;
    let open = "open a netlink socket in the container";
    Socket::route().map_err(AttachError::kernel(open, &spec.container_ifname))
}

/// Addresses and routes; the container's end is up when it returns.
///
/// Where another interface of the container has the default route, it keeps it, and what comes from this interface's own
/// addresses leaves by this one: the routes are in a table of their own, and a rule leads to it.
pub(super) fn configure(
    socket: &mut Socket,
    spec: &AttachSpec,
    link: &Attached,
    addresses: &[IpAddr],
) -> Result<(), AttachError> {
    let index = link.container_ifindex;
    let mut steps = Steps::default();
    steps.link_up(LOOPBACK_INDEX, "set lo up");
    for address in addresses {
        steps.address(index, *address);
    }
    steps.link_up(index, "set the container's end up");
    let families = Gateway::BOTH.into_iter();
    let families = families.filter(|gateway| addresses.iter().any(|ip| gateway.is_of(*ip)));
    for gateway in families {
        steps.neighbour(index, gateway.address());
        steps.routes(index, gateway, libc::RT_TABLE_MAIN.into());
    }
    let taken = steps.run(socket, &spec.container_ifname)?;
    if taken.is_empty() {
        return Ok(());
    }
    let mut steps = Steps::default();
    for gateway in taken {
        steps.routes(index, gateway, own_table(index));
        for address in addresses.iter().filter(|ip| gateway.is_of(**ip)) {
            steps.rule(*address, own_table(index));
        }
    }
    // What is there already is of an earlier interface of this index, and the same.
    steps.run(socket, &spec.container_ifname).map(drop)
}

/// The table for routes of an interface that is not the container's first: a number that nobody picks by hand.
const fn own_table(index: u32) -> u32 {
    0x6d67_0000 | index
}

/// A family's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gateway {
    V4,
    V6,
}

impl Gateway {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    const fn is_of(self, ip: IpAddr) -> bool {
        matches!(self, Self::V4) == ip.is_ipv4()
    }

    const fn address(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(GATEWAY_V4),
            Self::V6 => IpAddr::V6(GATEWAY_V6),
        }
    }
}

pub(super) fn remove(ifname: &str) -> Result<(), AttachError> {
    let fail = || AttachError::kernel("remove the container's end", ifname);
    let mut socket = Socket::route().map_err(|e| fail()(e))?;
    let removed = socket.request(libc::RTM_DELLINK, 0, &ifinfomsg(0, 0, 0), |m| {
        m.string(libc::IFLA_IFNAME, ifname);
    });
    match removed {
        Err(NetlinkError::Refused(error)) if error.is_missing() => Ok(()),
        other => other.map(drop).map_err(fail()),
    }
}

fn set_sysctls(spec: &AttachSpec) -> Result<(), AttachError> {
    if spec.ipv6 {
        // Runtimes often start a namespace with IPv6 off.
        sysctl::write("net/ipv6/conf/lo/disable_ipv6", "0")?;
        let conf = format!("net/ipv6/conf/{}", spec.container_ifname);
        sysctl::write(&format!("{conf}/disable_ipv6"), "0")?;
        // There is nobody on the link whose address could be a duplicate, and detection takes a second.
        sysctl::write(&format!("{conf}/accept_dad"), "0")?;
        sysctl::write(&format!("{conf}/accept_ra"), "0")?;
    }
    if let Some(forwarding) = spec.container_forwarding {
        let value = if forwarding { "1" } else { "0" };
        sysctl::write("net/ipv4/ip_forward", value)?;
        if spec.ipv6 {
            sysctl::write("net/ipv6/conf/all/forwarding", value)?;
        }
    }
    Ok(())
}

/// Requests for one batch, each with what to call it when it fails, and whose way out it is if another interface may
/// have that already.
#[derive(Default)]
struct Steps {
    batch: Batch,
    names: Vec<(&'static str, Option<Gateway>)>,
}

impl Steps {
    fn link_up(&mut self, index: u32, name: &'static str) {
        self.names.push((name, None));
        self.batch
            .push(libc::RTM_SETLINK, 0, &ifinfomsg(index, UP, UP), |_| {});
    }

    fn address(&mut self, index: u32, address: IpAddr) {
        self.names.push(("add an address", None));
        let (bits, flags) = if address.is_ipv4() {
            (32, 0)
        } else {
            (128, libc::IFA_F_NODAD as u8)
        };
        let header = ifaddrmsg(
            family_of(address),
            bits,
            flags,
            libc::RT_SCOPE_UNIVERSE,
            index,
        );
        self.batch.push(libc::RTM_NEWADDR, NEW, &header, |m| {
            m.ip(libc::IFA_LOCAL, address);
            m.ip(libc::IFA_ADDRESS, address);
        });
    }

    fn neighbour(&mut self, index: u32, gateway: IpAddr) {
        self.names.push(("add the gateway's neighbour entry", None));
        let header = ndmsg(family_of(gateway), index, libc::NUD_PERMANENT);
        self.batch.push(libc::RTM_NEWNEIGH, PUT, &header, |m| {
            m.ip(libc::NDA_DST, gateway);
            m.bytes(libc::NDA_LLADDR, &HOST_MAC);
        });
    }

    /// To the gateway, where that is not on the link by itself, and by it to everywhere.
    fn routes(&mut self, index: u32, gateway: Gateway, table: u32) {
        let address = gateway.address();
        if gateway == Gateway::V4 {
            self.names
                .push(("add the route to the gateway", Some(gateway)));
            let header = rtmsg(libc::AF_INET as u8, 32, libc::RT_SCOPE_LINK);
            self.batch.push(libc::RTM_NEWROUTE, NEW, &header, |m| {
                m.u32(libc::RTA_TABLE, table);
                m.ip(libc::RTA_DST, address);
                m.u32(libc::RTA_OIF, index);
            });
        }
        self.names.push(("add the default route", Some(gateway)));
        let header = rtmsg(family_of(address), 0, libc::RT_SCOPE_UNIVERSE);
        self.batch.push(libc::RTM_NEWROUTE, NEW, &header, |m| {
            m.u32(libc::RTA_TABLE, table);
            m.ip(libc::RTA_GATEWAY, address);
            m.u32(libc::RTA_OIF, index);
        });
    }

    /// What comes from this address looks in this table first.
    fn rule(&mut self, address: IpAddr, table: u32) {
        let (gateway, bits) = match address {
            IpAddr::V4(_) => (Gateway::V4, 32),
            IpAddr::V6(_) => (Gateway::V6, 128),
        };
        self.names.push(("add a rule", Some(gateway)));
        let header = [
            family_of(address),
            0,
            bits,
            0,
            0,
            0,
            0,
            FR_ACT_TO_TBL,
            0,
            0,
            0,
            0,
        ];
        self.batch.push(libc::RTM_NEWRULE, NEW, &header, |m| {
            m.ip(FRA_SRC, address);
            m.u32(FRA_TABLE, table);
        });
    }

    /// The families whose way out another interface has.
    fn run(mut self, socket: &mut Socket, ifname: &str) -> Result<BTreeSet<Gateway>, AttachError> {
        let send = AttachError::kernel("configure the container's end", ifname);
        let outcome = socket.transact(&mut self.batch).map_err(send)?;
        let mut taken = BTreeSet::new();
        for (step, error) in outcome.errors {
            match self.names[step] {
                // Where the way to the gateway is another's, there is none by this interface.
                (_, Some(gateway)) if error.exists() || taken.contains(&gateway) => {
                    taken.insert(gateway)
                }
                (name, _) => return Err(AttachError::kernel(name, ifname)(error.into())),
            };
        }
        Ok(taken)
    }
}

/// The kernel's `struct rtmsg` for a unicast route; an attribute names its table.
fn rtmsg(family: u8, prefix_len: u8, scope: u8) -> [u8; 12] {
    let (unspecified, boot) = (libc::RT_TABLE_UNSPEC, libc::RTPROT_BOOT);
    [
        family,
        prefix_len,
        0,
        0,
        unspecified,
        boot,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]
}
