//! How containers are, as dockerd's own checks have it (`HEALTHCHECK`): told in their endpoints, for the responder of names.
//!
//! Asked rather than listened to: an answer says how all of them are, also after dockerd or this agent was away.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use margay_model::kind::ResourceKey;
use margay_model::workload_endpoint::WorkloadEndpoint;
use serde_json::Value;
use tracing::{debug, info, warn};

use super::describe::{CONTAINER_ANNOTATION, get};
use super::{Driver, ORCHESTRATOR};
use crate::dns::{HEALTH_ANNOTATION, UNHEALTHY};

/// Between two questions: about what people let between two of dockerd's checks.
const PAUSE: Duration = Duration::from_secs(5);

/// `{"health":["unhealthy"]}`
const UNHEALTHY_ONES: &str = "/containers/json?filters=%7B%22health%22%3A%5B%22unhealthy%22%5D%7D";

impl Driver {
    /// Asks every so often, for ever.
    pub(super) async fn follow_health(self: Arc<Self>) {
        let Some(api) = self.config.api.clone() else {
            return;
        };
        loop {
            tokio::time::sleep(PAUSE).await;
            let known = self.described();
            if known.is_empty() {
                continue;
            }
            match unhealthy(&api).await {
                Ok(unhealthy) => self.mark(known, &unhealthy).await,
                // Without its word they are as they were.
                Err(error) => debug!(error, "dockerd does not say how containers are"),
            }
        }
    }

    /// Endpoints whose containers dockerd has told: key, id, and whether it counts as unhealthy.
    fn described(&self) -> Vec<(ResourceKey, String, bool)> {
        let world = self.world.borrow();
        let docker = world
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.resource.spec.orchestrator == ORCHESTRATOR);
        let told = docker.filter_map(|(key, endpoint)| {
            let annotations = &endpoint.resource.metadata.annotations;
            let id = annotations.get(CONTAINER_ANNOTATION)?.clone();
            Some((key.clone(), id, is_marked(&endpoint.resource)))
        });
        told.collect()
    }

    async fn mark(&self, known: Vec<(ResourceKey, String, bool)>, unhealthy: &BTreeSet<String>) {
        for (key, id, marked) in known {
            let wanted = unhealthy.contains(&id);
            if wanted == marked {
                continue;
            }
            let change = |endpoint: &mut WorkloadEndpoint| {
                let annotations = &mut endpoint.metadata.annotations;
                match wanted {
                    true => annotations.insert(HEALTH_ANNOTATION.to_owned(), UNHEALTHY.to_owned()),
                    false => annotations.remove(HEALTH_ANNOTATION),
                };
                is_marked(endpoint) != marked
            };
            match self.amend(&key, change).await {
                Ok(_) => info!(endpoint = %key, healthy = !wanted, "health of a container"),
                Err(error) => warn!(endpoint = %key, %error, "health of a container is not told"),
            }
        }
    }
}

fn is_marked(endpoint: &WorkloadEndpoint) -> bool {
    let told = endpoint.metadata.annotations.get(HEALTH_ANNOTATION);
    told.is_some_and(|told| told == UNHEALTHY)
}

async fn unhealthy(api: &Path) -> Result<BTreeSet<String>, String> {
    match get(api, UNHEALTHY_ONES).await? {
        Value::Array(listed) => {
            let ids = listed.iter().filter_map(|one| one["Id"].as_str());
            Ok(ids.map(str::to_owned).collect())
        }
        other => Err(format!("no list of containers: {other}")),
    }
}
