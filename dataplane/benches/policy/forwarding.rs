//! Packets from container to container through the host, beside plain routing, and plain routing where the kernel tracks
//! connections: what a host pays in any case that knows new connections from old ones. In turns, in the same namespaces:
//! what the machine does besides changes all the time.
//!
//! A round trip has two packets, four system calls, and two ends that wake each other up. "Packet" is half of one between
//! two ends of one thread: without the waking, so that what the rules cost is a larger part of it.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use margay_dataplane::filter::{Action, Backend, Direction, Filter};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    add_filler,
    lab::{
        Lab, Workload, allow_all, apply, endpoint, filter, ingress, inside, open_endpoint,
        run as shell, tcp, tier,
    },
    median,
};

/// On the host; with none the two containers have profiles alone.
const POLICIES: [u32; 3] = [0, 1_000, 10_000];
/// Each is measured so often, in each of the rounds.
const ROUND_TRIPS: usize = 4_000;
const CONNECTIONS: usize = 400;
const ROUNDS: usize = 5;
/// How long as much is sent as goes.
const FLOOD: Duration = Duration::from_millis(200);

/// Packets there and back that are timed together: the clock is no part of what is measured.
const TOGETHER: u32 = 20;
const PASSAGES: usize = 400;

const ECHO: u16 = 80;
const SINK: u16 = 81;
const DIRECT: u16 = 82;

/// Who waits for an answer and who gives it share a processor, so that a trip is the packets' way and no interrupt of
/// another processor; what is sent in bulk goes to another one.
const NEAR: usize = 0;
const FAR: usize = 1;

/// For one backend and number of policies.
const LIMIT: Duration = Duration::from_secs(120);

/// What one round found.
struct Found {
    packet: Duration,
    round_trip: Duration,
    connection: Duration,
    /// In Gb/s.
    throughput: f64,
}

/// Medians of several rounds.
struct Summary {
    /// In microseconds.
    packet: f64,
    round_trip: f64,
    connection: f64,
    throughput: f64,
}

pub(crate) fn run(backends: &[Backend]) {
    println!(
        "container to container through the host; medians of {ROUNDS} rounds; in brackets the ratios to plain \
         routing, and to plain routing with connections tracked"
    );
    println!(
        "{:<16} {:>8} {:>22} {:>22} {:>22} {:>24} {:>14}",
        "", "policies", "packet", "round trip", "connection", "throughput", "put in place"
    );
    for backend in backends.iter().copied() {
        for policies in POLICIES {
            let ([plain, tracked, ours], programmed) = compare(backend, policies);
            let told = |of: fn(&Summary) -> f64, unit: &str, digits: usize| {
                let (ours, plain, tracked) = (of(&ours), of(&plain), of(&tracked));
                format!(
                    "{ours:.digits$} {unit} ({:.2}, {:.2})",
                    ours / plain,
                    ours / tracked
                )
            };
            println!(
                "{:<16} {:>8} {:>22} {:>22} {:>22} {:>24} {:>12.3} s",
                backend.to_string(),
                policies,
                told(|s| s.packet, "us", 2),
                told(|s| s.round_trip, "us", 1),
                told(|s| s.connection, "us", 1),
                told(|s| s.throughput, "Gb/s", 1),
                programmed.as_secs_f64(),
            );
        }
    }
}

/// Plain routing, the same with connections tracked, and ours; and how long it took to get there.
fn compare(backend: Backend, policies: u32) -> ([Summary; 3], Duration) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    serve(&b.netns);
    let probe = || probe(&a.netns, &b.netns, b.v4);
    let mut found: [Vec<Found>; 3] = [const { Vec::new() }; 3];
    let mut filter = filter(backend);
    let mut programmed = Vec::new();
    let start = Instant::now();
    for round in 1..=ROUNDS {
        found[0].push(probe());
        shell(
            "nft 'add table inet tracked; add chain inet tracked forward { type filter hook forward priority 0; }; \
             add rule inet tracked forward ct state established,related accept'",
        );
        found[1].push(probe());
        shell("nft delete table inet tracked");
        want(&mut filter, &a, &b, policies);
        let begin = Instant::now();
        apply(&mut filter);
        programmed.push(begin.elapsed());
        found[2].push(probe());
        filter.clean().unwrap();
        if start.elapsed() > LIMIT {
            eprintln!("{backend}, {policies} policies: only {round} rounds");
            break;
        }
    }
    let found = found.map(|rounds| Summary::of(&rounds));
    (found, median(programmed))
}

impl Summary {
    fn of(rounds: &[Found]) -> Self {
        let micros = |of: fn(&Found) -> Duration| {
            median(rounds.iter().map(of).collect()).as_secs_f64() * 1e6
        };
        let mut throughput: Vec<f64> = rounds.iter().map(|found| found.throughput).collect();
        throughput.sort_unstable_by(f64::total_cmp);
        Self {
            packet: micros(|found| found.packet),
            round_trip: micros(|found| found.round_trip),
            connection: micros(|found| found.connection),
            throughput: throughput[throughput.len() / 2],
        }
    }
}

/// Two containers, the second with one of so many policies, the others with the rest.
fn want(filter: &mut Filter, a: &Workload, b: &Workload, policies: u32) {
    filter.set_profile("open".into(), allow_all());
    for workload in [a, b] {
        let id = workload.ifname.as_str().into();
        filter.set_endpoint(id, open_endpoint(workload)).unwrap();
    }
    if policies > 0 {
        let allowed = tcp(Action::Allow, &[ECHO, SINK, DIRECT]);
        filter.set_policy("web".into(), ingress(vec![allowed]));
        let shop = endpoint(b, tier(&["web"]), Direction::default());
        filter.set_endpoint(b.ifname.as_str().into(), shop).unwrap();
    }
    for n in 1..policies {
        add_filler(filter, n, None);
    }
    filter.allow_deletes();
}

/// Answers each byte with one, on the other port takes whatever comes and answers its end, until connections end.
fn serve(netns: &str) {
    let bind = |port: u16| inside(netns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
    let (echo, sink) = (bind(ECHO), bind(SINK));
    thread::spawn(move || {
        stay_on(NEAR);
        while let Ok((mut stream, _)) = echo.accept() {
            stream.set_nodelay(true).ok();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        }
    });
    thread::spawn(move || {
        stay_on(FAR);
        let mut buffer = vec![0; 1 << 18];
        while let Ok((mut stream, _)) = sink.accept() {
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
            stream.write_all(b"x").ok();
        }
    });
}

fn probe(netns: &str, to_netns: &str, to: IpAddr) -> Found {
    let packet = passage(netns, to_netns, to);
    inside(netns, || {
        stay_on(NEAR);
        let mut stream = connect(to, ECHO);
        let trips = (0..ROUND_TRIPS).map(|_| trip(&mut stream)).collect();
        drop(stream);
        let connections = (0..CONNECTIONS).map(|_| {
            let start = Instant::now();
            trip(&mut connect(to, ECHO));
            start.elapsed()
        });
        Found {
            packet,
            round_trip: median(trips),
            connection: median(connections.collect()),
            throughput: flood(connect(to, SINK)),
        }
    })
}

/// What a packet takes from one container to the other, one small write and read at its ends with it. Both ends belong to
/// one thread, so that nobody has to be woken up: what is left is the packet's way.
fn passage(netns: &str, to_netns: &str, to: IpAddr) -> Duration {
    let at = SocketAddr::new(to, DIRECT);
    let listener = inside(to_netns, || TcpListener::bind(at).unwrap());
    let mut near = inside(netns, || connect(to, DIRECT));
    let (mut far, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    let mut there_and_back = || {
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        far.write_all(b"x").unwrap();
        near.read_exact(&mut [0]).unwrap();
    };
    let timed = || {
        stay_on(NEAR);
        let times = (0..PASSAGES).map(|_| {
            let start = Instant::now();
            (0..TOGETHER).for_each(|_| there_and_back());
            start.elapsed() / (2 * TOGETHER)
        });
        median(times.collect())
    };
    thread::scope(|scope| scope.spawn(timed).join().unwrap())
}

/// Where there is but one processor, everything is there in any case.
fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).ok();
}

fn connect(to: IpAddr, port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::new(to, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn trip(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    start.elapsed()
}

/// Gb/s until all has come.
fn flood(mut stream: TcpStream) -> f64 {
    let data = vec![0; 1 << 18];
    let mut sent = 0_usize;
    let start = Instant::now();
    while start.elapsed() < FLOOD {
        stream.write_all(&data).unwrap();
        sent += data.len();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    8e-9 * sent as f64 / start.elapsed().as_secs_f64()
}
