//! Keys of ours beside the established ones, all below `ROOT/margay/v1/`.

use std::collections::BTreeSet;

use margay_model::ipam::BlockCidr;

/// The parent of all.
fn base(root: &str) -> String {
    format!("{root}/margay/v1")
}

/// Tells which instance of a node's agent is the newest.
pub fn instance(root: &str, node: &str) -> String {
    format!("{}/instances/{node}", base(root))
}

/// Below it a key for each agent that lives, as long as it does.
pub fn alive(root: &str) -> String {
    format!("{}/agents/", base(root))
}

/// Held by the agent that clears up after nodes that are gone.
pub fn collector(root: &str) -> String {
    format!("{}/collector", base(root))
}

/// Below it a key for each node that holds addresses in blocks of others: which blocks. A hint that the
/// collector keeps, so that the node's own agent need not read every block to find what it lost there.
pub fn borrowed(root: &str) -> String {
    format!("{}/borrowed/", base(root))
}

/// The value of a key below [`borrowed`].
pub fn borrowed_value(blocks: &BTreeSet<BlockCidr>) -> String {
    let blocks: Vec<String> = blocks.iter().map(BlockCidr::to_string).collect();
    blocks.join(" ")
}

/// Reads a value below [`borrowed`]; what is no block is left out.
pub fn borrowed_blocks(value: &[u8]) -> BTreeSet<BlockCidr> {
    let text = String::from_utf8_lossy(value);
    let blocks = text.split_whitespace();
    blocks.filter_map(|block| block.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrowed_blocks_are_read_as_they_were_written_and_nonsense_is_left_out() {
        let blocks: BTreeSet<BlockCidr> = ["10.0.0.0/26", "fd00::/122"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(borrowed_blocks(borrowed_value(&blocks).as_bytes()), blocks);
        assert_eq!(borrowed_blocks(b"10.0.0.0/26 x \xff fd00::/122"), blocks);
        assert!(borrowed_blocks(b"").is_empty());
    }
}
