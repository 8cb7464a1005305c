//! Which kernel interface the rules are written to, and how that is decided.

use std::fmt;

use super::{driver::FilterError, iptables::Iptables};
use crate::{
    iptables::{self, Holding, Programs, Variant},
    nft,
};

/// Where the rules are. A host has them in one place at a time; while they move, in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// Chains in a variant of iptables, and ipsets.
    Iptables(Variant),
    /// A table of our own in nf_tables, written by netlink.
    Nftables,
}

impl Backend {
    /// All there are.
    pub const ALL: [Self; 3] = [
        Self::Nftables,
        Self::Iptables(Variant::Nft),
        Self::Iptables(Variant::Legacy),
    ];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables(variant) => write!(f, "iptables-{}", variant.name()),
            Self::Nftables => f.write_str("nftables"),
        }
    }
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// nftables, unless others have rules in iptables or the kernel has no nf_tables. What nftables
    /// accepts, a rule of others in iptables may still drop; what iptables accepts for us, not.
    #[default]
    Auto,
    /// nftables.
    Nftables,
    /// iptables, in the variant that others use.
    Iptables,
    /// This one and no other, from the first moment on.
    Exactly(Backend),
}

/// The backends that hold rules of ours, in the calling thread's network namespace.
#[must_use]
pub fn left_behind(programs: &Programs) -> Vec<Backend> {
    Survey::take(programs).left_behind()
}

/// The ipsets of ours.
#[must_use]
pub fn sets_left_behind() -> Vec<String> {
    Iptables::sets()
}

/// What this host has, and what it has of ours.
#[derive(Debug)]
pub(super) struct Survey {
    iptables: Vec<Holding>,
    nftables: bool,
    table: bool,
}

impl Survey {
    pub(super) fn take(programs: &Programs) -> Self {
        Self {
            iptables: iptables::holdings(programs),
            nftables: nft::is_supported(),
            table: nft::is_present(),
        }
    }

    /// What a wish means here.
    pub(super) fn resolve(&self, wish: Wish) -> Result<Backend, FilterError> {
        let in_use = iptables::in_use(&self.iptables);
        let of_others = in_use.as_ref().ok().filter(|holding| holding.others > 0);
        match wish {
            Wish::Exactly(backend) => Ok(backend),
            Wish::Nftables => Ok(Backend::Nftables),
            Wish::Auto if self.nftables && of_others.is_none() => Ok(Backend::Nftables),
            Wish::Auto | Wish::Iptables => Ok(Backend::Iptables(in_use?.variant)),
        }
    }

    /// The backends that hold rules of ours.
    pub(super) fn left_behind(&self) -> Vec<Backend> {
        let table = self.table.then_some(Backend::Nftables);
        let ours = self.iptables.iter().filter(|holding| holding.ours > 0);
        let ours = ours.map(|holding| Backend::Iptables(holding.variant));
        table.into_iter().chain(ours).collect()
    }
}
