//! Pools, this node's blocks, and the addresses of its endpoints.
//!
//! Each agent tells of its own node. What the whole cluster holds of a pool is the sum over the agents, and its size is
//! what any one of them says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_model::ippool::IpPool;

use super::text::{Kind, Text};
use crate::meters::Meters;
use crate::world::World;

/// What this node has of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    /// Addresses of endpoints.
    addresses: u64,
    /// Those of them that are in blocks of others.
    borrowed: u64,
    /// Blocks, and the addresses in them.
    blocks: u64,
    capacity: u128,
}

pub(super) fn collect(node: &str, world: &World, meters: &Meters, text: &mut Text) {
    let used = used(world);
    let all = || used.iter().map(|(pool, used)| (*pool, used));
    let mut own = |name: &str, help: &str, value: fn(&Use) -> f64| {
        let samples = all().map(|(pool, used)| (vec![("ippool", pool.to_owned())], value(used)));
        text.metric(Kind::Gauge, name, help, samples);
    };
    own(
        "margay_ipam_endpoint_addresses",
        "Addresses of this node's endpoints, by the pool that they are in.",
        |used| used.addresses as f64,
    );
    own(
        "margay_ipam_block_addresses",
        "Addresses in this node's blocks, used or not.",
        |used| used.capacity as f64,
    );
    let mut established = |name: &str, help: &str, value: fn(&Use) -> u64| {
        let labels = |pool: &str| {
            let pool = ("ippool", pool.to_owned());
            vec![pool, ("node", node.to_owned())]
        };
        let samples = all().map(|(pool, used)| (labels(pool), value(used) as f64));
        text.metric(Kind::Gauge, name, help, samples);
    };
    established(
        "ipam_allocations_in_use",
        "Addresses of this node's endpoints.",
        |used| used.addresses,
    );
    established(
        "ipam_allocations_borrowed",
        "Those of them that are in blocks of other nodes.",
        |used| used.borrowed,
    );
    established("ipam_blocks", "Blocks of this node.", |used| used.blocks);
    pools(world, text);
    let label = || vec![("node", node.to_owned())];
    let suspects = [(label(), meters.leak_suspects.value() as f64)];
    text.metric(
        Kind::Gauge,
        "ipam_allocations_gc_candidates",
        "Addresses without an endpoint, not given back yet.",
        suspects,
    );
    let freed = [(label(), meters.leaks_freed.value() as f64)];
    text.metric(
        Kind::Counter,
        "ipam_allocations_gc_reclamations",
        "Addresses without an endpoint that were given back.",
        freed,
    );
}

fn used(world: &World) -> BTreeMap<&str, Use> {
    let mut used: BTreeMap<&str, Use> = BTreeMap::new();
    for pool in world.pools.iter() {
        used.insert(&pool.metadata.name, Use::default());
    }
    let pool_of = |addr: IpAddr| {
        world
            .pools
            .iter()
            .find(|pool| pool.spec.cidr.contains(addr))
    };
    for endpoint in world.endpoints.values() {
        for net in &endpoint.resource.spec.ip_networks {
            if let Some(pool) = pool_of(net.addr()) {
                let used = used.entry(&pool.metadata.name).or_default();
                used.addresses += 1;
                let own = |block: &ipnetwork::IpNetwork| block.contains(net.addr());
                used.borrowed += u64::from(!world.blocks.iter().any(own));
            }
        }
    }
    for block in world.blocks.iter() {
        if let Some(pool) = pool_of(block.network()) {
            let used = used.entry(&pool.metadata.name).or_default();
            used.blocks += 1;
            used.capacity += size(block.prefix(), block.is_ipv4());
        }
    }
    used
}

fn pools(world: &World, text: &mut Text) {
    let label = |pool: &IpPool| vec![("ippool", pool.metadata.name.clone())];
    let sizes = world.pools.iter().map(|pool| {
        let cidr = pool.spec.cidr;
        (label(pool), size(cidr.prefix_len(), cidr.is_ipv4()) as f64)
    });
    text.metric(
        Kind::Gauge,
        "ipam_ippool_size",
        "Addresses in the range of a pool.",
        sizes,
    );
    let reserved = world.pools.iter().map(|pool| {
        let inside = world.reservations.iter().filter_map(|range| {
            // Two ranges are apart, or one is in the other.
            let smaller = match range.prefix_len() >= pool.spec.cidr.prefix_len() {
                true => *range,
                false => pool.spec.cidr,
            };
            let meet = range.overlaps(pool.spec.cidr);
            meet.then(|| size(smaller.prefix_len(), smaller.is_ipv4()))
        });
        (label(pool), inside.sum::<u128>() as f64)
    });
    text.metric(
        Kind::Gauge,
        "ipam_ippool_reserved",
        "Addresses of a pool in reserved ranges.",
        reserved,
    );
}

/// Addresses in a range; those of `::/0` count as one less than there are.
fn size(prefix: u8, v4: bool) -> u128 {
    let bits = u32::from(if v4 { 32 } else { 128 } - prefix);
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}
