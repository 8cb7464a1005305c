//! The members of every kind.

use super::Shape::{AnyCase, Bool, List, Number, Object, Text, Texts, Whole, Word};
use super::{Schema, Shape, forms};
use crate::bgp_configuration::{BindMode, Toggle};
use crate::bgp_filter::{FilterAction, MatchOperator, PeerType, RouteSource};
use crate::bgp_peer::{NextHopMode, ReversePeering, SourceAddress};
use crate::calico_node_status::NodeStatusClass;
use crate::ippool::{AssignmentMode, EncapMode, PoolUse};
use crate::kind::Kind;
use crate::policy::PolicyType;
use crate::rule::Action;
use crate::staged_policy::StagedAction;
use controllers::KUBE_CONTROLLERS_CONFIGURATION;
use felix::FELIX_CONFIGURATION;
use kubernetes::STAGED_KUBERNETES_NETWORK_POLICY;
pub(crate) use kubernetes::kubernetes_schema;

/// No limit on a list.
const MANY: usize = usize::MAX;
const SELECTOR: Shape = Text(1024);
const NAME: Shape = Shape::Form(&forms::NAME);
const ADDR: Shape = Shape::Form(&forms::ADDR);
const ADDR_V4: Shape = Shape::Form(&forms::ADDR_V4);
const ADDR_V6: Shape = Shape::Form(&forms::ADDR_V6);
const ASN: Shape = Shape::Form(&forms::ASN);
const PEER_AS: Shape = Shape::Form(&forms::PEER_AS);
const COMMUNITY: Shape = Shape::Form(&forms::COMMUNITY);
const DURATION: Shape = Shape::Form(&forms::DURATION);
const INTERFACE: Shape = Shape::Form(&forms::INTERFACE);
const MAC: Shape = Shape::Form(&forms::MAC);
const MASKED_NET: Shape = Shape::Form(&forms::MASKED_NET);
const NET: Shape = Shape::Form(&forms::NET);
const PORT: Shape = Shape::Form(&forms::PORT);
const PROTOCOL: Shape = Shape::Form(&forms::PROTOCOL);
const TEXT: Shape = Text(usize::MAX);
const U16: Shape = Whole(0, 65535);
const U32: Shape = Whole(0, 4_294_967_295);
const TCP_PORT: Shape = Whole(1, 65535);
/// Metrics and priorities of routes.
const PRIORITY: Shape = Whole(1, 2_147_483_646);
const LOG_LEVEL: Shape = AnyCase(&["Trace", "Debug", "Info", "Warning", "Error", "Fatal"]);
const TOGGLE: Shape = Word(Toggle::WORDS);
const ROUTE_PROGRAMMER: Shape = Word(&[
    "Enabled",
    "Disabled",
    "EnabledIPIPOnly",
    "EnabledNoEncapOnly",
]);

macro_rules! schema {
    ($name:ident, [$($field:literal: $shape:expr),* $(,)?]) => {
        schema!($name, [$($field: $shape),*], required []);
    };
    ($name:ident, [$($field:literal: $shape:expr),* $(,)?], required $required:tt) => {
        schema!($name, [$($field: $shape),*], required $required, foreign []);
    };
    (
        $name:ident, [$($field:literal: $shape:expr),* $(,)?],
        required $required:tt, foreign $foreign:tt
    ) => {
        schema!($name, [$($field: $shape),*], required $required, foreign $foreign, kept []);
    };
    (
        $name:ident, [$($field:literal: $shape:expr),* $(,)?],
        required $required:tt, foreign $foreign:tt,
        kept [$($kept:literal: $kept_shape:expr),* $(,)?]
    ) => {
        pub(super) static $name: Schema = Schema {
            fields: &[$(($field, $shape)),*],
            required: &$required,
            foreign: &$foreign,
            kept: &[$(($kept, $kept_shape)),*],
        };
    };
}

schema!(
    METADATA,
    [
        "name": TEXT,
        "namespace": TEXT,
        "uid": TEXT,
        "resourceVersion": TEXT,
        "generation": Whole(0, i64::MAX),
        "creationTimestamp": TEXT,
        "labels": Texts,
        "annotations": Texts,
    ],
    required ["name"],
    foreign [
        "generateName", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds",
        "ownerReferences", "finalizers", "managedFields", "clusterName",
    ]
);

schema!(
    NODE,
    [
        "bgp": Object(&NODE_BGP),
        "ipv4VXLANTunnelAddr": ADDR_V4,
        "vxlanTunnelMACAddr": MAC,
        "ipv6VXLANTunnelAddr": ADDR_V6,
        "vxlanTunnelMACAddrV6": MAC,
        "orchRefs": List(&Object(&ORCH_REF), MANY),
        "wireguard": Object(&NODE_WIREGUARD),
        "addresses": List(&Object(&NODE_ADDRESS), MANY),
    ],
    required [],
    foreign ["interfaces"]
);
schema!(
    NODE_BGP,
    [
        "asNumber": ASN,
        "ipv4Address": Shape::Form(&forms::SUBNET_ADDR_V4),
        "ipv4IPIPTunnelAddr": ADDR_V4,
        "ipv6Address": Shape::Form(&forms::SUBNET_ADDR_V6),
        "routeReflectorClusterID": ADDR_V4,
    ]
);
schema!(ORCH_REF, ["nodeName": TEXT, "orchestrator": TEXT], required ["orchestrator"]);
schema!(
    NODE_WIREGUARD,
    ["interfaceIPv4Address": ADDR_V4, "interfaceIPv6Address": ADDR_V6]
);
schema!(
    NODE_ADDRESS,
    ["address": NET, "type": Word(&["CalicoNodeIP", "InternalIP", "ExternalIP"])],
    required ["address"]
);

schema!(
    IP_POOL,
    [
        "cidr": Shape::Form(&forms::RULE_NET),
        "vxlanMode": Word(EncapMode::WORDS),
        "ipipMode": Word(EncapMode::WORDS),
        "natOutgoing": Bool,
        "disabled": Bool,
        "disableBGPExport": Bool,
        "blockSize": Whole(0, 128),
        "nodeSelector": SELECTOR,
        "namespaceSelector": SELECTOR,
        "allowedUses": List(&Word(PoolUse::WORDS), 10),
        "assignmentMode": Word(AssignmentMode::WORDS),
    ],
    required ["cidr"],
    foreign ["ipip", "nat-outgoing"]
);

schema!(
    BGP_CONFIGURATION,
    [
        "logSeverityScreen": LOG_LEVEL,
        "nodeToNodeMeshEnabled": Bool,
        "asNumber": ASN,
        "serviceLoadBalancerIPs": List(&Object(&CIDR_ENTRY), MANY),
        "serviceExternalIPs": List(&Object(&CIDR_ENTRY), MANY),
        "serviceClusterIPs": List(&Object(&CIDR_ENTRY), MANY),
        "serviceLoadBalancerAggregation": TOGGLE,
        "communities": List(&Object(&NAMED_COMMUNITY), 500),
        "prefixAdvertisements": List(&Object(&PREFIX_ADVERTISEMENT), 500),
        "listenPort": TCP_PORT,
        "nodeMeshPassword": Object(&PASSWORD),
        "nodeMeshMaxRestartTime": DURATION,
        "bindMode": Word(BindMode::WORDS),
        "ignoredInterfaces": List(&Shape::Form(&forms::IGNORED_INTERFACE), MANY),
        "localWorkloadPeeringIPV4": ADDR_V4,
        "localWorkloadPeeringIPV6": ADDR_V6,
        "programClusterRoutes": ROUTE_PROGRAMMER,
        "ipv4NormalRoutePriority": PRIORITY,
        "ipv6NormalRoutePriority": PRIORITY,
    ]
);
schema!(CIDR_ENTRY, ["cidr": MASKED_NET], required ["cidr"]);
schema!(
    NAMED_COMMUNITY,
    ["name": NAME, "value": COMMUNITY],
    required ["name", "value"]
);
schema!(
    PREFIX_ADVERTISEMENT,
    ["cidr": MASKED_NET, "communities": List(&TEXT, 50)],
    required ["cidr", "communities"]
);
schema!(PASSWORD, ["secretKeyRef": Object(&SECRET_KEY_REF)]);
schema!(
    SECRET_KEY_REF,
    ["name": TEXT, "key": TEXT],
    required ["key"],
    foreign ["optional"]
);

schema!(
    BGP_PEER,
    [
        "node": NAME,
        "nodeSelector": SELECTOR,
        "peerIP": Shape::Form(&forms::PEER_ADDR),
        "asNumber": PEER_AS,
        "localASNumber": ASN,
        "peerSelector": SELECTOR,
        "keepOriginalNextHop": Bool,
        "nextHopMode": Word(NextHopMode::WORDS),
        "password": Object(&PASSWORD),
        "sourceAddress": Word(SourceAddress::WORDS),
        "maxRestartTime": DURATION,
        "keepaliveTime": DURATION,
        "numAllowedLocalASNumbers": Whole(0, 255),
        "ttlSecurity": Whole(0, 255),
        "reachableBy": ADDR,
        "filters": List(&NAME, MANY),
        "localWorkloadSelector": SELECTOR,
        "reversePeering": Word(ReversePeering::WORDS),
        "bfd": Object(&BFD),
        "interface": INTERFACE,
        "peerCIDR": MASKED_NET,
        "maxPeers": Whole(1, 65535),
        "peerGroup": NAME,
        "addPath": Object(&ADD_PATH),
        "longLivedRestart": Object(&LONG_LIVED),
        "passive": Bool,
    ]
);

schema!(
    ADD_PATH,
    [
        "receive": Bool,
        "send": Bool,
        "maxSent": Whole(1, 65535),
    ]
);

schema!(
    LONG_LIVED,
    [
        "staleTime": DURATION,
        "maxStaleTime": DURATION,
        "partialDeployment": Bool,
    ]
);

schema!(
    BFD,
    [
        "transmitInterval": DURATION,
        "receiveInterval": DURATION,
        "detectMultiplier": Whole(1, 255),
    ]
);

schema!(
    BGP_FILTER,
    [
        "exportV4": List(&Object(&FILTER_RULE_V4), MANY),
        "importV4": List(&Object(&FILTER_RULE_V4), MANY),
        "exportV6": List(&Object(&FILTER_RULE_V6), MANY),
        "importV6": List(&Object(&FILTER_RULE_V6), MANY),
    ]
);
macro_rules! filter_rule {
    ($rule:ident, $lengths:ident, $net:ident, $longest:literal) => {
        schema!(
            $rule,
            [
                "cidr": Shape::Form(&forms::$net),
                "prefixLength": Object(&$lengths),
                "source": Word(RouteSource::WORDS),
                "interface": Shape::Form(&forms::INTERFACE_GLOB),
                "matchOperator": Word(MatchOperator::WORDS),
                "peerType": Word(PeerType::WORDS),
                "communities": Object(&COMMUNITY_MATCH),
                "asPathPrefix": List(&ASN, MANY),
                "priority": PRIORITY,
                "action": Word(FilterAction::WORDS),
                "operations": List(&Object(&FILTER_OPERATION), 10),
            ],
            required ["action"]
        );
        schema!($lengths, ["min": Whole(0, $longest), "max": Whole(0, $longest)]);
    };
}
filter_rule!(FILTER_RULE_V4, PREFIX_LENGTH_V4, MASKED_NET_V4, 32);
filter_rule!(FILTER_RULE_V6, PREFIX_LENGTH_V6, MASKED_NET_V6, 128);
schema!(COMMUNITY_MATCH, ["values": List(&COMMUNITY, 1)], required ["values"]);
schema!(
    FILTER_OPERATION,
    [
        "addCommunity": Object(&ADD_COMMUNITY),
        "prependASPath": Object(&PREPEND_AS_PATH),
        "setPriority": Object(&SET_PRIORITY),
    ]
);
schema!(ADD_COMMUNITY, ["value": COMMUNITY], required ["value"]);
schema!(PREPEND_AS_PATH, ["prefix": List(&ASN, 10)], required ["prefix"]);
schema!(SET_PRIORITY, ["value": PRIORITY], required ["value"]);

schema!(
    WORKLOAD_ENDPOINT,
    [
        "orchestrator": NAME,
        "workload": NAME,
        "node": NAME,
        "containerID": Shape::Form(&forms::CONTAINER_ID),
        "pod": NAME,
        "endpoint": NAME,
        "serviceAccountName": NAME,
        "ipNetworks": List(&Shape::Form(&forms::HOST_NET), MANY),
        "ipNATs": List(&Object(&IP_NAT), MANY),
        "ipv4Gateway": ADDR_V4,
        "ipv6Gateway": ADDR_V6,
        "profiles": List(&NAME, MANY),
        "interfaceName": INTERFACE,
        "mac": MAC,
        "ports": List(&Object(&WORKLOAD_PORT), MANY),
        "allowSpoofedSourcePrefixes": List(&NET, MANY),
    ],
    required ["interfaceName"],
    foreign ["qosControls"]
);
schema!(
    IP_NAT,
    ["internalIP": ADDR, "externalIP": ADDR],
    required ["internalIP", "externalIP"]
);
schema!(
    WORKLOAD_PORT,
    [
        "name": Shape::Form(&forms::PORT_NAME),
        "protocol": Shape::Form(&forms::PORT_PROTOCOL),
        "port": TCP_PORT,
        "hostPort": U16,
        "hostIP": NET,
    ],
    required ["protocol", "port"]
);

schema!(
    HOST_ENDPOINT,
    [
        "node": NAME,
        "interfaceName": INTERFACE,
        "expectedIPs": List(&ADDR, MANY),
        "profiles": List(&NAME, MANY),
        "ports": List(&Object(&HOST_PORT), MANY),
    ],
    required ["node"]
);
schema!(
    HOST_PORT,
    [
        "name": Shape::Form(&forms::PORT_NAME),
        "protocol": Shape::Form(&forms::PORT_PROTOCOL),
        "port": TCP_PORT,
    ],
    required ["name", "protocol", "port"]
);

schema!(
    PROFILE,
    [
        "ingress": List(&Object(&RULE), 1024),
        "egress": List(&Object(&RULE), 1024),
        "labelsToApply": Texts,
    ]
);
schema!(
    RULE,
    [
        "action": Word(Action::WORDS),
        "ipVersion": Shape::Form(&forms::IP_VERSION),
        "protocol": PROTOCOL,
        "icmp": Object(&ICMP),
        "notProtocol": PROTOCOL,
        "notICMP": Object(&ICMP),
        "source": Object(&ENTITY_RULE),
        "destination": Object(&ENTITY_RULE),
        "http": Object(&HTTP),
        "metadata": Object(&RULE_METADATA),
    ],
    required ["action"]
);
schema!(ICMP, ["type": Whole(0, 254), "code": Whole(0, 255)]);
schema!(
    ENTITY_RULE,
    [
        "nets": List(&Shape::Form(&forms::RULE_NET), 256),
        "selector": SELECTOR,
        "namespaceSelector": SELECTOR,
        "services": Object(&SERVICES),
        "ports": List(&PORT, 50),
        "notNets": List(&Shape::Form(&forms::RULE_NET), 256),
        "notSelector": SELECTOR,
        "notPorts": List(&PORT, 50),
        "serviceAccounts": Object(&SERVICE_ACCOUNTS),
    ],
    required [],
    foreign ["domains"]
);
schema!(SERVICES, ["name": NAME, "namespace": NAME], required ["name"]);
schema!(SERVICE_ACCOUNTS, ["names": List(&TEXT, MANY), "selector": SELECTOR]);
schema!(
    HTTP,
    ["methods": List(&TEXT, 20), "paths": List(&Object(&HTTP_PATH), 20)],
    required [],
    foreign ["headers"]
);
schema!(HTTP_PATH, ["exact": Text(1024), "prefix": Text(1024)]);
schema!(RULE_METADATA, ["annotations": Texts]);

/// A policy of one namespace, with `$own` members of its kind.
macro_rules! policy {
    ($name:ident, [$($own:literal: $shape:expr),*]) => {
        schema!(
            $name,
            [
                $($own: $shape,)*
                "tier": NAME,
                "order": Number,
                "ingress": List(&Object(&RULE), 1024),
                "egress": List(&Object(&RULE), 1024),
                "selector": SELECTOR,
                "types": List(&Word(PolicyType::WORDS), 2),
                "serviceAccountSelector": SELECTOR,
                "performanceHints": List(&Word(&["AssumeNeededOnEveryNode"]), MANY),
            ]
        );
    };
}
/// The members that only policies of all namespaces have.
macro_rules! global_policy {
    ($name:ident, [$($own:literal: $shape:expr),*]) => {
        policy!(
            $name,
            [
                $($own: $shape,)*
                "doNotTrack": Bool,
                "preDNAT": Bool,
                "applyOnForward": Bool,
                "namespaceSelector": SELECTOR
            ]
        );
    };
}
policy!(NETWORK_POLICY, []);
global_policy!(GLOBAL_NETWORK_POLICY, []);
policy!(STAGED_NETWORK_POLICY, ["stagedAction": Word(StagedAction::WORDS)]);
global_policy!(STAGED_GLOBAL_NETWORK_POLICY, ["stagedAction": Word(StagedAction::WORDS)]);
schema!(TIER, ["order": Number, "defaultAction": Word(&["Deny", "Pass"])]);
schema!(NETWORK_SET, ["nets": List(&NET, MANY)], required [], foreign ["allowedEgressDomains"]);
schema!(
    IPAM_CONFIGURATION,
    [
        "strictAffinity": Bool,
        "maxBlocksPerHost": Whole(0, 1_000_000),
        "autoAllocateBlocks": Bool,
        "kubeVirtVMAddressPersistence": TOGGLE,
        "ipCooldownSeconds": Whole(0, 1200),
    ]
);
schema!(IP_RESERVATION, ["reservedCIDRs": List(&NET, MANY)]);
schema!(
    CALICO_NODE_STATUS,
    [
        "node": NAME,
        "classes": List(&Word(NodeStatusClass::WORDS), MANY),
        "updatePeriodSeconds": Whole(0, 86_400),
    ],
    required ["node", "classes", "updatePeriodSeconds"]
);
schema!(
    BLOCK_AFFINITY,
    [
        "state": Word(&["confirmed", "pending", "pendingDeletion"]),
        "node": NAME,
        "type": Word(&["host", "virtual"]),
        "cidr": NET,
        "deleted": Bool,
    ],
    required ["state", "node", "cidr"]
);
schema!(
    CLUSTER_INFORMATION,
    [
        "clusterGUID": TEXT,
        "clusterType": TEXT,
        "calicoVersion": TEXT,
        "datastoreReady": Bool,
        "variant": TEXT,
    ],
    required [],
    foreign ["cnxVersion"]
);
macro_rules! resource {
    ($spec:ident) => {{
        static SCHEMA: Schema = Schema {
            fields: &[
                ("kind", Shape::Text(usize::MAX)),
                ("apiVersion", Shape::Text(usize::MAX)),
                ("metadata", Shape::Object(&METADATA)),
                ("spec", Shape::Object(&$spec)),
            ],
            required: &["metadata", "spec"],
            foreign: &["status"],
            kept: &[],
        };
        &SCHEMA
    }};
}

mod controllers;
mod felix;
mod kubernetes;

/// The members of a resource of this kind.
pub(crate) fn resource_schema(kind: Kind) -> &'static Schema {
    match kind {
        Kind::BgpConfiguration => resource!(BGP_CONFIGURATION),
        Kind::BgpFilter => resource!(BGP_FILTER),
        Kind::BgpPeer => resource!(BGP_PEER),
        Kind::BlockAffinity => resource!(BLOCK_AFFINITY),
        Kind::CalicoNodeStatus => resource!(CALICO_NODE_STATUS),
        Kind::ClusterInformation => resource!(CLUSTER_INFORMATION),
        Kind::FelixConfiguration => resource!(FELIX_CONFIGURATION),
        Kind::GlobalNetworkPolicy => resource!(GLOBAL_NETWORK_POLICY),
        Kind::GlobalNetworkSet | Kind::NetworkSet => resource!(NETWORK_SET),
        Kind::HostEndpoint => resource!(HOST_ENDPOINT),
        Kind::IpamConfiguration => resource!(IPAM_CONFIGURATION),
        Kind::IpPool => resource!(IP_POOL),
        Kind::IpReservation => resource!(IP_RESERVATION),
        Kind::KubeControllersConfiguration => resource!(KUBE_CONTROLLERS_CONFIGURATION),
        Kind::NetworkPolicy => resource!(NETWORK_POLICY),
        Kind::Node => resource!(NODE),
        Kind::Profile => resource!(PROFILE),
        Kind::StagedGlobalNetworkPolicy => resource!(STAGED_GLOBAL_NETWORK_POLICY),
        Kind::StagedKubernetesNetworkPolicy => resource!(STAGED_KUBERNETES_NETWORK_POLICY),
        Kind::StagedNetworkPolicy => resource!(STAGED_NETWORK_POLICY),
        Kind::Tier => resource!(TIER),
        Kind::WorkloadEndpoint => resource!(WORKLOAD_ENDPOINT),
    }
}
