//! The report of a check, written for machines and read by `ipam release`.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use margay_ipam::check::{Fault, Finding, Severity, Summary};
use serde::{Deserialize, Serialize};

use crate::failure::Fatal;

/// The version of the format.
const VERSION: u32 = 1;

/// What a check found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    version: u32,
    time: String,
    repair: bool,
    summary: Sums,
    findings: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sums {
    nodes: usize,
    pools: usize,
    blocks: usize,
    handles: usize,
    in_use: usize,
    resting: usize,
    borrowed: usize,
    named: usize,
}

/// One finding.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    kind: String,
    severity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handle: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    what: String,
    why: String,
    repair: String,
    outcome: String,
}

impl Entry {
    fn new(finding: &Finding, outcome: &str) -> Self {
        let fault = &finding.fault;
        let (handle, sequence) = match fault {
            Fault::Leaked {
                handle, sequence, ..
            } => (handle.clone(), Some(*sequence)),
            Fault::Young { sequence, .. } | Fault::HeldByAnother { sequence, .. } => {
                (None, Some(*sequence))
            }
            Fault::CorruptHandle { handle, .. }
            | Fault::HandleCount { handle, .. }
            | Fault::HandleUnused { handle, .. } => (Some(handle.clone()), None),
            _ => (None, None),
        };
        let severity = match fault.severity() {
            Severity::Problem => "problem",
            Severity::Note => "note",
        };
        Self {
            kind: fault.kind().to_owned(),
            severity: severity.to_owned(),
            ip: fault.ip(),
            block: fault.block().map(|block| block.to_string()),
            handle,
            sequence,
            what: finding.what.clone(),
            why: fault.why().to_owned(),
            repair: finding.repair.clone(),
            outcome: outcome.to_owned(),
        }
    }
}

impl Report {
    /// Of a check that left and repaired these.
    pub(crate) fn new(
        time: Timestamp,
        repair: bool,
        sums: Summary,
        left: &[Finding],
        repaired: &[Finding],
    ) -> Self {
        let done = repaired.iter().map(|f| Entry::new(f, "repaired"));
        let open = left.iter().map(|f| Entry::new(f, "found"));
        Self {
            version: VERSION,
            time: time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            repair,
            summary: Sums {
                nodes: sums.nodes,
                pools: sums.pools,
                blocks: sums.blocks,
                handles: sums.handles,
                in_use: sums.in_use,
                resting: sums.resting,
                borrowed: sums.borrowed,
                named: sums.named,
            },
            findings: done.chain(open).collect(),
        }
    }

    /// Reads a report.
    pub(crate) fn read(path: &Path) -> Result<Self, Fatal> {
        let wrong = |reason: String| Fatal::Usage(format!("{}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("no report of margayctl ipam check: {error}")))?;
        match report.version {
            VERSION => Ok(report),
            other => Err(wrong(format!("version: found {other}, allowed: {VERSION}"))),
        }
    }

    /// The addresses that were leaked and not repaired, with the sequence number of the allocation.
    pub(crate) fn leaked(&self) -> impl Iterator<Item = (IpAddr, u64)> {
        let open = self.findings.iter().filter(|f| f.outcome == "found");
        open.filter(|finding| finding.kind == "leaked")
            .filter_map(|finding| Some((finding.ip?, finding.sequence?)))
    }
}
