//! Why a call fails, as the user of `docker` reads it.

use std::net::IpAddr;

use margay_dataplane::attach::AttachError;
use margay_model::store::StoreError;

use crate::causes::in_full;
use crate::ipam_task::TaskError;

/// dockerd shows the text behind "Error response from daemon". It repeats a call by itself only when nobody answers.
#[derive(Debug, thiserror::Error)]
pub(super) enum DockerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error("{}", in_full(.0))]
    Attach(#[from] AttachError),
    /// dockerd repeats a call whose answer it did not get, but has spent its content.
    #[error(
        "the agent ended during the call, and dockerd repeats it without its content: try again"
    )]
    Empty,
    #[error("{0}")]
    NotNow(&'static str),
    #[error("{option} is {found:?}, must be {allowed}")]
    Option {
        option: String,
        found: String,
        allowed: String,
    },
    #[error("unknown option {found}, there are {known}")]
    UnknownOption { found: String, known: String },
    #[error(
        "the network's addresses are not this driver's: create it with --ipam-driver margay as well"
    )]
    ForeignIpam,
    #[error("this host has no network {0}: remove it with docker network rm, and create it again")]
    UnknownNetwork(String),
    #[error("this host has no endpoint {0}: it was cleared away; start the container again")]
    UnknownEndpoint(String),
    #[error("no IPPool has the range {found}; there are: {pools}")]
    NoSuchPool { found: String, pools: String },
    #[error("there is no enabled IPPool for {0}")]
    NoPool(&'static str),
    #[error("{ip} belongs to endpoint {owner} of this host")]
    InUse { ip: IpAddr, owner: String },
    #[error("container {0} is on more than {1} networks of this driver")]
    TooManyNetworks(String, u8),
    #[error("network {0} is created and removed by others all the time, gave up")]
    Contention(String),
    #[error("policy or route cannot be programmed: {0}")]
    Refused(String),
    #[error("the kernel has not acknowledged within {0} s")]
    Slow(u64),
    #[error("port {port} of the host is taken by {by}")]
    PortTaken { port: String, by: String },
    #[error("no port of the host is free between {first} and {last}")]
    NoFreePort { first: u16, last: u16 },
    #[error("{0}")]
    Failed(String),
}

impl DockerError {
    pub(super) fn option(
        option: impl Into<String>,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Option {
            option: option.into(),
            found: found.into(),
            allowed: allowed.into(),
        }
    }

    /// Whether the datastore was merely away.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Unavailable { .. }),
            Self::Task(error) => error.transient(),
            _ => false,
        }
    }
}
