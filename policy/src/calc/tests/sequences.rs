//! Sequences of states: whatever way leads to a state, what has been emitted adds up to that state, and
//! every step on the way keeps the promised order.

use proptest::prelude::*;
use serde_json::Value;

use super::arbitrary::any_resource;
use super::checker::Checker;
use super::*;

type State = Vec<AnyResource>;

/// When to flush on the way from one state to the next.
#[derive(Clone, Copy, Debug)]
enum FlushAt {
    EachState,
    EachResource,
    End,
}

/// Drives a calculation through states.
struct Driver {
    calc: Calc,
    checker: Checker,
    present: BTreeMap<ResourceKey, AnyResource>,
}

impl Driver {
    fn new() -> Self {
        Self {
            calc: Calc::new(Scope::Node("n1".to_owned())),
            checker: Checker::default(),
            present: BTreeMap::new(),
        }
    }

    fn flush(&mut self) {
        let updates = self.calc.flush();
        self.checker.take(updates);
        let fresh = view_of(Scope::Node("n1".to_owned()), self.present.values());
        assert_eq!(self.checker.view, fresh);
        assert_eq!(self.calc.flush(), [], "a flush without news says nothing");
    }

    fn update(&mut self, resource: &AnyResource) {
        self.calc.update(resource);
        self.present.insert(resource.key(), resource.clone());
    }

    fn remove(&mut self, key: &ResourceKey) {
        self.calc.remove(key);
        self.present.remove(key);
    }

    /// Goes to `state`: removals first, or last. An unchanged resource is given again, as a resync does.
    fn go(&mut self, state: &[AnyResource], flush: FlushAt, removals_first: bool) {
        let keep: BTreeSet<_> = state.iter().map(AnyResource::key).collect();
        let gone: Vec<_> = self
            .present
            .keys()
            .filter(|k| !keep.contains(*k))
            .cloned()
            .collect();
        let mut steps: Vec<(ResourceKey, Option<&AnyResource>)> =
            gone.into_iter().map(|k| (k, None)).collect();
        let updates = state.iter().map(|r| (r.key(), Some(r)));
        let at = if removals_first { steps.len() } else { 0 };
        steps.splice(at..at, updates);
        for (key, resource) in steps {
            match resource {
                Some(resource) => self.update(resource),
                None => self.remove(&key),
            }
            if matches!(flush, FlushAt::EachResource) {
                self.flush();
            }
        }
        if matches!(flush, FlushAt::EachState) {
            self.flush();
        }
    }
}

/// Every way through a list of states that is worth a look.
fn expansions(states: &[State]) -> Vec<Vec<State>> {
    let forward = states.to_vec();
    let backward: Vec<_> = states.iter().rev().cloned().collect();
    let with_empties = |list: &[State]| list.iter().flat_map(|s| [s.clone(), Vec::new()]).collect();
    let resources_reversed = states
        .iter()
        .map(|s| s.iter().rev().cloned().collect())
        .collect();
    let there_and_back = forward.iter().chain(&backward).cloned().collect();
    vec![
        with_empties(&forward),
        with_empties(&backward),
        forward,
        backward,
        resources_reversed,
        there_and_back,
    ]
}

fn run(states: &[State]) {
    for list in expansions(states) {
        for flush in [FlushAt::EachState, FlushAt::EachResource, FlushAt::End] {
            for removals_first in [true, false] {
                let mut driver = Driver::new();
                for state in &list {
                    driver.go(state, flush, removals_first);
                }
                driver.flush();
                driver.go(&[], flush, removals_first);
                driver.flush();
                assert_eq!(
                    driver.checker.view,
                    View::default(),
                    "nothing is left behind"
                );
            }
        }
    }
}

fn endpoint(name: &str, ip: &str, app: &str) -> AnyResource {
    wep(name, ip, json!({"app": app}), json!(["kns.x"]))
}

fn namespace_profile(env: &str) -> AnyResource {
    profile(
        "kns.x",
        json!({
            "ingress": [{"action": "Allow", "source": {"selector": "app == 'b'"}}],
            "labelsToApply": {"pcns.env": env},
        }),
    )
}

fn from_app(name: &str, order: f64, app: &str) -> AnyResource {
    np(
        name,
        json!({"order": order, "selector": "app == 'a'", "ingress": [
            {"action": "Allow", "source": {"selector": format!("app == '{app}'")}},
        ]}),
    )
}

#[test]
fn endpoints_come_go_and_change() {
    let policy = from_app("x/p", 1.0, "b");
    run(&[
        vec![endpoint("x/a", "10.0.0.1", "a")],
        vec![endpoint("x/a", "10.0.0.1", "a"), policy.clone()],
        vec![
            endpoint("x/a", "10.0.0.1", "a"),
            endpoint("x/b", "10.0.0.2", "b"),
            policy.clone(),
        ],
        // The address moves on, and the label with it.
        vec![
            endpoint("x/a", "10.0.0.2", "b"),
            endpoint("x/b", "10.0.0.1", "a"),
            policy.clone(),
        ],
        // Two endpoints share an address.
        vec![
            endpoint("x/b", "10.0.0.1", "b"),
            endpoint("x/c", "10.0.0.1", "b"),
            endpoint("x/a", "10.0.0.9", "a"),
            policy.clone(),
        ],
        vec![
            endpoint("x/c", "10.0.0.1", "b"),
            endpoint("x/a", "10.0.0.9", "a"),
            policy,
        ],
        vec![wep_with(
            "x/a",
            "10.0.0.1",
            json!({"app": "a"}),
            json!({"node": "n2"}),
        )],
    ]);
}

#[test]
fn policies_reorder_retier_and_share_sets() {
    let a = endpoint("x/a", "10.0.0.1", "a");
    let b = endpoint("x/b", "10.0.0.2", "b");
    run(&[
        vec![
            a.clone(),
            b.clone(),
            from_app("x/p", 1.0, "b"),
            from_app("x/q", 2.0, "b"),
        ],
        vec![
            a.clone(),
            b.clone(),
            from_app("x/p", 3.0, "b"),
            from_app("x/q", 2.0, "c"),
        ],
        vec![
            a.clone(),
            b.clone(),
            from_app("x/q", 2.0, "b"),
            tier("t", json!({"order": 1})),
        ],
        vec![
            a.clone(),
            b.clone(),
            gnp("p", json!({"tier": "t"})),
            tier("t", json!({"order": 1})),
        ],
        vec![a.clone(), b.clone(), gnp("p", json!({"tier": "t"}))],
        vec![
            a.clone(),
            b.clone(),
            gnp("p", json!({"tier": "t"})),
            from_app("x/q", 2.0, "b"),
            tier("t", json!({"order": 2e6, "defaultAction": "Pass"})),
        ],
        vec![a, b, gnp("p", json!({"selector": "nonsense"}))],
    ]);
}

#[test]
fn profiles_come_and_go_under_their_endpoints() {
    let by_env = gnp(
        "p",
        json!({"selector": "pcns.env == 'prod'", "ingress": [
            {"action": "Allow", "source": {"namespaceSelector": "env == 'prod'"}},
            {"action": "Allow", "source": {"namespaceSelector": "env != 'prod'", "selector": "!has(zone)"}},
        ]}),
    );
    let a = endpoint("x/a", "10.0.0.1", "a");
    let set = network_set("x/s", json!({}), json!(["192.0.2.0/24"]));
    run(&[
        vec![a.clone(), by_env.clone()],
        vec![
            a.clone(),
            by_env.clone(),
            namespace_profile("prod"),
            set.clone(),
        ],
        vec![
            a.clone(),
            by_env.clone(),
            namespace_profile("dev"),
            set.clone(),
        ],
        vec![by_env.clone(), namespace_profile("prod"), set.clone()],
        vec![a, by_env, set],
    ]);
}

#[test]
fn endpoints_of_hosts_come_go_and_change() {
    let host = |interface: &str, role: &str| {
        let spec = json!({"interfaceName": interface, "profiles": ["kns.x"]});
        host_endpoint_with("h", json!({"role": role}), spec)
    };
    let edge = |more: Value| {
        let mut spec = json!({"selector": "role == 'edge'", "applyOnForward": true, "ingress": [
            {"action": "Allow", "source": {"selector": "app == 'a'"}},
        ]});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        gnp("edge", spec)
    };
    let a = endpoint("x/a", "10.0.0.1", "a");
    run(&[
        vec![host("eth0", "edge")],
        vec![host("eth0", "edge"), edge(json!({})), a.clone()],
        vec![
            host("eth0", "edge"),
            edge(json!({"doNotTrack": true})),
            a.clone(),
        ],
        vec![host("*", "edge"), edge(json!({"doNotTrack": true}))],
        vec![
            host("*", "core"),
            edge(json!({"preDNAT": true})),
            namespace_profile("prod"),
        ],
        vec![host("*", "edge"), edge(json!({"preDNAT": true})), a],
    ]);
}

#[test]
fn teardown_in_any_order_removes_nothing_that_is_referred_to() {
    let all = [
        endpoint("x/a", "10.0.0.1", "a"),
        from_app("x/p", 1.0, "b"),
        namespace_profile("prod"),
        gnp(
            "g",
            json!({"tier": "t", "ingress": [
                {"action": "Pass", "protocol": "TCP", "source": {"ports": ["web"], "selector": "app == 'b'"}},
            ]}),
        ),
        tier("t", json!({"order": 1})),
    ];
    for first in 0..all.len() {
        for step in 1..all.len() {
            let mut driver = Driver::new();
            all.iter().for_each(|resource| driver.update(resource));
            driver.flush();
            // 5 is prime: every step visits every resource.
            for i in 0..all.len() {
                driver.remove(&all[(first + i * step) % all.len()].key());
                driver.flush();
            }
            assert_eq!(driver.checker.view, View::default());
        }
    }
}

#[test]
fn what_comes_and_goes_between_two_flushes_was_never_there() {
    let mut driver = Driver::new();
    let (a, p) = (endpoint("x/a", "10.0.0.1", "a"), from_app("x/p", 1.0, "b"));
    driver.update(&a);
    driver.update(&p);
    driver.remove(&a.key());
    driver.remove(&p.key());
    assert_eq!(driver.calc.flush(), []);
    driver.update(&a);
    driver.flush();
    driver.remove(&a.key());
    driver.update(&a);
    assert_eq!(driver.calc.flush(), []);
}

#[test]
fn an_unchanged_resource_given_again_changes_nothing() {
    let mut driver = Driver::new();
    let all = [
        endpoint("x/a", "10.0.0.1", "a"),
        from_app("x/p", 1.0, "b"),
        namespace_profile("prod"),
    ];
    for _ in 0..2 {
        all.iter().for_each(|resource| driver.update(resource));
        let updates = driver.calc.flush();
        driver.checker.take(updates);
    }
    all.iter().for_each(|resource| driver.update(resource));
    assert_eq!(driver.calc.flush(), []);
}

#[derive(Clone, Debug)]
enum Op {
    Update(Box<AnyResource>),
    Remove(prop::sample::Index),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any_resource().prop_map(|r| Op::Update(Box::new(r))),
        3 => any::<prop::sample::Index>().prop_map(Op::Remove),
        3 => Just(Op::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn only_the_final_state_counts(ops in proptest::collection::vec(op(), 1..50)) {
        let mut driver = Driver::new();
        for op in ops {
            match op {
                Op::Update(resource) => driver.update(&resource),
                Op::Remove(at) if !driver.present.is_empty() => {
                    let keys: Vec<_> = driver.present.keys().cloned().collect();
                    driver.remove(at.get(&keys));
                }
                Op::Remove(_) => {}
                Op::Flush => driver.flush(),
            }
        }
        driver.flush();
        driver.go(&[], FlushAt::EachResource, true);
        prop_assert_eq!(&driver.checker.view, &View::default());
    }
}
