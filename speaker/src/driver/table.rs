//! The table as an archive, page by page.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::SystemTime,
};

use bytes::BytesMut;
use margay_bgp::{
    prefix::{Family, Prefix},
    rib::{DumpedPath, PeerId, Rib, RouteSource},
    wire::NextHop,
};

use crate::{
    config::SpeakerConfig,
    driver::core::Peers,
    mrt::{
        IndexedPeer, OUR_ADDRESS, OURSELVES, RibEntry, TableCursor, TablePage, peer_index_table,
        rib_record,
    },
};

/// Places to look at for one page: a millisecond or so.
const PAGE: u32 = 8192;

/// NEXT_HOP 0.0.0.0, of what we originate.
const NO_NEXT_HOP: [u8; 7] = [0x40, 3, 4, 0, 0, 0, 0];

/// Index in the snapshot, and since when the session has been up.
type Index = HashMap<PeerId, (u16, SystemTime)>;

/// Records from `cursor` on.
pub(super) fn page(
    mut cursor: TableCursor,
    config: &SpeakerConfig,
    rib: &Rib,
    peers: &Peers,
) -> TablePage {
    let mut out = BytesMut::new();
    if cursor.is_start() {
        // A peer for each index that there is.
        cursor.peers = peers
            .keys()
            .copied()
            .take(usize::from(u16::MAX) - 1)
            .collect();
        index_table(&cursor, config, peers, &mut out);
    }
    let index: Index = (OURSELVES + 1..)
        .zip(&cursor.peers)
        .filter_map(|(at, key)| {
            let peer = peers.get(key)?;
            let since = peer.watched.as_ref().map_or(cursor.started, |w| w.since);
            Some((peer.rib, (at, since)))
        })
        .collect();
    let end = cursor.place.saturating_add(PAGE);
    let mut sequence = cursor.sequence;
    rib.dump(cursor.family, cursor.place..end, |prefix, paths| {
        put_prefix(sequence, prefix, paths, (&index, cursor.started), &mut out);
        sequence = sequence.wrapping_add(1);
    });
    cursor.sequence = sequence;
    let next = if end < rib.places(cursor.family) {
        cursor.place = end;
        Some(cursor)
    } else if cursor.family == Family::Ipv4Unicast {
        cursor.family = Family::Ipv6Unicast;
        cursor.place = 0;
        Some(cursor)
    } else {
        None
    };
    TablePage {
        records: out.freeze(),
        next,
    }
}

fn index_table(cursor: &TableCursor, config: &SpeakerConfig, peers: &Peers, out: &mut BytesMut) {
    let ourselves = IndexedPeer {
        id: config.router_id,
        addr: OUR_ADDRESS.into(),
        asn: config.local_as,
    };
    let others = cursor.peers.iter().filter_map(|key| peers.get(key));
    let others = others.map(|peer| {
        let open = peer.session.negotiated().map(|n| &n.peer);
        let configured = peer.session.config().remote_as;
        IndexedPeer {
            id: open.map_or(OUR_ADDRESS, |open| open.id),
            addr: peer
                .watched
                .as_ref()
                .map_or(peer.key.addr, |w| w.remote.ip()),
            asn: open.map(|open| open.asn).or(configured).unwrap_or(0),
        }
    });
    let all: Vec<IndexedPeer> = std::iter::once(ourselves).chain(others).collect();
    peer_index_table(cursor.started, config.router_id, &all, out);
}

fn put_prefix(
    sequence: u32,
    prefix: Prefix,
    paths: &[DumpedPath<'_>],
    (index, started): (&Index, SystemTime),
    out: &mut BytesMut,
) {
    let own_attrs: Vec<u8> = paths
        .iter()
        .filter(|path| path.source == RouteSource::Local && prefix.family() == Family::Ipv4Unicast)
        .flat_map(|path| [path.attrs, &NO_NEXT_HOP[..]].concat())
        .collect();
    let entry = |path: &DumpedPath<'_>| -> Option<(u16, SystemTime, Option<NextHop>)> {
        match path.source {
            RouteSource::Peer(id) => {
                let (peer, since) = *index.get(&id)?;
                Some((peer, since, path.next_hop))
            }
            RouteSource::Local if prefix.family() == Family::Ipv6Unicast => {
                let none = NextHop::from(IpAddr::from(Ipv6Addr::UNSPECIFIED));
                Some((OURSELVES, started, Some(none)))
            }
            RouteSource::Local => Some((OURSELVES, started, None)),
        }
    };
    let entries: Vec<RibEntry<'_>> = paths
        .iter()
        .filter_map(|path| {
            let (peer, since, next_hop) = entry(path)?;
            let own = peer == OURSELVES && !own_attrs.is_empty();
            Some(RibEntry {
                peer,
                since,
                attrs: if own { &own_attrs } else { path.attrs },
                next_hop,
            })
        })
        .collect();
    if !entries.is_empty() {
        rib_record(started, sequence, prefix, &entries, out);
    }
}
