//! The kinds of resources, how they are spelled, and what identifies one resource.

use std::fmt;
use std::str::FromStr;

use crate::string_enum::string_enum;

string_enum! {
    /// A kind of resource.
    pub enum Kind {
        /// Settings of the BGP speakers, for all nodes or for one.
        BgpConfiguration = "BGPConfiguration",
        /// Rules for what a peer is sent and what is taken from it.
        BgpFilter = "BGPFilter",
        /// A BGP session to make.
        BgpPeer = "BGPPeer",
        /// Which host a block of addresses belongs to.
        BlockAffinity = "BlockAffinity",
        /// A request for the state of one host.
        CalicoNodeStatus = "CalicoNodeStatus",
        /// Facts about the cluster as a whole.
        ClusterInformation = "ClusterInformation",
        /// Settings of the dataplane, for all nodes or for one.
        FelixConfiguration = "FelixConfiguration",
        /// A policy for endpoints of every namespace and of hosts.
        GlobalNetworkPolicy = "GlobalNetworkPolicy",
        /// A labelled set of networks, outside of any namespace.
        GlobalNetworkSet = "GlobalNetworkSet",
        /// An interface of a host that policies apply to.
        HostEndpoint = "HostEndpoint",
        /// Settings of address management.
        IpamConfiguration = "IPAMConfiguration",
        /// A range that endpoints get their addresses from.
        IpPool = "IPPool",
        /// Addresses never given to an endpoint.
        IpReservation = "IPReservation",
        /// Settings of the controllers beside Kubernetes.
        KubeControllersConfiguration = "KubeControllersConfiguration",
        /// A policy for the endpoints of one namespace.
        NetworkPolicy = "NetworkPolicy",
        /// A labelled set of networks in a namespace.
        NetworkSet = "NetworkSet",
        /// A host.
        Node = "Node",
        /// Rules and labels shared by the endpoints that name it.
        Profile = "Profile",
        /// A policy for endpoints of every namespace, to be tried.
        StagedGlobalNetworkPolicy = "StagedGlobalNetworkPolicy",
        /// A policy in the form of Kubernetes, to be tried.
        StagedKubernetesNetworkPolicy = "StagedKubernetesNetworkPolicy",
        /// A policy for the endpoints of one namespace, to be tried.
        StagedNetworkPolicy = "StagedNetworkPolicy",
        /// An ordered group of policies.
        Tier = "Tier",
        /// An attachment of a workload to the network.
        WorkloadEndpoint = "WorkloadEndpoint",
    }
}

impl Kind {
    /// Every kind, in alphabetical order of their names.
    pub const ALL: &'static [Self] = &[
        Self::BgpConfiguration,
        Self::BgpFilter,
        Self::BgpPeer,
        Self::BlockAffinity,
        Self::CalicoNodeStatus,
        Self::ClusterInformation,
        Self::FelixConfiguration,
        Self::GlobalNetworkPolicy,
        Self::GlobalNetworkSet,
        Self::HostEndpoint,
        Self::IpamConfiguration,
        Self::IpPool,
        Self::IpReservation,
        Self::KubeControllersConfiguration,
        Self::NetworkPolicy,
        Self::NetworkSet,
        Self::Node,
        Self::Profile,
        Self::StagedGlobalNetworkPolicy,
        Self::StagedKubernetesNetworkPolicy,
        Self::StagedNetworkPolicy,
        Self::Tier,
        Self::WorkloadEndpoint,
    ];

    /// The plural in lower case: the directory of the kind in etcd.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::BgpConfiguration => "bgpconfigurations",
            Self::BgpFilter => "bgpfilters",
            Self::BgpPeer => "bgppeers",
            Self::BlockAffinity => "blockaffinities",
            Self::CalicoNodeStatus => "caliconodestatuses",
            Self::ClusterInformation => "clusterinformations",
            Self::FelixConfiguration => "felixconfigurations",
            Self::GlobalNetworkPolicy => "globalnetworkpolicies",
            Self::GlobalNetworkSet => "globalnetworksets",
            Self::HostEndpoint => "hostendpoints",
            Self::IpamConfiguration => "ipamconfigurations",
            Self::IpPool => "ippools",
            Self::IpReservation => "ipreservations",
            Self::KubeControllersConfiguration => "kubecontrollersconfigurations",
            Self::NetworkPolicy => "networkpolicies",
            Self::NetworkSet => "networksets",
            Self::Node => "nodes",
            Self::Profile => "profiles",
            Self::StagedGlobalNetworkPolicy => "stagedglobalnetworkpolicies",
            Self::StagedKubernetesNetworkPolicy => "stagedkubernetesnetworkpolicies",
            Self::StagedNetworkPolicy => "stagednetworkpolicies",
            Self::Tier => "tiers",
            Self::WorkloadEndpoint => "workloadendpoints",
        }
    }

    /// Other spellings people use on a command line, in lower case.
    pub const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::BgpConfiguration => &["bgpconfig", "bgpconfigs"],
            Self::BgpFilter => &["bgpf", "bgpfs", "bf", "bfs"],
            Self::BgpPeer => &["bgpp", "bgpps", "bp", "bps"],
            Self::BlockAffinity => &["affinity", "affinities"],
            Self::CalicoNodeStatus => &["nodestatus", "nodestatuses"],
            Self::ClusterInformation => &["clusterinfo", "clusterinfos"],
            Self::FelixConfiguration => &["felixconfig", "felixconfigs"],
            Self::GlobalNetworkPolicy => &["gnp", "gnps"],
            Self::GlobalNetworkSet => &["gnetset", "gnetsets"],
            Self::HostEndpoint => &["hep", "heps"],
            Self::IpamConfiguration => &["ipamconfig", "ipamconfigs"],
            Self::IpPool => &["ipp", "ipps", "pool", "pools"],
            Self::IpReservation => &["reservation", "reservations"],
            Self::KubeControllersConfiguration => &[
                "kubecontrollersconfig",
                "kubecontrollersconfigs",
                "kcc",
                "kccs",
            ],
            Self::NetworkPolicy => &["np", "nps", "policy", "policies", "pol", "pols"],
            Self::NetworkSet => &["netset", "netsets"],
            Self::Node => &["no", "nos"],
            Self::Profile => &["pro", "pros"],
            Self::StagedGlobalNetworkPolicy => &["sgnp", "sgnps"],
            Self::StagedKubernetesNetworkPolicy => &[
                "stagedkubernetespolicy",
                "stagedkubernetespolicies",
                "sknp",
                "skpol",
                "skpols",
            ],
            Self::StagedNetworkPolicy => &[
                "stagedpolicy",
                "stagedpolicies",
                "snp",
                "scnp",
                "spol",
                "spols",
            ],
            Self::Tier => &[],
            Self::WorkloadEndpoint => &["wep", "weps"],
        }
    }

    /// Whether resources of this kind live in a namespace.
    pub const fn namespaced(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy
                | Self::NetworkSet
                | Self::StagedKubernetesNetworkPolicy
                | Self::StagedNetworkPolicy
                | Self::WorkloadEndpoint
        )
    }

    /// The kind that somebody means: its name, plural or an alias, in any case.
    pub fn from_user(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|kind| {
            kind.plural() == lower
                || kind.as_str().eq_ignore_ascii_case(&lower)
                || kind.aliases().contains(&lower.as_str())
        })
    }

    /// The kind whose directory in etcd is `plural`.
    pub fn from_plural(plural: &str) -> Option<Self> {
        if plural == "ipamconfigs" {
            return Some(Self::IpamConfiguration);
        }
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.plural() == plural)
    }

    /// The kind whose name in a manifest is exactly `name`.
    pub fn from_exact(name: &str) -> Option<Self> {
        Self::from_str(name)
            .ok()
            .filter(|kind| kind.as_str() == name)
    }
}

/// What identifies a resource: kind, namespace where the kind has one, and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `None` for kinds without.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl ResourceKey {
    /// The key of a cluster-wide resource.
    pub fn global(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: None,
            name: name.into(),
        }
    }

    /// The key of a namespaced resource.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_one_kind() {
        let mut seen = std::collections::BTreeMap::new();
        for kind in Kind::ALL {
            let name = kind.as_str().to_ascii_lowercase();
            let spellings = [name.as_str(), kind.plural()];
            for spelling in spellings.iter().chain(kind.aliases()) {
                assert_eq!(
                    seen.insert((*spelling).to_owned(), kind),
                    None,
                    "{spelling}"
                );
                assert_eq!(Kind::from_user(&spelling.to_ascii_uppercase()), Some(*kind));
            }
            assert_eq!(Kind::from_plural(kind.plural()), Some(*kind));
            assert_eq!(Kind::from_exact(kind.as_str()), Some(*kind));
        }
        assert_eq!(Kind::ALL.len(), Kind::WORDS.len());
        assert_eq!(Kind::from_user("pod"), None);
        assert_eq!(Kind::from_exact("ippool"), None);
    }
}
