//! The routes of this host: its endpoints, its blocks, and what BGP learned.
//!
//! For one prefix an endpoint of our own wins over a block, and a block over what a peer says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use margay_dataplane::netlink::NetlinkError;
use margay_dataplane::route_table::{ApplyReport, Config, NextHop, Route, RouteTable};
use margay_model::kind::ResourceKey;
use tracing::warn;

use super::BgpNextHop;
use super::next_hops::Resolver;

/// Everything that wants a route, and the table.
pub(super) struct Routes {
    table: RouteTable,
    resolver: Resolver,
    endpoints: BTreeMap<IpNetwork, (ResourceKey, String)>,
    /// The addresses of each endpoint, routed to it unless a newer endpoint has the address too.
    of_endpoint: BTreeMap<ResourceKey, Vec<IpNetwork>>,
    blocks: BTreeSet<IpNetwork>,
    learned: BTreeMap<IpNetwork, Vec<BgpNextHop>>,
    /// The table was brought in line with the kernel at least once.
    adopted: bool,
}

impl Routes {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            table: RouteTable::open(Config::default())?,
            resolver: Resolver::open()?,
            endpoints: BTreeMap::new(),
            of_endpoint: BTreeMap::new(),
            blocks: BTreeSet::new(),
            learned: BTreeMap::new(),
            adopted: false,
        })
    }

    /// The port of the table's socket, whose own changes the monitor should not report.
    pub(super) fn port(&self) -> u32 {
        self.table.port()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_installed(&self, prefix: IpNetwork) -> bool {
        self.table.is_installed(prefix)
    }

    /// This endpoint has these addresses behind this interface, and no others.
    pub(super) fn set_endpoint(&mut self, key: &ResourceKey, ifname: &str, nets: &[IpNetwork]) {
        let before = if nets.is_empty() {
            self.of_endpoint.remove(key)
        } else {
            self.of_endpoint.insert(key.clone(), nets.to_vec())
        };
        for net in before.unwrap_or_default() {
            let ours = |(owner, _): &(ResourceKey, String)| owner == key;
            if !nets.contains(&net) && self.endpoints.get(&net).is_some_and(ours) {
                self.endpoints.remove(&net);
                self.decide(net);
            }
        }
        for net in nets {
            let before = self
                .endpoints
                .insert(*net, (key.clone(), ifname.to_owned()));
            if let Some((other, _)) = before.filter(|(owner, _)| owner != key) {
                warn!(address = %net.ip(), endpoint = %key, %other, "two endpoints have one address, the newer is routed");
            }
            self.decide(*net);
        }
    }

    /// Whether the address is from a block of this host.
    pub(super) fn has_block_of(&self, ip: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.contains(ip))
    }

    /// Wants blackholes for these blocks. A block of one address needs none: its route is the endpoint's.
    pub(super) fn set_blocks(&mut self, blocks: BTreeSet<IpNetwork>) {
        let host_length = |net: &IpNetwork| net.prefix() == if net.is_ipv4() { 32 } else { 128 };
        let blocks: BTreeSet<_> = blocks.into_iter().filter(|net| !host_length(net)).collect();
        let before = std::mem::replace(&mut self.blocks, blocks);
        let changed: Vec<_> = before.symmetric_difference(&self.blocks).copied().collect();
        for net in changed {
            self.decide(net);
        }
    }

    /// BGP's best next hops for a prefix; none when there is no route any more.
    pub(super) fn set_learned(&mut self, prefix: IpNetwork, next_hops: Vec<BgpNextHop>) {
        if next_hops.is_empty() {
            self.learned.remove(&prefix);
        } else {
            self.learned.insert(prefix, next_hops);
        }
        self.decide(prefix);
    }

    /// The host's own routes, links or addresses changed: next hops may resolve to something else.
    pub(super) fn refresh_next_hops(&mut self) {
        let used: BTreeSet<BgpNextHop> = self.learned.values().flatten().copied().collect();
        self.resolver.retain(|next_hop| used.contains(next_hop));
        if self.resolver.refresh() {
            let prefixes: Vec<_> = self.learned.keys().copied().collect();
            for prefix in prefixes {
                self.decide(prefix);
            }
        }
    }

    /// Routes through this interface may be gone. Whether something is to be applied.
    pub(super) fn on_link_event(&mut self, ifname: &str) -> bool {
        self.table.on_link_event(ifname);
        self.table.is_dirty()
    }

    /// Everything wanted is known: what an earlier run left and nobody wants may go.
    pub(super) fn allow_deletes(&mut self) {
        self.table.allow_deletes();
    }

    pub(super) fn apply(&mut self) -> ApplyReport {
        if self.adopted {
            return self.table.apply();
        }
        // The first look: most of what is wanted is there from the agent before us.
        match self.table.resync() {
            Ok(report) => {
                self.adopted = true;
                report.repair
            }
            Err(error) => {
                warn!(%error, "cannot read the kernel's routes");
                self.table.apply()
            }
        }
    }

    /// Reads the kernel back and repairs; how many routes differed.
    pub(super) fn resync(&mut self) -> (usize, ApplyReport) {
        match self.table.resync() {
            Ok(report) => {
                self.adopted = true;
                (
                    report.missing + report.different + report.unwanted,
                    report.repair,
                )
            }
            Err(error) => {
                warn!(%error, "cannot read the kernel's routes");
                (0, self.table.apply())
            }
        }
    }

    fn decide(&mut self, prefix: IpNetwork) {
        if let Some((_, ifname)) = self.endpoints.get(&prefix) {
            self.table.set(prefix, Route::device(ifname));
        } else if self.blocks.contains(&prefix) {
            self.table.set(prefix, Route::blackhole());
        } else if let Some(via) = self.resolved(prefix) {
            self.table.set(prefix, Route::via(via));
        } else {
            self.table.remove(prefix);
        }
    }

    fn resolved(&mut self, prefix: IpNetwork) -> Option<Vec<NextHop>> {
        let next_hops = self.learned.get(&prefix)?;
        let mut via: Vec<NextHop> = Vec::with_capacity(next_hops.len());
        for next_hop in next_hops {
            // Several next hops may lie behind one gateway, which the kernel wants to hear of once.
            if let Some(resolved) = self.resolver.resolve(*next_hop)
                && !via.contains(&resolved)
            {
                via.push(resolved);
            }
        }
        (!via.is_empty()).then_some(via)
    }
}
