//! What `iptables-save` says about us.

use std::collections::BTreeMap;

use super::Table;
use crate::filter::names::CHAIN_PREFIX;

/// Marks a rule of ours in its comment; the hash follows.
pub(crate) const COMMENT_PREFIX: &str = "mgy:";
/// Digits of the hash in a comment.
pub(crate) const RULE_HASH_LEN: usize = 16;

/// A rule in a chain of others that jumps to a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Place in the chain, from 0.
    pub(crate) position: usize,
    /// The chain of ours.
    pub(crate) target: String,
    /// The rule as saved, without `-A CHAIN`.
    pub(crate) text: String,
}

/// One family's tables, reduced to what concerns us.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    /// The rule hashes of our chains; a rule without a hash is empty text.
    pub(crate) chains: BTreeMap<(Table, String), Vec<String>>,
    /// Jumps to us, by table and chain of others.
    pub(crate) hooks: BTreeMap<(Table, String), Vec<Hook>>,
    /// Rules in chains of ours, and jumps to them.
    pub(crate) our_rules: usize,
    /// Every other rule, in any table, and every chain of others that does not accept at its end.
    pub(crate) foreign_rules: usize,
}

impl Saved {
    /// Reads the output of `iptables-save`; lines that mean nothing to us are skipped.
    pub(crate) fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        let mut table = None;
        let mut positions: BTreeMap<&str, usize> = BTreeMap::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL
                    .into_iter()
                    .find(|table| table.name() == name.trim());
                positions.clear();
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split(' ');
                let name = words.next().unwrap_or_default();
                let policy = words.next().unwrap_or_default();
                saved.foreign_rules += usize::from(!matches!(policy, "ACCEPT" | "-" | ""));
                if let Some(table) = table.filter(|_| name.starts_with(CHAIN_PREFIX)) {
                    saved.chains.entry((table, name.to_owned())).or_default();
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                let position = positions.entry(chain).or_default();
                saved.add_rule(table, chain, rule, *position);
                *position += 1;
            }
        }
        saved
    }

    fn add_rule(&mut self, table: Option<Table>, chain: &str, rule: &str, position: usize) {
        let Some(table) = table else {
            self.foreign_rules += 1;
            return;
        };
        let key = (table, chain.to_owned());
        if chain.starts_with(CHAIN_PREFIX) {
            self.our_rules += 1;
            self.chains
                .entry(key)
                .or_default()
                .push(rule_hash(rule).unwrap_or_default().to_owned());
        } else if let Some(target) = target(rule).filter(|t| t.starts_with(CHAIN_PREFIX)) {
            self.our_rules += 1;
            let hook = Hook {
                position,
                target: target.to_owned(),
                text: rule.to_owned(),
            };
            self.hooks.entry(key).or_default().push(hook);
        } else {
            self.foreign_rules += 1;
        }
    }
}

/// The hash in a saved rule's comment.
pub(crate) fn rule_hash(rule: &str) -> Option<&str> {
    let (_, comment) = rule.split_once("--comment ")?;
    let hash = comment
        .trim_start_matches('"')
        .strip_prefix(COMMENT_PREFIX)?;
    hash.get(..RULE_HASH_LEN)
}

/// The chain or target of a saved rule.
fn target(rule: &str) -> Option<&str> {
    // Every second piece is inside of quotes: a comment may well contain "-j".
    rule.split('"').step_by(2).find_map(|piece| {
        let mut words = piece
            .split(' ')
            .skip_while(|word| *word != "-j" && *word != "-g");
        words.nth(1)
    })
}
