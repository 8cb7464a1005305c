//! Whatever is stored under the name of a resource is calculated without a panic, and settles.

use margay_model::stored::encode_stored;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use super::arbitrary::{any_packet, any_resource};
use super::*;

/// What somebody may have put in place of a value.
fn nonsense() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec![
            json!(null),
            json!([]),
            json!({}),
            json!(""),
            json!(-1),
            json!(0),
            json!(65536),
            json!(1e308),
            json!(true),
            json!("0.0.0.0/0"),
            json!("::/0"),
            json!("90:80"),
            json!("!!!!has("),
            json!("a in {'1'} || !b"),
            json!([[], [null]]),
        ]),
        any::<String>().prop_map(Value::String),
        any::<f64>().prop_map(|number| json!(number)),
    ]
}

/// Every place in a value, each by the way to it.
fn places(value: &Value, way: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            places(member, &format!("{way}/{name}"), found);
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, item)| places(item, &format!("{way}/{i}"), found)),
        _ => {}
    }
    found.push(way.to_owned());
}

/// The resource with some values replaced, as far as it can still be read.
fn damaged(resource: &AnyResource, damage: Vec<(Index, Value)>) -> Option<AnyResource> {
    let mut value: Value = serde_json::from_slice(&encode_stored(resource)).unwrap();
    for (at, nonsense) in damage {
        let mut ways = Vec::new();
        places(&value["spec"], "/spec", &mut ways);
        if let Some(place) = value.pointer_mut(&ways[at.index(ways.len())]) {
            *place = nonsense;
        }
    }
    let text = serde_json::to_vec(&value).unwrap();
    margay_model::stored::decode_stored(&resource.key(), &text).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_resources_are_calculated_and_settle(
        resources in vec((any_resource(), vec((any::<Index>(), nonsense()), 0..3)), 1..12),
        packet in any_packet(),
    ) {
        let mut calc = Calc::new(Scope::Cluster);
        let mut checker = checker::Checker::default();
        for (resource, damage) in resources {
            if let Some(resource) = damaged(&resource, damage) {
                calc.update(&resource);
            }
            checker.take(calc.flush());
            prop_assert_eq!(calc.flush(), vec![]);
        }
        let view = &checker.view;
        for plan in view.endpoints.values() {
            for direction in [Direction::Ingress, Direction::Egress] {
                let _verdict = verdict(view, plan, direction, &packet);
            }
        }
    }
}
