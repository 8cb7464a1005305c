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
