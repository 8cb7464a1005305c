//! Nothing is lost, and nothing that policy denies is let through, while pools change their mode, agents are killed and what
//! they made is broken and mended.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::traffic::{Account, Traffic};
use margay_lab::{Pinger, eventually};

use crate::two_subnets::{DEVICES, SOON, TwoSubnets, mesh, pools};

const PLAIN: [&str; 2] = ["eth0", "eth0"];
/// 200 requests a second on each stream.
const PACE: Duration = Duration::from_millis(5);
const TRICKLE: Duration = Duration::from_millis(100);

/// A stream in each family from one container to another.
pub(crate) fn streams(lab: &TwoSubnets, from: usize, to: usize) -> Result<Vec<(IpAddr, Pinger)>> {
    let addresses = lab.containers[to].addresses.iter();
    let stream = |address: &IpAddr| {
        let pinger = Pinger::start(&lab.containers[from].netns, *address, PACE)?;
        Ok((*address, pinger))
    };
    addresses.map(stream).collect()
}

#[expect(clippy::print_stderr, reason = "a test that says how much it has seen")]
pub(crate) fn nothing_lost(streams: Vec<(IpAddr, Pinger)>, what: &str) -> Result<()> {
    let mut sent = 0;
    for (address, stream) in streams {
        let report = stream.stop()?;
        ensure!(
            report.sent > 0 && report.lost == 0,
            "{what}, to {address}: {report:?}"
        );
        sent += report.sent;
    }
    eprintln!("{what}: {sent} packets and their answers, none lost");
    Ok(())
}

/// Thousands of datagrams a second, on a flow that is answered, on one that is not and on one that policy denies.
fn flood(lab: &TwoSubnets, from: usize, to: usize) -> Result<Traffic> {
    let (from, to) = (&lab.containers[from], &lab.containers[to]);
    Traffic::start(&from.netns, &to.netns, &to.addresses)
}

/// The same from one subnet to the other and within one, but gently: for a kernel that may be emulated.
pub(crate) fn trickles(lab: &TwoSubnets) -> Result<[Traffic; 2]> {
    let start = |from: usize, to: usize| {
        let (from, to) = (&lab.containers[from], &lab.containers[to]);
        Traffic::paced(&from.netns, &to.netns, &to.addresses, TRICKLE)
    };
    Ok([start(0, 1)?, start(2, 0)?])
}

#[expect(clippy::print_stderr, reason = "a test that says how much it has seen")]
fn nothing_drowned(flood: Traffic, what: &str) -> Result<()> {
    let account = flood.stop()?;
    let lost = account.established.lost() + account.new.lost();
    ensure!(
        lost == 0 && account.new.sent > 0,
        "{what}: {lost} lost: {account:?}"
    );
    no_leak(&account, what)?;
    let sent = account.established.sent + account.new.sent;
    let rate = account.rate();
    eprintln!("{what}: {sent} datagrams, {rate:.0} packets a second, none lost");
    Ok(())
}

/// What is lost does not count: where the kernel is emulated, more is sent than it can take.
pub(crate) fn nothing_leaked(floods: impl IntoIterator<Item = Traffic>, what: &str) -> Result<()> {
    floods
        .into_iter()
        .try_for_each(|flood| no_leak(&flood.stop()?, what))
}

#[expect(clippy::print_stderr, reason = "a test that says how much it has seen")]
fn no_leak(account: &Account, what: &str) -> Result<()> {
    let Account { denied, new, .. } = account;
    ensure!(
        denied.arrived == 0 && denied.sent > 0 && new.arrived > 0,
        "{what}: of what is denied was let through: {account:?}"
    );
    eprintln!("{what}: {} that are denied, none let through", denied.sent);
    Ok(())
}

#[test]
fn no_packet_is_lost_while_a_pool_changes_its_mode() -> Result<()> {
    let lab = TwoSubnets::new(&[mesh(true), pools("Always")])?;
    lab.everyone_reaches_everyone()?;
    for agent in &lab.agents {
        // For the mode without tunnels.
        eventually(SOON, "sessions", || agent.ensure_sessions(4))?;
    }
    // Between subnets there is no way without the tunnel; within, there is one by BGP.
    let denied = flood(&lab, 0, 2)?;
    let mut running = streams(&lab, 0, 2)?;
    running.extend(streams(&lab, 2, 0)?);
    for (mode, near) in [
        ("CrossSubnet", PLAIN),
        ("Always", DEVICES),
        ("CrossSubnet", PLAIN),
    ] {
        let between = streams(&lab, 0, 1)?;
        let flood = flood(&lab, 0, 1)?;
        lab.ctl().apply(&pools(mode))?;
        lab.leads_through(0, 1, near)?;
        lab.leads_through(1, 0, near)?;
        lab.leads_through(0, 2, DEVICES)?;
        nothing_lost(between, mode)?;
        nothing_drowned(flood, mode)?;
    }
    nothing_lost(running, "between subnets")?;
    nothing_leaked([denied], "between subnets")?;

    let near = streams(&lab, 0, 1)?;
    let flood = flood(&lab, 0, 1)?;
    lab.ctl().apply(&pools("Never"))?;
    for host in &lab.hosts {
        eventually(SOON, "the devices go", || {
            let links = host.netns.ip("-o link show")?;
            let gone = DEVICES.iter().all(|device| !links.contains(device));
            ensure!(gone, "{links}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    lab.ctl().apply(&pools("Always"))?;
    lab.leads_through(0, 1, DEVICES)?;
    lab.leads_through(1, 0, DEVICES)?;
    nothing_lost(near, "to no tunnel and back")?;
    nothing_drowned(flood, "to no tunnel and back")
}

#[test]
fn no_packet_is_lost_when_agents_die_and_come_back() -> Result<()> {
    let mut lab = TwoSubnets::new(&[mesh(false), pools("Always")])?;
    lab.everyone_reaches_everyone()?;
    let before: Vec<String> = DEVICES
        .iter()
        .map(|device| lab.device_index(0, device))
        .collect::<Result<_>>()?;
    let mut running = streams(&lab, 0, 2)?;
    running.extend(streams(&lab, 1, 0)?);
    let floods = [flood(&lab, 0, 2)?, flood(&lab, 1, 0)?];
    for agent in &mut lab.agents {
        agent.kill()?;
    }
    for agent in &mut lab.agents {
        agent.restart()?;
        eventually(SOON, "the agent is ready", || agent.ensure_ready())?;
    }
    nothing_lost(running, "over kill -9 of all agents")?;
    nothing_leaked(floods, "over kill -9 of all agents")?;
    for (device, before) in DEVICES.iter().zip(before) {
        ensure!(
            lab.device_index(0, device)? == before,
            "{device} was made anew"
        );
    }
    lab.everyone_reaches_everyone()
}

#[test]
fn what_is_broken_by_hand_is_mended_and_a_host_that_goes_is_forgotten() -> Result<()> {
    let mut lab = TwoSubnets::new(&[mesh(false), pools("Always")])?;
    lab.everyone_reaches_everyone()?;
    let h1 = lab.hosts[0].netns.name().to_owned();
    let entries = |lab: &TwoSubnets| -> Result<String> {
        let mut all = Vec::new();
        for device in DEVICES {
            let fdb = lab.hosts[0]
                .netns
                .exec(&format!("bridge fdb show dev {device}"))?;
            all.extend(fdb.lines().map(str::to_owned));
            for family in ["-4", "-6"] {
                let args = format!("{family} neigh show dev {device} nud permanent");
                all.extend(lab.hosts[0].netns.ip(&args)?.lines().map(str::to_owned));
            }
            for family in ["-4", "-6"] {
                let args = format!("{family} route show dev {device}");
                let routes = lab.hosts[0].netns.ip(&args)?;
                let ours = routes.lines().filter(|line| line.contains("metric 77"));
                all.extend(ours.map(str::to_owned));
            }
        }
        all.sort();
        Ok(all.join("\n"))
    };
    let whole = entries(&lab)?;
    ensure!(whole.lines().count() >= 14, "{h1}: {whole}");
    let [vtep, mac] = ["ipv4VXLANTunnelAddr", "vxlanTunnelMACAddr"].map(|field| {
        lab.node("h3")
            .map(|node| node["spec"][field].as_str().unwrap_or_default().to_owned())
    });
    let (vtep, mac, host) = (vtep?, mac?, lab.hosts[2].v4);
    for broken in [
        format!("bridge fdb del {mac} dev vxlan.margay dst {host}"),
        format!("bridge fdb replace {mac} dev vxlan.margay dst 192.0.2.99"),
        format!("ip neigh del {vtep} dev vxlan.margay"),
        "ip link set vxlan.margay down".to_owned(),
        "ip link del vxlan.margay".to_owned(),
        "ip link del vxlan-v6.margay".to_owned(),
        "ip link set vxlan-v6.margay mtu 1290".to_owned(),
        "ip route flush table main dev vxlan.margay".to_owned(),
    ] {
        lab.hosts[0].netns.exec(&broken)?;
        eventually(SOON, &format!("mended after {broken}"), || {
            let now = entries(&lab)?;
            ensure!(now == whole, "{now}\nwas\n{whole}");
            let link = lab.hosts[0].netns.ip("-o link show dev vxlan-v6.margay")?;
            ensure!(link.contains("mtu 1430"), "{link}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    lab.everyone_reaches_everyone()?;

    lab.agents[2].kill()?;
    lab.ctl().run("node remove h3 --yes --force")?;
    eventually(SOON, "the host is forgotten", || {
        let now = entries(&lab)?;
        ensure!(!now.contains(&mac) && !now.contains(&vtep), "{now}");
        Ok::<_, anyhow::Error>(())
    })
}
