//! `delete`.

use margay_model::ipam::{IpamKeys, Owner};
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::Store;

use crate::cli::Which;
use crate::context::Context;
use crate::failure::{Failure, Fatal};
use crate::files;
use crate::verbs::{Named, fatal};

/// What is to be deleted, where it is named, and the version it must have.
struct Target {
    place: Option<String>,
    key: ResourceKey,
    version: Option<String>,
}

/// Deletes all that is named and can be deleted.
pub(crate) async fn delete(
    which: &Which,
    skip_missing: bool,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    for target in targets(which, context)? {
        let Target {
            place,
            key,
            version,
        } = target;
        let word = match context.client.delete(&key, version.as_deref()).await {
            Ok(()) => "deleted",
            Err(Failure::Missing) if skip_missing => "does not exist, skipped",
            Err(failure) => {
                context.streams.fail_one(place.as_deref(), &key, &failure)?;
                continue;
            }
        };
        context.streams.say(&format!("{key}: {word}"))?;
        if key.kind == Kind::Node {
            remind(&key.name, context).await?;
        }
    }
    Ok(())
}

/// Deleting a node frees nothing: says how to, where there is something to free.
async fn remind(node: &str, context: &mut Context<'_>) -> Result<(), Fatal> {
    let keys = IpamKeys::new(context.client.keys.prefix());
    let owner = Owner::Host(node.to_owned());
    let listing = context.client.store.list(&keys.affinities(&owner)).await;
    match listing.map_err(|error| fatal(&error))?.kvs.len() {
        0 => Ok(()),
        blocks => context.streams.say(&format!(
            "Node/{node}: its {blocks} blocks and their addresses stay; \
             margayctl node remove {node} gives them back"
        )),
    }
}

fn targets(which: &Which, context: &mut Context<'_>) -> Result<Vec<Target>, Fatal> {
    let namespace = which.namespace.as_deref();
    if which.file.is_empty() {
        let named = Named::of(which)?;
        if named.names.is_empty() {
            let words = "NAME: found nothing, allowed: at least one name";
            return Err(Fatal::Usage(words.to_owned()));
        }
        let target = |key| Target {
            place: None,
            key,
            version: None,
        };
        return Ok(named.keys(namespace).map(target).collect());
    }
    let streams = &mut context.streams;
    let mut targets = Vec::new();
    for source in files::read_which(which, streams.stdin)? {
        match source.result {
            Ok(resource) => targets.push(Target {
                place: Some(source.place),
                key: resource.key(),
                version: resource.metadata().resource_version.clone(),
            }),
            Err(errors) => {
                for error in errors {
                    streams.fail(&format!("{}: {error}", source.place))?;
                }
            }
        }
    }
    // What was created first may be needed by what came later.
    targets.reverse();
    Ok(targets)
}
