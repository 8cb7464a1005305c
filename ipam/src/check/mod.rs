//! Holds the records of address management against each other and against what names addresses, while
//! everybody goes on working: no lock, no pause.
//!
//! [`Snapshot::new`] takes two listings, [`judge`] finds what looks wrong, [`confirmed`] keeps what two
//! snapshots agree on, and [`repair`] turns one finding into one transaction that compares all it
//! relies on. Nothing here reads or writes: the caller lists, commits, and hands back to
//! [`Snapshot::apply`] what was committed.
//!
//! Two rules keep a repair from doing damage. An address is freed only if no endpoint and no node
//! names it, every endpoint and node could be read, and it was assigned longer than a grace period ago.
//! And whoever begins to use an address that is on record already (an ADD that is repeated) writes its
//! handle, which the transaction that frees it compares.

mod address;
mod fault;
mod judge;
mod mend;
mod repair;
mod snapshot;
mod user;

pub use address::{AddressUse, Summary};
pub use fault::{Fault, Finding, Severity};
pub use judge::{confirmed, judge};
pub use mend::{Mended, commit, look, mend};
pub use repair::{Free, Repair, release, repair};
pub use snapshot::{RESOURCE_KINDS, Snapshot};
pub use user::User;

use jiff::Timestamp;

/// For how long after its assignment nobody minds that nothing uses an address, in seconds.
pub const DEFAULT_GRACE_SECS: u32 = 60;

/// When a check takes place.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// The time.
    pub now: Timestamp,
    /// Younger addresses and blocks are left alone.
    pub grace_secs: u32,
}

impl When {
    /// Whether something that began at `since` is old enough to be judged. Clocks differ: what began in
    /// the future is young.
    fn is_past_grace(self, since: Timestamp) -> bool {
        self.now.as_second() - since.as_second() >= i64::from(self.grace_secs)
    }
}

#[cfg(test)]
mod tests;
