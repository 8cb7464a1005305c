//! What attaching and routing cost, in namespaces of the benchmark's own. Needs root.
//!
//! `floor` is the same changes handed to the kernel with no bookkeeping.
#![expect(clippy::print_stdout, reason = "a ratio is no figure of criterion's")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnetwork::IpNetwork;
use margay_dataplane::attach::{self, AttachSpec};
use margay_dataplane::netlink::Socket;
use margay_dataplane::route_table::{
    Action, Change, Config, KernelHop, KernelRoute, MAIN_TABLE, NextHop, PROTO_MARGAY, Route,
    RouteKernel, RouteTable,
};
use nix::sched::{CloneFlags, unshare};

const ROUTES: u32 = 100_000;
const BATCH: usize = 256;
const TURNS: usize = 21;

/// A namespace that lives as long as its thread; the path leads to it.
struct Container {
    path: PathBuf,
    _end: mpsc::Sender<()>,
}

impl Container {
    fn new() -> Self {
        let (ready, path) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
            let path = format!(
                "/proc/{}/task/{}/ns/net",
                std::process::id(),
                nix::unistd::gettid()
            );
            ready.send(path.into()).expect("the benchmark waits for it");
            // Ends when the other side is dropped.
            ended.recv().unwrap_or_default();
        });
        Self {
            path: path.recv().expect("the thread sends it first"),
            _end: end,
        }
    }
}

fn prefix(n: u32) -> IpNetwork {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)).into()
}

fn attach_and_remove(c: &mut Criterion) {
    let mut group = c.benchmark_group("attach");
    group.sample_size(10);
    let addresses: [IpAddr; 2] = [
        Ipv4Addr::new(10, 65, 0, 1).into(),
        "fd00:65::1".parse().expect("an address"),
    ];
    for (name, addresses) in [("v4", &addresses[..1]), ("dual", &addresses[..])] {
        group.bench_function(BenchmarkId::new("create", name), |b| {
            b.iter_custom(|rounds| attach_all(rounds, addresses));
        });
    }
    group.finish();
}

/// Namespaces are made before and removed after: the kernel cleans up in the background and would hold its lock.
fn attach_all(rounds: u64, addresses: &[IpAddr]) -> Duration {
    let containers: Vec<_> = (0..rounds).map(|_| Container::new()).collect();
    let names: Vec<_> = (0..rounds).map(|n| format!("mgy{n}")).collect();
    thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    for (container, name) in containers.iter().zip(&names) {
        attach::create(&spec(container, name), addresses).expect("attached");
    }
    let spent = start.elapsed();
    attach::remove_many(&names).expect("removed");
    drop(containers);
    thread::sleep(Duration::from_millis(300));
    spent
}

fn spec(container: &Container, host_ifname: &str) -> AttachSpec {
    AttachSpec {
        netns: container.path.clone(),
        container_ifname: "eth0".into(),
        host_ifname: host_ifname.into(),
        mtu: Some(1450),
        mtu_follows: false,
        container_mac: None,
        allow_spoofing: false,
        container_forwarding: None,
        ipv6: true,
        queues: None,
    }
}

fn routes(c: &mut Criterion) {
    let container = Container::new();
    let spec = spec(&container, "mgybench1");
    let link = attach::create(&spec, &[Ipv4Addr::new(192, 0, 2, 2).into()]).expect("attached");
    let mut table = RouteTable::open(Config::default()).expect("a socket");
    let gateway = Ipv4Addr::new(192, 0, 2, 2);
    table.set(IpAddr::from(gateway).into(), Route::device("mgybench1"));
    assert!(table.apply().failed.is_empty());
    let via: Route = Route::via([NextHop::new(gateway.into()).on("mgybench1")]);
    side_by_side(&mut table, &via, link.host_ifindex);
    let mut group = c.benchmark_group("routes_100k");
    group.sample_size(10);
    for (step, name) in ["add", "delete"].into_iter().enumerate() {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                (0..rounds)
                    .map(|_| up_and_down(&mut table, &via)[step])
                    .sum()
            });
        });
        group.bench_function(format!("{name}_floor"), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| floor(link.host_ifindex)[step]).sum());
        });
    }
    for n in 0..ROUTES {
        table.set(prefix(n), via.clone());
    }
    assert!(table.apply().failed.is_empty());
    group.bench_function("resync", |b| b.iter(|| table.resync().expect("dumped")));
    let one: IpNetwork = IpAddr::from(Ipv4Addr::new(192, 0, 2, 9)).into();
    group.bench_function("one_route_now", |b| {
        b.iter(|| {
            table.set(one, Route::device("mgybench1"));
            assert_eq!(table.apply_now(&[one]).added, 1);
            table.remove(one);
            assert_eq!(table.apply_now(&[one]).deleted, 1);
        });
    });
    group.finish();
    attach::remove("mgybench1").expect("removed");
}

/// Both in turns, because a machine is not as fast from one minute to the next.
fn side_by_side(table: &mut RouteTable, via: &Route, index: u32) {
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        let (ours, bare) = (up_and_down(table, via), floor(index));
        for (ratios, (ours, bare)) in ratios.iter_mut().zip(ours.into_iter().zip(bare)) {
            ratios.push(bare.as_secs_f64() / ours.as_secs_f64());
        }
    }
    let [adding, deleting] = ratios.map(|mut ratios| {
        ratios.sort_unstable_by(f64::total_cmp);
        100.0 * ratios[TURNS / 2]
    });
    println!("routes_100k: adding at {adding:.0} % of the bare loop, deleting at {deleting:.0} %");
}

/// How long adding took, and deleting.
fn up_and_down(table: &mut RouteTable, via: &Route) -> [Duration; 2] {
    let start = Instant::now();
    for n in 0..ROUTES {
        table.set(prefix(n), via.clone());
    }
    assert_eq!(table.apply().added, ROUTES as usize);
    let added = start.elapsed();
    let start = Instant::now();
    for n in 0..ROUTES {
        table.remove(prefix(n));
    }
    assert_eq!(table.apply().deleted, ROUTES as usize);
    [added, start.elapsed()]
}

fn floor(index: u32) -> [Duration; 2] {
    let gateway = Some(IpAddr::from(Ipv4Addr::new(192, 0, 2, 2)));
    let hop = KernelHop {
        gateway,
        index: Some(index),
        onlink: false,
        weight: 1,
    };
    let changes = |action| -> Vec<Change> {
        let route = |n| KernelRoute {
            prefix: prefix(n),
            protocol: PROTO_MARGAY,
            metric: 77,
            kind: 1,
            src: None,
            mtu: None,
            hops: vec![hop],
        };
        (0..ROUTES)
            .map(|n| Change {
                action,
                route: route(n),
            })
            .collect()
    };
    let mut socket = Socket::route().expect("a socket");
    let mut spent = [Duration::ZERO; 2];
    for (place, action) in [Action::Add, Action::Delete].into_iter().enumerate() {
        let changes = changes(action);
        let start = Instant::now();
        for batch in changes.chunks(BATCH) {
            let errors = RouteKernel::send(&mut socket, MAIN_TABLE, batch).expect("sent");
            assert!(errors.is_empty(), "{errors:?}");
        }
        spent[place] = start.elapsed();
    }
    spent
}

/// The benchmark's thread becomes a host of its own.
fn all(c: &mut Criterion) {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make namespaces");
    margay_dataplane::sysctl::host_forwarding_on().expect("a fresh namespace");
    attach_and_remove(c);
    routes(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
