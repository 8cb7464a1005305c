//! The metrics and where each comes from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_api::status::NodeStatus;
use margay_speaker::{PeerStatus, State, Totals};

use super::text::{Kind, Text};
use crate::dns::Responder;
use crate::status::StatusSource;
use crate::world::World;

/// Kernel clock ticks a second, the same on every Linux.
const TICKS: f64 = 100.0;

pub(super) async fn collect(source: &StatusSource) -> String {
    let mut text = Text::default();
    let status = source.collect().await;
    agent(&status, &mut text);
    if let Some(asked) = source.bgp.as_ref().and_then(|bgp| bgp.speaker()) {
        if let Ok(peers) = asked.queries.status().await {
            sessions(&peers, &mut text);
        }
        if let Ok(totals) = asked.queries.totals().await {
            tables(&totals, &mut text);
        }
    }
    addresses(&source.world.borrow(), &mut text);
    if let Some(responder) = &source.names {
        names(responder, &mut text);
    }
    process(&mut text);
    text.finish()
}

fn bit(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn agent(status: &NodeStatus, text: &mut Text) {
    let labels = vec![
        ("node", status.node.clone()),
        ("version", status.version.clone()),
    ];
    let help = "Constant 1, with the agent's version and node.";
    text.metric(Kind::Gauge, "margay_agent_info", help, [(labels, 1.0)]);
    let mut gauge =
        |name: &str, help: &str, value: f64| text.single(Kind::Gauge, name, help, value);
    gauge(
        "margay_agent_ready",
        "Whether everything local is programmed.",
        bit(status.ready),
    );
    gauge(
        "margay_agent_uptime_seconds",
        "Time since the agent started.",
        status.uptime_secs as f64,
    );
    gauge(
        "margay_datastore_connected",
        "Whether the watch of the datastore is up.",
        bit(status.datastore.connected),
    );
    gauge(
        "margay_datastore_state_seconds",
        "Time since that last changed.",
        status.datastore.since_secs as f64,
    );
    let dataplane = &status.dataplane;
    gauge(
        "margay_dataplane_endpoints",
        "Local endpoints programmed.",
        dataplane.endpoints as f64,
    );
    gauge(
        "margay_dataplane_routes",
        "Routes programmed: local, blackhole and learnt.",
        dataplane.routes as f64,
    );
    gauge(
        "margay_dataplane_failing",
        "Objects that the kernel refused and that are retried.",
        dataplane.failing.len() as f64,
    );
    gauge(
        "felix_active_local_endpoints",
        "Number of active endpoints on this host.",
        dataplane.endpoints as f64,
    );
    // 3: in sync; 1: waiting for the datastore to be ready.
    gauge(
        "felix_resync_state",
        "Current datastore state.",
        if status.datastore.connected { 3.0 } else { 1.0 },
    );
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
        for family in &peer.routes {
            if let Some((received, advertised)) = self.routes.get_mut(family.family.index()) {
                *received += u64::from(family.received);
                *advertised += family.advertised as u64;
            }
        }
    }
}

/// By name: each peer that a BGPPeer configures, and the whole mesh as `mesh`. A mesh of N nodes would
/// otherwise be N x N series in the cluster.
fn by_name(peers: &[PeerStatus]) -> BTreeMap<String, Session> {
    let mut all = BTreeMap::<String, Session>::new();
    for peer in peers {
        let name = match peer.name.starts_with("mesh ") {
            true => "mesh".to_owned(),
            false => peer.key.to_string(),
        };
        all.entry(name).or_default().add(peer);
    }
    all
}

fn sessions(peers: &[PeerStatus], text: &mut Text) {
    let all = by_name(peers);
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
    let watched = peers.iter().filter_map(|p| Some((p, p.bfd_up?)));
    let samples = watched.map(|(p, up)| (vec![("peer", p.key.to_string())], bit(up)));
    let help = "Whether BFD finds the path to work.";
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
        Kind::Counter,
        "margay_bgp_connections_refused_total",
        "Connections closed because their address had opened too many.",
        totals.connections_refused as f64,
    );
}

/// Addresses of this node's endpoints, by pool.
fn addresses(world: &World, text: &mut Text) {
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for pool in world.pools.iter() {
        used.insert(&pool.metadata.name, 0);
    }
    for endpoint in world.endpoints.values() {
        for net in &endpoint.resource.spec.ip_networks {
            let holds = |pool: &&margay_model::ippool::IpPool| contains(pool, net.addr());
            if let Some(pool) = world.pools.iter().find(holds) {
                *used.entry(&pool.metadata.name).or_default() += 1;
            }
        }
    }
    let samples = used
        .into_iter()
        .map(|(pool, count)| (vec![("ippool", pool.to_owned())], count as f64));
    let help = "Addresses of this node's endpoints, by the pool that they are in.";
    text.metric(Kind::Gauge, "margay_ipam_endpoint_addresses", help, samples);
}

fn names(responder: &Responder, text: &mut Text) {
    let help = "Endpoints that have a name in DNS.";
    let named = responder.named() as f64;
    text.single(Kind::Gauge, "margay_dns_endpoints", help, named);
    let samples = responder
        .counters()
        .all()
        .map(|(result, count)| (vec![("result", result.to_owned())], count as f64));
    let help = "DNS queries, by what became of them.";
    text.metric(Kind::Counter, "margay_dns_queries_total", help, samples);
}

fn contains(pool: &margay_model::ippool::IpPool, addr: IpAddr) -> bool {
    pool.spec.cidr.contains(addr)
}

/// What exporters of every language tell of their process.
fn process(text: &mut Text) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let stat = read("stat").unwrap_or_default();
    // The name of the command may hold blanks: count from behind it.
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').collect())
        .unwrap_or_default();
    let field = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(11), field(12)) {
        let help = "Total user and system CPU time spent in seconds.";
        let seconds = (user + system) / TICKS;
        text.single(Kind::Counter, "process_cpu_seconds_total", help, seconds);
    }
    let status = read("status").unwrap_or_default();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok());
    if let Some(kib) = kib {
        let help = "Resident memory size in bytes.";
        text.single(
            Kind::Gauge,
            "process_resident_memory_bytes",
            help,
            kib * 1024.0,
        );
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors.";
        text.single(Kind::Gauge, "process_open_fds", help, open.count() as f64);
    }
}
