//! `get`: tables, namespaces, and output that `apply` takes back.

use super::*;

#[test]
fn get_prints_tables() {
    let lab = Lab::new();
    lab.apply(POOL);
    lab.apply(&POOL.replace("main", "a").replace("10.65", "10.66"));
    assert_eq!(
        lab.run("get POOLS"),
        ok("NAME   CIDR           SELECTOR\n\
            a      10.66.0.0/16   all()\n\
            main   10.65.0.0/16   all()\n")
    );
    assert_eq!(
        lab.run("get ippool main -o wide"),
        ok(
            "NAME   CIDR           NAT    IPIPMODE   VXLANMODE   DISABLED   DISABLEBGPEXPORT   \
            SELECTOR   ASSIGNMENTMODE\n\
            main   10.65.0.0/16   true   Never      Never       false      false              \
            all()      Automatic\n"
        )
    );
    assert_eq!(lab.run("get ipp -o name"), ok("ippool/a\nippool/main\n"));
    assert_eq!(lab.run("get bgppeers"), ok("NAME   PEERIP   NODE   ASN\n"));
}

#[test]
fn get_knows_namespaces() {
    let lab = Lab::new();
    lab.apply(POLICY);
    assert_eq!(lab.run_with("apply -n prod -f -", POLICY).code, 0);
    assert_eq!(
        lab.run("get np"),
        ok("NAME        TIER\nallow-dns   default\n")
    );
    assert_eq!(
        lab.run("get networkPolicy -A -o wide"),
        ok("NAMESPACE   NAME        TIER      ORDER   SELECTOR\n\
            default     allow-dns   default   10      app == 'web'\n\
            prod        allow-dns   default   10      app == 'web'\n")
    );
    assert_eq!(
        lab.run("get np allow-dns missing -n prod"),
        failed(
            "NAME        TIER\nallow-dns   default\n",
            "NetworkPolicy/prod/missing: does not exist\n"
        )
    );
}

#[test]
fn get_prints_yaml_and_json_that_apply_takes_back() {
    let lab = Lab::new();
    lab.apply(POOL);
    let yaml = lab.run("get pool main -o yaml");
    assert_eq!(
        yaml,
        ok("\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  creationTimestamp: \"2026-11-21T05:02:52Z\"
  name: main
  resourceVersion: \"1\"
  uid: \"6b6e5e6b-98df-4f9a-9dc9-a8cf7806cb8c\"
spec:
  allowedUses:
  - Workload
  - Tunnel
  assignmentMode: Automatic
  blockSize: 26
  cidr: 10.65.0.0/16
  ipipMode: Never
  natOutgoing: true
  nodeSelector: all()
  vxlanMode: Never
")
    );
    assert_eq!(
        lab.run_with("apply -f -", &yaml.out),
        ok("IPPool/main: unchanged\n")
    );
    let json = lab.run("get pools -o json");
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["kind"], "IPPoolList");
    assert_eq!(value["metadata"]["resourceVersion"], "1");
    assert_eq!(
        lab.run_with("apply -f -", &json.out),
        ok("IPPool/main: unchanged\n")
    );
}

#[test]
fn tiers_are_shown_in_their_own_order() {
    let lab = Lab::new();
    for (name, order) in [("a", "300"), ("b", "2.5"), ("c", "100")] {
        lab.apply(&format!(
            "{{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {{name: {name}}}, spec: \
             {{order: {order}}}}}"
        ));
    }
    assert_eq!(
        lab.run("get tiers"),
        ok("NAME   ORDER\nb      2.5\nc      100\na      300\n")
    );
}

#[test]
fn nodes_show_the_cluster_s_as_in_brackets() {
    let lab = Lab::new();
    lab.apply(
        "
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 63400}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1}
spec: {bgp: {ipv4Address: 192.0.2.1/24}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n2}
spec: {bgp: {asNumber: '1.1', ipv6Address: '2001:db8::2/64'}}
",
    );
    let table = "NAME   ASN       IPV4           IPV6\n\
                 n1     (63400)   192.0.2.1/24\n\
                 n2     65537                    2001:db8::2/64\n";
    assert_eq!(lab.run("get nodes -o wide"), ok(table));
    assert_eq!(lab.run("node list"), ok(table));
}
