//! Chains: the reference plugins behind us, called as `libcni` calls them, and others before us.

use std::path::Path;
use std::process::Stdio;

use margay_lab::{binary, eventually, ping, run};
use serde_json::{Value, json};

use crate::rig::{Answer, NETWORK, POOLS, Rig, SOON, Sandbox};

const REFERENCE: &str = "/usr/lib/cni";

/// A list, called in order for ADD and CHECK and backwards for DEL, each with the result so far.
struct Chain<'a> {
    rig: &'a Rig,
    plugins: Vec<Value>,
}

impl Chain<'_> {
    fn call(&self, verb: &str, sandbox: &Sandbox, plugin: &Value, result: &Value) -> Answer {
        let mut config = plugin.clone();
        config["cniVersion"] = "1.0.0".into();
        config["name"] = NETWORK.into();
        if !result.is_null() {
            config["prevResult"] = result.clone();
        }
        let kind = plugin["type"].as_str().unwrap();
        let program = match kind {
            "margay-cni" => binary(kind).unwrap(),
            _ => Path::new(REFERENCE).join(kind),
        };
        let mut command = self.rig.host().netns.command(program);
        let mut child = command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", sandbox.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(
            &mut child.stdin.take().unwrap(),
            config.to_string().as_bytes(),
        )
        .unwrap();
        let output = child.wait_with_output().unwrap();
        Answer {
            exit: output.status.code().unwrap_or(-1),
            text: String::from_utf8(output.stdout).unwrap(),
        }
    }

    #[track_caller]
    fn add(&self, sandbox: &mut Sandbox) -> Value {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let answer = self.call("ADD", sandbox, plugin, &result);
            assert_eq!(answer.exit, 0, "{}: {}", plugin["type"], answer.text);
            result = answer.json();
            if plugin["type"] == "margay-cni" {
                sandbox.ips = answer.ips();
            }
        }
        result
    }

    #[track_caller]
    fn check(&self, sandbox: &Sandbox, result: &Value) {
        // The CHECK of portmap 1.1.1 looks for rules of IPv4 among those of IPv6.
        let checked = self.plugins.iter().filter(|p| p["type"] != "portmap");
        for plugin in checked {
            let answer = self.call("CHECK", sandbox, plugin, result);
            assert_eq!(answer.exit, 0, "{}: {}", plugin["type"], answer.text);
        }
    }

    #[track_caller]
    fn del(&self, sandbox: &Sandbox, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            let answer = self.call("DEL", sandbox, plugin, result);
            assert_eq!(answer.exit, 0, "{}: {}", plugin["type"], answer.text);
        }
    }
}

#[test]
fn the_reference_plugins_work_behind_us() {
    let rig = Rig::embedded(POOLS);
    let peer = rig.attach("peer", NETWORK);
    let mut ours = rig.config(NETWORK);
    // What sbr moves to a table of its own.
    ours["include_default_routes"] = true.into();
    let chain = Chain {
        rig: &rig,
        plugins: vec![
            ours,
            json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "mtu": 1400}),
            json!({"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
                   "egressRate": 80_000_000, "egressBurst": 8_000_000}),
            json!({"type": "firewall", "backend": "iptables"}),
            json!({"type": "portmap", "snat": true, "runtimeConfig": {
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}),
            json!({"type": "sbr"}),
        ],
    };
    let mut sandbox = rig.sandbox("a", NETWORK);
    let result = chain.add(&mut sandbox);
    let links = sandbox.netns.ip("link show eth0").unwrap();
    assert!(links.contains("mtu 1400"), "{links}");
    let nat = run(rig
        .host()
        .netns
        .command("iptables-save")
        .args(["-t", "nat"]))
    .unwrap();
    assert!(nat.contains("--dport 8080"), "{nat}");
    for ip in &sandbox.ips {
        ping(&peer.netns, *ip, SOON).unwrap();
    }
    chain.check(&sandbox, &result);
    chain.del(&sandbox, &result);
    // Runtimes may repeat it. Not the whole chain: the reference `sbr` wants the interface that is gone.
    let again = chain.call("DEL", &sandbox, &chain.plugins[0], &result);
    assert_eq!(again.exit, 0, "{}", again.text);
    rig.ensure_exact_endpoints(&[&peer]);
    let nat = run(rig
        .host()
        .netns
        .command("iptables-save")
        .args(["-t", "nat"]))
    .unwrap();
    assert!(!nat.contains("--dport 8080"), "{nat}");
}

/// A plugin that made another interface comes first: its result comes out of ours.
#[test]
fn what_a_plugin_before_us_made_is_passed_on() {
    let rig = Rig::embedded(POOLS);
    let chain = Chain {
        rig: &rig,
        plugins: vec![
            rig.config(NETWORK),
            json!({"type": "tuning", "sysctl": {"net.ipv4.conf.all.arp_filter": "1"}}),
        ],
    };
    let mut sandbox = rig.sandbox("a", NETWORK);
    let before = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "dummy0", "sandbox": "/x"}],
        "ips": [{"address": "192.0.2.9/24", "interface": 0}], "routes": [{"dst": "198.51.100.0/24"}]});
    let [ours, tuning] = &chain.plugins[..] else {
        panic!("two plugins");
    };
    let answer = chain.call("ADD", &sandbox, ours, &before);
    let added = answer.json();
    assert_eq!(added["interfaces"][0]["name"], "dummy0", "{added}");
    assert_eq!(added["ips"][0], before["ips"][0]);
    assert_eq!(added["ips"][1]["interface"], 2);
    assert_eq!(added["routes"], before["routes"]);
    let after = chain.call("ADD", &sandbox, tuning, &added);
    assert_eq!(after.exit, 0, "{}", after.text);
    chain.check(&sandbox, &after.json());
    sandbox.ips = answer.ips().split_off(1);
    eventually(SOON, "attached", || crate::exact::ensure(&rig, &[&sandbox])).unwrap();
    chain.del(&sandbox, &after.json());
    rig.ensure_exact(&[]);
}
