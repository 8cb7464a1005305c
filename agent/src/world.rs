//! What handlers may know of the cluster: a snapshot that the graph task publishes.

mod endpoints;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use margay_model::calico_node_status::CalicoNodeStatusSpec;
use margay_model::ipam_configuration::IpamConfigurationSpec;
use margay_model::ippool::IpPool;
use margay_model::kind::ResourceKey;
use margay_model::net::Cidr;
use margay_model::node::Node;
use margay_model::store::Revision;
use margay_model::workload_endpoint::WorkloadEndpoint;
use tokio::sync::watch;

pub(crate) use endpoints::Endpoints;

/// How long a call waits for an agent that is still reading the store.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// A consistent view at one moment; replaced whole, never changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// The first list is complete and the kernel has been brought in line with it.
    pub(crate) in_sync: bool,
    /// `ClusterInformation/default` says that the datastore is not ready: nothing new may be written into it.
    pub(crate) locked: bool,
    /// What each CalicoNodeStatus of this node asks for, by name.
    pub(crate) reports: Arc<BTreeMap<String, CalicoNodeStatusSpec>>,
    /// This node's own resource.
    pub(crate) node: Option<Arc<Node>>,
    /// All pools, by name.
    pub(crate) pools: Arc<Vec<IpPool>>,
    /// All reserved ranges.
    pub(crate) reservations: Arc<Vec<Cidr>>,
    /// The cluster's settings of address management.
    pub(crate) ipam: Option<Arc<IpamConfigurationSpec>>,
    /// Names of all profiles.
    pub(crate) profiles: Arc<BTreeSet<String>>,
    /// The labels of each namespace that has a profile.
    pub(crate) namespaces: Arc<BTreeMap<String, BTreeMap<String, String>>>,
    /// This node's blocks.
    pub(crate) blocks: Arc<BTreeSet<IpNetwork>>,
    /// This node's endpoints.
    pub(crate) endpoints: Arc<Endpoints>,
    /// How often the addresses of sticky endpoints have come to another node.
    pub(crate) moves: Arc<BTreeMap<IpNetwork, u32>>,
    /// First characters of every host interface of ours.
    pub(crate) interface_prefix: Arc<str>,
    /// Whether workloads may send from addresses that are not theirs.
    pub(crate) allow_spoofing: bool,
    /// Whether floating IPs lead to containers.
    pub(crate) translates_floating_ips: bool,
    /// Which endpoint, of any node, has each floating IP.
    pub(crate) floating_ips: Arc<BTreeMap<IpAddr, ResourceKey>>,
    /// The devices that are to encrypt what goes to other hosts, by family.
    pub(crate) wireguard: [Option<String>; 2],
}

/// One of this node's endpoints, and the revision that last wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LocalEndpoint {
    pub(crate) resource: WorkloadEndpoint,
    pub(crate) mod_revision: Revision,
}

impl World {
    /// The world once the agent is in sync; `None` if that takes too long.
    pub(crate) async fn synced(world: &watch::Receiver<Arc<Self>>) -> Option<Arc<Self>> {
        let mut world = world.clone();
        let synced = tokio::time::timeout(SYNC_TIMEOUT, world.wait_for(|w| w.in_sync)).await;
        let world = synced.ok()?.ok()?;
        Some(Arc::clone(&world))
    }

    /// Whether addresses are chosen by the same pools, settings and labels.
    pub(crate) fn same_rules(&self, other: &Self) -> bool {
        let same_node = match (&self.node, &other.node) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let same_settings = match (&self.ipam, &other.ipam) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_node
            && same_settings
            && Arc::ptr_eq(&self.pools, &other.pools)
            && Arc::ptr_eq(&self.reservations, &other.reservations)
    }

    /// The endpoint of a container's interface.
    pub(crate) fn endpoint_of(
        &self,
        container_id: &str,
        ifname: &str,
    ) -> Option<(&ResourceKey, &Arc<LocalEndpoint>)> {
        self.endpoints.iter().find(|(_, endpoint)| {
            let spec = &endpoint.resource.spec;
            spec.container_id == container_id && spec.endpoint == ifname
        })
    }
}
