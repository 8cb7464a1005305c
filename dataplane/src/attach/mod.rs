//! Attaching a container: a veth pair, the container's addresses and its way out.
//!
//! Inside, the interface has its addresses as /32 and /128 and default routes via [`GATEWAY_V4`] and [`GATEWAY_V6`].
//! Both gateways have a permanent neighbour entry with the [`HOST_MAC`] that every host end has, so the first packet
//! waits for no resolution and it does not matter whether the host itself has a route for 169.254.1.1 (proxy ARP would
//! need one). The host knows the container's addresses as neighbours from the beginning, for the same reason. Proxy ARP is on all the same, for software in the container that resolves by itself.
//!
//! The order, which keeps a container silent until its caller says so: [`create_link`] makes the pair, with all
//! switches set and the host end up, but the container's end down, hence without a carrier. It needs no address, so it
//! can run while one is being allocated; whatever can be done before the addresses are known is done in it.
//! [`Pending::configure`] gives the container its addresses and brings its end up. The host's routes to the addresses
//! belong to [`crate::route_table::RouteTable`].
//!
//! All functions block for the length of a few system calls, deletions for 10-40 ms (the kernel waits for its readers).
//! Work inside the container runs on the calling thread, which enters the container's network namespace for it and is
//! back before the function returns, or over a socket that was opened there.

mod arrival;
mod check;
mod container;
mod host;
mod mtu;
mod netns;
mod pair;
mod record;
mod repair;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::bandwidth::BandwidthError;
use crate::link;
use crate::netlink::{NetlinkError, RequestError, Socket};
use crate::sysctl::SysctlError;
use netns::Netns;

pub use arrival::Arriving;
pub use check::check;
pub use host::{remove, remove_many};
pub use pair::{
    GATEWAYS, add_host_address, create_pair, gateways, is_here, moves_to, serve_gateways,
};
pub(crate) use record::Record;
pub use repair::{Repaired, Wanted, is_amiss, repair};

/// The hardware address of every host end.
pub const HOST_MAC: [u8; 6] = [0xee; 6];
/// The container's IPv4 gateway, the same on every host.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The container's IPv6 gateway: the link-local address that [`HOST_MAC`] makes (RFC 4291 appendix A).
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// How long the kernel may take, on a busy host, to make a container's IPv6 addresses its own.
pub const ARRIVAL: Duration = Duration::from_secs(2);

/// What a container is attached by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachSpec {
    /// The file of the container's network namespace.
    pub netns: PathBuf,
    /// The interface's name in the container.
    pub container_ifname: String,
    /// The name of the host end.
    pub host_ifname: String,
    /// MTU of both ends in bytes; the kernel's default (1500) if none.
    pub mtu: Option<u32>,
    /// Whether that is the MTU of the path to other hosts, which [`repair`] has both ends follow.
    pub mtu_follows: bool,
    /// The container's hardware address; made from `host_ifname` if none, so that it stays the same.
    pub container_mac: Option<[u8; 6]>,
    /// Whether the container may send from addresses that are not its own: strict reverse path filtering is then off.
    /// The kernel takes the higher of this switch and `net.ipv4.conf.all.rp_filter`, so a host with 1 there lets no
    /// container spoof, and a host with 2 (loose) lets all: the packet filter has to enforce it too.
    pub allow_spoofing: bool,
    /// Whether the container may forward packets; left as the runtime has it if none.
    pub container_forwarding: Option<bool>,
    /// Whether IPv6 addresses may be among those of the container.
    pub ipv6: bool,
    /// How many queues each end has for either way, 1 to 4096; one if none.
    pub queues: Option<u32>,
}

/// The pair that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Index of the host end.
    pub host_ifindex: u32,
    /// Hardware address of the host end.
    pub host_mac: [u8; 6],
    /// Index of the container's end, in its namespace.
    pub container_ifindex: u32,
    /// Hardware address of the container's end.
    pub container_mac: [u8; 6],
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

/// Attaching failed. Nothing is left behind, except as said at the variant; the caller decides whether to retry.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The namespace file cannot be opened: the container is gone.
    #[error("network namespace {netns} cannot be opened")]
    NetnsMissing {
        /// The file.
        netns: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not a network namespace.
    #[error("{netns} is not a network namespace")]
    NotNetns {
        /// The file.
        netns: PathBuf,
    },
    /// The namespace is the host's own.
    #[error("{netns} is the host's own network namespace; a container needs one of its own")]
    OwnNetns {
        /// The file.
        netns: PathBuf,
    },
    /// The container has an interface of this name. It is left alone.
    #[error("interface {ifname} exists already in {netns}")]
    ContainerInterfaceExists {
        /// The interface.
        ifname: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// The host has an interface of this name, such as from an ADD that was not finished. It is left alone: the caller
    /// may [`remove`] it and try again.
    #[error("interface {ifname} exists already on the host")]
    HostInterfaceExists {
        /// The interface.
        ifname: String,
    },
    /// The kernel refused a step.
    #[error("cannot {action} for interface {ifname}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The interface it was tried for.
        ifname: String,
        /// Why it failed.
        source: NetlinkError,
    },
    /// A kernel switch could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The file is of another namespace than the container's end is in.
    #[error("the other end of {ifname} is no longer in {netns}")]
    OtherNetns {
        /// The file.
        netns: PathBuf,
        /// The host end.
        ifname: String,
    },
    /// Nobody knows which namespace the container's end is in.
    #[error("it is not known which namespace the other end of {ifname} is in")]
    UnknownNetns {
        /// The host end.
        ifname: String,
    },
    /// Queues could not be put right.
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
    /// No thread could be started or it could not enter the namespace.
    #[error("cannot enter network namespace {netns}")]
    Enter {
        /// The namespace.
        netns: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The host end did not come up though both ends were set up.
    #[error("interface {ifname} has no carrier after {waited_ms} ms")]
    NoCarrier {
        /// The host end.
        ifname: String,
        /// How long it was waited for, in milliseconds.
        waited_ms: u64,
    },
}

impl AttachError {
    /// What was to be changed is gone.
    fn is_missing(&self) -> bool {
        match self {
            Self::Kernel { source, .. } => source.refused().is_some_and(RequestError::is_missing),
            Self::Bandwidth(error) => error.is_missing(),
            Self::Sysctl(error) => error.is_missing(),
            _ => false,
        }
    }

    fn kernel(action: &'static str, ifname: &str) -> impl FnOnce(NetlinkError) -> Self + use<> {
        let ifname = ifname.to_owned();
        move |source| Self::Kernel {
            action,
            ifname,
            source,
        }
    }
}

/// A pair that was made and has no addresses yet. Dropping it leaves the pair; while it is there, so is the container's
/// namespace.
#[derive(Debug)]
pub struct Pending {
    spec: AttachSpec,
    link: Attached,
    host: Socket,
    container: Socket,
}

/// Makes the veth pair.
pub fn create_link(spec: &AttachSpec) -> Result<Pending, AttachError> {
    let netns = Netns::open(&spec.netns)?;
    let open = AttachError::kernel("open a netlink socket", &spec.host_ifname);
    let mut host = Socket::route().map_err(open)?;
    let link = host::create_link(&mut host, spec, Some(netns.file()))?;
    let prepared =
        host::prepare(&mut host, spec, &link).and_then(|()| netns.run(|| container::prepare(spec)));
    match prepared {
        Ok(container) => Ok(Pending {
            spec: spec.clone(),
            link,
            host,
            container,
        }),
        Err(error) => {
            host::discard(&spec.host_ifname);
            Err(error)
        }
    }
}

impl Pending {
    /// The pair.
    #[must_use]
    pub const fn link(&self) -> &Attached {
        &self.link
    }

    /// Gives the container its addresses and routes and brings its end up. When its addresses have arrived as well,
    /// packets pass in both directions as soon as the host has routes for them. If it fails, the pair is removed.
    pub fn configure(mut self, addresses: &[IpAddr]) -> Result<(Attached, Arriving), AttachError> {
        let (spec, link) = (&self.spec, &self.link);
        let configured = container::configure(&mut self.container, spec, link, addresses)
            .and_then(|()| host::meet(&mut self.host, spec, link, addresses));
        match configured {
            Ok(()) => {
                let arriving = Arriving::new(self.container, spec, addresses);
                Ok((self.link, arriving))
            }
            Err(error) => {
                host::discard(&spec.host_ifname);
                Err(error)
            }
        }
    }
}

/// [`create_link`] and [`Pending::configure`], with a limited wait for the addresses.
pub fn create(spec: &AttachSpec, addresses: &[IpAddr]) -> Result<Attached, AttachError> {
    let (link, mut arriving) = create_link(spec)?.configure(addresses)?;
    match arriving.wait(ARRIVAL) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(host_ifname = spec.host_ifname, "IPv6 addresses are late"),
        Err(error) => {
            host::discard(&spec.host_ifname);
            return Err(error);
        }
    }
    Ok(link)
}

/// Makes sure that the container has no interface of the wanted name yet.
pub fn ensure_absent(spec: &AttachSpec) -> Result<(), AttachError> {
    let ifname = &spec.container_ifname;
    Netns::open(&spec.netns)?.run(|| {
        let kernel = |source| AttachError::kernel("look for an interface", ifname)(source);
        let mut socket = Socket::route().map_err(kernel)?;
        match link::find(&mut socket, ifname).map_err(kernel)? {
            None => Ok(()),
            Some(_) => Err(AttachError::ContainerInterfaceExists {
                ifname: ifname.clone(),
                netns: spec.netns.clone(),
            }),
        }
    })
}

/// Removes the container's interface from inside, for a DELETE that knows the namespace but not the host end. A
/// missing namespace or interface is success.
pub fn detach_container(netns: &std::path::Path, ifname: &str) -> Result<(), AttachError> {
    match Netns::open(netns) {
        Ok(netns) => netns.run(|| container::remove(ifname)),
        Err(AttachError::NetnsMissing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
