//! What every resource has in common: metadata around a spec.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::kind::{Kind, ResourceKey};

/// The `apiVersion` of every resource of ours.
pub const API_VERSION: &str = "projectcalico.org/v3";

/// Fields that this release does not know, kept so that a read-modify-write loses nothing.
pub type Extra = BTreeMap<String, Value>;

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// Name, labels and bookkeeping of a resource. Fields stand in the established order of writing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Unique within kind and namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Only for namespaced kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Set once, when the resource is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The store's revision of the last change; filled on reading, never stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Counts changes of the spec, where the writer keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// RFC 3339, whole seconds, UTC. Set once, when the resource is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Matched by selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: StringMap,
    /// Not matched by anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: StringMap,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ObjectMeta {
    /// Metadata of a cluster-wide resource that has only a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Metadata of a namespaced resource that has only its two names.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: Some(namespace.into()),
            ..Self::named(name)
        }
    }
}

/// The spec of one kind.
pub trait Spec:
    Clone + std::fmt::Debug + PartialEq + Serialize + for<'de> Deserialize<'de>
{
    /// The kind whose spec this is.
    const KIND: Kind;
}

/// A resource of a known kind.
///
/// Serializes as the established system writes it: kind, apiVersion, metadata, spec, then whatever
/// else it carried (a status).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(bound = "S: Spec", from = "Fields<S>")]
pub struct Resource<S> {
    /// Name, labels and bookkeeping.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
    /// Members beside metadata and spec, for example `status`.
    pub extra: Extra,
}

impl<S: Spec> Resource<S> {
    /// A resource without anything beside metadata and spec.
    pub const fn new(metadata: ObjectMeta, spec: S) -> Self {
        Self {
            metadata,
            spec,
            extra: Extra::new(),
        }
    }

    /// What identifies the resource in the store.
    pub fn key(&self) -> ResourceKey {
        ResourceKey {
            kind: S::KIND,
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }
}

impl<S: Spec> Serialize for Resource<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", S::KIND.as_str())?;
        map.serialize_entry("apiVersion", API_VERSION)?;
        map.serialize_entry("metadata", &self.metadata)?;
        map.serialize_entry("spec", &self.spec)?;
        for (name, value) in &self.extra {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[derive(Deserialize)]
#[serde(bound = "S: Spec")]
struct Fields<S> {
    metadata: ObjectMeta,
    spec: S,
    #[serde(flatten)]
    extra: Extra,
}

impl<S> From<Fields<S>> for Resource<S> {
    fn from(mut fields: Fields<S>) -> Self {
        fields.extra.remove("kind");
        fields.extra.remove("apiVersion");
        Self {
            metadata: fields.metadata,
            spec: fields.spec,
            extra: fields.extra,
        }
    }
}
