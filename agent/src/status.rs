//! The state of this node, collected from its owners when somebody asks.

use std::sync::Arc;
use std::time::Instant;

use margay_api::config::HostSettings;
use margay_api::policy::Counters;
use margay_api::status::{DataplaneStatus, DatastoreStatus, NodeStatus};
use margay_datastore::SyncStatus;
use tokio::sync::watch;

use crate::bgp::BgpHandle;
use crate::cni::LOCKED;
use crate::dns::Responder;
use crate::flows::FlowsHandle;
use crate::kernel::KernelHandle;
use crate::meters::Meters;
use crate::world::World;

/// Everybody who knows a part.
#[derive(Clone)]
pub(crate) struct StatusSource {
    pub(crate) node: String,
    pub(crate) driver: &'static str,
    pub(crate) started: Instant,
    /// Whether the agent began with what an earlier one had read.
    pub(crate) from_snapshot: bool,
    /// What environment and file say; it does not change while the agent runs.
    pub(crate) settings: Arc<HostSettings>,
    pub(crate) sync: watch::Receiver<SyncStatus>,
    pub(crate) world: watch::Receiver<Arc<World>>,
    pub(crate) kernel: KernelHandle,
    pub(crate) flows: FlowsHandle,
    /// What the parts count about their own work.
    pub(crate) meters: Arc<Meters>,
    /// None when BGP is off.
    pub(crate) bgp: Option<BgpHandle>,
    /// None when names are not served.
    pub(crate) names: Option<Arc<Responder>>,
}

impl StatusSource {
    /// What the rules in the kernel matched; why that is not known, in words.
    pub(crate) async fn policy_counters(&self) -> Result<Counters, String> {
        let (rules, others) = self.kernel.counters().await?;
        let node = self.node.clone();
        Ok(Counters {
            node,
            rules,
            others,
        })
    }

    pub(crate) async fn collect(&self) -> NodeStatus {
        let kernel = self.kernel.status().await;
        let bgp = match &self.bgp {
            Some(bgp) => bgp.status().await,
            None => Default::default(),
        };
        let mut reasons = Vec::new();
        if !self.world.borrow().in_sync {
            let meanwhile = match self.from_snapshot {
                true => "; until then the agent does what it last read there",
                false => "",
            };
            reasons.push(format!(
                "the datastore has not been read and programmed yet{meanwhile}"
            ));
        }
        if self.world.borrow().locked {
            reasons.push(LOCKED.to_owned());
        }
        if !kernel.failing.is_empty() {
            reasons.push(format!(
                "{} kernel objects are failing",
                kernel.failing.len()
            ));
        }
        NodeStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: reasons.is_empty(),
            not_ready_reasons: reasons,
            uptime_secs: self.started.elapsed().as_secs(),
            datastore: self.datastore(),
            bgp,
            dataplane: DataplaneStatus {
                backend: kernel.backend,
                endpoints: kernel.endpoints,
                routes: kernel.routes,
                failing: kernel.failing,
            },
        }
    }

    fn datastore(&self) -> DatastoreStatus {
        let (connected, since, detail) = match &*self.sync.borrow() {
            SyncStatus::Connected { since } => (true, *since, String::new()),
            SyncStatus::Disconnected { since, reason } => (false, *since, reason.clone()),
        };
        DatastoreStatus {
            driver: self.driver.to_owned(),
            connected,
            since_secs: since.elapsed().as_secs(),
            detail,
        }
    }
}
