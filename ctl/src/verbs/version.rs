//! `version`.

use margay_model::any::AnyResource;
use margay_model::kind::{Kind, ResourceKey};

use crate::agent::Agent;
use crate::context::Context;
use crate::failure::{Failure, Fatal};
use crate::verbs::fatal;

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints versions; those of agent and cluster only if they can be reached.
pub(crate) async fn version(client_only: bool, context: &mut Context<'_>) -> Result<(), Fatal> {
    context.streams.say(&format!("Client:   {VERSION}"))?;
    if client_only {
        return Ok(());
    }
    match Agent::Here(&context.socket).status().await {
        Ok(status) => context
            .streams
            .say(&format!("Agent:    {}", status.version))?,
        Err(error) => context.streams.fail(&error.to_string())?,
    }
    let key = ResourceKey::global(Kind::ClusterInformation, "default");
    match context.client.get(&key).await {
        Ok(Some(AnyResource::ClusterInformation(info))) => {
            let cluster = if info.spec.cluster_guid.is_empty() {
                "(no identifier)"
            } else {
                info.spec.cluster_guid.as_str()
            };
            context.streams.say(&format!("Cluster:  {cluster}"))
        }
        Ok(_) => context.streams.say("Cluster:  (no ClusterInformation)"),
        Err(Failure::Store(error)) => Err(fatal(&error)),
        Err(failure) => context.streams.fail_one(None, &key, &failure),
    }
}
