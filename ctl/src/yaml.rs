//! YAML for every reader: texts that an older YAML would take for a number, a time or a truth value
//! are put in quotes.

use serde_json::Value;

/// Words that some version of YAML does not read as text.
const RESERVED: [&str; 10] = [
    "null", "true", "false", "yes", "no", "on", "off", "y", "n", "~",
];

/// The value as a YAML document.
pub(crate) fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => write_map(&mut text, members, 0, false),
        Value::Array(items) if !items.is_empty() => write_list(&mut text, items, 0),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

fn pad(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// Writes members, each on its line; the first continues a line that has begun if `begun`.
fn write_map(
    text: &mut String,
    members: &serde_json::Map<String, Value>,
    indent: usize,
    begun: bool,
) {
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 || !begun {
            pad(text, indent);
        }
        text.push_str(&quoted(name));
        text.push(':');
        match value {
            Value::Object(members) if !members.is_empty() => {
                text.push('\n');
                write_map(text, members, indent + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                write_list(text, items, indent);
            }
            scalar => {
                text.push(' ');
                text.push_str(&inline(scalar));
                text.push('\n');
            }
        }
    }
}

fn write_list(text: &mut String, items: &[Value], indent: usize) {
    for item in items {
        pad(text, indent);
        text.push_str("- ");
        match item {
            Value::Object(members) if !members.is_empty() => {
                write_map(text, members, indent + 2, true);
            }
            other => {
                text.push_str(&inline(other));
                text.push('\n');
            }
        }
    }
}

/// The value on one line: a scalar, something empty, or a list in a list.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        other => flow(other),
    }
}

/// The value in the notation that YAML shares with JSON.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => in_quotes(text),
        Value::Array(_) => inline(value),
        Value::Object(members) => {
            let member =
                |(name, value): (&String, &Value)| format!("{}: {}", in_quotes(name), flow(value));
            let members: Vec<_> = members.iter().map(member).collect();
            format!("{{{}}}", members.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// The text as it is where nobody can misread it, else in quotes.
fn quoted(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        in_quotes(text)
    }
}

fn in_quotes(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            ' '..='~' => quoted.push(c),
            // What YAML counts as printable differs from what JSON does.
            other if (other as u32) <= 0xffff => {
                quoted.push_str(&format!("\\u{:04x}", other as u32));
            }
            other => quoted.push_str(&format!("\\U{:08x}", other as u32)),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    let clean = text.bytes().all(|b| (b' '..=b'~').contains(&b))
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([' ', ':']);
    let reserved = RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text));
    let first = text.bytes().next();
    let word = first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    clean && !reserved && (word || is_address(text))
}

/// Dotted or with a slash: no number, no time.
fn is_address(text: &str) -> bool {
    let digits = text
        .bytes()
        .all(|b| b.is_ascii_digit() || b == b'.' || b == b'/');
    let first = text.starts_with(|c: char| c.is_ascii_digit());
    digits && first && text.bytes().filter(|b| *b == b'.').count() == 3
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn structure_is_that_of_kubernetes_manifests() {
        let value = json!({
            "spec": {"nets": ["10.0.0.0/8", "10.0.0.1"], "rules": [{"a": 1, "b": {"c": true}}, {}],
                     "none": [], "empty": {}},
        });
        assert_eq!(
            render(&value),
            "\
spec:
  empty: {}
  nets:
  - 10.0.0.0/8
  - 10.0.0.1
  none: []
  rules:
  - a: 1
    b:
      c: true
  - {}
"
        );
    }

    #[test]
    fn texts_are_quoted_where_some_yaml_would_misread_them() {
        for (text, written) in [
            ("all()", "all()"),
            ("app == 'web' && !has(x)", "app == 'web' && !has(x)"),
            ("projectcalico.org/tier", "projectcalico.org/tier"),
            ("/run/x", "/run/x"),
            ("yes", "\"yes\""),
            ("True", "\"True\""),
            ("N", "\"N\""),
            ("22:30", "\"22:30\""),
            ("0x1f", "\"0x1f\""),
            ("1e5", "\"1e5\""),
            ("7", "\"7\""),
            ("2026-11-21T05:02:52Z", "\"2026-11-21T05:02:52Z\""),
            ("", "\"\""),
            (" a", "\" a\""),
            ("a: b", "\"a: b\""),
            ("a #b", "\"a #b\""),
            ("!a", "\"!a\""),
            ("a\n\"b\"", "\"a\\u000a\\\"b\\\"\""),
            ("é", "\"\\u00e9\""),
            ("🦀", "\"\\U0001f980\""),
        ] {
            assert_eq!(inline(&json!(text)), written);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let texts = [
            "a",
            "é\u{85}🦀\t",
            "- a",
            "a:b",
            "{",
            "[x]",
            "#",
            "'",
            "\"",
            "\\",
            "1.5",
            "~",
        ];
        let mut members = serde_json::Map::new();
        for text in texts {
            members.insert(
                text.to_owned(),
                json!([text, {"a": text, text: [[text, {text: 1}], []]}]),
            );
        }
        let value = Value::Object(members);
        assert_eq!(
            serde_norway::from_str::<Value>(&render(&value)).unwrap(),
            value
        );
    }
}
