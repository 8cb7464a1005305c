//! What a packet is asked: where it comes from and goes to, what it says of itself, the mark it carries.

use super::{BEHIND_IFNAME, BigEndian, DATA_VALUE, Expressions, FIRST, NETWORK_HEADER, VERDICT};
use crate::{
    filter::{Family, program::Side},
    netlink::ip_bytes,
};

const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const FIB_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;
const TRANSPORT_HEADER: u32 = 2;
/// Where TCP has its flags, and two of them.
const TCP_FLAGS_AT: u32 = 13;
const SYN: u8 = 2;
const RST: u8 = 4;

/// The interface that a packet came in through or is to go out through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Device {
    In,
    Out,
}

impl Expressions {
    /// Packets of this family only: base chains see both.
    pub(in crate::nft) fn family(&mut self, family: Family) {
        if std::mem::replace(&mut self.family_checked, true) {
            return;
        }
        let number = match family {
            Family::V4 => libc::NFPROTO_IPV4,
            Family::V6 => libc::NFPROTO_IPV6,
        };
        self.meta(META_NFPROTO, FIRST);
        self.compare(false, &[number as u8]);
    }

    pub(in crate::nft) fn ifname(&mut self, device: Device) {
        let key = match device {
            Device::In => META_IIFNAME,
            Device::Out => META_OIFNAME,
        };
        if self.device != Some(device) {
            self.meta(key, FIRST);
            self.device = Some(device);
        }
    }

    /// The loaded name is this.
    pub(in crate::nft) fn is_named(&mut self, name: &str) {
        let mut value = name.as_bytes().to_vec();
        value.resize(16, 0);
        self.compare(false, &value);
    }

    /// The loaded name starts with this, or does not.
    pub(in crate::nft) fn name_starts(&mut self, not: bool, prefix: &str) {
        self.compare(not, prefix.as_bytes());
    }

    fn address(&mut self, family: Family, side: Side, register: u32) {
        self.family(family);
        let (offset, length) = match (family, side) {
            (Family::V4, Side::Src) => (12, 4),
            (Family::V4, Side::Dst) => (16, 4),
            (Family::V6, Side::Src) => (8, 16),
            (Family::V6, Side::Dst) => (24, 16),
        };
        self.payload(register, NETWORK_HEADER, offset, length);
    }

    pub(in crate::nft) fn net(&mut self, side: Side, not: bool, net: ipnetwork::IpNetwork) {
        self.address(Family::of(&net), side, FIRST);
        let (bytes, length) = ip_bytes(net.network());
        let (mask, _) = ip_bytes(net.mask());
        if mask[..length].iter().any(|byte| *byte != 0xff) {
            self.bitwise(&mask[..length], &[0; 16][..length]);
        }
        self.compare(not, &bytes[..length]);
    }

    pub(in crate::nft) fn protocol(&mut self, not: bool, number: u8) {
        self.meta(META_L4PROTO, FIRST);
        self.compare(not, &[number]);
    }

    pub(in crate::nft) fn icmp(&mut self, not: bool, icmp_type: u8, code: Option<u8>) {
        let value = [icmp_type, code.unwrap_or(0)];
        let length = if code.is_some() { 2 } else { 1 };
        if not || code.is_none() {
            self.payload(FIRST, TRANSPORT_HEADER, 0, length as u32);
            return self.compare(not, &value[..length]);
        }
        // Two steps read better in a listing.
        for (offset, byte) in value.into_iter().enumerate() {
            self.payload(FIRST, TRANSPORT_HEADER, offset as u32, 1);
            self.compare(false, &[byte]);
        }
    }

    fn load_port(&mut self, side: Side, register: u32) {
        let offset = match side {
            Side::Src => 0,
            Side::Dst => 2,
        };
        self.payload(register, TRANSPORT_HEADER, offset, 2);
    }

    pub(in crate::nft) fn port(&mut self, side: Side, not: bool, first: u16, last: u16) {
        self.load_port(side, FIRST);
        if first == last {
            return self.compare(not, &first.to_be_bytes());
        }
        self.push("range", |e| {
            e.be32(1, FIRST);
            e.be32(2, u32::from(not));
            e.nest(3, &[], |d| d.bytes(DATA_VALUE, &first.to_be_bytes()));
            e.nest(4, &[], |d| d.bytes(DATA_VALUE, &last.to_be_bytes()));
        });
    }

    pub(in crate::nft) fn port_in(&mut self, side: Side, set: &str, not: bool) {
        self.load_port(side, FIRST);
        self.lookup(set, not);
    }

    pub(in crate::nft) fn address_in(&mut self, family: Family, side: Side, set: &str, not: bool) {
        self.address(family, side, FIRST);
        self.lookup(set, not);
    }

    /// Address, protocol and port together.
    pub(in crate::nft) fn service_in(&mut self, family: Family, side: Side, set: &str, not: bool) {
        self.address(family, side, FIRST);
        let behind = match family {
            Family::V4 => FIRST + 1,
            Family::V6 => FIRST + 4,
        };
        self.meta(META_L4PROTO, behind);
        self.load_port(side, behind + 1);
        self.lookup(set, not);
    }

    fn workload(&mut self, family: Family, side: Side) {
        self.family(family);
        self.ifname(match side {
            Side::Src => Device::In,
            Side::Dst => Device::Out,
        });
        self.address(family, side, BEHIND_IFNAME);
    }

    /// Interface and address together, of the sender or of the receiver.
    pub(in crate::nft) fn workload_in(&mut self, family: Family, side: Side, set: &str, not: bool) {
        self.workload(family, side);
        self.lookup(set, not);
    }

    /// Goes where a verdict map says for interface and address.
    pub(in crate::nft) fn dispatch(&mut self, family: Family, side: Side, map: &str) {
        self.workload(family, side);
        self.push("lookup", |e| {
            e.string(1, map);
            e.be32(2, FIRST);
            e.be32(3, VERDICT);
        });
    }

    /// All of the bits are set in the mark, or none.
    pub(in crate::nft) fn mark(&mut self, bits: u32, set: bool) {
        self.meta(META_MARK, FIRST);
        self.bitwise(&bits.to_ne_bytes(), &[0; 4]);
        let expected = if set { bits } else { 0 };
        self.compare(false, &expected.to_ne_bytes());
    }

    pub(in crate::nft) fn change_mark(&mut self, bits: u32, set: bool) {
        self.meta(META_MARK, FIRST);
        let flip = if set { bits } else { 0 };
        self.bitwise(&(!bits).to_ne_bytes(), &flip.to_ne_bytes());
        self.push("meta", |e| {
            e.be32(2, META_MARK);
            e.be32(3, FIRST);
        });
    }

    /// The source or the destination is an address of this host.
    pub(in crate::nft) fn is_local(&mut self, side: Side) {
        self.push("fib", |e| {
            e.be32(1, FIRST);
            e.be32(2, FIB_ADDRTYPE);
            e.be32(
                3,
                match side {
                    Side::Src => FIB_SADDR,
                    Side::Dst => FIB_DADDR,
                },
            );
        });
        self.compare(false, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
    }

    /// Of the flags of TCP, SYN is set and RST is not.
    pub(in crate::nft) fn opens(&mut self) {
        self.payload(FIRST, TRANSPORT_HEADER, TCP_FLAGS_AT, 1);
        self.bitwise(&[SYN | RST], &[0]);
        self.compare(false, &[SYN]);
    }
}
