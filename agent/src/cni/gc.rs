//! GC: every attachment of the network that the runtime does not list goes, as by DEL.

use std::collections::BTreeSet;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use serde::Deserialize;
use tracing::info;

use super::netconf::Call;
use super::{Cni, delegate, is_of_network};

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

impl Attachment {
    fn del(&self, request: &CniRequest) -> CniRequest {
        CniRequest {
            command: "DEL".into(),
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
            netns: String::new(),
            ..request.clone()
        }
    }
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
        let mut problems = Vec::new();
        for (key, endpoint) in world.endpoints.iter() {
            let spec = &endpoint.resource.spec;
            let attachment = Attachment {
                container_id: spec.container_id.clone(),
                ifname: spec.endpoint.clone(),
            };
            if !is_of_network(&endpoint.resource, &header.name) || valid.contains(&attachment) {
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
            let del = attachment.del(request);
            if let Err(error) = self.delete(&del, header).await {
                problems.push(format!("{}: {}", del.container_id, error.msg));
            }
        }
        problems.extend(self.give_back_all(header, &valid).await);
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
    /// What an ADD that was cut off had from another plugin before there was an endpoint.
    async fn give_back_all(&self, header: &Header, valid: &BTreeSet<Attachment>) -> Vec<String> {
        let mut problems = Vec::new();
        for entry in self.given.entries() {
            let given = &entry.request;
            let attachment = Attachment {
                container_id: given.container_id.clone(),
                ifname: given.ifname.clone(),
            };
            let network = Header::parse(&given.config).map(|h| h.name);
            if network.as_ref() != Ok(&header.name) || valid.contains(&attachment) {
                continue;
            }
            let _turn = self.turns.take(&attachment.container_id).await;
            if let Err(error) = self.give_back(given, None).await {
                problems.push(format!("{}: {}", attachment.container_id, error.msg));
            }
        }
        problems
    }
}
