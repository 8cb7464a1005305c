//! What policy says of a connection that there is.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use margay_dataplane::conntrack::Connection;
use margay_dataplane::filter::{Failsafe, Filter, Globals};
use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_model::kind::ResourceKey;
use margay_model::net::Cidr;
use margay_policy::explain::{Facts, Packet, Verdict, host_verdict, verdict};
use margay_policy::program::{
    Direction, EndpointPlan, HostPath, HostPlan, Rules, SetId, SetMember,
};

use super::{Kernel, RulesKey};
use crate::translate;

const IPIP: u8 = 4;
const UDP: u8 = 17;

/// What the host has around it, as it was when connections were read.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Surroundings {
    /// The host's own addresses, and the interface that each is on.
    own: HashMap<IpAddr, String>,
    /// The interface through which packets to others leave, where somebody has to know.
    ways: HashMap<IpAddr, String>,
}

impl Surroundings {
    /// Of these connections; with their `ways`. Connections whose way the kernel does not tell are taken out, and stay as
    /// they are: the first reason is returned as well.
    pub(super) fn of(
        connections: &mut Vec<Connection>,
        ways: bool,
    ) -> Result<(Self, Option<NetlinkError>), NetlinkError> {
        let mut socket = Socket::route()?;
        let names = link::list(&mut socket, "")?.into_iter();
        let names: HashMap<u32, String> = names.map(|link| (link.index, link.name)).collect();
        let own = link::addresses(&mut socket)?.into_iter();
        let named = |index: u32| names.get(&index).cloned().unwrap_or_default();
        let own: HashMap<IpAddr, String> = own
            .map(|own| (own.address.ip(), named(own.index)))
            .collect();
        let mut around = Self {
            own,
            ways: HashMap::new(),
        };
        if !ways {
            return Ok((around, None));
        }
        let (mut unclear, mut why) = (HashSet::new(), None);
        let ends = connections.iter().flat_map(|c| [c.source, c.destination]);
        let others: HashSet<IpAddr> = ends.filter(|ip| !around.own.contains_key(ip)).collect();
        for ip in others {
            match link::leaves_by(&mut socket, ip) {
                Ok(index) => around.ways.extend(index.map(|index| (ip, named(index)))),
                Err(error @ NetlinkError::Refused(_)) => {
                    unclear.insert(ip);
                    why = why.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        connections.retain(|c| {
            ![c.source, c.destination]
                .iter()
                .any(|ip| unclear.contains(ip))
        });
        Ok((around, why))
    }
}

/// The desired state, asked about connections.
pub(super) struct Judge<'a> {
    kernel: &'a Kernel,
    globals: &'a Globals,
    of_address: HashMap<IpAddr, &'a EndpointPlan>,
    of_net: Vec<(Cidr, &'a EndpointPlan)>,
    around: &'a Surroundings,
}

impl<'a> Judge<'a> {
    pub(super) fn over(kernel: &'a Kernel, around: &'a Surroundings) -> Self {
        let (mut of_address, mut of_net) = (HashMap::new(), Vec::new());
        for plan in kernel.plans.values() {
            of_address.extend(plan.addresses.iter().map(|net| (net.addr(), &**plan)));
            let nets = plan.allowed_source_prefixes.iter();
            of_net.extend(nets.map(|net| (*net, &**plan)));
        }
        Self {
            kernel,
            globals: &kernel.denied.globals,
            of_address,
            of_net,
            around,
        }
    }

    pub(super) fn denies(&self, connection: &Connection) -> bool {
        if connection.is_expected {
            return false;
        }
        let packet = Packet {
            source: connection.source,
            destination: connection.destination,
            protocol: connection.protocol,
            source_port: connection.ports.0,
            destination_port: connection.ports.1,
            icmp: connection.icmp,
        };
        // What the host itself sends to its workloads is always allowed.
        let from_host = self.is_own(packet.source);
        self.denies_at(packet.source, Direction::Egress, &packet)
            || (!from_host && self.denies_at(packet.destination, Direction::Ingress, &packet))
            || self.hosts_deny(connection, &packet)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.around.own.contains_key(&ip)
    }

    /// Several endpoints may have a network. Which of them it is, connections do not tell: all must deny.
    fn denies_at(&self, ip: IpAddr, direction: Direction, packet: &Packet) -> bool {
        let denies = |plan| verdict(self, plan, direction, packet).0 == Verdict::Deny;
        if let Some(plan) = self.of_address.get(&ip) {
            return denies(plan);
        }
        let plans = self.of_net.iter().filter(|(net, _)| net.contains(ip));
        let mut verdicts = plans.map(|(_, plan)| denies(plan)).peekable();
        verdicts.peek().is_some() && verdicts.all(|denied| denied)
    }

    /// Whether an endpoint of the host denies the connection on its way in or out. Untracked policy need not be asked:
    /// it is about every packet.
    fn hosts_deny(&self, connection: &Connection, packet: &Packet) -> bool {
        let from_host = self.is_own(packet.source);
        let to_host = self.is_own(packet.destination) || is_to_many(packet.destination);
        if self.kernel.hosts.is_empty() || (from_host && to_host) || self.is_wrapped(packet) {
            return false;
        }
        let comes_in = !from_host && self.denies_coming_in(connection, packet, to_host);
        comes_in || (!to_host && self.denies_going_out(packet, from_host))
    }

    /// By which interface it came, connections do not tell either. That is the one that leads to the sender, as a rule,
    /// or the one with the address that it was sent to: both must deny.
    fn denies_coming_in(&self, connection: &Connection, packet: &Packet, to_host: bool) -> bool {
        let Some(way) = self.around.ways.get(&packet.source) else {
            return false;
        };
        let (asked, asked_port) = connection.asked;
        let before = Packet {
            destination: asked,
            destination_port: asked_port,
            ..*packet
        };
        let denies = |interface: &str| {
            let Some(plan) = self.plan_of(interface) else {
                return false;
            };
            let ask = |path, packet: &Packet| {
                host_verdict(self, plan, path, Direction::Ingress, packet, false).0
            };
            let is_open =
                |packet: &Packet| is_open(&self.globals.failsafe_in, packet.source, packet);
            let asked_early = !plan.tiers(HostPath::PreDnat, Direction::Ingress).is_empty();
            if asked_early
                && !is_open(&before)
                && let Some(decided) = ask(HostPath::PreDnat, &before)
            {
                return decided == Verdict::Deny;
            }
            match to_host {
                true => !is_open(packet) && ask(HostPath::Own, packet) == Some(Verdict::Deny),
                false => ask(HostPath::Forwarded, packet) == Some(Verdict::Deny),
            }
        };
        let has_address = self.around.own.get(&asked).filter(|name| *name != "lo");
        denies(way) && has_address.is_none_or(|interface| denies(interface))
    }

    fn denies_going_out(&self, packet: &Packet, from_host: bool) -> bool {
        let way = self.around.ways.get(&packet.destination);
        let Some(plan) = way.and_then(|way| self.plan_of(way)) else {
            return false;
        };
        let path = match from_host {
            true => HostPath::Own,
            false => HostPath::Forwarded,
        };
        if from_host && is_open(&self.globals.failsafe_out, packet.destination, packet) {
            return false;
        }
        let verdict = host_verdict(self, plan, path, Direction::Egress, packet, false).0;
        verdict == Some(Verdict::Deny)
    }

    /// The endpoint of the host that an interface belongs to.
    fn plan_of(&self, interface: &str) -> Option<&HostPlan> {
        let prefix = self.kernel.interface_prefix.as_str();
        let of_others = interface == "lo" || interface.starts_with(prefix);
        self.kernel.hosts.plan_of(interface).filter(|_| !of_others)
    }

    /// What hosts send each other for their workloads passes before policy of the host is asked.
    fn is_wrapped(&self, packet: &Packet) -> bool {
        let tunnels = &self.globals.tunnels;
        let ports = match packet.source {
            IpAddr::V4(_) => [tunnels.vxlan_v4, tunnels.wireguard_v4],
            IpAddr::V6(_) => [tunnels.vxlan_v6, tunnels.wireguard_v6],
        };
        let mut ports = ports.into_iter().flatten();
        let is_host = |ip: IpAddr| self.globals.hosts.contains(&IpNetwork::from(ip));
        let of_tunnel = match packet.protocol {
            UDP => ports.any(|port| port == packet.destination_port),
            IPIP => tunnels.ipip,
            _ => false,
        };
        of_tunnel && is_host(packet.source) && is_host(packet.destination)
    }
}

/// What the host hears beside others.
fn is_to_many(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == Ipv4Addr::BROADCAST
}

/// Whether policy of the host leaves the port open that `other_end` is at the other end of.
fn is_open(failsafes: &[Failsafe], other_end: IpAddr, packet: &Packet) -> bool {
    failsafes.iter().any(|failsafe| {
        (failsafe.protocol, failsafe.port) == (packet.protocol, packet.destination_port)
            && failsafe.net.is_none_or(|net| net.contains(other_end))
    })
}

impl Facts for Judge<'_> {
    fn policy(&self, policy: &ResourceKey) -> Option<&Rules> {
        let key = RulesKey::Policy(policy.clone());
        self.kernel.rules_of.get(&key).map(|rules| &**rules)
    }

    fn profile(&self, name: &str) -> Option<&Rules> {
        let key = RulesKey::Profile(name.to_owned());
        self.kernel.rules_of.get(&key).map(|rules| &**rules)
    }

    fn has_member(&self, set: &SetId, member: &SetMember) -> bool {
        let filter: &Filter = &self.kernel.filter;
        filter.has_member(&translate::set_id(set), &translate::set_member(*member))
    }
}
