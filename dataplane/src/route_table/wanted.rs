//! Routes as they are wanted: by interface names, which outlive indexes.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::{FailureReason, KernelHop, KernelRoute, METRIC_MARGAY, RouteMtu};

/// A wanted route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub target: Target,
    /// Preference among routes for the same prefix, lowest first.
    pub metric: u32,
    /// No packet larger than this, in bytes, whatever routers on the way report; the interface's own limit if none.
    pub mtu: Option<u32>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The destination is on this interface's link.
    Device {
        /// The interface.
        ifname: Arc<str>,
        /// Source address for packets of the host's own.
        src: Option<IpAddr>,
    },
    /// Through one of these routers, packets of one flow through the same. Shared, as many prefixes have the same.
    Via(Arc<[NextHop]>),
    /// Packets are dropped: for a block of addresses of which more specific routes exist for those in use.
    Blackhole,
}

impl Target {
    /// On a link, or nowhere.
    pub(super) const fn is_direct(&self) -> bool {
        !matches!(self, Self::Via(_))
    }
}

/// A router on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Its address; an IPv4 route may have an IPv6 one (RFC 5549).
    pub gateway: IpAddr,
    /// The interface; none lets the kernel find it. Needed for a link-local gateway and for `onlink`.
    pub ifname: Option<Arc<str>>,
    /// Take the gateway for reachable on the interface without looking it up.
    pub onlink: bool,
    /// Share of the traffic beside the others, 1 to 256; 0 counts as 1.
    pub weight: u16,
}

impl NextHop {
    /// A router that the kernel finds the interface for, with weight 1.
    #[must_use]
    pub const fn new(gateway: IpAddr) -> Self {
        Self {
            gateway,
            ifname: None,
            onlink: false,
            weight: 1,
        }
    }

    /// The same on a given interface.
    #[must_use]
    pub fn on(mut self, ifname: &str) -> Self {
        self.ifname = Some(ifname.into());
        self
    }

    /// The same, taken for reachable on its interface.
    #[must_use]
    pub const fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }
}

impl Route {
    /// A route to what is on an interface's link.
    #[must_use]
    pub fn device(ifname: &str) -> Self {
        Self::to(Target::Device {
            ifname: ifname.into(),
            src: None,
        })
    }

    /// A route through routers.
    #[must_use]
    pub fn via(next_hops: impl Into<Arc<[NextHop]>>) -> Self {
        Self::to(Target::Via(next_hops.into()))
    }

    /// A route to nowhere.
    #[must_use]
    pub const fn blackhole() -> Self {
        Self::to(Target::Blackhole)
    }

    /// The same with another metric.
    #[must_use]
    pub const fn with_metric(mut self, metric: u32) -> Self {
        self.metric = metric;
        self
    }

    /// The same with a limit to the size of packets.
    #[must_use]
    pub const fn with_mtu(mut self, mtu: Option<u32>) -> Self {
        self.mtu = mtu;
        self
    }

    /// The same with a source address for packets of the host's own, where it is to a device.
    #[must_use]
    pub fn with_src(mut self, address: IpAddr) -> Self {
        if let Target::Device { src, .. } = &mut self.target {
            *src = Some(address);
        }
        self
    }

    const fn to(target: Target) -> Self {
        Self {
            target,
            metric: METRIC_MARGAY,
            mtu: None,
        }
    }

    /// The interfaces it names.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &Arc<str>> {
        let (device, hops) = match &self.target {
            Target::Device { ifname, .. } => (Some(ifname), &[][..]),
            Target::Via(hops) => (None, &hops[..]),
            Target::Blackhole => (None, &[][..]),
        };
        device
            .into_iter()
            .chain(hops.iter().filter_map(|hop| hop.ifname.as_ref()))
    }
}

/// A kernel route without its target.
pub(super) fn bare(prefix: IpNetwork, protocol: u8, route: &Route) -> KernelRoute {
    let kind = match route.target {
        Target::Blackhole => libc::RTN_BLACKHOLE,
        _ => libc::RTN_UNICAST,
    };
    KernelRoute {
        prefix,
        protocol,
        metric: route.metric,
        kind,
        src: None,
        mtu: route.mtu.map(|bytes| RouteMtu {
            bytes,
            locked: true,
        }),
        hops: Vec::new(),
    }
}

/// Turns names into indexes.
pub(super) fn resolve(
    prefix: IpNetwork,
    protocol: u8,
    route: &Route,
    index_of: &mut dyn FnMut(&Arc<str>) -> Result<u32, FailureReason>,
) -> Result<KernelRoute, FailureReason> {
    let mut resolved = bare(prefix, protocol, route);
    match &route.target {
        Target::Device { ifname, src } => {
            let index = Some(index_of(ifname)?);
            resolved.src = *src;
            resolved.hops.push(KernelHop {
                gateway: None,
                index,
                onlink: false,
                weight: 1,
            });
        }
        Target::Via(hops) => {
            for hop in hops.iter() {
                resolved.hops.push(KernelHop {
                    gateway: Some(hop.gateway),
                    index: hop.ifname.as_ref().map(&mut *index_of).transpose()?,
                    onlink: hop.onlink,
                    weight: if hops.len() == 1 {
                        1
                    } else {
                        hop.weight.clamp(1, 256)
                    },
                });
            }
        }
        Target::Blackhole => {}
    }
    Ok(resolved)
}

/// Whether the kernel's route does what is wanted. The order of its hops does not count, nor an interface that is left
/// to the kernel, nor `onlink`, which says how a route was checked rather than where it leads.
pub(super) fn same(wanted: &KernelRoute, kernel: &KernelRoute) -> bool {
    let matches = |w: &KernelHop, k: &KernelHop| {
        w.gateway == k.gateway && w.weight == k.weight && (w.index.is_none() || w.index == k.index)
    };
    let mut rest = kernel.hops.clone();
    let all = wanted.hops.iter().all(|w| {
        let place = rest.iter().position(|k| matches(w, k));
        place.map(|place| rest.swap_remove(place)).is_some()
    });
    let same_otherwise =
        wanted.kind == kernel.kind && wanted.src == kernel.src && wanted.mtu == kernel.mtu;
    all && rest.is_empty() && same_otherwise
}
