//! OPENs with extended optional parameters (RFC 9072) both ways with BIRD, as root in namespaces of their
//! own.
//!
//! 1. BIRD with ten families has more capabilities than fit the old form: we take its OPEN.
//! 2. It takes ours, at any size (section 2: everyone has to take them).

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use margay_bgp::{
    prefix::Family,
    wire::{Capabilities, MessageType, Open, capability::AddPath, header},
};
use margay_lab::eventually;

use crate::support::{Lab, PATIENCE, config, them, within};

/// Every family that it has, each with all that is said of a family.
fn talkative() -> String {
    let tables = "ipv4 table l4; ipv6 table l6; ipv4 table m4; ipv6 table m6; vpn4 table v4;
        vpn6 table v6; flow4 table f4; flow6 table f6;";
    let channels: String = [
        "ipv4 { extended next hop on;",
        "ipv6 {",
        "ipv4 mpls { table l4; extended next hop on;",
        "ipv6 mpls { table l6;",
        "ipv4 multicast { table m4; extended next hop on;",
        "ipv6 multicast { table m6;",
        "vpn4 mpls { table v4; extended next hop on;",
        "vpn6 mpls { table v6;",
        "flow4 { table f4;",
        "flow6 { table f6;",
    ]
    .map(|channel| format!("{channel} import all; export all; add paths on; }};\n"))
    .concat();
    format!(
        "router id 192.0.2.2; {tables}
         protocol device {{}}
         protocol static s4 {{ ipv4; route 10.1.0.0/24 blackhole; }}
         protocol bgp p1 {{ local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
           graceful restart on; long lived graceful restart on;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           {channels} }}"
    )
}

#[test]
fn rfc9072_an_open_of_bird_with_many_capabilities_is_taken() -> Result<()> {
    let lab = Lab::new()?;
    let bird = lab.bird_with(&talkative())?;
    let ours = lab.speaker(&config(them()))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    ours.learns("10.1.0.0/24")?;
    bird.shows("show route", "198.51.100.0/24")?;
    // That it was one of them is seen where we hear it without the speaker.
    drop(ours);
    let (_stream, open) = greet(&lab, &[])?;
    let [_, _, _, _, _, _, _, _, _, len, kind, ..] = open[..] else {
        anyhow::bail!("{open:?}")
    };
    ensure!((len, kind) == (255, 255), "{open:?}");
    let read = Open::decode(&open)?;
    ensure!(read.capabilities.add_path.len() == 2, "{read:?}");
    Ok(())
}

#[test]
fn rfc9072_bird_takes_ours_at_any_size() -> Result<()> {
    // So many that the long form is needed.
    let add_path = AddPath {
        family: Family::Ipv4Unicast,
        send: true,
        receive: true,
    };
    let open = Open {
        asn: 65001,
        hold_time_secs: 90,
        id: [192, 0, 2, 1].into(),
        capabilities: Capabilities {
            multiprotocol: Some(Family::ALL.repeat(20)),
            four_octet_as: Some(65001),
            add_path: vec![add_path; 2],
            ..Capabilities::default()
        },
    };
    let mut long = BytesMut::new();
    open.encode(&mut long);
    ensure!(long.len() > 255 + header::HEADER_LEN && long[28..30] == [255, 255]);
    // Few, in the long form all the same.
    let mut short = vec![
        4, 0xfd, 0xe9, 0, 90, 192, 0, 2, 1, 255, 255, 0, 15, 2, 0, 12,
    ];
    short.extend([1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfd, 0xe9]);
    let mut framed = BytesMut::new();
    header::put(&mut framed, MessageType::Open, short.len());
    framed.extend_from_slice(&short);
    for open in [long, framed] {
        let lab = Lab::new()?;
        let bird = lab.bird("passive on;")?;
        let mut keepalive = open;
        header::put_keepalive(&mut keepalive);
        let (_stream, _) = greet(&lab, &keepalive)?;
        bird.shows("show protocols p1", "Established")?;
    }
    Ok(())
}

/// A connection to BIRD from our side, with what was said, and the body of its OPEN.
fn greet(lab: &Lab, say: &[u8]) -> Result<(TcpStream, Vec<u8>)> {
    let say = say.to_vec();
    let at = SocketAddr::from(([192, 0, 2, 2], 179));
    within(&lab.us, move || {
        let connect = || -> Result<(TcpStream, Vec<u8>)> {
            let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&say)?;
            let mut head = [0; header::HEADER_LEN];
            stream.read_exact(&mut head).context("no message")?;
            ensure!(head[18] == 1, "{head:?} is no OPEN");
            let len = usize::from(u16::from_be_bytes([head[16], head[17]]));
            let mut body = vec![0; len - header::HEADER_LEN];
            stream.read_exact(&mut body)?;
            Ok((stream, body))
        };
        // It may be waiting out an error.
        eventually(PATIENCE, "BIRD greets", connect)
    })
}
