//! Whatever comes to the BGP port.
//!
//! ```text
//!   h1 \        from the router's address, which is a configured peer's, and from the store's, a stranger's:
//!        tor    octets that are no message, a message that is too long, an OPEN of another version, of another
//!   h2 /        AS, garbage behind a good OPEN, HTTP, and connections by the hundred
//! ```
//! 1. A stranger gets no octet, only the end of its connection.
//! 2. Garbage from a peer's address is answered by the NOTIFICATION that names the fault (RFC 4271, sections 6.1
//!    and 6.2), and the connection ends.
//! 3. No established session takes harm, not even the one with the address that the garbage comes from, and the
//!    agent goes on to tell of containers.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{NetNs, eventually};

use crate::support::{PROMPT, Rack, our_route, ups};

const BGP_PORT: u16 = 179;
const PATIENCE: Duration = Duration::from_secs(60);

/// What is wrong, what is sent, and the NOTIFICATIONs that say so.
type Case<'a> = (&'a str, &'a [u8], &'a [(u8, u8)]);

/// A message with a good marker, this length and type, and this body.
fn message(length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(length.to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// An OPEN without capabilities.
fn open(version: u8, asn: u16) -> Vec<u8> {
    let [high, low] = asn.to_be_bytes();
    let body = [version, high, low, 0, 90, 198, 51, 100, 77, 0];
    message(29, 1, &body)
}

/// Sends `garbage` from `netns` and reads until the connection ends. What came back.
fn answer_to(netns: &NetNs, host: IpAddr, garbage: &[u8]) -> Result<Vec<u8>> {
    netns.within(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(host, BGP_PORT), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The other end may have closed already.
        stream.write_all(garbage).ok();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => Ok(answer),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(answer),
            Err(e) => Err(e).context(format!("still open after {garbage:?}; so far {answer:?}")),
        }
    })
}

/// Code and subcode of the NOTIFICATION that ends an answer.
fn notified(answer: &[u8]) -> Option<(u8, u8)> {
    let mut rest = answer;
    while let Some(header) = rest.get(..19) {
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        if header[18] == 3 {
            return Some((*rest.get(19)?, *rest.get(20)?));
        }
        rest = rest.get(length..)?;
    }
    None
}

#[test]
fn garbage_on_the_port_disturbs_no_session() -> Result<()> {
    let rack = Rack::new(2)?;
    rack.established()?;
    let [h1, h2] = rack.hosts() else {
        anyhow::bail!("two hosts");
    };
    let addresses = [
        h1.tor_v4.to_string(),
        h1.tor_v6.to_string(),
        h2.v4.to_string(),
        h2.v6.to_string(),
    ];
    let sessions = || -> Result<Vec<usize>> {
        addresses
            .iter()
            .map(|address| ups(rack.agent(0), address))
            .collect()
    };
    let before = sessions()?;
    ensure!(before.iter().all(|ups| *ups > 0), "{before:?}");

    let lab = &rack.cluster.lab;
    let random: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut behind_open = open(4, 65000);
    behind_open.extend(&random);
    let too_long = message(5000, 2, &[]);
    let cases: [Case<'_>; 6] = [
        ("no marker", &random, &[(1, 1)]),
        (
            "http",
            b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
            &[(1, 1)],
        ),
        ("too long", &too_long, &[(1, 2)]),
        ("version", &open(3, 65000), &[(2, 1)]),
        ("AS", &open(4, 65123), &[(2, 2)]),
        // Either the good OPEN loses against the established session, or what follows it is refused.
        ("behind an OPEN", &behind_open, &[(6, 7), (1, 1)]),
    ];
    for host in [IpAddr::from(h1.v4), IpAddr::from(h1.v6)] {
        for (what, garbage, expected) in cases {
            let stranger = answer_to(&lab.store, host, garbage)?;
            ensure!(stranger.is_empty(), "{what}: told a stranger {stranger:?}");
            let answer = answer_to(&lab.tor, host, garbage)?;
            let found = notified(&answer).with_context(|| format!("{what}: {answer:?}"))?;
            ensure!(expected.contains(&found), "{what} answered by {found:?}");
        }
    }
    // Many at once, left open; then none of it may matter.
    let to = SocketAddr::new(h1.v4.into(), BGP_PORT);
    let flood = |netns: &NetNs| {
        netns.within(|| {
            let connect = |_| TcpStream::connect_timeout(&to, PATIENCE).context("connect");
            (0..100).map(connect).collect::<Result<Vec<_>>>()
        })
    };
    let open_connections = [flood(&lab.tor)?, flood(&lab.store)?];
    let container = rack.cluster.attach(0, "c1")?;
    eventually(PROMPT, "the sessions work", || {
        our_route(&h2.netns, &container.v4()?.to_string())
    })?;
    drop(open_connections);
    ensure!(sessions()? == before, "{before:?}, {:?}", sessions()?);
    rack.established()
}
