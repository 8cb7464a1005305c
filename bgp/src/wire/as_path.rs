//! AS_PATH (RFC 4271 section 4.3, RFC 5065, RFC 6793).

use std::fmt;

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use crate::wire::cursor::Cursor;

/// Stands in for a four-octet AS number on two-octet sessions (RFC 6793).
pub const AS_TRANS: u32 = 23456;

/// Most AS numbers that the count octet of a segment can tell.
const MAX_SEGMENT: usize = 255;

/// The kind of an AS_PATH segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// Unordered; counts as one hop.
    Set,
    /// Ordered, nearest AS first.
    Sequence,
    /// Ordered member ASes of a confederation; counts as no hop.
    ConfedSequence,
    /// Unordered member ASes of a confederation; counts as no hop.
    ConfedSet,
}

impl SegmentKind {
    const fn to_wire(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfedSequence => 3,
            Self::ConfedSet => 4,
        }
    }

    const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Set,
            2 => Self::Sequence,
            3 => Self::ConfedSequence,
            4 => Self::ConfedSet,
            _ => return None,
        })
    }

    const fn is_confed(self) -> bool {
        matches!(self, Self::ConfedSequence | Self::ConfedSet)
    }
}

/// One segment of an AS_PATH. Six AS numbers hold nine of ten segments of the Internet inline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Its kind.
    pub kind: SegmentKind,
    /// Its AS numbers, nearest first.
    pub asns: SmallVec<[u32; 6]>,
}

/// The ASes that a route went through, nearest first. Almost always one segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AsPath {
    segments: SmallVec<[Segment; 1]>,
}

impl AsPath {
    /// A path of one sequence; empty for no AS.
    pub fn sequence(asns: &[u32]) -> Self {
        let mut path = Self::default();
        if !asns.is_empty() {
            path.segments.push(Segment {
                kind: SegmentKind::Sequence,
                asns: asns.into(),
            });
        }
        path
    }

    /// The segments, nearest first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the route has not left its own AS.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// All AS numbers in order.
    pub fn asns(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments.iter().flat_map(|s| s.asns.iter().copied())
    }

    /// Length for the decision process: a set is one hop, confederation segments are none
    /// (RFC 4271 section 9.1.2.2, RFC 5065 section 5.3).
    pub fn hops(&self) -> usize {
        self.segments
            .iter()
            .map(|s| match s.kind {
                SegmentKind::Set => 1,
                SegmentKind::Sequence => s.asns.len(),
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            })
            .sum()
    }

    /// The neighbouring AS, whose MEDs may be compared: the first AS of a leading sequence after
    /// confederation segments.
    pub fn neighbour_as(&self) -> Option<u32> {
        let first = self.segments.iter().find(|s| !s.kind.is_confed())?;
        if first.kind == SegmentKind::Sequence {
            first.asns.first().copied()
        } else {
            None
        }
    }

    /// The AS that originated the route: the last one of a trailing sequence.
    pub fn origin_as(&self) -> Option<u32> {
        let last = self.segments.last()?;
        if last.kind == SegmentKind::Sequence {
            last.asns.last().copied()
        } else {
            None
        }
    }

    /// How often `asn` occurs (loop check, RFC 4271 section 9.1.2).
    pub fn count(&self, asn: u32) -> usize {
        self.asns().filter(|a| *a == asn).count()
    }

    /// Whether the leading sequence begins with `asns`.
    pub fn starts_with(&self, asns: &[u32]) -> bool {
        let sequence = |s: &&Segment| s.kind == SegmentKind::Sequence;
        match self.segments.first().filter(sequence) {
            Some(first) => first.asns.starts_with(asns),
            None => asns.is_empty(),
        }
    }

    /// Whether any segment is of a confederation.
    pub fn has_confed(&self) -> bool {
        self.segments.iter().any(|s| s.kind.is_confed())
    }

    /// Whether any segment is an unordered set, which RFC 9774 retires.
    pub fn has_set(&self) -> bool {
        let set = |s: &Segment| matches!(s.kind, SegmentKind::Set | SegmentKind::ConfedSet);
        self.segments.iter().any(set)
    }

    /// Puts `asn` in front `times` times (RFC 4271 section 5.1.2).
    pub fn prepend(&mut self, asn: u32, times: usize) {
        for _ in 0..times {
            match self.segments.first_mut() {
                Some(s) if s.kind == SegmentKind::Sequence && s.asns.len() < MAX_SEGMENT => {
                    s.asns.insert(0, asn);
                }
                _ => {
                    let asns = SmallVec::from_slice(&[asn]);
                    self.segments.insert(
                        0,
                        Segment {
                            kind: SegmentKind::Sequence,
                            asns,
                        },
                    );
                }
            }
        }
    }

    /// Removes confederation segments, as towards a peer outside it (RFC 5065 section 4).
    pub fn strip_confed(&mut self) {
        self.segments.retain(|s| !s.kind.is_confed());
    }

    /// Replaces AS numbers by `f`'s answer, as for as-override.
    pub fn map(&mut self, f: impl Fn(u32) -> u32) {
        for asn in self.segments.iter_mut().flat_map(|s| s.asns.iter_mut()) {
            *asn = f(*asn);
        }
    }

    /// Removes AS numbers that `keep` refuses, and segments that get empty.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        for segment in &mut self.segments {
            segment.asns.retain(|a| keep(*a));
        }
        self.segments.retain(|s| !s.asns.is_empty());
    }

    /// Decodes an attribute value.
    pub(crate) fn decode(value: &[u8], four_octet: bool) -> Result<Self, &'static str> {
        let mut c = Cursor::new(value);
        let mut path = Self::default();
        while !c.is_empty() {
            let cut_off = "a segment is cut off";
            let kind = c
                .u8()
                .and_then(SegmentKind::from_wire)
                .ok_or("a segment type is unknown")?;
            let count = c.u8().ok_or(cut_off)?;
            if count == 0 {
                return Err("a segment is empty");
            }
            let mut asns = SmallVec::with_capacity(usize::from(count));
            for _ in 0..count {
                let asn = if four_octet {
                    c.u32()
                } else {
                    c.u16().map(u32::from)
                };
                asns.push(asn.ok_or(cut_off)?);
            }
            path.segments.push(Segment { kind, asns });
        }
        Ok(path)
    }

    /// Octets of the attribute value. Segments over 255 ASes are split.
    pub(super) fn encoded_len(&self, four_octet: bool) -> usize {
        let asn_len = if four_octet { 4 } else { 2 };
        self.segments
            .iter()
            .map(|s| s.asns.len().div_ceil(MAX_SEGMENT) * 2 + s.asns.len() * asn_len)
            .sum()
    }

    /// Appends the attribute value; AS numbers that do not fit two octets become [`AS_TRANS`].
    pub(super) fn encode(&self, four_octet: bool, out: &mut BytesMut) {
        for segment in &self.segments {
            for chunk in segment.asns.chunks(MAX_SEGMENT) {
                out.put_u8(segment.kind.to_wire());
                out.put_u8(u8::try_from(chunk.len()).unwrap_or(u8::MAX));
                for &asn in chunk {
                    if four_octet {
                        out.put_u32(asn);
                    } else {
                        out.put_u16(as_two_octets(asn));
                    }
                }
            }
        }
    }

    /// Whether two octets are too few for some AS number.
    pub(super) fn needs_four_octets(&self) -> bool {
        self.asns().any(|a| a > u32::from(u16::MAX))
    }

    /// The true path from a two-octet AS_PATH and the AS4_PATH beside it (RFC 6793 section 4.2.3):
    /// the surplus hops of the former, then the latter.
    pub(super) fn merge_as4(self, mut as4: Self) -> Self {
        as4.strip_confed();
        let (have, want) = (self.hops(), as4.hops());
        if have < want {
            return self;
        }
        let mut surplus = have - want;
        let mut merged = Self::default();
        for mut segment in self.segments {
            if !segment.kind.is_confed() {
                if surplus == 0 {
                    break;
                }
                if segment.kind == SegmentKind::Set {
                    surplus -= 1;
                } else {
                    segment.asns.truncate(surplus);
                    surplus -= segment.asns.len();
                }
            }
            merged.segments.push(segment);
        }
        for segment in as4.segments {
            match merged.segments.last_mut() {
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && segment.kind == SegmentKind::Sequence =>
                {
                    last.asns.extend_from_slice(&segment.asns);
                }
                _ => merged.segments.push(segment),
            }
        }
        merged
    }
}

/// `asn` as two octets, [`AS_TRANS`] where it does not fit.
pub fn as_two_octets(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(23456)
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.segments.iter().enumerate() {
            let (open, close, between) = match segment.kind {
                SegmentKind::Sequence => ("", "", " "),
                SegmentKind::Set => ("{", "}", ","),
                SegmentKind::ConfedSequence => ("(", ")", " "),
                SegmentKind::ConfedSet => ("[", "]", ","),
            };
            write!(f, "{}{open}", if i > 0 { " " } else { "" })?;
            for (j, asn) in segment.asns.iter().enumerate() {
                write!(f, "{}{asn}", if j > 0 { between } else { "" })?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(segments: &[(SegmentKind, &[u32])]) -> AsPath {
        AsPath {
            segments: segments
                .iter()
                .map(|(kind, asns)| Segment {
                    kind: *kind,
                    asns: (*asns).into(),
                })
                .collect(),
        }
    }

    #[test]
    fn hops_count_sets_once_and_confederations_not_at_all() {
        let p = path(&[
            (SegmentKind::ConfedSequence, &[65001, 65002]),
            (SegmentKind::Sequence, &[1, 2]),
            (SegmentKind::Set, &[3, 4, 5]),
        ]);
        assert_eq!(p.hops(), 3);
        assert_eq!(p.neighbour_as(), Some(1));
        assert_eq!(p.origin_as(), None);
        assert_eq!(p.to_string(), "(65001 65002) 1 2 {3,4,5}");
    }

    #[test]
    fn prepending_beyond_255_opens_a_new_segment() {
        let mut p = AsPath::sequence(&[7; 255]);
        p.prepend(8, 2);
        assert_eq!(p.segments().len(), 2);
        assert_eq!(p.hops(), 257);
        assert_eq!(p.neighbour_as(), Some(8));
    }

    #[test]
    fn rfc6793_4_2_3_as4_path_replaces_the_tail() {
        let old = AsPath::sequence(&[100, 23456, 23456, 200]);
        let as4 = AsPath::sequence(&[70000, 80000, 200]);
        assert_eq!(
            old.merge_as4(as4),
            AsPath::sequence(&[100, 70000, 80000, 200])
        );
        let longer = AsPath::sequence(&[1, 2, 3]);
        let short = AsPath::sequence(&[9]);
        assert_eq!(short.clone().merge_as4(longer), short);
    }
}
