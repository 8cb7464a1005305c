//! Filters as plain data: rules in order, the first that matches decides.

use crate::prefix::Prefix;

use super::{
    compiled::Compiled,
    route_match::{Facts, RouteMatch},
};

/// What becomes of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The route is taken, after the rule's operations.
    Accept,
    /// The route is not taken.
    Reject,
}

/// How a route's prefix is compared with the rule's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOperator {
    /// The same prefix.
    Equal,
    /// Any other prefix.
    NotEqual,
    /// The prefix or a more specific one.
    In,
    /// Neither the prefix nor a more specific one.
    NotIn,
}

/// Prefix lengths, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LengthRange {
    /// Shortest prefix length in bits.
    pub min: u8,
    /// Longest prefix length in bits.
    pub max: u8,
}

/// A condition on the route's prefix. A route of another family than `prefix` never matches, not
/// even a negated operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixMatch {
    /// What to compare with.
    pub prefix: Prefix,
    /// How.
    pub operator: MatchOperator,
    /// With [`MatchOperator::In`] and [`MatchOperator::NotIn`]: "in" means a length in this range
    /// as well. Ignored by the other operators.
    pub lengths: Option<LengthRange>,
}

impl PrefixMatch {
    /// The prefix itself and every more specific one.
    pub const fn within(prefix: Prefix) -> Self {
        Self {
            prefix,
            operator: MatchOperator::In,
            lengths: None,
        }
    }

    /// Whether `prefix` satisfies the condition.
    pub fn matches(&self, prefix: Prefix) -> bool {
        if prefix.family() != self.prefix.family() {
            return false;
        }
        let inside = || {
            let length_fits = self
                .lengths
                .is_none_or(|range| (range.min..=range.max).contains(&prefix.len()));
            length_fits && self.prefix.contains(prefix)
        };
        match self.operator {
            MatchOperator::Equal => prefix == self.prefix,
            MatchOperator::NotEqual => prefix != self.prefix,
            MatchOperator::In => inside(),
            MatchOperator::NotIn => !inside(),
        }
    }
}

/// Where a route was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Originated by this speaker.
    Local,
    /// From any BGP peer.
    RemotePeers,
    /// From an external peer.
    Ebgp,
    /// From an internal peer.
    Ibgp,
}

/// A change to an accepted route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Adds a standard community (RFC 1997).
    AddCommunity(u32),
    /// Adds a large community (RFC 8092).
    AddLargeCommunity([u32; 3]),
    /// Adds an extended community (RFC 4360).
    AddExtCommunity([u8; 8]),
    /// Prepends these AS numbers; the first ends up leftmost.
    PrependAsPath(Vec<u32>),
    /// Sets LOCAL_PREF.
    SetLocalPref(u32),
    /// Sets MULTI_EXIT_DISC.
    SetMed(u32),
    /// Sets LOCAL_PREF to what the priority is told by, see [`pref_of`](super::pref_of).
    SetPriority(u32),
}

/// Conditions, all of which must hold, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// On the prefix; `None` matches every prefix.
    pub prefix: Option<PrefixMatch>,
    /// On the origin of the route; `None` matches every origin.
    pub source: Option<Source>,
    /// On what the route carries.
    pub route: RouteMatch,
    /// What to do when the conditions hold.
    pub action: Action,
    /// What [`Action::Accept`] changes, in order.
    pub operations: Vec<Operation>,
}

impl Rule {
    /// A rule on the prefix alone.
    pub fn new(prefix: PrefixMatch, action: Action) -> Self {
        Self {
            prefix: Some(prefix),
            ..Self::any(action)
        }
    }

    /// A rule that matches everything.
    pub fn any(action: Action) -> Self {
        Self {
            prefix: None,
            source: None,
            route: RouteMatch::default(),
            action,
            operations: Vec::new(),
        }
    }

    /// The rule with one more operation.
    #[must_use]
    pub fn with(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// The rule for routes of one origin only.
    #[must_use]
    pub const fn from_source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }
}

/// An import or export filter, compiled for look-up by prefix.
#[derive(Debug)]
pub struct Filter {
    rules: Vec<Rule>,
    default: Action,
    compiled: Compiled,
    needs_attrs: bool,
    needs_interface: bool,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.default == other.default && self.rules == other.rules
    }
}

impl Eq for Filter {}

impl Filter {
    /// A filter of `rules`, tried in order; `default` is for routes that match none.
    pub fn new(rules: Vec<Rule>, default: Action) -> Self {
        let compiled = Compiled::new(&rules);
        Self {
            needs_attrs: rules.iter().any(|r| r.route.needs_attrs()),
            needs_interface: rules.iter().any(|r| r.route.interface.is_some()),
            rules,
            default,
            compiled,
        }
    }

    /// Takes everything unchanged.
    pub fn accept_all() -> Self {
        Self::new(Vec::new(), Action::Accept)
    }

    /// Takes nothing: the default between eBGP peers (RFC 8212).
    pub fn reject_all() -> Self {
        Self::new(Vec::new(), Action::Reject)
    }

    /// Takes what lies within any of `prefixes` and nothing else.
    pub fn accept_within(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let rule = |prefix| Rule::new(PrefixMatch::within(prefix), Action::Accept);
        Self::new(prefixes.into_iter().map(rule).collect(), Action::Reject)
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// For routes that match no rule.
    pub const fn default_action(&self) -> Action {
        self.default
    }

    /// Whether some rule looks at attributes, so that they have to be among the [`Facts`].
    pub const fn needs_attrs(&self) -> bool {
        self.needs_attrs
    }

    /// Whether some rule looks at the interface.
    pub const fn needs_interface(&self) -> bool {
        self.needs_interface
    }

    /// What becomes of `prefix` learnt from `origin` ([`Source::RemotePeers`] is not an origin),
    /// and the operations to apply when it is accepted.
    pub fn verdict(
        &self,
        prefix: Prefix,
        origin: Source,
        facts: &Facts<'_>,
    ) -> Option<&[Operation]> {
        self.decide(prefix, origin, facts)
            .map(|rule| self.operations(rule))
    }

    /// `None` to reject, else the accepting rule that has operations, or [`Filter::PLAIN`].
    pub(crate) fn decide(&self, prefix: Prefix, origin: Source, facts: &Facts<'_>) -> Option<u16> {
        if self.rules.is_empty() {
            return (self.default == Action::Accept).then_some(Self::PLAIN);
        }
        let holds = |source: Option<Source>| match source {
            None => true,
            Some(Source::RemotePeers) => origin != Source::Local,
            Some(source) => source == origin,
        };
        let first = self.compiled.first_match(prefix, |at| {
            let rule = &self.rules[usize::from(at)];
            holds(rule.source)
                && rule.prefix.is_none_or(|m| m.matches(prefix))
                && rule.route.matches(facts)
        });
        let Some(at) = first else {
            return (self.default == Action::Accept).then_some(Self::PLAIN);
        };
        let rule = &self.rules[usize::from(at)];
        match rule.action {
            Action::Reject => None,
            Action::Accept if rule.operations.is_empty() => Some(Self::PLAIN),
            Action::Accept => Some(at),
        }
    }

    /// Stands for "no operations" in the answer of [`Filter::decide`].
    pub(crate) const PLAIN: u16 = u16::MAX;

    /// The operations behind an answer of [`Filter::decide`].
    pub(crate) fn operations(&self, rule: u16) -> &[Operation] {
        self.rules
            .get(usize::from(rule))
            .map_or(&[], |rule| &rule.operations)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(text: &str) -> Prefix {
        Prefix::V4(text.parse().unwrap())
    }

    #[test]
    fn operators_compare_as_documented() {
        use MatchOperator::{Equal, In, NotEqual, NotIn};
        let case = |operator, lengths, route: &str| {
            PrefixMatch {
                prefix: v4("10.1.0.0/16"),
                operator,
                lengths,
            }
            .matches(v4(route))
        };
        assert!(case(Equal, None, "10.1.0.0/16") && !case(Equal, None, "10.1.0.0/17"));
        assert!(!case(NotEqual, None, "10.1.0.0/16") && case(NotEqual, None, "10.1.0.0/17"));
        assert!(case(In, None, "10.1.0.0/16") && case(In, None, "10.1.2.3/32"));
        assert!(!case(In, None, "10.0.0.0/8") && !case(In, None, "10.2.0.0/16"));
        assert!(case(NotIn, None, "10.0.0.0/8") && !case(NotIn, None, "10.1.2.0/24"));
        let range = Some(LengthRange { min: 24, max: 28 });
        assert!(case(In, range, "10.1.2.0/24") && !case(In, range, "10.1.2.3/32"));
        assert!(case(NotIn, range, "10.1.2.3/32") && !case(NotIn, range, "10.1.2.0/24"));
        let other_family = Prefix::V6("::/0".parse().unwrap());
        assert!(
            !PrefixMatch {
                prefix: other_family,
                operator: NotIn,
                lengths: None
            }
            .matches(v4("10.0.0.0/8"))
        );
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let filter = Filter::new(
            vec![
                Rule::new(PrefixMatch::within(v4("10.1.0.0/16")), Action::Reject)
                    .from_source(Source::Ebgp),
                Rule::new(PrefixMatch::within(v4("10.0.0.0/8")), Action::Accept)
                    .with(Operation::SetLocalPref(7)),
            ],
            Action::Reject,
        );
        assert_eq!(
            filter.verdict(v4("10.1.2.0/24"), Source::Ebgp, &Facts::default()),
            None
        );
        let pref = [Operation::SetLocalPref(7)];
        assert_eq!(
            filter.verdict(v4("10.1.2.0/24"), Source::Ibgp, &Facts::default()),
            Some(&pref[..])
        );
        assert_eq!(
            filter.verdict(v4("10.2.2.0/24"), Source::Ebgp, &Facts::default()),
            Some(&pref[..])
        );
        assert_eq!(
            filter.verdict(v4("11.0.0.0/8"), Source::Ibgp, &Facts::default()),
            None
        );
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let operator = prop_oneof![
            Just(MatchOperator::Equal),
            Just(MatchOperator::NotEqual),
            Just(MatchOperator::In),
            Just(MatchOperator::NotIn)
        ];
        let lengths = proptest::option::of((0u8..6, 0u8..6)).prop_map(|r| {
            r.map(|(min, more)| LengthRange {
                min,
                max: min + more,
            })
        });
        let prefix = (small_prefix(), operator, lengths).prop_map(|(prefix, operator, lengths)| {
            PrefixMatch {
                prefix,
                operator,
                lengths,
            }
        });
        let source = prop_oneof![
            4 => Just(None), 1 => Just(Some(Source::RemotePeers)), 1 => Just(Some(Source::Local))
        ];
        (
            proptest::option::weighted(0.9, prefix),
            source,
            any::<bool>(),
            0u32..3,
        )
            .prop_map(|(prefix, source, accept, pref)| Rule {
                prefix,
                source,
                route: RouteMatch::default(),
                action: if accept {
                    Action::Accept
                } else {
                    Action::Reject
                },
                operations: if pref > 0 {
                    vec![Operation::SetLocalPref(pref)]
                } else {
                    vec![]
                },
            })
    }

    fn small_prefix() -> impl Strategy<Value = Prefix> {
        (any::<u8>(), 0u8..8, any::<bool>()).prop_map(|(top, len, v6)| {
            if v6 {
                Prefix::new(std::net::Ipv6Addr::from(u128::from(top) << 120).into(), len).unwrap()
            } else {
                Prefix::new(std::net::Ipv4Addr::from(u32::from(top) << 24).into(), len).unwrap()
            }
        })
    }

    proptest! {
        #[test]
        fn the_compiled_form_agrees_with_reading_the_rules(
            rules in proptest::collection::vec(rule(), 0..12),
            routes in proptest::collection::vec(small_prefix(), 1..40),
        ) {
            let filter = Filter::new(rules, Action::Accept);
            for route in routes {
                for origin in [Source::Local, Source::Ebgp] {
                    let first = filter.rules().iter().find(|rule| {
                        rule.prefix.is_none_or(|m| m.matches(route)) && match rule.source {
                            None => true,
                            Some(Source::RemotePeers) => origin != Source::Local,
                            Some(source) => source == origin,
                        }
                    });
                    let expected = match first {
                        None => Some(&[][..]),
                        Some(rule) if rule.action == Action::Accept => Some(&rule.operations[..]),
                        Some(_) => None,
                    };
                    prop_assert_eq!(filter.verdict(route, origin, &Facts::default()), expected);
                }
            }
        }
    }
}
