//! What changes in the kernel, as a stream of events.
//!
//! Open the monitor first and read the tables after, so that nothing falls between. When more happens than the socket
//! holds, the kernel drops messages, and the stream says [`Event::Resync`] once: read the tables again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use crate::link::{Address, Link};
use crate::netlink::{Messages, u32_from};
use crate::route_table::{KernelRoute, decode_any};

/// One burst of route changes that the reader may sleep through: about 10,000 events.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
const DATAGRAM_LEN: usize = 64 * 1024;

/// Which changes to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interests {
    /// Interfaces.
    pub links: bool,
    /// Addresses, both families.
    pub addresses: bool,
    /// Routes, both families, all tables.
    pub routes: bool,
}

/// A change in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface appeared or changed.
    Link(Link),
    /// An interface is gone.
    LinkGone(Link),
    /// An address was added or changed.
    Address(Address),
    /// An address was removed. The routes of its interface may have gone with it, without an event.
    AddressGone(Address),
    /// A route was added or changed.
    Route(KernelRoute),
    /// A route was removed by somebody. The kernel is silent when it drops routes because their interface goes down.
    RouteGone(KernelRoute),
    /// A neighbour or an entry of a forwarding table changed on the interface of this index.
    Neighbour(u32),
    /// A queue changed on the interface of this index.
    Queue(u32),
    /// Events were lost.
    Resync,
}

/// A subscription. Dropping it ends it.
pub struct Monitor {
    socket: TokioSocket,
    buffer: Vec<u8>,
    pending: VecDeque<Event>,
    ignored_ports: Vec<u32>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open(interests: Interests) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        let fd = socket.socket_ref().as_fd();
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        let groups = [
            (interests.links, &[libc::RTNLGRP_LINK][..]),
            (
                interests.addresses,
                &[libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR],
            ),
            (
                interests.routes,
                &[libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE],
            ),
        ];
        for group in groups
            .iter()
            .filter(|(wanted, _)| *wanted)
            .flat_map(|(_, groups)| *groups)
        {
            socket.socket_mut().add_membership(*group)?;
        }
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM_LEN),
            pending: VecDeque::new(),
            ignored_ports: Vec::new(),
        })
    }

    /// Leaves out what the socket of this port causes: see [`crate::route_table::RouteTable::port`].
    pub fn ignore_port(&mut self, port: u32) {
        self.ignored_ports.push(port);
    }

    /// Hears of neighbours from here on: a host with many of them should ask only if it needs to know.
    pub fn hear_neighbours(&mut self) -> io::Result<()> {
        self.socket.socket_mut().add_membership(libc::RTNLGRP_NEIGH)
    }

    /// Hears of queues, and of what leads packets into them, from here on.
    pub fn hear_queues(&mut self) -> io::Result<()> {
        self.socket.socket_mut().add_membership(libc::RTNLGRP_TC)
    }

    /// The next event. Cancel safe: an event is taken only when it is returned.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) => self.take_in(),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.drain();
                    return Ok(Event::Resync);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// After an overrun the kernel drops everything until what it holds has been read: what is read before the queue
    /// is empty is incomplete, and a `Resync` sent earlier would be too early.
    fn drain(&mut self) {
        loop {
            self.buffer.clear();
            let buffer = &mut self.buffer;
            if self
                .socket
                .socket_ref()
                .recv(buffer, libc::MSG_DONTWAIT)
                .is_err()
            {
                return;
            }
        }
    }

    fn take_in(&mut self) {
        let ignored = &self.ignored_ports;
        let messages = Messages(&self.buffer).filter(|m| m.port == 0 || !ignored.contains(&m.port));
        self.pending
            .extend(messages.filter_map(|m| event(m.kind, m.payload)));
    }
}

fn event(kind: u16, payload: &[u8]) -> Option<Event> {
    match kind {
        // Messages of a bridge about its ports have the type of link messages, but another family.
        libc::RTM_NEWLINK | libc::RTM_DELLINK if payload.first() != Some(&0) => None,
        libc::RTM_NEWLINK => Link::parse(payload).map(Event::Link),
        libc::RTM_DELLINK => Link::parse(payload).map(Event::LinkGone),
        libc::RTM_NEWADDR => Address::parse(payload).map(Event::Address),
        libc::RTM_DELADDR => Address::parse(payload).map(Event::AddressGone),
        libc::RTM_NEWROUTE => decode_any(payload).map(Event::Route),
        libc::RTM_DELROUTE => decode_any(payload).map(Event::RouteGone),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
            payload.get(4..).and_then(u32_from).map(Event::Neighbour)
        }
        libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => {
            payload.get(4..).and_then(u32_from).map(Event::Queue)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lab::NetNs;
    use crate::route_table::{Config, Route, RouteTable};

    const ALL: Interests = Interests {
        links: true,
        addresses: true,
        routes: true,
    };

    /// Runs on a current-thread runtime inside the namespace.
    fn in_netns(ns: &NetNs, test: impl AsyncFnOnce() + Send) {
        ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(test());
        });
    }

    async fn until(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(5), monitor.next()).await;
            let event = next
                .unwrap_or_else(|_| panic!("not among {seen:?}"))
                .unwrap();
            let found = wanted(&event);
            seen.push(event);
            if found {
                return seen;
            }
        }
    }

    #[test]
    fn links_addresses_and_routes_are_reported() {
        let ns = NetNs::new();
        in_netns(&ns, async || {
            let mut monitor = Monitor::open(ALL).unwrap();
            ns.ip("link add mgy0 type veth peer name up0");
            ns.ip("link set up0 up");
            ns.ip("link set mgy0 up");
            until(
                &mut monitor,
                |e| matches!(e, Event::Link(l) if l.name == "mgy0" && l.up),
            )
            .await;
            ns.ip("addr add 192.0.2.1/24 dev mgy0");
            let wanted = "192.0.2.1/24".parse().unwrap();
            until(
                &mut monitor,
                |e| matches!(e, Event::Address(a) if a.address == wanted),
            )
            .await;
            ns.ip("route add 198.51.100.0/24 via 192.0.2.2 proto 12");
            let prefix = "198.51.100.0/24".parse().unwrap();
            let is = |r: &KernelRoute| r.prefix == prefix && r.protocol == 12;
            until(&mut monitor, |e| matches!(e, Event::Route(r) if is(r))).await;
            ns.ip("-6 route add blackhole 2001:db8::/64");
            let v6 = "2001:db8::/64".parse().unwrap();
            until(
                &mut monitor,
                |e| matches!(e, Event::Route(r) if r.prefix == v6),
            )
            .await;
            ns.ip("route del 198.51.100.0/24");
            until(&mut monitor, |e| matches!(e, Event::RouteGone(r) if is(r))).await;
            ns.ip("addr del 192.0.2.1/24 dev mgy0");
            until(
                &mut monitor,
                |e| matches!(e, Event::AddressGone(a) if a.address == wanted),
            )
            .await;
            ns.ip("link del mgy0");
            until(
                &mut monitor,
                |e| matches!(e, Event::LinkGone(l) if l.name == "mgy0"),
            )
            .await;
        });
    }

    #[test]
    fn queues_are_reported_by_their_interface_once_asked_for() {
        let ns = NetNs::new();
        in_netns(&ns, async || {
            let mut monitor = Monitor::open(ALL).unwrap();
            monitor.hear_queues().unwrap();
            ns.ip("link add mgy0 up type veth peer name up0");
            let is = |e: &Event| matches!(e, Event::Link(l) if l.name == "mgy0");
            let seen = until(&mut monitor, is).await;
            let Some(Event::Link(link)) = seen.last() else {
                panic!("{seen:?}")
            };
            let index = link.index;
            for changed in [
                "tc qdisc add dev mgy0 root pfifo",
                "tc qdisc del dev mgy0 root",
                "tc qdisc add dev mgy0 ingress",
            ] {
                ns.command(changed);
                until(&mut monitor, |e| *e == Event::Queue(index)).await;
            }
        });
    }

    #[test]
    fn own_changes_can_be_left_out() {
        let ns = NetNs::new();
        in_netns(&ns, async || {
            let mut monitor = Monitor::open(ALL).unwrap();
            let mut table = RouteTable::open(Config::default()).unwrap();
            monitor.ignore_port(table.port());
            table.set("198.51.100.0/24".parse().unwrap(), Route::blackhole());
            assert_eq!(table.apply().added, 1);
            ns.ip("route add blackhole 203.0.113.0/24");
            let other = "203.0.113.0/24".parse().unwrap();
            let seen = until(
                &mut monitor,
                |e| matches!(e, Event::Route(r) if r.prefix == other),
            )
            .await;
            assert_eq!(seen.len(), 1, "{seen:?}");
        });
    }

    #[test]
    fn an_overrun_asks_for_a_resync_and_the_stream_goes_on() {
        let ns = NetNs::new();
        in_netns(&ns, async || {
            let mut monitor = Monitor::open(ALL).unwrap();
            setsockopt(&monitor.socket.socket_ref().as_fd(), sockopt::RcvBuf, &4096).unwrap();
            let mut table = RouteTable::open(Config::default()).unwrap();
            for n in 0..200u8 {
                let prefix = format!("198.51.100.{n}/32").parse().unwrap();
                table.set(prefix, Route::blackhole());
            }
            assert_eq!(table.apply().added, 200);
            until(&mut monitor, |e| *e == Event::Resync).await;
            ns.ip("link set lo down");
            until(
                &mut monitor,
                |e| matches!(e, Event::Link(l) if l.name == "lo" && !l.up),
            )
            .await;
        });
    }
}
