//! What real packets did to the policies of an endpoint, as `policy show` tells it.

use anyhow::{Result, ensure};
use margay_lab::{eventually, ping_once};
use serde_json::{Value, json};

use crate::flow::Flow;
use crate::rig::{NETWORK, POOLS, Rig, SOON};

const POLICIES: &str = "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: counted, namespace: default}
spec:
  selector: all()
  order: 2
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: UDP, destination: {ports: [7001]}}
  - {action: Deny, protocol: UDP, destination: {ports: [7002]}}
  - {action: Allow, protocol: ICMP}
  - {action: Allow, protocol: ICMPv6}
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: considered, namespace: default}
spec:
  selector: all()
  order: 1
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: ICMP}
  - {action: Deny, protocol: UDP, destination: {ports: [7002]}}
";

/// Each rule of a policy in a tier: the places in the resource, and packets.
fn rules(shown: &Value, policy: &str) -> Vec<(Value, Option<u64>)> {
    let policies = shown["ingress"]["tiers"][0]["policies"].as_array();
    let mut policies = policies.into_iter().flatten();
    let found = policies.find(|p| {
        p["policy"]
            .as_str()
            .is_some_and(|name| name.ends_with(policy))
    });
    let rules = found.and_then(|policy| policy["rules"].as_array());
    let counted = |rule: &Value| (rule["rules"].clone(), rule["packets"].as_u64());
    rules.into_iter().flatten().map(counted).collect()
}

#[test]
fn each_rule_shows_the_packets_that_opened_connections() {
    let rig = Rig::embedded(&[POOLS, POLICIES].join("---\n"));
    let (from, to) = (rig.attach("a", NETWORK), rig.attach("b", NETWORK));
    let show = || -> Result<Value> {
        let shown = rig.ctl().run(&format!("policy show {} -o json", to.v4()))?;
        Ok(serde_json::from_str(&shown)?)
    };
    eventually(SOON, "counters of rules in force", || {
        let found = rules(&show()?, "/counted");
        ensure!(found.len() == 3, "{found:?}");
        ensure!(
            found.iter().all(|(_, packets)| *packets == Some(0)),
            "{found:?}"
        );
        Ok(())
    })
    .unwrap();
    for ip in [to.v4(), to.v4(), to.v4(), to.v6(), to.v6()] {
        ping_once(&from.netns, ip, SOON).unwrap();
    }
    let denied = Flow::start(&from.netns, &to.netns, to.v4(), 7002);
    eventually(SOON, "datagrams on their way", || {
        ensure!(denied.count().sent > 3);
        Ok(())
    })
    .unwrap();
    let denied = denied.stop();
    assert_eq!(denied.arrived, 0);
    let shown = show().unwrap();
    let found = rules(&shown, "/counted")[0].1.unwrap();
    assert!(0 < found && found <= denied.sent, "{found} of {denied:?}");
    let expected = [
        // Nobody sent to 7001: what the joined rules matched is what the second did.
        (json!([0, 1]), Some(found)),
        (json!([2]), Some(3)),
        (json!([3]), Some(2)),
    ];
    assert_eq!(rules(&shown, "/counted"), expected);
    let staged = [(json!([0]), Some(3)), (json!([1]), Some(found))];
    assert_eq!(
        rules(&shown, "/considered"),
        staged,
        "counted, and not enforced"
    );
    let text = rig.ctl().run(&format!("policy show {}", to.v4())).unwrap();
    assert!(
        text.contains("rule 2: Allow IPv4 ICMP: 3 packets, "),
        "{text}"
    );
}
