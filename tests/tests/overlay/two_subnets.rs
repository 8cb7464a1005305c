//! Three hosts in two subnets, behind a router that knows nothing of containers.
//!
//! ```text
//!   h1 192.0.2.5/25 --+
//!                     br0 192.0.2.1 - router - 192.0.2.129 ---- h3 192.0.2.133/25
//!   h2 192.0.2.6/25 --+                 |
//!                                     store
//! ```
//! IPv6 likewise: `2001:db8:0:1::/64` and `2001:db8:0:2::/64`. What a host sends unwrapped to a container in the other
//! subnet, the router drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::NETWORK;
use margay_lab::traffic::DENIED;
use margay_lab::{
    Agent, Cable, Container, Ctl, Datastore, Etcd, Host, Lab, Plugin, Route, STORE_V4, eventually,
    ping, routes,
};
use serde_json::Value;

/// A loaded machine takes its time.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The store's other address.
const STORE_V6: &str = "2001:db8:0:ff::2";

/// Tunnel devices, by family.
pub(crate) const DEVICES: [&str; 2] = ["vxlan.margay", "vxlan-v6.margay"];

/// The hosts with their agents, each with a container.
pub(crate) struct TwoSubnets {
    pub(crate) containers: Vec<Container>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) etcd: Etcd,
    pub(crate) lab: Lab,
}

/// Pools of both families with this mode of VXLAN, and a profile that lets everything pass but what the traffic has for
/// denied.
pub(crate) fn pools(mode: &str) -> String {
    let pool = |name: &str, cidr: &str, size: u8| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\n\
             spec: {{cidr: '{cidr}', blockSize: {size}, vxlanMode: {mode}}}\n---\n"
        )
    };
    let ports = format!(
        "destination: {{ports: ['{}:{}']}}",
        DENIED.start(),
        DENIED.end()
    );
    let deny = |protocol: &str| format!("{{action: Deny, protocol: {protocol}, {ports}}}");
    let profile = format!(
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {{name: {NETWORK}}}\n\
         spec: {{ingress: [{}, {}, {{action: Allow}}], egress: [{{action: Allow}}]}}\n",
        deny("UDP"),
        deny("TCP")
    );
    pool("v4", "10.65.0.0/16", 26) + &pool("v6", "fd00:65::/48", 122) + &profile
}

/// Settings of BGP; without the mesh nobody speaks it.
pub(crate) fn mesh(enabled: bool) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\n\
         spec: {{nodeToNodeMeshEnabled: {enabled}}}\n"
    )
}

impl TwoSubnets {
    /// Everything ready, with a container on each host.
    pub(crate) fn new(resources: &[String]) -> Result<Self> {
        Self::with(resources, &["-4", "-6"])
    }

    /// The same where hosts, and containers, have addresses of these families alone.
    pub(crate) fn with(resources: &[String], families: &[&str]) -> Result<Self> {
        let v4 = families.contains(&"-4");
        let lab = Lab::new(0)?;
        let tor = &lab.tor;
        tor.ip("link add br0 type bridge")?;
        tor.ip("link set br0 up")?;
        tor.ip("addr add 192.0.2.1/25 dev br0")?;
        tor.ip("addr add 2001:db8:0:1::ff/64 dev br0 nodad")?;
        let hosts = vec![
            host(&lab, 1, 5, 1)?,
            host(&lab, 2, 6, 1)?,
            host(&lab, 3, 133, 129)?,
        ];
        let store = match v4 {
            true => STORE_V4.into(),
            false => STORE_V6.parse()?,
        };
        for host in hosts.iter().filter(|_| !v4) {
            host.netns.ip("-4 addr flush dev eth0")?;
        }
        let etcd = Etcd::start_in(lab.store.name(), store)?;
        let mut cluster = Self {
            containers: Vec::new(),
            agents: Vec::new(),
            hosts,
            etcd,
            lab,
        };
        for yaml in resources {
            cluster.ctl().apply(yaml)?;
        }
        let store = Datastore::Etcd(cluster.etcd.url().to_owned());
        for host in &cluster.hosts {
            let mut agent = Agent::prepare(host, &store)?;
            let config = std::fs::read_to_string(agent.config_file())?;
            let lines = config
                .lines()
                .filter(|line| v4 || !line.starts_with("node_ip:"));
            let config: Vec<&str> = lines.collect();
            let config = config.join("\n").replace("/30\n", "/25\n");
            std::fs::write(agent.config_file(), config)?;
            agent.restart()?;
            cluster.agents.push(agent);
        }
        for agent in &cluster.agents {
            eventually(SOON, "the agent is ready", || agent.ensure_ready())?;
        }
        for index in 0..cluster.hosts.len() {
            let id = format!("c{}", index + 1);
            let container = match v4 {
                true => cluster.attach(index, &id, "")?,
                false => cluster.attach_v6(index, &id)?,
            };
            cluster.containers.push(container);
        }
        Ok(cluster)
    }

    /// The operator, beside the datastore.
    pub(crate) fn ctl(&self) -> Ctl {
        Ctl::with_etcd(&self.lab.store, self.etcd.url(), self.lab.dir())
    }

    fn attach_v6(&self, host: usize, id: &str) -> Result<Container> {
        let mut plugin = Plugin::new(&self.agents[host], &self.hosts[host], NETWORK)?;
        plugin.config["ipam"]["assign_ipv4"] = "false".into();
        let mut container = Container::new(&self.lab, id, plugin)?;
        container.cni_add()?;
        Ok(container)
    }

    pub(crate) fn attach(&self, host: usize, id: &str, args: &str) -> Result<Container> {
        let mut plugin = Plugin::new(&self.agents[host], &self.hosts[host], NETWORK)?;
        plugin.args = args.to_owned();
        if args.contains("IP=") {
            plugin.config["ipam"]["assign_ipv6"] = "false".into();
        }
        let mut container = Container::new(&self.lab, id, plugin)?;
        container.cni_add()?;
        Ok(container)
    }

    /// A container whose network says which MTU it has.
    pub(crate) fn attach_with_mtu(&self, host: usize, id: &str, mtu: u32) -> Result<Container> {
        let mut plugin = Plugin::new(&self.agents[host], &self.hosts[host], NETWORK)?;
        plugin.config["mtu"] = mtu.into();
        let mut container = Container::new(&self.lab, id, plugin)?;
        container.cni_add()?;
        Ok(container)
    }

    /// Waits until each container reaches each other one in both families.
    pub(crate) fn everyone_reaches_everyone(&self) -> Result<()> {
        for from in &self.containers {
            for to in self.containers.iter().filter(|to| to.id != from.id) {
                for address in &to.addresses {
                    eventually(SOON, "a reply", || {
                        ping(&from.netns, *address, Duration::from_secs(1))
                            .with_context(|| format!("from {}", from.id))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The route of a host to the block that an address is in.
    pub(crate) fn block_route(&self, host: usize, address: IpAddr) -> Result<Route> {
        let block = block_of(address);
        let all = routes(&self.hosts[host].netns)?;
        let found = all.iter().find(|route| route.dst == block).cloned();
        found.with_context(|| format!("h{} has no route to {block}: {all:?}", host + 1))
    }

    /// Waits until the route of a host to the block of a container leads through this device.
    pub(crate) fn leads_through(
        &self,
        host: usize,
        container: usize,
        devices: [&str; 2],
    ) -> Result<()> {
        for address in &self.containers[container].addresses {
            let device = devices[usize::from(address.is_ipv6())];
            eventually(SOON, "a route through the right device", || {
                let route = self.block_route(host, *address)?;
                ensure!(
                    route.dev.as_deref() == Some(device),
                    "{route:?}, not {device}"
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The Node of a host as it is stored.
    pub(crate) fn node(&self, name: &str) -> Result<Value> {
        let text = self.ctl().run(&format!("get node {name} -o json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The index of a host's tunnel device: another one each time it is made.
    pub(crate) fn device_index(&self, host: usize, device: &str) -> Result<String> {
        let netns = &self.hosts[host].netns;
        let link = netns.ip(&format!("-o link show dev {device}"))?;
        let (index, _) = link.split_once(':').context("a link without an index")?;
        Ok(index.to_owned())
    }
}

/// The block of an address, as `ip` writes it.
fn block_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{}/26", Ipv4Addr::from(u32::from(v4) & !0x3f)),
        IpAddr::V6(v6) => format!("{}/122", Ipv6Addr::from(u128::from(v6) & !0x3f)),
    }
}

/// A host with this last octet; in the first subnet on the bridge, in the other with a cable of its own.
fn host(lab: &Lab, number: u8, octet: u8, gateway: u8) -> Result<Host> {
    let bridge = (gateway == 1).then_some("br0");
    let subnet = if bridge.is_some() { 1 } else { 2 };
    let v6 = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, last);
    lab.host_on(&Cable {
        number,
        v4: (Ipv4Addr::new(192, 0, 2, octet), 25),
        v6: v6(number.into()),
        bridge,
        routers: Some((Ipv4Addr::new(192, 0, 2, gateway), v6(0xff))),
    })
}
