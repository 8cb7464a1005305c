use proptest::prelude::*;

use super::*;
use crate::stored::encode_stored;

fn decode(text: &str) -> Vec<Document> {
    decode_manifest(text, &|_| Ok(()))
}

/// The errors of a text of one document.
fn errors(text: &str) -> Vec<String> {
    let documents = decode(text);
    assert_eq!(documents.len(), 1, "{documents:?}");
    match &documents[0].result {
        Ok(_) => Vec::new(),
        Err(DocumentError::Invalid(errors)) => errors.iter().map(ToString::to_string).collect(),
        Err(syntax) => vec![syntax.to_string()],
    }
}

/// A manifest of every kind, as users of the established system write them.
const EVERY_KIND: &str = include_str!("every_kind.yaml");

#[test]
fn a_manifest_of_every_kind_is_accepted_and_kept() {
    let documents = decode(EVERY_KIND);
    let mut kinds = Vec::new();
    for document in &documents {
        let resource = document.result.as_ref().unwrap_or_else(|error| {
            panic!("line {}: {}: {error}", document.line, document.subject)
        });
        kinds.push(resource.kind());
        let stored = crate::stored::decode_stored(&resource.key(), &encode_stored(resource));
        assert_eq!(stored.as_ref(), Ok(resource));
    }
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, Kind::ALL);
}

#[test]
fn documents_are_numbered_and_know_their_line() {
    let text = "# a comment\n---\n---\nkind: Node\napiVersion: projectcalico.org/v3\nmetadata: \
                {name: n1}\n...\n--- # next\n\n\nkind: Nod\n---\na: [\n";
    let documents = decode(text);
    let places: Vec<_> = documents
        .iter()
        .map(|d| (d.index, d.line, d.result.is_ok()))
        .collect();
    assert_eq!(places, [(1, 4, true), (2, 11, false), (3, 13, false)]);
    assert_eq!(documents[0].subject.to_string(), "Node/n1");
    assert_eq!(documents[1].subject.to_string(), "Nod/(no name)");
    assert!(matches!(
        documents[2].result,
        Err(DocumentError::Syntax { line: 13 | 14, .. })
    ));
}

#[test]
fn lists_are_taken_apart() {
    let node = |name| {
        format!(
            r#"{{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}"}}}}"#
        )
    };
    let (a, b) = (node("a"), node("b"));
    for text in [
        format!(r#"{{"kind":"List","apiVersion":"v1","items":[{a},{b}]}}"#),
        format!(r#"{{"kind":"NodeList","apiVersion":"projectcalico.org/v3","items":[{a},{b}]}}"#),
        format!("[{a},{b}]"),
        format!("- {a}\n- {b}\n"),
    ] {
        let documents = decode(&text);
        let items: Vec<_> = documents
            .iter()
            .map(|d| (d.index, d.item, d.result.is_ok()))
            .collect();
        assert_eq!(items, [(1, Some(1), true), (1, Some(2), true)], "{text}");
    }
    let documents = decode(&format!("{a}\n{b}"));
    assert_eq!(documents.iter().filter(|d| d.result.is_ok()).count(), 2);
}

#[test]
fn an_empty_text_has_no_documents() {
    for text in [
        "",
        "\n",
        "---\n",
        "# only a comment\n---\n# and another\n",
        "%YAML 1.2\n---\n",
    ] {
        assert_eq!(decode(text), [], "{text:?}");
    }
}

#[test]
fn headers_are_checked_first() {
    assert_eq!(
        errors("kind: Pod\napiVersion: v1\nmetadata: {name: a}\n")[1],
        "apiVersion (line 2): found \"v1\", allowed: projectcalico.org/v3"
    );
    assert_eq!(
        errors("kind: IPpool\napiVersion: projectcalico.org/v3\n"),
        ["kind (line 1): found \"IPpool\", did you mean \"IPPool\"?"]
    );
    assert_eq!(
        errors("just text")[0],
        "line 1: found \"just text\", allowed: an object with kind, metadata and spec"
    );
}

#[test]
fn errors_of_form_and_of_meaning_are_told_together() {
    let text = "
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: Tor}
spec:
  nodeselector: all()
  node: n1
  nodeSelector: all()
  reachableBy: 10.0.0.1
  peerIP: 10.0.0
";
    assert_eq!(
        errors(text),
        [
            "metadata.name (line 4): found \"Tor\", allowed: lower case letters, digits, '-' and \
             '.', a letter or digit at both ends, at most 253",
            "spec.nodeselector (line 6): found an unknown field, did you mean \"nodeSelector\"?",
            "spec.nodeSelector (line 8): found \"all()\", allowed: nothing, because node is set",
            "spec.reachableBy (line 9): found 10.0.0.1, allowed: nothing, because peerIP is not \
             set",
            "spec.peerIP (line 10): found \"10.0.0\", allowed: ADDRESS, IPV4:PORT or [IPV6]:PORT",
        ]
    );
}

#[test]
fn what_has_a_wrong_form_is_not_missed_again() {
    let text = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: a}
spec: {node: n1, interfaceName: a/b}
";
    let found = errors(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("spec.interfaceName (line 5): found \"a/b\""),
        "{found:?}"
    );
}

#[test]
fn selectors_are_checked_by_the_given_grammar() {
    let text = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: a}
spec: {selector: bad, ingress: [{action: Allow, source: {selector: bad}}]}
";
    let refuse = |text: &str| {
        if text == "bad" {
            Err("no".to_owned())
        } else {
            Ok(())
        }
    };
    let documents = decode_manifest(text, &refuse);
    let Err(DocumentError::Invalid(errors)) = &documents[0].result else {
        panic!()
    };
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["spec.ingress[0].source.selector", "spec.selector"]);
    assert_eq!(
        errors[1].to_string(),
        "spec.selector (line 5): found \"bad\", allowed: a selector (no)"
    );
}

#[test]
fn anchors_and_merges_work() {
    let text = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: a}
spec:
  ingress:
  - &web {action: Allow, protocol: TCP, destination: {ports: [80, '8000:8080', http]}}
  - {<<: *web, action: Deny}
";
    assert_eq!(errors(text), [""; 0]);
}

#[test]
fn errors_know_their_line_in_the_whole_text() {
    let pool = "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata:\n  name: a\nspec:\n  \
                cidr: 10.0.0.0/16\n";
    let text = format!("{pool}---\n# here\n{pool}  blocksize: 26\n---\n{pool}  blockSize: 5\n");
    let documents = decode(&text);
    let lines: Vec<_> = documents
        .iter()
        .map(|document| match &document.result {
            Err(DocumentError::Invalid(errors)) => errors[0].line,
            _ => None,
        })
        .collect();
    assert_eq!(lines, [None, Some(15), Some(23)]);
    let json = r#"{"kind": "IPPool", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "a"},
        "spec": {"cidr": "10.0.0.0/16",
          "natOutgoing": "yes"}}"#;
    assert_eq!(
        errors(json),
        ["spec.natOutgoing (line 4): found \"yes\", allowed: true or false"]
    );
}

#[test]
fn members_that_stand_twice_are_refused_with_both_lines() {
    let text = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: a}
spec:
  cidr: 10.0.0.0/16
  natOutgoing: true
  natOutgoing: false
  blocksize: 26
";
    assert_eq!(
        errors(text),
        [
            "spec.natOutgoing (line 8): found a second time (first on line 7), allowed: each name \
             once",
            "spec.blocksize (line 9): found an unknown field, did you mean \"blockSize\"?",
        ]
    );
}

#[test]
fn text_needs_no_quotes_where_only_one_thing_can_be_meant() {
    let set = |label: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata:\n  name: 5\n  \
             labels:\n    version: {label}\nspec: {{}}\n"
        )
    };
    for label in ["5", "1.5", "true", "yes", "y", "'1.10'"] {
        let documents = decode(&set(label));
        let resource = documents[0].result.as_ref().unwrap();
        assert_eq!(resource.metadata().name, "5");
        let text = label.trim_matches(['\'', '"']);
        assert_eq!(resource.metadata().labels["version"], text);
    }
    // The established reader makes 8 and 1.1 of these.
    for label in ["010", "1.10"] {
        let found = errors(&set(label));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("metadata.labels.version (line 6): found"),
            "{found:?}"
        );
        assert!(found[0].ends_with("text (put it in quotes)"), "{found:?}");
    }
}

#[test]
fn numbers_without_a_fraction_are_whole() {
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: \
                10.0.0.0/16, natOutgoing: yes, blockSize: 26.0}\n";
    let documents = decode(pool);
    let Ok(AnyResource::IpPool(pool)) = &documents[0].result else {
        panic!("{documents:?}")
    };
    assert_eq!((pool.spec.block_size(), pool.spec.nat_outgoing), (26, true));
}

#[test]
fn slips_in_policies_of_kubernetes_are_told_all_at_once() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: prod, labels: {a: b}}
spec:
  podSelector: {matchlabels: {a: b}}
  ingress:
  - from:
    - ipBlock: {cidr: 10.0.0/8}
    ports:
    - {protocol: tcp, port: 80}
";
    assert_eq!(
        errors(text),
        [
            "spec.podSelector.matchlabels (line 6): found an unknown field, did you mean \
             \"matchLabels\"?",
            "spec.ingress[0].from[0].ipBlock.cidr (line 9): found \"10.0.0/8\", allowed: \
             ADDRESS/LENGTH, such as 10.65.0.0/16 or fd00::/64",
            "spec.ingress[0].ports[0].protocol (line 11): found \"tcp\", allowed: TCP, UDP, SCTP",
        ]
    );
}

/// Values with names and words of ours among others.
fn garbage() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] = &[
        "spec",
        "metadata",
        "name",
        "namespace",
        "labels",
        "ingress",
        "egress",
        "action",
        "Allow",
        "source",
        "nets",
        "10.0.0.0/8",
        "::/0",
        "ports",
        "1:2",
        "selector",
        "all()",
        "global(",
        "protocol",
        "ICMP",
        "icmp",
        "type",
        "code",
        "cidr",
        "blockSize",
        "types",
        "Egress",
        "stagedAction",
        "Delete",
        "controllers",
        "node",
        "hostEndpoint",
        "templates",
        "generateName",
        "bgp",
        "podSelector",
        "matchExpressions",
        "key",
        "operator",
        "In",
        "values",
        "order",
        "http",
        "services",
        "communities",
        "prefixAdvertisements",
        "operations",
        "prefixLength",
        "min",
    ];
    let word = prop_oneof![
        9 => prop::sample::select(WORDS).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 8, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map(word.clone(), inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_is_read_back_as_it_was_or_refused_with_a_line(
        kind in prop::sample::select(Kind::ALL),
        kubernetes in any::<bool>(),
        metadata in garbage(),
        spec in garbage(),
    ) {
        let (version, kind) = match kubernetes {
            true => ("networking.k8s.io/v1", "NetworkPolicy"),
            false => (API_VERSION, kind.as_str()),
        };
        let value = serde_json::json!({
            "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec,
        });
        let texts = [value.to_string(), serde_norway::to_string(&value).unwrap()];
        for text in texts {
            for document in decode(&text) {
                match document.result {
                    Ok(resource) => {
                        let filled = resource.clone().with_defaults();
                        for resource in [resource, filled] {
                            let stored = encode_stored(&resource);
                            let read = crate::stored::decode_stored(&resource.key(), &stored);
                            prop_assert_eq!(read, Ok(resource));
                        }
                    }
                    Err(DocumentError::Invalid(errors)) => {
                        prop_assert!(!errors.is_empty());
                        prop_assert!(errors.iter().all(|error| error.line.is_some()));
                    }
                    Err(DocumentError::Syntax { line, .. }) => prop_assert!(line > 0),
                }
            }
        }
        // What is right without knowing how it was written is right as a text, too.
        if decode_value(&value, &|_| Ok(()))[0].result.is_ok() {
            prop_assert!(decode(&value.to_string())[0].result.is_ok());
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in "[\\PC\n]{0,200}") {
        decode(&text);
    }

    #[test]
    fn damaged_manifests_are_read_without_panic(at in 0..EVERY_KIND.len(), with in "[\\PC\n]{0,3}") {
        let at = (0..=at).rev().find(|at| EVERY_KIND.is_char_boundary(*at)).unwrap_or(0);
        let (before, after) = EVERY_KIND.split_at(at);
        let rest: String = after.chars().skip(1).collect();
        let documents = decode(&format!("{before}{with}{rest}"));
        prop_assert!(!documents.is_empty());
    }
}
