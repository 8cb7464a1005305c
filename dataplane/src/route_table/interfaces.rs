//! Which of the wanted routes name an interface.

use std::sync::Arc;

use foldhash::HashMap;
use ipnetwork::IpNetwork;

use super::Route;

/// Routes are noted where there are few, as of a container's interface. Where there are many, as of an uplink, noting each
/// would cost more than to go through all routes when something happens to the interface.
#[derive(Debug, Default)]
pub(super) struct Interfaces(HashMap<Arc<str>, Named>);

/// The routes that name an interface; at least one does.
#[derive(Debug)]
enum Named {
    /// Those to these prefixes.
    Few(Vec<IpNetwork>),
    /// So many, or so few of so many that there were.
    Many(usize),
}

const FEW: usize = 64;

impl Interfaces {
    /// The wanted route of a prefix changed.
    pub(super) fn changed(
        &mut self,
        prefix: IpNetwork,
        before: Option<&Route>,
        after: Option<&Route>,
    ) {
        for ifname in names(after).filter(|ifname| !is_named(before, ifname)) {
            match self.0.get_mut(ifname) {
                Some(named) => named.add(prefix),
                None => drop(self.0.insert(Arc::clone(ifname), Named::Few(vec![prefix]))),
            }
        }
        for ifname in names(before).filter(|ifname| !is_named(after, ifname)) {
            if self
                .0
                .get_mut(ifname)
                .is_some_and(|named| named.remove(prefix))
            {
                self.0.remove(ifname);
            }
        }
    }

    /// The prefixes of routes that name the interface, out of `all`.
    pub(super) fn of<'a>(
        &mut self,
        ifname: &str,
        all: impl Iterator<Item = (&'a IpNetwork, &'a Route)>,
    ) -> Vec<IpNetwork> {
        let named = match self.0.get_mut(ifname) {
            None => return Vec::new(),
            Some(Named::Few(prefixes)) => return prefixes.clone(),
            Some(named) => named,
        };
        let name_it = all.filter(|(_, route)| route.interfaces().any(|name| **name == *ifname));
        let prefixes: Vec<IpNetwork> = name_it.map(|(prefix, _)| *prefix).collect();
        if (1..=FEW / 2).contains(&prefixes.len()) {
            *named = Named::Few(prefixes.clone());
        }
        prefixes
    }
}

impl Named {
    fn add(&mut self, prefix: IpNetwork) {
        match self {
            Self::Few(prefixes) if prefixes.len() < FEW => prefixes.push(prefix),
            Self::Few(prefixes) => *self = Self::Many(prefixes.len() + 1),
            Self::Many(count) => *count += 1,
        }
    }

    /// True if it was the last.
    fn remove(&mut self, prefix: IpNetwork) -> bool {
        match self {
            Self::Few(prefixes) => {
                prefixes.retain(|other| *other != prefix);
                prefixes.is_empty()
            }
            Self::Many(count) => {
                *count -= 1;
                *count == 0
            }
        }
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
        let mut were_many = 0;
        for round in 0..20_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Many and few by turns.
            let kind = (random >> 28) + if round / 2000 % 2 == 0 { 0 } else { 12 };
            let prefix = net((random >> 16) as u8);
            let route = match kind {
                0..5 => Some(Route::device("a")),
                5..8 => Some(twice()),
                8..11 | 24 => Some(Route::device("b")),
                11 => Some(Route::blackhole()),
                _ => None,
            };
            let before = match route {
                Some(route) => wanted.insert(prefix, route),
                None => wanted.remove(&prefix),
            };
            interfaces.changed(prefix, before.as_ref(), wanted.get(&prefix));
            for ifname in ["a", "b"] {
                let name = Arc::from(ifname);
                were_many += usize::from(matches!(interfaces.0.get(&name), Some(Named::Many(_))));
                // Not always, as looking changes what is noted.
                if round % 7 != 0 {
                    continue;
                }
                let name_it = |(_, route): &(&IpNetwork, &Route)| is_named(Some(route), &name);
                let those = wanted.iter().filter(name_it).map(|(prefix, _)| *prefix);
                let those: BTreeSet<IpNetwork> = those.collect();
                let found = interfaces.of(ifname, wanted.iter());
                assert_eq!(found.len(), those.len(), "each once");
                assert_eq!(BTreeSet::from_iter(found), those);
                assert_eq!(interfaces.0.contains_key(ifname), !those.is_empty());
            }
        }
        assert!((1000..39_000).contains(&were_many), "{were_many}");
    }
}
