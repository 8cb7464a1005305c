//! What crosses a session, and what must not.
//!
//! ```text
//!   c1 - h1 \                announces a default route, h1's own subnet, the datastore's address,
//!             tor (BIRD) <-- a net that is nobody's, and one inside a pool
//!   c2 - h2 /
//! ```
//! 1. Only what lies in a pool enters a host's kernel (RFC 8212 asks for as much as a default).
//! 2. A BGPFilter on the peer lets more in, on that host alone, without a reset of the session (RFC 2918); so
//!    does taking it away again.
//! 3. A host tells the router of its own containers only, never of what other hosts or the router told it.
//! 4. Containers of a pool with disableBGPExport are told to nobody.
//! 5. What lies in a prefix of BGPConfiguration's prefixAdvertisements is told with its communities, standard and
//!    large (RFC 1997, RFC 8092), as they are at the time and without a reset; what lies elsewhere without.

use anyhow::{Result, ensure};
use margay_lab::resources::{HOST_AS, NETWORK, TOR_AS, bgp, pools_and_profile};
use margay_lab::{Container, Lab, Plugin, eventually, ping, tor_config};
use serde_json::json;

use crate::support::{PROMPT, Rack, ensure_not_ours, our_route, ups};

/// In every update that the router sends, so that waiting for it is waiting for the others.
const ALLOWED: [&str; 2] = ["10.65.99.0/24", "fd00:65:0:99::/64"];

const REFUSED: [&str; 8] = [
    "default",
    "192.0.2.4/30",
    "192.0.2.5",
    "198.51.100.2",
    "203.0.113.0/24",
    "2001:db8:0:1::/64",
    "2001:db8:0:ff::2",
    "2001:db8:bad::/48",
];

const ANNOUNCED: &str = "protocol static some4 { ipv4;
    route 0.0.0.0/0 blackhole; route 192.0.2.4/30 blackhole; route 192.0.2.5/32 blackhole;
    route 198.51.100.2/32 blackhole; route 203.0.113.0/24 blackhole; route 10.65.99.0/24 blackhole; }
protocol static some6 { ipv6;
    route ::/0 blackhole; route 2001:db8:0:1::/64 blackhole; route 2001:db8:0:ff::2/128 blackhole;
    route 2001:db8:bad::/48 blackhole; route fd00:65:0:99::/64 blackhole; }
";

const HIDDEN_POOL: &str = "---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: hidden
spec:
  cidr: 10.66.0.0/24
  blockSize: 26
  ipipMode: Never
  vxlanMode: Never
  disableBGPExport: true
  nodeSelector: all()
";

const FILTER: &str = "apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata:
  name: more
spec:
  importV4:
  - action: Accept
    matchOperator: Equal
    cidr: 203.0.113.0/24
  - action: Reject
    matchOperator: In
    cidr: 10.65.99.0/24
";

fn rack() -> Result<Rack> {
    let lab = Lab::new(2)?;
    // The router's own kernel is spared what it makes up.
    let config = tor_config(&lab, TOR_AS, HOST_AS).replace(
        "export all; }; merge",
        "export where source != RTS_STATIC; }; merge",
    ) + ANNOUNCED;
    let resources = [pools_and_profile(false) + HIDDEN_POOL, bgp(&lab)];
    let rack = Rack::with(lab, &config, &resources)?;
    rack.established()?;
    Ok(rack)
}

/// The BGPPeer of h1 with the router over IPv4, with these filters.
fn peer_with(filters: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: h1-tor-v4\nspec:\n  \
         node: h1\n  peerIP: 192.0.2.6\n  asNumber: {TOR_AS}\n  filters: [{filters}]\n"
    )
}

#[test]
fn only_what_pools_and_filters_name_is_taken() -> Result<()> {
    let rack = rack()?;
    let [h1, h2] = rack.hosts() else {
        anyhow::bail!("two hosts");
    };
    for host in [h1, h2] {
        for dst in ALLOWED {
            eventually(PROMPT, "what lies in a pool", || {
                our_route(&host.netns, dst)
            })?;
        }
        for dst in REFUSED {
            ensure_not_ours(&host.netns, dst)?;
        }
    }

    let sessions =
        || -> Result<_> { Ok((ups(rack.agent(0), h1.tor_v4)?, ups(rack.agent(0), h2.v4)?)) };
    let before = sessions()?;
    let ctl = rack.cluster.ctl();
    ctl.apply(FILTER)?;
    ctl.apply(&peer_with("more"))?;
    eventually(PROMPT, "what the filter accepts", || {
        our_route(&h1.netns, "203.0.113.0/24")
    })?;
    let through_h2 = || -> Result<()> {
        let route = our_route(&h1.netns, "10.65.99.0/24")?;
        // Another host has it from the router as well, and no filter.
        ensure!(route.gateway == Some(h1.tor_v4.to_string()), "{route:?}");
        Ok(())
    };
    eventually(PROMPT, "what the filter rejects comes from h2", through_h2)?;
    ensure_not_ours(&h2.netns, "203.0.113.0/24")?;
    for dst in REFUSED.iter().filter(|dst| **dst != "203.0.113.0/24") {
        ensure_not_ours(&h1.netns, dst)?;
    }
    ctl.apply(&peer_with(""))?;
    eventually(PROMPT, "the filter is gone", || {
        ensure_not_ours(&h1.netns, "203.0.113.0/24")
    })?;
    ensure!(
        sessions()? == before,
        "{:?}, before {before:?}",
        sessions()?
    );
    Ok(())
}

#[test]
fn a_host_tells_the_router_of_its_own_containers_only() -> Result<()> {
    let rack = rack()?;
    let [h1, h2] = rack.hosts() else {
        anyhow::bail!("two hosts");
    };
    let containers = rack.containers()?;
    let mut plugin = Plugin::new(rack.agent(0), h1, NETWORK)?;
    plugin.config["ipam"] = json!({"type": "margay-ipam", "ipv4_pools": ["hidden"]});
    let mut hidden = Container::new(&rack.cluster.lab, "hidden", plugin)?;
    hidden.cni_add()?;
    // On its host it works as any other.
    ping(&containers[0].netns, hidden.v4()?, PROMPT)?;

    // Attached after the hidden one, so whoever has heard of it has heard of everything.
    let last = rack.cluster.attach(0, "last")?;
    let h2_knows = || our_route(&h2.netns, &last.v4()?.to_string());
    eventually(PROMPT, "h2 hears of the last", h2_knows)?;
    for (family, own) in [("v4", 2), ("v6", 2)] {
        let session = format!("h1_{family}");
        eventually(PROMPT, "the router hears of h1's own", || {
            let table = rack.tor.ctl(&format!("show route protocol {session}"))?;
            let routes = table
                .lines()
                .filter(|line| line.contains("unicast"))
                .count();
            ensure!(routes == own, "{table}");
            Ok(())
        })?;
        let table = rack.tor.ctl(&format!("show route protocol {session}"))?;
        for container in [&containers[0], &last] {
            let told = container
                .addresses
                .iter()
                .any(|a| table.contains(&a.to_string()));
            ensure!(told, "{:?} not in {table}", container.addresses);
        }
    }
    let secret = hidden.v4()?.to_string();
    ensure_not_ours(&h2.netns, &secret)?;
    ensure!(
        !rack.tor.ctl("show route")?.contains(&secret),
        "told to the router"
    );
    Ok(())
}

/// BGPConfiguration with these communities for IPv4, and none for IPv6.
fn advertising(communities: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\nspec:\n  \
         asNumber: {HOST_AS}\n  communities:\n  - {{name: red, value: \"65000:7\"}}\n  \
         - {{name: large, value: \"65000:1:2\"}}\n  prefixAdvertisements:\n  \
         - {{cidr: 10.65.0.0/16, communities: [{communities}]}}\n"
    )
}

#[test]
fn prefix_advertisements_have_their_communities_at_the_router() -> Result<()> {
    let rack = rack()?;
    let h1 = &rack.hosts()[0];
    let ctl = rack.cluster.ctl();
    let before = ups(rack.agent(0), h1.tor_v4)?;
    ctl.apply(&advertising("red, large, \"65000:8\", \"4200000001:3:4\""))?;
    let container = rack.cluster.attach(0, "c1")?;
    // What the router has of a container's route, without blanks.
    let told = |address: std::net::IpAddr| -> Result<Vec<String>> {
        let table = rack.tor.ctl(&format!("show route for {address} all"))?;
        ensure!(table.contains(&format!("{address}/")), "{table}");
        let communities = table.lines().filter(|line| line.contains("community"));
        let packed = communities.map(|line| line.split_whitespace().collect::<String>());
        Ok(packed.collect())
    };
    let carries = |expected: [&str; 2]| {
        eventually(PROMPT, "the router has the communities", || {
            let found = told(container.v4()?)?;
            ensure!(found == expected, "{found:?}");
            Ok(())
        })
    };
    carries([
        "BGP.community:(65000,7)(65000,8)",
        "BGP.large_community:(65000,1,2)(4200000001,3,4)",
    ])?;
    eventually(PROMPT, "the other family has none", || {
        let found = told(container.v6()?)?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })?;
    ctl.apply(&advertising("\"65000:9\", \"65000:5:6\""))?;
    carries(["BGP.community:(65000,9)", "BGP.large_community:(65000,5,6)"])?;
    let after = ups(rack.agent(0), h1.tor_v4)?;
    ensure!(after == before, "{after} sessions, before {before}");
    Ok(())
}
