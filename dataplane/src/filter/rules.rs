//! From one rule to the lines of one family's chain.
//!
//! A rule becomes no line (it cannot match in this family), one, or several when it holds
//! alternatives that one line cannot express. Lists of networks become sets named by their content.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use super::{
    label::{Cause, Label, Verdict, name_of},
    members::set_type,
    names::{self, Way},
    program::{Line, Match, Side, Target},
    state::RulesId,
    types::{Action, EntityMatch, Family, Rule, SetId, SetKind},
    verdicts::Verdicts,
};
use crate::ipset::SetType;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;
/// What a rule with ports but without protocol applies to.
const PORT_PROTOCOLS: [u8; 4] = [TCP, UDP, SCTP, UDPLITE];
/// Ports in one multiport match; a range takes two.
const MULTIPORT_SLOTS: usize = 15;
const COMMENT_LEN: usize = 120;

/// The lines of a chain and what they refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) lines: Vec<Line>,
    /// For each line, the place of the rule in the list that it counts for.
    pub(super) origins: Vec<Option<usize>>,
    /// Sets made for lists of networks, by name.
    pub(super) helpers: BTreeMap<String, Vec<IpNetwork>>,
    /// Sets of the caller.
    pub(super) sets: BTreeSet<(SetId, SetKind)>,
}

/// One way to match a list, and its opposite.
struct Alternative {
    positive: Match,
    negative: Match,
}

/// Renders rules in order; `id` and `way` say whose.
pub(super) fn render(
    rules: &[Rule],
    (id, way): (&RulesId, Way),
    family: Family,
    verdicts: &Verdicts,
) -> Rendered {
    let mut renderer = Renderer {
        family,
        out: Rendered::default(),
    };
    for (place, rule) in rules.iter().enumerate() {
        let label = |verdict| {
            let rule = rule.place.unwrap_or(place);
            let cause = match id {
                RulesId::Policy(id) => Cause::Policy {
                    name: name_of(id.as_str()),
                    rule,
                },
                RulesId::Profile(id) => Cause::Profile {
                    name: name_of(id.as_str()),
                    rule,
                },
            };
            Label::new(verdict, way, cause)
        };
        let logged = match rule.action {
            Action::Allow => Some(Verdict::Allow),
            Action::Deny => Some(Verdict::Deny),
            Action::Log => Some(Verdict::Log),
            Action::CountAndStop(would_be) => would_be.map(Verdict::if_enforced),
            Action::Pass | Action::CountAndGoOn => None,
        };
        let logged = logged.and_then(|verdict| verdicts.log(&label(verdict)));
        renderer.rule(rule, place, verdicts, logged);
    }
    renderer.out
}

struct Renderer {
    family: Family,
    out: Rendered,
}

impl Renderer {
    fn rule(&mut self, rule: &Rule, place: usize, verdicts: &Verdicts, logged: Option<Target>) {
        if rule.ip_version.is_some_and(|family| family != self.family) {
            return;
        }
        let Some(protocols) = protocols(rule, self.family) else {
            return;
        };
        let mut common = Vec::new();
        for (side, entity) in [(Side::Src, &rule.src), (Side::Dst, &rule.dst)] {
            let Some(matches) = self.entity(side, entity) else {
                return;
            };
            common.extend(matches);
        }
        let target = target(&rule.action, verdicts);
        let note = rule.comment.as_deref().map(|text| clean(text, COMMENT_LEN));
        let note = note.unwrap_or_default();
        let disjoint = matches!(rule.action, Action::Log | Action::CountAndGoOn);
        for protocol in protocols {
            let from = self.ports(Side::Src, &rule.src, protocol.number, disjoint);
            let to = self.ports(Side::Dst, &rule.dst, protocol.number, disjoint);
            for src in &from {
                for dst in &to {
                    let matches = [&protocol.matches, src, dst, &common];
                    let matches: Vec<Match> = matches.into_iter().flatten().cloned().collect();
                    // What is handed up is limited, so it is a line of its own that counts for nothing.
                    if let Some(target) = &logged {
                        self.out.origins.push(None);
                        let line = Line::new(matches.clone(), target.clone());
                        self.out.lines.push(line);
                    }
                    self.out.origins.push(Some(place));
                    let line = Line::new(matches, target.clone());
                    self.out.lines.push(line.noted(note.clone()));
                }
            }
        }
    }

    /// Matches on the address of one side; `None` when nothing can match.
    fn entity(&mut self, side: Side, entity: &EntityMatch) -> Option<Vec<Match>> {
        let nets = self.own_family(&entity.nets)?;
        let not_nets = self.own_family(&entity.not_nets)?;
        if not_nets.iter().any(|net| net.prefix() == 0) {
            return None;
        }
        let mut matches = Vec::new();
        let everything = nets.iter().any(|net| net.prefix() == 0);
        let nets = if everything { Vec::new() } else { nets };
        let one_net_only = nets.is_empty() || not_nets.is_empty();
        matches.extend(self.nets(side, false, &nets, one_net_only));
        matches.extend(self.nets(side, true, &not_nets, one_net_only));
        for (sets, kind, not) in [
            (&entity.sets, SetKind::Nets, false),
            (&entity.not_sets, SetKind::Nets, true),
            (&entity.port_sets, SetKind::NetPorts, false),
            (&entity.not_named_ports, SetKind::NetPorts, true),
        ] {
            for id in sets {
                matches.push(self.set(side, not, id, kind));
            }
        }
        Some(matches)
    }

    /// Networks of this family; `None` when there are only others.
    fn own_family(&self, nets: &[IpNetwork]) -> Option<Vec<IpNetwork>> {
        let own = nets.iter().filter(|net| Family::of(net) == self.family);
        let mut own: Vec<IpNetwork> = own.filter_map(network).collect();
        own.sort_unstable();
        own.dedup();
        (nets.is_empty() || !own.is_empty()).then_some(own)
    }

    fn nets(&mut self, side: Side, not: bool, nets: &[IpNetwork], plain: bool) -> Option<Match> {
        match nets {
            [] => None,
            [net] if plain => Some(Match::Net {
                side,
                not,
                net: *net,
            }),
            _ => {
                let content = nets
                    .iter()
                    .map(IpNetwork::to_string)
                    .collect::<Vec<_>>()
                    .join(" ");
                let name = names::helper_set(self.family, &content);
                self.out.helpers.insert(name.clone(), nets.to_vec());
                Some(Match::Set {
                    side,
                    not,
                    name,
                    set_type: SetType::Net,
                })
            }
        }
    }

    fn set(&mut self, side: Side, not: bool, id: &SetId, kind: SetKind) -> Match {
        self.out.sets.insert((id.clone(), kind));
        Match::Set {
            side,
            not,
            name: names::user_set(self.family, id, kind),
            set_type: set_type(kind),
        }
    }

    /// The alternatives of one side's ports, each a run of matches.
    fn ports(
        &mut self,
        side: Side,
        entity: &EntityMatch,
        protocol: Option<u8>,
        disjoint: bool,
    ) -> Vec<Vec<Match>> {
        let excluded = port_matches(side, &entity.not_ports, protocol).into_iter();
        let mut common: Vec<Match> = excluded.map(|chunk| chunk.negative).collect();
        let mut alternatives = port_matches(side, &entity.ports, protocol);
        for id in &entity.named_ports {
            alternatives.push(Alternative {
                positive: self.set(side, false, id, SetKind::NetPorts),
                negative: self.set(side, true, id, SetKind::NetPorts),
            });
        }
        if alternatives.is_empty() {
            return vec![common];
        }
        let mut lines = Vec::with_capacity(alternatives.len());
        for alternative in alternatives {
            let mut line = common.clone();
            line.push(alternative.positive);
            lines.push(line);
            if disjoint {
                common.push(alternative.negative);
            }
        }
        lines
    }
}

fn network(net: &IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(net.network(), net.prefix()).ok()
}

struct ProtocolMatch {
    number: Option<u8>,
    matches: Vec<Match>,
}

/// The protocols that a rule is written for; `None` when none can match.
fn protocols(rule: &Rule, family: Family) -> Option<Vec<ProtocolMatch>> {
    let has_numbers = |e: &EntityMatch| !e.ports.is_empty() || !e.not_ports.is_empty();
    let numbered = has_numbers(&rule.src) || has_numbers(&rule.dst);
    let icmp = match family {
        Family::V4 => ICMP,
        Family::V6 => ICMPV6,
    };
    let wants_icmp = rule.icmp.is_some() || rule.not_icmp.is_some();
    let candidates: Vec<Option<u8>> = match (rule.protocol, wants_icmp, numbered) {
        (Some(number), true, _) if number != icmp => return None,
        (_, true, true) => return None,
        (_, true, false) => vec![Some(icmp)],
        (Some(number), _, true) if !PORT_PROTOCOLS.contains(&number) => return None,
        (Some(number), ..) => vec![Some(number)],
        (None, _, true) => PORT_PROTOCOLS.map(Some).to_vec(),
        (None, _, false) => vec![None],
    };
    // iptables reads protocol 0 and ICMP type 255 as "any": only a denial may be that wide.
    let any_type = rule.icmp.is_some_and(|m| m.icmp_type == u8::MAX);
    if (rule.protocol == Some(0) || any_type) && rule.action != Action::Deny {
        return None;
    }
    let excluded = rule.not_protocol;
    let kept = candidates
        .into_iter()
        .filter(|number| number.is_none() || *number != excluded);
    let matches: Vec<ProtocolMatch> = kept
        .map(|number| ProtocolMatch {
            number,
            matches: protocol_match(rule, number),
        })
        .collect();
    (!matches.is_empty()).then_some(matches)
}

fn protocol_match(rule: &Rule, number: Option<u8>) -> Vec<Match> {
    let mut matches = Vec::new();
    matches.extend(match (number, rule.not_protocol) {
        (Some(number), _) => Some(Match::Protocol { not: false, number }),
        (None, Some(number)) => Some(Match::Protocol { not: true, number }),
        (None, None) => None,
    });
    for (icmp, not) in [(rule.icmp, false), (rule.not_icmp, true)] {
        matches.extend(icmp.map(|icmp| Match::Icmp {
            not,
            icmp_type: icmp.icmp_type,
            code: icmp.code,
        }));
    }
    matches
}

type PortRange = std::ops::RangeInclusive<u16>;

/// Ports in as few matches as possible. A rule without a protocol has none.
fn port_matches(side: Side, ports: &[PortRange], protocol: Option<u8>) -> Vec<Alternative> {
    let Some(protocol) = protocol else {
        return Vec::new();
    };
    let slots = |range: &PortRange| if range.start() == range.end() { 1 } else { 2 };
    let mut chunks: Vec<(usize, Vec<PortRange>)> = Vec::new();
    for range in ports {
        match chunks.last_mut() {
            Some((used, chunk)) if *used + slots(range) <= MULTIPORT_SLOTS => {
                *used += slots(range);
                chunk.push(range.clone());
            }
            _ => chunks.push((slots(range), vec![range.clone()])),
        }
    }
    let ports = |not: bool, ranges: Vec<PortRange>| Match::Ports {
        side,
        not,
        protocol,
        ranges,
    };
    let alternative = |(_, chunk): (usize, Vec<PortRange>)| Alternative {
        positive: ports(false, chunk.clone()),
        negative: ports(true, chunk),
    };
    chunks.into_iter().map(alternative).collect()
}

fn target(action: &Action, verdicts: &Verdicts) -> Target {
    match action {
        Action::Allow => verdicts.accept.clone(),
        Action::Pass => verdicts.pass.clone(),
        Action::Deny => verdicts.deny.clone(),
        Action::CountAndStop(_) => verdicts.staged.clone(),
        Action::CountAndGoOn | Action::Log => Target::Next,
    }
}

/// Text that needs no quoting in any of iptables' formats.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '.' | '/' | '_' | ':' | '-' | '=' | ',' => c,
        _ => '_',
    };
    text.chars().take(limit).map(plain).collect()
}
