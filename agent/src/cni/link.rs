//! ADD: the interface, made while its addresses are still being chosen.

use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use margay_api::cni::{CniError, code};
use margay_dataplane::attach::{self, ARRIVAL, Arriving, AttachSpec, Attached, Pending};
use margay_dataplane::bandwidth::{self, Bandwidth};
use tracing::warn;

use super::naming::host_ifname;
use super::netconf::Call;
use super::{Cni, attach_error};
use crate::causes::in_full;
use crate::fault;
use crate::world::World;

/// There where the kernel has IPv6.
const IPV6: &str = "/proc/sys/net/ipv6";

/// How long a new pair waits for its addresses to be chosen. On a busy host they come later than this, after a
/// transaction of others, and the container's side is then set up once they are in the store.
const PLAN_WAIT: Duration = Duration::from_millis(5);

/// The pair, before the store has answered.
pub(super) enum Link {
    Bare(Pending),
    /// Set up with the addresses that were planned.
    Configured(Attached, Arriving, Vec<IpAddr>),
}

impl Cni {
    pub(super) async fn make_link(
        &self,
        call: &Call,
        spec: &AttachSpec,
    ) -> Result<Pending, CniError> {
        self.reaper.when_gone(&spec.host_ifname).await;
        let (spec, bandwidth) = (spec.clone(), call.bandwidth);
        let make = move || {
            let link = create_link(&spec, &bandwidth);
            fault::point("after-link");
            link
        };
        attaching(make).await
    }

    /// The veth pair, and the container's side if its addresses are chosen soon enough: the container has no route
    /// and no policy yet, so that nothing passes while the transaction may still fail.
    pub(super) async fn link(
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
                Ok(ips) => {
                    let (attached, arriving) = configure(pending, &ips)?;
                    Ok(Link::Configured(attached, arriving, ips))
                }
                Err(_) => Ok(Link::Bare(pending)),
            }
        })
        .await
    }

    pub(super) fn attach_spec(&self, call: &Call, world: &World) -> AttachSpec {
        AttachSpec {
            netns: call.netns.clone().into(),
            container_ifname: call.ifname.clone(),
            host_ifname: host_ifname(&world.interface_prefix, &call.container_id, &call.ifname),
            mtu: call.mtu.or_else(|| *self.mtu.borrow()),
            mtu_follows: call.mtu.is_none(),
            // Chosen here rather than by the kernel, so that the endpoint can be written while the
            // interface is being made.
            container_mac: Some(call.mac.unwrap_or_else(random_mac)),
            allow_spoofing: world.allow_spoofing,
            container_forwarding: call.forwarding,
            queues: call.queues,
            ipv6: call.ipam.v6
                || call.requested_ips.iter().any(IpAddr::is_ipv6)
                || call.given_ips.iter().any(IpAddr::is_ipv6)
                // What another plugin gives is not known yet.
                || (call.delegate.is_some() && Path::new(IPV6).exists()),
        }
    }
}

/// Runs what blocks for the length of some system calls, or longer where the kernel is busy.
pub(super) async fn attaching<T: Send + 'static>(
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

pub(super) fn configure(
    pending: Pending,
    ips: &[IpAddr],
) -> Result<(Attached, Arriving), CniError> {
    let attached = pending.configure(ips).map_err(|e| attach_error(&e));
    fault::point("after-addresses");
    attached
}

/// The container hears what is sent to it, or is late with that and not waited for any longer.
pub(super) async fn arrived(mut arriving: Arriving, host_ifname: &str) -> Result<(), CniError> {
    if arriving.is_over().map_err(|e| attach_error(&e))? {
        return Ok(());
    }
    let wait = move || arriving.wait(ARRIVAL).map_err(|e| attach_error(&e));
    if !attaching(wait).await? {
        warn!(host_ifname, "the container's IPv6 addresses are late");
    }
    Ok(())
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
