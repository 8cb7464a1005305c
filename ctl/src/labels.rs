//! Selectors of resources by their own labels, as `get -l` takes them: in the grammar of policies, or
//! as kubectl writes them.

use margay_policy::selector::Selector;

/// Reads a selector. Both grammars agree about every text that is in both.
pub(crate) fn parse(text: &str) -> Result<Selector, String> {
    match text.parse::<Selector>() {
        Ok(selector) => Ok(selector),
        Err(error) => {
            let translated = kubernetes(text).and_then(|text| text.parse().ok());
            translated
                .ok_or_else(|| format!("{error}; nor is it a list such as app=web,tier!=db,!old"))
        }
    }
}

/// The same selector in the grammar of policies.
fn kubernetes(text: &str) -> Option<String> {
    let parts: Option<Vec<_>> = requirements(text).into_iter().map(requirement).collect();
    Some(parts?.join(" && "))
}

/// Splits at commas outside of parentheses.
fn requirements(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(label) = text.strip_prefix('!') {
        return Some(format!("!has({})", name(label)?));
    }
    for (sign, written) in [("!=", "!="), ("==", "=="), ("=", "==")] {
        if let Some((label, value)) = text.split_once(sign) {
            return Some(format!("{} {written} '{}'", name(label)?, value_of(value)?));
        }
    }
    if let Some(list) = text.strip_suffix(')') {
        let (label, list) = list.split_once('(')?;
        let (label, sign) = label.trim_end().rsplit_once(char::is_whitespace)?;
        let sign = match sign {
            "in" => "in",
            "notin" => "not in",
            _ => return None,
        };
        let values: Option<Vec<_>> = list.split(',').map(value_of).collect();
        let values: Vec<_> = values?
            .into_iter()
            .map(|value| format!("'{value}'"))
            .collect();
        return Some(format!("{} {sign} {{{}}}", name(label)?, values.join(", ")));
    }
    Some(format!("has({})", name(text)?))
}

fn name(text: &str) -> Option<&str> {
    let text = text.trim();
    let valid = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    (!text.is_empty() && text.chars().all(valid)).then_some(text)
}

fn value_of(text: &str) -> Option<&str> {
    let text = text.trim();
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    text.chars().all(valid).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn both_grammars_select() {
        let labels: BTreeMap<String, String> = [("app", "web"), ("x.io/env", "prod")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        for (text, matches) in [
            ("", true),
            ("app == 'web' && has(x.io/env)", true),
            ("app=web", true),
            ("app==web,x.io/env=prod", true),
            ("app=db", false),
            ("app!=db,old!=1", true),
            ("app", true),
            ("!app", false),
            ("!old,app", true),
            ("app in (web, db),x.io/env notin (test)", true),
            ("app notin (web)", false),
        ] {
            assert_eq!(parse(text).unwrap().matches(&labels), matches, "{text}");
        }
        for text in [
            "app=",
            "app=a b",
            "a b=c",
            "in (a)",
            "app in web",
            ",",
            "a=b,",
            "app =",
        ] {
            let parsed = parse(text).map(|selector| selector.to_string());
            // An empty value is one that a label may have.
            assert_eq!(parsed.is_ok(), text.ends_with('='), "{text}: {parsed:?}");
        }
        assert_eq!(parse("app = ").unwrap().to_string(), "app == \"\"");
    }
}
