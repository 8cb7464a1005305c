use bytes::BytesMut;
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::wire::notification::Kind;

const IBGP4: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ibgp,
};
const EBGP4: AttrContext = AttrContext {
    four_octet_as: true,
    peer: PeerKind::Ebgp,
};
const EBGP2: AttrContext = AttrContext {
    four_octet_as: false,
    peer: PeerKind::Ebgp,
};

/// ORIGIN IGP and an AS_PATH of 65001, then what is to be tested.
fn with(attr: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9];
    bytes.extend_from_slice(attr);
    bytes
}

#[derive(Debug, PartialEq)]
enum Want {
    Accept,
    Discard,
    Withdraw,
    Reset,
}

fn verdict(bytes: &[u8], ctx: &AttrContext) -> Want {
    match PathAttrs::decode(bytes, ctx).verdict {
        Verdict::Accept => Want::Accept,
        Verdict::AttributeDiscard(_) => Want::Discard,
        Verdict::TreatAsWithdraw(_) => Want::Withdraw,
        Verdict::Reset(_) => Want::Reset,
    }
}

#[test]
fn rfc7606_section_7_each_attribute_costs_what_it_should() {
    use Want::{Accept, Discard, Withdraw};
    for (attr, ibgp, ebgp) in [
        (&[0x40, 3, 3, 1, 1, 1][..], Withdraw, Withdraw), // NEXT_HOP length
        (&[0x80, 4, 1, 1], Withdraw, Withdraw),           // MED length
        (&[0x40, 5, 1, 1], Withdraw, Accept),             // LOCAL_PREF, discarded unseen
        (&[0x40, 6, 1, 1], Discard, Discard),             // ATOMIC_AGGREGATE
        (&[0xc0, 7, 6, 0, 1, 1, 1, 1, 1], Discard, Discard), // AGGREGATOR of a 2-octet session
        (&[0xc0, 7, 8, 0, 0, 0, 0, 1, 1, 1, 1], Discard, Discard), // AGGREGATOR with AS 0
        (&[0xc0, 8, 0], Withdraw, Withdraw),              // COMMUNITIES empty
        (&[0xc0, 8, 5, 1, 1, 1, 1, 1], Withdraw, Withdraw), // COMMUNITIES length
        (&[0x80, 9, 3, 1, 1, 1], Withdraw, Accept),       // ORIGINATOR_ID
        (&[0x80, 10, 3, 1, 1, 1], Withdraw, Accept),      // CLUSTER_LIST
        (&[0xc0, 16, 7, 1, 1, 1, 1, 1, 1, 1], Withdraw, Withdraw), // EXT_COMMUNITIES
        (&[0xc0, 17, 1, 1], Accept, Accept),              // AS4_PATH on a 4-octet session
        (&[0xc0, 25, 1, 1], Withdraw, Withdraw),          // IPv6 extended communities
        (&[0x80, 26, 1, 1], Accept, Accept),              // AIGP, discarded unseen
        (&[0xc0, 32, 8, 1, 1, 1, 1, 1, 1, 1, 1], Withdraw, Withdraw), // LARGE_COMMUNITIES
        (&[0xc0, 35, 1, 1], Withdraw, Withdraw),          // OTC
        (&[0xc0, 40, 3, 1, 0, 9], Discard, Discard),      // PREFIX_SID
        (&[0xc0, 99, 2, 1, 2], Accept, Accept),           // unknown transitive
        (&[0x80, 4, 4, 0, 0, 0, 1, 0x80, 4, 1, 0], Discard, Discard), // repeated
        (&[0x40, 4, 4, 0, 0, 0, 1], Withdraw, Withdraw),  // MED with wrong flags
        (&[0x80, 6, 0], Withdraw, Withdraw),              // ATOMIC_AGGREGATE with wrong flags
        (&[0x80, 4, 4, 0], Withdraw, Withdraw),           // cut off
        (&[0x80], Withdraw, Withdraw),                    // cut off in its header
    ] {
        assert_eq!(verdict(&with(attr), &IBGP4), ibgp, "iBGP {attr:?}");
        assert_eq!(verdict(&with(attr), &EBGP4), ebgp, "eBGP {attr:?}");
    }
}

/// Every attribute that we know with a value that is in order, in the context of two-octet AS numbers,
/// what a wrong length costs, and whether an external peer's is passed over unread.
const KNOWN: [(u8, u8, &[u8], Want, bool); 18] = {
    use Want::{Discard, Withdraw};
    [
        (0x40, 1, &[0], Withdraw, false),
        (0x40, 2, &[2, 1, 0xfd, 0xe9], Withdraw, false),
        (0x40, 3, &[192, 0, 2, 1], Withdraw, false),
        (0x80, 4, &[0, 0, 0, 1], Withdraw, false),
        (0x40, 5, &[0, 0, 0, 1], Withdraw, true),
        (0x40, 6, &[], Discard, false),
        (0xc0, 7, &[0, 7, 1, 1, 1, 1], Discard, false),
        (0xc0, 8, &[0, 0, 0, 1], Withdraw, false),
        (0x80, 9, &[1, 1, 1, 1], Withdraw, true),
        (0x80, 10, &[1, 1, 1, 1], Withdraw, true),
        (0xc0, 16, &[0, 2, 0, 1, 0, 0, 0, 1], Withdraw, false),
        (0xc0, 17, &[2, 1, 0, 0, 0xfd, 0xe9], Discard, false),
        (0xc0, 18, &[0, 0, 0, 7, 1, 1, 1, 1], Discard, false),
        (0xc0, 25, &[7; 20], Withdraw, false),
        (0xc0, 32, &[7; 12], Withdraw, false),
        (0xc0, 35, &[0, 0, 0, 7], Withdraw, false),
        (0xc0, 40, &[1, 0, 1, 9], Discard, false),
        (0xc0, 99, &[1], Want::Accept, false),
    ]
};

#[test]
fn rfc7606_each_attribute_with_each_fault() {
    const IBGP2: AttrContext = AttrContext {
        four_octet_as: false,
        peer: PeerKind::Ibgp,
    };
    let tlv = |flags: u8, code: u8, value: &[u8]| {
        let len = u8::try_from(value.len()).unwrap();
        [&[flags, code, len], value].concat()
    };
    for (flags, code, value, cost, inside_only) in &KNOWN {
        // The others that have to be there, around it.
        let message = |attr: &[u8], after: &[u8]| {
            let mut all = Vec::new();
            for (flags, other, value, ..) in &KNOWN[..2] {
                if other != code {
                    all.extend(tlv(*flags, *other, value));
                }
            }
            [&all, attr, after].concat()
        };
        let good = tlv(*flags, *code, value);
        let longer = tlv(*flags, *code, &[value, &[0][..]].concat());
        for (peer, ctx) in [("internal", IBGP2), ("external", EBGP2)] {
            let unread = *inside_only && ctx.peer == PeerKind::Ebgp;
            let is = |attr: &[u8], after: &[u8], want: &Want, what: &str| {
                let want = if unread { &Want::Accept } else { want };
                let found = verdict(&message(attr, after), &ctx);
                assert_eq!(found, *want, "{code} of an {peer} peer: {what}");
            };
            is(&good, &[], &Want::Accept, "in order");
            is(&longer, &[], cost, "an octet too many");
            if let Some((_, shorter)) = value.split_last() {
                is(&tlv(*flags, *code, shorter), &[], cost, "an octet too few");
            }
            // Section 3(c).
            if *code != 99 {
                let other = &tlv(flags ^ 0x80, *code, value);
                is(other, &[], &Want::Withdraw, "the optional flag");
                let other = &tlv(flags ^ 0x40, *code, value);
                is(other, &[], &Want::Withdraw, "the transitive flag");
            }
            // Section 3(g), also of what is not looked at.
            let twice = verdict(&message(&good, &good), &ctx);
            assert_eq!(twice, Want::Discard, "{code} of an {peer} peer: twice");
            // Section 4: the list ends within it.
            let cut = &good[..good.len() - 1];
            let ended = verdict(&message(&[], cut), &ctx);
            assert_eq!(ended, Want::Withdraw, "{code} of an {peer} peer: cut off");
        }
    }
}

#[test]
fn rfc7607_and_rfc9774_hold_for_as4_path_as_well() {
    let with = |attr: &[u8]| {
        let all = [&[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0x5b, 0xa0], attr].concat();
        PathAttrs::decode(&all, &EBGP2)
    };
    let zero = with(&[0xc0, 17, 6, 2, 1, 0, 0, 0, 0]);
    assert!(matches!(zero.verdict, Verdict::AttributeDiscard(_)));
    assert_eq!(zero.attrs.as_path, AsPath::sequence(&[23456]));
    let set = with(&[0xc0, 17, 6, 1, 1, 0, 1, 0x11, 0x70]);
    assert!(matches!(set.verdict, Verdict::TreatAsWithdraw(_)));
}

#[test]
fn rfc7606_malformed_origin_and_as_path_withdraw() {
    for bytes in [
        &[0x40, 1, 1, 3, 0x40, 2, 0][..],               // ORIGIN undefined
        &[0x40, 1, 2, 0, 0, 0x40, 2, 0],                // ORIGIN length
        &[0x40, 1, 1, 0],                               // no AS_PATH
        &[0x40, 2, 0],                                  // no ORIGIN
        &[0x40, 1, 1, 0, 0x40, 2, 2, 2, 0],             // empty segment
        &[0x40, 1, 1, 0, 0x40, 2, 6, 5, 1, 0, 0, 0, 1], // unknown segment type
        &[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0, 1],       // cut off
        &[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0, 0], // AS 0, RFC 7607
        &[0x40, 1, 1, 0, 0x40, 2, 6, 3, 1, 0, 0, 0, 1], // confederation from outside
        &[0x40, 1, 1, 0, 0x40, 2, 6, 1, 1, 0, 0, 0, 1], // AS_SET, RFC 9774 section 3
        &[0x40, 1, 1, 0, 0x40, 2, 6, 4, 1, 0, 0, 0, 1], // AS_CONFED_SET, the same
    ] {
        assert_eq!(verdict(bytes, &EBGP4), Want::Withdraw, "{bytes:?}");
    }
    assert_eq!(verdict(&[0x40, 1, 1, 0, 0x40, 2, 0], &IBGP4), Want::Accept);
}

#[test]
fn an_unknown_well_known_attribute_resets_with_the_attribute_as_data() {
    let decoded = PathAttrs::decode(&with(&[0x40, 99, 1, 7]), &EBGP4);
    let Verdict::Reset(error) = decoded.verdict else {
        panic!("{:?}", decoded.verdict)
    };
    assert_eq!(error.notification().kind, Kind::UPDATE_UNKNOWN_WELL_KNOWN);
    assert_eq!(&error.notification().data[..], [0x40, 99, 1, 7]);
}

#[test]
fn unknown_transitive_attributes_are_kept_with_partial_and_others_dropped() {
    let bytes = with(&[0xc0, 99, 1, 7, 0x80, 98, 1, 7, 0xd0, 97, 0, 1, 5]);
    let attrs = PathAttrs::decode(&bytes, &EBGP4).attrs;
    assert_eq!(
        attrs.unknown,
        [
            RawAttr {
                flags: 0xe0,
                code: 97,
                value: vec![5]
            },
            RawAttr {
                flags: 0xe0,
                code: 99,
                value: vec![7]
            }
        ]
    );
}

#[test]
fn the_inside_attributes_of_an_external_peer_are_not_used() {
    let bytes = with(&[0x40, 5, 4, 0, 0, 0, 9, 0x80, 9, 4, 1, 1, 1, 1]);
    let outside = PathAttrs::decode(&bytes, &EBGP4).attrs;
    assert_eq!((outside.local_pref, outside.originator_id), (None, None));
    let inside = PathAttrs::decode(&bytes, &IBGP4).attrs;
    assert_eq!(
        (inside.local_pref, inside.originator_id),
        (Some(9), Some([1, 1, 1, 1].into()))
    );
}

#[test]
fn rfc6793_a_foreign_aggregator_disables_both_as4_attributes() {
    // AS_PATH 23456, AGGREGATOR of AS 7, AS4_PATH 70000.
    let bytes = [
        &[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0x5b, 0xa0][..],
        &[0xc0, 7, 6, 0, 7, 1, 1, 1, 1],
        &[0xc0, 17, 6, 2, 1, 0, 1, 0x11, 0x70],
    ]
    .concat();
    assert_eq!(
        PathAttrs::decode(&bytes, &EBGP2).attrs.as_path,
        AsPath::sequence(&[23456])
    );
    let without = [&bytes[..11], &bytes[20..]].concat();
    assert_eq!(
        PathAttrs::decode(&without, &EBGP2).attrs.as_path,
        AsPath::sequence(&[70000])
    );
}

fn path_attrs() -> impl Strategy<Value = PathAttrs> {
    let asn = 1u32..200_000;
    let id = || any::<[u8; 4]>().prop_map(Ipv4Addr::from);
    let core = (
        prop_oneof![
            Just(Origin::Igp),
            Just(Origin::Egp),
            Just(Origin::Incomplete)
        ],
        vec(asn.clone(), 0..300),
        option::of(id()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        any::<bool>(),
        option::of((asn, id()).prop_map(|(asn, id)| Aggregator { asn, id })),
    );
    let lists = (
        vec(any::<u32>(), 0..80),
        option::of(id()),
        vec(id(), 0..4),
        vec(any::<[u8; 8]>(), 0..4),
        vec(any::<[u32; 3]>(), 0..4),
        option::of((41u8..250, vec(any::<u8>(), 0..300))),
    );
    (core, lists).prop_map(|(core, lists)| {
        let (origin, asns, next_hop, med, local_pref, atomic_aggregate, aggregator) = core;
        let (communities, originator_id, cluster_list, ext_communities, large, unknown) = lists;
        let mut as_path = AsPath::default();
        asns.iter().for_each(|asn| as_path.prepend(*asn, 1));
        PathAttrs {
            origin,
            as_path,
            next_hop,
            med,
            local_pref,
            atomic_aggregate,
            aggregator,
            communities,
            originator_id,
            cluster_list,
            ext_communities,
            large_communities: large,
            unknown: unknown
                .into_iter()
                .map(|(code, value)| RawAttr {
                    flags: 0xe0,
                    code,
                    value,
                })
                .collect(),
        }
    })
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), four: bool, ebgp: bool) {
        let peer = if ebgp { PeerKind::Ebgp } else { PeerKind::Ibgp };
        PathAttrs::decode(&bytes, &AttrContext { four_octet_as: four, peer });
        PathAttrs::decode(&with(&bytes), &AttrContext { four_octet_as: four, peer });
    }

    #[test]
    fn attributes_round_trip_with_four_octet_as(attrs in path_attrs()) {
        let mut out = BytesMut::new();
        attrs.encode(true, &mut out);
        let back = PathAttrs::decode(&out, &IBGP4);
        prop_assert_eq!(back.verdict, Verdict::Accept);
        prop_assert_eq!(back.attrs, attrs);
    }

    #[test]
    fn rfc6793_the_as_path_survives_a_two_octet_session(attrs in path_attrs()) {
        let mut out = BytesMut::new();
        attrs.encode(false, &mut out);
        let back = PathAttrs::decode(&out, &AttrContext { four_octet_as: false, peer: PeerKind::Ibgp });
        // RFC 6793 section 4.2.3 forbids the merge behind an aggregator of a two-octet AS.
        if attrs.aggregator.is_none_or(|a| a.asn > 65535) {
            prop_assert!(back.attrs.as_path.asns().eq(attrs.as_path.asns()));
            prop_assert_eq!(back.attrs.aggregator, attrs.aggregator);
        }
    }
}
