//! A RIB with wires: updates go in as octets, and what comes out is read as a peer would.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bytes::BytesMut;

use crate::{
    policy::Filter,
    prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix},
    rib::{PeerId, PeerRibConfig, Rib, SessionInfo, UpdateOutcome},
    wire::{
        AttrContext, MAX_LEN, MessageType, NextHop, NlriIter, PathAttrs, PeerKind, UpdateFrame,
        WireError, header,
        update_encode::{announce_mp, announce_v4, withdraw_mp, withdraw_v4},
    },
};

pub(super) const LOCAL_AS: u32 = 65000;

pub(super) fn p(text: &str) -> Prefix {
    text.parse::<Ipv4Prefix>()
        .map(Prefix::V4)
        .or_else(|_e| text.parse::<Ipv6Prefix>().map(Prefix::V6))
        .unwrap()
}

pub(super) fn v4s(prefixes: &[Prefix]) -> Vec<Ipv4Prefix> {
    let v4 = |p: &Prefix| {
        if let Prefix::V4(p) = p {
            Some(*p)
        } else {
            None
        }
    };
    prefixes.iter().filter_map(v4).collect()
}

pub(super) fn v6s(prefixes: &[Prefix]) -> Vec<Ipv6Prefix> {
    let v6 = |p: &Prefix| {
        if let Prefix::V6(p) = p {
            Some(*p)
        } else {
            None
        }
    };
    prefixes.iter().filter_map(v6).collect()
}

/// A peer that takes and tells everything.
pub(super) fn open_peer(kind: PeerKind) -> PeerRibConfig {
    let all = Arc::new(Filter::accept_all());
    PeerRibConfig {
        import: Arc::clone(&all),
        export: all,
        next_hop_v4: Some(NextHop::V4(Ipv4Addr::new(192, 0, 2, 100))),
        next_hop_v6: Some(v6_hop(100)),
        ..PeerRibConfig::new(kind, LOCAL_AS)
    }
}

/// The session of the peer number `n`.
pub(super) fn session(n: u8) -> SessionInfo {
    SessionInfo::new(
        Ipv4Addr::new(10, 0, 0, n + 1),
        IpAddr::from([192, 0, 2, n + 1]),
    )
}

/// Feeds whole messages, as the session layer does.
pub(super) fn feed(
    rib: &mut Rib,
    peer: PeerId,
    mut messages: BytesMut,
) -> Result<Vec<UpdateOutcome>, WireError> {
    let mut outcomes = Vec::new();
    while let Some(message) = header::frame(&mut messages, false)? {
        outcomes.push(rib.handle_update(peer, &UpdateFrame::split(&message.body)?)?);
    }
    Ok(outcomes)
}

/// Announces `prefixes` (of one family or both) with `attrs` and the next hop number `next_hop`.
pub(super) fn announce(
    rib: &mut Rib,
    peer: PeerId,
    four_octet_as: bool,
    attrs: &PathAttrs,
    prefixes: &[Prefix],
    next_hop: u8,
) -> Result<Vec<UpdateOutcome>, WireError> {
    let mut out = BytesMut::new();
    let mut encoded = BytesMut::new();
    let v4 = PathAttrs {
        next_hop: Some(v4_hop(next_hop)),
        ..attrs.clone()
    };
    v4.encode(four_octet_as, &mut encoded);
    announce_v4(&encoded, v4s(prefixes), MAX_LEN, &mut out).unwrap();
    let v6 = v6s(prefixes);
    if !v6.is_empty() {
        encoded.clear();
        attrs.encode(four_octet_as, &mut encoded);
        announce_mp(v6_hop(next_hop), &encoded, v6, MAX_LEN, &mut out).unwrap();
    }
    feed(rib, peer, out)
}

pub(super) fn withdraw(rib: &mut Rib, peer: PeerId, prefixes: &[Prefix]) {
    let mut out = BytesMut::new();
    withdraw_v4(v4s(prefixes), MAX_LEN, &mut out);
    withdraw_mp(v6s(prefixes), MAX_LEN, &mut out);
    feed(rib, peer, out).unwrap();
}

pub(super) fn v4_hop(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

pub(super) fn v6_hop(n: u8) -> NextHop {
    NextHop::from(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]))
}

pub(super) fn hop_for(prefix: Prefix, n: u8) -> NextHop {
    match prefix {
        Prefix::V4(_) => NextHop::V4(v4_hop(n)),
        Prefix::V6(_) => v6_hop(n),
    }
}

/// A peer's view of what we tell it.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    pub(super) routes: BTreeMap<Prefix, (PathAttrs, NextHop)>,
    pub(super) end_of_rib: [usize; 2],
    pub(super) updates: usize,
    pub(super) announced: usize,
    /// Withdrawals of routes that were not there.
    pub(super) empty_withdrawals: usize,
    /// Subtypes of ROUTE-REFRESH received.
    pub(super) refreshes: Vec<u8>,
}

impl Receiver {
    /// Reads up to `limit` octets or one more batch.
    pub(super) fn read(
        &mut self,
        rib: &mut Rib,
        peer: PeerId,
        limit: usize,
        ctx: &AttrContext,
    ) -> bool {
        let mut buf = BytesMut::new();
        let any = rib.poll_transmit(peer, &mut buf, limit);
        self.take(buf, ctx);
        any
    }

    /// Takes in messages.
    pub(super) fn take(&mut self, mut buf: BytesMut, ctx: &AttrContext) {
        while let Some(message) = header::frame(&mut buf, false).unwrap() {
            match message.kind {
                MessageType::Update => self.update(&message.body, ctx),
                kind => {
                    assert_eq!(kind, MessageType::RouteRefresh);
                    self.refreshes.push(message.body[2]);
                }
            }
        }
        assert!(buf.is_empty(), "only whole messages");
    }

    /// Reads all there is.
    pub(super) fn drain(&mut self, rib: &mut Rib, peer: PeerId, ctx: &AttrContext) {
        while self.read(rib, peer, usize::MAX, ctx) {}
        assert!(
            !rib.pending(peer),
            "nothing is left after reading everything"
        );
    }

    fn update(&mut self, body: &[u8], ctx: &AttrContext) {
        self.updates += 1;
        let frame = UpdateFrame::split(body).unwrap();
        if let Some(family) = frame.end_of_rib() {
            self.end_of_rib[family.index()] += 1;
            return;
        }
        for item in NlriIter::<Ipv4Prefix>::new(frame.withdrawn, false) {
            self.gone(item.unwrap().prefix.into());
        }
        if let Some(unreach) = frame.mp_unreach {
            assert_eq!(unreach.family, Family::Ipv6Unicast);
            for item in NlriIter::<Ipv6Prefix>::new(unreach.nlri, false) {
                self.gone(item.unwrap().prefix.into());
            }
        }
        if !frame.announces() {
            return;
        }
        let decoded = PathAttrs::decode(&frame.attrs, ctx);
        assert!(decoded.verdict.is_usable(), "{:?}", decoded.verdict);
        let mut attrs = decoded.attrs;
        if let Some(next_hop) = attrs.next_hop.take() {
            for item in NlriIter::<Ipv4Prefix>::new(frame.nlri, false) {
                let prefix = item.unwrap().prefix.into();
                self.announced += 1;
                self.routes
                    .insert(prefix, (attrs.clone(), NextHop::V4(next_hop)));
            }
        }
        if let Some(reach) = frame.mp_reach {
            for item in NlriIter::<Ipv6Prefix>::new(reach.nlri, false) {
                let prefix = item.unwrap().prefix.into();
                self.announced += 1;
                self.routes.insert(prefix, (attrs.clone(), reach.next_hop));
            }
        }
    }

    fn gone(&mut self, prefix: Prefix) {
        self.empty_withdrawals += usize::from(self.routes.remove(&prefix).is_none());
    }
}
