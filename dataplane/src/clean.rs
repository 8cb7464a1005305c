//! Everything of ours on a host, told and taken away: for a host that is to be without us.
//!
//! What is ours is recognised as a fresh agent does: routes by their protocol number, tables, chains and sets by their
//! names, tunnel devices by theirs, containers' interfaces by name and hardware address. Nothing else is touched.

use std::fmt;

use crate::attach::{self, AttachError, HOST_MAC};
use crate::filter::{self, Backend, Filter, FilterError, Programs, Wish};
use crate::link;
use crate::netlink::{NetlinkError, RequestError, Socket};
use crate::overlay::{self, OverlayError};
use crate::route_table::{
    self, Action, Change, KernelRoute, MAIN_TABLE, PROTO_MARGAY, RouteKernel,
};

/// Changes in one `send`.
const BATCH: usize = 256;

/// Why something of ours could not be read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The kernel could not be asked.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// A route stays.
    #[error("route {0} stays: {1}")]
    Route(ipnetwork::IpNetwork, RequestError),
    /// A tunnel device stays.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// An interface of a container stays.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Rules or sets stay.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// What there is of ours.
#[derive(Debug, Default)]
pub struct Found {
    /// Host ends of containers' interfaces.
    pub interfaces: Vec<String>,
    /// Routes of the main table.
    pub routes: Vec<KernelRoute>,
    /// Tunnel devices, and addresses on the kernel's own, in words.
    pub tunnels: Vec<String>,
    /// Where there are rules.
    pub rules: Vec<Backend>,
    /// ipsets.
    pub sets: Vec<String>,
}

impl Found {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines().next().is_none()
    }

    /// Each thing in words.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let interfaces = self
            .interfaces
            .iter()
            .map(|name| format!("interface {name}"));
        let routes = self.routes.iter().map(|route| {
            let kind = match i32::from(route.kind) {
                kind if kind == i32::from(libc::RTN_BLACKHOLE) => "blackhole ",
                _ => "",
            };
            format!("route {kind}{} metric {}", route.prefix, route.metric)
        });
        let rules = self.rules.iter().map(|backend| match backend {
            Backend::Nftables => "table inet margay in nftables".to_owned(),
            Backend::Iptables(_) => format!("chains mgy-* in {backend}"),
        });
        let sets = self.sets.iter().map(|name| format!("ipset {name}"));
        let tunnels = self.tunnels.iter().cloned();
        interfaces
            .chain(routes)
            .chain(tunnels)
            .chain(rules)
            .chain(sets)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Looks what there is of ours in the calling thread's network namespace. Changes nothing. `prefix` is that of
/// containers' interfaces.
///
/// # Errors
/// The kernel does not answer.
pub fn look(prefix: &str) -> Result<Found, CleanError> {
    let mut socket = Socket::route()?;
    let ours = |link: &link::Link| link.kind == "veth" && link.mac == Some(HOST_MAC);
    let links = link::list(&mut socket, prefix)?.into_iter().filter(ours);
    let routes = route_table::dump(&mut socket, MAIN_TABLE)?;
    let programs = Programs::default();
    Ok(Found {
        interfaces: links.map(|link| link.name).collect(),
        routes: routes
            .into_iter()
            .filter(|route| route.protocol == PROTO_MARGAY)
            .collect(),
        tunnels: overlay::clean(&mut socket, true)?,
        rules: filter::left_behind(&programs),
        sets: filter::sets_left_behind(),
    })
}

/// Removes what was found, and what goes with it. Containers lose their interfaces before the rules that guard them go.
///
/// # Errors
/// The first thing that stays; what was removed before stays removed.
pub fn clean(found: &Found) -> Result<(), CleanError> {
    let mut socket = Socket::route()?;
    attach::remove_many(&found.interfaces)?;
    let deletion = |route: &KernelRoute| Change {
        action: Action::Delete,
        route: route.clone(),
    };
    let changes: Vec<Change> = found.routes.iter().map(deletion).collect();
    for batch in changes.chunks(BATCH) {
        let errors = RouteKernel::send(&mut socket, MAIN_TABLE, batch)?;
        // Those through an interface went with it.
        if let Some((place, error)) = errors.into_iter().find(|(_, e)| !e.is_missing()) {
            return Err(CleanError::Route(batch[place].route.prefix, error));
        }
    }
    overlay::clean(&mut socket, false)?;
    if !found.rules.is_empty() || !found.sets.is_empty() {
        let backend = match found.rules.first() {
            Some(backend) => Wish::Exactly(*backend),
            None => Wish::Auto,
        };
        let config = filter::Config {
            backend,
            ..filter::Config::default()
        };
        Filter::open(config)?.clean()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Endpoint, PolicyRules};
    use crate::lab::NetNs;
    use crate::overlay::{Overlay, VxlanSpec, Wanted};
    use crate::route_table::{Config, Route, RouteTable};

    /// Rules, routes and a device, as an agent leaves them.
    fn leave_everything(backend: Backend) {
        let config = filter::Config {
            backend: Wish::Exactly(backend),
            ..filter::Config::default()
        };
        let mut filter = Filter::open(config).unwrap();
        filter.set_profile("open".into(), PolicyRules::default());
        let endpoint = Endpoint {
            ifname: "mgy1".into(),
            addresses: vec!["10.65.0.2/32".parse().unwrap()],
            ingress: Default::default(),
            egress: Default::default(),
            profiles: vec!["open".into()],
            admin_up: true,
            allowed_source_prefixes: Vec::new(),
            limits: Default::default(),
            host_ports: Vec::new(),
        };
        filter.set_endpoint("e".into(), endpoint).unwrap();
        let report = filter.apply();
        assert!(report.is_ok(), "{:?}", report.failures);
        let mut table = RouteTable::open(Config::default()).unwrap();
        table.set("10.65.0.0/26".parse().unwrap(), Route::blackhole());
        table.set("fd00:65::/122".parse().unwrap(), Route::blackhole());
        table.set("10.65.0.2/32".parse().unwrap(), Route::device("mgy1"));
        assert!(table.apply().failed.is_empty());
        let mut overlay = Overlay::open().unwrap();
        overlay.set(Wanted {
            vxlan_v4: Some(VxlanSpec {
                vni: 4096,
                port: 4789,
                local: [192, 0, 2, 1].into(),
                mac: [0x66, 0, 0, 0, 0, 1],
                mtu: 1450,
                address: None,
                peers: Default::default(),
            }),
            ..Wanted::default()
        });
        assert!(overlay.prepare().failures.is_empty());
    }

    /// Things of others that look alike.
    fn foreign(ns: &NetNs) {
        for args in [
            "link add mgyother type veth peer name peer0",
            "link add vxlan.calico type vxlan id 77 dstport 4790 nolearning local 192.0.2.1",
            "link add mgy1 type veth peer name peer1",
            "link set mgy1 address ee:ee:ee:ee:ee:ee up",
            "route add blackhole 10.65.0.64/26 proto 80",
            "route add blackhole 10.65.0.0/26 metric 5",
            "-6 route add blackhole fd00:66::/122 proto 12",
        ] {
            ns.ip(args);
        }
        for line in [
            "iptables -N cali-FORWARD",
            "iptables -A FORWARD -j cali-FORWARD",
            "iptables-legacy -N theirs",
            "ipset create cali40s hash:net",
            "ipset create mgyzebra hash:net",
            "nft add table inet theirs",
            "nft add chain inet theirs forward { type filter hook forward priority 0 ; }",
        ] {
            let (done, said) = ns.command(line);
            assert!(done, "{line}: {said}");
        }
    }

    fn of_others(ns: &NetNs) -> String {
        let commands = [
            "ip route show",
            "ip -6 route show proto 12",
            "iptables -S FORWARD",
            "iptables-legacy -S",
            "ipset list -n",
            "nft list table inet theirs",
        ];
        let mut text: String = commands.iter().map(|line| ns.command(line).1).collect();
        let links = ns.ip("-o link show");
        let names = links.lines().filter_map(|line| line.split(": ").nth(1));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        text += &names.join(" ");
        text
    }

    #[test]
    fn all_of_ours_is_told_then_removed_and_nothing_of_others_is_touched() {
        for backend in Backend::ALL {
            let ns = NetNs::new();
            foreign(&ns);
            ns.run(|| {
                // The container's interface is ours, and goes.
                let without = of_others(&ns)
                    .replace("mgy1@peer1 ", "")
                    .replace(" peer1@mgy1", "");
                assert!(look("mgy").unwrap().rules.is_empty());
                leave_everything(backend);
                let before = of_others(&ns);
                let found = look("mgy").unwrap();
                assert_eq!(found.interfaces, ["mgy1"]);
                assert_eq!(found.routes.len(), 3, "{found}");
                assert_eq!(found.tunnels, ["interface vxlan.margay"]);
                assert_eq!(found.rules, [backend]);
                let with_sets = backend != Backend::Nftables;
                assert_eq!(!found.sets.is_empty(), with_sets, "{found}");
                assert!(
                    found
                        .to_string()
                        .contains("route blackhole 10.65.0.0/26 metric 77")
                );
                assert_eq!(of_others(&ns), before, "looking changes nothing");
                clean(&found).unwrap();
                let left = look("mgy").unwrap();
                assert!(left.is_empty(), "{backend}: {left}");
                assert_eq!(of_others(&ns), without, "{backend}");
                clean(&left).unwrap();
                assert_eq!(of_others(&ns), without, "{backend}");
            });
        }
    }
}
