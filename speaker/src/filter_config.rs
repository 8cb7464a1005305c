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
    /// A community that the route carries: `aa:nn`, `aa:nn:mm`, or an extended one as
    /// [`ExtCommunity`](margay_bgp::wire::ExtCommunity) reads it, such as `rt:aa:nn`.
    #[serde(default, with = "community_text")]
    pub community: Option<policy::Community>,
    /// How its AS_PATH begins, the nearest first.
    #[serde(default)]
    pub as_path_prefix: Vec<u32>,
    /// Its priority: 2147483647 less LOCAL_PREF, and 1024 for one without or with 100.
    #[serde(default)]
    pub priority: Option<u32>,
    /// The interface that it is reached by; `*` stands for any characters.
    #[serde(default)]
    pub interface: Option<String>,
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
    /// Adds an extended community, as text.
    #[serde(with = "ext_community_text")]
    AddExtCommunity([u8; 8]),
    /// Prepends these AS numbers, the first ends up leftmost.
    PrependAsPath(Vec<u32>),
    /// Sets LOCAL_PREF.
    SetLocalPref(u32),
    /// Sets MULTI_EXIT_DISC.
    SetMed(u32),
    /// Sets LOCAL_PREF to what a priority is told by; less is better, 1024 is normal.
    SetPriority(u32),
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
    pub fn accept(prefix: Prefix) -> Self {
        Self {
            prefix: Some(prefix),
            ..Self::any(Action::Accept)
        }
    }

    /// Matches everything.
    pub const fn any(action: Action) -> Self {
        Self {
            prefix: None,
            operator: Operator::In,
            min_len: None,
            max_len: None,
            source: None,
            community: None,
            as_path_prefix: Vec::new(),
            priority: None,
            interface: None,
            action,
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
            route: policy::RouteMatch {
                community: self.community,
                as_path_prefix: self.as_path_prefix.clone(),
                priority: self.priority,
                interface: self.interface.clone(),
            },
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
            Self::AddExtCommunity(c) => policy::Operation::AddExtCommunity(*c),
            Self::PrependAsPath(asns) => policy::Operation::PrependAsPath(asns.clone()),
            Self::SetLocalPref(v) => policy::Operation::SetLocalPref(*v),
            Self::SetMed(v) => policy::Operation::SetMed(*v),
            Self::SetPriority(v) => policy::Operation::SetPriority(*v),
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

/// Communities as text in configuration.
mod community_text {
    use margay_bgp::{policy::Community, wire::ExtCommunity};
    use serde::{Deserialize, Deserializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Community>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        if let Ok(extended) = text.parse::<ExtCommunity>() {
            return Ok(Some(Community::Extended(extended.0)));
        }
        let parts: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some([high @ 0..=0xffff, low @ 0..=0xffff]) => {
                Ok(Some(Community::Standard(high << 16 | low)))
            }
            Some([a, b, c]) => Ok(Some(Community::Large([*a, *b, *c]))),
            _ => Err(D::Error::custom(format!(
                "`{text}` is not a community, allowed is aa:nn, aa:nn:mm, rt:aa:nn or soo:aa:nn"
            ))),
        }
    }
}

/// Extended communities as text in configuration.
pub(crate) mod ext_community_text {
    use margay_bgp::wire::ExtCommunity;
    use serde::{Deserialize, Deserializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 8], D::Error> {
        octets(&String::deserialize(deserializer)?)
    }

    pub(crate) fn list<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<[u8; 8]>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| octets(text)).collect()
    }

    fn octets<E: Error>(text: &str) -> Result<[u8; 8], E> {
        let parsed = text.parse::<ExtCommunity>();
        parsed.map(|c| c.0).map_err(E::custom)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_of_all_kinds_are_read() {
        let read = |text: &str| serde_norway::from_str::<FilterRule>(text);
        for (text, want) in [
            ("65000:7", policy::Community::Standard(65000 << 16 | 7)),
            ("65000:1:2", policy::Community::Large([65000, 1, 2])),
            (
                "rt:65000:7",
                policy::Community::Extended([0, 2, 0xfd, 0xe8, 0, 0, 0, 7]),
            ),
        ] {
            let rule = read(&format!(
                "{{community: '{text}', action: accept, operations: [!add_ext_community 'soo:1:2']}}"
            ))
            .unwrap();
            assert_eq!(rule.community, Some(want));
            let origin = [0, 3, 0, 1, 0, 0, 0, 2];
            assert_eq!(rule.operations, [Operation::AddExtCommunity(origin)]);
        }
        for bad in [
            "{community: '70000:1', action: accept}",
            "{community: rt, action: accept}",
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("not a community, allowed is"), "{error}");
        }
    }
}
