//! The policy calculation's output as the dataplane's desired state.
//!
//! The two crates do not know each other on purpose: each has its own words, and this is the dictionary.

use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use margay_dataplane::filter as to;
use margay_model::kind::ResourceKey;
use margay_model::net::Cidr;
use margay_model::qos::QosControls;
use margay_policy::failsafe::Failsafe;
use margay_policy::program as from;

/// Of packets a second that can be limited; iptables knows no more.
const MOST_PACKETS: u64 = 1_000_000;

pub(crate) fn set_id(id: &from::SetId) -> to::SetId {
    to::SetId::new(id.as_str())
}

pub(crate) fn policy_id(key: &ResourceKey) -> to::PolicyId {
    to::PolicyId::new(key.to_string())
}

pub(crate) fn profile_id(name: &str) -> to::ProfileId {
    to::ProfileId::new(name)
}

pub(crate) fn endpoint_id(key: &ResourceKey) -> to::EndpointId {
    to::EndpointId::new(key.to_string())
}

pub(crate) fn set_kind(kind: from::SetKind) -> to::SetKind {
    match kind {
        from::SetKind::Nets => to::SetKind::Nets,
        from::SetKind::Ports => to::SetKind::NetPorts,
    }
}

pub(crate) fn set_member(member: from::SetMember) -> to::SetMember {
    match member {
        from::SetMember::Net(net) => to::SetMember::Net(net.network()),
        from::SetMember::Port {
            addr,
            protocol,
            port,
        } => to::SetMember::NetPort(IpNetwork::from(addr), protocol, port),
    }
}

pub(crate) fn rules(rules: &from::Rules) -> to::PolicyRules {
    let all = |list: &[from::Rule]| {
        let rule = |r: &from::Rule| to::Rule {
            action: match (rules.staged, r.action) {
                (false, action) => self::action(action),
                (true, from::Action::Log) => to::Action::CountAndGoOn,
                (true, from::Action::Allow) => to::Action::CountAndStop(Some(to::Verdict::Allow)),
                (true, from::Action::Deny) => to::Action::CountAndStop(Some(to::Verdict::Deny)),
                (true, from::Action::Pass) => to::Action::CountAndStop(None),
            },
            ..rule(r)
        };
        list.iter().map(rule).collect()
    };
    to::PolicyRules {
        phase: match rules.phase {
            from::Phase::Untracked => to::Phase::Untracked,
            from::Phase::PreDnat => to::Phase::PreDnat,
            from::Phase::Filter => to::Phase::Filter,
        },
        ingress: all(&rules.ingress),
        egress: all(&rules.egress),
    }
}

const fn action(action: from::Action) -> to::Action {
    match action {
        from::Action::Allow => to::Action::Allow,
        from::Action::Deny => to::Action::Deny,
        from::Action::Log => to::Action::Log,
        from::Action::Pass => to::Action::Pass,
    }
}

/// All of a rule but its action.
fn rule(rule: &from::Rule) -> to::Rule {
    let notes: Vec<String> = rule
        .annotations
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    to::Rule {
        action: to::Action::Deny,
        ip_version: rule.ip_version.map(|version| match version {
            from::IpVersion::V4 => to::Family::V4,
            from::IpVersion::V6 => to::Family::V6,
        }),
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        icmp: rule.icmp.map(icmp),
        not_icmp: rule.not_icmp.map(icmp),
        src: side(&rule.source),
        dst: side(&rule.destination),
        comment: (!notes.is_empty()).then(|| notes.join(" ")),
        place: Some(rule.index),
    }
}

fn icmp(icmp: from::IcmpMatch) -> to::IcmpMatch {
    to::IcmpMatch {
        icmp_type: icmp.kind,
        code: icmp.code,
    }
}

fn side(side: &from::SideMatch) -> to::EntityMatch {
    let sets = |ids: &[from::SetId]| ids.iter().map(set_id).collect();
    let ranges = |ports: &[from::PortRange]| -> Vec<RangeInclusive<u16>> {
        ports.iter().map(|range| range.first..=range.last).collect()
    };
    to::EntityMatch {
        nets: networks(&side.nets),
        not_nets: networks(&side.not_nets),
        sets: sets(&side.sets),
        not_sets: sets(&side.not_sets),
        port_sets: Vec::new(),
        ports: ranges(&side.ports),
        named_ports: sets(&side.named_ports),
        not_ports: ranges(&side.not_ports),
        not_named_ports: sets(&side.not_named_ports),
    }
}

pub(crate) fn networks(cidrs: &[Cidr]) -> Vec<IpNetwork> {
    cidrs.iter().map(|cidr| cidr.network()).collect()
}

/// What is routed to an endpoint: its addresses, and those that are translated to them.
pub(crate) fn routed(plan: &from::EndpointPlan) -> Vec<IpNetwork> {
    let own = plan.addresses.iter().map(|cidr| cidr.network());
    own.chain(plan.floating_ips().map(IpNetwork::from))
        .collect()
}

pub(crate) fn endpoint(plan: &from::EndpointPlan) -> to::Endpoint {
    to::Endpoint {
        ifname: plan.ifname.clone(),
        addresses: networks(&plan.addresses),
        ingress: direction(&plan.ingress),
        egress: direction(&plan.egress),
        profiles: plan.profiles.iter().map(|name| profile_id(name)).collect(),
        admin_up: plan.admin_up,
        allowed_source_prefixes: networks(&plan.allowed_source_prefixes),
        host_ports: plan.host_ports.iter().map(host_port).collect(),
        limits: limits(&plan.qos),
    }
}

fn limits(qos: &QosControls) -> to::Limits {
    let way = |rate: Option<u64>, burst, connections| to::WayLimits {
        packets_a_second: rate.map(|rate| rate.clamp(1, MOST_PACKETS)),
        packets_at_once: burst,
        connections,
    };
    to::Limits {
        ingress: way(
            qos.ingress_packet_rate,
            qos.ingress_packet_burst,
            qos.ingress_max_connections,
        ),
        egress: way(
            qos.egress_packet_rate,
            qos.egress_packet_burst,
            qos.egress_max_connections,
        ),
        dscp: qos.dscp,
    }
}

fn host_port(port: &from::HostPort) -> to::HostPort {
    to::HostPort {
        protocol: port.protocol,
        host_port: port.host_port,
        host_ip: port.host_ip,
        port: port.port,
    }
}

pub(crate) fn host(plan: &from::HostPlan) -> to::HostEndpoint {
    to::HostEndpoint {
        untracked: ways(&plan.untracked),
        pre_dnat: direction(&plan.pre_dnat.ingress),
        own: ways(&plan.own),
        forwarded: ways(&plan.forwarded),
        profiles: plan.profiles.iter().map(|name| profile_id(name)).collect(),
    }
}

fn ways(tiers: &from::Tiers) -> to::Ways {
    to::Ways {
        ingress: direction(&tiers.ingress),
        egress: direction(&tiers.egress),
    }
}

pub(crate) fn failsafes(list: &[Failsafe]) -> Vec<to::Failsafe> {
    let one = |failsafe: &Failsafe| to::Failsafe {
        protocol: failsafe.protocol,
        port: failsafe.port,
        net: failsafe.net.map(|net| net.network()),
    };
    list.iter().map(one).collect()
}

fn direction(tiers: &[from::TierPlan]) -> to::Direction {
    let tiers = tiers
        .iter()
        .map(|tier| to::Tier {
            name: Arc::from(tier.name.as_str()),
            policies: tier.policies.iter().map(policy_id).collect(),
            default_action: match (tier.default_action, tier.if_enforced) {
                (from::Action::Pass, Some(from::Action::Deny)) => to::TierDefault::WouldDeny,
                (from::Action::Pass, _) => to::TierDefault::Pass,
                // The calculation gives Deny or Pass; anything else must not open.
                _ => to::TierDefault::Deny,
            },
        })
        .collect();
    to::Direction { tiers }
}

#[cfg(test)]
mod kernel_tests;
