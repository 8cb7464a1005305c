//! The record of one block of addresses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{BlockCidr, DecodeError, Owner, Problem};

/// Who holds an address and what is known of it; shared by all addresses of one request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllocationAttribute {
    /// The handle; some allocations of other systems have none.
    #[serde(default)]
    pub handle_id: Option<String>,
    /// What the workload said of itself: `node`, `pod`, `namespace`, `timestamp`, ...
    #[serde(default)]
    pub secondary: Option<BTreeMap<String, String>>,
    /// The workload that takes the address over, during a live migration.
    #[serde(
        default,
        rename = "alternateOwnerAttrs",
        skip_serializing_if = "Option::is_none"
    )]
    pub alternate_owner: Option<BTreeMap<String, String>>,
    /// Set when the address was released and rests before it may be used again (RFC 3339).
    #[serde(
        default,
        rename = "releasedAt",
        skip_serializing_if = "Option::is_none"
    )]
    pub released_at: Option<String>,
    /// Fields of newer versions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl AllocationAttribute {
    /// The handle, without the tail that an old migration left behind a carriage return.
    pub fn handle(&self) -> Option<&str> {
        self.handle_id.as_deref().and_then(|h| h.split('\r').next())
    }

    /// Whether the address is released and only resting.
    pub fn is_resting(&self) -> bool {
        self.released_at.is_some()
    }
}

/// A block: the state of each of its addresses.
///
/// The fields hold what [`Self::decode`] checked: one allocation an address, each pointing into
/// `attributes`; each ordinal either allocated or once in `unallocated`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Which addresses.
    pub cidr: BlockCidr,
    /// `host:<node>`, or `None` for a block that belongs to nobody. See [`Self::owner`].
    pub affinity: Option<String>,
    /// When the affinity was claimed (RFC 3339, seconds).
    pub affinity_claim_time: Option<String>,
    /// By ordinal: the index into `attributes`, `None` when free.
    pub allocations: Vec<Option<u32>>,
    /// Free ordinals; taken from the front, given back at the end.
    pub unallocated: VecDeque<u32>,
    /// What `allocations` points to.
    pub attributes: Vec<Arc<AllocationAttribute>>,
    /// Grows with each write; starts at the creation time in nanoseconds, so that a block deleted
    /// and made again never repeats one.
    pub sequence_number: u64,
    /// By ordinal: the block's sequence number when the address was allocated. Guards releases.
    pub allocation_sequence: BTreeMap<u32, u64>,
    /// Used by another driver of the established system; always false in etcd.
    pub deleted: bool,
    /// Fields of newer versions, kept as they are.
    pub other: Map<String, Value>,
}

/// As `time.Time.String()` of Go writes UTC, the form of the `timestamp` attribute.
pub fn go_timestamp(time: Timestamp) -> String {
    let whole = time.strftime("%Y-%m-%d %H:%M:%S");
    match time.subsec_nanosecond() {
        0 => format!("{whole} +0000 UTC"),
        nanos => {
            let fraction = format!("{nanos:09}");
            format!("{whole}.{} +0000 UTC", fraction.trim_end_matches('0'))
        }
    }
}

/// Reads what [`go_timestamp`] writes, in any zone of numbers, and RFC 3339.
pub fn parse_go_timestamp(text: &str) -> Option<Timestamp> {
    let mut words = text.split_whitespace();
    match (words.next()?, words.next(), words.next()) {
        (date, Some(time), Some(offset)) => format!("{date}T{time}{offset}").parse().ok(),
        (whole, None, None) => whole.parse().ok(),
        _ => None,
    }
}

impl Block {
    /// An empty block of nobody. `now` seeds the sequence number.
    pub fn new(cidr: BlockCidr, now: Timestamp) -> Self {
        Self {
            cidr,
            affinity: None,
            affinity_claim_time: None,
            allocations: vec![None; cidr.size() as usize],
            unallocated: (0..cidr.size()).collect(),
            attributes: Vec::new(),
            sequence_number: u64::try_from(now.as_nanosecond()).unwrap_or(1),
            allocation_sequence: BTreeMap::new(),
            deleted: false,
            other: Map::new(),
        }
    }

    /// Makes `owner` the block's owner as of `now`.
    pub fn claim(&mut self, owner: &Owner, now: Timestamp) {
        self.affinity = Some(owner.to_string());
        self.affinity_claim_time = Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        self.other.remove("hostAffinity");
    }

    /// Who the block is affine to. The deprecated `hostAffinity` counts where `affinity` is missing.
    pub fn owner(&self) -> Option<Owner> {
        match (&self.affinity, self.other.get("hostAffinity")) {
            (Some(text), _) => Owner::parse(text),
            (None, Some(Value::String(node))) => Some(Owner::Host(node.clone())),
            (None, _) => None,
        }
    }

    /// Whether the block is affine to the host `node`.
    pub fn is_of_host(&self, node: &str) -> bool {
        match &self.affinity {
            Some(text) => text.strip_prefix("host:") == Some(node),
            None => self.owner() == Some(Owner::Host(node.to_owned())),
        }
    }

    /// The attribute of the address at `ordinal`; `None` when it is free or outside of the block.
    pub fn attribute(&self, ordinal: u32) -> Option<&Arc<AllocationAttribute>> {
        let index = (*self.allocations.get(ordinal as usize)?)?;
        self.attributes.get(index as usize)
    }

    /// Parses and checks the value found at `key`, which must be the key of `cidr`.
    pub fn decode(key: &str, cidr: BlockCidr, value: &[u8]) -> Result<Self, DecodeError> {
        let record: Record = serde_json::from_slice(value).map_err(|e| Problem::Json(e).at(key))?;
        let found = record.cidr.parse().map_err(|e| Problem::Cidr(e).at(key))?;
        if found != cidr {
            return Err(Problem::WrongKey { found, key: cidr }.at(key));
        }
        Self::checked(cidr, record).map_err(|problem| problem.at(key))
    }

    fn checked(cidr: BlockCidr, record: Record) -> Result<Self, Problem> {
        let allocations = record.allocations.unwrap_or_default();
        let attributes = record.attributes.unwrap_or_default();
        check_allocations(cidr, &allocations, attributes.len())?;
        let unallocated = free_queue(cidr, &allocations, record.unallocated.unwrap_or_default())?;
        let mut allocation_sequence = BTreeMap::new();
        for (text, sequence) in record.sequence_number_for_allocation.unwrap_or_default() {
            match text.parse::<u32>() {
                Ok(ordinal) if ordinal < cidr.size() => {
                    allocation_sequence.insert(ordinal, sequence);
                }
                _ => return Err(Problem::SequenceKey { found: text }),
            }
        }
        if record.deleted {
            return Err(Problem::Deleted);
        }
        Ok(Self {
            cidr,
            affinity: record.affinity,
            affinity_claim_time: record.affinity_claim_time,
            allocations,
            unallocated,
            attributes,
            sequence_number: record.sequence_number,
            allocation_sequence,
            deleted: record.deleted,
            other: record.other,
        })
    }

    /// The stored form, in the established system's order of fields.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.allocations.len() * 8);
        serde_json::to_writer(&mut bytes, self)
            .expect("strings, numbers and maps with string keys are always JSON");
        bytes
    }
}

fn check_allocations(
    cidr: BlockCidr,
    allocations: &[Option<u32>],
    attributes: usize,
) -> Result<(), Problem> {
    let expected = cidr.size() as usize;
    if allocations.len() != expected {
        return Err(Problem::AllocationCount {
            cidr,
            found: allocations.len(),
            expected,
        });
    }
    for (ordinal, index) in allocations.iter().enumerate() {
        match *index {
            Some(index) if index as usize >= attributes => {
                return Err(Problem::AttributeIndex {
                    ordinal,
                    index,
                    attributes,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the free queue. Ordinals that are neither allocated nor queued would be lost for ever:
/// they are free, so they join the end.
fn free_queue(
    cidr: BlockCidr,
    allocations: &[Option<u32>],
    queue: VecDeque<u32>,
) -> Result<VecDeque<u32>, Problem> {
    let mut seen: Vec<bool> = allocations.iter().map(Option::is_some).collect();
    for &ordinal in &queue {
        match (
            seen.get_mut(ordinal as usize),
            allocations.get(ordinal as usize),
        ) {
            (Some(seen), _) if !*seen => *seen = true,
            (Some(_), Some(Some(_))) => return Err(Problem::FreeAndAllocated { ordinal }),
            (Some(_), _) => return Err(Problem::OrdinalTwice { ordinal }),
            (None, _) => {
                let last = cidr.size() - 1;
                return Err(Problem::OrdinalRange { ordinal, last });
            }
        }
    }
    let lost = (0..cidr.size()).filter(|o| !seen[*o as usize]);
    let mut queue = queue;
    queue.extend(lost);
    Ok(queue)
}

/// The stored form as it comes in.
#[derive(Deserialize)]
struct Record {
    cidr: String,
    #[serde(default)]
    affinity: Option<String>,
    #[serde(default)]
    affinity_claim_time: Option<String>,
    #[serde(default)]
    allocations: Option<Vec<Option<u32>>>,
    #[serde(default)]
    unallocated: Option<VecDeque<u32>>,
    #[serde(default)]
    attributes: Option<Vec<Arc<AllocationAttribute>>>,
    #[serde(default, rename = "sequenceNumber")]
    sequence_number: u64,
    #[serde(default, rename = "sequenceNumberForAllocation")]
    sequence_number_for_allocation: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Go sorts map keys as text: "10" comes before "2".
        let sequences: BTreeMap<String, u64> = self
            .allocation_sequence
            .iter()
            .map(|(o, s)| (o.to_string(), *s))
            .collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("cidr", &self.cidr.to_string())?;
        map.serialize_entry("affinity", &self.affinity)?;
        if let Some(time) = &self.affinity_claim_time {
            map.serialize_entry("affinity_claim_time", time)?;
        }
        map.serialize_entry("allocations", &self.allocations)?;
        map.serialize_entry("unallocated", &self.unallocated)?;
        map.serialize_entry("attributes", &self.attributes)?;
        map.serialize_entry("sequenceNumber", &self.sequence_number)?;
        map.serialize_entry("sequenceNumberForAllocation", &sequences)?;
        map.serialize_entry("deleted", &self.deleted)?;
        for (key, value) in &self.other {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30";

    fn decode(json: &str) -> Result<Block, String> {
        let cidr = "10.0.0.0/30".parse().unwrap();
        Block::decode(KEY, cidr, json.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_block_round_trips_with_unknown_fields() {
        let json = r#"{"cidr":"10.0.0.0/30","affinity":"host:n1","affinity_claim_time":"2026-11-21T05:02:52Z","allocations":[0,null,1,null],"unallocated":[3,1],"attributes":[{"handle_id":"h","secondary":{"node":"n1"},"newer":true},{"handle_id":null,"secondary":null,"releasedAt":"2026-11-21T05:02:52Z"}],"sequenceNumber":18446744073709551615,"sequenceNumberForAllocation":{"0":7,"2":8},"deleted":false,"newest":{"a":1}}"#;
        let block = decode(json).unwrap();
        assert_eq!(String::from_utf8(block.to_json()).unwrap(), json);
        assert!(block.is_of_host("n1") && !block.is_of_host("n"));
        assert!(block.attribute(2).unwrap().is_resting());
    }

    #[test]
    fn nulls_missing_fields_and_lost_ordinals_are_understood() {
        let block = decode(
            r#"{"cidr":"10.0.0.0/30","allocations":[null,null,null,null],"unallocated":[2],"attributes":null,"hostAffinity":"n1"}"#,
        )
        .unwrap();
        assert_eq!(block.unallocated, [2, 0, 1, 3]);
        assert!(block.is_of_host("n1"));
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused_with_key_and_reason() {
        let base = r#"{"cidr":"10.0.0.0/30","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"h"}]}"#;
        assert!(decode(base).is_ok());
        for (from, to, reason) in [
            (
                "/30",
                "/29",
                "cidr is 10.0.0.0/29, but the key says 10.0.0.0/30",
            ),
            (
                "[0,null,",
                "[0,",
                "allocations has 3 entries, 10.0.0.0/30 has 4 addresses",
            ),
            (
                "[0,null",
                "[1,null",
                "allocations[0] is 1, but attributes has 1 entries",
            ),
            (
                "[1,2,3]",
                "[1,2,4]",
                "unallocated holds 4, the block's ordinals are 0 to 3",
            ),
            ("[1,2,3]", "[1,2,2]", "unallocated holds 2 twice"),
            (
                "[1,2,3]",
                "[0,1]",
                "ordinal 0 is in unallocated, but allocations[0] is set",
            ),
            ("{\"c", "{\"deleted\":true,\"c", "marked deleted"),
            (
                "{\"c",
                "{\"sequenceNumberForAllocation\":{\"9\":1},\"c",
                "sequenceNumberForAllocation has the key \"9\", which is no ordinal of the block",
            ),
        ] {
            assert_eq!(
                decode(&base.replacen(from, to, 1)),
                Err(format!("{KEY}: {reason}"))
            );
        }
        assert!(
            decode("{")
                .unwrap_err()
                .starts_with(&format!("{KEY}: invalid JSON"))
        );
    }

    #[test]
    fn timestamps_look_like_those_of_go() {
        for (time, text) in [
            (
                "2026-11-21T05:02:52.314675961Z",
                "2026-11-21 05:02:52.314675961 +0000 UTC",
            ),
            ("2026-11-21T05:02:52.5Z", "2026-11-21 05:02:52.5 +0000 UTC"),
            ("2026-11-21T05:02:52Z", "2026-11-21 05:02:52 +0000 UTC"),
        ] {
            assert_eq!(go_timestamp(time.parse().unwrap()), text);
            assert_eq!(parse_go_timestamp(text), Some(time.parse().unwrap()));
            assert_eq!(parse_go_timestamp(time), Some(time.parse().unwrap()));
        }
        let east = parse_go_timestamp("2026-11-21 07:02:52 +0200 CEST m=+0.5");
        assert_eq!(east, "2026-11-21T05:02:52Z".parse().ok());
        for garbage in ["", "yesterday", "2026-11-21 05:02", "a b c d"] {
            assert_eq!(parse_go_timestamp(garbage), None, "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_and_any_small_records_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            allocations in proptest::collection::vec(proptest::option::of(0u32..3), 0..6),
            unallocated in proptest::collection::vec(0u32..6, 0..6),
        ) {
            let cidr = "10.0.0.0/30".parse().unwrap();
            prop_assert!(Block::decode(KEY, cidr, &bytes).is_err());
            let json = serde_json::json!({
                "cidr": "10.0.0.0/30", "allocations": allocations, "unallocated": unallocated,
                "attributes": [{"handle_id": "a"}, {"handle_id": "b"}],
            });
            if let Ok(block) = decode(&json.to_string()) {
                let used = block.allocations.iter().flatten().count();
                prop_assert_eq!(used + block.unallocated.len(), 4);
                prop_assert_eq!(Block::decode(KEY, cidr, &block.to_json()).unwrap(), block);
            }
        }
    }
}
