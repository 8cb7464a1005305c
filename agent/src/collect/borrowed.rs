//! Tells each node in which blocks of others it holds addresses, so that its own agent looks there as well:
//! it alone knows which of them its workloads have.

use std::collections::{BTreeMap, BTreeSet};

use margay_ipam::own_keys;
use margay_ipam::sticky::Held;
use margay_model::ipam::{BlockCidr, Owner};
use margay_model::store::{Store, Txn, TxnOutcome};
use tracing::debug;

use super::{CollectError, Collector};

/// Blocks of others by the node that holds addresses in them.
pub(super) fn by_node(
    held: &[Held],
    owners: &BTreeMap<BlockCidr, Option<Owner>>,
) -> BTreeMap<String, BTreeSet<BlockCidr>> {
    let mut borrowed: BTreeMap<String, BTreeSet<BlockCidr>> = BTreeMap::new();
    for held in held {
        let Some(node) = held.attr("node") else {
            continue;
        };
        let owner = owners.get(&held.address.block).and_then(Option::as_ref);
        if !matches!(owner, Some(Owner::Host(host)) if host == node) {
            let blocks = borrowed.entry(node.to_owned()).or_default();
            blocks.insert(held.address.block);
        }
    }
    borrowed
}

/// Brings what is written in line with what is so.
pub(super) async fn tell(
    collector: &Collector,
    borrowed: &BTreeMap<String, BTreeSet<BlockCidr>>,
) -> Result<(), CollectError> {
    let prefix = own_keys::borrowed(collector.keys.prefix());
    let told = collector.store.list(&prefix).await?.kvs;
    let mut txns = Vec::new();
    for kv in &told {
        let node = kv.key.strip_prefix(&prefix).unwrap_or_default();
        let txn = Txn::default().when(kv.key.as_str(), kv.mod_revision);
        match borrowed.get(node).map(own_keys::borrowed_value) {
            None => txns.push(txn.delete(kv.key.as_str())),
            Some(value) if value.as_bytes() != kv.value => {
                txns.push(txn.put(kv.key.as_str(), value));
            }
            Some(_) => {}
        }
    }
    for (node, blocks) in borrowed {
        let key = prefix.clone() + node;
        if told.iter().all(|kv| kv.key != key) {
            let value = own_keys::borrowed_value(blocks);
            txns.push(Txn::default().when(key.as_str(), 0).put(key, value));
        }
    }
    for txn in txns {
        if let TxnOutcome::Conflict(_) = collector.store.txn(txn).await? {
            debug!("another leader tells who borrows");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use margay_ipam::Address;
    use margay_model::ipam::AllocationAttribute;

    use super::*;

    #[test]
    fn a_block_is_borrowed_by_every_node_that_holds_something_in_it_and_does_not_own_it() {
        let block: BlockCidr = "10.0.0.0/26".parse().unwrap();
        let nobodys: BlockCidr = "10.0.0.64/26".parse().unwrap();
        let held = |ip: &str, block: BlockCidr, node: &str| Held {
            address: Address {
                ip: ip.parse().unwrap(),
                block,
                borrowed: true,
            },
            attribute: Arc::new(AllocationAttribute {
                secondary: Some([("node".to_owned(), node.to_owned())].into()),
                ..AllocationAttribute::default()
            }),
            sequence: None,
        };
        let owners = [(block, Some(Owner::Host("n1".into()))), (nobodys, None)].into();
        let all = [
            held("10.0.0.1", block, "n1"),
            held("10.0.0.2", block, "n2"),
            held("10.0.0.3", block, "n2"),
            held("10.0.0.65", nobodys, "n1"),
        ];
        let expected = [
            ("n1".to_owned(), BTreeSet::from([nobodys])),
            ("n2".to_owned(), BTreeSet::from([block])),
        ];
        assert_eq!(by_node(&all, &owners), expected.into());
    }
}
