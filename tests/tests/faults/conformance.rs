//! What the specification asks of each verb, where no other test shows it. The table is in `docs/cni.md`.

use std::fs;

use margay_lab::{eventually, ping};
use serde_json::{Value, json};

use crate::rig::{Answer, NETWORK, POOLS, Rig, SOON, Sandbox};

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// One call for an interface of the container, with a change of the configuration.
fn call(
    rig: &Rig,
    verb: &str,
    sandbox: &Sandbox,
    ifname: &str,
    change: impl FnOnce(&mut Value),
) -> Answer {
    let mut config = rig.config(&sandbox.network);
    change(&mut config);
    let netns = sandbox.netns.path();
    let env = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &sandbox.id),
        ("CNI_IFNAME", ifname),
        ("CNI_NETNS", netns.to_str().unwrap()),
    ];
    rig.shim(&env, config.to_string().as_bytes())
}

fn of_version(version: &str, previous: &Value) -> impl FnOnce(&mut Value) {
    let (version, previous) = (version.to_owned(), previous.clone());
    move |config| {
        config["cniVersion"] = version.into();
        if !previous.is_null() {
            config["prevResult"] = previous;
        }
    }
}

fn done(answer: &Answer) {
    assert_eq!((answer.exit, answer.text.as_str()), (0, ""));
}

#[test]
fn each_version_of_the_specification_is_spoken_from_add_to_del() {
    let rig = Rig::embedded(POOLS);
    for version in VERSIONS {
        let sandbox = rig.sandbox(&format!("v{version}"), NETWORK);
        let added = call(
            &rig,
            "ADD",
            &sandbox,
            "eth0",
            of_version(version, &Value::Null),
        );
        assert_eq!(added.exit, 0, "{}", added.text);
        let result = added.json();
        assert_eq!(result["cniVersion"], version);
        let checked = call(
            &rig,
            "CHECK",
            &sandbox,
            "eth0",
            of_version(version, &result),
        );
        match version {
            "0.1.0" | "0.2.0" => {
                assert!(
                    result["ip4"]["ip"].as_str().unwrap().ends_with("/32"),
                    "{result}"
                );
                assert!(
                    result["ip6"]["ip"].as_str().unwrap().ends_with("/128"),
                    "{result}"
                );
                checked.refused(1, "CHECK came with cniVersion");
            }
            "0.3.0" | "0.3.1" => checked.refused(1, "it exists since 0.4.0"),
            _ => done(&checked),
        }
        let nothing = json!([]);
        let collect = |config: &mut Value| {
            config["cniVersion"] = version.into();
            config["cni.dev/valid-attachments"] = nothing;
        };
        let gc = call(&rig, "GC", &sandbox, "eth0", collect);
        let status = call(
            &rig,
            "STATUS",
            &sandbox,
            "eth0",
            of_version(version, &Value::Null),
        );
        if version == "1.1.0" {
            done(&gc);
            done(&status);
        } else {
            gc.refused(1, "it exists since 1.1.0");
            status.refused(1, "it exists since 1.1.0");
        }
        done(&call(
            &rig,
            "DEL",
            &sandbox,
            "eth0",
            of_version(version, &result),
        ));
        rig.ensure_exact(&[]);
    }
}

#[test]
fn check_finds_whatever_was_taken_away() {
    let rig = Rig::with_etcd(POOLS);
    let sandbox = rig.sandbox("a", NETWORK);
    let asked = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000},
    });
    let with = |previous: Value| {
        let asked = asked.clone();
        move |config: &mut Value| {
            config["runtimeConfig"] = asked;
            config["prevResult"] = previous;
        }
    };
    let add = |config: &mut Value| config["runtimeConfig"] = asked.clone();
    let result = call(&rig, "ADD", &sandbox, "eth0", add).json();
    let check = |previous: &Value| call(&rig, "CHECK", &sandbox, "eth0", with(previous.clone()));
    done(&check(&result));

    let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
    let bare = address.split('/').next().unwrap().to_owned();
    let host_end = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let (inside, host) = (&sandbox.netns, &rig.host().netns);
    for (spoil, needle, mend) in [
        (
            format!("addr del {address} dev eth0"),
            "is missing on eth0",
            format!("addr add {address} dev eth0"),
        ),
        (
            "route del default".into(),
            "default route",
            "route add default via 169.254.1.1 dev eth0".into(),
        ),
        (
            "link set eth0 address 02:00:00:00:00:99".into(),
            "hardware address",
            {
                let mac = result["interfaces"][1]["mac"].as_str().unwrap();
                format!("link set eth0 address {mac}")
            },
        ),
    ] {
        inside.ip(&spoil).unwrap();
        check(&result).refused(102, needle);
        inside.ip(&mend).unwrap();
        // Without its address the interface lost its routes as well.
        inside
            .ip("route replace 169.254.1.1 dev eth0 scope link")
            .unwrap();
        inside
            .ip("route replace default via 169.254.1.1 dev eth0")
            .unwrap();
        done(&check(&result));
    }
    eventually(SOON, "it is seen before the agent mends it", || {
        // There is none to delete while the agent is at it.
        host.exec(&format!("tc qdisc del dev {host_end} root")).ok();
        let checked = check(&result);
        match checked.exit == 1 && checked.text.contains("is not limited") {
            true => Ok(checked),
            false => Err(checked.text),
        }
    })
    .unwrap()
    .refused(102, "is not limited");
    eventually(SOON, "the agent mends it", || match check(&result) {
        fine if fine.exit == 0 => Ok(()),
        other => Err(other.text),
    })
    .unwrap();

    let mut other = result.clone();
    other["ips"][0]["address"] = "10.65.0.99/32".into();
    check(&other).refused(102, &bare);
    other = result.clone();
    other["interfaces"][1]["mac"] = "02:00:00:00:00:01".into();
    check(&other).refused(102, "hardware address");
    other = result.clone();
    other["interfaces"] = json!([]);
    check(&other).refused(102, "prevResult lacks the interface eth0");
    call(&rig, "CHECK", &sandbox, "eth0", |_| {}).refused(7, "prevResult is missing");
    call(&rig, "CHECK", &sandbox, "eth1", with(result.clone())).refused(3, "has no endpoint");
    // The address is somebody else's in the store.
    let blocks = rig.list("/calico/ipam/v2/assignment/").unwrap();
    for (key, value) in &blocks {
        rig.put(key, &value.replace(&format!("{NETWORK}.a"), "somebody"));
    }
    check(&result).refused(102, "is not allocated");
    for (key, value) in &blocks {
        rig.put(key, value);
    }
    done(&call(&rig, "DEL", &sandbox, "eth0", with(result)));
    rig.ensure_exact(&[]);
}

#[test]
fn gc_removes_what_is_not_listed_and_nothing_of_another_network() {
    let rig = Rig::with_etcd(POOLS);
    let kept = rig.attach("kept", NETWORK);
    let gone = rig.attach("gone", NETWORK);
    // Its handles begin like those of the other network.
    let other = rig.attach("other", &format!("{NETWORK}.blue"));
    let gc = |list: Value| {
        call(&rig, "GC", &kept, "eth0", |config| {
            config["cniVersion"] = "1.1.0".into();
            config["cni.dev/valid-attachments"] = list;
        })
    };
    call(&rig, "GC", &kept, "eth0", of_version("1.1.0", &Value::Null)).refused(7, "is missing");
    gc(json!("all")).refused(6, "does not decode");
    rig.ensure_exact(&[&kept, &gone, &other]);
    let list = json!([{"containerID": "kept", "ifname": "eth0"}, {"containerID": "never", "ifname": "eth0"}]);
    done(&gc(list.clone()));
    rig.ensure_exact(&[&kept, &other]);
    done(&gc(list));
    rig.ensure_exact(&[&kept, &other]);
}

#[test]
fn status_says_what_add_would_lack() {
    let mut rig = Rig::with_etcd("");
    let sandbox = rig.sandbox("a", NETWORK);
    let status = |rig: &Rig| {
        call(
            rig,
            "STATUS",
            &sandbox,
            "eth0",
            of_version("1.1.0", &Value::Null),
        )
    };
    status(&rig).refused(50, "no enabled IPPool for IPv4");
    rig.ctl().apply(POOLS.split("---").next().unwrap()).unwrap();
    let lacks = |rig: &Rig, needle: &str| {
        eventually(SOON, "STATUS says so", || {
            let answer = status(rig);
            match answer.text.contains(needle) && answer.exit == 1 {
                true => Ok(answer),
                false => Err(answer.text),
            }
        })
        .unwrap()
        .refused(50, needle);
    };
    lacks(&rig, "no enabled IPPool for IPv6");
    rig.ctl().apply(POOLS).unwrap();
    eventually(SOON, "STATUS is fine", || match status(&rig) {
        fine if fine.exit == 0 => Ok(()),
        other => Err(other.text),
    })
    .unwrap();
    // Where ADD waits for a BGP peer, the lack of one cuts off what runs.
    let answer = call(&rig, "STATUS", &sandbox, "eth0", |config| {
        config["cniVersion"] = "1.1.0".into();
        config["wait_announced"] = true.into();
    });
    answer.refused(51, "no BGP peer is up");
    rig.etcd.as_mut().unwrap().kill().unwrap();
    lacks(&rig, "the datastore does not answer");
    rig.agent.kill().unwrap();
    status(&rig).refused(50, "the agent does not answer");
}

#[test]
fn interfaces_of_one_container_come_and_go_by_themselves() {
    let rig = Rig::embedded(POOLS);
    let peer = rig.attach("peer", NETWORK);
    let sandbox = rig.sandbox("a", NETWORK);
    let first = call(&rig, "ADD", &sandbox, "eth0", |_| {}).ips();
    let second = call(&rig, "ADD", &sandbox, "net1", |_| {}).ips();
    for ip in first.iter().chain(&second) {
        ping(&peer.netns, *ip, SOON).unwrap();
    }
    done(&call(&rig, "DEL", &sandbox, "eth0", |_| {}));
    // What is left has no default route of its own in the main table, and needs none to answer.
    for ip in &second {
        ping(&peer.netns, *ip, SOON).unwrap();
    }
    done(&call(&rig, "DEL", &sandbox, "net1", |_| {}));
    rig.ensure_exact(&[&peer]);
}

#[test]
fn a_failed_add_and_its_del_in_a_second_network_take_nothing_from_the_first() {
    let rig = Rig::with_etcd(POOLS);
    let mut sandbox = rig.attach("a", NETWORK);
    sandbox.network = "other".into();
    rig.cni("ADD", &sandbox).refused(100, "exists already");
    done(&rig.cni("DEL", &sandbox));
    sandbox.network = NETWORK.into();
    rig.ensure_exact(&[&sandbox]);
    done(&rig.cni("DEL", &sandbox));
    rig.ensure_exact(&[]);
}

#[test]
fn an_add_whose_time_is_over_says_what_was_late_and_leaves_nothing() {
    let rig = Rig::embedded(POOLS);
    let sandbox = rig.sandbox("a", NETWORK);
    let answer = call(&rig, "ADD", &sandbox, "eth0", |config| {
        config["wait_announced"] = true.into();
        config["add_timeout_seconds"] = 3.into();
    });
    answer.refused(
        11,
        "ADD has 3 s (add_timeout_seconds), and no BGP peer has been told of",
    );
    rig.ensure_exact(&[]);
    let answer = call(&rig, "ADD", &sandbox, "eth0", |c| {
        c["add_timeout_seconds"] = 600.into()
    });
    answer.refused(7, "must be 1 to 85");
}

/// What runtimes and the established plugin's operators write beside what we need.
#[test]
fn fields_of_the_established_plugin_are_taken_or_refused_by_name() {
    let rig = Rig::embedded(POOLS);
    let sandbox = rig.sandbox("a", NETWORK);
    let file = rig.lab.dir().join("nodename");
    fs::write(&file, "h1\n").unwrap();
    let log = rig.lab.dir().join("cni.log");
    // The agent's own health is one of those that operators wait for.
    let gate = "http://127.0.0.1:9091/readiness";
    let fields = json!({
        "mtu": 1400, "nodename": "h1", "nodename_file": file, "nodename_file_optional": true,
        "datastore_type": "etcdv3", "etcd_endpoints": "http://192.0.2.1:2379", "etcd_discovery_srv": "x",
        "etcd_scheme": "https", "etcd_key_file": "/x", "etcd_cert_file": "/x", "etcd_ca_cert_file": "/x",
        "etcd_authority": "x", "log_level": "debug", "log_file_path": log, "log_file_max_size": 1,
        "log_file_max_age": 1, "log_file_max_count": 1, "num_queues": 2, "policy_setup_timeout_seconds": 20,
        "container_settings": {"allow_ip_forwarding": true}, "include_default_routes": true,
        "device_type": "veth", "readiness_gates": [gate], "endpoint_status_dir": "/x",
        "require_mtu_file": true, "ipam_lock_file": "/x", "mode": "x", "vxlan_vni": 4096,
        "feature_control": {"ip_addrs_no_ipam": false, "floating_ips": true},
        "kubernetes": {"kubeconfig": "/x"}, "policy": {"type": "none"}, "unheard_of": {"a": [1]},
    });
    let with = |more: Value| {
        let fields = fields.clone();
        move |config: &mut Value| {
            for (key, value) in fields
                .as_object()
                .into_iter()
                .chain(more.as_object())
                .flatten()
            {
                config[key] = value.clone();
            }
        }
    };
    let added = call(
        &rig,
        "ADD",
        &sandbox,
        "eth0",
        with(json!({"cniVersion": "1.1.0"})),
    )
    .json();
    assert_eq!(added["interfaces"][1]["mtu"], 1400, "{added}");
    assert_eq!(added["routes"][0]["gw"], "169.254.1.1", "{added}");
    assert_eq!(
        sandbox
            .netns
            .exec("sysctl -n net.ipv4.ip_forward")
            .unwrap()
            .trim(),
        "1"
    );
    let shown = rig.host().netns.exec("ip -d link show").unwrap();
    assert!(shown.contains("numtxqueues 2 numrxqueues 2"), "{shown}");
    assert!(!log.exists(), "the plugin writes no log");
    let other = rig.sandbox("b", NETWORK);
    let refused = |more: Value, code: u64, needle: &str| {
        call(&rig, "ADD", &other, "eth0", with(more)).refused(code, needle);
    };
    refused(json!({"nodename": "h2"}), 7, "nodename is");
    refused(json!({"device_type": "netkit"}), 2, "device_type is");
    refused(json!({"num_queues": 5000}), 7, "num_queues is 5000");
    refused(json!({"readiness_gates": ["x"]}), 7, "readiness_gates has");
    let closed =
        json!({"readiness_gates": ["http://127.0.0.1:9091/nothing"], "add_timeout_seconds": 1});
    refused(
        closed,
        11,
        "readiness gate http://127.0.0.1:9091/nothing does not answer 200",
    );
    refused(
        json!({"nodename": null, "nodename_file": null, "hostname": "h2"}),
        7,
        "nodename is",
    );
    fs::write(&file, "h7").unwrap();
    refused(json!({"nodename": null}), 7, "nodename_file has");
    done(&call(&rig, "DEL", &sandbox, "eth0", |_| {}));
    rig.ensure_exact(&[]);
}

/// Needs no agent at all.
#[test]
fn version_is_answered_without_an_agent() {
    let mut rig = Rig::embedded("");
    rig.agent.kill().unwrap();
    let answer = rig
        .shim(&[("CNI_COMMAND", "VERSION")], br#"{"cniVersion": "0.4.0"}"#)
        .json();
    assert_eq!(
        answer,
        json!({"cniVersion": "0.4.0", "supportedVersions": VERSIONS})
    );
}
