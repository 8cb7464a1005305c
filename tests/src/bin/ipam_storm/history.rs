//! What a worker did: one JSON line before each call and one after it, written whole, so that a kill
//! leaves at most a call without its outcome.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use margay_model::store::Revision;
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub(crate) enum Record {
    /// A process of this node began.
    Start {
        /// Counts the processes of the node.
        process: u32,
    },
    /// A call is about to be made.
    Call {
        /// Counts the calls of the node.
        id: u64,
        /// What.
        op: Operation,
    },
    /// A call has returned.
    Done {
        /// Of the call.
        id: u64,
        /// What came of it.
        outcome: Ended,
    },
}

/// What a worker asks of the allocator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Operation {
    /// Addresses for a workload, or the same ones again.
    Add {
        workload: String,
        v4: u32,
        v6: u32,
        ips: Vec<IpAddr>,
    },
    /// All addresses of a workload back.
    Del { workload: String },
    /// A block back.
    GiveUp { block: String },
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "r", rename_all = "lowercase")]
pub(crate) enum Ended {
    /// Done; the revision is 0 where the allocator saw only that it is done.
    Ok {
        ips: Vec<IpAddr>,
        revision: Revision,
    },
    /// Refused, nothing was changed.
    Failed { error: String },
    /// The store did not answer.
    Unknown { error: String },
}

/// Appends to a history.
pub(crate) struct Writer(File);

impl Writer {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| {
            format!("cannot write {}", path.display())
        })?))
    }

    /// All lines in one write: they survive a kill of this process together.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<()> {
        let mut text = Vec::new();
        for record in records {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        self.0
            .write_all(&text)
            .context("cannot append to the history")
    }
}

/// Reads a history; none is an empty one.
pub(crate) fn read(path: &Path) -> Result<Vec<Record>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let lines = text.lines().enumerate();
    lines
        .map(|(n, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), n + 1))
        })
        .collect()
}

/// How a call of a workload ended, by the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The process that made it.
    pub(crate) process: u32,
    /// ADD, or DEL.
    pub(crate) add: bool,
    /// `None`: the process was killed meanwhile.
    pub(crate) ended: Option<Ended>,
}

/// What the worker believes of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    /// Runs with these addresses, as of this revision.
    Live(Vec<IpAddr>, Revision),
    /// A call is open, or its outcome is unknown: a DEL has to follow.
    Unclear,
    /// Never came to be, or was deleted.
    Gone,
}

/// A node's history by workload.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Calls by workload, in order.
    pub(crate) calls: BTreeMap<String, Vec<Call>>,
    /// Calls of any kind.
    pub(crate) next_id: u64,
    /// Processes that began.
    pub(crate) processes: u32,
    open: BTreeMap<u64, (String, usize)>,
    /// Those that are not gone.
    current: BTreeMap<String, Belief>,
}

impl Ledger {
    pub(crate) fn new<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.take_in(record);
        }
        ledger
    }

    pub(crate) fn take_in(&mut self, record: &Record) {
        match record {
            Record::Start { .. } => {
                self.processes += 1;
                self.open.clear();
            }
            Record::Call { id, op } => {
                self.next_id = self.next_id.max(id + 1);
                let (workload, add) = match op {
                    Operation::Add { workload, .. } => (workload, true),
                    Operation::Del { workload } => (workload, false),
                    Operation::GiveUp { .. } => return,
                };
                let calls = self.calls.entry(workload.clone()).or_default();
                self.open.insert(*id, (workload.clone(), calls.len()));
                calls.push(Call {
                    process: self.processes,
                    add,
                    ended: None,
                });
                self.believe(workload);
            }
            Record::Done { id, outcome } => {
                if let Some((workload, at)) = self.open.remove(id)
                    && let Some(calls) = self.calls.get_mut(&workload)
                {
                    calls[at].ended = Some(outcome.clone());
                    self.believe(&workload);
                }
            }
        }
    }

    fn believe(&mut self, workload: &str) {
        match self.fold(workload) {
            Belief::Gone => self.current.remove(workload),
            belief => self.current.insert(workload.to_owned(), belief),
        };
    }

    /// What is to be thought of a workload after its calls so far.
    pub(crate) fn belief(&self, workload: &str) -> Belief {
        self.current.get(workload).cloned().unwrap_or(Belief::Gone)
    }

    fn fold(&self, workload: &str) -> Belief {
        let mut belief = Belief::Gone;
        for call in self.calls.get(workload).into_iter().flatten() {
            belief = match (call.add, &call.ended) {
                (true, Some(Ended::Ok { ips, revision })) => Belief::Live(ips.clone(), *revision),
                // A repeated ADD that is refused changes nothing.
                (true, Some(Ended::Failed { .. })) => belief,
                (false, Some(Ended::Ok { .. })) => Belief::Gone,
                (_, None | Some(Ended::Unknown { .. })) | (false, Some(_)) => Belief::Unclear,
            };
        }
        belief
    }

    /// The workloads that are not gone and for which `wanted` holds.
    pub(crate) fn select(&self, wanted: impl Fn(&Belief) -> bool) -> Vec<String> {
        let current = self.current.iter();
        current
            .filter(|(_, belief)| wanted(belief))
            .map(|(name, _)| name.clone())
            .collect()
    }
}
