//! DEL: the way of ADD backwards, without ever failing for want of something.

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_model::kind::ResourceKey;
use margay_model::store::Revision;
use tracing::{info, warn};

use super::naming::{endpoint_key, handle_id, host_ifname};
use super::netconf::Call;
use super::{Cni, HANDLE_ANNOTATION, PROGRAM_TIMEOUT, is_of_network, is_sticky};
use crate::fault;
use crate::ipam_task::Release;
use crate::world::{LocalEndpoint, World};

impl Cni {
    pub(super) async fn del(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<CniReply, CniError> {
        // Held until the journal is written: an ADD that comes next must find the entry and forget it.
        let _turn = self.turns.take(&request.container_id).await;
        if let Err(error) = self.delete(request, header).await {
            // The datastore is away: keep the rest for later and let the container go.
            self.journal.write(request).map_err(|e| {
                CniError::new(
                    code::IO_FAILURE,
                    "DEL can be neither finished nor journalled",
                )
                .with_details(format!("{}; journal: {e}", error.msg))
            })?;
            warn!(
                container = request.container_id,
                interface = request.ifname,
                reason = error.msg,
                "DEL journalled"
            );
        }
        Ok(CniReply::done())
    }

    /// Takes the endpoint out of the kernel, the address and the endpoint out of the store, then the
    /// interface away. Each step is a success when there is nothing to do. The caller has the
    /// container's turn.
    pub(super) async fn delete(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<(), CniError> {
        self.synced_world().await?;
        fault::point("before-kernel-removal");
        let world = self.world();
        // A configuration that ADD would refuse has neither endpoint nor addresses.
        let call = Call::parse(request, header).ok();
        let attached = world.endpoint_of(&request.container_id, &request.ifname);
        if attached.is_some_and(|(_, endpoint)| is_of_another(endpoint, &header.name)) {
            // An interface is one network's; a DEL for another one after its ADD failed takes nothing from it.
            return self
                .give_back(request, call.and_then(|call| call.delegate))
                .await;
        }
        let owned = handle_of(request, header, call.as_ref(), &world);
        let (_, park) = owned;
        let endpoint = self.endpoint_of(request, call.as_ref(), &world);
        let unreachable = async {
            let removed = self.remove_from_kernel(request, endpoint.as_ref()).await;
            fault::point("after-kernel-removal");
            removed
        };
        let release = async {
            let released = self.release(owned, request, endpoint.clone()).await;
            fault::point("after-release");
            released
        };
        let released = if !park && self.ipam.rest() >= PROGRAM_TIMEOUT {
            // Nobody gets the address before the kernel must have let go of it.
            let (unreachable, released) = tokio::join!(unreachable, release);
            unreachable.and(released)
        } else {
            unreachable.await?;
            release.await
        };
        // Also when the store is away: nothing routes to the interface any more.
        let ifname = host_ifname(
            &world.interface_prefix,
            &request.container_id,
            &request.ifname,
        );
        self.reaper.remove(ifname).await;
        fault::point("after-interface-queued");
        released?;
        self.give_back(request, call.and_then(|call| call.delegate))
            .await?;
        fault::point("before-journal-forgets");
        self.journal.forget(request);
        let (container, interface) = (request.container_id.clone(), request.ifname.clone());
        // Told after the answer, which is what somebody waits for.
        tokio::spawn(async move { info!(container, interface, "detached") });
        Ok(())
    }

    /// Withdraws the endpoint's routes, and then removes its policy.
    async fn remove_from_kernel(
        &self,
        request: &CniRequest,
        endpoint: Option<&(ResourceKey, Revision)>,
    ) -> Result<(), CniError> {
        let Some((key, revision)) = endpoint else {
            return Ok(());
        };
        let gone = self
            .graph
            .endpoint_gone(key.clone(), *revision, &request.container_id);
        match tokio::time::timeout(PROGRAM_TIMEOUT, gone).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => {
                warn!(%key, reason, "kernel state of an endpoint is left to be retried");
                Ok(())
            }
            Err(_elapsed) => Err(CniError::new(
                code::TRY_AGAIN_LATER,
                "the kernel has not acknowledged the removal",
            )),
        }
    }

    /// The endpoint of this container's interface and the revision that last wrote it. One that is not
    /// known may be in the store all the same, from a DEL that got no further than the kernel: then its
    /// name comes from the call, and revision 0 makes the transaction look.
    fn endpoint_of(
        &self,
        request: &CniRequest,
        call: Option<&Call>,
        world: &World,
    ) -> Option<(ResourceKey, Revision)> {
        if let Some((key, endpoint)) = world.endpoint_of(&request.container_id, &request.ifname) {
            return Some((key.clone(), endpoint.mod_revision));
        }
        let key = endpoint_key(&self.node, call?).ok()?;
        // A newer sandbox of the same pod has an endpoint of this name, and keeps it.
        (!world.endpoints.contains_key(&key)).then_some((key, 0))
    }

    /// Frees, or parks, the addresses of a container's interface and removes its endpoint, in one transaction.
    pub(super) async fn release(
        &self,
        (handle_id, park): (String, bool),
        request: &CniRequest,
        endpoint: Option<(ResourceKey, Revision)>,
    ) -> Result<(), CniError> {
        let release = Release {
            handle_id,
            park,
            container_id: request.container_id.clone(),
            endpoint,
        };
        self.ipam
            .release(release)
            .await
            .map_err(|e| CniError::new(code::TRY_AGAIN_LATER, e.to_string()))
    }
}

/// Whether an endpoint is of another network. One without a handle is nobody's.
fn is_of_another(endpoint: &LocalEndpoint, network: &str) -> bool {
    let resource = &endpoint.resource;
    let has_handle = resource
        .metadata
        .annotations
        .contains_key(HANDLE_ANNOTATION);
    has_handle && !is_of_network(resource, network)
}

/// The handle of the container's addresses, and whether it is an identity's: as the endpoint says, else as
/// the call says.
fn handle_of(
    request: &CniRequest,
    header: &Header,
    call: Option<&Call>,
    world: &World,
) -> (String, bool) {
    if let Some((_, endpoint)) = world.endpoint_of(&request.container_id, &request.ifname)
        && let Some(id) = endpoint
            .resource
            .metadata
            .annotations
            .get(HANDLE_ANNOTATION)
    {
        return (id.clone(), is_sticky(&endpoint.resource));
    }
    match call {
        Some(call) => (call.handle_id(), call.identity.is_some()),
        None => {
            let id = handle_id(&header.name, &request.container_id, &request.ifname);
            (id, false)
        }
    }
}
