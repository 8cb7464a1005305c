//! The prefixes of this host's endpoints, and which of them the neighbours have been told of.
//!
//! Kept by what changes, so that one endpoint more costs the same whether there are ten or ten thousand.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

/// What is wanted, what was told, and where the two may differ.
#[derive(Debug, Default)]
pub(super) struct LocalPrefixes {
    owners: BTreeMap<IpNetwork, Owners>,
    announced: BTreeSet<IpNetwork>,
    /// To be looked at: wanted or not since the last look, or wanted and not routed yet.
    unsettled: BTreeSet<IpNetwork>,
}

/// The endpoints that have a prefix.
#[derive(Debug, Default)]
struct Owners {
    /// Two for a moment when an address moves between them.
    count: usize,
    /// The host's side of the last one.
    interface: String,
}

impl LocalPrefixes {
    /// An endpoint behind `interface` has these.
    pub(super) fn add(&mut self, nets: impl IntoIterator<Item = IpNetwork>, interface: &str) {
        for net in nets {
            let owners = self.owners.entry(net).or_default();
            owners.count += 1;
            interface.clone_into(&mut owners.interface);
            self.unsettled.insert(net);
        }
    }

    /// An endpoint has these no more.
    pub(super) fn remove(&mut self, nets: impl IntoIterator<Item = IpNetwork>) {
        for net in nets {
            if let Some(owners) = self.owners.get_mut(&net) {
                owners.count -= 1;
                if owners.count == 0 {
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

    /// What the neighbours may send here from now on, because it is routed, and the interfaces it is behind.
    pub(super) fn take_ready(
        &mut self,
        is_routed: impl Fn(IpNetwork) -> bool,
    ) -> Vec<(IpNetwork, String)> {
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
            .filter_map(|net| Some((net, self.owners.get(&net)?.interface.clone())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(n: u8) -> IpNetwork {
        IpNetwork::new([10, 65, 0, n].into(), 32).unwrap()
    }

    fn ready(local: &mut LocalPrefixes, routed: impl Fn(IpNetwork) -> bool) -> Vec<IpNetwork> {
        let ready = local.take_ready(routed);
        assert!(ready.iter().all(|(_, interface)| interface == "mgy1"));
        ready.into_iter().map(|(net, _)| net).collect()
    }

    #[test]
    fn a_prefix_is_announced_once_and_only_when_routed() {
        let mut local = LocalPrefixes::default();
        local.add([net(1), net(2)], "mgy1");
        assert_eq!(ready(&mut local, |n| n == net(1)), [net(1)]);
        assert_eq!(ready(&mut local, |n| n == net(1)), []);
        assert_eq!(ready(&mut local, |_| true), [net(2)]);
        assert_eq!(local.take_gone(), []);
    }

    #[test]
    fn a_prefix_that_was_never_told_is_not_withdrawn() {
        let mut local = LocalPrefixes::default();
        local.add([net(1), net(2)], "mgy1");
        assert_eq!(ready(&mut local, |n| n == net(1)), [net(1)]);
        local.remove([net(1), net(2)]);
        assert_eq!(local.take_gone(), [net(1)]);
        assert_eq!(local.take_gone(), []);
        assert_eq!(ready(&mut local, |_| true), []);
    }

    #[test]
    fn an_address_that_moves_between_endpoints_stays_announced() {
        let mut local = LocalPrefixes::default();
        local.add([net(1)], "mgy1");
        assert_eq!(ready(&mut local, |_| true), [net(1)]);
        local.add([net(1)], "mgy1");
        local.remove([net(1)]);
        assert_eq!(local.take_gone(), []);
        assert_eq!(ready(&mut local, |_| true), []);
        local.remove([net(1)]);
        assert_eq!(local.take_gone(), [net(1)]);
    }
}
