//! One BGP session to the device under test, and the exact account that a
//! receiving session keeps of what it was told.

use crate::meter::plan::{ABSENT, PROBES, Plan, rank};
use crate::meter::wire::{self, Family, Malformed};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};

#[derive(Clone)]
pub(crate) struct PeerSpec {
    pub(crate) index: usize,
    pub(crate) addr: IpAddr,
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) next_hop: IpAddr,
    pub(crate) ibgp: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Nothing is waited for.
    Idle,
    /// Every expected prefix is held with a path of the best rank.
    Full,
    /// No expected prefix is held.
    Empty,
}

/// What one receiver holds, and when it came to hold it.
pub(crate) struct Held {
    plan: Rc<Plan>,
    ibgp: bool,
    dut_as: u32,
    /// Prefixes of the peer itself, when it also sends: not expected back.
    own: std::ops::Range<usize>,
    rank: Vec<u8>,
    pub(crate) expected: usize,
    pub(crate) present: usize,
    pub(crate) best: usize,
    pub(crate) goal: Goal,
    pub(crate) all_present_at: Option<Instant>,
    pub(crate) goal_at: Option<Instant>,
    pub(crate) c: Counts,
    probe_seen: Vec<bool>,
}

/// Running counts; a phase reports the difference of two of these.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) updates: u64,
    pub(crate) bytes: u64,
    pub(crate) announced: u64,
    pub(crate) withdrawn: u64,
    /// Announced with the rank it already had: a repeat, or another path as good.
    pub(crate) same_rank: u64,
    /// Withdrawn though not held.
    pub(crate) spurious_withdraw: u64,
    /// Prefixes that nobody announced.
    pub(crate) unknown: u64,
    /// The peer's own prefixes sent back to it.
    pub(crate) echoed: u64,
    /// Ranked better than any path that was announced.
    pub(crate) impossible: u64,
    /// eBGP without the device's AS in front; iBGP without LOCAL_PREF or, on a
    /// reflected route, without ORIGINATOR_ID and CLUSTER_LIST.
    pub(crate) bad_attrs: u64,
}

impl Counts {
    pub(crate) fn since(&self, o: &Self) -> Self {
        Self {
            updates: self.updates - o.updates,
            bytes: self.bytes - o.bytes,
            announced: self.announced - o.announced,
            withdrawn: self.withdrawn - o.withdrawn,
            same_rank: self.same_rank - o.same_rank,
            spurious_withdraw: self.spurious_withdraw - o.spurious_withdraw,
            unknown: self.unknown - o.unknown,
            echoed: self.echoed - o.echoed,
            impossible: self.impossible - o.impossible,
            bad_attrs: self.bad_attrs - o.bad_attrs,
        }
    }
    pub(crate) fn add(&mut self, o: &Self) {
        self.updates += o.updates;
        self.bytes += o.bytes;
        self.announced += o.announced;
        self.withdrawn += o.withdrawn;
        self.same_rank += o.same_rank;
        self.spurious_withdraw += o.spurious_withdraw;
        self.unknown += o.unknown;
        self.echoed += o.echoed;
        self.impossible += o.impossible;
        self.bad_attrs += o.bad_attrs;
    }
}

impl Held {
    pub(crate) fn new(plan: Rc<Plan>, peer: &PeerSpec, dut_as: u32, sends: bool) -> Self {
        let size = plan.universe.size;
        let own = if sends {
            let from = plan.common + peer.index * plan.own;
            from..from + plan.own
        } else {
            0..0
        };
        Self {
            ibgp: peer.ibgp,
            dut_as,
            expected: size - own.len(),
            own,
            rank: vec![ABSENT; size],
            present: 0,
            best: 0,
            goal: Goal::Idle,
            all_present_at: None,
            goal_at: None,
            c: Counts::default(),
            probe_seen: vec![false; PROBES],
            plan,
        }
    }

    pub(crate) fn aim(&mut self, g: Goal) {
        self.goal = g;
        self.all_present_at = None;
        self.goal_at = None;
        self.check(Instant::now());
    }

    pub(crate) fn met(&self) -> bool {
        match self.goal {
            Goal::Idle => true,
            Goal::Full => self.best == self.expected && self.present == self.expected,
            Goal::Empty => self.present == 0,
        }
    }

    fn check(&mut self, now: Instant) {
        if self.goal == Goal::Full && self.all_present_at.is_none() && self.present == self.expected
        {
            self.all_present_at = Some(now);
        }
        if self.goal_at.is_none() && self.met() {
            self.goal_at = Some(now);
        }
    }

    pub(crate) fn missing(&self, max: usize) -> Vec<String> {
        let u = &self.plan.universe;
        (0..u.size)
            .filter(|i| !self.own.contains(i))
            .filter(|&i| match self.goal {
                Goal::Empty => self.rank[i] != ABSENT,
                _ => self.rank[i] != self.plan.best[i],
            })
            .take(max)
            .map(|i| {
                format!(
                    "{} (rank {} of {})",
                    u.prefix(i).display(u.fam),
                    self.rank[i],
                    self.plan.best[i]
                )
            })
            .collect()
    }

    fn set(&mut self, i: usize, to: u8) {
        let best = self.plan.best[i];
        let from = std::mem::replace(&mut self.rank[i], to);
        match (from == ABSENT, to == ABSENT) {
            (true, false) => self.present += 1,
            (false, true) => self.present -= 1,
            _ => {}
        }
        if from == best {
            self.best -= 1;
        }
        if to == best {
            self.best += 1;
        }
    }

    fn update(&mut self, body: &[u8], probes: &Probes) -> Result<(), Malformed> {
        let plan = Rc::clone(&self.plan);
        let fam = plan.universe.fam;
        let u = wire::parse_update(body, fam)?;
        self.c.updates += 1;
        self.c.bytes += body.len() as u64 + wire::HEADER as u64;
        let (gone, new) = match fam {
            Family::V4 => (u.withdrawn, u.announced),
            Family::V6 => (u.mp_withdrawn, u.mp_announced),
        };
        // A device may also carry IPv4 unicast in the MP attributes.
        let lists = [
            (gone, false),
            (u.mp_withdrawn, false),
            (new, true),
            (u.mp_announced, true),
        ];
        for (k, (list, announce)) in lists.into_iter().enumerate() {
            if list.is_empty() || (fam == Family::V6 && k % 2 == 1) {
                continue;
            }
            let to = if announce {
                let bad = if self.ibgp {
                    !u.seen.local_pref || !u.seen.originator || !u.seen.cluster_list
                } else {
                    u.seen.first_as != Some(self.dut_as) || u.seen.local_pref
                };
                self.c.bad_attrs += u64::from(bad);
                rank(u.seen.path_len, u.seen.origin.unwrap_or(2))
            } else {
                ABSENT
            };
            wire::each_prefix(list, fam.bits(), |p| {
                if announce {
                    self.c.announced += 1;
                } else {
                    self.c.withdrawn += 1;
                }
                if let Some(i) = plan.universe.index(p) {
                    if self.own.contains(&i) {
                        self.c.echoed += u64::from(announce);
                        return;
                    }
                    let had = self.rank[i];
                    if announce {
                        self.c.same_rank += u64::from(had == to);
                        self.c.impossible += u64::from(to < plan.best[i]);
                    } else {
                        self.c.spurious_withdraw += u64::from(had == ABSENT);
                    }
                    self.set(i, to);
                } else if let Some(k) = plan.universe.probe_index(p) {
                    if self.probe_seen[k] != announce {
                        self.probe_seen[k] = announce;
                        probes.hit(k, announce);
                    }
                } else {
                    self.c.unknown += 1;
                }
            })?;
        }
        Ok(())
    }
}

/// The one small change under way, and when each receiver saw it.
#[derive(Default)]
pub(crate) struct Probes {
    pub(crate) want: Cell<Option<(usize, bool)>>,
    pub(crate) first: Cell<Option<Instant>>,
    pub(crate) last: Cell<Option<Instant>>,
    pub(crate) seen: Cell<usize>,
    pub(crate) need: Cell<usize>,
    pub(crate) done: Notify,
}

impl Probes {
    fn hit(&self, k: usize, announce: bool) {
        if self.want.get() != Some((k, announce)) {
            return;
        }
        let now = Instant::now();
        if self.first.get().is_none() {
            self.first.set(Some(now));
        }
        self.seen.set(self.seen.get() + 1);
        if self.seen.get() == self.need.get() {
            self.last.set(Some(now));
            self.done.notify_one();
        }
    }
}

/// What all sessions share with the conductor.
#[derive(Default)]
pub(crate) struct Hub {
    pub(crate) established: Cell<usize>,
    pub(crate) changed: Notify,
    pub(crate) failure: RefCell<Option<String>>,
    pub(crate) probes: Probes,
    pub(crate) closing: Cell<bool>,
}

impl Hub {
    pub(crate) fn fail(&self, why: String) {
        if self.closing.get() {
            return;
        }
        let mut f = self.failure.borrow_mut();
        if f.is_none() {
            *f = Some(why);
        }
        self.changed.notify_one();
    }
    pub(crate) fn failed(&self) -> Option<String> {
        self.failure.borrow().clone()
    }
}

pub(crate) enum Job {
    Bytes(Vec<u8>),
    Announce(Arc<crate::meter::plan::Sender>),
    Withdraw(Arc<crate::meter::plan::Sender>),
}

pub(crate) struct Session {
    pub(crate) tx: mpsc::UnboundedSender<Job>,
    pub(crate) held: Option<Rc<RefCell<Held>>>,
    pub(crate) established_at: Rc<Cell<Option<Instant>>>,
    pub(crate) sent_at: Rc<Cell<Option<Instant>>>,
}

pub(crate) struct Connect {
    pub(crate) dut: SocketAddr,
    pub(crate) dut_as: u32,
    pub(crate) hold: u16,
    pub(crate) family: Family,
    pub(crate) deadline: Instant,
}

async fn read_msg(s: &mut TcpStream) -> Result<(u8, Vec<u8>), String> {
    let mut h = [0u8; wire::HEADER];
    s.read_exact(&mut h).await.map_err(|e| e.to_string())?;
    let len = u16::from_be_bytes([h[16], h[17]]) as usize;
    if h[..16] != [0xff; 16] || !(wire::HEADER..=wire::MAX_MSG).contains(&len) {
        return Err("not a BGP message".into());
    }
    let mut b = vec![0; len - wire::HEADER];
    s.read_exact(&mut b).await.map_err(|e| e.to_string())?;
    Ok((h[18], b))
}

fn notification(b: &[u8]) -> String {
    let (c, s) = (
        b.first().copied().unwrap_or(0),
        b.get(1).copied().unwrap_or(0),
    );
    let name = match c {
        1 => "message header error",
        2 => "OPEN message error",
        3 => "UPDATE message error",
        4 => "hold timer expired",
        5 => "finite state machine error",
        6 => "cease",
        7 => "route refresh error",
        8 => "send hold timer expired",
        _ => "?",
    };
    format!(
        "NOTIFICATION {c}/{s} ({name}), data {:02x?}",
        b.get(2..).unwrap_or(&[])
    )
}

fn socket(p: &PeerSpec, c: &Connect) -> Result<TcpSocket, String> {
    let sock = if c.dut.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(|e| e.to_string())?;
    sock.set_reuseaddr(true).map_err(|e| e.to_string())?;
    sock.bind(SocketAddr::new(p.addr, 0))
        .map_err(|e| format!("bind {}: {e}", p.addr))?;
    Ok(sock)
}

/// One attempt to bring the session to Established.
async fn attempt(p: &PeerSpec, c: &Connect) -> Result<TcpStream, String> {
    let mut s = socket(p, c)?
        .connect(c.dut)
        .await
        .map_err(|e| format!("connect {}: {e}", c.dut))?;
    s.set_nodelay(true).map_err(|e| e.to_string())?;
    let me = wire::open(&wire::OpenParams {
        asn: p.asn,
        hold: c.hold,
        router_id: p.router_id,
        family: c.family,
    });
    s.write_all(&me).await.map_err(|e| e.to_string())?;
    let mut theirs = None;
    loop {
        let (kind, body) = read_msg(&mut s).await?;
        match kind {
            wire::OPEN => {
                let o = wire::parse_open(&body).map_err(|e| e.0)?;
                if o.asn != c.dut_as {
                    return Err(format!("the device says AS {}, not {}", o.asn, c.dut_as));
                }
                if !o.four_octet {
                    return Err("the device does not offer four-octet AS numbers".into());
                }
                if !o.families.is_empty()
                    && !o.families.contains(&(c.family.afi(), wire::SAFI_UNICAST))
                {
                    return Err(format!("the device does not offer {:?} unicast", c.family));
                }
                theirs = Some(o);
                s.write_all(&wire::keepalive())
                    .await
                    .map_err(|e| e.to_string())?;
            }
            wire::KEEPALIVE => match theirs {
                Some(_) => return Ok(s),
                None => return Err("KEEPALIVE before OPEN".into()),
            },
            wire::NOTIFICATION => return Err(notification(&body)),
            t => return Err(format!("message type {t} before Established")),
        }
    }
}

pub(crate) async fn establish(
    p: PeerSpec,
    c: Rc<Connect>,
    hub: Rc<Hub>,
    held: Option<Held>,
) -> Result<Session, String> {
    let mut last = String::from("no answer");
    let stream = loop {
        let left = c.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!(
                "peer {} ({}) not established in time: {last}",
                p.index, p.addr
            ));
        }
        match tokio::time::timeout(left.min(Duration::from_secs(20)), attempt(&p, &c)).await {
            Ok(Ok(ok)) => break ok,
            Ok(Err(e)) => last = e,
            Err(_) => last = "the device did not finish the handshake in 20 s".into(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (rd, mut wr) = stream.into_split();
    let established_at = Rc::new(Cell::new(Some(Instant::now())));
    hub.established.set(hub.established.get() + 1);
    hub.changed.notify_one();

    let (tx, mut rx) = mpsc::unbounded_channel::<Job>();
    let sent_at = Rc::new(Cell::new(None));
    {
        let (hub, sent_at, who) = (Rc::clone(&hub), Rc::clone(&sent_at), p.clone());
        tokio::task::spawn_local(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(20));
            let ka = wire::keepalive();
            let r: std::io::Result<()> = async {
                loop {
                    tokio::select! {
                        biased;
                        job = rx.recv() => {
                            let Some(job) = job else { return Ok(()) };
                            let sender;
                            let s: &crate::meter::plan::Stream = match job {
                                Job::Bytes(b) => { wr.write_all(&b).await?; continue }
                                Job::Announce(s) => { sender = s; &sender.announce }
                                Job::Withdraw(s) => { sender = s; &sender.withdraw }
                            };
                            for chunk in s.chunks() {
                                wr.write_all(chunk).await?;
                            }
                            sent_at.set(Some(Instant::now()));
                        }
                        _ = tick.tick() => wr.write_all(&ka).await?,
                    }
                }
            }
            .await;
            if let Err(e) = r {
                hub.fail(format!(
                    "writing to the device as peer {} ({}): {e}",
                    who.index, who.addr
                ));
            }
        });
    }
    let held = held.map(|h| Rc::new(RefCell::new(h)));
    {
        let (hub, held, who) = (Rc::clone(&hub), held.clone(), p.clone());
        tokio::task::spawn_local(async move {
            if let Err(e) = read_loop(rd, &hub, held.as_deref()).await {
                hub.fail(format!("session of peer {} ({}): {e}", who.index, who.addr));
            }
        });
    }
    Ok(Session {
        tx,
        held,
        established_at,
        sent_at,
    })
}

async fn read_loop(
    mut rd: OwnedReadHalf,
    hub: &Hub,
    held: Option<&RefCell<Held>>,
) -> Result<(), String> {
    let mut buf = vec![0u8; 512 * 1024];
    let mut have = 0;
    loop {
        let n = rd.read(&mut buf[have..]).await.map_err(|e| e.to_string())?;
        if n == 0 {
            return Err("closed by the device".into());
        }
        // The arrival time of all that this read brought.
        let now = Instant::now();
        have += n;
        let mut at = 0;
        let mut changed = false;
        while let Some((kind, len)) = wire::frame(&buf[at..have]).map_err(|e| e.0)? {
            let body = &buf[at + wire::HEADER..at + len];
            match kind {
                wire::UPDATE => {
                    if let Some(h) = held {
                        h.borrow_mut().update(body, &hub.probes).map_err(|e| {
                            format!("the device sent a malformed UPDATE: {}: {:02x?}", e.0, body)
                        })?;
                        changed = true;
                    }
                }
                wire::NOTIFICATION => return Err(notification(body)),
                wire::KEEPALIVE | wire::ROUTE_REFRESH => {}
                t => return Err(format!("message type {t} in Established")),
            }
            at += len;
        }
        buf.copy_within(at..have, 0);
        have -= at;
        if changed && let Some(h) = held {
            let mut h = h.borrow_mut();
            let before = h.goal_at.is_some();
            h.check(now);
            if !before && h.goal_at.is_some() {
                hub.changed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::plan::{Mix, PlanSpec, Style, Who, build};

    fn setup(senders: usize, overlap: f64) -> (Rc<Plan>, Held) {
        let spec = PlanSpec {
            fam: Family::V4,
            mix: Mix::Internet,
            style: Style::Internet,
            senders,
            prefixes: 500,
            overlap,
            per_update: 4,
            fixed_groups: false,
            seed: 3,
            ibgp: false,
            atomic: true,
        };
        let who: Vec<Who> = (0..senders)
            .map(|i| Who {
                asn: 64601 + i as u32,
                next_hop: IpAddr::V4(Ipv4Addr::new(10, 99, 1, 1)),
            })
            .collect();
        let plan = Rc::new(build(&spec, &who));
        let peer = PeerSpec {
            index: senders,
            addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            asn: 64700,
            router_id: Ipv4Addr::LOCALHOST,
            next_hop: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ibgp: false,
        };
        let held = Held::new(Rc::clone(&plan), &peer, 65000, false);
        (plan, held)
    }

    /// The sender's messages as a device would pass them on: its AS in front.
    fn passed_on(stream: &[u8], out: &mut Vec<Vec<u8>>) {
        let mut c = stream;
        while let Some((_, len)) = wire::frame(c).unwrap() {
            let mut b = c[19..len].to_vec();
            c = &c[len..];
            let attrs = u16::from_be_bytes([b[2], b[3]]);
            if b[..2] == [0, 0] && attrs > 0 {
                // ORIGIN is 4 octets; then AS_PATH: flags, type, length, segment type, count.
                assert_eq!(b[4 + 4 + 1], 2);
                b[4 + 4 + 2] += 4;
                b[4 + 4 + 4] += 1;
                b.splice(4 + 4 + 5..4 + 4 + 5, 65000u32.to_be_bytes());
                b[2..4].copy_from_slice(&(attrs + 4).to_be_bytes());
            }
            out.push(b);
        }
    }

    #[test]
    fn a_dropped_a_stale_and_a_doubled_update_are_seen() {
        let (plan, mut h) = setup(1, 0.0);
        let probes = Probes::default();
        let mut msgs = Vec::new();
        passed_on(&plan.senders[0].announce.bytes, &mut msgs);
        h.aim(Goal::Full);
        for m in &msgs[1..] {
            h.update(m, &probes).unwrap();
        }
        assert!(!h.met(), "one UPDATE is missing");
        assert!(!h.missing(5).is_empty());
        h.update(&msgs[0], &probes).unwrap();
        assert!(h.met());
        assert_eq!(
            (h.c.unknown, h.c.impossible, h.c.bad_attrs, h.c.same_rank),
            (0, 0, 0, 0)
        );
        h.update(&msgs[0], &probes).unwrap();
        assert!(h.c.same_rank > 0);

        let mut gone = Vec::new();
        passed_on(&plan.senders[0].withdraw.bytes, &mut gone);
        h.aim(Goal::Empty);
        for m in &gone {
            h.update(m, &probes).unwrap();
        }
        assert!(h.met());
        assert_eq!(h.c.spurious_withdraw, 0);
        h.update(&gone[0], &probes).unwrap();
        assert!(h.c.spurious_withdraw > 0);
    }

    #[test]
    fn the_worse_of_two_paths_is_not_enough() {
        let (plan, mut h) = setup(2, 1.0);
        let probes = Probes::default();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        passed_on(&plan.senders[0].announce.bytes, &mut a);
        passed_on(&plan.senders[1].announce.bytes, &mut b);
        h.aim(Goal::Full);
        for m in &a {
            h.update(m, &probes).unwrap();
        }
        assert_eq!(h.present, h.expected);
        assert!(!h.met(), "all present, but not all best");
        assert_eq!(h.c.impossible, 0);
        for m in &b {
            h.update(m, &probes).unwrap();
        }
        assert!(!h.met(), "the last path is not always the best one");
    }

    #[test]
    fn the_own_as_missing_in_front_is_seen() {
        let (plan, mut h) = setup(1, 0.0);
        let c = &plan.senders[0].announce.bytes;
        let (_, len) = wire::frame(c).unwrap().unwrap();
        h.update(&c[19..len], &Probes::default()).unwrap();
        assert_eq!(h.c.bad_attrs, 1);
        assert!(h.c.impossible > 0, "a path shorter than any announced");
    }
}
