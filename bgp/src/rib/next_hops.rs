//! Next hops, each known once, and the sets of them that multipath routes use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::index::NONE;
use crate::wire::NextHop;

/// Where the FIB is to send packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibNextHop {
    /// The router's address; link-local when the session runs over one link.
    pub addr: IpAddr,
    /// Interface index when `addr` is link-local, else 0.
    pub scope: u32,
}

/// What the kernel knows of a next hop (RFC 4271, section 9.1.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// There is no route: paths through it are not eligible.
    Unreachable,
    /// Reachable at this interior cost. What is not told about costs 0.
    Cost(u32),
}

#[derive(Debug)]
struct Record {
    wire: NextHop,
    fib: FibNextHop,
}

/// Set of next hops, ordered.
pub(crate) type FibSet = SmallVec<[FibNextHop; 2]>;

/// Marks the ids of sets of several, in the id space of single next hops.
const MULTI: u32 = 1 << 31;

/// The next hops in use. Routers are few, so nothing is ever dropped.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    records: Vec<Record>,
    ids: HashMap<(NextHop, u32), u32, foldhash::fast::RandomState>,
    sets: Vec<FibSet>,
    set_ids: HashMap<FibSet, u32, foldhash::fast::RandomState>,
    costs: HashMap<IpAddr, Reachability, foldhash::fast::RandomState>,
    own: HashSet<IpAddr, foldhash::fast::RandomState>,
    /// Interior cost of each record, `None` when it cannot be used.
    usable: Vec<Option<u32>>,
}

impl NextHops {
    /// The id of `wire` heard on the link `scope` (0: not on one link).
    pub(crate) fn intern(&mut self, wire: NextHop, scope: u32) -> u32 {
        if let Some(&id) = self.ids.get(&(wire, scope)) {
            return id;
        }
        let id = self.records.len() as u32;
        let fib = match wire {
            NextHop::V6 {
                link_local: Some(local),
                ..
            } if scope != 0 => FibNextHop {
                addr: local.into(),
                scope,
            },
            _ => match wire.addr() {
                addr @ IpAddr::V6(v6) if v6.is_unicast_link_local() => FibNextHop { addr, scope },
                addr => FibNextHop { addr, scope: 0 },
            },
        };
        self.records.push(Record { wire, fib });
        self.ids.insert((wire, scope), id);
        self.usable.push(self.judge(wire));
        id
    }

    pub(crate) fn wire(&self, id: u32) -> Option<NextHop> {
        self.records.get(id as usize).map(|r| r.wire)
    }

    /// Interior cost, `None` when a route through it cannot be used.
    pub(crate) fn cost(&self, id: u32) -> Option<u32> {
        self.usable.get(id as usize).copied().flatten()
    }

    /// Tells the cost of a next hop; `true` if any route may be affected.
    pub(crate) fn set_reachability(&mut self, addr: IpAddr, now: Reachability) -> bool {
        let before = self
            .costs
            .insert(addr, now)
            .unwrap_or(Reachability::Cost(0));
        before != now && self.judge_all()
    }

    /// Adds an address of ours: routes through it cannot be used. `true` if any may be affected.
    pub(crate) fn add_own(&mut self, addr: IpAddr) -> bool {
        !addr.is_unspecified() && self.own.insert(addr) && self.judge_all()
    }

    fn judge_all(&mut self) -> bool {
        let judged: Vec<_> = self.records.iter().map(|r| self.judge(r.wire)).collect();
        std::mem::replace(&mut self.usable, judged) != self.usable
    }

    fn judge(&self, next_hop: NextHop) -> Option<u32> {
        let addr = next_hop.addr();
        let possible = match addr {
            IpAddr::V4(v4) => is_host_v4(v4),
            IpAddr::V6(v6) => is_host_v6(v6),
        };
        if !possible || self.own.contains(&addr) {
            return None;
        }
        match self.costs.get(&addr) {
            None => Some(0),
            Some(Reachability::Cost(cost)) => Some(*cost),
            Some(Reachability::Unreachable) => None,
        }
    }

    /// The id of a set, given the ids of its members. [`NONE`] for the empty set.
    pub(crate) fn intern_set(&mut self, members: &[u32]) -> u32 {
        match members {
            [] => return NONE,
            [one] => return *one,
            _ => {}
        }
        let mut set: FibSet = members
            .iter()
            .map(|&id| self.records[id as usize].fib)
            .collect();
        set.sort_unstable();
        set.dedup();
        if set.len() == 1 {
            return members[0];
        }
        if let Some(&id) = self.set_ids.get(&set) {
            return id;
        }
        let id = self.sets.len() as u32 | MULTI;
        self.sets.push(set.clone());
        self.set_ids.insert(set, id);
        id
    }

    /// The members of a set.
    pub(crate) fn set(&self, id: u32) -> FibSet {
        if id == NONE {
            FibSet::new()
        } else if id & MULTI != 0 {
            self.sets[(id & !MULTI) as usize].clone()
        } else {
            SmallVec::from_slice(&[self.records[id as usize].fib])
        }
    }
}

/// RFC 4271, section 6.3: a next hop is the address of a host; 0/8 and 127/8 never are.
const fn is_host_v4(addr: Ipv4Addr) -> bool {
    let first = addr.octets()[0];
    first != 0 && first != 127 && first < 224
}

const fn is_host_v6(addr: Ipv6Addr) -> bool {
    !addr.is_unspecified() && !addr.is_loopback() && !addr.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(text: &str) -> NextHop {
        NextHop::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn addresses_that_are_no_host_or_ours_cannot_be_used() {
        let mut hops = NextHops::default();
        let bad = [
            "0.0.0.1",
            "127.0.0.1",
            "224.0.0.5",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
        ];
        for text in bad {
            let id = hops.intern(hop(text), 0);
            assert_eq!(hops.cost(id), None, "{text}");
        }
        let id = hops.intern(hop("192.0.2.1"), 0);
        assert_eq!(hops.cost(id), Some(0));
        assert!(hops.add_own("192.0.2.1".parse().unwrap()));
        assert!(!hops.add_own("192.0.2.1".parse().unwrap()));
        assert_eq!(hops.cost(id), None);
    }

    #[test]
    fn reachability_reports_whether_anything_changes() {
        let mut hops = NextHops::default();
        let id = hops.intern(hop("192.0.2.1"), 0);
        let addr = "192.0.2.1".parse().unwrap();
        assert!(!hops.set_reachability(addr, Reachability::Cost(0)));
        assert!(hops.set_reachability(addr, Reachability::Cost(5)));
        assert_eq!(hops.cost(id), Some(5));
        assert!(hops.set_reachability(addr, Reachability::Unreachable));
        assert_eq!(hops.cost(id), None);
        assert!(!hops.set_reachability("192.0.2.9".parse().unwrap(), Reachability::Cost(5)));
    }

    #[test]
    fn a_session_on_one_link_uses_the_link_local_address() {
        let mut hops = NextHops::default();
        let both = NextHop::V6 {
            global: "2001:db8::1".parse().unwrap(),
            link_local: Some("fe80::1".parse().unwrap()),
        };
        let (far, near) = (hops.intern(both, 0), hops.intern(both, 3));
        assert_eq!(hops.set(far)[0].addr.to_string(), "2001:db8::1");
        assert_eq!(hops.set(near)[0].addr.to_string(), "fe80::1");
        assert_eq!(hops.set(near)[0].scope, 3);
    }

    #[test]
    fn sets_do_not_depend_on_order() {
        let mut hops = NextHops::default();
        let (a, b) = (
            hops.intern(hop("192.0.2.1"), 0),
            hops.intern(hop("192.0.2.2"), 0),
        );
        assert_eq!(hops.intern_set(&[a, b]), hops.intern_set(&[b, a]));
        assert_eq!(
            hops.set(hops.set_ids.values().copied().next().unwrap())
                .len(),
            2
        );
        assert_eq!(hops.intern_set(&[a]), a);
        assert_eq!(hops.intern_set(&[]), NONE);
    }
}
