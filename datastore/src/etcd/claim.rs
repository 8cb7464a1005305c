//! Claims as keys with a lease.

use etcd_client::{Client, Compare, CompareOp, Error, PutOptions, Txn, TxnOp};
use margay_model::store::StoreError;
use tokio::time::timeout;

use super::EtcdStore;
use super::error::Failure;
use crate::claim::Claim;

impl EtcdStore {
    pub(crate) async fn hold(&self, claim: &mut Claim) -> Result<bool, StoreError> {
        let time = self.0.request_timeout();
        let attempt = async {
            let (index, client) = self.0.client().await?;
            let held = hold_at(client, claim).await;
            if let Err(Failure::Unsent(_) | Failure::Unknown(_)) = &held {
                self.0.leave(index);
            }
            held
        };
        let held = timeout(time, attempt).await;
        let held = held.unwrap_or_else(|_elapsed| Err(Failure::timeout(time)));
        held.map_err(|failure| failure.into_store_error(&claim.key))
    }
}

impl EtcdStore {
    pub(crate) async fn let_go(&self, claim: &mut Claim) -> Result<(), StoreError> {
        let Some(lease) = claim.lease.take() else {
            return Ok(());
        };
        let time = self.0.request_timeout();
        let attempt = async {
            let (_, client) = self.0.client().await?;
            client.lease_client().revoke(lease).await?;
            Ok::<_, Failure>(())
        };
        let gone = timeout(time, attempt).await;
        let gone = gone.unwrap_or_else(|_elapsed| Err(Failure::timeout(time)));
        gone.map_err(|failure| failure.into_store_error(&claim.key))
    }
}

async fn hold_at(client: Client, claim: &mut Claim) -> Result<bool, Failure> {
    if let Some(lease) = claim.lease
        && renew(&client, lease).await?
        && owner(&client, &claim.key)
            .await?
            .is_some_and(|o| o.lease == lease)
    {
        return Ok(true);
    }
    claim.lease = None;
    let before = owner(&client, &claim.key).await?;
    if before
        .as_ref()
        .is_some_and(|o| o.value != claim.value.as_bytes())
    {
        return Ok(false);
    }
    let secs = i64::try_from(claim.ttl.as_secs()).unwrap_or(i64::MAX);
    let lease = client.lease_client().grant(secs.max(1), None).await?.id();
    let put = TxnOp::put(
        claim.key.as_str(),
        claim.value.as_str(),
        Some(PutOptions::new().with_lease(lease)),
    );
    let seen = before.map_or(0, |owner| owner.revision);
    let unchanged = Compare::mod_revision(claim.key.as_str(), CompareOp::Equal, seen);
    let txn = Txn::new().when([unchanged]).and_then([put]);
    let won = client.kv_client().txn(txn).await?.succeeded();
    if won {
        claim.lease = Some(lease);
    } else {
        client.lease_client().revoke(lease).await?;
    }
    Ok(won)
}

/// Whether the lease was still there.
async fn renew(client: &Client, lease: i64) -> Result<bool, Failure> {
    let (mut keeper, mut answers) = match client.lease_client().keep_alive(lease).await {
        // The client's words for a lease that is gone.
        Err(Error::LeaseKeepAliveError(_)) => return Ok(false),
        begun => begun?,
    };
    keeper.keep_alive().await?;
    let answer = answers.message().await?;
    Ok(answer.is_some_and(|answer| answer.ttl() > 0))
}

/// What a claimed key says.
struct Owner {
    value: Vec<u8>,
    /// 0 for a key that was written without.
    lease: i64,
    revision: i64,
}

async fn owner(client: &Client, key: &str) -> Result<Option<Owner>, Failure> {
    let found = client.kv_client().get(key, None).await?;
    Ok(found.kvs().first().map(|kv| Owner {
        value: kv.value().to_vec(),
        lease: kv.lease(),
        revision: kv.mod_revision(),
    }))
}
