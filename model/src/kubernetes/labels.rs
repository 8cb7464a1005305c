//! Label selectors of Kubernetes as selectors of ours.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::field_error::FieldError;
use crate::validate::{is_label_value, is_qualified_name};

/// Labels, and conditions on labels; all must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LabelSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

/// What all pods have, and neither hosts nor network sets.
const PODS: &str = "projectcalico.org/orchestrator == 'k8s'";

/// A selector of pods; all of them when absent.
pub(super) fn pods(
    path: &str,
    selector: Option<&LabelSelector>,
    errors: &mut Vec<FieldError>,
) -> String {
    let own = selector.map(|s| terms(path, s, errors)).unwrap_or_default();
    let mut all = vec![PODS.to_owned()];
    all.extend(own);
    all.join(" && ")
}

/// A selector of namespaces; all of them when empty.
pub(super) fn namespaces(
    path: &str,
    selector: &LabelSelector,
    errors: &mut Vec<FieldError>,
) -> String {
    let terms = terms(path, selector, errors);
    match terms.is_empty() {
        true => "all()".to_owned(),
        false => terms.join(" && "),
    }
}

fn terms(path: &str, selector: &LabelSelector, errors: &mut Vec<FieldError>) -> Vec<String> {
    let mut terms = Vec::new();
    for (key, value) in &selector.match_labels {
        check(&format!("{path}.matchLabels.{key}"), key, [value], errors);
        terms.push(format!("{key} == '{value}'"));
    }
    for (i, requirement) in selector.match_expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let Requirement {
            key,
            operator,
            values,
        } = requirement;
        check(&path, key, values, errors);
        let set = values.join("', '");
        let (term, wants_values) = match operator.as_str() {
            "In" => (format!("{key} in {{ '{set}' }}"), true),
            "NotIn" => (format!("{key} not in {{ '{set}' }}"), true),
            "Exists" => (format!("has({key})"), false),
            "DoesNotExist" => (format!("! has({key})"), false),
            other => {
                let path = format!("{path}.operator");
                let allowed = "In, NotIn, Exists, DoesNotExist";
                errors.push(FieldError::text(path, other, allowed));
                continue;
            }
        };
        if wants_values == values.is_empty() {
            let found = format!("{} values", values.len());
            let allowed = if wants_values { "at least one" } else { "none" };
            let allowed = format!("{allowed}, because the operator is {operator}");
            errors.push(FieldError::new(format!("{path}.values"), found, allowed));
        }
        terms.push(term);
    }
    terms
}

/// What is no label could mean something else within a selector.
fn check<'a>(
    path: &str,
    key: &str,
    values: impl IntoIterator<Item = &'a String>,
    errors: &mut Vec<FieldError>,
) {
    if !is_qualified_name(key) {
        let allowed = "[PREFIX/]NAME of letters, digits, '-', '_' and '.'";
        errors.push(FieldError::text(path, key, allowed));
    }
    for value in values.into_iter().filter(|value| !is_label_value(value)) {
        let allowed =
            "at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends";
        errors.push(FieldError::text(path, value, allowed));
    }
}
