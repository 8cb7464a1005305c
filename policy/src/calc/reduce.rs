//! Rules that no packet can reach are left out of a program.
//!
//! What is left decides about every packet as before, by the same rule: a rule goes only if an earlier
//! one that decides matches every packet that it matches. Log rules decide nothing, so they hide nothing.

use margay_model::net::Cidr;

use crate::program::{Action, IcmpMatch, PortRange, Rule, SetId, SideMatch};

/// The rules without those that an earlier one hides; of equal ones the first stays.
pub(super) fn reduce(rules: Vec<Rule>) -> Vec<Rule> {
    let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
    for rule in rules {
        let hides = |earlier: &Rule| earlier.action != Action::Log && covers(earlier, &rule);
        if !kept.iter().any(hides) {
            kept.push(rule);
        }
    }
    kept
}

/// Whether `wide` certainly matches every packet that `narrow` matches.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    wide.ip_version.is_none_or(|v| narrow.ip_version == Some(v))
        && wide.protocol.is_none_or(|p| narrow.protocol == Some(p))
        && wide.not_protocol.is_none_or(|p| {
            narrow.not_protocol == Some(p) || narrow.protocol.is_some_and(|other| other != p)
        })
        && wide
            .icmp
            .is_none_or(|w| narrow.icmp.is_some_and(|n| icmp_within(n, w)))
        && wide.not_icmp.is_none_or(|w| {
            narrow.not_icmp.is_some_and(|n| icmp_within(w, n))
                || narrow.icmp.is_some_and(|n| icmp_apart(n, w))
        })
        && side_covers(&wide.source, &narrow.source)
        && side_covers(&wide.destination, &narrow.destination)
}

fn icmp_within(narrow: IcmpMatch, wide: IcmpMatch) -> bool {
    narrow.kind == wide.kind && (wide.code.is_none() || narrow.code == wide.code)
}

fn icmp_apart(a: IcmpMatch, b: IcmpMatch) -> bool {
    let codes_differ = matches!((a.code, b.code), (Some(a), Some(b)) if a != b);
    a.kind != b.kind || codes_differ
}

fn side_covers(wide: &SideMatch, narrow: &SideMatch) -> bool {
    nets_cover(wide, narrow)
        && all_in(&wide.sets, &narrow.sets)
        && all_in(&wide.not_sets, &narrow.not_sets)
        && ports_cover(wide, narrow)
        && all_in(&wide.not_named_ports, &narrow.not_named_ports)
}

fn all_in(some: &[SetId], all: &[SetId]) -> bool {
    some.iter().all(|id| all.contains(id))
}

fn nets_cover(wide: &SideMatch, narrow: &SideMatch) -> bool {
    let within_any = |net: &Cidr, nets: &[Cidr]| nets.iter().any(|n| n.covers(*net));
    let positive = wide.nets.is_empty()
        || (!narrow.nets.is_empty() && narrow.nets.iter().all(|net| within_any(net, &wide.nets)));
    let apart = |net: &Cidr| {
        let apart = |n: &Cidr| !net.covers(*n) && !n.covers(*net);
        !narrow.nets.is_empty() && narrow.nets.iter().all(apart)
    };
    positive
        && wide
            .not_nets
            .iter()
            .all(|net| within_any(net, &narrow.not_nets) || apart(net))
}

fn ports_cover(wide: &SideMatch, narrow: &SideMatch) -> bool {
    let any = |side: &SideMatch| side.ports.is_empty() && side.named_ports.is_empty();
    let within = |n: &PortRange, w: &PortRange| w.first <= n.first && n.last <= w.last;
    let within_any = |port: &PortRange, ports: &[PortRange]| ports.iter().any(|w| within(port, w));
    let positive = any(wide)
        || (!any(narrow)
            && narrow
                .ports
                .iter()
                .all(|port| within_any(port, &wide.ports))
            && all_in(&narrow.named_ports, &wide.named_ports));
    let apart = |port: &PortRange| {
        let apart = |n: &PortRange| n.last < port.first || port.last < n.first;
        narrow.named_ports.is_empty() && !narrow.ports.is_empty() && narrow.ports.iter().all(apart)
    };
    positive
        && wide
            .not_ports
            .iter()
            .all(|port| within_any(port, &narrow.not_ports) || apart(port))
}
