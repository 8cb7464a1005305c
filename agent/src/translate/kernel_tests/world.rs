//! A host in a namespace, others around it in theirs, and packets made by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use margay_policy::explain::Packet;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv,
    sendto, socket,
};

use super::{STRANGERS, WORKLOADS};

/// How long a packet that is to arrive may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after the last expected packet one is waited for that should not come. One that is even
/// later is noticed with the next packets: no two have the same number.
const QUIET: Duration = Duration::from_millis(15);

/// Behind which interface of the host an address is.
pub(super) fn ifname_of(address: IpAddr) -> &'static str {
    let workload = WORKLOADS.into_iter().find(|(_, _, addresses)| {
        let mut addresses = addresses.iter();
        addresses.any(|own| own.parse::<IpAddr>().unwrap() == address)
    });
    workload.map_or(STRANGERS.0, |(_, ifname, _)| ifname)
}

/// The calling thread is on the host until this is dropped.
pub(super) struct World {
    names: Vec<String>,
    ends: BTreeMap<&'static str, End>,
    home: File,
    /// How many packets were sent in all.
    sent: u32,
}

/// The other end of an interface of the host.
struct End {
    v4: OwnedFd,
    v6: OwnedFd,
    /// Sees every packet that comes in or goes out.
    tap: OwnedFd,
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
}

fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

impl World {
    /// A host with these interfaces, each with addresses behind it.
    pub(super) fn new(interfaces: &[(&'static str, &[&str])]) -> Self {
        let prefix = format!("mgyk{:?}", thread::current().id());
        let prefix: String = prefix.chars().filter(char::is_ascii_alphanumeric).collect();
        let prefix = format!("{prefix}p{}", std::process::id());
        let host = format!("{prefix}h");
        let mut world = Self {
            names: vec![host.clone()],
            ends: BTreeMap::new(),
            home: File::open("/proc/thread-self/ns/net").unwrap(),
            sent: 0,
        };
        run(&format!("ip netns add {host}; ip -n {host} link set lo up"));
        enter(&host);
        run(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
             net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
             net.ipv6.conf.default.accept_dad=0 net.netfilter.nf_conntrack_checksum=0",
        );
        for (number, (ifname, addresses)) in interfaces.iter().enumerate() {
            let netns = format!("{prefix}e{number}");
            world.names.push(netns.clone());
            attach(&netns, ifname, addresses);
            let end = thread::scope(|scope| {
                let open = || {
                    enter(&netns);
                    End::open()
                };
                scope.spawn(open).join().unwrap()
            });
            world.ends.insert(ifname, end);
        }
        world
    }

    /// Sends the packets and tells which of them arrived where they were sent to, waiting for those
    /// that are expected.
    pub(super) fn send(
        &mut self,
        packets: &[Packet],
        expected: &BTreeSet<usize>,
    ) -> BTreeSet<usize> {
        run("conntrack -F 2>/dev/null");
        let first = self.sent;
        for packet in packets {
            let end = &self.ends[ifname_of(packet.source)];
            end.send(packet, self.sent);
            self.sent += 1;
        }
        let mut arrived = BTreeSet::new();
        let mut deadline = Instant::now() + PATIENCE;
        let mut quiet = false;
        loop {
            for (ifname, end) in &self.ends {
                while let Some(number) = end.receive() {
                    let here = number.checked_sub(first).map(|i| i as usize);
                    let Some(i) = here.filter(|i| *i < packets.len()) else {
                        panic!("a packet of an earlier program arrived late");
                    };
                    if ifname_of(packets[i].destination) == *ifname {
                        arrived.insert(i);
                    }
                }
            }
            if !quiet && expected.is_subset(&arrived) {
                quiet = true;
                deadline = Instant::now() + QUIET;
            }
            if Instant::now() > deadline {
                return arrived;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Clean-up goes on after a failure, so nothing here may panic.
        let left = setns(&self.home, CloneFlags::CLONE_NEWNET);
        for name in &self.names {
            let deleted = Command::new("ip").args(["netns", "del", name]).status();
            if left.is_err() || deleted.is_err() {
                tracing::warn!(name, "namespace not removed");
            }
        }
    }
}

/// The far end has no address: whatever comes in is left unanswered.
fn attach(netns: &str, ifname: &str, addresses: &[&str]) {
    let mut script = format!(
        "ip netns add {netns}; ip -n {netns} link set lo up
         ip link add {ifname} type veth peer name eth0 netns {netns}
         ip link set {ifname} address 02:00:00:00:00:01 up
         ip -n {netns} link set eth0 address 02:00:00:00:00:02 up
         ip -n {netns} neigh add 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0
         ip -n {netns} route add default via 169.254.1.1 dev eth0 onlink
         ip -n {netns} neigh add fe80::1 lladdr 02:00:00:00:00:01 dev eth0
         ip -n {netns} -6 route add default via fe80::1 dev eth0 onlink\n"
    );
    for address in addresses {
        script += &format!(
            "ip route add {address} dev {ifname}
             ip neigh add {address} lladdr 02:00:00:00:00:02 dev {ifname}\n"
        );
    }
    run(&script);
}

impl End {
    /// In the calling thread's namespace.
    fn open() -> Self {
        let raw = |family, protocol| {
            socket(family, SockType::Raw, SockFlag::SOCK_NONBLOCK, protocol).unwrap()
        };
        Self {
            v4: raw(AddressFamily::Inet, SockProtocol::Raw),
            v6: raw(AddressFamily::Inet6, SockProtocol::Raw),
            tap: raw(AddressFamily::Packet, SockProtocol::EthAll),
        }
    }

    fn send(&self, packet: &Packet, number: u32) {
        let bytes = bytes(packet, number);
        let sent = match packet.destination {
            IpAddr::V4(to) => {
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendto(self.v4.as_raw_fd(), &bytes, &to, MsgFlags::empty())
            }
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(self.v6.as_raw_fd(), &bytes, &to, MsgFlags::empty())
            }
        };
        assert_eq!(sent, Ok(bytes.len()), "{packet:?}");
    }

    /// The number of a packet of ours, if one is waiting.
    fn receive(&self) -> Option<u32> {
        let mut buffer = [0; 256];
        while let Ok(length) = recv(self.tap.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let payload = length.checked_sub(8).map(|start| &buffer[start..length]);
            if let Some([b'm', b'g', b'y', b'k', number @ ..]) = payload {
                return Some(u32::from_be_bytes(number.try_into().unwrap()));
            }
        }
        None
    }
}

/// The packet with its headers; its number is the end of its payload.
fn bytes(packet: &Packet, number: u32) -> Vec<u8> {
    let mut body = Vec::new();
    let ports = [packet.source_port, packet.destination_port].map(u16::to_be_bytes);
    let id = (number as u16).to_be_bytes();
    match packet.protocol {
        6 => {
            body.extend(ports.concat());
            body.extend(number.to_be_bytes());
            // No acknowledgement, five words of header, SYN, a window.
            body.extend([0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0]);
        }
        17 => {
            body.extend(ports.concat());
            body.extend([0, 16, 0, 0]);
        }
        // INIT alone, with what follows as its parameter. Nobody looks at the checksum.
        132 => {
            body.extend(ports.concat());
            body.extend([0; 8]);
            body.extend([1, 0, 0, 28, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        }
        1 | 58 => {
            let (kind, code) = packet.icmp.unwrap();
            body.extend([kind, code, 0, 0, id[0], id[1], 0, 1]);
        }
        // GRE without options, around nothing known.
        _ => body.extend([0, 0, 0x08, 0x00]),
    }
    body.extend(b"mgyk");
    body.extend(number.to_be_bytes());
    let mut bytes = match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (20 + body.len() as u16).to_be_bytes();
            // The kernel fills in the checksum.
            let mut header = vec![0x45, 0, length[0], length[1], id[0], id[1], 0, 0, 64];
            header.extend([packet.protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (body.len() as u16).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], packet.protocol, 64];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("{packet:?}"),
    };
    bytes.extend(body);
    bytes
}
