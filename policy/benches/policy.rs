//! Selector evaluation, initial calculation and single changes, the index beside a plain scan.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use margay_model::any::AnyResource;
use margay_model::meta::ObjectMeta;
use margay_model::policy::{GlobalNetworkPolicy, GlobalNetworkPolicySpec};
use margay_model::rule::{Action, EntityRule, Rule};
use margay_model::workload_endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};
use margay_policy::calc::{Calc, Scope};
use margay_policy::index::{ItemId, LabelIndex};
use margay_policy::selector::Selector;

type Labels = BTreeMap<String, String>;

const SELECTORS: usize = 1000;
/// Endpoints of a host among all.
const LOCAL_SHARE: usize = 40;

fn labels(i: usize, role: usize) -> Labels {
    [
        ("role", format!("role-{role}")),
        ("team", format!("team-{}", i % 50)),
        ("env", ["dev", "test", "prod"][i % 3].to_owned()),
        ("projectcalico.org/namespace", format!("ns-{}", i % 100)),
        ("projectcalico.org/orchestrator", "k8s".to_owned()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

/// The shapes that policies have, negations and disjunctions among them.
fn selector(i: usize) -> String {
    let role = format!("'role-{i}'");
    match i % 5 {
        0 => format!("projectcalico.org/orchestrator == 'k8s' && role == {role}"),
        1 => format!("role in {{{role}, 'role-0'}} && env != 'dev'"),
        2 => format!("role == {role} || team == 'team-{i}'"),
        3 => format!("!(role == {role}) && has(nothing)"),
        _ => format!("role not in {{{role}}} && projectcalico.org/namespace == 'ns-{i}'"),
    }
}

fn selectors() -> Vec<Selector> {
    (0..SELECTORS).map(|i| parsed(&selector(i))).collect()
}

fn parsed(text: &str) -> Selector {
    text.parse()
        .expect("the selectors written here are correct")
}

fn number(i: usize) -> u32 {
    u32::try_from(i).expect("the counts written here are small")
}

fn pairs(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))
}

fn endpoint(i: usize, role: usize) -> AnyResource {
    let mut metadata = ObjectMeta::namespaced(format!("ns-{}", i % 100), format!("ep-{i}"));
    metadata.labels = labels(i, role);
    let addr = std::net::Ipv4Addr::from(0x0a00_0000 + number(i));
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: if i.is_multiple_of(LOCAL_SHARE) {
            "local"
        } else {
            "remote"
        }
        .to_owned(),
        interface_name: format!("if{i}"),
        ip_networks: vec![margay_model::net::Cidr::host(addr.into())],
        ..WorkloadEndpointSpec::default()
    };
    WorkloadEndpoint::new(metadata, spec).into()
}

/// Policy `i` selects a role and allows from what the `i`th selector says.
fn policy(i: usize) -> AnyResource {
    let mut rule = Rule::new(Action::Allow);
    rule.source = EntityRule {
        selector: Some(selector(i)),
        ..EntityRule::default()
    };
    let spec = GlobalNetworkPolicySpec {
        selector: Some(format!("role == 'role-{}'", i % 200)),
        ingress: vec![rule],
        ..GlobalNetworkPolicySpec::default()
    };
    GlobalNetworkPolicy::new(ObjectMeta::named(format!("p-{i}")), spec).into()
}

fn loaded(endpoints: &[AnyResource], policies: &[AnyResource]) -> Calc {
    let mut calc = Calc::new(Scope::Node("local".to_owned()));
    endpoints
        .iter()
        .chain(policies)
        .for_each(|r| calc.update(r));
    black_box(calc.flush());
    calc
}

fn matching(c: &mut Criterion) {
    let of_item = labels(7, 7);
    let text = "(role in {'a', 'role-7'} && env != 'prod') || !has(team)";
    let selector = parsed(text);
    c.bench_function("selector/match", |b| {
        b.iter(|| black_box(&selector).matches(black_box(&of_item)))
    });
    c.bench_function("selector/parse", |b| b.iter(|| parsed(black_box(text))));
}

fn relabel(c: &mut Criterion) {
    let selectors = selectors();
    let mut index = LabelIndex::default();
    for i in 0..10_000 {
        index.set_item(ItemId(number(i)), pairs(&labels(i, i % SELECTORS)), []);
    }
    for selector in &selectors {
        index.add_selector(selector);
    }
    let states = [labels(5000, 1), labels(5000, 2)];
    let mut turn = 0;
    c.bench_function("relabel one of 10k against 1k selectors/index", |b| {
        b.iter(|| {
            turn ^= 1;
            index.set_item(ItemId(5000), pairs(&states[turn]), []);
            black_box(index.take_changes())
        });
    });
    c.bench_function("relabel one of 10k against 1k selectors/scan", |b| {
        b.iter(|| {
            turn ^= 1;
            let (old, new) = (&states[turn ^ 1], &states[turn]);
            selectors
                .iter()
                .filter(|s| s.matches(old) != s.matches(new))
                .count()
        });
    });
}

fn new_selector(c: &mut Criterion) {
    let all: Vec<_> = (0..10_000).map(|i| labels(i, i % SELECTORS)).collect();
    let mut index = LabelIndex::default();
    for (i, labels) in all.iter().enumerate() {
        index.set_item(ItemId(number(i)), pairs(labels), []);
    }
    let selector = parsed("role not in {'role-3'} && team == 'team-7' || role == 'role-5'");
    c.bench_function("new selector over 10k/index", |b| {
        b.iter(|| {
            let id = index.add_selector(&selector);
            let count = index.match_count(id);
            index.release_selector(id);
            black_box(count)
        });
    });
    c.bench_function("new selector over 10k/scan", |b| {
        b.iter(|| all.iter().filter(|l| selector.matches(*l)).count());
    });
}

fn calculation(c: &mut Criterion) {
    let policies: Vec<_> = (0..SELECTORS).map(policy).collect();
    for count in [1_000, 10_000] {
        let endpoints: Vec<_> = (0..count).map(|i| endpoint(i, i % SELECTORS)).collect();
        let mut group = c.benchmark_group(format!("calc of {count} endpoints and 1k policies"));
        group.sample_size(10);
        group.bench_function("initial", |b| {
            b.iter_batched(
                || (),
                |()| loaded(&endpoints, &policies),
                BatchSize::PerIteration,
            );
        });
        let mut calc = loaded(&endpoints, &policies);
        let states = [endpoint(7, 1), endpoint(7, 2)];
        let mut turn = 0;
        group.bench_function("remote endpoint relabelled", |b| {
            b.iter(|| {
                turn ^= 1;
                calc.update(&states[turn]);
                black_box(calc.flush())
            });
        });
        let changed = [policy(0), policy(200)].map(|p| {
            let AnyResource::GlobalNetworkPolicy(mut p) = p else {
                unreachable!("made above")
            };
            p.metadata.name = "p-0".to_owned();
            AnyResource::from(p)
        });
        group.bench_function("policy changed", |b| {
            b.iter(|| {
                turn ^= 1;
                calc.update(&changed[turn]);
                black_box(calc.flush())
            });
        });
        group.finish();
    }
}

criterion_group!(benches, matching, relabel, new_selector, calculation);
criterion_main!(benches);
