//! Capabilities (RFC 5492) that OPEN carries.

use bytes::{BufMut, BytesMut};

use crate::{
    prefix::Family,
    wire::{cursor::Cursor, error::WireError, notification::Kind},
};

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGE: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;

const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const PRESERVED: u8 = 0x80;

/// Longest restart time that the capability can tell, in seconds.
pub const MAX_RESTART_TIME_SECS: u16 = 0x0fff;

/// What a speaker says it can do. Families that we do not carry are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// RFC 4760. `None` without any such capability: IPv4 unicast only. `Some` of nothing when
    /// there are only families that we do not carry.
    pub multiprotocol: Option<Vec<Family>>,
    /// RFC 2918.
    pub route_refresh: bool,
    /// RFC 7313.
    pub enhanced_route_refresh: bool,
    /// RFC 8654.
    pub extended_message: bool,
    /// RFC 6793: the AS number.
    pub four_octet_as: Option<u32>,
    /// RFC 8950: families whose next hop may be IPv6.
    pub extended_next_hop: Vec<Family>,
    /// RFC 7911.
    pub add_path: Vec<AddPath>,
    /// RFC 4724.
    pub graceful_restart: Option<GracefulRestart>,
    /// RFC 9494. `Some` of nothing tells that the sender knows of it.
    pub long_lived: Option<Vec<LongLived>>,
}

/// ADD-PATH of a family (RFC 7911).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddPath {
    /// The family.
    pub family: Family,
    /// The sender wants to send several paths.
    pub send: bool,
    /// The sender is able to receive several paths.
    pub receive: bool,
}

/// Graceful restart (RFC 4724, RFC 8538).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// R bit: the sender has just restarted; do not wait for its End-of-RIB.
    pub restarting: bool,
    /// N bit: NOTIFICATIONs do not end the grace (RFC 8538).
    pub notification: bool,
    /// How long the sender may need to come back, seconds, at most [`MAX_RESTART_TIME_SECS`].
    pub restart_time_secs: u16,
    /// Families whose routes are worth keeping meanwhile.
    pub families: Vec<ForwardingState>,
}

/// A family in [`GracefulRestart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardingState {
    /// The family.
    pub family: Family,
    /// F bit: packets were forwarded all along.
    pub preserved: bool,
}

/// A family with long-lived graceful restart (RFC 9494).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongLived {
    /// The family.
    pub family: Family,
    /// F bit: packets were forwarded all along.
    pub preserved: bool,
    /// How long to keep stale routes, seconds, 24 bits.
    pub stale_time_secs: u32,
}

impl Capabilities {
    /// Adds the capability TLVs of one optional parameter.
    ///
    /// Unknown codes are ignored (RFC 5492 section 3). A malformed capability without which the
    /// session would be misunderstood is an error; another one counts as absent.
    pub(super) fn decode_into(&mut self, value: &[u8]) -> Result<(), WireError> {
        let malformed = || WireError::new(Kind::OPEN_UNSPECIFIC, "a capability is malformed");
        let mut c = Cursor::new(value);
        while !c.is_empty() {
            let code = c.u8().ok_or_else(malformed)?;
            let value = c.prefixed_u8().ok_or_else(malformed)?;
            let mut v = Cursor::new(value);
            match code {
                MULTIPROTOCOL => {
                    let ([afi_hi, afi_lo, _, safi], true) =
                        (v.array().ok_or_else(malformed)?, v.is_empty())
                    else {
                        return Err(malformed());
                    };
                    let families = self.multiprotocol.get_or_insert_default();
                    let afi = u16::from_be_bytes([afi_hi, afi_lo]);
                    if let Some(f) = Family::from_wire(afi, safi).filter(|f| !families.contains(f))
                    {
                        families.push(f);
                    }
                }
                FOUR_OCTET_AS => {
                    let asn = v.u32().filter(|_| v.is_empty()).ok_or_else(malformed)?;
                    self.four_octet_as = Some(asn);
                }
                ROUTE_REFRESH => self.route_refresh = true,
                ENHANCED_ROUTE_REFRESH => self.enhanced_route_refresh = true,
                EXTENDED_MESSAGE => self.extended_message = true,
                EXTENDED_NEXT_HOP => self.extended_next_hop = extended_next_hop(v),
                ADD_PATH => self.add_path.extend(add_path(v)),
                GRACEFUL_RESTART => self.graceful_restart = GracefulRestart::decode(v),
                LONG_LIVED_GRACEFUL_RESTART => self.long_lived = Some(long_lived(v)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends the capability TLVs, in ascending order of code.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        for family in self.multiprotocol.iter().flatten() {
            out.put_slice(&[MULTIPROTOCOL, 4]);
            out.put_u16(family.afi());
            out.put_u16(family.safi().into());
        }
        put_flag(out, self.route_refresh, ROUTE_REFRESH);
        if !self.extended_next_hop.is_empty() {
            put_head(out, EXTENDED_NEXT_HOP, self.extended_next_hop.len() * 6);
            for family in &self.extended_next_hop {
                out.put_u16(family.afi());
                out.put_u16(family.safi().into());
                out.put_u16(Family::Ipv6Unicast.afi());
            }
        }
        put_flag(out, self.extended_message, EXTENDED_MESSAGE);
        if let Some(graceful) = &self.graceful_restart {
            graceful.encode(out);
        }
        if let Some(asn) = self.four_octet_as {
            put_head(out, FOUR_OCTET_AS, 4);
            out.put_u32(asn);
        }
        if !self.add_path.is_empty() {
            put_head(out, ADD_PATH, self.add_path.len() * 4);
            for item in &self.add_path {
                put_family(out, item.family);
                out.put_u8(u8::from(item.receive) | u8::from(item.send) << 1);
            }
        }
        put_flag(out, self.enhanced_route_refresh, ENHANCED_ROUTE_REFRESH);
        if let Some(long_lived) = &self.long_lived {
            put_head(out, LONG_LIVED_GRACEFUL_RESTART, long_lived.len() * 7);
            for item in long_lived {
                put_family(out, item.family);
                out.put_u8(if item.preserved { PRESERVED } else { 0 });
                out.put_uint(item.stale_time_secs.into(), 3);
            }
        }
    }
}

impl GracefulRestart {
    fn decode(mut v: Cursor<'_>) -> Option<Self> {
        let head = v.u16()?;
        let mut families = Vec::new();
        while let Some([afi_hi, afi_lo, safi, bits]) = v.array() {
            let afi = u16::from_be_bytes([afi_hi, afi_lo]);
            if let Some(family) = Family::from_wire(afi, safi) {
                families.push(ForwardingState {
                    family,
                    preserved: bits & PRESERVED != 0,
                });
            }
        }
        v.is_empty().then_some(Self {
            restarting: head & RESTARTING != 0,
            notification: head & NOTIFICATION != 0,
            restart_time_secs: head & MAX_RESTART_TIME_SECS,
            families,
        })
    }

    fn encode(&self, out: &mut BytesMut) {
        put_head(out, GRACEFUL_RESTART, 2 + self.families.len() * 4);
        let restarting = if self.restarting { RESTARTING } else { 0 };
        let notification = if self.notification { NOTIFICATION } else { 0 };
        out.put_u16(self.restart_time_secs.min(MAX_RESTART_TIME_SECS) | restarting | notification);
        for item in &self.families {
            put_family(out, item.family);
            out.put_u8(if item.preserved { PRESERVED } else { 0 });
        }
    }
}

fn extended_next_hop(mut v: Cursor<'_>) -> Vec<Family> {
    let mut families = Vec::new();
    while let (Some(afi), Some(safi), Some(next_hop_afi)) = (v.u16(), v.u16(), v.u16()) {
        let family = u8::try_from(safi)
            .ok()
            .and_then(|safi| Family::from_wire(afi, safi));
        if next_hop_afi == Family::Ipv6Unicast.afi() {
            families.extend(family);
        }
    }
    families
}

fn add_path(mut v: Cursor<'_>) -> Vec<AddPath> {
    let mut items = Vec::new();
    while let Some([afi_hi, afi_lo, safi, direction]) = v.array() {
        let family = Family::from_wire(u16::from_be_bytes([afi_hi, afi_lo]), safi);
        // RFC 7911 section 4: a tuple with another value is ignored.
        if let (Some(family), 1..=3) = (family, direction) {
            let (receive, send) = (direction & 1 != 0, direction & 2 != 0);
            items.push(AddPath {
                family,
                send,
                receive,
            });
        }
    }
    items
}

fn long_lived(mut v: Cursor<'_>) -> Vec<LongLived> {
    let mut items = Vec::new();
    while let Some([afi_hi, afi_lo, safi, bits, a, b, c]) = v.array() {
        if let Some(family) = Family::from_wire(u16::from_be_bytes([afi_hi, afi_lo]), safi) {
            let stale_time_secs = u32::from_be_bytes([0, a, b, c]);
            items.push(LongLived {
                family,
                preserved: bits & PRESERVED != 0,
                stale_time_secs,
            });
        }
    }
    items
}

fn put_head(out: &mut BytesMut, code: u8, len: usize) {
    out.put_slice(&[code, u8::try_from(len).unwrap_or(u8::MAX)]);
}

fn put_flag(out: &mut BytesMut, set: bool, code: u8) {
    if set {
        put_head(out, code, 0);
    }
}

fn put_family(out: &mut BytesMut, family: Family) {
    out.put_u16(family.afi());
    out.put_u8(family.safi());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.decode_into(bytes).unwrap();
        capabilities
    }

    #[test]
    fn unknown_codes_and_families_are_ignored() {
        let c = decode(&[73, 2, 1, 65, 1, 4, 0, 25, 0, 70, 128, 0]);
        assert_eq!(
            c,
            Capabilities {
                multiprotocol: Some(vec![]),
                ..Capabilities::default()
            }
        );
    }

    #[test]
    fn rfc7911_other_directions_are_ignored_for_that_family_only() {
        let c = decode(&[69, 8, 0, 1, 1, 4, 0, 2, 1, 3]);
        let v6 = AddPath {
            family: Family::Ipv6Unicast,
            send: true,
            receive: true,
        };
        assert_eq!(c.add_path, [v6]);
    }

    #[test]
    fn rfc4724_bits_and_the_last_instance_counts() {
        let c = decode(&[64, 2, 0, 1, 64, 6, 0xc0, 120, 0, 1, 1, 0x80]);
        let graceful = c.graceful_restart.unwrap();
        assert!(graceful.restarting && graceful.notification);
        assert_eq!(graceful.restart_time_secs, 120);
        let state = ForwardingState {
            family: Family::Ipv4Unicast,
            preserved: true,
        };
        assert_eq!(graceful.families, [state]);
    }

    #[test]
    fn rfc8950_and_rfc9494_values_are_read() {
        let c = decode(&[5, 6, 0, 1, 0, 1, 0, 2, 71, 7, 0, 2, 1, 0x80, 1, 0, 0]);
        assert_eq!(c.extended_next_hop, [Family::Ipv4Unicast]);
        let family = Family::Ipv6Unicast;
        assert_eq!(
            c.long_lived.clone().unwrap_or_default(),
            [LongLived {
                family,
                preserved: true,
                stale_time_secs: 65536
            }]
        );
        let mut out = BytesMut::new();
        c.encode(&mut out);
        assert_eq!(decode(&out), c);
    }
}
