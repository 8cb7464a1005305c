//! One module a verb.

pub(crate) mod bgp;
pub(crate) mod checksystem;
pub(crate) mod config;
pub(crate) mod connectivity;
pub(crate) mod convert;
pub(crate) mod datastore;
pub(crate) mod delete;
pub(crate) mod diags;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod flows;
pub(crate) mod get;
pub(crate) mod install_cni;
pub(crate) mod ipam;
pub(crate) mod ipam_change;
pub(crate) mod ipam_check;
pub(crate) mod ipam_report;
pub(crate) mod modify;
pub(crate) mod node;
pub(crate) mod node_clean;
pub(crate) mod node_drain;
pub(crate) mod node_remove;
pub(crate) mod policy;
pub(crate) mod selector;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod validate;
pub(crate) mod version;
pub(crate) mod write;

use margay_model::defaults::DEFAULT_NAMESPACE;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::StoreError;

use crate::cli::Which;
use crate::failure::Fatal;

/// A kind and the names that the command line gives, `KIND NAME...` or `KIND/NAME...`.
pub(crate) struct Named {
    pub(crate) kind: Kind,
    pub(crate) names: Vec<String>,
}

impl Named {
    /// Reads the words of the command line.
    pub(crate) fn of(which: &Which) -> Result<Self, Fatal> {
        Self::parse(which.kind.as_deref().unwrap_or_default(), &which.names)
    }

    /// Reads a kind, or KIND/NAME, and further names.
    pub(crate) fn parse(word: &str, names: &[String]) -> Result<Self, Fatal> {
        let (kind, first) = match word.split_once('/') {
            Some((kind, name)) => (kind, Some(name.to_owned())),
            None => (word, None),
        };
        let kind = Kind::from_user(kind).ok_or_else(|| Fatal::kind(kind))?;
        let names: Vec<_> = first.into_iter().chain(names.iter().cloned()).collect();
        if names
            .iter()
            .any(|name| name.is_empty() || name.contains('/'))
        {
            return Err(Fatal::Usage("a name is empty or has a slash".to_owned()));
        }
        Ok(Self { kind, names })
    }

    /// The keys of the names.
    pub(crate) fn keys(&self, namespace: Option<&str>) -> impl Iterator<Item = ResourceKey> {
        let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
        self.names
            .iter()
            .map(move |name| match self.kind.namespaced() {
                true => ResourceKey::namespaced(self.kind, namespace, name),
                false => ResourceKey::global(self.kind, name),
            })
    }
}

/// A request that the whole command depends on failed.
pub(crate) fn fatal(error: &StoreError) -> Fatal {
    match error {
        StoreError::Unavailable { .. } => Fatal::Unreachable(error.to_string()),
        other => Fatal::Refused(other.to_string()),
    }
}
