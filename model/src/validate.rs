//! What a resource must keep to beyond the form of its fields.
//!
//! The same rules hold for what a manifest asks for and for what another writer left in the store.

mod bgp;
mod controllers;
mod endpoint;
mod metadata;
mod policy;
mod pool;
mod rule;
mod staged;

use crate::any::AnyResource;
use serde_json::Value;

use crate::bgp_configuration::BgpConfiguration;
use crate::felix_configuration::FelixConfiguration;
use crate::field_error::FieldError;
use crate::node::{NodeBgp, NodeSpec};
use crate::rule::Action;
use crate::tier::Tier;
pub(crate) use metadata::{is_label_value, is_qualified_name};
pub use pool::overlapping_pools;

/// Checks the grammar of a selector; the error says what is wrong with it.
pub type SelectorCheck<'a> = &'a dyn Fn(&str) -> Result<(), String>;

/// Everything that is wrong with a resource; nothing if it may be used.
pub fn validate(resource: &AnyResource, selector: SelectorCheck<'_>) -> Vec<FieldError> {
    let mut findings = Findings {
        selector,
        errors: Vec::new(),
    };
    metadata::check(resource, &mut findings);
    match resource {
        AnyResource::BgpConfiguration(res) => bgp::check_configuration(res, &mut findings),
        AnyResource::BgpFilter(res) => bgp::check_filter(&res.spec, &mut findings),
        AnyResource::BgpPeer(res) => bgp::check_peer(&res.spec, &mut findings),
        AnyResource::CalicoNodeStatus(res) => {
            controllers::check_node_status(&res.spec, &mut findings);
        }
        AnyResource::GlobalNetworkPolicy(res) => policy::check_global(&res.spec, &mut findings),
        AnyResource::HostEndpoint(res) => endpoint::check_host(&res.spec, &mut findings),
        AnyResource::IpamConfiguration(res) => pool::check_ipam(&res.spec, &mut findings),
        AnyResource::IpPool(res) => pool::check_pool(&res.spec, &mut findings),
        AnyResource::KubeControllersConfiguration(res) => {
            controllers::check_controllers(&res.spec, &mut findings);
        }
        AnyResource::NetworkPolicy(res) => policy::check_namespaced(&res.spec, &mut findings),
        AnyResource::Node(res) => check_node(&res.spec, &mut findings),
        AnyResource::Profile(res) => policy::check_profile(&res.spec, &mut findings),
        AnyResource::StagedGlobalNetworkPolicy(res) => {
            staged::check_global(&res.spec, &mut findings);
        }
        AnyResource::StagedKubernetesNetworkPolicy(res) => {
            staged::check_kubernetes(res, &mut findings);
        }
        AnyResource::StagedNetworkPolicy(res) => {
            staged::check_namespaced(&res.spec, &mut findings);
        }
        AnyResource::Tier(res) => check_tier(res, &mut findings),
        AnyResource::WorkloadEndpoint(res) => endpoint::check_workload(res, &mut findings),
        AnyResource::FelixConfiguration(res) => check_felix(res, &mut findings),
        AnyResource::BlockAffinity(_)
        | AnyResource::ClusterInformation(_)
        | AnyResource::GlobalNetworkSet(_)
        | AnyResource::IpReservation(_)
        | AnyResource::NetworkSet(_) => {}
    }
    findings.errors
}

/// Errors of one resource, as they are found.
struct Findings<'a> {
    selector: SelectorCheck<'a>,
    errors: Vec<FieldError>,
}

impl Findings<'_> {
    fn push(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    /// `found` may not stand at `path`.
    fn text(&mut self, path: &str, found: &str, allowed: impl Into<String>) {
        self.push(FieldError::text(path, found, allowed));
    }

    /// `found`, which is no text, may not stand at `path`.
    fn other(&mut self, path: &str, found: impl std::fmt::Display, allowed: impl Into<String>) {
        self.push(FieldError::new(path, found.to_string(), allowed));
    }

    fn missing(&mut self, path: &str, allowed: impl Into<String>) {
        self.push(FieldError::missing(path, allowed));
    }

    /// A selector, where `global()` has no meaning.
    fn selector(&mut self, path: &str, selector: Option<&str>) {
        let Some(text) = selector else { return };
        if text.contains("global(") {
            self.text(path, text, "a selector without global()");
        } else if let Err(reason) = (self.selector)(text) {
            self.text(path, text, format!("a selector ({reason})"));
        }
    }

    /// A selector of namespaces in a rule: `global()`, or a selector without it.
    fn namespace_selector(&mut self, path: &str, selector: Option<&str>) {
        let Some(text) = selector else { return };
        let bare: String = text.chars().filter(|c| !matches!(c, ' ' | '\t')).collect();
        if bare == "global()" {
            return;
        }
        self.selector(path, Some(text));
    }
}

fn is_set(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn check_node(spec: &NodeSpec, findings: &mut Findings<'_>) {
    if spec.bgp.as_ref() == Some(&NodeBgp::default()) {
        findings.other("spec.bgp", "{}", "at least one field, or no bgp at all");
    }
}

/// Settings that are kept for others have rules between them, too.
fn check_felix(res: &FelixConfiguration, findings: &mut Findings<'_>) {
    let (name, extra) = (&res.metadata.name, &res.spec.extra);
    if let Some(selector) = extra.get("nodeSelector").and_then(Value::as_str) {
        if name == "default" || name.starts_with("node.") {
            let allowed = format!("nothing: the name {name} says which nodes");
            findings.text("spec.nodeSelector", selector, allowed);
        }
        findings.selector("spec.nodeSelector", Some(selector));
    }
    if extra.contains_key("routeTableRange") && extra.contains_key("routeTableRanges") {
        let allowed = "nothing, because routeTableRanges is set";
        findings.other("spec.routeTableRange", "a range", allowed);
    }
    let own = extra.get("routeTableRange").into_iter();
    let own = own.map(|range| ("spec.routeTableRange".to_owned(), range));
    let list = extra.get("routeTableRanges").and_then(Value::as_array);
    let list = list.into_iter().flatten().enumerate();
    let list = list.map(|(i, range)| (format!("spec.routeTableRanges[{i}]"), range));
    for (path, range) in own.chain(list) {
        if let (Some(min), Some(max)) = (range["min"].as_i64(), range["max"].as_i64())
            && min > max
        {
            findings.other(&format!("{path}.min"), min, format!("at most max ({max})"));
        }
    }
}

/// Name, order and last action of the tiers that every cluster has.
const BUILT_IN_TIERS: [(&str, f64, Action); 3] = [
    ("kube-admin", 1_000.0, Action::Pass),
    ("default", 1_000_000.0, Action::Deny),
    ("kube-baseline", 10_000_000.0, Action::Pass),
];

fn check_tier(tier: &Tier, findings: &mut Findings<'_>) {
    let action = tier.spec.default_action.unwrap_or(Action::Deny);
    if !matches!(action, Action::Deny | Action::Pass) {
        findings.text("spec.defaultAction", action.as_str(), "Deny, Pass");
    }
    let built_in = BUILT_IN_TIERS
        .iter()
        .find(|(name, ..)| *name == tier.metadata.name);
    let Some((name, order, wanted)) = built_in else {
        return;
    };
    if tier.spec.order != Some(*order) {
        let found = tier
            .spec
            .order
            .map_or_else(|| "nothing".to_owned(), |order| order.to_string());
        findings.other("spec.order", found, format!("{order} for tier {name}"));
    }
    if action != *wanted {
        findings.text(
            "spec.defaultAction",
            action.as_str(),
            format!("{wanted} for tier {name}"),
        );
    }
}

/// Whether a BGPConfiguration is that of all hosts.
fn is_default(resource: &BgpConfiguration) -> bool {
    resource.metadata.name == "default"
}

#[cfg(test)]
mod tests;
