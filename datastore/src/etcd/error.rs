//! What an etcd failure means for the caller.

use std::error::Error as _;
use std::time::Duration;

use margay_model::store::StoreError;
use tonic::{Code, ConnectError, Status};

use crate::txn::{rejected, unavailable};

/// Why a request to one endpoint failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It never left this host: safe to send elsewhere.
    Unsent(String),
    /// No answer, or none that tells whether it took effect.
    Unknown(String),
    /// The revision asked for is no longer kept.
    Compacted,
    /// Credentials or rights.
    Denied(String),
    /// The request itself is at fault.
    Rejected(String),
    /// User name and password are given, the server has authentication switched off.
    AuthDisabled,
}

impl Failure {
    pub(super) fn timeout(after: Duration) -> Self {
        Self::Unknown(format!("no answer within {:.1} s", after.as_secs_f32()))
    }

    pub(super) fn into_store_error(self, key: &str) -> StoreError {
        match self {
            Self::Unsent(reason) | Self::Unknown(reason) => unavailable(reason),
            Self::Compacted => unavailable("compaction overtook the list"),
            Self::Denied(reason) => StoreError::PermissionDenied {
                key: key.to_owned(),
                reason,
            },
            Self::Rejected(reason) => rejected(reason),
            Self::AuthDisabled => rejected("authentication is not enabled in etcd".into()),
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error;
        match error {
            Error::GRpcStatus(status) => from_status(&status),
            Error::InvalidArgs(reason) => Self::Rejected(reason),
            Error::InvalidUri(e) => Self::Rejected(e.to_string()),
            Error::InvalidMetadataValue(e) => Self::Rejected(e.to_string()),
            other => Self::Unknown(other.to_string()),
        }
    }
}

fn from_status(status: &Status) -> Failure {
    let reason = status.message().to_owned();
    match status.code() {
        // etcd answers wrong credentials, and none at all, with InvalidArgument.
        Code::InvalidArgument
            if reason.contains("authentication failed")
                || reason.contains("user name is empty") =>
        {
            Failure::Denied(reason)
        }
        Code::PermissionDenied | Code::Unauthenticated => Failure::Denied(reason),
        Code::FailedPrecondition if reason.contains("authentication is not enabled") => {
            Failure::AuthDisabled
        }
        Code::OutOfRange if reason.contains("compacted") => Failure::Compacted,
        Code::ResourceExhausted if reason.contains("too many requests") => Failure::Unknown(reason),
        Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange => {
            Failure::Rejected(reason)
        }
        _ => unanswered(status),
    }
}

/// The status of a request without an answer: its sources tell whether a connection existed.
fn unanswered(status: &Status) -> Failure {
    let mut reason = status.message().to_owned();
    let mut unsent = false;
    let mut cause = status.source();
    while let Some(error) = cause {
        unsent |= error.is::<ConnectError>();
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = error.source();
    }
    if unsent {
        Failure::Unsent(reason)
    } else {
        Failure::Unknown(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, message: &str) -> Failure {
        Failure::from(etcd_client::Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn statuses_mean_what_the_caller_must_do() {
        let denied = failure(
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        );
        assert!(matches!(denied, Failure::Denied(_)));
        let full = failure(
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        );
        assert!(matches!(full, Failure::Rejected(_)));
        let busy = failure(Code::ResourceExhausted, "etcdserver: too many requests");
        assert!(matches!(busy, Failure::Unknown(_)));
        let leader = failure(Code::Unavailable, "etcdserver: leader changed");
        assert!(matches!(leader, Failure::Unknown(_)));
        let old = failure(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        assert_eq!(old, Failure::Compacted);
    }
}
