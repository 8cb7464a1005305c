//! The `ClusterInformation` resource: facts about the cluster as a whole.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};

/// Facts about the cluster; there is one, named `default`.
pub type ClusterInformation = Resource<ClusterInformationSpec>;

/// Facts about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// Identifies the cluster.
    #[serde(
        rename = "clusterGUID",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub cluster_guid: String,
    /// Kinds of orchestrators, separated by commas.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_type: String,
    /// Version of the system that wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub calico_version: String,
    /// `false` while the datastore is locked for a migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    /// Variant of the system that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for ClusterInformationSpec {
    const KIND: Kind = Kind::ClusterInformation;
}
