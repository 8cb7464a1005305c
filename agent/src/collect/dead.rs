//! Nodes that are gone: their endpoints, addresses, blocks and affinities.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use margay_datastore::AnyStore;
use margay_ipam::{Allocator, ParkRequest, ReleaseRequest, Request, own_keys};
use margay_model::any::AnyResource;
use margay_model::ipam::{IpamKeys, Owner};
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::{Store, Txn, TxnOutcome};
use margay_model::stored::decode_stored;
use margay_model::workload_endpoint::WorkloadEndpoint;
use tracing::{info, warn};

use super::{CollectError, Collector, borrowed, end_leases};
use crate::cni::{HANDLE_ANNOTATION, is_sticky};
use crate::docker::{forget_networks, hosts_with_networks};

/// All blocks are read at the first look and each time after so many: they are most of what address
/// management stores. In between it is enough to know who owns blocks.
const BLOCKS_EVERY: u32 = 10;

/// What the leader remembers from look to look.
#[derive(Debug, Default)]
pub(super) struct Dead {
    /// Nodes without a Node resource that have something, and since when.
    since: BTreeMap<String, Instant>,
    /// Nodes whose agents were alive at the last look.
    alive: BTreeSet<String>,
    looks: u32,
    /// Nodes that hold addresses, as of the last look at all blocks.
    holders: BTreeSet<String>,
}

impl Dead {
    pub(super) async fn look(
        &mut self,
        collector: &Collector,
        allocator: &mut Allocator<AnyStore>,
    ) -> Result<(), CollectError> {
        // Addresses before nodes: a node that registers in between is not missing.
        let mut having = allocator.owners().await?;
        if self.looks.is_multiple_of(BLOCKS_EVERY) {
            let (held, owners) = allocator.held_everywhere().await?;
            end_leases(allocator, &held).await;
            let holders = held.iter().filter_map(|held| held.attr("node"));
            self.holders = holders.map(str::to_owned).collect();
            borrowed::tell(collector, &borrowed::by_node(&held, &owners)).await?;
            having.extend(owners.into_values().filter_map(|owner| match owner {
                Some(Owner::Host(node)) => Some(node),
                _ => None,
            }));
        }
        self.looks += 1;
        having.extend(self.holders.iter().cloned());
        // A host that never ran a container may have networks all the same.
        having.extend(hosts_with_networks(&collector.store, &collector.keys).await?);
        let nodes = registered(collector).await?;
        if !nodes.contains(&collector.node) {
            // Who is missing itself is no judge of others.
            self.since.clear();
            return Ok(());
        }
        self.report_silent(collector, &nodes).await?;
        let missing = having.into_iter().filter(|node| !nodes.contains(node));
        for node in self.ripe(missing.collect(), collector.grace, Instant::now()) {
            clear(&node, collector, allocator).await?;
            self.holders.remove(&node);
        }
        Ok(())
    }

    fn ripe(&mut self, missing: BTreeSet<String>, grace: Duration, now: Instant) -> Vec<String> {
        let before = std::mem::take(&mut self.since);
        let mut ripe = Vec::new();
        for node in missing {
            let first = before.get(&node).copied();
            if first.is_none() {
                let secs = grace.as_secs();
                warn!(
                    node,
                    "has addresses and no Node resource, cleared in {secs} s"
                );
            }
            if first.is_some_and(|first| now.duration_since(first) >= grace) {
                ripe.push(node.clone());
            }
            self.since.insert(node, first.unwrap_or(now));
        }
        ripe
    }

    async fn report_silent(
        &mut self,
        collector: &Collector,
        nodes: &BTreeSet<String>,
    ) -> Result<(), CollectError> {
        let prefix = own_keys::alive(collector.keys.prefix());
        let listing = collector.store.list(&prefix).await?;
        let alive: BTreeSet<String> = listing
            .kvs
            .iter()
            .filter_map(|kv| kv.key.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        for node in self.alive.difference(&alive).filter(|n| nodes.contains(*n)) {
            warn!(node, "its agent is silent; its addresses are kept");
        }
        for node in alive
            .difference(&self.alive)
            .filter(|_| !self.alive.is_empty())
        {
            info!(node, "its agent is there");
        }
        self.alive = alive;
        Ok(())
    }
}

/// The names of all nodes, also of those whose resources cannot be read.
async fn registered(collector: &Collector) -> Result<BTreeSet<String>, CollectError> {
    let prefix = collector.keys.kind(Kind::Node);
    let keys = collector.store.list(&prefix).await?.kvs;
    let names = keys.iter().filter_map(|kv| collector.keys.parse(&kv.key));
    Ok(names.map(|key| key.name).collect())
}

async fn clear(
    node: &str,
    collector: &Collector,
    allocator: &mut Allocator<AnyStore>,
) -> Result<(), CollectError> {
    let Collector { keys, store, .. } = collector;
    let now = Timestamp::now();
    let node_key = keys.resource(&ResourceKey::global(Kind::Node, node));
    let mut endpoints = 0;
    for kv in store.list(&keys.kind(Kind::WorkloadEndpoint)).await?.kvs {
        let Some(key) = keys.parse(&kv.key) else {
            continue;
        };
        let Ok(AnyResource::WorkloadEndpoint(endpoint)) = decode_stored(&key, &kv.value) else {
            continue;
        };
        if endpoint.spec.node != node {
            continue;
        }
        // Not if the node is back.
        let txn = Txn::default()
            .when(node_key.as_str(), 0)
            .when(kv.key.as_str(), kv.mod_revision)
            .delete(kv.key.as_str());
        let gone = match request(&endpoint, txn.clone(), now) {
            Some(request) => allocator.run(vec![request]).await.iter().all(Result::is_ok),
            None => matches!(store.txn(txn).await?, TxnOutcome::Committed(_)),
        };
        endpoints += usize::from(gone);
    }
    if store.get(&node_key).await?.is_some() {
        return Ok(());
    }
    let (addresses, blocks, failures) = allocator.release_node(node, now).await?;
    for error in failures {
        warn!(node, %error, "not given back");
    }
    remove_affinities(node, keys, store).await?;
    forget_networks(store, keys, node).await?;
    info!(node, endpoints, addresses, blocks, "cleared");
    Ok(())
}

/// Endpoint and addresses in one transaction; an identity's addresses wait for it elsewhere.
fn request(endpoint: &WorkloadEndpoint, txn: Txn, now: Timestamp) -> Option<Request> {
    let handle_id = endpoint
        .metadata
        .annotations
        .get(HANDLE_ANNOTATION)?
        .clone();
    Some(match is_sticky(endpoint) {
        true => Request::Park(ParkRequest {
            handle_id,
            container: endpoint.spec.container_id.clone(),
            now,
            extra: txn.into(),
        }),
        false => Request::Release(ReleaseRequest {
            handle_id,
            now,
            extra: txn.into(),
        }),
    })
}

/// What is left of the node's affinities stands for no block of it.
async fn remove_affinities(node: &str, keys: &Keys, store: &AnyStore) -> Result<(), CollectError> {
    let owner = Owner::Host(node.to_owned());
    let prefix = IpamKeys::new(keys.prefix()).affinities(&owner);
    for kv in store.list(&prefix).await?.kvs {
        let txn = Txn::default()
            .when(kv.key.as_str(), kv.mod_revision)
            .delete(kv.key.as_str());
        if let TxnOutcome::Conflict(_) = store.txn(txn).await? {
            info!(key = kv.key, "affinity is somebody's by now");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_must_be_missing_for_the_whole_grace_period() {
        let (start, grace) = (Instant::now(), Duration::from_secs(10));
        let at = |secs: u64| start + Duration::from_secs(secs);
        let gone = || BTreeSet::from(["n9".to_owned()]);
        let mut dead = Dead::default();
        assert!(dead.ripe(gone(), grace, at(0)).is_empty());
        assert!(dead.ripe(BTreeSet::new(), grace, at(9)).is_empty());
        assert!(dead.ripe(gone(), grace, at(11)).is_empty());
        assert_eq!(dead.ripe(gone(), grace, at(21)), ["n9"]);
    }
}
