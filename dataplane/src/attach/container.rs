//! The container's side: what runs inside its network namespace, and what goes through a socket opened there.

use std::net::IpAddr;

use super::{AttachError, AttachSpec, Attached, GATEWAY_V4, GATEWAY_V6, HOST_MAC};
use crate::netlink::{Batch, NetlinkError, Socket, family_of, ifaddrmsg, ifinfomsg, ndmsg};
use crate::sysctl;

const LOOPBACK_INDEX: u32 = 1;
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
pub(super) fn configure(
    socket: &mut Socket,
    spec: &AttachSpec,
    link: &Attached,
    addresses: &[IpAddr],
) -> Result<(), AttachError> {
    let has_v4 = addresses.iter().any(IpAddr::is_ipv4);
    let has_v6 = addresses.iter().any(IpAddr::is_ipv6);
    let mut steps = Steps::default();
    steps.link_up(LOOPBACK_INDEX, "set lo up");
    for address in addresses {
        steps.address(link.container_ifindex, *address);
    }
    steps.link_up(link.container_ifindex, "set the container's end up");
    if has_v4 {
        steps.neighbour(link.container_ifindex, GATEWAY_V4.into());
        steps.gateway_on_link(link.container_ifindex);
        steps.default_route(link.container_ifindex, GATEWAY_V4.into());
    }
    if has_v6 {
        steps.neighbour(link.container_ifindex, GATEWAY_V6.into());
        steps.default_route(link.container_ifindex, GATEWAY_V6.into());
    }
    steps.run(socket, &spec.container_ifname)
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

/// Requests for one batch, each with what to call it when it fails.
#[derive(Default)]
struct Steps {
    batch: Batch,
    names: Vec<&'static str>,
}

impl Steps {
    fn link_up(&mut self, index: u32, name: &'static str) {
        self.names.push(name);
        self.batch
            .push(libc::RTM_SETLINK, 0, &ifinfomsg(index, UP, UP), |_| {});
    }

    fn address(&mut self, index: u32, address: IpAddr) {
        self.names.push("add an address");
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
        self.names.push("add the gateway's neighbour entry");
        let header = ndmsg(family_of(gateway), index, libc::NUD_PERMANENT);
        self.batch.push(libc::RTM_NEWNEIGH, PUT, &header, |m| {
            m.ip(libc::NDA_DST, gateway);
            m.bytes(libc::NDA_LLADDR, &HOST_MAC);
        });
    }

    fn gateway_on_link(&mut self, index: u32) {
        self.names.push("add the route to the gateway");
        let header = rtmsg(libc::AF_INET as u8, 32, libc::RT_SCOPE_LINK);
        self.batch.push(libc::RTM_NEWROUTE, NEW, &header, |m| {
            m.ip(libc::RTA_DST, GATEWAY_V4.into());
            m.u32(libc::RTA_OIF, index);
        });
    }

    fn default_route(&mut self, index: u32, gateway: IpAddr) {
        self.names.push("add the default route");
        let header = rtmsg(family_of(gateway), 0, libc::RT_SCOPE_UNIVERSE);
        self.batch.push(libc::RTM_NEWROUTE, NEW, &header, |m| {
            m.ip(libc::RTA_GATEWAY, gateway);
            m.u32(libc::RTA_OIF, index);
        });
    }

    fn run(mut self, socket: &mut Socket, ifname: &str) -> Result<(), AttachError> {
        let send = AttachError::kernel("configure the container's end", ifname);
        let outcome = socket.transact(&mut self.batch).map_err(send)?;
        match outcome.errors.into_iter().next() {
            None => Ok(()),
            Some((step, error)) => Err(AttachError::kernel(self.names[step], ifname)(error.into())),
        }
    }
}

/// The kernel's `struct rtmsg` for a unicast route of the main table.
fn rtmsg(family: u8, prefix_len: u8, scope: u8) -> [u8; 12] {
    let (main, boot) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
    [
        family,
        prefix_len,
        0,
        0,
        main,
        boot,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]
}
