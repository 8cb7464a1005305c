//! OPEN and its capabilities.

use std::net::Ipv4Addr;

use super::{
    Field, Inspection,
    field::{Walk, hex},
    short::family_text,
};
use crate::wire::{Open, cursor::Cursor};

pub(super) fn inspect(body: &[u8], at: usize, found: &mut Inspection) {
    // What is cut off is the decoder's to say.
    fields(Walk::new(body, at), &mut found.fields);
    if let Err(error) = Open::decode(body) {
        found.reject(&error);
    }
}

fn fields(mut walk: Walk<'_>, out: &mut Vec<Field>) -> Option<()> {
    walk.u8("version", out)?;
    walk.u16("my autonomous system", out)?;
    walk.u16("hold time", out)?;
    let from = walk.offset();
    let id = Ipv4Addr::from(walk.cursor.u32()?);
    out.push(walk.since(from, "BGP identifier", id.to_string()));
    let short = walk.u8("optional parameters length", out)?;
    let extended = short != 0 && walk.cursor.rest().first() == Some(&255);
    if extended {
        walk.u8("extended marker (RFC 9072)", out)?;
        walk.u16("extended optional parameters length", out)?;
    }
    while !walk.cursor.is_empty() {
        let from = walk.offset();
        let kind = walk.cursor.u8()?;
        let len = if extended {
            walk.cursor.u16()?
        } else {
            walk.cursor.u8()?.into()
        };
        let mut value = walk.part(len.into())?;
        let mut field = walk.since(from, "optional parameter", format!("type {kind}"));
        if kind == 2 {
            "capabilities".clone_into(&mut field.value);
            capabilities(&mut value, &mut field.fields);
        } else {
            value.rest("value", &mut field.fields);
        }
        out.push(field);
    }
    Some(())
}

fn capabilities(walk: &mut Walk<'_>, out: &mut Vec<Field>) -> Option<()> {
    while !walk.cursor.is_empty() {
        let from = walk.offset();
        let code = walk.cursor.u8()?;
        let len = walk.cursor.u8()?;
        let value = walk.cursor.take(len.into())?;
        let text = meaning(code, value).unwrap_or_else(|| format!("malformed: {}", hex(value)));
        out.push(walk.since(from, format!("capability {code} {}", name(code)), text));
    }
    Some(())
}

const fn name(code: u8) -> &'static str {
    match code {
        1 => "multiprotocol",
        2 => "route refresh",
        5 => "extended next hop",
        6 => "extended message",
        9 => "role",
        64 => "graceful restart",
        65 => "four-octet AS",
        69 => "ADD-PATH",
        70 => "enhanced route refresh",
        71 => "long-lived graceful restart",
        73 => "FQDN",
        75 => "software version",
        _ => "unknown",
    }
}

/// The value in words; `None` if it does not fit the capability.
fn meaning(code: u8, value: &[u8]) -> Option<String> {
    let mut c = Cursor::new(value);
    let text = match code {
        1 => {
            let [hi, lo, _, safi] = c.array()?;
            family_text(u16::from_be_bytes([hi, lo]), safi)
        }
        2 | 6 | 70 => return c.is_empty().then(|| "yes".to_owned()),
        5 => each(&mut c, |c| {
            let (afi, safi, next_hop) = (c.u16()?, c.u16()?, c.u16()?);
            let family = family_text(afi, u8::try_from(safi).ok()?);
            Some(format!("{family} over AFI {next_hop}"))
        })?,
        9 => {
            let names = ["provider", "route server", "RS client", "customer", "peer"];
            let role = c.u8()?;
            (*names.get(usize::from(role)).unwrap_or(&"unknown")).to_owned()
        }
        64 => {
            let head = c.u16()?;
            let flag = |bit: u16, name| if head & bit != 0 { name } else { "" };
            let flags = format!("{}{}", flag(0x8000, " R"), flag(0x4000, " N"));
            let families = each(&mut c, forwarding)?;
            format!("{} s,{flags} {families}", head & 0x0fff)
        }
        65 => c.u32()?.to_string(),
        69 => each(&mut c, |c| {
            let [hi, lo, safi, direction] = c.array()?;
            let how = match direction {
                1 => "receive",
                2 => "send",
                3 => "send and receive",
                _ => "undefined, ignored",
            };
            let family = family_text(u16::from_be_bytes([hi, lo]), safi);
            Some(format!("{family} {how}"))
        })?,
        71 => each(&mut c, |c| {
            let family = forwarding(c)?;
            let [a, b, d] = c.array()?;
            Some(format!("{family} {} s", u32::from_be_bytes([0, a, b, d])))
        })?,
        73 => {
            let host = String::from_utf8_lossy(c.prefixed_u8()?).into_owned();
            let domain = String::from_utf8_lossy(c.prefixed_u8()?).into_owned();
            format!("{host:?} {domain:?}")
        }
        75 => format!("{:?}", String::from_utf8_lossy(c.prefixed_u8()?)),
        _ => return Some(hex(value)),
    };
    c.is_empty().then_some(text)
}

fn forwarding(c: &mut Cursor<'_>) -> Option<String> {
    let [hi, lo, safi, flags] = c.array()?;
    let family = family_text(u16::from_be_bytes([hi, lo]), safi);
    Some(if flags & 0x80 == 0 {
        family
    } else {
        family + " F"
    })
}

/// Items to the end, with commas.
fn each(c: &mut Cursor<'_>, item: impl Fn(&mut Cursor<'_>) -> Option<String>) -> Option<String> {
    let mut items = Vec::new();
    while !c.is_empty() {
        items.push(item(c)?);
    }
    Some(items.join(", "))
}
