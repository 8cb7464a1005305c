//! `policy explain` for hosts that have endpoints of their own.

use super::*;

/// n1 guards eth0: SSH is a failsafe, the web is allowed, forwarding is for DNS alone.
const GUARDED: &str = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1}
spec: {bgp: {ipv4Address: 192.0.2.11/24}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n2}
spec: {bgp: {ipv4Address: 192.0.2.12/24}}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1-eth0, labels: {role: edge}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.11]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-web-eth0, namespace: prod, labels: {app: web}}
spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, interfaceName: mgy1,
       ipNetworks: [10.0.0.1/32], profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'edge'
  types: [Ingress, Egress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: forward}
spec:
  selector: role == 'edge'
  applyOnForward: true
  order: 1
  types: [Ingress, Egress]
  ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec:
  selector: role == 'edge'
  preDNAT: true
  applyOnForward: true
  ingress: [{action: Deny, source: {nets: [203.0.113.0/24]}}]
";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.apply(GUARDED);
    lab
}

/// The last line: the verdict and who decided.
fn verdict(lab: &Lab, flags: &str) -> String {
    let ran = lab.run(&format!("policy explain {flags}"));
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out.lines().last().unwrap().to_owned()
}

#[test]
fn a_hosts_own_traffic_is_asked_of_its_endpoint_and_failsafes_come_first() {
    let lab = lab();
    let from_outside =
        |port: u16| verdict(&lab, &format!("--from 198.51.100.9 --to n1 --port {port}"));
    assert_eq!(
        from_outside(22),
        "Verdict: allow, decided on ingress by it is a failsafe port of host n1"
    );
    assert!(
        from_outside(80).ends_with("rule 0 of GlobalNetworkPolicy/web in tier default (Allow)")
    );
    let default = "the default action of tier default (Deny): no rule of its policies matches";
    assert_eq!(
        from_outside(443),
        format!("Verdict: deny, decided on ingress by {default}")
    );
    assert_eq!(
        verdict(&lab, "--from n2 --to n1 --port 443"),
        format!("Verdict: deny, decided on ingress by {default}")
    );
    assert_eq!(
        verdict(&lab, "--from n1 --to n2 --port 443"),
        format!("Verdict: deny, decided on egress by {default}")
    );
    assert_eq!(
        verdict(&lab, "--from n1 --to n2 --port 179"),
        "Verdict: allow, decided on ingress by host n2 has no host endpoint there"
    );
    assert_eq!(
        verdict(&lab, "--from n1 --to prod/web --port 443"),
        "Verdict: allow, decided on ingress by traffic from the endpoint's own host is always allowed"
    );
}

#[test]
fn forwarded_traffic_is_asked_of_the_host_before_its_endpoint() {
    let lab = lab();
    let ran = lab.run("policy explain --from 198.51.100.9 --to web --protocol udp --port 53");
    assert!(
        ran.out.contains(
            "Forwarding of HostEndpoint/n1-eth0 on n1: allow\n  tier default\n    \
             GlobalNetworkPolicy/early\n"
        ),
        "{ran:?}"
    );
    assert!(
        ran.out
            .contains("Ingress of WorkloadEndpoint/prod/n1-k8s-web-eth0")
    );
    let ran = lab.run("policy explain --from 198.51.100.9 --to web --port 80");
    assert!(
        ran.out
            .contains("Ingress: not reached\nVerdict: deny, decided on ingress by the default")
    );
    assert!(
        verdict(&lab, "--from web --to 198.51.100.9 --port 80")
            .starts_with("Verdict: deny, decided on egress by the default action of tier default")
    );
    let early = verdict(&lab, "--from 203.0.113.5 --to web --protocol udp --port 53");
    assert_eq!(
        early,
        "Verdict: deny, decided on ingress by rule 0 of GlobalNetworkPolicy/early in tier default (Deny)"
    );
}
