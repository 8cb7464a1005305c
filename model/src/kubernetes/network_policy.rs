//! `NetworkPolicy` of networking.k8s.io/v1.

use serde::Deserialize;
use serde_json::Value;

use super::Metadata;
use super::labels::{self, LabelSelector};
use super::ports::Ports;
use crate::field_error::FieldError;
use crate::meta::{ObjectMeta, Resource};
use crate::net::{AddrCidr, Cidr};
use crate::policy::{DEFAULT_TIER, NetworkPolicy, NetworkPolicySpec, PolicyType};
use crate::protocol::{Port, Protocol};
use crate::rule::{Action, EntityRule, Rule};
use crate::schema::is_port_name;

/// What the established tools put before the name.
const PREFIX: &str = "knp.default.";

/// Behind policies of ours that are to come first, before those without an order.
const ORDER: f64 = 1000.0;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default)]
    pod_selector: LabelSelector,
    #[serde(default)]
    policy_types: Vec<String>,
    #[serde(default)]
    ingress: Vec<IngressRule>,
    #[serde(default)]
    egress: Vec<EgressRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    #[serde(default)]
    from: Vec<Peer>,
    #[serde(default)]
    ports: Vec<PortSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    #[serde(default)]
    to: Vec<Peer>,
    #[serde(default)]
    ports: Vec<PortSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Peer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<IpBlock>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IpBlock {
    cidr: String,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PortSpec {
    protocol: Option<String>,
    port: Option<Value>,
    end_port: Option<u16>,
}

/// The policy of ours that means the same.
pub(super) fn convert(metadata: Metadata, spec: &Spec) -> Result<NetworkPolicy, Vec<FieldError>> {
    let Metadata { name, namespace } = metadata;
    let mut errors = Vec::new();
    let types = types(spec, &mut errors);
    let mut ingress = Vec::new();
    for (i, rule) in spec.ingress.iter().enumerate() {
        let path = format!("spec.ingress[{i}]");
        let found = rules(&path, "from", &rule.from, &rule.ports, &mut errors);
        ingress.extend(found.into_iter().map(|mut rule| {
            // The ports are the receiver's in both directions.
            rule.destination.ports = std::mem::take(&mut rule.source.ports);
            rule
        }));
    }
    let mut egress = Vec::new();
    for (i, rule) in spec.egress.iter().enumerate() {
        let path = format!("spec.egress[{i}]");
        let found = rules(&path, "to", &rule.to, &rule.ports, &mut errors);
        egress.extend(found.into_iter().map(|mut rule| {
            std::mem::swap(&mut rule.source, &mut rule.destination);
            rule
        }));
    }
    let selector = labels::pods("spec.podSelector", Some(&spec.pod_selector), &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut metadata = ObjectMeta::named(format!("{PREFIX}{name}"));
    metadata.namespace = namespace;
    let spec = NetworkPolicySpec {
        tier: Some(DEFAULT_TIER.to_owned()),
        order: Some(ORDER),
        ingress,
        egress,
        selector: Some(selector),
        types,
        ..NetworkPolicySpec::default()
    };
    Ok(Resource::new(metadata, spec))
}

/// Ingress always, and Egress if there are rules for it, unless the directions are named.
fn types(spec: &Spec, errors: &mut Vec<FieldError>) -> Vec<PolicyType> {
    if spec.policy_types.is_empty() {
        let egress = (!spec.egress.is_empty()).then_some(PolicyType::Egress);
        return [PolicyType::Ingress].into_iter().chain(egress).collect();
    }
    let mut types = Vec::new();
    for (i, word) in spec.policy_types.iter().enumerate() {
        match word.as_str() {
            "Ingress" => types.push(PolicyType::Ingress),
            "Egress" => types.push(PolicyType::Egress),
            other => {
                let path = format!("spec.policyTypes[{i}]");
                errors.push(FieldError::text(path, other, "Ingress, Egress"));
            }
        }
    }
    types
}

/// Each protocol with each peer; peer and ports stand in `source`.
fn rules(
    path: &str,
    word: &str,
    peers: &[Peer],
    ports: &[PortSpec],
    errors: &mut Vec<FieldError>,
) -> Vec<Rule> {
    let mut entities = Vec::new();
    for (i, peer) in peers.iter().enumerate() {
        entities.extend(entity(&format!("{path}.{word}[{i}]"), peer, errors));
    }
    if peers.is_empty() {
        entities.push(EntityRule::default());
    }
    let mut all = Ports::default();
    for (i, spec) in ports.iter().enumerate() {
        if let Some((protocol, port)) = port(&format!("{path}.ports[{i}]"), spec, errors) {
            all.add(protocol, port);
        }
    }
    let mut rules = Vec::new();
    for (protocol, ports) in all.rules() {
        for entity in &entities {
            let mut rule = Rule::new(Action::Allow);
            rule.protocol = protocol;
            rule.source = entity.clone();
            rule.source.ports.clone_from(&ports);
            rules.push(rule);
        }
    }
    rules
}

fn entity(path: &str, peer: &Peer, errors: &mut Vec<FieldError>) -> Option<EntityRule> {
    let Peer {
        pod_selector,
        namespace_selector,
        ip_block,
    } = peer;
    let selects = pod_selector.is_some() || namespace_selector.is_some();
    match (ip_block, selects) {
        (None, false) => {
            let allowed = "podSelector, namespaceSelector or ipBlock";
            errors.push(FieldError::missing(path, allowed));
            None
        }
        (Some(_), true) => {
            let allowed = "nothing beside podSelector and namespaceSelector";
            errors.push(FieldError::new(
                format!("{path}.ipBlock"),
                "a block",
                allowed,
            ));
            None
        }
        (Some(block), false) => block_entity(&format!("{path}.ipBlock"), block, errors),
        (None, true) => Some(EntityRule {
            selector: Some(labels::pods(
                &format!("{path}.podSelector"),
                pod_selector.as_ref(),
                errors,
            )),
            namespace_selector: namespace_selector.as_ref().map(|selector| {
                labels::namespaces(&format!("{path}.namespaceSelector"), selector, errors)
            }),
            ..EntityRule::default()
        }),
    }
}

fn block_entity(path: &str, block: &IpBlock, errors: &mut Vec<FieldError>) -> Option<EntityRule> {
    let cidr = network(&format!("{path}.cidr"), &block.cidr, errors)?;
    let mut not_nets = Vec::new();
    for (i, text) in block.except.iter().enumerate() {
        let path = format!("{path}.except[{i}]");
        let net = network(&path, text, errors)?;
        if !cidr.covers(net) || cidr == net {
            let allowed = format!("a part of {cidr}");
            errors.push(FieldError::text(path, text, allowed));
        }
        not_nets.push(net);
    }
    Some(EntityRule {
        nets: vec![cidr],
        not_nets,
        ..EntityRule::default()
    })
}

/// A network; host bits are taken off.
pub(super) fn network(path: &str, text: &str, errors: &mut Vec<FieldError>) -> Option<Cidr> {
    let parsed = text.contains('/').then(|| text.parse::<AddrCidr>());
    if let Some(Ok(net)) = parsed {
        return Some(net.subnet());
    }
    let allowed = "ADDRESS/LENGTH, such as 10.65.0.0/16 or fd00::/64";
    errors.push(FieldError::text(path, text, allowed));
    None
}

fn port(
    path: &str,
    spec: &PortSpec,
    errors: &mut Vec<FieldError>,
) -> Option<(Protocol, Option<Port>)> {
    let protocol = match spec.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => {
            let path = format!("{path}.protocol");
            errors.push(FieldError::text(path, other, "TCP, UDP, SCTP"));
            return None;
        }
    };
    let number = |value: &Value| {
        let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
        number.filter(|n| *n > 0)
    };
    let port = match &spec.port {
        None => None,
        Some(Value::String(name)) if is_port_name(name) => Some(Port::Named(name.clone())),
        Some(value) => match number(value) {
            Some(number) => Some(Port::Number(number)),
            None => {
                let allowed = "1 to 65535, or the name of a port: at most 15 lower case letters, \
                               digits and '-', with a letter";
                errors.push(FieldError::value(format!("{path}.port"), value, allowed));
                return None;
            }
        },
    };
    match (spec.end_port, port) {
        (None, port) => Some((protocol, port)),
        (Some(end), Some(Port::Number(first))) if end >= first => {
            Some((protocol, Some(Port::Range(first, end))))
        }
        (Some(end), _) => {
            let allowed = "nothing, unless port is a number that is not greater";
            let path = format!("{path}.endPort");
            errors.push(FieldError::new(path, end.to_string(), allowed));
            None
        }
    }
}
