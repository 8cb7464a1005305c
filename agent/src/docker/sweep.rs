//! What a dockerd leaves that was killed between two calls, beside what the agent's audit and collector find: endpoints
//! whose interface it never moved into a container, and networks that it does not know.
//!
//! As everywhere, what is found must be found at two looks, and for the grace period that addresses have as well, so that
//! nothing under way is taken for a left-over: dockerd may ask for half a minute before it gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_dataplane::attach::{self, AttachSpec};
use margay_model::kind::ResourceKey;
use margay_model::store::Store;
use serde_json::Value;
use tracing::{debug, info, warn};

use super::describe::get;
use super::error::DockerError;
use super::protocol::Target;
use super::{Driver, ORCHESTRATOR};

/// Since when something has been left over, look after look.
#[derive(Debug)]
struct LeftOver<K> {
    since: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> LeftOver<K> {
    const fn new() -> Self {
        Self {
            since: BTreeMap::new(),
        }
    }

    /// Takes in what a look has found. What has been there long enough comes back.
    fn ripe(&mut self, found: BTreeSet<K>, grace: Duration, now: Instant) -> Vec<K> {
        let before = std::mem::take(&mut self.since);
        let mut ripe = Vec::new();
        for key in found {
            let first = before.get(&key).copied();
            if first.is_some_and(|first| now.duration_since(first) >= grace) {
                ripe.push(key.clone());
            }
            self.since.insert(key, first.unwrap_or(now));
        }
        ripe
    }
}

impl Driver {
    /// Looks every so often, for ever.
    pub(super) async fn sweep(self: Arc<Self>) {
        let (mut idle, mut unknown) = (LeftOver::new(), LeftOver::new());
        loop {
            tokio::time::sleep(self.interval).await;
            let world = self.world.borrow().clone();
            if !world.in_sync || world.locked {
                (idle, unknown) = (LeftOver::new(), LeftOver::new());
                continue;
            }
            let found = self.idle_endpoints().await;
            for key in idle.ripe(found, self.grace, Instant::now()) {
                info!(endpoint = %key, "endpoint that no container was given, removed");
                if let Err(error) = self.remove_endpoint(&key).await {
                    warn!(endpoint = %key, %error, "left-over endpoint waits");
                }
            }
            // Without dockerd's word nothing is left over.
            let found = match self.unknown_networks().await {
                Ok(found) => found,
                Err(error) => {
                    debug!(%error, "networks are not compared");
                    BTreeSet::new()
                }
            };
            for network_id in unknown.ripe(found, self.grace, Instant::now()) {
                info!(network_id, "network that dockerd does not know, removed");
                let call = Target {
                    network_id: network_id.clone(),
                    ..Target::default()
                };
                if let Err(error) = self.delete_network(call).await {
                    warn!(network_id, %error, "left-over network waits");
                }
            }
        }
    }

    /// Endpoints whose container's end is still on the host.
    async fn idle_endpoints(&self) -> BTreeSet<ResourceKey> {
        let world = self.world.borrow().clone();
        let docker = world
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.resource.spec.orchestrator == ORCHESTRATOR);
        let pairs: Vec<(ResourceKey, AttachSpec)> = docker
            .map(|(key, endpoint)| {
                let spec = &endpoint.resource.spec;
                (
                    key.clone(),
                    self.pair(&world, &spec.container_id, spec, None),
                )
            })
            .collect();
        let look = move || {
            let idle = pairs.into_iter().filter(|(_, pair)| {
                attach::is_here(pair).unwrap_or_else(|error| {
                    warn!(%error, "cannot look at an interface");
                    false
                })
            });
            idle.map(|(key, _)| key).collect()
        };
        let found = tokio::task::spawn_blocking(look).await;
        found.unwrap_or_default()
    }

    /// Networks of this host in the datastore that its dockerd does not list.
    async fn unknown_networks(&self) -> Result<BTreeSet<String>, DockerError> {
        let Some(api) = &self.config.api else {
            return Ok(BTreeSet::new());
        };
        let prefix = self.own_networks();
        let stored = self.store.list(&prefix).await?;
        let ids = stored
            .kvs
            .iter()
            .filter_map(|kv| kv.key.strip_prefix(&prefix));
        let mut ids: BTreeSet<String> = ids.map(str::to_owned).collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let listed = get(api, "/networks").await.map_err(DockerError::Failed)?;
        let Value::Array(listed) = listed else {
            return Err(DockerError::Failed("dockerd lists no networks".to_owned()));
        };
        for network in listed {
            ids.remove(network["Id"].as_str().unwrap_or_default());
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_for_the_grace_period_is_left_over() {
        let (start, grace) = (Instant::now(), Duration::from_secs(10));
        let at = |secs| start + Duration::from_secs(secs);
        let found = |names: &[&'static str]| names.iter().copied().collect();
        let mut left = LeftOver::new();
        assert!(left.ripe(found(&["a", "b"]), grace, at(0)).is_empty());
        assert!(left.ripe(found(&["a"]), grace, at(9)).is_empty());
        assert_eq!(left.ripe(found(&["a", "b"]), grace, at(10)), ["a"]);
        let mut at_once = LeftOver::new();
        assert!(
            at_once
                .ripe(found(&["a"]), Duration::ZERO, at(0))
                .is_empty()
        );
        assert_eq!(at_once.ripe(found(&["a"]), Duration::ZERO, at(1)), ["a"]);
    }
}
