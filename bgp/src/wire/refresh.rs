//! ROUTE-REFRESH (RFC 2918, RFC 7313).

use bytes::{BufMut, BytesMut};

use crate::{
    prefix::Family,
    wire::{
        cursor::Cursor,
        error::WireError,
        header::{self, MessageType},
        notification::Kind,
    },
};

/// What a ROUTE-REFRESH means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefreshKind {
    /// Send the routes of the family again.
    Request,
    /// Routes of the family follow; those not among them are stale (BoRR, RFC 7313).
    Begin,
    /// The routes of the family are complete (EoRR, RFC 7313).
    End,
}

/// A ROUTE-REFRESH message of a family that we carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRefresh {
    /// The family.
    pub family: Family,
    /// Its meaning.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// Decodes a message body; `None` for a message to ignore: another family or subtype, or an
    /// outbound route filter that we did not ask for.
    pub fn decode(body: &[u8]) -> Result<Option<Self>, WireError> {
        let wrong_length = || {
            // RFC 7313 section 5: the whole message is the data.
            let mut whole = BytesMut::new();
            header::put(&mut whole, MessageType::RouteRefresh, body.len());
            whole.put_slice(body);
            let what = "the length of ROUTE-REFRESH is wrong";
            WireError::with_data(Kind::ROUTE_REFRESH_LENGTH, what, &whole)
        };
        let mut c = Cursor::new(body);
        let [afi_hi, afi_lo, subtype, safi] = c.array().ok_or_else(wrong_length)?;
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            _ => return Ok(None),
        };
        if !c.is_empty() {
            return if kind == RefreshKind::Request {
                Ok(None)
            } else {
                Err(wrong_length())
            };
        }
        let family = Family::from_wire(u16::from_be_bytes([afi_hi, afi_lo]), safi);
        Ok(family.map(|family| Self { family, kind }))
    }

    /// Appends the whole message.
    pub fn encode(self, out: &mut BytesMut) {
        header::put(out, MessageType::RouteRefresh, 4);
        out.put_u16(self.family.afi());
        out.put_u8(match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
        });
        out.put_u8(self.family.safi());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_kinds_round_trip() {
        for family in Family::ALL {
            for kind in [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End] {
                let mut out = BytesMut::new();
                RouteRefresh { family, kind }.encode(&mut out);
                let body = out.split_off(header::HEADER_LEN);
                assert_eq!(
                    RouteRefresh::decode(&body),
                    Ok(Some(RouteRefresh { family, kind }))
                );
            }
        }
    }

    #[test]
    fn rfc7313_wrong_lengths_are_an_error_and_unknown_things_are_ignored() {
        let error = RouteRefresh::decode(&[0, 1, 1, 1, 9]).unwrap_err();
        assert_eq!(error.notification().kind, Kind::ROUTE_REFRESH_LENGTH);
        assert_eq!(error.notification().data.len(), header::HEADER_LEN + 5);
        assert!(RouteRefresh::decode(&[0, 1, 1]).is_err());
        assert_eq!(RouteRefresh::decode(&[0, 1, 9, 1]), Ok(None));
        assert_eq!(RouteRefresh::decode(&[0, 25, 0, 70]), Ok(None));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            drop(RouteRefresh::decode(&bytes));
        }
    }
}
