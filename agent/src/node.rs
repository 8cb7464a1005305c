//! This node's own Node resource: made at the first start, its addresses as configured.
//!
//! An address in the datastore is never replaced by a detected one: a VPN that comes up must not make a
//! node move. Only the configuration file changes it, at the next start.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnetwork::IpNetwork;
use margay_dataplane::link;
use margay_dataplane::netlink::Socket;
use margay_datastore::AnyStore;
use margay_model::any::AnyResource;
use margay_model::keys::Keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};
use margay_model::net::AddrCidr;
use margay_model::node::{Node, NodeBgp, NodeSpec};
use margay_model::store::{Store, StoreError, Txn, TxnOutcome};
use margay_model::stored::decode_stored;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cni::now_rfc3339;
use crate::world::World;

/// How often a write is tried again because somebody else wrote the Node at the same moment.
const ATTEMPTS: u32 = 20;

/// Between two looks at a Node that is missing: the watch brings one that was written in less.
const PAUSE: Duration = Duration::from_secs(5);

/// Where "the default route" is looked up: an address that no network has (RFC 5737), so that only a
/// default route leads there. Nothing is sent.
const ANYWHERE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

/// Addresses that the configuration demands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) v4: Option<IpNetwork>,
    pub(crate) v6: Option<IpNetwork>,
}

/// Makes sure that the Node exists and has the wanted addresses, and at least one.
///
/// # Errors
/// The datastore's; a stored Node that does not decode; no address to be found.
pub(crate) async fn register(
    store: &impl Store,
    keys: &Keys,
    name: &str,
    wanted: Wanted,
) -> anyhow::Result<Node> {
    let resource_key = ResourceKey::global(Kind::Node, name);
    let key = keys.resource(&resource_key);
    for _ in 0..ATTEMPTS {
        let stored = store.get(&key).await?;
        let revision = stored.as_ref().map_or(0, |kv| kv.mod_revision);
        let before = match &stored {
            Some(kv) => match decode_stored(&resource_key, &kv.value)? {
                AnyResource::Node(node) => Some(node),
                _ => None,
            },
            None => None,
        };
        let node = with_addresses(before.clone().unwrap_or_else(|| fresh(name)), wanted)?;
        if before.as_ref() == Some(&node) {
            return Ok(node);
        }
        let value = serde_json::to_vec(&node)?;
        let txn = Txn::default()
            .when(key.clone(), revision)
            .put(key.clone(), value);
        if let TxnOutcome::Committed(_) = store.txn(txn).await? {
            info!(node = name, new = before.is_none(), "node registered");
            return Ok(node);
        }
    }
    bail!("node {name}: others write it all the time, gave up after {ATTEMPTS} attempts")
}

/// Changes the Node, if it is there and that makes a difference.
///
/// # Errors
/// The datastore's; a stored Node that does not decode.
pub(crate) async fn change(
    store: &impl Store,
    keys: &Keys,
    name: &str,
    change: impl Fn(&mut Node),
) -> anyhow::Result<()> {
    let resource_key = ResourceKey::global(Kind::Node, name);
    let key = keys.resource(&resource_key);
    for _ in 0..ATTEMPTS {
        let Some(kv) = store.get(&key).await? else {
            return Ok(());
        };
        let AnyResource::Node(mut node) = decode_stored(&resource_key, &kv.value)? else {
            return Ok(());
        };
        let before = node.clone();
        change(&mut node);
        if node == before {
            return Ok(());
        }
        let txn = Txn::default()
            .when(key.clone(), kv.mod_revision)
            .put(key.clone(), serde_json::to_vec(&node)?);
        if let TxnOutcome::Committed(_) = store.txn(txn).await? {
            return Ok(());
        }
    }
    bail!("node {name}: others write it all the time, gave up after {ATTEMPTS} attempts")
}

/// Writes the Node again whenever somebody deletes it while this agent runs: without it neighbours have no
/// sessions with this host, pools do not select it, and its addresses would be cleared as a dead node's.
pub(crate) async fn keep_registered(
    store: AnyStore,
    keys: Keys,
    name: String,
    wanted: Wanted,
    mut world: watch::Receiver<Arc<World>>,
) {
    let key = keys.resource(&ResourceKey::global(Kind::Node, &name));
    while world
        .wait_for(|world| world.in_sync && world.node.is_none())
        .await
        .is_ok()
    {
        // One that is there and cannot be used is the operator's to mend; the graph has told of it.
        if let Ok(None) = store.get(&key).await {
            warn!(
                node = name,
                "the Node resource was deleted while the agent runs; it is registered anew, without what \
                 it had of labels and settings. To remove the host, stop its agent first"
            );
            if let Err(error) = register(&store, &keys, &name, wanted).await {
                warn!(error = format!("{error:#}"), "the Node waits");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn fresh(name: &str) -> Node {
    let mut metadata = ObjectMeta::named(name);
    metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    metadata.creation_timestamp = Some(now_rfc3339());
    Resource::new(metadata, NodeSpec::default())
}

fn with_addresses(mut node: Node, wanted: Wanted) -> anyhow::Result<Node> {
    let mut bgp = node.spec.bgp.take().unwrap_or_default();
    let as_cidr = |net: IpNetwork| AddrCidr::new(net.ip(), net.prefix());
    if let Some(v4) = wanted.v4 {
        bgp.ipv4_address = as_cidr(v4);
    }
    if let Some(v6) = wanted.v6 {
        bgp.ipv6_address = as_cidr(v6);
    }
    if bgp.ipv4_address.is_none() && bgp.ipv6_address.is_none() {
        bgp.ipv4_address = Some(detect()?);
    }
    node.spec.bgp = Some(NodeBgp { ..bgp });
    Ok(node)
}

/// The IPv4 address that the kernel uses towards the default route.
fn detect() -> anyhow::Result<AddrCidr> {
    let mut socket = Socket::route()?;
    let path = link::route_get(&mut socket, ANYWHERE_V4)?
        .context("no default route to detect the node's address by: set node_ip")?;
    let src = path
        .src
        .context("the default route has no source address: set node_ip")?;
    let network = link::addresses(&mut socket)?
        .into_iter()
        .map(|address| address.address)
        .find(|address| address.ip() == src)
        .with_context(|| format!("no interface has the detected address {src}: set node_ip"))?;
    AddrCidr::new(network.ip(), network.prefix())
        .with_context(|| format!("the detected address {network} has no valid prefix length"))
}

/// Whether the datastore was merely away.
pub(crate) fn is_transient(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<StoreError>(),
        Some(StoreError::Unavailable { .. })
    )
}
