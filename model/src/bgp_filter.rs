//! The `BGPFilter` resource: what a peer is sent and what is taken from it.

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::kind::Kind;
use crate::meta::{Extra, Resource, Spec};
use crate::net::Cidr;
use crate::string_enum::string_enum;

/// Rules for routes, named by BGPPeers.
pub type BgpFilter = Resource<BgpFilterSpec>;

string_enum! {
    /// How a route's prefix is compared with a rule's.
    pub enum MatchOperator {
        /// The same prefix.
        Equal = "Equal",
        /// Another prefix.
        NotEqual = "NotEqual",
        /// Within it, or the same.
        In = "In",
        /// Not within it.
        NotIn = "NotIn",
    }
}

string_enum! {
    /// What becomes of a route.
    pub enum FilterAction {
        /// It passes.
        Accept = "Accept",
        /// It does not.
        Reject = "Reject",
    }
}

string_enum! {
    /// Where a route is from.
    pub enum RouteSource {
        /// Learned from a peer.
        RemotePeers = "RemotePeers",
    }
}

string_enum! {
    /// The kind of session a route came by.
    pub enum PeerType {
        /// Another AS.
        Ebgp = "eBGP",
        /// The same AS.
        Ibgp = "iBGP",
    }
}

/// Rules by direction and family. The first that matches decides; without a match a route passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterSpec {
    /// For IPv4 routes that are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_v4: Vec<FilterRule>,
    /// For IPv4 routes that are received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import_v4: Vec<FilterRule>,
    /// For IPv6 routes that are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_v6: Vec<FilterRule>,
    /// For IPv6 routes that are received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import_v6: Vec<FilterRule>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One rule: all that it names must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterRule {
    /// The prefix to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Cidr>,
    /// Lengths that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLengthRange>,
    /// Where the route is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RouteSource>,
    /// The interface that it leaves by; `*` stands for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How prefixes are compared; present with `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<MatchOperator>,
    /// The session it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<PeerType>,
    /// A community it carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<CommunityMatch>,
    /// How its AS path begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_path_prefix: Vec<Asn>,
    /// Its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// What becomes of it.
    pub action: FilterAction,
    /// Changes made to it; Accept only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<FilterOperation>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A range of prefix lengths, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrefixLengthRange {
    /// The shortest; 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    /// The longest; 32 or 128 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Communities to look for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommunityMatch {
    /// Exactly one, `AA:NN` or `AA:NN:MM`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One change; exactly one member is present.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterOperation {
    /// Adds a community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,
    /// Prepends to the AS path.
    #[serde(
        rename = "prependASPath",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub prepend_as_path: Option<PrependAsPath>,
    /// Sets the priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Adds a community.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddCommunity {
    /// `AA:NN` or `AA:NN:MM`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Prepends to the AS path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrependAsPath {
    /// What to prepend, the first becoming the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix: Vec<Asn>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Sets the priority.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetPriority {
    /// The new priority.
    pub value: u32,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Spec for BgpFilterSpec {
    const KIND: Kind = Kind::BgpFilter;
}
