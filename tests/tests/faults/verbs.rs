//! The runtime calls the plugin twice, too late, too early, with nonsense, and all at once.

use std::thread;

use anyhow::ensure;
use margay_lab::{eventually, ping};

use crate::rig::{Answer, NETWORK, POOLS, Rig, SOON, Sandbox};

#[test]
fn a_second_add_fails_and_leaves_the_first_one_alone() {
    let rig = Rig::with_etcd(POOLS);
    let (a, b) = (rig.attach("a", NETWORK), rig.attach("b", NETWORK));
    for _ in 0..2 {
        rig.cni("ADD", &a)
            .refused(100, "interface eth0 exists already");
        rig.ensure_exact(&[&a, &b]);
    }
    // Another sandbox in the same namespace.
    let netns = a.netns.path();
    let again = rig.plugin("ADD", "a2", netns.to_str(), &rig.config(NETWORK));
    again.refused(100, "interface eth0 exists already");
    rig.ensure_exact(&[&a, &b]);
    for to in [a.v4(), a.v6()] {
        ping(&b.netns, to, SOON).unwrap();
    }
}

/// A pod's endpoint is named after the pod, not the container: here two sandboxes share a key.
#[test]
fn a_second_sandbox_of_a_pod_takes_nothing_from_the_first_until_it_has_its_own_interface() {
    let rig = Rig::embedded(POOLS);
    let pod = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0";
    let call = |verb: &str, sandbox: &Sandbox| {
        let netns = sandbox.netns.path();
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &sandbox.id),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", netns.to_str().unwrap()),
            ("CNI_ARGS", pod),
        ];
        rig.shim(&env, rig.config(NETWORK).to_string().as_bytes())
    };
    let mut old = rig.sandbox("old", NETWORK);
    old.ips = call("ADD", &old).ips();
    let mut new = rig.sandbox("new", NETWORK);
    let intruder = Sandbox {
        id: "intruder".into(),
        network: NETWORK.into(),
        netns: old.netns,
        ips: Vec::new(),
    };
    call("ADD", &intruder).refused(100, "exists already");
    old.netns = intruder.netns;
    rig.ensure_exact_endpoints(&[&old]);
    new.ips = call("ADD", &new).ips();
    // The runtime tears down the old sandbox when the new one runs.
    assert!(call("DEL", &old).ips().is_empty());
    rig.ensure_exact_endpoints(&[&new]);
    assert!(call("DEL", &new).ips().is_empty());
    rig.ensure_exact(&[]);
}

#[test]
fn an_impossible_add_says_why_and_leaves_nothing() {
    let rig = Rig::with_etcd(POOLS);
    let other = rig.attach("other", NETWORK);
    let config = rig.config(NETWORK);
    let file = rig.agent.config_file();
    for (netns, needle) in [
        ("/run/netns/no-such-namespace", "cannot be opened"),
        ("/proc/self/ns/net", "own network namespace"),
        (file.to_str().unwrap(), "is not a network namespace"),
    ] {
        let answer = rig.plugin("ADD", "x", Some(netns), &config);
        answer.refused(8, needle);
        rig.ensure_exact(&[&other]);
    }
    let sandbox = rig.sandbox("x", NETWORK);
    let netns = sandbox.netns.path();
    let add = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut config = config.clone();
        change(&mut config);
        rig.plugin("ADD", "x", netns.to_str(), &config)
    };
    add(&|c| c["mtu"] = 100.into()).refused(7, "mtu is 100");
    add(&|c| c["mtu"] = "big".into()).refused(6, "does not decode");
    add(&|c| c["cniVersion"] = "9.9".into()).refused(1, "incompatible");
    add(&|c| c["name"] = "no/name".into()).refused(7, "name is");
    add(&|c| c["prevResult"] = serde_json::json!({"ips": 7})).refused(7, "prevResult: ips");
    add(&|c| c["ipam"]["type"] = "dhcp".into()).refused(7, "has no such plugin");
    add(&|c| c["ipam"]["ipv4_pools"] = serde_json::json!(["no-such-pool"])).refused(101, "pool");
    add(&|c| c["runtimeConfig"] = serde_json::json!({"ips": [other.v4().to_string()]}))
        .refused(101, &other.v4().to_string());
    add(&|c| c["runtimeConfig"] = serde_json::json!({"ips": ["203.0.113.9"]}))
        .refused(101, "203.0.113.9");
    rig.ensure_exact(&[&other]);
    rig.attach("fine", NETWORK);
}

#[test]
fn del_is_done_when_there_is_nothing_to_do() {
    let rig = Rig::with_etcd(POOLS);
    let config = rig.config(NETWORK);
    let done = |answer: Answer| assert!(answer.ips().is_empty() && answer.text.is_empty());
    done(rig.plugin("DEL", "never-seen", None, &config));
    let twice = rig.attach("twice", NETWORK);
    done(rig.cni("DEL", &twice));
    done(rig.cni("DEL", &twice));
    let gone = rig.attach("gone", NETWORK);
    let netns = gone.netns.path();
    drop(gone);
    done(rig.plugin("DEL", "gone", netns.to_str(), &config));
    let nameless = rig.attach("nameless", NETWORK);
    done(rig.plugin("DEL", "nameless", None, &config));
    rig.ensure_exact(&[]);
    assert!(nameless.netns.exec("ip -o link").unwrap().lines().count() == 1);
}

#[test]
fn del_without_an_agent_is_done_by_the_next_one() {
    let mut rig = Rig::with_etcd(POOLS);
    let ids = ["a", "b", "c"];
    let [a, b, c] = ids.map(|id| rig.attach(id, NETWORK));
    rig.agent.kill().unwrap();
    for _ in 0..2 {
        assert!(rig.cni("DEL", &a).ips().is_empty());
    }
    assert!(rig.cni("DEL", &b).ips().is_empty());
    rig.cni("ADD", &rig.sandbox("d", NETWORK))
        .refused(11, "does not answer");
    assert_eq!(rig.journalled(), 2);
    // What a cut-off write leaves, and what nobody can read, stops nothing.
    let journal = rig.agent.journal();
    std::fs::write(journal.join(".e-eth0.json.1"), "{").unwrap();
    std::fs::write(journal.join("f-eth0.json"), "{").unwrap();
    rig.restart(&[]);
    rig.ensure_exact(&[&c]);
    assert!(journal.join("f-eth0.bad").exists());
}

#[test]
fn twenty_containers_come_and_go_at_once() {
    let rig = Rig::with_etcd(POOLS);
    let mut all: Vec<Sandbox> = (0..20)
        .map(|n| rig.sandbox(&format!("c{n}"), NETWORK))
        .collect();
    thread::scope(|scope| {
        for sandbox in &mut all {
            scope.spawn(|| sandbox.ips = rig.cni("ADD", sandbox).ips());
        }
    });
    rig.ensure_exact(&all.iter().collect::<Vec<_>>());
    thread::scope(|scope| {
        for sandbox in &all {
            scope.spawn(|| assert!(rig.cni("DEL", sandbox).ips().is_empty()));
        }
    });
    rig.ensure_exact(&[]);
}

#[test]
fn add_and_del_of_one_container_at_once_take_turns() {
    let rig = Rig::embedded(POOLS);
    for round in 0..5 {
        let mut sandbox = rig.sandbox(&format!("c{round}"), NETWORK);
        let (first, second) = if round % 2 == 0 {
            ("ADD", "DEL")
        } else {
            ("DEL", "ADD")
        };
        let (first, second) = thread::scope(|scope| {
            let one = scope.spawn(|| rig.cni(first, &sandbox));
            let two = scope.spawn(|| rig.cni(second, &sandbox));
            (one.join().unwrap(), two.join().unwrap())
        });
        sandbox.ips = [first.ips(), second.ips()].concat();
        // Whichever came last, there is all of it or nothing.
        let end = eventually(SOON, "all or nothing", || {
            let all = crate::exact::ensure(&rig, &[&sandbox]);
            let nothing = crate::exact::ensure(&rig, &[]);
            ensure!(all.is_ok() || nothing.is_ok(), "{all:?} {nothing:?}");
            Ok(())
        });
        end.unwrap();
        assert!(rig.cni("DEL", &sandbox).ips().is_empty());
        rig.ensure_exact(&[]);
    }
}
