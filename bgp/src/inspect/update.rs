//! UPDATE: prefixes, attributes, and the verdicts of RFC 7606.

use std::fmt::Display;

use super::{
    Action, Field, Finding, Inspection, Options,
    field::{Walk, hex},
    short::family_text,
};
use crate::{
    prefix::{Family, Ipv4Prefix, Ipv6Prefix},
    wire::{
        Aggregator, AsPath, AttrContext, Kind, NextHop, NlriIter, NlriPrefix, PathAttrs, PeerKind,
        UpdateFrame, Verdict, WireError,
        attrs::{code, community, flags},
        nlri::NlriError,
    },
};

pub(super) fn inspect(body: &[u8], at: usize, options: &Options, found: &mut Inspection) {
    // What is cut off is the decoder's to say.
    fields(Walk::new(body, at), options, &mut found.fields);
    if let Some(family) = UpdateFrame::split(body).ok().and_then(|f| f.end_of_rib()) {
        let end = Walk::new(&[], at + body.len());
        let meaning = format!("End-of-RIB of {family} (RFC 4724)");
        found.fields.push(end.since(at, "meaning", meaning));
    }
    judge(body, options, found);
}

/// Comes to the speaker's own verdict, in its order.
fn judge(body: &[u8], options: &Options, found: &mut Inspection) {
    let frame = match UpdateFrame::split(body) {
        Ok(frame) => frame,
        Err(error) => {
            let of_family = error.notification().kind == Kind::UPDATE_OPTIONAL_ATTRIBUTE;
            return found.reject_or(&error, of_family.then_some(Action::AfiSafiDisable));
        }
    };
    let v4 = Family::Ipv4Unicast;
    let unreach = frame.mp_unreach.map(|u| (u.family, u.nlri));
    let reach = frame.mp_reach.map(|r| (r.family, r.nlri));
    check_nlri(v4, frame.withdrawn, options, None, found);
    if let Some((family, nlri)) = unreach {
        check_nlri(family, nlri, options, Some(Action::AfiSafiDisable), found);
    }
    attributes(&frame, options, found);
    check_nlri(v4, frame.nlri, options, None, found);
    if let Some((family, nlri)) = reach {
        check_nlri(family, nlri, options, Some(Action::AfiSafiDisable), found);
    }
}

fn attributes(frame: &UpdateFrame<'_>, options: &Options, found: &mut Inspection) {
    if frame.attrs.is_empty() && !frame.announces() {
        return;
    }
    let ctx = AttrContext {
        four_octet_as: options.four_octet_as,
        peer: options.peer,
    };
    let announces = frame.announces();
    let missing = |v: &Verdict| matches!(v, Verdict::TreatAsWithdraw(e) if e.kind == Kind::UPDATE_MISSING_WELL_KNOWN);
    let mut verdicts = PathAttrs::findings(&frame.attrs, &ctx);
    if announces {
        let has_next_hop = PathAttrs::decode(&frame.attrs, &ctx)
            .attrs
            .next_hop
            .is_some();
        let of_list = frame.verdict(&Verdict::Accept, has_next_hop);
        let told = verdicts.iter().any(of_next_hop);
        if of_list != Verdict::Accept && !told {
            verdicts.push(of_list);
        }
    } else if frame.foreign_family {
        return;
    } else {
        verdicts.retain(|v| !missing(v));
    }
    for verdict in verdicts {
        match (verdict, announces) {
            (Verdict::Reset(error), _) => found.reject(&error),
            (Verdict::TreatAsWithdraw(error), false) => {
                // RFC 7606 section 5.2: there is nothing to withdraw.
                found.reject(&WireError::new(error.kind, error.what));
            }
            (verdict, _) => {
                let Some(finding) = Finding::of(verdict) else {
                    continue;
                };
                found.verdict = found.verdict.max(finding.action);
                found.errors.push(finding);
            }
        }
    }
}

/// What is wrong with NEXT_HOP is not that it is missing.
const fn of_next_hop(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::TreatAsWithdraw(e) if e.code == code::NEXT_HOP)
}

fn check_nlri(
    family: Family,
    nlri: &[u8],
    options: &Options,
    or: Option<Action>,
    found: &mut Inspection,
) {
    let bad = match family {
        Family::Ipv4Unicast => {
            NlriIter::<Ipv4Prefix>::new(nlri, options.add_path).any(|n| n.is_err())
        }
        Family::Ipv6Unicast => {
            NlriIter::<Ipv6Prefix>::new(nlri, options.add_path).any(|n| n.is_err())
        }
    };
    if bad {
        found.reject_or(&NlriError.into(), or);
    }
}

fn fields(mut walk: Walk<'_>, options: &Options, out: &mut Vec<Field>) -> Option<()> {
    let len = walk.u16("withdrawn routes length", out)?;
    let withdrawn = walk.part(len.into())?;
    prefixes(
        "withdrawn routes",
        Family::Ipv4Unicast,
        withdrawn,
        options,
        out,
    );
    let len = walk.u16("total path attribute length", out)?;
    let mut list = walk.part(len.into())?;
    let mut inside = Vec::new();
    let from = list.offset();
    while !list.cursor.is_empty() && attribute(&mut list, options, &mut inside).is_some() {}
    list.rest("cut off", &mut inside);
    if !inside.is_empty() {
        let count = plural(inside.len(), "attribute");
        let mut field = list.since(from, "path attributes", count);
        field.fields = inside;
        out.push(field);
    }
    prefixes("NLRI", Family::Ipv4Unicast, walk, options, out);
    Some(())
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A list of prefixes, up to the first that cannot be read.
fn prefixes(
    name: &'static str,
    family: Family,
    mut walk: Walk<'_>,
    options: &Options,
    out: &mut Vec<Field>,
) {
    if walk.cursor.is_empty() {
        return;
    }
    let from = walk.offset();
    let mut list = Vec::new();
    while !walk.cursor.is_empty() {
        let at = walk.offset();
        let text = match family {
            Family::Ipv4Unicast => prefix::<Ipv4Prefix>(&mut walk, options),
            Family::Ipv6Unicast => prefix::<Ipv6Prefix>(&mut walk, options),
        };
        match text {
            Some(text) => list.push(walk.since(at, "prefix", text)),
            None => walk.rest("cut off or too long", &mut list),
        }
    }
    let mut field = walk.since(from, name, plural(list.len(), "item"));
    field.fields = list;
    out.push(field);
}

fn prefix<P: NlriPrefix>(walk: &mut Walk<'_>, options: &Options) -> Option<String> {
    let mut ahead = walk.cursor;
    let path = if options.add_path {
        Some(ahead.u32()?)
    } else {
        None
    };
    let prefix = P::read(&mut ahead)?;
    walk.cursor = ahead;
    Some(match path {
        Some(id) => format!("{prefix} path {id}"),
        None => prefix.to_string(),
    })
}

fn attribute(list: &mut Walk<'_>, options: &Options, out: &mut Vec<Field>) -> Option<()> {
    let from = list.offset();
    let mut ahead = *list;
    let bits = ahead.cursor.u8()?;
    let kind = ahead.cursor.u8()?;
    let len = if bits & flags::EXTENDED != 0 {
        ahead.cursor.u16()?
    } else {
        ahead.cursor.u8()?.into()
    };
    let whole = list.cursor.rest();
    let value = ahead.part(len.into())?;
    let whole = whole.get(..ahead.offset() - from)?;
    let mut inside = vec![Field {
        name: "flags".into(),
        offset: from,
        length: 1,
        value: flag_text(bits),
        fields: Vec::new(),
    }];
    let text = match kind {
        code::MP_REACH => reach(value, options, &mut inside),
        code::MP_UNREACH => unreach(value, options, &mut inside),
        _ => Some(meaning(kind, value.cursor.rest(), whole, options)),
    };
    let text = text.unwrap_or_else(|| format!("malformed: {}", hex(value.cursor.rest())));
    let mut field = ahead.since(from, format!("attribute {kind} {}", name(kind)), text);
    field.fields = inside;
    out.push(field);
    *list = ahead;
    Some(())
}

fn flag_text(bits: u8) -> String {
    let names = [
        (flags::OPTIONAL, "optional", "well-known"),
        (flags::TRANSITIVE, "transitive", "non-transitive"),
        (flags::PARTIAL, "partial", ""),
        (flags::EXTENDED, "extended length", ""),
    ];
    let words = names.map(|(bit, on, off)| if bits & bit != 0 { on } else { off });
    let words: Vec<_> = words.into_iter().filter(|w| !w.is_empty()).collect();
    words.join(", ")
}

const fn name(kind: u8) -> &'static str {
    match kind {
        code::ORIGIN => "ORIGIN",
        code::AS_PATH => "AS_PATH",
        code::NEXT_HOP => "NEXT_HOP",
        code::MED => "MULTI_EXIT_DISC",
        code::LOCAL_PREF => "LOCAL_PREF",
        code::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        code::AGGREGATOR => "AGGREGATOR",
        code::COMMUNITIES => "COMMUNITIES",
        code::ORIGINATOR_ID => "ORIGINATOR_ID",
        code::CLUSTER_LIST => "CLUSTER_LIST",
        code::MP_REACH => "MP_REACH_NLRI",
        code::MP_UNREACH => "MP_UNREACH_NLRI",
        code::EXT_COMMUNITIES => "EXTENDED COMMUNITIES",
        code::AS4_PATH => "AS4_PATH",
        code::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        code::IPV6_EXT_COMMUNITIES => "IPv6 EXTENDED COMMUNITIES",
        code::AIGP => "AIGP",
        code::LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        code::OTC => "ONLY_TO_CUSTOMER",
        code::PREFIX_SID => "PREFIX_SID",
        _ => "unknown",
    }
}

/// The value of an attribute that decodes alone, in words.
fn meaning(kind: u8, value: &[u8], whole: &[u8], options: &Options) -> String {
    let ctx = AttrContext {
        four_octet_as: options.four_octet_as,
        // Everything is read; whether it may come from this peer is said in the errors.
        peer: PeerKind::Ibgp,
    };
    let broken = PathAttrs::findings(whole, &ctx).into_iter().any(|v| {
        matches!(
            v,
            Verdict::TreatAsWithdraw(e) | Verdict::AttributeDiscard(e)
                if e.code == kind && e.kind != Kind::UPDATE_MISSING_WELL_KNOWN
        )
    });
    let a = PathAttrs::decode(whole, &ctx).attrs;
    let text = match kind {
        code::AS_PATH => AsPath::decode(value, options.four_octet_as)
            .ok()
            .map(|path| path.to_string()),
        code::AS4_PATH => AsPath::decode(value, true)
            .ok()
            .map(|path| path.to_string()),
        code::AGGREGATOR => aggregator(value, options.four_octet_as),
        code::AS4_AGGREGATOR => aggregator(value, true),
        _ if broken => None,
        code::ORIGIN => Some(a.origin.to_string()),
        code::NEXT_HOP => a.next_hop.map(|v| v.to_string()),
        code::MED => a.med.map(|v| v.to_string()),
        code::LOCAL_PREF => a.local_pref.map(|v| v.to_string()),
        code::ATOMIC_AGGREGATE => Some("yes".to_owned()),
        code::COMMUNITIES => Some(words(a.communities.iter().map(|c| community::text(*c)))),
        code::ORIGINATOR_ID => a.originator_id.map(|v| v.to_string()),
        code::CLUSTER_LIST => Some(words(&a.cluster_list)),
        code::LARGE_COMMUNITIES => {
            let text = |[x, y, z]: &[u32; 3]| format!("{x}:{y}:{z}");
            Some(words(a.large_communities.iter().map(text)))
        }
        code::EXT_COMMUNITIES => Some(words(a.ext_communities.iter().map(|c| hex(c)))),
        _ => Some(hex(value)),
    };
    text.unwrap_or_else(|| format!("malformed: {}", hex(value)))
}

fn aggregator(value: &[u8], four_octet: bool) -> Option<String> {
    Aggregator::decode(value, four_octet).map(|a| format!("AS {} {}", a.asn, a.id))
}

fn words<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(" ")
}

fn family_fields(walk: &mut Walk<'_>, out: &mut Vec<Field>) -> Option<(Option<Family>, String)> {
    let afi = walk.u16("AFI", out)?;
    let safi = walk.u8("SAFI", out)?;
    Some((Family::from_wire(afi, safi), family_text(afi, safi)))
}

fn reach(mut walk: Walk<'_>, options: &Options, out: &mut Vec<Field>) -> Option<String> {
    let (family, text) = family_fields(&mut walk, out)?;
    let from = walk.offset();
    let next_hop = walk.cursor.prefixed_u8()?;
    let decoded = family.and_then(|family| NextHop::decode(family, next_hop));
    let said = match decoded {
        Some(NextHop::V4(addr)) => addr.to_string(),
        Some(NextHop::V6 { global, link_local }) => match link_local {
            Some(local) => format!("{global} {local}"),
            None => global.to_string(),
        },
        None => hex(next_hop),
    };
    out.push(walk.since(from, "next hop", said));
    walk.u8("reserved", out)?;
    match family {
        Some(family) => prefixes("NLRI", family, walk, options, out),
        None => walk.rest("NLRI", out),
    }
    Some(text)
}

fn unreach(mut walk: Walk<'_>, options: &Options, out: &mut Vec<Field>) -> Option<String> {
    let (family, text) = family_fields(&mut walk, out)?;
    match family {
        Some(family) => prefixes("withdrawn routes", family, walk, options, out),
        None => walk.rest("withdrawn routes", out),
    }
    Some(text)
}
