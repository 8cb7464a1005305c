//! What is wrong with a field.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Longest excerpt of a value that an error shows, in characters.
const EXCERPT: usize = 80;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where, such as `spec.ingress[0].action`.
    pub path: String,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
    /// The line of the document, from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl FieldError {
    /// An error from its three parts.
    pub fn new(
        path: impl Into<String>,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        let (path, found, allowed) = (path.into(), found.into(), allowed.into());
        Self {
            path,
            found,
            allowed,
            line: None,
            suggestion: None,
        }
    }

    /// What is wrong, without saying where.
    pub fn message(&self) -> String {
        let found = &self.found;
        match &self.suggestion {
            Some(suggestion) => format!("found {found}, did you mean \"{suggestion}\"?"),
            None => format!("found {found}, allowed: {}", self.allowed),
        }
    }

    /// A field that must be there is not.
    pub(crate) fn missing(path: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::new(path, "nothing", allowed)
    }

    /// A value that may not stand where it does.
    pub(crate) fn value(
        path: impl Into<String>,
        found: &Value,
        allowed: impl Into<String>,
    ) -> Self {
        Self::new(path, excerpt(&found.to_string()), allowed)
    }

    /// A text that may not stand where it does.
    pub(crate) fn text(path: impl Into<String>, found: &str, allowed: impl Into<String>) -> Self {
        Self::new(path, excerpt(&format!("{found:?}")), allowed)
    }
}

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.as_str(), self.line) {
            ("", None) => {}
            ("", Some(line)) => write!(f, "line {line}: ")?,
            (path, None) => write!(f, "{path}: ")?,
            (path, Some(line)) => write!(f, "{path} (line {line}): ")?,
        }
        f.write_str(&self.message())
    }
}
