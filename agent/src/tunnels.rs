//! This host's own tunnel addresses: held in address management and told to the other hosts in the Node.
//!
//! Others wrap packets for this host as soon as the Node says where to, so it says so only when the device is up, and
//! the device stays for a while after it stopped saying so: a pool may change its mode under traffic.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_dataplane::overlay::{IPIP, VXLAN_V4, VXLAN_V6};
use margay_datastore::AnyStore;
use margay_model::keys::Keys;
use margay_model::node::{Node, NodeSpec};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::derive::{TunnelKind, mac_text};
use crate::graph::GraphHandle;
use crate::ipam_task::{IpamHandle, TaskError};
use crate::node;
use crate::world::World;

/// How long other hosts may take to hear that a pool wants no tunnel any more.
const LINGER: Duration = Duration::from_secs(10);

/// Pause before another attempt, and between two looks at a device that is not up yet.
const RETRY: Duration = Duration::from_millis(200);
/// The longest pause, of a matter that an operator has to mend.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Keeps them; a task of its own, that ends with the agent.
pub(crate) struct Keeper {
    pub(crate) node: String,
    pub(crate) keys: Keys,
    pub(crate) store: AnyStore,
    pub(crate) ipam: IpamHandle,
    pub(crate) graph: GraphHandle,
    pub(crate) world: watch::Receiver<Arc<World>>,
}

/// Why a tunnel has to wait.
#[derive(Debug, thiserror::Error)]
enum Wait {
    #[error("interface {0} is not up, or has no address yet")]
    Device(&'static str),
    #[error("{0}")]
    Link(#[from] NetlinkError),
    #[error("no address: {0}")]
    Address(#[from] TaskError),
    #[error("{0:#}")]
    Node(anyhow::Error),
    /// Not a failure: others may still send.
    #[error("others may still send to it")]
    Linger,
}

/// What was done for a kind of tunnel.
#[derive(Debug, Default)]
struct Progress {
    /// The pools that its address was assigned from, and the address.
    assigned: Option<(Vec<String>, IpAddr)>,
    /// Since when no pool asks for it.
    idle_since: Option<Instant>,
    /// Nothing is left of it.
    released: bool,
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        let mut progress: BTreeMap<TunnelKind, Progress> = BTreeMap::new();
        let mut told = BTreeMap::new();
        let mut pause = RETRY;
        loop {
            let world = Arc::clone(&self.world.borrow_and_update());
            let mut again = None;
            for kind in TunnelKind::ALL {
                let (true, Some(own)) = (world.in_sync, &world.node) else {
                    break;
                };
                let done = self.keep(kind, &world, own, progress.entry(kind).or_default());
                let Err(wait) = done.await else {
                    told.remove(&kind);
                    continue;
                };
                again = Some(pause);
                let quiet = matches!(wait, Wait::Linger | Wait::Device(_)) && pause < LAST_RETRY;
                let problem = wait.to_string();
                if !quiet && told.insert(kind, problem.clone()).as_ref() != Some(&problem) {
                    warn!(?kind, problem, "a tunnel waits");
                }
            }
            pause = match again {
                Some(_) => (pause * 2).min(LAST_RETRY),
                None => RETRY,
            };
            if !self.something_new(&world, again).await {
                return;
            }
        }
    }

    /// Waits until pools or the own Node changed, or for `again`. False when the agent ends.
    async fn something_new(&mut self, seen: &World, again: Option<Duration>) -> bool {
        let changed = self.world.wait_for(|world| {
            world.in_sync != seen.in_sync
                || !Arc::ptr_eq(&world.pools, &seen.pools)
                || world.node != seen.node
        });
        match again {
            None => changed.await.is_ok(),
            Some(pause) => !matches!(tokio::time::timeout(pause, changed).await, Ok(Err(_))),
        }
    }

    async fn keep(
        &self,
        kind: TunnelKind,
        world: &World,
        own: &Node,
        progress: &mut Progress,
    ) -> Result<(), Wait> {
        let asking = world.pools.iter().filter(|pool| kind.serves(&pool.spec));
        let pools: Vec<String> = asking.map(|pool| pool.metadata.name.clone()).collect();
        if pools.is_empty() || kind.host(&own.spec).is_none() {
            return self.give_back(kind, own, progress).await;
        }
        progress.idle_since = None;
        progress.released = false;
        let address = match &progress.assigned {
            Some((from, address)) if *from == pools => *address,
            _ => {
                let address = self.ipam.tunnel_address(kind, pools.clone()).await?;
                self.graph.tunnel_address(kind, Some(address)).await;
                progress.assigned = Some((pools, address));
                address
            }
        };
        let mac = kind.mac(&self.node, &own.spec);
        let told = tell(&own.spec, kind, Some((address, mac)));
        if told == own.spec {
            return Ok(());
        }
        is_ready(kind, address)?;
        let change = |spec: &mut NodeSpec| *spec = tell(spec, kind, Some((address, mac)));
        node::change(&self.store, &self.keys, &self.node, change)
            .await
            .map_err(Wait::Node)?;
        info!(?kind, %address, "tunnel address told to the other hosts");
        Ok(())
    }

    async fn give_back(
        &self,
        kind: TunnelKind,
        own: &Node,
        progress: &mut Progress,
    ) -> Result<(), Wait> {
        let is_told = kind.address(&own.spec).is_some();
        if !is_told && progress.released {
            return Ok(());
        }
        if is_told {
            let since = *progress.idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() < LINGER {
                return Err(Wait::Linger);
            }
            let change = |spec: &mut NodeSpec| *spec = tell(spec, kind, None);
            node::change(&self.store, &self.keys, &self.node, change)
                .await
                .map_err(Wait::Node)?;
            info!(?kind, "tunnel address given back");
        }
        self.graph.tunnel_address(kind, None).await;
        self.ipam.release_tunnel_address(kind).await?;
        *progress = Progress {
            released: true,
            ..Progress::default()
        };
        Ok(())
    }
}

/// Whether the device takes what others send. Without an address it would not, where sources are checked: the kernel's loose
/// check of a source passes only on an interface that has one.
fn is_ready(kind: TunnelKind, address: IpAddr) -> Result<(), Wait> {
    let name = match kind {
        TunnelKind::VxlanV4 => VXLAN_V4,
        TunnelKind::VxlanV6 => VXLAN_V6,
        TunnelKind::Ipip => IPIP,
    };
    let mut socket = Socket::route()?;
    let found = link::find(&mut socket, name)?.filter(|link| link.up);
    let device = found.ok_or(Wait::Device(name))?;
    let addresses = link::addresses(&mut socket)?;
    let is_there =
        |there: &link::Address| there.index == device.index && there.address.ip() == address;
    match addresses.iter().any(is_there) {
        true => Ok(()),
        false => Err(Wait::Device(name)),
    }
}

/// A Node that tells of a tunnel, or of none.
fn tell(spec: &NodeSpec, kind: TunnelKind, tunnel: Option<(IpAddr, [u8; 6])>) -> NodeSpec {
    let mut spec = spec.clone();
    let mac = tunnel.map(|(_, mac)| mac_text(mac));
    let v4 = tunnel.and_then(|(ip, _)| match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    match kind {
        TunnelKind::VxlanV4 => {
            spec.ipv4_vxlan_tunnel_addr = v4;
            spec.vxlan_tunnel_mac_addr = mac;
        }
        TunnelKind::VxlanV6 => {
            spec.ipv6_vxlan_tunnel_addr = tunnel.and_then(|(ip, _)| match ip {
                IpAddr::V6(v6) => Some(v6),
                IpAddr::V4(_) => None,
            });
            spec.vxlan_tunnel_mac_addr_v6 = mac;
        }
        TunnelKind::Ipip => {
            if let Some(bgp) = &mut spec.bgp {
                bgp.ipv4_ipip_tunnel_addr = v4;
            }
        }
    }
    spec
}
