//! The messages of RFC 7854.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, BytesMut};
use margay_bgp::{
    session::DownReason,
    wire::{MessageType, Notification, header},
};

use crate::{view::PeerStatus, watch::WatchedPeer};

const VERSION: u8 = 3;

/// Types (section 4.1).
const ROUTE_MONITORING: u8 = 0;
const STATISTICS_REPORT: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// Flags of the per-peer header (section 4.2): IPv6, and two-octet AS numbers in AS_PATH.
const FLAG_V6: u8 = 0x80;
const FLAG_TWO_OCTET: u8 = 0x20;

/// AS numbers in the message that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AsNumbers {
    /// RFC 6793.
    FourOctets,
    /// RFC 4271.
    TwoOctets,
}

impl AsNumbers {
    /// As the session has them.
    pub(super) fn of(peer: &WatchedPeer) -> Self {
        if peer.four_octet_as {
            Self::FourOctets
        } else {
            Self::TwoOctets
        }
    }
}

/// Why we leave the collector (section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// We stop.
    Stopped,
    /// It was too slow.
    OutOfResources,
}

/// Writes one message: common header, then what `body` puts.
fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u8(VERSION);
    out.put_u32(0);
    out.put_u8(kind);
    body(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start + 1..start + 5) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

/// Type, length and text.
fn text(out: &mut BytesMut, kind: u16, text: &str) {
    let text = text.get(..text.len().min(1024)).unwrap_or_default();
    out.put_u16(kind);
    out.put_u16(u16::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

/// Who we are (section 4.3).
pub(super) fn initiation(name: &str, out: &mut BytesMut) {
    let description = concat!("margay ", env!("CARGO_PKG_VERSION"));
    message(out, INITIATION, |out| {
        text(out, 1, description);
        text(out, 2, name);
    });
}

/// The last message (section 4.5).
pub(super) fn termination(goodbye: Goodbye, out: &mut BytesMut) {
    message(out, TERMINATION, |out| {
        out.put_u16(1);
        out.put_u16(2);
        out.put_u16(match goodbye {
            Goodbye::Stopped => 0,
            Goodbye::OutOfResources => 2,
        });
    });
}

/// The per-peer header (section 4.2), of a global instance peer before import.
fn per_peer(peer: &WatchedPeer, numbers: AsNumbers, at: SystemTime, out: &mut BytesMut) {
    let v6 = if peer.remote.is_ipv6() { FLAG_V6 } else { 0 };
    let two = match numbers {
        AsNumbers::FourOctets => 0,
        AsNumbers::TwoOctets => FLAG_TWO_OCTET,
    };
    out.put_u8(0);
    out.put_u8(v6 | two);
    out.put_u64(0);
    put_addr(peer.remote.ip(), out);
    out.put_u32(peer.remote_as);
    out.put_slice(&peer.peer_id.octets());
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.put_u32(u32::try_from(since.as_secs()).unwrap_or(u32::MAX));
    out.put_u32(since.subsec_micros());
}

/// An address in 16 octets, IPv4 at the end.
fn put_addr(addr: IpAddr, out: &mut BytesMut) {
    match addr {
        IpAddr::V4(v4) => {
            out.put_slice(&[0; 12]);
            out.put_slice(&v4.octets());
        }
        IpAddr::V6(v6) => out.put_slice(&v6.octets()),
    }
}

/// A session is up (section 4.10).
pub(super) fn peer_up(peer: &WatchedPeer, out: &mut BytesMut) {
    message(out, PEER_UP, |out| {
        per_peer(peer, AsNumbers::of(peer), peer.since, out);
        put_addr(peer.local.ip(), out);
        out.put_u16(peer.local.port());
        out.put_u16(peer.remote.port());
        out.put_slice(&peer.sent_open);
        out.put_slice(&peer.received_open);
        if !peer.name.is_empty() {
            // An information TLV of the type of initiation's free-form text.
            text(out, 0, &peer.name);
        }
    });
}

/// A session is lost (section 4.9).
pub(super) fn peer_down(
    peer: &WatchedPeer,
    reason: &DownReason,
    at: SystemTime,
    out: &mut BytesMut,
) {
    let with = |code: u8, notification: &Notification, out: &mut BytesMut| {
        out.put_u8(code);
        notification.encode(out);
    };
    message(out, PEER_DOWN, |out| {
        per_peer(peer, AsNumbers::of(peer), at, out);
        match reason {
            DownReason::Sent(notification) => with(1, notification, out),
            DownReason::Received(notification) => with(3, notification, out),
            DownReason::Replaced => {
                // The event of RFC 4271 section 8.1.4: TcpConnectionFails.
                out.put_u8(2);
                out.put_u16(18);
            }
            DownReason::ConnectionLost | DownReason::DialFailed => out.put_u8(4),
        }
    });
}

/// The UPDATEs among whole messages, each in a message of its own (section 4.6).
pub(super) fn updates(
    peer: &WatchedPeer,
    numbers: AsNumbers,
    mut messages: &[u8],
    at: SystemTime,
    out: &mut BytesMut,
) {
    while let Ok(Some((kind, len))) = header::peek(messages, true) {
        let (update, rest) = messages.split_at(len);
        messages = rest;
        if kind == MessageType::Update {
            message(out, ROUTE_MONITORING, |out| {
                per_peer(peer, numbers, at, out);
                out.put_slice(update);
            });
        }
    }
}

/// Counters and gauges of a peer (section 4.8).
pub(super) fn statistics(peer: &WatchedPeer, status: &PeerStatus, out: &mut BytesMut) {
    message(out, STATISTICS_REPORT, |out| {
        per_peer(peer, AsNumbers::of(peer), SystemTime::now(), out);
        out.put_u32(2 + u32::try_from(status.routes.len()).unwrap_or(0));
        let withdrawn = u32::try_from(status.treated_as_withdraw).unwrap_or(u32::MAX);
        // 11: UPDATEs subjected to treat-as-withdraw.
        out.put_slice(&[0, 11, 0, 4]);
        out.put_u32(withdrawn);
        // 7: routes in Adj-RIB-In.
        out.put_slice(&[0, 7, 0, 8]);
        out.put_u64(status.routes.iter().map(|f| u64::from(f.received)).sum());
        for family in &status.routes {
            // 9: the same of a family.
            out.put_slice(&[0, 9, 0, 11]);
            out.put_u16(family.family.afi());
            out.put_u8(family.family.safi());
            out.put_u64(family.received.into());
        }
    });
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::Bytes;

    use super::*;
    use crate::peer_key::PeerKey;

    fn peer(key: &str) -> WatchedPeer {
        let mut open = BytesMut::new();
        header::put_keepalive(&mut open);
        let key: PeerKey = key.parse().unwrap();
        WatchedPeer {
            key,
            name: String::new(),
            remote_as: 65002,
            local_as: 65001,
            peer_id: Ipv4Addr::new(192, 0, 2, 9),
            local: ([192, 0, 2, 1], 179).into(),
            remote: (key.addr, 40000).into(),
            four_octet_as: true,
            path_ids: false,
            sent_open: open.clone().freeze(),
            received_open: open.freeze(),
            since: UNIX_EPOCH + std::time::Duration::from_micros(7_000_009),
        }
    }

    /// Type and body of the messages in `out`.
    fn read(out: &[u8]) -> Vec<(u8, Bytes)> {
        let mut all = Vec::new();
        let mut rest = out;
        while !rest.is_empty() {
            assert_eq!(rest[0], 3);
            let len = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
            all.push((rest[5], Bytes::copy_from_slice(&rest[6..len])));
            rest = &rest[len..];
        }
        all
    }

    #[test]
    fn rfc7854_4_2_the_header_names_the_peer() {
        let mut out = BytesMut::new();
        peer_up(&peer("192.0.2.2"), &mut out);
        let [(PEER_UP, body)] = &read(&out)[..] else {
            panic!("{out:?}")
        };
        assert_eq!(&body[..10], [0; 10]);
        assert_eq!(
            &body[10..26],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2]
        );
        assert_eq!(&body[26..34], [0, 0, 0xfd, 0xea, 192, 0, 2, 9]);
        assert_eq!(&body[34..42], [0, 0, 0, 7, 0, 0, 0, 9]);
        assert_eq!(&body[42 + 16..42 + 20], [0, 179, 0x9c, 0x40]);
        assert_eq!(body.len(), 42 + 20 + 2 * 19);

        let mut old = peer("2001:db8::2");
        old.four_octet_as = false;
        let mut out = BytesMut::new();
        peer_down(&old, &DownReason::ConnectionLost, old.since, &mut out);
        let [(PEER_DOWN, body)] = &read(&out)[..] else {
            panic!("{out:?}")
        };
        assert_eq!(body[1], FLAG_V6 | FLAG_TWO_OCTET);
        assert_eq!(body[42], 4);
    }

    #[test]
    fn only_updates_are_passed_on_each_alone() {
        let mut messages = BytesMut::new();
        for family in margay_bgp::prefix::Family::ALL {
            margay_bgp::wire::update_encode::end_of_rib(family, &mut messages);
            header::put_keepalive(&mut messages);
        }
        let mut out = BytesMut::new();
        let peer = peer("192.0.2.2");
        let numbers = AsNumbers::FourOctets;
        updates(&peer, numbers, &messages, peer.since, &mut out);
        let all = read(&out);
        assert_eq!(all.iter().map(|m| m.0).collect::<Vec<_>>(), [0, 0]);
        assert_eq!(all[0].1.len(), 42 + 23);
        assert_eq!(all[1].1.len(), 42 + 30);
    }

    #[test]
    fn rfc7854_4_9_reasons_carry_the_notification() {
        let notification = Notification::new(margay_bgp::wire::Kind::CEASE_ADMIN_SHUTDOWN);
        for (reason, code, len) in [
            (DownReason::Sent(notification.clone()), 1, 21),
            (DownReason::Received(notification), 3, 21),
            (DownReason::Replaced, 2, 2),
            (DownReason::ConnectionLost, 4, 0),
        ] {
            let mut out = BytesMut::new();
            let peer = peer("192.0.2.2");
            peer_down(&peer, &reason, peer.since, &mut out);
            let all = read(&out);
            assert_eq!((all[0].1[42], all[0].1.len()), (code, 43 + len), "{reason}");
        }
    }
}
