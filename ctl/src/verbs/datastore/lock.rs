//! `datastore lock` and `unlock`.

use margay_model::any::AnyResource;
use margay_model::cluster_information::ClusterInformationSpec;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::meta::{ObjectMeta, Resource};

use crate::client::{Mode, Written};
use crate::context::Context;
use crate::failure::{Failure, Fatal};

/// How often it starts over when somebody else was faster.
const ATTEMPTS: usize = 5;

/// Says whether the datastore is ready, in `ClusterInformation/default`.
pub(crate) async fn set(ready: bool, context: &mut Context<'_>) -> Result<(), Fatal> {
    let key = ResourceKey::global(Kind::ClusterInformation, "default");
    let mut result = try_set(&key, ready, context).await;
    for _ in 1..ATTEMPTS {
        if !matches!(&result, Err(Failure::Conflict { .. } | Failure::Exists)) {
            break;
        }
        result = try_set(&key, ready, context).await;
    }
    let word = if ready { "unlocked" } else { "locked" };
    match result {
        Ok(Written::Unchanged) => context
            .streams
            .say(&format!("Datastore was {word} already.")),
        Ok(_) => context.streams.say(&format!("Datastore {word}.")),
        Err(failure) => context.streams.fail_one(None, &key, &failure),
    }
}

async fn try_set(
    key: &ResourceKey,
    ready: bool,
    context: &Context<'_>,
) -> Result<Written, Failure> {
    let client = &context.client;
    let Some(AnyResource::ClusterInformation(mut info)) = client.get(key).await? else {
        let spec = ClusterInformationSpec {
            cluster_guid: (client.new_uid)().replace('-', ""),
            datastore_ready: Some(ready),
            ..ClusterInformationSpec::default()
        };
        let info = Resource::new(ObjectMeta::named("default"), spec);
        return client.write(Mode::Create, info.into()).await;
    };
    info.spec.datastore_ready = Some(ready);
    client.write(Mode::Replace, info.into()).await
}
