use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::selector::Expr;
use crate::selector::tests::{expr_strategy, labels_strategy};

type Labels = BTreeMap<String, String>;

fn set(index: &mut LabelIndex, id: u32, labels: &[(&str, &str)], parents: &[&str]) {
    index.set_item(ItemId(id), labels.iter().copied(), parents.iter().copied());
}

fn add(index: &mut LabelIndex, text: &str) -> SelectorId {
    index.add_selector(&text.parse().unwrap())
}

fn items(index: &LabelIndex, id: SelectorId) -> Vec<u32> {
    index.items_of(id).map(|item| item.0).collect()
}

fn changes(index: &mut LabelIndex) -> Vec<(u32, SelectorId, bool)> {
    index
        .take_changes()
        .into_iter()
        .map(|c| (c.item.0, c.selector, c.matches))
        .collect()
}

#[test]
fn relabelling_tells_only_what_started_and_stopped() {
    let mut index = LabelIndex::default();
    let web = add(&mut index, "app == 'web'");
    let not_web = add(&mut index, "app != 'web'");
    let everything = add(&mut index, "all()");
    set(&mut index, 1, &[("app", "web")], &[]);
    assert_eq!(changes(&mut index), [(1, web, true), (1, everything, true)]);
    set(&mut index, 1, &[("app", "web"), ("env", "x")], &[]);
    assert_eq!(changes(&mut index), []);
    set(&mut index, 1, &[("app", "db")], &[]);
    assert_eq!(changes(&mut index), [(1, web, false), (1, not_web, true)]);
    index.remove_item(ItemId(1));
    assert_eq!(
        changes(&mut index),
        [(1, not_web, false), (1, everything, false)]
    );
}

#[test]
fn own_labels_hide_inherited_ones_and_earlier_parents_later_ones() {
    let mut index = LabelIndex::default();
    set(&mut index, 1, &[("a", "own")], &["p", "q"]);
    set(&mut index, 2, &[], &["p", "q"]);
    set(&mut index, 3, &[], &["q"]);
    index.set_parent("p", [("a", "p")]);
    index.set_parent("q", [("a", "q"), ("b", "q")]);
    let (own, p, q) = (
        add(&mut index, "a=='own'"),
        add(&mut index, "a=='p'"),
        add(&mut index, "a=='q'"),
    );
    let b = add(&mut index, "has(b)");
    assert_eq!((items(&index, own), items(&index, p)), (vec![1], vec![2]));
    assert_eq!(
        (items(&index, q), items(&index, b)),
        (vec![3], vec![1, 2, 3])
    );
    index.take_changes();
    index.set_parent("p", []);
    assert_eq!(changes(&mut index), [(2, p, false), (2, q, true)]);
}

#[test]
fn equal_selectors_are_one_and_live_until_their_last_use() {
    let mut index = LabelIndex::default();
    set(&mut index, 1, &[("a", "1")], &[]);
    let first = add(&mut index, "a == '1'");
    assert_eq!(first, add(&mut index, "(a=='1')"));
    index.release_selector(first);
    assert_eq!(items(&index, first), [1]);
    index.release_selector(first);
    assert_eq!(index.selectors_of(ItemId(1)).count(), 0);
}

#[test]
fn selectors_are_posted_where_few_items_are() {
    let mut index = LabelIndex::default();
    for i in 0..100 {
        add(
            &mut index,
            &format!("orch == 'k8s' && role == 'r{i}' && has(x)"),
        );
        add(
            &mut index,
            &format!("orch != 'k8s' || role not in {{'r{i}'}}"),
        );
    }
    let labels = [("orch", "k8s"), ("role", "r5"), ("x", "")];
    let labels = index.acquire_labels(labels);
    let looked_at = index.postings.candidates(&labels).count();
    assert!(looked_at < 10, "{looked_at} of 200 selectors are looked at");
}

#[test]
fn tests_of_a_text_are_posted_at_the_values_that_pass_them() {
    let mut index = LabelIndex::default();
    set(&mut index, 1, &[("app", "web-1"), ("env", "prod")], &[]);
    set(&mut index, 2, &[("app", "db-1"), ("env", "prod")], &[]);
    let web = add(&mut index, "app starts with 'web' && env == 'prod'");
    for i in 0..100 {
        add(
            &mut index,
            &format!("app starts with 'db-{i}' && env == 'prod'"),
        );
    }
    assert_eq!(items(&index, web), [1]);
    let labels = index.acquire_labels([("app", "web-1"), ("env", "prod")]);
    assert!(index.postings.candidates(&labels).count() < 5);
    // Values that come later are held against the tests as well, and those that go are forgotten.
    set(&mut index, 3, &[("app", "web-2"), ("env", "prod")], &[]);
    set(&mut index, 1, &[("app", "cache"), ("env", "prod")], &[]);
    assert_eq!(items(&index, web), [3]);
}

#[test]
fn a_crowd_of_items_changes_place_without_a_trace() {
    let mut index = LabelIndex::default();
    let (red, not_red) = (
        add(&mut index, "color == 'red'"),
        add(&mut index, "color != 'red'"),
    );
    let color = |i: u32| if i.is_multiple_of(3) { "red" } else { "blue" };
    for i in 0..1000 {
        set(&mut index, i, &[("color", color(i))], &[]);
    }
    let expected: Vec<u32> = (0..1000).filter(|i| color(*i) == "red").collect();
    assert_eq!(items(&index, red), expected);
    let late = add(&mut index, "!(color in {'red', 'green'}) && has(color)");
    assert_eq!(items(&index, late), items(&index, not_red));
    for i in 0..999 {
        index.remove_item(ItemId(i));
    }
    assert_eq!(
        (items(&index, red), items(&index, not_red)),
        (vec![999], vec![])
    );
}

#[test]
fn an_emptied_index_keeps_no_strings() {
    let mut index = LabelIndex::default();
    index.set_parent("p", [("a", "1"), ("b", "2")]);
    set(&mut index, 1, &[("a", "3")], &["p"]);
    let selector = add(&mut index, "a in {'1','2'} && !(b contains 'x') || has(c)");
    index.release_selector(selector);
    index.remove_item(ItemId(1));
    index.set_parent("p", []);
    assert_eq!(index.strings.len(), 0);
    assert!(index.postings.is_empty());
    assert!(index.parents.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    SetItem(u32, Labels, Vec<&'static str>),
    RemoveItem(u32),
    SetParent(&'static str, Labels),
    AddSelector(Expr),
    ReleaseSelector(prop::sample::Index),
}

fn op_strategy() -> impl Strategy<Value = Op> {
    let parent = || prop::sample::select(vec!["p", "q", "r"]);
    prop_oneof![
        4 => (0..6u32, labels_strategy(), prop::collection::vec(parent(), 0..3))
            .prop_map(|(i, l, p)| Op::SetItem(i, l, p)),
        1 => (0..6u32).prop_map(Op::RemoveItem),
        2 => (parent(), labels_strategy()).prop_map(|(p, l)| Op::SetParent(p, l)),
        3 => expr_strategy().prop_map(Op::AddSelector),
        1 => any::<prop::sample::Index>().prop_map(Op::ReleaseSelector),
    ]
}

#[derive(Default)]
struct Model {
    items: BTreeMap<u32, (Labels, Vec<&'static str>)>,
    parents: BTreeMap<&'static str, Labels>,
    selectors: Vec<(SelectorId, Selector)>,
    told: BTreeSet<(u32, SelectorId)>,
}

impl Model {
    fn matches(&self, selector: &Selector, item: u32) -> bool {
        let (own, parents) = &self.items[&item];
        let mut labels = own.clone();
        for (key, value) in parents.iter().filter_map(|p| self.parents.get(p)).flatten() {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        selector.matches(&labels)
    }

    fn expected(&self, selector: &Selector) -> Vec<u32> {
        self.items
            .keys()
            .copied()
            .filter(|i| self.matches(selector, *i))
            .collect()
    }
}

fn pairs(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))
}

fn step(index: &mut LabelIndex, model: &mut Model, op: Op) {
    match op {
        Op::SetItem(id, labels, parents) => {
            index.set_item(ItemId(id), pairs(&labels), parents.iter().copied());
            model.items.insert(id, (labels, parents));
        }
        Op::RemoveItem(id) => {
            index.remove_item(ItemId(id));
            model.items.remove(&id);
        }
        Op::SetParent(name, labels) => {
            index.set_parent(name, pairs(&labels));
            model.parents.insert(name, labels);
        }
        Op::AddSelector(expr) => {
            let selector = Selector::from_expr(expr);
            let id = index.add_selector(&selector);
            model
                .told
                .extend(index.items_of(id).map(|item| (item.0, id)));
            model.selectors.push((id, selector));
        }
        Op::ReleaseSelector(at) if !model.selectors.is_empty() => {
            let (id, _) = model.selectors.swap_remove(at.index(model.selectors.len()));
            index.release_selector(id);
            if model.selectors.iter().all(|(other, _)| *other != id) {
                model.told.retain(|(_, selector)| *selector != id);
            }
        }
        Op::ReleaseSelector(_) => {}
    }
    for change in index.take_changes() {
        let entry = (change.item.0, change.selector);
        let news = match change.matches {
            true => model.told.insert(entry),
            false => model.told.remove(&entry),
        };
        assert!(news, "{change:?} was told before");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_index_agrees_with_a_scan_after_every_step(ops in prop::collection::vec(op_strategy(), 1..40)) {
        let (mut index, mut model) = (LabelIndex::default(), Model::default());
        for op in ops {
            step(&mut index, &mut model, op);
            for (id, selector) in &model.selectors {
                let expected = model.expected(selector);
                prop_assert_eq!(&items(&index, *id), &expected);
                prop_assert_eq!(index.match_count(*id), expected.len());
                for item in model.items.keys() {
                    let listed = index.selectors_of(ItemId(*item)).any(|s| s == *id);
                    prop_assert_eq!(listed, expected.contains(item));
                    prop_assert_eq!(model.told.contains(&(*item, *id)), expected.contains(item));
                }
            }
        }
    }
}
