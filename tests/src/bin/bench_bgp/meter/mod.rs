//! The meter: senders and receivers around one BGP speaker, and an exact account of what arrived.
//!
//! Every receiver keeps one octet a prefix, the rank (AS_PATH length, then ORIGIN) of the path that it holds;
//! converged means that every prefix is there with the best rank that any sender announced. So routes that are
//! dropped, stale paths and wrong best paths show. Nothing of `margay-bgp` is in it: a meter that shared the codec
//! of what it measures would share its mistakes.

pub(crate) mod plan;
mod proc;
pub(crate) mod report;
mod run;
mod session;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use plan::PlanSpec;
use session::PeerSpec;

pub(crate) use run::run;
pub(crate) use wire::Family;

/// Address of the device under test.
pub(crate) const DUT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Its port.
pub(crate) const DUT_PORT: u16 = 1790;
/// Its AS.
pub(crate) const DUT_AS: u32 = 65_000;
/// Address of the first peer; the others follow.
const PEER_BASE: u32 = u32::from_be_bytes([10, 99, 1, 1]);
/// AS of the first peer over eBGP; the others follow.
const PEER_AS: u32 = 64_601;

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Opts {
    /// Peers that only receive.
    pub(crate) receivers: usize,
    /// Every sender is a receiver too.
    pub(crate) both: bool,
    /// Receivers that connect after the table is loaded.
    pub(crate) late: usize,
    /// Rounds of withdrawing and announcing everything.
    pub(crate) flaps: usize,
    /// Single routes announced and withdrawn with the table loaded.
    pub(crate) latency: usize,
    pub(crate) latency_gap: Duration,
    pub(crate) dut: SocketAddr,
    pub(crate) dut_as: u32,
    pub(crate) dut_pid: Option<u32>,
    /// Hold time to offer, seconds.
    pub(crate) hold: u16,
    pub(crate) connect_timeout: Duration,
    /// Of each phase.
    pub(crate) timeout: Duration,
    /// Wait after the last session came up.
    pub(crate) settle: Duration,
    /// Wait after convergence before the account is checked once more.
    pub(crate) quiet: Duration,
    pub(crate) spec: PlanSpec,
}

impl Opts {
    pub(crate) fn peer_count(&self) -> usize {
        self.spec.senders + self.receivers + self.late
    }

    /// Address and AS of a peer, for the configuration of the device.
    pub(crate) fn addr_and_as(&self, i: usize) -> (Ipv4Addr, u32) {
        let i = u32::try_from(i).expect("peers are few");
        let asn = if self.spec.ibgp {
            self.dut_as
        } else {
            PEER_AS + i
        };
        (Ipv4Addr::from(PEER_BASE + i), asn)
    }

    fn peer(&self, i: usize) -> PeerSpec {
        let (addr, asn) = self.addr_and_as(i);
        PeerSpec {
            index: i,
            addr: addr.into(),
            asn,
            router_id: addr,
            next_hop: addr.into(),
            ibgp: self.spec.ibgp,
        }
    }
}
