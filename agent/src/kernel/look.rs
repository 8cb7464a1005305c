//! When the kernel's state is looked at: what its events say of it, and the times at which it is read back whatever they say.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use margay_dataplane::attach::{self, GATEWAY_V6};
use margay_dataplane::filter::Backend;
use margay_dataplane::monitor::Event;
use margay_dataplane::nft::{Concern, Watch};
use margay_dataplane::route_table::PROTO_MARGAY;
use margay_dataplane::sysctl;
use margay_policy::program::EndpointPlan;
use tracing::{debug, info, warn};

use super::Kernel;
use crate::causes::in_full;
use crate::meters::Meters;

/// How often rules and sets go that no endpoint needs any more. Until then the next container that needs
/// them costs no run of iptables: on a quiet host, every container is the first and the last of its kind.
pub(super) const SWEEP: Duration = Duration::from_secs(600);

/// How long after a hint of drift the routes, or the rules, are looked at: a burst of events is one look.
const SETTLE: Duration = Duration::from_millis(50);

/// Between two looks at rules in iptables because of what others do there, since each runs a program for each family.
const PAUSE: Duration = Duration::from_secs(1);

/// The kind of the devices that what containers send is queued on.
const IFB: &str = "ifb";

/// What is known of the interfaces of containers.
#[derive(Default)]
pub(super) struct Interfaces {
    /// When to look, after somebody changed one or took away a queue, or the path got smaller.
    pub(super) look_at: Option<Instant>,
    /// There is a reason to look that no later event takes back.
    must_look: bool,
    /// Interfaces that were not as they should be when they were last told of, by index. The making of one is told of too,
    /// some of it when its endpoint is already known.
    amiss: BTreeSet<u32>,
    /// The MTU of the path to other hosts at the last slow look.
    path_mtu: Option<u32>,
    /// That at the last look of any kind.
    followed: Option<u32>,
    /// What was not as it should be, in words.
    refused: BTreeSet<String>,
}

impl Interfaces {
    /// Takes an event in. Whether somebody may have changed an interface of a container, or its queues; `is_wanted` tells
    /// of a name whether a container is to be behind it.
    fn heard(&mut self, event: &Event, is_wanted: impl Fn(&str) -> bool) -> bool {
        match event {
            Event::Queue(_) => self.must_look = true,
            // What a container sends may be queued on it: then all of that is dropped now.
            Event::LinkGone(link) if link.kind == IFB => self.must_look = true,
            Event::Link(link) if link.kind == IFB && !link.up => self.must_look = true,
            Event::Link(link) => {
                let is_amiss = attach::is_amiss(link).is_some_and(|name| is_wanted(&name));
                if !is_amiss {
                    self.amiss.remove(&link.index);
                    return false;
                }
                self.amiss.insert(link.index);
            }
            Event::LinkGone(link) => {
                self.amiss.remove(&link.index);
                return false;
            }
            _ => return false,
        }
        true
    }

    /// Whether there is still a reason for the look that is due.
    fn take_reasons(&mut self) -> bool {
        self.look_at = None;
        let amiss = std::mem::take(&mut self.amiss);
        std::mem::take(&mut self.must_look) || !amiss.is_empty()
    }

    fn look_soon(&mut self) {
        self.look_at.get_or_insert(Instant::now() + SETTLE);
    }

    /// Whether the path to other hosts takes less than at the last look.
    pub(super) fn are_behind(&self, path_mtu: Option<u32>) -> bool {
        path_mtu.is_some_and(|path| self.followed.is_none_or(|followed| path < followed))
    }
}

/// What the monitor told of at once.
#[derive(Default)]
pub(super) struct Heard {
    links: u32,
    addresses: u32,
}

impl Heard {
    pub(super) fn of(&mut self, event: Event) -> Event {
        match &event {
            Event::Link(_) | Event::LinkGone(_) => self.links += 1,
            Event::Address(_) | Event::AddressGone(_) => self.addresses += 1,
            _ => {}
        }
        event
    }

    pub(super) fn tell(self, meters: &Meters) {
        if self.links > 0 {
            meters.link_batch.observe(self.links.into());
        }
        if self.addresses > 0 {
            meters.address_batch.observe(self.addresses.into());
        }
    }
}

impl Kernel {
    pub(super) fn notice(&mut self, event: Event) {
        let plans = &self.plans;
        let is_wanted = |ifname: &str| {
            let mut plans = plans.values();
            plans.any(|plan| plan.admin_up && plan.ifname == ifname)
        };
        if self.interfaces.heard(&event, is_wanted) {
            self.interfaces.look_soon();
        }
        match event {
            // A container's interface leads nowhere else: its own routes are all that can be lost with it.
            Event::Link(link) | Event::LinkGone(link)
                if link.name.starts_with(&self.interface_prefix) =>
            {
                if self.routes.on_link_event(&link.name) {
                    self.apply_soon();
                }
            }
            Event::Link(link) => {
                if self.overlay.is_ours(link.index) {
                    self.overlay.invalidate();
                }
                self.routes.on_link_event(&link.name);
                self.look_soon();
            }
            Event::Neighbour(index) => {
                if self.overlay.is_ours(index) {
                    self.overlay.invalidate();
                    self.apply_soon();
                }
            }
            Event::Queue(_) => {}
            // What an attachment brings about: the gateway's address, and the kernel's own routes for it.
            Event::Address(address) | Event::AddressGone(address)
                if address.address.ip() == GATEWAY_V6 => {}
            Event::Route(route) | Event::RouteGone(route) if is_link_scope(route.prefix) => {}
            Event::Route(route) if route.protocol == PROTO_MARGAY => {}
            // A route of ours that somebody took away, or routes of others that next hops lie behind.
            Event::LinkGone(_)
            | Event::Address(_)
            | Event::AddressGone(_)
            | Event::Route(_)
            | Event::RouteGone(_)
            | Event::Resync => {
                if !matches!(event, Event::Route(_) | Event::RouteGone(_)) {
                    self.overlay.invalidate();
                }
                self.look_soon();
            }
        }
    }

    pub(super) fn look_soon(&mut self) {
        self.look_at_routes = self.look_at_routes.min(Instant::now() + SETTLE);
    }

    /// Somebody else changed rules of ours, or what leads to them.
    pub(super) fn look_at_rules_soon(&mut self) {
        let soon = Instant::now() + SETTLE;
        let pause = match self.filter.backend() {
            Backend::Nftables => Duration::ZERO,
            Backend::Iptables(_) => PAUSE,
        };
        self.look_at_rules = Some(soon.max(self.looked_at_rules + pause));
    }

    pub(super) fn look_at_interfaces_soon(&mut self) {
        self.interfaces.must_look = true;
        self.interfaces.look_soon();
    }

    pub(super) fn apply_soon(&mut self) {
        let soon = Instant::now() + SETTLE;
        self.retry = Some(self.retry.map_or(soon, |retry| retry.min(soon)));
    }

    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.look_at_all {
            self.look_at_all = now + self.resync;
            self.look_at_routes = now;
            self.look_at_rules = Some(now);
            self.overlay.invalidate();
            self.look_at_interfaces(true);
            self.look_at_switches();
        }
        if self.interfaces.look_at.is_some_and(|at| now >= at) && self.interfaces.take_reasons() {
            self.look_at_interfaces(false);
        }
        if self.look_at_rules.is_some_and(|at| now >= at) {
            self.look_at_rules = None;
            self.looked_at_rules = now;
            self.filter.resync();
        }
        if now >= self.sweep {
            self.sweep = now + SWEEP;
            self.drop_unused();
        }
        if now >= self.look_at_routes {
            self.look_at_routes = self.look_at_all;
            self.hosts.interfaces_changed();
            if self.overlay.refresh() {
                let overlay = &self.overlay;
                self.routes.refresh_limits(|through| overlay.limit(through));
            }
            for problem in self.overlay.prepare() {
                debug!(problem, "a tunnel is not as it should be");
            }
            self.routes.refresh_next_hops();
            let begun = Instant::now();
            let (drift, _) = self.routes.resync();
            self.meters.route_look.took(begun.elapsed());
            self.meters.route_drift.add(drift as u64);
            if drift > 0 {
                info!(routes = drift, "kernel routes differed and were repaired");
            }
        }
        self.apply();
    }

    /// Before the switches: interfaces lose some of them when they go down. Where the path to other hosts gets smaller,
    /// containers follow at once; where it gets larger, at the second slow look that finds it so, for a path that is lost
    /// for a moment is none that takes more.
    fn look_at_interfaces(&mut self, is_slow: bool) {
        self.interfaces.take_reasons();
        let path_mtu = self.overlay.path_mtu().filter(|_| self.in_sync);
        let may_grow = is_slow && self.interfaces.path_mtu == path_mtu;
        if is_slow {
            self.interfaces.path_mtu = path_mtu;
        }
        self.interfaces.followed = path_mtu;
        let up = self.plans.values().filter(|plan| plan.admin_up);
        let ends = up.map(|plan| (plan.ifname.as_str(), has_ipv6(plan)));
        let wanted = attach::Wanted {
            ends: ends.collect(),
            path_mtu,
            may_grow,
        };
        let repaired = match attach::repair(&wanted) {
            Ok(repaired) => repaired,
            Err(error) => {
                warn!(%error, "interfaces of containers cannot be looked at");
                return;
            }
        };
        let attach::Repaired {
            parts,
            switches,
            followed: containers,
            refused,
        } = repaired;
        self.meters.interface_drift.add(parts as u64);
        self.meters.switch_drift.add(switches as u64);
        if parts + switches > 0 {
            info!(
                parts,
                switches, "interfaces of containers differed and were repaired"
            );
        }
        if containers > 0 {
            info!(
                containers,
                mtu = path_mtu,
                "containers have the MTU of the path to other hosts"
            );
        }
        let refused: BTreeSet<String> = refused.iter().map(|error| in_full(error)).collect();
        for problem in refused.difference(&self.interfaces.refused) {
            warn!(
                problem,
                "an interface of a container is not as it should be"
            );
        }
        self.interfaces.refused = refused;
    }

    fn look_at_switches(&self) {
        let workloads = self.plans.values().filter(|plan| plan.admin_up);
        let workloads = workloads.map(|plan| sysctl::repair_workload(&plan.ifname, has_ipv6(plan)));
        // The host's first: switched off, it switches all interfaces off.
        for repaired in std::iter::once_with(sysctl::repair_host).chain(workloads) {
            match repaired {
                Ok(0) => {}
                Ok(switches) => {
                    self.meters.switch_drift.add(switches as u64);
                    info!(switches, "kernel switches differed and were repaired");
                }
                Err(error) => warn!(%error, "a kernel switch is not as it should be"),
            }
        }
    }
}

fn has_ipv6(plan: &EndpointPlan) -> bool {
    plan.addresses.iter().any(|net| !net.is_ipv4())
}

/// Somebody else made a change in nf_tables that concerns our rules.
pub(super) async fn changed_by_others(
    watch: &mut Option<Watch>,
    concern: Option<Concern>,
) -> std::io::Result<()> {
    match (watch, concern) {
        (Some(watch), Some(concern)) => watch.changed(&concern).await,
        _ => std::future::pending().await,
    }
}

/// Multicast and link-local destinations, which no next hop lies behind.
fn is_link_scope(prefix: IpNetwork) -> bool {
    match prefix {
        IpNetwork::V4(v4) => v4.ip().is_multicast() || v4.ip().is_link_local(),
        IpNetwork::V6(v6) => v6.ip().is_multicast() || v6.ip().is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use margay_dataplane::attach::HOST_MAC;
    use margay_dataplane::link::Link;

    use super::*;

    fn link(index: u32, up: bool) -> Link {
        Link {
            index,
            name: format!("mgy{index}"),
            mac: Some(HOST_MAC),
            mtu: 1500,
            up,
            running: up,
            peer_index: Some(index + 100),
            peer_netns_id: Some(1),
            kind: "veth".into(),
            alias: String::new(),
        }
    }

    #[test]
    fn the_making_of_an_interface_is_no_reason_to_look_at_all_of_them() {
        let mut interfaces = Interfaces::default();
        assert!(interfaces.heard(&Event::Link(link(1, false)), |_| true));
        interfaces.look_soon();
        assert!(!interfaces.heard(&Event::Link(link(1, true)), |_| true));
        assert!(interfaces.heard(&Event::Link(link(2, false)), |_| true));
        assert!(!interfaces.heard(&Event::LinkGone(link(2, false)), |_| true));
        assert!(!interfaces.heard(&Event::Link(link(3, false)), |name| name != "mgy3"));
        assert!(!interfaces.take_reasons());
        assert_eq!(interfaces.look_at, None);
    }

    #[test]
    fn what_was_left_amiss_is_a_reason_and_so_is_a_queue_whatever_comes_after() {
        let mut interfaces = Interfaces::default();
        assert!(interfaces.heard(&Event::Link(link(1, false)), |_| true));
        assert!(!interfaces.heard(&Event::Link(link(2, true)), |_| true));
        assert!(interfaces.take_reasons() && !interfaces.take_reasons());
        assert!(interfaces.heard(&Event::Queue(1), |_| true));
        assert!(!interfaces.heard(&Event::Link(link(1, true)), |_| true));
        assert!(interfaces.take_reasons() && !interfaces.take_reasons());
    }
}
