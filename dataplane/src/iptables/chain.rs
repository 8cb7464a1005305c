//! One chain as it should be.

use super::save::COMMENT_PREFIX;
use crate::filter::names::short_hash;

/// What depends on what: a chain refers only to chains of lower rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rank {
    /// Chains that jump nowhere.
    Verdict,
    /// What decides nothing: where it is refused, packets pass by.
    Aside,
    /// Policies and profiles.
    Policy,
    /// Groups of endpoints.
    Group,
    /// From some addresses to their groups.
    Part,
    /// From an address to its group.
    Dispatch,
    /// Workload to its own host.
    Host,
    /// Hooked into the chains of others. Without it nothing is enforced, so it is never stubbed.
    Base,
}

/// A chain as it should be: rules without `-A CHAIN`, and their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(super) rank: Rank,
    /// As written, with the comments that carry the hashes.
    pub(super) rules: Vec<String>,
    pub(super) hashes: Vec<String>,
}

impl Chain {
    /// How many rules it has.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    /// `rules` are match and target, optionally preceded by a comment text and a tab.
    pub(crate) fn new(name: &str, rank: Rank, rules: &[String]) -> Self {
        let mut chained = name.to_owned();
        let mut hashes = Vec::with_capacity(rules.len());
        let mut lines = Vec::with_capacity(rules.len());
        for rule in rules {
            chained.push('\n');
            chained.push_str(rule);
            // Each hash covers the rules above it too; the last one stands for the chain.
            let hash = short_hash(&chained);
            chained.clone_from(&hash);
            let (text, rule) = rule.split_once('\t').unwrap_or(("", rule));
            let gap = if text.is_empty() { "" } else { " " };
            lines.push(format!(
                "-m comment --comment \"{COMMENT_PREFIX}{hash}{gap}{text}\" {rule}"
            ));
            hashes.push(hash);
        }
        Self {
            rank,
            rules: lines,
            hashes,
        }
    }
}
