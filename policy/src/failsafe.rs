//! Ports of a host that its policies cannot close, so that nobody locks himself out.

use std::net::IpAddr;

use margay_model::felix_configuration::ProtoPort;
use margay_model::net::Cidr;

use crate::explain::Packet;
use crate::program::Direction;

/// A port that is always open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// IP protocol number; one that has ports.
    pub protocol: u8,
    /// The port of the receiver.
    pub port: u16,
    /// Only for this network at the other end.
    pub net: Option<Cidr>,
}

/// The ports of both directions, as seen from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failsafes {
    /// Open towards the host.
    pub inbound: Vec<Failsafe>,
    /// Open from the host.
    pub outbound: Vec<Failsafe>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// SSH, DHCP, BGP, etcd, and the API servers of Kubernetes and of the established system; and BFD, single
/// and multi-hop (RFC 5881, RFC 5883), without which the sessions of BGP that it watches would end.
const INBOUND: [(u8, u16); 11] = [
    (TCP, 22),
    (UDP, 68),
    (TCP, 179),
    (TCP, 2379),
    (TCP, 2380),
    (TCP, 5473),
    (TCP, 6443),
    (TCP, 6666),
    (TCP, 6667),
    (UDP, 3784),
    (UDP, 4784),
];

/// As [`INBOUND`], with DNS in place of SSH.
const OUTBOUND: [(u8, u16); 11] = [
    (UDP, 53),
    (UDP, 67),
    (TCP, 179),
    (TCP, 2379),
    (TCP, 2380),
    (TCP, 5473),
    (TCP, 6443),
    (TCP, 6666),
    (TCP, 6667),
    (UDP, 3784),
    (UDP, 4784),
];

impl Default for Failsafes {
    fn default() -> Self {
        let list = |ports: &[(u8, u16)]| {
            let failsafe = |&(protocol, port): &(u8, u16)| Failsafe {
                protocol,
                port,
                net: None,
            };
            ports.iter().map(failsafe).collect()
        };
        Self {
            inbound: list(&INBOUND),
            outbound: list(&OUTBOUND),
        }
    }
}

impl Failsafes {
    /// Those of a configuration: the defaults where it says nothing, none where its list is empty. The
    /// second value tells of entries that open nothing because they make no sense.
    pub fn of(
        inbound: Option<&[ProtoPort]>,
        outbound: Option<&[ProtoPort]>,
    ) -> (Self, Vec<String>) {
        let mut failsafes = Self::default();
        let mut problems = Vec::new();
        for (field, given, list) in [
            ("failsafeInboundHostPorts", inbound, &mut failsafes.inbound),
            (
                "failsafeOutboundHostPorts",
                outbound,
                &mut failsafes.outbound,
            ),
        ] {
            let Some(given) = given else { continue };
            list.clear();
            for (i, entry) in given.iter().enumerate() {
                match read(entry) {
                    Ok(failsafe) => list.push(failsafe),
                    Err(problem) => problems.push(format!("{field}[{i}].{problem}")),
                }
            }
        }
        (failsafes, problems)
    }

    /// Whether a packet that opens a connection is let through whatever policies say.
    pub fn let_through(&self, direction: Direction, packet: &Packet) -> bool {
        let (list, other_end) = match direction {
            Direction::Ingress => (&self.inbound, packet.source),
            Direction::Egress => (&self.outbound, packet.destination),
        };
        list.iter().any(|failsafe| {
            failsafe.protocol == packet.protocol
                && failsafe.port == packet.destination_port
                && failsafe.net.is_none_or(|net| net.contains(other_end))
        })
    }
}

fn read(entry: &ProtoPort) -> Result<Failsafe, String> {
    if !entry.protocol.has_ports() {
        let found = entry.protocol;
        return Err(format!(
            "protocol: found {found}, allowed: TCP, UDP, SCTP or UDPLite"
        ));
    }
    let net = match entry.net.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let address = || text.parse::<IpAddr>().map(Cidr::host).ok();
            let net = text.parse::<Cidr>().ok().or_else(address);
            let allowed = || format!("net: found \"{text}\", allowed: an address or a CIDR");
            Some(net.ok_or_else(allowed)?)
        }
    };
    Ok(Failsafe {
        protocol: entry.protocol.number(),
        port: entry.port,
        net,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ports(value: Value) -> Vec<ProtoPort> {
        serde_json::from_value(value).unwrap()
    }

    fn packet(protocol: u8, source: &str, port: u16) -> Packet {
        Packet {
            source: source.parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            protocol,
            source_port: 40000,
            destination_port: port,
            icmp: None,
        }
    }

    #[test]
    fn the_defaults_keep_the_agents_own_sessions_and_ssh() {
        let failsafes = Failsafes::default();
        for port in [22, 179, 2379] {
            let packet = packet(6, "192.0.2.9", port);
            assert!(failsafes.let_through(Direction::Ingress, &packet), "{port}");
        }
        assert!(!failsafes.let_through(Direction::Egress, &packet(6, "192.0.2.9", 22)));
        assert!(!failsafes.let_through(Direction::Ingress, &packet(17, "192.0.2.9", 179)));
    }

    #[test]
    fn a_list_replaces_the_defaults_of_its_direction_alone() {
        let one = ports(json!([{"protocol": "TCP", "port": 830, "net": "192.0.2.0/24"}]));
        let (failsafes, problems) = Failsafes::of(Some(&one), None);
        assert_eq!(problems, [""; 0]);
        let through =
            |source, port| failsafes.let_through(Direction::Ingress, &packet(6, source, port));
        assert_eq!(
            (
                through("192.0.2.9", 830),
                through("198.51.100.1", 830),
                through("192.0.2.9", 22)
            ),
            (true, false, false)
        );
        assert_eq!(failsafes.outbound, Failsafes::default().outbound);
        assert_eq!(Failsafes::of(Some(&[]), Some(&[])).0.outbound, []);
    }

    #[test]
    fn an_entry_that_makes_no_sense_opens_nothing_and_is_named() {
        let bad = ports(json!([
            {"protocol": "ICMP", "port": 1}, {"protocol": "TCP", "port": 1, "net": "here"},
        ]));
        let (failsafes, problems) = Failsafes::of(None, Some(&bad));
        assert_eq!(failsafes.outbound, []);
        assert!(problems[0].starts_with("failsafeOutboundHostPorts[0].protocol: found ICMP"));
        assert!(problems[1].starts_with("failsafeOutboundHostPorts[1].net: found \"here\""));
    }
}
