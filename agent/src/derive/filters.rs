//! BGPFilters that a peer names, as rules of the speaker.

use margay_bgp::prefix::Prefix;
use margay_model::any::AnyResource;
use margay_model::bgp_filter::{
    FilterAction, FilterRule as ModelRule, MatchOperator, PeerType, RouteSource,
};
use margay_model::community;
use margay_model::kind::{Kind, ResourceKey};
use margay_speaker::{Action, Community, FilterRule, Operation, Operator, RouteOrigin};

use super::speaker::prefix;
use crate::graph::Cache;

/// Rules in order, of all filters that a peer names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) import: Vec<FilterRule>,
    pub(super) export: Vec<FilterRule>,
}

/// Something of a filter that cannot be followed. What it stands for is refused, so that nothing leaks; the
/// session goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterProblem {
    #[error(
        "BGPFilter {0} does not exist: nothing is exchanged that no filter before it decided on"
    )]
    Missing(String),
    #[error(
        "BGPFilter {filter}: {list}[{index}].{field}: {reason}; the rule rejects what it matches"
    )]
    Invalid {
        filter: String,
        list: &'static str,
        index: usize,
        field: &'static str,
        reason: String,
    },
}

/// The rules of the filters of these names, in order.
pub(super) fn named(cache: &Cache, names: &[String], problems: &mut Vec<FilterProblem>) -> Named {
    let mut all = Named::default();
    for name in names {
        let key = ResourceKey::global(Kind::BgpFilter, name.clone());
        let Some(AnyResource::BgpFilter(filter)) = cache.get(&key) else {
            problems.push(FilterProblem::Missing(name.clone()));
            all.import.push(FilterRule::any(Action::Reject));
            all.export.push(FilterRule::any(Action::Reject));
            continue;
        };
        let spec = &filter.spec;
        let mut list = |list, rules: &[ModelRule], v4| -> Vec<FilterRule> {
            let convert = |(index, rule)| {
                let place = Place {
                    filter: name,
                    list,
                    index,
                };
                place.convert(rule, v4, problems)
            };
            rules.iter().enumerate().map(convert).collect()
        };
        all.import.extend(list("importV4", &spec.import_v4, true));
        all.import.extend(list("importV6", &spec.import_v6, false));
        all.export.extend(list("exportV4", &spec.export_v4, true));
        all.export.extend(list("exportV6", &spec.export_v6, false));
    }
    all
}

struct Place<'a> {
    filter: &'a str,
    list: &'static str,
    index: usize,
}

impl Place<'_> {
    fn convert(&self, rule: &ModelRule, v4: bool, problems: &mut Vec<FilterProblem>) -> FilterRule {
        let everything = if v4 { "0.0.0.0/0" } else { "::/0" };
        let everything: Option<Prefix> = everything.parse().ok();
        let lengths = rule.prefix_length.as_ref();
        let mut converted = FilterRule {
            prefix: rule.cidr.and_then(prefix).or(everything),
            operator: match rule.match_operator {
                None | Some(MatchOperator::In) => Operator::In,
                Some(MatchOperator::Equal) => Operator::Equal,
                Some(MatchOperator::NotEqual) => Operator::NotEqual,
                Some(MatchOperator::NotIn) => Operator::NotIn,
            },
            min_len: lengths.and_then(|l| l.min),
            max_len: lengths.and_then(|l| l.max),
            source: match (rule.source, rule.peer_type) {
                (None, None) => None,
                (Some(RouteSource::RemotePeers), None) => Some(RouteOrigin::RemotePeers),
                (_, Some(PeerType::Ebgp)) => Some(RouteOrigin::Ebgp),
                (_, Some(PeerType::Ibgp)) => Some(RouteOrigin::Ibgp),
            },
            as_path_prefix: rule.as_path_prefix.iter().map(|asn| asn.0).collect(),
            priority: rule.priority,
            interface: rule.interface.clone(),
            ..FilterRule::any(match rule.action {
                FilterAction::Accept => Action::Accept,
                FilterAction::Reject => Action::Reject,
            })
        };
        let mut problem = |field, reason| {
            problems.push(FilterProblem::Invalid {
                filter: self.filter.to_owned(),
                list: self.list,
                index: self.index,
                field,
                reason,
            });
        };
        let mut sound = true;
        for value in rule.communities.iter().flat_map(|match_| &match_.values) {
            match community(value) {
                Ok(found) => converted.community = Some(found),
                Err(reason) => {
                    problem("communities", reason);
                    sound = false;
                }
            }
        }
        match operations(rule) {
            Ok(operations) => converted.operations = operations,
            Err(reason) => {
                problem("operations.addCommunity.value", reason);
                sound = false;
            }
        }
        if !sound {
            converted.action = Action::Reject;
            converted.operations.clear();
        }
        converted
    }
}

fn operations(rule: &ModelRule) -> Result<Vec<Operation>, String> {
    let mut operations = Vec::new();
    for operation in &rule.operations {
        if let Some(add) = &operation.add_community {
            operations.push(match community(&add.value)? {
                Community::Standard(value) => Operation::AddCommunity(value),
                Community::Large(value) => Operation::AddLargeCommunity(value),
                Community::Extended(value) => Operation::AddExtCommunity(value),
            });
        }
        if let Some(prepend) = &operation.prepend_as_path {
            let path = prepend.prefix.iter().map(|asn| asn.0).collect();
            operations.push(Operation::PrependAsPath(path));
        }
        if let Some(set) = &operation.set_priority {
            operations.push(Operation::SetPriority(set.value));
        }
    }
    Ok(operations)
}

/// A community as BGP has it, or what is wrong with the text.
pub(super) fn community(text: &str) -> Result<Community, String> {
    let parsed = text.parse::<community::Community>();
    let parsed = parsed.map_err(|error| error.to_string())?;
    Ok(match parsed {
        community::Community::Standard(a, b) => {
            Community::Standard(u32::from(a) << 16 | u32::from(b))
        }
        community::Community::Large(a, b, c) => Community::Large([a, b, c]),
    })
}
