//! `version`.

use std::time::Duration;

use margay_model::any::AnyResource;
use margay_model::duration::GoDuration;
use margay_model::kind::{Kind, ResourceKey};

use crate::agent::Agent;
use crate::context::Context;
use crate::failure::{Failure, Fatal, single};
use crate::verbs::fatal;

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints versions; those of agent and cluster only if they can be reached. With an interval it goes on, and prints
/// them again when they are others.
pub(crate) async fn version(
    client_only: bool,
    poll: Option<GoDuration>,
    context: &mut Context<'_>,
) -> Result<(), Fatal> {
    context.streams.say(&format!("Client:   {VERSION}"))?;
    if client_only {
        return Ok(());
    }
    let mut said = Vec::new();
    loop {
        let lines = vec![agent(context).await, cluster(context).await?];
        if lines != said {
            for line in &lines {
                match line {
                    Ok(line) => context.streams.say(line)?,
                    Err(line) => context.streams.fail(line)?,
                }
            }
            context.streams.stdout.flush()?;
            said = lines;
        }
        let Some(interval) = poll else { return Ok(()) };
        // Less would do nothing but ask.
        tokio::time::sleep(interval.0.max(Duration::from_secs(1))).await;
    }
}

async fn agent(context: &Context<'_>) -> Result<String, String> {
    match Agent::Here(&context.socket).status().await {
        Ok(status) => Ok(format!("Agent:    {}", status.version)),
        Err(error) => Err(error.to_string()),
    }
}

async fn cluster(context: &Context<'_>) -> Result<Result<String, String>, Fatal> {
    let key = ResourceKey::global(Kind::ClusterInformation, "default");
    Ok(match context.client.get(&key).await {
        Ok(Some(AnyResource::ClusterInformation(info))) if info.spec.cluster_guid.is_empty() => {
            Ok("Cluster:  (no identifier)".to_owned())
        }
        Ok(Some(AnyResource::ClusterInformation(info))) => {
            Ok(format!("Cluster:  {}", info.spec.cluster_guid))
        }
        Ok(_) => Ok("Cluster:  (no ClusterInformation)".to_owned()),
        Err(Failure::Store(error)) => return Err(fatal(&error)),
        Err(failure) => Err(single(&key, &failure)?),
    })
}
