//! `CNI_ARGS`: pairs of key and value from the runtime.

use std::collections::BTreeMap;

use margay_api::cni::{CniError, code};

use super::annotations::is_annotation;
use super::netconf::Pod;

/// `CNI_ARGS`. Unknown keys are tolerated whether or not `IgnoreUnknown` is set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) pod: Option<Pod>,
    pub(super) ip: Option<String>,
    pub(super) mac: Option<String>,
    pub(super) identity: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Args {
    pub(super) fn parse(text: &str) -> Result<Self, CniError> {
        let (mut namespace, mut name) = (None, None);
        let mut args = Self::default();
        for pair in text.split(';').filter(|p| !p.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::new(
                    code::INVALID_ENVIRONMENT,
                    format!("CNI_ARGS has {pair:?}, must be KEY=VALUE pairs joined by ';'"),
                ));
            };
            let value = Some(value.to_owned()).filter(|v| !v.is_empty());
            match key {
                "K8S_POD_NAMESPACE" => namespace = value,
                "K8S_POD_NAME" => name = value,
                "IP" => args.ip = value,
                "MAC" => args.mac = value,
                "MARGAY_IDENTITY" => args.identity = value,
                key if is_annotation(key) => {
                    args.annotations
                        .insert(key.to_owned(), value.unwrap_or_default());
                }
                _ => {}
            }
        }
        args.pod = namespace
            .zip(name)
            .map(|(namespace, name)| Pod { namespace, name });
        Ok(args)
    }
}
