//! Conducts one run: sessions up, then the phases one after another.

use crate::meter::Opts;
use crate::meter::plan::{self, PROBES, Plan, Who};
use crate::meter::proc;
use crate::meter::report::{Latency, Phase, Report, Spread};
use crate::meter::session::{self, Connect, Counts, Goal, Held, Hub, Job, Session};
use crate::meter::wire;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Single changes that say something of the slowest in a hundred, where time allows no more.
const ENOUGH: usize = 400;

struct Meter {
    dut: Option<u32>,
    cpu: f64,
    own: f64,
    machine: f64,
    at: Instant,
}

struct Used {
    dut: Option<proc::Usage>,
    dut_cpu: Option<f64>,
    foreign: f64,
}

impl Meter {
    fn start(dut: Option<u32>) -> Self {
        Self {
            dut,
            cpu: dut.and_then(proc::tree).map_or(0.0, |u| u.cpu_s),
            own: proc::own_cpu(),
            machine: proc::machine_busy(),
            at: Instant::now(),
        }
    }
    fn stop(&self) -> Used {
        let dut = self.dut.and_then(proc::tree);
        let dut_cpu = dut.map(|u| u.cpu_s - self.cpu);
        let own_cpu = proc::own_cpu() - self.own;
        let busy = proc::machine_busy() - self.machine - own_cpu - dut_cpu.unwrap_or(0.0);
        let wall = self.at.elapsed().as_secs_f64().max(0.001);
        Used {
            dut,
            dut_cpu,
            foreign: (busy / wall).max(0.0),
        }
    }
}

struct Run {
    o: Opts,
    plan: Rc<Plan>,
    hub: Rc<Hub>,
    sessions: Vec<Session>,
    late: Vec<Session>,
}

impl Run {
    fn receivers(&self) -> impl Iterator<Item = &Rc<RefCell<Held>>> {
        self.sessions
            .iter()
            .chain(&self.late)
            .filter_map(|s| s.held.as_ref())
    }

    fn counts(&self) -> Counts {
        let mut c = Counts::default();
        for r in self.receivers() {
            c.add(&r.borrow().c);
        }
        c
    }

    /// Waits until every receiver came to its goal.
    async fn wait(&self, deadline: Instant) -> Result<(), String> {
        loop {
            if let Some(e) = self.hub.failed() {
                return Err(e);
            }
            if self.receivers().all(|r| r.borrow().goal_at.is_some()) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("not converged in time".into());
            }
            drop(tokio::time::timeout(left, self.hub.changed.notified()).await);
        }
    }

    async fn phase(&self, name: &str, goal: Goal) -> Phase {
        let before = self.counts();
        for r in self.receivers() {
            r.borrow_mut().aim(Goal::Idle);
            let mut h = r.borrow_mut();
            h.goal = goal;
            h.goal_at = None;
            h.all_present_at = None;
        }
        for s in &self.sessions {
            s.sent_at.set(None);
        }
        let meter = Meter::start(self.o.dut_pid);
        let t0 = Instant::now();
        for (i, s) in self.plan.senders.iter().enumerate() {
            let job = if goal == Goal::Full {
                Job::Announce(Arc::clone(s))
            } else {
                Job::Withdraw(Arc::clone(s))
            };
            drop(self.sessions[i].tx.send(job));
        }
        let mut error = self.wait(t0 + self.o.timeout).await.err();
        // A wrong or late message would still come: listen a while longer.
        if error.is_none() {
            tokio::time::sleep(self.o.quiet).await;
            error = self.hub.failed();
        }
        let used = meter.stop();
        let since = |t: Option<Instant>| t.map(|t| t.duration_since(t0).as_secs_f64());
        let mut p = Phase {
            name: name.into(),
            converged: Spread::of(self.receivers().filter_map(|r| since(r.borrow().goal_at))),
            all_present: Spread::of(
                self.receivers()
                    .filter_map(|r| since(r.borrow().all_present_at)),
            ),
            sent_s: self.sessions[..self.plan.senders.len()]
                .iter()
                .filter_map(|s| since(s.sent_at.get()))
                .fold(0.0, f64::max),
            counts: self.counts().since(&before),
            dut_cpu_s: used.dut_cpu,
            foreign_cpu: used.foreign,
            dut: used.dut,
            ..Phase::default()
        };
        let short: Vec<String> = self
            .receivers()
            .enumerate()
            .filter(|(_, r)| !r.borrow().met())
            .take(4)
            .map(|(i, r)| {
                let h = r.borrow();
                format!(
                    "receiver {i} holds {} of {} ({} with the best rank), e.g. {}",
                    h.present,
                    h.expected,
                    h.best,
                    h.missing(3).join(", ")
                )
            })
            .collect();
        if !short.is_empty() {
            let e = error.get_or_insert_with(|| "the account changed after convergence".into());
            e.push_str(": ");
            e.push_str(&short.join("; "));
        }
        if error.is_none() && (p.counts.unknown > 0 || p.counts.impossible > 0) {
            error = Some(format!(
                "{} prefixes nobody announced, {} paths nobody announced",
                p.counts.unknown, p.counts.impossible
            ));
        }
        p.error = error;
        p
    }

    /// Single-route changes, one at a time, from sender 0.
    async fn latency(&self, trials: usize) -> Result<Latency, String> {
        let probes = &self.hub.probes;
        let sender = &self.plan.senders[0];
        let peer = self.o.peer(0);
        let fam = self.plan.universe.fam;
        let need = self.receivers().count() - usize::from(self.o.both);
        probes.need.set(need);
        let mut l = Latency::default();
        let meter = Meter::start(self.o.dut_pid);
        let end = Instant::now() + self.o.timeout;
        let mut jitter = plan::Rng(self.o.spec.seed);
        'trials: for k in 0..trials {
            let p = [self.plan.universe.probe(k % PROBES)];
            for announce in [true, false] {
                let mut msg = Vec::new();
                if announce {
                    wire::announce(
                        fam,
                        &sender.probe_attrs,
                        peer.next_hop,
                        &p,
                        &mut msg,
                        |_| {},
                    );
                } else {
                    wire::withdraw(fam, &p, &mut msg, |_| {});
                }
                probes.want.set(Some((k % PROBES, announce)));
                probes.first.set(None);
                probes.last.set(None);
                probes.seen.set(0);
                let t0 = Instant::now();
                drop(self.sessions[0].tx.send(Job::Bytes(msg)));
                let ok = tokio::time::timeout(Duration::from_secs(10), async {
                    while probes.last.get().is_none() && self.hub.failed().is_none() {
                        tokio::select! {
                            _ = probes.done.notified() => {}
                            _ = tokio::time::sleep(Duration::from_millis(250)) => {}
                        }
                    }
                })
                .await;
                if let Some(e) = self.hub.failed() {
                    return Err(e);
                }
                match (ok, probes.first.get(), probes.last.get()) {
                    (Ok(()), Some(a), Some(b)) => {
                        let us = |t: Instant| t.duration_since(t0).as_secs_f64() * 1e6;
                        if announce {
                            l.announce_first.push(us(a));
                            l.announce_all.push(us(b));
                        } else {
                            l.withdraw_first.push(us(a));
                            l.withdraw_all.push(us(b));
                        }
                    }
                    _ => {
                        return Err(format!(
                            "trial {k}: {} seen by {} of {need} receivers in 10 s",
                            if announce {
                                "announcement"
                            } else {
                                "withdrawal"
                            },
                            probes.seen.get()
                        ));
                    }
                }
                if Instant::now() > end {
                    if k >= ENOUGH {
                        break 'trials;
                    }
                    return Err(format!("latency trials ran out of time after {k}"));
                }
                let gap = self.o.latency_gap.as_micros() as u64;
                tokio::time::sleep(Duration::from_micros(gap + jitter.below(gap.max(1)))).await;
            }
        }
        let used = meter.stop();
        l.dut_cpu_s = used.dut_cpu;
        l.foreign_cpu = used.foreign;
        for v in [
            &mut l.announce_first,
            &mut l.announce_all,
            &mut l.withdraw_first,
            &mut l.withdraw_all,
        ] {
            v.sort_by(f64::total_cmp);
        }
        Ok(l)
    }
}

async fn connect_all(
    o: &Opts,
    plan: &Rc<Plan>,
    hub: &Rc<Hub>,
    which: std::ops::Range<usize>,
    goal: Goal,
) -> Result<Vec<Session>, String> {
    let c = Rc::new(Connect {
        dut: o.dut,
        dut_as: o.dut_as,
        hold: o.hold,
        family: o.spec.fam,
        deadline: Instant::now() + o.connect_timeout,
    });
    let mut tasks = Vec::new();
    for i in which {
        let sends = i < o.spec.senders;
        let peer = o.peer(i);
        let held = (!sends || o.both).then(|| {
            let mut h = Held::new(Rc::clone(plan), &peer, o.dut_as, sends);
            h.goal = goal;
            h
        });
        tasks.push(tokio::task::spawn_local(session::establish(
            peer,
            Rc::clone(&c),
            Rc::clone(hub),
            held,
        )));
    }
    let mut out = Vec::new();
    for t in tasks {
        out.push(t.await.map_err(|e| e.to_string())??);
    }
    Ok(out)
}

pub(crate) async fn run(o: Opts) -> Report {
    let who: Vec<Who> = (0..o.spec.senders)
        .map(|i| {
            let p = o.peer(i);
            Who {
                asn: p.asn,
                next_hop: p.next_hop,
            }
        })
        .collect();
    let plan = Rc::new(plan::build(&o.spec, &who));
    let mut rep = Report {
        attr_sets: plan.attr_sets,
        distinct: plan.universe.size,
        ..Report::default()
    };
    let hub = Rc::new(Hub::default());

    let initial = o.spec.senders + o.receivers;
    let started = Instant::now();
    let sessions = match connect_all(&o, &plan, &hub, 0..initial, Goal::Idle).await {
        Ok(s) => s,
        Err(e) => {
            rep.error = Some(e);
            return rep;
        }
    };
    rep.sessions_all_s = started.elapsed().as_secs_f64();
    tokio::time::sleep(o.settle).await;
    rep.idle = o.dut_pid.and_then(proc::tree);

    let mut r = Run {
        o: o.clone(),
        plan,
        hub: Rc::clone(&hub),
        sessions,
        late: Vec::new(),
    };
    let finish = |r: &Run, mut rep: Report, error: Option<String>| {
        rep.error = rep.error.take().or(error);
        rep.end = o.dut_pid.and_then(proc::tree);
        hub.closing.set(true);
        for s in r.sessions.iter().chain(&r.late) {
            drop(s.tx.send(Job::Bytes(wire::cease())));
        }
        rep
    };

    let p = r.phase("announce", Goal::Full).await;
    let bad = p.error.clone();
    rep.phases.push(p);
    if bad.is_some() {
        return finish(&r, rep, bad);
    }

    if o.late > 0 {
        let before = r.counts();
        let meter = Meter::start(o.dut_pid);
        for x in r.receivers() {
            x.borrow_mut().aim(Goal::Full);
        }
        match connect_all(&o, &r.plan, &hub, initial..initial + o.late, Goal::Full).await {
            Ok(s) => r.late = s,
            Err(e) => return finish(&r, rep, Some(e)),
        }
        let mut error = r.wait(Instant::now() + o.timeout).await.err();
        tokio::time::sleep(o.quiet).await;
        let used = meter.stop();
        if error.is_none() && r.receivers().any(|x| !x.borrow().met()) {
            error = Some("the account changed after the late joiners converged".into());
        }
        let times = |s: &Session, present: bool| -> Option<f64> {
            let h = s.held.as_ref()?.borrow();
            let t = if present {
                h.all_present_at?
            } else {
                h.goal_at?
            };
            Some(
                t.saturating_duration_since(s.established_at.get()?)
                    .as_secs_f64(),
            )
        };
        rep.phases.push(Phase {
            name: "late-join".into(),
            converged: Spread::of(r.late.iter().filter_map(|s| times(s, false))),
            all_present: Spread::of(r.late.iter().filter_map(|s| times(s, true))),
            counts: r.counts().since(&before),
            dut_cpu_s: used.dut_cpu,
            foreign_cpu: used.foreign,
            dut: used.dut,
            error: error.clone(),
            ..Phase::default()
        });
        if error.is_some() {
            return finish(&r, rep, error);
        }
    }

    if o.latency > 0 {
        match r.latency(o.latency).await {
            Ok(l) => rep.latency = Some(l),
            Err(e) => return finish(&r, rep, Some(e)),
        }
    }

    for k in 0..o.flaps {
        for (name, goal) in [("withdraw", Goal::Empty), ("re-announce", Goal::Full)] {
            let name = if k == 0 {
                name.to_string()
            } else {
                format!("{name}-{}", k + 1)
            };
            let p = r.phase(&name, goal).await;
            let bad = p.error.clone();
            rep.phases.push(p);
            if bad.is_some() {
                return finish(&r, rep, bad);
            }
        }
    }
    let rep = finish(&r, rep, None);
    tokio::time::sleep(Duration::from_millis(50)).await;
    rep
}
