//! The members of policies in the form of Kubernetes. Their meaning is checked by the conversion.

use serde_json::Value;

use super::{MANY, METADATA, TEXT, U16};
use crate::policy::PolicyType;
use crate::schema::Shape::{Any, List, Object, Text, Texts, Whole, Word};
use crate::schema::{Schema, Shape};
use crate::staged_policy::StagedAction;

/// The members of a policy of Kubernetes; nothing if the document is none.
pub(crate) fn kubernetes_schema(value: &Value) -> Option<&'static Schema> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    match (text("apiVersion")?, text("kind")?) {
        ("networking.k8s.io/v1", "NetworkPolicy") => Some(resource!(NETWORK_POLICY)),
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
            Some(resource!(CLUSTER_NETWORK_POLICY))
        }
        _ => None,
    }
}

macro_rules! network_policy {
    ($name:ident, [$($own:literal: $shape:expr),*]) => {
        schema!(
            $name,
            [
                $($own: $shape,)*
                "podSelector": LABEL_SELECTOR,
                "ingress": List(&Object(&INGRESS_RULE), MANY),
                "egress": List(&Object(&EGRESS_RULE), MANY),
                "policyTypes": List(&Word(PolicyType::WORDS), 2),
            ]
        );
    };
}
network_policy!(NETWORK_POLICY, []);
network_policy!(
    STAGED_KUBERNETES_NETWORK_POLICY,
    ["stagedAction": Word(StagedAction::WORDS)]
);
const LABEL_SELECTOR: Shape = Object(&LABEL_SELECTOR_SCHEMA);
schema!(
    LABEL_SELECTOR_SCHEMA,
    ["matchLabels": Texts, "matchExpressions": List(&Object(&REQUIREMENT), MANY)]
);
schema!(
    REQUIREMENT,
    [
        "key": TEXT,
        "operator": Word(&["In", "NotIn", "Exists", "DoesNotExist"]),
        "values": List(&TEXT, MANY),
    ],
    required ["key", "operator"]
);
schema!(INGRESS_RULE, ["from": PEERS, "ports": PORTS]);
schema!(EGRESS_RULE, ["to": PEERS, "ports": PORTS]);
const PEERS: Shape = List(&Object(&PEER), MANY);
const PORTS: Shape = List(&Object(&PORT), MANY);
schema!(
    PEER,
    [
        "podSelector": LABEL_SELECTOR,
        "namespaceSelector": LABEL_SELECTOR,
        "ipBlock": Object(&IP_BLOCK),
    ]
);
schema!(
    IP_BLOCK,
    ["cidr": TEXT, "except": List(&TEXT, MANY)],
    required ["cidr"]
);
schema!(
    PORT,
    ["protocol": Word(&["TCP", "UDP", "SCTP"]), "port": Any, "endPort": U16]
);

schema!(
    CLUSTER_NETWORK_POLICY,
    [
        "tier": Word(&["Admin", "Baseline"]),
        "priority": Whole(0, 1000),
        "subject": Object(&SUBJECT),
        "ingress": List(&Object(&CLUSTER_INGRESS_RULE), 25),
        "egress": List(&Object(&CLUSTER_EGRESS_RULE), 25),
    ],
    required ["tier", "priority", "subject"]
);
schema!(SUBJECT, ["namespaces": LABEL_SELECTOR, "pods": Object(&PODS)]);
schema!(
    PODS,
    ["namespaceSelector": LABEL_SELECTOR, "podSelector": LABEL_SELECTOR]
);
const CLUSTER_ACTION: Shape = Word(&["Accept", "Deny", "Pass"]);
const PROTOCOLS: Shape = List(&Object(&CLUSTER_PROTOCOL), 25);
schema!(
    CLUSTER_INGRESS_RULE,
    [
        "name": Text(100),
        "action": CLUSTER_ACTION,
        "from": List(&Object(&CLUSTER_PEER), 25),
        "protocols": PROTOCOLS,
    ],
    required ["action", "from"]
);
schema!(
    CLUSTER_EGRESS_RULE,
    [
        "name": Text(100),
        "action": CLUSTER_ACTION,
        "to": List(&Object(&CLUSTER_PEER), 25),
        "protocols": PROTOCOLS,
    ],
    required ["action", "to"]
);
schema!(
    CLUSTER_PEER,
    [
        "namespaces": LABEL_SELECTOR,
        "pods": Object(&PODS),
        "networks": List(&TEXT, 25),
    ]
);
schema!(
    CLUSTER_PROTOCOL,
    [
        "tcp": Object(&DESTINATION),
        "udp": Object(&DESTINATION),
        "sctp": Object(&DESTINATION),
        "destinationNamedPort": TEXT,
    ]
);
schema!(DESTINATION, ["destinationPort": Object(&DESTINATION_PORT)]);
schema!(DESTINATION_PORT, ["number": U16, "range": Object(&PORT_RANGE)]);
schema!(PORT_RANGE, ["start": U16, "end": U16], required ["start", "end"]);
