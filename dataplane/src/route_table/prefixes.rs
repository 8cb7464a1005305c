//! What is known of each prefix, in one place: a table of 100,000 routes is as fast as it is seldom searched, and found
//! in the cache. So what is known stands in the order in which it came, which is that of the next apply, and whoever
//! looks for one after the other finds each beside the one before, without a search.

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use ipnetwork::IpNetwork;

use super::Route;

/// What is wanted for a prefix, and what the kernel has.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) wanted: Option<Route>,
    pub(super) installed: Metrics,
    /// Waits, if this is the present turn; then it is in a queue.
    turn: u64,
    /// During a resync: the wanted route had been installed.
    had: bool,
}

impl Known {
    /// During a resync: whether the wanted route had been installed.
    pub(super) const fn had(&self) -> bool {
        self.had
    }

    fn is_nothing(&self, turn: u64) -> bool {
        self.wanted.is_none() && self.turn != turn && self.installed.is_empty()
    }

    /// Whether the wanted route is installed, by its metric.
    pub(super) fn has_wanted(&self) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|route| self.installed.contains(route.metric))
    }
}

/// The metrics of our routes for a prefix: one, but for the moment in which it changes.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    first: Option<u32>,
    /// Takes no memory while there are none.
    more: Vec<u32>,
}

impl Metrics {
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.first.into_iter().chain(self.more.iter().copied())
    }

    pub(super) fn contains(&self, metric: u32) -> bool {
        self.iter().any(|known| known == metric)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn insert(&mut self, metric: u32) {
        match self.first {
            None => self.first = Some(metric),
            Some(_) if self.contains(metric) => {}
            Some(_) => self.more.push(metric),
        }
    }

    fn remove(&mut self, metric: u32) {
        if self.first == Some(metric) {
            self.first = self.more.pop();
        } else {
            self.more.retain(|other| *other != metric);
        }
    }
}

/// Prefixes that wait for an `apply`, in the order in which they came: that of whoever wants them, which is often the
/// order of addresses already.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// To what is on a link, or to nowhere.
    pub(super) direct: Vec<IpNetwork>,
    /// Through routers, which may be behind what is on a link.
    pub(super) via: Vec<IpNetwork>,
}

/// Every prefix that is wanted, installed, or waits.
#[derive(Debug)]
pub(super) struct Prefixes {
    all: IndexMap<IpNetwork, Known, RandomState>,
    /// Where the last one stood that was looked for.
    last: usize,
    wanted: usize,
    waiting: usize,
    /// Counts up when all that wait are taken, from one.
    turn: u64,
    /// All that wait, and perhaps some that do not any more.
    queue: Waiting,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self {
            all: IndexMap::default(),
            last: 0,
            wanted: 0,
            waiting: 0,
            turn: 1,
            queue: Waiting::default(),
        }
    }
}

impl Prefixes {
    pub(super) fn get(&self, prefix: IpNetwork) -> Option<&Known> {
        self.all.get(&prefix)
    }

    /// The same as [`Self::get`], for one that is often beside the last.
    pub(super) fn next(&mut self, prefix: IpNetwork) -> Option<&Known> {
        let place = self.place(prefix)?;
        self.all.get_index(place).map(|(_, known)| known)
    }

    fn beside_last(&self, prefix: IpNetwork) -> Option<usize> {
        let last = self.last;
        let places = [last.wrapping_add(1), last, last.wrapping_sub(1)];
        let is_there = |place: &usize| {
            let there = self.all.get_index(*place);
            there.is_some_and(|(other, _)| *other == prefix)
        };
        places.into_iter().find(is_there)
    }

    fn place(&mut self, prefix: IpNetwork) -> Option<usize> {
        let beside = self.beside_last(prefix);
        self.last = beside.or_else(|| self.all.get_index_of(&prefix))?;
        Some(self.last)
    }

    fn known(&mut self, prefix: IpNetwork) -> &mut Known {
        self.last = self.beside_last(prefix).unwrap_or_else(|| {
            let entry = self.all.entry(prefix);
            let place = entry.index();
            entry.or_default();
            place
        });
        &mut self.all[self.last]
    }

    /// How many are wanted.
    pub(super) const fn wanted(&self) -> usize {
        self.wanted
    }

    /// All that are wanted.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&IpNetwork, &Route)> {
        let all = self.all.iter();
        all.filter_map(|(prefix, known)| Some((prefix, known.wanted.as_ref()?)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&IpNetwork, &Known)> {
        self.all.iter()
    }

    /// Wants a route, or none any more, and has the prefix wait. Gives back what was wanted before, and what is; nothing
    /// if the very route was wanted already.
    pub(super) fn want(
        &mut self,
        prefix: IpNetwork,
        route: Option<Route>,
    ) -> Option<(Option<Route>, Option<&Route>)> {
        let turn = self.turn;
        let known = self.known(prefix);
        if known.wanted.is_some() && known.wanted == route {
            return None;
        }
        let (is_via, is_some) = (is_via(route.as_ref()), route.is_some());
        let before = std::mem::replace(&mut known.wanted, route);
        let waited = std::mem::replace(&mut known.turn, turn) == turn;
        self.wanted += usize::from(is_some);
        self.wanted -= usize::from(before.is_some());
        if !waited {
            self.waiting += 1;
            self.queue.push(prefix, is_via);
        }
        Some((before, self.all[self.last].wanted.as_ref()))
    }

    /// Has a prefix wait.
    pub(super) fn mark(&mut self, prefix: IpNetwork) {
        let turn = self.turn;
        let known = self.known(prefix);
        if std::mem::replace(&mut known.turn, turn) != turn {
            let is_via = is_via(known.wanted.as_ref());
            self.waiting += 1;
            self.queue.push(prefix, is_via);
        }
    }

    /// A prefix waits no more.
    pub(super) fn unmark(&mut self, prefix: IpNetwork) {
        if let Some(known) = self.all.get_mut(&prefix)
            && known.turn == self.turn
        {
            known.turn = 0;
            self.waiting -= 1;
            self.forget(prefix);
        }
        if self.waiting == 0 {
            self.queue = Waiting::default();
        }
    }

    pub(super) fn waits(&self, prefix: IpNetwork) -> bool {
        let known = self.all.get(&prefix);
        known.is_some_and(|known| known.turn == self.turn)
    }

    pub(super) const fn any_waits(&self) -> bool {
        self.waiting > 0
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = IpNetwork> {
        let queued = self.queue.direct.iter().chain(&self.queue.via).copied();
        queued.filter(|prefix| self.waits(*prefix))
    }

    /// All that wait, each once, which they do no more. Whoever looks at one then calls [`Self::forget`] or changes it.
    pub(super) fn take_waiting(&mut self) -> Waiting {
        let mut taken = std::mem::take(&mut self.queue);
        // Else some were unmarked meanwhile, or are in it twice.
        if taken.direct.len() + taken.via.len() != self.waiting {
            for queued in [&mut taken.direct, &mut taken.via] {
                queued.retain(|prefix| {
                    let known = self.all.get_mut(prefix);
                    known.is_some_and(|k| std::mem::take(&mut k.turn) == self.turn)
                });
            }
        }
        self.waiting = 0;
        self.turn += 1;
        taken
    }

    /// The kernel has this route of ours.
    pub(super) fn install(&mut self, prefix: IpNetwork, metric: u32) -> &mut Known {
        let known = self.known(prefix);
        known.installed.insert(metric);
        known
    }

    /// The kernel has it no more.
    pub(super) fn uninstall(&mut self, prefix: IpNetwork, metric: u32) {
        if let Some(place) = self.place(prefix) {
            let known = &mut self.all[place];
            known.installed.remove(metric);
            if known.is_nothing(self.turn) {
                self.all.swap_remove_index(place);
            }
        }
    }

    /// Forgets a prefix of which nothing is known.
    pub(super) fn forget(&mut self, prefix: IpNetwork) {
        if let Some(place) = self.place(prefix)
            && self.all[place].is_nothing(self.turn)
        {
            self.all.swap_remove_index(place);
        }
    }

    /// The kernel is read anew: nothing counts as installed, but what was wanted and installed is noted.
    pub(super) fn begin_read(&mut self) {
        for known in self.all.values_mut() {
            known.had = known.has_wanted();
            known.installed = Metrics::default();
        }
    }

    /// What was read is complete. The prefixes whose wanted route was not found, with whether it had been there.
    pub(super) fn end_read(&mut self) -> Vec<(IpNetwork, bool)> {
        self.all.retain(|_, known| !known.is_nothing(self.turn));
        let missing = self.all.iter_mut().filter_map(|(prefix, known)| {
            let had = std::mem::take(&mut known.had);
            let is_missing = known.wanted.is_some() && !known.has_wanted();
            is_missing.then_some((*prefix, had))
        });
        missing.collect()
    }
}

fn is_via(route: Option<&Route>) -> bool {
    route.is_some_and(|route| !route.target.is_direct())
}

impl Waiting {
    fn push(&mut self, prefix: IpNetwork, is_via: bool) {
        match is_via {
            true => self.via.push(prefix),
            false => self.direct.push(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NextHop;
    use super::*;

    fn net(n: u8) -> IpNetwork {
        IpNetwork::from(std::net::IpAddr::from([10, 0, 0, n]))
    }

    fn taken(prefixes: &mut Prefixes) -> Vec<IpNetwork> {
        let Waiting { direct, via } = prefixes.take_waiting();
        [direct, via].concat()
    }

    #[test]
    fn each_is_taken_once_in_order_without_those_that_were_unmarked() {
        let mut prefixes = Prefixes::default();
        for n in [3, 1, 2, 1] {
            prefixes.mark(net(n));
        }
        prefixes.unmark(net(1));
        assert!(prefixes.waits(net(3)) && !prefixes.waits(net(1)));
        assert_eq!(taken(&mut prefixes), [3, 2].map(net));
        assert!(!prefixes.any_waits() && taken(&mut prefixes).is_empty());
        for n in [4, 5] {
            prefixes.mark(net(n));
        }
        prefixes.unmark(net(4));
        prefixes.mark(net(4));
        let mut both = taken(&mut prefixes);
        both.sort();
        assert_eq!(both, [4, 5].map(net));
        prefixes.mark(net(6));
        prefixes.unmark(net(6));
        prefixes.mark(net(7));
        assert_eq!(taken(&mut prefixes), [net(7)]);
    }

    #[test]
    fn what_is_on_a_link_comes_before_what_is_behind_routers() {
        let via = Route::via([NextHop::new([192, 0, 2, 1].into())]);
        let mut prefixes = Prefixes::default();
        assert!(prefixes.want(net(1), Some(via.clone())).is_some());
        assert!(prefixes.want(net(2), Some(Route::blackhole())).is_some());
        assert!(prefixes.want(net(1), Some(via)).is_none());
        assert_eq!(prefixes.wanted(), 2);
        let Waiting { direct, via } = prefixes.take_waiting();
        assert_eq!((direct, via), (vec![net(2)], vec![net(1)]));
    }

    #[test]
    fn a_prefix_may_have_several_metrics_and_is_forgotten_with_the_last() {
        let mut prefixes = Prefixes::default();
        for metric in [7, 8, 9, 8] {
            prefixes.install(net(1), metric);
        }
        prefixes.uninstall(net(1), 7);
        let known = prefixes.get(net(1)).unwrap();
        let mut metrics: Vec<u32> = known.installed.iter().collect();
        metrics.sort_unstable();
        assert_eq!(metrics, [8, 9]);
        for metric in [9, 7, 8, 8] {
            prefixes.uninstall(net(1), metric);
        }
        assert_eq!(prefixes.iter().count(), 0);
    }

    #[test]
    fn what_was_wanted_and_had_and_is_not_read_again_is_missing() {
        let mut prefixes = Prefixes::default();
        for n in [1, 2, 3] {
            assert!(prefixes.want(net(n), Some(Route::blackhole())).is_some());
        }
        let metric = Route::blackhole().metric;
        prefixes.install(net(1), metric);
        prefixes.install(net(2), metric);
        prefixes.install(net(4), metric);
        drop(prefixes.take_waiting());
        prefixes.begin_read();
        prefixes.install(net(1), metric);
        let mut missing = prefixes.end_read();
        missing.sort();
        assert_eq!(missing, [(net(2), true), (net(3), false)]);
        assert!(prefixes.get(net(4)).is_none());
    }

    #[test]
    fn each_is_found_wherever_it_stands_by_now() {
        let mut prefixes = Prefixes::default();
        let metric = Route::blackhole().metric;
        let mut there = std::collections::BTreeSet::new();
        let mut random = 1_u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (random >> 16) as u8;
            // Steps to either side, and jumps.
            let beside = [n, n.wrapping_add(1), n, n.wrapping_sub(1)];
            for n in beside.into_iter().take(1 + (random >> 28) as usize % 4) {
                match random >> 30 {
                    0 | 1 => assert!(!prefixes.install(net(n), metric).had()),
                    _ => prefixes.uninstall(net(n), metric),
                }
                match random >> 30 {
                    0 | 1 => there.insert(n),
                    _ => there.remove(&n),
                };
                let found = prefixes.next(net(n)).is_some();
                assert_eq!(found, there.contains(&n));
            }
        }
        let all: std::collections::BTreeSet<_> = prefixes.iter().map(|(net, _)| *net).collect();
        assert_eq!(all, there.into_iter().map(net).collect());
    }
}
