//! The agent, and whoever calls it, die at each step of ADD and DEL.
//!
//! 1. After an ADD that was cut off, the runtime's DEL leaves nothing, and the container can be attached again.
//! 2. Without a DEL, but with the container gone, the agent's own look leaves nothing.
//! 3. A DEL that was cut off succeeds all the same, and the next agent finishes it, even if that one dies on the way.
//! 4. An ADD that was answered has attached, whatever dies then.
//! 5. A plugin that is killed while the agent works leaves nothing that the runtime's DEL, or the end of the container,
//!    does not take away; one that is killed while it writes the journal, nothing that the next DEL does not.
//! 6. Another container keeps everything throughout.
//!
//! Each container has a port of the host and limits both ways, so that what is left of one is in the way of the next.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use margay_lab::{binary, eventually, ping};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::rig::{Answer, NETWORK, POOLS, Rig, SOON, Sandbox};

/// What an ADD passes before it is answered.
const IN_ADD: [&str; 11] = [
    "after-journal-forgot",
    "before-txn",
    "after-link",
    "after-addresses",
    "after-txn",
    "after-txn-and-link",
    "after-policy",
    "after-route",
    "after-announcement",
    "before-answer",
    "before-reply",
];

/// What a DEL passes before it is answered.
const IN_DEL: [&str; 9] = [
    "before-kernel-removal",
    "after-policy",
    "after-route",
    "after-announcement",
    "after-kernel-removal",
    "after-release",
    "after-interface-queued",
    "before-journal-forgets",
    "before-reply",
];

/// What it brings about while it is answered, or afterwards.
const BESIDE_DEL: [&str; 3] = [
    "before-interface-removal",
    "after-interface-removal",
    "after-reply",
];

/// What a DEL of the journal passes.
const IN_REPLAY: [&str; 5] = [
    "before-kernel-removal",
    "after-kernel-removal",
    "after-release",
    "before-journal-forgets",
    "before-entry-removal",
];

/// Addresses that are freed may be assigned again at once.
const NO_REST: &str = "apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata:\n  name: default\n\
    spec:\n  ipCooldownSeconds: 0\n  strictAffinity: false\n  autoAllocateBlocks: true\n";

fn config(rig: &Rig) -> Value {
    let mut config = rig.config(NETWORK);
    let (rate, burst) = (800_000_000, 8_000_000);
    config["runtimeConfig"] = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80}],
        "bandwidth": {"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst},
    });
    config
}

fn call(rig: &Rig, verb: &str, sandbox: &Sandbox) -> Answer {
    let netns = sandbox.netns.path();
    rig.plugin(verb, &sandbox.id, netns.to_str(), &config(rig))
}

/// Nothing is left of the containers with the port but these.
#[track_caller]
fn ensure_exact(rig: &Rig, attached: &[&Sandbox]) {
    rig.ensure_exact(attached);
    let clean = || -> Result<()> {
        let host = &rig.host().netns;
        let links = host.exec("ip -o link show type ifb")?;
        ensure!(links.trim().is_empty(), "queues are left: {links}");
        for rules in ["nft list ruleset", "iptables-save -t nat"] {
            let rules = host.exec(rules)?;
            let left = rules.lines().find(|line| line.contains("8080"));
            ensure!(left.is_none(), "a port is left: {left:?}");
        }
        Ok(())
    };
    eventually(SOON, "ports and queues are gone", clean).unwrap();
}

/// An ADD during which the agent dies at `point`, and an agent that is well.
fn cut_off(rig: &mut Rig, point: &str) -> Sandbox {
    let sandbox = rig.sandbox(&format!("cut-{point}"), NETWORK);
    rig.restart(&[("MARGAY_FAULT", point)]);
    call(rig, "ADD", &sandbox).refused(11, "the agent does not answer");
    rig.ensure_died(point);
    rig.restart(&[]);
    sandbox
}

fn add_is_undone_by_del(rig: &mut Rig) {
    let other = rig.attach("other", NETWORK);
    for point in IN_ADD {
        let sandbox = cut_off(rig, point);
        assert!(call(rig, "DEL", &sandbox).ips().is_empty());
        ensure_exact(rig, &[&other]);
        // Nothing of it is in the way.
        assert_eq!(call(rig, "ADD", &sandbox).ips().len(), 2, "{point}");
        assert!(call(rig, "DEL", &sandbox).ips().is_empty());
    }
    ensure_exact(rig, &[&other]);
}

#[test]
fn an_add_cut_off_at_any_step_is_undone_by_its_del_in_etcd() {
    add_is_undone_by_del(&mut Rig::with_etcd(POOLS));
}

#[test]
fn an_add_cut_off_at_any_step_is_undone_by_its_del_in_a_file() {
    add_is_undone_by_del(&mut Rig::embedded(POOLS));
}

#[test]
fn an_add_cut_off_at_any_step_is_undone_by_the_agents_own_look() {
    let mut rig = Rig::with_etcd(POOLS);
    let other = rig.attach("other", NETWORK);
    for point in IN_ADD {
        drop(cut_off(&mut rig, point));
        ensure_exact(&rig, &[&other]);
    }
}

#[test]
fn an_answered_add_has_attached_whatever_dies_then() {
    let mut rig = Rig::with_etcd(POOLS);
    let other = rig.attach("other", NETWORK);
    let mut sandbox = rig.sandbox("answered", NETWORK);
    rig.restart(&[("MARGAY_FAULT", "after-reply")]);
    sandbox.ips = call(&rig, "ADD", &sandbox).ips();
    rig.ensure_died("after-reply");
    for ip in &sandbox.ips {
        ping(&other.netns, *ip, SOON).unwrap();
    }
    rig.restart(&[]);
    rig.ensure_exact(&[&other, &sandbox]);
    for ip in &sandbox.ips {
        ping(&other.netns, *ip, SOON).unwrap();
    }
    assert!(call(&rig, "DEL", &sandbox).ips().is_empty());
    ensure_exact(&rig, &[&other]);
}

fn del_is_finished(rig: &mut Rig) {
    let other = rig.attach("other", NETWORK);
    for point in IN_DEL.into_iter().chain(BESIDE_DEL) {
        let sandbox = rig.sandbox(&format!("del-{point}"), NETWORK);
        call(rig, "ADD", &sandbox).ips();
        rig.restart(&[("MARGAY_FAULT", point)]);
        assert!(call(rig, "DEL", &sandbox).ips().is_empty());
        rig.ensure_died(point);
        if IN_DEL.contains(&point) {
            assert_eq!(rig.journalled(), 1, "{point}");
        }
        rig.restart(&[]);
        ensure_exact(rig, &[&other]);
    }
}

#[test]
fn a_del_cut_off_at_any_step_is_finished_by_the_next_agent_in_etcd() {
    del_is_finished(&mut Rig::with_etcd(POOLS));
}

#[test]
fn a_del_cut_off_at_any_step_is_finished_by_the_next_agent_in_a_file() {
    del_is_finished(&mut Rig::embedded(POOLS));
}

/// An address that may be anybody's at once is freed only after the kernel has let go of it.
#[test]
fn an_address_that_does_not_rest_is_freed_after_its_route_is_gone() {
    let mut rig = Rig::with_etcd(&format!("{POOLS}---\n{NO_REST}"));
    let other = rig.attach("other", NETWORK);
    for point in ["after-policy", "after-route", "after-kernel-removal"] {
        let sandbox = rig.sandbox(&format!("held-{point}"), NETWORK);
        call(&rig, "ADD", &sandbox).ips();
        rig.restart(&[("MARGAY_FAULT", point)]);
        assert!(call(&rig, "DEL", &sandbox).ips().is_empty());
        rig.ensure_died(point);
        let etcd = rig.etcd.as_ref().unwrap();
        let stored = etcd.ctl(&["get", "--prefix", "/calico/resources/v3/"]);
        assert!(stored.unwrap().contains(&sandbox.id), "{point}: freed");
        rig.restart(&[]);
        ensure_exact(&rig, &[&other]);
    }
}

#[test]
fn a_replay_cut_off_at_any_step_is_finished_by_the_agent_after_it() {
    let mut rig = Rig::with_etcd(POOLS);
    let other = rig.attach("other", NETWORK);
    for point in IN_REPLAY {
        let sandbox = rig.sandbox(&format!("replay-{point}"), NETWORK);
        call(&rig, "ADD", &sandbox).ips();
        rig.agent.kill().unwrap();
        assert!(call(&rig, "DEL", &sandbox).ips().is_empty());
        rig.agent.set_env(&[("MARGAY_FAULT", point)]);
        // It may be dead before anybody sees that it was there.
        if rig.agent.restart().is_ok() {
            rig.ensure_died(point);
        }
        rig.restart(&[]);
        ensure_exact(&rig, &[&other]);
    }
}

/// Without etcd the agent writes the journal itself, and may die over it: then the plugin writes it.
#[test]
fn an_agent_that_dies_over_the_journal_loses_no_del() {
    let mut rig = Rig::impatient(POOLS);
    let other = rig.attach("other", NETWORK);
    for point in ["journal-aside", "journal-written"] {
        let sandbox = rig.sandbox(&format!("away-{point}"), NETWORK);
        call(&rig, "ADD", &sandbox).ips();
        rig.restart(&[("MARGAY_FAULT", point)]);
        let signal_etcd = |rig: &Rig, signal| {
            let etcd = rig.etcd.as_ref().unwrap().process().unwrap();
            etcd.signal(signal).unwrap();
        };
        signal_etcd(&rig, Signal::SIGSTOP);
        assert!(call(&rig, "DEL", &sandbox).ips().is_empty());
        rig.ensure_died(point);
        assert_eq!(rig.journalled(), 1, "{point}");
        signal_etcd(&rig, Signal::SIGCONT);
        rig.restart(&[]);
        ensure_exact(&rig, &[&other]);
    }
}

#[test]
fn without_the_journal_the_agents_own_look_finishes_a_del() {
    let mut rig = Rig::embedded(POOLS);
    let other = rig.attach("other", NETWORK);
    for point in ["after-kernel-removal", "after-release"] {
        let sandbox = rig.sandbox(&format!("lost-{point}"), NETWORK);
        call(&rig, "ADD", &sandbox).ips();
        rig.restart(&[("MARGAY_FAULT", point)]);
        assert!(call(&rig, "DEL", &sandbox).ips().is_empty());
        rig.ensure_died(point);
        fs::remove_dir_all(rig.agent.journal()).unwrap();
        // As long as its interface stands, an endpoint counts as in use; without an endpoint the interface goes, though
        // the container stays.
        let stays = (point == "after-release").then_some(sandbox);
        rig.restart(&[]);
        ensure_exact(&rig, &[&other]);
        drop(stays);
    }
}

/// Interfaces, namespaces and rules are gone; etcd and the journal are not. The runtime got as far as one of two DELs.
#[test]
fn a_host_that_starts_anew_gives_back_what_ran_on_it() {
    let mut rig = Rig::with_etcd(POOLS);
    let with_port = rig.sandbox("with-port", NETWORK);
    call(&rig, "ADD", &with_port).ips();
    let others = ["known", "forgotten"].map(|id| rig.attach(id, NETWORK));
    rig.agent.kill().unwrap();
    assert!(rig.cni("DEL", &others[0]).ips().is_empty());
    drop(others);
    drop(with_port);
    let host = &rig.host().netns;
    eventually(SOON, "the kernel has removed the interfaces", || {
        let left = rig.interfaces()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .unwrap();
    drop(host.exec("nft flush ruleset"));
    rig.restart(&[]);
    ensure_exact(&rig, &[]);
    // The runtime starts its containers again, under new names; one has the port.
    let mut again = rig.sandbox("again", NETWORK);
    again.ips = call(&rig, "ADD", &again).ips();
    rig.ensure_exact(&[&again]);
}

/// Starts a call, kills the plugin when the agent is at `point`, and lets the agent go on.
fn kill_the_plugin(rig: &mut Rig, verb: &str, sandbox: &Sandbox, point: &str) {
    rig.restart(&[("MARGAY_FAULT", &format!("{point}:stop"))]);
    let mut plugin = start(rig, verb, sandbox);
    let pid = rig.agent.process().unwrap().pid();
    eventually(SOON, "the agent stands still", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, state) = stat.rsplit_once(") ").context("no state")?;
        ensure!(state.starts_with('T'), "{point}: {state}");
        Ok(())
    })
    .unwrap();
    plugin.kill().unwrap();
    plugin.wait().unwrap();
    let agent = rig.agent.process().unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
}

fn start(rig: &Rig, verb: &str, sandbox: &Sandbox) -> Child {
    let mut command = rig.host().netns.command(binary("margay-cni").unwrap());
    let mut child = command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &sandbox.id)
        .env("CNI_NETNS", sandbox.netns.path())
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    serde_json::to_writer(stdin, &config(rig)).unwrap();
    child
}

#[test]
fn a_plugin_killed_at_any_step_of_add_leaves_nothing() {
    let mut rig = Rig::with_etcd(POOLS);
    let other = rig.attach("other", NETWORK);
    for (n, point) in IN_ADD.into_iter().enumerate() {
        let sandbox = rig.sandbox(&format!("alone-{point}"), NETWORK);
        kill_the_plugin(&mut rig, "ADD", &sandbox, point);
        match n % 2 {
            0 => assert!(call(&rig, "DEL", &sandbox).ips().is_empty()),
            // The runtime was killed as well, and its container with it.
            _ => {
                eventually(SOON, "the agent is done", || {
                    let endpoints = rig.list("/calico/resources/v3/")?;
                    let id = &sandbox.id;
                    ensure!(endpoints.values().any(|e| e.contains(id)), "no endpoint");
                    Ok(())
                })
                .unwrap();
                drop(sandbox);
            }
        }
        ensure_exact(&rig, &[&other]);
    }
}

#[test]
fn a_plugin_killed_at_any_step_of_del_leaves_nothing() {
    let mut rig = Rig::with_etcd(POOLS);
    let other = rig.attach("other", NETWORK);
    for point in IN_DEL {
        let sandbox = rig.sandbox(&format!("alone-{point}"), NETWORK);
        call(&rig, "ADD", &sandbox).ips();
        kill_the_plugin(&mut rig, "DEL", &sandbox, point);
        // Half of the runtimes repeat it.
        if point.starts_with("after") {
            assert!(call(&rig, "DEL", &sandbox).ips().is_empty());
        }
        ensure_exact(&rig, &[&other]);
    }
}

/// strace kills the plugin where it enters a system call.
#[test]
fn a_plugin_killed_over_the_journal_is_made_up_for_by_the_next() {
    let mut rig = Rig::with_etcd(POOLS);
    let other = rig.attach("other", NETWORK);
    for (n, step) in [
        "connect",
        "mkdir",
        "write",
        "fsync",
        "rename",
        "fsync:when=2",
    ]
    .into_iter()
    .enumerate()
    {
        let sandbox = rig.sandbox(&format!("half-{n}"), NETWORK);
        call(&rig, "ADD", &sandbox).ips();
        rig.agent.kill().unwrap();
        let (call_name, when) = step.split_once(':').unwrap_or((step, "when=1"));
        let mut command = rig.host().netns.command("strace");
        let mut killed = command
            .args(["-qq", "-o", "/dev/null", "-e"])
            .arg(format!("inject={call_name}:signal=SIGKILL:{when}"))
            .arg(binary("margay-cni").unwrap())
            .env("CNI_COMMAND", "DEL")
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", sandbox.netns.path())
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // One that dies first closes the pipe.
        drop(serde_json::to_writer(
            killed.stdin.take().unwrap(),
            &config(&rig),
        ));
        let status = killed.wait().unwrap();
        assert!(!status.success(), "{step}: the plugin was not killed");
        assert!(call(&rig, "DEL", &sandbox).ips().is_empty());
        rig.restart(&[]);
        ensure_exact(&rig, &[&other]);
    }
}

/// A step that nobody is killed at is a step that nobody has tried.
#[test]
fn every_fault_point_of_the_agent_is_in_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut agent, mut tests) = (String::new(), String::new());
    read_below(&root.join("agent/src"), &mut agent);
    read_below(&root.join("tests/tests"), &mut tests);
    let points = agent.split("fault::point(\"").skip(1);
    let points: BTreeSet<&str> = points.filter_map(|rest| rest.split('"').next()).collect();
    assert!(points.len() > 20, "{points:?}");
    let untried = points
        .iter()
        .filter(|point| !tests.contains(&format!("\"{point}\"")));
    assert_eq!(untried.collect::<Vec<_>>(), Vec::<&&str>::new());
}

fn read_below(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => read_below(&path, text),
            false => text.push_str(&fs::read_to_string(&path).unwrap()),
        }
    }
}
