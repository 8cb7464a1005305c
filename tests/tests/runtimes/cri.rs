//! The calls of the Container Runtime Interface (`runtime.v1`) that a kubelet makes for a pod, as far as they are needed:
//! fields that are not named here are not sent, and skipped when they come.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PodMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PortMapping {
    /// 0 TCP, 1 UDP, 2 SCTP.
    #[prost(int32, tag = "1")]
    pub(crate) protocol: i32,
    #[prost(int32, tag = "2")]
    pub(crate) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(crate) host_port: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PodConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "7")]
    pub(crate) annotations: std::collections::HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<PodLinux>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodLinux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RunPodSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<PodConfig>,
}

/// Several calls take or give nothing but an id.
#[derive(Clone, PartialEq, prost::Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox: Option<PodConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExecSync {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout_secs: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExecAnswer {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodNetwork>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodNetwork {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListAnswer {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Id>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

impl PodConfig {
    pub(crate) fn new(name: &str, cgroup: &str) -> Self {
        Self {
            metadata: Some(PodMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "shop".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            linux: Some(PodLinux {
                cgroup_parent: cgroup.to_owned(),
            }),
            ..Self::default()
        }
    }
}

/// A kubelet's end of the socket.
#[derive(Debug)]
pub(crate) struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let socket: PathBuf = socket.to_owned();
        let channel = runtime.block_on(async move {
            let dial = tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://containerd.sock").timeout(PATIENCE);
            endpoint.connect_with_connector(dial).await
        })?;
        Ok(Self { runtime, channel })
    }

    fn call<Q, A>(&self, method: &'static str, question: Q) -> Result<A>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse()?;
        let mut grpc = Grpc::new(self.channel.clone());
        let answer = self.runtime.block_on(async {
            grpc.ready().await.context("containerd does not answer")?;
            let request = tonic::Request::new(question);
            let unary = grpc.unary(request, path, ProstCodec::<Q, A>::default());
            unary.await.with_context(|| format!("{method} failed"))
        })?;
        Ok(answer.into_inner())
    }

    /// Fails with its words while the network is not ready.
    pub(crate) fn ensure_network_ready(&self) -> Result<()> {
        let answer: RuntimeStatusAnswer = self.call("Status", Nothing {})?;
        let conditions = answer.status.unwrap_or_default().conditions;
        match conditions.iter().find(|c| c.kind == "NetworkReady") {
            Some(condition) if condition.status => Ok(()),
            other => bail!("NetworkReady is {other:?}"),
        }
    }

    /// The sandbox's id.
    pub(crate) fn run_pod(&self, config: &PodConfig) -> Result<String> {
        let config = Some(config.clone());
        let answer: Id = self.call("RunPodSandbox", RunPodSandbox { config })?;
        Ok(answer.id)
    }

    pub(crate) fn pod_ip(&self, pod: &str) -> Result<std::net::IpAddr> {
        let answer: StatusAnswer = self.call("PodSandboxStatus", Id { id: pod.to_owned() })?;
        let network = answer.status.and_then(|status| status.network);
        Ok(network.context("a pod without a network")?.ip.parse()?)
    }

    /// Creates and starts a container; its id.
    pub(crate) fn run_container(
        &self,
        pod: &str,
        config: &PodConfig,
        image: &str,
        command: &[&str],
    ) -> Result<String> {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
            }),
            image: Some(Image {
                image: image.to_owned(),
            }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
        };
        let create = CreateContainer {
            pod: pod.to_owned(),
            config: Some(container),
            sandbox: Some(config.clone()),
        };
        let made: Id = self.call("CreateContainer", create)?;
        let _started: Nothing = self.call("StartContainer", made.clone())?;
        Ok(made.id)
    }

    /// What a command in the container prints; an error if it fails.
    pub(crate) fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        let question = ExecSync {
            container: container.to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout_secs: 20,
        };
        let answer: ExecAnswer = self.call("ExecSync", question)?;
        let out = String::from_utf8_lossy(&answer.stdout).into_owned();
        if answer.exit_code != 0 {
            let errors = String::from_utf8_lossy(&answer.stderr);
            bail!("{command:?} ended with {}: {out}{errors}", answer.exit_code);
        }
        Ok(out)
    }

    /// The ids of all sandboxes, ready or not.
    pub(crate) fn pods(&self) -> Result<Vec<String>> {
        let answer: ListAnswer = self.call("ListPodSandbox", Nothing {})?;
        Ok(answer.items.into_iter().map(|pod| pod.id).collect())
    }

    pub(crate) fn stop_pod(&self, pod: &str) -> Result<()> {
        let _stopped: Nothing = self.call("StopPodSandbox", Id { id: pod.to_owned() })?;
        Ok(())
    }

    pub(crate) fn remove_pod(&self, pod: &str) -> Result<()> {
        self.stop_pod(pod)?;
        let _removed: Nothing = self.call("RemovePodSandbox", Id { id: pod.to_owned() })?;
        Ok(())
    }
}
