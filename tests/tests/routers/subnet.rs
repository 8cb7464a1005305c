//! Two hosts in one subnet, and no router at all.
//!
//! ```text
//!   c1 - h1 192.0.2.5/30 ---- bridge ---- 192.0.2.6/30 h2 - c2
//!        (etcd on h1)
//! ```
//! 1. The mesh alone connects the containers: each is a route by way of the other host's own address, on the
//!    link (RFC 4271, section 5.1.3: the next hop is the speaker itself).
//! 2. Containers reach each other, v4 and v6; DEL withdraws.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Result, ensure};
use margay_lab::resources::{NETWORK, pools_and_profile};
use margay_lab::{
    Agent, Cable, Container, Ctl, Datastore, Etcd, Host, Lab, Plugin, ensure_no_route, eventually,
};

use crate::support::{PROMPT, SOON, everyone_reaches_everyone, our_route, wait_for_sessions};

/// A host with its `eth0` on the bridge.
fn host(lab: &Lab, number: u8) -> Result<Host> {
    lab.host_on(&Cable {
        number,
        v4: (Ipv4Addr::new(192, 0, 2, 4 + number), 30),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()),
        bridge: Some("br0"),
        routers: None,
    })
}

fn attach(lab: &Lab, host: &Host, agent: &Agent, id: &str) -> Result<Container> {
    let mut container = Container::new(lab, id, Plugin::new(agent, host, NETWORK)?)?;
    container.cni_add()?;
    Ok(container)
}

#[test]
fn hosts_on_one_link_route_by_each_others_address() -> Result<()> {
    let lab = Lab::new(0)?;
    lab.tor.ip("link add br0 type bridge")?;
    lab.tor.ip("link set br0 up")?;
    let hosts = [host(&lab, 1)?, host(&lab, 2)?];
    let etcd = Etcd::start_in(hosts[0].netns.name(), hosts[0].v4.into())?;
    let dir: &Path = lab.dir();
    Ctl::with_etcd(&hosts[1].netns, etcd.url(), dir).apply(&pools_and_profile(false))?;
    let store = Datastore::Etcd(etcd.url().to_owned());
    let agents = [
        Agent::start(&hosts[0], &store)?,
        Agent::start(&hosts[1], &store)?,
    ];
    wait_for_sessions(&agents[0], &["mesh h2", "mesh h2"])?;
    wait_for_sessions(&agents[1], &["mesh h1", "mesh h1"])?;
    for agent in &agents {
        eventually(SOON, "ready", || agent.ensure_ready())?;
    }

    let c1 = attach(&lab, &hosts[0], &agents[0], "c1")?;
    let mut c2 = attach(&lab, &hosts[1], &agents[1], "c2")?;
    for (at, far, home) in [(&hosts[0], &c2, &hosts[1]), (&hosts[1], &c1, &hosts[0])] {
        for (address, via) in [
            (far.v4()?, home.v4.to_string()),
            (far.v6()?, home.v6.to_string()),
        ] {
            eventually(PROMPT, "a route by the other host", || {
                let route = our_route(&at.netns, &address.to_string())?;
                ensure!(route.gateway.as_ref() == Some(&via), "{route:?}");
                ensure!(route.dev.as_deref() == Some("eth0"), "{route:?}");
                Ok(())
            })?;
        }
    }
    let both = [
        (&c1.netns, c1.addresses.clone()),
        (&c2.netns, c2.addresses.clone()),
    ];
    everyone_reaches_everyone(&both)?;

    let gone = c2.addresses.clone();
    c2.cni_del()?;
    for address in gone {
        eventually(PROMPT, "withdrawn", || {
            ensure_no_route(&hosts[0].netns, address)
        })?;
    }
    Ok(())
}
