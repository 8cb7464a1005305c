//! What is filled in when a resource is created.

use crate::any::AnyResource;
use crate::bgp_configuration::Toggle;
use crate::duration::GoDuration;
use crate::ippool::{AssignmentMode, EncapMode, IpPoolSpec, PoolUse};
use crate::kube_controllers_configuration::{AssignIps, KubeControllersConfigurationSpec};
use crate::meta::ObjectMeta;
use crate::policy::DEFAULT_TIER;
use crate::rule::Action;
use crate::staged_policy::StagedAction;

/// The namespace of namespaced resources that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

impl AnyResource {
    /// Fills in what the established writers store explicitly, so that every reader sees the same.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        if self.kind().namespaced() {
            let namespace = &mut self.metadata_mut().namespace;
            namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
        }
        match &mut self {
            Self::IpPool(pool) => fill_pool(&mut pool.spec),
            Self::NetworkPolicy(policy) => {
                policy.spec.types = policy.spec.directions();
                fill_tier(&mut policy.spec.tier, &mut policy.metadata);
            }
            Self::GlobalNetworkPolicy(policy) => {
                policy.spec.types = policy.spec.directions();
                fill_tier(&mut policy.spec.tier, &mut policy.metadata);
            }
            Self::StagedNetworkPolicy(staged) => {
                let policy = &mut staged.spec.policy;
                policy.types = match fill_action(&mut staged.spec.staged_action) {
                    StagedAction::Delete => Vec::new(),
                    _ => policy.directions(),
                };
                fill_tier(&mut policy.tier, &mut staged.metadata);
            }
            Self::StagedGlobalNetworkPolicy(staged) => {
                let policy = &mut staged.spec.policy;
                policy.types = match fill_action(&mut staged.spec.staged_action) {
                    StagedAction::Delete => Vec::new(),
                    _ => policy.directions(),
                };
                fill_tier(&mut policy.tier, &mut staged.metadata);
            }
            Self::StagedKubernetesNetworkPolicy(staged) => {
                fill_action(&mut staged.spec.staged_action);
            }
            Self::KubeControllersConfiguration(config) => fill_controllers(&mut config.spec),
            Self::Tier(tier) => {
                tier.spec.default_action.get_or_insert(Action::Deny);
            }
            Self::IpamConfiguration(config) => {
                config.spec.auto_allocate_blocks.get_or_insert(true);
            }
            Self::WorkloadEndpoint(endpoint) => {
                let namespace = endpoint.metadata.namespace.clone().unwrap_or_default();
                label(
                    &mut endpoint.metadata,
                    "projectcalico.org/namespace",
                    &namespace,
                );
                let orchestrator = &endpoint.spec.orchestrator;
                label(
                    &mut endpoint.metadata,
                    "projectcalico.org/orchestrator",
                    orchestrator,
                );
            }
            _ => {}
        }
        self
    }
}

fn label(metadata: &mut ObjectMeta, name: &str, value: &str) {
    metadata.labels.insert(name.to_owned(), value.to_owned());
}

fn fill_tier(tier: &mut Option<String>, metadata: &mut ObjectMeta) {
    let tier = tier.get_or_insert_with(|| DEFAULT_TIER.to_owned());
    label(metadata, "projectcalico.org/tier", tier);
}

fn fill_action(action: &mut Option<StagedAction>) -> StagedAction {
    *action.get_or_insert(StagedAction::Set)
}

fn fill_controllers(spec: &mut KubeControllersConfigurationSpec) {
    spec.health_checks.get_or_insert(Toggle::Enabled);
    spec.prometheus_metrics_port.get_or_insert(9094);
    if let Some(node) = &mut spec.controllers.node {
        let grace = GoDuration::from_secs(15 * 60);
        node.leak_grace_period.get_or_insert(grace);
    }
    if let Some(balancer) = &mut spec.controllers.load_balancer {
        balancer.assign_ips.get_or_insert(AssignIps::AllServices);
    }
    if let Some(migration) = &mut spec.controllers.migration {
        let migrator = &mut migration.policy_name_migrator;
        migrator.get_or_insert(Toggle::Enabled);
    }
}

fn fill_pool(spec: &mut IpPoolSpec) {
    spec.vxlan_mode.get_or_insert(EncapMode::Never);
    spec.ipip_mode.get_or_insert(EncapMode::Never);
    spec.block_size = Some(spec.block_size());
    spec.node_selector.get_or_insert_with(|| "all()".to_owned());
    if spec.allowed_uses.is_empty() {
        spec.allowed_uses = vec![PoolUse::Workload, PoolUse::Tunnel];
    }
    spec.assignment_mode
        .get_or_insert(AssignmentMode::Automatic);
}

/// The tiers that every cluster has: they need not be in the store.
pub fn is_built_in_tier(name: &str) -> bool {
    matches!(name, DEFAULT_TIER | "kube-admin" | "kube-baseline")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kind::Kind;

    fn filled(kind: Kind, value: Value) -> Value {
        let resource = AnyResource::from_value(kind, value)
            .unwrap()
            .with_defaults();
        // Filling in once is enough.
        assert_eq!(resource.clone().with_defaults(), resource);
        serde_json::to_value(&resource).unwrap()
    }

    #[test]
    fn pools_say_everything_explicitly() {
        let pool = json!({"metadata": {"name": "a"}, "spec": {"cidr": "fd00::/64"}});
        assert_eq!(
            filled(Kind::IpPool, pool)["spec"],
            json!({
                "cidr": "fd00::/64", "vxlanMode": "Never", "ipipMode": "Never", "blockSize": 122,
                "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"],
                "assignmentMode": "Automatic",
            })
        );
    }

    #[test]
    fn policies_get_types_by_their_rules_and_a_tier() {
        let allow = json!([{"action": "Allow"}]);
        for (spec, types) in [
            (json!({}), json!(["Ingress"])),
            (json!({"ingress": allow}), json!(["Ingress"])),
            (json!({"egress": allow}), json!(["Egress"])),
            (
                json!({"ingress": allow, "egress": allow}),
                json!(["Ingress", "Egress"]),
            ),
            (
                json!({"egress": allow, "types": ["Ingress"]}),
                json!(["Ingress"]),
            ),
        ] {
            let policy = json!({"metadata": {"name": "a"}, "spec": spec});
            let policy = filled(Kind::NetworkPolicy, policy);
            assert_eq!(policy["spec"]["types"], types);
            assert_eq!(policy["spec"]["tier"], "default");
            assert_eq!(policy["metadata"]["namespace"], "default");
            assert_eq!(
                policy["metadata"]["labels"]["projectcalico.org/tier"],
                "default"
            );
        }
    }

    #[test]
    fn endpoints_get_the_labels_that_selectors_rely_on() {
        let endpoint = json!({
            "metadata": {"name": "n1-cni-c-eth0", "namespace": "prod", "labels": {"app": "web"}},
            "spec": {"orchestrator": "cni"},
        });
        assert_eq!(
            filled(Kind::WorkloadEndpoint, endpoint)["metadata"]["labels"],
            json!({
                "app": "web", "projectcalico.org/namespace": "prod",
                "projectcalico.org/orchestrator": "cni",
            })
        );
    }

    #[test]
    fn staged_policies_get_an_action_and_what_their_action_needs() {
        let staged = |kind, spec: Value| {
            filled(kind, json!({"metadata": {"name": "a"}, "spec": spec}))["spec"].clone()
        };
        for kind in [Kind::StagedNetworkPolicy, Kind::StagedGlobalNetworkPolicy] {
            assert_eq!(
                staged(kind, json!({"egress": [{"action": "Deny"}]}))["types"],
                json!(["Egress"])
            );
            assert_eq!(
                staged(kind, json!({"stagedAction": "Delete", "types": ["Egress"]})),
                json!({"stagedAction": "Delete", "tier": "default"})
            );
        }
        assert_eq!(
            staged(Kind::StagedKubernetesNetworkPolicy, json!({})),
            json!({"stagedAction": "Set", "podSelector": {}})
        );
    }

    #[test]
    fn controllers_that_run_get_their_settings() {
        let config = |controllers: Value| {
            let spec = json!({"controllers": controllers});
            let config = json!({"metadata": {"name": "default"}, "spec": spec});
            filled(Kind::KubeControllersConfiguration, config)["spec"].clone()
        };
        assert_eq!(
            config(json!({})),
            json!({"healthChecks": "Enabled", "prometheusMetricsPort": 9094, "controllers": {}})
        );
        assert_eq!(
            config(json!({"node": {}, "loadBalancer": {}, "migration": {}}))["controllers"],
            json!({
                "node": {"leakGracePeriod": "15m0s"},
                "loadBalancer": {"assignIPs": "AllServices"},
                "migration": {"policyNameMigrator": "Enabled"},
            })
        );
    }
}
