//! The routes of this host: its endpoints, its blocks, ways that pools prescribe, and what BGP learned.
//!
//! For one prefix an endpoint of our own wins over a block, a block over a prescribed way, and that over what a peer
//! says: a peer's more specific routes inside of it do not count, for they would lead around the tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use margay_dataplane::netlink::NetlinkError;
use margay_dataplane::overlay::{IPIP, VXLAN_V4, VXLAN_V6};
use margay_dataplane::resolve::{Resolver, Router};
use margay_dataplane::route_table::{
    ApplyReport, Config, NextHop, PROTO_MARGAY, Route, RouteTable,
};
use margay_model::kind::ResourceKey;
use tracing::warn;

use crate::derive::Through;

/// Everything that wants a route, and the table.
pub(super) struct Routes {
    table: RouteTable,
    resolver: Resolver,
    endpoints: BTreeMap<IpNetwork, (ResourceKey, String)>,
    /// The addresses of each endpoint, routed to it unless a newer endpoint has the address too.
    of_endpoint: BTreeMap<ResourceKey, Vec<IpNetwork>>,
    blocks: BTreeSet<IpNetwork>,
    learned: BTreeMap<IpNetwork, Vec<Router>>,
    /// What pools prescribe, and the largest packet where that is less than the device's.
    ways: BTreeMap<IpNetwork, (Through, Option<u32>)>,
    /// The devices that encrypt, by family.
    wireguard: [Option<String>; 2],
    /// How many of them have each length.
    way_lengths: BTreeMap<u8, usize>,
    /// The table was brought in line with the kernel at least once.
    adopted: bool,
    /// Somebody waits for the endpoints' routes, and not for the others.
    hurried: bool,
}

/// From so many routes on, reading them back takes tenths of a second, and seconds on a busy machine.
const LONG: usize = 10_000;

impl Routes {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            table: RouteTable::open(Config::default())?,
            resolver: Resolver::open(PROTO_MARGAY)?,
            endpoints: BTreeMap::new(),
            of_endpoint: BTreeMap::new(),
            blocks: BTreeSet::new(),
            learned: BTreeMap::new(),
            ways: BTreeMap::new(),
            wireguard: [None, None],
            way_lengths: BTreeMap::new(),
            adopted: false,
            hurried: true,
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
    pub(super) fn set_learned(&mut self, prefix: IpNetwork, next_hops: Vec<Router>) {
        if next_hops.is_empty() {
            self.learned.remove(&prefix);
        } else {
            self.learned.insert(prefix, next_hops);
        }
        self.decide(prefix);
    }

    /// A pool prescribes the way to a prefix, or does no more.
    pub(super) fn set_way(&mut self, prefix: IpNetwork, way: Option<(Through, Option<u32>)>) {
        let length = prefix.prefix();
        let (before, is_set) = match way {
            Some(way) => (self.ways.insert(prefix, way), true),
            None => (self.ways.remove(&prefix), false),
        };
        if before.is_some() != is_set {
            let count = self.way_lengths.entry(length).or_default();
            match is_set {
                true => *count += 1,
                false => *count -= 1,
            }
            if *count == 0 {
                self.way_lengths.remove(&length);
            }
            let inside = self.learned.range(prefix..).map(|(net, _)| *net);
            let inside = inside.take_while(|net| prefix.contains(net.network()));
            for net in inside.collect::<Vec<_>>() {
                self.decide(net);
            }
        }
        self.decide(prefix);
    }

    /// The devices that encrypt have these names.
    pub(super) fn set_wireguard(&mut self, devices: [Option<&str>; 2]) {
        let devices = devices.map(|name| name.map(str::to_owned));
        if std::mem::replace(&mut self.wireguard, devices.clone()) == devices {
            return;
        }
        let encrypted = self.ways.iter();
        let encrypted = encrypted.filter(|(_, (way, _))| matches!(way, Through::Wireguard(_)));
        for net in encrypted.map(|(net, _)| *net).collect::<Vec<_>>() {
            self.decide(net);
        }
    }

    /// The limits of ways may have changed.
    pub(super) fn refresh_limits(&mut self, limit: impl Fn(Through) -> Option<u32>) {
        let mut changed = Vec::new();
        for (prefix, (through, known)) in &mut self.ways {
            let now = limit(*through);
            if std::mem::replace(known, now) != now {
                changed.push(*prefix);
            }
        }
        for prefix in changed {
            self.decide(prefix);
        }
    }

    /// Whether a way leads to a network that the prefix is in.
    fn has_way(&self, prefix: IpNetwork) -> bool {
        let lengths = self.way_lengths.range(..=prefix.prefix());
        lengths.into_iter().any(|(length, _)| {
            let around = IpNetwork::new(prefix.network(), *length);
            let around = around
                .ok()
                .and_then(|net| IpNetwork::new(net.network(), *length).ok());
            around.is_some_and(|net| self.ways.contains_key(&net))
        })
    }

    /// The host's own routes, links or addresses changed: next hops may resolve to something else.
    pub(super) fn refresh_next_hops(&mut self) {
        let plain = self.ways.values().filter_map(|(through, _)| match through {
            Through::Plain(host) => Some(Router::of(*host)),
            _ => None,
        });
        let learned = self.learned.values().flatten().copied();
        let used: BTreeSet<Router> = learned.chain(plain).collect();
        self.resolver.retain(|next_hop| used.contains(next_hop));
        if self.resolver.refresh() {
            let prefixes = self.learned.keys().chain(self.ways.keys()).copied();
            for prefix in prefixes.collect::<Vec<_>>() {
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

    /// Nobody waits for the endpoints' routes any more. Whether all others still have to be looked at.
    pub(super) fn take_time(&mut self) -> bool {
        self.hurried = false;
        !self.adopted
    }

    pub(super) fn apply(&mut self) -> ApplyReport {
        if self.adopted {
            return self.table.apply();
        }
        if self.hurried && self.table.is_longer_than(LONG).unwrap_or(false) {
            // What was read of them is read again with all others.
            return self.table.apply_hosts().unwrap_or_default();
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
                let differing = report.missing + report.different + report.unwanted;
                // What the first look finds is what an agent before has left.
                let is_drift = std::mem::replace(&mut self.adopted, true);
                (if is_drift { differing } else { 0 }, report.repair)
            }
            Err(error) => {
                warn!(%error, "cannot read the kernel's routes");
                (0, self.table.apply())
            }
        }
    }

    fn decide(&mut self, prefix: IpNetwork) {
        let route = if let Some((_, ifname)) = self.endpoints.get(&prefix) {
            Some(Route::device(ifname))
        } else if self.blocks.contains(&prefix) {
            Some(Route::blackhole())
        } else if let Some((through, limit)) = self.ways.get(&prefix).copied() {
            self.by_way(prefix, through, limit)
        } else if self.has_way(prefix) {
            None
        } else {
            self.by_next_hops(prefix)
        };
        match route {
            Some(route) => self.table.set(prefix, route),
            None => self.table.remove(prefix),
        }
    }

    fn by_way(&mut self, prefix: IpNetwork, through: Through, limit: Option<u32>) -> Option<Route> {
        let vxlan = match prefix.is_ipv4() {
            true => VXLAN_V4,
            false => VXLAN_V6,
        };
        let route = match through {
            Through::Plain(host) => {
                let resolved = self.resolver.resolve(Router::of(host))?;
                return Some(Route::via([resolved.hop]).with_mtu(resolved.mtu));
            }
            Through::Vtep => Route::device(vxlan),
            Through::Vxlan { vtep, .. } => Route::via([NextHop::new(vtep).on(vxlan).onlink()]),
            Through::Ipip(host) => Route::via([NextHop::new(host).on(IPIP).onlink()]),
            Through::Wireguard(_) => {
                Route::device(self.wireguard[usize::from(!prefix.is_ipv4())].as_deref()?)
            }
            Through::Learned => return self.by_next_hops(prefix),
        };
        Some(route.with_mtu(limit))
    }

    fn by_next_hops(&mut self, prefix: IpNetwork) -> Option<Route> {
        self.resolver.route(self.learned.get(&prefix)?)
    }
}
