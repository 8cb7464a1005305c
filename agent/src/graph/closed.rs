//! A stored policy that cannot be read: whatever it meant to stop must not pass.

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::stored::decode_stored;
use serde_json::{Map, Value, json};

/// What says where a policy stands, whom it selects and when it is asked.
const SCOPE: [&str; 9] = [
    "tier",
    "order",
    "selector",
    "namespaceSelector",
    "serviceAccountSelector",
    "types",
    "doNotTrack",
    "preDNAT",
    "applyOnForward",
];

/// Those of them that say whom.
const SELECTORS: [&str; 3] = ["selector", "namespaceSelector", "serviceAccountSelector"];

/// The policy without its rules and without what is damaged of the rest, marked so that the calculation
/// drops everything for what it selects. Nothing for other kinds, and where it cannot be read whom it
/// selects: one torn value must not cut off a cluster.
pub(super) fn closed(key: &ResourceKey, bytes: &[u8]) -> Option<AnyResource> {
    if !matches!(key.kind, Kind::NetworkPolicy | Kind::GlobalNetworkPolicy) {
        return None;
    }
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let given = value.get("spec").and_then(Value::as_object)?;
    let decoded = |spec: &Map<String, Value>| {
        let text = json!({"spec": spec}).to_string();
        decode_stored(key, text.as_bytes()).ok()
    };
    let mut spec = Map::new();
    for field in SCOPE {
        let Some(member) = given.get(field) else {
            continue;
        };
        let mut longer = spec.clone();
        longer.insert(field.to_owned(), member.clone());
        if decoded(&longer).is_some() {
            spec = longer;
        } else if SELECTORS.contains(&field) {
            return None;
        }
    }
    if !spec.contains_key("types") {
        let types = match spec.get("preDNAT") {
            Some(Value::Bool(true)) => json!(["Ingress"]),
            _ => json!(["Ingress", "Egress"]),
        };
        spec.insert("types".to_owned(), types);
    }
    // A field that nobody knows makes the calculation fail closed, and it says why.
    spec.insert("unreadable rules".to_owned(), Value::Bool(true));
    decoded(&spec)
}

#[cfg(test)]
mod tests {
    use margay_policy::calc::{Calc, Scope};
    use margay_policy::program::{Action, Update};

    use super::*;

    fn key() -> ResourceKey {
        ResourceKey::global(Kind::GlobalNetworkPolicy, "p")
    }

    fn spec_of(spec: Value) -> Value {
        let text = json!({"kind": "GlobalNetworkPolicy", "spec": spec}).to_string();
        assert!(decode_stored(&key(), text.as_bytes()).is_err(), "{text}");
        let policy = closed(&key(), text.as_bytes()).unwrap();
        let text = margay_model::stored::encode_stored(&policy);
        serde_json::from_slice::<Value>(&text).unwrap()["spec"].take()
    }

    #[test]
    fn what_can_be_read_of_the_scope_stays() {
        let spec = spec_of(json!({
            "tier": "t", "order": "first", "selector": "app == 'a'", "types": ["Ingress"],
            "ingress": [{"action": "Inspect"}],
        }));
        assert_eq!(spec["tier"], "t");
        assert_eq!(spec["selector"], "app == 'a'");
        assert_eq!(spec["types"], json!(["Ingress"]));
        assert_eq!((spec.get("order"), spec.get("ingress")), (None, None));
        let both = spec_of(json!({"ingress": [{"action": "Inspect"}]}));
        assert_eq!(both["types"], json!(["Ingress", "Egress"]));
    }

    #[test]
    fn it_drops_everything_for_what_it_selects_and_the_event_names_it() {
        let stored = json!({"spec": {"selector": "app == 'a'", "egress": [{"action": "Inspect"}]}});
        let policy = closed(&key(), stored.to_string().as_bytes()).unwrap();
        let endpoint = |name: &str, app: &str| {
            let key = ResourceKey::namespaced(Kind::WorkloadEndpoint, "x", name);
            let value = json!({
                "metadata": {"labels": {"app": app}},
                "spec": {"node": "n1", "orchestrator": "cni", "interfaceName": name},
            });
            decode_stored(&key, value.to_string().as_bytes()).unwrap()
        };
        let mut calc = Calc::new(Scope::Cluster);
        for resource in [policy, endpoint("a", "a"), endpoint("b", "b")] {
            calc.update(&resource);
        }
        for update in calc.flush() {
            match update {
                Update::PolicyRules { rules, .. } => {
                    let actions = [&rules.ingress, &rules.egress].map(|list| list[0].action);
                    assert_eq!(actions, [Action::Deny, Action::Deny]);
                }
                Update::Endpoint { id, plan } => {
                    assert_eq!(plan.egress.is_empty(), id.name == "b");
                }
                _ => {}
            }
        }
        let [event] = &*calc.take_events() else {
            panic!("one event")
        };
        assert_eq!(event.key, key());
        assert!(event.message.as_ref().unwrap().contains("unreadable rules"));
    }

    #[test]
    fn other_kinds_are_left_alone_and_what_selects_one_cannot_tell_whom() {
        let profile = ResourceKey::global(Kind::Profile, "p");
        assert!(closed(&profile, b"{}").is_none());
        for value in [
            &b"{"[..],
            b"{\"spec\": 7}",
            b"{}",
            b"{\"spec\": {\"selector\": 7}}",
        ] {
            assert!(closed(&key(), value).is_none());
        }
    }
}
