//! The resources as last seen, with what makes order out of two sources: the watch, and the endpoints
//! that this agent wrote itself and knows before the watch brings them back.

use std::collections::{BTreeMap, BTreeSet};

use margay_model::any::AnyResource;
use margay_model::felix_configuration::FelixConfigurationSpec;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::net::Cidr;
use margay_model::store::Revision;

use crate::world::LocalEndpoint;

/// A resource and the revision that last wrote it.
#[derive(Debug)]
struct Stored {
    /// Absent for a value that does not decode: the key is known, the resource counts as missing.
    kept: Option<Kept>,
    mod_revision: Revision,
}

/// What is kept of a resource.
#[derive(Debug)]
pub(crate) enum Kept {
    Whole(Box<AnyResource>),
    /// Of an endpoint of another host: a cluster has very many, and this is asked again.
    Place(Box<Place>),
}

/// Where a workload is.
#[derive(Debug)]
pub(crate) struct Place {
    node: Box<str>,
    nets: Box<[Cidr]>,
}

impl Kept {
    /// The resource, unless it is an endpoint of another host.
    pub(crate) fn whole(&self) -> Option<&AnyResource> {
        match self {
            Self::Whole(resource) => Some(resource),
            Self::Place(_) => None,
        }
    }

    /// Node and addresses, if it is an endpoint of a workload.
    pub(crate) fn place(&self) -> Option<(&str, &[Cidr])> {
        match self {
            Self::Place(place) => Some((&place.node, &place.nets)),
            Self::Whole(resource) => match &**resource {
                AnyResource::WorkloadEndpoint(endpoint) => {
                    Some((&endpoint.spec.node, &endpoint.spec.ip_networks))
                }
                _ => None,
            },
        }
    }
}

/// A change that the cache took on.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) key: ResourceKey,
    pub(crate) old: Option<Kept>,
    /// What the cache holds instead; look it up by `key`.
    pub(crate) now_present: bool,
}

/// All resources by key.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    stored: BTreeMap<ResourceKey, Stored>,
    /// Removed at this revision; older news of the key is stale. Kept until the watch is past it.
    removed: BTreeMap<ResourceKey, Revision>,
    /// While a list is coming in: the keys it holds.
    listing: Option<BTreeSet<ResourceKey>>,
    /// Settings of this host that are not from the datastore and win over it, the first most.
    own: Vec<FelixConfigurationSpec>,
}

impl Cache {
    /// Nothing but the settings of this host that are not from the datastore.
    pub(crate) fn with_own(own: Vec<FelixConfigurationSpec>) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    /// Settings of this host that win over the datastore's, the first most.
    pub(crate) fn own(&self) -> &[FelixConfigurationSpec] {
        &self.own
    }

    /// The resource, unless it is an endpoint of another host that was forgotten but for its place.
    pub(crate) fn get(&self, key: &ResourceKey) -> Option<&AnyResource> {
        self.stored.get(key)?.kept.as_ref()?.whole()
    }

    /// Node and addresses of an endpoint.
    pub(crate) fn place(&self, key: &ResourceKey) -> Option<(&str, &[Cidr])> {
        self.stored.get(key)?.kept.as_ref()?.place()
    }

    /// Every endpoint with its node and addresses.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&ResourceKey, (&str, &[Cidr]))> {
        let all = self.stored_of(Kind::WorkloadEndpoint);
        all.filter_map(|(key, stored)| Some((key, stored.kept.as_ref()?.place()?)))
    }

    /// Forgets all but the place of an endpoint that is not this node's. The few with floating addresses stay whole: those
    /// are looked at again.
    pub(crate) fn forget_details(&mut self, key: &ResourceKey, node: &str) {
        let kept = self.stored.get_mut(key).and_then(|s| s.kept.as_mut());
        if let Some(kept) = kept
            && let Some(AnyResource::WorkloadEndpoint(endpoint)) = kept.whole()
            && endpoint.spec.node != node
            && endpoint.spec.ip_nats.is_empty()
        {
            *kept = Kept::Place(Box::new(Place {
                node: endpoint.spec.node.as_str().into(),
                nets: endpoint.spec.ip_networks.as_slice().into(),
            }));
        }
    }

    /// The endpoint of this key, if it is one of this node's.
    pub(crate) fn local_endpoint(&self, key: &ResourceKey, node: &str) -> Option<LocalEndpoint> {
        let stored = self.stored.get(key)?;
        match stored.kept.as_ref()?.whole()? {
            AnyResource::WorkloadEndpoint(endpoint) if endpoint.spec.node == node => {
                let resource = endpoint.clone();
                Some(LocalEndpoint {
                    resource,
                    mod_revision: stored.mod_revision,
                })
            }
            _ => None,
        }
    }

    pub(crate) fn mod_revision(&self, key: &ResourceKey) -> Option<Revision> {
        self.stored.get(key).map(|s| s.mod_revision)
    }

    /// Everything of one kind that decodes, in the order of namespace and name; of endpoints only those that
    /// [`Cache::get`] gives.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &AnyResource> {
        let all = self.stored_of(kind);
        all.filter_map(|(_, stored)| stored.kept.as_ref()?.whole())
    }

    fn stored_of(&self, kind: Kind) -> impl Iterator<Item = (&ResourceKey, &Stored)> {
        let from = self.stored.range(ResourceKey::global(kind, "")..);
        from.take_while(move |(key, _)| key.kind == kind)
    }

    /// A fresh list begins; the watch was lost or never was.
    pub(crate) fn begin_list(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// The list is complete as of `revision`: what it lacks is gone, unless it is younger.
    pub(crate) fn end_list(&mut self, revision: Revision) -> Vec<Changed> {
        let Some(seen) = self.listing.take() else {
            return Vec::new();
        };
        let gone: Vec<ResourceKey> = self
            .stored
            .iter()
            .filter(|(key, stored)| !seen.contains(*key) && stored.mod_revision <= revision)
            .map(|(key, _)| key.clone())
            .collect();
        self.removed.retain(|_, removed| *removed > revision);
        gone.into_iter().filter_map(|key| self.take(&key)).collect()
    }

    /// Whether a value of this revision, from the list or the watch, is no news: most often it is our own write,
    /// coming back. Asked before a value is decoded.
    pub(crate) fn knows(&mut self, key: &ResourceKey, mod_revision: Revision) -> bool {
        if let Some(seen) = &mut self.listing {
            seen.insert(key.clone());
        }
        let known = self.mod_revision(key).max(self.removed.get(key).copied());
        known.is_some_and(|known| known >= mod_revision)
    }

    /// A value from the list, the watch or our own transaction. Nothing comes back when it is no news.
    pub(crate) fn apply(
        &mut self,
        key: ResourceKey,
        resource: Option<AnyResource>,
        mod_revision: Revision,
    ) -> Option<Changed> {
        if self.knows(&key, mod_revision) {
            return None;
        }
        self.removed.remove(&key);
        let now_present = resource.is_some();
        let before = self.stored.insert(
            key.clone(),
            Stored {
                kept: resource.map(|resource| Kept::Whole(Box::new(resource))),
                mod_revision,
            },
        );
        let old = before.and_then(|s| s.kept);
        (now_present || old.is_some()).then_some(Changed {
            key,
            old,
            now_present,
        })
    }

    /// The key was removed at `revision`.
    pub(crate) fn remove(&mut self, key: &ResourceKey, revision: Revision) -> Option<Changed> {
        if self.mod_revision(key).is_some_and(|known| known > revision) {
            return None;
        }
        self.removed.insert(key.clone(), revision);
        self.take(key)
    }

    /// The endpoint that a container had, written at `revision` or later, is removed. A newer container
    /// of the same pod has the same key, and keeps it.
    pub(crate) fn remove_endpoint(
        &mut self,
        key: &ResourceKey,
        revision: Revision,
        container_id: &str,
    ) -> Option<Changed> {
        let known = self.stored.get(key).filter(|stored| {
            let whole = stored.kept.as_ref().and_then(Kept::whole);
            matches!(whole, Some(AnyResource::WorkloadEndpoint(endpoint))
                if endpoint.spec.container_id == container_id)
        });
        let revision = known.map_or(revision, |stored| stored.mod_revision.max(revision));
        self.remove(key, revision)
    }

    /// The watch has brought everything up to `revision`: older removals cannot be contradicted.
    pub(crate) fn seen_up_to(&mut self, revision: Revision) {
        self.removed.retain(|_, removed| *removed > revision);
    }

    fn take(&mut self, key: &ResourceKey) -> Option<Changed> {
        let old = self.stored.remove(key)?.kept?;
        Some(Changed {
            key: key.clone(),
            old: Some(old),
            now_present: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::profile::ProfileSpec;
    use margay_model::workload_endpoint::WorkloadEndpointSpec;

    use super::*;

    fn key(name: &str) -> ResourceKey {
        ResourceKey::global(Kind::Profile, name)
    }

    fn profile(name: &str) -> Option<AnyResource> {
        Some(Resource::new(ObjectMeta::named(name), ProfileSpec::default()).into())
    }

    #[test]
    fn the_watch_bringing_back_our_own_write_is_no_news() {
        let mut cache = Cache::default();
        assert!(!cache.knows(&key("a"), 5));
        assert!(cache.apply(key("a"), profile("a"), 5).is_some());
        assert!(cache.knows(&key("a"), 5) && !cache.knows(&key("a"), 6));
        assert!(cache.apply(key("a"), profile("a"), 5).is_none());
        assert!(cache.apply(key("a"), profile("a"), 4).is_none());
        assert!(cache.apply(key("a"), profile("a"), 6).is_some());
    }

    #[test]
    fn a_removal_of_ours_is_not_undone_by_older_news() {
        let mut cache = Cache::default();
        cache.apply(key("a"), profile("a"), 5);
        assert!(cache.remove(&key("a"), 8).is_some());
        assert!(cache.apply(key("a"), profile("a"), 5).is_none());
        assert!(cache.apply(key("a"), profile("a"), 9).is_some());
    }

    #[test]
    fn a_container_takes_its_own_endpoint_away_and_not_its_successors() {
        let key = ResourceKey::namespaced(Kind::WorkloadEndpoint, "shop", "h1-k8s-web-eth0");
        let endpoint = |container: &str| {
            let spec = WorkloadEndpointSpec {
                container_id: container.into(),
                ..WorkloadEndpointSpec::default()
            };
            Some(Resource::new(ObjectMeta::namespaced("shop", "h1-k8s-web-eth0"), spec).into())
        };
        let mut cache = Cache::default();
        cache.apply(key.clone(), endpoint("old"), 5);
        cache.apply(key.clone(), endpoint("new"), 7);
        assert!(cache.remove_endpoint(&key, 5, "old").is_none());
        assert!(cache.get(&key).is_some());
        // Labels were changed since the container was seen.
        cache.apply(key.clone(), endpoint("new"), 9);
        assert!(cache.remove_endpoint(&key, 7, "new").is_some());
        assert!(cache.apply(key.clone(), endpoint("new"), 9).is_none());
    }

    #[test]
    fn of_an_endpoint_elsewhere_the_place_is_kept_and_of_our_own_everything() {
        let key = |node: &str| ResourceKey::namespaced(Kind::WorkloadEndpoint, "shop", node);
        let nets = vec!["10.65.0.7/32".parse().unwrap()];
        let mut cache = Cache::default();
        for node in ["h1", "h2"] {
            let spec = WorkloadEndpointSpec {
                node: node.into(),
                ip_networks: nets.clone(),
                ..WorkloadEndpointSpec::default()
            };
            let resource = Resource::new(ObjectMeta::namespaced("shop", node), spec);
            cache.apply(key(node), Some(resource.into()), 5);
            cache.forget_details(&key(node), "h1");
            assert_eq!(cache.place(&key(node)), Some((node, &*nets)));
        }
        assert!(cache.local_endpoint(&key("h1"), "h1").is_some());
        assert!(cache.get(&key("h2")).is_none() && cache.knows(&key("h2"), 5));
        let places: Vec<_> = cache.places().map(|(_, (node, _))| node).collect();
        assert_eq!(places, ["h1", "h2"]);
        let old = cache.remove(&key("h2"), 6).unwrap().old.unwrap();
        assert_eq!(old.place(), Some(("h2", &*nets)));
    }

    #[test]
    fn an_old_removal_does_not_touch_a_younger_value() {
        let mut cache = Cache::default();
        cache.apply(key("a"), profile("a"), 9);
        assert!(cache.remove(&key("a"), 8).is_none());
        assert!(cache.get(&key("a")).is_some());
    }

    #[test]
    fn a_list_takes_away_what_it_lacks_but_not_what_is_younger() {
        let mut cache = Cache::default();
        cache.apply(key("gone"), profile("gone"), 3);
        cache.apply(key("kept"), profile("kept"), 3);
        cache.begin_list();
        cache.apply(key("kept"), profile("kept"), 3);
        cache.apply(key("ours"), profile("ours"), 12);
        cache.remove(&key("kept"), 0);
        let gone = cache.end_list(10);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].key, key("gone"));
        assert!(cache.get(&key("ours")).is_some());
    }

    #[test]
    fn a_value_that_does_not_decode_takes_the_old_one_away() {
        let mut cache = Cache::default();
        cache.apply(key("a"), profile("a"), 5);
        let changed = cache.apply(key("a"), None, 6).unwrap();
        assert!(changed.old.is_some() && !changed.now_present);
        assert!(cache.apply(key("b"), None, 7).is_none());
    }
}
