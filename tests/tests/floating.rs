//! Floating IPs on two hosts behind one router: who announces them, and who may have them.
//!
//! ```text
//!   c1, c3 - h1 (margayd) \
//!                          tor (BIRD)     store (etcd)
//!   c2 ----- h2 (margayd) /
//! ```
//! 1. The router learns a floating IP, of both families, from the host of its container, and nobody else's.
//!    With `wait_announced` a peer was told of a container's addresses before its ADD is answered.
//! 2. Without FelixConfiguration `floatingIPs: Enabled` they lead nowhere.
//! 3. Of two hosts that are given the same one, the one with the older endpoint has it; the other's log says so, and
//!    `margayctl doctor`. When the first lets it go it comes to the second.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::resources::{HOST_AS, NETWORK, TOR_AS, bgp, pools_and_profile};
use margay_lab::{Bird, Cluster, Container, Lab, Plugin, eventually, ping, tor_config};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

const FLOATING: [&str; 2] = ["203.0.113.7", "2001:db8:7::7"];

/// What they are of, as peers are told of nothing else; disabled, so that no container is given one of its own.
const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: floating-v4}\n\
    spec: {cidr: 203.0.113.0/24, disabled: true}\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: floating-v6}\n\
    spec: {cidr: 2001:db8:7::/64, disabled: true}\n";

struct Rig {
    cluster: Cluster,
    bird: Bird,
}

impl Rig {
    fn new() -> Self {
        let lab = Lab::new(2).unwrap();
        let bird = Bird::start(&lab.tor, lab.dir(), &tor_config(&lab, TOR_AS, HOST_AS)).unwrap();
        let resources = [pools_and_profile(false), POOLS.to_owned(), bgp(&lab)];
        let cluster = Cluster::start(lab, &resources).unwrap();
        for agent in &cluster.agents {
            eventually(SOON, "the sessions are up", || agent.ensure_sessions(2)).unwrap();
        }
        Self { cluster, bird }
    }

    fn container(&self, host: usize, id: &str, floating: &[&str]) -> Container {
        let lab = &self.cluster.lab;
        let agent = &self.cluster.agents[host];
        let mut plugin = Plugin::new(agent, &lab.hosts[host], NETWORK).unwrap();
        plugin.config["feature_control"] = json!({"floating_ips": true});
        plugin.config["wait_announced"] = true.into();
        if !floating.is_empty() {
            let list = json!(floating).to_string();
            plugin.config["args"] =
                json!({"cni": {"annotations": {"cni.projectcalico.org/floatingIPs": list}}});
        }
        Container::new(lab, id, plugin).unwrap()
    }

    fn switch(&self, what: &str) {
        let felix = format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
             spec: {{floatingIPs: {what}}}\n"
        );
        self.cluster.ctl().apply(&felix).unwrap();
    }

    /// From which sessions the router has the floating IPs, by family: `h1_v4` and so on.
    fn announced(&self) -> Result<[Vec<String>; 2]> {
        let mut found = [Vec::new(), Vec::new()];
        for (address, found) in FLOATING.iter().zip(&mut found) {
            let length = if address.contains(':') { 128 } else { 32 };
            let shown = self.bird.ctl(&format!("show route {address}/{length}"));
            // It fails where there is none.
            for line in shown.unwrap_or_default().lines() {
                let session = line
                    .split_once('[')
                    .and_then(|(_, rest)| rest.split(' ').next());
                found.extend(session.map(str::to_owned));
            }
        }
        Ok(found)
    }

    /// A peer of the host's was told of the container's addresses before its ADD was answered.
    #[track_caller]
    fn ensure_told(&self, host: usize, container: &Container) {
        let (own, other) = (
            &self.cluster.lab.hosts[host],
            &self.cluster.lab.hosts[1 - host],
        );
        let peers = [
            IpAddr::from(own.tor_v4),
            own.tor_v6.into(),
            other.v4.into(),
            other.v6.into(),
        ];
        let ctl = self.cluster.agents[host].ctl();
        // Not all of them need be peers.
        let told = peers.map(|peer| ctl.run(&format!("bgp routes --advertised {peer}")));
        let told = told.map(Result::unwrap_or_default).concat();
        for ip in &container.addresses {
            assert!(told.contains(&format!("{ip}/")), "{ip}: {told}");
        }
    }

    #[track_caller]
    fn await_announced(&self, by: &[&str]) {
        let wanted = ["v4", "v6"].map(|family| {
            let sessions = by.iter().map(|host| format!("{host}_{family}"));
            sessions.collect::<Vec<_>>()
        });
        eventually(SOON, "the router hears of it", || {
            let found = self.announced()?;
            ensure!(found == wanted, "{found:?}, not {wanted:?}");
            Ok(())
        })
        .unwrap();
    }

    fn doctor(&self) -> String {
        // It fails where something is broken, as some of a test's hosts are to it.
        let ctl = self.cluster.ctl();
        match ctl.run("doctor") {
            Ok(text) => text,
            Err(error) => format!("{error:#}"),
        }
    }
}

/// Its endpoint asks for the addresses, whatever others have: as two hosts write it at the same moment.
fn ask_behind_its_back(rig: &Rig, container: &Container) {
    let ctl = rig.cluster.ctl();
    let listed: Value = serde_json::from_str(&ctl.run("get wep -A -o json").unwrap()).unwrap();
    let all = listed["items"].as_array().unwrap();
    let own = all
        .iter()
        .find(|wep| wep["spec"]["containerID"] == container.id.as_str());
    let name = own.unwrap()["metadata"]["name"].as_str().unwrap();
    let namespace = own.unwrap()["metadata"]["namespace"].as_str().unwrap();
    let ips = [container.v4().unwrap(), container.v6().unwrap()];
    let nats = ips.iter().zip(FLOATING);
    let nats: Vec<_> = nats
        .map(|(internal, external)| json!({"internalIP": internal, "externalIP": external}))
        .collect();
    let patch = json!({"spec": {"ipNATs": nats}}).to_string();
    ctl.run(&format!("patch wep -n {namespace} {name} -p {patch}"))
        .unwrap();
}

#[test]
fn a_floating_ip_is_announced_by_the_host_of_its_one_owner() {
    let rig = Rig::new();
    let mut c1 = rig.container(0, "c1", &FLOATING);
    let refused = c1.cni_add().unwrap_err().to_string();
    assert!(
        refused.contains("FelixConfiguration floatingIPs must be Enabled"),
        "{refused}"
    );
    rig.switch("Enabled");
    eventually(SOON, "the agent has heard of it", || c1.cni_add()).unwrap();
    rig.await_announced(&["h1"]);
    let floating = FLOATING.map(|ip| ip.parse::<IpAddr>().unwrap());
    let mut c2 = rig.container(1, "c2", &[]);
    c2.cni_add().unwrap();
    rig.ensure_told(1, &c2);
    for ip in floating {
        ping(&rig.cluster.lab.tor, ip, SOON).unwrap();
        ping(&c2.netns, ip, SOON).unwrap();
    }
    // The other host's agent knows whose it is.
    let mut c3 = rig.container(1, "c3", &FLOATING);
    eventually(SOON, "it is refused there", || {
        let error = match c3.cni_add() {
            Ok(_) => {
                c3.cni_del()?;
                "attached".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let whose = "floating IP 203.0.113.7 is endpoint h1-cni-c1-eth0's already";
        ensure!(error.contains(whose), "{error}");
        Ok(())
    })
    .unwrap();
    ask_behind_its_back(&rig, &c2);
    let says = "floating IP 203.0.113.7 is endpoint default/h1-cni-c1-eth0's";
    eventually(SOON, "the log of the loser says so", || {
        let log = fs::read_to_string(rig.cluster.agents[1].log_file())?;
        ensure!(log.contains(says), "{log}");
        Ok(())
    })
    .unwrap();
    rig.await_announced(&["h1"]);
    eventually(SOON, "the doctor says so", || {
        let doctor = rig.doctor();
        ensure!(doctor.contains(says), "{doctor}");
        Ok(())
    })
    .unwrap();
    // Switched off and on again while it runs.
    rig.switch("Disabled");
    rig.await_announced(&[]);
    rig.switch("Enabled");
    rig.await_announced(&["h1"]);
    c1.cni_del().unwrap();
    rig.await_announced(&["h2"]);
    for ip in floating {
        ping(&rig.cluster.lab.tor, ip, SOON).unwrap();
    }
    eventually(SOON, "the doctor has nothing to say", || {
        let doctor = rig.doctor();
        ensure!(!doctor.contains("floating IP"), "{doctor}");
        Ok(())
    })
    .unwrap();
    c2.cni_del().unwrap();
    rig.await_announced(&[]);
}
