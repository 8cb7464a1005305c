//! Resources as bytes in the store.
//!
//! Reading is lenient: fields that we do not know are kept, and forms that other writers leave
//! (nulls, empty texts) mean absent. What still does not decode is reported, so that the reader can
//! treat it as absent.

use serde_json::{Map, Value};

use crate::any::AnyResource;
use crate::field_error::FieldError;
use crate::kind::ResourceKey;
use crate::schema::{Checker, Shape, Unknown, resource_schema};

/// Why bytes of the store are not the resource that their key promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not a JSON object.
    #[error("{key}: not a JSON object: {reason}")]
    NotAnObject {
        /// The resource.
        key: ResourceKey,
        /// What the parser says.
        reason: String,
    },
    /// The bytes are a resource of another kind.
    #[error("{key}: kind: found \"{found}\", allowed: {}", key.kind)]
    WrongKind {
        /// The resource.
        key: ResourceKey,
        /// Its own `kind`.
        found: String,
    },
    /// Fields are missing or of a wrong form.
    #[error("{key}: {}", join(errors))]
    Invalid {
        /// The resource.
        key: ResourceKey,
        /// What is wrong, at least one.
        errors: Vec<FieldError>,
    },
}

/// Errors of one document on one line.
pub(crate) fn join(errors: &[FieldError]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Reads what is stored under a key. The key decides about name and namespace.
pub fn decode_stored(key: &ResourceKey, bytes: &[u8]) -> Result<AnyResource, DecodeError> {
    let members = parse(key, bytes)?;
    if let Some(found) = members.get("kind").and_then(Value::as_str)
        && found != key.kind.as_str()
    {
        return Err(DecodeError::WrongKind {
            key: key.clone(),
            found: found.to_owned(),
        });
    }
    let mut resource = match AnyResource::from_value(key.kind, Value::Object(members)) {
        Ok(resource) => resource,
        Err(error) => repair(key, bytes, &error)?,
    };
    let metadata = resource.metadata_mut();
    metadata.name.clone_from(&key.name);
    metadata.namespace.clone_from(&key.namespace);
    Ok(resource)
}

fn parse(key: &ResourceKey, bytes: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    let not_an_object = |reason: String| DecodeError::NotAnObject {
        key: key.clone(),
        reason,
    };
    let mut value: Value =
        serde_json::from_slice(bytes).map_err(|error| not_an_object(error.to_string()))?;
    drop_nulls(&mut value);
    let Value::Object(mut members) = value else {
        return Err(not_an_object("it is another JSON value".to_owned()));
    };
    for name in ["metadata", "spec"] {
        members
            .entry(name)
            .or_insert_with(|| Value::Object(Map::new()));
    }
    Ok(members)
}

/// Says what is wrong with a resource that did not decode, or decodes it without its empty texts.
fn repair(
    key: &ResourceKey,
    bytes: &[u8],
    error: &serde_json::Error,
) -> Result<AnyResource, DecodeError> {
    let mut members = parse(key, bytes)?;
    if let Some(Value::Object(metadata)) = members.get_mut("metadata") {
        metadata.insert("name".to_owned(), Value::String(key.name.clone()));
    }
    let mut value = Value::Object(members);
    let mut checker = Checker::new(Unknown::Keep, None);
    checker.check(&Shape::Object(resource_schema(key.kind)), &mut value);
    // The tables are stricter than the types, and only what the types refuse makes it unreadable.
    let decoded = match &*checker.errors {
        [] => AnyResource::from_value(key.kind, value).map_err(|error| error.to_string()),
        _ => Err(error.to_string()),
    };
    decoded.map_err(|reason| {
        let mut errors = checker.errors;
        if errors.is_empty() {
            errors.push(FieldError::new("", reason, "the fields of its kind"));
        }
        DecodeError::Invalid {
            key: key.clone(),
            errors,
        }
    })
}

/// Takes members without a value out of every object.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The bytes to store: as the established system writes them, and without the resource version,
/// which is the store's own.
pub fn encode_stored(resource: &AnyResource) -> Vec<u8> {
    let mut resource = resource.clone();
    resource.metadata_mut().resource_version = None;
    serde_json::to_vec(&resource).expect("maps have text keys and numbers are finite")
}

#[cfg(test)]
mod tests;
