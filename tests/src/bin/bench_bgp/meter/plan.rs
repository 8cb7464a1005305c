//! What is announced: the prefixes, who announces them and with which path.
//! All of it is computed from a seed before the clock starts, so that a run
//! can be repeated message for message and the sending side costs little.

use crate::meter::wire::{self, Attrs, Family, Prefix};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// SplitMix64: small, fast, and good enough to make up routes with.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn shuffle<T>(&mut self, v: &mut [T]) {
        for i in (1..v.len()).rev() {
            v.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A run of prefixes of one length at consecutive places: index to prefix and
/// back is arithmetic, so a receiver needs no table to know a prefix.
struct Region {
    base: u128,
    len: u8,
    first: usize,
    count: usize,
}

impl Region {
    fn prefix(&self, i: usize) -> Prefix {
        Prefix {
            addr: self.base + ((i as u128) << (128 - self.len)),
            len: self.len,
        }
    }
}

/// The set of all prefixes that a run may announce.
pub(crate) struct Universe {
    pub(crate) fam: Family,
    pub(crate) size: usize,
    regions: Vec<Region>,
    by_len: [u8; 129],
    probe: Region,
}

pub(crate) const PROBES: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Lengths in about the shares of the public Internet table.
    Internet,
    /// Only host routes (/32 or /128), as of containers or load balancers.
    Host,
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> u128 {
    (u32::from_be_bytes([a, b, c, d]) as u128) << 96
}

impl Universe {
    pub(crate) fn new(fam: Family, mix: Mix, size: usize) -> Self {
        // (length, share in 1/1000, base). The bases leave room for 1,000,000
        // prefixes of the mix, outside 127/8 and outside the 10/8 that the
        // peers' own addresses use.
        let table: Vec<(u8, usize, u128)> = match (mix, fam) {
            (Mix::Internet, Family::V4) => vec![
                (23, 98, v4(40, 0, 0, 0)),
                (22, 112, v4(48, 0, 0, 0)),
                (21, 48, v4(60, 0, 0, 0)),
                (20, 44, v4(72, 0, 0, 0)),
                (19, 26, v4(86, 0, 0, 0)),
                (18, 14, v4(100, 128, 0, 0)),
                (17, 8, v4(128, 0, 0, 0)),
                (16, 14, v4(150, 0, 0, 0)),
                (24, 636, v4(24, 0, 0, 0)),
            ],
            (Mix::Internet, Family::V6) => vec![
                (48, 480, 0x2001_u128 << 112),
                (44, 110, 0x2400_u128 << 112),
                (40, 110, 0x2600_u128 << 112),
                (36, 60, 0x2800_u128 << 112),
                (32, 240, 0x2a00_u128 << 112),
            ],
            (Mix::Host, Family::V4) => vec![(32, 1000, v4(100, 64, 0, 0))],
            (Mix::Host, Family::V6) => vec![(128, 1000, 0x2001_0db8_00aa_u128 << 80)],
        };
        // The last row takes what rounding leaves over.
        let mut regions: Vec<Region> = Vec::new();
        let mut by_len = [u8::MAX; 129];
        let mut first = 0;
        for (k, &(len, share, base)) in table.iter().enumerate() {
            let count = if k + 1 == table.len() {
                size - first
            } else {
                size * share / 1000
            };
            by_len[len as usize] = regions.len() as u8;
            regions.push(Region {
                base,
                len,
                first,
                count,
            });
            first += count;
        }
        let probe = match fam {
            Family::V4 => Region {
                base: v4(198, 18, 0, 0),
                len: 32,
                first: 0,
                count: PROBES,
            },
            Family::V6 => Region {
                base: 0x2001_0db8_00bb_u128 << 80,
                len: 128,
                first: 0,
                count: PROBES,
            },
        };
        Self {
            fam,
            size,
            regions,
            by_len,
            probe,
        }
    }

    pub(crate) fn prefix(&self, i: usize) -> Prefix {
        let r = self
            .regions
            .iter()
            .find(|r| i < r.first + r.count)
            .expect("index in the universe");
        r.prefix(i - r.first)
    }

    /// The index of a prefix, if this run announces it.
    #[inline]
    pub(crate) fn index(&self, p: Prefix) -> Option<usize> {
        let r = self.regions.get(self.by_len[p.len as usize] as usize)?;
        Self::within(r, p).map(|i| r.first + i)
    }

    #[inline]
    fn within(r: &Region, p: Prefix) -> Option<usize> {
        let off = p.addr.checked_sub(r.base)?;
        let shift = 128 - r.len;
        let i = off >> shift;
        (i < r.count as u128 && i << shift == off).then_some(i as usize)
    }

    pub(crate) fn probe(&self, k: usize) -> Prefix {
        self.probe.prefix(k % PROBES)
    }

    #[inline]
    pub(crate) fn probe_index(&self, p: Prefix) -> Option<usize> {
        if p.len != self.probe.len {
            return None;
        }
        Self::within(&self.probe, p)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// AS paths, communities and the rest in about the shares of the Internet.
    Internet,
    /// ORIGIN, an AS path as short as the session allows and no more.
    Plain,
}

#[derive(Clone, Debug)]
pub(crate) struct PlanSpec {
    pub(crate) fam: Family,
    pub(crate) mix: Mix,
    pub(crate) style: Style,
    pub(crate) senders: usize,
    pub(crate) prefixes: usize,
    /// Share of each sender's prefixes that every sender announces.
    pub(crate) overlap: f64,
    /// Mean number of prefixes that share an attribute set.
    pub(crate) per_update: usize,
    /// Every group has exactly `per_update` prefixes.
    pub(crate) fixed_groups: bool,
    pub(crate) seed: u64,
    pub(crate) ibgp: bool,
    /// Some paths carry ATOMIC_AGGREGATE.
    pub(crate) atomic: bool,
}

/// Bytes to write, cut at message boundaries.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cuts: Vec<usize>,
    pub(crate) messages: usize,
}

impl Stream {
    const CHUNK: usize = 128 * 1024;
    fn mark(cuts: &mut Vec<usize>, messages: &mut usize, at: usize) {
        *messages += 1;
        if at - cuts.last().copied().unwrap_or(0) >= Self::CHUNK {
            cuts.push(at);
        }
    }
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self
            .cuts
            .iter()
            .copied()
            .chain(std::iter::once(self.bytes.len()));
        let mut from = 0;
        ends.map(move |to| {
            let c = &self.bytes[from..to];
            from = to;
            c
        })
    }
}

pub(crate) struct Sender {
    pub(crate) announce: Stream,
    pub(crate) withdraw: Stream,
    pub(crate) probe_attrs: Attrs,
}

pub(crate) struct Plan {
    pub(crate) universe: Universe,
    pub(crate) senders: Vec<Arc<Sender>>,
    /// For each prefix the rank of its best path: see `rank`.
    pub(crate) best: Vec<u8>,
    /// Prefixes [0, common) come from every sender; each sender's own follow.
    pub(crate) common: usize,
    pub(crate) own: usize,
    pub(crate) attr_sets: usize,
}

pub(crate) const ABSENT: u8 = u8::MAX;

/// The part of the decision process that every implementation must agree on,
/// as one number, lower being better: AS_PATH length, then ORIGIN.
pub(crate) fn rank(path_len: usize, origin: u8) -> u8 {
    (path_len.min(62) * 4) as u8 + origin
}

fn mixed(seed: u64, a: u64, b: u64) -> Rng {
    let mut r =
        Rng(seed ^ a.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ b.wrapping_mul(0xa076_1d64_78bd_642f));
    r.next();
    r
}

/// A made-up public AS number; private ones are left for the sessions.
fn public_as(r: &mut Rng) -> u32 {
    if r.below(100) < 62 {
        1_000 + r.below(62_000) as u32
    } else {
        131_072 + r.below(270_000) as u32
    }
}

fn path_len(r: &mut Rng) -> usize {
    // About the spread of path lengths that one feeder of a full table shows.
    match r.below(1000) {
        0..=9 => 1,
        10..=109 => 2,
        110..=389 => 3,
        390..=699 => 4,
        700..=859 => 5,
        860..=929 => 6,
        930..=964 => 7,
        965..=984 => 8,
        x => 9 + (x as usize - 985) / 2,
    }
}

fn group_attrs(spec: &PlanSpec, sender: usize, asn: u32, group: u64) -> Attrs {
    let mut a = Attrs::default();
    if spec.ibgp {
        a.local_pref = Some(100);
    } else {
        a.as_path.push(asn);
    }
    if spec.style == Style::Plain {
        return a;
    }
    // What belongs to the origin is the same from every sender.
    let mut o = mixed(spec.seed, group, 1);
    let origin_as = public_as(&mut o);
    a.origin = match o.below(100) {
        0..=88 => 0,
        89..=90 => 1,
        _ => 2,
    };
    a.atomic = o.below(100) < 3 && spec.atomic;
    if o.below(100) < 6 {
        a.aggregator = Some((origin_as, Ipv4Addr::from(o.next() as u32 | 0x0100_0000)));
    }
    let prepend = if o.below(100) < 8 {
        1 + o.below(3) as usize
    } else {
        0
    };
    // What belongs to the way there differs from sender to sender.
    let mut r = mixed(spec.seed, group, 2 + sender as u64);
    let len = path_len(&mut r);
    let transit = if spec.ibgp { len } else { len - 1 };
    for k in 0..transit {
        if k + 1 == transit {
            for _ in 0..=prepend {
                a.as_path.push(origin_as);
            }
        } else {
            a.as_path.push(public_as(&mut r));
        }
    }
    if r.below(100) < 25 {
        a.med = Some(r.below(500) as u32);
    }
    if r.below(100) < 70 {
        let tag = if asn < 65536 { asn } else { 64_999 };
        for _ in 0..1 + r.below(9) {
            a.communities.push((tag << 16) | r.below(4000) as u32);
        }
        a.communities.sort_unstable();
        a.communities.dedup();
    }
    if r.below(100) < 12 {
        for _ in 0..1 + r.below(3) {
            a.large
                .push([asn, r.below(50) as u32, r.next() as u32 & 0xffff]);
        }
        a.large.sort_unstable();
        a.large.dedup();
    }
    a
}

pub(crate) struct Who {
    pub(crate) asn: u32,
    pub(crate) next_hop: IpAddr,
}

pub(crate) fn build(spec: &PlanSpec, who: &[Who]) -> Plan {
    assert_eq!(who.len(), spec.senders);
    let common = (spec.prefixes as f64 * spec.overlap).round() as usize;
    let own = spec.prefixes - common;
    let size = common + own * spec.senders;
    let universe = Universe::new(spec.fam, spec.mix, size);

    // Prefixes are dealt into groups in a shuffled order, so that neighbours
    // in a message are seldom neighbours in the address space.
    let deal = |from: usize, count: usize, salt: u64| -> Vec<Vec<u32>> {
        let mut all: Vec<u32> = (from as u32..(from + count) as u32).collect();
        let mut r = mixed(spec.seed, salt, 77);
        r.shuffle(&mut all);
        let mut groups = Vec::new();
        let mut rest = &all[..];
        while !rest.is_empty() {
            let n = if spec.fixed_groups || spec.per_update <= 1 {
                spec.per_update.max(1)
            } else {
                // Geometric about the mean, with a floor of one.
                let mean = (spec.per_update - 1) as f64;
                1 + (-(1.0 - r.unit()).ln() * mean) as usize
            };
            let n = n.min(rest.len());
            groups.push(rest[..n].to_vec());
            rest = &rest[n..];
        }
        groups
    };

    let shared = deal(0, common, 0);
    let mut best = vec![ABSENT; size];
    let mut senders = Vec::new();
    let mut attr_sets = 0;
    for (s, w) in who.iter().enumerate() {
        let mine = deal(common + s * own, own, 1 + s as u64);
        let mut order: Vec<(u64, &Vec<u32>)> = shared
            .iter()
            .enumerate()
            .map(|(g, m)| (g as u64, m))
            .chain(
                mine.iter()
                    .enumerate()
                    .map(|(g, m)| ((1 + s as u64) << 32 | g as u64, m)),
            )
            .collect();
        mixed(spec.seed, s as u64, 99).shuffle(&mut order);

        let mut ann = Stream::default();
        let mut gone: Vec<u32> = Vec::with_capacity(spec.prefixes);
        let mut list = Vec::new();
        for (g, members) in order {
            let attrs = group_attrs(spec, s, w.asn, g);
            // A receiver over eBGP sees the device's own AS in front.
            let k = rank(attrs.as_path.len() + usize::from(!spec.ibgp), attrs.origin);
            list.clear();
            for &m in members {
                list.push(universe.prefix(m as usize));
                let b = &mut best[m as usize];
                *b = (*b).min(k);
            }
            gone.extend_from_slice(members);
            let (cuts, messages) = (&mut ann.cuts, &mut ann.messages);
            wire::announce(spec.fam, &attrs, w.next_hop, &list, &mut ann.bytes, |at| {
                Stream::mark(cuts, messages, at)
            });
            attr_sets += 1;
        }
        wire::end_of_rib(spec.fam, &mut ann.bytes);

        let mut wd = Stream::default();
        list.clear();
        list.extend(gone.iter().map(|&m| universe.prefix(m as usize)));
        let (cuts, messages) = (&mut wd.cuts, &mut wd.messages);
        wire::withdraw(spec.fam, &list, &mut wd.bytes, |at| {
            Stream::mark(cuts, messages, at)
        });

        let mut probe_attrs = Attrs::default();
        if spec.ibgp {
            probe_attrs.local_pref = Some(100);
        } else {
            probe_attrs.as_path.push(w.asn);
        }
        senders.push(Arc::new(Sender {
            announce: ann,
            withdraw: wd,
            probe_attrs,
        }));
    }
    Plan {
        universe,
        senders,
        best,
        common,
        own,
        attr_sets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> PlanSpec {
        PlanSpec {
            fam: Family::V4,
            mix: Mix::Internet,
            style: Style::Internet,
            senders: 3,
            prefixes: 5000,
            overlap: 0.5,
            per_update: 8,
            fixed_groups: false,
            seed: 7,
            ibgp: false,
            atomic: true,
        }
    }

    #[test]
    fn index_and_prefix_are_each_others_inverse() {
        for (fam, mix, n) in [
            (Family::V4, Mix::Internet, 1_000_000),
            (Family::V4, Mix::Host, 25_000),
            (Family::V6, Mix::Internet, 200_000),
        ] {
            let u = Universe::new(fam, mix, n);
            let mut seen = std::collections::HashSet::new();
            for i in 0..n {
                let p = u.prefix(i);
                assert_eq!(u.index(p), Some(i));
                assert!(u.probe_index(p).is_none());
                assert!(seen.insert((p.addr, p.len)));
            }
            assert_eq!(u.index(u.probe(5)), None);
            assert_eq!(u.probe_index(u.probe(5)), Some(5));
        }
    }

    #[test]
    fn regions_of_a_million_stay_apart_from_special_space() {
        let u = Universe::new(Family::V4, Mix::Internet, 1_000_000);
        for i in 0..1_000_000 {
            let a = (u.prefix(i).addr >> 120) as u8;
            assert!(
                a != 127 && a != 10 && a != 0 && a < 224,
                "{}",
                u.prefix(i).display(Family::V4)
            );
        }
    }

    #[test]
    fn streams_hold_every_prefix_once_and_parse() {
        let who: Vec<Who> = (0..3)
            .map(|i| Who {
                asn: 65001 + i,
                next_hop: IpAddr::V4(Ipv4Addr::new(10, 0, 1, i as u8)),
            })
            .collect();
        let p = build(&spec(), &who);
        assert_eq!(p.universe.size, 2500 + 3 * 2500);
        for (i, s) in p.senders.iter().enumerate() {
            for stream in [&s.announce, &s.withdraw] {
                let mut seen = vec![false; p.universe.size];
                for c in stream.chunks() {
                    let mut c = c;
                    while !c.is_empty() {
                        let (t, n) = wire::frame(c).unwrap().expect("chunks end with a message");
                        assert_eq!(t, wire::UPDATE);
                        let u = wire::parse_update(&c[19..n], Family::V4).unwrap();
                        for b in [u.announced, u.withdrawn] {
                            wire::each_prefix(b, 32, |q| {
                                let k = p.universe.index(q).unwrap();
                                assert!(!seen[k]);
                                seen[k] = true;
                                if !u.announced.is_empty() {
                                    let r = rank(u.seen.path_len + 1, u.seen.origin.unwrap());
                                    assert!(r >= p.best[k]);
                                }
                            })
                            .unwrap();
                        }
                        c = &c[n..];
                    }
                }
                let own = p.common + i * p.own..p.common + (i + 1) * p.own;
                for (k, s) in seen.iter().enumerate() {
                    assert_eq!(*s, k < p.common || own.contains(&k));
                }
            }
        }
        assert!(p.best.iter().all(|b| *b != ABSENT));
    }

    #[test]
    fn v6_streams_parse() {
        let mut s = spec();
        s.fam = Family::V6;
        let who: Vec<Who> = (0..3)
            .map(|i| Who {
                asn: 65001 + i,
                next_hop: "fd00::1".parse().unwrap(),
            })
            .collect();
        let p = build(&s, &who);
        let mut n = 0;
        let mut c = &p.senders[0].announce.bytes[..];
        while !c.is_empty() {
            let (_, len) = wire::frame(c).unwrap().unwrap();
            let u = wire::parse_update(&c[19..len], Family::V6).unwrap();
            wire::each_prefix(u.mp_announced, 128, |q| {
                p.universe.index(q).unwrap();
                n += 1;
            })
            .unwrap();
            c = &c[len..];
        }
        assert_eq!(n, 5000);
    }
}
