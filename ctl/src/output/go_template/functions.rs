//! The functions of templates.

use std::cmp::Ordering;

use serde_json::Value;

use super::eval::Val;

/// Every function, in alphabetical order.
pub(super) const NAMES: [&str; 18] = [
    "and",
    "config",
    "eq",
    "ge",
    "gt",
    "index",
    "join",
    "joinAndTruncate",
    "le",
    "len",
    "lt",
    "ne",
    "not",
    "or",
    "print",
    "printf",
    "println",
    "slice",
];

/// The value of a function.
pub(super) fn call<'a>(name: &str, arguments: &[Val<'a>], asn: &str) -> Result<Val<'a>, String> {
    let fail = |reason: String| format!("{name}: {reason}");
    let result = match (name, arguments) {
        ("not", [value]) => Val::own(!value.truth()),
        ("and", [.., last]) => arguments
            .iter()
            .find(|v| !v.truth())
            .unwrap_or(last)
            .clone(),
        ("or", [.., last]) => arguments.iter().find(|v| v.truth()).unwrap_or(last).clone(),
        ("eq", [first, others @ ..]) if !others.is_empty() => Val::own(
            others
                .iter()
                .any(|other| order(first, other) == Some(Ordering::Equal)),
        ),
        ("ne", [a, b]) => Val::own(order(a, b) != Some(Ordering::Equal)),
        ("lt", [a, b]) => Val::own(ordered(a, b).map_err(fail)?.is_lt()),
        ("le", [a, b]) => Val::own(ordered(a, b).map_err(fail)?.is_le()),
        ("gt", [a, b]) => Val::own(ordered(a, b).map_err(fail)?.is_gt()),
        ("ge", [a, b]) => Val::own(ordered(a, b).map_err(fail)?.is_ge()),
        ("len", [value]) => Val::own(length(value).map_err(fail)?),
        ("index", [value, keys @ ..]) => {
            let mut value = value.clone();
            for key in keys {
                value = element(&value, key).map_err(fail)?;
            }
            value
        }
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => {
            slice(value, bounds).map_err(fail)?
        }
        ("print", _) => Val::own(print(arguments)),
        ("println", _) => {
            let texts: Vec<_> = arguments.iter().map(display).collect();
            Val::own(texts.join(" ") + "\n")
        }
        ("printf", [format, values @ ..]) => Val::own(printf(&display(format), values)),
        ("join", [items, separator]) => Val::own(join(items, &display(separator), usize::MAX)),
        ("joinAndTruncate", [items, separator, most]) => {
            let most = integer(most).and_then(|most| usize::try_from(most).ok());
            Val::own(join(
                items,
                &display(separator),
                most.filter(|m| *m > 0).unwrap_or(usize::MAX),
            ))
        }
        ("config", [what]) if display(what).eq_ignore_ascii_case("asnumber") => Val::own(asn),
        ("config", [what]) => {
            return Err(fail(format!(
                "found {:?}, allowed: asnumber",
                display(what)
            )));
        }
        _ => {
            return Err(fail(format!(
                "{} arguments are not what it takes",
                arguments.len()
            )));
        }
    };
    Ok(result)
}

/// A value as Go prints it.
pub(super) fn display(value: &Val<'_>) -> String {
    match value.value() {
        None => "<no value>".to_owned(),
        Some(value) => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(plain).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{name}:{}", plain(value));
            let members: Vec<_> = members.iter().map(member).collect();
            format!("map[{}]", members.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

/// As `fmt.Sprint`: a space between two values of which neither is a text.
fn print(values: &[Val<'_>]) -> String {
    let text = |value: &Val<'_>| matches!(value.value(), Some(Value::String(_)));
    let mut out = String::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 && !text(value) && !text(&values[i - 1]) {
            out.push(' ');
        }
        out.push_str(&display(value));
    }
    out
}

fn order(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a.value(), b.value()) {
        (None, None) => Some(Ordering::Equal),
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b)),
        },
        (Some(Value::String(a)), Some(Value::String(b))) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(Ordering::Equal),
    }
}

fn ordered(a: &Val<'_>, b: &Val<'_>) -> Result<Ordering, String> {
    order(a, b).ok_or_else(|| format!("{} and {} cannot be compared", display(a), display(b)))
}

fn length(value: &Val<'_>) -> Result<usize, String> {
    match value {
        Val::Root(_) => Ok(1),
        Val::Missing => Ok(0),
        Val::Some(value) => match &**value {
            Value::String(text) => Ok(text.len()),
            Value::Array(items) => Ok(items.len()),
            Value::Object(members) => Ok(members.len()),
            Value::Null => Ok(0),
            other => Err(format!(
                "found {other}, allowed: a text, a list or an object"
            )),
        },
    }
}

fn integer(value: &Val<'_>) -> Option<i64> {
    value.value().and_then(Value::as_i64)
}

fn element<'a>(value: &Val<'a>, key: &Val<'_>) -> Result<Val<'a>, String> {
    if let (Val::Root(root), Some(0)) = (value, integer(key)) {
        return Ok(Val::Some(std::borrow::Cow::Borrowed(*root)));
    }
    match (value.value(), key.value()) {
        (None | Some(Value::Null), _) => Ok(Val::Missing),
        (Some(Value::Object(_)), Some(Value::String(name))) => {
            Ok(value.step(|value| value.get(name.as_str())))
        }
        (Some(Value::Array(items)), Some(Value::Number(_))) => {
            let index = integer(key).and_then(|index| usize::try_from(index).ok());
            match index.filter(|index| *index < items.len()) {
                Some(index) => Ok(value.step(|value| value.get(index))),
                None => Err(format!(
                    "index {} of a list of {}",
                    display(key),
                    items.len()
                )),
            }
        }
        _ => Err(format!(
            "{} is no index of {}",
            display(key),
            display(value)
        )),
    }
}

fn slice<'a>(value: &Val<'a>, bounds: &[Val<'_>]) -> Result<Val<'a>, String> {
    let length = length(value)?;
    let bound = |at: usize, default| match bounds.get(at) {
        None => Ok(default),
        Some(bound) => integer(bound)
            .and_then(|bound| usize::try_from(bound).ok())
            .filter(|bound| *bound <= length)
            .ok_or_else(|| format!("bound {} of {length}", display(bound))),
    };
    let range = bound(0, 0)?..bound(1, length)?;
    let found = match value.value() {
        Some(Value::String(text)) => text.get(range.clone()).map(Val::own),
        Some(Value::Array(items)) => items.get(range.clone()).map(Val::own),
        _ => None,
    };
    found.ok_or_else(|| format!("{}..{} of {}", range.start, range.end, display(value)))
}

/// Joins the elements of a list, or `key=value` of an object; cut off beyond `most` bytes.
fn join(items: &Val<'_>, separator: &str, most: usize) -> String {
    let texts: Vec<String> = match items.value() {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.iter().map(plain).collect(),
        Some(Value::Object(members)) => {
            let member = |(name, value): (&String, &Value)| format!("{name}={}", plain(value));
            members.iter().map(member).collect()
        }
        Some(other) => vec![plain(other)],
    };
    let text = texts.join(separator);
    if text.len() <= most {
        return text;
    }
    let most = most.saturating_sub(3);
    let end = text
        .char_indices()
        .map(|(at, _)| at)
        .take_while(|at| *at <= most)
        .last();
    format!("{}...", &text[..end.unwrap_or(0)])
}

/// As `fmt.Sprintf`, without arguments for widths.
fn printf(format: &str, values: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let flags = after.len() - after.trim_start_matches(['-', '+', '0', ' ', '#']).len();
        let digits = after[flags..]
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (spec, tail) = after.split_at(flags + digits);
        let Some(verb) = tail.chars().next() else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        rest = &tail[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match values.next() {
            Some(value) => out.push_str(&padded(spec, &verbatim(verb, spec, value))),
            None => {
                out.push_str("%!");
                out.push(verb);
                out.push_str("(MISSING)");
            }
        }
    }
    out.push_str(rest);
    out
}

fn verbatim(verb: char, spec: &str, value: &Val<'_>) -> String {
    let precision = spec
        .split_once('.')
        .and_then(|(_, p)| p.parse::<usize>().ok());
    let number = value.value().and_then(Value::as_f64);
    match (verb, number) {
        ('v' | 's', _) => {
            let text = display(value);
            match precision {
                Some(most) => text.chars().take(most).collect(),
                None => text,
            }
        }
        ('q', _) => format!("{:?}", display(value)),
        ('f', Some(number)) => format!("{number:.*}", precision.unwrap_or(6).min(64)),
        ('d', Some(_)) => display(value),
        ('x', Some(_)) => integer(value).map_or_else(|| display(value), |n| format!("{n:x}")),
        ('t', _) if matches!(value.value(), Some(Value::Bool(_))) => display(value),
        _ => format!("%!{verb}({})", display(value)),
    }
}

/// The widest field: nobody's terminal is wider, and no memory is lost to a slip of the pen.
const MAX_WIDTH: usize = 1000;

fn padded(spec: &str, text: &str) -> String {
    let digits = spec.trim_start_matches(['-', '+', '0', ' ', '#']);
    let flags = &spec[..spec.len() - digits.len()];
    let width = digits.split('.').next().unwrap_or_default();
    let width = width.parse::<usize>().unwrap_or(0).min(MAX_WIDTH);
    if flags.contains('-') {
        format!("{text:<width$}")
    } else if flags.contains('0') {
        format!(
            "{}{text}",
            "0".repeat(width.saturating_sub(text.chars().count()))
        )
    } else {
        format!("{text:>width$}")
    }
}
