//! The fixed chains, the chains of groups, and the dispatch to them.
//!
//! A verdict is carried in two mark bits: *accept* (the endpoint's policy accepts) and *pass* (leave
//! the tier). The rules of policies `goto` a chain that sets the bit and thereby return to the
//! group's chain, which looks at the bits after each policy.

use super::{
    names::{self, Way},
    types::{DenyAction, Direction, Family, Globals, HostAction, ProfileId, TierDefault},
};
use crate::iptables::{Rank, Table};

const ACCEPT_CHAIN: &str = "mgy-accept";
const PASS_CHAIN: &str = "mgy-pass";
const WORKLOAD_TO_HOST: &str = "mgy-wl-host";

/// ICMPv6 that a workload may send from a link-local or no address: neighbour and router
/// solicitation, neighbour advertisement, multicast listener reports. Not router advertisement.
const LINK_LOCAL_ICMPV6: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];

/// Ends of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub(super) accept: String,
    pub(super) pass: String,
    pub(super) deny: &'static str,
    accept_bit: u32,
    pass_bit: u32,
}

impl Verdicts {
    pub(super) fn new(globals: &Globals) -> Self {
        let accept_bit = lowest_bit(globals.mark_mask);
        Self {
            accept: format!("-g {ACCEPT_CHAIN}"),
            pass: format!("-g {PASS_CHAIN}"),
            deny: match globals.deny_action {
                DenyAction::Drop => "-j DROP",
                DenyAction::Reject => "-j REJECT",
            },
            accept_bit,
            pass_bit: lowest_bit(globals.mark_mask & !accept_bit),
        }
    }

    /// For tables in which nothing can be rejected.
    pub(super) fn early(&self) -> Self {
        Self {
            deny: "-j DROP",
            ..self.clone()
        }
    }

    /// Forgets verdicts.
    pub(super) fn clear_both(&self) -> String {
        self.clear(self.accept_bit | self.pass_bit)
    }

    /// `then` for what has been accepted.
    pub(super) fn if_accepted(&self, then: &str) -> String {
        format!("-m mark --mark {0:#x}/{0:#x} {then}", self.accept_bit)
    }

    /// The chains that policies of a table end in.
    pub(super) fn chains(&self, table: Table) -> [ChainText; 2] {
        [(ACCEPT_CHAIN, self.accept_bit), (PASS_CHAIN, self.pass_bit)].map(|(name, bit)| {
            ChainText {
                table,
                name: name.to_owned(),
                rank: Rank::Verdict,
                lines: vec![Self::set(bit)],
            }
        })
    }

    fn set(bit: u32) -> String {
        format!("-j MARK --set-xmark {bit:#x}/{bit:#x}")
    }

    fn clear(&self, bits: u32) -> String {
        format!("-j MARK --set-xmark 0x0/{bits:#x}")
    }

    fn unless_passed(&self) -> String {
        format!("-m mark --mark 0x0/{:#x} ", self.pass_bit)
    }
}

fn lowest_bit(mask: u32) -> u32 {
    mask & mask.wrapping_neg()
}

/// A chain to be programmed.
pub(super) struct ChainText {
    pub(super) table: Table,
    pub(super) name: String,
    pub(super) rank: Rank,
    pub(super) lines: Vec<String>,
}

/// Chains of others, by table, with the chain of ours that they jump to.
pub(super) const HOOKS: [(Table, &str, &str); 5] = [
    (Table::Raw, "PREROUTING", "mgy-PREROUTING"),
    (Table::Filter, "INPUT", "mgy-INPUT"),
    (Table::Filter, "FORWARD", "mgy-FORWARD"),
    (Table::Filter, "OUTPUT", "mgy-OUTPUT"),
    (Table::Nat, "POSTROUTING", "mgy-POSTROUTING"),
];

pub(super) fn dispatch_chain(way: Way) -> &'static str {
    match way {
        Way::Ingress => "mgy-to-wl",
        Way::Egress => "mgy-from-wl",
    }
}

/// Every chain that does not depend on policies or endpoints.
pub(super) fn fixed(globals: &Globals, verdicts: &Verdicts, family: Family) -> Vec<ChainText> {
    let chain = |table, name: &str, rank, lines| ChainText {
        table,
        name: name.to_owned(),
        rank,
        lines,
    };
    let prefix = globals.interface_prefix.as_str();
    let chains = vec![
        chain(
            Table::Raw,
            "mgy-PREROUTING",
            Rank::Base,
            prerouting(prefix, family),
        ),
        chain(
            Table::Filter,
            WORKLOAD_TO_HOST,
            Rank::Host,
            workload_to_host(globals, family),
        ),
        chain(
            Table::Filter,
            "mgy-INPUT",
            Rank::Base,
            vec![
                format!("-i {prefix}+ -g {WORKLOAD_TO_HOST}"),
                "-j mgy-host-in".to_owned(),
            ],
        ),
        chain(
            Table::Filter,
            "mgy-FORWARD",
            Rank::Base,
            forward(globals, family),
        ),
        chain(
            Table::Filter,
            "mgy-OUTPUT",
            Rank::Base,
            vec![
                format!("-o {prefix}+ -j ACCEPT"),
                "-j mgy-host-out".to_owned(),
            ],
        ),
        chain(
            Table::Nat,
            "mgy-POSTROUTING",
            Rank::Base,
            postrouting(globals, family),
        ),
    ];
    let verdicts = verdicts.chains(Table::Filter);
    verdicts.into_iter().chain(chains).collect()
}

/// Packets whose source is not the interface's own go no further.
fn prerouting(prefix: &str, family: Family) -> Vec<String> {
    let mut lines = Vec::new();
    if family == Family::V6 {
        for source in ["fe80::/10", "::/128"] {
            for icmp in LINK_LOCAL_ICMPV6 {
                let icmp = format!("-p 58 -m icmp6 --icmpv6-type {icmp}");
                lines.push(format!("-i {prefix}+ -s {source} {icmp} -j RETURN"));
            }
        }
    }
    if family == Family::V4 {
        lines.push(format!("-i {prefix}+ {TO_DHCP_SERVER} -j RETURN"));
    }
    let known = names::workload_set(family);
    lines.push(format!(
        "not from this workload\t-i {prefix}+ -m set ! --match-set {known} src,src -j DROP"
    ));
    lines.push(format!("-i {prefix}+ -j RETURN"));
    lines.push("-j mgy-host-in".to_owned());
    lines
}

/// A container whose IPAM plugin speaks DHCP has no address yet, nor an endpoint with a policy.
const TO_DHCP_SERVER: &str =
    "-s 0.0.0.0/32 -d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67";

pub(super) const ESTABLISHED: &str = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
pub(super) const INVALID: &str = "-m conntrack --ctstate INVALID -j DROP";

fn forward(globals: &Globals, family: Family) -> Vec<String> {
    let prefix = globals.interface_prefix.as_str();
    let known = names::workload_set(family);
    let mut lines = vec![
        format!("no such workload\t-o {prefix}+ -m set ! --match-set {known} dst,dst -j DROP"),
        format!("-i {prefix}+ {ESTABLISHED}"),
        format!("-o {prefix}+ {ESTABLISHED}"),
    ];
    if !globals.disable_conntrack_invalid {
        lines.push(format!("-i {prefix}+ {INVALID}"));
        lines.push(format!("-o {prefix}+ {INVALID}"));
    }
    lines.push("-j mgy-hfwd-in".to_owned());
    lines.push(format!("-i {prefix}+ -j {}", dispatch_chain(Way::Egress)));
    lines.push(format!("-o {prefix}+ -j {}", dispatch_chain(Way::Ingress)));
    lines.push("-j mgy-hfwd-out".to_owned());
    lines.push(format!("-i {prefix}+ -j ACCEPT"));
    lines.push(format!("-o {prefix}+ -j ACCEPT"));
    lines
}

fn workload_to_host(globals: &Globals, family: Family) -> Vec<String> {
    let mut lines = vec![ESTABLISHED.to_owned()];
    if family == Family::V6 {
        let accept = |icmp| format!("-p 58 -m icmp6 --icmpv6-type {icmp} -j ACCEPT");
        lines.extend(LINK_LOCAL_ICMPV6.map(accept));
    }
    if family == Family::V4 {
        lines.push(format!("{TO_DHCP_SERVER} -j ACCEPT"));
    }
    if !globals.disable_conntrack_invalid {
        lines.push(INVALID.to_owned());
    }
    lines.push(format!("-j {}", dispatch_chain(Way::Egress)));
    lines.push(match globals.endpoint_to_host {
        HostAction::Drop => "-j DROP".to_owned(),
        HostAction::Return => "-j RETURN".to_owned(),
        HostAction::Accept => "-j ACCEPT".to_owned(),
    });
    lines
}

fn postrouting(globals: &Globals, family: Family) -> Vec<String> {
    let target = match family {
        Family::V4 => globals.nat_outgoing_v4.map(|a| a.to_string()),
        Family::V6 => globals.nat_outgoing_v6.map(|a| a.to_string()),
    };
    let target = match target {
        Some(address) => format!("SNAT --to-source {address}"),
        None => "MASQUERADE".to_owned(),
    };
    let (masquerade, pools) = (names::masquerade_set(family), names::pools_set(family));
    let from = format!("-m set --match-set {masquerade} src");
    vec![format!(
        "{from} -m set ! --match-set {pools} dst -j {target} --random-fully"
    )]
}

/// From an address and its interface to the group; no group, no packet.
pub(super) fn dispatch<'a>(
    way: Way,
    family: Family,
    groups: impl Iterator<Item = &'a str>,
) -> ChainText {
    let flags = match way {
        Way::Ingress => "dst,dst",
        Way::Egress => "src,src",
    };
    let to_group = |group| {
        let set = names::group_set(family, group);
        format!(
            "-m set --match-set {set} {flags} -g {}",
            names::group_chain(way, group)
        )
    };
    let mut lines: Vec<String> = groups.map(to_group).collect();
    lines.push("-j DROP".to_owned());
    let name = dispatch_chain(way).to_owned();
    ChainText {
        table: Table::Filter,
        name,
        rank: Rank::Dispatch,
        lines,
    }
}

/// All that one group of endpoints goes through in one direction: tiers, profiles, drop.
pub(super) fn group(
    way: Way,
    group: &str,
    direction: &Direction,
    profiles: &[ProfileId],
    verdicts: &Verdicts,
) -> ChainText {
    let end = WalkEnd {
        accepted: "-j RETURN".to_owned(),
        otherwise: Some(verdicts.deny.to_owned()),
    };
    let name = names::group_chain(way, group);
    ChainText {
        table: Table::Filter,
        name,
        rank: Rank::Group,
        lines: walk(way, direction, profiles, verdicts, &end),
    }
}

/// What becomes of a packet after the policies.
pub(super) struct WalkEnd {
    /// Of one that a policy or profile accepts, as soon as it does.
    pub(super) accepted: String,
    /// Of one that nothing decided; it goes on when absent.
    pub(super) otherwise: Option<String>,
}

/// The lines that ask the policies of each tier, then the profiles.
pub(super) fn walk(
    way: Way,
    direction: &Direction,
    profiles: &[ProfileId],
    verdicts: &Verdicts,
    end: &WalkEnd,
) -> Vec<String> {
    let mut lines = vec![verdicts.clear_both()];
    let mut first = true;
    for tier in direction
        .tiers
        .iter()
        .filter(|tier| !tier.policies.is_empty())
    {
        if !std::mem::take(&mut first) {
            lines.push(verdicts.clear(verdicts.pass_bit));
        }
        let name = super::rules::clean(&tier.name, 60);
        for (index, policy) in tier.policies.iter().enumerate() {
            // Nothing has passed before the first policy of a tier.
            let unless = if index == 0 {
                String::new()
            } else {
                verdicts.unless_passed()
            };
            let chain = names::policy_chain(way, policy);
            let title = super::rules::clean(policy.as_str(), 60);
            lines.push(format!("{title}\t{unless}-j {chain}"));
            lines.push(verdicts.if_accepted(&end.accepted));
        }
        if tier.default_action == TierDefault::Deny {
            lines.push(format!(
                "end of tier {name}\t{}{}",
                verdicts.unless_passed(),
                verdicts.deny
            ));
        }
    }
    for profile in profiles {
        let title = super::rules::clean(profile.as_str(), 60);
        lines.push(format!(
            "profile {title}\t-j {}",
            names::profile_chain(way, profile)
        ));
        lines.push(verdicts.if_accepted(&end.accepted));
    }
    let otherwise = end.otherwise.iter();
    lines.extend(otherwise.map(|target| format!("nothing allowed it\t{target}")));
    lines
}
