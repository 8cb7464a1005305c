//! Pools that are full, disabled, removed, overlapping, or whose record is damaged.

use margay_lab::eventually;

use crate::rig::{NETWORK, POOLS, Rig, SOON};

/// One block of four addresses; a released address rests for a second.
const TINY: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: v4\n\
    spec:\n  cidr: 10.65.0.0/30\n  blockSize: 30\n  nodeSelector: all()\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata:\n  name: default\n\
    spec:\n  ipCooldownSeconds: 1\n  strictAffinity: false\n  autoAllocateBlocks: true\n";

#[test]
fn a_full_pool_refuses_and_serves_again_after_a_release() {
    let rig = Rig::with_etcd(TINY);
    let mut config = rig.config(NETWORK);
    config["ipam"]["assign_ipv6"] = "false".into();
    let mut all: Vec<_> = (0..5)
        .map(|n| rig.sandbox(&format!("c{n}"), NETWORK))
        .collect();
    let call = |verb: &str, n: usize, all: &[crate::rig::Sandbox]| {
        let netns = all[n].netns.path();
        rig.plugin(verb, &all[n].id, netns.to_str(), &config)
    };
    for n in 0..4 {
        all[n].ips = call("ADD", n, &all).ips();
        assert_eq!(all[n].ips.len(), 1);
    }
    let (full, late) = all.split_at(4);
    call("ADD", 4, &all).refused(101, "v4");
    rig.ensure_exact(&full.iter().collect::<Vec<_>>());
    assert!(call("DEL", 2, &all).ips().is_empty());
    assert!(late[0].ips.is_empty());
    let ips = eventually(SOON, "the address has rested", || {
        let answer = call("ADD", 4, &all);
        if answer.exit == 0 {
            Ok(answer.ips())
        } else {
            Err(answer.text)
        }
    });
    assert_eq!(ips.unwrap(), all[2].ips);
}

#[test]
fn a_pool_that_is_disabled_or_removed_under_use_keeps_what_it_gave() {
    let rig = Rig::embedded(POOLS);
    let (a, b) = (rig.attach("a", NETWORK), rig.attach("b", NETWORK));
    let late = rig.sandbox("late", NETWORK);
    let patched = POOLS.replace(
        "nodeSelector: all()",
        "nodeSelector: all()\n  disabled: true",
    );
    rig.ctl().apply(&patched).unwrap();
    eventually(SOON, "no ADD from a disabled pool", || {
        let answer = rig.cni("ADD", &late);
        if answer.exit == 0 {
            rig.cni("DEL", &late);
            return Err("still served");
        }
        answer.refused(101, "pool");
        Ok(())
    })
    .unwrap();
    rig.ensure_exact(&[&a, &b]);
    assert!(rig.cni("DEL", &a).ips().is_empty());
    rig.ensure_exact(&[&b]);
    // Behind the back of a command line that would refuse it.
    for pool in ["v4", "v6"] {
        rig.delete(&format!(
            "/calico/resources/v3/projectcalico.org/ippools/{pool}"
        ));
    }
    eventually(SOON, "no pool", || match rig.cni("ADD", &late).text {
        text if text.contains("no IPPool") || text.contains("pool") => Ok(()),
        text => Err(text),
    })
    .unwrap();
    rig.ensure_exact(&[&b]);
    margay_lab::ping(&rig.host().netns, b.v4(), SOON).unwrap();
    assert!(rig.cni("DEL", &b).ips().is_empty());
    rig.ensure_exact(&[]);
}

#[test]
fn overlapping_pools_never_give_an_address_twice() {
    let rig = Rig::with_etcd(POOLS);
    let mut all = vec![rig.attach("a", NETWORK)];
    let pool = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"over"},"spec":{"cidr":"10.65.0.0/26","blockSize":29,"nodeSelector":"all()"}}"#;
    rig.put("/calico/resources/v3/projectcalico.org/ippools/over", pool);
    for n in 0..12 {
        all.push(rig.attach(&format!("c{n}"), NETWORK));
    }
    let mut ips: Vec<_> = all.iter().flat_map(|s| s.ips.clone()).collect();
    let count = ips.len();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), count);
    rig.ensure_exact(&all.iter().collect::<Vec<_>>());
}

#[test]
fn a_damaged_block_is_set_aside_and_told() {
    let mut rig = Rig::with_etcd(POOLS);
    let a = rig.attach("a", NETWORK);
    let blocks = rig.list("/calico/ipam/v2/assignment/ipv4/").unwrap();
    let (key, sound) = blocks.into_iter().next().unwrap();
    rig.put(&key, "{\"cidr\": 7");
    let b = rig.attach("b", NETWORK);
    assert_ne!(b.v4(), a.v4());
    assert!(rig.cni("DEL", &a).ips().is_empty());
    rig.restart(&[]);
    let c = rig.attach("c", NETWORK);
    assert!(rig.cni("DEL", &c).ips().is_empty());
    assert!(rig.log().contains(&key), "{}", rig.log());
    // The operator repairs it: what is on record for a container that is gone is still on record.
    rig.put(&key, &sound);
    assert!(rig.cni("DEL", &a).ips().is_empty());
    rig.ensure_exact(&[&b]);
}

#[test]
fn an_address_that_somebody_else_took_meanwhile_does_not_stay_on_the_container() {
    let rig = Rig::with_etcd(POOLS);
    let a = rig.attach("a", NETWORK);
    let blocks = rig.list("/calico/ipam/v2/assignment/ipv4/").unwrap();
    let (key, value) = blocks.into_iter().next().unwrap();
    // The agent does not hear of it: its next transaction fails, after the container was set up as planned.
    let mut block: serde_json::Value = serde_json::from_str(&value).unwrap();
    let next = block["unallocated"].as_array_mut().unwrap().remove(0);
    let attributes = block["attributes"].as_array_mut().unwrap();
    attributes.push(serde_json::json!({ "handle_id": "other", "secondary": {} }));
    let other = attributes.len() - 1;
    block["allocations"][next.as_u64().unwrap() as usize] = other.into();
    rig.put(&key, &block.to_string());

    let b = rig.attach("b", NETWORK);
    let inside = b.netns.ip("-4 -o addr show dev eth0").unwrap();
    let held: Vec<_> = inside
        .split_whitespace()
        .filter(|w| w.ends_with("/32"))
        .collect();
    assert_eq!(held, [format!("{}/32", b.v4())], "{inside}");
    // 10.65.0.16/28: the last octet of the block, and the ordinal in it.
    let base = block["cidr"].as_str().unwrap().trim_end_matches("/28");
    let last: u64 = base.rsplit('.').next().unwrap().parse().unwrap();
    let taken = format!("10.65.0.{}", last + next.as_u64().unwrap());
    assert_ne!(b.v4().to_string(), taken);
    margay_lab::ping(&rig.host().netns, b.v4(), SOON).unwrap();
    margay_lab::ping(&rig.host().netns, a.v4(), SOON).unwrap();
}
