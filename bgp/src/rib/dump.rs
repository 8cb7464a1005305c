//! The table as octets, for monitoring and for archives: no attribute is decoded for it.

use std::ops::Range;

use bytes::BytesMut;

use super::{PeerId, Rib, RouteSource};
use crate::{
    prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix},
    wire::{
        MAX_EXTENDED_LEN, NextHop, Nlri,
        nlri::PutNlri,
        update_encode::{AttrsTooLong, announce_mp, announce_v4},
    },
};

/// A path as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpedPath<'a> {
    /// Who sent it.
    pub source: RouteSource,
    /// Its attributes with four-octet AS numbers, the MP attributes aside.
    pub attrs: &'a [u8],
    /// The next hop where it is not among the attributes; `None` as well for what we originate.
    pub next_hop: Option<NextHop>,
}

impl Rib {
    /// Appends UPDATEs that announce what a peer has sent, before import, of the prefixes at
    /// `places` ([`Rib::places`]); AS numbers have four octets.
    ///
    /// Messages may be longer than 4096 octets if attributes that we decoded were.
    pub fn adj_in_updates(
        &self,
        peer: PeerId,
        family: Family,
        places: Range<u32>,
        out: &mut BytesMut,
    ) {
        let table = &self.families[family.index()].table;
        let mut held: Vec<(u32, u32, u32)> = table
            .ids_in(places)
            .flat_map(|id| table.paths(id).iter().map(move |path| (path, id)))
            .filter(|(path, _)| path.source == peer.0)
            .map(|(path, id)| (path.pre, id, path.path_id))
            .collect();
        held.sort_unstable();
        let identified = self.identifies_paths(peer, family);
        for same in held.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(set, ..)) = same.first() else {
                continue;
            };
            let (attrs, next_hop) = self.attrs.as_received(set);
            let next_hop = next_hop.and_then(|id| self.next_hops.wire(id));
            let paths = same
                .iter()
                .map(|&(_, id, path_id)| (table.prefix(id), path_id));
            let done = match family {
                Family::Ipv4Unicast => {
                    let paths = paths.filter_map(|(prefix, id)| Some((v4(prefix)?, id)));
                    put(attrs, next_hop, identified, paths, out)
                }
                // Without a next hop it never came.
                Family::Ipv6Unicast if next_hop.is_none() => Ok(0),
                Family::Ipv6Unicast => {
                    let paths = paths.filter_map(|(prefix, id)| Some((v6(prefix)?, id)));
                    put(attrs, next_hop, identified, paths, out)
                }
            };
            // Attributes that came in a message leave room for a prefix in the longest there is.
            done.ok();
        }
    }

    /// Calls `each` with every prefix at `places` that has a path, and its paths as received.
    pub fn dump(
        &self,
        family: Family,
        places: Range<u32>,
        mut each: impl FnMut(Prefix, &[DumpedPath<'_>]),
    ) {
        let table = &self.families[family.index()].table;
        let mut paths = Vec::new();
        for id in table.ids_in(places) {
            paths.clear();
            paths.extend(table.paths(id).iter().map(|path| {
                let (attrs, next_hop) = self.attrs.as_received(path.pre);
                DumpedPath {
                    source: path.source.into(),
                    attrs,
                    next_hop: next_hop.and_then(|id| self.next_hops.wire(id)),
                }
            }));
            if !paths.is_empty() {
                each(table.prefix(id), &paths);
            }
        }
    }
}

/// Announces paths, with their identifiers if the session has them (RFC 7911).
fn put<P: PutNlri>(
    attrs: &[u8],
    next_hop: Option<NextHop>,
    identified: bool,
    paths: impl Iterator<Item = (P, u32)>,
    out: &mut BytesMut,
) -> Result<usize, AttrsTooLong> {
    let most = MAX_EXTENDED_LEN;
    let with_id = |(prefix, path_id)| Nlri { path_id, prefix };
    match (next_hop, identified) {
        (None, false) => announce_v4(attrs, paths.map(|(prefix, _)| prefix), most, out),
        (None, true) => announce_v4(attrs, paths.map(with_id), most, out),
        (Some(hop), false) => announce_mp(hop, attrs, paths.map(|(prefix, _)| prefix), most, out),
        (Some(hop), true) => announce_mp(hop, attrs, paths.map(with_id), most, out),
    }
}

fn v4(prefix: Prefix) -> Option<Ipv4Prefix> {
    match prefix {
        Prefix::V4(p) => Some(p),
        Prefix::V6(_) => None,
    }
}

fn v6(prefix: Prefix) -> Option<Ipv6Prefix> {
    match prefix {
        Prefix::V6(p) => Some(p),
        Prefix::V4(_) => None,
    }
}
