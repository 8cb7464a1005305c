//! The prefixes that wait for an `apply`, in the order in which they came: that of whoever wants them, which is often
//! the order of addresses already.

use std::mem;

use foldhash::HashSet;
use ipnetwork::IpNetwork;

#[derive(Debug, Default)]
pub(super) struct Dirty {
    set: HashSet<IpNetwork>,
    /// All of the set, and perhaps some that are not in it any more.
    queue: Vec<IpNetwork>,
}

impl Dirty {
    pub(super) fn insert(&mut self, prefix: IpNetwork) {
        if self.set.insert(prefix) {
            self.queue.push(prefix);
        }
    }

    pub(super) fn extend(&mut self, prefixes: impl IntoIterator<Item = IpNetwork>) {
        prefixes.into_iter().for_each(|prefix| self.insert(prefix));
    }

    pub(super) fn remove(&mut self, prefix: IpNetwork) {
        self.set.remove(&prefix);
        if self.set.is_empty() {
            self.queue.clear();
        }
    }

    pub(super) fn contains(&self, prefix: IpNetwork) -> bool {
        self.set.contains(&prefix)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &IpNetwork> {
        self.queue.iter().filter(|prefix| self.set.contains(prefix))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// All of them, each once.
    pub(super) fn take(&mut self) -> Vec<IpNetwork> {
        let mut queue = mem::take(&mut self.queue);
        if queue.len() != self.set.len() {
            queue.retain(|prefix| self.set.remove(prefix));
        }
        self.set.clear();
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_in_order_without_those_that_were_removed() {
        let net = |n: u8| IpNetwork::from(std::net::IpAddr::from([10, 0, 0, n]));
        let mut dirty = Dirty::default();
        dirty.extend([3, 1, 2, 1].map(net));
        dirty.remove(net(1));
        assert!(dirty.contains(net(3)) && !dirty.contains(net(1)));
        assert_eq!(dirty.take(), [3, 2].map(net));
        assert!(dirty.is_empty() && dirty.take().is_empty());
        dirty.extend([4, 5].map(net));
        dirty.remove(net(4));
        dirty.insert(net(4));
        assert_eq!(dirty.take(), [4, 5].map(net));
        dirty.insert(net(6));
        dirty.remove(net(6));
        dirty.insert(net(7));
        assert_eq!(dirty.take(), [net(7)]);
    }
}
