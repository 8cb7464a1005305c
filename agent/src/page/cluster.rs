//! What the datastore has of the whole cluster: nodes, and how full the pools are.

use margay_datastore::AnyStore;
use margay_ipam::{Pool, Pools, Usage};
use margay_model::any::AnyResource;
use margay_model::ipam::{Family, IpamKeys};
use margay_model::keys::Keys;
use margay_model::kind::Kind;
use margay_model::store::Store;
use margay_model::stored::decode_stored;
use serde_json::{Value, json};

use super::node::ROWS;
use crate::status::StatusSource;

pub(super) async fn read(
    store: &AnyStore,
    keys: &Keys,
    status: &StatusSource,
) -> Result<Value, String> {
    let nodes = nodes(store, keys).await?;
    let ipam = IpamKeys::new(keys.prefix());
    let mut blocks = Vec::new();
    for family in Family::ALL {
        let listing = store.list(&ipam.blocks(family)).await;
        blocks.extend(listing.map_err(|error| error.to_string())?.kvs);
    }
    let world = status.world.borrow().clone();
    let pools = Pools::new(world.pools.iter().map(|pool| Pool::new(pool, |_| true)));
    let usage = Usage::new(&pools, &ipam, &blocks);
    let disabled = |name: &str| {
        let found = world.pools.iter().find(|pool| pool.metadata.name == name);
        found.is_some_and(|pool| pool.spec.disabled)
    };
    let pools = usage.pools.iter().map(|pool| {
        json!({
            "name": pool.name,
            "cidr": pool.cidr,
            // Of a large IPv6 pool more than a number of JavaScript holds exactly; nobody reads its last digits.
            "size": pool.size as f64,
            "used": pool.used,
            "resting": pool.resting,
            "blocks": pool.blocks,
            "disabled": disabled(&pool.name),
        })
    });
    let own = format!("host:{}", status.node);
    let blocks = usage
        .blocks
        .iter()
        .filter(|block| block.affinity.as_deref() == Some(&own))
        .take(ROWS)
        .map(|block| {
            json!({
                "cidr": block.cidr.to_string(),
                "pool": block.pool,
                "used": block.used,
                "resting": block.resting,
                "size": block.cidr.size(),
            })
        });
    Ok(json!({
        "nodes": nodes,
        "pools": pools.collect::<Vec<_>>(),
        "blocks": blocks.collect::<Vec<_>>(),
        "borrowed": usage.borrowed.len(),
        "damaged": usage.damaged,
    }))
}

async fn nodes(store: &AnyStore, keys: &Keys) -> Result<Vec<Value>, String> {
    let listing = store.list(&keys.kind(Kind::Node)).await;
    let listing = listing.map_err(|error| error.to_string())?;
    let decoded = listing.kvs.iter().filter_map(|kv| {
        // What cannot be read is in the log of the graph.
        match decode_stored(&keys.parse(&kv.key)?, &kv.value) {
            Ok(AnyResource::Node(node)) => Some(node),
            _ => None,
        }
    });
    let rows = decoded.take(ROWS).map(|node| {
        let bgp = node.spec.bgp.as_ref();
        json!({
            "name": node.metadata.name,
            "ipv4": bgp.and_then(|bgp| bgp.ipv4_address).map(|a| a.addr()),
            "ipv6": bgp.and_then(|bgp| bgp.ipv6_address).map(|a| a.addr()),
            "labels": node.metadata.labels,
        })
    });
    Ok(rows.collect())
}
