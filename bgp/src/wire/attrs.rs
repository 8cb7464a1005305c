//! Path attributes (RFC 4271 section 5, RFC 1997, 4360, 4456, 6793, 8092) with the error handling
//! of RFC 7606.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use bytes::{BufMut, BytesMut};

use crate::wire::{
    as_path::{AS_TRANS, AsPath, as_two_octets},
    cursor::Cursor,
    error::{AttrError, Verdict, WireError},
    notification::Kind,
};

/// Attribute type codes.
pub mod code {
    /// ORIGIN.
    pub const ORIGIN: u8 = 1;
    /// AS_PATH.
    pub const AS_PATH: u8 = 2;
    /// NEXT_HOP.
    pub const NEXT_HOP: u8 = 3;
    /// MULTI_EXIT_DISC.
    pub const MED: u8 = 4;
    /// LOCAL_PREF.
    pub const LOCAL_PREF: u8 = 5;
    /// ATOMIC_AGGREGATE.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// AGGREGATOR.
    pub const AGGREGATOR: u8 = 7;
    /// COMMUNITIES (RFC 1997).
    pub const COMMUNITIES: u8 = 8;
    /// ORIGINATOR_ID (RFC 4456).
    pub const ORIGINATOR_ID: u8 = 9;
    /// CLUSTER_LIST (RFC 4456).
    pub const CLUSTER_LIST: u8 = 10;
    /// MP_REACH_NLRI (RFC 4760).
    pub const MP_REACH: u8 = 14;
    /// MP_UNREACH_NLRI (RFC 4760).
    pub const MP_UNREACH: u8 = 15;
    /// EXTENDED COMMUNITIES (RFC 4360).
    pub const EXT_COMMUNITIES: u8 = 16;
    /// AS4_PATH (RFC 6793).
    pub const AS4_PATH: u8 = 17;
    /// AS4_AGGREGATOR (RFC 6793).
    pub const AS4_AGGREGATOR: u8 = 18;
    /// IPv6 address specific extended communities (RFC 5701).
    pub const IPV6_EXT_COMMUNITIES: u8 = 25;
    /// AIGP (RFC 7311).
    pub const AIGP: u8 = 26;
    /// LARGE COMMUNITIES (RFC 8092).
    pub const LARGE_COMMUNITIES: u8 = 32;
    /// Only To Customer (RFC 9234).
    pub const OTC: u8 = 35;
    /// BGP Prefix-SID (RFC 8669).
    pub const PREFIX_SID: u8 = 40;
}

/// Attribute flag bits.
pub mod flags {
    /// Not well-known.
    pub const OPTIONAL: u8 = 0x80;
    /// Passed on by those who do not know it.
    pub const TRANSITIVE: u8 = 0x40;
    /// Someone on the way did not know it.
    pub const PARTIAL: u8 = 0x20;
    /// The length has two octets.
    pub const EXTENDED: u8 = 0x10;
}

/// Well-known communities (RFC 1997, 7999, 8326, 9494).
pub mod community {
    /// Planned maintenance: prefer other routes (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    /// Stale under long-lived graceful restart (RFC 9494).
    pub const LLGR_STALE: u32 = 0xffff_0006;
    /// Not to be kept under long-lived graceful restart (RFC 9494).
    pub const NO_LLGR: u32 = 0xffff_0007;
    /// Discard the traffic (RFC 7999).
    pub const BLACKHOLE: u32 = 0xffff_029a;
    /// Not outside the confederation.
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    /// To no peer.
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    /// To no external peer, confederation members included.
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;

    /// As people write it: the name of a well-known one, else `aa:nn`.
    pub fn text(community: u32) -> String {
        let name = match community {
            GRACEFUL_SHUTDOWN => "graceful-shutdown",
            LLGR_STALE => "llgr-stale",
            NO_LLGR => "no-llgr",
            BLACKHOLE => "blackhole",
            NO_EXPORT => "no-export",
            NO_ADVERTISE => "no-advertise",
            NO_EXPORT_SUBCONFED => "no-export-subconfed",
            _ => return format!("{}:{}", community >> 16, community & 0xffff),
        };
        name.to_owned()
    }
}

/// ORIGIN; smaller is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp,
    /// Learned by the EGP protocol.
    Egp,
    /// By other means.
    #[default]
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "IGP",
            Self::Egp => "EGP",
            Self::Incomplete => "incomplete",
        })
    }
}

/// AGGREGATOR: who aggregated the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// Its AS.
    pub asn: u32,
    /// Its BGP identifier.
    pub id: Ipv4Addr,
}

/// An attribute that we pass on without looking inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawAttr {
    /// Flags as they are sent on, without the extended length bit.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// Value.
    pub value: Vec<u8>,
}

/// Who a message came from, as far as attributes are judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// A peer in another AS.
    Ebgp,
    /// A peer in our AS.
    Ibgp,
}

/// What the meaning of attribute octets depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttrContext {
    /// Both sides have the four-octet AS capability (RFC 6793).
    pub four_octet_as: bool,
    /// The peer.
    pub peer: PeerKind,
}

/// The attributes of a route, MP_REACH_NLRI and MP_UNREACH_NLRI aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PathAttrs {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH merged in.
    pub as_path: AsPath,
    /// NEXT_HOP of the IPv4 prefixes outside MP_REACH_NLRI.
    pub next_hop: Option<Ipv4Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; never from an external peer.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR, with AS4_AGGREGATOR merged in.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES, as received.
    pub communities: Vec<u32>,
    /// ORIGINATOR_ID; never from an external peer.
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST, nearest first; never from an external peer.
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED COMMUNITIES.
    pub ext_communities: Vec<[u8; 8]>,
    /// LARGE COMMUNITIES.
    pub large_communities: Vec<[u32; 3]>,
    /// Transitive attributes that we only pass on, by ascending code.
    pub unknown: Vec<RawAttr>,
}

/// Attributes and what was wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// What could be used. Incomplete if the verdict is not usable.
    pub attrs: PathAttrs,
    /// What to do with the routes.
    pub verdict: Verdict,
}

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

/// One attribute as found on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tlv<'a> {
    pub(super) flags: u8,
    pub(super) code: u8,
    pub(super) value: &'a [u8],
    /// Header and value.
    pub(super) whole: &'a [u8],
}

/// Reads the next attribute; `None` when it runs past the end.
pub(super) fn read_tlv<'a>(c: &mut Cursor<'a>) -> Option<Tlv<'a>> {
    let start = c.rest();
    let mut ahead = *c;
    let flags = ahead.u8()?;
    let code = ahead.u8()?;
    let value = if flags & flags::EXTENDED != 0 {
        ahead.prefixed_u16()?
    } else {
        ahead.prefixed_u8()?
    };
    *c = ahead;
    let whole = start.get(..start.len() - ahead.len())?;
    Some(Tlv {
        flags,
        code,
        value,
        whole,
    })
}

/// The error of an attribute list that does not add up (RFC 7606 section 4).
pub(super) const OVERRUN: AttrError = AttrError {
    code: 0,
    what: "the attribute list is cut off inside an attribute",
    kind: Kind::UPDATE_ATTRIBUTE_LIST,
};

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

    /// Whether a route may be told to others as far as RFC 1997 communities go.
    pub fn has_community(&self, community: u32) -> bool {
        self.communities.contains(&community)
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

/// Whether `addr` can be the next hop of a usable route (RFC 4271 section 6.3, RFC 2545): not
/// unspecified, loopback, multicast, 0/8 or 240/4.
pub fn is_usable_next_hop(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_loopback() && !a.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
