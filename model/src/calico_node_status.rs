//! The `CalicoNodeStatus` resource: asks for the state of one host to be reported in its `status`.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::string_enum::string_enum;

/// A request for the state of one host; what the host reports stands in `status`.
pub type CalicoNodeStatus = Resource<CalicoNodeStatusSpec>;

string_enum! {
    /// A part of the state.
    pub enum NodeStatusClass {
        /// The daemons.
        Agent = "Agent",
        /// The sessions.
        Bgp = "BGP",
        /// The routes that the daemon knows.
        Routes = "Routes",
    }
}

/// Which host, and what of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CalicoNodeStatusSpec {
    /// The host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// What to report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<NodeStatusClass>,
    /// How often, in seconds, at most a day; 0 stops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_period_seconds: Option<u32>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for CalicoNodeStatusSpec {
    const KIND: Kind = Kind::CalicoNodeStatus;
}
