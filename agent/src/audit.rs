//! Finds what a crash or a reboot left: endpoints whose interface is gone, interfaces without an endpoint, queues without
//! an interface.
//!
//! A second line of defence. Whatever is found must be found at two looks, a minute apart, before it goes, so
//! that an attachment under way is never taken for a left-over. An endpoint whose host interface does
//! not exist is proof enough: both ends of a veth pair go together, so no container can be using it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use margay_dataplane::attach::HOST_MAC;
use margay_dataplane::bandwidth;
use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_model::kind::ResourceKey;
use tracing::{info, warn};

use crate::cni::Cni;
use crate::world::World;

/// Digits behind the prefix in the name of a host interface of ours.
const HASH_DIGITS: usize = 11;

/// What looks left over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Suspects {
    endpoints: BTreeSet<ResourceKey>,
    /// By name and index: one that was made anew is another one.
    interfaces: BTreeSet<(String, u32)>,
    /// Devices that what containers sent was queued on, by the name of the interface that is gone and their index.
    queues: BTreeSet<(String, u32)>,
}

impl Suspects {
    fn seen_before(&self, before: &Self) -> Self {
        Self {
            endpoints: self
                .endpoints
                .intersection(&before.endpoints)
                .cloned()
                .collect(),
            interfaces: self
                .interfaces
                .intersection(&before.interfaces)
                .cloned()
                .collect(),
            queues: self.queues.intersection(&before.queues).cloned().collect(),
        }
    }
}

/// Looks every `interval`, for ever.
pub(crate) async fn run(cni: Arc<Cni>, interval: Duration) {
    let mut before = Suspects::default();
    loop {
        tokio::time::sleep(interval).await;
        let world = cni.world();
        // Locked, the datastore may be half imported: what is not there yet is no sign of anything.
        if !world.in_sync || world.locked {
            before = Suspects::default();
            continue;
        }
        let prefix = Arc::clone(&world.interface_prefix);
        let list =
            move || Ok::<_, NetlinkError>((interfaces(&prefix)?, bandwidth::orphans(&prefix)?));
        let (present, queues) = match tokio::task::spawn_blocking(list).await {
            Ok(Ok(listed)) => listed,
            Ok(Err(error)) => {
                warn!(%error, "cannot list interfaces");
                continue;
            }
            Err(panic) => {
                warn!(error = %panic, "cannot list interfaces");
                continue;
            }
        };
        let mut now = compare(&world, &present);
        now.queues.extend(queues);
        let left_over = now.seen_before(&before);
        for key in &left_over.endpoints {
            info!(endpoint = %key, "endpoint without an interface, given back");
            cni.forget_endpoint(key, &world).await;
        }
        for (ifname, _) in &left_over.interfaces {
            info!(interface = ifname, "interface without an endpoint, removed");
            cni.remove_interface(ifname.clone()).await;
        }
        for (ifname, index) in left_over.queues.clone() {
            info!(interface = ifname, "queue without an interface, removed");
            let removed =
                tokio::task::spawn_blocking(move || bandwidth::remove_orphan(index)).await;
            if let Ok(Err(error)) = removed {
                warn!(interface = ifname, %error, "left-over queue waits");
            }
        }
        before = now;
    }
}

fn compare(world: &World, present: &BTreeSet<(String, u32)>) -> Suspects {
    let names: BTreeSet<&str> = present.iter().map(|(name, _)| name.as_str()).collect();
    let wanted: BTreeSet<&str> = world
        .endpoints
        .values()
        .map(|e| e.resource.spec.interface_name.as_str())
        .collect();
    Suspects {
        endpoints: world
            .endpoints
            .iter()
            .filter(|(_, e)| !names.contains(e.resource.spec.interface_name.as_str()))
            .map(|(key, _)| key.clone())
            .collect(),
        interfaces: present
            .iter()
            .filter(|(name, _)| !wanted.contains(name.as_str()))
            .cloned()
            .collect(),
        queues: BTreeSet::new(),
    }
}

/// Names of the interfaces that can only be ours: by name, kind and hardware address.
fn interfaces(prefix: &str) -> Result<BTreeSet<(String, u32)>, NetlinkError> {
    let mut socket = Socket::route()?;
    let links = link::list(&mut socket, prefix)?;
    let ours = links.into_iter().filter(|link| {
        let rest = link.name.strip_prefix(prefix).unwrap_or_default();
        rest.len() == HASH_DIGITS
            && rest.bytes().all(|b| b.is_ascii_hexdigit())
            && link.kind == "veth"
            && link.mac == Some(HOST_MAC)
    });
    Ok(ours.map(|link| (link.name, link.index)).collect())
}

#[cfg(test)]
mod tests {
    use margay_model::kind::Kind;
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::workload_endpoint::WorkloadEndpointSpec;

    use super::*;
    use crate::world::LocalEndpoint;

    #[test]
    fn only_what_is_missing_twice_is_left_over() {
        let key = ResourceKey::namespaced(Kind::WorkloadEndpoint, "default", "h1-cni-c1-eth0");
        let spec = WorkloadEndpointSpec {
            interface_name: "mgy00000000001".into(),
            ..WorkloadEndpointSpec::default()
        };
        let resource = Resource::new(ObjectMeta::namespaced("default", "h1-cni-c1-eth0"), spec);
        let endpoint = Arc::new(LocalEndpoint {
            resource,
            mod_revision: 1,
        });
        let world = World {
            endpoints: Arc::new([(key.clone(), endpoint)].into_iter().collect()),
            ..World::default()
        };
        let stray = BTreeSet::from([("mgy00000000002".to_owned(), 7)]);
        let first = compare(&world, &stray);
        assert_eq!(first.seen_before(&Suspects::default()), Suspects::default());
        let both = first.seen_before(&first);
        assert_eq!(both.endpoints, BTreeSet::from([key]));
        assert_eq!(both.interfaces, stray);
        let again = compare(&world, &BTreeSet::from([("mgy00000000002".to_owned(), 8)]));
        assert!(again.seen_before(&first).interfaces.is_empty());
        let healed = compare(&world, &BTreeSet::from([("mgy00000000001".to_owned(), 9)]));
        assert_eq!(healed.seen_before(&first), Suspects::default());
    }
}
