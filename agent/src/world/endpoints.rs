//! This node's endpoints, in an order that a new one changes little of.

use std::sync::Arc;

use margay_model::kind::ResourceKey;

use super::LocalEndpoint;

/// An endpoint and its key.
type Entry = (Arc<ResourceKey>, Arc<LocalEndpoint>);

/// Entries of a chunk; one more, and it becomes two. A host has some hundred endpoints, hence about as many chunks as
/// entries in each.
const CHUNK: usize = 32;

/// Endpoints by key. Every call of a container makes a copy of it, so a copy shares all that is the same: of some hundred
/// endpoints, two dozen are copied when one changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    /// Each in order, none empty, and the keys of each before those of the next.
    chunks: Vec<Arc<Vec<Entry>>>,
    len: usize,
}

impl Endpoints {
    pub(crate) fn get(&self, key: &ResourceKey) -> Option<&Arc<LocalEndpoint>> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = place(chunk, key).ok()?;
        Some(&chunk[at].1)
    }

    pub(crate) fn contains_key(&self, key: &ResourceKey) -> bool {
        self.get(key).is_some()
    }

    /// Puts an endpoint in the place of the one of the same key, if there is one, and returns that.
    pub(crate) fn insert(
        &mut self,
        key: ResourceKey,
        endpoint: Arc<LocalEndpoint>,
    ) -> Option<Arc<LocalEndpoint>> {
        let number = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(number) else {
            self.chunks.push(Arc::new(vec![(Arc::new(key), endpoint)]));
            self.len += 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match place(chunk, &key) {
            Ok(at) => return Some(std::mem::replace(&mut chunk[at].1, endpoint)),
            Err(at) => chunk.insert(at, (Arc::new(key), endpoint)),
        }
        self.len += 1;
        if chunk.len() > CHUNK {
            let second = chunk.split_off(CHUNK / 2);
            self.chunks.insert(number + 1, Arc::new(second));
        }
        None
    }

    pub(crate) fn remove(&mut self, key: &ResourceKey) -> Option<Arc<LocalEndpoint>> {
        let number = self.chunk_of(key);
        let chunk = self.chunks.get_mut(number)?;
        let at = place(chunk, key).ok()?;
        let chunk = Arc::make_mut(chunk);
        let (_, gone) = chunk.remove(at);
        if chunk.is_empty() {
            self.chunks.remove(number);
        }
        self.len -= 1;
        Some(gone)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// In the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<LocalEndpoint>)> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        all.map(|(key, endpoint)| (&**key, endpoint))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<LocalEndpoint>> {
        self.iter().map(|(_, endpoint)| endpoint)
    }

    /// The number of the chunk that has a key, or is to have it.
    fn chunk_of(&self, key: &ResourceKey) -> usize {
        let before =
            |chunk: &Arc<Vec<Entry>>| chunk.first().is_some_and(|(first, _)| **first <= *key);
        self.chunks.partition_point(before).saturating_sub(1)
    }
}

#[cfg(test)]
impl FromIterator<(ResourceKey, Arc<LocalEndpoint>)> for Endpoints {
    fn from_iter<I: IntoIterator<Item = (ResourceKey, Arc<LocalEndpoint>)>>(all: I) -> Self {
        let mut endpoints = Self::default();
        for (key, endpoint) in all {
            endpoints.insert(key, endpoint);
        }
        endpoints
    }
}

fn place(chunk: &[Entry], key: &ResourceKey) -> Result<usize, usize> {
    chunk.binary_search_by(|(entry, _)| (**entry).cmp(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use margay_model::kind::Kind;
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::workload_endpoint::WorkloadEndpointSpec;

    use super::*;

    fn key(n: u32) -> ResourceKey {
        ResourceKey::namespaced(Kind::WorkloadEndpoint, "shop", format!("h1-{n}"))
    }

    fn endpoint(revision: i64) -> Arc<LocalEndpoint> {
        let meta = ObjectMeta::namespaced("shop", "h1");
        Arc::new(LocalEndpoint {
            resource: Resource::new(meta, WorkloadEndpointSpec::default()),
            mod_revision: revision,
        })
    }

    fn told(endpoints: &Endpoints) -> Vec<(ResourceKey, i64)> {
        let all = endpoints.iter();
        all.map(|(key, endpoint)| (key.clone(), endpoint.mod_revision))
            .collect()
    }

    #[test]
    fn it_holds_what_a_plain_map_holds_and_copies_stay_as_they_were() {
        let (mut endpoints, mut plain) = (Endpoints::default(), BTreeMap::new());
        let mut copies = Vec::new();
        let mut random = 3_u32;
        for step in 0..6000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = key((random >> 16) % 300);
            // Fuller, then emptier.
            let is_added = (random >> 28) < if step % 2000 < 1000 { 12 } else { 4 };
            let (before, expected) = match is_added {
                true => (
                    endpoints.insert(key.clone(), endpoint(step)),
                    plain.insert(key.clone(), step),
                ),
                false => (endpoints.remove(&key), plain.remove(&key)),
            };
            assert_eq!(before.map(|before| before.mod_revision), expected);
            assert_eq!(endpoints.contains_key(&key), is_added);
            assert_eq!(endpoints.len(), plain.len());
            if step % 500 == 0 {
                copies.push((endpoints.clone(), plain.clone()));
            }
        }
        copies.push((endpoints, plain));
        for (endpoints, plain) in copies {
            assert_eq!(told(&endpoints), plain.into_iter().collect::<Vec<_>>());
            assert!(endpoints.chunks.iter().all(|chunk| !chunk.is_empty()));
        }
    }

    #[test]
    fn a_change_copies_one_chunk() {
        let mut endpoints = Endpoints::default();
        for n in 0..250 {
            endpoints.insert(key(n), endpoint(1));
        }
        let before = endpoints.clone();
        endpoints.insert(key(7), endpoint(2));
        let chunks = before.chunks.iter().zip(&endpoints.chunks);
        let copied = chunks.filter(|(old, new)| !Arc::ptr_eq(old, new));
        assert_eq!(copied.count(), 1);
    }
}
