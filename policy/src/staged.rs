//! A cluster as it would be if what is staged were enforced.

use std::collections::BTreeMap;

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::policy::{GlobalNetworkPolicy, NetworkPolicy};
use margay_model::staged_policy::{self, StagedAction};

/// What a staged policy asks for.
pub(crate) struct Staged {
    /// What would happen.
    pub(crate) action: StagedAction,
    /// The policy as it would be.
    pub(crate) policy: AnyResource,
}

impl Staged {
    /// The change in a resource, if it is a staged policy; why it cannot be told, if so.
    pub(crate) fn of(resource: &AnyResource) -> Option<Result<Self, String>> {
        let (action, policy) = match resource {
            AnyResource::StagedNetworkPolicy(staged) => {
                let spec = staged.spec.policy.clone();
                let policy = NetworkPolicy::new(staged.metadata.clone(), spec);
                (staged.spec.action(), policy.into())
            }
            AnyResource::StagedGlobalNetworkPolicy(staged) => {
                let spec = staged.spec.policy.clone();
                let policy = GlobalNetworkPolicy::new(staged.metadata.clone(), spec);
                (staged.spec.action(), policy.into())
            }
            AnyResource::StagedKubernetesNetworkPolicy(staged) => {
                match staged_policy::enforced(staged) {
                    Ok(policy) => (staged.spec.action(), policy.into()),
                    Err(errors) => {
                        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                        return Some(Err(errors.join("; ")));
                    }
                }
            }
            _ => return None,
        };
        Some(Ok(Self { action, policy }))
    }
}

/// Whether policies of a kind are only looked at and never enforced.
pub const fn is_staged(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy
    )
}

/// The resources with every staged change made: `Set` makes or replaces the policy of the same name,
/// `Delete` takes it away, `Learn` and `Ignore` change nothing. The second value names staged policies
/// that cannot be read, with the reason.
pub fn as_if_enforced(
    resources: impl IntoIterator<Item = AnyResource>,
) -> (Vec<AnyResource>, Vec<(ResourceKey, String)>) {
    let (mut enforced, mut changes, mut problems) = (BTreeMap::new(), Vec::new(), Vec::new());
    for resource in resources {
        match Staged::of(&resource) {
            Some(Ok(staged)) => changes.push(staged),
            Some(Err(problem)) => problems.push((resource.key(), problem)),
            None => {
                enforced.insert(resource.key(), resource);
            }
        }
    }
    for Staged { action, policy } in changes {
        match action {
            StagedAction::Set => {
                enforced.insert(policy.key(), policy);
            }
            StagedAction::Delete => {
                enforced.remove(&policy.key());
            }
            StagedAction::Learn | StagedAction::Ignore => {}
        }
    }
    (enforced.into_values().collect(), problems)
}
