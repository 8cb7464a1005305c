//! Which interface of this host each of its endpoints stands for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use margay_dataplane::filter::{HostEndpoint, HostInterface};
use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use margay_model::kind::ResourceKey;
use margay_policy::program::{self, HostPlan};
use tracing::warn;

use crate::translate;

/// Addresses by interface.
type Interfaces = BTreeMap<String, Vec<IpAddr>>;

/// The endpoints of this host as the calculation gave them.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    plans: BTreeMap<ResourceKey, Arc<HostPlan>>,
    /// Who stands for which interface.
    of_interface: BTreeMap<HostInterface, Arc<HostPlan>>,
    /// The interfaces have to be looked at again.
    dirty: bool,
    /// Endpoints that stand for no interface, and why.
    idle: BTreeMap<ResourceKey, String>,
}

impl Hosts {
    pub(super) fn set(&mut self, id: ResourceKey, plan: Arc<HostPlan>) {
        self.plans.insert(id, plan);
        self.dirty = true;
    }

    pub(super) fn remove(&mut self, id: &ResourceKey) {
        self.plans.remove(id);
        self.dirty = true;
    }

    /// Addresses or interfaces changed.
    pub(super) fn interfaces_changed(&mut self) {
        self.dirty |= self.plans.values().any(|plan| goes_by_address(plan));
    }

    /// What the filter is to have, if that has changed. `prefix` is that of workloads.
    pub(super) fn settle(&mut self, prefix: &str) -> Option<BTreeMap<HostInterface, HostEndpoint>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let interfaces = match self.plans.values().any(|plan| goes_by_address(plan)) {
            true => match interfaces(prefix) {
                Ok(interfaces) => interfaces,
                Err(error) => {
                    warn!(%error, "interfaces of the host cannot be read, will be tried again");
                    self.dirty = true;
                    return None;
                }
            },
            false => Interfaces::new(),
        };
        let (of_interface, idle) = resolve(&self.plans, &interfaces);
        for (key, why) in &idle {
            if self.idle.get(key) != Some(why) {
                warn!(endpoint = %key, why, "endpoint of the host without effect");
            }
        }
        self.idle = idle;
        if of_interface == self.of_interface {
            return None;
        }
        self.of_interface = of_interface;
        let hosts = self.of_interface.iter();
        let hosts = hosts.map(|(interface, plan)| (interface.clone(), translate::host(plan)));
        Some(hosts.collect())
    }

    /// Whether no interface has an endpoint.
    pub(super) fn is_empty(&self) -> bool {
        self.of_interface.is_empty()
    }

    pub(super) fn plans(&self) -> impl Iterator<Item = &Arc<HostPlan>> {
        self.plans.values()
    }

    /// The endpoint that stands for an interface, or for all that have none of their own.
    pub(super) fn plan_of(&self, interface: &str) -> Option<&HostPlan> {
        let named = HostInterface::Named(interface.to_owned());
        let plan = self.of_interface.get(&named);
        let plan = plan.or_else(|| self.of_interface.get(&HostInterface::All));
        plan.map(|plan| &**plan)
    }

    /// Endpoints that stand for no interface, each in words.
    pub(super) fn idle(&self) -> impl Iterator<Item = String> {
        self.idle.iter().map(|(key, why)| format!("{key}: {why}"))
    }
}

fn goes_by_address(plan: &HostPlan) -> bool {
    matches!(plan.interface, program::HostInterface::WithAddress(_))
}

/// The interfaces of the host that are no workload's, with their addresses.
fn interfaces(prefix: &str) -> Result<Interfaces, NetlinkError> {
    let mut socket = Socket::route()?;
    let mut found = Interfaces::new();
    let links = link::list(&mut socket, "")?;
    let addresses = link::addresses(&mut socket)?;
    for link in links {
        if link.name == "lo" || link.name.starts_with(prefix) {
            continue;
        }
        let own = addresses.iter().filter(|a| a.index == link.index);
        let own = own.map(|a| a.address.ip()).collect();
        found.insert(link.name, own);
    }
    Ok(found)
}

/// Of several endpoints for one interface the first by name counts.
fn resolve(
    plans: &BTreeMap<ResourceKey, Arc<HostPlan>>,
    interfaces: &Interfaces,
) -> (
    BTreeMap<HostInterface, Arc<HostPlan>>,
    BTreeMap<ResourceKey, String>,
) {
    let mut owners: BTreeMap<HostInterface, Arc<HostPlan>> = BTreeMap::new();
    let mut idle = BTreeMap::new();
    for (key, plan) in plans {
        let wanted: Vec<HostInterface> = match &plan.interface {
            program::HostInterface::All => vec![HostInterface::All],
            program::HostInterface::Named(name) => vec![HostInterface::Named(name.clone())],
            program::HostInterface::WithAddress(wanted) => interfaces
                .iter()
                .filter(|(_, own)| own.iter().any(|address| wanted.contains(address)))
                .map(|(name, _)| HostInterface::Named(name.clone()))
                .collect(),
        };
        let mut why = "no interface has one of its expectedIPs".to_owned();
        let mut has_any = false;
        for interface in wanted {
            match owners.get(&interface) {
                Some(owner) => why = format!("its interface belongs to {}", owner.key),
                None => {
                    owners.insert(interface, Arc::clone(plan));
                    has_any = true;
                }
            }
        }
        if !has_any {
            idle.insert(key.clone(), why);
        }
    }
    (owners, idle)
}

#[cfg(test)]
mod tests {
    use margay_model::kind::Kind;
    use margay_policy::program::Tiers;

    use super::*;

    fn plan(name: &str, interface: program::HostInterface) -> (ResourceKey, Arc<HostPlan>) {
        let key = ResourceKey::global(Kind::HostEndpoint, name);
        let plan = HostPlan {
            key: key.clone(),
            interface,
            untracked: Tiers::default(),
            pre_dnat: Tiers::default(),
            own: Tiers::default(),
            forwarded: Tiers::default(),
            profiles: vec![name.to_owned()],
        };
        (key, Arc::new(plan))
    }

    /// Interface and endpoint, then the endpoints without effect.
    fn resolved(
        plans: Vec<(ResourceKey, Arc<HostPlan>)>,
    ) -> (Vec<(HostInterface, String)>, Vec<String>) {
        let address = |text: &str| text.parse().unwrap();
        let interfaces = Interfaces::from([
            (
                "eth0".to_owned(),
                vec![address("192.0.2.1"), address("2001:db8::1")],
            ),
            ("eth1".to_owned(), vec![address("198.51.100.1")]),
        ]);
        let (hosts, idle) = resolve(&plans.into_iter().collect(), &interfaces);
        let names = hosts.into_iter().map(|(interface, plan)| {
            let name = plan.profiles[0].clone();
            (interface, name)
        });
        (
            names.collect(),
            idle.into_keys().map(|key| key.name).collect(),
        )
    }

    fn by(address: &str) -> program::HostInterface {
        program::HostInterface::WithAddress(vec![address.parse().unwrap()])
    }

    fn named(name: &str) -> HostInterface {
        HostInterface::Named(name.to_owned())
    }

    #[test]
    fn endpoints_are_found_by_name_by_address_of_either_family_and_as_all() {
        let (hosts, idle) = resolved(vec![
            plan("a", program::HostInterface::Named("wan".to_owned())),
            plan("b", by("2001:db8::1")),
            plan("c", program::HostInterface::All),
            plan("d", by("203.0.113.1")),
        ]);
        let expected = [
            (named("eth0"), "b".to_owned()),
            (named("wan"), "a".to_owned()),
            (HostInterface::All, "c".to_owned()),
        ];
        assert_eq!(hosts, expected);
        assert_eq!(idle, ["d"]);
    }

    #[test]
    fn of_two_endpoints_for_one_interface_the_first_by_name_counts() {
        let eth0 = || program::HostInterface::Named("eth0".to_owned());
        let (hosts, idle) = resolved(vec![plan("b", eth0()), plan("a", by("192.0.2.1"))]);
        assert_eq!(hosts, [(named("eth0"), "a".to_owned())]);
        assert_eq!(idle, ["b"]);
    }
}
