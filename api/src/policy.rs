//! What the rules of a node matched, as `margayctl policy show` prints it.

use serde::{Deserialize, Serialize};

/// The counters of every rule that is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The node's name in the datastore.
    pub node: String,
    /// Every rule.
    pub rules: Vec<RuleCounter>,
    /// What no rule of a policy or profile decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherCounter>,
}

/// Packets that something else than a rule of a policy or profile decided about, of the node together, since it was
/// last written there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherCounter {
    /// In words: `end of tier default`, `not from this workload`, `failsafe port`.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// What one rule matched, for all endpoints of the node together, since the policy last changed there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCounter {
    /// The policy or profile: `NetworkPolicy/NAMESPACE/NAME`, `Profile/NAME`.
    pub resource: String,
    /// Whether the rule is one for what endpoints receive, or for what they send.
    pub ingress: bool,
    /// The place of the rule in the resource, from 0; of the first where several were joined.
    pub rule: usize,
    /// Packets that open connections; later ones do not come to the rules.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}
