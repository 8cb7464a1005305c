//! BGPFilters that a peer names, as rules of the speaker.

use margay_bgp::prefix::Prefix;
use margay_model::any::AnyResource;
use margay_model::bgp_filter::{
    FilterAction, FilterRule as ModelRule, MatchOperator, PeerType, RouteSource,
};
use margay_model::kind::{Kind, ResourceKey};
use margay_speaker::{Action, FilterRule, Operation, Operator, RouteOrigin};

use super::speaker::prefix;
use crate::graph::Cache;

/// Rules in order, of all filters that a peer names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) import: Vec<FilterRule>,
    pub(super) export: Vec<FilterRule>,
}

/// A filter that cannot be used. Its peer is left out: a session without its filters could leak.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterProblem {
    #[error("BGPFilter {0} does not exist")]
    Missing(String),
    #[error("BGPFilter {filter}: {list}[{index}].{field} is not supported by this release")]
    Unsupported {
        filter: String,
        list: &'static str,
        index: usize,
        field: &'static str,
    },
    #[error("BGPFilter {filter}: {list}[{index}].{field} is {found}, must be {allowed}")]
    Invalid {
        filter: String,
        list: &'static str,
        index: usize,
        field: &'static str,
        found: String,
        allowed: &'static str,
    },
}

/// The rules of the filters of these names, in order.
pub(super) fn named(cache: &Cache, names: &[String]) -> Result<Named, FilterProblem> {
    let mut all = Named::default();
    for name in names {
        let key = ResourceKey::global(Kind::BgpFilter, name.clone());
        let Some(AnyResource::BgpFilter(filter)) = cache.get(&key) else {
            return Err(FilterProblem::Missing(name.clone()));
        };
        let spec = &filter.spec;
        all.import
            .extend(list(name, "importV4", &spec.import_v4, true)?);
        all.import
            .extend(list(name, "importV6", &spec.import_v6, false)?);
        all.export
            .extend(list(name, "exportV4", &spec.export_v4, true)?);
        all.export
            .extend(list(name, "exportV6", &spec.export_v6, false)?);
    }
    Ok(all)
}

fn list(
    filter: &str,
    list: &'static str,
    rules: &[ModelRule],
    v4: bool,
) -> Result<Vec<FilterRule>, FilterProblem> {
    let convert = |(index, rule)| {
        Place {
            filter,
            list,
            index,
        }
        .convert(rule, v4)
    };
    rules.iter().enumerate().map(convert).collect()
}

struct Place<'a> {
    filter: &'a str,
    list: &'static str,
    index: usize,
}

impl Place<'_> {
    fn convert(&self, rule: &ModelRule, v4: bool) -> Result<FilterRule, FilterProblem> {
        let unsupported = [
            ("interface", rule.interface.is_some()),
            ("communities", rule.communities.is_some()),
            ("asPathPrefix", !rule.as_path_prefix.is_empty()),
            ("priority", rule.priority.is_some()),
        ];
        if let Some((field, _)) = unsupported.into_iter().find(|(_, used)| *used) {
            return Err(self.unsupported(field));
        }
        let everything = if v4 { "0.0.0.0/0" } else { "::/0" };
        let everything: Option<Prefix> = everything.parse().ok();
        let lengths = rule.prefix_length.as_ref();
        Ok(FilterRule {
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
            action: match rule.action {
                FilterAction::Accept => Action::Accept,
                FilterAction::Reject => Action::Reject,
            },
            operations: self.operations(rule)?,
        })
    }

    fn operations(&self, rule: &ModelRule) -> Result<Vec<Operation>, FilterProblem> {
        let mut operations = Vec::new();
        for operation in &rule.operations {
            if let Some(add) = &operation.add_community {
                operations.push(self.community(&add.value)?);
            }
            if let Some(prepend) = &operation.prepend_as_path {
                let path = prepend.prefix.iter().map(|asn| asn.0).collect();
                operations.push(Operation::PrependAsPath(path));
            }
            if operation.set_priority.is_some() {
                return Err(self.unsupported("operations.setPriority"));
            }
        }
        Ok(operations)
    }

    fn community(&self, text: &str) -> Result<Operation, FilterProblem> {
        let parts: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some([high @ 0..=0xffff, low @ 0..=0xffff]) => {
                Ok(Operation::AddCommunity(high << 16 | low))
            }
            Some([a, b, c]) => Ok(Operation::AddLargeCommunity([*a, *b, *c])),
            _ => Err(FilterProblem::Invalid {
                filter: self.filter.to_owned(),
                list: self.list,
                index: self.index,
                field: "operations.addCommunity.value",
                found: format!("{text:?}"),
                allowed: "aa:nn with 16 bits each or aa:nn:mm with 32",
            }),
        }
    }

    fn unsupported(&self, field: &'static str) -> FilterProblem {
        FilterProblem::Unsupported {
            filter: self.filter.to_owned(),
            list: self.list,
            index: self.index,
            field,
        }
    }
}
