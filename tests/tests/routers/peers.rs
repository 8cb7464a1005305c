//! Who peers with whom, as the resources change under running sessions.
//!
//! ```text
//!   h1 \                      global peer: every host with 198.51.100.1, the router's own address
//!        tor (BIRD, AS 65000) node peer:   h1 with 2001:db8:0:1::2
//!   h2 /                      by label:    hosts with rack == 'b' with 2001:db8:0:2::2
//! ```
//! 1. A BGPPeer is for all nodes, for one, or for those that a selector matches, and follows the labels.
//! 2. Without the mesh the hosts have no sessions with each other; with it they have.
//! 3. Removing a BGPPeer ends its session (Cease, RFC 4486) and no other; changing its AS resets its session and
//!    no other (RFC 4271, section 6.2: Bad Peer AS until both ends agree).
//! 4. BGPConfiguration's asNumber is the AS that the router sees; its listenPort is where hosts listen and dial
//!    each other.
//! 5. A node with routeReflectorClusterID reflects (RFC 4456): its clients, which have no session with each other,
//!    learn each other's containers by it, with the next hop unchanged (section 10), and lose them on DEL.
//! 6. A router with an address need not have its AS written out: it is the host's own, or any other. One that is
//!    in the wrong one is told so (RFC 4271, section 6.2), and no other session is touched.

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, pools_and_profile};
use margay_lab::{Ctl, Lab, ensure_no_route, eventually, ping, tor_config};

use crate::support::{PROMPT, Rack, SOON, our_route, ups, wait_for_sessions};

const GLOBAL: &str = "198.51.100.1";

fn tor(lab: &Lab) -> String {
    let mut config = String::from("router id 198.51.100.1;\nprotocol device {}\n");
    let session = |name: &str, channel: &str, local: &str, neighbor: &str, way: &str| {
        format!(
            "protocol bgp {name} {{ local {local} as {TOR_AS}; neighbor {neighbor} external; {way}; \
             connect retry time 1; connect delay time 1; error wait time 1, 2; \
             {channel} {{ import all; export all; }}; }}\n"
        )
    };
    for host in &lab.hosts {
        // BIRD has at most one session with an address.
        let (v4, v6) = (host.v4.to_string(), host.v6.to_string());
        let (own, global) = (
            format!("{}_own", host.name),
            format!("{}_global", host.name),
        );
        config += &session(&own, "ipv6", &host.tor_v6.to_string(), &v6, "direct");
        config += &session(&global, "ipv4", GLOBAL, &v4, "multihop 2");
    }
    config
}

fn configuration(fields: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\nspec:\n{fields}"
    )
}

fn peer(name: &str, who: &str, address: &str, asn: u32) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: {name}\nspec:\n\
         {who}  peerIP: \"{address}\"\n  asNumber: {asn}\n"
    )
}

#[test]
fn sessions_follow_the_resources_and_only_those_that_changed() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = tor(&lab);
    let (tor1, tor2) = (
        lab.hosts[0].tor_v6.to_string(),
        lab.hosts[1].tor_v6.to_string(),
    );
    let resources = configuration("  nodeToNodeMeshEnabled: false\n")
        + &peer("everyone", "", GLOBAL, TOR_AS)
        + &peer("only-h1", "  node: h1\n", &tor1, TOR_AS)
        + &peer("rack-b", "  nodeSelector: rack == 'b'\n", &tor2, TOR_AS);
    let rack = Rack::with(lab, &config, &[pools_and_profile(false), resources])?;
    let (h1, h2) = (rack.agent(0), rack.agent(1));
    let ctl = rack.cluster.ctl();
    wait_for_sessions(h1, &["everyone", "only-h1"])?;
    wait_for_sessions(h2, &["everyone"])?;
    let own = ups(h1, &tor1)?;
    let global = [ups(h1, GLOBAL)?, ups(h2, GLOBAL)?];
    let count = |ctl: &Ctl| {
        ctl.run("get bgppeers -o name")
            .map(|text| text.lines().count())
    };
    ensure!(count(&ctl)? == 3, "three BGPPeers");

    ctl.run("label nodes h2 rack=b")?;
    wait_for_sessions(h2, &["everyone", "rack-b"])?;
    ctl.run("delete bgppeer rack-b")?;
    wait_for_sessions(h2, &["everyone"])?;
    eventually(PROMPT, "the router heard why", || {
        let told = rack.tor.ctl("show protocols all h2_own")?;
        ensure!(told.contains("Peer de-configured"), "{told}");
        Ok(())
    })?;

    ctl.apply(&peer("only-h1", "  node: h1\n", &tor1, TOR_AS + 9))?;
    eventually(SOON, "the wrong AS is told", || {
        let status = h1.status()?["bgp"]["peers"].to_string();
        ensure!(status.contains("peer AS"), "{status}");
        Ok(())
    })?;
    wait_for_sessions(h1, &["everyone"])?;
    ctl.apply(&peer("only-h1", "  node: h1\n", &tor1, TOR_AS))?;
    wait_for_sessions(h1, &["everyone", "only-h1"])?;
    ensure!(ups(h1, &tor1)? > own, "the changed session came up again");
    for (agent, before) in [h1, h2].into_iter().zip(global) {
        ensure!(
            ups(agent, GLOBAL)? == before,
            "{} lost the other session",
            agent.name()
        );
    }
    of_the_whole_cluster(&rack)
}

/// Settings that concern every session.
fn of_the_whole_cluster(rack: &Rack) -> Result<()> {
    let (h1, h2) = (rack.agent(0), rack.agent(1));
    let container = rack.cluster.attach(0, "c1")?;
    let ctl = rack.cluster.ctl();
    ctl.apply(&configuration(
        "  nodeToNodeMeshEnabled: false\n  asNumber: 64600\n",
    ))?;
    let route = format!("show route {}/32 all", container.v4()?);
    eventually(SOON, "the router sees the new AS", || {
        let told = rack.tor.ctl(&route)?;
        ensure!(told.contains("BGP.as_path: 64600"), "{told}");
        Ok(())
    })?;

    ctl.apply(&configuration("  asNumber: 64600\n  listenPort: 1790\n"))?;
    wait_for_sessions(h1, &["everyone", "mesh h2", "mesh h2", "only-h1"])?;
    wait_for_sessions(h2, &["everyone", "mesh h1", "mesh h1"])?;
    for host in rack.hosts() {
        eventually(PROMPT, "the hosts listen there", || {
            let listening = host.netns.exec("ss -Hltn sport = :1790 or sport = :179")?;
            ensure!(
                listening.contains(":1790") && !listening.contains(":179 "),
                "{listening}"
            );
            Ok(())
        })?;
    }
    let peers = h1.status()?["bgp"]["peers"].to_string();
    ensure!(
        peers.contains(&format!("{}:1790", rack.hosts()[1].v4)),
        "{peers}"
    );
    eventually(PROMPT, "the mesh tells of the container", || {
        our_route(&rack.hosts()[1].netns, &container.v4()?.to_string())
    })?;
    Ok(())
}

/// Every node peers with the nodes that reflect.
const REFLECTED: &str = "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: reflectors
spec:
  nodeSelector: all()
  peerSelector: role == 'reflector'
";

#[test]
fn clients_of_a_reflector_learn_from_each_other() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = tor_config(&lab, TOR_AS, HOST_AS);
    let resources = configuration("  nodeToNodeMeshEnabled: false\n") + REFLECTED;
    let mut rack = Rack::with(lab, &config, &[pools_and_profile(false), resources])?;
    let ctl = rack.cluster.ctl();
    for host in 0..3 {
        wait_for_sessions(rack.agent(host), &[])?;
    }
    let id = r#"{"spec":{"bgp":{"routeReflectorClusterID":"192.0.2.250"}}}"#;
    ctl.run(&format!("patch node h1 -p {id}"))?;
    ctl.run("label nodes h1 role=reflector")?;
    // Over IPv4 and IPv6 each.
    let clients = [["reflectors h2"; 2], ["reflectors h3"; 2]].concat();
    wait_for_sessions(rack.agent(0), &clients)?;
    for client in [1, 2] {
        wait_for_sessions(rack.agent(client), &["reflectors h1"; 2])?;
    }

    let c2 = rack.cluster.attach(1, "c2")?;
    let mut c3 = rack.cluster.attach(2, "c3")?;
    let h2 = &rack.cluster.lab.hosts[1];
    for address in &c3.addresses {
        let route = eventually(PROMPT, "reflected", || {
            our_route(&h2.netns, &address.to_string())
        })?;
        ensure!(route.dev.as_deref() == Some("eth0"), "{route:?}");
    }
    // The reflector is not on the way: packets need the router alone, which knows the hosts, not the containers.
    let h3 = rack.cluster.lab.hosts[2].v4;
    for (address, home) in [(c2.v4()?, h2.v4), (c3.v4()?, h3)] {
        rack.cluster
            .lab
            .tor
            .ip(&format!("route add {address}/32 via {home}"))?;
    }
    let reflector = &rack.cluster.lab.hosts[0].netns;
    reflector.sysctl("net.ipv4.ip_forward", "0")?;
    ping(&c2.netns, c3.v4()?, PROMPT)?;
    reflector.sysctl("net.ipv4.ip_forward", "1")?;

    // What it was given stays when the reflector starts anew.
    rack.cluster.agents[0].restart()?;
    wait_for_sessions(rack.agent(0), &clients)?;
    let gone = c3.addresses.clone();
    c3.cni_del()?;
    let h2 = rack.cluster.lab.hosts.get(1).context("three hosts")?;
    for address in gone {
        eventually(PROMPT, "withdrawn", || ensure_no_route(&h2.netns, address))?;
    }
    Ok(())
}

/// A BGPPeer of all hosts.
fn by_word(name: &str, address: &str, asn: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: {name}\nspec:\n  \
         peerIP: \"{address}\"\n  asNumber: {asn}\n"
    )
}

#[test]
fn a_router_with_an_address_may_be_in_our_as_or_in_any_other() -> Result<()> {
    let lab = Lab::new(1)?;
    let host = &lab.hosts[0];
    let (v4, v6) = (host.tor_v4.to_string(), host.tor_v6.to_string());
    let session = |name: &str, channel: &str, local: &str, neighbor: &str| {
        format!(
            "protocol bgp {name} {{ local {local}; neighbor {neighbor}; direct; \
             connect retry time 1; connect delay time 1; error wait time 1, 2; \
             {channel} {{ import all; export none; }}; }}\n"
        )
    };
    let config = [
        "router id 198.51.100.1;\nprotocol device {}\n".to_owned(),
        session(
            "outside",
            "ipv4",
            &format!("{v4} as {TOR_AS}"),
            &format!("{} external", host.v4),
        ),
        session(
            "inside",
            "ipv6",
            &format!("{v6} as {HOST_AS}"),
            &format!("{} internal", host.v6),
        ),
    ];
    let resources = by_word("outside", &v4, "external") + &by_word("inside", &v6, "internal");
    let rack = Rack::with(
        lab,
        &config.concat(),
        &[pools_and_profile(false), resources],
    )?;
    let (h1, ctl) = (rack.agent(0), rack.cluster.ctl());
    wait_for_sessions(h1, &["inside", "outside"])?;
    let before = ups(h1, &v6)?;
    let container = rack.cluster.attach(0, "c1")?;
    let told = |route: String, attribute: String| {
        eventually(PROMPT, "the router is told", || {
            let table = rack.tor.ctl(&format!("show route {route} all"))?;
            ensure!(table.contains(&attribute), "{attribute} is not in {table}");
            Ok(())
        })
    };
    let path = format!("BGP.as_path: {HOST_AS}\n");
    told(format!("{}/32", container.v4()?), path)?;
    let preference = "BGP.local_pref: 100".to_owned();
    told(format!("{}/128", container.v6()?), preference)?;

    ctl.apply(&by_word("outside", &v4, "internal"))?;
    wait_for_sessions(h1, &["inside"])?;
    eventually(SOON, "the router hears why", || {
        let told = rack.tor.ctl("show protocols all outside")?;
        ensure!(told.contains("Bad peer AS"), "{told}");
        Ok(())
    })?;
    ctl.apply(&by_word("outside", &v4, "external"))?;
    wait_for_sessions(h1, &["inside", "outside"])?;
    ensure!(ups(h1, &v6)? == before, "the other session was touched");
    let listed = ctl.run("get bgppeers")?;
    ensure!(
        listed.contains("external") && listed.contains("internal"),
        "{listed}"
    );
    Ok(())
}
