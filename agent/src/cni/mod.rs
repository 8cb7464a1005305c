//! The CNI verbs: what the shim forwards, carried out.
//!
//! Handlers own attachments in flight, one call at a time a container. They change the store through the
//! IPAM task, the kernel's interfaces through [`margay_dataplane::attach`], and everything else by telling
//! the graph, which answers when the kernel has acknowledged.

mod add;
mod annotations;
mod announced;
mod args;
mod budget;
mod check;
mod del;
mod delegate;
mod endpoint;
mod gates;
mod gc;
mod identity;
mod journal;
mod link;
mod mac;
mod naming;
mod netconf;
mod ports;
mod result;
mod runtime;
mod shaping;
mod status;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_dataplane::attach::AttachError;
use margay_model::kind::ResourceKey;
use margay_model::workload_endpoint::WorkloadEndpoint;
use tokio::sync::watch;
use tracing::{info, warn};

pub(crate) use endpoint::now_rfc3339;
pub(crate) use identity::Identity;
use journal::Entry;
pub(crate) use journal::Journal;
pub(crate) use mac::{format_mac, parse_mac};
pub(crate) use naming::host_ifname;
pub(crate) use netconf::IpamWish;
pub(crate) use turns::Turns;

use crate::bgp::BgpHandle;
use crate::causes::in_full;
use crate::fault;
use crate::graph::GraphHandle;
use crate::ipam_task::{IpamHandle, Release};
use crate::reaper::Reaper;
use crate::world::World;

/// Why nothing is attached while somebody works on the datastore as a whole.
pub(crate) const LOCKED: &str = "the datastore is locked (ClusterInformation default has datastoreReady: \
                                 false): it is being migrated, or margayctl datastore unlock is due";

/// Why nothing is attached or detached by an agent that has just started.
pub(crate) const NOT_SYNCED: &str = "the agent has not read the datastore yet";

/// Version of an error told before the configuration's own is known.
const NEWEST: &str = "1.1.0";

/// How long the kernel may take to acknowledge policy and route.
pub(crate) const PROGRAM_TIMEOUT: Duration = Duration::from_secs(30);

/// Where an endpoint of ours says which handle holds its addresses: a field the established layout does
/// not have, for the audit of what a crash or a reboot left.
pub(crate) const HANDLE_ANNOTATION: &str = "margay.io/handle";

/// Where it says that the handle is an identity's, and which.
const IDENTITY_ANNOTATION: &str = "margay.io/identity";

/// Where it says how often the identity's addresses have come to another node.
pub(crate) const MOVES_ANNOTATION: &str = "margay.io/moves";

/// What the verbs work with.
#[derive(Debug)]
pub(crate) struct Cni {
    node: String,
    world: watch::Receiver<Arc<World>>,
    graph: GraphHandle,
    ipam: IpamHandle,
    reaper: Reaper,
    /// None where BGP is off.
    bgp: Option<BgpHandle>,
    journal: Journal,
    /// The largest packet that reaches every other host, if that is known.
    mtu: watch::Receiver<Option<u32>>,
    /// For each container whose addresses are another plugin's: how to give them back.
    given: Journal,
    turns: Arc<Turns>,
}

impl Cni {
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub(crate) fn new(
        node: String,
        world: watch::Receiver<Arc<World>>,
        graph: GraphHandle,
        ipam: IpamHandle,
        reaper: Reaper,
        turns: Arc<Turns>,
        journal: Journal,
        (bgp, mtu): (Option<BgpHandle>, watch::Receiver<Option<u32>>),
    ) -> Self {
        Self {
            node,
            world,
            graph,
            ipam,
            reaper,
            bgp,
            given: journal.beside("given"),
            journal,
            mtu,
            turns,
        }
    }

    /// Carries out one call. Never fails: what goes wrong is in the reply.
    pub(crate) async fn handle(&self, request: CniRequest) -> CniReply {
        fault::arm();
        if let Err(error) = request.check_environment() {
            return error.reply(NEWEST);
        }
        let header = match Header::parse(&request.config) {
            Ok(header) => header,
            Err((version, error)) => return error.reply(&version),
        };
        if let Err(error) = header.allows(&request.command) {
            return error.reply(&header.cni_version);
        }
        // In boxes: what is handed from task to task is small then, whatever the largest of them is.
        let outcome = match request.command.as_str() {
            "ADD" => Box::pin(self.add(&request, &header)).await,
            "DEL" => Box::pin(self.del(&request, &header)).await,
            "CHECK" => Box::pin(self.check(&request, &header)).await,
            "STATUS" => self.status(&request, &header).await,
            "GC" => Box::pin(self.collect_garbage(&request, &header)).await,
            other => Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                format!("CNI_COMMAND {other} is not supported"),
            )),
        };
        match outcome {
            Ok(reply) => reply,
            Err(error) => {
                warn!(
                    command = request.command,
                    container = request.container_id,
                    interface = request.ifname,
                    code = error.code,
                    error = error.msg,
                    details = error.details,
                    "CNI call failed"
                );
                error.reply(&header.cni_version)
            }
        }
    }

    /// Replays what the journal holds: DELs that came while nobody could carry them out.
    pub(crate) async fn replay_journal(&self) {
        for entry in self.journal.entries() {
            fault::arm();
            let request = entry.request.clone();
            let result = match Header::parse(&request.config) {
                Ok(header) => self.replay(&entry, &header).await,
                Err((_, error)) => Err(error),
            };
            match result {
                Ok(()) => {
                    info!(
                        container = request.container_id,
                        "journalled DEL carried out"
                    );
                    fault::point("before-entry-removal");
                    entry.done();
                }
                Err(error) => {
                    warn!(
                        container = request.container_id,
                        error = error.msg,
                        "journalled DEL waits"
                    );
                }
            }
        }
    }

    async fn replay(&self, entry: &Entry, header: &Header) -> Result<(), CniError> {
        let request = &entry.request;
        let _turn = self.turns.take(&request.container_id).await;
        if !entry.is_current() {
            // An ADD or a DEL of the same container came meanwhile and settled it.
            return Ok(());
        }
        self.delete(request, header).await
    }

    /// The world as it is, in sync or not.
    pub(crate) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }

    /// Gives back an endpoint that no container can be using any more, unless it was written since it
    /// was seen in `seen`.
    pub(crate) async fn forget_endpoint(&self, key: &ResourceKey, seen: &World) {
        let Some(endpoint) = seen.endpoints.get(key) else {
            return;
        };
        let Some(handle_id) = endpoint
            .resource
            .metadata
            .annotations
            .get(HANDLE_ANNOTATION)
        else {
            // Written by another system, which has its own ways to clean up.
            return;
        };
        let container_id = &endpoint.resource.spec.container_id;
        let _turn = self.turns.take(container_id).await;
        if self.world().endpoints.get(key) != Some(endpoint) {
            return;
        }
        let release = Release {
            handle_id: handle_id.clone(),
            container_id: container_id.clone(),
            endpoint: Some((key.clone(), endpoint.mod_revision)),
            park: is_sticky(&endpoint.resource),
        };
        // The store first: what the graph forgets, no later look would find.
        if let Err(error) = self.ipam.release(release).await {
            warn!(endpoint = %key, %error, "left-over endpoint waits");
            return;
        }
        if let Err(reason) = self
            .graph
            .endpoint_gone(key.clone(), endpoint.mod_revision, container_id)
            .await
        {
            warn!(endpoint = %key, reason, "kernel state of an endpoint is left to be retried");
        }
    }

    /// Removes a host interface that no endpoint has.
    pub(crate) async fn remove_interface(&self, ifname: String) {
        self.reaper.remove(ifname).await;
    }

    /// The world once the agent is in sync, unless the datastore is locked.
    async fn open_world(&self) -> Result<Arc<World>, CniError> {
        let world = self.synced_world().await?;
        match world.locked {
            true => Err(CniError::new(code::TRY_AGAIN_LATER, LOCKED)),
            false => Ok(world),
        }
    }

    /// The world once the agent is in sync.
    async fn synced_world(&self) -> Result<Arc<World>, CniError> {
        let synced = World::synced(&self.world).await;
        synced.ok_or_else(|| CniError::new(code::TRY_AGAIN_LATER, NOT_SYNCED))
    }
}

/// Whether an endpoint is an attachment of this network.
fn is_of_network(endpoint: &WorkloadEndpoint, network: &str) -> bool {
    let (annotations, spec) = (&endpoint.metadata.annotations, &endpoint.spec);
    let handle = match annotations.get(IDENTITY_ANNOTATION) {
        Some(name) => identity::handle_id(network, name, &spec.endpoint),
        None => naming::handle_id(network, &spec.container_id, &spec.endpoint),
    };
    annotations.get(HANDLE_ANNOTATION) == Some(&handle)
}

/// Whether an endpoint's addresses outlive it.
pub(crate) fn is_sticky(endpoint: &WorkloadEndpoint) -> bool {
    endpoint
        .metadata
        .annotations
        .contains_key(IDENTITY_ANNOTATION)
}

/// How often a sticky endpoint's addresses have come to another node.
pub(crate) fn moves_of(endpoint: &WorkloadEndpoint) -> Option<u32> {
    let moves = endpoint.metadata.annotations.get(MOVES_ANNOTATION);
    is_sticky(endpoint).then(|| moves.and_then(|moves| moves.parse().ok()).unwrap_or(0))
}

/// An attachment error with the code that the spec has for it.
fn attach_error(error: &AttachError) -> CniError {
    let code = match error {
        AttachError::NetnsMissing { .. }
        | AttachError::NotNetns { .. }
        | AttachError::OwnNetns { .. } => code::INVALID_NETNS,
        _ => code::ATTACH_FAILED,
    };
    CniError::new(code, in_full(error))
}
