//! The rule program in the words of `iptables-restore`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use super::{chain::Chain, tables::Key};
use crate::{
    filter::{
        Family,
        program::{
            self, Body, Ifaces, LOGGED_A_SECOND, LOGGED_AT_ONCE, Line, Match, Side, Target,
            Tracked, group_match,
        },
    },
    ipset::SetType,
};

const TCP: u8 = 6;
const UDP: u8 = 17;

impl Chain {
    /// Renders a chain of the program for a family.
    pub(crate) fn of(chain: &program::Chain, family: Family) -> (Key, Self) {
        let name = chain.id.name();
        let lines = lines(&chain.body, family);
        let rendered = Self::new(&name, chain.rank, &lines);
        ((chain.table, name), rendered)
    }
}

/// Rules without `-A CHAIN`, each with its note and a tab before it if it has one.
pub(crate) fn lines(body: &Body, family: Family) -> Vec<String> {
    match body {
        Body::Lines(lines) => lines.iter().map(|l| line(l, family)).collect(),
        Body::Dispatch { way, groups } => {
            let to_group = |group: &String| {
                let chain = program::ChainId::Group(*way, group.clone());
                let member = group_match(*way, family, group);
                line(&Line::new([member], Target::Goto(chain)), family)
            };
            let mut lines: Vec<String> = groups.iter().map(to_group).collect();
            lines.push("-j DROP".to_owned());
            lines
        }
    }
}

fn line(line: &Line, family: Family) -> String {
    let words = line.matches.iter().map(|m| condition(m, family));
    let words = words.chain([target(&line.target)]);
    let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    let rule = words.join(" ");
    match line.note.as_str() {
        "" => rule,
        note => format!("{note}\t{rule}"),
    }
}

fn condition(condition: &Match, family: Family) -> String {
    let not = |not: bool| if not { "! " } else { "" };
    match condition {
        Match::In(ifaces) => interface("-i", ifaces),
        Match::Out(ifaces) => interface("-o", ifaces),
        Match::Net { side, not: n, net } => {
            let option = match side {
                Side::Src => "-s",
                Side::Dst => "-d",
            };
            format!("{}{option} {net}", not(*n))
        }
        // "not protocol 0" holds for every packet, and iptables refuses it.
        Match::Protocol {
            not: true,
            number: 0,
        } => String::new(),
        Match::Protocol { not: n, number } => format!("{}-p {number}", not(*n)),
        Match::Icmp {
            not: n,
            icmp_type,
            code,
        } => {
            let (module, option) = match family {
                Family::V4 => ("icmp", "--icmp-type"),
                Family::V6 => ("icmp6", "--icmpv6-type"),
            };
            let code = code.map(|code| format!("/{code}")).unwrap_or_default();
            format!("-m {module} {}{option} {icmp_type}{code}", not(*n))
        }
        Match::Ports {
            side,
            not: n,
            protocol,
            ranges,
        } => ports(*side, not(*n), *protocol, ranges),
        Match::Opening => "-m tcp --tcp-flags SYN,RST SYN".to_owned(),
        Match::Set {
            side,
            not: n,
            name,
            set_type,
        } => {
            let word = match side {
                Side::Src => "src",
                Side::Dst => "dst",
            };
            let words = match set_type {
                SetType::Net => word.to_owned(),
                SetType::NetIface | SetType::NetPort => format!("{word},{word}"),
            };
            format!("-m set {}--match-set {name} {words}", not(*n))
        }
        Match::Mark { bits, set: true } => format!("-m mark --mark {bits:#x}/{bits:#x}"),
        Match::Mark { bits, set: false } => format!("-m mark --mark 0x0/{bits:#x}"),
        Match::ConnectionMark { bit, set } => {
            let value = if *set { *bit } else { 0 };
            format!("-m connmark --mark {value:#x}/{bit:#x}")
        }
        Match::Tracked(Tracked::Established) => {
            "-m conntrack --ctstate RELATED,ESTABLISHED".to_owned()
        }
        Match::Tracked(Tracked::Settled) => {
            "-m conntrack --ctstate RELATED,ESTABLISHED --ctstatus ASSURED".to_owned()
        }
        // The states of one match are alternatives.
        Match::Tracked(Tracked::Translated) => {
            "-m conntrack --ctstate NEW -m conntrack --ctstate DNAT".to_owned()
        }
        Match::Tracked(Tracked::New) => "-m conntrack --ctstate NEW".to_owned(),
        Match::PacketsOver {
            rate,
            at_once,
            name,
        } => format!(
            "-m hashlimit --hashlimit-above {rate}/second --hashlimit-burst {at_once} --hashlimit-name {name}"
        ),
        Match::ConnectionsOver(most) => {
            format!("-m connlimit --connlimit-above {most} --connlimit-mask 0")
        }
        Match::FromHost => "-m addrtype --src-type LOCAL".to_owned(),
        Match::ToHost => "-m addrtype --dst-type LOCAL".to_owned(),
        Match::Tracked(Tracked::Invalid) => "-m conntrack --ctstate INVALID".to_owned(),
    }
}

fn interface(option: &str, ifaces: &Ifaces) -> String {
    match ifaces {
        Ifaces::Named(name) => format!("{option} {name}"),
        Ifaces::StartingWith(prefix) => format!("{option} {prefix}+"),
        Ifaces::NotStartingWith(prefix) => format!("! {option} {prefix}+"),
    }
}

fn ports(side: Side, not: &str, protocol: u8, ranges: &[RangeInclusive<u16>]) -> String {
    let option = match side {
        Side::Src => "sport",
        Side::Dst => "dport",
    };
    let range = |range: &RangeInclusive<u16>| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}:{}", range.start(), range.end()),
    };
    let list: Vec<String> = ranges.iter().map(range).collect();
    let module = match protocol {
        TCP => Some("tcp"),
        UDP => Some("udp"),
        _ => None,
    };
    match module.filter(|_| list.len() == 1) {
        Some(module) => format!("-m {module} {not}--{option} {}", list.concat()),
        None => format!("-m multiport {not}--{option}s {}", list.join(",")),
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::Next => String::new(),
        Target::Drop => "-j DROP".to_owned(),
        Target::Reject => "-j REJECT".to_owned(),
        Target::Accept => "-j ACCEPT".to_owned(),
        Target::Return => "-j RETURN".to_owned(),
        Target::Jump(chain) => format!("-j {}", chain.name()),
        Target::Goto(chain) => format!("-g {}", chain.name()),
        Target::SetMark(bits) => format!("-j MARK --set-xmark {bits:#x}/{bits:#x}"),
        Target::ClearMark(bits) => format!("-j MARK --set-xmark 0x0/{bits:#x}"),
        Target::Dscp(value) => format!("-j DSCP --set-dscp {value}"),
        Target::ClampSegments => "-j TCPMSS --clamp-mss-to-pmtu".to_owned(),
        Target::NoTrack => "-j CT --notrack".to_owned(),
        Target::Nflog { group, prefix } => format!(
            "-m limit --limit {LOGGED_A_SECOND}/second --limit-burst {LOGGED_AT_ONCE} \
             -j NFLOG --nflog-group {group} --nflog-prefix \"{prefix}\""
        ),
        Target::DestinationNat { address, port } => match port {
            Some(port) => {
                let to = SocketAddr::new(*address, *port);
                format!("-j DNAT --to-destination {to}")
            }
            None => format!("-j DNAT --to-destination {address}"),
        },
        Target::SourceNat { address, ports } => source_nat(*address, ports.as_ref()),
    }
}

fn source_nat(address: Option<IpAddr>, ports: Option<&RangeInclusive<u16>>) -> String {
    let range = |ports: &RangeInclusive<u16>| format!("{}-{}", ports.start(), ports.end());
    let target = match (address, ports) {
        (None, None) => "MASQUERADE".to_owned(),
        (None, Some(ports)) => format!("MASQUERADE --to-ports {}", range(ports)),
        (Some(address), None) => format!("SNAT --to-source {address}"),
        (Some(IpAddr::V4(v4)), Some(ports)) => format!("SNAT --to-source {v4}:{}", range(ports)),
        (Some(IpAddr::V6(v6)), Some(ports)) => format!("SNAT --to-source [{v6}]:{}", range(ports)),
    };
    format!("-j {target} --random-fully")
}
