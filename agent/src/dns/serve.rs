//! The listeners: UDP and TCP on each address, and what is passed on to other name servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::Rcode;
use margay_dataplane::attach;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Responder;
use super::answer::{Verdict, refuse};
use super::counters::bump;
use crate::accept;

/// Pause before another attempt to listen.
const RETRY: Duration = Duration::from_secs(10);
/// The longest message that is read over UDP.
const MESSAGE_MAX: usize = 4096;
/// Connections at once over TCP; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// Queries under way to other name servers; more are refused, so that a flood costs no memory.
const FORWARDS: usize = 512;
/// How long another name server may take; the next one is asked then.
const UPSTREAM: Duration = Duration::from_secs(2);
/// How many are asked.
const UPSTREAMS: usize = 3;

/// Where the host's own name servers are written.
const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(super) async fn run(responder: Arc<Responder>, at: SocketAddr) {
    if is_link_local(at.ip()) {
        // Such an address is one that the operator made up for this, and no interface has it.
        let ip = at.ip();
        let added = tokio::task::spawn_blocking(move || attach::add_host_address(ip)).await;
        if let Ok(Err(error)) = added {
            warn!(%ip, error = crate::causes::in_full(&error), "dns: cannot add the address");
        }
    }
    let (udp, tcp) = loop {
        match bind(at).await {
            Ok(sockets) => break sockets,
            Err(error) => warn!(%at, %error, "dns: cannot listen"),
        }
        tokio::time::sleep(RETRY).await;
    };
    info!(%at, zone = responder.authority.zone, "dns: names are served");
    let forwards = Arc::new(Semaphore::new(FORWARDS));
    tokio::join!(
        datagrams(Arc::clone(&responder), udp, Arc::clone(&forwards)),
        streams(responder, tcp, at, forwards),
    );
}

async fn bind(at: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(at).await?, TcpListener::bind(at).await?))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        // A link-local address of IPv6 needs an interface, which a listen address does not name.
        IpAddr::V6(_) => false,
    }
}

async fn datagrams(responder: Arc<Responder>, socket: UdpSocket, forwards: Arc<Semaphore>) {
    let socket = Arc::new(socket);
    let listener = socket.local_addr().map(|at| at.ip());
    let listener = listener.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let mut buffer = [0; MESSAGE_MAX];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier answer, or no memory: neither ends the service.
                debug!(%error, "dns: cannot receive");
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let message = &buffer[..length];
        match responder.judge(message, false) {
            Verdict::Drop => {}
            Verdict::Answer(answer, _) => send(&socket, &answer, from).await,
            Verdict::Forward => {
                let slot = Arc::clone(&forwards).try_acquire_owned();
                let (Ok(slot), true) = (slot, responder.serves(from.ip(), listener)) else {
                    bump(&responder.counters.refused);
                    if let Some(refusal) = refuse(message, Rcode::REFUSED) {
                        send(&socket, &refusal, from).await;
                    }
                    continue;
                };
                let (responder, socket, message) = (
                    Arc::clone(&responder),
                    Arc::clone(&socket),
                    message.to_vec(),
                );
                tokio::spawn(async move {
                    if let Some(answer) = forward(&responder, &message, false).await {
                        send(&socket, &answer, from).await;
                    }
                    drop(slot);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        debug!(%to, %error, "dns: cannot answer");
    }
}

async fn streams(
    responder: Arc<Responder>,
    listener: TcpListener,
    at: SocketAddr,
    forwards: Arc<Semaphore>,
) {
    let accept = || listener.accept();
    let serve = |(stream, from): (TcpStream, SocketAddr)| {
        let (responder, forwards) = (Arc::clone(&responder), Arc::clone(&forwards));
        let may_forward = responder.serves(from.ip(), at.ip());
        async move {
            let served = stream_of(responder, stream, may_forward, &forwards).await;
            if let Err(error) = served {
                debug!(%from, %error, "dns: a caller went away");
            }
        }
    };
    accept::each("dns", CONNECTIONS, accept, serve).await;
}

/// One query after the other, each with its length before it (RFC 1035, section 4.2.2).
async fn stream_of(
    responder: Arc<Responder>,
    mut stream: TcpStream,
    may_forward: bool,
    forwards: &Semaphore,
) -> io::Result<()> {
    loop {
        let Ok(length) = timeout(SILENCE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut message = vec![0; usize::from(length?)];
        timeout(SILENCE, stream.read_exact(&mut message)).await??;
        let answer = match responder.judge(&message, true) {
            Verdict::Drop => return Ok(()),
            Verdict::Answer(answer, _) => Some(answer),
            Verdict::Forward => match (forwards.try_acquire(), may_forward) {
                (Ok(_slot), true) => forward(&responder, &message, true).await,
                _ => {
                    bump(&responder.counters.refused);
                    refuse(&message, Rcode::REFUSED)
                }
            },
        };
        let Some(answer) = answer else { return Ok(()) };
        let framed = framed(&answer)?;
        timeout(SILENCE, stream.write_all(&framed)).await??;
    }
}

fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), message].concat())
}

/// The answer of the first other name server that gives one, as it is; else that there is none.
async fn forward(responder: &Responder, message: &[u8], tcp: bool) -> Option<Vec<u8>> {
    for upstream in upstreams(responder).into_iter().take(UPSTREAMS) {
        let asked = match tcp {
            true => timeout(UPSTREAM, ask_stream(upstream, message)).await,
            false => timeout(UPSTREAM, ask_datagram(upstream, message)).await,
        };
        match asked {
            Ok(Ok(answer)) => {
                bump(&responder.counters.forwarded);
                return Some(answer);
            }
            Ok(Err(error)) => debug!(%upstream, %error, "dns: a name server fails"),
            Err(_elapsed) => debug!(%upstream, "dns: a name server is silent"),
        }
    }
    bump(&responder.counters.failed);
    refuse(message, Rcode::SERVFAIL)
}

/// As configured, else as the host's own file has them at this moment; never this responder.
fn upstreams(responder: &Responder) -> Vec<SocketAddr> {
    let configured = &responder.config.upstreams;
    let mut all = match configured.is_empty() {
        false => configured.clone(),
        true => nameservers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
    };
    all.retain(|at| !responder.config.listen.contains(at));
    all
}

fn nameservers(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    // A zone, as in fe80::1%eth0, is of no use here.
    let ips = lines.filter_map(|ip| ip.parse::<IpAddr>().ok());
    ips.map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// From a port of its own: whoever answers must have seen the query or guess port and id.
async fn ask_datagram(upstream: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match upstream.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], message) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_stream(upstream: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&framed(message)?).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    match answers(&answer, message) {
        true => Ok(answer),
        false => Err(io::Error::other("an answer to another question")),
    }
}

/// The same id, and an answer at all.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= 12 && answer.get(..2) == query.get(..2) && answer[2] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_resolver_reads_them() {
        let text = "# comment\nsearch a b\nnameserver 192.0.2.1\nnameserver\nnameserver x\n\
            nameserver 2001:db8::1\nnameserver fe80::1%eth0\noptions ndots:2\n";
        let found: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }

    #[test]
    fn an_answer_has_the_querys_id_and_is_one() {
        let query = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let mut answer = query;
        assert!(!answers(&answer, &query));
        answer[2] |= 0x80;
        assert!(answers(&answer, &query));
        answer[0] = 8;
        assert!(!answers(&answer, &query));
        assert!(!answers(&answer[..5], &query));
    }
}
