//! The allocator: commits plans, and learns from what the store answers.

mod node;
mod run;
mod sticky;

use margay_model::ipam::{IpamConfig, IpamKeys};
use margay_model::store::{Revision, Store, StoreError};

use crate::address_set::AddressSet;
use crate::error::IpamError;
use crate::known::{Fence, Known};
use crate::own_keys;
use crate::pool::Pools;
use crate::request::{Address, AssignRequest, Outcome, ReleaseIpRequest, ReleaseRequest, Request};

pub use node::{Loaded, NodeBlock};

/// What the cluster's configuration says, as far as addresses are concerned.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All pools, also disabled ones.
    pub pools: Pools,
    /// The union of all `IPReservation`s: never assigned.
    pub reserved: AddressSet,
    /// Strict affinity, block limit, cooldown.
    pub config: IpamConfig,
}

/// Assigns and releases addresses on behalf of one node.
///
/// One owner drives it: methods that change something take `&mut self`, and requests that arrive
/// meanwhile are best collected and passed together to [`Self::run`], which packs as many as fit
/// into each transaction. With the node's blocks in memory a change costs exactly one transaction
/// and no read. Dropping the future of a call leaves it open whether its change was made, never
/// half of it; ask again with the same handle, or release it.
#[derive(Debug)]
pub struct Allocator<S> {
    store: S,
    root: String,
    known: Known,
    view: View,
}

impl<S: Store> Allocator<S> {
    /// For `node`, with keys below `root` (`/calico`). Call [`Self::load`] before the first use.
    pub fn new(store: S, root: &str, node: &str, view: View) -> Self {
        Self {
            store,
            root: root.to_owned(),
            known: Known::new(IpamKeys::new(root), node),
            view,
        }
    }

    /// Lets [`Self::load`] make void what earlier instances of this node's agent have under way. A
    /// transaction that a killed agent had sent may be committed after the next agent has found that
    /// there is nothing to release, and nobody would know of its addresses. So each instance writes its
    /// name, which must be unique, to a key that all its transactions compare.
    #[must_use]
    pub fn fenced(mut self, instance: &str) -> Self {
        self.known.fence = Some(Fence {
            key: own_keys::instance(&self.root, self.known.node()),
            instance: instance.to_owned(),
            revision: 0,
        });
        self
    }

    /// Where the records are.
    pub fn keys(&self) -> &IpamKeys {
        &self.known.keys
    }

    /// The configuration in force.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Replaces the configuration.
    pub fn set_view(&mut self, view: View) {
        self.known.full.clear();
        self.view = view;
    }

    /// Takes in a change below [`IpamKeys::all`] that a watch reported; `None` for a removal.
    /// Keeps the memory close to the store, so that transactions rarely conflict.
    pub fn observe(&mut self, key: &str, value: Option<&[u8]>, revision: Revision) {
        self.known.observe(key, value, revision);
    }

    /// Assigns addresses.
    pub async fn assign(&mut self, request: AssignRequest) -> Result<Outcome, IpamError> {
        self.run_one(Request::Assign(request)).await
    }

    /// Assigns addresses to many workloads at once.
    pub async fn assign_batch(
        &mut self,
        requests: Vec<AssignRequest>,
    ) -> Vec<Result<Outcome, IpamError>> {
        self.run(requests.into_iter().map(Request::Assign).collect())
            .await
    }

    /// Gives back all addresses of a handle.
    pub async fn release_by_handle(
        &mut self,
        request: ReleaseRequest,
    ) -> Result<Outcome, IpamError> {
        self.run_one(Request::Release(request)).await
    }

    /// Gives back one address. An address that nobody holds is success with no address.
    pub async fn release_ip(&mut self, request: ReleaseIpRequest) -> Result<Outcome, IpamError> {
        self.run_one(Request::ReleaseIp(request)).await
    }

    /// The addresses that a handle holds according to the store.
    pub async fn ips_of_handle(&mut self, id: &str) -> Result<Vec<Address>, IpamError> {
        let held = self.held_by(id).await?;
        Ok(held.into_iter().map(|held| held.address).collect())
    }

    async fn run_one(&mut self, request: Request) -> Result<Outcome, IpamError> {
        let mut results = self.run(vec![request]).await;
        results.pop().expect("one request has one result")
    }

    async fn read_block(&mut self, cidr: margay_model::ipam::BlockCidr) -> Result<(), StoreError> {
        let kv = self.store.get(&self.known.keys.block(cidr)).await?;
        self.known.set_block(cidr, kv.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
