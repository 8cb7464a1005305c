//! etcd stops answering or dies, and comes back.
//!
//! 1. What is programmed stays: forwarding and policy go on.
//! 2. ADD says "try again later" in bounded time and leaves nothing; DEL succeeds.
//! 3. What was changed meanwhile arrives, also when the history is compacted.

use std::time::{Duration, Instant};

use margay_lab::{Deadline, Etcd, eventually};
use nix::sys::signal::Signal;

use crate::flow::Flow;
use crate::rig::{NETWORK, POOLS, Rig, SOON};

/// The agents of these tests give a request to etcd two seconds; an ADD that meets the loss in its
/// second attempt takes twice as long, and the machine is busy.
const BOUNDED: Deadline = Duration::from_secs(30);

/// A watch notices a peer that is silent after 15 s (the client pings every 10 s and waits for 5 s).
const NOTICED: Deadline = Duration::from_secs(60);

fn etcd(rig: &mut Rig) -> &mut Etcd {
    rig.etcd.as_mut().unwrap()
}

/// ADD fails, DEL succeeds, packets flow, and nothing is left in the kernel of what was deleted.
fn without_etcd(rig: &mut Rig, take_away: fn(&mut Etcd)) -> [crate::rig::Sandbox; 2] {
    let [a, b] = ["a", "b"].map(|id| rig.attach(id, NETWORK));
    let doomed = rig.attach("doomed", NETWORK);
    let late = rig.sandbox("late", NETWORK);
    let flow = Flow::start(&a.netns, &b.netns, b.v4(), 7000);
    take_away(etcd(rig));
    let begun = Instant::now();
    rig.cni("ADD", &late).refused(11, "");
    assert!(begun.elapsed() < BOUNDED, "ADD took {:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(rig.cni("DEL", &doomed).ips().is_empty());
    assert!(begun.elapsed() < BOUNDED, "DEL took {:?}", begun.elapsed());
    // The runtime cleans up after the failed ADD.
    assert!(rig.cni("DEL", &late).ips().is_empty());
    assert_eq!(rig.journalled(), 2);
    eventually(SOON, "interfaces", || {
        let interfaces = rig.interfaces().unwrap();
        if interfaces.len() == 2 {
            Ok(())
        } else {
            Err(format!("{interfaces:?}"))
        }
    })
    .unwrap();
    // A dead etcd is noticed at once: there may have been little traffic yet.
    let enough = || (flow.count().sent > 50).then_some(()).ok_or("too little");
    eventually(SOON, "traffic", enough).unwrap();
    let count = flow.stop();
    assert_eq!(count.arrived, count.sent);
    [a, b]
}

#[test]
fn etcd_dies_and_comes_back_compacted() {
    let mut rig = Rig::impatient(POOLS);
    let [a, b] = without_etcd(&mut rig, |etcd| etcd.kill().unwrap());
    etcd(&mut rig).restart().unwrap();
    // The change is made and its history thrown away before the agent is back.
    let deny = "{\"kind\":\"GlobalNetworkPolicy\",\"apiVersion\":\"projectcalico.org/v3\",\
        \"metadata\":{\"name\":\"default.deny\"},\"spec\":{\"tier\":\"default\",\
        \"selector\":\"all()\",\"types\":[\"Ingress\"]}}";
    let key = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/default.deny";
    let etcd = etcd(&mut rig);
    for round in 0..50 {
        etcd.ctl(&["put", "/calico/noise", &round.to_string()])
            .unwrap();
    }
    etcd.ctl(&["put", key, deny]).unwrap();
    let status = etcd
        .ctl(&["endpoint", "status", "--write-out=json"])
        .unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    etcd.ctl(&["compact", &revision]).unwrap();
    eventually(NOTICED, "journalled DELs are done", || {
        crate::exact::ensure(&rig, &[&a, &b])
    })
    .unwrap();
    let flow = Flow::start(&a.netns, &b.netns, b.v4(), 7001);
    eventually(NOTICED, "the policy arrives", || {
        if flow.flows() {
            Err("still flows")
        } else {
            Ok(())
        }
    })
    .unwrap();
    rig.delete(key);
    let open = || {
        if flow.flows() {
            Ok(())
        } else {
            Err("still closed")
        }
    };
    eventually(SOON, "the policy goes", open).unwrap();
    rig.attach("late", NETWORK);
}

#[test]
fn etcd_is_silent_for_a_while() {
    let mut rig = Rig::impatient(POOLS);
    let silence = |etcd: &mut Etcd| etcd.process().unwrap().signal(Signal::SIGSTOP).unwrap();
    let [a, b] = without_etcd(&mut rig, silence);
    let process = etcd(&mut rig).process().unwrap();
    process.signal(Signal::SIGCONT).unwrap();
    let exact = || crate::exact::ensure(&rig, &[&a, &b]);
    eventually(NOTICED, "journalled DELs are done", exact).unwrap();
    let c = rig.attach("c", NETWORK);
    rig.ensure_exact(&[&a, &b, &c]);
}

#[test]
fn an_agent_that_starts_without_etcd_waits_and_keeps_what_is_programmed() {
    let mut rig = Rig::impatient(POOLS);
    let [a, b, doomed] = ["a", "b", "doomed"].map(|id| rig.attach(id, NETWORK));
    let flow = Flow::start(&a.netns, &b.netns, b.v6(), 7000);
    etcd(&mut rig).kill().unwrap();
    rig.agent.kill().unwrap();
    rig.agent.restart().unwrap();
    let begun = Instant::now();
    let late = rig.sandbox("late", NETWORK);
    rig.cni("ADD", &late).refused(11, "waits for the datastore");
    assert!(rig.cni("DEL", &doomed).ips().is_empty());
    assert!(begun.elapsed() < BOUNDED, "took {:?}", begun.elapsed());
    assert_eq!(rig.journalled(), 1);
    etcd(&mut rig).restart().unwrap();
    eventually(NOTICED, "the agent is ready", || rig.agent.ensure_ready()).unwrap();
    rig.ensure_exact(&[&a, &b]);
    rig.attach("later", NETWORK);
    let count = flow.stop();
    assert!(count.sent > 20 && count.arrived == count.sent, "{count:?}");
}
