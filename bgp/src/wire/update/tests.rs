use bytes::{BufMut, BytesMut};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    prefix::{Ipv4Prefix, Ipv6Prefix},
    wire::{
        AttrContext, NlriIter, NlriPrefix, PathAttrs, PeerKind, header,
        nlri::PutNlri,
        update_encode::{announce_mp, announce_v4, end_of_rib, withdraw_mp, withdraw_v4},
    },
};

fn body(withdrawn: &[u8], attrs: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in [withdrawn, attrs] {
        out.put_u16(u16::try_from(part.len()).unwrap());
        out.put_slice(part);
    }
    out.put_slice(nlri);
    out
}

fn error_kind(body: &[u8]) -> Kind {
    UpdateFrame::split(body).unwrap_err().notification().kind
}

const REACH_V6: [u8; 27] = [
    0x80, 14, 24, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 16, 0x20,
    1,
];

#[test]
fn rfc7606_lengths_that_do_not_fit_reset() {
    for body in [
        &[][..],
        &[0],
        &[0, 1],
        &[0, 0],
        &[0, 0, 0],
        &[0, 2, 8, 10, 0],
        &[0, 0, 0, 1],
    ] {
        assert_eq!(error_kind(body), Kind::UPDATE_ATTRIBUTE_LIST, "{body:?}");
    }
}

#[test]
fn mp_attributes_are_taken_out_of_the_interning_key_wherever_they_stand() {
    let origin = [0x40, 1, 1, 0];
    let path = [0x40, 2, 0];
    let unreach = [0x80, 15, 3, 0, 2, 1];
    let want = [&origin[..], &path].concat();
    for (parts, borrowed) in [
        ([&REACH_V6[..], &origin, &path], true),
        ([&origin, &path, &REACH_V6], true),
        ([&origin, &REACH_V6, &path], false),
    ] {
        let bytes = body(&[], &[&unreach[..], &parts.concat()].concat(), &[]);
        let frame = UpdateFrame::split(&bytes).unwrap();
        assert_eq!(frame.attrs, want);
        assert_eq!(matches!(frame.attrs, Cow::Borrowed(_)), borrowed);
        assert_eq!(frame.mp_reach.unwrap().nlri, [16, 0x20, 1]);
        assert_eq!(frame.mp_unreach.unwrap().family, Family::Ipv6Unicast);
        assert!(frame.announces());
    }
}

#[test]
fn rfc7606_3g_repeated_mp_attributes_reset() {
    let twice = [&REACH_V6[..], &REACH_V6].concat();
    assert_eq!(
        error_kind(&body(&[], &twice, &[])),
        Kind::UPDATE_ATTRIBUTE_LIST
    );
}

#[test]
fn malformed_mp_attributes_reset_with_the_attribute_as_data() {
    for attr in [
        &[0x80, 14, 2, 0, 2][..],
        &[0x80, 14, 9, 0, 2, 1, 4, 1, 1, 1, 1, 0], // IPv6 with a 4-octet next hop
        &[0x80, 14, 5, 0, 2, 1, 16, 0],
        &[0x80, 15, 2, 0, 2],
    ] {
        let error = UpdateFrame::split(&body(&[], attr, &[])).unwrap_err();
        assert_eq!(error.notification().kind, Kind::UPDATE_OPTIONAL_ATTRIBUTE);
        assert_eq!(&error.notification().data[..], attr);
    }
    let wrong_flags = [0xc0, 15, 3, 0, 2, 1];
    assert_eq!(
        error_kind(&body(&[], &wrong_flags, &[])),
        Kind::UPDATE_ATTRIBUTE_FLAGS
    );
}

#[test]
fn rfc7606_an_overrun_withdraws_known_prefixes_and_resets_without_any() {
    let cut = [0x40, 1, 1, 0, 0x40, 2, 200, 1];
    let bytes = body(&[], &cut, &[8, 10]);
    let frame = UpdateFrame::split(&bytes).unwrap();
    assert!(frame.is_malformed());
    assert_eq!(frame.attrs, &cut[..4]);
    assert!(matches!(
        frame.verdict(&Verdict::Accept, true),
        Verdict::TreatAsWithdraw(_)
    ));
    assert_eq!(
        error_kind(&body(&[], &cut, &[])),
        Kind::UPDATE_ATTRIBUTE_LIST
    );
}

#[test]
fn ipv4_prefixes_need_the_next_hop_attribute_and_mp_ones_do_not() {
    let bytes = body(&[], &[0x40, 1, 1, 0], &[8, 10]);
    let frame = UpdateFrame::split(&bytes).unwrap();
    assert!(matches!(
        frame.verdict(&Verdict::Accept, false),
        Verdict::TreatAsWithdraw(_)
    ));
    assert_eq!(frame.verdict(&Verdict::Accept, true), Verdict::Accept);
    let bytes = body(&[], &REACH_V6, &[]);
    let frame = UpdateFrame::split(&bytes).unwrap();
    assert_eq!(frame.verdict(&Verdict::Accept, false), Verdict::Accept);
}

#[test]
fn end_of_rib_is_seen_for_each_family_and_not_in_other_messages() {
    for family in Family::ALL {
        let mut out = BytesMut::new();
        end_of_rib(family, &mut out);
        let message = header::frame(&mut out, false).unwrap().unwrap();
        assert_eq!(
            UpdateFrame::split(&message.body).unwrap().end_of_rib(),
            Some(family)
        );
    }
    for other in [
        body(&[8, 10], &[], &[]),
        body(&[], &[0x40, 1, 1, 0], &[]),
        body(&[], &[0x80, 15, 5, 0, 2, 1, 8, 0x20], &[]),
        body(&[], &[0x80, 15, 3, 0, 25, 70], &[]), // End-of-RIB of EVPN
        body(&[], &REACH_V6, &[]),
    ] {
        assert_eq!(
            UpdateFrame::split(&other).unwrap().end_of_rib(),
            None,
            "{other:?}"
        );
    }
}

fn frames(mut out: BytesMut, max_len: usize) -> Vec<bytes::Bytes> {
    let mut bodies = Vec::new();
    while let Some(message) = header::frame(&mut out, max_len > header::MAX_LEN).unwrap() {
        assert!(message.body.len() + header::HEADER_LEN <= max_len);
        bodies.push(message.body);
    }
    assert!(out.is_empty());
    bodies
}

fn prefixes<P: NlriPrefix>(bytes: &[u8]) -> Vec<P> {
    NlriIter::new(bytes, false)
        .map(|n| n.unwrap().prefix)
        .collect()
}

#[test]
fn attributes_without_room_for_a_prefix_are_refused() {
    let prefix = Ipv4Prefix::new(0, 32).unwrap();
    let mut out = BytesMut::new();
    assert_eq!(
        announce_v4(&[0; 4096 - 23 - 5], [prefix], 4096, &mut out),
        Ok(1)
    );
    out.clear();
    assert!(announce_v4(&[0; 4096 - 23 - 4], [prefix], 4096, &mut out).is_err());
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), attrs in vec(any::<u8>(), 0..100)) {
        for bytes in [bytes.clone(), body(&[], &attrs, &bytes), body(&bytes, &[&REACH_V6[..], &attrs].concat(), &[])] {
            if let Ok(frame) = UpdateFrame::split(&bytes) {
                frame.end_of_rib();
                NlriIter::<Ipv4Prefix>::new(frame.nlri, false).for_each(drop);
            }
        }
    }

    #[test]
    fn packed_prefixes_come_back_in_order_and_messages_are_full(
        v4 in vec((any::<u32>(), 0u8..=32), 1..3000),
        v6 in vec((any::<u128>(), 0u8..=128), 1..600),
        big: bool,
    ) {
        let max_len = if big { header::MAX_EXTENDED_LEN } else { header::MAX_LEN };
        let v4: Vec<_> = v4.into_iter().map(|(b, l)| Ipv4Prefix::new(b, l).unwrap()).collect();
        let v6: Vec<_> = v6.into_iter().map(|(b, l)| Ipv6Prefix::new(b, l).unwrap()).collect();
        let attrs = PathAttrs { next_hop: Some([192, 0, 2, 1].into()), ..PathAttrs::default() };
        let mut with_next_hop = BytesMut::new();
        attrs.encode(true, &mut with_next_hop);
        let mut without = BytesMut::new();
        PathAttrs { next_hop: None, ..attrs.clone() }.encode(true, &mut without);
        let next_hop = NextHop::V6 { global: 1.into(), link_local: Some(2.into()) };
        let mut out = BytesMut::new();

        let count = announce_v4(&with_next_hop, v4.iter().copied(), max_len, &mut out).unwrap();
        let bodies = frames(out.split(), max_len);
        prop_assert_eq!(bodies.len(), count);
        let split: Vec<_> = bodies.iter().map(|b| UpdateFrame::split(b).unwrap()).collect();
        prop_assert!(split.iter().flat_map(|f| prefixes::<Ipv4Prefix>(f.nlri)).eq(v4.iter().copied()));
        let ctx = AttrContext { four_octet_as: true, peer: PeerKind::Ibgp };
        prop_assert_eq!(&PathAttrs::decode(&split[0].attrs, &ctx).attrs, &attrs);
        for body in bodies.iter().rev().skip(1) {
            prop_assert!(body.len() + header::HEADER_LEN + Ipv4Prefix::MAX_OCTETS > max_len);
        }

        withdraw_v4(v4.iter().copied(), max_len, &mut out);
        let bodies = frames(out.split(), max_len);
        let split: Vec<_> = bodies.iter().map(|b| UpdateFrame::split(b).unwrap()).collect();
        prop_assert!(split.iter().all(|f| f.attrs.is_empty() && f.nlri.is_empty()));
        prop_assert!(split.iter().flat_map(|f| prefixes::<Ipv4Prefix>(f.withdrawn)).eq(v4.iter().copied()));

        announce_mp(next_hop, &without, v6.iter().copied(), max_len, &mut out).unwrap();
        let bodies = frames(out.split(), max_len);
        let split: Vec<_> = bodies.iter().map(|b| UpdateFrame::split(b).unwrap()).collect();
        prop_assert!(split.iter().all(|f| *f.attrs == without[..]));
        prop_assert!(split.iter().all(|f| f.mp_reach.unwrap().next_hop == next_hop));
        let back = split.iter().flat_map(|f| prefixes::<Ipv6Prefix>(f.mp_reach.unwrap().nlri));
        prop_assert!(back.eq(v6.iter().copied()));

        withdraw_mp(v6.iter().copied(), max_len, &mut out);
        let bodies = frames(out.split(), max_len);
        let split: Vec<_> = bodies.iter().map(|b| UpdateFrame::split(b).unwrap()).collect();
        let back = split.iter().flat_map(|f| prefixes::<Ipv6Prefix>(f.mp_unreach.unwrap().nlri));
        prop_assert!(back.eq(v6.iter().copied()));
    }
}
