//! Addresses that nothing accounts for any more.

use std::collections::BTreeSet;

use margay_ipam::sticky::Held;
use margay_ipam::{Request, View};
use margay_model::any::AnyResource;
use margay_model::kind::Kind;
use margay_model::store::Store;
use margay_model::stored::decode_stored;
use tracing::{info, warn};

use super::{IpamHandle, Job, Task, TaskError};
use crate::cni::HANDLE_ANNOTATION;

impl IpamHandle {
    /// Gives back those of `suspects` that no endpoint in the store has. No assignment of this agent is
    /// under way meanwhile.
    pub(crate) async fn release_orphans(&self, suspects: Vec<Held>) -> Result<u64, TaskError> {
        self.ask(|answer| Job::ReleaseOrphans(suspects, answer))
            .await
    }

    /// Pools and settings as the allocator has them.
    pub(crate) async fn view(&self) -> Result<View, TaskError> {
        self.ask(Job::View).await
    }
}

impl Task {
    pub(super) async fn release_orphans(&mut self, suspects: Vec<Held>) -> Result<u64, TaskError> {
        // The store itself, because a watch may lag behind what was listed.
        let prefix = self.keys.kind(Kind::WorkloadEndpoint);
        let listing = self.store.list(&prefix).await?;
        let (mut handles, mut ips) = (BTreeSet::new(), BTreeSet::new());
        for kv in listing.kvs {
            let Some(key) = self.keys.parse(&kv.key) else {
                continue;
            };
            let Ok(AnyResource::WorkloadEndpoint(endpoint)) = decode_stored(&key, &kv.value) else {
                // Whose addresses these are cannot be told: better keep one too many.
                warn!(
                    key = kv.key,
                    "unreadable endpoint, no address is given back"
                );
                return Ok(0);
            };
            handles.extend(
                endpoint
                    .metadata
                    .annotations
                    .get(HANDLE_ANNOTATION)
                    .cloned(),
            );
            ips.extend(endpoint.spec.ip_networks.iter().map(|net| net.addr()));
        }
        let now = jiff::Timestamp::now();
        let orphans = suspects.iter().filter(|held| {
            let handle = held.attribute.handle().unwrap_or_default();
            !ips.contains(&held.address.ip) && !handles.contains(handle)
        });
        let requests: Vec<Request> = orphans
            .map(|held| Request::ReleaseIp(held.release(now)))
            .collect();
        let mut freed = 0;
        for outcome in self.allocator.run(requests).await {
            match outcome {
                Ok(outcome) => {
                    freed += outcome.addresses.len() as u64;
                    for address in outcome.addresses {
                        info!(ip = %address.ip, "address without an endpoint, given back");
                    }
                }
                // Handed over or released meanwhile.
                Err(error) => info!(%error, "address without an endpoint is kept"),
            }
        }
        Ok(freed)
    }
}
