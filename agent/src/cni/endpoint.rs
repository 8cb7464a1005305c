//! ADD: the endpoint that is written of a call, and the profile of its network.

use std::net::IpAddr;
use std::sync::Arc;

use margay_api::cni::{CniError, code};
use margay_dataplane::attach::AttachSpec;
use margay_model::kind::ResourceKey;
use margay_model::meta::{Extra, ObjectMeta, Resource};
use margay_model::profile::{Profile, ProfileSpec};
use margay_model::qos;
use margay_model::rule::{Action, Rule};
use margay_model::workload_endpoint::{IpNat, WorkloadEndpoint, WorkloadEndpointSpec};
use tracing::warn;

use super::mac::format_mac;
use super::netconf::Call;
use super::{HANDLE_ANNOTATION, IDENTITY_ANNOTATION, MOVES_ANNOTATION};
use crate::world::{LocalEndpoint, World};

/// The endpoint without its addresses, which the allocator fills in.
pub(super) fn endpoint(
    node: &str,
    key: &ResourceKey,
    call: &Call,
    spec: &AttachSpec,
    world: &World,
) -> WorkloadEndpoint {
    let namespace = key.namespace.clone().unwrap_or_default();
    let orchestrator = if call.pod.is_some() { "k8s" } else { "cni" };
    // A sandbox that is made anew under the same name keeps what others wrote into its endpoint.
    let before = world.endpoints.get(key).map(Arc::clone);
    let mut metadata = ObjectMeta::namespaced(namespace.clone(), key.name.clone());
    match &before {
        Some(before) => {
            metadata = before.resource.metadata.clone();
            metadata.resource_version = None;
        }
        None => {
            metadata.uid = Some(uuid::Uuid::new_v4().to_string());
            metadata.creation_timestamp = Some(now_rfc3339());
        }
    }
    metadata
        .labels
        .insert("projectcalico.org/namespace".into(), namespace.clone());
    metadata
        .labels
        .insert("projectcalico.org/orchestrator".into(), orchestrator.into());
    metadata
        .annotations
        .insert(HANDLE_ANNOTATION.into(), call.handle_id());
    metadata.annotations.remove(MOVES_ANNOTATION);
    match &call.identity {
        Some(identity) => metadata
            .annotations
            .insert(IDENTITY_ANNOTATION.into(), identity.name.clone()),
        None => metadata.annotations.remove(IDENTITY_ANNOTATION),
    };
    let profiles = match &call.pod {
        Some(pod) => {
            vec![
                format!("kns.{}", pod.namespace),
                format!("ksa.{}.default", pod.namespace),
            ]
        }
        None if call.kubernetes_policy => Vec::new(),
        None => vec![call.network.clone()],
    };
    let mut endpoint = WorkloadEndpointSpec {
        orchestrator: orchestrator.into(),
        node: node.into(),
        container_id: call.container_id.clone(),
        pod: call
            .pod
            .as_ref()
            .map(|p| p.name.clone())
            .unwrap_or_default(),
        endpoint: call.ifname.clone(),
        profiles,
        interface_name: spec.host_ifname.clone(),
        mac: spec.container_mac.map(format_mac).unwrap_or_default(),
        ports: call.host_ports.clone(),
        allow_spoofed_source_prefixes: call.source_prefixes.clone(),
        ip_nats: call.floating_ips.iter().copied().map(nat).collect(),
        ..WorkloadEndpointSpec::default()
    };
    if let Some(controls) = call.controls.clone() {
        endpoint.extra.insert(qos::FIELD.to_owned(), controls);
    }
    Resource::new(metadata, endpoint)
}

/// To be translated to an address that the allocator fills in.
fn nat(external_ip: IpAddr) -> IpNat {
    IpNat {
        internal_ip: external_ip,
        external_ip,
        extra: Extra::default(),
    }
}

/// Makes sure that floating IPs lead anywhere, and that none is another container's, on whatever host, or one of the
/// addresses of this host's.
pub(super) fn ensure_floats_free(
    world: &World,
    key: &ResourceKey,
    call: &Call,
) -> Result<(), CniError> {
    if !call.floating_ips.is_empty() && !world.translates_floating_ips {
        let msg = "annotation floatingIPs is set, FelixConfiguration floatingIPs must be Enabled";
        return Err(CniError::new(code::INVALID_CONFIG, msg));
    }
    for ip in &call.floating_ips {
        let mut pools = world.pools.iter();
        if !pools.any(|pool| pool.spec.cidr.contains(*ip)) {
            warn!(floating_ip = %ip, "a floating IP lies in no IPPool: no peer is told of it");
        }
        let floats = world.floating_ips.get(ip);
        let own = || {
            let mut all = world.endpoints.iter();
            let has = |endpoint: &LocalEndpoint| {
                let mut nets = endpoint.resource.spec.ip_networks.iter();
                nets.any(|net| net.addr() == *ip)
            };
            all.find(|(_, endpoint)| has(endpoint)).map(|(key, _)| key)
        };
        let Some(holder) = floats.or_else(own).filter(|holder| *holder != key) else {
            continue;
        };
        let whose = match world.endpoints.get(holder) {
            Some(here) => format!("container {}", here.resource.spec.container_id),
            None => format!("endpoint {}", holder.name),
        };
        let msg = format!("floating IP {ip} is {whose}'s already");
        return Err(CniError::new(code::NO_ADDRESS, msg));
    }
    Ok(())
}

/// Other sources than its own are for where the operator lets workloads have them.
pub(super) fn ensure_may_send(world: &World, call: &Call) -> Result<(), CniError> {
    if call.source_prefixes.is_empty() || world.allow_spoofing {
        return Ok(());
    }
    let msg = "annotation allowedSourcePrefixes is set, FelixConfiguration workloadSourceSpoofing \
               must be Any";
    Err(CniError::new(code::INVALID_CONFIG, msg))
}

/// Without an orchestrator that brings profiles, a network has one of its own.
pub(super) fn own_profile(call: &Call) -> bool {
    call.pod.is_none() && !call.kubernetes_policy
}

/// As the established plugin makes it: containers of the network reach each other, and everything.
pub(super) fn network_profile(network: &str) -> Profile {
    let mut from_network = Rule::new(Action::Allow);
    from_network.source.selector = Some(format!("has({network})"));
    let mut metadata = ObjectMeta::named(network);
    metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    metadata.creation_timestamp = Some(now_rfc3339());
    let spec = ProfileSpec {
        ingress: vec![from_network],
        egress: vec![Rule::new(Action::Allow)],
        labels_to_apply: [(network.to_owned(), String::new())].into(),
        ..ProfileSpec::default()
    };
    Resource::new(metadata, spec)
}

/// RFC 3339, whole seconds, UTC, as every resource has it.
pub(crate) fn now_rfc3339() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
