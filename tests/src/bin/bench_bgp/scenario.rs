//! What is measured: the scenarios, at full size or smaller.

use std::net::SocketAddr;
use std::time::Duration;

use crate::meter::plan::{Mix, PlanSpec, Style};
use crate::meter::{DUT, DUT_AS, DUT_PORT, Family, Opts};

/// A scenario. All but the last end with everything withdrawn and announced again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// One sender, one receiver.
    S1,
    /// Ten senders of the same prefixes, ten receivers: best-path work.
    S2,
    /// A full table to two receivers, a third joining late.
    S3,
    /// A reflector: every client sends a little and hears all others.
    S4,
    /// Single routes through a full table.
    S5,
}

impl Scenario {
    pub(crate) const ALL: [Self; 5] = [Self::S1, Self::S2, Self::S3, Self::S4, Self::S5];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
            Self::S4 => "S4",
            Self::S5 => "S5",
        }
    }

    /// For people, at one part in `divisor` of its size.
    pub(crate) fn title(self, divisor: usize) -> String {
        let opts = self.opts(divisor, Duration::ZERO);
        let (senders, prefixes) = (opts.spec.senders, opts.spec.prefixes);
        match self {
            Self::S1 => format!("{prefixes} prefixes from 1 peer to 1"),
            Self::S2 => format!("the same {prefixes} prefixes from {senders} peers, to 10"),
            Self::S3 => format!("{prefixes} prefixes from 1 peer to 2, a third joining late"),
            Self::S4 => {
                format!("reflector: {senders} clients with {prefixes} /32 each, all to all")
            }
            Self::S5 => {
                let changes = 2 * opts.latency;
                format!("{changes} changes of one /32 through a table of {prefixes}")
            }
        }
    }

    /// The run at one part in `divisor` of its size; phases may take the `timeout` each.
    pub(crate) fn opts(self, divisor: usize, timeout: Duration) -> Opts {
        let spec = PlanSpec {
            fam: Family::V4,
            mix: Mix::Internet,
            style: Style::Internet,
            senders: 1,
            prefixes: 100_000 / divisor,
            overlap: 0.0,
            per_update: 8,
            fixed_groups: false,
            seed: 1,
            ibgp: false,
            atomic: true,
        };
        let opts = Opts {
            receivers: 1,
            both: false,
            late: 0,
            flaps: 1,
            latency: 0,
            latency_gap: Duration::from_micros(2000),
            dut: SocketAddr::new(DUT.into(), DUT_PORT),
            dut_as: DUT_AS,
            dut_pid: None,
            hold: 3600,
            connect_timeout: Duration::from_secs(60),
            timeout,
            settle: Duration::from_millis(1000),
            quiet: Duration::from_millis(1000),
            spec,
        };
        let mut opts = opts;
        match self {
            Self::S1 => {}
            Self::S2 => {
                (opts.spec.senders, opts.receivers) = (10, 10);
                opts.spec.overlap = 1.0;
            }
            Self::S3 => {
                opts.spec.prefixes = 1_000_000 / divisor;
                (opts.receivers, opts.late) = (2, 1);
            }
            Self::S4 => {
                (opts.spec.senders, opts.receivers) = ((100 / divisor).max(4), 0);
                opts.spec.prefixes = 250;
                (opts.both, opts.spec.ibgp) = (true, true);
                (opts.spec.mix, opts.spec.style) = (Mix::Host, Style::Plain);
                (opts.spec.per_update, opts.spec.fixed_groups) = (250, true);
            }
            Self::S5 => {
                opts.spec.prefixes = 1_000_000 / divisor;
                opts.latency = (2000 / divisor).max(100);
                opts.flaps = 0;
            }
        }
        opts
    }
}
