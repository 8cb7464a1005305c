//! Sets of addresses as ranges: reservations, and space that blocks occupy.

use std::net::IpAddr;

use margay_model::ipam::{BlockCidr, Family};
use margay_model::net::Cidr;

/// Addresses of both families as sorted, disjoint, inclusive ranges. Questions cost a binary search,
/// whatever the size of the ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

/// First and last address of a network, as numbers.
pub(crate) fn bounds(cidr: Cidr) -> (u128, u128) {
    let family = Family::of(cidr.addr());
    let first = Family::number(cidr.addr());
    let host_bits = u32::from(family.bits() - cidr.prefix_len());
    let span = if host_bits == 128 {
        u128::MAX
    } else {
        (1u128 << host_bits) - 1
    };
    (first, first | span)
}

/// First and last address of a block, as numbers.
pub(crate) fn block_bounds(block: BlockCidr) -> (u128, u128) {
    let first = Family::number(block.network());
    (first, first + u128::from(block.size() - 1))
}

impl FromIterator<Cidr> for AddressSet {
    fn from_iter<T: IntoIterator<Item = Cidr>>(cidrs: T) -> Self {
        let mut set = Self::default();
        for cidr in cidrs {
            set.side_mut(Family::of(cidr.addr())).push(bounds(cidr));
        }
        set.normalise();
        set
    }
}

impl FromIterator<BlockCidr> for AddressSet {
    fn from_iter<T: IntoIterator<Item = BlockCidr>>(blocks: T) -> Self {
        let mut set = Self::default();
        for block in blocks {
            set.side_mut(block.family()).push(block_bounds(block));
        }
        set.normalise();
        set
    }
}

impl AddressSet {
    /// Whether `ip` is in the set.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let number = Family::number(ip);
        self.range_at(Family::of(ip), number).is_some()
    }

    /// Whether the set holds nothing of that family.
    pub fn is_empty(&self, family: Family) -> bool {
        self.side(family).is_empty()
    }

    /// Whether every address of `block` is in the set.
    pub fn covers(&self, block: BlockCidr) -> bool {
        let (first, last) = block_bounds(block);
        self.range_at(block.family(), first)
            .is_some_and(|(_, end)| end >= last)
    }

    /// The first range that touches `first..=last`, if any.
    pub(crate) fn first_overlap(
        &self,
        family: Family,
        first: u128,
        last: u128,
    ) -> Option<(u128, u128)> {
        let side = self.side(family);
        let next = side.partition_point(|(_, end)| *end < first);
        side.get(next).copied().filter(|(start, _)| *start <= last)
    }

    fn range_at(&self, family: Family, number: u128) -> Option<(u128, u128)> {
        self.first_overlap(family, number, number)
    }

    fn side(&self, family: Family) -> &Vec<(u128, u128)> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn side_mut(&mut self, family: Family) -> &mut Vec<(u128, u128)> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Sorts, and merges ranges that overlap or touch.
    fn normalise(&mut self) {
        for side in [&mut self.v4, &mut self.v6] {
            side.sort_unstable();
            side.dedup_by(|next, kept| {
                let joined = next.0 <= kept.1.saturating_add(1);
                if joined {
                    kept.1 = kept.1.max(next.1);
                }
                joined
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cidrs: &[&str]) -> AddressSet {
        cidrs.iter().map(|c| c.parse::<Cidr>().unwrap()).collect()
    }

    #[test]
    fn neighbours_merge_and_families_stay_apart() {
        let set = set(&["10.0.0.128/25", "10.0.0.0/25", "fd00::/64", "10.0.0.7/32"]);
        assert_eq!(set.v4.len(), 1);
        for (ip, inside) in [
            ("10.0.0.0", true),
            ("10.0.0.255", true),
            ("10.0.1.0", false),
            ("9.255.255.255", false),
            ("fd00::1", true),
            ("fd00:0:0:1::", false),
            ("::a00:1", false),
        ] {
            assert_eq!(set.contains(ip.parse().unwrap()), inside, "{ip}");
        }
        assert!(set.covers("10.0.0.64/26".parse().unwrap()));
        assert!(!set.covers("10.0.0.0/23".parse().unwrap()));
    }

    #[test]
    fn the_whole_address_space_does_not_overflow() {
        let set = set(&["::/0", "0.0.0.0/0"]);
        assert!(set.contains("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()));
        assert!(set.contains("255.255.255.255".parse().unwrap()));
    }
}
