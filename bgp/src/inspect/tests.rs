use bytes::{BufMut, BytesMut};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    policy::Filter,
    rib::{PeerRibConfig, Rib, RibConfig, SessionInfo, UpdateOutcome},
    wire::UpdateFrame,
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16).map(|d| d as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// An UPDATE body of these attributes for 10.0.0.0/8.
fn update(attrs: &str) -> Vec<u8> {
    let attrs = bytes(attrs);
    let mut body = vec![0, 0, 0, u8::try_from(attrs.len()).unwrap()];
    body.extend(&attrs);
    body.extend([8, 10]);
    body
}

const GOOD: &str = "400101 00 400200 400304 c0000201";

fn one(body: &[u8]) -> Inspection {
    let [found] = &inspect(body, &Options::default())[..] else {
        panic!("one message")
    };
    found.clone()
}

#[test]
fn rfc7606_verdicts_carry_their_notification() {
    use Action::{AttributeDiscard, SessionReset, TreatAsWithdraw};
    for (attrs, action, code, what) in [
        // Section 7.1 to 7.4, and the subcodes of RFC 4271 section 6.3.
        (
            "400101 05 400200 400304 c0000201",
            TreatAsWithdraw,
            (3, 6),
            "undefined",
        ),
        (
            "400102 0000 400200 400304 c0000201",
            TreatAsWithdraw,
            (3, 5),
            "length",
        ),
        (
            "400101 00 400201 02 400304 c0000201",
            TreatAsWithdraw,
            (3, 11),
            "cut off",
        ),
        (
            "400101 00 400200 400303 c00002",
            TreatAsWithdraw,
            (3, 5),
            "length",
        ),
        // Section 3(c): flags.
        (
            "c00101 00 400200 400304 c0000201",
            TreatAsWithdraw,
            (3, 4),
            "flag",
        ),
        // Section 7.6 and 7.7.
        (
            "400101 00 400200 400304 c0000201 400601 00",
            AttributeDiscard,
            (3, 5),
            "length",
        ),
        (
            "400101 00 400200 400304 c0000201 c00704 00000000",
            AttributeDiscard,
            (3, 9),
            "AS",
        ),
        // Section 3(d).
        (
            "400200 400304 c0000201",
            TreatAsWithdraw,
            (3, 3),
            "ORIGIN is missing",
        ),
        (
            "400101 00 400200",
            TreatAsWithdraw,
            (3, 3),
            "NEXT_HOP is missing",
        ),
        // RFC 7607, RFC 9774.
        (
            "400101 00 400206 0201 00000000 400304 c0000201",
            TreatAsWithdraw,
            (3, 11),
            "AS 0",
        ),
        (
            "400101 00 400206 0101 00000007 400304 c0000201",
            TreatAsWithdraw,
            (3, 11),
            "AS_SET",
        ),
        // RFC 4271 section 6.3: an unknown well-known attribute.
        (
            "400101 00 400200 400304 c0000201 406300",
            SessionReset,
            (3, 2),
            "unknown",
        ),
        // Section 3(g) and 7.11.
        (
            "400101 00 400200 800f03 000101 800f03 000101",
            SessionReset,
            (3, 1),
            "repeated",
        ),
        (
            "400101 00 400200 800e05 000201 0100",
            SessionReset,
            (3, 9),
            "MP_REACH",
        ),
    ] {
        let found = one(&update(attrs));
        assert_eq!(found.verdict, action, "{attrs}: {found:?}");
        let error = found.errors.iter().max_by_key(|e| e.action).unwrap();
        let told = error.notification.unwrap();
        assert_eq!((told.code, told.subcode), code, "{attrs}");
        assert!(error.what.contains(what), "{attrs}: {}", error.what);
        assert_eq!(found.notification.is_some(), action == SessionReset);
    }
    assert_eq!(one(&update(GOOD)).verdict, Action::Accept);
    assert!(one(&update(GOOD)).errors.is_empty());
}

#[test]
fn rfc7606_5_3_a_bad_mp_attribute_may_also_disable_the_family() {
    let found = one(&update("400101 00 400200 800e05 000201 0100"));
    assert_eq!(found.errors[0].or, Some(Action::AfiSafiDisable));
}

#[test]
fn rfc7606_5_2_without_routes_only_discard_is_left() {
    let mut body = update("400102 0000");
    body.truncate(body.len() - 2);
    assert_eq!(one(&body).verdict, Action::SessionReset);
}

#[test]
fn a_header_is_recognized_with_and_without_its_marker() {
    let body = update(GOOD);
    let mut whole = BytesMut::new();
    header::put(&mut whole, MessageType::Update, body.len());
    whole.put_slice(&body);
    header::put_keepalive(&mut whole);
    let found = inspect(&whole, &Options::default());
    let names: Vec<_> = found.iter().map(|f| (f.message, f.length)).collect();
    assert_eq!(names, [("UPDATE", body.len() + 19), ("KEEPALIVE", 19)]);
    let bare = inspect(&whole[16..19 + body.len()], &Options::default());
    assert_eq!(bare.len(), 1);
    let prefix = |f: &Inspection| f.fields.last().unwrap().fields[0].clone();
    assert_eq!(prefix(&bare[0]).value, "10.0.0.0/8");
    assert_eq!(prefix(&bare[0]).offset + 16, prefix(&found[0]).offset);
    let cut = inspect(&whole[..30], &Options::default());
    assert!(cut[0].errors[0].what.contains("are missing"));
}

#[test]
fn fields_have_places_and_meanings() {
    let mut open = BytesMut::new();
    crate::wire::Open {
        asn: 70000,
        hold_time_secs: 90,
        id: [192, 0, 2, 1].into(),
        capabilities: crate::wire::Capabilities {
            four_octet_as: Some(70000),
            route_refresh: true,
            ..Default::default()
        },
    }
    .encode(&mut open);
    let found = inspect(&open, &Options::default());
    let json = serde_json::to_value(&found[0]).unwrap();
    assert_eq!(json["message"], "OPEN");
    assert_eq!(json["verdict"], "accept");
    assert_eq!(json["fields"][5]["name"], "BGP identifier");
    assert_eq!(json["fields"][5]["value"], "192.0.2.1");
    assert_eq!(json["fields"][5]["offset"], 24);
    let capability = &json["fields"][7]["fields"][1];
    assert_eq!(capability["name"], "capability 65 four-octet AS");
    assert_eq!(capability["value"], "70000");
}

#[test]
fn options_change_how_octets_are_read() {
    let two = Options {
        four_octet_as: false,
        ..Options::default()
    };
    let path = update("400101 00 400204 0201 fde9 400304 c0000201");
    assert_eq!(inspect(&path, &two)[0].verdict, Action::Accept);
    assert_eq!(one(&path).verdict, Action::TreatAsWithdraw);
    let add_path = Options {
        add_path: true,
        ..Options::default()
    };
    let mut body = update(GOOD);
    body.truncate(body.len() - 2);
    body.extend([0, 0, 0, 5, 8, 10]);
    let found = &inspect(&body, &add_path)[0];
    assert_eq!(found.verdict, Action::Accept);
    let nlri = found.fields.last().unwrap();
    assert_eq!(nlri.fields[0].value, "10.0.0.0/8 path 5");
}

fn attribute() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![6 => Just(0x40u8), 6 => Just(0x80), 6 => Just(0xc0), 1 => any::<u8>()];
    let code = prop_oneof![8 => 1u8..11, 2 => 14u8..20, 1 => Just(32u8), 1 => any::<u8>()];
    (flags, code, vec(0u8..4, 0..9)).prop_map(|(flags, code, value)| {
        let flags = flags & !0x10;
        [&[flags, code, value.len() as u8][..], &value].concat()
    })
}

proptest! {
    #[test]
    fn any_bytes_never_panic(
        bytes in vec(any::<u8>(), 0..120), kind in 1u8..6, flags: [bool; 4], marker: bool,
    ) {
        let options = Options {
            four_octet_as: flags[0],
            add_path: flags[1],
            extended: flags[2],
            peer: if flags[3] { PeerKind::Ebgp } else { PeerKind::Ibgp },
            bare: MessageType::from_wire(kind).unwrap(),
        };
        let mut whole = BytesMut::new();
        if marker {
            header::put(&mut whole, options.bare, bytes.len());
        }
        whole.put_slice(&bytes);
        for found in inspect(&whole, &options) {
            prop_assert!(serde_json::to_string(&found).is_ok());
            let reset = found.verdict == Action::SessionReset;
            prop_assert_eq!(found.notification.is_some(), reset);
            let worst = found.errors.iter().map(|e| e.action).max();
            prop_assert_eq!(worst.unwrap_or(Action::Accept), found.verdict);
        }
    }

    #[test]
    fn the_verdict_is_the_one_that_the_rib_comes_to(
        good: bool, attrs in vec(attribute(), 0..4), nlri in vec(0u8..33, 0..6),
        withdrawn in vec(0u8..33, 0..3), internal: bool,
    ) {
        let attrs = [if good { bytes(GOOD) } else { vec![] }, attrs.concat()].concat();
        let mut body = vec![0, withdrawn.len() as u8];
        body.extend(&withdrawn);
        body.extend([0, attrs.len() as u8]);
        body.extend(&attrs);
        body.extend(&nlri);
        let kind = if internal { PeerKind::Ibgp } else { PeerKind::Ebgp };
        let mut rib = Rib::new(RibConfig::new(65001, [1, 1, 1, 1].into()));
        let config = PeerRibConfig {
            import: std::sync::Arc::new(Filter::accept_all()),
            ..PeerRibConfig::new(kind, 65001)
        };
        let peer = rib.add_peer(config).unwrap();
        let addr = std::net::IpAddr::from([192, 0, 2, 2]);
        let now = std::time::Instant::now();
        rib.peer_up(peer, SessionInfo::new([2, 2, 2, 2].into(), addr), now);
        let outcome = UpdateFrame::split(&body).and_then(|frame| rib.handle_update(peer, &frame));
        let found = inspect(&body, &Options { peer: kind, ..Options::default() });
        let found = &found[0];
        let expected = match &outcome {
            Err(_) => Action::SessionReset,
            Ok(UpdateOutcome::TreatedAsWithdraw(_)) => Action::TreatAsWithdraw,
            Ok(UpdateOutcome::AttributeDiscarded) => Action::AttributeDiscard,
            Ok(_) => Action::Accept,
        };
        prop_assert_eq!(found.verdict, expected, "{:?} {:?}", outcome, found);
        if let Err(error) = outcome {
            let told = found.notification.clone().unwrap();
            let kind = error.notification().kind;
            prop_assert_eq!((told.code.code, told.code.subcode), (kind.code, kind.subcode));
        }
    }
}
