//! The storm itself: etcd, workers, and everything that can happen to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use margay_lab::{EtcdCluster, ensure_not_interrupted};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::planted::Plant;
use crate::proxy::{Faults, listen};
use crate::setting::Clock;

/// How many worker processes.
pub(crate) const WORKERS: usize = 20;
/// How long everything may take, against the worst.
const LIMIT: Duration = Duration::from_secs(1800);
/// The whole history stays, for the replay; a member that comes back need not go through all of it.
const ETCD_ARGS: [&str; 2] = ["--quota-backend-bytes=8000000000", "--snapshot-count=3000"];
/// How often a member is started until it is back, 30 s each, on a machine that is busy.
const STARTS: u32 = 4;
/// Pause between two looks at the workers.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// From one loss of the leader to the next.
const LEADER_EVERY: Duration = Duration::from_secs(9);
/// How long the calm phases may take.
const CALM: Duration = Duration::from_secs(150);

/// How the storm is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Force {
    pub(crate) seed: u64,
    /// Calls of all workers together.
    pub(crate) calls: u64,
    pub(crate) plant: Plant,
}

/// What happened to whom, in numbers.
#[derive(Debug, Default)]
pub(crate) struct Blows {
    pub(crate) kills: u32,
    pub(crate) pauses: u32,
    pub(crate) cuts: u32,
    pub(crate) delays: u32,
    pub(crate) lost_answers: u32,
    pub(crate) leaders: u32,
}

struct Node {
    name: String,
    urls: String,
    history: PathBuf,
    faults: Arc<Faults>,
    ahead_secs: i64,
    child: Option<Child>,
    done: bool,
    restart_at: Option<Instant>,
    resume_at: Option<Instant>,
    heal_at: Option<Instant>,
}

/// A leader's way down and up again, off the thread that deals with the workers.
type Outage = JoinHandle<(EtcdCluster, Result<()>)>;

/// The cluster under attack.
pub(crate) struct Storm {
    force: Force,
    clock: Clock,
    rng: fastrand::Rng,
    nodes: Vec<Node>,
    cluster: Option<EtcdCluster>,
    outage: Option<Outage>,
    pub(crate) blows: Blows,
}

impl Drop for Storm {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}

impl Node {
    fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(child) = &self.child {
            kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        }
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only when it has ended, which is what is wanted.
            drop(child.kill());
            drop(child.wait());
        }
        // What it had sent and did not arrive is lost with it.
        self.faults.cut();
        self.resume_at = None;
    }

    /// Whether it has ended well.
    fn has_ended(&mut self) -> Result<bool> {
        let Some(child) = &mut self.child else {
            return Ok(false);
        };
        let Some(status) = child.try_wait()? else {
            return Ok(false);
        };
        self.child = None;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(true)
    }
}

impl Storm {
    /// Starts etcd and the proxies; workers later.
    pub(crate) async fn prepare(force: Force, dir: &Path) -> Result<Self> {
        let cluster = EtcdCluster::start_with(3, &ETCD_ARGS)?;
        let mut rng = fastrand::Rng::with_seed(force.seed);
        let mut nodes = Vec::new();
        for n in 1..=WORKERS {
            let faults = Faults::new();
            let mut urls = Vec::new();
            for url in cluster.urls() {
                let target = url.strip_prefix("http://").context("a plain URL")?;
                let target: SocketAddr = target.parse()?;
                urls.push(listen(target, Arc::clone(&faults)).await?);
            }
            rng.shuffle(&mut urls);
            nodes.push(Node {
                name: format!("n{n}"),
                urls: urls.join(","),
                history: dir.join(format!("n{n}.jsonl")),
                faults,
                ahead_secs: rng.i64(-2..=2),
                child: None,
                done: false,
                restart_at: None,
                resume_at: None,
                heal_at: None,
            });
        }
        Ok(Self {
            force,
            clock: Clock::starting_now(),
            rng,
            nodes,
            cluster: Some(cluster),
            outage: None,
            blows: Blows::default(),
        })
    }

    /// The histories by node.
    pub(crate) fn histories(&self) -> BTreeMap<String, PathBuf> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| (node.name.clone(), node.history.clone()))
            .collect()
    }

    /// The storm's time.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// etcd without proxies. Not during an outage.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.cluster
            .as_ref()
            .map_or_else(Vec::new, EtcdCluster::urls)
    }

    fn start(&mut self, index: usize, phase: &str) -> Result<()> {
        let node = &mut self.nodes[index];
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(node.history.with_extension("log"))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["worker", &node.name, &node.urls])
            .arg(&node.history)
            .arg(self.rng.u64(..).to_string())
            .arg(phase)
            .arg((self.force.calls / WORKERS as u64).to_string())
            .arg(self.clock.epoch_ms.to_string())
            .arg(node.ahead_secs.to_string())
            .arg(self.force.plant.name())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a worker")?;
        node.child = Some(child);
        node.restart_at = None;
        Ok(())
    }

    /// Until every node has made its calls.
    pub(crate) fn rage(&mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            self.start(index, "storm")?;
        }
        let begin = Instant::now();
        let mut next_blow = begin;
        let mut next_leader = begin + LEADER_EVERY / 3;
        while self.nodes.iter().any(|node| !node.done) {
            ensure_not_interrupted()?;
            ensure!(begin.elapsed() < LIMIT, "workers do not come to an end");
            self.look(Instant::now())?;
            if Instant::now() >= next_blow {
                self.blow()?;
                next_blow = Instant::now() + Duration::from_millis(self.rng.u64(50..400));
            }
            if Instant::now() >= next_leader {
                self.lose_leader();
                next_leader = Instant::now() + LEADER_EVERY;
            }
            thread::sleep(LOOK_EVERY);
        }
        self.end_outage(true)
    }

    /// Ends what has to end by now.
    fn look(&mut self, now: Instant) -> Result<()> {
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if over(node.resume_at) {
                node.resume_at = None;
                node.signal(Signal::SIGCONT)?;
            }
            if over(node.heal_at) {
                node.heal_at = None;
                node.faults.heal();
            }
            node.done |= node.has_ended()?;
            if over(node.restart_at) {
                self.start(index, "storm")?;
            }
        }
        self.end_outage(false)
    }

    /// Something happens to some node.
    fn blow(&mut self) -> Result<()> {
        let index = self.rng.usize(..self.nodes.len());
        let now = Instant::now();
        let ms = |ms: u64| Duration::from_millis(ms);
        let rng = &mut self.rng;
        let node = &mut self.nodes[index];
        if node.child.is_none() || node.resume_at.is_some() {
            return Ok(());
        }
        match rng.u8(..10) {
            0 | 1 => {
                self.blows.kills += 1;
                node.kill();
                node.restart_at = Some(now + ms(rng.u64(..800)));
            }
            2 | 3 => {
                self.blows.pauses += 1;
                node.signal(Signal::SIGSTOP)?;
                // Often longer than a request may take.
                node.resume_at = Some(now + ms(rng.u64(100..3000)));
            }
            4 => {
                self.blows.cuts += 1;
                node.faults.cut();
            }
            5 | 6 => {
                self.blows.delays += 1;
                let delay = *rng.choice(&[5, 30, 200, 2000]).context("not empty")?;
                let which = match rng.bool() {
                    true => &node.faults.request_delay_ms,
                    false => &node.faults.answer_delay_ms,
                };
                which.store(delay, Ordering::Relaxed);
                node.heal_at = Some(now + ms(rng.u64(200..2500)));
            }
            _ => {
                self.blows.lost_answers += 1;
                node.faults.swallow_answers.store(true, Ordering::Relaxed);
                node.heal_at = Some(now + ms(rng.u64(20..600)));
            }
        }
        Ok(())
    }

    fn lose_leader(&mut self) {
        let Some(mut cluster) = self.cluster.take() else {
            return;
        };
        self.blows.leaders += 1;
        let down = Duration::from_millis(self.rng.u64(200..2500));
        self.outage = Some(thread::spawn(move || {
            let outcome = outage(&mut cluster, down);
            (cluster, outcome)
        }));
    }

    /// Takes the cluster back once its member is up again.
    fn end_outage(&mut self, wait: bool) -> Result<()> {
        if let Some(outage) = self.outage.take_if(|o| wait || o.is_finished()) {
            let Ok((cluster, outcome)) = outage.join() else {
                bail!("the thread of the outage panicked");
            };
            self.cluster = Some(cluster);
            outcome.context("outage of etcd's leader")?;
        }
        Ok(())
    }

    /// No more faults; one process of each node does what `phase` names.
    pub(crate) fn calm(&mut self, phase: &str) -> Result<()> {
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            node.kill();
            node.faults.heal();
            node.done = false;
            self.start(index, phase)?;
        }
        let begin = Instant::now();
        while self.nodes.iter().any(|node| !node.done) {
            ensure_not_interrupted()?;
            ensure!(begin.elapsed() < CALM, "{phase} does not come to an end");
            for node in &mut self.nodes {
                node.done |= node.has_ended()?;
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

fn outage(cluster: &mut EtcdCluster, down: Duration) -> Result<()> {
    // A member that is being elected is no leader to lose.
    let Ok(leader) = cluster.leader() else {
        return Ok(());
    };
    cluster.member(leader).kill()?;
    thread::sleep(down);
    let mut outcome = Ok(());
    for _ in 0..STARTS {
        outcome = cluster.member(leader).restart();
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}
