//! Policies to be tried.

use serde::Serialize;
use serde_json::Value;

use crate::staged_policy::{
    StagedAction, StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicy,
    StagedNetworkPolicySpec, enforced,
};
use crate::validate::{Findings, policy};

pub(super) fn check_namespaced(spec: &StagedNetworkPolicySpec, findings: &mut Findings<'_>) {
    match spec.action() {
        StagedAction::Delete => check_empty(spec, &["tier", "types"], findings),
        _ => policy::check_namespaced(&spec.policy, findings),
    }
}

pub(super) fn check_global(spec: &StagedGlobalNetworkPolicySpec, findings: &mut Findings<'_>) {
    match spec.action() {
        StagedAction::Delete => check_empty(spec, &["tier", "types"], findings),
        _ => policy::check_global(&spec.policy, findings),
    }
}

pub(super) fn check_kubernetes(res: &StagedKubernetesNetworkPolicy, findings: &mut Findings<'_>) {
    if res.spec.action() == StagedAction::Delete {
        return check_empty(&res.spec, &[], findings);
    }
    match enforced(res) {
        Ok(converted) => policy::check_namespaced(&converted.spec, findings),
        Err(errors) => findings.errors.extend(errors),
    }
}

/// What is to be deleted has no rules: only its name and the members `but` are of use.
fn check_empty(spec: &impl Serialize, but: &[&str], findings: &mut Findings<'_>) {
    // The types have text keys and no other way to fail.
    let Ok(Value::Object(members)) = serde_json::to_value(spec) else {
        return;
    };
    for (name, value) in members {
        let empty = match &value {
            Value::Object(members) => members.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if name == "stagedAction" || but.contains(&name.as_str()) || empty {
            continue;
        }
        let allowed = "nothing, because stagedAction is Delete";
        findings.push(crate::field_error::FieldError::value(
            format!("spec.{name}"),
            &value,
            allowed,
        ));
    }
}
