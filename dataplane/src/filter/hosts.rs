//! The chains of the host's own interfaces: what it receives, sends and forwards.
//!
//! ```text
//! in:  raw (untracked) -> mangle (before DNAT) -> filter INPUT (own) | FORWARD (forwarded)
//! out: raw (untracked) -> filter OUTPUT (own)                        | FORWARD (forwarded)
//!                         mangle POSTROUTING (own, when the destination was translated)
//! ```
//! The interface that `OUTPUT` knows is the one of the way to the first destination. What is translated there
//! is routed again, and `POSTROUTING` is the first to know where it leaves.
//!
//! A packet that an early phase accepts carries the accept bit, which lets it past the later phases of
//! the host, not past the policy of workloads. Failsafe ports come first everywhere but on `FORWARD`.

use std::collections::BTreeMap;

use super::{
    chains::{ESTABLISHED, INVALID, OF_NO_CONNECTION, TRANSLATED, WalkEnd, ended, icmpv6, walk},
    names::{HostWay, Way},
    program::{Chain, ChainId, Ifaces, Line, Match, Side, Target},
    types::{Direction, Failsafe, Family, Globals, HostEndpoint, HostInterface, Ways},
    verdicts::Verdicts,
};
use crate::iptables::{Rank, Table};

/// The endpoints of the host, by interface.
pub(super) type Hosts = BTreeMap<HostInterface, HostEndpoint>;

/// What lines say that let a port through whatever policies say.
pub(super) const FAILSAFE: &str = "failsafe port";
const NOTRACK: &str = "mgy-notrack";
const OUT_DISPATCH: &str = "mgy-hfwd-to";

/// ICMPv6 without which no IPv6 works: router and neighbour solicitation and advertisement, multicast
/// listener messages.
const DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

/// Chains of others that are hooked only while the table is needed.
pub(super) const EARLY_HOOKS: [(Table, &str, &str); 3] = [
    (Table::Raw, "OUTPUT", "mgy-OUTPUT"),
    (Table::Mangle, "PREROUTING", "mgy-PREROUTING"),
    (Table::Mangle, "POSTROUTING", "mgy-POSTROUTING"),
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
pub(super) fn none() -> impl Iterator<Item = Chain> {
    DISPATCH
        .into_iter()
        .map(|(table, name)| Chain::fixed(table, name, Rank::Dispatch, Vec::new()))
}

/// All chains of the host's endpoints.
pub(super) fn render(
    hosts: &Hosts,
    globals: &Globals,
    verdicts: &Verdicts,
    family: Family,
) -> Vec<Chain> {
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
    chains.extend(renderer.translated());
    chains.extend(renderer.filter());
    chains
}

struct Renderer<'a> {
    hosts: &'a Hosts,
    globals: &'a Globals,
    verdicts: &'a Verdicts,
    family: Family,
    early: Early,
}

/// Packets that come in, or go out, through these interfaces.
const fn through(way: Way, ifaces: Ifaces) -> Match {
    match way {
        Way::Ingress => Match::In(ifaces),
        Way::Egress => Match::Out(ifaces),
    }
}

const fn dispatch_name(way: Way) -> &'static str {
    match way {
        Way::Ingress => "mgy-host-in",
        Way::Egress => "mgy-host-out",
    }
}

const fn failsafe_id(way: Way) -> ChainId {
    ChainId::Fixed(match way {
        Way::Ingress => "mgy-safe-in",
        Way::Egress => "mgy-safe-out",
    })
}

fn ask_failsafes(way: Way) -> Line {
    Line::always(Target::Jump(failsafe_id(way)))
}

impl Renderer<'_> {
    /// Before connections are tracked.
    fn raw(&self) -> Vec<Chain> {
        let dispatch =
            |way, lines| Chain::fixed(Table::Raw, dispatch_name(way), Rank::Dispatch, lines);
        if !self.early.raw {
            return vec![dispatch(Way::Ingress, self.clear_if(self.early.mangle))];
        }
        let untracked = [Target::NoTrack, Target::Accept].map(Line::always);
        let untracked = Chain::fixed(Table::Raw, NOTRACK, Rank::Verdict, untracked.into());
        let mut chains = vec![untracked];
        for way in Way::BOTH {
            chains.push(self.failsafe(Table::Raw, way));
            let verdicts = self.verdicts.early();
            let direction = |host: &HostEndpoint| host.untracked.of(way).clone();
            for (interface, host) in self.hosts.iter().filter(|(_, h)| direction(h).applies()) {
                let mut lines = vec![ask_failsafes(way)];
                let end = WalkEnd {
                    accepted: Target::Goto(ChainId::Fixed(NOTRACK)),
                    otherwise: None,
                };
                lines.extend(walk(way, &direction(host), &[], &verdicts, &end));
                let id = ChainId::Host(HostWay::Own(way), interface.clone());
                chains.push(Chain::new(Table::Raw, id, Rank::Group, lines));
            }
            let mut lines = self.clear_if(true);
            lines.extend(self.dispatch(way, HostWay::Own(way), |h| direction(h).applies()));
            chains.push(dispatch(way, lines));
        }
        let hooked = vec![
            self.leave_out_workloads(Way::Egress),
            Line::always(Target::Jump(ChainId::Fixed(dispatch_name(Way::Egress)))),
        ];
        chains.push(Chain::fixed(Table::Raw, "mgy-OUTPUT", Rank::Base, hooked));
        chains
    }

    /// Before destinations are translated.
    fn mangle(&self) -> Vec<Chain> {
        if !self.early.mangle {
            return Vec::new();
        }
        let way = Way::Ingress;
        let mut chains = vec![self.failsafe(Table::Mangle, way)];
        let verdicts = self.verdicts.early();
        for (interface, host) in self.hosts.iter().filter(|(_, h)| h.pre_dnat.applies()) {
            let mut lines = self.invalid();
            lines.push(ask_failsafes(way));
            let end = WalkEnd {
                accepted: Target::Accept,
                otherwise: None,
            };
            lines.extend(walk(way, &host.pre_dnat, &[], &verdicts, &end));
            let id = ChainId::Host(HostWay::Own(way), interface.clone());
            chains.push(Chain::new(Table::Mangle, id, Rank::Group, lines));
        }
        let lines = self.dispatch(way, HostWay::Own(way), |h| h.pre_dnat.applies());
        chains.push(Chain::fixed(
            Table::Mangle,
            dispatch_name(way),
            Rank::Dispatch,
            lines,
        ));
        let hooked = vec![
            self.leave_out_workloads(way),
            Line::new([ESTABLISHED], Target::Return),
            self.verdicts.if_accepted(Target::Return),
            Line::always(Target::Jump(ChainId::Fixed(dispatch_name(way)))),
        ];
        chains.push(Chain::fixed(
            Table::Mangle,
            "mgy-PREROUTING",
            Rank::Base,
            hooked,
        ));
        chains
    }

    /// The host's own packets that go elsewhere than they were sent to.
    fn translated(&self) -> Vec<Chain> {
        let way = Way::Egress;
        let mut chains = vec![self.failsafe(Table::Mangle, way)];
        let verdicts = self.verdicts.early();
        let hosts = self.hosts.iter();
        chains.extend(hosts.map(|(i, host)| self.own(Table::Mangle, &verdicts, way, i, host)));
        let lines = self.dispatch(way, HostWay::Own(way), |_| true);
        let name = dispatch_name(way);
        chains.push(Chain::fixed(Table::Mangle, name, Rank::Dispatch, lines));
        let ask = Target::Jump(ChainId::Fixed(name));
        let hooked = vec![
            self.leave_out_workloads(way),
            Line::new([TRANSLATED, Match::FromHost], ask),
        ];
        let name = "mgy-POSTROUTING";
        chains.push(Chain::fixed(Table::Mangle, name, Rank::Base, hooked));
        chains
    }

    /// When it is known where the packet goes.
    fn filter(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        for way in Way::BOTH {
            chains.push(self.failsafe(Table::Filter, way));
            for (interface, host) in self.hosts {
                chains.push(self.own(Table::Filter, self.verdicts, way, interface, host));
                chains.extend(self.forwarded(way, interface, host));
            }
            chains.push(self.own_dispatch(way));
            chains.extend(self.forwarded_dispatch(way));
        }
        chains
    }

    fn own(
        &self,
        table: Table,
        verdicts: &Verdicts,
        way: Way,
        interface: &HostInterface,
        host: &HostEndpoint,
    ) -> Chain {
        let mut lines = vec![Line::new([ESTABLISHED], Target::Accept)];
        lines.extend(self.invalid());
        lines.push(ask_failsafes(way));
        let end = WalkEnd {
            accepted: Target::Accept,
            otherwise: Some(verdicts.deny.clone()),
        };
        let direction = host.own.of(way);
        lines.extend(walk(way, direction, &host.profiles, verdicts, &end));
        let id = ChainId::Host(HostWay::Own(way), interface.clone());
        Chain::new(table, id, Rank::Group, lines)
    }

    fn forwarded(&self, way: Way, interface: &HostInterface, host: &HostEndpoint) -> Option<Chain> {
        let direction = Some(host.forwarded.of(way)).filter(|d| d.applies())?;
        let mut lines = vec![Line::new([ESTABLISHED], Target::Accept)];
        lines.extend(self.invalid());
        let end = WalkEnd {
            accepted: Target::Return,
            otherwise: None,
        };
        lines.extend(walk(way, direction, &[], self.verdicts, &end));
        let id = ChainId::Host(HostWay::Forwarded(way), interface.clone());
        Some(Chain::new(Table::Filter, id, Rank::Group, lines))
    }

    fn own_dispatch(&self, way: Way) -> Chain {
        let mut lines: Vec<Line> = ended(self.globals, self.verdicts, None).collect();
        if self.early.raw || (self.early.mangle && way == Way::Ingress) {
            lines.push(self.verdicts.if_accepted(Target::Accept));
        }
        if way == Way::Egress {
            let later = Line::new([TRANSLATED], Target::Return);
            lines.push(later.noted("asked where it leaves"));
        }
        lines.extend(self.dispatch(way, HostWay::Own(way), |_| true));
        Chain::fixed(Table::Filter, dispatch_name(way), Rank::Dispatch, lines)
    }

    fn forwarded_dispatch(&self, way: Way) -> Vec<Chain> {
        let applies = |host: &HostEndpoint| host.forwarded.of(way).applies();
        let to_interfaces = self.dispatch(way, HostWay::Forwarded(way), applies);
        let chain = |name, rank, lines| Chain::fixed(Table::Filter, name, rank, lines);
        match way {
            Way::Ingress => {
                let mut lines = match self.early.any() {
                    true => vec![self.verdicts.if_accepted(Target::Return)],
                    false => self.clear_if(true),
                };
                lines.extend(to_interfaces);
                vec![chain("mgy-hfwd-in", Rank::Dispatch, lines)]
            }
            // The last chain that a forwarded packet comes through accepts what any of them accepted.
            Way::Egress => {
                let lines = vec![
                    Line::always(Target::Jump(ChainId::Fixed(OUT_DISPATCH))),
                    self.verdicts.if_accepted(Target::Accept),
                ];
                vec![
                    chain(OUT_DISPATCH, Rank::Dispatch, to_interfaces),
                    chain("mgy-hfwd-out", Rank::Host, lines),
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
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        let named = |name: &str| through(way, Ifaces::Named(name.to_owned()));
        let all = self.hosts.get(&HostInterface::All).filter(|h| has_chain(h));
        for (interface, host) in self.hosts {
            let HostInterface::Named(name) = interface else {
                continue;
            };
            if has_chain(host) {
                let chain = ChainId::Host(to, interface.clone());
                lines.push(Line::new([named(name)], Target::Goto(chain)));
            } else if all.is_some() {
                lines.push(Line::new([named(name)], Target::Return));
            }
        }
        if all.is_some() {
            lines.push(self.leave_out_workloads(way));
            lines.push(Line::new([named("lo")], Target::Return));
            let chain = ChainId::Host(to, HostInterface::All);
            lines.push(Line::always(Target::Goto(chain)));
        }
        lines
    }

    fn leave_out_workloads(&self, way: Way) -> Line {
        let prefix = self.globals.interface_prefix.clone();
        Line::new([through(way, Ifaces::StartingWith(prefix))], Target::Return)
    }

    fn clear_if(&self, needed: bool) -> Vec<Line> {
        let clear = needed.then(|| self.verdicts.clear_both());
        clear.into_iter().collect()
    }

    fn invalid(&self) -> Vec<Line> {
        let wanted = !self.globals.disable_conntrack_invalid;
        let drop = || Line::new([INVALID], Target::Drop).noted(OF_NO_CONNECTION);
        let drop = wanted.then(drop);
        drop.into_iter().collect()
    }

    /// What gets through whatever the policies say. Without tracking, replies have to be named too.
    fn failsafe(&self, table: Table, way: Way) -> Chain {
        let (there, back) = match way {
            Way::Ingress => (&self.globals.failsafe_in, &self.globals.failsafe_out),
            Way::Egress => (&self.globals.failsafe_out, &self.globals.failsafe_in),
        };
        let mut lines = Vec::new();
        if self.family == Family::V6 {
            let accept = |icmp| Line::new(icmpv6(icmp), Target::Accept);
            lines.extend(DISCOVERY.map(accept));
        }
        // The net is the other end's.
        let other_end = match way {
            Way::Ingress => Side::Src,
            Way::Egress => Side::Dst,
        };
        let line = |failsafe: &Failsafe, side: Side| {
            let net = failsafe.net;
            if net.is_some_and(|net| Family::of(&net) != self.family) {
                return None;
            }
            let mut matches = Vec::new();
            matches.extend(net.map(|net| Match::Net {
                side: other_end,
                not: false,
                net,
            }));
            matches.push(Match::Protocol {
                not: false,
                number: failsafe.protocol,
            });
            matches.push(Match::Ports {
                side,
                not: false,
                protocol: failsafe.protocol,
                ranges: vec![failsafe.port..=failsafe.port],
            });
            Some(Line::new(matches, Target::Accept).noted(FAILSAFE))
        };
        lines.extend(
            there
                .iter()
                .filter_map(|failsafe| line(failsafe, Side::Dst)),
        );
        if table == Table::Raw {
            lines.extend(back.iter().filter_map(|failsafe| line(failsafe, Side::Src)));
        }
        Chain::new(table, failsafe_id(way), Rank::Verdict, lines)
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
