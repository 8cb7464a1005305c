//! The members of policies in the form of Kubernetes. Their meaning is checked by the conversion.

use super::{MANY, TEXT, U16};
use crate::policy::PolicyType;
use crate::schema::Shape::{Any, List, Object, Texts, Word};
use crate::schema::{Schema, Shape};
use crate::staged_policy::StagedAction;

schema!(
    STAGED_KUBERNETES_NETWORK_POLICY,
    [
        "stagedAction": Word(StagedAction::WORDS),
        "podSelector": LABEL_SELECTOR,
        "ingress": List(&Object(&INGRESS_RULE), MANY),
        "egress": List(&Object(&EGRESS_RULE), MANY),
        "policyTypes": List(&Word(PolicyType::WORDS), 2),
    ]
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
