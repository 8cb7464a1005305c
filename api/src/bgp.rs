//! What the BGP speaker of a node knows, as `margayctl bgp` shows it.

use serde::{Deserialize, Serialize};

/// A question to the speaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BgpRequest {
    /// All peers; answered by one line, a list of [`Peer`]s.
    Peers {},
    /// The selected routes; answered by lines of [`Route`]s, an empty one last.
    Best {},
    /// What a peer sent, before import; answered as [`Best`](Self::Best).
    Received {
        /// Its address, or its name.
        peer: String,
    },
    /// What a peer is told; answered as [`Best`](Self::Best).
    Advertised {
        /// Its address, or its name.
        peer: String,
    },
    /// All paths of a prefix, the best first, with what became of each; for an address, of the
    /// most specific prefix that it is in. Answered by one line of [`Route`]s.
    Lookup {
        /// Prefix or address.
        target: String,
    },
    /// The whole table as MRT records (RFC 6396); answered by lines of base64, an empty one last.
    Dump {},
    /// To send all its routes again (RFC 2918) is what a peer is asked; answered by one line, its address. The
    /// socket of the host alone takes it.
    Refresh {
        /// Its address, or its name.
        peer: String,
    },
    /// The last changes of state; answered by one line, a list of [`Event`]s, oldest first.
    Events {},
}

/// A peer and its session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address, with the port if that is not 179.
    pub address: String,
    /// `mesh NODE`, or the name of the BGPPeer.
    pub name: String,
    /// Its AS.
    pub remote_as: u32,
    /// Our AS towards it.
    pub local_as: u32,
    /// Idle, Connect, Active, OpenSent, OpenConfirm or Established.
    pub state: String,
    /// Seconds since the session was last established or lost.
    pub since_secs: u64,
    /// How often it has been established.
    pub established_count: u64,
    /// Why the last connection ended; empty if none did.
    pub last_error: String,
    /// What was agreed on, while established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Routes by family.
    pub families: Vec<FamilyCount>,
    /// Whether BFD finds the path to work; absent where it does not watch it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_up: Option<bool>,
    /// UPDATEs received since the agent started.
    pub updates_received: u64,
    /// UPDATE octets sent since the agent started.
    pub octets_sent: u64,
}

/// An established session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The peer's BGP identifier.
    pub peer_id: String,
    /// Our address.
    pub local_address: String,
    /// Negotiated hold time in seconds; 0 for none.
    pub hold_secs: u64,
    /// Interval of KEEPALIVEs in seconds; 0 for none.
    pub keepalive_secs: u64,
    /// Names of the capabilities in use.
    pub capabilities: Vec<String>,
}

/// Routes of a peer in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyCount {
    /// `ipv4-unicast` or `ipv6-unicast`.
    pub family: String,
    /// Received, those that import refused included.
    pub received: u64,
    /// Told to the peer.
    pub advertised: u64,
    /// The peer has said that it sent all.
    pub end_of_rib: bool,
}

/// A route, or one path of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub prefix: String,
    /// `local`, or the address of the peer that it came from; empty if that is not asked.
    pub source: String,
    /// Identifier of the path, where the session has them (RFC 7911).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// Next hops; none for what this node originates.
    pub next_hops: Vec<String>,
    /// AS_PATH as text, nearest first, sets in braces.
    pub as_path: String,
    /// IGP, EGP or incomplete.
    pub origin: String,
    /// LOCAL_PREF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Communities, `aa:nn` or the name of a well-known one.
    pub communities: Vec<String>,
    /// Large communities, `aa:nn:mm`.
    pub large_communities: Vec<String>,
    /// Extended communities, 16 hexadecimal digits each.
    pub ext_communities: Vec<String>,
    /// ORIGINATOR_ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originator_id: Option<String>,
    /// CLUSTER_LIST, nearest first.
    pub cluster_list: Vec<String>,
    /// What became of it: `best`, or why not. Of look-ups and selected routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The step of the decision process at which the path lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<String>,
    /// Its value at that step, and the value that was preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<(String, String)>,
    /// Not the best path, but traffic goes its way as well (ECMP).
    pub multipath: bool,
    /// Kept from a lost session (graceful restart).
    pub stale: bool,
}

/// A change of the state of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The peer's address.
    pub peer: String,
    /// When it happened last, seconds since 1970.
    pub unix_secs: u64,
    /// When it happened first, if it is repeated.
    pub first_unix_secs: u64,
    /// How often.
    pub count: u64,
    /// State before.
    pub from: String,
    /// State after.
    pub to: String,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;

    #[test]
    fn a_request_line_reads_as_documented() {
        let request = Request::Bgp(BgpRequest::Received {
            peer: "192.0.2.1".into(),
        });
        let line = serde_json::to_string(&request).unwrap();
        assert_eq!(line, r#"{"bgp":{"received":{"peer":"192.0.2.1"}}}"#);
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }
}
