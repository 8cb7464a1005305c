//! Failures at the netlink edge: nothing opens, the rest goes on, and it converges.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{
    driver::Nftables,
    edge::{Edge, Kernel},
    plan::About,
    read::{Counters, Found},
    wire::Transaction,
};
use crate::{
    filter::{
        Action, Direction, Endpoint, Family, Filter, Limits, PolicyRules, Rule, SetKind, SetMember,
        SetSpec, Tier, TierDefault,
    },
    lab::NetNs,
    netlink::{NetlinkError, RequestError},
};

/// What goes wrong with one transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The transaction as a whole is refused.
    Whole(i32),
    /// The first message about rules is.
    Rule(i32),
    /// The answer is lost, and the transaction was not done.
    LostUndone,
    /// The answer is lost, and the transaction was done.
    LostDone,
    /// The table cannot be read the next time.
    Unreadable,
}

/// The kernel, with faults as planned.
#[derive(Debug)]
struct Faulty {
    kernel: Kernel,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    /// Every message about a chain or a set of such a name is refused.
    poison: &'static str,
}

impl Faulty {
    fn poisons(&self, name: &str) -> bool {
        !self.poison.is_empty() && name.contains(self.poison)
    }
}

impl Edge for Faulty {
    fn read(&mut self) -> Result<Found, NetlinkError> {
        let mut faults = self.faults.lock().unwrap();
        if faults.front() == Some(&Fault::Unreadable) {
            faults.pop_front();
            return Err(NetlinkError::DumpInterrupted(10));
        }
        drop(faults);
        self.kernel.read()
    }

    fn counters(&mut self) -> Result<Counters, NetlinkError> {
        self.kernel.counters()
    }

    fn commit(
        &mut self,
        transaction: &mut Transaction<About>,
    ) -> Result<Vec<(usize, RequestError)>, NetlinkError> {
        let refused = |place, errno| (place, RequestError { errno, text: None });
        let places = 1..;
        let abouts = places.map_while(|place| Some((place, transaction.about(place)?.clone())));
        let abouts: Vec<(usize, About)> = abouts.collect();
        let sets = abouts.iter().filter_map(|(place, about)| match about {
            About::Set(name) if self.poisons(name) => Some(*place),
            _ => None,
        });
        let sets: Vec<usize> = sets.collect();
        let chains: Vec<(usize, String)> = abouts
            .into_iter()
            .filter_map(|(place, about)| match about {
                About::Chain(name) => Some((place, name)),
                _ => None,
            })
            .collect();
        let poisoned = chains.iter().filter(|(_, name)| {
            // A chain that only drops takes three messages at most.
            self.poisons(name) && chains.iter().filter(|(_, other)| other == name).count() > 3
        });
        let poisoned = poisoned.map(|(place, _)| *place);
        let poisoned: Vec<usize> = sets.into_iter().chain(poisoned).collect();
        if !poisoned.is_empty() {
            return Ok(poisoned
                .into_iter()
                .map(|p| refused(p, libc::ENOSPC))
                .collect());
        }
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None => self.kernel.commit(transaction),
            Some(Fault::Whole(errno)) => Ok(vec![refused(0, errno)]),
            Some(Fault::Rule(errno)) => {
                let place = chains.first().map_or(1, |(place, _)| *place);
                Ok(vec![refused(place, errno)])
            }
            Some(Fault::LostUndone | Fault::Unreadable) => Err(NetlinkError::Overrun),
            Some(Fault::LostDone) => {
                self.kernel.commit(transaction)?;
                Err(NetlinkError::Overrun)
            }
        }
    }

    fn port(&self) -> u32 {
        self.kernel.port()
    }
}

struct Rig {
    filter: Filter,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

fn rig(poison: &'static str) -> Rig {
    let faults = Arc::new(Mutex::new(VecDeque::new()));
    let edge = Faulty {
        kernel: Kernel::open().unwrap(),
        faults: Arc::clone(&faults),
        poison,
    };
    let families = Family::ALL.to_vec();
    let kernel = Nftables::over(Box::new(edge), &families);
    let mut filter = Filter::over(Box::new(kernel), families);
    filter.allow_deletes();
    Rig { filter, faults }
}

fn rules(rules: Vec<Rule>) -> PolicyRules {
    PolicyRules {
        ingress: rules,
        ..PolicyRules::default()
    }
}

fn endpoint(policy: &str) -> Endpoint {
    let tier = Tier {
        name: "default".into(),
        policies: vec![policy.into()],
        default_action: TierDefault::Deny,
    };
    Endpoint {
        ifname: format!("mgy{policy}"),
        addresses: vec![
            "10.0.0.1/32".parse().unwrap(),
            "fd00::1/128".parse().unwrap(),
        ],
        ingress: Direction { tiers: vec![tier] },
        egress: Direction::default(),
        profiles: Vec::new(),
        admin_up: true,
        allowed_source_prefixes: Vec::new(),
        limits: Limits::default(),
        host_ports: Vec::new(),
    }
}

fn set(members: &[&str]) -> SetSpec {
    let member = |net: &&str| SetMember::Net(net.parse().unwrap());
    SetSpec {
        kind: SetKind::Nets,
        members: members.iter().map(member).collect(),
    }
}

/// A rule that accepts a port of those in the set.
fn from_set(port: u16) -> Rule {
    let mut rule = Rule::any(Action::Allow);
    rule.protocol = Some(6);
    rule.src.sets = vec!["s".into()];
    rule.dst.ports = vec![port..=port];
    rule
}

fn want(filter: &mut Filter, port: u16, members: &[&str]) {
    filter.set_ipset("s".into(), set(members));
    filter.set_policy("p".into(), rules(vec![from_set(port)]));
    filter.set_endpoint("e".into(), endpoint("p")).unwrap();
}

fn listing(ns: &NetNs) -> String {
    ns.command("nft -s list table inet margay").1
}

/// Applies until nothing is left to do; tells how often it took.
fn settle(filter: &mut Filter) -> usize {
    let mut report = filter.apply();
    for round in 1..50 {
        let Some(wait) = report.retry_in else {
            assert!(report.is_ok(), "{:?}", report.failures);
            return round;
        };
        thread::sleep(wait.min(Duration::from_secs(2)));
        report = filter.apply();
    }
    panic!("does not settle: {:?}", report.failures);
}

#[test]
fn each_failure_leaves_the_old_rules_or_the_new_ones_and_is_made_up_for() {
    let ns = NetNs::new();
    ns.run(|| {
        let Rig { mut filter, faults } = rig("");
        want(&mut filter, 80, &["10.1.0.0/16"]);
        assert_eq!(settle(&mut filter), 1);
        let cases = [
            vec![Fault::Whole(libc::EBUSY), Fault::Whole(libc::EBUSY)],
            vec![Fault::Whole(libc::ENOBUFS), Fault::Whole(libc::ENOMEM)],
            vec![Fault::Whole(libc::EINTR)],
            vec![Fault::Rule(libc::EEXIST)],
            vec![Fault::Rule(libc::EEXIST), Fault::Rule(libc::EEXIST)],
            vec![Fault::LostUndone],
            vec![Fault::LostDone],
            vec![Fault::LostDone, Fault::Unreadable],
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let port = 1000 + number as u16;
            let old = listing(&ns);
            faults.lock().unwrap().extend(case.clone());
            want(&mut filter, port, &["10.2.0.0/16", "10.2.3.4/32"]);
            let report = filter.apply();
            let now = listing(&ns);
            if !report.is_ok() && !case.contains(&Fault::LostDone) {
                assert!(report.retry_in.is_some(), "{case:?}");
                let partial = case.contains(&Fault::Rule(libc::EEXIST));
                assert!(now == old || partial, "{case:?}:\n{old}\n{now}");
            }
            settle(&mut filter);
            assert!(faults.lock().unwrap().is_empty(), "{case:?}");
            assert!(
                listing(&ns).contains(&format!("tcp dport {port} ")),
                "{case:?}"
            );
            // And what is believed is what is there.
            filter.resync();
            let report = filter.apply();
            assert!(report.is_ok());
            assert_eq!(
                (report.drift, report.restores, report.set_changes),
                (0, 0, 0),
                "{case:?}"
            );
            want(&mut filter, 80, &["10.1.0.0/16"]);
            settle(&mut filter);
        }
    });
}

#[test]
fn a_policy_that_the_kernel_refuses_drops_and_keeps_no_other_out() {
    let ns = NetNs::new();
    ns.run(|| {
        let Rig { mut filter, .. } = rig("poison");
        filter.set_ipset("s".into(), set(&["10.1.0.0/16"]));
        filter.set_policy("good".into(), rules(vec![from_set(80)]));
        let many = (1..9).map(from_set).collect();
        filter.set_policy("poison".into(), rules(many));
        filter.set_endpoint("a".into(), endpoint("good")).unwrap();
        filter.set_endpoint("b".into(), endpoint("poison")).unwrap();
        let report = filter.apply();
        let objects: Vec<&str> = report.failures.iter().map(|f| f.object.as_str()).collect();
        assert!(
            objects
                == [
                    "nftables chain v4-policy-in/poison",
                    "nftables chain v6-policy-in/poison"
                ],
            "{objects:?}"
        );
        assert!(report.retry_in.is_some());
        assert!(filter.in_force(&"a".into()), "{:?}", report.failures);
        assert!(!filter.in_force(&"b".into()));
        let chains = listing(&ns);
        let chain = chains
            .split("chain ")
            .find(|c| c.starts_with("v4-policy-in/poison"));
        let refused = "drop comment \"not accepted by the kernel\"";
        assert!(chain.unwrap().contains(refused), "{chains}");
        filter.set_policy("poison".into(), rules(Vec::new()));
        settle(&mut filter);
        assert!(!listing(&ns).contains("not accepted"));
        assert!(filter.in_force(&"b".into()));
    });
}

#[test]
fn rules_whose_set_of_ports_is_refused_drop_and_keep_no_other_out() {
    let ns = NetNs::new();
    ns.run(|| {
        let Rig { mut filter, .. } = rig("ports/443_8443");
        let several = |ports: &[u16]| {
            let mut rule = from_set(80);
            rule.dst.ports = ports.iter().map(|port| *port..=*port).collect();
            rules(vec![rule])
        };
        filter.set_ipset("s".into(), set(&["10.1.0.0/16"]));
        filter.set_policy("good".into(), several(&[80, 443]));
        filter.set_policy("bad".into(), several(&[443, 8443]));
        filter.set_endpoint("a".into(), endpoint("good")).unwrap();
        filter.set_endpoint("b".into(), endpoint("bad")).unwrap();
        let report = filter.apply();
        let objects: Vec<&str> = report.failures.iter().map(|f| f.object.as_str()).collect();
        let expected = [
            "nftables chain v4-policy-in/bad",
            "nftables chain v6-policy-in/bad",
            "nftables set ports/443_8443",
        ];
        assert_eq!(objects, expected);
        assert!(filter.in_force(&"a".into()) && !filter.in_force(&"b".into()));
        assert!(listing(&ns).contains("drop comment \"not accepted by the kernel\""));
        filter.set_policy("bad".into(), several(&[80, 443]));
        settle(&mut filter);
        assert!(!listing(&ns).contains("not accepted"));
        assert!(filter.in_force(&"b".into()));
    });
}

/// Where the base chain itself is refused, it leads to the families without short cuts.
#[test]
fn a_base_chain_is_written_without_short_cuts_where_they_are_refused() {
    let ns = NetNs::new();
    ns.run(|| {
        let Rig { mut filter, .. } = rig("raw-prerouting");
        want(&mut filter, 80, &["10.1.0.0/16"]);
        let report = filter.apply();
        let objects: Vec<&str> = report.failures.iter().map(|f| f.object.as_str()).collect();
        assert!(
            objects.contains(&"nftables chain raw-prerouting"),
            "{objects:?}"
        );
        let listing = listing(&ns);
        let chain = |name: &str| {
            let mut chains = listing.split("chain ");
            let start = format!("{name} {{");
            chains.find(|chain| chain.starts_with(&start)).unwrap()
        };
        let base = chain("raw-prerouting");
        assert!(base.contains("goto v4-raw-prerouting") && base.contains("goto v6-raw-prerouting"));
        assert!(!base.contains("-workloads"), "{base}");
        assert!(chain("forward").contains("@v4-workloads"));
        // Which were refused too, in this test.
        assert!(chain("v4-raw-prerouting").contains("drop comment \"not accepted by the kernel\""));
    });
}
