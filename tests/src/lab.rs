//! The racks: hosts, a top-of-rack router and a server for the datastore, each a namespace.
//!
//! ```text
//!   h1 192.0.2.5/30 ---- 192.0.2.6   \
//!   h2 192.0.2.9/30 ---- 192.0.2.10   tor  198.51.100.1 ---- 198.51.100.2/30 store
//!   h3 192.0.2.13/30 --- 192.0.2.14  /
//! ```
//! IPv6 likewise: host n is `2001:db8:0:n::1/64`, the router's end `::2`; the store is `2001:db8:0:ff::2`.
//! Hosts have default routes to the router and nothing else: routes to containers are the agents' work.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::netns::{NetNs, unique_lab_name};
use crate::process::run;

/// A machine that runs containers.
#[derive(Debug)]
pub struct Host {
    /// `h1`, `h2`, ...
    pub name: String,
    /// Its namespace. The uplink is `eth0`.
    pub netns: NetNs,
    /// Its address in a /30.
    pub v4: Ipv4Addr,
    /// Its address in a /64.
    pub v6: Ipv6Addr,
    /// The router's end of the IPv4 transfer net.
    pub tor_v4: Ipv4Addr,
    /// The router's end of the IPv6 transfer net.
    pub tor_v6: Ipv6Addr,
    /// For files of what runs on it.
    pub dir: PathBuf,
}

/// How a host outside of the racks is connected.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    /// The host is `hN`.
    pub number: u8,
    /// Its address, and the prefix length of its subnet.
    pub v4: (Ipv4Addr, u8),
    /// Its address in a /64.
    pub v6: Ipv6Addr,
    /// The bridge in the router's namespace that the other end is a port of.
    pub bridge: Option<&'static str>,
    /// Where its default routes lead, if it has any; without a bridge the other end gets these addresses.
    pub routers: Option<(Ipv4Addr, Ipv6Addr)>,
}

/// Everything that is there before any agent runs. Dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    /// The hosts in order.
    pub hosts: Vec<Host>,
    /// The top-of-rack router; its interface to host `hN` is `to-hN`.
    pub tor: NetNs,
    /// Where a datastore can run, behind the router.
    pub store: NetNs,
    name: String,
    dir: TempDir,
}

/// The datastore server's address.
pub const STORE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

impl Lab {
    /// Builds router, store and `hosts` hosts.
    pub fn new(hosts: u8) -> Result<Self> {
        let name = unique_lab_name();
        let dir = tempfile::Builder::new().prefix(&name).tempdir()?;
        let tor = router(&format!("{name}-tor"))?;
        let store = NetNs::new(format!("{name}-store"))?;
        link(&store, "eth0", &tor, "to-store")?;
        store.ip(&format!("addr add {STORE_V4}/30 dev eth0"))?;
        tor.ip("addr add 198.51.100.1/30 dev to-store")?;
        store.ip("addr add 2001:db8:0:ff::2/64 dev eth0 nodad")?;
        tor.ip("addr add 2001:db8:0:ff::1/64 dev to-store nodad")?;
        store.ip("route add default via 198.51.100.1")?;
        store.ip("-6 route add default via 2001:db8:0:ff::1")?;
        let mut lab = Self {
            hosts: Vec::new(),
            tor,
            store,
            name,
            dir,
        };
        for number in 1..=hosts {
            let host = lab.host(number)?;
            lab.hosts.push(host);
        }
        Ok(lab)
    }

    /// What all names of this lab start with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For files that belong to no host.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A namespace for a container.
    pub fn container_netns(&self, container: &str) -> Result<NetNs> {
        NetNs::new(format!("{}-{container}", self.name))
    }

    /// A host beside those in racks, with its cable in the router's namespace.
    pub fn host_on(&self, cable: &Cable) -> Result<Host> {
        let name = format!("h{}", cable.number);
        let netns = self.container_netns(&name)?;
        let port = format!("port{}", cable.number);
        link(&netns, "eth0", &self.tor, &port)?;
        let ((v4, v4_len), v6) = (cable.v4, cable.v6);
        netns.ip(&format!("addr add {v4}/{v4_len} dev eth0"))?;
        netns.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
        if let Some(bridge) = cable.bridge {
            self.tor.ip(&format!("link set {port} master {bridge}"))?;
        }
        let mut routers = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        if let Some((tor_v4, tor_v6)) = cable.routers {
            routers = (tor_v4, tor_v6);
            if cable.bridge.is_none() {
                let tor = &self.tor;
                tor.ip(&format!("addr add {tor_v4}/{v4_len} dev {port}"))?;
                tor.ip(&format!("addr add {tor_v6}/64 dev {port} nodad"))?;
            }
            netns.ip(&format!("route add default via {tor_v4}"))?;
            netns.ip(&format!("-6 route add default via {tor_v6}"))?;
        }
        let dir = self.dir.path().join(&name);
        std::fs::create_dir(&dir)?;
        Ok(Host {
            name,
            netns,
            v4,
            v6,
            tor_v4: routers.0,
            tor_v6: routers.1,
            dir,
        })
    }

    /// Leaves all namespaces and files for good. The namespaces' names and the folder.
    pub fn keep(self) -> (Vec<String>, PathBuf) {
        let mut names = vec![self.tor.keep(), self.store.keep()];
        names.extend(self.hosts.into_iter().map(|h| h.netns.keep()));
        (names, self.dir.keep())
    }

    fn host(&self, number: u8) -> Result<Host> {
        let name = format!("h{number}");
        let netns = NetNs::new(format!("{}-{name}", self.name))?;
        let subnet = u16::from(number);
        let host = Host {
            netns,
            v4: Ipv4Addr::new(192, 0, 2, number * 4 + 1),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, 1),
            tor_v4: Ipv4Addr::new(192, 0, 2, number * 4 + 2),
            tor_v6: Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, 2),
            dir: self.dir.path().join(&name),
            name,
        };
        std::fs::create_dir(&host.dir)?;
        let port = format!("to-{}", host.name);
        link(&host.netns, "eth0", &self.tor, &port)?;
        host.netns
            .ip(&format!("addr add {}/30 dev eth0", host.v4))?;
        host.netns
            .ip(&format!("addr add {}/64 dev eth0 nodad", host.v6))?;
        self.tor
            .ip(&format!("addr add {}/30 dev {port}", host.tor_v4))?;
        self.tor
            .ip(&format!("addr add {}/64 dev {port} nodad", host.tor_v6))?;
        host.netns
            .ip(&format!("route add default via {}", host.tor_v4))?;
        host.netns
            .ip(&format!("-6 route add default via {}", host.tor_v6))?;
        Ok(host)
    }
}

/// A namespace that forwards.
fn router(name: &str) -> Result<NetNs> {
    let netns = NetNs::new(name)?;
    netns.sysctl("net.ipv4.ip_forward", "1")?;
    netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    netns.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
    Ok(netns)
}

/// A cable between two namespaces, both ends up.
fn link(a: &NetNs, port_a: &str, b: &NetNs, port_b: &str) -> Result<()> {
    run(Command::new("ip")
        .args(["link", "add", port_a, "netns", a.name(), "type", "veth"])
        .args(["peer", "name", port_b, "netns", b.name()]))?;
    a.ip(&format!("link set {port_a} up"))?;
    b.ip(&format!("link set {port_b} up"))?;
    Ok(())
}
