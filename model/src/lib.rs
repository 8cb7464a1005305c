//! The resource model: `projectcalico.org/v3` kinds, their validation, their etcd keys, and the
//! [`store::Store`] trait that drivers implement. Pure: no runtime, clock, socket or file.
//!
//! Each kind is a [`meta::Resource`] around its own spec; [`any::AnyResource`] is one of any kind.

pub mod any;
pub mod asn;
pub mod bgp_configuration;
pub mod bgp_filter;
pub mod bgp_peer;
pub mod block_affinity;
pub mod calico_node_status;
pub mod cluster_information;
pub mod community;
pub mod defaults;
pub mod duration;
pub mod endpoint_name;
pub mod felix_configuration;
pub mod field_error;
pub mod host_endpoint;
pub mod ipam;
pub mod ipam_configuration;
pub mod ippool;
pub mod keys;
pub mod kind;
pub mod kube_controllers_configuration;
mod kubernetes;
pub mod manifest;
pub mod meta;
pub mod net;
pub mod network_set;
pub mod node;
mod order;
pub mod policy;
pub mod profile;
pub mod protocol;
pub mod qos;
pub mod rule;
mod schema;
pub mod settings;
mod source;
pub mod staged_policy;
pub mod store;
pub mod stored;
pub mod string_enum;
pub mod tier;
pub mod validate;
pub mod workload_endpoint;
