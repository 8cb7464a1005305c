//! What holds for the whole host.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnetwork::IpNetwork;

/// A port that policy of the host cannot close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// IP protocol number: TCP 6, UDP 17, SCTP 132 or UDPLite 136.
    pub protocol: u8,
    /// The port of the receiver.
    pub port: u16,
    /// Only for this network at the other end.
    pub net: Option<IpNetwork>,
}

/// Verdict for packets from a workload to its own host that egress policy allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// Drop.
    Drop,
    /// Leave it to the rules of others in `INPUT`.
    Return,
    /// Accept.
    Accept,
}

/// How a denied packet is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyAction {
    /// Silently dropped.
    Drop,
    /// Answered with ICMP port unreachable. Spoofed packets are dropped in any case.
    Reject,
}

/// What is handed up to user space, each packet with a [`crate::filter::Label`]; at most 100 a second of each rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nflog {
    /// The group of `NFLOG` to listen to. Packets matching rules with [`super::Action::Log`] are always handed up.
    pub group: u16,
    /// What is denied too.
    pub denied: bool,
    /// What opens a connection that is allowed too.
    pub allowed: bool,
}

/// Tunnels between hosts. What arrives through one is taken from [`Globals::hosts`] alone, and workloads cannot send
/// such packets themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// The UDP port of VXLAN over IPv4; none where there is no such tunnel.
    pub vxlan_v4: Option<u16>,
    /// The UDP port of VXLAN over IPv6.
    pub vxlan_v6: Option<u16>,
    /// IP in IP.
    pub ipip: bool,
    /// The UDP port of WireGuard over IPv4. It knows by itself whom it takes packets from: they are let in from hosts
    /// whatever policies the host has, and left to these otherwise.
    pub wireguard_v4: Option<u16>,
    /// The UDP port of WireGuard over IPv6.
    pub wireguard_v6: Option<u16>,
    /// Devices, and the address on each that the host's own packets must be from, so that answers come back by the
    /// tunnel too.
    pub sources: Vec<(String, IpAddr)>,
}

/// Everything that is not per policy or per endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globals {
    /// Interfaces with this name prefix are workloads; 1 to 14 of `[A-Za-z0-9_.-]`.
    pub interface_prefix: String,
    /// CIDRs of pools with natOutgoing.
    pub masquerade_pools: BTreeSet<IpNetwork>,
    /// CIDRs of all pools, disabled ones too: never masqueraded towards these.
    pub all_pools: BTreeSet<IpNetwork>,
    /// Source address for natOutgoing in IPv4; the outgoing interface's own when absent.
    pub nat_outgoing_v4: Option<Ipv4Addr>,
    /// Source address for natOutgoing in IPv6; the outgoing interface's own when absent.
    pub nat_outgoing_v6: Option<Ipv6Addr>,
    /// Source ports for natOutgoing of TCP and UDP; the kernel's choice when absent.
    pub nat_ports: Option<RangeInclusive<u16>>,
    /// Workload to own host.
    pub endpoint_to_host: HostAction,
    /// Drop or reject.
    pub deny_action: DenyAction,
    /// Packet mark bits that are ours; at least two. iptables takes the lowest two, nftables the next two
    /// if there are such, and the fifth is for what policies that are not enforced would decide.
    pub mark_mask: u32,
    /// What is handed up; nothing when absent, as where the kernel lacks `NFLOG`.
    pub nflog: Option<Nflog>,
    /// Let packets pass that conntrack calls INVALID (asymmetric routing).
    pub disable_conntrack_invalid: bool,
    /// Drop packets of connections with the mark of [`crate::filter::ended_mark`], known as they are.
    pub end_denied: bool,
    /// Have TCP of workloads send segments that the path takes whole, also where its MTU is smaller than theirs.
    pub clamp_segments: bool,
    /// Ports that are open towards the host whatever its policies say.
    pub failsafe_in: Vec<Failsafe>,
    /// Ports that are open from the host whatever its policies say.
    pub failsafe_out: Vec<Failsafe>,
    /// Tunnels between hosts.
    pub tunnels: Tunnels,
    /// The addresses of all hosts.
    pub hosts: BTreeSet<IpNetwork>,
    /// Packets to hosts are not masqueraded.
    pub nat_excludes_hosts: bool,
    /// Ranges of service addresses. What is sent to one that nobody translated would go round in circles.
    pub services: BTreeSet<IpNetwork>,
    /// What becomes of it; nothing if none.
    pub service_loops: Option<DenyAction>,
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            interface_prefix: "mgy".to_owned(),
            masquerade_pools: BTreeSet::new(),
            all_pools: BTreeSet::new(),
            nat_outgoing_v4: None,
            nat_outgoing_v6: None,
            nat_ports: None,
            endpoint_to_host: HostAction::Drop,
            deny_action: DenyAction::Drop,
            mark_mask: 0xffff_0000,
            nflog: None,
            disable_conntrack_invalid: false,
            end_denied: true,
            clamp_segments: true,
            failsafe_in: Vec::new(),
            failsafe_out: Vec::new(),
            tunnels: Tunnels::default(),
            hosts: BTreeSet::new(),
            nat_excludes_hosts: false,
            services: BTreeSet::new(),
            service_loops: Some(DenyAction::Drop),
        }
    }
}
