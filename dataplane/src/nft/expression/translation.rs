//! Another source or destination.

use std::{net::IpAddr, ops::RangeInclusive};

use super::{BigEndian, Expressions, FIRST};
use crate::netlink::ip_bytes;

/// Kinds of `nat`.
const SOURCE_NAT: u32 = 0;
const DESTINATION_NAT: u32 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 16;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const PORTS_GIVEN: u32 = 2;

impl Expressions {
    /// Another destination, and perhaps port.
    pub(in crate::nft) fn destination_nat(&mut self, address: IpAddr, port: Option<u16>) {
        let port_register = FIRST + 4;
        self.load_address(address);
        if let Some(port) = port {
            self.load(port_register, &port.to_be_bytes());
        }
        self.push("nat", |e| {
            e.be32(1, DESTINATION_NAT);
            e.be32(2, protocol_family(address));
            e.be32(3, FIRST);
            if port.is_some() {
                e.be32(5, port_register);
                e.be32(7, PORTS_GIVEN);
            }
        });
    }

    fn load_address(&mut self, address: IpAddr) {
        let (bytes, length) = ip_bytes(address);
        self.load(FIRST, &bytes[..length]);
    }

    /// Another source address, the outgoing interface's if none is given, and perhaps ports of a range.
    pub(in crate::nft) fn source_nat(
        &mut self,
        address: Option<IpAddr>,
        ports: Option<&RangeInclusive<u16>>,
    ) {
        let (first, last) = (FIRST + 4, FIRST + 5);
        if let Some(ports) = ports {
            self.load(first, &ports.start().to_be_bytes());
            self.load(last, &ports.end().to_be_bytes());
        }
        let flags = RANDOM_FULLY | if ports.is_some() { PORTS_GIVEN } else { 0 };
        let Some(address) = address else {
            return self.push("masq", |e| {
                e.be32(1, flags);
                if ports.is_some() {
                    e.be32(2, first);
                    e.be32(3, last);
                }
            });
        };
        self.load_address(address);
        self.push("nat", |e| {
            e.be32(1, SOURCE_NAT);
            e.be32(2, protocol_family(address));
            e.be32(3, FIRST);
            if ports.is_some() {
                e.be32(5, first);
                e.be32(6, last);
            }
            e.be32(7, flags);
        });
    }
}

const fn protocol_family(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => libc::NFPROTO_IPV4 as u32,
        IpAddr::V6(_) => libc::NFPROTO_IPV6 as u32,
    }
}
