//! Our table in nf_tables: how it reads, how it is repaired, how little a change writes.

use std::{collections::BTreeSet, net::Ipv4Addr, process::Command, time::Duration};

use ipnetwork::IpNetwork;
use margay_dataplane::filter::{
    Action, Backend, Direction, Filter, Rule, SetId, SetKind, SetMember, SetSpec,
};
use margay_dataplane::nft::Watch;

use crate::{
    drift::desired,
    lab::{
        LEGACY, Lab, NFT, allow_all, apply, endpoint, filter, id, ingress, open_endpoint, reaches,
        run, save, serve, tcp, tier,
    },
};

const NFTABLES: Backend = Backend::Nftables;

fn net(net: &str) -> SetMember {
    SetMember::from(net.parse::<IpNetwork>().unwrap())
}

#[test]
fn what_was_broken_by_hand_is_repaired() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let mut filter = filter(NFTABLES);
    desired(&mut filter, &a, &b);
    filter.update_ipset(&"s".into(), [net("10.77.0.0/16")], []);
    filter.allow_deletes();
    apply(&mut filter);
    let good = save(NFTABLES);
    let find = |pattern: &str| -> String {
        let words = good.split(|c: char| c.is_whitespace() || c == ',');
        let found = words.into_iter().find(|word| word.starts_with(pattern));
        found
            .unwrap_or_else(|| panic!("{pattern} in {good}"))
            .to_owned()
    };
    let (hosts, members) = (find("v4-hosts/"), find("v4-members/"));
    let hosts6 = find("v6-hosts/");
    let group = find("v4-to-group/");
    let t = "inet margay";
    let breakages = [
        format!("nft flush chain {t} v4-policy-in/p"),
        format!("nft insert rule {t} v4-policy-in/p drop"),
        format!("nft insert rule {t} {group} accept"),
        format!("nft flush chain {t} v6-policy-in/p"),
        format!("nft insert rule {t} v6-forward accept"),
        format!("nft 'delete element {t} v6-workloads {{ \"mgy1\" . fd00:65::1 }}'"),
        format!("nft flush map {t} v6-to-workload"),
        format!("nft flush set {t} {hosts6}"),
        format!("nft flush chain {t} forward"),
        format!("nft delete chain {t} raw-prerouting"),
        format!("nft add chain {t} stranger"),
        format!(
            "nft 'add chain {t} stranger {{ type filter hook forward priority 5; policy drop; }}'"
        ),
        format!("nft 'delete element {t} v4-workloads {{ \"mgy1\" . 10.65.0.1 }}'"),
        format!("nft 'add element {t} v4-workloads {{ \"mgy1\" . 10.65.0.99 }}'"),
        format!("nft 'delete element {t} v4-to-workload {{ \"mgy2\" . 10.65.0.2 }}'"),
        format!("nft 'add element {t} v4-from-workload {{ \"mgy9\" . 10.65.0.9 : accept }}'"),
        format!("nft flush set {t} {hosts}"),
        format!("nft 'add element {t} {hosts} {{ 10.9.0.1 }}'"),
        format!("nft flush set {t} {members}"),
        format!("nft 'add element {t} {members} {{ 10.9.0.1-10.9.0.6 }}'"),
        format!("nft 'add set {t} strange {{ type ipv4_addr; }}'"),
        format!("nft delete table {t}"),
        "nft flush ruleset".to_owned(),
    ];
    for breakage in breakages {
        run(&breakage);
        filter.resync();
        let report = apply(&mut filter);
        assert!(report.drift > 0, "{breakage}");
        for to in [b.v4, b.v6] {
            assert!(
                reaches(&a.netns, to, 80) && !reaches(&a.netns, to, 81),
                "{breakage}: {to}"
            );
        }
        filter.resync();
        let report = apply(&mut filter);
        assert_eq!(
            (report.drift, report.restores, report.set_changes),
            (0, 0, 0),
            "{breakage}"
        );
        assert_eq!(sorted(&save(NFTABLES)), sorted(&good), "{breakage}");
    }
}

/// Chains are listed in the order in which they were made.
fn sorted(listing: &str) -> BTreeSet<&str> {
    listing.lines().map(str::trim).collect()
}

#[test]
fn a_set_of_another_make_is_replaced_together_with_the_table() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    run("nft add table inet margay; nft 'add set inet margay v4-workloads { type ipv4_addr; }'");
    let mut filter = filter(NFTABLES);
    desired(&mut filter, &a, &b);
    filter.allow_deletes();
    apply(&mut filter);
    assert!(reaches(&a.netns, b.v4, 80));
}

#[test]
fn the_table_reads_well() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let mut filter = filter(NFTABLES);
    desired(&mut filter, &a, &b);
    let mut rule = tcp(Action::Allow, &[80, 443]);
    rule.src.nets = vec!["10.0.0.0/8".parse().unwrap()];
    rule.comment = Some("web from inside".to_owned());
    filter.set_policy("NetworkPolicy/shop/web".into(), ingress(vec![rule]));
    let shop = endpoint(&b, tier(&["NetworkPolicy/shop/web"]), Direction::default());
    filter.set_endpoint(id(&b), shop).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    let listing = save(NFTABLES);
    for expected in [
        "chain v4-policy-in/NetworkPolicy/shop/web {",
        "ip saddr 10.0.0.0/8",
        "tcp dport @ports/80_443",
        "comment \"web from inside\"",
        "jump v4-policy-in/NetworkPolicy/shop/web comment \"NetworkPolicy/shop/web\"",
        "comment \"end of tier default\"",
        "iifname . ip saddr vmap @v4-from-workload",
        "oifname . ip6 daddr vmap @v6-to-workload",
        "\"mgy1\" . 10.65.0.1 : goto v4-from-group/",
        "type filter hook forward priority filter; policy accept;",
        "meta nfproto ipv4 goto v4-forward",
        "iifname \"mgy*\" iifname . ip saddr @v4-workloads return",
        "oifname \"mgy*\" oifname . ip6 daddr @v6-workloads ct status",
        "ct state established,related accept",
        "comment \"not from this workload\"",
    ] {
        assert!(listing.contains(expected), "{expected} in\n{listing}");
    }
    assert!(
        !listing.contains("@nh") && !listing.contains("@th"),
        "{listing}"
    );
}

#[test]
fn rules_for_the_same_ports_share_a_set_that_nobody_can_change() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    // What somebody made by that name before there was an agent.
    run("nft add table inet margay; nft 'add set inet margay ports/80_443 { type inet_service; }'");
    let mut filter = filter(NFTABLES);
    desired(&mut filter, &a, &b);
    let allow = |ports: &[u16]| ingress(vec![tcp(Action::Allow, ports)]);
    filter.set_policy("web".into(), allow(&[443, 80]));
    filter.set_policy("also".into(), allow(&[80, 443]));
    let both = endpoint(&b, tier(&["web", "also"]), Direction::default());
    filter.set_endpoint(id(&b), both).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    let sets = || save(NFTABLES).matches("set ports/").count();
    assert_eq!(sets(), 1);
    let only_80 = || reaches(&a.netns, b.v4, 80) && !reaches(&a.netns, b.v4, 81);
    assert!(only_80());
    let opened = Command::new("nft")
        .args(["add element inet margay ports/80_443 { 81 }"])
        .output();
    assert!(!opened.unwrap().status.success());
    filter.set_policy("also".into(), allow(&[8080]));
    apply(&mut filter);
    assert!(sets() == 1 && only_80());
    filter.set_policy("web".into(), allow(&[8080]));
    apply(&mut filter);
    assert!(sets() == 0 && !reaches(&a.netns, b.v4, 80));
    // An earlier agent's: the next one has no use for it.
    filter.set_policy("web".into(), allow(&[80, 443]));
    apply(&mut filter);
    let mut filter = crate::lab::filter(NFTABLES);
    desired(&mut filter, &a, &b);
    filter.allow_deletes();
    apply(&mut filter);
    assert_eq!(sets(), 0);
}

#[test]
fn members_may_lie_in_one_another() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    let mut filter = filter(NFTABLES);
    desired(&mut filter, &a, &b);
    filter.allow_deletes();
    apply(&mut filter);
    filter.update_ipset(&"s".into(), [net("10.64.0.0/24")], []);
    assert_eq!(apply(&mut filter).restores, 1, "the first network");
    let change = |filter: &mut Filter, add: &[&str], remove: &[&str]| {
        let add = add.iter().map(|member| net(member));
        let remove = remove.iter().map(|member| net(member));
        assert!(filter.update_ipset(&SetId::from("s"), add, remove));
        assert_eq!(apply(filter).restores, 0);
        reaches(&a.netns, b.v4, 80)
    };
    assert!(change(&mut filter, &["10.65.0.0/16", "10.65.0.0/24"], &[]));
    assert!(change(&mut filter, &[], &["10.65.0.1/32", "10.65.0.0/16"]));
    assert!(change(
        &mut filter,
        &["0.0.0.0/0", "10.65.0.1/32"],
        &["10.65.0.0/24"]
    ));
    assert!(change(&mut filter, &[], &["0.0.0.0/0"]));
    assert!(!change(&mut filter, &[], &["10.65.0.1/32"]));
    filter.resync();
    let report = apply(&mut filter);
    assert_eq!((report.drift, report.set_changes), (0, 0));
}

/// Single addresses and networks are in sets of their own: what is asked is the same as of one set.
#[test]
fn addresses_and_networks_together_are_one_set() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81, 82]);
    let mut filter = filter(NFTABLES);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let kind = SetKind::Nets;
    for set in ["one", "other"] {
        let members = BTreeSet::new();
        filter.set_ipset(set.into(), SetSpec { kind, members });
    }
    let sets = |of: &[&str]| of.iter().map(|set| SetId::from(*set)).collect::<Vec<_>>();
    let mut counted = tcp(Action::CountAndGoOn, &[80, 81, 82]);
    counted.src.sets = sets(&["one", "other"]);
    let mut within = tcp(Action::Allow, &[80]);
    within.src.sets = sets(&["one", "other"]);
    let mut without = tcp(Action::Allow, &[81]);
    without.src.not_sets = sets(&["one"]);
    filter.set_policy("p".into(), ingress(vec![counted, within, without]));
    let target = endpoint(&b, tier(&["p"]), Direction::default());
    filter.set_endpoint(id(&b), target).unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    let mut look = |one: &[&str], other: &[&str]| -> (bool, bool, u64) {
        for (set, members) in [("one", one), ("other", other)] {
            let members = members.iter().map(|member| net(member)).collect();
            filter.set_ipset(set.into(), SetSpec { kind, members });
        }
        apply(&mut filter);
        let count = |filter: &mut Filter| filter.counters().unwrap().rules[0].ingress[0].packets;
        let before = count(&mut filter);
        let seen = (reaches(&a.netns, b.v4, 80), reaches(&a.netns, b.v4, 81));
        // The other connection is asked about once, whether it was allowed or not, unless its first packet is
        // sent again.
        assert!(reaches(&a.netns, b.v4, 80) == seen.0);
        (seen.0, seen.1, count(&mut filter) - before)
    };
    assert_eq!(look(&[], &[]), (false, true, 0));
    assert_eq!(look(&["10.65.0.1/32"], &[]), (false, false, 0));
    let (reached, left_out, packets) = look(&["10.65.0.1/32"], &["10.65.0.0/24"]);
    assert_eq!((reached, left_out), (true, false));
    assert!(packets >= 3, "{packets}");
    let both = ["10.65.0.1/32", "10.65.0.0/16"];
    let (reached, left_out, twice) = look(&both, &both);
    assert_eq!((reached, left_out), (true, false));
    // One more packet may be sent again, not each of them counted for each part.
    assert!(twice < 2 * packets, "{twice} instead of {packets}");
    assert_eq!(look(&["10.65.1.0/24"], &["10.65.0.1/32"]), (false, true, 0));
    assert!(look(&["10.65.0.0/24"], &["10.65.0.1/32"]).0);
    filter.resync();
    let report = apply(&mut filter);
    assert_eq!((report.drift, report.restores), (0, 0));
    assert!(reaches(&a.netns, b.v4, 80) && !reaches(&a.netns, b.v4, 81));
}

#[test]
fn a_change_writes_no_more_than_it_needs() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let mut filter = filter(NFTABLES);
    desired(&mut filter, &a, &b);
    let addresses = (0..10_000u32).map(|n| Ipv4Addr::from(0x0b00_0000 + 2 * n));
    let members: BTreeSet<SetMember> = addresses
        .map(|ip| SetMember::from(std::net::IpAddr::from(ip)))
        .collect();
    let kind = SetKind::Nets;
    filter.set_ipset("big".into(), SetSpec { kind, members });
    filter.allow_deletes();
    let first = apply(&mut filter);
    assert!(
        first.set_changes > 10_000 && first.restores == 1,
        "{first:?}"
    );
    let one = SetMember::from(std::net::IpAddr::from([12, 0, 0, 1]));
    filter.update_ipset(&"big".into(), [one], []);
    let report = apply(&mut filter);
    assert_eq!((report.restores, report.set_changes), (0, 1));
    // Both directions in both families would be four: what did not change is not written.
    filter.set_policy("p".into(), ingress(vec![Rule::any(Action::Allow)]));
    let report = apply(&mut filter);
    assert_eq!((report.chains_changed, report.set_changes), (2, 0));
    filter.set_policy("new".into(), allow_all());
    assert_eq!(apply(&mut filter).chains_changed, 4);
    let mut third = open_endpoint(&a);
    third.ifname = "mgy3".to_owned();
    third.addresses = vec!["10.65.0.3/32".parse().unwrap()];
    filter.set_endpoint("third".into(), third).unwrap();
    let report = apply(&mut filter);
    assert_eq!((report.restores, report.set_changes), (0, 2), "{report:?}");
}

/// Others are heard where they change rules of ours, or what leads to them, and we are not.
#[test]
fn changes_of_others_are_heard_in_either_place() {
    for backend in [NFTABLES, NFT] {
        let mut lab = Lab::new();
        let (a, b) = (lab.workload(1), lab.workload(2));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut watch = runtime.block_on(async { Watch::open().unwrap() });
        let mut filter = filter(backend);
        let mut heard = |filter: &Filter, within: Duration| {
            let concern = filter.concern().unwrap();
            let changed = async { tokio::time::timeout(within, watch.changed(&concern)).await };
            let changed = runtime.block_on(changed).is_ok();
            // The rest of the same burst.
            while changed
                && runtime
                    .block_on(async { tokio::time::timeout(QUIET, watch.changed(&concern)).await })
                    .is_ok()
            {}
            changed
        };
        desired(&mut filter, &a, &b);
        filter.allow_deletes();
        apply(&mut filter);
        filter.set_policy("p".into(), ingress(vec![Rule::any(Action::Allow)]));
        apply(&mut filter);
        assert!(!heard(&filter, QUIET), "{backend}: what we did ourselves");
        run("nft add table ip theirs; iptables-nft -N theirs; iptables-nft -A theirs -j ACCEPT");
        assert!(
            !heard(&filter, QUIET),
            "{backend}: what is no affair of ours"
        );
        let breakages: &[&str] = match backend {
            NFTABLES => &["nft flush chain inet margay v4-forward"],
            _ => &[
                "iptables-nft -F mgy-FORWARD",
                "ip6tables-nft -D FORWARD 1",
                "nft delete table ip raw",
            ],
        };
        for breakage in breakages {
            run(breakage);
            assert!(heard(&filter, PATIENCE), "{backend}: {breakage}");
            filter.resync();
            assert!(apply(&mut filter).drift > 0, "{breakage}");
            assert!(
                !heard(&filter, QUIET),
                "{backend}: the repair of {breakage}"
            );
        }
    }
    let _lab = Lab::new();
    assert_eq!(filter(LEGACY).concern(), None, "nobody tells");
}

const QUIET: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);
