//! The agent dies at each step of ADD and DEL.
//!
//! 1. The runtime's DEL after the failed ADD leaves nothing.
//! 2. Without a DEL, but with the container gone, the agent's own look leaves nothing.
//! 3. A DEL that was cut off succeeds all the same, and the next agent finishes it.
//! 4. Another container keeps everything throughout.

use crate::rig::{NETWORK, POOLS, Rig};

const IN_ADD: [&str; 5] = [
    "after-link",
    "after-txn",
    "after-txn-and-link",
    "after-policy",
    "before-answer",
];

const IN_DEL: [&str; 4] = [
    "before-kernel-removal",
    "after-policy",
    "after-kernel-removal",
    "after-release",
];

fn add_then_del(rig: &mut Rig) {
    let other = rig.attach("other", NETWORK);
    for point in IN_ADD {
        let id = format!("cut-{point}");
        let sandbox = rig.sandbox(&id, NETWORK);
        rig.restart(&[("MARGAY_FAULT", point)]);
        rig.cni("ADD", &sandbox)
            .refused(11, "the agent does not answer");
        rig.ensure_died(point);
        rig.restart(&[]);
        assert!(rig.cni("DEL", &sandbox).ips().is_empty());
        rig.ensure_exact(&[&other]);
    }
    for point in IN_DEL {
        let id = format!("del-{point}");
        let sandbox = rig.attach(&id, NETWORK);
        rig.restart(&[("MARGAY_FAULT", point)]);
        assert!(rig.cni("DEL", &sandbox).ips().is_empty());
        rig.ensure_died(point);
        assert_eq!(rig.journalled(), 1);
        rig.restart(&[]);
        rig.ensure_exact(&[&other]);
    }
}

#[test]
fn del_after_a_cut_off_add_and_replay_of_a_cut_off_del_leave_nothing_in_etcd() {
    add_then_del(&mut Rig::with_etcd(POOLS));
}

#[test]
fn del_after_a_cut_off_add_and_replay_of_a_cut_off_del_leave_nothing_in_a_file() {
    add_then_del(&mut Rig::embedded(POOLS));
}

#[test]
fn without_a_del_the_agents_own_look_leaves_nothing() {
    let mut rig = Rig::embedded(POOLS);
    let other = rig.attach("other", NETWORK);
    for point in ["after-link", "after-txn-and-link", "before-answer"] {
        let sandbox = rig.sandbox(&format!("cut-{point}"), NETWORK);
        rig.restart(&[("MARGAY_FAULT", point)]);
        rig.cni("ADD", &sandbox)
            .refused(11, "the agent does not answer");
        rig.ensure_died(point);
        drop(sandbox);
        rig.restart(&[]);
        rig.ensure_exact(&[&other]);
    }
    for point in ["after-kernel-removal", "after-release"] {
        let sandbox = rig.attach(&format!("del-{point}"), NETWORK);
        rig.restart(&[("MARGAY_FAULT", point)]);
        assert!(rig.cni("DEL", &sandbox).ips().is_empty());
        rig.ensure_died(point);
        std::fs::remove_dir_all(rig.agent.journal()).unwrap();
        if point == "after-kernel-removal" {
            // As long as its interface stands, an endpoint counts as in use.
            drop(sandbox);
            rig.restart(&[]);
            rig.ensure_exact(&[&other]);
        } else {
            // Only the interface is left: it goes though the container stays.
            rig.restart(&[]);
            rig.ensure_exact(&[&other]);
        }
    }
}
