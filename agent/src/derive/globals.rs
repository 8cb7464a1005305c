//! FelixConfiguration and the pools as settings of the dataplane.

use std::net::IpAddr;
use std::time::Duration;

use margay_dataplane::filter::{Backend, DenyAction, Globals, HostAction, Tunnels, Variant, Wish};
use margay_dataplane::overlay::{IPIP, VXLAN_V4, VXLAN_V6};
use margay_model::any::AnyResource;
use margay_model::bgp_configuration::Toggle;
use margay_model::felix_configuration::{
    DeniedConnections, DenyAction as ModelDeny, EndpointToHostAction, FelixConfigurationSpec,
    IptablesBackend, MssClamping, NftablesMode, SourceSpoofing,
};
use margay_model::kind::{Kind, ResourceKey};
use margay_policy::failsafe::Failsafes;
use margay_policy::selector::Selector;
use tracing::warn;

use super::announcing::Announcing;
use super::overlay::{self, TunnelKind};
use super::wireguard::Wireguard;
use crate::graph::Cache;
use crate::translate;

/// The settings that hold on this node: its own object wins over `default`, field by field.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tuning {
    pub(crate) interface_prefix: String,
    pub(crate) allow_spoofing: bool,
    /// Whether `ipNATs` of endpoints lead to them.
    pub(crate) floating_ips: bool,
    pub(crate) log_prefix: String,
    /// How often the kernel is read back whatever the monitor says. One look takes in everything: the
    /// shortest of the three settings that the established system has, of which 0 counts as unset.
    pub(crate) resync: Duration,
    /// Where policy is written.
    pub(crate) backend: Wish,
}

/// Ours; the established system's is `cali`, and both can run on one host while it is migrated.
const INTERFACE_PREFIX: &str = "mgy";

/// Between two looks at the whole kernel state unless configured.
const RESYNC: Duration = Duration::from_secs(60);

/// A look takes milliseconds: more often would leave no time for anything else on a large host.
const MIN_RESYNC: Duration = Duration::from_secs(1);

/// What the filter should do beside policy.
pub(crate) fn globals(cache: &Cache, node: &str) -> Globals {
    let felix = Felix::of(cache, node);
    let mut globals = Globals {
        interface_prefix: tuning(cache, node).interface_prefix,
        endpoint_to_host: match felix.first(|f| f.default_endpoint_to_host_action) {
            None | Some(EndpointToHostAction::Drop) => HostAction::Drop,
            Some(EndpointToHostAction::Return) => HostAction::Return,
            Some(EndpointToHostAction::Accept) => HostAction::Accept,
        },
        deny_action: match felix.first(|f| f.iptables_filter_deny_action) {
            None | Some(ModelDeny::Drop) => DenyAction::Drop,
            Some(ModelDeny::Reject) => DenyAction::Reject,
        },
        disable_conntrack_invalid: felix
            .first(|f| f.disable_conntrack_invalid_check)
            .unwrap_or(false),
        end_denied: felix.first(|f| f.denied_connections) != Some(DeniedConnections::Keep),
        clamp_segments: felix.first(|f| f.mss_clamping) != Some(MssClamping::Disabled),
        ..Globals::default()
    };
    if let Some(mask) = felix.first(|f| f.iptables_mark_mask) {
        if mask.count_ones() >= 2 {
            globals.mark_mask = mask;
        } else {
            warn!(mask, "iptablesMarkMask has fewer than two bits, ignored");
        }
    }
    let inbound = felix.first(|f| f.failsafe_inbound_host_ports.clone());
    let outbound = felix.first(|f| f.failsafe_outbound_host_ports.clone());
    let (failsafes, problems) = Failsafes::of(inbound.as_deref(), outbound.as_deref());
    for problem in problems {
        warn!(problem, "FelixConfiguration: failsafe port ignored");
    }
    globals.failsafe_in = translate::failsafes(&failsafes.inbound);
    globals.failsafe_out = translate::failsafes(&failsafes.outbound);
    if let Some(port) = felix.first(|f| f.nat_port_range.clone()) {
        match port.bounds().filter(|(first, _)| *first > 0) {
            Some((first, last)) => globals.nat_ports = Some(first..=last),
            None => warn!(?port, "natPortRange must be numbers from 1 on, ignored"),
        }
    }
    match felix.first(|f| f.nat_outgoing_address) {
        Some(IpAddr::V4(addr)) => globals.nat_outgoing_v4 = Some(addr),
        Some(IpAddr::V6(addr)) => globals.nat_outgoing_v6 = Some(addr),
        None => {}
    }
    between_hosts(&mut globals, cache, node, &felix);
    for resource in cache.of_kind(Kind::IpPool) {
        let AnyResource::IpPool(pool) = resource else {
            continue;
        };
        let network = pool.spec.cidr.network();
        // A disabled pool gives no addresses, but those it gave are still in use.
        globals.all_pools.insert(network);
        if pool.spec.nat_outgoing {
            globals.masquerade_pools.insert(network);
        }
    }
    globals
}

/// Tunnels, what is not masqueraded beside pools, and service addresses that must not loop.
fn between_hosts(globals: &mut Globals, cache: &Cache, node: &str, felix: &Felix<'_>) {
    globals.nat_excludes_hosts = felix
        .first(|f| f.nat_outgoing_exclusions.clone())
        .is_some_and(|what| what == "IPPoolsAndHostIPs");
    if let Some(resource) = overlay::own_node(cache, node) {
        let own = &resource.spec;
        let port = |kind: TunnelKind| {
            let port = overlay::vxlan_port(felix);
            kind.is_needed(cache, own).then_some(port)
        };
        let sources = [
            (TunnelKind::VxlanV4, VXLAN_V4),
            (TunnelKind::VxlanV6, VXLAN_V6),
            (TunnelKind::Ipip, IPIP),
        ];
        let sources = sources
            .into_iter()
            .filter_map(|(kind, device)| Some((device.to_owned(), kind.address(own)?)));
        let wireguard = [false, true].map(|v6| Wireguard::of(felix, v6));
        let encrypts = |v6: bool| {
            let (family, settings) = (usize::from(v6), &wireguard[usize::from(v6)]);
            let kind = TunnelKind::WIREGUARD[family];
            let is_told = resource.wireguard_key(v6).is_some() || kind.address(own).is_some();
            Some(settings).filter(|_| kind.host(own).is_some() && settings.is_needed(is_told))
        };
        // Where hosts' own packets are encrypted under their addresses, those have no need of another.
        let encrypted = [false, true].into_iter().filter_map(|v6| {
            let settings = encrypts(v6).filter(|settings| !settings.host_traffic)?;
            let address = TunnelKind::WIREGUARD[usize::from(v6)].address(own)?;
            Some((settings.device.clone(), address))
        });
        globals.tunnels = Tunnels {
            vxlan_v4: port(TunnelKind::VxlanV4),
            vxlan_v6: port(TunnelKind::VxlanV6),
            ipip: TunnelKind::Ipip.is_needed(cache, own),
            wireguard_v4: encrypts(false).map(|settings| settings.port),
            wireguard_v6: encrypts(true).map(|settings| settings.port),
            sources: sources.chain(encrypted).collect(),
        };
    }
    if globals.nat_excludes_hosts || globals.tunnels != Tunnels::default() {
        globals.hosts = overlay::every_host(cache).collect();
    }
    globals.services = Announcing::of(cache, node).ranges.into_iter().collect();
    globals.service_loops = match felix.first(|f| f.service_loop_prevention.clone()) {
        Some(text) if text.eq_ignore_ascii_case("Disabled") => None,
        Some(text) if text.eq_ignore_ascii_case("Reject") => Some(DenyAction::Reject),
        _ => Some(DenyAction::Drop),
    };
}

/// What the agent itself needs to know.
pub(crate) fn tuning(cache: &Cache, node: &str) -> Tuning {
    let felix = Felix::of(cache, node);
    // The established field is a list; its first entry is the one that new interfaces get.
    let prefix = felix.first(|f| f.interface_prefix.clone());
    let prefix = prefix
        .as_deref()
        .and_then(|list| list.split(',').next())
        .map(str::trim);
    Tuning {
        interface_prefix: match prefix {
            // The hash behind it has 11 digits and an interface name at most 15.
            Some(prefix) if (1..=4).contains(&prefix.len()) => prefix.to_owned(),
            Some(prefix) => {
                warn!(
                    prefix,
                    "interfacePrefix must have 1 to 4 characters, using mgy"
                );
                INTERFACE_PREFIX.to_owned()
            }
            None => INTERFACE_PREFIX.to_owned(),
        },
        allow_spoofing: felix.first(|f| f.workload_source_spoofing) == Some(SourceSpoofing::Any),
        floating_ips: felix.first(|f| f.floating_ips) == Some(Toggle::Enabled),
        log_prefix: felix
            .first(|f| f.log_prefix.clone())
            .unwrap_or_else(|| "margay".to_owned()),
        resync: [
            felix.first(|f| f.iptables_refresh_interval),
            felix.first(|f| f.ipsets_refresh_interval),
            felix.first(|f| f.route_refresh_interval),
        ]
        .into_iter()
        .flatten()
        .map(|interval| interval.0)
        .filter(|interval| !interval.is_zero())
        .min()
        .map_or(RESYNC, |shortest| shortest.max(MIN_RESYNC)),
        backend: backend(&felix),
    }
}

fn backend(felix: &Felix<'_>) -> Wish {
    match felix.first(|f| f.nftables_mode) {
        None | Some(NftablesMode::Auto) => Wish::Auto,
        Some(NftablesMode::Enabled) => Wish::Nftables,
        Some(NftablesMode::Disabled) => match felix.first(|f| f.iptables_backend) {
            None | Some(IptablesBackend::Auto) => Wish::Iptables,
            Some(IptablesBackend::Legacy) => Wish::Exactly(Backend::Iptables(Variant::Legacy)),
            Some(IptablesBackend::Nft) => Wish::Exactly(Backend::Iptables(Variant::Nft)),
        },
    }
}

/// The objects that hold for a node, the most specific first.
pub(super) struct Felix<'a>(Vec<&'a FelixConfigurationSpec>);

impl<'a> Felix<'a> {
    pub(super) fn of(cache: &'a Cache, node: &str) -> Self {
        let find =
            |name: String| match cache.get(&ResourceKey::global(Kind::FelixConfiguration, name)) {
                Some(AnyResource::FelixConfiguration(felix)) => Some(&felix.spec),
                _ => None,
            };
        let own = cache.own().iter();
        let named = find(format!("node.{node}"));
        let all = own.chain(named).chain(selected(cache, node));
        Self(all.chain(find("default".to_owned())).collect())
    }

    pub(super) fn first<T>(
        &self,
        field: impl Fn(&FelixConfigurationSpec) -> Option<T>,
    ) -> Option<T> {
        self.0.iter().find_map(|spec| field(spec))
    }
}

/// The objects that choose the node by its labels, by name.
fn selected<'a>(cache: &'a Cache, node: &str) -> impl Iterator<Item = &'a FelixConfigurationSpec> {
    let labels = match cache.get(&ResourceKey::global(Kind::Node, node)) {
        Some(AnyResource::Node(node)) => Some(&node.metadata.labels),
        _ => None,
    };
    let all = cache.of_kind(Kind::FelixConfiguration);
    all.filter_map(move |resource| {
        let AnyResource::FelixConfiguration(felix) = resource else {
            return None;
        };
        let name = &felix.metadata.name;
        if name == "default" || name.starts_with("node.") {
            return None;
        }
        let text = felix.spec.node_selector()?;
        match text.parse::<Selector>() {
            Ok(selector) => selector.matches(labels?).then_some(&felix.spec),
            Err(error) => {
                warn!(name, selector = text, %error, "FelixConfiguration ignored");
                None
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use margay_model::duration::GoDuration;
    use margay_model::felix_configuration::FelixConfiguration;
    use margay_model::ippool::IpPoolSpec;
    use margay_model::meta::{ObjectMeta, Resource};

    use super::*;

    fn felix(name: &str, spec: FelixConfigurationSpec) -> AnyResource {
        let felix: FelixConfiguration = Resource::new(ObjectMeta::named(name), spec);
        felix.into()
    }

    fn cache(resources: Vec<AnyResource>) -> Cache {
        let mut cache = Cache::default();
        for resource in resources {
            cache.apply(resource.key(), Some(resource), 1);
        }
        cache
    }

    #[test]
    fn the_nodes_own_object_wins_field_by_field() {
        let cache = cache(vec![
            felix(
                "default",
                FelixConfigurationSpec {
                    interface_prefix: Some("abc".into()),
                    default_endpoint_to_host_action: Some(EndpointToHostAction::Accept),
                    ..FelixConfigurationSpec::default()
                },
            ),
            felix(
                "node.h1",
                FelixConfigurationSpec {
                    interface_prefix: Some("xyz,abc".into()),
                    ..FelixConfigurationSpec::default()
                },
            ),
        ]);
        assert_eq!(tuning(&cache, "h1").interface_prefix, "xyz");
        assert_eq!(tuning(&cache, "h2").interface_prefix, "abc");
        assert_eq!(globals(&cache, "h1").endpoint_to_host, HostAction::Accept);
    }

    #[test]
    fn the_host_wins_over_its_object_that_over_selected_ones_and_those_over_default() {
        let spec = |prefix: &str| FelixConfigurationSpec {
            log_prefix: Some(prefix.into()),
            ..FelixConfigurationSpec::default()
        };
        let choosing = |prefix: &str, selector: &str| {
            let mut spec = spec(prefix);
            let selector = serde_json::Value::from(selector);
            spec.extra.insert("nodeSelector".into(), selector);
            spec
        };
        let mut layers = vec![
            felix("default", spec("default")),
            felix("z", choosing("late", "rack == 'a'")),
            felix("a", choosing("selected", "rack == 'a'")),
            felix("0", choosing("other", "rack == 'b'")),
            felix("node.h1", spec("own")),
        ];
        let mut metadata = ObjectMeta::named("h1");
        metadata.labels.insert("rack".into(), "a".into());
        let node: margay_model::node::Node = Resource::new(metadata, Default::default());
        let prefix = |layers: &[AnyResource], own: Vec<FelixConfigurationSpec>| {
            let mut cache = Cache::with_own(own);
            for resource in layers.iter().cloned().chain([node.clone().into()]) {
                cache.apply(resource.key(), Some(resource), 1);
            }
            tuning(&cache, "h1").log_prefix
        };
        let own = vec![spec("environment"), spec("file")];
        assert_eq!(prefix(&layers, own), "environment");
        let own = vec![FelixConfigurationSpec::default(), spec("file")];
        assert_eq!(prefix(&layers, own), "file");
        assert_eq!(prefix(&layers, Vec::new()), "own");
        layers.pop();
        assert_eq!(prefix(&layers, Vec::new()), "selected");
        layers.drain(1..3);
        assert_eq!(prefix(&layers, Vec::new()), "default");
        assert_eq!(prefix(&[], Vec::new()), "margay");
    }

    /// `margayctl config show` marks what is not used; whoever uses one more field tells it there.
    #[test]
    fn the_settings_that_are_told_to_be_used_are_those_that_are_read() {
        let (globals, _tests) = include_str!("globals.rs")
            .split_once("#[cfg(test)]")
            .unwrap();
        let others = [include_str!("overlay.rs"), include_str!("wireguard.rs")].concat();
        let code = [globals, &others].concat();
        let mut read = BTreeSet::new();
        for rest in code.split("first(|f| f.").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let mut words = rest[..end.unwrap()].split('_');
            let mut name = words.next().unwrap().to_owned();
            for word in words {
                if matches!(word, "mtu" | "vni") {
                    name += &word.to_uppercase();
                    continue;
                }
                if word == "ips" {
                    name += "IPs";
                    continue;
                }
                name += &word[..1].to_uppercase();
                name += &word[1..];
            }
            read.insert(name);
        }
        let told = margay_model::settings::parameters(Kind::FelixConfiguration);
        let told = told.iter().filter(|p| p.default.is_some());
        let told: BTreeSet<String> = told.map(|p| p.name.to_owned()).collect();
        assert_eq!(told, read);
    }

    /// What `margayctl config show` says of defaults is what is done without settings.
    #[test]
    fn the_defaults_that_are_told_are_those_that_hold() {
        let cache = cache(Vec::new());
        let (tuning, globals) = (tuning(&cache, "h1"), globals(&cache, "h1"));
        let told = margay_model::settings::parameters(Kind::FelixConfiguration);
        let told = |name: &str| {
            told.iter()
                .find(|p| p.name == name)
                .unwrap()
                .default
                .unwrap()
        };
        assert_eq!(told("interfacePrefix"), tuning.interface_prefix);
        assert_eq!(told("logPrefix"), tuning.log_prefix);
        for interval in ["iptables", "ipsets", "route"] {
            let told = told(&format!("{interval}RefreshInterval"));
            assert_eq!(told.parse::<GoDuration>().unwrap().0, tuning.resync);
        }
        assert_eq!(told("workloadSourceSpoofing"), "Disabled");
        assert!(!tuning.allow_spoofing);
        assert_eq!(told("floatingIPs"), "Disabled");
        assert!(!tuning.floating_ips);
        assert_eq!(told("iptablesMarkMask"), globals.mark_mask.to_string());
        assert_eq!(
            told("defaultEndpointToHostAction"),
            format!("{:?}", globals.endpoint_to_host)
        );
        assert_eq!(
            told("iptablesFilterDenyAction"),
            format!("{:?}", globals.deny_action)
        );
        let invalid = globals.disable_conntrack_invalid.to_string();
        assert_eq!(told("disableConntrackInvalidCheck"), invalid);
        assert_eq!(globals.nat_outgoing_v4, None);
        let ports = |list: &[margay_policy::failsafe::Failsafe]| {
            let port = |f: &margay_policy::failsafe::Failsafe| {
                let protocol = if f.protocol == 6 { "tcp" } else { "udp" };
                format!("{protocol}:{}", f.port)
            };
            list.iter().map(port).collect::<Vec<_>>().join(", ")
        };
        let failsafes = Failsafes::default();
        assert_eq!(told("failsafeInboundHostPorts"), ports(&failsafes.inbound));
        assert_eq!(
            told("failsafeOutboundHostPorts"),
            ports(&failsafes.outbound)
        );
    }

    #[test]
    fn the_shortest_refresh_interval_counts_and_zero_is_none() {
        let every = |secs| Some(GoDuration::from_secs(secs));
        let looks = |iptables, ipsets, route| {
            let spec = FelixConfigurationSpec {
                iptables_refresh_interval: iptables,
                ipsets_refresh_interval: ipsets,
                route_refresh_interval: route,
                ..FelixConfigurationSpec::default()
            };
            tuning(&cache(vec![felix("default", spec)]), "h1").resync
        };
        assert_eq!(looks(None, None, None), RESYNC);
        assert_eq!(
            looks(every(90), every(10), every(0)),
            Duration::from_secs(10)
        );
        assert_eq!(looks(every(0), None, None), RESYNC);
        let hasty = Some(GoDuration(Duration::from_millis(1)));
        assert_eq!(looks(hasty, None, None), MIN_RESYNC);
    }

    #[test]
    fn the_variant_of_iptables_counts_where_nftables_is_off() {
        let wish = |mode, variant| {
            let spec = FelixConfigurationSpec {
                nftables_mode: mode,
                iptables_backend: variant,
                ..FelixConfigurationSpec::default()
            };
            tuning(&cache(vec![felix("default", spec)]), "h1").backend
        };
        let legacy = Some(IptablesBackend::Legacy);
        assert_eq!(wish(None, legacy), Wish::Auto);
        assert_eq!(wish(Some(NftablesMode::Enabled), legacy), Wish::Nftables);
        assert_eq!(wish(Some(NftablesMode::Disabled), None), Wish::Iptables);
        assert_eq!(
            wish(Some(NftablesMode::Disabled), legacy),
            Wish::Exactly(Backend::Iptables(Variant::Legacy))
        );
    }

    #[test]
    fn every_pool_is_a_destination_and_some_are_masqueraded() {
        let pool = |name: &str, cidr: &str, nat: bool| {
            let mut spec = IpPoolSpec::new(cidr.parse().unwrap());
            spec.nat_outgoing = nat;
            spec.disabled = true;
            AnyResource::IpPool(Resource::new(ObjectMeta::named(name), spec))
        };
        let cache = cache(vec![
            pool("a", "10.0.0.0/16", true),
            pool("b", "10.1.0.0/16", false),
        ]);
        let globals = globals(&cache, "h1");
        assert_eq!(globals.all_pools.len(), 2);
        assert_eq!(
            globals.masquerade_pools,
            BTreeSet::from(["10.0.0.0/16".parse().unwrap()])
        );
    }
}
