//! `get`.

use margay_model::any::AnyResource;
use margay_model::asn::Asn;
use margay_model::defaults::DEFAULT_NAMESPACE;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::API_VERSION;
use serde_json::{Value, json};

use crate::cli::{Output, Which};
use crate::columns;
use crate::context::Context;
use crate::failure::{Failure, Fatal};
use crate::files;
use crate::verbs::{Named, fatal};
use crate::yaml;

/// What was found, and how it was asked for.
struct Found {
    /// Of one kind each, in the order asked for.
    groups: Vec<(Kind, Vec<AnyResource>)>,
    /// The revision, when all of a kind were asked for.
    revision: Option<i64>,
    /// Whether exactly one resource was asked for by name.
    single: bool,
    /// Whether it may be of several namespaces.
    namespaces: bool,
}

/// Prints what is asked for and exists.
pub(crate) async fn get(
    which: &Which,
    all_namespaces: bool,
    output: Output,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    let found = match which.file.as_slice() {
        [] => find_named(which, all_namespaces, context).await?,
        _ => find_in_files(which, context).await?,
    };
    let text = match output {
        Output::Ps | Output::Wide => tables(&found, output == Output::Wide, context).await?,
        Output::Name => names(&found),
        Output::Yaml => yaml_text(&found)?,
        Output::Json => json_text(&found)?,
    };
    context.streams.print(&text)
}

async fn find_named(
    which: &Which,
    all_namespaces: bool,
    context: &mut Context<'_>,
) -> Result<Found, Fatal> {
    let named = Named::of(which)?;
    let namespace = which.namespace.as_deref();
    if named.names.is_empty() {
        let namespace = (!all_namespaces).then(|| namespace.unwrap_or(DEFAULT_NAMESPACE));
        let listed = context.client.list(named.kind, namespace).await;
        let listed = listed.map_err(|error| fatal(&error))?;
        for error in &listed.damaged {
            context.streams.fail(&error.to_string())?;
        }
        return Ok(Found {
            groups: vec![(named.kind, in_order(named.kind, listed.resources))],
            revision: Some(listed.revision),
            single: false,
            namespaces: all_namespaces,
        });
    }
    let keys: Vec<_> = named.keys(namespace).collect();
    let single = keys.len() == 1;
    let groups = vec![(named.kind, fetch(keys, context).await?)];
    Ok(Found {
        groups,
        revision: None,
        single,
        namespaces: false,
    })
}

/// Tiers are shown in their own order, everything else by name.
fn in_order(kind: Kind, mut resources: Vec<AnyResource>) -> Vec<AnyResource> {
    if kind == Kind::Tier {
        let order = |resource: &AnyResource| match resource {
            AnyResource::Tier(tier) => tier.spec.order.unwrap_or(f64::INFINITY),
            _ => f64::INFINITY,
        };
        resources.sort_by(|a, b| order(a).total_cmp(&order(b)));
    }
    resources
}

async fn find_in_files(which: &Which, context: &mut Context<'_>) -> Result<Found, Fatal> {
    let streams = &mut context.streams;
    let namespace = which.namespace.as_deref();
    let mut keys: Vec<ResourceKey> = Vec::new();
    for source in files::read(&which.file, which.recursive, namespace, streams.stdin)? {
        match source.result {
            Ok(resource) => keys.push(resource.key()),
            Err(errors) => {
                for error in errors {
                    streams.fail(&format!("{}: {error}", source.place))?;
                }
            }
        }
    }
    let single = keys.len() == 1;
    let mut groups: Vec<(Kind, Vec<AnyResource>)> = Vec::new();
    for resource in fetch(keys, context).await? {
        match groups.iter_mut().find(|(kind, _)| *kind == resource.kind()) {
            Some((_, group)) => group.push(resource),
            None => groups.push((resource.kind(), vec![resource])),
        }
    }
    Ok(Found {
        groups,
        revision: None,
        single,
        namespaces: true,
    })
}

async fn fetch(
    keys: Vec<ResourceKey>,
    context: &mut Context<'_>,
) -> Result<Vec<AnyResource>, Fatal> {
    let mut resources = Vec::new();
    for key in keys {
        match context.client.get(&key).await {
            Ok(Some(resource)) => resources.push(resource),
            Ok(None) => context.streams.fail_one(None, &key, &Failure::Missing)?,
            Err(failure) => context.streams.fail_one(None, &key, &failure)?,
        }
    }
    Ok(resources)
}

async fn tables(found: &Found, wide: bool, context: &Context<'_>) -> Result<String, Fatal> {
    let mut tables = Vec::new();
    for (kind, resources) in &found.groups {
        if resources.is_empty() && found.revision.is_none() {
            continue;
        }
        let asn = match (kind, wide) {
            (Kind::Node, true) => cluster_asn(context).await?,
            _ => Asn::DEFAULT,
        };
        tables.push(columns::table(*kind, resources, wide, found.namespaces, asn).render());
    }
    Ok(tables.join("\n"))
}

/// The AS of hosts that name none.
async fn cluster_asn(context: &Context<'_>) -> Result<Asn, Fatal> {
    let key = ResourceKey::global(Kind::BgpConfiguration, "default");
    match context.client.get(&key).await {
        Ok(Some(AnyResource::BgpConfiguration(config))) => Ok(config.spec.asn()),
        Err(Failure::Store(error)) => Err(fatal(&error)),
        _ => Ok(Asn::DEFAULT),
    }
}

fn names(found: &Found) -> String {
    let resources = found.groups.iter().flat_map(|(_, resources)| resources);
    let line = |resource: &AnyResource| {
        let kind = resource.kind().as_str().to_ascii_lowercase();
        format!("{kind}/{}\n", resource.metadata().name)
    };
    resources.map(line).collect()
}

/// The one resource asked for, or a list that `apply -f` takes back.
fn value(found: &Found) -> Result<Option<Value>, Fatal> {
    let resources = found.groups.iter().flat_map(|(_, resources)| resources);
    let values: Result<Vec<Value>, _> = resources.map(serde_json::to_value).collect();
    let mut values = values.map_err(std::io::Error::from)?;
    if found.single {
        return Ok(values.pop());
    }
    let kind = match found.groups.as_slice() {
        [(kind, _)] => format!("{kind}List"),
        _ => "List".to_owned(),
    };
    let version = found
        .revision
        .map(|revision| json!({"resourceVersion": revision.to_string()}));
    let metadata = version.unwrap_or_else(|| json!({}));
    Ok(Some(json!({
        "apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "items": values,
    })))
}

fn yaml_text(found: &Found) -> Result<String, Fatal> {
    Ok(value(found)?.as_ref().map(yaml::render).unwrap_or_default())
}

fn json_text(found: &Found) -> Result<String, Fatal> {
    let Some(value) = value(found)? else {
        return Ok(String::new());
    };
    let mut text = serde_json::to_string_pretty(&value).map_err(std::io::Error::from)?;
    text.push('\n');
    Ok(text)
}
