//! This host's own tunnel addresses: held in address management and told to the other hosts in the Node, with the public
//! keys of the devices that encrypt.
//!
//! Others wrap packets for this host as soon as the Node says where to, so it says so only when the device is up, and
//! the device stays for a while after it stopped saying so: a pool may change its mode under traffic.
//!
//! What is encrypted needs both ends to know each other. A host whose key is new takes what others send from the first
//! packet on, and sends encrypted packets itself a moment later, when they have heard of the key. One that encrypts no more
//! takes its key back at once, for that is what has the others stop, and keeps the device and its address until they have.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_dataplane::overlay::{IPIP, VXLAN_V4, VXLAN_V6};
use margay_dataplane::wireguard::{PublicKey, Wireguard};
use margay_datastore::AnyStore;
use margay_model::keys::Keys;
use margay_model::node::{Node, NodeWireguard};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::derive::{TunnelKind, mac_text};
use crate::graph::GraphHandle;
use crate::ipam_task::{IpamHandle, TaskError};
use crate::node;
use crate::world::World;

/// How long other hosts may take to hear that a pool wants no tunnel any more; and how long a device that they were told
/// of may be missing before they hear that.
const LINGER: Duration = Duration::from_secs(10);

/// How long other hosts may take to hear of a key. What is sent to one that has not is kept by the kernel until it has, but
/// no more than 128 packets.
const HEARD: Duration = Duration::from_secs(1);

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
    Device(String),
    #[error("{0}")]
    Link(#[from] NetlinkError),
    #[error("no address: {0}")]
    Address(#[from] TaskError),
    #[error("{0:#}")]
    Node(anyhow::Error),
    /// Not a failure: others may still send.
    #[error("others may still send to it")]
    Linger,
    /// Not a failure: others may not know the key yet.
    #[error("others may not know its key yet")]
    Unheard,
}

/// What was done for a kind of tunnel.
#[derive(Debug, Default)]
struct Progress {
    /// The pools that its address was assigned from, and the address.
    assigned: Option<(Vec<String>, IpAddr)>,
    /// When others were told of a key where they knew none.
    told_at: Option<Instant>,
    /// Since when nobody asks for it.
    idle_since: Option<Instant>,
    /// Since when the device that others were told of is not there.
    missing_since: Option<Instant>,
    /// Nothing is left of it.
    released: bool,
}

/// What other hosts have to know of a device.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// A hardware address, for what has one.
    Mac([u8; 6]),
    Key(PublicKey),
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        let mut progress: BTreeMap<TunnelKind, Progress> = BTreeMap::new();
        let mut told = BTreeMap::new();
        let mut pause = RETRY;
        let kinds = || {
            TunnelKind::OF_POOLS
                .into_iter()
                .chain(TunnelKind::WIREGUARD)
        };
        loop {
            let world = Arc::clone(&self.world.borrow_and_update());
            let mut again = None;
            for kind in kinds() {
                let (true, Some(own)) = (world.in_sync, &world.node) else {
                    break;
                };
                let done = self.keep(kind, &world, own, progress.entry(kind).or_default());
                let Err(wait) = done.await else {
                    told.remove(&kind);
                    continue;
                };
                let next = match wait {
                    Wait::Unheard => HEARD,
                    _ => pause,
                };
                again = Some(again.map_or(next, |again: Duration| again.min(next)));
                let quiet = matches!(wait, Wait::Linger | Wait::Unheard | Wait::Device(_))
                    && pause < LAST_RETRY;
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

    /// Waits until pools, settings or the own Node changed, or for `again`. False when the agent ends.
    async fn something_new(&mut self, seen: &World, again: Option<Duration>) -> bool {
        let changed = self.world.wait_for(|world| {
            world.in_sync != seen.in_sync
                || !Arc::ptr_eq(&world.pools, &seen.pools)
                || world.node != seen.node
                || world.wireguard != seen.wireguard
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
        let encrypts = TunnelKind::WIREGUARD.contains(&kind);
        let device = device(kind, world);
        let (false, true, Some(device)) =
            (pools.is_empty(), kind.host(&own.spec).is_some(), device)
        else {
            return self.give_back(kind, own, progress).await;
        };
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
        if !encrypts {
            let mac = Told::Mac(kind.mac(&self.node, &own.spec));
            if tell(own, kind, Some((address, mac))) == *own {
                return Ok(());
            }
            is_ready(&device, address)?;
            return self.tell(kind, Some((address, mac))).await;
        }
        match key_of(&device, address) {
            Ok(key) => {
                progress.missing_since = None;
                let is_new = own.wireguard_key(kind.is_v6()).is_none();
                if is_new {
                    self.graph.tunnel_heard(kind, false).await;
                }
                let tunnel = Some((address, Told::Key(key)));
                if tell(own, kind, tunnel) != *own {
                    self.tell(kind, tunnel).await?;
                }
                if is_new {
                    progress.told_at = Some(Instant::now());
                }
                self.await_heard(kind, progress).await
            }
            // What others send would not be taken: they must not.
            Err(wait) if own.wireguard_key(kind.is_v6()).is_some() => {
                let since = *progress.missing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= LINGER {
                    warn!(
                        device,
                        "nobody is to encrypt for this host: its device is missing"
                    );
                    self.tell(kind, None).await?;
                }
                Err(wait)
            }
            Err(wait) => Err(wait),
        }
    }

    /// Has this host encrypt once the others had time to hear of its key.
    async fn await_heard(&self, kind: TunnelKind, progress: &mut Progress) -> Result<(), Wait> {
        if let Some(told_at) = progress.told_at {
            if told_at.elapsed() < HEARD {
                return Err(Wait::Unheard);
            }
            self.graph.tunnel_heard(kind, true).await;
            progress.told_at = None;
        }
        Ok(())
    }

    async fn tell(&self, kind: TunnelKind, tunnel: Option<(IpAddr, Told)>) -> Result<(), Wait> {
        self.change(|node| *node = tell(node, kind, tunnel)).await?;
        if let Some((address, _)) = tunnel {
            info!(?kind, %address, "tunnel address told to the other hosts");
        }
        Ok(())
    }

    async fn change(&self, change: impl Fn(&mut Node) + Send + Sync) -> Result<(), Wait> {
        node::change(&self.store, &self.keys, &self.node, change)
            .await
            .map_err(Wait::Node)
    }

    async fn give_back(
        &self,
        kind: TunnelKind,
        own: &Node,
        progress: &mut Progress,
    ) -> Result<(), Wait> {
        let is_told = tell(own, kind, None) != *own;
        if !is_told && progress.released {
            return Ok(());
        }
        if TunnelKind::WIREGUARD.contains(&kind) && own.wireguard_key(kind.is_v6()).is_some() {
            let v6 = kind.is_v6();
            self.change(|node| node.set_wireguard_key(v6, None)).await?;
            info!(?kind, "key taken back from the other hosts");
            // From here on they hear of it.
            progress.idle_since = Some(Instant::now());
            return Err(Wait::Linger);
        }
        if is_told {
            let since = *progress.idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() < LINGER {
                return Err(Wait::Linger);
            }
            self.tell(kind, None).await?;
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

/// The device of a tunnel; none where nobody wants one that encrypts.
fn device(kind: TunnelKind, world: &World) -> Option<String> {
    Some(match kind {
        TunnelKind::VxlanV4 => VXLAN_V4.to_owned(),
        TunnelKind::VxlanV6 => VXLAN_V6.to_owned(),
        TunnelKind::Ipip => IPIP.to_owned(),
        TunnelKind::WireguardV4 | TunnelKind::WireguardV6 => {
            world.wireguard[usize::from(kind.is_v6())].clone()?
        }
    })
}

/// Whether the device takes what others send. Without an address it would not, where sources are checked: the kernel's loose
/// check of a source passes only on an interface that has one.
fn is_ready(name: &str, address: IpAddr) -> Result<(), Wait> {
    let waits = || Wait::Device(name.to_owned());
    let mut socket = Socket::route()?;
    let found = link::find(&mut socket, name)?.filter(|link| link.up);
    let device = found.ok_or_else(waits)?;
    let addresses = link::addresses(&mut socket)?;
    let is_there =
        |there: &link::Address| there.index == device.index && there.address.ip() == address;
    match addresses.iter().any(is_there) {
        true => Ok(()),
        false => Err(waits()),
    }
}

/// The public key of a device that is ready: the kernel works it out from the private one.
fn key_of(name: &str, address: IpAddr) -> Result<PublicKey, Wait> {
    is_ready(name, address)?;
    let state = Wireguard::open()?.read(name)?;
    state
        .public_key
        .ok_or_else(|| Wait::Device(name.to_owned()))
}

/// A Node that tells of a tunnel, or of none.
fn tell(node: &Node, kind: TunnelKind, tunnel: Option<(IpAddr, Told)>) -> Node {
    let mut node = node.clone();
    let spec = &mut node.spec;
    let mac = match tunnel {
        Some((_, Told::Mac(mac))) => Some(mac_text(mac)),
        _ => None,
    };
    let v4 = tunnel.and_then(|(ip, _)| match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    let v6 = tunnel.and_then(|(ip, _)| match ip {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    });
    match kind {
        TunnelKind::VxlanV4 => {
            spec.ipv4_vxlan_tunnel_addr = v4;
            spec.vxlan_tunnel_mac_addr = mac;
        }
        TunnelKind::VxlanV6 => {
            spec.ipv6_vxlan_tunnel_addr = v6;
            spec.vxlan_tunnel_mac_addr_v6 = mac;
        }
        TunnelKind::Ipip => {
            if let Some(bgp) = &mut spec.bgp {
                bgp.ipv4_ipip_tunnel_addr = v4;
            }
        }
        TunnelKind::WireguardV4 | TunnelKind::WireguardV6 => {
            let mut addresses = spec.wireguard.take().unwrap_or_default();
            match kind.is_v6() {
                false => addresses.interface_ipv4_address = v4,
                true => addresses.interface_ipv6_address = v6,
            }
            spec.wireguard = (addresses != NodeWireguard::default()).then_some(addresses);
            let key = match tunnel {
                Some((_, Told::Key(key))) => Some(key.to_string()),
                _ => None,
            };
            node.set_wireguard_key(kind.is_v6(), key);
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use margay_model::meta::ObjectMeta;
    use margay_model::node::NodeSpec;

    use super::*;

    #[test]
    fn a_node_tells_of_a_key_and_of_none_as_the_established_system_writes_it() {
        let bare = Node::new(ObjectMeta::named("h1"), NodeSpec::default());
        let key = PublicKey::from([1; 32]);
        let four = Some(("10.65.0.1".parse().unwrap(), Told::Key(key)));
        let six = Some(("fd00::1".parse().unwrap(), Told::Key(key)));
        let told = tell(&bare, TunnelKind::WireguardV4, four);
        let told = tell(&told, TunnelKind::WireguardV6, six);
        let text = serde_json::to_value(&told).unwrap();
        let addresses = serde_json::json!(
            {"interfaceIPv4Address": "10.65.0.1", "interfaceIPv6Address": "fd00::1"}
        );
        assert_eq!(text["spec"]["wireguard"], addresses);
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        assert_eq!(text["status"]["wireguardPublicKey"], key);
        assert_eq!(text["status"]["wireguardPublicKeyV6"], key);
        let told = tell(&told, TunnelKind::WireguardV4, None);
        assert_eq!(told.wireguard_key(false), None);
        assert_eq!(tell(&told, TunnelKind::WireguardV6, None), bare);
    }
}
