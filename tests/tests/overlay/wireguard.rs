//! 1. With WireGuard on, every host makes a key, tells the public half in its Node, and what goes to other hosts'
//!    containers is encrypted, in both families, whatever the pools say.
//! 2. To a host where it is off, everything goes as the pools say, and the others stay as they are.
//! 3. Switching it on and off, on all hosts or on one, loses no packet, and lets none through that policy denies.
//! 4. Killed agents and deleted devices change no key. With the setting gone, keys, addresses and devices go.
//! 5. A kernel without the driver is told of in one line, and traffic goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use margay_lab::eventually;

use crate::traffic::{nothing_leaked, nothing_lost, streams, trickles};
use crate::two_subnets::{DEVICES, SOON, TwoSubnets, mesh, pools};

const WIREGUARD: [&str; 2] = ["wireguard.cali", "wg-v6.cali"];
const PLAIN: [&str; 2] = ["eth0", "eth0"];

fn encryption(object: &str, on: bool) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {object}}}\n\
         spec: {{wireguardEnabled: {on}, wireguardEnabledV6: {on}}}\n"
    )
}

/// Whether the kernel has the driver.
fn has_driver() -> Result<bool> {
    let probe = margay_lab::Lab::new(0)?;
    Ok(probe.tor.ip("link add probe type wireguard").is_ok())
}

fn key_file(lab: &TwoSubnets, host: usize, family: &str) -> PathBuf {
    let name = format!("wireguard/wireguard-{family}.key");
    lab.hosts[host].dir.join(name)
}

/// What the Node of a host tells, by family.
fn keys(lab: &TwoSubnets, host: &str) -> Result<[Option<String>; 2]> {
    let status = &lab.node(host)?["status"];
    let key = |name: &str| status[name].as_str().map(str::to_owned);
    Ok([key("wireguardPublicKey"), key("wireguardPublicKeyV6")])
}

#[test]
fn what_hosts_send_each_others_containers_is_encrypted_where_the_kernel_can() -> Result<()> {
    if !has_driver()? {
        eprintln!("NOT RUN: this kernel has no WireGuard; `make test-vm` runs it on one that has");
        return Ok(());
    }
    let mut lab = TwoSubnets::new(&[mesh(false), pools("CrossSubnet")])?;
    lab.everyone_reaches_everyone()?;
    // Within the subnet what is not encrypted is plain, between subnets VXLAN.
    let mut running = streams(&lab, 0, 1)?;
    running.extend(streams(&lab, 2, 0)?);
    let denied = trickles(&lab)?;
    lab.ctl().apply(&encryption("default", true))?;
    for (host, container) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        lab.leads_through(host, container, WIREGUARD)?;
    }
    lab.everyone_reaches_everyone()?;
    records(&lab)?;

    // Off on one host: in its subnet plain, from the other by VXLAN.
    lab.ctl().apply(&encryption("node.h2", false))?;
    lab.leads_through(0, 1, PLAIN)?;
    lab.leads_through(1, 0, PLAIN)?;
    lab.leads_through(2, 1, DEVICES)?;
    lab.leads_through(0, 2, WIREGUARD)?;
    lab.everyone_reaches_everyone()?;
    eventually(SOON, "h2 tells no key", || {
        let keys = keys(&lab, "h2")?;
        ensure!(keys == [None, None], "{keys:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    lab.ctl().run("delete felixconfiguration node.h2")?;
    lab.leads_through(0, 1, WIREGUARD)?;
    lab.leads_through(1, 0, WIREGUARD)?;
    lab.everyone_reaches_everyone()?;
    nothing_lost(running, "encryption on, off on one host, on there again")?;
    nothing_leaked(denied, "encryption on, off on one host, on there again")?;

    let before = keys(&lab, "h1")?;
    let index = lab.device_index(0, WIREGUARD[0])?;
    lab.agents[0].kill()?;
    lab.agents[0].restart()?;
    eventually(SOON, "the agent is ready", || lab.agents[0].ensure_ready())?;
    ensure!(lab.device_index(0, WIREGUARD[0])? == index, "made anew");
    lab.hosts[0]
        .netns
        .ip(&format!("link del {}", WIREGUARD[0]))?;
    lab.leads_through(0, 2, WIREGUARD)?;
    lab.everyone_reaches_everyone()?;
    ensure!(keys(&lab, "h1")? == before, "another key");

    let mut running = streams(&lab, 0, 1)?;
    running.extend(streams(&lab, 2, 0)?);
    let denied = trickles(&lab)?;
    lab.ctl().apply(&encryption("default", false))?;
    for host in &lab.hosts {
        for device in WIREGUARD {
            eventually(SOON, "the device goes", || {
                let links = host.netns.ip("-o link show")?;
                ensure!(!links.contains(device), "{links}");
                Ok::<_, anyhow::Error>(())
            })?;
        }
        eventually(SOON, "the Node tells nothing", || {
            let keys = keys(&lab, &host.name)?;
            ensure!(keys == [None, None], "{} tells keys", host.name);
            let spec = &lab.node(&host.name)?["spec"];
            ensure!(spec.get("wireguard").is_none(), "{spec}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    lab.leads_through(0, 1, PLAIN)?;
    lab.leads_through(0, 2, DEVICES)?;
    lab.everyone_reaches_everyone()?;
    nothing_lost(running, "encryption off everywhere")?;
    nothing_leaked(denied, "encryption off everywhere")
}

/// What is told, and what is kept to the host.
fn records(lab: &TwoSubnets) -> Result<()> {
    let node = lab.node("h1")?;
    let addresses = &node["spec"]["wireguard"];
    for (field, device) in [
        ("interfaceIPv4Address", WIREGUARD[0]),
        ("interfaceIPv6Address", WIREGUARD[1]),
    ] {
        let told = addresses[field]
            .as_str()
            .with_context(|| format!("{node}"))?;
        let own = lab.hosts[0]
            .netns
            .ip(&format!("-o addr show dev {device}"))?;
        ensure!(own.contains(&format!("{told}/")), "{told} is not in {own}");
    }
    for family in ["v4", "v6"] {
        let path = key_file(lab, 0, family);
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{mode:o}");
        let secret = fs::read_to_string(&path)?;
        let log = fs::read_to_string(lab.agents[0].log_file())?;
        let everything = format!("{node} {log} {}", lab.agents[0].status()?);
        ensure!(
            !everything.contains(secret.trim()),
            "the private key is told"
        );
    }
    Ok(())
}

#[test]
fn without_the_driver_a_host_says_so_in_one_line_and_traffic_goes_on() -> Result<()> {
    if has_driver()? {
        eprintln!("NOT RUN: this kernel has WireGuard, so there is nothing to miss");
        return Ok(());
    }
    let lab = TwoSubnets::new(&[mesh(false), pools("Always")])?;
    lab.everyone_reaches_everyone()?;
    lab.ctl().apply(&encryption("default", true))?;
    for agent in &lab.agents {
        eventually(SOON, "the agent says what is missing", || {
            let status = agent.status()?;
            let told = status["dataplane"]["failing"]
                .as_array()
                .context("no list")?;
            let lines: Vec<&str> = told.iter().filter_map(|line| line.as_str()).collect();
            ensure!(lines.len() == 2, "{lines:?}");
            for (line, device) in lines.iter().zip(WIREGUARD) {
                let expected = format!("this kernel has no driver for wireguard, so {device} ");
                ensure!(line.starts_with(&expected), "{line}");
            }
            Ok::<_, anyhow::Error>(())
        })?;
    }
    for host in 0..3 {
        let name = format!("h{}", host + 1);
        ensure!(keys(&lab, &name)? == [None, None], "{name} tells a key");
        ensure!(!key_file(&lab, host, "v4").exists(), "a key for nothing");
    }
    lab.leads_through(0, 1, DEVICES)?;
    // Containers come and go as ever.
    let mut container = lab.attach(0, "later", "")?;
    container.cni_del()?;
    lab.everyone_reaches_everyone()
}
