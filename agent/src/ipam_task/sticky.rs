//! Addresses of identities: each by itself, because what is recorded beside them must be looked up first.

use std::sync::Arc;

use margay_ipam::sticky::{self, ENDPOINT, Held, parked_until};
use margay_ipam::{IpamError, ParkRequest, Request};
use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::{Revision, Store, StoreError, Txn};
use margay_model::stored::decode_stored;
use tracing::info;

use super::{Assign, Release, Task, TaskError, Written, written};
use crate::cni::{HANDLE_ANNOTATION, Identity, MOVES_ANNOTATION};

/// How often an identity is looked up anew because it moved meanwhile. Two sandboxes that both claim to
/// be the same workload must not keep the task for ever.
const ATTEMPTS: u32 = 10;

/// An endpoint that is to go with the address, and the revision that last wrote it.
type Replaced = Vec<(ResourceKey, Revision)>;

impl Task {
    /// Assigns what the identity holds, or something new, removing the endpoint that had it.
    pub(super) async fn assign_sticky(
        &mut self,
        mut assign: Assign,
        identity: &Identity,
    ) -> Result<Written, TaskError> {
        for _ in 0..ATTEMPTS {
            let held = self.allocator.held_by(&assign.handle_id).await?;
            let replaced = self.replaced(&assign, &held).await?;
            let mut txn = Txn::default();
            for (key, revision) in &replaced {
                let key = self.keys.resource(key);
                txn = txn.when(key.clone(), *revision).delete(key);
            }
            let moves = sticky::moves_to(&self.node, &held);
            let annotations = &mut assign.endpoint.metadata.annotations;
            annotations.insert(MOVES_ANNOTATION.into(), moves.to_string());
            let mut request = self.assign_request(&assign, txn);
            let endpoint = endpoint_attr(&assign.key);
            request.attrs.extend(sticky::attrs(
                &identity.name,
                identity.lease_secs,
                &assign.container_id,
                &endpoint,
                moves,
            ));
            let seen = held.iter().map(|held| Arc::clone(&held.attribute));
            request.take_over = Some(seen.collect());
            match self.allocator.assign(request).await {
                Ok(outcome) => {
                    let mut written = written(assign, &outcome)?;
                    for (key, _) in &replaced {
                        info!(identity = identity.name, from = %key, to = %written.stored.key,
                              "addresses handed over");
                    }
                    written.replaced = replaced.into_iter().map(|(key, _)| key).collect();
                    return Ok(written);
                }
                Err(IpamError::Moved { .. } | IpamError::ExtraConflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(TaskError::Contention)
    }

    /// The endpoints of others that have the identity's addresses.
    async fn replaced(&self, assign: &Assign, held: &[Held]) -> Result<Replaced, StoreError> {
        let mut replaced = Replaced::new();
        for held in held {
            if parked_until(&held.attribute).is_some() {
                continue;
            }
            let Some(key) = held.attr(ENDPOINT).and_then(endpoint_key) else {
                continue;
            };
            if key == assign.key || replaced.iter().any(|(known, _)| *known == key) {
                continue;
            }
            let Some(kv) = self.store.get(&self.keys.resource(&key)).await? else {
                continue;
            };
            // Its name may have come to another workload; one that does not decode is nobody's.
            let has_it = match decode_stored(&key, &kv.value) {
                Ok(AnyResource::WorkloadEndpoint(endpoint)) => {
                    let handle = endpoint.metadata.annotations.get(HANDLE_ANNOTATION);
                    handle == Some(&assign.handle_id)
                }
                _ => false,
            };
            if has_it {
                replaced.push((key, kv.mod_revision));
            }
        }
        Ok(replaced)
    }

    pub(super) fn park_request(&self, release: &Release) -> Request {
        Request::Park(ParkRequest {
            handle_id: release.handle_id.clone(),
            container: release.container_id.clone(),
            now: jiff::Timestamp::now(),
            extra: self.without_endpoint(release).into(),
        })
    }
}

fn endpoint_attr(key: &ResourceKey) -> String {
    format!(
        "{}/{}",
        key.namespace.as_deref().unwrap_or_default(),
        key.name
    )
}

fn endpoint_key(attr: &str) -> Option<ResourceKey> {
    let (namespace, name) = attr.split_once('/')?;
    Some(ResourceKey::namespaced(
        Kind::WorkloadEndpoint,
        namespace,
        name,
    ))
}
