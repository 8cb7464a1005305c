//! Octets to attributes, with the error handling of RFC 7606.

use super::{
    Aggregator, AttrContext, Decoded, Origin, PathAttrs, PeerKind, RawAttr, code, flags,
    tlv::{OVERRUN, Tlv, read_tlv},
};
use crate::wire::{
    as_path::{AS_TRANS, AsPath},
    cursor::Cursor,
    error::{AttrError, Verdict, WireError},
    notification::Kind,
};

/// RFC 7606 section 7: what an error in an attribute costs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnError {
    Discard,
    Withdraw,
}

/// Expected flags and error class of the attributes we know.
const fn known(code: u8) -> Option<(u8, OnError)> {
    const WELL_KNOWN: u8 = flags::TRANSITIVE;
    const OPTIONAL: u8 = flags::OPTIONAL;
    const TRANSITIVE: u8 = flags::OPTIONAL | flags::TRANSITIVE;
    Some(match code {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF => {
            (WELL_KNOWN, OnError::Withdraw)
        }
        code::ATOMIC_AGGREGATE => (WELL_KNOWN, OnError::Discard),
        code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST => (OPTIONAL, OnError::Withdraw),
        code::AIGP => (OPTIONAL, OnError::Discard),
        code::AGGREGATOR | code::AS4_PATH | code::AS4_AGGREGATOR | code::PREFIX_SID => {
            (TRANSITIVE, OnError::Discard)
        }
        code::COMMUNITIES
        | code::EXT_COMMUNITIES
        | code::IPV6_EXT_COMMUNITIES
        | code::LARGE_COMMUNITIES
        | code::OTC => (TRANSITIVE, OnError::Withdraw),
        _ => return None,
    })
}

/// Decoding state: the attributes so far and what only matters until the end.
struct Decoder {
    ctx: AttrContext,
    attrs: PathAttrs,
    seen: [u64; 4],
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    verdict: Verdict,
    /// Every error, for those who want more than the strongest.
    findings: Option<Vec<Verdict>>,
}

impl PathAttrs {
    /// Decodes attribute octets without MP_REACH_NLRI and MP_UNREACH_NLRI, as
    /// [`UpdateFrame::attrs`](crate::wire::UpdateFrame::attrs) has them (others are skipped).
    ///
    /// The result depends on nothing but the arguments, so it may be interned by them. Whether the
    /// NEXT_HOP that IPv4 prefixes need is there is the caller's check
    /// ([`UpdateFrame::verdict`](crate::wire::UpdateFrame::verdict)).
    pub fn decode(bytes: &[u8], ctx: &AttrContext) -> Decoded {
        let mut decoder = Decoder::new(ctx, None);
        decoder.walk(bytes);
        Decoded {
            attrs: decoder.attrs,
            verdict: decoder.verdict,
        }
    }

    /// Every error that [`decode`](Self::decode) meets, in order; it keeps the strongest.
    pub fn findings(bytes: &[u8], ctx: &AttrContext) -> Vec<Verdict> {
        let mut decoder = Decoder::new(ctx, Some(Vec::new()));
        decoder.walk(bytes);
        decoder.findings.unwrap_or_default()
    }
}

impl Aggregator {
    pub(crate) fn decode(value: &[u8], four_octet: bool) -> Option<Self> {
        let mut c = Cursor::new(value);
        let asn = if four_octet {
            c.u32()?
        } else {
            c.u16()?.into()
        };
        let id = c.u32()?.into();
        (c.is_empty() && asn != 0).then_some(Self { asn, id })
    }
}

impl Decoder {
    fn new(ctx: &AttrContext, findings: Option<Vec<Verdict>>) -> Self {
        Self {
            ctx: *ctx,
            attrs: PathAttrs::default(),
            seen: [0; 4],
            as4_path: None,
            as4_aggregator: None,
            verdict: Verdict::Accept,
            findings,
        }
    }

    fn walk(&mut self, bytes: &[u8]) {
        let mut c = Cursor::new(bytes);
        while !c.is_empty() {
            let Some(tlv) = read_tlv(&mut c) else {
                self.raise(Verdict::TreatAsWithdraw(OVERRUN));
                break;
            };
            if !matches!(tlv.code, code::MP_REACH | code::MP_UNREACH) {
                self.attribute(tlv);
            }
        }
        self.finish();
    }

    fn raise(&mut self, verdict: Verdict) {
        if let Some(findings) = &mut self.findings {
            findings.push(verdict.clone());
        }
        self.verdict.raise(verdict);
    }

    fn attribute(&mut self, tlv: Tlv<'_>) {
        let (word, bit) = (usize::from(tlv.code >> 6), 1u64 << (tlv.code & 63));
        let Some(seen) = self.seen.get_mut(word) else {
            return;
        };
        if *seen & bit != 0 {
            // RFC 7606 section 3(g): all but the first are discarded.
            let what = "the attribute is repeated";
            return self.raise(Verdict::AttributeDiscard(AttrError {
                code: tlv.code,
                what,
                kind: Kind::UPDATE_ATTRIBUTE_LIST,
            }));
        }
        *seen |= bit;
        let Some((expected, on_error)) = known(tlv.code) else {
            return self.unknown(tlv);
        };
        let result = if self.ignored_from_this_peer(tlv.code) {
            Ok(())
        } else if tlv.flags & (flags::OPTIONAL | flags::TRANSITIVE) != expected {
            Err(FLAGS)
        } else {
            self.known(tlv)
        };
        if let Err(what) = result {
            let error = AttrError {
                code: tlv.code,
                what,
                kind: old_kind(tlv.code, what),
            };
            self.raise(match on_error {
                // RFC 7606 section 3(c), RFC 9774 section 3: whatever the attribute.
                _ if matches!(what, FLAGS | SET) => Verdict::TreatAsWithdraw(error),
                OnError::Discard => Verdict::AttributeDiscard(error),
                OnError::Withdraw => Verdict::TreatAsWithdraw(error),
            });
        }
    }

    /// RFC 7606 sections 7.5, 7.9, 7.10: attributes of the inside mean nothing from outside;
    /// RFC 6793 section 4.1: AS4_* mean nothing on a four-octet session.
    const fn ignored_from_this_peer(&self, code: u8) -> bool {
        match code {
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST => {
                matches!(self.ctx.peer, PeerKind::Ebgp)
            }
            code::AS4_PATH | code::AS4_AGGREGATOR => self.ctx.four_octet_as,
            // RFC 7311 section 3.2: off unless configured for the session.
            code::AIGP => true,
            _ => false,
        }
    }

    fn unknown(&mut self, tlv: Tlv<'_>) {
        if tlv.flags & flags::OPTIONAL == 0 {
            let what = "a well-known attribute is unknown";
            let kind = Kind::UPDATE_UNKNOWN_WELL_KNOWN;
            return self.raise(Verdict::Reset(WireError::with_data(kind, what, tlv.whole)));
        }
        if tlv.flags & flags::TRANSITIVE != 0 {
            self.pass_on(tlv, flags::PARTIAL);
        }
    }

    fn pass_on(&mut self, tlv: Tlv<'_>, extra_flags: u8) {
        let kept = flags::OPTIONAL | flags::TRANSITIVE | flags::PARTIAL;
        let attr = RawAttr {
            flags: (tlv.flags & kept) | extra_flags,
            code: tlv.code,
            value: tlv.value.to_vec(),
        };
        let at = self.attrs.unknown.partition_point(|a| a.code < attr.code);
        self.attrs.unknown.insert(at, attr);
    }

    fn known(&mut self, tlv: Tlv<'_>) -> Result<(), &'static str> {
        let value = tlv.value;
        let attrs = &mut self.attrs;
        match tlv.code {
            code::ORIGIN => {
                attrs.origin = match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    [_] => return Err("the value is undefined"),
                    _ => return Err(LENGTH),
                }
            }
            code::AS_PATH => self.as_path(value)?,
            code::NEXT_HOP => attrs.next_hop = Some(u32_value(value).ok_or(LENGTH)?.into()),
            code::MED => attrs.med = Some(u32_value(value).ok_or(LENGTH)?),
            code::LOCAL_PREF => attrs.local_pref = Some(u32_value(value).ok_or(LENGTH)?),
            code::ATOMIC_AGGREGATE => {
                if !value.is_empty() {
                    return Err(LENGTH);
                }
                attrs.atomic_aggregate = true;
            }
            code::AGGREGATOR => {
                let aggregator = Aggregator::decode(value, self.ctx.four_octet_as);
                attrs.aggregator = Some(aggregator.ok_or("the length is wrong or the AS is 0")?);
            }
            code::COMMUNITIES => {
                attrs.communities = list(value, u32::from_be_bytes).ok_or(LENGTH)?;
            }
            code::ORIGINATOR_ID => {
                attrs.originator_id = Some(u32_value(value).ok_or(LENGTH)?.into());
            }
            code::CLUSTER_LIST => {
                attrs.cluster_list = list(value, |b: [u8; 4]| b.into()).ok_or(LENGTH)?;
            }
            code::EXT_COMMUNITIES => {
                attrs.ext_communities = list(value, |b: [u8; 8]| b).ok_or(LENGTH)?;
            }
            code::LARGE_COMMUNITIES => {
                attrs.large_communities = list(value, large_community).ok_or(LENGTH)?;
            }
            code::AS4_PATH => {
                let path = AsPath::decode(value, true)?;
                if path.has_set() {
                    return Err(SET);
                }
                if path.count(0) > 0 {
                    return Err("AS 0 is in the path"); // RFC 7607
                }
                self.as4_path = Some(path);
            }
            code::AS4_AGGREGATOR => {
                let aggregator = Aggregator::decode(value, true);
                self.as4_aggregator = Some(aggregator.ok_or("the length is wrong or the AS is 0")?);
            }
            code::IPV6_EXT_COMMUNITIES => {
                if value.is_empty() || !value.len().is_multiple_of(20) {
                    return Err(LENGTH);
                }
                self.pass_on(tlv, 0);
            }
            code::OTC => {
                u32_value(value).ok_or(LENGTH)?;
                self.pass_on(tlv, 0);
            }
            code::PREFIX_SID => {
                prefix_sid_adds_up(value).ok_or(LENGTH)?;
                self.pass_on(tlv, 0);
            }
            _ => {}
        }
        Ok(())
    }

    fn as_path(&mut self, value: &[u8]) -> Result<(), &'static str> {
        let path = AsPath::decode(value, self.ctx.four_octet_as)?;
        if path.count(0) > 0 {
            return Err("AS 0 is in the path"); // RFC 7607
        }
        if path.has_confed() && self.ctx.peer == PeerKind::Ebgp {
            return Err("there are confederation segments from outside"); // RFC 5065 section 5
        }
        if path.has_set() {
            return Err(SET);
        }
        self.attrs.as_path = path;
        Ok(())
    }

    fn finish(&mut self) {
        for (code, what) in [
            (code::ORIGIN, "ORIGIN is missing"),
            (code::AS_PATH, "AS_PATH is missing"),
        ] {
            if self.seen.first().is_some_and(|word| word >> code & 1 == 0) {
                let kind = Kind::UPDATE_MISSING_WELL_KNOWN;
                self.raise(Verdict::TreatAsWithdraw(AttrError { code, what, kind }));
            }
        }
        self.merge_as4();
    }

    /// RFC 6793 section 4.2.3.
    fn merge_as4(&mut self) {
        if self.attrs.aggregator.is_some_and(|a| a.asn != AS_TRANS) {
            return;
        }
        if let (Some(aggregator), Some(as4)) = (&mut self.attrs.aggregator, self.as4_aggregator) {
            *aggregator = as4;
        }
        if let Some(as4) = self.as4_path.take() {
            self.attrs.as_path = std::mem::take(&mut self.attrs.as_path).merge_as4(as4);
        }
    }
}

const FLAGS: &str = "the optional or transitive flag is wrong";
const LENGTH: &str = "the length is wrong";
/// RFC 9774.
const SET: &str = "there is an AS_SET or AS_CONFED_SET";

/// The NOTIFICATION of RFC 4271 section 6.3 for an error in an attribute that we know.
fn old_kind(code: u8, what: &'static str) -> Kind {
    match (code, what) {
        (_, FLAGS) => Kind::UPDATE_ATTRIBUTE_FLAGS,
        (_, LENGTH) => Kind::UPDATE_ATTRIBUTE_LENGTH,
        (code::ORIGIN, _) => Kind::UPDATE_ORIGIN,
        (code::AS_PATH, _) => Kind::UPDATE_AS_PATH,
        (code::NEXT_HOP, _) => Kind::UPDATE_NEXT_HOP,
        _ => Kind::UPDATE_OPTIONAL_ATTRIBUTE,
    }
}

fn u32_value(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A non-empty list of `N`-octet items.
fn list<const N: usize, T>(value: &[u8], item: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (chunks, rest) = value.as_chunks::<N>();
    (!chunks.is_empty() && rest.is_empty()).then(|| chunks.iter().map(|c| item(*c)).collect())
}

fn large_community(bytes: [u8; 12]) -> [u32; 3] {
    let mut c = Cursor::new(&bytes);
    std::array::from_fn(|_| c.u32().unwrap_or(0))
}

/// RFC 8669 section 6: the TLVs, type u8 and length u16, fill the value.
fn prefix_sid_adds_up(value: &[u8]) -> Option<()> {
    let mut c = Cursor::new(value);
    while !c.is_empty() {
        c.u8()?;
        c.prefixed_u16()?;
    }
    Some(())
}
