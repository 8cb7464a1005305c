//! `patch` and `label`: changes of what is stored.

use margay_model::any::AnyResource;
use margay_model::field_error::FieldError;
use margay_model::kind::ResourceKey;
use margay_model::manifest::{DocumentError, decode_value};
use margay_model::stored::decode_stored;
use serde_json::Value;

use crate::cli::{Label, Patch, PatchType};
use crate::client::{Client, Mode, Written};
use crate::context::Context;
use crate::failure::{Failure, Fatal};
use crate::files::check_selector;
use crate::verbs::Named;

/// How often a change starts over when somebody else was faster.
const ATTEMPTS: usize = 5;

/// A change of a resource; it may refuse.
type Change<'a> = &'a dyn Fn(&mut Value) -> Result<(), Failure>;

/// Changes some fields.
pub(crate) async fn patch(args: &Patch, context: &mut Context<'_>) -> Result<(), Fatal> {
    let key = key(&args.kind, &args.name, args.namespace.as_deref())?;
    let unreadable = |error: &dyn std::fmt::Display| Fatal::Usage(format!("patch: {error}"));
    // YAML is a superset of JSON.
    let value: Value = serde_norway::from_str(&args.patch).map_err(|error| unreadable(&error))?;
    if args.notation == PatchType::Json {
        let patch: json_patch::Patch =
            serde_json::from_value(value).map_err(|error| unreadable(&error))?;
        let change = |resource: &mut Value| {
            let failed = |error: json_patch::PatchError| Failure::Patch(error.to_string());
            json_patch::patch(resource, &patch).map_err(failed)
        };
        return modify(&key, &change, context).await;
    }
    if !value.is_object() {
        return Err(unreadable(&"not an object"));
    }
    let change = |resource: &mut Value| {
        json_patch::merge(resource, &value);
        Ok(())
    };
    modify(&key, &change, context).await
}

/// Sets or removes labels.
pub(crate) async fn label(args: &Label, context: &mut Context<'_>) -> Result<(), Fatal> {
    let key = key(&args.kind, &args.name, args.namespace.as_deref())?;
    let mut labels = Vec::new();
    for label in &args.labels {
        match label.split_once('=') {
            Some((name, value)) if !args.remove => labels.push((name, value)),
            None if args.remove => labels.push((label, "")),
            _ => {
                let allowed = if args.remove { "KEY" } else { "KEY=VALUE" };
                return Err(Fatal::Usage(format!(
                    "label: found {label:?}, allowed: {allowed}"
                )));
            }
        }
    }
    let change = |resource: &mut Value| {
        let Value::Object(metadata) = &mut resource["metadata"] else {
            return Ok(());
        };
        let empty = || Value::Object(serde_json::Map::new());
        let members = metadata.entry("labels").or_insert_with(empty);
        let Value::Object(members) = members else {
            return Ok(());
        };
        for (name, value) in &labels {
            let path = format!("metadata.labels.{name}");
            let error = match (args.remove, members.get(*name).and_then(Value::as_str)) {
                (true, None) => FieldError::new(path, "nothing", "a label to remove"),
                (false, Some(old)) if old != *value && !args.overwrite => {
                    let allowed = format!("{value:?} only with --overwrite");
                    FieldError::new(path, format!("{old:?}"), allowed)
                }
                (true, Some(_)) => {
                    members.remove(*name);
                    continue;
                }
                (false, _) => {
                    members.insert((*name).to_owned(), Value::from(*value));
                    continue;
                }
            };
            return Err(Failure::Refused(vec![error]));
        }
        Ok(())
    };
    modify(&key, &change, context).await
}

fn key(kind: &str, name: &str, namespace: Option<&str>) -> Result<ResourceKey, Fatal> {
    let named = Named::parse(kind, &[name.to_owned()])?;
    let mut keys = named.keys(namespace);
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(Fatal::Usage(format!("{kind} {name}: allowed is one name"))),
    }
}

/// Changes what is stored and says what became of it.
pub(crate) async fn modify(
    key: &ResourceKey,
    change: Change<'_>,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let mut result = try_modify(key, change, &context.client).await;
    for _ in 1..ATTEMPTS {
        // A version that the change itself names is not there the next time either.
        if !matches!(&result, Err(Failure::Conflict { .. })) {
            break;
        }
        result = try_modify(key, change, &context.client).await;
    }
    match result {
        Ok(Written::Unchanged) => context.streams.say(&format!("{key}: unchanged")),
        Ok(_) => context.streams.say(&format!("{key}: replaced")),
        Err(failure) => context.streams.fail_one(None, key, &failure),
    }
}

async fn try_modify(
    key: &ResourceKey,
    change: Change<'_>,
    client: &Client,
) -> Result<Written, Failure> {
    let old = client.get(key).await?.ok_or(Failure::Missing)?;
    let before = serde_json::to_value(&old).map_err(|error| Failure::Patch(error.to_string()))?;
    let mut after = before.clone();
    change(&mut after)?;
    let resource = decode(key, &before, &after)?;
    if resource.key() != *key {
        let found = resource.key().to_string();
        let error = FieldError::new("metadata", found, "the same kind, namespace and name");
        return Err(Failure::Refused(vec![error]));
    }
    client.write(Mode::Replace, resource).await
}

/// The changed resource, unless the change made something wrong that was right.
fn decode(key: &ResourceKey, before: &Value, after: &Value) -> Result<AnyResource, Failure> {
    let errors = match check(after) {
        Ok(resource) => return Ok(resource),
        Err(errors) => errors,
    };
    // A newer release may know fields that are unknown here.
    let known = check(before).err().unwrap_or_default();
    let new: Vec<_> = errors
        .into_iter()
        .filter(|error| !known.contains(error))
        .collect();
    if !new.is_empty() {
        return Err(Failure::Refused(new));
    }
    Ok(decode_stored(key, after.to_string().as_bytes())?)
}

/// Reads a resource as strictly as a manifest.
fn check(value: &Value) -> Result<AnyResource, Vec<FieldError>> {
    match decode_value(value, &check_selector)
        .pop()
        .map(|doc| doc.result)
    {
        Some(Ok(resource)) => Ok(resource),
        Some(Err(DocumentError::Invalid(errors))) => Err(errors),
        Some(Err(syntax)) => Err(vec![FieldError::new("", syntax.to_string(), "a resource")]),
        None => Err(vec![FieldError::new("", "nothing", "a resource")]),
    }
}
