//! The fields of BGPPeer that the established resources do not have.
//!
//! ```text
//!   c1 - h1 \
//!            tor (FRR on interfaces, or BIRD that dials; AS 65000)
//!   c2 - h2 /
//! ```
//! 1. `interface`: FRR is found by router advertisements (RFC 4861); containers of both families are told and learnt
//!    with link-local next hops, IPv4 among them (RFC 8950), and reach each other; DEL withdraws.
//! 2. `peerCIDR`: a router that connects from the range is a peer, in both families; `peerGroup`: it has the settings
//!    of the group, a TCP MD5 key (RFC 2385) from the datastore or the environment among them; a change of the group is
//!    a change of the session, and without the BGPPeer there is none.

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, pools_and_profile};
use margay_lab::{Cluster, Frr, Host, Lab, ensure_no_route, eventually, ping, tor_config};

use crate::support::{PROMPT, Rack, SOON, our_route, wait_for_sessions};

const NO_MESH: &str = "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
";

/// Both hosts are in one AS, as the hosts of a rack are.
const ON_THE_UPLINK: &str = "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: uplink}
spec: {interface: eth0, numAllowedLocalASNumbers: 1}
";

/// Without `v6only` it would take the addresses of the links, which are /30s.
fn frr(lab: &Lab) -> Result<Frr> {
    let ports = || lab.hosts.iter().map(|host| format!("to-{}", host.name));
    let sessions: String = ports()
        .map(|port| {
            format!(
                " neighbor {port} interface v6only remote-as external\n neighbor {port} timers 1 3\n \
                 neighbor {port} timers connect 1\n"
            )
        })
        .collect();
    let activated: String = ports()
        .map(|port| format!("  neighbor {port} activate\n"))
        .collect();
    let config = format!(
        "router bgp {TOR_AS}\n bgp router-id 198.51.100.1\n no bgp ebgp-requires-policy\n{sessions} \
         address-family ipv6 unicast\n{activated} exit-address-family\n"
    );
    Frr::start(&lab.tor, &config)
}

#[test]
fn a_router_on_the_interface_is_a_peer_without_addresses() -> Result<()> {
    let lab = Lab::new(2)?;
    let frr = frr(&lab)?;
    let resources = [pools_and_profile(false), NO_MESH.to_owned() + ON_THE_UPLINK];
    let cluster = Cluster::start(lab, &resources)?;
    for agent in &cluster.agents {
        wait_for_sessions(agent, &["uplink"])?;
        let peers = agent.status()?["bgp"]["peers"].to_string();
        ensure!(peers.contains("%eth0"), "{peers}");
    }
    let c1 = cluster.attach(0, "c1")?;
    let mut c2 = cluster.attach(1, "c2")?;
    let (h1, h2) = (&cluster.lab.hosts[0], &cluster.lab.hosts[1]);
    for (at, addresses) in [(h1, &c2.addresses), (h2, &c1.addresses)] {
        for address in addresses {
            eventually(SOON, "learnt on the link", || {
                let route = our_route(&at.netns, &address.to_string())?;
                let via = route.via.as_ref().map(|via| via.host.clone());
                let gateway = via.or(route.gateway.clone()).unwrap_or_default();
                ensure!(gateway.starts_with("fe80::"), "{route:?}");
                ensure!(route.dev.as_deref() == Some("eth0"), "{route:?}");
                Ok(())
            })?;
        }
    }
    let known = frr.vtysh(&format!("show bgp ipv4 unicast {}/32", c1.v4()?))?;
    ensure!(known.contains("fe80::"), "{known}");
    ping(&c1.netns, c2.v4()?, PROMPT)?;
    ping(&c1.netns, c2.v6()?, PROMPT)?;

    let gone = c2.addresses.clone();
    c2.cni_del()?;
    for address in gone {
        eventually(PROMPT, "withdrawn", || ensure_no_route(&h1.netns, address))?;
    }
    // The router is another process, in the same place.
    drop(frr);
    for agent in &cluster.agents {
        wait_for_sessions(agent, &[])?;
    }
    let _frr = self::frr(&cluster.lab)?;
    for agent in &cluster.agents {
        wait_for_sessions(agent, &["uplink"])?;
    }
    Ok(())
}

fn group(keepalive: &str) -> String {
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: routers}}
spec:
  asNumber: {TOR_AS}
  keepaliveTime: {keepalive}
  maxPeers: 4
  password: {{secretKeyRef: {{name: rack, key: tor}}}}
"
    )
}

fn range(name: &str, addresses: &str) -> String {
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: {name}}}
spec: {{peerCIDR: '{addresses}', peerGroup: routers}}
"
    )
}

/// Hold time that the router has negotiated with a host.
fn hold_time(rack: &Rack, host: &Host, wanted: &str) -> Result<()> {
    eventually(SOON, "the hold time is the group's", || {
        let told = rack
            .tor
            .ctl(&format!("show protocols all {}_v4", host.name))?;
        let line = told.lines().find(|line| line.contains("Hold timer:"));
        let line = line.with_context(|| told.clone())?;
        ensure!(line.ends_with(wanted), "{line}");
        Ok(())
    })
}

#[test]
fn whoever_connects_from_a_range_is_a_peer_with_the_settings_of_its_group() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = tor_config(&lab, TOR_AS, HOST_AS)
        .replace("  direct;\n", "  direct;\n  password \"rack-key\";\n");
    let ranges = range("range-v4", "192.0.2.0/24") + &range("range-v6", "2001:db8::/32");
    let resources = [
        pools_and_profile(false),
        NO_MESH.to_owned() + &group("1s") + &ranges,
    ];
    let mut rack = Rack::with(lab, &config, &resources)?;
    let both = ["range-v4", "range-v6"];
    // Nothing knows the key yet.
    wait_for_sessions(rack.agent(0), &[])?;
    let key = "/calico/margay/v1/secrets/rack/tor";
    rack.cluster.etcd.ctl(&["put", key, "rack-key"])?;
    wait_for_sessions(rack.agent(0), &both)?;
    rack.cluster.etcd.ctl(&["del", key])?;
    wait_for_sessions(rack.agent(0), &[])?;
    let agent = &mut rack.cluster.agents[0];
    agent.set_env(&[("MARGAY_SECRET_RACK_TOR", "rack-key")]);
    agent.restart()?;
    wait_for_sessions(rack.agent(0), &both)?;
    let host = &rack.hosts()[0];
    hold_time(&rack, host, "/3")?;
    let container = rack.cluster.attach(0, "c1")?;
    for address in &container.addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        eventually(PROMPT, "the router learns", || {
            let told = rack.tor.ctl(&format!("show route {address}/{length}"))?;
            ensure!(told.contains(&address.to_string()), "{told}");
            Ok(())
        })?;
    }

    let ctl = rack.cluster.ctl();
    ctl.apply(&group("2s"))?;
    hold_time(&rack, host, "/6")?;
    wait_for_sessions(rack.agent(0), &both)?;
    ctl.run("delete bgppeer range-v6")?;
    wait_for_sessions(rack.agent(0), &["range-v4"])?;
    let log = std::fs::read_to_string(rack.agent(0).log_file())?;
    ensure!(!log.contains("rack-key"), "the key is in the log");
    Ok(())
}
