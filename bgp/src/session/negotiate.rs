//! Our OPEN, and what follows from the peer's (RFC 4271 section 6.2, RFC 5492, RFC 6286).

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use crate::{
    prefix::Family,
    session::{AddPathOffer, SessionConfig},
    wire::{
        AttrContext, Kind, MAX_EXTENDED_LEN, MAX_LEN, Open, PeerKind, WireError,
        capability::{AddPath, Capabilities, ForwardingState, GracefulRestart, LongLived},
    },
};

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's OPEN.
    pub peer: Open,
    /// Our AS as the peer sees it.
    pub local_as: u32,
    /// Silence that ends the session; zero: none does.
    pub hold_time: Duration,
    /// Interval of KEEPALIVEs before jitter; zero: none are sent.
    pub keepalive: Duration,
    /// Families that both carry.
    pub families: Vec<Family>,
    /// Longest message to send.
    pub max_message_len: usize,
    /// AS numbers have four octets.
    pub four_octet_as: bool,
    /// The peer answers ROUTE-REFRESH.
    pub route_refresh: bool,
    /// Both mark the ends of a refresh (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer's graceful restart, if we offered it as well.
    pub graceful_restart: Option<GracefulRestart>,
    /// The peer's long-lived graceful restart (RFC 9494), if we offered it as well; no stale time
    /// is longer than we allow.
    pub long_lived: Option<Vec<LongLived>>,
    /// Families in which what we send has path identifiers (RFC 7911).
    pub paths_sent: Vec<Family>,
    /// Families in which what we receive has path identifiers (RFC 7911).
    pub paths_received: Vec<Family>,
}

impl Negotiated {
    /// Whether the peer is in another AS.
    pub const fn peer_kind(&self) -> PeerKind {
        if self.peer.asn == self.local_as {
            PeerKind::Ibgp
        } else {
            PeerKind::Ebgp
        }
    }

    /// How attributes from and to the peer are encoded.
    pub const fn attr_context(&self) -> AttrContext {
        AttrContext {
            four_octet_as: self.four_octet_as,
            peer: self.peer_kind(),
        }
    }

    /// Whether a NOTIFICATION leaves the grace of a restart untouched (RFC 8538).
    pub fn survives_notification(&self) -> bool {
        self.graceful_restart
            .as_ref()
            .is_some_and(|g| g.notification)
    }

    /// Whether the peer kept forwarding for `family` while it was away, so that its stale routes
    /// may stay until its End-of-RIB (RFC 4724 section 4.2).
    pub fn forwarding_preserved(&self, family: Family) -> bool {
        self.graceful_restart
            .as_ref()
            .is_some_and(|g| g.families.iter().any(|f| f.family == family && f.preserved))
    }
}

impl Negotiated {
    /// How long the peer wants the routes of `family` kept beyond its restart time.
    pub fn long_lived_time(&self, family: Family) -> Duration {
        let mut all = self.long_lived.iter().flatten();
        let found = all.find(|l| l.family == family && self.families.contains(&family));
        found.map_or(Duration::ZERO, |l| {
            Duration::from_secs(l.stale_time_secs.into())
        })
    }

    /// As [`forwarding_preserved`](Self::forwarding_preserved), for long-lived stale routes.
    pub fn long_lived_preserved(&self, family: Family) -> bool {
        let mut all = self.long_lived.iter().flatten();
        all.any(|l| l.family == family && l.preserved)
    }
}

/// The OPEN to send. `fresh` until the session was up once; `recovering` while the speaker waits for what
/// its peers know.
pub(super) fn our_open(config: &SessionConfig, fresh: bool, recovering: bool) -> Open {
    let graceful_restart = config.graceful_restart.map(|local| GracefulRestart {
        restarting: local.restarting && (fresh || recovering),
        notification: true,
        restart_time_secs: local.restart_time_secs,
        // The kernel forwards on while a session is down; only a process that started without
        // taking over has nothing to preserve.
        families: config
            .families
            .iter()
            .map(|&family| ForwardingState {
                family,
                preserved: local.restarting || !fresh,
            })
            .collect(),
    });
    // The same holds for as long as they stay: the kernel's routes are there or they are not.
    let long_lived = config
        .graceful_restart
        .and_then(|local| Some((local, local.long_lived?)))
        .map(|(local, long)| {
            let of_family = |&family: &Family| LongLived {
                family,
                preserved: local.restarting || !fresh,
                stale_time_secs: long.stale_time_secs,
            };
            config.families.iter().map(of_family).collect()
        });
    Open {
        asn: config.local_as,
        hold_time_secs: config.hold_time_secs,
        id: config.local_id,
        capabilities: Capabilities {
            multiprotocol: Some(config.families.clone()),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_message: config.extended_messages,
            extended_next_hop: over_v6(config).collect(),
            four_octet_as: Some(config.local_as),
            graceful_restart,
            long_lived,
            add_path: our_add_path(config).collect(),
        },
    }
}

fn our_add_path(config: &SessionConfig) -> impl Iterator<Item = AddPath> {
    let AddPathOffer { send, receive } = config.add_path;
    let of_family = move |&family: &Family| AddPath {
        family,
        send,
        receive,
    };
    config
        .families
        .iter()
        .filter(move |_| send || receive)
        .map(of_family)
}

/// Families that we take over IPv6 next hops where they usually have others.
fn over_v6(config: &SessionConfig) -> impl Iterator<Item = Family> {
    let offered = |f: &Family| config.extended_next_hop && *f == Family::Ipv4Unicast;
    config.families.iter().copied().filter(offered)
}

/// Checks the peer's OPEN against the configuration.
pub(super) fn negotiate(config: &SessionConfig, peer: Open) -> Result<Negotiated, WireError> {
    let expected = match config.remote_as {
        Some(asn) => peer.asn == asn,
        None => peer.asn != config.local_as,
    };
    if !expected {
        let what = "the peer is in another AS than configured";
        return Err(WireError::new(Kind::OPEN_BAD_PEER_AS, what));
    }
    // RFC 6286 section 2.2: an equal identifier is an error inside one AS only.
    if peer.asn == config.local_as && peer.id == config.local_id {
        let what = "the peer has our BGP identifier";
        return Err(WireError::new(Kind::OPEN_BAD_IDENTIFIER, what));
    }
    let families: Vec<_> = config
        .families
        .iter()
        .copied()
        .filter(|f| peer.families().contains(f))
        .collect();
    if families.is_empty() {
        return Err(no_common_family(config));
    }
    let hold_secs = config.hold_time_secs.min(peer.hold_time_secs);
    let default_keepalive = Duration::from_secs(hold_secs.into()) / 3;
    let keepalive = match config.keepalive_secs {
        Some(secs) => Duration::from_secs(secs.into()).min(default_keepalive),
        None => default_keepalive,
    };
    let theirs = &peer.capabilities;
    let long = config.extended_messages && theirs.extended_message;
    // RFC 7911 section 4: where one side sends and the other receives; the last word of a family
    // counts.
    let add_path = |family: &Family| {
        let mut all = theirs.add_path.iter().rev();
        all.find(|a| a.family == *family)
    };
    let with = |on: bool, theirs: fn(&AddPath) -> bool| -> Vec<Family> {
        let agreed = |f: &&Family| on && add_path(f).is_some_and(theirs);
        families.iter().filter(agreed).copied().collect()
    };
    let graceful_restart = config.graceful_restart.and(theirs.graceful_restart.clone());
    Ok(Negotiated {
        paths_sent: with(config.add_path.send, |a| a.receive),
        paths_received: with(config.add_path.receive, |a| a.send),
        long_lived: long_lived(config, &peer),
        local_as: config.local_as,
        hold_time: Duration::from_secs(hold_secs.into()),
        keepalive,
        max_message_len: if long { MAX_EXTENDED_LEN } else { MAX_LEN },
        four_octet_as: theirs.four_octet_as.is_some(),
        route_refresh: theirs.route_refresh,
        enhanced_route_refresh: theirs.enhanced_route_refresh,
        extended_next_hop: over_v6(config).any(|f| theirs.extended_next_hop.contains(&f)),
        graceful_restart,
        families,
        peer,
    })
}

/// RFC 9494 section 4.1: nothing without graceful restart itself.
fn long_lived(config: &SessionConfig, peer: &Open) -> Option<Vec<LongLived>> {
    let ours = config.graceful_restart?.long_lived?;
    let theirs = &peer.capabilities;
    theirs.graceful_restart.as_ref()?;
    let bounded = |l: &LongLived| LongLived {
        stale_time_secs: l.stale_time_secs.min(ours.max_stale_time_secs),
        ..*l
    };
    Some(theirs.long_lived.as_ref()?.iter().map(bounded).collect())
}

/// RFC 5492 section 3: the data names the capabilities that the peer lacks.
fn no_common_family(config: &SessionConfig) -> WireError {
    let mut data = BytesMut::new();
    for family in &config.families {
        data.put_slice(&[1, 4]);
        data.put_u16(family.afi());
        data.put_u16(family.safi().into());
    }
    WireError::with_data(
        Kind::OPEN_CAPABILITY,
        "the peer carries none of our families",
        &data,
    )
}
