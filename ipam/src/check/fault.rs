//! What can be wrong.

use std::net::IpAddr;

use margay_model::ipam::{BlockCidr, Owner};
use margay_model::kind::ResourceKey;
use margay_model::store::Revision;

/// Whether something must be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Addresses are lost, doubled, or will be.
    Problem,
    /// Worth knowing.
    Note,
}

/// Something that is wrong, with what identifies it: the same fault in two snapshots was there all the
/// time between them. In the order in which to repair: what frees addresses comes before what
/// becomes superfluous by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the fields are what the faults' sentences name"
)]
pub enum Fault {
    /// A resource cannot be read.
    DamagedResource { key: ResourceKey },
    /// A pool that is not used because of another pool, or of its block size.
    UnusedPool { reason: String },
    /// A key that names nothing, or a damaged configuration.
    StrangeRecord { key: String, revision: Revision },
    /// A block cannot be read.
    CorruptBlock {
        block: BlockCidr,
        revision: Revision,
    },
    /// Two blocks share addresses; `block` lies in `with`.
    OverlappingBlocks { block: BlockCidr, with: BlockCidr },
    /// Two endpoints or nodes name one address.
    UsedTwice { ip: IpAddr, users: Vec<String> },
    /// Someone else than its user holds an address.
    HeldByAnother {
        ip: IpAddr,
        sequence: u64,
        user: String,
    },
    /// Nobody holds an address that is used.
    UsedUnrecorded {
        ip: IpAddr,
        user: String,
        revision: Revision,
    },
    /// Nothing uses an address that is held.
    Leaked {
        ip: IpAddr,
        handle: Option<String>,
        sequence: u64,
    },
    /// A handle cannot be read.
    CorruptHandle { handle: String, revision: Revision },
    /// A handle counts other addresses than the blocks say.
    HandleCount { handle: String, revision: Revision },
    /// A handle stands for no address.
    HandleUnused { handle: String, revision: Revision },
    /// An affinity cannot be read.
    CorruptAffinity {
        owner: Owner,
        block: BlockCidr,
        revision: Revision,
    },
    /// An affinity to a block that does not exist.
    AffinityWithoutBlock {
        owner: Owner,
        block: BlockCidr,
        revision: Revision,
    },
    /// An affinity to a block of somebody else.
    AffinityOfAnother {
        owner: Owner,
        block: BlockCidr,
        revision: Revision,
    },
    /// A block's affinity is pending, or about to be deleted.
    AffinityUnfinished {
        owner: Owner,
        block: BlockCidr,
        revision: Revision,
    },
    /// A block has an owner but no affinity.
    AffinityMissing { owner: Owner, block: BlockCidr },
    /// A block outside of every pool.
    OutsidePools { block: BlockCidr },
    /// A block of another size than its pool's.
    WrongSize { block: BlockCidr },
    /// A block of a node that does not exist.
    NodeGone { block: BlockCidr, node: String },
    /// An empty block of nobody.
    EmptyOrphan { block: BlockCidr },
    /// Addresses that rested long enough and are still out of use.
    Rested { block: BlockCidr },
    /// An address that nothing uses, but only for a moment.
    Young { ip: IpAddr, sequence: u64 },
    /// A reserved address is in use.
    ReservedInUse { ip: IpAddr },
}

impl Fault {
    /// The fault's name in reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DamagedResource { .. } => "damaged_resource",
            Self::UnusedPool { .. } => "unused_pool",
            Self::StrangeRecord { .. } => "strange_record",
            Self::CorruptBlock { .. } => "corrupt_block",
            Self::OverlappingBlocks { .. } => "overlapping_blocks",
            Self::UsedTwice { .. } => "used_twice",
            Self::HeldByAnother { .. } => "held_by_another",
            Self::UsedUnrecorded { .. } => "used_unrecorded",
            Self::Leaked { .. } => "leaked",
            Self::CorruptHandle { .. } => "corrupt_handle",
            Self::HandleCount { .. } => "handle_count",
            Self::HandleUnused { .. } => "handle_unused",
            Self::CorruptAffinity { .. } => "corrupt_affinity",
            Self::AffinityWithoutBlock { .. } => "affinity_without_block",
            Self::AffinityOfAnother { .. } => "affinity_of_another",
            Self::AffinityUnfinished { .. } => "affinity_unfinished",
            Self::AffinityMissing { .. } => "affinity_missing",
            Self::OutsidePools { .. } => "outside_pools",
            Self::WrongSize { .. } => "wrong_size",
            Self::NodeGone { .. } => "node_gone",
            Self::EmptyOrphan { .. } => "empty_orphan",
            Self::Rested { .. } => "rested",
            Self::Young { .. } => "young",
            Self::ReservedInUse { .. } => "reserved_in_use",
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::EmptyOrphan { .. }
            | Self::Rested { .. }
            | Self::Young { .. }
            | Self::ReservedInUse { .. } => Severity::Note,
            _ => Severity::Problem,
        }
    }

    /// The address that it is about, if it is about one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::UsedTwice { ip, .. }
            | Self::HeldByAnother { ip, .. }
            | Self::UsedUnrecorded { ip, .. }
            | Self::Leaked { ip, .. }
            | Self::Young { ip, .. }
            | Self::ReservedInUse { ip } => Some(*ip),
            _ => None,
        }
    }

    /// The block that it is about, if it is about one.
    pub fn block(&self) -> Option<BlockCidr> {
        match self {
            Self::CorruptBlock { block, .. }
            | Self::OverlappingBlocks { block, .. }
            | Self::CorruptAffinity { block, .. }
            | Self::AffinityWithoutBlock { block, .. }
            | Self::AffinityOfAnother { block, .. }
            | Self::AffinityUnfinished { block, .. }
            | Self::AffinityMissing { block, .. }
            | Self::OutsidePools { block }
            | Self::WrongSize { block }
            | Self::NodeGone { block, .. }
            | Self::EmptyOrphan { block }
            | Self::Rested { block } => Some(*block),
            _ => None,
        }
    }

    /// Why it matters, in words that follow a semicolon.
    pub fn why(&self) -> &'static str {
        match self {
            Self::DamagedResource { .. } => "which addresses it names is unknown",
            Self::UnusedPool { .. } => "nobody gets addresses from it",
            Self::StrangeRecord { .. } => "nobody reads it",
            Self::CorruptBlock { .. } => "its addresses can be neither assigned nor released",
            Self::OverlappingBlocks { .. } => "an address may be assigned out of both",
            Self::UsedTwice { .. } => "traffic reaches only one of them",
            Self::HeldByAnother { .. } => {
                "when the holder goes, the address is free while it is still used"
            }
            Self::UsedUnrecorded { .. } => "it may be assigned a second time",
            Self::Leaked { .. } => "nobody can have it",
            Self::CorruptHandle { .. } => "its workload cannot be released by it",
            Self::HandleCount { .. } => "a release by this handle may miss addresses",
            Self::HandleUnused { .. } => "it is a left-over",
            Self::CorruptAffinity { .. } => "its node may neither route nor use the block",
            Self::AffinityWithoutBlock { .. } | Self::AffinityOfAnother { .. } => {
                "the node may announce a route to addresses that are not its own"
            }
            Self::AffinityUnfinished { .. } | Self::AffinityMissing { .. } => {
                "its node does not announce the block's route"
            }
            Self::OutsidePools { .. } => "no policy of any pool applies to its addresses",
            Self::WrongSize { .. } => "a second block may be claimed over the same addresses",
            Self::NodeGone { .. } => "its free addresses can only be borrowed",
            Self::EmptyOrphan { .. } => "it is in the way of nobody",
            Self::Rested { .. } => "the next change of the block frees them anyway",
            Self::Young { .. } => "its endpoint may be on its way",
            Self::ReservedInUse { .. } => "it was assigned before it was reserved",
        }
    }
}

/// A fault in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The fault.
    pub fault: Fault,
    /// What was found.
    pub what: String,
    /// What repair would do, or why it does nothing: a sentence that begins with "repair".
    pub repair: String,
}

impl Finding {
    /// The finding as one line.
    pub fn line(&self) -> String {
        let text = format!("{}; {}; {}", self.what, self.fault.why(), self.repair);
        text.replace(['\n', '\r'], " ")
    }
}
