//! `patch` and `label`.

use super::*;

#[test]
fn patch_changes_fields_and_checks_the_result() {
    let lab = Lab::new();
    lab.apply(POOL);
    let patch = |words: &[&str]| {
        lab.run_args(
            ["patch", "ippool", "main"]
                .into_iter()
                .chain(words.iter().copied()),
            "",
        )
    };
    let replaced = ok("IPPool/main: replaced\n");
    assert_eq!(
        patch(&["-p", r#"{"spec":{"disabled":true,"natOutgoing":null}}"#]),
        replaced
    );
    let stored = lab.stored("ippools/main").unwrap();
    assert!(
        stored.contains(r#""disabled":true"#) && !stored.contains("natOutgoing"),
        "{stored}"
    );
    assert_eq!(
        patch(&["-p", "spec: {disabled: true}"]),
        ok("IPPool/main: unchanged\n")
    );
    let operations = r#"[{"op":"test","path":"/spec/disabled","value":true},
                         {"op":"remove","path":"/spec/disabled"}]"#;
    assert_eq!(patch(&["-t", "json", "-p", operations]), replaced);
    let again = patch(&["-t", "json", "-p", operations]);
    assert_eq!(again.code, 1);
    assert!(again.err.starts_with("IPPool/main: patch: "), "{again:?}");
    for (change, error) in [
        (
            r#"{"spec":{"blockSize":27}}"#,
            "IPPool/main: spec.blockSize: found 27, allowed: 26, because",
        ),
        (
            r#"{"spec":{"disabeld":true}}"#,
            "IPPool/main: spec.disabeld: found an unknown field, did",
        ),
        (
            r#"{"metadata":{"name":"x"}}"#,
            "IPPool/main: metadata: found IPPool/x, allowed: the same",
        ),
        (
            r#"{"metadata":{"resourceVersion":"1"}}"#,
            "IPPool/main: changed by somebody else: ",
        ),
    ] {
        let ran = patch(&["-t", "merge", "-p", change]);
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{ran:?}");
        assert!(ran.err.starts_with(error), "{ran:?}");
    }
    assert_eq!(patch(&["-p", "["]).code, 2);
    assert_eq!(
        lab.run("patch pool absent -p {}").err,
        "IPPool/absent: does not exist\n"
    );
}

#[test]
fn patch_leaves_fields_of_newer_releases_alone() {
    let lab = Lab::new();
    lab.put(
        "/calico/resources/v3/projectcalico.org/ippools/main",
        r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"main"},"spec":{"cidr":"10.0.0.0/16","newer":1}}"#,
    );
    assert_eq!(lab.run("patch pool main -p {spec:{disabled:true}}").code, 2);
    let ran = lab.run(r#"patch pool main -p {"spec":{"disabled":true}}"#);
    assert_eq!(ran, ok("IPPool/main: replaced\n"));
    assert!(lab.stored("ippools/main").unwrap().contains(r#""newer":1"#));
}

#[test]
fn label_sets_and_removes() {
    let lab = Lab::new();
    lab.apply("{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1}}");
    assert_eq!(
        lab.run("label node n1 rack=a zone="),
        ok("Node/n1: replaced\n")
    );
    assert!(
        lab.stored("nodes/n1")
            .unwrap()
            .contains(r#""labels":{"rack":"a","zone":""}"#)
    );
    assert_eq!(lab.run("label node n1 rack=a"), ok("Node/n1: unchanged\n"));
    assert_eq!(
        lab.run("label node n1 rack=b"),
        failed(
            "",
            "Node/n1: metadata.labels.rack: found \"a\", allowed: \"b\" only with --overwrite\n"
        )
    );
    assert_eq!(
        lab.run("label node n1 rack=b --overwrite"),
        ok("Node/n1: replaced\n")
    );
    assert_eq!(
        lab.run("label node n1 rack zone --remove"),
        ok("Node/n1: replaced\n")
    );
    assert!(!lab.stored("nodes/n1").unwrap().contains("labels"));
    assert_eq!(
        lab.run("label node n1 rack --remove"),
        failed(
            "",
            "Node/n1: metadata.labels.rack: found nothing, allowed: a label to remove\n"
        )
    );
    assert_eq!(lab.run("label node n1 rack").code, 2);
    assert_eq!(lab.run("label node n1 a/b/c=d").code, 1);
}

#[test]
fn a_drain_is_kept_in_the_node_and_taken_back() {
    let lab = Lab::new();
    lab.apply("{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1}, spec: {}}");
    let ran = lab.run("node drain n1");
    assert_eq!(ran, ok("Node/n1: replaced\n"), "{ran:?}");
    assert!(
        lab.stored("nodes/n1")
            .unwrap()
            .contains(r#""margay.io/drain":"true""#)
    );
    assert_eq!(lab.run("node drain n1"), ok("Node/n1: unchanged\n"));
    assert_eq!(lab.run("node undrain n1").code, 0);
    assert!(!lab.stored("nodes/n1").unwrap().contains("margay.io/drain"));
    assert_eq!(lab.run("node drain n9").code, 1);
}

#[test]
fn flags_of_the_established_client_are_taken() {
    let lab = Lab::new();
    lab.apply(POOL);
    for words in [
        "--context other get pools --log-level=debug --allow-version-mismatch",
        "get pools --export -o yaml",
        "ipam configure --kubevirt-ip-persistence Disabled",
        "version --client",
    ] {
        let ran = lab.run(words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words}");
    }
    let stored = lab.stored("ipamconfigurations/default").unwrap();
    assert!(
        stored.contains(r#""kubeVirtVMAddressPersistence":"Disabled""#),
        "{stored}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar.gz");
    let diags = lab.run(&format!(
        "cluster diags --since 1h --max-logs 5 --focus-nodes a,b --max-parallelism 2 -o {}",
        path.display()
    ));
    assert_eq!(diags.code, 0);
    assert!(
        diags
            .err
            .starts_with("the logs of other hosts are not collected"),
        "{diags:?}"
    );
    assert_eq!(lab.run("version --poll 1s --client").code, 2);
    assert_eq!(lab.run("version --poll never").code, 2);
}
