//! The routes the host should have, and keeping the kernel to them.
//!
//! [`RouteTable::set`] and [`RouteTable::remove`] only note what is wanted; [`RouteTable::apply`] alone talks to the
//! kernel, in batches. What fails stays noted and is tried again, later and later. [`RouteTable::resync`] reads the
//! kernel back and repairs what others changed.
//!
//! Routes of ours carry the protocol [`PROTO_MARGAY`]: so an agent that starts without memory knows them, adopts those
//! that are wanted, and deletes the rest only once [`RouteTable::allow_deletes`] said that it knows everything that is
//! wanted. Routes of other protocols are never changed. A route of ours has a metric of its own, [`METRIC_MARGAY`], so
//! it can stand beside another's for the same prefix (the lower metric wins); where another's has the very same metric,
//! that is a [`ApplyReport::conflicts`], not overwritten, and tried again.

mod apply;
mod interfaces;
mod kernel;
mod prefixes;
mod report;
mod resync;
#[cfg(test)]
mod tests;
mod wanted;
mod wire;

use std::time::Instant;

use foldhash::{HashMap, HashMapExt};
use ipnetwork::IpNetwork;

use crate::netlink::{NetlinkError, Socket};
use apply::Retry;
use interfaces::Interfaces;
use prefixes::{Prefixes, Waiting};

pub use kernel::{Action, Change, KernelHop, KernelRoute, RouteKernel, RouteMtu, has_route_of};
pub use report::{ApplyReport, Failure, FailureReason, ResyncReport};
pub use resync::dump;
pub(crate) use resync::dump_all;
pub use wanted::{NextHop, Route, Target};
pub(crate) use wire::{decode_any, route_mtu};

/// Our protocol number in kernel routes. Taken elsewhere, by `/etc/iproute2/rt_protos` and the neighbours in the field:
/// 0-4 kernel, 8-18 routing daemons (12 BIRD), 42 Babel, 80 Calico, 84 OVN, 99 Open/R, 186-192 and up FRR.
pub const PROTO_MARGAY: u8 = 77;
/// Our metric in kernel routes: behind what an operator writes without one (0), before what DHCP brings (100 and up).
pub const METRIC_MARGAY: u32 = 77;
/// The kernel's main table.
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// Where and as whom a table works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Kernel table.
    pub table: u32,
    /// Protocol number of our routes.
    pub protocol: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            table: MAIN_TABLE,
            protocol: PROTO_MARGAY,
        }
    }
}

/// The routes of one kernel table.
#[derive(Debug)]
pub struct RouteTable<K = Socket> {
    kernel: K,
    config: Config,
    /// What is wanted, and our routes in the kernel, as far as is known.
    prefixes: Prefixes,
    interfaces: Interfaces,
    /// Those of an earlier run that nobody has wanted yet, as they were last read.
    left: HashMap<(IpNetwork, u32), KernelRoute>,
    retries: HashMap<IpNetwork, Retry>,
    deletes_allowed: bool,
}

impl RouteTable {
    /// A table of the calling thread's network namespace. Call [`RouteTable::resync`] next, to adopt what is there.
    pub fn open(config: Config) -> Result<Self, NetlinkError> {
        Ok(Self::new(Socket::route()?, config))
    }

    /// The port that the kernel notes in the events that this table causes.
    pub const fn port(&self) -> u32 {
        self.kernel.port()
    }
}

impl<K: RouteKernel> RouteTable<K> {
    /// A table over a given kernel.
    pub fn new(kernel: K, config: Config) -> Self {
        Self {
            kernel,
            config,
            prefixes: Prefixes::default(),
            interfaces: Interfaces::default(),
            left: HashMap::new(),
            retries: HashMap::new(),
            deletes_allowed: false,
        }
    }

    /// Wants a route. The host bits of the prefix do not count.
    pub fn set(&mut self, prefix: IpNetwork, route: Route) {
        self.want(masked(prefix), Some(route));
    }

    /// Wants no route for this prefix.
    pub fn remove(&mut self, prefix: IpNetwork) {
        self.want(masked(prefix), None);
    }

    fn want(&mut self, prefix: IpNetwork, route: Option<Route>) {
        // Else it is wanted already.
        if let Some((before, now)) = self.prefixes.want(prefix, route) {
            self.interfaces.changed(prefix, before.as_ref(), now);
            if !self.retries.is_empty() {
                self.retries.remove(&prefix);
            }
        }
    }

    /// From here on everything wanted is known: routes of ours that nobody wants go, at the next `apply`.
    pub fn allow_deletes(&mut self) {
        self.deletes_allowed = true;
        let all = self.prefixes.iter();
        let unwanted =
            all.filter(|(_, known)| known.wanted.is_none() && !known.installed.is_empty());
        let unwanted: Vec<IpNetwork> = unwanted.map(|(prefix, _)| *prefix).collect();
        for prefix in unwanted {
            self.prefixes.mark(prefix);
        }
    }

    /// An interface appeared, came up or went down, or lost an address: the kernel dropped routes through it without
    /// a word. The routes that name it are sent again at the next `apply`, and failed ones tried again. For an
    /// interface that leads to gateways of routes that name no interface, call [`RouteTable::resync`] too.
    pub fn on_link_event(&mut self, ifname: &str) {
        for prefix in self.interfaces.of(ifname, self.prefixes.routes()) {
            self.prefixes.mark(prefix);
            self.retries.remove(&prefix);
        }
    }

    /// Number of wanted routes.
    pub const fn len(&self) -> usize {
        self.prefixes.wanted()
    }

    /// Whether no route is wanted.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an `apply` has something to do, now or later.
    pub fn is_dirty(&self) -> bool {
        self.prefixes.any_waits() || !self.retries.is_empty()
    }

    /// All wanted routes, in no order.
    pub fn wanted(&self) -> impl Iterator<Item = (&IpNetwork, &Route)> {
        self.prefixes.routes()
    }

    /// Whether the kernel is known to have our route for this prefix, as wanted.
    pub fn is_installed(&self, prefix: IpNetwork) -> bool {
        let prefix = masked(prefix);
        let known = self.prefixes.get(prefix);
        known.is_some_and(prefixes::Known::has_wanted)
            && !self.prefixes.waits(prefix)
            && !self.retries.contains_key(&prefix)
    }

    /// Brings the kernel to what is wanted, as far as is known without reading it back.
    pub fn apply(&mut self) -> ApplyReport {
        self.apply_at(Instant::now())
    }

    /// Applies these prefixes only, whatever else waits: for an ADD that waits for its one route.
    pub fn apply_now(&mut self, prefixes: &[IpNetwork]) -> ApplyReport {
        let prefixes: Vec<_> = prefixes.iter().map(|p| masked(*p)).collect();
        for prefix in &prefixes {
            self.prefixes.unmark(*prefix);
        }
        let due = Waiting {
            direct: prefixes,
            via: Vec::new(),
        };
        self.bring(due, Instant::now())
    }
}

fn masked(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}
