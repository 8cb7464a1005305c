//! Protocols and ports as policy rules name them.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IP protocol, by name or by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
    /// ICMP, 1.
    Icmp,
    /// ICMP for IPv6, 58.
    IcmpV6,
    /// SCTP, 132.
    Sctp,
    /// UDP-Lite, 136.
    UdpLite,
    /// Any protocol by its number, 1 to 255.
    Number(u8),
}

impl Protocol {
    /// The names that are allowed.
    pub const WORDS: &'static [&'static str] = &["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"];

    const NAMED: [Self; 6] = [
        Self::Tcp,
        Self::Udp,
        Self::Icmp,
        Self::IcmpV6,
        Self::Sctp,
        Self::UdpLite,
    ];

    /// The number that stands in a packet. Two spellings of one protocol have the same number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => 1,
            Self::IcmpV6 => 58,
            Self::Sctp => 132,
            Self::UdpLite => 136,
            Self::Number(number) => number,
        }
    }

    /// Whether packets of this protocol carry ports that rules can match.
    pub const fn has_ports(self) -> bool {
        matches!(self.number(), 6 | 17 | 132)
    }

    const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
            Self::IcmpV6 => "ICMPv6",
            Self::Sctp => "SCTP",
            Self::UdpLite => "UDPLite",
            Self::Number(_) => return None,
        })
    }
}

/// Text or number that is no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", allowed: {} or 1 to 255", Protocol::WORDS.join(", "))]
pub struct ParseProtocolError {
    /// What was read.
    pub found: String,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => self.number().fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |protocol: &&Self| {
            protocol
                .name()
                .is_some_and(|n| n.eq_ignore_ascii_case(text))
        };
        if let Some(protocol) = Self::NAMED.iter().find(named) {
            return Ok(*protocol);
        }
        match text.parse() {
            Ok(number) if number > 0 => Ok(Self::Number(number)),
            _ => Err(ParseProtocolError {
                found: text.to_owned(),
            }),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.number()),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProtocolVisitor)
    }
}

struct ProtocolVisitor;

impl Visitor<'_> for ProtocolVisitor {
    type Value = Protocol;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or 1 to 255", Protocol::WORDS.join(", "))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Protocol, E> {
        match u8::try_from(value) {
            Ok(number) if number > 0 => Ok(Protocol::Number(number)),
            _ => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Protocol, E> {
        value.parse().map_err(E::custom)
    }
}

/// A port, a range of ports, or the name of a port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// One port.
    Number(u16),
    /// From the first to the second, both included; the first is not greater.
    Range(u16, u16),
    /// Ports that endpoints give this name.
    Named(String),
}

impl Port {
    /// First and last port; `None` for a named one.
    pub const fn bounds(&self) -> Option<(u16, u16)> {
        match self {
            Self::Number(port) => Some((*port, *port)),
            Self::Range(min, max) => Some((*min, *max)),
            Self::Named(_) => None,
        }
    }
}

/// Text that is no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found \"{found}\", allowed: a port 1 to 65535, MIN:MAX, or the name of a port")]
pub struct ParsePortError {
    /// What was read.
    pub found: String,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Range(min, max) => write!(f, "{min}:{max}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl FromStr for Port {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePortError {
            found: text.to_owned(),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let number = |part: &str| part.parse::<u16>().map_err(|_source| error());
        match text.split_once(':') {
            Some((min, max)) if digits(min) && digits(max) => {
                let (min, max) = (number(min)?, number(max)?);
                if min > max {
                    Err(error())
                } else {
                    Ok(Self::Range(min, max))
                }
            }
            None if digits(text) => number(text).map(Self::Number),
            None if is_port_name(text) => Ok(Self::Named(text.to_owned())),
            _ => Err(error()),
        }
    }
}

/// Port names: letters, digits, `_`, `.` and `-`, at most 128 of them.
fn is_port_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(allowed)
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(port) => serializer.serialize_u16(*port),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortVisitor)
    }
}

struct PortVisitor;

impl Visitor<'_> for PortVisitor {
    type Value = Port;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port 1 to 65535, MIN:MAX, or the name of a port")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Port, E> {
        let out_of_range = |_source| E::invalid_value(Unexpected::Unsigned(value), &self);
        u16::try_from(value).map(Port::Number).map_err(out_of_range)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Port, E> {
        value.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Option<T> {
        serde_json::from_str(json).ok()
    }

    #[test]
    fn protocols_are_read_by_name_and_number_and_written_as_they_were() {
        for (json, number) in [
            ("\"TCP\"", 6),
            ("\"ICMPv6\"", 58),
            ("\"UDPLite\"", 136),
            ("6", 6),
            ("255", 255),
        ] {
            let protocol: Protocol = read(json).unwrap();
            assert_eq!(protocol.number(), number);
            assert_eq!(serde_json::to_string(&protocol).unwrap(), json);
        }
        // Stored by a writer that did not mind the case.
        assert_eq!(read("\"tcp\""), Some(Protocol::Tcp));
        for json in ["0", "256", "\"0\"", "\"IGMP\"", "\"\"", "1.5"] {
            assert_eq!(read::<Protocol>(json), None, "{json}");
        }
    }

    #[test]
    fn ports_are_numbers_ranges_or_names() {
        for (json, port) in [
            ("80", Port::Number(80)),
            ("\"80:90\"", Port::Range(80, 90)),
            ("\"http\"", Port::Named("http".into())),
        ] {
            assert_eq!(read::<Port>(json).as_ref(), Some(&port));
            assert_eq!(serde_json::to_string(&port).unwrap(), json);
        }
        assert_eq!(read("\"80\""), Some(Port::Number(80)));
        for json in [
            "65536",
            "-1",
            "\"90:80\"",
            "\"1:65536\"",
            "\"a:b\"",
            "\"\"",
            "\"a b\"",
        ] {
            assert_eq!(read::<Port>(json), None, "{json}");
        }
    }
}
