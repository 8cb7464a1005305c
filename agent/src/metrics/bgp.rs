//! Sessions and tables of the BGP speaker.

use std::collections::BTreeMap;

use margay_speaker::{PeerStatus, State, Totals};

use super::bit;
use super::text::{Kind, Text};
use crate::status::StatusSource;

pub(super) async fn collect(source: &StatusSource, text: &mut Text) {
    let Some(asked) = source.bgp.as_ref().and_then(|bgp| bgp.speaker()) else {
        return;
    };
    if let Ok(peers) = asked.queries.status().await {
        sessions(&peers, text);
    }
    if let Ok(totals) = asked.queries.totals().await {
        tables(&totals, text);
    }
}

/// Counters and gauges of one peer, or of all that are taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Session {
    peers: u64,
    up: u64,
    established: u64,
    updates: u64,
    received: u64,
    sent: u64,
    withdrawn: u64,
    discarded: u64,
    /// Whether BFD finds all paths to work; none where it watches none.
    paths_up: Option<bool>,
    /// By family: received, advertised.
    routes: [(u64, u64); 2],
}

impl Session {
    fn add(&mut self, peer: &PeerStatus) {
        self.peers += 1;
        self.up += u64::from(peer.state == State::Established);
        self.established += peer.established_count;
        self.updates += peer.updates_received;
        self.received += peer.octets_received;
        self.sent += peer.octets_sent;
        self.withdrawn += peer.treated_as_withdraw;
        self.discarded += peer.attribute_discards;
        if let Some(up) = peer.bfd_up {
            self.paths_up = Some(up && self.paths_up.unwrap_or(true));
        }
        for family in &peer.routes {
            if let Some((received, advertised)) = self.routes.get_mut(family.family.index()) {
                *received += u64::from(family.received);
                *advertised += family.advertised as u64;
            }
        }
    }
}

/// The name of a peer's series: its own if a BGPPeer names it, else that of all whom the BGPPeer selects
/// or takes connections from, or `mesh`. N nodes that all peer would otherwise be N x N series in the
/// cluster, and whoever connects would be one.
fn series(peer: &PeerStatus) -> String {
    match peer.name.split_once(' ') {
        // "mesh NODE", or "BGPPEER NODE".
        Some((many, _node)) => many.to_owned(),
        None if peer.dynamic => peer.name.clone(),
        None => peer.key.to_string(),
    }
}

fn by_series(peers: &[PeerStatus]) -> BTreeMap<String, Session> {
    let mut all = BTreeMap::<String, Session>::new();
    for peer in peers {
        all.entry(series(peer)).or_default().add(peer);
    }
    all
}

fn sessions(peers: &[PeerStatus], text: &mut Text) {
    let all = by_series(peers);
    let mut metric = |kind, name: &str, help: &str, value: fn(&Session) -> u64| {
        let sample = |(name, session): (&String, &Session)| {
            (vec![("peer", name.clone())], value(session) as f64)
        };
        text.metric(kind, name, help, all.iter().map(sample));
    };
    let (gauge, counter) = (Kind::Gauge, Kind::Counter);
    metric(gauge, "margay_bgp_peers", "Configured sessions.", |s| {
        s.peers
    });
    metric(
        gauge,
        "margay_bgp_sessions_up",
        "Established sessions.",
        |s| s.up,
    );
    metric(
        counter,
        "margay_bgp_established_total",
        "How often sessions were established.",
        |s| s.established,
    );
    metric(
        counter,
        "margay_bgp_updates_received_total",
        "UPDATE messages received.",
        |s| s.updates,
    );
    metric(
        counter,
        "margay_bgp_received_bytes_total",
        "Octets received, all messages.",
        |s| s.received,
    );
    metric(
        counter,
        "margay_bgp_sent_bytes_total",
        "Octets of UPDATE messages sent.",
        |s| s.sent,
    );
    metric(
        counter,
        "margay_bgp_treated_as_withdraw_total",
        "UPDATE messages whose routes were treated as withdrawn (RFC 7606).",
        |s| s.withdrawn,
    );
    metric(
        counter,
        "margay_bgp_attribute_discards_total",
        "UPDATE messages of which an attribute was discarded (RFC 7606).",
        |s| s.discarded,
    );
    let families = ["ipv4-unicast", "ipv6-unicast"];
    let mut routes = |name: &str, help: &str, value: fn(&(u64, u64)) -> u64| {
        let samples = all.iter().flat_map(|(peer, session)| {
            families
                .iter()
                .zip(&session.routes)
                .map(|(family, routes)| {
                    let labels = vec![("peer", peer.clone()), ("family", (*family).to_owned())];
                    (labels, value(routes) as f64)
                })
        });
        text.metric(Kind::Gauge, name, help, samples);
    };
    routes("margay_bgp_routes_received", "Routes held of peers.", |r| {
        r.0
    });
    routes(
        "margay_bgp_routes_advertised",
        "Routes told to peers.",
        |r| r.1,
    );
    let watched = all.iter().filter_map(|(name, s)| Some((name, s.paths_up?)));
    let samples = watched.map(|(name, up)| (vec![("peer", name.clone())], bit(up)));
    let help = "Whether BFD finds the path to work; of several, all of them.";
    text.metric(Kind::Gauge, "margay_bfd_up", help, samples);
}

fn tables(totals: &Totals, text: &mut Text) {
    let rib = &totals.rib;
    for (name, help, value) in [
        ("margay_bgp_prefixes", "Prefixes with a path.", rib.prefixes),
        (
            "margay_bgp_attribute_sets",
            "Distinct attribute sets.",
            rib.attribute_sets,
        ),
        (
            "margay_bgp_table_bytes",
            "Memory of prefixes, paths and attributes.",
            rib.heap_bytes,
        ),
        (
            "margay_bgp_unsent_bytes",
            "Octets encoded that some peer has yet to take.",
            rib.egress_bytes,
        ),
    ] {
        text.single(Kind::Gauge, name, help, value as f64);
    }
    text.single(
        Kind::Gauge,
        "margay_bgp_longest_turn_seconds",
        "Longest time of late for which the speaker served no session.",
        totals.longest_turn.as_secs_f64(),
    );
    text.single(
        Kind::Counter,
        "margay_bgp_connections_refused_total",
        "Connections closed because their address had opened too many.",
        totals.connections_refused as f64,
    );
}
