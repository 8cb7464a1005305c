//! The part of the world that handlers choose addresses and profiles by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use margay_model::any::AnyResource;
use margay_model::calico_node_status::CalicoNodeStatusSpec;
use margay_model::kind::{Kind, ResourceKey};

use super::globals::Felix;
use super::tuning;
use super::wireguard::Wireguard;
use crate::cni::moves_of;
use crate::graph::Cache;
use crate::translate;
use crate::world::{Endpoints, World};

/// Brings everything but the endpoints up to date.
pub(crate) fn refresh_world(world: &mut World, cache: &Cache, node: &str) {
    let tuning = tuning(cache, node);
    world.interface_prefix = tuning.interface_prefix.into();
    world.allow_spoofing = tuning.allow_spoofing;
    world.translates_floating_ips = tuning.floating_ips;
    let felix = Felix::of(cache, node);
    world.wireguard = [false, true].map(|v6| {
        let settings = Wireguard::of(&felix, v6);
        settings.enabled.then_some(settings.device)
    });
    let cluster = cache.get(&ResourceKey::global(Kind::ClusterInformation, "default"));
    world.locked = matches!(cluster, Some(AnyResource::ClusterInformation(cluster))
        if cluster.spec.datastore_ready == Some(false));
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
    world.namespaces = Arc::new(namespaces(cache));
    world.ipam = match cache.get(&ResourceKey::global(Kind::IpamConfiguration, "default")) {
        Some(AnyResource::IpamConfiguration(config)) => Some(Arc::new(config.spec.clone())),
        _ => None,
    };
}

/// What a CalicoNodeStatus asks for; none of other kinds.
pub(crate) fn asked(resource: &AnyResource) -> Option<&CalicoNodeStatusSpec> {
    match resource {
        AnyResource::CalicoNodeStatus(status) => Some(&status.spec),
        _ => None,
    }
}

/// What each CalicoNodeStatus of this node asks for.
pub(crate) fn reports(cache: &Cache, node: &str) -> BTreeMap<String, CalicoNodeStatusSpec> {
    let all = cache.of_kind(Kind::CalicoNodeStatus);
    let own = all.filter_map(|resource| {
        let spec = asked(resource).filter(|spec| spec.node == node)?;
        Some((resource.metadata().name.clone(), spec.clone()))
    });
    own.collect()
}

/// How often the addresses of each sticky endpoint have moved. Two endpoints have one address for a moment
/// when it moves between them; the later one counts.
pub(crate) fn moves(endpoints: &Endpoints) -> BTreeMap<IpNetwork, u32> {
    let mut all = BTreeMap::new();
    for endpoint in endpoints.values() {
        let Some(moves) = moves_of(&endpoint.resource) else {
            continue;
        };
        for net in translate::networks(&endpoint.resource.spec.ip_networks) {
            let known: &mut u32 = all.entry(net).or_default();
            *known = moves.max(*known);
        }
    }
    all
}

/// What namespaceSelectors are evaluated against: the profile `kns.NAMESPACE` applies the namespace's labels
/// to its endpoints, each with the prefix `pcns.`.
fn namespaces(cache: &Cache) -> BTreeMap<String, BTreeMap<String, String>> {
    let labels = cache.of_kind(Kind::Profile).filter_map(|resource| {
        let AnyResource::Profile(profile) = resource else {
            return None;
        };
        let namespace = profile.metadata.name.strip_prefix("kns.")?;
        let applied = profile.spec.labels_to_apply.iter();
        let labels = applied.filter_map(|(name, value)| {
            let name = name.strip_prefix("pcns.")?;
            Some((name.to_owned(), value.clone()))
        });
        Some((namespace.to_owned(), labels.collect()))
    });
    labels.collect()
}
