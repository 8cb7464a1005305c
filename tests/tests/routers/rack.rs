//! Three hosts and a router in another AS.
//!
//! ```text
//!   c1 - h1 \        AS 64512 (iBGP mesh over the routed transfer nets)
//!   c2 - h2   tor    AS 65000 (BIRD, eBGP with each host, IPv4 and IPv6)
//!   c3 - h3 /  |
//!        h1 - tor2   AS 65000 (a second BIRD, in the second test)
//! ```
//! 1. Both ends of every session say Established (RFC 4271, section 8).
//! 2. Each container is a /32 and a /128 in every other host's kernel, by the next hop that the mesh told,
//!    resolved through the router (RFC 4271, section 5.1.3), and in the router's table, by the host itself, with
//!    the hosts' AS alone in its path.
//! 3. Everyone reaches everyone, v4 and v6, the router included.
//! 4. DEL withdraws both routes everywhere, promptly.
//! 5. A host that dies without a word loses its routes when the hold time (RFC 4271, section 6.5) and then the
//!    restart time that it had promised (RFC 4724, section 4.2) are over; the others are not touched.
//! 6. A prefix of a pool that two routers announce is installed with both next hops, v4 and v6 (link-local
//!    next hops of different links among them: RFC 2545, section 3), with one when one of them goes, and not at
//!    all when both are gone.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, bgp, pools_and_profile};
use margay_lab::{
    Bird, Container, Host, Lab, NetNs, ensure_no_route, eventually, host_route, tor_config,
};

use crate::support::{
    PROMPT, Rack, SOON, ensure_not_ours, ensure_up, everyone_reaches_everyone, our_route, ups,
};

/// Sessions between hosts with a hold time of three seconds, in the mesh's place, and a short promise of
/// return.
const IMPATIENT: &str = "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: impatient
spec:
  nodeSelector: all()
  peerSelector: all()
  keepaliveTime: 1s
  maxRestartTime: 2s
";

fn learnt_by_host(host: &Host, container: &Container) -> Result<()> {
    for (address, gateway) in [
        (container.v4()?, IpAddr::from(host.tor_v4)),
        (container.v6()?, IpAddr::from(host.tor_v6)),
    ] {
        let route = our_route(&host.netns, &address.to_string())?;
        ensure!(route.gateway == Some(gateway.to_string()), "{route:?}");
        ensure!(route.dev.as_deref() == Some("eth0"), "{route:?}");
    }
    Ok(())
}

fn learnt_by_router(rack: &Rack, home: &Host, container: &Container) -> Result<()> {
    for address in &container.addresses {
        let route = host_route(&rack.cluster.lab.tor, *address)?;
        let port = format!("to-{}", home.name);
        ensure!(route.dev == Some(port), "{route:?}");
        let length = if address.is_ipv4() { 32 } else { 128 };
        let told = rack
            .tor
            .ctl(&format!("show route {address}/{length} all"))?;
        let line = |name: &str| told.lines().find(|line| line.contains(name)).unwrap_or("");
        let path = line("BGP.as_path");
        ensure!(path.trim_end().ends_with(&format!(": {HOST_AS}")), "{told}");
        let own = if address.is_ipv4() {
            home.v4.to_string()
        } else {
            home.v6.to_string()
        };
        ensure!(line("BGP.next_hop").contains(&own), "{told}");
        // Its only path: nobody else says that it is theirs.
        ensure!(told.matches("BGP.as_path").count() == 1, "{told}");
    }
    Ok(())
}

#[test]
fn containers_of_three_hosts_are_routed_by_mesh_and_tor() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = tor_config(&lab, TOR_AS, HOST_AS);
    let mut resources = bgp(&lab);
    // The router is as impatient as the hosts.
    resources = resources.replace(
        "asNumber: 65000\n",
        "asNumber: 65000\n  keepaliveTime: 1s\n  maxRestartTime: 2s\n",
    );
    resources += IMPATIENT;
    let mut rack = Rack::with(lab, &config, &[pools_and_profile(false), resources])?;
    rack.established()?;

    let mut containers = rack.containers()?;
    for (home, container) in containers.iter().enumerate() {
        for (at, host) in rack
            .hosts()
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != home)
        {
            eventually(PROMPT, &format!("host {at} learns {home}"), || {
                learnt_by_host(host, container)
            })?;
        }
        let host = &rack.hosts()[home];
        eventually(PROMPT, "the router learns", || {
            learnt_by_router(&rack, host, container)
        })?;
    }

    let mut parties: Vec<(&NetNs, Vec<IpAddr>)> = containers
        .iter()
        .map(|c| (&c.netns, c.addresses.clone()))
        .collect();
    let h1 = &rack.hosts()[0];
    parties.push((
        &rack.cluster.lab.tor,
        vec![h1.tor_v4.into(), h1.tor_v6.into()],
    ));
    everyone_reaches_everyone(&parties)?;

    let mut gone = containers.pop().context("three containers")?;
    let addresses = gone.addresses.clone();
    gone.cni_del()?;
    let others = [
        &rack.hosts()[0].netns,
        &rack.hosts()[1].netns,
        &rack.cluster.lab.tor,
    ];
    for netns in others {
        eventually(PROMPT, "withdrawn", || {
            addresses
                .iter()
                .try_for_each(|a| ensure_no_route(netns, *a))
        })?;
    }
    a_host_dies(&mut rack, &containers)
}

fn a_host_dies(rack: &mut Rack, containers: &[Container]) -> Result<()> {
    let h3 = rack.hosts()[2].v4;
    let before = ups(rack.agent(0), h3)?;
    // The cable first, or the dying agent's kernel would close the connections.
    rack.cluster.lab.tor.ip("link set to-h2 down")?;
    rack.cluster.agents[1].kill()?;
    let [first, dead] = containers else {
        anyhow::bail!("two containers are left");
    };
    for netns in [
        &rack.hosts()[0].netns,
        &rack.hosts()[2].netns,
        &rack.cluster.lab.tor,
    ] {
        eventually(SOON, "the dead host's routes go", || {
            dead.addresses
                .iter()
                .try_for_each(|a| ensure_no_route(netns, *a))
        })?;
    }
    learnt_by_host(&rack.hosts()[2], first)?;
    ensure_up(rack.agent(0), h3)?;
    ensure!(ups(rack.agent(0), h3)? == before, "h1 lost h3 as well");
    Ok(())
}

/// A second router beside the first, on a link of its own to the first host.
fn second_router(lab: &Lab) -> Result<(NetNs, String)> {
    let host = &lab.hosts[0];
    let tor2 = lab.container_netns("tor2")?;
    host.netns.ip(&format!(
        "link add eth1 type veth peer name to-h1 netns {}",
        tor2.name()
    ))?;
    for (netns, port, number) in [(&host.netns, "eth1", 1), (&tor2, "to-h1", 2)] {
        netns.ip(&format!("link set {port} up"))?;
        netns.ip(&format!("addr add 203.0.113.{number}/30 dev {port}"))?;
        netns.ip(&format!(
            "addr add 2001:db8:0:aa::{number}/64 dev {port} nodad"
        ))?;
    }
    let session = |name: &str, channel: &str, net: &str| {
        format!(
            "protocol bgp {name} {{ local {net}2 as {TOR_AS}; neighbor {net}1 as {HOST_AS}; direct; \
             connect delay time 1; {channel} {{ import all; export all; next hop self; }}; }}\n"
        )
    };
    let config = String::from("router id 203.0.113.2;\nprotocol device {}\n")
        + ANYCAST
        + &session("h1_v4", "ipv4", "203.0.113.")
        + &session("h1_v6", "ipv6", "2001:db8:0:aa::");
    Ok((tor2, config))
}

/// What both routers announce.
const ANYCAST: &str = "protocol static any4 { ipv4; route 10.65.200.0/24 blackhole; }\n\
     protocol static any6 { ipv6; route fd00:65:0:200::/64 blackhole; }\n";

const SECOND: &str = "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: h1-tor2-v4
spec:
  node: h1
  peerIP: 203.0.113.2
  asNumber: 65000
  sourceAddress: None
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: h1-tor2-v6
spec:
  node: h1
  peerIP: 2001:db8:0:aa::2
  asNumber: 65000
  sourceAddress: None
";

#[test]
fn what_two_tors_announce_is_installed_with_both_next_hops() -> Result<()> {
    let lab = Lab::new(1)?;
    let (tor2, config2) = second_router(&lab)?;
    let bird2 = Bird::start(&tor2, lab.dir(), &config2)?;
    // The router's kernel needs no blackholes; and without graceful restart a lost connection is a lost router.
    let config = tor_config(&lab, TOR_AS, HOST_AS)
        .replace("graceful restart on", "graceful restart aware")
        .replace(
            "export all; }; merge",
            "export where source != RTS_STATIC; }; merge",
        )
        + ANYCAST;
    let resources = bgp(&lab) + SECOND;
    let rack = Rack::with(lab, &config, &[pools_and_profile(false), resources])?;
    let h1 = &rack.hosts()[0];
    eventually(SOON, "four sessions", || rack.agent(0).ensure_sessions(4))?;

    let devs = |dst: &str| -> Result<Vec<String>> {
        let route = our_route(&h1.netns, dst)?;
        let hops = route.nexthops.iter().filter_map(|hop| hop.dev.clone());
        let mut devs: Vec<String> = hops.chain(route.dev.clone()).collect();
        devs.sort();
        Ok(devs)
    };
    let prefixes = ["10.65.200.0/24", "fd00:65:0:200::/64"];
    for dst in prefixes {
        eventually(PROMPT, "both routers", || {
            let found = devs(dst)?;
            ensure!(found == ["eth0", "eth1"], "{dst} by {found:?}");
            Ok(())
        })?;
    }
    drop(bird2);
    for dst in prefixes {
        eventually(SOON, "one router", || {
            let found = devs(dst)?;
            ensure!(found == ["eth0"], "{dst} by {found:?}");
            Ok(())
        })?;
    }
    drop(rack.tor);
    let h1 = &rack.cluster.lab.hosts[0].netns;
    eventually(SOON, "no router", || {
        prefixes.iter().try_for_each(|dst| ensure_not_ours(h1, dst))
    })
}
