//! A sticky address moves while its old host cannot withdraw it.
//!
//! ```text
//!   c1 - h1 192.0.2.5 ---+
//!   c2 - h2 192.0.2.6 ---+--- bridge --- 192.0.2.7 tor (BIRD, another AS)
//!        h3 192.0.2.4 ---+    (etcd on h3)
//! ```
//! 1. The old host's agent stands still: its sessions are up and its announcement stays for the hold time.
//!    The mesh follows the new host at once, by LOCAL_PREF, and so does the router, by the MED (RFC 4271,
//!    sections 5.1.4 and 5.1.5).
//! 2. When it goes on, it withdraws and follows too.
//! 3. The same back again, with a host whose cable is cut.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{HOST_AS, NETWORK, TOR_AS, pools_and_profile};
use margay_lab::{
    Agent, Bird, Cable, Container, Ctl, Datastore, Etcd, Host, Lab, NetNs, Plugin, eventually,
    host_route,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{PROMPT, SOON, ensure_up};

const TOR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const TOR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

struct Link {
    tor: Bird,
    agents: Vec<Agent>,
    hosts: Vec<Host>,
    _etcd: Etcd,
    lab: Lab,
}

/// A host with its `eth0` on the bridge; it needs no routes to the router.
fn host(lab: &Lab, number: u8, v4: Ipv4Addr) -> Result<Host> {
    let host = lab.host_on(&Cable {
        number,
        v4: (v4, 28),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()),
        bridge: Some("br0"),
        routers: None,
    })?;
    Ok(Host {
        tor_v4: TOR_V4,
        tor_v6: TOR_V6,
        ..host
    })
}

fn peerings() -> String {
    let mut text = format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\n\
         spec:\n  asNumber: {HOST_AS}\n  nodeToNodeMeshEnabled: true\n"
    );
    for (family, ip) in [("v4", IpAddr::from(TOR_V4)), ("v6", TOR_V6.into())] {
        text += &format!(
            "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: tor-{family}\n\
             spec:\n  peerIP: \"{ip}\"\n  asNumber: {TOR_AS}\n"
        );
    }
    text
}

impl Link {
    fn new() -> Result<Self> {
        let lab = Lab::new(0)?;
        lab.tor.ip("link add br0 type bridge")?;
        lab.tor.ip("link set br0 up")?;
        lab.tor.ip(&format!("addr add {TOR_V4}/28 dev br0"))?;
        lab.tor.ip(&format!("addr add {TOR_V6}/64 dev br0 nodad"))?;
        let hosts = [(1, 5), (2, 6), (3, 4)]
            .into_iter()
            .map(|(number, end)| host(&lab, number, Ipv4Addr::new(192, 0, 2, end)))
            .collect::<Result<Vec<_>>>()?;
        let last = hosts.last().context("no host")?;
        let etcd = Etcd::start_in(last.netns.name(), last.v4.into())?;
        let ctl = Ctl::with_etcd(&last.netns, etcd.url(), lab.dir());
        ctl.apply(&pools_and_profile(false))?;
        ctl.apply(&peerings())?;
        let store = Datastore::Etcd(etcd.url().to_owned());
        let agents = hosts.iter().map(|host| Agent::start(host, &store));
        let agents = agents.collect::<Result<Vec<_>>>()?;
        let tor = Bird::start(&lab.tor, lab.dir(), &tor_config(&hosts))?;
        let link = Self {
            tor,
            agents,
            hosts,
            _etcd: etcd,
            lab,
        };
        for agent in &link.agents {
            eventually(SOON, "sessions", || agent.ensure_sessions(6))?;
            eventually(SOON, "ready", || agent.ensure_ready())?;
        }
        Ok(link)
    }

    /// A container of the identity.
    fn attach(&self, host: usize, id: &str) -> Result<Container> {
        let mut plugin = Plugin::new(&self.agents[host], &self.hosts[host], NETWORK)?;
        plugin.config["sticky"] = json!({"identity": "db"});
        let mut container = Container::new(&self.lab, id, plugin)?;
        container.cni_add()?;
        Ok(container)
    }

    /// The router and the third host send what is for the container to this host alone.
    fn lead_to(&self, host: usize, container: &Container) -> Result<()> {
        for ip in &container.addresses {
            for from in [&self.lab.tor, &self.hosts[2].netns] {
                eventually(PROMPT, "the route leads to the new host", || {
                    leads_to(from, &self.hosts[host], *ip)
                })?;
            }
        }
        Ok(())
    }

    /// The others still have their sessions with this host.
    fn ensure_not_missed(&self, host: usize) -> Result<()> {
        let missing = &self.hosts[host];
        ensure_up(&self.agents[2], missing.v4)?;
        ensure_up(&self.agents[2], missing.v6)?;
        for family in ["v4", "v6"] {
            self.tor
                .ensure_established(&format!("{}_{family}", missing.name))?;
        }
        Ok(())
    }
}

fn tor_config(hosts: &[Host]) -> String {
    let mut config = String::from(
        "router id 198.51.100.1;\n\
         protocol device { scan time 2; }\n\
         protocol kernel { ipv4 { import none; export all; }; merge paths yes limit 8; }\n\
         protocol kernel { ipv6 { import none; export all; }; merge paths yes limit 8; }\n",
    );
    for host in hosts {
        for (family, channel, own, far) in [
            ("v4", "ipv4", IpAddr::from(TOR_V4), IpAddr::from(host.v4)),
            ("v6", "ipv6", TOR_V6.into(), host.v6.into()),
        ] {
            config += &format!(
                "protocol bgp {}_{family} {{\n  local {own} as {TOR_AS};\n  \
                 neighbor {far} as {HOST_AS};\n  direct;\n  connect retry time 1;\n  \
                 connect delay time 1;\n  error wait time 1, 5;\n  graceful restart on;\n  \
                 {channel} {{ import all; export none; }};\n}}\n",
                host.name
            );
        }
    }
    config
}

fn leads_to(from: &NetNs, host: &Host, ip: IpAddr) -> Result<()> {
    let route = host_route(from, ip)?;
    let wanted = match ip {
        IpAddr::V4(_) => host.v4.to_string(),
        IpAddr::V6(_) => host.v6.to_string(),
    };
    ensure!(
        route.nexthops.is_empty() && route.gateway.as_ref() == Some(&wanted),
        "{} has {route:?}, wanted {wanted}",
        from.name()
    );
    Ok(())
}

#[test]
fn a_moved_address_is_preferred_at_once_though_its_old_host_cannot_withdraw() -> Result<()> {
    let mut link = Link::new()?;
    let c1 = link.attach(0, "c1")?;
    link.lead_to(0, &c1)?;

    link.agents[0].process()?.signal(Signal::SIGSTOP)?;
    let c2 = link.attach(1, "c2")?;
    ensure!(c2.addresses == c1.addresses, "{:?}", c2.addresses);
    link.lead_to(1, &c2)?;
    link.ensure_not_missed(0)?;
    link.agents[0].process()?.signal(Signal::SIGCONT)?;
    for ip in &c2.addresses {
        eventually(SOON, "the old host follows", || {
            leads_to(&link.hosts[0].netns, &link.hosts[1], *ip)
        })?;
    }

    link.lab.tor.ip("link set port2 down")?;
    let c3 = link.attach(0, "c3")?;
    ensure!(c3.addresses == c1.addresses, "{:?}", c3.addresses);
    link.lead_to(0, &c3)?;
    link.ensure_not_missed(1)
}
