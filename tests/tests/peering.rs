//! Agents and the routers that racks really have, other than BIRD (the demo has that one).
//!
//! ```text
//!   c1a - h1 (margayd) \
//!                        tor (FRR or GoBGP, AS 65000)
//!   c2a - h2 (margayd) /
//! ```
//! For each router:
//! 1. The sessions are established, IPv4 and IPv6, and both ends say so (RFC 4271, RFC 4760).
//! 2. It learns each container's /32 and /128 with the host as next hop.
//! 3. What it announces inside a pool is in the hosts' kernels.
//! 4. DEL withdraws.
//!
//! With FRR also: `margayctl bgp` shows peers, routes in both directions, why a path was chosen, and
//! the events of the sessions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, bgp, pools_and_profile};
use margay_lab::{Cluster, Frr, Gobgp, Lab, ensure_no_route, eventually, host_route, ping};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Announced by the router.
const OUTSIDE_V4: &str = "10.65.255.1";
const OUTSIDE_V6: &str = "fd00:65:0:ffff::1";

fn cluster() -> Cluster {
    let lab = Lab::new(2).unwrap();
    let resources = [pools_and_profile(false), bgp(&lab)];
    Cluster::start(lab, &resources).unwrap()
}

/// Two sessions with the router, one or two with the other host.
fn agents_agree(cluster: &Cluster) {
    for agent in &cluster.agents {
        eventually(SOON, "all sessions are established", || {
            agent.ensure_sessions(3)
        })
        .unwrap();
    }
}

fn announcements_arrive(cluster: &Cluster) {
    for host in &cluster.lab.hosts {
        for (address, gateway) in [
            (OUTSIDE_V4, host.tor_v4.to_string()),
            (OUTSIDE_V6, host.tor_v6.to_string()),
        ] {
            let to: IpAddr = address.parse().unwrap();
            let route =
                eventually(SOON, "the announcement", || host_route(&host.netns, to)).unwrap();
            assert!(
                route.gateway.as_deref() == Some(gateway.as_str())
                    || route
                        .gateway
                        .as_deref()
                        .is_some_and(|g| g.starts_with("fe80")),
                "{route:?}"
            );
        }
    }
}

fn frr_config(lab: &Lab) -> String {
    let mut config = format!(
        "ip route {OUTSIDE_V4}/32 blackhole\nipv6 route {OUTSIDE_V6}/128 blackhole\n\
         router bgp {TOR_AS}\n bgp router-id 198.51.100.1\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n no bgp default ipv4-unicast\n"
    );
    let (mut v4, mut v6) = (String::new(), String::new());
    for host in &lab.hosts {
        for (address, family) in [
            (host.v4.to_string(), &mut v4),
            (host.v6.to_string(), &mut v6),
        ] {
            config += &format!(
                " neighbor {address} remote-as {HOST_AS}\n neighbor {address} timers connect 1\n"
            );
            *family += &format!("  neighbor {address} activate\n");
        }
    }
    config
        + &format!(
            " address-family ipv4 unicast\n  network {OUTSIDE_V4}/32\n{v4} exit-address-family\n \
             address-family ipv6 unicast\n  network {OUTSIDE_V6}/128\n{v6} exit-address-family\n"
        )
}

#[test]
fn frr_as_the_router() {
    let cluster = cluster();
    let lab = &cluster.lab;
    let frr = Frr::start(&lab.tor, &frr_config(lab)).unwrap();
    for host in &lab.hosts {
        for (address, family) in [
            (host.v4.to_string(), "ipv4Unicast"),
            (host.v6.to_string(), "ipv6Unicast"),
        ] {
            eventually(SOON, "FRR's session", || {
                frr.ensure_established(&address, family)
            })
            .unwrap();
        }
    }
    agents_agree(&cluster);

    let c1 = cluster.attach(0, "c1a").unwrap();
    let mut c2 = cluster.attach(1, "c2a").unwrap();
    for (container, port) in [(&c1, "to-h1"), (&c2, "to-h2")] {
        for address in &container.addresses {
            let route = eventually(SOON, "FRR learns", || host_route(&lab.tor, *address)).unwrap();
            assert_eq!(route.dev.as_deref(), Some(port), "{route:?}");
        }
    }
    announcements_arrive(&cluster);
    for to in [c2.v4().unwrap(), c2.v6().unwrap()] {
        eventually(SOON, "traffic", || ping(&c1.netns, to, SOON)).unwrap();
    }

    the_speaker_explains_itself(&cluster, &c1.v4().unwrap().to_string());

    c2.cni_del().unwrap();
    for address in &c2.addresses {
        eventually(SOON, "FRR forgets", || ensure_no_route(&lab.tor, *address)).unwrap();
    }
    assert!(host_route(&lab.tor, c1.v4().unwrap()).is_ok());
}

/// `margayctl bgp` on the second host, about the first one's container.
fn the_speaker_explains_itself(cluster: &Cluster, container: &str) {
    let ctl = cluster.agents[1].ctl();
    let json = |words: &str| -> Vec<Value> {
        let text = ctl.run(&format!("bgp {words} -o json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let tor = cluster.lab.hosts[1].tor_v4.to_string();
    let peers = json("peers");
    let peer = peers.iter().find(|p| p["address"] == *tor).unwrap();
    assert_eq!(peer["state"], "Established", "{peer}");
    assert!(peer["session"]["hold_secs"].as_u64().unwrap() > 0, "{peer}");

    let has = |routes: &[Value], prefix: &str| routes.iter().any(|r| r["prefix"] == *prefix);
    let outside = format!("{OUTSIDE_V4}/32");
    assert!(has(&json(&format!("routes --received {tor}")), &outside));
    assert!(has(&json("routes"), &outside));
    let told = json(&format!("routes --advertised {tor}"));
    assert!(!has(&told, &outside), "its own route: {told:?}");
    assert!(!told.is_empty());

    // The rack's router and the first host both tell it.
    let paths = eventually(SOON, "both paths", || {
        let paths = json(&format!("lookup {container}"));
        ensure!(paths.len() == 2, "{paths:?}");
        Ok(paths)
    })
    .unwrap();
    assert_eq!(paths[0]["prefix"], format!("{container}/32"));
    assert_eq!(paths[0]["outcome"], "best", "{paths:?}");
    assert_eq!(
        paths[1]["outcome"], "looped: our AS is in AS_PATH",
        "{paths:?}"
    );
    let text = ctl.run(&format!("bgp lookup {container}/32")).unwrap();
    assert!(text.contains(": 2 paths\n"), "{text}");

    let events = json("events");
    assert!(
        events
            .iter()
            .any(|e| e["peer"] == *tor && e["to"] == "Established"),
        "{events:?}"
    );
}

fn gobgp_config(lab: &Lab) -> String {
    let mut config = format!("[global.config]\n  as = {TOR_AS}\n  router-id = \"198.51.100.1\"\n");
    for host in &lab.hosts {
        for (address, family) in [
            (host.v4.to_string(), "ipv4-unicast"),
            (host.v6.to_string(), "ipv6-unicast"),
        ] {
            config += &format!(
                "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{address}\"\n    \
                 peer-as = {HOST_AS}\n  [neighbors.timers.config]\n    connect-retry = 1\n  \
                 [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      \
                 afi-safi-name = \"{family}\"\n"
            );
        }
    }
    config
}

/// The next hop of GoBGP's path to an address; an error when it has none.
fn next_hop(gobgp: &Gobgp, address: IpAddr) -> Result<String> {
    let (family, length) = if address.is_ipv4() {
        ("ipv4", 32)
    } else {
        ("ipv6", 128)
    };
    let prefix = format!("{address}/{length}");
    let rib = gobgp.json(&format!("global rib -a {family}"))?;
    let path = &rib[&prefix][0];
    ensure!(path.is_object(), "GoBGP has no path to {prefix}");
    let attrs = path["attrs"]
        .as_array()
        .context("a path without attributes")?;
    // NEXT_HOP (3), or the next hop inside MP_REACH_NLRI (14).
    let hop = attrs
        .iter()
        .find(|a| a["type"] == 3 || a["type"] == 14)
        .and_then(|a| a["nexthop"].as_str());
    Ok(hop.context("a path without next hop")?.to_owned())
}

#[test]
fn gobgp_as_the_router() {
    let cluster = cluster();
    let lab = &cluster.lab;
    let gobgp = Gobgp::start(&lab.tor, lab.dir(), &gobgp_config(lab)).unwrap();
    for host in &lab.hosts {
        for address in [host.v4.to_string(), host.v6.to_string()] {
            eventually(SOON, "GoBGP's session", || {
                gobgp.ensure_established(&address)
            })
            .unwrap();
        }
    }
    agents_agree(&cluster);
    gobgp
        .ctl(&format!("global rib add -a ipv4 {OUTSIDE_V4}/32"))
        .unwrap();
    gobgp
        .ctl(&format!("global rib add -a ipv6 {OUTSIDE_V6}/128"))
        .unwrap();
    announcements_arrive(&cluster);

    let mut c1 = cluster.attach(0, "c1a").unwrap();
    let host = &lab.hosts[0];
    let hops = [
        (c1.v4().unwrap(), host.v4.to_string()),
        (c1.v6().unwrap(), host.v6.to_string()),
    ];
    for (address, expected) in &hops {
        let hop = eventually(SOON, "GoBGP learns", || next_hop(&gobgp, *address)).unwrap();
        assert_eq!(&hop, expected);
    }
    c1.cni_del().unwrap();
    for (address, _) in hops {
        eventually(SOON, "GoBGP forgets", || {
            ensure!(next_hop(&gobgp, address).is_err(), "it still has {address}");
            Ok(())
        })
        .unwrap();
    }
}
