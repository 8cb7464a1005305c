//! What the packet policy of a node decided about which traffic, as `margayctl flows` shows it.
//!
//! Packets are gathered into flows: those of one [interval](FlowReport::interval_secs) that differ in nothing but the
//! port of the sender are one. Whoever wants to follow asks again with [`FlowQuery::after`] as the last answer said.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which flows are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowQuery {
    /// Only flows that changed after this; [`FlowReport::next`] of an earlier answer, 0 for all that are kept.
    pub after: u64,
    /// At most so many, the latest ones; 0 for no limit.
    pub limit: usize,
}

/// The flows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// The node's name in the datastore.
    pub node: String,
    /// What is looked at, as the agent's configuration has it: `none`, `denied` or `all`.
    pub capture: String,
    /// Why nothing is seen although it should be; empty otherwise.
    pub problem: String,
    /// How long packets are gathered into one flow.
    pub interval_secs: u64,
    /// To be given back as [`FlowQuery::after`].
    pub next: u64,
    /// Packets that came faster than they could be looked at, since the agent started.
    pub lost: u64,
    /// Packets that were one flow too many for the memory of an interval, since the agent started.
    pub crowded_out: u64,
    /// In the order in which they last changed.
    pub flows: Vec<Flow>,
}

/// Traffic that one rule decided about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// When its first packet came, in milliseconds since 1970.
    pub first_ms: u64,
    /// When its last one came.
    pub last_ms: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Whether policy of the receiver decided, or that of the sender.
    pub ingress: bool,
    /// The endpoint whose policy decided: `WorkloadEndpoint/NAMESPACE/NAME`; empty when it is not known (any more).
    pub endpoint: String,
    /// Where the packets came in; empty for those of the host itself.
    pub in_interface: String,
    /// Where they were to go out; empty for those to the host itself, and before that is known.
    pub out_interface: String,
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The sender's port in the last packet; 0 where there are none.
    pub source_port: u16,
    /// The receiver's port; 0 where there are none. Of ICMP, type and code as `type * 256 + code`.
    pub port: u16,
    /// Why.
    pub reason: Reason,
    /// Packets that were seen. The kernel hands up at most 100 a second of each rule, and of a connection that is
    /// allowed only what comes before the first answer.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Allowed, on this side.
    Allow,
    /// Dropped or rejected.
    Deny,
    /// A rule with the action `Log` matched; other rules decided.
    Log,
    /// A rule of a staged policy would allow it; other rules decided.
    WouldAllow,
    /// A rule of a staged policy would deny it; other rules decided.
    WouldDeny,
}

impl Verdict {
    /// As it is called in answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Log => "log",
            Self::WouldAllow => "would_allow",
            Self::WouldDeny => "would_deny",
        }
    }

    /// Whether it is what became of the packets, and not a remark beside that.
    #[must_use]
    pub const fn decides(self) -> bool {
        matches!(self, Self::Allow | Self::Deny)
    }
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A rule of a policy.
    Policy {
        /// The policy's tier; empty when it is not known (any more).
        tier: String,
        /// `NetworkPolicy/NAMESPACE/NAME`.
        policy: String,
        /// The place of the rule in the policy, from 0; of the first where several were joined.
        rule: usize,
    },
    /// A rule of a profile.
    Profile {
        /// Its name.
        profile: String,
        /// The place of the rule in the profile, from 0.
        rule: usize,
    },
    /// No policy of the tier, of which at least one applies, decided.
    EndOfTier {
        /// Its name.
        tier: String,
    },
    /// Neither policy nor profile allowed it.
    NothingAllowed,
    /// The sender's address is not one of the interface that the packet came from.
    Spoofed,
    /// No workload has this address behind the interface that it is routed to.
    NoSuchWorkload,
}
