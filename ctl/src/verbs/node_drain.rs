//! `node drain` and `node undrain`: before and after work on a host.

use margay_model::kind::{Kind, ResourceKey};
use margay_model::node::DRAIN_ANNOTATION;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Fatal;
use crate::verbs::modify::modify;

/// Asks the neighbours of a host, by way of its agent, to prefer other paths, or not any more. What is
/// asked is kept in the Node, so that it outlives a restart of the agent.
pub(crate) async fn drain(name: &str, on: bool, context: &mut Context<'_>) -> Result<(), Fatal> {
    let key = ResourceKey::global(Kind::Node, name);
    let change = |resource: &mut Value| {
        if let Value::Object(metadata) = &mut resource["metadata"] {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Value::Object(annotations) = annotations {
                if on {
                    annotations.insert(DRAIN_ANNOTATION.to_owned(), json!("true"));
                } else {
                    annotations.remove(DRAIN_ANNOTATION);
                }
            }
        }
        Ok(())
    };
    modify(&key, &change, context).await
}
