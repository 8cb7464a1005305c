//! What the policies of a host's own interfaces make of a packet.

use margay_model::any::AnyResource;
use margay_model::felix_configuration::{FelixConfigurationSpec, ProtoPort};
use margay_model::kind::{Kind, ResourceKey};
use margay_policy::explain::{Packet, Verdict, host_verdict};
use margay_policy::failsafe::Failsafes;
use margay_policy::program::{Direction, HostInterface, HostPath, HostPlan};

use super::cluster::Cluster;
use super::decision::{Hop, allowed};

impl Cluster {
    /// What the host makes of a packet that it sends or receives itself.
    pub(crate) fn ask_host(
        &self,
        node: &str,
        direction: Direction,
        packet: &Packet,
        every_rule: bool,
    ) -> Hop {
        let address = match direction {
            Direction::Ingress => packet.destination,
            Direction::Egress => packet.source,
        };
        let at_address = self.host_plans(node).find(|plan| {
            let spec = self.host_spec(&plan.key);
            plan.interface != HostInterface::All
                && spec.is_some_and(|spec| spec.expected_ips.contains(&address))
        });
        let Some(plan) = at_address.or_else(|| self.uplink(node)) else {
            return allowed(&format!("host {node} has no host endpoint there"));
        };
        if self.failsafes(node).let_through(direction, packet) {
            return allowed(&format!("it is a failsafe port of host {node}"));
        }
        let paths = [HostPath::Untracked, HostPath::PreDnat, HostPath::Own];
        self.ask_paths(plan, node, &paths, direction, packet, every_rule)
            .unwrap_or_else(|| allowed(&format!("host {node} leaves it to others")))
    }

    /// What the host makes of a packet that it forwards; nothing if it has no policy for that.
    pub(crate) fn ask_forwarding(
        &self,
        node: &str,
        direction: Direction,
        packet: &Packet,
        every_rule: bool,
    ) -> Option<Hop> {
        let plan = self.uplink(node)?;
        // What is forwarded comes in through the early tables and does not go out through them; failsafe
        // ports keep early policy from being asked, whoever the packet is for.
        let early =
            direction == Direction::Ingress && !self.failsafes(node).let_through(direction, packet);
        let paths = match early {
            true => &[HostPath::Untracked, HostPath::PreDnat, HostPath::Forwarded][..],
            false => &[HostPath::Forwarded],
        };
        self.ask_paths(plan, node, paths, direction, packet, every_rule)
    }

    fn ask_paths(
        &self,
        plan: &HostPlan,
        node: &str,
        paths: &[HostPath],
        direction: Direction,
        packet: &Packet,
        every_rule: bool,
    ) -> Option<Hop> {
        let mut all = Vec::new();
        let mut decided = None;
        for path in paths {
            let (verdict, steps) =
                host_verdict(&self.view, plan, *path, direction, packet, every_rule);
            all.extend(steps);
            decided = verdict;
            if decided.is_some() {
                break;
            }
        }
        // Where nothing was asked, nothing can be told.
        (decided.is_some() || !all.is_empty()).then(|| Hop::Asked {
            endpoint: plan.key.clone(),
            node: node.to_owned(),
            verdict: decided.unwrap_or(Verdict::Allow),
            steps: all,
        })
    }

    /// The endpoint that traffic with other machines goes through: the only one of an interface, or
    /// that of all interfaces.
    fn uplink(&self, node: &str) -> Option<&HostPlan> {
        let all = self
            .host_plans(node)
            .find(|plan| plan.interface == HostInterface::All);
        let mut single = self
            .host_plans(node)
            .filter(|plan| plan.interface != HostInterface::All);
        match (single.next(), single.next()) {
            (Some(only), None) => Some(only),
            _ => all,
        }
    }

    fn host_plans(&self, node: &str) -> impl Iterator<Item = &HostPlan> {
        let plans = self.view.hosts.values().map(|plan| &**plan);
        plans.filter(move |plan| self.host_spec(&plan.key).is_some_and(|s| s.node == node))
    }

    fn host_spec(
        &self,
        key: &ResourceKey,
    ) -> Option<&margay_model::host_endpoint::HostEndpointSpec> {
        match self.resources.get(key) {
            Some(AnyResource::HostEndpoint(host)) => Some(&host.spec),
            _ => None,
        }
    }

    fn failsafes(&self, node: &str) -> Failsafes {
        let of = |field: fn(&FelixConfigurationSpec) -> Option<&[ProtoPort]>| {
            [format!("node.{node}"), "default".to_owned()]
                .into_iter()
                .find_map(|name| self.felix(&name).and_then(field))
        };
        let (failsafes, _) = Failsafes::of(
            of(|felix| felix.failsafe_inbound_host_ports.as_deref()),
            of(|felix| felix.failsafe_outbound_host_ports.as_deref()),
        );
        failsafes
    }

    pub(crate) fn felix(&self, name: &str) -> Option<&FelixConfigurationSpec> {
        let key = ResourceKey::global(Kind::FelixConfiguration, name);
        match self.resources.get(&key) {
            Some(AnyResource::FelixConfiguration(felix)) => Some(&felix.spec),
            _ => None,
        }
    }
}
