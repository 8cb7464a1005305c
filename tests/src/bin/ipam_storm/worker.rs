//! One node: an allocator driven as the agent's address task drives it, by runtimes that come and go.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use margay_ipam::{
    Address, Allocator, AssignRequest, Extra, GiveUpRequest, IpamError, Outcome, ReleaseRequest,
    Request,
};
use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::net::Cidr;
use margay_model::store::{Revision, StoreError, Txn};
use margay_model::stored::{decode_stored, encode_stored};
use margay_model::workload_endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};

use crate::history::{Belief, Ended, Ledger, Operation, Record, Writer, read};
use crate::planted::{Plant, Planted};
use crate::setting::{self, Clock};

/// Most requests of one round, as in the agent.
const ROUND: usize = 64;
/// How often a release follows an endpoint that is not as expected, as in the agent.
const RELEASE_ATTEMPTS: u32 = 10;
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
    let mut worker = Worker {
        allocator: Allocator::new(
            Planted {
                store: setting::store(&options.endpoints)?,
                plant: options.plant,
            },
            setting::ROOT,
            &options.node,
            setting::view(),
        ),
        node: options.node,
        ledger: Ledger::new(&records),
        writer: Writer::open(&options.history)?,
        rng: fastrand::Rng::with_seed(options.seed.wrapping_add(records.len() as u64)),
        clock: options.clock,
        target: 10,
    };
    let process = worker.ledger.processes + 1;
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
        for op in &ops {
            requests.push(self.request(op)?);
        }
        let records: Vec<_> = calls
            .into_iter()
            .map(|(id, op)| Record::Call { id, op })
            .collect();
        self.note_all(&records)?;
        let outcomes = self.allocator.run(requests).await;
        for ((id, op), outcome) in (first..).zip(ops).zip(outcomes) {
            let outcome = match &op {
                Operation::Del { workload } => self.follow_up(workload, outcome).await,
                Operation::Add { .. } | Operation::GiveUp { .. } => outcome,
            };
            self.note(Record::Done {
                id,
                outcome: ended(outcome),
            })?;
        }
        Ok(())
    }

    fn request(&self, op: &Operation) -> Result<Request> {
        Ok(match op {
            Operation::Add {
                workload,
                v4,
                v6,
                ips,
            } => Request::Assign(self.assign(workload, (*v4, *v6), ips)),
            Operation::Del { workload } => {
                let revision = match self.ledger.belief(workload) {
                    Belief::Live(_, revision) => revision,
                    Belief::Unclear | Belief::Gone => 0,
                };
                Request::Release(self.release(workload, Some(revision)))
            }
            Operation::GiveUp { block } => Request::GiveUp(GiveUpRequest {
                block: block.parse()?,
                node: self.node.clone(),
            }),
        })
    }

    fn assign(&self, workload: &str, (v4, v6): (u32, u32), ips: &[IpAddr]) -> AssignRequest {
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
                txn: Txn::default().put(key.clone(), value),
                create_if_absent: vec![(profile.clone(), b"{}".to_vec())],
            }
        })
    }

    fn release(&self, workload: &str, endpoint: Option<Revision>) -> ReleaseRequest {
        let mut txn = Txn::default();
        if let Some(revision) = endpoint {
            let key = setting::keys().resource(&setting::endpoint_key(workload));
            txn = txn.when(key.clone(), revision).delete(key);
        }
        ReleaseRequest {
            handle_id: setting::handle(workload),
            now: self.clock.now(),
            extra: txn.into(),
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
            let request = self.release(workload, ours);
            outcome = self.allocator.release_by_handle(request).await;
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
