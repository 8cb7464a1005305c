//! Rules and mismatches in words.

use std::net::IpAddr;

use margay_model::protocol::Protocol;
use margay_policy::explain::{Mismatch, Packet};
use margay_policy::program::{IpVersion, PortRange, Rule, SetId, SideMatch};

use super::cluster::Cluster;

/// The name of a protocol, or its number where it has none.
pub(crate) fn protocol_name(number: u8) -> String {
    let named = Protocol::WORDS.iter().find(|word| {
        let protocol = word.parse::<Protocol>();
        protocol.is_ok_and(|protocol| protocol.number() == number)
    });
    named.map_or_else(|| format!("protocol {number}"), |name| (*name).to_owned())
}

/// A packet: `TCP 10.0.0.1:49152 -> 10.0.0.2:80`.
pub(crate) fn packet_text(packet: &Packet) -> String {
    let end = |address: IpAddr, port: u16| match (port, address) {
        (0, _) => address.to_string(),
        (_, IpAddr::V4(_)) => format!("{address}:{port}"),
        (_, IpAddr::V6(_)) => format!("[{address}]:{port}"),
    };
    let icmp = packet.icmp.map_or_else(String::new, |(kind, code)| {
        format!(" type {kind} code {code}")
    });
    format!(
        "{}{icmp} {} -> {}",
        protocol_name(packet.protocol),
        end(packet.source, packet.source_port),
        end(packet.destination, packet.destination_port)
    )
}

impl Cluster {
    /// A rule in words, such as `Allow TCP from (app == "web") to port 80`.
    pub(crate) fn rule_text(&self, rule: &Rule) -> String {
        let mut words = vec![rule.action.to_string()];
        words.extend(rule.ip_version.map(|version| match version {
            IpVersion::V4 => "IPv4".to_owned(),
            IpVersion::V6 => "IPv6".to_owned(),
        }));
        words.extend(rule.protocol.map(protocol_name));
        words.extend(
            rule.not_protocol
                .map(|p| format!("not {}", protocol_name(p))),
        );
        words.extend(rule.icmp.map(|icmp| format!("type {icmp}")));
        words.extend(rule.not_icmp.map(|icmp| format!("not type {icmp}")));
        for (word, side) in [("from", &rule.source), ("to", &rule.destination)] {
            let parts = self.side_parts(side);
            if !parts.is_empty() {
                words.push(format!("{word} {}", parts.join(" and ")));
            }
        }
        words.join(" ")
    }

    fn side_parts(&self, side: &SideMatch) -> Vec<String> {
        let nets = |nets: &[_]| list(nets.iter());
        let mut parts = Vec::new();
        parts.extend(side.sets.iter().map(|id| self.set_text(id)));
        parts.extend(
            side.not_sets
                .iter()
                .map(|id| format!("not {}", self.set_text(id))),
        );
        if !side.nets.is_empty() {
            parts.push(nets(&side.nets));
        }
        if !side.not_nets.is_empty() {
            parts.push(format!("not {}", nets(&side.not_nets)));
        }
        parts.extend(self.ports_text("", &side.ports, &side.named_ports));
        parts.extend(self.ports_text("not ", &side.not_ports, &side.not_named_ports));
        parts
    }

    fn ports_text(&self, word: &str, ports: &[PortRange], named: &[SetId]) -> Option<String> {
        let numbers = ports.iter().map(|range| match range.first == range.last {
            true => range.first.to_string(),
            false => format!("{}-{}", range.first, range.last),
        });
        let name = |id| self.calc.set_source(id).and_then(|(_, port)| port);
        let names = named
            .iter()
            .map(|id| name(id).unwrap_or(id.as_str()).to_owned());
        let all: Vec<_> = numbers.chain(names).collect();
        let plural = if all.len() == 1 { "" } else { "s" };
        (!all.is_empty()).then(|| format!("{word}port{plural} {}", all.join(",")))
    }

    /// The selector that a set is made of.
    fn set_text(&self, id: &SetId) -> String {
        match self.calc.set_source(id) {
            Some((selector, _)) => selector.canonical().to_owned(),
            None => format!("set {id}"),
        }
    }

    /// Why a rule does not match, in words.
    pub(crate) fn mismatch_text(&self, why: &Mismatch, packet: &Packet) -> String {
        match why {
            Mismatch::Set { side, id, wanted } => {
                let verb = if *wanted { "does not match" } else { "matches" };
                format!("the {side} {verb} {}", self.set_text(id))
            }
            Mismatch::Icmp(_) => match packet.icmp {
                Some((kind, code)) => format!("ICMP type and code are {kind}/{code}"),
                None => why.to_string(),
            },
            other => other.to_string(),
        }
    }
}

fn list(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|i| i.to_string()).collect::<Vec<_>>().join(",")
}
