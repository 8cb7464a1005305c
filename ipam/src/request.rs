//! What callers ask for and what they get.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use margay_model::ipam::{AllocationAttribute, BlockCidr};
use margay_model::ippool::PoolUse;
use margay_model::store::{Revision, Txn};

use crate::pool::Requested;

/// An address and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: BlockCidr,
    /// The block is not affine to this node: the route to the single address must be announced.
    pub borrowed: bool,
}

/// What else belongs to the same transaction.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Compares and changes, for example the workload's endpoint. A compare that does not hold
    /// fails the request with [`crate::IpamError::ExtraConflict`]. It must not touch the keys of
    /// address management.
    pub txn: Txn,
    /// Keys to be written unless they exist; an existing one is left alone and is no conflict.
    /// For what many workloads share, such as the network's profile.
    pub create_if_absent: Vec<(String, Vec<u8>)>,
}

impl From<Txn> for Extra {
    fn from(txn: Txn) -> Self {
        Self {
            txn,
            create_if_absent: Vec::new(),
        }
    }
}

/// Makes the [`Extra`] of an assignment out of its addresses. Called again for each attempt, so it
/// must be free of side effects.
pub type ExtraFn = Box<dyn Fn(&[Address]) -> Extra + Send + Sync>;

/// Evaluates a pool's namespaceSelector against the workload's namespace.
pub type NamespaceFn = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Addresses for a workload: all of them, or none.
pub struct AssignRequest {
    /// Who holds the addresses, `<network>.<container id>` for containers.
    pub handle_id: String,
    /// What is recorded beside the handle. `node` and `timestamp` are added.
    pub attrs: BTreeMap<String, String>,
    /// How many IPv4 addresses, beside those in `ips`.
    pub v4: u32,
    /// How many IPv6 addresses, beside those in `ips`.
    pub v6: u32,
    /// Pools for the IPv4 addresses; empty: those whose selectors match.
    pub v4_pools: Vec<Requested>,
    /// Pools for the IPv6 addresses; empty: those whose selectors match.
    pub v6_pools: Vec<Requested>,
    /// Specific addresses.
    pub ips: Vec<IpAddr>,
    /// What for.
    pub wanted: PoolUse,
    /// Evaluates namespaceSelectors; without it, only pools without one serve the request.
    pub namespace: Option<NamespaceFn>,
    /// Addresses that the handle holds already count towards `v4`, `v6` and `ips`: asking twice
    /// gives the same answer. Switch it off for a second interface under one handle.
    pub adopt: bool,
    /// For an identity's handle (see [`crate::sticky`]): addresses that it holds get the attributes of this
    /// request, provided that what is recorded beside them is among these, as looked up with
    /// [`crate::Allocator::held_by`]; else the request fails with [`crate::IpamError::Moved`].
    pub take_over: Option<Vec<Arc<AllocationAttribute>>>,
    /// The time.
    pub now: Timestamp,
    /// What else belongs to the transaction.
    pub extra: ExtraFn,
}

impl fmt::Debug for AssignRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssignRequest")
            .field("handle_id", &self.handle_id)
            .field("v4", &self.v4)
            .field("v6", &self.v6)
            .field("ips", &self.ips)
            .finish_non_exhaustive()
    }
}

impl AssignRequest {
    /// Asks for one address of each family named, for a workload, from any matching pool.
    pub fn new(handle_id: impl Into<String>, v4: u32, v6: u32, now: Timestamp) -> Self {
        Self {
            handle_id: handle_id.into(),
            attrs: BTreeMap::new(),
            v4,
            v6,
            v4_pools: Vec::new(),
            v6_pools: Vec::new(),
            ips: Vec::new(),
            wanted: PoolUse::Workload,
            namespace: None,
            adopt: true,
            take_over: None,
            now,
            extra: Box::new(|_| Extra::default()),
        }
    }

    /// Adds what else belongs to the transaction.
    #[must_use]
    pub fn with_extra<E: Into<Extra>>(
        mut self,
        extra: impl Fn(&[Address]) -> E + Send + Sync + 'static,
    ) -> Self {
        self.extra = Box::new(move |addresses| extra(addresses).into());
        self
    }
}

/// Gives back all addresses of a handle. Nothing there is success; `extra` is done in any case.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    /// The handle.
    pub handle_id: String,
    /// The time; the addresses rest from here on.
    pub now: Timestamp,
    /// What else belongs to the transaction.
    pub extra: Extra,
}

/// Gives back one address.
#[derive(Clone, Debug)]
pub struct ReleaseIpRequest {
    /// The address.
    pub ip: IpAddr,
    /// Only if it is held since this sequence number.
    pub sequence: Option<u64>,
    /// Only if it is held by this handle.
    pub handle_id: Option<String>,
    /// The time; the address rests from here on.
    pub now: Timestamp,
    /// What else belongs to the transaction.
    pub extra: Extra,
}

/// Gives up a block: it is removed when nobody holds an address of it, else it belongs to nobody.
#[derive(Clone, Debug)]
pub struct GiveUpRequest {
    /// The block.
    pub block: BlockCidr,
    /// The host that must own it.
    pub node: String,
}

/// Parks the addresses that a container holds of an identity's handle, for the time recorded beside them.
/// Addresses that another container has taken over are left alone; `extra` is done in any case.
#[derive(Clone, Debug)]
pub struct ParkRequest {
    /// The identity's handle.
    pub handle_id: String,
    /// The container that goes.
    pub container: String,
    /// The time; the lease runs from here on.
    pub now: Timestamp,
    /// What else belongs to the transaction.
    pub extra: Extra,
}

/// One change.
#[derive(Debug)]
pub enum Request {
    /// Take addresses.
    Assign(AssignRequest),
    /// Give back all addresses of a handle.
    Release(ReleaseRequest),
    /// Give back one address.
    ReleaseIp(ReleaseIpRequest),
    /// Keep an identity's addresses for its next container.
    Park(ParkRequest),
    /// Give up a block.
    GiveUp(GiveUpRequest),
}

/// A record that could not be read and was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The block.
    pub block: BlockCidr,
    /// What is wrong with its record.
    pub reason: String,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The addresses now held, or given back.
    pub addresses: Vec<Address>,
    /// The store's revision with the change, or at which there was nothing to change.
    pub revision: Revision,
    /// Blocks of the handle whose records are damaged; their addresses were not given back.
    pub skipped: Vec<Skipped>,
}
