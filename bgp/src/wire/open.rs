//! OPEN (RFC 4271 section 4.2) with capabilities (RFC 5492) and extended parameters (RFC 9072).

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

use crate::{
    prefix::Family,
    wire::{
        as_path::as_two_octets,
        capability::Capabilities,
        cursor::Cursor,
        error::WireError,
        header::{self, MessageType, patch_len},
        notification::Kind,
    },
};

const VERSION: u8 = 4;
const PARAM_CAPABILITIES: u8 = 2;
/// In both the length and the first type octet: lengths of two octets follow (RFC 9072).
const EXTENDED_MARK: u8 = 255;

/// An OPEN message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS: of the four-octet AS capability if there is one.
    pub asn: u32,
    /// Proposed hold time in seconds: 0 or at least 3.
    pub hold_time_secs: u16,
    /// BGP identifier, never 0.
    pub id: Ipv4Addr,
    /// What the sender can do.
    pub capabilities: Capabilities,
}

impl Open {
    /// Decodes a message body and checks what RFC 4271 section 6.2 lets check without knowing the
    /// peer.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let malformed = || WireError::new(Kind::OPEN_UNSPECIFIC, "OPEN is cut off");
        let mut c = Cursor::new(body);
        if c.u8().ok_or_else(malformed)? != VERSION {
            let what = "the BGP version is not 4";
            return Err(WireError::with_data(
                Kind::OPEN_VERSION,
                what,
                &[0, VERSION],
            ));
        }
        let my_as = c.u16().ok_or_else(malformed)?;
        let hold_time_secs = c.u16().ok_or_else(malformed)?;
        let id = Ipv4Addr::from(c.u32().ok_or_else(malformed)?);
        let capabilities = decode_params(c)?;
        let asn = capabilities.four_octet_as.unwrap_or_else(|| my_as.into());
        if asn == 0 || my_as == 0 {
            return Err(WireError::new(Kind::OPEN_BAD_PEER_AS, "the AS number is 0"));
        }
        if id.is_unspecified() {
            return Err(WireError::new(
                Kind::OPEN_BAD_IDENTIFIER,
                "the BGP identifier is 0",
            ));
        }
        if matches!(hold_time_secs, 1 | 2) {
            return Err(WireError::new(
                Kind::OPEN_HOLD_TIME,
                "the hold time is 1 or 2 seconds",
            ));
        }
        Ok(Self {
            asn,
            hold_time_secs,
            id,
            capabilities,
        })
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        header::put(out, MessageType::Open, 0);
        out.put_u8(VERSION);
        out.put_u16(as_two_octets(self.asn));
        out.put_u16(self.hold_time_secs);
        out.put_slice(&self.id.octets());
        let mut tlvs = BytesMut::new();
        self.capabilities.encode(&mut tlvs);
        match u8::try_from(tlvs.len() + 2) {
            Ok(2) => out.put_u8(0),
            Ok(params_len) if params_len < EXTENDED_MARK => {
                out.put_slice(&[params_len, PARAM_CAPABILITIES, params_len - 2]);
            }
            _ => {
                out.put_slice(&[EXTENDED_MARK, EXTENDED_MARK]);
                let len = u16::try_from(tlvs.len()).unwrap_or(u16::MAX);
                out.put_u16(len.saturating_add(3));
                out.put_u8(PARAM_CAPABILITIES);
                out.put_u16(len);
            }
        }
        out.put_slice(&tlvs);
        patch_len(out, start);
    }

    /// Families that the sender can carry: without capability 1, IPv4 unicast (RFC 4760 section 8).
    pub fn families(&self) -> &[Family] {
        self.capabilities
            .multiprotocol
            .as_deref()
            .unwrap_or(&[Family::Ipv4Unicast])
    }
}

fn decode_params(mut c: Cursor<'_>) -> Result<Capabilities, WireError> {
    let malformed = || {
        WireError::new(
            Kind::OPEN_UNSPECIFIC,
            "the optional parameters do not fit their length",
        )
    };
    let mut short_len = c.u8().map(usize::from).ok_or_else(malformed)?;
    let extended = short_len != 0 && c.rest().first() == Some(&EXTENDED_MARK);
    if extended {
        c.u8();
        short_len = c.u16().map(usize::from).ok_or_else(malformed)?;
    }
    if c.len() != short_len {
        return Err(malformed());
    }
    let mut capabilities = Capabilities::default();
    while !c.is_empty() {
        let kind = c.u8().ok_or_else(malformed)?;
        let value = if extended {
            c.prefixed_u16()
        } else {
            c.prefixed_u8()
        };
        let value = value.ok_or_else(malformed)?;
        if kind != PARAM_CAPABILITIES {
            let what = "an optional parameter is not Capabilities";
            return Err(WireError::new(Kind::OPEN_OPTIONAL_PARAMETER, what));
        }
        capabilities.decode_into(value)?;
    }
    Ok(capabilities)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::wire::capability::{AddPath, ForwardingState, GracefulRestart};

    const FIXED: [u8; 9] = [4, 0xfd, 0xe9, 0, 90, 192, 0, 2, 1];

    fn error_kind(body: &[u8]) -> Kind {
        Open::decode(body).unwrap_err().notification().kind
    }

    #[test]
    fn rfc4271_6_2_errors() {
        let open = |at: usize, value: &[u8]| {
            let mut body = [&FIXED[..], &[0]].concat();
            body[at..at + value.len()].copy_from_slice(value);
            body
        };
        assert!(Open::decode(&open(0, &[4])).is_ok());
        let version = Open::decode(&open(0, &[5])).unwrap_err();
        assert_eq!(
            version.notification(),
            &crate::wire::Notification::with_data(Kind::OPEN_VERSION, &[0, 4])
        );
        assert_eq!(error_kind(&open(1, &[0, 0])), Kind::OPEN_BAD_PEER_AS);
        assert_eq!(error_kind(&open(3, &[0, 2])), Kind::OPEN_HOLD_TIME);
        assert_eq!(error_kind(&open(5, &[0; 4])), Kind::OPEN_BAD_IDENTIFIER);
        assert_eq!(error_kind(&open(9, &[1])), Kind::OPEN_UNSPECIFIC);
        let unknown_param = [&FIXED[..], &[3, 1, 1, 0]].concat();
        assert_eq!(error_kind(&unknown_param), Kind::OPEN_OPTIONAL_PARAMETER);
        let bad_capability = [&FIXED[..], &[4, 2, 2, 65, 9]].concat();
        assert_eq!(error_kind(&bad_capability), Kind::OPEN_UNSPECIFIC);
    }

    #[test]
    fn rfc9072_extended_parameters_are_read_at_any_size_and_written_when_needed() {
        let short = [&FIXED[..], &[255, 255, 0, 5, 2, 0, 2, 2, 0]].concat();
        assert!(Open::decode(&short).unwrap().capabilities.route_refresh);
        let many = vec![
            AddPath {
                family: Family::Ipv4Unicast,
                send: true,
                receive: true
            };
            63
        ];
        let open = Open {
            asn: 65001,
            hold_time_secs: 90,
            id: [192, 0, 2, 1].into(),
            capabilities: Capabilities {
                add_path: many,
                ..Capabilities::default()
            },
        };
        let mut out = BytesMut::new();
        open.encode(&mut out);
        assert_eq!(out[header::HEADER_LEN + 9..][..2], [255, 255]);
        assert_eq!(Open::decode(&out[header::HEADER_LEN..]), Ok(open));
    }

    #[test]
    fn without_capabilities_the_peer_carries_ipv4_only() {
        let open = Open::decode(&[&FIXED[..], &[0]].concat()).unwrap();
        assert_eq!(open.families(), [Family::Ipv4Unicast]);
        assert_eq!(open.asn, 65001);
    }

    fn capabilities() -> impl Strategy<Value = Capabilities> {
        let family = || prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)];
        let graceful = (
            any::<bool>(),
            any::<bool>(),
            0u16..4096,
            vec(
                (family(), any::<bool>())
                    .prop_map(|(family, preserved)| ForwardingState { family, preserved }),
                0..3,
            ),
        )
            .prop_map(
                |(restarting, notification, restart_time_secs, families)| GracefulRestart {
                    restarting,
                    notification,
                    restart_time_secs,
                    families,
                },
            );
        (
            proptest::option::of(Just(Family::ALL.to_vec())),
            any::<[bool; 3]>(),
            proptest::option::of(1u32..),
            proptest::option::of(graceful),
            vec(
                (family(), any::<bool>()).prop_map(|(family, send)| AddPath {
                    family,
                    send,
                    receive: true,
                }),
                0..3,
            ),
        )
            .prop_map(
                |(multiprotocol, [a, b, c], four_octet_as, graceful_restart, add_path)| {
                    Capabilities {
                        multiprotocol,
                        route_refresh: a,
                        enhanced_route_refresh: b,
                        extended_message: c,
                        four_octet_as,
                        graceful_restart,
                        add_path,
                        ..Capabilities::default()
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..100)) {
            drop(Open::decode(&bytes));
            drop(Open::decode(&[&FIXED[..], &bytes].concat()));
            let params = [&FIXED[..], &[u8::try_from(bytes.len() + 2).unwrap(), 2, u8::try_from(bytes.len()).unwrap()], &bytes].concat();
            drop(Open::decode(&params));
        }

        #[test]
        fn open_round_trips(capabilities in capabilities(), asn in 1u32.., id in 1u32.., hold in 3u16..) {
            let asn = capabilities.four_octet_as.unwrap_or(asn % 65535 + 1);
            let open = Open { asn, hold_time_secs: hold, id: id.into(), capabilities };
            let mut out = BytesMut::new();
            open.encode(&mut out);
            let message = header::frame(&mut out, false).unwrap().unwrap();
            prop_assert_eq!(Open::decode(&message.body), Ok(open));
        }
    }
}
