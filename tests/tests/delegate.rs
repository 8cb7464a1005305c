//! Addresses of the distribution's own IPAM plugins: routed like ours, given back to the plugin, and no
//! block or handle in the store.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use margay_lab::resources::{NETWORK, pools_and_profile};
use margay_lab::{Cluster, Container, Lab, NetNs, Plugin, Process, eventually, ping};
use serde_json::{Value, json};

const PROMPT: Duration = Duration::from_secs(60);

fn container(cluster: &Cluster, id: &str, ipam: Value) -> Result<Container> {
    let mut plugin = Plugin::new(&cluster.agents[0], &cluster.lab.hosts[0], NETWORK)?;
    plugin.config["ipam"] = ipam;
    Container::new(&cluster.lab, id, plugin)
}

/// What host-local has handed out: a file an address.
fn handed_out(data: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in std::fs::read_dir(data.join(NETWORK))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if name.starts_with("10.") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[test]
fn host_local_and_static_serve_addresses_and_get_them_back() {
    let lab = Lab::new(1).unwrap();
    let cluster = Cluster::start(lab, &[pools_and_profile(false)]).unwrap();
    let data: PathBuf = cluster.lab.dir().join("host-local");
    let host_local = json!({"type": "host-local", "dataDir": data, "ranges":
        [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let mut c1 = container(&cluster, "c1", host_local.clone()).unwrap();
    let result = c1.cni_add().unwrap();
    assert_eq!(result["ips"][0]["address"], "10.77.0.2/32");
    let mut c2 = container(
        &cluster,
        "c2",
        json!({"type": "static", "addresses": [{"address": "10.78.0.9/24", "gateway": "10.78.0.1"}],
               "dns": {"nameservers": ["192.0.2.53"]}}),
    )
    .unwrap();
    let other = c2.cni_add().unwrap();
    assert_eq!(other["ips"][0]["address"], "10.78.0.9/32");
    assert_eq!(other["dns"]["nameservers"][0], "192.0.2.53");
    ping(&c1.netns, c2.v4().unwrap(), PROMPT).unwrap();
    ping(&c2.netns, c1.v4().unwrap(), PROMPT).unwrap();
    c1.cni_check(&result).unwrap();
    let stored = cluster
        .etcd
        .ctl(&["get", "--prefix", "--keys-only", "/calico/ipam/"]);
    assert_eq!(stored.unwrap().trim(), "");

    // An ADD that fails afterwards gives the address back.
    let mut broken = container(&cluster, "c3", host_local.clone()).unwrap();
    broken
        .netns
        .ip("link add eth0 type veth peer name other")
        .unwrap();
    broken.cni_add().unwrap_err();
    assert_eq!(handed_out(&data).unwrap(), ["10.77.0.2"]);

    c1.cni_del().unwrap();
    c1.cni_del().unwrap();
    assert!(handed_out(&data).unwrap().is_empty());
    c2.cni_del().unwrap();
    let endpoints = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
    let left = cluster
        .etcd
        .ctl(&["get", "--prefix", "--keys-only", endpoints]);
    assert_eq!(left.unwrap().trim(), "");
    assert!(
        container(&cluster, "c4", json!({"type": "no-such"}))
            .unwrap()
            .cni_add()
            .unwrap_err()
            .to_string()
            .contains("has no such plugin")
    );
}

/// The first host interface of ours.
fn interface(host: &NetNs) -> Result<String> {
    let links = host.exec("ip -o link show")?;
    let names = links
        .lines()
        .filter_map(|line| line.split([':', '@']).nth(1));
    let found = names.map(str::trim).find(|name| name.starts_with("mgy"));
    Ok(found.context("no interface yet")?.to_owned())
}

/// The distribution's DHCP plugin with its daemon, and a DHCP server on the host's side of the container's
/// interface: it is there, and lets DHCP through, before the container has an address.
#[test]
fn dhcp_serves_an_address_through_the_interface_that_is_being_attached() {
    let lab = Lab::new(1).unwrap();
    let cluster = Cluster::start(lab, &[pools_and_profile(false)]).unwrap();
    let (host, dir) = (&cluster.lab.hosts[0].netns, cluster.lab.dir());
    let socket = dir.join("dhcp.sock");
    let mut daemon = Command::new("/usr/lib/cni/dhcp");
    daemon.args(["daemon", "-socketpath"]).arg(&socket);
    let _daemon = Process::spawn("dhcp", daemon, None, &dir.join("dhcp.log")).unwrap();
    eventually(PROMPT, "the daemon listens", || {
        std::os::unix::net::UnixStream::connect(&socket).map(drop)
    })
    .unwrap();
    let ipam = json!({"type": "dhcp", "daemonSocketPath": socket});
    let mut c1 = container(&cluster, "c1", ipam).unwrap();
    let (result, _server) = thread::scope(|scope| {
        let add = scope.spawn(|| c1.cni_add());
        let name = eventually(PROMPT, "the interface is made", || interface(host)).unwrap();
        host.ip(&format!("addr add 10.88.0.1/32 dev {name}"))
            .unwrap();
        let leases = dir.join("leases");
        std::fs::write(&leases, "").unwrap();
        let config = dir.join("udhcpd.conf");
        let text = format!(
            "start 10.88.0.10\nend 10.88.0.10\ninterface {name}\nlease_file {}\npidfile {}\n\
             option subnet 255.255.255.0\noption router 10.88.0.1\n",
            leases.display(),
            dir.join("udhcpd.pid").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut server = Command::new("busybox");
        server.args(["udhcpd", "-f"]).arg(&config);
        let log = dir.join("udhcpd.log");
        let server = Process::spawn("udhcpd", server, Some(host.name()), &log).unwrap();
        (add.join().unwrap(), server)
    });
    let result = result.unwrap();
    assert_eq!(result["ips"][0]["address"], "10.88.0.10/32");
    ping(host, c1.v4().unwrap(), PROMPT).unwrap();
    c1.cni_del().unwrap();
}
