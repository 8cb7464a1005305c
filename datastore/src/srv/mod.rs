//! The endpoints of etcd by DNS: `_etcd-client-ssl._tcp.DOMAIN` for TLS and `_etcd-client._tcp.DOMAIN`
//! without, as other clients of etcd look them up.
//!
//! The name servers are those of `/etc/resolv.conf`. Endpoints that share a priority stand in the order
//! of their weight, the heaviest first.

mod message;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use message::{Answer, Service, answer, question};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// A name server that takes longer is passed over.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often each name server is asked.
const ROUNDS: usize = 2;
/// What is asked for: the service and the scheme of its endpoints. TLS is preferred.
const SERVICES: [(&str, &str); 2] = [("_etcd-client-ssl", "https"), ("_etcd-client", "http")];

/// Why the endpoints of a domain are not known. Looking again may help unless the name is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SrvError {
    /// The system's name servers are not known.
    #[error("{RESOLV_CONF}: no name server can be read there")]
    NoNameServer,
    /// It is no domain.
    #[error("discovery_srv: found \"{domain}\", allowed: a domain such as example.com")]
    BadDomain {
        /// What was given.
        domain: String,
    },
    /// The domain has no such records.
    #[error(
        "discovery_srv: {domain} has no SRV records _etcd-client-ssl._tcp and _etcd-client._tcp"
    )]
    NoRecord {
        /// The domain.
        domain: String,
    },
    /// No name server answered.
    #[error("discovery_srv: no name server answers for {name}: {reason}")]
    NoAnswer {
        /// What was asked for.
        name: String,
        /// What the last one said.
        reason: String,
    },
}

/// The endpoints of a domain, as the system's name servers know them. Blocks for a few seconds if none
/// of them answers.
pub(crate) fn endpoints(domain: &str) -> Result<Vec<String>, SrvError> {
    let conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    endpoints_by(&name_servers(&conf), domain)
}

/// The addresses in a text of the form of `resolv.conf`.
fn name_servers(conf: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let text = line.trim().strip_prefix("nameserver")?;
        text.trim().parse::<IpAddr>().ok()
    };
    let addresses = conf.lines().filter_map(address);
    addresses
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .collect()
}

fn endpoints_by(servers: &[SocketAddr], domain: &str) -> Result<Vec<String>, SrvError> {
    if servers.is_empty() {
        return Err(SrvError::NoNameServer);
    }
    let mut endpoints = Vec::new();
    for (service, scheme) in SERVICES {
        let mut found = look_up(servers, domain, &format!("{service}._tcp.{domain}"))?;
        found.sort_by_key(|service| (service.priority, std::cmp::Reverse(service.weight)));
        let urls = found
            .into_iter()
            .map(|Service { host, port, .. }| format!("{scheme}://{host}:{port}"));
        endpoints.extend(urls);
    }
    match endpoints.is_empty() {
        true => Err(SrvError::NoRecord {
            domain: domain.to_owned(),
        }),
        false => Ok(endpoints),
    }
}

fn look_up(servers: &[SocketAddr], domain: &str, name: &str) -> Result<Vec<Service>, SrvError> {
    let id = fastrand::u16(..);
    let question = question(id, name).filter(|_question| !domain.is_empty());
    let question = question.ok_or_else(|| SrvError::BadDomain {
        domain: domain.to_owned(),
    })?;
    let mut reason = String::new();
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        let answered = ask_datagram(*server, id, &question).and_then(|answered| match answered {
            Answer::Truncated => ask_stream(*server, id, &question),
            other => Ok(other),
        });
        reason = match answered {
            Ok(Answer::Services(services)) => return Ok(services),
            Ok(Answer::Truncated) => format!("{server} cut its answer off"),
            Ok(Answer::Failed(code)) => format!("{server} answers with code {code}"),
            Err(error) => format!("{server}: {error}"),
        };
    }
    Err(SrvError::NoAnswer {
        name: name.to_owned(),
        reason,
    })
}

fn ask_datagram(server: SocketAddr, id: u16, question: &[u8]) -> io::Result<Answer> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    // Connected: the kernel drops what others send.
    socket.connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send(question)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    answer(id, &buffer[..length]).ok_or_else(nonsense)
}

fn ask_stream(server: SocketAddr, id: u16, question: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = u16::try_from(question.len()).map_err(|_too_long| nonsense())?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    answer(id, &message).ok_or_else(nonsense)
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer cannot be read")
}
