//! Agents and routers that come back, under traffic.
//!
//! ```text
//!   c1 - h1 \
//!   c2 - h2   tor (BIRD, graceful restart on; announces 10.65.200.0/24 and fd00:65:0:200::/64)
//!   c3 - h3 /
//! ```
//! For an agent that is killed, and for one that is told to stop, then started again:
//! 1. No packet is lost between hosts, from the router or to it (RFC 4724: peers keep the routes of a speaker
//!    that preserved its forwarding state).
//! 2. Nothing happens to any route of its containers on the router or another host, nor to any route of ours on
//!    its own host: `ip monitor` sees no line.
//! 3. What it does not say again is withdrawn at its End-of-RIB (RFC 4724, section 4.2): a container that went
//!    meanwhile.
//!
//! For all agents that are killed and started again at the same time:
//! 4. The same, and none waits for another's End-of-RIB for ever (RFC 4724, section 4.1: not for a speaker that has
//!    just restarted as well): a new container is told of promptly.
//!
//! For an agent that is killed while etcd is away and started again:
//! 5. The same: it peers again and says from its snapshot what it has. When etcd is back it goes on as ever.
//!
//! For a router that is killed and started again in recovery:
//! 6. Nothing happens to what it had announced in the hosts' kernels.

use std::net::IpAddr;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, bgp, pools_and_profile};
use margay_lab::{
    Container, Lab, NetNs, Pinger, Process, ensure_no_route, eventually, host_route, run,
    tor_config,
};

use crate::support::{PROMPT, Rack, RouteMonitor, SOON, our_route, ups};

/// 200 packets a second in each stream.
const PACE: Duration = Duration::from_millis(5);

/// How long the agent stays away, beside what it takes to start.
pub(crate) const AWAY: Duration = Duration::from_millis(500);

/// How long after a change a snapshot surely has it.
const SNAPSHOT: Duration = Duration::from_secs(3);

/// Time for a wrong decision to show.
const AFTER: Duration = Duration::from_millis(500);

const ANYCAST: [&str; 2] = ["10.65.200.0/24", "fd00:65:0:200::/64"];

pub(crate) fn rack() -> Result<Rack> {
    let lab = Lab::new(3)?;
    let config = tor_config(&lab, TOR_AS, HOST_AS).replace(
        "export all; }; merge",
        "export where source != RTS_STATIC; }; merge",
    ) + "protocol static any4 { ipv4; route 10.65.200.0/24 blackhole; }\n\
           protocol static any6 { ipv6; route fd00:65:0:200::/64 blackhole; }\n";
    let resources = [pools_and_profile(false), bgp(&lab)];
    let rack = Rack::with(lab, &config, &resources)?;
    rack.established()?;
    for host in rack.hosts() {
        for dst in ANYCAST {
            eventually(PROMPT, "what the router announces", || {
                our_route(&host.netns, dst)
            })?;
        }
    }
    Ok(rack)
}

/// Streams of echo requests, and who watches the routes meanwhile.
pub(crate) struct Watch {
    streams: Vec<(String, Pinger)>,
    monitors: Vec<(String, RouteMonitor)>,
    prefixes: Vec<String>,
}

impl Watch {
    pub(crate) fn start(rack: &Rack, containers: &[Container]) -> Result<Self> {
        let [c1, c2, c3] = containers else {
            bail!("three containers");
        };
        let lab = &rack.cluster.lab;
        let router: IpAddr = rack.hosts()[1].tor_v4.into();
        let pairs = [
            (&c1.netns, c2.v4()?),
            (&c1.netns, c2.v6()?),
            (&c2.netns, c1.v4()?),
            (&c2.netns, c3.v6()?),
            (&lab.tor, c2.v4()?),
            (&lab.tor, c2.v6()?),
            (&c2.netns, router),
        ];
        let mut watch = Self {
            streams: Vec::new(),
            monitors: Vec::new(),
            prefixes: ANYCAST.map(str::to_owned).to_vec(),
        };
        for container in containers {
            let addresses = container.addresses.iter().map(ToString::to_string);
            watch.prefixes.extend(addresses);
        }
        let hosts = rack.hosts().iter().map(|host| &host.netns);
        for netns in hosts.chain([&lab.tor]) {
            let monitor = RouteMonitor::start(lab, netns)?;
            watch.monitors.push((netns.name().to_owned(), monitor));
        }
        for (from, to) in pairs {
            let name = format!("{} to {to}", from.name());
            watch.streams.push((name, Pinger::start(from, to, PACE)?));
        }
        watch.sends(20)?;
        Ok(watch)
    }

    /// Waits until each stream has sent so many more requests.
    fn sends(&self, requests: usize) -> Result<()> {
        let mut streams = self.streams.iter();
        streams.try_for_each(|(_, stream)| stream.sends(requests))
    }

    /// No packet lost, no route touched.
    pub(crate) fn quiet(self, what: &str) -> Result<()> {
        sleep(AFTER);
        self.sends(20)?;
        let mut complaints = Vec::new();
        for (name, stream) in self.streams {
            let counted = stream.stop()?;
            ensure!(counted.sent > 40, "{name}: {counted:?}");
            if counted.lost > 0 {
                complaints.push(format!("{name}: {counted:?}"));
            }
        }
        for (name, monitor) in self.monitors {
            let lines = monitor.stop(&self.prefixes)?.into_iter();
            // A new container's interface comes up, and its own route is said again, as it is.
            let lines = lines.filter(|l| l.starts_with("Deleted") || !l.contains(" dev mgy"));
            complaints.extend(lines.map(|line| format!("{name}: {line}")));
        }
        ensure!(complaints.is_empty(), "{what}: {complaints:#?}");
        Ok(())
    }
}

/// Waits until every host and the router have a route to every container.
pub(crate) fn everybody_knows(rack: &Rack, containers: &[Container]) -> Result<()> {
    let hosts = rack.hosts().iter().map(|host| &host.netns);
    for netns in hosts.chain([&rack.cluster.lab.tor]) {
        for address in containers.iter().flat_map(|c| &c.addresses) {
            eventually(PROMPT, "routed", || host_route(netns, *address))?;
        }
    }
    Ok(())
}

/// Where both dialled at once, BIRD takes the second connection for a restart.
const SECOND_CONNECTION: usize = 1;

/// How often the session of a host with the router has come up.
fn ups_of(rack: &Rack, index: usize) -> Result<usize> {
    ups(rack.agent(index), rack.hosts()[index].tor_v4)
}

/// The agent is ready and its session has come up once more than `before`.
fn back_again(rack: &Rack, index: usize, before: usize) -> Result<()> {
    let name = &rack.hosts()[index].name;
    eventually(SOON, &format!("{name} is ready"), || {
        rack.agent(index).ensure_ready()
    })?;
    rack.established()?;
    let now = ups_of(rack, index)?;
    let again = before + 1..=before + 1 + SECOND_CONNECTION;
    ensure!(
        again.contains(&now),
        "sessions came up {before}, then {now} times"
    );
    Ok(())
}

#[test]
fn an_agent_that_restarts_loses_no_packet_and_no_route() -> Result<()> {
    let mut rack = rack()?;
    let mut containers = rack.containers()?;
    everybody_knows(&rack, &containers)?;

    let watch = Watch::start(&rack, &containers)?;
    let before = ups_of(&rack, 1)?;
    rack.cluster.agents[1].kill()?;
    sleep(AWAY);
    rack.cluster.agents[1].restart()?;
    back_again(&rack, 1, before)?;
    watch.quiet("kill -9")?;

    let watch = Watch::start(&rack, &containers)?;
    rack.cluster.agents[1].process()?.stop()?;
    sleep(AWAY);
    rack.cluster.agents[1].restart()?;
    back_again(&rack, 1, before + 1)?;
    watch.quiet("SIGTERM")?;

    // Its DEL waits in the journal, or its interface is gone: either way it is not told again.
    let mut gone = containers.remove(1);
    rack.cluster.agents[1].kill()?;
    gone.cni_del()?;
    rack.cluster.agents[1].restart()?;
    back_again(&rack, 1, before + 2)?;
    for netns in [
        &rack.hosts()[0].netns,
        &rack.hosts()[2].netns,
        &rack.cluster.lab.tor,
    ] {
        for address in &gone.addresses {
            eventually(SOON, "withdrawn", || ensure_no_route(netns, *address))?;
        }
    }
    Ok(())
}

#[test]
fn agents_that_restart_together_lose_nothing_either() -> Result<()> {
    let mut rack = rack()?;
    let containers = rack.containers()?;
    everybody_knows(&rack, &containers)?;
    let watch = Watch::start(&rack, &containers)?;
    let before = [ups_of(&rack, 0)?, ups_of(&rack, 1)?, ups_of(&rack, 2)?];
    for agent in &mut rack.cluster.agents {
        agent.kill()?;
    }
    sleep(AWAY);
    for agent in &mut rack.cluster.agents {
        agent.restart()?;
    }
    for (index, before) in before.into_iter().enumerate() {
        back_again(&rack, index, before)?;
    }
    let late = rack.cluster.attach(0, "late")?;
    everybody_knows(&rack, &[late])?;
    watch.quiet("all agents")
}

#[test]
fn an_agent_that_restarts_while_etcd_is_away_peers_and_loses_nothing() -> Result<()> {
    let mut rack = rack()?;
    let containers = rack.containers()?;
    everybody_knows(&rack, &containers)?;
    // Longer than changes are gathered for the snapshot, and than a busy disk takes.
    sleep(SNAPSHOT);
    rack.cluster.etcd.kill()?;
    let watch = Watch::start(&rack, &containers)?;
    let before = ups_of(&rack, 1)?;
    rack.cluster.agents[1].kill()?;
    sleep(AWAY);
    rack.cluster.agents[1].restart()?;
    rack.established()?;
    let now = ups_of(&rack, 1)?;
    ensure!(
        (before + 1..=before + 1 + SECOND_CONNECTION).contains(&now),
        "one session after the other: {before}, then {now}"
    );
    let status = rack.agent(1).status()?;
    let reasons = status["not_ready_reasons"].to_string();
    ensure!(status["ready"] == false, "{status}");
    ensure!(
        reasons.contains("does what it last read there"),
        "{reasons}"
    );
    watch.quiet("kill -9 without etcd")?;

    rack.cluster.etcd.restart()?;
    back_again(&rack, 1, before)?;
    let late = rack.cluster.attach(1, "late")?;
    everybody_knows(&rack, &[late])?;
    everybody_knows(&rack, &containers)
}

/// BIRD in recovery: it leaves the kernel and its peers alone until it has heard them.
fn bird_recovers(tor: &NetNs, lab: &Lab) -> Result<Process> {
    let file = |ext: &str| lab.dir().join(format!("bird-{}.{ext}", tor.name()));
    let mut command = Command::new("bird");
    command.args(["-f", "-R", "-c"]).arg(file("conf"));
    command.arg("-s").arg(file("ctl"));
    Process::spawn("bird", command, Some(tor.name()), &file("log"))
}

#[test]
fn a_router_that_restarts_keeps_its_routes_in_the_hosts() -> Result<()> {
    let mut rack = rack()?;
    let containers = rack.containers()?;
    everybody_knows(&rack, &containers)?;
    let lab = &rack.cluster.lab;
    let tor = lab.tor.name().to_owned();
    let mut watch = Watch::start(&rack, &containers)?;
    // BIRD's own care for its kernel routes is not what is tested.
    watch.streams.clear();
    watch.monitors.retain(|(name, _)| *name != tor);
    rack.tor.process().kill()?;
    let down = || -> Result<()> {
        let status = rack.cluster.agents[0].status()?.to_string();
        ensure!(!status.contains("h1-tor-v4\",\"received\":1"), "{status}");
        Ok(())
    };
    eventually(SOON, "the hosts notice", || {
        let log = std::fs::read_to_string(rack.cluster.agents[0].log_file())?;
        let lost = log
            .lines()
            .find(|l| l.contains("session down") && l.contains("h1-tor-v4"));
        let line = lost.context("no session is down")?;
        ensure!(line.contains("graceful=true"), "{line}");
        Ok(())
    })?;
    down()?;
    let _bird = bird_recovers(&lab.tor, lab)?;
    eventually(SOON, "BIRD answers", || {
        let control = lab.dir().join(format!("bird-{tor}.ctl"));
        run(Command::new("birdc")
            .arg("-s")
            .arg(control)
            .args(["show", "status"]))
    })?;
    rack.established()?;
    watch.quiet("BIRD")?;
    for host in rack.hosts() {
        for dst in ANYCAST {
            our_route(&host.netns, dst)?;
        }
    }
    Ok(())
}
