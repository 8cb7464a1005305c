//! What policy costs with each backend: to change it, and the packets that meet it. Needs root.
//!
//! Times are medians.
//! `cargo bench -p margay-dataplane --bench policy [-- [programming|forwarding] [BACKEND ..]]`

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot set up its lab has failed"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its figures are for people"
)]

#[path = "policy/forwarding.rs"]
mod forwarding;
#[path = "../tests/filter/lab.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod lab;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use lab::{LEGACY, Lab, NFT, Workload, allow_all, apply, endpoint, filter, ingress, tcp, tier};
use margay_dataplane::filter::{
    Action, Backend, Direction, Endpoint, Filter, SetId, SetKind, SetMember, SetSpec,
};

const BACKENDS: [Backend; 3] = [Backend::Nftables, NFT, LEGACY];
const ENDPOINTS: u32 = 250;
const MEMBERS: u32 = 10_000;

fn main() {
    // Cargo adds options of its own.
    let words = std::env::args().skip(1);
    let words: Vec<String> = words.filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| words.iter().any(|word| word == name);
    let mut backends = BACKENDS.to_vec();
    backends.retain(|backend| is_wanted(&backend.to_string()));
    if backends.is_empty() {
        backends = BACKENDS.to_vec();
    }
    if !is_wanted("forwarding") {
        programming(&backends);
    }
    if !is_wanted("programming") {
        forwarding::run(&backends);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A workload that has no container, with its own policy.
fn filler(n: u32) -> Endpoint {
    let address = IpAddr::from(Ipv4Addr::from(0x0a40_0000 + n));
    let workload = Workload {
        netns: String::new(),
        ifname: format!("mgyf{n}"),
        v4: address,
        v6: format!("fd00:64::{n:x}").parse().unwrap(),
    };
    let policy = format!("NetworkPolicy/filler/p{n}");
    endpoint(&workload, tier(&[&policy]), Direction::default())
}

fn add_filler(filter: &mut Filter, n: u32, set: Option<&SetId>) {
    let mut rule = tcp(Action::Allow, &[80, 443]);
    rule.src.sets.extend(set.cloned());
    let policy = format!("NetworkPolicy/filler/p{n}");
    filter.set_policy(policy.as_str().into(), ingress(vec![rule]));
    let id = format!("f{n}");
    filter.set_endpoint(id.as_str().into(), filler(n)).unwrap();
}

fn programming(backends: &[Backend]) {
    println!("{ENDPOINTS} endpoints with a policy each, 4 sets of {MEMBERS} members; medians");
    println!(
        "{:<16} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "", "initial", "policy", "member", "endpoint", "resync"
    );
    for backend in backends.iter().copied() {
        let _lab = Lab::new();
        let mut filter = filter(backend);
        filter.set_profile("open".into(), allow_all());
        filter.allow_deletes();
        apply(&mut filter);
        let sets: Vec<SetId> = (0..4).map(|n| SetId::new(format!("s{n}"))).collect();
        for (set, base) in sets.iter().zip(0u32..) {
            let member = |n: u32| Ipv4Addr::from(0x1400_0000 + (base << 20) + 2 * n);
            let members: BTreeSet<SetMember> = (0..MEMBERS)
                .map(|n| SetMember::from(IpAddr::from(member(n))))
                .collect();
            let kind = SetKind::Nets;
            filter.set_ipset(set.clone(), SetSpec { kind, members });
        }
        for n in 0..ENDPOINTS {
            add_filler(&mut filter, n, Some(&sets[n as usize % sets.len()]));
        }
        let timed = |filter: &mut Filter| {
            let start = Instant::now();
            apply(filter);
            start.elapsed()
        };
        let initial = timed(&mut filter);
        let policy = (0..41u16).map(|n| {
            let mut rule = tcp(Action::Allow, &[1000 + n]);
            rule.src.sets = vec![sets[0].clone()];
            let id = "NetworkPolicy/filler/p7".into();
            filter.set_policy(id, ingress(vec![rule]));
            timed(&mut filter)
        });
        let policy = median(policy.collect());
        let member = (0..201u32).map(|n| {
            let member = SetMember::from(IpAddr::from(Ipv4Addr::from(0x1e00_0000 + 2 * n)));
            filter.update_ipset(&sets[1], [member], []);
            timed(&mut filter)
        });
        let member = median(member.collect());
        let attached = (0..101u32).map(|n| {
            let mut next = filler(ENDPOINTS + n);
            next.ingress = tier(&["NetworkPolicy/filler/p3"]);
            let id = format!("n{n}");
            filter.set_endpoint(id.as_str().into(), next).unwrap();
            timed(&mut filter)
        });
        let attached = median(attached.collect());
        let resync = (0..3).map(|_| {
            filter.resync();
            timed(&mut filter)
        });
        let resync = median(resync.collect());
        let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
        println!(
            "{:<16} {:>10} {:>10} {:>10} {:>10} {:>10}",
            backend.to_string(),
            ms(initial),
            ms(policy),
            ms(member),
            ms(attached),
            ms(resync)
        );
    }
}
