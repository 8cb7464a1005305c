//! The dispatch: from (address, interface) to the chain of the group that has it as a member.
//!
//! A rule for each group asks its set. A few have their rules in one chain. Of many, as where each workload has policies of
//! its own, a packet that opens a connection would be asked about half of them: there the last bits of its address lead
//! to a chain with the rules of those groups only that have members with such an address.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::{
    chain::{Chain, Rank},
    text,
};
use crate::filter::{
    Family,
    names::{self, Way},
    program::Body,
};

/// So many groups have their rules in one chain.
const FEW: usize = 32;
/// One byte of the address is looked at.
const MOST_CHAINS: usize = 256;

/// The chains of a way by name, where `members` tells whom a group has. The one called `first` is where packets come to.
pub(crate) fn chains<'a, M: Iterator<Item = IpNetwork>>(
    first: &str,
    way: Way,
    family: Family,
    groups: &'a [String],
    members: impl Fn(&'a str) -> M,
) -> BTreeMap<String, Chain> {
    let to_groups = |groups: Vec<String>| text::lines(&Body::Dispatch { way, groups }, family);
    if groups.len() <= FEW {
        let chain = Chain::new(first, Rank::Dispatch, &to_groups(groups.to_vec()));
        return BTreeMap::from([(first.to_owned(), chain)]);
    }
    let count = how_many(groups.len());
    let mut parts: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for group in groups {
        let mut places: Vec<usize> = members(group).flat_map(|m| places(m, count)).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            parts.entry(place).or_default().push(group.clone());
        }
    }
    let option = match way {
        Way::Ingress => "-d",
        Way::Egress => "-s",
    };
    let to_part = |place: &usize| {
        let name = names::dispatch_part(way, *place);
        let mask = count - 1;
        match family {
            Family::V4 => format!("{option} 0.0.0.{place}/0.0.0.{mask} -g {name}"),
            Family::V6 => format!("{option} ::{place:x}/::{mask:x} -g {name}"),
        }
    };
    let mut lines: Vec<String> = parts.keys().map(to_part).collect();
    lines.push("-j DROP".to_owned());
    let parts = parts.into_iter().map(|(place, groups)| {
        let name = names::dispatch_part(way, place);
        let chain = Chain::new(&name, Rank::Part, &to_groups(groups));
        (name, chain)
    });
    let first = (first.to_owned(), Chain::new(first, Rank::Dispatch, &lines));
    parts.chain([first]).collect()
}

/// A look at an address costs about an eighth of a look into a set, which makes this the least for both together.
fn how_many(groups: usize) -> usize {
    (8 * groups).isqrt().next_power_of_two().min(MOST_CHAINS)
}

/// What the last bits of the addresses of a network are, where these lead to one of so many chains.
fn places(net: IpNetwork, count: usize) -> impl Iterator<Item = usize> {
    let (last, bits) = match net {
        IpNetwork::V4(net) => (net.network().octets()[3], 32 - net.prefix()),
        IpNetwork::V6(net) => (net.network().octets()[15], 128 - net.prefix()),
    };
    let addresses = 1_usize.checked_shl(bits.into()).unwrap_or(count);
    (0..addresses.min(count)).map(move |n| (usize::from(last) + n) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(net: &str) -> IpNetwork {
        net.parse().unwrap()
    }

    #[test]
    fn a_network_has_each_of_its_last_bits_once() {
        let places = |text, count| places(net(text), count).collect::<Vec<_>>();
        assert_eq!(places("10.0.0.37/32", 16), [5]);
        assert_eq!(places("10.0.0.36/30", 16), [4, 5, 6, 7]);
        assert_eq!(places("fd00::ff/128", 256), [255]);
        for all in ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.0/24"] {
            assert_eq!(places(all, 64), (0..64).collect::<Vec<_>>(), "{all}");
        }
        assert_eq!(places("::/0", 32), (0..32).collect::<Vec<_>>());
    }

    #[test]
    fn each_member_is_led_to_its_group_by_few_rules() {
        for (family, groups) in [(Family::V4, 33), (Family::V4, 1000), (Family::V6, 3000)] {
            let address = |n: usize| match family {
                Family::V4 => format!("10.65.{}.{}/32", n / 256, n % 256),
                Family::V6 => format!("fd00::{n:x}/128"),
            };
            let names: Vec<String> = (0..groups).map(|n| format!("group{n}")).collect();
            let number = |group: &str| group["group".len()..].parse::<usize>().unwrap();
            let members = |group: &str| [net(&address(number(group)))].into_iter();
            let chains = chains("first", Way::Ingress, family, &names, members);
            let count = how_many(groups);
            assert!(chains.len() <= count + 1);
            for group in &names {
                let place = places(net(&address(number(group))), count).next().unwrap();
                let part = &chains[&names::dispatch_part(Way::Ingress, place)];
                let goto = format!("-g {}", names::group_chain(Way::Ingress, group));
                assert!(part.rules.iter().any(|rule| rule.ends_with(&goto)));
                assert!(part.rules.last().unwrap().ends_with("-j DROP"));
                assert!(
                    part.len() < 3 + groups.isqrt(),
                    "{} of {groups}",
                    part.len()
                );
            }
            assert!(chains["first"].rules.last().unwrap().ends_with("-j DROP"));
        }
    }

    #[test]
    fn a_few_groups_are_in_one_chain() {
        let groups: Vec<String> = (0..FEW).map(|n| n.to_string()).collect();
        let nobody = |_: &str| std::iter::empty();
        let chains = chains("first", Way::Egress, Family::V4, &groups, nobody);
        assert_eq!(chains.len(), 1);
        assert_eq!(chains["first"].len(), FEW + 1);
    }
}
