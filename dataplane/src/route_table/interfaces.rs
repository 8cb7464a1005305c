//! Which of the wanted routes name an interface.

use std::sync::Arc;

use foldhash::HashMap;
use ipnetwork::IpNetwork;

use super::Route;

/// By interface. Costs nothing that is searched when a route comes or goes.
#[derive(Debug, Default)]
pub(super) struct Interfaces(HashMap<Arc<str>, Named>);

/// The prefixes of routes that name an interface.
#[derive(Debug, Default)]
struct Named {
    /// All of them, and some that did; some twice.
    prefixes: Vec<IpNetwork>,
    /// How many do.
    count: usize,
}

/// So many that do not name it any more cost nothing worth saving.
const FEW: usize = 64;

impl Interfaces {
    /// The wanted route of a prefix changed; `now` gives that of any.
    pub(super) fn changed<'a>(
        &mut self,
        prefix: IpNetwork,
        before: Option<&Route>,
        now: impl Fn(IpNetwork) -> Option<&'a Route>,
    ) {
        let after = now(prefix);
        for ifname in names(after).filter(|ifname| !is_named(before, ifname)) {
            match self.0.get_mut(ifname) {
                Some(named) => named.add(prefix),
                None => self.0.entry(Arc::clone(ifname)).or_default().add(prefix),
            }
        }
        for ifname in names(before).filter(|ifname| !is_named(after, ifname)) {
            let Some(named) = self.0.get_mut(ifname) else {
                continue;
            };
            named.count -= 1;
            if named.count == 0 {
                self.0.remove(ifname);
            } else if named.prefixes.len() > 2 * named.count + FEW {
                named.tidy(|prefix| is_named(now(prefix), ifname));
            }
        }
    }

    /// Prefixes of routes that name the interface, and perhaps some whose routes did.
    pub(super) fn of(&self, ifname: &str) -> &[IpNetwork] {
        let named = self.0.get(ifname);
        named.map_or(&[], |named| &named.prefixes)
    }
}

impl Named {
    fn add(&mut self, prefix: IpNetwork) {
        self.count += 1;
        self.prefixes.push(prefix);
    }

    fn tidy(&mut self, names_it: impl Fn(IpNetwork) -> bool) {
        self.prefixes.sort_unstable();
        self.prefixes.dedup();
        self.prefixes.retain(|prefix| names_it(*prefix));
    }
}

/// Each once.
fn names(route: Option<&Route>) -> impl Iterator<Item = &Arc<str>> {
    let all = move || route.into_iter().flat_map(Route::interfaces);
    let is_first =
        move |(place, name): &(usize, &Arc<str>)| !all().take(*place).any(|n| n == *name);
    all().enumerate().filter(is_first).map(|(_, name)| name)
}

fn is_named(route: Option<&Route>, ifname: &Arc<str>) -> bool {
    route.is_some_and(|route| route.interfaces().any(|name| name == ifname))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::NextHop;
    use super::*;

    fn net(n: u8) -> IpNetwork {
        IpNetwork::from(std::net::IpAddr::from([10, 0, 0, n]))
    }

    #[test]
    fn whoever_names_an_interface_is_found_however_often_it_changed_its_mind() {
        let mut interfaces = Interfaces::default();
        let mut wanted: BTreeMap<IpNetwork, Route> = BTreeMap::new();
        let twice = || {
            let hop = |n: u8| NextHop::new([192, 0, 2, n].into()).on("a");
            Route::via([hop(1), hop(2)])
        };
        let mut random = 1_u32;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let prefix = net((random >> 16) as u8 % 40);
            let route = match random >> 28 {
                0..4 => None,
                4..8 => Some(Route::device("a")),
                8..10 => Some(twice()),
                10..13 => Some(Route::device("b")),
                _ => Some(Route::blackhole()),
            };
            let before = match route {
                Some(route) => wanted.insert(prefix, route),
                None => wanted.remove(&prefix),
            };
            interfaces.changed(prefix, before.as_ref(), |prefix| wanted.get(&prefix));
            for ifname in ["a", "b"] {
                let name = Arc::from(ifname);
                let those = wanted
                    .iter()
                    .filter(|(_, route)| is_named(Some(route), &name));
                let those: BTreeSet<IpNetwork> = those.map(|(prefix, _)| *prefix).collect();
                let found: BTreeSet<_> = interfaces.of(ifname).iter().copied().collect();
                assert!(found.is_superset(&those), "{found:?} {those:?}");
                assert!(interfaces.of(ifname).len() <= 2 * those.len() + FEW + 1);
                assert!(!those.is_empty() || found.is_empty());
            }
        }
    }
}
