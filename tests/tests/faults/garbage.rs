//! Nonsense on the agent's socket, on the plugin's input, in the datastore, in the configuration.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use margay_lab::{binary, eventually};

use crate::rig::{NETWORK, POOLS, Rig, SOON};

#[test]
fn nonsense_on_the_socket_gets_one_clear_error_and_disturbs_nobody() {
    let rig = Rig::embedded(POOLS);
    let error = |line: &[u8]| {
        let answer = rig.ask(line).unwrap();
        answer["error"].as_str().unwrap_or_default().to_owned()
    };
    let noise: Vec<u8> = (0..4096_u32)
        .map(|n| ((n * 7919) >> 3) as u8)
        .filter(|b| *b != 10)
        .collect();
    for line in [
        &noise[..],
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{\"cni\":{}}",
        b"{\"cni\":7}",
        b"\xff\xfe",
    ] {
        assert!(
            error(line).starts_with("request is not understood: "),
            "{line:?}"
        );
    }
    assert_eq!(
        error(&vec![b'x'; 9 << 20]),
        "request is longer than 8388608 bytes"
    );
    assert!(error(b"{\"store\":{\"drop\":{}}}").contains("drop"));
    // Half a request and a hang-up; half a request and silence; nothing at all.
    let connect = || UnixStream::connect(rig.agent.socket()).unwrap();
    connect().write_all(b"{\"cni\":{\"comm").unwrap();
    let mut idle: Vec<UnixStream> = (0..300).map(|_| connect()).collect();
    idle[0].write_all(b"{\"node_status\"").unwrap();
    // Asks and does not read the answer.
    let mut deaf = connect();
    deaf.write_all(b"{\"store\":{\"list\":{\"prefix\":\"\"}}}\n")
        .unwrap();
    let a = rig.attach("a", NETWORK);
    rig.ensure_exact(&[&a]);
    // Whoever says nothing is hung up on in the end.
    idle[1].set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(idle[1].read_to_end(&mut Vec::new()).unwrap(), 0);
    rig.agent.ensure_ready().unwrap();
}

#[test]
fn nonsense_for_the_plugin_gets_the_code_that_the_spec_has_for_it() {
    let rig = Rig::embedded(POOLS);
    let good = rig.config(NETWORK).to_string();
    let env = |command: &'static str| {
        [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "x"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
        ]
    };
    for verb in ["ADD", "DEL", "CHECK"] {
        for stdin in ["", "{", "[]", "7", "null", "\u{0}\u{0}"] {
            rig.shim(&env(verb), stdin.as_bytes())
                .refused(6, "network configuration");
        }
        rig.shim(&env(verb), b"\xff\xfe{}").refused(5, "stdin");
        let text = good.replace("\"name\":\"red\"", "\"name\":[1]");
        rig.shim(&env(verb), text.as_bytes())
            .refused(6, "name is [1]");
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        rig.shim(&env(verb), deep.as_bytes())
            .refused(6, "network configuration");
        for (name, value, needle) in [
            ("CNI_CONTAINERID", "", "CNI_CONTAINERID"),
            ("CNI_CONTAINERID", "../../etc", "CNI_CONTAINERID is"),
            ("CNI_IFNAME", "a/b", "CNI_IFNAME is"),
            ("CNI_IFNAME", "sixteen-letters-", "CNI_IFNAME is"),
            ("CNI_IFNAME", "..", "CNI_IFNAME is"),
        ] {
            let mut env = env(verb).to_vec();
            env.push((name, value));
            rig.shim(&env, good.as_bytes()).refused(4, needle);
        }
    }
    rig.shim(&env("FROB"), good.as_bytes())
        .refused(4, "CNI_COMMAND is \\\"FROB\\\"");
    rig.shim(&[], good.as_bytes()).refused(4, "CNI_COMMAND");
    let bad_args = [env("ADD").as_slice(), &[("CNI_ARGS", "nonsense")]].concat();
    rig.shim(&bad_args, good.as_bytes()).refused(4, "CNI_ARGS");
    let version = rig.shim(&[("CNI_COMMAND", "VERSION")], b"garbage");
    assert_eq!(version.exit, 0);
    rig.ensure_exact(&[]);
}

/// Every kind, each with a value that is no JSON and one of the wrong shape.
#[test]
fn a_garbage_object_of_each_kind_is_told_once_and_stops_nothing() {
    let mut rig = Rig::with_etcd(POOLS);
    let a = rig.attach("a", NETWORK);
    let kinds = [
        "nodes",
        "ippools",
        "ipreservations",
        "bgpconfigurations",
        "bgppeers",
        "bgpfilters",
        "profiles",
        "networkpolicies/default",
        "globalnetworkpolicies",
        "networksets/default",
        "globalnetworksets",
        "tiers",
        "hostendpoints",
        "felixconfigurations",
        "ipamconfigurations",
        "workloadendpoints/default",
        "clusterinformations",
    ];
    let mut keys = Vec::new();
    for kind in kinds {
        for (name, value) in [
            ("torn", "{\"kind\":"),
            ("odd", "{\"spec\": 7}"),
            ("empty", ""),
        ] {
            let key = format!("/calico/resources/v3/projectcalico.org/{kind}/{name}");
            rig.put(&key, value);
            keys.push(key);
        }
    }
    rig.put("/calico/resources/v3/projectcalico.org/unheard-of/x", "{");
    rig.put("/calico/resources/v3/projectcalico.org/", "{");
    rig.put("/calico/ipam/v2/host/h1/ipv4/block/nonsense", "{");
    rig.put("/calico/ipam/v2/config", "{");
    let (last, _) = keys.split_last().unwrap();
    eventually(SOON, "told", || {
        rig.log().contains(last).then_some(()).ok_or("not told")
    })
    .unwrap();
    let log = rig.log();
    for key in &keys {
        let told = log
            .lines()
            .filter(|line| line.contains(&format!("\"{key}\"")))
            .count();
        assert_eq!(told, 1, "{key}\n{log}");
    }
    let b = rig.attach("b", NETWORK);
    margay_lab::ping(&a.netns, b.v4(), SOON).unwrap();
    // Nor does it stop a start.
    rig.restart(&[]);
    let c = rig.attach("c", NETWORK);
    margay_lab::ping(&a.netns, c.v6(), SOON).unwrap();
    assert!(rig.cni("DEL", &a).ips().is_empty());
}

#[test]
fn a_second_agent_finds_out_and_leaves_the_first_one_alone() {
    let rig = Rig::embedded(POOLS);
    let a = rig.attach("a", NETWORK);
    let start = |config: &str| {
        let file = rig.lab.dir().join("second.yaml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(binary("margayd").unwrap());
        command.arg("--config").arg(&file);
        let netns = rig.host().netns.name().to_owned();
        let output = Command::new("timeout")
            .args(["60", "ip", "netns", "exec", &netns])
            .arg(command.get_program())
            .args(command.get_args())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let config = fs::read_to_string(rig.agent.config_file()).unwrap();
    let told = start(&config);
    assert!(
        told.contains("another agent listens on this socket"),
        "{told}"
    );
    let socket = rig.agent.socket();
    let elsewhere = config.replace(
        socket.to_str().unwrap(),
        rig.lab.dir().join("second.sock").to_str().unwrap(),
    );
    let told = start(&elsewhere);
    assert!(told.contains("store.redb"), "{told}");
    let file = rig.lab.dir().join("precious");
    fs::write(&file, "precious").unwrap();
    let told = start(&config.replace(socket.to_str().unwrap(), file.to_str().unwrap()));
    assert!(told.contains("no socket"), "{told}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    rig.ensure_exact(&[&a]);
    let b = rig.attach("b", NETWORK);
    rig.ensure_exact(&[&a, &b]);
}
