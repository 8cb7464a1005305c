//! Why something was not done, in one line each.

use margay_model::field_error::FieldError;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::StoreError;
use margay_model::stored::DecodeError;

/// Why a request to the datastore was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The store did not answer as asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored is damaged.
    #[error(transparent)]
    Damaged(#[from] DecodeError),
    /// It exists and should not.
    #[error("exists already")]
    Exists,
    /// It does not exist and should.
    #[error("does not exist")]
    Missing,
    /// Somebody else changed it.
    #[error(
        "changed by somebody else: resourceVersion: found \"{given}\", the datastore has {stored}; \
         get it again and repeat the change"
    )]
    Conflict {
        /// What the change was based on.
        given: String,
        /// What there is.
        stored: String,
    },
    /// The resource may not be as it is, or not be changed so.
    #[error("{}", join(.0))]
    Refused(Vec<FieldError>),
    /// The change does not fit what is stored.
    #[error("patch: {0}")]
    Patch(String),
    /// It may not be deleted.
    #[error("may not be deleted: {0}")]
    Kept(String),
}

fn join(errors: &[FieldError]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Why the whole command ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    /// The command line or the configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// There is nothing in the files.
    #[error("{0}: no resources found")]
    NoResources(String),
    /// Datastore or agent say no.
    #[error("{0}")]
    Refused(String),
    /// Datastore or agent cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// All is said; this is the exit code.
    #[error("exit code {0}")]
    Told(u8),
    /// Output cannot be written.
    #[error("output: {0}")]
    Output(#[from] std::io::Error),
}

impl Fatal {
    /// The exit code.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Output(_) | Self::Refused(_) => 1,
            Self::Told(code) => *code,
            Self::Usage(_) | Self::NoResources(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    /// A kind that does not exist.
    pub(crate) fn kind(found: &str) -> Self {
        let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        Self::Usage(format!(
            "kind: found \"{found}\", allowed: {}",
            kinds.join(", ")
        ))
    }
}

/// A failure of one resource; or one that all others would meet too.
pub(crate) fn single(key: &ResourceKey, failure: &Failure) -> Result<String, Fatal> {
    match failure {
        Failure::Store(StoreError::Unavailable { .. }) => {
            Err(Fatal::Unreachable(failure.to_string()))
        }
        // It names the key itself.
        Failure::Damaged(error) => Ok(error.to_string()),
        other => Ok(format!("{key}: {other}")),
    }
}
