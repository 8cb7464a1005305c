//! Hosts with agents on one etcd: where most scenarios begin.

use std::time::Duration;

use anyhow::Result;

use crate::agent::{Agent, Datastore};
use crate::container::{Container, Plugin};
use crate::ctl::Ctl;
use crate::etcd::Etcd;
use crate::eventually::eventually;
use crate::lab::{Lab, STORE_V4};
use crate::resources::NETWORK;

/// A loaded machine takes its time.
const READY: Duration = Duration::from_secs(60);

/// A lab with a ready agent on each host.
#[derive(Debug)]
pub struct Cluster {
    /// One for each host, in order.
    pub agents: Vec<Agent>,
    /// In the lab's store namespace.
    pub etcd: Etcd,
    /// The hosts and the router.
    pub lab: Lab,
}

impl Cluster {
    /// Starts etcd, applies each of `resources`, then starts the agents and waits for them.
    pub fn start(lab: Lab, resources: &[String]) -> Result<Self> {
        let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into())?;
        let mut cluster = Self {
            agents: Vec::new(),
            etcd,
            lab,
        };
        for yaml in resources {
            cluster.ctl().apply(yaml)?;
        }
        let datastore = Datastore::Etcd(cluster.etcd.url().to_owned());
        for host in &cluster.lab.hosts {
            cluster.agents.push(Agent::start(host, &datastore)?);
        }
        for agent in &cluster.agents {
            eventually(READY, "the agent is ready", || agent.ensure_ready())?;
        }
        Ok(cluster)
    }

    /// The operator, on the first host.
    pub fn ctl(&self) -> Ctl {
        Ctl::with_etcd(&self.lab.hosts[0].netns, self.etcd.url(), self.lab.dir())
    }

    /// Attaches a container to the host with this index.
    pub fn attach(&self, host: usize, id: &str) -> Result<Container> {
        let plugin = Plugin::new(&self.agents[host], &self.lab.hosts[host], NETWORK)?;
        let mut container = Container::new(&self.lab, id, plugin)?;
        container.cni_add()?;
        Ok(container)
    }
}
