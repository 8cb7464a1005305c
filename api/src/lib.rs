//! What travels over the agent's local unix socket: requests and answers, and how they are framed.
//!
//! A connection carries one request, a line of JSON, and one answer, a line of JSON; a store watch and
//! a list of routes are answered by many lines. The crate depends on serde alone, so that the CNI shim stays tiny.

pub mod bgp;
pub mod cni;
pub mod config;
pub mod flows;
pub mod kernel;
pub mod policy;
pub mod status;
pub mod store;

use serde::{Deserialize, Serialize};

/// Where the agent listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/margay/margayd.sock";

/// Where the shim leaves the DELs that it could not hand over, unless configured otherwise.
pub const DEFAULT_JOURNAL: &str = "/var/lib/margay/cni-journal";

/// The longest request line that the agent reads, in bytes; netconfs and objects are far smaller.
pub const MAX_REQUEST_BYTES: u64 = 8 << 20;

/// One request line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A call of the CNI shim; answered by a [`cni::CniReply`].
    Cni(cni::CniRequest),
    /// The state of this node; answered by a [`status::NodeStatus`].
    NodeStatus {},
    /// What the rules of this node matched; answered by [`policy::Counters`].
    PolicyCounters {},
    /// What policy of this node decided about which traffic; answered by a [`flows::FlowReport`].
    Flows(flows::FlowQuery),
    /// What this node's agent has been told beside the datastore; answered by [`config::HostSettings`].
    Settings {},
    /// A question to the kernel of this node; answered by one line.
    Kernel(kernel::KernelRequest),
    /// A question to the BGP speaker of this node; answered by one line or many.
    Bgp(bgp::BgpRequest),
    /// A call of the datastore behind the agent; answered by [`store::StoreReply`] lines.
    Store(store::StoreRequest),
}

/// One answer line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// What was asked for.
    Ok(T),
    /// Why there is no answer, for a person to read.
    Error(String),
}
