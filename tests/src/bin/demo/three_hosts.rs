//! The long form: hosts that peer with each other and with the router of their rack.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Agent, Bird, Container, Ctl, Datastore, Etcd, Host, Lab, Pinger, STORE_V4, binary,
    ensure_no_route, eventually, host_route, ping, run as run_command, tor_config,
};

use crate::keep::Kept;
use crate::matrix::Party;
use crate::report::{Report, millis};
use crate::scenario::{
    PACE, REPLY, SOON, attach, ensure_free, first_packet, isolate, party, reach, without_loss,
};
use margay_lab::resources::{HOST_AS, NETWORK, TOR_AS, VAULT, bgp, pools_and_profile};

/// How long the killed agent stays away.
const AWAY: Duration = Duration::from_secs(1);

struct Rack {
    // In the order of dropping: what runs before what it runs in.
    containers: Vec<Container>,
    agents: Vec<Agent>,
    tor: Bird,
    etcd: Etcd,
    lab: Lab,
}

pub(crate) fn run(report: &mut Report, hosts: u8, keep: bool) -> Result<()> {
    let mut rack = build(report, hosts)?;
    sessions(report, &rack)?;
    containers(report, &mut rack)?;
    routes(report, &rack)?;
    matrix(report, &rack)?;
    policy(report, &rack)?;
    crash(report, &mut rack)?;
    delete(report, &mut rack)?;
    if keep {
        return rack.keep();
    }
    let name = rack.lab.name().to_owned();
    drop(rack);
    let left = run_command(std::process::Command::new("ip").args(["netns", "list"]))?;
    ensure!(!left.contains(&name), "namespaces are left behind: {left}");
    Ok(())
}

fn build(report: &mut Report, hosts: u8) -> Result<Rack> {
    report.step(
        "A rack",
        "Namespaces as hosts, a top-of-rack router and a server for etcd; no overlay, no bridge.",
    );
    let lab = report.need("the lab is built", Lab::new(hosts), |lab| {
        format!("{} hosts, names start with {}", lab.hosts.len(), lab.name())
    })?;
    for host in &lab.hosts {
        let both = ping(&host.netns, STORE_V4.into(), SOON)
            .and_then(|_| ping(&host.netns, lab.hosts[0].v6.into(), SOON));
        report.check(&format!("{} reaches the rack", host.name), both.map(millis))?;
    }

    report.step(
        "Resources in etcd",
        "Ordinary projectcalico.org/v3 YAML, stored in the established layout.",
    );
    let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into());
    let etcd = report.need("etcd runs", etcd, |etcd| etcd.url().to_owned())?;
    let url = etcd.url().to_owned();
    let ctl = Ctl::with_etcd(&lab.hosts[0].netns, &url, lab.dir());
    let applied = ctl
        .apply(&pools_and_profile(false))
        .and_then(|_| ctl.apply(&bgp(&lab)));
    report.need("margayctl apply", applied, |_| String::new())?;
    let keys = etcd.ctl(&["get", "/calico/resources/v3/", "--prefix", "--keys-only"])?;
    let pool = "/calico/resources/v3/projectcalico.org/ippools/demo-v4";
    ensure!(keys.contains(pool), "etcd has no key {pool}");
    report.check("etcd has the pools where others look for them", Ok(pool))?;

    report.step(
        "Router and agents",
        "BIRD is the router, in an AS of its own; margayd runs on each host.",
    );
    let tor = Bird::start(&lab.tor, lab.dir(), &tor_config(&lab, TOR_AS, HOST_AS));
    let tor = report.need("BIRD runs", tor, |_| format!("AS {TOR_AS}"))?;
    let mut agents = Vec::new();
    for host in &lab.hosts {
        let begun = Instant::now();
        let agent = Agent::start(host, &Datastore::Etcd(url.clone())).and_then(|agent| {
            eventually(SOON, "ready", || agent.ensure_ready())?;
            Ok(agent)
        });
        let what = format!("margayd on {} is ready", host.name);
        agents.push(report.need(&what, agent, |_| millis(begun.elapsed()))?);
    }
    Ok(Rack {
        containers: Vec::new(),
        agents,
        tor,
        etcd,
        lab,
    })
}

fn sessions(report: &mut Report, rack: &Rack) -> Result<()> {
    report.step(
        "BGP sessions",
        "iBGP between all hosts, eBGP from each to the router, IPv4 and IPv6; both ends must agree.",
    );
    for host in &rack.lab.hosts {
        let router = router_agrees(rack, host);
        report.check(
            &format!("the router says {} is established", host.name),
            router,
        )?;
    }
    for agent in &rack.agents {
        let agrees = agent_agrees(rack, agent);
        report.check(
            &format!("{} says all its sessions are", agent.name()),
            agrees,
        )?;
    }
    report.show(&rack.tor.ctl("show protocols")?);
    report.show(&rack.agents[0].ctl().run("node status")?);
    Ok(())
}

fn router_agrees(rack: &Rack, host: &Host) -> Result<&'static str> {
    for family in ["v4", "v6"] {
        let name = format!("{}_{family}", host.name);
        eventually(SOON, "established", || rack.tor.ensure_established(&name))?;
    }
    Ok("v4 and v6")
}

/// Two sessions with the router, one or two with every other host.
fn agent_agrees(rack: &Rack, agent: &Agent) -> Result<String> {
    let at_least = 2 + rack.lab.hosts.len() - 1;
    let count = eventually(SOON, "established", || agent.ensure_sessions(at_least))?;
    Ok(format!("{count} sessions"))
}

fn containers(report: &mut Report, rack: &mut Rack) -> Result<()> {
    report.step(
        "Containers",
        "Two on each host, attached by margay-cni as a runtime does it. ADD returns when it works.",
    );
    for (host, agent) in rack.lab.hosts.iter().zip(&rack.agents) {
        // The one that a policy will isolate.
        let first = if host.name == "h2" { VAULT } else { NETWORK };
        let mut attached = attach(report, &rack.lab, host, agent, &[first, NETWORK])?;
        first_packet(report, &attached[0], &attached[1])?;
        rack.containers.append(&mut attached);
    }
    Ok(())
}

/// The host that a container runs on: two to a host, in order.
fn home(rack: &Rack, container: usize) -> &Host {
    &rack.lab.hosts[container / 2]
}

fn routes(report: &mut Report, rack: &Rack) -> Result<()> {
    report.step(
        "Routes",
        "Every container is a /32 and a /128 in the router and in every other host's kernel.",
    );
    let routers = std::iter::once(("the router", &rack.lab.tor))
        .chain(rack.lab.hosts.iter().map(|h| (h.name.as_str(), &h.netns)));
    for (name, netns) in routers {
        let learnt = (|| {
            let mut count = 0;
            for (index, container) in rack.containers.iter().enumerate() {
                let home = home(rack, index);
                if home.name == name {
                    continue;
                }
                for address in &container.addresses {
                    let route = eventually(SOON, "a route", || host_route(netns, *address))?;
                    // What others learn leads to the router, what the router learns to the host.
                    let right = name != "the router" || leads_to(&route, home);
                    ensure!(right, "{address} does not lead to {}: {route:?}", home.name);
                    count += 1;
                }
            }
            Ok(format!("{count} routes"))
        })();
        report.check(&format!("{name} has them all"), learnt)?;
    }
    let table = rack.lab.tor.exec("ip -4 route show proto bird")?;
    report.show(&table);
    Ok(())
}

fn leads_to(route: &margay_lab::Route, home: &Host) -> bool {
    route.dev.as_deref() == Some(format!("to-{}", home.name).as_str())
}

fn matrix(report: &mut Report, rack: &Rack) -> Result<()> {
    report.step(
        "Everyone to everyone",
        "46: both families answer. The router is one of the parties.",
    );
    let mut parties: Vec<Party<'_>> = rack.containers.iter().map(party).collect::<Result<_>>()?;
    parties.push(Party {
        name: "tor",
        netns: &rack.lab.tor,
        v4: rack.lab.hosts[0].tor_v4.into(),
        v6: rack.lab.hosts[0].tor_v6.into(),
    });
    reach(report, &parties)
}

fn policy(report: &mut Report, rack: &Rack) -> Result<()> {
    report.step(
        "Policy",
        "A NetworkPolicy isolates one container of another host; it is lifted again.",
    );
    let [peer, bystander, target, ..] = &rack.containers[..] else {
        anyhow::bail!("too few containers");
    };
    isolate(report, &rack.ctl(), target, peer, bystander)
}

fn crash(report: &mut Report, rack: &mut Rack) -> Result<()> {
    report.step(
        "kill -9",
        "An agent dies under traffic and comes back: the kernel forwards on, the router keeps its routes.",
    );
    let victim = 1;
    let [abroad, _, far, near, ..] = &rack.containers[..] else {
        anyhow::bail!("too few containers");
    };
    let streams = [
        (
            "on the host itself",
            Pinger::start(&near.netns, far.v4()?, PACE)?,
        ),
        (
            "from another host, v4",
            Pinger::start(&abroad.netns, far.v4()?, PACE)?,
        ),
        (
            "from another host, v6",
            Pinger::start(&abroad.netns, far.v6()?, PACE)?,
        ),
        (
            "from the router",
            Pinger::start(&rack.lab.tor, far.v4()?, PACE)?,
        ),
    ];
    sleep(Duration::from_millis(200));
    rack.agents[victim].kill()?;
    sleep(AWAY);
    let kept = router_waits(rack, &rack.lab.hosts[victim], far);
    report.check("the router lost the session and kept the routes", kept)?;
    let begun = Instant::now();
    let back = rack.agents[victim].restart();
    let name = rack.agents[victim].name().to_owned();
    report.need(&format!("margayd on {name} is back"), back, |()| {
        millis(begun.elapsed())
    })?;
    let ready = eventually(SOON, "ready", || rack.agents[victim].ensure_ready());
    report.check("it is ready", ready.map(|()| millis(begun.elapsed())))?;
    let agrees = agent_agrees(rack, &rack.agents[victim]);
    report.check("its sessions are back", agrees)?;
    report.check(
        "the router agrees",
        router_agrees(rack, &rack.lab.hosts[victim]),
    )?;
    sleep(Duration::from_millis(300));
    for (what, stream) in streams {
        let counted = stream.stop()?;
        report.check(&format!("traffic {what}"), without_loss(&counted))?;
    }
    Ok(())
}

/// Graceful restart (RFC 4724), seen from the router.
fn router_waits(rack: &Rack, host: &Host, container: &Container) -> Result<&'static str> {
    let session = format!("{}_v4", host.name);
    let up = rack.tor.ensure_established(&session);
    ensure!(up.is_err(), "the session is still established");
    for address in &container.addresses {
        host_route(&rack.lab.tor, *address)?;
    }
    Ok("graceful restart")
}

fn delete(report: &mut Report, rack: &mut Rack) -> Result<()> {
    report.step(
        "A container goes",
        "DEL takes its route from every table and gives its address back.",
    );
    let mut gone = rack.containers.pop().context("no container is left")?;
    let addresses: Vec<IpAddr> = gone.addresses.clone();
    report.check(&format!("DEL {}", gone.id), gone.cni_del().map(|()| ""))?;
    report.check("DEL again, as runtimes do", gone.cni_del().map(|()| ""))?;
    let routers = std::iter::once(("the router", &rack.lab.tor))
        .chain(rack.lab.hosts.iter().map(|h| (h.name.as_str(), &h.netns)));
    for (name, netns) in routers {
        let begun = Instant::now();
        let withdrawn = addresses.iter().try_for_each(|address| {
            eventually(SOON, "withdrawn", || ensure_no_route(netns, *address))
        });
        let what = format!("{name} has its routes no longer");
        report.check(&what, withdrawn.map(|()| millis(begun.elapsed())))?;
    }
    for address in addresses {
        let what = format!("{address} is back in the pool");
        report.check(&what, address_is_free(rack, address))?;
    }
    let survivor = rack.containers[0].v4()?;
    let other = ping(&rack.lab.tor, survivor, REPLY);
    report.check("the others stay", other.map(millis))?;
    Ok(())
}

fn address_is_free(rack: &Rack, address: IpAddr) -> Result<&'static str> {
    let shown = rack.ctl().run(&format!("ipam show --ip={address}"))?;
    ensure_free(&shown)
}

impl Rack {
    fn ctl(&self) -> Ctl {
        Ctl::with_etcd(&self.lab.hosts[0].netns, self.etcd.url(), self.lab.dir())
    }

    fn keep(self) -> Result<()> {
        let mut kept = Kept::default();
        let first = &self.lab.hosts[0];
        let name = self.lab.name().to_owned();
        let ctl = binary("margayctl")?.display().to_string();
        kept.hints = vec![
            format!("ip netns list | grep {name}"),
            format!("ip netns exec {name}-c1a ping {}", self.containers[2].v4()?),
            format!("ip netns exec {name}-tor ip route"),
            format!(
                "{ctl} --socket {} node status",
                self.agents[0].socket().display()
            ),
            format!(
                "ip netns exec {} env ETCD_ENDPOINTS={} {ctl} get nodes -o wide",
                first.netns.name(),
                self.etcd.url()
            ),
            format!("less {}", self.agents[0].log_file().display()),
        ];
        let (pid, control) = self.tor.keep();
        kept.hints
            .push(format!("birdc -s {} show protocols", control.display()));
        kept.pids.push(pid);
        kept.pids
            .extend(self.agents.into_iter().filter_map(Agent::keep));
        if let Some((pid, data)) = self.etcd.leave_running() {
            kept.pids.push(pid);
            kept.folders.push(data);
        }
        let (namespaces, dir) = self.lab.keep();
        kept.namespaces = namespaces;
        for container in self.containers {
            kept.namespaces.push(container.netns.keep());
        }
        kept.folders.push(dir.clone());
        kept.explain(&dir)
    }
}
