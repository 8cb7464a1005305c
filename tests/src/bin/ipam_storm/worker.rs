//! One node: an allocator driven as the agent's address task drives it, by runtimes that come and go.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use margay_ipam::sticky::{self, ENDPOINT, parked_until};
use margay_ipam::{
    Address, Allocator, AssignRequest, Extra, GiveUpRequest, IpamError, Outcome, ParkRequest,
    ReleaseRequest, Request,
};
use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::net::Cidr;
use margay_model::store::{Revision, Store as _, StoreError, Txn};
use margay_model::stored::{decode_stored, encode_stored};
use margay_model::workload_endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};

use crate::history::{Belief, Ended, Ledger, Operation, Record, Writer, read};
use crate::planted::{Plant, Planted};
use crate::setting::{self, Clock};

/// Most requests of one round, as in the agent.
const ROUND: usize = 64;
/// How often a release follows an endpoint that is not as expected, as in the agent.
const RELEASE_ATTEMPTS: u32 = 10;
/// How often an identity is looked up anew because it moved meanwhile, as in the agent.
const MOVE_ATTEMPTS: u32 = 10;
/// How long the calm phases may take.
const CALM: Duration = Duration::from_secs(90);

/// What a process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Random calls up to the quota.
    Storm,
    /// DEL of whatever is unclear.
    Settle,
    /// DEL of everything.
    Drain,
}

pub(crate) struct Options {
    pub(crate) node: String,
    pub(crate) endpoints: Vec<String>,
    pub(crate) history: PathBuf,
    pub(crate) seed: u64,
    pub(crate) phase: Phase,
    /// Calls that the node makes in all its processes.
    pub(crate) quota: u64,
    pub(crate) clock: Clock,
    pub(crate) plant: Plant,
}

struct Worker {
    node: String,
    allocator: Allocator<Planted>,
    store: Planted,
    plant: Plant,
    ledger: Ledger,
    writer: Writer,
    rng: fastrand::Rng,
    clock: Clock,
    /// Workloads wanted at present.
    target: usize,
}

/// Does what the phase asks for; returns when it is done.
pub(crate) async fn run(options: Options) -> Result<()> {
    let records = read(&options.history)?;
    let ledger = Ledger::new(&records);
    let process = ledger.processes + 1;
    let store = Planted {
        store: setting::store(&options.endpoints)?,
        plant: options.plant,
    };
    let allocator = Allocator::new(store.clone(), setting::ROOT, &options.node, setting::view());
    let mut worker = Worker {
        allocator: allocator.fenced(&format!("{}-{process}", options.node)),
        store,
        plant: options.plant,
        node: options.node,
        ledger,
        writer: Writer::open(&options.history)?,
        rng: fastrand::Rng::with_seed(options.seed.wrapping_add(records.len() as u64)),
        clock: options.clock,
        target: 10,
    };
    worker.note(Record::Start { process })?;
    while worker.allocator.load().await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    match options.phase {
        Phase::Storm => worker.storm(options.quota).await,
        Phase::Settle => worker.delete_all(|b| *b == Belief::Unclear).await,
        Phase::Drain => worker.delete_all(|b| *b != Belief::Gone).await,
    }
}

impl Worker {
    fn note(&mut self, record: Record) -> Result<()> {
        self.note_all(&[record])
    }

    fn note_all(&mut self, records: &[Record]) -> Result<()> {
        self.writer.append(records)?;
        records.iter().for_each(|r| self.ledger.take_in(r));
        Ok(())
    }

    async fn storm(&mut self, quota: u64) -> Result<()> {
        while self.ledger.next_id < quota {
            if self.rng.u8(..12) == 0 {
                self.target = *self.rng.choice(&[2, 10, 30, 60, 90]).context("not empty")?;
            }
            if self.rng.u8(..30) == 0 {
                self.end_leases().await;
            }
            let round = self.next_round();
            self.round(round).await?;
        }
        Ok(())
    }

    async fn delete_all(&mut self, wanted: impl Fn(&Belief) -> bool) -> Result<()> {
        let end = Instant::now() + CALM;
        loop {
            let mut workloads = self.ledger.select(&wanted);
            if workloads.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "cannot delete {workloads:?}");
            workloads.truncate(ROUND);
            let dels = workloads.into_iter();
            let dels = dels.map(|workload| Operation::Del { workload });
            self.round(dels.collect()).await?;
        }
    }

    /// What runtimes ask for next: mostly a few calls, at times many at once.
    fn next_round(&mut self) -> Vec<Operation> {
        let size = match self.rng.u8(..10) {
            0 => self.rng.usize(20..ROUND),
            1..5 => 1,
            _ => self.rng.usize(2..10),
        };
        let mut live = self.ledger.select(|b| matches!(b, Belief::Live(..)));
        let mut unclear = self.ledger.select(|b| *b == Belief::Unclear);
        let mut count = live.len();
        let mut round = Vec::new();
        for n in 0..size as u64 {
            let grow = match count < self.target {
                true => self.rng.u8(..10) < 8,
                false => self.rng.u8(..10) < 3,
            };
            let pick = self.rng.usize(..live.len().max(1));
            let op = if let Some(workload) = unclear.pop() {
                Operation::Del { workload }
            } else if self.rng.u8(..200) == 0 {
                match self.own_block() {
                    Some(block) => Operation::GiveUp { block },
                    None => continue,
                }
            } else if grow && self.rng.u8(..15) == 0 && !live.is_empty() {
                self.add(live.swap_remove(pick))
            } else if grow && self.rng.u8(..8) == 0 {
                let identity = self.rng.u8(..setting::IDENTITIES);
                let rest = format!("{}-{}", self.node, self.ledger.next_id + n);
                self.add(setting::sticky_workload(identity, &rest))
            } else if grow {
                count += 1;
                self.add(format!("{}-{}", self.node, self.ledger.next_id + n))
            } else if !live.is_empty() {
                count -= 1;
                let workload = live.swap_remove(pick);
                Operation::Del { workload }
            } else {
                continue;
            };
            round.push(op);
        }
        round
    }

    /// Addresses for a workload; the same question each time it is asked for the same one.
    fn add(&self, workload: String) -> Operation {
        if let Some(identity) = setting::identity(&workload) {
            let v6 = u32::from(identity.len() > 1);
            return Operation::Add {
                workload,
                v4: 1,
                v6,
                ips: Vec::new(),
            };
        }
        let seed = workload.bytes().fold(7_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = fastrand::Rng::with_seed(seed);
        let (v4, v6, specific) = match rng.u8(..10) {
            0..5 => (1, 0, 0),
            5..8 => (1, 1, 0),
            8 => (0, 0, 1),
            _ => (0, 1, 1),
        };
        Operation::Add {
            workload,
            v4,
            v6,
            ips: (0..specific).map(|_| setting::any_v4(&mut rng)).collect(),
        }
    }

    fn own_block(&mut self) -> Option<String> {
        let own = self.allocator.own_blocks();
        let block = own.get(self.rng.usize(..own.len().max(1)))?;
        Some(block.cidr.to_string())
    }

    /// Makes the calls together, as the agent does with those that wait.
    async fn round(&mut self, ops: Vec<Operation>) -> Result<()> {
        let first = self.ledger.next_id;
        let calls: Vec<_> = (first..)
            .zip(&ops)
            .map(|(id, op)| (id, op.clone()))
            .collect();
        let mut requests = Vec::new();
        let by_itself = |op: &Operation| match op {
            Operation::Add { workload, .. } => setting::identity(workload).is_some(),
            Operation::Del { .. } | Operation::GiveUp { .. } => false,
        };
        for op in ops.iter().filter(|op| !by_itself(op)) {
            requests.push(self.request(op)?);
        }
        let records: Vec<_> = calls
            .into_iter()
            .map(|(id, op)| Record::Call { id, op })
            .collect();
        self.note_all(&records)?;
        let (moves, others): (Vec<_>, Vec<_>) =
            (first..).zip(ops).partition(|(_, op)| by_itself(op));
        let outcomes = self.allocator.run(requests).await;
        for ((id, op), outcome) in others.into_iter().zip(outcomes) {
            let outcome = match &op {
                Operation::Del { workload } => self.follow_up(workload, outcome).await,
                Operation::Add { .. } | Operation::GiveUp { .. } => outcome,
            };
            self.note(Record::Done {
                id,
                outcome: ended(outcome),
            })?;
        }
        for (id, op) in moves {
            if let Operation::Add { workload, v6, .. } = op {
                let outcome = self.take_identity(&workload, v6).await;
                self.note(Record::Done { id, outcome })?;
            }
        }
        Ok(())
    }

    /// As the agent does it: what the identity holds goes to this workload, and the endpoint that had it
    /// goes. What is refused may have been tried before, and that attempt may arrive: never a plain no.
    async fn take_identity(&mut self, workload: &str, v6: u32) -> Ended {
        let handle = setting::handle(workload);
        let mut error = "others move it all the time".to_owned();
        for _ in 0..MOVE_ATTEMPTS {
            match self.try_identity(workload, &handle, v6).await {
                Ok(outcome) => return ended(Ok(outcome)),
                Err(IpamError::Moved { .. } | IpamError::ExtraConflict { .. }) => {}
                Err(other) => {
                    error = other.to_string();
                    break;
                }
            }
        }
        Ended::Unknown { error }
    }

    async fn try_identity(
        &mut self,
        workload: &str,
        handle: &str,
        v6: u32,
    ) -> Result<Outcome, IpamError> {
        let held = self.allocator.held_by(handle).await?;
        let mut txn = Txn::default();
        for held in held.iter().filter(|h| parked_until(&h.attribute).is_none()) {
            let Some(other) = held.attr(ENDPOINT).filter(|other| *other != workload) else {
                continue;
            };
            let key = setting::keys().resource(&setting::endpoint_key(other));
            let seen = txn.compares.iter().any(|compare| compare.key == key);
            if !seen && let Some(kv) = self.store.get(&key).await? {
                txn = txn.when(key.as_str(), kv.mod_revision).delete(key);
            }
        }
        let mut request = self.assign(workload, (1, v6), &[], txn);
        let identity = setting::identity(workload).unwrap_or_default();
        let moves = sticky::moves_to(&self.node, &held);
        let attrs = sticky::attrs(identity, setting::LEASE_SECS, workload, workload, moves);
        request.attrs.extend(attrs);
        request.take_over = Some(held.into_iter().map(|held| held.attribute).collect());
        self.allocator.assign(request).await
    }

    /// As every agent does for its own blocks and the collector for all.
    async fn end_leases(&mut self) {
        let early = match self.plant {
            Plant::EarlyLease => jiff::SignedDuration::from_hours(1),
            _ => jiff::SignedDuration::ZERO,
        };
        let now = self.clock.now();
        let Ok((held, _)) = self.allocator.held_everywhere().await else {
            return;
        };
        for held in held.iter().filter(|held| held.is_expired(now + early)) {
            // What fails is for the next look: somebody was faster, or the store is away.
            drop(self.allocator.release_ip(held.release(now)).await);
        }
    }

    fn request(&self, op: &Operation) -> Result<Request> {
        Ok(match op {
            Operation::Add {
                workload,
                v4,
                v6,
                ips,
            } => Request::Assign(self.assign(workload, (*v4, *v6), ips, Txn::default())),
            Operation::Del { workload } => {
                let revision = match self.ledger.belief(workload) {
                    Belief::Live(_, revision) => revision,
                    Belief::Unclear | Belief::Gone => 0,
                };
                self.del(workload, Some(revision))
            }
            Operation::GiveUp { block } => Request::GiveUp(GiveUpRequest {
                block: block.parse()?,
                node: self.node.clone(),
            }),
        })
    }

    /// `also` goes into the same transaction.
    fn assign(
        &self,
        workload: &str,
        (v4, v6): (u32, u32),
        ips: &[IpAddr],
        also: Txn,
    ) -> AssignRequest {
        let mut request = AssignRequest::new(setting::handle(workload), v4, v6, self.clock.now());
        request.ips = ips.to_vec();
        request.attrs.insert("pod".into(), workload.into());
        let keys = setting::keys();
        let key = keys.resource(&setting::endpoint_key(workload));
        let profile = keys.resource(&ResourceKey::global(Kind::Profile, "storm"));
        let endpoint = endpoint(workload, &self.node);
        request.with_extra(move |addresses: &[Address]| {
            let mut endpoint = endpoint.clone();
            endpoint.spec.ip_networks = addresses.iter().map(|a| Cidr::host(a.ip)).collect();
            let value = encode_stored(&AnyResource::WorkloadEndpoint(endpoint));
            Extra {
                txn: also.clone().put(key.clone(), value),
                create_if_absent: vec![(profile.clone(), b"{}".to_vec())],
            }
        })
    }

    fn del(&self, workload: &str, endpoint: Option<Revision>) -> Request {
        let mut txn = Txn::default();
        if let Some(revision) = endpoint {
            let key = setting::keys().resource(&setting::endpoint_key(workload));
            txn = txn.when(key.clone(), revision).delete(key);
        }
        let (handle_id, now, extra) = (setting::handle(workload), self.clock.now(), txn.into());
        match setting::identity(workload) {
            Some(_) => Request::Park(ParkRequest {
                handle_id,
                container: workload.to_owned(),
                now,
                extra,
            }),
            None => Request::Release(ReleaseRequest {
                handle_id,
                now,
                extra,
            }),
        }
    }

    /// The endpoint is not at the revision expected: it goes as it is, if it is this node's.
    async fn follow_up(
        &mut self,
        workload: &str,
        mut outcome: Result<Outcome, IpamError>,
    ) -> Result<Outcome, IpamError> {
        for _ in 0..RELEASE_ATTEMPTS {
            let current = match outcome {
                Err(IpamError::ExtraConflict { compared }) => {
                    compared.into_iter().find_map(|(_, current)| current)
                }
                other => return other,
            };
            let key = setting::endpoint_key(workload);
            let ours = current.and_then(|kv| match decode_stored(&key, &kv.value) {
                Ok(AnyResource::WorkloadEndpoint(e)) if e.spec.node == self.node => {
                    Some(kv.mod_revision)
                }
                _ => None,
            });
            let request = self.del(workload, ours);
            let mut outcomes = self.allocator.run(vec![request]).await;
            outcome = outcomes.pop().expect("one request has one result");
        }
        outcome
    }
}

fn endpoint(workload: &str, node: &str) -> WorkloadEndpoint {
    let spec = WorkloadEndpointSpec {
        orchestrator: "cni".into(),
        node: node.into(),
        container_id: workload.into(),
        endpoint: "eth0".into(),
        profiles: vec!["storm".into()],
        interface_name: "cali0123456789a".into(),
        mac: "ee:ee:ee:ee:ee:ee".into(),
        ..WorkloadEndpointSpec::default()
    };
    Resource::new(ObjectMeta::namespaced("storm", workload), spec)
}

fn ended(outcome: Result<Outcome, IpamError>) -> Ended {
    match outcome {
        Ok(outcome) => Ended::Ok {
            ips: outcome.addresses.iter().map(|a| a.ip).collect(),
            revision: outcome.revision,
        },
        Err(IpamError::Store(error)) if matches!(*error, StoreError::Unavailable { .. }) => {
            let error = error.to_string();
            Ended::Unknown { error }
        }
        Err(error) => Ended::Failed {
            error: error.to_string(),
        },
    }
}

/// Reads the words after `worker`.
pub(crate) fn options(mut words: impl Iterator<Item = String>) -> Result<Options> {
    let mut next = |what: &str| {
        words
            .next()
            .with_context(|| format!("worker: {what} is missing"))
    };
    Ok(Options {
        node: next("node")?,
        endpoints: next("endpoints")?.split(',').map(str::to_owned).collect(),
        history: next("history")?.into(),
        seed: next("seed")?.parse()?,
        phase: match next("phase")?.as_str() {
            "storm" => Phase::Storm,
            "settle" => Phase::Settle,
            "drain" => Phase::Drain,
            other => bail!("worker: unknown phase {other:?}"),
        },
        quota: next("quota")?.parse()?,
        clock: Clock {
            epoch_ms: next("epoch")?.parse()?,
            ahead_secs: next("clock error")?.parse()?,
        },
        plant: next("fault")?.parse().map_err(anyhow::Error::msg)?,
    })
}
