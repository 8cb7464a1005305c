//! The cluster in which the storm takes place: pools that are too small, a clock that runs fast.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use margay_datastore::{DatastoreConfig, EtcdConfigError, EtcdStore};
use margay_ipam::{Pool, Pools, View};
use margay_model::ipam::IpamConfig;
use margay_model::ippool::PoolUse;
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};

pub(crate) const ROOT: &str = "/calico";
/// Seconds of storm time for which a released address rests.
pub(crate) const COOLDOWN_SECS: u32 = 15;
/// Blocks a node may own in each family.
pub(crate) const MAX_BLOCKS: u32 = 4;
/// Storm seconds in a second: empty blocks count as old after three seconds.
const CLOCK_RATE: u32 = 20;
/// Answers that take longer count as lost.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);

/// Name, range, block size, serves requests that name no pool.
///
/// With 20 nodes there are fewer v4 blocks than nodes want, and fewer v6 blocks than nodes.
const POOLS: [(&str, &str, u8, bool); 4] = [
    ("wide", "10.50.0.0/22", 27, true),
    ("narrow", "10.51.0.0/25", 29, true),
    ("single", "10.52.0.0/27", 32, false),
    ("six", "fd00:50::/119", 124, true),
];

/// Never to be given away: parts of blocks, and one whole block of `narrow`.
const RESERVED: [&str; 3] = ["10.50.0.0/29", "10.50.1.7/32", "10.51.0.8/29"];

pub(crate) fn view() -> View {
    let pools = POOLS.map(|(name, cidr, block_len, automatic)| Pool {
        name: name.to_owned(),
        cidr: cidr.parse().expect("a constant CIDR"),
        block_len,
        disabled: false,
        automatic,
        uses: vec![PoolUse::Workload],
        selects_node: true,
        namespace_selector: None,
        created: String::new(),
    });
    View {
        pools: Pools::new(pools),
        reserved: RESERVED
            .iter()
            .map(|cidr| {
                cidr.parse::<margay_model::net::Cidr>()
                    .expect("a constant CIDR")
            })
            .collect(),
        config: IpamConfig {
            max_blocks_per_host: MAX_BLOCKS,
            ip_cooldown_seconds: Some(COOLDOWN_SECS),
            ..IpamConfig::default()
        },
    }
}

/// A v4 address of any pool, reserved ones included.
pub(crate) fn any_v4(rng: &mut fastrand::Rng) -> IpAddr {
    let (third, last) = match rng.u8(..3) {
        0 => ((50, rng.u8(..4)), rng.u8(..)),
        1 => ((51, 0), rng.u8(..128)),
        _ => ((52, 0), rng.u8(..32)),
    };
    IpAddr::from([10, third.0, third.1, last])
}

/// Identities that all nodes run.
pub(crate) const IDENTITIES: u8 = 12;
/// Storm seconds for which an identity's addresses stay parked.
pub(crate) const LEASE_SECS: u32 = 40;
/// What the handles of identities begin with.
pub(crate) const STICKY: &str = "storm.sticky-";

/// A workload that is an identity's, `idIDENTITY-...`.
pub(crate) fn sticky_workload(identity: u8, rest: &str) -> String {
    format!("id{identity}-{rest}")
}

/// The identity of a workload.
pub(crate) fn identity(workload: &str) -> Option<&str> {
    Some(workload.strip_prefix("id")?.split_once('-')?.0)
}

pub(crate) fn handle(workload: &str) -> String {
    match identity(workload) {
        Some(identity) => format!("{STICKY}{identity}"),
        None => format!("storm.{workload}"),
    }
}

pub(crate) fn endpoint_key(workload: &str) -> ResourceKey {
    ResourceKey::namespaced(Kind::WorkloadEndpoint, "storm", workload)
}

pub(crate) fn keys() -> Keys {
    Keys::new(ROOT)
}

pub(crate) fn store(endpoints: &[String]) -> Result<EtcdStore, EtcdConfigError> {
    EtcdStore::new(&DatastoreConfig {
        endpoints: endpoints.to_vec(),
        request_timeout_ms: REQUEST_TIMEOUT.as_millis() as u64,
        ..DatastoreConfig::default()
    })
}

/// The storm's time: all nodes share it, give or take a node's own error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When the storm began, in milliseconds since 1970.
    pub(crate) epoch_ms: u64,
    /// How far this node's clock is ahead, in storm seconds.
    pub(crate) ahead_secs: i64,
}

impl Clock {
    pub(crate) fn starting_now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            epoch_ms: since_1970.map_or(0, |d| d.as_millis() as u64),
            ahead_secs: 0,
        }
    }

    pub(crate) fn now(self) -> Timestamp {
        let epoch = UNIX_EPOCH + Duration::from_millis(self.epoch_ms);
        let passed = SystemTime::now().duration_since(epoch).unwrap_or_default() * CLOCK_RATE;
        let start = Timestamp::from_millisecond(self.epoch_ms as i64).unwrap_or_default();
        let passed = jiff::SignedDuration::try_from(passed).unwrap_or_default();
        start + passed + jiff::SignedDuration::from_secs(self.ahead_secs)
    }
}
