//! `ClusterNetworkPolicy` of policy.networking.k8s.io/v1alpha2.

use serde::Deserialize;

use super::labels::{self, LabelSelector};
use super::network_policy::network;
use super::ports::Ports;
use super::{Metadata, Object};
use crate::any::AnyResource;
use crate::field_error::FieldError;
use crate::meta::{ObjectMeta, Resource, StringMap};
use crate::policy::{GlobalNetworkPolicySpec, PolicyType};
use crate::protocol::{Port, Protocol};
use crate::rule::{Action, EntityRule, Rule, RuleMetadata};
use crate::schema::is_port_name;

/// Note on the rules that a named rule becomes.
const RULE_NAME: &str = "policy.networking.k8s.io/rule-name";

/// Most rules of a direction, and most peers and protocols of a rule.
const MOST: usize = 25;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    tier: String,
    priority: u32,
    subject: Subject,
    #[serde(default)]
    ingress: Vec<IngressRule>,
    #[serde(default)]
    egress: Vec<EgressRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    namespaces: Option<LabelSelector>,
    pods: Option<Pods>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Pods {
    #[serde(default)]
    namespace_selector: LabelSelector,
    #[serde(default)]
    pod_selector: LabelSelector,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    name: Option<String>,
    action: String,
    #[serde(default)]
    from: Vec<Peer>,
    #[serde(default)]
    protocols: Vec<ProtocolSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    name: Option<String>,
    action: String,
    #[serde(default)]
    to: Vec<Peer>,
    #[serde(default)]
    protocols: Vec<ProtocolSpec>,
}

/// Exactly one is set; networks only for egress.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    namespaces: Option<LabelSelector>,
    pods: Option<Pods>,
    networks: Option<Vec<String>>,
}

/// Exactly one is set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProtocolSpec {
    tcp: Option<Destination>,
    udp: Option<Destination>,
    sctp: Option<Destination>,
    destination_named_port: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Destination {
    destination_port: Option<PortSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortSpec {
    number: Option<u16>,
    range: Option<Range>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    start: u16,
    end: u16,
}

/// The policy of ours that means the same.
pub(super) fn convert(object: Object<Spec>) -> Result<AnyResource, Vec<FieldError>> {
    let Object {
        metadata: Metadata { name, namespace },
        spec,
        ..
    } = object;
    let mut errors = Vec::new();
    if let Some(namespace) = namespace {
        let allowed = "nothing: a ClusterNetworkPolicy has no namespace";
        errors.push(FieldError::text("metadata.namespace", &namespace, allowed));
    }
    let tier = match spec.tier.as_str() {
        "Admin" => "kube-admin",
        "Baseline" => "kube-baseline",
        other => {
            errors.push(FieldError::text("spec.tier", other, "Admin, Baseline"));
            ""
        }
    };
    if spec.priority > 1000 {
        let found = spec.priority.to_string();
        errors.push(FieldError::new("spec.priority", found, "0 to 1000"));
    }
    let (selector, namespace_selector) = subject(&spec.subject, &mut errors);
    let ingress = spec.ingress.iter().map(|rule| RuleSpec {
        name: rule.name.as_deref(),
        action: &rule.action,
        peers: ("from", &rule.from),
        protocols: &rule.protocols,
    });
    let ingress = rules("ingress", ingress, &mut errors);
    let egress = spec.egress.iter().map(|rule| RuleSpec {
        name: rule.name.as_deref(),
        action: &rule.action,
        peers: ("to", &rule.to),
        protocols: &rule.protocols,
    });
    let egress = rules("egress", egress, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let of = |kind, rules: &[Rule]| (!rules.is_empty()).then_some(kind);
    let types = [
        of(PolicyType::Ingress, &ingress),
        of(PolicyType::Egress, &egress),
    ];
    let metadata = ObjectMeta::named(format!("kcnp.{tier}.{name}"));
    let spec = GlobalNetworkPolicySpec {
        tier: Some(tier.to_owned()),
        order: Some(f64::from(spec.priority)),
        types: types.into_iter().flatten().collect(),
        ingress,
        egress,
        selector: Some(selector),
        namespace_selector: Some(namespace_selector),
        ..GlobalNetworkPolicySpec::default()
    };
    Ok(Resource::new(metadata, spec).into())
}

/// Selectors of the pods and of the namespaces that a policy is for.
fn subject(subject: &Subject, errors: &mut Vec<FieldError>) -> (String, String) {
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => (
            labels::pods("spec.subject", None, errors),
            labels::namespaces("spec.subject.namespaces", namespaces, errors),
        ),
        (None, Some(pods)) => pod_selectors("spec.subject.pods", pods, errors),
        _ => {
            errors.push(one_of("spec.subject", "namespaces, pods"));
            (String::new(), String::new())
        }
    }
}

fn pod_selectors(path: &str, pods: &Pods, errors: &mut Vec<FieldError>) -> (String, String) {
    let own = format!("{path}.podSelector");
    let namespaces = format!("{path}.namespaceSelector");
    (
        labels::pods(&own, Some(&pods.pod_selector), errors),
        labels::namespaces(&namespaces, &pods.namespace_selector, errors),
    )
}

fn one_of(path: &str, words: &str) -> FieldError {
    let allowed = format!("exactly one of {words}");
    FieldError::new(path, "none or several", allowed)
}

/// What rules of both directions have in common.
struct RuleSpec<'a> {
    name: Option<&'a str>,
    action: &'a str,
    peers: (&'static str, &'a [Peer]),
    protocols: &'a [ProtocolSpec],
}

fn rules<'a>(
    direction: &str,
    specs: impl ExactSizeIterator<Item = RuleSpec<'a>>,
    errors: &mut Vec<FieldError>,
) -> Vec<Rule> {
    if specs.len() > MOST {
        let found = format!("{} rules", specs.len());
        let path = format!("spec.{direction}");
        errors.push(FieldError::new(path, found, format!("at most {MOST}")));
    }
    let mut rules = Vec::new();
    for (i, spec) in specs.enumerate() {
        rules.extend(rule(&format!("spec.{direction}[{i}]"), &spec, errors));
    }
    rules
}

fn rule(path: &str, spec: &RuleSpec<'_>, errors: &mut Vec<FieldError>) -> Vec<Rule> {
    let action = match spec.action {
        "Accept" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        other => {
            let path = format!("{path}.action");
            errors.push(FieldError::text(path, other, "Accept, Deny, Pass"));
            return Vec::new();
        }
    };
    let (word, peers) = spec.peers;
    if peers.is_empty() {
        let allowed = "at least one peer";
        errors.push(FieldError::missing(format!("{path}.{word}"), allowed));
    }
    let mut entities = Vec::new();
    for (i, peer) in peers.iter().enumerate() {
        let path = format!("{path}.{word}[{i}]");
        entities.extend(self::entities(&path, peer, word == "to", errors));
    }
    let mut ports = Ports::default();
    for (i, protocol) in spec.protocols.iter().enumerate() {
        add(
            &format!("{path}.protocols[{i}]"),
            protocol,
            &mut ports,
            errors,
        );
    }
    let metadata = spec
        .name
        .filter(|name| !name.is_empty())
        .map(|name| RuleMetadata {
            annotations: StringMap::from([(RULE_NAME.to_owned(), name.to_owned())]),
            ..RuleMetadata::default()
        });
    let mut rules = Vec::new();
    for (protocol, ports) in ports.rules() {
        for entity in &entities {
            let mut rule = Rule::new(action);
            rule.protocol = protocol;
            rule.metadata.clone_from(&metadata);
            match word {
                "to" => rule.destination = entity.clone(),
                _ => rule.source = entity.clone(),
            }
            rule.destination.ports.clone_from(&ports);
            rules.push(rule);
        }
    }
    rules
}

/// A peer; one of both families needs a rule for each.
fn entities(
    path: &str,
    peer: &Peer,
    networks: bool,
    errors: &mut Vec<FieldError>,
) -> Vec<EntityRule> {
    let (selector, namespace_selector) = match (&peer.namespaces, &peer.pods, &peer.networks) {
        (Some(namespaces), None, None) => (
            labels::pods(path, None, errors),
            labels::namespaces(&format!("{path}.namespaces"), namespaces, errors),
        ),
        (None, Some(pods), None) => pod_selectors(&format!("{path}.pods"), pods, errors),
        (None, None, Some(texts)) if networks && !texts.is_empty() => {
            let mut nets = Vec::new();
            for (i, text) in texts.iter().enumerate() {
                nets.extend(network(&format!("{path}.networks[{i}]"), text, errors));
            }
            let (v4, v6): (Vec<_>, Vec<_>) = nets.into_iter().partition(|net| net.is_ipv4());
            let families = [v4, v6].into_iter().filter(|nets| !nets.is_empty());
            return families
                .map(|nets| EntityRule {
                    nets,
                    ..EntityRule::default()
                })
                .collect();
        }
        _ => {
            let words = if networks {
                "namespaces, pods, networks"
            } else {
                "namespaces, pods"
            };
            errors.push(one_of(path, words));
            return Vec::new();
        }
    };
    vec![EntityRule {
        selector: Some(selector),
        namespace_selector: Some(namespace_selector),
        ..EntityRule::default()
    }]
}

fn add(path: &str, spec: &ProtocolSpec, ports: &mut Ports, errors: &mut Vec<FieldError>) {
    let given = [
        (Protocol::Tcp, &spec.tcp),
        (Protocol::Udp, &spec.udp),
        (Protocol::Sctp, &spec.sctp),
    ];
    let mut set = given
        .into_iter()
        .filter_map(|(protocol, destination)| Some((protocol, destination.as_ref()?)));
    match (set.next(), set.next(), &spec.destination_named_port) {
        (Some((protocol, destination)), None, None) => {
            if let Ok(port) = port(path, destination.destination_port.as_ref(), errors) {
                ports.add(protocol, port);
            }
        }
        (None, None, Some(name)) if is_port_name(name) => {
            for (protocol, _) in given {
                ports.add(protocol, Some(Port::Named(name.clone())));
            }
        }
        (None, None, Some(name)) => {
            let path = format!("{path}.destinationNamedPort");
            errors.push(FieldError::text(path, name, "the name of a port"));
        }
        _ => errors.push(one_of(path, "tcp, udp, sctp, destinationNamedPort")),
    }
}

/// The port of a protocol, if it names any; an error is noted.
fn port(
    path: &str,
    spec: Option<&PortSpec>,
    errors: &mut Vec<FieldError>,
) -> Result<Option<Port>, ()> {
    let Some(spec) = spec else { return Ok(None) };
    match (spec.number, &spec.range) {
        (Some(number), None) if number > 0 => Ok(Some(Port::Number(number))),
        (None, Some(Range { start, end })) if 0 < *start && start <= end => {
            Ok(Some(Port::Range(*start, *end)))
        }
        _ => {
            let allowed = "a number 1 to 65535, or a range with start and end";
            let path = format!("{path}.destinationPort");
            errors.push(FieldError::new(path, "another port", allowed));
            Err(())
        }
    }
}
