//! What can go wrong, and how the kernel says it.

use std::{fmt, io};

/// The kernel refused one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own explanation (extended acknowledgement), when it gave one.
    pub text: Option<String>,
}

impl RequestError {
    /// What was to be created is there.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.errno == libc::EEXIST
    }

    /// What was to be changed or removed is not there: no device, no route, no neighbour, no address.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(
            self.errno,
            libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL
        )
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{} ({text})", io::Error::from_raw_os_error(self.errno)),
            None => io::Error::from_raw_os_error(self.errno).fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

/// A conversation with the kernel failed. The caller retries; only [`NetlinkError::Refused`] is about the request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be made or used.
    #[error("netlink {action}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel dropped messages because the receive buffer was full: the outcome of the requests is unknown.
    #[error("netlink receive buffer overrun, the outcome is unknown")]
    Overrun,
    /// The kernel did not answer in time.
    #[error("no answer from the kernel within {0} s")]
    Timeout(u64),
    /// What was dumped changed under the dump again and again.
    #[error("the kernel's tables changed during each of {0} dumps")]
    DumpInterrupted(u32),
    /// The kernel refused the request.
    #[error("the kernel refused: {0}")]
    Refused(#[from] RequestError),
}

impl NetlinkError {
    /// The request's own error, when it is one.
    #[must_use]
    pub const fn refused(&self) -> Option<&RequestError> {
        match self {
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}
