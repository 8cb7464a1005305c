//! UPDATE, first decoding step (RFC 4271 section 4.3, RFC 4760, RFC 7606).
//!
//! [`UpdateFrame::split`] checks lengths and walks the attribute list once. It copies nothing
//! unless MP attributes stand between others, which no known speaker sends.

use std::borrow::Cow;

use crate::{
    prefix::Family,
    wire::{
        attrs::{OVERRUN, code, flags, read_tlv},
        cursor::Cursor,
        error::{AttrError, Verdict, WireError},
        next_hop::NextHop,
        notification::Kind,
    },
};

/// MP_REACH_NLRI of a family that we carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpReach<'a> {
    /// Family of the prefixes.
    pub family: Family,
    /// Where they are reached.
    pub next_hop: NextHop,
    /// Encoded prefixes, for [`NlriIter`](crate::wire::NlriIter).
    pub nlri: &'a [u8],
}

/// MP_UNREACH_NLRI of a family that we carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpUnreach<'a> {
    /// Family of the prefixes.
    pub family: Family,
    /// Encoded prefixes; empty for End-of-RIB.
    pub nlri: &'a [u8],
}

/// The parts of an UPDATE.
///
/// To apply one: handle `withdrawn` and `mp_unreach` first, then `nlri` and `mp_reach` with the
/// attributes (a prefix in both is announced, RFC 4271 section 4.3); but if
/// [`verdict`](Self::verdict) is [`Verdict::TreatAsWithdraw`], withdraw those as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateFrame<'a> {
    /// Encoded IPv4 prefixes that are withdrawn.
    pub withdrawn: &'a [u8],
    /// Encoded IPv4 prefixes that are announced with the NEXT_HOP attribute.
    pub nlri: &'a [u8],
    /// All attributes but MP_REACH_NLRI and MP_UNREACH_NLRI, as received: the key to intern
    /// attribute sets by.
    pub attrs: Cow<'a, [u8]>,
    /// Announced prefixes of the multiprotocol extensions.
    pub mp_reach: Option<MpReach<'a>>,
    /// Withdrawn prefixes of the multiprotocol extensions.
    pub mp_unreach: Option<MpUnreach<'a>>,
    /// An MP attribute of a family that we do not carry was there; its prefixes are ignored
    /// (RFC 4760 section 7).
    pub foreign_family: bool,
    /// What the attribute list as such is worth; see [`verdict`](Self::verdict).
    list_verdict: Verdict,
}

impl<'a> UpdateFrame<'a> {
    /// Splits a message body (without the header). An error ends the session.
    pub fn split(body: &'a [u8]) -> Result<Self, WireError> {
        let malformed = |what| WireError::new(Kind::UPDATE_ATTRIBUTE_LIST, what);
        let mut c = Cursor::new(body);
        let withdrawn = c
            .prefixed_u16()
            .ok_or_else(|| malformed("the withdrawn routes length is too long"))?;
        let attr_block = c
            .prefixed_u16()
            .ok_or_else(|| malformed("the attribute length is too long"))?;
        let mut frame = Self {
            withdrawn,
            nlri: c.rest(),
            attrs: Cow::Borrowed(&[]),
            mp_reach: None,
            mp_unreach: None,
            foreign_family: false,
            list_verdict: Verdict::Accept,
        };
        frame.walk(attr_block)?;
        Ok(frame)
    }

    /// Whether any prefix of a family that we carry is announced, so that attributes matter.
    pub fn announces(&self) -> bool {
        !self.nlri.is_empty() || self.mp_reach.is_some_and(|r| !r.nlri.is_empty())
    }

    /// The family whose End-of-RIB marker this message is (RFC 4724 section 2).
    pub fn end_of_rib(&self) -> Option<Family> {
        let bare = self.withdrawn.is_empty()
            && self.nlri.is_empty()
            && self.attrs.is_empty()
            && self.mp_reach.is_none()
            && !self.foreign_family
            && self.list_verdict == Verdict::Accept;
        match self.mp_unreach {
            _ if !bare => None,
            None => Some(Family::Ipv4Unicast),
            Some(unreach) => unreach.nlri.is_empty().then_some(unreach.family),
        }
    }

    /// What to do with the message, given the verdict on its decoded attributes and whether they
    /// have a NEXT_HOP. Only asked for messages that announce something, or whose attribute list
    /// is broken.
    pub fn verdict(&self, of_attrs: &Verdict, has_next_hop: bool) -> Verdict {
        let mut verdict = self.list_verdict.clone();
        verdict.raise(of_attrs.clone());
        if !self.nlri.is_empty() && !has_next_hop {
            let error = AttrError {
                code: code::NEXT_HOP,
                what: "NEXT_HOP is missing",
                kind: Kind::UPDATE_MISSING_WELL_KNOWN,
            };
            verdict.raise(Verdict::TreatAsWithdraw(error));
        }
        verdict
    }

    /// What the errors in the attributes of a message that announces nothing come to: RFC 7606
    /// section 5.2 leaves only attribute discard. What is missing is no error without routes.
    pub fn verdict_without_routes(&self, findings: Vec<Verdict>) -> Result<Verdict, WireError> {
        let mut verdict = Verdict::Accept;
        for finding in findings {
            match finding {
                Verdict::Reset(error) => return Err(error),
                Verdict::TreatAsWithdraw(e) if e.kind == Kind::UPDATE_MISSING_WELL_KNOWN => {}
                Verdict::TreatAsWithdraw(e) => return Err(WireError::new(e.kind, e.what)),
                other => verdict.raise(other),
            }
        }
        Ok(verdict)
    }

    /// Whether the attribute list as such is broken, so that [`verdict`](Self::verdict) has to be
    /// asked even if nothing is announced.
    pub fn is_malformed(&self) -> bool {
        self.list_verdict != Verdict::Accept
    }

    fn walk(&mut self, block: &'a [u8]) -> Result<(), WireError> {
        let mut c = Cursor::new(block);
        let mut kept = Kept::new(block);
        let mut seen_reach = false;
        let mut seen_unreach = false;
        while !c.is_empty() {
            let Some(tlv) = read_tlv(&mut c) else {
                kept.cut(c.len());
                self.overrun()?;
                break;
            };
            let seen = match tlv.code {
                code::MP_REACH => &mut seen_reach,
                code::MP_UNREACH => &mut seen_unreach,
                _ => continue,
            };
            if std::mem::replace(seen, true) {
                // RFC 7606 section 3(g).
                let what = "MP_REACH_NLRI or MP_UNREACH_NLRI is repeated";
                return Err(WireError::new(Kind::UPDATE_ATTRIBUTE_LIST, what));
            }
            kept.remove(tlv.whole.len(), c.len());
            let mp_flags = tlv.flags & (flags::OPTIONAL | flags::TRANSITIVE);
            if mp_flags != flags::OPTIONAL {
                let what = "the flags of MP_REACH_NLRI or MP_UNREACH_NLRI are wrong";
                return Err(WireError::with_data(
                    Kind::UPDATE_ATTRIBUTE_FLAGS,
                    what,
                    tlv.whole,
                ));
            }
            let parsed = if tlv.code == code::MP_REACH {
                self.reach(tlv.value)
            } else {
                self.unreach(tlv.value)
            };
            parsed.map_err(|what| {
                WireError::with_data(Kind::UPDATE_OPTIONAL_ATTRIBUTE, what, tlv.whole)
            })?;
        }
        self.attrs = kept.finish();
        Ok(())
    }

    /// RFC 7606 sections 4 and 5.2: an attribute list that does not add up withdraws the prefixes
    /// of the message, which must therefore be known.
    fn overrun(&mut self) -> Result<(), WireError> {
        if !self.announces() {
            return Err(WireError::new(Kind::UPDATE_ATTRIBUTE_LIST, OVERRUN.what));
        }
        self.list_verdict = Verdict::TreatAsWithdraw(OVERRUN);
        Ok(())
    }

    fn reach(&mut self, value: &'a [u8]) -> Result<(), &'static str> {
        let cut_off = "MP_REACH_NLRI is cut off";
        let mut c = Cursor::new(value);
        let afi = c.u16().ok_or(cut_off)?;
        let safi = c.u8().ok_or(cut_off)?;
        let next_hop = c.prefixed_u8().ok_or(cut_off)?;
        c.u8().ok_or(cut_off)?; // reserved, RFC 4760 section 3
        let Some(family) = Family::from_wire(afi, safi) else {
            self.foreign_family = true;
            return Ok(());
        };
        let next_hop = NextHop::decode(family, next_hop)
            .ok_or("the next hop of MP_REACH_NLRI has an impossible length")?;
        self.mp_reach = Some(MpReach {
            family,
            next_hop,
            nlri: c.rest(),
        });
        Ok(())
    }

    fn unreach(&mut self, value: &'a [u8]) -> Result<(), &'static str> {
        let cut_off = "MP_UNREACH_NLRI is cut off";
        let mut c = Cursor::new(value);
        let afi = c.u16().ok_or(cut_off)?;
        let safi = c.u8().ok_or(cut_off)?;
        match Family::from_wire(afi, safi) {
            Some(family) => {
                self.mp_unreach = Some(MpUnreach {
                    family,
                    nlri: c.rest(),
                })
            }
            None => self.foreign_family = true,
        }
        Ok(())
    }
}

/// The attribute block less what was taken out of it. Stays a slice of the block as long as the
/// kept octets are contiguous.
struct Kept<'a> {
    block: &'a [u8],
    /// Start of the piece that is being kept.
    from: usize,
    done: Cow<'a, [u8]>,
    end: usize,
}

impl<'a> Kept<'a> {
    const fn new(block: &'a [u8]) -> Self {
        Self {
            block,
            from: 0,
            done: Cow::Borrowed(&[]),
            end: block.len(),
        }
    }

    /// Takes out the `len` octets in front of the last `left` ones.
    fn remove(&mut self, len: usize, left: usize) {
        let next = self.block.len() - left;
        self.keep(next - len);
        self.from = next;
    }

    /// Takes out the last `left` octets.
    const fn cut(&mut self, left: usize) {
        self.end = self.block.len() - left;
    }

    fn keep(&mut self, to: usize) {
        let piece = self.block.get(self.from..to).unwrap_or_default();
        if piece.is_empty() {
            return;
        }
        if self.done.is_empty() {
            self.done = Cow::Borrowed(piece);
        } else {
            self.done.to_mut().extend_from_slice(piece);
        }
    }

    fn finish(mut self) -> Cow<'a, [u8]> {
        self.keep(self.end);
        self.done
    }
}

#[cfg(test)]
mod tests;
