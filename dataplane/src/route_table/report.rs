//! What was done, what did not work, and why.

use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::netlink::{NetlinkError, RequestError};

/// A change that did not work. It is tried again by a later `apply`.
#[derive(Debug, thiserror::Error)]
#[error("route {prefix}: {reason}")]
pub struct Failure {
    /// The route.
    pub prefix: IpNetwork,
    /// Why.
    pub reason: FailureReason,
}

/// Why a change did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FailureReason {
    /// The interface is not there (yet).
    #[error("interface {0} does not exist")]
    NoInterface(Arc<str>),
    /// The kernel refused it.
    #[error("the kernel refused: {0}")]
    Refused(RequestError),
    /// The outcome is unknown.
    #[error("{0}")]
    Unknown(Arc<NetlinkError>),
    /// A route with the same metric belongs to somebody else.
    #[error("the kernel has a route of protocol {protocol} with the same metric {metric}")]
    Conflict {
        /// The other's protocol.
        protocol: u8,
        /// The metric.
        metric: u32,
    },
}

/// What an `apply` did.
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// Routes added.
    pub added: usize,
    /// Routes put in the place of others of ours.
    pub replaced: usize,
    /// Routes deleted.
    pub deleted: usize,
    /// What did not work, without the conflicts.
    pub failed: Vec<Failure>,
    /// Routes that another protocol has with the same metric.
    pub conflicts: Vec<Failure>,
    /// When to call `apply` again for what did not work.
    pub retry_after: Option<Duration>,
}

/// How far the kernel was from what it should be.
#[derive(Debug, Default)]
pub struct ResyncReport {
    /// Wanted routes that were not there though they had been added.
    pub missing: usize,
    /// Routes of ours that lead elsewhere than wanted.
    pub different: usize,
    /// Routes of ours that nobody wants.
    pub unwanted: usize,
    /// Wanted routes that were found and had not been added by this table: from an earlier run.
    pub adopted: usize,
    /// The repair.
    pub repair: ApplyReport,
}
