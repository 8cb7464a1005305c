//! The little of BGP-4 that a load generator needs: building OPEN, UPDATE and
//! KEEPALIVE messages, and reading what a device under test sends back.

use std::net::{IpAddr, Ipv4Addr};

pub(crate) const HEADER: usize = 19;
pub(crate) const MAX_MSG: usize = 4096;

pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;
pub(crate) const ROUTE_REFRESH: u8 = 5;

pub(crate) const AS_TRANS: u16 = 23456;

pub(crate) const AFI_IP: u16 = 1;
pub(crate) const AFI_IP6: u16 = 2;
pub(crate) const SAFI_UNICAST: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn afi(self) -> u16 {
        match self {
            Self::V4 => AFI_IP,
            Self::V6 => AFI_IP6,
        }
    }
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A prefix: the address left-aligned in 128 bits, so that both families share
/// one arithmetic, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) addr: u128,
    pub(crate) len: u8,
}

impl Prefix {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.len);
        let n = (self.len as usize).div_ceil(8);
        out.extend_from_slice(&self.addr.to_be_bytes()[..n]);
    }
    pub(crate) fn wire_len(&self) -> usize {
        1 + (self.len as usize).div_ceil(8)
    }
    pub(crate) fn display(&self, fam: Family) -> String {
        match fam {
            Family::V4 => format!("{}/{}", Ipv4Addr::from((self.addr >> 96) as u32), self.len),
            Family::V6 => format!("{}/{}", std::net::Ipv6Addr::from(self.addr), self.len),
        }
    }
}

fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind]);
    at
}

fn finish(out: &mut [u8], at: usize) {
    let len = out.len() - at;
    assert!(len <= MAX_MSG, "built a message of {len} octets");
    out[at + 16..at + 18].copy_from_slice(&(len as u16).to_be_bytes());
}

pub(crate) fn keepalive() -> Vec<u8> {
    let mut v = Vec::with_capacity(HEADER);
    let at = begin(&mut v, KEEPALIVE);
    finish(&mut v, at);
    v
}

pub(crate) struct OpenParams {
    pub(crate) asn: u32,
    pub(crate) hold: u16,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) family: Family,
}

pub(crate) fn open(p: &OpenParams) -> Vec<u8> {
    let mut caps = Vec::new();
    // Multiprotocol, for the one family that is blasted.
    caps.extend_from_slice(&[1, 4]);
    caps.extend_from_slice(&p.family.afi().to_be_bytes());
    caps.extend_from_slice(&[0, SAFI_UNICAST]);
    // Route refresh.
    caps.extend_from_slice(&[2, 0]);
    // Graceful restart with no family listed: "I send and understand End-of-RIB".
    caps.extend_from_slice(&[64, 2, 0, 0]);
    // Four-octet AS.
    caps.extend_from_slice(&[65, 4]);
    caps.extend_from_slice(&p.asn.to_be_bytes());

    let mut v = Vec::new();
    let at = begin(&mut v, OPEN);
    v.push(4);
    let as2 = u16::try_from(p.asn).unwrap_or(AS_TRANS);
    v.extend_from_slice(&as2.to_be_bytes());
    v.extend_from_slice(&p.hold.to_be_bytes());
    v.extend_from_slice(&p.router_id.octets());
    v.push(caps.len() as u8 + 2);
    v.push(2);
    v.push(caps.len() as u8);
    v.extend_from_slice(&caps);
    finish(&mut v, at);
    v
}

pub(crate) fn cease() -> Vec<u8> {
    let mut v = Vec::new();
    let at = begin(&mut v, NOTIFICATION);
    v.extend_from_slice(&[6, 2]);
    finish(&mut v, at);
    v
}

pub(crate) fn end_of_rib(fam: Family, out: &mut Vec<u8>) {
    let at = begin(out, UPDATE);
    match fam {
        Family::V4 => out.extend_from_slice(&[0, 0, 0, 0]),
        Family::V6 => {
            out.extend_from_slice(&[0, 0, 0, 6, 0x80, 15, 3]);
            out.extend_from_slice(&fam.afi().to_be_bytes());
            out.push(SAFI_UNICAST);
        }
    }
    finish(out, at);
}

/// Path attributes in wire form without the reachability itself: what goes
/// before the NEXT_HOP, and what goes after it, since attributes are best sent
/// in ascending order of type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attrs {
    pub(crate) origin: u8,
    pub(crate) as_path: Vec<u32>,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) atomic: bool,
    pub(crate) aggregator: Option<(u32, Ipv4Addr)>,
    pub(crate) communities: Vec<u32>,
    pub(crate) large: Vec<[u32; 3]>,
}

fn attr(out: &mut Vec<u8>, flags: u8, kind: u8, body: &[u8]) {
    if body.len() > 255 {
        out.extend_from_slice(&[flags | 0x10, kind]);
        out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    } else {
        out.extend_from_slice(&[flags, kind, body.len() as u8]);
    }
    out.extend_from_slice(body);
}

impl Attrs {
    fn encode(&self, fam: Family, next_hop: IpAddr, out: &mut Vec<u8>) {
        attr(out, 0x40, 1, &[self.origin]);
        let mut b = Vec::new();
        for seg in self.as_path.chunks(255) {
            b.push(2);
            b.push(seg.len() as u8);
            for a in seg {
                b.extend_from_slice(&a.to_be_bytes());
            }
        }
        attr(out, 0x40, 2, &b);
        if let (Family::V4, IpAddr::V4(nh)) = (fam, next_hop) {
            attr(out, 0x40, 3, &nh.octets());
        }
        if let Some(m) = self.med {
            attr(out, 0x80, 4, &m.to_be_bytes());
        }
        if let Some(l) = self.local_pref {
            attr(out, 0x40, 5, &l.to_be_bytes());
        }
        if self.atomic {
            attr(out, 0x40, 6, &[]);
        }
        if let Some((asn, id)) = self.aggregator {
            b.clear();
            b.extend_from_slice(&asn.to_be_bytes());
            b.extend_from_slice(&id.octets());
            attr(out, 0xc0, 7, &b);
        }
        if !self.communities.is_empty() {
            b.clear();
            for c in &self.communities {
                b.extend_from_slice(&c.to_be_bytes());
            }
            attr(out, 0xc0, 8, &b);
        }
        if !self.large.is_empty() {
            b.clear();
            for c in self.large.iter().flatten() {
                b.extend_from_slice(&c.to_be_bytes());
            }
            attr(out, 0xc0, 32, &b);
        }
    }
}

/// Appends UPDATEs that announce `prefixes` with one attribute set, as many
/// messages as the 4,096-octet limit asks for.
pub(crate) fn announce(
    fam: Family,
    attrs: &Attrs,
    next_hop: IpAddr,
    mut prefixes: &[Prefix],
    out: &mut Vec<u8>,
    mut mark: impl FnMut(usize),
) {
    let mut common = Vec::new();
    attrs.encode(fam, next_hop, &mut common);
    while !prefixes.is_empty() {
        mark(out.len());
        let at = begin(out, UPDATE);
        out.extend_from_slice(&[0, 0]); // no withdrawn routes
        let room = MAX_MSG - HEADER - 4 - common.len();
        match fam {
            Family::V4 => {
                out.extend_from_slice(&(common.len() as u16).to_be_bytes());
                out.extend_from_slice(&common);
                let n = fitting(prefixes, room);
                for p in &prefixes[..n] {
                    p.encode(out);
                }
                prefixes = &prefixes[n..];
            }
            Family::V6 => {
                let IpAddr::V6(nh) = next_hop else {
                    panic!("an IPv6 blast needs an IPv6 next hop")
                };
                // MP_REACH_NLRI: flags, type, 2 of length, AFI, SAFI, length
                // and next hop, reserved octet.
                let n = fitting(prefixes, room - 4 - 2 - 1 - 1 - 16 - 1);
                let nlri: usize = prefixes[..n].iter().map(Prefix::wire_len).sum();
                let body = 21 + nlri;
                out.extend_from_slice(&((common.len() + 4 + body) as u16).to_be_bytes());
                out.extend_from_slice(&[0x90, 14]);
                out.extend_from_slice(&(body as u16).to_be_bytes());
                out.extend_from_slice(&fam.afi().to_be_bytes());
                out.extend_from_slice(&[SAFI_UNICAST, 16]);
                out.extend_from_slice(&nh.octets());
                out.push(0);
                for p in &prefixes[..n] {
                    p.encode(out);
                }
                out.extend_from_slice(&common);
                prefixes = &prefixes[n..];
            }
        }
        finish(out, at);
    }
}

/// Appends UPDATEs that withdraw `prefixes`.
pub(crate) fn withdraw(
    fam: Family,
    mut prefixes: &[Prefix],
    out: &mut Vec<u8>,
    mut mark: impl FnMut(usize),
) {
    while !prefixes.is_empty() {
        mark(out.len());
        let at = begin(out, UPDATE);
        match fam {
            Family::V4 => {
                let n = fitting(prefixes, MAX_MSG - HEADER - 4);
                let nlri: usize = prefixes[..n].iter().map(Prefix::wire_len).sum();
                out.extend_from_slice(&(nlri as u16).to_be_bytes());
                for p in &prefixes[..n] {
                    p.encode(out);
                }
                out.extend_from_slice(&[0, 0]);
                prefixes = &prefixes[n..];
            }
            Family::V6 => {
                let n = fitting(prefixes, MAX_MSG - HEADER - 4 - 4 - 3);
                let nlri: usize = prefixes[..n].iter().map(Prefix::wire_len).sum();
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&((nlri + 7) as u16).to_be_bytes());
                out.extend_from_slice(&[0x90, 15]);
                out.extend_from_slice(&((nlri + 3) as u16).to_be_bytes());
                out.extend_from_slice(&fam.afi().to_be_bytes());
                out.push(SAFI_UNICAST);
                for p in &prefixes[..n] {
                    p.encode(out);
                }
                prefixes = &prefixes[n..];
            }
        }
        finish(out, at);
    }
}

fn fitting(prefixes: &[Prefix], room: usize) -> usize {
    let mut used = 0;
    let mut n = 0;
    for p in prefixes {
        used += p.wire_len();
        if used > room {
            break;
        }
        n += 1;
    }
    assert!(n > 0, "attributes leave no room for a prefix");
    n
}

// ---------------------------------------------------------------- reading

#[derive(Debug)]
pub(crate) struct Malformed(pub(crate) String);

macro_rules! bad {
    ($($t:tt)*) => { return Err(Malformed(format!($($t)*))) };
}

/// Looks for one whole message at the start of `buf`: its type and length.
pub(crate) fn frame(buf: &[u8]) -> Result<Option<(u8, usize)>, Malformed> {
    if buf.len() < HEADER {
        return Ok(None);
    }
    if buf[..16] != [0xff; 16] {
        bad!("message marker is not all ones");
    }
    let len = u16::from_be_bytes([buf[16], buf[17]]) as usize;
    if !(HEADER..=MAX_MSG).contains(&len) {
        bad!("message length {len}");
    }
    if buf.len() < len {
        return Ok(None);
    }
    Ok(Some((buf[18], len)))
}

#[derive(Debug, Clone)]
pub(crate) struct PeerOpen {
    pub(crate) asn: u32,
    pub(crate) four_octet: bool,
    pub(crate) families: Vec<(u16, u8)>,
}

pub(crate) fn parse_open(body: &[u8]) -> Result<PeerOpen, Malformed> {
    if body.len() < 10 {
        bad!("OPEN of {} octets", body.len());
    }
    if body[0] != 4 {
        bad!("BGP version {}", body[0]);
    }
    let mut o = PeerOpen {
        asn: u16::from_be_bytes([body[1], body[2]]) as u32,
        four_octet: false,
        families: Vec::new(),
    };
    // RFC 9072 extended optional parameters are recognised by 255/255.
    let extended = body[9] == 255 && body.len() > 12 && body[10] == 255;
    let (mut rest, total) = if extended {
        (
            &body[13..],
            u16::from_be_bytes([body[11], body[12]]) as usize,
        )
    } else {
        (&body[10..], body[9] as usize)
    };
    if rest.len() != total {
        bad!(
            "OPEN optional parameters: {} octets, said {total}",
            rest.len()
        );
    }
    while !rest.is_empty() {
        let head = if extended { 3 } else { 2 };
        if rest.len() < head {
            bad!("OPEN optional parameter cut short");
        }
        let kind = rest[0];
        let len = if extended {
            u16::from_be_bytes([rest[1], rest[2]]) as usize
        } else {
            rest[1] as usize
        };
        if rest.len() < head + len {
            bad!("OPEN optional parameter runs over");
        }
        let mut caps = &rest[head..head + len];
        rest = &rest[head + len..];
        if kind != 2 {
            continue;
        }
        while !caps.is_empty() {
            if caps.len() < 2 || caps.len() < 2 + caps[1] as usize {
                bad!("capability cut short");
            }
            let v = &caps[2..2 + caps[1] as usize];
            match (caps[0], v.len()) {
                (1, 4) => o.families.push((u16::from_be_bytes([v[0], v[1]]), v[3])),
                (65, 4) => {
                    o.four_octet = true;
                    o.asn = u32::from_be_bytes([v[0], v[1], v[2], v[3]]);
                }
                _ => {}
            }
            caps = &caps[2 + v.len()..];
        }
    }
    Ok(o)
}

/// What the meter wants to know of an UPDATE's attributes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) origin: Option<u8>,
    pub(crate) path_len: usize,
    pub(crate) first_as: Option<u32>,
    pub(crate) as_path: bool,
    pub(crate) next_hop: bool,
    pub(crate) local_pref: bool,
    pub(crate) originator: bool,
    pub(crate) cluster_list: bool,
}

pub(crate) struct Update<'a> {
    pub(crate) seen: Seen,
    pub(crate) withdrawn: &'a [u8],
    pub(crate) announced: &'a [u8],
    pub(crate) mp_withdrawn: &'a [u8],
    pub(crate) mp_announced: &'a [u8],
}

pub(crate) fn parse_update(body: &[u8], fam: Family) -> Result<Update<'_>, Malformed> {
    if body.len() < 4 {
        bad!("UPDATE body of {} octets", body.len());
    }
    let wl = u16::from_be_bytes([body[0], body[1]]) as usize;
    if body.len() < 4 + wl {
        bad!("withdrawn routes run over");
    }
    let al = u16::from_be_bytes([body[2 + wl], body[3 + wl]]) as usize;
    if body.len() < 4 + wl + al {
        bad!("path attributes run over");
    }
    let mut u = Update {
        seen: Seen::default(),
        withdrawn: &body[2..2 + wl],
        announced: &body[4 + wl + al..],
        mp_withdrawn: &[],
        mp_announced: &[],
    };
    let mut a = &body[4 + wl..4 + wl + al];
    let mut types = [0u64; 4];
    while !a.is_empty() {
        if a.len() < 3 {
            bad!("attribute header cut short");
        }
        let (flags, kind) = (a[0], a[1]);
        let (head, len) = if flags & 0x10 != 0 {
            if a.len() < 4 {
                bad!("attribute header cut short");
            }
            (4, u16::from_be_bytes([a[2], a[3]]) as usize)
        } else {
            (3, a[2] as usize)
        };
        if a.len() < head + len {
            bad!("attribute {kind} runs over");
        }
        let v = &a[head..head + len];
        a = &a[head + len..];
        let bit = 1u64 << (kind & 63);
        if types[(kind >> 6) as usize] & bit != 0 {
            bad!("attribute {kind} sent twice");
        }
        types[(kind >> 6) as usize] |= bit;
        match kind {
            1 if len == 1 && v[0] < 3 => u.seen.origin = Some(v[0]),
            1 => bad!("ORIGIN of {len} octets"),
            2 => {
                u.seen.as_path = true;
                let mut s = v;
                while !s.is_empty() {
                    if s.len() < 2 || s.len() < 2 + 4 * s[1] as usize || s[1] == 0 {
                        bad!("AS_PATH segment cut short");
                    }
                    let n = s[1] as usize;
                    match s[0] {
                        1 => u.seen.path_len += 1,
                        2 => {
                            if u.seen.first_as.is_none() {
                                u.seen.first_as =
                                    Some(u32::from_be_bytes([s[2], s[3], s[4], s[5]]));
                            }
                            u.seen.path_len += n;
                        }
                        3 | 4 => {}
                        t => bad!("AS_PATH segment type {t}"),
                    }
                    s = &s[2 + 4 * n..];
                }
            }
            3 if len == 4 => u.seen.next_hop = true,
            3 => bad!("NEXT_HOP of {len} octets"),
            5 => u.seen.local_pref = true,
            9 => u.seen.originator = true,
            10 => u.seen.cluster_list = true,
            14 => {
                if len < 5 || len < 5 + v[3] as usize {
                    bad!("MP_REACH_NLRI cut short");
                }
                if u16::from_be_bytes([v[0], v[1]]) == fam.afi() && v[2] == SAFI_UNICAST {
                    u.seen.next_hop = true;
                    u.mp_announced = &v[5 + v[3] as usize..];
                }
            }
            15 => {
                if len < 3 {
                    bad!("MP_UNREACH_NLRI cut short");
                }
                if u16::from_be_bytes([v[0], v[1]]) == fam.afi() && v[2] == SAFI_UNICAST {
                    u.mp_withdrawn = &v[3..];
                }
            }
            _ => {}
        }
    }
    let announces = !u.announced.is_empty() || !u.mp_announced.is_empty();
    if announces && (u.seen.origin.is_none() || !u.seen.as_path || !u.seen.next_hop) {
        bad!("routes announced without ORIGIN, AS_PATH or a next hop");
    }
    Ok(u)
}

/// Walks a list of prefixes in wire form.
pub(crate) fn each_prefix(
    mut b: &[u8],
    bits: u8,
    mut f: impl FnMut(Prefix),
) -> Result<(), Malformed> {
    while let Some(&len) = b.first() {
        let n = (len as usize).div_ceil(8);
        if len > bits || b.len() < 1 + n {
            bad!("prefix of length {len} in {} octets", b.len());
        }
        let mut o = [0u8; 16];
        o[..n].copy_from_slice(&b[1..1 + n]);
        b = &b[1 + n..];
        f(Prefix {
            addr: u128::from_be_bytes(o),
            len,
        });
    }
    Ok(())
}
