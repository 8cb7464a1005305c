//! Which routes of ours the kernel has.

use foldhash::HashMap;
use ipnetwork::IpNetwork;

/// By prefix; each has one metric, but for the moment in which it changes.
#[derive(Debug, Default)]
pub(super) struct Installed(HashMap<IpNetwork, Metrics>);

#[derive(Debug)]
struct Metrics {
    first: u32,
    /// Takes no memory while there are none.
    more: Vec<u32>,
}

impl Metrics {
    fn iter(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }
}

impl Installed {
    pub(super) fn insert(&mut self, (prefix, metric): (IpNetwork, u32)) {
        let metrics = self.0.entry(prefix).or_insert_with(|| Metrics {
            first: metric,
            more: Vec::new(),
        });
        if metrics.iter().all(|known| known != metric) {
            metrics.more.push(metric);
        }
    }

    pub(super) fn remove(&mut self, (prefix, metric): (IpNetwork, u32)) {
        let Some(metrics) = self.0.get_mut(&prefix) else {
            return;
        };
        if metrics.first != metric {
            metrics.more.retain(|other| *other != metric);
        } else if let Some(next) = metrics.more.pop() {
            metrics.first = next;
        } else {
            self.0.remove(&prefix);
        }
    }

    pub(super) fn contains(&self, (prefix, metric): (IpNetwork, u32)) -> bool {
        self.of(prefix).any(|known| known == metric)
    }

    /// The metrics of a prefix.
    pub(super) fn of(&self, prefix: IpNetwork) -> impl Iterator<Item = u32> {
        self.0.get(&prefix).into_iter().flat_map(Metrics::iter)
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_may_have_several_metrics_and_is_forgotten_with_the_last() {
        let prefix: IpNetwork = "10.0.0.0/24".parse().unwrap();
        let mut installed = Installed::default();
        for metric in [7, 8, 9, 8] {
            installed.insert((prefix, metric));
        }
        installed.remove((prefix, 7));
        let mut metrics: Vec<u32> = installed.of(prefix).collect();
        metrics.sort_unstable();
        assert_eq!(metrics, [8, 9]);
        assert!(installed.contains((prefix, 8)) && !installed.contains((prefix, 7)));
        for metric in [9, 7, 8, 8] {
            installed.remove((prefix, metric));
        }
        assert_eq!(installed.prefixes().count(), 0);
    }
}
