use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Selector {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn canonical_form_is_as_specified() {
    let cases = [
        ("", "all()"),
        (" \t", "all()"),
        ("all( )", "all()"),
        ("global(\t)", "global()"),
        ("a == 'b'", "a == \"b\""),
        ("a=='b'&&c==\"d\"", "(a == \"b\" && c == \"d\")"),
        ("a=='b'||c!='d'", "(a == \"b\" || c != \"d\")"),
        (
            "a == 'x' || b == 'y' && c == 'z'",
            "(a == \"x\" || (b == \"y\" && c == \"z\"))",
        ),
        (
            "(a == 'x' || b == 'y') && c == 'z'",
            "((a == \"x\" || b == \"y\") && c == \"z\")",
        ),
        ("(((has(a))))", "has(a)"),
        ("has( a/b.c-d_e )", "has(a/b.c-d_e)"),
        ("a in {'z','a',\"a\",}", "a in {\"a\", \"z\"}"),
        ("a in{}", "a in {}"),
        ("a notin {'b'}", "a not in {\"b\"}"),
        ("a not   in {'b'}", "a not in {\"b\"}"),
        ("a startswith 'b'", "a starts with \"b\""),
        ("a starts with 'b'", "a starts with \"b\""),
        ("a endswith'b'", "a ends with \"b\""),
        ("a contains 'b'", "a contains \"b\""),
        ("a == 'say \"hi\"'", "a == 'say \"hi\"'"),
        ("!has(a) && b == 'c'", "(!has(a) && b == \"c\")"),
        ("! ! !has(a)", "!has(a)"),
        ("!!has(a)", "has(a)"),
        ("!(!has(a))", "has(a)"),
        ("!(a == 'b' || has(c))", "!(a == \"b\" || has(c))"),
        ("in in {'x'}", "in in {\"x\"}"),
        ("all == 'x'", "all == \"x\""),
        (
            "has == 'x' && not not in {'y'}",
            "(has == \"x\" && not not in {\"y\"})",
        ),
        ("-./_ == 'ü \\n'", "-./_ == \"ü \\n\""),
    ];
    for (text, canonical) in cases {
        assert_eq!(parse(text).canonical(), canonical, "{text}");
    }
}

#[test]
fn errors_name_the_column_and_what_was_expected() {
    let cases = [
        ("a", 2, "behind the label", "the end"),
        ("a = 'b'", 3, "behind the label", "= 'b'"),
        ("a == b", 6, "a string", "\"b\""),
        ("a == 'b", 6, "ends with the quote", "'b"),
        ("a == 'ü' x", 10, "&&, ||", "x"),
        ("a == 'b' &&", 12, "a label", "the end"),
        ("a == 'b'\n", 9, "the end", "\\n"),
        ("(a == 'b'", 10, "\")\"", "the end"),
        ("has (a)", 5, "behind the label", "(a)"),
        ("has()", 5, "inside has", ")"),
        ("has(a b)", 7, "\")\"", "b)"),
        ("all(x)", 5, "\")\"", "x)"),
        ("a in {'b' 'c'}", 11, "\",\"", "'c'"),
        ("a in 'b'", 6, "\"{\"", "'b'"),
        ("a in {,}", 7, "a string", ",}"),
        ("a IN {'b'}", 3, "behind the label", "IN"),
        ("a\u{a0}== 'b'", 2, "behind the label", "=="),
        ("()", 2, "a label", ")"),
        ("!", 2, "a label", "the end"),
    ];
    for (text, column, expected, found) in cases {
        let error = text.parse::<Selector>().expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.expected.contains(expected), "{text}: {error}");
        assert!(error.found.contains(found), "{text}: {error}");
    }
}

#[test]
fn labels_longer_than_512_characters_are_refused() {
    let long = "x".repeat(MAX_LABEL_CHARS);
    parse(&format!("has({long})"));
    parse(&format!("{long} == 'v'"));
    let error = format!("has({long}y)").parse::<Selector>().unwrap_err();
    assert_eq!(
        (error.column, error.expected),
        (5, "a label of at most 512 characters")
    );
}

#[test]
fn nesting_is_bounded_but_negation_is_not_nesting() {
    let nested = |n: usize| format!("{}has(a){}", "(".repeat(n), ")".repeat(n));
    parse(&nested(MAX_DEPTH));
    assert_eq!(
        nested(MAX_DEPTH + 1)
            .parse::<Selector>()
            .unwrap_err()
            .column,
        MAX_DEPTH + 1
    );
    assert!("(".repeat(1 << 20).parse::<Selector>().is_err());
    assert!("!(".repeat(1 << 19).parse::<Selector>().is_err());
    assert_eq!(
        parse(&format!("{}has(a)", "!".repeat(100_001))).canonical(),
        "!has(a)"
    );
    assert!(
        " ".repeat(MAX_SELECTOR_BYTES + 1)
            .parse::<Selector>()
            .is_err()
    );
}

#[test]
fn missing_labels_satisfy_only_the_negative_operators() {
    let none = labels(&[]);
    for text in [
        "a == ''",
        "a contains ''",
        "a starts with ''",
        "a ends with ''",
        "a in {''}",
        "has(a)",
    ] {
        assert!(!parse(text).matches(&none), "{text}");
    }
    for text in [
        "a != 'x'",
        "a not in {'x'}",
        "a not in {}",
        "!has(a)",
        "all()",
        "global()",
    ] {
        assert!(parse(text).matches(&none), "{text}");
    }
}

#[test]
fn present_labels_are_compared_byte_by_byte() {
    let some = labels(&[("a", "web-1"), ("b", "")]);
    for text in [
        "a == 'web-1'",
        "a != 'web-2'",
        "a contains 'b-'",
        "a starts with 'we'",
        "a ends with '-1'",
        "a in {'x', 'web-1'}",
        "a not in {'x'}",
        "has(b)",
        "b == ''",
        "b contains ''",
        "!(a == 'x') && has(a)",
        "a == 'x' || b == ''",
        "!a == 'x'",
    ] {
        assert!(parse(text).matches(&some), "{text}");
    }
    for text in [
        "a == 'WEB-1'",
        "a != 'web-1'",
        "a contains 'x'",
        "a starts with 'eb'",
        "a ends with '1-'",
        "a in {}",
        "a not in {'web-1'}",
        "!has(b)",
        "a == 'web-1' && b == 'x'",
        "!all()",
    ] {
        assert!(!parse(text).matches(&some), "{text}");
    }
}

#[test]
fn uid_depends_on_the_meaning_not_the_spelling() {
    let uid = parse("a == 'b' && c in {'y','x'}").uid();
    assert_eq!(uid, parse("( a==\"b\" && (c in {'x', 'y', 'y',}) )").uid());
    assert_ne!(uid, parse("a == 'b' && c in {'y'}").uid());
    assert_eq!(uid.len(), "s:".len() + 38);
    // Computed apart: printf 's:all()' | openssl dgst -sha224 -binary | basenc --base64url
    assert_eq!(parse("").uid(), ALL_UID);
}

const ALL_UID: &str = "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug";

/// Evaluation written the other way round: the set of labels is searched, negatives are explicit.
fn naive(expr: &Expr, labels: &BTreeMap<String, String>) -> bool {
    let value = |key: &str| {
        labels
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.clone())
    };
    match expr {
        Expr::All | Expr::Global => true,
        Expr::Has(k) => labels.keys().any(|key| **key == **k),
        Expr::Equals(k, v) => value(k) == Some(v.to_string()),
        Expr::NotEquals(k, v) => value(k) != Some(v.to_string()),
        Expr::Contains(k, v) => value(k).is_some_and(|x| x.split(&**v).count() > 1),
        Expr::StartsWith(k, v) => value(k).is_some_and(|x| x.strip_prefix(&**v).is_some()),
        Expr::EndsWith(k, v) => value(k).is_some_and(|x| x.strip_suffix(&**v).is_some()),
        Expr::In(k, vs) => value(k).is_some_and(|x| vs.iter().any(|v| **v == *x)),
        Expr::NotIn(k, vs) => value(k).is_none_or(|x| vs.iter().all(|v| **v != *x)),
        Expr::Not(e) => !naive(e, labels),
        Expr::And(es) => es.iter().fold(true, |so_far, e| naive(e, labels) & so_far),
        Expr::Or(es) => es.iter().fold(false, |so_far, e| naive(e, labels) | so_far),
    }
}

pub(crate) fn expr_strategy() -> impl Strategy<Value = Expr> {
    let key =
        || prop::sample::select(vec!["a", "b", "in", "has", "x.y/z"]).prop_map(Box::<str>::from);
    let value = || {
        prop::sample::select(vec!["", "1", "12", "2", "it's", "\"q\"", "ü"])
            .prop_map(Box::<str>::from)
    };
    let values = || prop::collection::vec(value(), 0..4).prop_map(sorted);
    let leaf = prop_oneof![
        Just(Expr::All),
        Just(Expr::Global),
        key().prop_map(Expr::Has),
        (key(), value()).prop_map(|(k, v)| Expr::Equals(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::NotEquals(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Expr::EndsWith(k, v)),
        (key(), values()).prop_map(|(k, v)| Expr::In(k, v)),
        (key(), values()).prop_map(|(k, v)| Expr::NotIn(k, v)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expr::negated),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

pub(crate) fn labels_strategy() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop::sample::select(vec!["a", "b", "in", "has", "x.y/z"]).prop_map(str::to_owned);
    let value = prop::sample::select(vec!["", "1", "12", "2", "it's", "\"q\"", "ü"])
        .prop_map(str::to_owned);
    prop::collection::btree_map(key, value, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_canonical_form_parses_to_the_same_tree(expr in expr_strategy()) {
        let parsed: Selector = expr.to_string().parse().unwrap();
        prop_assert_eq!(parsed.expr(), &expr);
        prop_assert_eq!(parsed.canonical(), expr.to_string());
    }

    #[test]
    fn evaluation_agrees_with_a_naive_evaluator(expr in expr_strategy(), labels in labels_strategy()) {
        prop_assert_eq!(expr.matches(&labels), naive(&expr, &labels));
    }

    #[test]
    fn any_text_is_parsed_or_refused_with_a_column_inside_it(text in any::<String>()) {
        if let Err(error) = text.parse::<Selector>() {
            prop_assert!(error.column <= text.chars().count() + 1);
        }
    }

    #[test]
    fn texts_made_of_tokens_never_panic_and_keep_their_meaning(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "a", "in", "not in", "has(", "all()", "(", ")", "!", "&&", "||", "==", "!=", "{", "}", ",",
            "'x'", "\"y\"", " ", "\t", "contains", "starts with", "'", "\n", "ü",
        ]), 0..16),
        labels in labels_strategy(),
    ) {
        if let Ok(selector) = tokens.concat().parse::<Selector>() {
            let again: Selector = selector.canonical().parse().unwrap();
            prop_assert_eq!(again.matches(&labels), selector.matches(&labels));
        }
    }
}
