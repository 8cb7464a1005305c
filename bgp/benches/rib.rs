//! The RIB under Internet-like load: taking in, interning, deciding, exporting.
//!
//! `ns per route` figures divide by the routes of a run; one million at the end tells the memory.

mod feed;

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use margay_bgp::{
    policy::Filter,
    prefix::{Family, Ipv4Prefix},
    rib::{Families, PeerId, PeerRibConfig, Rib, RibConfig, SessionInfo},
    wire::{
        MAX_LEN, NextHop, PeerKind, UpdateFrame, header,
        update_encode::{announce_v4, withdraw_v4},
    },
};

const LOCAL_AS: u32 = 65000;
const ROUTES: u32 = 100_000;

fn rib() -> Rib {
    let mut config = RibConfig::new(LOCAL_AS, Ipv4Addr::new(10, 0, 0, 99));
    config.fib = false;
    Rib::new(config)
}

fn peer_up(rib: &mut Rib, n: u32) -> PeerId {
    let all = Arc::new(Filter::accept_all());
    let peer = rib
        .add_peer(PeerRibConfig {
            import: Arc::clone(&all),
            export: all,
            next_hop_v4: Some(NextHop::V4(Ipv4Addr::new(198, 51, 100, 1))),
            ..PeerRibConfig::new(PeerKind::Ebgp, LOCAL_AS)
        })
        .expect("few peers");
    join(rib, peer, n);
    peer
}

fn join(rib: &mut Rib, peer: PeerId, n: u32) {
    let id = Ipv4Addr::from(0x0a00_0000 + n);
    let families = [Family::Ipv4Unicast].into_iter().collect::<Families>();
    let info = SessionInfo {
        families,
        ..SessionInfo::new(id, IpAddr::V4(id))
    };
    rib.peer_up(peer, info, Instant::now());
}

/// Takes updates in, settling after each piece as a read loop would.
fn apply(rib: &mut Rib, peer: PeerId, bodies: &[Bytes]) {
    for piece in bodies.chunks(512) {
        take_in(rib, peer, piece);
        rib.settle();
    }
}

fn take_in(rib: &mut Rib, peer: PeerId, bodies: &[Bytes]) {
    for body in bodies {
        let frame = UpdateFrame::split(body).expect("made by our encoder");
        rib.handle_update(peer, &frame)
            .expect("made by our encoder");
    }
}

fn transmit(rib: &mut Rib, peers: &[PeerId]) -> usize {
    let mut out = BytesMut::with_capacity(1 << 20);
    let mut octets = 0;
    for &peer in peers {
        while rib.poll_transmit(peer, &mut out, 256 << 10) {
            octets += out.len();
            out.clear();
        }
    }
    octets
}

fn start(readers: u32) -> (Rib, PeerId, Vec<PeerId>) {
    let mut rib = rib();
    let source = peer_up(&mut rib, 1);
    let readers: Vec<_> = (0..readers).map(|n| peer_up(&mut rib, 2 + n)).collect();
    transmit(&mut rib, &readers);
    (rib, source, readers)
}

fn benches(c: &mut Criterion) {
    let bodies = feed::announcements(65001, ROUTES);
    let gone = feed::withdrawals(ROUTES);
    let mut group = c.benchmark_group("rib_100k");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(ROUTES.into()));
    group.bench_function("apply_and_settle", |b| {
        b.iter_batched(
            || start(0),
            |(mut rib, source, _)| {
                apply(&mut rib, source, &bodies);
                rib
            },
            BatchSize::PerIteration,
        );
    });
    for readers in [1, 100] {
        group.bench_function(format!("apply_and_export_to_{readers}"), |b| {
            b.iter_batched(
                || start(readers),
                |(mut rib, source, readers)| {
                    apply(&mut rib, source, &bodies);
                    black_box(transmit(&mut rib, &readers));
                    rib
                },
                BatchSize::PerIteration,
            );
        });
    }
    let loaded = || {
        let (mut rib, source, readers) = start(1);
        apply(&mut rib, source, &bodies);
        transmit(&mut rib, &readers);
        (rib, source, readers)
    };
    group.bench_function("late_join", |b| {
        b.iter_batched(
            loaded,
            |(mut rib, ..)| {
                let late = peer_up(&mut rib, 1000);
                black_box(transmit(&mut rib, &[late]));
                rib
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("withdraw_all", |b| {
        b.iter_batched(
            loaded,
            |(mut rib, source, readers)| {
                apply(&mut rib, source, &gone);
                black_box(transmit(&mut rib, &readers));
                rib
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// The attributes of a message are looked up by their octets, and decoded when they are new.
fn interning(c: &mut Criterion) {
    const SETS: u32 = 20_000;
    let bodies = feed::packed(65001, SETS, |_| 1);
    let mut group = c.benchmark_group("rib_interning");
    group.sample_size(20).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(SETS.into()));
    let known = || {
        let (mut rib, source, _) = start(0);
        take_in(&mut rib, source, &bodies);
        (rib, source)
    };
    let new = || {
        let (rib, source, _) = start(0);
        (rib, source)
    };
    group.bench_function("new_sets", |b| {
        b.iter_batched_ref(
            new,
            |(rib, source)| take_in(rib, *source, &bodies),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("known_sets", |b| {
        b.iter_batched_ref(
            known,
            |(rib, source)| take_in(rib, *source, &bodies),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// One decision for each of as many prefixes, by the number of their paths.
fn best_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("rib_best_path");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(ROUTES.into()));
    for peers in [1, 2, 10] {
        let feeds: Vec<_> = (0..peers)
            .map(|n| feed::announcements(65001 + n, ROUTES))
            .collect();
        let undecided = || {
            let mut rib = rib();
            for (n, bodies) in (1..).zip(&feeds) {
                let peer = peer_up(&mut rib, n);
                take_in(&mut rib, peer, bodies);
            }
            rib
        };
        group.bench_function(format!("of_{peers}"), |b| {
            b.iter_batched_ref(undecided, Rib::settle, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// What is decided is encoded: once for all readers that are told the same, who then share the octets.
fn export(c: &mut Criterion) {
    let bodies = feed::announcements(65001, ROUTES);
    let mut group = c.benchmark_group("rib_export");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(ROUTES.into()));
    for readers in [1, 10, 100] {
        let decided = || {
            let (mut rib, source, readers) = start(readers);
            apply(&mut rib, source, &bodies);
            (rib, readers)
        };
        group.bench_function(format!("to_{readers}"), |b| {
            b.iter_batched_ref(
                decided,
                |(rib, readers)| black_box(transmit(rib, readers)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// One route comes and goes through a loaded table, from octets to octets.
fn one_route(c: &mut Criterion) {
    let (mut rib, source, readers) = start(1);
    apply(&mut rib, source, &feed::announcements(65001, ROUTES));
    transmit(&mut rib, &readers);
    let changes: Vec<Bytes> = (0..1000).flat_map(host_route).collect();
    let mut changes = changes.iter().cycle();
    let mut group = c.benchmark_group("rib_one_route");
    group.throughput(Throughput::Elements(1));
    group.bench_function("through_100k", |b| {
        b.iter(|| {
            let change = changes.next().map(std::slice::from_ref);
            take_in(&mut rib, source, change.unwrap_or_default());
            while rib.work() {}
            black_box(transmit(&mut rib, &readers))
        });
    });
    group.finish();
}

/// The UPDATE bodies that announce and withdraw the `n`th host route, which is none of the feed's.
fn host_route(n: u32) -> [Bytes; 2] {
    let prefix = Ipv4Prefix::new(n, 32);
    let (mut comes, mut goes) = (BytesMut::new(), BytesMut::new());
    let attrs = feed::octets(&feed::attrs(65001, 1));
    announce_v4(&attrs, prefix, MAX_LEN, &mut comes).expect("short attributes");
    withdraw_v4(prefix, MAX_LEN, &mut goes);
    [comes, goes].map(|message| message.freeze().slice(header::HEADER_LEN..))
}

/// One run with a million routes to two readers: time by phase, and memory.
#[expect(clippy::print_stderr, reason = "a benchmark reports to its user")]
fn million() {
    const MILLION: u32 = 1_000_000;
    let bodies = feed::announcements(65001, MILLION);
    let gone = feed::withdrawals(MILLION);
    let before = resident();
    let (mut rib, source, readers) = start(1);
    let ns = |start: u64| (cpu_ns() - start) / u64::from(MILLION);
    let clock = cpu_ns();
    for piece in bodies.chunks(512) {
        apply(&mut rib, source, piece);
        transmit(&mut rib, &readers);
    }
    let announce = ns(clock);
    let clock = cpu_ns();
    let late = peer_up(&mut rib, 1000);
    let octets = transmit(&mut rib, &[late]);
    let join = ns(clock);
    let size = rib.size();
    let resident_bytes = resident() - before;
    let clock = cpu_ns();
    for piece in gone.chunks(512) {
        apply(&mut rib, source, piece);
        transmit(&mut rib, &[readers[0], late]);
    }
    let withdraw = ns(clock);
    eprintln!(
        "1M routes, {} sets, CPU per route: announce in and out {announce} ns, late join {join} ns \
         ({octets} octets), withdraw in and 2 out {withdraw} ns; {} bytes counted, {} resident",
        size.attribute_sets,
        size.heap_bytes / MILLION as usize,
        resident_bytes / MILLION as usize,
    );
}

/// CPU time of this thread: what a busy machine does not distort.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ')
        .next()
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(0)
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|p| p.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    million();
    benches(&mut criterion);
    interning(&mut criterion);
    best_path(&mut criterion);
    export(&mut criterion);
    one_route(&mut criterion);
    criterion.final_summary();
}
