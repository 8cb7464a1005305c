//! Sticky addresses, with two agents, a router and a real etcd.
//!
//! ```text
//!   c1, c3 - h1 \
//!                tor (BIRD)   etcd
//!   c2     - h2 /
//! ```
//! 1. An identity's addresses follow it to another host while the old container still runs: the router
//!    prefers the new host, the old host has no interface route of its own left, and the old container's
//!    DEL does not take them away.
//! 2. Between two containers they are kept, and nobody else gets them.
//! 3. When the lease is over they are given back.
//! 4. A host whose agent is silent keeps what it has. When its Node resource is deleted, the other host
//!    clears up after it; what an identity holds is parked.
//! 5. An address that moves in finds no connection and no neighbour entry of its last owner.
//! 6. An address that lost its endpoint is given back by its own host.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::resources::{HOST_AS, NETWORK, TOR_AS, bgp, pools_and_profile};
use margay_lab::{
    Bird, Cluster, Container, Lab, NetNs, Plugin, eventually, host_route, ping, tor_config,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
/// Less than a hold time.
const PROMPT: Duration = Duration::from_secs(30);
const HANDLES: &str = "/calico/ipam/v2/handle/";

struct Rack {
    _tor: Bird,
    cluster: Cluster,
}

impl Rack {
    fn new() -> Result<Self> {
        let lab = Lab::new(2)?;
        let tor = Bird::start(&lab.tor, lab.dir(), &tor_config(&lab, TOR_AS, HOST_AS))?;
        let resources = [pools_and_profile(false), bgp(&lab)];
        let mut cluster = Cluster::start(lab, &resources)?;
        for agent in &mut cluster.agents {
            let file = agent.config_file();
            let mut config = OpenOptions::new().append(true).open(file)?;
            config.write_all(b"audit_interval_secs: 1\nleak_grace_secs: 1\n")?;
            agent.restart()?;
        }
        for agent in &cluster.agents {
            eventually(SOON, "ready", || agent.ensure_ready())?;
            eventually(SOON, "sessions", || agent.ensure_sessions(4))?;
        }
        Ok(Self { _tor: tor, cluster })
    }

    /// A container with an identity.
    fn attach(&self, host: usize, id: &str, lease_secs: u32) -> Result<Container> {
        let cluster = &self.cluster;
        let mut plugin = Plugin::new(&cluster.agents[host], &cluster.lab.hosts[host], NETWORK)?;
        plugin.config["sticky"] = json!({"leaseSeconds": lease_secs});
        plugin.args = "IgnoreUnknown=1;MARGAY_IDENTITY=web-0".into();
        let mut container = Container::new(&cluster.lab, id, plugin)?;
        container.cni_add()?;
        Ok(container)
    }

    fn host(&self, index: usize) -> &NetNs {
        &self.cluster.lab.hosts[index].netns
    }

    /// The router sends what is for `ip` to this host alone.
    fn leads_to(&self, host: usize, ip: IpAddr) -> Result<()> {
        let route = host_route(&self.cluster.lab.tor, ip)?;
        let host = &self.cluster.lab.hosts[host];
        let wanted = if ip.is_ipv4() {
            host.v4.to_string()
        } else {
            host.v6.to_string()
        };
        ensure!(
            route.nexthops.is_empty() && route.gateway.as_ref() == Some(&wanted),
            "the router has {route:?}, wanted {wanted}"
        );
        Ok(())
    }

    fn keys(&self, prefix: &str) -> Result<String> {
        self.cluster
            .etcd
            .ctl(&["get", "--prefix", "--keys-only", prefix])
    }
}

/// The host has no interface of its own behind the address.
fn is_elsewhere(host: &NetNs, ip: IpAddr) -> Result<()> {
    let route = host_route(host, ip)?;
    let dev = route.dev.clone().unwrap_or_default();
    ensure!(!dev.starts_with("mgy"), "still {route:?}");
    Ok(())
}

#[test]
fn an_identity_takes_its_addresses_along_and_gives_them_back_when_its_lease_is_over() {
    let rack = Rack::new().unwrap();
    let mut c1 = rack.attach(0, "c1", 600).unwrap();
    let addresses = c1.addresses.clone();
    assert_eq!(addresses.len(), 2);
    let witness = rack.cluster.attach(0, "witness").unwrap();
    for ip in &addresses {
        eventually(SOON, "the router knows", || rack.leads_to(0, *ip)).unwrap();
    }

    let mut c2 = rack.attach(1, "c2", 600).unwrap();
    assert_eq!(c2.addresses, addresses);
    let endpoints = rack.keys("/calico/resources/v3/projectcalico.org/workloadendpoints/");
    let endpoints = endpoints.unwrap();
    assert!(
        endpoints.contains("-c2-") && !endpoints.contains("-c1-"),
        "{endpoints}"
    );
    for ip in &addresses {
        eventually(PROMPT, "the router follows", || rack.leads_to(1, *ip)).unwrap();
        eventually(PROMPT, "the old host follows", || {
            is_elsewhere(rack.host(0), *ip)
        })
        .unwrap();
        ping(&witness.netns, *ip, SOON).unwrap();
    }
    c1.cni_del().unwrap();
    ping(&witness.netns, addresses[0], PROMPT).unwrap();

    c2.cni_del().unwrap();
    assert!(rack.keys(HANDLES).unwrap().contains(".sticky-"));
    for ip in &addresses {
        eventually(SOON, "nobody has it", || {
            margay_lab::ensure_no_route(&rack.cluster.lab.tor, *ip)
        })
        .unwrap();
    }
    let other = rack.cluster.attach(0, "other").unwrap();
    assert!(other.addresses.iter().all(|ip| !addresses.contains(ip)));

    let mut c3 = rack.attach(0, "c3", 1).unwrap();
    assert_eq!(c3.addresses, addresses);
    // On the same host a second one replaces the first at once.
    let mut c4 = rack.attach(0, "c4", 1).unwrap();
    assert_eq!(c4.addresses, addresses);
    for ip in &addresses {
        ping(&witness.netns, *ip, SOON).unwrap();
    }
    c3.cni_del().unwrap();
    ping(&witness.netns, addresses[0], PROMPT).unwrap();
    c4.cni_del().unwrap();
    eventually(SOON, "the lease is over", || {
        let handles = rack.keys(HANDLES)?;
        ensure!(!handles.contains(".sticky-"), "{handles}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_nobody_has_any_more_is_given_back_and_what_somebody_may_have_is_not() {
    let mut rack = Rack::new().unwrap();
    let sticky = rack.attach(1, "sticky", 600).unwrap();
    let plain = rack.cluster.attach(1, "plain").unwrap();
    let lost = rack.cluster.attach(0, "lost").unwrap();
    let kept = rack.cluster.attach(0, "kept").unwrap();
    let [first, second] = [0, 1].map(|i| rack.cluster.agents[i].name().to_owned());

    let weps = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
    let keys = rack.keys(weps).unwrap();
    let key = keys.lines().find(|key| key.contains("-lost-")).unwrap();
    rack.cluster.etcd.ctl(&["del", key]).unwrap();
    eventually(SOON, "the lost one is found", || {
        let handles = rack.keys(HANDLES)?;
        ensure!(!handles.contains(&format!(".{}", lost.id)), "{handles}");
        Ok(())
    })
    .unwrap();

    let leader = "/calico/margay/v1/collector";
    rack.cluster.agents[1].kill().unwrap();
    eventually(SOON, "the other host leads", || {
        let value = rack
            .cluster
            .etcd
            .ctl(&["get", "--print-value-only", leader])?;
        ensure!(value.trim() == first, "{value}");
        Ok(())
    })
    .unwrap();
    eventually(SOON, "its sign of life ends", || {
        let alive = rack.keys("/calico/margay/v1/agents/")?;
        ensure!(
            !alive.contains(&second) && alive.contains(&first),
            "{alive}"
        );
        Ok(())
    })
    .unwrap();
    let handles = rack.keys(HANDLES).unwrap();
    assert!(handles.contains(&format!(".{}", plain.id)), "{handles}");

    rack.cluster
        .ctl()
        .run(&format!("delete node {second}"))
        .unwrap();
    eventually(SOON, "nothing is left of the host", || {
        for prefix in ["/calico/ipam/v2/host/", weps] {
            let keys = rack.keys(prefix)?;
            ensure!(!keys.contains(&second), "{keys}");
        }
        let handles = rack.keys(HANDLES)?;
        ensure!(!handles.contains(&format!(".{}", plain.id)), "{handles}");
        ensure!(handles.contains(&format!(".{}", kept.id)), "{handles}");
        Ok(())
    })
    .unwrap();

    let host = rack.host(0);
    let ip = sticky.v4().unwrap();
    for destination in [ip, kept.v4().unwrap()] {
        host.exec(&format!(
            "conntrack -I --timeout 300 -p udp -s 192.0.2.7 -d {destination} --sport 1 --dport 2"
        ))
        .unwrap();
    }
    host.ip(&format!(
        "neigh add {ip} lladdr 02:00:00:00:00:01 dev eth0 nud stale"
    ))
    .unwrap();
    let moved = rack.attach(0, "moved", 600).unwrap();
    assert_eq!(moved.addresses, sticky.addresses);
    let connections = host.exec("conntrack -L").unwrap();
    assert!(
        !connections.contains(&format!("dst={ip} ")),
        "{connections}"
    );
    assert!(
        connections.contains(&format!("dst={} ", kept.v4().unwrap())),
        "{connections}"
    );
    let neighbours = host.ip("neigh show dev eth0").unwrap();
    assert!(!neighbours.contains(&format!("{ip} ")), "{neighbours}");
}
