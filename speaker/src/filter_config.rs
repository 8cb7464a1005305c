//! Filters as configuration, and what they compile to.

use std::sync::Arc;

use margay_bgp::{policy, prefix::Prefix};
use serde::Deserialize;

/// An import or export filter: rules in order, the first that matches decides.
///
/// The default filter takes nothing (RFC 8212).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// The rules.
    #[serde(default)]
    pub rules: Vec<FilterRule>,
    /// For routes that match no rule.
    #[serde(default)]
    pub default: Action,
}

/// What becomes of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Take it.
    Accept,
    /// Leave it.
    #[default]
    Reject,
}

/// Conditions, all of which must hold, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// Prefix to compare with; without one every route matches.
    #[serde(default, with = "prefix_text::option")]
    pub prefix: Option<Prefix>,
    /// How to compare with `prefix`.
    #[serde(default)]
    pub operator: Operator,
    /// Shortest prefix length, for `in` and `not_in`; by default that of `prefix`.
    #[serde(default)]
    pub min_len: Option<u8>,
    /// Longest prefix length, for `in` and `not_in`; by default that of an address.
    #[serde(default)]
    pub max_len: Option<u8>,
    /// Where the route comes from; without it from anywhere.
    #[serde(default)]
    pub source: Option<RouteOrigin>,
    /// What to do.
    pub action: Action,
    /// What accepting changes, in order.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// How a route's prefix is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// The same prefix.
    Equal,
    /// Any other one.
    NotEqual,
    /// The same or a more specific one.
    #[default]
    In,
    /// Neither.
    NotIn,
}

/// Where a route was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteOrigin {
    /// Originated here.
    Local,
    /// From any peer.
    RemotePeers,
    /// From an external peer.
    Ebgp,
    /// From an internal peer.
    Ibgp,
}

/// A change to an accepted route.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Adds a standard community, its 32 bits.
    AddCommunity(u32),
    /// Adds a large community.
    AddLargeCommunity([u32; 3]),
    /// Prepends these AS numbers, the first ends up leftmost.
    PrependAsPath(Vec<u32>),
    /// Sets LOCAL_PREF.
    SetLocalPref(u32),
    /// Sets MULTI_EXIT_DISC.
    SetMed(u32),
}

impl FilterConfig {
    /// Takes everything.
    pub const fn accept_all() -> Self {
        Self {
            rules: Vec::new(),
            default: Action::Accept,
        }
    }

    /// Takes what lies within any of `prefixes`, nothing else.
    pub fn accept_within(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let rules = prefixes.into_iter().map(FilterRule::accept).collect();
        Self {
            rules,
            default: Action::Reject,
        }
    }

    /// The filter that the RIB works with.
    pub fn compile(&self) -> Arc<policy::Filter> {
        let rules = self.rules.iter().map(FilterRule::compile).collect();
        Arc::new(policy::Filter::new(rules, self.default.into()))
    }
}

impl FilterRule {
    /// Accepts the prefix and more specific ones.
    pub const fn accept(prefix: Prefix) -> Self {
        Self {
            prefix: Some(prefix),
            operator: Operator::In,
            min_len: None,
            max_len: None,
            source: None,
            action: Action::Accept,
            operations: Vec::new(),
        }
    }

    fn compile(&self) -> policy::Rule {
        policy::Rule {
            prefix: self.prefix.map(|prefix| policy::PrefixMatch {
                prefix,
                operator: match self.operator {
                    Operator::Equal => policy::MatchOperator::Equal,
                    Operator::NotEqual => policy::MatchOperator::NotEqual,
                    Operator::In => policy::MatchOperator::In,
                    Operator::NotIn => policy::MatchOperator::NotIn,
                },
                lengths: (self.min_len.is_some() || self.max_len.is_some()).then(|| {
                    policy::LengthRange {
                        min: self.min_len.unwrap_or(prefix.len()),
                        max: self.max_len.unwrap_or(128),
                    }
                }),
            }),
            source: self.source.map(|source| match source {
                RouteOrigin::Local => policy::Source::Local,
                RouteOrigin::RemotePeers => policy::Source::RemotePeers,
                RouteOrigin::Ebgp => policy::Source::Ebgp,
                RouteOrigin::Ibgp => policy::Source::Ibgp,
            }),
            action: self.action.into(),
            operations: self.operations.iter().map(Operation::compile).collect(),
        }
    }
}

impl Operation {
    fn compile(&self) -> policy::Operation {
        match self {
            Self::AddCommunity(c) => policy::Operation::AddCommunity(*c),
            Self::AddLargeCommunity(c) => policy::Operation::AddLargeCommunity(*c),
            Self::PrependAsPath(asns) => policy::Operation::PrependAsPath(asns.clone()),
            Self::SetLocalPref(v) => policy::Operation::SetLocalPref(*v),
            Self::SetMed(v) => policy::Operation::SetMed(*v),
        }
    }
}

impl From<Action> for policy::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Accept => Self::Accept,
            Action::Reject => Self::Reject,
        }
    }
}

/// Prefixes as text in configuration.
pub(crate) mod prefix_text {
    use margay_bgp::prefix::Prefix;
    use serde::{Deserialize, Deserializer, de::Error};

    /// A prefix.
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text(String);

    fn parse<E: Error>(text: &Text) -> Result<Prefix, E> {
        text.0.parse().map_err(E::custom)
    }

    pub(crate) mod option {
        use super::{Deserialize as _, Deserializer, Prefix, Text, parse};

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Prefix>, D::Error> {
            Option::<Text>::deserialize(deserializer)?
                .as_ref()
                .map(parse)
                .transpose()
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Prefix, D::Error> {
        parse(&Text::deserialize(deserializer)?)
    }
}
