//! DEL: the way of ADD backwards, without ever failing for want of something.

use std::sync::Arc;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use tracing::{info, warn};

use super::naming::{handle_id, host_ifname};
use super::{Cni, PROGRAM_TIMEOUT};
use crate::ipam_task::Release;
use crate::world::World;

impl Cni {
    pub(super) async fn del(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<CniReply, CniError> {
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

    /// Takes the endpoint out of the kernel, then the address and the endpoint out of the store, then
    /// the interface away. Each step is a success when there is nothing to do.
    pub(super) async fn delete(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<(), CniError> {
        let world = self.synced_world().await?;
        let _turn = self.turns.take(&request.container_id).await;
        let world_now = Arc::clone(&self.world.borrow());
        if let Some((key, _)) = world_now.endpoint_of(&request.container_id, &request.ifname) {
            let gone = self.graph.endpoint_gone(key.clone());
            match tokio::time::timeout(PROGRAM_TIMEOUT, gone).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => {
                    warn!(%key, reason, "kernel state of an endpoint is left to be retried");
                }
                Err(_elapsed) => {
                    return Err(CniError::new(
                        code::TRY_AGAIN_LATER,
                        "the kernel has not acknowledged the removal",
                    ));
                }
            }
        }
        self.release(&header.name, request, &world_now).await?;
        let ifname = host_ifname(
            &world.interface_prefix,
            &request.container_id,
            &request.ifname,
        );
        self.reaper.remove(ifname).await;
        self.journal.forget(request);
        info!(
            container = request.container_id,
            interface = request.ifname,
            "detached"
        );
        Ok(())
    }

    /// Frees the addresses of a container's interface and removes its endpoint, in one transaction.
    pub(super) async fn release(
        &self,
        network: &str,
        request: &CniRequest,
        world: &World,
    ) -> Result<(), CniError> {
        let endpoint = world.endpoint_of(&request.container_id, &request.ifname);
        let release = Release {
            handle_id: handle_id(network, &request.container_id, &request.ifname),
            container_id: request.container_id.clone(),
            endpoint: endpoint.map(|(key, e)| (key.clone(), e.mod_revision)),
        };
        self.ipam
            .release(release)
            .await
            .map_err(|e| CniError::new(code::TRY_AGAIN_LATER, e.to_string()))
    }
}
