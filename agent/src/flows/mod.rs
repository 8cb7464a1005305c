//! What policy decided about which traffic: packets that rules hand up, gathered into flows and told in the log.
//!
//! One task owns the listener, the memory and the names. The kernel hands up at most 100 packets a second of each rule;
//! what comes faster than the task reads is dropped by the kernel and counted. Nothing ever waits for the task.

mod names;
mod ring;

use std::time::{Duration, Instant, SystemTime};

use margay_api::flows::{FlowQuery, FlowReport, Reason, Verdict};
use margay_dataplane::filter::{Cause, Label, Nflog};
use margay_dataplane::nflog::{Listener, Packet, is_unsupported};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::kernel::KernelHandle;
use names::Names;
use ring::{Key, Ring};

/// How long packets are gathered into one flow; as long as others have it.
const INTERVAL: Duration = Duration::from_secs(15);

/// Packets taken in a second. Beyond it the kernel is left to drop them: it costs less there.
const A_SECOND: usize = 20_000;

/// Lines that a second may bring to the log.
const LINES_A_SECOND: u32 = 50;

/// Pause before it is tried again to listen.
const RETRY: Duration = Duration::from_secs(10);

/// Questions that may wait.
const QUESTIONS: usize = 16;

/// What is looked at and told.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FlowsConfig {
    /// Of which packets flows are kept, for `margayctl flows`.
    pub(crate) capture: Capture,
    /// Which packets are told of in the log.
    pub(crate) log: Logged,
    /// The group of `NFLOG` in the kernel, of which each program that listens needs its own.
    pub(crate) group: u16,
}

impl Default for FlowsConfig {
    fn default() -> Self {
        Self {
            capture: Capture::Denied,
            log: Logged::Rules,
            group: 77,
        }
    }
}

/// Packets of which flows are kept; always those that rules with the action `Log` match.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Capture {
    None,
    /// What policy denies, and what staged policy would deny.
    Denied,
    /// The opening packets of what it allows as well.
    All,
}

/// Packets that are told of in the log.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Logged {
    None,
    /// What rules with the action `Log` match.
    Rules,
    /// Each flow that is denied too, once in 15 s.
    Denied,
    /// Each flow.
    All,
}

impl Capture {
    const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Denied => "denied",
            Self::All => "all",
        }
    }
}

type Question = (FlowQuery, oneshot::Sender<FlowReport>);

/// Asks the task.
#[derive(Clone, Debug)]
pub(crate) struct FlowsHandle {
    questions: mpsc::Sender<Question>,
}

impl FlowsHandle {
    /// What was seen.
    pub(crate) async fn report(&self, query: FlowQuery) -> FlowReport {
        let (answer, wait) = oneshot::channel();
        // The task ends with the agent only.
        if self.questions.send((query, answer)).await.is_err() {
            return FlowReport::default();
        }
        wait.await.unwrap_or_default()
    }
}

/// The task before it runs: it has to be known whether the kernel can hand packets up before rules ask for it.
pub(crate) struct Flows {
    config: FlowsConfig,
    listener: Option<Listener>,
    supported: bool,
    problem: String,
}

impl Flows {
    /// Starts to listen. Needs the runtime that it is to run on.
    pub(crate) fn open(config: FlowsConfig) -> Self {
        let mut flows = Self {
            config,
            listener: None,
            supported: true,
            problem: String::new(),
        };
        flows.listen();
        flows
    }

    fn listen(&mut self) {
        match Listener::open(self.config.group) {
            Ok(listener) => {
                self.listener = Some(listener);
                self.problem.clear();
            }
            Err(error) => {
                let reason = error.refused().map(ToString::to_string);
                let reason = reason.unwrap_or_else(|| error.to_string());
                let problem = format!(
                    "cannot listen to group {} of NFLOG: {reason}",
                    self.config.group
                );
                if problem != self.problem {
                    warn!(problem, "packets that policy logs are not told of");
                }
                self.problem = problem;
                self.supported = !is_unsupported(&error);
            }
        }
    }

    /// What rules are to hand up.
    pub(crate) fn wanted(&self) -> Option<Nflog> {
        let FlowsConfig {
            capture,
            log,
            group,
        } = self.config;
        self.supported.then_some(Nflog {
            group,
            denied: capture >= Capture::Denied || log >= Logged::Denied,
            allowed: capture >= Capture::All || log >= Logged::All,
        })
    }

    /// Runs until the last handle is dropped.
    pub(crate) fn spawn(self, node: String, kernel: KernelHandle) -> FlowsHandle {
        let (questions, queue) = mpsc::channel(QUESTIONS);
        let task = Task {
            flows: self,
            node,
            kernel,
            names: Names::default(),
            ring: Ring::default(),
            lost_before: 0,
            second: Second::at(Instant::now()),
        };
        tokio::spawn(task.run(queue));
        FlowsHandle { questions }
    }
}

/// What was done since this second began.
struct Second {
    began: Instant,
    packets: usize,
    lines: u32,
    untold: u64,
}

impl Second {
    const fn at(began: Instant) -> Self {
        Self {
            began,
            packets: 0,
            lines: 0,
            untold: 0,
        }
    }

    fn end(&self) -> Instant {
        self.began + Duration::from_secs(1)
    }
}

struct Task {
    flows: Flows,
    node: String,
    kernel: KernelHandle,
    names: Names,
    ring: Ring,
    /// By listeners that failed.
    lost_before: u64,
    second: Second,
}

impl Task {
    async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        let mut intervals = tokio::time::interval(INTERVAL);
        intervals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry = Instant::now() + RETRY;
        loop {
            let deaf = self.flows.listener.is_none() && self.flows.supported;
            let full = self.second.packets >= A_SECOND;
            let listener = self.flows.listener.as_mut();
            // All arms are cancel-safe: a receive, timers, the listener's next packets.
            tokio::select! {
                biased;
                question = questions.recv() => {
                    let Some((query, answer)) = question else { return };
                    self.learn().await;
                    // Whoever asked may have given up.
                    drop(answer.send(self.report(&query)));
                }
                _ = intervals.tick() => {
                    self.learn().await;
                    self.ring.turn(&self.names);
                    self.names.forget();
                }
                () = tokio::time::sleep_until(retry.into()), if deaf => {
                    retry = Instant::now() + RETRY;
                    self.flows.listen();
                }
                () = tokio::time::sleep_until(self.second.end().into()), if full => self.next_second(),
                packets = next(listener), if !full => match packets {
                    Ok(packets) => self.take(packets).await,
                    Err(error) => {
                        warn!(%error, "the listener to packets that policy logs failed, will be opened anew");
                        self.lost_before = self.lost();
                        self.flows.listener = None;
                        retry = Instant::now() + RETRY;
                    }
                },
            }
        }
    }

    fn lost(&self) -> u64 {
        self.lost_before + self.flows.listener.as_ref().map_or(0, Listener::lost)
    }

    fn next_second(&mut self) {
        if self.second.untold > 0 {
            warn!(
                packets = self.second.untold,
                "more packets that policy logs than the log takes"
            );
        }
        self.second = Second::at(Instant::now());
    }

    async fn take(&mut self, packets: Vec<Packet>) {
        if Instant::now() >= self.second.end() {
            self.next_second();
        }
        self.second.packets += packets.len();
        let now_ms = milliseconds(SystemTime::now());
        let mut told = Vec::new();
        for packet in packets {
            // Somebody else's rules may use the group too.
            let Some(label) = Label::parse(&packet.prefix) else {
                continue;
            };
            let key = Key::of(label, &packet, &mut self.names);
            if let Some(is_new) = self.ring.add(&key, &packet, now_ms)
                && self.is_told(key.verdict(), is_new)
            {
                told.push((key, packet));
            }
        }
        if told.is_empty() {
            return;
        }
        let lines = LINES_A_SECOND.saturating_sub(self.second.lines) as usize;
        self.second.untold += told.len().saturating_sub(lines) as u64;
        told.truncate(lines);
        self.second.lines += told.len() as u32;
        self.learn().await;
        for (key, packet) in told {
            self.tell(&key, &packet);
        }
    }

    fn is_told(&self, verdict: Verdict, is_new: bool) -> bool {
        let log = self.flows.config.log;
        match verdict {
            Verdict::Log => log >= Logged::Rules,
            Verdict::Deny | Verdict::WouldDeny => log >= Logged::Denied && is_new,
            Verdict::Allow | Verdict::WouldAllow => log >= Logged::All && is_new,
        }
    }

    fn tell(&self, key: &Key, packet: &Packet) {
        let verdict = key.verdict().word();
        let direction = if key.label.ingress {
            "ingress"
        } else {
            "egress"
        };
        let (reason, tier, policy, rule) = match self.names.reason(&key.label.cause) {
            Reason::Policy { tier, policy, rule } => ("policy", tier, policy, Some(rule)),
            Reason::Profile { profile, rule } => (
                "profile",
                String::new(),
                format!("Profile/{profile}"),
                Some(rule),
            ),
            Reason::EndOfTier { tier } => ("end_of_tier", tier, String::new(), None),
            Reason::NothingAllowed => ("nothing_allowed", String::new(), String::new(), None),
            Reason::Spoofed => ("spoofed", String::new(), String::new(), None),
            Reason::NoSuchWorkload => ("no_such_workload", String::new(), String::new(), None),
        };
        let prefix = self
            .names
            .log_prefix()
            .filter(|_| key.verdict() == Verdict::Log);
        info!(
            prefix,
            verdict,
            direction,
            reason,
            tier,
            policy,
            rule,
            endpoint = self.names.endpoint(key),
            r#in = &*key.in_interface,
            out = &*key.out_interface,
            source = %key.source,
            destination = %key.destination,
            protocol = key.protocol,
            source_port = packet.ports.0,
            port = key.port,
            bytes = packet.bytes,
            "packet"
        );
    }

    /// Asks for the names that are needed and not known.
    async fn learn(&mut self) {
        let wanted = self.names.unknown(self.ring.keys());
        if !wanted.is_empty() {
            self.names.learned(self.kernel.explain(wanted).await);
        }
    }

    fn report(&self, query: &FlowQuery) -> FlowReport {
        let (flows, next) = self.ring.since(query, &self.names);
        FlowReport {
            node: self.node.clone(),
            capture: self.flows.config.capture.word().to_owned(),
            problem: self.flows.problem.clone(),
            interval_secs: INTERVAL.as_secs(),
            next,
            lost: self.lost(),
            crowded_out: self.ring.crowded_out(),
            flows,
        }
    }
}

async fn next(listener: Option<&mut Listener>) -> std::io::Result<Vec<Packet>> {
    match listener {
        Some(listener) => listener.packets().await,
        None => std::future::pending().await,
    }
}

/// Since 1970.
fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The name that a label has, where it has one that needs explaining.
fn named(cause: &Cause) -> Option<&str> {
    match cause {
        Cause::Policy { name, .. } | Cause::Profile { name, .. } | Cause::TierEnd(name) => {
            Some(name)
        }
        Cause::Nothing | Cause::Spoofed | Cause::NoSuchWorkload => None,
    }
}
