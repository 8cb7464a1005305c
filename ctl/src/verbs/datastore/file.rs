//! The file of an export: a header, a line a key, an end.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What this program writes, and the newest that it reads.
const VERSION: u32 = 1;

/// A key below the prefix, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Without the prefix and the slash after it.
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    margay_export: u32,
    time: String,
    prefix: String,
    revision: i64,
    keys: usize,
}

/// A line of a key: a value of JSON as it is stored, any other in base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    key: String,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: usize,
}

/// Whether a text is one of ours.
pub(super) fn is_ours(text: &str) -> bool {
    text.starts_with("{\"margayExport\"")
}

/// The text of an export.
pub(super) fn write(
    entries: &[Entry],
    prefix: &str,
    revision: i64,
    time: &str,
) -> Result<String, serde_json::Error> {
    let header = Header {
        margay_export: VERSION,
        time: time.to_owned(),
        prefix: prefix.to_owned(),
        revision,
        keys: entries.len(),
    };
    let mut text = serde_json::to_string(&header)? + "\n";
    for Entry { key, value } in entries {
        let json = std::str::from_utf8(value)
            .ok()
            .filter(|value| !value.contains('\n'));
        let json: Option<&RawValue> = json.and_then(|value| serde_json::from_str(value).ok());
        // Space around a value is none of it, but is stored.
        let json = json.filter(|json| json.get().len() == value.len());
        let line = Line {
            key: key.clone(),
            value: json,
            base64: json.is_none().then(|| STANDARD.encode(value)),
        };
        text += &serde_json::to_string(&line)?;
        text.push('\n');
    }
    text += &serde_json::to_string(&End { end: entries.len() })?;
    text.push('\n');
    Ok(text)
}

/// Reads an export, whole or not at all.
pub(super) fn read(text: &str) -> Result<Vec<Entry>, String> {
    let mut lines = text.lines().enumerate();
    let at = |line: usize, error: &dyn std::fmt::Display| format!("line {}: {error}", line + 1);
    let (_, first) = lines.next().ok_or_else(|| "nothing in it".to_owned())?;
    let version: serde_json::Value = serde_json::from_str(first).map_err(|error| at(0, &error))?;
    let version = &version["margayExport"];
    if *version != VERSION {
        return Err(format!("format: found {version}, allowed: {VERSION}"));
    }
    let header: Header = serde_json::from_str(first).map_err(|error| at(0, &error))?;
    let mut entries = Vec::with_capacity(header.keys.min(text.len()));
    for (number, line) in lines.by_ref() {
        if line.starts_with("{\"end\"") {
            let end: End = serde_json::from_str(line).map_err(|error| at(number, &error))?;
            if end.end != entries.len() || header.keys != entries.len() {
                return Err(format!(
                    "has {} keys, {} were written",
                    entries.len(),
                    header.keys
                ));
            }
            return match lines.next() {
                None => Ok(entries),
                Some((number, _)) => Err(at(number, &"found more after the end")),
            };
        }
        let line: Line<'_> = serde_json::from_str(line).map_err(|error| at(number, &error))?;
        let value = match (line.value, line.base64) {
            (Some(value), None) => value.get().as_bytes().to_vec(),
            (None, Some(value)) => STANDARD.decode(value).map_err(|error| at(number, &error))?,
            _ => return Err(at(number, &"allowed: one of value and base64")),
        };
        entries.push(Entry {
            key: line.key,
            value,
        });
    }
    Err("is cut off: its last line is missing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        [
            ("a/json", br#"{"b": 1,  "a":1.50}"#.as_slice()),
            ("a/spaced", b" {} "),
            ("a/lines", b"{\n}"),
            ("a/bytes", &[0, 255, 10]),
            ("a/empty", b""),
            ("\"quoted\u{e9}", b"\"text\""),
        ]
        .map(|(key, value)| Entry {
            key: key.to_owned(),
            value: value.to_vec(),
        })
        .into()
    }

    #[test]
    fn what_is_written_is_read_back_to_the_byte() {
        let text = write(&entries(), "/calico", 7, "2026-11-21T05:02:52Z").unwrap();
        assert_eq!(
            text.lines().take(3).collect::<Vec<_>>(),
            [
                r#"{"margayExport":1,"time":"2026-11-21T05:02:52Z","prefix":"/calico","revision":7,"keys":6}"#,
                r#"{"key":"a/json","value":{"b": 1,  "a":1.50}}"#,
                r#"{"key":"a/spaced","base64":"IHt9IA=="}"#,
            ]
        );
        assert_eq!(read(&text).unwrap(), entries());
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let text = write(&entries(), "/calico", 7, "now").unwrap();
        let cut = text.rsplit_once("{\"end\"").unwrap().0;
        assert_eq!(
            read(cut).unwrap_err(),
            "is cut off: its last line is missing"
        );
        let lost: String = text
            .lines()
            .filter(|l| !l.contains("a/lines"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(read(&lost).unwrap_err(), "has 5 keys, 6 were written");
        assert_eq!(
            read(&(text.clone() + "x\n")).unwrap_err(),
            "line 9: found more after the end"
        );
        let newer = text.replace("\"margayExport\":1", "\"margayExport\":2");
        assert_eq!(read(&newer).unwrap_err(), "format: found 2, allowed: 1");
    }
}
