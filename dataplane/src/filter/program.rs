//! The rule program that every backend renders: chains of lines, each with matches and a target.
//!
//! One program is calculated for each family; what a packet meets is the same whichever backend writes it.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnetwork::IpNetwork;

use super::{
    names::{self, HostWay, Way},
    types::{Family, HostInterface, PolicyId, ProfileId},
};
use crate::{
    ipset::SetType,
    iptables::{Rank, Table},
};

/// Which chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChainId {
    /// One that does not depend on policies or endpoints, by its name in iptables.
    Fixed(&'static str),
    Policy(Way, PolicyId),
    Profile(Way, ProfileId),
    /// A group of workloads, by its hash.
    Group(Way, String),
    /// An interface of the host.
    Host(HostWay, HostInterface),
    /// The limits of a workload, by its interface.
    Limit(Way, String),
}

impl ChainId {
    /// The name in iptables.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Fixed(name) => (*name).to_owned(),
            Self::Policy(way, id) => names::policy_chain(*way, id),
            Self::Profile(way, id) => names::profile_chain(*way, id),
            Self::Group(way, group) => names::group_chain(*way, group),
            Self::Host(way, interface) => names::host_chain(*way, interface),
            Self::Limit(way, ifname) => names::limit_chain(*way, ifname),
        }
    }
}

/// Source or destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Src,
    Dst,
}

/// What conntrack says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    /// Of a connection that is known, or related to one.
    Established,
    /// Of a connection that is open: packets of it went both ways and, where its protocol has a handshake, that is over.
    /// A part of what is established.
    Settled,
    /// Opens a connection.
    New,
    /// Opens a connection whose destination was translated.
    Translated,
    Invalid,
}

/// Interfaces by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ifaces {
    Named(String),
    StartingWith(String),
    /// All but those.
    NotStartingWith(String),
}

/// One condition; all of a line must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Where the packet came in.
    In(Ifaces),
    /// Where it is to go out.
    Out(Ifaces),
    Net {
        side: Side,
        not: bool,
        net: IpNetwork,
    },
    Protocol {
        not: bool,
        number: u8,
    },
    /// Only behind a match on the family's ICMP.
    Icmp {
        not: bool,
        icmp_type: u8,
        code: Option<u8>,
    },
    /// Only behind a match on a protocol that has ports, which is repeated here.
    Ports {
        side: Side,
        not: bool,
        protocol: u8,
        ranges: Vec<RangeInclusive<u16>>,
    },
    /// Opens a TCP connection, or answers what does. Only behind a match on TCP.
    Opening,
    /// Address, address and port, or address and interface are in a set.
    Set {
        side: Side,
        not: bool,
        name: String,
        set_type: SetType,
    },
    /// All of these mark bits are set, or none.
    Mark {
        bits: u32,
        set: bool,
    },
    Tracked(Tracked),
    /// The connection has this mark bit, or has it not.
    ConnectionMark {
        bit: u32,
        set: bool,
    },
    /// More packets than so many a second, or at once, came here.
    PacketsOver {
        rate: u64,
        at_once: u32,
        /// What the count goes by.
        name: String,
    },
    /// More connections than so many came here and are not over. Only behind a match on new ones.
    ConnectionsOver(u32),
    /// The source is an address of this host.
    FromHost,
    /// The destination is one.
    ToHost,
}

/// Of the packets that one line hands up: so many a second, and so many at once after a while without. Enough to
/// see what goes on, and no flood can keep a processor busy with telling of it.
pub(crate) const LOGGED_A_SECOND: u64 = 100;
pub(crate) const LOGGED_AT_ONCE: u32 = 200;

/// What becomes of a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// On with the next line: only counted.
    Next,
    Drop,
    Reject,
    Accept,
    Return,
    Jump(ChainId),
    /// Like a jump that returns to where this chain was jumped to from.
    Goto(ChainId),
    SetMark(u32),
    ClearMark(u32),
    NoTrack,
    /// Mark with a differentiated services code point, and go on.
    Dscp(u8),
    /// Ask for segments of TCP no longer than what the path takes whole there and back, and go on. Only of what matches
    /// [`Match::Opening`] in the same line.
    ClampSegments,
    /// Hand it up, so often, and go on with the next line.
    Nflog {
        group: u16,
        /// A [`super::Label`] as text.
        prefix: String,
    },
    /// Another destination.
    DestinationNat {
        address: IpAddr,
        /// As it was when absent.
        port: Option<u16>,
    },
    /// Another source address, and perhaps ports.
    SourceNat {
        /// The outgoing interface's when absent.
        address: Option<IpAddr>,
        ports: Option<RangeInclusive<u16>>,
    },
}

/// One rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// For people; plain ASCII without quotes.
    pub(crate) note: String,
    pub(crate) matches: Vec<Match>,
    pub(crate) target: Target,
}

impl Line {
    pub(crate) fn new(matches: impl IntoIterator<Item = Match>, target: Target) -> Self {
        Self {
            note: String::new(),
            matches: matches.into_iter().collect(),
            target,
        }
    }

    pub(crate) fn always(target: Target) -> Self {
        Self::new([], target)
    }

    pub(crate) fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// What a chain consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Lines(Vec<Line>),
    /// From (address, interface) to the chain of the group that it is a member of; the rest is dropped.
    Dispatch {
        way: Way,
        groups: Vec<String>,
    },
}

/// A chain to be programmed.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) table: Table,
    pub(crate) id: ChainId,
    pub(crate) rank: Rank,
    pub(crate) body: Body,
}

impl Chain {
    pub(crate) fn new(table: Table, id: ChainId, rank: Rank, lines: Vec<Line>) -> Self {
        Self {
            table,
            id,
            rank,
            body: Body::Lines(lines),
        }
    }

    pub(crate) fn fixed(table: Table, name: &'static str, rank: Rank, lines: Vec<Line>) -> Self {
        Self::new(table, ChainId::Fixed(name), rank, lines)
    }
}

/// The set of a group for one family, as it is matched by the dispatch to it.
pub(crate) fn group_match(way: Way, family: Family, group: &str) -> Match {
    Match::Set {
        side: match way {
            Way::Ingress => Side::Dst,
            Way::Egress => Side::Src,
        },
        not: false,
        name: names::group_set(family, group),
        set_type: SetType::NetIface,
    }
}
