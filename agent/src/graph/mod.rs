//! The graph task: from what the datastore says to what the kernel and the speaker should have.
//!
//! It owns the resources as last seen, the policy calculation and everything derived. Two syncers feed it
//! (resources; all block affinities), and CNI handlers tell it of endpoints that they have just
//! written, so that an ADD does not wait for the watch to bring its own write back.
//!
//! It never touches the kernel: it sends [`Batch`]es to the kernel thread and passes acknowledgements on.

mod blocks;
mod cache;
mod closed;
mod handle;
mod overlay;

pub(crate) use cache::Cache;
use closed::closed;
use handle::Message;
pub(crate) use handle::{GraphHandle, Inputs, StoredEndpoint};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use margay_datastore::SyncEvent;
use margay_model::any::AnyResource;
use margay_model::felix_configuration::FelixConfigurationSpec;
use margay_model::ipam::IpamKeys;
use margay_model::keys::Keys;
use margay_model::kind::Kind;
use margay_model::store::KeyValue;
use margay_model::stored::decode_stored;
use margay_model::validate::validate;
use margay_policy::calc::{Calc, Scope};
use margay_policy::selector::Selector;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cni::is_sticky;
use crate::derive;
use crate::dns::{Record, Responder};
use crate::kernel::{Batch, Expect, KernelHandle, Waiting};
use crate::meters::Meters;
use crate::world::{Endpoints, World};
use cache::{Changed, Kept};
use overlay::Overlay;

/// Events taken in before the results are flushed: large enough that a burst of changes is one batch,
/// small enough that an ADD behind it waits for milliseconds.
const BURST: usize = 4096;

/// Where the graph sends what it derives.
pub(crate) struct Outputs {
    pub(crate) kernel: KernelHandle,
    /// The speaker's whole configuration; `None` until the store was read.
    pub(crate) bgp: watch::Sender<Option<derive::Bgp>>,
    pub(crate) world: watch::Sender<Arc<World>>,
    /// Told of every endpoint of the cluster, where names are served.
    pub(crate) names: Option<Arc<Responder>>,
    pub(crate) meters: Arc<Meters>,
}

/// What must be derived anew before the next batch.
#[derive(Clone, Copy, Debug, Default)]
struct Dirty {
    globals: bool,
    blocks: bool,
    bgp: bool,
    world: bool,
    endpoints: bool,
    moves: bool,
    floating_ips: bool,
    reports: bool,
    tunnels: bool,
}

/// The task's state.
pub(crate) struct Graph {
    node: String,
    keys: Keys,
    ipam_keys: IpamKeys,
    bgp_settings: derive::BgpSettings,
    cache: Cache,
    calc: Calc,
    /// This node's endpoints, for the next world.
    endpoints: Endpoints,
    /// This node's.
    blocks: BTreeMap<String, IpNetwork>,
    overlay: Overlay,
    resources_in_sync: bool,
    affinities_in_sync: bool,
    /// Begun with what an earlier agent saw.
    from_snapshot: bool,
    /// The keys of an affinity list that is coming in.
    affinity_listing: Option<BTreeSet<String>>,
    dirty: Dirty,
    waiting: Vec<Waiting>,
    world: World,
    outputs: Outputs,
}

impl Graph {
    pub(crate) fn new(
        node: &str,
        keys: Keys,
        (bgp_settings, felix): (derive::BgpSettings, Vec<FelixConfigurationSpec>),
        outputs: Outputs,
    ) -> Self {
        Self {
            node: node.to_owned(),
            ipam_keys: IpamKeys::new(keys.prefix()),
            keys,
            bgp_settings,
            cache: Cache::with_own(felix),
            calc: Calc::new(Scope::Node(node.to_owned())),
            endpoints: Endpoints::default(),
            blocks: BTreeMap::new(),
            overlay: Overlay::default(),
            resources_in_sync: false,
            affinities_in_sync: false,
            from_snapshot: false,
            affinity_listing: None,
            dirty: Dirty {
                globals: true,
                blocks: true,
                bgp: true,
                world: true,
                endpoints: true,
                moves: true,
                floating_ips: true,
                reports: true,
                tunnels: true,
            },
            waiting: Vec::new(),
            world: World::default(),
            outputs,
        }
    }

    /// Begins with what an earlier agent last saw, for a start while the datastore is away. Kernel and speaker get
    /// what it says; nothing is taken from them, and handlers wait, until the datastore was read.
    pub(crate) fn remember(&mut self, resources: Vec<KeyValue>, affinities: Vec<KeyValue>) {
        for mut kv in resources {
            // Whatever the datastore says is newer, also one that was restored from a backup.
            kv.mod_revision = 0;
            self.bgp_settings.stored.put(&kv.key, &kv.value);
            self.resource(&kv);
        }
        for kv in affinities {
            self.affinity_event(SyncEvent::Apply(kv));
        }
        self.from_snapshot = true;
    }

    /// Runs until an input ends.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        if self.from_snapshot {
            self.flush().await;
        }
        let mut events = Vec::new();
        loop {
            // Cancel-safe: all three are receives. Handlers first, for they have somebody waiting.
            tokio::select! {
                biased;
                message = inputs.messages.recv() => match message {
                    Some(message) => self.hear(message),
                    None => return,
                },
                received = inputs.resources.recv_many(&mut events, BURST) => {
                    if received == 0 {
                        return;
                    }
                    events.drain(..).for_each(|event| self.resource_event(event));
                }
                event = inputs.affinities.recv() => match event {
                    Some(event) => self.affinity_event(event),
                    None => return,
                },
            }
            // What came in meanwhile joins the same batch.
            while let Ok(message) = inputs.messages.try_recv() {
                self.hear(message);
            }
            while let Ok(event) = inputs.affinities.try_recv() {
                self.affinity_event(event);
            }
            if self.resources_in_sync && self.affinities_in_sync {
                self.flush().await;
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Written(stored, ack) => {
                let resource = AnyResource::WorkloadEndpoint(stored.endpoint);
                let key = stored.key.clone();
                let changed = self
                    .cache
                    .apply(stored.key, Some(resource), stored.mod_revision);
                self.take(changed);
                self.waiting.push(Waiting {
                    key,
                    expect: Expect::Present,
                    ack,
                });
            }
            Message::Gone(key, revision, container_id, ack) => {
                // News as old as the value that we remove must not bring it back.
                let changed = self.cache.remove_endpoint(&key, revision, &container_id);
                self.take(changed);
                self.waiting.push(Waiting {
                    key,
                    expect: Expect::Absent,
                    ack,
                });
            }
            Message::TunnelAddress(kind, address) => {
                self.overlay.assign(kind, address);
                self.dirty.tunnels = true;
            }
            Message::TunnelHeard(kind, heard) => {
                self.overlay.heard(kind, heard);
                self.dirty.tunnels = true;
            }
            Message::Programmed(key, ack) => {
                self.waiting.push(Waiting {
                    key,
                    expect: Expect::Present,
                    ack,
                });
            }
        }
    }

    fn resource_event(&mut self, event: SyncEvent) {
        self.dirty.bgp |= self.bgp_settings.stored.hear(&event);
        match event {
            SyncEvent::Init => {
                self.outputs.meters.lists.add(1);
                self.cache.begin_list();
            }
            SyncEvent::InitApply(kv) | SyncEvent::Apply(kv) => self.resource(&kv),
            SyncEvent::InitDone { revision } => {
                for changed in self.cache.end_list(revision) {
                    self.take(Some(changed));
                }
                if !self.resources_in_sync {
                    info!(revision, "datastore read");
                }
                self.resources_in_sync = true;
            }
            SyncEvent::Delete { key, revision } => {
                if let Some(key) = self.keys.parse(&key) {
                    let changed = self.cache.remove(&key, revision);
                    self.cache.seen_up_to(revision);
                    self.take(changed);
                }
            }
        }
    }

    /// A value that does not decode counts as absent, and stops nothing else; a policy then stops all that
    /// it selects.
    fn resource(&mut self, kv: &KeyValue) {
        let Some(key) = self.keys.parse(&kv.key) else {
            return;
        };
        if self.cache.knows(&key, kv.mod_revision) {
            return;
        }
        let resource = match decode_stored(&key, &kv.value) {
            Ok(resource) => usable(resource, &kv.key),
            Err(error) => match closed(&key, &kv.value) {
                Some(policy) => {
                    warn!(key = kv.key, %error, "policy cannot be read: it drops what it selects");
                    Some(policy)
                }
                None => {
                    warn!(key = kv.key, %error, "resource ignored");
                    None
                }
            },
        };
        if let Some(AnyResource::WorkloadEndpoint(endpoint)) = &resource
            && endpoint.spec.node == self.node
            && let Err(error) = endpoint.spec.qos_controls()
        {
            warn!(key = kv.key, error, "limits of an endpoint ignored");
        }
        let changed = self.cache.apply(key, resource, kv.mod_revision);
        self.take(changed);
    }

    /// Hands a change to whoever depends on it.
    fn take(&mut self, changed: Option<Changed>) {
        let Some(changed) = changed else { return };
        let census = &self.outputs.meters.census;
        census.changed(changed.key.kind, changed.old.is_some(), changed.now_present);
        match self.cache.get(&changed.key) {
            Some(resource) => self.calc.update(resource),
            None => self.calc.remove(&changed.key),
        }
        let dirty = &mut self.dirty;
        match changed.key.kind {
            Kind::WorkloadEndpoint => {
                let (key, old) = (&changed.key, changed.old.as_ref());
                dirty.floating_ips |= [old.and_then(Kept::whole), self.cache.get(key)]
                    .into_iter()
                    .flatten()
                    .any(asks_for_floating_ips);
                self.overlay.endpoint(key, old, &self.cache);
                if let Some(names) = &self.outputs.names {
                    let record = match self.cache.get(&changed.key) {
                        Some(AnyResource::WorkloadEndpoint(endpoint)) => Record::of(endpoint),
                        _ => None,
                    };
                    names.set(changed.key.clone(), record);
                }
                let local = self.cache.local_endpoint(&changed.key, &self.node);
                self.cache.forget_details(&changed.key, &self.node);
                let before = match local {
                    Some(local) => {
                        dirty.endpoints = true;
                        dirty.moves |= is_sticky(&local.resource);
                        self.endpoints.insert(changed.key, Arc::new(local))
                    }
                    None => self.endpoints.remove(&changed.key),
                };
                dirty.endpoints |= before.is_some();
                dirty.moves |= before.is_some_and(|before| is_sticky(&before.resource));
            }
            Kind::IpPool => {
                dirty.globals = true;
                dirty.bgp = true;
                dirty.world = true;
                dirty.tunnels = true;
            }
            Kind::FelixConfiguration => {
                dirty.globals = true;
                dirty.world = true;
                dirty.tunnels = true;
            }
            Kind::Node => {
                // Its labels may choose settings, its addresses are known to rules.
                dirty.globals = true;
                dirty.bgp = true;
                dirty.world = true;
                dirty.tunnels = true;
            }
            Kind::BgpConfiguration => {
                dirty.globals = true;
                dirty.bgp = true;
            }
            Kind::BgpPeer | Kind::BgpFilter => dirty.bgp = true,
            // Its status is our own report.
            Kind::CalicoNodeStatus => {
                let now = self.cache.get(&changed.key).and_then(derive::asked);
                let old = changed.old.as_ref().and_then(Kept::whole);
                dirty.reports |= now != old.and_then(derive::asked);
            }
            Kind::ClusterInformation
            | Kind::Profile
            | Kind::IpReservation
            | Kind::IpamConfiguration => dirty.world = true,
            _ => {}
        }
    }

    /// Derives what is out of date and sends it on, in the order in which it may be relied on.
    async fn flush(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        let tuning = dirty
            .globals
            .then(|| derive::tuning(&self.cache, &self.node));
        if let Some(tuning) = &tuning {
            self.calc.enable_floating_ips(tuning.floating_ips);
        }
        let begun = Instant::now();
        let policy = self.calc.flush();
        self.outputs.meters.calculation.took(begun.elapsed());
        for event in self.calc.take_events() {
            match event.message {
                Some(reason) => warn!(key = %event.key, reason, "policy"),
                None => info!(key = %event.key, "policy in order again"),
            }
        }
        let tunnels = dirty
            .tunnels
            .then(|| self.overlay.refresh(&self.cache, &self.node));
        let overlay = match self.overlay.is_dirty() {
            true => self.overlay.changes(&self.cache),
            false => overlay::Changes::default(),
        };
        let batch = Batch {
            policy,
            resync: tuning.as_ref().map(|tuning| tuning.resync),
            backend: tuning.as_ref().map(|tuning| tuning.backend),
            log_prefix: tuning.map(|tuning| tuning.log_prefix),
            globals: dirty
                .globals
                .then(|| derive::globals(&self.cache, &self.node)),
            blocks: dirty
                .blocks
                .then(|| self.blocks.values().copied().collect()),
            tunnels,
            ways: overlay.ways,
            holders: overlay.holders,
            waiting: std::mem::take(&mut self.waiting),
        };
        // First, so that the kernel thread works meanwhile. Whoever waits for it runs after this task, on the one
        // worker that there is.
        if !batch.is_empty() && self.outputs.kernel.send(batch).await.is_err() {
            // The kernel thread ended; the agent is about to.
            return;
        }
        let worlds = [
            dirty.endpoints,
            dirty.reports,
            dirty.blocks,
            dirty.floating_ips,
        ];
        if dirty.world || worlds.contains(&true) {
            self.refresh_world(dirty);
        }
        if !self.resources_in_sync {
            // Peers withdraw what the speaker does not say before its End-of-RIB.
            self.outputs.kernel.settled().await;
        } else if !self.world.in_sync {
            // Handlers may start once the kernel holds everything that was there before them.
            self.outputs.kernel.in_sync().await;
            self.world.in_sync = true;
            self.outputs
                .world
                .send_replace(Arc::new(self.world.clone()));
        }
        if dirty.bgp {
            let config = derive::bgp(&self.cache, &self.node, &self.bgp_settings);
            self.outputs.bgp.send_replace(config);
        }
    }

    fn refresh_world(&mut self, dirty: Dirty) {
        if dirty.world {
            derive::refresh_world(&mut self.world, &self.cache, &self.node);
        }
        if dirty.blocks {
            self.world.blocks = Arc::new(self.blocks.values().copied().collect());
        }
        if dirty.endpoints {
            self.world.endpoints = Arc::new(self.endpoints.clone());
        }
        if dirty.reports {
            self.world.reports = Arc::new(derive::reports(&self.cache, &self.node));
        }
        if dirty.floating_ips {
            let all = self.calc.floating_ips();
            let all = all.map(|(address, owner)| (address, owner.clone()));
            self.world.floating_ips = Arc::new(all.collect());
        }
        if dirty.moves {
            self.world.moves = Arc::new(derive::moves(&self.endpoints));
        }
        self.outputs
            .world
            .send_replace(Arc::new(self.world.clone()));
    }
}

fn asks_for_floating_ips(resource: &AnyResource) -> bool {
    matches!(resource, AnyResource::WorkloadEndpoint(endpoint) if !endpoint.spec.ip_nats.is_empty())
}

/// Refuses what another client stored against the rules, and says so once.
///
/// Policies, profiles and endpoints are not refused: without them traffic would pass that they mean to
/// stop. The calculation fails closed for whatever it cannot use of them.
fn usable(resource: AnyResource, key: &str) -> Option<AnyResource> {
    let check = |text: &str| {
        text.parse::<Selector>()
            .map(drop)
            .map_err(|e| e.to_string())
    };
    let errors = validate(&resource, &check);
    if errors.is_empty() {
        return Some(resource);
    }
    let fails_closed = matches!(
        resource.kind(),
        Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::Profile
            | Kind::HostEndpoint
            | Kind::WorkloadEndpoint
            | Kind::Tier
    );
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let errors = errors.join("; ");
    if fails_closed {
        warn!(key, errors, "resource is not valid, used as far as it goes");
        return Some(resource);
    }
    warn!(key, errors, "resource is not valid, ignored");
    None
}
