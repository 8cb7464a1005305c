//! Endpoints: made, changed and removed.

use std::net::IpAddr;
use std::sync::mpsc;
use std::time::Duration;

use margay_dataplane::attach::{self, AttachSpec};
use margay_model::any::AnyResource;
use margay_model::endpoint_name::EndpointName;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::store::{KeyValue, Store, Txn, TxnOutcome};
use margay_model::stored::{decode_stored, encode_stored};
use margay_model::workload_endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use tracing::{info, warn};

use super::error::DockerError;
use super::network::Network;
use super::options::EndpointOptions;
use super::protocol::{Interface, Target};
use super::{Driver, ORCHESTRATOR};
use crate::cni::{
    HANDLE_ANNOTATION, IpamWish, PROGRAM_TIMEOUT, format_mac, host_ifname, now_rfc3339, parse_mac,
};
use crate::fault;
use crate::graph::StoredEndpoint;
use crate::ipam_task::{Assign, Release};
use crate::world::World;

/// Which of dockerd's networks an endpoint is of.
pub(super) const NETWORK_ID: &str = "margay.io/docker-network-id";

/// How often an endpoint is written again because others write it at the same moment.
const ATTEMPTS: u32 = 20;

/// Pause before a removal is tried again that the datastore was not there for.
const RETRY: Duration = Duration::from_secs(2);

/// What the container's end is called until dockerd moves it; 11 digits follow, as on the host's end.
const TEMPORARY: &str = "dkp";

impl Driver {
    pub(super) fn endpoint_key(&self, id: &str) -> Result<ResourceKey, DockerError> {
        let name = EndpointName::libnetwork(&self.node, id);
        let name =
            name.map_err(|error| DockerError::option("EndpointID", id, error.to_string()))?;
        let namespace = self.config.namespace.as_str();
        Ok(ResourceKey::namespaced(
            Kind::WorkloadEndpoint,
            namespace,
            name.to_string(),
        ))
    }

    /// The pair of an endpoint, by what is in the datastore.
    pub(super) fn pair(
        &self,
        world: &World,
        id: &str,
        endpoint: &WorkloadEndpointSpec,
        mtu: Option<u32>,
    ) -> AttachSpec {
        let host_ifname = endpoint_ifname(&world.interface_prefix, id);
        let digits = &host_ifname[world.interface_prefix.len()..];
        AttachSpec {
            netns: Default::default(),
            container_ifname: format!("{TEMPORARY}{digits}"),
            mtu: mtu.or_else(|| *self.mtu.borrow()),
            mtu_follows: mtu.is_none(),
            container_mac: parse_mac(&endpoint.mac),
            allow_spoofing: world.allow_spoofing,
            container_forwarding: None,
            queues: None,
            ipv6: endpoint.ip_networks.iter().any(|net| !net.is_ipv4()),
            host_ifname,
        }
    }

    /// Repeated by a dockerd that got no answer, it does what is left to do.
    pub(super) async fn create_endpoint(&self, call: Target) -> Result<Value, DockerError> {
        self.open_world().await?;
        let key = self.endpoint_key(&call.endpoint_id)?;
        let network = self.network(&call.network_id).await?;
        let options = EndpointOptions::parse(&call.options)?;
        let mut ips = addresses(&call.interface)?;
        ips.sort_unstable();
        let _turn = self.turns.take(&call.endpoint_id).await;
        // Two containers that were given one address by mistake: one at a time, and the second finds the first.
        let mut turns = Vec::new();
        for ip in &ips {
            turns.push(self.turns.take(&ip.to_string()).await);
        }
        let world = self.synced_world().await?;
        for ip in &ips {
            if let Some((other, _)) = self.endpoint_with(&world, *ip)
                && *other != key
            {
                let owner = other.name.clone();
                return Err(DockerError::InUse { ip: *ip, owner });
            }
        }
        let mac = mac_of(&call)?;
        let mut endpoint = self.endpoint(&key, &call, &network, options, mac);
        endpoint.spec.ip_networks = ips
            .iter()
            .copied()
            .map(margay_model::net::Cidr::host)
            .collect();
        let spec = self.pair(&world, &call.endpoint_id, &endpoint.spec, network.mtu);
        endpoint.spec.interface_name.clone_from(&spec.host_ifname);
        let written = self.write(&world, &network, endpoint, ips);
        let (made, written) = tokio::join!(self.make_pair(spec), written);
        fault::point("docker-after-endpoint");
        let programmed = match (made, written) {
            (Ok(()), Ok(stored)) => self.program(&network, stored).await,
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if let Err(error) = programmed {
            // dockerd takes the address back, and knows nothing of the rest.
            if let Err(left) = self.remove(&key, &call.endpoint_id).await {
                info!(endpoint = %key, error = %left, "left to the audit");
            }
            return Err(error);
        }
        fault::point("docker-before-endpoint-answer");
        let given = !call.interface.mac_address.is_empty();
        let interface = match given {
            // What dockerd knows must not be told it again.
            true => json!({}),
            false => json!({"MacAddress": format_mac(mac)}),
        };
        Ok(json!({"Interface": interface}))
    }

    fn endpoint(
        &self,
        key: &ResourceKey,
        call: &Target,
        network: &Network,
        options: EndpointOptions,
        mac: [u8; 6],
    ) -> WorkloadEndpoint {
        let namespace = self.config.namespace.as_str();
        let mut metadata = ObjectMeta::namespaced(namespace, key.name.clone());
        metadata.uid = Some(uuid::Uuid::new_v4().to_string());
        metadata.creation_timestamp = Some(now_rfc3339());
        metadata.labels.extend(network.labels.clone());
        metadata.labels.extend(options.labels);
        metadata.labels.extend(
            [("namespace", namespace), ("orchestrator", ORCHESTRATOR)]
                .map(|(name, value)| (format!("projectcalico.org/{name}"), value.to_owned())),
        );
        metadata.annotations.extend([
            (HANDLE_ANNOTATION.to_owned(), handle_of(&call.endpoint_id)),
            (NETWORK_ID.to_owned(), call.network_id.clone()),
        ]);
        let spec = WorkloadEndpointSpec {
            orchestrator: ORCHESTRATOR.to_owned(),
            node: self.node.clone(),
            // dockerd does not tell the container's; this one says whose turn it is.
            container_id: call.endpoint_id.clone(),
            endpoint: call.endpoint_id.clone(),
            profiles: vec![network.profile_name()],
            mac: format_mac(mac),
            ports: options.ports,
            ..WorkloadEndpointSpec::default()
        };
        Resource::new(metadata, spec)
    }

    async fn write(
        &self,
        world: &World,
        network: &Network,
        endpoint: WorkloadEndpoint,
        ips: Vec<IpAddr>,
    ) -> Result<StoredEndpoint, DockerError> {
        let key = endpoint.key();
        if let Some(known) = world.endpoints.get(&key) {
            // An earlier call got this far.
            return Ok(StoredEndpoint {
                key,
                endpoint: known.resource.clone(),
                mod_revision: known.mod_revision,
            });
        }
        let assign = Assign {
            handle_id: handle_of(&endpoint.spec.endpoint),
            container_id: endpoint.spec.container_id.clone(),
            identity: None,
            pod: None,
            wish: IpamWish::default(),
            requested_ips: Vec::new(),
            given_ips: ips,
            key,
            endpoint,
            profile: (!world.profiles.contains(&network.profile_name())).then(|| network.profile()),
            // Nobody waits for what is known already.
            planned: mpsc::sync_channel(1).0,
        };
        Ok(self.ipam.assign(assign).await?.stored)
    }

    /// Makes the pair unless it is there.
    pub(super) async fn make_pair(&self, spec: AttachSpec) -> Result<(), DockerError> {
        self.reaper.when_gone(&spec.host_ifname).await;
        let made = tokio::task::spawn_blocking(move || {
            if attach::is_here(&spec)? {
                return Ok(());
            }
            attach::remove(&spec.host_ifname)?;
            attach::create_pair(&spec).map(drop)
        });
        let made = made.await;
        let made =
            made.map_err(|panic| DockerError::Failed(format!("attaching failed: {panic}")))?;
        Ok(made?)
    }

    pub(super) async fn program(
        &self,
        network: &Network,
        stored: StoredEndpoint,
    ) -> Result<(), DockerError> {
        self.profile_known(&network.profile_name()).await?;
        let programmed = tokio::time::timeout(PROGRAM_TIMEOUT, self.graph.endpoint(stored));
        match programmed.await {
            Ok(programmed) => programmed.map_err(DockerError::Refused),
            Err(_elapsed) => Err(DockerError::Slow(PROGRAM_TIMEOUT.as_secs())),
        }
    }

    /// Waits for the watch to bring a profile that has just been written.
    pub(super) async fn profile_known(&self, name: &str) -> Result<(), DockerError> {
        let mut world = self.world.clone();
        let known = world.wait_for(|world| world.profiles.contains(name));
        match tokio::time::timeout(PROGRAM_TIMEOUT, known).await {
            // An error means that the agent is stopping.
            Ok(Ok(_) | Err(_)) => Ok(()),
            Err(_elapsed) => Err(DockerError::Slow(PROGRAM_TIMEOUT.as_secs())),
        }
    }

    pub(super) async fn delete_endpoint(&self, call: Target) -> Result<Value, DockerError> {
        let key = self.endpoint_key(&call.endpoint_id)?;
        let _turn = self.turns.take(&call.endpoint_id).await;
        self.remove(&key, &call.endpoint_id).await?;
        Ok(json!({}))
    }

    /// Removes an endpoint that dockerd did not name.
    pub(super) async fn remove_endpoint(&self, key: &ResourceKey) -> Result<(), DockerError> {
        let world = self.synced_world().await?;
        let Some(known) = world.endpoints.get(key) else {
            return Ok(());
        };
        let id = &known.resource.spec.container_id;
        let _turn = self.turns.take(id).await;
        self.remove(key, id).await
    }

    /// Out of the kernel, out of the store, then the interface. Nothing there is success. The addresses stay dockerd's,
    /// which gives them back next.
    async fn remove(&self, key: &ResourceKey, id: &str) -> Result<(), DockerError> {
        let world = self.synced_world().await?;
        let known = world.endpoints.get(key).map(|known| known.mod_revision);
        if let Some(revision) = known {
            let gone = self.graph.endpoint_gone(key.clone(), revision, id);
            match tokio::time::timeout(PROGRAM_TIMEOUT, gone).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => {
                    warn!(endpoint = %key, reason, "kernel state of an endpoint is left to be retried");
                }
                Err(_elapsed) => return Err(DockerError::Slow(PROGRAM_TIMEOUT.as_secs())),
            }
        }
        fault::point("docker-after-kernel-removal");
        let release = Release {
            handle_id: handle_of(id),
            container_id: id.to_owned(),
            endpoint: Some((key.clone(), known.unwrap_or(0))),
            park: false,
        };
        let released = self.ipam.release(release.clone()).await;
        fault::point("docker-after-endpoint-removal");
        self.reaper
            .remove(endpoint_ifname(&world.interface_prefix, id))
            .await;
        match released.map_err(DockerError::from) {
            Ok(()) => info!(endpoint = id, "detached"),
            Err(error) if error.is_transient() => {
                warn!(endpoint = id, %error, "the removal of an endpoint waits for the datastore");
                self.release_later(release);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// An agent that ends meanwhile finds the endpoint without an interface when it starts.
    fn release_later(&self, release: Release) {
        let ipam = self.ipam.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RETRY).await;
                match ipam.release(release.clone()).await {
                    Err(error) if error.transient() => {}
                    Err(error) => {
                        return warn!(endpoint = release.container_id, %error, "endpoint is kept");
                    }
                    Ok(()) => return info!(endpoint = release.container_id, "detached"),
                }
            }
        });
    }

    /// Changes an endpoint in the datastore and tells the graph. `change` says whether there was something to change.
    pub(super) async fn amend(
        &self,
        key: &ResourceKey,
        mut change: impl FnMut(&mut WorkloadEndpoint) -> bool,
    ) -> Result<WorkloadEndpoint, DockerError> {
        let unknown = || DockerError::UnknownEndpoint(key.name.clone());
        let store_key = self.keys.resource(key);
        let known = self.world.borrow().endpoints.get(key).cloned();
        let known = known.ok_or_else(unknown)?;
        let (mut endpoint, mut revision) = (known.resource.clone(), known.mod_revision);
        for _ in 0..ATTEMPTS {
            if !change(&mut endpoint) {
                return Ok(endpoint);
            }
            let resource = AnyResource::WorkloadEndpoint(endpoint.clone());
            let txn = Txn::default()
                .when(store_key.clone(), revision)
                .put(store_key.clone(), encode_stored(&resource));
            match self.store.txn(txn).await? {
                TxnOutcome::Committed(mod_revision) => {
                    let stored = StoredEndpoint {
                        key: key.clone(),
                        endpoint: endpoint.clone(),
                        mod_revision,
                    };
                    let told = self.graph.endpoint(stored).await;
                    told.map_err(DockerError::Refused)?;
                    return Ok(endpoint);
                }
                TxnOutcome::Conflict(current) => {
                    let current = current.into_iter().flatten().next().ok_or_else(unknown)?;
                    (endpoint, revision) = stored(key, &current).ok_or_else(unknown)?;
                }
            }
        }
        Err(DockerError::Contention(key.name.clone()))
    }
}

fn stored(key: &ResourceKey, kv: &KeyValue) -> Option<(WorkloadEndpoint, i64)> {
    match decode_stored(key, &kv.value) {
        Ok(AnyResource::WorkloadEndpoint(endpoint)) => Some((endpoint, kv.mod_revision)),
        _ => None,
    }
}

/// Holds no address: those are under the host's one handle. It is there for the audit, which removes an endpoint of ours
/// by its handle.
fn handle_of(endpoint_id: &str) -> String {
    format!("_docker.{endpoint_id}")
}

fn endpoint_ifname(prefix: &str, endpoint_id: &str) -> String {
    host_ifname(prefix, endpoint_id, ORCHESTRATOR)
}

fn addresses(interface: &Interface) -> Result<Vec<IpAddr>, DockerError> {
    let mut ips = Vec::new();
    for (field, text) in [
        ("Address", &interface.address),
        ("AddressIPv6", &interface.address_ipv6),
    ] {
        if text.is_empty() {
            continue;
        }
        let bare = text.split('/').next().unwrap_or_default();
        let ip = bare.parse();
        ips.push(ip.map_err(|_bad: std::net::AddrParseError| {
            DockerError::option(field, text, "an address")
        })?);
    }
    match ips.is_empty() {
        true => Err(DockerError::ForeignIpam),
        false => Ok(ips),
    }
}

/// As dockerd has it, else made of the endpoint's id: the same however often the call is repeated.
fn mac_of(call: &Target) -> Result<[u8; 6], DockerError> {
    let text = call.interface.mac_address.as_str();
    if text.is_empty() {
        let hash = Sha1::digest(call.endpoint_id.as_bytes());
        let unicast = (hash[0] & 0xfc) | 0x02;
        return Ok([unicast, hash[1], hash[2], hash[3], hash[4], hash[5]]);
    }
    let mac = parse_mac(text).filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]);
    mac.ok_or_else(|| {
        DockerError::option("MacAddress", text, "six hex octets of a unicast address")
    })
}
