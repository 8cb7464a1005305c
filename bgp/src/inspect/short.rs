//! NOTIFICATION and ROUTE-REFRESH.

use std::str;

use super::{Inspection, field::Walk};
use crate::{
    prefix::Family,
    wire::{Notification, RouteRefresh},
};

pub(super) fn notification(body: &[u8], at: usize, found: &mut Inspection) {
    let mut walk = Walk::new(body, at);
    walk.u8("error code", &mut found.fields);
    walk.u8("error subcode", &mut found.fields);
    let data_at = walk.offset();
    walk.rest("data", &mut found.fields);
    let decoded = match Notification::decode(body) {
        Ok(decoded) => decoded,
        Err(error) => return found.reject(&error),
    };
    let end = Walk::new(&[], at + body.len());
    found
        .fields
        .push(end.since(at, "meaning", decoded.to_string()));
    if let (Some(text), [_, _, _, text_octets @ ..]) = (decoded.shutdown_text(), body)
        && str::from_utf8(text_octets).is_err()
    {
        let note = format!("not UTF-8 (RFC 9003), shown as {text:?}");
        found
            .fields
            .push(end.since(data_at, "shutdown communication", note));
    }
}

pub(super) fn refresh(body: &[u8], at: usize, found: &mut Inspection) {
    let mut walk = Walk::new(body, at);
    let afi = walk.u16("AFI", &mut found.fields);
    walk.named("subtype", &mut found.fields, |bytes| {
        let name = match bytes {
            [0] => "request",
            [1] => "BoRR, demarcation of the beginning (RFC 7313)",
            [2] => "EoRR, demarcation of the end (RFC 7313)",
            _ => "unknown, ignored",
        };
        format!("{} {name}", bytes.first().copied().unwrap_or_default())
    });
    let safi = walk.u8("SAFI", &mut found.fields);
    let family = afi.zip(safi).map(|(a, s)| family_text(a, s));
    let end = Walk::new(&[], at + body.len());
    if let Some(family) = family {
        found.fields.push(end.since(at, "family", family));
    }
    walk.rest("outbound route filters", &mut found.fields);
    if let Err(error) = RouteRefresh::decode(body) {
        found.reject(&error);
    }
}

/// The name of a family, or its numbers.
pub(super) fn family_text(afi: u16, safi: u8) -> String {
    match Family::from_wire(afi, safi) {
        Some(family) => family.to_string(),
        None => format!("AFI {afi} SAFI {safi} (not carried)"),
    }
}
