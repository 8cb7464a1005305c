//! The state of a node, as `margayctl node status` shows it.

use serde::{Deserialize, Serialize};

/// Everything an operator asks first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name in the datastore.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Whether everything local is programmed and ADD can be served.
    pub ready: bool,
    /// What readiness waits for; empty when ready.
    pub not_ready_reasons: Vec<String>,
    /// Seconds since the agent started.
    pub uptime_secs: u64,
    /// The datastore as this agent sees it.
    pub datastore: DatastoreStatus,
    /// The BGP speaker.
    pub bgp: BgpStatus,
    /// What is programmed into the kernel.
    pub dataplane: DataplaneStatus,
}

/// The agent's view of its datastore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreStatus {
    /// The driver: `etcdv3` or `embedded`.
    pub driver: String,
    /// Whether the watch is up and in sync.
    pub connected: bool,
    /// Seconds since that last changed.
    pub since_secs: u64,
    /// The last error while disconnected; empty otherwise.
    pub detail: String,
}

/// The speaker and its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpStatus {
    /// Our autonomous system.
    pub local_as: u32,
    /// Our BGP identifier, dotted; empty while the speaker is not configured.
    pub router_id: String,
    /// Every configured peer, by name.
    pub peers: Vec<PeerStatus>,
}

/// One BGP session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Where the peer comes from: `mesh` with the node's name, or the BGPPeer's name.
    pub name: String,
    /// The peer's address.
    pub address: String,
    /// Its autonomous system.
    pub remote_as: u32,
    /// The RFC 4271 state: Idle, Connect, Active, OpenSent, OpenConfirm, Established.
    pub state: String,
    /// Seconds since the state last changed.
    pub since_secs: u64,
    /// Why the session last went down; empty if it never did.
    pub last_error: String,
    /// Prefixes received, both families, those that import refused included.
    pub received: u64,
    /// Prefixes advertised, both families.
    pub advertised: u64,
}

/// What the kernel holds for us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// The policy backend in use, for example `iptables-nft`.
    pub backend: String,
    /// Local workload endpoints programmed.
    pub endpoints: u64,
    /// Routes programmed: local, blackhole and learned.
    pub routes: u64,
    /// Objects that the kernel refused and that are retried, each in words.
    pub failing: Vec<String>,
}
