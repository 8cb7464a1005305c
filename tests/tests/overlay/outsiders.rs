//! Wrapped packets are taken from hosts alone: neither from somebody else on the network nor from a container.

use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::{NetNs, STORE_V4, eventually, ping};

use crate::two_subnets::{SOON, TwoSubnets, mesh, pools};

const BACKENDS: [&str; 2] = ["Enabled", "Disabled"];

/// Sends a ping request to a container, wrapped, to a host that the sender knows everything about.
fn wrap(lab: &TwoSubnets, sender: &NetNs, local: &str) -> Result<()> {
    let spec = lab.node("h1")?["spec"].clone();
    let mac = spec["vxlanTunnelMACAddr"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let vtep = spec["ipv4VXLANTunnelAddr"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let target = lab.containers[0].v4()?;
    // Of a try that went wrong.
    sender.ip("link del evil").ok();
    sender.ip(&format!(
        "link add evil type vxlan id 4096 local {local} dstport 4789 nolearning"
    ))?;
    sender.ip("addr add 203.0.113.7/32 dev evil")?;
    sender.ip("link set evil mtu 1400 up")?;
    sender.exec(&format!(
        "bridge fdb add {mac} dev evil dst {}",
        lab.hosts[0].v4
    ))?;
    sender.ip(&format!(
        "neigh add {vtep} lladdr {mac} dev evil nud permanent"
    ))?;
    sender.ip(&format!("route add {target}/32 via {vtep} dev evil onlink"))?;
    // There is no answer in any case: its source leads elsewhere.
    drop(ping(sender, target, Duration::from_millis(300)));
    sender.ip("link del evil")?;
    Ok(())
}

/// Echo requests that the first container has seen.
fn seen(lab: &TwoSubnets) -> Result<u64> {
    let text = lab.containers[0].netns.exec("cat /proc/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let at = names.split(' ').position(|name| name == "InEchos");
    let value = at.and_then(|at| values.split(' ').nth(at)).unwrap_or("0");
    Ok(value.parse()?)
}

#[test]
fn wrapped_packets_are_taken_from_hosts_alone() -> Result<()> {
    let lab = TwoSubnets::new(&[mesh(false), pools("Always")])?;
    lab.everyone_reaches_everyone()?;
    for mode in BACKENDS {
        lab.ctl().apply(&format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
             spec: {{nftablesMode: {mode}}}\n"
        ))?;
        eventually(SOON, "the rules have moved", || {
            let backend = lab.agents[0].status()?["dataplane"]["backend"].clone();
            let is_nft = backend.as_str() == Some("nftables");
            ensure!(is_nft == (mode == "Enabled"), "{backend}");
            Ok::<_, anyhow::Error>(())
        })?;
        lab.everyone_reaches_everyone()?;
        let before = seen(&lab)?;
        wrap(&lab, &lab.lab.store, &STORE_V4.to_string())?;
        ensure!(
            seen(&lab)? == before,
            "{mode}: a stranger's packet was unwrapped"
        );
        let container = &lab.containers[1];
        wrap(&lab, &container.netns, &container.v4()?.to_string())?;
        ensure!(
            seen(&lab)? == before,
            "{mode}: a container's packet was unwrapped"
        );
        // The same packet from a host is taken: so it was the sender that was wrong with it.
        let stranger = format!(
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: store}}\n\
             spec: {{bgp: {{ipv4Address: {STORE_V4}/30}}}}\n"
        );
        lab.ctl().apply(&stranger)?;
        eventually(SOON, "a host's packet is unwrapped", || {
            wrap(&lab, &lab.lab.store, &STORE_V4.to_string())?;
            ensure!(seen(&lab)? > before, "{mode}: not seen");
            Ok::<_, anyhow::Error>(())
        })?;
        lab.ctl().run("delete node store")?;
        // Until its agent has heard of that, the next round would begin with a host that is none.
        eventually(SOON, "the host is none again", || {
            let before = seen(&lab)?;
            wrap(&lab, &lab.lab.store, &STORE_V4.to_string())?;
            ensure!(seen(&lab)? == before, "{mode}: still taken");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(())
}
