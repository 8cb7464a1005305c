//! Each field of each kind at the edges of what it may be: a `spec` a line in `edges/KIND.in`, and what becomes of it in
//! `edges/KIND.out`, which `UPDATE_GOLDEN=1` writes anew.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use crate::kind::Kind;
use crate::manifest::{DocumentError, decode_manifest};
use crate::schema::{Schema, Shape, resource_schema};
use crate::stored::{decode_stored, encode_stored};

fn file(kind: Kind, suffix: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manifest/edges");
    PathBuf::from(folder).join(format!("{kind}.{suffix}"))
}

/// What becomes of a line: what is stored, or what is wrong.
fn outcome(kind: Kind, line: &str) -> String {
    let (name, spec) = match line.strip_prefix("name=") {
        Some(rest) => rest.split_once(' ').unwrap(),
        None => ("a", line),
    };
    let text = format!(
        "{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
    );
    // The grammar itself is the policy crate's.
    let selector = |text: &str| match text.ends_with(['=', '(']) {
        true => Err("it ends too early".to_owned()),
        false => Ok(()),
    };
    let documents = decode_manifest(&text, &selector);
    let [document] = documents.as_slice() else {
        panic!("{line}: {} documents", documents.len());
    };
    match &document.result {
        Ok(resource) => {
            let resource = resource.clone().with_defaults();
            let stored = encode_stored(&resource);
            let read = decode_stored(&resource.key(), &stored);
            assert_eq!(read.as_ref(), Ok(&resource), "{line}");
            let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
            format!("  stored {}\n", stored["spec"])
        }
        Err(DocumentError::Invalid(errors)) => {
            let lines = errors.iter().map(|error| format!("  {error}\n"));
            lines.collect()
        }
        Err(other) => format!("  {other}\n"),
    }
}

#[test]
fn every_field_is_taken_refused_and_kept_as_the_golden_files_say() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for kind in Kind::ALL {
        let cases = fs::read_to_string(file(*kind, "in")).unwrap();
        let mut out = String::new();
        for line in cases.lines() {
            writeln!(out, "{line}").unwrap();
            if !line.starts_with('#') {
                out += &outcome(*kind, line);
            }
        }
        if update {
            fs::write(file(*kind, "out"), &out).unwrap();
        }
        let golden = fs::read_to_string(file(*kind, "out")).unwrap();
        for (number, (found, wanted)) in out.lines().zip(golden.lines()).enumerate() {
            assert_eq!(found, wanted, "{kind}.out, line {}", number + 1);
        }
        assert_eq!(out.lines().count(), golden.lines().count(), "{kind}.out");
    }
}

/// Names of the members that we use, also those further down.
fn names(schema: &'static Schema, all: &mut Vec<&'static str>) {
    for (name, shape) in schema.fields {
        if !all.contains(name) {
            all.push(name);
            inner(shape, all);
        }
    }
}

fn inner(shape: &'static Shape, all: &mut Vec<&'static str>) {
    match shape {
        Shape::Object(schema) => names(schema, all),
        Shape::List(of, _) => inner(of, all),
        _ => {}
    }
}

#[test]
fn no_field_is_without_a_case() {
    let mut without = Vec::new();
    for kind in Kind::ALL {
        let mut cases = fs::read_to_string(file(*kind, "in")).unwrap();
        if has_rules(*kind) {
            // A rule is a rule.
            cases += &fs::read_to_string(file(Kind::NetworkPolicy, "in")).unwrap();
        }
        let schema = resource_schema(*kind).fields.iter();
        let mut all = Vec::new();
        schema
            .filter(|(name, _)| *name == "spec")
            .for_each(|(_, shape)| inner(shape, &mut all));
        let missing = all
            .into_iter()
            .filter(|name| !cases.contains(&format!("{name}:")));
        without.extend(missing.map(|name| format!("{kind}.in: {name}")));
    }
    assert_eq!(without, [""; 0]);
}

const fn has_rules(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::GlobalNetworkPolicy
            | Kind::Profile
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
    )
}
