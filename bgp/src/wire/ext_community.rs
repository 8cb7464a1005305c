//! Extended communities as text (RFC 4360, RFC 5668).

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An extended community (RFC 4360): `rt:65000:1`, `rt:192.0.2.1:1`, `soo:4200000000:1`, or its
/// eight octets as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtCommunity(pub [u8; 8]);

const ROUTE_TARGET: u8 = 2;
const ROUTE_ORIGIN: u8 = 3;
const TWO_OCTET_AS: u8 = 0;
const IPV4: u8 = 1;
const FOUR_OCTET_AS: u8 = 2;
/// RFC 4360 section 3: set where the community is not to leave the AS.
const NON_TRANSITIVE: u8 = 0x40;

impl ExtCommunity {
    /// Whether it goes on to other ASes (RFC 4360, section 6).
    pub const fn is_transitive(self) -> bool {
        self.0[0] & NON_TRANSITIVE == 0
    }
}

/// Text that is no extended community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an extended community, allowed is rt:AS:NUMBER, rt:IPV4:NUMBER, the same with \
     soo, or 16 hexadecimal digits"
)]
pub struct ParseExtCommunityError {
    text: String,
}

impl FromStr for ExtCommunity {
    type Err = ParseExtCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).ok_or_else(|| ParseExtCommunityError {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<[u8; 8]> {
    let mut parts = text.split(':');
    let (first, second, third) = (parts.next()?, parts.next(), parts.next());
    let (None, Some(global), Some(local)) = (parts.next(), second, third) else {
        let hex =
            second.is_none() && text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
        return u64::from_str_radix(text, 16)
            .ok()
            .filter(|_| hex)
            .map(u64::to_be_bytes);
    };
    let kind = match first {
        "rt" => ROUTE_TARGET,
        "soo" => ROUTE_ORIGIN,
        _ => return None,
    };
    if let Ok(addr) = global.parse::<Ipv4Addr>() {
        return Some(with_four(IPV4, kind, addr.octets(), local.parse().ok()?));
    }
    match global.parse::<u32>().ok()? {
        asn @ 0..=0xffff => {
            let asn = u16::try_from(asn).ok()?.to_be_bytes();
            let [a, b, c, d] = local.parse::<u32>().ok()?.to_be_bytes();
            Some([TWO_OCTET_AS, kind, asn[0], asn[1], a, b, c, d])
        }
        asn => Some(with_four(
            FOUR_OCTET_AS,
            kind,
            asn.to_be_bytes(),
            local.parse().ok()?,
        )),
    }
}

const fn with_four(form: u8, kind: u8, [a, b, c, d]: [u8; 4], local: u16) -> [u8; 8] {
    let [high, low] = local.to_be_bytes();
    [form, kind, a, b, c, d, high, low]
}

impl fmt::Display for ExtCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [form, kind, a, b, c, d, e, g] = self.0;
        let name = match kind {
            ROUTE_TARGET => "rt",
            ROUTE_ORIGIN => "soo",
            _ => "",
        };
        let local = u16::from_be_bytes([e, g]);
        match form {
            TWO_OCTET_AS if !name.is_empty() => {
                let asn = u16::from_be_bytes([a, b]);
                write!(f, "{name}:{asn}:{}", u32::from_be_bytes([c, d, e, g]))
            }
            IPV4 if !name.is_empty() => write!(f, "{name}:{}:{local}", Ipv4Addr::new(a, b, c, d)),
            // A small number would read as one of the first form.
            FOUR_OCTET_AS if !name.is_empty() && (a, b) != (0, 0) => {
                write!(f, "{name}:{}:{local}", u32::from_be_bytes([a, b, c, d]))
            }
            _ => write!(f, "{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

impl fmt::Debug for ExtCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc4360_and_rfc5668_forms_have_their_octets() {
        for (text, octets) in [
            ("rt:65002:3", [0, 2, 0xfd, 0xea, 0, 0, 0, 3]),
            ("soo:1:4294967295", [0, 3, 0, 1, 255, 255, 255, 255]),
            ("rt:192.0.2.1:7", [1, 2, 192, 0, 2, 1, 0, 7]),
            ("rt:4200000000:7", [2, 2, 0xfa, 0x56, 0xea, 0, 0, 7]),
            ("4004fdea00000000", [0x40, 4, 0xfd, 0xea, 0, 0, 0, 0]),
        ] {
            let parsed: ExtCommunity = text.parse().unwrap();
            assert_eq!((parsed.0, parsed.to_string().as_str()), (octets, text));
            assert_eq!(parsed.is_transitive(), octets[0] < 0x40);
        }
        for text in [
            "",
            "rt",
            "rt:1",
            "rt:1:2:3",
            "rt:70000:65536",
            "rd:1:1",
            "+004fdea00000000",
        ] {
            let error = text.parse::<ExtCommunity>().unwrap_err().to_string();
            assert!(error.contains("allowed is"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_round_trip(octets: [u8; 8], form in 0u8..4, kind in 1u8..5) {
            for octets in [octets, [form, kind, octets[2], octets[3], octets[4], octets[5], octets[6], octets[7]]] {
                let community = ExtCommunity(octets);
                prop_assert_eq!(community.to_string().parse::<ExtCommunity>(), Ok(community));
            }
        }
    }
}
