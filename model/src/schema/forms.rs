//! The notations that fields are written in.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::Form;
use crate::asn::Asn;
use crate::bgp_peer::{PeerAddr, PeerAs};
use crate::community::Community;
use crate::duration::GoDuration;
use crate::net::{AddrCidr, Cidr};
use crate::protocol::{Port, Protocol};

macro_rules! form {
    ($name:ident, $allowed:literal, $example:literal, $accepts:expr) => {
        pub(super) static $name: Form = Form {
            allowed: $allowed,
            accepts: $accepts,
            #[cfg(test)]
            example: $example,
        };
    };
}

form!(
    NET,
    "an address or ADDRESS/LENGTH, such as 10.65.0.0/16 or fd00::/64",
    r#""10.1.0.0/16""#,
    |value| network(value).is_some()
);
form!(
    MASKED_NET,
    "an address or ADDRESS/LENGTH without host bits, such as 10.65.0.0/16 or fd00::/64",
    r#""10.1.0.0/16""#,
    |value| network(value).is_some_and(is_masked)
);
form!(
    RULE_NET,
    "ADDRESS/LENGTH without host bits, such as 10.65.0.0/16, 10.65.0.1/32 or fd00::/64",
    r#""10.1.0.0/16""#,
    |value| has_length(value) && network(value).is_some_and(is_masked)
);
form!(
    MASKED_NET_V4,
    "an IPv4 ADDRESS/LENGTH without host bits, such as 10.65.0.0/16",
    r#""10.1.0.0/16""#,
    |value| network(value).is_some_and(|net| is_masked(net) && net.is_ipv4())
);
form!(
    MASKED_NET_V6,
    "an IPv6 ADDRESS/LENGTH without host bits, such as fd00::/64",
    r#""fd00::/64""#,
    |value| network(value).is_some_and(|net| is_masked(net) && net.is_ipv6())
);
form!(
    HOST_NET,
    "one address, alone or with /32 or /128",
    r#""10.1.0.5/32""#,
    |value| parse::<Cidr>(value).is_some_and(Cidr::is_host)
);
form!(
    SUBNET_ADDR_V4,
    "an IPv4 address with the length of its subnet, such as 192.0.2.7/24",
    r#""192.0.2.7/24""#,
    |value| parse::<AddrCidr>(value).is_some_and(|addr| addr.addr().is_ipv4())
);
form!(
    SUBNET_ADDR_V6,
    "an IPv6 address with the length of its subnet, such as 2001:db8::7/64",
    r#""2001:db8::7/64""#,
    |value| parse::<AddrCidr>(value).is_some_and(|addr| addr.addr().is_ipv6())
);
form!(ADDR, "an IPv4 or IPv6 address", r#""192.0.2.7""#, |value| {
    parse::<IpAddr>(value).is_some()
});
form!(ADDR_V4, "an IPv4 address", r#""192.0.2.7""#, |value| {
    parse::<IpAddr>(value).is_some_and(|addr| addr.is_ipv4())
});
form!(ADDR_V6, "an IPv6 address", r#""2001:db8::7""#, |value| {
    parse::<IpAddr>(value).is_some_and(|addr| addr.is_ipv6())
});
form!(
    PEER_ADDR,
    "ADDRESS, IPV4:PORT or [IPV6]:PORT",
    r#""192.0.2.1:1790""#,
    |value| parse::<PeerAddr>(value).is_some()
);
form!(
    ASN,
    "an AS number 0 to 4294967295, or HIGH.LOW",
    "64512",
    |value| {
        match value {
            Value::Number(number) => number.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
            other => parse::<Asn>(other).is_some(),
        }
    }
);
form!(
    PEER_AS,
    "an AS number 0 to 4294967295, HIGH.LOW, internal or external",
    r#""external""#,
    |value| match value {
        Value::Number(number) => number.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
        other => parse::<PeerAs>(other).is_some(),
    }
);
form!(IP_VERSION, "4 or 6", "4", |value| matches!(
    value.as_u64(),
    Some(4 | 6)
));
form!(
    PROTOCOL,
    "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or 1 to 255",
    r#""TCP""#,
    |value| match value {
        Value::Number(number) => number.as_u64().is_some_and(|n| (1..=255).contains(&n)),
        // A name has one spelling; digits in quotes are a number.
        Value::String(text) => {
            Protocol::WORDS.contains(&text.as_str())
                || matches!(text.parse(), Ok(Protocol::Number(_)))
        }
        _ => false,
    }
);
form!(
    PORT_PROTOCOL,
    "TCP, UDP or SCTP",
    r#""UDP""#,
    |value| match value {
        Value::Number(number) => number.as_u64().is_some_and(|n| matches!(n, 6 | 17 | 132)),
        Value::String(text) => matches!(text.as_str(), "TCP" | "UDP" | "SCTP"),
        _ => false,
    }
);
form!(
    PORT,
    "a port 1 to 65535, MIN:MAX, or the name of a port",
    r#""8000:8080""#,
    |value| port(value).is_some_and(|port| port.bounds().is_none_or(|(min, _)| min > 0))
);
form!(
    NUMERIC_PORT,
    "a port 1 to 65535, or MIN:MAX",
    r#""32768:65535""#,
    |value| port(value).is_some_and(|port| port.bounds().is_some_and(|(min, _)| min > 0))
);
form!(
    DURATION,
    "a duration such as 90s, 1m30s or 500ms",
    r#""1m30s""#,
    |value| parse::<GoDuration>(value).is_some()
);
form!(
    MAC,
    "a hardware address such as 02:00:5e:10:00:01",
    r#""02:00:5e:10:00:01""#,
    |value| value.as_str().is_some_and(is_mac)
);
form!(
    COMMUNITY,
    "AA:NN (0 to 65535 each) or AA:NN:MM (0 to 4294967295 each)",
    r#""64512:100""#,
    |value| parse::<Community>(value).is_some()
);
form!(
    NAME,
    "lower case letters, digits, '-' and '.', a letter or digit at both ends",
    r#""a-name.b""#,
    |value| value.as_str().is_some_and(is_dns_subdomain)
);
form!(
    CONTAINER_ID,
    "letters, digits and '-', a letter or digit at both ends",
    r#""0f1e2D""#,
    |value| value.as_str().is_some_and(|text| {
        edges_alphanumeric(text) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
);
form!(
    INTERFACE,
    "the name of an interface: 1 to 15 letters, digits, '_', '-' and '.', or \"*\" for all",
    r#""eth0""#,
    |value| value
        .as_str()
        .is_some_and(|text| text == "*" || is_interface(text, b"_.-"))
);
form!(
    INTERFACE_GLOB,
    "1 to 15 letters, digits, '_', '-' and '.', where '*' stands for anything",
    r#""eth*""#,
    |value| value
        .as_str()
        .is_some_and(|text| is_interface(text, b"_.-*"))
);
form!(
    IGNORED_INTERFACE,
    "1 to 15 letters, digits, '_', '-' and '.', where '*' stands for anything, but not \"*\" alone",
    r#""eth*""#,
    |value| value
        .as_str()
        .is_some_and(|text| text != "*" && is_interface(text, b"_.-*"))
);
form!(
    PORT_NAME,
    "1 to 15 lower case letters, digits and '-', with at least one letter, none of the ends a '-'",
    r#""http""#,
    |value| value.as_str().is_some_and(is_port_name)
);

form!(REGEX, "a regular expression", r#""^eth[0-9]+$""#, |value| {
    value.as_str().is_some_and(is_regex)
});
form!(
    SETTINGS,
    "NAME=VALUE, several separated by commas",
    r#""A=true,B=""#,
    |value| value.as_str().is_some_and(|text| text
        .split(',')
        .all(|setting| setting.is_empty() || setting.contains('=')))
);
form!(
    RATE,
    "1 to 9999 per second, minute, hour or day, such as 5/minute",
    r#""5/minute""#,
    |value| value.as_str().is_some_and(is_rate)
);
form!(
    LOG_PREFIX,
    "letters, digits, spaces and '%', ':', '/', '_', '-'",
    r#""margay %t""#,
    |value| value
        .as_str()
        .is_some_and(|text| is_made_of(text, b"%: /_-"))
);
form!(
    METRICS_HOST,
    "an address or a host name of at most 64 characters",
    r#""localhost""#,
    |value| value
        .as_str()
        .is_some_and(|text| (1..=64).contains(&text.len()) && is_made_of(text, b":._+-"))
);
form!(
    INTERFACE_FILTER,
    "1 to 15 letters, digits, ':', '.', '_', '+' and '-'",
    r#""eth+""#,
    |value| value
        .as_str()
        .is_some_and(|text| is_interface(text, b":._+-"))
);
form!(
    REGION,
    "at most 46 lower case letters, digits and '-', a letter or digit at both ends",
    r#""region-1""#,
    |value| value
        .as_str()
        .is_some_and(|text| text.len() <= 46 && is_dns_label(text))
);

/// A regular expression, in the notation of RE2 as far as the two libraries agree.
pub(crate) fn is_regex(text: &str) -> bool {
    regex_syntax::parse(text).is_ok()
}

/// Letters, digits and `others`.
fn is_made_of(text: &str, others: &[u8]) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || others.contains(&b))
}

fn is_rate(text: &str) -> bool {
    let Some((count, unit)) = text.split_once('/') else {
        return false;
    };
    let digits = count.bytes().all(|b| b.is_ascii_digit());
    let first = count.bytes().next().is_some_and(|b| b != b'0');
    digits && first && count.len() <= 4 && matches!(unit, "second" | "minute" | "hour" | "day")
}

fn parse<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

fn network(value: &Value) -> Option<IpNetwork> {
    // The text is parsed as strictly as the typed value, then once more to see its host bits.
    parse::<AddrCidr>(value)?;
    parse::<IpNetwork>(value)
}

fn is_masked(network: IpNetwork) -> bool {
    network.ip() == network.network()
}

fn has_length(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains('/'))
}

fn port(value: &Value) -> Option<Port> {
    match value {
        Value::Number(number) => u16::try_from(number.as_u64()?).ok().map(Port::Number),
        other => parse(other),
    }
}

fn is_mac(text: &str) -> bool {
    let octet = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    [':', '-'].iter().any(|separator| {
        let parts: Vec<_> = text.split(*separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.into_iter().all(octet)
    })
}

fn edges_alphanumeric(text: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    alphanumeric(text.as_bytes().first()) && alphanumeric(text.as_bytes().last())
}

fn is_interface(text: &str, others: &[u8]) -> bool {
    (1..=15).contains(&text.len()) && is_made_of(text, others)
}

/// A service name as RFC 6335 section 5.1 defines it.
pub(crate) fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_dns_label(text)
        && !text.contains("--")
        && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// A label of a DNS name in lower case (RFC 1123 section 2.1), at most 63 bytes.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63
        && edges_alphanumeric(text)
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Labels of a DNS name in lower case, separated by dots, at most 253 bytes.
///
/// A label by itself is not limited, as established validators have it.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        edges_alphanumeric(part)
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
