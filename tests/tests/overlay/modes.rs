//! 1. `Always` wraps between all hosts, `CrossSubnet` only between subnets; both need no BGP, and no router that knows
//!    of containers.
//! 2. Each host has an address for its tunnels, held under the established handle and told in its Node; what the host
//!    sends itself comes from there and is answered.
//! 3. A borrowed address has a route of its own.
//! 4. Without a pool that asks, device, address and Node fields go.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::{eventually, ping};

use crate::traffic::{nothing_leaked, trickles};
use crate::two_subnets::{DEVICES, SOON, TwoSubnets, mesh, pools};

const PLAIN: [&str; 2] = ["eth0", "eth0"];

#[test]
fn always_wraps_between_all_hosts_with_bgp_and_without() -> Result<()> {
    for with_mesh in [true, false] {
        let lab = TwoSubnets::new(&[mesh(with_mesh), pools("Always")])?;
        for host in 0..3 {
            for container in (0..3).filter(|c| *c != host) {
                lab.leads_through(host, container, DEVICES)?;
            }
        }
        lab.everyone_reaches_everyone()?;
        if with_mesh {
            sources_and_records(&lab)?;
            borrowed(&lab)?;
        }
    }
    Ok(())
}

#[test]
fn cross_subnet_wraps_between_subnets_alone() -> Result<()> {
    let lab = TwoSubnets::new(&[mesh(false), pools("CrossSubnet")])?;
    lab.leads_through(0, 1, PLAIN)?;
    lab.leads_through(1, 0, PLAIN)?;
    lab.leads_through(0, 2, DEVICES)?;
    lab.leads_through(2, 0, DEVICES)?;
    lab.leads_through(2, 1, DEVICES)?;
    lab.everyone_reaches_everyone()?;

    lab.ctl().apply(&pools("Never"))?;
    for host in &lab.hosts {
        for device in DEVICES {
            eventually(SOON, "the device goes", || {
                let links = host.netns.ip("-o link show")?;
                ensure!(!links.contains(device), "{links}");
                Ok::<_, anyhow::Error>(())
            })?;
        }
        eventually(SOON, "the Node says nothing of it", || {
            let spec = &lab.node(&host.name)?["spec"];
            ensure!(spec.get("ipv4VXLANTunnelAddr").is_none(), "{spec}");
            ensure!(spec.get("vxlanTunnelMACAddrV6").is_none(), "{spec}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    eventually(SOON, "the addresses are given back", || {
        let url = lab.etcd.url();
        let get = "get --prefix --keys-only /calico/ipam/v2/handle/";
        let handles = lab
            .lab
            .store
            .exec(&format!("etcdctl --endpoints {url} {get}"))?;
        ensure!(!handles.contains("tunnel-addr"), "{handles}");
        ensure!(handles.contains("demo"), "no container has one: {handles}");
        Ok::<_, anyhow::Error>(())
    })
}

/// Says so where the kernel has no driver.
#[test]
fn ipip_wraps_in_both_modes_where_the_kernel_has_it() -> Result<()> {
    const TUNNEL: [&str; 2] = ["tunl0", "eth0"];
    let probe = margay_lab::Lab::new(0)?;
    if let Err(error) = probe.tor.ip("link add probe type ipip local 192.0.2.1") {
        eprintln!("NOT RUN: this kernel has no IP in IP: {error:#}");
        return Ok(());
    }
    let v4_only = |mode: &str| {
        let ipip = pools("Never").replacen("vxlanMode: Never", &format!("ipipMode: {mode}"), 1);
        [mesh(true), ipip]
    };
    let lab = TwoSubnets::new(&v4_only("Always"))?;
    let v4: Vec<_> = lab
        .containers
        .iter()
        .map(|c| c.v4())
        .collect::<Result<_>>()?;
    let leads = |host: usize, far: usize, device: &str| {
        eventually(SOON, "a route through the right device", || {
            let route = lab.block_route(host, v4[far])?;
            ensure!(
                route.dev.as_deref() == Some(device),
                "{route:?}, not {device}"
            );
            Ok::<_, anyhow::Error>(())
        })
    };
    let reach = || -> Result<()> {
        for from in [0, 1, 2] {
            for to in (0..3).filter(|to| *to != from) {
                eventually(SOON, "a reply", || {
                    ping(&lab.containers[from].netns, v4[to], Duration::from_secs(2))
                })?;
            }
        }
        Ok(())
    };
    leads(0, 1, TUNNEL[0])?;
    leads(0, 2, TUNNEL[0])?;
    reach()?;
    let told = &lab.node("h1")?["spec"]["bgp"]["ipv4IPIPTunnelAddr"];
    ensure!(told.is_string(), "{told}");
    ping(&lab.hosts[0].netns, v4[2], SOON)?;
    let denied = trickles(&lab)?;
    for (mode, near) in [("CrossSubnet", TUNNEL[1]), ("Always", TUNNEL[0])] {
        for yaml in v4_only(mode) {
            lab.ctl().apply(&yaml)?;
        }
        leads(0, 1, near)?;
        leads(0, 2, TUNNEL[0])?;
        reach()?;
    }
    nothing_leaked(
        denied,
        "IP in IP between hosts near by, without and with it again",
    )
}

/// What a host tells of its tunnels, and that it uses that itself.
fn sources_and_records(lab: &TwoSubnets) -> Result<()> {
    let spec = lab.node("h1")?["spec"].clone();
    for (field, device) in [
        ("ipv4VXLANTunnelAddr", DEVICES[0]),
        ("ipv6VXLANTunnelAddr", DEVICES[1]),
    ] {
        let told: IpAddr = spec[field].as_str().unwrap_or_default().parse()?;
        let own = lab.hosts[0]
            .netns
            .ip(&format!("-o addr show dev {device}"))?;
        ensure!(own.contains(&format!("{told}/")), "{told} is not in {own}");
    }
    let mac = spec["vxlanTunnelMACAddr"].as_str().unwrap_or_default();
    ensure!(mac.starts_with("66:"), "{spec}");
    for address in &lab.containers[2].addresses {
        ping(&lab.hosts[0].netns, *address, SOON)?;
    }
    // A program that chose the host's own address itself: answered all the same.
    let far = lab.containers[2].v4()?;
    let chosen = format!("ping -n -c 1 -W 5 -I {} {far}", lab.hosts[0].v4);
    eventually(SOON, "an answer to the host's own address", || {
        lab.hosts[0].netns.exec(&chosen)
    })?;
    Ok(())
}

fn borrowed(lab: &TwoSubnets) -> Result<()> {
    let IpAddr::V4(near) = lab.containers[0].v4()? else {
        anyhow::bail!("no IPv4 address");
    };
    // Of h1's block, nobody's yet.
    let address = IpAddr::from((u32::from(near) | 0x3f).to_be_bytes());
    let borrower = lab.attach(1, "borrower", &format!("IP={address}"))?;
    for from in [&lab.containers[0], &lab.containers[2]] {
        eventually(SOON, "a reply from a borrowed address", || {
            ping(&from.netns, address, Duration::from_secs(1))
        })?;
    }
    let far = lab.node("h2")?["spec"]["ipv4VXLANTunnelAddr"].clone();
    let via = format!(
        "via {} dev {}",
        far.as_str().unwrap_or_default(),
        DEVICES[0]
    );
    eventually(SOON, "a route of its own", || {
        let route = lab.hosts[2].netns.ip(&format!("-o route get {address}"))?;
        ensure!(route.contains(&via), "{route}, not {via}");
        Ok::<_, anyhow::Error>(())
    })?;
    drop(borrower);
    Ok(())
}
