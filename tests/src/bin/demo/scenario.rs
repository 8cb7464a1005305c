//! Steps that both forms of the demo take.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use margay_lab::{
    Agent, Container, Ctl, Host, Lab, Pinger, PingerReport, Plugin, eventually, ping,
};

use crate::matrix::{Party, measure, render};
use crate::report::{Report, millis};
use margay_lab::resources::isolation;

/// How long routes, policies and sessions may take; all of them are far quicker on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A reply that does not come within this time does not come.
pub(crate) const REPLY: Duration = Duration::from_millis(300);

/// A packet every 5 ms: 200 a second.
pub(crate) const PACE: Duration = Duration::from_millis(5);

/// Attaches a container for each of `networks`, named `c<host>a`, `c<host>b`, ..., and shows what the
/// plugin answered.
pub(crate) fn attach(
    report: &mut Report,
    lab: &Lab,
    host: &Host,
    agent: &Agent,
    networks: &[&str],
) -> Result<Vec<Container>> {
    let mut containers = Vec::new();
    for (letter, network) in ('a'..).zip(networks) {
        let id = format!("{}{letter}", host.name.replace('h', "c"));
        let plugin = Plugin::new(agent, host, network)?;
        let mut container = Container::new(lab, &id, plugin)?;
        let begun = Instant::now();
        let added = container.cni_add();
        let took = begun.elapsed();
        let added = report.need(&format!("ADD {id} on {}", host.name), added, |_| {
            let addresses: Vec<String> = container
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect();
            format!("{} in {}", addresses.join(" and "), millis(took))
        })?;
        let complete = container.v4().and(container.v6()).map(|_| "");
        report.check(&format!("{id} has an address of each family"), complete)?;
        let checked = container.cni_check(&added).map(|()| "");
        report.check(&format!("CHECK {id}"), checked)?;
        containers.push(container);
    }
    Ok(containers)
}

/// A new container's first packet waits for nothing.
pub(crate) fn first_packet(report: &mut Report, from: &Container, to: &Container) -> Result<()> {
    let what = format!("first packet from {} to {}", from.id, to.id);
    let time = to.v4().and_then(|to| ping(&from.netns, to, SOON));
    let prompt = time.and_then(|time| {
        ensure!(time < Duration::from_millis(100), "took {}", millis(time));
        Ok(millis(time))
    });
    report.check(&what, prompt)?;
    Ok(())
}

pub(crate) fn party(container: &Container) -> Result<Party<'_>> {
    Ok(Party {
        name: &container.id,
        netns: &container.netns,
        v4: container.v4()?,
        v6: container.v6()?,
    })
}

/// The whole matrix, one check for each party.
pub(crate) fn reach(report: &mut Report, parties: &[Party<'_>]) -> Result<()> {
    let rows = measure(parties);
    report.show(&render(&rows));
    ensure!(
        rows.len() == parties.len(),
        "a row of the matrix is missing"
    );
    for row in rows {
        let what = format!("{} reaches all others, v4 and v6", row.from);
        let result = if row.missed.is_empty() {
            Ok("")
        } else {
            Err(anyhow::anyhow!("no reply from {}", row.missed.join(", ")))
        };
        report.check(&what, result)?;
    }
    Ok(())
}

/// Isolates `target`, the one in the vault, while `bystander` keeps talking to `peer`, then lifts it.
pub(crate) fn isolate(
    report: &mut Report,
    ctl: &Ctl,
    target: &Container,
    peer: &Container,
    bystander: &Container,
) -> Result<()> {
    let others = Pinger::start(&bystander.netns, peer.v4()?, PACE)?;
    let applied = ctl.apply(&isolation());
    report.need("the policy is accepted", applied, |_| String::new())?;
    for (direction, from, to) in [("to", peer, target), ("from", target, peer)] {
        for (family, address) in [("v4", to.v4()?), ("v6", to.v6()?)] {
            let silent = silence(from, address);
            report.check(
                &format!("traffic {direction} {} stops, {family}", target.id),
                silent,
            )?;
        }
    }
    let counted = others.stop()?;
    let what = format!("{} to {} goes on", bystander.id, peer.id);
    report.check(&what, without_loss(&counted))?;

    let removed = ctl.run("delete networkpolicy isolate -n default");
    report.need("the policy is removed", removed, |_| String::new())?;
    for (family, address) in [("v4", target.v4()?), ("v6", target.v6()?)] {
        let what = format!("traffic to {} flows again, {family}", target.id);
        let flows = eventually(SOON, "a reply", || ping(&peer.netns, address, REPLY));
        report.check(&what, flows.map(millis))?;
    }
    Ok(())
}

/// Each look is a new flow: what a policy forbids are new flows.
fn silence(from: &Container, to: IpAddr) -> Result<String> {
    let begun = Instant::now();
    eventually(SOON, "silence", || {
        let asked = Instant::now();
        match ping(&from.netns, to, REPLY) {
            Ok(_) => bail!("still answered"),
            Err(_) => Ok(format!("after {}", millis(asked.duration_since(begun)))),
        }
    })
}

/// Passes when nothing was lost.
pub(crate) fn without_loss(counted: &PingerReport) -> Result<String> {
    let told = told(counted);
    ensure!(counted.sent > 10 && counted.lost == 0, "{told}");
    Ok(told)
}

/// A stream's fate in words.
fn told(counted: &PingerReport) -> String {
    format!(
        "{} of {} packets lost, longest gap {}",
        counted.lost,
        counted.sent,
        millis(counted.longest_gap)
    )
}

/// What `ipam show --ip` says of an address that nobody holds; a while after its release it rests.
pub(crate) fn ensure_free(shown: &str) -> Result<&'static str> {
    match shown {
        s if s.contains("is not in use") => Ok(""),
        s if s.contains("was released") => Ok("it rests before it is used again"),
        _ => bail!("ipam show says {shown}"),
    }
}
