//! containerd by CRI, as a kubelet calls it.

use std::net::IpAddr;
use std::thread;

use margay_lab::{eventually, ping};

use crate::containerd::Containerd;
use crate::cri::{Cri, PodConfig, PortMapping};
use crate::image::{IMAGE, PAGE, SERVER};
use crate::rack::{Rack, SOON, fetch, forget_namespace};

struct Node {
    containerd: Containerd,
    cri: Cri,
    cgroup: String,
}

/// A pod with the server in it.
struct Pod {
    id: String,
    container: String,
    ip: IpAddr,
}

/// What a namespace of Kubernetes brings along: everything may come and go, until a policy says otherwise.
const NAMESPACE: &str = "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: kns.shop\nspec:\n  \
    ingress: [{action: Allow}]\n  egress: [{action: Allow}]\n";

impl Node {
    fn start(rack: &Rack, host: usize) -> Self {
        rack.cluster.ctl().apply(NAMESPACE).unwrap();
        let containerd = Containerd::start(rack, host, "k8s.io");
        let cri = Cri::connect(&containerd.socket).unwrap();
        eventually(SOON, "the network is ready", || cri.ensure_network_ready()).unwrap();
        Self {
            containerd,
            cri,
            cgroup: format!("/{}", rack.cluster.lab.name()),
        }
    }

    fn config(&self, name: &str) -> PodConfig {
        PodConfig::new(name, &self.cgroup)
    }

    #[track_caller]
    fn run(&self, config: &PodConfig) -> Pod {
        let id = self.cri.run_pod(config).unwrap();
        let container = self.cri.run_container(&id, config, IMAGE, &SERVER).unwrap();
        let ip = self.cri.pod_ip(&id).unwrap();
        Pod { id, container, ip }
    }
}

#[test]
fn pods_reach_each_other_across_hosts_and_leave_nothing() {
    let rack = Rack::new(2);
    let nodes = [Node::start(&rack, 0), Node::start(&rack, 1)];
    let mut config = nodes[0].config("web-0");
    config.port_mappings.push(PortMapping {
        protocol: 0,
        container_port: 8080,
        host_port: 8088,
    });
    config
        .annotations
        .insert("kubernetes.io/ingress-bandwidth".into(), "800M".into());
    let a = nodes[0].run(&config);
    let mut other = nodes[1].config("web-1");
    let wanted = "cni.projectcalico.org/ipAddrs".to_owned();
    other
        .annotations
        .insert(wanted, "[\"10.65.200.7\", \"fd00:65::77\"]".into());
    let b = nodes[1].run(&other);
    assert_eq!(b.ip.to_string(), "10.65.200.7");
    for pod in [&a, &b] {
        rack.ensure_served(pod.ip);
    }
    let to = b.ip.to_string();
    let cri = &nodes[0].cri;
    cri.exec(&a.container, &["/bin/ping", "-c", "1", "-W", "5", &to])
        .unwrap();
    let page = cri.exec(
        &a.container,
        &["/bin/wget", "-q", "-O", "-", &format!("http://{to}:8080/")],
    );
    assert_eq!(page.unwrap(), PAGE);
    // The pod's port is one of its host.
    let host = rack.host(0);
    fetch(rack.tor(), host.v4.into(), 8088, SOON).unwrap();
    fetch(&host.netns, host.v4.into(), 8088, SOON).unwrap();
    let queues = host.netns.exec("tc qdisc show").unwrap();
    assert!(
        queues.contains("qdisc tbf") && queues.contains("rate 800Mbit"),
        "{queues}"
    );
    let endpoints = rack.cluster.ctl().run("get wep -n shop -o wide").unwrap();
    assert!(
        endpoints.contains("web--0") || endpoints.contains("web-0"),
        "{endpoints}"
    );
    rack.ensure_isolated_by_label(a.ip);
    // A kubelet asks more than once.
    nodes[0].cri.stop_pod(&a.id).unwrap();
    nodes[0].cri.remove_pod(&a.id).unwrap();
    nodes[1].cri.remove_pod(&b.id).unwrap();
    rack.ensure_clean(&[a.ip, b.ip]);
}

#[test]
fn a_killed_containerd_and_a_killed_agent_leave_nothing() {
    let mut rack = Rack::new(1);
    let mut node = Node::start(&rack, 0);
    let a = node.run(&node.config("a"));
    rack.ensure_served(a.ip);
    node.containerd.kill();
    ping(rack.tor(), a.ip, SOON).unwrap();
    node.containerd.restart().unwrap();
    node.cri = Cri::connect(&node.containerd.socket).unwrap();
    rack.ensure_served(a.ip);
    // The agent dies in the middle of an ADD: the sandbox fails, its DEL waits in the journal.
    for point in [
        "after-link",
        "after-txn-and-link",
        "after-policy",
        "before-answer",
        "before-reply",
    ] {
        rack.restart_agent(0, point);
        let config = node.config(&format!("b-{point}"));
        let error = format!("{:#}", node.cri.run_pod(&config).unwrap_err());
        assert!(error.contains("the agent"), "{error}");
        rack.restart_agent(0, "");
        rack.ensure_served(a.ip);
    }
    // Or when it goes.
    for point in ["before-kernel-removal", "after-release"] {
        let b = node.run(&node.config("b"));
        rack.restart_agent(0, point);
        node.cri.remove_pod(&b.id).unwrap();
        rack.restart_agent(0, "");
        rack.ensure_served(a.ip);
    }
    // It is away when the pod goes.
    rack.cluster.agents[0].kill().unwrap();
    node.cri.remove_pod(&a.id).unwrap();
    rack.cluster.agents[0].restart().unwrap();
    rack.ensure_clean(&[a.ip]);
    let c = node.run(&node.config("c"));
    rack.ensure_served(c.ip);
    node.cri.remove_pod(&c.id).unwrap();
    rack.ensure_clean(&[c.ip]);
}

/// A kubelet removes the sandbox that it was making, if it is known, and asks for another one of the same pod.
#[test]
fn a_containerd_killed_in_the_middle_of_an_add_leaves_nothing() {
    let mut rack = Rack::watchful(1);
    let mut node = Node::start(&rack, 0);
    for point in ["after-link", "after-txn-and-link", "before-reply"] {
        rack.restart_agent(0, &format!("{point}:stop"));
        let config = node.config(&format!("k-{point}"));
        let Node {
            containerd, cri, ..
        } = &mut node;
        let netns = thread::scope(|scope| {
            let running = scope.spawn(|| cri.run_pod(&config));
            let netns = rack.await_stopped(0);
            containerd.kill();
            rack.go_on(0);
            running.join().unwrap().unwrap_err();
            netns
        });
        node.containerd.restart().unwrap();
        node.cri = Cri::connect(&node.containerd.socket).unwrap();
        for unfinished in node.cri.pods().unwrap() {
            node.cri.remove_pod(&unfinished).unwrap();
        }
        let pod = node.run(&config);
        rack.ensure_served(pod.ip);
        node.cri.remove_pod(&pod.id).unwrap();
        rack.ensure_clean(&[pod.ip]);
        forget_namespace(&netns);
    }
}
