//! Questions about a cluster of Kubernetes that is only written down.

use super::*;

/// As `kubectl get pods,namespaces -o yaml` prints it, and a policy.
const MANIFESTS: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: prod, labels: {env: prod}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: prod, labels: {app: web}}
  spec: {nodeName: n1, serviceAccountName: web, containers: [{name: c, image: web}]}
  status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: prod, labels: {app: db}}
  spec:
    nodeName: n2
    containers: [{name: c, image: db, ports: [{name: psql, containerPort: 5432}, {containerPort: 9}]}]
- apiVersion: v1
  kind: Pod
  metadata: {name: proxy, namespace: prod}
  spec: {nodeName: n2, hostNetwork: true}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: prod}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {env: prod}}, podSelector: {matchLabels: {app: web}}}]
    ports: [{port: psql}]
";

#[test]
fn pods_and_namespaces_of_a_folder_are_endpoints() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), MANIFESTS).unwrap();
    let verdict = |flags: &str| {
        let dir = folder.path().display();
        let ran = Lab::new().run(&format!("policy explain -f {dir} {flags}"));
        assert_eq!((ran.code, &*ran.err), (0, ""), "{ran:?}");
        ran.out.lines().last().unwrap().to_owned()
    };
    assert_eq!(
        verdict("--from web --to prod/db --port psql"),
        "Verdict: allow, decided on ingress by rule 0 of NetworkPolicy/prod/knp.default.db in tier default (Allow)"
    );
    assert!(verdict("--from prod/web --to db --port 80").starts_with("Verdict: deny"));
    assert!(verdict("--from 192.0.2.1 --to db --port psql").starts_with("Verdict: deny"));
    let unknown = Lab::new().run(&format!(
        "policy explain -f {} --from proxy --to db",
        folder.path().display()
    ));
    assert!(
        unknown.err.contains("\"proxy\", which nobody is called"),
        "{unknown:?}"
    );
}

#[test]
fn a_pod_that_cannot_be_read_is_named() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: here}}\n---\n\
                tests: [{from: 192.0.2.1, to: 192.0.2.2, expect: allow}]\n";
    let ran = Lab::new().run_with("policy test -f -", text);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("document 1: invalid IP address syntax"),
        "{ran:?}"
    );
}
