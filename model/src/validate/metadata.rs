//! Names, namespaces, labels and annotations.

use crate::any::AnyResource;
use crate::kind::Kind;
use crate::meta::ObjectMeta;
use crate::schema::{is_dns_label, is_dns_subdomain};
use crate::validate::Findings;

/// All annotations together, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;
const SUBDOMAIN: &str =
    "lower case letters, digits, '-' and '.', a letter or digit at both ends, at most 253";
const LABEL: &str =
    "lower case letters, digits and '-', a letter or digit at both ends, at most 63";

pub(super) fn check(resource: &AnyResource, findings: &mut Findings<'_>) {
    let (kind, metadata) = (resource.kind(), resource.metadata());
    check_name(kind, metadata, findings);
    check_namespace(kind, metadata, findings);
    for (key, value) in &metadata.labels {
        let path = format!("metadata.labels.{key}");
        if !is_qualified_name(key) {
            findings.text(
                &path,
                key,
                "[PREFIX/]NAME of letters, digits, '-', '_' and '.'",
            );
        }
        if !is_label_value(value) {
            findings.text(
                &path,
                value,
                "at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends",
            );
        }
        if key == "projectcalico.org/namespace"
            && matches!(kind, Kind::NetworkSet | Kind::GlobalNetworkSet)
        {
            findings.text(
                &path,
                value,
                "nothing: the namespace is added to labels by itself",
            );
        }
    }
    check_annotations("metadata.annotations", &metadata.annotations, findings);
}

pub(super) fn check_annotations(
    path: &str,
    annotations: &crate::meta::StringMap,
    findings: &mut Findings<'_>,
) {
    for key in annotations.keys() {
        if !is_qualified_name(&key.to_ascii_lowercase()) {
            let allowed = "[PREFIX/]NAME of letters, digits, '-', '_' and '.'";
            findings.text(&format!("{path}.{key}"), key, allowed);
        }
    }
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > ANNOTATIONS_MAX {
        findings.other(
            path,
            format!("{size} bytes"),
            format!("at most {ANNOTATIONS_MAX} bytes"),
        );
    }
}

fn check_name(kind: Kind, metadata: &ObjectMeta, findings: &mut Findings<'_>) {
    let name = metadata.name.as_str();
    let (valid, allowed) = match kind {
        Kind::Tier => (is_dns_label(name), LABEL),
        Kind::ClusterInformation | Kind::IpamConfiguration | Kind::KubeControllersConfiguration => {
            (name == "default", "default")
        }
        Kind::NetworkPolicy | Kind::StagedNetworkPolicy => {
            (is_policy_name(name), "NAME or TIER.NAME in lower case")
        }
        Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => (
            is_one_or_two_labels(name)
                || is_converted(name, &["kcnp.kube-admin.", "kcnp.kube-baseline."]),
            "NAME or TIER.NAME in lower case",
        ),
        _ => (is_dns_subdomain(name), SUBDOMAIN),
    };
    if !valid {
        findings.text("metadata.name", name, allowed);
    }
}

fn is_one_or_two_labels(name: &str) -> bool {
    is_dns_subdomain(name) && name.split('.').count() <= 2
}

/// Policies converted from other systems carry a prefix and a name that may have dots.
fn is_policy_name(name: &str) -> bool {
    is_one_or_two_labels(name) || is_converted(name, &["knp.default.", "ossg.default."])
}

fn is_converted(name: &str, prefixes: &[&str]) -> bool {
    let own = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
    name.len() <= 253 && own.is_some_and(is_dns_subdomain)
}

fn check_namespace(kind: Kind, metadata: &ObjectMeta, findings: &mut Findings<'_>) {
    let Some(namespace) = &metadata.namespace else {
        return;
    };
    if !kind.namespaced() {
        let allowed = format!("nothing: {kind} has no namespace");
        findings.text("metadata.namespace", namespace, allowed);
    } else if !is_dns_label(namespace) {
        findings.text("metadata.namespace", namespace, LABEL);
    }
}

/// A name with an optional DNS prefix, as labels and annotations have it.
pub(crate) fn is_qualified_name(key: &str) -> bool {
    let name = match key.split_once('/') {
        Some((prefix, name)) if is_dns_subdomain(prefix) => name,
        Some(_) => return false,
        None => key,
    };
    !name.is_empty() && is_label_value(name)
}

/// What labels may have as their value.
pub(crate) fn is_label_value(value: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    value.is_empty()
        || (value.len() <= 63
            && alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b)))
}

/// Labels to inherit keep to the rules of labels.
pub(super) fn check_labels(
    path: &str,
    labels: &crate::meta::StringMap,
    findings: &mut Findings<'_>,
) {
    for (key, value) in labels {
        if !is_qualified_name(key) || !is_label_value(value) {
            let path = format!("{path}.{key}");
            findings.text(
                &path,
                value,
                "a label: [PREFIX/]NAME and at most 63 characters",
            );
        }
    }
}
