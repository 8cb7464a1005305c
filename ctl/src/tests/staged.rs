//! Staged policies, as a user sees them.

use super::*;

const CLUSTER: &str = "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-web-eth0, namespace: prod, labels: {app: web}}
spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, interfaceName: mgy1,
       ipNetworks: [10.0.0.1/32], profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: web, namespace: prod}
spec:
  selector: app == 'web'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]
";

#[test]
fn explain_tells_what_a_staged_policy_would_say_and_what_would_hold() {
    let lab = Lab::new();
    lab.apply(CLUSTER);
    let ran = lab.run("policy explain --from 192.0.2.1 --to web --port 443");
    assert_eq!(
        ran,
        ok("\
TCP 192.0.2.1:49152 -> 10.0.0.1:443
Egress: allow: the sender is not an endpoint of the cluster
Ingress of WorkloadEndpoint/prod/n1-k8s-web-eth0 on n1: allow
  tier default
    StagedNetworkPolicy/prod/web
      staged, not enforced: rule 0: Allow TCP to port 443: would Allow
  profiles
    Profile/projectcalico-default-allow
      rule 0: Allow: MATCHES
Verdict: allow, decided on ingress by rule 0 of profile projectcalico-default-allow (Allow)
")
    );
    let ran = lab.run("policy explain --from 192.0.2.1 --to web --port 80 --staged");
    let last: Vec<&str> = ran.out.lines().rev().take(2).collect();
    assert_eq!(
        last,
        [
            "Now: allow, decided on ingress by rule 0 of profile projectcalico-default-allow (Allow)",
            "Verdict: deny, decided on ingress by the default action of tier default (Deny): \
             no rule of its policies matches",
        ]
    );
    let ran = lab.run("policy explain --from 192.0.2.1 --to web --port 80 --staged -o json");
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let decision = &value["decisions"][0];
    assert_eq!(decision["verdict"], "deny");
    assert_eq!(decision["now"]["verdict"], "allow");
}

#[test]
fn a_test_file_can_be_held_against_what_is_staged() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("cluster.yaml", CLUSTER);
    write(
        "cases.yaml",
        "manifests: [cluster.yaml]\ntests: [{from: 192.0.2.1, to: web, port: 80, expect: deny}]\n",
    );
    let lab = Lab::new();
    let cases = dir.path().join("cases.yaml");
    let run = |flags: &str| lab.run(&format!("policy test -f {} {flags}", cases.display()));
    assert_eq!(run("").code, 1);
    assert_eq!(run("--staged").code, 0);
}

#[test]
fn show_prints_what_rules_matched_on_the_host_of_the_endpoint() {
    use std::io::{Read, Write};

    use margay_api::status::NodeStatus;

    let lab = Lab::new();
    lab.apply(CLUSTER);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let agent = std::thread::spawn(move || {
        let counter = serde_json::json!({
            "resource": "StagedNetworkPolicy/prod/web", "ingress": true, "rule": 0,
            "packets": 7, "bytes": 420,
        });
        let counters = serde_json::json!({"node": "n1", "rules": [counter]});
        let status = |node: &str| {
            let status = NodeStatus {
                node: node.into(),
                ..NodeStatus::default()
            };
            serde_json::to_value(status).unwrap()
        };
        let expected = [
            ("{\"node_status\":{}}\n", status("n1")),
            ("{\"policy_counters\":{}}\n", counters),
            ("{\"node_status\":{}}\n", status("n2")),
        ];
        for (question, answer) in expected {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let length = stream.read(&mut request).unwrap();
            assert_eq!(&request[..length], question.as_bytes());
            let reply = serde_json::json!({"ok": answer});
            stream.write_all(format!("{reply}\n").as_bytes()).unwrap();
        }
    });
    let show = |flags: &str| {
        lab.run(&format!(
            "policy show web --socket {} {flags}",
            socket.display()
        ))
    };
    let own = show("");
    assert!(
        own.out.contains(
            "    StagedNetworkPolicy/prod/web (no order, staged)\n      \
             rule 0: Allow TCP to port 443: 7 packets, 420 bytes\n    else Pass\n"
        ),
        "{own:?}"
    );
    let other = show("-o json");
    agent.join().unwrap();
    let value: serde_json::Value = serde_json::from_str(&other.out).unwrap();
    let rule = &value["ingress"]["tiers"][0]["policies"][0]["rules"][0];
    assert_eq!(
        (&rule["rule"], &rule["packets"]),
        (&0.into(), &serde_json::Value::Null)
    );
}
