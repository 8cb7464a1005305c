//! A resource of any kind.

use serde::{Serialize, Serializer};

use crate::bgp_configuration::BgpConfiguration;
use crate::bgp_filter::BgpFilter;
use crate::bgp_peer::BgpPeer;
use crate::block_affinity::BlockAffinity;
use crate::calico_node_status::CalicoNodeStatus;
use crate::cluster_information::ClusterInformation;
use crate::felix_configuration::FelixConfiguration;
use crate::host_endpoint::HostEndpoint;
use crate::ipam_configuration::{IpReservation, IpamConfiguration};
use crate::ippool::IpPool;
use crate::kind::{Kind, ResourceKey};
use crate::kube_controllers_configuration::KubeControllersConfiguration;
use crate::meta::ObjectMeta;
use crate::network_set::{GlobalNetworkSet, NetworkSet};
use crate::node::Node;
use crate::policy::{GlobalNetworkPolicy, NetworkPolicy};
use crate::profile::Profile;
use crate::staged_policy::{
    StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy, StagedNetworkPolicy,
};
use crate::tier::Tier;
use crate::workload_endpoint::WorkloadEndpoint;

macro_rules! any_resource {
    ($($kind:ident in $held:ty),+ $(,)?) => {
        /// A resource of any kind.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each variant holds the kind of its name")]
        pub enum AnyResource { $($kind($held),)+ }

        impl AnyResource {
            /// The kind.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)+ }
            }

            /// What identifies the resource in the store.
            pub fn key(&self) -> ResourceKey {
                match self { $(Self::$kind(resource) => resource.key(),)+ }
            }

            /// Name, labels and bookkeeping.
            pub const fn metadata(&self) -> &ObjectMeta {
                match self { $(Self::$kind(resource) => &resource.metadata,)+ }
            }

            /// Name, labels and bookkeeping, to be changed.
            pub const fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Self::$kind(resource) => &mut resource.metadata,)+ }
            }

            /// Takes over members beside metadata and spec, such as a status, that this lacks.
            pub fn keep_extra(&mut self, old: &Self) {
                let extra = match old { $(Self::$kind(resource) => &resource.extra,)+ };
                let own = match self { $(Self::$kind(resource) => &mut resource.extra,)+ };
                for (name, value) in extra {
                    own.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }

            /// Reads a JSON object as a resource of `kind`; its own `kind` member is not looked at.
            pub(crate) fn from_value(
                kind: Kind,
                value: serde_json::Value,
            ) -> Result<Self, serde_json::Error> {
                Ok(match kind {
                    $(Kind::$kind => Self::$kind(serde_json::from_value(value)?),)+
                })
            }
        }

        impl Serialize for AnyResource {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $(Self::$kind(resource) => resource.serialize(serializer),)+ }
            }
        }

        $(impl From<$kind> for AnyResource {
            fn from(resource: $kind) -> Self {
                Self::$kind(resource.into())
            }
        })+
    };
}

// What is large and rare is boxed, so that what there are many of does not take its room.
any_resource!(
    BgpConfiguration in BgpConfiguration,
    BgpFilter in BgpFilter,
    BgpPeer in BgpPeer,
    BlockAffinity in BlockAffinity,
    CalicoNodeStatus in CalicoNodeStatus,
    ClusterInformation in ClusterInformation,
    FelixConfiguration in Box<FelixConfiguration>,
    GlobalNetworkPolicy in GlobalNetworkPolicy,
    GlobalNetworkSet in GlobalNetworkSet,
    HostEndpoint in HostEndpoint,
    IpamConfiguration in IpamConfiguration,
    IpPool in IpPool,
    IpReservation in IpReservation,
    KubeControllersConfiguration in KubeControllersConfiguration,
    NetworkPolicy in NetworkPolicy,
    NetworkSet in NetworkSet,
    Node in Node,
    Profile in Profile,
    StagedGlobalNetworkPolicy in StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy in StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy in StagedNetworkPolicy,
    Tier in Tier,
    WorkloadEndpoint in WorkloadEndpoint,
);
