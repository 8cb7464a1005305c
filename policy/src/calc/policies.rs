//! Policies, read and compiled; and tiers.

use std::cmp::Ordering;
use std::sync::Arc;

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::rule::Rule as RuleSpec;
use margay_model::staged_policy::StagedAction;
use margay_model::tier::TierSpec;

use super::compile::{self, Program};
use super::scope::{self, BadSelector};
use crate::program::{Action, Direction, Phase};
use crate::selector::{Expr, Selector};
use crate::staged::Staged;

/// The tier of policies that name none.
const DEFAULT_TIER: &str = "default";

/// A policy, ready for use.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    pub(super) tier: String,
    pub(super) order: Order,
    /// Which endpoints, with the scope taken into account.
    pub(super) selector: Selector,
    pub(super) ingress: bool,
    pub(super) egress: bool,
    /// When it is asked. Only those of [`Phase::Filter`] are about workloads.
    pub(super) phase: Phase,
    /// Whether it is about what hosts forward, too.
    pub(super) on_forward: bool,
    /// Whether it is only looked at.
    pub(super) staged: bool,
    pub(super) program: Arc<Program>,
    /// What is wrong with it; its program then drops everything.
    pub(super) problem: Option<String>,
}

/// Lower first, absent last. Equal for any two that compare as equal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order(pub(super) Option<f64>);

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |order: &Self| order.0.unwrap_or(f64::INFINITY);
        // -0 and 0 are one order; what is not a number comes last, like what is absent.
        let compare = |a: f64, b: f64| {
            a.partial_cmp(&b)
                .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        };
        compare(key(self), key(other)).then(self.0.is_none().cmp(&other.0.is_none()))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Order {}

impl Policy {
    /// The policy that a staged one would set, if it would.
    pub(super) fn from_staged(staged: &AnyResource) -> Option<Self> {
        let unreadable = |problem: String| Self {
            problem: Some(format!("{problem}; what it would decide is not known")),
            ..Self::nothing()
        };
        let mut policy = match Staged::of(staged)? {
            Ok(Staged {
                action: StagedAction::Set,
                policy,
            }) => Self::from_resource(&policy)?,
            Ok(_) => return None,
            Err(problem) => unreadable(problem),
        };
        policy.staged = true;
        policy.program = Arc::new(policy.program.staged());
        Some(policy)
    }

    /// Selects nothing and has no rules.
    fn nothing() -> Self {
        Self {
            tier: DEFAULT_TIER.to_owned(),
            order: Order(None),
            selector: Selector::from_expr(Expr::All.negated()),
            ingress: false,
            egress: false,
            phase: Phase::Filter,
            on_forward: false,
            staged: false,
            program: Arc::default(),
            problem: None,
        }
    }

    /// The policy in a resource, if the resource is one.
    pub(super) fn from_resource(resource: &AnyResource) -> Option<Self> {
        let key = resource.key();
        let source = match resource {
            AnyResource::NetworkPolicy(p) => Source {
                tier: p.spec.tier(),
                order: p.spec.order,
                directions: p.spec.directions(),
                selector: p.spec.selector.as_ref(),
                namespace_selector: None,
                account_selector: p.spec.service_account_selector.as_ref(),
                ingress: &p.spec.ingress,
                egress: &p.spec.egress,
                phases: Phases::default(),
                unknown: p.spec.extra.keys().next(),
            },
            AnyResource::GlobalNetworkPolicy(p) => Source {
                tier: p.spec.tier(),
                order: p.spec.order,
                directions: p.spec.directions(),
                selector: p.spec.selector.as_ref(),
                namespace_selector: p.spec.namespace_selector.as_ref(),
                account_selector: p.spec.service_account_selector.as_ref(),
                ingress: &p.spec.ingress,
                egress: &p.spec.egress,
                phases: Phases {
                    do_not_track: p.spec.do_not_track,
                    pre_dnat: p.spec.pre_dnat,
                    on_forward: p.spec.apply_on_forward,
                },
                unknown: p.spec.extra.keys().next(),
            },
            _ => return None,
        };
        Some(source.compile(&key))
    }

    pub(super) const fn covers(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }

    /// What decides between policies of one tier.
    pub(super) fn sort_key<'a>(
        &self,
        key: &'a ResourceKey,
    ) -> (Order, &'a str, &'a str, &'static str) {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        (self.order, &key.name, namespace, key.kind.as_str())
    }
}

/// What the kinds of policies have in common.
struct Source<'a> {
    tier: &'a str,
    order: Option<f64>,
    directions: Vec<Direction>,
    selector: Option<&'a String>,
    namespace_selector: Option<&'a String>,
    account_selector: Option<&'a String>,
    ingress: &'a [RuleSpec],
    egress: &'a [RuleSpec],
    phases: Phases,
    unknown: Option<&'a String>,
}

/// The fields of a policy that say when it is asked.
#[derive(Clone, Copy, Default)]
struct Phases {
    do_not_track: bool,
    pre_dnat: bool,
    on_forward: bool,
}

impl Phases {
    const fn phase(self) -> Phase {
        match (self.do_not_track, self.pre_dnat) {
            (true, _) => Phase::Untracked,
            (false, true) => Phase::PreDnat,
            (false, false) => Phase::Filter,
        }
    }
}

impl Source<'_> {
    fn compile(self, key: &ResourceKey) -> Policy {
        let namespace = match key.kind {
            Kind::NetworkPolicy => Some(key.namespace.as_deref().unwrap_or_default()),
            _ => None,
        };
        let mut problems = Vec::new();
        let selector = self.selector(namespace, &mut problems);
        problems.extend(
            self.unknown
                .map(|f| format!("{f}: not supported, so the policy's meaning is unknown")),
        );
        let covers = |direction| self.directions.contains(&direction);
        let (ingress, mut egress) = (covers(Direction::Ingress), covers(Direction::Egress));
        let phase = self.phases.phase();
        if self.phases.do_not_track && self.phases.pre_dnat {
            problems.push("preDNAT: found beside doNotTrack, allowed: one of them".to_owned());
        }
        if phase == Phase::PreDnat && egress {
            problems.push("egress: found with preDNAT, allowed: ingress alone".to_owned());
            egress = false;
        }
        let program = compile::program(
            if ingress { self.ingress } else { &[] },
            if egress { self.egress } else { &[] },
            namespace,
        );
        let program = program.unwrap_or_else(|error| {
            problems.push(error.to_string());
            Program::default()
        });
        let program = if problems.is_empty() {
            program
        } else {
            compile::deny_all()
        };
        Policy {
            tier: self.tier.to_owned(),
            order: Order(self.order),
            selector,
            ingress,
            egress,
            phase,
            on_forward: self.phases.on_forward,
            staged: false,
            program: Arc::new(program.in_phase(phase)),
            problem: (!problems.is_empty()).then(|| {
                format!(
                    "{}; it drops everything for what it selects",
                    problems.join("; ")
                )
            }),
        }
    }

    /// What the policy selects. A part that cannot be read leaves the other parts standing: the policy
    /// then drops, and a wider selection is the safe side.
    fn selector(&self, namespace: Option<&str>, problems: &mut Vec<String>) -> Selector {
        let mut read = |parsed: Result<Option<Expr>, BadSelector>| {
            parsed.unwrap_or_else(|error| {
                problems.push(error.to_string());
                None
            })
        };
        let own = read(scope::parse("selector", self.selector));
        let namespaces = read(scope::parse("namespaceSelector", self.namespace_selector));
        let accounts = read(scope::parse(
            "serviceAccountSelector",
            self.account_selector,
        ));
        let scoped = namespace.map(scope::in_namespace);
        // Workloads know one phase only.
        let hosts = (self.phases.phase() != Phase::Filter).then(scope::in_no_namespace);
        scope::conjunction(
            own.into_iter()
                .chain(accounts.as_ref().map(scope::service_accounts))
                .chain(namespaces.as_ref().map(scope::namespaces))
                .chain(scoped)
                .chain(hosts),
        )
    }
}

/// A tier, ready for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) order: Order,
    pub(super) default_action: Action,
}

/// Where policies go whose tier does not exist: behind all others, and what they do not allow is
/// dropped.
pub(super) const MISSING_TIER: Tier = Tier {
    order: Order(None),
    default_action: Action::Deny,
};

impl Tier {
    /// The tiers that exist without a resource, and whose resources say nothing else.
    pub(super) fn built_in(name: &str) -> Option<Self> {
        let (order, default_action) = match name {
            "kube-admin" => (1e3, Action::Pass),
            "default" => (1e6, Action::Deny),
            "kube-baseline" => (1e7, Action::Pass),
            _ => return None,
        };
        Some(Self {
            order: Order(Some(order)),
            default_action,
        })
    }

    /// The tier in a resource, and what is wrong with it; it then drops what its policies do not allow.
    pub(super) fn from_spec(spec: &TierSpec) -> (Self, Option<String>) {
        let (default_action, problem) = match spec.default_action {
            None | Some(Action::Deny) => (Action::Deny, None),
            Some(Action::Pass) => (Action::Pass, None),
            Some(found) => (
                Action::Deny,
                Some(format!(
                    "defaultAction: found {found}, allowed: Deny or Pass; Deny holds"
                )),
            ),
        };
        let order = Order(spec.order);
        (
            Self {
                order,
                default_action,
            },
            problem,
        )
    }
}
