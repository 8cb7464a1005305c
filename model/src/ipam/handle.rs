//! All addresses of one workload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BlockCidr, DecodeError, Problem};

/// The value of `/ipam/v2/handle/<id>`: how many addresses of which blocks the handle holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Handle {
    /// Addresses a block; never 0.
    pub blocks: BTreeMap<BlockCidr, u32>,
    /// Used by another driver of the established system; always false in etcd.
    pub deleted: bool,
    /// Fields of newer versions, kept as they are.
    pub other: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    block: Option<BTreeMap<String, u32>>,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Handle {
    /// Counts `n` more addresses of `block`.
    pub fn add(&mut self, block: BlockCidr, n: u32) {
        let count = self.blocks.entry(block).or_default();
        *count = count.saturating_add(n);
    }

    /// Counts `n` fewer addresses of `block`; the block goes when none is left.
    pub fn remove(&mut self, block: BlockCidr, n: u32) {
        if let Some(count) = self.blocks.get_mut(&block) {
            *count = count.saturating_sub(n);
            if *count == 0 {
                self.blocks.remove(&block);
            }
        }
    }

    /// Parses the value found at `key`.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, DecodeError> {
        let record: Record = serde_json::from_slice(value).map_err(|e| Problem::Json(e).at(key))?;
        let mut blocks = BTreeMap::new();
        for (cidr, count) in record.block.unwrap_or_default() {
            let cidr = cidr.parse().map_err(|e| Problem::Cidr(e).at(key))?;
            if count > 0 {
                blocks.insert(cidr, count);
            }
        }
        Ok(Self {
            blocks,
            deleted: record.deleted,
            other: record.other,
        })
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        let block = self.blocks.iter().map(|(c, n)| (c.to_string(), *n));
        let record = Record {
            block: Some(block.collect()),
            deleted: self.deleted,
            other: self.other.clone(),
        };
        serde_json::to_vec(&record).expect("strings and numbers are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_byte_for_byte() {
        let json = br#"{"block":{"10.65.40.128/26":1,"fd00::/122":2},"deleted":false,"new":[1]}"#;
        let handle = Handle::decode("k", json).unwrap();
        assert_eq!(handle.blocks.values().sum::<u32>(), 3);
        assert_eq!(handle.to_json(), json);
    }

    #[test]
    fn counts_end_at_zero() {
        let cidr = "10.0.0.0/26".parse().unwrap();
        let mut handle = Handle::default();
        handle.add(cidr, 2);
        handle.remove(cidr, 1);
        assert_eq!(handle.blocks[&cidr], 1);
        handle.remove(cidr, 5);
        assert!(handle.blocks.is_empty());
    }

    #[test]
    fn garbage_names_the_key() {
        let e = Handle::decode("/calico/h", br#"{"block":{"10.0.0.0/2":1}}"#).unwrap_err();
        assert_eq!(
            e.to_string(),
            "/calico/h: cidr: prefix length 2 of an IPv4 block must be 20 to 32"
        );
        assert!(
            Handle::decode("k", br#"{"block":null}"#)
                .unwrap()
                .blocks
                .is_empty()
        );
    }
}
