//! Docker's plugin interface: a remote network driver and a remote IPAM driver on one socket.
//!
//! dockerd calls, one container after the other and never twice at once for one endpoint. What a call does is in the
//! datastore and in the kernel when it is answered; nothing is only in memory. What dockerd forgets to take back, because
//! it was killed, is found by the agent's own looks at interfaces and addresses.
//!
//! The way of an attachment is that of a CNI ADD, cut where dockerd cuts it: RequestAddress takes the address,
//! CreateEndpoint makes the pair, writes the endpoint and has it programmed, Join says which interface dockerd is to move.

mod describe;
mod endpoint;
mod error;
mod health;
mod http;
mod ipam;
mod join;
mod network;
mod options;
mod ports;
mod protocol;
mod sweep;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use margay_datastore::AnyStore;
use margay_model::keys::Keys;
use margay_model::kind::ResourceKey;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

pub(crate) use describe::{NAMES_ANNOTATION, NETWORKS_ANNOTATION};
use error::DockerError;
pub(crate) use http::serve;
pub(crate) use network::{forget_networks, hosts as hosts_with_networks};
use protocol::Target;

use crate::cni::{LOCKED, NOT_SYNCED, Turns};
use crate::fault;
use crate::graph::GraphHandle;
use crate::ipam_task::IpamHandle;
use crate::reaper::Reaper;
use crate::world::{LocalEndpoint, World};

/// What the IPAM driver calls its addresses; the network driver knows its own networks by it.
const ADDRESS_SPACE: &str = "margay";

/// What `orchestrator` says in an endpoint of a Docker container; the established system has the same word.
const ORCHESTRATOR: &str = "libnetwork";

/// Settings of the agent's file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DockerConfig {
    /// Where dockerd looks for a plugin of this name.
    pub(crate) socket: PathBuf,
    /// The namespace of the containers' endpoints.
    pub(crate) namespace: String,
    /// dockerd's own socket, for names and labels of containers; null for neither.
    pub(crate) api: Option<PathBuf>,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            socket: "/run/docker/plugins/margay.sock".into(),
            namespace: "libnetwork".to_owned(),
            api: Some("/run/docker.sock".into()),
        }
    }
}

/// What the calls work with.
#[derive(Debug)]
pub(crate) struct Driver {
    config: DockerConfig,
    node: String,
    /// Holds the addresses of all Docker containers of this host. No CNI network's name begins with such a character.
    handle: String,
    keys: Keys,
    store: AnyStore,
    world: watch::Receiver<Arc<World>>,
    graph: GraphHandle,
    ipam: IpamHandle,
    reaper: Reaper,
    turns: Arc<Turns>,
    /// The largest packet that reaches every other host, if that is known.
    mtu: watch::Receiver<Option<u32>>,
    /// Between two looks for what a dockerd left.
    interval: Duration,
    /// How long something must have been left over.
    grace: Duration,
}

/// The parts that the driver shares with the rest of the agent.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) node: String,
    pub(crate) keys: Keys,
    pub(crate) store: AnyStore,
    pub(crate) world: watch::Receiver<Arc<World>>,
    pub(crate) graph: GraphHandle,
    pub(crate) ipam: IpamHandle,
    pub(crate) reaper: Reaper,
    pub(crate) turns: Arc<Turns>,
    pub(crate) mtu: watch::Receiver<Option<u32>>,
    pub(crate) interval: Duration,
    pub(crate) grace: Duration,
}

/// What a call is answered with.
#[derive(Debug, PartialEq)]
enum Answer {
    Done(Value),
    /// Refused: dockerd shows the text to its user.
    Failed {
        field: &'static str,
        text: String,
    },
    /// The body is not what the call needs.
    Undecodable(String),
    /// dockerd takes it for a method that is not there, which some need not be.
    Unknown,
}

impl Driver {
    pub(crate) fn new(config: DockerConfig, parts: Parts) -> Self {
        Self {
            config,
            handle: format!("_docker.{}", parts.node),
            node: parts.node,
            keys: parts.keys,
            store: parts.store,
            world: parts.world,
            graph: parts.graph,
            ipam: parts.ipam,
            reaper: parts.reaper,
            turns: parts.turns,
            mtu: parts.mtu,
            interval: parts.interval,
            grace: parts.grace,
        }
    }

    /// Carries out one call.
    async fn call(self: Arc<Self>, method: &str, body: &[u8]) -> Answer {
        fault::arm();
        let Some((interface, method)) = method.split_once('.') else {
            return Answer::Unknown;
        };
        let (field, outcome) = match interface {
            "Plugin" => ("Err", plugin(method)),
            "NetworkDriver" => ("Err", self.network_call(method, body).await),
            "IpamDriver" => ("Error", self.ipam_call(method, body).await),
            _ => return Answer::Unknown,
        };
        match outcome {
            Some(Ok(value)) => Answer::Done(value),
            Some(Err(Failure::Body(text))) => Answer::Undecodable(text),
            Some(Err(Failure::Call(error))) => {
                let text = error.to_string();
                warn!(method, error = text, "call of dockerd failed");
                Answer::Failed { field, text }
            }
            None => Answer::Unknown,
        }
    }

    async fn network_call(self: &Arc<Self>, method: &str, body: &[u8]) -> Option<Outcome> {
        Some(match method {
            "GetCapabilities" => {
                // The network is one host's to dockerd, which has no store to share it by; the addresses reach further.
                Ok(json!({"Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true}))
            }
            "GwAllocCheck" => Ok(json!({"SkipIPv4": true, "SkipIPv6": true})),
            "CreateNetwork" => done(body, |call| self.create_network(call)).await,
            "DeleteNetwork" => done(body, |call| self.delete_network(call)).await,
            "CreateEndpoint" => done(body, |call| self.create_endpoint(call)).await,
            "DeleteEndpoint" => done(body, |call| self.delete_endpoint(call)).await,
            "EndpointOperInfo" => done(body, |call| self.endpoint_info(call)).await,
            "Join" => done(body, |call| self.join(call)).await,
            "ProgramExternalConnectivity" => done(body, |call| self.publish(call)).await,
            "RevokeExternalConnectivity" => done(body, |call| self.unpublish(call)).await,
            // DeleteEndpoint follows, and until then the interface must stay: dockerd still moves it back.
            "Leave" | "DiscoverNew" | "DiscoverDelete" => {
                done(body, async |_: Target| Ok(json!({}))).await
            }
            _ => return None,
        })
    }

    async fn ipam_call(self: &Arc<Self>, method: &str, body: &[u8]) -> Option<Outcome> {
        Some(match method {
            // With the hardware address, calls for containers can be told from those for other ends.
            "GetCapabilities" => {
                Ok(json!({"RequiresMACAddress": true, "RequiresRequestReplay": false}))
            }
            "GetDefaultAddressSpaces" => Ok(json!({
                "LocalDefaultAddressSpace": ADDRESS_SPACE,
                "GlobalDefaultAddressSpace": ADDRESS_SPACE,
            })),
            "RequestPool" => done(body, |call| self.request_pool(call)).await,
            "ReleasePool" => done(body, async |_: protocol::AddressCall| Ok(json!({}))).await,
            "RequestAddress" => done(body, |call| self.request_address(call)).await,
            "ReleaseAddress" => done(body, |call| self.release_address(call)).await,
            _ => return None,
        })
    }

    /// The world once the agent is in sync.
    async fn synced_world(&self) -> Result<Arc<World>, DockerError> {
        let synced = World::synced(&self.world).await;
        synced.ok_or(DockerError::NotNow(NOT_SYNCED))
    }

    /// The same, unless the datastore is locked.
    async fn open_world(&self) -> Result<Arc<World>, DockerError> {
        let world = self.synced_world().await?;
        match world.locked {
            true => Err(DockerError::NotNow(LOCKED)),
            false => Ok(world),
        }
    }

    /// This host's Docker endpoint that has an address.
    fn endpoint_with<'w>(
        &self,
        world: &'w World,
        ip: IpAddr,
    ) -> Option<(&'w ResourceKey, &'w Arc<LocalEndpoint>)> {
        world.endpoints.iter().find(|(_, endpoint)| {
            let spec = &endpoint.resource.spec;
            spec.orchestrator == ORCHESTRATOR && spec.ip_networks.iter().any(|net| net.addr() == ip)
        })
    }
}

/// Why a call was not carried out.
enum Failure {
    Body(String),
    Call(DockerError),
}

type Outcome = Result<Value, Failure>;

fn plugin(method: &str) -> Option<Outcome> {
    (method == "Activate").then(|| {
        info!("dockerd uses the plugin");
        Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]}))
    })
}

/// Decodes the body and does the work.
async fn done<T: DeserializeOwned>(
    body: &[u8],
    work: impl AsyncFnOnce(T) -> Result<Value, DockerError>,
) -> Outcome {
    if body.is_empty() {
        return Err(Failure::Call(DockerError::Empty));
    }
    let call = serde_json::from_slice(body)
        .map_err(|error| Failure::Body(format!("the body does not decode: {error}")))?;
    work(call).await.map_err(Failure::Call)
}
