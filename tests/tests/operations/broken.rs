//! `doctor`, `trace` and `connectivity test` on a cluster in which something is broken.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use margay_lab::{Container, eventually};
use serde_json::Value;

use crate::rig::{Rig, SOON};

/// What `doctor` finds that is no matter of this machine.
fn found(rig: &Rig) -> Result<Vec<(String, String)>> {
    let report = rig.json("doctor")?;
    let all = report["findings"].as_array().context("no findings")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = all.iter().map(|f| (text(&f["severity"]), text(&f["what"])));
    Ok(found
        .filter(|(_, what)| !what.starts_with("This host: "))
        .collect())
}

fn v4(container: &Container) -> Result<IpAddr> {
    let found = container.addresses.iter().find(|a| a.is_ipv4());
    found.copied().context("an IPv4 address")
}

fn await_finding(rig: &Rig, severity: &str, word: &str) -> Result<()> {
    eventually(SOON, &format!("doctor says {word:?}"), || {
        let found = found(rig)?;
        let said = found
            .iter()
            .any(|(s, what)| s == severity && what.contains(word));
        ensure!(said, "{found:?}");
        Ok(())
    })
}

fn await_health(rig: &Rig) -> Result<()> {
    eventually(SOON, "doctor is content", || {
        let found = found(rig)?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
}

#[test]
fn doctor_names_what_was_broken_and_is_content_when_it_is_mended() -> Result<()> {
    let mut rig = Rig::start(2)?;
    await_health(&rig)?;

    // The router goes.
    rig.tor.process().stop()?;
    await_finding(
        &rig,
        "broken",
        "The session with h1-tor-v4 (192.0.2.6, AS 65000)",
    )?;
    let (text, succeeded) = rig.ctl("doctor")?;
    ensure!(!succeeded, "a failure is a failure");
    ensure!(text.contains("Next: "), "{text}");

    // The other agent is killed: its sign of life outlives it, its session does not.
    rig.cluster.agents[1].kill()?;
    await_finding(&rig, "broken", "BGP sessions are down")?;

    // etcd goes.
    rig.cluster.etcd.kill()?;
    await_finding(
        &rig,
        "broken",
        "The agent has no connection to its datastore",
    )?;
    rig.cluster.etcd.restart()?;

    // The agent itself.
    rig.cluster.agents[0].kill()?;
    await_finding(&rig, "broken", "The agent of this host does not answer")
}

#[test]
fn doctor_names_a_full_pool_a_locked_datastore_and_a_policy_that_cannot_be_used() -> Result<()> {
    let rig = Rig::start(1)?;
    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v4-small}\n\
         spec: {cidr: 10.66.0.0/30, blockSize: 30}\n",
    )?;
    rig.cluster
        .ctl()
        .run("patch ippool demo-v4 -p {\"spec\":{\"disabled\":true}}")?;
    let mut containers = Vec::new();
    // The agent hears of the pools a moment after they were written.
    let first = eventually(SOON, "an address of the small pool", || {
        let container = rig.cluster.attach(0, "c0")?;
        let small = v4(&container)?.to_string().starts_with("10.66.");
        ensure!(small, "{:?}", container.addresses);
        Ok(container)
    });
    containers.push(first?);
    for number in 1..4 {
        containers.push(rig.cluster.attach(0, &format!("c{number}"))?);
    }
    await_finding(&rig, "broken", "Pool v4-small is full: 4 of 4")?;
    rig.cluster.ctl().run("datastore lock")?;
    await_finding(&rig, "broken", "The datastore is locked")?;
    rig.cluster.ctl().run("datastore unlock")?;
    Ok(())
}

#[test]
fn trace_follows_a_packet_and_says_where_it_ends() -> Result<()> {
    let rig = Rig::start(2)?;
    let (c1, c2) = (rig.cluster.attach(0, "c1")?, rig.cluster.attach(1, "c2")?);
    let to = v4(&c2)?;
    let way = eventually(SOON, "the route is there", || {
        let traced = rig.json(&format!("trace c1 {to}"))?;
        let way = traced["ways"][0].clone();
        ensure!(traced["arrives"] == true, "{way:#}");
        Ok(way)
    })?;
    let text = way.to_string();
    for word in [
        "kernel: via 192.0.2.6 dev eth0",
        "\"mtu\":1500",
        "BGP: 10.65.",
        "BGP: announces",
        "none: pool demo-v4 has no natOutgoing",
        "none: pool demo-v4 asks for none",
    ] {
        ensure!(text.contains(word), "no {word:?} in {way:#}");
    }

    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\n\
         spec: {selector: all(), types: [Ingress]}\n",
    )?;
    let traced = rig.json(&format!("trace c1 {to}"))?;
    let stopped = traced["ways"][0]["stopped"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        stopped.starts_with("Policy of the receiver: denied by"),
        "{stopped}"
    );
    rig.cluster.ctl().run("delete gnp closed")?;

    // Somebody takes the interface away.
    let interface = rig.json("get wep -A")?["items"]
        .as_array()
        .and_then(|all| all.iter().find(|e| e["spec"]["node"] == "h1"))
        .and_then(|e| e["spec"]["interfaceName"].as_str().map(str::to_owned))
        .context("an interface")?;
    rig.host().ip(&format!("link set {interface} down"))?;
    let (text, arrives) = rig.ctl(&format!("trace c1 {to}"))?;
    ensure!(
        !arrives && text.contains(&format!("interface {interface} is down")),
        "{text}"
    );
    drop(c1);
    Ok(())
}

#[test]
fn the_connectivity_test_finds_who_answers_and_an_mtu_that_is_too_large() -> Result<()> {
    let rig = Rig::start(2)?;
    let _containers = (rig.cluster.attach(0, "c1")?, rig.cluster.attach(1, "c2")?);
    let all = eventually(SOON, "everybody answers", || {
        let tested = rig.json("connectivity test")?;
        ensure!(tested["failed"] == 0, "{tested:#}");
        Ok(tested)
    })?;
    let kinds: Vec<_> = all["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|t| &t["kind"])
        .collect();
    for kind in ["peer", "host", "endpoint"] {
        ensure!(kinds.iter().any(|k| *k == kind), "no {kind}: {all:#}");
    }
    // Behind the router packets must be smaller, and it says nothing of that.
    let tor = &rig.cluster.lab.tor;
    tor.ip("link set to-h2 mtu 1400")?;
    tor.exec("nft add table ip quiet")?;
    tor.exec("nft add chain ip quiet out { type filter hook output priority 0 ; }")?;
    tor.exec("nft add rule ip quiet out icmp type destination-unreachable drop")?;
    let tested = rig.json("connectivity test --wait 1")?;
    let failed: Vec<_> = tested["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|t| {
            t["problem"]
                .as_str()
                .is_some_and(|p| p.contains("MTU on the way is smaller"))
        })
        .collect();
    ensure!(!failed.is_empty(), "{tested:#}");
    ensure!(failed.iter().all(|t| t["answered"] == true), "{tested:#}");
    Ok(())
}

#[test]
fn flows_tell_which_rule_denied_what_and_a_collector_hears_of_it() -> Result<()> {
    let rig = Rig::start(2)?;
    let (c1, c2) = (rig.cluster.attach(0, "c1")?, rig.cluster.attach(1, "c2")?);
    let to = v4(&c2)?;
    rig.cluster.ctl().apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: quiet}\n\
         spec: {selector: all(), types: [Egress], egress: [{action: Deny, protocol: ICMP}, {action: Allow}]}\n",
    )?;
    let collector = rig
        .host()
        .within(|| Ok(UdpSocket::bind("127.0.0.1:4739")?))?;
    collector.set_read_timeout(Some(SOON))?;
    let told = eventually(SOON, "the flow is told", || {
        // No answer comes, which is the point.
        drop(c1.netns.exec(&format!("ping -c 2 -i 0.2 -W 1 {to}")));
        let line =
            format!("flows --denied --from c1 --to {to} --policy quiet --ipfix 127.0.0.1:4739");
        let (text, _) = rig.ctl(&format!("{line} -o json"))?;
        let first = text.lines().next().context("no flow yet")?;
        serde_json::from_str::<Value>(first).context("a line of JSON")
    })?;
    ensure!(
        told["reason"]["policy"]["policy"] == "GlobalNetworkPolicy/quiet",
        "{told}"
    );
    ensure!(told["reason"]["policy"]["rule"] == 0, "{told}");
    ensure!(
        told["verdict"] == "deny" && told["ingress"] == false,
        "{told}"
    );
    let mut message = [0; 2048];
    let length = collector.recv(&mut message)?;
    ensure!(
        message[..2] == [0, 10] && length > 60,
        "{:?}",
        &message[..length]
    );
    let (text, _) = rig.ctl("flows --denied --policy no-such")?;
    ensure!(!text.contains("quiet"), "{text}");
    Ok(())
}
