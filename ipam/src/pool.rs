//! Pools, and which of them serve a request.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use margay_model::ipam::{BlockCidr, Family};
use margay_model::ippool::{IpPool, PoolUse};
use margay_model::net::Cidr;

use crate::address_set::{AddressSet, block_bounds, bounds};

/// What address management needs to know of an `IPPool`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The resource's name.
    pub name: String,
    /// The range.
    pub cidr: Cidr,
    /// Prefix length of its blocks.
    pub block_len: u8,
    /// No new addresses from here.
    pub disabled: bool,
    /// Serves requests that name no pool.
    pub automatic: bool,
    /// What its addresses may be used for.
    pub uses: Vec<PoolUse>,
    /// Whether the pool's `nodeSelector` matches this node.
    pub selects_node: bool,
    /// The pool's `namespaceSelector`; `None` when it matches all.
    pub namespace_selector: Option<String>,
    /// RFC 3339; where two pools overlap the older one stays.
    pub created: String,
}

/// Why pools cannot serve a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The request names a pool that does not exist.
    #[error("pool {0:?} does not exist")]
    Unknown(String),
    /// The request names a pool of the other family.
    #[error("pool {pool:?} ({cidr}) is not an {family} pool")]
    WrongFamily {
        /// The pool.
        pool: String,
        /// Its range.
        cidr: Cidr,
        /// The family asked for.
        family: Family,
    },
    /// The pool gives no new addresses.
    #[error("pool {0:?} is disabled")]
    Disabled(String),
    /// The pool's `allowedUses` lacks what is asked for.
    #[error("pool {pool:?} does not allow the use {wanted}; allowed: {allowed}")]
    Use {
        /// The pool.
        pool: String,
        /// What for.
        wanted: String,
        /// What it allows.
        allowed: String,
    },
    /// The pool shares addresses with an older one.
    #[error("pool {pool:?} is not used: its range overlaps that of the older pool {with:?}")]
    Overlap {
        /// The pool.
        pool: String,
        /// The older one.
        with: String,
    },
    /// The pool's block size fits neither the family nor the range.
    #[error("pool {pool:?} is not used: blockSize {block_len} is not in {min} to {max}")]
    BlockSize {
        /// The pool.
        pool: String,
        /// The block size found.
        block_len: u8,
        /// Shortest prefix allowed.
        min: u8,
        /// Longest prefix allowed.
        max: u8,
    },
    /// No pool is enabled, automatic and selected.
    #[error("no {family} pool serves node and namespace ({considered})")]
    NoneMatches {
        /// The family.
        family: Family,
        /// Each pool of the family with what speaks against it.
        considered: String,
    },
    /// The address lies in no pool.
    #[error("{0} lies in no pool")]
    Outside(IpAddr),
}

/// A pool that a request names: by name, or by its CIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// By the resource's name.
    Name(String),
    /// By exactly its range.
    Cidr(Cidr),
}

impl FromStr for Requested {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Names never hold a slash.
        Ok(match text.parse() {
            Ok(cidr) if text.contains('/') => Self::Cidr(cidr),
            _ => Self::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Cidr(cidr) => cidr.fmt(f),
        }
    }
}

impl Pool {
    /// From the resource. `node_matches` evaluates a selector against this node's labels.
    pub fn new(resource: &IpPool, node_matches: impl FnOnce(&str) -> bool) -> Self {
        let spec = &resource.spec;
        let uses = match spec.allowed_uses.is_empty() {
            true => vec![PoolUse::Workload, PoolUse::Tunnel],
            false => spec.allowed_uses.clone(),
        };
        Self {
            name: resource.metadata.name.clone(),
            cidr: spec.cidr,
            block_len: spec.block_size(),
            disabled: spec.disabled,
            automatic: spec.automatic(),
            uses,
            selects_node: spec.node_selector.as_deref().is_none_or(node_matches),
            namespace_selector: spec
                .namespace_selector
                .clone()
                .filter(|s| !matches!(s.trim(), "" | "all()")),
            created: resource
                .metadata
                .creation_timestamp
                .clone()
                .unwrap_or_default(),
        }
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.cidr.addr())
    }

    /// How many addresses; `u128::MAX` for all of IPv6.
    pub fn size(&self) -> u128 {
        let (first, last) = bounds(self.cidr);
        (last - first).saturating_add(1)
    }

    /// Whether the block lies in the range.
    pub fn contains_block(&self, block: BlockCidr) -> bool {
        let (first, last) = bounds(self.cidr);
        let (from, to) = block_bounds(block);
        self.family() == block.family() && first <= from && to <= last
    }

    fn check_use(&self, wanted: PoolUse) -> Result<(), PoolError> {
        if self.uses.contains(&wanted) {
            return Ok(());
        }
        let allowed: Vec<_> = self.uses.iter().map(|u| u.to_string()).collect();
        Err(PoolError::Use {
            pool: self.name.clone(),
            wanted: wanted.to_string(),
            allowed: allowed.join(", "),
        })
    }

    /// A block of this pool that touches nothing in `occupied` and is not wholly in `reserved`,
    /// searched upwards from a place that `seed` decides, around the end of the pool once.
    pub(crate) fn free_block(
        &self,
        seed: u64,
        occupied: &AddressSet,
        reserved: &AddressSet,
    ) -> Option<BlockCidr> {
        let family = self.family();
        let (first, last) = bounds(self.cidr);
        let size = 1u128 << (family.bits() - self.block_len);
        let blocks = (last - first) / size + 1;
        let start = first + (u128::from(seed) % blocks) * size;
        let found =
            Self::free_between(family, size, start, last, occupied, reserved).or_else(|| {
                let before = start.checked_sub(1).filter(|to| *to >= first)?;
                Self::free_between(family, size, first, before, occupied, reserved)
            });
        BlockCidr::containing(family.address(found?), self.block_len).ok()
    }

    /// The first aligned `size` addresses within `from..=to`. Each step passes a whole range of
    /// `occupied` or `reserved`, so the cost is the number of ranges, not of addresses.
    fn free_between(
        family: Family,
        size: u128,
        from: u128,
        to: u128,
        occupied: &AddressSet,
        reserved: &AddressSet,
    ) -> Option<u128> {
        let mut at = from;
        loop {
            let end = at.checked_add(size - 1).filter(|end| *end <= to)?;
            let beyond = match occupied.first_overlap(family, at, end) {
                Some((_, occupied_to)) => occupied_to.checked_add(1)?,
                None => match reserved.first_overlap(family, at, at) {
                    Some((_, reserved_to)) if reserved_to >= end => {
                        // The last block that the range covers only in part is usable.
                        reserved_to.checked_add(1)? & !(size - 1)
                    }
                    _ => return Some(at),
                },
            };
            at = beyond.checked_add(size - 1)? & !(size - 1);
        }
    }
}

/// All pools of the cluster, in ascending order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pools {
    pools: Vec<Pool>,
    /// By index: why a pool is not used at all.
    broken: Vec<Option<PoolError>>,
}

impl Pools {
    /// Sorts, and finds pools that must not be used: those that overlap an older one, and those
    /// whose block size does not fit.
    pub fn new(pools: impl IntoIterator<Item = Pool>) -> Self {
        let mut pools: Vec<Pool> = pools.into_iter().collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        let broken = pools.iter().map(|pool| Self::fault(pool, &pools)).collect();
        Self { pools, broken }
    }

    fn fault(pool: &Pool, all: &[Pool]) -> Option<PoolError> {
        let max = pool.family().bits();
        let min = pool.cidr.prefix_len().max(max - 12);
        if !(min..=max).contains(&pool.block_len) {
            return Some(PoolError::BlockSize {
                pool: pool.name.clone(),
                block_len: pool.block_len,
                min,
                max,
            });
        }
        let age = |p: &Pool| (p.created.clone(), p.name.clone());
        let older = all.iter().find(|other| {
            other.name != pool.name && age(other) < age(pool) && other.cidr.overlaps(pool.cidr)
        });
        older.map(|other| PoolError::Overlap {
            pool: pool.name.clone(),
            with: other.name.clone(),
        })
    }

    /// All pools.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }

    /// The faults that keep pools from being used, to be shown to the operator.
    pub fn faults(&self) -> impl Iterator<Item = &PoolError> {
        self.broken.iter().flatten()
    }

    /// The pool of an address; of overlapping ones the one that is used.
    pub fn of_address(&self, ip: IpAddr) -> Option<&Pool> {
        let healthy = self
            .pools
            .iter()
            .zip(&self.broken)
            .filter(|(_, fault)| fault.is_none());
        healthy
            .map(|(pool, _)| pool)
            .find(|pool| pool.cidr.contains(ip))
    }

    /// The pools that serve a request, in the order in which to use them.
    ///
    /// Requested ones must all exist, be enabled, of the family and fit for the use; their selectors
    /// and assignment mode are ignored. Otherwise all enabled, automatic ones whose selectors match:
    /// `namespace_matches` evaluates a namespaceSelector.
    pub fn select(
        &self,
        requested: &[Requested],
        family: Family,
        wanted: PoolUse,
        namespace_matches: impl Fn(&str) -> bool,
    ) -> Result<Vec<&Pool>, PoolError> {
        if !requested.is_empty() {
            let mut seen = BTreeSet::new();
            let pools = requested.iter().map(|r| self.requested(r, family, wanted));
            let pools = pools.collect::<Result<Vec<_>, _>>()?;
            return Ok(pools.into_iter().filter(|p| seen.insert(&p.name)).collect());
        }
        let mut against = Vec::new();
        let mut serving = Vec::new();
        for (pool, fault) in self.pools.iter().zip(&self.broken) {
            if pool.family() != family {
                continue;
            }
            match Self::objection(pool, fault.as_ref(), wanted, &namespace_matches) {
                None => serving.push(pool),
                Some(reason) => against.push(format!("{}: {reason}", pool.name)),
            }
        }
        if serving.is_empty() {
            let considered = match against.is_empty() {
                true => "there is none".to_owned(),
                false => against.join("; "),
            };
            return Err(PoolError::NoneMatches { family, considered });
        }
        Ok(serving)
    }

    fn objection(
        pool: &Pool,
        fault: Option<&PoolError>,
        wanted: PoolUse,
        namespace_matches: impl Fn(&str) -> bool,
    ) -> Option<&'static str> {
        let namespace_selected = || {
            pool.namespace_selector
                .as_deref()
                .is_none_or(&namespace_matches)
        };
        match fault {
            Some(PoolError::Overlap { .. }) => Some("overlaps an older pool"),
            Some(_) => Some("its blockSize does not fit"),
            None if pool.disabled => Some("disabled"),
            None if !pool.automatic => Some("only assigned on request"),
            None if !pool.uses.contains(&wanted) => Some("not for this use"),
            None if !pool.selects_node => Some("nodeSelector does not match"),
            None if !namespace_selected() => Some("namespaceSelector does not match"),
            None => None,
        }
    }

    fn requested(
        &self,
        requested: &Requested,
        family: Family,
        wanted: PoolUse,
    ) -> Result<&Pool, PoolError> {
        let index = self.pools.iter().position(|pool| match requested {
            Requested::Name(name) => pool.name == *name,
            Requested::Cidr(cidr) => pool.cidr == *cidr,
        });
        let index = index.ok_or_else(|| PoolError::Unknown(requested.to_string()))?;
        let pool = &self.pools[index];
        if pool.family() != family {
            return Err(PoolError::WrongFamily {
                pool: pool.name.clone(),
                cidr: pool.cidr,
                family,
            });
        }
        self.usable(index, wanted)
    }

    /// The pool of a specific address, if addresses may be taken from it.
    pub(crate) fn for_address(&self, ip: IpAddr, wanted: PoolUse) -> Result<&Pool, PoolError> {
        let pool = self.of_address(ip).ok_or(PoolError::Outside(ip))?;
        if pool.disabled {
            return Err(PoolError::Disabled(pool.name.clone()));
        }
        pool.check_use(wanted)?;
        Ok(pool)
    }

    fn usable(&self, index: usize, wanted: PoolUse) -> Result<&Pool, PoolError> {
        let pool = &self.pools[index];
        if let Some(fault) = &self.broken[index] {
            return Err(fault.clone());
        }
        if pool.disabled {
            return Err(PoolError::Disabled(pool.name.clone()));
        }
        pool.check_use(wanted)?;
        Ok(pool)
    }
}

#[cfg(test)]
mod tests;
