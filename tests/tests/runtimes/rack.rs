//! Two hosts and a router, and what every runtime has to show on them.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_lab::resources::{self, HOST_AS, NETWORK, TOR_AS, pools_and_profile};
use margay_lab::{
    Bird, Cluster, Host, Lab, NetNs, binary, ensure_no_route, eventually, host_route, ping,
    tor_config,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::image::PAGE;

/// A loaded machine takes its time.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_secs(5);
/// What does not pass is not waited for longer.
const BLOCKED: Duration = Duration::from_millis(400);

/// Where the distribution has the reference plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

pub(crate) struct Rack {
    pub(crate) cluster: Cluster,
    _tor: Bird,
}

impl Rack {
    pub(crate) fn new(hosts: u8) -> Self {
        let lab = Lab::new(hosts).unwrap();
        let config = tor_config(&lab, TOR_AS, HOST_AS);
        let tor = Bird::start(&lab.tor, lab.dir(), &config).unwrap();
        let resources = [pools_and_profile(false), resources::bgp(&lab)];
        let cluster = Cluster::start(lab, &resources).unwrap();
        for agent in &cluster.agents {
            eventually(SOON, "sessions", || agent.ensure_sessions(2)).unwrap();
        }
        Self { cluster, _tor: tor }
    }

    /// With agents that look for what is left every second.
    pub(crate) fn watchful(hosts: u8) -> Self {
        let mut rack = Self::new(hosts);
        for agent in &mut rack.cluster.agents {
            let config = fs::read_to_string(agent.config_file()).unwrap();
            let config = config + "audit_interval_secs: 1\nleak_grace_secs: 3\n";
            fs::write(agent.config_file(), config).unwrap();
        }
        (0..usize::from(hosts)).for_each(|host| rack.restart_agent(host, ""));
        rack
    }

    /// kill -9, and an agent that dies or stops at a fault point.
    pub(crate) fn restart_agent(&mut self, host: usize, fault: &str) {
        let agent = &mut self.cluster.agents[host];
        agent.set_env(&[("MARGAY_FAULT", fault)]);
        agent.restart().unwrap();
        eventually(SOON, "the agent is ready", || agent.ensure_ready()).unwrap();
    }

    /// The agent stands still at its fault point.
    pub(crate) fn await_still(&mut self, host: usize) {
        let pid = self.cluster.agents[host].process().unwrap().pid();
        eventually(SOON, "the agent stands still", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let (_, state) = stat.rsplit_once(") ").context("no state")?;
            ensure!(state.starts_with('T'), "{state}");
            Ok(())
        })
        .unwrap();
    }

    /// The agent stands still at its fault point, and the plugin waits for it: for which namespace.
    pub(crate) fn await_stopped(&mut self, host: usize) -> PathBuf {
        self.await_still(host);
        let plugin = self.dir(host, "cni-bin").join("margay-cni");
        namespace_of(&plugin).unwrap()
    }

    /// An agent that stood still goes on.
    pub(crate) fn go_on(&mut self, host: usize) {
        let agent = self.cluster.agents[host].process().unwrap();
        agent.signal(Signal::SIGCONT).unwrap();
    }

    pub(crate) fn host(&self, index: usize) -> &Host {
        &self.cluster.lab.hosts[index]
    }

    pub(crate) fn tor(&self) -> &NetNs {
        &self.cluster.lab.tor
    }

    /// A folder of `host` for files of this name, made if it is not there.
    pub(crate) fn dir(&self, host: usize, name: &str) -> PathBuf {
        let dir = self.host(host).dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Our plugin's object in a list.
    fn plugin(&self, host: usize) -> Value {
        let agent = &self.cluster.agents[host];
        json!({
            "type": "margay-cni", "socket": agent.socket(), "journal": agent.journal(),
            "ipam": {"type": "margay-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
            // When ADD has answered, the router knows the way or is about to be told.
            "wait_announced": true,
            "capabilities": {"portMappings": true, "bandwidth": true, "dns": true, "ips": true, "mac": true,
                             "io.kubernetes.cri.pod-annotations": true},
        })
    }

    /// Installs plugin and list with the installer: the folder of programs and that of lists.
    pub(crate) fn install(&self, host: usize, version: &str) -> (PathBuf, PathBuf) {
        let (bin, conf) = (self.dir(host, "cni-bin"), self.dir(host, "cni-net.d"));
        let list = json!({"cniVersion": version, "name": NETWORK, "plugins": [self.plugin(host)]});
        let file = self.host(host).dir.join("10-margay.conflist");
        fs::write(&file, list.to_string()).unwrap();
        let mut install = Command::new(binary("margay-cni").unwrap());
        install
            .arg("install")
            .arg("--bin-dir")
            .arg(&bin)
            .arg("--conf-dir")
            .arg(&conf);
        margay_lab::run(install.arg("--conf").arg(&file)).unwrap();
        // Runtimes look for it beside ours.
        let loopback = bin.join("loopback");
        if !loopback.exists() {
            std::os::unix::fs::symlink(PathBuf::from(PLUGINS).join("loopback"), loopback).unwrap();
        }
        (bin, conf)
    }

    /// The router reaches the container and the page that it serves.
    #[track_caller]
    pub(crate) fn ensure_served(&self, ip: IpAddr) {
        let tor = self.tor();
        eventually(SOON, "the router knows the way", || host_route(tor, ip)).unwrap();
        ping(tor, ip, SOON).unwrap();
        eventually(SOON, "the page is served", || fetch(tor, ip, 8080, QUICK)).unwrap();
    }

    /// A policy that selects the endpoint by a label cuts it off; without it the container is back.
    #[track_caller]
    pub(crate) fn ensure_isolated_by_label(&self, ip: IpAddr) {
        let ctl = self.cluster.ctl();
        let (namespace, name) = self.endpoint_of(ip).unwrap();
        ctl.run(&format!("label wep -n {namespace} {name} role=locked"))
            .unwrap();
        let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: locked\n\
            spec:\n  selector: role == 'locked'\n  types: [Ingress, Egress]\n";
        ctl.apply(policy).unwrap();
        let tor = self.tor();
        eventually(SOON, "the policy is in force", || {
            ensure!(fetch(tor, ip, 8080, BLOCKED).is_err(), "still served");
            ensure!(ping(tor, ip, BLOCKED).is_err(), "still answers");
            Ok(())
        })
        .unwrap();
        ctl.run("delete globalnetworkpolicy locked").unwrap();
        eventually(SOON, "the page is served again", || {
            fetch(tor, ip, 8080, QUICK)
        })
        .unwrap();
    }

    /// Namespace and name.
    fn endpoint_of(&self, ip: IpAddr) -> Result<(String, String)> {
        let endpoints = self.endpoints()?;
        let has_ip = |endpoint: &&Value| {
            let nets = endpoint["spec"]["ipNetworks"].as_array();
            nets.into_iter().flatten().any(|net| {
                net.as_str().and_then(|net| net.split('/').next()) == Some(&ip.to_string())
            })
        };
        let found = endpoints
            .iter()
            .find(has_ip)
            .with_context(|| format!("no endpoint has {ip}"))?;
        let text = |key: &str| {
            found["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Ok((text("namespace"), text("name")))
    }

    fn endpoints(&self) -> Result<Vec<Value>> {
        let text = self.cluster.ctl().run("get workloadendpoints -A -o json")?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Nothing of ours is left: no interface, no endpoint, no address, no DEL that waits.
    #[track_caller]
    pub(crate) fn ensure_clean(&self, ips: &[IpAddr]) {
        let clean = || -> Result<()> {
            for (host, agent) in self.cluster.lab.hosts.iter().zip(&self.cluster.agents) {
                let links = host.netns.exec("ip -o link show")?;
                let left = links
                    .lines()
                    .find(|line| line.contains(": mgy") || line.contains(": ifb"));
                ensure!(left.is_none(), "{} has {left:?}", host.name);
                let waiting = fs::read_dir(agent.journal())
                    .into_iter()
                    .flatten()
                    .flatten();
                let waiting = waiting.filter(|e| e.path().extension().is_some_and(|e| e == "json"));
                ensure!(waiting.count() == 0, "a DEL waits on {}", host.name);
            }
            let endpoints = self.endpoints()?;
            ensure!(endpoints.is_empty(), "endpoints are left: {endpoints:?}");
            let handles = self.cluster.etcd.ctl(&[
                "get",
                "--prefix",
                "--keys-only",
                "/calico/ipam/v2/handle/",
            ])?;
            ensure!(handles.trim().is_empty(), "addresses are held: {handles}");
            for ip in ips {
                ensure_no_route(self.tor(), *ip)?;
            }
            Ok(())
        };
        eventually(SOON, "all is clean", clean).unwrap();
    }
}

/// The page from a container, asked for inside of a namespace.
pub(crate) fn fetch(from: &NetNs, ip: IpAddr, port: u16, patience: Duration) -> Result<()> {
    from.within(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text.contains(PAGE), "{text}");
        Ok(())
    })
}

/// `CNI_NETNS` of the plugin that runs.
fn namespace_of(plugin: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let runs = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == plugin);
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let mut variables = environment.split('\0');
        let netns = variables.find_map(|v| v.strip_prefix("CNI_NETNS="));
        if let (true, Some(netns)) = (runs, netns) {
            return Ok(netns.into());
        }
    }
    bail!("no {} runs", plugin.display())
}

/// What a runtime that was killed has left of a namespace.
pub(crate) fn forget_namespace(netns: &Path) {
    // It may be gone.
    drop(Command::new("umount").args(["-l"]).arg(netns).output());
    fs::remove_file(netns).ok();
}
