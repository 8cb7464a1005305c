//! What can be wrong with a message, and what RFC 4271 and RFC 7606 make of it.

use std::fmt;

use crate::wire::notification::{Kind, Notification};

/// An error that ends the session with a NOTIFICATION.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct WireError {
    what: &'static str,
    notification: Box<Notification>,
}

impl WireError {
    /// An error whose NOTIFICATION has no data.
    pub fn new(kind: Kind, what: &'static str) -> Self {
        Self {
            what,
            notification: Box::new(Notification::new(kind)),
        }
    }

    /// An error whose NOTIFICATION carries the offending octets.
    pub fn with_data(kind: Kind, what: &'static str, data: &[u8]) -> Self {
        Self {
            what,
            notification: Box::new(Notification::with_data(kind, data)),
        }
    }

    /// What to tell the peer.
    pub fn notification(&self) -> &Notification {
        &self.notification
    }

    /// Consumes the error into what to tell the peer.
    pub fn into_notification(self) -> Notification {
        *self.notification
    }
}

/// A path attribute that is wrong but does not end the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttrError {
    /// Attribute type code; 0 when the attribute list as such is wrong.
    pub code: u8,
    /// What is wrong with it.
    pub what: &'static str,
    /// What RFC 4271 would have told the peer; RFC 7606 sends nothing.
    pub kind: Kind,
}

impl fmt::Display for AttrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attribute {}: {}", self.code, self.what)
    }
}

/// What to do with the routes of an UPDATE (RFC 7606 section 2). Several errors in one message
/// leave the strongest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Nothing is wrong.
    #[default]
    Accept,
    /// Use the routes without the attribute, which has been left out of the result.
    AttributeDiscard(AttrError),
    /// Handle every announced prefix of the message as withdrawn.
    TreatAsWithdraw(AttrError),
    /// Send the NOTIFICATION and drop the session.
    Reset(WireError),
}

impl Verdict {
    const fn strength(&self) -> u8 {
        match self {
            Self::Accept => 0,
            Self::AttributeDiscard(_) => 1,
            Self::TreatAsWithdraw(_) => 2,
            Self::Reset(_) => 3,
        }
    }

    /// Keeps the stronger of both; of equals the earlier.
    pub fn raise(&mut self, other: Self) {
        if other.strength() > self.strength() {
            *self = other;
        }
    }

    /// Whether the routes may be used.
    pub const fn is_usable(&self) -> bool {
        matches!(self, Self::Accept | Self::AttributeDiscard(_))
    }
}
