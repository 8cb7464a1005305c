use std::sync::Arc;

use domain::base::iana::Rcode;
use domain::rdata::AllRecordData;
use margay_model::kind::{Kind, ResourceKey};
use proptest::prelude::*;

use super::super::record::{Port, Record};
use super::*;

fn authority() -> Authority {
    Authority {
        zone: "margay.internal".to_owned(),
        ttl_secs: 5,
    }
}

fn zone(endpoints: usize) -> Zone {
    let mut zone = Zone::default();
    for n in 1..=endpoints {
        let key = ResourceKey::namespaced(Kind::WorkloadEndpoint, "d", format!("e{n}"));
        let record = Record {
            names: vec!["web.shop".to_owned()],
            node: "h1".to_owned(),
            ips: vec![
                Ipv4Addr::from(0x0a00_0000 + n as u32).into(),
                Ipv6Addr::from(0xfd00 << 112 | n as u128).into(),
            ],
            ports: vec![Port {
                service: "http".to_owned(),
                protocol: "tcp".to_owned(),
                number: 80,
            }],
            unhealthy: false,
        };
        zone.set(key, Some(Arc::new(record)));
    }
    zone
}

fn query(name: &str, kind: Rtype, edns: Option<u16>) -> Vec<u8> {
    let mut question = MessageBuilder::new_vec().question();
    question.header_mut().set_id(4);
    question.header_mut().set_rd(true);
    question
        .push((Name::<Vec<u8>>::vec_from_str(name).unwrap(), kind))
        .unwrap();
    let mut additional = question.additional();
    if let Some(size) = edns {
        let sized = additional.opt(|opt| {
            opt.set_udp_payload_size(size);
            Ok(())
        });
        sized.unwrap();
    }
    additional.finish()
}

fn ask(name: &str, kind: Rtype, zone: &Zone) -> Message<Vec<u8>> {
    match authority().judge(&query(name, kind, None), zone, false) {
        Verdict::Answer(answer, _) => Message::from_octets(answer).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn data(message: &Message<Vec<u8>>) -> Vec<String> {
    let records = message.answer().unwrap();
    records
        .limit_to::<AllRecordData<_, _>>()
        .map(|record| record.unwrap().data().to_string())
        .collect()
}

#[test]
fn addresses_services_and_names_are_found() {
    let zone = zone(1);
    let answer = ask("Web.SHOP.margay.internal.", Rtype::A, &zone);
    assert_eq!(data(&answer), ["10.0.0.1"]);
    let header = answer.header();
    assert!(header.aa() && header.qr() && header.rd() && header.id() == 4);
    assert_eq!(
        data(&ask("web.shop.margay.internal.", Rtype::AAAA, &zone)),
        ["fd00::1"]
    );
    let srv = ask("_http._tcp.web.shop.margay.internal.", Rtype::SRV, &zone);
    assert_eq!(data(&srv), ["0 0 80 web.shop.margay.internal"]);
    for name in [
        "1.0.0.10.in-addr.arpa.",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
    ] {
        assert_eq!(
            data(&ask(name, Rtype::PTR, &zone)),
            ["web.shop.margay.internal."]
        );
    }
    assert_eq!(
        ask("web.shop.margay.internal.", Rtype::ANY, &zone)
            .header_counts()
            .ancount(),
        2
    );
}

#[test]
fn nothing_and_no_such_name_are_two_answers_with_the_zones_soa() {
    let zone = zone(1);
    for (name, rcode) in [
        ("web.shop.margay.internal.", Rcode::NOERROR),
        ("shop.margay.internal.", Rcode::NOERROR),
        ("margay.internal.", Rcode::NOERROR),
        ("db.shop.margay.internal.", Rcode::NXDOMAIN),
    ] {
        let answer = ask(name, Rtype::TXT, &zone);
        assert_eq!(answer.header().rcode(), rcode, "{name}");
        assert_eq!(
            (
                answer.header_counts().ancount(),
                answer.header_counts().nscount()
            ),
            (0, 1)
        );
    }
}

#[test]
fn the_zone_tells_its_own_soa_and_no_name_in_it_does() {
    let zone = zone(1);
    let answer = ask("margay.internal.", Rtype::SOA, &zone);
    let counts = answer.header_counts();
    assert_eq!((counts.ancount(), counts.nscount()), (1, 0));
    let answer = ask("web.shop.margay.internal.", Rtype::SOA, &zone);
    let counts = answer.header_counts();
    assert_eq!((counts.ancount(), counts.nscount()), (0, 1));
}

#[test]
fn what_is_not_ours_is_left_to_others() {
    let zone = zone(1);
    for name in [
        "example.org.",
        "notmargay.internal.",
        "internal.",
        "9.9.9.9.in-addr.arpa.",
        "x.ip6.arpa.",
    ] {
        let verdict = authority().judge(&query(name, Rtype::A, None), &zone, false);
        assert_eq!(verdict, Verdict::Forward, "{name}");
    }
}

#[test]
fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
    let zone = zone(200);
    let name = "web.shop.margay.internal.";
    let judged = |edns, tcp| match authority().judge(&query(name, Rtype::A, edns), &zone, tcp) {
        Verdict::Answer(answer, _) => Message::from_octets(answer).unwrap(),
        other => panic!("{other:?}"),
    };
    for (edns, limit) in [(None, 512), (Some(4096), 1232), (Some(100), 512)] {
        let cut = judged(edns, false);
        assert!(
            cut.header().tc() && cut.as_slice().len() <= limit,
            "{}",
            cut.as_slice().len()
        );
        assert!(data(&cut).len() > 10);
    }
    let whole = judged(None, true);
    assert!(!whole.header().tc());
    assert_eq!(data(&whole).len(), 200);
}

#[test]
fn other_messages_are_refused_or_dropped() {
    let zone = zone(1);
    let rcode = |change: fn(&mut Vec<u8>)| {
        let mut message = query("web.shop.margay.internal.", Rtype::A, None);
        change(&mut message);
        match authority().judge(&message, &zone, false) {
            Verdict::Answer(answer, _) => {
                Some(Message::from_octets(answer).unwrap().header().rcode())
            }
            _ => None,
        }
    };
    assert_eq!(rcode(|_| {}), Some(Rcode::NOERROR));
    assert_eq!(rcode(|m| m[2] |= 0x80), None);
    assert_eq!(rcode(|m| m[2] |= 0x28), Some(Rcode::NOTIMP));
    assert_eq!(rcode(|m| m[5] = 2), Some(Rcode::FORMERR));
    assert_eq!(rcode(|m| m.truncate(20)), Some(Rcode::FORMERR));
    assert_eq!(rcode(|m| m.truncate(11)), None);
    let length = query("web.shop.margay.internal.", Rtype::A, None).len();
    assert_eq!(length, 42);
    assert_eq!(rcode(|m| m[41] = 3), Some(Rcode::REFUSED));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), tcp: bool) {
        authority().judge(&bytes, &zone(3), tcp);
        refuse(&bytes, Rcode::REFUSED);
    }

    #[test]
    fn a_query_with_some_bytes_changed_is_survived(
        at in proptest::collection::vec((0usize..60, any::<u8>()), 0..6), tcp: bool,
    ) {
        let mut message = query("_http._tcp.web.shop.margay.internal.", Rtype::SRV, Some(1232));
        for (at, byte) in at {
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
        }
        authority().judge(&message, &zone(3), tcp);
    }
}
