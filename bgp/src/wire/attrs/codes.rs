//! Numbers of attributes: type codes, flags, well-known communities.

/// Attribute type codes.
pub mod code {
    /// ORIGIN.
    pub const ORIGIN: u8 = 1;
    /// AS_PATH.
    pub const AS_PATH: u8 = 2;
    /// NEXT_HOP.
    pub const NEXT_HOP: u8 = 3;
    /// MULTI_EXIT_DISC.
    pub const MED: u8 = 4;
    /// LOCAL_PREF.
    pub const LOCAL_PREF: u8 = 5;
    /// ATOMIC_AGGREGATE.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// AGGREGATOR.
    pub const AGGREGATOR: u8 = 7;
    /// COMMUNITIES (RFC 1997).
    pub const COMMUNITIES: u8 = 8;
    /// ORIGINATOR_ID (RFC 4456).
    pub const ORIGINATOR_ID: u8 = 9;
    /// CLUSTER_LIST (RFC 4456).
    pub const CLUSTER_LIST: u8 = 10;
    /// MP_REACH_NLRI (RFC 4760).
    pub const MP_REACH: u8 = 14;
    /// MP_UNREACH_NLRI (RFC 4760).
    pub const MP_UNREACH: u8 = 15;
    /// EXTENDED COMMUNITIES (RFC 4360).
    pub const EXT_COMMUNITIES: u8 = 16;
    /// AS4_PATH (RFC 6793).
    pub const AS4_PATH: u8 = 17;
    /// AS4_AGGREGATOR (RFC 6793).
    pub const AS4_AGGREGATOR: u8 = 18;
    /// IPv6 address specific extended communities (RFC 5701).
    pub const IPV6_EXT_COMMUNITIES: u8 = 25;
    /// AIGP (RFC 7311).
    pub const AIGP: u8 = 26;
    /// LARGE COMMUNITIES (RFC 8092).
    pub const LARGE_COMMUNITIES: u8 = 32;
    /// Only To Customer (RFC 9234).
    pub const OTC: u8 = 35;
    /// BGP Prefix-SID (RFC 8669).
    pub const PREFIX_SID: u8 = 40;
}

/// Attribute flag bits.
pub mod flags {
    /// Not well-known.
    pub const OPTIONAL: u8 = 0x80;
    /// Passed on by those who do not know it.
    pub const TRANSITIVE: u8 = 0x40;
    /// Someone on the way did not know it.
    pub const PARTIAL: u8 = 0x20;
    /// The length has two octets.
    pub const EXTENDED: u8 = 0x10;
}

/// Well-known communities (RFC 1997, 7999, 8326, 9494).
pub mod community {
    /// Planned maintenance: prefer other routes (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    /// Stale under long-lived graceful restart (RFC 9494).
    pub const LLGR_STALE: u32 = 0xffff_0006;
    /// Not to be kept under long-lived graceful restart (RFC 9494).
    pub const NO_LLGR: u32 = 0xffff_0007;
    /// Discard the traffic (RFC 7999).
    pub const BLACKHOLE: u32 = 0xffff_029a;
    /// Not outside the confederation.
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    /// To no peer.
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    /// To no external peer, confederation members included.
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;

    /// As people write it: the name of a well-known one, else `aa:nn`.
    pub fn text(community: u32) -> String {
        let name = match community {
            GRACEFUL_SHUTDOWN => "graceful-shutdown",
            LLGR_STALE => "llgr-stale",
            NO_LLGR => "no-llgr",
            BLACKHOLE => "blackhole",
            NO_EXPORT => "no-export",
            NO_ADVERTISE => "no-advertise",
            NO_EXPORT_SUBCONFED => "no-export-subconfed",
            _ => return format!("{}:{}", community >> 16, community & 0xffff),
        };
        name.to_owned()
    }
}
