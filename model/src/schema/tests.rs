use serde_json::json;

use super::*;
use crate::any::AnyResource;
use crate::kind::Kind;

/// A value of this form; objects have every field that we use.
fn example(shape: &Shape) -> Value {
    match shape {
        Shape::Text(_) => json!("text"),
        Shape::Bool => json!(true),
        Shape::Whole(min, max) => json!(max.min(&(min + 1))),
        Shape::Number => json!(5),
        Shape::Word(words) | Shape::AnyCase(words) => json!(words[0]),
        Shape::Form(form) => serde_json::from_str(form.example).unwrap(),
        Shape::List(of, _) => json!([example(of)]),
        Shape::Texts => json!({"name": "text"}),
        Shape::Object(schema) => {
            let members = schema.fields.iter();
            members
                .map(|(name, shape)| ((*name).to_owned(), example(shape)))
                .collect()
        }
        Shape::Any => json!("anything"),
    }
}

fn example_resource(kind: Kind) -> Value {
    let mut value = example(&Shape::Object(resource_schema(kind)));
    value["kind"] = json!(kind.as_str());
    value["apiVersion"] = json!("projectcalico.org/v3");
    value
}

fn errors(kind: Kind, mut value: Value) -> Vec<String> {
    let mut checker = Checker::new(Unknown::Refuse, None);
    checker.check(&Shape::Object(resource_schema(kind)), &mut value);
    checker.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn tables_and_types_have_the_same_fields() {
    for kind in Kind::ALL {
        let value = example_resource(*kind);
        assert_eq!(errors(*kind, value.clone()), [""; 0], "{kind}");
        let resource = AnyResource::from_value(*kind, value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&resource).unwrap(), value, "{kind}");
        let debug = format!("{resource:?}");
        assert!(
            !debug.contains("extra: {\""),
            "{kind}: a field of the table has no type: {debug}"
        );
        // Only ports of workloads lead to a port of the host.
        let debug = debug.replace("host_port: None, host_ip: None", "");
        let untabled =
            debug.contains(": None") || debug.contains(": []") || debug.contains(": \"\"");
        assert!(
            !untabled,
            "{kind}: a typed field is not in the table: {debug}"
        );
    }
}

#[test]
fn settings_that_are_kept_for_others_are_held_to_their_form() {
    let shapes = resource_schema(Kind::FelixConfiguration).fields;
    let Some((_, Shape::Object(spec))) = shapes.iter().find(|(name, _)| *name == "spec") else {
        panic!("a spec");
    };
    assert!(spec.kept.len() > 120);
    let felix = |spec: Value| {
        let value = json!({"metadata": {"name": "default"}, "spec": spec});
        errors(Kind::FelixConfiguration, value)
    };
    let all = spec.kept.iter();
    let all: Value = all
        .map(|(name, shape)| ((*name).to_owned(), example(shape)))
        .collect();
    assert_eq!(felix(all), [""; 0]);
    for (name, value) in [
        ("bpfLogLevel", json!("Loud")),
        ("bpfProfiling", json!("enabled")),
        ("wireguardListeningPort", json!(0)),
        ("wireguardRoutingRulePriority", json!(32766)),
        ("dataplaneWatchdogTimeout", json!("90")),
        ("bpfDataIfacePattern", json!("eth(")),
        ("logActionRateLimit", json!("10000/minute")),
        ("openstackRegion", json!("a".repeat(47))),
        ("featureGates", json!("A")),
        ("kubeNodePortRanges", json!(vec![1; 8])),
        ("externalNodesList", json!("10.0.0.0/8")),
        ("usageReportingEnabled", json!("yes")),
        ("mtuIfacePattern", json!("(")),
        ("natOutgoingAddress", json!("2001:db8::1")),
    ] {
        let found = felix(json!({name: value}));
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(found[0].starts_with(&format!("spec.{name}: ")), "{found:?}");
    }
    let slip = felix(json!({"bpfProfilling": "Enabled"}));
    assert_eq!(
        slip,
        ["spec.bpfProfilling: found an unknown field, did you mean \"bpfProfiling\"?"]
    );
    // Another release may have written another form.
    let mut value = json!({"spec": {"bpfProfiling": 5}});
    let mut checker = Checker::new(Unknown::Keep, None);
    checker.check(
        &Shape::Object(resource_schema(Kind::FelixConfiguration)),
        &mut value,
    );
    assert!(value["spec"]["bpfProfiling"].is_number());
}

#[test]
fn fields_of_other_releases_are_let_through() {
    let pool = json!({
        "metadata": {"name": "a", "generateName": "x"},
        "spec": {"cidr": "10.0.0.0/16", "nat-outgoing": true},
        "status": {"conditions": []},
    });
    assert_eq!(errors(Kind::IpPool, pool), [""; 0]);
}

#[test]
fn every_slip_is_found_at_once() {
    let policy = json!({
        "metadata": {"name": "a", "labels": {"a": 1}},
        "spec": {
            "ordr": 5,
            "selector": true,
            "types": ["Ingres"],
            "ingress": [
                {"action": "allow", "source": {"nets": ["10.0.0.1/8", "10.0.0.0/8"]}},
                {"protocol": "tcp", "destination": {"prots": [80]}},
            ],
        },
    });
    assert_eq!(
        errors(Kind::GlobalNetworkPolicy, policy),
        [
            "metadata.labels.a: found 1, allowed: text (put it in quotes)",
            "spec.ingress[0].action: found \"allow\", allowed: Allow, Deny, Log, Pass",
            "spec.ingress[0].source.nets[0]: found \"10.0.0.1/8\", allowed: ADDRESS/LENGTH without \
             host bits, such as 10.65.0.0/16, 10.65.0.1/32 or fd00::/64",
            "spec.ingress[1].destination.prots: found an unknown field, did you mean \"ports\"?",
            "spec.ingress[1].protocol: found \"tcp\", allowed: TCP, UDP, ICMP, ICMPv6, SCTP, \
             UDPLite or 1 to 255",
            "spec.ingress[1].action: found nothing, allowed: Allow, Deny, Log, Pass",
            "spec.ordr: found an unknown field, did you mean \"order\"?",
            "spec.selector: found true, allowed: text (put it in quotes)",
            "spec.types[0]: found \"Ingres\", allowed: Ingress, Egress",
        ]
    );
}

#[test]
fn a_missing_field_is_told_once() {
    let pool = json!({"metadata": {"name": "a"}, "spec": {}});
    let found = errors(Kind::IpPool, pool);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("spec.cidr: found nothing, allowed: ADDRESS/LENGTH"),
        "{found:?}"
    );
}

#[test]
fn empty_texts_mean_absent_as_go_writes_them() {
    let pool = json!({"metadata": {"name": "a"}, "spec": {"cidr": "10.0.0.0/16", "ipipMode": ""}});
    assert_eq!(errors(Kind::IpPool, pool), [""; 0]);
}

#[test]
fn suggestions_are_close_or_none() {
    let names = || ["blockSize", "cidr", "natOutgoing", "nodeSelector"].into_iter();
    assert_eq!(closest("blocksize", names()), Some("blockSize"));
    assert_eq!(closest("natoutgong", names()), Some("natOutgoing"));
    assert_eq!(closest("cdir", names()), Some("cidr"));
    assert_eq!(closest("x", names()), None);
    assert_eq!(closest("completely", names()), None);
    assert_eq!(closest(&"a".repeat(100_000), names()), None);
}
