//! iptables in both variants: which one to use, reading back, and exact batches of changes.
//!
//! [`Variant`] says which of the two. [`Tables`] holds the chains that one family should have and those
//! that the kernel has, and writes the difference with one `iptables-restore --noflush`. Only chains
//! with our prefix and the jumps to them are ever touched.

mod chain;
mod counters;
mod dispatch;
mod save;
mod tables;
#[cfg(test)]
mod tests;
mod text;
mod variant;

pub(crate) use self::{
    chain::Rank,
    counters::ChainHits,
    dispatch::chains as dispatch_chains,
    save::Saved,
    tables::{Tables, TablesReport},
    variant::{Holding, holdings, in_use},
};
pub use self::{
    counters::Hits,
    variant::{BackendError, Programs, RestoreError, Variant},
};

#[cfg(test)]
pub(crate) use self::text::lines;

/// The tables in use, in the order in which a batch changes them: spoofed packets are stopped
/// before anything is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// Before conntrack.
    Raw,
    /// Before translation of destinations.
    Mangle,
    /// The verdict.
    Filter,
    /// Address translation.
    Nat,
}

impl Table {
    pub(crate) const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Filter, Self::Nat];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}
