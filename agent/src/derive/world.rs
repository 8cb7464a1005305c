//! The part of the world that handlers choose addresses and profiles by.

use std::collections::BTreeSet;
use std::sync::Arc;

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};

use super::tuning;
use crate::graph::Cache;
use crate::world::World;

/// Brings everything but the endpoints up to date.
pub(crate) fn refresh_world(world: &mut World, cache: &Cache, node: &str) {
    let tuning = tuning(cache, node);
    world.interface_prefix = tuning.interface_prefix.into();
    world.allow_spoofing = tuning.allow_spoofing;
    world.node = match cache.get(&ResourceKey::global(Kind::Node, node)) {
        Some(AnyResource::Node(node)) => Some(Arc::new(node.clone())),
        _ => None,
    };
    let pools = cache
        .of_kind(Kind::IpPool)
        .filter_map(|resource| match resource {
            AnyResource::IpPool(pool) => Some(pool.clone()),
            _ => None,
        });
    world.pools = Arc::new(pools.collect());
    let reserved = cache
        .of_kind(Kind::IpReservation)
        .filter_map(|resource| match resource {
            AnyResource::IpReservation(reservation) => Some(&reservation.spec.reserved_cidrs),
            _ => None,
        });
    world.reservations = Arc::new(reserved.flatten().copied().collect());
    let profiles = cache
        .of_kind(Kind::Profile)
        .map(|p| p.metadata().name.clone());
    world.profiles = Arc::new(profiles.collect::<BTreeSet<_>>());
    world.ipam = match cache.get(&ResourceKey::global(Kind::IpamConfiguration, "default")) {
        Some(AnyResource::IpamConfiguration(config)) => Some(Arc::new(config.spec.clone())),
        _ => None,
    };
}
