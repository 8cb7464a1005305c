//! Policies and profiles.

use crate::policy::{GlobalNetworkPolicySpec, NetworkPolicySpec, PolicyType};
use crate::profile::ProfileSpec;
use crate::validate::rule::{Scope, check_rules};
use crate::validate::{Findings, metadata};

pub(super) fn check_namespaced(spec: &NetworkPolicySpec, findings: &mut Findings<'_>) {
    check_types(&spec.types, findings);
    check_order(spec.order, findings);
    check_hints(&spec.performance_hints, findings);
    check_rules(Scope::Namespace, &spec.ingress, &spec.egress, findings);
    findings.selector("spec.selector", spec.selector.as_deref());
    findings.selector(
        "spec.serviceAccountSelector",
        spec.service_account_selector.as_deref(),
    );
}

pub(super) fn check_global(spec: &GlobalNetworkPolicySpec, findings: &mut Findings<'_>) {
    check_types(&spec.types, findings);
    check_order(spec.order, findings);
    check_hints(&spec.performance_hints, findings);
    check_rules(Scope::Global, &spec.ingress, &spec.egress, findings);
    findings.selector("spec.selector", spec.selector.as_deref());
    findings.selector(
        "spec.serviceAccountSelector",
        spec.service_account_selector.as_deref(),
    );
    findings.selector("spec.namespaceSelector", spec.namespace_selector.as_deref());
    check_host_stages(spec, findings);
}

/// What `preDNAT` and `doNotTrack` go together with.
fn check_host_stages(spec: &GlobalNetworkPolicySpec, findings: &mut Findings<'_>) {
    if (spec.pre_dnat || spec.do_not_track) && !spec.apply_on_forward {
        let cause = if spec.pre_dnat {
            "preDNAT"
        } else {
            "doNotTrack"
        };
        let allowed = format!("true, because {cause} is true");
        findings.other("spec.applyOnForward", "false", allowed);
    }
    if !spec.pre_dnat {
        return;
    }
    if spec.do_not_track {
        findings.other("spec.preDNAT", "true", "false, because doNotTrack is true");
    }
    if !spec.egress.is_empty() {
        let found = format!("{} rules", spec.egress.len());
        findings.other("spec.egress", found, "no rules, because preDNAT is true");
    }
    if spec.types.contains(&PolicyType::Egress) {
        findings.text("spec.types", "Egress", "Ingress, because preDNAT is true");
    }
}

fn check_types(types: &[PolicyType], findings: &mut Findings<'_>) {
    for (i, wanted) in types.iter().enumerate() {
        if types[..i].contains(wanted) {
            findings.text(
                &format!("spec.types[{i}]"),
                wanted.as_str(),
                "each type once",
            );
        }
    }
}

fn check_hints(hints: &[String], findings: &mut Findings<'_>) {
    for (i, hint) in hints.iter().enumerate() {
        if hints[..i].contains(hint) {
            let path = format!("spec.performanceHints[{i}]");
            findings.text(&path, hint, "each hint once");
        }
    }
}

fn check_order(order: Option<f64>, findings: &mut Findings<'_>) {
    if let Some(order) = order.filter(|order| !order.is_finite()) {
        findings.other("spec.order", order, "a finite number");
    }
}

pub(super) fn check_profile(spec: &ProfileSpec, findings: &mut Findings<'_>) {
    metadata::check_labels("spec.labelsToApply", &spec.labels_to_apply, findings);
    check_rules(Scope::Profile, &spec.ingress, &spec.egress, findings);
}
