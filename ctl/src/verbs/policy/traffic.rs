//! What is asked about: who sends what to whom.

use std::net::IpAddr;

use clap::Args;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::protocol::{Port, Protocol};
use margay_policy::explain::Packet;

use super::cluster::Cluster;

/// The port that senders use where nothing else is asked: one of the ephemeral range (RFC 6335
/// section 6).
const SOURCE_PORT: u16 = 49152;

/// The port asked about where none is given.
const PORT: u16 = 80;

/// Who sends or receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// An endpoint of a workload.
    Endpoint(ResourceKey),
    /// A host of the cluster.
    Host(String),
    /// Anybody else.
    Outside,
}

/// One end of the traffic, with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) who: Who,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Protocol and ports.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Traffic {
    /// tcp, udp, sctp, icmp, or a number [default: tcp, or icmp with --icmp]
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<String>,
    /// Port of the receiver, a number or a name that it gives a port [default: 80]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Port of the sender [default: 49152]
    #[arg(long, value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// Type and code of ICMP [default: an echo request]
    #[arg(long, value_name = "TYPE[/CODE]", conflicts_with_all = ["port", "sport"])]
    pub(crate) icmp: Option<String>,
}

impl Cluster {
    /// Who is meant: an address, NAMESPACE/NAME, a name of an endpoint, pod, container or host.
    pub(crate) fn party(&self, text: &str) -> Result<Party, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return self.party_at(address);
        }
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let found = self.endpoints_named(namespace, name);
        match *found {
            [key] => Ok(self.party_of(key)),
            [] => self.host(namespace, name).ok_or_else(|| {
                let allowed = "an address, or the name of an endpoint, pod, container or host, \
                               also as NAMESPACE/NAME";
                format!("found \"{text}\", which nobody is called, allowed: {allowed}")
            }),
            ref several => Err(ambiguous(text, several.iter().copied())),
        }
    }

    fn party_at(&self, address: IpAddr) -> Result<Party, String> {
        let who = match self.endpoints_at(address) {
            [key] => Who::Endpoint(key.clone()),
            [] => match self.host_at(address) {
                Some(node) => Who::Host(node.to_owned()),
                None => Who::Outside,
            },
            several => return Err(ambiguous(&address.to_string(), several)),
        };
        Ok(Party {
            who,
            addresses: vec![address],
        })
    }

    /// An endpoint with all its addresses.
    pub(crate) fn party_of(&self, key: &ResourceKey) -> Party {
        let nets = self.endpoint(key).map(|e| &*e.spec.ip_networks);
        Party {
            who: Who::Endpoint(key.clone()),
            addresses: nets.unwrap_or_default().iter().map(|n| n.addr()).collect(),
        }
    }

    fn host(&self, namespace: Option<&str>, name: &str) -> Option<Party> {
        let known = namespace.is_none()
            && self
                .resources
                .contains_key(&ResourceKey::global(Kind::Node, name));
        known.then(|| Party {
            who: Who::Host(name.to_owned()),
            addresses: self.host_addresses(name),
        })
    }

    /// The packets that open such a connection: one for each family that both ends have.
    pub(crate) fn packets(
        &self,
        from: &Party,
        to: &Party,
        traffic: &Traffic,
    ) -> Result<Vec<Packet>, String> {
        let mut packets = Vec::new();
        for v4 in [true, false] {
            let of = |party: &Party| party.addresses.iter().copied().find(|a| a.is_ipv4() == v4);
            if let (Some(source), Some(destination)) = (of(from), of(to)) {
                packets.extend(self.packet(source, destination, to, traffic)?);
            }
        }
        if packets.is_empty() {
            return Err("the two ends have no address of the same family".to_owned());
        }
        Ok(packets)
    }

    /// One packet; nothing if its protocol is of the other family.
    fn packet(
        &self,
        source: IpAddr,
        destination: IpAddr,
        to: &Party,
        traffic: &Traffic,
    ) -> Result<Option<Packet>, String> {
        let Some(protocol) = traffic.protocol(source.is_ipv4())? else {
            return Ok(None);
        };
        let icmp = match protocol {
            Protocol::Icmp | Protocol::IcmpV6 => Some(traffic.icmp_type(source.is_ipv4())?),
            _ => None,
        };
        let (source_port, destination_port) = match protocol.has_ports() {
            true => (
                traffic.sport.unwrap_or(SOURCE_PORT),
                self.port(to, protocol, traffic.port.as_deref())?,
            ),
            false => (0, 0),
        };
        Ok(Some(Packet {
            source,
            destination,
            protocol: protocol.number(),
            source_port,
            destination_port,
            icmp,
        }))
    }

    fn port(&self, to: &Party, protocol: Protocol, text: Option<&str>) -> Result<u16, String> {
        let Some(text) = text else { return Ok(PORT) };
        let wrong = |allowed: &str| format!("port: found \"{text}\", allowed: {allowed}");
        match text.parse() {
            Ok(Port::Number(port)) if port > 0 => Ok(port),
            Ok(Port::Named(name)) => {
                let Who::Endpoint(key) = &to.who else {
                    return Err(wrong("1 to 65535; only endpoints give names to ports"));
                };
                let ports = self.endpoint(key).map(|e| &*e.spec.ports);
                let mut ports = ports.unwrap_or_default().iter();
                let named = ports
                    .find(|p| p.name == name && p.protocol.number() == protocol.number())
                    .map(|p| p.port);
                named.ok_or_else(|| wrong(&format!("1 to 65535, or a {protocol} port of {key}")))
            }
            _ => Err(wrong("1 to 65535, or the name of a port")),
        }
    }
}

fn ambiguous<'a>(text: &str, keys: impl IntoIterator<Item = &'a ResourceKey>) -> String {
    let names: Vec<_> = keys.into_iter().map(name_of).collect();
    format!("\"{text}\" may be any of {}", names.join(", "))
}

/// An endpoint as people may name it.
pub(crate) fn name_of(key: &ResourceKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("{namespace}/{}", key.name),
        None => key.name.clone(),
    }
}

impl Traffic {
    /// The protocol in a family; nothing if it is only of the other.
    fn protocol(&self, v4: bool) -> Result<Option<Protocol>, String> {
        let own = if v4 { Protocol::Icmp } else { Protocol::IcmpV6 };
        let Some(text) = &self.protocol else {
            return Ok(Some(match self.icmp {
                Some(_) => own,
                None => Protocol::Tcp,
            }));
        };
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Some(own));
        }
        let protocol: Protocol = match text.to_ascii_lowercase().as_str() {
            "icmp6" => Protocol::IcmpV6,
            other => other
                .parse()
                .map_err(|error| format!("protocol: {error}"))?,
        };
        if self.icmp.is_some() && !matches!(protocol.number(), 1 | 58) {
            return Err(format!(
                "protocol: found {protocol}, allowed: icmp, because icmp is set"
            ));
        }
        // By number it is the same protocol.
        Ok(match protocol.number() {
            1 => v4.then_some(Protocol::Icmp),
            58 => (!v4).then_some(Protocol::IcmpV6),
            _ => Some(protocol),
        })
    }

    fn icmp_type(&self, v4: bool) -> Result<(u8, u8), String> {
        let Some(text) = &self.icmp else {
            return Ok((if v4 { 8 } else { 128 }, 0));
        };
        let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
        match (kind.parse(), code.parse()) {
            (Ok(kind), Ok(code)) => Ok((kind, code)),
            _ => Err(format!(
                "icmp: found \"{text}\", allowed: TYPE or TYPE/CODE, each 0 to 255"
            )),
        }
    }
}
