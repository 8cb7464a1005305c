//! Who is in which set: members of the caller's sets, of groups, and of the set of all workloads.

use std::collections::HashMap;

use super::{
    names,
    types::{Endpoint, Family, SetKind, SetMember, TierDefault},
};
use crate::ipset::{Entry, IfName, SetType, storable};

/// Counts one more holder of an entry; true for the first.
pub(super) fn hold_one(counts: &mut HashMap<Entry, u32>, entry: &Entry) -> bool {
    let count = counts.entry(*entry).or_default();
    *count += 1;
    *count == 1
}

/// Counts one holder less; true for the last.
pub(super) fn release_one(counts: &mut HashMap<Entry, u32>, entry: &Entry) -> bool {
    let Some(count) = counts.get_mut(entry) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(entry);
    }
    last
}

/// The kernel's type for a kind of set.
pub(super) fn set_type(kind: SetKind) -> SetType {
    match kind {
        SetKind::Nets => SetType::Net,
        SetKind::NetPorts => SetType::NetPort,
    }
}

/// What a member becomes in the kernel set of one family.
pub(super) fn entries(kind: SetKind, member: &SetMember, family: Family) -> Vec<Entry> {
    match (kind, *member) {
        (SetKind::Nets, SetMember::Net(net)) if Family::of(&net) == family => {
            storable(net).map(Entry::Net).collect()
        }
        (SetKind::NetPorts, SetMember::NetPort(net, protocol, port))
            if Family::of(&net) == family =>
        {
            storable(net)
                .map(|net| Entry::NetPort(net, protocol, port))
                .collect()
        }
        (SetKind::Nets, SetMember::NetPort(..)) | (SetKind::NetPorts, SetMember::Net(_)) => {
            tracing::warn!(?member, ?kind, "set member of the wrong shape ignored");
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// An endpoint that is down is in no set: nothing comes from it and nothing goes to it.
pub(super) fn member_entries(endpoint: &Endpoint, families: &[Family]) -> Vec<Entry> {
    let Some(ifname) = IfName::new(&endpoint.ifname).filter(|_| endpoint.admin_up) else {
        return Vec::new();
    };
    let nets = endpoint
        .addresses
        .iter()
        .chain(&endpoint.allowed_source_prefixes);
    let own = nets.filter(|net| families.contains(&Family::of(net)));
    let mut entries: Vec<Entry> = own
        .flat_map(|net| storable(*net))
        .map(|net| Entry::NetIface(net, ifname))
        .collect();
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// The name of the group that an endpoint belongs to: the hash of all that decides its chains.
pub(super) fn group_name(endpoint: &Endpoint) -> String {
    let mut text = String::new();
    for (word, direction) in [("ingress", &endpoint.ingress), ("egress", &endpoint.egress)] {
        text.push_str(word);
        text.push('\n');
        for tier in direction
            .tiers
            .iter()
            .filter(|tier| !tier.policies.is_empty())
        {
            let default = match tier.default_action {
                TierDefault::Deny => "deny",
                TierDefault::Pass => "pass",
                TierDefault::WouldDeny => "would deny",
            };
            text.push_str(&format!("tier {:?} {default}\n", tier.name));
            for policy in &tier.policies {
                text.push_str(&format!("policy {:?}\n", policy.as_str()));
            }
        }
    }
    for profile in &endpoint.profiles {
        text.push_str(&format!("profile {:?}\n", profile.as_str()));
    }
    names::short_hash(&text)
}
