//! From a query to its answer, or to the decision that others have to answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message_builder::AdditionalBuilder;
use domain::base::name::ParsedName;
use domain::base::{Message, MessageBuilder, Name, Rtype, Serial, StaticCompressor, ToName, Ttl};
use domain::rdata::{A, Aaaa, Ptr, Soa, Srv};

use super::zone::{Found, Zone};

/// What a message over UDP may be without EDNS (RFC 1035, section 4.2.1).
const PLAIN_UDP: usize = 512;
/// What it may be with EDNS: no fragments on any path (DNS flag day 2020).
const EDNS_UDP: u16 = 1232;
/// And over TCP.
const TCP: usize = 65535;

/// How the zone is spoken for.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    /// Without a dot at its end, in lower case.
    pub(super) zone: String,
    pub(super) ttl_secs: u32,
}

/// What to do with a message.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Not a query: to answer it might begin an endless conversation.
    Drop,
    Answer(Vec<u8>, Outcome),
    /// Not ours to answer.
    Forward,
}

/// How an answer of ours ended, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Found,
    NoData,
    NoName,
    Refused,
}

type Builder = AdditionalBuilder<StaticCompressor<Vec<u8>>>;
type Owned = Name<Vec<u8>>;

/// One record of an answer.
enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ptr(Owned),
    Srv(u16, Owned),
    Soa,
}

/// The question in our words.
struct Question {
    name: String,
    kind: Rtype,
}

impl Authority {
    /// Judges one message. `tcp` lifts the limit of its length.
    pub(super) fn judge(&self, message: &[u8], zone: &Zone, tcp: bool) -> Verdict {
        let Ok(query) = Message::from_slice(message) else {
            return Verdict::Drop;
        };
        let header = query.header();
        if header.qr() {
            return Verdict::Drop;
        }
        if header.opcode() != Opcode::QUERY {
            return refusal(query, Rcode::NOTIMP);
        }
        let Ok(question) = query.sole_question() else {
            return refusal(query, Rcode::FORMERR);
        };
        if question.qclass() != Class::IN && question.qclass() != Class::ANY {
            return refusal(query, Rcode::REFUSED);
        }
        let asked = Question {
            name: text(question.qname()),
            kind: question.qtype(),
        };
        let Some((rcode, data, outcome)) = self.look_up(&asked, zone) else {
            return Verdict::Forward;
        };
        if matches!(asked.kind, Rtype::AXFR | Rtype::IXFR) {
            return refusal(query, Rcode::REFUSED);
        }
        let owner = question.qname().to_name::<Vec<u8>>();
        match self.build(query, rcode, &owner, data, zone.serial, tcp) {
            Some(answer) => Verdict::Answer(answer, outcome),
            None => refusal(query, Rcode::SERVFAIL),
        }
    }

    /// None when the name is not in the zone, and no address of an endpoint.
    fn look_up(&self, asked: &Question, zone: &Zone) -> Option<(Rcode, Vec<Data>, Outcome)> {
        if let Some(ip) = reverse(&asked.name) {
            let name = zone.name_of(ip)?;
            let target = self.absolute(name)?;
            let data = match asked.kind {
                Rtype::PTR | Rtype::ANY => vec![Data::Ptr(target)],
                _ => Vec::new(),
            };
            return Some(found(data));
        }
        let relative = match asked.name.strip_suffix(self.zone.as_str()) {
            Some("") => "",
            Some(rest) => rest.strip_suffix('.')?,
            None => return None,
        };
        let mut data = Vec::new();
        let wants = |kind| asked.kind == kind || asked.kind == Rtype::ANY;
        match zone.find(relative) {
            Found::Nothing => return Some((Rcode::NXDOMAIN, data, Outcome::NoName)),
            Found::Parent => {
                if relative.is_empty() && wants(Rtype::SOA) {
                    data.push(Data::Soa);
                }
            }
            Found::Endpoints(records) => {
                for ip in records.iter().flat_map(|record| &record.ips) {
                    match ip {
                        IpAddr::V4(ip) if wants(Rtype::A) => data.push(Data::A(*ip)),
                        IpAddr::V6(ip) if wants(Rtype::AAAA) => data.push(Data::Aaaa(*ip)),
                        _ => {}
                    }
                }
            }
            Found::Services(services) if wants(Rtype::SRV) => {
                let mut ports: Vec<(u16, String)> = services
                    .into_iter()
                    .map(|(name, _, port)| (port.number, name))
                    .collect();
                // Endpoints of one name and port are one target with several addresses.
                ports.sort();
                ports.dedup();
                let target =
                    |(port, name): (u16, String)| Some(Data::Srv(port, self.absolute(&name)?));
                data.extend(ports.into_iter().filter_map(target));
            }
            Found::Services(_) => {}
        }
        Some(found(data))
    }

    fn absolute(&self, relative: &str) -> Option<Owned> {
        Name::vec_from_str(&format!("{relative}.{}.", self.zone)).ok()
    }

    fn build(
        &self,
        query: &Message<[u8]>,
        rcode: Rcode,
        owner: &Owned,
        mut data: Vec<Data>,
        serial: u32,
        tcp: bool,
    ) -> Option<Vec<u8>> {
        let edns = query.opt();
        let limit = match (&edns, tcp) {
            (_, true) => TCP,
            (Some(opt), _) => usize::from(opt.udp_payload_size().clamp(512, EDNS_UDP)),
            (None, _) => PLAIN_UDP,
        };
        // Callers that take the first of several share the load.
        let turn = usize::from(query.header().id());
        if !data.is_empty() {
            let by = turn % data.len();
            data.rotate_left(by);
        }
        let mut message = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).ok()?;
        // Room for the OPT record, which tells a cut answer from a broken one.
        message.set_push_limit(limit - 11);
        let mut answer = message.start_answer(query, rcode).ok()?;
        let header = answer.header_mut();
        header.set_aa(true);
        header.set_ra(true);
        let ttl = Ttl::from_secs(self.ttl_secs);
        let negative = data.is_empty();
        for item in data {
            let pushed = match item {
                Data::A(ip) => answer.push((owner, ttl, A::new(ip))),
                Data::Aaaa(ip) => answer.push((owner, ttl, Aaaa::new(ip))),
                Data::Ptr(name) => answer.push((owner, ttl, Ptr::new(name))),
                Data::Srv(port, name) => answer.push((owner, ttl, Srv::new(0, 0, port, name))),
                Data::Soa => answer.push((owner, ttl, self.soa(serial)?)),
            };
            if pushed.is_err() {
                answer.header_mut().set_tc(true);
                break;
            }
        }
        let mut authority = answer.authority();
        if negative {
            let apex = Name::<Vec<u8>>::vec_from_str(&format!("{}.", self.zone)).ok()?;
            authority.push((&apex, ttl, self.soa(serial)?)).ok()?;
        }
        let mut last: Builder = authority.additional();
        last.clear_push_limit();
        if edns.is_some() {
            last.opt(|opt| {
                opt.set_udp_payload_size(EDNS_UDP);
                Ok(())
            })
            .ok()?;
        }
        Some(last.finish().into_target())
    }

    fn soa(&self, serial: u32) -> Option<Soa<Owned>> {
        let ttl = Ttl::from_secs(self.ttl_secs);
        Some(Soa::new(
            self.absolute("ns")?,
            self.absolute("hostmaster")?,
            Serial(serial),
            Ttl::from_secs(3600),
            Ttl::from_secs(600),
            Ttl::from_secs(86400),
            ttl,
        ))
    }
}

fn found(data: Vec<Data>) -> (Rcode, Vec<Data>, Outcome) {
    let outcome = match data.is_empty() {
        true => Outcome::NoData,
        false => Outcome::Found,
    };
    (Rcode::NOERROR, data, outcome)
}

/// An answer that says nothing but why.
pub(super) fn refuse(message: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let query = Message::from_slice(message).ok()?;
    let builder = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).ok()?;
    Some(builder.start_error(query, rcode).finish().into_target())
}

fn refusal(query: &Message<[u8]>, rcode: Rcode) -> Verdict {
    match refuse(query.as_slice(), rcode) {
        Some(answer) => Verdict::Answer(answer, Outcome::Refused),
        None => Verdict::Drop,
    }
}

/// In lower case, without the dot at its end. A byte that no name of ours has comes out escaped.
fn text(name: &ParsedName<&[u8]>) -> String {
    let mut text = name.to_string().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for (RFC 1035, 3.5; RFC 3596, 2.5).
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = octets
            .split('.')
            .rev()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let octets: [u8; 4] = octets.try_into().ok()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut value: u128 = 0;
    let mut count = 0;
    for digit in digits.split('.').rev() {
        let nibble = u8::from_str_radix(digit, 16)
            .ok()
            .filter(|_| digit.len() == 1)?;
        value = value << 4 | u128::from(nibble);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(value).into())
}

#[cfg(test)]
mod tests;
