//! What policy costs with each backend: to change it, and the packets that meet it. Needs root.
//!
//! Times are medians. Forwarding is told beside plain routing in the same namespaces, in turns.
//! `cargo bench -p margay-dataplane --bench policy [-- programming|forwarding]`

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot set up its lab has failed"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its figures are for people"
)]

#[path = "../tests/filter/lab.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod lab;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use lab::{
    LEGACY, Lab, NFT, Workload, allow_all, apply, endpoint, filter, ingress, inside, open_endpoint,
    tcp, tier,
};
use margay_dataplane::filter::{
    Action, Backend, Direction, Endpoint, Filter, SetId, SetKind, SetMember, SetSpec,
};

const BACKENDS: [Backend; 3] = [Backend::Nftables, NFT, LEGACY];
const ENDPOINTS: u32 = 250;
const MEMBERS: u32 = 10_000;
const POLICIES: [u32; 3] = [1, 1_000, 10_000];
/// Each round trip and connection is measured so often, in each of the rounds.
const ROUND_TRIPS: usize = 4_000;
const CONNECTIONS: usize = 400;
const ROUNDS: usize = 5;

fn main() {
    // Cargo adds options of its own.
    let words = std::env::args().skip(1);
    let wanted = words.into_iter().find(|word| !word.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    if wanted != "forwarding" {
        programming();
    }
    if wanted != "programming" {
        forwarding();
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A workload that has no container, with its own policy.
fn filler(n: u32) -> Endpoint {
    let address = IpAddr::from(Ipv4Addr::from(0x0a40_0000 + n));
    let workload = Workload {
        netns: String::new(),
        ifname: format!("mgyf{n}"),
        v4: address,
        v6: format!("fd00:64::{n:x}").parse().unwrap(),
    };
    let policy = format!("NetworkPolicy/filler/p{n}");
    endpoint(&workload, tier(&[&policy]), Direction::default())
}

fn add_filler(filter: &mut Filter, n: u32, set: Option<&SetId>) {
    let mut rule = tcp(Action::Allow, &[80, 443]);
    rule.src.sets.extend(set.cloned());
    let policy = format!("NetworkPolicy/filler/p{n}");
    filter.set_policy(policy.as_str().into(), ingress(vec![rule]));
    let id = format!("f{n}");
    filter.set_endpoint(id.as_str().into(), filler(n)).unwrap();
}

fn programming() {
    println!("{ENDPOINTS} endpoints with a policy each, 4 sets of {MEMBERS} members; medians");
    println!(
        "{:<16} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "", "initial", "policy", "member", "endpoint", "resync"
    );
    for backend in BACKENDS {
        let _lab = Lab::new();
        let mut filter = filter(backend);
        filter.set_profile("open".into(), allow_all());
        filter.allow_deletes();
        apply(&mut filter);
        let sets: Vec<SetId> = (0..4).map(|n| SetId::new(format!("s{n}"))).collect();
        for (set, base) in sets.iter().zip(0u32..) {
            let member = |n: u32| Ipv4Addr::from(0x1400_0000 + (base << 20) + 2 * n);
            let members: BTreeSet<SetMember> = (0..MEMBERS)
                .map(|n| SetMember::from(IpAddr::from(member(n))))
                .collect();
            let kind = SetKind::Nets;
            filter.set_ipset(set.clone(), SetSpec { kind, members });
        }
        for n in 0..ENDPOINTS {
            add_filler(&mut filter, n, Some(&sets[n as usize % sets.len()]));
        }
        let timed = |filter: &mut Filter| {
            let start = Instant::now();
            apply(filter);
            start.elapsed()
        };
        let initial = timed(&mut filter);
        let policy = (0..41u16).map(|n| {
            let mut rule = tcp(Action::Allow, &[1000 + n]);
            rule.src.sets = vec![sets[0].clone()];
            let id = "NetworkPolicy/filler/p7".into();
            filter.set_policy(id, ingress(vec![rule]));
            timed(&mut filter)
        });
        let policy = median(policy.collect());
        let member = (0..201u32).map(|n| {
            let member = SetMember::from(IpAddr::from(Ipv4Addr::from(0x1e00_0000 + 2 * n)));
            filter.update_ipset(&sets[1], [member], []);
            timed(&mut filter)
        });
        let member = median(member.collect());
        let attached = (0..101u32).map(|n| {
            let mut next = filler(ENDPOINTS + n);
            next.ingress = tier(&["NetworkPolicy/filler/p3"]);
            let id = format!("n{n}");
            filter.set_endpoint(id.as_str().into(), next).unwrap();
            timed(&mut filter)
        });
        let attached = median(attached.collect());
        let resync = (0..3).map(|_| {
            filter.resync();
            timed(&mut filter)
        });
        let resync = median(resync.collect());
        let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
        println!(
            "{:<16} {:>10} {:>10} {:>10} {:>10} {:>10}",
            backend.to_string(),
            ms(initial),
            ms(policy),
            ms(member),
            ms(attached),
            ms(resync)
        );
    }
}

/// Answers each byte with one until the connection ends.
fn echo(netns: &str, port: u16) {
    let listener = inside(netns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true).ok();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        }
    });
}

/// Medians of a round trip on an open connection, and of a whole connection with one byte each way.
fn probe(netns: &str, to: IpAddr) -> (Duration, Duration) {
    inside(netns, || {
        let connect = || {
            let stream = TcpStream::connect(SocketAddr::new(to, 80)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        };
        let trip = |stream: &mut TcpStream| {
            let start = Instant::now();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            start.elapsed()
        };
        let mut stream = connect();
        let trips = (0..ROUND_TRIPS).map(|_| trip(&mut stream)).collect();
        drop(stream);
        let connections = (0..CONNECTIONS).map(|_| {
            let start = Instant::now();
            trip(&mut connect());
            start.elapsed()
        });
        (median(trips), median(connections.collect()))
    })
}

fn forwarding() {
    println!(
        "container to container through the host; median of {ROUNDS} rounds, beside plain routing"
    );
    println!(
        "{:<16} {:>9} {:>22} {:>26}",
        "", "policies", "round trip (ratio)", "connection (ratio)"
    );
    for backend in BACKENDS {
        for policies in POLICIES {
            let mut lab = Lab::new();
            let (a, b) = (lab.workload(1), lab.workload(2));
            echo(&b.netns, 80);
            let mut filter = filter(backend);
            let mut plain = Vec::new();
            let mut filtered = Vec::new();
            let start = Instant::now();
            for round in 0..ROUNDS {
                // In turns: what the machine does besides changes all the time.
                plain.push(probe(&a.netns, b.v4));
                if round == 0 {
                    wanted(&mut filter, &a, &b, policies);
                }
                filter.set_profile("open".into(), allow_all());
                filter.allow_deletes();
                apply(&mut filter);
                filtered.push(probe(&a.netns, b.v4));
                if round + 1 < ROUNDS {
                    filter.clean().unwrap();
                    wanted(&mut filter, &a, &b, policies);
                }
                if start.elapsed() > Duration::from_secs(120) {
                    eprintln!("{backend}, {policies} policies: only {} rounds", round + 1);
                    break;
                }
            }
            let of = |probes: &[(Duration, Duration)]| {
                let (trips, connections) = probes.iter().copied().unzip();
                (median(trips), median(connections))
            };
            let (plain, filtered) = (of(&plain), of(&filtered));
            let told = |ours: Duration, plain: Duration| {
                let ratio = ours.as_secs_f64() / plain.as_secs_f64();
                format!("{:.1} us ({ratio:.2})", ours.as_secs_f64() * 1e6)
            };
            println!(
                "{:<16} {:>9} {:>22} {:>26}",
                backend.to_string(),
                policies,
                told(filtered.0, plain.0),
                told(filtered.1, plain.1)
            );
        }
    }
}

/// Two containers, the second with a policy, among so many others with policies.
fn wanted(filter: &mut Filter, a: &Workload, b: &Workload, policies: u32) {
    for workload in [a, b] {
        let id = workload.ifname.as_str().into();
        filter.set_endpoint(id, open_endpoint(workload)).unwrap();
    }
    filter.set_policy("web".into(), ingress(vec![tcp(Action::Allow, &[80])]));
    let shop = endpoint(b, tier(&["web"]), Direction::default());
    filter.set_endpoint(b.ifname.as_str().into(), shop).unwrap();
    for n in 1..policies {
        add_filler(filter, n, None);
    }
}
