//! What an operator has agents do through the datastore alone, from a machine that reaches etcd and no host.
//!
//! 1. A locked datastore: ADD is refused with code 11 and STATUS with code 50, DEL works, the containers that run go
//!    on reaching each other, nothing is cleared up; unlocked, all is as before.
//! 2. Each question to the agent of a host has the answer that its own socket gives; a host that does not exist and
//!    one whose agent does not run or hangs are told apart; nothing of it stays in etcd. `cluster diags` has all hosts.
//! 3. `config show` has what environment, file, objects and defaults say for a host, and the host acts upon it.
//! 4. A CalicoNodeStatus gets the state of its host in `status`, and again and again; nothing else of it changes.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::resources::{NETWORK, bgp, pools_and_profile};
use margay_lab::{Cluster, Container, Ctl, Lab, Plugin, eventually, ping};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const KEYS: &str = "/calico/margay/v1/";

fn cluster() -> Result<Cluster> {
    let lab = Lab::new(2)?;
    let resources = [pools_and_profile(false), bgp(&lab)];
    Cluster::start(lab, &resources)
}

/// The operator, where there is no agent.
fn operator(cluster: &Cluster) -> Ctl {
    Ctl::with_etcd(&cluster.lab.store, cluster.etcd.url(), cluster.lab.dir())
}

fn output(ctl: &Ctl, args: &str) -> Result<Output> {
    Ok(ctl.command()?.args(args.split_whitespace()).output()?)
}

/// What is said to a question that has no answer, and the exit code.
fn refused(ctl: &Ctl, args: &str) -> Result<(Option<i32>, String)> {
    let output = output(ctl, args)?;
    ensure!(output.stdout.is_empty(), "{args}: it was answered");
    let errors = String::from_utf8(output.stderr)?;
    Ok((output.status.code(), errors.trim_end().to_owned()))
}

/// The code in a complaint of the CNI plugin.
fn code(error: &str) -> Option<u64> {
    let (_, object) = error.split_once("failed: ")?;
    let object: Value = serde_json::from_str(object).ok()?;
    object["code"].as_u64()
}

#[test]
fn while_the_datastore_is_locked_nothing_is_attached_and_all_else_goes_on() {
    let mut cluster = cluster().unwrap();
    for agent in &mut cluster.agents {
        let mut config = OpenOptions::new()
            .append(true)
            .open(agent.config_file())
            .unwrap();
        config
            .write_all(b"audit_interval_secs: 1\nleak_grace_secs: 1\n")
            .unwrap();
        agent.restart().unwrap();
        eventually(SOON, "ready", || agent.ensure_ready()).unwrap();
    }
    let ctl = operator(&cluster);
    let first = cluster.attach(0, "first").unwrap();
    let mut second = cluster.attach(1, "second").unwrap();
    let plugin = Plugin::new(&cluster.agents[0], &cluster.lab.hosts[0], NETWORK).unwrap();
    let mut third = Container::new(&cluster.lab, "third", plugin).unwrap();
    third.cni_status().unwrap();

    ctl.run("datastore lock").unwrap();
    eventually(SOON, "STATUS refuses", || {
        let error = third.cni_status().err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        ensure!(code(&error) == Some(50), "{error}");
        Ok(())
    })
    .unwrap();
    let error = third.cni_add().unwrap_err().to_string();
    assert_eq!(code(&error), Some(11), "{error}");
    assert!(error.contains("margayctl datastore unlock"), "{error}");
    let status = refused_ready(&ctl, "h1").unwrap();
    assert!(status.contains("datastoreReady"), "{status}");

    // Left over in the eyes of the audit: the endpoint has no interface. Locked, that is no reason.
    let weps = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
    let endpoint = |name: &str| {
        let keys = cluster.etcd.ctl(&["get", "--prefix", "--keys-only", weps]);
        keys.map(|keys| keys.contains(&format!("-{name}-")))
    };
    drop(first.netns);
    eventually(SOON, "the other agent has heard of it", || {
        let status = cluster.agents[1].status()?;
        ensure!(status["ready"] == Value::Bool(false), "{status}");
        Ok(())
    })
    .unwrap();
    second.cni_del().unwrap();
    assert!(!endpoint("second").unwrap());
    // DEL went through several looks of the audit later at the earliest; the endpoint waits for the unlocking.
    std::thread::sleep(Duration::from_secs(3));
    assert!(endpoint("first").unwrap());

    ctl.run("datastore unlock").unwrap();
    eventually(SOON, "the left-over goes", || {
        ensure!(!endpoint("first")?, "it is still there");
        Ok(())
    })
    .unwrap();
    third.cni_add().unwrap();
    third.cni_status().unwrap();
}

/// What `node status` says of a host that is not ready.
fn refused_ready(ctl: &Ctl, node: &str) -> Result<String> {
    let output = output(ctl, &format!("node status {node}"))?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn what_runs_is_reached_while_the_datastore_is_locked() {
    let cluster = cluster().unwrap();
    let first = cluster.attach(0, "first").unwrap();
    let second = cluster.attach(0, "second").unwrap();
    ping(&first.netns, second.v4().unwrap(), SOON).unwrap();
    operator(&cluster).run("datastore lock").unwrap();
    for agent in &cluster.agents {
        eventually(SOON, "locked", || {
            ensure!(agent.status()?["ready"] == Value::Bool(false));
            Ok(())
        })
        .unwrap();
    }
    ping(&first.netns, second.v4().unwrap(), SOON).unwrap();
    ping(&second.netns, first.v6().unwrap(), SOON).unwrap();
}

#[test]
fn every_agent_is_asked_from_a_machine_that_reaches_etcd_alone() {
    let mut cluster = cluster().unwrap();
    let container = cluster.attach(1, "c1").unwrap();
    let ctl = operator(&cluster);
    let route = format!("{}/32", container.v4().unwrap());
    eventually(SOON, "h1 has the route of h2", || {
        let routes = ctl.run("bgp routes --node h1")?;
        ensure!(routes.contains(&route), "{routes}");
        Ok(())
    })
    .unwrap();
    // What the socket of the host says as well, but for what moves by itself.
    let own = cluster.agents[1].ctl();
    for (there, here) in [
        ("bgp routes --node h2 -o json", "bgp routes -o json"),
        (
            "bgp routes --advertised mesh --node h2",
            "bgp routes --advertised mesh",
        ),
    ] {
        eventually(SOON, "both say the same", || {
            let (there, here) = (output(&ctl, there)?, output(&own, here)?);
            ensure!(there.status.code() == here.status.code());
            ensure!(there.stdout == here.stdout, "{there:?}, {here:?}");
            Ok(())
        })
        .unwrap();
    }
    let lookup = ctl.run(&format!("bgp lookup {route} --node h1")).unwrap();
    assert!(lookup.contains(&route), "{lookup}");
    let peers = ctl.run("bgp peers --node h2").unwrap();
    assert!(peers.contains("mesh h1"), "{peers}");
    let events = ctl.run("bgp events --node h2").unwrap();
    assert!(events.contains("Established"), "{events}");
    let status: Value = serde_json::from_str(&ctl.run("node status h2 -o json").unwrap()).unwrap();
    assert_eq!(status["node"], "h2");
    let shown = ctl
        .run(&format!("policy show {}", container.v4().unwrap()))
        .unwrap();
    assert!(shown.contains(" packets, "), "{shown}");
    let table = cluster.lab.dir().join("h2.mrt");
    ctl.run(&format!("bgp dump --mrt {} --node h2", table.display()))
        .unwrap();
    let dumped = std::process::Command::new("bgpdump")
        .arg("-m")
        .arg(&table)
        .output()
        .unwrap();
    let dumped = String::from_utf8(dumped.stdout).unwrap();
    assert!(dumped.contains(&format!("|{route}|")), "{dumped}");
    let none = "routes --received 203.0.113.9";
    let (code, error) = refused(&ctl, &format!("bgp {none} --node h2")).unwrap();
    assert_eq!(code, Some(1));
    assert!(
        error.starts_with("agent of h2: no BGP peer has the address or name \"203.0.113.9\""),
        "{error}"
    );

    let diags = cluster.lab.dir().join("diags.tar.gz");
    let said = ctl
        .run(&format!("cluster diags -o {}", diags.display()))
        .unwrap();
    assert!(said.starts_with("Diags saved to "), "{said}");
    let listed = std::process::Command::new("tar")
        .arg("tzf")
        .arg(&diags)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for host in ["h1", "h2"] {
        for file in ["status", "bgp-peers", "bgp-events", "bgp-routes", "policy"] {
            let name = format!("/hosts/{host}/{file}.json\n");
            assert!(listed.contains(&name), "{name}: {listed}");
        }
    }

    let (code, error) = refused(&ctl, "bgp peers --node h9").unwrap();
    assert_eq!(code, Some(1));
    assert_eq!(
        error,
        "node: found \"h9\", which is no node of the cluster; there are: h1, h2"
    );
    let hung = &mut cluster.agents[1];
    hung.process().unwrap().signal(Signal::SIGSTOP).unwrap();
    let (code, error) = refused(&ctl, "node status h2").unwrap();
    assert_eq!(code, Some(3));
    assert!(
        error.starts_with("agent of h2: no answer within 10 s; is it cut off from etcd"),
        "{error}"
    );
    hung.process().unwrap().signal(Signal::SIGCONT).unwrap();
    eventually(SOON, "it answers again", || ctl.run("node status h2")).unwrap();
    hung.process().unwrap().stop().unwrap();
    let (code, error) = refused(&ctl, "node status h2").unwrap();
    assert_eq!(code, Some(3));
    assert_eq!(
        error,
        "agent of h2: it does not run, there is no sign of life of it in etcd"
    );

    eventually(SOON, "nothing stays in etcd", || {
        let keys = cluster
            .etcd
            .ctl(&["get", "--prefix", "--keys-only", KEYS])?;
        ensure!(
            !keys.contains("/ask/") && !keys.contains("/answer/"),
            "{keys}"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_nobody_may_ask_is_refused_and_stale_or_broken_questions_do_no_harm() {
    let mut cluster = cluster().unwrap();
    let agent = &mut cluster.agents[0];
    agent.process().unwrap().stop().unwrap();
    let ask = |id: &str, question: &str| {
        let key = format!("{KEYS}ask/h1/{id}");
        cluster.etcd.ctl(&["put", &key, question]).unwrap();
    };
    ask("stale", r#"{"node_status":{}}"#);
    agent.restart().unwrap();
    eventually(SOON, "ready", || agent.ensure_ready()).unwrap();
    ask("cni", r#"{"store":{"get":{"key":"/calico/x"}}}"#);
    ask("broken", "{");
    for number in 0..100 {
        ask(&format!("many{number}"), r#"{"policy_counters":{}}"#);
    }
    let answer = |id: &str| {
        let key = format!("{KEYS}answer/h1/{id}/0");
        cluster.etcd.ctl(&["get", "--print-value-only", &key])
    };
    for id in ["cni", "broken"] {
        eventually(SOON, "an answer", || {
            let found = answer(id)?;
            ensure!(found.contains("\"of\":1"), "{id}: {found:?}");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(answer("stale").unwrap().trim(), "");
    // More questions than it knows at once: it is ready, and has left some of them.
    agent.ensure_ready().unwrap();
    let answers = [
        "get",
        "--prefix",
        "--keys-only",
        "/calico/margay/v1/answer/h1/",
    ];
    let answers = cluster.etcd.ctl(&answers).unwrap();
    let many = answers.lines().filter(|key| key.contains("/many")).count();
    assert!((1..=32).contains(&many), "{many}");
}

#[test]
fn the_status_of_a_calico_node_status_is_kept_up_to_date() {
    let cluster = cluster().unwrap();
    let container = cluster.attach(1, "c1").unwrap();
    let ctl = operator(&cluster);
    ctl.apply(
        "{apiVersion: projectcalico.org/v3, kind: CalicoNodeStatus, metadata: {name: one, labels: {a: b}}, \
         spec: {node: h1, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}}\n---\n\
         {apiVersion: projectcalico.org/v3, kind: CalicoNodeStatus, metadata: {name: off}, \
         spec: {node: h1, classes: [Agent], updatePeriodSeconds: 0}}\n---\n\
         {apiVersion: projectcalico.org/v3, kind: CalicoNodeStatus, metadata: {name: two}, \
         spec: {node: h2, classes: [Agent], updatePeriodSeconds: 3600}}",
    )
    .unwrap();
    let get = |name: &str| -> Result<Value> {
        let text = ctl.run(&format!("get caliconodestatus {name} -o json"))?;
        Ok(serde_json::from_str(&text)?)
    };
    let route = format!("{}/32", container.v4().unwrap());
    let report = eventually(SOON, "the route of the other host", || {
        let status = get("one")?["status"].take();
        let routes = status["routes"]["routesV4"].as_array();
        let is_it = |r: &Value| r["destination"] == *route && r["type"] == "FIB";
        let found = routes.is_some_and(|all| all.iter().any(is_it));
        ensure!(found, "{status}");
        Ok(status)
    })
    .unwrap();
    assert_eq!(report["agent"]["birdV4"]["state"], "Ready");
    assert_eq!(
        report["agent"]["birdV4"]["routerID"],
        cluster.lab.hosts[0].v4.to_string()
    );
    let peers = report["bgp"]["peersV4"].as_array().unwrap();
    let mesh = peers
        .iter()
        .find(|peer| peer["type"] == "NodeMesh")
        .unwrap();
    assert_eq!(mesh["peerIP"], cluster.lab.hosts[1].v4.to_string());
    let routes = report["routes"]["routesV4"].as_array().unwrap();
    let learned = routes.iter().find(|r| r["destination"] == *route).unwrap();
    assert_eq!(learned["type"], "FIB");
    assert_eq!(learned["interface"], "eth0");
    assert_eq!(learned["learnedFrom"]["sourceType"], "NodeMesh");

    eventually(SOON, "a later report", || {
        let later = get("one")?["status"].take();
        ensure!(later["lastUpdated"] != report["lastUpdated"], "{later}");
        Ok(())
    })
    .unwrap();
    let one = get("one").unwrap();
    assert_eq!(one["metadata"]["labels"]["a"], "b");
    assert_eq!(one["spec"]["updatePeriodSeconds"], 1);
    let two = eventually(SOON, "of the other host", || {
        let two = get("two")?;
        ensure!(two["status"].is_object(), "{two}");
        Ok(two)
    })
    .unwrap();
    assert!(two["status"]["bgp"].is_null() && two["status"]["agent"]["birdV4"].is_object());
    assert!(get("off").unwrap()["status"].is_null());
}

#[test]
fn the_settings_of_a_host_are_told_with_what_they_are_from() {
    let mut cluster = cluster().unwrap();
    let agent = &mut cluster.agents[0];
    let mut config = OpenOptions::new()
        .append(true)
        .open(agent.config_file())
        .unwrap();
    config
        .write_all(b"felix: {logPrefix: file, interfacePrefix: fil}\n")
        .unwrap();
    agent.set_env(&[
        ("FELIX_LOGPREFIX", "env"),
        ("FELIX_CHAININSERTMODE", "Sideways"),
    ]);
    agent.restart().unwrap();
    eventually(SOON, "ready", || agent.ensure_ready()).unwrap();
    let log = std::fs::read_to_string(agent.log_file()).unwrap();
    assert!(log.contains("chainInsertMode: found"), "{log}");
    let ctl = operator(&cluster);
    let felix = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {{name: {name}}}, spec: {spec}}}\n---\n"
        )
    };
    ctl.apply(
        &[
            felix(
                "default",
                "{interfacePrefix: glo, workloadSourceSpoofing: Any}",
            ),
            felix(
                "racks",
                "{nodeSelector: rack == 'a', workloadSourceSpoofing: Disabled}",
            ),
            felix("node.h1", "{logPrefix: own, bpfEnabled: true}"),
        ]
        .concat(),
    )
    .unwrap();
    ctl.run("label node h1 rack=a").unwrap();
    let shown = eventually(SOON, "the agent has heard of them", || {
        let text = ctl.run("config show h1 -o json")?;
        let shown: Value = serde_json::from_str(&text)?;
        // The label came last.
        ensure!(text.contains("FelixConfiguration/racks"), "{text}");
        Ok(shown)
    })
    .unwrap();
    let holds = |name: &str| {
        let name = format!("FelixConfiguration.{name}");
        let all = shown.as_array().unwrap().iter();
        let found = all.into_iter().find(|s| s["name"] == *name).unwrap();
        let word = |member: &str| found[member].as_str().unwrap_or_default().to_owned();
        (word("value"), word("layer"), word("source"))
    };
    let expected = |value: &str, layer: &str, source: &str| {
        (value.to_owned(), layer.to_owned(), source.to_owned())
    };
    assert_eq!(
        holds("logPrefix"),
        expected("env", "environment", "environment FELIX_LOGPREFIX")
    );
    assert_eq!(
        holds("interfacePrefix"),
        expected("fil", "file", "the agent's file")
    );
    assert_eq!(
        holds("workloadSourceSpoofing"),
        expected("Disabled", "selector", "FelixConfiguration/racks")
    );
    assert_eq!(holds("bpfEnabled").1, "node");
    assert_eq!(
        holds("defaultEndpointToHostAction"),
        expected("Drop", "default", "default")
    );
    let text = ctl.run("config show h1").unwrap();
    let unused = text.lines().find(|line| line.contains(".bpfEnabled "));
    assert!(
        unused.unwrap().ends_with("not used by this agent"),
        "{text}"
    );

    let container = cluster.attach(0, "c1").unwrap();
    let weps = ctl.run("get wep -A -o wide").unwrap();
    assert!(weps.contains(" fil"), "{weps}");
    drop(container);
}
