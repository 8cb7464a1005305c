//! The example configurations of `deploy/tor` that can be run here: as they stand, with agents at the other end.
//!
//! The router takes a container's route, tells the hosts a default route, and refuses what lies in no pool.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::pools_and_profile;
use margay_lab::{Bird, Cluster, Frr, Lab, eventually, host_route};

const SOON: Duration = Duration::from_secs(60);

fn example(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/tor")
        .join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The BGPPeer of `deploy/tor/README.md`, for each host's own address of the router.
fn peers(lab: &Lab) -> String {
    let peer = |host: &margay_lab::Host| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: tor-{name}}}\n\
             spec: {{peerIP: {tor}, asNumber: 65000, node: {name}}}\n---\n\
             apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: tor6-{name}}}\n\
             spec: {{peerIP: \"{tor6}\", asNumber: 65000, node: {name}}}\n",
            name = host.name,
            tor = host.tor_v4,
            tor6 = host.tor_v6,
        )
    };
    lab.hosts.iter().map(peer).collect::<Vec<_>>().join("---\n")
}

const NO_MESH: &str = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\n\
    spec: {asNumber: 64512, nodeToNodeMeshEnabled: false}\n";

/// Agents behind the router that `start` starts; the router learns a container of the first.
fn serves<T>(start: impl FnOnce(&Lab) -> Result<T>) -> Result<(Cluster, T)> {
    let lab = Lab::new(2)?;
    let router = start(&lab)?;
    let all = [pools_and_profile(false), NO_MESH.to_owned(), peers(&lab)];
    let cluster = Cluster::start(lab, &all)?;
    for agent in &cluster.agents {
        eventually(SOON, "the sessions are up", || agent.ensure_sessions(2))?;
    }
    let container = cluster.attach(0, "c1")?;
    for address in &container.addresses {
        let route = eventually(SOON, "the router learns", || {
            host_route(&cluster.lab.tor, *address)
        })?;
        // The next hop of IPv6 may be the link-local address.
        let via = match address {
            IpAddr::V4(_) => cluster.lab.hosts[0].v4.to_string(),
            IpAddr::V6(_) => route.gateway.clone().unwrap_or_default(),
        };
        let gateway = route.gateway.as_deref() == Some(&via);
        ensure!(
            gateway && route.dev.as_deref() == Some("to-h1"),
            "{route:?}"
        );
    }
    let told = cluster.agents[1].ctl();
    eventually(SOON, "the hosts are told a default route", || {
        let peer = cluster.lab.hosts[1].tor_v4;
        let routes = told.run(&format!("bgp routes --received {peer}"))?;
        let lines: Vec<_> = routes.lines().skip(1).collect();
        let default = |line: &&str| line.starts_with("0.0.0.0/0") || line.starts_with("::/0");
        ensure!(lines.iter().all(default), "{routes}");
        ensure!(routes.contains("\n0.0.0.0/0"), "{routes}");
        Ok(())
    })?;
    Ok((cluster, router))
}

#[test]
fn the_configuration_for_bird_serves_hosts_as_it_stands() -> Result<()> {
    let (_cluster, bird) = serves(|lab| Bird::start(&lab.tor, lab.dir(), &example("bird.conf")?))?;
    let protocols = bird.protocols()?;
    let dynamic = protocols.iter().filter(|p| p.name.starts_with("host4_"));
    ensure!(dynamic.count() == 2, "{protocols:?}");
    Ok(())
}

#[test]
fn the_configuration_for_frr_serves_hosts_as_it_stands() -> Result<()> {
    let (_cluster, frr) = serves(|lab| Frr::start(&lab.tor, &example("frr.conf")?))?;
    let summary = frr.json("show bgp summary")?;
    let peers = summary["ipv4Unicast"]["peers"].as_object();
    ensure!(
        peers.is_some_and(|peers| peers.len() == 4 || peers.len() == 2),
        "{summary:#}"
    );
    Ok(())
}

#[test]
fn the_other_configurations_name_the_same_pools_and_systems() -> Result<()> {
    for name in [
        "frr.conf",
        "bird.conf",
        "arista-eos.conf",
        "cisco-nxos.conf",
        "juniper-junos.conf",
    ] {
        let text = example(name)?;
        for word in [
            "65000",
            "64512",
            "10.65.0.0/16",
            "fd00:65::/48",
            "198.51.100.1",
            "5000",
        ] {
            ensure!(text.contains(word), "{name} does not speak of {word}");
        }
    }
    let readme = example("README.md")?;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/tor"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(
            name == "README.md" || readme.contains(&name),
            "{name} is not in the README"
        );
    }
    Ok(())
}
