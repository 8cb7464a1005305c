//! How CNI handlers and the rest of the agent reach the graph task.

use std::net::IpAddr;

use margay_datastore::SyncEvent;
use margay_model::kind::ResourceKey;
use margay_model::store::Revision;
use margay_model::workload_endpoint::WorkloadEndpoint;
use tokio::sync::{mpsc, oneshot};

use crate::derive::TunnelKind;
use crate::kernel::Acknowledge;

/// Handlers waiting to be heard; each waits for its answer, so more than one a container is impossible.
const MESSAGES: usize = 1024;

/// An endpoint as it was just written, by the transaction at this revision.
#[derive(Clone, Debug)]
pub(crate) struct StoredEndpoint {
    pub(crate) key: ResourceKey,
    pub(crate) endpoint: WorkloadEndpoint,
    pub(crate) mod_revision: Revision,
}

pub(super) enum Message {
    Written(Box<StoredEndpoint>, Acknowledge),
    Gone(ResourceKey, Revision, String, Acknowledge),
    Programmed(ResourceKey, Acknowledge),
    TunnelAddress(TunnelKind, Option<IpAddr>),
    TunnelHeard(TunnelKind, bool),
}

/// The way to the graph task, for CNI handlers.
#[derive(Clone, Debug)]
pub(crate) struct GraphHandle {
    messages: mpsc::Sender<Message>,
}

impl GraphHandle {
    /// Tells of an endpoint just written; returns when the kernel has its policy and routes.
    ///
    /// # Errors
    /// What the kernel refused, in words.
    pub(crate) async fn endpoint(&self, stored: StoredEndpoint) -> Result<(), String> {
        self.ask(|ack| Message::Written(Box::new(stored), ack))
            .await
    }

    /// Tells that a container's endpoint, written at `revision` or later, is about to be removed from the
    /// store; returns when the kernel has forgotten it.
    ///
    /// # Errors
    /// What the kernel refused, in words.
    pub(crate) async fn endpoint_gone(
        &self,
        key: ResourceKey,
        revision: Revision,
        container_id: &str,
    ) -> Result<(), String> {
        let container_id = container_id.to_owned();
        self.ask(|ack| Message::Gone(key, revision, container_id, ack))
            .await
    }

    /// Asks whether policy and routes of an endpoint are in the kernel.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(crate) async fn endpoint_programmed(&self, key: ResourceKey) -> Result<(), String> {
        self.ask(|ack| Message::Programmed(key, ack)).await
    }

    /// Tells of the address that a tunnel of this host has, before its Node does, or that it has none any more.
    pub(crate) async fn tunnel_address(&self, kind: TunnelKind, address: Option<IpAddr>) {
        let message = Message::TunnelAddress(kind, address);
        // The graph ends with the agent only.
        self.messages.send(message).await.unwrap_or_default();
    }

    /// Tells whether other hosts have heard what the Node tells of a tunnel; unless it is said, they have.
    pub(crate) async fn tunnel_heard(&self, kind: TunnelKind, heard: bool) {
        let message = Message::TunnelHeard(kind, heard);
        self.messages.send(message).await.unwrap_or_default();
    }

    async fn ask(&self, message: impl FnOnce(Acknowledge) -> Message) -> Result<(), String> {
        let (ack, answer) = oneshot::channel();
        let gone = || "the agent is shutting down".to_owned();
        self.messages
            .send(message(ack))
            .await
            .map_err(|_closed| gone())?;
        answer.await.unwrap_or_else(|_closed| Err(gone()))
    }
}

/// Where the graph hears from.
pub(crate) struct Inputs {
    pub(crate) resources: mpsc::Receiver<SyncEvent>,
    pub(crate) affinities: mpsc::Receiver<SyncEvent>,
    pub(super) messages: mpsc::Receiver<Message>,
}

impl Inputs {
    /// The inputs, and the handle of the third of them.
    pub(crate) fn new(
        resources: mpsc::Receiver<SyncEvent>,
        affinities: mpsc::Receiver<SyncEvent>,
    ) -> (Self, GraphHandle) {
        let (sender, messages) = mpsc::channel(MESSAGES);
        (
            Self {
                resources,
                affinities,
                messages,
            },
            GraphHandle { messages: sender },
        )
    }
}
