//! Golden tests: the text of chains. `UPDATE_GOLDEN=1 cargo test` writes them anew.

use std::{fmt::Write, path::Path};

use super::{
    backend::Backend,
    chains, hosts,
    limits::Limited,
    names::{Way, short_hash},
    program::{Body, Chain, Line},
    rules::{Rendered, render},
    state::RulesId,
    types::*,
    verdicts::Verdicts,
};
use crate::iptables::{self, Variant};

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/filter/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        golden,
        "{}: UPDATE_GOLDEN=1 writes it anew",
        path.display()
    );
}

const IPTABLES: Backend = Backend::Iptables(Variant::Nft);

/// What is denied is handed up.
fn verdicts() -> Verdicts {
    handing_up(false)
}

fn handing_up(allowed: bool) -> Verdicts {
    let nflog = Some(Nflog {
        group: 7,
        denied: true,
        allowed,
    });
    let globals = Globals {
        nflog,
        ..Globals::default()
    };
    Verdicts::new(&globals, IPTABLES)
}

fn texts(lines: Vec<Line>, family: Family) -> Vec<String> {
    iptables::lines(&Body::Lines(lines), family)
}

fn rule(action: Action, change: impl FnOnce(&mut Rule)) -> Rule {
    let mut rule = Rule::any(action);
    change(&mut rule);
    rule
}

fn nets(nets: &[&str]) -> Vec<ipnetwork::IpNetwork> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn rendered(rule: &Rule, family: Family, verdicts: &Verdicts) -> Rendered {
    let id = RulesId::Policy("NetworkPolicy/a/b".into());
    let rules = std::slice::from_ref(rule);
    render(rules, (&id, Way::Egress), family, verdicts)
}

#[test]
fn what_is_handed_up_says_which_rule_and_counts_for_none() {
    let allow = rule(Action::Allow, |r| r.place = Some(4));
    let told = |verdicts: &Verdicts| {
        let rendered = rendered(&allow, Family::V4, verdicts);
        (rendered.origins, texts(rendered.lines, Family::V4))
    };
    assert_eq!(told(&verdicts()).0, [Some(0)]);
    let (origins, lines) = told(&handing_up(true));
    assert_eq!(origins, [None, Some(0)]);
    assert!(
        lines[0].ends_with("--nflog-prefix \"mgy:AeP4:NetworkPolicy/a/b\""),
        "{lines:?}"
    );
    // Where nobody can listen, a rule that only logs still counts.
    let log = rule(Action::Log, |_| {});
    let deaf = Verdicts::new(&Globals::default(), IPTABLES);
    assert_eq!(rendered(&log, Family::V4, &deaf).origins, [Some(0)]);
}

/// One rule of each kind, with what it becomes in either family.
#[test]
fn each_match_of_a_rule_in_both_families() {
    use Action::{Allow, Deny, Log, Pass};
    let icmp = |icmp_type, code| Some(IcmpMatch { icmp_type, code });
    let ping = |r: &mut Rule| (r.protocol, r.icmp) = (Some(1), icmp(8, Some(0)));
    let named = |r: &mut Rule| {
        r.protocol = Some(6);
        r.dst.ports = vec![80..=80, 443..=444];
        r.dst.named_ports = vec!["http".into()];
    };
    let cases: Vec<(&str, Rule)> = vec![
        ("anything", rule(Allow, |_| {})),
        (
            "deny, with a comment",
            rule(Deny, |r| r.comment = Some("not \"here\"\n".to_owned())),
        ),
        (
            "pass in IPv6",
            rule(Pass, |r| r.ip_version = Some(Family::V6)),
        ),
        ("protocol", rule(Allow, |r| r.protocol = Some(132))),
        ("not protocol", rule(Allow, |r| r.not_protocol = Some(17))),
        (
            "protocol and its own not",
            rule(Allow, |r| (r.protocol, r.not_protocol) = (Some(6), Some(6))),
        ),
        ("echo request", rule(Allow, ping)),
        (
            "not one ICMP type, any family",
            rule(Deny, |r| r.not_icmp = icmp(3, None)),
        ),
        (
            "ICMP type 255 would mean any",
            rule(Allow, |r| r.icmp = icmp(255, None)),
        ),
        (
            "one net",
            rule(Allow, |r| r.src.nets = nets(&["10.0.0.1/8"])),
        ),
        (
            "nets of both families",
            rule(Allow, |r| {
                r.dst.nets = nets(&["10.0.0.0/8", "fd00::/8", "11.0.0.0/8"])
            }),
        ),
        (
            "net and not net",
            rule(Allow, |r| {
                (r.src.nets, r.src.not_nets) = (nets(&["10.0.0.0/8"]), nets(&["10.1.0.0/16"]))
            }),
        ),
        (
            "everything but",
            rule(Allow, |r| {
                (r.src.nets, r.src.not_nets) = (nets(&["0.0.0.0/0"]), nets(&["10.1.0.0/16"]))
            }),
        ),
        (
            "not net of IPv6",
            rule(Deny, |r| r.dst.not_nets = nets(&["fd00::/8"])),
        ),
        (
            "not everything",
            rule(Allow, |r| r.src.not_nets = nets(&["0.0.0.0/0", "::/0"])),
        ),
        (
            "sets",
            rule(Allow, |r| {
                (r.src.sets, r.src.not_sets) = (vec!["a".into(), "b".into()], vec!["c".into()])
            }),
        ),
        (
            "service",
            rule(Allow, |r| r.dst.port_sets = vec!["svc".into()]),
        ),
        (
            "one port",
            rule(Allow, |r| {
                (r.protocol, r.dst.ports) = (Some(17), vec![53..=53])
            }),
        ),
        (
            "ports without protocol",
            rule(Allow, |r| r.src.ports = vec![1..=9]),
        ),
        (
            "17 slots",
            rule(Allow, |r| {
                (r.protocol, r.dst.ports) = (
                    Some(6),
                    (1..=9)
                        .map(|n| n * 100..=n * 100 + u16::from(n > 1))
                        .collect(),
                )
            }),
        ),
        ("numbers and names", rule(Allow, named)),
        ("numbers and names, logged once", rule(Log, named)),
        (
            "not ports",
            rule(Deny, |r| {
                r.protocol = Some(6);
                r.dst.not_ports = (1..=16).map(|n| n..=n).collect();
                r.dst.not_named_ports = vec!["http".into()];
            }),
        ),
        (
            "ports of a protocol without",
            rule(Allow, |r| {
                (r.protocol, r.dst.ports) = (Some(1), vec![1..=1])
            }),
        ),
    ];
    let mut text = String::new();
    for (title, rule) in cases {
        writeln!(text, "# {title}").unwrap();
        for family in Family::ALL {
            let rendered = rendered(&rule, family, &verdicts());
            for line in texts(rendered.lines, family) {
                writeln!(text, "{family}: {}", line.replace('\t', " | ")).unwrap();
            }
            for (name, nets) in rendered.helpers {
                writeln!(text, "{family}:   {name} = {nets:?}").unwrap();
            }
        }
    }
    check("rules.txt", &text);
}

fn write_chain(text: &mut String, chain: &Chain, family: Family) {
    writeln!(text, "{} {}", chain.table.name(), chain.id.name()).unwrap();
    for line in iptables::lines(&chain.body, family) {
        writeln!(text, "  {}", line.replace('\t', " | ")).unwrap();
    }
}

#[test]
fn the_fixed_chains() {
    let globals = Globals {
        nat_outgoing_v6: Some("2001:db8::1".parse().unwrap()),
        nat_ports: Some(32768..=65535),
        endpoint_to_host: HostAction::Return,
        ..Globals::default()
    };
    let mut text = String::new();
    for family in Family::ALL {
        writeln!(text, "# {family}").unwrap();
        for chain in chains::fixed(&globals, &Limited::new(), &verdicts(), family) {
            write_chain(&mut text, &chain, family);
        }
    }
    check("fixed.txt", &text);
}

#[test]
fn a_group_goes_through_its_tiers_then_its_profiles() {
    let tier = |name: &str, policies: &[&str], default_action| Tier {
        name: name.into(),
        policies: policies.iter().map(|id| PolicyId::from(*id)).collect(),
        default_action,
    };
    let direction = Direction {
        tiers: vec![
            tier(
                "security",
                &["security/first", "security/second"],
                TierDefault::Pass,
            ),
            tier("empty", &[], TierDefault::Deny),
            tier(
                "planned",
                &["planned/a", "planned/b"],
                TierDefault::WouldDeny,
            ),
            tier("default", &["default/web"], TierDefault::Deny),
        ],
    };
    let profiles = ["kns.default".into()];
    let group = short_hash("group");
    let mut text = String::new();
    for way in Way::BOTH {
        write_chain(
            &mut text,
            &chains::group(way, &group, &direction, &profiles, &verdicts()),
            Family::V4,
        );
        write_chain(
            &mut text,
            &chains::dispatch(way, vec![group.clone()]),
            Family::V4,
        );
    }
    check("group.txt", &text);
}

#[test]
fn the_hosts_own_interfaces_in_every_table() {
    let direction = |policy: &str, default_action| Direction {
        tiers: vec![Tier {
            name: "default".into(),
            policies: vec![PolicyId::from(policy)],
            default_action,
        }],
    };
    let both = |policy: &str, default_action| Ways {
        ingress: direction(policy, default_action),
        egress: direction(policy, default_action),
    };
    let named = HostEndpoint {
        untracked: both("raw", TierDefault::Pass),
        pre_dnat: direction("early", TierDefault::Pass),
        own: both("own", TierDefault::Deny),
        forwarded: Ways {
            ingress: direction("forward", TierDefault::Deny),
            egress: Direction::default(),
        },
        profiles: vec!["open".into()],
    };
    let all = HostEndpoint {
        forwarded: both("forward", TierDefault::Deny),
        ..HostEndpoint::default()
    };
    let hosts = [
        (HostInterface::Named("eth0".to_owned()), named),
        (HostInterface::All, all),
    ];
    let net: ipnetwork::IpNetwork = "192.0.2.0/24".parse().unwrap();
    let failsafe = |port, net| Failsafe {
        protocol: 6,
        port,
        net,
    };
    let globals = Globals {
        failsafe_in: vec![failsafe(22, Some(net)), failsafe(179, None)],
        failsafe_out: vec![failsafe(2379, None)],
        deny_action: DenyAction::Reject,
        ..Globals::default()
    };
    let verdicts = Verdicts::new(&globals, IPTABLES);
    let mut text = String::new();
    for family in Family::ALL {
        writeln!(text, "# {family}").unwrap();
        for chain in hosts::render(&hosts.clone().into(), &globals, &verdicts, family) {
            write_chain(&mut text, &chain, family);
        }
    }
    check("hosts.txt", &text);
}

#[test]
fn mark_bits_are_the_lowest_of_the_mask() {
    let globals = Globals {
        mark_mask: 0x0a00_0000,
        ..Globals::default()
    };
    let verdicts = Verdicts::new(&globals, IPTABLES);
    let fixed = chains::fixed(&globals, &Limited::new(), &verdicts, Family::V4);
    let lines: Vec<String> = fixed
        .iter()
        .flat_map(|chain| iptables::lines(&chain.body, Family::V4))
        .collect();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("--set-xmark 0x2000000/0x2000000"))
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("--set-xmark 0x8000000/0x8000000"))
    );
}
