//! The rule program as rules of nf_tables.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::{
    expression::{Device, Expressions, Verdict},
    names,
    parts::Parted,
    ports::Ports,
};
use crate::{
    filter::{
        Family,
        names::Way,
        program::{
            Body, Chain, Ifaces, LOGGED_A_SECOND, LOGGED_AT_ONCE, Line, Match, Side, Target,
            Tracked,
        },
    },
    ipset::SetType,
    iptables::{Rank, Table},
};

/// Bits of `ct state`.
const INVALID: u32 = 1;
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const NEW: u32 = 8;

/// Tags in a rule's userdata: the comment that `nft` shows, and our hash.
pub(super) const COMMENT_TAG: u8 = 0;
pub(super) const HASH_TAG: u8 = 0x4d;
const COMMENT_LEN: usize = 120;
pub(super) const HASH_LEN: usize = 16;

/// A rule as it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) expressions: Vec<u8>,
    /// The sets of ports that it refers to.
    pub(super) ports: Vec<Ports>,
    pub(super) userdata: Vec<u8>,
    /// Covers the rules above it too: the last one stands for the chain.
    pub(super) hash: String,
}

/// How many lines a chain begins with that only let packets through. Where packets come to it from a base chain, that
/// one asks them itself, which saves most packets the way.
pub(super) fn short_cuts(chain: &Chain) -> &[Line] {
    let lines = match &chain.body {
        Body::Lines(lines) if chain.rank == Rank::Base => &lines[..],
        _ => &[],
    };
    let in_parts = |condition: &Match| {
        matches!(
            condition,
            Match::Set {
                set_type: SetType::Net,
                ..
            }
        )
    };
    let is_one = |line: &&Line| {
        matches!(line.target, Target::Accept | Target::Return) && !line.matches.iter().any(in_parts)
    };
    &lines[..lines.iter().take_while(is_one).count()]
}

/// The rules of a chain, and which line each is for.
pub(super) fn chain(family: Family, chain: &Chain, parts: &Parted) -> (Vec<Rule>, Vec<usize>) {
    let counted = |target: &Target| match target {
        Target::Nflog { .. } => false,
        Target::Drop | Target::Reject => true,
        // Ports that are open whatever policies say.
        Target::Accept => matches!(chain.rank, Rank::Policy | Rank::Verdict),
        _ => chain.rank == Rank::Policy,
    };
    let asked_before = short_cuts(chain).len();
    let name = names::chain(family, chain.table, &chain.id);
    let mut rules = Hashed::new(&name);
    let mut places = Vec::new();
    match &chain.body {
        Body::Lines(lines) => {
            for (place, line) in lines.iter().enumerate().skip(asked_before) {
                for choice in choices(line, parts) {
                    let mut renderer = Renderer::new(family, chain.table);
                    renderer.conditions(line, parts, choice);
                    if counted(&line.target) {
                        renderer.out.counter();
                    }
                    renderer.target(line);
                    rules.push(renderer, &line.note);
                    places.push(place);
                }
            }
        }
        Body::Dispatch { way, .. } => {
            dispatch(&mut rules, family, *way);
            places.extend(0..rules.rules.len());
        }
    }
    (rules.rules, places)
}

/// One rule for each part of the sets that the packet is to be in: a bit of each choice for each set that has both.
fn choices(line: &Line, parts: &Parted) -> std::ops::Range<u32> {
    let both = |condition: &&Match| {
        matches!(condition, Match::Set { not: false, name, set_type: SetType::Net, .. }
            if parts.of(name).both())
    };
    0..1 << line.matches.iter().filter(both).count()
}

/// Addresses first, then prefixes; what is in neither map is dropped.
fn dispatch(rules: &mut Hashed, family: Family, way: Way) {
    let side = match way {
        Way::Ingress => Side::Dst,
        Way::Egress => Side::Src,
    };
    for prefixes in [false, true] {
        let mut renderer = Renderer::new(family, Table::Filter);
        let map = names::map(family, way, prefixes);
        renderer.out.dispatch(family, side, &map);
        rules.push(renderer, "");
    }
    let mut renderer = Renderer::new(family, Table::Filter);
    renderer.out.counter();
    renderer.out.verdict(Verdict::Drop);
    rules.push(renderer, "no such workload");
}

/// The chain that the kernel hands packets to: short cuts, and on to each family's own.
pub(super) fn base<'a>(
    name: &str,
    table: Table,
    targets: impl Iterator<Item = (Family, &'a str, &'a [Line])>,
) -> Vec<Rule> {
    let mut rules = Hashed::new(name);
    for (family, target, short_cuts) in targets {
        let in_family = || {
            let mut renderer = Renderer::new(family, table);
            renderer.out.family(family);
            renderer
        };
        for line in short_cuts {
            let mut renderer = in_family();
            line.matches.iter().for_each(|m| renderer.condition(m));
            renderer.target(line);
            rules.push(renderer, &line.note);
        }
        let mut renderer = in_family();
        renderer.out.verdict(Verdict::Goto(target));
        rules.push(renderer, "");
    }
    rules.rules
}

/// The one rule of a chain whose own rules were refused: nothing passes, unless the chain decides nothing.
pub(super) fn stub(name: &str, rank: Rank) -> Rule {
    let mut rules = Hashed::new(&format!("refused {name}"));
    let mut renderer = Renderer::new(Family::V4, Table::Filter);
    renderer.out.counter();
    renderer.out.verdict(match rank {
        Rank::Aside => Verdict::Return,
        _ => Verdict::Drop,
    });
    rules.push(renderer, "not accepted by the kernel");
    rules.rules.swap_remove(0)
}

/// Rules of one chain so far.
struct Hashed {
    hash: String,
    rules: Vec<Rule>,
}

impl Hashed {
    fn new(name: &str) -> Self {
        Self {
            hash: name.to_owned(),
            rules: Vec::new(),
        }
    }

    fn push(&mut self, renderer: Renderer, note: &str) {
        let mut digest = Sha256::new();
        digest.update(self.hash.as_bytes());
        digest.update([0]);
        digest.update(note.as_bytes());
        digest.update([0]);
        digest.update(&renderer.out.bytes);
        let mut hash = URL_SAFE_NO_PAD.encode(digest.finalize());
        hash.truncate(HASH_LEN);
        self.hash.clone_from(&hash);
        let userdata = userdata(note, &hash);
        self.rules.push(Rule {
            expressions: renderer.out.bytes,
            ports: renderer.ports,
            userdata,
            hash,
        });
    }
}

fn userdata(note: &str, hash: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tagged = |tag: u8, value: &[u8]| {
        bytes.extend([tag, value.len() as u8]);
        bytes.extend(value);
    };
    if !note.is_empty() {
        let mut text: Vec<u8> = note.bytes().take(COMMENT_LEN).collect();
        text.push(0);
        tagged(COMMENT_TAG, &text);
    }
    tagged(HASH_TAG, hash.as_bytes());
    bytes
}

struct Renderer {
    family: Family,
    table: Table,
    out: Expressions,
    ports: Vec<Ports>,
}

impl Renderer {
    fn new(family: Family, table: Table) -> Self {
        Self {
            family,
            table,
            out: Expressions::default(),
            ports: Vec::new(),
        }
    }

    fn conditions(&mut self, line: &Line, parts: &Parted, mut choice: u32) {
        // Who only counts or tells must not do so twice.
        let once = matches!(line.target, Target::Next | Target::Nflog { .. });
        // Its check takes the register in which the name of an interface stays for all that is asked of it.
        let of_workloads = |condition: &Match| {
            matches!(
                condition,
                Match::Set {
                    set_type: SetType::NetIface,
                    ..
                }
            )
        };
        if line.matches.iter().any(of_workloads) {
            self.out.family(self.family);
        }
        for condition in &line.matches {
            let Match::Set {
                side,
                not,
                name,
                set_type: SetType::Net,
            } = condition
            else {
                self.condition(condition);
                continue;
            };
            let parts = parts.of(name);
            let (hosts, nets) = (names::set(name, false), names::set(name, true));
            let mut lookup = |set, not| self.out.address_in(self.family, *side, set, not);
            match (parts.both(), *not) {
                (false, not) if parts.nets => lookup(&nets, not),
                (false, not) => lookup(&hosts, not),
                (true, true) => {
                    lookup(&hosts, true);
                    lookup(&nets, true);
                }
                (true, false) => {
                    match (choice & 1 == 1, once) {
                        (true, true) => {
                            lookup(&hosts, true);
                            lookup(&nets, false);
                        }
                        (true, false) => lookup(&nets, false),
                        (false, _) => lookup(&hosts, false),
                    }
                    choice >>= 1;
                }
            }
        }
    }

    fn condition(&mut self, condition: &Match) {
        let family = self.family;
        match condition {
            Match::In(ifaces) => self.interface(Device::In, ifaces),
            Match::Out(ifaces) => self.interface(Device::Out, ifaces),
            Match::Net { side, not, net } => self.out.net(*side, *not, *net),
            Match::Protocol { not, number } => self.out.protocol(*not, *number),
            Match::Icmp {
                not,
                icmp_type,
                code,
            } => self.out.icmp(*not, *icmp_type, *code),
            Match::Ports {
                side, not, ranges, ..
            } => {
                let ports = Ports::new(ranges);
                if let Some((first, last)) = ports.single() {
                    return self.out.port(*side, *not, first, last);
                }
                self.out.port_in(*side, ports.name(), *not);
                self.ports.push(ports);
            }
            Match::Opening => self.out.opens(),
            Match::Set {
                side,
                not,
                name,
                set_type,
            } => {
                let set = names::set(name, false);
                match set_type {
                    // Those in parts are dealt with by whoever knows the parts.
                    SetType::Net => self.out.address_in(family, *side, &set, *not),
                    SetType::NetPort => self.out.service_in(family, *side, &set, *not),
                    SetType::NetIface => {
                        self.out.workload_in(family, *side, &set, *not);
                        // In neither of the two sets. That something is in one of them is only asked for as a
                        // short cut, which prefixes may miss: dispatch goes by maps.
                        if *not {
                            let nets = names::set(name, true);
                            self.out.workload_in(family, *side, &nets, true);
                        }
                    }
                }
            }
            Match::Mark { bits, set } => self.out.mark(*bits, *set),
            Match::ConnectionMark { bit, set } => self.out.connection_mark(*bit, *set),
            Match::Tracked(Tracked::Established) => self.out.tracked(ESTABLISHED | RELATED),
            Match::Tracked(Tracked::Settled) => self.out.settled(),
            Match::Tracked(Tracked::New) => self.out.tracked(NEW),
            Match::PacketsOver { rate, at_once, .. } => self.out.limit(*rate, *at_once, true),
            Match::ConnectionsOver(most) => self.out.connections_over(*most),
            Match::Tracked(Tracked::Invalid) => self.out.tracked(INVALID),
            Match::Tracked(Tracked::Translated) => {
                self.out.tracked(NEW);
                self.out.translated();
            }
            Match::FromHost => self.out.is_local(Side::Src),
            Match::ToHost => self.out.is_local(Side::Dst),
        }
    }

    fn interface(&mut self, device: Device, ifaces: &Ifaces) {
        self.out.ifname(device);
        match ifaces {
            Ifaces::Named(name) => self.out.is_named(name),
            Ifaces::StartingWith(prefix) => self.out.name_starts(false, prefix),
            Ifaces::NotStartingWith(prefix) => self.out.name_starts(true, prefix),
        }
    }

    fn target(&mut self, line: &Line) {
        let chain = |id| names::chain(self.family, self.table, id);
        match &line.target {
            Target::Next => {}
            Target::Drop => self.out.verdict(Verdict::Drop),
            Target::Reject => self.out.reject(),
            Target::Accept => self.out.verdict(Verdict::Accept),
            Target::Return => self.out.verdict(Verdict::Return),
            Target::Jump(id) => self.out.verdict(Verdict::Jump(&chain(id))),
            Target::Goto(id) => self.out.verdict(Verdict::Goto(&chain(id))),
            Target::SetMark(bits) => self.out.change_mark(*bits, true),
            Target::ClearMark(bits) => self.out.change_mark(*bits, false),
            Target::Dscp(value) => self.out.set_dscp(self.family, *value),
            Target::ClampSegments => self.out.clamp_segments(),
            Target::NoTrack => self.out.no_track(),
            Target::Nflog { group, prefix } => {
                self.out.limit(LOGGED_A_SECOND, LOGGED_AT_ONCE, false);
                self.out.log(*group, prefix);
            }
            Target::DestinationNat { address, port } => {
                self.out.destination_nat(*address, *port);
            }
            Target::SourceNat { address, ports } => {
                self.out.source_nat(*address, ports.as_ref());
            }
        }
    }
}
