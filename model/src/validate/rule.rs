//! Rules of policies and profiles.

use crate::net::Cidr;
use crate::protocol::{Port, Protocol};
use crate::rule::{Action, EntityRule, HttpMatch, HttpPath, Icmp, Rule, ServiceMatch};
use crate::validate::{Findings, is_set, metadata};

/// What the rules belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A policy of one namespace.
    Namespace,
    /// A policy of all namespaces.
    Global,
    /// A profile.
    Profile,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

pub(super) fn check_rules(
    scope: Scope,
    ingress: &[Rule],
    egress: &[Rule],
    findings: &mut Findings<'_>,
) {
    for (name, direction, rules) in [
        ("ingress", Direction::Ingress, ingress),
        ("egress", Direction::Egress, egress),
    ] {
        for (i, rule) in rules.iter().enumerate() {
            let path = format!("spec.{name}[{i}]");
            check_rule(&path, rule, findings);
            check_services(&path, scope, direction, rule, findings);
            if direction == Direction::Egress && scope != Scope::Profile && rule.http.is_some() {
                let allowed = "nothing: only ingress rules may match HTTP";
                findings.other(&format!("{path}.http"), "a match", allowed);
            }
        }
    }
}

fn check_rule(path: &str, rule: &Rule, findings: &mut Findings<'_>) {
    check_ip_version(path, rule, findings);
    check_icmp(path, rule, findings);
    check_families(path, rule, findings);
    for (name, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        let path = format!("{path}.{name}");
        check_ports(&path, rule.protocol, entity, findings);
        check_entity(&path, entity, findings);
    }
    if let Some(http) = &rule.http {
        check_http(&format!("{path}.http"), rule, http, findings);
    }
    if let Some(notes) = &rule.metadata {
        let path = format!("{path}.metadata.annotations");
        metadata::check_annotations(&path, &notes.annotations, findings);
    }
}

fn check_ip_version(path: &str, rule: &Rule, findings: &mut Findings<'_>) {
    let Some(version) = rule.ip_version else {
        return;
    };
    let path = format!("{path}.ipVersion");
    if !matches!(version, 4 | 6) {
        findings.other(&path, version, "4 or 6");
        return;
    }
    for protocol in [rule.protocol, rule.not_protocol].into_iter().flatten() {
        let needed = match protocol.number() {
            1 => 4,
            58 => 6,
            _ => continue,
        };
        if version != needed {
            findings.other(
                &path,
                version,
                format!("{needed}, because the protocol is {protocol}"),
            );
        }
    }
}

fn check_icmp(path: &str, rule: &Rule, findings: &mut Findings<'_>) {
    let is_icmp = rule
        .protocol
        .is_some_and(|protocol| matches!(protocol.number(), 1 | 58));
    for (name, icmp) in [("icmp", &rule.icmp), ("notICMP", &rule.not_icmp)] {
        let Some(Icmp { kind, code, .. }) = icmp else {
            continue;
        };
        if code.is_some() && kind.is_none() {
            let path = format!("{path}.{name}.type");
            findings.missing(&path, "0 to 254, because code is set");
        }
        if kind == &Some(255) {
            findings.other(&format!("{path}.{name}.type"), 255, "0 to 254");
        }
        if !is_icmp {
            let path = format!("{path}.protocol");
            let allowed = format!("ICMP or ICMPv6, because {name} is set");
            match rule.protocol {
                Some(protocol) => findings.other(&path, protocol, allowed),
                None => findings.missing(&path, allowed),
            }
        }
    }
}

/// All networks of a rule are of one family, and of that of `ipVersion`.
fn check_families(path: &str, rule: &Rule, findings: &mut Findings<'_>) {
    let mut seen = rule.ip_version.map(|version| version == 4);
    for (name, nets) in [
        ("source.nets", &rule.source.nets),
        ("source.notNets", &rule.source.not_nets),
        ("destination.nets", &rule.destination.nets),
        ("destination.notNets", &rule.destination.not_nets),
    ] {
        for (i, net) in nets.iter().enumerate() {
            let path = format!("{path}.{name}[{i}]");
            let family = *seen.get_or_insert(net.is_ipv4());
            if net.is_ipv4() != family {
                let version = if family { "IPv4" } else { "IPv6" };
                let allowed = format!("an {version} network, as the rest of the rule has");
                findings.other(&path, net, allowed);
            }
            if name.ends_with("notNets") && net.prefix_len() == 0 {
                let allowed = "a part of all addresses: the rule would match nothing";
                findings.other(&path, net, allowed);
            }
        }
    }
}

fn check_ports(
    path: &str,
    protocol: Option<Protocol>,
    entity: &EntityRule,
    findings: &mut Findings<'_>,
) {
    for (name, ports) in [("ports", &entity.ports), ("notPorts", &entity.not_ports)] {
        for (i, port) in ports.iter().enumerate() {
            if port.bounds().is_some_and(|(min, _)| min == 0) {
                let path = format!("{path}.{name}[{i}]");
                findings.other(&path, port, "1 to 65535");
            }
        }
        // A named port brings its own protocol.
        let bare = protocol.is_none() && ports.iter().any(|port| !matches!(port, Port::Named(_)));
        let unfit = protocol.is_some_and(|protocol| !protocol.has_ports()) && !ports.is_empty();
        if bare || unfit {
            let found = protocol.map_or_else(|| "no protocol".to_owned(), |p| p.to_string());
            let allowed = "ports only with protocol TCP, UDP or SCTP";
            findings.other(&format!("{path}.{name}"), found, allowed);
        }
    }
}

fn check_entity(path: &str, entity: &EntityRule, findings: &mut Findings<'_>) {
    findings.selector(&format!("{path}.selector"), entity.selector.as_deref());
    findings.selector(
        &format!("{path}.notSelector"),
        entity.not_selector.as_deref(),
    );
    let namespaces = entity.namespace_selector.as_deref();
    findings.namespace_selector(&format!("{path}.namespaceSelector"), namespaces);
    if let Some(accounts) = &entity.service_accounts {
        let path = format!("{path}.serviceAccounts.selector");
        findings.selector(&path, accounts.selector.as_deref());
    }
    let Some(ServiceMatch { name, .. }) = &entity.services else {
        return;
    };
    if name.is_empty() {
        findings.missing(&format!("{path}.services.name"), "the name of a service");
    }
    let no_nets = |nets: &[Cidr]| nets.is_empty();
    for (other, set) in [
        ("nets", !no_nets(&entity.nets)),
        ("notNets", !no_nets(&entity.not_nets)),
        ("selector", is_set(entity.selector.as_deref())),
        ("notSelector", is_set(entity.not_selector.as_deref())),
        ("namespaceSelector", is_set(namespaces)),
        ("ports", !entity.ports.is_empty()),
        ("notPorts", !entity.not_ports.is_empty()),
        ("serviceAccounts", entity.service_accounts.is_some()),
    ] {
        if set {
            let allowed = "nothing, because services is set";
            findings.other(&format!("{path}.{other}"), "a value", allowed);
        }
    }
}

/// Services stand for the far end of a connection only.
fn check_services(
    path: &str,
    scope: Scope,
    direction: Direction,
    rule: &Rule,
    findings: &mut Findings<'_>,
) {
    let (near_name, near, far_name, far) = match direction {
        Direction::Ingress => ("destination", &rule.destination, "source", &rule.source),
        Direction::Egress => ("source", &rule.source, "destination", &rule.destination),
    };
    if near.services.is_some() {
        let path = format!("{path}.{near_name}.services");
        findings.other(
            &path,
            "a service",
            format!("nothing: only {far_name} may name a service"),
        );
    }
    let without_namespace = |services: &ServiceMatch| !is_set(services.namespace.as_deref());
    if scope == Scope::Global && far.services.as_ref().is_some_and(without_namespace) {
        let path = format!("{path}.{far_name}.services.namespace");
        findings.missing(&path, "the namespace of the service");
    }
}

fn check_http(path: &str, rule: &Rule, http: &HttpMatch, findings: &mut Findings<'_>) {
    if rule.action != Action::Allow {
        let allowed = "nothing: only Allow rules may match HTTP";
        findings.other(path, "a match", allowed);
    }
    if let Some(protocol) = rule.protocol.filter(|protocol| protocol.number() != 6) {
        findings.other(
            path,
            "a match",
            format!("nothing, because the protocol is {protocol}"),
        );
    }
    for (i, method) in http.methods.iter().enumerate() {
        if http.methods[..i].contains(method) {
            findings.text(&format!("{path}.methods[{i}]"), method, "each method once");
        }
    }
    for (i, http_path) in http.paths.iter().enumerate() {
        check_http_path(&format!("{path}.paths[{i}]"), http_path, findings);
    }
}

fn check_http_path(path: &str, http_path: &HttpPath, findings: &mut Findings<'_>) {
    let text = match (&http_path.exact, &http_path.prefix) {
        (Some(text), None) | (None, Some(text)) => text,
        (Some(_), Some(_)) => {
            return findings.other(path, "exact and prefix", "one of exact, prefix");
        }
        (None, None) => return findings.missing(path, "one of exact, prefix"),
    };
    if !text.starts_with('/') || text.contains(['?', ' ', '#']) {
        findings.text(
            path,
            text,
            "a path that begins with '/', without '?', '#' and spaces",
        );
    }
}
