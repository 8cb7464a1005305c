//! The prefixes of this host's endpoints, and which of them the neighbours have been told of.
//!
//! Kept by what changes, so that one endpoint more costs the same whether there are ten or ten thousand.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

/// What is wanted, what was told, and where the two may differ.
#[derive(Debug, Default)]
pub(super) struct LocalPrefixes {
    /// How many endpoints have the prefix: two for a moment when an address moves between them.
    owners: BTreeMap<IpNetwork, usize>,
    announced: BTreeSet<IpNetwork>,
    /// To be looked at: wanted or not since the last look, or wanted and not routed yet.
    unsettled: BTreeSet<IpNetwork>,
}

impl LocalPrefixes {
    /// An endpoint has these.
    pub(super) fn add(&mut self, nets: impl IntoIterator<Item = IpNetwork>) {
        for net in nets {
            *self.owners.entry(net).or_default() += 1;
            self.unsettled.insert(net);
        }
    }

    /// An endpoint has these no more.
    pub(super) fn remove(&mut self, nets: impl IntoIterator<Item = IpNetwork>) {
        for net in nets {
            if let Some(owners) = self.owners.get_mut(&net) {
                *owners -= 1;
                if *owners == 0 {
                    self.owners.remove(&net);
                }
            }
            self.unsettled.insert(net);
        }
    }

    /// What the neighbours must no longer send here.
    pub(super) fn take_gone(&mut self) -> Vec<IpNetwork> {
        let gone = |net: &&IpNetwork| !self.owners.contains_key(*net);
        let gone: Vec<_> = self.unsettled.iter().filter(gone).copied().collect();
        for net in &gone {
            self.unsettled.remove(net);
        }
        gone.into_iter()
            .filter(|net| self.announced.remove(net))
            .collect()
    }

    /// What the neighbours may send here from now on, because it is routed.
    pub(super) fn take_ready(&mut self, is_routed: impl Fn(IpNetwork) -> bool) -> Vec<IpNetwork> {
        let settled = |net: &&IpNetwork| self.announced.contains(*net) || is_routed(**net);
        let wanted = |net: &&IpNetwork| self.owners.contains_key(*net);
        let looked_at = self.unsettled.iter().filter(wanted);
        let settled: Vec<_> = looked_at.filter(settled).copied().collect();
        for net in &settled {
            self.unsettled.remove(net);
        }
        settled
            .into_iter()
            .filter(|net| self.announced.insert(*net))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(n: u8) -> IpNetwork {
        IpNetwork::new([10, 65, 0, n].into(), 32).unwrap()
    }

    #[test]
    fn a_prefix_is_announced_once_and_only_when_routed() {
        let mut local = LocalPrefixes::default();
        local.add([net(1), net(2)]);
        assert_eq!(local.take_ready(|n| n == net(1)), [net(1)]);
        assert_eq!(local.take_ready(|n| n == net(1)), []);
        assert_eq!(local.take_ready(|_| true), [net(2)]);
        assert_eq!(local.take_gone(), []);
    }

    #[test]
    fn a_prefix_that_was_never_told_is_not_withdrawn() {
        let mut local = LocalPrefixes::default();
        local.add([net(1), net(2)]);
        assert_eq!(local.take_ready(|n| n == net(1)), [net(1)]);
        local.remove([net(1), net(2)]);
        assert_eq!(local.take_gone(), [net(1)]);
        assert_eq!(local.take_gone(), []);
        assert_eq!(local.take_ready(|_| true), []);
    }

    #[test]
    fn an_address_that_moves_between_endpoints_stays_announced() {
        let mut local = LocalPrefixes::default();
        local.add([net(1)]);
        assert_eq!(local.take_ready(|_| true), [net(1)]);
        local.add([net(1)]);
        local.remove([net(1)]);
        assert_eq!(local.take_gone(), []);
        assert_eq!(local.take_ready(|_| true), []);
        local.remove([net(1)]);
        assert_eq!(local.take_gone(), [net(1)]);
    }
}
