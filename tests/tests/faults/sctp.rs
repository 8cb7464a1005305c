//! SCTP through a port of the host: an association is asked for and answered, in packets that are made by hand, because
//! few kernels of test machines have SCTP itself.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{NetNs, eventually};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::host_ports::OPEN;
use crate::rig::{NETWORK, POOLS, Rig, SOON};

const SCTP: i32 = 132;
const TICK: Duration = Duration::from_millis(300);

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

const CALLER: u16 = 40_000;
const HOST_PORT: u16 = 3868;
const PORT: u16 = 3869;

/// What is at both ends of a packet.
#[derive(Debug, PartialEq)]
struct Seen {
    from: (Ipv4Addr, u16),
    to_port: u16,
    chunk: u8,
}

fn open(netns: &NetNs) -> Socket {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(SCTP)))?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(socket)
    };
    netns.within(open).unwrap()
}

/// RFC 9260, section 3.3.2, 3.3.3: the common header, and one chunk with the least that it needs.
fn packet(ports: (u16, u16), tag: u32, chunk: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([chunk, 0, 0, 20]);
    for word in [7_u32, 65_536, 0x0001_0001, 1] {
        bytes.extend(word.to_be_bytes());
    }
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let odd = crc & 1 == 1;
            crc >>= 1;
            if odd {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}

fn receive(mut socket: &Socket) -> Result<Seen> {
    let mut buffer = [0; 512];
    let length = socket.read(&mut buffer)?;
    let header = usize::from(buffer[0] & 15) * 4;
    let from = <[u8; 4]>::try_from(&buffer[12..16])?;
    let sctp = buffer
        .get_mut(header..length)
        .filter(|sctp| sctp.len() > 12)
        .context("half a packet")?;
    let number = |at: usize| u16::from_be_bytes([sctp[at], sctp[at + 1]]);
    let (from_port, to_port, chunk) = (number(0), number(2), sctp[12]);
    let sum = u32::from_le_bytes(<[u8; 4]>::try_from(&sctp[8..12])?);
    sctp[8..12].fill(0);
    ensure!(sum == crc32c(sctp), "the checksum is wrong");
    Ok(Seen {
        from: (from.into(), from_port),
        to_port,
        chunk,
    })
}

fn send(socket: &Socket, to: Ipv4Addr, packet: &[u8]) -> Result<()> {
    socket.send_to(packet, &SocketAddr::from((to, 0)).into())?;
    Ok(())
}

#[test]
fn an_association_is_led_from_the_port_of_the_host_and_back() {
    let rig = Rig::embedded(POOLS);
    rig.ctl().apply(OPEN).unwrap();
    let container = rig.sandbox("a", NETWORK);
    let mut config = rig.config(NETWORK);
    config["runtimeConfig"] = json!({"portMappings":
        [{"hostPort": HOST_PORT, "containerPort": PORT, "protocol": "sctp"}]});
    let netns = container.netns.path();
    rig.plugin("ADD", &container.id, netns.to_str(), &config)
        .ips();
    let (caller, server) = (open(&rig.lab.tor), open(&container.netns));
    let host = rig.host();
    let asked = eventually(SOON, "the container is asked", || {
        send(&caller, host.v4, &packet((CALLER, HOST_PORT), 0, INIT))?;
        receive(&server)
    })
    .unwrap();
    // The container sees who calls, and its own port.
    assert_eq!((asked.to_port, asked.chunk), (PORT, INIT));
    assert_eq!(asked.from.1, CALLER);
    let answered = eventually(SOON, "the caller is answered", || {
        send(&server, asked.from.0, &packet((PORT, CALLER), 7, INIT_ACK))?;
        receive(&caller)
    })
    .unwrap();
    let wanted = Seen {
        from: (host.v4, HOST_PORT),
        to_port: CALLER,
        chunk: INIT_ACK,
    };
    assert_eq!(answered, wanted);
}

#[test]
fn the_checksum_is_that_of_the_standard() {
    // RFC 3720, appendix B.4: 32 bytes of zeros.
    assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
}
