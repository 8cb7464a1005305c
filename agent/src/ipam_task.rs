//! Addresses for handlers: one task owns the allocator, and thereby this host's blocks in memory.
//!
//! Requests that wait while a transaction is under way share the next one. A workload endpoint is written
//! and removed in the same transaction as its addresses.

mod orphans;
mod sticky;
mod tunnel;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use margay_datastore::{AnyStore, SyncEvent, Syncer};
use margay_ipam::sticky::Held;
use margay_ipam::{
    Address, AddressSet, Allocator, AssignRequest, Extra, IpamError, Outcome, Pool, Pools,
    ReleaseRequest, Request, Skipped, View,
};
use margay_model::any::AnyResource;
use margay_model::ipam::{IpamConfig, IpamKeys};
use margay_model::keys::Keys;
use margay_model::kind::ResourceKey;
use margay_model::net::Cidr;
use margay_model::profile::Profile;
use margay_model::store::{Revision, StoreError, Txn};
use margay_model::stored::{decode_stored, encode_stored};
use margay_model::workload_endpoint::WorkloadEndpoint;
use margay_policy::selector::Selector;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::cni::{Identity, IpamWish};
use crate::derive::TunnelKind;
use crate::graph::StoredEndpoint;
use crate::world::World;

/// Requests that may wait; each has a handler behind it, and handlers are bounded by the socket.
const QUEUE: usize = 1024;

/// Most requests of one round; more would not fit into a transaction anyway.
const ROUND: usize = 64;

/// Pause before another attempt to read this host's blocks.
const LOAD_RETRY: Duration = Duration::from_secs(1);

/// How often a release follows an endpoint that others keep writing.
const RELEASE_ATTEMPTS: u32 = 10;

/// What a handler wants for a workload.
#[derive(Clone, Debug)]
pub(crate) struct Assign {
    pub(crate) handle_id: String,
    pub(crate) container_id: String,
    /// Whose addresses they are, when they outlive the container.
    pub(crate) identity: Option<Identity>,
    /// Namespace and name of the pod, recorded beside the address.
    pub(crate) pod: Option<(String, String)>,
    pub(crate) wish: IpamWish,
    pub(crate) requested_ips: Vec<IpAddr>,
    /// Addresses that come from elsewhere: then none is assigned, and the endpoint has these.
    pub(crate) given_ips: Vec<IpAddr>,
    pub(crate) key: ResourceKey,
    /// Without addresses; they are filled in.
    pub(crate) endpoint: WorkloadEndpoint,
    /// The network's profile, written unless it exists.
    pub(crate) profile: Option<Profile>,
    /// Told of the addresses as soon as they are chosen, while the transaction is still under way. It may end with
    /// others, or with none.
    pub(crate) planned: SyncSender<Vec<IpAddr>>,
}

/// What was committed.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) stored: StoredEndpoint,
    /// Endpoints that lost these addresses in the same transaction.
    pub(crate) replaced: Vec<ResourceKey>,
}

/// What a handler gives back.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) handle_id: String,
    /// The endpoint goes only while it is this container's.
    pub(crate) container_id: String,
    pub(crate) endpoint: Option<(ResourceKey, Revision)>,
    /// The handle is an identity's: its addresses are parked, not freed.
    pub(crate) park: bool,
}

/// Why addresses were not assigned or given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the agent is shutting down")]
    Stopped,
    #[error("the transaction took place, but the handle {0} holds no address")]
    Empty(String),
    #[error("an endpoint is written by others all the time, gave up")]
    Contention,
    #[error(
        "no pool with this tunnel serves this host: one must be enabled, select it, and allow the use Tunnel"
    )]
    NoTunnelPool,
}

impl TaskError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub(crate) fn transient(&self) -> bool {
        match self {
            Self::Ipam(IpamError::Store(error)) => {
                matches!(**error, StoreError::Unavailable { .. })
            }
            Self::Store(error) => matches!(error, StoreError::Unavailable { .. }),
            Self::Ipam(IpamError::Contention { .. }) | Self::Stopped | Self::Contention => true,
            Self::Ipam(_) | Self::Empty(_) | Self::NoTunnelPool => false,
        }
    }
}

type Answer<T> = oneshot::Sender<Result<T, TaskError>>;

enum Job {
    Assign(Box<Assign>, Answer<Written>),
    Release(Release, Answer<()>),
    AddressesOf(String, Answer<Vec<IpAddr>>),
    ReleaseOrphans(Vec<Held>, Answer<u64>),
    View(Answer<View>),
    Tunnel(TunnelKind, Vec<String>, Answer<IpAddr>),
    ReleaseTunnel(TunnelKind, Answer<()>),
    Run(Box<Request>, Answer<Outcome>),
}

/// The way to the task.
#[derive(Clone, Debug)]
pub(crate) struct IpamHandle {
    jobs: mpsc::Sender<Job>,
    rest_secs: Arc<AtomicU32>,
}

impl IpamHandle {
    /// Assigns addresses and writes the endpoint with them.
    pub(crate) async fn assign(&self, assign: Assign) -> Result<Written, TaskError> {
        self.ask(|answer| Job::Assign(Box::new(assign), answer))
            .await
    }

    /// Frees addresses and removes the endpoint. Nothing there is success.
    pub(crate) async fn release(&self, release: Release) -> Result<(), TaskError> {
        self.ask(|answer| Job::Release(release, answer)).await
    }

    /// How long an address that is freed is given to nobody else.
    pub(crate) fn rest(&self) -> Duration {
        Duration::from_secs(self.rest_secs.load(Ordering::Relaxed).into())
    }

    /// The addresses that a handle holds in the store.
    pub(crate) async fn addresses_of(&self, handle_id: String) -> Result<Vec<IpAddr>, TaskError> {
        self.ask(|answer| Job::AddressesOf(handle_id, answer)).await
    }

    /// Makes any one change, for handlers whose addresses and endpoints come in different calls.
    pub(crate) async fn run(&self, request: Request) -> Result<Outcome, TaskError> {
        self.ask(|answer| Job::Run(Box::new(request), answer)).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, TaskError> {
        let (answer, wait) = oneshot::channel();
        self.jobs
            .send(job(answer))
            .await
            .map_err(|_closed| TaskError::Stopped)?;
        wait.await.unwrap_or(Err(TaskError::Stopped))
    }
}

/// Starts the task; it ends with the last handle.
pub(crate) fn spawn(
    store: AnyStore,
    keys: Keys,
    node: String,
    world: watch::Receiver<Arc<World>>,
) -> IpamHandle {
    let (jobs, receiver) = mpsc::channel(QUEUE);
    // None until the world's settings are known.
    let rest_secs = Arc::new(AtomicU32::new(0));
    let (events, settings) = mpsc::channel(QUEUE);
    let config_key = IpamKeys::new(keys.prefix()).config();
    let syncer = Syncer::spawn(store.clone(), vec![config_key], events);
    let task = Task {
        allocator: Allocator::new(store.clone(), keys.prefix(), &node, View::default())
            .fenced(&uuid::Uuid::new_v4().to_string()),
        store,
        keys,
        node,
        world,
        seen: Arc::default(),
        stored_config: None,
        rest_secs: Arc::clone(&rest_secs),
        _syncer: syncer,
    };
    tokio::spawn(task.run(receiver, settings));
    IpamHandle { jobs, rest_secs }
}

struct Task {
    allocator: Allocator<AnyStore>,
    store: AnyStore,
    keys: Keys,
    node: String,
    world: watch::Receiver<Arc<World>>,
    /// The world that the allocator's view was made of.
    seen: Arc<World>,
    /// The established key for settings; an IPAMConfiguration resource wins over it.
    stored_config: Option<IpamConfig>,
    /// Of the settings in force, for handlers.
    rest_secs: Arc<AtomicU32>,
    _syncer: Syncer,
}

impl Task {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>, mut settings: mpsc::Receiver<SyncEvent>) {
        self.load().await;
        let mut round = Vec::new();
        loop {
            // Cancel-safe: receives and the watch's `changed`.
            tokio::select! {
                biased;
                Some(event) = settings.recv() => self.setting(event),
                changed = self.world.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let world = Arc::clone(&self.world.borrow_and_update());
                    if !self.seen.same_rules(&world) || self.seen.in_sync != world.in_sync {
                        self.seen = world;
                        self.refresh_view();
                    }
                }
                received = jobs.recv_many(&mut round, ROUND) => {
                    if received == 0 {
                        return;
                    }
                    self.work(std::mem::take(&mut round)).await;
                }
            }
        }
    }

    async fn load(&mut self) {
        self.seen = Arc::clone(&self.world.borrow_and_update());
        self.refresh_view();
        loop {
            match self.allocator.load().await {
                Ok(loaded) => {
                    info!(?loaded, "address blocks read");
                    return;
                }
                Err(error) => {
                    warn!(%error, "cannot read this host's address blocks");
                    tokio::time::sleep(LOAD_RETRY).await;
                }
            }
        }
    }

    fn setting(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::InitApply(kv) | SyncEvent::Apply(kv) => {
                match IpamConfig::decode(&kv.key, &kv.value) {
                    Ok(config) => self.stored_config = Some(config),
                    Err(error) => warn!(key = kv.key, %error, "address settings ignored"),
                }
            }
            SyncEvent::Init | SyncEvent::Delete { .. } => self.stored_config = None,
            SyncEvent::InitDone { .. } => {}
        }
        self.refresh_view();
    }

    fn refresh_view(&mut self) {
        let world = &self.seen;
        let no_labels = BTreeMap::new();
        let labels = world
            .node
            .as_ref()
            .map_or(&no_labels, |node| &node.metadata.labels);
        let selects = |text: &str| match text.parse::<Selector>() {
            Ok(selector) => selector.matches(labels),
            Err(error) => {
                warn!(selector = text, %error, "pool selector ignored, it selects no node");
                false
            }
        };
        let pools = Pools::new(world.pools.iter().map(|pool| Pool::new(pool, selects)));
        let reserved = world.reservations.iter().copied().collect::<AddressSet>();
        let from_resource = world.ipam.as_deref().map(|spec| IpamConfig {
            strict_affinity: spec.strict_affinity,
            auto_allocate_blocks: spec.auto_allocate_blocks(),
            max_blocks_per_host: spec.max_blocks_per_host.unwrap_or(0),
            ip_cooldown_seconds: spec.ip_cooldown_seconds,
            ..IpamConfig::default()
        });
        let config = from_resource
            .or_else(|| self.stored_config.clone())
            .unwrap_or_default();
        let rest_secs = if self.seen.in_sync {
            config.cooldown_secs()
        } else {
            0
        };
        self.rest_secs.store(rest_secs, Ordering::Relaxed);
        self.allocator.set_view(View {
            pools,
            reserved,
            config,
        });
    }

    /// One round: everything that waited, in as few transactions as it fits into.
    async fn work(&mut self, jobs: Vec<Job>) {
        let mut requests = Vec::new();
        let mut waiting = Vec::new();
        let mut sticky = Vec::new();
        for job in jobs {
            match job {
                Job::Assign(assign, answer) if assign.identity.is_some() => {
                    sticky.push((assign, answer));
                }
                Job::Assign(assign, answer) => {
                    requests.push(Request::Assign(
                        self.assign_request(&assign, Txn::default()),
                    ));
                    waiting.push(Waiting::Assign(assign, answer));
                }
                Job::Run(request, answer) => {
                    requests.push(*request);
                    waiting.push(Waiting::Run(answer));
                }
                Job::Release(release, answer) => {
                    requests.push(self.release_request(&release));
                    waiting.push(Waiting::Release(release, answer));
                }
                Job::ReleaseOrphans(suspects, answer) => {
                    let released = self.release_orphans(suspects).await;
                    answer.send(released).unwrap_or_default();
                }
                Job::Tunnel(kind, pools, answer) => {
                    let address = self.tunnel_address(kind, pools).await;
                    answer.send(address).unwrap_or_default();
                }
                Job::ReleaseTunnel(kind, answer) => {
                    let released = self.release_tunnel_address(kind).await;
                    answer.send(released).unwrap_or_default();
                }
                Job::View(answer) => {
                    let view = self.allocator.view().clone();
                    answer.send(Ok(view)).unwrap_or_default();
                }
                Job::AddressesOf(handle_id, answer) => {
                    let found = self.allocator.ips_of_handle(&handle_id).await;
                    let ips = found.map(|all| all.into_iter().map(|a| a.ip).collect());
                    // Whoever asked may have given up; so below.
                    answer
                        .send(ips.map_err(TaskError::from))
                        .unwrap_or_default();
                }
            }
        }
        let outcomes = self.allocator.run(requests).await;
        for (waiting, outcome) in waiting.into_iter().zip(outcomes) {
            match waiting {
                Waiting::Assign(assign, answer) => {
                    let written = outcome
                        .map_err(TaskError::from)
                        .and_then(|outcome| written(*assign, &outcome));
                    answer.send(written).unwrap_or_default();
                }
                Waiting::Run(answer) => {
                    answer
                        .send(outcome.map_err(TaskError::from))
                        .unwrap_or_default();
                }
                Waiting::Release(release, answer) => {
                    let released = self.follow_up(release, outcome).await;
                    answer.send(released).unwrap_or_default();
                }
            }
        }
        for (assign, answer) in sticky {
            if let Some(identity) = assign.identity.clone() {
                let written = self.assign_sticky(*assign, &identity).await;
                answer.send(written).unwrap_or_default();
            }
        }
    }

    /// `also` goes into the same transaction.
    fn assign_request(&self, assign: &Assign, also: Txn) -> AssignRequest {
        let now = jiff::Timestamp::now();
        let has = |v4: bool| assign.requested_ips.iter().any(|ip| ip.is_ipv4() == v4);
        let count = |wanted: bool, v4: bool| u32::from(wanted && !has(v4));
        let wish = &assign.wish;
        let (v4, v6) = match assign.given_ips.is_empty() {
            true => (count(wish.v4, true), count(wish.v6, false)),
            false => (0, 0),
        };
        let mut request = AssignRequest::new(assign.handle_id.clone(), v4, v6, now);
        if assign.given_ips.is_empty() {
            request.ips.clone_from(&assign.requested_ips);
        }
        let pools = |names: &[String]| names.iter().filter_map(|n| n.parse().ok()).collect();
        request.v4_pools = pools(&wish.v4_pools);
        request.v6_pools = pools(&wish.v6_pools);
        if let Some((namespace, pod)) = &assign.pod {
            request.attrs.insert("namespace".into(), namespace.clone());
            request.attrs.insert("pod".into(), pod.clone());
            let labels = self.namespace_labels(namespace);
            request.namespace = Some(Box::new(move |text| {
                let selector = text.parse::<Selector>();
                selector.is_ok_and(|selector| selector.matches(&labels))
            }));
        }
        let key = self.keys.resource(&assign.key);
        let endpoint = assign.endpoint.clone();
        let given_ips = assign.given_ips.clone();
        let profile = assign.profile.clone().map(|profile| {
            (
                self.keys.resource(&profile.key()),
                encode_stored(&AnyResource::Profile(profile)),
            )
        });
        let planned = assign.planned.clone();
        request.with_extra(move |addresses: &[Address]| {
            let ips = ips_of(&given_ips, addresses);
            // Nobody may be waiting, and a second plan comes too late.
            planned.try_send(ips.clone()).unwrap_or_default();
            let resource = AnyResource::WorkloadEndpoint(with_addresses(&endpoint, &ips));
            Extra {
                txn: also.clone().put(key.clone(), encode_stored(&resource)),
                create_if_absent: profile.iter().cloned().collect(),
            }
        })
    }

    /// As the namespace's own profile has them: there each label has a prefix, because it is applied to
    /// the namespace's endpoints.
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let world = self.world.borrow();
        let mut labels = world.namespaces.get(namespace).cloned().unwrap_or_default();
        let name = labels.entry("projectcalico.org/name".into());
        name.or_insert_with(|| namespace.to_owned());
        labels
    }

    fn release_request(&self, release: &Release) -> Request {
        if release.park {
            return self.park_request(release);
        }
        Request::Release(ReleaseRequest {
            handle_id: release.handle_id.clone(),
            now: jiff::Timestamp::now(),
            extra: self.without_endpoint(release).into(),
        })
    }

    fn without_endpoint(&self, release: &Release) -> Txn {
        let mut txn = Txn::default();
        if let Some((key, revision)) = &release.endpoint {
            let key = self.keys.resource(key);
            txn = txn.when(key.clone(), *revision).delete(key);
        }
        txn
    }

    /// The endpoint was written since we last saw it: it goes as it is now, unless it has become
    /// another container's.
    async fn follow_up(
        &mut self,
        mut release: Release,
        mut outcome: Result<Outcome, IpamError>,
    ) -> Result<(), TaskError> {
        for _ in 0..RELEASE_ATTEMPTS {
            let current = match outcome {
                Ok(outcome) => {
                    for Skipped { reason, .. } in outcome.skipped {
                        let handle = release.handle_id.as_str();
                        warn!(handle, reason, "a damaged block keeps what it holds");
                    }
                    return Ok(());
                }
                Err(IpamError::ExtraConflict { compared }) => {
                    compared.into_iter().find_map(|(_, current)| current)
                }
                Err(error) => return Err(error.into()),
            };
            let (key, _) = release.endpoint.take().ok_or(TaskError::Contention)?;
            release.endpoint = current.and_then(|kv| {
                let ours = match decode_stored(&key, &kv.value) {
                    Ok(AnyResource::WorkloadEndpoint(endpoint)) => {
                        endpoint.spec.container_id == release.container_id
                            && endpoint.spec.node == self.node
                    }
                    _ => false,
                };
                ours.then_some((key, kv.mod_revision))
            });
            let request = self.release_request(&release);
            let mut outcomes = self.allocator.run(vec![request]).await;
            outcome = outcomes.pop().unwrap_or(Err(IpamError::Contention {
                attempts: RELEASE_ATTEMPTS,
            }));
        }
        Err(TaskError::Contention)
    }
}

enum Waiting {
    Assign(Box<Assign>, Answer<Written>),
    Release(Release, Answer<()>),
    Run(Answer<Outcome>),
}

fn ips_of(given: &[IpAddr], assigned: &[Address]) -> Vec<IpAddr> {
    given
        .iter()
        .copied()
        .chain(assigned.iter().map(|a| a.ip))
        .collect()
}

fn with_addresses(endpoint: &WorkloadEndpoint, ips: &[IpAddr]) -> WorkloadEndpoint {
    let mut endpoint = endpoint.clone();
    endpoint.spec.ip_networks = ips.iter().copied().map(Cidr::host).collect();
    // What was to be translated to it is known beforehand, and it itself only by now.
    endpoint.spec.ip_nats.retain_mut(|nat| {
        let v4 = nat.external_ip.is_ipv4();
        let first = ips.iter().find(|ip| ip.is_ipv4() == v4);
        match first {
            Some(ip) => {
                nat.internal_ip = *ip;
                true
            }
            None => false,
        }
    });
    endpoint
}

fn written(assign: Assign, outcome: &Outcome) -> Result<Written, TaskError> {
    let ips = ips_of(&assign.given_ips, &outcome.addresses);
    if ips.is_empty() {
        return Err(TaskError::Empty(assign.handle_id));
    }
    Ok(Written {
        replaced: Vec::new(),
        stored: StoredEndpoint {
            key: assign.key,
            endpoint: with_addresses(&assign.endpoint, &ips),
            mod_revision: outcome.revision,
        },
        ips,
    })
}
