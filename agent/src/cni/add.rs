//! ADD: address, interface, policy, route; everything acknowledged before the answer.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_dataplane::attach::{self, AttachSpec, Attached, Pending};
use margay_dataplane::bandwidth::{self, Bandwidth};
use margay_model::kind::ResourceKey;
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::profile::{Profile, ProfileSpec};
use margay_model::rule::{Action, Rule};
use margay_model::workload_endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};
use tracing::{debug, info};

use super::budget::Budget;
use super::mac::format_mac;
use super::naming::{endpoint_key, host_ifname};
use super::netconf::Call;
use super::result::Attachment;
use super::{
    Cni, HANDLE_ANNOTATION, IDENTITY_ANNOTATION, MOVES_ANNOTATION, PROGRAM_TIMEOUT, attach_error,
    ports,
};
use crate::causes::in_full;
use crate::fault;
use crate::ipam_task::{Assign, Written};
use crate::world::World;

/// There where the kernel has IPv6.
const IPV6: &str = "/proc/sys/net/ipv6";

/// How long a new pair waits for its addresses to be chosen. On a busy host they come later than this, after a
/// transaction of others, and the container's side is then set up once they are in the store.
const PLAN_WAIT: Duration = Duration::from_millis(5);

/// The pair, before the store has answered.
enum Link {
    Bare(Pending),
    /// Set up with the addresses that were planned.
    Configured(Attached, Vec<IpAddr>),
}

impl Cni {
    pub(super) async fn add(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<CniReply, CniError> {
        let mut call = Call::parse(request, header)?;
        self.ensure_for_this_node(&call)?;
        let budget = Budget::begin(call.budget_secs);
        let late = "the agent is still reading the datastore";
        budget.within(late, self.open_world()).await??;
        let late = "an earlier call for the container is still under way";
        let turn = self.turns.take(&call.container_id);
        let _turn = budget.within(late, turn).await?;
        let _ports = match call.host_ports.is_empty() {
            true => None,
            false => {
                let late = "others are still getting ports of the host";
                Some(budget.within(late, self.turns.take(ports::TURN)).await?)
            }
        };
        self.journal.forget(request);
        let spec = self.attach_spec(&call, &self.world());
        let Some(plugin) = call.delegate.clone() else {
            return self.attach(&call, request, spec, None, budget).await;
        };
        // The interface first: the plugin may speak through it, as DHCP does. And a container that has it
        // already is attached, where what the plugin gives again must not be given back.
        let link = self.make_link(&call, &spec).await?;
        let given = match self.ask_for_addresses(&plugin, request).await {
            Ok(given) => given,
            Err(error) => {
                self.reaper.remove(spec.host_ifname).await;
                return Err(error);
            }
        };
        call.given_ips = given.ips;
        call.dns = call.dns.or(given.dns);
        let attached = self.attach(&call, request, spec, Some(link), budget).await;
        if attached.is_err() {
            self.give_back_or_leave(request).await;
        }
        attached
    }

    /// A configuration may say which node it is for.
    fn ensure_for_this_node(&self, call: &Call) -> Result<(), CniError> {
        let of_file = || {
            let text = std::fs::read_to_string(call.nodename_file.as_ref()?).ok()?;
            Some(("nodename_file has", text.trim().to_owned()))
        };
        let named = call.nodename.clone().map(|name| ("nodename is", name));
        match named.or_else(of_file) {
            Some((source, name)) if !name.is_empty() && name != self.node => {
                let msg = format!(
                    "{source} {name:?}, and this is the agent of {:?}",
                    self.node
                );
                Err(CniError::new(code::INVALID_CONFIG, msg))
            }
            _ => Ok(()),
        }
    }

    async fn make_link(&self, call: &Call, spec: &AttachSpec) -> Result<Pending, CniError> {
        self.reaper.when_gone(&spec.host_ifname).await;
        let (spec, bandwidth) = (spec.clone(), call.bandwidth);
        let make = move || {
            let link = create_link(&spec, &bandwidth);
            fault::point("after-link");
            link
        };
        attaching(make).await
    }

    /// Everything but what another plugin needs first: the interface, and its addresses.
    async fn attach(
        &self,
        call: &Call,
        request: &CniRequest,
        spec: AttachSpec,
        made: Option<Pending>,
        budget: Budget,
    ) -> Result<CniReply, CniError> {
        let world = self.world();
        let key = endpoint_key(&self.node, call).map_err(|e| {
            CniError::new(
                code::INVALID_ENVIRONMENT,
                format!("no endpoint can have this name: {e}"),
            )
        })?;
        let free = ports::ensure_free(&world, &key, &call.host_ports);
        if let Err(error) = free.and_then(|()| ensure_may_send(&world, call)) {
            if made.is_some() {
                self.reaper.remove(spec.host_ifname).await;
            }
            return Err(error);
        }
        let known = world.endpoints.contains_key(&key)
            || world
                .endpoint_of(&call.container_id, &call.ifname)
                .is_some();
        let (plan, planned) = mpsc::sync_channel(1);
        let link = async {
            match made {
                Some(link) => Ok(Link::Bare(link)),
                None if known => self.make_link(call, &spec).await.map(Link::Bare),
                None => self.link(call, &spec, planned).await,
            }
        };
        let assign = self.assign(call, &spec, &key, &world, plan);
        let (link, written) = if known {
            // Perhaps the container is attached: its interface tells, and keeps what it has.
            let link = link.await?;
            (Ok(link), assign.await)
        } else {
            tokio::join!(link, assign)
        };
        fault::point("after-txn-and-link");
        let (link, written) = match (link, written) {
            (Ok(link), Ok(written)) => (link, written),
            (Ok(_), Err(error)) => {
                self.reaper.remove(spec.host_ifname).await;
                return Err(error);
            }
            (Err(error), written) => {
                if let Ok(written) = written {
                    self.undo(call, request, &written).await;
                }
                return Err(error);
            }
        };
        let programmed = match self.program(call, &spec, link, &written, budget).await {
            Ok(link) => self
                .announced(call, &written.ips, budget)
                .await
                .map(|()| link),
            failed => failed,
        };
        match programmed {
            Ok(link) => Ok(reply(call, &spec, &link, &written.ips)),
            Err(error) => {
                self.reaper.remove(spec.host_ifname).await;
                self.undo(call, request, &written).await;
                Err(error)
            }
        }
    }

    /// The veth pair, and the container's side if its addresses are chosen soon enough: the container has no route
    /// and no policy yet, so that nothing passes while the transaction may still fail.
    async fn link(
        &self,
        call: &Call,
        spec: &AttachSpec,
        planned: Receiver<Vec<IpAddr>>,
    ) -> Result<Link, CniError> {
        self.reaper.when_gone(&spec.host_ifname).await;
        let (spec, bandwidth) = (spec.clone(), call.bandwidth);
        attaching(move || {
            let pending = create_link(&spec, &bandwidth)?;
            fault::point("after-link");
            match planned.recv_timeout(PLAN_WAIT) {
                Ok(ips) => Ok(Link::Configured(configure(pending, &ips)?, ips)),
                Err(_) => Ok(Link::Bare(pending)),
            }
        })
        .await
    }

    fn attach_spec(&self, call: &Call, world: &World) -> AttachSpec {
        AttachSpec {
            netns: call.netns.clone().into(),
            container_ifname: call.ifname.clone(),
            host_ifname: host_ifname(&world.interface_prefix, &call.container_id, &call.ifname),
            mtu: call.mtu.or_else(|| *self.mtu.borrow()),
            // Chosen here rather than by the kernel, so that the endpoint can be written while the
            // interface is being made.
            container_mac: Some(call.mac.unwrap_or_else(random_mac)),
            allow_spoofing: world.allow_spoofing,
            container_forwarding: call.forwarding,
            ipv6: call.ipam.v6
                || call.requested_ips.iter().any(IpAddr::is_ipv6)
                || call.given_ips.iter().any(IpAddr::is_ipv6)
                // What another plugin gives is not known yet.
                || (call.delegate.is_some() && Path::new(IPV6).exists()),
        }
    }

    /// Address and endpoint, in one transaction.
    async fn assign(
        &self,
        call: &Call,
        spec: &AttachSpec,
        key: &ResourceKey,
        world: &World,
        planned: SyncSender<Vec<IpAddr>>,
    ) -> Result<Written, CniError> {
        let endpoint = endpoint(&self.node, key, call, spec, world);
        let assign = Assign {
            handle_id: call.handle_id(),
            container_id: call.container_id.clone(),
            identity: call.identity.clone(),
            given_ips: call.given_ips.clone(),
            pod: call
                .pod
                .as_ref()
                .map(|p| (p.namespace.clone(), p.name.clone())),
            wish: call.ipam.clone(),
            requested_ips: call.requested_ips.clone(),
            key: key.clone(),
            endpoint,
            // One that is known is not asked for: the transaction would fail and have to be made again.
            profile: (own_profile(call) && !world.profiles.contains(&call.network))
                .then(|| network_profile(&call.network)),
            planned,
        };
        let written = self.ipam.assign(assign).await.map_err(|e| {
            let code = if e.transient() {
                code::TRY_AGAIN_LATER
            } else {
                code::NO_ADDRESS
            };
            CniError::new(code, e.to_string())
        });
        fault::point("after-txn");
        written
    }

    /// Policy and route on the one hand, the container's side on the other: at the same time, because
    /// a container without policy can neither send nor be reached.
    async fn program(
        &self,
        call: &Call,
        spec: &AttachSpec,
        link: Link,
        written: &Written,
        budget: Budget,
    ) -> Result<Attached, CniError> {
        let link = match link {
            // Somebody else took them first, and the transaction was planned again.
            Link::Configured(_, planned) if planned != written.ips => {
                self.reaper.remove(spec.host_ifname.clone()).await;
                Link::Bare(self.make_link(call, spec).await?)
            }
            link => link,
        };
        let policy_secs = call.policy_secs.map(Duration::from_secs);
        let patience = policy_secs.unwrap_or(PROGRAM_TIMEOUT);
        let late = "the kernel has not acknowledged policy and route";
        let programming = tokio::time::timeout(patience, async {
            self.forget_replaced(written).await;
            if own_profile(call) {
                self.profile_known(&call.network).await;
            }
            self.graph.endpoint(written.stored.clone()).await
        });
        let programmed = budget.within(late, programming);
        let ips = written.ips.clone();
        let configured = async {
            match link {
                Link::Configured(attached, _) => Ok(attached),
                Link::Bare(pending) => attaching(move || configure(pending, &ips)).await,
            }
        };
        let (programmed, configured) = tokio::join!(programmed, configured);
        fault::point("before-answer");
        let link = configured?;
        match programmed? {
            Ok(Ok(())) => {
                let (container, interface) = (call.container_id.clone(), call.ifname.clone());
                let ips = written.ips.clone();
                // Told after the answer, which is what somebody waits for.
                tokio::spawn(async move { info!(container, interface, ?ips, "attached") });
                Ok(link)
            }
            Ok(Err(reason)) => Err(CniError::new(
                code::ATTACH_FAILED,
                format!("policy or route cannot be programmed: {reason}"),
            )),
            Err(_elapsed) => Err(CniError::new(
                code::TRY_AGAIN_LATER,
                format!(
                    "the kernel has not acknowledged within {} s",
                    patience.as_secs()
                ),
            )),
        }
    }

    /// The same address on two interfaces of this host is one too many: what lost it goes first. On other
    /// hosts the watch tells.
    async fn forget_replaced(&self, written: &Written) {
        let world = self.world();
        for key in &written.replaced {
            let Some(endpoint) = world.endpoints.get(key) else {
                continue;
            };
            let container_id = &endpoint.resource.spec.container_id;
            let revision = written.stored.mod_revision;
            let gone = self
                .graph
                .endpoint_gone(key.clone(), revision, container_id);
            if let Err(reason) = gone.await {
                info!(%key, reason, "kernel state of an endpoint is left to be retried");
            }
        }
    }

    /// Waits for the watch to bring the profile of a network that has just had its first container.
    async fn profile_known(&self, network: &str) {
        let mut world = self.world.clone();
        if world
            .wait_for(|w| w.profiles.contains(network))
            .await
            .is_err()
        {
            debug!("the agent is stopping");
        }
    }

    /// Gives back what a failed ADD took. If that fails too, the runtime's DEL or our audit does it.
    async fn undo(&self, call: &Call, request: &CniRequest, written: &Written) {
        let (key, revision) = (&written.stored.key, written.stored.mod_revision);
        let gone = self
            .graph
            .endpoint_gone(key.clone(), revision, &request.container_id);
        if let Err(reason) = gone.await {
            info!(%key, reason, "kernel state of an endpoint is left to be retried");
        }
        let endpoint = Some((key.clone(), revision));
        let owned = (call.handle_id(), call.identity.is_some());
        if let Err(error) = self.release(owned, request, endpoint).await {
            info!(
                container = request.container_id,
                error = error.msg,
                "left to DEL"
            );
        }
    }
}

/// Runs what blocks for the length of some system calls, or longer where the kernel is busy.
async fn attaching<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        let msg = format!("attaching failed: {panic}");
        Err(CniError::new(code::ATTACH_FAILED, msg))
    })
}

/// The pair, with the queues of its host end.
fn create_link(spec: &AttachSpec, bandwidth: &Bandwidth) -> Result<Pending, CniError> {
    let pending = create_pair(spec)?;
    if bandwidth.is_limited()
        && let Err(error) = bandwidth::limit(&spec.host_ifname, bandwidth)
    {
        attach::remove(&spec.host_ifname).map_err(|e| attach_error(&e))?;
        return Err(CniError::new(code::ATTACH_FAILED, in_full(&error)));
    }
    Ok(pending)
}

fn create_pair(spec: &AttachSpec) -> Result<Pending, CniError> {
    match attach::create_link(spec) {
        // Left by an ADD of the same container that was cut off: ours by its name. Where the container
        // has its interface, the ADD was not cut off, and a second one must fail.
        Err(attach::AttachError::HostInterfaceExists { ifname }) => {
            attach::ensure_absent(spec).map_err(|e| attach_error(&e))?;
            attach::remove(&ifname).map_err(|e| attach_error(&e))?;
            attach::create_link(spec).map_err(|e| attach_error(&e))
        }
        other => other.map_err(|e| attach_error(&e)),
    }
}

fn configure(pending: Pending, ips: &[IpAddr]) -> Result<Attached, CniError> {
    pending.configure(ips).map_err(|e| attach_error(&e))
}

/// Locally administered, unicast.
fn random_mac() -> [u8; 6] {
    let random = uuid::Uuid::new_v4();
    let bytes = random.as_bytes();
    [
        (bytes[0] & 0xfc) | 0x02,
        bytes[1],
        bytes[2],
        bytes[3],
        bytes[4],
        bytes[5],
    ]
}

/// The endpoint without its addresses, which the allocator fills in.
fn endpoint(
    node: &str,
    key: &ResourceKey,
    call: &Call,
    spec: &AttachSpec,
    world: &World,
) -> WorkloadEndpoint {
    let namespace = key.namespace.clone().unwrap_or_default();
    let orchestrator = if call.pod.is_some() { "k8s" } else { "cni" };
    // A sandbox that is made anew under the same name keeps what others wrote into its endpoint.
    let before = world.endpoints.get(key).map(Arc::clone);
    let mut metadata = ObjectMeta::namespaced(namespace.clone(), key.name.clone());
    match &before {
        Some(before) => {
            metadata = before.resource.metadata.clone();
            metadata.resource_version = None;
        }
        None => {
            metadata.uid = Some(uuid::Uuid::new_v4().to_string());
            metadata.creation_timestamp = Some(now_rfc3339());
        }
    }
    metadata
        .labels
        .insert("projectcalico.org/namespace".into(), namespace.clone());
    metadata
        .labels
        .insert("projectcalico.org/orchestrator".into(), orchestrator.into());
    metadata
        .annotations
        .insert(HANDLE_ANNOTATION.into(), call.handle_id());
    metadata.annotations.remove(MOVES_ANNOTATION);
    match &call.identity {
        Some(identity) => metadata
            .annotations
            .insert(IDENTITY_ANNOTATION.into(), identity.name.clone()),
        None => metadata.annotations.remove(IDENTITY_ANNOTATION),
    };
    let profiles = match &call.pod {
        Some(pod) => {
            vec![
                format!("kns.{}", pod.namespace),
                format!("ksa.{}.default", pod.namespace),
            ]
        }
        None if call.kubernetes_policy => Vec::new(),
        None => vec![call.network.clone()],
    };
    let endpoint = WorkloadEndpointSpec {
        orchestrator: orchestrator.into(),
        node: node.into(),
        container_id: call.container_id.clone(),
        pod: call
            .pod
            .as_ref()
            .map(|p| p.name.clone())
            .unwrap_or_default(),
        endpoint: call.ifname.clone(),
        profiles,
        interface_name: spec.host_ifname.clone(),
        mac: spec.container_mac.map(format_mac).unwrap_or_default(),
        ports: call.host_ports.clone(),
        allow_spoofed_source_prefixes: call.source_prefixes.clone(),
        ..WorkloadEndpointSpec::default()
    };
    Resource::new(metadata, endpoint)
}

/// Other sources than its own are for where the operator lets workloads have them.
fn ensure_may_send(world: &World, call: &Call) -> Result<(), CniError> {
    if call.source_prefixes.is_empty() || world.allow_spoofing {
        return Ok(());
    }
    let msg = "annotation allowedSourcePrefixes is set, FelixConfiguration workloadSourceSpoofing \
               must be Any";
    Err(CniError::new(code::INVALID_CONFIG, msg))
}

/// Without an orchestrator that brings profiles, a network has one of its own.
fn own_profile(call: &Call) -> bool {
    call.pod.is_none() && !call.kubernetes_policy
}

/// As the established plugin makes it: containers of the network reach each other, and everything.
fn network_profile(network: &str) -> Profile {
    let mut from_network = Rule::new(Action::Allow);
    from_network.source.selector = Some(format!("has({network})"));
    let mut metadata = ObjectMeta::named(network);
    metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    metadata.creation_timestamp = Some(now_rfc3339());
    let spec = ProfileSpec {
        ingress: vec![from_network],
        egress: vec![Rule::new(Action::Allow)],
        labels_to_apply: [(network.to_owned(), String::new())].into(),
        ..ProfileSpec::default()
    };
    Resource::new(metadata, spec)
}

/// RFC 3339, whole seconds, UTC, as every resource has it.
pub(crate) fn now_rfc3339() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

fn reply(call: &Call, spec: &AttachSpec, link: &Attached, ips: &[IpAddr]) -> CniReply {
    let attachment = Attachment {
        host_ifname: &spec.host_ifname,
        host_mac: link.host_mac,
        container_ifname: &spec.container_ifname,
        container_mac: link.container_mac,
        netns: &call.netns,
        mtu: link.mtu,
        ips,
        default_routes: call.default_routes,
        dns: call.dns.as_ref(),
    };
    CniReply::result(&attachment.to_result(&call.cni_version, call.prev_result.as_ref()))
}
