//! The records of RFC 6396.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, BytesMut};
use margay_bgp::{
    prefix::Prefix,
    wire::{NextHop, NlriPrefix, as_path::as_two_octets, attrs::code},
};

use crate::watch::WatchedPeer;

/// Types and subtypes (section 4).
const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;
const RIB_IPV6_UNICAST: u16 = 4;
const BGP4MP: u16 = 16;
const MESSAGE: u16 = 1;
const MESSAGE_AS4: u16 = 4;
const STATE_CHANGE_AS4: u16 = 5;
/// RFC 8050, with path identifiers.
const MESSAGE_ADDPATH: u16 = 8;
const MESSAGE_AS4_ADDPATH: u16 = 9;

/// States of a session as MRT numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MrtState {
    Idle = 1,
    OpenConfirm = 5,
    Established = 6,
}

fn seconds(at: SystemTime) -> u32 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// Appends a record: header, then what `body` puts.
fn record(
    out: &mut BytesMut,
    at: SystemTime,
    (kind, subtype): (u16, u16),
    body: impl FnOnce(&mut BytesMut),
) {
    out.put_u32(seconds(at));
    out.put_u16(kind);
    out.put_u16(subtype);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

fn put_addr(addr: IpAddr, out: &mut BytesMut) {
    match addr {
        IpAddr::V4(v4) => out.put_slice(&v4.octets()),
        IpAddr::V6(v6) => out.put_slice(&v6.octets()),
    }
}

/// A peer in the index of a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexedPeer {
    pub(crate) id: Ipv4Addr,
    pub(crate) addr: IpAddr,
    pub(crate) asn: u32,
}

/// Who the paths of a snapshot came from (section 4.3.1).
pub(crate) fn peer_index_table(
    at: SystemTime,
    collector: Ipv4Addr,
    peers: &[IndexedPeer],
    out: &mut BytesMut,
) {
    record(out, at, (TABLE_DUMP_V2, PEER_INDEX_TABLE), |out| {
        out.put_slice(&collector.octets());
        // No name of a view.
        out.put_u16(0);
        out.put_u16(u16::try_from(peers.len()).unwrap_or(u16::MAX));
        for peer in peers {
            // Bit 0: IPv6, bit 1: the AS has four octets.
            out.put_u8(2 | u8::from(peer.addr.is_ipv6()));
            out.put_slice(&peer.id.octets());
            put_addr(peer.addr, out);
            out.put_u32(peer.asn);
        }
    });
}

/// A path in a snapshot (section 4.3.4).
#[derive(Debug, Clone, Copy)]
pub(crate) struct RibEntry<'a> {
    pub(crate) peer: u16,
    pub(crate) since: SystemTime,
    pub(crate) attrs: &'a [u8],
    /// Told in an MP_REACH_NLRI of its own.
    pub(crate) next_hop: Option<NextHop>,
}

impl RibEntry<'_> {
    /// MP_REACH_NLRI with nothing but the next hop.
    fn mp_reach(&self) -> BytesMut {
        let mut attr = BytesMut::new();
        if let Some(next_hop) = self.next_hop {
            let mut field = BytesMut::new();
            next_hop.encode(&mut field);
            let len = u8::try_from(field.len()).unwrap_or(0);
            attr.put_slice(&[0x80, code::MP_REACH, len]);
            attr.put_slice(&field);
        }
        attr
    }
}

/// A prefix and its paths (section 4.3.2).
pub(crate) fn rib_record(
    at: SystemTime,
    sequence: u32,
    prefix: Prefix,
    entries: &[RibEntry<'_>],
    out: &mut BytesMut,
) {
    let subtype = match prefix {
        Prefix::V4(_) => RIB_IPV4_UNICAST,
        Prefix::V6(_) => RIB_IPV6_UNICAST,
    };
    record(out, at, (TABLE_DUMP_V2, subtype), |out| {
        out.put_u32(sequence);
        match prefix {
            Prefix::V4(p) => p.put(out),
            Prefix::V6(p) => p.put(out),
        }
        out.put_u16(u16::try_from(entries.len()).unwrap_or(u16::MAX));
        for entry in entries {
            let mp = entry.mp_reach();
            out.put_u16(entry.peer);
            out.put_u32(seconds(entry.since));
            out.put_u16(u16::try_from(entry.attrs.len() + mp.len()).unwrap_or(u16::MAX));
            out.put_slice(entry.attrs);
            out.put_slice(&mp);
        }
    });
}

/// Both ends of a session (sections 4.4.1 and 4.4.3).
fn put_session(peer: &WatchedPeer, four_octets: bool, out: &mut BytesMut) {
    for asn in [peer.remote_as, peer.local_as] {
        if four_octets {
            out.put_u32(asn);
        } else {
            out.put_u16(as_two_octets(asn));
        }
    }
    out.put_u16(0);
    out.put_u16(if peer.remote.is_ipv6() { 2 } else { 1 });
    put_addr(peer.remote.ip(), out);
    put_addr(peer.local.ip(), out);
}

/// A message as it was received (section 4.4.2 and 4.4.3).
pub(super) fn message(peer: &WatchedPeer, at: SystemTime, message: &[u8], out: &mut BytesMut) {
    let subtype = match (peer.four_octet_as, peer.path_ids) {
        (true, false) => MESSAGE_AS4,
        (false, false) => MESSAGE,
        (true, true) => MESSAGE_AS4_ADDPATH,
        (false, true) => MESSAGE_ADDPATH,
    };
    record(out, at, (BGP4MP, subtype), |out| {
        put_session(peer, peer.four_octet_as, out);
        out.put_slice(message);
    });
}

/// A session that came or went (section 4.4.1).
pub(super) fn state_change(
    peer: &WatchedPeer,
    at: SystemTime,
    (from, to): (MrtState, MrtState),
    out: &mut BytesMut,
) {
    record(out, at, (BGP4MP, STATE_CHANGE_AS4), |out| {
        put_session(peer, true, out);
        out.put_u16(from as u16);
        out.put_u16(to as u16);
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rfc6396_4_3_a_prefix_names_the_peers_of_its_paths() {
        let at = UNIX_EPOCH + Duration::from_secs(7);
        let mut out = BytesMut::new();
        let entry = RibEntry {
            peer: 1,
            since: at,
            attrs: &[0x40, 1, 1, 0],
            next_hop: None,
        };
        let prefix = "10.1.0.0/16".parse().unwrap();
        rib_record(at, 5, prefix, &[entry], &mut out);
        let want = [
            &[0, 0, 0, 7, 0, 13, 0, 2, 0, 0, 0, 21][..],
            &[0, 0, 0, 5, 16, 10, 1, 0, 1],
            &[0, 1, 0, 0, 0, 7, 0, 4, 0x40, 1, 1, 0],
        ];
        assert_eq!(out, want.concat());
    }

    #[test]
    fn rfc6396_4_3_4_ipv6_has_the_next_hop_alone_in_mp_reach() {
        let mut out = BytesMut::new();
        let entry = RibEntry {
            peer: 0,
            since: UNIX_EPOCH,
            attrs: &[],
            next_hop: Some(IpAddr::from([1; 16]).into()),
        };
        let prefix = "2001:db8::/32".parse().unwrap();
        rib_record(UNIX_EPOCH, 0, prefix, &[entry], &mut out);
        assert_eq!(out[6..8], [0, 4]);
        let attrs = [&[0, 20, 0x80, 14, 17, 16][..], &[1; 16]].concat();
        assert!(out.ends_with(&attrs), "{out:?}");
    }
}
