//! One host of a large cluster: 250 endpoints of its own among 1k, 10k and 100k on 5,000 hosts, under 10k
//! policies whose rules use 1k selectors. A table first, because a mean hides the slow ones: medians, 99th
//! percentiles, resident memory, and a straightforward scan beside them; then criterion.
//!
//! `cargo bench -p margay-policy --bench scale`

#![expect(clippy::print_stdout, reason = "the table is what it is run for")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use margay_model::any::AnyResource;
use margay_model::kind::ResourceKey;
use margay_model::meta::ObjectMeta;
use margay_model::net::Cidr;
use margay_model::policy::{GlobalNetworkPolicy, GlobalNetworkPolicySpec};
use margay_model::rule::{Action, EntityRule, Rule};
use margay_model::workload_endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};
use margay_policy::calc::{Calc, Scope};
use margay_policy::selector::Selector;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const LOCAL: usize = 250;
const HOSTS: usize = 5_000;
const POLICIES: usize = 10_000;
const SELECTORS: usize = 1_000;
/// Roles that policies select; each local endpoint has one of them.
const ROLES: usize = 200;

type Labels = BTreeMap<String, String>;

fn labels(i: usize, role: usize) -> Labels {
    let pairs = [
        ("role", format!("role-{role}")),
        ("team", format!("team-{}", i % 50)),
        ("env", ["dev", "test", "prod"][i % 3].to_owned()),
        ("app", format!("app-{}", i % 2_000)),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Half of them name one value; the others are negations, prefixes and disjunctions.
fn selector(i: usize) -> String {
    let (app, role, team) = (i % 2_000, i % ROLES, i % 50);
    match i % 6 {
        0 => format!("app == 'app-{app}'"),
        1 => format!("role == 'role-{role}' && team == 'team-{team}' && env != 'dev'"),
        2 => format!("app in {{'app-{app}', 'app-{role}'}}"),
        3 => format!("app == 'app-{app}' || (team == 'team-{team}' && role == 'role-{role}')"),
        4 => format!("!has(quarantine) && app == 'app-{app}' && env not in {{'test'}}"),
        _ => format!("app starts with 'app-{app}' && env == 'prod'"),
    }
}

fn endpoint(i: usize, role: usize) -> AnyResource {
    let number = u32::try_from(i).expect("the counts written here are small");
    let mut metadata = ObjectMeta::namespaced(format!("ns-{}", i % 100), format!("ep-{i}"));
    metadata.labels = labels(i, role);
    let node = if i < LOCAL { 0 } else { 1 + i % (HOSTS - 1) };
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: format!("host-{node}"),
        interface_name: format!("if{i}"),
        ip_networks: vec![Cidr::host(
            std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
        )],
        ..WorkloadEndpointSpec::default()
    };
    WorkloadEndpoint::new(metadata, spec).into()
}

fn policy(i: usize, version: usize) -> AnyResource {
    let mut rule = Rule::new(Action::Allow);
    rule.source = EntityRule {
        selector: Some(selector((i + version) % SELECTORS)),
        ..EntityRule::default()
    };
    let spec = GlobalNetworkPolicySpec {
        selector: Some(format!("role == 'role-{}'", i % ROLES)),
        ingress: vec![rule],
        ..GlobalNetworkPolicySpec::default()
    };
    GlobalNetworkPolicy::new(ObjectMeta::named(format!("p-{i}")), spec).into()
}

fn loaded(endpoints: &[AnyResource], policies: &[AnyResource]) -> Calc {
    let mut calc = Calc::new(Scope::Node("host-0".to_owned()));
    for resource in endpoints.iter().chain(policies) {
        calc.update(resource);
    }
    black_box(calc.flush());
    calc
}

/// Resident memory in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or_default();
    pages * 4096
}

/// Processor time of this process so far. Beside a clock, it tells on a busy machine what the work itself
/// took.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything, and eleven fields: user and system time in ticks.
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits fit") % sides
    }
}

/// Median and 99th percentile of `count` runs.
fn percentiles(count: usize, mut run: impl FnMut(usize) -> Duration) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..count).map(&mut run).collect();
    times.sort_unstable();
    (times[count / 2], times[count * 99 / 100])
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn table(size: usize, policies: &[AnyResource]) {
    let endpoints: Vec<_> = (0..size).map(|i| endpoint(i, i % ROLES)).collect();
    let before = resident();
    let (start, work) = (Instant::now(), processor());
    let mut calc = loaded(&endpoints, policies);
    let (initial, work) = (start.elapsed(), processor().saturating_sub(work));
    let memory = resident().saturating_sub(before);
    let mut dice = Dice(7);
    let flush = |calc: &mut Calc, resource: &AnyResource| {
        timed(|| {
            calc.update(resource);
            black_box(calc.flush());
        })
    };
    let relabelled = percentiles(5_000, |_| {
        let changed = endpoint(dice.roll(size), dice.roll(ROLES));
        flush(&mut calc, &changed)
    });
    let added = percentiles(2_000, |n| flush(&mut calc, &endpoint(size + n, n % ROLES)));
    let removed = percentiles(2_000, |n| {
        let key: ResourceKey = endpoint(size + n, 0).key();
        timed(|| {
            calc.remove(&key);
            black_box(calc.flush());
        })
    });
    let policy_changed = percentiles(500, |n| flush(&mut calc, &policy(n * 17, n + 1)));
    println!("{size} endpoints, {POLICIES} policies, {SELECTORS} selectors in use");
    println!("  initial calculation      {initial:>10.1?}, {work:.1?} of processor");
    println!(
        "  resident memory          {:>10} bytes an endpoint",
        memory / size
    );
    for (what, (median, slow)) in [
        ("endpoint relabelled", relabelled),
        ("endpoint added", added),
        ("endpoint removed", removed),
        ("policy changed", policy_changed),
    ] {
        println!("  {what:<24} {median:>10.1?} median, {slow:.1?} p99");
    }
    scan(&endpoints);
}

fn parsed() -> Vec<Selector> {
    let parse = |i| {
        let selector = selector(i).parse();
        selector.expect("the selectors written here are correct")
    };
    (0..SELECTORS).map(parse).collect()
}

/// What it costs to ask every selector about every endpoint, or about one.
fn scan(endpoints: &[AnyResource]) {
    let selectors = parsed();
    let labels: Vec<&Labels> = endpoints.iter().map(|e| &e.metadata().labels).collect();
    let work = processor();
    let all = timed(|| {
        let members = |s: &Selector| labels.iter().filter(|l| s.matches(**l)).count();
        black_box(selectors.iter().map(members).sum::<usize>());
    });
    let work = processor().saturating_sub(work);
    let one = percentiles(1_000, |n| {
        let (old, new) = (labels[n % labels.len()], self::labels(n, n % ROLES));
        timed(|| {
            let changed = |s: &&Selector| s.matches(old) != s.matches(&new);
            black_box(selectors.iter().filter(changed).count());
        })
    });
    println!("  scan: members of all     {all:>10.1?}, {work:.1?} of processor");
    println!(
        "  scan: one relabelled     {:>10.1?} median, {:.1?} p99",
        one.0, one.1
    );
}

fn main() {
    let policies: Vec<_> = (0..POLICIES).map(|i| policy(i, 0)).collect();
    for size in SIZES {
        table(size, &policies);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for size in SIZES {
        let endpoints: Vec<_> = (0..size).map(|i| endpoint(i, i % ROLES)).collect();
        let mut calc = loaded(&endpoints, &policies);
        let mut turn = 0;
        let mut group = criterion.benchmark_group(format!("one host among {size} endpoints"));
        group.bench_function("endpoint relabelled", |b| {
            b.iter(|| {
                turn += 1;
                calc.update(&endpoint(LOCAL + turn % (size - LOCAL), turn % ROLES));
                black_box(calc.flush())
            });
        });
        group.bench_function("policy changed", |b| {
            b.iter(|| {
                turn += 1;
                calc.update(&policy(turn % POLICIES, turn));
                black_box(calc.flush())
            });
        });
        group.finish();
    }
    criterion.final_summary();
}
