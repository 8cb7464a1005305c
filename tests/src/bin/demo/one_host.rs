//! The short form: one host on the embedded store, no etcd, no router of its own.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{
    Agent, Container, Datastore, Lab, Pinger, binary, ensure_no_route, eventually, ping,
};

use crate::keep::Kept;
use crate::matrix::Party;
use crate::report::{Report, millis};
use crate::scenario::{
    PACE, REPLY, SOON, attach, ensure_free, first_packet, isolate, party, reach, without_loss,
};
use margay_lab::resources::{NETWORK, VAULT, pools_and_profile};

struct Single {
    containers: Vec<Container>,
    agent: Agent,
    lab: Lab,
}

pub(crate) fn run(report: &mut Report, keep: bool) -> Result<()> {
    let mut single = build(report)?;
    containers(report, &mut single)?;
    policy(report, &single)?;
    crash(report, &mut single)?;
    delete(report, &mut single)?;
    if keep {
        return single.keep();
    }
    Ok(())
}

fn build(report: &mut Report) -> Result<Single> {
    report.step(
        "One host",
        "A namespace as the host; margayd keeps its resources in a file. Nothing else runs.",
    );
    let lab = report.need("the lab is built", Lab::new(1), |lab| {
        format!("names start with {}", lab.name())
    })?;
    let begun = Instant::now();
    let agent = Agent::start(&lab.hosts[0], &Datastore::Embedded);
    let agent = report.need("margayd runs", agent, |_| millis(begun.elapsed()))?;
    let ctl = agent.ctl();
    let applied = ctl.apply(&pools_and_profile(true));
    report.need("margayctl apply, through the agent", applied, |_| {
        String::new()
    })?;
    let pools = ctl.run("get ippools")?;
    report.show(&pools);
    ensure!(pools.contains("10.65.0.0/16"), "the pool is not listed");
    let ready = eventually(SOON, "ready", || agent.ensure_ready());
    report.check("margayd is ready", ready.map(|()| millis(begun.elapsed())))?;
    Ok(Single {
        containers: Vec::new(),
        agent,
        lab,
    })
}

fn containers(report: &mut Report, single: &mut Single) -> Result<()> {
    report.step(
        "Containers",
        "Three, attached by margay-cni as a runtime does it; 46: both families answer.",
    );
    let host = &single.lab.hosts[0];
    let attached = attach(
        report,
        &single.lab,
        host,
        &single.agent,
        &[NETWORK, NETWORK, VAULT],
    )?;
    first_packet(report, &attached[0], &attached[1])?;
    let parties: Vec<Party<'_>> = attached.iter().map(party).collect::<Result<_>>()?;
    reach(report, &parties)?;
    for container in &attached {
        let answers = ping(&host.netns, container.v4()?, REPLY)
            .and_then(|_| ping(&host.netns, container.v6()?, REPLY));
        report.check(
            &format!("the host reaches {}", container.id),
            answers.map(millis),
        )?;
    }
    let refused = match ping(&attached[0].netns, host.v4.into(), REPLY) {
        Ok(_) => Err(anyhow::anyhow!("it answers")),
        Err(_) => Ok("unless its policy says otherwise"),
    };
    report.check("the host itself is out of a container's reach", refused)?;
    // The world knows no route to a container: an answer means that its address was translated.
    for (family, world) in [
        ("v4", IpAddr::from(host.tor_v4)),
        ("v6", IpAddr::from(host.tor_v6)),
    ] {
        let answer = ping(&attached[0].netns, world, SOON);
        let what = format!(
            "{} reaches the world behind the host's address, {family}",
            attached[0].id
        );
        report.check(&what, answer.map(millis))?;
    }
    single.containers = attached;
    Ok(())
}

fn policy(report: &mut Report, single: &Single) -> Result<()> {
    report.step(
        "Policy",
        "A NetworkPolicy isolates one container; it is lifted again.",
    );
    let [peer, bystander, target] = &single.containers[..] else {
        bail!("three containers were made");
    };
    isolate(report, &single.agent.ctl(), target, peer, bystander)
}

fn crash(report: &mut Report, single: &mut Single) -> Result<()> {
    report.step(
        "kill -9",
        "The agent dies under traffic and comes back: forwarding and policy stay.",
    );
    let [from, to, ..] = &single.containers[..] else {
        bail!("three containers were made");
    };
    let stream = Pinger::start(&from.netns, to.v4()?, PACE)?;
    sleep(Duration::from_millis(200));
    single.agent.kill()?;
    sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let back = single.agent.restart();
    report.need("margayd is back", back, |()| millis(begun.elapsed()))?;
    let ready = eventually(SOON, "ready", || single.agent.ensure_ready());
    report.check("it is ready", ready.map(|()| millis(begun.elapsed())))?;
    sleep(Duration::from_millis(300));
    report.check("traffic between containers", without_loss(&stream.stop()?))?;
    Ok(())
}

fn delete(report: &mut Report, single: &mut Single) -> Result<()> {
    report.step(
        "A container goes",
        "DEL removes its routes and gives its address back.",
    );
    let mut gone = single.containers.pop().context("no container is left")?;
    report.check(&format!("DEL {}", gone.id), gone.cni_del().map(|()| ""))?;
    for address in gone.addresses.clone() {
        let netns = &single.lab.hosts[0].netns;
        let route = eventually(SOON, "withdrawn", || ensure_no_route(netns, address));
        report.check(&format!("no route to {address}"), route.map(|()| ""))?;
        let shown = single
            .agent
            .ctl()
            .run(&format!("ipam show --ip={address}"))?;
        report.check(
            &format!("{address} is back in the pool"),
            ensure_free(&shown),
        )?;
    }
    Ok(())
}

impl Single {
    fn keep(self) -> Result<()> {
        let mut kept = Kept::default();
        let name = self.lab.name().to_owned();
        let ctl = binary("margayctl")?.display().to_string();
        let socket = self.agent.socket().display().to_string();
        kept.hints = vec![
            format!("ip netns exec {name}-c1a ping {}", self.containers[1].v4()?),
            format!("ip netns exec {name}-h1 ip route"),
            format!("{ctl} --socket {socket} get workloadendpoints -A -o wide"),
            format!("{ctl} --socket {socket} node status"),
            format!("less {}", self.agent.log_file().display()),
        ];
        kept.pids.extend(self.agent.keep());
        let (namespaces, dir) = self.lab.keep();
        kept.namespaces = namespaces;
        for container in self.containers {
            kept.namespaces.push(container.netns.keep());
        }
        kept.folders.push(dir.clone());
        kept.explain(&dir)
    }
}
