//! The chains of the host's own interfaces: what it receives, sends and forwards.
//!
//! ```text
//! in:  raw (untracked) -> mangle (before DNAT) -> filter INPUT (own) | FORWARD (forwarded)
//! out: raw (untracked) -> filter OUTPUT (own)                        | FORWARD (forwarded)
//! ```
//! A packet that an early phase accepts carries the accept bit, which lets it past the later phases of
//! the host, not past the policy of workloads. Failsafe ports come first everywhere but on `FORWARD`.

use std::collections::BTreeMap;

use super::{
    chains::{ChainText, ESTABLISHED, INVALID, Verdicts, WalkEnd, walk},
    names::{self, HostWay, Way},
    types::{Direction, Failsafe, Family, Globals, HostEndpoint, HostInterface, Ways},
};
use crate::iptables::{Rank, Table};

/// The endpoints of the host, by interface.
pub(super) type Hosts = BTreeMap<HostInterface, HostEndpoint>;

const NOTRACK: &str = "mgy-notrack";
const OUT_DISPATCH: &str = "mgy-hfwd-to";

/// ICMPv6 without which no IPv6 works: router and neighbour solicitation and advertisement, multicast
/// listener messages.
const DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

/// Chains of others that are hooked only while the table is needed.
pub(super) const EARLY_HOOKS: [(Table, &str, &str); 2] = [
    (Table::Raw, "OUTPUT", "mgy-OUTPUT"),
    (Table::Mangle, "PREROUTING", "mgy-PREROUTING"),
];

/// The chains that the fixed ones jump to, whatever endpoints there are.
pub(super) const DISPATCH: [(Table, &str); 5] = [
    (Table::Raw, "mgy-host-in"),
    (Table::Filter, "mgy-host-in"),
    (Table::Filter, "mgy-host-out"),
    (Table::Filter, "mgy-hfwd-in"),
    (Table::Filter, "mgy-hfwd-out"),
];

/// Whether any endpoint has untracked policy, and whether any has policy before DNAT.
#[derive(Clone, Copy)]
pub(super) struct Early {
    pub(super) raw: bool,
    pub(super) mangle: bool,
}

impl Early {
    pub(super) fn of(hosts: &Hosts) -> Self {
        let both = |ways: &Ways| ways.ingress.applies() || ways.egress.applies();
        Self {
            raw: hosts.values().any(|host| both(&host.untracked)),
            mangle: hosts.values().any(|host| host.pre_dnat.applies()),
        }
    }

    fn any(self) -> bool {
        self.raw || self.mangle
    }
}

/// Empty chains for the fixed ones to jump to.
pub(super) fn none() -> impl Iterator<Item = ChainText> {
    DISPATCH
        .into_iter()
        .map(|(table, name)| chain(table, name, Rank::Dispatch, Vec::new()))
}

/// All chains of the host's endpoints.
pub(super) fn render(
    hosts: &Hosts,
    globals: &Globals,
    verdicts: &Verdicts,
    family: Family,
) -> Vec<ChainText> {
    if hosts.is_empty() {
        return none().collect();
    }
    let renderer = Renderer {
        hosts,
        globals,
        verdicts,
        family,
        early: Early::of(hosts),
    };
    let mut chains = renderer.raw();
    chains.extend(renderer.mangle());
    chains.extend(renderer.filter());
    chains
}

fn chain(table: Table, name: &str, rank: Rank, lines: Vec<String>) -> ChainText {
    ChainText {
        table,
        name: name.to_owned(),
        rank,
        lines,
    }
}

struct Renderer<'a> {
    hosts: &'a Hosts,
    globals: &'a Globals,
    verdicts: &'a Verdicts,
    family: Family,
    early: Early,
}

/// Which way through the interfaces, and the option that names one.
const fn option(way: Way) -> &'static str {
    match way {
        Way::Ingress => "-i",
        Way::Egress => "-o",
    }
}

const fn dispatch_name(way: Way) -> &'static str {
    match way {
        Way::Ingress => "mgy-host-in",
        Way::Egress => "mgy-host-out",
    }
}

const fn failsafe_name(way: Way) -> &'static str {
    match way {
        Way::Ingress => "mgy-safe-in",
        Way::Egress => "mgy-safe-out",
    }
}

impl Renderer<'_> {
    /// Before connections are tracked.
    fn raw(&self) -> Vec<ChainText> {
        if !self.early.raw {
            return vec![chain(
                Table::Raw,
                dispatch_name(Way::Ingress),
                Rank::Dispatch,
                self.clear_if(self.early.mangle),
            )];
        }
        let untracked = vec!["-j CT --notrack".to_owned(), "-j ACCEPT".to_owned()];
        let mut chains = vec![chain(Table::Raw, NOTRACK, Rank::Verdict, untracked)];
        for way in Way::BOTH {
            chains.push(self.failsafe(Table::Raw, way));
            let verdicts = self.verdicts.early();
            let direction = |host: &HostEndpoint| host.untracked.of(way).clone();
            for (interface, host) in self.hosts.iter().filter(|(_, h)| direction(h).applies()) {
                let mut lines = vec![format!("-j {}", failsafe_name(way))];
                let end = WalkEnd {
                    accepted: format!("-g {NOTRACK}"),
                    otherwise: None,
                };
                lines.extend(walk(way, &direction(host), &[], &verdicts, &end));
                let name = names::host_chain(HostWay::Own(way), interface);
                chains.push(chain(Table::Raw, &name, Rank::Group, lines));
            }
            let mut lines = self.clear_if(true);
            lines.extend(self.dispatch(way, HostWay::Own(way), |h| direction(h).applies()));
            chains.push(chain(Table::Raw, dispatch_name(way), Rank::Dispatch, lines));
        }
        let hooked = vec![
            self.leave_out_workloads(Way::Egress),
            format!("-j {}", dispatch_name(Way::Egress)),
        ];
        chains.push(chain(Table::Raw, "mgy-OUTPUT", Rank::Base, hooked));
        chains
    }

    /// Before destinations are translated.
    fn mangle(&self) -> Vec<ChainText> {
        if !self.early.mangle {
            return Vec::new();
        }
        let way = Way::Ingress;
        let mut chains = vec![self.failsafe(Table::Mangle, way)];
        let verdicts = self.verdicts.early();
        for (interface, host) in self.hosts.iter().filter(|(_, h)| h.pre_dnat.applies()) {
            let mut lines = self.invalid();
            lines.push(format!("-j {}", failsafe_name(way)));
            let end = WalkEnd {
                accepted: "-j ACCEPT".to_owned(),
                otherwise: None,
            };
            lines.extend(walk(way, &host.pre_dnat, &[], &verdicts, &end));
            let name = names::host_chain(HostWay::Own(way), interface);
            chains.push(chain(Table::Mangle, &name, Rank::Group, lines));
        }
        let lines = self.dispatch(way, HostWay::Own(way), |h| h.pre_dnat.applies());
        chains.push(chain(
            Table::Mangle,
            dispatch_name(way),
            Rank::Dispatch,
            lines,
        ));
        let hooked = vec![
            self.leave_out_workloads(way),
            "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned(),
            self.verdicts.if_accepted("-j RETURN"),
            format!("-j {}", dispatch_name(way)),
        ];
        chains.push(chain(Table::Mangle, "mgy-PREROUTING", Rank::Base, hooked));
        chains
    }

    /// When it is known where the packet goes.
    fn filter(&self) -> Vec<ChainText> {
        let mut chains = Vec::new();
        for way in Way::BOTH {
            chains.push(self.failsafe(Table::Filter, way));
            for (interface, host) in self.hosts {
                chains.push(self.own(way, interface, host));
                chains.extend(self.forwarded(way, interface, host));
            }
            chains.push(self.own_dispatch(way));
            chains.extend(self.forwarded_dispatch(way));
        }
        chains
    }

    fn own(&self, way: Way, interface: &HostInterface, host: &HostEndpoint) -> ChainText {
        let mut lines = vec![ESTABLISHED.to_owned()];
        lines.extend(self.invalid());
        lines.push(format!("-j {}", failsafe_name(way)));
        let end = WalkEnd {
            accepted: "-j ACCEPT".to_owned(),
            otherwise: Some(self.verdicts.deny.to_owned()),
        };
        let direction = host.own.of(way);
        lines.extend(walk(way, direction, &host.profiles, self.verdicts, &end));
        let name = names::host_chain(HostWay::Own(way), interface);
        chain(Table::Filter, &name, Rank::Group, lines)
    }

    fn forwarded(
        &self,
        way: Way,
        interface: &HostInterface,
        host: &HostEndpoint,
    ) -> Option<ChainText> {
        let direction = Some(host.forwarded.of(way)).filter(|d| d.applies())?;
        let mut lines = vec![ESTABLISHED.to_owned()];
        lines.extend(self.invalid());
        let end = WalkEnd {
            accepted: "-j RETURN".to_owned(),
            otherwise: None,
        };
        lines.extend(walk(way, direction, &[], self.verdicts, &end));
        let name = names::host_chain(HostWay::Forwarded(way), interface);
        Some(chain(Table::Filter, &name, Rank::Group, lines))
    }

    fn own_dispatch(&self, way: Way) -> ChainText {
        let mut lines = Vec::new();
        if self.early.raw || (self.early.mangle && way == Way::Ingress) {
            lines.push(self.verdicts.if_accepted("-j ACCEPT"));
        }
        lines.extend(self.dispatch(way, HostWay::Own(way), |_| true));
        chain(Table::Filter, dispatch_name(way), Rank::Dispatch, lines)
    }

    fn forwarded_dispatch(&self, way: Way) -> Vec<ChainText> {
        let applies = |host: &HostEndpoint| host.forwarded.of(way).applies();
        let to_interfaces = self.dispatch(way, HostWay::Forwarded(way), applies);
        match way {
            Way::Ingress => {
                let mut lines = match self.early.any() {
                    true => vec![self.verdicts.if_accepted("-j RETURN")],
                    false => self.clear_if(true),
                };
                lines.extend(to_interfaces);
                vec![chain(Table::Filter, "mgy-hfwd-in", Rank::Dispatch, lines)]
            }
            // The last chain that a forwarded packet comes through accepts what any of them accepted.
            Way::Egress => {
                let lines = vec![
                    format!("-j {OUT_DISPATCH}"),
                    self.verdicts.if_accepted("-j ACCEPT"),
                ];
                vec![
                    chain(Table::Filter, OUT_DISPATCH, Rank::Dispatch, to_interfaces),
                    chain(Table::Filter, "mgy-hfwd-out", Rank::Host, lines),
                ]
            }
        }
    }

    /// From the interface to its chain. One endpoint's name counts more than that of all interfaces.
    fn dispatch(
        &self,
        way: Way,
        to: HostWay,
        has_chain: impl Fn(&HostEndpoint) -> bool,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let option = option(way);
        let all = self.hosts.get(&HostInterface::All).filter(|h| has_chain(h));
        for (interface, host) in self.hosts {
            let HostInterface::Named(name) = interface else {
                continue;
            };
            if has_chain(host) {
                let chain = names::host_chain(to, interface);
                lines.push(format!("{option} {name} -g {chain}"));
            } else if all.is_some() {
                lines.push(format!("{option} {name} -j RETURN"));
            }
        }
        if all.is_some() {
            lines.push(self.leave_out_workloads(way));
            lines.push(format!("{option} lo -j RETURN"));
            let chain = names::host_chain(to, &HostInterface::All);
            lines.push(format!("-g {chain}"));
        }
        lines
    }

    fn leave_out_workloads(&self, way: Way) -> String {
        format!(
            "{} {}+ -j RETURN",
            option(way),
            self.globals.interface_prefix
        )
    }

    fn clear_if(&self, needed: bool) -> Vec<String> {
        let clear = needed.then(|| self.verdicts.clear_both());
        clear.into_iter().collect()
    }

    fn invalid(&self) -> Vec<String> {
        let wanted = !self.globals.disable_conntrack_invalid;
        wanted.then(|| INVALID.to_owned()).into_iter().collect()
    }

    /// What gets through whatever the policies say. Without tracking, replies have to be named too.
    fn failsafe(&self, table: Table, way: Way) -> ChainText {
        let (there, back) = match way {
            Way::Ingress => (&self.globals.failsafe_in, &self.globals.failsafe_out),
            Way::Egress => (&self.globals.failsafe_out, &self.globals.failsafe_in),
        };
        let mut lines = Vec::new();
        if self.family == Family::V6 {
            let accept = |icmp| format!("-p 58 -m icmp6 --icmpv6-type {icmp} -j ACCEPT");
            lines.extend(DISCOVERY.map(accept));
        }
        // The net is the other end's.
        let other_end = match way {
            Way::Ingress => "-s",
            Way::Egress => "-d",
        };
        let line = |failsafe: &Failsafe, port_option: &str| {
            let Failsafe {
                protocol,
                port,
                net,
            } = failsafe;
            if net.is_some_and(|net| Family::of(&net) != self.family) {
                return None;
            }
            let net = net.map(|net| format!("{other_end} {net} "));
            let net = net.unwrap_or_default();
            Some(format!(
                "{net}-p {protocol} -m multiport --{port_option} {port} -j ACCEPT"
            ))
        };
        lines.extend(there.iter().filter_map(|failsafe| line(failsafe, "dports")));
        if table == Table::Raw {
            lines.extend(back.iter().filter_map(|failsafe| line(failsafe, "sports")));
        }
        chain(table, failsafe_name(way), Rank::Verdict, lines)
    }
}

impl Direction {
    /// Whether any policy applies.
    pub(super) fn applies(&self) -> bool {
        self.tiers.iter().any(|tier| !tier.policies.is_empty())
    }
}

impl Ways {
    pub(super) fn of(&self, way: Way) -> &Direction {
        match way {
            Way::Ingress => &self.ingress,
            Way::Egress => &self.egress,
        }
    }
}
