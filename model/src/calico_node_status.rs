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

/// What a host reports: the member `status`. A part that is not asked for is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// When it was written (RFC 3339).
    pub last_updated: String,
    /// The daemons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentReport>,
    /// The sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpReport>,
    /// The routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<RoutesReport>,
}

/// The daemons, one a family in the established system; with us the agent is both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Of IPv4.
    #[serde(rename = "birdV4", default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<DaemonReport>,
    /// Of IPv6.
    #[serde(rename = "birdV6", default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<DaemonReport>,
}

/// A daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonReport {
    /// `Ready` or `NotReady`.
    pub state: String,
    /// Its version.
    pub version: String,
    /// Its BGP identifier.
    #[serde(rename = "routerID")]
    pub router_id: String,
    /// When it started (RFC 3339).
    pub last_boot_time: String,
}

/// The sessions of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each member says what it counts")]
pub struct BgpReport {
    pub number_established_v4: usize,
    pub number_not_established_v4: usize,
    pub number_established_v6: usize,
    pub number_not_established_v6: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers_v4: Vec<PeerReport>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers_v6: Vec<PeerReport>,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerReport {
    /// The peer's address.
    #[serde(rename = "peerIP")]
    pub peer_ip: String,
    /// `NodeMesh`, `NodePeer` or `GlobalPeer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As RFC 4271 calls it.
    pub state: String,
    /// Since when (RFC 3339).
    pub since: String,
}

/// The routes of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "one list a family")]
pub struct RoutesReport {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_v4: Vec<RouteReport>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_v6: Vec<RouteReport>,
}

/// One way of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// `FIB` for what the kernel has, `RIB` for what only the daemon has.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it leads to.
    pub destination: String,
    /// The next hop; empty for what is on the link.
    pub gateway: String,
    /// The interface; empty if there is none.
    pub interface: String,
    /// Where it comes from.
    pub learned_from: LearnedFrom,
}

/// Where a route comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedFrom {
    /// `Kernel`, `Static`, `Direct`, `NodeMesh` or `BGPPeer`.
    pub source_type: String,
    /// The peer that told of it.
    #[serde(rename = "peerIP", default, skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<String>,
}
