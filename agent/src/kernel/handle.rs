//! The way to the kernel thread, and what goes over it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ipnetwork::IpNetwork;
use margay_api::policy::{OtherCounter, RuleCounter};
use margay_dataplane::filter::{Globals, Wish};
use margay_dataplane::resolve::Router;
use margay_dataplane::wireguard::{DeviceState, PublicKey};
use margay_model::kind::ResourceKey;
use margay_policy::program::Update;
use tokio::sync::{mpsc, oneshot, watch};

use crate::derive::{Through, Tunnels};

/// Answers whoever waits for the kernel: done, or what was refused, in words.
pub(crate) type Acknowledge = oneshot::Sender<Result<(), String>>;

/// What rules matched and what else decided; or why that cannot be read, in words.
pub(crate) type Counted = Result<(Vec<RuleCounter>, Vec<OtherCounter>), String>;

/// Changes of the desired state, from the graph.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) policy: Vec<Update>,
    pub(crate) globals: Option<Globals>,
    pub(crate) log_prefix: Option<String>,
    pub(crate) resync: Option<Duration>,
    /// Where policy is to be written, unless the agent's own configuration says.
    pub(crate) backend: Option<Wish>,
    /// All blocks of this host, when they changed.
    pub(crate) blocks: Option<BTreeSet<IpNetwork>>,
    /// The tunnels to other hosts, when they changed.
    pub(crate) tunnels: Option<Tunnels>,
    /// Ways to other hosts' prefixes that a pool prescribes, as far as they changed.
    pub(crate) ways: Vec<(IpNetwork, Option<Through>)>,
    /// Which device that encrypts has a prefix, as far as that changed.
    pub(crate) holders: Vec<(IpNetwork, Option<PublicKey>)>,
    /// Who waits for which endpoint.
    pub(crate) waiting: Vec<Waiting>,
}

/// Somebody waits for an endpoint to be in the kernel, or to be gone from it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) key: ResourceKey,
    pub(crate) expect: Expect,
    pub(crate) ack: Acknowledge,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Present,
    Absent,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.policy.is_empty()
            && self.globals.is_none()
            && self.log_prefix.is_none()
            && self.resync.is_none()
            && self.backend.is_none()
            && self.blocks.is_none()
            && self.tunnels.is_none()
            && self.ways.is_empty()
            && self.holders.is_empty()
            && self.waiting.is_empty()
    }
}

/// What BGP learned.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// Best next hops by prefix; none to remove the route.
    pub(crate) routes: Vec<(IpNetwork, Vec<Router>)>,
    /// Every peer that can be reached has told everything.
    pub(crate) converged: bool,
}

/// What the kernel holds, for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelStatus {
    pub(crate) backend: String,
    pub(crate) endpoints: u64,
    pub(crate) routes: u64,
    pub(crate) failing: Vec<String>,
}

/// What packets that rules hand up are labelled with, and who wants to tell of them does not know.
#[derive(Debug, Default)]
pub(crate) struct Unexplained {
    /// Interfaces of endpoints.
    pub(crate) interfaces: BTreeSet<String>,
    /// Of policies, profiles and tiers, as labels have them.
    pub(crate) names: BTreeSet<String>,
}

impl Unexplained {
    pub(crate) fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && self.names.is_empty()
    }
}

/// What is known of them.
#[derive(Debug, Default)]
pub(crate) struct Explained {
    /// Endpoints by interface.
    pub(crate) endpoints: HashMap<String, String>,
    /// Tier and whole name of policies.
    pub(crate) policies: HashMap<String, (String, String)>,
    /// Whole names of profiles and tiers.
    pub(crate) others: HashMap<String, String>,
    /// What the operator wants to know logged packets by.
    pub(crate) log_prefix: String,
}

pub(super) enum Input {
    Batch(Box<Batch>),
    /// The datastore was read: everything local that is wanted is known.
    InSync(oneshot::Sender<()>),
    /// Somebody waits for what was sent before.
    Settled(oneshot::Sender<()>),
    Status(oneshot::Sender<KernelStatus>),
    Counters(oneshot::Sender<Counted>),
    /// The devices that encrypt.
    Encrypted(oneshot::Sender<Vec<(String, DeviceState)>>),
    Explain(Unexplained, oneshot::Sender<Explained>),
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub(crate) struct KernelHandle {
    pub(super) inputs: mpsc::Sender<Input>,
    /// The largest packet in bytes that reaches every other host whole; none while that is not known.
    pub(crate) mtu: watch::Receiver<Option<u32>>,
}

/// The thread ended.
#[derive(Debug, thiserror::Error)]
#[error("the kernel thread ended")]
pub(crate) struct Ended;

impl KernelHandle {
    pub(crate) async fn send(&self, batch: Batch) -> Result<(), Ended> {
        self.inputs
            .send(Input::Batch(Box::new(batch)))
            .await
            .map_err(|_closed| Ended)
    }

    /// Returns when everything sent before is in the kernel, and what was left behind is gone.
    pub(crate) async fn in_sync(&self) {
        let (done, wait) = oneshot::channel();
        if self.inputs.send(Input::InSync(done)).await.is_ok() {
            // An error means that the thread ended; the agent is about to.
            wait.await.unwrap_or_default();
        }
    }

    /// Returns when everything sent before is in the kernel, and the speaker knows of it.
    pub(crate) async fn settled(&self) {
        let (done, wait) = oneshot::channel();
        if self.inputs.send(Input::Settled(done)).await.is_ok() {
            wait.await.unwrap_or_default();
        }
    }

    pub(crate) async fn status(&self) -> KernelStatus {
        let (answer, wait) = oneshot::channel();
        if self.inputs.send(Input::Status(answer)).await.is_err() {
            return KernelStatus::default();
        }
        wait.await.unwrap_or_default()
    }
}

impl KernelHandle {
    /// What is known of interfaces and names. Nothing when the thread ended.
    pub(crate) async fn explain(&self, names: Unexplained) -> Explained {
        let (answer, wait) = oneshot::channel();
        let asked = self.inputs.send(Input::Explain(names, answer)).await;
        match asked {
            Ok(()) => wait.await.unwrap_or_default(),
            Err(_closed) => Explained::default(),
        }
    }

    /// The devices that encrypt, by name, as far as metrics are to tell of them. None when the thread ended.
    pub(crate) async fn encrypted(&self) -> Vec<(String, DeviceState)> {
        let (answer, wait) = oneshot::channel();
        match self.inputs.send(Input::Encrypted(answer)).await {
            Ok(()) => wait.await.unwrap_or_default(),
            Err(_closed) => Vec::new(),
        }
    }

    /// What each rule matched; why that cannot be read, in words.
    pub(crate) async fn counters(&self) -> Counted {
        let ended = || Ended.to_string();
        let (answer, wait) = oneshot::channel();
        let asked = self.inputs.send(Input::Counters(answer)).await;
        asked.map_err(|_closed| ended())?;
        wait.await.map_err(|_closed| ended())?
    }
}
