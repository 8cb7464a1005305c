//! A host in a network namespace with workloads and an outside neighbour, each in its own.

use std::{
    fs::File,
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use margay_dataplane::filter::{
    Action, Backend, Config, Direction, Endpoint, EndpointId, Filter, Limits, PolicyId,
    PolicyRules, ProfileId, Rule, Tier, TierDefault, Variant, Wish,
};
use nix::sched::{CloneFlags, setns};

pub(crate) const NFT: Backend = Backend::Iptables(Variant::Nft);
pub(crate) const LEGACY: Backend = Backend::Iptables(Variant::Legacy);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long a connection attempt that should fail is given: what passes does so within a system call.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a server may take to get to a processor.
const SERVED: Duration = Duration::from_secs(20);

/// One host. The calling thread is inside of its namespace until the lab is dropped.
pub(crate) struct Lab {
    prefix: String,
    pub(crate) host: String,
    namespaces: Vec<String>,
    home: File,
}

pub(crate) struct Workload {
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {text}{errors}");
    text
}

impl Lab {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("mgyf{}x{number}", std::process::id());
        let host = format!("{prefix}h");
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        let lab = Self {
            prefix,
            host: host.clone(),
            namespaces: vec![host.clone()],
            home,
        };
        run(&format!(
            "ip netns add {host} && ip -n {host} link set lo up"
        ));
        enter(&host);
        run(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
             net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.rp_filter=0 \
             net.ipv4.conf.default.rp_filter=0",
        );
        lab
    }

    fn netns(&mut self, suffix: &str) -> String {
        let name = format!("{}{suffix}", self.prefix);
        run(&format!(
            "ip netns add {name} && ip -n {name} link set lo up"
        ));
        run(&format!(
            "ip netns exec {name} sysctl -qw net.ipv6.conf.default.accept_dad=0"
        ));
        self.namespaces.push(name.clone());
        name
    }

    /// A workload with 10.65.0.N and fd00:65::N behind `mgyN`.
    pub(crate) fn workload(&mut self, n: u8) -> Workload {
        let netns = self.netns(&format!("w{n}"));
        let ifname = format!("mgy{n}");
        let (v4, v6) = (format!("10.65.0.{n}"), format!("fd00:65::{n}"));
        run(&format!(
            "set -e; h={host} c={netns}
             ip link add {ifname} type veth peer name eth0 netns $c
             ip link set {ifname} address ee:ee:ee:ee:ee:ee up
             ip -n $c link set eth0 address 02:00:00:00:00:{n:02x} up
             ip -n $c addr add {v4}/32 dev eth0; ip -n $c addr add {v6}/128 dev eth0 nodad
             ip -n $c route add 169.254.1.1 dev eth0
             ip -n $c neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0
             ip -n $c route add default via 169.254.1.1 dev eth0
             ip -n $c -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0
             ip -n $c neigh add fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee dev eth0
             ip route add {v4} dev {ifname}; ip -6 route add {v6} dev {ifname}
             ip neigh replace {v6} lladdr 02:00:00:00:00:{n:02x} dev {ifname}
             until ip -n $c -6 route show table local | grep -q '{v6} '; do sleep 0.01; done",
            host = self.host,
        ));
        Workload {
            netns,
            ifname,
            v4: v4.parse().unwrap(),
            v6: v6.parse().unwrap(),
        }
    }

    /// A neighbour 192.0.2.2 / 2001:db8::2 beyond the host's `up0`, without routes to workloads.
    pub(crate) fn outside(&mut self) -> String {
        let netns = self.netns("o");
        run(&format!(
            "set -e; c={netns}
             ip link add up0 type veth peer name eth0 netns $c
             ip link set up0 address 02:00:00:00:01:01 up
             ip -n $c link set eth0 address 02:00:00:00:01:02 up
             ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad
             ip -n $c addr add 192.0.2.2/24 dev eth0
             ip -n $c addr add 2001:db8::2/64 dev eth0 nodad
             ip neigh replace 2001:db8::2 lladdr 02:00:00:00:01:02 dev up0
             ip -n $c neigh replace 2001:db8::1 lladdr 02:00:00:00:01:01 dev eth0
             until ip -n $c -6 route show table local | grep -q '2001:db8::2 '; do sleep 0.01; done
             until ip -6 route show table local | grep -q '2001:db8::1 '; do sleep 0.01; done"
        ));
        netns
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Clean-up goes on after a failure, so nothing here may panic.
        let left = setns(&self.home, CloneFlags::CLONE_NEWNET);
        for name in &self.namespaces {
            let deleted = Command::new("ip").args(["netns", "del", name]).status();
            if left.is_err() || !deleted.is_ok_and(|status| status.success()) {
                eprintln!("namespace {name} not removed");
            }
        }
    }
}

fn enter(netns: &str) {
    let file = File::open(format!("/run/netns/{netns}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// Runs `work` inside of another namespace.
pub(crate) fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    let body = || {
        enter(netns);
        work()
    };
    thread::scope(|scope| scope.spawn(body).join().unwrap())
}

/// A TCP server that answers each connection with the address it sees.
pub(crate) struct Server(Arc<AtomicBool>);

pub(crate) fn serve(netns: &str, ports: &[u16]) -> Server {
    let stop = Arc::new(AtomicBool::new(false));
    for port in ports {
        let listener = inside(netns, || TcpListener::bind(("::", *port)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, peer)) => {
                        let text = peer.ip().to_canonical().to_string();
                        // The client may have left already.
                        drop(std::io::Write::write_all(&mut stream, text.as_bytes()));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    }
    Server(stop)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects; gives the address that the server saw.
pub(crate) fn connect(netns: &str, to: IpAddr, port: u16) -> Option<IpAddr> {
    inside(netns, || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE).ok()?;
        stream.set_read_timeout(Some(SERVED)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.parse().ok()
    })
}

pub(crate) fn reaches(netns: &str, to: IpAddr, port: u16) -> bool {
    connect(netns, to, port).is_some()
}

pub(crate) fn pings(netns: &str, to: IpAddr) -> bool {
    let mut ping = Command::new("ip");
    ping.args([
        "netns",
        "exec",
        netns,
        "ping",
        "-c1",
        "-W1",
        "-q",
        &to.to_string(),
    ]);
    ping.output().unwrap().status.success()
}

/// Sends one datagram from `source` and tells whether `to` got it.
pub(crate) fn datagram_arrives(from: (&str, IpAddr), to: (&str, IpAddr)) -> bool {
    let receiver = inside(to.0, || UdpSocket::bind((to.1, 0)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    inside(from.0, || {
        let socket = UdpSocket::bind((from.1, 0)).unwrap();
        socket
            .send_to(b"x", receiver.local_addr().unwrap())
            .unwrap();
    });
    receiver.recv(&mut [0; 8]).is_ok()
}

// Desired state in short.

pub(crate) fn filter(backend: Backend) -> Filter {
    Filter::open(Config {
        backend: Wish::Exactly(backend),
        ..Config::default()
    })
    .unwrap()
}

#[track_caller]
pub(crate) fn apply(filter: &mut Filter) -> margay_dataplane::filter::ApplyReport {
    let report = filter.apply();
    assert!(report.is_ok(), "{:?}", report.failures);
    report
}

pub(crate) fn tier(policies: &[&str]) -> Direction {
    let policies = policies.iter().map(|id| PolicyId::from(*id)).collect();
    Direction {
        tiers: vec![Tier {
            name: "default".into(),
            policies,
            default_action: TierDefault::Deny,
        }],
    }
}

pub(crate) fn endpoint(workload: &Workload, ingress: Direction, egress: Direction) -> Endpoint {
    Endpoint {
        ifname: workload.ifname.clone(),
        addresses: vec![workload.v4.into(), workload.v6.into()],
        ingress,
        egress,
        profiles: vec![ProfileId::from("open")],
        admin_up: true,
        allowed_source_prefixes: Vec::new(),
        limits: Limits::default(),
        host_ports: Vec::new(),
    }
}

/// An endpoint with the profile that allows everything.
pub(crate) fn open_endpoint(workload: &Workload) -> Endpoint {
    endpoint(workload, Direction::default(), Direction::default())
}

pub(crate) fn id(workload: &Workload) -> EndpointId {
    EndpointId::from(workload.ifname.as_str())
}

pub(crate) fn allow_all() -> PolicyRules {
    PolicyRules {
        ingress: vec![Rule::any(Action::Allow)],
        egress: vec![Rule::any(Action::Allow)],
        ..PolicyRules::default()
    }
}

pub(crate) fn ingress(rules: Vec<Rule>) -> PolicyRules {
    PolicyRules {
        ingress: rules,
        egress: Vec::new(),
        ..PolicyRules::default()
    }
}

/// A TCP rule for these destination ports.
pub(crate) fn tcp(action: Action, ports: &[u16]) -> Rule {
    let mut rule = Rule {
        protocol: Some(6),
        ..Rule::any(action)
    };
    rule.dst.ports = ports.iter().map(|port| *port..=*port).collect();
    rule
}

/// The name of a variant of iptables to do things by hand with: that of the backend if it has one.
pub(crate) fn by_hand(backend: Backend) -> &'static str {
    match backend {
        Backend::Iptables(variant) => variant.name(),
        Backend::Nftables => Variant::Nft.name(),
    }
}

/// The rules of a backend without what changes by itself; empty when it has none.
pub(crate) fn save(backend: Backend) -> String {
    let Backend::Iptables(variant) = backend else {
        return run("nft -s list table inet margay 2>/dev/null || true");
    };
    let name = variant.name();
    let text = run(&format!("iptables-{name}-save; ip6tables-{name}-save"));
    let rules = text
        .lines()
        .filter(|line| line.starts_with("-A") || line.starts_with('*'));
    rules.collect::<Vec<_>>().join("\n")
}
