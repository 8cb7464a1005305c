//! What a path leads to, and what a template prints.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Comparison, Condition, Node, Operand, Path, Step, text};

/// Prints nodes for the current value.
pub(super) fn render(
    nodes: &[Node],
    root: &Value,
    current: &Value,
    out: &mut String,
) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let found = values(path, root, current)?;
                let texts: Vec<_> = found.into_iter().map(text).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(path, body) => {
                for value in values(path, root, current)? {
                    render(body, root, value, out)?;
                }
            }
        }
    }
    Ok(())
}

/// The values that a path leads to.
pub(super) fn values<'a>(
    path: &Path,
    root: &'a Value,
    current: &'a Value,
) -> Result<Vec<&'a Value>, String> {
    let mut found = vec![if path.from_root { root } else { current }];
    for step in &path.steps {
        let mut next = Vec::new();
        for value in found {
            take(step, root, value, &mut next)?;
        }
        found = next;
    }
    Ok(found)
}

fn take<'a>(
    step: &Step,
    root: &'a Value,
    value: &'a Value,
    next: &mut Vec<&'a Value>,
) -> Result<(), String> {
    match (step, value) {
        (Step::Field(name), Value::Object(members)) => next.extend(members.get(name)),
        (Step::Fields(names), Value::Object(members)) => {
            next.extend(names.iter().filter_map(|name| members.get(name)));
        }
        (Step::Wildcard, Value::Object(members)) => next.extend(members.values()),
        (Step::Wildcard, Value::Array(items)) => next.extend(items),
        (Step::Descend, _) => descend(value, next),
        (Step::Indices(indices), Value::Array(items)) => {
            for index in indices {
                next.push(at(items, *index)?);
            }
        }
        (Step::Slice(start, end, step), Value::Array(items)) => {
            let bound = |index: i64| {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let from_start = if index < 0 {
                    index.saturating_add(length)
                } else {
                    index
                };
                usize::try_from(from_start.clamp(0, length)).unwrap_or(0)
            };
            let (start, end) = (start.map_or(0, bound), end.map_or(items.len(), bound));
            let slice = items.get(start..end).unwrap_or_default();
            next.extend(slice.iter().step_by(*step));
        }
        (Step::Filter(condition), Value::Array(items)) => {
            for item in items {
                if holds(condition, root, item)? {
                    next.push(item);
                }
            }
        }
        (Step::Filter(condition), Value::Object(members)) => {
            for item in members.values() {
                if holds(condition, root, item)? {
                    next.push(item);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn at(items: &[Value], index: i64) -> Result<&Value, String> {
    let length = items.len();
    let found = match usize::try_from(index) {
        Ok(index) => items.get(index),
        Err(_) => usize::try_from(index.unsigned_abs())
            .ok()
            .and_then(|back| length.checked_sub(back))
            .and_then(|index| items.get(index)),
    };
    found.ok_or_else(|| format!("index {index} of a list of {length}"))
}

fn descend<'a>(value: &'a Value, next: &mut Vec<&'a Value>) {
    next.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, next)),
        Value::Object(members) => members.values().for_each(|member| descend(member, next)),
        _ => {}
    }
}

fn holds(condition: &Condition, root: &Value, item: &Value) -> Result<bool, String> {
    Ok(match condition {
        Condition::Exists(path) => !values(path, root, item)?.is_empty(),
        Condition::And(a, b) => holds(a, root, item)? && holds(b, root, item)?,
        Condition::Or(a, b) => holds(a, root, item)? || holds(b, root, item)?,
        Condition::Compare(left, comparison, right) => {
            let sides = (side(left, root, item)?, side(right, root, item)?);
            match sides {
                (Some(left), Some(right)) => compare(left, *comparison, right),
                _ => false,
            }
        }
    })
}

fn side<'a>(
    operand: &'a Operand,
    root: &'a Value,
    item: &'a Value,
) -> Result<Option<&'a Value>, String> {
    match operand {
        Operand::Value(value) => Ok(Some(value)),
        Operand::Path(path) => Ok(values(path, root, item)?.first().copied()),
    }
}

fn compare(left: &Value, comparison: Comparison, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b)),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) if a == b => Some(Ordering::Equal),
        _ => None,
    };
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
    }
}
