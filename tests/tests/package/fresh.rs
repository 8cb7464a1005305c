//! From nothing to a network that is watched, as somebody does it who has just read the book.
//!
//! ```text
//!   h1: package, etcd, Prometheus - tor (BIRD, AS 65000) - h2: package
//!    c1                                                    c2
//! ```

use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::resources::{HOST_AS, NETWORK, TOR_AS, bgp, pools_and_profile};
use margay_lab::{
    Bird, Host, Lab, Machine, NetNs, Process, Prometheus, dashboard_queries, eventually, ping,
    tor_config,
};
use serde_json::Value;

use crate::machine::{self, SOON, package};

/// For one packet.
const QUICK: Duration = Duration::from_secs(2);

const LIST: &str = "/etc/cni/net.d/10-margay.conflist";

/// A machine after `dpkg -i`, configured as the comments of the shipped file say.
fn install(host: &Host, deb: &Path, etcd: &str) -> Result<Machine> {
    let copy = Machine::new(host)?;
    fs::copy(deb, copy.path("/root/margay.deb"))?;
    copy.run("dpkg -i /root/margay.deb")?;
    let edits = format!(
        "s|^#node_name: .*|node_name: {}|; s|^#node_ip: .*|node_ip: {}/30|; s|^#node_ip6: .*|node_ip6: {}/64|; \
         s|^  #type: etcdv3|  type: etcdv3|; s|^  #endpoints: .*|  endpoints: [{etcd}]|; /^  type: embedded/d",
        host.name, host.v4, host.v6
    );
    copy.run(&format!("sed -i '{edits}' /etc/margay/margayd.yaml"))?;
    // What systemd makes for the unit (RuntimeDirectory).
    copy.run("mkdir -p /run/margay")?;
    copy.run(&format!(
        "install -D /usr/share/margay/cni/10-margay.conflist {LIST}"
    ))?;
    Ok(copy)
}

fn start_etcd(copy: &Machine, host: &Host, url: &str) -> Result<Process> {
    let mut command = copy.command("etcd");
    command.args([
        "--data-dir",
        "/var/lib/etcd-margay",
        "--advertise-client-urls",
        url,
    ]);
    command.args([
        "--listen-client-urls",
        url,
        "--listen-peer-urls",
        "http://127.0.0.1:2380",
    ]);
    let log = host.dir.join("etcd.log");
    let mut etcd = Process::spawn("etcd", command, None, &log)?;
    eventually(SOON, "etcd answers", || {
        etcd.ensure_running()?;
        host.netns
            .exec(&format!("curl -sS --fail --max-time 5 {url}/health"))
    })?;
    Ok(etcd)
}

fn start_agent(copy: &Machine, host: &Host) -> Result<Process> {
    let manager = UnixDatagram::bind(copy.path("/run/notify"))?;
    let agent = machine::start(copy, &host.dir, "/run/notify")?;
    machine::ready_and_fed(&manager).with_context(|| agent.log_tail(20))?;
    Ok(agent)
}

fn start_prometheus(copy: &Machine, host: &Host) -> Result<Prometheus> {
    copy.run(
        "mkdir -p /root/prometheus && cp /usr/share/margay/monitoring/*.yaml /root/prometheus",
    )?;
    // A test waits for seconds where a person waits for minutes; everything else is as it is shipped.
    let faster = "s/scrape_interval: 15s/scrape_interval: 1s\\n  evaluation_interval: 1s/";
    copy.run(&format!(
        "sed -i '{faster}' /root/prometheus/prometheus.yaml"
    ))?;
    let mut command = copy.command("prometheus");
    command.args([
        "--config.file=/root/prometheus/prometheus.yaml",
        "--storage.tsdb.path=/root/prometheus/data",
        "--web.listen-address=127.0.0.1:9090",
    ]);
    Prometheus::start(&host.netns, command, &host.dir.join("prometheus.log"))
}

fn apply(copy: &Machine, yaml: &str) -> Result<()> {
    let mut command = copy.command("margayctl");
    copy.run_with(command.args(["apply", "-f", "-"]), yaml)
        .map(drop)
}

/// Attaches a container by what the package installed; its addresses.
fn attach(copy: &Machine, id: &str, container: &NetNs) -> Result<Vec<IpAddr>> {
    let result = machine::cni(copy, LIST, "ADD", id, container)?;
    let ips = result["ips"].as_array().context("no addresses")?;
    let address = |ip: &Value| -> Result<IpAddr> {
        let text = ip["address"].as_str().context("an address")?;
        Ok(text.split('/').next().unwrap_or_default().parse()?)
    };
    ips.iter().map(address).collect()
}

#[test]
fn from_a_package_to_a_network_whose_dashboard_has_an_answer_to_every_query() -> Result<()> {
    let lab = Lab::new(2)?;
    let (h1, h2) = (&lab.hosts[0], &lab.hosts[1]);
    let mut tor = Bird::start(&lab.tor, lab.dir(), &tor_config(&lab, TOR_AS, HOST_AS))?;
    let deb = package(&h1.dir)?;
    let etcd_url = format!("http://{}:2379", h1.v4);
    let (first, second) = (install(h1, &deb, &etcd_url)?, install(h2, &deb, &etcd_url)?);

    let _etcd = start_etcd(&first, h1, &etcd_url)?;
    let mut agents = [start_agent(&first, h1)?, start_agent(&second, h2)?];
    apply(&first, &pools_and_profile(false).replace(NETWORK, "margay"))?;
    apply(&first, &bgp(&lab))?;

    // The names of the namespaces are the test's, those of the containers the operator's.
    let (c1, c2) = (lab.container_netns("c1")?, lab.container_netns("c2")?);
    attach(&first, "c1", &c1)?;
    let there = attach(&second, "c2", &c2)?;
    ensure!(!there.is_empty(), "no address");
    for address in there {
        // Other hosts hear of a container a moment after it was attached.
        eventually(SOON, "c2 is reached", || ping(&c1, address, QUICK))?;
    }
    let sessions = first.run("margayctl bgp peers")?;
    ensure!(sessions.matches("Established").count() >= 3, "{sessions}");

    let mut prometheus = start_prometheus(&first, h1)?;
    for (title, expr) in dashboard_queries()? {
        eventually(SOON, &format!("panel {title:?}"), || {
            let result = prometheus.query(&expr)?;
            ensure!(!result.is_empty(), "{expr} gives nothing");
            Ok(())
        })?;
    }
    let alerts = |wanted: &[(&str, &str)]| {
        eventually(SOON, &format!("alerts {wanted:?}"), || {
            let rules = prometheus.rules()?;
            ensure!(rules.len() > 12, "{} rules", rules.len());
            for rule in &rules {
                ensure!(rule["health"] == "ok", "{rule}");
                let wanted = wanted.iter().find(|(name, _)| rule["name"] == *name);
                let state = wanted.map_or("inactive", |(_, state)| state);
                ensure!(rule["state"] == state, "{rule}");
            }
            Ok(())
        })
    };
    alerts(&[])?;
    // Alerts wait before they cry: it is seen that they are about to.
    tor.process().stop()?;
    alerts(&[("MargaySessionDown", "pending")])?;

    for agent in &mut agents {
        agent.ensure_running()?;
    }
    machine::cni(&first, LIST, "DEL", "c1", &c1)?;
    machine::cni(&second, LIST, "DEL", "c2", &c2)?;
    let left = first.run("margayctl get wep -A -o name")?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}
