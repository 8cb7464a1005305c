//! What is fuzzed: one function for each decoder. None may panic whatever the octets, and what a
//! decoder makes of them has to come out of its encoder and back the same.
//!
//! The first octet of most inputs chooses the circumstances (what was negotiated), the others are
//! what the peer sends.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use margay_bgp::{
    bfd::Packet,
    inspect::{Options, inspect},
    policy::Filter,
    prefix::{Ipv4Prefix, Ipv6Prefix},
    rib::{PeerRibConfig, Rib, RibConfig, SessionInfo},
    wire::{
        AttrContext, MAX_LEN, MessageType, NextHop, Nlri, NlriIter, Notification, Open, PathAttrs,
        PeerKind, RouteRefresh, UpdateFrame, Verdict, header,
        nlri::{NlriPrefix, PutNlri},
    },
};

/// A decoder under test.
pub(crate) type Target = fn(&[u8]);

/// Every target with its name, which is also the folder of its corpus.
pub(crate) const TARGETS: [(&str, Target); 10] = [
    ("stream", stream),
    ("open", open),
    ("notification", notification),
    ("refresh", refresh),
    ("attributes", attributes),
    ("update", update),
    ("nlri", nlri),
    ("next_hop", next_hop),
    ("bfd", bfd),
    ("inspect", inspection),
];

/// The circumstances and the octets.
fn split(input: &[u8]) -> (u8, &[u8]) {
    input
        .split_first()
        .map_or((0, input), |(first, rest)| (*first, rest))
}

/// The body of the one message in `out`.
fn body(mut out: BytesMut) -> bytes::Bytes {
    let message = header::frame(&mut out, true)
        .expect("our own message is in order")
        .expect("our own message is whole");
    assert!(out.is_empty(), "one message was written");
    message.body
}

/// Framing, and each message by its type.
pub(crate) fn stream(input: &[u8]) {
    let (flags, octets) = split(input);
    let extended = flags & 1 != 0;
    let mut buf = BytesMut::from(octets);
    let mut total = 0;
    while let Ok(Some(message)) = header::frame(&mut buf, extended) {
        total += header::HEADER_LEN + message.body.len();
        match message.kind {
            MessageType::Open => open(&message.body),
            MessageType::Update => update(&[&[flags], &message.body[..]].concat()),
            MessageType::Notification => notification(&message.body),
            MessageType::RouteRefresh => refresh(&message.body),
            MessageType::Keepalive => assert!(message.body.is_empty()),
        }
    }
    assert_eq!(total + buf.len(), octets.len(), "no octet is lost");
}

/// OPEN with its capabilities.
pub(crate) fn open(octets: &[u8]) {
    let Ok(open) = Open::decode(octets) else {
        return;
    };
    let caps = &open.capabilities;
    let graceful = caps
        .graceful_restart
        .as_ref()
        .map_or(0, |g| g.families.len());
    let longest = [
        caps.add_path.len(),
        caps.extended_next_hop.len(),
        caps.long_lived.iter().flatten().count(),
        graceful,
    ];
    // We never write a capability that repeats its families; one of more than 255 octets cannot be.
    // Nor can families be told that we do not carry.
    let only_foreign = caps.multiprotocol.as_ref().is_some_and(Vec::is_empty);
    if longest.iter().all(|len| *len <= 32) && !only_foreign {
        let mut out = BytesMut::new();
        open.encode(&mut out);
        assert_eq!(Open::decode(&body(out)), Ok(open));
    }
}

/// NOTIFICATION, its text included.
pub(crate) fn notification(octets: &[u8]) {
    let Ok(notification) = Notification::decode(octets) else {
        return;
    };
    assert!(!notification.to_string().is_empty());
    drop(notification.hard_reset_cause());
    if notification.data.len() <= MAX_LEN - header::HEADER_LEN - 2 {
        let mut out = BytesMut::new();
        notification.encode(&mut out);
        assert_eq!(Notification::decode(&body(out)), Ok(notification));
    }
}

/// ROUTE-REFRESH.
pub(crate) fn refresh(octets: &[u8]) {
    if let Ok(Some(refresh)) = RouteRefresh::decode(octets) {
        let mut out = BytesMut::new();
        refresh.encode(&mut out);
        assert_eq!(RouteRefresh::decode(&body(out)), Ok(Some(refresh)));
    }
}

fn context(flags: u8) -> AttrContext {
    AttrContext {
        four_octet_as: flags & 2 != 0,
        peer: match flags & 4 {
            0 => PeerKind::Ebgp,
            _ => PeerKind::Ibgp,
        },
    }
}

/// Path attributes.
pub(crate) fn attributes(input: &[u8]) {
    let (flags, octets) = split(input);
    let ctx = context(flags);
    let decoded = PathAttrs::decode(octets, &ctx);
    let mut strongest = Verdict::Accept;
    for finding in PathAttrs::findings(octets, &ctx) {
        strongest.raise(finding);
    }
    assert_eq!(strongest, decoded.verdict, "findings and verdict agree");
    if !decoded.verdict.is_usable() {
        return;
    }
    // What is told to internal peers holds everything.
    let inside = AttrContext {
        four_octet_as: true,
        peer: PeerKind::Ibgp,
    };
    let mut out = BytesMut::new();
    decoded.attrs.encode(true, &mut out);
    let again = PathAttrs::decode(&out, &inside);
    assert_eq!(
        (again.verdict, again.attrs),
        (Verdict::Accept, decoded.attrs)
    );
}

/// UPDATE, as far as into the RIB.
pub(crate) fn update(input: &[u8]) {
    let (flags, octets) = split(input);
    let Ok(frame) = UpdateFrame::split(octets) else {
        return;
    };
    attributes(&[&[flags], &frame.attrs[..]].concat());
    for list in [frame.withdrawn, frame.nlri] {
        prefixes::<Ipv4Prefix>(list, false);
    }
    let config = RibConfig::new(65001, Ipv4Addr::new(192, 0, 2, 1));
    let mut rib = Rib::new(config);
    let all = Arc::new(Filter::accept_all());
    let peer = rib.add_peer(PeerRibConfig {
        import: Arc::clone(&all),
        export: all,
        ..PeerRibConfig::new(context(flags).peer, 65001)
    });
    let Ok(peer) = peer else { return };
    let id = Ipv4Addr::new(192, 0, 2, 2);
    let info = SessionInfo {
        four_octet_as: context(flags).four_octet_as,
        ..SessionInfo::new(id, IpAddr::V4(id))
    };
    rib.peer_up(peer, info, Instant::now());
    // An error is what the session ends with; the RIB has to be fit for use all the same.
    drop(rib.handle_update(peer, &frame));
    rib.settle();
    let mut out = BytesMut::new();
    while rib.poll_transmit(peer, &mut out, 4096) {}
    rib.peer_down(peer, None, Instant::now());
    rib.settle();
    assert_eq!(
        rib.size().attribute_sets,
        0,
        "nothing is left of a peer that is gone"
    );
}

/// Prefixes of both families, with and without path identifiers.
pub(crate) fn nlri(input: &[u8]) {
    let (flags, octets) = split(input);
    let add_path = flags & 1 != 0;
    prefixes::<Ipv4Prefix>(octets, add_path);
    prefixes::<Ipv6Prefix>(octets, add_path);
}

fn prefixes<P: NlriPrefix + PutNlri + std::fmt::Debug>(octets: &[u8], add_path: bool) {
    let list: Result<Vec<Nlri<P>>, _> = NlriIter::new(octets, add_path).collect();
    let Ok(list) = list else { return };
    let mut out = BytesMut::new();
    for item in &list {
        if add_path {
            item.put_nlri(&mut out);
        } else {
            item.prefix.put_nlri(&mut out);
        }
    }
    assert_eq!(out.len(), octets.len());
    let again: Result<Vec<Nlri<P>>, _> = NlriIter::new(&out, add_path).collect();
    assert_eq!(again, Ok(list));
}

/// The next hop of MP_REACH_NLRI.
pub(crate) fn next_hop(input: &[u8]) {
    let (flags, octets) = split(input);
    let family = match flags & 1 {
        0 => margay_bgp::prefix::Family::Ipv4Unicast,
        _ => margay_bgp::prefix::Family::Ipv6Unicast,
    };
    if let Some(next_hop) = NextHop::decode(family, octets) {
        let mut out = BytesMut::new();
        next_hop.encode(&mut out);
        let (len, written) = out.split_first().expect("a length octet");
        assert_eq!(usize::from(*len), written.len());
        assert_eq!(NextHop::decode(family, written), Some(next_hop));
    }
}

/// BFD control packet.
pub(crate) fn bfd(octets: &[u8]) {
    if let Ok(packet) = Packet::decode(octets) {
        let mut out = BytesMut::new();
        packet.encode(&mut out);
        assert_eq!(Packet::decode(&out), Ok(packet));
    }
}

/// What `margayctl bgp decode` shows.
pub(crate) fn inspection(input: &[u8]) {
    let (flags, octets) = split(input);
    let options = Options {
        four_octet_as: flags & 2 != 0,
        extended: flags & 1 != 0,
        ..Options::default()
    };
    let shown = inspect(octets, &options);
    assert!(shown.iter().all(|i| i.offset + i.length <= octets.len()));
}
