//! The agent reads its configuration again on SIGHUP, in the same process.
//!
//! 1. What is wrong in the file is told, and the agent goes on as it was.
//! 2. What is right is taken on; no packet is lost and nothing that is attached changes.

use std::fs;

use margay_lab::eventually;
use nix::sys::signal::Signal;

use crate::flow::Flow;
use crate::rig::{NETWORK, POOLS, Rig, SOON};

fn hang_up(rig: &mut Rig) {
    let process = rig.agent.process().unwrap();
    process.signal(Signal::SIGHUP).unwrap();
}

fn uptime(rig: &Rig) -> u64 {
    rig.agent.status().unwrap()["uptime_secs"].as_u64().unwrap()
}

#[test]
fn a_new_configuration_is_taken_on_and_a_bad_one_is_not() {
    let mut rig = Rig::embedded(POOLS);
    let [a, b] = ["a", "b"].map(|id| rig.attach(id, NETWORK));
    let flow = Flow::start(&a.netns, &b.netns, b.v4(), 7000);
    let file = rig.agent.config_file();
    let good = fs::read_to_string(&file).unwrap();
    let told = |rig: &Rig, what: &str| {
        let log = fs::read_to_string(rig.agent.log_file()).unwrap();
        let found = log.lines().any(|line| line.contains(what));
        found
            .then_some(())
            .ok_or_else(|| format!("no {what:?} in the log"))
    };

    fs::write(&file, format!("{good}no_such_setting: 1\n")).unwrap();
    eventually(SOON, "old enough to tell a restart by", || {
        (uptime(&rig) > 1).then_some(()).ok_or("too young")
    })
    .unwrap();
    hang_up(&mut rig);
    eventually(SOON, "a complaint", || told(&rig, "not reloaded")).unwrap();
    told(&rig, "no_such_setting").unwrap();
    assert!(uptime(&rig) > 1);

    let settings = "felix: {logPrefix: reloaded}\n";
    fs::write(&file, format!("{good}{settings}")).unwrap();
    hang_up(&mut rig);
    eventually(SOON, "the new settings", || {
        rig.agent.ensure_ready()?;
        let text = rig.agent.ctl().run("config show h1 -o json")?;
        anyhow::ensure!(text.contains("reloaded"), "{text}");
        Ok::<_, anyhow::Error>(())
    })
    .unwrap();
    rig.agent.process().unwrap().ensure_running().unwrap();
    rig.attach("c", NETWORK);
    let count = flow.stop();
    assert!(count.sent > 20 && count.arrived == count.sent, "{count:?}");
}
