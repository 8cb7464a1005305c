//! ADD: address, interface, policy, route; everything acknowledged before the answer.

use std::net::IpAddr;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_dataplane::attach::{AttachSpec, Attached, Pending};
use margay_model::kind::ResourceKey;
use tracing::{debug, info};

use super::budget::Budget;
use super::endpoint::{
    endpoint, ensure_floats_free, ensure_may_send, network_profile, own_profile,
};
use super::gates;
use super::link::{Link, arrived, attaching, configure};
use super::naming::endpoint_key;
use super::netconf::Call;
use super::result::Attachment;
use super::{Cni, PROGRAM_TIMEOUT, ports};
use crate::fault;
use crate::ipam_task::{Assign, Written};
use crate::world::World;

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
        gates::pass(&call.gates, budget).await?;
        let late = "an earlier call for the container is still under way";
        let turn = self.turns.take(&call.container_id);
        let _turn = budget.within(late, turn).await?;
        let _ports = match call.host_ports.is_empty() && call.floating_ips.is_empty() {
            true => None,
            false => {
                let late = "others are still getting ports of the host";
                Some(budget.within(late, self.turns.take(ports::TURN)).await?)
            }
        };
        self.journal.forget(request);
        fault::point("after-journal-forgot");
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
        fault::point("after-plugin");
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
        let free = free.and_then(|()| ensure_floats_free(&world, &key, call));
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
            Ok(reply) => self
                .announced(call, &written.ips, budget)
                .await
                .map(|()| reply),
            failed => failed,
        };
        if programmed.is_err() {
            self.reaper.remove(spec.host_ifname).await;
            self.undo(call, request, &written).await;
        }
        programmed
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
        fault::point("before-txn");
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

    /// Policy and route on the one hand, the container's side and what is to be answered on the other: at the same
    /// time, because a container without policy can neither send nor be reached.
    async fn program(
        &self,
        call: &Call,
        spec: &AttachSpec,
        link: Link,
        written: &Written,
        budget: Budget,
    ) -> Result<CniReply, CniError> {
        let link = match link {
            // Somebody else took them first, and the transaction was planned again.
            Link::Configured(_, _, planned) if planned != written.ips => {
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
            let (attached, arriving) = match link {
                Link::Configured(attached, arriving, _) => {
                    // The kernel first.
                    tokio::task::yield_now().await;
                    (attached, arriving)
                }
                Link::Bare(pending) => attaching(move || configure(pending, &ips)).await?,
            };
            Ok((reply(call, spec, &attached, &written.ips), arriving))
        };
        let (programmed, configured) = tokio::join!(programmed, configured);
        fault::point("before-answer");
        let (reply, arriving) = configured?;
        match programmed? {
            Ok(Ok(())) => {
                arrived(arriving, &spec.host_ifname).await?;
                let (container, interface) = (call.container_id.clone(), call.ifname.clone());
                let ips = written.ips.clone();
                // Told after the answer, which is what somebody waits for.
                tokio::spawn(async move { info!(container, interface, ?ips, "attached") });
                Ok(reply)
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
