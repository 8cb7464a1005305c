//! Neighbouring rules that one rule can stand for are joined.
//!
//! They do the same and differ in one list alone, of networks or of ports; the joined rule has both lists,
//! so it matches exactly what one of them matches, and as no rule stands between them the order is as
//! before. It keeps them as its parts: which rule of the resource matched a packet is still known. What is
//! lost is that each is counted by itself; a rule with annotations is somebody's own, and stays alone.
//! Log rules stay alone as well: a packet that two of them match is logged twice.

use margay_model::net::Cidr;

use crate::program::{Action, IpVersion, Rule, SideMatch};

/// The rules with neighbours joined wherever that is possible.
pub(super) fn merge(rules: Vec<Rule>) -> Vec<Rule> {
    let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
    for mut rule in rules {
        // What is joined may in turn be joined with the one before it.
        while let Some(difference) = kept.last().and_then(|last| only_difference(last, &rule))
            && let Some(last) = kept.pop()
        {
            rule = joined(last, rule, difference);
        }
        kept.push(rule);
    }
    kept
}

/// A list that two rules may differ in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Nets,
    /// Numbers and names.
    Ports,
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn side(rule: &Rule, side: Side) -> &SideMatch {
    match side {
        Side::Source => &rule.source,
        Side::Destination => &rule.destination,
    }
}

fn side_mut(rule: &mut Rule, side: Side) -> &mut SideMatch {
    match side {
        Side::Source => &mut rule.source,
        Side::Destination => &mut rule.destination,
    }
}

/// One rule for both.
fn joined(mut first: Rule, mut second: Rule, (at, list): (Side, List)) -> Rule {
    let mut parts = take_parts(&mut first);
    parts.extend(take_parts(&mut second));
    match list {
        List::Ports => {
            let (to, from) = (side_mut(&mut first, at), side(&second, at));
            add(&mut to.ports, &from.ports);
            add(&mut to.named_ports, &from.named_ports);
        }
        List::Nets => {
            if first.ip_version != second.ip_version {
                // Each list goes on to count for its rule's family alone.
                for rule in [&mut first, &mut second] {
                    let version = rule.ip_version.take();
                    let counts =
                        |net: &Cidr| version.is_none_or(|v| v == IpVersion::of(net.addr()));
                    side_mut(rule, at).nets.retain(counts);
                }
            }
            add(&mut side_mut(&mut first, at).nets, &side(&second, at).nets);
        }
    }
    first.parts = parts;
    first
}

fn take_parts(rule: &mut Rule) -> Vec<Rule> {
    let parts = std::mem::take(&mut rule.parts);
    match parts.is_empty() {
        true => vec![rule.clone()],
        false => parts,
    }
}

fn add<T: Clone + PartialEq>(list: &mut Vec<T>, more: &[T]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// The list that two rules differ in, if that is all and if both have something in it: an empty one means
/// that any will do.
fn only_difference(a: &Rule, b: &Rule) -> Option<(Side, List)> {
    let same_kind = a.action == b.action
        && a.action != Action::Log
        && a.protocol == b.protocol
        && a.not_protocol == b.not_protocol
        && a.icmp == b.icmp
        && a.not_icmp == b.not_icmp
        && a.annotations.is_empty()
        && b.annotations.is_empty();
    if !same_kind {
        return None;
    }
    let (at, list) = match (a.source == b.source, a.destination == b.destination) {
        (false, true) => (Side::Source, list_that_differs(&a.source, &b.source)?),
        (true, false) => (
            Side::Destination,
            list_that_differs(&a.destination, &b.destination)?,
        ),
        _ => return None,
    };
    (a.ip_version == b.ip_version || list == List::Nets).then_some((at, list))
}

fn list_that_differs(a: &SideMatch, b: &SideMatch) -> Option<List> {
    let same_rest = a.not_nets == b.not_nets
        && a.sets == b.sets
        && a.not_sets == b.not_sets
        && a.not_ports == b.not_ports
        && a.not_named_ports == b.not_named_ports;
    let same_ports = a.ports == b.ports && a.named_ports == b.named_ports;
    let any_port = |side: &SideMatch| side.ports.is_empty() && side.named_ports.is_empty();
    match (a.nets == b.nets, same_ports) {
        _ if !same_rest => None,
        (false, true) if !a.nets.is_empty() && !b.nets.is_empty() => Some(List::Nets),
        (true, false) if !any_port(a) && !any_port(b) => Some(List::Ports),
        _ => None,
    }
}
