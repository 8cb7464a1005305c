//! From one rule to the lines of one family's chain.
//!
//! A rule becomes no line (it cannot match in this family), one, or several when it holds
//! alternatives that one line cannot express. Lists of networks become sets named by their content.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use super::{
    chains::Verdicts,
    names,
    types::{Action, EntityMatch, Family, IcmpMatch, Rule, SetId, SetKind},
};

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
/// What the kernel keeps of a log prefix.
const LOG_PREFIX_LEN: usize = 29;
const COMMENT_LEN: usize = 120;

/// The lines of a chain and what they refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) lines: Vec<String>,
    /// For each line, the place of its rule in the list.
    pub(super) origins: Vec<usize>,
    /// Sets made for lists of networks, by name.
    pub(super) helpers: BTreeMap<String, Vec<IpNetwork>>,
    /// Sets of the caller.
    pub(super) sets: BTreeSet<(SetId, SetKind)>,
}

/// One way to match a list, and its opposite.
struct Alternative {
    positive: String,
    negative: String,
}

#[derive(Clone, Copy)]
enum Side {
    Src,
    Dst,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Src => "src",
            Self::Dst => "dst",
        }
    }
}

/// Renders rules in order.
pub(super) fn render(rules: &[Rule], family: Family, verdicts: &Verdicts) -> Rendered {
    let mut renderer = Renderer {
        family,
        out: Rendered::default(),
    };
    for (place, rule) in rules.iter().enumerate() {
        renderer.rule(rule, verdicts);
        let lines = renderer.out.lines.len();
        renderer.out.origins.resize(lines, place);
    }
    renderer.out
}

struct Renderer {
    family: Family,
    out: Rendered,
}

impl Renderer {
    fn rule(&mut self, rule: &Rule, verdicts: &Verdicts) {
        if rule.ip_version.is_some_and(|family| family != self.family) {
            return;
        }
        let Some(protocols) = protocols(rule, self.family) else {
            return;
        };
        let mut common = String::new();
        for (side, entity) in [(Side::Src, &rule.src), (Side::Dst, &rule.dst)] {
            let Some(matches) = self.entity(side, entity) else {
                return;
            };
            common.push_str(&matches);
        }
        let target = target(&rule.action, verdicts);
        let comment = rule.comment.as_deref().map(|text| clean(text, COMMENT_LEN));
        let comment = comment.map(|text| format!("{text}\t")).unwrap_or_default();
        let disjoint = matches!(rule.action, Action::Log { .. } | Action::CountAndGoOn);
        for protocol in protocols {
            let from = self.ports(Side::Src, &rule.src, protocol.number, disjoint);
            let to = self.ports(Side::Dst, &rule.dst, protocol.number, disjoint);
            for src in &from {
                for dst in &to {
                    let line = format!("{comment}{}{src}{dst}{common}{target}", protocol.text);
                    self.out.lines.push(line);
                }
            }
        }
    }

    /// Matches on the address of one side; `None` when nothing can match.
    fn entity(&mut self, side: Side, entity: &EntityMatch) -> Option<String> {
        let nets = self.own_family(&entity.nets)?;
        let not_nets = self.own_family(&entity.not_nets)?;
        if not_nets.iter().any(|net| net.prefix() == 0) {
            return None;
        }
        let mut text = String::new();
        let everything = nets.iter().any(|net| net.prefix() == 0);
        let nets = if everything { Vec::new() } else { nets };
        let one_net_only = nets.is_empty() || not_nets.is_empty();
        text.push_str(&self.nets(side, "", &nets, one_net_only));
        text.push_str(&self.nets(side, "! ", &not_nets, one_net_only));
        for (sets, kind, not) in [
            (&entity.sets, SetKind::Nets, ""),
            (&entity.not_sets, SetKind::Nets, "! "),
            (&entity.port_sets, SetKind::NetPorts, ""),
            (&entity.not_named_ports, SetKind::NetPorts, "! "),
        ] {
            for id in sets {
                text.push_str(&self.set(side, not, id, kind));
            }
        }
        Some(text)
    }

    /// Networks of this family; `None` when there are only others.
    fn own_family(&self, nets: &[IpNetwork]) -> Option<Vec<IpNetwork>> {
        let own = nets.iter().filter(|net| Family::of(net) == self.family);
        let mut own: Vec<IpNetwork> = own.filter_map(network).collect();
        own.sort_unstable();
        own.dedup();
        (nets.is_empty() || !own.is_empty()).then_some(own)
    }

    fn nets(&mut self, side: Side, not: &str, nets: &[IpNetwork], plain: bool) -> String {
        let option = match side {
            Side::Src => "-s",
            Side::Dst => "-d",
        };
        match nets {
            [] => String::new(),
            [net] if plain => format!("{not}{option} {net} "),
            _ => {
                let content = nets
                    .iter()
                    .map(IpNetwork::to_string)
                    .collect::<Vec<_>>()
                    .join(" ");
                let name = names::helper_set(self.family, &content);
                let text = format!("-m set {not}--match-set {name} {} ", side.word());
                self.out.helpers.insert(name, nets.to_vec());
                text
            }
        }
    }

    fn set(&mut self, side: Side, not: &str, id: &SetId, kind: SetKind) -> String {
        self.out.sets.insert((id.clone(), kind));
        let name = names::user_set(self.family, id, kind);
        let word = side.word();
        match kind {
            SetKind::Nets => format!("-m set {not}--match-set {name} {word} "),
            SetKind::NetPorts => format!("-m set {not}--match-set {name} {word},{word} "),
        }
    }

    /// The alternatives of one side's ports, each a run of matches.
    fn ports(
        &mut self,
        side: Side,
        entity: &EntityMatch,
        protocol: Option<u8>,
        disjoint: bool,
    ) -> Vec<String> {
        let mut common = String::new();
        for chunk in port_matches(side, &entity.not_ports, protocol) {
            common.push_str(&chunk.negative);
        }
        let mut alternatives = port_matches(side, &entity.ports, protocol);
        for id in &entity.named_ports {
            alternatives.push(Alternative {
                positive: self.set(side, "", id, SetKind::NetPorts),
                negative: self.set(side, "! ", id, SetKind::NetPorts),
            });
        }
        if alternatives.is_empty() {
            return vec![common];
        }
        let mut lines = Vec::with_capacity(alternatives.len());
        for alternative in alternatives {
            lines.push(format!("{common}{}", alternative.positive));
            if disjoint {
                common.push_str(&alternative.negative);
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
    text: String,
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
            text: protocol_text(rule, family, number),
        })
        .collect();
    (!matches.is_empty()).then_some(matches)
}

fn protocol_text(rule: &Rule, family: Family, number: Option<u8>) -> String {
    let mut text = match (number, rule.not_protocol) {
        (Some(number), _) => format!("-p {number} "),
        // "not protocol 0" holds for every packet, and iptables refuses it.
        (None, Some(excluded)) if excluded != 0 => format!("! -p {excluded} "),
        (None, _) => String::new(),
    };
    for (icmp, not) in [(rule.icmp, ""), (rule.not_icmp, "! ")] {
        if let Some(icmp) = icmp {
            text.push_str(&icmp_text(family, not, icmp));
        }
    }
    text
}

fn icmp_text(family: Family, not: &str, icmp: IcmpMatch) -> String {
    let code = icmp.code.map(|code| format!("/{code}")).unwrap_or_default();
    let option = match family {
        Family::V4 => ("icmp", "--icmp-type"),
        Family::V6 => ("icmp6", "--icmpv6-type"),
    };
    format!(
        "-m {} {not}{} {}{code} ",
        option.0, option.1, icmp.icmp_type
    )
}

type PortRange = std::ops::RangeInclusive<u16>;

/// Ports in as few matches as possible.
fn port_matches(side: Side, ports: &[PortRange], protocol: Option<u8>) -> Vec<Alternative> {
    let option = match side {
        Side::Src => "sport",
        Side::Dst => "dport",
    };
    let slots = |range: &PortRange| if range.start() == range.end() { 1 } else { 2 };
    let mut chunks: Vec<(usize, Vec<&PortRange>)> = Vec::new();
    for range in ports {
        match chunks.last_mut() {
            Some((used, chunk)) if *used + slots(range) <= MULTIPORT_SLOTS => {
                *used += slots(range);
                chunk.push(range);
            }
            _ => chunks.push((slots(range), vec![range])),
        }
    }
    let native = match protocol {
        Some(TCP) => Some("tcp"),
        Some(UDP) => Some("udp"),
        _ => None,
    };
    let text = |not: &str, chunk: &[&PortRange]| {
        let list = chunk
            .iter()
            .map(|range| port_text(range))
            .collect::<Vec<_>>()
            .join(",");
        match native.filter(|_| chunk.len() == 1) {
            Some(module) => format!("-m {module} {not}--{option} {list} "),
            None => format!("-m multiport {not}--{option}s {list} "),
        }
    };
    let alternative = |(_, chunk): (usize, Vec<&PortRange>)| Alternative {
        positive: text("", &chunk),
        negative: text("! ", &chunk),
    };
    chunks.into_iter().map(alternative).collect()
}

fn port_text(range: &PortRange) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}:{}", range.start(), range.end())
    }
}

fn target(action: &Action, verdicts: &Verdicts) -> String {
    match action {
        Action::Allow => verdicts.accept.clone(),
        Action::Pass => verdicts.pass.clone(),
        Action::Deny => verdicts.deny.to_owned(),
        Action::CountAndStop => "-j RETURN".to_owned(),
        Action::CountAndGoOn => String::new(),
        Action::Log { prefix } if prefix.is_empty() => "-j LOG".to_owned(),
        Action::Log { prefix } => {
            format!("-j LOG --log-prefix \"{}\"", clean(prefix, LOG_PREFIX_LEN))
        }
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
