use proptest::prelude::*;
use serde_json::json;

use super::*;

fn yaml(text: &str) -> Value {
    read_yaml(text).unwrap().value()
}

fn refused(text: &str) -> (usize, String) {
    let error = read_yaml(text).unwrap_err();
    (error.line, error.reason)
}

#[test]
fn words_and_numbers_mean_what_the_established_reader_takes_them_for() {
    for (text, value) in [
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("~", json!(null)),
        ("''", json!("")),
        ("'yes'", json!("yes")),
        ("5", json!(5)),
        ("-5", json!(-5)),
        ("+5", json!(5)),
        ("010", json!(8)),
        ("0x1F", json!(31)),
        ("0o17", json!(15)),
        ("0b11", json!(3)),
        ("1_000", json!(1000)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000.0)),
        (".5", json!(0.5)),
        ("18446744073709551615", json!(u64::MAX)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("1:30", json!("1:30")),
        ("1.2.3.4", json!("1.2.3.4")),
        ("10.0.0.0/8", json!("10.0.0.0/8")),
        ("-", json!([null])),
        (".inf", json!(".inf")),
        ("1e999", json!("1e999")),
        ("0x", json!("0x")),
        ("--1", json!("--1")),
        ("2001-01-01", json!("2001-01-01")),
        ("!!str 5", json!("5")),
        ("! 5", json!("5")),
        ("!!int '5'", json!(5)),
        ("!own 5", json!("5")),
    ] {
        assert_eq!(yaml(text), value, "{text}");
    }
}

#[test]
fn members_are_merged_where_they_are_not_set() {
    let text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 0\n  '<<': text\n";
    assert_eq!(
        yaml(text)["c"],
        json!({"x": 0, "y": 2, "z": 4, "<<": "text"})
    );
    assert_eq!(
        refused("a:\n  <<: 5\n"),
        (2, "\"<<\" takes a map or a list of maps".to_owned())
    );
}

#[test]
fn every_value_knows_its_line() {
    let text = "kind: A\nmetadata:\n  labels:\n    a.b/c: x\n    a: y\nspec:\n  rules:\n  - \
                action: Allow\n\n  - {action:\n      Deny}\n";
    let node = read_yaml(text).unwrap();
    for (path, line) in [
        ("kind", 1),
        ("metadata", 2),
        ("metadata.labels.a.b/c", 4),
        ("metadata.labels.a", 5),
        ("spec.rules[0].action", 8),
        ("spec.rules[1].action", 10),
        ("spec.rules[1]", 10),
        // What is not there is told with what it should stand in.
        ("spec.rules[1].protocol", 10),
        ("spec.order", 6),
        ("status", 1),
        ("", 1),
    ] {
        assert_eq!(node.line_of(path), line, "{path}");
    }
}

#[test]
fn json_knows_its_lines_too() {
    let text =
        "{\"a\": [1,\n 2], \"b}\\\"\": {\n\"c\": \"x\\\\\"},\n\"d\": 1.50}\n\n{\"e\":\ntrue}";
    let nodes = read_json(text).unwrap();
    assert_eq!(
        nodes[0].value(),
        json!({"a": [1, 2], "b}\"": {"c": "x\\"}, "d": 1.5})
    );
    assert_eq!(nodes[1].value(), json!({"e": true}));
    for (path, line) in [("a[1]", 2), ("b}\".c", 3), ("d", 4)] {
        assert_eq!(nodes[0].line_of(path), line, "{path}");
    }
    assert_eq!(nodes[1].line_of("e"), 6);
    assert_eq!(nodes[0].text_of("a[0]"), Some("1"));
    assert_eq!(nodes[0].text_of("d"), None);
    assert_eq!(read_json("{\"a\": 1} b"), None);
    assert_eq!(read_json("a: 1"), None);
}

#[test]
fn members_that_stand_twice_are_found_everywhere() {
    let text = "a: 1\nb:\n- c: 1\n  d: {e: 1, e: 2}\n  c: 2\na: 3\n";
    let node = read_yaml(text).unwrap();
    let found: Vec<_> = node.duplicates().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "b[0].d.e (line 4): found a second time (first on line 4), allowed: each name once",
            "b[0].c (line 5): found a second time (first on line 3), allowed: each name once",
            "a (line 6): found a second time (first on line 1), allowed: each name once",
        ]
    );
    assert_eq!(node.value()["a"], json!(1));
    let node = &read_json("{\"a\": 1,\n\"a\": 2}").unwrap()[0];
    assert_eq!(node.duplicates().len(), 1);
}

#[test]
fn aliases_and_nesting_are_bounded() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..30 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert_eq!(
        refused(&laughs).1,
        "aliases expand to more than 100000 values"
    );
    let mut deep = "a0: &a0 []\n".to_owned();
    for i in 1..200 {
        deep.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert_eq!(refused(&deep).1, "values are nested deeper than 100");
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    read_yaml(&format!("{open}{close}")).unwrap_err();
    assert_eq!(read_json(&format!("{open}{close}")), None);
    assert_eq!(
        refused("a: &a [*a]"),
        (
            1,
            "an alias stands within the value that it names".to_owned()
        )
    );
    assert_eq!(refused("a:\n  ? [b]\n  : c\n").0, 2);
    assert_eq!(refused("a: *b").0, 1);
}

#[test]
fn lines_count_whatever_ends_them() {
    let node = read_yaml("a: 1\r\nb: |\r\n  text\r\n  more\r\nc: 2\r\n").unwrap();
    assert_eq!(node.line_of("c"), 5);
    assert_eq!(node.value()["b"], json!("text\nmore\n"));
}

proptest! {
    #[test]
    fn any_json_is_read_back_with_its_lines(text in "\\PC{0,40}", numbers in prop::collection::vec(any::<f64>(), 0..5)) {
        let value = json!({"text": text, "numbers": numbers, text.clone(): [1, {"a": null}]});
        for printed in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let nodes = read_json(&printed).unwrap();
            prop_assert_eq!(nodes.len(), 1);
            prop_assert_eq!(nodes[0].value(), serde_json::from_str::<Value>(&printed).unwrap());
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in "[-\\[\\]{}:,&*!|>'\"%#?ab1<~ \n]{0,60}") {
        match read_yaml(&text) {
            Ok(node) => prop_assert!(node.line() > 0 && node.value() == node.value()),
            Err(error) => prop_assert!(!error.reason.is_empty()),
        }
        for node in read_json(&text).into_iter().flatten() {
            prop_assert!(node.line() > 0);
        }
    }
}
