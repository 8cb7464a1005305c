//! The wire format of BGP-4: framing, messages, path attributes.
//!
//! [`frame`](header::frame) cuts messages out of a receive buffer; each message type then has a
//! `decode` and an `encode` in its module. UPDATE is decoded in two steps, so that a receiver can
//! intern the attributes of a message by their raw octets: [`update::UpdateFrame::split`] first,
//! [`attrs::PathAttrs::decode`] only for attribute octets not seen before.
//!
//! Decoders return data or an error that knows its NOTIFICATION; they never log and never panic.

pub mod as_path;
pub mod attrs;
pub mod capability;
pub mod cursor;
pub mod error;
pub mod ext_community;
pub mod header;
pub mod next_hop;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod refresh;
pub mod update;
pub mod update_encode;

pub use as_path::{AsPath, Segment, SegmentKind};
pub use attrs::{Aggregator, AttrContext, Decoded, Origin, PathAttrs, PeerKind, RawAttr};
pub use capability::Capabilities;
pub use error::{AttrError, Verdict, WireError};
pub use ext_community::{ExtCommunity, ParseExtCommunityError};
pub use header::{MAX_EXTENDED_LEN, MAX_LEN, MessageType, RawMessage};
pub use next_hop::NextHop;
pub use nlri::{Nlri, NlriIter, NlriPrefix};
pub use notification::{Kind, Notification};
pub use open::Open;
pub use refresh::{RefreshKind, RouteRefresh};
pub use update::UpdateFrame;
