//! Exports of the established client: resources, the ClusterInformation, and address records, with
//! `===` between.

use std::collections::BTreeMap;

use margay_model::any::AnyResource;
use margay_model::kind::ResourceKey;
use margay_model::manifest::{DocumentError, decode_manifest};
use margay_model::stored::{decode_stored, encode_stored};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::file::Entry;
use crate::client::Client;
use crate::files::check_selector;

/// What its keys start with, wherever they were.
const PREFIX: &str = "/calico/";

/// The third part.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Addresses {
    block_affinities: Vec<Record>,
    blocks: Vec<Record>,
    handles: Vec<Record>,
    config: Option<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    key: String,
    value: Box<RawValue>,
}

/// Whether a text may be such an export.
pub(super) fn is_one(text: &str) -> bool {
    parts(text).is_some()
}

fn parts(text: &str) -> Option<[&str; 3]> {
    let parts: Vec<_> = text.split("===\n").collect();
    parts.try_into().ok()
}

/// Reads an export; or says all that is wrong with it, a line each.
pub(super) fn read(text: &str, client: &Client) -> Result<Vec<Entry>, Vec<String>> {
    let [resources, cluster, addresses] =
        parts(text).ok_or_else(|| vec!["not three parts".to_owned()])?;
    let mut errors = Vec::new();
    let mut found = BTreeMap::new();
    for document in decode_manifest(resources, &check_selector) {
        let place = document
            .item
            .map_or_else(String::new, |item| format!(" item {item}"));
        match document.result {
            Ok(resource) => {
                let (key, value) = entry(resource, client);
                found.insert(key, value);
            }
            Err(DocumentError::Invalid(invalid)) => errors.extend(invalid.iter().map(|error| {
                format!(
                    "document {}{place}: {}: {error}",
                    document.index, document.subject
                )
            })),
            Err(syntax) => errors.push(format!("document {}: {syntax}", document.index)),
        }
    }
    if !matches!(cluster.trim(), "" | "null") {
        let key = ResourceKey::global(margay_model::kind::Kind::ClusterInformation, "default");
        match decode_stored(&key, cluster.as_bytes()) {
            Ok(resource) => {
                let (key, value) = entry(resource, client);
                found.insert(key, value);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    match serde_json::from_str::<Addresses>(addresses) {
        Ok(addresses) => {
            let records = addresses
                .block_affinities
                .into_iter()
                .chain(addresses.blocks);
            for record in records.chain(addresses.handles).chain(addresses.config) {
                match record.key.strip_prefix(PREFIX) {
                    Some(key) => {
                        // Written with indentation, stored without.
                        let value = serde_json::from_str::<serde_json::Value>(record.value.get());
                        let value =
                            value.map_or_else(|_| record.value.get().to_owned(), |v| v.to_string());
                        found.insert(key.to_owned(), value.into_bytes());
                    }
                    None => errors.push(format!("{}: allowed: a key below {PREFIX}", record.key)),
                }
            }
        }
        Err(error) => errors.push(format!("address records: {error}")),
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let entries = found.into_iter().map(|(key, value)| Entry { key, value });
    Ok(entries.collect())
}

fn entry(resource: AnyResource, client: &Client) -> (String, Vec<u8>) {
    let mut resource = resource.with_defaults();
    client.stamp(&mut resource);
    let key = client.keys.resource(&resource.key());
    let key = key.strip_prefix(client.keys.prefix()).unwrap_or(&key);
    (
        key.trim_start_matches('/').to_owned(),
        encode_stored(&resource),
    )
}
