//! What the scenarios share.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, bgp, pools_and_profile};
use margay_lab::{
    Agent, Bird, Cluster, Container, Host, Lab, NetNs, Process, Route, eventually, ping, routes,
    tor_config,
};

/// Sessions and everything that begins with one; a loaded machine takes its time.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What a message on a session brings about: at once, but for the load of the machine. Less than a hold time.
pub(crate) const PROMPT: Duration = Duration::from_secs(30);

/// The agents' protocol number, as `ip` prints it where `rt_protos` does not name it.
const OURS: [&str; 2] = ["77", "margay"];

/// Hosts with agents that peer with each other and with BIRD as the router.
pub(crate) struct Rack {
    pub(crate) tor: Bird,
    pub(crate) cluster: Cluster,
}

impl Rack {
    /// The ordinary rack.
    pub(crate) fn new(hosts: u8) -> Result<Self> {
        let lab = Lab::new(hosts)?;
        let config = tor_config(&lab, TOR_AS, HOST_AS);
        let resources = [pools_and_profile(false), bgp(&lab)];
        Self::with(lab, &config, &resources)
    }

    /// A rack with this configuration of BIRD and these resources.
    pub(crate) fn with(lab: Lab, tor: &str, resources: &[String]) -> Result<Self> {
        let tor = Bird::start(&lab.tor, lab.dir(), tor)?;
        let cluster = Cluster::start(lab, resources)?;
        Ok(Self { tor, cluster })
    }

    pub(crate) fn hosts(&self) -> &[Host] {
        &self.cluster.lab.hosts
    }

    pub(crate) fn agent(&self, host: usize) -> &Agent {
        &self.cluster.agents[host]
    }

    /// Waits until both ends of every session say that it is established.
    pub(crate) fn established(&self) -> Result<()> {
        for host in self.hosts() {
            for family in ["v4", "v6"] {
                let name = format!("{}_{family}", host.name);
                eventually(SOON, "the router", || self.tor.ensure_established(&name))?;
            }
        }
        let expected = self.hosts().len() * 2;
        for agent in &self.cluster.agents {
            eventually(SOON, "the host", || agent.ensure_sessions(expected))?;
        }
        Ok(())
    }

    /// A container on each host: `c1`, `c2`, ...
    pub(crate) fn containers(&self) -> Result<Vec<Container>> {
        (0..self.hosts().len())
            .map(|host| self.cluster.attach(host, &format!("c{}", host + 1)))
            .collect()
    }
}

/// The route to exactly `dst` that an agent made; an error that says what there is otherwise.
pub(crate) fn our_route(netns: &NetNs, dst: &str) -> Result<Route> {
    let all = routes(netns)?;
    let ours = |route: &&Route| {
        let protocol = route.protocol.as_deref().unwrap_or_default();
        route.dst == dst && OURS.contains(&protocol)
    };
    let found = all.iter().find(ours).cloned();
    found.with_context(|| format!("{} has no route of ours to {dst}: {all:?}", netns.name()))
}

/// An error while an agent's route to exactly `dst` is there.
pub(crate) fn ensure_not_ours(netns: &NetNs, dst: &str) -> Result<()> {
    let found = our_route(netns, dst);
    ensure!(found.is_err(), "{} has {found:?}", netns.name());
    Ok(())
}

/// Pings every address from every namespace but its own, all namespaces at once.
pub(crate) fn everyone_reaches_everyone(parties: &[(&NetNs, Vec<IpAddr>)]) -> Result<()> {
    let missed: Vec<String> = thread::scope(|scope| {
        let rows: Vec<_> = parties
            .iter()
            .map(|(from, _)| scope.spawn(move || unreached(from, parties)))
            .collect();
        rows.into_iter()
            .flat_map(|row| row.join().unwrap_or_else(|_panic| vec!["a panic".into()]))
            .collect()
    });
    ensure!(missed.is_empty(), "no reply: {missed:?}");
    Ok(())
}

fn unreached(from: &NetNs, parties: &[(&NetNs, Vec<IpAddr>)]) -> Vec<String> {
    let others = parties.iter().filter(|(to, _)| to.name() != from.name());
    others
        .flat_map(|(_, addresses)| addresses)
        .filter(|address| ping(from, **address, PROMPT).is_err())
        .map(|address| format!("{} to {address}", from.name()))
        .collect()
}

/// How often the agent's session with this address came up: one more each time it was lost.
pub(crate) fn ups(agent: &Agent, address: impl ToString) -> Result<usize> {
    let log = fs::read_to_string(agent.log_file())?;
    let key = format!("key={} ", address.to_string());
    let up = |line: &&str| line.contains("session up") && line.contains(&key);
    Ok(log.lines().filter(up).count())
}

/// The names of an agent's sessions, those that are established.
pub(crate) fn established_names(agent: &Agent) -> Result<Vec<String>> {
    let status = agent.status()?;
    let peers = status["bgp"]["peers"].as_array().context("no peers")?;
    let mut names: Vec<String> = peers
        .iter()
        .filter(|peer| peer["state"] == "Established")
        .filter_map(|peer| Some(peer["name"].as_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Waits until exactly these sessions are established.
pub(crate) fn wait_for_sessions(agent: &Agent, expected: &[&str]) -> Result<()> {
    eventually(SOON, &format!("sessions of {}", agent.name()), || {
        let found = established_names(agent)?;
        let all = &agent.status()?["bgp"]["peers"];
        ensure!(found == expected, "{found:?}, expected {expected:?}: {all}");
        Ok(())
    })
}

/// `ip monitor route` in a namespace, to a file: everything that happens to its routes.
pub(crate) struct RouteMonitor {
    process: Process,
    file: PathBuf,
}

impl RouteMonitor {
    pub(crate) fn start(lab: &Lab, netns: &NetNs) -> Result<Self> {
        let file = lab.dir().join(format!("routes-{}.log", netns.name()));
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "route"]);
        let process = Process::spawn("ip monitor", command, Some(netns.name()), &file)?;
        let monitor = Self { process, file };
        // It listens once it reports what happens.
        eventually(PROMPT, "ip monitor listens", || {
            netns.ip("route replace blackhole 192.0.2.255/32 metric 9")?;
            netns.ip("route del blackhole 192.0.2.255/32 metric 9")?;
            ensure!(monitor.text()?.contains("192.0.2.255"), "nothing yet");
            Ok(())
        })?;
        Ok(monitor)
    }

    fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.file)?)
    }

    /// Ends it; the lines that are about `prefix`.
    pub(crate) fn stop(mut self, prefixes: &[String]) -> Result<Vec<String>> {
        self.process.kill()?;
        let about = |line: &&str| prefixes.iter().any(|p| line.split(' ').any(|w| w == p));
        Ok(self
            .text()?
            .lines()
            .filter(about)
            .map(str::to_owned)
            .collect())
    }
}

/// Finds what `ensure_sessions` would not: a session with this address that is established.
pub(crate) fn ensure_up(agent: &Agent, address: impl ToString) -> Result<()> {
    let address = address.to_string();
    let status = agent.status()?;
    let peers = status["bgp"]["peers"].as_array().context("no peers")?;
    match peers.iter().find(|peer| peer["address"] == address) {
        Some(peer) if peer["state"] == "Established" => Ok(()),
        Some(peer) => bail!("session with {address}: {peer}"),
        None => bail!("no session with {address}: {peers:?}"),
    }
}
