//! `validate`.

use serde_json::{Value, json};

use super::{Lab, Ran};

const MIXED: &str = "\
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: good}
spec: {cidr: 10.65.0.0/16}
---
kind: NetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: web}
spec:
  ordr: 5
  ingress:
  - action: allow
---
kind: [
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: prod}
spec: {podSelector: {}}
---
kind: NetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: web}
";

fn records(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn validate_gives_a_record_for_each_document_as_json() {
    let lab = Lab::new();
    let ran = lab.run_with("validate -o json -f -", MIXED);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let file = "standard input";
    let found = records(&ran);
    // What the parser says of broken syntax is its own affair.
    let broken = &found[2]["errors"][0];
    assert_eq!(
        (&broken["path"], broken["line"].is_u64()),
        (&json!(""), true)
    );
    assert_eq!(
        found,
        json!([
            {
                "file": file, "index": 1, "line": 1, "kind": "IPPool", "namespace": null,
                "name": "good", "valid": true, "errors": [],
            },
            {
                "file": file, "index": 2, "line": 6, "kind": "NetworkPolicy", "namespace": null,
                "name": "web", "valid": false, "errors": [
                    {
                        "path": "spec.ordr", "line": 10,
                        "message": "found an unknown field, did you mean \"order\"?",
                    },
                    {
                        "path": "spec.ingress[0].action", "line": 12,
                        "message": "found \"allow\", allowed: Allow, Deny, Log, Pass",
                    },
                ],
            },
            {
                "file": file, "index": 3, "line": 14, "kind": null, "namespace": null,
                "name": null, "valid": false, "errors": [broken],
            },
            {
                "file": file, "index": 4, "line": 16, "kind": "NetworkPolicy",
                "namespace": "prod", "name": "web", "valid": true, "errors": [],
            },
            {
                "file": file, "index": 5, "line": 21, "kind": "NetworkPolicy",
                "namespace": "default", "name": "web", "valid": true, "errors": [],
            },
        ])
    );
}

#[test]
fn validate_says_who_fails_and_why_in_a_line_each() {
    let ran = Lab::new().run_with("validate -f -", MIXED);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        "IPPool/good: valid\nNetworkPolicy/prod/knp.default.web: valid\n\
         NetworkPolicy/default/web: valid\n"
    );
    let errors: Vec<_> = ran.err.lines().collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert_eq!(
        errors[0],
        "standard input: document 2 (line 6): NetworkPolicy/web: spec.ordr (line 10): found an \
         unknown field, did you mean \"order\"?"
    );
    assert!(errors[2].starts_with("standard input: document 3 (line 14): line 1"));
}

#[test]
fn validate_reads_files_and_folders_and_items_of_lists() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, path) = (dir.path().join("inner"), dir.path().display().to_string());
    std::fs::create_dir(&inner).unwrap();
    let (first, rest) = MIXED.split_once("---\n").unwrap();
    std::fs::write(dir.path().join("a.yaml"), first).unwrap();
    std::fs::write(inner.join("b.yaml"), rest).unwrap();
    let lab = Lab::new();
    let ran = lab.run(&format!("validate -o json -f {path}"));
    assert_eq!((ran.code, records(&ran).as_array().unwrap().len()), (0, 1));
    let ran = lab.run(&format!("validate -o json -R -f {path}"));
    assert_eq!((ran.code, records(&ran).as_array().unwrap().len()), (1, 5));
    assert_eq!(records(&ran)[1]["file"], format!("{path}/inner/b.yaml"));
    let list = r#"{"kind": "List", "apiVersion": "v1", "items": [
        {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "n1"}},
        {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "N2"}}
    ]}"#;
    let found = records(&lab.run_with("validate -o json -f -", list));
    assert_eq!(
        (&found[0]["index"], &found[0]["item"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        (&found[1]["item"], &found[1]["line"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(found[1]["errors"][0]["path"], "metadata.name");
    let ran = lab.run(&format!("validate -o json -f {path}/none.yaml"));
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
}
