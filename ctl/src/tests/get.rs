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

fn two_pools() -> Lab {
    let lab = Lab::new();
    lab.apply(&POOL.replace("{name: main}", "{name: main, labels: {rack: a}}"));
    lab.apply(&POOL.replace("main", "other").replace("10.65", "10.66"));
    lab
}

#[test]
fn get_prints_the_columns_asked_for() {
    let lab = two_pools();
    assert_eq!(
        lab.run("get pools -o custom-columns=name,cidr,RACK:.metadata.labels.rack,USES:.spec.allowedUses[*]"),
        ok("NAME    CIDR           RACK     USES\n\
            main    10.65.0.0/16   a        Workload,Tunnel\n\
            other   10.66.0.0/16   <none>   Workload,Tunnel\n")
    );
    assert_eq!(
        lab.run("get pools -o custom-columns=NAME --no-headers"),
        ok("main\nother\n")
    );
    let ran = lab.run("get pools -o custom-columns=NAME,FOO");
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (
            2,
            "custom-columns: found \"FOO\", allowed for IPPool: NAME, CIDR, NAT, IPIPMODE, VXLANMODE, \
             DISABLED, DISABLEBGPEXPORT, SELECTOR, ASSIGNMENTMODE, or HEADING:.path.to.field\n"
        )
    );
    let ran = lab.run("get pools -o xml");
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("found \"xml\", allowed: ps, wide, yaml"),
        "{ran:?}"
    );
}

#[test]
fn get_prints_templates() {
    let lab = two_pools();
    let run = |words: &[&str]| lab.run_args(words.iter().copied(), "");
    let each = "jsonpath={range .items[*]}{.metadata.name}={.spec.cidr}{\"\\n\"}{end}";
    assert_eq!(
        run(&["get", "pools", "-o", each]),
        ok("main=10.65.0.0/16\nother=10.66.0.0/16\n")
    );
    assert_eq!(
        run(&["get", "pool", "main", "-o", "jsonpath={.spec.blockSize}"]),
        ok("26")
    );
    let each = "go-template={{range .items}}{{.metadata.name}} {{len .spec.allowedUses}}\n{{end}}";
    assert_eq!(run(&["get", "pools", "-o", each]), ok("main 2\nother 2\n"));
    // As written for the established client.
    let each = "go-template={{range .}}{{range .Items}}{{.ObjectMeta.Name}} {{end}}{{end}}{{config \"asnumber\"}}";
    assert_eq!(run(&["get", "pools", "-o", each]), ok("main other 64512"));
    assert_eq!(
        run(&["get", "pools", "-o", "jsonpath={.items[7]}"]),
        failed("", "jsonpath: index 7 of a list of 2\n")
    );
}

#[test]
fn get_selects_by_labels() {
    let lab = two_pools();
    for (selector, names) in [
        ("rack=a", "ippool/main\n"),
        ("has(rack)", "ippool/main\n"),
        ("!rack", "ippool/other\n"),
        ("rack!=a", "ippool/other\n"),
        ("all()", "ippool/main\nippool/other\n"),
    ] {
        let ran = lab.run_args(
            ["get", "pools", "-l", selector, "-o", "name"].into_iter(),
            "",
        );
        assert_eq!(ran, ok(names), "{selector}");
    }
    let ran = lab.run("get pools -l rack===");
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("nor is it a list such as app=web"),
        "{ran:?}"
    );
}

#[test]
fn an_export_has_nothing_of_this_cluster() {
    let lab = two_pools();
    let exported = lab.run("get pools --export -o yaml").out;
    for member in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(!exported.contains(member), "{exported}");
    }
    let other = Lab::new();
    let applied = other.run_with("create -f -", &exported);
    assert_eq!(applied, ok("IPPool/main: created\nIPPool/other: created\n"));
}

#[test]
fn files_without_resources_are_refused_unless_asked_to_skip() {
    let lab = Lab::new();
    for verb in ["apply", "create", "replace", "delete", "get"] {
        let ran = lab.run_with(&format!("{verb} -f -"), "# nothing\n");
        assert_eq!(
            (ran.code, ran.err.as_str()),
            (2, "-: no resources found\n"),
            "{verb}"
        );
        let ran = lab.run_with(&format!("{verb} -f - --skip-empty"), "# nothing\n");
        assert_eq!(ran.code, 0, "{verb}: {ran:?}");
    }
}

#[test]
fn kinds_go_by_every_spelling_in_any_case() {
    use margay_model::kind::Kind;

    let lab = Lab::new();
    for kind in Kind::ALL {
        let spellings = [kind.as_str(), kind.plural()].into_iter();
        for spelling in spellings.chain(kind.aliases().iter().copied()) {
            for word in [spelling.to_lowercase(), spelling.to_uppercase()] {
                let ran = lab.run(&format!("get {word} -A -o name"));
                assert_eq!(ran, ok(""), "{word}");
            }
        }
    }
}
