//! Keys that belong to one process for as long as it lives: a leader's, or a sign of life.

use std::time::Duration;

use margay_model::store::StoreError;

use crate::any::AnyStore;

/// A key that one process at a time holds. It goes by itself when its holder has not renewed it for the
/// time to live; so does the claim, silently: whoever acts on it must still compare what it changes.
#[derive(Debug)]
pub struct Claim {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) ttl: Duration,
    /// Of etcd; none before the first attempt, and after one that was lost.
    pub(crate) lease: Option<i64>,
}

impl Claim {
    /// On `key`, with `value` for who claims: a key that is there with the same value was left by an
    /// earlier process of the same claimant, and is taken over. The time to live counts in whole seconds, at least one.
    pub fn new(key: impl Into<String>, value: impl Into<String>, ttl: Duration) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            ttl,
            lease: None,
        }
    }
}

impl AnyStore {
    /// Takes or renews a claim; false while somebody else holds the key. A store that has a single user
    /// writes nothing and always says yes; through an agent's socket nothing can be claimed.
    pub async fn hold(&self, claim: &mut Claim) -> Result<bool, StoreError> {
        match self {
            Self::Etcd(store) => store.hold(claim).await,
            Self::Embedded(_) | Self::Memory(_) => Ok(true),
            Self::Socket(_) => Ok(false),
        }
    }

    /// Gives a claim up before its time. Not held is success.
    pub async fn let_go(&self, claim: &mut Claim) -> Result<(), StoreError> {
        match self {
            Self::Etcd(store) => store.let_go(claim).await,
            Self::Embedded(_) | Self::Memory(_) | Self::Socket(_) => Ok(()),
        }
    }
}
