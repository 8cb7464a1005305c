//! What a host left under a name that it no longer has, with the store in a file: its agent, the only one
//! there is, clears up after the old name once that Node is deleted.

use std::fs;

use anyhow::ensure;
use margay_lab::eventually;

use crate::rig::{NETWORK, POOLS, Rig, SOON};

#[test]
fn an_agent_without_others_clears_up_after_a_node_that_is_gone() {
    let mut rig = Rig::embedded(POOLS);
    let old = rig.attach("old", NETWORK);
    rig.agent.kill().unwrap();
    // The host was made anew: its containers are gone.
    drop(old);
    let file = rig.agent.config_file();
    let config = fs::read_to_string(&file).unwrap();
    let name = rig.host().name.clone();
    let renamed = config.replace(&format!("node_name: {name}\n"), "node_name: other\n");
    assert_ne!(renamed, config);
    fs::write(&file, renamed + "leak_grace_secs: 0\n").unwrap();
    rig.restart(&[]);
    let new = rig.attach("new", NETWORK);
    let endpoints =
        |rig: &Rig| rig.list("/calico/resources/v3/projectcalico.org/workloadendpoints/");
    assert_eq!(endpoints(&rig).unwrap().len(), 2);

    rig.ctl().run(&format!("delete node {name}")).unwrap();
    eventually(SOON, "the old name is cleared", || {
        let left = rig.list(&format!("/calico/ipam/v2/host/{name}/"))?;
        ensure!(left.is_empty(), "{left:?}");
        let left = endpoints(&rig)?;
        ensure!(left.len() == 1, "{left:?}");
        Ok(())
    })
    .unwrap();
    rig.ensure_exact(&[&new]);
}
