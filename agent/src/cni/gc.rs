//! GC: every attachment of the network that the runtime does not list goes, as by DEL.

use std::collections::BTreeSet;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use serde::Deserialize;
use tracing::info;

use super::netconf::Call;
use super::{Cni, HANDLE_ANNOTATION, delegate};

#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "cni.dev/valid-attachments")]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Attachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl Cni {
    /// Keeps going when one attachment cannot be removed, and reports all such at the end.
    pub(super) async fn collect_garbage(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<CniReply, CniError> {
        let valid: Valid = serde_json::from_str(&request.config).map_err(|e| {
            CniError::new(
                code::DECODING_FAILURE,
                "cni.dev/valid-attachments does not decode",
            )
            .with_details(e.to_string())
        })?;
        // Without a list nothing is known to be valid, and an empty guess would remove everything.
        let Some(valid) = valid.attachments else {
            let msg = "cni.dev/valid-attachments is missing, GC needs the list of what to keep";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        let valid: BTreeSet<Attachment> = valid.into_iter().collect();
        let world = self.synced_world().await?;
        let of_network = format!("{}.", header.name);
        let mut problems = Vec::new();
        for (key, endpoint) in world.endpoints.iter() {
            let handle = endpoint
                .resource
                .metadata
                .annotations
                .get(HANDLE_ANNOTATION);
            let spec = &endpoint.resource.spec;
            let attachment = Attachment {
                container_id: spec.container_id.clone(),
                ifname: spec.endpoint.clone(),
            };
            let ours = handle.is_some_and(|handle| handle.starts_with(&of_network));
            if !ours || valid.contains(&attachment) {
                continue;
            }
            let _turn = self.turns.take(&attachment.container_id).await;
            if self.world().endpoints.get(key) != Some(endpoint) {
                // An ADD or a DEL of it came meanwhile.
                continue;
            }
            info!(
                container = attachment.container_id,
                "not in the runtime's list, removed"
            );
            let del = CniRequest {
                command: "DEL".into(),
                container_id: attachment.container_id,
                ifname: attachment.ifname,
                netns: String::new(),
                ..request.clone()
            };
            if let Err(error) = self.delete(&del, header).await {
                problems.push(format!("{}: {}", del.container_id, error.msg));
            }
        }
        if let Ok(call) = Call::parse(request, header)
            && let Some(plugin) = &call.delegate
            && let Err(error) = delegate::forward(plugin, "GC", request).await
        {
            problems.push(format!("{plugin}: {}", error.msg));
        }
        if problems.is_empty() {
            return Ok(CniReply::done());
        }
        Err(CniError::new(
            code::TRY_AGAIN_LATER,
            "some attachments could not be removed",
        )
        .with_details(problems.join("; ")))
    }
}
