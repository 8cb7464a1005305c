//! What two agents on one etcd do about what others left or took away.
//!
//! 1. An address that a host holds in another host's block and that lost its endpoint is given back by the
//!    agent of the host that holds it; the one beside it, which is in use, stays.
//! 2. The Node of a host whose agent runs is written again when somebody deletes it, and nothing that the
//!    host has is touched. `node remove` refuses such a host, until its agent was stopped.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::{Cluster, Lab, eventually, ping};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);
const HANDLES: &str = "/calico/ipam/v2/handle/";

/// One block of eight addresses for all.
const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: v4\n\
    spec:\n  cidr: 10.65.0.0/29\n  blockSize: 29\n  nodeSelector: all()\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: v6\n\
    spec:\n  cidr: fd00:65::/125\n  blockSize: 125\n  nodeSelector: all()\n";

fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::start(Lab::new(2)?, &[POOLS.to_owned()])?;
    for agent in &mut cluster.agents {
        let mut config = OpenOptions::new().append(true).open(agent.config_file())?;
        config.write_all(b"audit_interval_secs: 1\nleak_grace_secs: 1\n")?;
        agent.restart()?;
        eventually(SOON, "ready", || agent.ensure_ready())?;
    }
    Ok(cluster)
}

fn keys(cluster: &Cluster, prefix: &str) -> Result<String> {
    cluster
        .etcd
        .ctl(&["get", "--prefix", "--keys-only", prefix])
}

#[test]
fn an_address_lost_in_a_block_of_another_is_given_back_by_who_holds_it() {
    let cluster = cluster().unwrap();
    let owner = cluster.attach(0, "owner").unwrap();
    let lost = cluster.attach(1, "lost").unwrap();
    let kept = cluster.attach(1, "kept").unwrap();
    let affinities = keys(&cluster, "/calico/ipam/v2/host/").unwrap();
    assert!(!affinities.contains("/h2/"), "{affinities}");

    let weps = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
    let endpoints = keys(&cluster, weps).unwrap();
    let endpoint = endpoints.lines().find(|key| key.contains("-lost-"));
    cluster.etcd.ctl(&["del", endpoint.unwrap()]).unwrap();
    eventually(SOON, "it is found", || {
        let handles = keys(&cluster, HANDLES)?;
        ensure!(!handles.contains(&format!(".{}", lost.id)), "{handles}");
        Ok(())
    })
    .unwrap();
    for ip in &lost.addresses {
        let line = |line: &str| line.contains("given back") && line.contains(&ip.to_string());
        eventually(SOON, "the log says so", || {
            let log = fs::read_to_string(cluster.agents[1].log_file())?;
            ensure!(log.lines().any(line), "{log}");
            Ok(())
        })
        .unwrap();
    }
    let handles = keys(&cluster, HANDLES).unwrap();
    for other in [&owner, &kept] {
        assert!(handles.contains(&format!(".{}", other.id)), "{handles}");
    }
}

#[test]
fn a_node_that_was_deleted_under_its_agent_is_registered_again_and_removed_only_without_it() {
    let mut cluster = cluster().unwrap();
    let mut container = cluster.attach(1, "c1").unwrap();
    let node = "/calico/resources/v3/projectcalico.org/nodes/h2";
    cluster.etcd.ctl(&["del", node]).unwrap();
    eventually(SOON, "registered again", || {
        let found = keys(&cluster, node)?;
        ensure!(found.trim() == node, "{found}");
        Ok(())
    })
    .unwrap();
    eventually(SOON, "the log says so", || {
        let log = fs::read_to_string(cluster.agents[1].log_file())?;
        let told = log.contains("the Node resource was deleted while the agent runs");
        ensure!(told, "{log}");
        Ok(())
    })
    .unwrap();
    ping(&cluster.lab.hosts[1].netns, container.v4().unwrap(), SOON).unwrap();

    let ctl = cluster.ctl();
    eventually(SOON, "its sign of life", || {
        let refused = ctl
            .run("node remove h2 --yes")
            .map_or_else(|e| e.to_string(), |_| String::new());
        ensure!(refused.contains("its agent runs"), "{refused}");
        Ok(())
    })
    .unwrap();
    let agent = &mut cluster.agents[1];
    agent.process().unwrap().signal(Signal::SIGTERM).unwrap();
    eventually(SOON, "stopped", || {
        let running = agent.process()?.ensure_running();
        ensure!(running.is_err(), "still running");
        Ok(())
    })
    .unwrap();
    // An agent that was stopped says so: there is nothing to wait for.
    ctl.run("node remove h2 --yes").unwrap();
    for prefix in [
        "/calico/ipam/v2/host/h2/",
        HANDLES,
        node,
        "/calico/margay/v1/instances/h2",
    ] {
        assert_eq!(keys(&cluster, prefix).unwrap().trim(), "", "{prefix}");
    }
    container.addresses.clear();
}
