//! How resources are printed: what `-o` of `get` takes.

pub(crate) mod go_template;
pub(crate) mod jsonpath;

use std::str::FromStr;

/// How resources are printed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// A table.
    Ps,
    /// A table with more columns.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// KIND/NAME, one a line.
    Name,
    /// A table with these columns.
    Columns(Vec<Column>),
    /// A template.
    JsonPath(jsonpath::Template),
    /// A template.
    GoTemplate(go_template::Template),
}

/// A column that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column {
    /// Its heading.
    pub(crate) heading: String,
    /// What it shows; the kind's own column of this name if absent.
    pub(crate) path: Option<jsonpath::Path>,
}

/// The words that stand alone; those with a value.
pub(crate) const WORDS: [&str; 5] = ["ps", "wide", "yaml", "json", "name"];
pub(crate) const WITH_VALUE: [&str; 6] = [
    "custom-columns=",
    "custom-columns-file=",
    "jsonpath=",
    "jsonpath-file=",
    "go-template=",
    "go-template-file=",
];

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, value) = match text.split_once('=') {
            Some((word, value)) => (word, Some(value)),
            None => (text, None),
        };
        match (word, value) {
            ("ps" | "text" | "", None) => return Ok(Self::Ps),
            ("wide", None) => return Ok(Self::Wide),
            ("yaml" | "yml", None) => return Ok(Self::Yaml),
            ("json", None) => return Ok(Self::Json),
            ("name", None) => return Ok(Self::Name),
            _ => {}
        }
        if !WITH_VALUE
            .iter()
            .any(|known| known.strip_suffix('=') == Some(word))
        {
            let allowed = [
                WORDS.join(", "),
                WITH_VALUE.map(|known| format!("{known}...")).join(", "),
            ];
            return Err(format!("found {text:?}, allowed: {}", allowed.join(", ")));
        }
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| format!("{word}: found nothing, allowed: {word}=..."))?;
        let (word, value) = match word.strip_suffix("-file") {
            Some(word) => (
                word,
                std::fs::read_to_string(value).map_err(|e| format!("{value}: {e}"))?,
            ),
            None => (word, value.to_owned()),
        };
        let named = |error: String| format!("{word}: {error}");
        match word {
            "custom-columns" => columns(&value).map(Self::Columns).map_err(named),
            "jsonpath" => jsonpath::Template::parse(&value)
                .map(Self::JsonPath)
                .map_err(named),
            _ => go_template::Template::parse(&value)
                .map(Self::GoTemplate)
                .map_err(named),
        }
    }
}

/// `HEADING:PATH` or the name of a column of the kind, with commas; or, of a file, a line of headings
/// over a line of paths.
fn columns(text: &str) -> Result<Vec<Column>, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let pairs: Vec<(String, Option<String>)> = match (lines.next(), lines.next()) {
        (Some(headings), Some(paths)) => {
            let (headings, paths) = (words(headings), words(paths));
            if headings.len() != paths.len() {
                let counts = (headings.len(), paths.len());
                return Err(format!("{} headings over {} paths", counts.0, counts.1));
            }
            headings
                .into_iter()
                .zip(paths.into_iter().map(Some))
                .collect()
        }
        _ => split(text.trim()).into_iter().map(pair).collect(),
    };
    let column = |(heading, path): (String, Option<String>)| {
        if heading.is_empty() {
            return Err("a column without a heading".to_owned());
        }
        let path = path.map(|path| jsonpath::Path::parse(&path)).transpose();
        match path {
            Ok(path) => Ok(Column { heading, path }),
            Err(error) => Err(format!("column {heading}: {error}")),
        }
    };
    pairs.into_iter().map(column).collect()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn pair(text: String) -> (String, Option<String>) {
    match text.split_once(':') {
        Some((heading, path)) => (heading.trim().to_owned(), Some(path.trim().to_owned())),
        None => (text.trim().to_ascii_uppercase(), None),
    }
}

/// Splits at commas outside of brackets and quotes.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut quote) = (0_usize, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Output>().unwrap_err()
    }

    #[test]
    fn formats_are_read_and_the_wrong_ones_told() {
        assert_eq!("yml".parse::<Output>().unwrap(), Output::Yaml);
        let Output::Columns(columns) = "custom-columns=name,NETS:.spec.nets[0,1],X:{.a['b,c']}"
            .parse()
            .unwrap()
        else {
            panic!("no columns");
        };
        let headings: Vec<_> = columns
            .iter()
            .map(|c| (c.heading.as_str(), c.path.is_some()))
            .collect();
        assert_eq!(headings, [("NAME", false), ("NETS", true), ("X", true)]);
        assert!(
            error("xml").starts_with(
                "found \"xml\", allowed: ps, wide, yaml, json, name, custom-columns=..."
            )
        );
        assert_eq!(
            error("jsonpath="),
            "jsonpath: found nothing, allowed: jsonpath=..."
        );
        assert!(error("custom-columns=A:.x[").starts_with("custom-columns: column A: "));
        assert!(error("custom-columns=:.x").ends_with("a column without a heading"));
        assert!(error("go-template-file=/nowhere").starts_with("/nowhere: "));
        assert!(error("go-template={{if}}").starts_with("go-template: "));
    }

    #[test]
    fn columns_of_a_file_are_headings_over_paths() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "NAME   CIDR\nmetadata.name .spec.cidr\n").unwrap();
        let output: Output = format!("custom-columns-file={}", file.path().display())
            .parse()
            .unwrap();
        let Output::Columns(columns) = output else {
            panic!("no columns")
        };
        assert_eq!(columns[1].heading, "CIDR");
        assert_eq!(
            columns[1].path,
            Some(jsonpath::Path::parse("spec.cidr").unwrap())
        );
        std::fs::write(file.path(), "NAME CIDR\nmetadata.name\n").unwrap();
        let output = format!("custom-columns-file={}", file.path().display());
        assert_eq!(error(&output), "custom-columns: 2 headings over 1 paths");
    }
}
