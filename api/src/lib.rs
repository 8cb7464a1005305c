//! What travels over the agent's local unix socket: requests and answers, and how they are framed.
//!
//! A connection carries one request line and one or more answer lines; each line is one JSON value.
//! The crate depends on serde alone, so that the CNI shim stays tiny.

use serde::{Deserialize, Serialize};

/// Where the agent listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/margay/margayd.sock";

/// Where the shim leaves the DELs that it could not hand over, unless configured otherwise.
pub const DEFAULT_JOURNAL: &str = "/var/lib/margay/cni-journal";

/// A CNI call as the runtime made it: the environment and the configuration, not interpreted.
///
/// The same value, as one JSON file, is the journal entry of a DEL while the agent was down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniRequest {
    /// `CNI_COMMAND`: ADD, DEL, CHECK, GC or STATUS (VERSION is answered by the shim itself).
    pub command: String,
    /// `CNI_CONTAINERID`; empty when unset.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`; empty when unset, which is legal for DEL.
    #[serde(default)]
    pub netns: String,
    /// `CNI_IFNAME`; empty when unset.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_ARGS`; empty when unset.
    #[serde(default)]
    pub args: String,
    /// `CNI_PATH`; empty when unset.
    #[serde(default)]
    pub path: String,
    /// Standard input as it came: the plugin's JSON configuration.
    pub config: String,
}

/// The answer to a [`CniRequest`]: what the shim prints and how it exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniReply {
    /// Exit status of the shim: 0 or 1.
    pub exit: u8,
    /// For standard output: a CNI result, a CNI error, or nothing.
    pub stdout: String,
}
