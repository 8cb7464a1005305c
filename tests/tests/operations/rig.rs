//! Two hosts with agents, a router with BIRD, and a pool.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{HOST_AS, TOR_AS, bgp, pools_and_profile};
use margay_lab::{Bird, Cluster, Lab, NetNs, eventually, run, tor_config};
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Everything, ready and with its sessions up.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) tor: Bird,
}

impl Rig {
    pub(crate) fn start(hosts: u8) -> Result<Self> {
        let lab = Lab::new(hosts)?;
        let config = tor_config(&lab, TOR_AS, HOST_AS);
        let tor = Bird::start(&lab.tor, lab.dir(), &config)?;
        let all = [pools_and_profile(false), bgp(&lab)];
        let cluster = Cluster::start(lab, &all)?;
        let rig = Self { cluster, tor };
        rig.await_sessions()?;
        Ok(rig)
    }

    /// Until every session that is wanted is up.
    pub(crate) fn await_sessions(&self) -> Result<()> {
        // The router by both families, and the mesh.
        let wanted = self.cluster.agents.len() + 1;
        for agent in &self.cluster.agents {
            eventually(SOON, "the sessions are up", || {
                agent.ensure_sessions(wanted)
            })?;
        }
        Ok(())
    }

    pub(crate) fn host(&self) -> &NetNs {
        &self.cluster.lab.hosts[0].netns
    }

    /// `margayctl` on the first host, by the agent's socket and to etcd; its output and whether it succeeded.
    pub(crate) fn ctl(&self, args: &str) -> Result<(String, bool)> {
        let mut command = self.cluster.ctl().command()?;
        command.env("MARGAY_SOCKET", self.cluster.agents[0].socket());
        let output = command.args(args.split_whitespace()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(error.is_empty(), "margayctl {args}: {text}{error}");
        Ok((text, output.status.success()))
    }

    pub(crate) fn json(&self, args: &str) -> Result<Value> {
        let (text, _) = self.ctl(&format!("{args} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("margayctl {args} says {text}"))
    }
}

/// What a web server of a host answers.
pub(crate) fn get(host: &NetNs, url: &str) -> Result<String> {
    run(host
        .command("curl")
        .args(["-sS", "--fail", "--max-time", "10", url]))
}
