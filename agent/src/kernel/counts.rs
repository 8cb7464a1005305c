//! What a turn of the thread adds to the metrics.

use std::time::Duration;

use margay_dataplane::filter;

use super::{Kernel, RulesKey};

impl Kernel {
    pub(super) fn count(&self, filter: &filter::ApplyReport, time: Duration) {
        let meters = &self.meters;
        meters.apply.took(time);
        meters.apply_failures.add(u64::from(
            !self.failing.is_empty() || !self.tunnels_failing.is_empty(),
        ));
        meters
            .rule_failures
            .add(u64::from(!filter.failures.is_empty()));
        meters.rule_writes.add(u64::from(filter.restores));
        meters.chains_changed.add(filter.chains_changed as u64);
        meters.rules_written.add(filter.rules_written as u64);
        meters.rule_reads.add(filter.reads.into());
        meters.rule_read_failures.add(filter.read_failures.into());
        let of_set = |failure: &&filter::Failure| failure.object.contains(" set ");
        let sets_refused = filter.failures.iter().filter(of_set).count();
        meters.set_failures.add(sets_refused as u64);
        // Counting chains takes longer the more there are; that of sets changes with the rules that refer to them.
        if filter.restores > 0 || filter.reads > 0 {
            let sizes = self.filter.sizes();
            meters.chains.set(sizes.chains as u64);
            meters.rules.set(sizes.rules as u64);
            meters.all_sets.set(sizes.sets as u64);
        }
        meters.set_changes.add(filter.set_changes as u64);
        meters.rule_drift.add(filter.drift as u64);
        meters.sets.set(self.sets);
        // They come last in their order, and are few: what is counted here is counted at every change.
        let profiles = self
            .rules_of
            .range(RulesKey::Profile(String::new())..)
            .count();
        meters.profiles.set(profiles as u64);
        meters.policies.set((self.rules_of.len() - profiles) as u64);
    }
}
