//! An agent and a command line that are a version apart understand each other.
//!
//! `words/VERSION` has requests and answers as programs of that version write them. They are never changed, only added
//! to: this version must read all of them, and must read what a later one adds to them.

use std::fs;
use std::path::Path;

use margay_api::bgp::{Event, Peer, Route};
use margay_api::cni::{CniReply, CniRequest};
use margay_api::config::HostSettings;
use margay_api::flows::FlowReport;
use margay_api::kernel::{Found, Interface, Way};
use margay_api::policy::Counters;
use margay_api::status::NodeStatus;
use margay_api::store::StoreReply;
use margay_api::{Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads the value as a program of this version does.
fn read<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, serde_json::Error> {
    let read: T = serde_json::from_value(value.clone())?;
    serde_json::to_value(read)
}

/// By the name of the file.
fn read_as(name: &str, value: &Value) -> Result<Value, serde_json::Error> {
    match name {
        "requests" => read::<Request>(value),
        "cni-journal" => read::<CniRequest>(value),
        "cni-reply" => read::<Reply<CniReply>>(value),
        "status" => read::<Reply<NodeStatus>>(value),
        "counters" => read::<Reply<Counters>>(value),
        "settings" => read::<Reply<HostSettings>>(value),
        "peers" => read::<Reply<Vec<Peer>>>(value),
        "routes" => read::<Reply<Vec<Route>>>(value),
        "events" => read::<Reply<Vec<Event>>>(value),
        "interface" => read::<Reply<Found<Interface>>>(value),
        "way" => read::<Reply<Found<Way>>>(value),
        "flows" => read::<Reply<FlowReport>>(value),
        "store-reply" => read::<StoreReply>(value),
        other => panic!("{other}: of what type are these words?"),
    }
}

/// The variants that are known where `line` has one that is not.
fn variants<T: DeserializeOwned>(line: &str) -> Vec<String> {
    let error = serde_json::from_str::<T>(line).err();
    let error = error.expect("it names no variant").to_string();
    let (_, known) = error
        .split_once("expected ")
        .expect("it says what it expected");
    let known = known.split('`').skip(1).step_by(2);
    known.map(str::to_owned).collect()
}

/// The name of the variant, down a way of others.
fn variant_of<'a>(line: &'a Value, way: &[&str]) -> Option<&'a str> {
    let inner = way.iter().try_fold(line, |value, name| value.get(name))?;
    let (name, _) = inner.as_object()?.iter().next()?;
    Some(name)
}

#[test]
fn every_request_and_every_answer_of_a_store_is_recorded() {
    let words = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/words/0.1.0");
    let lines = |file: &str| -> Vec<Value> {
        let text = fs::read_to_string(words.join(file)).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let requests = lines("requests.jsonl");
    for way in [&[][..], &["bgp"], &["kernel"], &["store"]] {
        let unknown = way
            .iter()
            .rev()
            .fold(r#"{"?":{}}"#.to_owned(), |inner, name| {
                format!("{{\"{name}\":{inner}}}")
            });
        for variant in variants::<Request>(&unknown) {
            let said = |line: &Value| variant_of(line, way) == Some(&variant);
            assert!(requests.iter().any(said), "{way:?} {variant}");
        }
    }
    let replies = lines("store-reply.jsonl");
    for variant in variants::<StoreReply>(r#"{"?":{}}"#) {
        let said = |line: &Value| variant_of(line, &[]) == Some(&variant);
        assert!(replies.iter().any(said), "{variant}");
    }
}

/// A later version tells more: a field in every object that is a list of fields already.
fn with_more(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut more: serde_json::Map<_, _> = object
                .iter()
                .map(|(k, v)| (k.clone(), with_more(v)))
                .collect();
            // An object of one member names a variant.
            if object.len() > 1 {
                more.insert("of_a_later_version".to_owned(), Value::from(1));
            }
            Value::Object(more)
        }
        Value::Array(list) => list.iter().map(with_more).collect(),
        other => other.clone(),
    }
}

#[test]
fn what_other_versions_say_is_understood() {
    let words = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/words");
    let mut lines = 0;
    for version in fs::read_dir(&words).unwrap() {
        for file in fs::read_dir(version.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            for line in fs::read_to_string(&path).unwrap().lines() {
                let value: Value = serde_json::from_str(line).unwrap();
                let place = format!("{}: {line}", path.display());
                let again = read_as(&name, &value).unwrap_or_else(|e| panic!("{place}: {e}"));
                // Nothing of what was said is lost.
                assert_eq!(contained(&value, &again), Ok(()), "{place}");
                read_as(&name, &with_more(&value)).unwrap_or_else(|e| panic!("{place}: {e}"));
                lines += 1;
            }
        }
    }
    assert!(lines > 15, "{lines} lines");
}

/// Whether all of `part` is in `whole`.
fn contained(part: &Value, whole: &Value) -> Result<(), String> {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => part.iter().try_for_each(|(key, value)| {
            let there = whole.get(key).ok_or_else(|| format!("{key} is lost"))?;
            contained(value, there)
        }),
        (Value::Array(part), Value::Array(whole)) if part.len() == whole.len() => part
            .iter()
            .zip(whole)
            .try_for_each(|(a, b)| contained(a, b)),
        (a, b) if a == b => Ok(()),
        (a, b) => Err(format!("{a} became {b}")),
    }
}
