//! A host with etcd and an agent of its own, and the reference plugins beside it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_lab::resources::pools_and_profile;
use margay_lab::{Agent, Ctl, Datastore, Etcd, Lab, NetNs, binary, eventually, resources};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::call::Plugin;

const READY: Duration = Duration::from_secs(60);
/// The longest that the kernel takes to remove an interface, many times over.
const GONE: Duration = Duration::from_secs(5);

/// The host. The thread that makes it is in its network namespace until this is dropped.
#[derive(Debug)]
pub(crate) struct BenchHost {
    pub(crate) ours: Plugin,
    pub(crate) theirs: Plugin,
    /// The reference plugin that most runtimes are shipped with.
    pub(crate) bridge: Plugin,
    pub(crate) agent_pid: u32,
    pub(crate) etcd_pid: u32,
    /// What first packets go to: the router behind the host.
    pub(crate) router: IpAddr,
    outside: File,
    _agent: Agent,
    etcd: Etcd,
    lab: Lab,
}

impl BenchHost {
    /// Starts everything and enters the host's namespace.
    pub(crate) fn start(dual: bool) -> Result<Self> {
        let theirs = Path::new("/usr/lib/cni/ptp");
        ensure!(
            theirs.exists(),
            "{} is missing: install containernetworking-plugins",
            theirs.display()
        );
        let lab = Lab::new(1)?;
        let host = &lab.hosts[0];
        // The router's way back, so that what is timed is the host's work.
        for net in ["10.65.0.0/16", "10.88.0.0/16"] {
            lab.tor.ip(&format!("route add {net} via {}", host.v4))?;
        }
        let etcd = Etcd::start_in(host.netns.name(), Ipv4Addr::LOCALHOST.into())?;
        let ctl = Ctl::with_etcd(&host.netns, etcd.url(), lab.dir());
        ctl.apply(&pools_and_profile(false))?;
        let mut agent = Agent::start(host, &Datastore::Etcd(etcd.url().to_owned()))?;
        eventually(READY, "the agent is ready", || agent.ensure_ready())?;
        let outside = File::open("/proc/thread-self/ns/net")?;
        let file = File::open(host.netns.path())?;
        setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the host's namespace")?;
        Ok(Self {
            ours: Plugin {
                program: binary("margay-cni")?,
                config: json!({
                    "cniVersion": "1.0.0", "name": resources::NETWORK, "type": "margay-cni",
                    "socket": agent.socket(), "journal": agent.journal(),
                    "ipam": {"assign_ipv4": "true", "assign_ipv6": dual.to_string()},
                }),
            },
            theirs: Plugin {
                program: theirs.to_owned(),
                config: json!({
                    "cniVersion": "1.0.0", "name": "reference", "type": "ptp", "ipMasq": false,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": host.dir.join("host-local"),
                        "ranges": ranges(dual),
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }),
            },
            bridge: Plugin {
                program: theirs.with_file_name("bridge"),
                config: json!({
                    "cniVersion": "1.0.0", "name": "bridged", "type": "bridge", "bridge": "bench0",
                    "isGateway": true, "ipMasq": false,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": host.dir.join("host-local"),
                        "ranges": json!([[{"subnet": "10.89.0.0/16"}]]),
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }),
            },
            agent_pid: agent.process()?.pid(),
            etcd_pid: etcd.process()?.pid(),
            router: host.tor_v4.into(),
            outside,
            _agent: agent,
            etcd,
            lab,
        })
    }

    /// A namespace for a container.
    pub(crate) fn container(&self, name: &str) -> Result<NetNs> {
        self.lab.container_netns(name)
    }

    /// etcd's own count of the calls of its key-value service, by name.
    pub(crate) fn etcd_calls(&self) -> Result<Vec<(String, u64)>> {
        self.etcd.kv_calls()
    }

    /// Waits until the host has as few interfaces as before, for the kernel removes them in its own time.
    pub(crate) fn settle(&self, interfaces: usize) -> Result<()> {
        let end = Instant::now() + GONE;
        while interface_count()? > interfaces && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for BenchHost {
    fn drop(&mut self) {
        // What is left in the namespace when it goes is killed.
        setns(&self.outside, CloneFlags::CLONE_NEWNET).expect("back to where we came from");
    }
}

/// Interfaces of the calling thread's namespace.
pub(crate) fn interface_count() -> Result<usize> {
    Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?
        .lines()
        .count())
}

fn ranges(dual: bool) -> Value {
    if dual {
        json!([[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]])
    } else {
        json!([[{"subnet": "10.88.0.0/16"}]])
    }
}
