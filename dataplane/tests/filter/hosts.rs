//! Policy of the host's own interfaces, on what it receives, sends and forwards.

use std::{collections::BTreeMap, net::IpAddr};

use margay_dataplane::filter::{
    Action, Backend, Direction, Failsafe, Filter, Globals, HostEndpoint, HostInterface, Phase,
    PolicyId, PolicyRules, Rule, RulesId, Tier, TierDefault, Ways,
};

use crate::lab::{
    Lab, Server, Workload, allow_all, apply, by_hand, filter, id, open_endpoint, pings, reaches,
    run, save, serve, tcp, tier,
};

crate::all_backends!(
    an_endpoint_without_policy_drops_the_hosts_own_traffic_but_for_failsafes,
    policies_and_profiles_open_what_they_say,
    forwarded_traffic_sees_only_policies_that_apply_on_forward,
    pre_dnat_policy_sees_the_destination_before_translation,
    what_the_host_sends_is_held_against_the_interface_it_leaves_by,
    untracked_policy_lets_through_without_tracking,
    one_interface_counts_more_than_all_and_workloads_are_neither,
    what_an_agent_left_holds_until_the_next_one_knows_everything,
);

const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];
const HOST: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
const PORTS: [u16; 4] = [22, 80, 81, 179];

/// A host with a neighbour beyond `up0` and a workload, everybody listening on [`PORTS`].
struct World {
    filter: Filter,
    outside: String,
    workload: Workload,
    _servers: [Server; 3],
    lab: Lab,
}

fn world(backend: Backend) -> World {
    let mut lab = Lab::new();
    let workload = lab.workload(1);
    let outside = lab.outside();
    run(&format!(
        "ip -n {outside} route add 10.65.0.0/24 via 192.0.2.1
         ip -n {outside} -6 route add fd00:65::/64 via 2001:db8::1"
    ));
    let servers = [&lab.host, &outside, &workload.netns].map(|netns| serve(netns, &PORTS));
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter
        .set_endpoint(id(&workload), open_endpoint(&workload))
        .unwrap();
    let safe = |port| Failsafe {
        protocol: 6,
        port,
        net: None,
    };
    let globals = Globals {
        failsafe_in: vec![safe(22), safe(179)],
        failsafe_out: vec![safe(179)],
        ..Globals::default()
    };
    filter.set_globals(globals).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    World {
        filter,
        outside,
        workload,
        _servers: servers,
        lab,
    }
}

impl World {
    /// Makes these the endpoints of the host.
    fn hosts<const N: usize>(&mut self, hosts: [(HostInterface, HostEndpoint); N]) {
        self.filter.set_hosts(BTreeMap::from(hosts));
        apply(&mut self.filter);
    }

    fn up0(&mut self, host: HostEndpoint) {
        self.hosts([(up0(), host)]);
    }

    /// The ports that the neighbour reaches on the host, the same in both families.
    #[track_caller]
    fn host_from_outside(&self) -> Vec<u16> {
        reached(&self.outside, HOST)
    }

    /// The ports that the host reaches on its neighbour.
    #[track_caller]
    fn outside_from_host(&self) -> Vec<u16> {
        reached(&self.lab.host, OUTSIDE)
    }

    /// The ports that the neighbour reaches on the workload.
    #[track_caller]
    fn workload_from_outside(&self) -> Vec<u16> {
        reached(&self.outside, [self.workload.v4, self.workload.v6])
    }

    /// The ports that the workload reaches on the neighbour.
    #[track_caller]
    fn outside_from_workload(&self) -> Vec<u16> {
        reached(&self.workload.netns, OUTSIDE)
    }
}

#[track_caller]
fn reached(from: &str, to: [IpAddr; 2]) -> Vec<u16> {
    let on = |to: IpAddr| -> Vec<u16> {
        let ports = PORTS.into_iter();
        ports.filter(|port| reaches(from, to, *port)).collect()
    };
    let [v4, v6] = to.map(on);
    assert_eq!(v4, v6, "the families agree");
    v4
}

fn up0() -> HostInterface {
    HostInterface::Named("up0".to_owned())
}

fn both(direction: Direction) -> Ways {
    Ways {
        ingress: direction.clone(),
        egress: direction,
    }
}

fn rules(phase: Phase, rules: Vec<Rule>) -> PolicyRules {
    PolicyRules {
        phase,
        ingress: rules.clone(),
        egress: rules,
    }
}

/// A tier of an early phase, which does not drop at its end.
fn early(policy: &str) -> Direction {
    Direction {
        tiers: vec![Tier {
            name: "default".into(),
            policies: vec![PolicyId::from(policy)],
            default_action: TierDefault::Pass,
        }],
    }
}

fn an_endpoint_without_policy_drops_the_hosts_own_traffic_but_for_failsafes(backend: Backend) {
    let mut world = world(backend);
    assert_eq!(world.host_from_outside(), PORTS);
    world.up0(HostEndpoint::default());
    assert_eq!(world.host_from_outside(), [22, 179]);
    assert_eq!(world.outside_from_host(), [179]);
    assert!(!pings(&world.outside, HOST[0]));
    // What is forwarded, and what stays on the host, is not its own traffic.
    assert_eq!(world.workload_from_outside(), PORTS);
    assert_eq!(world.outside_from_workload(), PORTS);
    assert!(reaches(&world.lab.host, [127, 0, 0, 1].into(), 80));
    assert!(reaches(&world.lab.host, world.workload.v6, 80));
    // Neighbours are still found.
    run("ip -6 neigh flush dev up0");
    assert!(reaches(&world.outside, HOST[1], 22));
    world.hosts([]);
    assert_eq!(world.host_from_outside(), PORTS);
    assert_eq!(world.outside_from_host(), PORTS);
}

fn policies_and_profiles_open_what_they_say(backend: Backend) {
    let mut world = world(backend);
    world.filter.set_policy(
        "web".into(),
        rules(Phase::Filter, vec![tcp(Action::Allow, &[80])]),
    );
    world.up0(HostEndpoint {
        own: both(tier(&["web"])),
        ..HostEndpoint::default()
    });
    assert_eq!(world.host_from_outside(), [22, 80, 179]);
    assert_eq!(world.outside_from_host(), [80, 179]);
    world.up0(HostEndpoint {
        profiles: vec!["open".into()],
        ..HostEndpoint::default()
    });
    assert_eq!(world.host_from_outside(), PORTS);
    assert!(pings(&world.outside, HOST[1]));
    world.filter.set_policy(
        "web".into(),
        rules(Phase::Filter, vec![tcp(Action::Deny, &[22, 80])]),
    );
    let mut passes = tier(&["web"]);
    passes.tiers[0].default_action = TierDefault::Pass;
    world.up0(HostEndpoint {
        own: both(passes),
        profiles: vec!["open".into()],
        ..HostEndpoint::default()
    });
    assert_eq!(
        world.host_from_outside(),
        [22, 81, 179],
        "failsafes precede policy"
    );
}

fn forwarded_traffic_sees_only_policies_that_apply_on_forward(backend: Backend) {
    let mut world = world(backend);
    world.filter.set_policy(
        "web".into(),
        rules(Phase::Filter, vec![tcp(Action::Allow, &[80])]),
    );
    let forwarded = |forwarded: Ways| HostEndpoint {
        forwarded,
        profiles: vec!["open".into()],
        ..HostEndpoint::default()
    };
    world.up0(forwarded(both(tier(&["web"]))));
    assert_eq!(
        world.workload_from_outside(),
        [80],
        "failsafes are the host's alone"
    );
    assert_eq!(world.outside_from_workload(), [80]);
    assert_eq!(world.host_from_outside(), PORTS);
    world.up0(forwarded(Ways {
        ingress: tier(&["web"]),
        egress: Direction::default(),
    }));
    assert_eq!(world.workload_from_outside(), [80]);
    assert_eq!(world.outside_from_workload(), PORTS);
    // The policy of the workload still counts.
    let mut shut = open_endpoint(&world.workload);
    shut.profiles.clear();
    world
        .filter
        .set_endpoint(id(&world.workload), shut)
        .unwrap();
    apply(&mut world.filter);
    assert_eq!(world.workload_from_outside(), []);
}

fn pre_dnat_policy_sees_the_destination_before_translation(backend: Backend) {
    let mut world = world(backend);
    let name = by_hand(backend);
    run(&format!(
        "iptables-{name} -t nat -A PREROUTING -d 192.0.2.1 -p tcp --dport 8080 \
         -j DNAT --to-destination 10.65.0.1:80"
    ));
    let through = |world: &World| reaches(&world.outside, HOST[0], 8080);
    assert!(through(&world));
    world.filter.set_policy(
        "shut".into(),
        PolicyRules {
            egress: Vec::new(),
            ..rules(Phase::PreDnat, vec![tcp(Action::Deny, &[8080, 81])])
        },
    );
    let mut host = HostEndpoint {
        pre_dnat: early("shut"),
        profiles: vec!["open".into()],
        ..HostEndpoint::default()
    };
    world.up0(host.clone());
    assert!(!through(&world));
    assert_eq!(
        world.workload_from_outside(),
        [22, 80, 179],
        "80 is not what it denies"
    );
    assert_eq!(world.host_from_outside(), [22, 80, 179]);
    // What it accepts is past the policy of the host, not past that of the workload.
    world.filter.set_policy(
        "shut".into(),
        PolicyRules {
            egress: Vec::new(),
            ..rules(Phase::PreDnat, vec![tcp(Action::Allow, &[8080, 81])])
        },
    );
    host.profiles.clear();
    host.forwarded.ingress = tier(&["none"]);
    world
        .filter
        .set_policy("none".into(), PolicyRules::default());
    world.up0(host);
    assert!(through(&world));
    assert_eq!(world.workload_from_outside(), [81]);
    assert_eq!(world.host_from_outside(), [22, 81, 179]);
    let mut shut = open_endpoint(&world.workload);
    shut.profiles.clear();
    world
        .filter
        .set_endpoint(id(&world.workload), shut)
        .unwrap();
    apply(&mut world.filter);
    assert!(!through(&world));
}

fn what_the_host_sends_is_held_against_the_interface_it_leaves_by(backend: Backend) {
    let mut world = world(backend);
    let (name, outside) = (by_hand(backend), &world.outside);
    // Two addresses beyond up1 that stand for the neighbour beyond up0 and for the workload.
    run(&format!(
        "ip link add up1 type veth peer name up1-peer; ip link set up1 up; ip link set up1-peer up
         ip addr add 198.51.100.1/24 dev up1; ip addr add 2001:db8:9::1/64 dev up1 nodad
         ip -n {outside} route add 198.51.100.0/24 via 192.0.2.1
         ip -n {outside} -6 route add 2001:db8:9::/64 via 2001:db8::1
         d() {{ $1-{name} -t nat -A OUTPUT -d $2 -j DNAT --to-destination $3; }}
         d iptables 198.51.100.9 192.0.2.2; d ip6tables 2001:db8:9::9 2001:db8::2
         d iptables 198.51.100.8 10.65.0.1; d ip6tables 2001:db8:9::8 {}",
        world.workload.v6
    ));
    let to = |last: u8| -> [IpAddr; 2] {
        let v6 = [0x2001, 0xdb8, 9, 0, 0, 0, 0, last.into()];
        [[198, 51, 100, last].into(), v6.into()]
    };
    let neighbour = |world: &World| reached(&world.lab.host, to(9));
    let workload = |world: &World| reached(&world.lab.host, to(8));
    assert_eq!(
        (neighbour(&world), workload(&world)),
        (PORTS.into(), PORTS.into())
    );
    // An endpoint without policy lets nothing out but to the failsafe port.
    let up1 = HostInterface::Named("up1".to_owned());
    world.hosts([(up1.clone(), HostEndpoint::default())]);
    assert_eq!(neighbour(&world), PORTS, "it does not leave by up1");
    world.up0(HostEndpoint::default());
    assert_eq!(neighbour(&world), [179], "it leaves by up0");
    assert_eq!(workload(&world), PORTS);
    world.hosts([(HostInterface::All, HostEndpoint::default())]);
    assert_eq!(neighbour(&world), [179]);
    assert_eq!(
        workload(&world),
        PORTS,
        "its own workloads are the host's to reach"
    );
    // Policies are asked about the destination after translation, and count.
    let mut web = tcp(Action::Allow, &[80]);
    web.dst.nets = OUTSIDE.map(Into::into).into();
    web.ip_version = None;
    world
        .filter
        .set_policy("web".into(), rules(Phase::Filter, vec![web]));
    world.up0(HostEndpoint {
        own: both(tier(&["web"])),
        ..HostEndpoint::default()
    });
    assert_eq!(neighbour(&world), [80, 179]);
    let counters = world.filter.counters().unwrap().rules;
    let hits = &counters
        .iter()
        .find(|c| c.id == RulesId::Policy("web".into()));
    assert_eq!(hits.unwrap().egress[0].packets, 2, "one of each family");
    // What is forwarded is not the host's own.
    let forwarded = || reached(&world.workload.netns, OUTSIDE);
    assert_eq!(forwarded(), PORTS);
    world.hosts([]);
    assert_eq!(neighbour(&world), PORTS);
}

fn untracked_policy_lets_through_without_tracking(backend: Backend) {
    let mut world = world(backend);
    // Without tracking, answers need a rule of their own.
    let mut answers = Rule {
        protocol: Some(6),
        ..Rule::any(Action::Allow)
    };
    answers.src.ports = vec![80..=80];
    world.filter.set_policy(
        "raw".into(),
        PolicyRules {
            phase: Phase::Untracked,
            ingress: vec![tcp(Action::Allow, &[80]), tcp(Action::Deny, &[81])],
            egress: vec![answers],
        },
    );
    let untracked = |profiles: &[&str]| HostEndpoint {
        untracked: both(early("raw")),
        profiles: profiles.iter().map(|name| (*name).into()).collect(),
        ..HostEndpoint::default()
    };
    world.up0(untracked(&[]));
    run("conntrack -F 2>/dev/null");
    assert_eq!(world.host_from_outside(), [22, 80, 179]);
    let tracked = run("conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null");
    assert!(!tracked.contains("dport=80 "), "{tracked}");
    assert!(tracked.contains("dport=22 "), "failsafes are: {tracked}");
    world.up0(untracked(&["open"]));
    assert_eq!(
        world.host_from_outside(),
        [22, 80, 179],
        "81 is denied early"
    );
    world.up0(HostEndpoint {
        profiles: vec!["open".into()],
        ..HostEndpoint::default()
    });
    world.filter.remove_policy(&"raw".into());
    apply(&mut world.filter);
    assert_eq!(world.host_from_outside(), PORTS);
    let saved = save(backend);
    let raw = saved.split('*').find(|table| table.starts_with("raw\n"));
    let raw = raw.unwrap_or(&saved);
    for gone in ["-A OUTPUT", "mgy-pi-", "raw-output", "raw-policy"] {
        assert!(!raw.contains(gone), "{gone}: {raw}");
    }
}

fn one_interface_counts_more_than_all_and_workloads_are_neither(backend: Backend) {
    let mut world = world(backend);
    world.hosts([(HostInterface::All, HostEndpoint::default())]);
    assert_eq!(world.host_from_outside(), [22, 179]);
    assert_eq!(world.outside_from_host(), [179]);
    assert!(
        reaches(&world.lab.host, [127, 0, 0, 1].into(), 80),
        "loopback"
    );
    assert!(reaches(&world.lab.host, world.workload.v4, 80));
    assert_eq!(world.outside_from_workload(), PORTS);
    let open = HostEndpoint {
        profiles: vec!["open".into()],
        ..HostEndpoint::default()
    };
    world.hosts([(HostInterface::All, HostEndpoint::default()), (up0(), open)]);
    assert_eq!(world.host_from_outside(), PORTS);
    assert_eq!(world.outside_from_host(), PORTS);
    // Forwarding policy of all interfaces does not reach the one that has its own endpoint.
    world
        .filter
        .set_policy("none".into(), PolicyRules::default());
    let shut = || HostEndpoint {
        forwarded: both(tier(&["none"])),
        ..HostEndpoint::default()
    };
    world.hosts([(HostInterface::All, shut())]);
    assert_eq!(world.workload_from_outside(), []);
    world.hosts([
        (HostInterface::All, shut()),
        (up0(), HostEndpoint::default()),
    ]);
    assert_eq!(world.workload_from_outside(), PORTS);
}

fn what_an_agent_left_holds_until_the_next_one_knows_everything(backend: Backend) {
    let mut world = world(backend);
    world.filter.set_policy(
        "early".into(),
        PolicyRules {
            egress: Vec::new(),
            ..rules(Phase::PreDnat, vec![tcp(Action::Deny, &[80])])
        },
    );
    world.up0(HostEndpoint {
        pre_dnat: early("early"),
        ..HostEndpoint::default()
    });
    let mut next = filter(backend);
    next.set_globals(Globals::default()).unwrap();
    apply(&mut next);
    assert_eq!(world.host_from_outside(), [22, 179], "as it was left");
    assert_eq!(world.workload_from_outside(), [22, 81, 179]);
    next.set_profile("open".into(), allow_all());
    next.set_endpoint(id(&world.workload), open_endpoint(&world.workload))
        .unwrap();
    next.allow_deletes();
    apply(&mut next);
    assert_eq!(world.host_from_outside(), PORTS);
    assert_eq!(world.workload_from_outside(), PORTS);
}
