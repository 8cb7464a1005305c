//! A BGP speaker: sockets, timers and a thread around [`margay_bgp`].
//!
//! [`Speaker::spawn`] starts it from a [`SpeakerConfig`] and gives a handle and a [`FibReceiver`].
//! [`Speaker::configure`] replaces the whole desired state, [`Speaker::originate`] announces and
//! withdraws local routes, [`Speaker::status`] and [`Speaker::routes`] tell what is going on.
//!
//! ```no_run
//! use margay_speaker::{FilterConfig, LocalAction, LocalRouteChange, PeerConfig, Speaker, SpeakerConfig};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = SpeakerConfig::new(65001, [192, 0, 2, 1].into());
//! config.listen.insert("0.0.0.0:179".parse()?);
//! let tor = PeerConfig {
//!     import: FilterConfig::accept_within(["10.65.0.0/16".parse()?]),
//!     export: FilterConfig::accept_all(),
//!     ..PeerConfig::new(65000)
//! };
//! config.peers.insert("192.0.2.2".parse()?, tor);
//! let (speaker, mut fib) = Speaker::spawn(config)?;
//! let action = LocalAction::Announce(Default::default());
//! speaker.originate(vec![LocalRouteChange { prefix: "10.65.1.2/32".parse()?, action }]).await?;
//! while let Some(batch) = fib.recv().await {
//!     for change in batch.changes { /* to the kernel */ }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It never touches the kernel's routing table and never writes secrets to logs.

mod bfd;
pub mod bmp;
pub mod carry;
mod config;
mod daemon;
#[doc(hidden)]
pub mod decoders;
mod driver;
mod filter_config;
mod handle;
mod handover;
mod local_addrs;
pub mod mrt;
mod near;
mod peer_groups;
mod peer_key;
mod remote_as;
mod router_adv;
mod secret;
mod socket;
mod view;
mod watch;

pub use config::{
    AddPathConfig, BfdConfig, ConfigError, ConnectionLimit, DynamicPeers, GracefulRestartConfig,
    LongLivedConfig, MaxPrefixesAction, MultipathConfig, PeerConfig, SpeakerConfig, Ttl,
};
pub use daemon::{DaemonConfig, KernelConfig, MrtConfig, Network};
pub use filter_config::{Action, FilterConfig, FilterRule, Operation, Operator, RouteOrigin};
pub use handle::{
    FibBatch, FibReceiver, LocalAction, LocalAttrs, LocalRouteChange, Queries, Shutdown, Speaker,
    SpeakerError,
};
pub use handover::{Handover, TookOver};
pub use margay_bgp::policy::Community;
pub use margay_bgp::rib::{FibChange, FibNextHop, PathLimit, Reachability};
pub use peer_groups::FileError;
pub use peer_key::{BGP_PORT, Interface, ParsePeerKeyError, PeerKey};
pub use remote_as::RemoteAs;
pub use secret::{Secret, SecretError};
pub use view::{
    EventState, FamilyStatus, PathState, PeerEvent, PeerStatus, RouteCursor, RoutePage, RouteQuery,
    RouteSource, RouteView, SessionStatus, State, Totals,
};
pub use watch::{Held, HeldCursor, Watch, WatchEvent, WatchedPeer};
