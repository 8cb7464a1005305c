//! A second implementation of the semantics: slow, straight from the resources, one packet at a time. It
//! knows nothing of sets, programs or plans, and shares only the selector parser.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_model::any::AnyResource;
use margay_model::host_endpoint::HostEndpoint;
use margay_model::net::Cidr;
use margay_model::policy::PolicyType as Direction;
use margay_model::protocol::{Port, Protocol};
use margay_model::rule::{Action, EntityRule, Icmp, Rule as RuleSpec};
use margay_model::workload_endpoint::{EndpointPort, WorkloadEndpoint};
use margay_policy::calc::DEFAULT_ALLOW_PROFILE;
use margay_policy::explain::Packet;
use margay_policy::program::HostPath;
use margay_policy::selector::Selector;

/// Stands for everything that cannot be parsed.
pub(super) const BROKEN: &str = "app ==";

/// The resources of a cluster.
pub(super) struct Oracle<'a>(pub(super) &'a [AnyResource]);

/// Somebody known who has an address.
struct Known<'a> {
    labels: BTreeMap<String, String>,
    ports: &'a [EndpointPort],
}

/// Whom policies are looked for.
struct Subject<'a> {
    labels: BTreeMap<String, String>,
    namespace: Option<&'a str>,
    /// The way through a host's interface; none for workloads.
    path: Option<HostPath>,
}

/// What is needed of a policy, for one direction.
struct Applying<'a> {
    sort: (f64, String, String, String),
    tier: &'a str,
    namespace: Option<&'a str>,
    rules: &'a [RuleSpec],
    broken: bool,
}

fn holds(selector: Option<&String>, labels: &BTreeMap<String, String>) -> bool {
    selector.is_none_or(|s| s.parse::<Selector>().is_ok_and(|s| s.matches(labels)))
}

/// The labels with `prefix`, without it.
fn stripped(labels: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    let strip = |(k, v): (&String, &String)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
    labels.iter().filter_map(strip).collect()
}

fn namespace_holds(selector: Option<&String>, labels: &BTreeMap<String, String>) -> bool {
    let has_namespace = labels.contains_key("projectcalico.org/namespace");
    match selector.map(String::as_str) {
        Some("all()") => has_namespace,
        Some("global()") => !has_namespace,
        _ => holds(selector, &stripped(labels, "pcns.")),
    }
}

fn rule_is_broken(rule: &RuleSpec) -> bool {
    let broken = |s: &Option<String>| s.as_deref() == Some(BROKEN);
    let side = |e: &EntityRule| broken(&e.selector) || broken(&e.not_selector);
    // Selectors of rules that cannot match anyway are not looked at, so they break nothing.
    let possible = [true, false]
        .into_iter()
        .any(|v4| rule_has_family(rule, v4));
    possible && (side(&rule.source) || side(&rule.destination))
}

fn rule_has_family(rule: &RuleSpec, v4: bool) -> bool {
    let lists = [
        &rule.source.nets,
        &rule.source.not_nets,
        &rule.destination.nets,
        &rule.destination.not_nets,
    ];
    let version = rule.ip_version.is_none_or(|v| (v == 4) == v4);
    let protocol = match rule.protocol {
        Some(Protocol::Icmp) => v4,
        Some(Protocol::IcmpV6) => !v4,
        _ => true,
    };
    let nots = rule
        .source
        .not_nets
        .iter()
        .chain(&rule.destination.not_nets);
    version
        && protocol
        && lists
            .iter()
            .all(|list| list.is_empty() || list.iter().any(|net| net.is_ipv4() == v4))
        && nots
            .filter(|net| net.is_ipv4() == v4)
            .all(|net| net.prefix_len() > 0)
}

impl<'a> Oracle<'a> {
    fn profile_labels(&self, name: &str) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for resource in self.0 {
            if let AnyResource::Profile(profile) = resource
                && profile.metadata.name == name
            {
                labels.clone_from(&profile.spec.labels_to_apply);
                if let Some(namespace) = name.strip_prefix("kns.") {
                    labels.insert(
                        "pcns.projectcalico.org/name".to_owned(),
                        namespace.to_owned(),
                    );
                }
                if name == "ksa.x.bob" {
                    labels.insert("pcsa.projectcalico.org/name".to_owned(), "bob".to_owned());
                }
            }
        }
        labels
    }

    fn inherit(&self, labels: &mut BTreeMap<String, String>, profiles: &[String]) {
        for (key, value) in profiles.iter().flat_map(|p| self.profile_labels(p)) {
            labels.entry(key).or_insert(value);
        }
    }

    fn workload_labels(&self, wep: &WorkloadEndpoint) -> BTreeMap<String, String> {
        let mut labels = wep.metadata.labels.clone();
        let mut set = |key: &str, value: &str| {
            labels.insert(format!("projectcalico.org/{key}"), value.to_owned());
        };
        set("namespace", wep.metadata.namespace.as_ref().unwrap());
        set("orchestrator", &wep.spec.orchestrator);
        if !wep.spec.service_account_name.is_empty() {
            set("serviceaccount", &wep.spec.service_account_name);
        }
        self.inherit(&mut labels, &wep.spec.profiles);
        labels
    }

    fn host_labels(&self, hep: &HostEndpoint) -> BTreeMap<String, String> {
        let mut labels = hep.metadata.labels.clone();
        self.inherit(&mut labels, &hep.spec.profiles);
        labels
    }

    fn known_at(&self, addr: IpAddr) -> Vec<Known<'a>> {
        let inside = |nets: &[Cidr]| nets.iter().any(|net| net.contains(addr));
        let mut found = Vec::new();
        for resource in self.0 {
            let meta = resource.metadata();
            match resource {
                AnyResource::WorkloadEndpoint(wep) if inside(&wep.spec.ip_networks) => {
                    found.push(Known {
                        labels: self.workload_labels(wep),
                        ports: &wep.spec.ports,
                    });
                }
                AnyResource::HostEndpoint(hep) if hep.spec.expected_ips.contains(&addr) => {
                    found.push(Known {
                        labels: self.host_labels(hep),
                        ports: &hep.spec.ports,
                    });
                }
                AnyResource::GlobalNetworkSet(set) if inside(&set.spec.nets) => {
                    found.push(Known {
                        labels: meta.labels.clone(),
                        ports: &[],
                    });
                }
                AnyResource::NetworkSet(set) if inside(&set.spec.nets) => {
                    let namespace = meta.namespace.as_ref().unwrap();
                    let mut labels = meta.labels.clone();
                    labels.insert("projectcalico.org/namespace".to_owned(), namespace.clone());
                    self.inherit(&mut labels, &[format!("kns.{namespace}")]);
                    found.push(Known { labels, ports: &[] });
                }
                _ => {}
            }
        }
        found
    }

    fn side(
        &self,
        entity: &EntityRule,
        namespace: Option<&str>,
        protocol: u8,
        addr: IpAddr,
        port: u16,
    ) -> bool {
        let known = self.known_at(addr);
        let selected = |k: &&Known<'_>| entity_selects(entity, namespace, k);
        let names_any = entity.selector.is_some()
            || entity.namespace_selector.is_some()
            || entity.service_accounts.as_ref().is_some_and(|a| {
                namespace.is_some() || !a.names.is_empty() || a.selector.is_some()
            })
            || (entity.not_selector.is_some() && namespace.is_some());
        let named = |name: &str| {
            known
                .iter()
                .filter(selected)
                .flat_map(|k| k.ports)
                .any(|p| p.name == name && p.protocol.number() == protocol && p.port == port)
        };
        let in_port = |wanted: &Port| match wanted {
            Port::Number(number) => *number == port,
            Port::Range(first, last) => (first..=last).contains(&&port),
            Port::Named(name) => named(name),
        };
        (entity.nets.is_empty() || entity.nets.iter().any(|net| net.contains(addr)))
            && !entity.not_nets.iter().any(|net| net.contains(addr))
            && (!names_any || known.iter().any(|k| selected(&k)))
            && entity
                .not_selector
                .as_ref()
                .is_none_or(|s| !known.iter().any(|k| holds(Some(s), &k.labels)))
            && (entity.ports.is_empty() || entity.ports.iter().any(in_port))
            && !entity.not_ports.iter().any(in_port)
    }

    fn rule_matches(&self, rule: &RuleSpec, namespace: Option<&str>, packet: &Packet) -> bool {
        let icmp = |m: &Icmp| {
            packet
                .icmp
                .is_some_and(|(t, c)| m.kind == Some(t) && m.code.is_none_or(|x| x == c))
        };
        let (source, destination) = (&rule.source, &rule.destination);
        rule_has_family(rule, packet.source.is_ipv4())
            && rule.protocol.is_none_or(|p| p.number() == packet.protocol)
            && rule
                .not_protocol
                .is_none_or(|p| p.number() != packet.protocol)
            && rule.icmp.as_ref().is_none_or(icmp)
            && !rule.not_icmp.as_ref().is_some_and(icmp)
            && self.side(
                source,
                namespace,
                packet.protocol,
                packet.source,
                packet.source_port,
            )
            && self.side(
                destination,
                namespace,
                packet.protocol,
                packet.destination,
                packet.destination_port,
            )
    }

    fn first_action(
        &self,
        rules: &[RuleSpec],
        namespace: Option<&str>,
        packet: &Packet,
    ) -> Option<Action> {
        rules
            .iter()
            .find(|r| r.action != Action::Log && self.rule_matches(r, namespace, packet))
            .map(|r| r.action)
    }

    fn applying(&self, subject: &Subject<'_>, direction: Direction) -> Vec<Applying<'a>> {
        let labels = &subject.labels;
        let mut found: Vec<Applying<'a>> = Vec::new();
        for resource in self.0 {
            let (directions, order, tier, selector, accounts, namespaces, ingress, egress, flags);
            match resource {
                AnyResource::NetworkPolicy(p) => {
                    let s = &p.spec;
                    (
                        directions, order, tier, selector, accounts, namespaces, ingress, egress,
                        flags,
                    ) = (
                        &s.types,
                        s.order,
                        &s.tier,
                        &s.selector,
                        &s.service_account_selector,
                        &None,
                        &s.ingress,
                        &s.egress,
                        (false, false, false),
                    );
                }
                AnyResource::GlobalNetworkPolicy(p) => {
                    let s = &p.spec;
                    (
                        directions, order, tier, selector, accounts, namespaces, ingress, egress,
                        flags,
                    ) = (
                        &s.types,
                        s.order,
                        &s.tier,
                        &s.selector,
                        &s.service_account_selector,
                        &s.namespace_selector,
                        &s.ingress,
                        &s.egress,
                        (s.do_not_track, s.pre_dnat, s.apply_on_forward),
                    );
                }
                _ => continue,
            }
            let meta = resource.metadata();
            let unreadable = selector.as_deref() == Some(BROKEN);
            let in_scope =
                meta.namespace.is_none() || meta.namespace.as_deref() == subject.namespace;
            let selected = (unreadable || holds(selector.as_ref(), labels))
                && holds(accounts.as_ref(), &stripped(labels, "pcsa."))
                && namespace_holds(namespaces.as_ref(), labels);
            let (has_ingress, has_egress) = if directions.is_empty() {
                (!ingress.is_empty() || egress.is_empty(), !egress.is_empty())
            } else {
                (
                    directions.contains(&Direction::Ingress),
                    directions.contains(&Direction::Egress),
                )
            };
            let (untracked, pre_dnat, on_forward) = flags;
            let takes_part = match subject.path {
                None | Some(HostPath::Own) => !untracked && !pre_dnat,
                Some(HostPath::Untracked) => untracked,
                Some(HostPath::PreDnat) => pre_dnat && !untracked,
                Some(HostPath::Forwarded) => on_forward && !untracked && !pre_dnat,
            };
            let contradiction = pre_dnat && (untracked || has_egress);
            let has_egress = has_egress && (untracked || !pre_dnat);
            let (covered, rules) = match direction {
                Direction::Ingress => (has_ingress, ingress),
                Direction::Egress => (has_egress, egress),
            };
            let broken = |used: bool, rules: &[RuleSpec]| used && rules.iter().any(rule_is_broken);
            if in_scope && selected && covered && takes_part {
                found.push(Applying {
                    sort: (
                        order.unwrap_or(f64::INFINITY),
                        meta.name.clone(),
                        meta.namespace.clone().unwrap_or_default(),
                        resource.kind().to_string(),
                    ),
                    tier: tier.as_deref().unwrap_or("default"),
                    namespace: meta.namespace.as_deref(),
                    rules,
                    broken: unreadable
                        || contradiction
                        || broken(has_ingress, ingress)
                        || broken(has_egress, egress),
                });
            }
        }
        found.sort_by(|a, b| a.sort.partial_cmp(&b.sort).unwrap());
        found
    }

    fn tier(&self, name: &str) -> (f64, Action) {
        match name {
            "kube-admin" => return (1e3, Action::Pass),
            "default" => return (1e6, Action::Deny),
            "kube-baseline" => return (1e7, Action::Pass),
            _ => {}
        }
        let found = self.0.iter().find_map(|r| match r {
            AnyResource::Tier(tier) if tier.metadata.name == name => Some(&tier.spec),
            _ => None,
        });
        let order = found.and_then(|spec| spec.order).unwrap_or(f64::INFINITY);
        (
            order,
            found
                .and_then(|spec| spec.default_action)
                .unwrap_or(Action::Deny),
        )
    }

    /// Whether an endpoint may send (egress) or receive (ingress) a packet.
    pub(super) fn allows(
        &self,
        wep: &WorkloadEndpoint,
        direction: Direction,
        packet: &Packet,
    ) -> bool {
        let subject = Subject {
            labels: self.workload_labels(wep),
            namespace: wep.metadata.namespace.as_deref(),
            path: None,
        };
        let by_tiers = self.by_tiers(&subject, direction, packet);
        by_tiers.unwrap_or_else(|| self.by_profiles(&wep.spec.profiles, direction, packet))
    }

    /// What the policies of a host's endpoint say; nothing if they leave it to others.
    pub(super) fn host_says(
        &self,
        hep: &HostEndpoint,
        path: HostPath,
        direction: Direction,
        packet: &Packet,
    ) -> Option<bool> {
        if path == HostPath::Untracked && hep.spec.interface_name == "*" {
            return None;
        }
        let subject = Subject {
            labels: self.host_labels(hep),
            namespace: None,
            path: Some(path),
        };
        let by_tiers = self.by_tiers(&subject, direction, packet);
        match path {
            HostPath::Own => Some(
                by_tiers.unwrap_or_else(|| self.by_profiles(&hep.spec.profiles, direction, packet)),
            ),
            _ => by_tiers,
        }
    }

    fn by_tiers(
        &self,
        subject: &Subject<'_>,
        direction: Direction,
        packet: &Packet,
    ) -> Option<bool> {
        let policies = self.applying(subject, direction);
        let early = matches!(subject.path, Some(HostPath::Untracked | HostPath::PreDnat));
        let mut tiers: Vec<&str> = policies.iter().map(|p| p.tier).collect();
        tiers.sort_by(|a, b| {
            (self.tier(a).0, *a)
                .partial_cmp(&(self.tier(b).0, *b))
                .unwrap()
        });
        tiers.dedup();
        for tier in tiers {
            let mut action = if early {
                Action::Pass
            } else {
                self.tier(tier).1
            };
            for policy in policies.iter().filter(|p| p.tier == tier) {
                let decided = match policy.broken {
                    true => Some(Action::Deny),
                    false => self.first_action(policy.rules, policy.namespace, packet),
                };
                if let Some(decided) = decided {
                    action = decided;
                    break;
                }
            }
            if action != Action::Pass {
                return Some(action == Action::Allow);
            }
        }
        None
    }

    fn by_profiles(&self, profiles: &[String], direction: Direction, packet: &Packet) -> bool {
        let mut actions = profiles
            .iter()
            .map(|name| self.profile_action(name, direction, packet));
        let decided = actions.find_map(|a| a.filter(|a| matches!(a, Action::Allow | Action::Deny)));
        decided == Some(Action::Allow)
    }

    fn profile_action(&self, name: &str, direction: Direction, packet: &Packet) -> Option<Action> {
        if name == DEFAULT_ALLOW_PROFILE {
            return Some(Action::Allow);
        }
        let found = self.0.iter().find_map(|r| match r {
            AnyResource::Profile(profile) if profile.metadata.name == name => Some(&profile.spec),
            _ => None,
        });
        let Some(spec) = found else {
            return Some(Action::Deny);
        };
        if spec.ingress.iter().chain(&spec.egress).any(rule_is_broken) {
            return Some(Action::Deny);
        }
        let rules = match direction {
            Direction::Ingress => &spec.ingress,
            Direction::Egress => &spec.egress,
        };
        self.first_action(rules, None, packet)
    }
}

fn entity_selects(entity: &EntityRule, namespace: Option<&str>, known: &Known<'_>) -> bool {
    let accounts = entity.service_accounts.as_ref();
    let account_names = accounts.map_or(&[][..], |a| &a.names);
    let scoped = entity.namespace_selector.is_none()
        && (entity.selector.is_some() || entity.not_selector.is_some() || accounts.is_some());
    let in_own = known
        .labels
        .get("projectcalico.org/namespace")
        .map(String::as_str)
        == namespace;
    let account = known.labels.get("projectcalico.org/serviceaccount");
    holds(entity.selector.as_ref(), &known.labels)
        && (namespace.is_none() || !scoped || in_own)
        && namespace_holds(entity.namespace_selector.as_ref(), &known.labels)
        && (account_names.is_empty() || account.is_some_and(|a| account_names.contains(a)))
        && holds(
            accounts.and_then(|a| a.selector.as_ref()),
            &stripped(&known.labels, "pcsa."),
        )
}
