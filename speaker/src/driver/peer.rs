//! One peer: its configuration, its session, its place in the RIB.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use margay_bgp::{
    prefix::{Family, Prefix},
    rib::{
        self, AddPathUse, LongLivedPeer, NextHopMode, PathLimit, PeerId, PeerRestart,
        PeerRibConfig, SessionInfo, Told,
    },
    session::{
        AddPathOffer, ConnId, Left, LocalLongLived, LocalRestart, Negotiated, Session,
        SessionConfig, State,
    },
    wire::{NextHop, PeerKind},
};
use tokio::task::AbortHandle;
use tracing::{Span, debug, info};

use crate::{
    config::{MaxPrefixesAction, PeerConfig, SpeakerConfig},
    driver::{
        events::{EventLog, usual_reason},
        link::LinkId,
        unnumbered::Watch,
    },
    handover::{PeerLeft, fnv1a},
    local_addrs::LocalAddrs,
    peer_key::PeerKey,
    view::{EventState, FamilyStatus, PathState, PeerStatus, SessionStatus},
    watch::WatchedPeer,
};

/// A configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) key: PeerKey,
    pub(super) config: PeerConfig,
    pub(super) session: Session,
    pub(super) rib: PeerId,
    pub(super) span: Span,
    /// Attempts to dial.
    pub(super) dials: HashMap<ConnId, AbortHandle>,
    /// Links by connection.
    pub(super) links: HashMap<ConnId, LinkId>,
    /// The link of the Established session.
    pub(super) established: Option<LinkId>,
    pub(super) local: LocalAddrs,
    /// The speaker asks all peers to prefer other paths.
    pub(super) draining: bool,
    pub(super) local_addr: Option<IpAddr>,
    since: SystemTime,
    up_at: Option<Instant>,
    established_count: u64,
    pub(super) last_error: Option<String>,
    pub(super) end_of_rib: [bool; 2],
    pub(super) updates_received: u64,
    pub(super) octets_sent: u64,
    pub(super) octets_received: u64,
    /// Attempts since the session was last up that left no connection behind: the loser of a collision is no
    /// failure.
    pub(super) failures: u32,
    /// What BFD finds of the path; `None` where it does not watch it.
    pub(super) path: Option<PathState>,
    /// The log has been told that the peer sends too much.
    pub(super) warned: bool,
    pub(super) events: EventLog,
    /// The state that the log has seen.
    seen_state: State,
    /// What ended a connection since then.
    pub(super) reason: Option<String>,
    /// The range that it connected from, if nothing else names it.
    pub(super) dynamic: Option<Prefix>,
    /// The router found on its interface, for a peer without an address.
    pub(super) neighbour: Option<SocketAddr>,
    /// Looks for that router.
    pub(super) watch: Option<Watch>,
    /// The Established session, as watchers know it.
    pub(super) watched: Option<std::sync::Arc<WatchedPeer>>,
}

impl Peer {
    pub(super) fn new(
        key: PeerKey,
        config: PeerConfig,
        speaker: &SpeakerConfig,
        rib: PeerId,
    ) -> Self {
        // Jitter only has to differ between peers and starts.
        let seed = RandomState::new().hash_one(key);
        Self {
            key,
            session: Session::new(session_config(&config, speaker), seed),
            span: tracing::info_span!("peer", %key, name = %config.name),
            config,
            rib,
            dials: HashMap::new(),
            links: HashMap::new(),
            established: None,
            local: LocalAddrs::default(),
            draining: speaker.graceful_shutdown,
            local_addr: None,
            since: SystemTime::now(),
            up_at: None,
            established_count: 0,
            last_error: None,
            end_of_rib: [false; 2],
            updates_received: 0,
            octets_sent: 0,
            octets_received: 0,
            failures: 0,
            path: None,
            warned: false,
            events: EventLog::default(),
            seen_state: State::Idle,
            reason: None,
            dynamic: None,
            neighbour: None,
            watch: None,
            watched: None,
        }
    }

    /// Where to dial; nowhere while that is not known.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        match self.key.unnumbered() {
            Some(_) => self.neighbour,
            None => self.key.target(),
        }
    }

    /// Whether a connection from `remote` to `local` may be the peer's.
    pub(super) fn is_at(&self, remote: SocketAddr, local: Option<IpAddr>) -> bool {
        let here = match (self.key.interface, remote) {
            (None, _) => self.key.addr == remote.ip(),
            (Some(interface), SocketAddr::V6(remote)) => {
                let addr = remote.ip();
                addr.is_unicast_link_local()
                    && (self.key.unnumbered().is_some() || self.key.addr == IpAddr::V6(*addr))
                    && interface.index() == Some(remote.scope_id())
            }
            (Some(_), SocketAddr::V4(_)) => false,
        };
        here && self.config.source.is_none_or(|s| Some(s) == local)
    }

    /// Its address, `::` while that is not known.
    fn addr(&self) -> IpAddr {
        self.neighbour.map_or(self.key.addr, |at| at.ip())
    }

    /// Logs the change of state since the last call, if there is one.
    pub(super) fn note_state(&mut self) {
        let (from, to) = (self.seen_state, self.session.state());
        let reason = self.reason.take();
        if from == to {
            return;
        }
        self.seen_state = to;
        let reason = reason.as_deref().unwrap_or_else(|| usual_reason(from, to));
        let news = self.events.note(
            self.key,
            (from.into(), to.into()),
            reason,
            SystemTime::now(),
        );
        self.span.in_scope(|| {
            // A peer that is away repeats itself every few seconds.
            if news {
                info!(%from, %to, reason, "state changed");
            } else {
                debug!(%from, %to, reason, "state changed");
            }
        });
    }

    /// Takes note of what BFD finds; nothing comes of it where it is not wanted.
    pub(super) fn note_path(&mut self, to: PathState, reason: &str) {
        let Some(from) = self.path.replace(to) else {
            self.path = None;
            return;
        };
        let now = SystemTime::now();
        self.events
            .note(self.key, (from.into(), to.into()), reason, now);
        self.span
            .in_scope(|| info!(from = %EventState::from(from), to = %EventState::from(to), reason, "path changed"));
    }

    pub(super) fn is_external(&self) -> bool {
        let session = self.session.config();
        session.is_external()
    }

    /// The address of ours that the session uses.
    pub(super) fn place(&mut self, local: Option<IpAddr>) {
        self.local_addr = local;
        self.local = match (local, self.key.interface) {
            (Some(addr), Some(interface)) => LocalAddrs::on(addr, interface),
            (Some(addr), None) => LocalAddrs::beside(addr),
            (None, _) => LocalAddrs::default(),
        };
    }

    /// What has to be the same for a connection to go on, as a number that depends on `seed`.
    pub(super) fn settings_print(&self, seed: u64) -> u64 {
        let PeerConfig {
            source,
            ttl,
            allow_own_as,
            password,
            ..
        } = &self.config;
        let plain = format!("{source:?} {ttl:?} {allow_own_as} {}", password.is_some());
        let key = password.as_ref().map_or("", |password| password.expose());
        fnv1a(fnv1a(seed, plain.as_bytes()), key.as_bytes())
    }

    /// What the next process has to know, but for connection and routes.
    pub(super) fn leave(&self, left: Left, ends: (SocketAddr, SocketAddr), seed: u64) -> PeerLeft {
        let (local, remote) = ends;
        PeerLeft {
            key: self.key,
            dynamic: self.dynamic.is_some(),
            local,
            remote,
            opens: [Bytes::new(), Bytes::new()],
            settings: self.settings_print(seed),
            outgoing: left.outgoing,
            hold: left.hold,
            since: self.since,
            uptime: self.up_at.map_or(Duration::ZERO, |at| at.elapsed()),
            established_count: self.established_count,
            updates_received: self.updates_received,
            octets: [self.octets_sent, self.octets_received],
            end_of_rib: self.end_of_rib,
            partial: Bytes::new(),
            unsent: Bytes::new(),
            received: Bytes::new(),
            told: [Told::default(), Told::default()],
            bfd: None,
        }
    }

    /// Goes on where another process was, `pause` ago.
    pub(super) fn mark_resumed(
        &mut self,
        link: LinkId,
        left: &PeerLeft,
        pause: Duration,
        now: Instant,
    ) {
        self.mark_up(link, now);
        self.since = left.since;
        self.up_at = now.checked_sub(left.uptime + pause).or(Some(now));
        self.established_count = left.established_count;
        self.end_of_rib = left.end_of_rib;
        self.updates_received = left.updates_received;
        [self.octets_sent, self.octets_received] = left.octets;
    }

    pub(super) fn mark_up(&mut self, link: LinkId, now: Instant) {
        self.established = Some(link);
        self.since = SystemTime::now();
        self.up_at = Some(now);
        self.established_count += 1;
        self.end_of_rib = [false; 2];
        self.failures = 0;
        self.warned = false;
    }

    pub(super) fn mark_down(&mut self) {
        self.established = None;
        self.since = SystemTime::now();
        self.up_at = None;
        self.local_addr = None;
        self.end_of_rib = [false; 2];
    }

    pub(super) fn status(&self, rib: &rib::Rib, now: Instant) -> PeerStatus {
        let session = self.session.config();
        let stats = rib.peer_stats(self.rib);
        PeerStatus {
            key: self.key,
            name: self.config.name.clone(),
            dynamic: self.dynamic.is_some(),
            remote_as: self.remote_as().unwrap_or(0),
            local_as: session.local_as,
            state: self.session.state(),
            since: self.since,
            uptime: self.up_at.map(|at| now.duration_since(at)),
            established_count: self.established_count,
            last_error: self.last_error.clone(),
            session: self
                .session
                .negotiated()
                .zip(self.local_addr)
                .map(|(n, local_addr)| session_status(n, local_addr)),
            routes: self
                .config
                .families
                .iter()
                .map(|&family| FamilyStatus {
                    family,
                    received: rib.prefix_count(self.rib, family),
                    advertised: rib.advertised_count(self.rib, family),
                    end_of_rib: self.end_of_rib.get(family.index()).is_some_and(|e| *e),
                })
                .collect(),
            bfd_up: self.path.map(|path| path == PathState::Up),
            updates_received: self.updates_received,
            octets_sent: self.octets_sent,
            octets_received: self.octets_received,
            treated_as_withdraw: stats.treated_as_withdraw,
            attribute_discards: stats.attribute_discards,
        }
    }

    /// The peer's AS, once it is known.
    fn remote_as(&self) -> Option<u32> {
        let said = self.session.negotiated().map(|n| n.peer.asn);
        said.or(self.session.config().remote_as)
    }

    /// The peer's settings for the RIB, with the addresses of the interface in use.
    pub(super) fn rib_config(&self) -> PeerRibConfig {
        let session = self.session.config();
        let mut config = rib_config(&self.config, session, self.local, self.draining);
        if config.as_override.is_some() {
            config.as_override = self.remote_as();
        }
        let negotiated = self.session.negotiated();
        let can = negotiated.is_some_and(|n| n.extended_next_hop);
        if let (Some(_), Some(addr)) = (self.key.interface, self.local.link_local) {
            // Nothing but the link is known to be common ground.
            let ours = NextHop::V6 {
                global: addr,
                link_local: Some(addr),
            };
            let global = self.config.next_hop_v6;
            config.next_hop_v6 = Some(global.map_or(ours, |global| NextHop::V6 {
                global,
                link_local: Some(addr),
            }));
            config.next_hop_v4 = self.config.next_hop_v4.map(NextHop::V4);
        }
        if can && self.key.addr.is_ipv6() && self.config.next_hop_v4.is_none() {
            // An IPv4 address of another interface would lead the peer astray.
            config.next_hop_v4 = config.next_hop_v6;
        }
        config
    }

    fn offers_long_lived(&self) -> bool {
        let restart = self.session.config().graceful_restart;
        restart.is_some_and(|restart| restart.long_lived.is_some())
    }

    /// What the RIB has to know of the session.
    pub(super) fn session_info(&self, negotiated: &Negotiated) -> SessionInfo {
        let scope = if self.is_external() || self.key.interface.is_some() {
            self.local.ifindex
        } else {
            0
        };
        SessionInfo {
            four_octet_as: negotiated.four_octet_as,
            families: negotiated.families.iter().copied().collect(),
            max_message_len: negotiated.max_message_len,
            extended_next_hop: negotiated.extended_next_hop,
            enhanced_refresh: negotiated.enhanced_route_refresh,
            router_id: negotiated.peer.id,
            peer_addr: self.addr(),
            scope,
            interface: self.local.name(),
            add_path: AddPathUse {
                send: negotiated.paths_sent.iter().copied().collect(),
                receive: negotiated.paths_received.iter().copied().collect(),
            },
            long_lived: self.offers_long_lived().then(|| LongLivedPeer {
                capable: negotiated.long_lived.is_some(),
                partial: self.config.long_lived.is_some_and(|l| l.partial_deployment),
                forwarding: Family::ALL
                    .into_iter()
                    .filter(|f| negotiated.long_lived_preserved(*f))
                    .collect(),
            }),
            restart: negotiated.graceful_restart.as_ref().map(|g| PeerRestart {
                restarting: g.restarting,
                forwarding: Family::ALL
                    .into_iter()
                    .filter(|f| negotiated.forwarding_preserved(*f))
                    .collect(),
            }),
        }
    }
}

pub(super) fn rib_config(
    config: &PeerConfig,
    session: &SessionConfig,
    local: LocalAddrs,
    draining: bool,
) -> PeerRibConfig {
    let kind = if session.is_external() {
        PeerKind::Ebgp
    } else {
        PeerKind::Ibgp
    };
    let v6 = config.next_hop_v6.or(local.v6);
    PeerRibConfig {
        kind,
        local_as: session.local_as,
        rr_client: config.route_reflector_client,
        graceful_shutdown: config.graceful_shutdown || draining,
        next_hop_mode: match config {
            _ if config.next_hop_keep => NextHopMode::Keep,
            _ if config.next_hop_self => NextHopMode::SelfAlways,
            _ => NextHopMode::Auto,
        },
        next_hop_v4: config.next_hop_v4.or(local.v4).map(NextHop::V4),
        next_hop_v6: match (v6, local.link_local, kind) {
            // RFC 2545 section 3: the link-local address is for peers on the link.
            (Some(global), link_local, PeerKind::Ebgp) => Some(NextHop::V6 { global, link_local }),
            (Some(global), _, PeerKind::Ibgp) => Some(NextHop::V6 {
                global,
                link_local: None,
            }),
            (None, Some(local), PeerKind::Ebgp) => Some(NextHop::V6 {
                global: local,
                link_local: Some(local),
            }),
            (None, _, _) => None,
        },
        allow_own_as: config.allow_own_as,
        as_override: config.as_override.then_some(session.remote_as.unwrap_or(0)),
        remove_private_as: config.remove_private_as,
        paths_sent: config.add_path.send.unwrap_or(PathLimit::All),
        import: config.import.compile(),
        export: config.export.compile(),
    }
}

pub(super) fn session_config(config: &PeerConfig, speaker: &SpeakerConfig) -> SessionConfig {
    let local_as = config.local_as.unwrap_or(speaker.local_as);
    SessionConfig {
        local_as,
        local_id: speaker.router_id,
        remote_as: config.remote_as.number(local_as),
        hold_time_secs: config.hold_time_secs,
        keepalive_secs: config.keepalive_secs,
        send_hold: config
            .send_hold_secs
            .map(|secs| Duration::from_secs(secs.into())),
        connect_retry: Duration::from_secs(config.connect_retry_secs.into()),
        passive: config.passive,
        families: config.families.clone(),
        graceful_restart: speaker.graceful_restart.map(|g| LocalRestart {
            restart_time_secs: config.restart_time_secs.unwrap_or(g.restart_time_secs),
            restarting: g.restarting,
            long_lived: config.long_lived.map(|long| LocalLongLived {
                stale_time_secs: long.stale_time_secs,
                max_stale_time_secs: long.max_stale_time_secs.unwrap_or(long.stale_time_secs),
            }),
        }),
        extended_messages: config.extended_messages,
        extended_next_hop: config.extended_next_hop,
        add_path: AddPathOffer {
            send: config.add_path.send.is_some(),
            receive: config.add_path.receive,
        },
    }
}

fn session_status(negotiated: &Negotiated, local_addr: IpAddr) -> SessionStatus {
    let capabilities = [
        (negotiated.four_octet_as, "four-octet AS"),
        (negotiated.route_refresh, "route refresh"),
        (negotiated.enhanced_route_refresh, "enhanced route refresh"),
        (negotiated.extended_next_hop, "extended next hop"),
        (!negotiated.paths_sent.is_empty(), "several paths sent"),
        (
            !negotiated.paths_received.is_empty(),
            "several paths received",
        ),
        (negotiated.graceful_restart.is_some(), "graceful restart"),
        (
            negotiated.long_lived.is_some(),
            "long-lived graceful restart",
        ),
        (
            negotiated.survives_notification(),
            "graceful restart on NOTIFICATION",
        ),
        (
            negotiated.max_message_len > margay_bgp::wire::MAX_LEN,
            "extended messages",
        ),
    ];
    SessionStatus {
        peer_id: negotiated.peer.id,
        local_addr,
        hold_time: negotiated.hold_time,
        keepalive: negotiated.keepalive,
        families: negotiated.families.clone(),
        capabilities: capabilities
            .into_iter()
            .filter_map(|(on, name)| on.then_some(name))
            .collect(),
    }
}

/// Whether what a session was opened with differs, so that only a new one will do.
pub(super) fn needs_reset(
    (old, old_session): (&PeerConfig, &SessionConfig),
    (new, new_session): (&PeerConfig, &SessionConfig),
) -> bool {
    let transport = |c: &PeerConfig| {
        let stopped = (
            c.max_prefixes,
            c.max_prefixes_action == MaxPrefixesAction::Stop,
        );
        // A peer that was stopped gets another chance.
        let stopped = stopped.1.then_some(stopped);
        (c.source, c.ttl, c.password.clone(), c.allow_own_as, stopped)
    };
    // These matter to the next connection only, or to none.
    let comparable = |s: &SessionConfig| SessionConfig {
        passive: false,
        send_hold: None,
        connect_retry: Duration::ZERO,
        graceful_restart: s.graceful_restart.map(|g| LocalRestart {
            restarting: false,
            ..g
        }),
        ..s.clone()
    };
    transport(old) != transport(new) || comparable(old_session) != comparable(new_session)
}
