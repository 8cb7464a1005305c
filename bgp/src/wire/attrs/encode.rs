//! Attributes to octets.

use bytes::{BufMut, BytesMut};

use super::{Aggregator, PathAttrs, code, flags};
use crate::wire::as_path::as_two_octets;

impl PathAttrs {
    /// Appends all attributes in ascending order of code, MP_REACH_NLRI excepted.
    ///
    /// On a two-octet session AS numbers that do not fit are told by AS4_PATH and AS4_AGGREGATOR.
    pub fn encode(&self, four_octet_as: bool, out: &mut BytesMut) {
        const WELL_KNOWN: u8 = flags::TRANSITIVE;
        const OPTIONAL: u8 = flags::OPTIONAL;
        const TRANSITIVE: u8 = flags::OPTIONAL | flags::TRANSITIVE;
        put_attr(out, WELL_KNOWN, code::ORIGIN, &[self.origin as u8]);
        put_head(
            out,
            WELL_KNOWN,
            code::AS_PATH,
            self.as_path.encoded_len(four_octet_as),
        );
        self.as_path.encode(four_octet_as, out);
        if let Some(next_hop) = self.next_hop {
            put_attr(out, WELL_KNOWN, code::NEXT_HOP, &next_hop.octets());
        }
        if let Some(med) = self.med {
            put_attr(out, OPTIONAL, code::MED, &med.to_be_bytes());
        }
        if let Some(local_pref) = self.local_pref {
            put_attr(out, WELL_KNOWN, code::LOCAL_PREF, &local_pref.to_be_bytes());
        }
        if self.atomic_aggregate {
            put_attr(out, WELL_KNOWN, code::ATOMIC_AGGREGATE, &[]);
        }
        if let Some(aggregator) = &self.aggregator {
            aggregator.encode(four_octet_as, out);
        }
        put_list(out, TRANSITIVE, code::COMMUNITIES, &self.communities, |c| {
            c.to_be_bytes()
        });
        if let Some(id) = self.originator_id {
            put_attr(out, OPTIONAL, code::ORIGINATOR_ID, &id.octets());
        }
        put_list(
            out,
            OPTIONAL,
            code::CLUSTER_LIST,
            &self.cluster_list,
            |id| id.octets(),
        );
        put_list(
            out,
            TRANSITIVE,
            code::EXT_COMMUNITIES,
            &self.ext_communities,
            |c| *c,
        );
        if !four_octet_as {
            self.encode_as4(out);
        }
        let (below, above) = self.unknown.split_at(
            self.unknown
                .partition_point(|a| a.code < code::LARGE_COMMUNITIES),
        );
        below
            .iter()
            .for_each(|a| put_attr(out, a.flags, a.code, &a.value));
        if !self.large_communities.is_empty() {
            let len = self.large_communities.len() * 12;
            put_head(out, TRANSITIVE, code::LARGE_COMMUNITIES, len);
            self.large_communities
                .iter()
                .flatten()
                .for_each(|part| out.put_u32(*part));
        }
        above
            .iter()
            .for_each(|a| put_attr(out, a.flags, a.code, &a.value));
    }

    fn encode_as4(&self, out: &mut BytesMut) {
        const TRANSITIVE: u8 = flags::OPTIONAL | flags::TRANSITIVE;
        if self.as_path.needs_four_octets() {
            let mut path = self.as_path.clone();
            path.strip_confed();
            put_head(out, TRANSITIVE, code::AS4_PATH, path.encoded_len(true));
            path.encode(true, out);
        }
        if let Some(aggregator) = self.aggregator.filter(|a| a.asn > u32::from(u16::MAX)) {
            put_head(out, TRANSITIVE, code::AS4_AGGREGATOR, 8);
            out.put_u32(aggregator.asn);
            out.put_slice(&aggregator.id.octets());
        }
    }
}

impl Aggregator {
    fn encode(self, four_octet: bool, out: &mut BytesMut) {
        let flags = flags::OPTIONAL | flags::TRANSITIVE;
        if four_octet {
            put_head(out, flags, code::AGGREGATOR, 8);
            out.put_u32(self.asn);
        } else {
            put_head(out, flags, code::AGGREGATOR, 6);
            out.put_u16(as_two_octets(self.asn));
        }
        out.put_slice(&self.id.octets());
    }
}

fn put_head(out: &mut BytesMut, flags: u8, code: u8, len: usize) {
    match u8::try_from(len) {
        Ok(len) => out.put_slice(&[flags, code, len]),
        Err(_) => {
            out.put_slice(&[flags | flags::EXTENDED, code]);
            out.put_u16(u16::try_from(len).unwrap_or(u16::MAX));
        }
    }
}

fn put_attr(out: &mut BytesMut, flags: u8, code: u8, value: &[u8]) {
    put_head(out, flags, code, value.len());
    out.put_slice(value);
}

fn put_list<const N: usize, T>(
    out: &mut BytesMut,
    flags: u8,
    code: u8,
    items: &[T],
    octets: impl Fn(&T) -> [u8; N],
) {
    if !items.is_empty() {
        put_head(out, flags, code, items.len() * N);
        items.iter().for_each(|item| out.put_slice(&octets(item)));
    }
}
