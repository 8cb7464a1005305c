//! Rules indexed by their prefix, so that a look-up does not walk the list.
//!
//! Rules that only match within (or equal to) a prefix are found by masking the route's address
//! to each length that occurs among them; the others are few and tried in order.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::filter::{MatchOperator, Rule};
use crate::prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix};

/// Rules that share a prefix, in order.
type Candidates = SmallVec<[u16; 2]>;

#[derive(Debug)]
pub(crate) struct Compiled {
    by_prefix: HashMap<Prefix, Candidates, foldhash::fast::RandomState>,
    /// Lengths that occur in `by_prefix`, by family, ascending.
    lengths: [SmallVec<[u8; 8]>; 2],
    /// Rules without a prefix to look up, in order.
    others: Vec<u16>,
}

impl Compiled {
    /// Rules past 65,534 are unreachable by id and left out: no real filter comes near.
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut compiled = Self {
            by_prefix: HashMap::default(),
            lengths: Default::default(),
            others: Vec::new(),
        };
        for (rule, at) in rules.iter().zip(0..u16::MAX) {
            match rule.prefix {
                Some(m) if matches!(m.operator, MatchOperator::Equal | MatchOperator::In) => {
                    compiled.by_prefix.entry(m.prefix).or_default().push(at);
                    let lengths = &mut compiled.lengths[m.prefix.family().index()];
                    if let Err(place) = lengths.binary_search(&m.prefix.len()) {
                        lengths.insert(place, m.prefix.len());
                    }
                }
                _ => compiled.others.push(at),
            }
        }
        compiled
    }

    /// The lowest rule for which `holds`, trying only those that can match `prefix`.
    pub(crate) fn first_match(&self, prefix: Prefix, holds: impl Fn(u16) -> bool) -> Option<u16> {
        let mut first = None;
        for &len in &self.lengths[prefix.family().index()] {
            if len > prefix.len() {
                break;
            }
            let Some(candidates) = self.by_prefix.get(&shortened(prefix, len)) else {
                continue;
            };
            let found = candidates.iter().copied().find(|&at| holds(at));
            first = [first, found].into_iter().flatten().min();
        }
        let bound = first.unwrap_or(u16::MAX);
        let other = self
            .others
            .iter()
            .copied()
            .take_while(|&at| at < bound)
            .find(|&at| holds(at));
        other.or(first)
    }
}

fn shortened(prefix: Prefix, len: u8) -> Prefix {
    const SHORTER: &str = "shorter than the prefix itself";
    match prefix {
        Prefix::V4(p) => Prefix::V4(Ipv4Prefix::new(p.bits(), len).expect(SHORTER)),
        Prefix::V6(p) => Prefix::V6(Ipv6Prefix::new(p.bits(), len).expect(SHORTER)),
    }
}

const _: () = assert!(
    Family::ALL.len() == 2,
    "`lengths` has a place for each family"
);
