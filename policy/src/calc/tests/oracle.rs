//! A second implementation of the semantics: slow, straight from the resources, one packet at a time. It
//! knows nothing of sets, programs or plans, and shares only the selector parser.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

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
pub(super) struct Oracle<'a> {
    resources: &'a [AnyResource],
    known: Vec<Known<'a>>,
}

/// Somebody known.
struct Known<'a> {
    nets: Vec<Cidr>,
    labels: Labels,
    /// Those of its namespace and of its service account.
    namespace_labels: Labels,
    account_labels: Labels,
    ports: &'a [EndpointPort],
}

type Labels = BTreeMap<String, String>;

/// Whom policies are looked for.
struct Subject<'a> {
    labels: Labels,
    namespace: Option<&'a str>,
    /// The way through a host's interface; none for workloads.
    path: Option<HostPath>,
}

/// All that an endpoint is asked in one direction, whatever the packet.
pub(super) struct Asked<'o> {
    oracle: &'o Oracle<'o>,
    direction: Direction,
    /// The default action of each, and its policies.
    tiers: Vec<(Action, Vec<Applying<'o>>)>,
    /// None where there is no end to come to.
    profiles: Option<&'o [String]>,
}

/// What is needed of a policy, for one direction.
struct Applying<'a> {
    sort: (f64, String, String, String),
    tier: &'a str,
    namespace: Option<&'a str>,
    rules: &'a [RuleSpec],
    broken: bool,
}

thread_local! {
    /// What was parsed before: there are few selectors, and many packets.
    static PARSED: RefCell<BTreeMap<String, Option<Rc<Selector>>>> = RefCell::default();
}

fn parsed(text: &str) -> Option<Rc<Selector>> {
    PARSED.with_borrow_mut(|parsed| {
        if let Some(known) = parsed.get(text) {
            return known.clone();
        }
        let selector = text.parse::<Selector>().ok().map(Rc::new);
        parsed.insert(text.to_owned(), selector.clone());
        selector
    })
}

fn holds(selector: Option<&String>, labels: &Labels) -> bool {
    selector.is_none_or(|s| parsed(s).is_some_and(|s| s.matches(labels)))
}

/// The labels with `prefix`, without it.
fn stripped(labels: &Labels, prefix: &str) -> Labels {
    let strip = |(k, v): (&String, &String)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
    labels.iter().filter_map(strip).collect()
}

fn namespace_holds(selector: Option<&String>, labels: &Labels, of_namespace: &Labels) -> bool {
    let has_namespace = labels.contains_key("projectcalico.org/namespace");
    match selector.map(String::as_str) {
        Some("all()") => has_namespace,
        Some("global()") => !has_namespace,
        _ => holds(selector, of_namespace),
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
    pub(super) fn new(resources: &'a [AnyResource]) -> Self {
        let mut oracle = Self {
            resources,
            known: Vec::new(),
        };
        oracle.known = resources.iter().filter_map(|r| oracle.known(r)).collect();
        oracle
    }

    fn profile_labels(&self, name: &str) -> Labels {
        let mut labels = BTreeMap::new();
        for resource in self.resources {
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

    fn inherit(&self, labels: &mut Labels, profiles: &[String]) {
        for (key, value) in profiles.iter().flat_map(|p| self.profile_labels(p)) {
            labels.entry(key).or_insert(value);
        }
    }

    fn workload_labels(&self, wep: &WorkloadEndpoint) -> Labels {
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

    fn host_labels(&self, hep: &HostEndpoint) -> Labels {
        let mut labels = hep.metadata.labels.clone();
        self.inherit(&mut labels, &hep.spec.profiles);
        labels
    }

    fn known(&self, resource: &'a AnyResource) -> Option<Known<'a>> {
        let meta = resource.metadata();
        let (nets, labels, ports): (_, _, &[EndpointPort]) = match resource {
            AnyResource::WorkloadEndpoint(wep) => (
                wep.spec.ip_networks.clone(),
                self.workload_labels(wep),
                &wep.spec.ports,
            ),
            AnyResource::HostEndpoint(hep) => {
                let addresses = hep.spec.expected_ips.iter();
                let nets = addresses.map(|addr| Cidr::host(*addr)).collect();
                (nets, self.host_labels(hep), &hep.spec.ports)
            }
            AnyResource::GlobalNetworkSet(set) => (set.spec.nets.clone(), meta.labels.clone(), &[]),
            AnyResource::NetworkSet(set) => {
                let namespace = meta.namespace.as_ref().unwrap();
                let mut labels = meta.labels.clone();
                labels.insert("projectcalico.org/namespace".to_owned(), namespace.clone());
                self.inherit(&mut labels, &[format!("kns.{namespace}")]);
                (set.spec.nets.clone(), labels, &[])
            }
            _ => return None,
        };
        Some(Known {
            nets,
            namespace_labels: stripped(&labels, "pcns."),
            account_labels: stripped(&labels, "pcsa."),
            labels,
            ports,
        })
    }

    fn known_at(&self, addr: IpAddr) -> Vec<&Known<'a>> {
        let is_there = |known: &&Known<'_>| known.nets.iter().any(|net| net.contains(addr));
        self.known.iter().filter(is_there).collect()
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
        let selected = |k: &&&Known<'_>| entity_selects(entity, namespace, k);
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
        for resource in self.resources {
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
                && namespace_holds(namespaces.as_ref(), labels, &stripped(labels, "pcns."));
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
        let found = self.resources.iter().find_map(|r| match r {
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

    /// What an endpoint is asked about what it sends (egress) or receives (ingress).
    pub(super) fn of_workload(&self, wep: &'a WorkloadEndpoint, direction: Direction) -> Asked<'_> {
        let subject = Subject {
            labels: self.workload_labels(wep),
            namespace: wep.metadata.namespace.as_deref(),
            path: None,
        };
        self.asked(&subject, direction, Some(&wep.spec.profiles))
    }

    /// What the endpoint of a host is asked on one of its ways.
    pub(super) fn of_host(
        &self,
        hep: &'a HostEndpoint,
        path: HostPath,
        direction: Direction,
    ) -> Asked<'_> {
        let subject = Subject {
            labels: self.host_labels(hep),
            namespace: None,
            path: Some(path),
        };
        let profiles = (path == HostPath::Own).then_some(&*hep.spec.profiles);
        let mut asked = self.asked(&subject, direction, profiles);
        if path == HostPath::Untracked && hep.spec.interface_name == "*" {
            asked.tiers.clear();
        }
        asked
    }

    fn asked<'o>(
        &'o self,
        subject: &Subject<'_>,
        direction: Direction,
        profiles: Option<&'o [String]>,
    ) -> Asked<'o> {
        let mut policies = self.applying(subject, direction);
        let early = matches!(subject.path, Some(HostPath::Untracked | HostPath::PreDnat));
        let mut names: Vec<&str> = policies.iter().map(|p| p.tier).collect();
        names.sort_by(|a, b| {
            (self.tier(a).0, *a)
                .partial_cmp(&(self.tier(b).0, *b))
                .unwrap()
        });
        names.dedup();
        let tiers = names.into_iter().map(|name| {
            let default = if early {
                Action::Pass
            } else {
                self.tier(name).1
            };
            let (own, others) = std::mem::take(&mut policies)
                .into_iter()
                .partition(|policy| policy.tier == name);
            policies = others;
            (default, own)
        });
        Asked {
            oracle: self,
            direction,
            tiers: tiers.collect(),
            profiles,
        }
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
        let found = self.resources.iter().find_map(|r| match r {
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

impl Asked<'_> {
    /// Whether a packet passes; nothing if that is left to others.
    pub(super) fn says(&self, packet: &Packet) -> Option<bool> {
        for (default, policies) in &self.tiers {
            let decide = |policy: &Applying<'_>| match policy.broken {
                true => Some(Action::Deny),
                false => self
                    .oracle
                    .first_action(policy.rules, policy.namespace, packet),
            };
            let action = policies.iter().find_map(decide).unwrap_or(*default);
            if action != Action::Pass {
                return Some(action == Action::Allow);
            }
        }
        let profiles = self.profiles?;
        Some(self.oracle.by_profiles(profiles, self.direction, packet))
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
        && namespace_holds(
            entity.namespace_selector.as_ref(),
            &known.labels,
            &known.namespace_labels,
        )
        && (account_names.is_empty() || account.is_some_and(|a| account_names.contains(a)))
        && holds(
            accounts.and_then(|a| a.selector.as_ref()),
            &known.account_labels,
        )
}
