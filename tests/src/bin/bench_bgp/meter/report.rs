//! What a run measured.

use serde::Serialize;

use crate::meter::proc::Usage;
use crate::meter::session::Counts;

/// Of several values.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) n: usize,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut v: Vec<f64> = values.collect();
        v.sort_by(f64::total_cmp);
        match (v.first(), v.get(v.len() / 2), v.last()) {
            (Some(&min), Some(&median), Some(&max)) => Self {
                n: v.len(),
                min,
                median,
                max,
            },
            _ => Self::default(),
        }
    }
}

/// One phase of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// Seconds from the first UPDATE until each receiver held exactly the right set.
    pub(crate) converged: Spread,
    /// Seconds until each receiver held some path to every prefix.
    pub(crate) all_present: Spread,
    /// Seconds until the last sender had handed its last octet to the kernel.
    pub(crate) sent_s: f64,
    pub(crate) counts: Counts,
    pub(crate) dut_cpu_s: Option<f64>,
    /// Cores that other work of the machine took.
    pub(crate) foreign_cpu: f64,
    pub(crate) dut: Option<Usage>,
    pub(crate) error: Option<String>,
}

/// Single routes, sorted microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) announce_first: Vec<f64>,
    pub(crate) announce_all: Vec<f64>,
    pub(crate) withdraw_first: Vec<f64>,
    pub(crate) withdraw_all: Vec<f64>,
    pub(crate) dut_cpu_s: Option<f64>,
    pub(crate) foreign_cpu: f64,
}

/// The value below which the share `q` of a sorted list lies.
pub(crate) fn quantile(v: &[f64], q: f64) -> f64 {
    let place = (v.len() as f64 * q).ceil() as usize;
    let at = place.clamp(1, v.len().max(1)) - 1;
    v.get(at).copied().unwrap_or(f64::NAN)
}

/// A run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Attribute sets announced.
    pub(crate) attr_sets: usize,
    /// Prefixes announced.
    pub(crate) distinct: usize,
    /// Seconds until all sessions were up.
    pub(crate) sessions_all_s: f64,
    pub(crate) idle: Option<Usage>,
    pub(crate) end: Option<Usage>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) latency: Option<Latency>,
    pub(crate) error: Option<String>,
}

impl Report {
    pub(crate) fn phase(&self, name: &str) -> Option<&Phase> {
        let found = |p: &&Phase| p.name == name && p.error.is_none();
        self.phases.iter().find(found)
    }
}
