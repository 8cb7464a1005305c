//! Names and labels of containers, which no call of the plugin interface tells: asked of dockerd afterwards.
//!
//! Afterwards, because dockerd does not answer for a container that it is starting. Until the labels are there, policies
//! that select them do not apply, and the network's profile does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use margay_model::kind::ResourceKey;
use margay_model::workload_endpoint::WorkloadEndpoint;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tracing::{debug, info, warn};

use super::endpoint::NETWORK_ID;
use super::options::{LABEL, is_label};
use super::protocol::TextOptions;
use super::{Driver, ORCHESTRATOR};

/// The container's id; its presence says that dockerd was asked.
pub(super) const CONTAINER_ANNOTATION: &str = "margay.io/docker-container";
/// What the container is called in its network: name, host name and aliases, with blanks between.
pub(crate) const NAMES_ANNOTATION: &str = "margay.io/names";
/// What people call the network, where the endpoint's own data does not tell.
pub(crate) const NETWORKS_ANNOTATION: &str = "margay.io/networks";

/// Labels of containers that begin so become labels of endpoints; the second is the established system's.
const CONTAINER_LABELS: [&str; 2] = [LABEL, "org.projectcalico.label."];

/// The first pause before dockerd is asked (again); each is longer by half.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// About two minutes in all.
const ATTEMPTS: u32 = 35;

const ANSWER: Duration = Duration::from_secs(10);
/// A network of thousands of containers fits.
const ANSWER_MAX: usize = 32 << 20;

/// What dockerd says of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Description {
    container: String,
    name: String,
    names: BTreeSet<String>,
    network: String,
    labels: Vec<(String, String)>,
}

impl Driver {
    /// Those that an earlier agent did not get to.
    pub(super) async fn describe_all(self: Arc<Self>) {
        let Ok(world) = self.synced_world().await else {
            return;
        };
        for (key, endpoint) in world.endpoints.iter() {
            let (spec, annotations) = (
                &endpoint.resource.spec,
                &endpoint.resource.metadata.annotations,
            );
            if let Some(network) = annotations.get(NETWORK_ID)
                && spec.orchestrator == ORCHESTRATOR
                && !annotations.contains_key(CONTAINER_ANNOTATION)
            {
                self.describe_later(key.clone(), network, &spec.endpoint);
            }
        }
    }

    pub(super) fn describe_later(
        self: &Arc<Self>,
        key: ResourceKey,
        network: &str,
        endpoint: &str,
    ) {
        let Some(api) = self.config.api.clone() else {
            return;
        };
        let driver = Arc::clone(self);
        let (network, endpoint) = (network.to_owned(), endpoint.to_owned());
        tokio::spawn(async move { driver.describe(key, api, &network, &endpoint).await });
    }

    async fn describe(&self, key: ResourceKey, api: PathBuf, network: &str, endpoint: &str) {
        let mut pause = FIRST_PAUSE;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
            if !self.world.borrow().endpoints.contains_key(&key) {
                return;
            }
            match ask(&api, network, endpoint).await {
                Ok(found) => {
                    let amended = self
                        .amend(&key, |endpoint| found.write_into(endpoint))
                        .await;
                    match amended {
                        Ok(_) => return debug!(container = found.container, "described"),
                        Err(error) => last = error.to_string(),
                    }
                }
                Err(error) => last = error,
            }
        }
        info!(
            endpoint,
            error = last,
            "dockerd tells no name and no labels of a container"
        );
    }
}

impl Description {
    fn new(network: &Value, id: &str, container: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let network = text(&network["Name"]);
        let name = text(&container["Name"]).trim_start_matches('/').to_owned();
        let attachment = &container["NetworkSettings"]["Networks"][network.as_str()];
        let mut names = BTreeSet::from([name.clone(), text(&container["Config"]["Hostname"])]);
        for list in ["Aliases", "DNSNames"] {
            let listed = attachment[list].as_array().into_iter().flatten();
            names.extend(listed.map(text));
        }
        // By default a container's host name, and an alias, are the first digits of its id.
        names.retain(|name| {
            !name.is_empty()
                && !name.contains(char::is_whitespace)
                && !id.starts_with(name.as_str())
        });
        let labels = container["Config"]["Labels"].clone();
        let labels: TextOptions = serde_json::from_value(labels).unwrap_or_default();
        Self {
            container: id.to_owned(),
            name,
            names,
            network,
            labels: wanted_labels(labels),
        }
    }

    fn write_into(&self, endpoint: &mut WorkloadEndpoint) -> bool {
        let before = endpoint.clone();
        endpoint.spec.workload.clone_from(&self.name);
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let metadata = &mut endpoint.metadata;
        metadata.labels.extend(self.labels.iter().cloned());
        metadata.annotations.extend([
            (CONTAINER_ANNOTATION.to_owned(), self.container.clone()),
            (NAMES_ANNOTATION.to_owned(), names.join(" ")),
            (NETWORKS_ANNOTATION.to_owned(), self.network.clone()),
        ]);
        *endpoint != before
    }
}

fn wanted_labels(labels: TextOptions) -> Vec<(String, String)> {
    let mut wanted = Vec::new();
    for (label, value) in labels {
        let mut prefixes = CONTAINER_LABELS.iter();
        let Some(name) = prefixes.find_map(|prefix| label.strip_prefix(prefix)) else {
            continue;
        };
        match is_label(name, &value) {
            true => wanted.push((name.to_owned(), value)),
            false => warn!(
                label,
                value, "a container's label is no label of ours, left out"
            ),
        }
    }
    wanted
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Member {
    #[serde(rename = "EndpointID")]
    endpoint: String,
}

/// What is not there yet is an error as well.
async fn ask(api: &Path, network: &str, endpoint: &str) -> Result<Description, String> {
    let network = get(api, &format!("/networks/{network}")).await?;
    let members = network["Containers"].as_object().into_iter().flatten();
    let mut members = members.filter(|(_, member)| {
        let member = serde_json::from_value::<Member>((*member).clone());
        member.is_ok_and(|member| member.endpoint == endpoint)
    });
    let (id, _) = members
        .next()
        .ok_or("its network has no container with this endpoint")?;
    let container = get(api, &format!("/containers/{id}/json")).await?;
    Ok(Description::new(&network, id, &container))
}

pub(super) async fn get(api: &Path, path: &str) -> Result<Value, String> {
    let fetched = tokio::time::timeout(ANSWER, fetch(api, path)).await;
    let at = api.display();
    match fetched {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{at}: {error:#}")),
        Err(_elapsed) => Err(format!("{at}: no answer within {} s", ANSWER.as_secs())),
    }
}

async fn fetch(api: &Path, path: &str) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(api).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender.
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, "docker")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    anyhow::ensure!(status.is_success(), "{path}: {status}");
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use margay_model::meta::{ObjectMeta, Resource};
    use margay_model::workload_endpoint::WorkloadEndpointSpec;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_called_by_name_host_name_and_aliases_but_not_by_its_id() {
        let network = json!({"Name": "front"});
        let container = json!({"Name": "/shop", "Config": {"Hostname": "0123456789ab", "Labels": {
            "margay.label.role": "web", "org.projectcalico.label.tier": "a", "margay.label.bad": "a b",
            "other": "x"}}, "NetworkSettings": {"Networks": {"front": {"Aliases": ["www",
            "0123456789ab"]}, "back": {"Aliases": ["inner"]}}}});
        let found = Description::new(&network, "0123456789abcdef", &container);
        assert_eq!(
            found.names,
            BTreeSet::from(["shop".to_owned(), "www".to_owned()])
        );
        let labels = [("role", "web"), ("tier", "a")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(
            BTreeSet::from_iter(found.labels.clone()),
            BTreeSet::from(labels)
        );

        let metadata = ObjectMeta::namespaced("libnetwork", "e");
        let mut endpoint = Resource::new(metadata, WorkloadEndpointSpec::default());
        assert!(found.write_into(&mut endpoint));
        assert!(!found.write_into(&mut endpoint));
        assert_eq!(endpoint.spec.workload, "shop");
        assert_eq!(endpoint.metadata.annotations[NAMES_ANNOTATION], "shop www");
        assert_eq!(endpoint.metadata.labels["tier"], "a");
    }

    #[test]
    fn whatever_dockerd_says_is_survived() {
        for value in [
            json!(null),
            json!([]),
            json!({"Name": 1, "Config": []}),
            json!("x"),
        ] {
            Description::new(&value, "id", &value);
        }
    }
}
