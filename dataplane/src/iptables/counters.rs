//! How often rules matched, as `iptables-save --counters` says.

use std::collections::BTreeMap;

use super::Table;
use crate::filter::names::CHAIN_PREFIX;

/// What a rule matched since its chain was last written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Packets.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

impl std::ops::AddAssign for Hits {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// The rules of our chains, in order.
pub(crate) type ChainHits = BTreeMap<(Table, String), Vec<Hits>>;

/// Reads the output; lines that mean nothing to us are skipped.
pub(crate) fn parse(text: &str) -> ChainHits {
    let mut all = ChainHits::new();
    let mut table = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let name = name.trim();
            table = Table::ALL.into_iter().find(|table| table.name() == name);
        } else if let (Some(table), Some((chain, hits))) = (table, rule(line)) {
            all.entry((table, chain.to_owned())).or_default().push(hits);
        }
    }
    all
}

/// `[PACKETS:BYTES] -A CHAIN ...` of a chain of ours.
fn rule(line: &str) -> Option<(&str, Hits)> {
    let (counters, rule) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (packets, bytes) = counters.split_once(':')?;
    let chain = rule.split(' ').next()?;
    let hits = Hits {
        packets: packets.parse().ok()?,
        bytes: bytes.parse().ok()?,
    };
    chain.starts_with(CHAIN_PREFIX).then_some((chain, hits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_our_chains_are_read_in_order() {
        let text = "*filter\n:mgy-a - [0:0]\n[7:1] -A FORWARD -j mgy-a\n\
                    [3:180] -A mgy-a -p tcp -j DROP\n[0:0] -A mgy-a -j RETURN\nCOMMIT\n\
                    *other\n[9:9] -A mgy-a -j DROP\n*raw\n[x:1] -A mgy-a -j DROP\n[1] -A\n";
        let hits = |packets, bytes| Hits { packets, bytes };
        let expected = [(
            (Table::Filter, "mgy-a".to_owned()),
            vec![hits(3, 180), hits(0, 0)],
        )];
        assert_eq!(parse(text), ChainHits::from(expected));
    }
}
